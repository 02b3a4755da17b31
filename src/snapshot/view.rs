//! Trees on disk as [`FileTree`]s: a stack of layer trees seen as overlayfs would show it, and one plain directory.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use super::dir::{Dir, WHITEOUT};
use super::tree::{FileKind, FileTree, Meta, TreePath, Xattrs};
use super::{SnapshotError, TreeFile};

/// A stack of layer trees, merged while it is read, never mounted.
///
/// It shows what an overlay mount of the same layers would show: the topmost entry of a name wins; a whiteout hides the name
/// below; directories merge until one is opaque or something that is no directory lies in between. As in overlayfs, an
/// opaque mark on a layer's own root means nothing.
pub struct View {
    cache: Mutex<Cache>,
    roots: Merged,
}

/// The directories of one path, top layer first; empty if the path is no directory.
type Merged = Arc<Vec<Arc<Dir>>>;

/// Merged directories that were asked before. A copy asks for the neighbours of what it asked last, so this saves most of
/// the walk from the root; it is emptied when it holds too many descriptors.
#[derive(Default)]
struct Cache {
    merged: HashMap<TreePath, Merged>,
    descriptors: usize,
}

/// Descriptors that one view's cache may hold beside its roots.
const MAX_CACHED: usize = 128;

impl View {
    /// Opens a stack, bottom layer first; without layers it is an empty root directory that does not exist.
    ///
    /// # Errors
    /// `Io` if a layer's directory cannot be opened.
    pub fn new(layers: Vec<PathBuf>) -> Result<View, SnapshotError> {
        let roots = layers.iter().map(|layer| open_layer(layer)).collect::<Result<Vec<_>, _>>()?;
        Ok(View::of(roots))
    }

    /// The same of layers that are open, for stacks that share many.
    pub fn of(mut layers: Vec<Arc<Dir>>) -> View {
        layers.reverse();
        View { cache: Mutex::default(), roots: Arc::new(layers) }
    }

    /// The directories that make up `path`, top layer first.
    fn merged(&self, path: &TreePath) -> Result<Merged, SnapshotError> {
        let mut known = path.clone();
        let mut dirs = loop {
            if known.is_root() {
                break self.roots.clone();
            }
            if let Some(dirs) = self.cached(&known) {
                break dirs;
            }
            known = known.parent();
        };
        let depth = known.components().count();
        for name in path.components().skip(depth) {
            if dirs.is_empty() {
                return Ok(dirs);
            }
            known.push(name);
            dirs = Arc::new(merge(&dirs, name).map_err(|err| SnapshotError::io("open", &known, err))?);
            self.remember(&known, &dirs);
        }
        Ok(dirs)
    }

    fn cached(&self, path: &TreePath) -> Option<Merged> {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner).merged.get(path).cloned()
    }

    fn remember(&self, path: &TreePath, dirs: &Merged) {
        let mut cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        // Even an empty answer counts, or a long list of missing directories would grow without bound.
        let descriptors = dirs.len().max(1);
        if cache.descriptors + descriptors > MAX_CACHED {
            *cache = Cache::default();
        }
        if cache.merged.insert(path.clone(), dirs.clone()).is_none() {
            cache.descriptors += descriptors;
        }
    }

    /// The topmost directory that has the last component of `path`, and what it is there; never a whiteout.
    fn find(&self, path: &TreePath) -> Result<Option<(Merged, usize, Meta)>, SnapshotError> {
        let Some(name) = path.file_name() else {
            let meta = self.roots.first().map(|root| root.meta()).transpose();
            let meta = meta.map_err(|err| SnapshotError::io("look up", path, err))?;
            return Ok(meta.map(|meta| (self.roots.clone(), 0, meta)));
        };
        let dirs = self.merged(&path.parent())?;
        for (index, dir) in dirs.iter().enumerate() {
            match dir.stat(name).map_err(|err| SnapshotError::io("look up", path, err))? {
                Some(meta) if meta.kind == WHITEOUT => return Ok(None),
                Some(meta) => return Ok(Some((dirs, index, meta))),
                None => {}
            }
        }
        Ok(None)
    }

    /// As [`View::find`], for callers that need the path to exist.
    fn demand(&self, action: &'static str, path: &TreePath) -> Result<(Merged, usize, Meta), SnapshotError> {
        self.find(path)?.ok_or_else(|| SnapshotError::io(action, path, std::io::ErrorKind::NotFound.into()))
    }
}

