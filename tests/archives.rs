//! Images by name and as archives: load, save, tag, remove, history, what is said of them.

mod common;

use std::os::unix::fs::MetadataExt;

use common::{Space, judge, skip_unless};
use croze::export;
use serde_json::Value;

fn built() -> Space {
    let space = Space::with_busybox();
    space.dockerfile("FROM busybox\nLABEL a=b\nCOPY file /file\n").write("ctx/file", "content\n");
    space.build(&["-q", "-t", "app:1"]).succeeds();
    space
}

fn id(space: &Space, name: &str) -> Value {
    let inspected: Value = serde_json::from_str(&space.croze(["inspect", name]).succeeds().stdout).expect("JSON");
    inspected["config_digest"].clone()
}

#[test]
fn what_is_saved_can_be_loaded_and_built_upon() {
    let space = built();
    let saved = id(&space, "app:1");
    space.croze(["save", "-o", "app.tar", "app:1", "busybox"]).succeeds();
    let other = Space::new();
    let archive = space.text_path("app.tar");
    let loaded = other.croze(["load", "-i", &archive]).succeeds();
    assert_eq!(loaded.stdout, "app:1\nbusybox:latest\n");
    assert_eq!(id(&other, "app:1"), saved);
    other.dockerfile("FROM app:1\nRUN cp /file /copy\n");
    assert_eq!(std::fs::read_to_string(other.build_files(&[]).join("copy")).expect("there"), "content\n");
    // what was loaded is saved as it came
    other.croze(["save", "-o", "again.tar", "app:1", "busybox"]).succeeds();
    assert!(std::fs::read(other.path("again.tar")).expect("there") == std::fs::read(archive).expect("there"));
}

#[test]
fn archives_of_other_programs_are_loaded() {
    if !skip_unless("archives_of_other_programs_are_loaded", &["skopeo"]) {
        return;
    }
    let space = built();
    space.croze(["save", "-o", "app.tar", "app:1"]).succeeds();
    let source = format!("oci-archive:{}:1", space.text_path("app.tar"));
    // `docker save` as it was for years: layers as `HEX.tar`, links among them
    judge("skopeo", &["copy", &source, &format!("docker-archive:{}:old/app:2", space.text_path("old.tar"))]);
    judge("skopeo", &["copy", &source, &format!("oci-archive:{}:docker.io/new/app:3", space.text_path("new.tar"))]);
    for (archive, name) in [("old.tar", "old/app:2"), ("new.tar", "new/app:3")] {
        assert_eq!(space.croze(["load", "-i", archive]).succeeds().stdout, format!("{name}\n"));
        assert_eq!(id(&space, name), id(&space, "app:1"));
    }
    judge("gzip", &["-k", &space.text_path("new.tar")]);
    let input = std::fs::read(space.path("new.tar.gz")).expect("there");
    assert_eq!(space.croze_with_input(["load"], &input).succeeds().stdout, "new/app:3\n");
}

#[test]
fn what_is_no_archive_of_images_is_refused() {
    let space = built();
    let refused = |file: &str, why: &str| {
        let run = space.croze(["load", "-i", file]);
        assert_eq!(run.code, Some(2), "{}", run.stderr);
        assert!(run.stderr.starts_with(&format!("error: cannot load `{file}`: {why}")), "{}", run.stderr);
    };
    space.write("junk", "junk\n");
    refused("junk", "the layer is damaged");
    judge("tar", &["-C", &space.text_path("ctx"), "-cf", &space.text_path("files.tar"), "file"]);
    refused("files.tar", "it has neither `index.json` nor `manifest.json`");
    space.build(&["-o", "type=oci,tar=false,dest=layout"]).succeeds();
    let blob = std::fs::read_dir(space.path("layout/blobs/sha256")).expect("blobs").next().expect("one").expect("one").path();
    let good = std::fs::read(&blob).expect("read");
    std::fs::write(&blob, "other bytes").expect("writes");
    judge("tar", &["-C", &space.text_path("layout"), "-cf", &space.text_path("wrong.tar"), "."]);
    refused("wrong.tar", "its blob sha256:");
    std::fs::write(&blob, good).expect("writes");
}

