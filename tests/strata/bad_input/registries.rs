//! Registries that lie, break off, refuse, or are none. The repository's name says what is wrong with it.

use std::sync::Arc;

use serde_json::{Value, json};

use super::{Case, case};
use crate::image::sha256;
use crate::registry::{Answer, Asked};

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

/// The layer of an image, another for each.
fn layer(name: &str) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_ustar();
    header
        .set_path(format!("file-{name}"))
        .expect("a short name");
    header.set_mode(0o644);
    header.set_size(100_000);
    header.set_cksum();
    tar.append(&header, &[b'x'; 100_000][..])
        .expect("a Vec takes all");
    tar.into_inner().expect("a Vec takes all")
}

fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", sha256(bytes))
}

fn descriptor(media_type: &str, bytes: &[u8]) -> Value {
    json!({"mediaType": media_type, "digest": digest(bytes), "size": bytes.len()})
}

/// The configuration, with a wrong list of layers where the name asks for it.
fn config(name: &str) -> Vec<u8> {
    let ids = match name {
        "layer-count" => json!([]),
        "wrong-diffid" => json!([digest(b"something else")]),
        _ => json!([digest(&layer(name))]),
    };
    let config = json!({"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": ids}});
    match name {
        "config-html" => b"<html>Sign in</html>".to_vec(),
        _ => config.to_string().into_bytes(),
    }
}

/// The manifest, its media type with it.
fn manifest(name: &str) -> (&'static str, Vec<u8>) {
    let own = descriptor(CONFIG, &config(name));
    let mut body = json!({"schemaVersion": 2, "mediaType": MANIFEST, "config": own, "layers": [descriptor(LAYER, &layer(name))]});
    let mut media_type = MANIFEST;
    match name {
        "both-shapes" => body["manifests"] = json!([descriptor(MANIFEST, b"x")]),
        "schema-1" => {
            body = json!({"schemaVersion": 1, "name": "x", "tag": "latest", "fsLayers": []});
            media_type = "application/vnd.docker.distribution.manifest.v1+prettyjws";
        }
        "schema-99" => body["schemaVersion"] = json!(99),
        "no-config" => drop(body.as_object_mut().and_then(|o| o.remove("config"))),
        "bad-digest" => body["layers"][0]["digest"] = json!("sha256:../../../etc/passwd"),
        "bad-size" => body["layers"][0]["size"] = json!(-1),
        "artifact" => body["config"]["mediaType"] = json!("application/vnd.example.thing"),
        "empty-index" => {
            body = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": []});
            media_type = INDEX;
        }
        "loop-index" => {
            let child = json!({"mediaType": INDEX, "digest": digest(b"loop"), "size": 4});
            body = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [child]});
            media_type = INDEX;
        }
        "json-array" => body = json!([]),
        _ => {}
    }
    (media_type, body.to_string().into_bytes())
}

/// The answers of the repositories below `bad/`.
pub(super) fn fault(asked: &Asked) -> Option<Answer> {
    let rest = asked.path.strip_prefix("/v2/bad/")?;
    let (name, rest) = rest.split_once('/')?;
    let html = || Answer::new(200, *b"<html>Sign in</html>").with("Content-Type", "text/html");
    let error = |status, code: &str| {
        let body = json!({"errors": [{"code": code, "message": "says the registry"}]});
        Answer::new(status, body.to_string().into_bytes()).with("Content-Type", "application/json")
    };
    let is_manifest = rest.starts_with("manifests/");
    let fault = match (name, is_manifest) {
        ("html", true) => html(),
        ("401", _) => error(401, "UNAUTHORIZED").with("WWW-Authenticate", "Basic realm=\"x\""),
        ("401-odd", _) => {
            error(401, "UNAUTHORIZED").with("WWW-Authenticate", "Riddle answer=\"?\"")
        }
        ("401-bare", _) => Answer::new(401, *b""),
        ("token-html", _) => {
            let realm = format!(
                "Bearer realm=\"http://{}/v2/bad/html/manifests/x\",service=\"x\"",
                "127.0.0.1:1"
            );
            error(401, "UNAUTHORIZED").with("WWW-Authenticate", realm)
        }
        ("403", _) => error(403, "DENIED"),
        ("404", _) => error(404, "NAME_UNKNOWN"),
        ("418", _) => Answer::new(418, *b"short and stout"),
        ("500", _) => Answer::new(500, *b"<html>oops</html>").with("Content-Type", "text/html"),
        ("redirect-loop", _) => Answer::new(307, *b"").with("Location", asked.path.clone()),
        ("redirect-nowhere", false) => Answer::new(307, *b""),
        ("redirect-file", false) => Answer::new(307, *b"").with("Location", "file:///etc/passwd"),
        ("huge-manifest", true) => {
            let body: Arc<[u8]> = vec![b' '; 20 << 20].into();
            Answer::new(200, body).with("Content-Type", MANIFEST)
        }
        ("empty-manifest", true) => Answer::new(200, *b"").with("Content-Type", MANIFEST),
        ("blob-404", false) => error(404, "BLOB_UNKNOWN"),
        ("blob-html", false) => html(),
        ("push-denied", _) if asked.method != "GET" => error(403, "DENIED"),
        ("push-bad", _) if asked.method == "PUT" => error(400, "DIGEST_INVALID"),
        ("push-bad", _) => return None,
        _ => good(name, rest)?,
    };
    Some(fault)
}

