//! Sandboxes as a step sees them, started through the real program. Needs root and a static busybox; says so if it skips.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use croze::sandbox::{
    DEFAULT_SHM_SIZE_BYTES, Entitled, Exit, Launcher, Marks, Mount, MountKind, Network, Plan, Resource, Root, Running,
    SandboxError, Security, Stage, Streams, Writes,
};
use tempfile::TempDir;

const BUSYBOX: &str = "/bin/busybox";

/// A base tree with busybox in it, a launcher, and fresh directories for steps.
struct Space {
    path: PathBuf,
    launcher: Launcher,
    /// Removes `path` in the end; a space inside another one leaves that to it.
    _directory: Option<TempDir>,
}

impl Space {
    /// `None`, with a line that says why, where sandboxes cannot be tested.
    fn new() -> Option<Space> {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let space = Space::at(directory.path().to_owned())?;
        Some(Space { _directory: Some(directory), ..space })
    }

    fn at(path: PathBuf) -> Option<Space> {
        if !rustix::process::geteuid().is_root() || !Path::new(BUSYBOX).exists() {
            eprintln!("skipped: needs root and {BUSYBOX}");
            return None;
        }
        let base = path.join("base");
        for name in ["bin", "dev", "etc", "proc", "root", "sys", "tmp"] {
            fs::create_dir_all(base.join(name)).expect("a directory");
        }
        fs::set_permissions(base.join("tmp"), fs::Permissions::from_mode(0o1777)).expect("a mode");
        fs::copy(BUSYBOX, base.join("bin/busybox")).expect("a copy of busybox");
        let applets = Command::new(BUSYBOX).arg("--list").output().expect("the list of applets");
        for applet in String::from_utf8(applets.stdout).expect("names").lines().filter(|name| *name != "busybox") {
            symlink("busybox", base.join("bin").join(applet)).expect("a link");
        }
        let launcher = Launcher::start_with(Path::new(env!("CARGO_BIN_EXE_croze")), Marks::Trusted).expect("a launcher");
        Some(Space { path, launcher, _directory: None })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    fn fresh(&self, name: &str) -> PathBuf {
        let path = self.path(name);
        fs::create_dir_all(&path).expect("a fresh directory");
        path
    }

    /// A plan for a shell script on the base tree; `name` names its upper directory.
    fn plan(&self, name: &str, script: &str) -> Plan {
        Plan {
            root: Root::Overlay {
                lowers: vec![self.path("base")],
                upper: self.fresh(&format!("{name}/upper")),
                work: self.fresh(&format!("{name}/work")),
            },
            mounts: Vec::new(),
            args: ["/bin/sh", "-c", script].map(str::to_owned).to_vec(),
            env: vec!["PATH=/bin".to_owned()],
            cwd: "/".to_owned(),
            uid: 0,
            gid: 0,
            groups: Vec::new(),
            network: Network::None,
            security: Security::Sandbox,
            hostname: "buildkitsandbox".to_owned(),
            shm_size_bytes: DEFAULT_SHM_SIZE_BYTES,
            rlimits: Vec::new(),
            emulator: None,
            streams: Streams::Own,
        }
    }

    fn run(&self, plan: &Plan) -> Result<Output, SandboxError> {
        finish(self.launcher.spawn(plan).expect("a step"))
    }

    /// Runs a script that must succeed and returns what it printed.
    #[track_caller]
    fn shell(&self, name: &str, script: &str) -> String {
        self.print(&self.plan(name, script))
    }

    #[track_caller]
    fn print(&self, plan: &Plan) -> String {
        let output = self.run(plan).expect("a step that runs");
        assert_eq!(output.exit, Exit::Code(0), "{}{}", output.stdout, output.stderr);
        output.stdout
    }
}

#[derive(Debug)]
struct Output {
    exit: Exit,
    stdout: String,
    stderr: String,
}

fn finish(mut running: Running) -> Result<Output, SandboxError> {
    let mut errors = File::from(running.stderr.try_clone().expect("a second descriptor"));
    let errors = std::thread::spawn(move || {
        let mut text = String::new();
        errors.read_to_string(&mut text).map(|_| text)
    });
    let mut stdout = String::new();
    File::from(running.stdout.try_clone().expect("a second descriptor")).read_to_string(&mut stdout).expect("output");
    let stderr = errors.join().expect("a reader").expect("output");
    running.wait().map(|exit| Output { exit, stdout, stderr })
}

fn first_line(running: &Running) -> String {
    let mut line = String::new();
    BufReader::new(File::from(running.stdout.try_clone().expect("a second descriptor"))).read_line(&mut line).expect("a line");
    line.trim().to_owned()
}

/// Mount points of this process, without the numbers that change.
fn own_mounts() -> Vec<String> {
    let list = fs::read_to_string("/proc/self/mountinfo").expect("the mounts");
    list.lines().filter(|line| line.contains("overlay") || line.contains("/tmp")).map(str::to_owned).collect()
}

#[test]
fn exit_codes_and_signals_come_back() {
    let Some(space) = Space::new() else { return };
    let run = |name: &str, script: &str| space.run(&space.plan(name, script)).expect("a step that runs").exit;
    assert_eq!(run("a", "exit 0"), Exit::Code(0));
    assert_eq!(run("b", "exit 3"), Exit::Code(3));
    assert_eq!(run("c", "sh -c 'kill -9 $$'; exit $?"), Exit::Code(137));
    // PID 1 has no default actions: the signal does nothing.
    assert_eq!(run("d", "kill -9 $$; exit 4"), Exit::Code(4));
}

#[test]
fn output_comes_in_two_streams() {
    let Some(space) = Space::new() else { return };
    let output = space.run(&space.plan("a", "echo out; echo err >&2; cat; echo more > /dev/stdout")).expect("a step");
    assert_eq!((output.stdout.as_str(), output.stderr.as_str()), ("out\nmore\n", "err\n"));
    let mut plan = space.plan("b", "echo as-user > /dev/stdout; tty; true");
    plan.uid = 1000;
    assert_eq!(space.print(&plan), "as-user\nnot a tty\n");
}

#[test]
fn an_orphan_that_holds_the_output_does_not_delay_the_end() {
    let Some(space) = Space::new() else { return };
    assert_eq!(space.shell("a", "sleep 1000 & echo done"), "done\n");
}

#[test]
fn killing_a_step_kills_its_tree() {
    let Some(space) = Space::new() else { return };
    let mut running = space.launcher.spawn(&space.plan("a", "sleep 1000 & echo up; sleep 1000")).expect("a step");
    assert_eq!(first_line(&running), "up");
    assert_eq!(running.try_exit().expect("no failure"), None);
    running.kill();
    // Reading to the end only returns when no process holds the pipe.
    assert_eq!(finish(running).expect("an end").exit, Exit::Signal(9));
}

#[test]
fn dropping_a_step_kills_it() {
    let Some(space) = Space::new() else { return };
    let running = space.launcher.spawn(&space.plan("a", "echo up; sleep 1000")).expect("a step");
    assert_eq!(first_line(&running), "up");
    let mut output = File::from(running.stdout.try_clone().expect("a second descriptor"));
    drop(running);
    assert_eq!(output.read(&mut [0; 1]).expect("the end of the output"), 0);
}

#[test]
fn a_killed_launcher_takes_users_steps_along() {
    let Some(space) = Space::new() else { return };
    let mut plan = space.plan("a", "echo up; sleep 1000");
    plan.uid = 1000;
    let mut running = space.launcher.spawn(&plan).expect("a step");
    assert_eq!(first_line(&running), "up");
    let launcher = rustix::process::Pid::from_raw(i32::try_from(space.launcher.pid()).expect("a pid")).expect("a pid");
    rustix::process::kill_process(launcher, rustix::process::Signal::KILL).expect("killed");
    let mut output = File::from(running.stdout.try_clone().expect("a second descriptor"));
    assert_eq!(output.read(&mut [0; 1]).expect("the end of the output"), 0);
    assert!(matches!(running.wait(), Err(SandboxError::LauncherGone)));
    assert!(matches!(space.launcher.spawn(&plan), Err(SandboxError::LauncherGone)));
}

#[test]
fn a_killed_builder_takes_users_steps_along() {
    let Some(space) = Space::new() else { return };
    let shared = space.fresh("shared");
    fs::set_permissions(&shared, fs::Permissions::from_mode(0o777)).expect("a mode");
    let fifo = shared.join("fifo");
    rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, 0o600.into(), 0).expect("a pipe");
    fs::set_permissions(&fifo, fs::Permissions::from_mode(0o666)).expect("a mode");
    let program = std::env::current_exe().expect("this test's program");
    let mut builder = Command::new(program)
        .args(["--exact", "a_builder_that_is_killed"])
        .env("SANDBOX_TEST_SHARED", &shared)
        .stdout(std::process::Stdio::null())
        .spawn()
        .expect("a builder");
    // The step holds the writing end: the pipe ends when the step does.
    let mut pipe = File::open(&fifo).expect("the reading end");
    let mut text = [0; 3];
    pipe.read_exact(&mut text).expect("the step's first words");
    assert_eq!(&text, b"up\n");
    builder.kill().expect("killed");
    builder.wait().expect("gone");
    assert_eq!(pipe.read(&mut text).expect("the end of the pipe"), 0);
}

