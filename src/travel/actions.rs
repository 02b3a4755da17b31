//! A cache in the cache service of GitHub Actions, version 2.
//!
//! Entries are written once and found by name, or by the beginning of one, newest first. The names are BuildKit's (moby/buildkit,
//! `cache/remotecache/gha`): `buildkit-blob-1-DIGEST` is a blob, `index-SCOPE-1-BRANCH#NUMBER` a version of the document, the
//! highest number the latest; BRANCH is the start of the digest of a branch that the token lets read or write. Where an entry's
//! bytes are, the service says each time it is asked: URLs of Azure Storage that are signed already.
//!
//! Source of the service's words: actions/toolkit, `packages/cache`; tonistiigi/go-actions-cache.

use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue};
use hyper::{Method, StatusCode};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::TravelError;
use super::address::ActionsAddress;
use super::azure::Asked;
use super::checked::{named, to_the_end};
use crate::base64;
use crate::digest::Digest;
use crate::image::Descriptor;
use crate::registry::manifest::LARGEST_DOCUMENT_BYTES;
use crate::registry::{BlobReader, Broken, Client, Payload, RegistryError, Request};

/// What tells entries of one kind from those of others under the same name; all of BuildKit's have this.
const VERSION_TEXT: &str = "|go-actionscache-1.0";

const SERVICE: &str = "twirp/github.actions.results.api.v1.CacheService";

/// An answer of the service is no larger.
const LARGEST_ANSWER_BYTES: u64 = 64 << 10;

/// How often the document's number may be taken by somebody else.
const MOST_RACES: usize = 20;

/// The service, and what of it is this cache's. Cheap to clone.
#[derive(Clone)]
pub struct Actions {
    address: Arc<ActionsAddress>,
    branches: Arc<[Branch]>,
    client: Client,
}

/// A branch that the token is good for.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
struct Branch {
    #[serde(rename = "Scope")]
    name: String,
    /// 1 to read, 2 to write.
    #[serde(rename = "Permission")]
    rights: u32,
}

const MAY_WRITE: u32 = 2;

impl Actions {
    /// Nobody is asked yet.
    pub fn new(address: &ActionsAddress, client: &Client) -> Actions {
        let branches = branches(&address.token).unwrap_or_default();
        Actions { address: Arc::new(address.clone()), branches: branches.into(), client: client.clone() }
    }

    /// What it is called.
    pub fn name(&self) -> String {
        format!("gha:{}", self.address.scope)
    }

    /// Whether blobs of one are blobs of the other.
    pub fn shares_blobs_with(&self, other: &Actions) -> bool {
        (&self.address.url, &self.address.token) == (&other.address.url, &other.address.token)
    }

    /// The documents of all branches that have one, the one of the branch that is built first.
    pub async fn configs(&self) -> Result<Vec<Vec<u8>>, TravelError> {
        let mut names: Vec<String> = Vec::new();
        // a pull request may read its base's, and the default branch's
        let (own, others): (Vec<&Branch>, Vec<&Branch>) = self.branches.iter().partition(|branch| branch.rights & MAY_WRITE != 0);
        for branch in own.into_iter().chain(others) {
            names.push(self.index_name(&branch.name));
        }
        if names.is_empty() {
            names.push(self.index_name(""));
        }
        names.dedup();
        let mut documents = Vec::new();
        for name in names {
            if let Some(entry) = self.find(&format!("{name}#")).await? {
                documents.push(self.small(&name, &entry.url).await?);
            }
        }
        if documents.is_empty() { Err(TravelError::Absent { place: self.name() }) } else { Ok(documents) }
    }

    /// A small blob.
    pub async fn document(&self, digest: &Digest) -> Result<Vec<u8>, TravelError> {
        let name = blob_name(digest);
        let entry = self.blob_entry(digest).await?;
        let bytes = self.small(&name, &entry.url).await?;
        named(self.name(), digest, bytes)
    }

