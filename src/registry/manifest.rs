//! Manifests and indexes as they are read: OCI's and Docker's second format alike.
//!
//! Reading is lenient where writers differ (`null` for an empty list) and strict where a document could be taken for two
//! things. What croze writes is `image`'s.

use serde::Deserialize;

use crate::digest::Digest;
use crate::image::{Descriptor, media_type};
use crate::reference::Platform;

/// OCI image manifest.
pub const OCI_MANIFEST: &str = media_type::MANIFEST;
/// OCI image index.
pub const OCI_INDEX: &str = media_type::INDEX;
/// Docker's manifest, second format.
pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
/// Docker's index.
pub const DOCKER_INDEX: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
/// What is asked for when a manifest is fetched.
pub const ACCEPTED: [&str; 4] = [OCI_INDEX, OCI_MANIFEST, DOCKER_INDEX, DOCKER_MANIFEST];
/// Documents are small; a larger one is refused unread.
pub const LARGEST_DOCUMENT_BYTES: u64 = 8 << 20;

/// A manifest or an index.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Document {
    /// One image.
    Manifest(Manifest),
    /// Several.
    Index(Index),
}

/// One image: its config and its layers, bottom layer first.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Manifest {
    /// The config document.
    pub config: Descriptor,
    /// Bottom layer first.
    pub layers: Vec<Descriptor>,
}

/// Several images, in the order written.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Index {
    /// Manifests, or further indexes.
    pub manifests: Vec<Descriptor>,
}

/// Why bytes are no usable manifest or index.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum BadDocument {
    /// Docker's first format.
    #[error("it is in Docker's schema 1 format")]
    Schema1,
    /// A layer whose bytes are elsewhere.
    #[error("layer {0} is a foreign one")]
    ForeignLayer(Digest),
    /// Anything else.
    #[error("{0}")]
    Malformed(String),
}

impl Document {
    /// Reads `bytes` that were announced as `media_type` (empty when nothing was announced).
    pub fn parse(bytes: &[u8], media_type: &str) -> Result<Document, BadDocument> {
        let malformed = |reason: &str| BadDocument::Malformed(reason.to_owned());
        let wire: Wire = serde_json::from_slice(bytes).map_err(|error| match media_type {
            // a page that asks for a log-in, most often
            "text/html" | "text/plain" => BadDocument::Malformed(format!("a `{media_type}` came instead of it")),
            _ => BadDocument::Malformed(error.to_string()),
        })?;
        if wire.schema_version == 1 {
            return Err(BadDocument::Schema1);
        }
        let announced = media_type.split(';').next().unwrap_or_default().trim();
        if !wire.media_type.is_empty() && is_known(announced) && announced != wire.media_type {
            return Err(BadDocument::Malformed(format!("it is `{}` announced as `{announced}`", wire.media_type)));
        }
        // A document with both members would be one image to this reader and another to the next.
        match (wire.manifests, wire.config) {
            (Some(_), Some(_)) => Err(malformed("it is both an image and an index")),
            (Some(_), None) if !wire.layers.is_empty() => Err(malformed("it is both an image and an index")),
            (Some(manifests), None) => Ok(Document::Index(Index { manifests })),
            (None, Some(config)) => match wire.layers.iter().find(|layer| is_foreign(&layer.media_type)) {
                Some(layer) => Err(BadDocument::ForeignLayer(layer.digest)),
                None => Ok(Document::Manifest(Manifest { config, layers: wire.layers })),
            },
            (None, None) => Err(malformed("it has neither a config nor a list of manifests")),
        }
    }
}

impl Index {
    /// The best entry for `platform`, or what there is instead.
    ///
    /// The best by [`Platform::rank`], the earlier of equals; an entry without a platform is taken only when no other
    /// matches. Attestations are no images.
    pub fn choose(&self, platform: &Platform) -> Result<&Descriptor, Vec<Platform>> {
        let images = || self.manifests.iter().filter(|entry| !entry.is_attestation());
        let rank = |entry: &&Descriptor| entry.platform.as_ref().map_or(Some(u32::MAX), |found| platform.rank(found));
        let best = images().filter(|entry| rank(entry).is_some()).min_by_key(rank);
        best.ok_or_else(|| images().filter_map(|entry| entry.platform.clone()).collect())
    }
}

#[derive(Deserialize)]
struct Wire {
    #[serde(rename = "schemaVersion", default)]
    schema_version: u32,
    #[serde(rename = "mediaType", default)]
    media_type: String,
    #[serde(default)]
    config: Option<Descriptor>,
    #[serde(default, deserialize_with = "null_is_default")]
    layers: Vec<Descriptor>,
    #[serde(default)]
    manifests: Option<Vec<Descriptor>>,
}

fn is_known(media_type: &str) -> bool {
    ACCEPTED.contains(&media_type)
}

