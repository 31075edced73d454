//! The reports' JSON against the schemas in `schema/`, and these against what they may not let through.

use std::convert::Infallible;
use std::sync::Arc;

use serde_json::Value;

use super::gate::{Rules, Secrets, judge};
use super::testing::{image, toc};
use super::{DiffReport, FilesReport, LayersReport, Side, Survey, WhyReport};
use crate::oci::DiffId;
use crate::store::{Copied, CopyOrigin, Made, PathBytes};

/// What of a value is not as a schema says: the part of JSON Schema that ours use.
fn faults(schema: &Value, value: &Value, all: &Value, at: &str, out: &mut Vec<String>) {
    if let Some(name) = schema["$ref"].as_str() {
        let name = name.strip_prefix("#/$defs/").unwrap();
        assert!(all["$defs"][name].is_object(), "{name} is not defined");
        return faults(&all["$defs"][name], value, all, at, out);
    }
    if let Some(options) = schema["anyOf"].as_array() {
        let fits = |option: &Value| {
            let mut inner = Vec::new();
            faults(option, value, all, at, &mut inner);
            inner
        };
        let tried: Vec<_> = options.iter().map(fits).collect();
        if !tried.iter().any(Vec::is_empty) {
            out.extend(tried.into_iter().flatten());
        }
        return;
    }
    if schema.get("const").is_some_and(|c| c != value) {
        out.push(format!("{at}: {value}"));
    }
    if let Some(options) = schema["enum"].as_array()
        && !options.contains(value)
    {
        out.push(format!("{at}: {value} is none of {options:?}"));
    }
    let is = |kind: &str| match kind {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "integer" => value.is_i64() || value.is_u64(),
        "number" => value.is_number(),
        "boolean" => value.is_boolean(),
        "null" => value.is_null(),
        other => panic!("{other}"),
    };
    let typed = match &schema["type"] {
        Value::String(kind) => is(kind),
        Value::Array(kinds) => kinds.iter().any(|k| is(k.as_str().unwrap())),
        _ => true,
    };
    if !typed {
        out.push(format!("{at}: {value} is not {}", schema["type"]));
    }
    if schema["minimum"]
        .as_i64()
        .is_some_and(|m| value.as_i64().is_some_and(|v| v < m))
    {
        out.push(format!("{at}: {value} is too small"));
    }
    for item in value.as_array().into_iter().flatten() {
        if let Some(items) = schema.get("items") {
            faults(items, item, all, &format!("{at}[]"), out);
        }
    }
    let Some(object) = value.as_object() else {
        return;
    };
    for name in schema["required"].as_array().into_iter().flatten() {
        if !object.contains_key(name.as_str().unwrap()) {
            out.push(format!("{at}: {name} is missing"));
        }
    }
    for (name, value) in object {
        let at = format!("{at}.{name}");
        match schema["properties"].get(name) {
            Some(schema) => faults(schema, value, all, &at, out),
            None if schema["additionalProperties"] == Value::Bool(false) => {
                out.push(format!("{at} is unknown"));
            }
            None => {}
        }
    }
}

fn check(schema: &str, report: &impl serde::Serialize) -> Value {
    let schema: Value = serde_json::from_str(schema).unwrap();
    let value = serde_json::to_value(report).unwrap();
    let mut found = Vec::new();
    faults(&schema, &value, &schema, "", &mut found);
    assert!(found.is_empty(), "{found:#?}");
    // What the schema asks for is there to be asked for.
    for field in schema["required"].as_array().unwrap() {
        let mut less = value.clone();
        less.as_object_mut()
            .unwrap()
            .remove(field.as_str().unwrap());
        let mut found = Vec::new();
        faults(&schema, &less, &schema, "", &mut found);
        assert!(!found.is_empty(), "{field} may be missing");
    }
    let mut more = value.clone();
    more["surprise"] = Value::Null;
    faults(&schema, &more, &schema, "", &mut found);
    assert_eq!(found, [".surprise is unknown"]);
    value
}

#[test]
fn reports_are_as_their_schemas_say() {
    let mut contents = image(&[
        "d d\nf d/a A*10\nf d/b B*20\nl d/c d/a\ns l d/a\nf x X*5",
        "f d/a A*10 755\nw d/b\nf y A*10",
    ]);
    contents.layers[0].made = Some(Made {
        dockerfile: "Dockerfile".to_owned(),
        line: 2,
        end_line: 3,
        stage: "stage-0".to_owned(),
        copied: vec![Copied {
            to: PathBytes(b"d".to_vec()),
            from: PathBytes(b"src".to_vec()),
            origin: CopyOrigin::Stage("build".to_owned()),
        }],
    });
    let layers = include_str!("schema/layers.v1.json");
    check(layers, &LayersReport::new(&contents, false));
    let value = check(layers, &LayersReport::new(&contents, true));
    assert_eq!(value["layers"][1]["files"][1]["change"], "removed");
    let rules =
        Rules::parse("wasted>1B,wasted>90%,layers>1,file>1B,setuid,secret-like,root-user").unwrap();
    let mut report = LayersReport::new(&contents, false);
    let secrets = Secrets::by_name(&contents);
    report.gate = Some(judge(&contents, &report, &rules, &secrets, Some(1)).unwrap());
    let gate = &check(layers, &report)["gate"];
    assert_eq!(gate["rules"][0]["violations"][0]["parts"][0]["bytes"], 20);
    assert_eq!(gate["rules"][3]["violations"][0]["fate"]["deleted"], false);
    let files = check(
        include_str!("schema/files.v1.json"),
        &FilesReport::new(&contents, b""),
    );
    assert_eq!(files["files"][2]["source"]["path"], "src/c");
    let why = include_str!("schema/why.v1.json");
    check(why, &WhyReport::new(&contents, b"d/b"));
    check(why, &WhyReport::new(&contents, b"l"));
    let odd = check(why, &WhyReport::new(&contents, b"\xff\""));
    assert_eq!(odd["path_base64"], "/yI=");
    let mut survey = Survey::default();
    let other = image(&["f d/a A*10"]);
    survey.add(&contents);
    survey.add(&other);
    let table = |id: &DiffId| {
        let mut layers = contents.layers.iter().chain(&other.layers);
        let layer = layers.find(|l| l.diff_id == *id).unwrap();
        Ok::<_, Infallible>(Arc::clone(&layer.toc))
    };
    let Ok(report) = survey.finish(1, table);
    check(include_str!("schema/dedup.v1.json"), &report);
    let (a, b) = (
        Side::Image(Box::new(contents)),
        Side::Folder("dir".to_owned(), Arc::clone(&toc("f x Y*6"))),
    );
    let diff = include_str!("schema/diff.v1.json");
    check(diff, &DiffReport::new(&a, &b));
    let other = Side::Image(Box::new(image(&["f x Y*6"])));
    check(diff, &DiffReport::new(&a, &other));
}
