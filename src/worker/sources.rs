//! What the names of sources stood for in a build.

use std::collections::BTreeMap;

use crate::digest::Digest;

/// What names stood for, as far as a build asked.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sources {
    /// Images by canonical name: the manifest, or the index.
    pub images: BTreeMap<String, Digest>,
    /// Downloads by URL: the file's digest.
    pub urls: BTreeMap<String, Digest>,
    /// Git trees by remote and reference: the commit.
    pub commits: BTreeMap<(String, String), String>,
}
