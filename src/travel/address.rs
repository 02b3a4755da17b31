//! Where caches are.

use std::path::PathBuf;
use std::time::Duration;

use super::azure::AccountKey;
use super::sign::Keys;
use crate::digest::Digest;
use crate::reference::ImageRef;

/// Where a cache is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// An OCI layout.
    Directory {
        /// The directory.
        path: PathBuf,
        /// The name in its index.
        tag: String,
        /// `digest=`: what to read whatever the name stands for.
        digest: Option<Digest>,
    },
    /// A repository.
    Registry {
        /// Its name and tag.
        image_ref: ImageRef,
        /// `registry.insecure=`.
        insecure: bool,
    },
    /// A bucket.
    Bucket(Box<BucketAddress>),
    /// A container of Azure Blob Storage.
    Container(Box<ContainerAddress>),
    /// The cache service of GitHub Actions.
    Actions(Box<ActionsAddress>),
    /// The config of the image that is built.
    Image,
}

/// A bucket of S3, and where in it the cache is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BucketAddress {
    /// Its name.
    pub bucket: String,
    /// Where Amazon has it.
    pub region: String,
    /// Another server: `http(s)://HOST[:PORT]`.
    pub endpoint: Option<String>,
    /// Whether that server wants the bucket in the path rather than in its name.
    pub path_style: bool,
    /// Before all names.
    pub prefix: String,
    /// Before the names of documents.
    pub manifests_prefix: String,
    /// Before the names of blobs.
    pub blobs_prefix: String,
    /// The cache's own; the first is read. At least one.
    pub names: Vec<String>,
    /// Who asks; nobody in particular without.
    pub keys: Option<Keys>,
}

/// A container of Azure Blob Storage, and where in it the cache is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContainerAddress {
    /// `http(s)://HOST`, and the account where that is not the host's name; without a query.
    pub account_url: String,
    /// The query that the URL came with: a shared access signature.
    pub signature: Option<String>,
    /// Its name.
    pub container: String,
    /// The directory of all names.
    pub prefix: String,
    /// Below it, that of documents.
    pub manifests_prefix: String,
    /// Below it, that of blobs.
    pub blobs_prefix: String,
    /// The cache's own; the first is read. At least one.
    pub names: Vec<String>,
    /// Who asks; nobody in particular without.
    pub key: Option<AccountKey>,
}

/// The cache service of GitHub Actions, and the cache's name there.
#[derive(Clone, PartialEq, Eq)]
pub struct ActionsAddress {
    /// `url_v2=`: where the service is.
    pub url: String,
    /// `token=`: who asks, and for which branches.
    pub token: String,
    /// `scope=`.
    pub scope: String,
    /// `timeout=`: of one question.
    pub timeout: Duration,
}

impl std::fmt::Debug for ActionsAddress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ActionsAddress({}, {}, {:?})", self.url, self.scope, self.timeout)
    }
}
