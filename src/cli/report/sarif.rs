//! `layers --sarif`: the verdict as SARIF 2.1.0, and where in a repository a Dockerfile is.
//!
//! Every result has a place, for code scanning shows no other: lines of the Dockerfile where they are known, of a base's layer those of
//! the `FROM`; else the first line of a file that is called like the image. Fingerprints are of the rule, the path and the
//! instruction: a rebuild, another tag or a line more above changes none.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use strata::inspect::gate::{GateLayer, Kind, Outcome, Verdict, Violation};
use strata::inspect::{Contents, LayersReport, Lines, escaped};
use strata::oci::Digest;

use super::broken::{path, place, sentence};
use crate::cli::error::{CliError, Doing as _};

/// Where the schema is, for editors.
const SCHEMA: &str =
    "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json";

/// What the documents call files.
pub(super) struct Paths<'a> {
    /// The Dockerfile that made the image, as a path in its repository.
    dockerfile: Option<String>,
    /// The line to blame for what its base brought.
    from: Option<Lines<'a>>,
    image: &'a str,
}

/// A stretch of a file.
pub(super) struct Spot {
    /// With slashes, relative.
    pub(super) path: String,
    /// The first line, from 1.
    pub(super) line: u32,
    /// The last.
    pub(super) end_line: u32,
}

impl<'a> Paths<'a> {
    /// Of an image; `given` is what the user calls the Dockerfile.
    pub(super) fn new(
        contents: &'a Contents,
        verdict: &Verdict<'a>,
        given: Option<&str>,
    ) -> Paths<'a> {
        let origin = contents.origin.as_ref();
        let own = origin.map(|origin| {
            let place = origin.path.as_ref().map(|path| {
                use std::os::unix::ffi::OsStrExt as _;
                Path::new(std::ffi::OsStr::from_bytes(&path.0))
            });
            place
                .and_then(in_repository)
                .map_or_else(|| origin.dockerfile.clone(), |p| p.display().to_string())
        });
        Paths {
            dockerfile: given.map(str::to_owned).or(own),
            from: verdict.base.and_then(|base| base.from),
            image: &contents.documents.name,
        }
    }

    /// The lines of the Dockerfile that a violation is about, where they are known.
    pub(super) fn dockerfile(&self, violation: &Violation<'_>) -> Option<Spot> {
        let lines = self.lines(violation.layer.as_ref());
        match (lines, &self.dockerfile) {
            (Some(lines), _) => Some(self.spot(&lines)),
            (None, Some(path)) => Some(Spot {
                path: path.clone(),
                line: 1,
                end_line: 1,
            }),
            (None, None) => None,
        }
    }

    /// The lines that made a layer; of one of the base, and of what no layer has, the `FROM`.
    fn lines<'l>(&'l self, layer: Option<&GateLayer<'l>>) -> Option<Lines<'l>> {
        match layer {
            Some(layer) if layer.of_base != Some(true) => layer.blame.dockerfile,
            _ => self.from,
        }
    }

    /// Where a layer came from, in words.
    pub(super) fn place(&self, layer: &GateLayer<'_>) -> String {
        place(layer, self.from.as_ref())
    }

    fn spot(&self, lines: &Lines<'_>) -> Spot {
        let path = self.dockerfile.clone();
        Spot {
            path: path.unwrap_or_else(|| lines.file.to_owned()),
            line: lines.line,
            end_line: lines.end_line.max(lines.line),
        }
    }

    fn location(&self, violation: &Violation<'_>) -> Value {
        let spot = self.dockerfile(violation).unwrap_or_else(|| Spot {
            path: self.image.to_owned(),
            line: 1,
            end_line: 1,
        });
        located(&spot, violation.layer.as_ref(), &path(violation))
    }
}

/// A path as its repository knows it: below the closest folder above it that has a `.git`, else below the working folder.
fn in_repository(path: &Path) -> Option<PathBuf> {
    // The lineage may have come over a link.
    let path = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let mut above = path.ancestors().skip(1);
    let top = above
        .find(|folder| folder.join(".git").exists())
        .map(Path::to_owned)
        .or_else(|| std::env::current_dir().ok()?.canonicalize().ok())?;
    path.strip_prefix(top).ok().map(Path::to_owned)
}

/// A relative reference (RFC 3986, section 4.2) to a path: parts without what has a meaning there.
fn uri(path: &str) -> String {
    let mut out = String::new();
    for part in path.split('/').filter(|part| !matches!(*part, "" | ".")) {
        if !out.is_empty() {
            out.push('/');
        }
        for byte in part.bytes() {
            if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
                out.push(char::from(byte));
            } else {
                out.push_str(&format!("%{byte:02X}"));
            }
        }
    }
    out
}

fn located(spot: &Spot, layer: Option<&GateLayer<'_>>, path: &str) -> Value {
    let mut value = json!({
        "physicalLocation": {
            "artifactLocation": { "uri": uri(&spot.path), "uriBaseId": "%SRCROOT%" },
            "region": { "startLine": spot.line, "endLine": spot.end_line },
        },
    });
    let mut logical = Vec::new();
    if let Some(layer) = layer {
        logical.push(json!({
            "name": format!("layer {}", layer.blame.layer),
            "fullyQualifiedName": layer.diff_id.to_string(),
            "kind": "layer",
        }));
    }
    if !path.is_empty() {
        logical.push(json!({ "fullyQualifiedName": path, "kind": "file" }));
    }
    if !logical.is_empty() {
        value["logicalLocations"] = json!(logical);
    }
    value
}

