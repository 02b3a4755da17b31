//! Which files of a context a build asks for: the paths that its steps name, and where links among them lead.
//!
//! BuildKit's client turns these paths into patterns and sends what the patterns match and the ignore file leaves. So a file
//! that a `COPY` names may still not come along: one with a blank at an end of its name, one behind a link that leads through
//! another link, one whose name means something else as a pattern. We do the same, although nothing is sent.
//! Source: tonistiigi/fsutil, `FollowLinks` and `NewFilterFS`.

use std::collections::BTreeSet;

use crate::dockerfile::has_wildcards;
use crate::dockerfile::ignore::{PatternError, Patterns};
use crate::snapshot::{DirTree, FileKind, FileTree, TreePath};

/// The patterns of what `paths` name in `files`; `None` for everything.
///
/// # Errors
/// A path that is no pattern.
pub fn patterns<'p>(files: &DirTree, paths: impl IntoIterator<Item = &'p str>) -> Result<Option<Patterns>, PatternError> {
    let mut follower = Follower { files, todo: Vec::new(), found: BTreeSet::new() };
    follower.todo.extend(paths.into_iter().map(|path| TreePath::clean(path.as_bytes())));
    if follower.todo.is_empty() {
        return Ok(None);
    }
    while let Some(path) = follower.todo.pop() {
        follower.follow(&path);
    }
    if follower.found.iter().any(TreePath::is_root) {
        return Ok(None);
    }
    let text = |path: &TreePath| String::from_utf8_lossy(path.as_bytes()).into_owned();
    Patterns::from_lines(&follower.found.iter().map(text).collect::<Vec<_>>()).map(Some)
}

struct Follower<'a> {
    files: &'a DirTree,
    todo: Vec<TreePath>,
    found: BTreeSet<TreePath>,
}

impl Follower<'_> {
    /// Goes down a path to its end or to the first link on it, whose targets are looked at later, with the rest of the path.
    fn follow(&mut self, path: &TreePath) {
        let mut here = TreePath::root();
        let names: Vec<&[u8]> = path.components().collect();
        for (number, name) in names.iter().enumerate() {
            here.push(name);
            let is_last = number + 1 == names.len();
            let targets = self.targets(&here);
            if targets.is_empty() && !is_last {
                continue;
            }
            if self.found.insert(here.clone()) {
                let rest = TreePath::clean(&names[number + 1..].join(&b'/'));
                self.todo.extend(targets.iter().map(|target| target.join(&rest)));
            }
            return;
        }
        self.found.insert(here);
    }

    /// Where `path` leads if it is a link, and where all links lead that it matches if its last name is a pattern. As in
    /// BuildKit, `..` in a target takes back a name, even the name of a link.
    fn targets(&self, path: &TreePath) -> Vec<TreePath> {
        let (parent, name) = (path.parent(), path.file_name().unwrap_or_default());
        let links: Vec<TreePath> = if has_wildcards(name) {
            let matches = |found: &[u8]| crate::dockerfile::glob_match(name, found) == Ok(true);
            // a directory that cannot be read is one without links
            let entries = self.files.read_dir(&parent).unwrap_or_default().into_iter();
            entries
                .filter(|(found, meta)| meta.kind == FileKind::Symlink && matches(found))
                .map(|(found, _)| parent.child(&found))
                .collect()
        } else {
            let meta = self.files.lookup(path).ok().flatten();
            meta.filter(|meta| meta.kind == FileKind::Symlink).map(|_| path.clone()).into_iter().collect()
        };
        let target = |link: &TreePath| {
            let target = self.files.read_link(link).ok()?;
            match target.first() {
                Some(b'/') => Some(TreePath::clean(&target)),
                _ => Some(TreePath::clean(&[parent.as_bytes(), b"/", target.as_slice()].concat())),
            }
        };
        links.iter().filter_map(target).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::testing::make;

    /// What is asked for, of the paths in `seen`, when `paths` are named.
    #[track_caller]
    fn check(paths: &[&str], seen: &str, expected: &str) {
        let temp = tempfile::tempdir().unwrap();
        let script = "dir d; file d/f x; file f x; link l f; link dl d; link far dl/../f; link up ../../f; link loop loop";
        assert!(make(temp.path(), script), "these tests run as root");
        let files = DirTree::open(temp.path()).unwrap();
        let patterns = patterns(&files, paths.iter().copied()).unwrap().unwrap();
        let asked: Vec<&str> = seen.split(' ').filter(|path| patterns.is_ignored(path.as_bytes())).collect();
        assert_eq!(asked.join(" "), expected);
    }

    #[test]
    fn links_bring_what_they_lead_to() {
        check(&["/l"], "l f d/f", "l f");
        check(&["/dl/f"], "dl d/f f", "dl d/f");
        check(&["/up"], "up f", "up f");
        check(&["/*l"], "l dl f d/f", "l dl f d/f");
        check(&["/far"], "far dl f d/f", "far f");
        check(&["/loop", "/nothing"], "loop f", "loop");
    }

    #[test]
    fn names_are_patterns() {
        check(&["/a[b]", "/!x", "/ y"], "ab x !x y", "ab y");
    }

    #[test]
    fn the_root_is_everything() {
        let temp = tempfile::tempdir().unwrap();
        let files = DirTree::open(temp.path()).unwrap();
        assert!(patterns(&files, ["/a", "/"]).unwrap().is_none());
        assert!(patterns(&files, []).unwrap().is_none());
        assert!(patterns(&files, ["/[z-a]"]).is_err());
    }
}
