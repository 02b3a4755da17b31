//! Layers on their way into a cache: while the steps of a build still run, and the rest behind the last of them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use tokio::sync::{OnceCell, Semaphore};
use tokio::task::JoinSet;

use super::config::Offer;
use super::flag::CacheTarget;
use super::place::Writer;
use super::{Imports, Place, TravelError};
use crate::digest::DiffId;
use crate::image::{Descriptor, Dialect};
use crate::layer::{self, Compression, LayerError, LayerLimits};
use crate::registry::Taken;
use crate::store::Store;
use crate::task;

/// Blobs on their way at a time, as many as BuildKit has.
const BLOBS_AT_A_TIME: usize = 4;

/// Everything that sending needs.
pub struct Sending {
    /// Where layers come from.
    pub store: Store,
    /// Where they may be as well.
    pub imports: Arc<Imports>,
    /// Of what is fetched.
    pub limits: LayerLimits,
    /// How they are wanted.
    pub target: CacheTarget,
    /// Where they go.
    pub place: Place,
    writer: OnceCell<Writer>,
}

impl Sending {
    /// Nobody is asked yet.
    pub fn new(store: Store, imports: Arc<Imports>, limits: LayerLimits, target: CacheTarget, place: Place) -> Sending {
        Sending { store, imports, limits, target, place, writer: OnceCell::new() }
    }

    /// The way in, opened once.
    pub(super) async fn writer(&self) -> Result<&Writer, TravelError> {
        self.writer.get_or_try_init(|| self.place.writer(self.origins())).await
    }

    /// Repositories of the place's host that other caches are in.
    fn origins(&self) -> Vec<String> {
        let mut origins: Vec<String> = self.imports.places().filter_map(|place| self.origin(place)).collect();
        origins.sort();
        origins.dedup();
        origins
    }

    /// The repository of the same host that `from` is, if it is another one.
    fn origin(&self, from: &Place) -> Option<String> {
        let (from, to) = (from.repository()?, self.place.repository()?);
        (from.host == to.host && from.repository != to.repository).then(|| from.repository.clone())
    }
}

/// The layers that go to one place.
pub struct Uploads {
    sending: Arc<Sending>,
    slots: Arc<Semaphore>,
    /// An early upload has failed: whether it matters shows at the end, when it is tried again.
    in_trouble: Arc<AtomicBool>,
    running: Mutex<Running>,
}

/// What is on its way. Dropping it stops all of it.
#[derive(Default)]
struct Running {
    begun: BTreeSet<DiffId>,
    tasks: JoinSet<(DiffId, Result<Option<Arrived>, TravelError>)>,
}

/// A layer as the place has it now.
pub(super) struct Arrived {
    /// Its blob there; without one it is only named.
    pub offer: Offer,
    /// How it came there.
    pub taken: Option<Taken>,
}

impl Uploads {
    /// Nothing is on its way yet.
    pub fn new(sending: Sending) -> Uploads {
        let slots = Arc::new(Semaphore::new(BLOBS_AT_A_TIME));
        Uploads { sending: Arc::new(sending), slots, in_trouble: Arc::default(), running: Mutex::default() }
    }

    /// What writing the cache is called in progress output, in BuildKit's words.
    pub fn describe(&self) -> &'static str {
        self.sending.place.describe_sending()
    }

    /// What the layers are sent with.
    pub(super) fn sending(&self) -> &Sending {
        &self.sending
    }

    /// Begins to send a layer of a step that has ended, if this store has it. Costs the caller nothing.
    pub fn begin(&self, diff_id: DiffId) {
        let mut running = self.running();
        // a copy on the same machine is quick, and a build that fails should not leave a directory full of it
        if !self.sending.place.is_remote() || self.in_trouble.load(Ordering::Relaxed) || !running.begun.insert(diff_id) {
            return;
        }
        let (layer, slots, in_trouble) = (self.layer(diff_id), self.slots.clone(), self.in_trouble.clone());
        running.tasks.spawn(async move {
            let _slot = slots.acquire().await;
            let sent = match layer.is_here().await {
                Ok(true) => layer.send().await.map(Some),
                // a result of another cache that nobody has read so far, and perhaps nobody will
                Ok(false) => Ok(None),
                Err(error) => Err(error),
            };
            if sent.is_err() {
                in_trouble.store(true, Ordering::Relaxed);
            }
            (diff_id, sent)
        });
    }

    /// Sends all of `layers` that are not sent yet, and waits for all of them.
    ///
    /// # Errors
    /// The first that cannot be sent, which stops the others.
    pub(super) async fn finish(&self, layers: &BTreeSet<DiffId>) -> Result<BTreeMap<DiffId, Arrived>, TravelError> {
        let Running { begun, mut tasks } = std::mem::take(&mut *self.running());
        let spawn_last = |tasks: &mut JoinSet<_>, diff_id: DiffId| {
            let (layer, slots) = (self.layer(diff_id), self.slots.clone());
            tasks.spawn(async move {
                let _slot = slots.acquire().await;
                (diff_id, layer.send().await.map(Some))
            });
        };
        let mut last: BTreeSet<DiffId> = layers.difference(&begun).copied().collect();
        last.iter().for_each(|diff_id| spawn_last(&mut tasks, *diff_id));
        let mut arrived = BTreeMap::new();
        while let Some(joined) = tasks.join_next().await {
            let (diff_id, result) = joined.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()));
            match result {
                // of a step that was run again since
                _ if !layers.contains(&diff_id) => {}
                Ok(Some(layer)) => drop(arrived.insert(diff_id, layer)),
                Ok(None) | Err(_) if last.insert(diff_id) => spawn_last(&mut tasks, diff_id),
                Ok(None) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(arrived)
    }

    fn layer(&self, diff_id: DiffId) -> Layer {
        Layer { sending: self.sending.clone(), diff_id }
    }

    fn running(&self) -> MutexGuard<'_, Running> {
        self.running.lock().expect("no holder of this lock panics")
    }
}

