//! What is recorded of an image, and how it differs from what was expected.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use crate::case::Case;
use crate::image::{BadImage, Image, list};
use crate::pattern;
use crate::tree::{Entry, Tree, flatten};
use crate::world::World;

/// Checks that failed: name to the first few differences.
pub(crate) type Failed = BTreeMap<&'static str, String>;

/// The settings of an image's config that are compared when they are set.
const SETTINGS: &[&str] = &[
    "Env",
    "Cmd",
    "Entrypoint",
    "WorkingDir",
    "User",
    "ExposedPorts",
    "Volumes",
    "Labels",
    "StopSignal",
    "Healthcheck",
    "Shell",
    "OnBuild",
];
/// The same of the document around it.
const AROUND: &[&str] = &["architecture", "os", "variant", "os.version", "author"];
/// What is compared, in the order of `expected.json`.
const CHECKS: &[&str] = &[
    "annotations",
    "argsescaped",
    "config",
    "files",
    "history",
    "layers",
];
/// A difference names this many paths.
const SHOWN: usize = 4;

/// The comparable description of an image: files as the difference from the case's base, addresses of this run as tokens.
pub(crate) fn describe(
    image: &Image,
    case: &Case,
    world: &World,
    tokens: &BTreeMap<String, String>,
) -> Result<Value, BadImage> {
    let have = flatten(&image.layers)?;
    let base = world.base(case.base.as_deref().unwrap_or("busybox"), &image.platform);
    let inner = &image.config["config"];
    let mut settings = Map::new();
    for (keys, from) in [(SETTINGS, inner), (AROUND, &image.config)] {
        settings.extend(
            keys.iter()
                .filter(|key| is_set(&from[**key]))
                .map(|key| ((*key).to_owned(), from[*key].clone())),
        );
    }
    if case.created {
        settings.insert("created".into(), image.config["created"].clone());
    }
    let wanted = case.annotation_keys();
    let mut annotations = image.annotations.clone();
    annotations.retain(|key, _| wanted.contains(&key.as_str()));
    let history: Vec<String> = list(&image.config["history"])
        .iter()
        .map(|entry| said(entry, tokens))
        .collect();
    let description = json!({
        "annotations": annotations,
        "argsescaped": is_set(&inner["ArgsEscaped"]),
        "config": untoken(Value::Object(settings), tokens),
        "files": untoken(Value::Object(changed(&base, &have, case)), tokens),
        "history": history,
        "layers": image.layers.len(),
    });
    Ok(description)
}

/// The paths whose entries differ; one that is only in the base is null.
fn changed(base: &Tree, have: &Tree, case: &Case) -> Map<String, Value> {
    let any = |path: &str, globs: &[String]| globs.iter().any(|glob| pattern::matches(path, glob));
    let mut files = Map::new();
    for path in base
        .keys()
        .chain(have.keys().filter(|path| !base.contains_key(*path)))
    {
        if any(path, &case.ignore) {
            continue;
        }
        let timed = any(path, &case.mtime);
        let seen = |tree: &Tree| {
            let mut entry: Entry = tree.get(path)?.clone();
            entry.retain(|key, _| key != "mtime" || timed);
            Some(Value::Object(entry))
        };
        let (one, two) = (seen(base), seen(have));
        if one != two {
            files.insert(path.clone(), two.unwrap_or(Value::Null));
        }
    }
    files
}

/// One line of history, as the expectations write it.
fn said(entry: &Value, tokens: &BTreeMap<String, String>) -> String {
    let text = replace(entry["created_by"].as_str().unwrap_or_default(), tokens);
    let words: Vec<&str> = text.split_whitespace().collect();
    let text = words.join(" ").replace(" # buildkit", "");
    match entry["empty_layer"] == true {
        true => format!("(empty) {}", text.trim()),
        false => text.trim().to_owned(),
    }
}

/// Whether a setting says anything: null, false, zero and empty ones do not.
fn is_set(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(set) => *set,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => !text.is_empty(),
        Value::Array(items) => !items.is_empty(),
        Value::Object(fields) => !fields.is_empty(),
    }
}

/// Puts tokens for this run's addresses, ids and digests into every string.
fn untoken(value: Value, tokens: &BTreeMap<String, String>) -> Value {
    match value {
        Value::String(text) => replace(&text, tokens).into(),
        Value::Array(items) => items
            .into_iter()
            .map(|item| untoken(item, tokens))
            .collect(),
        Value::Object(fields) => fields
            .into_iter()
            .map(|(key, item)| (replace(&key, tokens), untoken(item, tokens)))
            .collect(),
        other => other,
    }
}

