//! What a build takes from caches elsewhere.

use std::collections::HashSet;
use std::fs::File;
use std::io;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use super::config::{BadConfig, Contents, Offer};
use super::mounts::{self, MountOffer};
use super::place::Found;
use super::{Answers, Place, TravelError, inline};
use crate::cache::Elsewhere;
use crate::digest::{CacheKey, ChainId, DiffId, Digest};
use crate::image::Descriptor;
use crate::layer::{self, Compression, LayerLimits, Lower};
use crate::snapshot::Testimony;
use crate::store::{Record, Store, StoredLayer};
use crate::task;

/// So many layers of one cache may fail before nothing more of it is asked for.
const FAILURES_BEFORE_GIVING_UP: usize = 3;

/// One cache, whose document was read. Its blobs are where they were.
pub struct Import {
    place: Place,
    contents: Contents,
    answers: Answers,
}

impl Import {
    /// Reads the documents of the cache at `place`: three requests.
    ///
    /// # Errors
    /// `Absent`, `Foreign`, `OtherVersion`, `Malformed`, `WrongBytes`: the build goes on without it. What a registry says.
    pub async fn open(place: Place) -> Result<Import, TravelError> {
        let bad = |error| match error {
            BadConfig::Absent => TravelError::PlainImage { place: place.name() },
            BadConfig::Foreign => TravelError::Foreign { place: place.name() },
            BadConfig::OtherVersion(found) => TravelError::OtherVersion { place: place.name(), found },
            BadConfig::Malformed(reason) => TravelError::Malformed { place: place.name(), reason },
        };
        let documents = match place.read().await? {
            Found::Caches(documents) => documents,
            Found::Image { config, layers } => {
                let (contents, answers) = inline::read(&config, &layers).map_err(bad)?;
                return Ok(Import { place, contents, answers });
            }
        };
        let (mut all, mut first_error): (Option<(Contents, Answers)>, _) = (None, None);
        for bytes in documents {
            let read = async {
                let contents = Contents::parse(&bytes).map_err(bad)?;
                let answers = match &contents.answers {
                    None => Answers::default(),
                    Some(descriptor) => Answers::parse(&place.document(descriptor).await?)
                        .map_err(|reason| TravelError::Malformed { place: place.name(), reason })?,
                };
                Ok((contents, answers))
            };
            match (read.await, &mut all) {
                (Ok(read), None) => all = Some(read),
                (Ok((contents, answers)), Some((all, all_answers))) => {
                    all.extend(contents);
                    all_answers.extend(answers);
                }
                (Err(error), _) => first_error = first_error.or(Some(error)),
            }
        }
        match (all, first_error) {
            (Some((contents, answers)), _) => Ok(Import { place, contents, answers }),
            (None, Some(error)) => Err(error),
            (None, None) => Err(TravelError::Absent { place: place.name() }),
        }
    }

    /// How many results of steps it has. Those that commands may adopt are the same ones under other keys.
    pub fn results(&self) -> usize {
        let keys = self.contents.records.keys();
        let adoptions: HashSet<&Digest> = self.answers.memos.values().collect();
        keys.filter(|key| !adoptions.contains(&key.0)).count()
    }
}

/// What was brought here.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Transfers {
    /// Layers.
    pub layers: u64,
    /// Cache mounts.
    pub mounts: u64,
    /// Bytes of their blobs.
    pub bytes: u64,
}

/// All caches that a build may use, in the order in which they were named.
#[derive(Default)]
pub struct Imports {
    imports: Vec<Import>,
    refused: Mutex<Refused>,
    fetched_layers: AtomicU64,
    fetched_mounts: AtomicU64,
    fetched_bytes: AtomicU64,
}

/// What is not to be used any more.
#[derive(Default)]
struct Refused {
    layers: HashSet<DiffId>,
    /// How often a layer of each cache has failed, by its number.
    failures: Vec<(usize, usize)>,
}

impl Refused {
    fn failures(&self, number: usize) -> usize {
        self.failures.iter().find(|(known, _)| *known == number).map_or(0, |(_, count)| *count)
    }
}

impl Elsewhere for Imports {
    fn find(&self, key: &CacheKey) -> Option<(Record, String)> {
        let refused = self.refused();
        let usable = |(number, _): &(usize, &Import)| refused.failures(*number) < FAILURES_BEFORE_GIVING_UP;
        self.imports.iter().enumerate().filter(usable).find_map(|(_, import)| {
            let record = import.contents.records.get(key).filter(|record| !refused.layers.contains(&record.diff_id))?;
            Some((record.clone(), import.place.name()))
        })
    }

    fn has_files(&self, diff_id: &DiffId) -> bool {
        self.offer(diff_id).is_some()
    }

