//! The image config, with every field that Docker knows and those that nobody knows.

use std::collections::BTreeMap;

use serde::ser::SerializeMap;
use serde::{Deserialize, Serialize, Serializer};
use serde_json::Value;

use crate::digest::DiffId;
use crate::reference::Platform;

/// An image config document. Unknown top-level keys are kept in `rest`.
///
/// Serialises compactly with top-level keys in alphabetical order, as BuildKit's exporter writes it.
#[derive(Clone, Debug, PartialEq, Default, Deserialize)]
pub struct ImageConfig {
    /// CPU kind, Go's name.
    #[serde(default)]
    pub architecture: String,
    /// `MAINTAINER`.
    #[serde(default)]
    pub author: Option<String>,
    /// What a container gets.
    #[serde(default)]
    pub config: ContainerConfig,
    /// RFC 3339 time of the last layer.
    #[serde(default)]
    pub created: Option<String>,
    /// One item per instruction, oldest first.
    #[serde(default, deserialize_with = "null_is_default")]
    pub history: Vec<History>,
    /// `linux`.
    #[serde(default)]
    pub os: String,
    /// Windows only; kept from the base.
    #[serde(default, rename = "os.features", deserialize_with = "null_is_default")]
    pub os_features: Vec<String>,
    /// Windows only; kept from the base.
    #[serde(default, rename = "os.version")]
    pub os_version: Option<String>,
    /// The stack of layers.
    #[serde(default)]
    pub rootfs: RootFs,
    /// CPU variant.
    #[serde(default)]
    pub variant: Option<String>,
    /// Keys that croze does not know.
    #[serde(flatten)]
    pub rest: BTreeMap<String, Value>,
}

