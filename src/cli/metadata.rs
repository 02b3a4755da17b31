//! Files that a build leaves for its caller: the image ID and the facts about the result.

use std::io;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Map, Value, json};

use crate::builder::BuildResult;
use crate::cli::failure::Failure;
use crate::digest::Digest;

/// `--iidfile` and `--metadata-file`.
pub struct ResultFiles {
    iidfile: Option<PathBuf>,
    metadata_file: Option<PathBuf>,
}

impl ResultFiles {
    /// Removes both files, so that a build that fails leaves none behind.
    ///
    /// # Errors
    /// A file that is there cannot be removed.
    pub fn start(iidfile: Option<PathBuf>, metadata_file: Option<PathBuf>) -> Result<ResultFiles, Failure> {
        for path in [&iidfile, &metadata_file].into_iter().flatten() {
            match std::fs::remove_file(path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(Failure::file("remove", path, &error)),
                _ => {}
            }
        }
        Ok(ResultFiles { iidfile, metadata_file })
    }

    /// Writes both: the image's ID without a newline (nothing where no output wants anything, as buildx does), and JSON indented by
    /// two spaces.
    ///
    /// # Errors
    /// A file cannot be written.
    pub fn write(&self, result: &BuildResult, now: SystemTime) -> Result<(), Failure> {
        let put = |path: &Path, text: String| std::fs::write(path, text).map_err(|error| Failure::file("write", path, &error));
        if let Some(path) = &self.iidfile {
            put(path, result.image_id.map(|id| id.to_string()).unwrap_or_default())?;
        }
        if let Some(path) = &self.metadata_file {
            put(path, format!("{:#}", metadata(result, &build_ref(now))))?;
        }
        Ok(())
    }
}

/// The keys that `docker buildx build --metadata-file` writes, in its (alphabetical) order.
fn metadata(result: &BuildResult, build_ref: &str) -> Value {
    let mut members = Map::new();
    for (platform, provenance) in &result.provenance {
        let several = if result.provenance.len() > 1 { format!("/{platform}") } else { String::new() };
        members.insert(format!("buildx.build.provenance{several}"), provenance.clone());
    }
    members.insert("buildx.build.ref".into(), json!(build_ref));
    if let Some(exported) = &result.exported {
        if let Some(config_digest) = &exported.config_digest {
            members.insert("containerimage.config.digest".into(), json!(config_digest));
        }
        members.insert("containerimage.descriptor".into(), json!(exported.listed));
        members.insert("containerimage.digest".into(), json!(exported.listed.digest));
        if !exported.names.is_empty() {
            members.insert("image.name".into(), json!(exported.names.join(",")));
        }
    }
    Value::Object(members)
}

/// `builder/node/id`; the id has buildx's 25 characters and differs from build to build.
fn build_ref(now: SystemTime) -> String {
    let nanos = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
    let seed = Digest::of(format!("{nanos} {}", std::process::id()).as_bytes()).to_string();
    let hex = seed.trim_start_matches("sha256:");
    format!("croze/local/{}", &hex[..25])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::builder::{Descriptor, ExportedImage};

    #[test]
    fn the_keys_are_those_of_buildx() {
        let digest = Digest::of(b"x");
        let result = BuildResult {
            image_id: Some(digest),
            exported: Some(ExportedImage {
                listed: Descriptor {
                    platform: Some("linux/amd64".parse().expect("valid")),
                    annotations: [("org.opencontainers.image.created".to_owned(), "2026-01-01T00:00:00Z".to_owned())].into(),
                    ..Descriptor::new("application/vnd.oci.image.manifest.v1+json", digest, 7)
                },
                config_digest: Some(digest),
                names: vec!["docker.io/library/a:latest".into(), "docker.io/library/b:1".into()],
            }),
            provenance: vec![("linux/amd64".parse().expect("valid"), json!({"builder": {"id": ""}}))],
            names: Vec::new(),
            written: Vec::new(),
            ran_steps: 0,
            cached_steps: 0,
            warnings: Vec::new(),
        };
        let expected = format!(
            r#"{{
  "buildx.build.provenance": {{
    "builder": {{
      "id": ""
    }}
  }},
  "buildx.build.ref": "r",
  "containerimage.config.digest": "{digest}",
  "containerimage.descriptor": {{
    "annotations": {{
      "org.opencontainers.image.created": "2026-01-01T00:00:00Z"
    }},
    "digest": "{digest}",
    "mediaType": "application/vnd.oci.image.manifest.v1+json",
    "platform": {{
      "architecture": "amd64",
      "os": "linux"
    }},
    "size": 7
  }},
  "containerimage.digest": "{digest}",
  "image.name": "docker.io/library/a:latest,docker.io/library/b:1"
}}"#
        );
        assert_eq!(format!("{:#}", metadata(&result, "r")), expected);
        // plain files are no image
        let files = BuildResult { exported: None, ..result };
        let Value::Object(members) = metadata(&files, "r") else { panic!("no object") };
        assert_eq!(members.keys().collect::<Vec<_>>(), ["buildx.build.provenance", "buildx.build.ref"]);
    }

    #[test]
    fn old_files_are_gone_at_the_start() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let iidfile = directory.path().join("iid");
        std::fs::write(&iidfile, "old").expect("writes");
        ResultFiles::start(Some(iidfile.clone()), Some(directory.path().join("absent"))).expect("starts");
        assert!(!iidfile.exists());
    }
}
