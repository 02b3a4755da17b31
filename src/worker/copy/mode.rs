//! `--chmod`: octal numbers and symbolic clauses.

use crate::graph::Chmod;
use crate::snapshot::FileKind;

/// Text that is no symbolic mode.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BadMode;

/// What `--chmod` makes of files, read once.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ModeChange {
    /// The mode stays.
    Keep,
    /// Every mode becomes this one.
    Set(u32),
    /// Changes, applied in order.
    Commands(Vec<Command>),
}

/// One change of a mode's bits.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Command {
    /// Takes bits away.
    Remove(u32),
    /// Adds bits.
    Add(u32),
    /// Adds bits for directories and for what somebody may execute.
    AddIfExecutable(u32),
    /// `g=u`: the three bits found by the shift `from` go to those of the shifts `to`, as they are by now.
    Copy {
        /// Shift of the bits to take over.
        from: u32,
        /// Shifts of those that get them.
        to: Vec<u32>,
        /// How.
        operator: Operator,
    },
}

/// What is done with bits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Operator {
    /// `+`
    Add,
    /// `-`
    Remove,
    /// `=`
    Assign,
}

const READ: u32 = 0o444;
const WRITE: u32 = 0o222;
const EXECUTE: u32 = 0o111;
const SET_IDS: u32 = 0o6000;
const STICKY: u32 = 0o1000;
const OTHERS: u32 = 0o007;
/// What `=` without `u`, `g`, `o` speaks of: all but the sticky bit.
const ALL: u32 = 0o6777;

impl ModeChange {
    /// Reads an op's `--chmod`.
    pub fn parse(chmod: Option<&Chmod>) -> Result<ModeChange, BadMode> {
        match chmod {
            None => Ok(ModeChange::Keep),
            Some(Chmod::Octal(mode)) => Ok(ModeChange::Set(mode & 0o7777)),
            Some(Chmod::Symbolic(text)) => {
                let mut commands = Vec::new();
                for clause in text.split(',') {
                    parse_clause(clause, &mut commands)?;
                }
                Ok(ModeChange::Commands(commands))
            }
        }
    }

    /// The mode of a copied file whose mode was `mode`.
    pub fn apply(&self, mode: u32, kind: FileKind) -> u32 {
        match self {
            ModeChange::Keep => mode,
            ModeChange::Set(set) => *set,
            ModeChange::Commands(commands) => {
                // `X` asks the mode from before all clauses; GNU chmod asks the one so far
                let may_execute = kind == FileKind::Directory || mode & EXECUTE != 0;
                commands.iter().fold(mode, |so_far, command| command.apply(so_far, may_execute))
            }
        }
    }

    /// The mode of a directory that the copy makes on its way: an octal one loses its special bits, clauses do not count.
    pub fn made_directory(&self) -> u32 {
        match self {
            ModeChange::Set(mode) => mode & 0o777,
            ModeChange::Keep | ModeChange::Commands(_) => 0o755,
        }
    }
}

impl Command {
    fn apply(&self, mode: u32, may_execute: bool) -> u32 {
        match self {
            Command::Remove(bits) => mode & !bits,
            Command::Add(bits) => mode | bits,
            Command::AddIfExecutable(bits) if may_execute => mode | bits,
            Command::AddIfExecutable(_) => mode,
            Command::Copy { from, to, operator } => {
                let bits = mode >> from & 0o7;
                to.iter().fold(mode, |mode, shift| match operator {
                    Operator::Add => mode | bits << shift,
                    Operator::Remove => mode & !(bits << shift),
                    Operator::Assign => mode & !(0o7 << shift) | bits << shift,
                })
            }
        }
    }
}

/// One comma-separated part; several operators in a row (`u+r-w`) are several changes.
///
/// The rules are those of BSD's `setmode`, which BuildKit's parser follows: `=` with a letter to copy from leaves the
/// set-id bits.
fn parse_clause(text: &str, commands: &mut Vec<Command>) -> Result<(), BadMode> {
    let operations = text.find(['+', '-', '=']).ok_or(BadMode)?;
    let mut who = 0;
    for char in text[..operations].chars() {
        who |= match char {
            'u' => 0o4700,
            'g' => 0o2070,
            'o' => OTHERS,
            'a' => ALL,
            _ => return Err(BadMode),
        };
    }
    let mut rest = &text[operations..];
    while let Some(sign) = rest.chars().next() {
        let operator = match sign {
            '+' => Operator::Add,
            '-' => Operator::Remove,
            '=' => Operator::Assign,
            _ => return Err(BadMode),
        };
        let end = rest[1..].find(['+', '-', '=']).map_or(rest.len(), |at| at + 1);
        parse_operation(&mut who, operator, &rest[1..end], commands)?;
        rest = &rest[end..];
    }
    Ok(())
}

