//! `croze run`.

use std::io::{self, IsTerminal};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use crate::builder::{self, RunRequest, RunResult, StandardStreams, Volume, Wiring};
use crate::cli::args::RunArgs;
use crate::cli::build::{open_with_rights, tidy};
use crate::cli::environment::Environment;
use crate::cli::failure::Failure;
use crate::cli::request::Problems;
use crate::cli::resources::CommandSettings;
use crate::cli::say;
use crate::cli::signals;
use crate::cli::values::{self, BadValue};
use crate::event::{Event, EventSink};

/// Runs an image's command to its end.
///
/// # Errors
/// Its exit code, if that is not 0; all that can go wrong before it runs.
pub fn run(args: RunArgs, environment: &Environment) -> Result<(), Failure> {
    let store = open_with_rights(environment)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::environment("runtime", &error))?;
    let began = Instant::now();
    let result = runtime.block_on(async {
        let signals = signals::as_bytes().map_err(|error| Failure::environment("signals", &error))?;
        let request = request(args, environment, signals)?;
        let result = builder::run(store.clone(), request).await;
        tidy(&store, began, &result);
        result.map_err(|error| Failure::build(error, None))
    });
    runtime.shutdown_background();
    match result? {
        RunResult { code: 0, .. } => Ok(()),
        RunResult { code, diagnostic } => Err(Failure::command(code, diagnostic)),
    }
}

fn request(args: RunArgs, environment: &Environment, signals: std::os::fd::OwnedFd) -> Result<RunRequest, Failure> {
    let mut problems = Problems::default();
    if args.tty && !(io::stdin().is_terminal() && io::stdout().is_terminal()) {
        problems.say("no-terminal", "`--tty` takes a terminal, and standard input or output is none");
    }
    let wiring = match (args.tty, args.interactive) {
        (true, _) => Wiring::Terminal,
        (false, true) => Wiring::Streams(StandardStreams::All),
        (false, false) => Wiring::Streams(StandardStreams::Output),
    };
    let mut words = args.image_and_command.into_iter();
    let image = match words.next() {
        Some(flag) if flag.starts_with('-') => {
            problems.say("bad-flag", format!("unknown flag `{flag}`"));
            None
        }
        image => image.unwrap_or_default().parse().map_err(|error| problems.say("bad-name", format!("{error}"))).ok(),
    };
    let platform = args.platform.as_deref().map(str::parse).transpose();
    let CommandSettings { network, extra_hosts, resources, shm_size_bytes, ulimits } = args.commands.settings(&mut problems);
    let request = RunRequest {
        command: words.collect(),
        entrypoint: args.entrypoint,
        env: problems.some("--env", &args.env, |text| variable(text, environment)),
        volumes: problems.all("--volume", &args.volumes, volume),
        cwd: args.workdir,
        user: args.user,
        network,
        hostname: args.hostname,
        extra_hosts,
        shm_size_bytes,
        resources,
        ulimits,
        platform: platform.unwrap_or_else(|error| {
            problems.say("bad-flag", format!("invalid value for `--platform`: {error}"));
            None
        }),
        pull: args.pull,
        wiring,
        signals,
        events: Arc::new(Notes),
        client_env: environment.passed_on(),
        now: SystemTime::now(),
        image: match image {
            Some(image) => image,
            None => return Err(problems.into_failure()),
        },
    };
    if problems.is_empty() { Ok(request) } else { Err(problems.into_failure()) }
}

/// Shows what people should know about the command's surroundings.
struct Notes;

impl EventSink for Notes {
    fn event(&self, event: Event) {
        if let Event::Note { text, .. } = event {
            say(&format!("note: {text}\n"));
        }
    }
}

/// `NAME=VALUE`; `NAME` alone takes the client's variable, and is left out where that is unset.
fn variable(text: &str, environment: &Environment) -> Result<Option<String>, BadValue> {
    Ok(values::build_arg(text, environment)?.map(|(name, value)| format!("{name}={value}")))
}

/// `SOURCE:TARGET[:ro|:rw]`, both absolute, but for a source that begins with `.`.
fn volume(text: &str) -> Result<Volume, BadValue> {
    let form = "SOURCE:TARGET[:ro]";
    let wrong = || BadValue::Form { value: text.to_owned(), form };
    let mut parts = text.split(':');
    let (source, target) = parts.next().zip(parts.next()).ok_or_else(wrong)?;
    let writable = match (parts.next(), parts.next()) {
        (None | Some("rw" | ""), None) => true,
        (Some("ro"), None) => false,
        _ => return Err(wrong()),
    };
    if !target.starts_with('/') || target.trim_matches('/').is_empty() {
        return Err(wrong());
    }
    if !source.starts_with(['/', '.']) {
        return Err(BadValue::Unavailable { what: "volumes by name are" });
    }
    let source: PathBuf = Path::new(source)
        .canonicalize()
        .map_err(|error| BadValue::Path { path: source.to_owned(), reason: crate::diagnostic::with_causes(&error) })?;
    Ok(Volume { source, target: target.to_owned(), writable })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn volumes_have_a_source_and_a_target() {
        let read = |text: &str| volume(text).map(|volume| (volume.target, volume.writable));
        assert_eq!(read("/:/host"), Ok(("/host".to_owned(), true)));
        assert_eq!(read("/:/host:ro"), Ok(("/host".to_owned(), false)));
        for bad in ["/", "/:", "/:host", "/:/", "/:/host:rx", "/:/host:ro:z", "name:/data", "/no/such/place:/data"] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }
}
