//! Descriptors, manifests and indexes, and their exact bytes.
//!
//! Own types rather than `oci-spec`'s: those keep annotations in hash maps, whose order changes from run to run, and equal
//! input must give equal bytes. Bytes are those of Go's `encoding/json`, which BuildKit and containerd write: fields in
//! declaration order, maps sorted, and `&`, `<`, `>` escaped.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::reference::Platform;

/// Media types of OCI image-spec v1.1.
pub mod media_type {
    /// An image manifest.
    pub const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
    /// An image index.
    pub const INDEX: &str = "application/vnd.oci.image.index.v1+json";
    /// An image config.
    pub const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
    /// An uncompressed layer.
    pub const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
    /// A layer compressed by gzip.
    pub const LAYER_GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
    /// A layer compressed by zstd.
    pub const LAYER_ZSTD: &str = "application/vnd.oci.image.layer.v1.tar+zstd";
}

/// Whose names documents and layers go by.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Dialect {
    /// OCI image-spec.
    #[default]
    Oci,
    /// Docker's image manifest, version 2, schema 2, for registries that know no other.
    Docker,
}

impl Dialect {
    /// Type of a manifest.
    pub fn manifest(self) -> &'static str {
        match self {
            Dialect::Oci => media_type::MANIFEST,
            Dialect::Docker => "application/vnd.docker.distribution.manifest.v2+json",
        }
    }

    /// Type of an index.
    pub fn index(self) -> &'static str {
        match self {
            Dialect::Oci => media_type::INDEX,
            Dialect::Docker => "application/vnd.docker.distribution.manifest.list.v2+json",
        }
    }

    /// Type of a config.
    pub fn config(self) -> &'static str {
        match self {
            Dialect::Oci => media_type::CONFIG,
            Dialect::Docker => "application/vnd.docker.container.image.v1+json",
        }
    }

    /// The type of a layer, from its name in any dialect; what is no known layer keeps its name.
    pub fn layer(self, known: &str) -> &str {
        const LAYERS: [(&str, &str); 3] = [
            (media_type::LAYER, "application/vnd.docker.image.rootfs.diff.tar"),
            (media_type::LAYER_GZIP, "application/vnd.docker.image.rootfs.diff.tar.gzip"),
            (media_type::LAYER_ZSTD, "application/vnd.docker.image.rootfs.diff.tar.zstd"),
        ];
        match (LAYERS.iter().find(|(oci, docker)| [*oci, *docker].contains(&known)), self) {
            (Some((oci, _)), Dialect::Oci) => oci,
            (Some((_, docker)), Dialect::Docker) => docker,
            (None, _) => known,
        }
    }
}

/// Names a blob: what it is, its digest, its size (OCI image-spec, "Content Descriptors").
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// What it is.
    #[serde(default)]
    pub media_type: String,
    /// SHA-256 of its bytes.
    pub digest: Digest,
    /// Its bytes.
    #[serde(rename = "size")]
    pub size_bytes: u64,
    /// Free words.
    #[serde(default, deserialize_with = "null_is_default", skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// In an index: what the image is for.
    #[serde(default, deserialize_with = "read_platform", skip_serializing_if = "Option::is_none")]
    pub platform: Option<Platform>,
}

impl Descriptor {
    /// A descriptor without annotations and platform.
    pub fn new(media_type: &str, digest: Digest, size_bytes: u64) -> Descriptor {
        Descriptor { media_type: media_type.to_owned(), digest, size_bytes, annotations: BTreeMap::new(), platform: None }
    }

    /// The descriptor of a document.
    pub fn of(media_type: &str, bytes: &[u8]) -> Descriptor {
        Descriptor::new(media_type, Digest::of(bytes), bytes.len() as u64)
    }

    /// Whether it speaks about an image rather than being one.
    pub fn is_attestation(&self) -> bool {
        self.annotations.contains_key("vnd.docker.reference.type")
            || self.platform.as_ref().is_some_and(|platform| platform.os == "unknown" && platform.architecture == "unknown")
    }
}

/// One image: its config and its layers.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    /// 2.
    pub schema_version: u32,
    /// [`media_type::MANIFEST`].
    #[serde(default)]
    pub media_type: String,
    /// The config.
    pub config: Descriptor,
    /// Bottom layer first.
    #[serde(default, deserialize_with = "null_is_default")]
    pub layers: Vec<Descriptor>,
    /// Free words.
    #[serde(default, deserialize_with = "null_is_default", skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

impl Manifest {
    /// The bytes as BuildKit writes a manifest: indented by two spaces, no final newline.
    pub fn to_bytes(&self) -> Vec<u8> {
        go_json(serde_json::to_string_pretty(self).expect("a manifest is plain data"))
    }
}

