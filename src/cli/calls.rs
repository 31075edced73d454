//! `--call`: what else than building there is to do with a Dockerfile, as buildx has it, in text and in JSON.
//!
//! The JSON is that of BuildKit's subrequests. A place is a line from 1 and a character of the line from 0, as editors count;
//! the end is the first character after. BuildKit itself knows lines only.

use serde_json::{Value, json};
use strata::dockerfile::footgun::Footgun;
use strata::dockerfile::{Diagnostic, Dockerfile, Span, lint, position};
use strata::plan::{Outline, OutlineMount, described};

use super::failure;
use super::output::Table;
use super::values::FlagError;

/// What to do with a Dockerfile.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Call {
    /// Build it.
    Build,
    /// Look for mistakes.
    Check,
    /// Show what the target takes.
    Outline,
    /// Show the stages.
    Targets,
    /// Show what can be called.
    Describe,
}

/// `--call`
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct CallSpec {
    /// What to do.
    pub(crate) method: Call,
    /// `format=json`
    pub(crate) json: bool,
    /// `ignorestatus`: findings do not make it fail.
    pub(crate) ignore_status: bool,
}

/// What can be called: name, what BuildKit calls it, and what it does.
const CALLS: [(&str, &str, &str); 4] = [
    ("check", "frontend.lint", "Lint a Dockerfile"),
    (
        "outline",
        "frontend.outline",
        "List all parameters current build target supports",
    ),
    (
        "targets",
        "frontend.targets",
        "List all targets current build supports",
    ),
    (
        "subrequests.describe",
        "frontend.subrequests.describe",
        "List available subrequest types",
    ),
];

/// Reads `--call`.
pub(crate) fn call(text: &str) -> Result<CallSpec, FlagError> {
    let refused = |why: &str| Err(FlagError::new("--call", text, why));
    let mut spec = CallSpec {
        method: Call::Build,
        json: false,
        ignore_status: false,
    };
    for (at, field) in text.split(',').enumerate() {
        match field.split_once('=') {
            Some(("format", "json")) => spec.json = true,
            Some(("format", "text")) => spec.json = false,
            Some(("format", _)) => return refused("expected format=json or format=text"),
            Some(("ignorestatus", value)) => {
                spec.ignore_status = super::values::boolean("--call", value)?;
            }
            None if field == "ignorestatus" => spec.ignore_status = true,
            None if at == 0 => {
                spec.method = match field {
                    "build" => Call::Build,
                    "check" | "lint" => Call::Check,
                    "outline" => Call::Outline,
                    "targets" => Call::Targets,
                    "subrequests.describe" => Call::Describe,
                    _ => {
                        return refused(
                            "expected build, check, outline, targets or subrequests.describe",
                        );
                    }
                }
            }
            _ => return refused("expected METHOD[,format=json][,ignorestatus]"),
        }
    }
    Ok(spec)
}

/// A Dockerfile that places are in.
#[derive(Clone, Copy)]
pub(crate) struct Source<'a> {
    /// How messages call it.
    pub(crate) name: &'a str,
    /// What it says.
    pub(crate) text: &'a str,
}

impl Source<'_> {
    /// The place as BuildKit's JSON has it.
    pub(crate) fn range(&self, span: Span) -> Value {
        let at = |offset| {
            let (line, column) = position(self.text, offset);
            json!({ "line": line, "character": column.saturating_sub(1) })
        };
        json!({ "start": at(span.start), "end": at(span.end) })
    }

    fn location(&self, span: Span) -> Value {
        json!({ "ranges": [self.range(span)] })
    }

    fn data(&self) -> String {
        use base64::Engine as _;
        base64::engine::general_purpose::STANDARD.encode(self.text)
    }

    /// The file itself, as warnings of a build carry it.
    pub(crate) fn info(&self) -> Value {
        json!({ "filename": self.name, "data": self.data(), "language": "Dockerfile" })
    }
}

/// Why a file could not be checked to its end.
pub(crate) struct Broken {
    /// In one line.
    pub(crate) message: String,
    /// Where, if the file is to blame.
    pub(crate) span: Option<Span>,
    /// What to do.
    pub(crate) hint: Option<String>,
}

