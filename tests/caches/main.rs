//! Caches that travel: what one machine leaves in a directory or a registry is there for another with an empty store.

mod azure;
mod bucket;
#[path = "../common/mod.rs"]
mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use azure::Azure;
use bucket::Bucket;
use common::{Registry, Run, Space, skip_unless};

/// Two stages; what depends on `a.txt` is above what depends on `b.txt`.
const DOCKERFILE: &str = "\
FROM busybox AS build
WORKDIR /src
COPY a.txt .
RUN cat a.txt > a.out
COPY b.txt .
RUN cat a.out b.txt > out
FROM busybox
RUN echo base > /base
COPY --from=build /src/out /out
";

/// A machine with an empty store, apart from the base image, and the context.
fn machine() -> Space {
    let space = Space::with_busybox();
    space.dockerfile(DOCKERFILE).write("ctx/a.txt", "a\n").write("ctx/b.txt", "b\n");
    space
}

/// What a build says below the steps of this name, their endings left out.
fn said(run: &Run, step: &str) -> Vec<String> {
    let named = |line: &str| {
        let (number, name) = line.strip_prefix('#')?.split_once(' ')?;
        (name == step).then(|| format!("#{number} "))
    };
    let prefixes: Vec<String> = run.stderr.lines().filter_map(named).collect();
    let lines = run.stderr.lines().filter_map(|line| prefixes.iter().find_map(|prefix| line.strip_prefix(prefix)));
    lines.filter(|line| *line != step && !line.starts_with("DONE")).map(str::to_owned).collect()
}

/// Steps of the Dockerfile that ran, by their words.
fn ran(run: &Run) -> Vec<String> {
    let mut ran = Vec::new();
    for line in run.stderr.lines() {
        let Some((number, name)) = line.strip_prefix('#').and_then(|line| line.split_once(' ')) else { continue };
        let is_step = ["[build ", "[stage-1 "].iter().any(|stage| name.starts_with(stage)) && !name.contains("FROM");
        if is_step && run.stderr.contains(&format!("\n#{number} DONE")) {
            let words = name.split_once("] ").map_or(name, |(_, words)| words).to_owned();
            if !ran.contains(&words) {
                ran.push(words);
            }
        }
    }
    ran.sort();
    ran
}

fn image_of(space: &Space, flags: &[&str]) -> String {
    space.build(&[&["-q"], flags].concat()).succeeds().stdout
}

#[test]
fn a_directory_brings_results_to_an_empty_store() {
    let (first, second) = (machine(), machine());
    let cache = first.text_path("cache");
    let image = image_of(&first, &["--cache-to", &format!("type=local,dest={cache},mode=max")]);
    let built = second.build(&["--cache-from", &format!("type=local,src={cache}")]).succeeds();
    assert_eq!(said(&built, &format!("importing cache manifest from {cache}")), ["it has 7 results"]);
    assert_eq!((ran(&built), built.count("CACHED")), (Vec::new(), 7), "{}", built.stderr);
    // times of creation came along, so even the image is the same
    assert_eq!(image_of(&second, &[]), image);
}

#[test]
fn explain_says_which_cache_has_a_result() {
    let (first, second) = (machine(), machine());
    let cache = first.text_path("cache");
    first.build(&["--cache-to", &format!("type=local,dest={cache},mode=max")]).succeeds();
    let from = format!("type=local,src={cache}");
    let built = second.build(&["--explain", "--cache-from", &from]).succeeds();
    let told = format!("[stage-1 2/3] RUN echo base > /base\n    hit\n      because it is in the cache `{cache}`\n");
    assert!(built.stderr.contains(&told), "{}", built.stderr);
    // it is in the store now
    let again = second.build(&["--explain", "--cache-from", &from]).succeeds();
    assert!(again.stderr.contains("[stage-1 2/3] RUN echo base > /base\n    hit\n[stage-1 3/3]"), "{}", again.stderr);
}

#[test]
fn explain_says_what_a_cache_lacks() {
    let (first, second) = (machine(), machine());
    let cache = first.text_path("cache");
    let explained = |space: &Space, text: &str| {
        space.dockerfile(text);
        let from = format!("type=local,src={cache}");
        space.build(&["--progress=none", "--explain", "--cache-from", &from]).succeeds().stderr
    };
    first.dockerfile("FROM busybox\nRUN echo a > /a\nRUN cat /a > /b\n");
    first.build(&["--cache-to", &format!("type=local,dest={cache},mode=max")]).succeeds();
    let told = explained(&second, "FROM busybox\nRUN echo a > /a\nRUN cat /a > /c\n");
    let expected = format!(
        "[2/3] RUN echo a > /a\n    hit\n      because it is in the cache `{cache}`\n\
         [3/3] RUN cat /a > /c\n    ran\n      because never built here, and not in the cache `{cache}`\n"
    );
    assert!(told.ends_with(&expected), "{told}");
    layers(Path::new(&cache)).iter().for_each(|path| fs::remove_file(path).expect("removed"));
    let told = explained(&machine(), "FROM busybox\nRUN echo a > /a\nRUN cat /a > /c\n");
    let expected = format!(
        "[2/3] RUN echo a > /a\n    ran\n      \
         because never built here, and in the cache `{cache}`, whose files for it cannot be had\n"
    );
    assert!(told.contains(&expected), "{told}");
}

