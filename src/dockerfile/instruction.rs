//! One instruction: from its words to what it says.

use super::arguments::{Context, Parsed, at_least_one, command, exactly_one, list, not_strings, words_of};
use super::ast::{
    ArgDeclaration, Command, Heredoc, InstructionKind, Pair, Run, RunNetwork, RunSecurity, Transfer, TransferSource,
};
use super::flags::Flags;
use super::healthcheck;
use super::heredoc;
use super::json::{self, JsonForm};
use super::keyword::Keyword;
use super::lines::Text;
use super::mount;
use super::onbuild;
use super::rules;
use super::words::{QuotedWord, Statement, blank_separated, quoted_words};
use crate::diagnostic::{Diagnostic, Span, Spanned, nearest};

/// What the instruction says; `None` when it cannot be understood, with the reasons among the diagnostics.
///
/// `FROM` is not one of these: see [`stage`](super::stage).
pub(super) fn parse(parsed: Parsed<'_>, cx: &mut Context<'_>) -> Option<InstructionKind> {
    let Parsed { keyword, statement, heredocs } = parsed;
    let Statement { name, flags, args, .. } = statement;
    let name = name.span();
    // BuildKit never looks at the flags of these two.
    let flags = if matches!(keyword, Keyword::Arg | Keyword::Stopsignal) { Vec::new() } else { flags };
    if keyword == Keyword::Healthcheck {
        return healthcheck::parse(name, flags, args, cx).map(InstructionKind::Healthcheck);
    }
    let mut flags = Flags::check(flags, keyword, cx.source, cx.diagnostics);
    match keyword {
        Keyword::Add | Keyword::Copy => {
            let transfer = transfer(keyword, name, &mut flags, args, heredocs, cx)?;
            Some(if keyword == Keyword::Add { InstructionKind::Add(transfer) } else { InstructionKind::Copy(transfer) })
        }
        Keyword::Arg => arguments(name, args, cx).map(InstructionKind::Arg),
        Keyword::Cmd => command(args, cx).map(InstructionKind::Cmd),
        Keyword::Entrypoint => command(args, cx).map(InstructionKind::Entrypoint),
        Keyword::Env => pairs(keyword, name, args, cx).map(InstructionKind::Env),
        Keyword::Label => pairs(keyword, name, args, cx).map(InstructionKind::Label),
        Keyword::Expose => expose(name, args, cx).map(InstructionKind::Expose),
        Keyword::Maintainer => {
            let author = exactly_one(keyword, name, args, cx)?;
            let message = "Maintainer instruction is deprecated in favor of using label";
            let warning = Diagnostic::finding(&rules::MAINTAINER_DEPRECATED, message, cx.source, name);
            cx.report(warning.help(format!("LABEL org.opencontainers.image.authors={:?}", author.value)));
            Some(InstructionKind::Maintainer(author.value))
        }
        Keyword::Onbuild => onbuild::parse(name, args, &heredocs, parse, cx).map(InstructionKind::Onbuild),
        Keyword::Run => run(name, &mut flags, args, heredocs, cx).map(InstructionKind::Run),
        Keyword::Shell => shell(name, args, cx).map(InstructionKind::Shell),
        Keyword::Stopsignal => exactly_one(keyword, name, args, cx).map(InstructionKind::Stopsignal),
        Keyword::User => exactly_one(keyword, name, args, cx).map(InstructionKind::User),
        Keyword::Volume => volume(name, args, cx).map(InstructionKind::Volume),
        Keyword::Workdir => exactly_one(keyword, name, args, cx).map(InstructionKind::Workdir),
        Keyword::From | Keyword::Healthcheck => None,
    }
}

/// Whether heredocs are looked for: in RUN, COPY and ADD that are not in JSON form.
pub(super) fn may_have_heredocs(keyword: Keyword, args: Text<'_>) -> bool {
    matches!(keyword, Keyword::Run | Keyword::Copy | Keyword::Add) && !matches!(json::array(args), JsonForm::Array(_))
}

fn run(name: Span, flags: &mut Flags, args: Text<'_>, heredocs: Vec<Heredoc>, cx: &mut Context<'_>) -> Option<Run> {
    let command = command(args, cx)?;
    if command == Command::Exec(Vec::new()) {
        cx.error("missing-argument", "arguments are required: `RUN []` starts nothing", name.join(args.span()));
    }
    let mounts = flags.many("mount");
    for raw in &mounts {
        if let Err(diagnostic) = mount::check(raw, cx.source, cx.escape) {
            cx.report(diagnostic);
        }
    }
    let network = flags.one("network").and_then(|value| {
        let network = match value.value.as_str() {
            "default" => RunNetwork::Default,
            "none" => RunNetwork::None,
            "host" => RunNetwork::Host,
            other => {
                choice("network", format!("invalid network mode `{other}`"), other, &["default", "none", "host"], value.span, cx);
                return None;
            }
        };
        Some(Spanned::new(network, value.span))
    });
    let security = flags.one("security").and_then(|value| {
        let security = match value.value.as_str() {
            "sandbox" => RunSecurity::Sandbox,
            "insecure" => RunSecurity::Insecure,
            other => {
                choice("security", format!("security `{other}` is not valid"), other, &["sandbox", "insecure"], value.span, cx);
                return None;
            }
        };
        Some(Spanned::new(security, value.span))
    });
    Some(Run { command, heredocs, mounts, network, security, devices: flags.many("device"), comments: Vec::new() })
}

