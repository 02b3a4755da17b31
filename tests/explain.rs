//! `--explain` and `croze explain`: one test per reason, each with the whole message.

mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt;

use common::Space;

/// What `--explain` says, steps that were hits left out.
#[track_caller]
fn explained(space: &Space, flags: &[&str]) -> String {
    let run = space.build(&[&["--progress=none", "--explain"], flags].concat()).succeeds();
    let mut told = String::new();
    let lines: Vec<&str> = run.stderr.lines().collect();
    for (number, line) in lines.iter().enumerate() {
        let is_hit = |line: Option<&&str>| line.is_some_and(|line| *line == "    hit");
        if line.starts_with('[') && is_hit(lines.get(number + 1)) || is_hit(Some(line)) {
            continue;
        }
        told.push_str(line);
        told.push('\n');
    }
    told
}

/// A space whose last build was of this Dockerfile, with two files in `src`.
fn built(dockerfile: &str) -> Space {
    let space = Space::with_busybox();
    space.write("ctx/src/main.c", "one\n").write("ctx/src/util.h", "two\n").dockerfile(dockerfile);
    space.build(&[]).succeeds();
    space
}

#[track_caller]
fn check_dockerfile(before: &str, after: &str, expected: &str) {
    let space = built(before);
    assert_eq!(explained(&space, &[]), "", "nothing has changed yet");
    space.dockerfile(after);
    assert_eq!(explained(&space, &[]), expected);
}

#[test]
fn never_built_here() {
    let space = Space::with_busybox();
    space.dockerfile("FROM busybox\nRUN echo a > /a\n");
    let expected = "[2/2] RUN echo a > /a\n    ran\n      because never built here\n";
    assert_eq!(explained(&space, &[]), expected);
}

#[test]
fn a_hit_is_told_too() {
    let space = built("FROM busybox\nRUN echo a > /a\n");
    let run = space.build(&["--progress=none", "--explain"]).succeeds();
    assert_eq!(run.stderr, "[2/2] RUN echo a > /a\n    hit\n");
}

#[test]
fn a_file_changed() {
    let space = built("FROM busybox\nCOPY src /src\n");
    space.write("ctx/src/main.c", "three\n").write("ctx/src/new.c", "").write("ctx/outside", "");
    fs::remove_file(space.path("ctx/src/util.h")).expect("removed");
    let expected = "[2/2] COPY src /src\n    ran\n      because 1 of 2 files changed: src/main.c\n      \
                    because 1 of 2 files new: src/new.c\n      because 1 gone: src/util.h\n";
    assert_eq!(explained(&space, &[]), expected);
}

#[test]
fn a_directory_has_another_mode() {
    let space = built("FROM busybox\nCOPY . /all\n");
    fs::set_permissions(space.path("ctx/src"), fs::Permissions::from_mode(0o700)).expect("chmod");
    let expected = "[2/2] COPY . /all\n    ran\n      \
                    because directories that it copies, or that it finds at its destination, have another mode or owner\n";
    assert_eq!(explained(&space, &[]), expected);
}

#[test]
fn an_option_of_a_copy_changed() {
    check_dockerfile(
        "FROM busybox\nCOPY src /src\n",
        "FROM busybox\nCOPY --chown=5 src /dst\n",
        "[2/2] COPY --chown=5 src /dst\n    ran\n      because 2 of 2 files changed: src/main.c, src/util.h\n      \
         because the destination was `/src`, it is `/dst`\n      because `--chown` was nothing, it is `5`\n",
    );
}

#[test]
fn a_word_of_a_command_changed() {
    check_dockerfile(
        "FROM busybox\nRUN echo one two > /a\n",
        "FROM busybox\nRUN echo one three > /a\n",
        "[2/2] RUN echo one three > /a\n    ran\n      because in the command, `two` became `three`\n",
    );
}

#[test]
fn an_argument_has_another_value() {
    let space = built("FROM busybox\nARG V=1\nRUN echo $V > /a\n");
    let expected = "[2/2] RUN echo 2 > /a\n    ran\n      because the argument or variable `V` was `1`, it is `2`\n";
    assert_eq!(explained(&space, &["--build-arg", "V=2"]), expected);
}

#[test]
fn a_mounted_file_changed_and_the_result_did_not() {
    let space = built("FROM busybox\nRUN --mount=type=bind,source=src,target=/mnt ls /mnt > /a\n");
    space.write("ctx/src/main.c", "three\n");
    let expected = "[2/2] RUN --mount=type=bind,source=src,target=/mnt ls /mnt > /a\n    \
                    adopted: it ran and left what it had left before\n      because the files mounted at `/mnt` changed\n";
    assert_eq!(explained(&space, &[]), expected);
}