/// The other process of `a_killed_builder_takes_users_steps_along`; on its own it has nothing to do.
#[test]
fn a_builder_that_is_killed() {
    let Some(shared) = std::env::var_os("SANDBOX_TEST_SHARED").map(PathBuf::from) else { return };
    // Held from the start, so that the reader sees an end, not nothing, if this process fails.
    let _held = File::options().write(true).open(shared.join("fifo")).expect("the writing end");
    let Some(space) = Space::at(shared.join("inner")) else { return };
    fs::create_dir(space.path("base/shared")).expect("a mount point");
    let mut plan = space.plan("a", "exec 3> /shared/fifo; echo up >&3; sleep 1000");
    plan.uid = 1000;
    let kind = MountKind::Bind { source: shared, subpath: String::new(), writable: true };
    plan.mounts = vec![Mount { target: "/shared".to_owned(), kind }];
    finish(space.launcher.spawn(&plan).expect("a step")).expect("an end");
}

#[test]
fn ending_the_launcher_ends_its_steps() {
    let Some(space) = Space::new() else { return };
    let running = space.launcher.spawn(&space.plan("a", "echo up; sleep 1000")).expect("a step");
    assert_eq!(first_line(&running), "up");
    drop(space.launcher);
    assert_eq!(finish(running).expect("an end").exit, Exit::Signal(9));
}

