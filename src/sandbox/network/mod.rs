//! The network that the steps of one build share: a namespace of their own with a way to the outside and none to what listens
//! on the machine's loopback or on abstract sockets.
//!
//! Root of the machine gets a pair of interfaces and a table of address translation ([`veth`]); who is not, and root where
//! packets are not forwarded, gets `pasta` ([`pasta`]), if that is installed. Who gets neither is told why: [`NetworkError`].
//!
//! It takes about as long to make as the launcher takes to start; a build whose steps are all cached never makes one.

mod firewall;
mod netlink;
mod pasta;
mod veth;

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::thread;
use std::time::Duration;

use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::io::Errno;

use super::sys;

/// A namespace with a way out, as long as this exists and steps are in it.
#[derive(Debug)]
pub struct SharedNetwork {
    namespace: OwnedFd,
    way: Way,
}

/// What packets go through.
#[derive(Debug)]
enum Way {
    Veth(veth::Veth),
    Pasta { _helper: pasta::Pasta },
}

/// Why steps have no network of their own that reaches the outside.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// The machine passes no packets on.
    #[error("`{interface}` does not forward packets (`net.ipv4.ip_forward` is 0)")]
    ForwardingOff {
        /// The interface of the default route.
        interface: String,
    },
    /// A packet filter drops what steps send.
    #[error("a packet filter of this machine drops forwarded packets")]
    Blocked,
    /// Something is missing for a pair of interfaces.
    #[error("cannot {action}: {source}")]
    System {
        /// What was tried.
        action: &'static str,
        /// Why.
        source: io::Error,
    },
    /// No helper.
    #[error("`pasta` is not installed")]
    NoPasta,
    /// The helper has failed.
    #[error("`pasta` failed: {reason}")]
    Pasta {
        /// Its last words, or what we know of its end.
        reason: String,
    },
    /// The helper does nothing.
    #[error("`pasta` was not ready after {} s", .after.as_secs())]
    PastaHangs {
        /// How long it had.
        after: Duration,
    },
    /// Both ways are closed.
    #[error("{first}, and {second}")]
    Neither {
        /// Why there is no pair of interfaces.
        first: Box<NetworkError>,
        /// Why there is no helper.
        second: Box<NetworkError>,
    },
}

impl NetworkError {
    fn is_not_permitted(&self) -> bool {
        matches!(self, NetworkError::System { source, .. } if source.kind() == io::ErrorKind::PermissionDenied)
    }
}

impl SharedNetwork {
    /// Makes the namespace and connects it. Blocks for a few milliseconds, with `pasta` for some tens.
    ///
    /// # Errors
    /// Whatever this machine does not give; nothing is left behind then.
    pub fn connect() -> Result<SharedNetwork, NetworkError> {
        let first = match in_own_thread(veth::connect)? {
            Ok((namespace, veth)) => return Ok(SharedNetwork { namespace, way: Way::Veth(veth) }),
            Err(error) => error,
        };
        match pasta::connect() {
            Ok((namespace, helper)) => Ok(SharedNetwork { namespace, way: Way::Pasta { _helper: helper } }),
            // a user has no rights on the machine's network, as it knows
            Err(second) if first.is_not_permitted() => Err(second),
            Err(second) => Err(NetworkError::Neither { first: Box::new(first), second: Box::new(second) }),
        }
    }

    /// The machine's address as steps see it; `None` where it has none.
    pub fn gateway(&self) -> Option<Ipv4Addr> {
        match &self.way {
            Way::Veth(veth) => Some(veth.gateway),
            Way::Pasta { .. } => None,
        }
    }

    /// Whether it needs a packet filter of this machine.
    pub(super) fn is_filtered(&self) -> bool {
        matches!(self.way, Way::Veth(_))
    }

    /// The socket that a packet filter goes with, to be held by somebody else.
    pub(super) fn take_filter(&mut self) -> Option<OwnedFd> {
        match &mut self.way {
            Way::Veth(veth) => veth.firewall.take().map(firewall::Firewall::into_socket),
            Way::Pasta { .. } => None,
        }
    }

    /// For processes that are to be in it.
    pub(super) fn namespace(&self) -> BorrowedFd<'_> {
        self.namespace.as_fd()
    }
}

/// Does work that changes the thread that it is done in.
fn in_own_thread<T: Send>(work: impl FnOnce() -> T + Send) -> Result<T, NetworkError> {
    let failed = |source| NetworkError::System { action: "start a thread", source };
    thread::scope(|scope| {
        let thread = thread::Builder::new().spawn_scoped(scope, work).map_err(failed)?;
        Ok(thread.join().expect("the work has no panic in it"))
    })
}

/// Moves this thread into a new namespace, and names it.
fn enter_new_namespace() -> Result<OwnedFd, NetworkError> {
    let enter = || -> Result<OwnedFd, Errno> {
        sys::unshare_network()?;
        openat(CWD, c"/proc/thread-self/ns/net", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
    };
    enter().map_err(|errno| NetworkError::System { action: "make a network namespace", source: errno.into() })
}
