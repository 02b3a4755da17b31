//! `--call`: what buildx can ask of a Dockerfile, answered in its words and its JSON.
//!
//! Source: buildx's `commands/build.go` and BuildKit's `frontend/subrequests`. Left out of the JSON of the checks is the graph that
//! fetched the file, which names a session.

use std::fmt::Write as _;
use std::ops::RangeInclusive;
use std::sync::Arc;

use serde::Serialize;
use tokio::sync::watch;

use crate::base64;
use crate::builder::{self, BuildError, BuildRequest, Checked, From, Outline};
use crate::cli::values;
use crate::diagnostic::{Diagnostic, Source, Span, nearest};
use crate::event::EventSink;
use crate::store::Store;

/// What is asked, and how it is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Call {
    question: Question,
    format: Format,
    /// `ignorestatus=true`: findings are no failure.
    pub ignores_status: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Question {
    Check,
    Outline,
    Targets,
    Describe,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    Text,
    Json,
}

/// What is said about a Dockerfile.
pub struct Answer {
    /// For stdout.
    pub text: String,
    /// Whether the build checks found something.
    pub found: bool,
    /// For stderr: warnings that buildx does not have, and whether a build would be refused.
    pub said: Vec<Diagnostic>,
    /// Why a build would fail.
    pub error: Option<BuildError>,
}

impl Call {
    /// Reads `NAME[,format=json][,ignorestatus=true]`; `build` and empty text are no call.
    ///
    /// # Errors
    /// An unknown name or option.
    pub fn parse(text: &str) -> Result<Option<Call>, Diagnostic> {
        let refused = |message: String| Diagnostic::error_without_place("bad-call", message);
        let mut name = None;
        let mut call = Call { question: Question::Check, format: Format::Text, ignores_status: false };
        for field in values::csv_fields(text) {
            match field.split_once('=') {
                Some(("format", "json")) => call.format = Format::Json,
                // buildx takes every other word for text
                Some(("format", _)) => {}
                Some(("ignorestatus", value)) => {
                    call.ignores_status = values::boolean(value)
                        .map_err(|_| refused(format!("`ignorestatus` of `--call` takes a truth value, got `{value}`")))?;
                }
                None if name.is_none() => name = Some(field),
                Some(_) | None => return Err(refused(format!("invalid option `{field}` of `--call={text}`"))),
            }
        }
        call.question = match name.as_deref().unwrap_or_default() {
            "build" | "" => return Ok(None),
            "check" | "lint" => Question::Check,
            "outline" => Question::Outline,
            "targets" => Question::Targets,
            "subrequests.describe" => Question::Describe,
            other => {
                const KNOWN: [&str; 5] = ["build", "check", "outline", "targets", "subrequests.describe"];
                let help = match nearest(other, KNOWN) {
                    Some(near) => format!("did you mean `{near}`?"),
                    None => format!("it takes one of `{}`", KNOWN.join("`, `")),
                };
                return Err(refused(format!("`--call={other}` is not known")).help(help));
            }
        };
        Ok(Some(call))
    }
}

/// Asks the builder and writes its answer down.
///
/// # Errors
/// No answer can be given.
pub async fn ask(
    call: Call,
    store: Store,
    request: BuildRequest,
    events: Arc<dyn EventSink>,
    cancel: watch::Receiver<bool>,
) -> Result<Answer, BuildError> {
    let plain = |text: String| Answer { text, found: false, said: Vec::new(), error: None };
    Ok(match call.question {
        Question::Check => {
            let checked = builder::check(store, request, events, cancel).await?;
            let text = match call.format {
                Format::Text => check_text(&checked),
                Format::Json => json(&CheckJson::of(&checked)),
            };
            let violation = checked.violation.map(|message| Diagnostic::error_without_place("lint-violation", message));
            let said = checked.warnings.into_iter().chain(violation).collect();
            Answer { text, found: !checked.findings.is_empty(), said, error: checked.error }
        }
        Question::Outline => {
            let (source, outline) = builder::outline(store, request, events, cancel).await?;
            plain(match call.format {
                Format::Text => outline_text(&outline),
                Format::Json => json(&OutlineJson::of(&source, &outline)),
            })
        }
        Question::Targets => {
            let (source, stages) = builder::targets(store, request, events, cancel).await?;
            plain(match call.format {
                Format::Text => targets_text(&stages),
                Format::Json => json(&TargetsJson::of(&source, &stages)),
            })
        }
        Question::Describe => plain(match call.format {
            Format::Text => table(1, &describe_rows()),
            Format::Json => json(&descriptions()),
        }),
    })
}

