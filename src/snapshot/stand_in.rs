//! What a user namespace cannot keep, kept as a note on the file.
//!
//! **Devices.** Nobody may make them there, so an empty file with an xattr stands for the node, and is taken for it by
//! whoever reads the tree: layers keep their devices, and come out as root's. A command sees the empty file; it could not open
//! the device anyway. On a file system that keeps nodes 0:0 for itself, as overlayfs does, such a file is a whiteout.
//!
//! **Owners.** A namespace of one id has root's files only. Files and directories carry their owner as an xattr; links cannot
//! carry one and are root's.

use std::io;
use std::sync::OnceLock;

use super::tree::{FileKind, Meta};

/// The xattr that says which device a file stands for; never an image's.
pub(super) const NAME: &[u8] = b"user.croze.device";

/// What [`NAME`] holds for a device: `c MAJOR MINOR` or `b MAJOR MINOR`. Empty for other kinds.
pub(super) fn value(kind: FileKind) -> Vec<u8> {
    match kind {
        FileKind::Character(major, minor) => format!("c {major} {minor}").into_bytes(),
        FileKind::Block(major, minor) => format!("b {major} {minor}").into_bytes(),
        _ => Vec::new(),
    }
}

/// The xattr that says whose a file is; never an image's.
pub(super) const OWNER: &[u8] = b"user.croze.owner";

/// What [`OWNER`] holds: `UID:GID`.
pub(super) fn owner_value(uid: u32, gid: u32) -> Vec<u8> {
    format!("{uid}:{gid}").into_bytes()
}

/// Whether owners are notes: this process is in a user namespace of one id. That is settled before a tree is opened.
pub fn owners_are_notes() -> bool {
    static ANSWER: OnceLock<bool> = OnceLock::new();
    *ANSWER.get_or_init(|| {
        let map = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
        map.lines().count() == 1 && map.split_whitespace().nth(2) == Some("1")
    })
}

/// What `meta` describes, given how to read an xattr of it; few files are asked.
pub(super) fn seen(meta: Meta, read: impl Fn(&[u8]) -> io::Result<Option<Vec<u8>>>) -> io::Result<Meta> {
    // an error: gone meanwhile, or closed to us; then it is no file of a layer tree
    let note = |name| read(name).ok().flatten();
    let mut meta = meta;
    if matches!(meta.kind, FileKind::File | FileKind::Directory)
        && owners_are_notes()
        && let Some((uid, gid)) = note(OWNER).as_deref().and_then(parse_owner)
    {
        (meta.uid, meta.gid) = (uid, gid);
    }
    if meta.kind == FileKind::File
        && meta.size_bytes == 0
        && let Some(kind) = note(NAME).as_deref().and_then(parse)
    {
        meta.kind = kind;
    }
    Ok(meta)
}

fn parse_owner(value: &[u8]) -> Option<(u32, u32)> {
    let (uid, gid) = std::str::from_utf8(value).ok()?.split_once(':')?;
    Some((uid.parse().ok()?, gid.parse().ok()?))
}

fn parse(value: &[u8]) -> Option<FileKind> {
    let mut words = std::str::from_utf8(value).ok()?.split(' ');
    let kind = words.next()?;
    let (major, minor) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
    match kind {
        "c" => Some(FileKind::Character(major, minor)),
        "b" => Some(FileKind::Block(major, minor)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_read_back() {
        for kind in [FileKind::Character(1, 3), FileKind::Block(7, 0)] {
            assert_eq!(parse(&value(kind)), Some(kind));
        }
        assert_eq!(parse(b"c 1"), None);
        assert_eq!(parse(b"x"), None);
        assert_eq!(parse_owner(&owner_value(1, 65534)), Some((1, 65534)));
        assert_eq!(parse_owner(b"1"), None);
    }
}
