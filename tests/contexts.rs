//! Contexts and Dockerfiles from elsewhere, and the times that they lend a build.

mod common;

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
