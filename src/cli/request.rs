//! `croze build`'s arguments as a [`BuildRequest`]. All wrong flags are reported at once.

use std::io::{self, IsTerminal, Read};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use crate::builder::{
    Asked, Attestations, BuildRequest, ContextSource, DockerfileSource, Locking, Modes, NoCache, StandardStreams, Strictness,
    Wiring,
};
use crate::cli::args::{BuildArgs, OnError, ProgressMode};
use crate::cli::call::Call;
use crate::cli::context::ContextModes;
use crate::cli::environment::Environment;
use crate::cli::failure::Failure;
use crate::cli::resources::CommandSettings;
use crate::cli::values::{self, BadValue};
use crate::diagnostic::Diagnostic;
use crate::graph::Limits;
use crate::reference::{ImageRef, Platform};

/// What to do with the Dockerfile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// Build it.
    Build,
    /// Tell something about it.
    Call(Call),
}

/// What `croze build` was asked for, read and checked.
pub struct Order {
    /// Build or check.
    pub method: Method,
    /// How to show it.
    pub progress: ProgressMode,
    /// What the builder needs.
    pub request: BuildRequest,
    /// Things to tell the user before the build starts, one line each.
    pub notes: Vec<String>,
}

/// Reads the values of all flags. `now` becomes the build's time.
///
/// # Errors
/// One diagnostic per wrong flag, in the order of the fields; at least one.
pub fn read(args: BuildArgs, environment: &Environment, now: SystemTime) -> Result<Order, Vec<Diagnostic>> {
    let mut problems = Problems::default();
    refuse_unavailable(&args, &mut problems);
    let mut notes = notes(&args);
    let cache_from =
        wished(problems.all("--cache-from", &args.cache_from, |text| values::cache_source(text, environment)), &mut notes);
    let cache_to = wished(problems.all("--cache-to", &args.cache_to, |text| values::cache_target(text, environment)), &mut notes);
    let order = Order {
        method: method(&args, &mut problems),
        progress: progress(&args, environment, &mut problems),
        notes,
        request: BuildRequest { cache_from, cache_to, ..request(args, environment, now, &mut problems) },
    };
    if problems.0.is_empty() { Ok(order) } else { Err(problems.0) }
}

fn request(args: BuildArgs, environment: &Environment, now: SystemTime, problems: &mut Problems) -> BuildRequest {
    if args.context == "-" && args.file.as_deref() == Some(Path::new("-")) {
        problems.say("two-streams", "context and Dockerfile cannot both be standard input");
    }
    if on_failure(args.on_error, args.debug_on_failure).is_some()
        && (args.context == "-" || args.file.as_deref() == Some(Path::new("-")))
    {
        problems.say("two-streams", "a shell for failed steps and the context or Dockerfile cannot both read standard input");
    }
    let CommandSettings { network, extra_hosts, resources, shm_size_bytes, ulimits } = args.commands.settings(problems);
    BuildRequest {
        context: context(&args.context),
        context_modes: match args.context_modes {
            ContextModes::AsIs => Modes::AsIs,
            ContextModes::Normalize => Modes::Normalized,
        },
        dockerfile: dockerfile(args.file),
        named_contexts: problems.all("--build-context", &args.build_contexts, values::named_context),
        target: args.target.filter(|target| !target.is_empty()),
        build_args: problems.some("--build-arg", &args.build_args, |text| values::build_arg(text, environment)),
        labels: problems.all("--label", &args.labels, values::label),
        tags: problems.all("--tag", &args.tags, tag),
        tags_as_written: args.tags.clone(),
        platforms: platforms(&args.platforms, environment, problems),
        no_cache: no_cache(args.no_cache, args.no_cache_filter),
        cache_from: Vec::new(),
        cache_to: Vec::new(),
        pull: args.pull,
        outputs: outputs(args.outputs, args.load, args.push),
        annotations: args.annotations,
        attestations: attestations(&args.attest, args.provenance.as_deref(), args.sbom.as_deref(), problems),
        locking: locking(args.lock.as_deref(), args.locked, problems),
        strictness: if args.strict { Strictness::Strict } else { Strictness::Lenient },
        secrets: problems.some("--secret", &args.secrets, |text| values::secret(text, environment)),
        ssh: problems.all("--ssh", &args.ssh, |text| values::ssh_agent(text, environment)),
        allow: problems.all("--allow", &args.allow, values::entitlement),
        network,
        extra_hosts,
        resources,
        cgroup_parent: args.cgroup_parent.clone().filter(|parent| !parent.is_empty()),
        shm_size_bytes,
        ulimits,
        limits: Limits {
            time: args.step_timeout.and_then(|text| problems.one("--step-timeout", &text, values::time_limit)).flatten(),
            silence: args
                .no_output_timeout
                .and_then(|text| problems.one("--no-output-timeout", &text, values::time_limit))
                .flatten(),
            retry: args.retry_run.and_then(|text| problems.one("--retry-run", &text, values::retry)).flatten(),
        },
        on_failure: on_failure(args.on_error, args.debug_on_failure),
        max_parallelism: usize::from(args.max_parallelism),
        now,
        stdout: Box::new(std::io::stdout()),
        client_env: environment.passed_on(),
    }
}

