//! Where a cache lies: reading it, and what writing it takes.

use std::io::Read;
use std::path::PathBuf;

use super::actions::Actions;
use super::address::Address;
use super::bucket::Bucket;
use super::checked::to_the_end;
use super::container::Container;
use super::directory::Directory;
use super::{TravelError, config};
use crate::image::Descriptor;
use crate::reference::{ImageRef, Platform};
use crate::registry::manifest::{BadDocument, Document};
use crate::registry::{BlobReader, Client, Pushing, RegistryError, Taken};
use crate::task;

/// A place that caches are read from and written to. Cheap to clone.
#[derive(Clone)]
pub struct Place {
    kind: Kind,
}

#[derive(Clone)]
enum Kind {
    Directory(Directory),
    Registry { client: Client, image_ref: ImageRef },
    Bucket(Bucket),
    Container(Container),
    Actions(Actions),
}

impl Place {
    /// The place at `address`; nobody is asked yet. `None` for what goes with the image.
    pub fn new(address: &Address, client: &Client) -> Option<Place> {
        let kind = match address {
            Address::Directory { path, tag, digest } => Kind::Directory(Directory::new(path, tag, *digest)),
            Address::Registry { image_ref, insecure } => {
                let client = if *insecure { client.insecure(&image_ref.host) } else { client.clone() };
                Kind::Registry { client, image_ref: image_ref.clone() }
            }
            Address::Bucket(address) => Kind::Bucket(Bucket::new(address, client)),
            Address::Container(address) => Kind::Container(Container::new(address, client)),
            Address::Actions(address) => Kind::Actions(Actions::new(address, client)),
            Address::Image => return None,
        };
        Some(Place { kind })
    }

    /// Its name for people.
    pub fn name(&self) -> String {
        match &self.kind {
            Kind::Directory(directory) => directory.path().display().to_string(),
            Kind::Registry { image_ref, .. } => image_ref.canonical(),
            Kind::Bucket(bucket) => bucket.name(),
            Kind::Container(container) => container.name(),
            Kind::Actions(actions) => actions.name(),
        }
    }

