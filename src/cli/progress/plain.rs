//! BuildKit's plain progress: numbered steps, each line with its time.
//!
//! ```text
//! #2 [build 2/4] RUN make
//! #2 0.123 cc -c a.c
//! #2 ...
//!
//! #3 [docs 2/2] RUN man
//! #3 DONE 0.3s
//!
//! #2 [build 2/4] RUN make
//! #2 DONE 1.2s
//! ```
//!
//! One step at a time is in front; its lines appear as they come. Lines of the others wait until the front is done, has
//! been silent for a while, or has been in front for long, so that parallel steps stay readable.

use std::collections::BTreeMap;
use std::io::Write;
use std::time::Duration;

use crate::cli::progress::{Now, View, one_line};
use crate::event::{Event, StepNumber};

/// The front may be silent for so long before another step that has lines takes over.
const SILENT: Duration = Duration::from_secs(1);
/// Lines wait at most so long.
const PATIENCE: Duration = Duration::from_secs(5);
/// More waiting bytes than this are shown at once, and a longer line is cut in two.
const WAITING_BYTES: usize = 64 << 10;

/// The view; see the module's docs.
#[derive(Debug, Default)]
pub struct Plain {
    steps: BTreeMap<StepNumber, Step>,
    front: Option<Front>,
    /// How many steps have been shown; a step gets its number when it appears first.
    shown: usize,
}

#[derive(Debug)]
struct Front {
    step: StepNumber,
    last_print: Duration,
}

#[derive(Debug, Default)]
struct Step {
    name: String,
    /// The number that people see, once they see it.
    shown: Option<usize>,
    started: Option<Duration>,
    /// The line that has not ended yet, and when it began.
    line: Vec<u8>,
    line_began: Duration,
    /// Whole lines with their times that wait for the step to be in front, and since when.
    waiting: Vec<u8>,
    waiting_since: Duration,
}

impl View for Plain {
    fn event(&mut self, event: &Event, now: Now, out: &mut Vec<u8>) {
        let now = now.since_start;
        match event {
            Event::Announced { step, name } => self.step(*step).name = one_line(name),
            Event::Started { step } => {
                self.step(*step).started = Some(now);
                if self.front.is_none() {
                    self.bring_to_front(*step, now, out);
                }
            }
            Event::Output { step, bytes, .. } => {
                self.step(*step).take_output(bytes, now);
                self.show_or_wait(*step, now, out);
            }
            Event::Note { step, text } => {
                let line = format!("{}\n", one_line(text));
                self.step(*step).wait(line.as_bytes(), now);
                self.show_or_wait(*step, now, out);
            }
            Event::Cached { step } => self.close(*step, "CACHED", now, out),
            Event::Done { step, elapsed } => self.close(*step, &format!("DONE {:.1}s", elapsed.as_secs_f64()), now, out),
            Event::Failed { step, message } => self.close(*step, &format!("ERROR: {}", one_line(message)), now, out),
            // a step that never began is not worth a header
            Event::Canceled { step } if self.step(*step).started.is_some() => self.close(*step, "CANCELED", now, out),
            Event::Canceled { .. } | Event::Explained { .. } | Event::Warning(_) | Event::ShellBegins | Event::ShellEnds => {}
        }
    }

    fn tick(&mut self, now: Now, out: &mut Vec<u8>) {
        let now = now.since_start;
        let Some((number, since)) = self.longest_waiting() else { return };
        let front_is_silent = self.front.as_ref().is_none_or(|front| now.saturating_sub(front.last_print) >= SILENT);
        if front_is_silent || now.saturating_sub(since) >= PATIENCE {
            self.bring_to_front(number, now, out);
        }
    }
}

impl Plain {
    fn step(&mut self, number: StepNumber) -> &mut Step {
        self.steps.entry(number).or_default()
    }

    fn longest_waiting(&self) -> Option<(StepNumber, Duration)> {
        let waiting = self.steps.iter().filter(|(_, step)| !step.waiting.is_empty());
        waiting.map(|(number, step)| (*number, step.waiting_since)).min_by_key(|(_, since)| *since)
    }

    fn show_or_wait(&mut self, number: StepNumber, now: Duration, out: &mut Vec<u8>) {
        let is_front = self.front.as_ref().is_none_or(|front| front.step == number);
        let waiting_bytes = self.step(number).waiting.len();
        if waiting_bytes > 0 && (is_front || waiting_bytes > WAITING_BYTES) {
            self.bring_to_front(number, now, out);
        }
    }