fn context(text: &str) -> ContextSource {
    match text {
        "-" => ContextSource::Stream(stdin()),
        text if values::is_remote(text) => ContextSource::Remote(text.to_owned()),
        text => ContextSource::Directory(PathBuf::from(text)),
    }
}

fn dockerfile(file: Option<PathBuf>) -> DockerfileSource {
    match file {
        None => DockerfileSource::Default,
        Some(file) if file == Path::new("-") => DockerfileSource::Stream(stdin()),
        Some(file) => match file.to_str() {
            Some(text) if text.starts_with("http://") || text.starts_with("https://") => DockerfileSource::Url(text.to_owned()),
            _ => DockerfileSource::File(file),
        },
    }
}

fn stdin() -> Box<dyn Read + Send> {
    Box::new(io::stdin())
}

fn tag(text: &str) -> Result<ImageRef, BadValue> {
    let image_ref: ImageRef = text.parse()?;
    match image_ref.digest {
        Some(_) => Err(BadValue::Form { value: text.to_owned(), form: "NAME[:TAG]" }),
        None => Ok(image_ref),
    }
}

/// `--provenance` and `--sbom` are short forms of `--attest`, and count more, as with buildx.
fn attestations(attest: &[String], provenance: Option<&str>, sbom: Option<&str>, problems: &mut Problems) -> Attestations {
    let mut asked = Attestations::default();
    let long = attest.iter().map(|text| ("--attest", text.clone()));
    let short = |kind: &str, value: &str| values::attestation_of(kind, value);
    let provenance = provenance.map(|value| ("--provenance", short("provenance", value)));
    let sbom = sbom.map(|value| ("--sbom", short("sbom", value)));
    for (flag, text) in long.chain(provenance).chain(sbom) {
        match problems.one(flag, &text, values::attestation) {
            Some(values::Attestation::Provenance(provenance)) => asked.provenance = provenance,
            Some(values::Attestation::Sbom(sbom)) => asked.sbom = sbom,
            None => {}
        }
    }
    asked
}

fn locking(lock: Option<&str>, locked: bool, problems: &mut Problems) -> Locking {
    let asked = match lock {
        None => Locking::Obey,
        Some("update") => Locking::Update,
        Some(text) => match values::boolean(text) {
            Ok(true) => Locking::Write,
            Ok(false) => Locking::Obey,
            Err(_) => {
                problems.say("bad-flag", format!("invalid value for `--lock`: `{text}` is not one of `true`, `false`, `update`"));
                Locking::Obey
            }
        },
    };
    match (asked, locked) {
        (asked, false) => asked,
        (Locking::Obey, true) => Locking::Require,
        (_, true) => {
            problems.say("bad-flag", "`--lock` and `--locked` cannot be used together");
            Locking::Require
        }
    }
}

