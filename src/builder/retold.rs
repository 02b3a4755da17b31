//! Events of a schedule that is run more than once, as the events of one run.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};

use super::reporter::Reporter;
use crate::event::{Event, EventSink, StepNumber, Verdict};

/// Passes the events of steps on. What a further run says of steps that have ended is left out; a step that runs although its
/// result was there before, since its layer could not be brought here, gets a further number.
pub struct Retold {
    reporter: Arc<Reporter>,
    names: HashMap<StepNumber, String>,
    told: Mutex<Told>,
}

#[derive(Default)]
struct Told {
    ended: HashSet<StepNumber>,
    /// Further numbers.
    again: HashMap<StepNumber, StepNumber>,
}

impl Retold {
    /// For steps with these names.
    pub fn new(reporter: Arc<Reporter>, names: HashMap<StepNumber, String>) -> Retold {
        Retold { reporter, names, told: Mutex::default() }
    }

    /// The number to go by, if the event is to be told.
    fn number(&self, event: &Event, step: StepNumber) -> Option<StepNumber> {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        match event {
            // explanations are gathered by number, and the last one counts
            Event::Explained { verdict: Verdict::Ran | Verdict::Adopted, .. } => return Some(step),
            Event::Started { .. } if told.ended.remove(&step) => {
                let number = self.reporter.announce(self.names.get(&step).cloned().unwrap_or_default());
                told.again.insert(step, number);
            }
            _ if told.ended.contains(&step) => return None,
            _ => {}
        }
        if matches!(event, Event::Cached { .. } | Event::Done { .. }) {
            told.ended.insert(step);
        }
        Some(told.again.get(&step).copied().unwrap_or(step))
    }
}

impl EventSink for Retold {
    fn event(&self, mut event: Event) {
        if let Some(step) = step_of(&mut event).map(|step| *step) {
            let Some(number) = self.number(&event, step) else { return };
            *step_of(&mut event).expect("it has one") = number;
        }
        self.reporter.events.event(event);
    }
}

/// The step that an event is about.
fn step_of(event: &mut Event) -> Option<&mut StepNumber> {
    match event {
        Event::Announced { step, .. }
        | Event::Started { step }
        | Event::Cached { step }
        | Event::Done { step, .. }
        | Event::Failed { step, .. }
        | Event::Canceled { step }
        | Event::Output { step, .. }
        | Event::Note { step, .. }
        | Event::Explained { step, .. } => Some(step),
        Event::ShellBegins | Event::ShellEnds | Event::Warning(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[derive(Default)]
    struct Heard(Mutex<Vec<String>>);

    impl EventSink for Heard {
        fn event(&self, mut event: Event) {
            let word = format!("{event:?}").split(' ').next().unwrap_or_default().to_owned();
            let step = step_of(&mut event).copied();
            self.0.lock().expect("no panic").push(format!("{word} {}", step.unwrap_or_default()));
        }
    }

    #[test]
    fn a_second_run_tells_what_is_new() {
        let heard = Arc::new(Heard::default());
        let reporter = Arc::new(Reporter::new(heard.clone()));
        let numbers = ["one", "two"].map(|name| reporter.announce(name.to_owned()));
        let names = HashMap::from([(numbers[0], "one".to_owned()), (numbers[1], "two".to_owned())]);
        let retold = Retold::new(reporter, names);
        heard.0.lock().expect("no panic").clear();
        let done = |step| Event::Done { step, elapsed: Duration::ZERO };
        for event in [Event::Cached { step: 1 }, Event::Cached { step: 2 }] {
            retold.event(event);
        }
        // the second run
        for event in [Event::Cached { step: 1 }, Event::Started { step: 2 }, done(2)] {
            retold.event(event);
        }
        // the third
        for event in [Event::Cached { step: 1 }, Event::Cached { step: 2 }] {
            retold.event(event);
        }
        assert_eq!(*heard.0.lock().expect("no panic"), ["Cached 1", "Cached 2", "Announced 3", "Started 3", "Done 3"]);
    }
}
