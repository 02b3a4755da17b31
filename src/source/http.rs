//! Files from http(s) URLs.
//!
//! A file is kept as a blob, and what the server said to tell its versions apart is remembered by URL: the next fetch asks
//! "still this one?" and downloads nothing when it is. With a checksum that a remembered file has, nobody is asked.

use std::io::Write;

use hyper::StatusCode;
use hyper::body::Bytes;
use hyper::header::{AUTHORIZATION, ETAG, HeaderName, HeaderValue, IF_MODIFIED_SINCE, IF_NONE_MATCH, LAST_MODIFIED};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use super::SourceError;
use crate::digest::{CacheKey, Digest, Hasher};
use crate::registry::{Broken, Client, RegistryError, Request, Response, parse_url};
use crate::store::{Store, StoreError};
use crate::task;

/// Chunks that wait for the disk.
const CHUNKS_AHEAD: usize = 32;

/// A downloaded file: a blob of the store.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HttpFile {
    /// SHA-256 of its bytes, under which the store has it.
    pub digest: Digest,
    /// Its bytes.
    pub size_bytes: u64,
    /// What it is called, by its URL.
    pub file_name: String,
    /// When the server says it changed, seconds since 1970.
    pub last_modified_secs: Option<i64>,
    /// What the server calls this version.
    pub etag: Option<String>,
}

/// What is shown to the server.
#[derive(Clone, Debug)]
pub enum HttpAuth {
    /// A bearer token (the secret `HTTP_AUTH_TOKEN_<host>`).
    Token(String),
    /// A whole `Authorization` value (the secret `HTTP_AUTH_HEADER_<host>`).
    Header(String),
}

/// Fetches `url` into the store, unless the store has it and the server (or `checksum`) says that it is still the same.
///
/// # Errors
/// `SourceError::Registry` holds the URL and what went wrong, with the status for any but 200; `SourceError::Checksum` when
/// the bytes are others than `checksum` wants, and then nothing is kept.
pub async fn fetch(
    store: &Store,
    client: &Client,
    url: &str,
    checksum: Option<Digest>,
    auth: Option<&HttpAuth>,
) -> Result<HttpFile, SourceError> {
    let known = remembered(store, url).await?;
    if let Some(known) = &known
        && checksum == Some(known.digest)
    {
        return Ok(known.file(url));
    }
    let mut request = Request::get(url)?;
    if let Some(auth) = auth {
        let text = match auth {
            HttpAuth::Token(token) => format!("Bearer {}", token.trim()),
            HttpAuth::Header(value) => value.trim().to_owned(),
        };
        let reason = || "its credentials hold characters that no header can carry".to_owned();
        let mut value =
            HeaderValue::try_from(text).map_err(|_| RegistryError::BadUrl { url: url.to_owned(), reason: reason() })?;
        value.set_sensitive(true);
        request.headers.insert(AUTHORIZATION, value);
    }
    if let Some(known) = &known {
        request = with_header(request, IF_NONE_MATCH, known.etag.as_deref());
        request = with_header(request, IF_MODIFIED_SINCE, known.last_modified.as_deref());
    }
    let mut attempt = 1;
    let version = loop {
        let response = client.transport().send(&request).await?;
        match (response.status, &known) {
            (StatusCode::OK, _) => {}
            (StatusCode::NOT_MODIFIED, Some(known)) => break known.clone(),
            _ => return Err(response.into_status_error().await.into()),
        }
        match download(store, response, url, checksum).await {
            Ok(version) => break version,
            // Servers of plain files differ too much in what a range means; a broken download starts anew.
            Err(error) if attempt < client.transport().config().retry.attempts && is_cut(&error) => attempt += 1,
            Err(error) => return Err(error),
        }
    };
    if let Some(checksum) = checksum
        && checksum != version.digest
    {
        return Err(mismatch(url, checksum, version.digest, version.size_bytes, &[]));
    }
    let (store, key, value) = (store.clone(), memo_key(url), serde_json::to_vec(&version).unwrap_or_default());
    task::blocking(move || store.set_memo(&key, &value)).await?;
    Ok(version.file(url))
}

/// What a file from `url` is called: the last element of the path, without query; `__unnamed__` when there is none.
pub fn file_name(url: &str) -> String {
    let path = parse_url(url).map(|(url, _)| crate::registry::unescape(url.path())).unwrap_or_default();
    match path.rsplit('/').next() {
        Some(name) if !matches!(name, "" | "." | "..") => name.to_owned(),
        _ => "__unnamed__".to_owned(),
    }
}

/// One version of a file, as it is remembered.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
struct Version {
    digest: Digest,
    size_bytes: u64,
    etag: Option<String>,
    last_modified: Option<String>,
}

impl Version {
    fn file(&self, url: &str) -> HttpFile {
        HttpFile {
            digest: self.digest,
            size_bytes: self.size_bytes,
            file_name: file_name(url),
            last_modified_secs: self.last_modified.as_deref().and_then(seconds),
            etag: self.etag.clone(),
        }
    }
}

