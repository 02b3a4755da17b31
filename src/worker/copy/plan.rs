//! Decides what a copy does: follows sources and destination, selects files, gives each its place, owner and mode.

use std::collections::HashMap;

use super::growth::Growth;
use super::layout::{Data, Layout, Merged, Mtime, Node, NodeContent, Unpacking};
use super::missing::missing_error;
use super::mode::{BadMode, ModeChange};
use super::owner::Owner;
use super::same::leave_out;
use super::select::{Reason, Selected, Selection, carried_xattrs, select};
use super::{CopyError, CopyInput, Prepared, Remark, TreeInput, archive};
use crate::digest::Hasher;
use crate::dockerfile::ignore::{PatternError, Patterns};
use crate::dockerfile::{glob_match, has_wildcards};
use crate::graph::{Chmod, CopyOp, CopySource, Unpack};
use crate::snapshot::{FileKind, FileTree, Last, Meta, Resolved, SnapshotError, TreePath, Xattrs, resolve};

/// Decides a copy and names its result, without writing anything.
///
/// `inputs` are the step's inputs without number 0; `into` is that one, the tree copied into. A `--parents` source keeps
/// its pivot: the pattern `/a/./b` copies `b` of the directory `a`.
///
/// # Errors
/// Everything of [`CopyError`] but `Changed`; the first problem in the order of the sources.
pub fn prepare(op: &CopyOp, inputs: &[CopyInput<'_>], into: TreeInput<'_>) -> Result<Prepared, CopyError> {
    let parent = into.tree;
    let mut unknown = Vec::new();
    let owner = |text: &String| {
        Owner::parse_noting(text, parent, &mut unknown).map_err(|source| CopyError::Owner { text: text.clone(), source })
    };
    let mode = ModeChange::parse(op.chmod.as_ref()).map_err(|BadMode| CopyError::BadMode {
        mode: match &op.chmod {
            Some(Chmod::Symbolic(text)) => text.clone(),
            _ => String::new(),
        },
    })?;
    let excludes = Patterns::from_lines(&op.excludes).map_err(|error| {
        let (PatternError::Syntax { line, .. } | PatternError::LoneExclamation { line }) = error;
        CopyError::BadExclude { pattern: op.excludes[line].clone() }
    })?;
    let mut planner = Planner {
        inputs,
        parent,
        destination: &op.destination,
        owner: op.chown.as_ref().map(owner).transpose()?,
        mode,
        excludes,
        unpack: op.unpack,
        layout: Layout::default(),
        remarks: Vec::new(),
        source_number: 0,
    };
    for (number, source) in op.sources.iter().enumerate() {
        planner.source_number = number;
        planner.source(source, op.parents)?;
    }
    let Planner { mut layout, mut remarks, .. } = planner;
    remarks.extend(unknown);
    fill_digests(&mut layout, inputs)?;
    leave_out(&mut layout, into)?;
    let mut hasher = Hasher::new();
    hasher.update(layout.key().as_bytes());
    // the time of a download is part of what its server offers, unlike the time of a local file
    for source in &op.sources {
        if let CopySource::Download { input: number } = source
            && let CopyInput::Download(download) = input(inputs, *number)
        {
            hasher.update(&download.mtime.seconds.to_le_bytes());
        }
    }
    Ok(Prepared { layout, key: hasher.finish(), remarks })
}

/// The layout of a plain copy of what is in a directory of the first input; empty if there is none.
pub(super) fn whole_directory(tree: &dyn FileTree, path: &TreePath) -> Result<Layout, CopyError> {
    let empty = crate::snapshot::View::new(Vec::new())?;
    let found = resolve(tree, path, Last::Follow)?;
    let mut planner = Planner {
        inputs: &[],
        parent: &empty,
        destination: "/",
        owner: None,
        mode: ModeChange::Keep,
        excludes: Patterns::default(),
        unpack: Unpack::Never,
        layout: Layout::default(),
        remarks: Vec::new(),
        source_number: 0,
    };
    if let Some(meta) = found.meta.filter(|meta| meta.kind == FileKind::Directory) {
        planner.directory(1, tree, &found.path, &meta, None)?;
    }
    Ok(planner.layout)
}

/// The layout that makes the directory `path` with what is missing above it, all owned by `owner`; links in it are followed.
/// Empty if it is there already.
pub(crate) fn new_directory(path: &str, owner: Owner, parent: &dyn FileTree) -> Result<Layout, CopyError> {
    let mut planner = Planner {
        inputs: &[],
        parent,
        destination: path,
        owner: Some(owner),
        mode: ModeChange::Keep,
        excludes: Patterns::default(),
        unpack: Unpack::Never,
        layout: Layout::default(),
        remarks: Vec::new(),
        source_number: 0,
    };
    let to = match resolve(parent, &TreePath::clean(path.as_bytes()), Last::Follow) {
        Err(SnapshotError::NotADirectory { path: file }) => {
            return Err(CopyError::NoPlace { directory: path.to_owned(), path: file });
        }
        to => to?,
    };
    if to.meta.is_none_or(|meta| meta.kind != FileKind::Directory) {
        planner.make_directories(&to.path).map_err(|error| match error {
            CopyError::ThroughFile { destination, path } => CopyError::NoPlace { directory: destination, path },
            error => error,
        })?;
    }
    Ok(planner.layout)
}

/// Input number `number` of the step; 0 is the tree copied into and not among `inputs`.
pub(super) fn input<'a>(inputs: &[CopyInput<'a>], number: usize) -> CopyInput<'a> {
    inputs[number.checked_sub(1).expect("no source is the tree copied into")]
}

