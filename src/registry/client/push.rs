//! The distribution protocol, push side.

use std::path::{Path, PathBuf};

use hyper::body::Bytes;
use hyper::header::{CONTENT_RANGE, CONTENT_TYPE, HeaderValue, LOCATION, RANGE};
use hyper::{Method, StatusCode};

use super::{Client, Tries, content_digest};
use crate::digest::Digest;
use crate::image::Descriptor;
use crate::reference::ImageRef;
use crate::registry::auth::Access;
use crate::registry::config::Endpoint;
use crate::registry::error::{Broken, RegistryError};
use crate::registry::transport::{Payload, Request, Response, join_url};

/// A larger blob is sent in parts, so that a connection that breaks late costs a part and not the whole.
const WHOLE_BYTES: u64 = 128 << 20;
const PART_BYTES: u64 = 64 << 20;

/// A repository that is written to. Cheap to clone.
#[derive(Clone)]
pub struct Pushing {
    client: Client,
    endpoint: Endpoint,
    access: Access,
    repository: String,
    name: String,
}

/// How a registry came by a blob.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Taken {
    /// It had it.
    There,
    /// From another of its repositories.
    Mounted,
    /// From here.
    Sent,
}

impl Client {
    /// Prepares to write the repository of `image_ref`. `mounts` are repositories of the same host that may have its blobs.
    ///
    /// # Errors
    /// The registry does not answer or does not let us write.
    pub async fn push_to(&self, image_ref: &ImageRef, mounts: Vec<String>) -> Result<Pushing, RegistryError> {
        let repository = image_ref.repository.clone();
        let access = Access::Push { repository: repository.clone(), mounts };
        let name = image_ref.familiar();
        let endpoint = self.place_to_push(&image_ref.host, &access, &name).await?;
        Ok(Pushing { client: self.clone(), endpoint, access, repository, name })
    }
}

impl Pushing {
    /// Whether the repository has the blob.
    pub async fn has_blob(&self, digest: &Digest) -> Result<bool, RegistryError> {
        let path = format!("{}/blobs/{digest}", self.repository);
        let response = self.send(self.endpoint.request(Method::HEAD, &path)?, Tries::Many).await?;
        match response.status {
            status if status.is_success() => Ok(true),
            StatusCode::NOT_FOUND => Ok(false),
            _ => Err(response.into_status_error().await),
        }
    }