#[test]
fn a_command_that_changes_nothing_on_an_empty_machine_takes_over_the_layer_of_the_cache() {
    let (first, second) = (machine(), machine());
    let cache = first.text_path("cache");
    let text = "FROM busybox\nRUN : V; echo a > /a; touch -d '2001-01-01 00:00:00' /a\nRUN cat /a > /b\n";
    let build = |space: &Space, value: &str, flags: &[&str]| {
        let more = ["-t", "app", "--explain"];
        let run = space.dockerfile(&text.replace('V', value)).build(&[&more[..], flags].concat()).succeeds();
        let layers = space.croze(["inspect", "-f", "{{json .RootFS.Layers}}", "app"]).succeeds().stdout;
        (run, layers)
    };
    let (_, former) = build(&first, "1", &["--cache-to", &format!("type=local,dest={cache},mode=max")]);
    // more than a second later files that the command itself makes have other times
    let began = Instant::now();
    while began.elapsed() < Duration::from_millis(1100) {
        thread::sleep(Duration::from_millis(50));
    }
    let next = second.text_path("next");
    let to = format!("type=local,dest={next},mode=max");
    let (run, layers) = build(&second, "2", &["--cache-from", &format!("type=local,src={cache}"), "--cache-to", &to]);
    assert!(run.stderr.contains("    adopted: it ran and left what it had left before\n"), "{}", run.stderr);
    assert_eq!(said(&run, &format!("importing cache manifest from {cache}")), ["it has 2 results"]);
    assert_eq!((run.count("CACHED"), layers), (1, former.clone()), "{}", run.stderr);
    // and so on, from machine to machine
    let third = machine();
    let (run, layers) = build(&third, "3", &["--cache-from", &format!("type=local,src={next}")]);
    assert_eq!((run.count("CACHED"), layers), (1, former), "{}", run.stderr);
}

#[test]
fn a_registry_brings_results_and_what_changed_runs() {
    if !skip_unless("a_registry_brings_results_and_what_changed_runs", &["docker-registry"]) {
        return;
    }
    let (registry, first, second) = (Registry::start(), machine(), machine());
    let name = format!("{}/app/cache:main", registry.host);
    let to = format!("type=registry,ref={name},mode=max");
    let built = first.build(&["--cache-to", &to]).succeeds();
    let sent = said(&built, "exporting cache to registry");
    assert!(sent[0].starts_with("sent 7 layers, "), "{sent:?}");
    let built = first.build(&["--cache-to", &to]).succeeds();
    assert_eq!(said(&built, "exporting cache to registry")[0], "sent 0 layers, 0 bytes; 7 were there");
    second.write("ctx/b.txt", "other\n");
    let built = second.build(&["--cache-from", &name, "--cache-to", &to]).succeeds();
    let expected = ["COPY --from=build /src/out /out", "COPY b.txt .", "RUN cat a.out b.txt > out"];
    assert_eq!(ran(&built), expected, "{}", built.stderr);
    let sent = said(&built, "exporting cache to registry");
    assert!(sent[0].starts_with("sent 3 layers, ") && sent[0].ends_with("; 4 were there"), "{sent:?}");
    let third = machine();
    third.write("ctx/b.txt", "other\n");
    assert_eq!(ran(&third.build(&["--cache-from", &name]).succeeds()), Vec::<String>::new());
}

#[test]
fn min_carries_layers_of_the_image_and_others_are_made_where_they_are_needed() {
    let (first, second, third) = (machine(), machine(), machine());
    let cache = first.text_path("cache");
    let built = first.build(&["--cache-to", &format!("type=local,dest={cache}")]).succeeds();
    let sent = said(&built, "exporting cache to client directory");
    assert!(sent[0].starts_with("sent 2 layers, "), "{sent:?}");
    let from = format!("type=local,src={cache}");
    second.write("ctx/b.txt", "other\n");
    let built = second.build(&["--cache-from", &from]).succeeds();
    assert!(!said(&built, "doing without a part of the cache").is_empty(), "{}", built.stderr);
    let out = second.build_files(&[]);
    assert_eq!(fs::read_to_string(out.join("out")).expect("read"), "a\nother\n");
    assert_eq!(image_of(&third, &["--cache-from", &from]), image_of(&first, &[]));
}

#[test]
fn layers_are_fetched_where_they_are_read() {
    let (first, second) = (machine(), machine());
    let cache = first.text_path("cache");
    first.build(&["--cache-to", &format!("type=local,dest={cache},mode=max")]).succeeds();
    let flags = ["-o", "type=cacheonly", "--cache-from", &format!("type=local,src={cache}")];
    let built = second.build(&flags).succeeds();
    assert_eq!((built.count("CACHED"), said(&built, "fetching layers from caches")), (7, Vec::new()), "{}", built.stderr);
    // a command starts from the three layers below the copy that changed; where the copy goes is known without them
    second.write("ctx/b.txt", "other\n");
    let built = second.build(&flags).succeeds();
    assert_eq!(ran(&built).len(), 3, "{}", built.stderr);
    let fetched = said(&built, "fetching layers from caches");
    assert!(fetched[0].starts_with("3 layers, "), "{fetched:?}");
    // a name that the root does not have is known from all that it has; what nobody has asked for has to be looked at
    second.dockerfile("FROM busybox\nRUN echo base > /base\nCOPY a.txt /elsewhere/\n");
    assert_eq!(said(&second.build(&flags).succeeds(), "fetching layers from caches"), Vec::<String>::new());
    second.dockerfile("FROM busybox\nRUN echo base > /base\nCOPY a.txt /bin/\n");
    let built = second.build(&flags).succeeds();
    assert_eq!(said(&built, "fetching layers from caches")[0].split(',').next(), Some("1 layer"), "{}", built.stderr);
}

