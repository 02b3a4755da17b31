//! An image of the store with all its layers as blobs, for saving it.

use super::ExportError;
use super::artifact::Artifact;
use super::attestation::{Attestation, is_attestation};
use crate::image::{AssembledLayer, Descriptor, Dialect, Image, ImageConfig, Index, Manifest};
use crate::layer::{self, Compression, LayerError};
use crate::store::{Store, StoreError};

/// The documents of what `root` names. Layers that are trees alone are compressed, which changes the manifest; everything else,
/// the image's ID among it, stays byte by byte.
///
/// Of an index, the images whose documents are there are taken: a pull fetches those of one platform.
///
/// # Errors
/// `NoLayer` for a layer that the store has in no form; `Store` for documents that are gone or damaged.
pub fn stored(store: &Store, root: &Descriptor) -> Result<Artifact, ExportError> {
    if ![Dialect::Oci, Dialect::Docker].map(Dialect::index).contains(&root.media_type.as_str()) {
        let (image, _) = image(store, root)?;
        return Ok(Artifact { root: image.descriptor.clone(), index: None, images: vec![image], attestations: Vec::new() });
    }
    let bytes = store.read_blob(&root.digest)?;
    let index: Index = parse("index", &bytes)?;
    let (mut images, mut attestations, mut entries) = (Vec::new(), Vec::new(), Vec::new());
    let mut same = true;
    for entry in &index.manifests {
        if store.blob_size(&entry.digest)?.is_none() {
            same = false;
        } else if is_attestation(entry) {
            attestations.push(attestation(store, entry)?);
        } else {
            let (image, changed) = image(store, entry)?;
            same &= !changed;
            entries.push(image.descriptor.clone());
            images.push(image);
        }
    }
    if !same {
        // they speak of manifests that are no longer these
        attestations.clear();
        if let [image] = images.as_slice() {
            return Ok(Artifact { root: image.descriptor.clone(), index: None, images, attestations });
        }
        let index = Index { manifests: entries, ..index };
        let bytes = index.to_document();
        let root = Descriptor::of(&root.media_type, &bytes);
        return Ok(Artifact { root, index: Some(bytes), images, attestations });
    }
    Ok(Artifact { root: Descriptor::of(&root.media_type, &bytes), index: Some(bytes), images, attestations })
}

/// The image of a manifest, and whether that is another now.
fn image(store: &Store, entry: &Descriptor) -> Result<(Image, bool), ExportError> {
    let bytes = store.read_blob(&entry.digest)?;
    let mut manifest: Manifest = parse("manifest", &bytes)?;
    let config_bytes = store.read_blob(&manifest.config.digest)?;
    let config: ImageConfig = parse("config", &config_bytes)?;
    let mut changed = false;
    let mut layers = Vec::with_capacity(manifest.layers.len());
    for (descriptor, diff_id) in manifest.layers.iter_mut().zip(&config.rootfs.diff_ids) {
        if store.blob_size(&descriptor.digest)? != Some(descriptor.size_bytes) {
            let packed = layer::compressed(store, diff_id, Compression::Gzip, None).map_err(|error| match error {
                LayerError::Missing { diff_id } => ExportError::NoLayer(diff_id),
                error => error.into(),
            })?;
            let dialect = if entry.media_type == Dialect::Docker.manifest() { Dialect::Docker } else { Dialect::Oci };
            *descriptor = Descriptor {
                annotations: descriptor.annotations.clone(),
                ..Descriptor::new(dialect.layer(crate::image::media_type::LAYER_GZIP), packed.digest, packed.size_bytes)
            };
            changed = true;
        }
        layers.push(AssembledLayer { diff_id: *diff_id, descriptor: descriptor.clone(), created_secs: None });
    }
    let bytes = if changed { manifest.to_bytes() } else { bytes };
    let mut descriptor = Descriptor { annotations: entry.annotations.clone(), ..Descriptor::of(&entry.media_type, &bytes) };
    descriptor.platform = Some(entry.platform.clone().unwrap_or_else(|| config.platform()));
    let image = Image {
        config: config_bytes,
        config_digest: manifest.config.digest,
        manifest: bytes,
        descriptor,
        layers,
        created: config.created,
    };
    Ok((image, changed))
}

fn attestation(store: &Store, entry: &Descriptor) -> Result<Attestation, ExportError> {
    let bytes = store.read_blob(&entry.digest)?;
    let manifest: Manifest = parse("attestation", &bytes)?;
    let config = store.read_blob(&manifest.config.digest)?;
    let statement = |layer: &Descriptor| Ok((layer.digest, store.read_blob(&layer.digest)?));
    let statements = manifest.layers.iter().map(statement).collect::<Result<_, StoreError>>()?;
    Ok(Attestation { descriptor: entry.clone(), config, manifest: bytes, statements })
}

fn parse<T: serde::de::DeserializeOwned>(document: &'static str, bytes: &[u8]) -> Result<T, ExportError> {
    serde_json::from_slice(bytes).map_err(|error| ExportError::Document { document, reason: error.to_string() })
}
