//! Snapshots of whole plans: `testdata/plan/*.dockerfile` with its `.plan`; `UPDATE=1` rewrites them.
//!
//! Lines that begin with `#!` hold command-line flags: `#! --build-arg A=1 --target build`.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use super::*;
use crate::diagnostic::render::{Color, render};
use crate::digest::{DiffId, Digest};
use crate::dockerfile;
use crate::graph::{CopySource, MountKind, Op};
use crate::image::{ContainerConfig, RootFs};

#[test]
fn plans_are_as_recorded() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/plan");
    let mut names: Vec<_> = fs::read_dir(&folder).expect("testdata").map(|entry| entry.expect("entry").path()).collect();
    names.retain(|path| path.extension().is_some_and(|extension| extension == "dockerfile"));
    names.sort();
    assert!(!names.is_empty());
    let mut failed = Vec::new();
    for path in names {
        let text = fs::read_to_string(&path).expect("readable");
        let actual = plan_text(&text);
        let recorded = path.with_extension("plan");
        if std::env::var_os("UPDATE").is_some() {
            fs::write(&recorded, &actual).expect("writable");
        } else if fs::read_to_string(&recorded).unwrap_or_default() != actual {
            failed.push(format!("{}:\n{actual}", path.display()));
        }
    }
    assert!(failed.is_empty(), "plans differ; UPDATE=1 records them\n\n{}", failed.join("\n"));
}

#[test]
fn images_are_asked_for_only_when_needed() {
    let wanted = |text: &str, target: Option<&str>| {
        let (dockerfile, _) = dockerfile::parse(&Source::new("Dockerfile", text));
        let mut options = Options::new(platform());
        options.target = target.map(str::to_owned);
        let wanted = wanted_images(&dockerfile, &options, &Bases::new()).expect("no errors");
        wanted.into_iter().map(|wanted| wanted.written).collect::<Vec<_>>()
    };
    let text = "FROM a AS x\nFROM b AS y\nCOPY --from=c / /\nFROM x\nRUN --mount=from=d,target=/d true\n";
    assert_eq!(wanted(text, None), ["a", "d"]);
    assert_eq!(wanted(text, Some("Y")), ["b", "c"]);
    assert_eq!(wanted("FROM scratch\nCOPY --from=a / /\nCOPY --from=a / /b\n", None), ["a"]);
}

#[test]
fn an_unresolved_image_has_a_place() {
    let (dockerfile, _) = dockerfile::parse(&Source::new("Dockerfile", "FROM busybox\n"));
    let (lowered, diagnostics) = lower(&dockerfile, &Options::new(platform()), &Bases::new());
    assert!(lowered.is_none());
    assert!(diagnostics.iter().any(|diagnostic| diagnostic.code == UNRESOLVED && diagnostic.place.is_some()));
}

#[test]
fn a_long_chain_of_stages_is_no_trouble() {
    let mut text = String::new();
    for number in 0..5_000 {
        let _ = writeln!(text, "FROM scratch AS s{number}\nCOPY --from=s{} / /", number + 1);
    }
    text.push_str("FROM scratch AS s5000\n");
    let (dockerfile, _) = dockerfile::parse(&Source::new("Dockerfile", text));
    let mut options = Options::new(platform());
    options.target = Some("s0".to_owned());
    assert_eq!(wanted_images(&dockerfile, &options, &Bases::new()), Ok(Vec::new()));
    let (_, diagnostics) = lower(&dockerfile, &options, &Bases::new());
    assert!(diagnostics.iter().any(|diagnostic| diagnostic.code == "stage-order"));
}

proptest::proptest! {
    #[test]
    fn any_instructions_are_planned_without_a_panic(lines in proptest::collection::vec((0..KEYWORDS.len(), "[ -~é]{0,24}"), 0..8)) {
        let mut text = String::from("FROM scratch AS a\n");
        for (keyword, arguments) in lines {
            let _ = writeln!(text, "{} {arguments}", KEYWORDS[keyword]);
        }
        plan_text(&text);
    }
}

const KEYWORDS: [&str; 20] = [
    "FROM",
    "FROM --platform=$A",
    "ARG",
    "ENV",
    "RUN",
    "RUN --mount=",
    "COPY",
    "COPY --from=",
    "COPY --chmod=",
    "ADD",
    "WORKDIR",
    "USER",
    "EXPOSE",
    "VOLUME",
    "STOPSIGNAL",
    "LABEL",
    "CMD",
    "ENTRYPOINT",
    "ONBUILD RUN",
    "HEALTHCHECK CMD",
];

