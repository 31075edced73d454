//! `RUN --mount`.

use super::ast::{Mount, MountKind, Sharing, Word};
use super::diagnostic::Diagnostic;
use super::suggest::did_you_mean;
use super::words::WordError;

/// Reads the flag's value. Values with a variable in an option that is not kept as a word (`type`, `sharing`, `required`,
/// `ro`, `rw`) leave what is the default; [`expand`] reads them once the variables are known.
pub(super) fn parse(word: &Word) -> Result<Mount, Diagnostic> {
    build(word, &mut |value| Ok(value.to_string()), false)
}

/// The mount with its values expanded, all options checked again. `from` is not expanded: it cannot hold a variable.
///
/// `expand` is given each value as written, as [`words::expand`](super::words::expand) wants it.
pub fn expand(
    mount: &Mount,
    expand: &mut dyn FnMut(&str) -> Result<String, WordError>,
) -> Result<Mount, Diagnostic> {
    build(&mount.word, expand, true)
}

const KEYS: [&str; 19] = [
    "type",
    "from",
    "source",
    "src",
    "target",
    "dst",
    "destination",
    "readonly",
    "ro",
    "readwrite",
    "rw",
    "id",
    "sharing",
    "required",
    "mode",
    "uid",
    "gid",
    "size",
    "env",
];

fn build(
    word: &Word,
    expand: &mut dyn FnMut(&str) -> Result<String, WordError>,
    expanded: bool,
) -> Result<Mount, Diagnostic> {
    let fail = |message: String| Diagnostic::error(word.span, message);
    let mut mount = Mount {
        word: word.clone(),
        kind: MountKind::Bind,
        target: None,
        source: None,
        from: None,
        id: None,
        read_only: false,
        sharing: Sharing::default(),
        mode: None,
        uid: None,
        gid: None,
        size: None,
        required: false,
        env: None,
    };
    let mut read_only = None;
    let mut sharing = None;
    let mut required = None;
    // Whether the type is known: what it may have is checked only then.
    let mut kind_known = true;
    for field in fields(&word.text)
        .map_err(|reason| fail(format!("failed to parse csv mounts: {reason}")))?
    {
        let (key, value) = match field.split_once('=') {
            Some((key, value)) => (key.to_lowercase(), Some(value)),
            None => (field.to_lowercase(), None),
        };
        let Some(value) = value else {
            match key.as_str() {
                "readonly" | "ro" => read_only = Some(true),
                "readwrite" | "rw" => read_only = Some(false),
                "required" => required = Some(true),
                _ => {
                    return Err(fail(format!(
                        "invalid field '{field}' must be a key=value pair"
                    )));
                }
            }
            continue;
        };
        if key == "from" {
            if value.contains('$') && !value.ends_with('$') {
                return Err(fail(
                    "'from' doesn't support variable expansion, define alias stage instead"
                        .to_string(),
                ));
            }
            mount.from = Some(value_word(word, value));
            continue;
        }
        let value = expand(value).map_err(|error| error.at(&value_word(word, value)))?;
        let deferred = !expanded && value.contains('$');
        let text = value_word(word, &value);
        let flag = || match truth(&value) {
            Some(flag) => Ok(Some(flag)),
            None if deferred => Ok(None),
            None => Err(fail(format!("invalid value for {key}: {value}"))),
        };
        match key.as_str() {
            "type" => match kind(&value) {
                Some(kind) => mount.kind = kind,
                None if deferred => kind_known = false,
                None => {
                    let suggestion =
                        did_you_mean(&value, ["bind", "cache", "tmpfs", "secret", "ssh"]);
                    return Err(fail(format!(
                        "unsupported mount type {value:?}{suggestion}"
                    )));
                }
            },
            "source" | "src" => mount.source = Some(text),
            "target" | "dst" | "destination" => mount.target = Some(text),
            "readonly" | "ro" => read_only = flag()?,
            "readwrite" | "rw" => read_only = flag()?.map(|flag| !flag),
            "required" => required = flag()?,
            "id" => mount.id = Some(text),
            "sharing" => match value.to_lowercase().as_str() {
                "shared" => sharing = Some(Sharing::Shared),
                "private" => sharing = Some(Sharing::Private),
                "locked" => sharing = Some(Sharing::Locked),
                _ if deferred => {}
                _ => {
                    let suggestion = did_you_mean(&value, ["shared", "private", "locked"]);
                    return Err(fail(format!(
                        "unsupported sharing value {value:?}{suggestion}"
                    )));
                }
            },
            "mode" => mount.mode = Some(number(&key, text, 8, deferred)?),
            "uid" => mount.uid = Some(number(&key, text, 10, deferred)?),
            "gid" => mount.gid = Some(number(&key, text, 10, deferred)?),
            "size" => mount.size = Some(text),
            "env" => mount.env = Some(text),
            _ => {
                let suggestion = did_you_mean(&key, KEYS);
                return Err(fail(format!(
                    "unexpected key '{key}' in '{field}'{suggestion}"
                )));
            }
        }
    }
    if kind_known {
        check(&mount, sharing.is_some(), required.is_some()).map_err(fail)?;
    }
    mount.read_only =
        read_only.unwrap_or(!matches!(mount.kind, MountKind::Cache | MountKind::Tmpfs));
    mount.sharing = sharing.unwrap_or_default();
    mount.required = required.unwrap_or_default();
    Ok(mount)
}

