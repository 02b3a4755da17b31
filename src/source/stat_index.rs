//! Files that need no second hashing: what a file's bytes hashed to, by device, inode, size and times.
//!
//! A file that is written twice within one tick of the file system's clock has the same times both times. So, as in git,
//! what was changed just before it was hashed is not remembered ("racy"), and it is hashed again by the next build.

use rayon::prelude::*;
use rustix::time::ClockId;

use super::digest::hash_file;
use crate::digest::Digest;
use crate::snapshot::{Dir, FileTree, Meta, SnapshotError, TreePath};
use crate::store::StatEntry;

/// What tells one state of a file from another without reading it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct Identity {
    /// Device.
    pub device: u64,
    /// Inode.
    pub inode: u64,
    /// Bytes.
    pub size_bytes: u64,
    /// Modification time in nanoseconds since 1970.
    pub mtime_nanos: i64,
    /// Change time in nanoseconds since 1970.
    pub ctime_nanos: i64,
}

impl Identity {
    /// Whether `meta` speaks of the same state of the same file.
    pub fn is_of(&self, meta: &Meta) -> bool {
        let mtime_nanos = nanos_since_1970(meta.mtime.seconds, meta.mtime.nanoseconds.into());
        (self.device, self.inode) == meta.inode && self.size_bytes == meta.size_bytes && self.mtime_nanos == mtime_nanos
    }
}

/// One number of two; years that do not fit stay at the ends.
pub fn nanos_since_1970(seconds: i64, nanos: u64) -> i64 {
    seconds.saturating_mul(1_000_000_000).saturating_add_unsigned(nanos)
}

/// The index of one context, in memory.
pub struct StatIndex {
    mode: Mode,
    /// Sorted by (device, inode).
    known: Vec<StatEntry>,
    /// What was hashed since, in no order; replaces what is known of the same inodes.
    fresh: Vec<StatEntry>,
    /// How many answers came from what was known.
    reused: usize,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    On,
    Off,
}

/// A change this close to the hashing may share its time with a later one: kernel ticks are at most 10 ms, taken twice.
const RACY_NANOS: i64 = 20_000_000;

/// File systems whose times come from elsewhere, or that change behind the kernel's back.
const UNTRUSTED: [u64; 5] = [
    0x6573_5546, // FUSE, virtiofs
    0x0102_1997, // 9p
    0x6969,      // NFS
    0xff53_4d42, // CIFS
    0xfe53_4d42, // SMB2
];

impl StatIndex {
    /// The index of the context below `root` with what the store remembers of it.
    pub fn new(root: &Dir, mut known: Vec<StatEntry>) -> StatIndex {
        let trusted = rustix::fs::fstatfs(root).is_ok_and(|stat| !UNTRUSTED.contains(&(stat.f_type as u64)));
        known.sort_unstable_by_key(|entry| (entry.device, entry.inode));
        StatIndex { mode: if trusted { Mode::On } else { Mode::Off }, known, fresh: Vec::new(), reused: 0 }
    }

    /// An index that knows nothing and remembers nothing.
    pub fn off() -> StatIndex {
        StatIndex { mode: Mode::Off, known: Vec::new(), fresh: Vec::new(), reused: 0 }
    }

    /// Whether it is of no use.
    pub fn is_off(&self) -> bool {
        self.mode == Mode::Off
    }

    /// The digests of files, in order: known ones looked up, the others read from `tree` at `path(number)` and hashed in
    /// parallel.
    pub fn digests(
        &mut self,
        identities: &[Identity],
        path: impl Fn(usize) -> Result<TreePath, SnapshotError> + Sync,
        tree: &dyn FileTree,
    ) -> Result<Vec<Digest>, SnapshotError> {
        let mut digests: Vec<Option<Digest>> = identities.iter().map(|identity| self.find(identity)).collect();
        self.reused += digests.iter().flatten().count();
        let misses: Vec<usize> = (0..digests.len()).filter(|number| digests[*number].is_none()).collect();
        let start_nanos = now_nanos();
        let hash = |number: usize| -> Result<(usize, Digest), SnapshotError> { Ok((number, hash_file(tree, &path(number)?)?)) };
        let hashed: Vec<(usize, Digest)> = match misses.len() {
            // not worth waking a thread pool
            0 | 1 => misses.into_iter().map(hash).collect::<Result<_, _>>()?,
            _ => misses.into_par_iter().map(hash).collect::<Result<_, _>>()?,
        };
        for (number, digest) in hashed {
            digests[number] = Some(digest);
            let entry = entry(&identities[number], digest);
            if !is_racy(&entry, start_nanos) {
                self.fresh.push(entry);
            }
        }
        Ok(digests.into_iter().map(|digest| digest.expect("what was not known was hashed")).collect())
    }

