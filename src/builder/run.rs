//! An image's command in a sandbox, with this process's streams: how people try what they have built.

use std::collections::{HashMap, HashSet};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use tokio::sync::watch;

use super::settings::{self, Settings};
use super::{BuildError, ErrorKind, disk, report};
use crate::cache::Cache;
use crate::diagnostic::Diagnostic;
use crate::event::EventSink;
use crate::graph::{ExecOp, Graph, Network, Security};
use crate::image::ImageConfig;
use crate::reference::{ImageRef, Platform};
use crate::sandbox;
use crate::source::image::{self, PullPolicy};
use crate::store::Store;
use crate::worker::ahead::Ahead;
use crate::worker::{Ended, LocalWorker, Shared, Strictness, Wanting, Wiring};

/// What to run, and how. What is `None` or empty is as the image has it.
pub struct RunRequest {
    /// The image.
    pub image: ImageRef,
    /// Words behind the image's name: they replace its `CMD`.
    pub command: Vec<String>,
    /// `--entrypoint`: replaces `ENTRYPOINT`, and the image's `CMD` does not count; an empty one is none.
    pub entrypoint: Option<String>,
    /// `-e`, as `NAME=value`.
    pub env: Vec<String>,
    /// `-v`.
    pub volumes: Vec<Volume>,
    /// `-w`.
    pub cwd: Option<String>,
    /// `-u`.
    pub user: Option<String>,
    /// `--network`.
    pub network: Network,
    /// `--hostname`.
    pub hostname: Option<String>,
    /// `--add-host NAME:IP`.
    pub extra_hosts: Vec<(String, String)>,
    /// `--shm-size`.
    pub shm_size_bytes: Option<u64>,
    /// `--memory`, `--cpu-*`, `--pids-limit`.
    pub resources: sandbox::Resources,
    /// `--ulimit`: name, soft, hard.
    pub ulimits: Vec<(String, u64, u64)>,
    /// `--platform`; the host's when not asked for.
    pub platform: Option<Platform>,
    /// `--pull`: ask the registry even where the store has the name.
    pub pull: bool,
    /// `-i`, `-t`.
    pub wiring: Wiring,
    /// One byte for each signal that the command is to get; the command is killed when its other side is closed.
    pub signals: OwnedFd,
    /// Told what people should know, as notes.
    pub events: Arc<dyn EventSink>,
    /// The client's proxies and the like, as for a build.
    pub client_env: Vec<(String, String)>,
    /// The time of a name that a registry has answered for.
    pub now: SystemTime,
}

/// `-v SOURCE:TARGET[:ro]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Volume {
    /// A file or directory of this machine, absolute.
    pub source: PathBuf,
    /// Absolute in the image.
    pub target: String,
    /// Whether the command may write there.
    pub writable: bool,
}

/// How it ended.
#[derive(Debug)]
pub struct RunResult {
    /// The command's exit code, 128 plus the number of a signal, 127 or 126 for one that could not be started.
    pub code: u8,
    /// Why it could not be started.
    pub diagnostic: Option<Diagnostic>,
}

/// What a container gets that has no `PATH`, as Docker gives it.
const DEFAULT_PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Runs an image's command until it ends. What it writes to the image's files is forgotten.
///
/// # Errors
/// `Usage` for an image without a command or an unknown user; `Source`; `Environment`.
pub async fn run(store: Store, request: RunRequest) -> Result<RunResult, BuildError> {
    let ran = run_image(&store, request).await;
    ran.map_err(|error| disk::with_store(error, store.root()))
}

async fn run_image(store: &Store, request: RunRequest) -> Result<RunResult, BuildError> {
    let Settings { registry, limits } = settings::read(&request.client_env)?;
    let client = Arc::new(super::registry::client(registry, &request.client_env));
    let platform = request.platform.clone().unwrap_or_else(Platform::host);
    let policy = if request.pull { PullPolicy::Always } else { PullPolicy::Missing };
    let now_secs = request.now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs().cast_signed());
    let resolved = image::resolve(store, &client, &request.image, &platform, policy, now_secs).await;
    let image = Arc::new(resolved.map_err(|error| report::source_error(&error))?);
    let op = op(&image.config, &request, platform)?;
    let volumes = request.volumes.into_iter().map(mount).collect();
    // nobody cancels: the command is ended through its signals
    let (_cancel, canceled) = watch::channel(false);
    let shared = Shared {
        strictness: Strictness::Lenient,
        store: store.clone(),
        cache: Cache::new(store.clone()),
        graph: Arc::new(Graph::new()),
        images: HashMap::from([(image.manifest.digest, (image.clone(), Some(request.image)))]),
        contexts: HashMap::new(),
        client,
        limits,
        events: request.events,
        numbers: HashMap::new(),
        secrets: Vec::new(),
        ssh: Vec::new(),
        wanting: Wanting::new(),
        proxy_env: Vec::new(),
        entitled: None,
        resources: request.resources,
        cgroup_parent: None,
        shells: None,
        imports: Arc::default(),
        told: None,
        secret_key: None,
        now_secs,
        ahead: Ahead::default(),
        unread: HashSet::new(),
        processors: 1,
        cancel: canceled,
    };
    let failed = |error| report::step_error(&error, None);
    let worker = LocalWorker::new(shared).map_err(failed)?;
    let name = image.name.clone();
    match worker.attach(op, &image, volumes, request.wiring, request.signals).await.map_err(failed)? {
        Ended::Exit(exit) => Ok(RunResult { code: u8::try_from(exit.code()).unwrap_or(u8::MAX), diagnostic: None }),
        Ended::NotStarted(why) => {
            let message = format!("the command of `{name}` cannot be started: {}", why.why);
            let diagnostic =
                Diagnostic { helps: why.hint.into_iter().collect(), ..Diagnostic::error_without_place("run", message) };
            Ok(RunResult { code: why.code, diagnostic: Some(diagnostic) })
        }
    }
}

