//! `.dockerignore`: which paths of a context are left out.
//!
//! The last line that matches a path, or a directory above it, decides. The matcher is moby's, whose walk has a corner of
//! its own that decides what BuildKit sends: a `!` line that matches a directory *before anything excluded it* says nothing
//! about what a line excludes below it. So there is one way to ask, down from the root: [`Ignore::verdict`] takes what the
//! parent's verdict left; [`Ignore::matches`] walks by itself.
//!
//! A wildcard in a character class is a character; in moby's matcher it breaks the class.

use super::diagnostic::BOM;
use super::glob::{GlobError, Program, Stars};
use super::prefilter::{Ends, Prefilter};

/// A set of rules.
#[derive(Clone, Debug, Default)]
pub struct Ignore {
    rules: Vec<Rule>,
    /// Which of them to ask about a path; each is for [`Prefilter::PATTERNS`] rules.
    prefilters: Vec<Prefilter>,
}

#[derive(Clone, Debug)]
struct Rule {
    program: Program,
    /// It re-includes.
    negated: bool,
    /// From 1.
    line: usize,
}

/// Why there are no rules.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum IgnoreError {
    /// A line that is no pattern.
    #[error("line {line}: pattern {pattern:?}: {source}")]
    Pattern {
        /// From 1.
        line: usize,
        /// As written, trimmed.
        pattern: String,
        /// What is wrong with it.
        source: GlobError,
    },
    /// `!` and nothing to re-include.
    #[error("line {line}: illegal exclusion pattern: \"!\"")]
    LoneExclamation {
        /// From 1.
        line: usize,
    },
}

/// Which rules matched a directory or one above it. The default is that of the root.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct State {
    /// The first 64 rules: most files have no more, so a walk allocates nothing.
    first: u64,
    rest: Vec<u64>,
}

impl State {
    /// So many words of 64 rules in.
    fn word(&self, word: usize) -> u64 {
        match word {
            0 => self.first,
            word => self.rest.get(word - 1).copied().unwrap_or(0),
        }
    }

    fn set(&mut self, index: usize) {
        let word = match index / 64 {
            0 => &mut self.first,
            word => {
                if self.rest.len() < word {
                    self.rest.resize(word, 0);
                }
                &mut self.rest[word - 1]
            }
        };
        *word |= 1 << (index % 64);
    }

    fn last(&self) -> Option<usize> {
        let words = std::iter::once(&self.first).chain(&self.rest).enumerate();
        words
            .filter(|(_, word)| **word != 0)
            .last()
            .map(|(index, word)| index * 64 + word.ilog2() as usize)
    }
}

impl Ignore {
    fn new(rules: Vec<Rule>) -> Ignore {
        let prefilters = rules
            .chunks(Prefilter::PATTERNS)
            .map(|rules| Prefilter::new(rules.iter().map(|rule| &rule.program)))
            .collect();
        Ignore { rules, prefilters }
    }

    /// Reads an ignore file: a pattern a line; `#` in the first column makes a comment; blanks around a pattern, a slash
    /// before it and a byte order mark mean nothing.
    pub fn parse(text: &str) -> Result<Ignore, IgnoreError> {
        let mut rules = Vec::new();
        let text = text.strip_prefix(BOM).unwrap_or(text);
        for (line, number) in text.split('\n').zip(1..) {
            if line.starts_with('#') {
                continue;
            }
            let written = line.trim();
            let (negated, pattern) = match written.strip_prefix('!') {
                Some(pattern) => (true, pattern.trim()),
                None => (false, written),
            };
            let mut cleaned = String::new();
            if !pattern.is_empty() {
                cleaned = clean(pattern);
                if cleaned.len() > 1 && cleaned.starts_with('/') {
                    cleaned.remove(0);
                }
            }
            rules.extend(rule(&cleaned, negated, number, written)?);
        }
        Ok(Ignore::new(rules))
    }

    /// Takes patterns as they are, as for `COPY --exclude`. The "lines" of the answers are their places, from 1.
    pub fn from_patterns<S: AsRef<str>>(patterns: &[S]) -> Result<Ignore, IgnoreError> {
        let mut rules = Vec::new();
        for (pattern, number) in patterns.iter().zip(1..) {
            let written = pattern.as_ref().trim();
            if written.is_empty() {
                continue;
            }
            let cleaned = clean(written);
            let (negated, pattern) = match cleaned.strip_prefix('!') {
                Some(pattern) => (true, pattern),
                None => (false, cleaned.as_str()),
            };
            rules.extend(rule(pattern, negated, number, written)?);
        }
        Ok(Ignore::new(rules))
    }

