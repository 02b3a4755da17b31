//! Registries through the program: log-ins, pushes and pulls against Debian's `docker-registry`.

mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt;

use common::{Registry, Space, judge, skip_unless};

/// `me:s3cret` in base64.
const KEPT: &str = "bWU6czNjcmV0";

#[test]
fn a_log_in_is_tried_and_kept_where_docker_keeps_it() {
    if !skip_unless("a_log_in_is_tried_and_kept_where_docker_keeps_it", &["docker-registry"]) {
        return;
    }
    let (space, registry) = (Space::new(), Registry::start_private());
    let host = registry.host.as_str();
    let log_in = |password: &str| space.croze_with_input(["login", "-u", "me", "--password-stdin", host], password.as_bytes());

    log_in("wrong").fails(3, &format!("error: {host} refuses the log-in as user `me` (status 401)"));
    assert!(!space.path(".docker").exists());
    space.write(".docker/config.json", r#"{"currentContext": "here"}"#);
    let run = log_in("s3cret\n").succeeds();
    assert_eq!(run.stdout, "Login Succeeded\n");
    assert!(!run.stderr.contains("s3cret") && run.stderr.contains("not encrypted"), "{}", run.stderr);
    let config = space.read_json(".docker/config.json");
    assert_eq!((&config["auths"][host]["auth"], &config["currentContext"]), (&KEPT.into(), &"here".into()));
    let mode = fs::metadata(space.path(".docker/config.json")).expect("there").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);

    let logged_out = format!("Removed the credentials for {host}\n");
    assert_eq!(space.croze(["logout", host]).succeeds().stdout, logged_out);
    assert!(!space.read(".docker/config.json").contains(KEPT));
    assert_eq!(space.croze(["logout", host]).succeeds().stdout, format!("Not logged in to {host}\n"));
}

#[test]
fn a_helper_keeps_what_it_is_given() {
    if !skip_unless("a_helper_keeps_what_it_is_given", &["docker-registry"]) {
        return;
    }
    let (space, registry) = (Space::new(), Registry::start_private());
    let host = registry.host.as_str();
    space.write(".docker/config.json", format!(r#"{{"credHelpers": {{"{host}": "box"}}}}"#));
    let helper = r#"#!/bin/sh
case $1 in
    store) cat > "$HOME/box" ;;
    get) cat > "$HOME/asked"; cat "$HOME/box" 2>/dev/null || { echo "credentials not found in native keychain"; exit 1; } ;;
    erase) cat > "$HOME/asked"; rm "$HOME/box" ;;
esac
"#;
    space.write("bin/docker-credential-box", helper).executable("bin/docker-credential-box");
    let path = format!("{}:{}", space.text_path("bin"), std::env::var("PATH").unwrap_or_default());
    let croze = |arguments: &[&str]| common::run(space.command(arguments).env("PATH", &path));

    croze(&["login", "-u", "me", "-p", "s3cret", host]).succeeds();
    assert_eq!(space.read_json("box")["Secret"], "s3cret");
    assert_eq!(space.read_json(".docker/config.json")["auths"][host], serde_json::json!({}));
    space.dockerfile(&format!("FROM {host}/none:1\n"));
    let build = croze(&["build", "ctx"]);
    assert!(build.stderr.contains("does not exist"), "the registry let us in: {}", build.stderr);
    assert_eq!(space.read("asked"), host);
    croze(&["logout", host]).succeeds();
    assert!(!space.path("box").exists());
    let build = croze(&["build", "ctx"]);
    assert!(build.stderr.contains("without credentials"), "{}", build.stderr);
    fs::remove_file(space.path("bin/docker-credential-box")).expect("there");
    let error = format!(
        "error: credential helper `docker-credential-box`, which `{}` names, fails: it is not installed",
        space.text_path(".docker/config.json")
    );
    croze(&["logout", host]).fails(5, &error);
}

#[test]
fn a_file_of_credentials_that_is_none_is_named() {
    if !skip_unless("a_file_of_credentials_that_is_none_is_named", &["docker-registry"]) {
        return;
    }
    let (space, registry) = (Space::new(), Registry::start_private());
    space.write("auth.json", "{\"auths\": {\n\"h\": \"s3cret\"}}").dockerfile(&format!("FROM {}/none:1\n", registry.host));
    let run = common::run(space.command(["build", "ctx"]).env("REGISTRY_AUTH_FILE", space.path("auth.json")));
    assert_eq!(run.code, Some(5), "{}", run.stderr);
    assert!(
        run.stderr.contains("is no file of credentials: see line 2, column") && !run.stderr.contains("s3cret"),
        "{}",
        run.stderr
    );
}

