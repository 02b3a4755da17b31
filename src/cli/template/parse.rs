//! Text to nodes.

use serde_json::Value;

use super::{Loop, Node, Operand, Pipeline, TemplateError};

/// How deep actions and parentheses may be in each other: what is read recursively must end somewhere.
const MAX_DEPTH: usize = 100;

pub(super) fn template(text: &str) -> Result<Vec<Node>, TemplateError> {
    let mut pieces = pieces(text)?.into_iter();
    let (nodes, end) = nodes(&mut pieces, 0)?;
    match end {
        Stop::Text => Ok(nodes),
        Stop::End => Err(TemplateError::new("`{{end}}` ends nothing")),
        Stop::Else(_) => Err(TemplateError::new("`{{else}}` is in no `{{if}}`, `{{range}}` or `{{with}}`")),
    }
}

/// Text as it is, or the words of an action.
enum Piece {
    Text(String),
    Action(Vec<Token>),
}

#[derive(Debug, Clone, PartialEq)]
enum Token {
    /// `.`, `.A.B`, `$`, `$x.A`, and what follows `)` directly.
    Path(Option<String>, Vec<String>),
    /// Fields right behind a closing parenthesis.
    Fields(Vec<String>),
    Word(String),
    Literal(Value),
    Pipe,
    Comma,
    Set,
    Open,
    Close,
}

fn pieces(text: &str) -> Result<Vec<Piece>, TemplateError> {
    let mut pieces = Vec::new();
    let mut rest = text;
    let mut trim = false;
    while let Some(start) = rest.find("{{") {
        let (mut before, after) = (&rest[..start], &rest[start + 2..]);
        let (tokens, length) = action(after)?;
        let inside = &after[..length];
        if trim {
            before = before.trim_start();
        }
        if starts_trimming(inside) {
            before = before.trim_end();
        }
        trim = inside.ends_with('-') && inside[..inside.len() - 1].ends_with(char::is_whitespace);
        pieces.push(Piece::Text(before.to_owned()));
        if let Some(tokens) = tokens {
            pieces.push(Piece::Action(tokens));
        }
        rest = &after[length + 2..];
    }
    pieces.push(Piece::Text(if trim { rest.trim_start() } else { rest }.to_owned()));
    Ok(pieces)
}

fn starts_trimming(inside: &str) -> bool {
    inside.strip_prefix('-').is_some_and(|rest| rest.starts_with(char::is_whitespace))
}

/// The words up to `}}`, `None` for a comment, and where that is.
fn action(text: &str) -> Result<(Option<Vec<Token>>, usize), TemplateError> {
    let open = || TemplateError::new("`{{` is not closed");
    let mut at = if starts_trimming(text) { 1 } else { 0 };
    let lead = text[at..].len() - text[at..].trim_start().len();
    if text[at + lead..].starts_with("/*") {
        let end = text.find("*/").ok_or_else(open)?;
        let close = text[end..].find("}}").ok_or_else(open)?;
        return Ok((None, end + close));
    }
    let mut tokens = Vec::new();
    loop {
        let rest = &text[at..];
        let Some(first) = rest.chars().next() else { return Err(open()) };
        if rest.starts_with("}}") {
            return Ok((Some(tokens), at));
        }
        if first == '-' && rest[1..].starts_with("}}") && text[..at].ends_with(char::is_whitespace) {
            return Ok((Some(tokens), at + 1));
        }
        let (token, length) = match first {
            space if space.is_whitespace() => (None, space.len_utf8()),
            '|' => (Some(Token::Pipe), 1),
            ',' => (Some(Token::Comma), 1),
            '(' => (Some(Token::Open), 1),
            ')' => (Some(Token::Close), 1),
            ':' if rest.starts_with(":=") => (Some(Token::Set), 2),
            '"' => quoted(rest).map(|(text, length)| (Some(Token::Literal(Value::String(text))), length)).ok_or_else(open)?,
            '`' => {
                let end = rest[1..].find('`').ok_or_else(open)?;
                (Some(Token::Literal(Value::String(rest[1..=end].to_owned()))), end + 2)
            }
            '.' => {
                let (fields, length) = fields(rest);
                let token = if text[..at].ends_with(')') { Token::Fields(fields) } else { Token::Path(None, fields) };
                (Some(token), length)
            }
            '$' => {
                let name = word(&rest[1..]);
                let (fields, length) = fields(&rest[1 + name.len()..]);
                (Some(Token::Path(Some(name.to_owned()), fields)), 1 + name.len() + length)
            }
            '-' | '+' | '0'..='9' => number(rest).ok_or_else(|| meaningless(first))?,
            _ => match word(rest) {
                "" => return Err(meaningless(first)),
                "true" => (Some(Token::Literal(Value::Bool(true))), 4),
                "false" => (Some(Token::Literal(Value::Bool(false))), 5),
                "nil" => (Some(Token::Literal(Value::Null)), 3),
                word => (Some(Token::Word(word.to_owned())), word.len()),
            },
        };
        tokens.extend(token);
        at += length;
    }
}

