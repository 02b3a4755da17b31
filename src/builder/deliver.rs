//! The layers that outputs need and no step has read: brought into the store, or, where all that is wanted is a push, handed
//! from the registry that has them to the one that gets them, without being unpacked here.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::build::Build;
use super::output::{PushTarget, Wanted};
use crate::digest::{DiffId, Digest};
use crate::image::Descriptor;
use crate::layer::{Compression, Form};
use crate::reference::ImageRef;
use crate::registry::{Client, RegistryError};
use crate::store::{Store, StoreError};
use crate::travel::{Imports, TravelError};
use crate::worker::{LocalWorker, Output, Stack, WorkError};

/// Blobs on their way at a time, as many as BuildKit has.
const BLOBS_AT_A_TIME: usize = 4;

/// By layer: its blob, which is where the image goes and not here.
pub type Delivered = HashMap<DiffId, Descriptor>;

/// A layer that is not here.
#[derive(Clone)]
struct Absent {
    diff_id: DiffId,
    blob: Descriptor,
    /// The base image's name, for a layer of one; a cache has it else.
    base: Option<ImageRef>,
    /// The registry's repository that has it.
    origin: Option<ImageRef>,
}

impl Build {
    /// Sees to it that all layers of `outputs` are where they are wanted.
    ///
    /// # Errors
    /// A layer cannot be had, or this build is to stop.
    pub(super) async fn provide_layers(
        &self,
        worker: &Arc<LocalWorker>,
        imports: &Arc<Imports>,
        outputs: &[Output],
        (wanted, epoch): (&Wanted, Option<i64>),
    ) -> Result<Delivered, WorkError> {
        let stacks: Vec<&Stack> = outputs.iter().filter_map(stack_of).collect();
        let mut cancel = self.cancel.clone();
        let providing = async {
            if self.request.attestations.sbom.is_none()
                && let Some(targets) = wanted.push_targets(&self.request.tags, epoch)
                && let Some(absent) = self.absent(worker, imports, &stacks, &targets)?
            {
                match self.deliver(imports, absent, &targets).await {
                    Ok(delivered) => {
                        self.prove_layers(worker, &stacks, &delivered, (wanted, epoch)).await?;
                        return Ok(delivered);
                    }
                    Err(error) if error.is_mended_without_cache() => return Err(error.into()),
                    // it is told by the push itself, which finds the same
                    Err(_) => {}
                }
            }
            for stack in &stacks {
                worker.fetch_missing(stack).await?;
            }
            self.prove_layers(worker, &stacks, &Delivered::new(), (wanted, epoch)).await?;
            Ok(Delivered::new())
        };
        tokio::select! {
            result = providing => result,
            Ok(_) = cancel.wait_for(|stop| *stop) => Err(WorkError::Canceled),
        }
    }

    /// The layers that are not here. `None` if one of them has to come here to be had in the form that is wanted.
    fn absent(
        &self,
        worker: &LocalWorker,
        imports: &Imports,
        stacks: &[&Stack],
        targets: &[PushTarget],
    ) -> Result<Option<Vec<Absent>>, StoreError> {
        let mut seen = HashSet::new();
        let mut absent = Vec::new();
        for layer in stacks.iter().flat_map(|stack| stack.layers()).filter(|layer| seen.insert(layer.diff_id)) {
            if self.store.layer(&layer.diff_id)?.is_some() {
                continue;
            }
            let found = match &layer.base {
                Some((base, _)) if self.store.blob_size(&base.digest)? == Some(base.size_bytes) => continue,
                Some((base, image)) => worker.name_of(image).map(|name| Absent {
                    diff_id: layer.diff_id,
                    blob: Descriptor::new(&base.media_type, base.digest, base.size_bytes),
                    base: Some(name.clone()),
                    origin: Some(name),
                }),
                None => imports.offer(&layer.diff_id).and_then(|(offer, place)| {
                    let blob = offer.blob.clone().filter(|blob| targets.iter().all(|target| suits(blob, &target.form)))?;
                    Some(Absent { diff_id: layer.diff_id, blob, base: None, origin: place.repository().cloned() })
                }),
            };
            match found {
                Some(found) => absent.push(found),
                None => return Ok(None),
            }
        }
        Ok(Some(absent))
    }

