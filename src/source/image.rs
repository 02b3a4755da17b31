//! Which image a name means, and its layers.
//!
//! The store is asked before the registry, and what is in the store by digest is never asked for again. What comes from a
//! registry is kept: the name with the index it pointed at, so that another platform can be chosen from it later, the
//! documents, and the layers once a step reads them.

use std::collections::HashMap;
use std::fs::File;
use std::path::PathBuf;

use tokio::task::JoinSet;

use super::SourceError;
use crate::digest::{DiffId, Digest};
use crate::image::{Descriptor, ImageConfig};
use crate::layer::{self, Compression, LayerError, LayerLimits, Lower};
use crate::reference::{ImageRef, Platform};
use crate::registry::manifest::{BadDocument, Document, Manifest};
use crate::registry::{Client, RegistryError};
use crate::snapshot::View;
use crate::store::{NameOrigin, NameRecord, Store, StoreError, StoredLayer};
use crate::task;

/// An index may hold an index; a chain longer than this is not followed.
const DEEPEST_INDEX: usize = 4;

/// When the registry is asked about a name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PullPolicy {
    /// Only if the store has nothing for the platform under the name.
    Missing,
    /// Always (`--pull`).
    Always,
}

/// An image that a step can start from. Its documents are in the store, its layers need not be.
#[derive(Clone, PartialEq, Debug)]
pub struct ResolvedImage {
    /// Canonical form of the reference, or where the layout is.
    pub name: String,
    /// The manifest that was chosen for the platform.
    pub manifest: Descriptor,
    /// Its config.
    pub config: ImageConfig,
    /// Digest of the config's bytes.
    pub config_digest: Digest,
    /// Bottom layer first.
    pub layers: Vec<BaseLayer>,
    /// Who knew it.
    pub answered_by: AnsweredBy,
}

/// A layer of an image: its name, and the blob that holds it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BaseLayer {
    /// Digest of the tar inside.
    pub diff_id: DiffId,
    /// What the blob is.
    pub media_type: String,
    /// SHA-256 of the blob.
    pub digest: Digest,
    /// Bytes of the blob.
    pub size_bytes: u64,
}

/// Who said which image a name means.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum AnsweredBy {
    /// The store.
    Store {
        /// When the name was set, seconds since 1970; `None` for an image asked for by digest.
        set_secs: Option<i64>,
    },
    /// A registry: host with port.
    Registry(String),
    /// An OCI layout: its directory.
    Layout(PathBuf),
}

/// Finds the image that `image_ref` names for `platform`, and stores its documents; a name that was asked for at a registry
/// is set, as of `now_secs` (seconds since 1970).
///
/// An image in a registry that is no index is taken whatever its platform; its config tells.
///
/// # Errors
/// `SourceError::Registry` when the registry had to be asked and did not answer well; `SourceError::BadImage` for documents
/// that contradict each other.
pub async fn resolve(
    store: &Store,
    client: &Client,
    image_ref: &ImageRef,
    platform: &Platform,
    policy: PullPolicy,
    now_secs: i64,
) -> Result<ResolvedImage, SourceError> {
    let lookup = Lookup { store, client, image_ref, platform };
    let mut incomplete = None;
    let known = match lookup.known_root(policy).await {
        // the registry may have what the name stood for
        Err(error @ SourceError::Store(StoreError::DamagedName { .. })) => {
            incomplete = Some(error);
            None
        }
        known => known?,
    };
    if let Some((root, answered_by)) = known {
        match lookup.stored_image(&root, answered_by).await {
            Ok(Some(image)) => return Ok(image),
            Ok(None) => {}
            // the registry may have another image of that name by now
            Err(error @ SourceError::Incomplete { .. }) => incomplete = Some(error),
            Err(error) => return Err(error),
        }
    }
    let fetched = client.manifest(image_ref).await.map_err(|error| incomplete.unwrap_or_else(|| error.into()))?;
    let (store_too, bytes) = (store.clone(), fetched.bytes);
    let (digest, size_bytes) = (fetched.digest, bytes.len() as u64);
    task::blocking(move || store_too.write_blob(&bytes)).await?;
    let root = Descriptor::new(&fetched.media_type, digest, size_bytes);
    let image = lookup.follow(&root, AnsweredBy::Registry(fetched.host)).await?;
    if image_ref.digest.is_none() {
        let media_type = if root.media_type.is_empty() { image.manifest.media_type.clone() } else { root.media_type };
        let record = NameRecord { manifest: digest, media_type, size_bytes, set_secs: now_secs, origin: NameOrigin::Pulled };
        let (store, name) = (store.clone(), image_ref.clone());
        task::blocking(move || store.set_name(&name, &record)).await?;
    }
    Ok(image)
}

