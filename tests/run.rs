//! `croze run`, and shells where a step has failed.

mod common;

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, Command, ExitStatus, Stdio};

use common::{Space, run, skip_unless};

/// A space with an image `app` that has an entrypoint, a user, a directory and a variable.
fn with_app() -> Space {
    let space = Space::with_busybox();
    space.dockerfile(
        "FROM busybox\nRUN mkdir /etc; echo 'app:x:1000:1000::/home/app:/bin/sh' > /etc/passwd; echo built > /built\n\
         WORKDIR /work\nUSER app\nENV A=image\nENTRYPOINT [\"/bin/sh\", \"-c\"]\nCMD [\"id -u; pwd; echo $A $HOME; cat /built\"]\n",
    );
    space.build(&["-t", "app"]).succeeds();
    space
}

#[test]
fn an_image_runs_as_it_was_built() {
    let space = with_app();
    assert_eq!(space.croze(["run", "app"]).succeeds().stdout, "1000\n/work\nimage /home/app\nbuilt\n");
}

#[test]
fn flags_and_words_take_the_place_of_what_the_image_says() {
    let space = with_app();
    let out = |arguments: &[&str]| space.croze([&["run"], arguments].concat()).succeeds().stdout;
    assert_eq!(out(&["app", "echo words"]), "words\n");
    assert_eq!(out(&["-u", "0", "-w", "/tmp", "-e", "A=flag", "app"]), "0\n/tmp\nflag /\nbuilt\n");
    assert_eq!(out(&["--rm", "--entrypoint", "echo", "app", "--rm", "-t"]), "--rm -t\n");
    assert_eq!(out(&["--hostname", "box", "app", "hostname; echo $0"]), "box\n/bin/sh\n");
    assert_eq!(out(&["--network", "none", "app", "ls /sys/class/net"]), "lo\n");
}

#[test]
fn the_exit_code_is_the_commands() {
    let space = Space::with_busybox();
    let code = |arguments: &[&str]| space.croze([&["run", "busybox"], arguments].concat()).code;
    assert_eq!(code(&["true"]), Some(0));
    assert_eq!(code(&["sh", "-c", "exit 42"]), Some(42));
    assert_eq!(code(&["sh", "-c", "(kill -9 $$) & wait; sleep 0.1; sh -c 'kill -9 $$'; exit $?"]), Some(137));
    space.croze(["run", "busybox", "no-such-program"]).fails(
        127,
        "error: the command of `docker.io/library/busybox:latest` cannot be started: executable file `no-such-program` not found in \
         `$PATH`\n |\n = help: install the program that has `no-such-program`, or name it by its path",
    );
    space.croze(["run", "busybox", "/bin"]).fails(
        126,
        "error: the command of `docker.io/library/busybox:latest` cannot be started: cannot execute `/bin`: is a directory",
    );
}

#[test]
fn what_a_command_writes_is_forgotten_but_for_volumes() {
    let space = Space::with_busybox();
    space.write("data/in", "in\n");
    let script = "cat /data/in; echo out > /data/out; echo lost > /lost; ls /lost";
    let data = format!("{}:/data", space.text_path("data"));
    let ran = space.croze(["run", "-v", &data, "busybox", "sh", "-c", script]).succeeds();
    assert_eq!(ran.stdout, "in\n/lost\n");
    assert_eq!(space.read("data/out"), "out\n");
    assert_eq!(space.croze(["run", "busybox", "ls", "/lost"]).code, Some(1));
    let ran = space.croze(["run", "-v", "./data:/data:ro", "busybox", "sh", "-c", "echo again > /data/out"]);
    assert_eq!(ran.code, Some(1), "{}", ran.stderr);
    assert_eq!(space.read("data/out"), "out\n");
    assert_eq!(fs::read_dir(space.path("store/tmp")).expect("a store").count(), 0);
}

#[test]
fn input_is_given_on_request() {
    let space = Space::with_busybox();
    assert_eq!(space.croze_with_input(["run", "-i", "busybox", "wc", "-c"], b"12345").succeeds().stdout, "5\n");
    assert_eq!(space.croze_with_input(["run", "busybox", "wc", "-c"], b"12345").succeeds().stdout, "0\n");
}

