//! Files that need no second hashing: what a file's bytes hashed to, by device, inode, size and times.
//!
//! A file that is written twice within one tick of the file system's clock has the same times both times. So, as in git,
//! what was changed just before it was hashed is not remembered ("racy"), and it is hashed again by the next build.

use rayon::prelude::*;
use rustix::time::ClockId;

use super::digest::hash_file;
use crate::digest::Digest;
use crate::snapshot::{Dir, FileTree, Meta, SnapshotError, Time, TreePath};
use crate::store::{StatEntries, StatEntry};

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
    /// That of the file that `meta` speaks of.
    pub fn of(meta: &Meta) -> Identity {
        let (device, inode) = meta.inode;
        let nanos = |time: Time| nanos_since_1970(time.seconds, time.nanoseconds.into());
        Identity { device, inode, size_bytes: meta.size_bytes, mtime_nanos: nanos(meta.mtime), ctime_nanos: nanos(meta.ctime) }
    }
}

/// One number of two; years that do not fit stay at the ends.
fn nanos_since_1970(seconds: i64, nanos: u64) -> i64 {
    seconds.saturating_mul(1_000_000_000).saturating_add_unsigned(nanos)
}

/// The index of one context, in memory.
pub struct StatIndex {
    mode: Mode,
    /// Sorted by (device, inode), each inode once.
    known: Vec<StatEntry>,
    /// Those among them that the store keeps apart.
    recent: Vec<StatEntry>,
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
    pub fn new(root: &Dir, stored: StatEntries) -> StatIndex {
        let trusted = rustix::fs::fstatfs(root).is_ok_and(|stat| !UNTRUSTED.contains(&(stat.f_type as u64)));
        let StatEntries { base, recent } = stored;
        let known = merged(recent.clone(), base);
        StatIndex { mode: if trusted { Mode::On } else { Mode::Off }, known, recent, fresh: Vec::new(), reused: 0 }
    }

    /// An index that knows nothing and remembers nothing.
    pub fn off() -> StatIndex {
        StatIndex { mode: Mode::Off, known: Vec::new(), recent: Vec::new(), fresh: Vec::new(), reused: 0 }
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
        path: impl Fn(usize) -> TreePath + Sync,
        tree: &dyn FileTree,
    ) -> Result<Vec<Digest>, SnapshotError> {
        let mut next = 0;
        let mut digests: Vec<Option<Digest>> = identities.iter().map(|identity| self.find(identity, &mut next)).collect();
        self.reused += digests.iter().flatten().count();
        let misses: Vec<usize> = (0..digests.len()).filter(|number| digests[*number].is_none()).collect();
        let start_nanos = now_nanos();
        let hash = |number: usize| -> Result<(usize, Digest), SnapshotError> { Ok((number, hash_file(tree, &path(number))?)) };
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

    /// All that is worth remembering; `None` if the store knows it already.
    ///
    /// What was not asked for stays too (another target of the same context may ask), until that is most of it. A few new
    /// entries are kept apart from many old ones, which then need not be written again.
    pub fn changed(&self) -> Option<StatChange> {
        if self.is_off() || self.fresh.is_empty() {
            return None;
        }
        let fresh = merged(self.fresh.clone(), Vec::new());
        let asked = self.reused + fresh.len();
        if self.known.len() > 4 * asked + 1000 {
            return Some(StatChange::All(fresh));
        }
        let recent = merged(fresh.clone(), self.recent.clone());
        if recent.len() <= self.known.len() / RECENT_SHARE {
            return Some(StatChange::Recent(recent));
        }
        Some(StatChange::All(merged(fresh, self.known.clone())))
    }

    /// `next` is where the entry is if the files are asked for in the order in which they were made.
    fn find(&self, identity: &Identity, next: &mut usize) -> Option<Digest> {
        let wanted = (identity.device, identity.inode);
        let matching = |found: &StatEntry| (*found == entry(identity, found.digest)).then_some(found.digest);
        let is_next = self.known.get(*next).is_some_and(|entry| place(entry) == wanted);
        let at = if is_next { Some(*next) } else { self.known.binary_search_by_key(&wanted, place).ok() }?;
        *next = at + 1;
        matching(&self.known[at])
    }
}

/// What the store is to remember from now on.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum StatChange {
    /// These and no others, sorted.
    All(Vec<StatEntry>),
    /// What it has, and in place of what it keeps apart these, sorted.
    Recent(Vec<StatEntry>),
}

/// As long as new entries are less than this part of all, they are kept apart.
const RECENT_SHARE: usize = 16;

fn place(entry: &StatEntry) -> (u64, u64) {
    (entry.device, entry.inode)
}

