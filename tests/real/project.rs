//! A project of `testdata/real`, the Debian base that all of them stand on, and the images they become.

use std::collections::BTreeSet;
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use serde_json::Value;

use crate::common::{Run, Space, judge, run, skip_unless};

/// A copy of a project's directory, with a store that has `debian:12`.
pub struct Project {
    name: &'static str,
    space: Space,
}

impl Project {
    /// The project of this name; `None`, having said so, where the test cannot run.
    pub fn new(name: &'static str, test: &str) -> Option<Project> {
        if !skip_unless(test, &["mmdebstrap", "skopeo", "umoci", "runc", "crun"]) {
            return None;
        }
        let space = Space::new();
        space.croze(["import", debian_tar(), "debian:12"]).succeeds();
        let source = format!("{}/testdata/real/{name}", env!("CARGO_MANIFEST_DIR"));
        run(Command::new("cp").args(["-r", &source]).arg(space.path("ctx"))).succeeds();
        Some(Project { name, space })
    }

    /// A path of the project's own.
    pub fn text_path(&self, relative: &str) -> String {
        self.space.text_path(relative)
    }

    /// Writes other words in the place of some in a file of the context.
    pub fn replace(&self, file: &str, words: &str, others: &str) {
        let path = self.space.path("ctx").join(file);
        let text = fs::read_to_string(&path).expect("the file is there");
        assert!(text.contains(words), "{words}");
        fs::write(path, text.replace(words, others)).expect("writes");
    }

    /// Appends to a file of the context.
    pub fn append(&self, file: &str, text: &str) {
        let path = self.space.path("ctx").join(file);
        let mut file = fs::OpenOptions::new().append(true).open(path).expect("the file is there");
        file.write_all(text.as_bytes()).expect("writes");
    }

    /// Builds into the store and an OCI layout.
    pub fn build(&self) -> Build {
        self.build_with(&[])
    }

    /// The same with more flags.
    pub fn build_with(&self, more: &[&str]) -> Build {
        let mut flags = [&["--progress=plain", "--iidfile", "iid"], more].concat();
        // a machine that reaches its registries through a proxy says so by these, as to any builder
        let proxies = ["HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy"];
        let values: Vec<String> =
            proxies.iter().filter_map(|name| Some(format!("{name}={}", std::env::var(name).ok()?))).collect();
        flags.extend(values.iter().flat_map(|value| ["--build-arg", value.as_str()]));
        let output = format!("type=oci,tar=false,dest={}", self.space.text_path("layout"));
        let tag = self.tag();
        flags.extend(["-t", &tag, "-o", &output]);
        let run = self.space.build(&flags).succeeds();
        Build { id: self.space.read("iid"), run }
    }

    /// Builds, has others read the result, and unpacks it.
    pub fn build_image(&self) -> Image {
        let build = self.build();
        let reference = format!("oci:{}:1", self.space.text_path("layout"));
        let parse = |run: Run| -> Value { serde_json::from_str(&run.stdout).expect("skopeo prints JSON") };
        let inspected = parse(judge("skopeo", &["inspect", &reference]));
        let config = parse(judge("skopeo", &["inspect", "--config", "--raw", &reference]));
        let bundle = self.space.path("bundle");
        let image = format!("{}:1", self.space.text_path("layout"));
        judge("umoci", &["unpack", "--image", &image, bundle.to_str().expect("our paths are text")]);
        Image { id: build.id, inspected, config, bundle }
    }

    /// Building once more finds every step in the cache and gives the same image.
    #[track_caller]
    pub fn second_build_runs_nothing(&self, image: &Image) {
        let second = self.build();
        assert_eq!(second.steps_that_ran(), [""; 0]);
        assert_eq!(second.id, image.id);
    }

    fn tag(&self) -> String {
        format!("{}:1", self.name)
    }
}

/// A build that succeeded.
pub struct Build {
    /// The image ID.
    pub id: String,
    /// What it said.
    pub run: Run,
}

