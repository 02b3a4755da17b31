//! Sends an image of the store to its registry.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::ExportError;
use crate::digest::{DiffId, Digest};
use crate::image::{Descriptor, Index, Manifest, media_type};
use crate::layer::{self, Compression};
use crate::reference::{ImageRef, Platform};
use crate::registry::manifest::{BadDocument, DOCKER_INDEX, Document};
use crate::registry::{Client, Pushing, RegistryError, Taken};
use crate::store::{Store, StoreError};
use crate::task;

/// Blobs on their way at a time, as many as BuildKit has.
const BLOBS_AT_A_TIME: usize = 4;

/// What names the image in its repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PushBy {
    /// The tags of its names.
    Tag,
    /// Its digest alone.
    Digest,
}

/// What is known of blobs before a push.
#[derive(Debug, Clone, Default)]
pub struct Whereabouts {
    /// Images that blobs came with: their repositories may have them.
    pub origins: HashMap<Digest, ImageRef>,
    /// Blobs that the repositories have already, and the store may not.
    pub delivered: HashSet<Digest>,
}

/// What a push did.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Pushed {
    /// `HOST/REPOSITORY:TAG@DIGEST` of everything that names the image now.
    pub names: Vec<String>,
    /// Blobs that were sent.
    pub sent: usize,
    /// Blobs that the registry took from another of its repositories.
    pub mounted: usize,
    /// Blobs that it had.
    pub there: usize,
}

/// Pushes `root`, a manifest or index of the store, with all that it names, under every one of `names`; manifests come last,
/// so that nothing is named before it is whole. Where the store knows another repository of the same host that has a blob, by a
/// pull or a push of it, the registry takes it from there; so it does where `whereabouts` name an image that the blob came with.
///
/// # Errors
/// `ExportError::Registry`; `ExportError::Store` for what is not in the store.
pub async fn push(
    store: &Store,
    client: &Client,
    root: &Descriptor,
    names: &[ImageRef],
    by: PushBy,
    whereabouts: Whereabouts,
) -> Result<Pushed, ExportError> {
    let Whereabouts { mut origins, delivered } = whereabouts;
    let parts = Arc::new({
        let (store, root) = (store.clone(), root.clone());
        task::blocking(move || Parts::of(&store, &root, delivered)).await?
    });
    let mut pushed = Pushed::default();
    let mut repositories: Vec<(&ImageRef, Vec<&ImageRef>)> = Vec::new();
    for name in names {
        let same = |(first, _): &&mut (&ImageRef, _)| (&first.host, &first.repository) == (&name.host, &name.repository);
        match repositories.iter_mut().find(same) {
            Some((_, names)) => names.push(name),
            None => repositories.push((name, vec![name])),
        }
    }
    for (repository, names) in repositories {
        push_to(store, client, &parts, (repository, &names), by, &origins, &mut pushed).await?;
        // the next repository can have all of it from this one
        origins.extend(parts.blobs.iter().map(|blob| (blob.digest, repository.clone())));
    }
    Ok(pushed)
}

/// The descriptor of what `croze push` sends for `root`: layers that the store keeps as trees alone are compressed, and an
/// index of which the store has only parts gives way to the manifest for `platform`. Blocks.
pub fn publishable(store: &Store, root: &Descriptor, platform: &Platform) -> Result<Descriptor, ExportError> {
    let bytes = store.read_blob(&root.digest)?;
    if !is_index(root, &bytes) {
        return packed_manifest(store, root, &bytes);
    }
    let index: Index = serde_json::from_slice(&bytes).map_err(|error| damaged(root, &error))?;
    let is_there = |entry: &Descriptor| store.blob_size(&entry.digest).is_ok_and(|size| size.is_some());
    if !index.manifests.iter().all(is_there) {
        let rank = |entry: &Descriptor| platform.rank(entry.platform.as_ref()?);
        let fitting = index.manifests.iter().filter(|entry| rank(entry).is_some() && is_there(entry));
        let entry = fitting.min_by_key(|entry| rank(entry)).ok_or(StoreError::Missing { digest: root.digest })?;
        return publishable(store, entry, platform);
    }
    let mut packed = index.clone();
    for entry in &mut packed.manifests {
        let found = publishable(store, entry, platform)?;
        *entry = Descriptor { digest: found.digest, size_bytes: found.size_bytes, ..entry.clone() };
    }
    if packed == index {
        return Ok(root.clone());
    }
    let bytes = packed.to_bytes();
    store.write_blob(&bytes)?;
    Ok(Descriptor::of(&root.media_type, &bytes))
}