#[test]
fn mistakes_are_told() {
    let space = Space::with_busybox();
    let fails = |arguments: &[&str], message: &str| {
        space.croze([&["run"], arguments].concat()).fails(2, message);
    };
    fails(
        &["-t", "-v", "data:/data", "--network", "lan", "busybox"],
        "error: `--tty` takes a terminal, and standard input or output is none\n\
         error: invalid value for `--network`: `lan` is not one of `default`, `none`, `host`\n\
         error: invalid value for `--volume`: volumes by name are not available",
    );
    fails(&["--privileged", "busybox", "true"], "error: unknown flag `--privileged`");
    fails(
        &["busybox"],
        "error: `busybox:latest` names no command to run\n |\n \
         = help: name one behind the image: `croze run busybox:latest COMMAND`",
    );
    fails(
        &["-u", "stranger", "busybox", "true"],
        "error: unable to find user `stranger`: no matching entries in passwd file\n |\n \
         = help: create the user in an earlier `RUN`, or give a number",
    );
}

/// croze in the background, at the point where its command has printed `up`.
fn up(space: &Space, arguments: &[&str]) -> (Child, BufReader<std::process::ChildStdout>) {
    let mut child = space.command(arguments).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("croze starts");
    let mut out = BufReader::new(child.stdout.take().expect("piped"));
    let mut line = String::new();
    out.read_line(&mut line).expect("text");
    assert_eq!(line, "up\n");
    (child, out)
}

fn send(child: &Child, signal: &str) {
    run(Command::new("kill").args([&format!("-{signal}"), &child.id().to_string()])).succeeds();
}

/// Waits until the command of croze has become `sleep`.
fn becomes_sleep(child: &Child) {
    // of all threads
    let children = |pid: &str| -> String {
        let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
        tasks.filter_map(|task| fs::read_to_string(task.path().join("children")).ok()).collect()
    };
    let is_sleep = |pid: &str| fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name == "sleep\n");
    let came = (0..6000).any(|_| {
        std::thread::sleep(std::time::Duration::from_millis(10));
        let launchers = children(&child.id().to_string());
        launchers.split_whitespace().any(|launcher| children(launcher).split_whitespace().any(is_sleep))
    });
    assert!(came, "the command runs");
}

#[test]
fn signals_reach_the_command() {
    let space = Space::with_busybox();
    // one that has no plans for the signal ends by it, although it is process 1
    for (signal, code) in [("INT", 130), ("TERM", 143)] {
        let (mut child, _out) = up(&space, &["run", "busybox", "sh", "-c", "echo up; exec sleep 600"]);
        becomes_sleep(&child);
        send(&child, signal);
        assert_eq!(end(&mut child).code(), Some(code));
    }
    let trap = "trap 'echo caught; exit 7' TERM; echo up; while :; do sleep 0.05; done";
    let (mut child, mut out) = up(&space, &["run", "busybox", "sh", "-c", trap]);
    send(&child, "TERM");
    let mut line = String::new();
    out.read_line(&mut line).expect("text");
    assert_eq!(line, "caught\n");
    assert_eq!(end(&mut child).code(), Some(7));
    // one that will not end is ended at the second time
    let (mut child, mut out) =
        up(&space, &["run", "busybox", "sh", "-c", "trap 'echo no' INT; echo up; while :; do sleep 0.05; done"]);
    send(&child, "INT");
    out.read_line(&mut line).expect("text");
    send(&child, "INT");
    assert_eq!(end(&mut child).code(), Some(130));
}

#[test]
fn a_killed_croze_takes_its_command_along() {
    let space = Space::with_busybox();
    let mark = format!("{}", 89_000 + std::process::id() % 1000);
    let (mut child, mut out) = up(&space, &["run", "busybox", "sh", "-c", &format!("echo up; sleep {mark}; true")]);
    child.kill().expect("killed");
    child.wait().expect("gone");
    // the command holds the other side of this pipe
    let mut rest = String::new();
    out.read_line(&mut rest).expect("the end");
    assert_eq!(rest, "");
}

