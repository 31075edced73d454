//! What a Dockerfile says: stages of typed instructions, their words as written.

use std::ops::Range;

/// Bytes of the source text, half open. Offsets are below 2^32: a longer Dockerfile is refused.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Span {
    /// The first byte.
    pub start: u32,
    /// The byte after the last.
    pub end: u32,
}

/// A piece of an instruction as written: quotes, escapes and variables are still in it, continuations are joined.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Word {
    /// The text, unexpanded.
    pub text: String,
    /// Where it stands.
    pub span: Span,
}

/// A whole Dockerfile.
#[derive(Clone, PartialEq, Debug)]
pub struct Dockerfile {
    /// The parser directives at its top.
    pub directives: Directives,
    /// `ARG` before the first `FROM`.
    pub global_args: Vec<Statement>,
    /// In order; never empty.
    pub stages: Vec<Stage>,
}

/// The parser directives (`# key=value` before anything else).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Directives {
    /// `# syntax=`: a frontend image; strata's own frontend reads the file all the same.
    pub syntax: Option<Word>,
    /// `# escape=`: backslash or backtick.
    pub escape: char,
    /// `# check=`: text after the equals sign.
    pub check: Option<Word>,
}

/// One `FROM` and what follows it.
#[derive(Clone, PartialEq, Debug)]
pub struct Stage {
    /// Its place among the stages, from 0.
    pub index: usize,
    /// `AS NAME`, lower-cased.
    pub name: Option<String>,
    /// `AS NAME` as written.
    pub name_word: Option<Word>,
    /// The image, stage or named context.
    pub base: Word,
    /// `--platform`.
    pub platform: Option<Word>,
    /// The `FROM` statement itself.
    pub from: FromStatement,
    /// The instructions, in order.
    pub instructions: Vec<Statement>,
}

/// The `FROM` line of a stage.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FromStatement {
    /// The whole statement.
    pub span: Span,
    /// First and last line, from 1, end exclusive.
    pub lines: Range<u32>,
    /// `FROM` as written.
    pub keyword: Word,
    /// `AS` as written.
    pub as_keyword: Option<Word>,
    /// The comment lines directly above, without `#` and one blank, joined by newlines; empty if none.
    pub comment: String,
}

/// One instruction with where it stands.
#[derive(Clone, PartialEq, Debug)]
pub struct Statement {
    /// The whole statement, here-documents included.
    pub span: Span,
    /// First and last line, from 1, end exclusive.
    pub lines: Range<u32>,
    /// The name as written.
    pub keyword: Word,
    /// The logical line as written: keyword, flags and words with continuations joined, here-documents left out.
    pub original: String,
    /// The comment lines directly above, without `#` and one blank, joined by newlines; empty if none.
    pub comment: String,
    /// What it says.
    pub instruction: Instruction,
}

/// An instruction other than `FROM`.
#[derive(Clone, PartialEq, Debug)]
pub enum Instruction {
    /// `ADD`
    Add(Transfer),
    /// `ARG NAME[=DEFAULT]…`
    Arg(Vec<ArgDef>),
    /// `CMD`
    Cmd(CommandLine),
    /// `COPY`
    Copy(Transfer),
    /// `ENTRYPOINT`
    Entrypoint(CommandLine),
    /// `ENV`
    Env(KeyValues),
    /// `EXPOSE`
    Expose(Vec<Word>),
    /// `HEALTHCHECK`
    Healthcheck(Healthcheck),
    /// `LABEL`
    Label(KeyValues),
    /// `MAINTAINER`, the rest of the line
    Maintainer(Word),
    /// `ONBUILD`: the trigger's text, checked to be an instruction that may be one. Here-documents are part of the text.
    Onbuild(Word),
    /// `RUN`
    Run(Run),
    /// `SHELL ["…", …]`
    Shell(Vec<String>),
    /// `STOPSIGNAL`
    Stopsignal(Word),
    /// `USER`
    User(Word),
    /// `VOLUME`
    Volume(Vec<Word>),
    /// `WORKDIR`
    Workdir(Word),
}

/// One argument of `ARG`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ArgDef {
    /// Its name.
    pub name: Word,
    /// What follows the equals sign, if there is one.
    pub default: Option<Word>,
}

/// The pairs of `ENV` or `LABEL`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct KeyValues {
    /// In order.
    pub pairs: Vec<(Word, Word)>,
    /// Whether it is `NAME VALUE…` without an equals sign.
    pub legacy: bool,
}

/// A command in shell or exec form.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum CommandLine {
    /// The text after the flags, for a shell; never expanded by the builder.
    Shell(Word),
    /// A JSON array.
    Exec(Vec<String>),
}

