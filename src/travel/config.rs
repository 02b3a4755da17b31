//! The document of a cache: which keys have which layers, and where their blobs are.
//!
//! BuildKit's form, with two things of our own: each layer stands alone (`parent` is -1), since a step's record names the layer
//! that it made and not the stack below; and the member `croze` says whose keys they are. BuildKit ignores it, and finds
//! records that match no step of its own.

use std::collections::{BTreeMap, HashMap};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::mounts::MountOffer;
use crate::cache::key;
use crate::digest::{CacheKey, DiffId, Digest};
use crate::image::{Descriptor, document};
use crate::store::Record;

/// The document's media type.
pub const MEDIA_TYPE: &str = "application/vnd.buildkit.cacheconfig.v0";

/// Version of what is our own in the document.
const VERSION: u32 = 1;

/// What a cache holds.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct Contents {
    /// Results by key.
    pub records: BTreeMap<CacheKey, Record>,
    /// The layers of these results.
    pub layers: BTreeMap<DiffId, Offer>,
    /// What layers have told, see [`super::answers`].
    pub answers: Option<Descriptor>,
    /// Cache mounts by name.
    pub mounts: BTreeMap<Digest, MountOffer>,
}

/// A layer of a cache.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Offer {
    /// Its blob; `None` for one that the cache names without holding it.
    pub blob: Option<Descriptor>,
    /// Bytes of its tar.
    pub tar_bytes: u64,
}

/// Why bytes are no document that can be used.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum BadConfig {
    /// An image without a cache in it.
    #[error("it is an image without a cache")]
    Absent,
    /// BuildKit's own.
    #[error("it was written by BuildKit")]
    Foreign,
    /// Other keys, or another meaning.
    #[error("it was written by another version ({0})")]
    OtherVersion(String),
    /// Anything else.
    #[error("{0}")]
    Malformed(String),
}

impl Contents {
    /// Adds what only `other` knows.
    pub fn extend(&mut self, other: Contents) {
        for (key, record) in other.records {
            self.records.entry(key).or_insert(record);
        }
        for (diff_id, offer) in other.layers {
            let known = self.layers.entry(diff_id).or_insert_with(|| offer.clone());
            known.blob = known.blob.take().or(offer.blob);
        }
        for (name, offer) in other.mounts {
            self.mounts.entry(name).or_insert(offer);
        }
        self.answers = self.answers.take().or(other.answers);
    }

    /// The document's bytes: equal contents give equal bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let numbers: HashMap<&DiffId, usize> =
            self.layers.keys().enumerate().map(|(number, diff_id)| (diff_id, number)).collect();
        let mut created: HashMap<&DiffId, i64> = HashMap::new();
        for record in self.records.values() {
            let oldest = created.entry(&record.diff_id).or_insert(record.created_secs);
            *oldest = record.created_secs.min(*oldest);
        }
        let layer = |(diff_id, offer): (&DiffId, &Offer)| Layer {
            blob: offer.blob.as_ref().map_or(diff_id.0, |blob| blob.digest),
            parent: NO_PARENT,
            annotations: Some(Annotations {
                media_type: offer.blob.as_ref().map(|blob| blob.media_type.clone()).unwrap_or_default(),
                diff_id: *diff_id,
                size_bytes: offer.blob.as_ref().map_or(0, |blob| blob.size_bytes),
                created: rfc3339(created.get(diff_id).copied().unwrap_or_default()),
                tar_bytes: offer.tar_bytes,
            }),
        };
        let record = |(key, record): (&CacheKey, &Record)| {
            let layer = *numbers.get(&record.diff_id)?;
            Some(RecordItem { results: vec![ResultItem { layer, created: rfc3339(record.created_secs) }], digest: Some(*key) })
        };
        document::compact(&Document {
            layers: self.layers.iter().map(layer).collect(),
            records: self.records.iter().filter_map(record).collect(),
            croze: Some(Own { version: VERSION, keys: keys(), answers: self.answers.clone(), mounts: self.mounts.clone() }),
        })
    }

    /// Reads a document.
    ///
    /// # Errors
    /// `Foreign` for one without keys of ours; `OtherVersion`; `Malformed` for what contradicts itself.
    pub fn parse(bytes: &[u8]) -> Result<Contents, BadConfig> {
        let document: Document = serde_json::from_slice(bytes).map_err(|error| BadConfig::Malformed(error.to_string()))?;
        let mut contents = Contents::default();
        match document.croze {
            None => return Err(BadConfig::Foreign),
            Some(own) if own.version != VERSION => return Err(BadConfig::OtherVersion(format!("format {}", own.version))),
            Some(own) if own.keys != keys() => return Err(BadConfig::OtherVersion(format!("keys `{}`", own.keys))),
            Some(own) => {
                contents.answers = own.answers;
                contents.mounts = own.mounts;
            }
        }
        let mut names = Vec::with_capacity(document.layers.len());
        for layer in document.layers {
            let Some(annotations) = layer.annotations else {
                return Err(BadConfig::Malformed(format!("layer {} has no annotations", layer.blob)));
            };
            let Annotations { media_type, diff_id, size_bytes, tar_bytes, .. } = annotations;
            let blob = (!media_type.is_empty()).then(|| Descriptor::new(&media_type, layer.blob, size_bytes));
            contents.layers.insert(diff_id, Offer { blob, tar_bytes });
            names.push(diff_id);
        }
        for record in document.records {
            let (Some(key), Some(result)) = (record.digest, record.results.first()) else { continue };
            let Some(diff_id) = names.get(result.layer) else {
                return Err(BadConfig::Malformed(format!("a record names layer {} of {}", result.layer, names.len())));
            };
            contents.records.insert(key, Record { diff_id: *diff_id, created_secs: seconds(&result.created) });
        }
        Ok(contents)
    }
}

