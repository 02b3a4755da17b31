//! `COPY` and `ADD`.

use super::lowering::{MAIN_CONTEXT, StageLowering};
use super::remote::{self, GitReference, SourceKind};
use super::stages::Command;
use super::{checks, chmod, path, words};
use crate::diagnostic::{Diagnostic, Source, Span, nearest};
use crate::digest::Digest;
use crate::dockerfile::{Heredoc, Transfer, TransferSource};
use crate::graph::{Chmod, CopyOp, CopySource, HttpOp, InlineFile, Op, Origin, StepIndex, Unpack};

/// A transfer with its variables replaced.
struct Expanded<'t> {
    keyword: Keyword,
    transfer: &'t Transfer,
    /// Path-like sources in order, with their places.
    sources: Vec<(String, Span)>,
    /// Files written in the Dockerfile, with the places of their delimiters.
    heredocs: Vec<(InlineFile, Span)>,
    destination: String,
    chown: Option<(String, Span)>,
    chmod: Option<String>,
    checksum: Option<(String, Span)>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Keyword {
    Add,
    Copy,
}

impl StageLowering<'_, '_> {
    /// `ADD`: from the main context, URLs and git repositories.
    pub(super) fn add(&mut self, transfer: &Transfer, command: &Command<'_>) {
        if let Some(expanded) = self.expanded(Keyword::Add, transfer, command) {
            let context = |stage: &mut Self| Some(stage.lowering.context(MAIN_CONTEXT));
            self.transfer(&expanded, context, command);
        }
    }

    /// `COPY`: from the main context, or from the tree that `--from` names.
    pub(super) fn copy(&mut self, transfer: &Transfer, command: &Command<'_>) {
        let Some(expanded) = self.expanded(Keyword::Copy, transfer, command) else { return };
        let Some(from) = &transfer.from else {
            self.transfer(&expanded, |stage| Some(stage.lowering.context(MAIN_CONTEXT)), command);
            return;
        };
        // a name that means nothing was reported when stages were found
        let Some(Some(node)) = command.inputs.first().copied() else { return };
        let tree = self.lowering.results[node].as_ref().map(|state| state.tree);
        if tree.is_none() {
            let current = self.lowering.stages.stage_name(self.index);
            let message =
                format!("cannot copy from stage `{}`, it needs to be defined before current stage `{current}`", from.value);
            let mut diagnostic = Diagnostic::error("stage-order", message, &command.source, from.span);
            if let Some(later) = self.lowering.stages.nodes[node].from.filter(|_| !command.is_trigger()) {
                diagnostic = diagnostic.also(later.span, "it begins here");
            }
            self.lowering.diagnostics.push(diagnostic);
            return;
        }
        self.transfer(&expanded, |_| tree, command);
    }

    /// Replaces variables everywhere; `None` after an error in any word.
    fn expanded<'t>(&mut self, keyword: Keyword, transfer: &'t Transfer, command: &Command<'_>) -> Option<Expanded<'t>> {
        let source = &command.source;
        let mut sources = Vec::new();
        let mut heredocs = Vec::new();
        let mut failed = false;
        for item in &transfer.sources {
            match item {
                TransferSource::Path(word) => match self.expand(word, source) {
                    Some(text) => sources.push((text, word.span)),
                    None => failed = true,
                },
                TransferSource::Heredoc(heredoc) => match self.inline_file(heredoc, source) {
                    Some(file) => heredocs.push((file, heredoc.span)),
                    None => failed = true,
                },
            }
        }
        let mut optional = |word: &Option<crate::dockerfile::Word>| {
            let word = word.as_ref()?;
            let text = self.expand(word, source);
            failed |= text.is_none();
            text.filter(|text| !text.is_empty()).map(|text| (text, word.span))
        };
        let chown = optional(&transfer.chown);
        let chmod = optional(&transfer.chmod).map(|(text, _)| text);
        let checksum = optional(&transfer.checksum);
        let destination = self.expand(&transfer.destination, source)?;
        (!failed).then_some(Expanded { keyword, transfer, sources, heredocs, destination, chown, chmod, checksum })
    }

