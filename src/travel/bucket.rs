//! A cache in a bucket of S3, or of a server that speaks like it.
//!
//! The names are BuildKit's: `PREFIX manifests/ NAME` is the document, `PREFIX blobs/ DIGEST` a blob. One object, one request:
//! a blob of more than 5 GB is more than S3 takes at once.

use std::io::{self, Read};
use std::path::Path;

use hyper::header::{HeaderName, HeaderValue};
use hyper::{Method, StatusCode};
use jiff::Timestamp;

use super::TravelError;
use super::flag::BucketAddress;
use super::sign::{Asked, path_of};
use crate::digest::Digest;
use crate::image::Descriptor;
use crate::registry::manifest::LARGEST_DOCUMENT_BYTES;
use crate::registry::{BlobReader, Client, Payload, RegistryError, Request, Response, Taken, parse_url};

/// A bucket and the names in it. Cheap to clone.
#[derive(Clone)]
pub struct Bucket {
    address: BucketAddress,
    client: Client,
}

impl Bucket {
    /// Nobody is asked yet.
    pub fn new(address: &BucketAddress, client: &Client) -> Bucket {
        Bucket { address: address.clone(), client: client.clone() }
    }

    /// What it is called.
    pub fn name(&self) -> String {
        let BucketAddress { bucket, prefix, names, .. } = &self.address;
        format!("s3://{bucket}/{prefix}{}", names[0])
    }

    /// Whether blobs of one are blobs of the other.
    pub fn shares_blobs_with(&self, other: &Bucket) -> bool {
        let of = |bucket: &Bucket| {
            let BucketAddress { endpoint, bucket, region, prefix, blobs_prefix, .. } = &bucket.address;
            (endpoint.clone(), bucket.clone(), region.clone(), format!("{prefix}{blobs_prefix}"))
        };
        of(self) == of(other)
    }

    /// The cache's document.
    pub async fn config(&self) -> Result<Vec<u8>, TravelError> {
        let key = format!("{}{}{}", self.address.prefix, self.address.manifests_prefix, self.address.names[0]);
        self.small(&key).await
    }

    /// A small blob.
    pub async fn document(&self, digest: &Digest) -> Result<Vec<u8>, TravelError> {
        let bytes = self.small(&self.blob_key(digest)).await?;
        match Digest::of(&bytes) {
            found if found == *digest => Ok(bytes),
            found => Err(TravelError::WrongBytes { place: self.name(), expected: *digest, found }),
        }
    }

    /// A large one, as [`super::Place::blob`].
    pub async fn blob<T: Send + 'static>(
        &self,
        descriptor: &Descriptor,
        consume: impl FnOnce(&mut dyn Read) -> Result<T, TravelError> + Send + 'static,
    ) -> Result<T, TravelError> {
        let request = self.request(Method::GET, &self.blob_key(&descriptor.digest))?;
        let read = move |reader: &mut BlobReader| {
            let result = consume(reader);
            if result.is_err() {
                // whether other bytes came takes all of them to know, and then that is the error
                let _failure_is_known_to_the_reader = io::copy(reader, &mut io::sink());
            }
            result
        };
        self.client.transport().fetch(&request, descriptor.digest, descriptor.size_bytes, read).await
    }

    /// Whether the bucket has the blob.
    pub async fn has(&self, digest: &Digest) -> Result<bool, TravelError> {
        let response = self.send(self.request(Method::HEAD, &self.blob_key(digest))?).await?;
        match response.status {
            status if status.is_success() => Ok(true),
            // without the right to list a bucket, S3 says of what is not there that it is forbidden
            StatusCode::NOT_FOUND | StatusCode::FORBIDDEN => Ok(false),
            _ => Err(response.into_status_error().await.into()),
        }
    }

    /// Sees to it that the bucket has the blob in the file at `path`.
    pub async fn put(&self, blob: &Descriptor, path: &Path) -> Result<Taken, TravelError> {
        if self.has(&blob.digest).await? {
            return Ok(Taken::There);
        }
        let body = Payload::File { path: path.to_owned(), start_bytes: 0, size_bytes: blob.size_bytes };
        self.write(&self.blob_key(&blob.digest), body).await?;
        Ok(Taken::Sent)
    }

    /// Writes the document under all names.
    pub async fn finish(&self, bytes: Vec<u8>) -> Result<(), TravelError> {
        for name in &self.address.names {
            let key = format!("{}{}{name}", self.address.prefix, self.address.manifests_prefix);
            self.write(&key, Payload::Bytes(bytes.clone().into())).await?;
        }
        Ok(())
    }

    async fn small(&self, key: &str) -> Result<Vec<u8>, TravelError> {
        let response = self.send(self.request(Method::GET, key)?).await?;
        match response.status {
            StatusCode::OK => {}
            StatusCode::NOT_FOUND => return Err(TravelError::Absent { place: self.name() }),
            _ => return Err(response.into_status_error().await.into()),
        }
        let reason = format!("`{key}` is larger than {LARGEST_DOCUMENT_BYTES} bytes");
        let bytes = response.bytes(LARGEST_DOCUMENT_BYTES).await?;
        bytes.ok_or_else(|| TravelError::Malformed { place: self.name(), reason })
    }

    async fn write(&self, key: &str, body: Payload) -> Result<(), TravelError> {
        let response = self.send(self.request(Method::PUT, key)?.body(body)).await?;
        if response.status.is_success() { Ok(()) } else { Err(response.into_status_error().await.into()) }
    }

    async fn send(&self, request: Request) -> Result<Response, TravelError> {
        Ok(self.client.transport().send(&request).await?)
    }

    /// A signed request for an object.
    fn request(&self, method: Method, key: &str) -> Result<Request, TravelError> {
        let BucketAddress { endpoint, bucket, region, keys, path_style, .. } = &self.address;
        let (scheme, host, base) = match endpoint {
            // the name of a bucket with dots is none that the certificate knows
            None if bucket.contains('.') => ("https", format!("s3.{region}.amazonaws.com"), format!("/{bucket}")),
            None => ("https", format!("{bucket}.s3.{region}.amazonaws.com"), String::new()),
            Some(endpoint) => {
                let (url, _) = parse_url(endpoint)?;
                let scheme = if url.scheme_str() == Some("http") { "http" } else { "https" };
                let authority = url.authority().map(|authority| authority.as_str().to_owned()).unwrap_or_default();
                let default_port = if scheme == "http" { ":80" } else { ":443" };
                let authority = authority.strip_suffix(default_port).map(str::to_owned).unwrap_or(authority);
                let base = url.path().trim_end_matches('/').to_owned();
                match path_style {
                    true => (scheme, authority, format!("{base}/{bucket}")),
                    false => (scheme, format!("{bucket}.{authority}"), base),
                }
            }
        };
        let path = format!("{base}/{}", path_of(key));
        // the server compares it with its own clock
        let asked = Asked { method: method.as_str(), host: &host, path: &path, region, at: Timestamp::now() };
        let headers = asked.headers(keys.as_ref());
        let mut request = Request::get(&format!("{scheme}://{host}{path}"))?.method(method);
        for (name, value) in headers {
            let malformed = |_| RegistryError::BadUrl {
                url: self.name(),
                reason: "its keys hold characters that no header can carry".to_owned(),
            };
            let mut value = HeaderValue::try_from(value).map_err(malformed)?;
            value.set_sensitive(name == "authorization");
            request = request.header(HeaderName::from_static(name), value);
        }
        Ok(request)
    }

    fn blob_key(&self, digest: &Digest) -> String {
        format!("{}{}{digest}", self.address.prefix, self.address.blobs_prefix)
    }
}