    /// What writing it is called in progress output, in BuildKit's words.
    pub fn describe_sending(&self) -> &'static str {
        match &self.kind {
            Kind::Directory(_) => "exporting cache to client directory",
            Kind::Registry { .. } => "exporting cache to registry",
            Kind::Bucket(_) => "exporting cache to Amazon S3",
            Kind::Container(_) => "exporting cache to Azure Blob Storage",
            Kind::Actions(_) => "exporting to GitHub Actions Cache",
        }
    }

    /// Whether there is a network on the way to it.
    pub fn is_remote(&self) -> bool {
        !matches!(self.kind, Kind::Directory(_))
    }

    /// Whether blobs of one are blobs of the other.
    pub fn shares_blobs_with(&self, other: &Place) -> bool {
        match (&self.kind, &other.kind) {
            (Kind::Directory(one), Kind::Directory(other)) => one.path() == other.path(),
            (Kind::Registry { image_ref: one, .. }, Kind::Registry { image_ref: other, .. }) => {
                (&one.host, &one.repository) == (&other.host, &other.repository)
            }
            (Kind::Bucket(one), Kind::Bucket(other)) => one.shares_blobs_with(other),
            (Kind::Container(one), Kind::Container(other)) => one.shares_blobs_with(other),
            (Kind::Actions(one), Kind::Actions(other)) => one.shares_blobs_with(other),
            _ => false,
        }
    }

    /// The repository, if it is one.
    pub fn repository(&self) -> Option<&ImageRef> {
        match &self.kind {
            Kind::Registry { image_ref, .. } => Some(image_ref),
            Kind::Directory(_) | Kind::Bucket(_) | Kind::Container(_) | Kind::Actions(_) => None,
        }
    }

    /// The cache's own document.
    ///
    /// # Errors
    /// `Absent` where nothing is; `Foreign` for what is no cache; `Malformed`, `WrongBytes`; the registry's or disk's error.
    pub async fn read(&self) -> Result<Found, TravelError> {
        let (bytes, media_type) = match &self.kind {
            Kind::Bucket(bucket) => return bucket.config().await.map(Found::cache),
            Kind::Container(container) => return container.config().await.map(Found::cache),
            Kind::Actions(actions) => return actions.configs().await.map(Found::Caches),
            Kind::Directory(directory) => {
                let directory = directory.clone();
                (task::blocking(move || directory.root()).await?, String::new())
            }
            Kind::Registry { client, image_ref } => match client.manifest(image_ref).await {
                Ok(fetched) => (fetched.bytes, fetched.media_type),
                Err(RegistryError::NotFound { .. }) => return Err(TravelError::Absent { place: self.name() }),
                Err(error) => return Err(error.into()),
            },
        };
        let malformed = |reason: String| TravelError::Malformed { place: self.name(), reason };
        let parse = |bytes: &[u8], media_type: &str| {
            Document::parse(bytes, media_type).map_err(|error| match error {
                BadDocument::Malformed(reason) => malformed(reason),
                error => malformed(error.to_string()),
            })
        };
        let mut document = parse(&bytes, &media_type)?;
        let is_config = |descriptor: &Descriptor| descriptor.media_type == config::MEDIA_TYPE;
        if let Document::Index(index) = &document {
            if let Some(config) = index.manifests.iter().find(|entry| is_config(entry)) {
                return self.document(config).await.map(Found::cache);
            }
            // images of several platforms: the steps of the host's are the most likely ones
            let entry = index.choose(&Platform::host()).map_err(|_| TravelError::PlainImage { place: self.name() })?;
            document = parse(&self.manifest(entry).await?, &entry.media_type)?;
        }
        match document {
            Document::Manifest(manifest) if is_config(&manifest.config) => {
                self.document(&manifest.config).await.map(Found::cache)
            }
            Document::Manifest(manifest) => {
                Ok(Found::Image { config: self.document(&manifest.config).await?, layers: manifest.layers })
            }
            Document::Index(_) => Err(malformed("its indexes are nested too deeply".to_owned())),
        }
    }

    /// A manifest that an index names.
    async fn manifest(&self, descriptor: &Descriptor) -> Result<Vec<u8>, TravelError> {
        match &self.kind {
            Kind::Registry { client, image_ref } => Ok(client.manifest_by_digest(image_ref, &descriptor.digest).await?.bytes),
            _ => self.document(descriptor).await,
        }
    }

    /// A small blob as a whole.
    ///
    /// # Errors
    /// As [`Place::blob`].
    pub async fn document(&self, descriptor: &Descriptor) -> Result<Vec<u8>, TravelError> {
        match &self.kind {
            Kind::Directory(directory) => {
                let (directory, digest) = (directory.clone(), descriptor.digest);
                task::blocking(move || directory.document(&digest)).await
            }
            Kind::Registry { client, image_ref } => Ok(client.document(image_ref, descriptor).await?),
            Kind::Bucket(bucket) => bucket.document(&descriptor.digest).await,
            Kind::Container(container) => container.document(&descriptor.digest).await,
            Kind::Actions(actions) => actions.document(&descriptor.digest).await,
        }
    }

    /// Streams a blob to `consume`, which may block. Its value is returned only if all bytes came and were right.
    ///
    /// # Errors
    /// The blob is not there, or holds other bytes; what `consume` says.
    pub async fn blob<T: Send + 'static>(
        &self,
        descriptor: &Descriptor,
        consume: impl FnOnce(&mut (dyn Read + Send)) -> Result<T, TravelError> + Send + 'static,
    ) -> Result<T, TravelError> {
        match &self.kind {
            Kind::Directory(directory) => {
                let (directory, descriptor) = (directory.clone(), descriptor.clone());
                task::blocking(move || directory.blob(&descriptor, consume)).await
            }
            Kind::Registry { client, image_ref } => {
                let read = move |reader: &mut BlobReader| to_the_end(reader, consume);
                client.fetch_blob(image_ref, descriptor.digest, descriptor.size_bytes, read).await
            }
            Kind::Bucket(bucket) => bucket.blob(descriptor, consume).await,
            Kind::Container(container) => container.blob(descriptor, consume).await,
            Kind::Actions(actions) => actions.blob(descriptor, consume).await,
        }
    }

    /// Prepares to write. `mounts` are repositories of the same host that may have its blobs.
    ///
    /// # Errors
    /// The place cannot be written.
    pub async fn writer(&self, mounts: Vec<String>) -> Result<Writer, TravelError> {
        Ok(match &self.kind {
            Kind::Directory(directory) => Writer { kind: WriterKind::Directory(directory.clone()) },
            Kind::Bucket(bucket) => Writer { kind: WriterKind::Bucket(bucket.clone()) },
            Kind::Container(container) => Writer { kind: WriterKind::Container(container.clone()) },
            Kind::Actions(actions) => Writer { kind: WriterKind::Actions(actions.clone()) },
            Kind::Registry { client, image_ref } => {
                let may_mount = !mounts.is_empty();
                let pushing = match client.push_to(image_ref, mounts).await {
                    // we may read those repositories no longer, which is no reason not to write this one
                    Err(RegistryError::Denied { .. }) if may_mount => client.push_to(image_ref, Vec::new()).await?,
                    pushing => pushing?,
                };
                let pushing = Box::new(pushing);
                let reference = image_ref.tag.clone().unwrap_or_else(|| "latest".to_owned());
                Writer { kind: WriterKind::Registry { pushing, reference } }
            }
        })
    }
}

