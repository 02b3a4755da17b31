//! Small trees from short scripts, and overlay mounts, for tests.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use rustix::mount::{MountFlags, UnmountFlags};

use super::Dir;
use super::tree::{FileKind, Time, TreePath};

/// Makes what `script` says in `dir`: commands divided by `;`, words by blanks. `false` if privileges are missing (said on
/// standard error).
///
/// `dir P`, `file P DATA`, `link P TARGET`, `hard P OLD`, `fifo P`, `socket P`, `char P`, `mode P OCTAL`, `own P ID`,
/// `time P SECONDS`, `xattr P NAME VALUE`, `gone P` (whiteout), `opaque P`, `rm P`.
#[track_caller]
pub fn make(dir: &Path, script: &str) -> bool {
    for command in script.split(';').map(str::trim).filter(|command| !command.is_empty()) {
        if let Err(err) = run(dir, command) {
            if err.kind() == std::io::ErrorKind::PermissionDenied {
                eprintln!("skipped: `{command}` needs root");
                return false;
            }
            panic!("{command}: {err}");
        }
    }
    true
}

fn run(root: &Path, command: &str) -> std::io::Result<()> {
    let words: Vec<&str> = command.split(' ').collect();
    let path = TreePath::clean(words[1].as_bytes());
    let name = path.file_name().expect("scripts name something below the root");
    let dir = Dir::open(root)?.open_beneath(&path.parent())?;
    let number = |radix| u32::from_str_radix(words[2], radix).expect("a number");
    match words[0] {
        "dir" => {
            dir.create_dir(name, 0o755)?;
            dir.chmod(name, 0o755)
        }
        "file" => {
            // Opened as a program would, so that overlayfs copies up what exists.
            let mut file = fs::File::create(root.join(words[1]))?;
            file.write_all(words[2].as_bytes())
        }
        "link" => dir.symlink(name, words[2].as_bytes()),
        "hard" => fs::hard_link(root.join(words[2]), root.join(words[1])),
        "fifo" => dir.make_special(name, FileKind::Fifo, 0o600),
        "socket" => std::os::unix::net::UnixListener::bind(root.join(words[1])).map(drop),
        "char" => dir.make_special(name, FileKind::Character(1, 3), 0o600),
        "mode" => dir.chmod(name, number(8)),
        "own" => dir.chown(name, number(10), number(10)),
        "time" => dir.set_mtime(name, Time { seconds: number(10).into(), nanoseconds: 0 }),
        "nanos" => dir.set_mtime(name, Time { seconds: 1, nanoseconds: number(10) }),
        // Raw, so that scripts can plant overlay marks.
        "xattr" => {
            Ok(rustix::fs::lsetxattr(root.join(words[1]), words[2], words[3].as_bytes(), rustix::fs::XattrFlags::empty())?)
        }
        "gone" => dir.whiteout(name),
        "opaque" => dir.open_dir(name)?.set_opaque(),
        "rm" => dir.remove_all(name),
        other => panic!("no such command: {other}"),
    }
}

/// An overlay mount that ends with the value.
pub struct Mounted {
    path: PathBuf,
}

impl Mounted {
    /// Mounts `layers`, bottom first, read-only; `None` without the privilege.
    pub fn lower_only(layers: &[PathBuf], at: &Path) -> Option<Mounted> {
        // Two lower directories are the least that the kernel takes.
        let empty = at.with_extension("empty");
        fs::create_dir(&empty).unwrap();
        Mounted::with_options(&lower_option(&[&[empty], layers].concat()), at)
    }

    /// Mounts `layers`, bottom first, with a writable `upper`; `None` without the privilege.
    pub fn with_upper(layers: &[PathBuf], upper: &Path, at: &Path) -> Option<Mounted> {
        let work = at.with_extension("work");
        fs::create_dir(&work).unwrap();
        let lower = lower_option(layers);
        let options = format!("{lower},upperdir={},workdir={}", upper.display(), work.display());
        Mounted::with_options(&options, at)
    }

    fn with_options(options: &str, at: &Path) -> Option<Mounted> {
        fs::create_dir(at).unwrap();
        let options = format!("{options},redirect_dir=nofollow,metacopy=off,index=off,xino=off");
        let options = std::ffi::CString::new(options).unwrap();
        match rustix::mount::mount("overlay", at, "overlay", MountFlags::empty(), options.as_c_str()) {
            Ok(()) => Some(Mounted { path: at.to_owned() }),
            Err(rustix::io::Errno::PERM) => {
                eprintln!("skipped: mounting an overlay needs root");
                None
            }
            Err(err) => panic!("cannot mount an overlay: {err}"),
        }
    }

    /// The merged tree.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if let Err(err) = rustix::mount::unmount(&self.path, UnmountFlags::DETACH) {
            eprintln!("{} stays mounted: {err}", self.path.display());
        }
    }
}

fn lower_option(layers: &[PathBuf]) -> String {
    let lower: Vec<String> = layers.iter().rev().map(|layer| layer.display().to_string()).collect();
    format!("lowerdir={}", lower.join(":"))
}

/// Runs one command, whether it works or not.
pub fn try_make(dir: &Path, command: &str) {
    let _may_fail = run(dir, command);
}
