//! A stack of layers as one plain directory, and back: for places where nothing can be mounted.
//!
//! [`Flat::copy`] copies what a [`View`] shows; after a command has worked there, [`Flat::mark_deletions`] adds the whiteouts
//! and opaque marks that an overlay would have made, so that [`keep_changes`](super::upper::keep_changes) leaves exactly the
//! same changes as from an overlay's upper directory.

use std::collections::{HashMap, HashSet};
use std::io;
use std::path::Path;

use rustix::fs::{AtFlags, StatxFlags, statx};

use super::dir::WHITEOUT;
use super::tree::{FileKind, FileTree, Meta, TreePath};
use super::{Dir, SnapshotError, View};

/// What a directory held when a command began.
pub struct Flat {
    root: Dir,
    /// What tells the directories that were copied from new ones of the same name.
    directories: HashMap<TreePath, Birth>,
    /// What was covered: something else is shown there, and nothing there is a change.
    hollow: HashSet<TreePath>,
}

/// Inode and time of birth, which no program can set.
type Birth = (u64, i64, u32);

impl Flat {
    /// Copies all that `view` shows into the empty directory `to`, but nothing that is inside of `hollow`.
    ///
    /// # Errors
    /// `Io` names the path, in the view or in the copy.
    pub fn copy(view: &View, to: &Path, hollow: &[TreePath]) -> Result<Flat, SnapshotError> {
        let root = Dir::open(to).map_err(|err| SnapshotError::io("open", &TreePath::root(), err))?;
        let hollow: HashSet<TreePath> = hollow.iter().cloned().collect();
        let mut directories = copy_tree(view, &TreePath::root(), &root, &TreePath::root(), &hollow)?;
        for (path, birth) in &mut directories {
            *birth =
                root.open_beneath(path).and_then(|dir| birth_of(&dir)).map_err(|err| SnapshotError::io("look at", path, err))?;
        }
        Ok(Flat { root, directories, hollow })
    }

    /// Marks what `view` has and the directory has no more, and directories that were made anew.
    ///
    /// # Errors
    /// `Io` names the path.
    pub fn mark_deletions(&self, view: &View) -> Result<(), SnapshotError> {
        let mut todo = vec![TreePath::root()];
        while let Some(path) = todo.pop() {
            let here = self.root.open_beneath(&path).map_err(|err| SnapshotError::io("open", &path, err))?;
            for (name, meta) in view.read_dir(&path)? {
                let child = path.child(&name);
                if self.hollow.contains(&child) {
                    continue;
                }
                let failed = |err| SnapshotError::io("look at", &child, err);
                match here.stat(&name).map_err(failed)? {
                    None => here.whiteout(&name).map_err(failed)?,
                    Some(now) if now.kind == FileKind::Directory && meta.kind == FileKind::Directory => {
                        let dir = here.open_dir(&name).map_err(failed)?;
                        match self.directories.get(&child) {
                            Some(birth) if *birth == birth_of(&dir).map_err(failed)? => todo.push(child),
                            _ => dir.set_opaque().map_err(failed)?,
                        }
                    }
                    Some(_) => {}
                }
            }
        }
        Ok(())
    }
}

/// Copies `from` of a tree to `to` below `root`, where the parents are: a directory with all that is in it, or a file.
///
/// # Errors
/// `Io` names the path, in the tree or in the copy.
pub fn copy_into(tree: &dyn FileTree, from: &TreePath, root: &Dir, to: &TreePath) -> Result<(), SnapshotError> {
    copy_tree(tree, from, root, to, &HashSet::new()).map(drop)
}