#[test]
fn a_machine_that_was_told_tells_the_next() {
    let (first, second, third) = (machine(), machine(), machine());
    let (cache, next) = (first.text_path("cache"), first.text_path("next"));
    first.build(&["--cache-to", &format!("type=local,dest={cache},mode=max")]).succeeds();
    let cacheonly = ["-o", "type=cacheonly"];
    let (from, to) = (format!("type=local,src={cache}"), format!("type=local,dest={next},mode=max"));
    second.build(&[&cacheonly[..], &["--cache-from", &from, "--cache-to", &to]].concat()).succeeds();
    let built = third.build(&[&cacheonly[..], &["--cache-from", &format!("type=local,src={next}")]].concat()).succeeds();
    assert_eq!((built.count("CACHED"), said(&built, "fetching layers from caches")), (7, Vec::new()), "{}", built.stderr);
}

#[test]
fn a_bucket_brings_what_is_read_and_no_more() {
    let (bucket, first, second) = (Bucket::start(), machine(), machine());
    let place = format!(
        "type=s3,bucket=b,region=eu-west-1,endpoint_url=http://{},use_path_style=true,prefix=p/,name=one;two,access_key_id=id,secret_access_key=s",
        bucket.host
    );
    // a layer that nobody reads is one whose size shows
    let text = DOCKERFILE.replace("RUN echo base > /base", "RUN head -c 1000000 /dev/urandom > /base");
    first.dockerfile(&text).build(&["--cache-to", &format!("{place},mode=max")]).succeeds();
    let names = bucket.names();
    let expected = ["/b/p/manifests/one", "/b/p/manifests/two"];
    assert!(expected.iter().all(|name| names.iter().any(|known| known == name)), "{names:?}");
    assert_eq!(names.iter().filter(|name| name.starts_with("/b/p/blobs/sha256%3A")).count(), 8, "{names:?}");
    second.dockerfile(&text).write("ctx/b.txt", "other\n");
    let built = second.build(&["-o", "type=cacheonly", "--cache-from", &place]).succeeds();
    assert_eq!((ran(&built).len(), built.count("CACHED")), (3, 4), "{}", built.stderr);
    assert!(said(&built, "fetching layers from caches")[0].starts_with("3 layers, "), "{}", built.stderr);
    assert!(bucket.sent_bytes() < 20_000, "{} bytes were sent", bucket.sent_bytes());
    // without its keys the build goes on
    let place = place.replace("access_key_id=id", "access_key_id=other");
    let built = second.build(&["-o", "type=cacheonly", "--cache-from", &place]).succeeds();
    let url = format!("http://{}/b/p/manifests/one", bucket.host);
    let told = said(&built, "importing cache manifest from s3://b/p/one");
    assert_eq!(told, [format!("{url} answers with status 403; the build goes on without it")]);
}

fn bucket_flag(bucket: &Bucket) -> String {
    let Bucket { host, .. } = bucket;
    format!("type=s3,bucket=b,region=r,endpoint_url=http://{host},use_path_style=true,access_key_id=id,secret_access_key=s")
}

#[test]
fn layers_are_sent_while_other_steps_run() {
    let (bucket, space) = (Bucket::start(), Space::with_busybox());
    // the second step ends when the layer of the first one has arrived
    let wait = format!(
        "n=0; until wget -q -O /dev/null http://{}{}; do sleep 0.1; n=$((n+1)); [ $n -lt 1200 ] || exit 9; done",
        bucket.host,
        bucket::ARRIVED
    );
    space.dockerfile(&format!("FROM busybox\nRUN echo first > /first\nRUN --network=host {wait}\n"));
    let to = bucket_flag(&bucket);
    let built = space.build(&["--allow", "network.host", "--cache-to", &to]).succeeds();
    let sent = said(&built, "exporting cache to Amazon S3");
    assert!(sent[0].starts_with("sent 2 layers, "), "{sent:?}");
}

#[test]
fn a_large_blob_goes_in_parts() {
    let (bucket, first, second) = (Bucket::start(), Space::with_busybox(), Space::with_busybox());
    let text = "FROM busybox\nRUN head -c 40000000 /dev/urandom > /big\n";
    let flag = bucket_flag(&bucket);
    first.dockerfile(text).build(&["--cache-to", &format!("{flag},compression=uncompressed")]).succeeds();
    assert!(bucket.names().contains(&"parts/3".to_owned()), "{:?}", bucket.names());
    // all of them, in their order
    let built = second.dockerfile(text).build(&["--cache-from", &flag]).succeeds();
    assert_eq!(said(&built, "fetching layers from caches")[0].split(',').next(), Some("1 layer"), "{}", built.stderr);
}

