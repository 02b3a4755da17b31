//! Nodes and a value to text.

use std::cmp::Ordering;

use serde_json::Value;

use super::{Loop, Node, Operand, Pipeline, TemplateError};
use crate::diagnostic::nearest;

pub(super) fn fill(nodes: &[Node], value: &Value) -> Result<String, TemplateError> {
    let mut scope = Scope { variables: vec![(String::new(), value.clone())], text: String::new() };
    scope.run(nodes, value)?;
    Ok(scope.text)
}

/// Names with their values, innermost last (the nameless one is `$`), and what was written.
struct Scope {
    variables: Vec<(String, Value)>,
    text: String,
}

impl Scope {
    fn run(&mut self, nodes: &[Node], dot: &Value) -> Result<(), TemplateError> {
        let outer = self.variables.len();
        for node in nodes {
            match node {
                Node::Text(text) => self.text.push_str(text),
                Node::Print(pipeline) => {
                    let value = self.pipeline(pipeline, dot)?;
                    self.text.push_str(&printed(&value));
                }
                Node::Set(name, pipeline) => {
                    let value = self.pipeline(pipeline, dot)?;
                    self.variables.push((name.clone(), value));
                }
                Node::If(branches, otherwise) => {
                    let mut taken = otherwise;
                    for (condition, body) in branches {
                        if is_true(&self.pipeline(condition, dot)?) {
                            taken = body;
                            break;
                        }
                    }
                    self.run(taken, dot)?;
                }
                Node::With(pipeline, body, otherwise) => {
                    let value = self.pipeline(pipeline, dot)?;
                    if is_true(&value) { self.run(body, &value)? } else { self.run(otherwise, dot)? }
                }
                Node::Range(range) => self.range(range, dot)?,
            }
        }
        self.variables.truncate(outer);
        Ok(())
    }

    fn range(&mut self, range: &Loop, dot: &Value) -> Result<(), TemplateError> {
        let items: Vec<(Value, Value)> = match self.pipeline(&range.over, dot)? {
            Value::Array(items) => items.into_iter().enumerate().map(|(number, item)| (number.into(), item)).collect(),
            Value::Object(members) => members.into_iter().map(|(key, value)| (key.into(), value)).collect(),
            Value::Null => Vec::new(),
            other => return Err(TemplateError::new(format!("`range` takes no {}", kind(&other)))),
        };
        if items.is_empty() {
            return self.run(&range.otherwise, dot);
        }
        let outer = self.variables.len();
        for (key, item) in items {
            self.variables.extend(range.key.iter().map(|name| (name.clone(), key.clone())));
            self.variables.extend(range.value.iter().map(|name| (name.clone(), item.clone())));
            self.run(&range.body, &item)?;
            self.variables.truncate(outer);
        }
        Ok(())
    }

    fn pipeline(&self, pipeline: &Pipeline, dot: &Value) -> Result<Value, TemplateError> {
        let mut piped = None;
        for command in pipeline {
            piped = Some(self.command(command, piped, dot)?);
        }
        Ok(piped.unwrap_or_default())
    }

    fn command(&self, command: &[Operand], piped: Option<Value>, dot: &Value) -> Result<Value, TemplateError> {
        let (head, rest) = command.split_first().ok_or_else(|| TemplateError::new("an action without anything in it"))?;
        if let Operand::Function(name) = head {
            let mut arguments = rest.iter().map(|operand| self.operand(operand, dot)).collect::<Result<Vec<_>, _>>()?;
            arguments.extend(piped);
            return call(name, &arguments);
        }
        if !rest.is_empty() || piped.is_some() {
            return Err(TemplateError::new("a value that is no function takes no arguments"));
        }
        self.operand(head, dot)
    }

