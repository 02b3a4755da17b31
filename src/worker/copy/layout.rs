//! What a copy's layer will hold: plain data that names the result before anything is written.

use std::collections::BTreeMap;

use crate::cache::FileStates;
use crate::digest::{Digest, Hasher};
use crate::snapshot::builder::Attributes;
use crate::snapshot::{FileKind, FileTree, Meta, SnapshotError, Time, TreePath, Xattrs};

use super::owner::Owner;

/// The names of a layer, and archives that are unpacked between them.
#[derive(Default)]
pub struct Layout {
    /// By path; every parent of a node is a node, the root apart.
    pub nodes: BTreeMap<TreePath, Node>,
    /// Archive number `n` is unpacked after the nodes of stage `n` and before those of the next.
    pub archives: Vec<Unpacking>,
}

/// One name of the layer.
#[derive(Clone)]
pub struct Node {
    /// What it is.
    pub content: NodeContent,
    /// `0o7777` bits.
    pub mode: u32,
    /// Who owns it.
    pub owner: Owner,
    /// When it was changed.
    pub mtime: Mtime,
    /// Extended attributes.
    pub xattrs: Xattrs,
    /// How many archives are unpacked before it is made.
    pub stage: usize,
    /// Whether the parent has nothing at this path, and so nothing below it.
    pub fresh: bool,
    /// Whether the parent has it just so, and the layer does not need it.
    pub is_left_out: bool,
}

/// The time of a node.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mtime {
    /// That of what it was copied from.
    Kept(Time),
    /// When the layer is made.
    Created,
}

/// What a node is.
#[derive(Clone)]
pub enum NodeContent {
    /// A directory.
    Directory,
    /// A regular file.
    File(Data),
    /// A symbolic link and its target.
    Symlink(Vec<u8>),
    /// A fifo or device.
    Special(FileKind),
}

impl NodeContent {
    /// Where the bytes of a regular file come from.
    pub fn data(&self) -> Option<&Data> {
        match self {
            NodeContent::File(data) => Some(data),
            _ => None,
        }
    }

    /// The same, to complete it.
    pub fn data_mut(&mut self) -> Option<&mut Data> {
        match self {
            NodeContent::File(data) => Some(data),
            _ => None,
        }
    }
}

/// Where the bytes of a file come from.
#[derive(Clone)]
pub enum Data {
    /// A file of an input's tree.
    Tree {
        /// Number of the input.
        input: usize,
        /// Where in its tree.
        path: TreePath,
        /// As it was when the copy was decided.
        meta: Meta,
        /// Digest of its bytes; known when planning is over.
        digest: Option<Digest>,
        /// Another node that was made from the same inode by the same source.
        linked_to: Option<TreePath>,
    },
    /// A file written in the Dockerfile.
    Inline(String),
    /// The file of a download.
    Download {
        /// Number of the input.
        input: usize,
        /// Digest of its bytes.
        digest: Digest,
    },
}

/// An archive to unpack.
pub struct Unpacking {
    /// The archive.
    pub data: Data,
    /// The directory, a node, that it goes into.
    pub destination: TreePath,
    /// Who owns all of it, in place of those that the archive names.
    pub owner: Option<Owner>,
    /// What the entries may meet there; decides the result together with the archive.
    pub surroundings: Digest,
}

impl Layout {
    /// How many nodes are made.
    pub fn len(&self) -> usize {
        self.nodes.values().filter(|node| !node.is_left_out).count()
    }

    /// Names everything that decides the layer, times apart.
    pub fn key(&self) -> Digest {
        let mut hasher = Hasher::new();
        hasher.field(b"copy layout 1");
        for (path, node) in self.nodes.iter().filter(|(_, node)| !node.is_left_out) {
            hasher.field(path.as_bytes());
            node.hash(&mut hasher);
        }
        for archive in &self.archives {
            hasher.field(b"archive");
            hasher.field(archive.destination.as_bytes());
            archive.data.hash(&mut hasher);
            hash_owner(&mut hasher, archive.owner);
            hasher.update(archive.surroundings.as_bytes());
        }
        hasher.finish()
    }
}

impl Layout {
    /// The states of all files, by the path that people know them by. Directories are left out: few people mean them.
    pub fn states(&self) -> FileStates {
        let of_nodes = self.nodes.iter().filter_map(|(path, node)| match &node.content {
            NodeContent::Directory => None,
            NodeContent::File(Data::Tree { path, .. }) => Some((path.as_bytes(), node.state())),
            _ => Some((path.as_bytes(), node.state())),
        });
        let of_archives = self.archives.iter().filter_map(|archive| match &archive.data {
            Data::Tree { path, digest, .. } => Some((path.as_bytes(), start_of(digest.as_ref()?))),
            Data::Inline(_) | Data::Download { .. } => None,
        });
        FileStates::collect(of_nodes.chain(of_archives))
    }
}

