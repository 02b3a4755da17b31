//! Mounts as descriptors: made detached, configured, and attached to a place that was found inside a tree.
//!
//! Nothing here resolves a path of an image on the host's side: places are `openat2` results below a tree's own descriptor.

use std::ffi::CString;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags, openat, openat2, statat};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags, fsconfig_create,
    fsconfig_set_fd, fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, mount, move_mount, open_tree, unmount,
};

use super::sys::{self, Reach};

/// How this kernel takes the layers of an overlay; found out once by trying, as version numbers lie about backports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum OverlayDialect {
    /// `fsconfig` with descriptors, one call a layer (Linux 6.13).
    Descriptors,
    /// `fsconfig` with paths, one call a layer (about Linux 6.8).
    Paths,
    /// `mount` with one page of options.
    OnePage,
}

impl OverlayDialect {
    /// Asks the kernel. Leaves nothing behind.
    pub(super) fn probe() -> OverlayDialect {
        let Ok(context) = fsopen(c"overlay", FsOpenFlags::FSOPEN_CLOEXEC) else { return OverlayDialect::OnePage };
        let by_descriptor = open_tree_place("/").and_then(|root| fsconfig_set_fd(&context, c"lowerdir+", root));
        if by_descriptor.is_ok() {
            OverlayDialect::Descriptors
        } else if fsconfig_set_string(&context, c"lowerdir+", c"/").is_ok() {
            OverlayDialect::Paths
        } else {
            OverlayDialect::OnePage
        }
    }
}

/// Where an overlay keeps its marks, and looks for those of its layers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Marks {
    /// In `trusted.overlay.*` attributes, which only root of the machine can write.
    Trusted,
    /// In `user.overlay.*` attributes: the way of user namespaces.
    User,
}

impl Marks {
    const ALL: [(Marks, &'static str); 2] = [(Marks::Trusted, "trusted"), (Marks::User, "user")];

    /// For the launcher's command line.
    pub(super) fn word(self) -> &'static str {
        Marks::ALL.iter().find(|(marks, _)| *marks == self).map_or("", |(_, word)| word)
    }

    /// What the launcher's command line means.
    pub(super) fn from_word(word: &str) -> Option<Marks> {
        Marks::ALL.iter().find(|(_, known)| *known == word).map(|(marks, _)| *marks)
    }
}

/// How the layers of one launcher's overlays are handed to the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Overlays {
    pub(super) dialect: OverlayDialect,
    pub(super) marks: Marks,
}

/// The options of every overlay: the upper directory is then exactly the changes, and a redirect that an image planted in a
/// layer is refused instead of followed (`redirect_dir=off` would follow it where that is the kernel's default).
const OVERLAY_OPTIONS: [(&str, &str); 5] =
    [("index", "off"), ("metacopy", "off"), ("xino", "off"), ("redirect_dir", "nofollow"), ("uuid", "null")];

/// Mounts a stack of directories, `lowers` bottom first, detached.
pub(super) fn overlay(
    Overlays { dialect, marks }: Overlays,
    lowers: &[PathBuf],
    writes: Option<(&Path, &Path)>,
    attributes: MountAttrFlags,
) -> Result<OwnedFd, Errno> {
    if dialect == OverlayDialect::OnePage {
        return overlay_in_one_page(marks, lowers, writes, attributes);
    }
    let context = fsopen(c"overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
    let set_directory = |key: &str, path: &Path| match dialect {
        OverlayDialect::Descriptors => fsconfig_set_fd(&context, key, open_tree_place(path)?),
        _ => fsconfig_set_string(&context, key, path),
    };
    fsconfig_set_string(&context, c"source", c"overlay")?;
    for lower in lowers.iter().rev() {
        set_directory("lowerdir+", lower)?;
    }
    for (key, value) in OVERLAY_OPTIONS {
        fsconfig_set_string(&context, key, value)?;
    }
    if marks == Marks::User {
        fsconfig_set_flag(&context, c"userxattr")?;
    }
    if let Some((upper, work)) = writes {
        set_directory("upperdir", upper)?;
        set_directory("workdir", work)?;
        // An interrupted step's changes are thrown away, so nothing needs to reach the disk before the commit does.
        fsconfig_set_flag(&context, c"volatile")?;
    }
    fsconfig_create(&context)?;
    fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)
}

