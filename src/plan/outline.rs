//! What a target takes: the build arguments it uses, and its secrets, agents and caches.

use std::collections::BTreeSet;

use crate::dockerfile::{Span, Statement, Word};

use super::scope::Uses;

/// What a target takes, each list in the order of the file, each name once.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Outline {
    /// The stage's name; empty if it has none.
    pub name: String,
    /// What the comment above the stage says of it.
    pub description: String,
    /// The build arguments that something uses.
    pub args: Vec<OutlineArg>,
    /// Secrets.
    pub secrets: Vec<OutlineMount>,
    /// ssh agents.
    pub ssh: Vec<OutlineMount>,
    /// Cache mounts.
    pub caches: Vec<OutlineMount>,
    used: BTreeSet<String>,
}

/// A build argument.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct OutlineArg {
    /// Its name.
    pub name: String,
    /// The value it has in this build; empty if none.
    pub value: String,
    /// What the comment above it says.
    pub description: String,
    /// Its declaration.
    pub span: Span,
}

/// A secret, an agent or a cache.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct OutlineMount {
    /// Its id.
    pub id: String,
    /// Whether the build fails without it.
    pub required: bool,
    /// The mount.
    pub span: Span,
}

impl Outline {
    /// Notes that an argument is declared.
    pub(super) fn declare(
        &mut self,
        statement: &Statement,
        name: &Word,
        value: Option<&str>,
        span: Span,
    ) {
        let description = described(&statement.comment, &name.text);
        let value = value.unwrap_or_default().to_owned();
        match self.args.iter_mut().find(|arg| arg.name == name.text) {
            // A stage takes up an argument that was described before the stages.
            Some(known) => {
                known.value = value;
                if !description.is_empty() {
                    known.description = description;
                }
            }
            None => self.args.push(OutlineArg {
                name: name.text.clone(),
                value,
                description,
                span,
            }),
        }
    }

    /// Notes that names are used.
    pub(super) fn uses(&mut self, uses: &Uses) {
        self.used.extend(uses.found.iter().cloned());
        self.used.extend(uses.missing.iter().cloned());
    }

    /// Notes that a name is used.
    pub(super) fn use_name(&mut self, name: &str) {
        if !self.used.contains(name) {
            self.used.insert(name.to_owned());
        }
    }

    /// Leaves out what nothing uses, and sorts.
    pub(super) fn finish(&mut self) {
        let used = std::mem::take(&mut self.used);
        self.args.retain(|arg| used.contains(&arg.name));
        self.args.sort_by_key(|arg| arg.span.start);
        for list in [&mut self.secrets, &mut self.ssh, &mut self.caches] {
            list.sort_by_key(|mount| mount.span.start);
        }
    }
}

/// Adds a mount, once; one that requires it counts.
pub(super) fn add(list: &mut Vec<OutlineMount>, id: &str, required: bool, span: Span) {
    match list.iter_mut().find(|mount| mount.id == id) {
        Some(known) => known.required |= required,
        None => list.push(OutlineMount {
            id: id.to_owned(),
            required,
            span,
        }),
    }
}

/// What a comment says of `name`: the rest of the line that begins with it.
pub fn described(comment: &str, name: &str) -> String {
    if name.is_empty() {
        return String::new();
    }
    let rest = |line: &str| {
        let rest = line.trim().strip_prefix(name)?.strip_prefix(' ')?;
        Some(rest.trim().to_owned())
    };
    comment.lines().find_map(rest).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::super::testing::{options, plan};
    use super::*;

    #[test]
    fn what_the_target_takes_and_nothing_else() {
        let text = "# VERSION of the base\nARG VERSION=latest\nARG UNUSED=1\nFROM busybox:$VERSION AS first\n\
            RUN --mount=type=secret,target=/etc/passwd,required=true --mount=type=ssh true\n\
            FROM multi AS second\nARG OTHER=1\nRUN --mount=type=secret,id=unused --mount=type=ssh,id=ssh2 true\n\
            FROM scratch AS third\nARG IDLE\nARG BAR\nCOPY --from=first /x$BAR /\n\
            # target is what counts\nFROM busybox AS target\n# LATE is seen by RUN\nARG LATE=2 EARLY=$LATE\n\
            COPY --from=third /foo /\nRUN --mount=type=ssh,id=ssh3,required --mount=type=cache,target=/c true\n\
            FROM second\n";
        let options = super::super::Options {
            target: Some("target".to_owned()),
            build_args: [("BAR".to_owned(), "678".to_owned())].into(),
            ..options()
        };
        let outline = plan(text, &options).unwrap().outline;
        assert_eq!(
            (outline.name.as_str(), outline.description.as_str()),
            ("target", "is what counts")
        );
        let args: Vec<_> = outline
            .args
            .iter()
            .map(|a| (a.name.as_str(), a.value.as_str(), a.description.as_str()))
            .collect();
        assert_eq!(
            args,
            [
                ("VERSION", "latest", "of the base"),
                ("BAR", "678", ""),
                ("LATE", "2", "is seen by RUN"),
                ("EARLY", "2", ""),
            ]
        );
        let ids = |list: &[OutlineMount]| -> Vec<(String, bool)> {
            list.iter().map(|m| (m.id.clone(), m.required)).collect()
        };
        let own = |list: &[(&str, bool)]| -> Vec<(String, bool)> {
            list.iter().map(|(id, r)| ((*id).to_owned(), *r)).collect()
        };
        assert_eq!(ids(&outline.secrets), own(&[("passwd", true)]));
        assert_eq!(
            ids(&outline.ssh),
            own(&[("default", false), ("ssh3", true)])
        );
        assert_eq!(ids(&outline.caches), own(&[("/c", false)]));
    }
}