/// Opens the tree of a layer.
///
/// # Errors
/// `Io` if it cannot be opened.
pub fn open_layer(tree: &Path) -> Result<Arc<Dir>, SnapshotError> {
    Dir::open(tree).map(Arc::new).map_err(|err| SnapshotError::io("open the layer of", &TreePath::root(), err))
}

/// The directories called `name` in `dirs` that merge into one, top first.
fn merge(dirs: &[Arc<Dir>], name: &[u8]) -> std::io::Result<Vec<Arc<Dir>>> {
    let mut merged = Vec::new();
    for dir in dirs {
        match dir.open_dir(name) {
            Ok(child) => {
                let opaque = child.is_opaque()?;
                merged.push(Arc::new(child));
                if opaque {
                    break;
                }
            }
            Err(err) => match err.raw_os_error() {
                Some(libc::ENOENT) => {}
                // A file, a link or a whiteout: nothing below it shows.
                Some(libc::ENOTDIR | libc::ELOOP) => break,
                _ => return Err(err),
            },
        }
    }
    Ok(merged)
}

impl FileTree for View {
    fn lookup(&self, path: &TreePath) -> Result<Option<Meta>, SnapshotError> {
        Ok(self.find(path)?.map(|(_, _, meta)| meta))
    }

    fn read_dir(&self, path: &TreePath) -> Result<Vec<(Vec<u8>, Meta)>, SnapshotError> {
        let failed = |err| SnapshotError::io("read directory", path, err);
        let dirs = self.merged(path)?;
        let (top, lower) = match dirs.split_first() {
            Some(split) => split,
            None if path.is_root() => return Ok(Vec::new()),
            None => {
                let (_, _, _) = self.demand("read directory", path)?;
                return Err(SnapshotError::NotADirectory { path: path.clone() });
            }
        };
        let mut entries = top.reopen().and_then(|mut dir| dir.entries()).map_err(failed)?;
        if !lower.is_empty() {
            let mut merged: HashMap<Vec<u8>, Meta> = entries.into_iter().collect();
            for dir in lower {
                for name in dir.reopen().and_then(|mut dir| dir.names()).map_err(failed)? {
                    if !merged.contains_key(&name)
                        && let Some(meta) = dir.stat(&name).map_err(failed)?
                    {
                        merged.insert(name, meta);
                    }
                }
            }
            entries = merged.into_iter().collect();
            entries.sort_unstable_by(|(left, _), (right, _)| left.cmp(right));
        }
        entries.retain(|(_, meta)| meta.kind != WHITEOUT);
        Ok(entries)
    }

    fn read_link(&self, path: &TreePath) -> Result<Vec<u8>, SnapshotError> {
        let (dirs, index, _) = self.demand("read link", path)?;
        let name = path.file_name().unwrap_or_default();
        dirs[index].read_link(name).map_err(|err| SnapshotError::io("read link", path, err))
    }

    fn open(&self, path: &TreePath) -> Result<TreeFile, SnapshotError> {
        let (dirs, index, meta) = self.demand("open", path)?;
        open_regular(&dirs[index], path, &meta)
    }

    fn xattrs(&self, path: &TreePath) -> Result<Xattrs, SnapshotError> {
        let (dirs, index, _) = self.demand("read xattrs of", path)?;
        let found = match path.file_name() {
            Some(name) => dirs[index].xattrs(name),
            None => dirs[index].own_xattrs(),
        };
        found.map_err(|err| SnapshotError::io("read xattrs of", path, err))
    }
}

/// One directory of the host as a tree, owners as they are on disk. Whiteouts and opaque marks mean nothing in it.
pub struct DirTree {
    root: Dir,
}

impl DirTree {
    /// Opens `path`, whose own links are followed.
    ///
    /// # Errors
    /// `Io` if it is no directory or cannot be opened.
    pub fn open(path: &Path) -> Result<DirTree, SnapshotError> {
        let root = Dir::open(path).map_err(|err| SnapshotError::io("open", &TreePath::root(), err))?;
        Ok(DirTree { root })
    }

    /// The tree below an open directory.
    pub fn new(root: Dir) -> DirTree {
        DirTree { root }
    }

