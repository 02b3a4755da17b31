//! Sources of `ADD` that are not paths: URLs and git references.

use super::path;
use crate::graph::GitOp;

/// What a source word names.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum SourceKind {
    /// A path or pattern in a tree.
    Path,
    /// A file behind a URL and the name that it gets.
    Url {
        /// Last element of the URL's path.
        file_name: String,
    },
    /// A git repository.
    Git(GitReference),
}

/// A git reference taken apart.
#[derive(Debug, PartialEq, Eq, Default)]
pub(crate) struct GitReference {
    /// The URL without query and fragment.
    pub remote: String,
    /// Branch, tag or commit; empty for the default branch.
    pub reference: String,
    /// Directory inside, without slashes at its ends; empty for all.
    pub subdir: String,
    /// `?keep-git-dir`.
    pub keep_git_dir: Option<bool>,
    /// `?checksum=` or `?commit=`.
    pub checksum: Option<String>,
    /// `?submodules=`.
    pub submodules: Option<bool>,
    /// `?mtime=commit`.
    pub commit_times: bool,
}

impl GitReference {
    /// The operation that fetches it.
    pub(crate) fn into_op(self) -> GitOp {
        GitOp {
            remote: self.remote,
            reference: self.reference,
            subdir: self.subdir,
            keep_git_dir: self.keep_git_dir.unwrap_or(false),
            checksum: self.checksum,
            submodules: self.submodules.unwrap_or(true),
            commit_times: self.commit_times,
        }
    }
}

/// Tells what a source word names.
///
/// Git is `git://`, `ssh://`, `user@host:path` and those `http(s)://` URLs whose path ends in `.git`, all with an optional
/// `?query` and `#ref:subdir`.
///
/// # Errors
/// One line about a git reference with a bad query.
pub(crate) fn classify(text: &str) -> Result<SourceKind, String> {
    if let Some((scheme, rest)) = text.split_once("://").filter(|(scheme, _)| is_scheme(scheme)) {
        let (before_fragment, fragment) = split_optional(rest, '#');
        let (location, query) = split_optional(before_fragment, '?');
        let url_path = location.split_once('/').map_or("", |(_, url_path)| url_path);
        return match scheme.to_ascii_lowercase().as_str() {
            "git" | "ssh" => git(format!("{scheme}://{location}"), query, fragment),
            "http" | "https" if url_path.ends_with(".git") => git(format!("{scheme}://{location}"), query, fragment),
            "http" | "https" if scheme == scheme.to_ascii_lowercase() => {
                Ok(SourceKind::Url { file_name: file_name(&percent_decoded(url_path)) })
            }
            _ => Ok(SourceKind::Path),
        };
    }
    if is_scp_style(text) {
        let (before_fragment, fragment) = split_optional(text, '#');
        let (remote, query) = split_optional(before_fragment, '?');
        return git(remote.to_owned(), query, fragment);
    }
    Ok(SourceKind::Path)
}

fn is_scheme(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric())
}

/// `user@host:path`, no slash before the colon.
fn is_scp_style(text: &str) -> bool {
    let Some((user, rest)) = text.split_once('@') else { return false };
    let Some((host, path)) = rest.split_once(':') else { return false };
    let is_word = |text: &str, extra: &[u8]| {
        !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || extra.contains(&byte))
    };
    is_word(user, b"-_") && is_word(host, b"-.") && !path.is_empty()
}

fn split_optional(text: &str, separator: char) -> (&str, &str) {
    text.split_once(separator).unwrap_or((text, ""))
}

fn file_name(url_path: &str) -> String {
    match path::base_name(url_path) {
        "" | "/" | "." => "__unnamed__".to_owned(),
        name => name.to_owned(),
    }
}

fn percent_decoded(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut index = 0;
    while index < bytes.len() {
        let hex = bytes.get(index + 1..index + 3).and_then(|digits| std::str::from_utf8(digits).ok());
        let value = hex.filter(|_| bytes[index] == b'%').and_then(|digits| u8::from_str_radix(digits, 16).ok());
        out.push(value.unwrap_or(bytes[index]));
        index += if value.is_some() { 3 } else { 1 };
    }
    String::from_utf8_lossy(&out).into_owned()
}

