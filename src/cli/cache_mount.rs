//! `croze cache-mount`: what `RUN --mount=type=cache` keeps, one by one.

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use crate::builder::cache_mounts::{self, CacheMount, id_of};
use crate::cli::build::{open_with_rights, print_result};
use crate::cli::environment::Environment;
use crate::cli::failure::Failure;
use crate::cli::listing::{columns, size};
use crate::store::Store;

/// `croze cache-mount`.
#[derive(Debug, clap::Args)]
pub struct CacheMountArgs {
    /// What to do.
    #[command(subcommand)]
    pub command: CacheMountCommand,
}

/// What to do with cache mounts.
#[derive(Debug, clap::Subcommand)]
pub enum CacheMountCommand {
    /// List them
    Ls,
    /// Show where one is, and what it holds
    Inspect {
        /// Its id (without `id=`, its target), or the first digits of its name
        id: String,
    },
    /// Write the files of one as a tar
    Export {
        /// Its id, or the first digits of its name
        id: String,
        /// File to write [default: standard output]
        #[arg(short, long, value_name = "FILE")]
        output: Option<PathBuf>,
    },
    /// Replace the files of one by those of a tar
    Import {
        /// Its id
        id: String,
        /// File to read [default: standard input]
        #[arg(short, long, value_name = "FILE")]
        input: Option<PathBuf>,
    },
    /// Drop some
    Rm {
        /// Their ids, or the first digits of their names
        #[arg(required = true)]
        ids: Vec<String>,
    },
}

/// Lists, shows, copies out and in, and drops cache mounts.
///
/// # Errors
/// None is called so; a file or the store cannot be read or written.
pub fn run(args: CacheMountArgs, environment: &Environment) -> Result<(), Failure> {
    let store = open_with_rights(environment)?;
    let failed = |error| Failure::build(error, None);
    match args.command {
        CacheMountCommand::Ls => print_result(table(&cache_mounts::list(&store).map_err(failed)?).trim_end()),
        CacheMountCommand::Inspect { id } => {
            let found = cache_mounts::find(&store, &id).map_err(failed)?;
            let text: Vec<String> = found.iter().map(|mount| description(&store, mount)).collect();
            print_result(text.join("\n\n").trim_end())
        }
        CacheMountCommand::Export { id, output } => export(&store, &id, output),
        CacheMountCommand::Import { id, input } => {
            let mut tar: Box<dyn Read> = match &input {
                Some(path) => Box::new(BufReader::new(File::open(path).map_err(|error| Failure::file("open", path, &error))?)),
                None => Box::new(io::stdin()),
            };
            let mount = cache_mounts::import(&store, &id, &mut *tar).map_err(failed)?;
            print_result(&format!("{} {}", id_of(&mount).unwrap_or_default(), size(mount.size_bytes)))
        }
        CacheMountCommand::Rm { ids } => {
            for id in ids {
                for mount in cache_mounts::remove(&store, &id).map_err(failed)? {
                    print_result(&format!("{} {}", mount.name.short(), id_of(&mount).unwrap_or("-")))?;
                }
            }
            Ok(())
        }
    }
}

fn export(store: &Store, id: &str, output: Option<PathBuf>) -> Result<(), Failure> {
    let failed = |error| Failure::build(error, None);
    let Some(path) = output else {
        let mut out = BufWriter::new(io::stdout().lock());
        cache_mounts::export(store, id, &mut out).map_err(failed)?;
        return out.flush().map_err(|error| Failure::file("write to", Path::new("/dev/stdout"), &error));
    };
    // what is not there or not one is told before a file is made
    cache_mounts::find(store, id).map_err(failed)?;
    let file = File::create(&path).map_err(|error| Failure::file("create", &path, &error))?;
    let mut out = BufWriter::new(file);
    cache_mounts::export(store, id, &mut out).map_err(failed)?;
    out.flush().map_err(|error| Failure::file("write", &path, &error))
}

fn table(mounts: &[CacheMount]) -> String {
    let mut rows = vec![["NAME", "ID", "OWNER", "MODE", "FILES", "SIZE"].map(str::to_owned)];
    rows.extend(mounts.iter().map(|mount| {
        let (owner, mode) = match &mount.about {
            Some(about) => (format!("{}:{}", about.uid, about.gid), format!("{:04o}", about.mode)),
            None => ("-".to_owned(), "-".to_owned()),
        };
        let id = id_of(mount).unwrap_or("-").to_owned();
        [mount.name.short(), id, owner, mode, mount.files.to_string(), size(mount.size_bytes)]
    }));
    columns(&rows)
}

fn description(store: &Store, mount: &CacheMount) -> String {
    let path = store.cache_mount_path(&mount.name).join("data");
    let id = id_of(mount).unwrap_or("-");
    let files = if mount.files == 1 { "1 file".to_owned() } else { format!("{} files", mount.files) };
    format!("{id}\n    name {}\n    {files}, {}\n    in {}", mount.name.hex(), size(mount.size_bytes), path.display())
}
