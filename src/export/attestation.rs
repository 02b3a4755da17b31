//! Statements about an image, attached to it as BuildKit attaches them: a manifest of in-toto statements beside the image in
//! the index, for no platform, that names the image it is about.
//!
//! Source of the form: moby/buildkit, `docs/attestations/attestation-storage.md`; in-toto, "Statement" v1.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::digest::Digest;
use crate::image::{Descriptor, Dialect, Image, document, media_type};
use crate::reference::{ImageRef, Platform};

/// What is said of an image, before it has a digest.
#[derive(Debug, Clone, PartialEq)]
pub struct Claim {
    /// `https://slsa.dev/provenance/v1`.
    pub predicate_type: String,
    /// What it is called among plain files: `provenance.json`.
    pub file_name: String,
    /// What is said.
    pub predicate: Value,
    /// Whom it is about, if not the image or the files that it goes with.
    pub subjects: Vec<Subject>,
}

/// A manifest of statements about one image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attestation {
    /// As the index lists it.
    pub descriptor: Descriptor,
    /// The manifest's bytes.
    pub manifest: Vec<u8>,
    /// Digest and bytes of each statement.
    pub statements: Vec<(Digest, Vec<u8>)>,
}

/// The config of a manifest that has none.
pub const EMPTY_CONFIG: &[u8] = b"{}";

impl Attestation {
    /// `claims` about `image`, which goes by `names`.
    pub(super) fn new(image: &Image, names: &[ImageRef], claims: &[Claim]) -> Attestation {
        let platform = image.descriptor.platform.as_ref();
        let subject = |name: &ImageRef| Subject::new(package_url(name, platform), image.descriptor.digest);
        let subjects: Vec<Subject> = names.iter().map(subject).collect();
        let mut layers = Vec::with_capacity(claims.len());
        let mut statements = Vec::with_capacity(claims.len());
        for claim in claims {
            let bytes = document::compact(&Statement::new(claim, &subjects));
            let mut layer = Descriptor::of("application/vnd.in-toto+json", &bytes);
            layer.annotations.insert("in-toto.io/predicate-type".to_owned(), claim.predicate_type.clone());
            statements.push((layer.digest, bytes));
            layers.push(layer);
        }
        let manifest = serde_json::to_string_pretty(&Document {
            schema_version: 2,
            media_type: Dialect::Oci.manifest(),
            artifact_type: "application/vnd.docker.attestation.manifest.v1+json",
            config: EmptyConfig {
                media_type: "application/vnd.oci.empty.v1+json",
                digest: Digest::of(EMPTY_CONFIG),
                size: EMPTY_CONFIG.len(),
                data: "e30=",
            },
            layers,
            subject: Descriptor::new(&image.descriptor.media_type, image.descriptor.digest, image.descriptor.size_bytes),
        });
        let manifest = manifest.expect("a manifest is plain data").into_bytes();
        let mut descriptor = Descriptor::of(media_type::MANIFEST, &manifest);
        descriptor.annotations = BTreeMap::from([
            (REFERENCE.to_owned(), image.descriptor.digest.to_string()),
            (KIND.to_owned(), "attestation-manifest".to_owned()),
        ]);
        let unknown = || "unknown".to_owned();
        descriptor.platform = Some(Platform { architecture: unknown(), os: unknown(), variant: String::new() });
        Attestation { descriptor, manifest, statements }
    }
}

/// The image that an attestation is about.
const REFERENCE: &str = "vnd.docker.reference.digest";
/// What marks an attestation in an index.
const KIND: &str = "vnd.docker.reference.type";

/// Whether an entry of an index is no image but an attestation.
pub(super) fn is_attestation(entry: &Descriptor) -> bool {
    entry.annotations.get(KIND).is_some_and(|kind| kind == "attestation-manifest")
}

/// The image's name as a package URL: `pkg:docker/busybox@latest?platform=linux%2Famd64`.
pub fn package_url(name: &ImageRef, platform: Option<&Platform>) -> String {
    let escaped = |text: &str| text.replace('%', "%25").replace(':', "%3A").replace('@', "%40").replace('/', "%2F");
    let familiar = ImageRef { tag: None, digest: None, ..name.clone() }.familiar();
    let path: Vec<String> = familiar.split('/').map(escaped).collect();
    let version = name.tag.as_ref().map(|tag| format!("@{tag}")).unwrap_or_default();
    let mut qualifiers = Vec::new();
    qualifiers.extend(name.digest.map(|digest| format!("digest={}", escaped(&digest.to_string()))));
    qualifiers.extend(platform.map(|platform| format!("platform={}", escaped(&platform.to_string()))));
    let query = if qualifiers.is_empty() { String::new() } else { format!("?{}", qualifiers.join("&")) };
    format!("pkg:docker/{}{version}{query}", path.join("/"))
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Statement<'a> {
    #[serde(rename = "_type")]
    kind: &'static str,
    predicate_type: &'a str,
    subject: &'a [Subject],
    predicate: &'a Value,
}

impl<'a> Statement<'a> {
    fn new(claim: &'a Claim, subjects: &'a [Subject]) -> Statement<'a> {
        let subject = if claim.subjects.is_empty() { subjects } else { &claim.subjects };
        let predicate_type = &claim.predicate_type;
        Statement { kind: "https://in-toto.io/Statement/v1", predicate_type, subject, predicate: &claim.predicate }
    }
}

/// What a statement is about: an image by a name of it, or a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subject {
    /// A package URL, or a path.
    pub name: String,
    /// Digests in hexadecimal digits, by algorithm.
    pub digest: BTreeMap<String, String>,
}

impl Subject {
    pub(super) fn new(name: String, digest: Digest) -> Subject {
        Subject { name, digest: BTreeMap::from([("sha256".to_owned(), digest.hex())]) }
    }
}

/// `claim` about `subjects`, as a file that people may read.
pub(super) fn statement_file(claim: &Claim, subjects: &[Subject]) -> Vec<u8> {
    serde_json::to_vec_pretty(&Statement::new(claim, subjects)).expect("a statement is plain data")
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Document {
    schema_version: u32,
    media_type: &'static str,
    artifact_type: &'static str,
    config: EmptyConfig,
    layers: Vec<Descriptor>,
    subject: Descriptor,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct EmptyConfig {
    media_type: &'static str,
    digest: Digest,
    size: usize,
    data: &'static str,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_package_urls() {
        let url = |text: &str| {
            let platform = "linux/amd64".parse().expect("valid");
            package_url(&text.parse().expect("valid"), Some(&platform))
        };
        assert_eq!(url("a:1"), "pkg:docker/a@1?platform=linux%2Famd64");
        assert_eq!(url("127.0.0.1:5000/conf/base:1"), "pkg:docker/127.0.0.1%3A5000/conf/base@1?platform=linux%2Famd64");
        let digest = Digest::of(b"x");
        let expected = format!("pkg:docker/b/c?digest=sha256%3A{}&platform=linux%2Famd64", digest.hex());
        assert_eq!(url(&format!("b/c@{digest}")), expected);
    }
}