#[test]
fn the_command_is_the_first_process_and_alone() {
    let Some(space) = Space::new() else { return };
    assert_eq!(space.shell("a", "echo $$; cat /proc/1/comm; echo /proc/[0-9]*"), "1\nsh\n/proc/1\n");
    assert_eq!(space.shell("b", "ls /proc/self/fd | wc -l; hostname; umask"), "4\nbuildkitsandbox\n0022\n");
}

#[test]
fn capabilities_are_dockers() {
    let Some(space) = Space::new() else { return };
    let script = "grep -E '^(Cap|NoNewPrivs|Seccomp:)' /proc/self/status | tr -d '\\t' | tr '\\n' ' '";
    assert_eq!(
        space.shell("a", script),
        "CapInh:0000000000000000 CapPrm:00000000a80425fb CapEff:00000000a80425fb CapBnd:00000000a80425fb \
         CapAmb:0000000000000000 NoNewPrivs:0 Seccomp:2 "
    );
    let mut plan = space.plan("b", script);
    (plan.uid, plan.gid) = (1000, 1000);
    assert_eq!(
        space.print(&plan),
        "CapInh:0000000000000000 CapPrm:0000000000000000 CapEff:0000000000000000 CapBnd:00000000a80425fb \
         CapAmb:0000000000000000 NoNewPrivs:0 Seccomp:2 "
    );
}

