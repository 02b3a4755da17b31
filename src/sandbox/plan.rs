//! What a step is to run and see: plain data that can be printed, compared and sent to the launcher.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// One command and its surroundings.
///
/// Host paths are absolute. Nothing is looked up on the host by a path that comes from an image: those are `subpath`s and
/// `target`s, resolved inside their tree.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// The root file system.
    pub root: Root,
    /// Further mounts, made in this order on top of `/proc`, `/dev` and `/sys`.
    pub mounts: Vec<Mount>,
    /// The program and its arguments, not empty. A program without a slash is searched in the `PATH` of `env`, inside the root.
    pub args: Vec<String>,
    /// The whole environment, `NAME=value`.
    pub env: Vec<String>,
    /// Where the command starts: absolute in the image. Created with owner 0:0 and mode 0755 if absent.
    pub cwd: String,
    /// User that runs the command.
    pub uid: u32,
    /// Its primary group.
    pub gid: u32,
    /// Its other groups.
    pub groups: Vec<u32>,
    /// Which network it sees.
    pub network: Network,
    /// What it may do.
    pub security: Security,
    /// Its host name.
    pub hostname: String,
    /// Size of `/dev/shm`.
    pub shm_size_bytes: u64,
    /// Resource limits: soft, hard. They replace or join the defaults `nofile` 1024:524288 and `core` 0:0; a hard limit that
    /// the builder may not raise stays where it is.
    pub rlimits: Vec<(Resource, u64, u64)>,
    /// What runs the programs of another processor; `None` where none is needed, or the machine has one registered.
    pub emulator: Option<Emulator>,
    /// What its standard streams are.
    #[serde(default)]
    pub streams: Streams,
}

/// A program that runs those of another processor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Emulator {
    /// The emulator: absolute on the host, statically linked.
    pub interpreter: PathBuf,
    /// What the programs begin with.
    pub magic: Vec<u8>,
    /// Which bits of it count; as long as `magic`.
    pub mask: Vec<u8>,
}

/// What a command's standard streams are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Streams {
    /// Descriptors made for it, whose owner it becomes.
    #[default]
    Own,
    /// Descriptors of somebody else's, used as they are.
    Lent,
    /// A terminal of its own `/dev/pts`, as large as ours is: the command may ask before we could tell.
    Terminal {
        /// Lines.
        rows: u16,
        /// Characters in each.
        columns: u16,
    },
}

/// Docker's size of `/dev/shm`.
pub const DEFAULT_SHM_SIZE_BYTES: u64 = 64 << 20;

/// The root file system.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Root {
    /// A stack of layer trees with a place for the step's changes.
    Overlay {
        /// Layer trees, bottom first, at most 500. Empty for a step on nothing: `upper` is then the root itself.
        lowers: Vec<PathBuf>,
        /// An empty directory that receives the changes. Its mode and owner become those of `/`.
        upper: PathBuf,
        /// An empty directory beside `upper`, used once: the mount is `volatile`, and the kernel refuses a second use.
        work: PathBuf,
    },
    /// A directory as it is, writable.
    Bind {
        /// The directory.
        source: PathBuf,
    },
}

/// One more mount.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    /// Absolute path in the image; links are followed inside the root. It must exist, as a directory or as a file like the
    /// source; below `/dev` and in earlier mounts it is created. Refused inside `/proc` and `/sys`.
    pub target: String,
    /// What is there.
    pub kind: MountKind,
}

/// What a mount shows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum MountKind {
    /// A directory, file or socket of the host, without the mounts below it.
    Bind {
        /// The tree; the last component is not followed if it is a link.
        source: PathBuf,
        /// What of it to show, resolved inside; empty or `/` for all.
        subpath: String,
        /// Whether it may be written.
        writable: bool,
    },
    /// A stack of layer trees.
    Overlay {
        /// Layer trees, bottom first, at least one.
        lowers: Vec<PathBuf>,
        /// What of the stack to show, resolved inside; empty or `/` for all.
        subpath: String,
        /// Where writes go, or `None` for a read-only view.
        writes: Option<Writes>,
    },
    /// A file in memory, read-only; its bytes are in no file system but its own.
    File {
        /// What is in it.
        #[serde(with = "bytes_as_text")]
        content: Vec<u8>,
        /// Its owner.
        uid: u32,
        /// Its group.
        gid: u32,
        /// Its permission bits.
        mode: u32,
    },
    /// Memory.
    Tmpfs {
        /// Most bytes that it holds; `None` for the kernel's default, half of the memory.
        size_bytes: Option<u64>,
        /// Mode of its root.
        mode: u32,
    },
}

