//! From the table to BPF: per architecture a binary search over ranges of call numbers, with the argument checks as leaves.

use libc::{
    BPF_ABS, BPF_JA, BPF_JEQ, BPF_JGE, BPF_JMP, BPF_JSET, BPF_K, BPF_LD, BPF_RET, BPF_W, SECCOMP_RET_ALLOW, SECCOMP_RET_ERRNO,
    sock_filter,
};

use super::table::{CALLS_FOR_IDS, NONE, Rule, TABLE};
use crate::sandbox::rights::Ids;

/// `AUDIT_ARCH_X86_64` and `AUDIT_ARCH_I386` of `linux/audit.h`.
const ARCH_X86_64: u32 = 0xc000_003e;
const ARCH_I386: u32 = 0x4000_0003;

/// Offsets in `struct seccomp_data`.
const NUMBER: u32 = 0;
const ARCH: u32 = 4;
/// The low half of the first argument. The calls with argument rules take 32-bit values there, so the kernel ignores the high
/// half; a filter that looked at it could be misled by it.
const FIRST_ARGUMENT: u32 = 16;

/// Builds the whole filter. With [`Ids::One`], calls that change owners and users are answered with success and do nothing.
pub(in crate::sandbox) fn compile(ids: Ids) -> Vec<sock_filter> {
    let wide = search(&ranges(|row| row.1, ids));
    let narrow = search(&ranges(|row| row.2, ids));
    let mut program = vec![load(ARCH), jump(BPF_JEQ, ARCH_X86_64, 1, 0)];
    program.push(skip(1 + wide.len()));
    program.push(load(NUMBER));
    program.extend(wide);
    program.extend([jump(BPF_JEQ, ARCH_I386, 1, 0), errno(libc::EPERM), load(NUMBER)]);
    program.extend(narrow);
    program
}

/// What the search ends with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Refuse,
    /// Nothing happens, and the caller is told that it did.
    Pretend,
    Rule(Rule),
}

/// All call numbers as runs of equal verdicts: the first number of each, ascending, beginning with 0.
fn ranges(number: impl Fn(&(&str, u32, u32, Rule)) -> u32, ids: Ids) -> Vec<(u32, Verdict)> {
    let verdict = |row: &(&str, u32, u32, Rule)| match ids {
        Ids::One if CALLS_FOR_IDS.contains(&row.0) => Verdict::Pretend,
        _ => Verdict::Rule(row.3),
    };
    let mut known: Vec<(u32, Verdict)> =
        TABLE.iter().map(|row| (number(row), verdict(row))).filter(|(number, _)| *number != NONE).collect();
    known.sort_unstable_by_key(|(number, _)| *number);

    let mut ranges: Vec<(u32, Verdict)> = Vec::new();
    let mut extend = |from: u32, verdict: Verdict| {
        if ranges.last().is_none_or(|(_, last)| *last != verdict) {
            ranges.push((from, verdict));
        }
    };
    let mut next = 0;
    for (number, verdict) in known {
        if number > next {
            extend(next, Verdict::Refuse);
        }
        extend(number, verdict);
        next = number + 1;
    }
    extend(next, Verdict::Rule(Rule::Absent));
    ranges
}

/// A binary search for the number in the accumulator. Every path through it returns.
fn search(ranges: &[(u32, Verdict)]) -> Vec<sock_filter> {
    if let [(_, verdict)] = ranges {
        return leaf(*verdict);
    }
    let (low, high) = ranges.split_at(ranges.len() / 2);
    let (below, above) = (search(low), search(high));
    // A conditional jump reaches 255 instructions; a longer way needs a plain jump.
    let mut program = match u8::try_from(below.len()) {
        Ok(length) => vec![jump(BPF_JGE, high[0].0, length, 0)],
        Err(_) => vec![jump(BPF_JGE, high[0].0, 0, 1), skip(below.len())],
    };
    program.extend(below);
    program.extend(above);
    program
}

