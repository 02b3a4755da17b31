//! A cache in a bucket of S3, or of a server that speaks like it.
//!
//! The names are BuildKit's: `PREFIX manifests/ NAME` is the document, `PREFIX blobs/ DIGEST` a blob. A large blob goes in
//! parts (Amazon S3, "Uploading and copying objects using multipart upload").

use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;

use hyper::header::{HeaderName, HeaderValue};
use hyper::{Method, StatusCode};
use jiff::Timestamp;
use tokio::task::JoinSet;

use super::TravelError;
use super::address::BucketAddress;
use super::checked::{named, to_the_end};
use super::sign::{Asked, escaped, path_of};
use crate::digest::Digest;
use crate::image::Descriptor;
use crate::registry::manifest::LARGEST_DOCUMENT_BYTES;
use crate::registry::{BlobReader, Client, Payload, RegistryError, Request, Response, parse_url};

/// An object of more goes in parts of so much. S3 wants 5 MiB at least, and takes so many parts at most.
const PART_BYTES: u64 = 16 << 20;
const MOST_PARTS: u64 = 10_000;
const PARTS_AT_A_TIME: usize = 4;

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
        named(self.name(), digest, bytes)
    }

    /// A large one, as [`super::Place::blob`].
    pub async fn blob<T: Send + 'static>(
        &self,
        descriptor: &Descriptor,
        consume: impl FnOnce(&mut (dyn Read + Send)) -> Result<T, TravelError> + Send + 'static,
    ) -> Result<T, TravelError> {
        let request = self.request(Method::GET, &self.blob_key(&descriptor.digest))?;
        let read = move |reader: &mut BlobReader| to_the_end(reader, consume);
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

    /// Writes the file at `path` as a blob.
    pub async fn put(&self, blob: &Descriptor, path: &Path) -> Result<(), TravelError> {
        let key = self.blob_key(&blob.digest);
        if blob.size_bytes > PART_BYTES {
            return self.put_parts(&key, blob.size_bytes, path).await;
        }
        let body = Payload::File { path: path.to_owned(), start_bytes: 0, size_bytes: blob.size_bytes };
        self.write(&key, body).await
    }

    /// Writes a large object part by part: a connection that breaks costs a part.
    async fn put_parts(&self, key: &str, size_bytes: u64, path: &Path) -> Result<(), TravelError> {
        let opened = self.send(self.asked(Method::POST, key, &[("uploads", "")])?).await?;
        let upload = match opened.status.is_success() {
            true => element(&opened.bytes(LARGEST_DOCUMENT_BYTES).await?.unwrap_or_default(), "UploadId"),
            false => return Err(opened.into_status_error().await.into()),
        };
        let reason = format!("it does not say which upload `{key}` is");
        let upload = upload.ok_or_else(|| TravelError::Malformed { place: self.name(), reason })?;
        let put = self.send_parts(key, &upload, size_bytes, path).await;
        if put.is_err() {
            // parts of an upload that nobody ends are kept, and paid for; the failure to tell is the first one
            let _stays = self.send(self.asked(Method::DELETE, key, &[("uploadId", &upload)])?).await;
        }
        put
    }

    async fn send_parts(&self, key: &str, upload: &str, size_bytes: u64, path: &Path) -> Result<(), TravelError> {
        let part_bytes = PART_BYTES.max(size_bytes.div_ceil(MOST_PARTS));
        let mut tasks = JoinSet::new();
        let mut tags = BTreeMap::new();
        for number in 1..=size_bytes.div_ceil(part_bytes) {
            if tasks.len() == PARTS_AT_A_TIME {
                take_tag(&mut tasks, &mut tags).await?;
            }
            let start_bytes = (number - 1) * part_bytes;
            let size_bytes = part_bytes.min(size_bytes - start_bytes);
            let query = [("partNumber", &*number.to_string()), ("uploadId", upload)];
            let body = Payload::File { path: path.to_owned(), start_bytes, size_bytes };
            let (bucket, request) = (self.clone(), self.asked(Method::PUT, key, &query)?.body(body));
            tasks.spawn(async move {
                let response = bucket.send(request).await?;
                match response.header(hyper::header::ETAG).map(str::to_owned) {
                    Some(tag) if response.status.is_success() => Ok((number, tag)),
                    _ => Err(response.into_status_error().await.into()),
                }
            });
        }
        while !tasks.is_empty() {
            take_tag(&mut tasks, &mut tags).await?;
        }
        let part = |(number, tag): (&u64, &String)| format!("<Part><PartNumber>{number}</PartNumber><ETag>{tag}</ETag></Part>");
        let list: String = tags.iter().map(part).collect();
        let list = format!("<CompleteMultipartUpload>{list}</CompleteMultipartUpload>");
        let request = self.asked(Method::POST, key, &[("uploadId", upload)])?.body(Payload::Bytes(list.into()));
        let ended = self.send(request).await?;
        if !ended.status.is_success() {
            return Err(ended.into_status_error().await.into());
        }
        // it may find out that it cannot when it has said 200 already
        let answer = ended.bytes(LARGEST_DOCUMENT_BYTES).await?.unwrap_or_default();
        match element(&answer, "Code") {
            Some(code) => Err(TravelError::Malformed { place: self.name(), reason: format!("`{key}` was not taken: {code}") }),
            None => Ok(()),
        }
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
        self.asked(method, key, &[])
    }

    /// The same with a query, whose names are sorted.
    fn asked(&self, method: Method, key: &str, query: &[(&str, &str)]) -> Result<Request, TravelError> {
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
        let pair = |(name, value): &(&str, &str)| format!("{name}={}", escaped(value));
        let query = query.iter().map(pair).collect::<Vec<_>>().join("&");
        // the server compares it with its own clock
        let asked = Asked { method: method.as_str(), host: &host, path: &path, query: &query, region, at: Timestamp::now() };
        let headers = asked.headers(keys.as_ref());
        let separator = if query.is_empty() { "" } else { "?" };
        let mut request = Request::get(&format!("{scheme}://{host}{path}{separator}{query}"))?.method(method);
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

/// Parts on their way: number and tag.
type Parts = JoinSet<Result<(u64, String), TravelError>>;

async fn take_tag(tasks: &mut Parts, tags: &mut BTreeMap<u64, String>) -> Result<(), TravelError> {
    if let Some(joined) = tasks.join_next().await {
        let (number, tag) = joined.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))?;
        tags.insert(number, tag);
    }
    Ok(())
}

/// The text of the first element of this name in an XML document whose texts hold no markup.
fn element(document: &[u8], name: &str) -> Option<String> {
    let text = std::str::from_utf8(document).ok()?;
    let (_, rest) = text.split_once(&format!("<{name}>"))?;
    let (value, _) = rest.split_once(&format!("</{name}>"))?;
    Some(value.trim().to_owned())
}
