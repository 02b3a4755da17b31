//! A layer tree, or what would be one, as a tar stream.

use std::fs::File;
use std::io::{Read, Write};
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use super::LayerError;
use super::header::{BLOCK, TarEntry, TarKind, padding, whole_seconds, write_header};
use super::pipeline::{Sink, ordered};
use super::walk::{Entry, OPAQUE_NAME, WHITEOUT_PREFIX, Walk, What};
use crate::digest::{ContentDigest, DiffId, Digest, Hasher, HashingWriter};
use crate::snapshot::xattr::CAPABILITY;
use crate::snapshot::{Dir, FileKind, Meta, TreePath};

/// What writing a layer's tar tells about the layer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TarSummary {
    /// Digest of the tar.
    pub diff_id: DiffId,
    /// Bytes of the tar.
    pub tar_bytes: u64,
    /// Digest of what the layer holds, without times. Covers all xattrs, also those that the tar leaves out.
    pub content: ContentDigest,
}

/// Where the data of a layer's regular files comes from. `H` stands for one file.
pub trait Contents<H>: Sync {
    /// The data of the file that has the name `path` in the layer.
    fn open(&self, path: &TreePath, handle: &H) -> Result<Content, LayerError>;

    /// The digest of the file's data, where that is known.
    fn digest(&self, handle: &H) -> Option<Digest>;

    /// Called when all of a file was read: fails if it is no longer what it was.
    fn check(&self, path: &TreePath, handle: &H, file: &File) -> Result<(), LayerError>;
}

/// The data of one file.
pub enum Content {
    /// The whole of an open file.
    File(File),
    /// These bytes.
    Bytes(Vec<u8>),
}

/// Files of a tree, by the directory that holds them.
struct OfTree;

impl Contents<Arc<Dir>> for OfTree {
    fn open(&self, path: &TreePath, dir: &Arc<Dir>) -> Result<Content, LayerError> {
        let file = dir.open_file(path.file_name().unwrap_or_default()).map_err(|err| LayerError::tree("read", path, err))?;
        Ok(Content::File(file))
    }

    fn digest(&self, _: &Arc<Dir>) -> Option<Digest> {
        None
    }

    fn check(&self, _: &TreePath, _: &Arc<Dir>, _: &File) -> Result<(), LayerError> {
        // nobody writes to a finished tree
        Ok(())
    }
}

/// Writes the layer tree at `tree` as one uncompressed tar.
///
/// In each directory entries are sorted by the bytes of their names, a directory stands before what is in it, the root has
/// no entry. Of several names of one inode the first has the data and the others are hard links to it. Times are whole
/// seconds; those later than `epoch` become `epoch`, `None` keeps them. Sockets, names that begin with `.wh.` and xattrs
/// other than file capabilities are left out. Equal trees give equal bytes.
///
/// # Errors
/// `Tree` names the path that could not be read, `Changed` one that changed meanwhile; `Write` carries the writer's error.
pub fn write_tar(tree: &Path, epoch: Option<i64>, out: &mut dyn Write) -> Result<TarSummary, LayerError> {
    write_entries(Walk::new(tree)?, &OfTree, epoch, None, out)
}

/// Where a tar has the data of a file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Place {
    pub(super) digest: Digest,
    pub(super) offset: u64,
    pub(super) size_bytes: u64,
}