    /// All that is worth remembering, sorted; `None` if the store knows it already.
    ///
    /// What was not asked for stays too (another target of the same context may ask), until that is most of it.
    pub fn changed(&self) -> Option<Vec<StatEntry>> {
        if self.is_off() || self.fresh.is_empty() {
            return None;
        }
        let mut entries = self.fresh.clone();
        entries.sort_by_key(|entry| (entry.device, entry.inode));
        entries.dedup_by_key(|entry| (entry.device, entry.inode));
        let asked = self.reused + entries.len();
        if self.known.len() <= 4 * asked + 1000 {
            let replaced: std::collections::HashSet<(u64, u64)> =
                entries.iter().map(|entry| (entry.device, entry.inode)).collect();
            entries.extend(self.known.iter().filter(|entry| !replaced.contains(&(entry.device, entry.inode))));
            entries.sort_unstable_by_key(|entry| (entry.device, entry.inode));
        }
        Some(entries)
    }

    fn find(&self, identity: &Identity) -> Option<Digest> {
        let wanted = (identity.device, identity.inode);
        let matching = |found: &StatEntry| (*found == entry(identity, found.digest)).then_some(found.digest);
        let known = self.known.binary_search_by_key(&wanted, |entry| (entry.device, entry.inode)).ok();
        known.and_then(|at| matching(&self.known[at]))
    }
}

fn entry(identity: &Identity, digest: Digest) -> StatEntry {
    let Identity { device, inode, size_bytes, mtime_nanos, ctime_nanos } = *identity;
    StatEntry { device, inode, size_bytes, mtime_nanos, ctime_nanos, digest }
}

fn is_racy(entry: &StatEntry, hash_start_nanos: i64) -> bool {
    entry.mtime_nanos.max(entry.ctime_nanos) > hash_start_nanos.saturating_sub(RACY_NANOS)
}

/// The clock that local file systems stamp files with; those with clocks of their own are not trusted anyway, so no probe
/// file has to be written into somebody's context.
fn now_nanos() -> i64 {
    let now = rustix::time::clock_gettime(ClockId::RealtimeCoarse);
    now.tv_sec.saturating_mul(1_000_000_000).saturating_add(now.tv_nsec)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::DirTree;

    fn files(names: &[&str]) -> (tempfile::TempDir, DirTree) {
        let temp = tempfile::tempdir().unwrap();
        for name in names {
            std::fs::write(temp.path().join(name), name).unwrap();
        }
        let tree = DirTree::open(temp.path()).unwrap();
        (temp, tree)
    }

    /// Long ago, so not racy.
    fn identity(inode: u64) -> Identity {
        Identity { device: 1, inode, size_bytes: 1, mtime_nanos: 5, ctime_nanos: 5 }
    }

    #[test]
    fn what_was_hashed_is_not_read_again() {
        let (temp, tree) = files(&["a", "b"]);
        let path = |number: usize| Ok(TreePath::clean([&b"a"[..], b"b"][number]));
        let root = Dir::open(temp.path()).unwrap();
        let mut index = StatIndex::new(&root, Vec::new());
        let first = index.digests(&[identity(2), identity(1)], path, &tree).unwrap();
        assert_eq!(first, [Digest::of(b"a"), Digest::of(b"b")]);
        let mut again = StatIndex::new(&root, index.changed().unwrap());
        std::fs::remove_file(temp.path().join("a")).unwrap();
        assert_eq!(again.digests(&[identity(2), identity(1)], path, &tree).unwrap(), first);
        assert_eq!(again.changed(), None);
    }

    #[test]
    fn any_difference_is_another_state() {
        let known = entry(&identity(1), Digest::of(b"old"));
        let (temp, _) = files(&[]);
        let index = StatIndex::new(&Dir::open(temp.path()).unwrap(), vec![known]);
        assert_eq!(index.find(&identity(1)), Some(known.digest));
        for other in [
            Identity { size_bytes: 2, ..identity(1) },
            Identity { mtime_nanos: 6, ..identity(1) },
            Identity { ctime_nanos: 6, ..identity(1) },
            Identity { device: 2, ..identity(1) },
            identity(2),
        ] {
            assert_eq!(index.find(&other), None, "{other:?}");
        }
    }

    #[test]
    fn what_changed_just_now_is_not_remembered() {
        let (temp, tree) = files(&["a"]);
        let mut index = StatIndex::new(&Dir::open(temp.path()).unwrap(), Vec::new());
        for racy in [
            Identity { mtime_nanos: i64::MAX, ..identity(1) },
            Identity { ctime_nanos: now_nanos() - RACY_NANOS / 2, ..identity(1) },
        ] {
            index.digests(&[racy], |_| Ok(TreePath::clean(b"a")), &tree).unwrap();
            assert_eq!(index.changed(), None, "{racy:?}");
        }
    }

    #[test]
    fn what_was_not_asked_for_stays() {
        let (temp, tree) = files(&["a"]);
        let other = entry(&identity(9), Digest::of(b"other"));
        let mut index = StatIndex::new(&Dir::open(temp.path()).unwrap(), vec![other]);
        index.digests(&[identity(1)], |_| Ok(TreePath::clean(b"a")), &tree).unwrap();
        assert_eq!(index.changed().unwrap(), [entry(&identity(1), Digest::of(b"a")), other]);
    }
}
