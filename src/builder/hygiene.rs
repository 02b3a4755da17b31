//! What the store holds, and which of it can go: `croze du`, `croze prune`, and collection after builds.

use std::collections::HashSet;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::{BuildError, report};
use crate::digest::{DiffId, Digest};
use crate::image::{ImageConfig, Index, Manifest};
use crate::store::{NameOrigin, Store, StoreError, Usage, UsageKind};

/// A thing that takes space, and who keeps it.
#[derive(Debug, Clone)]
pub struct Item {
    /// The thing.
    pub usage: Usage,
    /// Who keeps it.
    pub kept_by: KeptBy,
}

/// Who keeps something in the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeptBy {
    /// Nobody: it can be made or fetched again.
    Nobody,
    /// An image that was pulled: it can be fetched again.
    Pulled,
    /// An image that was built or imported under a name.
    Image,
}

/// What may be dropped.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PruneRequest {
    /// `--all`: what pulled images are made of, too.
    pub all: bool,
    /// `--filter until=…`: only what was not used for so long.
    pub unused_for: Option<Duration>,
    /// `--filter type=…`: only these kinds.
    pub kinds: Vec<Kind>,
    /// `--filter id=…`: only what is named so.
    pub ids: Vec<String>,
    /// `--max-used-space`: drop no more than what is necessary to stay below it.
    pub max_used_bytes: Option<u64>,
    /// `--min-free-space`: drop no more than what is necessary to have so much free.
    pub min_free_bytes: Option<u64>,
    /// `--reserved-space`: so much may always stay.
    pub reserved_bytes: Option<u64>,
}

/// Kinds of things, with BuildKit's names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `regular`: layers and blobs.
    Regular,
    /// `exec.cachemount`: the content of cache mounts.
    CacheMount,
}

impl Kind {
    /// BuildKit's name.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Regular => "regular",
            Kind::CacheMount => "exec.cachemount",
        }
    }

    /// The kind of a thing.
    pub fn of(kind: &UsageKind) -> Kind {
        match kind {
            UsageKind::Layer(_) | UsageKind::Blob(_) => Kind::Regular,
            UsageKind::CacheMount(_) => Kind::CacheMount,
        }
    }
}

/// What pruning did.
#[derive(Debug, Clone, Default)]
pub struct Pruned {
    /// What was dropped, least recently used first.
    pub dropped: Vec<Usage>,
    /// How many commands used the store meanwhile; what they might use stayed.
    pub users: usize,
}

/// Everything in the store, most recently used first.
///
/// # Errors
/// The store cannot be read.
pub fn usage(store: &Store) -> Result<Vec<Item>, BuildError> {
    items(store).map_err(|error| report::store_error(&error))
}

/// Drops what the request allows and nobody uses.
///
/// # Errors
/// The store cannot be read or written.
pub fn prune(store: &Store, request: &PruneRequest, now: SystemTime) -> Result<Pruned, BuildError> {
    prune_store(store, request, now).map_err(|error| report::store_error(&error))
}

/// Automatic collection: what was not used for this long goes.
const UNUSED_FOR: Duration = Duration::from_secs(60 * 24 * 3600);
/// Automatic collection begins when less than this share of the disk is free, and makes so much free.
const FREE_SHARE: u64 = 10;
/// Automatic collection leaves so much, whatever the disk.
const RESERVED_BYTES: u64 = 2 << 30;

/// Collects after a build: by age, and by space where the disk is nearly full. At most once a day, so that it costs nothing.
///
/// # Errors
/// The store cannot be read or written.
pub fn collect(store: &Store, now: SystemTime) -> Result<Pruned, BuildError> {
    let collect = || -> Result<Pruned, StoreError> {
        if !store.collection_is_due(now)? {
            return Ok(Pruned::default());
        }
        let aged = PruneRequest { all: true, unused_for: Some(UNUSED_FOR), ..PruneRequest::default() };
        let mut pruned = prune_store(store, &aged, now)?;
        let min_free_bytes = store.disk_bytes()? / FREE_SHARE;
        if store.free_bytes()? < min_free_bytes {
            let min_free_bytes = Some(min_free_bytes);
            let full = PruneRequest { min_free_bytes, reserved_bytes: Some(RESERVED_BYTES), ..PruneRequest::default() };
            pruned.dropped.extend(prune_store(store, &full, now)?.dropped);
        }
        Ok(pruned)
    };
    collect().map_err(|error| report::store_error(&error))
}

fn prune_store(store: &Store, request: &PruneRequest, now: SystemTime) -> Result<Pruned, StoreError> {
    let right = store.pruning()?;
    let items = items(store)?;
    let mut used_bytes: u64 = items.iter().map(|item| item.usage.size_bytes).sum();
    let keep_bytes = keep_bytes(request, used_bytes, store.free_bytes()?);
    let now_secs = now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs().cast_signed());
    let mut dropped = Vec::new();
    for item in items.into_iter().rev() {
        if used_bytes <= keep_bytes {
            break;
        }
        let may_be_in_use = right.in_use_since.is_some_and(|since| match item.usage.kind {
            UsageKind::Layer(_) => item.usage.used >= since,
            // nothing tells when they were used last
            UsageKind::Blob(_) | UsageKind::CacheMount(_) => true,
        });
        if may_be_in_use || !is_wanted(&item, request, now) {
            continue;
        }
        store.prune(&item.usage.kind, now_secs, &right)?;
        used_bytes -= item.usage.size_bytes;
        dropped.push(item.usage);
    }
    Ok(Pruned { dropped, users: right.users })
}

