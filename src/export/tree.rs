//! The files of an image, plain: into a directory, or as one tar.
//!
//! With an epoch every file has that time, as BuildKit's local and tar exporters do it.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ffi::OsStr;
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::files::Stale;
use super::sink::{Out, Stop};
use super::{BuiltImage, ExportError};
use crate::digest::DiffId;
use crate::layer::header::{BLOCK, TarEntry, TarKind, padding, write_header};
use crate::layer::{self, LayerError};
use crate::snapshot::{Dir, FileKind, FileTree, Meta, SnapshotError, Time, TreePath, View};
use crate::store::Store;

/// All layers of the image as one tree.
pub(super) fn view(store: &Store, built: &BuiltImage) -> Result<View, ExportError> {
    let stack: Vec<DiffId> = built.layers.iter().map(|layer| layer.diff_id).collect();
    let trees = layer::trees(store, &stack).map_err(|error| match error {
        LayerError::Missing { diff_id } => ExportError::NoLayer(diff_id),
        error => error.into(),
    })?;
    Ok(View::new(trees)?)
}

/// The files for one platform.
pub(super) struct Part {
    /// For messages.
    pub(super) platform: String,
    /// The directory that they go below, if not to the top.
    pub(super) directory: Option<String>,
    /// The files.
    pub(super) view: View,
    /// Files beside these, in place of any of the same name: statements about them, readable for their owner alone.
    pub(super) statements: BTreeMap<Vec<u8>, Vec<u8>>,
    /// The time of the statements, seconds since 1970.
    pub(super) statements_secs: i64,
}

const STATEMENT_MODE: u32 = 0o600;

impl Part {
    /// The image's files without those that a statement stands in for.
    fn files(&self) -> impl Iterator<Item = Result<Found, SnapshotError>> {
        Walk::new(&self.view).filter(|found| !found.as_ref().is_ok_and(|found| self.statements.contains_key(top(&found.path))))
    }
}

/// The first component.
fn top(path: &TreePath) -> &[u8] {
    path.components().next().unwrap_or_default()
}

/// Every path of a regular file, in the order of a tar.
pub(super) fn regular_files(tree: &dyn FileTree) -> impl Iterator<Item = Result<TreePath, SnapshotError>> {
    let is_file = |found: Found| (found.meta.kind == FileKind::File).then_some(found.path);
    Walk::new(tree).filter_map(move |found| found.map(is_file).transpose())
}

/// Refuses parts that have files (but directories) of the same name; like BuildKit, without comparing them.
pub(super) fn refuse_clashes(parts: &[Part]) -> Result<(), ExportError> {
    let mut owners: HashMap<TreePath, &Part> = HashMap::new();
    for part in parts {
        for found in part.files() {
            let Found { path, meta, .. } = found?;
            if meta.kind == FileKind::Directory {
                continue;
            }
            if let Some(other) = owners.get(&path) {
                return Err(ExportError::Clash { path, platforms: [other.platform.clone(), part.platform.clone()] });
            }
            owners.insert(path, part);
        }
    }
    Ok(())
}

/// Writes all parts as one tar; in each directory names are sorted by bytes, a directory stands before what is in it.
pub(super) fn write_archives(parts: &[Part], epoch: Option<i64>, out: &mut Out<'_>) -> Result<(), Stop> {
    let mut in_order: Vec<&Part> = parts.iter().collect();
    in_order.sort_by(|left, right| left.directory.cmp(&right.directory));
    for part in in_order {
        let prefix = part.directory.as_ref().map(|name| format!("{name}/")).unwrap_or_default();
        if !prefix.is_empty() {
            let entry = TarEntry {
                name: prefix.clone().into_bytes(),
                kind: TarKind::Plain(FileKind::Directory),
                mode: 0o755,
                uid: 0,
                gid: 0,
                size_bytes: 0,
                mtime_secs: epoch.unwrap_or(0),
                xattrs: Vec::new(),
            };
            let mut header = Vec::with_capacity(BLOCK);
            write_header(&entry, &mut header);
            out.write_all(&header).map_err(Stop::Destination)?;
        }
        write_entries(part, prefix.as_bytes(), epoch, out)?;
    }
    out.write_all(&[0; 2 * BLOCK]).map_err(Stop::Destination)
}

