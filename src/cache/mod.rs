//! Decides whether a step must run.
//!
//! Owns: [`key`] (what a step's result depends on, as named parts), [`Cache`] (records that map a key to a layer), the
//! reasons for a miss ([`explain`]), what former builds did ([`history`]) and selected ([`states`]).
//! In:   a step's key, derived by the worker from its op and what it can see of its inputs.
//! Out:  [`Lookup`]: a hit with its record, or a miss with its reason.
//! Elsewhere: where records live (`store`), digests of file trees (`source::digest`), running (`worker`).
//!
//! Keys are content keys: the layers that a command starts from, the files that a copy selects. A base image's layers are
//! known from its config before a byte of them is fetched, so nothing has to be unpacked to ask.

use std::sync::{Arc, Mutex};

use crate::digest::{CacheKey, DiffId};
use crate::store::{Record, Soundness, Store, StoreError};

pub mod explain;
pub mod history;
pub mod key;
pub mod states;

pub use key::{HashSink, KeySink, ListSink};
pub use states::FileStates;

/// Records of former results, as one build may use them.
#[derive(Clone)]
pub struct Cache {
    store: Store,
    /// Asked for what the store does not have.
    elsewhere: Option<Arc<dyn Elsewhere>>,
    project: String,
    history: Arc<Mutex<history::History>>,
}

/// Knows results whose layers are not here and can be brought.
pub trait Elsewhere: Send + Sync {
    /// The result of `key`, and where it is, in words.
    fn find(&self, key: &CacheKey) -> Option<(Record, String)>;

    /// Whether the files of a layer can be brought.
    fn has_files(&self, diff_id: &DiffId) -> bool;

    /// Why [`Elsewhere::find`] gives nothing for `key`: the end of a sentence about the step.
    fn absence(&self, key: &CacheKey) -> String;
}

/// Whether a former result can be used, and why not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lookup {
    /// The result is there.
    Hit(Record),
    /// The result is known; its layer is in another place, in words.
    Elsewhere(Record, String),
    /// The result is there, and its layer is older than the machine's last start: it has to be proven before it is used.
    Unproven(Record),
    /// The step must run.
    Miss(MissReason),
}

/// Why a step must run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MissReason {
    /// No step with this key was ever run in this store.
    NeverBuilt,
    /// It was run, but its layer is gone.
    LayerGone(DiffId),
    /// It was run, but its layer turned out to be damaged.
    Damaged,
    /// The client asked for a fresh run.
    Refused,
}

/// Whether former results of a step may be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reuse {
    /// Yes.
    Allowed,
    /// `--no-cache`: run it, and record the new result.
    Refused,
}

impl Cache {
    /// The cache of `store`.
    pub fn new(store: Store) -> Cache {
        Cache { store, elsewhere: None, project: String::new(), history: Arc::default() }
    }

    /// The same cache, which asks `elsewhere` for what the store does not have.
    pub fn with(mut self, elsewhere: Arc<dyn Elsewhere>) -> Cache {
        self.elsewhere = Some(elsewhere);
        self
    }

    /// Looks `key` up, in the store first. A record whose layer is gone is a miss.
    pub fn lookup(&self, key: &CacheKey, reuse: Reuse) -> Result<Lookup, StoreError> {
        if reuse == Reuse::Refused {
            return Ok(Lookup::Miss(MissReason::Refused));
        }
        let miss = match self.store.record(key)? {
            None => MissReason::NeverBuilt,
            Some(record) => match self.store.layer(&record.diff_id)? {
                Some(layer) if layer.soundness == Soundness::Unproven => return Ok(Lookup::Unproven(record)),
                Some(_) => return Ok(Lookup::Hit(record)),
                None => MissReason::LayerGone(record.diff_id),
            },
        };
        let Some((record, place)) = self.elsewhere.as_ref().and_then(|elsewhere| elsewhere.find(key)) else {
            return Ok(Lookup::Miss(miss));
        };
        // a layer may be here although nobody knew that it is this key's
        match self.store.layer(&record.diff_id)? {
            Some(layer) if layer.soundness == Soundness::Unproven => Ok(Lookup::Unproven(record)),
            Some(_) => Ok(Lookup::Hit(record)),
            None => Ok(Lookup::Elsewhere(record, place)),
        }
    }

    /// The record of a key, wherever its layer is.
    pub fn record(&self, key: &CacheKey) -> Result<Option<Record>, StoreError> {
        let elsewhere = || self.elsewhere.as_ref().and_then(|elsewhere| elsewhere.find(key)).map(|(record, _)| record);
        Ok(self.store.record(key)?.or_else(elsewhere))
    }

    /// Records `record` as the result of `key`.
    pub fn insert(&self, key: &CacheKey, record: &Record) -> Result<(), StoreError> {
        self.store.set_records(&[(*key, record.clone())])
    }

    /// The result under the key that [`key::adoption`] makes: that of a command that left the same on the same layers before, if
    /// its layer is still there or can be brought.
    ///
    /// A command that ran again for whatever reason and changed nothing keeps its old layer, so that the image's digest does
    /// not move and what depends on it need not run.
    pub fn adopt(&self, key: &CacheKey) -> Result<Option<Record>, StoreError> {
        match self.lookup(key, Reuse::Allowed)? {
            Lookup::Hit(record) => Ok(Some(record)),
            Lookup::Elsewhere(record, _) => {
                let can_be_had = |elsewhere: &Arc<dyn Elsewhere>| elsewhere.has_files(&record.diff_id);
                Ok(self.elsewhere.as_ref().is_some_and(can_be_had).then_some(record))
            }
            // what nobody has looked at is not worth looking at: the new layer is sound
            Lookup::Unproven(_) | Lookup::Miss(_) => Ok(None),
        }
    }
}