/// What `--check` found.
pub(crate) fn check(
    source: Source<'_>,
    found: &[Diagnostic],
    broken: Option<&Broken>,
    json: bool,
) -> String {
    let mut found: Vec<&Diagnostic> = found.iter().collect();
    found.sort_by_key(|d| d.span.start);
    if json {
        let warnings: Vec<Value> = found.iter().map(|d| warning(source, d)).collect();
        let mut value = json!({ "warnings": warnings, "sources": [source.info()] });
        if let Some(broken) = broken {
            value["buildError"] = json!({ "message": broken.message });
            if let Some(span) = broken.span {
                value["buildError"]["location"] = source.location(span);
            }
        }
        return pretty(&value);
    }
    let mut out = String::new();
    match (found.len(), broken) {
        (0, None) => out.push_str("Check complete, no warnings found.\n"),
        (0, Some(_)) => {}
        (1, _) => out.push_str("Check complete, 1 warning has been found!\n"),
        (count, _) => out.push_str(&format!(
            "Check complete, {count} warnings have been found!\n"
        )),
    }
    for diagnostic in found {
        let page = page(diagnostic).map_or_else(String::new, |url| format!(" - {url}"));
        out.push_str(&format!(
            "\nWARNING: {}{page}\n{}\n{}",
            diagnostic.rule.unwrap_or_default(),
            diagnostic.message,
            failure::marked(source.name, source.text, diagnostic.span)
        ));
        if let Some(hint) = &diagnostic.hint {
            out.push_str(&format!("hint: {hint}\n"));
        }
    }
    if let Some(broken) = broken {
        out.push_str(&format!("\nERROR: {}\n", broken.message));
        if let Some(span) = broken.span {
            out.push_str(&failure::marked(source.name, source.text, span));
        }
        if let Some(hint) = &broken.hint {
            out.push_str(&format!("hint: {hint}\n"));
        }
    }
    out.trim_start_matches('\n').to_owned()
}

fn page(diagnostic: &Diagnostic) -> Option<String> {
    lint::Rule::named(diagnostic.rule?)?.url()
}

fn warning(source: Source<'_>, diagnostic: &Diagnostic) -> Value {
    let name = diagnostic.rule.unwrap_or_default();
    let mut value = json!({
        "ruleName": name,
        "description": description(name),
        "detail": diagnostic.message,
        "location": source.location(diagnostic.span),
    });
    if let Some(url) = page(diagnostic) {
        value["url"] = json!(url);
    }
    value
}

fn description(rule: &str) -> &'static str {
    let footgun = || Footgun::named(rule).map_or("", |footgun| footgun.description);
    lint::Rule::named(rule).map_or_else(footgun, |rule| rule.description)
}

/// A warning of a build, as BuildKit's status stream has it.
pub(crate) fn build_warning(source: Option<Source<'_>>, diagnostic: &Diagnostic) -> Value {
    use base64::Engine as _;
    let encode = |text: &str| base64::engine::general_purpose::STANDARD.encode(text);
    let mut value = json!({ "level": 1 });
    let mut short = diagnostic.message.clone();
    if let Some(rule) = diagnostic.rule {
        short = format!("{rule}: {short}");
        let mut detail = vec![encode(description(rule))];
        detail.extend(diagnostic.hint.as_deref().map(encode));
        value["detail"] = json!(detail);
    }
    if let Some(url) = page(diagnostic) {
        value["url"] = json!(url);
    }
    if let Some(source) = source {
        let (line, _) = position(source.text, diagnostic.span.start);
        short = format!("{short} (line {line})");
        value["sourceInfo"] = source.info();
        value["range"] = json!([source.range(diagnostic.span)]);
    }
    value["short"] = json!(encode(&short));
    value
}

/// What the target takes.
pub(crate) fn outline(source: Source<'_>, outline: &Outline, json: bool) -> String {
    if json {
        let mounts = |list: &[OutlineMount]| -> Vec<Value> {
            let mount = |m: &OutlineMount| {
                let mut value = json!({ "name": m.id, "location": source.location(m.span) });
                if m.required {
                    value["required"] = json!(true);
                }
                value
            };
            list.iter().map(mount).collect()
        };
        let args: Vec<Value> = outline
            .args
            .iter()
            .map(|arg| {
                let mut value = json!({ "name": arg.name, "location": source.location(arg.span) });
                put(&mut value, "description", &arg.description);
                put(&mut value, "value", &arg.value);
                value
            })
            .collect();
        let caches: Vec<Value> = outline
            .caches
            .iter()
            .map(|m| json!({ "ID": m.id, "location": source.location(m.span) }))
            .collect();
        let mut value = json!({ "sources": [source.data()] });
        put(&mut value, "name", &outline.name);
        put(&mut value, "description", &outline.description);
        for (key, list) in [
            ("args", args),
            ("secrets", mounts(&outline.secrets)),
            ("ssh", mounts(&outline.ssh)),
            ("cache", caches),
        ] {
            if !list.is_empty() {
                value[key] = json!(list);
            }
        }
        return pretty(&value);
    }
    let mut parts = Vec::new();
    let name = if outline.name.is_empty() {
        "(default)"
    } else {
        &outline.name
    };
    let mut head = format!("TARGET:      {name}\n");
    if !outline.description.is_empty() {
        head.push_str(&format!("DESCRIPTION: {}\n", outline.description));
    }
    parts.push(head);
    if !outline.args.is_empty() {
        let mut table = Table::new(&["BUILD ARG", "VALUE", "DESCRIPTION"]);
        for arg in &outline.args {
            table.row(
                [&arg.name, &arg.value, &arg.description]
                    .map(Clone::clone)
                    .to_vec(),
            );
        }
        parts.push(table.render());
    }
    for (title, list) in [("SECRET", &outline.secrets), ("SSH", &outline.ssh)] {
        if !list.is_empty() {
            let mut table = Table::new(&[title, "REQUIRED"]);
            for mount in list {
                let required = if mount.required { "true" } else { "" };
                table.row(vec![mount.id.clone(), required.to_owned()]);
            }
            parts.push(table.render());
        }
    }
    if !outline.caches.is_empty() {
        let mut table = Table::new(&["CACHE MOUNT"]);
        for mount in &outline.caches {
            table.row(vec![mount.id.clone()]);
        }
        parts.push(table.render());
    }
    parts.join("\n")
}