    /// Does `work` on the last component of `path` in its open directory.
    fn at<T>(
        &self,
        action: &'static str,
        path: &TreePath,
        work: impl FnOnce(&Dir, &[u8]) -> std::io::Result<T>,
    ) -> Result<T, SnapshotError> {
        let name = path.file_name().ok_or_else(|| rustix::io::Errno::ISDIR.into());
        let done = name.and_then(|name| work(&self.root.open_beneath(&path.parent())?, name));
        done.map_err(|err| SnapshotError::io(action, path, err))
    }
}

impl FileTree for DirTree {
    fn lookup(&self, path: &TreePath) -> Result<Option<Meta>, SnapshotError> {
        self.root.stat_beneath(path).map_err(|err| SnapshotError::io("look up", path, err))
    }

    fn read_dir(&self, path: &TreePath) -> Result<Vec<(Vec<u8>, Meta)>, SnapshotError> {
        let mut dir = self.root.open_beneath(path).map_err(|err| match err.raw_os_error() {
            Some(libc::ENOTDIR | libc::ELOOP) => SnapshotError::NotADirectory { path: path.clone() },
            _ => SnapshotError::io("read directory", path, err),
        })?;
        dir.entries().map_err(|err| SnapshotError::io("read directory", path, err))
    }

    fn read_link(&self, path: &TreePath) -> Result<Vec<u8>, SnapshotError> {
        self.at("read link", path, Dir::read_link)
    }

    fn open(&self, path: &TreePath) -> Result<TreeFile, SnapshotError> {
        let name = path.file_name().unwrap_or_default();
        let dir = self.root.open_beneath(&path.parent()).map_err(|err| SnapshotError::io("open", path, err))?;
        match dir.stat(name).map_err(|err| SnapshotError::io("open", path, err))? {
            Some(meta) => open_regular(&dir, path, &meta),
            None => Err(SnapshotError::io("open", path, std::io::ErrorKind::NotFound.into())),
        }
    }

    fn xattrs(&self, path: &TreePath) -> Result<Xattrs, SnapshotError> {
        if path.is_root() {
            return self.root.own_xattrs().map_err(|err| SnapshotError::io("read xattrs of", path, err));
        }
        self.at("read xattrs of", path, Dir::xattrs)
    }
}

