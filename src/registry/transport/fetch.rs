//! Blobs that are not in a registry.

use hyper::body::Bytes;
use tokio::sync::mpsc;

use super::{Request, Transport};
use crate::digest::Digest;
use crate::registry::blob::{BlobReader, consumed};
use crate::registry::error::RegistryError;

impl Transport {
    /// Streams what `request` asks for to `consume`, which runs where it may block. The value of `consume` is returned only if
    /// all bytes came and were right; when something failed on the way, that is the error, rather than what `consume` made of
    /// it.
    pub async fn fetch<T, E>(
        &self,
        request: &Request,
        digest: Digest,
        size_bytes: u64,
        consume: impl FnOnce(&mut BlobReader) -> Result<T, E> + Send + 'static,
    ) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<RegistryError> + Send + 'static,
    {
        let mut response = self.send(request).await?;
        if !response.status.is_success() {
            return Err(response.into_status_error().await.into());
        }
        let (host, url) = (response.host(), response.url_for_people());
        let send = |sender: mpsc::Sender<Bytes>| async move {
            let mut sent_bytes = 0;
            while let Some(chunk) = response.chunk().await? {
                sent_bytes += chunk.len() as u64;
                // a reader that went away says why
                if sent_bytes > size_bytes || sender.send(chunk).await.is_err() {
                    break;
                }
            }
            Ok::<u64, RegistryError>(sent_bytes)
        };
        let (sent, result, mismatch) = consumed(digest, size_bytes, send, consume).await;
        match (sent, mismatch) {
            (Err(error), _) => Err(error.into()),
            (Ok(_), Some(found)) => Err(RegistryError::BadDigest { host, expected: digest, found }.into()),
            (Ok(found_bytes), None) if found_bytes != size_bytes && result.is_err() => {
                let host = url;
                Err(RegistryError::BadSize { host, digest, expected_bytes: size_bytes, found_bytes }.into())
            }
            (Ok(_), None) => result,
        }
    }
}