/// Writes all parts into `directory`.
pub(super) fn write_directories(parts: &[Part], epoch: Option<i64>, directory: &Path, stale: Stale) -> Result<(), ExportError> {
    let mut written = HashSet::new();
    for part in parts {
        let (top, below) = match &part.directory {
            Some(name) => (directory.join(name), TreePath::root().child(name.as_bytes())),
            None => (directory.to_owned(), TreePath::root()),
        };
        write_directory(part, epoch, &top, &mut |path| {
            written.insert(below.join(path));
        })?;
        written.insert(below);
    }
    match stale {
        Stale::Keep => Ok(()),
        Stale::Delete => delete_others(directory, &written),
    }
}

/// Deletes everything in `directory` that is not `kept`.
fn delete_others(directory: &Path, kept: &HashSet<TreePath>) -> Result<(), ExportError> {
    let root = Dir::open(directory).map_err(ExportError::io("open", directory))?;
    let mut todo = vec![TreePath::root()];
    while let Some(path) = todo.pop() {
        let failed = |source| ExportError::Io { action: "delete files in", path: place(directory, &path), source };
        let mut dir = root.open_beneath(&path).map_err(failed)?;
        let mtime = dir.meta().map_err(failed)?.mtime;
        let mut deleted = false;
        for (name, meta) in dir.entries().map_err(failed)? {
            let child = path.child(&name);
            if !kept.contains(&child) {
                dir.remove_all(&name).map_err(failed)?;
                deleted = true;
            } else if meta.kind == FileKind::Directory {
                todo.push(child);
            }
        }
        if deleted {
            dir.set_own_mtime(mtime).map_err(failed)?;
        }
    }
    Ok(())
}

fn write_entries(part: &Part, prefix: &[u8], epoch: Option<i64>, out: &mut Out<'_>) -> Result<(), Stop> {
    let tree: &dyn FileTree = &part.view;
    let mut statements = part.statements.iter().peekable();
    for found in part.files() {
        let Found { path, meta, link } = found?;
        while let Some((name, bytes)) = statements.next_if(|(name, _)| name.as_slice() < top(&path)) {
            write_statement(part, [prefix, name].concat(), bytes, out)?;
        }
        if meta.kind == FileKind::Socket {
            continue;
        }
        let first = link.filter(|_| meta.kind != FileKind::Directory);
        let kind = match (&first, meta.kind) {
            (Some(first), _) => TarKind::HardLink([prefix, first.as_bytes()].concat()),
            (None, FileKind::Symlink) => TarKind::Symlink(tree.read_link(&path)?),
            (None, kind) => TarKind::Plain(kind),
        };
        let has_data = first.is_none() && meta.kind == FileKind::File;
        let xattrs = if first.is_none() { tree.xattrs(&path)? } else { Vec::new() };
        let mut name = [prefix, path.as_bytes()].concat();
        if meta.kind == FileKind::Directory {
            name.push(b'/');
        }
        let entry = TarEntry {
            name,
            kind,
            mode: meta.mode,
            uid: meta.uid,
            gid: meta.gid,
            size_bytes: if has_data { meta.size_bytes } else { 0 },
            mtime_secs: epoch.unwrap_or(meta.mtime.seconds),
            xattrs,
        };
        let mut header = Vec::with_capacity(BLOCK);
        write_header(&entry, &mut header);
        out.write_all(&header).map_err(Stop::Destination)?;
        if has_data {
            copy_data(tree, &path, meta.size_bytes, out)?;
            out.write_all(padding(meta.size_bytes)).map_err(Stop::Destination)?;
        }
    }
    statements.try_for_each(|(name, bytes)| write_statement(part, [prefix, name].concat(), bytes, out))
}