/// Enough of a digest to tell two states of a file apart.
fn start_of(digest: &Digest) -> u64 {
    let (start, _) = digest.as_bytes().split_first_chunk::<8>().expect("digests have 32 bytes");
    u64::from_le_bytes(*start)
}

impl Node {
    /// What the builder gives to it.
    pub fn attributes(&self, created: Time) -> Attributes {
        let mtime = match self.mtime {
            Mtime::Kept(time) => time,
            Mtime::Created => created,
        };
        Attributes { mode: self.mode, uid: self.owner.uid, gid: self.owner.gid, mtime, xattrs: self.xattrs.clone() }
    }

    /// The kind of file that it becomes.
    pub fn kind(&self) -> FileKind {
        match &self.content {
            NodeContent::Directory => FileKind::Directory,
            NodeContent::File(_) => FileKind::File,
            NodeContent::Symlink(_) => FileKind::Symlink,
            NodeContent::Special(kind) => *kind,
        }
    }

    /// What tells one state of it from another.
    fn state(&self) -> u64 {
        // nearly all files are such, and for them the digest of a few numbers would cost more than all else
        if let NodeContent::File(Data::Tree { digest: Some(digest), linked_to: None, .. }) = &self.content
            && self.xattrs.is_empty()
        {
            let Owner { uid, gid } = self.owner;
            let mixed = |state: u64, number: u32| (state ^ u64::from(number)).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(23);
            return [self.mode, self.stage as u32, uid, gid].into_iter().fold(start_of(digest), mixed);
        }
        let mut hasher = Hasher::new();
        self.hash(&mut hasher);
        start_of(&hasher.finish())
    }

    fn hash(&self, hasher: &mut Hasher) {
        for number in [self.mode, self.stage as u32, self.xattrs.len() as u32] {
            hasher.update(&number.to_le_bytes());
        }
        hash_owner(hasher, Some(self.owner));
        for (name, value) in &self.xattrs {
            hasher.field(name);
            hasher.field(value);
        }
        match &self.content {
            NodeContent::Directory => hasher.field(b"directory"),
            NodeContent::File(data) => data.hash(hasher),
            NodeContent::Symlink(target) => {
                hasher.field(b"symlink");
                hasher.field(target);
            }
            NodeContent::Special(kind) => hasher.field(format!("{kind:?}").as_bytes()),
        }
    }
}

impl Data {
    fn hash(&self, hasher: &mut Hasher) {
        let (digest, linked_to) = match self {
            Data::Tree { digest, linked_to, .. } => {
                (digest.expect("planning ends with all digests filled in"), linked_to.as_ref())
            }
            Data::Inline(text) => (Digest::of(text.as_bytes()), None),
            Data::Download { digest, .. } => (*digest, None),
        };
        hasher.field(b"file");
        hasher.update(digest.as_bytes());
        hasher.field(linked_to.map_or(b"", TreePath::as_bytes));
    }
}

fn hash_owner(hasher: &mut Hasher, owner: Option<Owner>) {
    let fields = owner.map_or([0, 0, 0], |Owner { uid, gid }| [1, uid, gid]);
    fields.iter().for_each(|field| hasher.update(&field.to_le_bytes()));
}

/// The nodes over the parent: what a later source of the same copy meets.
pub struct Merged<'a> {
    /// Planned so far.
    pub nodes: &'a BTreeMap<TreePath, Node>,
    /// The tree copied into.
    pub parent: &'a dyn FileTree,
}

impl FileTree for Merged<'_> {
    fn lookup(&self, path: &TreePath) -> Result<Option<Meta>, SnapshotError> {
        match self.nodes.get(path) {
            Some(node) => Ok(Some(Meta {
                kind: node.kind(),
                mode: node.mode,
                uid: node.owner.uid,
                gid: node.owner.gid,
                size_bytes: 0,
                mtime: Time::default(),
                ctime: Time::default(),
                links: 1,
                inode: (0, 0),
            })),
            None if self.nodes.get(&path.parent()).is_some_and(|parent| parent.fresh) => Ok(None),
            None => self.parent.lookup(path),
        }
    }

    fn read_dir(&self, path: &TreePath) -> Result<Vec<(Vec<u8>, Meta)>, SnapshotError> {
        self.parent.read_dir(path)
    }

    fn read_link(&self, path: &TreePath) -> Result<Vec<u8>, SnapshotError> {
        match self.nodes.get(path).map(|node| &node.content) {
            Some(NodeContent::Symlink(target)) => Ok(target.clone()),
            _ => self.parent.read_link(path),
        }
    }

    fn open(&self, path: &TreePath) -> Result<std::fs::File, SnapshotError> {
        self.parent.open(path)
    }

    fn xattrs(&self, path: &TreePath) -> Result<Xattrs, SnapshotError> {
        match self.nodes.get(path) {
            Some(node) => Ok(node.xattrs.clone()),
            None => self.parent.xattrs(path),
        }
    }
}
