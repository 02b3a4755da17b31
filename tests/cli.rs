//! croze as its users meet it: the binary, its flags, texts and exit codes.

mod common;

use std::process::Command;

use common::{Space, busybox_tar};
use serde_json::Value;

#[test]
fn the_version_is_the_packages() {
    let run = Space::new().croze(["--version"]).succeeds();
    assert_eq!(run.stdout, format!("croze {}\n", env!("CARGO_PKG_VERSION")));
    assert_eq!(run.stderr, "");
}

#[test]
fn an_unknown_flag_is_wrong_usage() {
    let run = Space::new().croze(["build", "--no-such-flag", "."]);
    assert_eq!(run.code, Some(2));
    assert!(run.stderr.starts_with("error: unexpected argument '--no-such-flag' found\n"), "{}", run.stderr);
    assert_eq!(run.stdout, "");
}

#[test]
fn all_wrong_values_are_reported() {
    Space::new().croze(["build", "-t", "Upper", "--network", "bridge", "."]).fails(
        2,
        "error: invalid value for `--network`: `bridge` is not one of `default`, `none`, `host`\n\
         error: invalid value for `--tag`: image name `Upper` has upper-case letters; repository names are lower case\n",
    );
}

#[test]
fn what_is_not_there_yet_says_so() {
    Space::new().croze(["build", "--policy=x", "."]).fails(2, "error: `--policy` is not available\n");
}

#[test]
fn an_imported_base_keeps_its_digest() {
    let space = Space::new();
    let first = space.croze(["import", busybox_tar(), "busybox"]).succeeds();
    let second = space.croze(["import", busybox_tar(), "other:1"]).succeeds();
    let digest = |run: &common::Run| run.stdout.split_whitespace().last().map(str::to_owned);
    assert!(first.stdout.starts_with("busybox:latest sha256:"), "{}", first.stdout);
    assert_eq!(digest(&first), digest(&second));
    let id = &digest(&first).expect("an ID")["sha256:".len()..][..12];
    let images = space.croze(["images"]).succeeds().stdout;
    assert!(images.lines().skip(1).all(|line| line.split_whitespace().nth(1) == Some(id)), "{id}:\n{images}");
}

#[test]
fn images_are_listed_by_the_names_that_people_see() {
    let space = Space::new();
    for name in ["zebra", "my/app:1", "localhost/b", "127.0.0.1:5000/x"] {
        space.croze(["import", busybox_tar(), name]).succeeds();
    }
    let images = space.croze(["images"]).succeeds().stdout;
    let names: Vec<&str> = images.lines().skip(1).filter_map(|line| line.split_whitespace().next()).collect();
    assert_eq!(names, ["127.0.0.1:5000/x:latest", "localhost/b:latest", "my/app:1", "zebra:latest"]);
}

#[test]
fn what_is_no_tar_is_not_imported() {
    let space = Space::new();
    space.write("junk", "junk\n");
    space
        .croze(["import", "junk", "x"])
        .fails(2, "error: cannot import `junk`: it is damaged, or no tar\n |\n = note: unexpected end of file\n = help: import the tar of a root file system, plain or compressed, such as `docker export` writes\n");
    assert_eq!(space.croze(["images"]).succeeds().stdout, "NAME  IMAGE ID  PLATFORM  LAYERS  SIZE\n");
}

#[test]
fn inspect_prints_json_and_knows_slips() {
    let space = Space::with_busybox();
    let json: Value = serde_json::from_str(&space.croze(["inspect", "busybox"]).succeeds().stdout).expect("JSON");
    assert_eq!(json["name"], "busybox:latest");
    assert_eq!(json["layers"][0]["diff_id"], json["config"]["rootfs"]["diff_ids"][0]);
    space
        .croze(["inspect", "busybx"])
        .fails(2, "error: no image `busybx:latest` in the store\n |\n = help: did you mean `busybox:latest`?\n");
    space
        .croze(["inspect", "busybox:1.36"])
        .fails(2, "error: no image `busybox:1.36` in the store\n |\n = help: did you mean `busybox:latest`?\n");
    space
        .croze(["inspect", "alpine"])
        .fails(2, "error: no image `alpine:latest` in the store\n |\n = help: `croze images` lists what is there\n");
}

#[test]
fn the_store_flag_beats_the_environment() {
    let space = Space::with_busybox();
    let elsewhere = space.croze(["images", "--root", "other-store"]).succeeds();
    assert_eq!(elsewhere.stdout.lines().count(), 1);
    assert_eq!(space.croze(["images"]).succeeds().stdout.lines().count(), 2);
}

#[test]
fn shells_can_complete() {
    let space = Space::new();
    for shell in ["bash", "zsh", "fish"] {
        let script = space.croze(["completion", shell]).succeeds().stdout;
        for word in ["build-arg", "cache-mount", "explain"] {
            assert!(script.contains(word), "{shell} does not know `{word}`");
        }
    }
    space.write("complete", space.croze(["completion", "bash"]).succeeds().stdout);
    let asked = ". ./complete; COMP_WORDS=(croze build --target); COMP_CWORD=2; _croze croze --targ build; echo ${COMPREPLY[0]}";
    let bash = Command::new("bash").args(["--norc", "-c", asked]).current_dir(space.path(".")).output().expect("bash runs");
    assert_eq!(String::from_utf8_lossy(&bash.stdout), "--target\n", "{}", String::from_utf8_lossy(&bash.stderr));
}

#[test]
fn keys_are_served_like_an_agent() {
    let space = Space::with_busybox();
    let made = Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(space.path("key")).output();
    assert!(made.expect("ssh-keygen runs").status.success());
    space.dockerfile(
        "FROM busybox\nRUN --mount=type=ssh,required ls -ln $SSH_AUTH_SOCK | cut -c 1-10 > /a\n\
         RUN --mount=type=ssh,id=two,required,mode=0666,target=/agent ls -ln /agent | cut -c 1-10 > /b\n",
    );
    let out = space.build_files(&["--ssh", "default=key", "--ssh", "two=key,key"]);
    let mode = |name: &str| std::fs::read_to_string(out.join(name)).expect("a file");
    assert_eq!((mode("a").trim(), mode("b").trim()), ("srw-------", "srw-rw-rw-"));
    let help = "\n = help: an agent has keys of all kinds, and asks for passphrases: `ssh-add FILE`, then `--ssh default`\n";
    let run = space.build(&["--ssh", "default=nope"]);
    run.fails(2, &format!("error: cannot read `nope`, which is to be an ssh agent's socket or a key\n |\n = note: no such file or directory{help}"));
    let run = space.build(&["--ssh", "default=key.pub"]);
    run.fails(2, &format!("error: cannot use the ssh key `key.pub`\n |\n = note: this is no private key{help}"));
}

#[test]
fn a_closed_stderr_changes_no_exit_code() {
    let space = Space::new();
    let mut child = space.command(["build", "--network", "bridge", "."]);
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    let status = child.stderr(writer).status().expect("croze starts");
    assert_eq!(status.code(), Some(2));
}
