//! What the process was started with, read once: below this file nothing asks the environment.

use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};

use crate::diagnostic::render::Color;

/// The client's side of a build: variables, user, terminal.
#[derive(Debug, Clone)]
pub struct Environment {
    /// Variables whose name and value are text; others cannot reach a build.
    pub variables: BTreeMap<String, String>,
    /// The store's directory, where `--root` names it.
    pub root: Option<PathBuf>,
    /// Whether the user is root.
    pub is_root: bool,
    /// Whether messages may be coloured.
    pub color: Color,
}

/// Variables that the builder may look at: proxies (either case), the time of reproducible builds, and where configuration
/// and credentials are.
const PASSED_ON: [&str; 17] = [
    "CROZE_SECRET_KEY",
    "HTTP_PROXY",
    "http_proxy",
    "HTTPS_PROXY",
    "https_proxy",
    "FTP_PROXY",
    "ftp_proxy",
    "NO_PROXY",
    "no_proxy",
    "ALL_PROXY",
    "all_proxy",
    "SOURCE_DATE_EPOCH",
    "DOCKER_CONFIG",
    "HOME",
    "REGISTRY_AUTH_FILE",
    "XDG_CONFIG_HOME",
    "XDG_RUNTIME_DIR",
];

impl Environment {
    /// Reads it all.
    pub fn of_process() -> Environment {
        let text =
            |(name, value): (std::ffi::OsString, std::ffi::OsString)| Some((name.into_string().ok()?, value.into_string().ok()?));
        let variables: BTreeMap<String, String> = std::env::vars_os().filter_map(text).collect();
        let plain = variables.get("NO_COLOR").is_some_and(|value| !value.is_empty()) || !std::io::stderr().is_terminal();
        let color = if plain { Color::Never } else { Color::Always };
        Environment { variables, root: None, is_root: rustix::process::geteuid().is_root(), color }
    }

    /// A variable; an empty one counts as unset.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.variables.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    /// What [`BuildRequest::client_env`](crate::builder::BuildRequest::client_env) holds, in a fixed order.
    pub fn passed_on(&self) -> Vec<(String, String)> {
        PASSED_ON.iter().filter_map(|name| Some(((*name).to_owned(), self.get(name)?.to_owned()))).collect()
    }

    /// The store's directory: `--root`, `$CROZE_ROOT`, `/var/lib/croze` for root, `$XDG_DATA_HOME/croze`,
    /// `$HOME/.local/share/croze`. `None` where none of these is known.
    pub fn store_root(&self) -> Option<PathBuf> {
        if let Some(root) = &self.root {
            return Some(root.clone());
        }
        if let Some(root) = self.get("CROZE_ROOT") {
            return Some(PathBuf::from(root));
        }
        if self.is_root {
            return Some(PathBuf::from("/var/lib/croze"));
        }
        let data = self.get("XDG_DATA_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
        let home = || self.get("HOME").map(|home| Path::new(home).join(".local/share"));
        Some(data.or_else(home)?.join("croze"))
    }
}

#[cfg(test)]
impl Environment {
    /// An environment of just these variables, for a user who is not root.
    pub fn with(variables: &[(&str, &str)]) -> Environment {
        let variables = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Environment { variables, root: None, is_root: false, color: Color::Never }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_root(variables: &[(&str, &str)], flag: Option<&str>, is_root: bool, expected: Option<&str>) {
        let environment = Environment { is_root, root: flag.map(PathBuf::from), ..Environment::with(variables) };
        assert_eq!(environment.store_root().as_deref(), expected.map(Path::new));
    }

    #[test]
    fn the_store_is_where_the_nearest_word_says() {
        check_root(&[("CROZE_ROOT", "/b")], Some("/a"), true, Some("/a"));
        check_root(&[("CROZE_ROOT", "/b")], None, true, Some("/b"));
        check_root(&[("HOME", "/h"), ("XDG_DATA_HOME", "/d")], None, true, Some("/var/lib/croze"));
        check_root(&[("HOME", "/h"), ("XDG_DATA_HOME", "/d")], None, false, Some("/d/croze"));
        check_root(&[("HOME", "/h"), ("XDG_DATA_HOME", "relative")], None, false, Some("/h/.local/share/croze"));
        check_root(&[], None, false, None);
    }

    #[test]
    fn only_what_the_builder_may_look_at_is_passed_on() {
        let environment =
            Environment::with(&[("PATH", "/bin"), ("http_proxy", "p"), ("SOURCE_DATE_EPOCH", "1"), ("NO_PROXY", "")]);
        let expected = [("http_proxy".to_owned(), "p".to_owned()), ("SOURCE_DATE_EPOCH".to_owned(), "1".to_owned())];
        assert_eq!(environment.passed_on(), expected);
    }
}
