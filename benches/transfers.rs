//! Measures pulls, pushes and exports against a `docker-registry` on loopback, beside other tools, in one interleaved run.
//!
//! ```text
//! cargo bench --bench transfers                 all rows
//! cargo bench --bench transfers -- pull         those whose name contains a word
//! PEERS_CROZE=target/…/release/croze            measures this program, such as the static one
//! PEERS_ROUNDS=5                                rounds (5)
//! TRANSFERS_ROOTFS=debian.tar                   the base's root file system; else `.ci/debian` makes one
//! TRANSFERS_DIR=/mnt/somewhere                  where the stores lie: a file system with a journal; else cargo's target
//! BUILDX_BUILDER=NAME                           measures that BuildKit as well. Its cache is pruned in every round: give it
//!                                               a builder that nobody else uses
//! ```
//!
//! In a round each tool does each row once. What is not to be measured (empty stores, a changed file, a build before a push)
//! happens before the clock starts; where all contenders of a row read the same bytes, these were read before. Times are wall
//! clock from start to exit. CPU and peak memory are those of the process and its children, by GNU time (`-` without it):
//! a daemon's are not in them. Needs docker-registry, skopeo; buildah where it is there.
//!
//! The rows `parts` are what a pull cannot do without, one after the other on one core: decompression, both digests, and the
//! files. A pull has done well when its time comes near their CPU divided by the number of cores.

use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use croze::digest::Digest;
use croze::layer::{self, Compression, LayerLimits};
use serde_json::Value;

#[path = "../tests/common/mod.rs"]
mod common;
#[path = "common/mod.rs"]
mod support;

use common::{Registry, Space};
use support::{median, millis, shell, write_tree};

fn main() {
    let words: Vec<String> = std::env::args().skip(1).filter(|word| !word.starts_with("--")).collect();
    let rounds = std::env::var("PEERS_ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(5_usize).max(1);
    let is_wanted = |name: &str| words.is_empty() || words.iter().any(|word| name.contains(word.as_str()));
    let bench = Bench::new();
    let rows: Vec<Row> = bench.rows().into_iter().filter(|row| is_wanted(row.name)).collect();
    let times: Vec<Vec<Vec<Sample>>> = measure(&rows, rounds);
    report(&rows, &times, rounds);
    for image in ["debian", "large"] {
        if is_wanted("parts") || is_wanted(&format!("pull {image}")) {
            bench.parts(image);
        }
    }
}

/// What is measured, by whom.
struct Row<'a> {
    name: &'static str,
    /// Bytes that go through, for a rate; zero for none.
    bytes: u64,
    contenders: Vec<Contender<'a>>,
}

struct Contender<'a> {
    name: &'static str,
    /// What comes before the clock starts; it gets the round's number.
    before: Box<dyn Fn(usize) + 'a>,
    /// The command line.
    command: Box<dyn Fn(usize) -> String + 'a>,
    /// A file whose size is told.
    result: Option<PathBuf>,
}

/// One run.
struct Sample {
    time: Duration,
    /// Seconds of CPU and peak in MB.
    used: Option<(f64, f64)>,
}

struct Bench {
    space: Space,
    /// Stores and files that are measured.
    fast: Space,
    registry: Registry,
    croze: String,
    buildx: Option<String>,
    has_buildah: bool,
}

/// Files of the layer that is pushed and exported: 140 MB.
const LAYER_FILES: u32 = 13_100;

impl Bench {
    fn new() -> Bench {
        let (space, registry) = (Space::new(), Registry::start());
        let fast = match std::env::var("TRANSFERS_DIR") {
            Ok(directory) => Space::below(Path::new(&directory)),
            Err(_) => Space::new(),
        };
        let croze = std::env::var("PEERS_CROZE").unwrap_or_else(|_| env!("CARGO_BIN_EXE_croze").to_owned());
        let buildx = std::env::var("BUILDX_BUILDER").ok();
        let has_buildah = Command::new("buildah").arg("--version").stdout(Stdio::null()).status().is_ok();
        let bench = Bench { space, fast, registry, croze, buildx, has_buildah };
        bench.publish();
        bench
    }