/// What the type of a mount may and must have. `ro` and `rw` are taken by all: BuildKit ignores them where they say
/// nothing.
fn check(mount: &Mount, sharing: bool, required: bool) -> Result<(), String> {
    use MountKind::{Bind, Cache, Secret, Ssh, Tmpfs};
    let kind = mount.kind;
    let options: [(&str, bool, &[MountKind]); 10] = [
        ("source", mount.source.is_some(), &[Bind, Cache, Secret]),
        ("from", mount.from.is_some(), &[Bind, Cache]),
        ("id", mount.id.is_some(), &[Cache, Secret, Ssh]),
        ("sharing", sharing, &[Cache]),
        ("mode", mount.mode.is_some(), &[Cache, Secret, Ssh]),
        ("uid", mount.uid.is_some(), &[Cache, Secret, Ssh]),
        ("gid", mount.gid.is_some(), &[Cache, Secret, Ssh]),
        ("size", mount.size.is_some(), &[Tmpfs]),
        ("required", required, &[Secret, Ssh]),
        ("env", mount.env.is_some(), &[Secret]),
    ];
    for (key, given, kinds) in options {
        if given && !kinds.contains(&kind) {
            return Err(format!(
                "unexpected key '{key}' for mount type '{}'",
                name(kind)
            ));
        }
    }
    match kind {
        Bind | Cache | Tmpfs
            if mount
                .target
                .as_ref()
                .is_none_or(|target| target.text.is_empty()) =>
        {
            Err(format!("mount type '{}' requires a target", name(kind)))
        }
        Secret if mount.source.is_some() && mount.id.is_some() => {
            Err("both source and id can't be set".to_string())
        }
        Secret if mount.source.is_none() && mount.id.is_none() && mount.target.is_none() => {
            Err("invalid secret mount. one of source, target required".to_string())
        }
        _ => Ok(()),
    }
}

fn kind(text: &str) -> Option<MountKind> {
    Some(match text.to_lowercase().as_str() {
        "bind" => MountKind::Bind,
        "cache" => MountKind::Cache,
        "tmpfs" => MountKind::Tmpfs,
        "secret" => MountKind::Secret,
        "ssh" => MountKind::Ssh,
        _ => return None,
    })
}

fn name(kind: MountKind) -> &'static str {
    match kind {
        MountKind::Bind => "bind",
        MountKind::Cache => "cache",
        MountKind::Tmpfs => "tmpfs",
        MountKind::Secret => "secret",
        MountKind::Ssh => "ssh",
    }
}

