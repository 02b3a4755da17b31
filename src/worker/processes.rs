//! The processes of a step, for people: what ran when its time was over.

use std::fs;

/// More than this is cut: a step may have forked without end.
const MOST_LINES: usize = 40;
const MOST_CHARACTERS: usize = 120;

/// What is said of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Details {
    /// Its whole command line.
    Arguments,
    /// Its program alone: arguments may hold a secret that the step was given.
    Program,
}

/// The tree below the process `pid` of ours, which a step knows as 1: `7 sleep 1000`, two blanks more for each generation,
/// numbers as the step sees them. What ends while it is looked at is left out.
pub fn tree(pid: u32, details: Details) -> Vec<String> {
    let mut lines = Vec::new();
    let mut todo = vec![(pid, 0)];
    let mut more = 0;
    while let Some((pid, depth)) = todo.pop() {
        if lines.len() >= MOST_LINES {
            more += 1;
            continue;
        }
        let Some(line) = describe(pid, details) else { continue };
        lines.push(format!("{:indent$}{line}", "", indent = 2 * depth));
        todo.extend(children(pid).into_iter().rev().map(|child| (child, depth + 1)));
    }
    if more > 0 {
        lines.push(format!("and more: {more} at least"));
    }
    lines
}

fn children(pid: u32) -> Vec<u32> {
    let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else { return Vec::new() };
    let lists = threads.flatten().filter_map(|thread| fs::read_to_string(thread.path().join("children")).ok());
    let mut children: Vec<u32> =
        lists.flat_map(|list| list.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<_>>()).collect();
    children.sort_unstable();
    children
}

fn describe(pid: u32, details: Details) -> Option<String> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    let number = field("NSpid:")?.split_whitespace().last()?;
    let program = field("Name:")?;
    let line = match details {
        Details::Arguments => fs::read(format!("/proc/{pid}/cmdline")).ok()?,
        Details::Program => Vec::new(),
    };
    let words = String::from_utf8_lossy(&line).split('\0').collect::<Vec<_>>().join(" ");
    let shown = match words.trim_end() {
        // a process that has ended but was not waited for has no command line any more
        "" if field("State:").is_some_and(|state| state.starts_with('Z')) => format!("{program} (ended)"),
        "" => program.to_owned(),
        words => words.to_owned(),
    };
    let shown: String = shown.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    let cut: String = shown.chars().take(MOST_CHARACTERS).collect();
    let dots = if cut.len() < shown.len() { "…" } else { "" };
    Some(format!("{number} {cut}{dots}"))
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn a_child_stands_below_its_parent() {
        let mut child = Command::new("cat").arg("-").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("cat starts");
        // a child has its parent's name until its program begins: an echo shows that it has
        child.stdin.as_mut().expect("piped").write_all(b"x").expect("cat reads");
        child.stdout.as_mut().expect("piped").read_exact(&mut [0]).expect("cat answers");
        let find = |details| {
            let lines = tree(std::process::id(), details);
            lines.into_iter().find(|line| line.starts_with(&format!("  {} ", child.id())))
        };
        let (whole, program) = (find(Details::Arguments), find(Details::Program));
        child.kill().expect("killed");
        child.wait().expect("gone");
        assert_eq!(whole, Some(format!("  {} cat -", child.id())));
        assert_eq!(program, Some(format!("  {} cat", child.id())));
    }

    #[test]
    fn what_is_gone_is_left_out() {
        assert_eq!(tree(u32::MAX, Details::Arguments), [""; 0]);
    }
}
