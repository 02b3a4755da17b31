//! Makes the layer tree of a [`Layout`].

use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;

use rayon::prelude::*;

use super::layout::{Data, Layout, Node, NodeContent};
use super::plan::input;
use super::{CopyError, CopyInput, Prepared, archive};
use crate::snapshot::builder::{Content, LayerBuilder, LayerDir};
use crate::snapshot::{DirTree, FileKind, FileTree, SnapshotError, Time, TreePath, dir};

/// Makes the layer in the empty directory `tree`. `inputs` and `parent` are those that `prepared` was made of; what the
/// copy makes on its way gets the time `created`.
///
/// # Errors
/// `Changed` when a source is no longer what it was when the copy was decided; reading and writing.
pub fn run(
    prepared: &Prepared,
    inputs: &[CopyInput<'_>],
    parent: &dyn FileTree,
    tree: &Path,
    created: Time,
) -> Result<(), CopyError> {
    make_layer(&prepared.layout, inputs, parent, tree, created)
}

/// Makes the layer of any layout.
pub(crate) fn make_layer(
    layout: &Layout,
    inputs: &[CopyInput<'_>],
    parent: &dyn FileTree,
    tree: &Path,
    created: Time,
) -> Result<(), CopyError> {
    let builder = LayerBuilder::new(parent, tree, created)?;
    make(layout, inputs, &builder, created)?;
    Ok(builder.finish()?)
}

/// Copies what is in the directory `path` of `tree`, times and all, into the directory `target` of this machine. What
/// `target` itself is like stays; nothing at `path` copies nothing.
pub fn copy_tree(tree: &dyn FileTree, path: &TreePath, target: &Path) -> Result<(), CopyError> {
    let there = DirTree::open(target)?;
    let digests = crate::source::digest::Hashing(tree);
    let inputs = [CopyInput::Tree(super::TreeInput { tree, digests: &digests, hidden: None })];
    let layout = super::plan::whole_directory(tree, path)?;
    let created = there.lookup(&TreePath::root())?.map_or(Time::default(), |meta| meta.mtime);
    let builder = LayerBuilder::new(&there, target, created)?;
    make(&layout, &inputs, &builder, created)?;
    Ok(builder.finish()?)
}

/// At most this many files of one directory are one task.
const FILES_PER_TASK: usize = 256;

fn make(layout: &Layout, inputs: &[CopyInput<'_>], builder: &LayerBuilder<'_>, created: Time) -> Result<(), CopyError> {
    for stage in 0..=layout.archives.len() {
        let of_stage = || layout.nodes.iter().filter(|(_, node)| node.stage == stage && !node.is_left_out);
        let mut by_directory: BTreeMap<TreePath, Vec<(&TreePath, &Node)>> = BTreeMap::new();
        let mut links = Vec::new();
        for (path, node) in of_stage() {
            match &node.content {
                NodeContent::Directory => builder.put_dir(path, node.attributes(created))?,
                NodeContent::File(Data::Tree { linked_to: Some(first), .. }) => links.push((path, first)),
                _ => by_directory.entry(path.parent()).or_default().push((path, node)),
            }
        }
        let tasks: Vec<(&TreePath, &[(&TreePath, &Node)])> = by_directory
            .iter()
            .flat_map(|(directory, files)| files.chunks(FILES_PER_TASK).map(move |files| (directory, files)))
            .collect();
        let carry_out = |(directory, files): &(&TreePath, &[(&TreePath, &Node)])| {
            let directory = builder.dir(directory)?;
            files.iter().try_for_each(|(path, node)| put(&directory, path, node, inputs, created))
        };
        match tasks.as_slice() {
            // not worth waking a thread pool
            [] => {}
            [task] => carry_out(task)?,
            tasks => tasks.par_iter().try_for_each(carry_out)?,
        }
        for (path, first) in links {
            builder.hard_link(path, first)?;
        }
        if let Some(unpacking) = layout.archives.get(stage) {
            archive::unpack(unpacking, inputs, builder, created)?;
        }
    }
    Ok(())
}

fn put(directory: &LayerDir, path: &TreePath, node: &Node, inputs: &[CopyInput<'_>], created: Time) -> Result<(), CopyError> {
    let name = path.file_name().expect("the root is no node");
    let attributes = node.attributes(created);
    let put = |content: Content<'_>| directory.put(name, &attributes, content);
    match &node.content {
        NodeContent::Symlink(target) => put(Content::Symlink(target))?,
        NodeContent::Special(kind) => put(Content::Special(*kind))?,
        NodeContent::File(Data::Inline(text)) => put(Content::Bytes(text.as_bytes()))?,
        NodeContent::File(data) => {
            let file = open(data, inputs)?;
            let written_bytes = put(Content::File(&file))?;
            unchanged(&file, data)?;
            written_bytes
        }
        NodeContent::Directory => unreachable!("directories are made before files"),
    };
    Ok(())
}

/// Opens the bytes of a file that an input has.
pub fn open(data: &Data, inputs: &[CopyInput<'_>]) -> Result<File, CopyError> {
    match (data, data_input(data).map(|number| input(inputs, number))) {
        (Data::Tree { path, .. }, Some(CopyInput::Tree(source))) => Ok(source.tree.open(path)?),
        (_, Some(CopyInput::Download(download))) => {
            let path = &download.path;
            File::open(path).map_err(|source| CopyError::Io { path: path.clone(), source })
        }
        _ => unreachable!("a node's data names an input of its kind"),
    }
}

fn data_input(data: &Data) -> Option<usize> {
    match data {
        Data::Tree { input, .. } | Data::Download { input, .. } => Some(*input),
        Data::Inline(_) => None,
    }
}

/// Checks, after reading, that a file is what it was when the copy was decided: one that is written to meanwhile would put
/// bytes under a key that names others.
pub fn unchanged(file: &File, data: &Data) -> Result<(), CopyError> {
    let Data::Tree { path, meta, .. } = data else { return Ok(()) };
    let now = dir::meta(file).map_err(|err| SnapshotError::io("look at", path, err))?;
    let same = now.kind == FileKind::File && now.size_bytes == meta.size_bytes && now.mtime == meta.mtime;
    if same { Ok(()) } else { Err(CopyError::Changed { path: path.clone() }) }
}
