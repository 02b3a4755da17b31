//! `croze du`, `croze prune`, `croze fsck`: what is in the store, and how to have less of it.

use std::fmt::Write as _;
use std::io::{BufRead, IsTerminal};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::builder::fsck;
use crate::builder::hygiene::{self, Item, KeptBy, Kind, PruneRequest};
use crate::cli::args::PruneArgs;
use crate::cli::build::{open_with_rights, print_result, tidy};
use crate::cli::environment::Environment;
use crate::cli::failure::Failure;
use crate::cli::listing::{columns, size};
use crate::cli::say;
use crate::cli::values::{self, BadValue};
use crate::diagnostic::Diagnostic;

/// Lists everything in the store, and how much of it could go.
///
/// # Errors
/// The store cannot be read.
pub fn du(environment: &Environment) -> Result<(), Failure> {
    let store = open_with_rights(environment)?;
    let items = hygiene::usage(&store).map_err(|error| Failure::build(error, None))?;
    let now = SystemTime::now();
    let mut rows = vec![["ID", "TYPE", "RECLAIMABLE", "SIZE", "LAST USED"].map(str::to_owned)];
    rows.extend(items.iter().map(|item| {
        let reclaimable = match item.kept_by {
            KeptBy::Nobody => "true",
            KeptBy::Pulled => "with --all",
            KeptBy::Image => "false",
        };
        let usage = &item.usage;
        let id = usage.kind.id()[..12].to_owned();
        [id, Kind::of(&usage.kind).name().to_owned(), reclaimable.to_owned(), size(usage.size_bytes), age(usage.used, now)]
    }));
    let sum = |wanted: &dyn Fn(&Item) -> bool| -> String {
        size(items.iter().filter(|item| wanted(item)).map(|item| item.usage.size_bytes).sum())
    };
    let mut text = columns(&rows);
    let reclaimable = sum(&|item| item.kept_by == KeptBy::Nobody);
    write!(text, "Reclaimable: {reclaimable}\nTotal: {}", sum(&|_| true)).expect("strings take everything");
    print_result(&text)
}

/// Drops what can be made or fetched again.
///
/// # Errors
/// Wrong filters, no consent, or a store that fails.
pub fn prune(args: &PruneArgs, environment: &Environment) -> Result<(), Failure> {
    let request = request(args).map_err(|(flag, error)| {
        Failure::usage(Diagnostic::error_without_place("bad-flag", format!("invalid value for `{flag}`: {error}")))
    })?;
    if !args.force && !consents(args)? {
        return Ok(());
    }
    let store = open_with_rights(environment)?;
    let began = Instant::now();
    let pruned = hygiene::prune(&store, &request, SystemTime::now());
    tidy(&store, began, &pruned);
    let pruned = pruned.map_err(|error| Failure::build(error, None))?;
    // the trash is what takes the space
    store.empty_trash(usize::MAX).map_err(|error| Failure::environment("store", &error))?;
    if pruned.users > 0 {
        let users = if pruned.users == 1 { "1 command uses".to_owned() } else { format!("{} commands use", pruned.users) };
        say(&format!("note: {users} the store now; what may be in use stays\n"));
    }
    let mut text = String::new();
    for usage in &pruned.dropped {
        writeln!(text, "{}  {}", usage.kind.id(), size(usage.size_bytes)).expect("strings take everything");
    }
    let total = pruned.dropped.iter().map(|usage| usage.size_bytes).sum();
    print_result(&format!("{text}Total: {}", size(total)))
}

/// Reads everything in the store, drops what is damaged and says so.
///
/// # Errors
/// The store cannot be read or written.
pub fn fsck(environment: &Environment) -> Result<(), Failure> {
    let store = open_with_rights(environment)?;
    let began = Instant::now();
    let checked = fsck::check(&store);
    tidy(&store, began, &checked);
    let checked = checked.map_err(|error| Failure::build(error, None))?;
    let count = |number: usize, what: &str| format!("{number} {what}{}", if number == 1 { "" } else { "s" });
    let mut text: String = checked.faults.iter().map(|fault| format!("{fault}\n")).collect();
    write!(
        text,
        "{}, {}, {}, {} read: {}",
        count(checked.blobs, "blob"),
        count(checked.layers, "layer"),
        count(checked.names, "name"),
        count(checked.records, "record"),
        if checked.faults.is_empty() { "all sound".to_owned() } else { count(checked.faults.len(), "fault") + " mended" },
    )
    .expect("strings take everything");
    print_result(&text)
}

