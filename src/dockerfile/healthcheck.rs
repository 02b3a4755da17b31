//! `HEALTHCHECK`.

use std::time::Duration;

use super::arguments::{Context, at_least_one, command};
use super::ast::{Command, Healthcheck};
use super::flags::Flags;
use super::keyword::Keyword;
use super::lines::Text;
use super::words::FlagWord;
use crate::diagnostic::{Diagnostic, Span};
use crate::duration;

/// The shortest duration other than zero that is accepted.
const SHORTEST: Duration = Duration::from_millis(1);

/// `name` is where the instruction's name stands.
pub(super) fn parse(name: Span, flags: Vec<FlagWord>, args: Text<'_>, cx: &mut Context<'_>) -> Option<Healthcheck> {
    let kind_end = args.as_str().find(char::is_whitespace).unwrap_or(args.as_str().len());
    let kind = args.slice(0, kind_end);
    let rest = args.rest(kind_end).trim();
    let keyword = Keyword::Healthcheck;
    match kind.as_str().to_uppercase().as_str() {
        "" => {
            Flags::check(flags, keyword, cx.source, cx.diagnostics);
            at_least_one(keyword, name, cx);
            None
        }
        // BuildKit does not look at the flags here.
        "NONE" if rest.is_empty() => Some(Healthcheck::None),
        "NONE" => {
            cx.error("extra-argument", "`HEALTHCHECK NONE` takes no arguments", rest.span());
            None
        }
        "CMD" => {
            let flags = Flags::check(flags, keyword, cx.source, cx.diagnostics);
            check(name.join(kind.span()), flags, rest, cx)
        }
        other => {
            Flags::check(flags, keyword, cx.source, cx.diagnostics);
            let message = format!("unknown type `{other}` in `HEALTHCHECK`");
            let diagnostic = Diagnostic::error("healthcheck-type", message, cx.source, kind.span());
            cx.report(diagnostic.help(format!("HEALTHCHECK CMD {}", args.as_str())));
            None
        }
    }
}

fn check(name: Span, mut flags: Flags, args: Text<'_>, cx: &mut Context<'_>) -> Option<Healthcheck> {
    let first = args.slice(0, args.as_str().find(char::is_whitespace).unwrap_or(args.as_str().len())).spanned();
    if let Some(warning) = Flags::overlooked(&first, Keyword::Healthcheck, cx.source) {
        cx.report(warning);
    }
    let command = command(args, cx)?;
    let is_empty = match &command {
        Command::Shell(text) => text.is_empty(),
        Command::Exec(words) => words.is_empty(),
    };
    if is_empty {
        cx.error("missing-argument", "missing command after `HEALTHCHECK CMD`", name);
    }
    Some(Healthcheck::Check {
        command,
        interval: interval("interval", &mut flags, cx),
        timeout: interval("timeout", &mut flags, cx),
        start_period: interval("start-period", &mut flags, cx),
        start_interval: interval("start-interval", &mut flags, cx),
        retries: retries(&mut flags, cx),
    })
}

/// The value of `--name`; zero when it was not given or is wrong.
fn interval(name: &str, flags: &mut Flags, cx: &mut Context<'_>) -> Duration {
    let Some(value) = flags.text(name) else { return Duration::ZERO };
    match duration::parse(&value.value) {
        None => {
            let message = format!("invalid duration `{}` for `--{name}`", value.value);
            let diagnostic = Diagnostic::error("duration", message, cx.source, value.span);
            let missing_unit = value.value.parse::<f64>().is_ok();
            let help =
                if missing_unit { format!("--{name}={}s", value.value) } else { "durations look like `90s`, `1m30s`".into() };
            cx.report(diagnostic.help(help));
            Duration::ZERO
        }
        Some((duration, negative)) if negative || (duration < SHORTEST && !duration.is_zero()) => {
            cx.error("duration", format!("`--{name}` cannot be less than 1ms"), value.span);
            Duration::ZERO
        }
        Some((duration, _)) => duration,
    }
}

fn retries(flags: &mut Flags, cx: &mut Context<'_>) -> u32 {
    let Some(value) = flags.text("retries") else { return 0 };
    match value.value.parse::<i32>() {
        Ok(retries) if retries < 0 => {
            cx.error("retries", format!("`--retries` cannot be negative (`{retries}`)"), value.span);
            0
        }
        Ok(retries) => retries.unsigned_abs(),
        Err(_) => {
            let message = format!("invalid number `{}` for `--retries`", value.value);
            cx.report(Diagnostic::error("retries", message, cx.source, value.span).help("it is a whole number, such as 3"));
            0
        }
    }
}
