//! `croze du`, `croze prune`, `croze fsck`: what goes, what stays, what is found.

mod common;

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use common::{Run, Space};

// the time is set, to the second (a bare day keeps the hour in busybox): a layer of another second is another layer
const DOCKERFILE: &str = "FROM busybox\n\
     RUN --mount=type=cache,target=/cache echo kept > /cache/file && echo a > /a && touch -d @1000000000 /a\n\
     RUN echo b > /b\n";

fn prune(space: &Space, flags: &[&str]) -> Run {
    space.croze([&["prune", "--force"], flags].concat()).succeeds()
}

fn layers(space: &Space) -> usize {
    fs::read_dir(space.path("store/layers")).expect("layers").count()
}

/// Steps that the next build runs.
fn ran(space: &Space, flags: &[&str]) -> usize {
    let run = space.build(&[&["--progress=plain"], flags].concat()).succeeds();
    run.stderr.lines().filter(|line| line.contains(" DONE ")).count() - baseline(space)
}

/// Lines that say DONE without a step that ran: those of a build that finds everything.
fn baseline(space: &Space) -> usize {
    let run = space.build(&["--progress=plain"]).succeeds();
    run.stderr.lines().filter(|line| line.contains(" DONE ")).count()
}

#[test]
fn pruning_takes_what_no_image_needs() {
    let space = Space::with_busybox();
    space.dockerfile(DOCKERFILE);
    space.build(&[]).succeeds();
    assert_eq!(layers(&space), 3);
    let listed = space.croze(["du"]).succeeds().stdout;
    assert_eq!(
        listed.lines().filter(|line| line.contains("  true ")).count(),
        5,
        "two layers, two documents, a mount:\n{listed}"
    );
    assert!(listed.lines().any(|line| line.contains("exec.cachemount  true         5 B")), "{listed}");
    prune(&space, &[]);
    assert_eq!((layers(&space), fs::read_dir(space.path("store/cache-mounts")).expect("mounts").count()), (1, 0));
    assert_eq!(fs::read_dir(space.path("store/trash")).expect("trash").count(), 0);
    let run = space.build(&["--progress=none", "--explain"]).succeeds();
    assert_eq!(run.stderr.matches("because its layer was pruned on 20").count(), 2, "{}", run.stderr);
}

#[test]
fn named_images_stay() {
    let space = Space::with_busybox();
    space.dockerfile(DOCKERFILE);
    space.build(&["-t", "app"]).succeeds();
    prune(&space, &["--all", "--filter", "type=regular"]);
    assert_eq!(layers(&space), 3);
    assert_eq!(ran(&space, &["-t", "app"]), 0);
}

#[test]
fn filters_and_limits_choose() {
    let space = Space::with_busybox();
    space.dockerfile(DOCKERFILE);
    space.build(&[]).succeeds();
    for flags in [&["--filter", "until=1h"][..], &["--max-used-space", "1g"], &["--keep-storage", "1g"], &["--filter", "id=0000"]]
    {
        assert_eq!(prune(&space, flags).stdout, "Total: 0 B\n", "{flags:?}");
    }
    let run = prune(&space, &["--filter", "type==exec.cachemount"]);
    assert!(run.stdout.ends_with("  5 B\nTotal: 5 B\n"), "{}", run.stdout);
    assert_eq!(layers(&space), 3);
}

#[test]
fn nobody_is_asked_where_nobody_is() {
    Space::with_busybox().croze(["prune"]).fails(
        2,
        "error: this would drop all build cache that no image needs\n |\n = help: pass `--force` where nobody can be asked",
    );
    Space::new()
        .croze(["prune", "-f", "--filter", "color=red"])
        .fails(2, "error: invalid value for `--filter`: unknown key `color` in `color=red`");
}

#[test]
fn what_a_running_build_uses_stays() {
    let space = Space::with_busybox();
    // the last step runs until its file is written
    space.dockerfile(
        "FROM busybox\nRUN echo a > /a\nRUN --mount=type=cache,target=/gate echo waits; n=0; \
         while [ ! -e /gate/open ] && [ $n -lt 3000 ]; do sleep 0.02; n=$((n+1)); done; cat /a /gate/open > /b\n",
    );
    let mut child = space.command(["build", "--progress=plain", "ctx"]).stderr(Stdio::piped()).spawn().expect("croze starts");
    let mut lines = BufReader::new(child.stderr.take().expect("piped")).lines().map_while(Result::ok);
    assert!(lines.any(|line| line.ends_with(" waits")), "the step never ran");
    let pruned = prune(&space, &["--all"]);
    assert_eq!(pruned.stderr, "note: 1 command uses the store now; what may be in use stays\n");
    assert_eq!(pruned.stdout, "Total: 0 B\n");
    let mounts = fs::read_dir(space.path("store/cache-mounts")).expect("mounts");
    let gate = mounts.map(|entry| entry.expect("a mount").path().join("data")).next().expect("the gate");
    fs::write(gate.join("open"), "open\n").expect("opens the gate");
    lines.for_each(drop);
    assert!(child.wait().expect("croze ends").success());
}

