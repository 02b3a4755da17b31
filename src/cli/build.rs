//! `croze build`.

use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::watch;

use crate::builder::hygiene;
use crate::builder::{self, BuildError, BuildResult, DISK_FULL};
use crate::cli::args::BuildArgs;
use crate::cli::call::{self, Call};
use crate::cli::environment::Environment;
use crate::cli::explain::Explaining;
use crate::cli::failure::Failure;
use crate::cli::metadata::ResultFiles;
use crate::cli::progress::{Console, TICK};
use crate::cli::request::{self, Method, Order};
use crate::cli::say;
use crate::cli::signals::Signals;
use crate::diagnostic::render::render_all;
use crate::diagnostic::{Diagnostic, Severity};
use crate::event::EventSink;
use crate::store::Store;

/// Builds, shows progress on stderr and leaves the results where the flags say.
///
/// # Errors
/// All that can go wrong; see [`Failure::exit_code`].
pub fn run(args: BuildArgs, environment: &Environment) -> Result<(), Failure> {
    let now = SystemTime::now();
    let (quiet, explain) = (args.quiet, args.explain);
    let (iidfile, metadata_file) = (args.iidfile.clone(), args.metadata_file.clone());
    let order = request::read(args, environment, now).map_err(Failure::usages)?;
    for note in &order.notes {
        say(&format!("note: {note}\n"));
    }
    if let Method::Call(call) = order.method {
        return answer(call, order, environment);
    }
    let files = ResultFiles::start(iidfile, metadata_file)?;
    if let Some(note) = builder::acquire_rights().map_err(|error| Failure::build(error, None))? {
        say(&format!("note: {note}\n"));
    }
    let store = open_store(environment)?;
    let console = Arc::new(Console::new(order.progress, environment.color));
    let Order { request, .. } = order;
    let began = Instant::now();
    let explaining = explain.then(|| Arc::new(Explaining::new(console.clone())));
    let events: Arc<dyn EventSink> = match &explaining {
        Some(explaining) => explaining.clone(),
        None => console.clone(),
    };
    let (result, signal) = drive(&console, |canceled| builder::build(store.clone(), request, events, canceled))?;
    tidy(&store, began, &result);
    let explained = || explaining.iter().for_each(|explaining| say(&explaining.text()));
    match (result, signal) {
        (Ok(result), _) => {
            console.finish_built(&result_lines(&result));
            explained();
            files.write(&result, now)?;
            if quiet {
                print_result(&result.image_id.map(|id| id.to_string()).unwrap_or_default())?;
            }
            Ok(())
        }
        (Err(mut error), signal) => {
            let shown = console.finish_failed();
            explained();
            error.diagnostics.retain(|diagnostic| diagnostic.severity == Severity::Error || !shown.contains(diagnostic));
            Err(Failure::build(error, signal))
        }
    }
}

/// Answers a call on stdout: it is the result.
fn answer(call: Call, order: Order, environment: &Environment) -> Result<(), Failure> {
    let store = open_store(environment)?;
    let console = Arc::new(Console::new(order.progress, environment.color));
    let Order { request, .. } = order;
    let (answer, signal) = drive(&console, |canceled| call::ask(call, store, request, console.clone(), canceled))?;
    console.finish_failed();
    let answer = answer.map_err(|error| Failure::build(error, signal))?;
    std::io::stdout()
        .lock()
        .write_all(answer.text.as_bytes())
        .map_err(|error| Failure::file("write to", Path::new("/dev/stdout"), &error))?;
    say(&render_all(&answer.said, environment.color));
    match (answer.error, answer.found) {
        (Some(error), _) => Err(Failure::build(error, signal)),
        (None, true) if !call.ignores_status => Err(Failure::check_failed()),
        (None, _) => Ok(()),
    }
}

/// Opens the store that the flag, the environment or the user's identity names.
///
/// # Errors
/// No directory is known, or it cannot be used.
pub fn open_store(environment: &Environment) -> Result<Store, Failure> {
    let root = environment.store_root().ok_or_else(|| {
        let message = "no directory for the store: neither `HOME` nor `XDG_DATA_HOME` is set";
        Failure::usage(Diagnostic::error_without_place("no-store", message).help("pass `--root DIR` or set `CROZE_ROOT`"))
    })?;
    builder::open_store(&root).map_err(|error| Failure::build(error, None))
}

/// Opens the store with the rights that its files take: trees of an ordinary user's store belong to ids of that user's.
///
/// # Errors
/// As [`open_store`]; the machine refuses those rights.
pub fn open_with_rights(environment: &Environment) -> Result<Store, Failure> {
    builder::acquire_rights().map_err(|error| Failure::build(error, None))?;
    open_store(environment)
}