/// As [`write_tar`], of entries that stand in its order. Tells in `places` where the data of each regular file went.
pub(super) fn write_entries<'a, H: Send>(
    entries: impl Iterator<Item = Result<(Entry, H), LayerError>> + Send,
    contents: &impl Contents<H>,
    epoch: Option<i64>,
    places: Option<&'a mut Vec<Place>>,
    out: &'a mut dyn Write,
) -> Result<TarSummary, LayerError> {
    let out = HashingWriter::new(out);
    let mut writer = TarWriter { out, content: Hasher::new(), buffer: Vec::new(), places };
    let mut batches = Batches { entries, failed: false };
    let Some(first) = batches.next() else { return writer.finish() };
    match batches.next() {
        // Starting threads costs more than a small layer.
        None => read_batch(first, contents, epoch, &mut |piece| writer.take(piece))?,
        Some(second) => {
            let read = |batch, sink: &Sink<Piece>| {
                let mut put = |piece| match sink.put(piece) {
                    ControlFlow::Continue(()) => Ok(()),
                    ControlFlow::Break(()) => Err(Stop::Unwanted),
                };
                if let Err(Stop::Failed(err)) = read_batch(batch, contents, epoch, &mut put) {
                    // Nobody listening any more is fine: then another error came first.
                    let _ = sink.put(Piece::Failed(err));
                }
            };
            ordered([first, second].into_iter().chain(batches), read, |piece| writer.take(piece))?;
        }
    }
    writer.finish()
}

/// Entries that one worker reads at a time.
type Batch<H> = Result<Vec<(Entry, H)>, LayerError>;

/// A batch ends when it has this many entries or bytes of data.
const BATCH_ENTRIES: usize = 64;
const BATCH_BYTES: u64 = 1 << 20;
/// Files above this size are handed over in chunks of it.
const CHUNK_BYTES: usize = 1 << 20;

/// Cuts entries into batches.
struct Batches<I> {
    entries: I,
    failed: bool,
}

impl<H, I: Iterator<Item = Result<(Entry, H), LayerError>>> Iterator for Batches<I> {
    type Item = Batch<H>;

    fn next(&mut self) -> Option<Batch<H>> {
        if self.failed {
            return None;
        }
        let mut batch = Vec::new();
        let mut bytes = 0;
        while batch.len() < BATCH_ENTRIES && bytes < BATCH_BYTES {
            match self.entries.next() {
                None => break,
                Some(Ok((entry, handle))) => {
                    bytes += entry.data_bytes();
                    batch.push((entry, handle));
                }
                Some(Err(err)) => {
                    self.failed = true;
                    return Some(Err(err));
                }
            }
        }
        (!batch.is_empty()).then_some(Ok(batch))
    }
}

/// What comes out of reading a batch.
enum Piece {
    /// What was made of some entries.
    Gathered(Gathered),
    /// Some of the data of a big file: what was gathered before ends with its header.
    Chunk(Vec<u8>),
    /// Reading failed; nothing follows.
    Failed(LayerError),
}

/// Bytes of the tar, made where they are read: whoever puts the tar together is alone and has enough to do.
#[derive(Default)]
struct Gathered {
    /// Headers and data.
    tar: Vec<u8>,
    /// What the content digest takes of the entries.
    content: Vec<u8>,
    /// Digests and sizes of the data of regular files, and how far before or behind the start of `tar` they begin.
    places: Vec<(Digest, i64, u64)>,
}

impl Gathered {
    fn note_place(&mut self, digest: Digest, offset: i64, size_bytes: u64) {
        self.places.push((digest, offset, size_bytes));
    }
}

/// Why a reader stops.
enum Stop {
    Unwanted,
    Failed(LayerError),
}

impl From<LayerError> for Stop {
    fn from(err: LayerError) -> Stop {
        Stop::Failed(err)
    }
}

