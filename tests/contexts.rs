//! Contexts and Dockerfiles from elsewhere, and the times that they lend a build.

mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use common::{Space, run, skip_unless, web};

/// A space that serves its `www`.
fn space() -> (Space, String) {
    let space = Space::with_busybox();
    space.write("www/.keep", "");
    let host = web::serve(space.path("www"));
    (space, host)
}

fn shell(space: &Space, script: &str) {
    let mut command = Command::new("sh");
    command.args(["-euc", script]).current_dir(space.path("www"));
    run(command.env("GIT_CONFIG_GLOBAL", "/dev/null").env("GIT_CONFIG_NOSYSTEM", "1")).succeeds();
}

#[test]
fn a_dockerfile_and_a_named_context_come_from_urls() {
    let (space, host) = space();
    space.write("www/other.dockerfile", "FROM scratch\nCOPY here /\nCOPY --from=page . /page/\n");
    space.write("www/page.html", "hello\n").write("www/page.html.changed", "Thu, 02 Jan 2020 03:04:05 GMT");
    space.write("ctx/here", "");
    let (file, page) = (format!("http://{host}/other.dockerfile"), format!("page=http://{host}/page.html"));
    let out = space.build_files(&["-f", &file, "--build-context", &page]);
    assert!(out.join("here").exists());
    assert_eq!(std::fs::read_to_string(out.join("page/context")).expect("it has BuildKit's name"), "hello\n");
    space.dockerfile(&format!("FROM scratch\nADD http://{host}/page.html /as/\nADD --chmod=644 http://{host}/page.html /x\n"));
    let out = space.build_files(&[]);
    for name in ["as/page.html", "x"] {
        assert_eq!(std::fs::read_to_string(out.join(name)).expect("added"), "hello\n");
    }
    let missing = space.build(&["-f", &format!("http://{host}/none")]);
    assert_eq!(missing.code, Some(3), "{}", missing.stderr);
    assert!(missing.stderr.contains(&format!("http://{host}/none")), "{}", missing.stderr);
}

#[test]
fn sources_lend_their_times() {
    if !skip_unless("sources_lend_their_times", &["git", "tar"]) {
        return;
    }
    let (space, host) = space();
    space.write("www/page.html", "hello\n").write("www/page.html.changed", "Thu, 02 Jan 2020 03:04:05 GMT");
    shell(
        &space,
        "mkdir tree && cd tree && git init -q -b main && echo one > one && git add one
         export GIT_AUTHOR_DATE='@5 +0000' GIT_COMMITTER_DATE='@1234567890 +0000'
         git -c user.name=T -c user.email=t@example.invalid commit -qm one && git update-server-info
         ln -s tree/.git ../tree.git && touch -d @1000 one && touch -d @2000 . && tar cf ../files.tar one",
    );
    let contexts = [
        format!("git=http://{host}/tree.git#main"),
        format!("page=http://{host}/page.html"),
        format!("files=http://{host}/files.tar"),
        "image=docker-image://busybox".to_owned(),
        format!("here={}", space.text_path("www")),
    ];
    let flags: Vec<&str> = contexts.iter().flat_map(|context| ["--build-context", context]).collect();
    let epoch = |default: &str, more: &[&str]| {
        space.dockerfile(&format!(
            "ARG SOURCE_DATE_EPOCH={default}\nFROM scratch AS tools\nARG NAME=page.html\nADD http://{host}/$NAME /\n\
             FROM busybox\nARG SOURCE_DATE_EPOCH\nRUN echo \"$SOURCE_DATE_EPOCH\" > /epoch\n"
        ));
        let out = space.build_files(&[&flags[..], more].concat());
        std::fs::read_to_string(out.join("epoch")).expect("written").trim_end().to_owned()
    };
    assert_eq!(epoch("git", &[]), "1234567890");
    assert_eq!(epoch("page", &[]), "1577934245");
    assert_eq!(epoch("files", &[]), "1000", "the newest file of the archive");
    assert_eq!(["image", "here", "context"].map(|name| epoch(name, &[])), ["", "", ""]);
    // a stage of one remote source
    assert_eq!(epoch("Tools", &[]), "1577934245");
    assert_eq!(epoch("Tools", &["--build-arg", "NAME=files.tar"]), "1000");
    let given = ["--build-arg", "NAME=tree.git", "--build-arg", "SOURCE_DATE_EPOCH=tools"];
    assert_eq!(epoch("7", &given), "1234567890");
}