#[test]
fn users_and_groups_are_those_of_the_plan() {
    let Some(space) = Space::new() else { return };
    let mut plan = space.plan("a", "id -u; id -g; id -G; touch /tmp/mine");
    (plan.uid, plan.gid, plan.groups) = (1000, 2000, vec![2000, 3000]);
    assert_eq!(space.print(&plan), "1000\n2000\n2000 3000\n");
    let mine = fs::metadata(space.path("a/upper/tmp/mine")).expect("the file");
    assert_eq!((mine.uid(), mine.gid()), (1000, 2000));
}

#[test]
fn the_host_is_masked() {
    let Some(space) = Space::new() else { return };
    let script = "[ -c /proc/keys ] && echo masked; ls /sys/firmware; \
                  (echo 1 > /proc/sys/kernel/panic) 2>&1 | grep -o Read-only; \
                  touch /sys/kernel/mm/x 2>&1; \
                  mount | grep -E ' (/sys|/sys/fs/cgroup|/proc/sys) ' | grep -o '[(,]r[ow]' | sort -u; \
                  head -c 1 /proc/keys | wc -c; true";
    assert_eq!(space.shell("a", script), "masked\nRead-only\ntouch: /sys/kernel/mm/x: Read-only file system\n(ro\n0\n");
}

#[test]
fn mounting_and_new_namespaces_are_refused() {
    let Some(space) = Space::new() else { return };
    let script = "mount -t tmpfs none /tmp || echo mount; umount /proc/keys || echo umount; unshare -m true || echo unshare; \
                  unshare -U true || echo user; dmesg >/dev/null || echo dmesg; hostname x || echo hostname";
    assert_eq!(space.shell("a", &format!("({script}) 2>/dev/null")), "mount\numount\nunshare\nuser\ndmesg\nhostname\n");
}

#[test]
fn devices_are_the_usual_ones_and_others_do_not_open() {
    let Some(space) = Space::new() else { return };
    let script = "ls /dev | grep -v core | tr '\\n' ' '; echo; for d in null zero full random urandom tty; do [ -c /dev/$d ] && echo $d; done | wc -l; \
                  readlink /dev/fd; readlink /dev/ptmx; ls -l /dev/null | cut -c1-10; echo x > /dev/null; head -c 3 /dev/urandom | wc -c; \
                  mknod /tmp/disk b 254 0 && (cat /tmp/disk 2>&1 | grep -o denied); mknod /dev/null2 c 1 3; (cat /dev/null2 2>&1 | grep -o denied); \
                  df -k /dev/shm | tail -1 | awk '{print $2}'; stat -c %a /dev/shm /dev/pts/ptmx";
    assert_eq!(
        space.shell("a", script),
        "fd full mqueue null ptmx pts random shm stderr stdin stdout tty urandom zero \n6\n/proc/self/fd\npts/ptmx\n\
         crw-rw-rw-\n3\ndenied\ndenied\n65536\n1777\n666\n"
    );
}

#[test]
fn networks_are_none_or_the_hosts() {
    let Some(space) = Space::new() else { return };
    assert_eq!(space.shell("a", "ls /sys/class/net; ip -o link show lo | grep -o -w LOOPBACK,UP"), "lo\nLOOPBACK,UP\n");
    let mut plan = space.plan("b", "readlink /proc/self/ns/net");
    plan.network = Network::Host;
    let host = fs::read_link("/proc/self/ns/net").expect("a link");
    assert_eq!(space.print(&plan).trim(), host.to_string_lossy());
}

