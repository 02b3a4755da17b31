//! Bits that flip in the files of a store: whatever the file, the next build is right, and `fsck` says what it did.

use std::collections::BTreeMap;
use std::fs;
use std::hash::{BuildHasher, RandomState};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::common::{Registry, Space, busybox_tar, skip_unless};
use super::{REPRODUCIBLE, number};

/// How many bits flip.
const FLIPS: u64 = 20;

const DOCKERFILE: &str = "\
FROM BASE AS made
COPY words /words
RUN sort /words/* > /sorted
FROM BASE AS image
COPY --from=made /sorted /out/
RUN --mount=type=cache,target=/cache tr a-z A-Z < /out/sorted > /out/upper && touch -d '2001-01-01 00:00:00' /out/upper
COPY words /words
FROM image AS sums
ARG N
RUN : $N; find / -xdev -type f ! -path '/etc/*' ! -path '/proc/*' ! -path /sums | sort | xargs md5sum > /sums
";

/// A store with what the Dockerfile makes, and whatever else a store may have; the registry has the base.
struct World<'a> {
    space: Space,
    registry: &'a Registry,
}

impl World<'_> {
    fn new(registry: &Registry) -> World<'_> {
        let world = World { space: Space::new(), registry };
        world.space.dockerfile(&DOCKERFILE.replace("BASE", &world.base()));
        world.words(0);
        world
    }

    fn base(&self) -> String {
        format!("{}/base:1", self.registry.host)
    }

    fn words(&self, version: usize) {
        for number in 0..5 {
            self.space.write(&format!("ctx/words/{number}"), format!("word {number} of {}\n", version % 2));
        }
    }

    /// The image's digest.
    fn image(&self, flags: &[&str]) -> String {
        self.space.build(&[&REPRODUCIBLE[..], &["-t", "app", "--target", "image"], flags].concat()).succeeds();
        self.space.read_json("meta.json")["containerimage.digest"].as_str().expect("a digest").to_owned()
    }

    /// What a new command sees of all files.
    fn sums(&self, number: usize) -> String {
        let argument = format!("N={number}");
        self.space.build(&["--target", "sums", "--build-arg", &argument, "-o", "type=local,dest=out"]).succeeds();
        self.space.read("out/sums")
    }
}

/// Files of the store that have bytes, by kind.
fn files(store: &Path) -> BTreeMap<String, Vec<PathBuf>> {
    let mut found = BTreeMap::<String, Vec<PathBuf>>::new();
    let mut todo = vec![store.to_owned()];
    while let Some(directory) = todo.pop() {
        for entry in fs::read_dir(&directory).expect("a directory") {
            let entry = entry.expect("an entry");
            let (path, kind) = (entry.path(), entry.file_type().expect("a type"));
            let inside = path.strip_prefix(store).expect("inside").to_str().expect("text").to_owned();
            if kind.is_dir() {
                if inside != "trash" {
                    todo.push(path);
                }
            } else if kind.is_file() && entry.metadata().expect("there").len() > 0 {
                let kind = match inside.split('/').collect::<Vec<_>>().as_slice() {
                    // what commands keep there is theirs alone, and nothing knows what it should be
                    ["cache-mounts", _, "data", ..] => continue,
                    ["layers", _, kind, ..] => format!("layers/{kind}"),
                    [first, _, ..] => (*first).to_owned(),
                    [name] => (*name).to_owned(),
                    [] => unreachable!("a file has a name"),
                };
                found.entry(kind).or_default().push(path);
            }
        }
    }
    found.values_mut().for_each(|paths| paths.sort());
    found
}

#[test]
fn whatever_bit_flips_the_next_build_is_right() {
    if !skip_unless("whatever_bit_flips_the_next_build_is_right", &["docker-registry"]) {
        return;
    }
    let registry = Registry::start();
    let first = World::new(&registry);
    first.space.croze(["import", busybox_tar(), &first.base()]).succeeds();
    first.space.croze(["push", &first.base()]).succeeds();
    let right = [0, 1].map(|version| {
        let world = World::new(&registry);
        world.words(version);
        (world.image(&[]), world.sums(0))
    });
    assert_ne!(right[0], right[1]);
    let world = World::new(&registry);
    world.image(&[]);
    let flips = usize::try_from(number("CROZE_TEST_FLIPS", FLIPS)).expect("a size");
    let seed = number("CROZE_TEST_SEED", RandomState::new().hash_one(0));
    let mut state = seed | 1;
    let mut random = move |below: usize| {
        // xorshift64
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        usize::try_from(state >> 1).expect("a size") % below
    };
    let mut told: BTreeMap<String, [usize; 3]> = BTreeMap::new();
    for flip in 0..flips {
        let files = files(&world.space.path("store"));
        let kind = files.keys().nth(flip % files.len()).expect("a kind").clone();
        let path = &files[&kind][random(files[&kind].len())];
        let file = fs::File::options().read(true).write(true).open(path).expect("a file");
        let metadata = file.metadata().expect("there");
        let (offset, bit) = (random(usize::try_from(metadata.len()).expect("a size")), random(8));
        let mut byte = [0];
        file.read_exact_at(&mut byte, offset as u64).expect("a byte");
        file.write_all_at(&[byte[0] ^ 1 << bit], offset as u64).expect("written");
        file.set_modified(metadata.modified().expect("a time")).expect("as before");
        let what = format!("seed {seed}, flip {flip}: bit {bit} of byte {offset} of {}", path.display());
        let fsck = || {
            let run = world.space.croze(["fsck"]);
            assert_eq!(run.code, Some(0), "{what}: {}", run.stderr);
            !run.stdout.contains("all sound")
        };
        // by turns the builds and fsck come first
        let is_found_first = flip / files.len() % 3 == 2 && fsck();
        let version = random(2);
        world.words(version);
        // the builds fail by themselves, and then say more
        println!("{what}");
        match random(4) {
            0 => assert_eq!(world.image(&["--no-cache"]), right[version].0, "{what}: --no-cache"),
            1 => assert_eq!(world.sums(flip), right[version].1, "{what}: a command more"),
            _ => assert_eq!(world.image(&[]), right[version].0, "{what}: a build"),
        }
        assert_eq!(world.image(&[]), right[version].0, "{what}: the image");
        let counts = told.entry(kind).or_default();
        counts[0] += 1;
        counts[1] += usize::from(is_found_first);
        counts[2] += usize::from(fsck());
        assert!(!fsck(), "{what}: fsck mends once");
    }
    println!("seed {seed}; by kind: flips, found by fsck before a build, found by fsck after it: {told:#?}");
}
