//! Archives into directories: what `ADD` unpacks and what a context sent as a tar holds.
//!
//! Entries are written as if the destination were the root of a file system: links that are there and links of the archive
//! itself are followed inside it, and nothing can lead out.

use std::io::Read;

use crate::layer::LayerError;
use crate::layer::archive::{Entry, EntryKind, Form, Reader};
use crate::snapshot::builder::{Attributes, Content, LayerBuilder};
use crate::snapshot::{FileKind, FileTree, Last, Meta, SnapshotError, Time, TreePath, Xattrs, resolve};

/// Why an archive could not be unpacked.
#[derive(Debug, thiserror::Error)]
pub enum ExtractError {
    /// It is damaged, or no archive.
    #[error(transparent)]
    Layer(#[from] LayerError),
    /// A file could not be made, or something in the way not be read.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// An entry of a form that BuildKit's `ADD` refuses.
    #[error("entry `{entry}` is {form}, which `ADD` does not unpack: make the archive again, with `--format=posix`")]
    Form {
        /// The entry.
        entry: TreePath,
        /// What it is, in words.
        form: &'static str,
    },
    /// An entry that needs another which is not there.
    #[error("entry `{entry}` needs `{missing}`, which is not there")]
    Dangling {
        /// The entry, or the directory that it is in.
        entry: TreePath,
        /// What it leads to.
        missing: TreePath,
    },
}

/// Where an archive goes.
pub struct Target<'a> {
    /// The tree being made.
    pub builder: &'a LayerBuilder<'a>,
    /// A directory of it.
    pub destination: &'a TreePath,
    /// User and group of everything, in place of those that the archive names.
    pub owner: Option<(u32, u32)>,
    /// The time of directories that the archive does not name.
    pub created: Time,
}

/// The last second that fits into 63 bits of nanoseconds.
const LAST_SECOND: i64 = i64::MAX / 1_000_000_000;

impl Target<'_> {
    /// Unpacks all entries that are left in `reader`.
    ///
    /// # Errors
    /// `Layer` for a damaged archive, what was written so far stays; `Dangling` for an entry below a link that leads nowhere.
    pub fn unpack<R: Read>(&self, reader: &mut Reader<R>) -> Result<(), ExtractError> {
        while let Some(entry) = reader.next_entry()? {
            self.put(&entry, reader)?;
        }
        Ok(())
    }

    fn put(&self, entry: &Entry, data: &mut dyn Read) -> Result<(), ExtractError> {
        // the entry `./` speaks of the destination, which keeps what it is
        let Some(name) = entry.path.file_name() else { return Ok(()) };
        let path = self.make_parent(&entry.path.parent())?.child(name);
        let form = match entry.form {
            Form::Plain => None,
            Form::OldSparse => Some("a sparse file of the old GNU form"),
            Form::Contiguous => Some("a contiguous file"),
        };
        if let Some(form) = form {
            return Err(ExtractError::Form { entry: entry.path.clone(), form });
        }
        let (uid, gid) = self.owner.unwrap_or((entry.uid, entry.gid));
        // times that Go's `time` cannot hold in nanoseconds, and those before 1970, become 1970
        let mtime = if (0..=LAST_SECOND).contains(&entry.mtime.seconds) { entry.mtime } else { Time::default() };
        let attributes = Attributes { mode: entry.mode, uid, gid, mtime, xattrs: entry.xattrs.clone() };
        let content = match &entry.kind {
            EntryKind::Directory => return Ok(self.builder.put_dir(&path, attributes)?),
            EntryKind::HardLink(target) => {
                let existing = self.make_parent(&target.parent())?.child(target.file_name().unwrap_or_default());
                return self.link(&path, &existing, &attributes);
            }
            EntryKind::File => Content::Stream(data),
            EntryKind::Symlink(target) => Content::Symlink(target),
            EntryKind::Fifo => Content::Special(FileKind::Fifo),
            EntryKind::Character(major, minor) => Content::Special(FileKind::Character(*major, *minor)),
            EntryKind::Block(major, minor) => Content::Special(FileKind::Block(*major, *minor)),
        };
        Ok(self.builder.put(&path, &attributes, content)?)
    }

    /// Links to what this layer made; what only the parent has is copied up first, as a file system would. What the entry
    /// says of itself then holds for the file, under all its names.
    fn link(&self, path: &TreePath, existing: &TreePath, attributes: &Attributes) -> Result<(), ExtractError> {
        match self.builder.lookup(existing)? {
            None | Some(Meta { kind: FileKind::Directory, .. }) => {
                Err(ExtractError::Dangling { entry: path.clone(), missing: existing.clone() })
            }
            Some(_) if path == existing => Ok(()),
            Some(_) => {
                self.builder.copy_up(existing)?;
                self.builder.hard_link(path, existing)?;
                Ok(self.builder.describe(path, attributes)?)
            }
        }
    }

    /// Where the directory `path` of the archive is in the tree, made if nothing is there.
    fn make_parent(&self, path: &TreePath) -> Result<TreePath, ExtractError> {
        let inside = Inside { tree: self.builder, root: self.destination };
        let found = resolve(&inside, path, Last::Follow)?;
        // only names that the archive writes are made: a link that leads nowhere stays one
        if found.meta.is_none() && found.asked.iter().any(|(_, meta)| meta.is_some_and(|meta| meta.kind == FileKind::Symlink)) {
            let mut there = path.parent();
            let mut above = resolve(&inside, &there, Last::Follow)?;
            while above.meta.is_none() && !there.is_root() {
                there = there.parent();
                above = resolve(&inside, &there, Last::Follow)?;
            }
            let missing = path.components().nth(there.components().count()).unwrap_or_default();
            if inside.lookup(&above.path.child(missing))?.is_some() {
                return Err(ExtractError::Dangling { entry: path.clone(), missing: found.path });
            }
        }
        // root's, whatever `--chown` says
        let made = Attributes { mode: 0o755, uid: 0, gid: 0, mtime: self.created, xattrs: Xattrs::new() };
        let path = self.destination.join(&found.path);
        self.builder.ensure_dir(&path, &made)?;
        Ok(path)
    }
}

/// A directory of a tree as the root that links are followed in.
struct Inside<'a> {
    tree: &'a dyn FileTree,
    root: &'a TreePath,
}

impl FileTree for Inside<'_> {
    fn lookup(&self, path: &TreePath) -> Result<Option<Meta>, SnapshotError> {
        self.tree.lookup(&self.root.join(path))
    }

    fn read_dir(&self, path: &TreePath) -> Result<Vec<(Vec<u8>, Meta)>, SnapshotError> {
        self.tree.read_dir(&self.root.join(path))
    }

    fn read_link(&self, path: &TreePath) -> Result<Vec<u8>, SnapshotError> {
        self.tree.read_link(&self.root.join(path))
    }

    fn open(&self, path: &TreePath) -> Result<std::fs::File, SnapshotError> {
        self.tree.open(&self.root.join(path))
    }

    fn xattrs(&self, path: &TreePath) -> Result<Xattrs, SnapshotError> {
        self.tree.xattrs(&self.root.join(path))
    }
}