/// croze behind a terminal. `typed` has, in turn, what to wait for and what to type then. Gives the exit code and all that
/// was shown.
fn in_terminal(space: &Space, command: &str, typed: &[(&str, &str)]) -> (Option<i32>, String) {
    let line = format!("stty rows 33 cols 77; exec {} {command}", env!("CARGO_BIN_EXE_croze"));
    let mut script = Command::new("script");
    script.args(["-qec", &line, "/dev/null"]).current_dir(space.path("")).env("CROZE_ROOT", space.path("store"));
    let mut child = script.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("script starts");
    let (mut keyboard, mut screen) = (child.stdin.take().expect("piped"), child.stdout.take().expect("piped"));
    let mut shown = Vec::new();
    let mut piece = [0; 1000];
    let mut typed = typed.iter();
    let mut next = typed.next();
    let mut seen = 0;
    loop {
        let count = screen.read(&mut piece).expect("a pipe");
        if count == 0 {
            break;
        }
        shown.extend_from_slice(&piece[..count]);
        while let Some((awaited, keys)) = next
            && let Some(at) = String::from_utf8_lossy(&shown[seen..]).find(awaited)
        {
            seen += at + awaited.len();
            keyboard.write_all(keys.as_bytes()).expect("typed");
            next = typed.next();
        }
    }
    (end(&mut child).code(), String::from_utf8_lossy(&shown).into_owned())
}

/// Waits for a process, which is given up after a minute.
#[track_caller]
fn end(child: &mut Child) -> ExitStatus {
    for _ in 0..6000 {
        if let Some(status) = child.try_wait().expect("a child") {
            return status;
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    child.kill().expect("killed");
    panic!("it does not end");
}

#[test]
fn a_terminal_is_the_containers_own() {
    if !skip_unless("a_terminal_is_the_containers_own", &["script"]) {
        return;
    }
    let space = Space::with_busybox();
    let command = "run -it busybox sh -c 'tty; stty size; echo $TERM; cat /proc/self/stat | cut -d\" \" -f7; exit 5'";
    let (code, shown) = in_terminal(&space, command, &[]);
    assert_eq!(code, Some(5), "{shown}");
    let lines: Vec<&str> = shown.lines().map(str::trim).collect();
    assert_eq!(lines[..3], ["/dev/pts/0", "33 77", "xterm"], "{shown}");
    // the controlling terminal
    assert_ne!(lines[3], "0", "{shown}");
    // a shell takes what is typed, Ctrl-C too
    let typed = [("# ", "echo a$((1+1))b; sleep 600\n"), ("a2b", "\u{3}"), ("# ", "echo c$((1+2))d; exit 6\n")];
    let (code, shown) = in_terminal(&space, "run -it busybox sh", &typed);
    assert!(shown.contains("c3d"), "{shown}");
    assert_eq!(code, Some(6), "{shown}");
}

#[test]
fn a_failed_step_leaves_a_shell_in_its_sandbox() {
    let space = Space::with_busybox();
    space.write("token", "secret\n").dockerfile(
        "FROM busybox\nWORKDIR /work\nENV A=b\nRUN --mount=type=secret,id=token --mount=type=bind,target=/ctx,rw \
         echo half > done; echo more > /ctx/more; exit 3\n",
    );
    let typed = b"cat done /run/secrets/token /ctx/more\necho $A $(pwd) $$; exit 9\n";
    for flag in ["--on-error=shell", "--debug-on-failure"] {
        let ran = space.croze_with_input(["build", "--progress=plain", "--secret", "id=token,src=token", flag, "ctx"], typed);
        assert_eq!(ran.code, Some(1), "{}", ran.stderr);
        assert!(ran.stderr.contains("it failed; here is a shell in its sandbox, `exit` goes on\n"), "{}", ran.stderr);
        assert!(ran.stderr.contains("half\nsecret\nmore\nb /work 1\n"), "{}", ran.stderr);
        assert!(ran.stderr.contains("error: `RUN` did not complete successfully: exit code 3\n"), "{}", ran.stderr);
    }
    let ran = space.croze_with_input(["build", "--on-error=shell", "-"], typed);
    ran.fails(2, "error: a shell for failed steps and the context or Dockerfile cannot both read standard input");
    assert_eq!(fs::read_dir(space.path("store/tmp")).expect("a store").count(), 0);
}

#[test]
fn an_image_without_a_shell_says_so() {
    let space = Space::with_busybox();
    space.dockerfile(
        "FROM busybox AS tools\nFROM scratch\nCOPY --from=tools /bin/busybox /busybox\nRUN [\"/busybox\", \"false\"]\n",
    );
    let ran = space.croze_with_input(["build", "--on-error=shell", "ctx"], b"");
    assert_eq!(ran.code, Some(1), "{}", ran.stderr);
    assert!(ran.stderr.contains("the image has no shell to look around with\n"), "{}", ran.stderr);
}
