//! The files of an OCI layout, as a directory or as one tar. The tar has `manifest.json` too, which `docker load` of any age
//! reads: so one archive suits Docker, Podman, containerd and whatever reads layouts.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::annotation::{self, Annotation, Place};
use super::sink::{BUFFER_BYTES, Draft, Out, Stop};
use super::{Artifact, ExportError};
use crate::digest::Digest;
use crate::image::{Descriptor, Image, Index, document};
use crate::layer::header::{BLOCK, TarEntry, TarKind, padding, write_header};
use crate::reference::{ImageRef, Platform};
use crate::snapshot::FileKind;
use crate::store::{Store, StoreError};

/// A layout's files by their path in it, sorted.
pub(super) struct Files {
    blobs: BTreeMap<String, Blob>,
    /// The entries of `index.json`.
    entries: Vec<Descriptor>,
    /// `manifest.json`, for archives.
    docker: Vec<DockerItem>,
}

impl Files {
    /// Adds another image's files.
    pub(super) fn join(&mut self, other: Files) {
        self.blobs.extend(other.blobs);
        self.entries.extend(other.entries);
        self.docker.extend(other.docker);
    }
}

/// An image in `manifest.json`.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct DockerItem {
    config: String,
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

struct Blob {
    path: PathBuf,
    size_bytes: u64,
    digest: Digest,
}

/// Name that containerd gives an image by (containerd, `core/images/annotations.go`).
const IMAGE_NAME: &str = "io.containerd.image.name";
const REF_NAME: &str = "org.opencontainers.image.ref.name";
const CREATED: &str = "org.opencontainers.image.created";
const LAYOUT: &[u8] = br#"{"imageLayoutVersion":"1.0.0"}"#;

/// The files of `artifact`, all of whose blobs are in the store.
pub(super) fn files(store: &Store, artifact: &Artifact, names: &[ImageRef], annotations: &[Annotation]) -> Files {
    let mut blobs = BTreeMap::new();
    let mut add = |digest: Digest, size_bytes: u64| {
        let path = store.blob_path(&digest);
        blobs.insert(blob_name(&digest), Blob { path, size_bytes, digest });
    };
    artifact.documents().iter().for_each(|(digest, bytes)| add(*digest, bytes.len() as u64));
    let layers = artifact.images.iter().flat_map(|image| &image.layers);
    layers.for_each(|layer| add(layer.descriptor.digest, layer.descriptor.size_bytes));
    Files {
        blobs,
        entries: index_entries(artifact, names, annotations),
        docker: docker_item(artifact, names).into_iter().collect(),
    }
}

/// Writes the layout as one tar: entries sorted, times and owners 0.
pub(super) fn write_archive(files: &Files, out: &mut Out<'_>) -> Result<(), Stop> {
    for name in ["blobs/", "blobs/sha256/"] {
        put_header(out, name, FileKind::Directory, 0o755, 0)?;
    }
    for (name, blob) in &files.blobs {
        put_header(out, name, FileKind::File, 0o444, blob.size_bytes)?;
        copy_blob(blob, out)?;
        out.write_all(padding(blob.size_bytes)).map_err(Stop::Destination)?;
    }
    put_file(out, "index.json", &Index::new(files.entries.clone()).to_bytes())?;
    put_file(out, "manifest.json", &document::compact(&files.docker))?;
    put_file(out, "oci-layout", LAYOUT)?;
    out.write_all(&[0; 2 * BLOCK]).map_err(Stop::Destination)
}

/// Writes the layout into a directory. One that is a layout already keeps its other images: the index is replaced last.
pub(super) fn write_directory(files: &Files, directory: &Path) -> Result<(), ExportError> {
    let kept = other_entries(directory, &files.entries)?;
    for (name, blob) in &files.blobs {
        let place = directory.join(name);
        // a blob that is there may be a damaged one, so it counts by its digest alone
        if file_digest(&place).is_ok_and(|digest| digest == blob.digest) {
            continue;
        }
        let mut draft = Draft::create(&place)?;
        let mut source = open_blob(blob)?;
        // between two files the kernel copies, or shares the extents where the file system can
        io::copy(&mut source, &mut draft.file).map_err(ExportError::io("write", &place))?;
        draft.publish(&place)?;
    }
    let entries = kept.into_iter().chain(files.entries.iter().cloned()).collect();
    for (name, bytes) in [("oci-layout", LAYOUT.to_vec()), ("index.json", Index::new(entries).to_bytes())] {
        let place = directory.join(name);
        let mut draft = Draft::create(&place)?;
        draft.file.write_all(&bytes).map_err(ExportError::io("write", &place))?;
        draft.publish(&place)?;
    }
    Ok(())
}

