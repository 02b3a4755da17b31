//! Checks an OCI layout as a distrustful reader would; for tests, and for `fsck` of what was written.

use std::fs::{self, File};
use std::io::{self, Read, Seek};
use std::path::Path;

use super::{ExportError, attestation};
use crate::digest::{DiffId, Digest, HashingReader};
use crate::image::{Descriptor, Dialect, ImageConfig, Index, Manifest, media_type};
use crate::layer::archive::Packing;

/// Checks the layout at `layout` and returns the entries of its index.
///
/// Checked: the layout file; of every image the sizes and digests of its blobs, the layers' diff_ids against their
/// decompressed bytes, the history's count of layers, the platform. Each index entry is one image; no blob is left over.
///
/// # Errors
/// `Invalid` with all that is wrong.
pub fn validate(layout: &Path) -> Result<Vec<Descriptor>, ExportError> {
    let mut check = Check { layout, problems: Vec::new(), used: vec![] };
    let entries = check.layout().unwrap_or_else(|problem| {
        check.problems.push(problem);
        Vec::new()
    });
    if check.problems.is_empty() {
        Ok(entries)
    } else {
        Err(ExportError::Invalid { path: layout.to_owned(), problems: check.problems })
    }
}

struct Check<'a> {
    layout: &'a Path,
    problems: Vec<String>,
    used: Vec<Digest>,
}

/// The check cannot go on behind these; smaller problems are pushed and it goes on.
type Problem = String;