fn write_statement(part: &Part, name: Vec<u8>, bytes: &[u8], out: &mut Out<'_>) -> Result<(), Stop> {
    let size_bytes = bytes.len() as u64;
    let entry = TarEntry {
        name,
        kind: TarKind::Plain(FileKind::File),
        mode: STATEMENT_MODE,
        uid: 0,
        gid: 0,
        size_bytes,
        mtime_secs: part.statements_secs,
        xattrs: Vec::new(),
    };
    let mut header = Vec::with_capacity(BLOCK);
    write_header(&entry, &mut header);
    for piece in [&header, bytes, padding(size_bytes)] {
        out.write_all(piece).map_err(Stop::Destination)?;
    }
    Ok(())
}

/// Writes a part into `directory`, and tells `written` of each path; over what is there: files replace files, directories merge, nothing else is touched.
///
/// Files belong to whoever runs this, as with buildx: what is exported is for the user, not for a container.
fn write_directory(
    part: &Part,
    epoch: Option<i64>,
    directory: &Path,
    written: &mut dyn FnMut(&TreePath),
) -> Result<(), ExportError> {
    let tree: &dyn FileTree = &part.view;
    std::fs::create_dir_all(directory).map_err(ExportError::io("create", directory))?;
    let root = Dir::open(directory).map_err(ExportError::io("open", directory))?;
    let mut finished = Vec::new();
    for found in part.files() {
        let Found { path, meta, link } = found?;
        written(&path);
        let failed = |source| ExportError::Io { action: "write", path: place(directory, &path), source };
        let Some(name) = path.file_name() else { continue };
        let parent = root.open_beneath(&path.parent()).map_err(failed)?;
        let there = parent.stat(name).map_err(failed)?;
        if meta.kind == FileKind::Directory {
            match there {
                Some(Meta { kind: FileKind::Directory, .. }) => {}
                Some(_) => {
                    parent.remove_file(name).map_err(failed)?;
                    parent.create_dir(name, 0o700).map_err(failed)?;
                }
                None => parent.create_dir(name, 0o700).map_err(failed)?,
            }
            // modes and times of directories come last: a mode may forbid writing, and writing changes times
            finished.push((path, meta));
            continue;
        }
        if there.is_some() {
            parent.remove_all(name).map_err(failed)?;
        }
        if let Some(first) = link {
            let old = root.open_beneath(&first.parent()).map_err(failed)?;
            parent.hard_link(name, &old, first.file_name().unwrap_or_default()).map_err(failed)?;
            continue;
        }
        match meta.kind {
            FileKind::File => {
                let mut source = tree.open(&path)?;
                let mut file = parent.create_file(name, 0o600).map_err(failed)?;
                io::copy(&mut source, &mut file).map_err(failed)?;
                parent.chmod(name, meta.mode).map_err(failed)?;
            }
            FileKind::Symlink => parent.symlink(name, &tree.read_link(&path)?).map_err(failed)?,
            FileKind::Socket => continue,
            FileKind::Fifo | FileKind::Character(..) | FileKind::Block(..) => {
                parent.make_special(name, meta.kind, meta.mode).map_err(failed)?;
                parent.chmod(name, meta.mode).map_err(failed)?;
            }
            FileKind::Directory => {}
        }
        for (key, value) in tree.xattrs(&path)? {
            // another file system or an unprivileged user may not have them; the file is worth more than its attributes
            drop(parent.set_xattr(name, &key, &value));
        }
        parent.set_mtime(name, time(&meta, epoch)).map_err(failed)?;
    }
    for (name, bytes) in &part.statements {
        let path = TreePath::root().child(name);
        written(&path);
        let failed = |source| ExportError::Io { action: "write", path: place(directory, &path), source };
        root.remove_all(name).map_err(failed)?;
        let mut file = root.create_file(name, STATEMENT_MODE).map_err(failed)?;
        file.write_all(bytes).map_err(failed)?;
        root.set_mtime(name, Time { seconds: part.statements_secs, nanoseconds: 0 }).map_err(failed)?;
    }
    for (path, meta) in finished.into_iter().rev() {
        let failed = |source| ExportError::Io { action: "write", path: place(directory, &path), source };
        let dir = root.open_beneath(&path).map_err(failed)?;
        dir.set_own_mtime(time(&meta, epoch)).map_err(failed)?;
        dir.chmod_self(meta.mode).map_err(failed)?;
    }
    Ok(())
}

