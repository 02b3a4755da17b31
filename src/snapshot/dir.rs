//! An open directory and what can be done to the names in it: every call is relative to the descriptor and follows no link.
//!
//! Names are single components (checked: a name with a slash, `.` and `..` answer `EINVAL`), so nothing can lead out of the
//! directory. [`Dir::open_beneath`] takes a whole [`TreePath`] and lets the kernel refuse links (`openat2`).

use std::fs::File;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{
    AtFlags, CWD, FileType, Gid, Mode, OFlags, RawDir, ResolveFlags, SeekFrom, Stat, Timespec, Timestamps, UTIME_OMIT, Uid,
    XattrFlags,
};

use super::stand_in;
use super::tree::{FileKind, Meta, Time, TreePath, Xattrs};
use super::xattr::{self, Family};

/// An open directory.
#[derive(Debug)]
pub struct Dir {
    fd: OwnedFd,
}

/// Names that one call lists; on the stack, since most directories are small.
const LISTING_BYTES: usize = 16 << 10;

/// What to do with a descriptor of a regular file.
const OPEN_FILE: OFlags = OFlags::NOFOLLOW.union(OFlags::CLOEXEC).union(OFlags::NONBLOCK).union(OFlags::NOCTTY);
const OPEN_DIR: OFlags = OFlags::DIRECTORY.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);
const BENEATH: ResolveFlags = ResolveFlags::BENEATH.union(ResolveFlags::NO_SYMLINKS).union(ResolveFlags::NO_MAGICLINKS);

/// Opening and reading.
impl Dir {
    /// Opens a directory of the host; links in `path` are followed.
    pub fn open(path: &Path) -> io::Result<Dir> {
        let flags = OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Dir { fd: rustix::fs::openat(CWD, path, flags, Mode::empty())? })
    }

    /// Opens a directory in this one.
    pub fn open_dir(&self, name: &[u8]) -> io::Result<Dir> {
        Ok(Dir { fd: rustix::fs::openat(&self.fd, component(name)?, OPEN_DIR, Mode::empty())? })
    }

    /// Opens the directory at `path` below this one; a link anywhere in it is an error (`ELOOP`).
    pub fn open_beneath(&self, path: &TreePath) -> io::Result<Dir> {
        if path.is_root() {
            return self.reopen();
        }
        Ok(Dir { fd: rustix::fs::openat2(&self.fd, path.as_bytes(), OPEN_DIR, Mode::empty(), BENEATH)? })
    }

    /// What is at `path` below this directory; `None` if nothing, or if something before its end is no directory.
    pub fn stat_beneath(&self, path: &TreePath) -> io::Result<Option<Meta>> {
        if path.is_root() {
            return self.meta().map(Some);
        }
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match rustix::fs::openat2(&self.fd, path.as_bytes(), flags, Mode::empty(), BENEATH) {
            Ok(fd) => {
                let meta = meta_of(&rustix::fs::fstat(&fd)?);
                // the name that procfs has for a descriptor is followed, to just this file
                stand_in::seen(meta, |name| xattr::get_followed(&magic(&fd), name)).map(Some)
            }
            Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR | rustix::io::Errno::LOOP) => Ok(None),
            Err(err) => Err(err.into()),
        }
    }

    /// Opens the same directory again: both can be listed independently.
    pub fn reopen(&self) -> io::Result<Dir> {
        Ok(Dir { fd: rustix::fs::openat(&self.fd, c".", OPEN_DIR, Mode::empty())? })
    }

    /// What the directory itself is.
    pub fn meta(&self) -> io::Result<Meta> {
        meta(&self.fd)
    }

    /// What `name` is; `None` if there is nothing.
    pub fn stat(&self, name: &[u8]) -> io::Result<Option<Meta>> {
        match rustix::fs::statat(&self.fd, component(name)?, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stand_in::seen(meta_of(&stat), |note| xattr::get(&self.magic_path(name)?, note)).map(Some),
            Err(rustix::io::Errno::NOENT) => Ok(None),
            Err(err) => Err(err.into()),
        }
    }

    /// The names in the directory, in the file system's order. Listing moves the descriptor's place, so nobody else may use it
    /// meanwhile; [`Dir::reopen`] gives one that can be listed.
    pub fn names(&mut self) -> io::Result<Vec<Vec<u8>>> {
        rustix::fs::seek(&self.fd, SeekFrom::Start(0))?;
        let mut names = Vec::new();
        let mut buffer = [MaybeUninit::uninit(); LISTING_BYTES];
        let mut listing = RawDir::new(&self.fd, &mut buffer);
        while let Some(entry) = listing.next() {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if name != b"." && name != b".." {
                names.push(name.to_vec());
            }
        }
        Ok(names)
    }

    /// The names in the directory and what they are, sorted by bytes.
    pub fn entries(&mut self) -> io::Result<Vec<(Vec<u8>, Meta)>> {
        let mut names = self.names()?;
        names.sort_unstable();
        let mut entries = Vec::with_capacity(names.len());
        for name in names {
            // A name can vanish between listing and asking in a directory that others write to.
            if let Some(meta) = self.stat(&name)? {
                entries.push((name, meta));
            }
        }
        Ok(entries)
    }

    /// The target of a symbolic link.
    pub fn read_link(&self, name: &[u8]) -> io::Result<Vec<u8>> {
        Ok(rustix::fs::readlinkat(&self.fd, component(name)?, Vec::new())?.into_bytes())
    }

    /// Opens a file for reading without waiting for a fifo's other end.
    pub fn open_file(&self, name: &[u8]) -> io::Result<File> {
        Ok(rustix::fs::openat(&self.fd, component(name)?, OPEN_FILE | OFlags::RDONLY, Mode::empty())?.into())
    }

    /// The xattrs of `name` that belong to an image, as [`xattr::Names`] tells them, sorted by name.
    pub fn xattrs(&self, name: &[u8]) -> io::Result<Xattrs> {
        xattr::read(&self.magic_path(name)?)
    }

    /// The directory's own xattrs, as [`Dir::xattrs`].
    pub fn own_xattrs(&self) -> io::Result<Xattrs> {
        xattr::read(&self.magic_self())
    }

    /// Whether overlayfs hides what lower layers have below this directory.
    pub fn is_opaque(&self) -> io::Result<bool> {
        xattr::is_opaque(&self.fd)
    }
}