    fn inline_file(&mut self, heredoc: &Heredoc, source: &Source) -> Option<InlineFile> {
        let name = heredoc.name.clone();
        if name.contains('/') || name == "." || name == ".." {
            let message = format!("`{name}` cannot be the name of a file");
            let error = Diagnostic::error("bad-heredoc-name", message, source, heredoc.span);
            self.lowering.diagnostics.push(error.help("the word behind `<<` names the file; the last word says where it goes"));
            return None;
        }
        if !heredoc.expand {
            return Some(InlineFile { name, content: heredoc.body.clone() });
        }
        // bodies are always escaped by `\`, whatever `# escape=` says
        match crate::dockerfile::expand::heredoc(&heredoc.body, '\\', &self.state.scope) {
            Ok(expanded) => {
                self.warn_unset(&expanded.unset, source, heredoc.span);
                Some(InlineFile { name, content: expanded.text })
            }
            Err(error) => {
                let word = crate::dockerfile::Word::new(String::new(), heredoc.span);
                self.lowering.diagnostics.push(words::failure(&word, source, &error));
                None
            }
        }
    }

    /// Adds the steps. `tree` gives what paths are read from, and is asked only when there is a path.
    fn transfer(&mut self, expanded: &Expanded<'_>, tree: impl FnOnce(&mut Self) -> Option<StepIndex>, command: &Command<'_>) {
        let chmod = match self.mode(expanded, &command.source) {
            Ok(chmod) => chmod,
            Err(()) => return,
        };
        if self.refuse_checksum(expanded, command) {
            return;
        }
        let shown = self.shown(command);
        let mut origin = self.origin(&shown, command);
        origin.words.owner = expanded.chown.as_ref().map(|(_, span)| *span);
        origin.words.read_from = expanded.transfer.from.as_ref().map(|from| from.value.clone());
        origin.words.sources.extend(expanded.sources.iter().map(|(_, span)| *span));
        origin.words.sources.extend(expanded.heredocs.iter().map(|(_, span)| *span));
        let Some((mut inputs, mut sources)) = self.sources(expanded, tree, &origin, command) else { return };
        sources.extend(expanded.heredocs.iter().map(|(file, _)| CopySource::Inline(file.clone())));
        let linked = expanded.transfer.link && chmod.is_none();
        let onto = if linked { self.lowering.scratch() } else { self.state.tree };
        inputs.insert(0, onto);
        let op = Op::Copy(CopyOp {
            sources,
            destination: path::destination(&self.state.directory(), &expanded.destination),
            chown: expanded.chown.as_ref().map(|(text, _)| text.clone()),
            chmod,
            parents: expanded.transfer.parents,
            excludes: expanded.transfer.excludes.iter().map(|word| word.value.clone()).collect(),
            unpack: expanded.unpack(),
        });
        let layer = self.lowering.graph.add(op, &inputs, origin.clone());
        // onto an empty tree there is nothing to merge with
        let merges = linked && !matches!(self.lowering.graph.step(self.state.tree).op, Op::Scratch);
        self.state.tree = if merges {
            let mut origin = origin;
            origin.name = origin.name.replacen("] ", "] LINK ", 1);
            self.lowering.graph.add(Op::Merge, &[self.state.tree, layer], origin)
        } else {
            layer
        };
        self.record(expanded.history(), Some(layer));
    }

