//! Compares croze with other builders on this machine, in one interleaved run.
//!
//! ```text
//! cargo bench --bench peers                     all workloads
//! cargo bench --bench peers -- hello tree       those whose name contains a word
//! PEERS_CROZE=target/…/release/croze            measures this program, such as the static one
//! PEERS_ROUNDS=5                                rounds (20)
//! PEERS=buildah,buildx                          these peers only
//! BUILDX_BUILDER=NAME                           measures `docker buildx build --builder NAME` (or `docker-buildx`) as well
//! BUILDKIT_HOST=ADDRESS                         measures `buildctl` as well
//! ```
//!
//! Stores and contexts lie below cargo's target directory: choose one (`--target-dir`) on a file system with a journal.
//! Every builder takes the base image from one `docker-registry` on loopback in a warm-up run, so that all rounds are "base
//! there". In a round each builder runs each workload once, one after the other: what disturbs the machine disturbs
//! all. Times are wall clock from start to exit, as min / median / max in milliseconds, with the ratio of medians to
//! croze's. Peak memory is that of the client process, from one further run (`/usr/bin/time`): a daemon's is not in it.
//! Needs docker-registry, skopeo and busybox-static; a builder that is absent or does not answer is named and left out.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

#[path = "../tests/common/mod.rs"]
mod common;
#[path = "common/mod.rs"]
mod support;

use common::{Registry, Space};
use support::{median, millis, shell};

