//! `croze context ls`: what a build is offered, and what that costs.

use std::path::{Path, PathBuf};

use crate::builder::context_listing::{self, ContextListing, Sum};
use crate::cli::build::print_result;
use crate::cli::failure::Failure;
use crate::cli::listing::{columns, size};

/// `--context-modes`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum ContextModes {
    /// Those on disk.
    AsIs,
    /// Those that git, a umask and other systems agree on.
    Normalize,
}

/// `croze context`.
#[derive(Debug, clap::Args)]
pub struct ContextArgs {
    /// What to do.
    #[command(subcommand)]
    pub command: ContextCommand,
}

/// What to do with a context.
#[derive(Debug, clap::Subcommand)]
pub enum ContextCommand {
    /// List folders and files by size, with what the ignore file drops of them
    Ls {
        /// The directory
        #[arg(default_value = ".", value_name = "CONTEXT")]
        context: String,
        /// Dockerfile, beside which an ignore file of its own may lie [default: CONTEXT/Dockerfile]
        #[arg(short, long, value_name = "FILE")]
        file: Option<PathBuf>,
        /// How it is printed
        #[arg(long, value_name = "FORMAT", default_value = "table")]
        format: ListingFormat,
    },
}

/// How a listing is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum ListingFormat {
    /// For people.
    Table,
    /// For programs.
    Json,
}

/// Lists what a context holds and what its ignore file drops, the largest first.
///
/// # Errors
/// The context is no directory or cannot be read; its ignore file is none.
pub fn run(args: &ContextArgs) -> Result<(), Failure> {
    let ContextCommand::Ls { context, file, format } = &args.command;
    let listing = context_listing::list(Path::new(context), file.as_deref()).map_err(|error| Failure::build(error, None))?;
    match format {
        ListingFormat::Json => print_result(&serde_json::to_string(&listing).expect("a listing is plain data")),
        ListingFormat::Table => print_result(table(&listing).trim_end()),
    }
}

fn table(listing: &ContextListing) -> String {
    let mut rows = vec![["PATH", "SIZE", "FILES", "IGNORED", "FILES"].map(str::to_owned)];
    let row = |path: &str, offered: Sum, ignored: Sum| {
        let cells =
            |sum: Sum| if sum.files == 0 { ["-".to_owned(), "-".to_owned()] } else { [size(sum.bytes), sum.files.to_string()] };
        let ([size, files], [dropped, dropped_files]) = (cells(offered), cells(ignored));
        [path.to_owned(), size, files, dropped, dropped_files]
    };
    rows.extend(listing.entries.iter().map(|entry| row(&entry.path, entry.offered, entry.ignored)));
    rows.push(row("all", listing.offered, listing.ignored));
    let mut text = columns(&rows);
    if !listing.largest.is_empty() {
        let mut rows = vec![["LARGEST FILES", "SIZE"].map(str::to_owned)];
        rows.extend(
            listing.largest.iter().map(|file| [String::from_utf8_lossy(file.path.as_bytes()).into_owned(), size(file.bytes)]),
        );
        text = format!("{}\n\n{}", text.trim_end(), columns(&rows));
    }
    if !listing.ignored_by.is_empty() {
        let mut rows = vec![["IGNORED BY", "SIZE", "FILES"].map(str::to_owned)];
        let row = |pattern: &context_listing::PatternSum| {
            [pattern.pattern.clone(), size(pattern.dropped.bytes), pattern.dropped.files.to_string()]
        };
        rows.extend(listing.ignored_by.iter().map(row));
        text = format!("{}\n\n{}", text.trim_end(), columns(&rows));
    }
    text
}
