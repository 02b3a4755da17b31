//! One process in fresh namespaces, from a plan given as data.
//!
//! Owns: namespaces, mounts, capabilities, the system call filter, and the end of whatever a step has started.
//! In:   a [`Plan`]: layer directories, mounts, the command and its surroundings.
//! Out:  a [`Running`] step with its output and, in the end, its [`Exit`]; the changes lie in the plan's `upper` directory.
//! Elsewhere: reading the changes (`snapshot`), stubs for mount points, users and `/etc/hosts` (`worker`).
//!
//! ```text
//! builder ── Launcher::spawn(&Plan) ──▶ launcher process ── clone3 ──▶ child: mounts, limits, filter ── execve ──▶ command
//!    ▲                                    │   ▲ pidfd                     │ failure                              (PID 1)
//!    └── Running: output pipes, report ◀──┴───┴────────────────────────────┘
//! ```
//!
//! The command is PID 1 of its namespace, so its end is the end of everything that it started. A step ends when its
//! [`Running`] is dropped, when the launcher ends, and when the builder ends, however that happens. Mounts exist in private
//! namespaces only and vanish with their last process.
//!
//! Who is not root of the machine builds as root of a user namespace: [`acquire`] moves the process there before it does
//! anything else.
//!
//! Reading order: `rights`, `plan`, `client`, `attached`, `wire`, `launcher`, `child`, `rootfs`, `mounts`, `network`, `seccomp`, `sys`.

mod attached;
mod cgroup;
mod child;
mod client;
mod emulation;
mod error;
mod launcher;
mod leftovers;
mod mounts;
mod network;
mod plan;
mod processes;
mod rights;
mod rootfs;
mod seccomp;
mod sys;
mod wire;

pub use attached::{attend, terminal_like_ours};
pub use cgroup::{MemoryAndSwap, Resources};
pub use client::{Exit, Isolation, Launcher, Process, Running, StandardStreams};
pub use error::{SandboxError, Stage};
pub use launcher::{is_launcher, launcher_main};
pub use mounts::Marks;
pub use network::{NetworkError, SharedNetwork};
pub use plan::{
    DEFAULT_SHM_SIZE_BYTES, Emulator, Entitled, Mount, MountKind, Network, Plan, Resource, Root, Security, Streams, Writes,
};
pub use processes::most_processes;
pub use rights::{Remedy, Rights, RightsError, acquire};

/// The name under which the program is started again as a launcher.
const LAUNCHER_NAME: &str = "croze-launcher";