/// What is at a place.
pub enum Found {
    /// Documents of caches; the first has the last word. At least one.
    Caches(Vec<Vec<u8>>),
    /// An image, in whose config a cache may be.
    Image {
        /// The config's bytes.
        config: Vec<u8>,
        /// Bottom first.
        layers: Vec<Descriptor>,
    },
}

impl Found {
    fn cache(document: Vec<u8>) -> Found {
        Found::Caches(vec![document])
    }
}

/// A place that is written to. Cheap to clone.
#[derive(Clone)]
pub struct Writer {
    kind: WriterKind,
}

#[derive(Clone)]
enum WriterKind {
    Directory(Directory),
    Registry { pushing: Box<Pushing>, reference: String },
    Bucket(Bucket),
    Container(Container),
    Actions(Actions),
}

impl Writer {
    /// Whether the cache's document is the root itself, rather than named by a manifest.
    pub fn is_flat(&self) -> bool {
        !matches!(self.kind, WriterKind::Directory(_) | WriterKind::Registry { .. })
    }

    /// Whether the place has the blob.
    ///
    /// # Errors
    /// It cannot be asked.
    pub async fn has(&self, blob: &Descriptor) -> Result<bool, TravelError> {
        match &self.kind {
            WriterKind::Directory(directory) => {
                let (directory, digest) = (directory.clone(), blob.digest);
                Ok(task::blocking(move || directory.has(&digest)).await)
            }
            WriterKind::Registry { pushing, .. } => Ok(pushing.has_blob(&blob.digest).await?),
            WriterKind::Bucket(bucket) => bucket.has(&blob.digest).await,
            WriterKind::Container(container) => container.has(&blob.digest).await,
            WriterKind::Actions(actions) => actions.has(&blob.digest).await,
        }
    }

    /// Sees to it that the place has the blob. `file` gives its file, and is asked only if the blob has to be sent; `from` is
    /// a repository that may have it.
    ///
    /// # Errors
    /// It does not take it; what `file` says.
    pub async fn put(
        &self,
        blob: &Descriptor,
        file: impl Future<Output = Result<PathBuf, TravelError>>,
        from: Option<&str>,
    ) -> Result<Taken, TravelError> {
        if let WriterKind::Registry { pushing, .. } = &self.kind {
            return pushing.put_blob(blob, file, from).await;
        }
        if self.has(blob).await? {
            return Ok(Taken::There);
        }
        let path = file.await?;
        match &self.kind {
            WriterKind::Directory(directory) => {
                let (directory, digest) = (directory.clone(), blob.digest);
                task::blocking(move || directory.put(&digest, &path)).await?;
            }
            WriterKind::Bucket(bucket) => bucket.put(blob, &path).await?,
            WriterKind::Container(container) => container.put(blob, &path).await?,
            WriterKind::Actions(actions) => actions.put(blob, &path).await?,
            WriterKind::Registry { .. } => {}
        }
        Ok(Taken::Sent)
    }

    /// Writes the root document, after all that it names.
    ///
    /// # Errors
    /// The place does not take it.
    pub async fn finish(&self, root: &Descriptor, bytes: Vec<u8>) -> Result<(), TravelError> {
        match &self.kind {
            WriterKind::Directory(directory) => {
                let (directory, root) = (directory.clone(), root.clone());
                task::blocking(move || directory.finish(&root, &bytes)).await
            }
            WriterKind::Registry { pushing, reference } => Ok(pushing.put_manifest(reference, root, bytes).await?),
            WriterKind::Bucket(bucket) => bucket.finish(bytes).await,
            WriterKind::Container(container) => container.finish(bytes).await,
            WriterKind::Actions(actions) => actions.finish(bytes).await,
        }
    }
}
