//! The images of a store: what `croze images` lists and `croze inspect` prints.

use serde::Serialize;

use super::{BuildError, ErrorKind, report};
use crate::diagnostic::{Diagnostic, nearest};
use crate::digest::{DiffId, Digest};
use crate::image::{Descriptor, ImageConfig, Index, Manifest, media_type};
use crate::reference::{ImageRef, Platform};
use crate::store::{NameOrigin, NameRecord, Store, StoreError};

/// An image with all that is known of it.
#[derive(Debug, Clone, Serialize)]
pub struct ImageFacts {
    /// The name asked for, in its short form.
    pub name: String,
    /// Digest of the manifest.
    pub digest: Digest,
    /// Media type of the manifest.
    pub media_type: String,
    /// Digest of the config: the image's ID.
    pub config_digest: Digest,
    /// What it is for.
    pub platform: String,
    /// How it came here.
    pub origin: NameOrigin,
    /// When the name was set, seconds since 1970.
    pub set_secs: i64,
    /// Bytes of all layers as the manifest counts them.
    pub layers_bytes: u64,
    /// Bottom first.
    pub layers: Vec<LayerFacts>,
    /// The config document.
    pub config: ImageConfig,
}

/// A layer as the manifest and the config name it.
#[derive(Debug, Clone, Serialize)]
pub struct LayerFacts {
    /// Digest of the blob.
    pub digest: Digest,
    /// Digest of the tar inside.
    pub diff_id: Option<DiffId>,
    /// Media type of the blob.
    pub media_type: String,
    /// Bytes of the blob.
    pub size_bytes: u64,
}

/// All named images that can be read, sorted by the short form of their names. One whose documents are damaged is in the second list, with why.
///
/// # Errors
/// The names cannot be read.
pub fn list(store: &Store) -> Result<(Vec<ImageFacts>, Vec<Diagnostic>), BuildError> {
    let (mut images, mut damaged) = (Vec::new(), Vec::new());
    for (image_ref, record) in store.names().map_err(|error| store_failed(&error))? {
        match facts(store, &image_ref, &record) {
            Ok(image) => images.push(image),
            Err(error) => damaged.extend(error.diagnostics),
        }
    }
    images.sort_by(|left, right| left.name.cmp(&right.name));
    Ok((images, damaged))
}

/// The image called `image_ref`; of several platforms, the host's.
///
/// # Errors
/// `Usage` if there is no such name, `Environment` if its documents are damaged or gone.
pub fn inspect(store: &Store, image_ref: &ImageRef) -> Result<ImageFacts, BuildError> {
    facts(store, image_ref, &record(store, image_ref)?)
}

/// Gives the image called `from` the name `to` as well, as of `set_secs` (seconds since 1970).
///
/// # Errors
/// `Usage` if there is no such name, `Environment` if the store fails.
pub fn tag(store: &Store, from: &ImageRef, to: &ImageRef, set_secs: i64) -> Result<(), BuildError> {
    let record = record(store, from)?;
    store.set_name(to, &NameRecord { set_secs, ..record }).map_err(|error| store_failed(&error))
}

/// Takes a name away; what the image is made of stays until the store is pruned.
///
/// # Errors
/// `Usage` if there is no such name, `Environment` if the store fails.
pub fn remove(store: &Store, image_ref: &ImageRef) -> Result<(), BuildError> {
    record(store, image_ref)?;
    store.remove_name(image_ref).map(drop).map_err(|error| store_failed(&error))
}

/// What a name stands for.
pub(super) fn record(store: &Store, image_ref: &ImageRef) -> Result<NameRecord, BuildError> {
    if let Some(record) = store.name(image_ref).map_err(|error| store_failed(&error))? {
        return Ok(record);
    }
    let names = store.names().map_err(|error| store_failed(&error))?;
    let diagnostic = Diagnostic::error_without_place("no-image", format!("no image `{image_ref}` in the store"));
    let diagnostic = match meant(image_ref, names.into_iter().map(|(name, _)| name)) {
        Some(name) => diagnostic.help(format!("did you mean `{name}`?")),
        None => diagnostic.help("`croze images` lists what is there"),
    };
    Err(BuildError { kind: ErrorKind::Usage, diagnostics: vec![diagnostic] })
}