fn keys() -> String {
    String::from_utf8_lossy(key::VERSION).into_owned()
}

/// What stands for "none" in BuildKit's documents.
const NO_PARENT: i64 = -1;

#[derive(Serialize, Deserialize)]
struct Document {
    #[serde(default)]
    layers: Vec<Layer>,
    #[serde(default)]
    records: Vec<RecordItem>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    croze: Option<Own>,
}

#[derive(Serialize, Deserialize)]
struct Layer {
    blob: Digest,
    #[serde(default)]
    parent: i64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    annotations: Option<Annotations>,
}

#[derive(Serialize, Deserialize)]
struct Annotations {
    #[serde(rename = "mediaType", default, skip_serializing_if = "String::is_empty")]
    media_type: String,
    #[serde(rename = "diffID")]
    diff_id: DiffId,
    #[serde(rename = "size", default)]
    size_bytes: u64,
    #[serde(rename = "createdAt", default)]
    created: String,
    #[serde(rename = "tarSize", default)]
    tar_bytes: u64,
}

#[derive(Serialize, Deserialize)]
struct RecordItem {
    #[serde(rename = "layers", default)]
    results: Vec<ResultItem>,
    #[serde(default)]
    digest: Option<CacheKey>,
}

#[derive(Serialize, Deserialize)]
struct ResultItem {
    layer: usize,
    #[serde(rename = "createdAt", default)]
    created: String,
}

/// What is our own.
#[derive(Serialize, Deserialize)]
struct Own {
    version: u32,
    /// Which keys the records have.
    #[serde(default)]
    keys: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    answers: Option<Descriptor>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    mounts: BTreeMap<Digest, MountOffer>,
}

fn rfc3339(seconds: i64) -> String {
    let limited = seconds.clamp(Timestamp::MIN.as_second(), Timestamp::MAX.as_second());
    Timestamp::from_second(limited).unwrap_or(Timestamp::UNIX_EPOCH).to_string()
}

/// Text that is no time is the beginning of time.
fn seconds(text: &str) -> i64 {
    text.parse::<Timestamp>().map_or(0, Timestamp::as_second)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::MountAbout;

    fn contents() -> Contents {
        let [kept, named] = [b"kept", b"name"].map(|text| DiffId(Digest::of(text)));
        let blob = Descriptor::new("application/vnd.oci.image.layer.v1.tar+gzip", Digest::of(b"blob"), 4);
        let key = |text: &[u8]| CacheKey(Digest::of(text));
        Contents {
            records: BTreeMap::from([
                (key(b"1"), Record { diff_id: kept, created_secs: 1_767_323_045 }),
                (key(b"2"), Record { diff_id: named, created_secs: 7 }),
            ]),
            layers: BTreeMap::from([
                (kept, Offer { blob: Some(blob), tar_bytes: 1024 }),
                (named, Offer { blob: None, tar_bytes: 512 }),
            ]),
            answers: Some(Descriptor::new(super::super::answers::MEDIA_TYPE, Digest::of(b"answers"), 7)),
            mounts: BTreeMap::from([(
                Digest::of(b"mount"),
                MountOffer {
                    about: MountAbout { id: "m".into(), uid: 1, gid: 2, mode: 0o700 },
                    list: Descriptor::new("list", Digest::of(b"list"), 9),
                },
            )]),
        }
    }

    #[test]
    fn what_is_written_is_read() {
        assert_eq!(Contents::parse(&contents().to_bytes()), Ok(contents()));
        assert_eq!(contents().to_bytes(), contents().to_bytes());
    }

    #[test]
    fn buildkit_finds_its_own_members() {
        let document: serde_json::Value = serde_json::from_slice(&contents().to_bytes()).unwrap();
        for layer in document["layers"].as_array().unwrap() {
            // it takes an absent parent for number 0
            assert_eq!(layer["parent"], -1);
            assert!(layer["annotations"]["diffID"].as_str().is_some_and(|text| text.starts_with("sha256:")));
        }
        let record = &document["records"][0];
        assert!(record["digest"].is_string() && record["layers"][0]["layer"].is_u64(), "{record}");
    }

    #[track_caller]
    fn refused(text: &str, expected: BadConfig) {
        assert_eq!(Contents::parse(text.as_bytes()), Err(expected));
    }

    #[test]
    fn other_documents_say_what_they_are() {
        let layer = format!(r#"{{"layers":[{{"blob":"{0}","parent":-1}}],"records":[{{"digest":"{0}"}}]"#, Digest::of(b""));
        refused(&format!("{layer}}}"), BadConfig::Foreign);
        let own = format!(r#""croze":{{"version":1,"keys":"{}"}}"#, keys());
        refused(&format!("{layer},{own}}}"), BadConfig::Malformed(format!("layer {} has no annotations", Digest::of(b""))));
        refused(r#"{"croze":{"version":2}}"#, BadConfig::OtherVersion("format 2".into()));
        refused(r#"{"croze":{"version":1,"keys":"x"}}"#, BadConfig::OtherVersion("keys `x`".into()));
        let record = format!(r#"{{"records":[{{"digest":"{}","layers":[{{"layer":7}}]}}],{own}}}"#, Digest::of(b""));
        refused(&record, BadConfig::Malformed("a record names layer 7 of 0".into()));
        assert!(matches!(Contents::parse(b"["), Err(BadConfig::Malformed(_))));
    }

    proptest::proptest! {
        #[test]
        fn no_text_is_too_strange(text in ".{0,200}") {
            drop(Contents::parse(text.as_bytes()));
        }
    }
}
