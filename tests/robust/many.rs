//! Many builds, and many steps, at once; the same build elsewhere.

use std::fs;
use std::process::{Child, Command, Stdio};

use super::common::{Run, Space, run};
use super::{REPRODUCIBLE, digest, space, start};

#[test]
fn two_fresh_stores_give_the_same_image() {
    let (one, other) = (space(), space());
    assert_eq!(digest(&one), digest(&other));
    assert_eq!(fs::read(one.path("image.tar")).expect("an image"), fs::read(other.path("image.tar")).expect("an image"));
}

#[test]
fn one_processor_gives_the_same_image() {
    let (one, other) = (space(), space());
    let mut command = Command::new("taskset");
    command.args(["-c", "0", env!("CARGO_BIN_EXE_croze"), "build", "--root", &other.text_path("store")]);
    run(command.args(REPRODUCIBLE).arg("ctx").current_dir(other.path(""))).succeeds();
    assert_eq!(other.read_json("meta.json")["containerimage.digest"], digest(&one));
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