struct Planner<'a> {
    inputs: &'a [CopyInput<'a>],
    parent: &'a dyn FileTree,
    destination: &'a str,
    owner: Option<Owner>,
    mode: ModeChange,
    excludes: Patterns,
    unpack: Unpack,
    layout: Layout,
    remarks: Vec<Remark>,
    source_number: usize,
}

/// Something that a source names.
struct Found {
    /// The last component of its name as written, before links were followed.
    name: Vec<u8>,
    /// Where it is.
    path: TreePath,
    meta: Meta,
}

impl Planner<'_> {
    fn source(&mut self, source: &CopySource, parents: bool) -> Result<(), CopyError> {
        match source {
            CopySource::Path { input: number, pattern } => {
                let CopyInput::Tree(source) = input(self.inputs, *number) else { unreachable!("the plan gives paths to trees") };
                if parents {
                    return self.with_parents(*number, source, pattern.as_bytes());
                }
                let found = self.find(source, pattern.as_bytes())?;
                if found.is_empty() {
                    self.remarks.push(Remark::NoMatch { source_number: self.source_number });
                }
                found.into_iter().try_for_each(|found| self.place(*number, source, found))
            }
            CopySource::Checkout { input: number } => {
                let CopyInput::Tree(source) = input(self.inputs, *number) else {
                    unreachable!("the plan gives checkouts to trees")
                };
                let root = TreePath::root();
                let meta = source.tree.lookup(&root)?.ok_or_else(|| self.missing(source, &root))?;
                self.directory(*number, source.tree, &root, &meta, None).map(drop)
            }
            CopySource::Inline(file) => {
                let node =
                    self.node(NodeContent::File(Data::Inline(file.content.clone())), 0o644, Owner::default(), Mtime::Created);
                self.file(file.name.as_bytes(), node)
            }
            CopySource::Download { input: number } => {
                let CopyInput::Download(download) = input(self.inputs, *number) else {
                    unreachable!("the plan gives downloads to downloads")
                };
                let data = Data::Download { input: *number, digest: download.digest };
                if self.unpack == Unpack::Always && archive::is_archive(&data, self.inputs)? {
                    return self.archive(data);
                }
                let node = self.node(NodeContent::File(data), 0o600, Owner::default(), Mtime::Kept(download.mtime));
                self.file(&download.name, node)
            }
        }
    }

    /// What a pattern names, links followed. A pattern with wildcards may name nothing; a plain path must exist.
    fn find(&self, source: TreeInput<'_>, pattern: &[u8]) -> Result<Vec<Found>, CopyError> {
        let pattern = TreePath::clean(pattern);
        let mut plain = TreePath::root();
        let mut wild: Vec<&[u8]> = Vec::new();
        for component in pattern.components() {
            if wild.is_empty() && !has_wildcards(component) {
                plain.push(component);
            } else {
                glob_match(component, b"").map_err(|_| self.bad_pattern(&pattern))?;
                wild.push(component);
            }
        }
        let start = self.follow(source, &plain)?;
        if wild.is_empty() {
            return Ok(vec![start]);
        }
        let mut matches = vec![start.path];
        for component in wild {
            let mut deeper = Vec::new();
            for directory in matches {
                if source.tree.lookup(&directory)?.is_none_or(|meta| meta.kind != FileKind::Directory) {
                    continue;
                }
                for (name, _) in source.tree.read_dir(&directory)? {
                    if glob_match(component, &name) == Ok(true) {
                        deeper.push(directory.child(&name));
                    }
                }
            }
            matches = deeper;
        }
        // as in BuildKit, what is named itself is copied whatever `--exclude` says: that speaks of what is below
        matches.iter().map(|path| self.follow(source, path)).collect()
    }

    fn follow(&self, source: TreeInput<'_>, path: &TreePath) -> Result<Found, CopyError> {
        match resolve(source.tree, path, Last::Follow) {
            Ok(Resolved { path: at, meta: Some(meta), .. }) => {
                Ok(Found { name: path.file_name().unwrap_or_default().to_vec(), path: at, meta })
            }
            Ok(Resolved { meta: None, .. }) | Err(SnapshotError::NotADirectory { .. }) => Err(self.missing(source, path)),
            Err(err) => Err(err.into()),
        }
    }

    /// `--parents`: what the pattern matches below its pivot, directories on the way included.
    fn with_parents(&mut self, number: usize, source: TreeInput<'_>, pattern: &[u8]) -> Result<(), CopyError> {
        let (pivot, below) = split_at_pivot(pattern);
        let below = TreePath::clean(&below);
        let has_wildcards = |text: &[u8]| text.split(|byte| *byte == b'/').any(has_wildcards);
        let is_required = !has_wildcards(&pivot) && !has_wildcards(below.as_bytes());
        let include = Patterns::from_lines(&[String::from_utf8_lossy(below.as_bytes()).into_owned()])
            .map_err(|_| self.bad_pattern(&TreePath::clean(pattern)))?;
        let pivot = TreePath::clean(&pivot);
        let mut is_there = false;
        for found in self.find(source, pivot.as_bytes())? {
            let Found { path, meta, .. } = &found;
            if meta.kind != FileKind::Directory {
                // BuildKit looks for nothing below it
                self.place(number, source, found)?;
                continue;
            }
            let selected = self.directory(number, source.tree, path, meta, Some(&include))?;
            is_there |= selected.iter().any(|path| path.starts_with(&below));
        }
        // a link at the end of the pivot is followed for the copy, but not when BuildKit looks whether the path exists
        let is_link = || -> Result<bool, CopyError> {
            let found = resolve(source.tree, &pivot, Last::Keep)?;
            Ok(found.meta.is_some_and(|meta| meta.kind == FileKind::Symlink))
        };
        if is_required && (!is_there || is_link()?) {
            return Err(self.missing(source, &pivot.join(&below)));
        }
        Ok(())
    }

    /// Gives one named source its place.
    fn place(&mut self, number: usize, source: TreeInput<'_>, found: Found) -> Result<(), CopyError> {
        let Found { name, path, meta } = found;
        let content = match meta.kind {
            FileKind::Directory => return self.directory(number, source.tree, &path, &meta, None).map(drop),
            FileKind::Socket => NodeContent::File(Data::Inline(String::new())),
            FileKind::File => {
                let data = Data::Tree { input: number, path: path.clone(), meta, digest: None, linked_to: None };
                if self.unpack != Unpack::Never && archive::is_archive(&data, self.inputs)? {
                    return self.archive(data);
                }
                NodeContent::File(data)
            }
            FileKind::Symlink => unreachable!("a source is followed to its end"),
            FileKind::Fifo | FileKind::Character(..) | FileKind::Block(..) => NodeContent::Special(meta.kind),
        };
        let mut node = self.copied(content, &meta, carried_xattrs(source.tree, &path)?);
        node.stage = self.layout.archives.len();
        self.file(&name, node)
    }

    /// Puts one file at the destination, or under its name into it.
    fn file(&mut self, name: &[u8], node: Node) -> Result<(), CopyError> {
        let to = self.resolve_destination()?;
        let is_directory = to.path.is_root() || to.meta.is_some_and(|meta| meta.kind == FileKind::Directory);
        let (path, there) = if is_directory {
            let path = to.path.child(name);
            let there = self.merged().lookup(&path)?;
            (path, there)
        } else {
            (to.path, to.meta)
        };
        self.make_directories(&path.parent())?;
        if there.is_some_and(|meta| meta.kind == FileKind::Directory) {
            return Err(CopyError::OntoDirectory { source_number: self.source_number, path });
        }
        let fresh = there.is_none() || self.layout.nodes.get(&path).is_some_and(|former| former.fresh);
        self.layout.nodes.insert(path, Node { fresh, ..node });
        Ok(())
    }

    /// Copies what is in a directory into the destination. The destination itself keeps its owner and mode if it exists
    /// and has plain ones if it does not; only its time becomes that of the source.
    ///
    /// Answers what was chosen, from the directory on.
    fn directory(
        &mut self,
        number: usize,
        tree: &dyn FileTree,
        root: &TreePath,
        root_meta: &Meta,
        include: Option<&Patterns>,
    ) -> Result<Vec<TreePath>, CopyError> {
        let to = self.resolve_destination()?;
        if to.meta.is_some_and(|meta| meta.kind != FileKind::Directory) {
            return Err(CopyError::OntoFile { source_number: self.source_number, path: to.path });
        }
        self.make_directories(&to.path)?;
        if let Some(node) = self.layout.nodes.get_mut(&to.path) {
            node.mtime = Mtime::Kept(root_meta.mtime);
        }
        let mut first_names: HashMap<(u64, u64), TreePath> = HashMap::new();
        let mut chosen = Vec::new();
        let mut growth = Growth::new(&self.layout, &to.path);
        let selected = select(tree, root, &Selection { include, excludes: &self.excludes })?;
        growth.nodes.reserve(selected.iter().map(Vec::len).sum::<usize>() + self.layout.nodes.len());
        for selected in selected.into_iter().flatten() {
            let path = to.path.join(&selected.path);
            let from = root.join(&selected.path);
            if include.is_some() && selected.reason == Reason::Chosen {
                chosen.push(selected.path.clone());
            }
            let there = if growth.is_first { growth.there(&path, self.parent)? } else { self.merged().lookup(&path)? };
            if let Some(there) =
                there.filter(|_| selected.meta.kind == FileKind::Directory && selected.reason == Reason::OnTheWay)
                && there.kind == FileKind::Directory
            {
                growth.join(&mut self.layout);
                self.make_directories(&path)?;
                // the mode of the source, whatever `--chmod` says, and nothing else of it
                if let Some(node) = self.layout.nodes.get_mut(&path) {
                    node.mode = selected.meta.mode;
                }
                continue;
            }
            let node = self.selected(number, tree, selected, (from, &path), there, &mut first_names)?;
            if growth.is_first {
                growth.nodes.push((path, node));
            } else {
                self.layout.nodes.insert(path, node);
            }
        }
        growth.join(&mut self.layout);
        Ok(chosen)
    }

    fn selected(
        &mut self,
        number: usize,
        tree: &dyn FileTree,
        selected: Selected,
        (from, path): (TreePath, &TreePath),
        there: Option<Meta>,
        first_names: &mut HashMap<(u64, u64), TreePath>,
    ) -> Result<Node, CopyError> {
        let Selected { meta, xattrs, .. } = selected;
        let is_directory = there.is_some_and(|there| there.kind == FileKind::Directory);
        let content = match meta.kind {
            FileKind::Directory if there.is_some() && !is_directory => {
                return Err(CopyError::OntoFile { source_number: self.source_number, path: path.clone() });
            }
            FileKind::Directory => NodeContent::Directory,
            _ if is_directory => {
                return Err(CopyError::OntoDirectory { source_number: self.source_number, path: path.clone() });
            }
            FileKind::File => {
                let linked_to = (meta.links > 1).then(|| match first_names.get(&meta.inode) {
                    Some(first) => Some(first.clone()),
                    None => {
                        first_names.insert(meta.inode, path.clone());
                        None
                    }
                });
                NodeContent::File(Data::Tree { input: number, path: from, meta, digest: None, linked_to: linked_to.flatten() })
            }
            FileKind::Symlink => NodeContent::Symlink(tree.read_link(&from)?),
            // only contexts have any: their transfer makes empty files of them
            FileKind::Socket => NodeContent::File(Data::Inline(String::new())),
            FileKind::Fifo | FileKind::Character(..) | FileKind::Block(..) => NodeContent::Special(meta.kind),
        };
        let mut node = self.copied(content, &meta, xattrs);
        node.fresh = there.is_none();
        if there.is_some()
            && let Some(former) = self.layout.nodes.get(path)
        {
            node.fresh |= former.fresh;
            if node.kind() == FileKind::Directory {
                // what came before an archive may lie below it
                node.stage = former.stage;
            }
        }
        Ok(node)
    }

    /// Unpacks an archive into the destination, which is always a directory.
    fn archive(&mut self, data: Data) -> Result<(), CopyError> {
        let to = self.follow_destination()?;
        if let Some(meta) = to.meta
            && meta.kind != FileKind::Directory
        {
            return Err(CopyError::ThroughFile { destination: self.destination.to_owned(), path: to.path });
        }
        // `--chmod` means nothing to an archive, nor to what is made for it
        self.make_directories_with(&to.path, 0o755)?;
        let surroundings = archive::surroundings(self.parent, &to.path)?;
        self.layout.archives.push(Unpacking { data, destination: to.path, owner: self.owner, surroundings });
        Ok(())
    }

    fn follow_destination(&self) -> Result<Resolved, CopyError> {
        let path = TreePath::clean(self.destination.as_bytes());
        match resolve(&self.merged(), &path, Last::Follow) {
            Err(SnapshotError::NotADirectory { path }) => {
                Err(CopyError::ThroughFile { destination: self.destination.to_owned(), path })
            }
            to => Ok(to?),
        }
    }

    /// Where the destination leads; one that ends in a slash is made a directory.
    fn resolve_destination(&mut self) -> Result<Resolved, CopyError> {
        let to = self.follow_destination()?;
        if self.destination.ends_with('/') && !to.path.is_root() {
            self.make_directories(&to.path)?;
            return Ok(Resolved { meta: self.merged().lookup(&to.path)?, ..to });
        }
        Ok(to)
    }

    /// Makes `path` and all above it nodes: those that the parent has as they are there, missing ones plain.
    fn make_directories(&mut self, path: &TreePath) -> Result<(), CopyError> {
        self.make_directories_with(path, self.mode.made_directory())
    }

    fn make_directories_with(&mut self, path: &TreePath, made_mode: u32) -> Result<(), CopyError> {
        if self.layout.nodes.get(path).is_some_and(|node| node.kind() == FileKind::Directory) {
            return Ok(());
        }
        let mut here = TreePath::root();
        for name in path.components() {
            here.push(name);
            let there = self.merged().lookup(&here)?;
            if there.is_some_and(|meta| meta.kind != FileKind::Directory) {
                return Err(CopyError::ThroughFile { destination: self.destination.to_owned(), path: here });
            }
            if self.layout.nodes.contains_key(&here) {
                continue;
            }
            let node = match there {
                Some(meta) => Node {
                    mode: meta.mode,
                    owner: Owner { uid: meta.uid, gid: meta.gid },
                    mtime: Mtime::Kept(meta.mtime),
                    xattrs: self.parent.xattrs(&here)?,
                    ..self.node(NodeContent::Directory, 0, Owner::default(), Mtime::Created)
                },
                None => Node {
                    mode: made_mode,
                    fresh: true,
                    ..self.node(NodeContent::Directory, 0, Owner::default(), Mtime::Created)
                },
            };
            self.layout.nodes.insert(here.clone(), node);
        }
        Ok(())
    }

    /// A node for something that has `mode` and `owner` before `--chmod` and `--chown`.
    fn node(&self, content: NodeContent, mode: u32, owner: Owner, mtime: Mtime) -> Node {
        let mut node = Node {
            content,
            mode,
            owner: self.owner.unwrap_or(owner),
            mtime,
            xattrs: Xattrs::new(),
            stage: self.layout.archives.len(),
            fresh: false,
            is_left_out: false,
        };
        let kind = node.kind();
        if kind != FileKind::Symlink {
            node.mode = self.mode.apply(mode, kind);
        }
        node
    }

    /// A node for a copy of something with `meta`.
    fn copied(&self, content: NodeContent, meta: &Meta, xattrs: Xattrs) -> Node {
        let owner = Owner { uid: meta.uid, gid: meta.gid };
        Node { xattrs, ..self.node(content, meta.mode, owner, Mtime::Kept(meta.mtime)) }
    }

    fn merged(&self) -> Merged<'_> {
        Merged { nodes: &self.layout.nodes, parent: self.parent }
    }

    fn bad_pattern(&self, pattern: &TreePath) -> CopyError {
        let pattern = String::from_utf8_lossy(pattern.as_bytes()).into_owned();
        CopyError::BadPattern { source_number: self.source_number, pattern }
    }

    fn missing(&self, source: TreeInput<'_>, path: &TreePath) -> CopyError {
        missing_error(source, path, self.source_number)
    }
}

