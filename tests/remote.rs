//! Registries through the program: log-ins, pushes and pulls against Debian's `docker-registry`.

mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt;

use common::{Registry, Space, skip_unless};

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
