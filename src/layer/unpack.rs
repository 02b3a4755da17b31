//! A layer blob as a layer tree.
//!
//! The calling thread decompresses and hashes, a second one creates files. Every file is created relative to the descriptor
//! of its directory; links that the layer itself made are followed inside its own tree only.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::thread;

use super::archive::{self, Entry, EntryKind, Form, Reader};
use super::chunks::{Chunks, Filler, chunks};
use super::compress::Compression;
use super::gunzip::Gunzip;
use super::walk::{OPAQUE_NAME, WHITEOUT_PREFIX};
use super::{Excess, LayerError};
use crate::digest::{ContentDigest, DiffId, Hasher};
use crate::snapshot::dir::{self, WHITEOUT};
use crate::snapshot::xattr::{CAPABILITY, Names};
use crate::snapshot::{Dir, DirTree, FileKind, FileTree, Last, Meta, Time, TreePath, View, resolve};
use crate::store::{Kept, LayerRecord, Store, StoredLayer};

/// How much one layer may hold: an archive bomb is a small blob that fills the disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LayerLimits {
    /// Files, directories, links and whiteouts.
    pub entries: u64,
    /// Bytes of all files.
    pub bytes: u64,
}

impl LayerLimits {
    /// For archives of the user's own.
    pub const NONE: LayerLimits = LayerLimits { entries: u64::MAX, bytes: u64::MAX };
}

impl Default for LayerLimits {
    /// An order of magnitude above the largest layers in use: those of machine learning have tens of GB.
    fn default() -> LayerLimits {
        LayerLimits { entries: 10_000_000, bytes: 256 << 30 }
    }
}

/// What is known of the layers below one.
#[derive(Clone, Copy)]
pub enum Lower<'a> {
    /// There are none, or they do not matter.
    Nothing,
    /// They are not at hand: a layer that cannot do without them is not unpacked.
    Unknown,
    /// These.
    View(&'a View),
}

impl<'a> Lower<'a> {
    fn view(self) -> Option<&'a View> {
        match self {
            Lower::View(view) => Some(view),
            Lower::Nothing | Lower::Unknown => None,
        }
    }
}

/// Unpacks `blob` into the store.
///
/// With `expected`, nothing is published unless the tar has that digest. `lower` is the stack below: a hard link to a file that
/// only exists there becomes a copy of it, and directories that the tar takes for granted get the metadata that they have
/// there (else root's, mode 0755, time 0), as containerd does it. A layer's tree then fits the first stack that asked for it.
///
/// The record's content digest names the tar itself, times included: what comes from outside is compared by its diff_id.
///
/// # Errors
/// `Damaged` for what ends too early or is no tar, `WrongContent` for another tar than expected, `LinkTarget` for a hard
/// link to nothing (with `lower` it may exist), `ParentBelow` where `lower` is needed, `TooLarge` for what exceeds `limits`, `Tree` if a file cannot be created.
pub fn unpack(
    store: &Store,
    blob: &mut dyn Read,
    compression: Compression,
    expected: Option<DiffId>,
    lower: Lower<'_>,
    limits: LayerLimits,
) -> Result<StoredLayer, LayerError> {
    let temp = store.temp_dir()?;
    let tree: PathBuf = temp.path.join("tree");
    std::fs::create_dir(&tree).map_err(|err| LayerError::tree("create", &TreePath::root(), err))?;
    let check = if expected.is_some() { Check::Digest } else { Check::Checksum };
    let unpacked = unpack_tree(&tree, blob, (compression, check), lower, limits)?;
    if let Some(expected) = expected
        && expected != unpacked.diff_id
    {
        return Err(LayerError::WrongContent { expected, found: unpacked.diff_id });
    }
    let content = ContentDigest(unpacked.diff_id.0);
    let record = LayerRecord { diff_id: unpacked.diff_id, tar_bytes: unpacked.tar_bytes, content };
    Ok(store.publish_layer(Kept::Tree(tree), record)?)
}

/// What an unpacked tar was.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Unpacked {
    /// Digest of the tar.
    pub diff_id: DiffId,
    /// Bytes of the tar.
    pub tar_bytes: u64,
}