#[test]
fn names_come_and_go() {
    let space = built();
    space.croze(["tag", "app:1", "example.com/other"]).succeeds();
    assert_eq!(id(&space, "example.com/other"), id(&space, "app:1"));
    assert_eq!(space.croze(["rmi", "app:1"]).succeeds().stdout, "app:1\n");
    let gone = "error: no image `app:1` in the store\n |\n = help: `croze images` lists what is there\n";
    space.croze(["rmi", "app:1"]).fails(2, gone);
    space.croze(["tag", "app:1", "x"]).fails(2, gone);
    space.croze(["save", "-o", "x.tar", "app:1"]).fails(2, gone);
    let history = space.croze(["history", "example.com/other"]).succeeds().stdout;
    let made_by: Vec<&str> = history.lines().map(|line| line.rsplit("  ").next().unwrap_or_default()).collect();
    assert_eq!(made_by, ["CREATED BY", "COPY file /file # buildkit", "LABEL a=b", "croze import"]);
}

#[test]
fn statements_lie_beside_the_image() {
    let space = Space::with_busybox();
    let status = "Package: tool\nStatus: install ok installed\nArchitecture: all\nVersion: 1.0-1\n";
    space.dockerfile("FROM busybox\nARG V=1\nCOPY status /var/lib/dpkg/status\n").write("ctx/status", status);
    let output = |name: &str| format!("type=oci,tar=false,dest={}", space.text_path(name));
    let flags = ["--provenance=mode=max", "--sbom", "-t", "app", "--build-arg", "V=2", "--metadata-file", "metadata.json"];
    let once = |name: &str| {
        let run = space
            .command([&["build", "-o", &output(name)], flags.as_slice(), &["ctx"]].concat())
            .env("SOURCE_DATE_EPOCH", "7")
            .output();
        common::Run::of(run.expect("croze starts")).succeeds();
        export::validate(&space.path(name)).expect("a valid layout");
        space.read_json(&format!("{name}/index.json"))["manifests"][0]["digest"].clone()
    };
    let digest = once("one");
    assert_eq!(once("two"), digest, "with an epoch the statements are the same each time");
    let blob = |descriptor: &Value| {
        let hex = descriptor["digest"].as_str().expect("a digest").trim_start_matches("sha256:").to_owned();
        space.read_json(&format!("one/blobs/sha256/{hex}"))
    };
    let index = blob(&space.read_json("one/index.json")["manifests"][0]);
    let (image, said) = (&index["manifests"][0], &index["manifests"][1]);
    assert_eq!(said["annotations"]["vnd.docker.reference.digest"], image["digest"]);
    let manifest = blob(said);
    assert_eq!(manifest["subject"]["digest"], image["digest"]);
    let (sbom, provenance) = (blob(&manifest["layers"][0]), blob(&manifest["layers"][1]));
    assert_eq!(sbom["predicateType"], "https://spdx.dev/Document");
    assert_eq!(sbom["predicate"]["packages"][0]["externalRefs"][0]["referenceLocator"], "pkg:deb/debian/tool@1.0-1?arch=all");
    assert_eq!(provenance["predicateType"], "https://slsa.dev/provenance/v1");
    let definition = &provenance["predicate"]["buildDefinition"];
    assert_eq!(definition["resolvedDependencies"][0]["uri"], "pkg:docker/busybox@latest?platform=linux%2Famd64");
    assert_eq!(definition["externalParameters"]["request"]["args"]["build-arg:V"], "2");
    let operations = &definition["internalParameters"]["buildConfig"]["llbDefinition"];
    assert_eq!(operations.as_array().map(Vec::len), Some(4), "two sources, a copy and the result: {operations}");
    assert_eq!(operations[2]["op"]["Op"]["file"]["actions"][0]["secondaryInput"], 1);
    assert_eq!((&operations[3]["op"]["Op"], &operations[3]["inputs"]), (&serde_json::json!({}), &serde_json::json!(["step2:0"])));
    // the Dockerfile itself, where BuildKit's documentation has people look for it
    let source = &provenance["predicate"]["runDetails"]["metadata"]["buildkit_metadata"]["source"];
    let text = std::fs::read(space.path("ctx/Dockerfile")).expect("there");
    let encoded = croze::base64::encode(&text);
    assert_eq!((&source["infos"][0]["filename"], &source["infos"][0]["data"]), (&"Dockerfile".into(), &encoded.into()));
    let lines = |line: u64| serde_json::json!({"locations": [{"ranges": [{"start": {"line": line}, "end": {"line": line}}]}]});
    assert_eq!((&source["locations"]["step0"], &source["locations"]["step2"]), (&lines(1), &lines(3)));
    // and the layers that each step's files are made of
    let bare =
        |layer: &Value| serde_json::json!({"mediaType": layer["mediaType"], "digest": layer["digest"], "size": layer["size"]});
    let layers: Vec<Value> = blob(image)["layers"].as_array().expect("layers").iter().map(bare).collect();
    let told = &provenance["predicate"]["runDetails"]["metadata"]["buildkit_metadata"]["layers"];
    assert_eq!(*told, serde_json::json!({"step0:0": [[layers[0]]], "step2:0": [layers]}));
    let metadata = space.read_json("metadata.json");
    assert_eq!(metadata["buildx.build.provenance"]["buildType"], "https://mobyproject.org/buildkit@v1");
    assert_eq!(metadata["containerimage.digest"], digest);
}