/// Reads the data of a batch and puts it out in order, as bytes of a tar.
fn read_batch<H, E: From<LayerError>>(
    batch: Batch<H>,
    contents: &impl Contents<H>,
    epoch: Option<i64>,
    put: &mut impl FnMut(Piece) -> Result<(), E>,
) -> Result<(), E> {
    let mut gathered = Gathered::default();
    for (entry, handle) in batch? {
        write_header(&tar_entry(&entry, epoch), &mut gathered.tar);
        let What::Present { meta: Meta { kind: FileKind::File, size_bytes, .. }, .. } = &entry.what else {
            add_content(&entry, None, &mut gathered.content);
            continue;
        };
        let size_bytes = *size_bytes;
        let path = &entry.path;
        let failed = |err| LayerError::tree("read", path, err);
        let known = contents.digest(&handle);
        let start = gathered.tar.len();
        let digest = match contents.open(path, &handle)? {
            Content::Bytes(data) => {
                gathered.tar.extend_from_slice(&data);
                known.unwrap_or_else(|| Digest::of(&data))
            }
            Content::File(file) if size_bytes <= CHUNK_BYTES as u64 => {
                (&file).take(size_bytes + 1).read_to_end(&mut gathered.tar).map_err(failed)?;
                if (gathered.tar.len() - start) as u64 != size_bytes {
                    return Err(LayerError::Changed { path: entry.path }.into());
                }
                contents.check(path, &handle, &file)?;
                known.unwrap_or_else(|| Digest::of(&gathered.tar[start..]))
            }
            Content::File(file) => {
                put(Piece::Gathered(std::mem::take(&mut gathered)))?;
                let mut hasher = Hasher::new();
                let mut left = size_bytes;
                while left > 0 {
                    let mut chunk = Vec::with_capacity(CHUNK_BYTES);
                    (&file).take(left.min(CHUNK_BYTES as u64)).read_to_end(&mut chunk).map_err(failed)?;
                    if chunk.is_empty() {
                        return Err(LayerError::Changed { path: entry.path }.into());
                    }
                    left -= chunk.len() as u64;
                    if known.is_none() {
                        hasher.update(&chunk);
                    }
                    put(Piece::Chunk(chunk))?;
                }
                contents.check(path, &handle, &file)?;
                known.unwrap_or_else(|| hasher.finish())
            }
        };
        // the data of a big file lie before what is gathered now
        let end = gathered.tar.len() as i64;
        gathered.note_place(digest, end - size_bytes.cast_signed(), size_bytes);
        gathered.tar.extend_from_slice(padding(size_bytes));
        add_content(&entry, Some(digest), &mut gathered.content);
    }
    put(Piece::Gathered(gathered))
}

impl Entry {
    fn data_bytes(&self) -> u64 {
        match &self.what {
            What::Present { meta: Meta { kind: FileKind::File, size_bytes, .. }, .. } => *size_bytes,
            _ => 0,
        }
    }
}

/// Puts pieces together, and digests them.
struct TarWriter<'a> {
    out: HashingWriter<&'a mut dyn Write>,
    content: Hasher,
    /// Small pieces gathered into one write.
    buffer: Vec<u8>,
    places: Option<&'a mut Vec<Place>>,
}

/// Gathered bytes are written at this size.
const BUFFER_BYTES: usize = 64 << 10;

impl TarWriter<'_> {
    fn take(&mut self, piece: Piece) -> Result<(), LayerError> {
        match piece {
            Piece::Gathered(Gathered { tar, content, places }) => {
                if let Some(noted) = &mut self.places {
                    let here = self.out.written_bytes() + self.buffer.len() as u64;
                    let place = |(digest, offset, size_bytes): (Digest, i64, u64)| Place {
                        digest,
                        offset: here.saturating_add_signed(offset),
                        size_bytes,
                    };
                    noted.extend(places.into_iter().map(place));
                }
                self.content.update(&content);
                self.put(tar)
            }
            Piece::Chunk(chunk) => self.put(chunk),
            Piece::Failed(err) => Err(err),
        }
    }

    fn put(&mut self, bytes: Vec<u8>) -> Result<(), LayerError> {
        if self.buffer.is_empty() {
            self.buffer = bytes;
        } else {
            self.buffer.extend_from_slice(&bytes);
        }
        if self.buffer.len() >= BUFFER_BYTES { self.write_out() } else { Ok(()) }
    }

    fn write_out(&mut self) -> Result<(), LayerError> {
        self.out.write_all(&self.buffer).map_err(LayerError::Write)?;
        self.buffer.clear();
        Ok(())
    }

    fn finish(mut self) -> Result<TarSummary, LayerError> {
        self.buffer.extend_from_slice(&[0; 2 * BLOCK]);
        self.write_out()?;
        let (_, diff_id, tar_bytes) = self.out.finish();
        Ok(TarSummary { diff_id: DiffId(diff_id), tar_bytes, content: ContentDigest(self.content.finish()) })
    }
}

