//! `-o`: what is written where.

use std::path::PathBuf;

use super::annotation::Annotation;
use super::attestation::{AttestationForm, Reach};
use super::files::FileOptions;
use super::push::PushBy;
use crate::image::Dialect;
use crate::layer::{self, Compression, Encoding};
use crate::reference::ImageRef;

/// One thing to write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    /// What.
    pub kind: OutputKind,
    /// `name=`: the image's names where `-t` gives none.
    pub names: Vec<ImageRef>,
    /// The same as they were written.
    pub names_as_written: Vec<String>,
    /// How layers are compressed.
    pub layers: LayerOptions,
    /// Times later than this (seconds since 1970) become it; replaces the build's `SOURCE_DATE_EPOCH`.
    pub epoch: Option<i64>,
    /// Words for manifest, index and descriptors.
    pub annotations: Vec<Annotation>,
    /// Whether the image in the store is pushed to the registries of its names.
    pub push: Option<Push>,
    /// How plain files are written.
    pub files: FileOptions,
    /// `attestation-inline=`: whether this takes statements that are for images in a registry.
    pub takes: Reach,
}

/// `push=`, and what goes with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Push {
    /// `push-by-digest=`.
    pub by: PushBy,
    /// `registry.insecure=`: take any certificate, or plain http.
    pub insecure: bool,
}

/// What is written, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OutputKind {
    /// The image, into the store.
    Image,
    /// An OCI layout as one tar.
    OciArchive(Destination),
    /// An OCI layout as a directory.
    OciDirectory(PathBuf),
    /// A tar for `docker load` that is an OCI layout too.
    DockerArchive(Destination),
    /// The image, into a Docker or Podman that runs here.
    Load,
    /// The files of the image into a directory.
    Files(PathBuf),
    /// The files of the image as one tar.
    FilesArchive(Destination),
    /// Nothing.
    Nothing,
}

/// Where one stream of bytes goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Destination {
    /// `-`.
    Stdout,
    /// A file, replaced when complete.
    File(PathBuf),
}

impl Output {
    /// How this output wants the layers that a build makes; `None` if it takes no blobs. `epoch` is the build's own.
    pub fn form(&self, epoch: Option<i64>) -> Option<layer::Form> {
        let LayerOptions { encoding, times, .. } = self.layers;
        let epoch = self.epoch.or(epoch).filter(|_| times == FileTimes::LimitToEpoch);
        let takes_blobs = match self.kind {
            OutputKind::OciArchive(_) | OutputKind::OciDirectory(_) | OutputKind::DockerArchive(_) | OutputKind::Load => true,
            OutputKind::Image => self.push.is_some(),
            OutputKind::Files(_) | OutputKind::FilesArchive(_) | OutputKind::Nothing => false,
        };
        takes_blobs.then_some(layer::Form { encoding, epoch })
    }
}

/// How an output's layers are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LayerOptions {
    /// For layers of this build.
    pub encoding: Encoding,
    /// Which layers are compressed anew.
    pub scope: Scope,
    /// Whether file times are limited to the epoch.
    pub times: FileTimes,
    /// `oci-mediatypes=`.
    pub dialect: Dialect,
    /// `oci-artifact=`.
    pub attestations: AttestationForm,
}

/// `force-compression=`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// Layers of the base stay as they came.
    Own,
    /// All layers.
    All,
}

/// `rewrite-timestamp=`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileTimes {
    /// As they are.
    Keep,
    /// Those of this build's layers that are later than the epoch become the epoch.
    LimitToEpoch,
}

impl Output {
    /// The image in the store alone: what a build without `-o` does.
    pub fn store() -> Output {
        Output {
            kind: OutputKind::Image,
            names: Vec::new(),
            names_as_written: Vec::new(),
            layers: LayerOptions {
                encoding: Compression::Gzip.into(),
                scope: Scope::Own,
                times: FileTimes::Keep,
                dialect: Dialect::Oci,
                attestations: AttestationForm::Artifact,
            },
            epoch: None,
            annotations: Vec::new(),
            push: None,
            files: FileOptions::default(),
            takes: Reach::Inline,
        }
    }

    /// The one place that it goes to; `None` for the store and for what keeps others.
    pub fn destination(&self) -> Option<Destination> {
        match &self.kind {
            OutputKind::OciArchive(destination)
            | OutputKind::DockerArchive(destination)
            | OutputKind::FilesArchive(destination) => Some(destination.clone()),
            OutputKind::Files(path) | OutputKind::OciDirectory(path) => Some(Destination::File(path.clone())),
            OutputKind::Image | OutputKind::Load | OutputKind::Nothing => None,
        }
    }

    /// What writing it is called in progress output.
    pub fn describe(&self) -> &'static str {
        match self.kind {
            OutputKind::Image if self.push.is_some() => "exporting to image",
            OutputKind::Image => "exporting to the store",
            OutputKind::OciArchive(_) | OutputKind::OciDirectory(_) => "exporting to oci image format",
            OutputKind::DockerArchive(_) | OutputKind::Load => "exporting to docker image format",
            OutputKind::Files(_) => "copying files",
            OutputKind::FilesArchive(_) => "sending tarball",
            OutputKind::Nothing => "exporting nothing",
        }
    }
}
