//! `croze images` and `croze inspect`: images as lines, JSON, or by a template that sees them under Docker's names.

use std::fmt::Write as _;
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Map, Value, json};

use crate::builder::images::{self, ImageFacts};
use crate::cli::args::{ImagesArgs, InspectArgs};
use crate::cli::build::{open_store, print_result};
use crate::cli::environment::Environment;
use crate::cli::failure::Failure;
use crate::cli::images::image_ref;
use crate::cli::say;
use crate::cli::template::{Template, TemplateError, json_text};
use crate::diagnostic::Diagnostic;
use crate::diagnostic::render::render;
use crate::reference::ImageRef;

/// Lists images, one line each.
///
/// # Errors
/// A wrong flag, or the store cannot be read.
pub fn list(args: &ImagesArgs, environment: &Environment) -> Result<(), Failure> {
    let mut filters = args.filters.iter().map(|text| Filter::parse(text)).collect::<Result<Vec<_>, _>>()?;
    filters.extend(args.pattern.as_ref().map(|pattern| Filter::Reference(pattern.clone())));
    let format = args.format.as_deref().map(Format::parse).transpose()?;
    let store = open_store(environment)?;
    let (mut images, damaged) = images::list(&store).map_err(|error| Failure::build(error, None))?;
    for diagnostic in &damaged {
        say(&(render(diagnostic, environment.color) + "\n"));
    }
    images.retain(|image| filters.iter().all(|filter| filter.fits(image)));
    let now_secs = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs().cast_signed());
    let rows: Vec<Value> = images.iter().map(|image| row(image, args.no_trunc, now_secs)).collect();
    let id = |row: &Value| row["ID"].as_str().unwrap_or_default().to_owned();
    match (args.quiet, format) {
        (true, _) => rows.iter().try_for_each(|row| print_result(&id(row))),
        (false, None) => print_result(table(&images, &rows).trim_end()),
        (false, Some(Format::Json)) => rows.iter().try_for_each(|row| print_result(&json_text(row))),
        (false, Some(Format::Lines(template))) => {
            rows.iter().try_for_each(|row| print_result(&template.fill(row).map_err(|error| bad_template(&error))?))
        }
        (false, Some(Format::Table(template))) => {
            let mut lines = vec![template.fill(&header()).map_err(|error| bad_template(&error))?];
            for row in &rows {
                lines.push(template.fill(row).map_err(|error| bad_template(&error))?);
            }
            print_result(aligned(&lines).trim_end())
        }
    }
}

/// Prints all that is known of images, as JSON, or what a template says.
///
/// # Errors
/// A wrong flag, there is no such image, or the store cannot be read.
pub fn inspect(args: &InspectArgs, environment: &Environment) -> Result<(), Failure> {
    let format = args.format.as_deref().map(Format::parse).transpose()?;
    let names = args.names.iter().map(|name| image_ref(name)).collect::<Result<Vec<_>, _>>()?;
    let store = open_store(environment)?;
    for name in &names {
        let image = images::inspect(&store, name).map_err(|error| Failure::build(error, None))?;
        let text = match &format {
            None => serde_json::to_string_pretty(&image).map_err(|error| Failure::environment("json", &error))?,
            Some(Format::Json) => json_text(&described(name, &image)),
            Some(Format::Lines(template) | Format::Table(template)) => {
                template.fill(&described(name, &image)).map_err(|error| bad_template(&error))?
            }
        };
        print_result(&text)?;
    }
    Ok(())
}

/// `--format`.
enum Format {
    Json,
    Lines(Template),
    /// With a header above, in columns where the template has tabs.
    Table(Template),
}

impl Format {
    fn parse(text: &str) -> Result<Format, Failure> {
        if text == "json" {
            return Ok(Format::Json);
        }
        let table = text.strip_prefix("table ");
        // as the shell passes it: `\t` in single quotes
        let text = table.unwrap_or(text).replace("\\t", "\t").replace("\\n", "\n");
        let template = Template::parse(&text).map_err(|error| bad_template(&error))?;
        Ok(if table.is_some() { Format::Table(template) } else { Format::Lines(template) })
    }
}

fn bad_template(error: &TemplateError) -> Failure {
    let message = format!("the template of `--format` cannot be used: {error}");
    Failure::usage(Diagnostic::error_without_place("bad-template", message))
}

/// `--filter`.
enum Filter {
    /// A pattern for the repository, or with the tag for both.
    Reference(String),
    /// A label, and its value if that matters.
    Label(String, Option<String>),
}

