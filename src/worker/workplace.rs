//! A command's whole tree as a copy: for places where nothing can be mounted, such as an ordinary container.
//!
//! What mounts would show is copied in before the command and taken out after it; what a cache mount then holds replaces what
//! it held. There is no `/proc` and no `/sys`.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode, makedev, mknodat, renameat};
use rustix::io::Errno;

use super::error::WorkError;
use super::identity::Identity;
use crate::sandbox::{self, MountKind};
use crate::snapshot::flat::{Flat, copy_into};
use crate::snapshot::{Dir, DirTree, FileKind, FileTree, Last, SnapshotError, TreePath, View, resolve};

/// The copy, while a command uses it.
pub struct Workplace {
    path: PathBuf,
    flat: Flat,
    placed: Vec<Placed>,
    /// Directories above mount points that the image lacks, parents first.
    made: Vec<TreePath>,
}

/// What stands in for a mount.
struct Placed {
    at: TreePath,
    /// Where what a command left there is to be kept.
    kept_in: Option<PathBuf>,
}

/// Directories of the image that a sandbox covers.
const COVERED: [&[u8]; 3] = [b"dev", b"proc", b"sys"];

impl Workplace {
    /// Copies what `view` shows into the empty directory `path` and puts `mounts` there.
    pub fn make(view: &View, path: PathBuf, mounts: &[sandbox::Mount]) -> Result<Workplace, WorkError> {
        let mut targets = Vec::new();
        for mount in mounts {
            targets.push(resolve(view, &TreePath::clean(mount.target.as_bytes()), Last::Follow)?.path);
        }
        let covered: Vec<TreePath> = COVERED.iter().map(|name| TreePath::clean(name)).chain(targets.iter().cloned()).collect();
        let flat = Flat::copy(view, &path, &covered)?;
        let mut place = Workplace { path, flat, placed: Vec::new(), made: Vec::new() };
        let root = place.root()?;
        for name in COVERED {
            place.make_parents(&root, &TreePath::clean(name).child(b"x"))?;
            place.placed.push(Placed { at: TreePath::clean(name), kept_in: None });
        }
        furnish_dev(&root).map_err(WorkError::system("make /dev"))?;
        for (mount, at) in mounts.iter().zip(targets) {
            place.make_parents(&root, &at)?;
            unchanged_time(&root, &at, remove)?;
            put(&mount.kind, &root, &at)?;
            let kept_in = match &mount.kind {
                MountKind::Bind { source, writable: true, .. } if source.is_dir() => Some(source.clone()),
                _ => None,
            };
            place.placed.push(Placed { at, kept_in });
        }
        Ok(place)
    }

    /// Makes the command's directory where the image lacks it; it belongs to the command's user.
    pub fn make_cwd(&self, cwd: &str, identity: &Identity, view: &View) -> Result<(), WorkError> {
        let root = self.root()?;
        let path = resolve(view, &TreePath::clean(cwd.as_bytes()), Last::Follow)?.path;
        let mut here = TreePath::root();
        for name in path.components() {
            let parent = open(&root, &here)?;
            here = here.child(name);
            let failed = |err| SnapshotError::io("create", &here, err);
            if parent.stat(name).map_err(failed)?.is_none() {
                parent.create_dir(name, 0o755).map_err(failed)?;
                parent.chown(name, identity.uid, identity.gid).map_err(failed)?;
                parent.chmod(name, 0o755).map_err(failed)?;
            }
        }
        Ok(())
    }

    /// Takes the mounts out and marks deletions; the directory then is what an overlay's upper directory would be, before
    /// `keep_changes`. `trash` is an empty directory beside it.
    pub fn finish(self, view: &View, trash: &Path) -> Result<(), WorkError> {
        let root = self.root()?;
        let mut seen = HashSet::new();
        for (number, Placed { at, kept_in }) in self.placed.iter().enumerate().rev() {
            let Some(name) = at.file_name().filter(|_| seen.insert(at.clone())) else { continue };
            if let Some(source) = kept_in
                && let Some(parent) = directory_with(&root, at, name)?
            {
                let swap = || {
                    fs::rename(source, trash.join(number.to_string()))?;
                    Ok(renameat(&parent, name, CWD, source)?)
                };
                swap().map_err(WorkError::system("keep a cache mount"))?;
                continue;
            }
            // a command may have removed what is above
            if root.stat_beneath(&at.parent()).map_err(|err| SnapshotError::io("look at", at, err))?.is_some() {
                let parent = open(&root, &at.parent())?;
                remove(&parent, name).map_err(|err| SnapshotError::io("remove", at, err))?;
            }
        }
        for path in self.made.iter().rev() {
            let Ok(parent) = root.open_beneath(&path.parent()) else { continue };
            // what a command has put something into is part of its layer
            let _stays = parent.remove_dir(path.file_name().unwrap_or_default());
        }
        Ok(self.flat.mark_deletions(view)?)
    }

