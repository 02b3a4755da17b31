//! `kill -9` in the middle of a build.

use std::fs;
use std::hash::{BuildHasher, RandomState};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use super::common::user::{RANGES, user_command};
use super::common::{Space, busybox_tar, run, skip_unless};
use super::{REPRODUCIBLE, all_end, mounts, names, processes_with, space, start};

/// How often a build is killed.
fn kills() -> u32 {
    u32::try_from(super::number("CROZE_TEST_KILLS", 50)).expect("a small number")
}

/// A base that the build itself has to unpack: an OCI layout.
fn layout() -> Space {
    let space = Space::with_busybox();
    space.dockerfile("FROM busybox\nRUN mkdir /many && cd /many && for i in $(seq 300); do echo $i > $i; done\n");
    space.build(&["-o", "type=oci,dest=layout,tar=false"]).succeeds();
    space
}

fn digest_on(space: &Space, base: &str) -> String {
    space.build(&[&REPRODUCIBLE[..], &["--build-context", base]].concat()).succeeds();
    space.read_json("meta.json")["containerimage.digest"].as_str().expect("a digest").to_owned()
}

/// What a process has started.
fn children(pid: u32) -> Vec<String> {
    // the process may have ended
    let listed = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    listed.split_whitespace().map(str::to_owned).collect()
}

#[track_caller]
fn all_gone(pids: &[String]) {
    let living = || pids.iter().filter(|pid| fs::exists(format!("/proc/{pid}")).expect("/proc")).count();
    let gone = (0..1000).any(|_| {
        thread::sleep(Duration::from_millis(10));
        living() == 0
    });
    assert!(gone, "still there: {pids:?}");
}

#[test]
fn killed_at_any_moment_the_next_build_is_right() {
    let base = layout();
    let base = format!("busybox=oci-layout://{}", base.text_path("layout"));
    let mark = format!("mark-{}", std::process::id());
    let marked = || {
        let space = space();
        let text = space.read("ctx/Dockerfile").replace("RUN ", &format!("RUN : {mark}; "));
        space.dockerfile(&text);
        fs::remove_dir_all(space.path("store")).expect("the base is not to be in the store");
        space
    };
    let untouched = marked();
    let began = Instant::now();
    let expected = digest_on(&untouched, &base);
    // a build on a machine under load takes longer: then the kills come early rather than late
    let length = began.elapsed();
    let space = marked();
    let before = mounts(&space);
    let kills = kills();
    for kill in 0..kills {
        if kill % 10 == 9 {
            fs::rename(space.path("store"), space.path(&format!("store-{kill}"))).expect("an old store");
        }
        // in an order that shows every part of a build to fresh stores and to full ones
        let moment = length * (kill * 7 % kills) / kills;
        let jitter = u32::try_from(RandomState::new().hash_one(kill) % 1000).expect("below 1000");
        let flags = [&REPRODUCIBLE[..], &["--no-cache", "--build-context", &base]].concat();
        let mut child = start(&space, &flags);
        thread::sleep(moment + length / kills * jitter / 1000);
        let launched = children(child.id());
        child.kill().expect("killed, or gone already");
        child.wait().expect("gone");
        assert_eq!(digest_on(&space, &base), expected, "killed after {moment:?} of {length:?}");
        all_gone(&launched);
    }
    all_end(&mark);
    assert_eq!(mounts(&space), before);
    // the next build that has something to write clears away what the killed ones have left
    space.dockerfile("FROM busybox\nRUN echo another\n");
    space.build(&["--build-context", &base]).succeeds();
    for directory in ["tmp", "locks"] {
        assert_eq!(names(&space.path("store").join(directory)), [""; 0], "{directory}");
    }
}

/// How many commands run when their build is killed.
const RUNNING: usize = 100;

/// A build of so many commands that never end, and that say `mark`.
fn endless(space: &Space, mark: &str) {
    let stages = (0..RUNNING).map(|number| format!("FROM busybox AS s{number}\nRUN : {mark} {number}; sleep 100000; true\n"));
    let copies = (0..RUNNING).map(|number| format!("COPY --from=s{number} / /\n"));
    space.dockerfile(&stages.chain(["FROM scratch\n".to_owned()]).chain(copies).collect::<String>());
}

const ENDLESS_FLAGS: [&str; 3] = ["--max-parallelism", "100", "--pids-limit=100000"];

/// A process and when it began: numbers are used again.
#[derive(Debug, PartialEq, Eq)]
struct Process {
    number: String,
    began: String,
}

impl Process {
    fn find(number: &str) -> Option<Process> {
        let stat = fs::read_to_string(format!("/proc/{number}/stat")).ok()?;
        let began = stat.rsplit_once(") ")?.1.split(' ').nth(19)?;
        Some(Process { number: number.to_owned(), began: began.to_owned() })
    }
}

/// All processes below one, which is not among them.
fn descendants(number: &str) -> Vec<Process> {
    let tasks = fs::read_dir(format!("/proc/{number}/task")).into_iter().flatten().flatten();
    let lists = tasks.filter_map(|task| fs::read_to_string(task.path().join("children")).ok());
    let children: Vec<String> = lists.flat_map(|list| list.split_whitespace().map(str::to_owned).collect::<Vec<_>>()).collect();
    let below = children.iter().flat_map(|child| descendants(child));
    let found: Vec<Process> = children.iter().filter_map(|child| Process::find(child)).chain(below).collect();
    found
}