/// The name that a person who wrote `wanted` may have had in mind: another tag of the same repository, else a slip.
fn meant(wanted: &ImageRef, names: impl Iterator<Item = ImageRef>) -> Option<String> {
    let (same, others): (Vec<ImageRef>, Vec<ImageRef>) =
        names.partition(|name| (&name.host, &name.repository) == (&wanted.host, &wanted.repository));
    let others: Vec<String> = others.iter().map(ToString::to_string).collect();
    let slip = || nearest(&wanted.to_string(), others.iter().map(String::as_str)).map(str::to_owned);
    same.first().map(ToString::to_string).or_else(slip)
}

fn facts(store: &Store, image_ref: &ImageRef, record: &NameRecord) -> Result<ImageFacts, BuildError> {
    let read = |digest: &Digest| store.read_blob(digest).map_err(|error| store_failed(&error));
    let is_index =
        matches!(record.media_type.as_str(), media_type::INDEX | "application/vnd.docker.distribution.manifest.list.v2+json");
    let (digest, media_type) = if is_index {
        hosts_manifest(image_ref, &read(&record.manifest)?)?
    } else {
        (record.manifest, record.media_type.clone())
    };
    let manifest: Manifest = serde_json::from_slice(&read(&digest)?).map_err(|error| damaged(image_ref, "manifest", &error))?;
    let config: ImageConfig =
        serde_json::from_slice(&read(&manifest.config.digest)?).map_err(|error| damaged(image_ref, "config", &error))?;
    let layer = |(index, layer): (usize, Descriptor)| LayerFacts {
        digest: layer.digest,
        diff_id: config.rootfs.diff_ids.get(index).copied(),
        media_type: layer.media_type,
        size_bytes: layer.size_bytes,
    };
    let layers: Vec<LayerFacts> = manifest.layers.into_iter().enumerate().map(layer).collect();
    Ok(ImageFacts {
        name: image_ref.to_string(),
        digest,
        media_type,
        config_digest: manifest.config.digest,
        platform: config.platform().to_string(),
        origin: record.origin,
        set_secs: record.set_secs,
        layers_bytes: layers.iter().map(|layer| layer.size_bytes).sum(),
        layers,
        config,
    })
}

/// The manifest for the host's platform, else the first one.
fn hosts_manifest(image_ref: &ImageRef, bytes: &[u8]) -> Result<(Digest, String), BuildError> {
    let index: Index = serde_json::from_slice(bytes).map_err(|error| damaged(image_ref, "index", &error))?;
    let host = Platform::host();
    let rank = |descriptor: &Descriptor| host.rank(descriptor.platform.as_ref()?);
    let fitting = index.manifests.iter().filter(|descriptor| rank(descriptor).is_some());
    let descriptor = fitting.min_by_key(|descriptor| rank(descriptor)).or_else(|| index.manifests.first());
    let descriptor = descriptor.ok_or_else(|| damaged(image_ref, "index", &"it names no manifest"))?;
    Ok((descriptor.digest, descriptor.media_type.clone()))
}

fn damaged(image_ref: &ImageRef, document: &str, why: &dyn std::fmt::Display) -> BuildError {
    let message = format!("the {document} of `{image_ref}` is damaged: {why}");
    let diagnostic = Diagnostic::error_without_place("damaged-image", message).help("pull, build or import the image again");
    BuildError { kind: ErrorKind::Environment, diagnostics: vec![diagnostic] }
}

fn store_failed(error: &StoreError) -> BuildError {
    report::store_error(error)
}