/// The version of `url` that the store has.
async fn remembered(store: &Store, url: &str) -> Result<Option<Version>, SourceError> {
    let (store, key) = (store.clone(), memo_key(url));
    let known = task::blocking(move || -> Result<Option<Version>, StoreError> {
        let version: Option<Version> = store.memo(&key)?.and_then(|value| serde_json::from_slice(&value).ok());
        match version {
            Some(version) if store.blob_size(&version.digest)? == Some(version.size_bytes) => Ok(Some(version)),
            _ => Ok(None),
        }
    });
    Ok(known.await?)
}

fn memo_key(url: &str) -> CacheKey {
    let mut hasher = Hasher::new();
    hasher.field(b"http version 1");
    hasher.field(url.as_bytes());
    CacheKey(hasher.finish())
}

async fn download(store: &Store, mut response: Response, url: &str, checksum: Option<Digest>) -> Result<Version, SourceError> {
    let text = |name| response.header(name).map(str::to_owned);
    let (etag, last_modified) = (text(ETAG), text(LAST_MODIFIED));
    let (sender, receiver) = mpsc::channel(CHUNKS_AHEAD);
    let (store, url) = (store.clone(), url.to_owned());
    let written = task::blocking(move || write(&store, receiver, &url, checksum));
    let sent = async move {
        while let Some(chunk) = response.chunk().await? {
            // The writer failed and says why.
            if sender.send(Piece::Bytes(chunk)).await.is_err() {
                return Ok(());
            }
        }
        // A writer that went away failed and says why.
        let _ = sender.send(Piece::End).await;
        Ok::<(), RegistryError>(())
    };
    let (sent, written) = tokio::join!(sent, written);
    sent?;
    let (digest, size_bytes) = written?.expect("what was sent to its end was written to its end");
    Ok(Version { digest, size_bytes, etag, last_modified })
}

/// What goes to the writer. Without an `End` the file is not whole.
enum Piece {
    Bytes(Bytes),
    End,
}

/// Writes a blob; `None`, and no blob, when its end never came.
fn write(
    store: &Store,
    mut pieces: mpsc::Receiver<Piece>,
    url: &str,
    checksum: Option<Digest>,
) -> Result<Option<(Digest, u64)>, SourceError> {
    let mut writer = store.blob_writer()?;
    let mut head = Vec::new();
    let mut size_bytes = 0;
    loop {
        let chunk = match pieces.blocking_recv() {
            Some(Piece::Bytes(chunk)) => chunk,
            Some(Piece::End) => break,
            None => return Ok(None),
        };
        if head.len() < 512 {
            head.extend_from_slice(&chunk[..chunk.len().min(512)]);
        }
        size_bytes += chunk.len() as u64;
        let blobs = store.root().join("blobs");
        writer.write_all(&chunk).map_err(|source| SourceError::Io { action: "write below", path: blobs, source })?;
    }
    match writer.finish(checksum) {
        Err(StoreError::Mismatch { expected, found }) => Err(mismatch(url, expected, found, size_bytes, &head)),
        other => Ok(Some(other?)),
    }
}

fn mismatch(url: &str, expected: Digest, found: Digest, size_bytes: u64, head: &[u8]) -> SourceError {
    let start = String::from_utf8_lossy(head).trim_start().to_ascii_lowercase();
    let looks_like_html = start.starts_with("<!doctype html") || start.starts_with("<html");
    SourceError::Checksum { url: url.to_owned(), expected, found, size_bytes, looks_like_html }
}

fn with_header(request: Request, name: HeaderName, value: Option<&str>) -> Request {
    match value.and_then(|value| HeaderValue::from_str(value).ok()) {
        Some(value) => request.header(name, value),
        None => request,
    }
}

fn is_cut(error: &SourceError) -> bool {
    let SourceError::Registry(error) = error else { return false };
    matches!(**error, RegistryError::Unreachable { broken: Broken::Cut(_) | Broken::Silent { .. }, .. })
}

/// `Thu, 02 Jan 2020 03:04:05 GMT` → seconds since 1970 (RFC 9110, 5.6.7).
fn seconds(date: &str) -> Option<i64> {
    jiff::fmt::rfc2822::parse(date).ok().map(|time| time.timestamp().as_second())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn named(url: &str, expected: &str) {
        assert_eq!(file_name(url), expected);
    }

    #[test]
    fn files_are_called_by_their_url() {
        named("http://host/a/file.txt?x=/y", "file.txt");
        named("http://host/with%20space.txt#part", "with space.txt");
        named("http://host/", "__unnamed__");
        named("http://host/dir/", "__unnamed__");
        named("http://host", "__unnamed__");
        named("http://host/a/..", "__unnamed__");
    }

    #[test]
    fn dates_are_read() {
        assert_eq!(seconds("Thu, 02 Jan 2020 03:04:05 GMT"), Some(1_577_934_245));
        assert_eq!(seconds("yesterday"), None);
    }

    #[test]
    fn error_pages_are_recognised() {
        let digest = Digest::of(b"x");
        let text = mismatch("http://h/f", digest, digest, 9, b"\n<!DOCTYPE html>").to_string();
        assert!(text.ends_with("(9 bytes, a web page by the look of it)"), "{text}");
    }
}