fn leaf(verdict: Verdict) -> Vec<sock_filter> {
    let rule = match verdict {
        Verdict::Refuse => return vec![errno(libc::EPERM)],
        Verdict::Pretend => return vec![errno(0)],
        Verdict::Rule(rule) => rule,
    };
    match rule {
        Rule::Always => vec![allow()],
        Rule::Absent => vec![errno(libc::ENOSYS)],
        Rule::WithoutBits(bits) => vec![load(FIRST_ARGUMENT), jump(BPF_JSET, bits, 1, 0), allow(), errno(libc::EPERM)],
        Rule::OneOf(values) => first_argument_in(values, allow(), errno(libc::EPERM)),
        Rule::Unless(values) => first_argument_in(values, errno(libc::EPERM), allow()),
    }
}

fn first_argument_in(values: &[u32], found: sock_filter, otherwise: sock_filter) -> Vec<sock_filter> {
    let mut program = vec![load(FIRST_ARGUMENT)];
    for value in values {
        program.extend([jump(BPF_JEQ, *value, 0, 1), found]);
    }
    program.push(otherwise);
    program
}

fn load(offset: u32) -> sock_filter {
    instruction(BPF_LD | BPF_W | BPF_ABS, offset, 0, 0)
}

/// Compares the accumulator with `value` and skips as many instructions as the answer says.
fn jump(test: u32, value: u32, if_true: u8, if_false: u8) -> sock_filter {
    instruction(BPF_JMP | test | BPF_K, value, if_true, if_false)
}

fn skip(instructions: usize) -> sock_filter {
    let distance = u32::try_from(instructions).expect("a filter has at most 4,096 instructions");
    instruction(BPF_JMP | BPF_JA, distance, 0, 0)
}

fn allow() -> sock_filter {
    instruction(BPF_RET | BPF_K, SECCOMP_RET_ALLOW, 0, 0)
}

fn errno(errno: i32) -> sock_filter {
    instruction(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | errno.unsigned_abs(), 0, 0)
}

