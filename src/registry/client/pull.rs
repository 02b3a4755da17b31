//! The distribution protocol, pull side.

use std::io::Read;

use hyper::body::Bytes;
use hyper::header::{CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, HeaderName, HeaderValue, RANGE};
use hyper::{Method, StatusCode};
use serde::Deserialize;
use tokio::sync::mpsc;

use super::{Client, Failures, Tries, accept_manifests, content_digest};
use crate::diagnostic;
use crate::digest::Digest;
use crate::image::Descriptor;
use crate::reference::ImageRef;
use crate::registry::auth::Access;
use crate::registry::blob::{BlobReader, consumed};
use crate::registry::config::Endpoint;
use crate::registry::error::{Broken, RegistryError, Tags};
use crate::registry::manifest::LARGEST_DOCUMENT_BYTES;
use crate::registry::transport::Response;

/// Tags that are looked through for a near one.
const TAGS_LISTED: usize = 1000;

/// A manifest or index as it came, verified where a digest was given.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Fetched {
    /// The document.
    pub bytes: Vec<u8>,
    /// As announced by the registry; may be empty.
    pub media_type: String,
    /// SHA-256 of `bytes`.
    pub digest: Digest,
    /// Host with port that sent it.
    pub host: String,
}

impl Client {
    /// The manifest or index that `image_ref` names: by its digest if it has one, else by its tag.
    ///
    /// # Errors
    /// `NotFound` comes with near tags; `Denied`, `Unreachable`, `Tls`, `Status` as the last host that was asked failed.
    pub async fn manifest(&self, image_ref: &ImageRef) -> Result<Fetched, RegistryError> {
        match &image_ref.digest {
            Some(digest) => self.manifest_by_digest(image_ref, digest).await,
            None => self.fetch_manifest(image_ref, image_ref.tag.as_deref().unwrap_or("latest"), None).await,
        }
    }

    /// A manifest or index of the repository of `image_ref`.
    pub async fn manifest_by_digest(&self, image_ref: &ImageRef, digest: &Digest) -> Result<Fetched, RegistryError> {
        self.fetch_manifest(image_ref, &digest.to_string(), Some(*digest)).await
    }

    /// What the tag of `image_ref` points at, without fetching it (registries count fetches); `None` when the registry does
    /// not say.
    pub async fn tag_digest(&self, image_ref: &ImageRef) -> Result<Option<Digest>, RegistryError> {
        let path = format!("manifests/{}", image_ref.tag.as_deref().unwrap_or("latest"));
        let mut failures = Failures::default();
        for endpoint in self.endpoints(&image_ref.host).await?.iter() {
            if !failures.permit(endpoint) || !endpoint.serves.tags {
                continue;
            }
            match self.ask(endpoint, image_ref, Method::HEAD, &path, accept_manifests()).await {
                Ok(response) => return Ok(content_digest(&response)),
                Err(error) => failures.add(endpoint, error),
            }
        }
        Err(failures.into_error(image_ref))
    }

    /// A small blob, such as a config, as a whole.
    pub async fn document(&self, image_ref: &ImageRef, descriptor: &Descriptor) -> Result<Vec<u8>, RegistryError> {
        if descriptor.size_bytes > LARGEST_DOCUMENT_BYTES {
            let reason = format!("it names a config of {} bytes", descriptor.size_bytes);
            return Err(RegistryError::BadManifest { name: image_ref.familiar(), reason });
        }
        self.fetch_blob(image_ref, descriptor.digest, descriptor.size_bytes, |reader| {
            let mut bytes = Vec::new();
            // A failed read shows in the reader's verdict or in the sender's error; both are looked at afterwards.
            let _ = reader.read_to_end(&mut bytes);
            Ok(bytes)
        })
        .await
    }

