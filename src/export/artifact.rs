//! What one output makes of a build: one image, or an index of several.

use super::annotation::{self, Annotation, Place};
use super::attestation::Attestation;
use super::output::LayerOptions;
use super::{Built, BuiltImage, Form};
use crate::digest::Digest;
use crate::image::{Descriptor, Image, Index};

/// The documents of a build's result, as one output has them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Artifact {
    /// What a name of it stands for: the index, or the one image's manifest with its platform.
    pub root: Descriptor,
    /// The index's bytes; `None` for a single image.
    pub index: Option<Vec<u8>>,
    /// In the order of the platforms asked for; at least one.
    pub images: Vec<Image>,
    /// What is said of the images; in the index after all of them.
    pub attestations: Vec<Attestation>,
}

impl Artifact {
    /// Puts images together, in order. A single image without an index drops annotations of one: who reads the options
    /// refuses them.
    pub(super) fn new(images: Vec<Image>, built: &Built, annotations: &[Annotation], options: &LayerOptions) -> Artifact {
        let LayerOptions { dialect, attestations, .. } = *options;
        let about = |(image, built_image): (&Image, &BuiltImage)| {
            Attestation::new(image, built_image, &built.names, (dialect, attestations))
        };
        let said = images.iter().zip(&built.images).filter(|(_, built_image)| !built_image.claims.is_empty());
        let attestations: Vec<Attestation> = said.map(about).collect();
        if let (Form::Manifest, [image], []) = (built.form, images.as_slice(), attestations.as_slice()) {
            return Artifact { root: image.descriptor.clone(), index: None, images, attestations };
        }
        let described = |image: &Image| {
            let mut descriptor = image.descriptor.clone();
            if let Some(platform) = &descriptor.platform {
                descriptor.annotations = annotation::select(annotations, Place::ManifestDescriptor, Some(platform));
            }
            descriptor
        };
        let index = Index {
            media_type: dialect.index().to_owned(),
            annotations: annotation::select(annotations, Place::Index, None),
            ..Index::new(images.iter().map(described).chain(attestations.iter().map(|said| said.descriptor.clone())).collect())
        };
        let bytes = index.to_document();
        Artifact { root: Descriptor::of(dialect.index(), &bytes), index: Some(bytes), images, attestations }
    }

    /// What `-q` prints: the config's digest, or the index's.
    pub fn image_id(&self) -> Digest {
        self.config_digest().unwrap_or(self.root.digest)
    }

    /// Digest of the config; `None` for an index.
    pub fn config_digest(&self) -> Option<Digest> {
        match (&self.index, self.images.as_slice()) {
            (None, [image]) => Some(image.config_digest),
            _ => None,
        }
    }