/// Splits a `--parents` source at its first `/./`; without one, all of it is kept below the destination.
pub(super) fn split_at_pivot(pattern: &[u8]) -> (Vec<u8>, Vec<u8>) {
    let mut pattern = pattern;
    while let Some(rest) = pattern.strip_prefix(b"/").or_else(|| pattern.strip_prefix(b"./")) {
        pattern = rest;
    }
    match pattern.windows(3).position(|window| window == b"/./") {
        Some(at) => (pattern[..at].to_vec(), pattern[at + 3..].to_vec()),
        None => (Vec::new(), pattern.to_vec()),
    }
}

/// Asks for the digests of all files at once, and lets go of hard links whose first name was replaced by a later source.
fn fill_digests(layout: &mut Layout, inputs: &[CopyInput<'_>]) -> Result<(), CopyError> {
    let first = |path: &TreePath| match layout.nodes.get(path).map(|node| (&node.content, node.stage)) {
        Some((NodeContent::File(Data::Tree { input, meta, .. }), stage)) => Some((*input, meta.inode, stage)),
        _ => None,
    };
    let lost: Vec<TreePath> = layout
        .nodes
        .iter()
        .filter_map(|(path, node)| match &node.content {
            NodeContent::File(Data::Tree { input, meta, linked_to: Some(to), .. }) => {
                (first(to) != Some((*input, meta.inode, node.stage))).then(|| path.clone())
            }
            _ => None,
        })
        .collect();
    for path in lost {
        if let Some(Node { content: NodeContent::File(Data::Tree { linked_to, .. }), .. }) = layout.nodes.get_mut(&path) {
            *linked_to = None;
        }
    }
    for (index, source) in inputs.iter().enumerate() {
        let CopyInput::Tree(source) = source else { continue };
        let is_of_input = |data: &Data| matches!(data, Data::Tree { input, .. } if *input == index + 1);
        let data = layout
            .nodes
            .values()
            .filter_map(|node| node.content.data())
            .chain(layout.archives.iter().map(|archive| &archive.data));
        let files: Vec<(&TreePath, &Meta)> = data
            .filter_map(|data| match data {
                Data::Tree { path, meta, .. } if is_of_input(data) => Some((path, meta)),
                _ => None,
            })
            .collect();
        let mut digests = source.digests.digests(&files)?.into_iter();
        let data = layout.nodes.values_mut().filter_map(|node| node.content.data_mut());
        for data in data.chain(layout.archives.iter_mut().map(|archive| &mut archive.data)).filter(|data| is_of_input(data)) {
            if let Data::Tree { digest, .. } = data {
                *digest = digests.next();
            }
        }
    }
    Ok(())
}
