//! A registry of our own on loopback, and an image to push to it.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use croze::digest::Digest;
use tempfile::TempDir;

use crate::common;

/// Whether `programs` are there; says `SKIP` where not, in the name of this thread, which is the test's.
pub fn can_run(programs: &[&str]) -> bool {
    common::skip_unless(std::thread::current().name().unwrap_or("registry"), programs)
}

/// A running `docker-registry`; ends with the value.
pub struct Registry {
    /// `127.0.0.1:PORT`.
    pub host: String,
    child: Child,
    _directory: TempDir,
}

impl Registry {
    /// `None` when the programs are not installed, which is said in the name of the test that asks.
    pub fn start() -> Option<Registry> {
        if !can_run(&["docker-registry", "skopeo"]) {
            return None;
        }
        let directory = tempfile::tempdir().expect("a temporary directory");
        let config = directory.path().join("config.yml");
        let text = format!(
            "version: 0.1\nlog: {{level: info}}\nstorage: {{filesystem: {{rootdirectory: {}/data}}}}\nhttp: {{addr: '127.0.0.1:0'}}\n",
            directory.path().display()
        );
        fs::write(&config, text).expect("the directory is writable");
        let mut child = Command::new("docker-registry")
            .arg("serve")
            .arg(&config)
            .env("OTEL_TRACES_EXPORTER", "none")
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("docker-registry starts");
        let mut lines = BufReader::new(child.stderr.take().expect("it is piped")).lines();
        let host = lines
            .by_ref()
            .map_while(Result::ok)
            .find_map(|line| Some(line.split_once("listening on ")?.1.split('"').next()?.to_owned()))
            .expect("the registry says where it listens");
        // its log must go on being read, or it would stop at a full pipe
        std::thread::spawn(move || lines.for_each(drop));
        Some(Registry { host, child, _directory: directory })
    }

    /// Pushes `image` as `name`, byte for byte.
    pub fn push(&self, image: &SampleImage, name: &str) {
        let directory = tempfile::tempdir().expect("a temporary directory");
        image.write_layout(directory.path());
        let output = Command::new("skopeo")
            .args(["copy", "--quiet", "--all", "--preserve-digests", "--dest-tls-verify=false", "--insecure-policy"])
            .arg(format!("oci:{}:sample", directory.path().display()))
            .arg(format!("docker://{}/{name}", self.host))
            .output()
            .expect("skopeo runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.child.kill().expect("it is a child of ours");
        self.child.wait().expect("it is a child of ours");
    }
}

/// Two platforms that share one layer, and an attestation.
pub struct SampleImage {
    /// The layer's blob, gzip.
    pub layer: Vec<u8>,
    /// What its config says that the layer's tar is.
    pub diff_id: Digest,
    /// What the manifests call the layer.
    pub layer_type: &'static str,
    /// How often it stands in each image.
    pub copies: usize,
}

const LAYER_TYPE: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

impl SampleImage {
    /// Its layer holds one file of noise, so that its blob has some size.
    pub fn new() -> SampleImage {
        SampleImage::with_noise(400_000, 1)
    }

    /// The same with so many bytes of other noise.
    pub fn with_noise(bytes: usize, seed: u32) -> SampleImage {
        let mut state = seed;
        let noise: Vec<u8> = std::iter::repeat_with(|| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        })
        .take(bytes)
        .collect();
        let mut tar = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_ustar();
        header.set_size(noise.len() as u64);
        header.set_mode(0o644);
        tar.append_data(&mut header, "noise", noise.as_slice()).expect("memory does not fail");
        SampleImage::of_tar(&tar.into_inner().expect("memory does not fail"))
    }

    /// With this tar for a layer.
    pub fn of_tar(tar: &[u8]) -> SampleImage {
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(tar).expect("memory does not fail");
        let layer = gzip.finish().expect("memory does not fail");
        SampleImage { layer, diff_id: Digest::of(tar), layer_type: LAYER_TYPE, copies: 1 }
    }

    /// SHA-256 of the layer's blob.
    pub fn layer_digest(&self) -> Digest {
        Digest::of(&self.layer)
    }

    /// Writes an OCI layout with the index tagged `sample`.
    pub fn write_layout(&self, directory: &Path) {
        let blobs = directory.join("blobs/sha256");
        fs::create_dir_all(&blobs).expect("the directory is writable");
        let put = |bytes: &[u8], media_type: &str| {
            let digest = Digest::of(bytes);
            fs::write(blobs.join(digest.hex()), bytes).expect("the directory is writable");
            format!(r#""mediaType":"{media_type}","digest":"{digest}","size":{}"#, bytes.len())
        };
        let layer = put(&self.layer, self.layer_type);
        let layers = vec![format!("{{{layer}}}"); self.copies].join(",");
        let manifests: Vec<String> = [("linux", "amd64"), ("linux", "s390x"), ("unknown", "unknown")]
            .iter()
            .map(|(os, architecture)| {
                let diff_ids = vec![format!(r#""{}""#, self.diff_id); self.copies].join(",");
                let rootfs = format!(r#"{{"type":"layers","diff_ids":[{diff_ids}]}}"#);
                let config = format!(r#"{{"architecture":"{architecture}","os":"{os}","config":{{}},"rootfs":{rootfs}}}"#);
                let config = put(config.as_bytes(), "application/vnd.oci.image.config.v1+json");
                let kind = "application/vnd.oci.image.manifest.v1+json";
                let manifest = format!(r#"{{"schemaVersion":2,"mediaType":"{kind}","config":{{{config}}},"layers":[{layers}]}}"#);
                let manifest = put(manifest.as_bytes(), kind);
                format!(r#"{{{manifest},"platform":{{"os":"{os}","architecture":"{architecture}"}}}}"#)
            })
            .collect();
        let kind = "application/vnd.oci.image.index.v1+json";
        let index = format!(r#"{{"schemaVersion":2,"mediaType":"{kind}","manifests":[{}]}}"#, manifests.join(","));
        let index = put(index.as_bytes(), kind);
        let annotations = r#""annotations":{"org.opencontainers.image.ref.name":"sample"}"#;
        let top = format!(r#"{{"schemaVersion":2,"manifests":[{{{index},{annotations}}}]}}"#);
        fs::write(directory.join("index.json"), top).expect("the directory is writable");
        fs::write(directory.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).expect("the directory is writable");
    }
}