#[test]
fn what_is_pushed_is_what_others_and_we_pull() {
    if !skip_unless("what_is_pushed_is_what_others_and_we_pull", &["docker-registry", "skopeo"]) {
        return;
    }
    let (space, registry) = (Space::with_busybox(), Registry::start_private());
    let host = registry.host.as_str();
    space.croze(["login", "-u", "me", "-p", "s3cret", host]).succeeds();
    space.dockerfile("FROM busybox\nRUN echo made > /made\nLABEL a=b\n");
    let (one, two) = (format!("{host}/team/app:1"), format!("{host}/team/app:latest"));
    let run = space.build(&["--push", "-t", &one, "-t", &two, "--metadata-file", "meta.json"]).succeeds();
    let meta = space.read_json("meta.json");
    let digest = meta["containerimage.digest"].as_str().expect("text").to_owned();
    assert_eq!(meta["image.name"], format!("{one},{two}"));
    assert!(run.stderr.contains(&format!("pushing manifest for {one}@{digest}")), "{}", run.stderr);

    let image = format!("docker://{one}");
    let inspected = judge("skopeo", &["inspect", "--tls-verify=false", "--creds", "me:s3cret", &image]);
    let inspected: serde_json::Value = serde_json::from_str(&inspected.stdout).expect("JSON");
    assert_eq!((inspected["Digest"].as_str(), &inspected["Labels"]["a"]), (Some(digest.as_str()), &"b".into()));
    assert_eq!(inspected["Layers"].as_array().map(Vec::len), Some(2));

    // the image of the store is the same one
    let again = space.croze(["push", &two]).succeeds();
    assert_eq!(again.stdout, format!("{two}@{digest}\n"));
    assert_eq!(again.stderr, "blobs: 3 there before\n");

    let other = Space::new();
    let auth = space.read(".docker/config.json");
    other.write(".docker/config.json", auth);
    let pulled = other.croze(["pull", &format!("{host}/team/app@{digest}")]).succeeds();
    assert_eq!(pulled.stdout, format!("{}\n", meta["containerimage.config.digest"].as_str().expect("text")));
    other.croze(["pull", &one]).succeeds();
    assert_eq!(other.croze(["push", &one]).succeeds().stderr, "blobs: 3 there before\n");
    other.dockerfile(&format!("FROM {one}\nCOPY --from={two} /made /again\n"));
    let files = other.build_files(&[]);
    assert_eq!(fs::read_to_string(files.join("again")).expect("there"), "made\n");
}

#[test]
fn what_a_host_has_is_taken_over_and_not_sent() {
    if !skip_unless("what_a_host_has_is_taken_over_and_not_sent", &["docker-registry"]) {
        return;
    }
    let (shop, registry) = (Space::with_busybox(), Registry::start());
    let name = |repository: &str| format!("{}/{repository}:1", registry.host);
    shop.dockerfile("FROM busybox\nRUN echo base > /base\n");
    shop.build(&["--push", "-t", &name("base")]).succeeds();

    // an image on a base that came from the same host
    let space = Space::new();
    space.croze(["pull", &name("base")]).succeeds();
    space.dockerfile(&format!("FROM {}\nCOPY Dockerfile /own\n", name("base")));
    space.build(&["-t", &name("app"), "-t", &name("other")]).succeeds();
    let run = space.croze(["push", &name("app"), &name("other")]).succeeds();
    assert_eq!(run.stderr, "blobs: 2 sent, 2 taken over\nblobs: 4 taken over\n");
    // and by a build
    let run = space.build(&["--push", "-t", &name("built")]).succeeds();
    assert!(run.stderr.contains("pushing manifest for"), "{}", run.stderr);
    let fresh = Space::new();
    for repository in ["app", "other", "built"] {
        fresh.croze(["pull", &name(repository)]).succeeds();
    }
}

#[test]
fn a_push_by_digest_sets_no_tag() {
    if !skip_unless("a_push_by_digest_sets_no_tag", &["docker-registry"]) {
        return;
    }
    let (space, registry) = (Space::with_busybox(), Registry::start());
    let host = registry.host.as_str();
    space.dockerfile("FROM busybox\nCOPY Dockerfile /\n");
    let output = format!("type=image,name={host}/app,push=true,push-by-digest=true,name-canonical=true");
    space.build(&["-o", &output, "--metadata-file", "meta.json"]).succeeds();
    let digest = space.read_json("meta.json")["containerimage.digest"].as_str().expect("text").to_owned();
    let other = Space::new();
    other.croze(["pull", &format!("{host}/app@{digest}")]).succeeds();
    // an index with an attestation goes whole, and its image comes back
    space.build(&["-o", &output.replace("/app", "/told"), "--provenance=true", "--metadata-file", "meta.json"]).succeeds();
    let told = space.read_json("meta.json")["containerimage.digest"].as_str().expect("text").to_owned();
    assert_ne!(told, digest);
    other.croze(["pull", &format!("{host}/told@{told}")]).succeeds();
    let run = other.croze(["pull", &format!("{host}/app:latest")]);
    assert_eq!(run.code, Some(3), "{}", run.stderr);
    space.build(&["--push"]).fails(2, "error: a push needs a name: `-t HOST/REPOSITORY:TAG`, or `name=` in the output");
}

#[test]
fn an_authority_of_the_users_own_is_trusted_where_it_is_named() {
    if !skip_unless("an_authority_of_the_users_own_is_trusted_where_it_is_named", &["docker-registry", "openssl"]) {
        return;
    }
    let (space, registry) = (Space::with_busybox(), Registry::start_tls());
    let name = format!("{}/app:1", registry.host);
    space.dockerfile("FROM busybox\nCOPY Dockerfile /\n");
    let config = format!("[registry.\"{}\"]\n", registry.host);
    let push = || space.build(&["--push", "-t", &name]);

    space.write(".config/croze/config.toml", format!("{config}ca = \"{}\"\n", registry.ca().display()));
    push().succeeds();
    // Docker's way says the same
    fs::remove_file(space.path(".config/croze/config.toml")).expect("there");
    let place = format!(".config/croze/certs.d/{}/ca.crt", registry.host);
    space.write(&place, fs::read(registry.ca()).expect("there"));
    push().succeeds();
    space.write(".config/croze/config.toml", format!("{config}insecure = true\n"));
    push().succeeds();
    space.write(".config/croze/config.toml", format!("{config}isecure = true\n"));
    let run = push();
    assert_eq!(run.code, Some(2), "{}", run.stderr);
    assert!(run.stderr.contains("unknown field `isecure`") && run.stderr.contains("config.toml:2:1"), "{}", run.stderr);
}
