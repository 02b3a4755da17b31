//! `--sbom=generator=IMAGE`: a scanner out of an image, which looks at each image that is built.
//!
//! Owns: the steps that run it, and reading what it leaves.
//! In:   a plan; after the run, the layers of these steps.
//! Out:  statements as the scanner made them.
//! Source: moby/buildkit, `docs/attestations/sbom-protocol.md`, `frontend/attestations/sbom`.
//! Elsewhere: the scanner that is built in (`sbom`).

use std::sync::Arc;

use serde::Deserialize;
use serde_json::Value;

use super::attest::{Sbom, Scanner};
use super::build::{Build, unless_canceled};
use super::lock::HELP;
use super::{BuildError, ErrorKind, report};
use crate::diagnostic::Diagnostic;
use crate::export::{Claim, Subject};
use crate::graph::{ExecOp, ImageOp, MkdirOp, Mount, MountKind, Network, Op, Origin, Security, StepIndex};
use crate::image::ImageConfig;
use crate::plan::Joined;
use crate::reference::Platform;
use crate::snapshot::{FileKind, FileTree, Last, SnapshotError, TreePath, View, resolve};
use crate::source::image::{self, PullPolicy, ResolvedImage};
use crate::task;
use crate::worker::{LocalWorker, Output, Stack};

/// Where the scanner finds what it is to scan, and where it leaves what it has found.
const SOURCES: &str = "/run/src";
const RESULTS: &str = "/run/out";
/// What the scan of the image itself is called.
const CORE: &str = "sbom";
/// BuildKit takes no larger statement.
const MOST_BYTES: u64 = 80 << 20;

impl Build {
    /// Adds a step for each image of `plan` that shows it to the scanner, if the client wants one.
    pub(super) async fn add_scans(&mut self, plan: &mut Joined) -> Result<(), BuildError> {
        let Some(Sbom::Scanner(scanner)) = self.request.attestations.sbom.clone() else { return Ok(()) };
        let image = self.resolve_scanner(&scanner).await?;
        if program(&image.config).is_empty() {
            let message = format!("the scanner `{}` names no command to run", scanner.image);
            let diagnostic = Diagnostic::error_without_place("no-command", message)
                .help("it is an image whose `ENTRYPOINT` or `CMD` follows BuildKit's SBOM protocol");
            return Err(BuildError { kind: ErrorKind::Usage, diagnostics: vec![diagnostic] });
        }
        let op = ImageOp { name: image.name.clone(), manifest: image.manifest.digest, platform: Platform::host() };
        let origin = Origin { name: format!("docker-image://{}@{}", image.name, op.manifest), ..Origin::default() };
        let base = plan.graph.add(Op::Image(op), &[], origin);
        // the place of the results is in the scanner's own tree: they are what its layer has
        let op = MkdirOp { path: RESULTS.to_owned(), user: String::new() };
        let root = plan.graph.add(Op::Mkdir(op), &[base], Origin::default());
        plan.steps.push(base);
        for built in &mut plan.images {
            let name = format!("[{}] generating sbom using {}", built.draft.config.platform(), image.name);
            let extras: Vec<&str> = built.extras.keys().map(String::as_str).collect();
            let op = Op::Exec(scan(&image.config, &scanner, &extras));
            let inputs: Vec<StepIndex> = [root, built.target].into_iter().chain(built.extras.values().copied()).collect();
            let step = plan.graph.add(op, &inputs, Origin { name, ..Origin::default() });
            built.scan = Some(step);
            plan.steps.push(step);
        }
        Ok(())
    }

    async fn resolve_scanner(&mut self, scanner: &Scanner) -> Result<Arc<ResolvedImage>, BuildError> {
        let image_ref = self.lock.image(&scanner.image);
        self.refuse_unpinned(|| {
            let message = format!("the scanner `{}` is not pinned", scanner.image);
            let open = image_ref.digest.is_none();
            open.then(|| Diagnostic::error_without_place("unpinned", message).help(HELP)).into_iter().collect()
        })?;
        let step = self.reporter.announce(format!("[internal] load metadata for {}", scanner.image.canonical()));
        let policy = if self.request.pull { PullPolicy::Always } else { PullPolicy::Missing };
        let (platform, now_secs) = (Platform::host(), self.now_secs());
        let resolving = async {
            let resolved = image::resolve(&self.store, &self.client, &image_ref, &platform, policy, now_secs).await;
            resolved.map_err(|error| {
                self.reporter.failed(step, error.to_string());
                report::source_error(&error)
            })
        };
        let image = Arc::new(unless_canceled(&self.cancel, resolving).await?);
        self.reporter.done(step, None);
        self.images.insert(image.manifest.digest, (image.clone(), Some(image_ref)));
        Ok(image)
    }

