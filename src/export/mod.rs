//! Writes a built image out: into the store, as OCI layout or docker archive, as plain files.
//!
//! Owns: the text of `-o` ([`Output`]), which blobs an output needs, the layouts' files, the checking of a layout
//! ([`validate()`]).
//! In:   [`Built`]: a draft, and its layers by diff_id, whose trees or blobs are in the store.
//! Out:  files, or a stream; equal input gives equal bytes: entries sorted, no times, no owners.
//! Spec: OCI image-spec v1.1, "Image Layout"; the archive that `docker save` writes.
//! Elsewhere: compressing (`layer`), the documents' bytes (`image`).

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use crate::digest::DiffId;
use crate::image::{Descriptor, Image, ImageDraft};
use crate::layer::LayerError;
use crate::reference::ImageRef;
use crate::snapshot::SnapshotError;
use crate::store::{NameOrigin, NameRecord, Store, StoreError};

pub mod annotation;
mod blobs;
mod layout;
pub mod output;
mod sink;
mod tree;
mod validate;

pub use annotation::{Annotation, AnnotationError};
pub use output::{Destination, Output, OutputError, OutputKind};
pub use validate::validate;

/// Why an image could not be written out.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// A file of the destination failed.
    #[error("cannot {action} `{path}`")]
    Io {
        /// What was tried, such as `create`.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The stream that the output goes to failed.
    #[error("cannot write the output to stdout")]
    Stdout(#[source] io::Error),
    /// The destination is a directory where a file is written.
    #[error("`{0}` is a directory; name a file, or write a directory with `type=oci,tar=false`")]
    IsDirectory(PathBuf),
    /// A layer is neither as tree nor as blob in the store.
    #[error("layer {0} of the image is not in the store")]
    NoLayer(DiffId),
    /// A layer could not be read or compressed.
    #[error(transparent)]
    Layer(#[from] LayerError),
    /// The image's files could not be read.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// What [`validate()`] found.
    #[error("`{path}` is no valid OCI layout: {}", problems.join("; "))]
    Invalid {
        /// The layout.
        path: PathBuf,
        /// All that is wrong.
        problems: Vec<String>,
    },
}

impl ExportError {
    fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> ExportError {
        let path = path.to_owned();
        move |source| ExportError::Io { action, path, source }
    }
}

/// A built image, before it is decided how its layers are compressed.
#[derive(Clone, Debug)]
pub struct Built {
    /// Config and history.
    pub draft: ImageDraft,
    /// Bottom layer first; those of the base come first.
    pub layers: Vec<BuiltLayer>,
    /// `SOURCE_DATE_EPOCH`, seconds since 1970.
    pub epoch: Option<i64>,
    /// `-t`.
    pub names: Vec<ImageRef>,
}

/// One layer of a built image.
#[derive(Clone, Debug)]
pub struct BuiltLayer {
    /// Names its tree in the store.
    pub diff_id: DiffId,
    /// Whose it is.
    pub origin: LayerOrigin,
}

/// Whose layer it is.
#[derive(Clone, Debug)]
pub enum LayerOrigin {
    /// The base image's, as its manifest has it. The blob may be in the store; else the tree is.
    Base(Descriptor),
    /// This build's.
    Own {
        /// When it was made, seconds since 1970.
        created_secs: i64,
    },
}

/// What an output gave.
#[derive(Clone, Debug)]
pub struct Exported {
    /// The image as it was written; `None` for plain files.
    pub image: Option<Image>,
    /// Where it went, in words; empty for stdout.
    pub written: String,
}

/// Puts the image into the store: config, manifest with uncompressed layers, names. Nothing is compressed for it.
pub fn to_store(store: &Store, built: &Built, annotations: &[Annotation], now_secs: i64) -> Result<Image, ExportError> {
    let image = blobs::uncompressed(built, store, annotations)?;
    store.write_blob(&image.config)?;
    store.write_blob(&image.manifest)?;
    let record = NameRecord {
        manifest: image.descriptor.digest,
        media_type: image.descriptor.media_type.clone(),
        size_bytes: image.descriptor.size_bytes,
        set_secs: now_secs,
        origin: NameOrigin::Built,
    };
    for name in &built.names {
        store.set_name(name, &record)?;
    }
    Ok(image)
}

/// The image as [`to_store`] would put it there; nothing is written.
pub fn describe(store: &Store, built: &Built) -> Result<Image, ExportError> {
    blobs::uncompressed(built, store, &[])
}

/// Writes one output. `stdout` is where [`Destination::Stdout`] goes. Blocks.
///
/// A file or a layout's index appears when it is complete; a failed export leaves what was there before.
pub fn export(
    store: &Store,
    built: &Built,
    output: &Output,
    now_secs: i64,
    stdout: &mut dyn Write,
) -> Result<Exported, ExportError> {
    let mut built = built.clone();
    built.epoch = output.epoch.or(built.epoch);
    if !output.names.is_empty() {
        built.names.clone_from(&output.names);
    }
    let prepare = || blobs::compressed(&built, store, &output.layers, &output.annotations);
    let names = &built.names;
    match &output.kind {
        OutputKind::Nothing => Ok(Exported { image: None, written: String::new() }),
        OutputKind::Image => {
            let image = to_store(store, &built, &output.annotations, now_secs)?;
            Ok(Exported { image: Some(image), written: String::new() })
        }
        OutputKind::OciArchive(destination) | OutputKind::DockerArchive(destination) => {
            let image = prepare()?;
            let docker = matches!(output.kind, OutputKind::DockerArchive(_));
            let flavour = if docker { layout::Flavour::Docker } else { layout::Flavour::Oci };
            let files = layout::files(store, &image, names, &output.annotations, flavour);
            sink::write(destination, stdout, |out| layout::write_archive(&files, out))?;
            let what = if docker { "docker archive" } else { "OCI archive" };
            Ok(Exported { image: Some(image), written: say(what, destination) })
        }
        OutputKind::OciDirectory(path) => {
            let image = prepare()?;
            let files = layout::files(store, &image, names, &output.annotations, layout::Flavour::Oci);
            layout::write_directory(&files, path)?;
            Ok(Exported { image: Some(image), written: format!("OCI layout in {}", path.display()) })
        }
        OutputKind::Files(path) => {
            tree::write_directory(&tree::view(store, &built)?, built.epoch, path)?;
            Ok(Exported { image: None, written: format!("files in {}", path.display()) })
        }
        OutputKind::FilesArchive(destination) => {
            let view = tree::view(store, &built)?;
            sink::write(destination, stdout, |out| tree::write_archive(&view, built.epoch, out))?;
            Ok(Exported { image: None, written: say("tar of the files", destination) })
        }
    }
}

fn say(what: &str, destination: &Destination) -> String {
    match destination {
        Destination::Stdout => String::new(),
        Destination::File(path) => format!("{what} {}", path.display()),
    }
}
