//! What tests through the binary need: a [`Space`] of their own, programs that judge results, a registry on loopback.
//!
//! A test that cannot run here says so by [`skip_unless`], which prints `SKIP name: why`; `.ci/run` fails on such a line.
#![allow(dead_code)] // every test binary uses a part

pub mod user;
pub mod web;

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use serde_json::Value;

/// A temporary directory with a store of its own and a place for contexts and outputs; gone when dropped.
pub struct Space {
    directory: tempfile::TempDir,
}

impl Space {
    /// A space with an empty store. It lies below `target/`: `/tmp` may be a file system that overlays refuse.
    pub fn new() -> Space {
        let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a temporary directory");
        Space { directory }
    }

    /// The same in a directory of the caller's choice.
    pub fn below(directory: &Path) -> Space {
        Space { directory: tempfile::tempdir_in(directory).expect("a temporary directory") }
    }

    /// A space whose store has `busybox:latest`, made of this machine's busybox.
    #[track_caller]
    pub fn with_busybox() -> Space {
        let space = Space::new();
        space.croze(["import", busybox_tar(), "busybox:latest"]).succeeds();
        space
    }

    /// A path in the space.
    pub fn path(&self, relative: &str) -> PathBuf {
        self.directory.path().join(relative)
    }

    /// The same as text.
    pub fn text_path(&self, relative: &str) -> String {
        self.path(relative).to_str().expect("temporary paths are text").to_owned()
    }

    /// Writes a file, making its directories.
    pub fn write(&self, relative: &str, content: impl AsRef<[u8]>) -> &Space {
        let path = self.path(relative);
        fs::create_dir_all(path.parent().expect("has a parent")).expect("directories");
        fs::write(&path, content).expect("writes");
        self
    }

    /// Writes `ctx/Dockerfile`.
    pub fn dockerfile(&self, text: &str) -> &Space {
        self.write("ctx/Dockerfile", text)
    }

    /// Reads a file as text.
    #[track_caller]
    pub fn read(&self, relative: &str) -> String {
        fs::read_to_string(self.path(relative)).unwrap_or_else(|error| panic!("{relative}: {error}"))
    }

    /// Reads a file as JSON.
    #[track_caller]
    pub fn read_json(&self, relative: &str) -> Value {
        serde_json::from_str(&self.read(relative)).expect("JSON")
    }

    /// Makes a file executable.
    pub fn executable(&self, relative: &str) -> &Space {
        fs::set_permissions(self.path(relative), fs::Permissions::from_mode(0o755)).expect("chmod");
        self
    }

    /// croze in the space's directory, with its store and a small, fixed environment.
    pub fn command<S: AsRef<std::ffi::OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_croze"));
        command.args(arguments).current_dir(self.directory.path()).env_clear().stdin(Stdio::null());
        command.env("PATH", std::env::var_os("PATH").unwrap_or_default());
        command.env("HOME", self.directory.path()).env("CROZE_ROOT", self.path("store"));
        command
    }

    /// Runs croze to its end.
    pub fn croze<S: AsRef<std::ffi::OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Run {
        Run::of(self.command(arguments).output().expect("croze starts"))
    }

    /// Runs croze with bytes on its standard input.
    pub fn croze_with_input<S: AsRef<std::ffi::OsStr>>(&self, arguments: impl IntoIterator<Item = S>, input: &[u8]) -> Run {
        let mut command = self.command(arguments);
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("croze starts");
        // a program that ends before it has read all is judged by its exit code
        let _lost = child.stdin.take().expect("piped").write_all(input);
        Run::of(child.wait_with_output().expect("croze ends"))
    }

    /// `croze build` of `ctx` with these flags before it.
    pub fn build(&self, flags: &[&str]) -> Run {
        self.croze([&["build"], flags, &["ctx"]].concat())
    }

    /// Builds `ctx` and gives the resulting file tree, written to `out`.
    #[track_caller]
    pub fn build_files(&self, flags: &[&str]) -> PathBuf {
        let out = self.path("out");
        if out.exists() {
            fs::remove_dir_all(&out).expect("removes the former output");
        }
        let output = format!("type=local,dest={}", out.display());
        self.build(&[flags, &["-o", output.as_str()]].concat()).succeeds();
        out
    }
}

/// A program that has ended.
#[derive(Debug)]
pub struct Run {
    /// Exit code; `None` for a signal.
    pub code: Option<i32>,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Run {
    /// What a program left behind.
    pub fn of(output: Output) -> Run {
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Run { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
    }

    /// Exit code 0.
    #[track_caller]
    pub fn succeeds(self) -> Run {
        assert_eq!(self.code, Some(0), "stdout:\n{}\nstderr:\n{}", self.stdout, self.stderr);
        self
    }

    /// This exit code, and exactly this message: all from the first line that begins with `error` to the end.
    #[track_caller]
    pub fn fails(self, code: i32, message: &str) -> Run {
        assert_eq!(self.code, Some(code), "stdout:\n{}\nstderr:\n{}", self.stdout, self.stderr);
        let lines: Vec<&str> = self.stderr.lines().skip_while(|line| !line.starts_with("error")).collect();
        assert_eq!(lines.join("\n"), message.trim_end(), "whole stderr:\n{}", self.stderr);
        self
    }

    /// Lines of plain progress that say how a step ended, in order: `CACHED`, `DONE`, `ERROR`, `CANCELED`.
    pub fn endings(&self) -> Vec<&str> {
        let ending = |line: &str| -> Option<&'static str> {
            let (number, rest) = line.strip_prefix('#')?.split_once(' ')?;
            number.parse::<usize>().ok()?;
            ["CACHED", "DONE", "ERROR", "CANCELED"].into_iter().find(|word| rest.starts_with(word))
        };
        self.stderr.lines().filter_map(ending).collect()
    }

    /// How many steps ended like this.
    pub fn count(&self, ending: &str) -> usize {
        self.endings().into_iter().filter(|word| *word == ending).count()
    }
}

/// A tar of a busybox root file system, made once per test program by `.ci/busybox`.
pub fn busybox_tar() -> &'static str {
    static TAR: std::sync::OnceLock<String> = std::sync::OnceLock::new();
    TAR.get_or_init(|| {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("busybox-{}.tar", std::process::id()));
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join(".ci/busybox");
        run(Command::new(script).arg(&path)).succeeds();
        path.to_str().expect("our paths are text").to_owned()
    })
}

