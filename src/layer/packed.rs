//! Layers that are kept as their tar: nobody has had to see the files yet.
//!
//! A layer that ends a build is most often only exported. Its tar is written straight from the sources: creating fifty
//! thousand files costs more than all the rest of such a step. The first who wants the files gets them ([`tree`]); from then
//! on the layer is kept as a tree.

use std::cell::RefCell;
use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};

use super::ahead::Ahead;
use super::compress::Compression;
use super::tar::{Content, Contents, Place, TarSummary, write_entries, write_tar};
use super::unpack::{LayerLimits, Unpacked, unpack_into};
use super::walk::Entry;
use super::{Form, LayerError};
use crate::digest::{CacheKey, DiffId, Digest, Hasher, HashingReader};
use crate::snapshot::{TreePath, View};
use crate::store::{Kept, LayerRecord, Store, StoredLayer, TempDir};

/// The tar in the directory of a packed layer, and where it has which data.
const TAR: &str = "tar";
const PLACES: &str = "places";

/// Publishes a layer of these entries, which stand in the order of [`write_tar`], as a tar, and begins to make its blobs in
/// `forms`, as [`commit_ahead`](super::commit_ahead) does. Data that `former`, an earlier layer of the same step, has too is
/// read from its tar: opening a file costs more than all else that is done with it.
///
/// # Errors
/// `Write` if the tar cannot be written; those of `entries` and `contents`.
pub fn pack<H: Send>(
    store: &Store,
    entries: impl Iterator<Item = Result<(Entry, H), LayerError>> + Send,
    contents: &impl Contents<H>,
    forms: &[Form],
    former: Option<&DiffId>,
) -> Result<StoredLayer, LayerError> {
    let temp = store.temp_dir()?;
    let mut file = File::create_new(temp.path.join(TAR)).map_err(LayerError::Write)?;
    let contents = Reusing { contents, former: former.and_then(|diff_id| Former::open(store, diff_id)) };
    let mut places = Vec::new();
    super::ahead::publish(store, forms, |ahead| {
        let summary = match ahead {
            Some(ahead) => write_entries(entries, &contents, None, Some(&mut places), &mut Both { file: &mut file, ahead })?,
            None => write_entries(entries, &contents, None, Some(&mut places), &mut file)?,
        };
        fs::write(temp.path.join(PLACES), to_bytes(&places)).map_err(LayerError::Write)?;
        Ok((Kept::Packed(temp.path.clone()), summary))
    })
}

/// One place in the file of places: the digest, then offset and size, little-endian.
const PLACE_BYTES: usize = 48;

fn to_bytes(places: &[Place]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(places.len() * PLACE_BYTES);
    for Place { digest, offset, size_bytes } in places {
        bytes.extend_from_slice(digest.as_bytes());
        bytes.extend_from_slice(&offset.to_le_bytes());
        bytes.extend_from_slice(&size_bytes.to_le_bytes());
    }
    bytes
}

/// An earlier layer whose data may be taken again.
struct Former {
    tar: File,
    places: HashMap<[u8; 32], (u64, u64)>,
    /// Tells its windows from those of others.
    number: u64,
}

/// Part of an earlier layer's tar. A new layer's data lie in much the same order, so what is asked for next is mostly in it.
#[derive(Default)]
struct Window {
    /// Which layer's; 0 for none.
    number: u64,
    offset: u64,
    bytes: Vec<u8>,
}

thread_local! {
    static WINDOW: RefCell<Window> = RefCell::default();
}

/// As much as a thread reads at a time.
const WINDOW_BYTES: usize = 128 << 10;

/// Bigger files are read from their source, in chunks.
const MAX_REUSED_BYTES: u64 = 1 << 20;

impl Former {
    /// No more than a shortcut: what cannot be read is not used.
    fn open(store: &Store, diff_id: &DiffId) -> Option<Former> {
        let Kept::Packed(packed) = store.layer(diff_id).ok()??.kept else { return None };
        let bytes = fs::read(packed.join(PLACES)).ok()?;
        let tar = File::open(packed.join(TAR)).ok()?;
        let mut places = HashMap::with_capacity(bytes.len() / PLACE_BYTES);
        for place in bytes.chunks_exact(PLACE_BYTES) {
            let (digest, numbers) = place.split_first_chunk::<32>()?;
            let (offset, size_bytes) = numbers.split_first_chunk::<8>()?;
            places.insert(*digest, (u64::from_le_bytes(*offset), u64::from_le_bytes(size_bytes.try_into().ok()?)));
        }
        static NUMBER: AtomicU64 = AtomicU64::new(1);
        Some(Former { tar, places, number: NUMBER.fetch_add(1, Ordering::Relaxed) })
    }

