//! What can go wrong between here and a registry.

use std::fmt;
use std::path::PathBuf;

use super::credentials::CredentialError;
use crate::digest::Digest;
use crate::reference::Platform;

/// Why a registry or a web server did not give what was asked for.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// The registry knows no such repository, tag or digest.
    #[error("`{name}` does not exist on {host}{tags}")]
    NotFound {
        /// What was asked for, as people write it.
        name: String,
        /// Who said so.
        host: String,
        /// What there is instead.
        tags: Tags,
    },
    /// A blob that a manifest names is not there.
    #[error("{host} has no blob {digest} in `{repository}`")]
    NoBlob {
        /// The blob.
        digest: Digest,
        /// Where it should be.
        repository: String,
        /// Who said so.
        host: String,
    },
    /// 401 or 403: not allowed, or (some registries do not tell these apart) not there.
    #[error("{host} refuses access to `{name}` (status {status}, {used})")]
    Denied {
        /// What was asked for.
        name: String,
        /// Who refused: the registry or its token server.
        host: String,
        /// 401 or 403.
        status: u16,
        /// Which credentials were shown.
        used: CredentialsUsed,
    },
    /// No connection, or one that broke off.
    #[error("cannot reach {host}: {broken}")]
    Unreachable {
        /// Host with port.
        host: String,
        /// In which way.
        broken: Broken,
    },
    /// A blob of which only a part came, however often it was asked for.
    #[error("the download of {digest} from {host} stopped at {found_bytes} of {expected_bytes} bytes: {broken}")]
    BlobCut {
        /// Host with port.
        host: String,
        /// The blob.
        digest: Digest,
        /// What came of it.
        found_bytes: u64,
        /// Its size.
        expected_bytes: u64,
        /// In which way it ended.
        broken: Broken,
    },
    /// The encrypted connection could not be trusted or agreed upon.
    #[error("cannot speak TLS with {host}: {reason}")]
    Tls {
        /// Host with port.
        host: String,
        /// In words.
        reason: String,
    },
    /// A file of certificates or keys that cannot be used.
    #[error("cannot use `{path}` as a list of certificates: {reason}")]
    BadCertificates {
        /// The file.
        path: PathBuf,
        /// In words.
        reason: String,
    },
    /// A file that says how a host is reached and cannot be understood.
    #[error("cannot use `{path}`: {reason}")]
    BadHosts {
        /// The file.
        path: PathBuf,
        /// In words, with line and column where they are known.
        reason: String,
    },
    /// Credentials that were asked for and cannot be had.
    #[error(transparent)]
    Credentials(#[from] CredentialError),
    /// A log-in that the registry does not accept.
    #[error("{host} refuses the log-in as user `{user}` (status {status})")]
    BadLogIn {
        /// Host with port.
        host: String,
        /// Who wanted to log in.
        user: String,
        /// HTTP status.
        status: u16,
    },
    /// A place that repositories of the host are pushed to is not known.
    #[error("nothing says where images of {host} are pushed: all its places are for reading")]
    ReadOnly {
        /// Host with port.
        host: String,
    },
    /// An upload that came to nothing.
    #[error("{host} did not take {digest} into `{repository}`: {reason}{}", Status(*.status))]
    NotTaken {
        /// Who was to take it.
        host: String,
        /// The blob or manifest.
        digest: Digest,
        /// Where it was to go.
        repository: String,
        /// In words.
        reason: String,
        /// HTTP status, of a refusal.
        status: Option<u16>,
    },
    /// An answer that is none of the above.
    #[error("{url} answers with status {status}{}", Detail(message))]
    Status {
        /// What was asked, after redirects.
        url: String,
        /// HTTP status.
        status: u16,
        /// The registry's own words, when it has any.
        message: String,
    },
    /// Text that is no http(s) URL.
    #[error("`{url}` is not a URL that can be fetched: {reason}")]
    BadUrl {
        /// The text.
        url: String,
        /// In words.
        reason: String,
    },
    /// A chain of redirects that does not end.
    #[error("{url} redirects too often")]
    Redirects {
        /// Where it began.
        url: String,
    },
    /// The bytes are not those that were asked for.
    #[error("{host} sent wrong bytes for {expected} (they hash to {found})")]
    BadDigest {
        /// Who sent them.
        host: String,
        /// What was asked for.
        expected: Digest,
        /// What came.
        found: Digest,
    },
    /// More or fewer bytes than the manifest says.
    #[error("{host} sent {found_bytes} bytes for {digest}, which has {expected_bytes}")]
    BadSize {
        /// Who sent them.
        host: String,
        /// What was asked for.
        digest: Digest,
        /// Size in the manifest.
        expected_bytes: u64,
        /// Size of the answer; of the part seen when it went on.
        found_bytes: u64,
    },
    /// An index without an image for the platform.
    #[error("`{name}` has no image for {wanted}, only for {}", Listed(available))]
    NoPlatform {
        /// What was asked for.
        name: String,
        /// For which platform.
        wanted: Platform,
        /// What there is.
        available: Vec<Platform>,
    },
    /// A manifest of Docker's first format, which names no config and cannot be verified.
    #[error("`{name}` is stored in Docker's schema 1 format, which is no longer read; push it again with a current tool")]
    Schema1 {
        /// What was asked for.
        name: String,
    },
    /// A layer whose bytes are elsewhere.
    #[error("`{name}` has a foreign layer {digest}, whose bytes no registry holds")]
    ForeignLayer {
        /// What was asked for.
        name: String,
        /// The layer.
        digest: Digest,
    },
    /// A document that cannot be understood.
    #[error("`{name}` has a malformed manifest: {reason}")]
    BadManifest {
        /// What was asked for.
        name: String,
        /// In words.
        reason: String,
    },
}