    /// What the scanner has left that made `output`, the image's own scan first.
    pub(super) async fn scanned(&self, worker: &LocalWorker, output: &Output) -> Result<Vec<Claim>, BuildError> {
        let Output::Stack(stack) = output else { return Ok(Vec::new()) };
        let uppermost = Stack::new(stack.layers().last().cloned().into_iter().collect());
        let trees = worker.trees(&uppermost).await.map_err(|error| report::step_error(&error, None))?;
        task::blocking(move || claims(&View::new(trees)?)).await.map_err(|error| match error {
            ScanError::Unreadable(error) => report::environment_error(&error),
            error => {
                let diagnostic = Diagnostic::error_without_place("scan-failed", error.to_string())
                    .help("a scanner writes one in-toto statement per file to `$BUILDKIT_SCAN_DESTINATION`");
                BuildError { kind: ErrorKind::Step, diagnostics: vec![diagnostic] }
            }
        })
    }
}

/// Its entry point and the arguments of that.
fn program(config: &ImageConfig) -> Vec<String> {
    [config.config.entrypoint.as_slice(), config.config.cmd.as_slice()].concat()
}

/// The command that scans input 1, and beside it inputs 2 and on, which go by the names of `extras`. Like BuildKit's, it runs as
/// root whatever the scanner's image says.
fn scan(config: &ImageConfig, scanner: &Scanner, extras: &[&str]) -> ExecOp {
    let core = format!("{SOURCES}/core/{CORE}");
    let mut env: Vec<String> = config.config.env.clone();
    let mut set = |name: &str, value: &str| {
        env.retain(|line| line.split('=').next() != Some(name));
        env.push(format!("{name}={value}"));
    };
    set("BUILDKIT_SCAN_DESTINATION", &format!("{RESULTS}/"));
    set("BUILDKIT_SCAN_SOURCE", &core);
    if !extras.is_empty() {
        set("BUILDKIT_SCAN_SOURCE_EXTRAS", &format!("{SOURCES}/extras"));
    }
    for (name, value) in &scanner.parameters {
        set(&format!("BUILDKIT_SCAN_{name}"), value);
    }
    let shown =
        |input: usize, target: String| Mount { target, kind: MountKind::Bind { input, source: "/".to_owned(), writable: false } };
    let extras = extras.iter().enumerate().map(|(number, name)| shown(number + 2, format!("{SOURCES}/extras/{CORE}-{name}")));
    let memory = Mount { target: "/tmp".to_owned(), kind: MountKind::Tmpfs { size_bytes: None } };
    let cwd = &config.config.working_dir;
    ExecOp {
        args: program(config),
        env,
        proxy_env: Vec::new(),
        cwd: if cwd.starts_with('/') { cwd.clone() } else { format!("/{cwd}") },
        user: String::new(),
        mounts: [memory, shown(1, core)].into_iter().chain(extras).collect(),
        network: Network::Default,
        security: Security::Sandbox,
        hostname: None,
        extra_hosts: Vec::new(),
        shm_size_bytes: None,
        ulimits: Vec::new(),
        platform: Platform::host(),
        script: None,
    }
}

/// Why what a scanner left is of no use.
#[derive(Debug, thiserror::Error)]
enum ScanError {
    #[error("the scanner left `{path}`, which is no file")]
    NoFile { path: TreePath },
    #[error("the scanner left `{path}`, which has {size_bytes} bytes; a statement has {MOST_BYTES} at most")]
    TooLarge { path: TreePath, size_bytes: u64 },
    #[error("the scanner left `{path}`, which is no in-toto statement: {reason}")]
    NoStatement { path: TreePath, reason: serde_json::Error },
    #[error("the scanner left `{path}`, a statement of provenance: how an image was made is for the builder to say")]
    Provenance { path: TreePath },
    #[error("cannot read what the scanner left")]
    Unreadable(#[from] SnapshotError),
}

/// A statement as far as it is taken over: who it is about is added where it does not say.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Statement {
    predicate_type: String,
    #[serde(default)]
    subject: Option<Vec<Subject>>,
    #[serde(default)]
    predicate: Value,
}

