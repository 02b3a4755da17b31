//! One pattern as an automaton over the characters of a path.

use super::super::glob::{self, BadPattern};
use super::translate::{Step, steps};

/// A pattern and how it is matched.
#[derive(Clone, Debug)]
pub(super) struct Pattern {
    /// Cleaned, without the `!`.
    pub(super) text: String,
    /// Whether it began with `!`.
    pub(super) exception: bool,
    steps: Vec<Step>,
}

/// The steps that may come next; bit `n` stands for step `n`, the bit behind the last step for a match.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct States(Bits);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Bits {
    Few(u64),
    Many(Vec<bool>),
}

impl States {
    /// No way to go on.
    pub(super) fn none() -> States {
        States(Bits::Few(0))
    }

    /// Whether there is no way to go on.
    pub(super) fn is_none(&self) -> bool {
        match &self.0 {
            Bits::Few(bits) => *bits == 0,
            Bits::Many(bits) => !bits.contains(&true),
        }
    }

    fn with_room_for(steps: usize) -> States {
        if steps < 64 { States::none() } else { States(Bits::Many(vec![false; steps + 1])) }
    }

    fn contains(&self, step: usize) -> bool {
        match &self.0 {
            Bits::Few(bits) => step < 64 && bits >> step & 1 == 1,
            Bits::Many(bits) => bits.get(step).copied().unwrap_or(false),
        }
    }

    fn add(&mut self, step: usize) {
        match &mut self.0 {
            Bits::Few(bits) => *bits |= 1 << step,
            Bits::Many(bits) => bits[step] = true,
        }
    }
}

impl Pattern {
    pub(super) fn parse(text: &str, exception: bool) -> Result<Pattern, BadPattern> {
        glob::check(text.as_bytes())?;
        Ok(Pattern { text: text.to_owned(), exception, steps: steps(text)? })
    }

    /// Before the first character of a path.
    pub(super) fn start(&self) -> States {
        let mut states = States::with_room_for(self.steps.len());
        self.add(&mut states, 0, Place::Begin);
        states
    }

    /// Whether the characters so far are a whole match.
    pub(super) fn accepts(&self, states: &States) -> bool {
        states.contains(self.steps.len())
    }

    pub(super) fn step_all(&self, states: &States, characters: impl Iterator<Item = char>) -> States {
        let mut states = states.clone();
        for c in characters {
            if states.is_none() {
                break;
            }
            states = self.step(&states, c);
        }
        states
    }

    fn step(&self, states: &States, c: char) -> States {
        let mut next = States::with_room_for(self.steps.len());
        for (number, step) in self.steps.iter().enumerate().filter(|(number, _)| states.contains(*number)) {
            match step {
                Step::One(set) if set.contains(c) => self.add(&mut next, number + 1, Place::Within),
                Step::Many(set) if set.contains(c) => self.add(&mut next, number, Place::Within),
                // Inside of a component the step behind waits; a slash lets it begin.
                Step::Components if c == '/' => self.add(&mut next, number, Place::Within),
                Step::Components => next.add(number),
                Step::One(_) | Step::Many(_) | Step::Begin => {}
            }
        }
        next
    }

    /// Adds a step, and those behind it that are reached without a character.
    fn add(&self, states: &mut States, from: usize, place: Place) {
        let mut number = from;
        while !states.contains(number) || number == from {
            states.add(number);
            match self.steps.get(number) {
                Some(Step::Many(_) | Step::Components) => number += 1,
                Some(Step::Begin) if place == Place::Begin => number += 1,
                Some(Step::One(_) | Step::Begin) | None => return,
            }
        }
    }
}

/// Where in a path a step is reached.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Begin,
    Within,
}