    /// Sees to it that the repository has the blob: asks, has it taken over from the repository `from` (one of those that
    /// [`Client::push_to`] was told of), and only then asks `file` for its file and sends it.
    ///
    /// # Errors
    /// The registry does not take it; what `file` says.
    pub async fn put_blob<E: From<RegistryError>>(
        &self,
        blob: &Descriptor,
        file: impl Future<Output = Result<PathBuf, E>>,
        from: Option<&str>,
    ) -> Result<Taken, E> {
        if self.has_blob(&blob.digest).await? {
            return Ok(Taken::There);
        }
        let mut session = None;
        if let Some(from) = from {
            match self.start(Some((&blob.digest, from))).await {
                Ok(Start::Mounted) => return Ok(Taken::Mounted),
                Ok(Start::Session(location)) => session = Some(location),
                // not from there, for reasons of its own: it may be sent all the same
                Err(RegistryError::Denied { .. }) => {}
                Err(RegistryError::Status { status: 400..500, .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        let path = file.await?;
        let retry = self.client.transport.config().retry;
        let mut attempt = 1;
        loop {
            let error = match self.upload(session.take(), blob, &path).await {
                Ok(()) => return Ok(Taken::Sent),
                Err(error) => error,
            };
            if attempt >= retry.attempts || !may_pass(&error) {
                return Err(error.into());
            }
            tokio::time::sleep(self.client.transport.pause(attempt)).await;
            attempt += 1;
        }
    }

    /// Stores a manifest or index under `reference`, a tag or its digest.
    pub async fn put_manifest(&self, reference: &str, manifest: &Descriptor, bytes: Vec<u8>) -> Result<(), RegistryError> {
        let path = format!("{}/manifests/{reference}", self.repository);
        let kind = HeaderValue::from_str(&manifest.media_type)
            .map_err(|_| self.not_taken(&manifest.digest, "it has no media type", None))?;
        let request =
            self.endpoint.request(Method::PUT, &path)?.header(CONTENT_TYPE, kind).body(Payload::Bytes(Bytes::from(bytes)));
        let response = self.send(request, Tries::Many).await?;
        if !response.status.is_success() {
            return Err(self.refusal(&manifest.digest, response).await);
        }
        match content_digest(&response) {
            Some(found) if found != manifest.digest => {
                Err(self.not_taken(&manifest.digest, &format!("it says that it stored {found}"), None))
            }
            _ => Ok(()),
        }
    }

    /// Sends the blob, into the upload at `session` if there is one.
    async fn upload(&self, session: Option<String>, blob: &Descriptor, path: &Path) -> Result<(), RegistryError> {
        let mut location = match session {
            Some(location) => location,
            None => match self.start(None).await? {
                Start::Session(location) => location,
                Start::Mounted => return Ok(()),
            },
        };
        let mut rest = Payload::File { path: path.to_owned(), start_bytes: 0, size_bytes: blob.size_bytes };
        if blob.size_bytes > WHOLE_BYTES {
            match self.send_parts(location, blob, path).await? {
                Some(complete) => (location, rest) = (complete, Payload::default()),
                // a registry that takes no parts
                None => match self.start(None).await? {
                    Start::Session(fresh) => location = fresh,
                    Start::Mounted => return Ok(()),
                },
            }
        }
        let separator = if location.contains('?') { '&' } else { '?' };
        let request = self.upload_request(Method::PUT, &format!("{location}{separator}digest={}", blob.digest))?.body(rest);
        let response = self.send(request, Tries::One).await?;
        if response.status.is_success() { Ok(()) } else { Err(self.refusal(&blob.digest, response).await) }
    }

    /// Sends the blob part by part; where the upload is completed, or `None` if the registry takes no parts.
    async fn send_parts(&self, mut location: String, blob: &Descriptor, path: &Path) -> Result<Option<String>, RegistryError> {
        let retry = self.client.transport.config().retry;
        let (mut start_bytes, mut attempt) = (0, 1);
        while start_bytes < blob.size_bytes {
            let size_bytes = PART_BYTES.min(blob.size_bytes - start_bytes);
            let range = format!("{start_bytes}-{}", start_bytes + size_bytes - 1);
            let range = HeaderValue::try_from(range).expect("digits are header characters");
            let part = Payload::File { path: path.to_owned(), start_bytes, size_bytes };
            let request = self.upload_request(Method::PATCH, &location)?.header(CONTENT_RANGE, range).body(part);
            let error = match self.send(request, Tries::One).await {
                Ok(response) if response.status.is_success() => {
                    location = self.location(&response).unwrap_or(location);
                    start_bytes += size_bytes;
                    attempt = 1;
                    continue;
                }
                Ok(response) if start_bytes == 0 && response.status.is_client_error() && !is_busy(response.status) => {
                    return Ok(None);
                }
                Ok(response) => self.refusal(&blob.digest, response).await,
                Err(error) => error,
            };
            if attempt >= retry.attempts || !may_pass(&error) {
                return Err(error);
            }
            tokio::time::sleep(self.client.transport.pause(attempt)).await;
            attempt += 1;
            // it knows how much of the part arrived
            let asked = self.send(self.upload_request(Method::GET, &location)?, Tries::Many).await?;
            let Some(arrived_bytes) = range_end(&asked).filter(|_| asked.status.is_success()) else { return Err(error) };
            start_bytes = arrived_bytes.min(blob.size_bytes);
            location = self.location(&asked).unwrap_or(location);
        }
        Ok(Some(location))
    }

    /// Opens an upload, or takes the blob over from another repository.
    async fn start(&self, mount: Option<(&Digest, &str)>) -> Result<Start, RegistryError> {
        let mut path = format!("{}/blobs/uploads/", self.repository);
        if let Some((digest, from)) = mount {
            path.push_str(&format!("?mount={digest}&from={from}"));
        }
        let response = self.send(self.endpoint.request(Method::POST, &path)?, Tries::Many).await?;
        match response.status {
            StatusCode::CREATED if mount.is_some() => Ok(Start::Mounted),
            status if status.is_success() => match self.location(&response) {
                Some(location) => Ok(Start::Session(location)),
                None => {
                    let message = "it does not say where the upload goes".to_owned();
                    Err(RegistryError::Status { url: response.url_for_people(), status: status.as_u16(), message })
                }
            },
            _ => Err(response.into_status_error().await),
        }
    }

    /// Where an upload goes on. Behind a proxy that ends TLS, some registries call themselves by http.
    fn location(&self, response: &Response) -> Option<String> {
        let location = join_url(&response.url, response.header(LOCATION)?);
        let in_clear = format!("http://{}/", self.endpoint.authority);
        match location.strip_prefix(&in_clear) {
            Some(rest) => Some(format!("{}://{}/{rest}", self.endpoint.scheme, self.endpoint.authority)),
            None => Some(location),
        }
    }

    fn upload_request(&self, method: Method, url: &str) -> Result<Request, RegistryError> {
        let octets = HeaderValue::from_static("application/octet-stream");
        Ok(Request::get(url)?.method(method).header(CONTENT_TYPE, octets))
    }

    async fn send(&self, request: Request, tries: Tries) -> Result<Response, RegistryError> {
        self.client.authorized(&self.endpoint, &self.access, &self.name, request, tries).await
    }

    async fn refusal(&self, digest: &Digest, response: Response) -> RegistryError {
        match response.into_status_error().await {
            // the digest and the words say more than the address of an upload
            RegistryError::Status { status, message, .. } if (400..500).contains(&status) && !message.is_empty() => {
                self.not_taken(digest, &message, Some(status))
            }
            error => error,
        }
    }

    fn not_taken(&self, digest: &Digest, reason: &str, status: Option<u16>) -> RegistryError {
        RegistryError::NotTaken {
            host: self.endpoint.host.clone(),
            digest: *digest,
            repository: self.repository.clone(),
            reason: reason.to_owned(),
            status,
        }
    }
}

enum Start {
    Mounted,
    /// Where the upload goes.
    Session(String),
}

/// Whether sending again may help: a connection that broke, a server that is busy or lost the upload.
fn may_pass(error: &RegistryError) -> bool {
    match error {
        RegistryError::Unreachable { broken, .. } => matches!(broken, Broken::Cut(_)),
        RegistryError::Status { status, .. } => is_busy(StatusCode::from_u16(*status).unwrap_or_default()) || *status == 404,
        RegistryError::NotTaken { status, .. } => matches!(status, Some(404 | 416)),
        _ => false,
    }
}

fn is_busy(status: StatusCode) -> bool {
    matches!(status.as_u16(), 408 | 429 | 500 | 502 | 503 | 504)
}

/// `0-9` → 10: how much of an upload arrived.
fn range_end(response: &Response) -> Option<u64> {
    let (_, last) = response.header(RANGE)?.trim_start_matches("bytes=").split_once('-')?;
    last.trim().parse::<u64>().ok()?.checked_add(1)
}
