//! Why a program did not start, as the image's files tell it: the kernel says no more than "no such file".

use std::io::Read;

use crate::sandbox::SandboxError;
use crate::snapshot::{FileKind, FileTree, Last, TreePath, resolve};

/// How a command that never began has ended, and what may help.
#[derive(Debug)]
pub struct NotStarted {
    /// 127 if it is not there, 126 if it is no program.
    pub code: u8,
    /// In words.
    pub why: String,
    /// What to try.
    pub hint: Option<String>,
}

impl NotStarted {
    /// All of it in words.
    pub fn how(&self) -> String {
        format!("exit code {}: {}", self.code, self.why)
    }
}

/// Explains a failure that is the command's own fault; `None` for those of the sandbox. `args` is the command, `cwd` where it
/// was to start, `tree` what the image has without mounts.
pub fn not_started(error: &SandboxError, args: &[String], cwd: &str, tree: &dyn FileTree) -> Option<NotStarted> {
    let code = error.exit_code()?;
    let ended = |why: String, hint: Option<String>| NotStarted { code, why, hint };
    Some(match error {
        SandboxError::NotInPath { program } => {
            let hint = format!("install the program that has `{program}`, or name it by its path");
            ended(format!("executable file `{program}` not found in `$PATH`"), Some(hint))
        }
        SandboxError::NotFound { program } => match Program::look_at(program, cwd, tree) {
            Program::Absent if is_shell_form(args) => ended(
                format!("the image has no `{program}`, which runs the shell form of `RUN`"),
                Some("start from an image with a shell, or use the exec form: `RUN [\"program\", \"argument\"]`".to_owned()),
            ),
            Program::Absent => ended(format!("no such file or directory: `{program}`"), None),
            Program::Script { interpreter } if interpreter.ends_with('\r') => ended(
                format!(
                    "the first line of `{program}` ends with a carriage return, which is taken for a part of the interpreter's name"
                ),
                Some(format!(
                    "save `{program}` with Unix line endings, or mend it in the image: `RUN sed -i 's/\\r$//' {program}`"
                )),
            ),
            Program::Script { interpreter } => ended(
                format!("`{program}` begins with `#!{interpreter}`, and the image has no such file"),
                Some("install the interpreter, or correct the first line".to_owned()),
            ),
            Program::Other => ended(
                format!("`{program}` is there, but the program that loads its libraries is not"),
                Some("link it statically, or start from an image with the C library that it was made for".to_owned()),
            ),
        },
        SandboxError::NotExecutable { program, reason } => {
            let hint = match *reason {
                "permission denied" => Some(format!("make it executable: `RUN chmod +x {program}`, or `COPY --chmod=755`")),
                "exec format error" => format_hint(program, cwd, tree),
                _ => None,
            };
            ended(format!("cannot execute `{program}`: {reason}"), hint)
        }
        other => ended(other.to_string(), None),
    })
}

/// What may help when a shell says that it found no program (`/bin/sh: ./run.sh: not found`) although the file is there.
pub fn shell_hint(last_line: &str, cwd: &str, tree: &dyn FileTree) -> Option<String> {
    let mut parts = last_line.split(": ");
    let shell = parts.next()?;
    let program = parts.find(|part| part.contains('/') && *part != shell)?;
    match Program::look_at(program, cwd, tree) {
        Program::Script { interpreter } if interpreter.ends_with('\r') => {
            Some(format!("`{program}` has Windows line endings: save it with Unix ones"))
        }
        Program::Script { interpreter } => Some(format!("`{program}` is there; is its interpreter, `{interpreter}`?")),
        Program::Other => Some(format!("`{program}` is there; what loads its libraries may be missing")),
        Program::Absent => None,
    }
}

/// Whether the words look like those that the shell form is made of.
pub fn is_shell_form(args: &[String]) -> bool {
    matches!(args, [_, flag, _] if flag.starts_with('-') && flag.ends_with('c'))
}

/// What is at a program's path.
enum Program {
    Absent,
    Script { interpreter: String },
    Other,
}

impl Program {
    fn look_at(program: &str, cwd: &str, tree: &dyn FileTree) -> Program {
        let Some(start) = start_of(program, cwd, tree) else { return Program::Absent };
        match start.strip_prefix(b"#!") {
            Some(rest) => {
                let line = rest.split(|byte| *byte == b'\n').next().unwrap_or_default();
                Program::Script { interpreter: first_word(&String::from_utf8_lossy(line)) }
            }
            _ => Program::Other,
        }
    }
}

/// What a file begins with, as much as the kernel reads to find out what it is; `None` if there is no such file.
fn start_of(program: &str, cwd: &str, tree: &dyn FileTree) -> Option<Vec<u8>> {
    let directory = if program.starts_with('/') { "" } else { cwd };
    let path = TreePath::clean(format!("{directory}/{program}").as_bytes());
    let found = resolve(tree, &path, Last::Follow).ok()?;
    found.meta.filter(|meta| meta.kind == FileKind::File)?;
    let mut start = Vec::new();
    // a file that cannot be read tells nothing
    let _ = tree.open(&found.path).map(|file| file.take(256).read_to_end(&mut start));
    Some(start)
}

