//! Loading into a running Docker or Podman, through their own programs: those know where the daemon is and who may ask.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use super::ExportError;
use super::sink::{self, Out, Stop};

/// In the order they are asked.
const PROGRAMS: [&str; 2] = ["docker", "podman"];

/// Streams what `fill` writes into the first of Docker and Podman that answers; gives what it says of the image.
pub(super) fn load(fill: impl FnOnce(&mut Out<'_>) -> Result<(), Stop>) -> Result<String, ExportError> {
    let mut reasons = Vec::new();
    for program in PROGRAMS {
        match answers(program) {
            Ok(()) => return feed(program, fill),
            Err(reason) => reasons.push(reason),
        }
    }
    Err(ExportError::NoDaemon { reasons })
}

/// Whether the program is there and, if it needs a daemon, reaches it.
fn answers(program: &str) -> Result<(), String> {
    let asked = Command::new(program).args(["version", "--format", "{{.Server.Version}}"]).stdin(Stdio::null()).output();
    match asked {
        Ok(output) if output.status.success() => Ok(()),
        // Podman without a service of its own has no server part, and loads images itself
        Ok(_) if program == "podman" => Ok(()),
        Ok(output) => {
            let words = String::from_utf8_lossy(&output.stderr);
            Err(format!("{program}: {}", words.lines().last().unwrap_or("it says nothing").trim()))
        }
        Err(_) => Err(format!("`{program}` is not installed")),
    }
}

fn feed(program: &'static str, fill: impl FnOnce(&mut Out<'_>) -> Result<(), Stop>) -> Result<String, ExportError> {
    let failed = |reason: String| ExportError::Load { program, reason };
    let mut child = Command::new(program)
        .arg("load")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| failed(error.to_string()))?;
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let mut stdin = child.stdin.take().expect("asked for as a pipe");
    let written = std::thread::scope(|scope| {
        // both are read while the archive is written: a full pipe would stop the program
        let words = scope.spawn(|| stdout.map(last_line).unwrap_or_default());
        let complaints = scope.spawn(|| stderr.map(last_line).unwrap_or_default());
        let written = sink::filled(&mut stdin, fill, |error| failed(error.to_string()));
        drop(stdin);
        let join = |thread: std::thread::ScopedJoinHandle<'_, String>| thread.join().unwrap_or_default();
        (written, join(words), join(complaints))
    });
    let (written, words, complaints) = written;
    let status = child.wait().map_err(|error| failed(error.to_string()))?;
    if !status.success() {
        return Err(failed(if complaints.is_empty() { status.to_string() } else { complaints }));
    }
    written.map(|()| if words.is_empty() { format!("loaded into {program}") } else { words })
}

fn last_line(stream: impl std::io::Read) -> String {
    BufReader::new(stream).lines().map_while(Result::ok).filter(|line| !line.trim().is_empty()).last().unwrap_or_default()
}
