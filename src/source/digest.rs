//! Digests of what is in a tree: of single files' data and of whole selections.

use std::io::{self, Read};

use rayon::prelude::*;

use crate::digest::{CacheKey, ChainId, ContentDigest, Digest, Hasher};
use crate::snapshot::{FileKind, FileTree, Meta, SnapshotError, TreePath};
use crate::store::Store;

/// Knows the digests of the data of a tree's regular files.
pub trait FileDigests: Sync {
    /// The SHA-256 of the data of each file, in the order asked.
    ///
    /// # Errors
    /// Those of opening and reading the files.
    fn digests(&self, files: &[(&TreePath, &Meta)]) -> Result<Vec<Digest>, SnapshotError>;
}

/// Reads and hashes every file that it is asked for.
pub struct Hashing<'a>(pub &'a dyn FileTree);

impl FileDigests for Hashing<'_> {
    fn digests(&self, files: &[(&TreePath, &Meta)]) -> Result<Vec<Digest>, SnapshotError> {
        match files {
            // not worth waking a thread pool
            [] | [_] => files.iter().map(|(path, _)| hash_file(self.0, path)).collect(),
            _ => files.par_iter().map(|(path, _)| hash_file(self.0, path)).collect(),
        }
    }
}

/// Digests of files in a stack of layers. Layers never change, so what one build hashed the next one finds in the store.
pub struct Remembered<'a> {
    /// The layers as one tree.
    pub tree: &'a dyn FileTree,
    /// Names the layers.
    pub stack: ChainId,
    /// What remembers.
    pub store: &'a Store,
}

impl FileDigests for Remembered<'_> {
    fn digests(&self, files: &[(&TreePath, &Meta)]) -> Result<Vec<Digest>, SnapshotError> {
        if files.is_empty() {
            return Ok(Vec::new());
        }
        // a copy asks for the same files every time, so its whole question is one key
        let mut question = Hasher::new();
        question.field(b"file digests 1");
        question.update(self.stack.0.as_bytes());
        files.iter().for_each(|(path, _)| question.field(path.as_bytes()));
        let key = CacheKey(question.finish());
        // a store that cannot answer costs the hashing, nothing else
        let answer = self.store.memo(&key).ok().flatten().unwrap_or_default();
        let (known, rest) = answer.as_chunks::<32>();
        if known.len() == files.len() && rest.is_empty() {
            return Ok(known.iter().map(|bytes| Digest::from_bytes(*bytes)).collect());
        }
        let digests = Hashing(self.tree).digests(files)?;
        let answer: Vec<u8> = digests.iter().flat_map(|digest| *digest.as_bytes()).collect();
        drop(self.store.set_memo(&key, &answer));
        Ok(digests)
    }
}

/// Reads one file and hashes it.
pub fn hash_file(tree: &dyn FileTree, path: &TreePath) -> Result<Digest, SnapshotError> {
    let mut file = tree.open(path)?;
    hash_reader(&mut file).map_err(|err| SnapshotError::io("read", path, err))
}

/// The digest of all that is left in `reader`.
pub fn hash_reader(reader: &mut dyn Read) -> io::Result<Digest> {
    let mut hasher = Hasher::new();
    let mut buffer = vec![0; 64 * 1024];
    loop {
        match reader.read(&mut buffer) {
            Ok(0) => return Ok(hasher.finish()),
            Ok(count) => hasher.update(&buffer[..count]),
            Err(err) if err.kind() == io::ErrorKind::Interrupted => {}
            Err(err) => return Err(err),
        }
    }
}

/// Names what is at `path` and below: names, kinds, modes, owners, link targets, xattrs and data, never times. Nothing at
/// `path` has a digest too. No link is followed.
///
/// # Errors
/// Those of reading the tree.
pub fn content_digest(tree: &dyn FileTree, digests: &dyn FileDigests, path: &TreePath) -> Result<ContentDigest, SnapshotError> {
    let mut hasher = Hasher::new();
    let Some(meta) = tree.lookup(path)? else {
        return Ok(ContentDigest(hasher.finish()));
    };
    let mut entries = vec![(path.clone(), meta)];
    if meta.kind == FileKind::Directory {
        below(tree, path, &mut entries)?;
    }
    let files = entries.iter().filter(|(_, meta)| meta.kind == FileKind::File);
    let files: Vec<(&TreePath, &Meta)> = files.map(|(path, meta)| (path, meta)).collect();
    let mut data = digests.digests(&files)?.into_iter();
    for (entry, meta) in &entries {
        hasher.field(&entry.as_bytes()[path.as_bytes().len()..]);
        hash_meta(&mut hasher, meta);
        for (name, value) in tree.xattrs(entry)? {
            hasher.field(&name);
            hasher.field(&value);
        }
        match meta.kind {
            FileKind::File => hasher.update(data.next().expect("one digest for each file").as_bytes()),
            FileKind::Symlink => hasher.field(&tree.read_link(entry)?),
            _ => {}
        }
    }
    Ok(ContentDigest(hasher.finish()))
}