impl Serialize for ImageConfig {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        // one sorted list of entries, so that unknown keys stand in their alphabetical place
        enum Entry<'a> {
            Text(&'a str),
            Config(&'a ContainerConfig),
            History(&'a [History]),
            Features(&'a [String]),
            RootFs(&'a RootFs),
            Other(&'a Value),
        }
        let mut entries: BTreeMap<&str, Entry<'_>> =
            self.rest.iter().map(|(key, value)| (key.as_str(), Entry::Other(value))).collect();
        entries.insert("architecture", Entry::Text(&self.architecture));
        if let Some(author) = self.author.as_deref().filter(|author| !author.is_empty()) {
            entries.insert("author", Entry::Text(author));
        }
        entries.insert("config", Entry::Config(&self.config));
        if let Some(created) = &self.created {
            entries.insert("created", Entry::Text(created));
        }
        if !self.history.is_empty() {
            entries.insert("history", Entry::History(&self.history));
        }
        entries.insert("os", Entry::Text(&self.os));
        if !self.os_features.is_empty() {
            entries.insert("os.features", Entry::Features(&self.os_features));
        }
        if let Some(version) = self.os_version.as_deref().filter(|version| !version.is_empty()) {
            entries.insert("os.version", Entry::Text(version));
        }
        entries.insert("rootfs", Entry::RootFs(&self.rootfs));
        if let Some(variant) = self.variant.as_deref().filter(|variant| !variant.is_empty()) {
            entries.insert("variant", Entry::Text(variant));
        }
        let mut map = serializer.serialize_map(Some(entries.len()))?;
        for (key, entry) in entries {
            match entry {
                Entry::Text(text) => map.serialize_entry(key, text)?,
                Entry::Config(config) => map.serialize_entry(key, config)?,
                Entry::History(history) => map.serialize_entry(key, history)?,
                Entry::Features(features) => map.serialize_entry(key, features)?,
                Entry::RootFs(rootfs) => map.serialize_entry(key, rootfs)?,
                Entry::Other(value) => map.serialize_entry(key, value)?,
            }
        }
        map.end()
    }
}

impl ImageConfig {
    /// The config of an empty image for `platform`.
    pub fn scratch(platform: &Platform) -> ImageConfig {
        ImageConfig {
            architecture: platform.architecture.clone(),
            os: platform.os.clone(),
            variant: Some(platform.variant.clone()).filter(|variant| !variant.is_empty()),
            ..ImageConfig::default()
        }
    }

    /// The platform that it says it is for.
    pub fn platform(&self) -> Platform {
        let text = match self.variant.as_deref() {
            Some(variant) if !variant.is_empty() => format!("{}/{}/{variant}", self.os, self.architecture),
            _ => format!("{}/{}", self.os, self.architecture),
        };
        text.parse().unwrap_or_else(|_| Platform {
            os: self.os.clone(),
            architecture: self.architecture.clone(),
            variant: self.variant.clone().unwrap_or_default(),
        })
    }
}

/// What a container gets: the `config` member. Serialises in Docker's field order, empty members left out.
#[derive(Clone, Debug, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct ContainerConfig {
    /// `USER`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub user: String,
    /// `EXPOSE`: `80/tcp`.
    #[serde(default, deserialize_with = "null_is_default", skip_serializing_if = "BTreeMap::is_empty")]
    pub exposed_ports: BTreeMap<String, Value>,
    /// `ENV`: `NAME=value`.
    #[serde(default, deserialize_with = "null_is_default", skip_serializing_if = "Vec::is_empty")]
    pub env: Vec<String>,
    /// `ENTRYPOINT`.
    #[serde(default, deserialize_with = "null_is_default", skip_serializing_if = "Vec::is_empty")]
    pub entrypoint: Vec<String>,
    /// `CMD`.
    #[serde(default, deserialize_with = "null_is_default", skip_serializing_if = "Vec::is_empty")]
    pub cmd: Vec<String>,
    /// `VOLUME`.
    #[serde(default, deserialize_with = "null_is_default", skip_serializing_if = "BTreeMap::is_empty")]
    pub volumes: BTreeMap<String, Value>,
    /// `WORKDIR`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub working_dir: String,
    /// `LABEL`.
    #[serde(default, deserialize_with = "null_is_default", skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// `STOPSIGNAL`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub stop_signal: String,
    /// Set by `CMD`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub args_escaped: bool,
    /// `HEALTHCHECK`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub healthcheck: Option<Healthcheck>,
    /// `ONBUILD`: trigger texts.
    #[serde(default, deserialize_with = "null_is_default", skip_serializing_if = "Vec::is_empty")]
    pub on_build: Vec<String>,
    /// `SHELL`.
    #[serde(default, deserialize_with = "null_is_default", skip_serializing_if = "Vec::is_empty")]
    pub shell: Vec<String>,
    /// Keys that croze does not know.
    #[serde(flatten)]
    pub rest: BTreeMap<String, Value>,
}

/// A health check; durations in nanoseconds, zero means inherited.
#[derive(Clone, Debug, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Healthcheck {
    /// `["NONE"]`, `["CMD", …]` or `["CMD-SHELL", text]`.
    #[serde(default, deserialize_with = "null_is_default", skip_serializing_if = "Vec::is_empty")]
    pub test: Vec<String>,
    /// `--interval`.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub interval: i64,
    /// `--timeout`.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub timeout: i64,
    /// `--start-period`.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub start_period: i64,
    /// `--start-interval`.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub start_interval: i64,
    /// `--retries`.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub retries: i64,
}

/// One item of the history.
#[derive(Clone, Debug, PartialEq, Default, Serialize, Deserialize)]
pub struct History {
    /// RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    /// `RUN /bin/sh -c make # buildkit`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created_by: Option<String>,
    /// Kept from the base.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub author: Option<String>,
    /// `buildkit.dockerfile.v0`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub comment: Option<String>,
    /// Whether no layer belongs to it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub empty_layer: bool,
}

/// The `rootfs` member.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RootFs {
    /// `layers`.
    #[serde(rename = "type", default)]
    pub kind: String,
    /// Bottom layer first.
    #[serde(default, deserialize_with = "null_is_default")]
    pub diff_ids: Vec<DiffId>,
}

impl Default for RootFs {
    fn default() -> RootFs {
        RootFs { kind: "layers".to_owned(), diff_ids: Vec::new() }
    }
}

fn is_zero(number: &i64) -> bool {
    *number == 0
}

/// Go writes empty lists and maps as `null`.
fn null_is_default<'de, D: serde::Deserializer<'de>, T: Default + Deserialize<'de>>(deserializer: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_docker_config_survives_a_round_trip() {
        let text = r#"{"architecture":"amd64","config":{"Env":["PATH=/bin"],"Cmd":["sh"],"Volumes":{"/v":{}},"WorkingDir":"/","ArgsEscaped":true,"Healthcheck":{"Test":["CMD-SHELL","true"],"Interval":5000000000},"OnBuild":["RUN x"],"Shell":["/bin/ash","-c"],"Zed":1},"created":"2026-01-01T00:00:00Z","history":[{"created_by":"x","empty_layer":true}],"moby.buildkit.cache.v0":"e30=","os":"linux","rootfs":{"type":"layers","diff_ids":[]}}"#;
        let config: ImageConfig = serde_json::from_str(text).expect("valid");
        assert_eq!(serde_json::to_string(&config).expect("serialises"), text);
    }

    #[test]
    fn nulls_of_go_are_empty() {
        let config: ImageConfig =
            serde_json::from_str(r#"{"config":{"Env":null,"Labels":null},"rootfs":{"type":"layers","diff_ids":null}}"#)
                .expect("valid");
        assert!(config.rootfs.diff_ids.is_empty() && config.config.env.is_empty());
    }
}