/// The answer of a registry in order, but for what it is to answer with.
fn good(name: &str, rest: &str) -> Option<Answer> {
    let (media_type, body) = manifest(name);
    let octets = "application/octet-stream";
    if let Some(reference) = rest.strip_prefix("manifests/") {
        let truth = digest(&body);
        let named = match name {
            "lying-header" => digest(b"a lie"),
            _ => truth.clone(),
        };
        if reference.starts_with("sha256:") && reference != truth && name != "wrong-manifest" {
            return Some(Answer::new(404, *b"{}"));
        }
        let answer = Answer::new(200, body).with("Content-Type", media_type);
        return Some(answer.with("Docker-Content-Digest", named));
    }
    let wanted = rest.strip_prefix("blobs/")?;
    let (config, layer) = (config(name), layer(name));
    if wanted == digest(&config) {
        return Some(Answer::new(200, config).with("Content-Type", octets));
    }
    if wanted != digest(&layer) {
        return Some(Answer::new(404, *b"{}"));
    }
    let mut sent = layer;
    let mut cut = None;
    match name {
        "wrong-blob" => sent[600] ^= 1,
        "short-blob" => sent.truncate(50_000),
        "long-blob" => sent.extend([b'y'; 1000]),
        "cut-blob" => cut = Some(10_000),
        _ => {}
    }
    let answer = Answer::new(200, sent).with("Content-Type", octets);
    Some(Answer { cut, ..answer })
}

/// A pull of the repository of that name.
macro_rules! pull {
    ($name:literal, $says:expr) => {
        case(
            $name,
            "",
            concat!("strata pull @REG@/bad/", $name),
            1,
            $says,
        )
    };
}

pub(super) const CASES: &[Case] = &[
    pull!(
        "html",
        &["manifest", "html|malformed|understand|media type"]
    ),
    pull!("401", &["credentials|unauthorized|log in|login"]),
    pull!("401-odd", &["credentials|unauthorized|riddle|log in|login"]),
    pull!("401-bare", &["credentials|unauthorized|log in|login|401"]),
    pull!("token-html", &["127\\.0\\.0\\.1:1"]),
    pull!("403", &["denied|refused|403", "says the registry"]),
    pull!("404", &["bad/404", "not found"]),
    pull!("418", &["418", "short and stout"]),
    pull!("500", &["500"]),
    pull!("redirect-loop", &["redirect"]),
    pull!("redirect-nowhere", &["redirect|location"]),
    pull!("redirect-file", &["redirect|file:"]),
    pull!("huge-manifest", &["too large|larger than"]),
    pull!("empty-manifest", &["manifest"]),
    pull!("both-shapes", &["manifest"]),
    pull!("schema-1", &["manifest|media type|schema"]),
    pull!("schema-99", &["schema|version|99"]),
    pull!("no-config", &["config|manifest"]),
    pull!("bad-digest", &["invalid digest|malformed"]),
    pull!("bad-size", &["malformed|size|-1"]),
    case(
        "artifact",
        "printf 'FROM @REG@/bad/artifact\\nCOPY Dockerfile /\\n' >Dockerfile",
        "strata build -t made .",
        1,
        &["not a container image", "vnd\\.example\\.thing"],
    ),
    pull!("empty-index", &["platform|empty"]),
    pull!("loop-index", &["not found|nested|platform"]),
    pull!("json-array", &["manifest"]),
    pull!("config-html", &["config"]),
    case(
        "layer-count",
        "printf 'FROM @REG@/bad/layer-count\\nCOPY Dockerfile /\\n' >Dockerfile",
        "strata build -t made .",
        1,
        &["1 layers", "lists 0"],
    ),
    pull!("wrong-blob", &["does not match its digest"]),
    pull!("short-blob", &["wrong size|bytes where the manifest says"]),
    pull!("long-blob", &["wrong size|bytes where the manifest says"]),
    pull!("cut-blob", &["connection|failed|size"]),
    pull!("blob-404", &["not found"]),
    pull!("blob-html", &["bytes where the manifest says"]),
    pull!("lying-header", &["digest"]),
    case(
        "wrong-manifest",
        "",
        "strata pull @REG@/bad/wrong-manifest@sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
        1,
        &["does not match its digest"],
    ),
    case(
        "wrong-diffid-build",
        "printf 'FROM @REG@/bad/wrong-diffid\\nCOPY Dockerfile /file\\n' >Dockerfile",
        "strata build -t made .",
        1,
        &["diffID"],
    ),
    case(
        "wrong-blob-build",
        "printf 'FROM @REG@/bad/wrong-blob\\nCOPY Dockerfile /d\\nWORKDIR /file\\n' >Dockerfile",
        "strata build -t made .",
        1,
        &["does not match its digest"],
    ),
    case(
        "build-404",
        "echo 'FROM @REG@/bad/404' >Dockerfile",
        "strata build -t made .",
        1,
        &["bad/404", "not found", "Dockerfile:1"],
    ),
    case(
        "no-tag",
        "",
        "strata pull @REG@/busybox:never",
        1,
        &["busybox:never", "not found"],
    ),
    case(
        "nobody-listens",
        "",
        "strata pull 127.0.0.1:1/x",
        1,
        &["127\\.0\\.0\\.1:1", "connect"],
    ),
    case(
        "push-denied",
        "",
        "strata push busybox @REG@/bad/push-denied",
        1,
        &["denied|refused|403"],
    ),
    case(
        "push-bad-digest",
        "",
        "strata push busybox @REG@/bad/push-bad",
        1,
        &["says the registry|400"],
    ),
    case(
        "copy-out",
        "",
        "strata copy docker://@REG@/bad/wrong-blob oci-archive:out.tar",
        1,
        &["does not match its digest"],
    ),
    case(
        "copy-out-layout",
        "",
        "strata copy docker://@REG@/bad/wrong-blob oci:out",
        1,
        &["does not match its digest"],
    ),
];