/// How an entry is written.
fn tar_entry(entry: &Entry, epoch: Option<i64>) -> TarEntry {
    let mark = |name: &[u8]| TarEntry {
        name: beside(&entry.path, name),
        kind: TarKind::Plain(FileKind::File),
        mode: 0,
        uid: 0,
        gid: 0,
        size_bytes: 0,
        mtime_secs: 0,
        xattrs: Vec::new(),
    };
    let (meta, kind, xattrs) = match &entry.what {
        What::Whiteout => return mark(&[WHITEOUT_PREFIX, entry.path.file_name().unwrap_or_default()].concat()),
        What::Opaque => {
            let inside = entry.path.child(OPAQUE_NAME);
            return TarEntry { name: inside.as_bytes().to_vec(), ..mark(OPAQUE_NAME) };
        }
        What::HardLink { first, meta } => (meta, TarKind::HardLink(first.as_bytes().to_vec()), Vec::new()),
        What::Present { meta, xattrs, target, .. } => {
            let kind = match meta.kind {
                FileKind::Symlink => TarKind::Symlink(target.clone()),
                kind => TarKind::Plain(kind),
            };
            (meta, kind, xattrs.iter().filter(|(name, _)| name == CAPABILITY).cloned().collect())
        }
    };
    let mut name = entry.path.as_bytes().to_vec();
    if meta.kind == FileKind::Directory {
        name.push(b'/');
    }
    TarEntry {
        name,
        kind,
        mode: meta.mode,
        uid: meta.uid,
        gid: meta.gid,
        size_bytes: entry.data_bytes(),
        mtime_secs: whole_seconds(meta.mtime, epoch),
        xattrs,
    }
}

/// `name` in the directory of `path`.
fn beside(path: &TreePath, name: &[u8]) -> Vec<u8> {
    path.parent().child(name).as_bytes().to_vec()
}

/// Appends what the content digest takes of an entry: every field behind its length, no times.
fn add_content(entry: &Entry, data: Option<Digest>, content: &mut Vec<u8>) {
    let field = |content: &mut Vec<u8>, bytes: &[u8]| {
        content.extend_from_slice(&(bytes.len() as u64).to_le_bytes());
        content.extend_from_slice(bytes);
    };
    field(content, entry.path.as_bytes());
    match &entry.what {
        What::Whiteout => field(content, b"whiteout"),
        What::Opaque => field(content, b"opaque"),
        What::HardLink { first, .. } => {
            field(content, b"link");
            field(content, first.as_bytes());
        }
        What::Present { meta, xattrs, target, .. } => {
            let (kind, major, minor): (&[u8], u32, u32) = match meta.kind {
                FileKind::File => (b"file", 0, 0),
                FileKind::Directory => (b"directory", 0, 0),
                FileKind::Symlink => (b"symlink", 0, 0),
                FileKind::Fifo => (b"fifo", 0, 0),
                FileKind::Socket => (b"socket", 0, 0),
                FileKind::Character(major, minor) => (b"character", major, minor),
                FileKind::Block(major, minor) => (b"block", major, minor),
            };
            field(content, kind);
            for number in [meta.mode, meta.uid, meta.gid, major, minor] {
                content.extend_from_slice(&number.to_le_bytes());
            }
            field(content, target);
            field(content, data.as_ref().map_or(&[][..], |digest| digest.as_bytes()));
            content.extend_from_slice(&(xattrs.len() as u64).to_le_bytes());
            for (name, value) in xattrs {
                field(content, name);
                field(content, value);
            }
        }
    }
}
