//! What a build looks like while it runs.
//!
//! Owns: BuildKit's plain text ([`plain`]) and status lines ([`rawjson`]).
//! In:   events, from several threads; the clock, which views are handed and never read.
//! Out:  bytes on stderr, in few writes.
//! Elsewhere: how a diagnostic is drawn (`diagnostic::render`); the last lines of a failed step, which its diagnostic holds.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use crate::cli::args::ProgressMode;
use crate::cli::stderr;
use crate::diagnostic::Diagnostic;
use crate::diagnostic::render::{Color, render_all};
use crate::event::{Event, EventSink};

pub mod plain;
pub mod rawjson;

use plain::Plain;
use rawjson::RawJson;

/// How often [`Console::tick`] wants to be called: the delay of progress, as in BuildKit's own display.
pub const TICK: Duration = Duration::from_millis(100);

/// More unwritten text than this is written without waiting for a tick, and before more output is taken.
const FULL_BYTES: usize = 32 << 10;

/// How long somebody who asked to stop waits for a reader of the display who takes nothing.
pub const LAST_PATIENCE: Duration = Duration::from_millis(500);

/// When an event happened.
#[derive(Debug, Clone, Copy)]
pub struct Now {
    /// Since the display began.
    pub since_start: Duration,
    /// By the wall clock.
    pub wall: SystemTime,
}

/// Turns events into text. Views are plain values: they neither write nor look at a clock.
pub trait View: Send {
    /// Appends what `event` looks like.
    fn event(&mut self, event: &Event, now: Now, out: &mut Vec<u8>);

    /// Appends what had to wait and has waited long enough.
    fn tick(&mut self, now: Now, out: &mut Vec<u8>);
}

/// The [`EventSink`] of a build on the command line.
///
/// Text is gathered and written every [`TICK`], when there is much of it, and at the end: a build that finds all its steps
/// in the cache writes once.
///
/// A reader who is slow slows the commands whose output it is, and nothing else: only the thread that hands in output waits,
/// and not while it holds the lock. After [`Console::hurry`] nobody waits.
pub struct Console {
    hurried: AtomicBool,
    start: Instant,
    color: Color,
    /// Whether warnings and results are shown as text.
    talks: bool,
    state: Mutex<State>,
}

struct State {
    view: Option<Box<dyn View>>,
    out: Vec<u8>,
    warnings: Vec<Diagnostic>,
    /// Whether something was written, so that what follows is set off by a blank line.
    wrote: bool,
    /// Somebody else uses the terminal: nothing is written.
    held: bool,
}

impl State {
    /// Writes what goes without waiting.
    fn write_ready(&mut self) {
        if !self.out.is_empty() && !self.held {
            stderr::write_ready(&mut self.out);
            self.wrote = true;
        }
    }

    /// Writes the last of it.
    fn write_out(&mut self, patience: Option<Duration>) {
        if !self.out.is_empty() {
            stderr::write_all(std::mem::take(&mut self.out), patience);
            self.wrote = true;
        }
    }
}

impl Console {
    /// A display of the kind asked for; `Auto` and `Tty` are lines of text for now.
    pub fn new(mode: ProgressMode, color: Color) -> Console {
        let view: Option<Box<dyn View>> = match mode {
            ProgressMode::Auto | ProgressMode::Plain | ProgressMode::Tty => Some(Box::new(Plain::default())),
            ProgressMode::Rawjson => Some(Box::new(RawJson::default())),
            ProgressMode::Quiet | ProgressMode::None => None,
        };
        let talks = matches!(mode, ProgressMode::Auto | ProgressMode::Plain | ProgressMode::Tty);
        let state = State { view, out: Vec::new(), warnings: Vec::new(), wrote: false, held: false };
        Console { hurried: AtomicBool::new(false), start: Instant::now(), color, talks, state: Mutex::new(state) }
    }

    /// Writes what has gathered. To be called every [`TICK`] while the build runs.
    pub fn tick(&self) {
        let now = self.now();
        let mut state = self.lock();
        let State { view, out, .. } = &mut *state;
        if let Some(view) = view {
            view.tick(now, out);
        }
        state.write_ready();
    }

    /// Ends the display of a build that failed, with the warnings; gives them, so that they are not shown twice.
    pub fn finish_failed(&self) -> Vec<Diagnostic> {
        let mut state = self.lock();
        let warnings = self.show_warnings(&mut state);
        state.write_out(self.patience());
        warnings
    }

    /// Ends the display of a build that gave a result: the warnings, then `lines`, which say what there is now.
    pub fn finish_built(&self, lines: &[String]) {
        let mut state = self.lock();
        self.show_warnings(&mut state);
        if self.talks {
            for line in lines {
                state.out.extend_from_slice(line.as_bytes());
                state.out.push(b'\n');
            }
        }
        state.write_out(self.patience());
    }

    fn show_warnings(&self, state: &mut State) -> Vec<Diagnostic> {
        let warnings = std::mem::take(&mut state.warnings);
        if self.talks {
            if state.wrote || !state.out.is_empty() {
                state.out.push(b'\n');
            }
            if !warnings.is_empty() {
                let count = if warnings.len() == 1 { "1 warning".to_owned() } else { format!("{} warnings", warnings.len()) };
                let text = format!("{}\n{count} found\n\n", render_all(&warnings, self.color));
                state.out.extend_from_slice(text.as_bytes());
            }
        }
        warnings
    }

    /// Lets nobody wait for a reader any more: the client wants to stop.
    pub fn hurry(&self) {
        self.hurried.store(true, Ordering::Relaxed);
    }

    fn is_hurried(&self) -> bool {
        self.hurried.load(Ordering::Relaxed)
    }

    fn patience(&self) -> Option<Duration> {
        self.is_hurried().then_some(LAST_PATIENCE)
    }

    fn now(&self) -> Now {
        Now { since_start: self.start.elapsed(), wall: SystemTime::now() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // a panic ends the process, so the state behind a poisoned lock is never shown for long
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl EventSink for Console {
    fn event(&self, event: Event) {
        let now = self.now();
        let is_output = matches!(event, Event::Output { .. });
        let mut state = self.lock();
        if is_output && self.is_hurried() && state.out.len() >= FULL_BYTES {
            // nobody reads, and nobody will wait
            return;
        }
        let State { view, out, warnings, .. } = &mut *state;
        if let Some(view) = view {
            view.event(&event, now, out);
        }
        match event {
            Event::Warning(diagnostic) => warnings.push(*diagnostic),
            Event::ShellBegins => {
                state.write_out(self.patience());
                state.held = true;
            }
            Event::ShellEnds => state.held = false,
            _ => {}
        }
        if state.out.len() < FULL_BYTES {
            return;
        }
        state.write_ready();
        // output comes on the threads of its commands, which may wait; everything else is short
        while is_output && state.out.len() >= FULL_BYTES && !self.is_hurried() {
            let held = state.held;
            drop(state);
            if held {
                std::thread::sleep(TICK);
            } else {
                stderr::is_ready(Some(TICK));
            }
            state = self.lock();
            state.write_ready();
        }
    }
}

/// A name or message on one line, without characters that a terminal would obey.
pub fn one_line(text: &str) -> String {
    let mut line = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\n' | '\t' => line.push(' '),
            c if c.is_control() => line.extend(c.escape_default()),
            c => line.push(c),
        }
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_holds_nothing_that_a_terminal_obeys() {
        assert_eq!(one_line("RUN a\nb\u{1b}[2J\tü\r"), "RUN a b\\u{1b}[2J ü\\r");
    }
}
