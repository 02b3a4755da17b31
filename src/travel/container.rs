//! A cache in a container of Azure Blob Storage.
//!
//! The names are BuildKit's: `PREFIX/manifests/NAME` is the document, `PREFIX/blobs/DIGEST` a blob.

use std::io::Read;
use std::path::Path;

use hyper::{Method, StatusCode};

use super::TravelError;
use super::address::ContainerAddress;
use super::azure::{Asked, done, lacks_container, refusal};
use super::checked::{named, to_the_end};
use super::sign::path_of;
use crate::digest::Digest;
use crate::image::Descriptor;
use crate::registry::manifest::LARGEST_DOCUMENT_BYTES;
use crate::registry::{BlobReader, Client, Payload};

/// A container and the names in it. Cheap to clone.
#[derive(Clone)]
pub struct Container {
    address: ContainerAddress,
    client: Client,
}

impl Container {
    /// Nobody is asked yet.
    pub fn new(address: &ContainerAddress, client: &Client) -> Container {
        Container { address: address.clone(), client: client.clone() }
    }

    /// What it is called.
    pub fn name(&self) -> String {
        let ContainerAddress { container, names, account_url, .. } = &self.address;
        let host = account_url.split("://").last().unwrap_or_default().trim_end_matches('/');
        format!("azblob://{host}/{container}/{}", join(&[&self.address.prefix, &names[0]]))
    }

    /// Whether blobs of one are blobs of the other.
    pub fn shares_blobs_with(&self, other: &Container) -> bool {
        let of = |container: &Container| {
            let ContainerAddress { account_url, container, prefix, blobs_prefix, .. } = &container.address;
            (account_url.clone(), container.clone(), join(&[prefix, blobs_prefix]))
        };
        of(self) == of(other)
    }

    /// The cache's document.
    pub async fn config(&self) -> Result<Vec<u8>, TravelError> {
        self.small(&self.manifest_key(&self.address.names[0])).await
    }

    /// A small blob.
    pub async fn document(&self, digest: &Digest) -> Result<Vec<u8>, TravelError> {
        let bytes = self.small(&self.blob_key(digest)).await?;
        named(self.name(), digest, bytes)
    }

    /// A large one, as [`super::Place::blob`].
    pub async fn blob<T: Send + 'static>(
        &self,
        descriptor: &Descriptor,
        consume: impl FnOnce(&mut (dyn Read + Send)) -> Result<T, TravelError> + Send + 'static,
    ) -> Result<T, TravelError> {
        let request = self.at(&self.blob_key(&descriptor.digest)).request(Method::GET, &[], Payload::default())?;
        let read = move |reader: &mut BlobReader| to_the_end(reader, consume);
        self.client.transport().fetch(&request, descriptor.digest, descriptor.size_bytes, read).await
    }

    /// Whether the container has the blob.
    pub async fn has(&self, digest: &Digest) -> Result<bool, TravelError> {
        let request = self.at(&self.blob_key(digest)).request(Method::HEAD, &[], Payload::default())?;
        let response = self.client.transport().send(&request).await?;
        match response.status {
            status if status.is_success() => Ok(true),
            StatusCode::NOT_FOUND => Ok(false),
            _ => Err(refusal(response).await.into()),
        }
    }

    /// Writes the file at `path` as a blob.
    pub async fn put(&self, blob: &Descriptor, path: &Path) -> Result<(), TravelError> {
        let key = self.blob_key(&blob.digest);
        let put = async || self.at(&key).put_file(self.client.transport(), path, blob.size_bytes).await;
        match put().await {
            Err(error) if lacks_container(&error) => {
                self.create().await?;
                put().await
            }
            result => result,
        }
    }

    /// Writes the document under all names.
    pub async fn finish(&self, bytes: Vec<u8>) -> Result<(), TravelError> {
        for name in &self.address.names {
            let key = self.manifest_key(name);
            let put = async || self.at(&key).put_bytes(self.client.transport(), bytes.clone()).await;
            match put().await {
                Err(error) if lacks_container(&error) => {
                    self.create().await?;
                    put().await?;
                }
                result => result?,
            }
        }
        Ok(())
    }

    /// Makes the container; somebody else may have done so by now.
    async fn create(&self) -> Result<(), TravelError> {
        let request = self.at("").request(Method::PUT, &[("restype", "container")], Payload::default())?;
        let response = self.client.transport().send(&request).await?;
        if response.status == StatusCode::CONFLICT { Ok(()) } else { done(response).await }
    }

    async fn small(&self, key: &str) -> Result<Vec<u8>, TravelError> {
        let request = self.at(key).request(Method::GET, &[], Payload::default())?;
        let response = self.client.transport().send(&request).await?;
        match response.status {
            StatusCode::OK => {}
            StatusCode::NOT_FOUND => return Err(TravelError::Absent { place: self.name() }),
            _ => return Err(refusal(response).await.into()),
        }
        let reason = format!("`{key}` is larger than {LARGEST_DOCUMENT_BYTES} bytes");
        let bytes = response.bytes(LARGEST_DOCUMENT_BYTES).await?;
        bytes.ok_or_else(|| TravelError::Malformed { place: self.name(), reason })
    }

    /// A blob of the container; the container itself for an empty key.
    fn at(&self, key: &str) -> Asked<'_> {
        let ContainerAddress { account_url, container, signature, key: account_key, .. } = &self.address;
        let slash = if key.is_empty() { "" } else { "/" };
        let mut url = format!("{}/{container}{slash}{}", account_url.trim_end_matches('/'), path_of(key));
        if let Some(signature) = signature {
            url.push_str(&format!("?{signature}"));
        }
        Asked { url, key: account_key.as_ref() }
    }

    fn manifest_key(&self, name: &str) -> String {
        join(&[&self.address.prefix, &self.address.manifests_prefix, name])
    }

    fn blob_key(&self, digest: &Digest) -> String {
        join(&[&self.address.prefix, &self.address.blobs_prefix, &digest.to_string()])
    }
}

/// Words of a path, as Go's `filepath.Join` puts plain ones together.
fn join(words: &[&str]) -> String {
    let words: Vec<&str> =
        words.iter().flat_map(|word| word.split('/')).filter(|word| !word.is_empty() && *word != ".").collect();
    words.join("/")
}
