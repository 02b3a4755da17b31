//! One pattern as an automaton over the characters of a path.

use super::super::glob::{self, BadPattern, Token};

/// A pattern and how it is matched.
#[derive(Clone, Debug)]
pub(super) struct Pattern {
    /// Cleaned, without the `!`.
    pub(super) text: String,
    /// Whether it began with `!`.
    pub(super) exception: bool,
    steps: Vec<Step>,
}

#[derive(Clone, Debug)]
enum Step {
    /// One character.
    One(Token),
    /// Any number of characters but `/`.
    Star,
    /// Any number of whole components with their slashes.
    Components,
    /// Anything, slashes included.
    Everything,
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
        let tokens = glob::tokens(text.as_bytes())?;
        let reversed =
            |token: &Token| matches!(token, Token::Class { ranges, .. } if ranges.iter().any(|(low, high)| low > high));
        if tokens.iter().any(reversed) {
            return Err(BadPattern { offset: text.find('[').unwrap_or(0) });
        }
        Ok(Pattern { text: text.to_owned(), exception, steps: steps(&tokens, text) })
    }

    /// Before the first character of a path.
    pub(super) fn start(&self) -> States {
        let mut states = States::with_room_for(self.steps.len());
        self.add(&mut states, 0);
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
                Step::One(token) if token.matches(c) => self.add(&mut next, number + 1),
                Step::Star if c != '/' => self.add(&mut next, number),
                Step::Everything => self.add(&mut next, number),
                // Inside of a component the step behind waits; a slash lets it begin.
                Step::Components if c == '/' => self.add(&mut next, number),
                Step::Components => next.add(number),
                Step::One(_) | Step::Star => {}
            }
        }
        next
    }

    /// Adds a step, and those behind it that are reached without a character.
    fn add(&self, states: &mut States, from: usize) {
        let mut number = from;
        while !states.contains(number) || number == from {
            states.add(number);
            match self.steps.get(number) {
                Some(Step::Star | Step::Components | Step::Everything) => number += 1,
                Some(Step::One(_)) | None => return,
            }
        }
    }
}

/// What `**` means depends on its place: at the end everything; in front of a text without further wildcards any beginning,
/// even one that is no whole component; else whole components.
fn steps(tokens: &[Token], text: &str) -> Vec<Step> {
    let has_wildcards = |tokens: &[Token]| tokens.iter().any(|token| !matches!(token, Token::Char(_)));
    let mut steps = Vec::with_capacity(tokens.len());
    let mut rest = tokens;
    while let Some((token, after)) = rest.split_first() {
        rest = after;
        if *token != Token::Star || after.first() != Some(&Token::Star) {
            steps.push(if *token == Token::Star { Step::Star } else { Step::One(token.clone()) });
            continue;
        }
        rest = &after[1..];
        let slash = rest.first() == Some(&Token::Char('/'));
        let is_first = steps.is_empty();
        if slash {
            rest = &rest[1..];
        }
        steps.push(if rest.is_empty() || (is_first && !slash && !has_wildcards(rest) && !text.contains('\\')) {
            Step::Everything
        } else {
            Step::Components
        });
    }
    steps
}