/// The way of kernels before `lowerdir+`: layers are named by descriptor number, which is short and needs no escaping, so about
/// 200 of them fit.
fn overlay_in_one_page(
    marks: Marks,
    lowers: &[PathBuf],
    writes: Option<(&Path, &Path)>,
    attributes: MountAttrFlags,
) -> Result<OwnedFd, Errno> {
    let directories: Vec<OwnedFd> = lowers.iter().rev().map(open_tree_place).collect::<Result<_, _>>()?;
    let name = |fd: &OwnedFd| format!("/proc/self/fd/{}", fd.as_raw_fd());
    let stack: Vec<String> = directories.iter().map(name).collect();
    let mut options = format!("lowerdir={},index=off,metacopy=off,xino=off,redirect_dir=nofollow", stack.join(":"));
    let opened = writes.map(|(upper, work)| Ok::<_, Errno>((open_tree_place(upper)?, open_tree_place(work)?))).transpose()?;
    if let Some((upper, work)) = &opened {
        options.push_str(&format!(",upperdir={},workdir={},volatile", name(upper), name(work)));
    }
    if marks == Marks::User {
        options.push_str(",userxattr");
    }
    // The kernel would cut the text and complain about half a name.
    if options.len() >= rustix::param::page_size() {
        return Err(Errno::TOOBIG);
    }
    let options = CString::new(options).map_err(|_| Errno::INVAL)?;
    // Attached for a moment, where only this namespace sees it, because `mount` knows no detached mounts.
    let place = writes.map(|(upper, _)| upper).or(lowers.first().map(PathBuf::as_path)).ok_or(Errno::INVAL)?;
    mount("overlay", place, "overlay", MountFlags::empty(), &*options)?;
    let tree = clone_tree(&openat(CWD, place, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?, Reach::One);
    unmount(place, UnmountFlags::DETACH)?;
    let tree = tree?;
    sys::mount_setattr(&tree, attributes, Reach::One)?;
    Ok(tree)
}

/// Mounts a file system that needs no device, detached.
pub(super) fn virtual_fs(kind: &str, options: &[(&str, &str)], attributes: MountAttrFlags) -> Result<OwnedFd, Errno> {
    let context = fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_set_string(&context, c"source", kind)?;
    for (key, value) in options {
        fsconfig_set_string(&context, *key, *value)?;
    }
    fsconfig_create(&context)?;
    fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)
}

/// A second, detached mount of what `place` shows.
pub(super) fn clone_tree(place: impl AsFd, reach: Reach) -> Result<OwnedFd, Errno> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
    if reach == Reach::Tree {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    open_tree(place, c"", flags)
}

/// Puts a detached mount on a place; both are descriptors, so nothing is looked up.
pub(super) fn attach(tree: impl AsFd, place: impl AsFd) -> Result<(), Errno> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    move_mount(tree, c"", place, c"", flags)
}

/// Names a place of the host by a path of the builder's own.
pub(super) fn open_tree_place(path: impl AsRef<Path>) -> Result<OwnedFd, Errno> {
    openat(CWD, path.as_ref(), OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
}

/// Names a place inside `tree` by a path that an image or a user gave: links are followed inside, `..` stops at the top, and
/// links that are not text (as in `/proc`) are refused.
pub(super) fn find_inside(tree: impl AsFd, path: &str) -> Result<OwnedFd, Errno> {
    let path = if path.is_empty() { "/" } else { path };
    let inside = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    // The kernel answers EAGAIN when a rename elsewhere made the walk uncertain.
    for _ in 0..64 {
        match openat2(&tree, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), inside) {
            Err(Errno::AGAIN) => continue,
            found => return found,
        }
    }
    Err(Errno::AGAIN)
}

/// Names an entry of a directory, which is not followed if it is a link.
pub(super) fn find_entry(directory: impl AsFd, name: &str) -> Result<OwnedFd, Errno> {
    openat(directory, name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
}

/// The type of what `place` names.
pub(super) fn file_type(place: impl AsFd) -> Result<FileType, Errno> {
    Ok(FileType::from_raw_mode(statat(place, c"", AtFlags::EMPTY_PATH)?.st_mode))
}
