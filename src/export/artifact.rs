//! What one output makes of a build: one image, or an index of several.

use super::Form;
use super::annotation::{self, Annotation, Place};
use crate::digest::Digest;
use crate::image::{Descriptor, Dialect, Image, Index};

/// The documents of a build's result, as one output has them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Artifact {
    /// What a name of it stands for: the index, or the one image's manifest with its platform.
    pub root: Descriptor,
    /// The index's bytes; `None` for a single image.
    pub index: Option<Vec<u8>>,
    /// In the order of the platforms asked for; at least one.
    pub images: Vec<Image>,
}

impl Artifact {
    /// Puts images together, in order. A single image without an index drops annotations of one: who reads the options
    /// refuses them.
    pub(super) fn new(images: Vec<Image>, form: Form, annotations: &[Annotation], dialect: Dialect) -> Artifact {
        if let (Form::Manifest, [image]) = (form, images.as_slice()) {
            return Artifact { root: image.descriptor.clone(), index: None, images };
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
            ..Index::new(images.iter().map(described).collect())
        };
        let bytes = index.to_document();
        Artifact { root: Descriptor::of(dialect.index(), &bytes), index: Some(bytes), images }
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

    /// Every document with its bytes: configs and manifests, the index last.
    pub fn documents(&self) -> Vec<(Digest, &[u8])> {
        let mut documents: Vec<(Digest, &[u8])> = Vec::new();
        for image in &self.images {
            documents.push((image.config_digest, &image.config));
            documents.push((image.descriptor.digest, &image.manifest));
        }
        documents.extend(self.index.as_deref().map(|bytes| (self.root.digest, bytes)));
        documents
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::{ImageConfig, ImageDraft, assemble};
    use crate::reference::Platform;

    fn image(platform: &str) -> Image {
        let platform: Platform = platform.parse().expect("valid");
        assemble(&ImageDraft { config: ImageConfig::scratch(&platform), ..ImageDraft::default() }, &[], None)
    }

    #[test]
    fn one_image_is_itself_unless_an_index_is_asked_for() {
        let single = Artifact::new(vec![image("linux/amd64")], Form::Manifest, &[], Dialect::Oci);
        assert_eq!(single.root, single.images[0].descriptor);
        assert_eq!(single.image_id(), single.images[0].config_digest);
        let indexed = Artifact::new(vec![image("linux/amd64")], Form::Index, &[], Dialect::Oci);
        assert_eq!((indexed.config_digest(), indexed.image_id()), (None, indexed.root.digest));
        assert_eq!(indexed.documents().len(), 3);
    }

    #[test]
    fn the_index_reads_as_buildkits() {
        let annotations: Vec<Annotation> = ["index:foo=bar", "manifest-descriptor[linux/arm64]:z=1"]
            .iter()
            .flat_map(|text| Annotation::parse_flag(text).expect("valid"))
            .collect();
        let artifact =
            Artifact::new(vec![image("linux/amd64"), image("linux/arm64")], Form::Index, &annotations, Dialect::Docker);
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