/// The stages.
pub(crate) fn targets(source: Source<'_>, dockerfile: &Dockerfile, json: bool) -> String {
    let last = dockerfile.stages.len().saturating_sub(1);
    let name_of = |stage: &strata::dockerfile::Stage| stage.name.clone().unwrap_or_default();
    if json {
        let targets: Vec<Value> = dockerfile
            .stages
            .iter()
            .map(|stage| {
                let mut value = json!({ "location": source.location(stage.from.span) });
                let name = name_of(stage);
                put(&mut value, "name", &name);
                put(
                    &mut value,
                    "description",
                    &described(&stage.from.comment, &name),
                );
                put(&mut value, "base", &stage.base.text);
                if let Some(platform) = &stage.platform {
                    put(&mut value, "platform", &platform.text);
                }
                if stage.index == last {
                    value["default"] = json!(true);
                }
                value
            })
            .collect();
        return pretty(&json!({ "targets": targets, "sources": [source.data()] }));
    }
    let mut table = Table::new(&["TARGET", "DESCRIPTION"]);
    for stage in &dockerfile.stages {
        let name = name_of(stage);
        let shown = match (name.as_str(), stage.index == last) {
            // A stage without a name is built by its number.
            ("", false) => stage.index.to_string(),
            ("", true) => "(default)".to_owned(),
            (name, false) => name.to_owned(),
            (name, true) => format!("{name} (default)"),
        };
        table.row(vec![shown, described(&stage.from.comment, &name)]);
    }
    table.render()
}

/// What can be called.
pub(crate) fn describe(json: bool) -> String {
    if json {
        let all = CALLS.map(|(_, name, about)| {
            json!({ "name": name, "version": "1.0.0", "type": "rpc", "description": about })
        });
        return pretty(&json!(all));
    }
    let mut table = Table::new(&["NAME", "VERSION", "DESCRIPTION"]);
    for (name, _, about) in CALLS {
        table.row(vec![name.to_owned(), "1.0.0".to_owned(), about.to_owned()]);
    }
    table.render()
}

fn put(value: &mut Value, key: &str, text: &str) {
    if !text.is_empty() {
        value[key] = json!(text);
    }
}

fn pretty(value: &Value) -> String {
    // With the alternate flag, indented.
    format!("{value:#}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_called() {
        for (text, method, json, ignore_status) in [
            ("build", Call::Build, false, false),
            ("check", Call::Check, false, false),
            ("lint,format=json", Call::Check, true, false),
            ("outline,format=text", Call::Outline, false, false),
            (
                "targets,ignorestatus,format=json",
                Call::Targets,
                true,
                true,
            ),
            (
                "subrequests.describe,ignorestatus=false",
                Call::Describe,
                false,
                false,
            ),
        ] {
            let spec = CallSpec {
                method,
                json,
                ignore_status,
            };
            assert_eq!(call(text), Ok(spec), "{text}");
        }
        for text in [
            "",
            "made-up",
            "check,format=xml",
            "check,outline",
            "check,x=y",
            "format",
        ] {
            assert!(call(text).is_err(), "{text}");
        }
    }

    #[test]
    fn places_count_characters_from_their_line() {
        let source = Source {
            name: "Dockerfile",
            text: "FROM a\nCMD é x\n",
        };
        let range = source.range(Span { start: 11, end: 15 });
        assert_eq!(
            range,
            json!({ "start": { "line": 2, "character": 4 }, "end": { "line": 2, "character": 7 } })
        );
    }
}
