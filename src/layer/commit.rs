//! Making a finished tree a layer, and finding out whether it still is one.

use std::io;
use std::path::PathBuf;

use super::LayerError;
use super::tar::write_tar;
use crate::digest::DiffId;
use crate::store::{LayerRecord, Soundness, Store, StoredLayer};

/// Publishes the layer tree at `tree`, a directory in one of the store's temporary ones, under the digest of its tar.
///
/// The tree is read once: the tar is hashed and thrown away. If the store has the layer already, `tree` is dropped.
///
/// # Errors
/// As [`write_tar`]; `Store` if the tree cannot be moved into place.
pub fn commit(store: &Store, tree: PathBuf) -> Result<StoredLayer, LayerError> {
    let summary = write_tar(&tree, None, &mut io::sink())?;
    let record = LayerRecord { diff_id: summary.diff_id, tar_bytes: summary.tar_bytes, content: summary.content };
    Ok(store.publish_layer(tree, record)?)
}

/// The stored layer `diff_id`, ready for use. One that was written before the machine last started is read through first: if a
/// power cut took a part of it, it is dropped and counts as absent.
///
/// # Errors
/// The store or the tree cannot be read.
pub fn sound(store: &Store, diff_id: &DiffId) -> Result<Option<StoredLayer>, LayerError> {
    let Some(layer) = store.layer(diff_id)? else { return Ok(None) };
    if layer.soundness == Soundness::Sound {
        return Ok(Some(layer));
    }
    // the content rather than the tar: a tree of another builder's layer need not give that builder's tar again
    if write_tar(&layer.tree, None, &mut io::sink())?.content == layer.record.content {
        store.layer_proven(diff_id)?;
        return Ok(Some(StoredLayer { soundness: Soundness::Sound, ..layer }));
    }
    store.drop_layer(diff_id)?;
    Ok(None)
}