    /// Every document with its bytes: configs, manifests and statements, the index last.
    pub fn documents(&self) -> Vec<(Digest, &[u8])> {
        let mut documents: Vec<(Digest, &[u8])> = Vec::new();
        for image in &self.images {
            documents.push((image.config_digest, &image.config));
            documents.push((image.descriptor.digest, &image.manifest));
        }
        for attestation in &self.attestations {
            documents.push((Digest::of(&attestation.config), &attestation.config));
            documents.extend(attestation.statements.iter().map(|(digest, bytes)| (*digest, bytes.as_slice())));
            documents.push((attestation.descriptor.digest, &attestation.manifest));
        }
        documents.extend(self.index.as_deref().map(|bytes| (self.root.digest, bytes)));
        documents
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::export::{Claim, Output};
    use crate::image::{Dialect, ImageConfig, ImageDraft, assemble};
    use crate::reference::Platform;

    fn image(platform: &str) -> Image {
        assemble(&built(&[platform], Form::Manifest).images[0].draft, &[], None)
    }

    fn built(platforms: &[&str], form: Form) -> Built {
        let image = |platform: &&str| {
            let platform: Platform = platform.parse().expect("valid");
            let draft = ImageDraft { config: ImageConfig::scratch(&platform), ..ImageDraft::default() };
            BuiltImage { draft, layers: Vec::new(), claims: Vec::new() }
        };
        Built { images: platforms.iter().map(image).collect(), form, epoch: None, names: Vec::new() }
    }

    #[test]
    fn one_image_is_itself_unless_an_index_is_asked_for() {
        let single =
            Artifact::new(vec![image("linux/amd64")], &built(&["linux/amd64"], Form::Manifest), &[], &Output::store().layers);
        assert_eq!(single.root, single.images[0].descriptor);
        assert_eq!(single.image_id(), single.images[0].config_digest);
        let indexed =
            Artifact::new(vec![image("linux/amd64")], &built(&["linux/amd64"], Form::Index), &[], &Output::store().layers);
        assert_eq!((indexed.config_digest(), indexed.image_id()), (None, indexed.root.digest));
        assert_eq!(indexed.documents().len(), 3);
    }

    #[test]
    fn what_is_said_of_an_image_takes_an_index() {
        let mut said = built(&["linux/amd64"], Form::Manifest);
        said.names = vec!["a:1".parse().expect("valid")];
        said.images[0].claims = vec![Claim {
            predicate_type: "https://slsa.dev/provenance/v1".to_owned(),
            file_name: "provenance.json".to_owned(),
            predicate: serde_json::json!({"x": 1}),
            ..Claim::default()
        }];
        let artifact = Artifact::new(vec![image("linux/amd64")], &said, &[], &Output::store().layers);
        let index: Index = serde_json::from_slice(artifact.index.as_deref().expect("an index")).expect("JSON");
        let image = artifact.images[0].descriptor.digest;
        assert_eq!(index.manifests[1].annotations["vnd.docker.reference.digest"], image.to_string());
        let hex = image.hex();
        let expected = format!(
            r#"{{"_type":"https://in-toto.io/Statement/v1","predicateType":"https://slsa.dev/provenance/v1","subject":[{{"name":"pkg:docker/a@1?platform=linux%2Famd64","digest":{{"sha256":"{hex}"}}}}],"predicate":{{"x":1}}}}"#
        );
        let (_, statement) = &artifact.attestations[0].statements[0];
        assert_eq!(String::from_utf8_lossy(statement), expected);
        assert_eq!((artifact.config_digest(), artifact.documents().len()), (None, 6));
    }

    #[test]
    fn the_index_reads_as_buildkits() {
        let annotations: Vec<Annotation> = ["index:foo=bar", "manifest-descriptor[linux/arm64]:z=1"]
            .iter()
            .flat_map(|text| Annotation::parse_flag(text).expect("valid"))
            .collect();
        let both = built(&["linux/amd64", "linux/arm64"], Form::Index);
        let docker = LayerOptions { dialect: Dialect::Docker, ..Output::store().layers };
        let artifact = Artifact::new(vec![image("linux/amd64"), image("linux/arm64")], &both, &annotations, &docker);
        let entry = |image: &Image, annotations: &str, architecture: &str| {
            format!(
                r#"    {{
      "mediaType": "application/vnd.oci.image.manifest.v1+json",
      "digest": "{}",
      "size": {},{annotations}
      "platform": {{
        "architecture": "{architecture}",
        "os": "linux"
      }}
    }}"#,
                image.descriptor.digest, image.descriptor.size_bytes
            )
        };
        let first = entry(&artifact.images[0], "", "amd64");
        let second = entry(&artifact.images[1], "\n      \"annotations\": {\n        \"z\": \"1\"\n      },", "arm64");
        let expected = format!(
            r#"{{
  "schemaVersion": 2,
  "mediaType": "application/vnd.docker.distribution.manifest.list.v2+json",
  "manifests": [
{first},
{second}
  ],
  "annotations": {{
    "foo": "bar"
  }}
}}"#
        );
        assert_eq!(String::from_utf8(artifact.index.expect("an index")).expect("text"), expected);
    }
}