/// Opens the last component of `path` in `dir`, refusing what is no regular file: opening a device can have effects.
fn open_regular(dir: &Dir, path: &TreePath, meta: &Meta) -> Result<TreeFile, SnapshotError> {
    let failed = |err| SnapshotError::io("open", path, err);
    if meta.kind != FileKind::File {
        let errno = if meta.kind == FileKind::Directory { rustix::io::Errno::ISDIR } else { rustix::io::Errno::INVAL };
        return Err(failed(errno.into()));
    }
    dir.open_file(path.file_name().unwrap_or_default()).map_err(failed)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::snapshot::testing::{self, Mounted};

    /// Every path with what makes it what it is.
    fn listing(tree: &dyn FileTree) -> Vec<String> {
        let mut lines = Vec::new();
        let mut todo = vec![TreePath::root()];
        while let Some(path) = todo.pop() {
            for (name, meta) in tree.read_dir(&path).unwrap() {
                let child = path.child(&name);
                let looked_up = tree.lookup(&child).unwrap().unwrap();
                assert_eq!((looked_up.kind, looked_up.mode), (meta.kind, meta.mode), "{child}");
                let data = match meta.kind {
                    FileKind::File => std::io::read_to_string(tree.open(&child).unwrap()).unwrap(),
                    FileKind::Symlink => String::from_utf8(tree.read_link(&child).unwrap()).unwrap(),
                    FileKind::Directory => {
                        todo.push(child.clone());
                        String::new()
                    }
                    _ => String::new(),
                };
                let xattrs = tree.xattrs(&child).unwrap();
                lines.push(format!("{child} {:?} {:o} {} {data} {xattrs:?}", meta.kind, meta.mode, meta.uid));
            }
        }
        lines.sort();
        lines
    }

    /// A view must show what the kernel shows for the same layers.
    #[track_caller]
    fn check_against_kernel(layers: &[&str]) {
        let temp = tempfile::tempdir().unwrap();
        let dirs: Vec<PathBuf> = (0..layers.len()).map(|index| temp.path().join(format!("l{index}"))).collect();
        for (dir, script) in dirs.iter().zip(layers) {
            fs::create_dir(dir).unwrap();
            if !testing::make(dir, script) {
                return;
            }
        }
        let Some(mounted) = Mounted::lower_only(&dirs, &temp.path().join("merged")) else { return };
        let view = View::new(dirs).unwrap();
        assert_eq!(listing(&view), listing(&DirTree::open(mounted.path()).unwrap()));
    }

    #[test]
    fn directories_merge_and_the_top_wins() {
        check_against_kernel(&["dir a; file a/x 1; file a/y 1; file z 1", "dir a; mode a 700; file a/y 2; file a/w 2"]);
    }

    #[test]
    fn whiteouts_hide_names_below() {
        check_against_kernel(&["dir a; file a/x 1; file f 1; file g 1", "dir a; gone a/x; gone f", "file f 3"]);
        check_against_kernel(&["dir a; file a/x 1", "gone a", "dir a; file a/y 3"]);
    }

    #[test]
    fn opaque_directories_hide_what_is_below() {
        check_against_kernel(&["dir a; file a/x 1; dir a/b; file a/b/c 1", "dir a; opaque a; file a/y 2"]);
        check_against_kernel(&["dir a; dir a/b; file a/b/c 1", "dir a; dir a/b; opaque a/b", "dir a; dir a/b; file a/b/d 3"]);
    }

    #[test]
    fn something_else_in_between_ends_the_merge() {
        check_against_kernel(&["dir a; file a/x 1", "file a 2", "dir a; file a/y 3"]);
        check_against_kernel(&["dir a; file a/x 1", "link a elsewhere", "dir a; file a/y 3"]);
        check_against_kernel(&["file a 1", "dir a; file a/y 2"]);
        check_against_kernel(&["dir a; file a/y 1", "file a 2"]);
    }

    #[test]
    fn overlay_marks_are_hidden_and_nested_ones_unescaped() {
        let temp = tempfile::tempdir().unwrap();
        let script = "dir a; opaque a; xattr a user.k v; xattr a trusted.overlay.overlay.x y";
        if !testing::make(temp.path(), script) {
            return;
        }
        let pair = |name: &[u8], value: &[u8]| (name.to_vec(), value.to_vec());
        let view = View::new(vec![temp.path().to_owned()]).unwrap();
        assert_eq!(view.xattrs(&TreePath::clean(b"a")).unwrap(), [pair(b"trusted.overlay.x", b"y"), pair(b"user.k", b"v")]);
    }

    #[test]
    fn paths_through_files_and_links_do_not_exist() {
        let temp = tempfile::tempdir().unwrap();
        assert!(testing::make(temp.path(), "dir d; file d/f 1; link l d"));
        let view = View::new(vec![temp.path().to_owned()]).unwrap();
        let plain = DirTree::open(temp.path()).unwrap();
        for tree in [&view as &dyn FileTree, &plain] {
            for path in ["d/f/x", "l/f", "none/f"] {
                assert_eq!(tree.lookup(&TreePath::clean(path.as_bytes())).unwrap(), None, "{path}");
            }
            assert!(matches!(tree.read_dir(&TreePath::clean(b"l")), Err(SnapshotError::NotADirectory { .. })));
            assert!(matches!(tree.read_dir(&TreePath::clean(b"none")), Err(SnapshotError::Io { .. })));
            assert!(tree.open(&TreePath::clean(b"d")).is_err());
            assert!(tree.lookup(&TreePath::root()).unwrap().is_some());
        }
    }

    #[test]
    fn the_cache_gives_descriptors_back() {
        let temp = tempfile::tempdir().unwrap();
        for index in 0..2 * MAX_CACHED {
            fs::create_dir(temp.path().join(index.to_string())).unwrap();
        }
        let view = View::new(vec![temp.path().to_owned()]).unwrap();
        for index in 0..2 * MAX_CACHED {
            let path = TreePath::clean(format!("{index}/missing").as_bytes());
            assert_eq!(view.lookup(&path).unwrap(), None);
        }
        let cache = view.cache.lock().unwrap();
        assert!(cache.descriptors <= MAX_CACHED && cache.merged.len() <= MAX_CACHED);
    }

    #[test]
    fn no_layers_is_no_root() {
        let view = View::new(Vec::new()).unwrap();
        assert_eq!(view.lookup(&TreePath::root()).unwrap(), None);
        assert!(view.read_dir(&TreePath::root()).unwrap().is_empty());
        assert!(View::new(vec![Path::new("/nonexistent/layer").to_owned()]).is_err());
    }
}