#[test]
fn what_a_cache_mount_begins_with_changed() {
    let run = "RUN --mount=type=cache,target=/c,from=seed,source=/src cat /c/main.c > /a";
    let space = built(&format!("FROM busybox AS seed\nCOPY . /\nFROM busybox\n{run}\n"));
    space.write("ctx/beside", "not mounted\n");
    let told = explained(&space, &[]);
    assert!(told.contains("COPY . /") && !told.contains(run), "only the copy runs again: {told}");
    space.write("ctx/src/main.c", "three\n");
    let expected = format!("{run}\n    ran\n      because the files that the cache mounted at `/c` begins with changed\n");
    let told = explained(&space, &[]);
    assert!(told.contains(&expected), "{told}");
}

#[test]
fn the_base_image_moved() {
    let space = Space::with_busybox();
    let base = |text: &str| {
        space.write("base/Dockerfile", format!("FROM busybox\nRUN echo {text} > /base\n"));
        space.croze(["build", "-t", "base", "base"]).succeeds();
        let facts: serde_json::Value = serde_json::from_str(&space.croze(["inspect", "base"]).succeeds().stdout).expect("JSON");
        facts["digest"].as_str().expect("a digest")[.."sha256:".len() + 12].to_owned()
    };
    let first = base("one");
    space.dockerfile("FROM base\nRUN echo a > /a\n");
    space.build(&[]).succeeds();
    let second = base("two");
    let expected = format!(
        "[2/2] RUN echo a > /a\n    ran\n      because the base image `docker.io/library/base:latest` moved from {first} to {second}\n"
    );
    assert_eq!(explained(&space, &[]), expected);
}

#[test]
fn a_step_before_it_gave_another_layer() {
    let space = built("FROM busybox\nCOPY src /src\nRUN echo a > /a\n");
    space.write("ctx/src/main.c", "three\n");
    let expected = "[2/3] COPY src /src\n    ran\n      because 1 of 2 files changed: src/main.c\n\
                    [3/3] RUN echo a > /a\n    ran\n      because `COPY src /src`, before it, gave another layer\n";
    assert_eq!(explained(&space, &[]), expected);
}

#[test]
fn a_step_came_before_it_or_went() {
    let (short, long) = ("FROM busybox\nRUN echo a > /a\n", "FROM busybox\nRUN echo b > /b\nRUN echo a > /a\n");
    check_dockerfile(
        short,
        long,
        "[2/3] RUN echo b > /b\n    ran\n      because in the command, `a > /a` became `b > /b`\n\
         [3/3] RUN echo a > /a\n    ran\n      because `RUN echo b > /b` comes before it now\n",
    );
    check_dockerfile(long, short, "[2/2] RUN echo a > /a\n    ran\n      because a step before it is gone\n");
}

#[test]
fn no_cache_asks_for_it() {
    let space = built("FROM busybox\nRUN echo a > /a\n");
    let expected =
        "[2/2] RUN echo a > /a\n    adopted: it ran and left what it had left before\n      because `--no-cache` asks for it\n";
    assert_eq!(explained(&space, &["--no-cache"]), expected);
}

#[test]
fn a_layer_is_gone() {
    let space = built("FROM scratch\nCOPY src /src\n");
    let layers = fs::read_dir(space.path("store/layers")).expect("layers");
    let path = layers.map(|entry| entry.expect("a layer").path()).find(|path| path.join("packed").exists()).expect("the layer");
    fs::remove_dir_all(path).expect("removed");
    let expected = "[1/1] COPY src /src\n    ran\n      because its layer is no longer in the store\n";
    assert_eq!(explained(&space, &[]), expected);
}

#[test]
fn a_layer_was_pruned() {
    let space = built("FROM busybox\nRUN echo a > /a\n");
    let today = || common::run(std::process::Command::new("date").args(["-u", "+%F"])).succeeds().stdout.trim().to_owned();
    let before = today();
    space.croze(["prune", "--force"]).succeeds();
    let expected = |day: &str| format!("[2/2] RUN echo a > /a\n    ran\n      because its layer was pruned on {day}\n");
    let told = ran(&explained(&space, &[]));
    // midnight may pass meanwhile
    assert!(told == expected(&before) || told == expected(&today()), "{told}");
}

/// The directory of the store's layer that has the file `name`.
#[track_caller]
fn layer_with(space: &Space, name: &str) -> std::path::PathBuf {
    let layers = fs::read_dir(space.path("store/layers")).expect("layers").map(|entry| entry.expect("a layer").path());
    layers.into_iter().find(|path| path.join("tree").join(name).exists()).expect("the layer")
}

