//! Assembles what a step sees: its root, `/proc`, `/dev`, `/sys`, the parts of them that are hidden, and the plan's own mounts.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, makedev, mkdirat, mknodat, openat, statat, symlinkat};
use rustix::io::Errno;
use rustix::mount::MountAttrFlags;
use rustix::process::{Gid, Uid};

use super::child::{AtStage, Failure};
use super::error::Stage;
use super::mounts::{self, Overlays, attach, clone_tree, find_entry, find_inside};
use super::plan::{Mount, MountKind, Plan, Root, Security};
use super::rights::Ids;
use super::sys::{self, Reach};

const READ_ONLY: MountAttrFlags = MountAttrFlags::MOUNT_ATTR_RDONLY;
const NO_SUID: MountAttrFlags = MountAttrFlags::MOUNT_ATTR_NOSUID;
const NO_DEV: MountAttrFlags = MountAttrFlags::MOUNT_ATTR_NODEV;
const NO_EXEC: MountAttrFlags = MountAttrFlags::MOUNT_ATTR_NOEXEC;
const INERT: MountAttrFlags = NO_SUID.union(NO_DEV).union(NO_EXEC);

/// Parts of `/proc` and `/sys` that tell about the host; those that this kernel lacks are passed over.
const MASKED_PROC: [&str; 10] =
    ["acpi", "asound", "interrupts", "kcore", "keys", "latency_stats", "sched_debug", "scsi", "timer_list", "timer_stats"];
const MASKED_SYS: [&str; 2] = ["firmware", "devices/virtual/powercap"];
/// Parts of `/proc` that act on the host when written.
const READ_ONLY_PROC: [&str; 5] = ["bus", "fs", "irq", "sys", "sysrq-trigger"];

/// The devices of every step, with their numbers.
const DEVICES: [(&str, u32, u32); 6] =
    [("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0)];
/// Further devices of an insecure step, as BuildKit offers them.
const INSECURE_DEVICES: [(&str, u32, u32); 6] =
    [("kmsg", 1, 11), ("cuse", 10, 203), ("fuse", 10, 229), ("kvm", 10, 232), ("net/tun", 10, 200), ("loop-control", 10, 237)];
const INSECURE_LOOP_DEVICES: u32 = 8;
const DEVICE_LINKS: [(&str, &str); 5] = [
    ("/proc/self/fd", "fd"),
    ("/proc/self/fd/0", "stdin"),
    ("/proc/self/fd/1", "stdout"),
    ("/proc/self/fd/2", "stderr"),
    ("pts/ptmx", "ptmx"),
];

/// Builds the whole tree inside the current, private mount namespace and returns its root, attached.
///
/// Called before the step's command or anything else runs in these namespaces, so nobody can move what is looked up here.
pub(super) fn assemble(plan: &Plan, overlays: Overlays, ids: Ids) -> Result<OwnedFd, Failure<'_>> {
    let root = mount_root(plan, overlays)?;
    // What is mounted here is ours; modes are meant as written.
    let _ = rustix::process::umask(Mode::empty());
    let null = mount_dev(&root, plan, ids)?;
    mount_proc(&root, &null, plan.security)?;
    mount_sys(&root, &null, plan.security)?;
    for mount in &plan.mounts {
        add_mount(&root, mount, overlays)?;
    }
    Ok(root)
}

/// A sandboxed step can make device nodes, as under Docker, but nowhere open them: there is no control group of devices.
fn device_attributes(security: Security) -> MountAttrFlags {
    match security {
        Security::Sandbox => NO_DEV,
        Security::Insecure(_) => MountAttrFlags::empty(),
    }
}

fn mount_root(plan: &Plan, overlays: Overlays) -> Result<OwnedFd, Failure<'_>> {
    let attributes = device_attributes(plan.security);
    let (tree, path): (OwnedFd, &Path) = match &plan.root {
        Root::Overlay { lowers, upper, work } if !lowers.is_empty() => {
            let writes = Some((upper.as_path(), work.as_path()));
            (mounts::overlay(overlays, lowers, writes, attributes).at(Stage::MountOverlay, upper)?, upper)
        }
        Root::Overlay { upper: source, .. } | Root::Bind { source } => {
            let place = mounts::open_tree_place(source).at(Stage::OpenTree, source)?;
            let tree = clone_tree(&place, Reach::One).at(Stage::MountRoot, source)?;
            sys::mount_setattr(&tree, attributes, Reach::One).at(Stage::MountRoot, source)?;
            (tree, source)
        }
    };
    // A root must be attached before `pivot_root` takes it; its own directory is a place that surely exists.
    let place = mounts::open_tree_place(path).at(Stage::OpenTree, path)?;
    attach(&tree, &place).at(Stage::MountRoot, path)?;
    Ok(tree)
}