fn platform() -> Platform {
    "linux/amd64".parse().expect("valid")
}

/// Everything that a Dockerfile comes to, as text.
fn plan_text(text: &str) -> String {
    let mut out = String::new();
    let (dockerfile, mut diagnostics) = dockerfile::parse(&Source::new("Dockerfile", text));
    let options = flags(text);
    let mut bases = Bases::new();
    let lowered = loop {
        match wanted_images(&dockerfile, &options, &bases) {
            Ok(wanted) if wanted.is_empty() => {
                let (lowered, more) = lower(&dockerfile, &options, &bases);
                diagnostics.extend(more);
                break lowered;
            }
            Ok(wanted) => bases.extend(wanted.into_iter().map(|wanted| (wanted.key.clone(), base(&wanted)))),
            Err(more) => {
                diagnostics.extend(more);
                break None;
            }
        }
    };
    if let Some(lowered) = &lowered {
        write_lowered(lowered, &mut out);
    }
    for diagnostic in &diagnostics {
        let _ = writeln!(out, "[{}] {}", diagnostic.code, render(diagnostic, Color::Never));
    }
    out
}

fn flags(text: &str) -> Options {
    let mut options = Options::new(platform());
    let words = text.lines().filter_map(|line| line.strip_prefix("#! ")).flat_map(|line| line.split(' '));
    let mut words = words.map(str::to_owned);
    while let Some(flag) = words.next() {
        let mut value = || words.next().expect("a value");
        let pair = |text: String| text.split_once('=').map(|(name, value)| (name.to_owned(), value.to_owned()));
        match flag.as_str() {
            "--build-arg" => options.build_args.push(pair(value()).expect("NAME=VALUE")),
            "--label" => options.labels.push(pair(value()).expect("NAME=VALUE")),
            "--target" => options.target = Some(value()),
            "--platform" => {
                options.target_platform = value().parse().expect("a platform");
                options.platform_requested = true;
            }
            "--build-context" => {
                let (name, text) = pair(value()).expect("NAME=VALUE");
                let context = match text.split_once("://") {
                    Some(("docker-image", image)) => NamedContext::Image(image.parse().expect("an image")),
                    Some(("oci-layout", _)) => NamedContext::Layout(text),
                    _ => NamedContext::Local,
                };
                options.named_contexts.insert(name, context);
            }
            "--allow-all" => (options.allow_host_network, options.allow_insecure) = (true, true),
            other => panic!("unknown flag {other}"),
        }
    }
    options
}

/// Invents an image: `rich` has a full config, `trigger` one with triggers, others just one layer.
fn base(wanted: &Wanted) -> Base {
    let mut config = ImageConfig::scratch(&wanted.key.platform);
    config.rootfs = RootFs { diff_ids: vec![DiffId(Digest::of(b"layer"))], ..RootFs::default() };
    config.history = vec![History { created_by: Some("base".to_owned()), ..History::default() }];
    let texts = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
    config.config = match wanted.written.as_str() {
        "rich" => ContainerConfig {
            user: "app".to_owned(),
            env: texts(&["ALPHA=one", "BETA=two words"]),
            entrypoint: texts(&["/bin/sh"]),
            cmd: texts(&["-c", "echo rich"]),
            working_dir: "/srv/work".to_owned(),
            shell: texts(&["/bin/ash", "-ec"]),
            ..ContainerConfig::default()
        },
        "trigger" => ContainerConfig {
            on_build: texts(&["ARG WHO=me", "COPY --from=helper /x ./", "RUN echo $WHO"]),
            ..ContainerConfig::default()
        },
        _ => ContainerConfig { cmd: texts(&["sh"]), ..ContainerConfig::default() },
    };
    let name = match &wanted.key.image {
        ImageLocation::Reference(image_ref) => image_ref.canonical(),
        ImageLocation::Layout(text) => text.clone(),
    };
    Base { name, manifest: Digest::of(wanted.written.as_bytes()), config }
}