/// A command that runs again within the second leaves the very layer that it had left before.
fn ran(told: &str) -> String {
    told.replace("adopted: it ran and left what it had left before", "ran")
}

#[test]
fn a_layer_was_damaged_by_a_power_cut() {
    let space = built("FROM busybox\nRUN echo a > /a\n");
    let layer = layer_with(&space, "a");
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").expect("a boot");
    // as if the machine had been started anew since; without its sum, as earlier versions wrote it
    let text = fs::read_to_string(layer.join("record")).expect("a record");
    let text = text.lines().next().expect("a line").replace(boot.trim(), "an-earlier-one");
    fs::write(layer.join("record"), text).expect("written");
    fs::write(layer.join("tree/a"), "").expect("emptied");
    assert_eq!(
        ran(&explained(&space, &[])),
        "[2/2] RUN echo a > /a\n    ran\n      because its layer was damaged in the store\n"
    );
}

#[test]
fn a_layer_was_damaged_in_the_store() {
    let space = built("FROM busybox\nRUN echo a > /a\n");
    fs::write(layer_with(&space, "a").join("tree/a"), "b\n").expect("damaged");
    let told = ran(&explained(&space, &["-o", "type=oci,dest=image.tar"]));
    assert_eq!(told, "[2/2] RUN echo a > /a\n    ran\n      because its layer was damaged in the store\n");
}

/// Runs a statement on the index of the store.
#[track_caller]
fn edit_index(space: &Space, statement: &str) {
    let index = rusqlite::Connection::open(space.path("store/index.sqlite")).expect("an index");
    assert!(index.execute(statement, []).expect("a statement") > 0);
}

#[test]
fn a_record_is_gone() {
    let space = built("FROM busybox\nRUN echo a > /a\n");
    edit_index(&space, "DELETE FROM records");
    assert_eq!(explained(&space, &[]), "[2/2] RUN echo a > /a\n    ran\n      because its record is gone\n");
}

#[test]
fn the_former_step_is_known_by_name_only() {
    let space = built("FROM busybox\nRUN echo a > /a\n");
    edit_index(&space, "DELETE FROM memos WHERE CAST(value AS TEXT) LIKE '{\"base\"%'");
    space.dockerfile("FROM busybox\nRUN echo b > /a\n");
    let expected = "[2/2] RUN echo b > /a\n    ran\n      because never built here; nothing is known of the step it replaces\n";
    assert_eq!(explained(&space, &[]), expected);
}

#[test]
fn another_base_image() {
    let space = Space::with_busybox();
    space.croze(["import", common::busybox_tar(), "other"]).succeeds();
    // the same program, for an image without a shell
    let file = fs::read(layer_with(&space, "bin/busybox").join("tree/bin/busybox")).expect("a program");
    space.write("ctx/true", file).executable("ctx/true");
    let text = |base: &str| format!("FROM {base}\nCOPY true /bin/true\nRUN [\"/bin/true\"]\n");
    let check = |from: &str, to: &str, expected: &str| {
        space.dockerfile(&text(from)).build(&[]).succeeds();
        edit_index(&space, "DELETE FROM records");
        space.dockerfile(&text(to));
        let told = explained(&space, &[]);
        let last = told.lines().last().expect("a reason").trim();
        assert_eq!(last, format!("because {expected}"), "{told}");
    };
    let (scratch, name) = ("scratch", "docker.io/library/busybox:latest");
    check("busybox", scratch, &format!("the base image was `{name}`, there is none now"));
    check(scratch, "busybox", &format!("the base image is `{name}`, there was none"));
    space.dockerfile("FROM busybox\nRUN echo > /x\n").build(&["-t", "other"]).succeeds();
    check("busybox", "other", &format!("the base image was `{name}`, it is `docker.io/library/other:latest`"));
}

#[test]
fn a_step_of_the_stage_below_gave_another_layer() {
    let text = |word: &str| format!("FROM busybox AS below\nRUN echo {word} > /w\nFROM below\nRUN echo a > /a\n");
    let space = built(&text("one"));
    // it is found, since it ran before in another build
    space.dockerfile(&text("two")).build(&["--target", "below"]).succeeds();
    space.dockerfile(&text("one")).build(&[]).succeeds();
    space.dockerfile(&text("two"));
    let told = explained(&space, &[]);
    let expected = "RUN echo a > /a\n    ran\n      because `RUN echo two > /w`, before it, gave another layer\n";
    assert!(told.ends_with(expected), "{told}");
}