/// The layer trees of `image`, bottom first. Those that are missing are unpacked, all at the same time, from blobs in the
/// store or straight from the registry of `image_ref` while they download (the blobs are kept).
///
/// # Errors
/// `SourceError::Store` names a blob that is nowhere when there is no `image_ref` to fetch it by; `SourceError::BaseLayer` the
/// layer that does not unpack, or not within `limits`.
pub async fn ensure_layers(
    store: &Store,
    client: &Client,
    image: &ResolvedImage,
    image_ref: Option<&ImageRef>,
    limits: LayerLimits,
) -> Result<Vec<StoredLayer>, SourceError> {
    let name = image_ref.map_or_else(|| image.name.clone(), ImageRef::familiar);
    let mut distinct: HashMap<DiffId, Option<StoredLayer>> = HashMap::new();
    let mut tasks = JoinSet::new();
    for (number, layer) in image.layers.iter().enumerate() {
        if distinct.insert(layer.diff_id, None).is_none() {
            let lower = if number == 0 { Lower::Nothing } else { Lower::Unknown };
            let (store, client) = (store.clone(), client.clone());
            let in_store = matches!(image.answered_by, AnsweredBy::Store { .. });
            let ensured = ensure_layer(store, client, layer.clone(), image_ref.cloned(), (lower, limits));
            let (image_ref, diff_id, digest, name) = (image_ref.cloned(), layer.diff_id, layer.digest, name.clone());
            tasks.spawn(async move {
                ensured.await.map_err(|error| match (error, image_ref) {
                    (SourceError::Registry(source), Some(image_ref)) if in_store => {
                        let lacks = format!("layer {diff_id} is not in the store");
                        SourceError::Incomplete { image: image_ref.to_string(), lacks, source }
                    }
                    (error, _) => of_layer(error, digest, &name),
                })
            });
        }
    }
    // The first failure drops the set, which stops the other downloads.
    while let Some(joined) = tasks.join_next().await {
        if let Some(stored) = joined.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))? {
            distinct.insert(stored.record.diff_id, Some(stored));
        }
    }
    let mut stack: Vec<StoredLayer> = Vec::with_capacity(image.layers.len());
    for layer in &image.layers {
        let stored = match distinct.get(&layer.diff_id).cloned().flatten() {
            Some(stored) => stored,
            None => {
                let below = stack.iter().map(|stored| stored.record.diff_id).collect();
                let stored = unpack_above(store.clone(), layer.clone(), below, limits).await;
                let stored = stored.map_err(|error| of_layer(error, layer.digest, &name))?;
                distinct.insert(layer.diff_id, Some(stored.clone()));
                stored
            }
        };
        stack.push(stored);
    }
    Ok(stack)
}

/// Builds the answer from documents that were verified.
pub(super) fn assemble(
    name: String,
    descriptor: Descriptor,
    manifest: &Manifest,
    config_bytes: &[u8],
    answered_by: AnsweredBy,
) -> Result<ResolvedImage, SourceError> {
    let bad = |reason: String| SourceError::BadImage { name: name.clone(), reason };
    let config: ImageConfig =
        serde_json::from_slice(config_bytes).map_err(|error| bad(format!("its config is malformed: {error}")))?;
    let (layers, diff_ids) = (&manifest.layers, &config.rootfs.diff_ids);
    if layers.len() != diff_ids.len() {
        return Err(bad(format!("its manifest lists {} layers, its config {}", layers.len(), diff_ids.len())));
    }
    if let Some(layer) = layers.iter().find(|layer| Compression::of_media_type(&layer.media_type).is_none()) {
        return Err(bad(format!(
            "its layer {} is a `{}`, which is no layer that can be unpacked",
            layer.digest, layer.media_type
        )));
    }
    let layers = layers.iter().zip(diff_ids).map(|(layer, diff_id)| BaseLayer {
        diff_id: *diff_id,
        media_type: layer.media_type.clone(),
        digest: layer.digest,
        size_bytes: layer.size_bytes,
    });
    let layers = layers.collect();
    Ok(ResolvedImage { name, manifest: descriptor, config, config_digest: manifest.config.digest, layers, answered_by })
}