#[test]
fn little_is_told_unless_more_is_asked_for() {
    let space = Space::with_busybox();
    space.dockerfile("FROM busybox\nARG SECRET\nRUN true\n");
    space.build(&["--provenance", "--build-arg", "SECRET=hush", "-o", "type=oci,tar=false,dest=out"]).succeeds();
    let blobs = std::fs::read_dir(space.path("out/blobs/sha256")).expect("blobs");
    let statements: Vec<String> = blobs
        .filter_map(|entry| std::fs::read_to_string(entry.expect("entry").path()).ok())
        .filter(|text| text.contains("in-toto.io/Statement"))
        .collect();
    assert_eq!(statements.len(), 1);
    assert!(!statements[0].contains("hush") && statements[0].contains("pkg:docker/busybox@latest"));
    let message = "error: `type=docker` holds no attestations; write `type=oci`, or leave them out\n";
    space.build(&["--provenance", "-o", "type=docker,dest=x.tar"]).fails(2, message);
    space.build(&["--provenance=inline-only=true", "-o", "type=docker,dest=x.tar"]).succeeds();
}

/// The documents below the index of `layout`: the image's manifest and, if there is one, that of what is said of it.
fn manifests(space: &Space, layout: &str) -> Vec<Value> {
    let read = |descriptor: &Value| {
        let digest = descriptor["digest"].as_str().expect("a digest").replace(':', "/");
        space.read_json(&format!("{layout}/blobs/{digest}"))
    };
    export::validate(&space.path(layout)).expect("a valid layout");
    let top = read(&space.read_json(&format!("{layout}/index.json"))["manifests"][0]);
    match top["manifests"].as_array() {
        Some(entries) => entries.iter().map(read).collect(),
        None => vec![top],
    }
}

