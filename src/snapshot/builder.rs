//! Makes a new layer tree above a parent: what is written here hides what the parent has, and nothing else is touched.
//!
//! Directories stay private (0700) while names are put into them; [`LayerBuilder::finish`] gives all of them their final
//! owner, mode, xattrs and time, so the order in which their children were written leaves no trace.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use rayon::prelude::*;

use super::dir::{self, Dir, WHITEOUT};
use super::tree::{FileKind, FileTree, Meta, Time, TreePath, Xattrs};
use super::{SnapshotError, TreeFile};

/// What a file is given beside its content.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Attributes {
    /// `0o7777` bits; a symbolic link has none of its own.
    pub mode: u32,
    /// Owner as the image sees it.
    pub uid: u32,
    /// Group as the image sees it.
    pub gid: u32,
    /// Modification time.
    pub mtime: Time,
    /// Extended attributes.
    pub xattrs: Xattrs,
}

/// What a name becomes.
pub enum Content<'a> {
    /// A regular file with these bytes.
    Bytes(&'a [u8]),
    /// A regular file with the rest of this one; cloned or copied inside the kernel where that is cheaper.
    File(&'a File),
    /// A regular file with all that can be read.
    Stream(&'a mut dyn Read),
    /// A symbolic link with this target.
    Symlink(&'a [u8]),
    /// A fifo or device.
    Special(FileKind),
}

/// A layer tree being made. Many threads may put files into it.
pub struct LayerBuilder<'a> {
    parent: &'a dyn FileTree,
    root: Dir,
    /// Directories of the layer and what they will be given at the end.
    directories: Mutex<BTreeMap<TreePath, Directory>>,
}

#[derive(Clone)]
struct Directory {
    attributes: Attributes,
    opaque: bool,
}

/// A directory of the layer, open for putting names into it.
pub struct LayerDir {
    dir: Dir,
    path: TreePath,
}

/// Fewer directories than this are not worth waking a thread pool, which takes processors from commands while it falls asleep.
const MIN_PARALLEL: usize = 16;

/// Files up to this size go through memory: one read and one write cost less than asking the kernel to copy.
const THROUGH_MEMORY_BYTES: u64 = 256 * 1024;

impl<'a> LayerBuilder<'a> {
    /// Starts a layer in the empty directory `tree`. Its root becomes what the parent's is, or 0755 0:0 at `created`.
    ///
    /// # Errors
    /// `Io` when `tree` cannot be opened or the parent's root not read.
    pub fn new(parent: &'a dyn FileTree, tree: &Path, created: Time) -> Result<LayerBuilder<'a>, SnapshotError> {
        let path = TreePath::root();
        let root = Dir::open(tree).map_err(|err| SnapshotError::io("open the new layer", &path, err))?;
        let attributes = match parent.lookup(&path)? {
            Some(meta) => Attributes::of(&meta, parent.xattrs(&path)?),
            None => Attributes { mode: 0o755, uid: 0, gid: 0, mtime: created, xattrs: Xattrs::new() },
        };
        let directories = BTreeMap::from([(path, Directory { attributes, opaque: false })]);
        Ok(LayerBuilder { parent, root, directories: Mutex::new(directories) })
    }

    /// Makes sure that `path` and all above it are directories of the layer: those of the parent with its attributes, time
    /// included, and missing ones with `missing`. No link is followed: resolve the path first.
    ///
    /// # Errors
    /// `NotADirectory` when something else is in the way.
    pub fn ensure_dir(&self, path: &TreePath, missing: &Attributes) -> Result<(), SnapshotError> {
        let mut here = TreePath::root();
        for name in path.components() {
            here.push(name);
            if self.directories().contains_key(&here) {
                continue;
            }
            let attributes = match self.lookup(&here)? {
                Some(meta) if meta.kind == FileKind::Directory => Attributes::of(&meta, self.parent.xattrs(&here)?),
                Some(_) => return Err(SnapshotError::NotADirectory { path: here }),
                None => missing.clone(),
            };
            self.put_dir(&here, attributes)?;
        }
        Ok(())
    }

    /// Makes the directory `path`, or gives the one that the layer has other attributes. Its parent must be in the layer;
    /// what else is there in the layer goes.
    pub fn put_dir(&self, path: &TreePath, attributes: Attributes) -> Result<(), SnapshotError> {
        if let Some(directory) = self.directories().get_mut(path) {
            directory.attributes = attributes;
            return Ok(());
        }
        let (dir, name) = self.parent_of(path)?;
        // another task may have made it since, which is as good
        match dir.create_dir(name, 0o700) {
            Err(err) if err.kind() == io::ErrorKind::AlreadyExists && !is_dir(&dir, name) => {
                dir.remove_file(name).and_then(|()| dir.create_dir(name, 0o700))
            }
            Err(err) if err.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            made => made,
        }
        .map_err(|err| SnapshotError::io("create directory", path, err))?;
        self.directories().insert(path.clone(), Directory { attributes, opaque: false });
        Ok(())
    }

    /// Hides what the parent has below the directory `path` of the layer.
    pub fn set_opaque(&self, path: &TreePath) {
        if let Some(directory) = self.directories().get_mut(path) {
            directory.opaque = true;
        }
    }

    /// Opens a directory of the layer.
    pub fn dir(&self, path: &TreePath) -> Result<LayerDir, SnapshotError> {
        let dir = self.root.open_beneath(path).map_err(|err| SnapshotError::io("open directory", path, err))?;
        Ok(LayerDir { dir, path: path.clone() })
    }

    /// Puts one file at `path`, whose parent must be in the layer; a directory of the layer goes with all that is in it.
    pub fn put(&self, path: &TreePath, attributes: &Attributes, content: Content<'_>) -> Result<(), SnapshotError> {
        self.clear(path)?;
        let (dir, name) = self.parent_of(path)?;
        LayerDir { dir, path: path.parent() }.put(name, attributes, content).map(drop)
    }

    /// Gives the file at `existing`, which this layer made, a second name.
    pub fn hard_link(&self, path: &TreePath, existing: &TreePath) -> Result<(), SnapshotError> {
        self.clear(path)?;
        let (dir, name) = self.parent_of(path)?;
        let (old_dir, old_name) = self.parent_of(existing)?;
        dir.hard_link(name, &old_dir, old_name).map_err(|err| SnapshotError::io("create hard link", path, err))
    }

    /// Makes sure that the file at `path` is in the layer itself; one of the parent's is copied as it is.
    pub fn copy_up(&self, path: &TreePath) -> Result<(), SnapshotError> {
        let Some((Place::Parent, meta)) = self.find(path)? else { return Ok(()) };
        let attributes = Attributes::of(&meta, self.parent.xattrs(path)?);
        match meta.kind {
            FileKind::File => self.put(path, &attributes, Content::File(&self.parent.open(path)?)),
            FileKind::Symlink => self.put(path, &attributes, Content::Symlink(&self.parent.read_link(path)?)),
            kind => self.put(path, &attributes, Content::Special(kind)),
        }
    }

    /// Takes away what the layer and the parent have at `path`; its parent must be in the layer.
    pub fn delete(&self, path: &TreePath) -> Result<(), SnapshotError> {
        self.clear(path)?;
        if self.hidden_below(path) || self.parent.lookup(path)?.is_none() {
            return Ok(());
        }
        let (dir, name) = self.parent_of(path)?;
        dir.whiteout(name).map_err(|err| SnapshotError::io("delete", path, err))
    }

    /// Gives all directories what they were promised. Without it the layer is not complete.
    pub fn finish(self) -> Result<(), SnapshotError> {
        let directories = self.directories.into_inner().unwrap_or_else(PoisonError::into_inner);
        let root = &self.root;
        let finish_one = |(path, directory): (&TreePath, &Directory)| {
            let dress = || -> io::Result<()> {
                let dir = root.open_beneath(path)?;
                let Attributes { mode, uid, gid, mtime, xattrs } = &directory.attributes;
                dir.chown_self(*uid, *gid)?;
                for (name, value) in xattrs {
                    dir.set_own_xattr(name, value)?;
                }
                if directory.opaque {
                    dir.set_opaque()?;
                }
                dir.chmod_self(*mode)?;
                dir.set_own_mtime(*mtime)
            };
            dress().map_err(|err| SnapshotError::io("finish directory", path, err))
        };
        if directories.len() < MIN_PARALLEL {
            return directories.iter().try_for_each(finish_one);
        }
        directories.par_iter().try_for_each(finish_one)
    }

    fn directories(&self) -> MutexGuard<'_, BTreeMap<TreePath, Directory>> {
        self.directories.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn parent_of<'p>(&self, path: &'p TreePath) -> Result<(Dir, &'p [u8]), SnapshotError> {
        let open = || Ok((self.root.open_beneath(&path.parent())?, path.file_name().ok_or(io::ErrorKind::InvalidInput)?));
        open().map_err(|err: io::Error| SnapshotError::io("open the parent of", path, err))
    }

    /// Gives attributes to a file that the layer has already, under all its names; a symbolic link takes the owner alone.
    pub fn describe(&self, path: &TreePath, attributes: &Attributes) -> Result<(), SnapshotError> {
        let (dir, name) = self.parent_of(path)?;
        let describe = || {
            dir.chown(name, attributes.uid, attributes.gid)?;
            if dir.stat(name)?.is_some_and(|meta| meta.kind == FileKind::Symlink) {
                return Ok(());
            }
            for (key, value) in &attributes.xattrs {
                dir.set_xattr(name, key, value)?;
            }
            dir.chmod(name, attributes.mode)?;
            dir.set_mtime(name, attributes.mtime)
        };
        describe().map_err(|err: io::Error| SnapshotError::io("describe", path, err))
    }

    /// Removes what the layer itself has at `path`.
    fn clear(&self, path: &TreePath) -> Result<(), SnapshotError> {
        let (dir, name) = self.parent_of(path)?;
        dir.remove_all(name).map_err(|err| SnapshotError::io("replace", path, err))?;
        self.directories().retain(|directory, _| !directory.starts_with(path));
        Ok(())
    }

    /// Whether the parent's `path` is out of sight because of a directory above it in the layer.
    fn hidden_below(&self, path: &TreePath) -> bool {
        let directories = self.directories();
        std::iter::successors(Some(path.parent()), |path| (!path.is_root()).then(|| path.parent()))
            .any(|above| directories.get(&above).is_some_and(|directory| directory.opaque))
    }

    /// Where to read `path`: `None` when it does not exist.
    fn find(&self, path: &TreePath) -> Result<Option<(Place, Meta)>, SnapshotError> {
        let above = path.components().count();
        let mut here = TreePath::root();
        for (depth, name) in path.components().enumerate() {
            here.push(name);
            let found = self.root.stat_beneath(&here).map_err(|err| SnapshotError::io("look up", &here, err))?;
            match found {
                Some(meta) if depth + 1 == above => {
                    return Ok((meta.kind != WHITEOUT).then_some((Place::Layer, meta)));
                }
                Some(meta) if meta.kind == FileKind::Directory => {}
                Some(_) => return Ok(None),
                None => break,
            }
        }
        if self.hidden_below(path) {
            return Ok(None);
        }
        Ok(self.parent.lookup(path)?.map(|meta| (Place::Parent, meta)))
    }
}

/// The layer over its parent, as a later step would see them. Attributes of directories that the layer holds are those
/// promised to [`LayerBuilder::finish`].
impl FileTree for LayerBuilder<'_> {
    fn lookup(&self, path: &TreePath) -> Result<Option<Meta>, SnapshotError> {
        let Some((_, mut meta)) = self.find(path)? else { return Ok(None) };
        if let Some(Directory { attributes, .. }) = self.directories().get(path) {
            meta = Meta { mode: attributes.mode, uid: attributes.uid, gid: attributes.gid, mtime: attributes.mtime, ..meta };
        }
        Ok(Some(meta))
    }

    fn read_dir(&self, path: &TreePath) -> Result<Vec<(Vec<u8>, Meta)>, SnapshotError> {
        let mut entries = BTreeMap::new();
        let opaque = self.directories().get(path).is_some_and(|directory| directory.opaque);
        if !opaque && !self.hidden_below(path) && self.parent.lookup(path)?.is_some_and(|m| m.kind == FileKind::Directory) {
            entries.extend(self.parent.read_dir(path)?);
        }
        if self.directories().contains_key(path) {
            for (name, meta) in self.dir(path)?.dir.entries().map_err(|err| SnapshotError::io("read directory", path, err))? {
                match meta.kind {
                    WHITEOUT => entries.remove(&name),
                    _ => entries.insert(name, meta),
                };
            }
        }
        Ok(entries.into_iter().collect())
    }

    fn read_link(&self, path: &TreePath) -> Result<Vec<u8>, SnapshotError> {
        match self.find(path)? {
            Some((Place::Layer, _)) => {
                let (dir, name) = self.parent_of(path)?;
                dir.read_link(name).map_err(|err| SnapshotError::io("read link", path, err))
            }
            _ => self.parent.read_link(path),
        }
    }

    fn open(&self, path: &TreePath) -> Result<TreeFile, SnapshotError> {
        match self.find(path)? {
            Some((Place::Layer, Meta { kind: FileKind::File, .. })) => {
                let (dir, name) = self.parent_of(path)?;
                dir.open_file(name).map_err(|err| SnapshotError::io("open", path, err))
            }
            _ => self.parent.open(path),
        }
    }

    fn xattrs(&self, path: &TreePath) -> Result<Xattrs, SnapshotError> {
        if let Some(directory) = self.directories().get(path) {
            return Ok(directory.attributes.xattrs.clone());
        }
        match self.find(path)? {
            Some((Place::Layer, _)) => {
                let (dir, name) = self.parent_of(path)?;
                dir.xattrs(name).map_err(|err| SnapshotError::io("read xattrs of", path, err))
            }
            _ => self.parent.xattrs(path),
        }
    }
}

enum Place {
    Layer,
    Parent,
}

impl LayerDir {
    /// Puts one file into the directory and returns the bytes of its data. A file that is there is replaced.
    pub fn put(&self, name: &[u8], attributes: &Attributes, mut content: Content<'_>) -> Result<u64, SnapshotError> {
        let path = || self.path.child(name);
        let mut made = self.make(name, attributes, &mut content);
        if matches!(&made, Err(err) if err.kind() == io::ErrorKind::AlreadyExists) {
            self.dir.remove_file(name).map_err(|err| SnapshotError::io("replace", &path(), err))?;
            made = self.make(name, attributes, &mut content);
        }
        made.map_err(|err| SnapshotError::io("create", &path(), err))
    }

    fn make(&self, name: &[u8], attributes: &Attributes, content: &mut Content<'_>) -> io::Result<u64> {
        match content {
            Content::Symlink(target) => self.dir.symlink(name, target)?,
            Content::Special(kind) => self.dir.make_special(name, *kind, 0o600)?,
            Content::Bytes(_) | Content::File(_) | Content::Stream(_) => return self.make_file(name, attributes, content),
        }
        self.dir.chown(name, attributes.uid, attributes.gid)?;
        for (key, value) in &attributes.xattrs {
            self.dir.set_xattr(name, key, value)?;
        }
        if !matches!(content, Content::Symlink(_)) {
            self.dir.chmod(name, attributes.mode)?;
        }
        self.dir.set_mtime(name, attributes.mtime)?;
        Ok(0)
    }

    fn make_file(&self, name: &[u8], attributes: &Attributes, content: &mut Content<'_>) -> io::Result<u64> {
        let mut file = self.dir.create_file(name, 0o600)?;
        let written_bytes = match content {
            Content::Bytes(bytes) => {
                file.write_all(bytes)?;
                bytes.len() as u64
            }
            Content::File(source) => copy_data(source, &file)?,
            Content::Stream(stream) => io::copy(stream, &mut file)?,
            Content::Symlink(_) | Content::Special(_) => 0,
        };
        // the owner first: changing it clears setuid bits and file capabilities
        dir::set_owner(&file, attributes.uid, attributes.gid)?;
        for (key, value) in &attributes.xattrs {
            dir::set_xattr(&file, key, value)?;
        }
        dir::set_mode(&file, attributes.mode)?;
        dir::set_mtime(&file, attributes.mtime)?;
        Ok(written_bytes)
    }
}

impl Attributes {
    /// Those of `meta`.
    pub fn of(meta: &Meta, xattrs: Xattrs) -> Attributes {
        Attributes { mode: meta.mode, uid: meta.uid, gid: meta.gid, mtime: meta.mtime, xattrs }
    }
}

/// Copies from the current offset of `source` to its end.
fn copy_data(mut source: &File, mut target: &File) -> io::Result<u64> {
    let size_bytes = source.metadata()?.len();
    if size_bytes <= THROUGH_MEMORY_BYTES {
        let mut bytes = Vec::with_capacity(usize::try_from(size_bytes).unwrap_or(0) + 1);
        source.read_to_end(&mut bytes)?;
        target.write_all(&bytes)?;
        return Ok(bytes.len() as u64);
    }
    // copy_file_range shares extents where the file system can, and io::copy falls back by itself where it cannot
    io::copy(&mut source, &mut target)
}

fn is_dir(dir: &Dir, name: &[u8]) -> bool {
    matches!(dir.stat(name), Ok(Some(Meta { kind: FileKind::Directory, .. })))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::testing::make;
    use crate::snapshot::{DirTree, View};

    const CREATED: Time = Time { seconds: 7, nanoseconds: 0 };

    /// Runs `work` above a parent made by `script`, and returns the layer alone and both layers merged.
    fn build(script: &str, work: impl FnOnce(&LayerBuilder<'_>)) -> (tempfile::TempDir, DirTree, View) {
        let temp = tempfile::tempdir().unwrap();
        let [below, above] = ["below", "above"].map(|name| temp.path().join(name));
        std::fs::create_dir(&below).unwrap();
        std::fs::create_dir(&above).unwrap();
        assert!(make(&below, script), "these tests run as root");
        let parent = View::new(vec![below.clone()]).unwrap();
        let builder = LayerBuilder::new(&parent, &above, CREATED).unwrap();
        work(&builder);
        builder.finish().unwrap();
        let (layer, merged) = (DirTree::open(&above).unwrap(), View::new(vec![below, above]).unwrap());
        (temp, layer, merged)
    }

    fn path(text: &str) -> TreePath {
        TreePath::clean(text.as_bytes())
    }

    fn plain(mode: u32) -> Attributes {
        Attributes { mode, uid: 3, gid: 4, mtime: CREATED, xattrs: Xattrs::new() }
    }

    #[test]
    fn directories_of_the_parent_come_with_all_that_they_are() {
        let (_temp, layer, _) = build("dir a; mode a 2711; own a 9; xattr a user.x 1; time a 5", |builder| {
            builder.ensure_dir(&path("a/b"), &plain(0o750)).unwrap();
            builder.put(&path("a/b/f"), &plain(0o4755), Content::Bytes(b"x")).unwrap();
        });
        let meta =
            |name: &str| layer.lookup(&path(name)).unwrap().map(|meta| (meta.mode, meta.uid, meta.gid, meta.mtime.seconds));
        assert_eq!(meta("a"), Some((0o2711, 9, 9, 5)));
        assert_eq!(meta("a/b"), Some((0o750, 3, 4, 7)));
        assert_eq!(meta("a/b/f"), Some((0o4755, 3, 4, 7)));
        assert_eq!(layer.xattrs(&path("a")).unwrap(), [(b"user.x".to_vec(), b"1".to_vec())]);
    }

    #[test]
    fn something_else_in_the_way_is_an_error() {
        build("file f x; link l .", |builder| {
            for way in ["f/x", "l/x"] {
                let made = builder.ensure_dir(&path(way), &plain(0o755));
                assert!(matches!(made, Err(SnapshotError::NotADirectory { .. })), "{way}");
            }
        });
    }

    #[test]
    fn what_is_put_last_stays() {
        let (_temp, _, merged) = build("file f old; dir d; file d/x 1", |builder| {
            builder.put(&path("f"), &plain(0o644), Content::Symlink(b"d")).unwrap();
            builder.put(&path("f"), &plain(0o644), Content::Bytes(b"new")).unwrap();
            builder.ensure_dir(&path("d/e"), &plain(0o755)).unwrap();
            builder.put(&path("d"), &plain(0o600), Content::Bytes(b"")).unwrap();
            builder.put_dir(&path("f"), plain(0o700)).unwrap();
        });
        assert_eq!(merged.lookup(&path("d")).unwrap().unwrap().kind, FileKind::File);
        assert_eq!(merged.lookup(&path("f")).unwrap().unwrap().mode, 0o700);
    }

    #[test]
    fn what_is_deleted_or_hidden_is_gone() {
        let (_temp, _, merged) = build("file f x; dir d; file d/x 1; dir e; file e/x 1", |builder| {
            builder.delete(&path("f")).unwrap();
            builder.delete(&path("never-there")).unwrap();
            builder.put_dir(&path("d"), plain(0o755)).unwrap();
            builder.set_opaque(&path("d"));
            assert_eq!(builder.lookup(&path("f")).unwrap(), None);
            assert_eq!(builder.lookup(&path("d/x")).unwrap(), None);
            assert!(builder.lookup(&path("e/x")).unwrap().is_some());
            assert_eq!(builder.read_dir(&path("d")).unwrap(), []);
        });
        let names: Vec<_> = merged.read_dir(&TreePath::root()).unwrap().into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, [b"d", b"e"]);
        assert!(merged.read_dir(&path("d")).unwrap().is_empty());
    }

    #[test]
    fn links_share_an_inode_and_big_files_keep_their_bytes() {
        let big = vec![b'x'; 3 * THROUGH_MEMORY_BYTES as usize];
        let mut source = tempfile::tempfile().unwrap();
        source.write_all(&big).unwrap();
        io::Seek::rewind(&mut source).unwrap();
        let (temp, layer, _) = build("file old o", |builder| {
            builder.put(&path("a"), &plain(0o644), Content::File(&source)).unwrap();
            builder.hard_link(&path("b"), &path("a")).unwrap();
            builder.copy_up(&path("old")).unwrap();
        });
        let inode = |name: &str| layer.lookup(&path(name)).unwrap().unwrap().inode;
        assert_eq!(inode("a"), inode("b"));
        assert!(std::fs::read(temp.path().join("above/a")).unwrap() == big);
        assert_eq!(std::fs::read(temp.path().join("above/old")).unwrap(), b"o");
    }
}
