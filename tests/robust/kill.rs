//! `kill -9` in the middle of a build.

use std::fs;
use std::hash::{BuildHasher, RandomState};
use std::thread;
use std::time::{Duration, Instant};

use super::common::Space;
use super::{REPRODUCIBLE, all_end, mounts, names, space, start};

/// How often a build is killed.
const KILLS: u32 = 50;

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
    for kill in 0..KILLS {
        if kill % 10 == 9 {
            fs::rename(space.path("store"), space.path(&format!("store-{kill}"))).expect("an old store");
        }
        // in an order that shows every part of a build to fresh stores and to full ones
        let moment = length * (kill * 7 % KILLS) / KILLS;
        let jitter = u32::try_from(RandomState::new().hash_one(kill) % 1000).expect("below 1000");
        let flags = [&REPRODUCIBLE[..], &["--no-cache", "--build-context", &base]].concat();
        let mut child = start(&space, &flags);
        thread::sleep(moment + length / KILLS * jitter / 1000);
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