    /// Prints the header unless the step is in front already, then its waiting lines. Gives the number that people see.
    fn bring_to_front(&mut self, number: StepNumber, now: Duration, out: &mut Vec<u8>) -> usize {
        let is_front = self.front.as_ref().is_some_and(|front| front.step == number);
        let former = self.front.replace(Front { step: number, last_print: now }).filter(|_| !is_front);
        if let Some(former) = former.and_then(|front| self.step(front.step).shown) {
            write_line(out, format_args!("#{former} ..."));
        }
        let Plain { steps, shown, .. } = self;
        let is_first = *shown == 0;
        let step = steps.entry(number).or_default();
        let shown = *step.shown.get_or_insert_with(|| {
            *shown += 1;
            *shown
        });
        if !is_front {
            let set_off = if is_first { "" } else { "\n" };
            write_line(out, format_args!("{set_off}#{shown} {}", step.name));
        }
        for line in std::mem::take(&mut step.waiting).split_inclusive(|byte| *byte == b'\n') {
            write!(out, "#{shown} ").expect("vectors take everything");
            out.extend_from_slice(line);
        }
        shown
    }

    /// Prints all that is left of a step and how it ended; then whoever has waited longest comes to the front.
    fn close(&mut self, number: StepNumber, ending: &str, now: Duration, out: &mut Vec<u8>) {
        self.step(number).end_line(now);
        let shown = self.bring_to_front(number, now, out);
        write_line(out, format_args!("#{shown} {ending}"));
        self.front = None;
        self.steps.remove(&number);
        if let Some((next, _)) = self.longest_waiting() {
            self.bring_to_front(next, now, out);
        }
    }
}

impl Step {
    fn take_output(&mut self, bytes: &[u8], now: Duration) {
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            if self.line.is_empty() {
                self.line_began = now;
            }
            self.line.extend_from_slice(piece.strip_suffix(b"\n").unwrap_or(piece));
            if piece.ends_with(b"\n") {
                self.write_line(now);
            } else if self.line.len() > WAITING_BYTES {
                self.end_line(now);
            }
        }
    }

    /// Ends a line that the command left open.
    fn end_line(&mut self, now: Duration) {
        if !self.line.is_empty() {
            self.write_line(now);
        }
    }

    fn write_line(&mut self, now: Duration) {
        let line = std::mem::take(&mut self.line);
        let began = self.line_began.saturating_sub(self.started.unwrap_or_default());
        let mut prefixed = format!("{} ", five_characters(began)).into_bytes();
        prefixed.extend_from_slice(&line);
        prefixed.push(b'\n');
        self.wait(&prefixed, now);
    }

    fn wait(&mut self, lines: &[u8], now: Duration) {
        if self.waiting.is_empty() {
            self.waiting_since = now;
        }
        self.waiting.extend_from_slice(lines);
    }
}

/// Seconds in five characters, as BuildKit prints them: `0.123`, `12.34`, `123.4`.
fn five_characters(time: Duration) -> String {
    let secs = time.as_secs_f64();
    match time.as_secs() {
        0..10 => format!("{secs:.3}"),
        10..100 => format!("{secs:.2}"),
        100..1000 => format!("{secs:.1}"),
        _ => format!("{secs:.0}"),
    }
}

