//! Blobs of Azure Storage: requests to one of them, signed by the account's key or by what stands in its URL.
//!
//! Spec: Azure Storage REST API, version [`API_VERSION`]: "Authorize with Shared Key", "Put Blob", "Put Block", "Put Block
//! List".

use std::collections::BTreeMap;
use std::path::Path;

use hyper::header::{HeaderName, HeaderValue};
use hyper::{Method, StatusCode};
use jiff::Timestamp;

use super::TravelError;
use super::sign::escaped;
use crate::base64;
use crate::digest::hmac;
use crate::registry::{Payload, RegistryError, Request, Response, Transport, unescape};

const API_VERSION: &str = "2021-12-02";

/// A blob of more goes in blocks of so much, as with BuildKit. There are 50,000 blocks at most.
const BLOCK_BYTES: u64 = 32 << 20;
const MOST_BLOCKS: u64 = 50_000;

/// The key of a storage account.
#[derive(Clone, PartialEq, Eq)]
pub struct AccountKey {
    /// The account's name.
    pub account: String,
    /// The key's bytes.
    pub key: Vec<u8>,
}

impl std::fmt::Debug for AccountKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "AccountKey({})", self.account)
    }
}

/// A blob, or what holds blobs, and who asks for it.
pub struct Asked<'a> {
    /// Absolute, escaped; its query may carry a signature.
    pub url: String,
    /// Signs what the URL does not.
    pub key: Option<&'a AccountKey>,
}

impl Asked<'_> {
    /// A request, signed. The names of `query` are sorted.
    ///
    /// # Errors
    /// `RegistryError::BadUrl`.
    pub fn request(&self, method: Method, query: &[(&str, &str)], body: Payload) -> Result<Request, RegistryError> {
        let mut url = self.url.clone();
        for (name, value) in query {
            let separator = if url.contains('?') { '&' } else { '?' };
            url.push_str(&format!("{separator}{name}={}", escaped(value)));
        }
        // the server compares it with its own clock
        let date = Timestamp::now().strftime("%a, %d %b %Y %H:%M:%S GMT").to_string();
        let mut headers = BTreeMap::from([("x-ms-date", date), ("x-ms-version", API_VERSION.to_owned())]);
        if method == Method::PUT && !query.iter().any(|(name, _)| ["comp", "restype"].contains(name)) {
            headers.insert("x-ms-blob-type", "BlockBlob".to_owned());
        }
        let mut request = Request::get(&url)?.method(method);
        if let Some(key) = self.key {
            let signed = key.sign(&request, &headers, body.size_bytes());
            headers.insert("authorization", signed);
        }
        for (name, value) in headers {
            let malformed = |_| RegistryError::BadUrl {
                url: self.for_people(),
                reason: "its account holds characters that no header can carry".to_owned(),
            };
            let mut value = HeaderValue::try_from(value).map_err(malformed)?;
            value.set_sensitive(name == "authorization");
            request = request.header(HeaderName::from_static(name), value);
        }
        Ok(request.body(body))
    }

    /// Writes a file as this blob.
    ///
    /// # Errors
    /// The server does not take it.
    pub async fn put_file(&self, transport: &Transport, path: &Path, size_bytes: u64) -> Result<(), TravelError> {
        let part = |start_bytes, size_bytes| Payload::File { path: path.to_owned(), start_bytes, size_bytes };
        if size_bytes <= BLOCK_BYTES {
            return done(transport.send(&self.request(Method::PUT, &[], part(0, size_bytes))?).await?).await;
        }
        let block_bytes = BLOCK_BYTES.max(size_bytes.div_ceil(MOST_BLOCKS));
        let mut list = String::new();
        for number in 0..size_bytes.div_ceil(block_bytes) {
            // ids of one blob have one length
            let id = base64::encode(format!("{number:08}").as_bytes());
            let start_bytes = number * block_bytes;
            let body = part(start_bytes, block_bytes.min(size_bytes - start_bytes));
            let request = self.request(Method::PUT, &[("blockid", &id), ("comp", "block")], body)?;
            done(transport.send(&request).await?).await?;
            list.push_str(&format!("<Latest>{id}</Latest>"));
        }
        let list = format!("<?xml version=\"1.0\" encoding=\"utf-8\"?><BlockList>{list}</BlockList>");
        let request = self.request(Method::PUT, &[("comp", "blocklist")], Payload::Bytes(list.into()))?;
        done(transport.send(&request).await?).await
    }

    /// Writes these bytes as this blob.
    ///
    /// # Errors
    /// The server does not take it.
    pub async fn put_bytes(&self, transport: &Transport, bytes: Vec<u8>) -> Result<(), TravelError> {
        done(transport.send(&self.request(Method::PUT, &[], Payload::Bytes(bytes.into()))?).await?).await
    }

    fn for_people(&self) -> String {
        self.url.split('?').next().unwrap_or_default().to_owned()
    }
}

/// The server's answer, if it is a good one.
pub async fn done(response: Response) -> Result<(), TravelError> {
    if response.status.is_success() { Ok(()) } else { Err(refusal(response).await.into()) }
}

/// What the server refuses, in its own word for it.
pub async fn refusal(response: Response) -> RegistryError {
    match response.header("x-ms-error-code").map(str::to_owned) {
        Some(message) => RegistryError::Status { url: response.url_for_people(), status: response.status.as_u16(), message },
        None => response.into_status_error().await,
    }
}

/// Whether an error says that the container is not there.
pub fn lacks_container(error: &TravelError) -> bool {
    let not_found = StatusCode::NOT_FOUND.as_u16();
    matches!(error, TravelError::Registry(error)
        if matches!(&**error, RegistryError::Status { status, message, .. } if *status == not_found && message == "ContainerNotFound"))
}

impl AccountKey {
    /// The `Authorization` of a request.
    fn sign(&self, request: &Request, headers: &BTreeMap<&str, String>, body_bytes: u64) -> String {
        let length = if body_bytes == 0 { String::new() } else { body_bytes.to_string() };
        let own: String = headers.iter().map(|(name, value)| format!("{name}:{value}\n")).collect();
        let mut resource = format!("/{}{}", self.account, request.url.path());
        let mut query: Vec<(String, String)> =
            request.url.query().into_iter().flat_map(|query| query.split('&')).map(pair).collect();
        query.sort();
        for (name, value) in query {
            resource.push_str(&format!("\n{name}:{value}"));
        }
        // no language, no MD5, no conditions, no range; the date is among the headers
        let text = format!("{}\n\n\n{length}\n\n\n\n\n\n\n\n\n{own}{resource}", request.method);
        format!("SharedKey {}:{}", self.account, base64::encode(hmac(&self.key, text.as_bytes()).as_bytes()))
    }
}

fn pair(text: &str) -> (String, String) {
    let (name, value) = text.split_once('=').unwrap_or((text, ""));
    (unescape(name).to_lowercase(), unescape(value))
}
