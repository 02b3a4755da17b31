//! What a machine without layers has to know to find its keys: answers that layers gave when somebody asked them.
//!
//! A copy's key holds what the copy finds at its destination, and a bind mount's what it shows. Both can be told without the
//! layers by who had them. A cache that answers wrongly makes keys that nobody else has, or steps that it could have answered
//! wrongly at once: it is believed no more than with its records, and nothing of it enters the store.

use std::collections::BTreeMap;
use std::io::Read;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::digest::{CacheKey, ChainId, Digest};
use crate::snapshot::Testimony;

/// The document's media type.
pub const MEDIA_TYPE: &str = "application/vnd.croze.cache.answers.v1+zstd";

/// A document that unpacks to more is none of ours.
const MOST_BYTES: u64 = 256 << 20;
const LEVEL: i32 = 3;

/// Answers of layers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Answers {
    /// What pure questions about layers came to.
    pub memos: BTreeMap<CacheKey, Digest>,
    /// What stacks of layers have told, by their names.
    pub stacks: BTreeMap<ChainId, Testimony>,
}

impl Answers {
    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.memos.is_empty() && self.stacks.is_empty()
    }

    /// Adds what is known of a stack.
    pub fn add(&mut self, stack: ChainId, testimony: Testimony) {
        self.stacks.entry(stack).or_default().extend(testimony);
    }

    /// Adds what only `other` knows.
    pub fn extend(&mut self, other: Answers) {
        for (key, digest) in other.memos {
            self.memos.entry(key).or_insert(digest);
        }
        for (stack, mut testimony) in other.stacks {
            // the last word counts
            testimony.extend(self.stacks.remove(&stack).unwrap_or_default());
            self.stacks.insert(stack, testimony);
        }
    }

    /// The document's bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        pack(self)
    }

    /// Reads a document.
    ///
    /// # Errors
    /// In words, for what is none.
    pub fn parse(bytes: &[u8]) -> Result<Answers, String> {
        unpack(bytes)
    }
}

/// A value as compressed JSON.
pub(super) fn pack(value: &impl Serialize) -> Vec<u8> {
    let text = serde_json::to_vec(value).expect("documents are plain data");
    zstd::bulk::compress(&text, LEVEL).unwrap_or_default()
}

/// Reads a value that [`pack`] wrote.
pub(super) fn unpack<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, String> {
    let mut text = Vec::new();
    let mut plain = zstd::Decoder::new(bytes).map_err(|error| error.to_string())?.take(MOST_BYTES + 1);
    plain.read_to_end(&mut text).map_err(|error| error.to_string())?;
    if text.len() as u64 > MOST_BYTES {
        return Err(format!("its answers have more than {MOST_BYTES} bytes"));
    }
    serde_json::from_slice(&text).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let digest = Digest::of(b"x");
        let mut answers = Answers { memos: BTreeMap::from([(CacheKey(digest), digest)]), stacks: BTreeMap::new() };
        answers.add(ChainId(digest), Testimony::default());
        assert_eq!(Answers::parse(&answers.to_bytes()), Ok(answers.clone()));
        assert!(Answers::parse(b"no zstd").is_err());
        assert!(Answers::parse(&answers.to_bytes()[..20]).is_err());
    }
}
