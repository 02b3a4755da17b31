//! Start to exit of `/bin/true` in a whole sandbox, and the start of the launcher. Needs root and a static busybox.
//!
//! `cargo bench --bench sandbox`

use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use croze::sandbox::{self, DEFAULT_SHM_SIZE_BYTES, Entitled, Exit, Launcher, Marks, Network, Plan, Root, Security, Streams};

const ROUNDS: usize = 300;

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
        let launcher = Launcher::start(Marks::Trusted)?;
        step(&launcher, &space_for(space.path(), &base, "first")?)?;
        starts.push(start.elapsed());
    }
    show("launcher and its first step", starts);

    let launcher = Launcher::start(Marks::Trusted)?;
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