fn mount_proc<'a>(root: &OwnedFd, null: &OwnedFd, security: Security) -> Result<(), Failure<'a>> {
    let place = system_directory(root, "/proc").at(Stage::FindTarget, "/proc")?;
    let proc = mounts::virtual_fs("proc", &[], INERT).at(Stage::MountSystem, "/proc")?;
    attach(&proc, &place).at(Stage::MountSystem, "/proc")?;
    if security == Security::Sandbox {
        for name in MASKED_PROC {
            hide(&proc, name, null).at(Stage::MaskPath, name)?;
        }
        for name in READ_ONLY_PROC {
            make_read_only(&proc, name).at(Stage::ProtectPath, name)?;
        }
    }
    Ok(())
}

fn mount_sys<'a>(root: &OwnedFd, null: &OwnedFd, security: Security) -> Result<(), Failure<'a>> {
    let place = system_directory(root, "/sys").at(Stage::FindTarget, "/sys")?;
    let access = match security {
        Security::Sandbox => INERT | READ_ONLY,
        Security::Insecure(_) => INERT,
    };
    let sys = match mounts::virtual_fs("sysfs", &[], access) {
        // A user namespace may mount sysfs only together with a network namespace of its own.
        Err(Errno::PERM) => host_sys(access),
        mounted => mounted,
    };
    let sys = sys.at(Stage::MountSystem, "/sys")?;
    attach(&sys, &place).at(Stage::MountSystem, "/sys")?;

    // On a kernel without control groups there is no place for them.
    if let Ok(place) = find_entry(&sys, "fs/cgroup") {
        // Only version 2 can show a namespace's own part in one mount. No limits are set by version 1, so nothing is missed.
        let groups = mounts::virtual_fs("cgroup2", &[], access);
        let groups = groups.or_else(|_| mounts::virtual_fs("tmpfs", &[("mode", "755"), ("size", "0")], access));
        attach(&groups.at(Stage::MountSystem, "/sys/fs/cgroup")?, &place).at(Stage::MountSystem, "/sys/fs/cgroup")?;
    }
    if security == Security::Sandbox {
        for name in MASKED_SYS {
            hide(&sys, name, null).at(Stage::MaskPath, name)?;
        }
    }
    Ok(())
}

fn host_sys(attributes: MountAttrFlags) -> Result<OwnedFd, Errno> {
    let tree = clone_tree(&mounts::open_tree_place("/sys")?, Reach::Tree)?;
    sys::mount_setattr(&tree, attributes, Reach::Tree)?;
    Ok(tree)
}

