//! The command line: arguments become requests, events and results become text, failures become exit codes.
//!
//! Owns: flags with buildx's names and meanings ([`args`]), their values ([`values`]), progress displays ([`progress`]),
//! files written for the caller (`--iidfile`, `--metadata-file`), exit codes ([`failure`]), signals.
//! In:   arguments and the environment: the only room that reads them.
//! Out:  a [`BuildRequest`](crate::builder::BuildRequest); results on stdout, everything else on stderr.
//! Elsewhere: every decision about a build (`builder` and below).

use std::ffi::OsString;
use std::panic;
use std::process::ExitCode;

use clap::Parser;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::diagnostic::Diagnostic;

pub mod args;
mod build;
mod cache_mount;
mod call;
mod completion;
mod context;
mod environment;
mod explain;
pub mod failure;
mod images;
mod listing;
mod lock;
mod login;
mod metadata;
pub mod progress;
mod request;
mod resources;
mod run;
mod signals;
mod stderr;
mod store;
mod template;
mod transfer;
pub mod values;

use args::{Args, Command};
use environment::Environment;
use failure::Failure;

/// Runs the program: reads the arguments, does what they say, returns the exit code of STYLE.md's table.
pub fn main() -> ExitCode {
    install_panic_message();
    raise_descriptor_limit();
    ExitCode::from(run(std::env::args_os(), &Environment::of_process()))
}

fn run(arguments: impl IntoIterator<Item = OsString>, environment: &Environment) -> u8 {
    let args = match Args::try_parse_from(arguments) {
        Ok(args) => args,
        // clap knows which texts are answers (`--help`: stdout, 0) and which are complaints (stderr, 2)
        Err(error) => return print_clap_message(&error),
    };
    let environment = &Environment { root: args.root, ..environment.clone() };
    let result = match args.command {
        Command::Build(args) => build::run(*args, environment),
        Command::Run(args) => run::run(*args, environment),
        Command::Import(args) => images::import(&args, environment),
        Command::Images(args) => listing::list(&args, environment),
        Command::Du => store::du(environment),
        Command::Prune(args) => store::prune(&args, environment),
        Command::Fsck => store::fsck(environment),
        Command::Context(args) => context::run(&args),
        Command::CacheMount(args) => cache_mount::run(args, environment),
        Command::Completion(args) => completion::print(&args),
        Command::Explain(args) => explain::run(&args, environment),
        Command::Inspect(args) => listing::inspect(&args, environment),
        Command::History(args) => images::history(&args, environment),
        Command::Diff(args) => images::diff(&args, environment),
        Command::Lock(args) => lock::run(*args, environment),
        Command::Load(args) => images::load(&args, environment),
        Command::Save(args) => images::save(&args, environment),
        Command::Tag(args) => images::tag(&args, environment),
        Command::Rmi(args) => images::remove(&args, environment),
        Command::Pull(args) => transfer::pull(&args, environment),
        Command::Push(args) => transfer::push(&args, environment),
        Command::Login(args) => login::log_in(args, environment),
        Command::Logout(args) => login::log_out(&args, environment),
    };
    match result {
        Ok(()) => 0,
        Err(failure) => {
            failure.print(environment);
            failure.exit_code()
        }
    }
}

fn print_clap_message(error: &clap::Error) -> u8 {
    let printed = error.print();
    match (printed, u8::try_from(error.exit_code())) {
        (Ok(()), Ok(code)) => code,
        _ => Failure::usage(Diagnostic::error_without_place("usage", "the arguments cannot be read")).exit_code(),
    }
}

/// Raises the soft limit of open files to the hard one: layers, pipes of steps and connections take more than the usual
/// 1,024. Steps have limits of their own.
fn raise_descriptor_limit() {
    let limit = getrlimit(Resource::Nofile);
    // lower limits are enough for most builds, and those that need more say so
    let _kept = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
}

/// Replaces the standard panic text by one that a user can act on, and makes every panic end the process with code 70,
/// on whatever thread it happens: a build with a dead thread must not go on.
fn install_panic_message() {
    panic::set_hook(Box::new(|info| {
        let place = info.location().map_or_else(String::new, |location| format!(" at {location}"));
        let text = panic_text(info.payload());
        let version = env!("CARGO_PKG_VERSION");
        say(&format!(
            "error: croze has a bug: {text}\n  = note: version {version}{place}\n  = help: please report this together with the Dockerfile\n"
        ));
        if std::env::var_os("RUST_BACKTRACE").is_some_and(|value| value != "0") {
            say(&format!("{}\n", std::backtrace::Backtrace::force_capture()));
        }
        std::process::exit(i32::from(failure::BUG));
    }));
}

/// Writes to stderr. What nobody can read any more (`croze … 2>&1 | head`) is lost: it is no reason to fail, let alone to
/// panic, as `eprintln` does.
fn say(text: &str) {
    stderr::write_all(text.as_bytes().to_vec(), None);
}

fn panic_text(payload: &dyn std::any::Any) -> &str {
    payload
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| payload.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("a thread panicked")
}