    /// Whether there is no rule.
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// Whether a path is left out. It is relative, clean and with slashes; the root itself, empty, never is left out.
    pub fn matches(&self, path: &[u8]) -> bool {
        self.walk(path).0
    }

    /// The line that decides about a path, from 1; `None` if no line matches it or a directory above it.
    pub fn deciding_line(&self, path: &[u8]) -> Option<usize> {
        self.walk(path).1.last().map(|index| self.rules[index].line)
    }

    /// Whether a path is left out, given the state of the directory it is in, and the state for what is in it.
    pub fn verdict(&self, path: &[u8], parent: &State) -> (bool, State) {
        let mut state = State::default();
        let excluded = self.decide(path, parent, |index| state.set(index));
        (excluded, state)
    }

    /// [`Ignore::verdict`] for what has nothing in it.
    pub fn excludes(&self, path: &[u8], parent: &State) -> bool {
        self.decide(path, parent, |_| {})
    }

    /// Whether something below a directory that is left out could be brought back. If not, a walk need not enter it.
    pub fn may_reinclude_below(&self, directory: &[u8]) -> bool {
        self.rules
            .iter()
            .any(|rule| rule.negated && rule.program.may_match_below(directory))
    }

    fn walk(&self, path: &[u8]) -> (bool, State) {
        let mut state = State::default();
        if path.is_empty() || self.rules.is_empty() {
            return (false, state);
        }
        for (at, byte) in path.iter().enumerate() {
            if *byte == b'/' {
                state = self.verdict(&path[..at], &state).1;
            }
        }
        self.verdict(path, &state)
    }

    fn decide(&self, path: &[u8], parent: &State, mut matched: impl FnMut(usize)) -> bool {
        let mut excluded = false;
        let ends = Ends::of(path);
        for (word, prefilter) in self.prefilters.iter().enumerate() {
            let inherited = parent.word(word);
            let mut rest = inherited | ends.map_or(u64::MAX, |ends| prefilter.candidates(ends));
            while rest != 0 {
                let bit = rest.trailing_zeros() as usize;
                rest &= rest - 1;
                let index = word * Prefilter::PATTERNS + bit;
                let Some(rule) = self.rules.get(index) else {
                    break;
                };
                // A rule that would change nothing is not asked, and not remembered either: see the head of the file.
                if inherited >> bit & 1 == 1
                    || (rule.negated == excluded && rule.program.matches(path))
                {
                    excluded = !rule.negated;
                    matched(index);
                }
            }
        }
        excluded
    }
}

fn rule(
    pattern: &str,
    negated: bool,
    line: usize,
    written: &str,
) -> Result<Option<Rule>, IgnoreError> {
    match Program::new(pattern, Stars::Double) {
        _ if pattern.is_empty() && negated => Err(IgnoreError::LoneExclamation { line }),
        _ if pattern.is_empty() => Ok(None),
        Ok(program) => Ok(Some(Rule {
            program,
            negated,
            line,
        })),
        Err(source) => Err(IgnoreError::Pattern {
            line,
            pattern: written.to_string(),
            source,
        }),
    }
}

