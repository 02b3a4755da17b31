//! `ADD` of archives: finds out what is one, and has it unpacked into the new layer.

use super::layout::{Data, Unpacking};
use super::{CopyError, CopyInput, run};
use crate::digest::{Digest, Hasher};
use crate::layer::archive;
use crate::snapshot::builder::LayerBuilder;
use crate::snapshot::{FileKind, FileTree, SnapshotError, Time, TreePath};
use crate::source::digest::hash_meta;
use crate::source::extract::{ExtractError, Target};

/// Whether the bytes are a tar with at least one entry, plain or compressed.
pub fn is_archive(data: &Data, inputs: &[CopyInput<'_>]) -> Result<bool, CopyError> {
    let file = run::open(data, inputs)?;
    Ok(archive::open(file).map_err(|err| failed(data, err.into()))?.is_some())
}

/// Unpacks one archive into its destination.
///
/// # Errors
/// `Archive` for one that is damaged behind its first entry, or holds an entry below a link that leads nowhere.
pub fn unpack(
    unpacking: &Unpacking,
    inputs: &[CopyInput<'_>],
    builder: &LayerBuilder<'_>,
    created: Time,
) -> Result<(), CopyError> {
    let Unpacking { data, destination, owner, .. } = unpacking;
    let file = run::open(data, inputs)?;
    let again = run::open(data, inputs)?;
    if let Some(mut reader) = archive::open(file).map_err(|err| failed(data, err.into()))? {
        let target = Target { builder, destination, owner: owner.map(|owner| (owner.uid, owner.gid)), created };
        target.unpack(&mut reader).map_err(|err| failed(data, err))?;
    }
    run::unchanged(&again, data)
}

fn failed(data: &Data, source: ExtractError) -> CopyError {
    let archive = match data {
        Data::Tree { path, .. } => path.clone(),
        Data::Inline(_) | Data::Download { .. } => TreePath::clean(b"the download"),
    };
    CopyError::Archive { archive, source }
}

/// The directories and links below `path`: all that the entries of an archive can meet on their way.
pub fn surroundings(tree: &dyn FileTree, path: &TreePath) -> Result<Digest, SnapshotError> {
    let mut hasher = Hasher::new();
    let mut todo = match tree.lookup(path)? {
        Some(meta) if meta.kind == FileKind::Directory => vec![path.clone()],
        _ => Vec::new(),
    };
    while let Some(directory) = todo.pop() {
        for (name, meta) in tree.read_dir(&directory)? {
            let path = directory.child(&name);
            match meta.kind {
                FileKind::Directory => todo.push(path.clone()),
                FileKind::Symlink => hasher.field(&tree.read_link(&path)?),
                _ => continue,
            }
            hasher.field(path.as_bytes());
            hash_meta(&mut hasher, &meta);
        }
    }
    Ok(hasher.finish())
}