/// Longer values first: one may hold another.
fn replace(text: &str, tokens: &BTreeMap<String, String>) -> String {
    let mut by_length: Vec<(&String, &String)> = tokens.iter().collect();
    by_length.sort_by_key(|(_, value)| std::cmp::Reverse(value.len()));
    by_length
        .into_iter()
        .fold(text.to_owned(), |text, (key, value)| {
            text.replace(value, &format!("@{key}@"))
        })
}

/// Compares descriptions by platform.
pub(crate) fn compare(expected: &Map<String, Value>, got: &Map<String, Value>) -> Failed {
    let platforms =
        |images: &Map<String, Value>| images.keys().cloned().collect::<Vec<_>>().join(", ");
    if platforms(expected) != platforms(got) {
        return Failed::from([(
            "result",
            format!(
                "platforms {}, expected {}",
                platforms(got),
                platforms(expected)
            ),
        )]);
    }
    let mut failed = Failed::new();
    for (want, have) in expected.values().zip(got.values()) {
        for check in CHECKS {
            if want[check] != have[check] {
                failed
                    .entry(check)
                    .or_insert_with(|| difference(&have[check], &want[check]));
            }
        }
    }
    failed
}

fn difference(have: &Value, want: &Value) -> String {
    match (have, want) {
        (Value::Object(have), Value::Object(want)) => {
            let keys = want
                .keys()
                .chain(have.keys().filter(|key| !want.contains_key(*key)));
            let keys: Vec<&String> = keys
                .filter(|key| have.get(*key) != want.get(*key))
                .collect();
            let mut lines: Vec<String> = keys
                .iter()
                .take(SHOWN)
                .map(|key| {
                    format!(
                        "{key}: {}, expected {}",
                        brief(have, want, key),
                        brief(want, have, key)
                    )
                })
                .collect();
            if keys.len() > SHOWN {
                lines.push(format!("and {} more", keys.len() - SHOWN));
            }
            lines.join("; ")
        }
        (Value::Array(have), Value::Array(want)) => {
            let at = have
                .iter()
                .zip(want)
                .position(|(a, b)| a != b)
                .unwrap_or(have.len().min(want.len()));
            let entry =
                |list: &[Value]| list.get(at).map_or("nothing".to_owned(), Value::to_string);
            format!(
                "entry {at}: {}, expected {} ({} of {})",
                entry(have),
                entry(want),
                have.len(),
                want.len()
            )
        }
        _ => format!("{have}, expected {want}"),
    }
}

/// One side of a difference; of two entries only the fields that differ.
fn brief(side: &Map<String, Value>, other: &Map<String, Value>, key: &str) -> String {
    let text = match (side.get(key), other.get(key)) {
        (None, _) => "as in the base, or absent".to_owned(),
        (Some(Value::Null), _) => "removed".to_owned(),
        (Some(Value::Object(one)), Some(Value::Object(two))) => {
            let mut one = one.clone();
            one.retain(|field, value| two.get(field) != Some(value));
            Value::Object(one).to_string()
        }
        (Some(value), _) => value.to_string(),
    };
    text.chars().take(160).collect()
}

#[test]
fn differences_name_the_check_and_the_path() {
    let image = |mode: &str, layers: u64| {
        let files = json!({"/a": {"type": "file", "mode": mode}});
        let Value::Object(images) = json!({"linux/amd64": {"files": files, "layers": layers}})
        else {
            unreachable!("written as an object above");
        };
        images
    };
    assert_eq!(compare(&image("0644", 1), &image("0644", 1)), Failed::new());
    let failed = compare(&image("0644", 1), &image("0600", 2));
    assert_eq!(
        failed["files"],
        r#"/a: {"mode":"0600"}, expected {"mode":"0644"}"#
    );
    assert_eq!(failed["layers"], "2, expected 1");
    assert!(compare(&image("0644", 1), &Map::new()).contains_key("result"));
}

#[test]
fn history_is_compared_without_its_spacing() {
    let tokens = BTreeMap::from([("REG".to_owned(), "127.0.0.1:1".to_owned())]);
    let entry = json!({"created_by": "COPY  127.0.0.1:1/a\n b # buildkit", "empty_layer": true});
    assert_eq!(said(&entry, &tokens), "(empty) COPY @REG@/a b");
}