#[test]
fn a_layer_that_nothing_read_is_a_tar_until_something_reads_it() {
    let space = Space::with_busybox();
    let flags = ["--build-arg", "SOURCE_DATE_EPOCH=1000", "-q", "-t", "app"];
    let ends = "FROM busybox\nCOPY --chmod=751 tree /tree/\n";
    let goes_on = format!("{ends}RUN stat -c '%a %n' /tree/run > /seen; cat /tree/sub/file >> /seen\n");
    space.write("ctx/tree/run", "x").write("ctx/tree/sub/file", "deep\n").dockerfile(ends);
    space.build(&flags).succeeds();
    let kept = |name: &str| {
        let layers = fs::read_dir(space.path("store/layers")).expect("layers");
        layers.filter(|layer| layer.as_ref().is_ok_and(|layer| layer.path().join(name).exists())).count()
    };
    assert_eq!((kept("packed"), kept("tree")), (1, 1), "the base is a tree");
    assert_eq!(space.croze(["fsck"]).succeeds().stdout, "4 blobs, 2 layers, 2 names, 1 record read: all sound\n");

    space.dockerfile(&goes_on);
    let seen = space.build(&["-o", "type=local,dest=out"]).succeeds();
    assert_eq!(fs::read_to_string(space.path("out/seen")).expect("seen"), "751 /tree/run\ndeep\n", "{}", seen.stderr);
    assert_eq!((kept("packed"), kept("tree")), (0, 3));
    space.dockerfile(ends);
    let again = space.build(&flags).succeeds();
    assert_eq!(again.stderr, "", "nothing ran again");
    assert!(space.croze(["fsck"]).succeeds().stdout.ends_with("all sound\n"));
}

#[test]
fn fsck_keeps_sound_layers_of_other_builders() {
    let space = Space::new();
    // its order and its owner's name are not croze's own
    let tree = space.path("tree");
    fs::create_dir_all(tree.join("d")).expect("a tree");
    fs::write(tree.join("z"), "1").expect("a file");
    fs::write(tree.join("d/f"), "2").expect("a file");
    let judge = |program: &str, arguments: &[&str]| {
        let output = Command::new(program).args(arguments).current_dir(space.path(".")).output().expect(program);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("text")
    };
    judge("tar", &["--format=gnu", "-cf", "layer.tar", "-C", "tree", "z", "d"]);
    let diff_id = judge("sha256sum", &["layer.tar"])[..64].to_owned();
    let config = format!(
        r#"{{"architecture":"amd64","os":"linux","config":{{}},"rootfs":{{"type":"layers","diff_ids":["sha256:{diff_id}"]}}}}"#
    );
    space.write("config.json", config);
    space.write("manifest.json", r#"[{"Config":"config.json","RepoTags":["base:latest"],"Layers":["layer.tar"]}]"#);
    judge("tar", &["-cf", "base.tar", "manifest.json", "config.json", "layer.tar"]);
    space.croze(["load", "-i", "base.tar"]).succeeds();
    space.dockerfile("FROM base\nCOPY Dockerfile /\nCOPY Dockerfile /again\n");
    space.build(&["-q"]).succeeds();
    let checked = space.croze(["fsck"]).succeeds().stdout;
    assert!(checked.ends_with("all sound\n"), "{checked}");
}

#[test]
fn fsck_says_that_a_sound_store_is_sound() {
    let space = Space::with_busybox();
    space.dockerfile(DOCKERFILE);
    space.build(&[]).succeeds();
    assert_eq!(space.croze(["fsck"]).succeeds().stdout, "4 blobs, 3 layers, 1 name, 4 records read: all sound\n");
}

/// Every regular file of the store that holds something, but for locks.
fn files(root: &Path) -> Vec<PathBuf> {
    let (mut found, mut todo) = (Vec::new(), vec![root.to_owned()]);
    while let Some(directory) = todo.pop() {
        for entry in fs::read_dir(directory).expect("readable") {
            let path = entry.expect("an entry").path();
            let metadata = fs::symlink_metadata(&path).expect("there");
            if metadata.is_dir() {
                todo.push(path);
            } else if metadata.is_file() && metadata.len() > 0 {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

#[test]
fn a_flipped_bit_anywhere_is_found_and_the_next_build_is_right() {
    use std::os::unix::fs::MetadataExt;

    let space = Space::new();
    space.write("ctx/file", "content\n").dockerfile("FROM scratch\nCOPY file /\nCOPY file /again\n");
    let flags = ["--build-arg", "SOURCE_DATE_EPOCH=1000", "-q", "-t", "app"];
    let first = space.build(&flags).succeeds().stdout;
    let root = space.path("store");
    let (mut damaged, mut unnoticed) = (0, Vec::new());
    for path in files(&root) {
        // version, locks, the log's index (SQLite makes it anew), and the place of a cached page are nobody's data
        let name = path.strip_prefix(&root).expect("below").display().to_string();
        if name == "version" || name.starts_with("leases/") || name.ends_with("-shm") || !path.exists() {
            continue;
        }
        let (mut bytes, mtime) = (fs::read(&path).expect("read"), fs::metadata(&path).expect("there").mtime());
        let at = bytes.len() / 2;
        bytes[at] ^= 1;
        fs::write(&path, &bytes).expect("damaged");
        let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(mtime.cast_unsigned());
        fs::File::open(&path).and_then(|file| file.set_modified(time)).expect("the time stays");
        let checked = space.croze(["fsck"]).succeeds();
        if name.starts_with("blobs/") || name.starts_with("layers/") || name.starts_with("names/") {
            match checked.stdout.ends_with("all sound\n") {
                true => unnoticed.push(name.clone()),
                false => damaged += 1,
            }
        }
        assert_eq!(space.build(&flags).succeeds().stdout, first, "{name}: {}", checked.stdout);
        let again = space.croze(["fsck"]).succeeds().stdout;
        assert!(again.ends_with("all sound\n"), "{name}: {again}");
    }
    assert!(damaged >= 6, "two layers, their records and the documents: {damaged}, but {unnoticed:?}");
}
