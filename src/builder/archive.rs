//! Archives of images into the store and out of it: `croze load`, `croze save`.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::Deserialize;

use super::{BuildError, ErrorKind, disk, images, report};
use crate::diagnostic::Diagnostic;
use crate::digest::Digest;
use crate::export;
pub use crate::export::Destination;
use crate::image::{Descriptor, ImageConfig, Index, Manifest, media_type};
use crate::layer::LayerError;
use crate::layer::archive::{Entry, EntryKind, Packing, Reader};
use crate::reference::ImageRef;
use crate::store::{NameOrigin, NameRecord, Store, StoreError};

/// A document of an archive is held in memory; larger ones are none.
const MOST_DOCUMENT_BYTES: u64 = 16 << 20;

/// An image that was loaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loaded {
    /// Its names; none if the archive gives it none.
    pub names: Vec<ImageRef>,
    /// The manifest, or the index.
    pub digest: Digest,
}

/// Puts the images of an archive into the store: an OCI layout, or what `docker save` of any age writes; plain or compressed.
/// `called` is what people call it, `name` what images without a name become.
///
/// Layers are unpacked when something reads them. Every blob is checked against its name.
///
/// # Errors
/// `Usage` for what is no such archive; `Environment` if the store fails.
pub fn load(
    store: &Store,
    (called, archive): (&str, &mut (dyn Read + Send)),
    name: Option<&ImageRef>,
    now: SystemTime,
) -> Result<Vec<Loaded>, BuildError> {
    let set_secs = now.duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs().cast_signed());
    load_images(store, archive, name, set_secs).map_err(|error| disk::with_store(explained(&error, called), store.root()))
}

/// Writes images as one archive that is an OCI layout with Docker's `manifest.json`.
///
/// # Errors
/// `Usage` for a name that the store does not have; `Environment` if it cannot be written.
pub fn save(store: &Store, names: &[ImageRef], destination: &Destination, stdout: &mut dyn Write) -> Result<(), BuildError> {
    let mut artifacts = Vec::with_capacity(names.len());
    for name in names {
        let record = images::record(store, name)?;
        let root = Descriptor::new(&record.media_type, record.manifest, record.size_bytes);
        artifacts.push((name.clone(), export::stored(store, &root).map_err(|error| report::export_error(&error))?));
    }
    export::save(store, &artifacts, destination, stdout).map_err(|error| report::export_error(&error))
}