/// Overlayfs's marks, for [`super::upper`].
impl Dir {
    /// Whether the directory carries the opaque mark of `family`.
    pub(super) fn is_marked_opaque(&self, family: Family) -> io::Result<bool> {
        xattr::is_marked_opaque(&self.fd, family)
    }

    /// Removes the opaque mark of `family`.
    pub(super) fn remove_opaque(&self, family: Family) -> io::Result<()> {
        xattr::remove_opaque(&self.fd, family)
    }

    /// Removes all marks from the directory itself apart from the opaque one of `family`.
    pub(super) fn strip_own_marks(&self, family: Family) -> io::Result<()> {
        xattr::strip_marks(&self.magic_self(), Some(family.opaque()))
    }

    /// Removes all marks from `name`.
    pub(super) fn strip_marks(&self, name: &[u8]) -> io::Result<()> {
        xattr::strip_marks(&self.magic_path(name)?, None)
    }
}

/// Creating and changing. Nothing that exists is replaced (`EEXIST`).
impl Dir {
    /// Creates an empty file for writing; the umask applies to `mode`.
    pub fn create_file(&self, name: &[u8], mode: u32) -> io::Result<File> {
        let flags = OPEN_FILE | OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL;
        Ok(rustix::fs::openat(&self.fd, component(name)?, flags, Mode::from_raw_mode(mode & 0o7777))?.into())
    }

    /// Creates a directory; the umask applies to `mode`.
    pub fn create_dir(&self, name: &[u8], mode: u32) -> io::Result<()> {
        Ok(rustix::fs::mkdirat(&self.fd, component(name)?, Mode::from_raw_mode(mode & 0o7777))?)
    }

    /// Creates a symbolic link.
    pub fn symlink(&self, name: &[u8], target: &[u8]) -> io::Result<()> {
        Ok(rustix::fs::symlinkat(target, &self.fd, component(name)?)?)
    }

