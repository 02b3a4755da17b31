//! An ssh agent of our own for keys that are given as files: it tells its public keys and signs, and does nothing else.
//!
//! Spec: draft-ietf-sshm-ssh-agent.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use super::private_key::{BadKey, PrivateKey, Wire, string};
use crate::store::StoreError;

/// Why the keys cannot be given to steps.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The file cannot be read.
    #[error("cannot read `{path}`, which is to be an ssh agent's socket or a key")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It holds nothing that can sign.
    #[error("cannot use the ssh key `{path}`")]
    Unusable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: BadKey,
    },
    /// The store has no room for a socket.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// There can be no socket.
    #[error("cannot make a socket for the ssh agent")]
    Socket(#[source] io::Error),
}

/// Keys in the order in which they were given.
pub struct Keyring {
    keys: Vec<PrivateKey>,
}

/// Messages of the protocol.
const FAILURE: u8 = 5;
const REQUEST_IDENTITIES: u8 = 11;
const IDENTITIES_ANSWER: u8 = 12;
const SIGN_REQUEST: u8 = 13;
const SIGN_RESPONSE: u8 = 14;

/// OpenSSH's agent takes no longer messages.
const LONGEST_MESSAGE: u32 = 256 * 1024;

impl Keyring {
    /// Reads the keys of these files.
    ///
    /// # Errors
    /// The first file that has none.
    pub fn read(paths: &[PathBuf]) -> Result<Keyring, KeyError> {
        let read = |path: &Path| {
            let text = std::fs::read(path).map_err(|source| KeyError::Unreadable { path: path.to_owned(), source })?;
            let key = PrivateKey::read(&String::from_utf8_lossy(&text));
            key.map_err(|source| KeyError::Unusable { path: path.to_owned(), source })
        };
        Ok(Keyring { keys: paths.iter().map(|path| read(path)).collect::<Result<_, _>>()? })
    }

    /// Answers questions until the client goes away, or asks what no client may.
    pub(super) fn attend(&self, mut client: UnixStream) {
        while let Ok(question) = message(&mut client) {
            if client.write_all(&string(&self.answer(&question))).is_err() {
                return;
            }
        }
    }

    fn answer(&self, question: &[u8]) -> Vec<u8> {
        let signed = |question: &[u8]| {
            let mut wire = Wire(question);
            let (public, data, flags) = (wire.string()?, wire.string()?, wire.u32()?);
            let key = self.keys.iter().find(|key| key.public == public)?;
            Some([&[SIGN_RESPONSE], string(&key.sign(data, flags)?).as_slice()].concat())
        };
        match question.split_first() {
            Some((&REQUEST_IDENTITIES, _)) => self.identities(),
            Some((&SIGN_REQUEST, question)) => signed(question).unwrap_or(vec![FAILURE]),
            _ => vec![FAILURE],
        }
    }

    /// The public keys without their comments, which often name people and machines.
    fn identities(&self) -> Vec<u8> {
        let count = u32::try_from(self.keys.len()).expect("keys were named one by one");
        let mut answer = vec![IDENTITIES_ANSWER];
        answer.extend(count.to_be_bytes());
        for key in &self.keys {
            answer.extend([string(&key.public), string(b"")].concat());
        }
        answer
    }
}