    /// Streams a blob to `consume`, which runs where it may block. A broken connection is taken up again where it broke.
    ///
    /// The value of `consume` is returned only if all bytes came and were right; when something failed on the way, that
    /// is the error, rather than what `consume` made of it.
    pub async fn fetch_blob<T, E>(
        &self,
        image_ref: &ImageRef,
        digest: Digest,
        size_bytes: u64,
        consume: impl FnOnce(&mut BlobReader) -> Result<T, E> + Send + 'static,
    ) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<RegistryError> + Send + 'static,
    {
        let send = |sender| self.send_blob(image_ref, digest, size_bytes, sender);
        let (sent, result, mismatch) = consumed(digest, size_bytes, send, consume).await;
        match (sent, mismatch) {
            (Err(error), _) => Err(error.into()),
            (Ok(host), Some(found)) => Err(RegistryError::BadDigest { host, expected: digest, found }.into()),
            (Ok(_), None) => result,
        }
    }

    /// The tags of the repository, as many as the registry gives at once.
    pub async fn tags(&self, image_ref: &ImageRef) -> Result<Vec<String>, RegistryError> {
        let mut failures = Failures::default();
        for endpoint in self.endpoints(&image_ref.host).await?.iter() {
            if !failures.permit(endpoint) || !endpoint.serves.tags {
                continue;
            }
            match self.tags_at(endpoint, image_ref).await {
                Ok(tags) => return Ok(tags),
                Err(error) => failures.add(endpoint, error),
            }
        }
        Err(failures.into_error(image_ref))
    }

    async fn tags_at(&self, endpoint: &Endpoint, image_ref: &ImageRef) -> Result<Vec<String>, RegistryError> {
        #[derive(Deserialize)]
        struct List {
            tags: Option<Vec<String>>,
        }
        let path = format!("tags/list?n={TAGS_LISTED}");
        let response = self.ask(endpoint, image_ref, Method::GET, &path, Vec::new()).await?;
        let body = response.bytes(LARGEST_DOCUMENT_BYTES).await?.unwrap_or_default();
        let list: Option<List> = serde_json::from_slice(&body).ok();
        Ok(list.and_then(|list| list.tags).unwrap_or_default())
    }

    async fn fetch_manifest(
        &self,
        image_ref: &ImageRef,
        reference: &str,
        expected: Option<Digest>,
    ) -> Result<Fetched, RegistryError> {
        let mut failures = Failures::default();
        let serves = |endpoint: &Endpoint| if expected.is_some() { endpoint.serves.blobs } else { endpoint.serves.tags };
        for endpoint in self.endpoints(&image_ref.host).await?.iter() {
            if !failures.permit(endpoint) || !serves(endpoint) {
                continue;
            }
            match self.manifest_at(endpoint, image_ref, reference, expected).await {
                Ok(fetched) => return Ok(fetched),
                Err(error) => failures.add(endpoint, error),
            }
        }
        let mut error = failures.into_error(image_ref);
        if let (RegistryError::NotFound { tags, .. }, None) = (&mut error, expected) {
            // The first failure is what counts; a registry that lists no tags has none to offer.
            *tags = match self.tags(image_ref).await {
                Ok(there) => there_instead(reference, there),
                Err(RegistryError::NotFound { .. }) => Tags::NoRepository,
                Err(_) => Tags::Unknown,
            };
        }
        Err(error)
    }

    async fn manifest_at(
        &self,
        endpoint: &Endpoint,
        image_ref: &ImageRef,
        reference: &str,
        expected: Option<Digest>,
    ) -> Result<Fetched, RegistryError> {
        let path = format!("manifests/{reference}");
        let response = self.ask(endpoint, image_ref, Method::GET, &path, accept_manifests()).await?;
        let media_type =
            response.header(CONTENT_TYPE).unwrap_or_default().split(';').next().unwrap_or_default().trim().to_owned();
        let (host, expected) = (response.host(), expected.or(content_digest(&response)));
        let Some(bytes) = response.bytes(LARGEST_DOCUMENT_BYTES).await? else {
            let reason = format!("it is larger than {LARGEST_DOCUMENT_BYTES} bytes");
            return Err(RegistryError::BadManifest { name: image_ref.familiar(), reason });
        };
        let digest = Digest::of(&bytes);
        match expected {
            Some(expected) if expected != digest => Err(RegistryError::BadDigest { host, expected, found: digest }),
            _ => Ok(Fetched { bytes, media_type, digest, host }),
        }
    }