    fn root(&self) -> Result<Dir, WorkError> {
        Dir::open(&self.path).map_err(WorkError::system("open the copy of the image"))
    }

    fn make_parents(&mut self, root: &Dir, path: &TreePath) -> Result<(), WorkError> {
        let parent = path.parent();
        if parent.is_root() || root.stat_beneath(&parent).map_err(|err| SnapshotError::io("look at", &parent, err))?.is_some() {
            return Ok(());
        }
        self.make_parents(root, &parent)?;
        unchanged_time(root, &parent, |above, name| above.create_dir(name, 0o755).and_then(|()| above.chmod(name, 0o755)))?;
        self.made.push(parent);
        Ok(())
    }
}

fn open(root: &Dir, path: &TreePath) -> Result<Dir, SnapshotError> {
    root.open_beneath(path).map_err(|err| SnapshotError::io("open", path, err))
}

/// What holds the directory at `path`; `None` if a command has put something else there or above, such as a link, which would
/// lead out of the copy.
fn directory_with(root: &Dir, path: &TreePath, name: &[u8]) -> Result<Option<Dir>, SnapshotError> {
    let Ok(parent) = root.open_beneath(&path.parent()) else { return Ok(None) };
    let meta = parent.stat(name).map_err(|err| SnapshotError::io("look at", path, err))?;
    Ok(meta.is_some_and(|meta| meta.kind == FileKind::Directory).then_some(parent))
}

/// Changes a name without changing the time of its directory.
fn unchanged_time(root: &Dir, path: &TreePath, change: impl FnOnce(&Dir, &[u8]) -> io::Result<()>) -> Result<(), SnapshotError> {
    let failed = |err| SnapshotError::io("prepare", path, err);
    let parent = root.open_beneath(&path.parent()).map_err(failed)?;
    let mtime = parent.meta().map_err(failed)?.mtime;
    change(&parent, path.file_name().unwrap_or_default()).and_then(|()| parent.set_own_mtime(mtime)).map_err(failed)
}

fn remove(parent: &Dir, name: &[u8]) -> io::Result<()> {
    parent.remove_all(name)
}

/// Puts at a place what a mount of this kind would show there.
fn put(kind: &MountKind, root: &Dir, at: &TreePath) -> Result<(), WorkError> {
    let parent = open(root, &at.parent())?;
    let name = at.file_name().unwrap_or_default();
    let failed = |err| SnapshotError::io("fill", at, err);
    match kind {
        MountKind::Bind { source, subpath, .. } if source.is_dir() => {
            let tree = DirTree::open(source)?;
            let from = resolve(&tree, &TreePath::clean(subpath.as_bytes()), Last::Follow)?.path;
            copy_into(&tree, &from, root, at)?;
        }
        MountKind::Bind { source, .. } => {
            let directory = source.parent().unwrap_or(Path::new("/"));
            let file = TreePath::clean(source.file_name().map_or(&b""[..], std::ffi::OsStr::as_encoded_bytes));
            let tree = DirTree::open(directory)?;
            match tree.lookup(&file)?.map(|meta| meta.kind) {
                // the same socket under a second name
                Some(FileKind::Socket) => {
                    let old = Dir::open(directory).map_err(failed)?;
                    parent.hard_link(name, &old, file.as_bytes()).map_err(failed)?;
                }
                _ => copy_into(&tree, &file, root, at)?,
            }
        }
        MountKind::Overlay { lowers, subpath, .. } => {
            let view = View::new(lowers.clone())?;
            let from = resolve(&view, &TreePath::clean(subpath.as_bytes()), Last::Follow)?.path;
            copy_into(&view, &from, root, at)?;
        }
        MountKind::File { content, uid, gid, mode } => {
            let mut file = parent.create_file(name, 0o600).map_err(failed)?;
            io::Write::write_all(&mut file, content).map_err(failed)?;
            parent.chown(name, *uid, *gid).and_then(|()| parent.chmod(name, *mode)).map_err(failed)?;
        }
        MountKind::Tmpfs { mode, .. } => {
            parent.create_dir(name, 0o700).and_then(|()| parent.chmod(name, *mode)).map_err(failed)?;
        }
    }
    Ok(())
}

/// Devices and the links of a `/dev`.
fn furnish_dev(root: &Dir) -> io::Result<()> {
    let dev = root.open_dir(b"dev")?;
    for (name, major, minor) in
        [("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0)]
    {
        match mknodat(&dev, name, FileType::CharacterDevice, Mode::from_raw_mode(0o666), makedev(major, minor)) {
            // without the right to make devices: programs that write to a file `null` are content, the others go without
            Err(Errno::PERM) if name == "null" => drop(dev.create_file(b"null", 0o666)?),
            Err(Errno::PERM) => continue,
            made => made?,
        }
        dev.chmod(name.as_bytes(), 0o666)?;
    }
    for name in [&b"shm"[..], b"mqueue"] {
        dev.create_dir(name, 0o700)?;
        dev.chmod(name, 0o1777)?;
    }
    Ok(())
}