/// How many bytes may stay, as BuildKit reckons it: without limits none.
fn keep_bytes(request: &PruneRequest, used_bytes: u64, free_bytes: u64) -> u64 {
    let reserved = request.reserved_bytes.unwrap_or(0);
    if request.max_used_bytes.is_none() && request.min_free_bytes.is_none() {
        return reserved;
    }
    let allowed = request.max_used_bytes.unwrap_or(u64::MAX);
    let missing = request.min_free_bytes.map_or(0, |wanted| wanted.saturating_sub(free_bytes));
    let allowed = if missing > 0 { allowed.min(used_bytes.saturating_sub(missing)) } else { allowed };
    allowed.max(reserved)
}

fn is_wanted(item: &Item, request: &PruneRequest, now: SystemTime) -> bool {
    let Usage { kind, used, .. } = &item.usage;
    let free = match item.kept_by {
        KeptBy::Nobody => true,
        KeptBy::Pulled => request.all,
        KeptBy::Image => false,
    };
    let old = request.unused_for.is_none_or(|age| now.duration_since(*used).is_ok_and(|unused| unused >= age));
    let of_kind = request.kinds.is_empty() || request.kinds.contains(&Kind::of(kind));
    let named = request.ids.is_empty() || request.ids.iter().any(|id| kind.id().starts_with(id.trim_start_matches("sha256:")));
    free && old && of_kind && named
}

fn items(store: &Store) -> Result<Vec<Item>, StoreError> {
    let mut kept = Kept::default();
    for (_, record) in store.names()? {
        let by = if record.origin == NameOrigin::Pulled { KeptBy::Pulled } else { KeptBy::Image };
        kept.document(store, &record.manifest, by)?;
    }
    let mut items: Vec<Item> = store.usage()?.into_iter().map(|usage| Item { kept_by: kept.by(&usage.kind), usage }).collect();
    items.sort_by(|left, right| {
        right.usage.used.cmp(&left.usage.used).then_with(|| left.usage.kind.id().cmp(&right.usage.kind.id()))
    });
    Ok(items)
}

/// What images are made of.
#[derive(Default)]
struct Kept {
    blobs: HashSet<(Digest, bool)>,
    layers: HashSet<(DiffId, bool)>,
}

impl Kept {
    fn by(&self, kind: &UsageKind) -> KeptBy {
        let has = |image: bool| match kind {
            UsageKind::Layer(diff_id) => self.layers.contains(&(*diff_id, image)),
            UsageKind::Blob(digest) => self.blobs.contains(&(*digest, image)),
            UsageKind::CacheMount(_) => false,
        };
        match (has(true), has(false)) {
            (true, _) => KeptBy::Image,
            (false, true) => KeptBy::Pulled,
            (false, false) => KeptBy::Nobody,
        }
    }

    /// Follows an index or manifest down to layers. What is not there, or damaged, keeps nothing.
    fn document(&mut self, store: &Store, root: &Digest, by: KeptBy) -> Result<(), StoreError> {
        let image = by == KeptBy::Image;
        let mut todo = vec![*root];
        while let Some(digest) = todo.pop() {
            if !self.blobs.insert((digest, image)) {
                continue;
            }
            let Some(bytes) = read(store, &digest)? else { continue };
            if let Ok(manifest) = serde_json::from_slice::<Manifest>(&bytes) {
                self.blobs.insert((manifest.config.digest, image));
                self.blobs.extend(manifest.layers.iter().map(|layer| (layer.digest, image)));
                let config = read(store, &manifest.config.digest)?;
                let config = config.and_then(|bytes| serde_json::from_slice::<ImageConfig>(&bytes).ok());
                self.layers.extend(config.into_iter().flat_map(|config| config.rootfs.diff_ids).map(|diff_id| (diff_id, image)));
            } else if let Ok(index) = serde_json::from_slice::<Index>(&bytes) {
                todo.extend(index.manifests.iter().map(|manifest| manifest.digest));
            }
        }
        Ok(())
    }
}

fn read(store: &Store, digest: &Digest) -> Result<Option<Vec<u8>>, StoreError> {
    match store.read_blob(digest) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(StoreError::Missing { .. } | StoreError::Damaged { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_reckoned_as_buildkit_does() {
        let keep = |max_used: u64, min_free: u64, reserved: u64| {
            let some = |bytes: u64| Some(bytes).filter(|bytes| *bytes > 0);
            let request = PruneRequest {
                max_used_bytes: some(max_used),
                min_free_bytes: some(min_free),
                reserved_bytes: some(reserved),
                ..PruneRequest::default()
            };
            keep_bytes(&request, 100, 20)
        };
        assert_eq!(keep(0, 0, 0), 0, "without limits all goes");
        assert_eq!(keep(0, 0, 30), 30);
        assert_eq!(keep(50, 0, 30), 50);
        assert_eq!(keep(10, 0, 30), 30, "what is reserved stays");
        assert_eq!(keep(0, 10, 0), u64::MAX, "enough is free");
        assert_eq!(keep(0, 50, 0), 70, "30 are missing");
        assert_eq!(keep(60, 50, 0), 60);
        assert_eq!(keep(0, 500, 40), 40);
    }
}
