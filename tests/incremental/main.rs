//! Incremental builds against builds from nothing: a generator makes a Dockerfile and a context and changes one thing at a
//! time. After each change the incremental build's image must be the one that a store without results gives, and it must
//! have run exactly the steps that a simple model of the cache says.
//!
//! `CROZE_TEST_MUTATIONS=2000` asks for a longer run, `CROZE_TEST_SEED=N` for another one. A failure prints the
//! number of its world and everything that happened there; `CROZE_TEST_WORLD=N` lives through that world again.

#[path = "../common/mod.rs"]
mod common;
mod model;
mod world;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use common::Space;
use model::Model;
use world::{Random, World};

/// Changes to one world; then another one begins, with an empty store.
const CHANGES_PER_WORLD: usize = 34;

fn number_from_environment(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(otherwise)
}

#[test]
fn an_incremental_build_equals_one_from_nothing_and_runs_what_the_model_says() {
    let world = number_from_environment("CROZE_TEST_WORLD", 0);
    if world > 0 {
        return change_one_world(world, CHANGES_PER_WORLD);
    }
    let seed = number_from_environment("CROZE_TEST_SEED", 1);
    let mutations = number_from_environment("CROZE_TEST_MUTATIONS", 100) as usize;
    for (number, done) in (0..mutations).step_by(CHANGES_PER_WORLD).enumerate() {
        let seed = seed.wrapping_mul(1_000_003).wrapping_add(number as u64);
        change_one_world(seed, CHANGES_PER_WORLD.min(mutations - done));
    }
}

fn change_one_world(seed: u64, changes: usize) {
    let (space, truth) = (Space::with_busybox(), Space::with_busybox());
    let mut random = Random::new(seed);
    let mut world = World::new(&mut random);
    let mut model = Model::default();
    let mut former = vec![world.clone()];
    let mut history = Vec::new();
    for change in 0..=changes {
        let before = world.clone();
        if change > 0 {
            history.push(world.change(&mut random, &former));
        }
        write(&space, &before, &world, change == 0);
        let expected = model.build(&world);
        let story = || {
            let told = history.join("\n  ");
            format!("world {seed}:\n  {told}\nDockerfile:\n{}\nfiles: {:#?}", world.dockerfile(), world.files)
        };
        let incremental = build(&space, &world, &space.text_path(&world.place), &[]);
        assert_eq!(incremental.code, Some(0), "{}\n{}", incremental.stderr, story());
        let ran = steps_run(&incremental.stderr);
        assert_eq!(ran, expected, "steps run, and what the model says\n{}\n{}", incremental.stderr, story());
        let fresh = build(&truth, &world, &space.text_path(&world.place), &["--no-cache"]);
        assert_eq!(fresh.code, Some(0), "{}\n{}", fresh.stderr, story());
        let digest = |space: &Space| space.read_json("meta.json")["containerimage.digest"].clone();
        assert_eq!(digest(&space), digest(&truth), "the image differs from one built from nothing\n{}", story());
        former.push(world.clone());
    }
}

fn build(space: &Space, world: &World, context: &str, flags: &[&str]) -> common::Run {
    // the epoch lies before every file's time: times alone must not move the digest
    let output = "type=oci,dest=image.tar,compression=uncompressed,rewrite-timestamp=true";
    let mut arguments = vec!["build", "--progress=plain", "--build-arg", "SOURCE_DATE_EPOCH=1000", "-o", output];
    arguments.extend(["--metadata-file", "meta.json"]);
    arguments.extend(flags);
    let build_args: Vec<String> = world.build_args.iter().map(|(name, value)| format!("{name}={value}")).collect();
    build_args.iter().for_each(|text| arguments.extend(["--build-arg", text]));
    arguments.push(context);
    space.croze(arguments)
}

/// How many steps ran, from the closing line.
#[track_caller]
fn steps_run(stderr: &str) -> usize {
    let line = stderr.lines().find(|line| line.starts_with("image ")).unwrap_or_else(|| panic!("no result in {stderr}"));
    let Some((_, phrase)) = line.rsplit_once('(') else { return 0 };
    match phrase.split_once(" step") {
        Some((number, rest)) if rest.contains("ran") => number.parse().expect("a number of steps"),
        _ => 0,
    }
}

/// Brings the context on disk from what `before` says to what `world` says; what did not change is not touched.
fn write(space: &Space, before: &World, world: &World, all: bool) {
    let (old, new) = (space.path(&before.place), space.path(&world.place));
    if old != new {
        fs::rename(&old, &new).expect("the context moves");
    }
    if all || world.rewritten != before.rewritten {
        if new.exists() {
            fs::remove_dir_all(&new).expect("the context goes");
        }
        let mut paths: Vec<&String> = world.files.keys().collect();
        if world.rewritten % 2 == 1 {
            paths.reverse();
        }
        paths.into_iter().for_each(|path| write_file(&new, path, world));
    } else {
        for path in before.files.keys().filter(|path| !world.files.contains_key(*path)) {
            fs::remove_file(new.join(path)).expect("the file goes");
            // a directory without files is no part of a world
            let directory = new.join(path).parent().expect("below the context").to_owned();
            let _not_empty = fs::remove_dir(directory);
        }
        for path in world.files.keys().filter(|path| before.files.get(*path) != world.files.get(*path)) {
            write_file(&new, path, world);
        }
    }
    for (name, text) in [("Dockerfile", Some(world.dockerfile())), (".dockerignore", world.dockerignore())] {
        match text {
            Some(text) if fs::read_to_string(new.join(name)).ok().as_ref() != Some(&text) => {
                fs::write(new.join(name), text).expect("writes");
            }
            Some(_) => {}
            None => {
                let _not_there = fs::remove_file(new.join(name));
            }
        }
    }
}

fn write_file(root: &Path, path: &str, world: &World) {
    let (file, path) = (&world.files[path], root.join(path));
    fs::create_dir_all(path.parent().expect("below the context")).expect("directories");
    fs::write(&path, &file.content).expect("writes");
    fs::set_permissions(&path, fs::Permissions::from_mode(file.mode)).expect("chmod");
    if let Some(seconds) = file.mtime_secs {
        let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(seconds);
        fs::File::options().write(true).open(&path).and_then(|file| file.set_modified(time)).expect("sets the time");
    }
}
