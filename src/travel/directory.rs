//! A cache in a directory: an OCI layout, one entry of whose index is the cache.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use super::TravelError;
use super::checked::{named, verified};
use crate::digest::{Digest, HashingReader};
use crate::image::{Descriptor, Index};
use crate::registry::manifest::LARGEST_DOCUMENT_BYTES;

const REF_NAME: &str = "org.opencontainers.image.ref.name";
const LAYOUT: &[u8] = br#"{"imageLayoutVersion":"1.0.0"}"#;

/// An OCI layout, and which of its entries is meant. All calls block.
#[derive(Clone)]
pub struct Directory {
    path: PathBuf,
    tag: String,
    digest: Option<Digest>,
}

impl Directory {
    /// Nothing is looked at yet.
    pub fn new(path: &Path, tag: &str, digest: Option<Digest>) -> Directory {
        Directory { path: path.to_owned(), tag: tag.to_owned(), digest }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The bytes of the entry that is meant.
    pub fn root(&self) -> Result<Vec<u8>, TravelError> {
        let digest = match self.digest {
            Some(digest) => digest,
            None => {
                let index = self.index()?.ok_or_else(|| self.absent())?;
                let named = |entry: &&Descriptor| entry.annotations.get(REF_NAME) == Some(&self.tag);
                index.manifests.iter().find(named).ok_or_else(|| self.absent())?.digest
            }
        };
        self.document(&digest)
    }

    /// A small blob.
    pub fn document(&self, digest: &Digest) -> Result<Vec<u8>, TravelError> {
        let mut bytes = Vec::new();
        let place = self.blob_path(digest);
        let file = self.open(&place)?;
        file.take(LARGEST_DOCUMENT_BYTES + 1).read_to_end(&mut bytes).map_err(TravelError::io("read", &place))?;
        if bytes.len() as u64 > LARGEST_DOCUMENT_BYTES {
            return Err(self.malformed(format!("{digest} is larger than {LARGEST_DOCUMENT_BYTES} bytes")));
        }
        named(self.name(), digest, bytes)
    }

    /// A large one.
    pub fn blob<T>(
        &self,
        descriptor: &Descriptor,
        consume: impl FnOnce(&mut (dyn Read + Send)) -> Result<T, TravelError>,
    ) -> Result<T, TravelError> {
        let file = self.open(&self.blob_path(&descriptor.digest))?;
        // what is longer than it says fails by its digest, without being read for ever
        verified(&self.name(), descriptor.digest, file.take(descriptor.size_bytes.saturating_add(1)), consume)
    }

    /// Whether the blob is there and whole.
    pub fn has(&self, digest: &Digest) -> bool {
        let Ok(file) = File::open(self.blob_path(digest)) else { return false };
        let mut reader = HashingReader::new(file);
        io::copy(&mut reader, &mut io::sink()).is_ok() && reader.finish().1 == *digest
    }

    /// Copies the file at `from` in as a blob.
    pub fn put(&self, digest: &Digest, from: &Path) -> Result<(), TravelError> {
        let mut source = File::open(from).map_err(TravelError::io("open", from))?;
        // between two files the kernel copies, or shares the extents where the file system can
        self.publish(&self.blob_path(digest), |file| io::copy(&mut source, file).map(drop))
    }

    /// Writes the root document and names it.
    pub fn finish(&self, root: &Descriptor, bytes: &[u8]) -> Result<(), TravelError> {
        self.publish(&self.blob_path(&root.digest), |file| file.write_all(bytes))?;
        self.publish(&self.path.join("oci-layout"), |file| file.write_all(LAYOUT))?;
        let mut index = self.index()?.unwrap_or_else(|| Index::new(Vec::new()));
        index.manifests.retain(|entry| entry.annotations.get(REF_NAME).is_some_and(|name| *name != self.tag));
        let mut entry = root.clone();
        entry.annotations.insert(REF_NAME.to_owned(), self.tag.clone());
        index.manifests.push(entry);
        self.publish(&self.path.join("index.json"), |file| file.write_all(&index.to_bytes()))
    }

    fn index(&self) -> Result<Option<Index>, TravelError> {
        let path = self.path.join("index.json");
        match fs::read(&path) {
            Ok(bytes) => match serde_json::from_slice(&bytes) {
                Ok(index) => Ok(Some(index)),
                Err(error) => Err(self.malformed(format!("`index.json`: {error}"))),
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(TravelError::io("read", &path)(error)),
        }
    }

    /// A file that appears when it is complete.
    fn publish(&self, place: &Path, fill: impl FnOnce(&mut File) -> io::Result<()>) -> Result<(), TravelError> {
        let parent = place.parent().unwrap_or(&self.path);
        fs::create_dir_all(parent).map_err(TravelError::io("create", parent))?;
        let mut draft = place.as_os_str().to_owned();
        draft.push(format!(".{}.part", std::process::id()));
        let draft = PathBuf::from(draft);
        let written = File::create(&draft).and_then(|mut file| fill(&mut file)).and_then(|()| fs::rename(&draft, place));
        written.map_err(|error| {
            // the failure to tell is the first one
            let _stays = fs::remove_file(&draft);
            TravelError::io("write", place)(error)
        })
    }

    fn open(&self, path: &Path) -> Result<File, TravelError> {
        File::open(path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => self.malformed(format!("`{}` is not there", path.display())),
            _ => TravelError::io("open", path)(error),
        })
    }

    fn blob_path(&self, digest: &Digest) -> PathBuf {
        self.path.join("blobs/sha256").join(digest.hex())
    }

    fn name(&self) -> String {
        self.path.display().to_string()
    }

    fn absent(&self) -> TravelError {
        TravelError::Absent { place: self.name() }
    }

    fn malformed(&self, reason: String) -> TravelError {
        TravelError::Malformed { place: self.name(), reason }
    }
}