/// Mounts an own `/dev` and returns its null device, mounted.
///
/// Root of the machine gets nodes of the step's own, as runc makes them: whatever the step does to their modes, owners and
/// times, it does to nothing else. Each is bound to itself without `nodev`, which then holds for the rest of `/dev`.
fn mount_dev<'a>(root: &OwnedFd, plan: &Plan, ids: Ids) -> Result<OwnedFd, Failure<'a>> {
    let place = system_directory(root, "/dev").at(Stage::FindTarget, "/dev")?;
    let dev = mounts::virtual_fs("tmpfs", &[("mode", "755"), ("size", "65536k")], NO_SUID).at(Stage::MountSystem, "/dev")?;
    // before the nodes: kernels before 6.15 clone attached mounts only
    attach(&dev, &place).at(Stage::MountSystem, "/dev")?;

    for (name, major, minor) in DEVICES {
        make_device(&dev, name, major, minor).at(Stage::CreateDevice, name)?;
    }
    if plan.security == Security::Sandbox {
        sys::mount_setattr(&dev, NO_DEV, Reach::One).at(Stage::CreateDevice, "/dev")?;
    }
    for (target, name) in DEVICE_LINKS {
        symlinkat(target, &dev, name).at(Stage::CreateDevice, name)?;
    }
    if mounts::open_tree_place("/proc/kcore").is_ok() {
        symlinkat("/proc/kcore", &dev, "core").at(Stage::CreateDevice, "core")?;
    }
    if plan.security != Security::Sandbox {
        make_insecure_devices(&dev).at(Stage::CreateDevice, "/dev")?;
    }
    let size = plan.shm_size_bytes.to_string();
    let terminals = [("ptmxmode", "0666"), ("mode", "0620"), ("gid", "5")];
    // the group of terminals does not exist where there is one id
    let terminals = if ids == Ids::Many { &terminals[..] } else { &terminals[..2] };
    mount_below(&dev, "pts", "devpts", terminals, NO_SUID | NO_EXEC).at(Stage::MountSystem, "/dev/pts")?;
    mount_below(&dev, "shm", "tmpfs", &[("mode", "1777"), ("size", &size)], INERT).at(Stage::MountSystem, "/dev/shm")?;
    mount_below(&dev, "mqueue", "mqueue", &[], INERT).at(Stage::MountSystem, "/dev/mqueue")?;
    find_entry(&dev, "null").at(Stage::CreateDevice, "null")
}

fn mount_below(dev: &OwnedFd, name: &str, kind: &str, options: &[(&str, &str)], attributes: MountAttrFlags) -> Result<(), Errno> {
    mkdirat(dev, name, Mode::from_raw_mode(0o755))?;
    attach(mounts::virtual_fs(kind, options, attributes)?, find_entry(dev, name)?)
}

/// Makes a device of the step's own. Where that is not allowed, as in user namespaces, the host's is bound.
fn make_device(dev: &OwnedFd, name: &str, major: u32, minor: u32) -> Result<(), Errno> {
    let node = match mknodat(dev, name, FileType::CharacterDevice, Mode::from_raw_mode(0o666), makedev(major, minor)) {
        Ok(()) => clone_tree(find_entry(dev, name)?, Reach::One)?,
        Err(Errno::PERM) => {
            make_file(dev, name)?;
            host_device(name, major, minor)?
        }
        Err(errno) => return Err(errno),
    };
    attach(node, find_entry(dev, name)?)
}

/// A mount of a device of the host's, only if it is the device that it should be.
fn host_device(name: &str, major: u32, minor: u32) -> Result<OwnedFd, Errno> {
    let device = find_entry(mounts::open_tree_place("/dev")?, name)?;
    let stat = statat(&device, c"", AtFlags::EMPTY_PATH)?;
    let genuine = FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice && stat.st_rdev == makedev(major, minor);
    if !genuine {
        return Err(Errno::NODEV);
    }
    let node = clone_tree(device, Reach::One)?;
    if stat.st_uid == 0 {
        // The root of the step would be its owner, too. What is read-only is the node: the device can be written.
        sys::mount_setattr(&node, READ_ONLY, Reach::One)?;
    }
    Ok(node)
}

fn make_insecure_devices(dev: &OwnedFd) -> Result<(), Errno> {
    let node = |name: &str, kind: FileType, major, minor| {
        match mknodat(dev, name, kind, Mode::from_raw_mode(0o600), makedev(major, minor)) {
            // Not for the root of a user namespace: such a step goes without.
            Err(Errno::PERM) => Ok(()),
            made => made,
        }
    };
    mkdirat(dev, "net", Mode::from_raw_mode(0o755))?;
    for (name, major, minor) in INSECURE_DEVICES {
        node(name, FileType::CharacterDevice, major, minor)?;
    }
    for number in 0..INSECURE_LOOP_DEVICES {
        node(&format!("loop{number}"), FileType::BlockDevice, 7, number)?;
    }
    Ok(())
}