/// Several images.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Index {
    /// 2.
    pub schema_version: u32,
    /// [`media_type::INDEX`].
    #[serde(default)]
    pub media_type: String,
    /// In order.
    #[serde(default, deserialize_with = "null_is_default")]
    pub manifests: Vec<Descriptor>,
    /// Free words.
    #[serde(default, deserialize_with = "null_is_default", skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

impl Index {
    /// An index of `manifests`.
    pub fn new(manifests: Vec<Descriptor>) -> Index {
        Index { schema_version: 2, media_type: media_type::INDEX.to_owned(), manifests, annotations: BTreeMap::new() }
    }

    /// The bytes of a layout's `index.json`, as containerd writes it: compact.
    pub fn to_bytes(&self) -> Vec<u8> {
        compact(self)
    }

    /// The bytes as BuildKit writes an index of platforms: indented by two spaces, no final newline.
    pub fn to_document(&self) -> Vec<u8> {
        go_json(serde_json::to_string_pretty(self).expect("an index is plain data"))
    }
}

/// A value as Go's `json.Marshal` writes it: compact, `&`, `<`, `>` escaped.
pub fn compact(value: &impl Serialize) -> Vec<u8> {
    go_json(serde_json::to_string(value).expect("image documents are plain data"))
}

/// These characters stand only inside strings, so the whole text can be searched.
fn go_json(text: String) -> Vec<u8> {
    // the first byte of U+2028 and U+2029 is that of few other characters
    let may_stand_out = |byte: &u8| matches!(byte, b'&' | b'<' | b'>' | 0xe2);
    let mut out = Vec::new();
    let mut rest = text.as_bytes();
    while let Some(at) = rest.iter().position(may_stand_out) {
        let (plain, found) = rest.split_at(at);
        out.extend_from_slice(plain);
        let (escaped, length): (&[u8], usize) = match found {
            [b'&', ..] => (b"\\u0026", 1),
            [b'<', ..] => (b"\\u003c", 1),
            [b'>', ..] => (b"\\u003e", 1),
            [0xe2, 0x80, 0xa8, ..] => (b"\\u2028", 3),
            [0xe2, 0x80, 0xa9, ..] => (b"\\u2029", 3),
            other => (&other[..1], 1),
        };
        out.extend_from_slice(escaped);
        rest = &found[length..];
    }
    if out.is_empty() {
        return text.into_bytes();
    }
    out.extend_from_slice(rest);
    out
}

fn null_is_default<'de, D: serde::Deserializer<'de>, T: Default + Deserialize<'de>>(deserializer: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// Brings variants into the form that [`Platform`] compares.
fn read_platform<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<Platform>, D::Error> {
    let platform: Option<Platform> = Option::deserialize(deserializer)?;
    Ok(platform.map(|platform| platform.to_string().parse().unwrap_or(platform)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn characters_are_escaped_as_in_go() {
        let text = "a&b<c>d\u{2028}e\u{2029}f\u{201c}g\u{e9}";
        assert_eq!(String::from_utf8(compact(&text)).unwrap(), "\"a\\u0026b\\u003cc\\u003ed\\u2028e\\u2029f\u{201c}g\u{e9}\"");
        assert_eq!(compact(&"plain"), b"\"plain\"");
    }

    #[test]
    fn a_manifest_is_indented_and_an_empty_list_of_layers_is_written() {
        let config = Descriptor::of(media_type::CONFIG, b"{}");
        let manifest = Manifest {
            schema_version: 2,
            media_type: media_type::MANIFEST.to_owned(),
            config,
            layers: Vec::new(),
            annotations: BTreeMap::from([("b".to_owned(), "<&>".to_owned()), ("a".to_owned(), String::new())]),
        };
        let text = String::from_utf8(manifest.to_bytes()).expect("text");
        assert_eq!(
            text,
            r#"{
  "schemaVersion": 2,
  "mediaType": "application/vnd.oci.image.manifest.v1+json",
  "config": {
    "mediaType": "application/vnd.oci.image.config.v1+json",
    "digest": "sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a",
    "size": 2
  },
  "layers": [],
  "annotations": {
    "a": "",
    "b": "\u003c\u0026\u003e"
  }
}"#
        );
        assert_eq!(serde_json::from_str::<Manifest>(&text).expect("parses"), manifest);
    }

    #[test]
    fn nulls_of_go_are_empty() {
        let text = r#"{"schemaVersion":2,"config":{"mediaType":"x","digest":"sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a","size":2},"layers":null}"#;
        assert!(serde_json::from_str::<Manifest>(text).expect("parses").layers.is_empty());
    }
}
