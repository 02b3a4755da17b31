//! Where each step stands; pure.

use std::collections::BTreeSet;

use crate::graph::{Graph, StepIndex};

/// A step moves down this list and never back up. `Ready` speaks of inputs alone; whether the step must run is decided when it
/// leaves `Ready`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StepState<O> {
    /// No target needs it.
    Unwanted,
    /// Inputs are missing: so many.
    Waiting(usize),
    /// All inputs are there.
    Ready,
    /// Being looked up, waited for or run.
    Running,
    /// Its output is there.
    Done(O),
    /// It failed.
    Failed,
    /// It will never run, since something else failed.
    Skipped,
}

/// The states of all steps that a target needs.
pub struct States<O> {
    order: Vec<StepIndex>,
    /// Each step's place in `order`, by index.
    places: Vec<usize>,
    /// By index, as the next.
    states: Vec<StepState<O>>,
    readers: Vec<Vec<StepIndex>>,
    /// Places of the steps that are `Ready`: a large graph is not searched for them each time a step ends.
    ready: BTreeSet<usize>,
}

impl<O: Clone> States<O> {
    /// All steps that `targets` need, waiting or ready.
    pub fn new(graph: &Graph, targets: &[StepIndex]) -> States<O> {
        let order = graph.needed(targets);
        let mut places = vec![0; graph.len()];
        let mut states = vec![StepState::Unwanted; graph.len()];
        let mut readers: Vec<Vec<StepIndex>> = vec![Vec::new(); graph.len()];
        let mut ready = BTreeSet::new();
        for (place, index) in order.iter().enumerate() {
            let mut inputs = graph.inputs(*index);
            inputs.sort_unstable();
            inputs.dedup();
            for input in &inputs {
                readers[input.index()].push(*index);
            }
            places[index.index()] = place;
            states[index.index()] = if inputs.is_empty() {
                ready.insert(place);
                StepState::Ready
            } else {
                StepState::Waiting(inputs.len())
            };
        }
        States { order, places, states, readers, ready }
    }

    /// All steps, inputs before readers.
    pub fn order(&self) -> &[StepIndex] {
        &self.order
    }

    /// Takes the steps that can begin, in order; they are running from now on.
    pub fn take_ready(&mut self) -> Vec<StepIndex> {
        let ready: Vec<StepIndex> = std::mem::take(&mut self.ready).into_iter().map(|place| self.order[place]).collect();
        for index in &ready {
            self.states[index.index()] = StepState::Running;
        }
        ready
    }

    /// A step's output, once it is done.
    pub fn output(&self, index: StepIndex) -> Option<&O> {
        match &self.states[index.index()] {
            StepState::Done(output) => Some(output),
            _ => None,
        }
    }

    /// Notes that a step is done; what waited for it alone becomes ready.
    pub fn done(&mut self, index: StepIndex, output: O) {
        self.states[index.index()] = StepState::Done(output);
        for reader in &self.readers[index.index()] {
            let state = &mut self.states[reader.index()];
            match state {
                StepState::Waiting(1) => {
                    *state = StepState::Ready;
                    self.ready.insert(self.places[reader.index()]);
                }
                StepState::Waiting(missing) => *missing -= 1,
                _ => {}
            }
        }
    }

    /// Notes that a step failed; everything that has not begun is skipped. Returns the skipped steps in order.
    pub fn failed(&mut self, index: StepIndex) -> Vec<StepIndex> {
        self.states[index.index()] = StepState::Failed;
        self.skip_rest()
    }

    /// Skips everything that has not begun.
    pub fn skip_rest(&mut self) -> Vec<StepIndex> {
        self.ready.clear();
        let mut skipped = Vec::new();
        for index in &self.order {
            let state = &mut self.states[index.index()];
            if matches!(state, StepState::Waiting(_) | StepState::Ready) {
                *state = StepState::Skipped;
                skipped.push(*index);
            }
        }
        skipped
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::{ContextOp, Op, Origin};

    fn diamond() -> (Graph, [StepIndex; 4]) {
        let mut graph = Graph::new();
        let context = |name: &str| Op::Context(ContextOp { name: name.into() });
        let top = graph.add(context("top"), &[], Origin::default());
        let left = graph.add(context("left"), &[top], Origin::default());
        let right = graph.add(context("right"), &[top], Origin::default());
        let bottom = graph.add(Op::Merge, &[left, right], Origin::default());
        (graph, [top, left, right, bottom])
    }

    #[test]
    fn steps_become_ready_when_all_inputs_are_done() {
        let (graph, [top, left, right, bottom]) = diamond();
        let mut states = States::new(&graph, &[bottom]);
        assert_eq!(states.take_ready(), [top]);
        states.done(top, ());
        assert_eq!(states.take_ready(), [left, right]);
        states.done(left, ());
        assert_eq!(states.take_ready(), []);
        states.done(right, ());
        assert_eq!(states.take_ready(), [bottom]);
    }

    #[test]
    fn a_failure_skips_what_has_not_begun() {
        let (graph, [top, left, right, bottom]) = diamond();
        let mut states = States::new(&graph, &[bottom]);
        states.take_ready();
        states.done(top, ());
        assert_eq!(states.failed(left), [right, bottom]);
        assert_eq!(states.take_ready(), []);
    }

    #[test]
    fn an_input_used_twice_is_waited_for_once() {
        let mut graph = Graph::new();
        let top = graph.add(Op::Scratch, &[], Origin::default());
        let bottom = graph.add(Op::Merge, &[top, top], Origin::default());
        let mut states = States::new(&graph, &[bottom]);
        states.take_ready();
        states.done(top, ());
        assert_eq!(states.take_ready(), [bottom]);
    }
}