/// The shortest path that says the same, as Go's `path.Clean`; `.` for none.
fn clean(path: &str) -> String {
    let rooted = path.starts_with('/');
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." if parts.last().is_some_and(|last| *last != "..") => drop(parts.pop()),
            ".." if rooted => {}
            part => parts.push(part),
        }
    }
    let joined = parts.join("/");
    match (rooted, joined.is_empty()) {
        (true, _) => format!("/{joined}"),
        (false, true) => ".".to_string(),
        (false, false) => joined,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Pattern, paths that it excludes (themselves or by a directory above), paths that it does not; as BuildKit does when it
    /// reads each as a `.dockerignore` of one line.
    const TABLE: &[(&str, &[&str], &[&str])] = &[
        // Plain names are anchored at the root.
        (
            "file",
            &["file", "file/x", "file/x/y"],
            &["dir/file", "fil", "files", "xfile"],
        ),
        (
            "dir/file",
            &["dir/file", "dir/file/x"],
            &["dir", "file", "x/dir/file"],
        ),
        ("/file", &["file"], &["dir/file"]),
        ("file/", &["file", "file/a"], &["a/file"]),
        ("./file", &["file"], &["./file", "a/file"]),
        ("a//b", &["a/b"], &["a", "b"]),
        ("a/./b", &["a/b"], &["a"]),
        ("a/../b", &["b"], &["a", "a/b"]),
        ("/a/b/", &["a/b", "a/b/c"], &["a"]),
        ("../a", &[], &["a"]),
        (".", &[], &["a", "a/b"]),
        ("/", &[], &["a"]),
        ("file with blanks", &["file with blanks"], &["file"]),
        ("  padded \t", &["padded"], &["  padded"]),
        ("#comment", &[], &["#comment", "comment"]),
        (" #name", &["#name"], &["name"]),
        ("\\#name", &["#name"], &["\\#name"]),
        ("\\!name", &["!name"], &["name"]),
        ("", &[], &["a", ""]),
        // One star.
        ("*", &["a", "a/b", ".x", "a/b/c"], &[]),
        (
            "*.txt",
            &["a.txt", ".txt", "a.txt/b"],
            &["a/b.txt", "a.txtx", "txt"],
        ),
        ("a*", &["a", "ab", "a/b", "abc/d"], &["ba", "b/a"]),
        ("*a", &["a", "ba"], &["ab", "b/a"]),
        ("a*c", &["ac", "abc", "abbc"], &["a/c", "abcd"]),
        ("*/a", &["x/a", "x/a/b"], &["a", "x/y/a"]),
        ("*/*", &["a/b", "a/b/c"], &["a"]),
        ("*/*/c", &["a/b/c"], &["a/c", "a/b/d", "x/a/b/c"]),
        ("dir/*", &["dir/a", "dir/a/b"], &["dir", "other/a"]),
        ("dir/*.md", &["dir/a.md"], &["dir/sub/a.md", "a.md"]),
        ("dir*/x", &["dir/x", "dir1/x"], &["dir/1/x", "d/x"]),
        (".*", &[".git", ".git/config", "."], &["a", "a/.b"]),
        ("*.", &["a."], &["a", "a.b"]),
        ("*.*", &["a.b", "."], &["ab"]),
        ("a.b", &["a.b"], &["axb"]),
        ("a+b", &["a+b"], &["aab"]),
        ("a(b)", &["a(b)"], &["ab"]),
        ("a|b", &["a|b"], &["a", "b"]),
        ("a{1}", &["a{1}"], &["a"]),
        ("$a*", &["$ab"], &["ab"]),
        // A question mark.
        ("?", &["a", "é", "a/b"], &["ab"]),
        ("a?c", &["abc", "aéc"], &["ac", "a/c", "abbc"]),
        ("?.md", &["b.md"], &["bb.md", "x/b.md", ".md"]),
        ("??", &["ab", "ab/c"], &["a", "abc"]),
        ("a/?", &["a/b"], &["a", "a/bc"]),
        // Classes.
        ("a[0-9]", &["a0", "a5/x"], &["a", "ax", "a10"]),
        ("[abc].txt", &["a.txt", "c.txt"], &["d.txt", "ab.txt"]),
        ("[^abc].txt", &["d.txt", "é.txt"], &["a.txt", ".txt"]),
        ("[a-cx-z]", &["a", "y"], &["d", "w"]),
        ("[\\]]", &["]"], &["a"]),
        ("[a\\-z]", &["a", "-", "z"], &["b"]),
        ("[.]x", &[".x"], &["ax"]),
        ("a]", &["a]"], &["a"]),
        ("x[!a]", &["x!", "xa"], &["xb"]),
        ("[é-ü]", &["ö"], &["o"]),
        // Escapes.
        ("x\\*y", &["x*y"], &["xzy", "x\\*y"]),
        ("x\\?y", &["x?y"], &["xzy"]),
        ("x\\[a]", &["x[a]"], &["xa"]),
        ("a\\\\b", &["a\\b"], &["ab"]),
        // Two stars.
        ("**", &["a", "a/b", "a/b/c"], &[]),
        ("**/", &["a", "a/b"], &[]),
        (
            "**/file",
            &["file", "a/file", "a/b/file", "a/file/b"],
            &["xfile", "a/xfile", "filex"],
        ),
        (
            "**/*.md",
            &["a.md", "x/a.md", "x/y/a.md", "x.md/y"],
            &["a.mdx", "md"],
        ),
        (
            "**/node_modules",
            &["node_modules", "a/node_modules/b"],
            &["xnode_modules", "node_modules2"],
        ),
        (
            "**/a/b",
            &["a/b", "x/a/b", "x/y/a/b/c"],
            &["a", "b", "xa/b"],
        ),
        ("**/a*", &["a", "ab", "x/ab", "x/y/ab"], &["b", "x/b"]),
        ("**/?", &["a", "x/a"], &["ab"]),
        ("**/.git", &[".git", "sub/.git"], &["git", "a.git"]),
        ("a/**", &["a/b", "a/b/c"], &["a", "ab", "b/a/c"]),
        ("a**", &["a", "ab", "a/b", "abc/d/e"], &["b", "ba"]),
        ("**a", &["a", "ba", "x/ba", "x/a"], &["ab", "b"]),
        ("**.txt", &["a.txt", ".txt", "x/y.txt"], &["txt", "a.txtx"]),
        ("**fo?", &["foo", "x/foo", "x/y/fox"], &["xfoo"]),
        (
            "a/**/b",
            &["a/b", "a/x/b", "a/x/y/b", "a/x/b/c"],
            &["a", "b", "ab", "x/a/b", "a/xb"],
        ),
        (
            "a/**/*.log",
            &["a/x.log", "a/b/x.log", "a/b/c/x.log"],
            &["x.log", "a/x.logs", "a.log"],
        ),
        (
            "a/**/b/**/c",
            &["a/b/c", "a/x/b/y/z/c"],
            &["a/c", "a/b", "b/c"],
        ),
        ("**/a/**", &["a/b", "x/a/b", "x/a/b/c"], &["b"]),
        ("**/a/**/b", &["a/b", "x/a/y/b"], &["b", "a/xb"]),
        ("*/**/c", &["a/c", "a/b/c"], &["c"]),
        ("**/*/c", &["a/c", "a/b/c"], &["c"]),
        ("a**b", &["ab", "a/b", "ax/b", "ax/y/b"], &["axb", "b"]),
        ("a**/b", &["ab", "ax/b", "a/b"], &["axb"]),
        ("**/**", &["a", "a/b"], &[]),
        ("**/**/a", &["a", "x/a", "x/y/a"], &["b"]),
        ("dir/**/", &["dir/a", "dir/a/b"], &["dir"]),
        ("**/*", &["a", "a/b", ".x"], &[]),
        ("***", &["a", "ab", "a/b", "a/bc"], &[]),
        ("**/[ab]", &["a", "x/b"], &["c", "x/c"]),
        ("**/a\\*", &["a*", "x/a*"], &["ab"]),
        ("abc/**", &["abc/x", "abc/x/y"], &["abc", "abcd/x"]),
        (
            "abc/def/**/*.go",
            &["abc/def/a.go", "abc/def/x/a.go"],
            &["abc/a.go", "abc/def/a.gox"],
        ),
        // Mixtures: several stars, classes in directories, escapes beside wildcards.
        ("a/*/c", &["a/b/c", "a/b/c/d"], &["a/c", "a/b/x/c"]),
        ("*/b/*", &["a/b/c", "x/b/y/z"], &["a/b", "b/c"]),
        ("a/b*", &["a/b", "a/bc", "a/bc/d"], &["a/cb", "b"]),
        ("a/*b", &["a/b", "a/xb"], &["a/bx"]),
        ("a*/b*", &["a/b", "ax/by", "ax/by/z"], &["a", "x/b"]),
        ("*a*", &["a", "xay", "bar/x"], &["b", "x/a"]),
        ("*a*b*", &["ab", "xaybz"], &["ba", "a/b"]),
        ("a*b*c", &["abc", "axbyc"], &["acb", "a/b/c"]),
        (
            "**b*",
            &["b", "bx", "x/b", "x/by/z"],
            &["xb", "x/yb", "x/a"],
        ),
        ("a/**/b*", &["a/b", "a/x/bc"], &["a/x/c", "b"]),
        ("a/**b", &["a/b", "a/x/b"], &["b", "a/x", "a/xb"]),
        ("a**/c/*", &["a/c/x", "ab/c/x", "a/b/c/x"], &["c/x", "a/c"]),
        ("**/*/**", &["a/b", "a/b/c"], &[]),
        ("**/a/*/b", &["a/x/b", "q/a/x/b"], &["a/b", "a/x/y/b"]),
        (
            "**/*.tar.gz",
            &["x.tar.gz", "d/y.tar.gz"],
            &["x.gz", "tar.gz"],
        ),
        (
            "**/test_*.py",
            &["test_a.py", "d/e/test_b.py"],
            &["atest_a.py", "d/test.py"],
        ),
        (
            "**/__pycache__",
            &["__pycache__/a", "d/__pycache__/b"],
            &["pycache"],
        ),
        ("**/.*", &[".a", "d/.b", "d/.b/c"], &["a.b", "d/e"]),
        ("**/.*.sw?", &[".a.swp", "d/.b.swo"], &["a.swp", ".a.sw"]),
        ("**/bin/", &["bin/x", "d/bin/y"], &["cabin"]),
        ("/**/x", &["x", "d/x"], &["dx"]),
        ("./**/x", &["x", "d/x"], &["xd"]),
        ("a/./**/x", &["a/x", "a/d/x"], &["x"]),
        ("d/../**/x", &["x", "e/x"], &["xe"]),
        ("a//**//x", &["a/x", "a/b/x"], &["x"]),
        ("d/e/../f", &["d/f", "d/f/x"], &["d/e", "d/e/f"]),
        ("//x", &["x"], &["y/x"]),
        ("/x/", &["x", "x/y"], &["y"]),
        ("x/**/", &["x/y"], &["x"]),
        ("./x/*", &["x/y"], &["x", "y/x"]),
        ("x/.", &["x", "x/y"], &["y"]),
        ("x/./y", &["x/y"], &["y"]),
        ("../../a/b", &[], &["a/b"]),
        ("...", &["..."], &["a", ".."]),
        (".x.", &[".x."], &["x"]),
        ("?*", &["a", "ab", "ab/c"], &[]),
        ("*?", &["a", "ab"], &[]),
        ("??*", &["ab", "abc"], &["a"]),
        ("a?", &["ab", "a?"], &["a", "abc"]),
        ("?/?", &["a/b", "a/b/c"], &["a", "ab/c"]),
        (
            "d?r/*.t?t",
            &["dir/a.txt", "dxr/b.tzt"],
            &["dr/a.txt", "dir/a.tt"],
        ),
        ("[a-c]/x", &["a/x", "c/x"], &["d/x", "ab/x"]),
        ("d/[0-9][0-9]", &["d/07", "d/42/x"], &["d/7", "d/077"]),
        ("[a-c]*", &["a", "bx", "cx/y"], &["d", "A"]),
        ("*[0-9]", &["a1", "9"], &["a", "1a"]),
        ("[^a]*", &["b", "xa"], &["a", "ab"]),
        ("[^a-c]?", &["dx", "xa"], &["ax", "d"]),
        ("a[.]b", &["a.b"], &["axb"]),
        ("[\\^a]", &["^", "a"], &["b"]),
        ("[$]x", &["$x"], &["x"]),
        ("**/[0-9]*", &["1", "d/2x"], &["x", "d/x1"]),
        ("**/[^.]*", &["a", "d/b"], &[".x"]),
        ("\\*", &["*"], &["a", "**"]),
        ("\\*\\*", &["**"], &["*", "a"]),
        ("**/\\*", &["*", "d/*"], &["a", "d/a"]),
        ("\\?", &["?"], &["a"]),
        ("x\\]", &["x]"], &["x"]),
        ("\\[x\\]", &["[x]"], &["x"]),
        ("a\\ b", &["a b"], &["a"]),
        ("a b*", &["a b", "a bc"], &["a"]),
        ("# x", &[], &["# x"]),
        ("x # y", &["x # y"], &["x"]),
        ("x#", &["x#"], &["x"]),
        ("(x)", &["(x)"], &["x"]),
        ("x^", &["x^"], &["x"]),
        ("^x", &["^x"], &["x"]),
        ("x$", &["x$"], &["x"]),
        ("x.y+", &["x.y+"], &["x.yy", "xzy+"]),
        ("{a,b}", &["{a,b}"], &["a", "b"]),
        ("a,b", &["a,b"], &["a"]),
        ("~x", &["~x"], &["x"]),
        ("-x", &["-x"], &["x"]),
        ("@(x)", &["@(x)"], &["x"]),
        ("%41", &["%41"], &["A"]),
        ("X", &["X"], &["x"]),
        ("é*", &["é", "éa"], &["e", "ea"]),
        ("*é", &["é", "aé"], &["e"]),
        ("日?", &["日本", "日x"], &["日", "日本x"]),
        ("[日月]", &["日", "月"], &["火"]),
        ("a&b", &["a&b"], &["a"]),
        ("a=b", &["a=b"], &["a"]),
        ("'x'", &["'x'"], &["x"]),
        ("\"x\"", &["\"x\""], &["x"]),
    ];

    #[test]
    fn patterns() {
        let mut pairs = 0;
        for (pattern, excluded, kept) in TABLE {
            let ignore = Ignore::parse(pattern).unwrap();
            for (paths, want) in [(excluded, true), (kept, false)] {
                for path in *paths {
                    assert_eq!(
                        ignore.matches(path.as_bytes()),
                        want,
                        "{pattern:?} {path:?}"
                    );
                    pairs += 1;
                }
            }
        }
        assert!(
            TABLE.len() >= 150 && pairs >= 450,
            "{} patterns, {pairs} paths",
            TABLE.len()
        );
    }

    #[test]
    fn several_lines() {
        for (text, excluded, kept) in [
            (
                "*\n!dir\ndir/*.md\n!src/z.txt\ndir/sub\n!dir/sub/f.log",
                &["a", "dir/a.md", "dir/sub", "dir/sub/g.log", "src", "src/y"][..],
                &["dir", "dir/a.txt", "dir/sub/f.log", "src/z.txt"][..],
            ),
            ("*.md\n!README.md", &["a.md"], &["README.md", "x/a.md"]),
            ("!README.md\n*.md", &["a.md", "README.md"], &["a"]),
            (
                "*.md\n!README*.md\nREADME-secret.md",
                &["a.md", "README-secret.md"],
                &["README-x.md"],
            ),
            (
                "dir\n!dir/keep",
                &["dir", "dir/x"],
                &["dir/keep", "dir/keep/y"],
            ),
            (
                "dir/**\n!dir/keep/**",
                &["dir/x", "dir/keep"],
                &["dir", "dir/keep/y"],
            ),
            ("**\n!a/b", &["a", "c", "a/c"], &["a/b", "a/b/c"]),
            ("a\n! a/b ", &["a", "a/c"], &["a/b"]),
            ("a\n!/a/b/", &["a", "a/c"], &["a/b"]),
            ("a\r\nb\r\n", &["a", "b"], &["c"]),
            ("\u{feff}a\nb", &["a", "b"], &["c"]),
            ("# x\n\n  \na", &["a"], &["# x", "x"]),
            ("*\n!**/*.go", &["a", "x/a.c"], &["a.go", "x/y/a.go"]),
            // Nothing had excluded the directory when its line was read: what BuildKit sends.
            ("dir/x\n!dir", &["dir/x"], &["dir", "dir/y"]),
            ("dir/x\n!dir/x", &[], &["dir/x"]),
            ("*\n!*", &[], &["a", "a/b"]),
        ] {
            let ignore = Ignore::parse(text).unwrap();
            for path in excluded {
                assert!(ignore.matches(path.as_bytes()), "{text:?} {path:?}");
            }
            for path in kept {
                assert!(!ignore.matches(path.as_bytes()), "{text:?} {path:?}");
            }
        }
    }

    #[test]
    fn refusals() {
        let error = |text: &str| Ignore::parse(text).unwrap_err().to_string();
        assert_eq!(error("a\n!"), "line 2: illegal exclusion pattern: \"!\"");
        assert_eq!(error("a\n!  "), "line 2: illegal exclusion pattern: \"!\"");
        assert_eq!(
            error("[a"),
            "line 1: pattern \"[a\": syntax error in pattern: broken character class"
        );
        assert!(error("a\\").contains("backslash"));
        assert!(Ignore::from_patterns(&["!"]).is_err());
        assert!(Ignore::from_patterns(&["", " "]).unwrap().is_empty());
    }

    #[test]
    fn exclude_flags() {
        let ignore = Ignore::from_patterns(&["*.md", "!keep.md", "sub"]).unwrap();
        for (path, want) in [
            ("a.md", true),
            ("keep.md", false),
            ("sub/x", true),
            ("x/a.md", false),
        ] {
            assert_eq!(ignore.matches(path.as_bytes()), want, "{path}");
        }
        // Unlike in a file, a slash at the start is part of the pattern.
        assert!(!Ignore::from_patterns(&["/a"]).unwrap().matches(b"a"));
    }

    #[test]
    fn the_line_that_decides() {
        let ignore = Ignore::parse("# c\n*\n\n!dir\ndir/x").unwrap();
        for (path, want) in [
            ("a", Some(2)),
            ("dir", Some(4)),
            ("dir/y", Some(4)),
            ("dir/x", Some(5)),
            ("", None),
        ] {
            assert_eq!(ignore.deciding_line(path.as_bytes()), want, "{path}");
        }
        assert_eq!(Ignore::parse("b").unwrap().deciding_line(b"a"), None);
    }

    #[test]
    fn walks_prune() {
        let ignore = Ignore::parse("*\n!a/b/*.c\n!x/**/y").unwrap();
        for (directory, want) in [
            ("a", true),
            ("a/b", true),
            ("a/c", false),
            ("a/c/b", false),
            ("x/z", true),
            ("q", false),
        ] {
            assert_eq!(
                ignore.may_reinclude_below(directory.as_bytes()),
                want,
                "{directory}"
            );
        }
    }

    #[test]
    fn more_rules_than_a_word_has_bits() {
        let text: String = (0..200).map(|n| format!("d{n}\n")).collect();
        let ignore = Ignore::parse(&text).unwrap();
        assert!(ignore.matches(b"d199/x/y"));
        assert_eq!(ignore.deciding_line(b"d130/x"), Some(131));
        assert!(!ignore.matches(b"d200/x"));
    }

    #[test]
    fn cleaning() {
        for (path, want) in [
            ("", "."),
            ("a/b/", "a/b"),
            ("a//./b", "a/b"),
            ("a/..", "."),
            ("../a", "../a"),
            ("../../a", "../../a"),
            ("a/../../b", "../b"),
            ("/..", "/"),
            ("/../a", "/a"),
        ] {
            assert_eq!(clean(path), want, "{path}");
        }
    }

    /// What [`Ignore::decide`] says if every rule is asked.
    fn decide_slowly(
        ignore: &Ignore,
        path: &[u8],
        parent: &State,
        mut matched: impl FnMut(usize),
    ) -> bool {
        let mut excluded = false;
        for (index, rule) in ignore.rules.iter().enumerate() {
            if parent.word(index / 64) >> (index % 64) & 1 == 1
                || (rule.negated == excluded && rule.program.matches(path))
            {
                excluded = !rule.negated;
                matched(index);
            }
        }
        excluded
    }

    proptest! {
        /// No rule that matches is passed over, whatever the pattern, the path and what the directory left.
        #[test]
        fn the_prefilter_loses_no_rule(
            text in "(!?([ab.é*?/]|\\*\\*/|\\[\\^?[a/é]b?\\]|\\\\[a*]){1,6}\n){0,70}",
            path in "[abé.*/\\\\]{0,8}",
            end in proptest::collection::vec(any::<u8>(), 0..2),
            above in proptest::collection::vec(0usize..70, 0..3),
        ) {
            if let Ok(ignore) = Ignore::parse(&text) {
                let path = [path.as_bytes(), &end].concat();
                let mut parent = State::default();
                for index in above.into_iter().filter(|index| *index < ignore.rules.len()) {
                    parent.set(index);
                }
                let mut state = State::default();
                let excluded = decide_slowly(&ignore, &path, &parent, |index| state.set(index));
                prop_assert_eq!(ignore.verdict(&path, &parent), (excluded, state));
            }
        }

        #[test]
        fn never_panics(text in "[a!*?\\[\\]\\\\/#. \n-]{0,24}", path in proptest::collection::vec(any::<u8>(), 0..12)) {
            if let Ok(ignore) = Ignore::parse(&text) {
                let _ = ignore.deciding_line(&path);
            }
        }

        /// A walk that skips what cannot be brought back finds what a walk of everything finds.
        #[test]
        fn pruning_loses_nothing(text in "(!?[ab*/]{1,6}\n){0,5}", path in "[ab]{1,2}(/[ab]{1,2}){1,3}") {
            if let Ok(ignore) = Ignore::parse(&text) {
                for (at, _) in path.match_indices('/') {
                    let directory = &path.as_bytes()[..at];
                    if ignore.matches(directory) && !ignore.may_reinclude_below(directory) {
                        prop_assert!(ignore.matches(path.as_bytes()), "{text:?} {path:?}");
                    }
                }
            }
        }
    }
}