    /// The data that `digest` names, if it is there and undamaged.
    fn data(&self, digest: &Digest) -> Option<Vec<u8>> {
        let (offset, size_bytes) = *self.places.get(digest.as_bytes())?;
        if size_bytes > MAX_REUSED_BYTES {
            return None;
        }
        let size = usize::try_from(size_bytes).ok()?;
        WINDOW.with_borrow_mut(|window| {
            let is_in = window.number == self.number
                && offset >= window.offset
                && offset + size_bytes <= window.offset + window.bytes.len() as u64;
            if !is_in {
                self.look_at(window, offset, size)?;
            }
            let start = usize::try_from(offset - window.offset).ok()?;
            let data = window.bytes.get(start..start + size)?;
            (Digest::of(data) == *digest).then(|| data.to_vec())
        })
    }

    /// Reads what begins at `offset`, `size` bytes and what follows.
    fn look_at(&self, window: &mut Window, offset: u64, size: usize) -> Option<()> {
        // nothing of it counts if this fails
        window.number = 0;
        window.bytes.resize(size.max(WINDOW_BYTES), 0);
        let mut filled = 0;
        while filled < size {
            match self.tar.read_at(&mut window.bytes[filled..], offset + filled as u64).ok()? {
                0 => return None,
                count => filled += count,
            }
        }
        window.bytes.truncate(filled);
        (window.number, window.offset) = (self.number, offset);
        Some(())
    }
}

/// Data of an earlier layer where it has them, else the contents themselves.
struct Reusing<'a, C> {
    contents: &'a C,
    former: Option<Former>,
}

impl<H, C: Contents<H>> Contents<H> for Reusing<'_, C> {
    fn open(&self, path: &TreePath, handle: &H) -> Result<Content, LayerError> {
        let known = self.former.as_ref().and_then(|former| former.data(&self.contents.digest(handle)?));
        match known {
            Some(data) => Ok(Content::Bytes(data)),
            None => self.contents.open(path, handle),
        }
    }

    fn digest(&self, handle: &H) -> Option<Digest> {
        self.contents.digest(handle)
    }

    fn check(&self, path: &TreePath, handle: &H, file: &File) -> Result<(), LayerError> {
        self.contents.check(path, handle, file)
    }
}

/// Writes to a file, and as much to the thread that compresses.
struct Both<'a> {
    file: &'a mut File,
    ahead: &'a mut Ahead,
}

impl Write for Both<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.file.write(bytes)?;
        self.ahead.write_all(&bytes[..count])?;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.ahead.flush()
    }
}

/// The directory of the layer's files; `None` if the store has no such layer. One that is kept as a tar is unpacked, once and
/// for all. `below` are the trees of the layers below it, bottom first: its root becomes what theirs is.
///
/// # Errors
/// `WrongContent` for a tar that turns out to be damaged: it is dropped; `Tree` if a file cannot be created.
pub fn tree(store: &Store, diff_id: &DiffId, below: &[PathBuf]) -> Result<Option<PathBuf>, LayerError> {
    match store.layer(diff_id)?.map(|layer| layer.kept) {
        None => return Ok(None),
        Some(Kept::Tree(tree)) => return Ok(Some(tree)),
        Some(Kept::Packed(_)) => {}
    }
    let _lock = store.lock_step(&lock_key(diff_id))?;
    match open(store, diff_id)? {
        None => Ok(None),
        Some((Opened::Tree(tree), _)) => Ok(Some(tree)),
        Some((Opened::Tar(mut tar), layer)) => {
            let lower = View::new(below.to_vec())?;
            let unpacked = unpack_above(store, &mut tar, &lower).or_else(|error| dropping(store, diff_id, error));
            let (_temp, directory, found) = unpacked?;
            expect(store, &layer.record, found.diff_id)?;
            match store.publish_layer(Kept::Tree(directory), layer.record)?.kept {
                Kept::Tree(tree) => Ok(Some(tree)),
                Kept::Packed(packed) => unreachable!("a tree replaces {}", packed.display()),
            }
        }
    }
}

/// The directories of all layers of a stack, bottom first; as [`tree`].
///
/// # Errors
/// `Missing` for a layer that the store does not have.
pub fn trees(store: &Store, stack: &[DiffId]) -> Result<Vec<PathBuf>, LayerError> {
    let mut trees = Vec::with_capacity(stack.len());
    for diff_id in stack {
        trees.push(tree(store, diff_id, &trees)?.ok_or(LayerError::Missing { diff_id: *diff_id })?);
    }
    Ok(trees)
}