fn request(args: &PruneArgs) -> Result<PruneRequest, (&'static str, BadValue)> {
    let bytes = |flag: &'static str, text: &Option<String>| {
        text.as_deref().map(|text| values::bytes(text).map_err(|error| (flag, error))).transpose()
    };
    let mut request = PruneRequest {
        all: args.all,
        max_used_bytes: bytes("--max-used-space", &args.max_used_space)?,
        min_free_bytes: bytes("--min-free-space", &args.min_free_space)?,
        reserved_bytes: bytes("--reserved-space", &args.reserved_space)?,
        ..PruneRequest::default()
    };
    for text in &args.filters {
        filter(text, &mut request).map_err(|error| ("--filter", error))?;
    }
    Ok(request)
}

fn filter(text: &str, request: &mut PruneRequest) -> Result<(), BadValue> {
    let form = || BadValue::Form { value: text.to_owned(), form: "until=24h, type=regular, type=exec.cachemount or id=ID" };
    let (key, value) = text.split_once('=').ok_or_else(form)?;
    let value = value.trim_start_matches('=');
    match key {
        "until" | "unused-for" => request.unused_for = Some(duration(value).ok_or_else(form)?),
        "type" => request.kinds.push(match value {
            "regular" => Kind::Regular,
            "exec.cachemount" => Kind::CacheMount,
            _ => return Err(form()),
        }),
        "id" => request.ids.push(value.to_owned()),
        _ => return Err(BadValue::UnknownKey { key: key.to_owned(), value: text.to_owned() }),
    }
    Ok(())
}

/// Go's durations in whole numbers: `24h`, `1h30m`, `45s`.
fn duration(text: &str) -> Option<Duration> {
    let (mut total, mut number) = (0_u64, None::<u64>);
    for c in text.chars() {
        if let Some(digit) = c.to_digit(10) {
            number = Some(number.unwrap_or(0).checked_mul(10)?.checked_add(u64::from(digit))?);
            continue;
        }
        let unit = match c {
            'd' => 24 * 3600,
            'h' => 3600,
            'm' => 60,
            's' => 1,
            _ => return None,
        };
        total = total.checked_add(number.take()?.checked_mul(unit)?)?;
    }
    (number.is_none() && !text.is_empty()).then(|| Duration::from_secs(total))
}

fn consents(args: &PruneArgs) -> Result<bool, Failure> {
    let what =
        if args.all { "all build cache and what pulled images are made of" } else { "all build cache that no image needs" };
    if !std::io::stdin().is_terminal() {
        let diagnostic = Diagnostic::error_without_place("no-consent", format!("this would drop {what}"));
        return Err(Failure::usage(diagnostic.help("pass `--force` where nobody can be asked")));
    }
    say(&format!("This drops {what}. Go on? [y/N] "));
    let mut answer = String::new();
    let read = std::io::stdin().lock().read_line(&mut answer);
    read.map_err(|error| Failure::file("read", std::path::Path::new("/dev/stdin"), &error))?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

fn age(used: SystemTime, now: SystemTime) -> String {
    match now.duration_since(used).unwrap_or_default().as_secs() {
        _ if used == UNIX_EPOCH => "never".to_owned(),
        ..120 => "just now".to_owned(),
        seconds @ 120..7200 => format!("{} minutes ago", seconds / 60),
        seconds @ 7200..172_800 => format!("{} hours ago", seconds / 3600),
        seconds => format!("{} days ago", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_gos() {
        let seconds = |text: &str| duration(text).map(|duration| duration.as_secs());
        assert_eq!(["24h", "1h30m", "45s", "2d"].map(seconds), [Some(86_400), Some(5400), Some(45), Some(172_800)]);
        assert_eq!(["", "h", "5", "5x", "99999999999999999999h"].map(seconds), [None; 5]);
    }

    #[test]
    fn filters_have_buildxs_words() {
        let read = |texts: &[&str]| {
            let mut request = PruneRequest::default();
            texts.iter().try_for_each(|text| filter(text, &mut request)).map(|()| request).map_err(|error| error.to_string())
        };
        let expected = PruneRequest {
            unused_for: Some(Duration::from_secs(3600)),
            kinds: vec![Kind::CacheMount],
            ids: vec!["abc".to_owned()],
            ..PruneRequest::default()
        };
        assert_eq!(read(&["until=1h", "type==exec.cachemount", "id=abc"]), Ok(expected));
        assert_eq!(read(&["color=red"]), Err("unknown key `color` in `color=red`".to_owned()));
        assert!(read(&["until"]).is_err_and(|error| error.contains("until=24h")));
    }
}