#[test]
fn an_archive_lends_the_time_of_its_newest_file() {
    let (space, _) = space();
    shell(
        &space,
        "printf 'FROM busybox\\nARG SOURCE_DATE_EPOCH\\nRUN echo $SOURCE_DATE_EPOCH > /epoch\\n' > Dockerfile
         mkdir d && touch -d @3000 d/old && touch -d @4000 Dockerfile && touch -d @5000 d && tar cf ../ctx.tar Dockerfile d",
    );
    let archive = std::fs::read(space.path("ctx.tar")).expect("made");
    let output = format!("type=local,dest={}", space.text_path("out"));
    let build = ["build", "--build-arg", "SOURCE_DATE_EPOCH=context", "-o", &output, "-"];
    space.croze_with_input(build, &archive).succeeds();
    assert_eq!(space.read("out/epoch"), "4000\n");
}

#[test]
fn modes_that_others_have_made_do_not_bust_copies() {
    let space = Space::with_busybox();
    space.dockerfile("FROM busybox\nCOPY dir /dir\nRUN stat -c '%a %n' /dir/sub /dir/sub/* > /modes\n");
    space.write("ctx/dir/sub/run", "#!/bin/sh\n").write("ctx/dir/sub/text", "text\n");
    let modes = |dir: u32, run: u32, text: u32| {
        for (name, mode) in [("ctx/dir/sub", dir), ("ctx/dir/sub/run", run), ("ctx/dir/sub/text", text)] {
            fs::set_permissions(space.path(name), fs::Permissions::from_mode(mode)).expect("chmod");
        }
    };
    let cached = |flags: &[&str]| space.build(&[&["-o", "type=cacheonly"], flags].concat()).succeeds().count("CACHED");
    modes(0o700, 0o711, 0o600);
    let out = space.build_files(&["--context-modes=normalize"]);
    assert_eq!(fs::read_to_string(out.join("modes")).expect("modes"), "755 /dir/sub\n755 /dir/sub/run\n644 /dir/sub/text\n");
    modes(0o775, 0o775, 0o664);
    assert_eq!(cached(&["--context-modes=normalize"]), 2);
    // a file that became one to execute is another file
    modes(0o775, 0o775, 0o764);
    assert_eq!(cached(&["--context-modes=normalize"]), 0);
    let out = space.build_files(&["--context-modes=as-is"]);
    assert_eq!(fs::read_to_string(out.join("modes")).expect("modes"), "775 /dir/sub\n775 /dir/sub/run\n764 /dir/sub/text\n");
    assert_eq!(cached(&[]), 2);
    modes(0o775, 0o775, 0o664);
    assert_eq!(cached(&[]), 0);
}

#[test]
fn a_context_says_what_it_holds_and_what_costs_most() {
    let space = Space::new();
    space.dockerfile("FROM scratch\n").write("ctx/.dockerignore", "node_modules\n*.log\n!keep.log\n");
    space.write("ctx/src/main.c", vec![b'x'; 3000]).write("ctx/src/deep/util.c", vec![b'x'; 500]);
    space.write("ctx/node_modules/a/b.js", vec![b'x'; 70_000]).write("ctx/node_modules/c.js", "");
    space.write("ctx/build.log", vec![b'x'; 2000]).write("ctx/keep.log", vec![b'x'; 100]);
    let listed = space.croze(["context", "ls", "ctx"]).succeeds().stdout;
    let expected = "\
PATH           SIZE    FILES  IGNORED  FILES
src/           3.5 kB  2      -        -
keep.log       100 B   1      -        -
.dockerignore  29 B    1      -        -
Dockerfile     13 B    1      -        -
node_modules/  -       -      70.0 kB  2
build.log      -       -      2.0 kB   1
all            3.6 kB  5      72.0 kB  3

LARGEST FILES    SIZE
src/main.c       3.0 kB
src/deep/util.c  500 B
keep.log         100 B
.dockerignore    29 B
Dockerfile       13 B

IGNORED BY                     SIZE     FILES
.dockerignore:1: node_modules  70.0 kB  2
.dockerignore:2: *.log         2.0 kB   1
";
    assert_eq!(listed, expected);
    let json = space.croze(["context", "ls", "--format", "json", "ctx"]).succeeds().stdout;
    let json: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!((&json["offered"]["bytes"], &json["ignored"]["files"]), (&3642.into(), &3.into()), "{json}");
    assert_eq!(json["ignoreFile"], ".dockerignore");
    // an ignore file beside the Dockerfile is that Dockerfile's
    space.write("ctx/other.Dockerfile", "FROM scratch\n").write("ctx/other.Dockerfile.dockerignore", "src\n");
    let json = space.croze(["context", "ls", "-f", "ctx/other.Dockerfile", "--format=json", "ctx"]).succeeds().stdout;
    let json: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!(
        (&json["ignored"]["bytes"], &json["ignoredBy"][0]["pattern"]),
        (&3500.into(), &"other.Dockerfile.dockerignore:1: src".into())
    );
    let gone = space.croze(["context", "ls", "gone"]);
    assert_eq!(gone.code, Some(2), "{}", gone.stderr);
    assert!(gone.stderr.contains("error: unable to prepare context: path `gone` not found\n"), "{}", gone.stderr);
}
