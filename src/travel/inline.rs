//! A cache in the config of the image that it is about: its layers are the image's own.
//!
//! The document is that of other caches, with the answers beside it, compressed, in one member of the config that readers of
//! images pass over. BuildKit's member of this kind holds bare keys of its own, so it is not used here.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::answers::Answers;
use super::config::{BadConfig, Contents};
use crate::base64;
use crate::digest::DiffId;
use crate::image::{Descriptor, ImageConfig};

/// The member of an image config.
pub const MEMBER: &str = "croze.cache.v1";

#[derive(Serialize, Deserialize)]
struct Inline {
    document: Value,
    #[serde(default)]
    answers: Answers,
}

/// The member's text.
pub fn write(contents: &Contents, answers: Answers) -> String {
    let document = serde_json::from_slice(&contents.to_bytes()).unwrap_or_default();
    base64::encode(&super::answers::pack(&Inline { document, answers }))
}

/// The cache in an image config, with the image's `layers`, bottom first.
///
/// # Errors
/// `Foreign` for an image without one; as [`Contents::parse`].
pub fn read(config: &[u8], layers: &[Descriptor]) -> Result<(Contents, Answers), BadConfig> {
    let config: ImageConfig = serde_json::from_slice(config).map_err(|error| BadConfig::Malformed(error.to_string()))?;
    let text = config.rest.get(MEMBER).and_then(Value::as_str).ok_or(BadConfig::Absent)?;
    let packed = base64::decode(text).ok_or_else(|| BadConfig::Malformed(format!("`{MEMBER}` is no base64")))?;
    let Inline { document, answers } = super::answers::unpack(&packed).map_err(BadConfig::Malformed)?;
    let mut contents = Contents::parse(document.to_string().as_bytes())?;
    contents.layers.values_mut().for_each(|offer| offer.blob = None);
    let diff_ids: &[DiffId] = &config.rootfs.diff_ids;
    for (diff_id, layer) in diff_ids.iter().zip(layers) {
        if let Some(offer) = contents.layers.get_mut(diff_id) {
            offer.blob = Some(layer.clone());
        }
    }
    Ok((contents, answers))
}