#[test]
fn limits_are_fixed_or_the_plans() {
    let Some(space) = Space::new() else { return };
    let mut plan = space.plan("a", "ulimit -Sn; ulimit -Hn; ulimit -c");
    let found = space.print(&plan);
    // Without CAP_SYS_RESOURCE the hard limit stays at our own.
    let ours = rustix::process::getrlimit(rustix::process::Resource::Nofile).maximum.unwrap_or(u64::MAX);
    assert!(["1024\n524288\n0\n".to_owned(), format!("1024\n{ours}\n0\n")].contains(&found), "{found}");
    plan = space.plan("b", "ulimit -Sn; ulimit -Hn; ulimit -c");
    plan.rlimits = vec![(Resource::Nofile, 77, 88), (Resource::Core, 0, u64::MAX)];
    assert_eq!(space.print(&plan), "77\n88\n0\n");
}

#[test]
fn the_upper_directory_holds_the_changes_alone() {
    let Some(space) = Space::new() else { return };
    space.shell("a", "echo x > /new; rm /bin/true; cat /etc/nothing 2>/dev/null; true");
    let mut names: Vec<_> =
        fs::read_dir(space.path("a/upper")).expect("the upper directory").map(|e| e.expect("entry").file_name()).collect();
    names.sort();
    assert_eq!(names, ["bin", "new"]);
    let gone = fs::symlink_metadata(space.path("a/upper/bin/true")).expect("a whiteout");
    assert_eq!((gone.rdev(), gone.mode() & 0o170_000), (0, 0o020_000));
}

#[test]
fn a_used_work_directory_is_refused() {
    let Some(space) = Space::new() else { return };
    space.shell("a", "true");
    let failed = space.run(&space.plan("a", "true"));
    assert!(matches!(failed, Err(SandboxError::Setup { stage: Stage::MountOverlay, .. })), "{failed:?}");
}

#[test]
fn mounts_show_what_the_plan_says() {
    let Some(space) = Space::new() else { return };
    let source = space.fresh("source/sub");
    fs::write(source.join("file"), "from the host\n").expect("written");
    let lower = space.fresh("lower/part");
    fs::write(lower.join("file"), "from a layer\n").expect("written");
    space.fresh("second/part");
    for target in ["ro", "rw", "part", "throw", "memory"] {
        fs::create_dir(space.path("base").join(target)).expect("a mount point");
    }
    fs::write(space.path("base/one"), "").expect("a mount point");
    let bind =
        |path: &str, subpath: &str, writable| MountKind::Bind { source: space.path(path), subpath: subpath.to_owned(), writable };
    let layers = vec![space.path("lower"), space.path("second")];
    let writes = Some(Writes { upper: space.fresh("throw/upper"), work: space.fresh("throw/work") });
    let mut plan = space.plan(
        "a",
        "cat /ro/file /one /part/file /dev/pipes/script; for d in ro rw part throw memory; do echo x > /$d/x && echo wrote $d; done; \
         rm /throw/file; ls /throw; stat -c %a /memory",
    );
    plan.mounts = [
        ("/ro", bind("source", "sub", false)),
        ("/rw", bind("source", "/sub", true)),
        ("/one", bind("source/sub/file", "", false)),
        ("/dev/pipes/script", bind("source", "../../sub/file", false)),
        ("/part", MountKind::Overlay { lowers: layers.clone(), subpath: "part".to_owned(), writes: None }),
        ("/throw", MountKind::Overlay { lowers: layers, subpath: "/part".to_owned(), writes }),
        ("/memory", MountKind::Tmpfs { size_bytes: Some(4096), mode: 0o700 }),
    ]
    .map(|(target, kind)| Mount { target: target.to_owned(), kind })
    .to_vec();
    let output = space.run(&plan).expect("a step");
    assert_eq!(
        output.stdout, "from the host\nfrom the host\nfrom a layer\nfrom the host\nwrote rw\nwrote throw\nwrote memory\nx\n700\n",
        "{}",
        output.stderr
    );
    assert_eq!(output.stderr.matches("Read-only file system").count(), 2, "{}", output.stderr);
    assert!(source.join("x").exists() && lower.join("file").exists() && !lower.join("x").exists());
    assert_eq!(fs::read_dir(space.path("a/upper")).expect("the upper directory").count(), 0);
}