fn op(config: &ImageConfig, request: &RunRequest, platform: Platform) -> Result<ExecOp, BuildError> {
    let image = &config.config;
    let entrypoint = match &request.entrypoint {
        Some(entrypoint) => Some(entrypoint.clone()).filter(|text| !text.is_empty()).into_iter().collect(),
        None => image.entrypoint.clone(),
    };
    let command = match (&request.entrypoint, request.command.as_slice()) {
        (None, []) => &image.cmd,
        _ => &request.command,
    };
    let args = [entrypoint.as_slice(), command].concat();
    if args.is_empty() {
        let message = format!("`{}` names no command to run", request.image);
        let diagnostic = Diagnostic::error_without_place("no-command", message);
        let diagnostic = diagnostic.help(format!("name one behind the image: `croze run {} COMMAND`", request.image));
        return Err(BuildError { kind: ErrorKind::Usage, diagnostics: vec![diagnostic] });
    }
    let mut env: Vec<String> = Vec::new();
    let terminal = (request.wiring == Wiring::Terminal).then(|| "TERM=xterm".to_owned());
    for variable in [DEFAULT_PATH.to_owned()].into_iter().chain(terminal).chain(image.env.iter().chain(&request.env).cloned()) {
        let name = variable.split('=').next().unwrap_or_default();
        match env.iter_mut().find(|known| known.split('=').next() == Some(name)) {
            Some(known) => *known = variable,
            None => env.push(variable),
        }
    }
    let cwd = request.cwd.clone().unwrap_or_else(|| image.working_dir.clone());
    Ok(ExecOp {
        args,
        env,
        proxy_env: Vec::new(),
        cwd: if cwd.starts_with('/') { cwd } else { format!("/{cwd}") },
        user: request.user.clone().unwrap_or_else(|| image.user.clone()),
        mounts: Vec::new(),
        network: request.network,
        security: Security::Sandbox,
        hostname: Some(request.hostname.clone().unwrap_or_else(|| "croze".to_owned())),
        extra_hosts: request.extra_hosts.clone(),
        shm_size_bytes: request.shm_size_bytes,
        ulimits: request.ulimits.clone(),
        platform,
        script: None,
    })
}

fn mount(volume: Volume) -> sandbox::Mount {
    let Volume { source, target, writable } = volume;
    sandbox::Mount { target, kind: sandbox::MountKind::Bind { source, subpath: String::new(), writable } }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::worker::StandardStreams;

    fn request(entrypoint: Option<&str>, command: &[&str]) -> RunRequest {
        let (signals, _) = rustix::pipe::pipe().expect("a pipe");
        RunRequest {
            image: "app".parse().expect("a name"),
            command: command.iter().map(ToString::to_string).collect(),
            entrypoint: entrypoint.map(str::to_owned),
            env: vec!["A=2".to_owned()],
            volumes: Vec::new(),
            cwd: None,
            user: None,
            network: Network::Default,
            hostname: None,
            extra_hosts: Vec::new(),
            shm_size_bytes: None,
            resources: sandbox::Resources::default(),
            ulimits: Vec::new(),
            platform: None,
            pull: false,
            wiring: Wiring::Streams(StandardStreams::Output),
            signals,
            events: Arc::new(crate::event::Silent),
            client_env: Vec::new(),
            now: SystemTime::UNIX_EPOCH,
        }
    }

    #[track_caller]
    fn check(image: (&[&str], &[&str]), entrypoint: Option<&str>, command: &[&str], expected: Option<&[&str]>) {
        let mut config = ImageConfig::scratch(&Platform::host());
        config.config.entrypoint = image.0.iter().map(ToString::to_string).collect();
        config.config.cmd = image.1.iter().map(ToString::to_string).collect();
        let op = op(&config, &request(entrypoint, command), Platform::host());
        assert_eq!(op.ok().map(|op| op.args), expected.map(|args| args.iter().map(ToString::to_string).collect()));
    }

    #[test]
    fn words_replace_the_command_and_the_flag_replaces_the_entrypoint() {
        check((&["e"], &["c"]), None, &[], Some(&["e", "c"]));
        check((&["e"], &["c"]), None, &["x", "y"], Some(&["e", "x", "y"]));
        check((&["e"], &["c"]), Some("f"), &[], Some(&["f"]));
        check((&["e"], &["c"]), Some(""), &["x"], Some(&["x"]));
        check((&[], &["c"]), None, &[], Some(&["c"]));
        check((&["e"], &["c"]), Some(""), &[], None);
        check((&[], &[]), None, &[], None);
    }

    #[test]
    fn variables_of_the_client_win() {
        let mut config = ImageConfig::scratch(&Platform::host());
        config.config.cmd = vec!["c".to_owned()];
        config.config.env = vec!["A=1".to_owned(), "PATH=/x".to_owned()];
        let op = op(&config, &request(None, &[]), Platform::host()).expect("a command");
        assert_eq!(op.env, ["PATH=/x", "A=2"]);
        assert_eq!(op.cwd, "/");
    }
}