/// The share of a command's time that goes into deleting what earlier ones have dropped, and the least time.
const TIDYING_SHARE: u32 = 20;
const TIDYING_TIME: Duration = Duration::from_millis(5);

/// Deletes what this and earlier commands have dropped, as long as it does not matter beside the time that passed since
/// `began`; after a full disk, all of it. A command that wrote nothing deletes nothing.
pub fn tidy<T>(store: &Store, began: Instant, result: &Result<T, BuildError>) {
    const FILES_AT_ONCE: usize = 64;
    if !store.has_written() {
        return;
    }
    let is_full = |error: &BuildError| error.diagnostics.iter().any(|diagnostic| diagnostic.code == DISK_FULL);
    let thorough = result.as_ref().is_err_and(is_full);
    let deadline = Instant::now() + (began.elapsed() / TIDYING_SHARE).max(TIDYING_TIME);
    // a collection that fails fails nobody's build
    let _may_wait = hygiene::collect(store, SystemTime::now());
    while thorough || Instant::now() < deadline {
        match store.empty_trash(FILES_AT_ONCE) {
            Ok(false) => {}
            // what cannot be deleted now may be next time, and fails nobody's build
            Ok(true) | Err(_) => break,
        }
    }
}

/// Prints a line on stdout; `Err` where nobody can read it.
///
/// # Errors
/// The write fails.
pub fn print_result(line: &str) -> Result<(), Failure> {
    writeln!(std::io::stdout().lock(), "{line}").map_err(|error| Failure::file("write to", Path::new("/dev/stdout"), &error))
}

/// What a build gave, and the first signal's number.
pub(super) type Outcome<T> = (Result<T, BuildError>, Option<u8>);

/// Runs a build on a runtime of one thread, ticking the console and passing signals on.
pub(super) fn drive<T, F>(console: &Console, build: impl FnOnce(watch::Receiver<bool>) -> F) -> Result<Outcome<T>, Failure>
where
    F: Future<Output = Result<T, BuildError>>,
{
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::environment("runtime", &error))?;
    let outcome = runtime.block_on(async {
        let (mut signals, canceled) = Signals::listen().map_err(|error| Failure::environment("signals", &error))?;
        let mut build = std::pin::pin!(build(canceled));
        let mut ticks = tokio::time::interval_at(tokio::time::Instant::now() + TICK, TICK);
        let result = loop {
            tokio::select! {
                biased;
                result = &mut build => break result,
                _ = ticks.tick() => {
                    console.tick();
                    if signals.first().is_some() {
                        console.hurry();
                    }
                }
                never = signals.pass_on() => match never {},
            }
        };
        if signals.first().is_some() {
            console.hurry();
        }
        Ok((result, signals.first()))
    });
    // a thread that still reads standard input must not keep the process
    runtime.shutdown_background();
    outcome
}

/// What there is now, for people.
fn result_lines(result: &BuildResult) -> Vec<String> {
    let names: Vec<String> = result.names.iter().map(ToString::to_string).collect();
    let named = if names.is_empty() { String::new() } else { format!(" {}", names.join(", ")) };
    let id = result.image_id.map(|id| format!(" {id}")).unwrap_or_default();
    let image = format!("image{named}{id}{}", steps_phrase(result.ran_steps, result.cached_steps));
    std::iter::once(image).chain(result.written.iter().cloned()).collect()
}

/// ` (2 steps ran, 1 cached)`; nothing for an image that needs no step.
fn steps_phrase(ran: usize, cached: usize) -> String {
    let steps = |count: usize| if count == 1 { "1 step".to_owned() } else { format!("{count} steps") };
    match (ran, cached) {
        (0, 0) => String::new(),
        (0, 1) => " (1 step cached)".to_owned(),
        (0, cached) => format!(" (all {cached} steps cached)"),
        (ran, 0) => format!(" ({} ran)", steps(ran)),
        (ran, cached) => format!(" ({} ran, {cached} cached)", steps(ran)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_counted_as_people_do() {
        let phrases = [(0, 0), (0, 1), (0, 7), (1, 0), (2, 0), (1, 6)].map(|(ran, cached)| steps_phrase(ran, cached));
        assert_eq!(
            phrases,
            ["", " (1 step cached)", " (all 7 steps cached)", " (1 step ran)", " (2 steps ran)", " (1 step ran, 6 cached)"]
        );
    }
}