    /// Gives the file `old_name` of `old` a second name here; a symbolic link is linked itself.
    pub fn hard_link(&self, name: &[u8], old: &Dir, old_name: &[u8]) -> io::Result<()> {
        Ok(rustix::fs::linkat(&old.fd, component(old_name)?, &self.fd, component(name)?, AtFlags::empty())?)
    }

    /// Creates a fifo or a device, or what stands for a device where nobody may make one (see [`stand_in`]); the umask applies
    /// to `mode`. Other kinds answer `EINVAL`.
    pub fn make_special(&self, name: &[u8], kind: FileKind, mode: u32) -> io::Result<()> {
        let (file_type, device) = match kind {
            FileKind::Fifo => (FileType::Fifo, 0),
            FileKind::Character(major, minor) => (FileType::CharacterDevice, rustix::fs::makedev(major, minor)),
            FileKind::Block(major, minor) => (FileType::BlockDevice, rustix::fs::makedev(major, minor)),
            FileKind::File | FileKind::Directory | FileKind::Symlink | FileKind::Socket => {
                return Err(rustix::io::Errno::INVAL.into());
            }
        };
        let made = rustix::fs::mknodat(&self.fd, component(name)?, file_type, Mode::from_raw_mode(mode & 0o7777), device);
        match made {
            Err(rustix::io::Errno::PERM) if matches!(kind, FileKind::Character(..) | FileKind::Block(..)) => {
                let file = self.create_file(name, mode)?;
                Ok(rustix::fs::fsetxattr(file, stand_in::NAME, &stand_in::value(kind), XattrFlags::empty())?)
            }
            made => Ok(made?),
        }
    }

    /// Creates the mark that deletes `name` of lower layers.
    pub fn whiteout(&self, name: &[u8]) -> io::Result<()> {
        self.make_special(name, WHITEOUT, 0)
    }

    /// Hides what lower layers have below this directory.
    pub fn set_opaque(&self) -> io::Result<()> {
        xattr::set_opaque(&self.fd)
    }

    /// Sets the owner of `name`, a link's own if it is one. Clears setuid bits and file capabilities: call it first.
    pub fn chown(&self, name: &[u8], uid: u32, gid: u32) -> io::Result<()> {
        let (uid, gid) = owner(uid, gid)?;
        if stand_in::owners_are_notes() && (uid.as_raw(), gid.as_raw()) != (0, 0) {
            let note = stand_in::owner_value(uid.as_raw(), gid.as_raw());
            return match rustix::fs::lsetxattr(&self.magic_path(name)?, stand_in::OWNER, &note, XattrFlags::empty()) {
                // neither a file nor a directory: it cannot carry a note
                Err(rustix::io::Errno::PERM) => Ok(()),
                noted => Ok(noted?),
            };
        }
        let done = rustix::fs::chownat(&self.fd, component(name)?, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW);
        done.map_err(|errno| unowned(errno, uid, gid))
    }

    /// Sets the permission bits of `name`, all of `0o7777`; a symbolic link has none (`EOPNOTSUPP`).
    pub fn chmod(&self, name: &[u8], mode: u32) -> io::Result<()> {
        // fchmodat cannot leave links alone, so the name is pinned by a descriptor first.
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let pinned = rustix::fs::openat(&self.fd, component(name)?, flags, Mode::empty())?;
        Ok(rustix::fs::chmodat(CWD, magic(&pinned).as_slice(), Mode::from_raw_mode(mode & 0o7777), AtFlags::empty())?)
    }

    /// Sets the modification time of `name`, a link's own if it is one; the access time stays.
    pub fn set_mtime(&self, name: &[u8], mtime: Time) -> io::Result<()> {
        Ok(rustix::fs::utimensat(&self.fd, component(name)?, &timestamps(mtime), AtFlags::SYMLINK_NOFOLLOW)?)
    }

    /// Sets an xattr of `name`, a link's own if it is one. Overlay names are escaped, see [`xattr`].
    pub fn set_xattr(&self, name: &[u8], key: &[u8], value: &[u8]) -> io::Result<()> {
        xattr::write(&self.magic_path(name)?, key, value)
    }

    /// Sets the directory's own owner; call it before [`Dir::chmod_self`].
    pub fn chown_self(&self, uid: u32, gid: u32) -> io::Result<()> {
        set_owner(&self.fd, uid, gid)
    }

