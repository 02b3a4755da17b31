//! Seals: whether anybody has written to the files of a layer since they were put there.
//!
//! Reading all files before a step uses them would cost more than most steps. What `stat` says of them costs a microsecond
//! each, and whoever writes to a file moves its times. So a layer's tree is sealed when it is published: a digest of the names,
//! sizes, modes and times of all that is in it. A broken seal proves nothing yet, since a store that was copied to another
//! place has new change times; it is a reason to read the layer through ([`Touched`]).
//!
//! Bits that a disk loses by itself move no time. Those are found where bytes are hashed anyway: when a layer is exported, and
//! by `croze fsck`.

use std::fs;
use std::io;
use std::mem::MaybeUninit;
use std::num::NonZeroUsize;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::thread;

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, RawDir, openat, statat};

use super::{Kept, Store, StoreError, read_if_there};
use crate::digest::{DiffId, Digest, Hasher};

/// What a layer's seal says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Touched {
    /// Nobody has written to it.
    No,
    /// The files are other ones with the same sizes and times, as in a copy of the store, or the seal cannot be read.
    Copied,
    /// Somebody has.
    Yes,
}

/// The file beside the tree.
const SEAL: &str = "seal";

/// What a seal begins with.
const VERSION: &[u8] = b"seal 1\n";

/// Names that one call lists.
const LISTING_BYTES: usize = 16 << 10;

/// What all of a tree's files look like: with the time when each was last changed in any way, and without.
#[derive(PartialEq, Eq)]
struct Seal {
    exact: Digest,
    lasting: Digest,
}

impl Store {
    /// Whether anybody has written to the files of the layer `diff_id`. One that has no seal yet gets one; one that is not
    /// there, or kept as a tar, which has a digest of its own, is untouched.
    ///
    /// # Errors
    /// The tree cannot be listed.
    pub fn touched(&self, diff_id: &DiffId) -> Result<Touched, StoreError> {
        let place = self.layer_place(diff_id);
        let tree = place.join(Kept::TREE);
        let known = read_if_there(&place.join(SEAL))?;
        let found = match Seal::of(&tree) {
            Ok(found) => found,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Touched::No),
            Err(error) => return Err(StoreError::io("list", &tree)(error)),
        };
        Ok(match known {
            None => {
                found.write(&place);
                Touched::No
            }
            Some(known) => match known.strip_prefix(VERSION) {
                Some(known) if known == found.to_bytes() => Touched::No,
                Some(known) if known.len() == 64 && !known.ends_with(found.lasting.as_bytes()) => Touched::Yes,
                // also one of another version, or one whose writer was killed: they say nothing against the layer
                _ => Touched::Copied,
            },
        })
    }

    /// Seals the tree of a layer as it is now, after it was read and found right.
    pub fn seal_again(&self, diff_id: &DiffId) {
        let place = self.layer_place(diff_id);
        seal(&place);
    }
}

/// Seals the tree in the directory of a layer. One that cannot be sealed is believed.
pub(super) fn seal(place: &Path) {
    if let Ok(seal) = Seal::of(&place.join(Kept::TREE)) {
        seal.write(place);
    }
}

impl Seal {
    fn of(tree: &Path) -> io::Result<Seal> {
        let root = openat(CWD, tree, OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW, Mode::empty())?;
        let (mut exact, mut lasting) = (Hasher::new(), Hasher::new());
        // paths rather than open directories: a tree may be deeper than descriptors go, and wider than memory is cheap
        let mut level: Vec<Vec<u8>> = vec![b".".to_vec()];
        while !level.is_empty() {
            let mut below = Vec::new();
            for listing in listings(&root, &level)? {
                exact.update(listing.seal.exact.as_bytes());
                lasting.update(listing.seal.lasting.as_bytes());
                below.extend(listing.directories);
            }
            level = below;
        }
        Ok(Seal { exact: exact.finish(), lasting: lasting.finish() })
    }

    fn to_bytes(&self) -> [u8; 64] {
        let mut bytes = [0; 64];
        bytes[..32].copy_from_slice(self.exact.as_bytes());
        bytes[32..].copy_from_slice(self.lasting.as_bytes());
        bytes
    }

    fn write(&self, place: &Path) {
        // without one the next reader writes it
        let _lost = fs::write(place.join(SEAL), [VERSION, &self.to_bytes()].concat());
    }
}

/// What one directory holds.
struct Listing {
    seal: Seal,
    /// Paths of the directories in it.
    directories: Vec<Vec<u8>>,
}

/// Directories that are worth a thread: starting one costs as much as listing a few.
const DIRECTORIES_PER_THREAD: usize = 32;

/// The listings of the directories at `paths` below `root`, in that order. A command waits for them, or a pull: the cores share them.
fn listings(root: &OwnedFd, paths: &[Vec<u8>]) -> io::Result<Vec<Listing>> {
    let cores = thread::available_parallelism().map_or(1, NonZeroUsize::get);
    let threads = cores.min(paths.len() / DIRECTORIES_PER_THREAD).max(1);
    let (first, others) = paths.split_at(paths.len().div_ceil(threads));
    let list = |paths: &[Vec<u8>]| paths.iter().map(|path| Listing::of(root, path)).collect::<io::Result<Vec<_>>>();
    thread::scope(|scope| {
        let others: Vec<_> = others.chunks(first.len()).map(|paths| scope.spawn(move || list(paths))).collect();
        let mut listings = list(first)?;
        for other in others {
            listings.extend(other.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?);
        }
        Ok(listings)
    })
}