/// For messages only: nothing is opened by it.
fn place(directory: &Path, path: &TreePath) -> PathBuf {
    directory.join(OsStr::from_bytes(path.as_bytes()))
}

fn time(meta: &Meta, epoch: Option<i64>) -> Time {
    epoch.map_or(meta.mtime, |seconds| Time { seconds, nanoseconds: 0 })
}

fn copy_data(tree: &dyn FileTree, path: &TreePath, size_bytes: u64, out: &mut Out<'_>) -> Result<(), Stop> {
    let failed = |source| SnapshotError::io("read", path, source);
    let mut file = tree.open(path)?.take(size_bytes);
    let mut buffer = vec![0; size_bytes.min(1 << 20) as usize];
    let mut left = size_bytes;
    while left > 0 {
        let read = file.read(&mut buffer).map_err(failed)?;
        if read == 0 {
            return Err(failed(io::ErrorKind::UnexpectedEof.into()).into());
        }
        out.write_all(&buffer[..read]).map_err(Stop::Destination)?;
        left -= read as u64;
    }
    Ok(())
}

/// What a walk comes by.
struct Found {
    path: TreePath,
    meta: Meta,
    /// The first name of the same inode, if this is another.
    link: Option<TreePath>,
}

/// All of a tree but its root, in the order of a tar.
struct Walk<'a> {
    tree: &'a dyn FileTree,
    /// What is left of each open directory, in reverse.
    stack: Vec<(TreePath, Entries)>,
    /// A directory that was found and is not open yet.
    next: Option<TreePath>,
    firsts: HashMap<(u64, u64), TreePath>,
}

type Entries = Vec<(Vec<u8>, Meta)>;

impl<'a> Walk<'a> {
    fn new(tree: &'a dyn FileTree) -> Walk<'a> {
        Walk { tree, stack: Vec::new(), next: Some(TreePath::root()), firsts: HashMap::new() }
    }

    fn step(&mut self) -> Result<Option<Found>, SnapshotError> {
        if let Some(path) = self.next.take() {
            // an image without layers has no root
            let exists = !path.is_root() || self.tree.lookup(&path)?.is_some();
            let mut entries = if exists { self.tree.read_dir(&path)? } else { Vec::new() };
            entries.reverse();
            self.stack.push((path, entries));
        }
        while let Some((directory, left)) = self.stack.last_mut() {
            let Some((name, meta)) = left.pop() else {
                self.stack.pop();
                continue;
            };
            let path = directory.child(&name);
            if meta.kind == FileKind::Directory {
                self.next = Some(path.clone());
                return Ok(Some(Found { path, meta, link: None }));
            }
            let link = if meta.links > 1 { self.firsts.get(&meta.inode).cloned() } else { None };
            if meta.links > 1 && link.is_none() {
                self.firsts.insert(meta.inode, path.clone());
            }
            return Ok(Some(Found { path, meta, link }));
        }
        Ok(None)
    }
}

impl Iterator for Walk<'_> {
    type Item = Result<Found, SnapshotError>;

    fn next(&mut self) -> Option<Result<Found, SnapshotError>> {
        self.step().transpose()
    }
}
