//! Statements about an image, attached to it as BuildKit attaches them: a manifest of in-toto statements beside the image in
//! the index, for no platform, that names the image it is about.
//!
//! Source of the form: moby/buildkit, `docs/attestations/attestation-storage.md`; in-toto, "Statement" v1.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ops::Range;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::{BuiltImage, LayerOrigin};
use crate::digest::Digest;
use crate::image::{Descriptor, Dialect, Image, document};
use crate::reference::{ImageRef, Platform};

/// What is said of an image, before it has a digest.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Claim {
    /// `https://slsa.dev/provenance/v1`.
    pub predicate_type: String,
    /// What it is called among plain files: `provenance.json`.
    pub file_name: String,
    /// What is said.
    pub predicate: Value,
    /// Whom it is about, if not the image or the files that it goes with.
    pub subjects: Vec<Subject>,
    /// What an output adds: the layers of steps, whose blobs it decides on.
    pub layers: Option<StepLayers>,
    /// Which outputs it is for.
    pub reach: Reach,
}

/// Where in a predicate the layers of steps belong, and which these are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StepLayers {
    /// The member of the predicate that gets a member `layers`, from the outside in.
    pub place: &'static [&'static str],
    /// By step: which of the image's layers, counted from the bottom, its file system is made of.
    pub steps: BTreeMap<String, Range<usize>>,
}

/// Which outputs a statement goes with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Reach {
    /// All that can hold one.
    #[default]
    Everywhere,
    /// `inline-only=true`: images in a store or a registry, and archives that are asked to (`attestation-inline=true`).
    Inline,
}

impl Claim {
    /// The predicate for an output. Steps are listed all of whose layers have a blob.
    fn told(&self, blobs: &[Option<Descriptor>]) -> Cow<'_, Value> {
        let Some(StepLayers { place, steps }) = &self.layers else { return Cow::Borrowed(&self.predicate) };
        let bare = |blob: &Descriptor| json!({"mediaType": blob.media_type, "digest": blob.digest, "size": blob.size_bytes});
        let mut listed = Map::new();
        for (step, range) in steps {
            let chain: Option<Vec<Value>> =
                blobs.get(range.clone()).and_then(|blobs| blobs.iter().map(|blob| blob.as_ref().map(bare)).collect());
            // a step could have several chains: one per machine that ran it
            listed.extend(chain.map(|chain| (step.clone(), json!([chain]))));
        }
        let mut predicate = self.predicate.clone();
        let member = place.iter().try_fold(&mut predicate, |value, name| value.get_mut(*name));
        if let Some(Value::Object(member)) = member
            && !listed.is_empty()
        {
            member.insert("layers".to_owned(), Value::Object(listed));
        }
        Cow::Owned(predicate)
    }
}

/// The blobs that an image's layers have already: those of its base.
pub(super) fn known_blobs(image: &BuiltImage) -> Vec<Option<Descriptor>> {
    let known = |origin: &LayerOrigin| match origin {
        LayerOrigin::Base(descriptor) => Some(descriptor.clone()),
        LayerOrigin::Own { .. } => None,
    };
    image.layers.iter().map(|layer| known(&layer.origin)).collect()
}

/// The blobs that an output has for an image's layers, a base's under the name that its registry has for their type.
fn output_blobs(image: &Image, built: &BuiltImage) -> Vec<Option<Descriptor>> {
    let known = known_blobs(built).into_iter().chain(std::iter::repeat(None));
    let blob = |(layer, known): (&Descriptor, Option<Descriptor>)| {
        known.filter(|known| known.digest == layer.digest).or(Some(layer.clone()))
    };
    image.layers.iter().map(|layer| &layer.descriptor).zip(known).map(blob).collect()
}

/// A manifest of statements about one image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attestation {
    /// As the index lists it.
    pub descriptor: Descriptor,
    /// The config's bytes.
    pub config: Vec<u8>,
    /// The manifest's bytes.
    pub manifest: Vec<u8>,
    /// Digest and bytes of each statement.
    pub statements: Vec<(Digest, Vec<u8>)>,
}

/// The config of a manifest that has none.
const EMPTY_CONFIG: &[u8] = b"{}";

/// `oci-artifact=`: what a manifest of statements looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AttestationForm {
    /// An artifact that names its subject.
    Artifact,
    /// An image for no platform, for registries that know no artifacts.
    Image,
}

