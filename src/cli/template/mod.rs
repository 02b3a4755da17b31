//! `--format`: texts with values in them, in the part of Go's template language that people write for Docker.
//!
//! Known are fields (`.Config.Env`), `$` and variables, `if`, `else if`, `else`, `range`, `with`, pipelines, parentheses, trim
//! marks (`{{-`), and the functions of [`eval`]. Values are JSON; a missing one reads `<no value>`.
//! Source of the language: Go, `text/template`; of the functions: docker/cli, `docs/` "Format command and log output".

use std::fmt;

use serde_json::Value;

mod eval;
mod parse;

/// A template that was read.
#[derive(Debug, Clone, PartialEq)]
pub struct Template {
    nodes: Vec<Node>,
}

/// Why a text is no template, or cannot be filled in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TemplateError {
    /// What is wrong.
    pub reason: String,
}

impl TemplateError {
    fn new(reason: impl Into<String>) -> TemplateError {
        TemplateError { reason: reason.into() }
    }
}

impl fmt::Display for TemplateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reason)
    }
}

impl std::error::Error for TemplateError {}

impl Template {
    /// Reads a template.
    ///
    /// # Errors
    /// An action that is not closed, or not in the language.
    pub fn parse(text: &str) -> Result<Template, TemplateError> {
        Ok(Template { nodes: parse::template(text)? })
    }

    /// The text for `value`, which is `.` and `$`.
    ///
    /// # Errors
    /// A function with the wrong arguments.
    pub fn fill(&self, value: &Value) -> Result<String, TemplateError> {
        eval::fill(&self.nodes, value)
    }
}

/// A value as Go's encoder writes it: what a web page would read out of texts is escaped.
pub fn json_text(value: &Value) -> String {
    eval::json(value)
}

/// A part of a template.
#[derive(Debug, Clone, PartialEq)]
enum Node {
    Text(String),
    Print(Pipeline),
    /// `{{$name := pipeline}}`.
    Set(String, Pipeline),
    /// Branches of `if` in order; the last one is `else`.
    If(Vec<(Pipeline, Vec<Node>)>, Vec<Node>),
    With(Pipeline, Vec<Node>, Vec<Node>),
    Range(Loop),
}

/// `range`.
#[derive(Debug, Clone, PartialEq)]
struct Loop {
    /// `$key, $value :=`, as far as they are named.
    key: Option<String>,
    value: Option<String>,
    over: Pipeline,
    body: Vec<Node>,
    otherwise: Vec<Node>,
}

/// Commands, each given the result of the one before as its last argument.
type Pipeline = Vec<Vec<Operand>>;

/// A word of a command.
#[derive(Debug, Clone, PartialEq)]
enum Operand {
    /// A variable (`None` is the dot) and fields of it.
    Path(Option<String>, Vec<String>),
    /// A name of a function.
    Function(String),
    Literal(Value),
    Nested(Pipeline, Vec<String>),
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[track_caller]
    fn check(template: &str, expected: &str) {
        let value = json!({
            "Id": "sha256:0123456789abcdef",
            "Size": 1234,
            "Config": {"Env": ["A=1", "B=2"], "Labels": {"a.b": "c", "z": "<&>"}, "Cmd": [], "User": ""},
        });
        let filled = Template::parse(template).and_then(|template| template.fill(&value));
        assert_eq!(filled.map_err(|error| error.reason), Ok(expected.to_owned()), "{template}");
    }

    #[track_caller]
    fn refused(template: &str, reason: &str) {
        let filled = Template::parse(template).and_then(|template| template.fill(&json!({"Size": 1})));
        assert_eq!(filled.map_err(|error| error.reason), Err(reason.to_owned()), "{template}");
    }

    #[test]
    fn values_read_as_in_go() {
        check("{{.Id}} {{.Size}}", "sha256:0123456789abcdef 1234");
        check(
            "{{.Config.Env}} {{.Config.Labels}} {{.Config.Cmd}} {{.Nothing.At.All}}",
            "[A=1 B=2] map[a.b:c z:<&>] [] <no value>",
        );
        check("{{json .Config.Env}} {{json .Config.Labels}}", r#"["A=1","B=2"] {"a.b":"c","z":"\u003c\u0026\u003e"}"#);
    }

    #[test]
    fn control_flow() {
        check("{{range .Config.Env}}{{println .}}{{end}}", "A=1\nB=2\n");
        check("{{range $i, $e := .Config.Env}}{{$i}}={{$e}};{{end}}", "0=A=1;1=B=2;");
        check("{{range $k, $v := .Config.Labels}}{{$k}}:{{$v}},{{$.Size}} {{end}}", "a.b:c,1234 z:<&>,1234 ");
        check("{{range .Config.Cmd}}x{{else}}none{{end}}", "none");
        check("{{if .Config.User}}{{.Config.User}}{{else if .Size}}root{{else}}?{{end}}", "root");
        check("{{with .Config}}{{len .Env}}{{end}}{{with .None}}x{{else}}y{{end}}", "2y");
        check("a {{- /* nothing */ -}} b {{ $x := .Size }}{{ $x }}", "ab 1234");
    }

    #[test]
    fn functions_and_pipelines() {
        check(r#"{{index .Config.Labels "a.b"}} {{index .Config.Env 1}} {{index .Config.Labels "no"}}"#, "c B=2 <no value>");
        check(
            r#"{{join .Config.Env ","}} {{.Id | upper}} {{(index .Config.Env 0) | lower}}"#,
            "A=1,B=2 SHA256:0123456789ABCDEF a=1",
        );
        check(r#"{{printf "%s=%d %q %v%%" .Id .Size "x" .Config.Env}}"#, r#"sha256:0123456789abcdef=1234 "x" [A=1 B=2]%"#);
        check(r#"{{if and (eq .Size 1234) (not .Config.User)}}yes{{end}} {{truncate .Id 6}}"#, "yes sha256");
        check("{{split .Id \":\" | json}} {{len .Config.Labels}}", r#"["sha256","0123456789abcdef"] 2"#);
        check(r#"{{or .Config.User "root"}} {{gt .Size 1000}} {{slice .Id 7 9}}"#, "root true 01");
    }

    #[test]
    fn mistakes_are_told() {
        refused("{{.Size", "`{{` is not closed");
        refused("{{if .Size}}", "`{{if}}`, `{{range}}` or `{{with}}` is not ended by `{{end}}`");
        refused("{{end}}", "`{{end}}` ends nothing");
        refused("{{jsn .}}", "there is no function `jsn`; did you mean `json`?");
        refused("{{len}}", "`len` takes 1 argument, got 0");
        refused("{{len .Size}}", "`len` takes no number");
        refused("{{}}", "an action without anything in it");
        refused("{{\"x}}", "`{{` is not closed");
        refused("{{. ! }}", "`!` means nothing here");
        refused("{{$x}}", "there is no variable `$x`");
    }

    #[test]
    fn nesting_ends_somewhere() {
        refused(&format!("{{{{{}1{}}}}}", "(".repeat(200), ")".repeat(200)), "nested too deeply");
        refused(&"{{if 1}}".repeat(200), "nested too deeply");
    }
}