/// Adds kind, device number, mode and owner.
pub fn hash_meta(hasher: &mut Hasher, meta: &Meta) {
    let (kind, major, minor) = match meta.kind {
        FileKind::File => (b'f', 0, 0),
        FileKind::Directory => (b'd', 0, 0),
        FileKind::Symlink => (b'l', 0, 0),
        FileKind::Fifo => (b'p', 0, 0),
        FileKind::Socket => (b's', 0, 0),
        FileKind::Character(major, minor) => (b'c', major, minor),
        FileKind::Block(major, minor) => (b'b', major, minor),
    };
    // the kernel shows 0777 for every link; other trees may not
    let mode = if meta.kind == FileKind::Symlink { 0o777 } else { meta.mode };
    hasher.update(&[kind]);
    for number in [major, minor, mode, meta.uid, meta.gid] {
        hasher.update(&number.to_le_bytes());
    }
}

/// Everything below a directory, depth first, names in byte order.
fn below(tree: &dyn FileTree, path: &TreePath, entries: &mut Vec<(TreePath, Meta)>) -> Result<(), SnapshotError> {
    // a stack instead of recursion: the depth of a tree is not ours to choose
    let listed = |path: &TreePath| -> Result<Vec<(TreePath, Meta)>, SnapshotError> {
        Ok(tree.read_dir(path)?.into_iter().rev().map(|(name, meta)| (path.child(&name), meta)).collect())
    };
    let mut todo = listed(path)?;
    while let Some((path, meta)) = todo.pop() {
        if meta.kind == FileKind::Directory {
            todo.extend(listed(&path)?);
        }
        entries.push((path, meta));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::{DirTree, testing::make};

    fn digest(script: &str) -> Option<ContentDigest> {
        let temp = tempfile::tempdir().unwrap();
        if !make(temp.path(), script) {
            return None;
        }
        let tree = DirTree::open(temp.path()).unwrap();
        Some(content_digest(&tree, &Hashing(&tree), &TreePath::clean(b"d")).unwrap())
    }

    #[test]
    fn times_do_not_count() {
        assert_eq!(digest("dir d; file d/f x; time d/f 5"), digest("dir d; file d/f x; time d/f 9; time d 3"));
    }

    #[test]
    fn everything_else_counts() {
        let base = digest("dir d; file d/f x; link d/l a");
        for other in [
            "dir d; file d/f y; link d/l a",
            "dir d; file d/f x; link d/l b",
            "dir d; file d/g x; link d/l a",
            "dir d; file d/f x; link d/l a; mode d/f 600",
            "dir d; file d/f x; link d/l a; own d/f 5",
            "dir d; file d/f x; link d/l a; xattr d/f user.a 1",
            "dir d; file d/f x; link d/l a; dir d/e",
        ] {
            assert!(digest(other).is_none_or(|other| Some(other) != base), "{other}");
        }
    }

    #[test]
    fn layers_are_hashed_once() {
        let temp = tempfile::tempdir().unwrap();
        std::fs::create_dir(temp.path().join("layer")).unwrap();
        assert!(make(&temp.path().join("layer"), "file f x; file g y"));
        let tree = DirTree::open(&temp.path().join("layer")).unwrap();
        let store = Store::open(&temp.path().join("store")).unwrap();
        let files: Vec<(TreePath, Meta)> =
            [&b"f"[..], b"g"].map(|name| (TreePath::clean(name), tree.lookup(&TreePath::clean(name)).unwrap().unwrap())).into();
        let ask = |stack: &[u8], files: &[(&TreePath, &Meta)]| {
            Remembered { tree: &tree, stack: ChainId(Digest::of(stack)), store: &store }.digests(files)
        };
        let files: Vec<(&TreePath, &Meta)> = files.iter().map(|(path, meta)| (path, meta)).collect();
        let digests = ask(b"1", &files).unwrap();
        assert_eq!(digests, [Digest::of(b"x"), Digest::of(b"y")]);
        make(&temp.path().join("layer"), "rm f");
        assert_eq!(ask(b"1", &files).unwrap(), digests);
        assert_eq!(ask(b"2", &files[1..]).unwrap(), digests[1..]);
        assert!(ask(b"2", &files).is_err());
    }
}