impl RegistryError {
    /// Whether nobody answered at all: a machine without network looks like this.
    pub fn is_offline(&self) -> bool {
        matches!(self, RegistryError::Unreachable { broken: Broken::Name(_) | Broken::Refused | Broken::NoRoute, .. })
    }
}

/// In which way a connection failed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Broken {
    /// The host's name does not resolve.
    Name(String),
    /// Nobody listens there.
    Refused,
    /// There is no way to that network.
    NoRoute,
    /// It stayed silent for so many seconds.
    Silent {
        /// How long was waited.
        stall_secs: u64,
    },
    /// It broke off, in words.
    Cut(String),
    /// The proxy would not pass the connection on.
    Proxy(String),
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Broken::Name(reason) => write!(f, "its name does not resolve ({reason})"),
            Broken::Refused => f.write_str("connection refused"),
            Broken::NoRoute => f.write_str("no route to it"),
            Broken::Silent { stall_secs: 1 } => f.write_str("no answer for a second"),
            Broken::Silent { stall_secs } => write!(f, "no answer for {stall_secs} seconds"),
            Broken::Cut(reason) => write!(f, "the connection broke ({reason})"),
            Broken::Proxy(reason) => write!(f, "the proxy refused ({reason})"),
        }
    }
}

/// Which credentials a refused request carried.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum CredentialsUsed {
    /// None: there are none for the host.
    None,
    /// Those of a user.
    User {
        /// Who.
        name: String,
        /// Where they were found, such as `~/.docker/config.json`.
        origin: String,
    },
}

impl fmt::Display for CredentialsUsed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CredentialsUsed::None => f.write_str("without credentials"),
            CredentialsUsed::User { name, origin } => write!(f, "as user `{name}` from {origin}"),
        }
    }
}

/// What a registry that lacks a tag has in its repository.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum Tags {
    /// It was not asked, or does not say.
    #[default]
    Unknown,
    /// It has no such repository.
    NoRepository,
    /// Tags that come near, best first.
    Nearest(Vec<String>),
    /// None comes near: some of those that there are, and how many there are beside them.
    Others(Vec<String>, usize),
}

impl fmt::Display for Tags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let listed = |tags: &[String]| format!("`{}`", tags.join("`, `"));
        match self {
            Tags::Unknown => Ok(()),
            Tags::NoRepository => f.write_str(", which has no such repository"),
            Tags::Nearest(tags) if tags.len() == 1 => write!(f, "; its nearest tag is {}", listed(tags)),
            Tags::Nearest(tags) => write!(f, "; its nearest tags are {}", listed(tags)),
            Tags::Others(tags, 0) if tags.len() == 1 => write!(f, "; its one tag is {}", listed(tags)),
            Tags::Others(tags, 0) => write!(f, "; its tags are {}", listed(tags)),
            Tags::Others(tags, more) => write!(f, "; its tags are {} and {more} more", listed(tags)),
        }
    }
}

struct Detail<'a>(&'a str);

impl fmt::Display for Detail<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() { Ok(()) } else { write!(f, ": {}", self.0) }
    }
}

struct Status(Option<u16>);

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.map_or(Ok(()), |status| write!(f, " (status {status})"))
    }
}

struct Listed<'a>(&'a [Platform]);

impl fmt::Display for Listed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<String> = self.0.iter().map(Platform::to_string).collect();
        f.write_str(if names.is_empty() { "nothing" } else { "" })?;
        f.write_str(&names.join(", "))
    }
}