    /// Sends the blob's bytes, in order, to `sender`; returns the host that the last of them came from. A reader that went
    /// away ends it early and well.
    async fn send_blob(
        &self,
        image_ref: &ImageRef,
        digest: Digest,
        size_bytes: u64,
        sender: mpsc::Sender<Bytes>,
    ) -> Result<String, RegistryError> {
        let mut progress = Progress { digest, size_bytes, sent_bytes: 0, sender };
        let mut failures = Failures::default();
        for endpoint in self.endpoints(&image_ref.host).await?.iter() {
            if !failures.permit(endpoint) || !endpoint.serves.blobs {
                continue;
            }
            let mut attempt = 1;
            loop {
                let before = progress.sent_bytes;
                let error = match self.send_rest(endpoint, image_ref, &mut progress).await {
                    Ok(host) => return Ok(host),
                    Err(error) => error,
                };
                let broken = matches!(&error, RegistryError::Unreachable { broken: Broken::Cut(_) | Broken::Silent { .. }, .. });
                // What moved on may break again as often as it likes; what stands still is given up.
                attempt = if progress.sent_bytes > before { 1 } else { attempt + 1 };
                if !broken || attempt > self.transport.config().retry.attempts {
                    failures.add(endpoint, error);
                    break;
                }
                tokio::time::sleep(self.transport.pause(attempt)).await;
            }
        }
        Err(match failures.into_error(image_ref) {
            RegistryError::NotFound { host, .. } => {
                RegistryError::NoBlob { digest, repository: image_ref.repository.clone(), host }
            }
            RegistryError::Unreachable { host, broken: broken @ (Broken::Cut(_) | Broken::Silent { .. }) } => {
                RegistryError::BlobCut { host, digest, found_bytes: progress.sent_bytes, expected_bytes: size_bytes, broken }
            }
            error => error,
        })
    }

    async fn send_rest(
        &self,
        endpoint: &Endpoint,
        image_ref: &ImageRef,
        progress: &mut Progress,
    ) -> Result<String, RegistryError> {
        let mut headers = Vec::new();
        if progress.sent_bytes > 0 {
            let range = HeaderValue::try_from(format!("bytes={}-", progress.sent_bytes)).expect("digits are header characters");
            headers.push((RANGE, range));
        }
        let path = format!("blobs/{}", progress.digest);
        let mut response = self.ask(endpoint, image_ref, Method::GET, &path, headers).await?;
        let host = response.host();
        let start_bytes = match response.status {
            StatusCode::PARTIAL_CONTENT => range_start(&response).unwrap_or(progress.sent_bytes),
            _ => 0,
        };
        let cut = |reason: &str| RegistryError::Unreachable { host: host.clone(), broken: Broken::Cut(reason.to_owned()) };
        let mut skip_bytes = match progress.sent_bytes.checked_sub(start_bytes) {
            Some(skip_bytes) => skip_bytes,
            None => return Err(cut("it left out a part")),
        };
        let length: Option<u64> = response.header(CONTENT_LENGTH).and_then(|length| length.parse().ok());
        if let Some(length) = length
            && start_bytes.saturating_add(length) != progress.size_bytes
        {
            return Err(progress.bad_size(host, start_bytes.saturating_add(length)));
        }
        while let Some(mut chunk) = response.chunk().await? {
            let skipped = skip_bytes.min(chunk.len() as u64);
            skip_bytes -= skipped;
            let chunk = chunk.split_off(skipped as usize);
            if chunk.is_empty() {
                continue;
            }
            let sent_bytes = progress.sent_bytes + chunk.len() as u64;
            if sent_bytes > progress.size_bytes {
                return Err(progress.bad_size(host, sent_bytes));
            }
            if progress.sender.send(chunk).await.is_err() {
                return Ok(host);
            }
            progress.sent_bytes = sent_bytes;
        }
        if progress.sent_bytes < progress.size_bytes { Err(cut("it ended early")) } else { Ok(host) }
    }