/// The document.
pub(super) fn render(
    report: &LayersReport<'_>,
    verdict: &Verdict<'_>,
    paths: &Paths<'_>,
) -> Result<Vec<u8>, CliError> {
    let mut kinds: Vec<Kind> = Vec::new();
    for outcome in &verdict.rules {
        if !kinds.contains(&outcome.rule.kind) {
            kinds.push(outcome.rule.kind);
        }
    }
    let mut results = Vec::new();
    let mut seen: HashMap<String, u64> = HashMap::new();
    for outcome in &verdict.rules {
        let index = kinds.iter().position(|kind| *kind == outcome.rule.kind);
        for violation in &outcome.violations {
            let print = fingerprint(outcome, violation);
            let count = seen.entry(print.clone()).or_default();
            *count += 1;
            let print = format!("{print}:{count}");
            let mut value = result(outcome, violation, paths, &print);
            value["ruleIndex"] = json!(index);
            results.push(value);
        }
    }
    let document = json!({
        "$schema": SCHEMA,
        "version": "2.1.0",
        "runs": [{
            "tool": { "driver": {
                "name": "strata",
                "version": env!("CARGO_PKG_VERSION"),
                "semanticVersion": env!("CARGO_PKG_VERSION"),
                "rules": kinds.iter().map(|kind| descriptor(*kind)).collect::<Vec<_>>(),
            } },
            "invocations": [{ "executionSuccessful": true }],
            "results": results,
            "properties": {
                "image": report.image.name,
                "digest": report.image.digest.to_string(),
                "platform": report.image.platform.to_string(),
            },
        }],
    });
    let mut text = serde_json::to_vec_pretty(&document).doing(|| "write SARIF".to_owned())?;
    text.push(b'\n');
    Ok(text)
}

fn descriptor(kind: Kind) -> Value {
    json!({
        "id": kind.name(),
        "shortDescription": { "text": kind.meaning() },
        "fullDescription": { "text": kind.meaning() },
        "help": { "text": format!("{} {}", kind.meaning(), kind.remedy()) },
        "defaultConfiguration": { "level": "error" },
    })
}

fn result(
    outcome: &Outcome<'_>,
    violation: &Violation<'_>,
    paths: &Paths<'_>,
    fingerprint: &str,
) -> Value {
    let mut message = format!("{}.", sentence(outcome, violation));
    if let Some(layer) = &violation.layer {
        message.push_str(&format!(" {}.", paths.place(layer)));
    }
    message.push_str(&format!(" To mend it: {}.", violation.change));
    let mut value = json!({
        "ruleId": outcome.name,
        "level": "error",
        // Braces would be placeholders, which a message without arguments has none of.
        "message": { "text": escaped_braces(&message) },
        "locations": [paths.location(violation)],
        // The second is what code scanning looks at.
        "partialFingerprints": { "strata/v1": fingerprint, "primaryLocationLineHash": fingerprint },
        "properties": { "rule": outcome.rule.to_string() },
    });
    let related: Vec<Value> = violation
        .parts
        .iter()
        .enumerate()
        .filter_map(|(at, part)| {
            let lines = paths.lines(Some(&part.layer))?;
            let path = part.path.as_deref().unwrap_or_default();
            let path = escaped(path.as_bytes());
            let mut value = located(&paths.spot(&lines), Some(&part.layer), &path);
            let text = format!("{} bytes: {}", part.bytes, paths.place(&part.layer));
            value["id"] = json!(at + 1);
            value["message"] = json!({ "text": escaped_braces(&text) });
            Some(value)
        })
        .collect();
    if !related.is_empty() {
        value["relatedLocations"] = json!(related);
    }
    value
}

/// Braces of a message, doubled (section 3.11.5); brackets, which would begin a link (section 3.11.6), with a backslash before them.
fn escaped_braces(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '{' => out.push_str("{{"),
            '}' => out.push_str("}}"),
            '[' => out.push_str("\\["),
            ']' => out.push_str("\\]"),
            c => out.push(c),
        }
    }
    out
}

/// What stays the same while the violation does.
fn fingerprint(outcome: &Outcome<'_>, violation: &Violation<'_>) -> String {
    let measure = match outcome.limit {
        Some(strata::inspect::gate::Measure::Millionths(_)) => "share",
        _ => "",
    };
    let whole = violation.path.is_none() && outcome.rule.kind != Kind::Layer;
    let instruction = match &violation.layer {
        Some(layer) if !whole => layer.blame.instruction.unwrap_or_default(),
        _ => "",
    };
    let own = if outcome.rule.own { "own" } else { "" };
    let path = violation.path.as_ref().map_or(&b""[..], |p| p.bytes());
    let mut bytes = Vec::new();
    for field in [
        outcome.name.as_bytes(),
        own.as_bytes(),
        measure.as_bytes(),
        path,
        instruction.as_bytes(),
    ] {
        bytes.extend_from_slice(&(field.len() as u64).to_le_bytes());
        bytes.extend_from_slice(field);
    }
    Digest::of(&bytes).hex()[..16].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_become_relative_references() {
        for (path, want) in [
            ("Dockerfile", "Dockerfile"),
            ("./a b/Döckerfile", "a%20b/D%C3%B6ckerfile"),
            ("docker://host:5000/app:1", "docker%3A/host%3A5000/app%3A1"),
            ("oci:/abs", "oci%3A/abs"),
            ("/abs/x", "abs/x"),
        ] {
            assert_eq!(uri(path), want);
        }
    }

    #[test]
    fn messages_have_neither_placeholders_nor_links() {
        assert_eq!(escaped_braces("{0} [x](1)"), "{{0}} \\[x\\](1)");
    }
}