    /// Sets the directory's own permission bits.
    pub fn chmod_self(&self, mode: u32) -> io::Result<()> {
        set_mode(&self.fd, mode)
    }

    /// Sets the directory's own modification time; do it after the last change of a name in it.
    pub fn set_own_mtime(&self, mtime: Time) -> io::Result<()> {
        set_mtime(&self.fd, mtime)
    }

    /// Sets an xattr of the directory itself.
    pub fn set_own_xattr(&self, key: &[u8], value: &[u8]) -> io::Result<()> {
        xattr::write(&self.magic_self(), key, value)
    }

    /// Removes a name that is not a directory.
    pub fn remove_file(&self, name: &[u8]) -> io::Result<()> {
        Ok(rustix::fs::unlinkat(&self.fd, component(name)?, AtFlags::empty())?)
    }

    /// Removes an empty directory.
    pub fn remove_dir(&self, name: &[u8]) -> io::Result<()> {
        Ok(rustix::fs::unlinkat(&self.fd, component(name)?, AtFlags::REMOVEDIR)?)
    }

    /// Removes `name` and all below it; nothing there is fine.
    ///
    /// Keeps a stack of its own instead of recursing: the depth of a tree is not ours to choose.
    pub fn remove_all(&self, name: &[u8]) -> io::Result<()> {
        match self.remove_file(name) {
            Err(err) if err.raw_os_error() == Some(libc::ENOENT) => return Ok(()),
            Err(err) if err.raw_os_error() == Some(libc::EISDIR) => {}
            done => return done,
        }
        let mut stack = vec![Doomed::empty_of_files(name, self.open_dir(name)?)?];
        while let Some(top) = stack.last_mut() {
            if let Some(child) = top.subdirs.pop() {
                let dir = top.dir.open_dir(&child)?;
                stack.push(Doomed::empty_of_files(&child, dir)?);
                continue;
            }
            let done = stack.pop().expect("the loop's condition saw an entry");
            stack.last().map_or(self, |parent| &parent.dir).remove_dir(&done.name)?;
        }
        Ok(())
    }
}

/// A directory on its way out: only the directories in it are left.
struct Doomed {
    name: Vec<u8>,
    dir: Dir,
    subdirs: Vec<Vec<u8>>,
}

impl Doomed {
    fn empty_of_files(name: &[u8], mut dir: Dir) -> io::Result<Doomed> {
        let mut subdirs = Vec::new();
        for child in dir.names()? {
            match dir.remove_file(&child) {
                Err(err) if err.raw_os_error() == Some(libc::EISDIR) => subdirs.push(child),
                done => done?,
            }
        }
        Ok(Doomed { name: name.to_vec(), dir, subdirs })
    }
}

impl AsFd for Dir {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Dir {
    /// A path for the xattr calls, which have no `*at` form before Linux 6.13. Only the directory part is followed.
    fn magic_path(&self, name: &[u8]) -> io::Result<Vec<u8>> {
        let mut path = magic(&self.fd);
        path.push(b'/');
        path.extend_from_slice(component(name)?);
        Ok(path)
    }

    /// The directory itself for the same calls: the dot keeps the `l` calls from asking procfs's own link.
    fn magic_self(&self) -> Vec<u8> {
        let mut path = magic(&self.fd);
        path.extend_from_slice(b"/.");
        path
    }
}

/// What marks a deleted name in a layer tree.
pub const WHITEOUT: FileKind = FileKind::Character(0, 0);

/// Sets the owner of an open file; clears setuid bits and file capabilities, so call it before the others.
pub fn set_owner(file: impl AsFd, uid: u32, gid: u32) -> io::Result<()> {
    let (uid, gid) = owner(uid, gid)?;
    if stand_in::owners_are_notes() && (uid.as_raw(), gid.as_raw()) != (0, 0) {
        let note = stand_in::owner_value(uid.as_raw(), gid.as_raw());
        return Ok(rustix::fs::fsetxattr(file, stand_in::OWNER, &note, XattrFlags::empty())?);
    }
    rustix::fs::fchown(file, Some(uid), Some(gid)).map_err(|errno| unowned(errno, uid, gid))
}

/// What the file system says of a file that was just made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Made {
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// `0o7777`.
    pub mode: u32,
}