#[test]
fn a_container_brings_results_to_an_empty_store() {
    let (azure, first, second) = (Azure::start(), machine(), machine());
    let place = format!("{},container=c,prefix=p/,name=one;two", azure.container());
    let text = DOCKERFILE.replace("RUN echo base > /base", "RUN head -c 40000000 /dev/urandom > /base");
    let to = format!("{place},mode=max,compression=uncompressed");
    let built = first.dockerfile(&text).build(&["--cache-to", &to]).succeeds();
    assert!(said(&built, "exporting cache to Azure Blob Storage")[0].starts_with("sent 7 layers, "), "{}", built.stderr);
    let names = azure.names();
    let expected = ["/mine/c/p/manifests/one", "/mine/c/p/manifests/two"];
    assert!(expected.iter().all(|name| names.iter().any(|known| known == name)), "{names:?}");
    assert_eq!(names.iter().filter(|name| name.starts_with("/mine/c/p/blobs/sha256%3A")).count(), 8, "{names:?}");
    let again = first.build(&["--cache-to", &to]).succeeds();
    assert_eq!(said(&again, "exporting cache to Azure Blob Storage")[0], "sent 0 layers, 0 bytes; 7 were there");
    assert_eq!(azure.refused(), 0);
    second.dockerfile(&text).write("ctx/b.txt", "other\n");
    let built = second.build(&["--cache-from", &place, "-o", "out"]).succeeds();
    assert_eq!((ran(&built).len(), second.read("out/out")), (3, "a\nother\n".to_owned()), "{}", built.stderr);
    assert_eq!(fs::metadata(second.path("out/base")).expect("there").len(), 40_000_000);
    // without its key the build goes on
    let place = format!("type=azblob,account_url=http://{}/mine,container=c,prefix=p", azure.host);
    let built = machine().build(&["-o", "type=cacheonly", "--cache-from", &place]).succeeds();
    let told = said(&built, &format!("importing cache manifest from azblob://{}/mine/c/p/buildkit", azure.host));
    let url = format!("http://{}/mine/c/p/manifests/buildkit", azure.host);
    assert_eq!(told, [format!("{url} answers with status 403: AuthenticationFailed; the build goes on without it")]);
}

#[test]
fn a_workflow_finds_what_its_branch_and_the_branch_below_have_left() {
    let azure = Azure::start();
    let url = format!("http://{}/", azure.host);
    let flag = |branches: &[(&str, u32)]| format!("type=gha,url_v2={url},token={},scope=app", Azure::token(branches));
    let (main, feature) = (flag(&[("refs/heads/main", 3)]), flag(&[("refs/heads/feature", 3), ("refs/heads/main", 1)]));
    let to = |flag: &str| format!("{flag},mode=max");
    let cacheonly = ["-o", "type=cacheonly"];
    let build = |space: &Space, flags: &[&str]| space.build(&[&cacheonly[..], flags].concat()).succeeds();
    let built = build(&machine(), &["--cache-to", &to(&main)]);
    assert!(said(&built, "exporting to GitHub Actions Cache")[0].starts_with("sent 7 layers, "), "{}", built.stderr);
    let second = machine();
    second.write("ctx/b.txt", "other\n");
    let built = build(&second, &["--cache-from", &feature, "--cache-to", &to(&feature)]);
    assert_eq!((ran(&built).len(), built.count("CACHED")), (3, 4), "{}", built.stderr);
    let sent = said(&built, "exporting to GitHub Actions Cache");
    assert!(sent[0].starts_with("sent 3 layers, ") && sent[0].ends_with("; 4 were there"), "{sent:?}");
    // both branches at once: the own one's result of the change, and the other's of what was before
    let third = machine();
    assert_eq!(build(&third, &["--cache-from", &feature]).count("CACHED"), 7);
    third.write("ctx/b.txt", "other\n");
    assert_eq!(build(&third, &["--cache-from", &feature]).count("CACHED"), 7);
    // a later version of the document takes the place of the former one
    third.write("ctx/b.txt", "third\n");
    build(&third, &["--cache-from", &main, "--cache-to", &to(&main)]);
    let fourth = machine();
    fourth.write("ctx/b.txt", "third\n");
    assert_eq!(build(&fourth, &["--cache-from", &main]).count("CACHED"), 7);
    assert_eq!(azure.refused(), 0);
    // another name, and a token that is none
    let told = |flag: &str, name: &str| {
        said(&build(&machine(), &["--cache-from", flag]), &format!("importing cache manifest from {name}"))
    };
    let absent = main.replace("scope=app", "scope=other");
    assert_eq!(told(&absent, "gha:other"), ["there is no cache at `gha:other`; the build goes on without it"]);
    let refused = format!("type=gha,url_v2={url},token=x,scope=app");
    let why = format!("{url}twirp/github.actions.results.api.v1.CacheService/GetCacheEntryDownloadURL answers with status 401");
    assert_eq!(told(&refused, "gha:app"), [format!("{why}: no such token; the build goes on without it")]);
}

#[test]
fn a_hit_that_nobody_reads_goes_from_cache_to_cache() {
    if !skip_unless("a_hit_that_nobody_reads_goes_from_cache_to_cache", &["docker-registry"]) {
        return;
    }
    let (registry, first, second) = (Registry::start(), machine(), machine());
    let [one, other] = ["one", "other"].map(|name| format!("{}/{name}:cache", registry.host));
    first.build(&["--cache-to", &format!("type=registry,ref={one},mode=max")]).succeeds();
    let cacheonly = ["-o", "type=cacheonly", "--cache-from", &one];
    let moved = |to: &str| second.build(&[&cacheonly[..], &["--cache-to", to]].concat()).succeeds();
    // the registry takes them from its other repository
    let built = moved(&format!("type=registry,ref={other},mode=max"));
    assert_eq!(said(&built, "exporting cache to registry")[0], "sent 0 layers, 0 bytes; 7 were there");
    assert_eq!(said(&built, "fetching layers from caches"), Vec::<String>::new());
    // elsewhere their blobs have to be carried, but nobody unpacks them
    let next = second.text_path("next");
    let built = moved(&format!("type=local,dest={next},mode=max"));
    assert!(said(&built, "exporting cache to client directory")[0].starts_with("sent 7 layers, "), "{}", built.stderr);
    assert_eq!(fs::read_dir(second.path("store/layers")).expect("a store").count(), 1);
    for from in [other, format!("type=local,src={next}")] {
        let third = machine();
        let out = third.build_files(&["--cache-from", &from]);
        assert_eq!(fs::read_to_string(out.join("out")).expect("read"), "a\nb\n", "{from}");
    }
}