fn is_foreign(media_type: &str) -> bool {
    media_type.contains(".foreign.") || media_type.contains(".layer.nondistributable.")
}

/// Go writes empty lists and maps as `null`.
fn null_is_default<'de, D: serde::Deserializer<'de>, T: Default + Deserialize<'de>>(deserializer: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(number: u8, platform: &str) -> String {
        let digest = Digest::of(&[number]);
        let platform = match platform.split('/').collect::<Vec<_>>()[..] {
            [os, architecture] => format!(r#","platform":{{"os":"{os}","architecture":"{architecture}"}}"#),
            [os, architecture, variant] => {
                format!(r#","platform":{{"os":"{os}","architecture":"{architecture}","variant":"{variant}"}}"#)
            }
            _ => String::new(),
        };
        format!(r#"{{"mediaType":"{OCI_MANIFEST}","digest":"{digest}","size":1{platform}}}"#)
    }

    fn index(platforms: &[&str]) -> Index {
        let entries: Vec<String> = platforms.iter().enumerate().map(|(number, name)| entry(number as u8, name)).collect();
        let text = format!(r#"{{"schemaVersion":2,"manifests":[{}]}}"#, entries.join(","));
        match Document::parse(text.as_bytes(), OCI_INDEX) {
            Ok(Document::Index(index)) => index,
            other => panic!("{other:?}"),
        }
    }

    /// Which entry of `platforms` is chosen for `wanted`.
    #[track_caller]
    fn chosen(platforms: &[&str], wanted: &str, expected: Option<u8>) {
        let index = index(platforms);
        let found = index.choose(&wanted.parse().expect(wanted)).ok().map(|entry| entry.digest);
        assert_eq!(found, expected.map(|number| Digest::of(&[number])));
    }

    #[test]
    fn an_equal_platform_is_best() {
        chosen(&["linux/arm64/v8", "linux/amd64"], "linux/amd64", Some(1));
        chosen(&["linux/arm64/v8", "linux/amd64"], "linux/arm64", Some(0));
        chosen(&["linux/amd64", "linux/amd64"], "linux/amd64", Some(0));
    }

    #[test]
    fn a_lower_variant_will_do() {
        chosen(&["linux/arm/v5", "linux/arm/v6"], "linux/arm/v7", Some(1));
        chosen(&["linux/arm/v5", "linux/arm/v7", "linux/arm/v6"], "linux/arm/v6", Some(2));
        chosen(&["linux/arm/v7"], "linux/arm/v6", None);
        chosen(&["linux/386", "linux/amd64", "linux/amd64/v3"], "linux/amd64/v4", Some(2));
        chosen(&["linux/386", "linux/arm64"], "linux/amd64", Some(0));
    }

    #[test]
    fn attestations_are_no_images() {
        chosen(&["unknown/unknown", "linux/amd64"], "linux/amd64", Some(1));
        let error = index(&["unknown/unknown", "linux/s390x"]).choose(&"linux/amd64".parse().expect("valid")).expect_err("none");
        assert_eq!(error, ["linux/s390x".parse().expect("valid")]);
    }

    #[test]
    fn an_entry_without_platform_comes_last() {
        chosen(&["", "linux/amd64"], "linux/amd64", Some(1));
        chosen(&["", "linux/s390x"], "linux/amd64", Some(0));
    }

    #[track_caller]
    fn refused(text: &str, media_type: &str, expected: &str) {
        let error = Document::parse(text.as_bytes(), media_type).expect_err(text).to_string();
        assert!(error.contains(expected), "{error}");
    }

    #[test]
    fn ambiguous_old_and_foreign_documents_are_refused() {
        let (config, layers) = (entry(0, ""), entry(1, ""));
        refused(&format!(r#"{{"config":{config},"manifests":[]}}"#), "", "both");
        refused(&format!(r#"{{"layers":[{layers}],"manifests":[]}}"#), "", "both");
        refused(r#"{"schemaVersion":1,"fsLayers":[]}"#, "", "schema 1");
        refused("{}", "", "neither");
        refused("[", OCI_INDEX, "EOF");
        refused(&format!(r#"{{"mediaType":"{OCI_INDEX}","manifests":[]}}"#), OCI_MANIFEST, "announced");
        let foreign = layers.replace(OCI_MANIFEST, "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip");
        refused(&format!(r#"{{"config":{config},"layers":[{foreign}]}}"#), "", "foreign");
    }

    #[test]
    fn null_layers_are_none() {
        let text = format!(r#"{{"schemaVersion":2,"config":{},"layers":null}}"#, entry(0, ""));
        assert!(matches!(Document::parse(text.as_bytes(), ""), Ok(Document::Manifest(manifest)) if manifest.layers.is_empty()));
    }
}