/// Owner and permission bits that a new file has of itself; no notes are looked at, since none was made.
pub fn made(file: impl AsFd) -> io::Result<Made> {
    let stat = rustix::fs::fstat(file)?;
    Ok(Made { uid: stat.st_uid, gid: stat.st_gid, mode: stat.st_mode & 0o7777 })
}

/// Sets the permission bits of an open file, all of `0o7777`.
pub fn set_mode(file: impl AsFd, mode: u32) -> io::Result<()> {
    Ok(rustix::fs::fchmod(file, Mode::from_raw_mode(mode & 0o7777))?)
}

/// Sets the modification time of an open file; the access time stays.
pub fn set_mtime(file: impl AsFd, mtime: Time) -> io::Result<()> {
    Ok(rustix::fs::futimens(file, &timestamps(mtime))?)
}

/// Sets an xattr of an open file. Overlay names are escaped, see [`xattr`].
pub fn set_xattr(file: impl AsFd, key: &[u8], value: &[u8]) -> io::Result<()> {
    Ok(rustix::fs::fsetxattr(file, &*xattr::Names::stored(key), value, XattrFlags::empty())?)
}

/// The metadata of an open file.
pub fn meta(file: impl AsFd) -> io::Result<Meta> {
    let file = file.as_fd();
    stand_in::seen(meta_of(&rustix::fs::fstat(file)?), |note| xattr::get_of_open(file, note))
}

/// Refuses what is not one plain component.
fn component(name: &[u8]) -> io::Result<&[u8]> {
    if name.is_empty() || name == b"." || name == b".." || name.contains(&b'/') {
        return Err(rustix::io::Errno::INVAL.into());
    }
    Ok(name)
}

fn magic(fd: &OwnedFd) -> Vec<u8> {
    format!("/proc/self/fd/{}", fd.as_raw_fd()).into_bytes()
}

/// The all-ones id means "leave as it is" to the kernel and cannot be an owner.
fn owner(uid: u32, gid: u32) -> io::Result<(Uid, Gid)> {
    if uid == u32::MAX || gid == u32::MAX {
        return Err(rustix::io::Errno::INVAL.into());
    }
    Ok((Uid::from_raw(uid), Gid::from_raw(gid)))
}

/// A user namespace knows some ids only, and the kernel calls any other an invalid argument.
fn unowned(errno: rustix::io::Errno, uid: Uid, gid: Gid) -> io::Error {
    if errno != rustix::io::Errno::INVAL {
        return errno.into();
    }
    let (uid, gid) = (uid.as_raw(), gid.as_raw());
    let reason = format!(
        "{uid}:{gid} is not among the ids of this user namespace; a longer range in /etc/subuid and /etc/subgid gives more"
    );
    io::Error::new(io::ErrorKind::InvalidInput, reason)
}

fn timestamps(mtime: Time) -> Timestamps {
    Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        last_modification: Timespec { tv_sec: mtime.seconds, tv_nsec: mtime.nanoseconds.into() },
    }
}