#[test]
fn what_is_only_pushed_goes_from_registry_to_registry() {
    if !skip_unless("what_is_only_pushed_goes_from_registry_to_registry", &["docker-registry"]) {
        return;
    }
    let (registry, first, second) = (Registry::start(), machine(), Space::new());
    let [base, cache, app] = ["base:1", "app/cache:main", "app/image:main"].map(|name| format!("{}/{name}", registry.host));
    first.croze(["import", common::busybox_tar(), &base]).succeeds();
    first.croze(["push", &base]).succeeds();
    let text = DOCKERFILE.replace("FROM busybox", &format!("FROM {base}"));
    let to = format!("type=registry,ref={cache},mode=max");
    first.dockerfile(&text).build(&["--cache-to", &to]).succeeds();
    // neither the base image nor a result of the cache comes to this machine
    second.dockerfile(&text).write("ctx/a.txt", "a\n").write("ctx/b.txt", "b\n");
    let built = second.build(&["--cache-from", &cache, "--push", "-t", &app]).succeeds();
    assert_eq!((ran(&built), said(&built, "fetching layers from caches")), (Vec::new(), Vec::new()), "{}", built.stderr);
    assert_eq!(fs::read_dir(second.path("store/layers")).expect("a store").count(), 0);
    let image = first.build(&["-q", "-t", &app]).succeeds().stdout;
    assert_eq!(second.build(&["-q", "--cache-from", &cache, "--push", "-t", &app]).succeeds().stdout, image);
    // its name stands for what the registry has
    assert!(!second.croze(["images"]).succeeds().stdout.contains("app/image"));
    let third = Space::new();
    third.dockerfile(&format!("FROM {app}\nRUN cat /out > /read\n"));
    assert_eq!(fs::read_to_string(third.build_files(&[]).join("read")).expect("a file"), "a\nb\n");
    // another registry has to be sent what nobody here unpacks
    let other = Registry::start();
    let elsewhere = format!("{}/app:main", other.host);
    let built = second.build(&["--cache-from", &cache, "--push", "-t", &elsewhere]).succeeds();
    assert_eq!(said(&built, "fetching layers from caches")[0].split(',').next(), Some("2 layers"), "{}", built.stderr);
    assert_eq!(fs::read_dir(second.path("store/layers")).expect("a store").count(), 0);
    let fourth = Space::new();
    fourth.dockerfile(&format!("FROM {elsewhere}\n"));
    assert_eq!(fs::read_to_string(fourth.build_files(&[]).join("out")).expect("a file"), "a\nb\n");
    // what the cache names and does not have any more is made here
    let fifth = machine();
    let local = fifth.path("cache");
    first.build(&["--cache-to", &format!("type=local,dest={},mode=max", local.display())]).succeeds();
    layers(&local).iter().for_each(|path| fs::remove_file(path).expect("removed"));
    let (from, elsewhere) = (format!("type=local,src={}", local.display()), format!("{}/another:main", other.host));
    let built = fifth.dockerfile(&text).build(&["--cache-from", &from, "--push", "-t", &elsewhere]).succeeds();
    assert!(!said(&built, "doing without a part of the cache").is_empty(), "{}", built.stderr);
    let sixth = Space::new();
    sixth.dockerfile(&format!("FROM {elsewhere}\n"));
    assert_eq!(fs::read_to_string(sixth.build_files(&[]).join("out")).expect("a file"), "a\nb\n");
}

#[test]
fn what_a_cache_names_without_holding_it_the_next_names_too() {
    let (first, second, third) = (machine(), machine(), machine());
    let [one, other] = ["one", "other"].map(|name| first.text_path(name));
    first.build(&["--cache-to", &format!("type=local,dest={one}")]).succeeds();
    let flags = |from: &str| ["-o".to_owned(), "type=cacheonly".into(), "--cache-from".into(), format!("type=local,src={from}")];
    let (from_one, from_other) = (flags(&one), flags(&other));
    let build = |space: &Space, flags: &[String], more: &[&str]| {
        space.build(&flags.iter().map(String::as_str).chain(more.iter().copied()).collect::<Vec<_>>()).succeeds()
    };
    let built = build(&second, &from_one, &["--cache-to", &format!("type=local,dest={other},mode=max")]);
    assert!(said(&built, "exporting cache to client directory")[0].starts_with("sent 2 layers, "), "{}", built.stderr);
    let built = build(&third, &from_other, &[]);
    assert_eq!((built.count("CACHED"), ran(&built)), (7, Vec::new()), "{}", built.stderr);
}