    fn absence(&self, key: &CacheKey) -> String {
        if let Some(import) = self.imports.iter().find(|import| import.contents.records.contains_key(key)) {
            return format!("in the cache `{}`, whose files for it cannot be had", import.place.name());
        }
        let places: Vec<String> = self.imports.iter().map(|import| format!("`{}`", import.place.name())).collect();
        format!("not in the cache {}", places.join(" or "))
    }
}

impl Imports {
    /// Those that could be read.
    pub fn new(imports: Vec<Import>) -> Imports {
        Imports { imports, ..Imports::default() }
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.imports.is_empty()
    }

    /// What a pure question about layers came to, where they were.
    pub fn memo(&self, key: &CacheKey) -> Option<Digest> {
        self.imports.iter().find_map(|import| import.answers.memos.get(key)).copied()
    }

    /// What the layers of a stack have told where they were; empty if nobody knows.
    pub fn testimony(&self, stack: &ChainId) -> Testimony {
        let mut all = Testimony::default();
        // the first cache has the last word
        let known = self.imports.iter().rev().filter_map(|import| import.answers.stacks.get(stack));
        known.for_each(|testimony| all.extend(testimony.clone()));
        all
    }

    /// Whether a cache has the cache mount called `name`.
    pub fn has_mount(&self, name: &Digest) -> bool {
        self.mount(name).is_some()
    }

    /// Brings a cache mount here, unless it is there by now.
    ///
    /// # Errors
    /// What is wrong with it; it can begin empty then.
    pub async fn fetch_mount(&self, store: &Store, limits: LayerLimits, name: &Digest) -> Result<(), TravelError> {
        if let Some((offer, place)) = self.mount(name) {
            let bytes = mounts::fetch(store, place, name, offer, limits).await?;
            self.fetched_mounts.fetch_add(1, Ordering::Relaxed);
            self.fetched_bytes.fetch_add(bytes, Ordering::Relaxed);
        }
        Ok(())
    }

    /// A cache mount as the first cache offers it that has it.
    pub(super) fn mount(&self, name: &Digest) -> Option<(&MountOffer, &Place)> {
        self.imports.iter().find_map(|import| Some((import.contents.mounts.get(name)?, &import.place)))
    }

    /// All cache mounts that caches have.
    pub(super) fn mounts(&self) -> impl Iterator<Item = (&Digest, &MountOffer)> {
        self.imports.iter().flat_map(|import| &import.contents.mounts)
    }

    /// What was brought here so far.
    pub fn transfers(&self) -> Transfers {
        Transfers {
            layers: self.fetched_layers.load(Ordering::Relaxed),
            mounts: self.fetched_mounts.load(Ordering::Relaxed),
            bytes: self.fetched_bytes.load(Ordering::Relaxed),
        }
    }

    /// A layer as a cache offers it, and where its blob is.
    pub fn offer(&self, diff_id: &DiffId) -> Option<(&Offer, &Place)> {
        let (_, offer, place) = self.offers(diff_id).next()?;
        Some((offer, place))
    }

    /// Whether a cache knows the layer, be it without its blob.
    pub fn knows(&self, diff_id: &DiffId) -> bool {
        self.tar_bytes(diff_id).is_some()
    }

    /// Bytes of a layer's tar, as the first cache says that knows it.
    pub fn tar_bytes(&self, diff_id: &DiffId) -> Option<u64> {
        self.imports.iter().find_map(|import| import.contents.layers.get(diff_id)).map(|offer| offer.tar_bytes)
    }

    /// Those that have a blob.
    fn offers(&self, diff_id: &DiffId) -> impl Iterator<Item = (usize, &Offer, &Place)> {
        self.imports.iter().enumerate().filter_map(|(number, import)| {
            let offer = import.contents.layers.get(diff_id).filter(|offer| offer.blob.is_some())?;
            Some((number, offer, &import.place))
        })
    }

    /// Where they are.
    pub fn places(&self) -> impl Iterator<Item = &Place> {
        self.imports.iter().map(|import| &import.place)
    }

