//! What a name means at an instruction: ENV and ARG so far, in one list where the last word counts.

use crate::dockerfile::words::{self, WordError};

/// How many bytes of values one word may take in, and be longer for it. A variable that holds itself twice doubles with
/// every line; no argument list of Linux takes a value a tenth as long.
const MAX_GROWTH_BYTES: usize = 1 << 20;

/// The variables of a stage (or the global ones), and the arguments declared on the way.
#[derive(Clone, Debug, Default)]
pub(super) struct Scope {
    /// In the order of first definition.
    variables: Vec<(String, String)>,
    /// In the order of declaration; the value is that of the declaration, if it had one.
    arguments: Vec<(String, Option<String>)>,
}

/// The names that an expansion looked up, each once.
#[derive(Debug, Default)]
pub(super) struct Uses {
    /// Those with a value.
    pub(super) found: Vec<String>,
    /// Those without, where the word does not say what to do then.
    pub(super) missing: Vec<String>,
}

impl Scope {
    /// The value of a variable.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.variables
            .iter()
            .find(|(n, _)| n == name)
            .map(|(_, v)| v.as_str())
    }

    /// Sets a variable; one that is there keeps its place.
    pub(super) fn set(&mut self, name: &str, value: &str) {
        match self.variables.iter_mut().find(|(n, _)| n == name) {
            Some((_, old)) => value.clone_into(old),
            None => self.variables.push((name.to_owned(), value.to_owned())),
        }
    }

    /// Notes that an argument was declared, and sets it unless it has no value.
    pub(super) fn declare(&mut self, name: &str, value: Option<&str>) {
        if let Some(value) = value
            && !super::args::is_internal(name)
        {
            self.set(name, value);
        }
        self.arguments
            .push((name.to_owned(), value.map(str::to_owned)));
    }

    /// Whether an argument of that name was declared, with or without a value.
    pub(super) fn is_declared(&self, name: &str) -> bool {
        self.arguments.iter().any(|(n, _)| n == name)
    }

    /// The names of the arguments that were declared.
    pub(super) fn declared(&self) -> impl Iterator<Item = &str> {
        self.arguments.iter().map(|(name, _)| name.as_str())
    }

    /// All variables.
    pub(super) fn variables(&self) -> &[(String, String)] {
        &self.variables
    }

    /// The names of all variables.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.variables.iter().map(|(n, _)| n.as_str())
    }

    /// The declared arguments as RUN's history shows them: `NAME=VALUE`, each once, with the value they have now.
    pub(super) fn effective_arguments(&self) -> Vec<String> {
        let mut shown: Vec<(&str, &str)> = Vec::new();
        for (name, declared) in &self.arguments {
            let value = self.get(name).or(declared.as_deref()).unwrap_or_default();
            match shown.iter_mut().find(|(n, _)| n == name) {
                Some(entry) => entry.1 = value,
                None => shown.push((name, value)),
            }
        }
        shown.iter().map(|(n, v)| format!("{n}={v}")).collect()
    }

    /// Expands a word.
    pub(super) fn expand(&self, word: &str, escape: char) -> Result<(String, Uses), WordError> {
        self.expand_with(word, |lookup| words::expand(word, escape, lookup))
    }

    /// Expands a word that may become several, or none.
    pub(super) fn expand_list(
        &self,
        word: &str,
        escape: char,
    ) -> Result<(Vec<String>, Uses), WordError> {
        self.expand_with(word, |lookup| words::expand_list(word, escape, lookup))
    }

    /// Expands the body of a here-document, where a backslash escapes whatever the file says.
    pub(super) fn expand_heredoc(&self, body: &str) -> Result<(String, Uses), WordError> {
        self.expand_with(body, |lookup| words::expand_heredoc(body, '\\', lookup))
    }

    fn expand_with<T: Size>(
        &self,
        word: &str,
        expand: impl FnOnce(&mut dyn FnMut(&str) -> Option<String>) -> Result<T, WordError>,
    ) -> Result<(T, Uses), WordError> {
        let mut uses = Uses::default();
        let mut taken = 0;
        let mut lookup = |name: &str| {
            let value = self.get(name);
            let list = match value {
                Some(_) => &mut uses.found,
                None => &mut uses.missing,
            };
            if !list.iter().any(|n| n == name) && (value.is_some() || is_used_plainly(word, name)) {
                list.push(name.to_owned());
            }
            taken += value.map_or(0, str::len);
            // What is too long is refused below; until then nothing more is added to it.
            value
                .filter(|_| taken <= MAX_GROWTH_BYTES)
                .map(str::to_owned)
        };
        let expanded = expand(&mut lookup);
        if taken > MAX_GROWTH_BYTES
            || matches!(&expanded, Ok(text) if text.size_bytes() > word.len() + MAX_GROWTH_BYTES)
        {
            return Err(WordError {
                offset: 0,
                message: format!("it grows by more than {MAX_GROWTH_BYTES} bytes"),
            });
        }
        Ok((expanded?, uses))
    }
}

/// How long an expansion is.
trait Size {
    fn size_bytes(&self) -> usize;
}

impl Size for String {
    fn size_bytes(&self) -> usize {
        self.len()
    }
}

impl Size for Vec<String> {
    fn size_bytes(&self) -> usize {
        self.iter().map(String::len).sum()
    }
}

/// Whether `$name` or `${name}` is in the word: forms that have nothing to fall back on.
fn is_used_plainly(word: &str, name: &str) -> bool {
    word.match_indices('$').any(|(at, _)| {
        let rest = &word[at + 1..];
        if let Some(rest) = rest.strip_prefix('{') {
            rest.strip_prefix(name).is_some_and(|r| r.starts_with('}'))
        } else {
            rest.strip_prefix(name)
                .is_some_and(|r| !r.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_'))
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_definition_counts_and_keeps_the_first_place() {
        let mut scope = Scope::default();
        scope.declare("X", Some("arg"));
        scope.set("X", "env");
        scope.set("Y", "1");
        assert_eq!(scope.effective_arguments(), ["X=env"]);
        scope.declare("X", Some("later"));
        scope.declare("Z", None);
        assert_eq!(scope.effective_arguments(), ["X=later", "Z="]);
        assert_eq!(scope.names().collect::<Vec<_>>(), ["X", "Y"]);
        assert!(scope.is_declared("Z"));
    }

    #[test]
    fn growth_is_bounded() {
        let mut scope = Scope::default();
        scope.set("A", &"x".repeat(MAX_GROWTH_BYTES / 2));
        assert!(scope.expand("$A$A", '\\').is_ok());
        assert!(scope.expand("$A$A$A", '\\').is_err());
        assert!(scope.expand("${A//x/xxx}", '\\').is_err());
        assert!(scope.expand_list("$A $A $A", '\\').is_err());
        assert!(scope.expand_heredoc("$A $A $A").is_err());
    }

    #[test]
    fn only_plain_uses_are_missing() {
        let mut scope = Scope::default();
        scope.set("A", "1");
        for (word, missing) in [
            ("$A$B", &["B"][..]),
            ("${B}x", &["B"]),
            ("${B:-x}", &[]),
            ("$BB$BB", &["BB"]),
            ("\\$B '$C'", &[]),
        ] {
            let (_, uses) = scope.expand(word, '\\').unwrap();
            assert_eq!(uses.missing, missing, "{word}");
        }
    }
}