/// A value that is none of `choices`.
fn choice(code: &'static str, message: String, value: &str, choices: &[&str], span: Span, cx: &mut Context<'_>) {
    let message = if value.is_empty() { format!("`--{code}` has no value") } else { message };
    let names: Vec<String> = choices.iter().map(|choice| format!("`{choice}`")).collect();
    let help = match nearest(value, choices.iter().copied()) {
        Some(near) => format!("did you mean `{near}`?"),
        None => format!("it is one of {}", names.join(", ")),
    };
    cx.report(Diagnostic::error(code, message, cx.source, span).help(help));
}

fn transfer(
    keyword: Keyword,
    name: Span,
    flags: &mut Flags,
    args: Text<'_>,
    heredocs: Vec<Heredoc>,
    cx: &mut Context<'_>,
) -> Option<Transfer> {
    let mut paths = list(args, cx)?;
    let destination = paths.pop();
    let (Some(destination), false) = (destination, paths.is_empty()) else {
        let message = format!(
            "`{keyword}` requires at least two arguments, but only one was provided; destination could not be determined"
        );
        let has_none = args.is_empty() || args.as_str().trim_matches(['[', ']', ' ']).is_empty();
        let message = if has_none { format!("`{keyword}` requires at least two arguments") } else { message };
        cx.error("missing-argument", message, if args.is_empty() { name } else { name.join(args.span()) });
        return None;
    };
    if let Ok(Some(_)) = heredoc::operator(&destination.value) {
        let diagnostic = Diagnostic::error(
            "heredoc-destination",
            format!("`{keyword}` cannot accept a heredoc as a destination"),
            cx.source,
            destination.span,
        );
        cx.report(diagnostic.help(format!("{keyword} {} /path/in/image", destination.value)));
        return None;
    }
    for path in &paths {
        if let Some(warning) = Flags::overlooked(path, keyword, cx.source) {
            cx.report(warning);
        }
    }
    let sources = paths.into_iter().map(|path| transfer_source(path, &heredocs)).collect();
    Some(Transfer {
        sources,
        destination,
        from: flags.text("from"),
        chown: flags.text("chown"),
        chmod: flags.text("chmod"),
        link: flags.switch("link").unwrap_or(false),
        parents: flags.switch("parents").unwrap_or(false),
        excludes: flags.many("exclude"),
        checksum: flags.text("checksum"),
        keep_git_dir: flags.switch("keep-git-dir"),
        unpack: flags.switch("unpack"),
    })
}

/// A heredoc where the word is an operator; of several with one name, the last body counts.
fn transfer_source(path: Spanned<String>, heredocs: &[Heredoc]) -> TransferSource {
    let Ok(Some(operator)) = heredoc::operator(&path.value) else { return TransferSource::Path(path) };
    let body = heredocs.iter().rev().find(|heredoc| heredoc.name == operator.name);
    TransferSource::Heredoc(Heredoc {
        body: body.map(|heredoc| heredoc.body.clone()).unwrap_or_default(),
        raw_body: body.map(|heredoc| heredoc.raw_body.clone()).unwrap_or_default(),
        name: operator.name,
        expand: operator.expand,
        strip_tabs: operator.strip_tabs,
        descriptor: operator.descriptor,
        span: path.span,
    })
}

fn arguments(name: Span, args: Text<'_>, cx: &mut Context<'_>) -> Option<Vec<ArgDeclaration>> {
    let words = quoted_words(args, cx.escape);
    if words.is_empty() {
        at_least_one(Keyword::Arg, name, cx);
        return None;
    }
    let declarations = words.into_iter().map(|word| declaration(&word, cx)).collect::<Vec<_>>();
    declarations.into_iter().collect()
}

fn declaration(word: &QuotedWord<'_>, cx: &mut Context<'_>) -> Option<ArgDeclaration> {
    let Some((key, value)) = split_pair(word) else {
        return Some(ArgDeclaration {
            name: arg_name(word.spanned(), cx),
            default: None,
            span: word.written.span(),
            description: None,
        });
    };
    if key.value.is_empty() {
        blank_name(Keyword::Arg, word, cx);
        return None;
    }
    Some(ArgDeclaration { name: arg_name(key, cx), default: Some(value), span: word.written.span(), description: None })
}