fn check_text(checked: &Checked) -> String {
    let mut text = match (checked.findings.len(), &checked.error) {
        (0, None) => return "Check complete, no warnings found.\n".to_owned(),
        (0, Some(_)) => String::new(),
        (1, _) => "Check complete, 1 warning has been found!\n".to_owned(),
        (count, _) => format!("Check complete, {count} warnings have been found!\n"),
    };
    let mut findings: Vec<_> = checked.findings.iter().map(|finding| (finding, lines(&checked.source, finding.lines))).collect();
    findings.sort_by_key(|(_, lines)| *lines.start());
    for (finding, lines) in findings {
        let url = finding.rule.url.map(|url| format!(" - {url}")).unwrap_or_default();
        let _ = write!(text, "\nWARNING: {}{url}\n{}\n", finding.rule.name, finding.detail);
        text.push_str(&excerpt(&checked.source, lines));
    }
    text
}

/// The lines marked, with four or two around them.
fn excerpt(source: &Source, marked: RangeInclusive<usize>) -> String {
    let all: Vec<&str> = source.text().split('\n').collect();
    let (mut first, mut last) = (*marked.start(), (*marked.end()).min(all.len()));
    let wanted = if marked.start() == marked.end() { 4 } else { 2 };
    let mut text = format!("{}:{first}\n--------------------\n", source.name());
    // in rounds of two lines, each counted as three: what BuildKit shows
    let mut shown = 0;
    while shown < wanted {
        if first > 1 {
            first -= 1;
            shown += 1;
        }
        if last != all.len() {
            last += 1;
            shown += 1;
        }
        shown += 1;
    }
    for number in first..=last {
        let mark = if marked.contains(&number) { ">>>" } else { "   " };
        let _ = writeln!(text, " {number:3} | {mark} {}", all[number - 1]);
    }
    text.push_str("--------------------\n");
    text
}

fn outline_text(outline: &Outline) -> String {
    let mut text = String::new();
    if outline.name.is_some() || outline.description.is_some() {
        let name = outline.name.as_deref().unwrap_or("(default)");
        let mut rows = vec![vec!["TARGET:", name]];
        rows.extend(outline.description.as_deref().map(|description| vec!["DESCRIPTION:", description]));
        text = table(1, &rows) + "\n";
    }
    if !outline.arguments.is_empty() {
        let mut rows = vec![vec!["BUILD ARG", "VALUE", "DESCRIPTION"]];
        rows.extend(
            outline.arguments.iter().map(|argument| {
                vec![argument.name.as_str(), &argument.value, argument.description.as_deref().unwrap_or_default()]
            }),
        );
        text += &(table(3, &rows) + "\n");
    }
    for (title, credentials) in [("SECRET", &outline.secrets), ("SSH", &outline.agents)] {
        if !credentials.is_empty() {
            let mut rows = vec![vec![title, "REQUIRED"]];
            rows.extend(credentials.iter().map(|known| vec![known.id.as_str(), if known.required { "true" } else { "" }]));
            text += &(table(3, &rows) + "\n");
        }
    }
    text
}

fn targets_text(stages: &[From]) -> String {
    let names: Vec<String> = stages
        .iter()
        .enumerate()
        .map(|(index, from)| match (&from.name, index + 1 == stages.len()) {
            (None, true) => "(default)".to_owned(),
            (None, false) => String::new(),
            (Some(name), true) => format!("{} (default)", name.value),
            (Some(name), false) => name.value.clone(),
        })
        .collect();
    let mut rows = vec![vec!["TARGET", "DESCRIPTION"]];
    rows.extend(
        names.iter().zip(stages).map(|(name, from)| vec![name.as_str(), from.description.as_deref().unwrap_or_default()]),
    );
    table(1, &rows)
}

/// Columns as Go's `tabwriter` sets them: every cell but a row's last is as wide as its column, `padding` blanks apart.
fn table(padding: usize, rows: &[Vec<&str>]) -> String {
    let mut text = String::new();
    for row in rows {
        for (column, cell) in row.iter().enumerate() {
            text.push_str(cell);
            if column + 1 < row.len() {
                let widest = rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max();
                let blanks = widest.unwrap_or(0) + padding - cell.chars().count();
                text.extend(std::iter::repeat_n(' ', blanks));
            }
        }
        text.push('\n');
    }
    text
}

