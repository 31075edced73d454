//! Image configurations (image-spec config.md) with docker's fields, in the byte form BuildKit gives them.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize};

use super::{DiffId, Digest, Platform};

/// An image configuration. Serialise it with [`ImageConfig::to_bytes`], which fixes the byte form.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct ImageConfig {
    /// The CPU architecture.
    pub architecture: String,
    /// Who made the image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub author: Option<String>,
    /// How a container of it runs.
    #[serde(default, deserialize_with = "null_is_default")]
    pub config: Config,
    /// When the image was made, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    /// One entry for each instruction.
    #[serde(
        default,
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "null_is_default"
    )]
    pub history: Vec<History>,
    /// The operating system.
    pub os: String,
    /// Features the operating system must have.
    #[serde(
        rename = "os.features",
        default,
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "null_is_default"
    )]
    pub os_features: Vec<String>,
    /// The version of a Windows image.
    #[serde(
        rename = "os.version",
        default,
        skip_serializing_if = "Option::is_none"
    )]
    pub os_version: Option<String>,
    /// The layers by diffID.
    pub rootfs: RootFs,
    /// The variant of the CPU.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
}

/// How a container of the image runs.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Config {
    /// `USER[:GROUP]`, names or numbers.
    #[serde(
        default,
        skip_serializing_if = "String::is_empty",
        deserialize_with = "null_is_default"
    )]
    pub user: String,
    /// `PORT/PROTOCOL`.
    #[serde(
        default,
        skip_serializing_if = "BTreeMap::is_empty",
        deserialize_with = "null_is_default"
    )]
    pub exposed_ports: BTreeMap<String, Empty>,
    /// `NAME=VALUE` in the order of their first definition.
    #[serde(
        default,
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "null_is_default"
    )]
    pub env: Vec<String>,
    /// The first words of the command.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub entrypoint: Option<Vec<String>>,
    /// The command, or the arguments of the entrypoint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cmd: Option<Vec<String>>,
    /// Paths of volumes.
    #[serde(
        default,
        skip_serializing_if = "BTreeMap::is_empty",
        deserialize_with = "null_is_default"
    )]
    pub volumes: BTreeMap<String, Empty>,
    /// The working directory, absolute.
    #[serde(
        default,
        skip_serializing_if = "String::is_empty",
        deserialize_with = "null_is_default"
    )]
    pub working_dir: String,
    /// Free key/value pairs.
    #[serde(
        default,
        skip_serializing_if = "BTreeMap::is_empty",
        deserialize_with = "null_is_default"
    )]
    pub labels: BTreeMap<String, String>,
    /// The signal that asks it to stop.
    #[serde(
        default,
        skip_serializing_if = "String::is_empty",
        deserialize_with = "null_is_default"
    )]
    pub stop_signal: String,
    /// A setting only Windows uses, which BuildKit writes on Linux too.
    #[serde(
        default,
        skip_serializing_if = "is_false",
        deserialize_with = "null_is_default"
    )]
    pub args_escaped: bool,
    /// How to see that it is well (docker's).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub healthcheck: Option<Healthcheck>,
    /// Triggers for builds on this image (docker's).
    #[serde(
        default,
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "null_is_default"
    )]
    pub on_build: Vec<String>,
    /// The shell of shell forms (docker's).
    #[serde(
        default,
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "null_is_default"
    )]
    pub shell: Vec<String>,
}

/// `{}`: the value of sets in Go's JSON.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Empty {}

/// A health check; durations in nanoseconds, 0 for the runtime's default.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Healthcheck {
    /// `["NONE"]`, `["CMD", ARG…]` or `["CMD-SHELL", TEXT]`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub test: Vec<String>,
    /// Between two checks, ns.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub interval: i64,
    /// Until a check has failed, ns.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub timeout: i64,
    /// While failures do not count, ns.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub start_period: i64,
    /// Between two checks in the start period, ns.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub start_interval: i64,
    /// Failures in a row that make it unhealthy.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub retries: i64,
}

/// One step of how the image was made (image-spec config.md "history").
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct History {
    /// When, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    /// The instruction.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created_by: Option<String>,
    /// Who.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub author: Option<String>,
    /// Which builder.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub comment: Option<String>,
    /// Whether it made no layer.
    #[serde(default, skip_serializing_if = "is_false")]
    pub empty_layer: bool,
}

/// The layers of an image.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct RootFs {
    /// Always `layers`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Bottom first.
    #[serde(deserialize_with = "null_is_default")]
    pub diff_ids: Vec<DiffId>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
