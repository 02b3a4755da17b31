//! `croze pull` and `croze push`.

use std::time::Instant;

use crate::builder::{BuildError, ErrorKind, registry};
use crate::cli::args::{PullArgs, PushArgs};
use crate::cli::build::{open_with_rights, print_result, tidy};
use crate::cli::environment::Environment;
use crate::cli::failure::Failure;
use crate::cli::say;
use crate::cli::signals::Signals;
use crate::diagnostic::Diagnostic;
use crate::reference::{ImageRef, Platform};

/// Fetches an image with its layers and names it; prints its name, digest and ID.
///
/// # Errors
/// Wrong arguments, a registry or a store that fails.
pub fn pull(args: &PullArgs, environment: &Environment) -> Result<(), Failure> {
    let name = image_ref(&args.name)?;
    let platform = args.platform.as_deref().or(environment.get("DOCKER_DEFAULT_PLATFORM")).map(str::parse::<Platform>);
    let platform = match platform.transpose() {
        Ok(platform) => platform.unwrap_or_else(Platform::host),
        Err(error) => return Err(Failure::usage(Diagnostic::error_without_place("bad-flag", format!("{error}")))),
    };
    let store = open_with_rights(environment)?;
    let began = Instant::now();
    let pulling = registry::pull(&store, environment.passed_on(), &name, &platform, std::time::SystemTime::now());
    let pulled = wait(pulling)?;
    tidy(&store, began, &pulled.0);
    let image = pulled.0.map_err(|error| Failure::build(error, pulled.1))?;
    if !args.quiet {
        say(&format!(
            "{name}: {} {} {}\n",
            image.platform,
            image.manifest,
            if image.is_new { "pulled" } else { "is up to date" }
        ));
    }
    print_result(&image.config.to_string())
}

/// Sends images of the store; prints `NAME@DIGEST` for each.
///
/// # Errors
/// Wrong arguments, an image that is not in the store, a registry that fails.
pub fn push(args: &PushArgs, environment: &Environment) -> Result<(), Failure> {
    let names = args.names.iter().map(|name| image_ref(name)).collect::<Result<Vec<_>, _>>()?;
    let store = open_with_rights(environment)?;
    let (pushed, signal) = wait(registry::push(&store, environment.passed_on(), &names))?;
    let pushed = pushed.map_err(|error| Failure::build(error, signal))?;
    for image in pushed {
        if !args.quiet {
            let parts = [(image.sent, "sent"), (image.mounted, "taken over"), (image.there, "there before")];
            let parts: Vec<String> =
                parts.iter().filter(|(count, _)| *count > 0).map(|(count, what)| format!("{count} {what}")).collect();
            say(&format!("blobs: {}\n", parts.join(", ")));
        }
        for name in image.names {
            print_result(&name)?;
        }
    }
    Ok(())
}

/// What was done, and the number of the signal that stopped it.
type Outcome<T> = (Result<T, BuildError>, Option<u8>);

/// Waits for `work` or a signal.
fn wait<T>(work: impl Future<Output = Result<T, BuildError>>) -> Result<Outcome<T>, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Failure::environment("runtime", &error))?;
    let outcome = runtime.block_on(async {
        let (mut signals, mut canceled) = Signals::listen().map_err(|error| Failure::environment("signals", &error))?;
        let result = tokio::select! {
            result = work => result,
            never = signals.pass_on() => match never {},
            Ok(_) = canceled.wait_for(|stop| *stop) => Err(BuildError { kind: ErrorKind::Interrupted, diagnostics: Vec::new() }),
        };
        Ok((result, signals.first()))
    });
    // blocking work that nobody waits for any more leaves temporary files at most
    runtime.shutdown_background();
    outcome
}

fn image_ref(text: &str) -> Result<ImageRef, Failure> {
    text.parse().map_err(|error| Failure::usage(Diagnostic::error_without_place("bad-name", format!("{error}"))))
}