impl Check<'_> {
    fn layout(&mut self) -> Result<Vec<Descriptor>, Problem> {
        let version: serde_json::Value = parse("oci-layout", &self.read("oci-layout")?)?;
        if version["imageLayoutVersion"] != "1.0.0" {
            self.problems.push(format!("oci-layout says {version}"));
        }
        let index: Index = parse("index.json", &self.read("index.json")?)?;
        // readers must accept an index without its type, and some programs write none
        if index.schema_version != 2 || !["", media_type::INDEX].contains(&index.media_type.as_str()) {
            self.problems.push(format!("index.json is version {} of `{}`", index.schema_version, index.media_type));
        }
        if index.manifests.is_empty() {
            self.problems.push("index.json lists no image".to_owned());
        }
        for entry in &index.manifests {
            if let Err(problem) = self.entry(entry) {
                self.problems.push(problem);
            }
        }
        self.leftovers()?;
        Ok(index.manifests)
    }

    /// An image, or an index of images.
    fn entry(&mut self, entry: &Descriptor) -> Result<(), Problem> {
        let lists = [Dialect::Oci, Dialect::Docker].map(Dialect::index);
        if !lists.contains(&entry.media_type.as_str()) {
            return self.image(entry);
        }
        let index: Index = parse("index", &self.document(entry)?)?;
        if index.schema_version != 2 || index.media_type != entry.media_type {
            self.problems.push(format!("an index is version {} of `{}`", index.schema_version, index.media_type));
        }
        for image in &index.manifests {
            if image.platform.is_none() {
                self.problems.push(format!("{} is listed for no platform", image.digest.short()));
            }
            if attestation::is_attestation(image) {
                self.attestation(image)?;
            } else {
                self.image(image)?;
            }
        }
        Ok(())
    }

    /// A manifest of statements.
    fn attestation(&mut self, entry: &Descriptor) -> Result<(), Problem> {
        let manifest: Manifest = parse("attestation", &self.document(entry)?)?;
        for blob in std::iter::once(&manifest.config).chain(&manifest.layers) {
            let _: serde_json::Value = parse("statement", &self.document(blob)?)?;
        }
        Ok(())
    }

    fn image(&mut self, entry: &Descriptor) -> Result<(), Problem> {
        let name = entry.digest.short();
        let dialect = [Dialect::Oci, Dialect::Docker].into_iter().find(|dialect| dialect.manifest() == entry.media_type);
        let Some(dialect) = dialect else {
            return Err(format!("index entry {name} is a `{}`", entry.media_type));
        };
        let manifest: Manifest = parse("manifest", &self.document(entry)?)?;
        if manifest.schema_version != 2 || manifest.media_type != dialect.manifest() {
            self.problems.push(format!("manifest {name} is version {} of `{}`", manifest.schema_version, manifest.media_type));
        }
        if manifest.config.media_type != dialect.config() {
            self.problems.push(format!("config of {name} is a `{}`", manifest.config.media_type));
        }
        let config: ImageConfig = parse("config", &self.document(&manifest.config)?)?;
        let mut diff_ids = Vec::new();
        for layer in &manifest.layers {
            diff_ids.push(self.layer(layer)?);
        }
        if config.rootfs.kind != "layers" || config.rootfs.diff_ids != diff_ids {
            self.problems.push(format!("diff_ids of {name} are {:?}, its layers hold {diff_ids:?}", config.rootfs.diff_ids));
        }
        let told = config.history.iter().filter(|item| !item.empty_layer).count();
        if !config.history.is_empty() && told != diff_ids.len() {
            self.problems.push(format!("history of {name} tells of {told} layers, there are {}", diff_ids.len()));
        }
        if entry.platform.as_ref().is_some_and(|platform| *platform != config.platform()) {
            self.problems.push(format!("{name} is listed for {:?}, its config says {}", entry.platform, config.platform()));
        }
        Ok(())
    }

    /// Checks size and digest of a layer and returns the digest of its plain bytes.
    fn layer(&mut self, descriptor: &Descriptor) -> Result<DiffId, Problem> {
        let name = descriptor.digest.short();
        let mut file = self.open(descriptor)?;
        let (digest, size_bytes) = digest_of(&mut file).map_err(|error| format!("layer {name}: {error}"))?;
        self.compare(descriptor, digest, size_bytes);
        let mut start = Vec::new();
        let rewound = file.rewind().and_then(|()| (&mut file).take(4).read_to_end(&mut start)).and_then(|_| file.rewind());
        rewound.map_err(|error| format!("layer {name}: {error}"))?;
        let announced = match Dialect::Oci.layer(&descriptor.media_type) {
            media_type::LAYER => Packing::Plain,
            media_type::LAYER_GZIP => Packing::Gzip,
            media_type::LAYER_ZSTD => Packing::Zstd,
            other => return Err(format!("layer {name} is a `{other}`")),
        };
        let found = Packing::detect(&start);
        if announced != found {
            self.problems.push(format!("layer {name} is announced as {announced:?} and is {found:?}"));
        }
        let plain = found.unpacked(file).and_then(digest_of).map(|(digest, _)| digest);
        plain.map(DiffId).map_err(|error| format!("layer {name}: {error}"))
    }

    fn document(&mut self, descriptor: &Descriptor) -> Result<Vec<u8>, Problem> {
        let mut bytes = Vec::new();
        let read = self.open(descriptor)?.read_to_end(&mut bytes);
        read.map_err(|error| format!("blob {}: {error}", descriptor.digest))?;
        self.compare(descriptor, Digest::of(&bytes), bytes.len() as u64);
        Ok(bytes)
    }

    fn compare(&mut self, descriptor: &Descriptor, digest: Digest, size_bytes: u64) {
        if digest != descriptor.digest {
            self.problems.push(format!("blob {} holds {digest}", descriptor.digest));
        }
        if size_bytes != descriptor.size_bytes {
            let said = descriptor.size_bytes;
            self.problems.push(format!("blob {} has {size_bytes} bytes, its descriptor says {said}", descriptor.digest));
        }
    }

    fn open(&mut self, descriptor: &Descriptor) -> Result<File, Problem> {
        self.used.push(descriptor.digest);
        let path = self.layout.join("blobs/sha256").join(descriptor.digest.hex());
        File::open(path).map_err(|error| format!("blob {}: {error}", descriptor.digest))
    }

    fn leftovers(&mut self) -> Result<(), Problem> {
        let blobs = fs::read_dir(self.layout.join("blobs/sha256")).map_err(|error| format!("blobs/sha256: {error}"))?;
        for entry in blobs {
            let name = entry.map_err(|error| format!("blobs/sha256: {error}"))?.file_name();
            if !self.used.iter().any(|digest| name == digest.hex().as_str()) {
                self.problems.push(format!("`blobs/sha256/{}` belongs to no image", name.display()));
            }
        }
        Ok(())
    }

    fn read(&self, name: &str) -> Result<Vec<u8>, Problem> {
        fs::read(self.layout.join(name)).map_err(|error| format!("{name}: {error}"))
    }
}

fn parse<T: serde::de::DeserializeOwned>(name: &str, bytes: &[u8]) -> Result<T, Problem> {
    serde_json::from_slice(bytes).map_err(|error| format!("{name}: {error}"))
}

fn digest_of(reader: impl Read) -> io::Result<(Digest, u64)> {
    let mut reader = HashingReader::new(reader);
    io::copy(&mut reader, &mut io::sink())?;
    let (_, digest, size_bytes) = reader.finish();
    Ok((digest, size_bytes))
}