impl Build {
    /// The headers, without their numbers, of the Dockerfile's steps that were not cached, in the order of their numbers.
    pub fn steps_that_ran(&self) -> Vec<&str> {
        let lines = || self.run.stderr.lines().filter_map(|line| line.strip_prefix('#')?.split_once(' '));
        let cached: BTreeSet<&str> = lines().filter(|(_, rest)| *rest == "CACHED").map(|(number, _)| number).collect();
        let is_step = |rest: &str| rest.starts_with('[') && !rest.starts_with("[internal]") && !rest.contains("] FROM ");
        // a step's header comes again when others were in front of it
        let mut headers: Vec<(usize, &str)> = lines()
            .filter(|(number, rest)| is_step(rest) && !cached.contains(number))
            .filter_map(|(number, rest)| Some((number.parse().ok()?, rest)))
            .collect();
        headers.sort_unstable();
        headers.dedup();
        headers.into_iter().map(|(_, rest)| rest).collect()
    }
}

/// A built image as others read it.
pub struct Image {
    /// The image ID.
    pub id: String,
    /// What `skopeo inspect` says.
    pub inspected: Value,
    /// The image's config.
    pub config: Value,
    bundle: PathBuf,
}

impl Image {
    /// A path of the unpacked file system.
    pub fn path(&self, relative: &str) -> PathBuf {
        self.bundle.join("rootfs").join(relative)
    }

    /// The names in a directory of the unpacked file system, sorted.
    #[track_caller]
    pub fn entries(&self, directory: &str) -> Vec<String> {
        let entries = fs::read_dir(self.path(directory)).unwrap_or_else(|error| panic!("{directory}: {error}"));
        let mut names: Vec<String> =
            entries.map(|entry| entry.expect("an entry").file_name().into_string().expect("names are text")).collect();
        names.sort_unstable();
        names
    }

    /// Runs what the image starts by default in a container, and gives what it prints.
    #[track_caller]
    pub fn run(&self) -> String {
        let path = self.bundle.join("config.json");
        let mut config: Value = serde_json::from_slice(&fs::read(&path).expect("umoci wrote it")).expect("JSON");
        config["process"]["terminal"] = Value::Bool(false);
        fs::write(&path, config.to_string()).expect("writes");
        let bundle = self.bundle.to_str().expect("our paths are text");
        let id = format!("croze-test-{}-{}", std::process::id(), self.id.trim_start_matches("sha256:"));
        run_bundle(bundle, &id).succeeds().stdout
    }
}

/// Runs a bundle's container by an OCI runtime of this machine.
#[track_caller]
pub fn run_bundle(bundle: &str, id: &str) -> Run {
    // crun refuses cgroups of both versions side by side, runc does not know every kernel: one of these works
    let crun = "umount /sys/fs/cgroup/unified 2>/dev/null; exec crun --root \"$0/crun\" run -b \"$0\" \"$1\"";
    let state = format!("{bundle}/runc");
    let runc = run(Command::new("runc").args(["--root", &state, "run", "-b", bundle, id]));
    if runc.code == Some(0) {
        return runc;
    }
    let mut crun = run(Command::new("unshare").args(["-m", "sh", "-c", crun, bundle, id]));
    crun.stderr.push_str(&format!("\nrunc before: {}", runc.stderr));
    crun
}

/// The tar of the Debian root file system that `.ci/debian` makes, kept for later runs until the script, the release or the
/// machine's certificate authorities change.
pub fn debian_tar() -> &'static str {
    static TAR: OnceLock<String> = OnceLock::new();
    TAR.get_or_init(|| {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join(".ci/debian");
        let mut hasher = DefaultHasher::new();
        for source in [script.as_path(), Path::new("/etc/os-release"), Path::new("/etc/ssl/certs/ca-certificates.crt")] {
            fs::read(source).unwrap_or_default().hash(&mut hasher);
        }
        let tar = format!("{}/debian-{:016x}.tar", env!("CARGO_TARGET_TMPDIR"), hasher.finish());
        if !Path::new(&tar).exists() {
            run(Command::new(script).arg(&tar)).succeeds();
        }
        tar
    })
}