/// One layer on its way.
struct Layer {
    sending: Arc<Sending>,
    diff_id: DiffId,
}

impl Layer {
    async fn is_here(&self) -> Result<bool, TravelError> {
        let (store, diff_id) = (self.sending.store.clone(), self.diff_id);
        Ok(task::blocking(move || layer::sound(&store, &diff_id)).await?.is_some())
    }

    async fn send(self) -> Result<Arrived, TravelError> {
        let Sending { store, imports, place, .. } = &*self.sending;
        let offered = imports.offer(&self.diff_id).map(|(offer, from)| (offer.clone(), from));
        let suiting = offered.as_ref().and_then(|(offer, from)| {
            let blob = offer.blob.clone().filter(|blob| self.suits(blob))?;
            Some((blob, offer, *from))
        });
        let writer = self.sending.writer().await?;
        if let Some((blob, offer, from)) = &suiting
            && from.shares_blobs_with(place)
            && writer.has(blob).await?
        {
            return Ok(Arrived { offer: (*offer).clone(), taken: Some(Taken::There) });
        }
        let origin = offered.as_ref().and_then(|(_, from)| self.sending.origin(from));
        if self.is_here().await? {
            let tar_bytes = store.layer(&self.diff_id)?.map_or(0, |stored| stored.record.tar_bytes);
            let blob = self.blob().await?;
            let file = std::future::ready(Ok(store.blob_path(&blob.digest)));
            let taken = writer.put(&blob, file, origin.as_deref()).await?;
            return Ok(Arrived { offer: Offer { blob: Some(blob), tar_bytes }, taken: Some(taken) });
        }
        let moved = match &suiting {
            Some((blob, offer, _)) => {
                let file = self.bring(blob);
                writer.put(blob, file, origin.as_deref()).await.map(|taken| ((*offer).clone(), taken))
            }
            // in another form than the one that is wanted
            None => self.remake(writer).await,
        };
        match moved {
            Ok((offer, taken)) => Ok(Arrived { offer, taken: Some(taken) }),
            // what that cache names and does not have can be named by this one too
            Err(error) if error.is_mended_without_cache() => {
                let tar_bytes = imports.tar_bytes(&self.diff_id).unwrap_or_default();
                Ok(Arrived { offer: Offer { blob: None, tar_bytes }, taken: None })
            }
            Err(error) => Err(error),
        }
    }

    /// The blob of another cache as a file of the store; its layer is not unpacked.
    async fn bring(&self, blob: &Descriptor) -> Result<PathBuf, TravelError> {
        let Sending { store, imports, .. } = &*self.sending;
        imports.fetch_blob(store, &self.diff_id).await?;
        Ok(store.blob_path(&blob.digest))
    }

    /// Fetches a layer, and sends it in another form.
    async fn remake(&self, writer: &Writer) -> Result<(Offer, Taken), TravelError> {
        let Sending { store, imports, limits, .. } = &*self.sending;
        let tar_bytes = imports.fetch(store, *limits, &self.diff_id).await?.record.tar_bytes;
        let blob = self.blob().await?;
        let file = std::future::ready(Ok(store.blob_path(&blob.digest)));
        let taken = writer.put(&blob, file, None).await?;
        Ok((Offer { blob: Some(blob), tar_bytes }, taken))
    }

    fn suits(&self, blob: &Descriptor) -> bool {
        let target = &self.sending.target;
        !target.recompress || Compression::of_media_type(&blob.media_type) == Some(target.encoding.compression)
    }

    /// The layer, which the store has, as a blob of the store.
    async fn blob(&self) -> Result<Descriptor, TravelError> {
        let (store, diff_id, encoding) = (self.sending.store.clone(), self.diff_id, self.sending.target.encoding);
        let fetched = self.sending.imports.offer(&diff_id).and_then(|(offer, _)| offer.blob.clone());
        let suits = fetched.as_ref().is_some_and(|blob| self.suits(blob));
        task::blocking(move || {
            let is_there = |blob: &Descriptor| store.blob_size(&blob.digest).map(|size| size == Some(blob.size_bytes));
            if let (Some(blob), true) = (&fetched, suits)
                && is_there(blob)?
            {
                return Ok(blob.clone());
            }
            match layer::compressed(&store, &diff_id, encoding, None) {
                Ok(variant) => {
                    let kind = Dialect::Oci.layer(encoding.compression.layer_type()).to_owned();
                    Ok(Descriptor::new(&kind, variant.digest, variant.size_bytes))
                }
                // another writer's tar, which the tree does not give again: its blob is the one to use
                Err(error @ LayerError::WrongContent { .. }) => match fetched {
                    Some(blob) if is_there(&blob)? => Ok(blob),
                    _ => Err(error.into()),
                },
                Err(error) => Err(error.into()),
            }
        })
        .await
    }
}
