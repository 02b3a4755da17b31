//! Which emulator runs the programs of a platform that is not this machine's.
//!
//! One that the machine has registered with its kernel (`binfmt_misc`, with the flag `F`: opened beforehand) serves every step
//! as it is. Else a program of QEMU's user emulation is looked for, which the sandbox registers for the step alone.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};

use crate::reference::Platform;
use crate::sandbox::Emulator;

/// What the programs of a processor look like, and which emulator runs them.
struct Processor {
    /// Go's name.
    architecture: &'static str,
    /// QEMU's name.
    qemu: &'static str,
    width: Width,
    order: Order,
    /// `e_machine` of ELF.
    machine: u16,
}

#[derive(Clone, Copy)]
enum Width {
    Bits32 = 1,
    Bits64 = 2,
}
use Width::*;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Order {
    Little = 1,
    Big = 2,
}
use Order::*;

const fn processor(architecture: &'static str, qemu: &'static str, width: Width, order: Order, machine: u16) -> Processor {
    Processor { architecture, qemu, width, order, machine }
}

const PROCESSORS: &[Processor] = &[
    processor("amd64", "x86_64", Bits64, Little, 62),
    processor("386", "i386", Bits32, Little, 3),
    processor("arm64", "aarch64", Bits64, Little, 183),
    processor("arm", "arm", Bits32, Little, 40),
    processor("riscv64", "riscv64", Bits64, Little, 243),
    processor("ppc64le", "ppc64le", Bits64, Little, 21),
    processor("s390x", "s390x", Bits64, Big, 22),
    processor("mips64le", "mips64el", Bits64, Little, 8),
    processor("mips64", "mips64", Bits64, Big, 8),
    processor("mipsle", "mipsel", Bits32, Little, 8),
    processor("mips", "mips", Bits32, Big, 8),
    processor("loong64", "loongarch64", Bits64, Little, 258),
];

/// Where distributions put QEMU's programs.
const DIRECTORIES: [&str; 3] = ["/usr/bin", "/usr/local/bin", "/usr/libexec/qemu-binfmt"];

/// Where the kernel tells what is registered.
const TABLE: &str = "/proc/sys/fs/binfmt_misc";

/// What the sandbox has to register so that programs for `platform` run; `None` where nothing is needed, or nothing there is:
/// programs that this machine cannot run then fail by themselves, and [`advice`] tells why. Looks at files: blocks.
pub(super) fn needed(platform: &Platform) -> Option<Emulator> {
    let processor = foreign(platform)?;
    let (magic, mask) = processor.signature();
    if is_registered(Path::new(TABLE), &magic) {
        return None;
    }
    let interpreter = find(processor, &DIRECTORIES.map(PathBuf::from))?;
    Some(Emulator { interpreter, magic, mask })
}

/// What to say when a program of `platform` could not be executed; `None` if this machine is one of that platform.
pub(super) fn advice(platform: &Platform) -> Option<String> {
    let processor = foreign(platform)?;
    let host = Platform::host();
    Some(format!(
        "the step is for {platform} and this machine is {host}: install an emulator (`qemu-{}-static` of Debian's \
         qemu-user-static), or build that stage with `FROM --platform=$BUILDPLATFORM`",
        processor.qemu
    ))
}

/// The platform's processor, if programs for it do not run here as they are.
fn foreign(platform: &Platform) -> Option<&'static Processor> {
    let host = Platform::host();
    let native = match (host.architecture.as_str(), platform.architecture.as_str()) {
        ("amd64", "386") | ("arm64", "arm") => true,
        (host, other) => host == other,
    };
    PROCESSORS.iter().find(|processor| !native && processor.architecture == platform.architecture)
}

impl Processor {
    /// The first bytes of its programs, and which bits of them count.
    fn signature(&self) -> (Vec<u8>, Vec<u8>) {
        let mut magic = vec![0x7f, b'E', b'L', b'F', self.width as u8, self.order as u8, 1];
        let mut mask = vec![0xff; magic.len()];
        magic.resize(20, 0);
        mask.resize(16, 0);
        // an executable or a shared object: 2 or 3; then the machine
        let (kind, kind_mask, machine) = match self.order {
            Little => ([2, 0], [0xfe, 0xff], self.machine.to_le_bytes()),
            Big => ([0, 2], [0xff, 0xfe], self.machine.to_be_bytes()),
        };
        magic[16..18].copy_from_slice(&kind);
        magic[18..20].copy_from_slice(&machine);
        mask.extend(kind_mask);
        mask.extend([0xff, 0xff]);
        (magic, mask)
    }
}

/// Whether the table has a line, in force and with its emulator opened beforehand, for programs that begin with `start`.
fn is_registered(table: &Path, start: &[u8]) -> bool {
    let Ok(entries) = fs::read_dir(table) else { return false };
    let names = entries.flatten().map(|entry| entry.path());
    names.filter_map(|path| fs::read_to_string(path).ok()).any(|text| covers(&text, start))
}