/// Fills its cache mount the first time, and says what it found there.
fn with_mount(word: &str) -> String {
    let fill = "mkdir -p /m/sub && head -c 6000000 /dev/urandom > /m/sub/old && chmod 600 /m/sub/old && ln -s old /m/sub/link";
    let text = "FROM busybox\nRUN --mount=type=cache,id=deps,target=/m,uid=7 [ -e /m/sub/old ] && cat /m/word || (FILL); \
                ls -ln /m/sub; echo WORD > /m/word\n";
    text.replace("FILL", fill).replace("WORD", word)
}

#[test]
fn cache_mounts_travel_and_what_changed_is_sent() {
    let (first, second, third) = (machine(), machine(), machine());
    let cache = first.text_path("cache");
    let (from, to) = (format!("type=local,src={cache}"), format!("type=local,dest={cache},mounts=all"));
    let built = first.dockerfile(&with_mount("one")).build(&["--cache-to", &to]).succeeds();
    let sent = said(&built, "exporting cache to client directory");
    let bytes = |line: &str, before: &str, after: &str| -> u64 {
        let (_, rest) = line.split_once(before).expect(line);
        rest.split(after).next().and_then(|text| text.parse().ok()).expect(line)
    };
    assert!(bytes(&sent[1], "1 cache mount: sent ", " byte") > 6_000_000, "{sent:?}");
    // warm on an empty machine
    second.dockerfile(&with_mount("two"));
    let built = second.build(&["--cache-from", &from, "--cache-to", &to]).succeeds();
    assert!(built.stderr.lines().any(|line| line.ends_with(" one")), "{}", built.stderr);
    assert!(built.stderr.contains("-rw-------    1 0        0          6000000"), "{}", built.stderr);
    let fetched = said(&built, "fetching layers from caches");
    assert!(fetched[0].starts_with("0 layers, 1 cache mount, 6"), "{fetched:?}");
    let sent = said(&built, "exporting cache to client directory");
    let (new, there) = (bytes(&sent[1], "sent ", " byte"), bytes(&sent[1], "; ", " were there"));
    assert!(new < 5_000_000 && there > 1_000_000, "{sent:?}");
    // a build that uses none leaves it in the cache
    let built = third.dockerfile(&with_mount("two")).build(&["--cache-from", &from, "--cache-to", &to]).succeeds();
    assert_eq!(built.count("CACHED"), 1, "{}", built.stderr);
    third.dockerfile(&with_mount("three"));
    let built = third.build(&["--cache-from", &from]).succeeds();
    assert!(built.stderr.lines().any(|line| line.ends_with(" two")), "{}", built.stderr);
}

#[test]
fn a_spoiled_cache_mount_begins_empty() {
    let (first, second) = (machine(), machine());
    let cache = first.path("cache");
    first
        .dockerfile(&with_mount("one"))
        .build(&["--cache-to", &format!("type=local,dest={},mounts=deps", cache.display())])
        .succeeds();
    for blob in fs::read_dir(cache.join("blobs/sha256")).expect("a cache").map(|entry| entry.expect("readable").path()) {
        if fs::metadata(&blob).expect("there").len() > 100_000 {
            fs::write(&blob, "other").expect("written");
        }
    }
    let built =
        second.dockerfile(&with_mount("two")).build(&["--cache-from", &format!("type=local,src={}", cache.display())]).succeeds();
    let expected = format!("a cache mount begins empty: the cache at `{}` has sha256:", cache.display());
    assert!(built.stderr.contains(&expected), "{}", built.stderr);
}

#[test]
fn an_image_takes_its_cache_along() {
    if !skip_unless("an_image_takes_its_cache_along", &["docker-registry"]) {
        return;
    }
    let (registry, first, second) = (Registry::start(), machine(), machine());
    let name = format!("{}/app:main", registry.host);
    first.build(&["--push", "-t", &name]).succeeds();
    let told = |space: &Space| {
        let built = space.build(&["-o", "type=cacheonly", "--cache-from", &name]).succeeds();
        (said(&built, &format!("importing cache manifest from {name}")), built.count("CACHED"))
    };
    let plain =
        format!("`{name}` is an image without a cache; `--cache-to type=inline` puts one in; the build goes on without it");
    assert_eq!(told(&machine()), (vec![plain], 0));
    first.build(&["--push", "-t", &name, "--cache-to", "type=inline"]).succeeds();
    assert_eq!(told(&second), (vec!["it has 7 results".to_owned()], 7));
    first.build(&["--push", "-t", &name, "--build-arg", "BUILDKIT_INLINE_CACHE=1"]).succeeds();
    let out = second.path("out");
    let built = second.build(&["--cache-from", &name, "-o", out.to_str().expect("text")]).succeeds();
    assert_eq!(said(&built, "fetching layers from caches")[0].split(',').next(), Some("2 layers"), "{}", built.stderr);
    assert_eq!(second.read("out/out"), "a\nb\n");
}