    /// A large one, as [`super::Place::blob`].
    pub async fn blob<T: Send + 'static>(
        &self,
        descriptor: &Descriptor,
        consume: impl FnOnce(&mut (dyn Read + Send)) -> Result<T, TravelError> + Send + 'static,
    ) -> Result<T, TravelError> {
        let entry = self.blob_entry(&descriptor.digest).await?;
        let request = storage(&entry.url).request(Method::GET, &[], Payload::default())?;
        let read = move |reader: &mut BlobReader| to_the_end(reader, consume);
        self.client.transport().fetch(&request, descriptor.digest, descriptor.size_bytes, read).await
    }

    /// Whether the service has the blob.
    pub async fn has(&self, digest: &Digest) -> Result<bool, TravelError> {
        let name = blob_name(digest);
        Ok(self.find(&name).await?.is_some_and(|entry| entry.name == name))
    }

    /// Writes the file at `path` as a blob.
    pub async fn put(&self, blob: &Descriptor, path: &Path) -> Result<(), TravelError> {
        let name = blob_name(&blob.digest);
        // somebody else may be at it, or was and went away: then there is nothing that could be done
        let Some(url) = self.reserve(&name).await? else { return Ok(()) };
        storage(&url).put_file(self.client.transport(), path, blob.size_bytes).await?;
        self.complete(&name, blob.size_bytes).await
    }

    /// Writes the next version of the document.
    pub async fn finish(&self, bytes: Vec<u8>) -> Result<(), TravelError> {
        let branch = self.branches.iter().rev().find(|branch| branch.rights & MAY_WRITE != 0);
        let name = self.index_name(branch.map(|branch| branch.name.as_str()).unwrap_or_default());
        let prefix = format!("{name}#");
        let newest = self.find(&prefix).await?;
        let number = newest.and_then(|entry| entry.name.strip_prefix(&prefix)?.parse::<u64>().ok()).unwrap_or(0);
        // a number that is taken is another build's, which ends before or after this one: the higher one counts
        for number in (number.saturating_add(1)..).take(MOST_RACES) {
            let name = format!("{prefix}{number}");
            if let Some(url) = self.reserve(&name).await? {
                let size_bytes = bytes.len() as u64;
                storage(&url).put_bytes(self.client.transport(), bytes).await?;
                return self.complete(&name, size_bytes).await;
            }
        }
        Err(self.malformed(format!("every number for `{name}` is taken")))
    }

    async fn blob_entry(&self, digest: &Digest) -> Result<Entry, TravelError> {
        let name = blob_name(digest);
        let entry = self.find(&name).await?.filter(|entry| entry.name == name);
        entry.ok_or_else(|| self.malformed(format!("it has no {digest} any more")))
    }

    /// The newest entry whose name begins like this.
    async fn find(&self, name: &str) -> Result<Option<Entry>, TravelError> {
        #[derive(Deserialize)]
        struct Answer {
            #[serde(default)]
            ok: bool,
            #[serde(default, alias = "signedDownloadUrl")]
            signed_download_url: String,
            #[serde(default, alias = "matchedKey")]
            matched_key: String,
        }
        let question = json!({ "key": name, "restore_keys": [name], "version": version() });
        let answer: Option<Answer> = self.ask("GetCacheEntryDownloadURL", &question).await?;
        let found = answer.filter(|answer| answer.ok && answer.matched_key.starts_with(name));
        Ok(found.map(|answer| Entry { name: answer.matched_key, url: answer.signed_download_url }))
    }

    /// Where a new entry goes; `None` if there is one of this name.
    async fn reserve(&self, name: &str) -> Result<Option<String>, TravelError> {
        #[derive(Deserialize)]
        struct Answer {
            #[serde(default)]
            ok: bool,
            #[serde(default, alias = "signedUploadUrl")]
            signed_upload_url: String,
        }
        let answer: Option<Answer> = self.ask("CreateCacheEntry", &json!({ "key": name, "version": version() })).await?;
        match answer {
            None => Ok(None),
            Some(answer) if answer.ok => Ok(Some(answer.signed_upload_url)),
            Some(_) => Err(self.malformed(format!("it does not take `{name}`"))),
        }
    }

    async fn complete(&self, name: &str, size_bytes: u64) -> Result<(), TravelError> {
        #[derive(Deserialize)]
        struct Answer {
            #[serde(default)]
            ok: bool,
        }
        let question = json!({ "key": name, "size_bytes": size_bytes.to_string(), "version": version() });
        let answer: Option<Answer> = self.ask("FinalizeCacheEntryUpload", &question).await?;
        let taken = answer.is_some_and(|answer| answer.ok);
        if taken { Ok(()) } else { Err(self.malformed(format!("it did not take `{name}`"))) }
    }

    /// Asks the service; `None` where it says that there is such a thing already, or none.
    async fn ask<T: for<'de> Deserialize<'de>>(&self, method: &str, question: &Value) -> Result<Option<T>, TravelError> {
        let url = format!("{}/{SERVICE}/{method}", self.address.url.trim_end_matches('/'));
        let unfit = |_| RegistryError::BadUrl { url: url.clone(), reason: "its token is no header's value".to_owned() };
        let mut token = HeaderValue::try_from(format!("Bearer {}", self.address.token)).map_err(unfit)?;
        token.set_sensitive(true);
        let request = Request::get(&url)?
            .method(Method::POST)
            .header(AUTHORIZATION, token)
            .header(CONTENT_TYPE, HeaderValue::from_static("application/json"))
            .body(Payload::Bytes(question.to_string().into()));
        let asking = self.client.transport().send(&request);
        let Ok(response) = tokio::time::timeout(self.address.timeout, asking).await else {
            let broken = Broken::Silent { stall_secs: self.address.timeout.as_secs() };
            let host = request.url.authority().map(ToString::to_string).unwrap_or_default();
            return Err(RegistryError::Unreachable { host, broken }.into());
        };
        let response = response?;
        match response.status {
            StatusCode::OK => {}
            StatusCode::CONFLICT | StatusCode::NOT_FOUND => return Ok(None),
            status => {
                let url = response.url_for_people();
                let bytes = response.bytes(LARGEST_ANSWER_BYTES).await?.unwrap_or_default();
                let message = serde_json::from_slice::<Refusal>(&bytes).map(|refusal| refusal.msg).unwrap_or_default();
                return Err(RegistryError::Status { url, status: status.as_u16(), message }.into());
            }
        }
        let bytes = response.bytes(LARGEST_ANSWER_BYTES).await?.unwrap_or_default();
        let malformed = |error: serde_json::Error| self.malformed(format!("answer to {method}: {error}"));
        serde_json::from_slice(&bytes).map(Some).map_err(malformed)
    }

    /// The bytes of a small entry.
    async fn small(&self, name: &str, url: &str) -> Result<Vec<u8>, TravelError> {
        let request = storage(url).request(Method::GET, &[], Payload::default())?;
        let response = self.client.transport().send(&request).await?;
        if !response.status.is_success() {
            return Err(super::azure::refusal(response).await.into());
        }
        let bytes = response.bytes(LARGEST_DOCUMENT_BYTES).await?;
        bytes.ok_or_else(|| self.malformed(format!("`{name}` is larger than {LARGEST_DOCUMENT_BYTES} bytes")))
    }

    fn index_name(&self, branch: &str) -> String {
        let branch = Digest::of(branch.as_bytes()).hex();
        format!("index-{}-1-{}", self.address.scope, &branch[..8])
    }

    fn malformed(&self, reason: String) -> TravelError {
        TravelError::Malformed { place: self.name(), reason }
    }
}