    async fn deliver(
        &self,
        imports: &Arc<Imports>,
        absent: Vec<Absent>,
        targets: &[PushTarget],
    ) -> Result<Delivered, TravelError> {
        let mut repositories: HashSet<(&str, &str)> = HashSet::new();
        for target in targets.iter().filter(|target| !absent.is_empty() && repositories.insert(target.repository())) {
            let name = &target.name;
            let client = if target.insecure { self.client.insecure(&name.host) } else { (*self.client).clone() };
            let elsewhere = |origin: &ImageRef| origin.host == name.host && origin.repository != name.repository;
            let origins = absent.iter().filter_map(|layer| layer.origin.as_ref()).filter(|origin| elsewhere(origin));
            let mut origins: Vec<String> = origins.map(|origin| origin.repository.clone()).collect();
            origins.sort();
            origins.dedup();
            let (pushing, may_mount) = match client.push_to(name, origins).await {
                // we may read those repositories no longer, which is no reason not to write this one
                Err(RegistryError::Denied { .. }) => (client.push_to(name, Vec::new()).await?, false),
                pushing => (pushing?, true),
            };
            let slots = Arc::new(Semaphore::new(BLOBS_AT_A_TIME));
            let mut tasks = JoinSet::new();
            for layer in absent.clone() {
                let from = layer.origin.as_ref().filter(|origin| may_mount && elsewhere(origin));
                let from = from.map(|origin| origin.repository.clone());
                let (pushing, slots, store, imports) = (pushing.clone(), slots.clone(), self.store.clone(), imports.clone());
                let client = self.client.clone();
                tasks.spawn(async move {
                    let _slot = slots.acquire().await;
                    let file = bring(&store, &client, &imports, &layer);
                    pushing.put_blob(&layer.blob, file, from.as_deref()).await
                });
            }
            // the first failure drops the set, which stops the others
            while let Some(joined) = tasks.join_next().await {
                joined.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))?;
            }
        }
        Ok(absent.into_iter().map(|layer| (layer.diff_id, layer.blob)).collect())
    }
}

fn stack_of(output: &Output) -> Option<&Stack> {
    match output {
        Output::Stack(stack) => Some(stack),
        Output::Context(_) | Output::Download(_) => None,
    }
}

/// The blob as a file of the store; its layer is not unpacked.
async fn bring(store: &Store, client: &Client, imports: &Imports, layer: &Absent) -> Result<PathBuf, TravelError> {
    let Absent { diff_id, blob, base, .. } = layer;
    match base {
        None => imports.fetch_blob(store, diff_id).await?,
        Some(image_ref) => bring_base(store, client, image_ref, blob.digest, blob.size_bytes).await?,
    }
    Ok(store.blob_path(&blob.digest))
}

/// Fetches the blob of a base image's layer.
pub(super) async fn bring_base(
    store: &Store,
    client: &Client,
    image_ref: &ImageRef,
    digest: Digest,
    size_bytes: u64,
) -> Result<(), TravelError> {
    let store = store.clone();
    let keep = move |reader: &mut crate::registry::BlobReader| {
        let mut writer = store.blob_writer()?;
        let path = store.blob_path(&digest);
        std::io::copy(reader, &mut writer).map_err(|source| StoreError::Io { action: "write", path, source })?;
        writer.finish(Some(digest))?;
        Ok::<(), TravelError>(())
    };
    client.fetch_blob(image_ref, digest, size_bytes, keep).await
}

/// Whether a blob is what a push would make of its layer.
fn suits(blob: &Descriptor, form: &Form) -> bool {
    // the entries of eStargz are told of in annotations, which a cache does not keep
    let Form { encoding, epoch } = form;
    epoch.is_none()
        && encoding.level.is_none()
        && encoding.compression != Compression::Estargz
        && Compression::of_media_type(&blob.media_type) == Some(encoding.compression)
}
