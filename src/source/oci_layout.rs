//! `oci-layout://DIR[:TAG][@DIGEST]`: an image out of a directory.
//!
//! Everything is verified and copied into the store while it is read, so that nothing depends on the directory later.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use super::SourceError;
use super::image::{AnsweredBy, BaseLayer, ResolvedImage, assemble, bad_document};
use crate::diagnostic;
use crate::digest::Digest;
use crate::image::Descriptor;
use crate::reference::Platform;
use crate::registry::RegistryError;
use crate::registry::manifest::{Document, Index, LARGEST_DOCUMENT_BYTES};
use crate::store::{Store, StoreError};
use crate::task;

/// The annotation that holds an entry's tag (OCI image-spec, "Pre-Defined Annotation Keys").
const REF_NAME: &str = "org.opencontainers.image.ref.name";
/// An index may hold an index; a chain longer than this is not followed.
const DEEPEST_INDEX: usize = 4;

/// Where an image is, in which directory and under which name.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LayoutAddress {
    /// The directory that holds `index.json`.
    pub path: PathBuf,
    /// Tag, when written.
    pub tag: Option<String>,
    /// Digest of a manifest or index, when written; it wins over the tag.
    pub digest: Option<Digest>,
}

impl LayoutAddress {
    /// Reads `DIR[:TAG][@DIGEST]`, the part behind `oci-layout://`.
    ///
    /// # Errors
    /// `SourceError::Layout` when what follows `@` is no digest.
    pub fn parse(text: &str) -> Result<LayoutAddress, SourceError> {
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => {
                let bad = |error| SourceError::Layout { path: rest.into(), reason: format!("{error}") };
                (rest, Some(digest.parse().map_err(bad)?))
            }
            None => (text, None),
        };
        Ok(match rest.rsplit_once(':') {
            Some((path, tag)) if !tag.is_empty() && !tag.contains('/') => {
                LayoutAddress { path: path.into(), tag: Some(tag.to_owned()), digest }
            }
            _ => LayoutAddress { path: rest.into(), tag: None, digest },
        })
    }
}

/// Finds the image at `address` for `platform` and copies it into the store, layers included.
///
/// Without tag or digest the entry tagged `latest` is taken, else the only one there is, else the one for the platform.
pub async fn resolve(store: &Store, address: &LayoutAddress, platform: &Platform) -> Result<ResolvedImage, SourceError> {
    let (store, address, platform) = (store.clone(), address.clone(), platform.clone());
    task::blocking(move || Layout { store: &store, address: &address, platform: &platform }.import()).await
}

struct Layout<'a> {
    store: &'a Store,
    address: &'a LayoutAddress,
    platform: &'a Platform,
}

