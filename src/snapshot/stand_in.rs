//! Device nodes where nobody may make them: in a user namespace.
//!
//! There an empty file with an xattr stands for the node, and is taken for it by whoever reads the tree: layers keep their
//! devices, and come out as root's. A command sees the empty file; it could not open the device anyway.

use std::io;

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

/// What `meta` describes, given how to read [`NAME`] of it: only empty files are asked.
pub(super) fn seen(meta: Meta, read: impl FnOnce() -> io::Result<Option<Vec<u8>>>) -> io::Result<Meta> {
    if meta.kind != FileKind::File || meta.size_bytes != 0 {
        return Ok(meta);
    }
    let kind = match read() {
        Ok(value) => value.as_deref().and_then(parse),
        // gone meanwhile, or closed to us: then it is no file of a layer tree
        Err(_) => None,
    };
    Ok(Meta { kind: kind.unwrap_or(meta.kind), ..meta })
}

fn parse(value: &[u8]) -> Option<FileKind> {
    let mut words = std::str::from_utf8(value).ok()?.split(' ');
    let kind = words.next()?;
    let (major, minor) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
    match kind {
        // 0:0 is a whiteout, which everybody may make
        "c" if (major, minor) != (0, 0) => Some(FileKind::Character(major, minor)),
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
        assert_eq!(parse(b"c 0 0"), None);
        assert_eq!(parse(b"c 1"), None);
        assert_eq!(parse(b"x"), None);
    }
}
