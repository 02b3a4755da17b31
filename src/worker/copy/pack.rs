//! The layer of a [`Layout`] without its files: the entries of its tar, read straight from the sources.

use std::cmp::Ordering;
use std::collections::HashMap;
use std::fs::File;

use super::layout::{Data, Layout, Node, NodeContent};
use super::plan::input;
use super::run::{open, unchanged};
use super::{CopyError, CopyInput, Prepared};
use crate::digest::{DiffId, Digest};
use crate::layer::{self, Content, Contents, Entry, Form, LayerError, What};
use crate::snapshot::{FileKind, Meta, Time, TreePath};
use crate::store::{Store, StoredLayer};

/// Whether [`pack`] can make the layer: its tar must say all that its tree would.
pub fn can_be_packed(prepared: &Prepared) -> bool {
    let Layout { nodes, archives } = &prepared.layout;
    // what an archive holds is known when it is unpacked; devices and marks mean something else in a tree than in a tar
    archives.is_empty()
        && nodes.iter().all(|(path, node)| {
            !matches!(node.content, NodeContent::Special(_)) && !path.file_name().is_some_and(layer::is_reserved)
        })
}

/// As [`run()`](super::run()) and a commit of the tree, but the store keeps the layer as a tar. Data that `former`, an earlier
/// layer, has too is not read again.
///
/// # Errors
/// Those of [`run()`](super::run()); `Layer` if the tar cannot be written.
pub fn pack(
    prepared: &Prepared,
    inputs: &[CopyInput<'_>],
    store: &Store,
    created: Time,
    forms: &[Form],
    former: Option<&DiffId>,
) -> Result<StoredLayer, CopyError> {
    let packing = Packing { inputs, created };
    let entries = packing.entries(&prepared.layout).into_iter().map(Ok);
    layer::pack(store, entries, &packing, forms, former).map_err(|error| match error {
        LayerError::Changed { path } => CopyError::Changed { path },
        LayerError::Snapshot(error) => error.into(),
        error => CopyError::Layer(error),
    })
}

struct Packing<'a> {
    inputs: &'a [CopyInput<'a>],
    created: Time,
}

impl<'a> Packing<'a> {
    /// In the order of a tar. With each regular file come its data.
    fn entries(&self, layout: &'a Layout) -> Vec<(Entry, Option<&'a Data>)> {
        let mut nodes: Vec<(&TreePath, &Node)> = layout.nodes.iter().filter(|(_, node)| !node.is_left_out).collect();
        // nearly sorted already: only names with bytes below `/` stand elsewhere
        nodes.sort_by(|(one, _), (other, _)| in_tar(one, other));
        // links have the metadata of what was copied first, whichever name comes first
        let mut first_names: HashMap<&TreePath, &TreePath> = HashMap::new();
        for (path, node) in &nodes {
            if let NodeContent::File(Data::Tree { meta, linked_to, .. }) = &node.content
                && meta.links > 1
            {
                first_names.entry(linked_to.as_ref().unwrap_or(path)).or_insert(path);
            }
        }
        let entry = |(path, node): (&TreePath, &'a Node)| {
            let (inode, first) = match &node.content {
                NodeContent::File(Data::Tree { meta, linked_to, .. }) if meta.links > 1 => {
                    let copied_first = linked_to.as_ref().unwrap_or(path);
                    (&layout.nodes[copied_first], first_names[copied_first])
                }
                _ => (node, path),
            };
            let meta = self.meta(inode);
            let (what, data) = match &inode.content {
                _ if first != path => (What::HardLink { first: first.clone(), meta }, None),
                NodeContent::Symlink(target) => {
                    (What::Present { meta, xattrs: inode.xattrs.clone(), target: target.clone() }, None)
                }
                NodeContent::File(data) => (present(meta, inode), Some(data)),
                NodeContent::Directory | NodeContent::Special(_) => (present(meta, inode), None),
            };
            (Entry { path: path.clone(), what }, data)
        };
        nodes.into_iter().map(entry).collect()
    }

    /// What the kernel would say of the file.
    fn meta(&self, node: &Node) -> Meta {
        let attributes = node.attributes(self.created);
        let kind = node.kind();
        let size_bytes = match &node.content {
            NodeContent::File(Data::Tree { meta, .. }) => meta.size_bytes,
            NodeContent::File(Data::Inline(text)) => text.len() as u64,
            NodeContent::File(Data::Download { input: number, .. }) => match input(self.inputs, *number) {
                CopyInput::Download(download) => download.size_bytes,
                CopyInput::Tree(_) => unreachable!("the plan gives downloads to downloads"),
            },
            _ => 0,
        };
        // the kernel's word for links
        let mode = if kind == FileKind::Symlink { 0o777 } else { attributes.mode };
        let (uid, gid, mtime) = (attributes.uid, attributes.gid, attributes.mtime);
        Meta { kind, mode, uid, gid, size_bytes, mtime, ctime: Time::default(), links: 1, inode: (0, 0) }
    }
}

fn present(meta: Meta, node: &Node) -> What {
    What::Present { meta, xattrs: node.xattrs.clone(), target: Vec::new() }
}

/// A directory, what is in it, then its next sibling; siblings by the bytes of their names.
fn in_tar(one: &TreePath, other: &TreePath) -> Ordering {
    // no name has a zero byte
    let place = |byte: &u8| if *byte == b'/' { 0 } else { *byte };
    one.as_bytes().iter().map(place).cmp(other.as_bytes().iter().map(place))
}

impl Contents<Option<&Data>> for Packing<'_> {
    fn open(&self, _: &TreePath, data: &Option<&Data>) -> Result<Content, LayerError> {
        let data = data.expect("regular files have data");
        match data {
            Data::Inline(text) => Ok(Content::Bytes(text.as_bytes().to_vec())),
            data => Ok(Content::File(open(data, self.inputs).map_err(into_layer_error)?)),
        }
    }

    fn digest(&self, data: &Option<&Data>) -> Option<Digest> {
        match data.as_ref()? {
            Data::Inline(_) => None,
            Data::Tree { digest, .. } => *digest,
            Data::Download { digest, .. } => Some(*digest),
        }
    }

    fn check(&self, _: &TreePath, data: &Option<&Data>, file: &File) -> Result<(), LayerError> {
        unchanged(file, data.expect("regular files have data")).map_err(into_layer_error)
    }
}

/// Errors on their way through the tar's writer.
fn into_layer_error(error: CopyError) -> LayerError {
    match error {
        CopyError::Changed { path } => LayerError::Changed { path },
        CopyError::Snapshot(error) => LayerError::Snapshot(error),
        CopyError::Io { path, source } => LayerError::Tree {
            action: "read",
            path: TreePath::clean(std::os::unix::ffi::OsStrExt::as_bytes(path.as_os_str())),
            source,
        },
        error => unreachable!("reading a file does not fail with `{error}`"),
    }
}