/// The group with limits that the build's launcher is in, if this machine gives such.
fn control_groups(processes: &[Process]) -> Vec<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").expect("mounts");
    let roots = mounts.lines().filter(|line| line.contains(" - cgroup")).filter_map(|line| line.split(' ').nth(4));
    let groups = roots.flat_map(|root| processes.iter().map(move |process| format!("{root}/croze-{}", process.number)));
    groups.map(PathBuf::from).filter(|path| path.is_dir()).collect()
}

/// This machine's ends of the pairs of interfaces that the processes see.
fn links(processes: &[Process]) -> Vec<String> {
    let network = |number: &str| fs::read_link(format!("/proc/{number}/ns/net")).ok();
    let (machines, outer) = (network("self"), interfaces());
    let elsewhere = processes.iter().filter(|process| network(&process.number) != machines);
    let peer = |process: &Process| fs::read_to_string(format!("/proc/{}/root/sys/class/net/eth0/iflink", process.number)).ok();
    elsewhere.filter_map(peer).filter(|link| outer.contains(link)).collect()
}

fn interfaces() -> Vec<String> {
    let names = fs::read_dir("/sys/class/net").expect("interfaces").flatten();
    names.filter_map(|name| fs::read_to_string(name.path().join("ifindex")).ok()).collect()
}

/// Waits until `done` says so; for as long as a busy machine may take.
#[track_caller]
fn eventually(what: &str, mut done: impl FnMut() -> bool) {
    let came = (0..6000).any(|_| {
        thread::sleep(Duration::from_millis(10));
        done()
    });
    assert!(came, "{what}");
}

/// Kills `build`, all commands of which say `mark`, when all of them run, and waits until nothing of it is left.
#[track_caller]
fn kill_when_all_run(mut build: Child, mark: &str) -> Vec<PathBuf> {
    let started = || processes_with(mark).len();
    eventually("all commands run", || started() == RUNNING || build.try_wait().expect("asked").is_some());
    let processes = descendants(&build.id().to_string());
    assert!(processes.len() > RUNNING, "the build has ended, or its commands are somebody else's: {}", processes.len());
    let (groups, links) = (control_groups(&processes), links(&processes));
    build.kill().expect("killed");
    build.wait().expect("gone");
    let living = || processes.iter().filter(|process| Process::find(&process.number).as_ref() == Some(process)).count();
    eventually("its processes end", || living() == 0);
    eventually("its interfaces go", || interfaces().iter().all(|link| !links.contains(link)));
    groups
}

#[test]
fn nothing_outlives_a_killed_build_of_a_hundred_running_commands() {
    let space = Space::with_busybox();
    let mark = format!("endless-root-{}", std::process::id());
    endless(&space, &mark);
    let before = mounts(&space);
    let groups = kill_when_all_run(start(&space, &ENDLESS_FLAGS), &mark);
    assert_eq!(mounts(&space), before);
    // what lies around until then goes with the next build
    space.dockerfile("FROM busybox\nRUN echo another\n");
    space.build(&["--pids-limit=100000"]).succeeds();
    for directory in ["tmp", "locks"] {
        assert_eq!(names(&space.path("store").join(directory)), [""; 0], "{directory}");
    }
    let left: Vec<PathBuf> = groups.into_iter().filter(|group| group.exists()).collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn nothing_outlives_a_users_killed_build_of_a_hundred_running_commands() {
    let test = "nothing_outlives_a_users_killed_build_of_a_hundred_running_commands";
    if !skip_unless(test, &["unshare", "setpriv", "newuidmap", "newgidmap"]) {
        return;
    }
    let space = Space::new();
    let mark = format!("endless-user-{}", std::process::id());
    endless(&space, &mark);
    space.write("home/.keep", "");
    for (source, name) in [(env!("CARGO_BIN_EXE_croze"), "croze"), (busybox_tar(), "busybox.tar")] {
        fs::copy(source, space.path(name)).expect("copies");
    }
    run(Command::new("chmod").args(["-R", "a+rX"]).arg(space.path("."))).succeeds();
    run(Command::new("chown").args(["-R", "4242:4242"]).arg(space.path("home"))).succeeds();
    let croze = |arguments: &[&str]| user_command(&space, RANGES, "", &[&["/mnt/croze"], arguments].concat());
    run(&mut croze(&["import", "/mnt/busybox.tar", "busybox"])).succeeds();
    let before = mounts(&space);
    let arguments = [&["build"], &ENDLESS_FLAGS[..], &["ctx"]].concat();
    let mut command = croze(&arguments);
    let build = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("croze starts");
    kill_when_all_run(build, &mark);
    assert_eq!(mounts(&space), before);
    space.dockerfile("FROM busybox\nRUN echo another\n");
    run(&mut croze(&["build", "ctx"])).succeeds();
    let store = Path::new("home/.local/share/croze");
    for directory in ["tmp", "locks"] {
        assert_eq!(names(&space.path(".").join(store).join(directory)), [""; 0], "{directory}");
    }
}
