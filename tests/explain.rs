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