impl Listing {
    fn of(root: &OwnedFd, path: &[u8]) -> io::Result<Listing> {
        let directory = openat(root, path, OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW, Mode::empty())?;
        let (mut exact, mut lasting) = (Hasher::new(), Hasher::new());
        exact.field(path);
        lasting.field(path);
        let mut directories = Vec::new();
        let mut entry = Vec::new();
        for name in names(&directory)? {
            let stat = statat(&directory, name.as_slice(), AtFlags::SYMLINK_NOFOLLOW)?;
            let is_directory = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
            entry.clear();
            entry.extend_from_slice(&name);
            entry.push(0);
            entry.extend_from_slice(&stat.st_mode.to_le_bytes());
            // of a directory it is the file system's own affair
            let size_bytes = if is_directory { 0 } else { stat.st_size };
            entry.extend_from_slice(&size_bytes.to_le_bytes());
            entry.extend_from_slice(&stat.st_mtime.to_le_bytes());
            entry.extend_from_slice(&stat.st_mtime_nsec.to_le_bytes());
            lasting.field(&entry);
            entry.extend_from_slice(&stat.st_ctime.to_le_bytes());
            entry.extend_from_slice(&stat.st_ctime_nsec.to_le_bytes());
            exact.field(&entry);
            if is_directory {
                directories.push([path, b"/", &name].concat());
            }
        }
        Ok(Listing { seal: Seal { exact: exact.finish(), lasting: lasting.finish() }, directories })
    }
}

/// The names in a directory, sorted: a copy of it may list them otherwise.
fn names(directory: &OwnedFd) -> io::Result<Vec<Vec<u8>>> {
    let mut names = Vec::new();
    let mut buffer = [MaybeUninit::uninit(); LISTING_BYTES];
    let mut listing = RawDir::new(directory, &mut buffer);
    while let Some(entry) = listing.next() {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            names.push(name.to_vec());
        }
    }
    names.sort_unstable();
    Ok(names)
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::path::PathBuf;

    use super::*;
    use crate::digest::ContentDigest;
    use crate::store::LayerRecord;

    /// A store with a layer of a file in a directory, that file, and the layer's name.
    fn layer() -> (tempfile::TempDir, Store, PathBuf, DiffId) {
        let space = tempfile::tempdir().expect("space");
        let store = Store::open(space.path()).expect("store");
        let temp = store.temp_dir().expect("temp");
        let tree = temp.path.join("upper");
        fs::create_dir_all(tree.join("directory")).expect("mkdir");
        fs::write(tree.join("directory/file"), "text").expect("write");
        let digest = Digest::of(b"tar");
        let record = LayerRecord { diff_id: DiffId(digest), tar_bytes: 3, content: ContentDigest(digest) };
        let stored = store.publish_layer(Kept::Tree(tree), record).expect("published");
        let file = stored.tree().expect("kept as files").join("directory/file");
        (space, store, file, DiffId(digest))
    }

    fn other_seal() -> String {
        format!("seal 1\n{}", "x".repeat(64))
    }

    #[test]
    fn who_writes_to_a_file_breaks_the_seal_and_who_reads_it_does_not() {
        let (_space, store, file, diff_id) = layer();
        let touched = || store.touched(&diff_id).expect("asked");
        fs::read(&file).expect("read");
        assert_eq!(touched(), Touched::No);
        let before = fs::metadata(&file).and_then(|metadata| metadata.modified()).expect("there");
        fs::write(&file, "tExt").expect("written");
        assert_eq!(touched(), Touched::Yes);
        // as if nothing had been
        File::options().write(true).open(&file).and_then(|open| open.set_modified(before)).expect("set");
        assert_eq!(touched(), Touched::Copied);
        store.seal_again(&diff_id);
        assert_eq!(touched(), Touched::No);
        fs::write(file.with_file_name("another"), "").expect("written");
        assert_eq!(touched(), Touched::Yes);
    }

    #[test]
    fn a_layer_without_a_seal_gets_one_and_a_damaged_seal_proves_nothing() {
        let (_space, store, file, diff_id) = layer();
        let path = file.ancestors().nth(3).expect("the layer's directory").join(SEAL);
        let whole = fs::read(&path).expect("sealed");
        fs::remove_file(&path).expect("removed");
        assert_eq!(store.touched(&diff_id).expect("asked"), Touched::No);
        assert_eq!(fs::read(&path).expect("sealed"), whole);
        for (damaged, says) in [("", Touched::Copied), ("seal 0\nsomething", Touched::Copied), (&other_seal(), Touched::Yes)] {
            fs::write(&path, damaged).expect("damaged");
            assert_eq!(store.touched(&diff_id).expect("asked"), says, "{damaged}");
        }
        store.drop_layer(&diff_id).expect("dropped");
        assert_eq!(store.touched(&diff_id).expect("asked"), Touched::No);
    }
}