/// The lines that hold these bytes, counted from 1.
fn lines(source: &Source, span: Span) -> RangeInclusive<usize> {
    source.line_column(span.start).0..=source.line_column(span.end).0
}

/// JSON as Go's `MarshalIndent` writes it: indented by two blanks, `<`, `>` and `&` escaped.
fn json(value: &impl Serialize) -> String {
    let text = serde_json::to_string_pretty(value).expect("these values have text keys");
    let mut escaped = String::with_capacity(text.len() + 1);
    for c in text.chars() {
        match c {
            '<' | '>' | '&' | '\u{2028}' | '\u{2029}' => {
                let _ = write!(escaped, "\\u{:04x}", u32::from(c));
            }
            c => escaped.push(c),
        }
    }
    escaped.push('\n');
    escaped
}

#[derive(Serialize)]
struct CheckJson {
    /// Go writes an empty list that was never touched as `null`.
    warnings: Option<Vec<WarningJson>>,
    sources: Vec<SourceJson>,
    #[serde(rename = "buildError", skip_serializing_if = "Option::is_none")]
    error: Option<ErrorJson>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct WarningJson {
    rule_name: &'static str,
    description: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    url: Option<&'static str>,
    detail: String,
    location: LocationJson,
}

#[derive(Serialize)]
struct SourceJson {
    filename: String,
    data: String,
    language: &'static str,
}

#[derive(Serialize)]
struct ErrorJson {
    message: String,
    location: LocationJson,
}

#[derive(Serialize)]
struct LocationJson {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    ranges: Vec<RangeJson>,
}

#[derive(Serialize)]
struct RangeJson {
    start: PositionJson,
    end: PositionJson,
}

#[derive(Serialize)]
struct PositionJson {
    line: usize,
}

impl LocationJson {
    /// One range for each line, as BuildKit has it.
    fn of(lines: RangeInclusive<usize>) -> LocationJson {
        LocationJson {
            ranges: lines.map(|line| RangeJson { start: PositionJson { line }, end: PositionJson { line } }).collect(),
        }
    }
}

impl CheckJson {
    fn of(checked: &Checked) -> CheckJson {
        let source = &checked.source;
        let warnings: Vec<WarningJson> = checked
            .findings
            .iter()
            .map(|finding| WarningJson {
                rule_name: finding.rule.name,
                description: finding.rule.description,
                url: finding.rule.url,
                detail: finding.detail.clone(),
                location: LocationJson::of(lines(source, finding.lines)),
            })
            .collect();
        let filename = source.name().rsplit('/').next().unwrap_or_default().to_owned();
        let first = checked.error.as_ref().and_then(|error| error.diagnostics.first());
        let violation =
            || checked.violation.clone().map(|message| ErrorJson { message, location: LocationJson { ranges: Vec::new() } });
        let error = first.map(|diagnostic| {
            let place = diagnostic.place.as_ref().filter(|(named, _)| named == source);
            let location = place.map_or(LocationJson { ranges: Vec::new() }, |(_, span)| LocationJson::of(lines(source, *span)));
            ErrorJson { message: diagnostic.message.clone(), location }
        });
        let error = error.or_else(violation);
        CheckJson {
            warnings: Some(warnings).filter(|warnings| !warnings.is_empty()),
            sources: vec![SourceJson { filename, data: base64::encode(source.text().as_bytes()), language: "Dockerfile" }],
            error,
        }
    }
}

#[derive(Serialize)]
struct OutlineJson {
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    description: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    args: Vec<ArgumentJson>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    secrets: Vec<CredentialJson>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    ssh: Vec<CredentialJson>,
    sources: [String; 1],
}

#[derive(Serialize)]
struct ArgumentJson {
    name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    description: Option<String>,
    #[serde(skip_serializing_if = "String::is_empty")]
    value: String,
    location: LocationJson,
}

#[derive(Serialize)]
struct CredentialJson {
    name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    required: Option<bool>,
    location: LocationJson,
}

impl OutlineJson {
    fn of(source: &Source, outline: &Outline) -> OutlineJson {
        let credentials = |known: &[builder::Credential]| {
            let credential = |known: &builder::Credential| CredentialJson {
                name: known.id.clone(),
                required: known.required.then_some(true),
                location: LocationJson::of(lines(source, known.lines)),
            };
            known.iter().map(credential).collect()
        };
        let argument = |argument: &builder::Argument| ArgumentJson {
            name: argument.name.clone(),
            description: argument.description.clone(),
            value: argument.value.clone(),
            location: LocationJson::of(lines(source, argument.lines)),
        };
        OutlineJson {
            name: outline.name.clone(),
            description: outline.description.clone(),
            args: outline.arguments.iter().map(argument).collect(),
            secrets: credentials(&outline.secrets),
            ssh: credentials(&outline.agents),
            sources: [base64::encode(source.text().as_bytes())],
        }
    }
}

#[derive(Serialize)]
struct TargetsJson {
    targets: Vec<TargetJson>,
    sources: [String; 1],
}

#[derive(Serialize)]
struct TargetJson {
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    default: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    description: Option<String>,
    base: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    platform: Option<String>,
    location: LocationJson,
}

impl TargetsJson {
    fn of(source: &Source, stages: &[From]) -> TargetsJson {
        let target = |(index, from): (usize, &From)| TargetJson {
            name: from.name.as_ref().map(|name| name.value.clone()),
            default: (index + 1 == stages.len()).then_some(true),
            description: from.description.clone(),
            base: from.base.value.clone(),
            platform: from.platform.as_ref().map(|platform| platform.value.clone()),
            location: LocationJson::of(lines(source, from.lines)),
        };
        TargetsJson {
            targets: stages.iter().enumerate().map(target).collect(),
            sources: [base64::encode(source.text().as_bytes())],
        }
    }
}

#[derive(Serialize)]
struct RequestJson {
    name: &'static str,
    version: &'static str,
    #[serde(rename = "type")]
    kind: &'static str,
    description: &'static str,
    opts: Option<Vec<NamedJson>>,
    inputs: Option<Vec<NamedJson>>,
    metadata: Vec<NamedJson>,
    refs: Option<Vec<NamedJson>>,
}

#[derive(Serialize)]
struct NamedJson {
    name: &'static str,
    description: &'static str,
}

/// What there is to call, as BuildKit lists it: without the checks.
fn descriptions() -> [RequestJson; 3] {
    let request = |name, description, opts| RequestJson {
        name,
        version: "1.0.0",
        kind: "rpc",
        description,
        opts,
        inputs: None,
        metadata: vec![NamedJson { name: "result.json", description: "" }, NamedJson { name: "result.txt", description: "" }],
        refs: None,
    };
    let target = NamedJson { name: "target", description: "Target build stage" };
    [
        request("frontend.outline", "List all parameters current build target supports", Some(vec![target])),
        request("frontend.targets", "List all targets current build supports", Some(Vec::new())),
        request("frontend.subrequests.describe", "List available subrequest types", None),
    ]
}

fn describe_rows() -> Vec<Vec<&'static str>> {
    let mut rows = vec![vec!["NAME", "VERSION", "DESCRIPTION"]];
    rows.extend(descriptions().iter().map(|request| {
        vec![request.name.strip_prefix("frontend.").unwrap_or(request.name), request.version, request.description]
    }));
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_read() {
        let call = |text: &str| Call::parse(text).map_err(|problem| problem.message);
        assert_eq!(call("build"), Ok(None));
        assert_eq!(call(""), Ok(None));
        let check = Call { question: Question::Check, format: Format::Json, ignores_status: true };
        assert_eq!(call("check,format=json,ignorestatus=1"), Ok(Some(check)));
        assert_eq!(call("format=x,targets").map(|call| call.map(|call| call.format)), Ok(Some(Format::Text)));
        assert_eq!(call("check,x=y"), Err("invalid option `x=y` of `--call=check,x=y`".to_owned()));
        assert_eq!(call("check,outline"), Err("invalid option `outline` of `--call=check,outline`".to_owned()));
    }

    #[test]
    fn excerpts_show_the_lines_around() {
        let source = Source::new("Dockerfile", "a\nb\nc\nd\ne\nf\ng");
        let marked = |lines| {
            excerpt(&source, lines)
                .lines()
                .filter(|line| line.contains('|'))
                .map(|line| line[1..4].trim().to_owned())
                .collect::<Vec<_>>()
        };
        assert_eq!(marked(4..=4), ["2", "3", "4", "5", "6"]);
        assert_eq!(marked(1..=1), ["1", "2", "3"]);
        assert_eq!(marked(3..=4), ["2", "3", "4", "5"]);
    }

    #[test]
    fn columns_are_gos() {
        assert_eq!(table(1, &[vec!["A", "B"], vec!["long", ""]]), "A    B\nlong \n");
    }
}
