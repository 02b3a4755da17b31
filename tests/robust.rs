//! What must hold whatever happens to a build: many at once, killed at any moment, interrupted, repeated elsewhere.

mod common;

use std::fs;
use std::process::{Child, Stdio};
use std::thread;
use std::time::Duration;

use common::{Run, Space};

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

/// Flags that make the image's digest the same everywhere.
const REPRODUCIBLE: [&str; 6] = [
    "--build-arg",
    "SOURCE_DATE_EPOCH=1700000000",
    "-o",
    "type=oci,dest=image.tar,rewrite-timestamp=true",
    "--metadata-file",
    "meta.json",
];

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

fn start(space: &Space, flags: &[&str]) -> Child {
    let arguments = [&["build"], flags, &["ctx"]].concat();
    space.command(arguments).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("croze starts")
}

#[test]
fn two_fresh_stores_give_the_same_image() {
    let (one, other) = (space(), space());
    assert_eq!(digest(&one), digest(&other));
    assert_eq!(fs::read(one.path("image.tar")).expect("an image"), fs::read(other.path("image.tar")).expect("an image"));
}

#[test]
fn twenty_builds_of_different_contexts_share_a_store() {
    let space = Space::with_busybox();
    let names: Vec<String> = (0..20).map(|number| format!("ctx{number}")).collect();
    for name in &names {
        space.write(&format!("{name}/Dockerfile"), "FROM busybox\nCOPY name /name\nRUN cat /name /name > /twice\n");
        space.write(&format!("{name}/name"), format!("{name}\n"));
    }
    let children: Vec<Child> = names
        .iter()
        .map(|name| {
            let output = format!("type=local,dest=out-{name}");
            let mut command = space.command(["build", "-o", &output, name]);
            command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("croze starts")
        })
        .collect();
    for (child, name) in children.into_iter().zip(&names) {
        Run::of(child.wait_with_output().expect("croze ends")).succeeds();
        assert_eq!(space.read(&format!("out-{name}/twice")), format!("{name}\n{name}\n"));
    }
}

#[test]
fn builds_of_the_same_steps_run_each_step_once() {
    let space = Space::with_busybox();
    // the cache mount counts how often the command ran
    space.dockerfile(
        "FROM busybox\nRUN --mount=type=cache,target=/count echo ran >> /count/runs && sleep 0.2 && cp /count/runs /runs\n",
    );
    let mut children: Vec<Child> = (0..8).map(|number| start(&space, &["-t", &format!("same:{number}")])).collect();
    for child in &mut children {
        assert!(child.wait().expect("croze ends").success());
    }
    let out = space.build_files(&[]);
    assert_eq!(fs::read_to_string(out.join("runs")).expect("the count"), "ran\n");
}

#[test]
fn killed_at_any_moment_the_next_build_is_right() {
    let untouched = space();
    let expected = digest(&untouched);
    let space = space();
    let before = mounts(&space);
    for moment in 0..50_u64 {
        // every round begins with a store that knows the base alone or what the killed builds have left, in turn
        if moment % 5 == 0 {
            fs::remove_dir_all(space.path("store")).expect("an old store");
            space.croze(["import", common::busybox_tar(), "busybox:latest"]).succeeds();
        }
        let mut child = start(&space, &REPRODUCIBLE);
        thread::sleep(Duration::from_micros(moment * 7_300 % 180_000 + 500));
        child.kill().expect("killed, or gone already");
        child.wait().expect("gone");
        assert_eq!(digest(&space), expected, "after a kill at moment {moment}");
    }
    all_end(space.path("store").to_str().expect("text"));
    assert_eq!(mounts(&space), before);
}

#[test]
fn an_interrupt_leaves_no_process_and_a_store_that_works() {
    let space = Space::with_busybox();
    let mark = format!("{}", 86_000 + std::process::id() % 1000);
    space.dockerfile(&format!(
        "FROM busybox AS user\nUSER 1000\nRUN echo up; sleep {mark}1\n\
         FROM busybox AS deaf\nRUN trap '' INT TERM HUP; sleep {mark}2 & echo up; sleep {mark}3\n\
         FROM busybox\nCOPY --from=user /bin/busybox /a\nCOPY --from=deaf /bin/busybox /b\n"
    ));
    for (signal, code) in [("-INT", 130), ("-TERM", 143)] {
        let before = mounts(&space);
        let child = start(&space, &[]);
        // both commands run: three sleeps are there
        let sleeps = format!("sleep {mark}");
        for _ in 0..1000 {
            if processes_with(&sleeps).iter().filter(|line| line.starts_with("sleep")).count() >= 3 {
                break;
            }
            thread::sleep(Duration::from_millis(10));
        }
        let status = std::process::Command::new("kill").args([signal, &child.id().to_string()]).status().expect("kill runs");
        assert!(status.success());
        let output = child.wait_with_output().expect("croze ends");
        assert_eq!(output.status.code(), Some(code));
        all_end(&sleeps);
        assert_eq!(mounts(&space), before);
    }
    space.dockerfile("FROM busybox\nRUN echo works > /works\n");
    space.build(&[]).succeeds();
}

#[test]
fn four_sleeping_stages_sleep_together() {
    let space = Space::with_busybox();
    // each stage waits until all four have begun: run one after the other they would never end
    let stage = |name: &str| {
        format!(
            "FROM busybox AS {name}\nRUN --mount=type=cache,target=/meet touch /meet/{name} && n=0; \
             while [ $(ls /meet | wc -l) -lt 4 ]; do sleep 0.05; n=$((n+1)); [ $n -lt 400 ] || exit 9; done; echo {name} > /{name}\n"
        )
    };
    let names = ["a", "b", "c", "d"];
    let stages: String = names.iter().map(|name| stage(name)).collect();
    let copies: String = names.iter().map(|name| format!("COPY --from={name} /{name} /\n")).collect();
    space.dockerfile(&format!("{stages}FROM scratch\n{copies}"));
    let out = space.build_files(&["--max-parallelism", "4"]);
    assert_eq!(fs::read_to_string(out.join("d")).expect("a file"), "d\n");
}
