//! Making a finished tree a layer.

use std::io;
use std::path::PathBuf;

use super::LayerError;
use super::tar::write_tar;
use crate::store::{Kept, LayerRecord, Store, StoredLayer};

/// Publishes the layer tree at `tree`, a directory in one of the store's temporary ones, under the digest of its tar.
///
/// The tree is read once: the tar is hashed and thrown away. If the store has the layer already, `tree` is dropped.
///
/// # Errors
/// As [`write_tar`]; `Store` if the tree cannot be moved into place.
pub fn commit(store: &Store, tree: PathBuf) -> Result<StoredLayer, LayerError> {
    let summary = write_tar(&tree, None, &mut io::sink())?;
    let record = LayerRecord { diff_id: summary.diff_id, tar_bytes: summary.tar_bytes, content: summary.content };
    Ok(store.publish_layer(Kept::Tree(tree), record)?)
}