#[test]
fn nothing_is_mounted_over_proc_and_sys() {
    let Some(space) = Space::new() else { return };
    symlink("/proc/self", space.path("base/trap")).expect("a link");
    for (name, target) in [("a", "/proc/keys"), ("b", "/sys/kernel"), ("c", "/trap"), ("d", "/../proc/1/attr"), ("e", "/proc")] {
        let mut plan = space.plan(name, "true");
        plan.mounts = vec![Mount { target: target.to_owned(), kind: MountKind::Tmpfs { size_bytes: None, mode: 0o755 } }];
        let failed = space.run(&plan);
        assert!(matches!(failed, Err(SandboxError::Setup { stage: Stage::ForbiddenTarget, .. })), "{target}: {failed:?}");
    }
}

#[test]
fn a_missing_mount_point_is_named() {
    let Some(space) = Space::new() else { return };
    let mut plan = space.plan("a", "true");
    // below a mount that nobody may write, so that it cannot be made either
    fs::create_dir(space.path("shown")).expect("a directory");
    plan.mounts = [
        ("/mnt", MountKind::Bind { source: space.path("shown"), subpath: String::new(), writable: false }),
        ("/mnt/no/where", MountKind::Tmpfs { size_bytes: None, mode: 0o755 }),
    ]
    .map(|(target, kind)| Mount { target: target.to_owned(), kind })
    .to_vec();
    fs::create_dir_all(space.path("base/mnt")).expect("a directory");
    assert_eq!(space.run(&plan).expect_err("no mount point").to_string(), "cannot find the mount point `/mnt/no/where`");
}