impl Filter {
    fn parse(text: &str) -> Result<Filter, Failure> {
        match text.split_once('=') {
            Some(("reference", pattern)) => Ok(Filter::Reference(pattern.to_owned())),
            Some(("label", label)) => Ok(match label.split_once('=') {
                Some((key, value)) => Filter::Label(key.to_owned(), Some(value.to_owned())),
                None => Filter::Label(label.to_owned(), None),
            }),
            _ => {
                let message =
                    format!("invalid value for `--filter`: `{text}` is not one of `reference=PATTERN`, `label=KEY[=VALUE]`");
                Err(Failure::usage(Diagnostic::error_without_place("bad-flag", message)))
            }
        }
    }

    fn fits(&self, image: &ImageFacts) -> bool {
        match self {
            Filter::Reference(pattern) => {
                let (repository, _) = repository_and_tag(&image.name);
                [image.name.as_str(), repository.as_str()].into_iter().any(|name| fits(pattern, name))
            }
            Filter::Label(key, wanted) => {
                let label = image.config.config.labels.get(key);
                label.is_some_and(|value| wanted.as_ref().is_none_or(|wanted| wanted == value))
            }
        }
    }
}

/// Whether a name fits a pattern with `*` and `?`, neither of which stands for a slash.
fn fits(pattern: &str, name: &str) -> bool {
    let (pattern, name): (Vec<char>, Vec<char>) = (pattern.chars().collect(), name.chars().collect());
    // which beginnings of `name` fit the beginning of `pattern` that was looked at
    let mut fitting = vec![false; name.len() + 1];
    fitting[0] = true;
    for wanted in pattern {
        let mut next = vec![false; name.len() + 1];
        for length in 0..=name.len() {
            next[length] = match wanted {
                '*' => fitting[length] || (length > 0 && next[length - 1] && name[length - 1] != '/'),
                '?' => length > 0 && fitting[length - 1] && name[length - 1] != '/',
                wanted => length > 0 && fitting[length - 1] && name[length - 1] == wanted,
            };
        }
        fitting = next;
    }
    fitting[name.len()]
}

/// A name's parts, as Docker's columns show them.
fn repository_and_tag(name: &str) -> (String, String) {
    let Ok(image_ref) = name.parse::<ImageRef>() else { return (name.to_owned(), "<none>".to_owned()) };
    let tag = image_ref.tag.clone().unwrap_or_else(|| "<none>".to_owned());
    (ImageRef { tag: None, digest: None, ..image_ref }.familiar(), tag)
}

/// What templates of `croze images` see.
fn row(image: &ImageFacts, whole: bool, now_secs: i64) -> Value {
    let (repository, tag) = repository_and_tag(&image.name);
    let id = image.config_digest.to_string();
    let id = if whole { id } else { id.trim_start_matches("sha256:").chars().take(12).collect() };
    let created = image.config.created.clone();
    let created_secs = created.as_ref().and_then(|text| text.parse::<jiff::Timestamp>().ok()).map(jiff::Timestamp::as_second);
    json!({
        "Repository": repository,
        "Tag": tag,
        "ID": id,
        "Digest": image.digest.to_string(),
        "Platform": image.platform,
        "CreatedAt": created.unwrap_or_else(|| "N/A".to_owned()),
        "CreatedSince": created_secs.map_or_else(|| "N/A".to_owned(), |secs| since(now_secs - secs)),
        "Size": size(image.layers_bytes),
    })
}

fn header() -> Value {
    json!({
        "Repository": "REPOSITORY", "Tag": "TAG", "ID": "IMAGE ID", "Digest": "DIGEST", "Platform": "PLATFORM",
        "CreatedAt": "CREATED AT", "CreatedSince": "CREATED", "Size": "SIZE",
    })
}

