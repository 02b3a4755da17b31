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
use crate::image::{Descriptor, ImageDraft};
use crate::layer::LayerError;
use crate::reference::ImageRef;
use crate::registry::RegistryError;
use crate::snapshot::{SnapshotError, TreePath};
use crate::store::{NameOrigin, NameRecord, Store, StoreError};

pub mod annotation;
pub mod artifact;
pub mod attestation;
mod blobs;
mod daemon;
pub mod files;
mod flag;
mod layout;
pub mod output;
mod push;
mod sink;
mod stored;
mod tree;
mod validate;

pub use annotation::{Annotation, AnnotationError};
pub use artifact::Artifact;
pub use attestation::{Attestation, Claim, Reach, StepLayers, Subject};
pub use files::{FileOptions, Stale};
pub use flag::OutputError;
pub use output::{Destination, Output, OutputKind};
pub use push::{PushBy, Pushed, Whereabouts, publishable, push};
pub use stored::stored;
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
    /// Two platforms have different files of one name, and they are not to be kept apart.
    #[error("`{path}` is in the images for {} and {}", platforms[0], platforms[1])]
    Clash {
        /// The file.
        path: TreePath,
        /// Whose it is.
        platforms: [String; 2],
    },
    /// Two statements would have one file.
    #[error("two statements about the image would be written to `{name}`")]
    SameStatement {
        /// The file's name.
        name: String,
    },
    /// Nothing runs that images could be loaded into.
    #[error("no Docker and no Podman answers, so there is nothing to load the image into{}", hint(reasons))]
    NoDaemon {
        /// What was tried, and its answer.
        reasons: Vec<String>,
    },
    /// The program that images are loaded by has failed.
    #[error("`{program} load` failed: {reason}")]
    Load {
        /// `docker` or `podman`.
        program: &'static str,
        /// Its last words.
        reason: String,
    },
    /// A document of an image in the store is none.
    #[error("the {document} of the image is malformed: {reason}")]
    Document {
        /// Which.
        document: &'static str,
        /// Why.
        reason: String,
    },
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
    /// The registry failed.
    #[error(transparent)]
    Registry(#[from] Box<RegistryError>),
    /// What [`validate()`] found.
    #[error("`{path}` is no valid OCI layout: {}", problems.join("; "))]
    Invalid {
        /// The layout.
        path: PathBuf,
        /// All that is wrong.
        problems: Vec<String>,
    },
}

fn hint(reasons: &[String]) -> String {
    reasons.iter().map(|reason| format!("; {reason}")).collect()
}

impl From<RegistryError> for ExportError {
    fn from(error: RegistryError) -> ExportError {
        ExportError::Registry(Box::new(error))
    }
}

impl ExportError {
    fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> ExportError {
        let path = path.to_owned();
        move |source| ExportError::Io { action, path, source }
    }
}

/// What a build has made, before it is decided how layers are compressed.
#[derive(Clone, Debug)]
pub struct Built {
    /// One per platform, in the order asked for; at least one.
    pub images: Vec<BuiltImage>,
    /// What a name of it stands for.
    pub form: Form,
    /// `SOURCE_DATE_EPOCH`, seconds since 1970.
    pub epoch: Option<i64>,
    /// `-t`.
    pub names: Vec<ImageRef>,
}

impl Built {
    /// Whether what is written has an index: one was asked for, or something is said of an image.
    fn has_index(&self) -> bool {
        self.form == Form::Index || self.images.len() > 1 || self.images.iter().any(|image| !image.claims.is_empty())
    }
}

/// What a name stands for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Form {
    /// One image's manifest.
    Manifest,
    /// An index of images, be it of one.
    Index,
}

/// The image for one platform.
#[derive(Clone, Debug)]
pub struct BuiltImage {
    /// Config and history.
    pub draft: ImageDraft,
    /// Bottom layer first; those of the base come first.
    pub layers: Vec<BuiltLayer>,
    /// What is said of it; anything said takes an index.
    pub claims: Vec<Claim>,
}

/// One layer of a built image.
#[derive(Clone, Debug)]
pub struct BuiltLayer {
    /// Names its tree in the store.
    pub diff_id: DiffId,
    /// Whose it is.
    pub origin: LayerOrigin,
    /// Its blob, if that is in the registries that the image is pushed to, and the layer not in the store.
    pub delivered: Option<Descriptor>,
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
        /// Bytes of its tar, where nobody asked for the layer, so that it is in a cache elsewhere.
        tar_bytes: Option<u64>,
    },
}

/// What an output gave.
#[derive(Clone, Debug)]
pub struct Exported {
    /// What was written; `None` for plain files.
    pub artifact: Option<Artifact>,
    /// Its root as an index lists it: with a time in archives, and with annotations; `None` for plain files.
    pub listed: Option<Descriptor>,
    /// Where it went, in words; empty for stdout.
    pub written: String,
}