fn write_line(out: &mut Vec<u8>, line: std::fmt::Arguments<'_>) {
    writeln!(out, "{line}").expect("vectors take everything");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Stream;
    use std::time::SystemTime;

    /// What is told to the view, at which millisecond.
    enum Tell<'a> {
        Announce(StepNumber, &'a str),
        Start(StepNumber),
        Print(StepNumber, &'a str),
        Note(StepNumber, &'a str),
        Cached(StepNumber),
        Done(StepNumber, u64),
        Fail(StepNumber, &'a str),
        Cancel(StepNumber),
        Tick,
    }
    use Tell::*;

    #[track_caller]
    fn check(told: &[(u64, Tell<'_>)], expected: &str) {
        let mut plain = Plain::default();
        let mut out = Vec::new();
        for (millis, tell) in told {
            let now = Now { since_start: Duration::from_millis(*millis), wall: SystemTime::UNIX_EPOCH };
            let event = match *tell {
                Announce(step, name) => Event::Announced { step, name: name.into() },
                Start(step) => Event::Started { step },
                Print(step, text) => Event::Output { step, stream: Stream::Stdout, bytes: text.into() },
                Note(step, text) => Event::Note { step, text: text.into() },
                Cached(step) => Event::Cached { step },
                Done(step, millis) => Event::Done { step, elapsed: Duration::from_millis(millis) },
                Fail(step, message) => Event::Failed { step, message: message.into() },
                Cancel(step) => Event::Canceled { step },
                Tick => {
                    plain.tick(now, &mut out);
                    continue;
                }
            };
            plain.event(&event, now, &mut out);
        }
        assert_eq!(String::from_utf8_lossy(&out), expected);
    }

    #[test]
    fn a_step_from_start_to_end() {
        check(
            &[
                (0, Announce(1, "[1/2] FROM busybox")),
                (0, Announce(2, "[2/2] RUN make\nall")),
                (0, Cached(1)),
                (0, Start(2)),
                (123, Print(2, "a\nb")),
                (200, Print(2, "c\n")),
                (300, Done(2, 300)),
            ],
            "#1 [1/2] FROM busybox\n#1 CACHED\n\n#2 [2/2] RUN make all\n#2 0.123 a\n#2 0.123 bc\n#2 DONE 0.3s\n",
        );
    }

    #[test]
    fn lines_of_other_steps_wait_for_the_front_to_end() {
        check(
            &[
                (0, Announce(1, "A")),
                (0, Announce(2, "B")),
                (0, Start(1)),
                (0, Start(2)),
                (10, Print(1, "a1\n")),
                (20, Print(2, "b1\n")),
                (30, Print(1, "a2\n")),
                (100, Tick),
                (110, Done(1, 110)),
                (120, Print(2, "b2\n")),
                (130, Done(2, 130)),
            ],
            "#1 A\n#1 0.010 a1\n#1 0.030 a2\n#1 DONE 0.1s\n\n#2 B\n#2 0.020 b1\n#2 0.120 b2\n#2 DONE 0.1s\n",
        );
    }

    #[test]
    fn a_silent_front_makes_room() {
        check(
            &[
                (0, Announce(1, "A")),
                (0, Announce(2, "B")),
                (0, Start(1)),
                (0, Start(2)),
                (10, Print(2, "b\n")),
                (900, Tick),
                (1000, Tick),
            ],
            "#1 A\n#1 ...\n\n#2 B\n#2 0.010 b\n",
        );
    }

    #[test]
    fn nobody_waits_for_ever_behind_a_talkative_front() {
        check(
            &[
                (0, Announce(1, "A")),
                (0, Announce(2, "B")),
                (0, Start(1)),
                (0, Start(2)),
                (0, Print(2, "b\n")),
                (4900, Print(1, "a\n")),
                (4999, Tick),
                (5000, Tick),
            ],
            "#1 A\n#1 4.900 a\n#1 ...\n\n#2 B\n#2 0.000 b\n",
        );
    }

    #[test]
    fn a_failure_ends_the_open_line() {
        check(
            &[(0, Announce(3, "RUN x")), (0, Start(3)), (5, Print(3, "oops")), (6, Fail(3, "exit\ncode 1"))],
            "#1 RUN x\n#1 0.005 oops\n#1 ERROR: exit code 1\n",
        );
    }

    #[test]
    fn numbers_count_what_was_seen() {
        check(
            &[
                (0, Announce(1, "A")),
                (0, Announce(2, "B")),
                (0, Announce(3, "C")),
                (0, Cached(3)),
                (0, Cached(1)),
                (0, Start(2)),
                (1, Done(2, 1)),
            ],
            "#1 C\n#1 CACHED\n\n#2 A\n#2 CACHED\n\n#3 B\n#3 DONE 0.0s\n",
        );
    }

    #[test]
    fn only_steps_that_began_are_canceled_aloud() {
        check(
            &[(0, Announce(1, "A")), (0, Announce(2, "B")), (0, Start(1)), (1, Cancel(1)), (1, Cancel(2))],
            "#1 A\n#1 CANCELED\n",
        );
    }

    #[test]
    fn notes_stand_between_the_lines() {
        check(
            &[(0, Announce(1, "FROM a")), (0, Note(1, "using a:latest from the store")), (1, Cached(1))],
            "#1 FROM a\n#1 using a:latest from the store\n#1 CACHED\n",
        );
    }

    #[test]
    fn raw_bytes_pass() {
        let mut plain = Plain::default();
        let mut out = Vec::new();
        let now = Now { since_start: Duration::ZERO, wall: SystemTime::UNIX_EPOCH };
        plain.event(&Event::Output { step: 1, stream: Stream::Stderr, bytes: b"\xff\x1b[1m\r\n".to_vec() }, now, &mut out);
        assert_eq!(out, b"#1 \n#1 0.000 \xff\x1b[1m\r\n");
    }

    #[test]
    fn an_endless_line_is_cut() {
        let mut step = Step::default();
        step.take_output(&vec![b'x'; WAITING_BYTES + 1], Duration::ZERO);
        assert!(step.line.is_empty() && step.waiting.len() > WAITING_BYTES);
    }

    #[test]
    fn times_keep_their_width() {
        let text = |millis: u64| five_characters(Duration::from_millis(millis));
        assert_eq!(
            [text(0), text(1234), text(12_345), text(123_456), text(12_345_678)],
            ["0.000", "1.234", "12.35", "123.5", "12346"]
        );
    }
}