/// Why an archive gave no image.
#[derive(Debug, thiserror::Error)]
enum LoadError {
    #[error("it has neither `index.json` nor `manifest.json`")]
    NoImages,
    #[error("its `{name}` is malformed: {reason}")]
    Document { name: String, reason: String },
    #[error("it lacks `{0}`, which its images are made of")]
    Lacks(String),
    #[error("its blob {0} holds other bytes than its name says")]
    WrongBlob(String),
    #[error("cannot read it")]
    Read(#[source] io::Error),
    #[error(transparent)]
    Layer(#[from] LayerError),
    #[error(transparent)]
    Store(#[from] StoreError),
}

fn explained(error: &LoadError, called: &str) -> BuildError {
    match error {
        LoadError::Store(error) => report::store_error(error),
        error => {
            let message = format!("cannot load `{called}`: {error}");
            let diagnostic = Diagnostic::error_without_place("load", message)
                .because(error)
                .help("load an OCI layout or what `docker save` writes; `croze import` takes the tar of a root file system");
            BuildError { kind: ErrorKind::Usage, diagnostics: vec![diagnostic] }
        }
    }
}

/// The files of an archive by name, as far as they are read.
#[derive(Default)]
struct Files {
    documents: BTreeMap<String, Vec<u8>>,
    blobs: BTreeMap<String, Stored>,
    links: BTreeMap<String, String>,
}

/// A file that went into the store.
#[derive(Clone, Copy)]
struct Stored {
    digest: Digest,
    size_bytes: u64,
    packing: Packing,
}

fn load_images(
    store: &Store,
    archive: &mut (dyn Read + Send),
    name: Option<&ImageRef>,
    set_secs: i64,
) -> Result<Vec<Loaded>, LoadError> {
    let mut start = Vec::new();
    archive.take(512).read_to_end(&mut start).map_err(LoadError::Read)?;
    let packing = Packing::detect(&start);
    let plain = packing.unpacked(io::Cursor::new(start).chain(archive)).map_err(LoadError::Read)?;
    let files = Files::read(store, plain)?;
    let roots = match files.document::<Index>("index.json")? {
        Some(index) => index.manifests.into_iter().map(|root| (files.names(&root), root)).collect(),
        None => files.docker_images(store)?,
    };
    let mut loaded = Vec::new();
    for (mut names, root) in roots {
        let missing = store.blob_size(&root.digest)?.is_none();
        if missing {
            return Err(LoadError::Lacks(format!("blobs/sha256/{}", root.digest.hex())));
        }
        if names.is_empty() {
            names.extend(name.cloned());
        }
        let record = NameRecord {
            manifest: root.digest,
            media_type: root.media_type,
            size_bytes: root.size_bytes,
            set_secs,
            origin: NameOrigin::Imported,
        };
        for name in &names {
            store.set_name(name, &record)?;
        }
        loaded.push(Loaded { names, digest: root.digest });
    }
    Ok(one_per_image(loaded))
}

/// A layout lists an image once per name.
fn one_per_image(loaded: Vec<Loaded>) -> Vec<Loaded> {
    let mut images: Vec<Loaded> = Vec::new();
    for image in loaded {
        match images.iter_mut().find(|known| known.digest == image.digest) {
            Some(known) => known.names.extend(image.names),
            None => images.push(image),
        }
    }
    images
}

impl Files {
    fn read(store: &Store, plain: Box<dyn Read + Send + '_>) -> Result<Files, LoadError> {
        let mut files = Files::default();
        let mut reader = Reader::new(plain);
        while let Some(entry) = reader.next_entry()? {
            let name = String::from_utf8_lossy(entry.path.as_bytes()).into_owned();
            match &entry.kind {
                EntryKind::File => files.file(store, &mut reader, name, &entry)?,
                // older archives name a layer that two images share by a link
                EntryKind::Symlink(target) => {
                    let target = [entry.path.parent().as_bytes(), target.as_slice()].join(&b'/');
                    let target = crate::snapshot::TreePath::clean(&target);
                    files.links.insert(name, String::from_utf8_lossy(target.as_bytes()).into_owned());
                }
                EntryKind::HardLink(target) => {
                    files.links.insert(name, String::from_utf8_lossy(target.as_bytes()).into_owned());
                }
                _ => {}
            }
        }
        Ok(files)
    }

    fn file(&mut self, store: &Store, reader: &mut impl Read, name: String, entry: &Entry) -> Result<(), LoadError> {
        let expected = name.strip_prefix("blobs/sha256/").and_then(|hex| format!("sha256:{hex}").parse::<Digest>().ok());
        let is_blob = expected.is_some() || name.ends_with(".tar") || entry.size_bytes > MOST_DOCUMENT_BYTES;
        if !is_blob {
            let mut bytes = Vec::new();
            reader.take(entry.size_bytes).read_to_end(&mut bytes).map_err(LoadError::Read)?;
            self.documents.insert(name, bytes);
            return Ok(());
        }
        let mut data = reader.take(entry.size_bytes);
        let mut start = Vec::new();
        (&mut data).take(512).read_to_end(&mut start).map_err(LoadError::Read)?;
        let packing = Packing::detect(&start);
        let mut blob = store.blob_writer()?;
        let mut copy = |bytes: &mut dyn Read| io::copy(bytes, &mut blob).map_err(LoadError::Read);
        copy(&mut start.as_slice())?;
        copy(&mut data)?;
        let (digest, size_bytes) = match blob.finish(expected) {
            Err(StoreError::Mismatch { expected, .. }) => return Err(LoadError::WrongBlob(expected.to_string())),
            finished => finished?,
        };
        self.blobs.insert(name, Stored { digest, size_bytes, packing });
        Ok(())
    }

    fn document<T: serde::de::DeserializeOwned>(&self, name: &str) -> Result<Option<T>, LoadError> {
        let Some(bytes) = self.documents.get(name) else { return Ok(None) };
        let parsed = serde_json::from_slice(bytes);
        parsed.map(Some).map_err(|error| LoadError::Document { name: name.to_owned(), reason: error.to_string() })
    }

    /// What a layout calls an image: containerd's full name; else the reference, if it is a whole name.
    fn names(&self, root: &Descriptor) -> Vec<ImageRef> {
        let annotation = |key: &str| root.annotations.get(key).map(String::as_str);
        let full = annotation("io.containerd.image.name");
        let reference = annotation("org.opencontainers.image.ref.name").filter(|name| name.contains([':', '/']));
        full.or(reference).and_then(|name| name.parse().ok()).into_iter().collect()
    }

    /// The images of `manifest.json`, each with a manifest made for it.
    fn docker_images(&self, store: &Store) -> Result<Vec<(Vec<ImageRef>, Descriptor)>, LoadError> {
        #[derive(Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct Item {
            config: String,
            repo_tags: Option<Vec<String>>,
            layers: Option<Vec<String>>,
        }
        let items: Vec<Item> = self.document("manifest.json")?.ok_or(LoadError::NoImages)?;
        let mut images = Vec::with_capacity(items.len());
        for item in items {
            let bytes = match self.documents.get(&item.config) {
                Some(bytes) => bytes.clone(),
                None => store.read_blob(&self.blob(&item.config)?.digest)?,
            };
            let malformed =
                |error: serde_json::Error| LoadError::Document { name: item.config.clone(), reason: error.to_string() };
            let _: ImageConfig = serde_json::from_slice(&bytes).map_err(malformed)?;
            store.write_blob(&bytes)?;
            let layer = |name: &String| {
                let blob = self.blob(name)?;
                let kind = match blob.packing {
                    Packing::Gzip => media_type::LAYER_GZIP,
                    Packing::Zstd => media_type::LAYER_ZSTD,
                    _ => media_type::LAYER,
                };
                Ok(Descriptor::new(kind, blob.digest, blob.size_bytes))
            };
            let manifest = Manifest {
                schema_version: 2,
                media_type: media_type::MANIFEST.to_owned(),
                config: Descriptor::of(media_type::CONFIG, &bytes),
                layers: item.layers.unwrap_or_default().iter().map(layer).collect::<Result<_, LoadError>>()?,
                annotations: BTreeMap::new(),
            };
            let bytes = manifest.to_bytes();
            store.write_blob(&bytes)?;
            let names = item.repo_tags.unwrap_or_default().iter().filter_map(|tag| tag.parse().ok()).collect();
            images.push((names, Descriptor::of(media_type::MANIFEST, &bytes)));
        }
        Ok(images)
    }

    /// A file that went into the store, by its name or that of a link to it.
    fn blob(&self, name: &str) -> Result<Stored, LoadError> {
        // a link to a link is as far as programs go; a circle ends too
        let target = self.links.get(name).map_or(name, String::as_str);
        let target = self.links.get(target).map_or(target, String::as_str);
        self.blobs.get(target).copied().ok_or_else(|| LoadError::Lacks(name.to_owned()))
    }
}