    fn operand(&self, operand: &Operand, dot: &Value) -> Result<Value, TemplateError> {
        match operand {
            Operand::Literal(value) => Ok(value.clone()),
            Operand::Function(name) => call(name, &[]),
            Operand::Path(None, fields) => Ok(member(dot, fields)),
            Operand::Path(Some(name), fields) => {
                let variable = self.variables.iter().rev().find(|(known, _)| known == name);
                let (_, value) = variable.ok_or_else(|| TemplateError::new(format!("there is no variable `${name}`")))?;
                Ok(member(value, fields))
            }
            Operand::Nested(pipeline, fields) => Ok(member(&self.pipeline(pipeline, dot)?, fields)),
        }
    }
}

fn member(value: &Value, fields: &[String]) -> Value {
    fields.iter().try_fold(value, |value, field| value.get(field)).cloned().unwrap_or_default()
}

const FUNCTIONS: [&str; 22] = [
    "and", "eq", "ge", "gt", "index", "join", "json", "le", "len", "lower", "lt", "ne", "not", "or", "print", "printf",
    "println", "slice", "split", "title", "truncate", "upper",
];

fn call(name: &str, arguments: &[Value]) -> Result<Value, TemplateError> {
    let takes = |count: usize| {
        if arguments.len() == count {
            return Ok(());
        }
        let plural = if count == 1 { "" } else { "s" };
        Err(TemplateError::new(format!("`{name}` takes {count} argument{plural}, got {}", arguments.len())))
    };
    let wrong = |value: &Value| TemplateError::new(format!("`{name}` takes no {}", kind(value)));
    let text = |value: &Value| value.as_str().map(str::to_owned).ok_or_else(|| wrong(value));
    let count = |value: &Value| value.as_u64().and_then(|count| usize::try_from(count).ok()).ok_or_else(|| wrong(value));
    let at_least_one = || if arguments.is_empty() { takes(1) } else { Ok(()) };
    Ok(match name {
        "json" => {
            takes(1)?;
            Value::String(json(&arguments[0]))
        }
        "len" => {
            takes(1)?;
            match &arguments[0] {
                Value::String(text) => text.len().into(),
                Value::Array(items) => items.len().into(),
                Value::Object(members) => members.len().into(),
                Value::Null => 0.into(),
                other => return Err(wrong(other)),
            }
        }
        "index" => {
            at_least_one()?;
            let mut value = &arguments[0];
            for key in &arguments[1..] {
                value = match key {
                    Value::String(key) => value.get(key.as_str()).unwrap_or(&Value::Null),
                    key => {
                        let number = count(key)?;
                        value.get(number).ok_or_else(|| TemplateError::new(format!("there is no item {number}")))?
                    }
                };
            }
            value.clone()
        }
        "join" => {
            takes(2)?;
            let items = arguments[0].as_array().ok_or_else(|| wrong(&arguments[0]))?;
            items.iter().map(printed).collect::<Vec<_>>().join(&text(&arguments[1])?).into()
        }
        "split" => {
            takes(2)?;
            let separator = text(&arguments[1])?;
            text(&arguments[0])?.split(separator.as_str()).collect::<Vec<_>>().into()
        }
        "lower" | "upper" | "title" => {
            takes(1)?;
            let text = text(&arguments[0])?;
            match name {
                "lower" => text.to_lowercase(),
                "upper" => text.to_uppercase(),
                _ => titled(&text),
            }
            .into()
        }
        "truncate" => {
            takes(2)?;
            text(&arguments[0])?.chars().take(count(&arguments[1])?).collect::<String>().into()
        }
        "slice" => {
            at_least_one()?;
            let text = text(&arguments[0])?;
            let from = arguments.get(1).map_or(Ok(0), count)?;
            let to = arguments.get(2).map_or(Ok(text.len()), count)?;
            text.get(from..to).ok_or_else(|| TemplateError::new(format!("there are no bytes {from} to {to}")))?.into()
        }
        "print" => arguments.iter().map(printed).collect::<Vec<_>>().concat().into(),
        "println" => (arguments.iter().map(printed).collect::<Vec<_>>().join(" ") + "\n").into(),
        "printf" => {
            at_least_one()?;
            formatted(&text(&arguments[0])?, &arguments[1..])?.into()
        }
        "not" => {
            takes(1)?;
            (!is_true(&arguments[0])).into()
        }
        "and" | "or" => {
            at_least_one()?;
            let decides = |value: &&Value| is_true(value) == (name == "or");
            arguments.iter().find(decides).or(arguments.last()).cloned().unwrap_or_default()
        }
        // one of several is enough
        "eq" if arguments.len() > 2 => arguments[1..].contains(&arguments[0]).into(),
        "eq" | "ne" | "lt" | "le" | "gt" | "ge" => {
            takes(2)?;
            compared(name, &arguments[0], &arguments[1]).ok_or_else(|| wrong(&arguments[1]))?.into()
        }
        _ => {
            let hint = nearest(name, FUNCTIONS).map(|meant| format!("; did you mean `{meant}`?")).unwrap_or_default();
            return Err(TemplateError::new(format!("there is no function `{name}`{hint}")));
        }
    })
}