#[test]
fn cache_mounts_are_handled_one_by_one() {
    let (first, second) = (machine(), machine());
    let text = "FROM busybox\nRUN --mount=type=cache,id=deps,target=/m [ -e /m/f ] && echo found || echo WORD > /m/f\n";
    first.dockerfile(text).build(&[]).succeeds();
    let listed = first.croze(["cache-mount", "ls"]).succeeds().stdout;
    let rows: Vec<Vec<&str>> = listed.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!((rows[0][0], &rows[1][1..5], rows.len()), ("NAME", &["/deps", "0:0", "0755", "1"][..], 2), "{listed}");
    let shown = first.croze(["cache-mount", "inspect", "deps"]).succeeds().stdout;
    assert!(shown.starts_with("/deps\n    name ") && shown.contains("\n    1 file, "), "{shown}");
    let tar = second.text_path("mount.tar");
    first.croze(["cache-mount", "export", "deps", "-o", &tar]).succeeds();
    second.croze(["cache-mount", "import", "deps", "-i", &tar]).succeeds();
    let built = second.dockerfile(text).build(&["--progress", "plain"]).succeeds();
    assert!(built.stderr.lines().any(|line| line.ends_with(" found")), "{}", built.stderr);
    second.croze(["cache-mount", "rm", "deps"]).succeeds();
    let message = "error: no cache mount is called `deps`\n |\n = help: `croze cache-mount ls` lists all of them";
    second.croze(["cache-mount", "rm", "deps"]).fails(2, message);
    second.croze(["cache-mount", "export", "deps"]).fails(2, message);
}

#[test]
fn a_secret_takes_part_in_the_key_where_that_is_asked_for() {
    let (first, second) = (machine(), machine());
    let text = "FROM busybox\nRUN --mount=type=secret,id=token,target=/t wc -c < /t > /length\n";
    let build = |space: &Space, secret: &str, shared: Option<&str>, flags: &[&str]| {
        space.dockerfile(text).write("token", secret);
        let token = space.text_path("token");
        let flag = format!("id=token,src={token},cache-key=true");
        let mut command = space.command([&["build", "--explain", "--secret", &flag], flags, &["ctx"]].concat());
        if let Some(key) = shared {
            command.env("CROZE_SECRET_KEY", key);
        }
        common::run(&mut command).succeeds()
    };
    assert_eq!(build(&first, "one", None, &[]).count("CACHED"), 0);
    assert_eq!(build(&first, "one", None, &[]).count("CACHED"), 1);
    let built = build(&first, "other", None, &[]);
    assert!(built.stderr.contains("because the secret mounted at `/t` changed"), "{}", built.stderr);
    // a cache says nothing about the secret to those without the key
    let cache = first.text_path("cache");
    let (to, from) = (format!("type=local,dest={cache}"), format!("type=local,src={cache}"));
    build(&first, "one", Some("shared"), &["--cache-to", &to]);
    assert_eq!(build(&second, "one", None, &["--cache-from", &from]).count("CACHED"), 0);
    let third = machine();
    assert_eq!(build(&third, "one", Some("shared"), &["--cache-from", &from]).count("CACHED"), 1);
}

/// The blobs of a cache that are no documents.
fn layers(cache: &Path) -> Vec<PathBuf> {
    let blobs = fs::read_dir(cache.join("blobs/sha256")).expect("a cache").map(|entry| entry.expect("readable").path());
    let mut layers: Vec<PathBuf> = blobs.filter(|path| fs::read(path).expect("readable").starts_with(&[0x1f, 0x8b])).collect();
    layers.sort();
    layers
}

#[test]
fn layers_that_are_spoiled_or_gone_are_made_again() {
    type Spoil = fn(&Path);
    let ways: [(&str, Spoil); 4] = [
        ("other bytes", |path| fs::write(path, "other bytes").expect("written")),
        ("cut short", |path| {
            let bytes = fs::read(path).expect("read");
            fs::write(path, &bytes[..bytes.len() / 2]).expect("written");
        }),
        ("longer", |path| {
            let bytes = fs::read(path).expect("read");
            fs::write(path, [&bytes[..], &[0; 4096]].concat()).expect("written");
        }),
        ("gone", |path| fs::remove_file(path).expect("removed")),
    ];
    for (way, spoil) in ways {
        let (first, second) = (machine(), machine());
        let cache = first.path("cache");
        let to = format!("type=local,dest={},mode=max", cache.display());
        first.build(&["--cache-to", &to]).succeeds();
        layers(&cache).iter().for_each(|path| spoil(path));
        let built = second.build(&["--cache-from", &format!("type=local,src={}", cache.display())]).succeeds();
        let told = said(&built, "doing without a part of the cache");
        let known =
            told.iter().all(|line| line.starts_with("cannot fetch layer sha256:") && line.contains(" from the cache at `"));
        assert!(known && !told.is_empty(), "{way}: {}", built.stderr);
        let out = second.build_files(&[]);
        assert_eq!(fs::read_to_string(out.join("out")).expect("read"), "a\nb\n", "{way}");
        // and writing the cache again mends it
        let sent = said(&second.build(&["--cache-to", &to]).succeeds(), "exporting cache to client directory");
        assert!(sent[0].starts_with("sent 7 layers, "), "{way}: {sent:?}");
    }
}

#[test]
fn a_cache_that_gives_another_layer_for_a_result_is_not_believed() {
    let (first, second) = (machine(), machine());
    let cache = first.path("cache");
    first.build(&["--cache-to", &format!("type=local,dest={},mode=max", cache.display())]).succeeds();
    edit_config(&cache, |config| {
        let layers = config["layers"].as_array_mut().expect("layers");
        let blobs: Vec<[serde_json::Value; 2]> =
            layers.iter().map(|layer| [layer["blob"].clone(), layer["annotations"]["size"].clone()]).collect();
        let count = blobs.len();
        for (number, layer) in layers.iter_mut().enumerate() {
            let [blob, size] = blobs[(number + 1) % count].clone();
            layer["blob"] = blob;
            layer["annotations"]["size"] = size;
        }
    });
    let built = second.build(&["--cache-from", &format!("type=local,src={}", cache.display())]).succeeds();
    let told = said(&built, "doing without a part of the cache");
    assert!(told.iter().any(|line| line.contains("the layer's content is sha256:")), "{}", built.stderr);
    let out = second.build_files(&[]);
    assert_eq!(fs::read_to_string(out.join("out")).expect("read"), "a\nb\n");
}

