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
    /// Clauses, applied in order.
    Clauses(Vec<Clause>),
}

/// `ug+rwX`: whom, what, and which bits.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Clause {
    /// Permission bits (`0o777`) of those it speaks of.
    who: u32,
    operator: Operator,
    permissions: Permissions,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Operator {
    Add,
    Remove,
    Assign,
}

#[derive(Clone, PartialEq, Eq, Debug)]
struct Permissions {
    /// `r`, `w`, `x` as `0o7`.
    bits: u32,
    /// `X`: execute for directories and for what somebody may execute.
    execute_if: bool,
    /// `s`.
    set_id: bool,
    /// `t`.
    sticky: bool,
    /// `u`, `g`, `o`: how far to shift to find the bits to take over.
    copied: Vec<u32>,
}

impl ModeChange {
    /// Reads an op's `--chmod`.
    pub fn parse(chmod: Option<&Chmod>) -> Result<ModeChange, BadMode> {
        match chmod {
            None => Ok(ModeChange::Keep),
            Some(Chmod::Octal(mode)) => Ok(ModeChange::Set(mode & 0o7777)),
            Some(Chmod::Symbolic(text)) => {
                let clauses = text.split(',').map(parse_clause).collect::<Result<Vec<_>, _>>()?;
                Ok(ModeChange::Clauses(clauses.into_iter().flatten().collect()))
            }
        }
    }

    /// The mode of a copied file whose mode was `mode`.
    pub fn apply(&self, mode: u32, kind: FileKind) -> u32 {
        match self {
            ModeChange::Keep => mode,
            ModeChange::Set(set) => *set,
            ModeChange::Clauses(clauses) => {
                // `X` asks the mode from before all clauses; GNU chmod asks the one so far
                let may_execute = kind == FileKind::Directory || mode & 0o111 != 0;
                clauses.iter().fold(mode, |so_far, clause| clause.apply(so_far, may_execute))
            }
        }
    }

    /// The mode of a directory that the copy makes on its way: an octal one loses its special bits, clauses do not count.
    pub fn made_directory(&self) -> u32 {
        match self {
            ModeChange::Set(mode) => mode & 0o777,
            ModeChange::Keep | ModeChange::Clauses(_) => 0o755,
        }
    }
}

impl Clause {
    fn apply(&self, mode: u32, may_execute: bool) -> u32 {
        let permissions = &self.permissions;
        let mut bits = permissions.bits | u32::from(permissions.execute_if && may_execute);
        for shift in &permissions.copied {
            bits |= mode >> shift & 0o7;
        }
        let mut selected = (bits << 6 | bits << 3 | bits) & self.who;
        let speaks_of = |who: u32| self.who & who != 0;
        let special = |user: bool, group: bool, sticky: bool| {
            u32::from(user && speaks_of(0o700)) << 11 | u32::from(group && speaks_of(0o070)) << 10 | u32::from(sticky) << 9
        };
        selected |= special(permissions.set_id, permissions.set_id, permissions.sticky);
        match self.operator {
            Operator::Add => mode | selected,
            Operator::Remove => mode & !selected,
            Operator::Assign => mode & !(self.who | special(true, true, self.who == 0o777)) | selected,
        }
    }
}

/// One comma-separated part; several operators in a row (`u+r-w`) are several clauses.
fn parse_clause(text: &str) -> Result<Vec<Clause>, BadMode> {
    let whom = text.find(['+', '-', '=']).ok_or(BadMode)?;
    let mut who = 0;
    for char in text[..whom].chars() {
        who |= match char {
            'u' => 0o700,
            'g' => 0o070,
            'o' => 0o007,
            'a' => 0o777,
            _ => return Err(BadMode),
        };
    }
    if who == 0 {
        who = 0o777;
    }
    let mut clauses: Vec<Clause> = Vec::new();
    for char in text[whom..].chars() {
        let operator = match char {
            '+' => Some(Operator::Add),
            '-' => Some(Operator::Remove),
            '=' => Some(Operator::Assign),
            _ => None,
        };
        if let Some(operator) = operator {
            let permissions = Permissions { bits: 0, execute_if: false, set_id: false, sticky: false, copied: Vec::new() };
            clauses.push(Clause { who, operator, permissions });
            continue;
        }
        let permissions = &mut clauses.last_mut().ok_or(BadMode)?.permissions;
        match char {
            'r' => permissions.bits |= 0o4,
            'w' => permissions.bits |= 0o2,
            'x' => permissions.bits |= 0o1,
            'X' => permissions.execute_if = true,
            's' => permissions.set_id = true,
            't' => permissions.sticky = true,
            'u' => permissions.copied.push(6),
            'g' => permissions.copied.push(3),
            'o' => permissions.copied.push(0),
            _ => return Err(BadMode),
        }
    }
    Ok(clauses)
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