    /// Puts `debian` (one layer) and `large` (eight, 1 GB) into the registry, compressed by somebody else.
    fn publish(&self) {
        let rootfs = std::env::var("TRANSFERS_ROOTFS").unwrap_or_else(|_| {
            let made = self.space.text_path("rootfs.tar");
            common::judge(&format!("{}/.ci/debian", env!("CARGO_MANIFEST_DIR")), &[&made]);
            made
        });
        self.space.croze(["import", &rootfs, "debian"]).succeeds();
        self.space.write("debian/Dockerfile", "FROM debian\n");
        let copies: String = (1..8).map(|layer| format!("COPY l{layer} /l{layer}\n")).collect();
        self.space.write("large/Dockerfile", format!("FROM debian\n{copies}"));
        for layer in 1..8 {
            write_tree(&self.space.path(&format!("large/l{layer}")), 11_000, layer);
        }
        for image in ["debian", "large"] {
            let layout = self.space.text_path("layout");
            let output = format!("type=oci,tar=false,dest={layout},compression=uncompressed");
            self.space.croze(["build", "-o", &output, image]).succeeds();
            let to = format!("docker://{}/{image}:1", self.registry.host);
            common::judge("skopeo", &["copy", "--quiet", "--dest-tls-verify=false", &format!("oci:{layout}"), &to]);
            fs::remove_dir_all(layout).expect("removable");
            self.fast.write(&format!("{image}/Dockerfile"), format!("FROM {}/{image}:1\nRUN true\n", self.registry.host));
        }
        let text = format!("FROM {}/debian:1\nCOPY src /src\n", self.registry.host);
        self.fast.write("layer/Dockerfile", text);
        write_tree(&self.fast.path("layer/src"), LAYER_FILES, 99);
        fs::remove_dir_all(self.space.path("large")).expect("removable");
        fs::remove_dir_all(self.space.path("store")).expect("removable");
    }