/// What Go's `ParseBool` takes.
fn truth(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

fn number(key: &str, word: Word, radix: u32, deferred: bool) -> Result<Word, Diagnostic> {
    if !deferred && u32::from_str_radix(&word.text, radix).is_err() {
        return Err(Diagnostic::error(
            word.span,
            format!("invalid value {} for {key}", word.text),
        ));
    }
    Ok(word)
}

/// A value with the whole flag's place: what quoting did to it is not followed.
fn value_word(word: &Word, value: &str) -> Word {
    Word {
        text: value.to_string(),
        span: word.span,
    }
}

/// The fields of a line of comma-separated values; a field in quotes may hold commas, and quotes by doubling them.
fn fields(text: &str) -> Result<Vec<String>, &'static str> {
    let mut fields = Vec::new();
    let mut rest = text;
    loop {
        if let Some(quoted) = rest.strip_prefix('"') {
            let mut field = String::new();
            let mut inner = quoted;
            loop {
                let (part, tail) = inner
                    .split_once('"')
                    .ok_or("extraneous or missing \" in quoted-field")?;
                field.push_str(part);
                match tail.strip_prefix('"') {
                    Some(tail) => {
                        field.push('"');
                        inner = tail;
                    }
                    None => {
                        inner = tail;
                        break;
                    }
                }
            }
            fields.push(field);
            match inner.strip_prefix(',') {
                Some(tail) => rest = tail,
                None if inner.is_empty() => return Ok(fields),
                None => return Err("extraneous or missing \" in quoted-field"),
            }
        } else {
            let (field, tail) = match rest.split_once(',') {
                Some((field, tail)) => (field, Some(tail)),
                None => (rest, None),
            };
            if field.contains('"') {
                return Err("bare \" in non-quoted-field");
            }
            fields.push(field.to_string());
            match tail {
                Some(tail) => rest = tail,
                None => return Ok(fields),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::ast::Span;
    use super::*;

    fn mount(text: &str) -> Result<Mount, String> {
        let word = Word {
            text: text.to_string(),
            span: Span::default(),
        };
        parse(&word).map_err(|error| error.message)
    }

    #[test]
    fn defaults_by_type() {
        for (text, kind, read_only) in [
            ("target=/x", MountKind::Bind, true),
            ("type=bind,target=/x,rw", MountKind::Bind, false),
            ("type=bind,dst=/x,rw=false", MountKind::Bind, true),
            ("TYPE=Cache,destination=/x", MountKind::Cache, false),
            ("type=cache,target=/x,readonly=1", MountKind::Cache, true),
            ("type=tmpfs,target=/x", MountKind::Tmpfs, false),
            ("type=secret,id=x", MountKind::Secret, true),
            ("type=ssh", MountKind::Ssh, true),
        ] {
            let mount = mount(text).unwrap();
            assert_eq!((mount.kind, mount.read_only), (kind, read_only), "{text}");
        }
    }

    #[test]
    fn options() {
        let cache = mount(
            "type=cache,id=i,target=/c,sharing=Locked,from=s,source=/a,mode=0700,uid=1,gid=2",
        )
        .unwrap();
        assert_eq!(cache.sharing, Sharing::Locked);
        assert_eq!(cache.from.unwrap().text, "s");
        assert_eq!(cache.mode.unwrap().text, "0700");
        let secret = mount("type=secret,id=i,env=E,required").unwrap();
        assert!(secret.required);
        assert_eq!(secret.env.unwrap().text, "E");
        assert_eq!(
            mount("\"target=/a,b\"").unwrap().target.unwrap().text,
            "/a,b"
        );
    }

    #[test]
    fn refusals() {
        for (text, want) in [
            ("type=nosuch,target=/x", "unsupported mount type \"nosuch\""),
            (
                "type=cahce,target=/x",
                "unsupported mount type \"cahce\" (did you mean cache?)",
            ),
            ("type=cache,id=x", "mount type 'cache' requires a target"),
            ("", "invalid field '' must be a key=value pair"),
            ("target", "invalid field 'target' must be a key=value pair"),
            (
                "targe=/x",
                "unexpected key 'targe' in 'targe=/x' (did you mean target?)",
            ),
            (
                "target=/x,mode=0755",
                "unexpected key 'mode' for mount type 'bind'",
            ),
            (
                "target=/x,sharing=locked",
                "unexpected key 'sharing' for mount type 'bind'",
            ),
            (
                "target=/x,size=1",
                "unexpected key 'size' for mount type 'bind'",
            ),
            (
                "target=/x,required",
                "unexpected key 'required' for mount type 'bind'",
            ),
            (
                "type=tmpfs,target=/x,from=a",
                "unexpected key 'from' for mount type 'tmpfs'",
            ),
            (
                "type=ssh,env=X",
                "unexpected key 'env' for mount type 'ssh'",
            ),
            (
                "type=cache,target=/x,sharing=mine",
                "unsupported sharing value \"mine\"",
            ),
            ("type=cache,target=/x,mode=9", "invalid value 9 for mode"),
            (
                "type=cache,target=/x,uid=root",
                "invalid value root for uid",
            ),
            ("target=/x,ro=maybe", "invalid value for ro: maybe"),
            (
                "type=secret",
                "invalid secret mount. one of source, target required",
            ),
            ("type=secret,id=a,src=b", "both source and id can't be set"),
            (
                "target=/x,from=$A",
                "'from' doesn't support variable expansion, define alias stage instead",
            ),
            (
                "target=/x,a\"b",
                "failed to parse csv mounts: bare \" in non-quoted-field",
            ),
            (
                "\"target=/x",
                "failed to parse csv mounts: extraneous or missing \" in quoted-field",
            ),
        ] {
            assert_eq!(mount(text).unwrap_err(), want, "{text}");
        }
    }

    #[test]
    fn variables_are_read_later() {
        let written = mount("type=$T,target=$D,sharing=$S,mode=$M,ro=$R").unwrap();
        let mut values = |text: &str| {
            Ok(match text {
                "$T" => "cache".to_string(),
                "$S" => "private".to_string(),
                "$M" => "0700".to_string(),
                "$R" => "true".to_string(),
                other => other.replace("$D", "/d"),
            })
        };
        let mount = expand(&written, &mut values).unwrap();
        assert_eq!(mount.kind, MountKind::Cache);
        assert_eq!(mount.sharing, Sharing::Private);
        assert_eq!(mount.target.unwrap().text, "/d");
        assert_eq!(mount.mode.unwrap().text, "0700");
        assert!(mount.read_only);
        let error = expand(&written, &mut |_| Ok("x".to_string())).unwrap_err();
        assert_eq!(error.message, "unsupported mount type \"x\"");
    }
}
