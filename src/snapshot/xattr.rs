//! Which extended attributes belong to an image, and what overlayfs keeps beside them.
//!
//! Belonging: `user.*`, `trusted.*`, POSIX ACLs and file capabilities. Not: labels of the host's security modules, and
//! overlayfs's own marks. A step that itself sets `trusted.overlay.x` inside an overlay has it stored as
//! `trusted.overlay.overlay.x` (kernel docs, overlayfs, "Nested overlays"): [`Names`] translates both ways.

use std::borrow::Cow;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::XattrFlags;
use rustix::io::Errno;

use super::stand_in;
use super::tree::Xattrs;

/// Translates between names on disk and names as an image has them.
pub struct Names;

/// The two families of overlayfs's marks: the first needs privileges, the second is for mounts with `userxattr`.
const OVERLAY: [&[u8]; 2] = [b"trusted.overlay.", b"user.overlay."];
const ESCAPE: &[u8] = b"overlay.";

impl Names {
    /// The image's name for the xattr stored as `name`; `None` if it is none of the image's.
    pub fn of_image(name: &[u8]) -> Option<Cow<'_, [u8]>> {
        for prefix in OVERLAY {
            if let Some(rest) = name.strip_prefix(prefix) {
                return rest.strip_prefix(ESCAPE).map(|rest| Cow::Owned([prefix, rest].concat()));
            }
        }
        if name == stand_in::NAME || name == stand_in::OWNER {
            return None;
        }
        let belongs = name.starts_with(b"user.")
            || name.starts_with(b"trusted.")
            || name.starts_with(b"system.posix_acl_")
            || name == CAPABILITY;
        belongs.then_some(Cow::Borrowed(name))
    }

    /// How the image's xattr `name` is stored in a layer tree, so that overlayfs does not take it for its own.
    pub fn stored(name: &[u8]) -> Cow<'_, [u8]> {
        for prefix in OVERLAY {
            if let Some(rest) = name.strip_prefix(prefix) {
                return Cow::Owned([prefix, ESCAPE, rest].concat());
            }
        }
        Cow::Borrowed(name)
    }

    /// Whether an image's xattr `name` stands in overlayfs's own families: taken from outside, it is dropped.
    pub fn is_overlay(name: &[u8]) -> bool {
        OVERLAY.iter().any(|prefix| name.starts_with(prefix))
    }
}

/// Which of its two families of marks an overlay uses.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Family {
    /// `trusted.overlay.*`: ordinary mounts.
    Trusted,
    /// `user.overlay.*`: mounts with `userxattr`, as in user namespaces.
    User,
}

impl Family {
    /// The name of the opaque mark.
    pub(super) fn opaque(self) -> &'static [u8] {
        match self {
            Family::Trusted => OPAQUE[0],
            Family::User => OPAQUE[1],
        }
    }
}

/// The xattr of file capabilities.
pub const CAPABILITY: &[u8] = b"security.capability";

/// The image's xattrs of the file at the host path `path` (not followed), sorted by name.
pub(super) fn read(path: &[u8]) -> io::Result<Xattrs> {
    let mut found = Vec::new();
    for stored in list(path)? {
        if let Some(name) = Names::of_image(&stored)
            && let Some(value) = get(path, &stored)?
        {
            found.push((name.into_owned(), value));
        }
    }
    found.sort_unstable();
    Ok(found)
}

/// Sets the image's xattr `name` on the file at the host path `path` (not followed).
pub(super) fn write(path: &[u8], name: &[u8], value: &[u8]) -> io::Result<()> {
    Ok(rustix::fs::lsetxattr(path, &*Names::stored(name), value, XattrFlags::empty())?)
}

/// All stored names, overlayfs's included. A file system without xattrs has none.
pub(super) fn list(path: &[u8]) -> io::Result<Vec<Vec<u8>>> {
    let names = grown(|buffer| rustix::fs::llistxattr(path, buffer))?.unwrap_or_default();
    Ok(names.split(|byte| *byte == 0).filter(|name| !name.is_empty()).map(<[u8]>::to_vec).collect())
}

/// One stored xattr; `None` if it is not there.
pub(super) fn get(path: &[u8], name: &[u8]) -> io::Result<Option<Vec<u8>>> {
    grown(|buffer| rustix::fs::lgetxattr(path, name, buffer))
}

/// The same, of what the links in `path` lead to.
pub(super) fn get_followed(path: &[u8], name: &[u8]) -> io::Result<Option<Vec<u8>>> {
    grown(|buffer| rustix::fs::getxattr(path, name, buffer))
}