/// Puts what was built into the store: configs, manifests with uncompressed layers, names. Nothing is compressed for it.
pub fn to_store(store: &Store, built: &Built, annotations: &[Annotation], now_secs: i64) -> Result<Artifact, ExportError> {
    let artifact = blobs::uncompressed(built, store, annotations)?;
    for (_, bytes) in artifact.documents() {
        store.write_blob(bytes)?;
    }
    let record = NameRecord {
        manifest: artifact.root.digest,
        media_type: artifact.root.media_type.clone(),
        size_bytes: artifact.root.size_bytes,
        set_secs: now_secs,
        origin: NameOrigin::Built,
    };
    let is_here = built.images.iter().flat_map(|image| &image.layers).all(|layer| layer.delivered.is_none());
    for name in &built.names {
        // what is not whole here is a registry's: the name stands for what is there
        if is_here {
            store.set_name(name, &record)?;
        } else {
            store.remove_name(name)?;
        }
    }
    Ok(artifact)
}

/// The image as [`to_store`] would put it there; nothing is written.
pub fn describe(store: &Store, built: &Built) -> Result<Artifact, ExportError> {
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
    if output.takes == Reach::Everywhere {
        for image in &mut built.images {
            image.claims.retain(|claim| claim.reach == Reach::Everywhere);
        }
    }
    // as buildx has it, `-t` counts more than `name=`
    if built.names.is_empty() {
        built.names.clone_from(&output.names);
    }
    let prepare = || blobs::compressed(&built, store, &output.layers, &output.annotations);
    let names = &built.names;
    match &output.kind {
        OutputKind::Nothing => Ok(Exported { artifact: None, listed: None, written: String::new() }),
        OutputKind::Image => {
            let stored = to_store(store, &built, &output.annotations, now_secs)?;
            // what is pushed is what the caller is told of
            let artifact = if output.push.is_some() { prepare()? } else { stored };
            let listed = Some(layout::listed(&artifact, &output.annotations));
            Ok(Exported { artifact: Some(artifact), listed, written: String::new() })
        }
        OutputKind::OciArchive(destination) | OutputKind::DockerArchive(destination) => {
            let artifact = prepare()?;
            let docker = matches!(output.kind, OutputKind::DockerArchive(_));
            let files = layout::files(store, &artifact, names, &output.annotations);
            sink::write(destination, stdout, |out| layout::write_archive(&files, out))?;
            let what = if docker { "docker archive" } else { "OCI archive" };
            let listed = Some(layout::listed_with_time(&artifact, &output.annotations));
            Ok(Exported { artifact: Some(artifact), listed, written: say(what, destination) })
        }
        OutputKind::OciDirectory(path) => {
            let artifact = prepare()?;
            let files = layout::files(store, &artifact, names, &output.annotations);
            layout::write_directory(&files, path)?;
            let listed = Some(layout::listed_with_time(&artifact, &output.annotations));
            Ok(Exported { artifact: Some(artifact), listed, written: format!("OCI layout in {}", path.display()) })
        }
        OutputKind::Load => {
            let artifact = prepare()?;
            let files = layout::files(store, &artifact, names, &output.annotations);
            let written = daemon::load(|out| layout::write_archive(&files, out))?;
            let listed = Some(layout::listed_with_time(&artifact, &output.annotations));
            Ok(Exported { artifact: Some(artifact), listed, written })
        }
        OutputKind::Files(path) => {
            let parts = files::parts(store, &built, &output.files, now_secs)?;
            tree::write_directories(&parts, built.epoch, path, output.files.stale)?;
            Ok(Exported { artifact: None, listed: None, written: format!("files in {}", path.display()) })
        }
        OutputKind::FilesArchive(destination) => {
            let parts = files::parts(store, &built, &output.files, now_secs)?;
            sink::write(destination, stdout, |out| tree::write_archives(&parts, built.epoch, out))?;
            Ok(Exported { artifact: None, listed: None, written: say("tar of the files", destination) })
        }
    }
}

/// Writes images of the store as one archive, each under its name. `stdout` is where [`Destination::Stdout`] goes.
pub fn save(
    store: &Store,
    artifacts: &[(ImageRef, Artifact)],
    destination: &Destination,
    stdout: &mut dyn Write,
) -> Result<(), ExportError> {
    let mut all: Option<layout::Files> = None;
    for (name, artifact) in artifacts {
        for (_, bytes) in artifact.documents() {
            store.write_blob(bytes)?;
        }
        let files = layout::files(store, artifact, std::slice::from_ref(name), &[]);
        match &mut all {
            Some(all) => all.join(files),
            None => all = Some(files),
        }
    }
    match all {
        Some(files) => sink::write(destination, stdout, |out| layout::write_archive(&files, out)),
        None => Ok(()),
    }
}

fn say(what: &str, destination: &Destination) -> String {
    match destination {
        Destination::Stdout => String::new(),
        Destination::File(path) => format!("{what} {}", path.display()),
    }
}