    fn rows(&self) -> Vec<Row<'_>> {
        vec![
            self.pull("pull debian + RUN true, empty store", "debian", true),
            self.pull("pull large + RUN true, empty store", "large", true),
            self.pull("build on debian again", "debian", false),
            self.push("push, layers there", false),
            self.push("push, a new layer of 140 MB", true),
            self.export(),
        ]
    }

    fn croze(&self, rest: &str) -> String {
        format!("{} --root={} {rest}", self.croze, self.fast.text_path("store"))
    }

    fn buildx(&self, builder: &str, rest: &str) -> String {
        format!("docker-buildx build --builder {builder} --progress=quiet --provenance=false {rest}")
    }

    /// `image` and a `RUN true` on it.
    fn pull(&self, name: &'static str, image: &'static str, is_empty: bool) -> Row<'_> {
        let context = self.fast.text_path(image);
        let mut contenders = vec![Contender {
            name: "croze",
            before: Box::new(move |_| {
                if is_empty {
                    self.empty();
                } else {
                    quietly(&self.croze(&format!("build -q {}", self.fast.text_path(image))));
                }
            }),
            command: Box::new({
                let context = context.clone();
                move |_| self.croze(&format!("build --progress=quiet {context}"))
            }),
            result: None,
        }];
        if let Some(builder) = &self.buildx {
            let build = self.buildx(builder, &context);
            let first = build.clone();
            contenders.push(Contender {
                name: "buildx",
                before: Box::new(move |_| {
                    if is_empty {
                        self.empty();
                        quietly(&format!("docker-buildx prune --builder {builder} -af"));
                    } else {
                        quietly(&first);
                    }
                }),
                command: Box::new(move |_| build.clone()),
                result: None,
            });
        }
        let source = format!("docker://{}/{image}:1", self.registry.host);
        if is_empty && self.has_buildah {
            let (root, source) = (self.fast.text_path("buildah"), source.clone());
            contenders.push(Contender {
                name: "buildah pull",
                before: Box::new(|_| self.empty()),
                command: Box::new(move |_| {
                    format!("buildah --root {root}/root --runroot {root}/run pull --quiet --tls-verify=false {source}")
                }),
                result: None,
            });
        }
        if is_empty {
            let copied = self.fast.text_path("copied");
            contenders.push(Contender {
                name: "skopeo copy",
                before: Box::new(|_| self.empty()),
                command: Box::new(move |_| format!("skopeo copy --quiet --src-tls-verify=false {source} dir:{copied}")),
                result: None,
            });
        }
        Row { name, bytes: 0, contenders }
    }

    /// An image that was built before: into a repository that is new in every round.
    fn push(&self, name: &'static str, is_new: bool) -> Row<'_> {
        let context = self.fast.text_path("layer");
        let target = move |who: &str, round: usize| format!("{}/{who}{}{round}:1", self.registry.host, u8::from(is_new));
        // the layer is pushed to another repository first, or is one that no registry has seen
        let prepare = move |who: &'static str, round: usize, build: &dyn Fn(&str) -> String| {
            if is_new {
                self.fast.write("layer/src/round", format!("{who} {round} {:?}", Instant::now()));
                quietly(&build(""));
            } else {
                quietly(&build(&format!("-o type=image,name={}/{who}:1,push=true", self.registry.host)));
            }
        };
        let (for_croze, for_buildx) = (context.clone(), context.clone());
        let with_croze = move |output: &str| self.croze(&format!("build --progress=quiet {output} {for_croze}"));
        let pushes_croze = with_croze.clone();
        let mut contenders = vec![Contender {
            name: "croze",
            before: Box::new(move |round| prepare("croze", round, &with_croze)),
            command: Box::new(move |round| pushes_croze(&format!("-o type=image,name={},push=true", target("croze", round)))),
            result: None,
        }];
        if let Some(builder) = &self.buildx {
            let with_buildx = move |output: &str| self.buildx(builder, &format!("{output} {for_buildx}"));
            let pushes_buildx = with_buildx.clone();
            contenders.push(Contender {
                name: "buildx",
                before: Box::new(move |round| prepare("buildx", round, &with_buildx)),
                command: Box::new(move |round| {
                    pushes_buildx(&format!("-o type=image,name={},push=true", target("buildx", round)))
                }),
                result: None,
            });
        }
        Row { name, bytes: 0, contenders }
    }

    /// A layer of 140 MB that was built before, as an OCI archive.
    fn export(&self) -> Row<'_> {
        let context = self.fast.text_path("layer");
        let change = move |who: &str, round: usize| {
            self.fast.write("layer/src/round", format!("export {who} {round} {:?}", Instant::now()));
        };
        let mut contenders = Vec::new();
        {
            let (build, archive) = (self.croze(&format!("build --progress=quiet {context}")), self.fast.text_path("croze.tar"));
            let first = build.clone();
            contenders.push(Contender {
                name: "croze",
                before: Box::new(move |round| {
                    change("croze", round);
                    quietly(&first);
                }),
                command: Box::new(move |_| format!("{build} -o type=oci,dest={archive}")),
                result: Some(self.fast.path("croze.tar")),
            });
        }
        if let Some(builder) = &self.buildx {
            let (build, archive) = (self.buildx(builder, &context), self.fast.text_path("buildx.tar"));
            let first = build.clone();
            contenders.push(Contender {
                name: "buildx",
                before: Box::new(move |round| {
                    change("buildx", round);
                    quietly(&first);
                }),
                command: Box::new(move |_| format!("{build} -o type=oci,dest={archive}")),
                result: Some(self.fast.path("buildx.tar")),
            });
        }
        // of the layer; the base is copied as it came
        let bytes = u64::from(LAYER_FILES) * (10_752 + 512);
        Row { name: "export as OCI gzip archive", bytes, contenders }
    }

    /// Deletes what pulls have left: one at a time fits on a small disk.
    fn empty(&self) {
        for name in ["store", "buildah", "copied", "tree"] {
            let path = self.fast.path(name);
            if path.exists() {
                fs::remove_dir_all(path).expect("removable");
            }
        }
        // what deleting leaves to be written is none of the next one's business
        shell(&format!("sync -f {}", self.fast.text_path("layer"))).status().expect("sync runs");
    }

    /// The parts of a pull of `image`, by themselves, in CPU seconds.
    fn parts(&self, image: &str) {
        let copied = self.space.text_path("parts");
        let source = format!("docker://{}/{image}:1", self.registry.host);
        common::judge("skopeo", &["copy", "--quiet", "--src-tls-verify=false", &source, &format!("dir:{copied}")]);
        let manifest: Value = serde_json::from_slice(&fs::read(format!("{copied}/manifest.json")).expect("there")).expect("JSON");
        let (mut inflating, mut hashing, mut creating) = (0.0, 0.0, 0.0);
        for layer in manifest["layers"].as_array().expect("layers") {
            let digest = layer["digest"].as_str().expect("text").trim_start_matches("sha256:");
            let blob = fs::read(format!("{copied}/{digest}")).expect("there");
            hashing += cpu_of(|| Digest::of(&blob));
            let gzip = || flate2::read::MultiGzDecoder::new(blob.as_slice());
            inflating += cpu_of(|| io::copy(&mut gzip(), &mut io::sink()).expect("gzip"));
            let mut plain = Vec::new();
            gzip().read_to_end(&mut plain).expect("gzip");
            hashing += cpu_of(|| Digest::of(&plain));
            self.empty();
            let tree = self.fast.path("tree");
            fs::create_dir(&tree).expect("writable");
            // this hashes too
            let both = cpu_of(|| {
                layer::unpack_into(&tree, &mut plain.as_slice(), Compression::None, None, LayerLimits::NONE).expect("a tar")
            });
            creating += both - cpu_of(|| Digest::of(&plain));
        }
        fs::remove_dir_all(copied).expect("removable");
        let cores = std::thread::available_parallelism().map_or(1.0, |cores| cores.get() as f64);
        let sum = inflating + hashing + creating;
        println!(
            "parts of pulling {image}: {inflating:.2} s gunzip + {hashing:.2} s digests + {creating:.2} s files = {sum:.2} s of CPU; \
             on {cores} cores {:.0} ms",
            sum / cores * 1000.0
        );
    }
}