    /// Brings the blob of a layer, as [`Imports::offer`] has it, into the store, and nothing more: for another place that
    /// wants it as it is.
    ///
    /// # Errors
    /// `NotCarried` if no cache has it. `Fetch` with what went wrong; if that is not this machine's fault, the layer is refused.
    pub async fn fetch_blob(&self, store: &Store, diff_id: &DiffId) -> Result<(), TravelError> {
        let offered = self.offer(diff_id).and_then(|(offer, place)| Some((offer.blob.as_ref()?, place)));
        let Some((blob, place)) = offered else { return Err(TravelError::NotCarried { layers: vec![*diff_id] }) };
        if store.blob_size(&blob.digest)? == Some(blob.size_bytes) {
            return Ok(());
        }
        let (blocking_store, digest) = (store.clone(), blob.digest);
        let fetched = place.blob(blob, move |from| {
            let mut writer = blocking_store.blob_writer()?;
            io::copy(from, &mut writer).map_err(TravelError::io("write", &blocking_store.blob_path(&digest)))?;
            writer.finish(Some(digest))?;
            Ok(())
        });
        if let Err(error) = fetched.await {
            let error = TravelError::Fetch { diff_id: *diff_id, place: place.name(), source: Box::new(error) };
            if !error.is_local() {
                self.refuse(&[*diff_id]);
            }
            return Err(error);
        }
        self.fetched_layers.fetch_add(1, Ordering::Relaxed);
        self.fetched_bytes.fetch_add(blob.size_bytes, Ordering::Relaxed);
        Ok(())
    }

    /// Brings a layer into the store and keeps the results that it belongs to.
    ///
    /// # Errors
    /// `NotCarried` if no cache has its blob; `Fetch` with what went wrong at the last that has. A failure that is not this
    /// machine's has refused the layer: [`Elsewhere::find`] does not give it any more.
    pub async fn fetch(&self, store: &Store, limits: LayerLimits, diff_id: &DiffId) -> Result<StoredLayer, TravelError> {
        let mut last = TravelError::NotCarried { layers: vec![*diff_id] };
        for (number, offer, place) in self.offers(diff_id) {
            let Some(blob) = &offer.blob else { continue };
            match fetch(store, limits, diff_id, blob, place).await {
                Ok(stored) => {
                    self.fetched_layers.fetch_add(1, Ordering::Relaxed);
                    self.fetched_bytes.fetch_add(blob.size_bytes, Ordering::Relaxed);
                    self.keep_records(store, diff_id).await?;
                    return Ok(stored);
                }
                Err(error) => {
                    let is_local = error.is_local();
                    last = TravelError::Fetch { diff_id: *diff_id, place: place.name(), source: Box::new(error) };
                    if is_local {
                        return Err(last);
                    }
                    self.note_failure(number);
                }
            }
        }
        self.refuse(&[*diff_id]);
        Err(last)
    }

    /// Gives these layers up: steps whose results they are run.
    pub fn refuse(&self, layers: &[DiffId]) {
        self.refused.lock().expect("no holder of this lock panics").layers.extend(layers);
    }

    fn note_failure(&self, number: usize) {
        let mut refused = self.refused.lock().expect("no holder of this lock panics");
        match refused.failures.iter_mut().find(|(known, _)| *known == number) {
            Some((_, count)) => *count += 1,
            None => refused.failures.push((number, 1)),
        }
    }

    fn refused(&self) -> std::sync::MutexGuard<'_, Refused> {
        self.refused.lock().expect("no holder of this lock panics")
    }

    async fn keep_records(&self, store: &Store, diff_id: &DiffId) -> Result<(), TravelError> {
        let of_layer = |import: &Import| -> Vec<(CacheKey, Record)> {
            let records = import.contents.records.iter().filter(|(_, record)| record.diff_id == *diff_id);
            records.map(|(key, record)| (*key, record.clone())).collect()
        };
        // the first cache has the last word
        let records: Vec<(CacheKey, Record)> = self.imports.iter().rev().flat_map(of_layer).collect();
        let store = store.clone();
        Ok(task::blocking(move || store.set_records(&records)).await?)
    }
}

/// Fetches, checks and unpacks one layer; its blob is kept, so that an output or another cache can have it as it is.
async fn fetch(
    store: &Store,
    limits: LayerLimits,
    diff_id: &DiffId,
    blob: &Descriptor,
    place: &Place,
) -> Result<StoredLayer, TravelError> {
    let Some(compression) = Compression::of_media_type(&blob.media_type) else {
        let reason = format!("its layer {} is a `{}`, which is no layer that can be unpacked", blob.digest, blob.media_type);
        return Err(TravelError::Malformed { place: place.name(), reason });
    };
    let (store, diff_id, digest) = (store.clone(), *diff_id, blob.digest);
    place
        .blob(blob, move |from| {
            // its reader reaches the end only with the bytes of that name
            match layer::keep_and_unpack(&store, from, &digest, compression, diff_id, Lower::Nothing, limits)? {
                Some(stored) => Ok(stored),
                // it has links to what lies below it, and says so again
                None => {
                    let path = store.blob_path(&digest);
                    let mut kept = File::open(&path).map_err(TravelError::io("open", &path))?;
                    Ok(layer::unpack(&store, &mut kept, compression, Some(diff_id), Lower::Nothing, limits)?)
                }
            }
        })
        .await
}
