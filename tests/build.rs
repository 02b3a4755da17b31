//! Whole builds through the binary: samples, caches, outputs, failures, interruption.

mod common;

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use common::{Registry, Space, judge, sample, skip_unless};

#[test]
fn the_hello_sample_builds() {
    let space = Space::with_busybox();
    let output = format!("type=local,dest={}", space.text_path("out"));
    space.croze(["build", "-o", &output, &sample("hello")]).succeeds();
    assert_eq!(space.read("out/app/greeting.txt"), "hello, world\n");
}

#[test]
fn the_stages_of_the_multi_sample_meet() {
    let space = Space::with_busybox();
    let output = format!("type=local,dest={}", space.text_path("out"));
    space.croze(["build", "--build-arg", "LAST=2", "-o", &output, &sample("multi")]).succeeds();
    assert_eq!(
        space.read("out/srv/site/index.html"),
        "<h1>Words</h1>\nBilge\nChime\nCroze\nHoop\nStave\n<h1>Squares</h1>\n1 squared is 1\n2 squared is 4\n"
    );
}

#[test]
fn a_second_build_runs_nothing_and_gives_the_same_image() {
    let space = Space::with_busybox();
    let build = || space.croze(["build", "-q", &sample("multi")]).succeeds().stdout;
    let first = build();
    assert_eq!(build(), first);
    let third = space.croze(["build", &sample("multi")]).succeeds();
    assert!(third.stderr.contains("(all "), "{}", third.stderr);
}

#[test]
fn the_id_is_the_same_everywhere() {
    let space = Space::with_busybox();
    space.dockerfile("FROM busybox\nENV A=1\n");
    let flags = ["-q", "-t", "app", "--iidfile", "iid", "--metadata-file", "metadata.json"];
    let run = space.build(&flags).succeeds();
    assert_eq!(run.stderr, "");
    assert_eq!(run.stdout, space.read("iid") + "\n");
    let metadata = space.read_json("metadata.json");
    assert_eq!(metadata["containerimage.config.digest"], space.read("iid"));
    assert_eq!(metadata["containerimage.descriptor"]["digest"], metadata["containerimage.digest"]);
    assert_eq!(metadata["image.name"], "docker.io/library/app:latest");
}

#[test]
fn the_last_image_that_was_written_is_told_of() {
    let space = Space::with_busybox();
    space.dockerfile("FROM busybox\nCOPY Dockerfile /\n");
    let told = |flags: &[&str]| {
        let run = space.build(&[flags, &["-q", "--iidfile", "iid", "--metadata-file", "metadata.json"]].concat()).succeeds();
        assert_eq!(run.stdout, space.read("iid") + "\n");
        space.read_json("metadata.json")
    };
    let index = |archive: &str| -> serde_json::Value {
        let text = judge("tar", &["xOf", &space.text_path(archive), "index.json"]).stdout;
        serde_json::from_str(&text).expect("JSON")
    };
    let outputs = ["-o", "type=oci,dest=1.tar,name=x:1", "-o", "type=oci,dest=2.tar,compression=uncompressed", "-o", "out"];
    let metadata = told(&[&outputs[..], &["-t", "a:1"]].concat());
    let (first, last) = (&index("1.tar")["manifests"][0], &index("2.tar")["manifests"][0]);
    assert_ne!(first["digest"], last["digest"]);
    let descriptor = &metadata["containerimage.descriptor"];
    assert_eq!((&descriptor["digest"], &metadata["containerimage.digest"]), (&last["digest"], &last["digest"]));
    let created = "org.opencontainers.image.created";
    assert_eq!(descriptor["annotations"], serde_json::json!({created: last["annotations"][created]}));
    // a name of `-t` is every image's
    assert_eq!(metadata["image.name"], "docker.io/library/a:1");
    assert_eq!(first["annotations"]["io.containerd.image.name"], "docker.io/library/a:1");

    let metadata = told(&["-o", "type=image,name=b"]);
    assert_eq!((&metadata["image.name"], &metadata["containerimage.descriptor"]["annotations"]), (&"b".into(), &().into()));
    for output in ["type=cacheonly", "type=local,dest=out"] {
        let metadata = told(&["-o", output, "-t", "a:1"]);
        let keys: Vec<&String> = metadata.as_object().expect("an object").keys().collect();
        assert_eq!(keys, ["buildx.build.provenance", "buildx.build.ref"], "{output}");
        assert_eq!(space.read("iid").is_empty(), output == "type=cacheonly");
    }
}

