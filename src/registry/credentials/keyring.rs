//! All places where a user keeps credentials.

use std::path::{Path, PathBuf};

use super::file::AuthFile;
use super::helper::Helper;
use super::{Credential, CredentialError, Credentials};

/// The files of a user, in the order in which they are asked: `$REGISTRY_AUTH_FILE`; `config.json` in `$DOCKER_CONFIG` or
/// `~/.docker`; the containers tools' `auth.json` below `$XDG_RUNTIME_DIR` and `$XDG_CONFIG_HOME`. In each, a helper comes
/// before the file itself.
#[derive(Clone, Debug, Default)]
pub struct Keyring {
    files: Vec<PathBuf>,
    home: Option<PathBuf>,
}

/// Where a log-in was written.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Kept {
    /// A helper has it.
    ByHelper {
        /// The program.
        program: String,
    },
    /// The file has it, readable for whoever reads the file.
    InFile(PathBuf),
}

impl Keyring {
    /// The files that the variables of `get` lead to; an empty variable counts as unset.
    pub fn new(get: impl Fn(&str) -> Option<String>) -> Keyring {
        let path = |name: &str| get(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let home = path("HOME");
        let docker = path("DOCKER_CONFIG").or_else(|| home.as_ref().map(|home| home.join(".docker")));
        let config = path("XDG_CONFIG_HOME").or_else(|| home.as_ref().map(|home| home.join(".config")));
        let containers =
            [path("XDG_RUNTIME_DIR"), config].into_iter().flatten().map(|directory| directory.join("containers/auth.json"));
        let files = path("REGISTRY_AUTH_FILE").into_iter().chain(docker.map(|directory| directory.join("config.json")));
        Keyring { files: files.chain(containers).collect(), home }
    }

    /// Keeps `credential` for `host` in the first place: with the helper that it names, else in the file.
    pub fn log_in(&self, host: &str, credential: &Credential) -> Result<Kept, CredentialError> {
        let mut file = self.open(self.files.first().ok_or(CredentialError::NoPlace)?)?;
        match file.helper(host).map(|(suffix, server)| (suffix.to_owned(), server)) {
            Some((suffix, server)) => {
                Helper::new(&suffix, &file.path).store(&server, credential)?;
                file.set(host, None)?;
                Ok(Kept::ByHelper { program: format!("docker-credential-{suffix}") })
            }
            None => {
                file.set(host, Some(credential))?;
                Ok(Kept::InFile(file.path))
            }
        }
    }

    /// Forgets what every place has for `host`; says whether there was something.
    pub fn log_out(&self, host: &str) -> Result<bool, CredentialError> {
        let mut known = false;
        for path in &self.files {
            let mut file = self.open(path)?;
            if let Some((suffix, server)) = file.helper(host) {
                known |= Helper::new(suffix, path).erase(&server)?;
            }
            known |= file.remove(host)?;
        }
        Ok(known)
    }

    fn open(&self, path: &Path) -> Result<AuthFile, CredentialError> {
        AuthFile::read(path, self.home.as_deref())
    }
}

impl Credentials for Keyring {
    fn find(&self, host: &str, repository: &str) -> Result<Option<Credential>, CredentialError> {
        for path in &self.files {
            let file = self.open(path)?;
            if let Some((suffix, server)) = file.helper(host)
                && let Some(credential) = Helper::new(suffix, path).get(&server)?
            {
                return Ok(Some(credential));
            }
            if let Some(credential) = file.find(host, repository)? {
                return Ok(Some(credential));
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(variables: &[(&str, &str)], expected: &[&str]) {
        let get = |name: &str| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned());
        let expected: Vec<PathBuf> = expected.iter().map(PathBuf::from).collect();
        assert_eq!(Keyring::new(get).files, expected);
    }

    #[test]
    fn variables_lead_to_files() {
        check(&[], &[]);
        check(&[("HOME", "/h")], &["/h/.docker/config.json", "/h/.config/containers/auth.json"]);
        check(
            &[
                ("HOME", "/h"),
                ("DOCKER_CONFIG", "/d"),
                ("REGISTRY_AUTH_FILE", "/a"),
                ("XDG_RUNTIME_DIR", "/r"),
                ("XDG_CONFIG_HOME", ""),
            ],
            &["/a", "/d/config.json", "/r/containers/auth.json", "/h/.config/containers/auth.json"],
        );
    }
}
