//! Runs the git program with an environment of our own.

use std::ffi::OsStr;
use std::io::{self, Read};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use rustix::process::{Pid, Signal, kill_process_group};

use super::GitAccess;
use crate::registry::basic;
use crate::source::SourceError;

const USUAL_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Settings of every run: nothing runs by itself, files come out as they were committed.
const SETTINGS: [(&str, &str); 7] = [
    ("core.hooksPath", "/dev/null"),
    ("core.fsmonitor", "false"),
    ("core.autocrlf", "false"),
    ("core.attributesFile", "/dev/null"),
    ("gc.auto", "0"),
    ("maintenance.auto", "false"),
    ("advice.detachedHead", "false"),
];

/// Ends the git programs of an operation when it is dropped: whoever waited for them has given up.
#[derive(Default)]
pub struct Leash(Programs);

/// The process groups that run, one per program; `None` once they were told to end.
#[derive(Clone)]
pub struct Programs(Arc<Mutex<Option<Vec<Pid>>>>);

impl Default for Programs {
    fn default() -> Programs {
        Programs(Arc::new(Mutex::new(Some(Vec::new()))))
    }
}

impl Leash {
    /// What [`Git::new`] is to be given.
    pub fn programs(&self) -> Programs {
        self.0.clone()
    }
}

impl Drop for Leash {
    fn drop(&mut self) {
        for group in self.0.lock().take().unwrap_or_default() {
            // fails only if it has ended; nobody else can have its number, since it is listed until it is waited for
            let _ended = kill_process_group(group, Signal::KILL);
        }
    }
}

impl Programs {
    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Vec<Pid>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts `command` in a process group of its own, unless everything was told to end.
    fn start(&self, command: &mut Command) -> io::Result<(Child, Pid)> {
        let mut groups = self.lock();
        let groups = groups.as_mut().ok_or(io::ErrorKind::Interrupted)?;
        let child = command.process_group(0).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        let group = Pid::from_child(&child);
        groups.push(group);
        Ok((child, group))
    }

    /// Runs `command` to its end.
    fn output(&self, command: &mut Command) -> io::Result<Output> {
        let (mut child, group) = self.start(command)?;
        let (mut out, mut err) = (child.stdout.take(), child.stderr.take());
        let (stdout, stderr) = thread::scope(|scope| {
            let errors = scope.spawn(move || read_all(err.as_mut()));
            (read_all(out.as_mut()), errors.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
        });
        if let Some(groups) = self.lock().as_mut() {
            groups.retain(|listed| *listed != group);
        }
        Ok(Output { status: child.wait()?, stdout: stdout?, stderr: stderr? })
    }
}

fn read_all(pipe: Option<&mut impl Read>) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    pipe.map_or(Ok(0), |pipe| pipe.read_to_end(&mut bytes))?;
    Ok(bytes)
}

/// The git program, ready to talk to one remote.
pub struct Git<'a> {
    programs: &'a Programs,
    remote: &'a str,
    access: &'a GitAccess,
    settings: Vec<(String, String)>,
    protocols: &'static str,
}

