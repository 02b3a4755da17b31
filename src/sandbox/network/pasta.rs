//! `pasta`: a program that passes on what steps send by sockets of its own, without any right on the machine's network.
//!
//! It runs as long as the steps' namespace is wanted, and dies with croze.
//!
//! Source: `pasta(1)`.

use std::io::Read;
use std::os::fd::OwnedFd;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use super::netlink::Netlink;
use super::{NetworkError, enter_new_namespace, in_own_thread, veth};
use crate::sandbox::sys;

/// The program while it runs; dropping it ends it.
#[derive(Debug)]
pub(super) struct Pasta {
    process: OwnedFd,
    /// The kernel ends the program with the thread that has started it.
    keeper: Option<JoinHandle<()>>,
}

/// How long it may take to be ready; some tens of milliseconds are usual. It waits for ever where it may not open `/dev/net/tun`.
const PATIENCE: Duration = Duration::from_secs(3);

/// No port of either side appears on the other, and the machine has no address inside: by default, `pasta` would show both. As
/// root it would become a user who may not enter our namespace.
const ARGUMENTS: &str = "--config-net --foreground --quiet --no-netns-quit --no-map-gw -t none -u none -T none -U none --runas 0";

/// Makes a namespace and connects it.
///
/// # Errors
/// `NoPasta`, `Pasta`, `PastaHangs`.
pub(super) fn connect() -> Result<(OwnedFd, Pasta), NetworkError> {
    let (namespace, inside) = in_own_thread(|| {
        let namespace = enter_new_namespace()?;
        let inside = Netlink::route().and_then(|inside| veth::raise(&inside, 1).map(|()| inside));
        let inside = inside.map_err(|errno| system("bring up the loopback device")(errno.into()))?;
        Ok((namespace, inside))
    })??;
    let (mut pasta, mut errors) = Pasta::start(&namespace)?;
    let began = Instant::now();
    while !veth::is_connected(&inside).map_err(|errno| system("ask for routes")(errno.into()))? {
        if pasta.has_ended() {
            let mut text = String::new();
            // without its words, at least that it has ended
            let _ = errors.read_to_string(&mut text);
            let reason = text.lines().map(str::trim).rfind(|line| !line.is_empty()).unwrap_or("it ended at once").to_owned();
            return Err(NetworkError::Pasta { reason });
        }
        if began.elapsed() > PATIENCE {
            return Err(NetworkError::PastaHangs { after: PATIENCE });
        }
        thread::sleep(Duration::from_millis(2));
    }
    Ok((namespace, pasta))
}

impl Pasta {
    fn start(namespace: &OwnedFd) -> Result<(Pasta, impl Read + use<>), NetworkError> {
        let namespace = namespace.try_clone().map_err(system("name a network namespace"))?;
        let (started, starting) = mpsc::channel();
        let keep = move || {
            let mut command = Command::new("pasta");
            // it closes what it inherits, but for its standard streams
            command.args(ARGUMENTS.split(' ')).args(["--netns", "/proc/self/fd/0"]).stdin(namespace);
            command.stdout(Stdio::null()).stderr(Stdio::piped()).current_dir("/");
            sys::end_with_this_thread(&mut command);
            let mut child = match command.spawn() {
                Ok(child) => child,
                Err(error) => return drop(started.send(Err(error))),
            };
            let parts = process_of(&child).map(|process| (process, child.stderr.take()));
            // an error means that nobody wants it any more, and then it will be killed
            let _ = started.send(parts);
            let _ = child.wait();
        };
        let keeper = thread::Builder::new().name("pasta".to_owned()).spawn(keep).map_err(system("start a thread"))?;
        match starting.recv() {
            Ok(Ok((process, Some(errors)))) => Ok((Pasta { process, keeper: Some(keeper) }, errors)),
            Ok(Err(error)) if error.kind() == std::io::ErrorKind::NotFound => Err(NetworkError::NoPasta),
            Ok(Err(error)) => Err(NetworkError::Pasta { reason: error.to_string() }),
            Ok(Ok((_, None))) | Err(_) => Err(NetworkError::Pasta { reason: "it did not start".to_owned() }),
        }
    }

    fn has_ended(&mut self) -> bool {
        self.keeper.as_ref().is_none_or(JoinHandle::is_finished)
    }
}

impl Drop for Pasta {
    fn drop(&mut self) {
        // fails only if it has ended already
        let _ = pidfd_send_signal(&self.process, Signal::KILL);
        if let Some(keeper) = self.keeper.take() {
            let _ = keeper.join();
        }
    }
}

fn process_of(child: &Child) -> std::io::Result<OwnedFd> {
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw).ok_or_else(|| std::io::Error::other("no process"))?;
    Ok(pidfd_open(pid, PidfdFlags::empty())?)
}

fn system(action: &'static str) -> impl Fn(std::io::Error) -> NetworkError {
    move |source| NetworkError::System { action, source }
}
