//! What can go wrong between a plan and the first instruction of its command.

use std::io;

/// Why a sandbox did not come to run its command, or how it was lost.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    /// This process may not make namespaces and mounts.
    #[error("no sandbox can be made here: the capability CAP_SYS_ADMIN is missing")]
    NotAllowed,
    /// The launcher could not be started.
    #[error("cannot {action}")]
    Start {
        /// What was tried.
        action: &'static str,
        /// Why.
        source: io::Error,
    },
    /// The launcher has ended; all its steps have ended with it.
    #[error("the sandbox launcher has ended unexpectedly")]
    LauncherGone,
    /// The plan could not be handed over.
    #[error("cannot {action}")]
    Send {
        /// What was tried.
        action: &'static str,
        /// Why.
        source: io::Error,
    },
    /// A step's terminal, or our own, cannot be used.
    #[error("cannot {action}")]
    Terminal {
        /// What was tried.
        action: &'static str,
        /// Why.
        source: io::Error,
    },
    /// A step of the set-up failed.
    #[error("cannot {} `{subject}`", stage.text())]
    Setup {
        /// What was being done.
        stage: Stage,
        /// To what: a path of the host or of the image, or a name.
        subject: String,
        /// Why.
        source: io::Error,
    },
    /// The program is in no directory of `PATH`.
    #[error("exec: {program:?}: executable file not found in $PATH")]
    NotInPath {
        /// The program asked for.
        program: String,
    },
    /// The program, or the interpreter that it names, does not exist.
    #[error("exec: {program:?}: no such file or directory")]
    NotFound {
        /// The program asked for.
        program: String,
    },
    /// The program exists and cannot be run.
    #[error("exec: {program:?}: {reason}")]
    NotExecutable {
        /// The program asked for.
        program: String,
        /// In which way.
        reason: &'static str,
    },
}

impl SandboxError {
    /// The code that a shell or Docker reports for this: 127 not found, 126 not executable; `None` if the command is not at fault.
    pub fn exit_code(&self) -> Option<u8> {
        match self {
            SandboxError::NotInPath { .. } | SandboxError::NotFound { .. } => Some(127),
            SandboxError::NotExecutable { .. } => Some(126),
            _ => None,
        }
    }
}

/// Declares [`Stage`] with its wording, so that a stage without a text does not compile.
macro_rules! stages {
    ($($name:ident => $text:literal,)*) => {
        /// A step of the set-up, for messages.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        #[repr(u8)]
        #[allow(missing_docs)] // each has its text
        pub enum Stage { $($name,)* }

        impl Stage {
            const ALL: &'static [Stage] = &[$(Stage::$name,)*];

            /// What is being done, as in "cannot …".
            pub fn text(self) -> &'static str {
                match self { $(Stage::$name => $text,)* }
            }
        }
    };
}

stages! {
    ReadPlan => "read the plan of",
    CreateNamespaces => "create namespaces for",
    JoinParent => "stay with the launcher of",
    JoinNetwork => "join the network for",
    OpenTree => "open",
    MountOverlay => "mount the overlay at",
    MountRoot => "mount the root from",
    MountSystem => "mount",
    MaskPath => "mask",
    ProtectPath => "make read-only",
    CreateDevice => "create",
    FindSource => "find the source",
    FindTarget => "find the mount point",
    ForbiddenTarget => "mount over",
    MountTarget => "mount on",
    EnterRoot => "enter the root of",
    SetHostname => "set the host name",
    RaiseLoopback => "bring up the loopback device of",
    SetLimit => "set the limit",
    JoinKeyring => "create a keyring for",
    ConnectStreams => "connect the streams of",
    EnterDirectory => "enter the directory",
    DropCapabilities => "drop the capabilities of",
    PrepareEmulator => "register for the step the emulator",
    EnterEmulation => "enter the emulator's namespace for",
    LoadFilter => "load the system call filter for",
    BecomeUser => "become the user of",
    FindProgram => "find the program",
    Execute => "execute",
}

impl Stage {
    /// The stage that a message byte names.
    pub(super) fn from_byte(byte: u8) -> Option<Stage> {
        Stage::ALL.get(usize::from(byte)).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stages_survive_their_byte() {
        for stage in Stage::ALL {
            assert_eq!(Stage::from_byte(*stage as u8), Some(*stage));
        }
        assert_eq!(Stage::from_byte(Stage::ALL.len() as u8), None);
    }
}