fn main() {
    let words: Vec<String> = std::env::args().skip(1).filter(|word| !word.starts_with("--")).collect();
    let rounds = std::env::var("PEERS_ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(20_usize).max(1);
    let space = Space::with_busybox();
    let registry = Registry::start();
    publish_base(&space, &registry);
    let workloads: Vec<Workload> = workloads(&space, &format!("{}/busybox", registry.host))
        .into_iter()
        .filter(|workload| words.is_empty() || words.iter().any(|word| workload.name.contains(word.as_str())))
        .collect();
    let peers: Vec<Peer> =
        peers(&space).into_iter().filter(|peer| peer.is_wanted()).filter(|peer| peer.answers(&workloads)).collect();
    assert!(peers.first().is_some_and(|peer| peer.name == OWN_NAME), "ratios need croze itself");
    let times = measure(&peers, &workloads, rounds);
    report(&space, &peers, &workloads, &times, rounds);
}

/// A context and how it is built.
struct Workload {
    name: &'static str,
    context: PathBuf,
    cache: Cache,
    /// Where a gzip OCI archive goes, if one is wanted.
    archive: Option<PathBuf>,
}

#[derive(Clone, Copy, PartialEq)]
enum Cache {
    /// Every step runs.
    Off,
    /// Every step is cached.
    Full,
}

/// A builder: from a workload to a command line.
struct Peer {
    name: &'static str,
    command: CommandLine,
}

/// `None` where the builder has no such workload.
type CommandLine = Box<dyn Fn(&Workload) -> Option<String>>;

/// What this program is called among them.
const OWN_NAME: &str = "croze";

impl Peer {
    /// Whether `PEERS` names it; everything without `PEERS`.
    fn is_wanted(&self) -> bool {
        let named = std::env::var("PEERS").map(|names| names.split(',').any(|name| name == self.name));
        self.name == OWN_NAME || named.unwrap_or(true)
    }

    /// Runs every workload once, so that the base is there and the caches are full. Says why the builder is left out.
    fn answers(&self, workloads: &[Workload]) -> bool {
        workloads.iter().all(|workload| {
            let Some(command) = (self.command)(workload) else { return true };
            let trouble = match shell(&command).output() {
                Ok(output) if output.status.success() => return true,
                Ok(output) => {
                    let stderr = String::from_utf8_lossy(&output.stderr);
                    stderr.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("no message").to_owned()
                }
                Err(error) => error.to_string(),
            };
            println!("{}: left out, {} fails: {trouble}", self.name, workload.name);
            false
        })
    }
}

fn peers(space: &Space) -> Vec<Peer> {
    let program = std::env::var("PEERS_CROZE").unwrap_or_else(|_| env!("CARGO_BIN_EXE_croze").to_owned());
    let croze = format!("{program} build --root={} --progress=quiet", space.text_path("store"));
    let mut peers = vec![
        Peer { name: OWN_NAME, command: Box::new(move |workload| Some(docker_like(&croze, workload, true))) },
        Peer { name: "buildah", command: Box::new(|workload| Some(buildah(workload))) },
        Peer {
            name: "docker",
            command: Box::new(|workload| workload.archive.is_none().then(|| docker_like("docker build -q", workload, false))),
        },
    ];
    if let Ok(builder) = std::env::var("BUILDX_BUILDER") {
        // buildx is a plugin of docker, or a program of its own
        let standalone = Command::new("docker-buildx").arg("version").output().is_ok_and(|output| output.status.success());
        let program = if standalone { "docker-buildx" } else { "docker buildx" };
        let buildx = format!("{program} build --builder {builder} --progress=quiet --provenance=false");
        peers.push(Peer { name: "buildx", command: Box::new(move |workload| Some(docker_like(&buildx, workload, true))) });
    }
    if std::env::var_os("BUILDKIT_HOST").is_some() {
        peers.push(Peer { name: "buildctl", command: Box::new(|workload| Some(buildctl(workload))) });
    }
    peers
}

fn docker_like(program: &str, workload: &Workload, can_export: bool) -> String {
    let no_cache = if workload.cache == Cache::Off { " --no-cache" } else { "" };
    let output = match &workload.archive {
        Some(archive) if can_export => format!(" -o type=oci,dest={}", archive.display()),
        _ => String::new(),
    };
    format!("{program}{no_cache}{output} {}", workload.context.display())
}

fn buildah(workload: &Workload) -> String {
    let no_cache = if workload.cache == Cache::Off { " --no-cache" } else { "" };
    let context = workload.context.display();
    let build = format!("buildah build --layers --tls-verify=false -q{no_cache} -t peers {context}");
    match &workload.archive {
        Some(archive) => format!("{build} && rm -f {0} && buildah push -q peers oci-archive:{0}", archive.display()),
        None => build,
    }
}

fn buildctl(workload: &Workload) -> String {
    let no_cache = if workload.cache == Cache::Off { " --no-cache" } else { "" };
    let output =
        workload.archive.as_ref().map_or_else(String::new, |archive| format!(" --output type=oci,dest={}", archive.display()));
    let context = workload.context.display();
    format!(
        "buildctl build --progress=plain --frontend dockerfile.v0 --local context={context} --local dockerfile={context}{no_cache}{output}"
    )
}

/// Puts busybox into the registry, so that all builders start from the same image.
fn publish_base(space: &Space, registry: &Registry) {
    space.write("base/Dockerfile", "FROM busybox\n");
    let archive = space.text_path("base.tar");
    space.croze(["build", "-o", &format!("type=oci,dest={archive}"), "base"]).succeeds();
    let (from, to) = (format!("oci-archive:{archive}"), format!("docker://{}/busybox:latest", registry.host));
    common::judge("skopeo", &["copy", "--quiet", "--dest-tls-verify=false", &from, &to]);
}

fn workloads(space: &Space, base: &str) -> Vec<Workload> {
    space.write("hello/Dockerfile", format!("FROM {base}\nWORKDIR /app\nCOPY greet.sh ./\nRUN sh greet.sh > greeting.txt\n"));
    space.write("hello/greet.sh", "echo hello\n");
    let runs: String = (1..=20).map(|number| format!("RUN echo {number} > /n{number}\n")).collect();
    space.write("runs/Dockerfile", format!("FROM {base}\n{runs}"));
    space.write("tree/Dockerfile", format!("FROM {base}\nCOPY src /src\nRUN ls /src > /list\n"));
    support::write_tree(&space.path("tree/src"), 7500, 1);
    let workload = |name, context: &str, cache, archive: Option<&str>| Workload {
        name,
        context: space.path(context),
        cache,
        archive: archive.map(|file| space.path(file)),
    };
    vec![
        workload("hello", "hello", Cache::Off, None),
        workload("hello, no-op", "hello", Cache::Full, None),
        workload("20 runs", "runs", Cache::Off, None),
        workload("20 runs, no-op", "runs", Cache::Full, None),
        workload("tree + OCI tar", "tree", Cache::Off, Some("tree.tar")),
        workload("tree + OCI tar, no-op", "tree", Cache::Full, Some("tree.tar")),
        workload("tree, no-op", "tree", Cache::Full, None),
    ]
}

/// Times by peer and workload; empty where a peer has no such workload.
fn measure(peers: &[Peer], workloads: &[Workload], rounds: usize) -> Vec<Vec<Vec<Duration>>> {
    let mut times = vec![vec![Vec::new(); workloads.len()]; peers.len()];
    for _ in 0..rounds {
        for (workload, column) in workloads.iter().zip(0..) {
            for (peer, times) in peers.iter().zip(&mut times) {
                let Some(command) = (peer.command)(workload) else { continue };
                let start = Instant::now();
                let status = shell(&command).stderr(Stdio::null()).status().expect("it started in the warm-up");
                times[column].push(start.elapsed());
                assert!(status.success(), "{} failed at {} after its warm-up", peer.name, workload.name);
            }
        }
    }
    times
}

fn report(space: &Space, peers: &[Peer], workloads: &[Workload], times: &[Vec<Vec<Duration>>], rounds: usize) {
    println!("\n{rounds} rounds, milliseconds, base there\n");
    println!("{:<24} {:<10} {:>9} {:>9} {:>9} {:>9} {:>9}", "workload", "builder", "min", "median", "max", "ratio", "peak MB");
    for (workload, column) in workloads.iter().zip(0..) {
        let first = times.first().map(|times| median(&times[column]));
        for (peer, times) in peers.iter().zip(times) {
            let mut sorted = times[column].clone();
            sorted.sort_unstable();
            let (Some(min), Some(max)) = (sorted.first(), sorted.last()) else { continue };
            let ratio = first.map_or(0.0, |first| millis(median(&sorted)) / millis(first));
            let peak = peak_megabytes(space, peer, workload).map_or_else(|| "-".to_owned(), |peak| format!("{peak:.0}"));
            println!(
                "{:<24} {:<10} {:>9.1} {:>9.1} {:>9.1} {:>8.1}x {:>9}",
                workload.name,
                peer.name,
                millis(*min),
                millis(median(&sorted)),
                millis(*max),
                ratio,
                peak
            );
        }
    }
}

/// The largest resident set among the command and its children, by GNU time; `None` where that is not installed.
fn peak_megabytes(space: &Space, peer: &Peer, workload: &Workload) -> Option<f64> {
    let command = (peer.command)(workload)?;
    let file = space.path("peak");
    let mut time = Command::new("/usr/bin/time");
    time.args(["-f", "%M", "-o"]).arg(&file).args(["sh", "-c", &command]).stdout(Stdio::null()).stderr(Stdio::null());
    time.status().ok().filter(std::process::ExitStatus::success)?;
    let kibibytes: f64 = fs::read_to_string(&file).ok()?.trim().parse().ok()?;
    Some(kibibytes / 1024.0)
}
