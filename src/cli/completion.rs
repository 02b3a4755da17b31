//! `croze completion`: what a shell has to know to complete croze's commands and flags.

use std::io::Write as _;
use std::path::Path;

use clap::CommandFactory;

use super::args::{Args, CompletionArgs};
use super::failure::Failure;

/// Prints the script of a shell.
pub fn print(args: &CompletionArgs) -> Result<(), Failure> {
    // the generator panics where it cannot write
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Args::command(), "croze", &mut script);
    let written = std::io::stdout().write_all(&script);
    written.map_err(|error| Failure::file("write to", Path::new("/dev/stdout"), &error))
}