fn packed_manifest(store: &Store, root: &Descriptor, bytes: &[u8]) -> Result<Descriptor, ExportError> {
    let manifest: Manifest = serde_json::from_slice(bytes).map_err(|error| damaged(root, &error))?;
    let mut packed = manifest.clone();
    for layer in packed.layers.iter_mut().filter(|layer| layer.media_type == media_type::LAYER) {
        if store.blob_size(&layer.digest)?.is_none() {
            let variant = layer::compressed(store, &DiffId(layer.digest), Compression::Gzip, None)?;
            *layer = Descriptor {
                media_type: media_type::LAYER_GZIP.to_owned(),
                digest: variant.digest,
                size_bytes: variant.size_bytes,
                ..layer.clone()
            };
        }
    }
    if packed == manifest {
        let media_type = if root.media_type.is_empty() { &manifest.media_type } else { &root.media_type };
        return Ok(Descriptor { media_type: media_type.clone(), ..root.clone() });
    }
    let bytes = packed.to_bytes();
    store.write_blob(&bytes)?;
    Ok(Descriptor::of(&packed.media_type, &bytes))
}

fn is_index(descriptor: &Descriptor, bytes: &[u8]) -> bool {
    matches!(descriptor.media_type.as_str(), media_type::INDEX | DOCKER_INDEX)
        || matches!(Document::parse(bytes, &descriptor.media_type), Ok(Document::Index(_)))
}

fn damaged(descriptor: &Descriptor, error: &serde_json::Error) -> ExportError {
    let reason = error.to_string();
    RegistryError::BadManifest { name: descriptor.digest.to_string(), reason }.into()
}

/// All that an image is made of.
struct Parts {
    /// Manifests and indexes, what they name before them; the root is the last.
    documents: Vec<(Descriptor, Vec<u8>)>,
    /// Configs and layers, each once.
    blobs: Vec<Descriptor>,
    /// Those of them that need not be in the store.
    delivered: HashSet<Digest>,
}

impl Parts {
    fn of(store: &Store, root: &Descriptor, delivered: HashSet<Digest>) -> Result<Parts, ExportError> {
        let mut parts = Parts { documents: Vec::new(), blobs: Vec::new(), delivered };
        parts.add(store, root, &mut HashSet::new())?;
        Ok(parts)
    }

    fn add(&mut self, store: &Store, descriptor: &Descriptor, seen: &mut HashSet<Digest>) -> Result<(), ExportError> {
        if !seen.insert(descriptor.digest) {
            return Ok(());
        }
        let bytes = store.read_blob(&descriptor.digest)?;
        match Document::parse(&bytes, &descriptor.media_type).map_err(|error| refused(descriptor, error))? {
            Document::Index(index) => {
                for entry in &index.manifests {
                    self.add(store, entry, seen)?;
                }
            }
            Document::Manifest(manifest) => {
                for blob in std::iter::once(manifest.config).chain(manifest.layers) {
                    if seen.insert(blob.digest) {
                        if !self.delivered.contains(&blob.digest) && store.blob_size(&blob.digest)?.is_none() {
                            return Err(StoreError::Missing { digest: blob.digest }.into());
                        }
                        self.blobs.push(blob);
                    }
                }
            }
        }
        self.documents.push((descriptor.clone(), bytes));
        Ok(())
    }
}