/// The name of an `ARG`, taken as it is written: neither quotes nor variables mean anything in it.
fn arg_name(key: Spanned<String>, cx: &mut Context<'_>) -> Spanned<String> {
    let quotes = |quote| key.value.matches(quote).count();
    // one that stays open is an error of the value
    if quotes('"') + quotes('\'') > 0 && quotes('"') % 2 == 0 && quotes('\'') % 2 == 0 {
        let message = format!("the quotes are a part of the name `{}`, which no variable can have", key.value);
        let warning = Diagnostic::warning("quoted-name", message, cx.source, key.span);
        cx.report(warning.help("quote the value alone: `ARG name=\"value\"`"));
    }
    key
}

fn blank_name(keyword: Keyword, word: &QuotedWord<'_>, cx: &mut Context<'_>) {
    cx.error("blank-name", format!("`{keyword}` names can not be blank"), word.written.span());
}

/// The word at its first `=`.
fn split_pair(word: &QuotedWord<'_>) -> Option<(Spanned<String>, Spanned<String>)> {
    let (key, value) = word.text.split_once('=')?;
    let written = word.written;
    let key = Spanned::new(key.to_owned(), written.slice(0, key.len()).span());
    let value = Spanned::new(value.to_owned(), written.rest(key.value.len() + 1).span());
    Some((key, value))
}

impl QuotedWord<'_> {
    fn spanned(&self) -> Spanned<String> {
        Spanned::new(self.text.clone(), self.written.span())
    }
}

/// `ENV` and `LABEL`: pairs, or the legacy form when the first word has no `=`.
fn pairs(keyword: Keyword, name: Span, args: Text<'_>, cx: &mut Context<'_>) -> Option<Vec<Pair>> {
    let words = quoted_words(args, cx.escape);
    let Some(first) = words.first() else {
        at_least_one(keyword, name, cx);
        return None;
    };
    if !first.text.contains('=') {
        return legacy_pair(keyword, args, cx).map(|pair| vec![pair]);
    }
    let mut pairs = Vec::new();
    let mut complete = true;
    for word in &words {
        match split_pair(word) {
            Some((key, value)) if !key.value.is_empty() => pairs.push(Pair { key, value, legacy: false }),
            Some(_) => {
                blank_name(keyword, word, cx);
                complete = false;
            }
            None => {
                let message = format!("can't find = in `{}`, must be of the form: name=value", word.text);
                let diagnostic = Diagnostic::error("missing-equals", message, cx.source, word.written.span());
                let help = match args.as_str().contains(['\u{201c}', '\u{201d}', '\u{2018}', '\u{2019}']) {
                    true => "typographic quotes are letters like others: write `\"` or `'`",
                    false => "a value with blanks needs quotes around it",
                };
                cx.report(diagnostic.help(help));
                complete = false;
            }
        }
    }
    complete.then_some(pairs)
}

fn legacy_pair(keyword: Keyword, args: Text<'_>, cx: &mut Context<'_>) -> Option<Pair> {
    let (key, value) = args.split_blank();
    let Some(value) = value else {
        let diagnostic =
            Diagnostic::error("missing-value", format!("`{keyword}` must have two arguments"), cx.source, args.span());
        cx.report(diagnostic.help(format!("{keyword} {}=value", key.as_str())));
        return None;
    };
    Some(Pair { key: key.spanned(), value: value.spanned(), legacy: true })
}

fn expose(name: Span, args: Text<'_>, cx: &mut Context<'_>) -> Option<Vec<Spanned<String>>> {
    let words = words_of(args);
    if words.is_empty() {
        at_least_one(Keyword::Expose, name, cx);
        return None;
    }
    Some(words)
}

fn shell(name: Span, args: Text<'_>, cx: &mut Context<'_>) -> Option<Vec<String>> {
    match json::array(args) {
        JsonForm::Array(strings) if !strings.is_empty() => Some(strings.into_iter().map(|string| string.value).collect()),
        JsonForm::NotStrings(span) => {
            not_strings(span, cx);
            None
        }
        JsonForm::No if !args.is_empty() => {
            let message = "`SHELL` requires the arguments to be in JSON form";
            let words: Vec<String> = blank_separated(args).into_iter().map(|word| format!("{:?}", word.as_str())).collect();
            let help = match args.as_str().starts_with('[') {
                true => "JSON strings need double quotes, and commas between them".to_owned(),
                false => format!("SHELL [{}]", words.join(", ")),
            };
            cx.report(Diagnostic::error("shell-not-json", message, cx.source, args.span()).help(help));
            None
        }
        JsonForm::Array(_) | JsonForm::No => {
            at_least_one(Keyword::Shell, name, cx);
            None
        }
    }
}

fn volume(name: Span, args: Text<'_>, cx: &mut Context<'_>) -> Option<Vec<Spanned<String>>> {
    let mut volumes = list(args, cx)?;
    if volumes.is_empty() {
        at_least_one(Keyword::Volume, name, cx);
        return None;
    }
    for volume in &mut volumes {
        volume.value = volume.value.trim().to_owned();
        if volume.value.is_empty() {
            cx.error("blank-volume", "`VOLUME` specified can not be an empty string", volume.span);
        }
    }
    Some(volumes)
}