/// Processors by the numbers that programs carry (`e_machine`, `elf(5)`).
const PROCESSORS: [(u16, &str); 10] = [
    (3, "386"),
    (8, "mips"),
    (21, "ppc64le"),
    (22, "s390x"),
    (40, "arm"),
    (50, "ia64"),
    (62, "amd64"),
    (183, "arm64"),
    (243, "riscv64"),
    (258, "loong64"),
];

/// Why the kernel does not know a file as a program.
fn format_hint(program: &str, cwd: &str, tree: &dyn FileTree) -> Option<String> {
    let start = start_of(program, cwd, tree)?;
    if start.is_empty() {
        return Some(format!("`{program}` is empty"));
    }
    let Some(header) = start.strip_prefix(b"\x7fELF") else {
        return Some(format!("if `{program}` is a script, its first line has to name its interpreter, such as `#!/bin/sh`"));
    };
    let number = [*header.get(14)?, *header.get(15)?];
    // the sixth byte says in which order numbers are
    let number = if header.get(1) == Some(&2) { u16::from_be_bytes(number) } else { u16::from_le_bytes(number) };
    let (_, name) = PROCESSORS.iter().find(|(known, _)| *known == number)?;
    Some(format!("`{program}` is a program for {name}: take the one for the platform of this stage, or build for that platform"))
}

/// The interpreter without its argument; a carriage return stays where it is.
fn first_word(line: &str) -> String {
    line.trim_start_matches([' ', '\t']).split([' ', '\t']).next().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::DirTree;

    /// `start` is what the file `/tool` begins with.
    #[track_caller]
    fn check(args: &[&str], start: &[u8], expected: &str) {
        let temp = tempfile::tempdir().expect("a directory");
        std::fs::write(temp.path().join("tool"), start).expect("writes");
        let args: Vec<String> = args.iter().map(ToString::to_string).collect();
        let error = SandboxError::NotFound { program: args[0].clone() };
        let tree = DirTree::open(temp.path()).expect("opens");
        assert_eq!(not_started(&error, &args, "/", &tree).map(|ended| ended.how()).as_deref(), Some(expected));
    }

    #[test]
    fn the_file_tells_what_is_missing() {
        check(
            &["/tool"],
            b"#! /usr/bin/python3 -u\nx",
            "exit code 127: `/tool` begins with `#!/usr/bin/python3`, and the image has no such file",
        );
        check(&["./tool"], b"\x7fELF", "exit code 127: `./tool` is there, but the program that loads its libraries is not");
        check(&["/other"], b"", "exit code 127: no such file or directory: `/other`");
        check(&["/bin/bash", "-ec", "x"], b"", "exit code 127: the image has no `/bin/bash`, which runs the shell form of `RUN`");
    }

    #[test]
    fn a_file_that_is_no_program_tells_what_it_is() {
        let hint = |start: &[u8]| {
            let temp = tempfile::tempdir().expect("a directory");
            std::fs::write(temp.path().join("tool"), start).expect("writes");
            format_hint("/tool", "/", &DirTree::open(temp.path()).expect("opens"))
        };
        assert_eq!(hint(b"").as_deref(), Some("`/tool` is empty"));
        assert!(hint(b"echo hello").is_some_and(|hint| hint.contains("`#!/bin/sh`")));
        let elf = |order: u8, number: [u8; 2]| {
            let mut header = b"\x7fELF\x02".to_vec();
            header.push(order);
            header.resize(18, 0);
            header.extend_from_slice(&number);
            header
        };
        assert!(hint(&elf(1, [183, 0])).is_some_and(|hint| hint.contains("for arm64")));
        assert!(hint(&elf(2, [0, 22])).is_some_and(|hint| hint.contains("for s390x")));
        assert_eq!(hint(&elf(1, [255, 255])), None);
        assert_eq!(hint(b"\x7fELF"), None);
    }

    #[test]
    fn the_shell_tells_which_file() {
        let temp = tempfile::tempdir().expect("a directory");
        std::fs::write(temp.path().join("run.sh"), "#!/bin/sh\r\n").expect("writes");
        let tree = DirTree::open(temp.path()).expect("opens");
        let hint = |line: &str| shell_hint(line, "/", &tree);
        assert_eq!(
            hint("/bin/sh: 1: ./run.sh: not found").as_deref(),
            Some("`./run.sh` has Windows line endings: save it with Unix ones")
        );
        assert_eq!(hint("/bin/sh: mkae: not found"), None);
        assert_eq!(hint("/bin/sh: /other: not found"), None);
        assert_eq!(hint(""), None);
    }

    #[test]
    fn what_the_sandbox_failed_at_is_not_explained() {
        let tree = crate::snapshot::View::new(Vec::new()).expect("the empty view");
        assert!(not_started(&SandboxError::LauncherGone, &[], "/", &tree).is_none());
    }
}