fn parse_operation(who: &mut u32, operator: Operator, letters: &str, commands: &mut Vec<Command>) -> Result<(), BadMode> {
    // nobody named means everybody
    let of = |who: u32, bits: u32| if who == 0 { bits } else { who & bits };
    let change = |who: u32, bits: u32, commands: &mut Vec<Command>| match operator {
        Operator::Add => commands.push(Command::Add(of(who, bits))),
        Operator::Remove => commands.push(Command::Remove(of(who, bits))),
        Operator::Assign => commands.extend([Command::Remove(if who == 0 { ALL } else { who }), Command::Add(of(who, bits))]),
    };
    let (mut bits, mut if_executable) = (0, 0);
    let mut is_assigned = false;
    *who &= !STICKY;
    for letter in letters.chars() {
        let speaks_of_owners = *who == 0 || *who & !OTHERS != 0;
        match letter {
            'r' => bits |= READ,
            'w' => bits |= WRITE,
            'x' => bits |= EXECUTE,
            'X' if operator == Operator::Remove => bits |= EXECUTE,
            'X' => if_executable = EXECUTE,
            's' if speaks_of_owners => bits |= SET_IDS,
            't' if speaks_of_owners => {
                *who |= STICKY;
                bits |= STICKY;
            }
            's' | 't' => {}
            'u' | 'g' | 'o' => {
                if bits != 0 {
                    change(*who, std::mem::take(&mut bits), commands);
                }
                if if_executable != 0 {
                    commands.push(Command::AddIfExecutable(of(*who, std::mem::take(&mut if_executable))));
                }
                is_assigned = true;
                let from = match letter {
                    'u' => 6,
                    'g' => 3,
                    _ => 0,
                };
                let to = [6, 3, 0].into_iter().filter(|shift| *who == 0 || *who & 0o4 << shift != 0).collect();
                commands.push(Command::Copy { from, to, operator });
            }
            _ => return Err(BadMode),
        }
    }
    if bits != 0 || operator == Operator::Assign && !is_assigned {
        change(*who, bits, commands);
    }
    if if_executable != 0 {
        commands.push(Command::AddIfExecutable(of(*who, if_executable)));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, mode: u32, expected: u32) {
        let change = ModeChange::parse(Some(&Chmod::Symbolic(text.to_owned()))).unwrap();
        let mode = change.apply(mode, FileKind::File);
        assert_eq!(mode, expected, "{text}: {mode:o} is not {expected:o}");
    }

    #[test]
    fn clauses_as_buildkit_reads_them() {
        check("+x", 0o640, 0o751);
        check("u=rwX,go=rX", 0o750, 0o755);
        check("u=rwX,go=rX", 0o640, 0o644);
        check("go-rwx", 0o750, 0o700);
        check("g=u", 0o640, 0o660);
        check("a+rw,o-w", 0o750, 0o774);
        check("u+s,g+s", 0o640, 0o6640);
        check("u=,g=,o=", 0o750, 0);
        check("ug=rw,o=r", 0o640, 0o664);
        check("-w", 0o750, 0o550);
        check("+X", 0o640, 0o640);
        check("+X", 0o750, 0o751);
        check("+t", 0o640, 0o1640);
        check("u=g", 0o4755, 0o4555);
        check("g=u", 0o2760, 0o2770);
        check("u=r", 0o4755, 0o455);
        check("=", 0o7777, 0o1000);
        check("o+t", 0o640, 0o640);
        check("u=gx", 0o640, 0o140);
    }

    #[test]
    fn execute_if_asks_the_mode_before_all_clauses() {
        check("a+x,u=rwX", 0o644, 0o655);
    }

    #[test]
    fn other_text_is_refused() {
        for text in ["", "u", "z+x", "u+q", "u+x,"] {
            assert_eq!(ModeChange::parse(Some(&Chmod::Symbolic(text.to_owned()))), Err(BadMode), "{text}");
        }
    }

    #[test]
    fn directories_on_the_way_have_plain_modes() {
        assert_eq!(ModeChange::Set(0o2775).made_directory(), 0o775);
        assert_eq!(ModeChange::Keep.made_directory(), 0o755);
        assert_eq!(ModeChange::parse(Some(&Chmod::Symbolic("u=".into()))).unwrap().made_directory(), 0o755);
    }
}