#[test]
fn what_is_cached_needs_no_secret() {
    let space = Space::with_busybox();
    let text =
        "FROM busybox\nCOPY given /\nRUN --mount=type=secret,id=key,required cat /run/secrets/key > /got\nRUN touch /done\n";
    space.write("ctx/given", "1").write("key", "k").dockerfile(text);
    let refused = space.build(&[]);
    assert_eq!((refused.code, refused.stderr.contains("secret `key` was not given")), (Some(2), true), "{}", refused.stderr);
    let image = space.build(&["-q", "--secret", &format!("id=key,src={}", space.text_path("key"))]).succeeds().stdout;
    assert_eq!(space.build(&["-q"]).succeeds().stdout, image);
    space.write("ctx/given", "2");
    let refused = space.build(&[]);
    assert_eq!(refused.code, Some(2), "{}", refused.stderr);
    assert_eq!(refused.stderr.matches("was not given to this build\n").count(), 2, "by the first step and by its place");
    assert!(refused.stderr.contains("COPY given /\n#5 ERROR: "), "before the work: {}", refused.stderr);
}

#[test]
fn a_failed_build_leaves_no_files_of_a_former_one() {
    let space = Space::with_busybox();
    space.dockerfile("FROM busybox\nRUN false\n").write("iid", "old").write("metadata.json", "{}");
    let run = space.build(&["--iidfile", "iid", "--metadata-file", "metadata.json"]);
    assert_eq!(run.code, Some(1), "{}", run.stderr);
    assert!(!space.path("iid").exists() && !space.path("metadata.json").exists());
}

#[test]
fn a_failed_step_says_what_where_and_its_last_words() {
    let space = Space::with_busybox();
    space.dockerfile("FROM busybox\nRUN echo one; mkae all\n");
    space.build(&[]).fails(
        1,
        "error: `RUN` did not complete successfully: exit code 127: command not found\n \
         --> Dockerfile:2:1\n  |\n\
         2 | RUN echo one; mkae all\n  \
         | ^^^^^^^^^^^^^^^^^^^^^^\n  |\n  \
         = note: the last lines of its output:\n          one\n          /bin/sh: mkae: not found\n",
    );
}

#[test]
fn the_dockerfile_may_come_on_standard_input() {
    let space = Space::with_busybox();
    space.write("ctx/file", "content\n");
    let output = format!("type=local,dest={}", space.text_path("out"));
    space.croze_with_input(["build", "-f", "-", "-o", &output, "ctx"], b"FROM scratch\nCOPY file /\n").succeeds();
    assert_eq!(space.read("out/file"), "content\n");
}

#[test]
fn plain_progress_reads_as_buildkits() {
    let space = Space::with_busybox();
    space.dockerfile("FROM busybox\nRUN echo out; echo err >&2\n");
    let run = space.build(&["--progress=plain"]).succeeds();
    let step = run.stderr.lines().find(|line| line.ends_with("RUN echo out; echo err >&2")).expect("the step has a header");
    let number = step.split_whitespace().next().expect("headers begin with a number");
    let lines: Vec<&str> = run.stderr.lines().filter(|line| line.starts_with(&format!("{number} "))).collect();
    let last_words: Vec<&str> = lines[1..3].iter().filter_map(|line| line.split_whitespace().nth(2)).collect();
    assert_eq!(last_words, ["out", "err"]);
    assert!(lines[3].starts_with(&format!("{number} DONE 0.")), "{}", run.stderr);
    assert_eq!(run.stdout, "");
}

