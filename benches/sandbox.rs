//! Start to exit of `/bin/true` in a whole sandbox, and the start of the launcher, beside the programs that others use for it.
//! Needs a static busybox, and root or a user with ranges of ids, who gets the figures of a user namespace.
//!
//! `cargo bench --bench sandbox`; runc, crun and bubblewrap are in the table where they are installed. They get a root that is
//! mounted already, ours mounts its overlay each time. All are run in turn, so that a busy moment is everybody's.

use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use croze::sandbox::{
    self, DEFAULT_SHM_SIZE_BYTES, Entitled, Exit, Launcher, Marks, Network, Plan, Rights, Root, Security, Streams,
};

const ROUNDS: usize = 200;

fn main() -> ExitCode {
    if sandbox::is_launcher() {
        return sandbox::launcher_main();
    }
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), Box<dyn std::error::Error>> {
    let marks = match sandbox::acquire()? {
        Rights::Own => Marks::Trusted,
        _ => Marks::User,
    };
    let space = tempfile::tempdir()?;
    let base = space.path().join("base");
    for name in ["bin", "dev", "proc", "sys"] {
        fs::create_dir_all(base.join(name))?;
    }
    fs::copy("/bin/busybox", base.join("bin/busybox"))?;
    symlink("busybox", base.join("bin/true"))?;

    let mut plain = Vec::new();
    for _ in 0..ROUNDS {
        let start = Instant::now();
        Command::new(base.join("bin/true")).status()?;
        plain.push(start.elapsed());
    }
    show("fork, exec and wait alone", plain);

    let mut starts = Vec::new();
    for _ in 0..20 {
        let start = Instant::now();
        let launcher = Launcher::start(marks)?;
        step(&launcher, &space_for(space.path(), &base, "first")?)?;
        starts.push(start.elapsed());
    }
    show("launcher and its first step", starts);

    let launcher = Launcher::start(marks)?;
    let insecure = Security::Insecure(Entitled::among(&[Entitled::NAME]).ok_or("not entitled")?);
    for (name, network, security) in [
        ("step", Network::Host, Security::Sandbox),
        ("step without network", Network::None, Security::Sandbox),
        ("insecure step", Network::Host, insecure),
    ] {
        let mut times = Vec::new();
        for _ in 0..ROUNDS {
            let mut plan = space_for(space.path(), &base, "round")?;
            (plan.network, plan.security) = (network, security);
            let start = Instant::now();
            step(&launcher, &plan)?;
            times.push(start.elapsed());
        }
        show(name, times);
    }
    beside_others(space.path(), &base, &launcher)
}

/// Runs each program in turn, so that all see the same machine.
fn beside_others(space: &Path, base: &Path, launcher: &Launcher) -> Result<(), Box<dyn std::error::Error>> {
    let bundle = space.join("bundle");
    fs::create_dir(&bundle)?;
    let mut others: Vec<(&str, Vec<String>)> = Vec::new();
    let root = base.to_str().ok_or("a path that is no text")?;
    let words = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
    if Command::new("runc").arg("spec").current_dir(&bundle).status().is_ok_and(|status| status.success()) {
        let spec: serde_json::Value = serde_json::from_slice(&fs::read(bundle.join("config.json"))?)?;
        let mut spec = spec;
        spec["process"]["args"] = serde_json::json!(["/bin/true"]);
        spec["process"]["terminal"] = serde_json::json!(false);
        spec["root"]["path"] = serde_json::json!(root);
        fs::write(bundle.join("config.json"), spec.to_string())?;
        let state = space.join("state");
        for runtime in ["runc", "crun"] {
            let line = format!("--root {} run -b {}", state.display(), bundle.display());
            others.push((runtime, words(&line)));
        }
    }
    let line = "--unshare-all --die-with-parent --ro-bind ROOT / --proc /proc --dev /dev /bin/true".replace("ROOT", root);
    others.push(("bwrap", words(&line)));
    let mut ours = Vec::new();
    let mut theirs: Vec<Vec<Duration>> = vec![Vec::new(); others.len()];
    for round in 0..ROUNDS {
        let plan = space_for(space, base, "round")?;
        let start = Instant::now();
        step(launcher, &plan)?;
        ours.push(start.elapsed());
        for ((program, arguments), times) in others.iter().zip(&mut theirs) {
            let mut command = Command::new(program);
            command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            if *program != "bwrap" {
                command.arg(format!("croze-bench-{}-{round}", std::process::id()));
            }
            let start = Instant::now();
            if command.status().is_ok_and(|status| status.success()) {
                times.push(start.elapsed());
            }
        }
    }
    show("in turn: croze", ours);
    for ((program, _), times) in others.iter().zip(theirs) {
        match times.len() {
            ROUNDS => show(&format!("in turn: {program}"), times),
            ran => println!("in turn: {program}: ran {ran} times of {ROUNDS}, or is not installed"),
        }
    }
    Ok(())
}

fn step(launcher: &Launcher, plan: &Plan) -> Result<(), Box<dyn std::error::Error>> {
    match launcher.spawn(plan)?.wait()? {
        Exit::Code(0) => Ok(()),
        other => Err(format!("ended with {other:?}").into()),
    }
}

fn space_for(space: &Path, base: &Path, name: &str) -> io::Result<Plan> {
    let directory = space.join(name);
    match fs::remove_dir_all(&directory) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    fs::create_dir_all(directory.join("upper"))?;
    fs::create_dir_all(directory.join("work"))?;
    Ok(Plan {
        root: Root::Overlay { lowers: vec![base.to_owned()], upper: directory.join("upper"), work: directory.join("work") },
        mounts: Vec::new(),
        args: vec!["/bin/true".to_owned()],
        env: vec!["PATH=/bin".to_owned()],
        cwd: "/".to_owned(),
        uid: 0,
        gid: 0,
        groups: Vec::new(),
        network: Network::Host,
        security: Security::Sandbox,
        hostname: "buildkitsandbox".to_owned(),
        shm_size_bytes: DEFAULT_SHM_SIZE_BYTES,
        rlimits: Vec::new(),
        emulator: None,
        streams: Streams::Own,
    })
}

fn show(name: &str, mut times: Vec<Duration>) {
    times.sort_unstable();
    let millis = |time: Duration| time.as_secs_f64() * 1000.0;
    println!("{name}: min {:.2} ms, median {:.2} ms", millis(times[0]), millis(times[times.len() / 2]));
}