/// `HEALTHCHECK`.
#[derive(Clone, PartialEq, Debug)]
pub enum Healthcheck {
    /// `HEALTHCHECK NONE`
    None,
    /// `HEALTHCHECK [FLAGS] CMD …`; durations in nanoseconds, 0 where not given.
    Check {
        /// The command.
        command: CommandLine,
        /// `--interval`, ns
        interval_ns: i64,
        /// `--timeout`, ns
        timeout_ns: i64,
        /// `--start-period`, ns
        start_period_ns: i64,
        /// `--start-interval`, ns
        start_interval_ns: i64,
        /// `--retries`
        retries: i64,
    },
}

/// A here-document.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Heredoc {
    /// The delimiter, without quotes: the name of the file that COPY makes.
    pub name: String,
    /// The word that opens it, as written (`<<EOF`, `3<<-"EOF"`).
    pub word: Word,
    /// The file descriptor before `<<`; 0 if none.
    pub fd: u32,
    /// Whether variables are expanded: the delimiter has no quotes.
    pub expand: bool,
    /// Whether leading tabs were stripped (`<<-`).
    pub strip_tabs: bool,
    /// The body as written, tabs not yet stripped, with its last newline.
    pub raw: String,
    /// The body, tabs stripped where asked.
    pub content: String,
    /// Where the body stands.
    pub span: Span,
}

/// `ADD` or `COPY`. Flags that the instruction does not have are empty: the parser refuses them.
#[derive(Clone, PartialEq, Debug)]
pub struct Transfer {
    /// Paths (and, for ADD, URLs); without the destination. Words that open a here-document are not among them.
    pub sources: Vec<Word>,
    /// Here-documents as sources, after the sources in order.
    pub heredocs: Vec<Heredoc>,
    /// Where to.
    pub destination: Word,
    /// `--from` (COPY): stage, index, image or named context; never expanded.
    pub from: Option<Word>,
    /// `--chown`
    pub chown: Option<Word>,
    /// `--chmod`
    pub chmod: Option<Word>,
    /// `--link`
    pub link: bool,
    /// `--parents` (COPY)
    pub parents: bool,
    /// `--exclude`, never expanded
    pub excludes: Vec<Word>,
    /// `--checksum` (ADD)
    pub checksum: Option<Word>,
    /// `--keep-git-dir` (ADD)
    pub keep_git_dir: Option<bool>,
    /// `--unpack` (ADD)
    pub unpack: Option<bool>,
}

/// `RUN`.
#[derive(Clone, PartialEq, Debug)]
pub struct Run {
    /// The command, without flags. In shell form the text holds the here-documents' opening words, not their bodies.
    pub command: CommandLine,
    /// Here-documents, in order.
    pub heredocs: Vec<Heredoc>,
    /// `--mount`, in order.
    pub mounts: Vec<Mount>,
    /// `--network`
    pub network: Option<Network>,
    /// `--security`
    pub security: Security,
}

/// `RUN --network`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, serde::Serialize)]
pub enum Network {
    /// What the build uses.
    Default,
    /// Loopback only.
    None,
    /// The host's.
    Host,
}

/// `RUN --security`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, Default, serde::Serialize)]
pub enum Security {
    /// docker's default capabilities and seccomp profile.
    #[default]
    Sandbox,
    /// All capabilities, no seccomp; needs `--allow security.insecure`.
    Insecure,
}

/// `RUN --mount`. Which options a type takes is checked by the parser; values are expanded by the planner.
#[derive(Clone, PartialEq, Debug)]
pub struct Mount {
    /// The flag's value as written.
    pub word: Word,
    /// `type=`; bind if not given.
    pub kind: MountKind,
    /// `target=`, `dst=` or `destination=`
    pub target: Option<Word>,
    /// `source=` or `src=` (for secrets an alias of `id=`)
    pub source: Option<Word>,
    /// `from=`, never expanded
    pub from: Option<Word>,
    /// `id=`
    pub id: Option<Word>,
    /// `ro`, `readonly`, `rw`, `readwrite`, with what each type has by default filled in.
    pub read_only: bool,
    /// `sharing=`
    pub sharing: Sharing,
    /// `mode=`, octal, as given
    pub mode: Option<Word>,
    /// `uid=`
    pub uid: Option<Word>,
    /// `gid=`
    pub gid: Option<Word>,
    /// `size=` (tmpfs)
    pub size: Option<Word>,
    /// `required` (secret, ssh)
    pub required: bool,
    /// `env=` (secret)
    pub env: Option<Word>,
}

/// `RUN --mount=type=`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, serde::Serialize)]
pub enum MountKind {
    /// Files of the context, a stage or an image.
    Bind,
    /// A folder that lives from build to build.
    Cache,
    /// A folder in memory.
    Tmpfs,
    /// A secret as a file or a variable.
    Secret,
    /// An agent's socket.
    Ssh,
}

/// `sharing=` of a cache mount.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, Default, serde::Serialize)]
pub enum Sharing {
    /// Many at once.
    #[default]
    Shared,
    /// A second one gets a folder of its own.
    Private,
    /// A second one waits.
    Locked,
}