/// Rewrites the document of a cache in a directory, and what names it.
fn edit_config(cache: &Path, edit: impl FnOnce(&mut serde_json::Value)) {
    let json = |path: &Path| -> serde_json::Value { serde_json::from_slice(&fs::read(path).expect("read")).expect("JSON") };
    let blob = |digest: &str| cache.join("blobs/sha256").join(digest.trim_start_matches("sha256:"));
    let put = |value: &serde_json::Value, descriptor: &mut serde_json::Value| {
        let bytes = serde_json::to_vec(value).expect("JSON");
        let digest = croze::digest::Digest::of(&bytes).to_string();
        fs::write(blob(&digest), &bytes).expect("written");
        descriptor["digest"] = digest.into();
        descriptor["size"] = bytes.len().into();
    };
    let mut index = json(&cache.join("index.json"));
    let mut manifest = json(&blob(index["manifests"][0]["digest"].as_str().expect("a digest")));
    let mut config = json(&blob(manifest["config"]["digest"].as_str().expect("a digest")));
    edit(&mut config);
    put(&config, &mut manifest["config"]);
    put(&manifest, &mut index["manifests"][0]);
    fs::write(cache.join("index.json"), serde_json::to_vec(&index).expect("JSON")).expect("written");
}

/// A build with a cache that cannot be used succeeds, and says why in these words.
#[track_caller]
fn goes_on(space: &Space, from: &str, place: &str, expected: &str) {
    let built = space.build(&["--no-cache", "-o", "type=cacheonly", "--cache-from", from]).succeeds();
    let told = said(&built, &format!("importing cache manifest from {place}"));
    assert_eq!(told, [format!("{expected}; the build goes on without it")]);
}

#[test]
fn a_cache_that_cannot_be_used_is_a_note() {
    let space = machine();
    space.dockerfile("FROM busybox\nRUN echo hello > /hello\n");
    let cache = space.path("cache");
    let (from, place) = (format!("type=local,src={}", cache.display()), cache.display().to_string());
    goes_on(&space, &from, &place, &format!("there is no cache at `{place}`"));
    let to = format!("type=local,dest={place}");
    space.build(&["--cache-to", &to]).succeeds();
    goes_on(&space, &format!("{from},tag=other"), &place, &format!("there is no cache at `{place}`"));
    edit_config(&cache, |config| config["croze"]["version"] = 7.into());
    let other = format!("the cache at `{place}` was written by another version of croze (format 7); nothing in it can be used");
    goes_on(&space, &from, &place, &other);
    edit_config(&cache, |config| drop(config.as_object_mut().expect("an object").remove("croze")));
    let foreign =
        format!("the cache at `{place}` was written by BuildKit, whose keys are not croze's; nothing in it can be used");
    goes_on(&space, &from, &place, &foreign);
    edit_config(&cache, |config| *config = serde_json::json!({"records": 1}));
    let malformed = "invalid type: integer `1`, expected a sequence at line 1 column 12";
    goes_on(&space, &from, &place, &format!("the cache at `{place}` is malformed: {malformed}"));
    fs::write(cache.join("index.json"), "{").expect("written");
    let malformed = "`index.json`: EOF while parsing an object at line 1 column 1";
    goes_on(&space, &from, &place, &format!("the cache at `{place}` is malformed: {malformed}"));
}

#[test]
fn a_registry_without_the_cache_or_the_right_is_a_note() {
    if !skip_unless("a_registry_without_the_cache_or_the_right_is_a_note", &["docker-registry"]) {
        return;
    }
    let space = machine();
    let registry = Registry::start();
    let name = format!("{}/app/cache:main", registry.host);
    goes_on(&space, &name, &name, &format!("there is no cache at `{name}`"));
    let closed = Registry::start_closed();
    let name = format!("{}/app/cache:main", closed.host);
    let built = space.build(&["--cache-from", &name, "-o", "type=cacheonly"]).succeeds();
    let told = said(&built, &format!("importing cache manifest from {name}"));
    let refused = format!("{} refuses access to `{name}` (status 401, without credentials)", closed.host);
    assert_eq!(told, [format!("{refused}; the build goes on without it")]);
}

#[test]
fn a_cache_that_cannot_be_written_fails_the_build_unless_that_does_not_matter() {
    let space = machine();
    space.write("file", "");
    let to = format!("type=local,dest={}", space.text_path("file/cache"));
    let run = space.build(&["--cache-to", &to]);
    let message = format!(
        "error: cannot create `{0}/blobs/sha256`\n |\n = note: not a directory\n = help: the image is built; with `ignore-error=true` in `--cache-to` this is a note\n",
        space.text_path("file/cache")
    );
    run.fails(5, &message);
    let run = space.build(&["--cache-to", &format!("{to},ignore-error=true")]).succeeds();
    let told = said(&run, "exporting cache to client directory");
    assert!(told[0].ends_with("not a directory; ignored, as `ignore-error` says"), "{told:?}");
}
