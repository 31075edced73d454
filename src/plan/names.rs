//! What a step is called while it runs: `[linux/arm64 build 2/5] RUN make`.

use crate::oci::Platform;

use super::scope::Scope;

/// Gives the steps of one stage their names.
pub(super) struct Namer {
    /// Shown when several platforms are built.
    pub(super) platform: Option<Platform>,
    /// Shown unless it is the only stage; may be empty.
    pub(super) stage: String,
    /// How many steps the stage has; without any, names have no prefix.
    pub(super) total: usize,
    /// How many were named.
    pub(super) index: usize,
}

impl Namer {
    /// The name of the base.
    pub(super) fn base(&mut self, text: &str) -> String {
        self.prefixed(text, "", String::new())
    }

    /// The name of an instruction, where `scope` is in force.
    pub(super) fn step(&mut self, text: &str, is_trigger: bool, scope: &Scope) -> String {
        let cross = self
            .platform
            .as_ref()
            .map_or_else(String::new, |base| cross_target(base, scope));
        self.prefixed(text, if is_trigger { "ONBUILD " } else { "" }, cross)
    }

    fn prefixed(&mut self, text: &str, note: &str, cross: String) -> String {
        let (keyword, rest) = text.find(' ').map_or((text, ""), |at| text.split_at(at));
        let text = format!("{}{rest}", keyword.to_uppercase());
        if self.total == 0 {
            return text;
        }
        self.index += 1;
        let mut prefix = String::new();
        if let Some(platform) = &self.platform {
            prefix = format!("{platform}{cross} ");
        }
        if !self.stage.is_empty() {
            prefix = format!("{prefix}{} ", self.stage);
        }
        let width = self.total.ilog10() as usize + 1;
        format!(
            "[{prefix}{:width$}/{}] {note}{text}",
            self.index, self.total
        )
    }
}

/// `->arm64` when the stage was told that it builds for another platform than it runs on.
fn cross_target(base: &Platform, scope: &Scope) -> String {
    let part = |name: &str, default: &str| {
        scope
            .get(name)
            .filter(|v| !v.is_empty())
            .unwrap_or(default)
            .to_owned()
    };
    let target = match scope.get("TARGETPLATFORM").and_then(|p| p.parse().ok()) {
        Some(platform) => platform,
        None => Platform::new(
            &part("TARGETOS", &base.os),
            &part("TARGETARCH", &base.architecture),
            scope.get("TARGETVARIANT").filter(|v| !v.is_empty()),
        ),
    };
    if target.os != base.os {
        return format!("->{target}");
    }
    if target.architecture == base.architecture {
        return String::new();
    }
    let variant = target
        .variant
        .as_ref()
        .map_or_else(String::new, |v| format!("/{v}"));
    format!("->{}{variant}", target.architecture)
}

/// A command's text with the variables that have a value shown by it; what the shell decides stays as written.
pub(super) fn shown(text: &str, escape: char, value: &dyn Fn(&str) -> Option<String>) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    let mut single_quoted = false;
    while let Some(c) = rest.chars().next() {
        let after = &rest[c.len_utf8()..];
        let mut taken = c.len_utf8();
        if c == '\'' {
            single_quoted = !single_quoted;
        } else if c == escape && !single_quoted {
            taken += after.chars().next().map_or(0, char::len_utf8);
        } else if c == '$' && !single_quoted {
            let braced = after.strip_prefix('{');
            let from = braced.unwrap_or(after);
            let end = from
                .find(|c: char| !(c.is_ascii_alphanumeric() || c == '_'))
                .unwrap_or(from.len());
            let name = &from[..end];
            let closed = braced.is_none() || from[end..].starts_with('}');
            if let Some(value) = (closed && !name.is_empty()).then(|| value(name)).flatten() {
                out.push_str(&value);
                rest = &from[end + usize::from(braced.is_some())..];
                continue;
            }
        }
        out.push_str(&rest[..taken]);
        rest = &rest[taken..];
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        let mut namer = Namer {
            platform: None,
            stage: String::new(),
            total: 12,
            index: 0,
        };
        let mut scope = Scope::default();
        assert_eq!(namer.base("FROM x"), "[ 1/12] FROM x");
        assert_eq!(namer.step("run a", true, &scope), "[ 2/12] ONBUILD RUN a");
        namer.platform = Some(Platform::new("linux", "amd64", None));
        namer.stage = "build".to_owned();
        assert_eq!(
            namer.step("RUN b", false, &scope),
            "[linux/amd64 build  3/12] RUN b"
        );
        scope.set("TARGETARCH", "arm");
        scope.set("TARGETVARIANT", "v7");
        assert_eq!(
            namer.step("RUN", false, &scope),
            "[linux/amd64->arm/v7 build  4/12] RUN"
        );
        namer.total = 0;
        assert_eq!(namer.base("FROM x"), "FROM x");
    }

    #[test]
    fn shown_values() {
        let value = |name: &str| (name == "A").then(|| "1".to_owned());
        for (text, want) in [
            ("echo $A ${A}b $B ${A:-x}", "echo 1 1b $B ${A:-x}"),
            ("echo '$A' \"$A\" \\$A", "echo '$A' \"1\" \\$A"),
            ("$", "$"),
            ("${A", "${A"),
            ("é$Aé\\", "é1é\\"),
        ] {
            assert_eq!(shown(text, '\\', &value), want);
        }
    }
}
