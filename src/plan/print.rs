//! A graph as text: what tests compare and people read.

use std::fmt;

use super::graph::{
    CopySource, Graph, Op, Origin, RunMount, SecretMount, SshMount, TmpfsMount, VertexId,
};

impl fmt::Display for VertexId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "#{}", self.0)
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Context => f.write_str("context"),
            Origin::Named(name) => write!(f, "context {name}"),
            Origin::Vertex(Some(id)) => write!(f, "{id}"),
            Origin::Vertex(None) => f.write_str("nothing"),
        }
    }
}

impl fmt::Display for CopySource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CopySource::Path(path) => write!(f, "{path:?}"),
            CopySource::Inline { name, content } => write!(f, "<<{name} {content:?}"),
            CopySource::Http { url, checksum } => {
                write!(f, "http {url}")?;
                checksum.iter().try_for_each(|sum| write!(f, " {sum}"))
            }
            CopySource::Git {
                url,
                keep_git_dir,
                checksum,
            } => {
                write!(f, "git {url}")?;
                checksum.iter().try_for_each(|sum| write!(f, " {sum}"))?;
                f.write_str(if *keep_git_dir { " with .git" } else { "" })
            }
        }
    }
}

impl fmt::Display for RunMount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let access = |read_only: &bool| if *read_only { "ro" } else { "rw" };
        let must = |required: &bool| if *required { " required" } else { "" };
        match self {
            RunMount::Bind {
                target,
                origin,
                source,
                read_only,
            } => write!(
                f,
                "bind {origin}:{source} at {target} {}",
                access(read_only)
            ),
            RunMount::Cache {
                target,
                id,
                from,
                sharing,
                read_only,
                mode,
                uid,
                gid,
            } => {
                write!(
                    f,
                    "cache {id} at {target} {} {sharing:?} {mode:o} {uid}:{gid}",
                    access(read_only)
                )?;
                from.iter()
                    .try_for_each(|(origin, path)| write!(f, " from {origin}:{path}"))
            }
            RunMount::Tmpfs(TmpfsMount { target, size_bytes }) => {
                write!(f, "tmpfs at {target}")?;
                size_bytes
                    .iter()
                    .try_for_each(|size| write!(f, " of {size} bytes"))
            }
            RunMount::Secret(SecretMount {
                id,
                target,
                env,
                mode,
                uid,
                gid,
                required,
            }) => {
                write!(f, "secret {id}")?;
                target
                    .iter()
                    .try_for_each(|t| write!(f, " at {t} {mode:o} {uid}:{gid}"))?;
                env.iter().try_for_each(|name| write!(f, " as {name}"))?;
                f.write_str(must(required))
            }
            RunMount::Ssh(SshMount {
                id,
                target,
                mode,
                uid,
                gid,
                required,
            }) => write!(
                f,
                "ssh {id} at {target} {mode:o} {uid}:{gid}{}",
                must(required)
            ),
        }
    }
}

impl fmt::Display for Graph {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, vertex) in self.vertices.iter().enumerate() {
            write!(f, "{} {}", VertexId(index), vertex.name)?;
            vertex.base.iter().try_for_each(|b| write!(f, " on {b}"))?;
            f.write_str(if vertex.no_cache { " uncached\n" } else { "\n" })?;
            write_op(f, &vertex.op)?;
        }
        for output in &self.outputs {
            write!(f, "{}", output.platform)?;
            match output.vertex {
                Some(id) => writeln!(f, " = {id}")?,
                None => writeln!(f, " = nothing")?,
            }
            for step in &output.history {
                write!(f, "  {:?}", step.created_by)?;
                step.vertex.iter().try_for_each(|id| write!(f, " {id}"))?;
                writeln!(f)?;
            }
        }
        for warning in &self.warnings {
            writeln!(f, "{}: {}", warning.rule.unwrap_or("-"), warning.message)?;
        }
        Ok(())
    }
}

fn write_op(f: &mut fmt::Formatter<'_>, op: &Op) -> fmt::Result {
    match op {
        Op::Image(image) => writeln!(f, "  image of {} layers", image.layers.len()),
        Op::Workdir(dir) => {
            write!(f, "  mkdir {}", dir.path)?;
            write_user(f, &dir.user)
        }
        Op::Copy(copy) => {
            let verb = if copy.add { "add" } else { "copy" };
            write!(f, "  {verb} from {}", copy.origin)?;
            copy.sources.iter().try_for_each(|s| write!(f, " {s}"))?;
            write!(f, " to {}", copy.destination)?;
            copy.chown
                .iter()
                .try_for_each(|o| write!(f, " owner {o}"))?;
            copy.chmod.iter().try_for_each(|m| write!(f, " mode {m}"))?;
            for (set, word) in [(copy.link, " linked"), (copy.parents, " with parents")] {
                f.write_str(if set { word } else { "" })?;
            }
            copy.excludes
                .iter()
                .try_for_each(|e| write!(f, " without {e:?}"))?;
            copy.unpack
                .iter()
                .try_for_each(|u| write!(f, " unpack {u}"))?;
            writeln!(f)
        }
        Op::Run(run) => {
            write!(f, "  run {:?} in {}", run.args, run.cwd)?;
            write_user(f, &run.user)?;
            let pair = |(name, value): &(String, String)| format!("{name}={value:?}");
            let env: Vec<String> = run.env.iter().map(pair).collect();
            writeln!(f, "  env {}", env.join(" "))?;
            run.mounts
                .iter()
                .try_for_each(|mount| writeln!(f, "  {mount}"))?;
            run.scripts
                .iter()
                .try_for_each(|(name, text)| writeln!(f, "  script {name} {text:?}"))
        }
    }
}

fn write_user(f: &mut fmt::Formatter<'_>, user: &str) -> fmt::Result {
    match user {
        "" => writeln!(f),
        user => writeln!(f, " as {user}"),
    }
}
