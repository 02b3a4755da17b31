//! What must hold whatever happens to a build: many at once, killed at any moment, interrupted, on a full disk, in a damaged
//! store, without privileges, under load.
//!
//! Longer runs: `CROZE_TEST_KILLS=500`, `CROZE_TEST_DISKS=100`, `CROZE_TEST_BUILDS=200`, `CROZE_TEST_FLIPS=300`; `CROZE_TEST_SEED=N`
//! flips the same bits again.

#[path = "../common/mod.rs"]
mod common;

mod damage;
mod denied;
mod disk;
mod flips;
mod kill;
mod limits;
mod load;
mod many;
mod stop;

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use common::Space;

/// A build that touches everything: several stages, copies, commands, an archive.
const DOCKERFILE: &str = "\
FROM busybox AS words
COPY words /words
RUN sort /words/* > /sorted && mkdir /made && for i in $(seq 50); do echo $i > /made/$i; done
FROM busybox AS more
WORKDIR /more
RUN head -c 3000000 /dev/zero | tr '\\0' x > big && ln big hard && ln -s big soft
FROM busybox
COPY --from=words /sorted /made /out/
COPY --from=more /more /more
RUN rm -r /out/1 && chmod 700 /more && echo done > /done
CMD [\"cat\", \"/done\"]
";

/// Names of what is in a directory, sorted.
#[track_caller]
fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).expect("a directory");
    let mut names: Vec<String> =
        entries.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// Flags that make the image's digest the same everywhere.
const REPRODUCIBLE: [&str; 6] = [
    "--build-arg",
    "SOURCE_DATE_EPOCH=1700000000",
    "-o",
    "type=oci,dest=image.tar,rewrite-timestamp=true",
    "--metadata-file",
    "meta.json",
];

/// How often something is tried: as the variable says, for longer runs.
fn number(variable: &str, otherwise: u64) -> u64 {
    std::env::var(variable).map_or(otherwise, |text| text.parse().expect("a number"))
}

fn space() -> Space {
    let space = Space::with_busybox();
    space.dockerfile(DOCKERFILE);
    for number in 0..40 {
        space.write(&format!("ctx/words/{number}"), format!("word {}\n", number * 7919 % 100));
    }
    space
}

fn digest(space: &Space) -> String {
    space.build(&REPRODUCIBLE).succeeds();
    space.read_json("meta.json")["containerimage.digest"].as_str().expect("a digest").to_owned()
}

/// The mounts that this process sees and that could be a build's: those of or in the space's directory.
fn mounts(space: &Space) -> Vec<String> {
    let all = fs::read_to_string("/proc/self/mountinfo").expect("mounts");
    let place = space.text_path("");
    all.lines().filter(|line| line.contains(&place)).map(str::to_owned).collect()
}

/// Processes whose command line has `word`.
fn processes_with(word: &str) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").expect("/proc").flatten() {
        // a process may end while it is looked at
        let Ok(line) = fs::read(entry.path().join("cmdline")) else { continue };
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        if line.contains(word) && entry.file_name().to_string_lossy().parse::<u32>().is_ok_and(|pid| pid != std::process::id()) {
            found.push(line);
        }
    }
    found
}

/// Waits until nothing has `word` on its command line: a killed tree ends by itself, but not at once.
#[track_caller]
fn all_end(word: &str) {
    for _ in 0..500 {
        if processes_with(word).is_empty() {
            return;
        }
        thread::sleep(Duration::from_millis(10));
    }
    panic!("still there: {:?}", processes_with(word));
}

/// Starts a build of `ctx`; what it says is lost.
fn start(space: &Space, flags: &[&str]) -> Child {
    let arguments = [&["build"], flags, &["ctx"]].concat();
    space.command(arguments).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("croze starts")
}

/// Sends a signal, such as `INT`.
#[track_caller]
fn signal(child: &Child, name: &str) {
    let sent = Command::new("kill").args([&format!("-{name}"), &child.id().to_string()]).status().expect("kill starts");
    assert!(sent.success());
}