/// Runs a command that is not measured.
fn quietly(line: &str) {
    let output = shell(line).stdout(Stdio::null()).output().expect("it starts");
    assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
}

/// CPU seconds of this process while `work` runs, in ticks of 10 ms.
fn cpu_of<T>(work: impl FnOnce() -> T) -> f64 {
    let ticks = || {
        let text = fs::read_to_string("/proc/self/stat").expect("Linux");
        let fields: Vec<&str> = text.rsplit(')').next().expect("never empty").split_whitespace().collect();
        // user and system time, fields 14 and 15 of proc(5)
        fields[11..13].iter().map(|field| field.parse::<f64>().expect("a number")).sum::<f64>()
    };
    let before = ticks();
    std::hint::black_box(work());
    (ticks() - before) / 100.0
}

fn measure(rows: &[Row], rounds: usize) -> Vec<Vec<Vec<Sample>>> {
    let mut samples: Vec<Vec<Vec<Sample>>> = rows.iter().map(|row| row.contenders.iter().map(|_| Vec::new()).collect()).collect();
    let usage = std::env::temp_dir().join(format!("transfers-{}", std::process::id()));
    let has_time = Path::new("/usr/bin/time").exists();
    for round in 0..rounds {
        for (row, samples) in rows.iter().zip(&mut samples) {
            for (contender, samples) in row.contenders.iter().zip(samples) {
                (contender.before)(round);
                let line = (contender.command)(round);
                let line = if has_time { format!("/usr/bin/time -o {} -f %U+%S+%M {line}", usage.display()) } else { line };
                let start = Instant::now();
                quietly(&line);
                let time = start.elapsed();
                let text = fs::read_to_string(&usage).unwrap_or_default();
                let numbers: Vec<f64> = text.trim().split('+').filter_map(|number| number.parse().ok()).collect();
                let used = match numbers.as_slice() {
                    [user, system, kibibytes] if has_time => Some((user + system, kibibytes / 1024.0)),
                    _ => None,
                };
                eprintln!("{}: {} took {:.0} ms", row.name, contender.name, millis(time));
                samples.push(Sample { time, used });
            }
        }
    }
    // it may never have been written
    let _absent = fs::remove_file(usage);
    samples
}

fn report(rows: &[Row], samples: &[Vec<Vec<Sample>>], rounds: usize) {
    println!("\n{rounds} rounds, milliseconds\n");
    println!(
        "{:<38} {:<13} {:>8} {:>8} {:>8} {:>7} {:>7} {:>8} {:>9}",
        "row", "by", "min", "median", "max", "CPU s", "MB/s", "peak MB", "result MB"
    );
    for (row, samples) in rows.iter().zip(samples) {
        for (contender, samples) in row.contenders.iter().zip(samples) {
            let mut times: Vec<Duration> = samples.iter().map(|sample| sample.time).collect();
            times.sort_unstable();
            let (Some(min), Some(max)) = (times.first(), times.last()) else { continue };
            let used = samples.iter().filter_map(|sample| sample.used);
            let (cpu, peak) = used.fold((f64::MAX, 0.0_f64), |(cpu, peak), used| (cpu.min(used.0), peak.max(used.1)));
            let or_dash = |is_there: bool, text: String| if is_there { text } else { "-".to_owned() };
            let rate = row.bytes as f64 / 1e6 / median(&times).as_secs_f64();
            let size = contender.result.as_ref().and_then(|path| fs::metadata(path).ok()).map_or(0, |meta| meta.len());
            println!(
                "{:<38} {:<13} {:>8.1} {:>8.1} {:>8.1} {:>7} {:>7} {:>8} {:>9}",
                row.name,
                contender.name,
                millis(*min),
                millis(median(&times)),
                millis(*max),
                or_dash(peak > 0.0, format!("{cpu:.2}")),
                or_dash(row.bytes > 0, format!("{rate:.0}")),
                or_dash(peak > 0.0, format!("{peak:.0}")),
                or_dash(size > 0, format!("{:.1}", size as f64 / 1e6)),
            );
        }
    }
}