fn instruction(code: u32, value: u32, if_true: u8, if_false: u8) -> sock_filter {
    sock_filter { code: code as u16, jt: if_true, jf: if_false, k: value }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALLOW: u32 = SECCOMP_RET_ALLOW;
    const EPERM: u32 = SECCOMP_RET_ERRNO | 1;
    const ENOSYS: u32 = SECCOMP_RET_ERRNO | 38;

    /// Interprets the filter as the kernel would; steps that leave the program panic.
    fn run(program: &[sock_filter], arch: u32, number: u32, argument: u32) -> u32 {
        let (mut at, mut accumulator) = (0, 0);
        loop {
            let sock_filter { code, jt, jf, k } = program[at];
            at += 1;
            let choose = |answer: bool| usize::from(if answer { jt } else { jf });
            match u32::from(code) {
                code if code == BPF_LD | BPF_W | BPF_ABS => {
                    accumulator = match k {
                        NUMBER => number,
                        ARCH => arch,
                        FIRST_ARGUMENT => argument,
                        other => panic!("loads offset {other}"),
                    }
                }
                code if code == BPF_JMP | BPF_JA => at += k as usize,
                code if code == BPF_JMP | BPF_JEQ => at += choose(accumulator == k),
                code if code == BPF_JMP | BPF_JGE => at += choose(accumulator >= k),
                code if code == BPF_JMP | BPF_JSET => at += choose(accumulator & k != 0),
                code if code == BPF_RET => return k,
                other => panic!("unknown instruction {other:#x}"),
            }
        }
    }

    #[track_caller]
    fn check(name: &str, argument: u32, expected: u32) {
        let program = compile(Ids::Many);
        let row = TABLE.iter().find(|row| row.0 == name).expect("the table has the call");
        for (arch, number) in [(ARCH_X86_64, row.1), (ARCH_I386, row.2)] {
            if number != NONE {
                assert_eq!(run(&program, arch, number, argument), expected, "{name}({argument:#x}) on {arch:#x}");
            }
        }
    }

    #[test]
    fn the_search_gives_each_number_the_rule_of_its_row() {
        let program = compile(Ids::Many);
        for (arch, column) in [(ARCH_X86_64, 1), (ARCH_I386, 2)] {
            for number in 0..600 {
                let row = TABLE.iter().find(|row| number == if column == 1 { row.1 } else { row.2 });
                let last = TABLE.iter().map(|row| if column == 1 { row.1 } else { row.2 }).filter(|n| *n != NONE).max();
                let expected = match row.map(|row| row.3) {
                    None if Some(number) > last => ENOSYS,
                    None => EPERM,
                    Some(Rule::Always) => ALLOW,
                    Some(Rule::Absent) => ENOSYS,
                    // The argument is 0: a family, personality and set of flags that is fine everywhere.
                    Some(_) => ALLOW,
                };
                assert_eq!(run(&program, arch, number, 0), expected, "call {number} on {arch:#x}");
            }
        }
    }

    #[test]
    fn new_namespaces_are_refused_and_threads_are_not() {
        check("clone", 0x003d_0f00, ALLOW);
        check("clone", 0x1000_0000, EPERM);
        check("clone", 0x0002_0000, EPERM);
        check("clone3", 0, ENOSYS);
    }

    #[test]
    fn sockets_of_two_families_are_refused() {
        check("socket", 2, ALLOW);
        check("socket", 38, EPERM);
        check("socket", 39, ALLOW);
        check("socket", 40, EPERM);
        check("socket", 41, ALLOW);
    }

    #[test]
    fn only_harmless_personalities_may_be_set() {
        check("personality", 0xffff_ffff, ALLOW);
        check("personality", 8, ALLOW);
        check("personality", 0x0040_0000, EPERM);
    }

    #[test]
    fn other_architectures_and_x32_get_nothing() {
        let program = compile(Ids::Many);
        assert_eq!(run(&program, 0xc000_00b7, 0, 0), EPERM);
        assert_eq!(run(&program, ARCH_X86_64, 0x4000_0000, 0), ENOSYS);
        assert_eq!(run(&program, ARCH_X86_64, u32::MAX, 0), ENOSYS);
    }

    #[test]
    fn dangerous_calls_have_no_row() {
        for name in ["mount", "bpf", "keyctl", "io_uring_setup", "userfaultfd", "setns", "unshare", "kexec_load", "pivot_root"] {
            assert!(TABLE.iter().all(|row| row.0 != name), "{name}");
        }
    }

    #[test]
    fn with_one_id_owners_and_users_change_in_appearance_only() {
        let (one, many) = (compile(Ids::One), compile(Ids::Many));
        for name in CALLS_FOR_IDS {
            let row = TABLE.iter().find(|row| row.0 == *name).expect("the table has the call");
            for (arch, number) in [(ARCH_X86_64, row.1), (ARCH_I386, row.2)].into_iter().filter(|(_, number)| *number != NONE) {
                assert_eq!((run(&one, arch, number, 0), run(&many, arch, number, 0)), (SECCOMP_RET_ERRNO, ALLOW), "{name}");
            }
        }
        assert!(one.len() < 700, "{}", one.len());
    }

    #[test]
    fn the_filter_is_small() {
        assert!(compile(Ids::Many).len() < 600, "{}", compile(Ids::Many).len());
    }

    #[test]
    fn names_and_numbers_are_unique() {
        for (position, row) in TABLE.iter().enumerate() {
            for other in &TABLE[position + 1..] {
                assert!(row.0 < other.0, "{} before {}", row.0, other.0);
                assert!(row.1 == NONE || row.1 != other.1, "{} and {}", row.0, other.0);
                assert!(row.2 == NONE || row.2 != other.2, "{} and {}", row.0, other.0);
            }
        }
    }
}