/// `--load` is buildx's short form of an output; `--push` makes images that are outputs already pushed ones, and is one more
/// output where there is none.
fn outputs(mut outputs: Vec<String>, load: bool, push: bool) -> Vec<String> {
    let kind =
        |text: &str, kind: &str| values::csv_fields(text).iter().any(|field| field.split_once('=') == Some(("type", kind)));
    let is_image = |text: &String| kind(text, "image") || kind(text, "registry");
    outputs.extend(load.then(|| "type=docker".to_owned()));
    if push && !outputs.iter().any(is_image) {
        outputs.push("type=image".to_owned());
    }
    for output in outputs.iter_mut().filter(|output| push && is_image(output)) {
        output.push_str(",push=true");
    }
    outputs
}

fn platforms(flags: &[String], environment: &Environment, problems: &mut Problems) -> Vec<Platform> {
    let default: Vec<String> = environment
        .get("DOCKER_DEFAULT_PLATFORM")
        .filter(|text| !text.is_empty())
        .map(|text| text.split(',').map(str::to_owned).collect())
        .unwrap_or_default();
    let texts: &[String] = if flags.is_empty() { &default } else { flags };
    // alone, `local` is what is built anyway; beside others it has to be said
    if let [text] = texts
        && text == "local"
    {
        return Vec::new();
    }
    let platform = |text: &str| match text.trim() {
        "local" => Ok(Platform::host()),
        text => text.parse().map_err(BadValue::from),
    };
    problems.all("--platform", texts, platform)
}

/// How a shell reaches people, if they want one.
fn on_failure(on_error: Option<OnError>, debug: bool) -> Option<Wiring> {
    let wanted = on_error.map_or(debug, |on_error| on_error == OnError::Shell);
    let has_terminal = io::stdin().is_terminal() && io::stdout().is_terminal();
    wanted.then_some(if has_terminal { Wiring::Terminal } else { Wiring::Streams(StandardStreams::OutputOnStderr) })
}

fn no_cache(all: bool, stages: Vec<String>) -> NoCache {
    match (all, stages.is_empty()) {
        (true, _) => NoCache::All,
        (false, true) => NoCache::Never,
        (false, false) => NoCache::Stages(stages),
    }
}

fn method(args: &BuildArgs, problems: &mut Problems) -> Method {
    let text = if args.check { "check" } else { &args.call };
    match Call::parse(text) {
        Ok(Some(call)) => Method::Call(call),
        Ok(None) => Method::Build,
        Err(problem) => {
            problems.0.push(problem);
            Method::Build
        }
    }
}

fn progress(args: &BuildArgs, environment: &Environment, problems: &mut Problems) -> ProgressMode {
    let from_environment = || environment.get("BUILDKIT_PROGRESS").and_then(|text| clap::ValueEnum::from_str(text, true).ok());
    match (args.quiet, args.progress) {
        (true, None | Some(ProgressMode::Quiet)) => ProgressMode::Quiet,
        (true, Some(_)) => {
            problems.say("bad-flag", "`--quiet` and `--progress` cannot be used together");
            ProgressMode::Quiet
        }
        (false, Some(mode)) => mode,
        (false, None) => from_environment().unwrap_or(ProgressMode::Auto),
    }
}

/// Flags that ask for something croze cannot give. What only asks *not* to have it is fine.
fn refuse_unavailable(args: &BuildArgs, problems: &mut Problems) {
    if !args.policy.is_empty() {
        problems.say("unavailable", "`--policy` is not available");
    }
}

fn notes(args: &BuildArgs) -> Vec<String> {
    let notes = [(args.ignored.squash, "`--squash` is ignored, as by buildx; a stage with one `COPY --from` has one layer")];
    notes.into_iter().filter(|(said, _)| *said).map(|(_, text)| text.to_owned()).collect()
}

/// What can be done; of the rest there is a note.
fn wished<T>(wishes: Vec<Asked<T>>, notes: &mut Vec<String>) -> Vec<T> {
    let known = |wish| match wish {
        Asked::Known(value) => Some(value),
        Asked::Ignored(why) => {
            notes.push(why);
            None
        }
    };
    wishes.into_iter().filter_map(known).collect()
}