/// As [`unpack`], into the empty directory `tree`, which is in no usable state after an error.
pub fn unpack_into(
    tree: &Path,
    blob: &mut dyn Read,
    compression: Compression,
    lower: Option<&View>,
    limits: LayerLimits,
) -> Result<Unpacked, LayerError> {
    let lower = lower.map_or(Lower::Nothing, Lower::View);
    unpack_tree(tree, blob, (compression, Check::Checksum), lower, limits)
}

/// What tells whether plain bytes are the right ones.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Check {
    /// That of the compressed format.
    Checksum,
    /// The caller knows what they must hash to.
    Digest,
}

fn unpack_tree(
    tree: &Path,
    blob: &mut dyn Read,
    (compression, check): (Compression, Check),
    lower: Lower<'_>,
    limits: LayerLimits,
) -> Result<Unpacked, LayerError> {
    let root = Dir::open(tree).map_err(|err| LayerError::tree("open", &TreePath::root(), err))?;
    thread::scope(|scope| {
        let (filler, chunks) = chunks(CHUNK_BYTES);
        let files = scope.spawn(move || create_all(root, chunks, lower, limits));
        let tar = decompress(blob, compression, check, &filler);
        drop(filler);
        files.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        // whoever creates files ends well at the tar's end only, so all of it went by
        Ok(tar)
    })
}

/// Plain bytes on their way to the second thread.
const CHUNK_BYTES: usize = 256 << 10;

/// Sends the plain bytes of `blob`, and its error if there is one. Ends early when the receiver does. What was sent, as a tar.
fn decompress(blob: &mut dyn Read, compression: Compression, check: Check, filler: &Filler) -> Unpacked {
    let (mut hasher, mut tar_bytes) = (Hasher::new(), 0);
    let start = match archive::start_of(blob) {
        Ok(start) => start,
        Err(err) => {
            let _receiver_gone = filler.send(Err(err));
            return Unpacked { diff_id: DiffId(hasher.finish()), tar_bytes };
        }
    };
    let mut blob = start.as_slice().chain(blob);
    let compression = compression.found(&start);
    let plain: io::Result<Box<dyn Read + '_>> = match (compression, check) {
        (Compression::Gzip | Compression::Estargz, Check::Digest) => Ok(Box::new(Gunzip::new(blob))),
        _ => compression.decoder(&mut blob),
    };
    let mut plain = match plain {
        Ok(plain) => plain,
        Err(err) => {
            let _receiver_gone = filler.send(Err(err));
            return Unpacked { diff_id: DiffId(hasher.finish()), tar_bytes };
        }
    };
    loop {
        let mut buffer = filler.buffer();
        let mut filled = 0;
        let read = loop {
            match plain.read(&mut buffer[filled..]) {
                Ok(0) => break Ok(()),
                Ok(count) => filled += count,
                Err(err) if err.kind() == io::ErrorKind::Interrupted => {}
                Err(err) => break Err(err),
            }
        };
        let is_last = filled < CHUNK_BYTES || read.is_err();
        // here, and not where the files are made, which takes about as long as decompressing does
        hasher.update(&buffer[..filled]);
        tar_bytes += filled as u64;
        if filler.send(read.map(|()| (buffer, filled))).is_break() || is_last {
            return Unpacked { diff_id: DiffId(hasher.finish()), tar_bytes };
        }
    }
}

/// Zeros behind an archive that cost nobody anything: writers fill up a block of their own size.
const PADDING_BYTES: u64 = 1 << 20;

fn create_all(root: Dir, tar: Chunks, lower: Lower<'_>, limits: LayerLimits) -> Result<(), LayerError> {
    let mut reader = Reader::new(tar);
    let mut tree = Unpacker::new(root, lower, limits)?;
    while let Some(entry) = reader.next_entry()? {
        tree.add(&entry, &mut reader)?;
    }
    tree.finish()?;
    // What stands behind the end of the archive is part of the tar's digest.
    let most = limits.bytes.saturating_add(PADDING_BYTES);
    let behind = io::copy(&mut reader.into_inner().take(most), &mut io::sink());
    if behind.map_err(|source| LayerError::Damaged { action: "decompress it", source })? == most {
        return Err(LayerError::TooLarge { what: Excess::Bytes, limit: limits.bytes });
    }
    Ok(())
}