/// What a bad document means for the image `name`.
pub(super) fn bad_document(name: &str, error: BadDocument) -> SourceError {
    let name = name.to_owned();
    SourceError::from(match error {
        BadDocument::Schema1 => RegistryError::Schema1 { name },
        BadDocument::ForeignLayer(digest) => RegistryError::ForeignLayer { name, digest },
        BadDocument::Malformed(reason) => RegistryError::BadManifest { name, reason },
    })
}

/// One question: this image for this platform.
struct Lookup<'a> {
    store: &'a Store,
    client: &'a Client,
    image_ref: &'a ImageRef,
    platform: &'a Platform,
}

impl Lookup<'_> {
    /// What the name stands for, as far as that is known without fetching anything.
    async fn known_root(&self, policy: PullPolicy) -> Result<Option<(Descriptor, AnsweredBy)>, SourceError> {
        let (store, image_ref) = (self.store.clone(), self.image_ref.clone());
        if let Some(digest) = self.image_ref.digest {
            let size_bytes = task::blocking(move || store.blob_size(&digest)).await?;
            return Ok(
                size_bytes.map(|size_bytes| (Descriptor::new("", digest, size_bytes), AnsweredBy::Store { set_secs: None }))
            );
        }
        let Some(record) = task::blocking(move || store.name(&image_ref)).await? else { return Ok(None) };
        let answered_by = match policy {
            PullPolicy::Missing => AnsweredBy::Store { set_secs: Some(record.set_secs) },
            // Asking what the tag points at is free of charge; the documents need not be fetched if it did not move.
            PullPolicy::Always => match self.client.tag_digest(self.image_ref).await {
                Ok(Some(digest)) if digest == record.manifest => AnsweredBy::Registry(self.image_ref.host.clone()),
                // a registry may not know this way of asking; what is wrong else is met again when the documents are fetched
                Ok(_) | Err(RegistryError::Status { .. } | RegistryError::NotFound { .. }) => return Ok(None),
                Err(error) => return Err(error.into()),
            },
        };
        Ok(Some((Descriptor::new(&record.media_type, record.manifest, record.size_bytes), answered_by)))
    }

    /// The image below a root that the store has; `None` if it has none for the platform.
    async fn stored_image(&self, root: &Descriptor, answered_by: AnsweredBy) -> Result<Option<ResolvedImage>, SourceError> {
        match self.follow(root, answered_by).await {
            Ok(image) => {
                let found = image.config.platform();
                let fits = self.platform.accepts(&found) || self.image_ref.digest.is_some();
                Ok(fits.then_some(image))
            }
            Err(SourceError::Registry(error)) if matches!(*error, RegistryError::NoPlatform { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// From an index or manifest down to the config. Documents come from the store where they are there.
    async fn follow(&self, root: &Descriptor, answered_by: AnsweredBy) -> Result<ResolvedImage, SourceError> {
        let name = self.image_ref.familiar();
        let mut descriptor = root.clone();
        for _ in 0..DEEPEST_INDEX {
            let bytes = self.manifest_bytes(&descriptor, &answered_by).await?;
            let document = Document::parse(&bytes, &descriptor.media_type).map_err(|error| bad_document(&name, error))?;
            let index = match document {
                Document::Index(index) => index,
                Document::Manifest(manifest) => {
                    let config = self.config_bytes(&manifest.config, &answered_by).await?;
                    return assemble(self.image_ref.canonical(), descriptor, &manifest, &config, answered_by);
                }
            };
            descriptor = match index.choose(self.platform) {
                Ok(entry) => entry.clone(),
                Err(available) => {
                    let wanted = self.platform.clone();
                    return Err(RegistryError::NoPlatform { name, wanted, available }.into());
                }
            };
        }
        Err(RegistryError::BadManifest { name, reason: "its indexes are nested too deeply".to_owned() }.into())
    }

    async fn manifest_bytes(&self, descriptor: &Descriptor, answered_by: &AnsweredBy) -> Result<Vec<u8>, SourceError> {
        match self.stored(descriptor.digest).await? {
            Stored::Bytes(bytes) => Ok(bytes),
            Stored::Lost(lost) => match self.client.manifest_by_digest(self.image_ref, &descriptor.digest).await {
                Ok(fetched) => self.keep(fetched.bytes).await,
                Err(error) => Err(self.missing(&lost, error, answered_by)),
            },
        }
    }

    async fn config_bytes(&self, descriptor: &Descriptor, answered_by: &AnsweredBy) -> Result<Vec<u8>, SourceError> {
        match self.stored(descriptor.digest).await? {
            Stored::Bytes(bytes) => Ok(bytes),
            Stored::Lost(lost) => match self.client.document(self.image_ref, descriptor).await {
                Ok(bytes) => self.keep(bytes).await,
                Err(error) => Err(self.missing(&lost, error, answered_by)),
            },
        }
    }

    async fn stored(&self, digest: Digest) -> Result<Stored, SourceError> {
        let store = self.store.clone();
        match task::blocking(move || store.read_blob(&digest)).await {
            Ok(bytes) => Ok(Stored::Bytes(bytes)),
            Err(lost @ (StoreError::Missing { .. } | StoreError::Damaged { .. })) => Ok(Stored::Lost(lost)),
            Err(error) => Err(error.into()),
        }
    }

    /// What it means that the registry does not give a document that the store lacks.
    fn missing(&self, lost: &StoreError, error: RegistryError, answered_by: &AnsweredBy) -> SourceError {
        if !matches!(answered_by, AnsweredBy::Store { .. }) {
            return error.into();
        }
        SourceError::Incomplete { image: self.image_ref.to_string(), lacks: lost.to_string(), source: Box::new(error) }
    }

    async fn keep(&self, bytes: Vec<u8>) -> Result<Vec<u8>, SourceError> {
        let store = self.store.clone();
        Ok(task::blocking(move || store.write_blob(&bytes).map(|_| bytes)).await?)
    }
}

/// A document of the store.
enum Stored {
    Bytes(Vec<u8>),
    /// Not there or damaged, but the registry may have it.
    Lost(StoreError),
}

/// Unpacks one layer without looking at those below it; `None` when it cannot be understood alone, and then its blob is in
/// the store.
async fn ensure_layer(
    store: Store,
    client: Client,
    layer: BaseLayer,
    image_ref: Option<ImageRef>,
    (lower, limits): (Lower<'static>, LayerLimits),
) -> Result<Option<StoredLayer>, SourceError> {
    let (local_store, local_layer) = (store.clone(), layer.clone());
    match task::blocking(move || layer_from_store(&local_store, &local_layer, lower, limits)).await {
        Ok(FromStore::Layer(stored)) => return Ok(Some(stored)),
        Ok(FromStore::NoBlob) => {}
        Err(error) if needs_below(&error) => return Ok(None),
        // A damaged blob is dropped and fetched again where that can be done.
        Err(SourceError::Layer(LayerError::Damaged { .. } | LayerError::WrongContent { .. })) if image_ref.is_some() => {
            let (store, digest) = (store.clone(), layer.digest);
            task::blocking(move || store.trash(&store.blob_path(&digest))).await?;
        }
        Err(error) => return Err(error),
    }
    let Some(image_ref) = image_ref else { return Err(StoreError::Missing { digest: layer.digest }.into()) };
    let compression = known_compression(&layer)?;
    let BaseLayer { diff_id, digest, size_bytes, .. } = layer;
    let (host, repository) = (image_ref.host.clone(), image_ref.repository.clone());
    client
        .fetch_blob(&image_ref, digest, size_bytes, move |blob| {
            let stored = layer::keep_and_unpack(&store, blob, &digest, compression, diff_id, lower, limits)?;
            // losing it costs sending the blob, should it ever be pushed
            let _lost = store.set_blob_source(&host, &digest, &repository);
            Ok(stored)
        })
        .await
}

/// Unpacks a layer that speaks of files or directories of the layers `below` it, bottom first.
async fn unpack_above(
    store: Store,
    layer: BaseLayer,
    below: Vec<DiffId>,
    limits: LayerLimits,
) -> Result<StoredLayer, SourceError> {
    task::blocking(move || {
        let view = View::new(layer::trees(&store, &below)?).map_err(LayerError::from)?;
        match layer_from_store(&store, &layer, Lower::View(&view), limits)? {
            FromStore::Layer(stored) => Ok(stored),
            FromStore::NoBlob => Err(StoreError::Missing { digest: layer.digest }.into()),
        }
    })
    .await
}

enum FromStore {
    Layer(StoredLayer),
    NoBlob,
}

fn layer_from_store(store: &Store, layer: &BaseLayer, lower: Lower<'_>, limits: LayerLimits) -> Result<FromStore, SourceError> {
    if let Some(stored) = layer::sound(store, &layer.diff_id)? {
        return Ok(FromStore::Layer(stored));
    }
    if store.blob_size(&layer.digest)?.is_none() {
        return Ok(FromStore::NoBlob);
    }
    let path = store.blob_path(&layer.digest);
    let mut blob = File::open(&path).map_err(|source| SourceError::Io { action: "open", path, source })?;
    let compression = known_compression(layer)?;
    Ok(FromStore::Layer(layer::unpack(store, &mut blob, compression, Some(layer.diff_id), lower, limits)?))
}

/// Says which layer it is whose content is at fault.
fn of_layer(error: SourceError, digest: Digest, image: &str) -> SourceError {
    match error {
        SourceError::Layer(LayerError::Store(error)) => error.into(),
        SourceError::Layer(source) => SourceError::BaseLayer { digest, image: image.to_owned(), source },
        error => error,
    }
}

/// Whether a layer could not be unpacked for want of the layers below it.
fn needs_below(error: &SourceError) -> bool {
    matches!(error, SourceError::Layer(error) if error.needs_lower())
}

fn known_compression(layer: &BaseLayer) -> Result<Compression, SourceError> {
    Compression::of_media_type(&layer.media_type).ok_or_else(|| SourceError::BadImage {
        name: layer.digest.to_string(),
        reason: format!("a `{}` is no layer that can be unpacked", layer.media_type),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::manifest::OCI_MANIFEST;

    fn descriptor(media_type: &str) -> Descriptor {
        Descriptor::new(media_type, Digest::of(b"x"), 1)
    }

    fn assembled(layer_types: &[&str], config: &str) -> Result<ResolvedImage, SourceError> {
        let layers = layer_types.iter().map(|media_type| descriptor(media_type)).collect();
        let manifest = Manifest { config: descriptor("application/vnd.oci.image.config.v1+json"), layers };
        let answered_by = AnsweredBy::Store { set_secs: None };
        assemble("x".into(), descriptor(OCI_MANIFEST), &manifest, config.as_bytes(), answered_by)
    }

    #[track_caller]
    fn refused(layer_types: &[&str], config: &str, expected: &str) {
        let error = assembled(layer_types, config).expect_err(config).to_string();
        assert!(error.contains(expected), "{error}");
    }

    #[test]
    fn documents_that_contradict_each_other_are_refused() {
        let tar = "application/vnd.oci.image.layer.v1.tar";
        let one = format!(r#"{{"rootfs":{{"type":"layers","diff_ids":["{}"]}}}}"#, Digest::of(b""));
        refused(&[tar], "{}", "its manifest lists 1 layers, its config 0");
        refused(&[], &one, "its manifest lists 0 layers, its config 1");
        refused(&["application/x+encrypted"], &one, "`application/x+encrypted`");
        refused(&[tar], "[", "malformed");
        let image = assembled(&[tar], &one).expect("consistent");
        assert_eq!(image.layers[0].diff_id, DiffId(Digest::of(b"")));
    }
}
