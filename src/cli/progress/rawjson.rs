//! BuildKit's `SolveStatus` as JSON lines, for programs such as docker compose: `client/graph.go` of BuildKit names the members.

use std::collections::BTreeMap;
use std::time::SystemTime;

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::base64;
use crate::cli::progress::{Now, View};
use crate::diagnostic::Diagnostic;
use crate::digest::Digest;
use crate::event::{Event, StepNumber, Stream, Verdict};

/// The view: one object per event, with `vertexes`, `statuses`, `logs` or `warnings`.
#[derive(Debug, Default)]
pub struct RawJson {
    vertexes: BTreeMap<StepNumber, Vertex>,
}

/// What every mention of a step repeats.
#[derive(Debug)]
struct Vertex {
    digest: Digest,
    name: String,
    started: Option<SystemTime>,
}

impl View for RawJson {
    fn event(&mut self, event: &Event, now: Now, out: &mut Vec<u8>) {
        let now = now.wall;
        let line = match event {
            Event::Announced { step, name } => {
                let digest = Digest::of(format!("{step} {name}").as_bytes());
                self.vertexes.insert(*step, Vertex { digest, name: name.clone(), started: None });
                self.vertex(*step, json!({}))
            }
            Event::Started { step } => {
                self.start(*step, now);
                self.vertex(*step, json!({}))
            }
            Event::Cached { step } => {
                self.start(*step, now);
                self.vertex(*step, json!({ "completed": time(now), "cached": true }))
            }
            Event::Done { step, .. } => self.vertex(*step, json!({ "completed": time(now) })),
            Event::Failed { step, message } => self.vertex(*step, json!({ "completed": time(now), "error": message })),
            Event::Canceled { step } => self.vertex(*step, json!({ "completed": time(now), "error": "context canceled" })),
            Event::Output { step, stream, bytes } => {
                let stream = match stream {
                    Stream::Stdout => 1,
                    Stream::Stderr => 2,
                };
                let log = json!({ "vertex": self.digest(*step), "stream": stream, "data": base64::encode(bytes), "timestamp": time(now) });
                json!({ "logs": [log] })
            }
            Event::Note { step, text } => {
                let at = time(now);
                let status = json!({ "id": text, "vertex": self.digest(*step), "current": 0, "timestamp": at, "started": at, "completed": at });
                json!({ "statuses": [status] })
            }
            // the vertex says that it was cached
            Event::Explained { verdict: Verdict::Hit, .. } => return,
            Event::Explained { step, verdict, why } => {
                let at = time(now);
                let verdict = if *verdict == Verdict::Adopted { "adopted" } else { "ran" };
                let text = format!("{verdict}: {}", why.join("; "));
                let status = json!({ "id": text, "vertex": self.digest(*step), "current": 0, "timestamp": at, "started": at, "completed": at });
                json!({ "statuses": [status] })
            }
            Event::Warning(diagnostic) => json!({ "warnings": [warning(diagnostic)] }),
            Event::ShellBegins | Event::ShellEnds => return,
        };
        out.extend_from_slice(line.to_string().as_bytes());
        out.push(b'\n');
    }

    fn tick(&mut self, _now: Now, _out: &mut Vec<u8>) {}
}

impl RawJson {
    fn start(&mut self, step: StepNumber, now: SystemTime) {
        if let Some(vertex) = self.vertexes.get_mut(&step) {
            vertex.started.get_or_insert(now);
        }
    }

    fn digest(&self, step: StepNumber) -> Option<Digest> {
        self.vertexes.get(&step).map(|vertex| vertex.digest)
    }

    fn vertex(&self, step: StepNumber, mut members: Value) -> Value {
        if let Some(vertex) = self.vertexes.get(&step) {
            members["digest"] = json!(vertex.digest);
            members["name"] = json!(vertex.name);
            if let Some(started) = vertex.started {
                members["started"] = json!(time(started));
            }
        }
        json!({ "vertexes": [members] })
    }
}

fn warning(diagnostic: &Diagnostic) -> Value {
    let description = diagnostic.rule.map(|rule| rule.description.to_owned());
    let details = description.iter().chain(&diagnostic.notes).chain(&diagnostic.helps);
    let details: Vec<String> = details.map(|text| base64::encode(text.as_bytes())).collect();
    let line = diagnostic.place.as_ref().map(|(source, span)| format!(" (line {})", source.line_column(span.start).0));
    let short = format!("{}: {}{}", diagnostic.code, diagnostic.message, line.unwrap_or_default());
    let mut warning = json!({ "level": 1, "short": base64::encode(short.as_bytes()), "detail": details });
    if let Some(url) = diagnostic.rule.and_then(|rule| rule.url) {
        warning["url"] = json!(url);
    }
    if let Some((source, span)) = &diagnostic.place {
        let point = |offset: usize| {
            let (line, column) = source.line_column(offset);
            // BuildKit counts characters of a line from 0
            json!({ "line": line, "character": column - 1 })
        };
        warning["sourceInfo"] = json!({ "filename": source.name(), "data": base64::encode(source.text().as_bytes()) });
        warning["range"] = json!([{ "start": point(span.start), "end": point(span.end) }]);
    }
    warning
}

/// RFC 3339 with nanoseconds, as Go writes times; times that jiff cannot hold (past the year 9999) become 1970.
fn time(time: SystemTime) -> String {
    Timestamp::try_from(time).unwrap_or_default().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnostic::{Source, Span};
    use std::time::Duration;

    fn lines(events: &[Event]) -> Vec<Value> {
        let mut view = RawJson::default();
        let mut out = Vec::new();
        for event in events {
            view.event(event, Now { since_start: Duration::ZERO, wall: SystemTime::UNIX_EPOCH }, &mut out);
        }
        let text = String::from_utf8(out).expect("JSON is UTF-8");
        text.lines().map(|line| serde_json::from_str(line).expect("each line is JSON")).collect()
    }

    #[test]
    fn a_step_keeps_its_digest_and_name() {
        let digest = Digest::of(b"1 RUN x");
        let lines = lines(&[
            Event::Announced { step: 1, name: "RUN x".into() },
            Event::Started { step: 1 },
            Event::Output { step: 1, stream: Stream::Stderr, bytes: b"hi".to_vec() },
            Event::Failed { step: 1, message: "exit code 1".into() },
        ]);
        let at = "1970-01-01T00:00:00Z";
        assert_eq!(
            lines,
            [
                json!({"vertexes": [{"digest": digest, "name": "RUN x"}]}),
                json!({"vertexes": [{"digest": digest, "name": "RUN x", "started": at}]}),
                json!({"logs": [{"vertex": digest, "stream": 2, "data": "aGk=", "timestamp": at}]}),
                json!({"vertexes": [{"digest": digest, "name": "RUN x", "started": at, "completed": at, "error": "exit code 1"}]}),
            ]
        );
    }

    #[test]
    fn warnings_carry_their_place() {
        let source = Source::new("Dockerfile", "FROM a\n");
        let warning = Diagnostic::warning("Rule", "odd", &source, Span::new(5, 6));
        let line = &lines(&[Event::Warning(Box::new(warning))])[0]["warnings"][0];
        assert_eq!(line["short"], base64::encode(b"Rule: odd (line 1)"));
        assert_eq!(line["range"][0], json!({"start": {"line": 1, "character": 5}, "end": {"line": 1, "character": 6}}));
    }
}