/// Entries of an index that is there, without those of the same names and without nameless ones.
fn other_entries(directory: &Path, new: &[Descriptor]) -> Result<Vec<Descriptor>, ExportError> {
    let path = directory.join("index.json");
    let bytes = match fs::read(&path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(ExportError::io("read", &path)(error)),
    };
    let index: Index = serde_json::from_slice(&bytes).map_err(|error| ExportError::io("read", &path)(error.into()))?;
    let name = |entry: &Descriptor| entry.annotations.get(IMAGE_NAME).or(entry.annotations.get(REF_NAME)).cloned();
    let replaced: Vec<Option<String>> = new.iter().map(name).collect();
    let is_other = |entry: &Descriptor| name(entry).is_some_and(|name| !replaced.contains(&Some(name)));
    Ok(index.manifests.into_iter().filter(is_other).collect())
}

/// The root of `artifact` as an index would list it. As with BuildKit, annotations for a platform are for images in an index.
pub(super) fn listed(artifact: &Artifact, annotations: &[Annotation]) -> Descriptor {
    let mut root = artifact.root.clone();
    let place = if artifact.index.is_some() { Place::IndexDescriptor } else { Place::ManifestDescriptor };
    root.annotations.extend(annotation::select(annotations, place, None));
    root
}

/// The same as archives list it.
pub(super) fn listed_with_time(artifact: &Artifact, annotations: &[Annotation]) -> Descriptor {
    let mut root = listed(artifact, annotations);
    if let Some(created) = artifact.images.iter().filter_map(|image| image.created.as_ref()).max() {
        // BuildKit writes the time of the export, which no second run could repeat
        root.annotations.entry(CREATED.to_owned()).or_insert_with(|| created.clone());
    }
    root
}

/// One entry per name, one without a name if there is none.
fn index_entries(artifact: &Artifact, names: &[ImageRef], annotations: &[Annotation]) -> Vec<Descriptor> {
    let plain = listed_with_time(artifact, annotations);
    if names.is_empty() {
        return vec![plain];
    }
    let named = |name: &ImageRef| {
        let mut entry = plain.clone();
        entry.annotations.insert(IMAGE_NAME.to_owned(), name.canonical());
        entry.annotations.extend(name.tag.clone().map(|tag| (REF_NAME.to_owned(), tag)));
        entry
    };
    names.iter().map(named).collect()
}

/// Of several platforms it names the host's image, else the first: its reader gives a name to one image alone.
fn docker_item(artifact: &Artifact, names: &[ImageRef]) -> Option<DockerItem> {
    let host = Platform::host();
    let rank = |image: &Image| host.rank(image.descriptor.platform.as_ref()?);
    let fitting = artifact.images.iter().filter(|image| rank(image).is_some());
    let image = fitting.min_by_key(|image| rank(image)).or_else(|| artifact.images.first());
    image.map(|image| DockerItem {
        config: blob_name(&image.config_digest),
        repo_tags: Some(names.iter().map(ImageRef::familiar).collect()).filter(|tags: &Vec<_>| !tags.is_empty()),
        layers: image.layers.iter().map(|layer| blob_name(&layer.descriptor.digest)).collect(),
    })
}

fn blob_name(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

fn open_blob(blob: &Blob) -> Result<File, ExportError> {
    match File::open(&blob.path) {
        Ok(file) => Ok(file),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(StoreError::Missing { digest: blob.digest }.into()),
        Err(error) => Err(ExportError::io("open", &blob.path)(error)),
    }
}

fn copy_blob(blob: &Blob, out: &mut Out<'_>) -> Result<(), Stop> {
    let mut source = open_blob(blob)?;
    let mut left = blob.size_bytes;
    let mut buffer = vec![0; left.min(BUFFER_BYTES as u64) as usize];
    while left > 0 {
        let want = left.min(buffer.len() as u64) as usize;
        let read = io::Read::read(&mut source, &mut buffer[..want]).map_err(ExportError::io("read", &blob.path))?;
        if read == 0 {
            return Err(ExportError::io("read", &blob.path)(io::ErrorKind::UnexpectedEof.into()).into());
        }
        out.write_all(&buffer[..read]).map_err(Stop::Destination)?;
        left -= read as u64;
    }
    Ok(())
}

fn file_digest(path: &Path) -> io::Result<Digest> {
    let mut reader = crate::digest::HashingReader::new(File::open(path)?);
    io::copy(&mut reader, &mut io::sink())?;
    Ok(reader.finish().1)
}

fn put_file(out: &mut Out<'_>, name: &str, bytes: &[u8]) -> Result<(), Stop> {
    put_header(out, name, FileKind::File, 0o644, bytes.len() as u64)?;
    out.write_all(bytes).map_err(Stop::Destination)?;
    out.write_all(padding(bytes.len() as u64)).map_err(Stop::Destination)
}

fn put_header(out: &mut Out<'_>, name: &str, kind: FileKind, mode: u32, size_bytes: u64) -> Result<(), Stop> {
    let entry = TarEntry {
        name: name.as_bytes().to_vec(),
        kind: TarKind::Plain(kind),
        mode,
        uid: 0,
        gid: 0,
        size_bytes,
        mtime_secs: 0,
        xattrs: Vec::new(),
    };
    let mut header = Vec::with_capacity(BLOCK);
    write_header(&entry, &mut header);
    out.write_all(&header).map_err(Stop::Destination)
}
