//! The commands about images in the store: import, history, diff, load, save, tag, remove.

use std::fs::File;
use std::io::{self, IsTerminal, Read};
use std::path::Path;
use std::time::{Instant, SystemTime};

use crate::builder::archive::{self, Destination};
use crate::builder::{diff, images, import};
use crate::cli::args::{DiffArgs, HistoryArgs, ImportArgs, LoadArgs, RmiArgs, SaveArgs, TagArgs};
use crate::cli::build::{open_store, open_with_rights, print_result, tidy};
use crate::cli::environment::Environment;
use crate::cli::failure::Failure;
use crate::cli::listing::{columns, size};
use crate::diagnostic::Diagnostic;
use crate::reference::{ImageRef, Platform};

/// Makes an image of a root file system and names it; prints the name and the image ID.
///
/// # Errors
/// Wrong arguments, an unreadable tar, or a store that fails.
pub fn import(args: &ImportArgs, environment: &Environment) -> Result<(), Failure> {
    let name = image_ref(&args.name)?;
    let platform = match args.platform.as_deref().map(str::parse).transpose() {
        Ok(platform) => platform.unwrap_or_else(Platform::host),
        Err(error) => return Err(Failure::usage(Diagnostic::error_without_place("bad-flag", format!("{error}")))),
    };
    let called = args.rootfs.display().to_string();
    let mut rootfs: Box<dyn Read + Send> = if args.rootfs == Path::new("-") {
        Box::new(io::stdin())
    } else {
        Box::new(File::open(&args.rootfs).map_err(|error| Failure::file("open", &args.rootfs, &error))?)
    };
    let store = open_with_rights(environment)?;
    let began = Instant::now();
    let imported = import::import(&store, (&called, &mut rootfs), &name, &platform, SystemTime::now());
    tidy(&store, began, &imported);
    imported.map_err(|error| Failure::build(error, None))?;
    let image = images::inspect(&store, &name).map_err(|error| Failure::build(error, None))?;
    print_result(&format!("{} {}", image.name, image.config_digest))
}

/// Prints in which settings and files two images differ, a line each: `A` was added, `C` changed, `D` is gone.
///
/// # Errors
/// There is no such image, or its files are not in the store.
pub fn diff(args: &DiffArgs, environment: &Environment) -> Result<(), Failure> {
    let (left, right) = (image_ref(&args.left)?, image_ref(&args.right)?);
    let store = open_with_rights(environment)?;
    let lines = diff::diff(&store, &left, &right).map_err(|error| Failure::build(error, None))?;
    lines.iter().try_for_each(|line| print_result(&line.to_string()))
}

/// Lists the items of an image's history, latest first: when, by what, the layer's size.
///
/// # Errors
/// There is no such image, or the store cannot be read.
pub fn history(args: &HistoryArgs, environment: &Environment) -> Result<(), Failure> {
    let name = image_ref(&args.name)?;
    let store = open_store(environment)?;
    let image = images::inspect(&store, &name).map_err(|error| Failure::build(error, None))?;
    let mut layers = image.layers.iter();
    let mut rows: Vec<[String; 3]> = Vec::new();
    for item in &image.config.history {
        let layer = if item.empty_layer { None } else { layers.next() };
        let created = item.created.clone().unwrap_or_else(|| "-".to_owned());
        let text = item.created_by.as_deref().or(item.comment.as_deref()).unwrap_or_default();
        let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
        rows.push([created, size(layer.map_or(0, |layer| layer.size_bytes)), text]);
    }
    rows.push(["CREATED", "SIZE", "CREATED BY"].map(str::to_owned));
    rows.reverse();
    print_result(columns(&rows).trim_end())
}

/// Puts the images of an archive into the store; prints their names, or the digest of one that has none.
///
/// # Errors
/// The archive cannot be read or is none; a store that fails.
pub fn load(args: &LoadArgs, environment: &Environment) -> Result<(), Failure> {
    let name = args.name.as_deref().map(image_ref).transpose()?;
    let store = open_with_rights(environment)?;
    let (called, mut archive): (String, Box<dyn Read + Send>) = match &args.input {
        None => ("standard input".to_owned(), Box::new(io::stdin())),
        Some(path) => {
            (path.display().to_string(), Box::new(File::open(path).map_err(|error| Failure::file("open", path, &error))?))
        }
    };
    let began = Instant::now();
    let loaded = archive::load(&store, (&called, &mut archive), name.as_ref(), SystemTime::now());
    tidy(&store, began, &loaded);
    for image in loaded.map_err(|error| Failure::build(error, None))? {
        match image.names.as_slice() {
            [] => print_result(&image.digest.to_string())?,
            names => names.iter().try_for_each(|name| print_result(&name.to_string()))?,
        }
    }
    Ok(())
}

/// Writes images as one archive.
///
/// # Errors
/// There is no such image, or it cannot be written.
pub fn save(args: &SaveArgs, environment: &Environment) -> Result<(), Failure> {
    let names = args.names.iter().map(|name| image_ref(name)).collect::<Result<Vec<_>, _>>()?;
    let store = open_with_rights(environment)?;
    let destination = match &args.output {
        None if io::stdout().is_terminal() => {
            let diagnostic = Diagnostic::error_without_place("terminal", "an archive is nothing for a terminal");
            return Err(Failure::usage(diagnostic.help("name a file with `-o FILE`, or pipe it into `docker load`")));
        }
        None => Destination::Stdout,
        Some(path) => Destination::File(path.clone()),
    };
    archive::save(&store, &names, &destination, &mut io::stdout()).map_err(|error| Failure::build(error, None))
}

/// Gives an image another name.
///
/// # Errors
/// There is no such image, the new name is none, or the store fails.
pub fn tag(args: &TagArgs, environment: &Environment) -> Result<(), Failure> {
    let (from, to) = (image_ref(&args.name)?, image_ref(&args.new_name)?);
    if to.digest.is_some() {
        let message = format!("`{to}` has a digest, which no image can be given");
        return Err(Failure::usage(Diagnostic::error_without_place("bad-name", message)));
    }
    let store = open_store(environment)?;
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |time| time.as_secs().cast_signed());
    images::tag(&store, &from, &to, now).map_err(|error| Failure::build(error, None))
}

/// Takes names away, and prints them.
///
/// # Errors
/// There is no such image, or the store fails.
pub fn remove(args: &RmiArgs, environment: &Environment) -> Result<(), Failure> {
    let names = args.names.iter().map(|name| image_ref(name)).collect::<Result<Vec<_>, _>>()?;
    let store = open_store(environment)?;
    for name in &names {
        images::remove(&store, name).map_err(|error| Failure::build(error, None))?;
        print_result(&name.to_string())?;
    }
    Ok(())
}

pub(super) fn image_ref(text: &str) -> Result<ImageRef, Failure> {
    text.parse().map_err(|error| Failure::usage(Diagnostic::error_without_place("bad-name", format!("{error}"))))
}