fn message(client: &mut UnixStream) -> io::Result<Vec<u8>> {
    let mut length = [0; 4];
    client.read_exact(&mut length)?;
    let length = u32::from_be_bytes(length);
    if length > LONGEST_MESSAGE {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut message = vec![0; length as usize];
    client.read_exact(&mut message)?;
    Ok(message)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::process::{Command, Output};
    use std::sync::Arc;

    use super::super::agent::{AgentSocket, Behind};
    use super::*;

    fn run(program: &str, arguments: &[&str], directory: &Path, agent: Option<&AgentSocket>) -> Output {
        let mut command = Command::new(program);
        command.args(arguments).current_dir(directory).env_remove("SSH_AUTH_SOCK");
        command.envs(agent.map(|agent| ("SSH_AUTH_SOCK", agent.address())));
        command.stdin(std::process::Stdio::null()).output().unwrap_or_else(|error| panic!("{program}: {error}"))
    }

    fn keygen(arguments: &str, directory: &Path, agent: Option<&AgentSocket>) {
        let output = run("ssh-keygen", &arguments.split(' ').collect::<Vec<_>>(), directory, agent);
        assert!(output.status.success(), "ssh-keygen {arguments}: {}", String::from_utf8_lossy(&output.stderr));
    }

    /// OpenSSH asks our agent for a signature and believes it.
    #[track_caller]
    fn check_openssh_accepts(directory: &Path) {
        let keys = Keyring::read(&[directory.join("key")]).expect("a key");
        let socket = AgentSocket::open(directory, Behind::Keys(Arc::new(keys)), (0, 0), 0o600).expect("a socket");
        let public = fs::read_to_string(directory.join("key.pub")).expect("a public key");
        let known = String::from_utf8(run("ssh-add", &["-L"], directory, Some(&socket)).stdout).expect("text");
        let words = |line: &str| line.split(' ').take(2).map(|word| word.trim().to_owned()).collect::<Vec<_>>();
        assert_eq!(words(&known), words(&public));
        fs::write(directory.join("allowed"), format!("me {public}")).expect("written");
        fs::write(directory.join("data"), "signed\n").expect("written");
        // without the private key at hand, the agent has to sign
        fs::rename(directory.join("key"), directory.join("away")).expect("renamed");
        keygen("-Y sign -f key.pub -n file data", directory, Some(&socket));
        let check = "ssh-keygen -Y verify -f allowed -I me -n file -s data.sig < data";
        let verified = run("sh", &["-c", check], directory, None);
        assert!(verified.status.success(), "{}", String::from_utf8_lossy(&verified.stderr));
    }

    #[test]
    fn openssh_believes_signatures_by_keys_of_each_kind() {
        for kind in ["ed25519", "rsa -b 2048", "ecdsa -b 256", "ecdsa -b 384", "rsa -b 2048 -m PEM", "ecdsa -b 384 -m PKCS8"] {
            let directory = tempfile::tempdir().expect("a directory");
            keygen(&format!("-q -f key -C me -N  -t {kind}"), directory.path(), None);
            check_openssh_accepts(directory.path());
        }
    }

    #[test]
    fn keys_with_a_passphrase_and_of_other_kinds_are_refused() {
        for (kind, reason) in [("-N secret -t ed25519", BadKey::Encrypted), ("-N  -t ecdsa -b 521", BadKey::Unsupported)] {
            let directory = tempfile::tempdir().expect("a directory");
            keygen(&format!("-q -f key -C me {kind}"), directory.path(), None);
            let error = Keyring::read(&[directory.path().join("key")]).err();
            assert!(matches!(error, Some(KeyError::Unusable { source, .. }) if source == reason), "{kind}: {error:?}");
        }
    }

    #[test]
    fn what_it_does_not_know_is_refused_and_the_next_question_answered() {
        let (mut client, server) = UnixStream::pair().expect("sockets");
        let agent = std::thread::spawn(move || Keyring { keys: Vec::new() }.attend(server));
        for (question, answer) in [
            (vec![27], vec![FAILURE]),
            (Vec::new(), vec![FAILURE]),
            ([vec![SIGN_REQUEST], string(b"x"), string(b"y"), vec![0; 4]].concat(), vec![FAILURE]),
            (vec![SIGN_REQUEST, 255], vec![FAILURE]),
            (vec![REQUEST_IDENTITIES], vec![IDENTITIES_ANSWER, 0, 0, 0, 0]),
        ] {
            client.write_all(&string(&question)).expect("asked");
            assert_eq!(message(&mut client).expect("answered"), answer, "{question:?}");
        }
        client.write_all(&u32::MAX.to_be_bytes()).expect("asked");
        assert!(message(&mut client).is_err(), "nobody waits for four gigabytes");
        agent.join().expect("no panic");
    }
}