/// What is wrong with the flags, so far.
#[derive(Default)]
pub struct Problems(Vec<Diagnostic>);

impl Problems {
    /// One more.
    pub fn say(&mut self, code: &'static str, message: impl Into<String>) {
        self.0.push(Diagnostic::error_without_place(code, message));
    }

    /// Reads the value of a flag.
    pub fn one<T>(&mut self, flag: &str, text: &str, read: impl FnOnce(&str) -> Result<T, BadValue>) -> Option<T> {
        read(text).map_err(|error| self.say("bad-flag", format!("invalid value for `{flag}`: {error}"))).ok()
    }

    /// Reads all values of a flag.
    pub fn all<T>(&mut self, flag: &str, texts: &[String], read: impl Fn(&str) -> Result<T, BadValue>) -> Vec<T> {
        texts.iter().filter_map(|text| self.one(flag, text, &read)).collect()
    }

    /// The same, where values may be left out.
    pub fn some<T>(&mut self, flag: &str, texts: &[String], read: impl Fn(&str) -> Result<Option<T>, BadValue>) -> Vec<T> {
        self.all(flag, texts, read).into_iter().flatten().collect()
    }

    /// Whether nothing is wrong.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// All that is wrong; not to be asked when nothing is.
    pub fn into_failure(self) -> Failure {
        Failure::usages(self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::builder::attest::{Detail, Provenance, Reach, Sbom, Version};
    use crate::cli::args::{Args, Command};
    use clap::Parser;

    fn order(line: &str, variables: &[(&str, &str)]) -> Result<Order, Vec<Diagnostic>> {
        let args = Args::try_parse_from(["croze", "build"].into_iter().chain(line.split_whitespace())).expect("known flags");
        match args.command {
            Command::Build(args) => read(*args, &Environment::with(variables), SystemTime::UNIX_EPOCH),
            other => panic!("parsed as {other:?}"),
        }
    }

    #[track_caller]
    fn check_refused(line: &str, expected: &[&str]) {
        let Err(diagnostics) = order(line, &[]) else { panic!("`{line}` is accepted") };
        let messages: Vec<&str> = diagnostics.iter().map(|diagnostic| diagnostic.message.as_str()).collect();
        assert_eq!(messages, expected);
    }

    fn accepted(line: &str, variables: &[(&str, &str)]) -> Order {
        order(line, variables).unwrap_or_else(|diagnostics| panic!("{diagnostics:?}"))
    }

    #[test]
    fn all_wrong_flags_are_reported_at_once() {
        check_refused(
            "--policy x -t Upper --network nope --shm-size x .",
            &[
                "`--policy` is not available",
                "invalid value for `--network`: `nope` is not one of `default`, `none`, `host`",
                "invalid value for `--shm-size`: `x` is not a size such as `64m`",
                "invalid value for `--tag`: image name `Upper` has upper-case letters; repository names are lower case",
            ],
        );
    }

    #[test]
    fn a_push_is_an_output() {
        let outputs = |line: &str| accepted(line, &[]).request.outputs;
        assert_eq!(outputs("--push ."), ["type=image,push=true"]);
        assert_eq!(outputs("--push -o type=image,name=x ."), ["type=image,name=x,push=true"]);
        assert_eq!(outputs("--push -o out ."), ["out", "type=image,push=true"]);
        assert_eq!(outputs("-o type=registry ."), ["type=registry"]);
    }

    #[test]
    fn asking_for_no_attestations_is_fine() {
        let asked = |line: &str| accepted(line, &[]).request.attestations;
        assert!(!asked("--provenance=false --sbom=0 --attest type=provenance,disabled=true .").any());
        assert!(!asked("--attest type=sbom --sbom=false .").any());
        let all = asked("--provenance=mode=max,version=v0.2 --attest type=sbom .");
        assert_eq!(all.provenance, Some(Provenance { detail: Detail::Max, version: Version::V02, ..Provenance::default() }));
        assert_eq!(all.sbom, Some(Sbom::BuiltIn));
        assert_eq!(asked("--provenance .").provenance, Some(Provenance::default()));
        let vouched = Provenance { builder_id: "me".into(), reproducible: true, reach: Reach::Inline, ..Provenance::default() };
        assert_eq!(asked("--attest type=provenance,builder-id=me,reproducible=1,inline-only=true .").provenance, Some(vouched));
        check_refused(
            "--provenance=mode=all .",
            &["invalid value for `--provenance`: `mode=all` is not one of `mode=min`, `mode=max`"],
        );
        check_refused(
            "--attest type=x .",
            &["invalid value for `--attest`: `type=x` is not one of `type=provenance`, `type=sbom`"],
        );
        let Some(Sbom::Scanner(scanner)) = asked("--sbom=generator=a/b,X=1 .").sbom else { panic!("no scanner") };
        assert_eq!((scanner.image.canonical(), scanner.parameters["X"].as_str()), ("docker.io/a/b:latest".to_owned(), "1"));
        check_refused("--sbom=X=1 .", &["invalid value for `--sbom`: unknown key `X` in `type=sbom,X=1`"]);
    }

    #[test]
    fn the_context_is_a_directory_a_stream_or_remote() {
        let kind = |line: &str| match accepted(line, &[]).request.context {
            ContextSource::Directory(path) => path.display().to_string(),
            ContextSource::Stream(_) => "stream".to_owned(),
            ContextSource::Remote(text) => format!("remote {text}"),
        };
        assert_eq!(kind("a/b"), "a/b");
        assert_eq!(kind("-"), "stream");
        assert_eq!(kind("https://x/y.git"), "remote https://x/y.git");
        check_refused("-f - -", &["context and Dockerfile cannot both be standard input"]);
    }

    #[test]
    fn the_platform_may_come_from_the_environment() {
        let platform = |line: &str, variables: &[(&str, &str)]| {
            let platforms = accepted(line, variables).request.platforms;
            platforms.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(platform(".", &[]), "");
        assert_eq!(platform("--platform local .", &[]), "");
        assert_eq!(platform(".", &[("DOCKER_DEFAULT_PLATFORM", "linux/arm64")]), "linux/arm64");
        assert_eq!(platform("--platform linux/386 .", &[("DOCKER_DEFAULT_PLATFORM", "linux/arm64")]), "linux/386");
        let host = Platform::host();
        assert_eq!(
            platform("--platform linux/arm64,local --platform linux/arm/v7 .", &[]),
            format!("linux/arm64 {host} linux/arm/v7")
        );
        check_refused(
            "--platform linux/amd64,a/b/c/d .",
            &["invalid value for `--platform`: `a/b/c/d` is not a platform such as `linux/amd64` or `linux/arm/v7`"],
        );
    }

    #[test]
    fn checks_have_two_spellings() {
        let method = |line: &str| accepted(line, &[]).method;
        assert_eq!(method("--check ."), method("--call=lint ."));
        assert_ne!(method("--check ."), method("--call=outline ."));
        assert_eq!(method("--call=build ."), Method::Build);
        check_refused("--call=outlin .", &["`--call=outlin` is not known"]);
    }

    #[test]
    fn quiet_wins_over_the_environment_only() {
        assert_eq!(accepted("-q .", &[("BUILDKIT_PROGRESS", "plain")]).progress, ProgressMode::Quiet);
        assert_eq!(accepted(".", &[("BUILDKIT_PROGRESS", "rawjson")]).progress, ProgressMode::Rawjson);
        check_refused("-q --progress plain .", &["`--quiet` and `--progress` cannot be used together"]);
    }

    #[test]
    fn stages_without_cache() {
        assert_eq!(accepted(".", &[]).request.no_cache, NoCache::Never);
        assert_eq!(accepted("--no-cache .", &[]).request.no_cache, NoCache::All);
        assert_eq!(accepted("--no-cache-filter a,b .", &[]).request.no_cache, NoCache::Stages(vec!["a".into(), "b".into()]));
    }
}