struct Entry {
    name: String,
    url: String,
}

/// What Twirp says of a failure.
#[derive(Serialize, Deserialize)]
struct Refusal {
    #[serde(default)]
    msg: String,
}

fn storage(url: &str) -> Asked<'static> {
    Asked { url: url.to_owned(), key: None }
}

fn blob_name(digest: &Digest) -> String {
    format!("buildkit-blob-1-{digest}")
}

fn version() -> String {
    Digest::of(VERSION_TEXT.as_bytes()).hex()
}

/// The branches that a token is good for, as its claims have them; it is the service that checks the token.
fn branches(token: &str) -> Option<Vec<Branch>> {
    #[derive(Deserialize)]
    struct Claims {
        /// JSON in JSON.
        ac: String,
    }
    let payload = token.split('.').nth(1)?.replace('-', "+").replace('_', "/");
    let claims: Claims = serde_json::from_slice(&base64::decode(&payload)?).ok()?;
    serde_json::from_str(&claims.ac).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_says_which_branches_it_is_good_for() {
        let ac = r#"[{"Scope":"refs/heads/feature","Permission":3},{"Scope":"refs/heads/main","Permission":1}]"#;
        let payload = base64::encode(json!({ "ac": ac, "exp": 1 }).to_string().as_bytes());
        let token = format!("e30.{}.x", payload.trim_end_matches('=').replace('+', "-").replace('/', "_"));
        let branch = |name: &str, rights| Branch { name: name.to_owned(), rights };
        assert_eq!(branches(&token), Some(vec![branch("refs/heads/feature", 3), branch("refs/heads/main", 1)]));
        for other in ["", "secret", "a.b.c", "e30.e30.x"] {
            assert_eq!(branches(other), None, "{other}");
        }
    }
}