/// As [`copy_into`], without what is inside of `hollow`; returns the directories that were made.
fn copy_tree(
    tree: &dyn FileTree,
    from: &TreePath,
    root: &Dir,
    to: &TreePath,
    hollow: &HashSet<TreePath>,
) -> Result<HashMap<TreePath, Birth>, SnapshotError> {
    let mut made: Vec<(TreePath, TreePath, Meta)> = Vec::new();
    let mut names: HashMap<(u64, u64), TreePath> = HashMap::new();
    let Some(meta) = tree.lookup(from)? else { return Ok(HashMap::new()) };
    let mut todo = vec![(from.clone(), to.clone(), meta)];
    while let Some((from, to, meta)) = todo.pop() {
        let failed = |err| SnapshotError::io("copy", &to, err);
        if meta.kind == FileKind::Directory {
            if let Some(name) = to.file_name() {
                let parent = root.open_beneath(&to.parent()).map_err(failed)?;
                match parent.create_dir(name, 0o700) {
                    Err(err) if err.kind() == io::ErrorKind::AlreadyExists => {}
                    created => created.map_err(failed)?,
                }
            }
            if !hollow.contains(&to) {
                for (name, meta) in tree.read_dir(&from)? {
                    todo.push((from.child(&name), to.child(&name), meta));
                }
            }
            made.push((from, to, meta));
            continue;
        }
        let Some(name) = to.file_name() else { continue };
        let parent = root.open_beneath(&to.parent()).map_err(failed)?;
        if meta.links > 1 {
            if let Some(first) = names.get(&meta.inode) {
                let old = root.open_beneath(&first.parent()).map_err(failed)?;
                parent.hard_link(name, &old, first.file_name().unwrap_or_default()).map_err(failed)?;
                continue;
            }
            names.insert(meta.inode, to.clone());
        }
        match meta.kind {
            FileKind::File => {
                let mut file = parent.create_file(name, 0o600).map_err(failed)?;
                io::copy(&mut tree.open(&from)?, &mut file).map_err(failed)?;
            }
            FileKind::Symlink => parent.symlink(name, &tree.read_link(&from)?).map_err(failed)?,
            FileKind::Socket | WHITEOUT => continue,
            kind => parent.make_special(name, kind, 0o600).map_err(failed)?,
        }
        parent.chown(name, meta.uid, meta.gid).map_err(failed)?;
        for (key, value) in tree.xattrs(&from)? {
            parent.set_xattr(name, &key, &value).or_else(unless_refused).map_err(failed)?;
        }
        if meta.kind != FileKind::Symlink {
            parent.chmod(name, meta.mode).map_err(failed)?;
        }
        parent.set_mtime(name, meta.mtime).map_err(failed)?;
    }
    // children first: what is made in a directory changes its time
    let mut directories = HashMap::new();
    for (from, to, meta) in made.into_iter().rev() {
        let failed = |err| SnapshotError::io("copy", &to, err);
        let dir = root.open_beneath(&to).map_err(failed)?;
        dir.chown_self(meta.uid, meta.gid).map_err(failed)?;
        for (key, value) in tree.xattrs(&from)? {
            dir.set_own_xattr(&key, &value).or_else(unless_refused).map_err(failed)?;
        }
        dir.chmod_self(meta.mode).map_err(failed)?;
        dir.set_own_mtime(meta.mtime).map_err(failed)?;
        directories.insert(to, (0, 0, 0));
    }
    Ok(directories)
}

/// Attributes that this process may not set stay in the layer that they come from.
fn unless_refused(err: io::Error) -> io::Result<()> {
    match err.raw_os_error() {
        Some(libc::EPERM | libc::EOPNOTSUPP) => Ok(()),
        _ => Err(err),
    }
}

fn birth_of(dir: &Dir) -> io::Result<Birth> {
    let found = statx(dir, c"", AtFlags::EMPTY_PATH, StatxFlags::INO | StatxFlags::BTIME)?;
    Ok((found.stx_ino, found.stx_btime.tv_sec, found.stx_btime.tv_nsec))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::snapshot::testing::make;
    use crate::snapshot::upper::keep_changes;
    use crate::snapshot::xattr::Family;

    #[test]
    fn what_a_command_did_is_found_again() {
        let temp = tempfile::tempdir().unwrap();
        let [below, work] = ["below", "work"].map(|name| temp.path().join(name));
        fs::create_dir(&below).unwrap();
        fs::create_dir(&work).unwrap();
        if !make(&below, "dir a; file a/f 1; dir b; file b/f 1; file gone 1; dir dev; file dev/x 1; link l a/f; file same 1") {
            return;
        }
        let view = View::new(vec![below]).unwrap();
        let flat = Flat::copy(&view, &work, &[TreePath::clean(b"dev")]).unwrap();
        assert!(!work.join("dev/x").exists());
        assert!(make(&work, "rm gone; rm a; dir a; file a/new 1; file b/g 2"));
        flat.mark_deletions(&view).unwrap();
        keep_changes(&work, &view, Family::Trusted).unwrap();
        let mut dir = Dir::open(&work).unwrap();
        let names: Vec<_> = dir.entries().unwrap().into_iter().map(|(name, meta)| (name, meta.kind == WHITEOUT)).collect();
        assert_eq!(names, [(b"a".to_vec(), false), (b"b".to_vec(), false), (b"gone".to_vec(), true)]);
        assert!(dir.open_dir(b"a").unwrap().is_opaque().unwrap());
        assert_eq!(dir.open_dir(b"b").unwrap().names().unwrap(), [b"g"]);
    }
}