fn meaningless(found: char) -> TemplateError {
    TemplateError::new(format!("`{found}` means nothing here"))
}

/// The letters, digits and `_` that `text` begins with.
fn word(text: &str) -> &str {
    let end = text.find(|found: char| !found.is_alphanumeric() && found != '_').unwrap_or(text.len());
    &text[..end]
}

/// `.A.B`: the names, and the length; a lone dot has none.
fn fields(text: &str) -> (Vec<String>, usize) {
    let mut fields = Vec::new();
    let mut length = 0;
    while let Some(rest) = text[length..].strip_prefix('.') {
        let name = word(rest);
        length += 1 + name.len();
        if name.is_empty() {
            break;
        }
        fields.push(name.to_owned());
    }
    (fields, length)
}

fn number(text: &str) -> Option<(Option<Token>, usize)> {
    let end = text[1..].find(|found: char| !found.is_ascii_digit()).map_or(text.len(), |end| end + 1);
    let number: i64 = text[..end].parse().ok()?;
    Some((Some(Token::Literal(number.into())), end))
}

/// A string in double quotes with Go's escapes that matter here.
fn quoted(text: &str) -> Option<(String, usize)> {
    let mut value = String::new();
    let mut characters = text.char_indices().skip(1);
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return Some((value, at + 1)),
            '\\' => value.push(match characters.next()?.1 {
                'n' => '\n',
                't' => '\t',
                'r' => '\r',
                other => other,
            }),
            other => value.push(other),
        }
    }
    None
}

/// What ended a list of nodes.
enum Stop {
    /// The end of the text.
    Text,
    /// `end`.
    End,
    /// What follows `else`.
    Else(Vec<Token>),
}

fn nodes(pieces: &mut impl Iterator<Item = Piece>, depth: usize) -> Result<(Vec<Node>, Stop), TemplateError> {
    if depth > MAX_DEPTH {
        return Err(too_deep());
    }
    let mut found = Vec::new();
    while let Some(piece) = pieces.next() {
        let tokens = match piece {
            Piece::Text(text) => {
                found.extend((!text.is_empty()).then_some(Node::Text(text)));
                continue;
            }
            Piece::Action(tokens) => tokens,
        };
        let (head, rest) = match tokens.split_first() {
            Some((Token::Word(word), rest)) => (word.as_str(), rest),
            _ => ("", tokens.as_slice()),
        };
        let node = match head {
            "end" => return Ok((found, Stop::End)),
            "else" => return Ok((found, Stop::Else(rest.to_vec()))),
            "if" => branches(rest.to_vec(), pieces, depth)?,
            "with" => {
                let value = pipeline(rest)?;
                let (body, otherwise) = bodies(pieces, depth)?;
                Node::With(value, body, otherwise)
            }
            "range" => {
                let (names, over) = declaration(rest)?;
                let (body, otherwise) = bodies(pieces, depth)?;
                let mut names = names.into_iter().rev();
                let (value, key) = (names.next(), names.next());
                Node::Range(Loop { key, value, over, body, otherwise })
            }
            _ => {
                let (mut names, value) = declaration(&tokens)?;
                match names.pop() {
                    Some(name) => Node::Set(name, value),
                    None => Node::Print(value),
                }
            }
        };
        found.push(node);
    }
    Ok((found, Stop::Text))
}

