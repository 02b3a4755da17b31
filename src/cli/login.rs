//! `croze login` and `croze logout`.

use std::io::{self, BufRead, IsTerminal, Read, Write};

use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};

use crate::builder::registry::{self, Kept};
use crate::cli::args::{LoginArgs, LogoutArgs};
use crate::cli::build::print_result;
use crate::cli::environment::Environment;
use crate::cli::failure::Failure;
use crate::cli::say;
use crate::diagnostic::Diagnostic;
use crate::reference::ImageRef;

/// Asks for what the flags leave open, tries it at the registry, and keeps it where Docker keeps it.
///
/// # Errors
/// Wrong arguments, a registry that refuses, or no place for the credentials.
pub fn log_in(args: LoginArgs, environment: &Environment) -> Result<(), Failure> {
    let host = host(args.registry.as_deref())?;
    if args.password.is_some() {
        say("warning: a password on the command line can be seen by others; use `--password-stdin`\n");
    }
    let user = match args.username.filter(|user| !user.is_empty()) {
        Some(user) => user,
        None if args.password_stdin || !io::stdin().is_terminal() => return Err(usage("`--username` is missing")),
        None => ask("Username: ", Echo::On)?,
    };
    let password = match args.password {
        Some(password) => password,
        None if args.password_stdin => password_from_stdin()?,
        None if io::stdin().is_terminal() => ask("Password: ", Echo::Off)?,
        None => return Err(usage("no password: pipe it into `croze login --password-stdin`")),
    };
    if password.is_empty() {
        return Err(usage("the password is empty"));
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Failure::environment("runtime", &error))?;
    let kept = runtime.block_on(registry::log_in(&environment.passed_on(), &host, user, password));
    if let Kept::InFile(path) = kept.map_err(|error| Failure::build(error, None))? {
        say(&format!("note: the password is in `{}`, not encrypted; a credential helper would keep it safer\n", path.display()));
    }
    print_result("Login Succeeded")
}

/// Forgets credentials in every place that is asked for them.
///
/// # Errors
/// A place that cannot be read or written.
pub fn log_out(args: &LogoutArgs, environment: &Environment) -> Result<(), Failure> {
    let host = host(args.registry.as_deref())?;
    let known = registry::log_out(&environment.passed_on(), &host).map_err(|error| Failure::build(error, None))?;
    print_result(&if known { format!("Removed the credentials for {host}") } else { format!("Not logged in to {host}") })
}

/// `https://HOST/v1/` is accepted, as scripts write it for Docker.
fn host(text: Option<&str>) -> Result<String, Failure> {
    let text = text.unwrap_or("docker.io");
    let bare = text.trim_start_matches("https://").trim_start_matches("http://");
    let host = bare.split('/').next().unwrap_or_default();
    if matches!(host, "docker.io" | "index.docker.io" | "registry-1.docker.io") {
        return Ok("docker.io".to_owned());
    }
    // a name without dot and port is a host here, though none in an image's name
    let is_host = format!("{host}:1/x").parse::<ImageRef>().is_ok() || format!("{host}/x").parse::<ImageRef>().is_ok();
    if is_host {
        Ok(host.to_owned())
    } else {
        Err(usage(&format!("`{text}` is not a registry such as `registry.example.com:5000`")))
    }
}

fn password_from_stdin() -> Result<String, Failure> {
    let mut text = String::new();
    io::stdin().take(1 << 20).read_to_string(&mut text).map_err(|error| Failure::environment("stdin", &error))?;
    Ok(text.strip_suffix('\n').map_or(text.as_str(), |text| text.strip_suffix('\r').unwrap_or(text)).to_owned())
}

/// Whether the terminal shows what is typed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Echo {
    On,
    Off,
}

fn ask(question: &str, echo: Echo) -> Result<String, Failure> {
    let failed = |error: io::Error| Failure::environment("terminal", &error);
    let stdin = io::stdin();
    io::stderr().write_all(question.as_bytes()).map_err(failed)?;
    let before = tcgetattr(&stdin).map_err(|error| failed(error.into()))?;
    if echo == Echo::Off {
        let mut quiet = before.clone();
        quiet.local_modes.remove(LocalModes::ECHO);
        tcsetattr(&stdin, OptionalActions::Flush, &quiet).map_err(|error| failed(error.into()))?;
    }
    let mut line = String::new();
    let read = stdin.lock().read_line(&mut line);
    if echo == Echo::Off {
        say("\n");
        tcsetattr(&stdin, OptionalActions::Flush, &before).map_err(|error| failed(error.into()))?;
    }
    read.map_err(failed)?;
    Ok(line.trim_end_matches(['\n', '\r']).to_owned())
}

fn usage(message: &str) -> Failure {
    Failure::usage(Diagnostic::error_without_place("bad-login", message))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registries_have_many_spellings() {
        for (text, expected) in [
            (None, "docker.io"),
            (Some("https://index.docker.io/v1/"), "docker.io"),
            (Some("http://h.example:5000/v2/"), "h.example:5000"),
            (Some("registry"), "registry"),
        ] {
            assert_eq!(host(text).expect("a host"), expected);
        }
        assert!(host(Some("a b")).is_err() && host(Some("")).is_err());
    }
}