fn is_false(value: &bool) -> bool {
    !value
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
fn is_zero(value: &i64) -> bool {
    *value == 0
}

fn null_is_default<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(
    deserializer: D,
) -> Result<T, D::Error> {
    Ok(Option::<T>::deserialize(deserializer)?.unwrap_or_default())
}

impl ImageConfig {
    /// The configuration of an image without layers: what `FROM scratch` starts from.
    pub fn scratch(platform: &Platform) -> ImageConfig {
        ImageConfig {
            architecture: platform.architecture.clone(),
            author: None,
            config: Config::default(),
            created: None,
            history: Vec::new(),
            os: platform.os.clone(),
            os_features: platform.os_features.clone(),
            os_version: platform.os_version.clone(),
            rootfs: RootFs {
                kind: "layers".to_owned(),
                diff_ids: Vec::new(),
            },
            variant: platform.variant.clone(),
        }
    }

    /// Parses a configuration; unknown fields are dropped, so keep the bytes where they matter.
    pub fn parse(bytes: &[u8]) -> Result<ImageConfig, serde_json::Error> {
        serde_json::from_slice(bytes)
    }

    /// The byte form BuildKit writes: compact, keys in alphabetical order at the top, Go's escapes for `<`, `>`, `&`.
    pub fn to_bytes(&self) -> Vec<u8> {
        let json = serde_json::to_string(self)
            .expect("maps have string keys and no field fails to serialise");
        // These characters occur only inside JSON strings, so a blind replacement is a correct one.
        let mut bytes = Vec::with_capacity(json.len());
        for c in json.chars() {
            match c {
                '<' => bytes.extend_from_slice(b"\\u003c"),
                '>' => bytes.extend_from_slice(b"\\u003e"),
                '&' => bytes.extend_from_slice(b"\\u0026"),
                '\u{2028}' => bytes.extend_from_slice(b"\\u2028"),
                '\u{2029}' => bytes.extend_from_slice(b"\\u2029"),
                c => bytes.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
            }
        }
        bytes
    }

    /// Where the image runs.
    pub fn platform(&self) -> Platform {
        Platform {
            os_version: self.os_version.clone(),
            os_features: self.os_features.clone(),
            ..Platform::new(&self.os, &self.architecture, self.variant.as_deref())
        }
    }

    /// The image ID of this configuration.
    pub fn id(&self) -> Digest {
        Digest::of(&self.to_bytes())
    }
}

impl Config {
    /// The value of an environment variable.
    pub fn env_value(&self, name: &str) -> Option<&str> {
        self.env.iter().find_map(|e| {
            e.split_once('=')
                .filter(|(k, _)| *k == name)
                .map(|(_, v)| v)
        })
    }

    /// Sets an environment variable; one that is there keeps its place.
    pub fn set_env(&mut self, name: &str, value: &str) {
        let entry = format!("{name}={value}");
        match self
            .env
            .iter_mut()
            .find(|e| e.split_once('=').map_or(e.as_str(), |(k, _)| k) == name)
        {
            Some(old) => *old = entry,
            None => self.env.push(entry),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn byte_form_is_compact_ordered_and_escaped() {
        let mut config = ImageConfig::scratch(&Platform::new("linux", "amd64", None));
        config.config.set_env("A", "1");
        config.config.set_env("B", "<&>");
        config.config.set_env("A", "2");
        config.config.args_escaped = true;
        let text = String::from_utf8(config.to_bytes()).unwrap();
        let want = "{\"architecture\":\"amd64\",\"config\":{\"Env\":[\"A=2\",\"B=\\u003c\\u0026\\u003e\"],\"ArgsEscaped\":true},\
                    \"os\":\"linux\",\"rootfs\":{\"type\":\"layers\",\"diff_ids\":[]}}";
        assert_eq!(text, want);
        assert_eq!(ImageConfig::parse(text.as_bytes()).unwrap(), config);
    }

    #[test]
    fn nulls_of_other_builders_are_read() {
        let text = r#"{"architecture":"amd64","os":"linux","config":{"Env":null,"Cmd":null,"Entrypoint":null,"Volumes":null,
            "Labels":null,"OnBuild":null,"Healthcheck":null,"ArgsEscaped":null},"history":null,"rootfs":{"type":"layers","diff_ids":null}}"#;
        let config = ImageConfig::parse(text.as_bytes()).unwrap();
        assert_eq!(config.config, Config::default());
    }
}
