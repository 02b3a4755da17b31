//! Which blobs an image's layers become for an output.

use super::annotation::{self, Annotation, Place};
use super::output::{FileTimes, LayerOptions, Scope};
use super::{Artifact, Built, BuiltImage, BuiltLayer, ExportError, LayerOrigin, Output};
use crate::image::{AssembledLayer, Descriptor, Dialect, ImageDraft, assemble, media_type};
use crate::layer::{self, Compression, LayerError};
use crate::store::{Store, Variant};

/// The image as the store keeps it: layers of the build are uncompressed and named by their diff_id, without a blob.
pub(super) fn uncompressed(built: &Built, store: &Store, annotations: &[Annotation]) -> Result<Artifact, ExportError> {
    let options = Output::store().layers;
    let dialect = options.dialect;
    let layer = |layer: &BuiltLayer| match &layer.origin {
        LayerOrigin::Base(descriptor) => Ok(assembled(layer, in_dialect(descriptor, dialect))),
        LayerOrigin::Own { tar_bytes, .. } => {
            let stored = store.layer(&layer.diff_id)?.map(|stored| stored.record.tar_bytes);
            let tar_bytes = stored.or(*tar_bytes).ok_or(ExportError::NoLayer(layer.diff_id))?;
            Ok(assembled(layer, Descriptor::new(media_type::LAYER, layer.diff_id.0, tar_bytes)))
        }
    };
    let image = |image: &BuiltImage| {
        let layers = image.layers.iter().map(layer).collect::<Result<Vec<_>, ExportError>>()?;
        Ok(assemble(&annotated(built, &image.draft, annotations, dialect), &layers, built.epoch))
    };
    let images = built.images.iter().map(image).collect::<Result<_, ExportError>>()?;
    Ok(Artifact::new(images, built, annotations, &options))
}

/// The images with every layer as a blob of the store. Layers of an image are compressed side by side, as many as there are
/// cores; what several images share is compressed once.
pub(super) fn compressed(
    built: &Built,
    store: &Store,
    options: &LayerOptions,
    annotations: &[Annotation],
) -> Result<Artifact, ExportError> {
    let image = |image: &BuiltImage| {
        let layers = layer::each(&image.layers, |layer| blob(layer, store, options, built.epoch))?;
        Ok(assemble(&annotated(built, &image.draft, annotations, options.dialect), &layers, built.epoch))
    };
    let images = built.images.iter().map(image).collect::<Result<_, ExportError>>()?;
    let artifact = Artifact::new(images, built, annotations, options);
    for (_, bytes) in artifact.documents() {
        store.write_blob(bytes)?;
    }
    Ok(artifact)
}

fn blob(layer: &BuiltLayer, store: &Store, options: &LayerOptions, epoch: Option<i64>) -> Result<AssembledLayer, ExportError> {
    if let Some(descriptor) = &layer.delivered {
        return Ok(assembled(layer, in_dialect(descriptor, options.dialect)));
    }
    let wanted_type = options.dialect.layer(options.encoding.compression.layer_type());
    let describe = |variant: Variant| {
        let mut descriptor = Descriptor::new(wanted_type, variant.digest, variant.size_bytes);
        descriptor.annotations = layer::annotations(store, &variant.digest, options.encoding.compression)?;
        Ok(AssembledLayer { diff_id: variant.diff_id, ..assembled(layer, descriptor) })
    };
    let packed = |epoch| layer::compressed(store, &layer.diff_id, options.encoding, epoch).and_then(describe);
    let result = match &layer.origin {
        LayerOrigin::Own { .. } => packed(epoch.filter(|_| options.times == FileTimes::LimitToEpoch)),
        LayerOrigin::Base(descriptor) => {
            let base = assembled(layer, in_dialect(descriptor, options.dialect));
            let there = store.blob_size(&descriptor.digest)? == Some(descriptor.size_bytes);
            let is_another = base.descriptor.media_type != wanted_type
                || options.encoding.level.is_some()
                || options.encoding.compression == Compression::Estargz;
            let wanted = options.scope == Scope::All && is_another;
            match (there, wanted, Compression::of_media_type(&descriptor.media_type)) {
                (true, true, Some(compression)) => {
                    let source = (&descriptor.digest, compression);
                    layer::converted(store, &layer.diff_id, source, options.encoding).and_then(describe)
                }
                (true, ..) => Ok(base),
                (false, ..) => packed(None),
            }
        }
    };
    result.map_err(|error| match error {
        LayerError::Missing { diff_id } => ExportError::NoLayer(diff_id),
        error => error.into(),
    })
}

fn assembled(layer: &BuiltLayer, descriptor: Descriptor) -> AssembledLayer {
    let created_secs = match layer.origin {
        LayerOrigin::Base(_) => None,
        LayerOrigin::Own { created_secs, .. } => Some(created_secs),
    };
    AssembledLayer { diff_id: layer.diff_id, descriptor, created_secs }
}

/// The draft of an image of `built` with its annotations. As with BuildKit, those for a platform are for images in an index.
fn annotated(built: &Built, draft: &ImageDraft, annotations: &[Annotation], dialect: Dialect) -> ImageDraft {
    let mut draft = draft.clone();
    draft.dialect = dialect;
    let platform = built.has_index().then(|| draft.config.platform());
    draft.annotations.extend(annotation::select(annotations, Place::Manifest, platform.as_ref()));
    draft
}

/// A base's layer under the dialect's name for its type: one manifest does not mix both families.
fn in_dialect(descriptor: &Descriptor, dialect: Dialect) -> Descriptor {
    let media_type = dialect.layer(&descriptor.media_type).to_owned();
    Descriptor { media_type, platform: None, ..descriptor.clone() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn docker_s_types_become_oci_s() {
        let descriptor = Descriptor::new("application/vnd.docker.image.rootfs.diff.tar.gzip", crate::digest::Digest::of(b""), 0);
        assert_eq!(in_dialect(&descriptor, Dialect::Oci).media_type, media_type::LAYER_GZIP);
    }
}