impl Attestation {
    /// What is said of `image`, which goes by `names` and was made of `built`.
    pub(super) fn new(
        image: &Image,
        built: &BuiltImage,
        names: &[ImageRef],
        (dialect, form): (Dialect, AttestationForm),
    ) -> Attestation {
        let claims = &built.claims;
        let blobs = output_blobs(image, built);
        let platform = image.descriptor.platform.as_ref();
        let subject = |name: &ImageRef| Subject::new(package_url(name, platform), image.descriptor.digest);
        let subjects: Vec<Subject> = names.iter().map(subject).collect();
        let mut layers = Vec::with_capacity(claims.len());
        let mut statements = Vec::with_capacity(claims.len());
        for claim in claims {
            let bytes = document::compact(&Statement::new(claim, &claim.told(&blobs), &subjects));
            let mut layer = Descriptor::of("application/vnd.in-toto+json", &bytes);
            layer.annotations.insert("in-toto.io/predicate-type".to_owned(), claim.predicate_type.clone());
            statements.push((layer.digest, bytes));
            layers.push(layer);
        }
        let config = match form {
            AttestationForm::Artifact => EMPTY_CONFIG.to_vec(),
            AttestationForm::Image => document::compact(&ImageConfig::of(&layers)),
        };
        let is_artifact = form == AttestationForm::Artifact;
        let image_config =
            || Config { media_type: dialect.config(), digest: Digest::of(&config), size: config.len(), data: None };
        let manifest = serde_json::to_string_pretty(&Document {
            schema_version: 2,
            media_type: dialect.manifest(),
            artifact_type: is_artifact.then_some("application/vnd.docker.attestation.manifest.v1+json"),
            config: if is_artifact { Config::empty() } else { image_config() },
            layers,
            subject: is_artifact
                .then(|| Descriptor::new(&image.descriptor.media_type, image.descriptor.digest, image.descriptor.size_bytes)),
        });
        let manifest = manifest.expect("a manifest is plain data").into_bytes();
        let mut descriptor = Descriptor::of(dialect.manifest(), &manifest);
        descriptor.annotations = BTreeMap::from([
            (REFERENCE.to_owned(), image.descriptor.digest.to_string()),
            (KIND.to_owned(), "attestation-manifest".to_owned()),
        ]);
        let unknown = || "unknown".to_owned();
        descriptor.platform = Some(Platform { architecture: unknown(), os: unknown(), variant: String::new() });
        Attestation { descriptor, config, manifest, statements }
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
    fn new(claim: &'a Claim, predicate: &'a Value, subjects: &'a [Subject]) -> Statement<'a> {
        let subject = if claim.subjects.is_empty() { subjects } else { &claim.subjects };
        let predicate_type = &claim.predicate_type;
        Statement { kind: "https://in-toto.io/Statement/v1", predicate_type, subject, predicate }
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

/// `claim` about `subjects`, files of an image with these blobs, as a file that people may read.
pub(super) fn statement_file(claim: &Claim, blobs: &[Option<Descriptor>], subjects: &[Subject]) -> Vec<u8> {
    serde_json::to_vec_pretty(&Statement::new(claim, &claim.told(blobs), subjects)).expect("a statement is plain data")
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Document {
    schema_version: u32,
    media_type: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    artifact_type: Option<&'static str>,
    config: Config,
    layers: Vec<Descriptor>,
    #[serde(skip_serializing_if = "Option::is_none")]
    subject: Option<Descriptor>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Config {
    media_type: &'static str,
    digest: Digest,
    size: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<&'static str>,
}

impl Config {
    fn empty() -> Config {
        let media_type = "application/vnd.oci.empty.v1+json";
        Config { media_type, digest: Digest::of(EMPTY_CONFIG), size: EMPTY_CONFIG.len(), data: Some("e30=") }
    }
}

/// The config of statements that pass for an image.
#[derive(Serialize)]
struct ImageConfig {
    architecture: &'static str,
    os: &'static str,
    config: Map<String, Value>,
    rootfs: Value,
}

impl ImageConfig {
    fn of(statements: &[Descriptor]) -> ImageConfig {
        let digests: Vec<&Digest> = statements.iter().map(|statement| &statement.digest).collect();
        let rootfs = json!({"type": "layers", "diff_ids": digests});
        ImageConfig { architecture: "unknown", os: "unknown", config: Map::new(), rootfs }
    }
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