/// A layer tree that entries are added to.
struct Unpacker<'a> {
    root: Dir,
    /// The same tree, for following the layer's own links.
    links: DirTree,
    lower: Lower<'a>,
    /// The directory of the last entry: archives go through a tree directory by directory.
    last: Option<(TreePath, Dir)>,
    /// Set at the end, because creating a name changes its directory's time.
    dir_times: BTreeMap<TreePath, Time>,
    limits: LayerLimits,
    /// So far.
    used: LayerLimits,
}

/// Links that one path may follow, as in Linux times six.
const MAX_LINKS: usize = 255;

impl<'a> Unpacker<'a> {
    fn new(root: Dir, lower: Lower<'a>, limits: LayerLimits) -> Result<Unpacker<'a>, LayerError> {
        let again = root.reopen().map_err(|err| LayerError::tree("open", &TreePath::root(), err))?;
        let mut dir_times = BTreeMap::new();
        dir_times.insert(TreePath::root(), Time::default());
        let used = LayerLimits { entries: 0, bytes: 0 };
        Ok(Unpacker { root, links: DirTree::new(again), lower, last: None, dir_times, limits, used })
    }

    /// Counts what is about to be made.
    fn count(&mut self, entries: u64, bytes: u64) -> Result<(), LayerError> {
        self.used.entries = self.used.entries.saturating_add(entries);
        self.used.bytes = self.used.bytes.saturating_add(bytes);
        match (&self.used, &self.limits) {
            (used, limits) if used.entries > limits.entries => {
                Err(LayerError::TooLarge { what: Excess::Entries, limit: limits.entries })
            }
            (used, limits) if used.bytes > limits.bytes => Err(LayerError::TooLarge { what: Excess::Bytes, limit: limits.bytes }),
            _ => Ok(()),
        }
    }

    fn add(&mut self, entry: &Entry, data: &mut Reader<Chunks>) -> Result<(), LayerError> {
        self.count(1, entry.size_bytes)?;
        let Some(name) = entry.path.file_name() else {
            return self.describe_root(entry);
        };
        let (parent, dir) = self.directory(&entry.path.parent())?;
        if name.starts_with(WHITEOUT_PREFIX) {
            whiteout(&dir, name).map_err(|err| LayerError::tree("delete the name of", &entry.path, err))?;
        } else {
            self.create(entry, &parent, &dir, name, data)?;
        }
        self.last = Some((parent, dir));
        Ok(())
    }

    /// The root's own entry says its mode and owner.
    fn describe_root(&mut self, entry: &Entry) -> Result<(), LayerError> {
        if entry.kind != EntryKind::Directory {
            return Ok(());
        }
        self.dir_times.insert(TreePath::root(), entry.mtime);
        describe(&self.root, entry).map_err(|err| LayerError::tree("describe", &entry.path, err))
    }

    fn create(
        &mut self,
        entry: &Entry,
        parent: &TreePath,
        dir: &Dir,
        name: &[u8],
        data: &mut Reader<Chunks>,
    ) -> Result<(), LayerError> {
        let failed = |action| move |err| LayerError::tree(action, &entry.path, err);
        let mut fill = |file: &mut File| copy_data(data, file, entry);
        // nearly every file is the first of its name: that is tried before anybody looks
        if entry.kind == EntryKind::File {
            match dir.create_file(name, FIRST_MODE & entry.mode) {
                Err(err) if err.kind() == io::ErrorKind::AlreadyExists => {}
                file => return finish_file(entry, file.map_err(failed("create"))?, fill),
            }
        }
        let path = parent.child(name);
        if let EntryKind::HardLink(target) = &entry.kind {
            return self.hard_link(entry, target, &path, dir, name);
        }
        let existing = dir.stat(name).map_err(failed("look up"))?;
        let is_directory = entry.kind == EntryKind::Directory;
        let keep = is_directory && existing.is_some_and(|meta| meta.kind == FileKind::Directory);
        if existing.is_some() && !keep {
            self.last = None;
            dir.remove_all(name).map_err(failed("replace"))?;
            self.dir_times.remove(&path);
        }
        match &entry.kind {
            EntryKind::File => {
                let file = dir.create_file(name, FIRST_MODE & entry.mode).map_err(failed("create"))?;
                return finish_file(entry, file, &mut fill);
            }
            EntryKind::Directory => {
                if !keep {
                    dir.create_dir(name, 0o755).map_err(failed("create"))?;
                }
                let made = dir.open_dir(name).map_err(failed("open"))?;
                if existing.is_some_and(|meta| meta.kind == WHITEOUT) {
                    made.set_opaque().map_err(failed("create"))?;
                }
                self.dir_times.insert(path, entry.mtime);
                return describe(&made, entry).map_err(failed("describe"));
            }
            EntryKind::Symlink(target) => dir.symlink(name, target).map_err(failed("create"))?,
            EntryKind::Fifo => dir.make_special(name, FileKind::Fifo, 0o600).map_err(failed("create"))?,
            // Written by tools that pack an overlay's upper directory as it is; it means there what it means here.
            EntryKind::Character(0, 0) => return dir.whiteout(name).map_err(failed("create")),
            EntryKind::Character(major, minor) => {
                dir.make_special(name, FileKind::Character(*major, *minor), 0o600).map_err(failed("create"))?;
            }
            EntryKind::Block(major, minor) => {
                dir.make_special(name, FileKind::Block(*major, *minor), 0o600).map_err(failed("create"))?;
            }
            EntryKind::HardLink(_) => {}
        }
        dir.chown(name, entry.uid, entry.gid).map_err(failed("set the owner of"))?;
        for (key, value) in &entry.xattrs {
            set_xattr(key, || dir.set_xattr(name, key, value)).map_err(failed("set an xattr of"))?;
        }
        if !matches!(entry.kind, EntryKind::Symlink(_)) {
            dir.chmod(name, entry.mode).map_err(failed("set the mode of"))?;
        }
        dir.set_mtime(name, entry.mtime).map_err(failed("set the time of"))
    }

    /// Links `name` to what the layer has at `target`, or copies what lower layers have there.
    fn hard_link(&mut self, entry: &Entry, target: &TreePath, path: &TreePath, dir: &Dir, name: &[u8]) -> Result<(), LayerError> {
        let failed = |action| move |err| LayerError::tree(action, &entry.path, err);
        let missing = || LayerError::LinkTarget { path: entry.path.clone(), target: target.clone() };
        let parent = resolve(&self.links, &target.parent(), Last::Follow)?.path;
        let target_name = target.file_name().ok_or_else(missing)?;
        let found = parent.child(target_name);
        if found == *path {
            return Ok(());
        }
        let in_layer = self.links.lookup(&found)?.filter(|meta| meta.kind != WHITEOUT);
        let below = match (in_layer, self.lower.view()) {
            (Some(meta), _) if meta.kind == FileKind::Directory => return Err(missing()),
            (Some(_), _) => None,
            (None, Some(lower)) => {
                let resolved = resolve(lower, target, Last::Keep)?;
                let meta = resolved.meta.filter(|meta| meta.kind == FileKind::File).ok_or_else(missing)?;
                Some((lower, resolved.path, meta))
            }
            (None, None) => return Err(missing()),
        };
        if let Some((_, _, meta)) = &below {
            // a link in the tar, a copy on the disk
            self.count(0, meta.size_bytes)?;
        }
        self.last = None;
        dir.remove_all(name).map_err(failed("replace"))?;
        self.dir_times.remove(path);
        match below {
            Some((lower, source, meta)) => copy_from(lower, &source, &meta, entry, dir, name),
            None => {
                let old = self.root.open_beneath(&parent).map_err(failed("open"))?;
                dir.hard_link(name, &old, target_name).map_err(failed("link"))
            }
        }
    }

    /// The directory at `path` and where it really is; made where it is missing.
    fn directory(&mut self, path: &TreePath) -> Result<(TreePath, Dir), LayerError> {
        if let Some((_, dir)) = self.last.take_if(|(last, _)| last == path) {
            return Ok((path.clone(), dir));
        }
        match self.root.open_beneath(path) {
            Ok(dir) => Ok((path.clone(), dir)),
            Err(_) => self.descend(path),
        }
    }

    /// As [`Unpacker::directory`], one component after the other: makes directories, follows links of the layer.
    fn descend(&mut self, path: &TreePath) -> Result<(TreePath, Dir), LayerError> {
        let failed = |action| move |err| LayerError::tree(action, path, err);
        let mut todo: Vec<Vec<u8>> = path.components().rev().map(<[u8]>::to_vec).collect();
        let mut here = TreePath::root();
        let mut links = 0;
        let mut dir = self.root.reopen().map_err(failed("open"))?;
        while let Some(name) = todo.pop() {
            match name.as_slice() {
                b"" | b"." => continue,
                b".." => {
                    here = here.parent();
                    dir = self.root.open_beneath(&here).map_err(failed("open"))?;
                    continue;
                }
                _ => {}
            }
            let existing = dir.stat(&name).map_err(failed("look up"))?;
            match existing.map(|meta| meta.kind) {
                Some(FileKind::Directory) => {}
                Some(FileKind::Symlink) => {
                    links += 1;
                    if links > MAX_LINKS {
                        return Err(crate::snapshot::SnapshotError::LinkLoop { path: path.clone() }.into());
                    }
                    let target = dir.read_link(&name).map_err(failed("read link"))?;
                    if target.starts_with(b"/") {
                        here = TreePath::root();
                        dir = self.root.reopen().map_err(failed("open"))?;
                    }
                    todo.extend(target.split(|byte| *byte == b'/').rev().map(<[u8]>::to_vec));
                    continue;
                }
                found => {
                    if found.is_some() {
                        dir.remove_file(&name).map_err(failed("replace"))?;
                    }
                    if found != Some(WHITEOUT) && matches!(self.lower, Lower::Unknown) {
                        return Err(LayerError::ParentBelow { path: here.child(&name) });
                    }
                    self.imply(&here.child(&name), &dir, &name, found == Some(WHITEOUT)).map_err(failed("create"))?;
                }
            }
            here.push(&name);
            dir = dir.open_dir(&name).map_err(failed("open"))?;
        }
        Ok((here, dir))
    }

    /// Makes a directory that the archive takes for granted.
    fn imply(&mut self, path: &TreePath, dir: &Dir, name: &[u8], hides_lower: bool) -> io::Result<()> {
        dir.create_dir(name, 0o755)?;
        let made = dir.open_dir(name)?;
        let mut mtime = Time::default();
        let mut mode = 0o755;
        if hides_lower {
            made.set_opaque()?;
        } else if let Some(lower) = self.lower.view()
            && let Some(meta) = lower.lookup(path).map_err(io::Error::other)?
            && meta.kind == FileKind::Directory
        {
            made.chown_self(meta.uid, meta.gid)?;
            for (key, value) in lower.xattrs(path).map_err(io::Error::other)? {
                set_xattr(&key, || made.set_own_xattr(&key, &value))?;
            }
            (mode, mtime) = (meta.mode, meta.mtime);
        }
        made.chmod_self(mode)?;
        self.dir_times.insert(path.clone(), mtime);
        Ok(())
    }

    /// Sets the times of directories, deepest first, so that a directory without write permission cannot be in the way.
    fn finish(self) -> Result<(), LayerError> {
        for (path, mtime) in self.dir_times.iter().rev() {
            match self.root.open_beneath(path) {
                Ok(dir) => dir.set_own_mtime(*mtime).map_err(|err| LayerError::tree("set the time of", path, err))?,
                // It was replaced by something else together with a directory above it.
                Err(err) if matches!(err.raw_os_error(), Some(libc::ENOENT | libc::ENOTDIR | libc::ELOOP)) => {}
                Err(err) => return Err(LayerError::tree("open", path, err)),
            }
        }
        Ok(())
    }
}

/// Applies the whiteout called `name` to `dir`. It speaks of lower layers only: what this layer has of that name stays.
fn whiteout(dir: &Dir, name: &[u8]) -> io::Result<()> {
    if name == OPAQUE_NAME {
        return dir.set_opaque();
    }
    let deleted = &name[WHITEOUT_PREFIX.len()..];
    if deleted.starts_with(WHITEOUT_PREFIX) {
        // Housekeeping of aufs, in old images.
        return Ok(());
    }
    match dir.stat(deleted)?.map(|meta| meta.kind) {
        None => dir.whiteout(deleted),
        Some(FileKind::Directory) => dir.open_dir(deleted)?.set_opaque(),
        Some(_) => Ok(()),
    }
}

/// What a file may be created with, apart from what makes it run as somebody else: that comes with its owner.
const FIRST_MODE: u32 = 0o777;

/// Fills and describes a new file. What it has already is not set again: to ask costs a fraction of it.
fn finish_file(
    entry: &Entry,
    mut file: File,
    mut fill: impl FnMut(&mut File) -> Result<(), LayerError>,
) -> Result<(), LayerError> {
    let failed = |action| move |err| LayerError::tree(action, &entry.path, err);
    fill(&mut file)?;
    let made = dir::made(&file).map_err(failed("inspect"))?;
    let is_owned = (made.uid, made.gid) == (entry.uid, entry.gid);
    if !is_owned {
        dir::set_owner(&file, entry.uid, entry.gid).map_err(failed("set the owner of"))?;
    }
    for (key, value) in &entry.xattrs {
        set_xattr(key, || dir::set_xattr(&file, key, value)).map_err(failed("set an xattr of"))?;
    }
    if !is_owned || made.mode != entry.mode {
        dir::set_mode(&file, entry.mode).map_err(failed("set the mode of"))?;
    }
    dir::set_mtime(&file, entry.mtime).map_err(failed("set the time of"))
}

/// Copies the data of `entry`, as it lies in memory.
fn copy_data(data: &mut Reader<Chunks>, file: &mut File, entry: &Entry) -> Result<(), LayerError> {
    let damaged = |source| LayerError::Damaged { action: "read a file's data", source };
    let mut left = entry.size_bytes;
    while left > 0 {
        let piece = data.piece(left).map_err(damaged)?;
        file.write_all(piece).map_err(|err| LayerError::tree("write", &entry.path, err))?;
        let count = piece.len();
        data.take_piece(count);
        left -= count as u64;
    }
    Ok(())
}

/// Copies the file `source` of `lower`, as a hard link to it looks.
fn copy_from(lower: &View, source: &TreePath, meta: &Meta, entry: &Entry, dir: &Dir, name: &[u8]) -> Result<(), LayerError> {
    let copied = Entry {
        form: Form::Plain,
        path: entry.path.clone(),
        kind: EntryKind::File,
        mode: meta.mode,
        uid: meta.uid,
        gid: meta.gid,
        size_bytes: meta.size_bytes,
        mtime: meta.mtime,
        xattrs: lower.xattrs(source)?,
    };
    let mut data = lower.open(source)?;
    let file = dir.create_file(name, FIRST_MODE & copied.mode).map_err(|err| LayerError::tree("create", &entry.path, err))?;
    finish_file(&copied, file, |file| {
        io::copy(&mut data, file).map(drop).map_err(|err| LayerError::tree("copy", &entry.path, err))
    })
}

/// Owner, xattrs and mode of a directory.
fn describe(dir: &Dir, entry: &Entry) -> io::Result<()> {
    dir.chown_self(entry.uid, entry.gid)?;
    for (key, value) in &entry.xattrs {
        set_xattr(key, || dir.set_own_xattr(key, value))?;
    }
    dir.chmod_self(entry.mode)
}

/// Sets an xattr if a layer may have it. The host's labels and overlayfs's marks are dropped; what the file system or our
/// privileges do not allow is dropped too, apart from file capabilities, without which programs would fail.
fn set_xattr(key: &[u8], set: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
    if Names::is_overlay(key) || Names::of_image(key).is_none() {
        return Ok(());
    }
    match set() {
        Err(err) if key != CAPABILITY && matches!(err.raw_os_error(), Some(libc::EOPNOTSUPP | libc::EPERM)) => Ok(()),
        done => done,
    }
}