/// A sample's directory.
pub fn sample(name: &str) -> String {
    format!("{}/testdata/samples/{name}", env!("CARGO_MANIFEST_DIR"))
}

/// Runs a command to its end.
#[track_caller]
pub fn run(command: &mut Command) -> Run {
    let output = command.stdin(Stdio::null()).output();
    Run::of(output.unwrap_or_else(|error| panic!("{}: {error}", command.get_program().display())))
}

/// Runs another implementation of the standards, such as `skopeo`, that must agree.
#[track_caller]
pub fn judge(program: &str, arguments: &[&str]) -> Run {
    run(Command::new(program).args(arguments)).succeeds()
}

/// Whether all programs are there; says `SKIP` for the test where one is not.
pub fn skip_unless(test: &str, programs: &[&str]) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let is_there = |program: &&&str| std::env::split_paths(&path).any(|directory| directory.join(program).is_file());
    let absent: Vec<&str> = programs.iter().filter(|program| !is_there(program)).copied().collect();
    if !absent.is_empty() {
        println!("SKIP {test}: {} not installed", absent.join(", "));
    }
    absent.is_empty()
}

/// A registry of Debian's `docker-registry` on a free loopback port, empty, gone when dropped.
pub struct Registry {
    child: Child,
    /// `127.0.0.1:PORT`.
    pub host: String,
    _directory: tempfile::TempDir,
}

impl Registry {
    /// Starts one and waits until it listens.
    pub fn start() -> Registry {
        Registry::start_with("", "")
    }

    /// Starts one that knows no user and wants a log-in.
    pub fn start_closed() -> Registry {
        let users = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("no-users-{}", std::process::id()));
        fs::write(&users, "").expect("writes");
        Registry::start_with("", &format!("auth: {{htpasswd: {{realm: closed, path: {}}}}}\n", users.display()))
    }

    /// Starts one for the user `me` with the password `s3cret`.
    pub fn start_private() -> Registry {
        let users = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("one-user-{}", std::process::id()));
        // bcrypt of that password, at its lowest cost
        fs::write(&users, "me:$2b$04$ooVo5ZDhQWByJAzZDLIndudoX8DjEBiNyKbQBeAnQXXwxSjc/GXRq\n").expect("writes");
        Registry::start_with("", &format!("auth: {{htpasswd: {{realm: private, path: {}}}}}\n", users.display()))
    }

    /// Starts one that speaks TLS; nobody but [`Registry::ca`] vouches for it.
    pub fn start_tls() -> Registry {
        let directory = tls_directory();
        let [certificate, key] = ["tls.crt", "tls.key"].map(|name| directory.join(name).display().to_string());
        let words = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=croze \
                     -addext subjectAltName=IP:127.0.0.1 -addext basicConstraints=critical,CA:false";
        let arguments: Vec<&str> = words.split_whitespace().chain(["-keyout", &key, "-out", &certificate]).collect();
        judge("openssl", &arguments);
        Registry::start_with(&format!(", tls: {{certificate: {certificate}, key: {key}}}"), "")
    }

    /// The certificate of one that speaks TLS.
    pub fn ca(&self) -> PathBuf {
        tls_directory().join("tls.crt")
    }

    fn start_with(http: &str, config: &str) -> Registry {
        // between finding the port and using it, another process may take it: then the next one is tried
        (0..5).find_map(|_| Registry::try_start(http, config)).expect("the registry finds a port")
    }

    fn try_start(http: &str, extra: &str) -> Option<Registry> {
        let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a temporary directory");
        let port = std::net::TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a port").port();
        let host = format!("127.0.0.1:{port}");
        let config = directory.path().join("config.yml");
        let text = format!(
            "version: 0.1\nlog: {{level: info, accesslog: {{disabled: true}}}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\nhttp: {{addr: '{host}'{http}}}\n{extra}",
            directory.path().join("data").display()
        );
        fs::write(&config, text).expect("writes");
        let mut command = Command::new("docker-registry");
        command.arg("serve").arg(&config).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("docker-registry starts");
        let mut lines = BufReader::new(child.stderr.take().expect("piped")).lines();
        let listens = lines.by_ref().map_while(Result::ok).any(|line| line.contains("listening on"));
        // somebody must go on reading, or the registry stops at a full pipe
        std::thread::spawn(move || lines.for_each(drop));
        let registry = Registry { child, host, _directory: directory };
        listens.then_some(registry)
    }
}

fn tls_directory() -> PathBuf {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("tls-{}", std::process::id()));
    fs::create_dir_all(&directory).expect("creates");
    directory
}

impl Drop for Registry {
    fn drop(&mut self) {
        // it may have ended by itself
        let _lost = self.child.kill();
        let _lost = self.child.wait();
    }
}