impl<'a> Git<'a> {
    /// # Errors
    /// `SourceError::BadGitRef` for a remote that the program would take for an option.
    pub fn new(programs: &'a Programs, remote: &'a str, access: &'a GitAccess) -> Result<Git<'a>, SourceError> {
        if remote.is_empty() || remote.starts_with('-') {
            let reason = "its remote is no URL".to_owned();
            return Err(SourceError::BadGitRef { text: remote.to_owned(), reason });
        }
        let mut settings: Vec<(String, String)> =
            SETTINGS.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        if let (Some(base), Some(value)) = (base_url(remote), authorization(access)) {
            // Scoped to the remote's host, so that no submodule elsewhere sees it.
            settings.push((format!("http.{base}.extraHeader"), format!("Authorization: {value}")));
        }
        // Files of this machine are read only when the user names them, not because a submodule does.
        let local = remote.starts_with("file://") || remote.starts_with('/') || remote.starts_with('.');
        let protocols = if local { "file:git:http:https:ssh" } else { "git:http:https:ssh" };
        Ok(Git { programs, remote, access, settings, protocols })
    }

    /// Runs one git command in `directory` and returns what it printed. `action` says what it is for, in errors.
    pub fn run(&self, directory: Option<&Path>, action: &'static str, arguments: &[&str]) -> Result<String, SourceError> {
        let failed = |reason: String| SourceError::Git { action, remote: without_password(self.remote), reason };
        // The shell is there for the umask: modes must not depend on the caller's.
        let mut command = Command::new("/bin/sh");
        command.args(["-c", "umask 022; exec git \"$@\"", "git"]).args(arguments);
        command.current_dir(directory.unwrap_or(Path::new("/"))).stdin(Stdio::null());
        self.set_environment(&mut command);
        let output = self.programs.output(&mut command).map_err(|error| failed(error.to_string()))?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        if output.status.code() == Some(127) {
            return Err(failed("the program `git` is not installed".to_owned()));
        }
        Err(failed(last_words(&String::from_utf8_lossy(&output.stderr))))
    }

    fn set_environment(&self, command: &mut Command) {
        command.env_clear();
        command.env("PATH", self.access.search_path.as_deref().unwrap_or(OsStr::new(USUAL_PATH)));
        command.envs(self.access.proxy_env.iter().map(|(name, value)| (name, value)));
        command.envs([
            ("HOME", "/nonexistent"),
            ("LC_ALL", "C"),
            ("GIT_CONFIG_NOSYSTEM", "1"),
            ("GIT_CONFIG_GLOBAL", "/dev/null"),
            ("GIT_TERMINAL_PROMPT", "0"),
            ("GIT_LFS_SKIP_SMUDGE", "1"),
            ("GIT_ALLOW_PROTOCOL", self.protocols),
            ("GIT_SSH_COMMAND", "ssh -o BatchMode=yes"),
        ]);
        if let Some(socket) = &self.access.ssh_agent {
            command.env("SSH_AUTH_SOCK", socket);
        }
        // By environment rather than by `-c`, since arguments can be seen by everybody.
        command.env("GIT_CONFIG_COUNT", self.settings.len().to_string());
        for (number, (name, value)) in self.settings.iter().enumerate() {
            command.env(format!("GIT_CONFIG_KEY_{number}"), name).env(format!("GIT_CONFIG_VALUE_{number}"), value);
        }
    }
}

/// Scheme and host of an http(s) remote.
fn base_url(remote: &str) -> Option<String> {
    let (scheme, rest) = remote.split_once("://")?;
    if scheme != "http" && scheme != "https" {
        return None;
    }
    let authority = rest.split('/').next().unwrap_or(rest);
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    Some(format!("{scheme}://{host}/"))
}

fn authorization(access: &GitAccess) -> Option<String> {
    match (&access.header, &access.token) {
        (Some(header), _) => Some(header.trim().to_owned()),
        (None, Some(token)) => basic("x-access-token", token.trim()).to_str().ok().map(str::to_owned),
        (None, None) => None,
    }
}

/// `https://user:secret@host/x` → `https://user@host/x`, for messages.
fn without_password(remote: &str) -> String {
    let Some((scheme, rest)) = remote.split_once("://") else { return remote.to_owned() };
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    match authority.rsplit_once('@') {
        Some((user, host)) => format!("{scheme}://{}@{host}{path}", user.split(':').next().unwrap_or_default()),
        None => remote.to_owned(),
    }
}

/// The line that says what is wrong.
fn last_words(stderr: &str) -> String {
    if stderr.contains("terminal prompts disabled") {
        return "it asks for credentials; pass them as secret `GIT_AUTH_TOKEN` or `GIT_AUTH_HEADER`".to_owned();
    }
    let said = |line: &&str| line.starts_with("fatal: ") || line.starts_with("error: ") || line.starts_with("remote: ");
    let lines = || stderr.lines().map(str::trim).filter(|line| !line.is_empty());
    let line = lines().find(said).or_else(|| lines().next_back()).unwrap_or("it said nothing");
    line.strip_prefix("fatal: ").or_else(|| line.strip_prefix("error: ")).unwrap_or(line).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_go_to_the_remotes_host_only() {
        let programs = Programs::default();
        let access = GitAccess { token: Some("t\n".into()), ..GitAccess::default() };
        let git = Git::new(&programs, "https://me@host:81/a/b.git", &access).expect("a URL");
        let setting = git.settings.last().expect("there are some");
        assert_eq!(setting.0, "http.https://host:81/.extraHeader");
        assert_eq!(setting.1, "Authorization: Basic eC1hY2Nlc3MtdG9rZW46dA==");
        let git = Git::new(&programs, "ssh://host/a", &access).expect("a URL");
        assert_eq!(git.settings.len(), SETTINGS.len());
    }

    #[test]
    fn an_option_is_no_remote() {
        assert!(Git::new(&Programs::default(), "--upload-pack=x", &GitAccess::default()).is_err());
    }

    #[test]
    fn files_are_read_only_when_named() {
        let access = GitAccess::default();
        assert!(Git::new(&Programs::default(), "file:///x", &access).expect("a URL").protocols.contains("file"));
        assert!(!Git::new(&Programs::default(), "https://host/x", &access).expect("a URL").protocols.contains("file"));
    }

    #[test]
    fn messages_hold_no_password() {
        assert_eq!(without_password("https://me:secret@host/x"), "https://me@host/x");
        assert_eq!(without_password("git@host:x"), "git@host:x");
    }

    #[test]
    fn the_cause_is_found_in_what_git_says() {
        assert_eq!(last_words("Cloning\nfatal: no such thing\n\nPlease make sure\n"), "no such thing");
        assert_eq!(last_words(""), "it said nothing");
        let asked = "fatal: could not read Username for 'http://h': terminal prompts disabled\n";
        assert!(last_words(asked).contains("GIT_AUTH_TOKEN"));
    }
}