#[test]
fn programs_are_found_in_the_image() {
    let Some(space) = Space::new() else { return };
    let run = |name: &str, args: &[&str], cwd: &str| {
        let mut plan = space.plan(name, "");
        plan.args = args.iter().map(|text| (*text).to_owned()).collect();
        plan.cwd = cwd.to_owned();
        plan.env = vec!["PATH=/nowhere:/bin".to_owned()];
        space.run(&plan).map(|output| output.stdout).map_err(|error| (error.exit_code(), error.to_string()))
    };
    let base = space.path("base");
    fs::write(base.join("etc/plain"), "x").expect("written");
    fs::write(base.join("etc/script"), "#!/bin/none\n").expect("written");
    fs::set_permissions(base.join("etc/script"), fs::Permissions::from_mode(0o755)).expect("a mode");
    symlink("/proc/self/exe", base.join("bin/itself")).expect("a link");
    let failure = |code, text: &str| Err((Some(code), text.to_owned()));

    assert_eq!(run("a", &["echo", "hi"], "/"), Ok("hi\n".to_owned()));
    assert_eq!(run("b", &["./busybox", "echo", "hi"], "/bin"), Ok("hi\n".to_owned()));
    assert_eq!(run("c", &["foo"], "/"), failure(127, r#"exec: "foo": executable file not found in $PATH"#));
    assert_eq!(run("d", &["/foo"], "/"), failure(127, r#"exec: "/foo": no such file or directory"#));
    assert_eq!(run("e", &["/etc/plain"], "/"), failure(126, r#"exec: "/etc/plain": permission denied"#));
    assert_eq!(run("f", &["/etc"], "/"), failure(126, r#"exec: "/etc": is a directory"#));
    assert_eq!(run("g", &["/etc/script"], "/"), failure(127, r#"exec: "/etc/script": no such file or directory"#));
    assert!(run("h", &["/bin/itself"], "/").is_err());
    assert!(run("i", &["/proc/self/exe"], "/").is_err());
    assert!(run("j", &["/proc/1/root/bin/busybox", "true"], "/").is_err());
}

#[test]
fn a_working_directory_is_made_and_cannot_leave_the_root() {
    let Some(space) = Space::new() else { return };
    symlink("/proc/self/fd", space.path("base/fds")).expect("a link");
    let mut plan = space.plan("a", "pwd; stat -c '%a %u' . ..");
    plan.cwd = "/made/for/me".to_owned();
    plan.uid = 1000;
    assert_eq!(space.print(&plan), "/made/for/me\n755 0\n755 0\n");
    plan = space.plan("b", "pwd");
    plan.cwd = "/../../bin".to_owned();
    assert_eq!(space.print(&plan), "/bin\n");
    for number in 3..12 {
        let mut plan = space.plan(&format!("c{number}"), "pwd");
        plan.cwd = format!("/proc/self/fd/{number}");
        assert!(space.run(&plan).is_err(), "{number}");
        plan = space.plan(&format!("d{number}"), "pwd");
        plan.cwd = format!("/fds/{number}");
        assert!(space.run(&plan).is_err(), "{number}");
    }
}

#[test]
fn a_step_on_nothing_works_in_its_upper_directory() {
    let Some(space) = Space::new() else { return };
    let mut plan = space.plan("a", "");
    fs::copy(BUSYBOX, space.path("a/upper/busybox")).expect("a copy");
    if let Root::Overlay { lowers, .. } = &mut plan.root {
        lowers.clear();
    }
    plan.args = vec!["/busybox".to_owned(), "touch".to_owned(), "/made".to_owned()];
    space.print(&plan);
    assert!(space.path("a/upper/made").exists());
}

#[test]
fn insecure_steps_have_the_builders_powers() {
    let Some(space) = Space::new() else { return };
    let mut plan = space.plan("a", "mkdir /m && mount -t tmpfs none /m && echo ok > /ok && umount /m && grep -E '^(CapEff|Seccomp:)' /proc/self/status; ls /dev/loop0; ls -l /proc/keys | cut -c1");
    plan.security = Security::Insecure(Entitled::among(&["security.insecure"]).expect("granted"));
    let ours = fs::read_to_string("/proc/self/status").expect("our status");
    let ours = ours.lines().find(|line| line.starts_with("CapEff")).expect("our capabilities");
    assert_eq!(space.print(&plan), format!("{ours}\nSeccomp:\t0\n/dev/loop0\n-\n"));
}

#[test]
fn many_steps_run_at_once_and_leave_nothing() {
    let Some(space) = Space::new() else { return };
    let before = own_mounts();
    std::thread::scope(|scope| {
        for number in 0..64 {
            let space = &space;
            scope.spawn(move || {
                let text = space.shell(&format!("step{number}"), &format!("echo {number} > /n; cat /n"));
                assert_eq!(text.trim(), number.to_string());
            });
        }
    });
    assert_eq!(own_mounts(), before);
    let children = fs::read_to_string(format!("/proc/{0}/task/{0}/children", space.launcher.pid())).expect("a list");
    assert_eq!(children, "");
}

#[test]
fn five_hundred_layers_are_not_too_many() {
    let Some(space) = Space::new() else { return };
    let mut plan = space.plan("a", "ls /layers | wc -l");
    let layers = (0..499).map(|number| {
        let layer = space.fresh(&format!("layer-with-a-rather-long-name-{number}"));
        fs::create_dir(layer.join("layers")).expect("a directory");
        fs::write(layer.join(format!("layers/{number}")), "").expect("a file");
        layer
    });
    let layers: Vec<PathBuf> = layers.collect();
    if let Root::Overlay { lowers, .. } = &mut plan.root {
        lowers.extend(layers);
    }
    assert_eq!(space.print(&plan), "499\n");
}