/// What a tree keeps of the kernel's answer.
pub fn meta_of(stat: &Stat) -> Meta {
    let device = || (rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev));
    let kind = match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => FileKind::Directory,
        FileType::Symlink => FileKind::Symlink,
        FileType::Fifo => FileKind::Fifo,
        FileType::Socket => FileKind::Socket,
        FileType::CharacterDevice => FileKind::Character(device().0, device().1),
        FileType::BlockDevice => FileKind::Block(device().0, device().1),
        FileType::RegularFile | FileType::Unknown => FileKind::File,
    };
    let size_bytes = match kind {
        FileKind::File | FileKind::Symlink => u64::try_from(stat.st_size).unwrap_or(0),
        _ => 0,
    };
    Meta {
        kind,
        mode: stat.st_mode & 0o7777,
        uid: stat.st_uid,
        gid: stat.st_gid,
        size_bytes,
        mtime: Time { seconds: stat.st_mtime, nanoseconds: u32::try_from(stat.st_mtime_nsec).unwrap_or(0) },
        ctime: Time { seconds: stat.st_ctime, nanoseconds: u32::try_from(stat.st_ctime_nsec).unwrap_or(0) },
        links: stat.st_nlink,
        inode: (stat.st_dev, stat.st_ino),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn temp() -> (tempfile::TempDir, Dir) {
        let temp = tempfile::tempdir().unwrap();
        let dir = Dir::open(temp.path()).unwrap();
        (temp, dir)
    }

    #[test]
    fn names_that_lead_elsewhere_are_refused() {
        let (_temp, dir) = temp();
        for name in [&b""[..], b".", b"..", b"a/b", b"/"] {
            assert_eq!(dir.stat(name).unwrap_err().raw_os_error(), Some(libc::EINVAL), "{name:?}");
            assert_eq!(dir.create_dir(name, 0o755).unwrap_err().raw_os_error(), Some(libc::EINVAL), "{name:?}");
        }
    }

    #[test]
    fn links_are_never_followed() {
        let (_temp, dir) = temp();
        dir.create_dir(b"d", 0o755).unwrap();
        dir.create_file(b"f", 0o644).unwrap();
        dir.symlink(b"to-d", b"d").unwrap();
        dir.symlink(b"to-f", b"f").unwrap();
        assert!(dir.open_dir(b"to-d").is_err());
        assert!(dir.open_file(b"to-f").is_err());
        assert!(dir.create_file(b"to-f", 0o644).is_err());
        assert!(dir.chmod(b"to-f", 0o600).is_err());
        assert_eq!(dir.stat_beneath(&TreePath::clean(b"to-d/x")).unwrap(), None);
        assert_eq!(dir.stat_beneath(&TreePath::clean(b"to-d")).unwrap().unwrap().kind, FileKind::Symlink);
        assert_eq!(dir.stat(b"f").unwrap().unwrap().mode, 0o644);
    }

    #[test]
    fn metadata_reads_back() {
        let (_temp, dir) = temp();
        dir.create_file(b"f", 0o600).unwrap();
        dir.chmod(b"f", 0o6755).unwrap();
        let mtime = Time { seconds: -2, nanoseconds: 5 };
        dir.set_mtime(b"f", mtime).unwrap();
        dir.set_xattr(b"f", b"user.a", b"1").unwrap();
        let meta = dir.stat(b"f").unwrap().unwrap();
        assert_eq!((meta.kind, meta.mode, meta.mtime), (FileKind::File, 0o6755, mtime));
        assert_eq!(dir.xattrs(b"f").unwrap(), [(b"user.a".to_vec(), b"1".to_vec())]);
    }

    #[test]
    fn entries_are_sorted_by_bytes() {
        let (_temp, mut dir) = temp();
        for name in [&b"b"[..], b"a-", b"a", b"\xff", b"B"] {
            dir.create_dir(name, 0o755).unwrap();
        }
        let names: Vec<_> = dir.entries().unwrap().into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, [&b"B"[..], b"a", b"a-", b"b", b"\xff"]);
        assert_eq!(dir.names().unwrap().len(), names.len(), "a second time");
    }

    #[test]
    fn long_listings_are_whole() {
        let (_temp, mut dir) = temp();
        for number in 0..300 {
            dir.symlink(format!("{number:0200}").as_bytes(), b"x").unwrap();
        }
        const { assert!(300 * 200 > LISTING_BYTES) };
        let listed = dir.entries().unwrap();
        assert!(listed.iter().zip(0..).all(|((name, _), number)| *name == format!("{number:0200}").as_bytes()));
        assert_eq!(listed.len(), 300);
    }

    #[test]
    fn remove_all_takes_whole_trees_and_nothing_beside_them() {
        let (temp, mut dir) = temp();
        std::fs::create_dir_all(temp.path().join("a/b/c")).unwrap();
        std::fs::create_dir_all(temp.path().join("a/d")).unwrap();
        std::fs::write(temp.path().join("a/b/f"), "").unwrap();
        std::fs::create_dir(temp.path().join("kept")).unwrap();
        dir.symlink(b"l", b"kept").unwrap();
        dir.remove_all(b"a").unwrap();
        dir.remove_all(b"l").unwrap();
        dir.remove_all(b"never-there").unwrap();
        assert_eq!(dir.names().unwrap(), [b"kept"]);
    }
}