/// The same, of an open file.
pub(super) fn get_of_open(file: BorrowedFd<'_>, name: &[u8]) -> io::Result<Option<Vec<u8>>> {
    grown(|buffer| rustix::fs::fgetxattr(file, name, buffer))
}

/// Removes overlayfs's marks of both families from the file at the host path `path` (not followed), apart from `kept`.
/// Escaped names stay: they are the image's.
pub(super) fn strip_marks(path: &[u8], kept: Option<&[u8]>) -> io::Result<()> {
    for name in list(path)? {
        if Names::is_overlay(&name) && Names::of_image(&name).is_none() && Some(name.as_slice()) != kept {
            rustix::fs::lremovexattr(path, &*name)?;
        }
    }
    Ok(())
}

/// Whether the open directory carries overlayfs's opaque mark, of either family.
pub(super) fn is_opaque(dir: impl AsFd) -> io::Result<bool> {
    let dir = dir.as_fd();
    // Most directories have no xattrs at all, so one short listing answers for both families.
    let Some(names) = grown(|buffer| rustix::fs::flistxattr(dir, buffer))? else { return Ok(false) };
    for name in names.split(|byte| *byte == 0).filter(|name| OPAQUE.contains(name)) {
        if is_yes(dir, name)? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Whether the open directory carries the opaque mark of `family`; the other's is the step's own doing.
pub(super) fn is_marked_opaque(dir: impl AsFd, family: Family) -> io::Result<bool> {
    is_yes(dir.as_fd(), family.opaque())
}

/// Removes the opaque mark of `family`.
pub(super) fn remove_opaque(dir: impl AsFd, family: Family) -> io::Result<()> {
    Ok(rustix::fs::fremovexattr(dir, family.opaque())?)
}

fn is_yes(dir: BorrowedFd<'_>, name: &[u8]) -> io::Result<bool> {
    let mut value = [0; 1];
    match rustix::fs::fgetxattr(dir, name, &mut value) {
        Ok(count) => Ok(count == 1 && value == *b"y"),
        Err(Errno::NODATA | Errno::RANGE | Errno::OPNOTSUPP) => Ok(false),
        Err(err) => Err(err.into()),
    }
}

/// Marks the open directory as opaque: the privileged mark, or where that is refused the other.
pub(super) fn set_opaque(dir: impl AsFd) -> io::Result<()> {
    match rustix::fs::fsetxattr(&dir, OPAQUE[0], b"y", XattrFlags::empty()) {
        Err(Errno::PERM | Errno::OPNOTSUPP) => Ok(rustix::fs::fsetxattr(&dir, OPAQUE[1], b"y", XattrFlags::empty())?),
        done => Ok(done?),
    }
}

/// The opaque marks of both families.
pub(super) const OPAQUE: [&[u8]; 2] = [b"trusted.overlay.opaque", b"user.overlay.opaque"];

/// Calls `fill` with buffers that grow until the answer fits; `None` where there is no such xattr or there are none at all.
fn grown(mut fill: impl FnMut(&mut [u8]) -> rustix::io::Result<usize>) -> io::Result<Option<Vec<u8>>> {
    let mut small = [0; 256];
    match fill(&mut small) {
        Ok(count) => return Ok(Some(small[..count].to_vec())),
        Err(Errno::NODATA | Errno::OPNOTSUPP) => return Ok(None),
        Err(Errno::RANGE) => {}
        Err(err) => return Err(err.into()),
    }
    // 64 KiB is the kernel's limit for a value and for a list.
    let mut large = vec![0; 65536];
    match fill(&mut large) {
        Ok(count) => {
            large.truncate(count);
            Ok(Some(large))
        }
        Err(Errno::NODATA) => Ok(None),
        Err(err) => Err(err.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(stored: &str, image: Option<&str>) {
        let found = Names::of_image(stored.as_bytes());
        assert_eq!(found.as_deref(), image.map(str::as_bytes));
        if let Some(image) = image {
            assert_eq!(Names::stored(image.as_bytes()).as_ref(), stored.as_bytes());
        }
    }

    #[test]
    fn names_translate_both_ways() {
        check("user.conf", Some("user.conf"));
        check("trusted.x", Some("trusted.x"));
        check("security.capability", Some("security.capability"));
        check("trusted.overlay.overlay.opaque", Some("trusted.overlay.opaque"));
        check("user.overlay.overlay.overlay.x", Some("user.overlay.overlay.x"));
        check("trusted.overlay.opaque", None);
        check("user.overlay.origin", None);
        check("security.selinux", None);
    }
}