/// Covers a file with `/dev/null` or a directory with an empty one; what does not exist needs no cover.
fn hide(tree: &OwnedFd, name: &str, null: &OwnedFd) -> Result<(), Errno> {
    let place = match find_entry(tree, name) {
        Err(Errno::NOENT) => return Ok(()),
        found => found?,
    };
    let cover = match mounts::file_type(&place)? {
        FileType::Directory => mounts::virtual_fs("tmpfs", &[("size", "0"), ("mode", "755")], INERT | READ_ONLY)?,
        _ => {
            let cover = clone_tree(null, Reach::One)?;
            sys::mount_setattr(&cover, READ_ONLY, Reach::One)?;
            cover
        }
    };
    attach(cover, place)
}

fn make_read_only(tree: &OwnedFd, name: &str) -> Result<(), Errno> {
    let place = match find_entry(tree, name) {
        Err(Errno::NOENT) => return Ok(()),
        found => found?,
    };
    let protected = clone_tree(&place, Reach::One)?;
    sys::mount_setattr(&protected, INERT | READ_ONLY, Reach::One)?;
    attach(&protected, &place)
}

/// Finds a directory of the image that a system mount covers; one that the image lacks is made in it, as runc does.
fn system_directory(root: &OwnedFd, path: &str) -> Result<OwnedFd, Errno> {
    match find_inside(root, path) {
        Err(Errno::NOENT) => {
            mkdirat(root, path.trim_start_matches('/'), Mode::from_raw_mode(0o755))?;
            find_inside(root, path)
        }
        found => found,
    }
}

fn add_mount<'a>(root: &OwnedFd, mount: &'a Mount, overlays: Overlays) -> Result<(), Failure<'a>> {
    let tree = mount_source(&mount.kind, &mount.target, overlays)?;
    let place = match find_inside(root, &mount.target) {
        Err(Errno::NOENT) => make_place(root, &mount.target, &tree),
        found => found,
    };
    let place = place.at(Stage::FindTarget, &mount.target)?;
    if is_system_path(root, &place).at(Stage::FindTarget, &mount.target)? {
        return Err(Failure::new(Stage::ForbiddenTarget, Errno::PERM, &mount.target));
    }
    attach(&tree, &place).at(Stage::MountTarget, &mount.target)
}

/// Whether a place is in the step's `/proc` or `/sys`, where masks must stay on top and nothing may imitate the kernel. Asks
/// where the place really is: links may have led there, and a mask is not of the file system that it covers.
fn is_system_path(root: &OwnedFd, place: &OwnedFd) -> Result<bool, Errno> {
    // The host's `/proc`, as the root has not been entered yet.
    let name = |fd: &OwnedFd| rustix::fs::readlink(format!("/proc/self/fd/{}", fd.as_raw_fd()), Vec::new());
    let (root, place) = (name(root)?, name(place)?);
    let inside = place.as_bytes().strip_prefix(root.as_bytes()).ok_or(Errno::XDEV)?;
    Ok([&b"/proc"[..], b"/sys"]
        .iter()
        .any(|system| inside.strip_prefix(*system).is_some_and(|rest| matches!(rest.first(), None | Some(b'/')))))
}

/// Makes the source of a mount as a detached tree.
fn mount_source<'a>(kind: &'a MountKind, target: &'a str, overlays: Overlays) -> Result<OwnedFd, Failure<'a>> {
    match kind {
        MountKind::Bind { source, subpath, writable } => {
            let place = mounts::open_tree_place(source).at(Stage::OpenTree, source)?;
            show_part(place, subpath, *writable)
        }
        MountKind::Overlay { lowers, subpath, writes: None } if lowers.len() == 1 => {
            let place = mounts::open_tree_place(&lowers[0]).at(Stage::OpenTree, &lowers[0])?;
            show_part(place, subpath, false)
        }
        MountKind::Overlay { lowers, subpath, writes } => {
            let attributes = if writes.is_some() { NO_DEV } else { NO_DEV | READ_ONLY };
            let directories = writes.as_ref().map(|writes| (writes.upper.as_path(), writes.work.as_path()));
            let stack = mounts::overlay(overlays, lowers, directories, attributes).at(Stage::MountOverlay, target)?;
            if is_whole(subpath) {
                return Ok(stack);
            }
            // Kernels before 6.15 clone attached mounts only. The host's `/sys` is needed no more, so it may be covered.
            let place = mounts::open_tree_place("/sys").at(Stage::OpenTree, "/sys")?;
            attach(&stack, place).at(Stage::FindSource, subpath)?;
            show_part(stack, subpath, writes.is_some())
        }
        MountKind::File { content, uid, gid, mode } => {
            file_in_memory(content, (*uid, *gid), *mode).at(Stage::MountTarget, target)
        }
        MountKind::Tmpfs { size_bytes, mode } => {
            let (mode, size) = (format!("{mode:o}"), size_bytes.unwrap_or(0).to_string());
            let options = [("mode", mode.as_str()), ("size", size.as_str())];
            let options = if size_bytes.is_some() { &options[..] } else { &options[..1] };
            mounts::virtual_fs("tmpfs", options, NO_SUID | NO_DEV).at(Stage::MountTarget, target)
        }
    }
}