fn write_lowered(lowered: &Lowered, out: &mut String) {
    let order = lowered.graph.needed(&[lowered.target]);
    let number = |index: StepIndex| order.iter().position(|known| *known == index).expect("needed");
    for index in &order {
        let inputs: Vec<String> = lowered.graph.inputs(*index).into_iter().map(|input| format!("#{}", number(input))).collect();
        let step = lowered.graph.step(*index);
        let _ = writeln!(out, "#{} {} {} {}", number(*index), short_name(&step.origin.name), inputs.join(" "), op_text(&step.op));
    }
    let _ = writeln!(out, "config {}", serde_json::to_string(&lowered.draft.config).expect("serialises"));
    for item in &lowered.draft.base_history {
        let _ = writeln!(out, "base history {:?}", item.created_by.as_deref().unwrap_or_default());
    }
    for item in &lowered.draft.history {
        let layer = item.layer.map_or("-".to_owned(), |layer| format!("#{}", number(layer)));
        let _ = writeln!(out, "history {layer} {:?}", item.created_by);
    }
    for (context, paths) in &lowered.context_uses {
        let _ = writeln!(out, "reads of {context}: {paths:?}");
    }
    if let Some(epoch) = lowered.epoch {
        let _ = writeln!(out, "epoch {epoch}");
    }
}

/// Digests are long and all alike.
fn short_name(name: &str) -> String {
    name.split_once("@sha256:").map_or(name.to_owned(), |(before, _)| format!("{before}@…"))
}

fn op_text(op: &Op) -> String {
    match op {
        Op::Image(image) => format!("image {} for {}", image.name, image.platform),
        Op::Context(context) => format!("context {}", context.name),
        Op::Http(http) => format!("http {} as {} checksum {:?}", http.url, http.file_name, http.checksum),
        Op::Git(git) => format!("{git:?}"),
        Op::Exec(exec) => {
            let mut text = format!("exec {:?}\n    env {:?}", exec.args, exec.env);
            let mut more = |name: &str, value: String, empty: bool| {
                if !empty {
                    let _ = write!(text, "\n    {name} {value}");
                }
            };
            more("proxies", format!("{:?}", exec.proxy_env), exec.proxy_env.is_empty());
            more("cwd", exec.cwd.clone(), exec.cwd == "/");
            more("user", exec.user.clone(), exec.user.is_empty());
            more("network", format!("{:?}", exec.network), exec.network == Network::Default);
            more("security", format!("{:?}", exec.security), exec.security == crate::graph::Security::Sandbox);
            more("hostname", format!("{:?}", exec.hostname), exec.hostname.is_none());
            more("platform", exec.platform.to_string(), exec.platform == platform());
            more("script", format!("{:?}", exec.script), exec.script.is_none());
            for mount in &exec.mounts {
                let kind = match &mount.kind {
                    MountKind::Tmpfs { size_bytes } => format!("tmpfs {size_bytes:?}"),
                    other => format!("{other:?}"),
                };
                more("mount", format!("{} {kind}", mount.target), false);
            }
            text
        }
        Op::Copy(copy) => {
            let sources: Vec<String> = copy
                .sources
                .iter()
                .map(|source| match source {
                    CopySource::Path { input, pattern } => format!("{input}:{pattern}"),
                    CopySource::Inline(file) => format!("inline {}={:?}", file.name, file.content),
                    CopySource::Download { input } => format!("download {input}"),
                    CopySource::Checkout { input } => format!("checkout {input}"),
                })
                .collect();
            let mut text = format!("copy [{}] to {}", sources.join(", "), copy.destination);
            for (name, value, given) in [
                ("chown", format!("{:?}", copy.chown), copy.chown.is_some()),
                ("chmod", format!("{:?}", copy.chmod), copy.chmod.is_some()),
                ("parents", String::new(), copy.parents),
                ("excludes", format!("{:?}", copy.excludes), !copy.excludes.is_empty()),
                ("unpack", format!("{:?}", copy.unpack), copy.unpack != crate::graph::Unpack::Never),
            ] {
                if given {
                    let _ = write!(text, "\n    {name} {value}");
                }
            }
            text
        }
        Op::Mkdir(mkdir) => format!("mkdir {} for {:?}", mkdir.path, mkdir.user),
        Op::Merge => "merge".to_owned(),
        Op::Scratch => "scratch".to_owned(),
    }
}