#[test]
fn a_definition_tells_steps_as_buildkit_does() {
    let space = Space::with_busybox();
    space
        .dockerfile(
            "FROM busybox AS a\nRUN --network=none --mount=type=secret,id=s,env=S --mount=type=bind,source=sub,target=/s echo 1 > /x\n\
             FROM busybox AS b\nCOPY --link --from=a /x /y\nUSER 3\nWORKDIR /w\nCOPY --chmod=u+x <<F /h\nhello\nF\n\
             FROM scratch\nCOPY --from=b / /\nCOPY sub/f .\n",
        )
        .write("ctx/sub/f", "f")
        .write("ctx/.dockerignore", "junk\n/*.md\n");
    space.build(&["--provenance=mode=max", "-o", "type=oci,tar=false,dest=out"]).succeeds();
    let said = &manifests(&space, "out")[1];
    let digest = said["layers"][0]["digest"].as_str().expect("a digest").replace(':', "/");
    let predicate = space.read_json(&format!("out/blobs/{digest}"))["predicate"].clone();
    let operations = &predicate["buildDefinition"]["internalParameters"]["buildConfig"]["llbDefinition"];
    // an empty tree is no step, a heredoc is one
    let step = |number: usize| (operations[number]["inputs"].clone(), operations[number]["op"]["Op"].clone());
    let inputs = |names: &[&str]| names.iter().map(|name| format!("{name}:0")).collect::<Value>();
    let (none, context) = step(1);
    assert_eq!(none, Value::Null);
    let lists = [r#"["junk","*.md"]"#, r#"["sub","sub/f"]"#];
    let attributes = &context["source"]["attrs"];
    assert_eq!([&attributes["local.excludepatterns"], &attributes["local.followpaths"]], lists);
    let (read, run) = step(2);
    assert_eq!(read, inputs(&["step0", "step1"]));
    assert_eq!(run["exec"]["secretenv"], serde_json::json!([{"ID": "s", "name": "S", "optional": true}]));
    assert_eq!(run["exec"]["mounts"].as_array().map(Vec::len), Some(2), "a variable is no mount");
    let (read, linked) = step(3);
    let action = &linked["file"]["actions"][0];
    assert_eq!((read, &action["input"], &action["secondaryInput"]), (inputs(&["step2"]), &(-1).into(), &0.into()));
    let (read, merged) = step(4);
    assert_eq!((read, &merged["merge"]["inputs"]), (inputs(&["step0", "step3"]), &serde_json::json!([{}, {"input": 1}])));
    let made = &step(5).1["file"]["actions"][0]["Action"]["mkdir"];
    assert_eq!(made["owner"], serde_json::json!({"user": {"User": {"byId": 3}}}));
    let (none, written) = step(6);
    assert_eq!((none, &written["file"]["actions"][0]["Action"]["mkfile"]["path"]), (Value::Null, &"/F".into()));
    let (read, copied) = step(7);
    let copy = &copied["file"]["actions"][0]["Action"]["copy"];
    assert_eq!(
        (read, &copy["src"], &copy["modeStr"], &copy["mode"]),
        (inputs(&["step5", "step6"]), &"/F".into(), &"u+x".into(), &Value::Null)
    );
    let metadata = &predicate["runDetails"]["metadata"];
    let lines = |step: &str| {
        let places =
            metadata["buildkit_metadata"]["source"]["locations"][step]["locations"].as_array().cloned().unwrap_or_default();
        places.iter().map(|place| place["ranges"][0]["start"]["line"].as_u64().expect("a line")).collect::<Vec<_>>()
    };
    assert_eq!((lines("step0"), lines("step1"), lines("step2")), (vec![3, 1], vec![], vec![2]));
    // stages that were copied from have no layers in the image
    let layers = metadata["buildkit_metadata"]["layers"].as_object().expect("layers");
    assert_eq!(layers.keys().collect::<Vec<_>>(), ["step8:0", "step9:0"]);
    let request = &predicate["buildDefinition"]["externalParameters"]["request"];
    assert_eq!(request["secrets"], serde_json::json!([{"id": "s", "optional": true}]));
    assert_eq!(metadata["buildkit_completeness"], serde_json::json!({"request": true, "resolvedDependencies": false}));
}

#[test]
fn statements_go_where_they_are_wanted_and_look_as_they_are_wanted() {
    let space = Space::with_busybox();
    space.dockerfile("FROM busybox\nLABEL a=b\n");
    let build = |provenance: &str, output: &str| {
        space.build(&["--attest", &format!("type=provenance,{provenance}"), "-o", output]).succeeds();
    };
    build("inline-only=true", "type=oci,tar=false,dest=without");
    assert_eq!(manifests(&space, "without").len(), 1);
    build("inline-only=true", "type=oci,tar=false,dest=with,attestation-inline=true");
    let said = &manifests(&space, "with")[1];
    assert_eq!(said["artifactType"], "application/vnd.docker.attestation.manifest.v1+json");
    build("mode=min", "type=oci,tar=false,dest=old,oci-artifact=false");
    let said = &manifests(&space, "old")[1];
    assert_eq!((&said["artifactType"], &said["subject"]), (&Value::Null, &Value::Null));
    assert_eq!(said["config"]["mediaType"], "application/vnd.oci.image.config.v1+json");
    let digest = said["config"]["digest"].as_str().expect("a digest").replace(':', "/");
    let expected = serde_json::json!({"architecture": "unknown", "os": "unknown", "config": {}, "rootfs": {"type": "layers", "diff_ids": [said["layers"][0]["digest"]]}});
    assert_eq!(space.read_json(&format!("old/blobs/{digest}")), expected);
    build("builder-id=me,reproducible=true,filename=how.json", "files");
    let predicate = &space.read_json("files/how.json")["predicate"];
    assert_eq!(
        (&predicate["runDetails"]["builder"]["id"], &predicate["runDetails"]["metadata"]["buildkit_reproducible"]),
        (&"me".into(), &true.into())
    );
    build("inline-only=true", "plain");
    assert!(!space.path("plain/provenance.json").exists());
}

#[test]
fn statements_about_plain_files_lie_among_them() {
    let space = Space::with_busybox();
    space
        .dockerfile("FROM scratch\nCOPY x /dir/x\nCOPY provenance.json /\n")
        .write("ctx/x", "x")
        .write("ctx/provenance.json", "mine");
    let build = |flags: &[&str]| {
        let run = space
            .command([&["build", "--provenance", "--sbom"], flags, &["ctx"]].concat())
            .env("SOURCE_DATE_EPOCH", "7")
            .output();
        common::Run::of(run.expect("croze starts")).succeeds();
    };
    build(&["-o", "out"]);
    let said = space.read_json("out/provenance.json");
    assert_eq!(said["predicateType"], "https://slsa.dev/provenance/v1");
    let subject = |path: &str, content: &str| serde_json::json!({"name": path, "digest": {"sha256": croze::digest::Digest::of(content.as_bytes()).hex()}});
    assert_eq!(said["subject"], serde_json::json!([subject("dir/x", "x"), subject("provenance.json", "mine")]));
    assert_eq!(space.read_json("out/sbom.spdx.json")["predicateType"], "https://spdx.dev/Document");
    let metadata = std::fs::metadata(space.path("out/provenance.json")).expect("there");
    assert_eq!((metadata.mode() & 0o7777, metadata.mtime()), (0o600, 7));

    build(&["-o", "type=tar,dest=out.tar,attestation-prefix=a.", "--platform", "linux/amd64,linux/arm64"]);
    let listed = judge("tar", &["tf", &space.text_path("out.tar")]).stdout;
    let of = |platform: &str| {
        ["", "a.provenance.json", "a.sbom.spdx.json", "dir/", "dir/x", "provenance.json"].map(|name| format!("{platform}/{name}"))
    };
    assert_eq!(listed.lines().collect::<Vec<_>>(), [of("linux_amd64"), of("linux_arm64")].concat());

    // what two platforms have together would clash, but their statements are told apart
    space.dockerfile("FROM scratch\nARG TARGETARCH\nCOPY x /$TARGETARCH\n");
    build(&["-o", "type=local,dest=both,platform-split=false", "--platform", "linux/amd64,linux/arm64"]);
    for name in ["provenance.linux_amd64.json", "sbom.spdx.linux_arm64.json", "amd64", "arm64"] {
        assert!(space.path("both").join(name).is_file(), "{name}");
    }
}

#[test]
fn what_the_image_lacks_is_deleted_on_request_alone() {
    let space = Space::with_busybox();
    space.dockerfile("FROM scratch\nCOPY x /dir/x\n").write("ctx/x", "x");
    let stale = || {
        space.write("out/dir/old", "").write("out/gone/deep/old", "").write("out/dir/x", "old").write("kept", "");
        std::os::unix::fs::symlink("..", space.path("out/link")).expect("a link");
    };
    stale();
    space.build(&["-o", "out"]).succeeds();
    assert!(space.path("out/gone/deep/old").is_file());
    std::fs::remove_file(space.path("out/link")).expect("there");
    stale();
    space.build(&["-o", "type=local,dest=out,mode=delete"]).succeeds();
    let left = judge("find", &[&space.text_path("out"), "-mindepth", "1", "-printf", "%P\n"]).stdout;
    assert_eq!(left, "dir\ndir/x\n");
    assert!(space.path("kept").is_file(), "links are not followed");
    // a directory that is not below the working directory takes a word more
    let output = format!("type=local,dest={},mode=delete", space.text_path(""));
    space.build(&["-o", &output]).fails(
        4,
        &format!(
            "error: `mode=delete` would delete files in `{}`\n |\n = note: the directory is not below the working directory\n = help: pass `--allow buildx.local.delete` if that is meant",
            space.text_path("")
        ),
    );
    space.write("elsewhere/old", "").write("elsewhere/here/x", "");
    let run = space
        .command(["build", "--allow", "buildx.local.delete", "-o", "type=local,dest=..,mode=delete", "../../ctx"])
        .current_dir(space.path("elsewhere/here"))
        .output();
    common::Run::of(run.expect("croze starts")).succeeds();
    assert!(!space.path("elsewhere/old").exists() && space.path("elsewhere/dir/x").is_file());
}

#[test]
fn images_are_shown_as_docker_shows_them() {
    let space = built();
    let shown = |arguments: &[&str]| space.croze(arguments).succeeds().stdout;
    assert_eq!(shown(&["inspect", "-f", "{{.Config.Labels}} {{index .RepoTags 0}} {{.Os}}", "app:1"]), "map[a:b] app:1 linux\n");
    let id = id(&space, "app:1");
    assert_eq!(shown(&["inspect", "--format={{.Id}}", "app:1"]), format!("{}\n", id.as_str().expect("text")));
    let json: Value = serde_json::from_str(&shown(&["inspect", "--format", "json", "app:1"])).expect("JSON");
    assert_eq!(
        (json["RootFS"]["Layers"].as_array().map(Vec::len), json["Layers"][1]["DiffID"].clone()),
        (Some(2), json["RootFS"]["Layers"][1].clone())
    );
    space
        .croze(["inspect", "--format", "{{.Id", "app:1"])
        .fails(2, "error: the template of `--format` cannot be used: `{{` is not closed\n");

    assert_eq!(shown(&["images", "-q", "--no-trunc", "app"]), format!("{}\n", id.as_str().expect("text")));
    assert_eq!(shown(&["images", "--format", "{{.Repository}}:{{.Tag}}"]), "app:1\nbusybox:latest\n");
    assert_eq!(
        shown(&["images", "--format", r"table {{.Repository}}\t{{.Tag}}"]),
        "REPOSITORY   TAG\napp          1\nbusybox      latest\n"
    );
    for (filter, expected) in [("reference=bus*", "busybox\n"), ("reference=app:2", ""), ("label=a", "app\n"), ("label=a=c", "")]
    {
        assert_eq!(shown(&["images", "--filter", filter, "--format", "{{.Repository}}"]), expected, "{filter}");
    }
    let refused = "error: invalid value for `--filter`: `x=y` is not one of `reference=PATTERN`, `label=KEY[=VALUE]`\n";
    space.croze(["images", "-f", "x=y"]).fails(2, refused);
}

#[test]
fn what_tells_images_apart() {
    let space = built();
    space.dockerfile(
        "FROM busybox\nLABEL a=c d=e\nCOPY --chmod=600 file /file\nRUN mkdir -p /new/deep && chown 5 /bin && rm /bin/busybox\nENV X=1\n",
    );
    space.write("ctx/file", "tnetnoc\n");
    space.build(&["-q", "-t", "app:2"]).succeeds();
    let apart = |left: &str, right: &str| space.croze(["diff", left, right]).succeeds().stdout;
    assert_eq!(apart("app:1", "app:1"), "");
    let expected = "A Env.X: \"1\"\nC Labels.a: \"b\" -> \"c\"\nA Labels.d: \"e\"\n\
                    C /bin (owner)\nD /bin/busybox\nC /file (content, mode)\nA /new/\n";
    assert_eq!(apart("app:1", "app:2"), expected);
    assert!(apart("app:2", "app:1").contains("A /bin/busybox\n"));
}

/// What the test's scanner does: a statement for each tree, of what it sees there.
const SCAN: &str = r#"#!/bin/sh
set -e
test "$1" = arg && test "$(id -u)" = 0 && test "$PWD" = /w && test "$X" = y
for tree in "$BUILDKIT_SCAN_SOURCE" "$BUILDKIT_SCAN_SOURCE_EXTRAS"/*; do
    [ -d "$tree" ] || continue
    ! touch "$tree/new" 2>/dev/null
    files=$(cd "$tree" && find . -type f -name 'pk*' | sort | tr '\n' ' ')
    printf '{"predicateType":"https://spdx.dev/Document","predicate":{"files":"%s","level":"%s"}}' "$files" "$BUILDKIT_SCAN_LEVEL" \
        > "$BUILDKIT_SCAN_DESTINATION/$(basename "$tree").spdx.json"
done
"#;

#[test]
fn a_scanner_of_the_users_choice_scans_what_is_built() {
    let space = Space::with_busybox();
    let scanner = |script: &str, rest: &str| {
        space.write("scanner/scan", script);
        let text = format!("FROM busybox\nCOPY --chmod=755 scan /scan\nENV X=y\nWORKDIR /w\nUSER 5\n{rest}\n");
        space.write("scanner/Dockerfile", text);
        space.croze(["build", "-q", "-t", "scanner", "scanner"]).succeeds();
    };
    scanner(SCAN, "ENTRYPOINT [\"/scan\"]\nCMD [\"arg\"]");
    space.write("ctx/pk3", "").dockerfile(
        "ARG BUILDKIT_SBOM_SCAN_CONTEXT=true\n\
         FROM busybox AS tools\nARG BUILDKIT_SBOM_SCAN_STAGE=true\nRUN mkdir /t && touch /t/pk1\n\
         FROM busybox AS unseen\nARG BUILDKIT_SBOM_SCAN_STAGE=others\nRUN touch /pk5\n\
         FROM scratch\nCOPY --from=tools /t/pk1 /pk2\nCOPY --from=unseen /pk5 /x\nCOPY pk3 /pk4\n",
    );
    let flags = ["--sbom=generator=scanner,LEVEL=deep", "--progress=plain", "-o", "type=oci,tar=false,dest=layout", "-o", "out"];
    let first = space.build(&flags).succeeds();
    assert!(first.stderr.contains("[linux/amd64] generating sbom using docker.io/library/scanner:latest"), "{}", first.stderr);
    export::validate(&space.path("layout")).expect("a valid layout");
    let blob = |descriptor: &Value| {
        let hex = descriptor["digest"].as_str().expect("a digest").trim_start_matches("sha256:").to_owned();
        space.read_json(&format!("layout/blobs/sha256/{hex}"))
    };
    let index = blob(&space.read_json("layout/index.json")["manifests"][0]);
    let manifest = blob(&index["manifests"][1]);
    let statements: Vec<Value> = manifest["layers"].as_array().expect("layers").iter().map(blob).collect();
    let files: Vec<&Value> = statements.iter().map(|statement| &statement["predicate"]["files"]).collect();
    assert_eq!(files, ["./pk2 ./pk4 ", "./pk3 ", "./t/pk1 "]);
    assert!(statements.iter().all(|statement| statement["predicate"]["level"] == "deep"));
    assert_eq!(statements[0]["_type"], "https://in-toto.io/Statement/v1");
    assert_eq!(space.read_json("out/sbom-tools.spdx.json")["predicate"]["files"], "./t/pk1 ");
    // what was scanned once is not scanned again
    let again = space.build(&flags).succeeds();
    assert!(again.endings().iter().all(|ending| *ending != "ERROR"));
    assert!(again.stderr.contains("steps cached") && !again.stderr.contains(" ran"), "{}", again.stderr);

    scanner("#!/bin/sh\necho cannot scan\nexit 3\n", "ENTRYPOINT [\"/scan\"]");
    let name = "[linux/amd64] generating sbom using docker.io/library/scanner:latest";
    space.build(&flags).fails(
        1,
        &format!("error: `{name}` did not complete successfully: exit code 3\n |\n = note: the last lines of its output:\n         cannot scan"),
    );
    scanner("#!/bin/sh\necho hello > $BUILDKIT_SCAN_DESTINATION/x\n", "ENTRYPOINT [\"/scan\"]");
    space.build(&flags).fails(
        1,
        "error: the scanner left `/run/out/x`, which is no in-toto statement: expected value at line 1 column 1\n |\n \
         = help: a scanner writes one in-toto statement per file to `$BUILDKIT_SCAN_DESTINATION`",
    );
    scanner("", "ENTRYPOINT []\nCMD []");
    space.build(&flags).fails(
        2,
        "error: the scanner `scanner:latest` names no command to run\n |\n \
         = help: it is an image whose `ENTRYPOINT` or `CMD` follows BuildKit's SBOM protocol",
    );
}