/// Bytes on their way to the launcher: one character each, which JSON takes as it is.
mod bytes_as_text {
    use serde::{Deserialize, Deserializer, Serializer, de};

    pub(super) fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&bytes.iter().copied().map(char::from).collect::<String>())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.chars().map(|c| u8::try_from(c).map_err(de::Error::custom)).collect()
    }
}

/// Where an overlay keeps what is written to it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Writes {
    /// An empty directory for the changes.
    pub upper: PathBuf,
    /// An empty directory beside it, used once.
    pub work: PathBuf,
}

/// Which network a command sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Network {
    /// The builder's own.
    Host,
    /// A loopback device of its own and nothing else.
    None,
    /// That of the launcher's [`SharedNetwork`](super::SharedNetwork).
    Shared,
}

/// What a command may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Security {
    /// Docker's 14 capabilities, system call filter, masked and read-only parts of `/proc` and `/sys`, no devices.
    Sandbox,
    /// All that the builder may do, in namespaces of its own.
    Insecure(Entitled),
}

/// Proof that somebody has allowed `security.insecure`; nothing else makes a [`Security::Insecure`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entitled(());

impl Entitled {
    /// The name of the entitlement.
    pub const NAME: &'static str = "security.insecure";

    /// Looks for [`Entitled::NAME`] among the entitlements that were granted for this build.
    pub fn among<S: AsRef<str>>(granted: &[S]) -> Option<Entitled> {
        granted.iter().any(|name| name.as_ref() == Entitled::NAME).then_some(Entitled(()))
    }
}

/// What a limit limits, by the names of `--ulimit`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs)] // the names are those of setrlimit(2)
pub enum Resource {
    As,
    Core,
    Cpu,
    Data,
    Fsize,
    Locks,
    Memlock,
    Msgqueue,
    Nice,
    Nofile,
    Nproc,
    Rss,
    Rtprio,
    Rttime,
    Sigpending,
    Stack,
}

impl Resource {
    /// All of them with the names that `--ulimit` uses.
    const NAMES: [(Resource, &'static str); 16] = [
        (Resource::As, "as"),
        (Resource::Core, "core"),
        (Resource::Cpu, "cpu"),
        (Resource::Data, "data"),
        (Resource::Fsize, "fsize"),
        (Resource::Locks, "locks"),
        (Resource::Memlock, "memlock"),
        (Resource::Msgqueue, "msgqueue"),
        (Resource::Nice, "nice"),
        (Resource::Nofile, "nofile"),
        (Resource::Nproc, "nproc"),
        (Resource::Rss, "rss"),
        (Resource::Rtprio, "rtprio"),
        (Resource::Rttime, "rttime"),
        (Resource::Sigpending, "sigpending"),
        (Resource::Stack, "stack"),
    ];

    /// The resource that `--ulimit` calls `name`.
    pub fn from_name(name: &str) -> Option<Resource> {
        Resource::NAMES.iter().find(|(_, known)| *known == name).map(|(resource, _)| *resource)
    }

    /// What `--ulimit` calls it.
    pub fn name(self) -> &'static str {
        Resource::NAMES.iter().find(|(resource, _)| *resource == self).map_or("", |(_, name)| name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn insecure_needs_the_entitlement() {
        assert!(Entitled::among(&["network.host"]).is_none());
        assert!(Entitled::among(&["network.host", "security.insecure"]).is_some());
    }

    #[test]
    fn limits_are_known_by_their_names() {
        assert_eq!(Resource::from_name("nofile"), Some(Resource::Nofile));
        assert_eq!(Resource::from_name("files"), None);
    }
}
