//! `croze lock`.

use std::sync::Arc;
use std::time::{Instant, SystemTime};

use crate::builder::{self, Locking};
use crate::cli::args::LockArgs;
use crate::cli::build::{drive, open_with_rights, print_result, tidy};
use crate::cli::environment::Environment;
use crate::cli::failure::Failure;
use crate::cli::progress::Console;
use crate::cli::request;

/// Asks what the names in the Dockerfile stand for, and prints the path of the file that says so.
///
/// # Errors
/// Wrong flags, a Dockerfile that is none, a source that cannot be reached.
pub fn run(args: LockArgs, environment: &Environment) -> Result<(), Failure> {
    let LockArgs { update, build } = args;
    let mut order = request::read(build, environment, SystemTime::now()).map_err(Failure::usages)?;
    order.request.locking = match update.as_slice() {
        [] => Locking::Write,
        names if names.iter().any(String::is_empty) => Locking::Update,
        names => Locking::Renew(names.to_vec()),
    };
    let store = open_with_rights(environment)?;
    let console = Arc::new(Console::new(order.progress, environment.color));
    let began = Instant::now();
    let asking = |canceled| builder::lock_names(store.clone(), order.request, console.clone(), canceled);
    let (result, signal) = drive(&console, asking)?;
    tidy(&store, began, &result);
    console.finish_failed();
    let path = result.map_err(|error| Failure::build(error, signal))?;
    print_result(&path.display().to_string())
}