/// An image as `docker image inspect` describes it, with its layers' blobs besides.
fn described(name: &ImageRef, image: &ImageFacts) -> Value {
    let config = &image.config;
    // members are there even when they are empty, so that a template finds them
    let mut container: Map<String, Value> = Map::new();
    for list in ["Env", "Cmd", "Entrypoint", "OnBuild", "Shell"] {
        container.insert(list.to_owned(), json!([]));
    }
    for map in ["ExposedPorts", "Volumes", "Labels"] {
        container.insert(map.to_owned(), json!({}));
    }
    for text in ["User", "WorkingDir", "StopSignal"] {
        container.insert(text.to_owned(), json!(""));
    }
    if let Ok(Value::Object(members)) = serde_json::to_value(&config.config) {
        container.extend(members);
    }
    let layer = |layer: &images::LayerFacts| json!({"Digest": layer.digest, "DiffID": layer.diff_id, "MediaType": layer.media_type, "Size": layer.size_bytes});
    let repository = ImageRef { tag: None, digest: None, ..name.clone() }.familiar();
    json!({
        "Id": image.config_digest,
        "RepoTags": if name.digest.is_none() { vec![image.name.clone()] } else { Vec::new() },
        "RepoDigests": [format!("{repository}@{}", image.digest)],
        "Digest": image.digest,
        "MediaType": image.media_type,
        "Created": config.created,
        "Author": config.author.clone().unwrap_or_default(),
        "Architecture": config.architecture,
        "Variant": config.variant.clone().unwrap_or_default(),
        "Os": config.os,
        "OsVersion": config.os_version.clone().unwrap_or_default(),
        "Platform": image.platform,
        "Size": image.layers_bytes,
        "Config": container,
        "RootFS": {"Type": "layers", "Layers": config.rootfs.diff_ids},
        "Layers": image.layers.iter().map(layer).collect::<Vec<_>>(),
        "History": config.history,
    })
}

/// Columns as wide as their widest cell.
fn table(images: &[ImageFacts], rows: &[Value]) -> String {
    let header = ["NAME", "IMAGE ID", "PLATFORM", "LAYERS", "SIZE"].map(str::to_owned);
    let rows = images.iter().zip(rows).map(|(image, row)| {
        let id = row["ID"].as_str().unwrap_or_default().to_owned();
        [image.name.clone(), id, image.platform.clone(), image.layers.len().to_string(), size(image.layers_bytes)]
    });
    columns(&std::iter::once(header).chain(rows).collect::<Vec<_>>())
}

/// Lines whose cells are parted by tabs, in columns.
fn aligned(lines: &[String]) -> String {
    let rows: Vec<Vec<&str>> = lines.iter().map(|line| line.split('\t').collect()).collect();
    let count = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..count).map(width).collect();
    let mut text = String::new();
    for row in rows {
        let cells: Vec<String> = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        text.push_str(cells.join("   ").trim_end());
        text.push('\n');
    }
    text
}

/// Rows in columns as wide as their widest cell.
pub(super) fn columns<const N: usize>(rows: &[[String; N]]) -> String {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: [usize; N] = std::array::from_fn(width);
    let mut text = String::new();
    for row in rows {
        let cells: Vec<String> = row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        writeln!(text, "{}", cells.join("  ").trim_end()).expect("strings take everything");
    }
    text
}

/// Bytes for people: `1.9 MB`, in powers of 1000.
pub(super) fn size(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["kB", "MB", "GB", "TB"];
    if bytes < 1000 {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64 / 1000.0;
    let mut unit = 0;
    while value >= 999.95 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

/// How long ago, in the coarsest unit that fits.
fn since(seconds: i64) -> String {
    const UNITS: [(i64, &str); 6] =
        [(31_536_000, "year"), (2_592_000, "month"), (604_800, "week"), (86_400, "day"), (3600, "hour"), (60, "minute")];
    let unit = UNITS.into_iter().find(|(length, _)| seconds >= *length);
    match unit.map(|(length, name)| (seconds / length, name)) {
        None => "Less than a minute ago".to_owned(),
        Some((1, name)) => format!("1 {name} ago"),
        Some((count, name)) => format!("{count} {name}s ago"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_for_people() {
        assert_eq!(
            [size(0), size(999), size(1000), size(1_949_999), size(999_950), size(5_000_000_000)],
            ["0 B", "999 B", "1.0 kB", "1.9 MB", "1.0 MB", "5.0 GB"]
        );
    }

    #[test]
    fn an_empty_store_lists_a_header() {
        assert_eq!(table(&[], &[]), "NAME  IMAGE ID  PLATFORM  LAYERS  SIZE\n");
    }

    #[test]
    fn times_are_for_people() {
        assert_eq!(
            [0, 60, 7199, 90_000, 1_300_000, 40_000_000].map(since),
            ["Less than a minute ago", "1 minute ago", "1 hour ago", "1 day ago", "2 weeks ago", "1 year ago"]
        );
    }

    #[test]
    fn patterns_stop_at_slashes() {
        for (pattern, name, expected) in [
            ("busy*", "busybox", true),
            ("busy*", "busybox:1", true),
            ("*", "my/app", false),
            ("*/app", "my/app", true),
            ("my/a?p", "my/app", true),
            ("app", "my/app", false),
            ("", "x", false),
        ] {
            assert_eq!(fits(pattern, name), expected, "{pattern} {name}");
        }
    }
}