/// Reads all statements in the scanner's layer. Blocks.
fn claims(tree: &dyn FileTree) -> Result<Vec<Claim>, ScanError> {
    let directory = TreePath::clean(RESULTS.as_bytes());
    if tree.lookup(&directory)?.is_none_or(|meta| meta.kind != FileKind::Directory) {
        return Ok(Vec::new());
    }
    let mut claims = Vec::new();
    for (name, _) in tree.read_dir(&directory)? {
        let found = resolve(tree, &directory.child(&name), Last::Follow)?;
        let path = directory.child(&name);
        let size_bytes = match found.meta {
            Some(meta) if meta.kind == FileKind::File => meta.size_bytes,
            _ => return Err(ScanError::NoFile { path }),
        };
        if size_bytes > MOST_BYTES {
            return Err(ScanError::TooLarge { path, size_bytes });
        }
        let read = serde_json::from_reader(std::io::BufReader::new(tree.open(&found.path)?));
        let Statement { predicate_type, subject, predicate } = match read {
            Ok(statement) => statement,
            Err(reason) => return Err(ScanError::NoStatement { path, reason }),
        };
        if predicate_type.starts_with("https://slsa.dev/provenance/") {
            return Err(ScanError::Provenance { path });
        }
        let file_name = String::from_utf8_lossy(&name).into_owned();
        claims.push(Claim { predicate_type, file_name, predicate, subjects: subject.unwrap_or_default(), ..Claim::default() });
    }
    claims.sort_by_key(|claim| claim.file_name.split('.').next() != Some(CORE));
    Ok(claims)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::DirTree;

    #[track_caller]
    fn check(files: &[(&str, &str)], expected: Result<&[&str], &str>) {
        let space = tempfile::tempdir().expect("space");
        let results = space.path().join("run/out");
        std::fs::create_dir_all(&results).expect("creates");
        for (name, content) in files {
            std::fs::write(results.join(name), content).expect("writes");
        }
        let found = claims(&DirTree::open(space.path()).expect("opens"));
        let told = found.map(|claims| claims.iter().map(|claim| claim.file_name.clone()).collect::<Vec<_>>());
        match (told, expected) {
            (Ok(names), Ok(expected)) => assert_eq!(names, expected),
            (Err(error), Err(expected)) => assert_eq!(error.to_string(), expected),
            (found, expected) => panic!("{found:?} is not {expected:?}"),
        }
    }

    #[test]
    fn statements_are_read_the_images_own_first() {
        let statement = r#"{"_type":"https://in-toto.io/Statement/v0.1","predicateType":"https://spdx.dev/Document","subject":null,"predicate":{}}"#;
        check(
            &[("a.json", statement), ("sbom.spdx.json", statement), ("sbom-x.json", statement)],
            Ok(&["sbom.spdx.json", "a.json", "sbom-x.json"]),
        );
        check(&[], Ok(&[]));
    }

    #[test]
    fn what_is_no_statement_is_named() {
        let words = |rest: &str| format!("the scanner left `/run/out/x`, {rest}");
        check(&[("x", "{")], Err(&words("which is no in-toto statement: EOF while parsing an object at line 1 column 1")));
        check(
            &[("x", r#"{"predicateType":"a"} {}"#)],
            Err(&words("which is no in-toto statement: trailing characters at line 1 column 23")),
        );
        check(
            &[("x", r#"{"predicate":{}}"#)],
            Err(&words("which is no in-toto statement: missing field `predicateType` at line 1 column 16")),
        );
        check(
            &[("x", r#"{"predicateType":"https://slsa.dev/provenance/v1"}"#)],
            Err(&words("a statement of provenance: how an image was made is for the builder to say")),
        );
    }
}