    /// The inputs behind the first one, and what is taken from each; `None` after an error.
    fn sources(
        &mut self,
        expanded: &Expanded<'_>,
        tree: impl FnOnce(&mut Self) -> Option<StepIndex>,
        origin: &Origin,
        command: &Command<'_>,
    ) -> Option<(Vec<StepIndex>, Vec<CopySource>)> {
        let kinds: Vec<(&str, Span, SourceKind)> = expanded
            .sources
            .iter()
            .map(|(text, span)| match remote::classify(text) {
                Ok(kind) => Some((text.as_str(), *span, kind)),
                Err(message) => {
                    self.error("bad-git-source", message, &command.source, *span);
                    None
                }
            })
            .collect::<Option<_>>()?;
        let mut inputs = Vec::new();
        let mut sources = Vec::new();
        let mut tree_input = None;
        if kinds.iter().any(|(_, _, kind)| *kind == SourceKind::Path) {
            inputs.push(tree(self)?);
            tree_input = Some(inputs.len());
        }
        for (text, span, kind) in kinds {
            let op = match kind {
                SourceKind::Path => {
                    let pattern = selection(text, expanded.transfer.parents);
                    if expanded.transfer.parents && keeps_nothing(&pattern) {
                        let message = format!("`{text}` names nothing that `--parents` could keep");
                        let diagnostic = Diagnostic::error("nothing-kept", message, &command.source, span)
                            .help("without `--parents`, a directory's content is copied");
                        self.lowering.diagnostics.push(diagnostic);
                        return None;
                    }
                    let input = tree_input.expect("a path brought its tree");
                    self.lowering.use_path(inputs[input - 1], &path::clean(&pattern));
                    if let Some((scheme, _)) = text.split_once("://") {
                        let message = format!("`{scheme}://` is nothing that is fetched, so this is a path");
                        let warning = Diagnostic::warning("unknown-scheme", message, &command.source, span);
                        let known = nearest(scheme, ["http", "https", "git", "ssh"]);
                        let help = known.map(|known| format!("did you mean `{known}://`?"));
                        self.lowering.diagnostics.push(words::with_help(warning, help));
                    }
                    if expanded.transfer.from.is_none() {
                        let patterns = self.lowering.options.ignore.as_deref();
                        let instruction = if expanded.keyword == Keyword::Add { "Add" } else { "Copy" };
                        let finding = checks::ignored_source(instruction, &path::cleaned(text), patterns, &command.source, span);
                        self.warn(finding);
                    }
                    sources.push(CopySource::Path { input, pattern });
                    continue;
                }
                SourceKind::Url { file_name } => self.download(expanded, text, file_name, span, command)?,
                SourceKind::Git(reference) => self.checkout(expanded, reference, span, command)?,
            };
            let input = inputs.len() + 1;
            sources.push(match op {
                Op::Git(_) => CopySource::Checkout { input },
                _ => CopySource::Download { input },
            });
            inputs.push(self.lowering.graph.add(op, &[], origin.clone()));
        }
        Some((inputs, sources))
    }

    fn mode(&mut self, expanded: &Expanded<'_>, source: &Source) -> Result<Option<Chmod>, ()> {
        let (Some(text), Some(word)) = (&expanded.chmod, &expanded.transfer.chmod) else { return Ok(None) };
        chmod::parse(text).map(Some).map_err(|message| self.error("bad-chmod", message, source, word.span))
    }

    /// Whether there is a checksum that has nothing to check.
    fn refuse_checksum(&mut self, expanded: &Expanded<'_>, command: &Command<'_>) -> bool {
        let Some((_, span)) = &expanded.checksum else { return false };
        let message = match expanded.sources.as_slice() {
            _ if expanded.keyword == Keyword::Copy => "checksum can't be specified for `COPY`",
            [(text, _)] if expanded.heredocs.is_empty() => match remote::classify(text) {
                Ok(SourceKind::Path) => "checksum requires an HTTP(S) or git source",
                _ => return false,
            },
            _ => "checksum can't be specified for multiple sources",
        };
        self.error("bad-checksum", message, &command.source, *span);
        true
    }

    fn download(
        &mut self,
        expanded: &Expanded<'_>,
        url: &str,
        file_name: String,
        span: Span,
        command: &Command<'_>,
    ) -> Option<Op> {
        if expanded.keyword == Keyword::Copy {
            self.error("remote-copy", "source can't be a URL for `COPY`", &command.source, span);
            return None;
        }
        let checksum = match &expanded.checksum {
            None => None,
            Some((text, span)) => match text.parse::<Digest>() {
                Ok(digest) => Some(digest),
                Err(error) => {
                    self.error("bad-checksum", format!("invalid checksum: {error}"), &command.source, *span);
                    return None;
                }
            },
        };
        Some(Op::Http(HttpOp { url: url.to_owned(), checksum, file_name }))
    }

