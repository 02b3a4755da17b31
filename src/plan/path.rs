//! Slash-separated paths of an image, cleaned by text alone as Go's `path` package does.

/// `path` made absolute and shortest: no `.`, no `..`, no doubled or trailing slash.
pub(super) fn clean(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    format!("/{}", parts.join("/"))
}

/// `path` made shortest, as Go's `path.Clean` does: a relative one stays relative, an empty one becomes `.`.
pub(super) fn cleaned(path: &str) -> String {
    if path.starts_with('/') {
        return clean(path);
    }
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." if parts.last().is_some_and(|last| *last != "..") => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    if parts.is_empty() { ".".to_owned() } else { parts.join("/") }
}

/// What `WORKDIR path` makes of the current directory: an absolute text is kept as it is, a relative one is joined, an
/// empty one changes nothing.
pub(super) fn workdir(current: &str, path: &str) -> String {
    let current = if current.is_empty() { "/" } else { current };
    match path {
        "" if current.starts_with('/') => current.to_owned(),
        path if path.starts_with('/') => path.to_owned(),
        path => clean(&format!("{current}/{path}")),
    }
}

/// A copy's destination: absolute and cleaned, with a slash at the end when the text names a directory by its spelling.
pub(super) fn destination(directory: &str, path: &str) -> String {
    let names_directory = path.is_empty() || path == "." || path.ends_with('/') || path.ends_with("/.");
    let absolute = if path.starts_with('/') { clean(path) } else { clean(&format!("{directory}/{path}")) };
    if names_directory && absolute != "/" { absolute + "/" } else { absolute }
}

/// `path` below `directory`, cleaned; an absolute `path` stays where it is.
pub(super) fn join(directory: &str, path: &str) -> String {
    if path.starts_with('/') { clean(path) } else { clean(&format!("{directory}/{path}")) }
}

/// The last component; `/` for the root.
pub(super) fn base_name(path: &str) -> &str {
    let trimmed = path.trim_end_matches('/');
    match trimmed.rsplit_once('/') {
        Some((_, name)) => name,
        None if trimmed.is_empty() => "/",
        None => trimmed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cleaning_cannot_climb() {
        assert_eq!(clean("/a/./b//c/../d/"), "/a/b/d");
        assert_eq!(clean("../../x"), "/x");
        assert_eq!(clean(""), "/");
        let pairs = [("./a/../b/", "b"), ("", "."), ("a/..", "."), ("../a", "../a"), ("/a/", "/a")];
        assert!(pairs.iter().all(|(path, expected)| cleaned(path) == *expected));
    }

    #[test]
    fn a_workdir_keeps_an_absolute_spelling() {
        assert_eq!(workdir("", "/a/b/"), "/a/b/");
        assert_eq!(workdir("/a/b/", "c/"), "/a/b/c");
        assert_eq!(workdir("/a", ""), "/a");
        assert_eq!(workdir("", ""), "/");
        assert_eq!(workdir("/a", "../b"), "/b");
    }

    #[test]
    fn a_destination_says_whether_it_is_a_directory() {
        assert_eq!(destination("/w", "x"), "/w/x");
        assert_eq!(destination("/w", "x/"), "/w/x/");
        assert_eq!(destination("/w", "."), "/w/");
        assert_eq!(destination("/w", ""), "/w/");
        assert_eq!(destination("/w", "/a/./b/."), "/a/b/");
        assert_eq!(destination("/", "./"), "/");
    }

    #[test]
    fn base_names() {
        assert_eq!(base_name("/a/b/"), "b");
        assert_eq!(base_name("b"), "b");
        assert_eq!(base_name("/"), "/");
    }
}
