//! What a step leaves running where no process namespace takes it along.
//!
//! The launcher is the reaper of all that its steps start (`PR_SET_CHILD_SUBREAPER`): a process whose parent has ended becomes
//! its child. So it can find and end whatever outlives a step's command.

use std::fs;

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, getpid, kill_process, waitid};

/// Rounds of a search: each ends what the one before has made our child.
const MOST_ROUNDS: usize = 1000;

/// Ends what the command of the step `ended` has left, given the commands of the steps that still run.
///
/// Processes of its session always; those in sessions of their own once no other step runs, as they could be another's.
pub(super) fn end(ended: u32, running: &[u32]) {
    for _ in 0..MOST_ROUNDS {
        let Ok(own) = u32::try_from(getpid().as_raw_nonzero().get()) else { return };
        let mut found = false;
        for process in
            processes().filter(|process| process.number != own && process.number != ended && !running.contains(&process.number))
        {
            let ours = process.session == ended || (process.parent == own && running.is_empty());
            let Some(pid) = i32::try_from(process.number).ok().and_then(Pid::from_raw).filter(|_| ours) else { continue };
            found = true;
            if process.parent == own {
                // it may be dead already; then this is all that is left to do
                let _may_run = kill_process(pid, Signal::KILL);
                let _reaped = waitid(WaitId::Pid(pid), WaitIdOptions::EXITED);
            } else if process.state != 'Z' {
                let _gone = kill_process(pid, Signal::KILL);
            }
        }
        if !found {
            return;
        }
    }
}

/// A line of the process table.
struct Process {
    number: u32,
    state: char,
    parent: u32,
    session: u32,
}

fn processes() -> impl Iterator<Item = Process> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| {
        let number = entry.file_name().to_str()?.parse().ok()?;
        parse(number, &fs::read_to_string(entry.path().join("stat")).ok()?)
    })
}

/// Reads `proc_pid_stat(5)`: the name in parentheses may hold anything.
fn parse(number: u32, stat: &str) -> Option<Process> {
    let (_, rest) = stat.rsplit_once(") ")?;
    let mut words = rest.split(' ');
    let state = words.next()?.chars().next()?;
    let parent = words.next()?.parse().ok()?;
    let session = words.nth(1)?.parse().ok()?;
    Some(Process { number, state, parent, session })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_parentheses_does_not_mislead() {
        let process = parse(7, "7 (a) b) S 3 4 5 6 0 0").expect("a line");
        assert_eq!((process.state, process.parent, process.session), ('S', 3, 5));
        assert!(parse(7, "7 (a").is_none());
    }
}
