//! An image of one layer from the tar of a root file system: how a base image enters the store without a registry.

use std::io::{self, Read};
use std::time::{SystemTime, UNIX_EPOCH};

use super::{BuildError, ErrorKind, disk, report};
use crate::diagnostic::Diagnostic;
use crate::image::{self, AssembledLayer, Descriptor, DraftHistory, ImageConfig, ImageDraft, media_type};
use crate::layer::{self, Compression, LayerError, LayerLimits, archive::Packing};
use crate::reference::{ImageRef, Platform};
use crate::store::{LayerRecord, NameOrigin, NameRecord, Store, StoreError};

/// Unpacks `rootfs` (its name for people, its bytes, plain or compressed), names the image and gives its record.
///
/// The image has no times of its own: importing the same tree again gives the same digest, and steps on top stay cached.
///
/// # Errors
/// `Usage` for what is no tar; `Environment` if the store fails.
pub fn import(
    store: &Store,
    rootfs: (&str, &mut (dyn Read + Send)),
    image_ref: &ImageRef,
    platform: &Platform,
    now: SystemTime,
) -> Result<NameRecord, BuildError> {
    import_image(store, rootfs, image_ref, platform, now).map_err(|error| disk::with_store(error, store.root()))
}

fn import_image(
    store: &Store,
    (called, rootfs): (&str, &mut (dyn Read + Send)),
    image_ref: &ImageRef,
    platform: &Platform,
    now: SystemTime,
) -> Result<NameRecord, BuildError> {
    let layer = import_layer(store, rootfs).map_err(|error| layer_failed(&error, called))?;
    let descriptor = Descriptor::new(media_type::LAYER, layer.diff_id.0, layer.tar_bytes);
    let draft = ImageDraft {
        config: ImageConfig::scratch(platform),
        history: vec![DraftHistory { created_by: "croze import".to_owned(), comment: None, layer: true }],
        ..ImageDraft::default()
    };
    let image = image::assemble(&draft, &[AssembledLayer { diff_id: layer.diff_id, descriptor, created_secs: None }], None);
    let record = NameRecord {
        manifest: image.descriptor.digest,
        media_type: image.descriptor.media_type.clone(),
        size_bytes: image.descriptor.size_bytes,
        set_secs: now.duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs().cast_signed()),
        origin: NameOrigin::Imported,
    };
    let publish = || -> Result<(), StoreError> {
        store.write_blob(&image.config)?;
        store.write_blob(&image.manifest)?;
        store.set_name(image_ref, &record)
    };
    publish().map_err(|error| report::store_error(&error))?;
    Ok(record)
}

/// The layer is committed anew rather than published under the digest of the tar as it came: its tar can then be written
/// again from the tree whenever an output asks for it.
fn import_layer(store: &Store, rootfs: &mut (dyn Read + Send)) -> Result<LayerRecord, LayerError> {
    let damaged = |source| LayerError::Damaged { action: "read it", source };
    let mut start = Vec::new();
    rootfs.take(512).read_to_end(&mut start).map_err(damaged)?;
    let packing = Packing::detect(&start);
    let mut plain = packing.unpacked(io::Cursor::new(start).chain(rootfs)).map_err(damaged)?;
    let temp = store.temp_dir()?;
    let tree = temp.path.join("tree");
    std::fs::create_dir(&tree).map_err(|source| StoreError::Io { action: "create", path: tree.clone(), source })?;
    layer::unpack_into(&tree, &mut plain, Compression::None, None, LayerLimits::NONE)?;
    Ok(layer::commit(store, tree)?.record)
}

/// `called` is what people call the tar.
fn layer_failed(error: &LayerError, called: &str) -> BuildError {
    match error {
        LayerError::Damaged { .. } | LayerError::LinkTarget { .. } => {
            let message = format!("cannot import `{called}`: it is damaged, or no tar");
            let diagnostic = Diagnostic::error_without_place("import", message)
                .because(error)
                .help("import the tar of a root file system, plain or compressed, such as `docker export` writes");
            BuildError { kind: ErrorKind::Usage, diagnostics: vec![diagnostic] }
        }
        LayerError::Store(error) => report::store_error(error),
        error => report::environment_error(error),
    }
}