fn compared(name: &str, left: &Value, right: &Value) -> Option<bool> {
    let order = match (left, right) {
        (Value::String(left), Value::String(right)) => left.cmp(right),
        (Value::Number(left), Value::Number(right)) => left.as_f64()?.partial_cmp(&right.as_f64()?)?,
        _ if name == "eq" => return Some(left == right),
        _ if name == "ne" => return Some(left != right),
        _ => return None,
    };
    Some(match name {
        "eq" => order == Ordering::Equal,
        "ne" => order != Ordering::Equal,
        "lt" => order == Ordering::Less,
        "le" => order != Ordering::Greater,
        "gt" => order == Ordering::Greater,
        _ => order != Ordering::Less,
    })
}

/// As Go's encoder writes it, which keeps what a web page would read out of texts.
pub(super) fn json(value: &Value) -> String {
    value.to_string().replace('&', "\\u0026").replace('<', "\\u003c").replace('>', "\\u003e")
}

fn formatted(format: &str, arguments: &[Value]) -> Result<String, TemplateError> {
    let mut text = String::new();
    let mut arguments = arguments.iter();
    let mut characters = format.chars();
    while let Some(character) = characters.next() {
        if character != '%' {
            text.push(character);
            continue;
        }
        let verb = characters.next().unwrap_or(' ');
        if verb == '%' {
            text.push('%');
            continue;
        }
        let value = arguments.next().ok_or_else(|| TemplateError::new(format!("`printf` has nothing for `%{verb}`")))?;
        match verb {
            's' | 'v' | 'd' => text.push_str(&printed(value)),
            'q' => text.push_str(&Value::String(printed(value)).to_string()),
            _ => return Err(TemplateError::new(format!("`printf` knows no `%{verb}`; it knows `%s`, `%v`, `%d`, `%q`"))),
        }
    }
    Ok(text)
}

fn titled(text: &str) -> String {
    let mut first = true;
    let letter = |character: char| {
        let starts = std::mem::replace(&mut first, character.is_whitespace());
        if starts { character.to_uppercase().collect::<String>() } else { character.to_string() }
    };
    text.chars().map(letter).collect()
}

fn is_true(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(value) => *value,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => !text.is_empty(),
        Value::Array(items) => !items.is_empty(),
        Value::Object(members) => !members.is_empty(),
    }
}

/// As Go prints it.
fn printed(value: &Value) -> String {
    match value {
        Value::Null => "<no value>".to_owned(),
        Value::String(text) => text.clone(),
        Value::Array(items) => format!("[{}]", items.iter().map(printed).collect::<Vec<_>>().join(" ")),
        Value::Object(members) => {
            let members: Vec<String> = members.iter().map(|(key, value)| format!("{key}:{}", printed(value))).collect();
            format!("map[{}]", members.join(" "))
        }
        other => other.to_string(),
    }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "missing value",
        Value::Bool(_) => "truth value",
        Value::Number(_) => "number",
        Value::String(_) => "text",
        Value::Array(_) => "list",
        Value::Object(_) => "map",
    }
}