fn branches(first: Vec<Token>, pieces: &mut impl Iterator<Item = Piece>, depth: usize) -> Result<Node, TemplateError> {
    let mut branches = Vec::new();
    let mut condition = first;
    loop {
        let value = pipeline(&condition)?;
        let (body, end) = nodes(pieces, depth + 1)?;
        branches.push((value, body));
        match end {
            Stop::End => return Ok(Node::If(branches, Vec::new())),
            Stop::Text => return Err(unended()),
            Stop::Else(tokens) => match tokens.split_first() {
                None => return Ok(Node::If(branches, last_body(pieces, depth)?)),
                Some((Token::Word(word), rest)) if word == "if" => condition = rest.to_vec(),
                Some(_) => return Err(TemplateError::new("after `else` only `if` may follow")),
            },
        }
    }
}

/// The body, and that of `else`.
fn bodies(pieces: &mut impl Iterator<Item = Piece>, depth: usize) -> Result<(Vec<Node>, Vec<Node>), TemplateError> {
    let (body, end) = nodes(pieces, depth + 1)?;
    match end {
        Stop::End => Ok((body, Vec::new())),
        Stop::Text => Err(unended()),
        Stop::Else(_) => Ok((body, last_body(pieces, depth)?)),
    }
}

fn last_body(pieces: &mut impl Iterator<Item = Piece>, depth: usize) -> Result<Vec<Node>, TemplateError> {
    match nodes(pieces, depth + 1)? {
        (body, Stop::End) => Ok(body),
        _ => Err(unended()),
    }
}

fn unended() -> TemplateError {
    TemplateError::new("`{{if}}`, `{{range}}` or `{{with}}` is not ended by `{{end}}`")
}

fn too_deep() -> TemplateError {
    TemplateError::new("nested too deeply")
}

/// `$a, $b := pipeline`: the names, at most two.
fn declaration(tokens: &[Token]) -> Result<(Vec<String>, Pipeline), TemplateError> {
    match tokens {
        [Token::Path(Some(name), fields), Token::Set, rest @ ..] if fields.is_empty() => {
            Ok((vec![name.clone()], pipeline(rest)?))
        }
        [Token::Path(Some(key), none), Token::Comma, Token::Path(Some(value), nothing), Token::Set, rest @ ..]
            if none.is_empty() && nothing.is_empty() =>
        {
            Ok((vec![key.clone(), value.clone()], pipeline(rest)?))
        }
        tokens => Ok((Vec::new(), pipeline(tokens)?)),
    }
}

fn pipeline(tokens: &[Token]) -> Result<Pipeline, TemplateError> {
    let mut tokens = tokens.iter();
    let (pipeline, closed) = commands(&mut tokens, 0)?;
    if closed { Err(TemplateError::new("`)` closes nothing")) } else { Ok(pipeline) }
}

/// Commands up to the end or a closing parenthesis, and whether that was there.
fn commands(tokens: &mut std::slice::Iter<'_, Token>, depth: usize) -> Result<(Pipeline, bool), TemplateError> {
    if depth > MAX_DEPTH {
        return Err(too_deep());
    }
    let mut pipeline = vec![Vec::new()];
    let mut closed = false;
    while let Some(token) = tokens.next() {
        let command = pipeline.last_mut().expect("there is always one");
        match token {
            Token::Path(variable, fields) => command.push(Operand::Path(variable.clone(), fields.clone())),
            Token::Word(name) => command.push(Operand::Function(name.clone())),
            Token::Literal(value) => command.push(Operand::Literal(value.clone())),
            Token::Open => {
                let (inner, inner_closed) = commands(tokens, depth + 1)?;
                if !inner_closed {
                    return Err(TemplateError::new("`(` is not closed"));
                }
                command.push(Operand::Nested(inner, Vec::new()));
            }
            Token::Fields(more) => match command.last_mut() {
                Some(Operand::Nested(_, fields)) => fields.extend(more.iter().cloned()),
                _ => return Err(meaningless('.')),
            },
            Token::Pipe => pipeline.push(Vec::new()),
            Token::Close => {
                closed = true;
                break;
            }
            Token::Comma => return Err(meaningless(',')),
            Token::Set => return Err(TemplateError::new("`:=` means nothing here")),
        }
    }
    if pipeline.iter().any(Vec::is_empty) {
        return Err(TemplateError::new("an action without anything in it"));
    }
    Ok((pipeline, closed))
}
