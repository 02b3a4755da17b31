//! SIGINT and SIGTERM: the first asks the build to stop, a second SIGINT does not wait for it.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::pipe::PipeFlags;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;

/// The signals that a command gets in place of this process, as a stream of bytes: the number of each as it comes. Must run
/// inside a tokio runtime, and serves as long as that runs.
///
/// # Errors
/// The kernel refuses a pipe or a handler.
pub fn as_bytes() -> std::io::Result<OwnedFd> {
    let kinds = [
        SignalKind::hangup(),
        SignalKind::interrupt(),
        SignalKind::quit(),
        SignalKind::terminate(),
        SignalKind::user_defined1(),
        SignalKind::user_defined2(),
        SignalKind::window_change(),
    ];
    let (reader, writer) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
    let writer = Arc::new(writer);
    for kind in kinds {
        let (mut signals, writer) = (signal(kind)?, writer.clone());
        tokio::spawn(async move {
            let number = u8::try_from(kind.as_raw_value()).unwrap_or_default();
            while signals.recv().await.is_some() {
                // a full pipe holds thousands of signals that nobody has looked at
                let _lost = rustix::io::write(&*writer, &[number]);
            }
        });
    }
    Ok(reader)
}

/// Waits for signals as long as a build runs.
pub struct Signals {
    interrupt: Signal,
    terminate: Signal,
    cancel: watch::Sender<bool>,
    first: Option<u8>,
}

impl Signals {
    /// Takes over both signals; the receiver turns true on the first one. Must run inside a tokio runtime.
    ///
    /// # Errors
    /// The kernel refuses a handler.
    pub fn listen() -> std::io::Result<(Signals, watch::Receiver<bool>)> {
        let (cancel, canceled) = watch::channel(false);
        let interrupt = signal(SignalKind::interrupt())?;
        let terminate = signal(SignalKind::terminate())?;
        Ok((Signals { interrupt, terminate, cancel, first: None }, canceled))
    }

    /// The number of the first signal that came.
    pub fn first(&self) -> Option<u8> {
        self.first
    }

    /// Passes signals on until dropped; never returns. A second SIGINT ends the process at once: what the kernel frees with
    /// a process (namespaces, locks) is freed, temporary files are left to the next build.
    pub async fn pass_on(&mut self) -> std::convert::Infallible {
        const INTERRUPT: u8 = 2;
        const TERMINATE: u8 = 15;
        loop {
            let number = tokio::select! {
                _ = self.interrupt.recv() => INTERRUPT,
                _ = self.terminate.recv() => TERMINATE,
            };
            if self.first.is_some() && number == INTERRUPT {
                std::process::exit(128 + i32::from(INTERRUPT));
            }
            self.first.get_or_insert(number);
            self.cancel.send_replace(true);
        }
    }
}
