//! Secrets of the client's that steps may read.

use std::path::PathBuf;

/// `--secret id=ID,src=FILE` or `env=NAME`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Secret {
    /// Its name.
    pub id: String,
    /// Where its value is read, when a step asks.
    pub source: SecretSource,
}

/// Where a secret's value is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SecretSource {
    /// In a file.
    File(PathBuf),
    /// Taken from the client's environment already.
    Value(Vec<u8>),
}