fn refused(descriptor: &Descriptor, error: BadDocument) -> ExportError {
    let name = descriptor.digest.to_string();
    ExportError::from(match error {
        BadDocument::Schema1 => RegistryError::Schema1 { name },
        BadDocument::ForeignLayer(digest) => RegistryError::ForeignLayer { name, digest },
        BadDocument::Malformed(reason) => RegistryError::BadManifest { name, reason },
    })
}

/// One repository: its blobs side by side, then its manifests, then the names.
async fn push_to(
    store: &Store,
    client: &Client,
    parts: &Parts,
    (repository, names): (&ImageRef, &[&ImageRef]),
    by: PushBy,
    origins: &HashMap<Digest, ImageRef>,
    pushed: &mut Pushed,
) -> Result<(), ExportError> {
    let known = |digest: &Digest| {
        let origin = origins.get(digest).filter(|origin| origin.host == repository.host);
        // no more than a shortcut: a store that cannot say it costs sending the blob
        let remembered = || store.blob_source(&repository.host, digest).ok().flatten();
        origin.map(|origin| origin.repository.clone()).or_else(remembered)
    };
    let elsewhere = |digest: &Digest| known(digest).filter(|known| *known != repository.repository);
    let mut mounts: Vec<String> = parts.blobs.iter().filter_map(|blob| elsewhere(&blob.digest)).collect();
    mounts.sort();
    mounts.dedup();
    let may_mount = !mounts.is_empty();
    let (pushing, may_mount) = match client.push_to(repository, mounts).await {
        // we may no longer read one of those repositories, which is no reason not to write this one
        Err(RegistryError::Denied { .. }) if may_mount => (client.push_to(repository, Vec::new()).await?, false),
        pushing => (pushing?, may_mount),
    };
    let slots = Arc::new(Semaphore::new(BLOBS_AT_A_TIME));
    let mut tasks = JoinSet::new();
    for blob in &parts.blobs {
        let (pushing, slots, blob, from) =
            (pushing.clone(), slots.clone(), blob.clone(), elsewhere(&blob.digest).filter(|_| may_mount));
        let file = match parts.delivered.contains(&blob.digest) {
            true => Err(ExportError::from(StoreError::Missing { digest: blob.digest })),
            false => Ok(store.blob_path(&blob.digest)),
        };
        let (store, home) = (store.clone(), repository.clone());
        tasks.spawn(async move {
            let _slot = slots.acquire().await;
            let taken = pushing.put_blob(&blob, std::future::ready(file), from.as_deref()).await?;
            // losing it costs sending the blob, should it be pushed elsewhere
            let _lost = task::blocking(move || store.set_blob_source(&home.host, &blob.digest, &home.repository)).await;
            Ok::<Taken, ExportError>(taken)
        });
    }
    // the first failure drops the set, which stops the other uploads
    while let Some(joined) = tasks.join_next().await {
        match joined.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))? {
            Taken::There => pushed.there += 1,
            Taken::Mounted => pushed.mounted += 1,
            Taken::Sent => pushed.sent += 1,
        }
    }
    let Some(((root, bytes), below)) = parts.documents.split_last() else { return Ok(()) };
    for (descriptor, bytes) in below {
        put_manifest(&pushing, &descriptor.digest.to_string(), descriptor, bytes).await?;
    }
    for name in names {
        let (reference, called) = match (by, &name.tag) {
            (PushBy::Tag, Some(tag)) => (tag.clone(), ImageRef { digest: Some(root.digest), ..(*name).clone() }),
            _ => (root.digest.to_string(), ImageRef { tag: None, digest: Some(root.digest), ..(*name).clone() }),
        };
        put_manifest(&pushing, &reference, root, bytes).await?;
        pushed.names.push(called.canonical());
    }
    Ok(())
}

async fn put_manifest(pushing: &Pushing, reference: &str, manifest: &Descriptor, bytes: &[u8]) -> Result<(), ExportError> {
    Ok(pushing.put_manifest(reference, manifest, bytes.to_vec()).await?)
}