/// The only file of a file system of its own.
fn file_in_memory(content: &[u8], (uid, gid): (u32, u32), mode: u32) -> Result<OwnedFd, Errno> {
    let memory = mounts::virtual_fs("tmpfs", &[("mode", "700")], NO_SUID | NO_DEV)?;
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
    let file = openat(&memory, "file", flags, Mode::from_raw_mode(0o600))?;
    let mut rest = content;
    while !rest.is_empty() {
        let written = rustix::io::write(&file, rest)?;
        rest = &rest[written..];
    }
    match rustix::fs::fchown(&file, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid))) {
        // an id that this user namespace lacks: nobody in the step can be that user
        Err(Errno::INVAL) => {}
        given => given?,
    }
    rustix::fs::fchmod(&file, Mode::from_raw_mode(mode))?;
    // As for parts of overlays: only attached mounts can be cloned everywhere.
    attach(&memory, mounts::open_tree_place("/sys")?)?;
    let tree = clone_tree(find_entry(&memory, "file")?, Reach::One)?;
    sys::mount_setattr(&tree, NO_SUID | NO_DEV | READ_ONLY, Reach::One)?;
    Ok(tree)
}

fn is_whole(subpath: &str) -> bool {
    subpath.is_empty() || subpath == "/"
}

/// A part of a directory. Whoever else writes there may swap links while we look: the result is always inside.
fn show_part(place: OwnedFd, subpath: &str, writable: bool) -> Result<OwnedFd, Failure<'_>> {
    let place = if is_whole(subpath) { place } else { find_inside(&place, subpath).at(Stage::FindSource, subpath)? };
    let tree = clone_tree(&place, Reach::One).at(Stage::FindSource, subpath)?;
    let attributes = if writable { NO_DEV } else { NO_DEV | READ_ONLY };
    sys::mount_setattr(&tree, attributes, Reach::One).at(Stage::FindSource, subpath)?;
    Ok(tree)
}

/// Creates what is missing of a mount point: directories, and at its end a directory or an empty file, like the tree that will
/// cover it. The root has its mount points already, so this is in our own `/dev` or in an earlier mount, whose content is not
/// ours: each name is looked up by itself, and links lead nowhere outside.
fn make_place(root: &OwnedFd, target: &str, tree: &OwnedFd) -> Result<OwnedFd, Errno> {
    let mut path = String::new();
    let mut place = rustix::io::dup(root)?;
    let mut names = target.split('/').filter(|name| !name.is_empty()).peekable();
    while let Some(name) = names.next() {
        path.push('/');
        path.push_str(name);
        let parent = match find_inside(root, &path) {
            Ok(found) => {
                place = found;
                continue;
            }
            Err(Errno::NOENT) if name != "." && name != ".." => place,
            Err(errno) => return Err(errno),
        };
        if names.peek().is_none() && mounts::file_type(tree)? != FileType::Directory {
            make_file(&parent, name)?;
        } else {
            mkdirat(&parent, name, Mode::from_raw_mode(0o755))?;
        }
        place = find_entry(&parent, name)?;
    }
    Ok(place)
}

fn make_file(directory: impl AsFd, name: &str) -> Result<(), Errno> {
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
    openat(directory, name, flags, Mode::from_raw_mode(0o644)).map(drop)
}