impl Layout<'_> {
    fn import(&self) -> Result<ResolvedImage, SourceError> {
        let name = format!("oci-layout://{}", self.address.path.display());
        let mut descriptor = self.root()?;
        for _ in 0..DEEPEST_INDEX {
            let bytes = self.document(&descriptor.digest)?;
            match Document::parse(&bytes, &descriptor.media_type).map_err(|error| bad_document(&name, error))? {
                Document::Index(index) => descriptor = self.choose(&index)?,
                Document::Manifest(manifest) => {
                    let config = self.document(&manifest.config.digest)?;
                    let answered_by = AnsweredBy::Layout(self.address.path.clone());
                    let image = assemble(name, descriptor, &manifest, &config, answered_by)?;
                    image.layers.iter().try_for_each(|layer| self.layer(layer))?;
                    return Ok(image);
                }
            }
        }
        Err(self.bad("its indexes are nested too deeply"))
    }

    /// The entry of `index.json` that the address means.
    fn root(&self) -> Result<Descriptor, SourceError> {
        let path = self.address.path.join("index.json");
        let bytes = fs::read(&path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => self.bad("it has no `index.json`, so it is no OCI layout"),
            _ => SourceError::Io { action: "read", path, source: error },
        })?;
        let index = match Document::parse(&bytes, "") {
            Ok(Document::Index(index)) => index,
            Ok(Document::Manifest(_)) => return Err(self.bad("its `index.json` is no index")),
            Err(error) => return Err(self.bad(&format!("its `index.json` is malformed: {error}"))),
        };
        if let Some(digest) = self.address.digest {
            let listed = index.manifests.iter().find(|entry| entry.digest == digest).cloned();
            // A digest may name an image inside an index, which `index.json` does not list.
            return listed.map_or_else(|| self.unlisted(digest), Ok);
        }
        let tagged = |tag: &str| index.manifests.iter().find(|entry| has_tag(entry, tag)).cloned();
        match &self.address.tag {
            Some(tag) => tagged(tag).ok_or_else(|| self.no_tag(tag, &index)),
            None => match (tagged("latest"), index.manifests.as_slice()) {
                (Some(entry), _) => Ok(entry),
                (None, [only]) => Ok(only.clone()),
                (None, []) => Err(self.bad("it is empty")),
                (None, _) => self.choose(&index),
            },
        }
    }

    fn unlisted(&self, digest: Digest) -> Result<Descriptor, SourceError> {
        let size_bytes = match fs::metadata(self.blob_path(&digest)) {
            Ok(metadata) => metadata.len(),
            Err(_) => return Err(self.bad(&format!("it has no {digest}"))),
        };
        Ok(Descriptor::new("", digest, size_bytes))
    }

    fn choose(&self, index: &Index) -> Result<Descriptor, SourceError> {
        index.choose(self.platform).cloned().map_err(|available| {
            let name = format!("oci-layout://{}", self.address.path.display());
            RegistryError::NoPlatform { name, wanted: self.platform.clone(), available }.into()
        })
    }

    /// A manifest, index or config, verified and stored.
    fn document(&self, digest: &Digest) -> Result<Vec<u8>, SourceError> {
        let path = self.blob_path(digest);
        let cannot_read = |source| SourceError::Io { action: "read", path: path.clone(), source };
        if fs::metadata(&path).map_err(cannot_read)?.len() > LARGEST_DOCUMENT_BYTES {
            return Err(self.bad(&format!("{digest} is too large for a document")));
        }
        let bytes = fs::read(&path).map_err(cannot_read)?;
        let found = Digest::of(&bytes);
        if found != *digest {
            return Err(StoreError::Mismatch { expected: *digest, found }.into());
        }
        self.store.write_blob(&bytes)?;
        Ok(bytes)
    }

    /// Copies a layer's blob, verified, unless the store has it in some form.
    fn layer(&self, layer: &BaseLayer) -> Result<(), SourceError> {
        if self.store.layer(&layer.diff_id)?.is_some() || self.store.blob_size(&layer.digest)?.is_some() {
            return Ok(());
        }
        let path = self.blob_path(&layer.digest);
        let mut blob = File::open(&path).map_err(|source| SourceError::Io { action: "open", path: path.clone(), source })?;
        let mut writer = self.store.blob_writer()?;
        io::copy(&mut blob, &mut writer).map_err(|source| SourceError::Io { action: "copy", path, source })?;
        writer.finish(Some(layer.digest))?;
        Ok(())
    }

    fn blob_path(&self, digest: &Digest) -> PathBuf {
        self.address.path.join(Path::new("blobs/sha256")).join(digest.hex())
    }

    fn no_tag(&self, tag: &str, index: &Index) -> SourceError {
        let tags: Vec<&str> =
            index.manifests.iter().filter_map(|entry| entry.annotations.get(REF_NAME)).map(String::as_str).collect();
        self.bad(&match (diagnostic::nearest(tag, tags.iter().copied()), tags.is_empty()) {
            (Some(near), _) => format!("it has no tag `{tag}`; did you mean `{near}`?"),
            (None, false) => format!("it has no tag `{tag}`, only `{}`", tags.join("`, `")),
            (None, true) => format!("it has no tag `{tag}`, nor any other"),
        })
    }

    fn bad(&self, reason: &str) -> SourceError {
        SourceError::Layout { path: self.address.path.clone(), reason: reason.to_owned() }
    }
}

/// Some tools write the tag alone, some the whole name.
fn has_tag(entry: &Descriptor, tag: &str) -> bool {
    let name = entry.annotations.get(REF_NAME).map(String::as_str).unwrap_or_default();
    name == tag || name.rsplit_once(':').is_some_and(|(_, written)| written == tag && !written.contains('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, path: &str, tag: Option<&str>, digest: Option<Digest>) {
        let expected = LayoutAddress { path: path.into(), tag: tag.map(str::to_owned), digest };
        assert_eq!(LayoutAddress::parse(text).expect(text), expected);
    }

    #[test]
    fn addresses_are_read() {
        let digest = Digest::of(b"x");
        check("/a/b", "/a/b", None, None);
        check("../b:v1", "../b", Some("v1"), None);
        check("a:1/b", "a:1/b", None, None);
        check(&format!("b:v1@{digest}"), "b", Some("v1"), Some(digest));
        check(&format!("b@{digest}"), "b", None, Some(digest));
        assert!(LayoutAddress::parse("b@sha256:12").is_err());
    }
}
