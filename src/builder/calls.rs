//! What can be asked about a Dockerfile without building it: findings of the build checks, an outline, the targets.
//!
//! As in BuildKit, `--platform` has no say in the answers: a file is judged for the builder's own platform.

use std::sync::Arc;

use tokio::sync::watch;

use super::build::{Build, Planned, Refused};
use super::{BuildError, BuildRequest, Checked, ErrorKind, Finding};
use crate::diagnostic::{Diagnostic, Pass, Severity, Source, Span};
use crate::dockerfile::{self, Dockerfile, From, rules};
use crate::event::{Event, EventSink};
use crate::plan::{Outline, Wish};
use crate::store::Store;

/// See [`super::check`].
pub async fn check(
    store: Store,
    mut request: BuildRequest,
    events: Arc<dyn EventSink>,
    cancel: watch::Receiver<bool>,
) -> Result<Checked, BuildError> {
    request.platforms = Vec::new();
    let (mut build, inputs) = Build::open(store, request, events, cancel).await?;
    let planned = build.plan(&inputs, Wish::Every).await;
    let (mut warnings, violation, error) = match planned {
        Ok(planned) => {
            let violation = planned.violation();
            (planned.warnings, violation, None)
        }
        Err(Refused { error, .. }) if error.kind == ErrorKind::Interrupted => return Err(error),
        Err(Refused { warnings, error }) => (warnings, None, Some(error)),
    };
    let (dockerfile, _) = dockerfile::parse(&inputs.dockerfile);
    let found: Vec<Diagnostic> = warnings.extract_if(.., |warning| warning.rule.is_some()).collect();
    Ok(Checked { findings: findings(&dockerfile, found), source: inputs.dockerfile, warnings, violation, error })
}

/// See [`super::outline`].
pub async fn outline(
    store: Store,
    mut request: BuildRequest,
    events: Arc<dyn EventSink>,
    cancel: watch::Receiver<bool>,
) -> Result<(Source, Outline), BuildError> {
    request.platforms = Vec::new();
    let (mut build, inputs) = Build::open(store, request, events, cancel).await?;
    let Planned { outline, warnings, .. } = build.plan(&inputs, Wish::Target).await.map_err(Refused::into_error)?;
    for warning in warnings {
        build.reporter.events.event(Event::Warning(Box::new(warning)));
    }
    Ok((inputs.dockerfile, outline))
}

/// See [`super::targets`].
pub async fn targets(
    store: Store,
    request: BuildRequest,
    events: Arc<dyn EventSink>,
    cancel: watch::Receiver<bool>,
) -> Result<(Source, Vec<From>), BuildError> {
    let (_, inputs) = Build::open(store, request, events, cancel).await?;
    let (dockerfile, mut diagnostics) = dockerfile::parse(&inputs.dockerfile);
    diagnostics.retain(|diagnostic| diagnostic.severity == Severity::Error);
    if !diagnostics.is_empty() {
        return Err(BuildError { kind: ErrorKind::Usage, diagnostics });
    }
    Ok((inputs.dockerfile, dockerfile.stages.into_iter().map(|stage| stage.from).collect()))
}

/// The findings in the order in which BuildKit comes by them, with the lines that it reports.
fn findings(dockerfile: &Dockerfile, found: Vec<Diagnostic>) -> Vec<Finding> {
    let finding = |diagnostic: Diagnostic| {
        let span = diagnostic.place.as_ref().map_or(Span::default(), |(_, span)| *span);
        let lines = diagnostic.lines.or_else(|| dockerfile.lines_at(span)).unwrap_or(span);
        Some(Finding { rule: diagnostic.rule?, detail: diagnostic.message, lines })
    };
    let mut findings: Vec<Finding> = found.into_iter().filter_map(finding).collect();
    findings.sort_by_key(|finding| {
        let rank = rules::RULES.iter().position(|rule| rule.name == finding.rule.name);
        match finding.rule.pass {
            // stages in their order, instructions in theirs: as the plan goes
            Pass::Steps => (Pass::Steps, 0, None),
            pass => (pass, finding.lines.start, rank),
        }
    });
    findings
}