/// As [`write_tar`], of a layer however it is kept.
///
/// # Errors
/// As [`write_tar`]; `Missing`, and `WrongContent` as for [`tree`].
pub(super) fn write_layer(
    store: &Store,
    diff_id: &DiffId,
    epoch: Option<i64>,
    out: &mut dyn Write,
) -> Result<TarSummary, LayerError> {
    let (tar, layer) = match open(store, diff_id)?.ok_or(LayerError::Missing { diff_id: *diff_id })? {
        (Opened::Tree(tree), layer) => {
            let found = write_tar(&tree, epoch, out)?;
            // with other times it is another tar; what it holds is known of layers that were made here
            let is_named_after_tar = layer.record.content.0 == diff_id.0;
            if epoch.is_some() && !is_named_after_tar && found.content != layer.record.content {
                store.drop_damaged_layer(diff_id)?;
                return Err(LayerError::WrongContent { expected: *diff_id, found: DiffId(found.content.0) });
            }
            return Ok(found);
        }
        (Opened::Tar(tar), layer) => (tar, layer),
    };
    if epoch.is_some() {
        let (_temp, directory, found) = unpacked(store, tar).or_else(|error| dropping(store, diff_id, error))?;
        expect(store, &layer.record, found.diff_id)?;
        return write_tar(&directory, epoch, out);
    }
    let (found, tar_bytes) = copy(tar, out)?;
    expect(store, &layer.record, found)?;
    Ok(TarSummary { diff_id: found, tar_bytes, content: layer.record.content })
}

/// The files of a layer, open.
pub(super) enum Opened {
    Tree(PathBuf),
    Tar(File),
}

/// Opens a layer however it is kept; `None` if it is not there.
pub(super) fn open(store: &Store, diff_id: &DiffId) -> Result<Option<(Opened, StoredLayer)>, LayerError> {
    loop {
        let Some(layer) = store.layer(diff_id)? else { return Ok(None) };
        match &layer.kept {
            Kept::Tree(tree) => return Ok(Some((Opened::Tree(tree.clone()), layer))),
            Kept::Packed(packed) => match File::open(packed.join(TAR)) {
                Ok(file) => return Ok(Some((Opened::Tar(file), layer))),
                // unpacked or pruned since it was looked up
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(LayerError::Damaged { action: "open it", source: error }),
            },
        }
    }
}

/// Bytes that are copied at a time.
const COPY_BYTES: usize = 256 << 10;

/// Copies a tar; its name and its bytes.
pub(super) fn copy(tar: File, out: &mut dyn Write) -> Result<(DiffId, u64), LayerError> {
    let mut reader = HashingReader::new(tar);
    let mut buffer = vec![0; COPY_BYTES];
    loop {
        match reader.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => out.write_all(&buffer[..count]).map_err(LayerError::Write)?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(source) => return Err(LayerError::Damaged { action: "read it", source }),
        }
    }
    let (_, digest, bytes) = reader.finish();
    Ok((DiffId(digest), bytes))
}

/// The files of a tar in a temporary directory, as they are without layers below.
pub(super) fn unpacked(store: &Store, mut tar: File) -> Result<(TempDir, PathBuf, Unpacked), LayerError> {
    unpack_above(store, &mut tar, &View::new(Vec::new())?)
}

fn unpack_above(store: &Store, tar: &mut File, lower: &View) -> Result<(TempDir, PathBuf, Unpacked), LayerError> {
    let temp = store.temp_dir()?;
    let tree = temp.path.join("tree");
    fs::create_dir(&tree).map_err(|err| LayerError::tree("create", &TreePath::root(), err))?;
    let unpacked = unpack_into(&tree, tar, Compression::None, Some(lower), LayerLimits::NONE)?;
    Ok((temp, tree, unpacked))
}

/// Drops a layer that turned out to be no tar at all.
fn dropping<T>(store: &Store, diff_id: &DiffId, error: LayerError) -> Result<T, LayerError> {
    if matches!(error, LayerError::Damaged { .. }) {
        store.drop_layer(diff_id)?;
    }
    Err(error)
}

/// A tar that is another than its name says is dropped.
fn expect(store: &Store, record: &LayerRecord, found: DiffId) -> Result<(), LayerError> {
    if found == record.diff_id {
        return Ok(());
    }
    store.drop_layer(&record.diff_id)?;
    Err(LayerError::WrongContent { expected: record.diff_id, found })
}

/// What is locked while a layer is unpacked.
fn lock_key(diff_id: &DiffId) -> CacheKey {
    let mut hasher = Hasher::new();
    hasher.field(b"unpack");
    hasher.field(diff_id.0.as_bytes());
    CacheKey(hasher.finish())
}