#[test]
fn options_of_a_command_changed() {
    let from = "FROM busybox\n";
    let expected = |step: &str, whys: &[&str]| {
        let whys: String = whys.iter().map(|why| format!("      because {why}\n")).collect();
        format!("{step}\n    ran\n{whys}")
    };
    let cases: [(&str, &str, &[&str], &[&str]); 10] = [
        ("WORKDIR /bin", "WORKDIR /etc", &[], &["the working directory was `/bin`, it is `/etc`"]),
        ("USER 0", "USER 5", &[], &["the user was `0`, it is `5`"]),
        ("ENV A=1", "ENV B=1", &[], &["the argument or variable `B` is new: `1`", "the argument or variable `A` is gone"]),
        ("ENV A=1 B=2", "ENV B=2 A=1", &[], &["the variables have another order"]),
        ("", "", &["--network=none"], &["the network was `default`, it is `none`"]),
        ("", "", &["--add-host", "h:1.2.3.4"], &["a line of `/etc/hosts` was nothing, it is `h`"]),
        ("", "", &["--shm-size", "1m"], &["the size of `/dev/shm` was nothing, it is `1048576`"]),
        ("", "", &["--ulimit", "nofile=100:200"], &["a limit was nothing, it is `nofile=100:200`"]),
        ("", "", &["--build-arg", "BUILDKIT_SANDBOX_HOSTNAME=h"], &["the host name was nothing, it is `h`"]),
        ("", "", &["--build-arg", "http_proxy=http://proxy"], &[]),
    ];
    for (before, after, flags, whys) in cases {
        let run = "RUN true";
        let space = built(&format!("{from}{before}\n{run}\n"));
        space.dockerfile(&format!("{from}{after}\n{run}\n"));
        let told = ran(&explained(&space, flags));
        let last = told.find(run).map_or("", |at| &told[at..]);
        let expected = if whys.is_empty() { String::new() } else { expected(run, whys) };
        assert_eq!(last, expected, "{before:?} {after:?} {flags:?}: {told}");
    }
}

#[test]
fn mounts_and_scripts_changed() {
    let cases = [
        ("RUN true", "RUN --mount=type=tmpfs,target=/t true", "the mount at `/t` is new"),
        ("RUN --mount=type=tmpfs,target=/t true", "RUN true", "the mount at `/t` is gone"),
        (
            "RUN --mount=type=tmpfs,target=/t true",
            "RUN --mount=type=tmpfs,target=/t,size=4096 true",
            "the options of the mount at `/t` changed",
        ),
        ("RUN <<E\necho a\nE", "RUN <<E\necho b\nE", "in the command, `a` became `b`"),
        ("RUN <<E\n#!/bin/sh\necho a\nE", "RUN <<E\n#!/bin/sh\necho b\nE", "the script in the here-document changed"),
        ("COPY --chmod=600 src /src", "COPY --chmod=644 src /src", "2 of 2 files changed: src/main.c, src/util.h"),
    ];
    for (before, after, expected) in cases {
        let space = built(&format!("FROM busybox\n{before}\n"));
        space.dockerfile(&format!("FROM busybox\n{after}\n"));
        let told = explained(&space, &[]);
        assert!(told.contains(&format!("      because {expected}\n")), "{after}: {told}");
    }
}

#[test]
fn the_last_build_can_be_asked_about() {
    let space = built("FROM busybox\nCOPY src /src\nRUN echo a > /a\n");
    let all = space.croze(["explain"]).succeeds().stdout;
    assert_eq!(
        all,
        "[2/3] COPY src /src\n    ran\n      because never built here\n[3/3] RUN echo a > /a\n    ran\n      because never built here\n"
    );
    let one = space.croze(["explain", "RUN"]).succeeds().stdout;
    let layer = one.lines().find_map(|line| line.trim().strip_prefix("layer sha256:")).expect("its layer").to_owned();
    assert!(one.contains("    argument: echo a > /a\n"), "{one}");
    assert_eq!(space.croze(["explain", &layer[..12]]).succeeds().stdout, one);
    space.croze(["explain", "nothing"]).fails(
        2,
        "error: no step or layer of the last build is called `nothing`\n |\n = help: `croze explain` without a name shows all of them",
    );
    Space::new()
        .croze(["explain"])
        .fails(2, "error: nothing was built in this store yet\n |\n = help: `croze build --explain` tells while it builds");
}

#[test]
fn status_lines_tell_it_always() {
    let space = built("FROM busybox\nRUN echo a > /a\n");
    space.dockerfile("FROM busybox\nRUN echo b > /a\n");
    let run = space.build(&["--progress=rawjson"]).succeeds();
    assert!(run.stderr.contains("\"id\":\"ran: in the command, `a` became `b`\""), "{}", run.stderr);
}
