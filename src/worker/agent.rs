//! A socket that leads to an ssh agent: to the client's for one step, or to keys given as files for a whole build.
//!
//! The agent's own socket belongs to the client; a step needs one with the owner and mode that its mount asks for, and it must
//! stop answering when the step ends.

use std::fs;
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use super::keyring::Keyring;

/// Who answers what is asked on a socket.
pub enum Behind {
    /// The agent that listens there.
    Agent(PathBuf),
    /// Nobody else.
    Keys(Arc<Keyring>),
}

/// Answers on a socket until it is dropped.
pub struct AgentSocket {
    /// The socket.
    pub path: PathBuf,
    reach: PathBuf,
    directory: fs::File,
    stopped: Arc<AtomicBool>,
}

impl AgentSocket {
    /// Makes the socket `agent` in the empty directory `directory`.
    ///
    /// # Errors
    /// Those of making the socket.
    pub fn open(directory: &Path, behind: Behind, (uid, gid): (u32, u32), mode: u32) -> io::Result<AgentSocket> {
        let path = directory.join("agent");
        let opened = fs::File::open(directory)?;
        // a socket's address is short; a store's path may be long
        let reach = PathBuf::from(format!("/proc/self/fd/{}/agent", opened.as_raw_fd()));
        let listener = UnixListener::bind(&reach)?;
        match chown(&path, Some(uid), Some(gid)) {
            // an id that this user namespace lacks: nobody in the step can be that user
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => {}
            given => given?,
        }
        fs::set_permissions(&path, fs::Permissions::from_mode(mode))?;
        let stopped = Arc::new(AtomicBool::new(false));
        let stop = stopped.clone();
        thread::Builder::new().name("ssh-agent".into()).spawn(move || {
            for client in listener.incoming() {
                if stop.load(Ordering::Relaxed) {
                    return;
                }
                let Ok(client) = client else { continue };
                match &behind {
                    Behind::Agent(agent) => {
                        if let Ok(agent) = UnixStream::connect(agent) {
                            pass_on(client, agent);
                        }
                    }
                    Behind::Keys(keys) => {
                        let keys = keys.clone();
                        // without a thread the connection is closed, which the client sees
                        let _ = thread::Builder::new().name("ssh-agent".into()).spawn(move || keys.attend(client));
                    }
                }
            }
        })?;
        Ok(AgentSocket { path, reach, directory: opened, stopped })
    }

    /// An address of the socket that is short enough for whoever connects, and holds for other programs too.
    pub fn address(&self) -> PathBuf {
        PathBuf::from(format!("/proc/{}/fd/{}/agent", std::process::id(), self.directory.as_raw_fd()))
    }
}

impl Drop for AgentSocket {
    fn drop(&mut self) {
        self.stopped.store(true, Ordering::Relaxed);
        // wakes the thread; if nobody listens any more it has ended already
        let _ = UnixStream::connect(&self.reach);
    }
}

/// Copies both ways, each on its own thread, until one side ends.
fn pass_on(client: UnixStream, agent: UnixStream) {
    for (from, to) in [(&client, &agent), (&agent, &client)] {
        let (Ok(from), Ok(to)) = (from.try_clone(), to.try_clone()) else { return };
        // without a thread the connection is closed, which the client sees
        let _ = thread::Builder::new().name("ssh-agent".into()).spawn(move || copy(from, to));
    }
}

fn copy(mut from: UnixStream, mut to: UnixStream) {
    let mut buffer = [0; 4096];
    while let Ok(count @ 1..) = from.read(&mut buffer) {
        if to.write_all(&buffer[..count]).is_err() {
            break;
        }
    }
    // the other direction ends too; both may be closed already
    let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_reaches_the_agent_and_the_answer_comes_back() {
        let temp = tempfile::tempdir().expect("a directory");
        let real = temp.path().join("real");
        let listener = UnixListener::bind(&real).expect("an agent");
        let agent = thread::spawn(move || {
            let (mut client, _) = listener.accept().expect("a client");
            let mut question = [0; 3];
            client.read_exact(&mut question).expect("a question");
            client.write_all(b"yes").expect("answered");
            question
        });
        let directory = temp.path().join("step");
        fs::create_dir(&directory).expect("a directory");
        let socket = AgentSocket::open(&directory, Behind::Agent(real), (0, 0), 0o600).expect("a socket");
        let mut client = UnixStream::connect(&socket.path).expect("connected");
        client.write_all(b"ok?").expect("asked");
        let mut answer = [0; 3];
        client.read_exact(&mut answer).expect("an answer");
        assert_eq!(&answer, b"yes");
        assert_eq!(&agent.join().expect("no panic"), b"ok?");
    }
}