    /// A read below `/v2/REPOSITORY/`. Returns only successes.
    async fn ask(
        &self,
        endpoint: &Endpoint,
        image_ref: &ImageRef,
        method: Method,
        path: &str,
        headers: Vec<(HeaderName, HeaderValue)>,
    ) -> Result<Response, RegistryError> {
        let mut request = endpoint.request(method, &format!("{}/{path}", image_ref.repository))?;
        for (name, value) in headers {
            request = request.header(name, value);
        }
        let access = Access::Pull { repository: image_ref.repository.clone() };
        let response = self.authorized(endpoint, &access, &image_ref.familiar(), request, Tries::Many).await?;
        match response.status {
            status if status.is_success() => Ok(response),
            StatusCode::NOT_FOUND => {
                let (name, host) = (image_ref.familiar(), endpoint.host.clone());
                Err(RegistryError::NotFound { name, host, tags: Tags::Unknown })
            }
            _ => Err(response.into_status_error().await),
        }
    }
}

/// How much of a blob was sent, and where to.
struct Progress {
    digest: Digest,
    size_bytes: u64,
    sent_bytes: u64,
    sender: mpsc::Sender<Bytes>,
}

impl Progress {
    fn bad_size(&self, host: String, found_bytes: u64) -> RegistryError {
        RegistryError::BadSize { host, digest: self.digest, expected_bytes: self.size_bytes, found_bytes }
    }
}

/// `bytes 5-9/10` → 5.
fn range_start(response: &Response) -> Option<u64> {
    response.header(CONTENT_RANGE)?.strip_prefix("bytes ")?.split('-').next()?.trim().parse().ok()
}

/// Tags that are told where none comes near.
const TAGS_TOLD: usize = 5;

/// What to say of `tags`, among which is no `wanted`.
fn there_instead(wanted: &str, mut tags: Vec<String>) -> Tags {
    let nearest = nearest_tags(wanted, &tags);
    if !nearest.is_empty() {
        return Tags::Nearest(nearest);
    }
    // registries list them in any order
    tags.sort_unstable();
    let more = tags.len().saturating_sub(TAGS_TOLD);
    tags.truncate(TAGS_TOLD);
    if tags.is_empty() { Tags::Unknown } else { Tags::Others(tags, more) }
}

/// Up to three tags that come near `wanted`, best first.
fn nearest_tags(wanted: &str, tags: &[String]) -> Vec<String> {
    let mut candidates: Vec<&str> = tags.iter().map(String::as_str).collect();
    let mut found = Vec::new();
    while found.len() < 3
        && let Some(tag) = diagnostic::nearest(wanted, candidates.iter().copied())
    {
        found.push(tag.to_owned());
        candidates.retain(|candidate| *candidate != tag);
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_tags_are_found() {
        let tags = ["1.20", "1.21", "latest", "edge"].map(str::to_owned);
        assert_eq!(nearest_tags("latst", &tags), ["latest"]);
        assert!(nearest_tags("bookworm", &tags).is_empty());
        let said =
            |wanted: &str, tags: &[&str]| there_instead(wanted, tags.iter().map(|tag| (*tag).to_owned()).collect()).to_string();
        assert_eq!(said("latst", &["1", "latest"]), "; its nearest tag is `latest`");
        assert_eq!(said("bookworm", &["1"]), "; its one tag is `1`");
        assert_eq!(said("bookworm", &["1", "2"]), "; its tags are `1`, `2`");
        assert_eq!(said("bookworm", &["1", "2", "3", "4", "5", "6", "7"]), "; its tags are `1`, `2`, `3`, `4`, `5` and 2 more");
        assert_eq!(said("bookworm", &[]), "");
    }
}