/// `newer` and what `older` says of other inodes, sorted by (device, inode), each once.
fn merged(mut newer: Vec<StatEntry>, older: Vec<StatEntry>) -> Vec<StatEntry> {
    if newer.is_empty() && older.is_sorted_by_key(place) {
        return older;
    }
    // both are sorted or nearly so, which this sort makes use of; it is stable, so that the newer of two stays
    newer.extend(older);
    newer.sort_by_key(place);
    newer.dedup_by_key(|entry| place(entry));
    newer
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

    fn base(base: Vec<StatEntry>) -> StatEntries {
        StatEntries { base, recent: Vec::new() }
    }

    fn all(index: &StatIndex) -> Vec<StatEntry> {
        match index.changed() {
            Some(StatChange::All(entries)) => entries,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_was_hashed_is_not_read_again() {
        let (temp, tree) = files(&["a", "b"]);
        let path = |number: usize| TreePath::clean([&b"a"[..], b"b"][number]);
        let root = Dir::open(temp.path()).unwrap();
        let mut index = StatIndex::new(&root, StatEntries::default());
        let first = index.digests(&[identity(2), identity(1)], path, &tree).unwrap();
        assert_eq!(first, [Digest::of(b"a"), Digest::of(b"b")]);
        let mut again = StatIndex::new(&root, base(all(&index)));
        std::fs::remove_file(temp.path().join("a")).unwrap();
        assert_eq!(again.digests(&[identity(2), identity(1)], path, &tree).unwrap(), first);
        assert_eq!(again.changed(), None);
    }

    #[test]
    fn any_difference_is_another_state() {
        let known = entry(&identity(1), Digest::of(b"old"));
        let (temp, _) = files(&[]);
        let index = StatIndex::new(&Dir::open(temp.path()).unwrap(), base(vec![known]));
        assert_eq!(index.find(&identity(1), &mut 0), Some(known.digest));
        for other in [
            Identity { size_bytes: 2, ..identity(1) },
            Identity { mtime_nanos: 6, ..identity(1) },
            Identity { ctime_nanos: 6, ..identity(1) },
            Identity { device: 2, ..identity(1) },
            identity(2),
        ] {
            assert_eq!(index.find(&other, &mut 0), None, "{other:?}");
        }
    }

    #[test]
    fn what_changed_just_now_is_not_remembered() {
        let (temp, tree) = files(&["a"]);
        let mut index = StatIndex::new(&Dir::open(temp.path()).unwrap(), StatEntries::default());
        for racy in [
            Identity { mtime_nanos: i64::MAX, ..identity(1) },
            Identity { ctime_nanos: now_nanos() - RACY_NANOS / 2, ..identity(1) },
        ] {
            index.digests(&[racy], |_| TreePath::clean(b"a"), &tree).unwrap();
            assert_eq!(index.changed(), None, "{racy:?}");
        }
    }

    #[test]
    fn what_was_not_asked_for_stays() {
        let (temp, tree) = files(&["a"]);
        let other = entry(&identity(9), Digest::of(b"other"));
        let mut index = StatIndex::new(&Dir::open(temp.path()).unwrap(), base(vec![other]));
        index.digests(&[identity(1)], |_| TreePath::clean(b"a"), &tree).unwrap();
        assert_eq!(all(&index), [entry(&identity(1), Digest::of(b"a")), other]);
    }

    #[test]
    fn a_few_new_ones_are_kept_apart_from_many_old_ones() {
        let (temp, tree) = files(&["a"]);
        let root = Dir::open(temp.path()).unwrap();
        let old: Vec<StatEntry> = (1..=48).map(|inode| entry(&identity(inode), Digest::of(b"old"))).collect();
        let mut stored = base(old);
        let changed = |inode: u64| Identity { size_bytes: 7, ..identity(inode) };
        let hash = |stored: &StatEntries, inode: u64| {
            let mut index = StatIndex::new(&root, stored.clone());
            index.digests(&[changed(inode)], |_| TreePath::clean(b"a"), &tree).unwrap();
            index.changed().unwrap()
        };
        let now = |inode: u64| entry(&changed(inode), Digest::of(b"a"));
        // each of them replaces what was known of its inode, in whatever part
        for (inode, expected) in [(3, vec![now(3)]), (2, vec![now(2), now(3)]), (99, vec![now(2), now(3), now(99)])] {
            assert_eq!(hash(&stored, inode), StatChange::Recent(expected.clone()));
            stored.recent = expected;
        }
        assert_eq!(StatIndex::new(&root, stored.clone()).find(&changed(2), &mut 0), Some(Digest::of(b"a")));
        assert_eq!(StatIndex::new(&root, stored.clone()).find(&identity(2), &mut 0), None);
        let StatChange::All(everything) = hash(&stored, 101) else { panic!("many new ones go to the others") };
        assert_eq!((everything.len(), everything.is_sorted_by_key(place)), (50, true));
    }
}