    fn checkout(
        &mut self,
        expanded: &Expanded<'_>,
        mut reference: GitReference,
        span: Span,
        command: &Command<'_>,
    ) -> Option<Op> {
        if expanded.keyword == Keyword::Copy {
            self.error("remote-copy", "source can't be a git ref for `COPY`", &command.source, span);
            return None;
        }
        let flag = expanded.transfer.keep_git_dir;
        if let (Some(flag), Some(query)) = (flag, reference.keep_git_dir)
            && flag != query
        {
            self.error("bad-git-source", "the flag and the URL disagree about keep-git-dir", &command.source, span);
            return None;
        }
        reference.keep_git_dir = reference.keep_git_dir.or(flag);
        if let (Some((flag, _)), Some(query)) = (&expanded.checksum, &reference.checksum)
            && flag != query
        {
            let message = format!("checksum mismatch: the flag says `{flag}`, the URL `{query}`");
            self.error("bad-checksum", message, &command.source, span);
            return None;
        }
        reference.checksum = reference.checksum.or(expanded.checksum.as_ref().map(|(text, _)| text.clone()));
        Some(Op::Git(reference.into_op()))
    }
}

impl Expanded<'_> {
    fn unpack(&self) -> Unpack {
        match (self.keyword, self.transfer.unpack) {
            (Keyword::Copy, _) | (Keyword::Add, Some(false)) => Unpack::Never,
            (Keyword::Add, None) => Unpack::Local,
            (Keyword::Add, Some(true)) => Unpack::Always,
        }
    }

    fn history(&self) -> String {
        let mut text = String::from(if self.keyword == Keyword::Add { "ADD" } else { "COPY" });
        if self.transfer.parents {
            text.push_str(" --parents");
        }
        if let Some((chown, _)) = &self.chown {
            text.push_str(&format!(" --chown={chown}"));
        }
        if let Some(chmod) = &self.chmod {
            text.push_str(&format!(" --chmod={chmod}"));
        }
        for (source, _) in &self.sources {
            text.push_str(&format!(" {source}"));
        }
        for (file, _) in &self.heredocs {
            text.push_str(&format!(" <<{}", file.name));
        }
        text.push_str(&format!(" {} # buildkit", self.destination));
        text
    }
}

/// What a source selects, absolute in its tree. With `--parents` the first `/./` stays: what is left of it is not kept.
fn selection(source: &str, parents: bool) -> String {
    match source.split_once("/./").filter(|_| parents) {
        Some((pivot, kept)) => {
            let pivot = path::clean(pivot);
            let pivot = if pivot == "/" { "" } else { &pivot };
            format!("{pivot}/.{}", path::clean(kept))
        }
        None => path::clean(source),
    }
}

/// Whether a [`selection`] of `--parents` ends in its pivot, or is the root. BuildKit finds nothing there.
fn keeps_nothing(selection: &str) -> bool {
    let kept = selection.split_once("/./").map_or(selection.trim_start_matches('/'), |(_, kept)| kept);
    kept.is_empty() && !selection.contains(['*', '?', '['])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_of_parents_must_have_a_name() {
        for (source, nothing) in [(".", true), ("/", true), ("x/./", true), ("x/./.", true), ("x/.", false), ("x/./y", false)] {
            assert_eq!(keeps_nothing(&selection(source, true)), nothing, "{source}");
        }
    }

    #[test]
    fn selections_are_absolute_and_keep_the_pivot() {
        assert_eq!(selection("a/../b/", false), "/b");
        assert_eq!(selection(".", false), "/");
        assert_eq!(selection("a/./b/../c", true), "/a/./c");
        assert_eq!(selection("/./x", true), "/./x");
        assert_eq!(selection("a/./b", false), "/a/b");
    }
}
