//! Many builds, and many steps, at once; the same build elsewhere.

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use super::common::{Run, Space, run};
use super::{REPRODUCIBLE, all_end, digest, mounts, names, number, space, start};

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
fn many_builds_of_different_contexts_share_a_store() {
    let space = Space::with_busybox();
    let names: Vec<String> = (0..number("CROZE_TEST_BUILDS", 20)).map(|number| format!("ctx{number}")).collect();
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

/// Steps of [`many_steps_leave_nothing_behind`]; as many as in a year of a busy machine, where the variable asks for them.
fn step_count() -> usize {
    usize::try_from(number("CROZE_TEST_STEPS", 300)).expect("a size")
}

/// What a build holds while it runs.
#[derive(Debug, Clone, Copy, Default)]
struct Held {
    descriptors: usize,
    processes: usize,
    resident_kib: u64,
}

impl Held {
    /// `None` when the process has ended.
    fn of(pid: u32) -> Option<Held> {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?.split_whitespace().next()?;
        let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).ok()?.count();
        let tasks = fs::read_dir(format!("/proc/{pid}/task")).ok()?.flatten();
        let children = tasks.filter_map(|task| fs::read_to_string(task.path().join("children")).ok());
        let launchers: Vec<String> =
            children.flat_map(|list| list.split_whitespace().map(str::to_owned).collect::<Vec<_>>()).collect();
        let steps = launchers.iter().filter_map(|pid| fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).ok());
        let processes = launchers.len() + steps.map(|list| list.split_whitespace().count()).sum::<usize>();
        Some(Held { descriptors, processes, resident_kib: resident.parse().expect("a number") })
    }

    fn most(self, other: Held) -> Held {
        Held {
            descriptors: self.descriptors.max(other.descriptors),
            processes: self.processes.max(other.processes),
            resident_kib: self.resident_kib.max(other.resident_kib),
        }
    }
}

#[test]
fn many_steps_leave_nothing_behind() {
    let space = Space::with_busybox();
    let steps = step_count();
    // no stack is deeper than it has to be: a look at one opens each of its layers
    let depth = steps.isqrt();
    let mut text = String::new();
    let mut last = "FROM scratch\n".to_owned();
    for first in (0..steps).step_by(depth) {
        let numbers = first..steps.min(first + depth);
        let stages = numbers.clone().map(|number| format!("FROM busybox AS s{number}\nRUN : > /n{number}\n"));
        let copies = numbers.map(|number| format!("COPY --from=s{number} /n{number} /\n"));
        text += &stages.chain([format!("FROM scratch AS g{first}\n")]).chain(copies).collect::<String>();
        last += &format!("COPY --from=g{first} / /\n");
    }
    space.dockerfile(&(text + &last));
    let before = mounts(&space);
    let mut command = space.command(["build", "--progress=plain", "--max-parallelism", "4", "ctx"]);
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("croze starts");
    let lines = BufReader::new(child.stderr.take().expect("piped")).lines().map_while(Result::ok);
    let (mut done, mut halves) = (0, [Held::default(); 2]);
    for _ in lines.filter(|line| line.contains(" DONE ")) {
        done += 1;
        if let Some(held) = Held::of(child.id()) {
            let half = &mut halves[usize::from(done > steps)];
            *half = half.most(held);
        }
    }
    assert!(child.wait().expect("croze ends").success());
    // each step is a command and a copy
    assert!(done >= 2 * steps, "{done}");
    let [first, second] = halves;
    // a few looks at once; neither for each step that has ended nor for each that waits
    assert!(first.most(second).descriptors <= 100 + 8 * depth, "{first:?} {second:?}");
    assert!(second.processes <= first.processes + 2, "{first:?} {second:?}");
    assert!(second.resident_kib <= first.resident_kib + first.resident_kib / 2 + 16_384, "{first:?} {second:?}");
    println!("{steps} steps: at most {first:?}, then {second:?}");
    all_end(&space.text_path("store"));
    assert_eq!(mounts(&space), before);
    assert_eq!(names(&space.path("store/tmp")), [""; 0]);
}