#[test]
fn other_tools_accept_the_archive() {
    if !skip_unless("other_tools_accept_the_archive", &["skopeo", "umoci"]) {
        return;
    }
    let space = Space::with_busybox();
    let layout = space.text_path("layout");
    let output = format!("type=oci,dest={layout},tar=false");
    space.croze(["build", "-t", "multi:1", "-o", &output, &sample("multi")]).succeeds();
    let inspected = judge("skopeo", &["inspect", "--config", &format!("oci:{layout}:1")]);
    assert!(inspected.stdout.contains("croze sample"), "{}", inspected.stdout);
    let bundle = space.text_path("bundle");
    judge("umoci", &["unpack", "--image", &format!("{layout}:1"), &bundle]);
    let page = fs::read_to_string(space.path("bundle/rootfs/srv/site/index.html")).expect("umoci wrote the page");
    assert!(page.starts_with("<h1>Words</h1>\n"), "{page}");
}

#[test]
fn an_interrupted_build_ends_with_130() {
    let space = Space::with_busybox();
    space.dockerfile("FROM busybox\nRUN echo it runs; sleep 600\n");
    let mut command = space.command(["build", "--progress=plain", "ctx"]);
    let mut child = command.stderr(Stdio::piped()).spawn().expect("croze starts");
    let mut lines = BufReader::new(child.stderr.take().expect("piped")).lines().map_while(Result::ok);
    assert!(lines.any(|line| line.ends_with(" it runs")), "the step never ran");
    let killed = Command::new("kill").args(["-INT", &child.id().to_string()]).status().expect("kill starts");
    assert!(killed.success());
    let rest: Vec<String> = lines.collect();
    assert_eq!(child.wait().expect("croze ends").code(), Some(130), "{rest:?}");
    assert_eq!(rest.last().map(String::as_str), Some("croze: interrupted; finished steps are kept"));
}

#[test]
fn a_base_comes_from_a_registry_once() {
    if !skip_unless("a_base_comes_from_a_registry_once", &["skopeo", "docker-registry"]) {
        return;
    }
    let (space, registry) = (Space::with_busybox(), Registry::start());
    space.write("base/Dockerfile", "FROM busybox\nRUN echo base > /base\n");
    space.croze(["build", "-o", "type=oci,dest=base.tar", "base"]).succeeds();
    let (from, to) = (format!("oci-archive:{}", space.text_path("base.tar")), format!("docker://{}/base:1", registry.host));
    judge("skopeo", &["copy", "--dest-tls-verify=false", &from, &to]);
    space.dockerfile(&format!("FROM {}/base:1\nCOPY --from=busybox /bin/busybox /copy\n", registry.host));
    let out = space.build_files(&[]);
    assert_eq!(fs::read_to_string(out.join("base")).expect("the base's file"), "base\n");
    drop(registry);
    // the name is in the store now, so that nobody is asked
    space.build(&[]).succeeds();
}

#[test]
fn the_registry_answers_once_it_has_started() {
    if !skip_unless("the_registry_answers_once_it_has_started", &["docker-registry"]) {
        return;
    }
    let registry = Registry::start();
    std::net::TcpStream::connect(&registry.host).expect("it listens");
}

#[test]
fn a_strict_build_finds_what_a_lenient_one_has_cached() {
    let space = Space::with_busybox();
    space.dockerfile("FROM busybox\nCOPY --chown=nobodyy Dockerfile *.nothing /x/\n");
    space.build(&[]).succeeds();
    let strict = space.build(&["--strict"]);
    assert_eq!(strict.code, Some(2), "{}", strict.stderr);
    for text in ["error: the image has no user `nobodyy`", "error: nothing matches `*.nothing`", "2 warnings are errors"] {
        assert!(strict.stderr.contains(text), "{text}: {}", strict.stderr);
    }
    space.build(&[]).succeeds();
}