fn git(remote: String, query: &str, fragment: &str) -> Result<SourceKind, String> {
    let (reference, subdir) = split_optional(fragment, ':');
    let mut git = GitReference {
        remote,
        reference: percent_decoded(reference),
        subdir: path::clean(&percent_decoded(subdir)).trim_start_matches('/').to_owned(),
        ..GitReference::default()
    };
    let mut tag = None;
    let mut branch = None;
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (key, value) = split_optional(pair, '=');
        let value = percent_decoded(value);
        if value.is_empty() && !matches!(key, "submodules" | "keep-git-dir" | "fetch-by-commit") {
            return Err(format!("query `{key}` has no value"));
        }
        match key {
            "ref" => replace(&mut git.reference, "ref", value)?,
            "tag" => tag = Some(prefixed("refs/tags/", value)),
            "branch" => branch = Some(prefixed("refs/heads/", value)),
            "subdir" => replace(&mut git.subdir, "subdir", value)?,
            "checksum" | "commit" => git.checksum = Some(value),
            "keep-git-dir" => git.keep_git_dir = Some(boolean(key, &value)?),
            "submodules" => git.submodules = Some(boolean(key, &value)?),
            "fetch-by-commit" => {
                boolean(key, &value)?;
            }
            "mtime" if matches!(value.as_str(), "checkout" | "commit") => git.commit_times = value == "commit",
            "mtime" => return Err(format!("invalid value `{value}` for `mtime`: it is `checkout` or `commit`")),
            _ => return Err(format!("unexpected query `{key}`")),
        }
    }
    if tag.is_some() && branch.is_some() {
        return Err("branch conflicts with tag".to_owned());
    }
    if let Some(full_name) = tag.or(branch) {
        replace(&mut git.reference, "ref", full_name)?;
    }
    Ok(SourceKind::Git(git))
}

/// Sets what may be said twice only if it is said alike.
fn replace(slot: &mut String, what: &str, value: String) -> Result<(), String> {
    if !slot.is_empty() && *slot != value {
        return Err(format!("{what} conflicts: `{slot}` and `{value}`"));
    }
    *slot = value;
    Ok(())
}

fn prefixed(prefix: &str, name: String) -> String {
    if name.starts_with(prefix) { name } else { format!("{prefix}{name}") }
}

fn boolean(key: &str, value: &str) -> Result<bool, String> {
    match value {
        "" | "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err(format!("invalid value `{value}` for `{key}`")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn is_git(text: &str, remote: &str, reference: &str, subdir: &str) {
        match classify(text) {
            Ok(SourceKind::Git(git)) => {
                assert_eq!((git.remote.as_str(), git.reference.as_str(), git.subdir.as_str()), (remote, reference, subdir));
            }
            other => panic!("{text}: {other:?}"),
        }
    }

    #[test]
    fn git_references() {
        is_git("https://h/x.git", "https://h/x.git", "", "");
        is_git("http://h:1/site.git#main:docs/", "http://h:1/site.git", "main", "docs");
        is_git("http://h/site.git?branch=dev&subdir=docs", "http://h/site.git", "refs/heads/dev", "docs");
        is_git("git@github.com:a/b.git#v1", "git@github.com:a/b.git", "v1", "");
        is_git("ssh://git@h/x", "ssh://git@h/x", "", "");
        is_git("git://h/x#:sub", "git://h/x", "", "sub");
    }

    #[test]
    fn urls_and_their_names() {
        let name = |text: &str| match classify(text) {
            Ok(SourceKind::Url { file_name }) => file_name,
            other => format!("{other:?}"),
        };
        assert_eq!(name("https://h/a/b.txt?x=1"), "b.txt");
        assert_eq!(name("http://h/a%20b"), "a b");
        assert_eq!(name("http://h/"), "__unnamed__");
        assert_eq!(name("http://h"), "__unnamed__");
    }

    #[test]
    fn everything_else_is_a_path() {
        for text in ["a", "./x", "github.com/a/b", "ftp://h/x", "a@b", "dir/git@h", "@h:x", "C:\\x", ""] {
            assert_eq!(classify(text), Ok(SourceKind::Path), "{text}");
        }
    }

    #[test]
    fn bad_queries_are_told() {
        for (text, word) in [
            ("https://h/x.git?nope=1", "nope"),
            ("https://h/x.git?ref=", "no value"),
            ("https://h/x.git?tag=a&branch=b", "conflicts"),
            ("https://h/x.git?ref=a#b", "conflicts"),
            ("https://h/x.git?keep-git-dir=x", "keep-git-dir"),
        ] {
            assert!(classify(text).is_err_and(|message| message.contains(word)), "{text}");
        }
    }
}
