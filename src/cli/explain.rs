//! `croze build --explain` and `croze explain`: why each step ran, or did not.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::{Arc, Mutex};

use crate::builder::explain::{self, LayerStory};
use crate::cli::args::ExplainArgs;
use crate::cli::build::{open_store, print_result};
use crate::cli::environment::Environment;
use crate::cli::failure::Failure;
use crate::event::{Event, EventSink, StepNumber, Verdict};

/// Passes events on, and keeps what they say about why steps ran.
pub struct Explaining {
    next: Arc<dyn EventSink>,
    told: Mutex<Told>,
}

#[derive(Default)]
struct Told {
    names: BTreeMap<StepNumber, String>,
    steps: BTreeMap<StepNumber, (Verdict, Vec<String>)>,
}

impl Explaining {
    /// In front of `next`.
    pub fn new(next: Arc<dyn EventSink>) -> Explaining {
        Explaining { next, told: Mutex::default() }
    }

    /// What was told, for people: two lines or more for each step, in the order in which steps were announced.
    pub fn text(&self) -> String {
        let told = self.told.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let steps = told.steps.iter().filter_map(|(number, (verdict, why))| Some((told.names.get(number)?, *verdict, why)));
        steps.map(|(name, verdict, why)| paragraph(name, verdict, why)).collect()
    }
}

impl EventSink for Explaining {
    fn event(&self, event: Event) {
        let mut told = self.told.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        match &event {
            Event::Announced { step, name } => drop(told.names.insert(*step, name.clone())),
            Event::Explained { step, verdict, why } => drop(told.steps.insert(*step, (*verdict, why.clone()))),
            _ => {}
        }
        drop(told);
        self.next.event(event);
    }
}

/// Prints why steps of the last build ran; with a word, those of steps and layers that it fits.
///
/// # Errors
/// Nothing was built yet, or nothing fits.
pub fn run(args: &ExplainArgs, environment: &Environment) -> Result<(), Failure> {
    let store = open_store(environment)?;
    let wanted = args.wanted.as_deref().unwrap_or_default();
    let found = explain::find(&store, wanted).map_err(|error| Failure::build(error, None))?;
    let mut text = String::new();
    for LayerStory { step, parts } in found {
        text.push_str(&paragraph(&step.name, step.verdict, &step.why));
        if !wanted.is_empty() {
            writeln!(text, "    layer {}", step.diff_id.0).expect("strings take everything");
            for (name, value) in parts {
                writeln!(text, "    {name}: {value}").expect("strings take everything");
            }
        }
    }
    print_result(text.trim_end())
}

fn paragraph(name: &str, verdict: Verdict, why: &[String]) -> String {
    let verdict = match verdict {
        Verdict::Hit => "hit",
        Verdict::Adopted => "adopted: it ran and left what it had left before",
        Verdict::Ran => "ran",
    };
    let mut text = format!("{name}\n    {verdict}\n");
    why.iter().for_each(|sentence| writeln!(text, "      because {sentence}").expect("strings take everything"));
    text
}