fn covers(text: &str, start: &[u8]) -> bool {
    let value = |key: &str| text.lines().find_map(|line| line.strip_prefix(key)).map(str::trim);
    let bytes = |key: &str| value(key).and_then(from_hex);
    let Some(magic) = bytes("magic ") else { return false };
    let mask = bytes("mask ").unwrap_or_else(|| vec![0xff; magic.len()]);
    let matches =
        magic.len() <= start.len() && magic.iter().zip(&mask).zip(start).all(|((magic, mask), byte)| magic & mask == byte & mask);
    text.starts_with("enabled")
        && value("flags: ").is_some_and(|flags| flags.contains('F'))
        && value("offset ") == Some("0")
        && matches
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    let pair = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    text.as_bytes().chunks(2).map(pair).collect()
}

/// The emulator among `directories`. One that loads libraries would look for them in the image.
fn find(processor: &Processor, directories: &[PathBuf]) -> Option<PathBuf> {
    let names = [format!("qemu-{}-static", processor.qemu), format!("qemu-{}", processor.qemu)];
    let candidates = directories.iter().flat_map(|directory| names.iter().map(|name| directory.join(name)));
    candidates.filter(|path| is_static_program(path).unwrap_or(false)).find_map(|path| fs::canonicalize(path).ok())
}

/// Whether a file is an executable of this machine's width without an interpreter (`PT_INTERP`).
fn is_static_program(path: &Path) -> std::io::Result<bool> {
    const PT_INTERP: u32 = 3;
    let file = File::open(path)?;
    if file.metadata()?.permissions().mode() & 0o111 == 0 {
        return Ok(false);
    }
    let mut header = [0; 64];
    file.read_exact_at(&mut header, 0)?;
    if !header.starts_with(&[0x7f, b'E', b'L', b'F', Bits64 as u8, Little as u8]) {
        return Ok(false);
    }
    let half = |at: usize| u64::from(u16::from_le_bytes([header[at], header[at + 1]]));
    let mut offset = [0; 8];
    offset.copy_from_slice(&header[32..40]);
    let (table, entry_bytes, entries) = (u64::from_le_bytes(offset), half(54), half(56));
    for number in 0..entries {
        let mut kind = [0; 4];
        file.read_exact_at(&mut kind, table.saturating_add(number * entry_bytes))?;
        if u32::from_le_bytes(kind) == PT_INTERP {
            return Ok(false);
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(architecture: &str) -> &'static Processor {
        PROCESSORS.iter().find(|processor| processor.architecture == architecture).expect("known")
    }

    #[test]
    fn signatures_are_those_that_qemu_registers() {
        let (magic, mask) = of("s390x").signature();
        assert_eq!(magic, b"\x7fELF\x02\x02\x01\0\0\0\0\0\0\0\0\0\x00\x02\x00\x16");
        assert_eq!(mask[16..], [0xff, 0xfe, 0xff, 0xff]);
        assert_eq!(of("arm64").signature().0[16..], [2, 0, 0xb7, 0]);
    }

    #[test]
    fn the_kernels_table_is_read() {
        let line = |state: &str, flags: &str, machine: &str| {
            format!(
                "{state}\ninterpreter /usr/bin/qemu-aarch64-static\nflags: {flags}\noffset 0\nmagic \
                 7f454c460201010000000000000000000200{machine}\nmask ffffffffffffff00fffffffffffffffffeffffff\n"
            )
        };
        let start = of("arm64").signature().0;
        assert!(covers(&line("enabled", "POCF", "b700"), &start));
        assert!(!covers(&line("enabled", "POC", "b700"), &start), "its emulator would be looked for in the image");
        assert!(!covers(&line("disabled", "F", "b700"), &start));
        assert!(!covers(&line("enabled", "F", "f300"), &start));
        assert!(!covers("enabled", &start) && !covers("", &start));
    }

    #[test]
    fn this_machines_programs_need_nothing() {
        assert!(foreign(&Platform::host()).is_none());
        let unknown = Platform { os: "linux".into(), architecture: "pdp11".into(), variant: String::new() };
        assert!(needed(&unknown).is_none() && advice(&unknown).is_none());
    }

    #[test]
    fn only_programs_without_libraries_will_do() {
        let space = tempfile::tempdir().expect("space");
        let program = |name: &str, interpreter: bool, mode: u32| {
            let mut bytes = vec![0_u8; 64 + 56];
            bytes[..6].copy_from_slice(&[0x7f, b'E', b'L', b'F', 2, 1]);
            (bytes[32], bytes[54], bytes[56], bytes[64]) = (64, 56, 1, if interpreter { 3 } else { 1 });
            let path = space.path().join(name);
            fs::write(&path, bytes).expect("writes");
            fs::set_permissions(&path, PermissionsExt::from_mode(mode)).expect("chmod");
        };
        let found = || find(of("riscv64"), &[space.path().join("absent"), space.path().to_owned()]);
        assert_eq!(found(), None);
        program("qemu-riscv64-static", true, 0o755);
        assert_eq!(found(), None);
        program("qemu-riscv64", false, 0o644);
        assert_eq!(found(), None);
        program("qemu-riscv64", false, 0o755);
        assert_eq!(found().and_then(|path| path.file_name().map(ToOwned::to_owned)), Some("qemu-riscv64".into()));
    }
}
