//! What layers have told, in place of the layers: to other machines, and from them.
//!
//! A build with `--cache-to` notes what its steps ask of the layers below them; one with `--cache-from` asks these notes before
//! it fetches a layer for the sake of a question.

use std::sync::Arc;

use super::error::WorkError;
use super::{LocalWorker, Shared, Stack};
use crate::digest::{CacheKey, ChainId, Digest, Hasher};
use crate::snapshot::{Meta, SnapshotError, Testimony, Told, TreePath, View, Witness};
use crate::source::digest::FileDigests;
use crate::store::Store;
use crate::travel::Answers;

/// The tree that a step puts files into.
pub(super) enum Parent {
    /// Layers.
    View(View),
    /// Layers, of which the questions are noted.
    Heard(View, Arc<Stack>),
    /// What they have told.
    Told(Testimony),
}

/// Digests of a tree's files, noted as they are told.
pub(super) struct HeardDigests<'a> {
    /// Who knows them.
    pub digests: &'a dyn FileDigests,
    /// Who notes them.
    pub witness: &'a Witness<'a>,
}

impl FileDigests for HeardDigests<'_> {
    fn digests(&self, files: &[(&TreePath, &Meta)]) -> Result<Vec<Digest>, SnapshotError> {
        let digests = self.digests.digests(files)?;
        files.iter().zip(&digests).for_each(|((path, _), digest)| self.witness.note_digest(path, *digest));
        Ok(digests)
    }
}

/// Digests as they were told elsewhere.
pub(super) struct ToldDigests<'a>(pub &'a Told<'a>);

impl FileDigests for ToldDigests<'_> {
    fn digests(&self, files: &[(&TreePath, &Meta)]) -> Result<Vec<Digest>, SnapshotError> {
        files.iter().map(|(path, _)| self.0.digest(path)).collect()
    }
}

/// What a decision rests on.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Basis {
    /// Trees of this store.
    Trees,
    /// What another machine says of them: nothing to remember here.
    Testimony,
}

impl Shared {
    /// Notes something for other machines, if anybody wants to know.
    fn tell(&self, note: impl FnOnce(&mut Answers)) {
        if let Some(told) = &self.told {
            note(&mut told.lock().expect("no holder of this lock panics"));
        }
    }

    /// Keeps what a pure question came to, here and for others.
    pub(super) fn remember(&self, key: &CacheKey, digest: &Digest) -> Result<(), WorkError> {
        self.store.set_memo(key, digest.as_bytes())?;
        self.tell(|told| {
            told.memos.insert(*key, *digest);
        });
        Ok(())
    }

    /// What a stack was asked in this store.
    fn testimony(&self, chain: &ChainId) -> Result<Testimony, WorkError> {
        let text = self.store.memo(&testimony_key(chain))?;
        // one that cannot be read is of another version
        Ok(text.and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or_default())
    }

    /// Keeps what a stack was asked, for this build's caches and those of later ones.
    pub(super) fn keep_testimony(&self, stack: &Stack, testimony: Testimony) -> Result<(), WorkError> {
        let Some(chain) = stack.chain() else { return Ok(()) };
        let mut known = self.testimony(&chain)?;
        known.extend(testimony);
        self.store.set_memo(&testimony_key(&chain), &serde_json::to_vec(&known).unwrap_or_default())?;
        self.tell(|told| told.add(chain, known));
        Ok(())
    }
}

fn testimony_key(chain: &ChainId) -> CacheKey {
    let mut hasher = Hasher::new();
    hasher.field(b"testimony 1");
    hasher.update(chain.0.as_bytes());
    CacheKey(hasher.finish())
}

impl LocalWorker {
    /// What another machine has heard of a stack, if some of its layers are not here.
    pub(super) fn told_elsewhere(&self, stack: &Stack) -> Result<Option<Testimony>, WorkError> {
        let Some(chain) = stack.chain().filter(|_| !self.shared.imports.is_empty()) else { return Ok(None) };
        let testimony = self.shared.imports.testimony(&chain);
        if testimony.is_empty() {
            return Ok(None);
        }
        for layer in stack.layers() {
            if self.shared.store.layer(&layer.diff_id)?.is_none() {
                return Ok(Some(testimony));
            }
        }
        Ok(None)
    }

    /// What a pure question about layers came to, here or elsewhere; it is passed on.
    pub(super) fn recalled(&self, key: &CacheKey) -> Result<Option<Digest>, WorkError> {
        let digest = recalled(&self.shared.store, key)?.or_else(|| self.shared.imports.memo(key));
        if let Some(digest) = &digest {
            self.shared.tell(|told| {
                told.memos.insert(*key, *digest);
            });
        }
        Ok(digest)
    }

    pub(super) fn remember(&self, key: &CacheKey, digest: &Digest) -> Result<(), WorkError> {
        self.shared.remember(key, digest)
    }

    /// Passes on what is known of a stack, if anybody wants to know. `false` if it should be asked, which it can be.
    pub(super) fn pass_on(&self, stack: &Stack) -> Result<bool, WorkError> {
        let Some(chain) = stack.chain().filter(|_| self.shared.told.is_some()) else { return Ok(true) };
        let mut testimony = self.shared.imports.testimony(&chain);
        testimony.extend(self.shared.testimony(&chain)?);
        if testimony.is_empty() {
            for layer in stack.layers() {
                if self.shared.store.layer(&layer.diff_id)?.is_none() {
                    // it would have to be fetched for that
                    return Ok(true);
                }
            }
            return Ok(false);
        }
        self.shared.tell(|told| told.add(chain, testimony));
        Ok(true)
    }
}

pub(super) fn recalled(store: &Store, key: &CacheKey) -> Result<Option<Digest>, WorkError> {
    let value = store.memo(key)?;
    Ok(value.and_then(|bytes| <[u8; 32]>::try_from(bytes.as_slice()).ok()).map(Digest::from_bytes))
}
