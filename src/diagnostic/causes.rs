//! The errors behind an error, in words for people.

use std::error::Error;

/// What is behind `error`, outermost cause first, each text once: one that the text before it holds already adds nothing.
pub fn causes(error: &dyn Error) -> Vec<String> {
    let mut said = error.to_string();
    let mut causes = Vec::new();
    let mut source = error.source();
    while let Some(error) = source {
        let text = without_number(error.to_string());
        if !said.contains(&text) {
            causes.push(text.clone());
            said = text;
        }
        source = error.source();
    }
    causes
}

/// The error and its causes on one line, joined by colons.
pub fn with_causes(error: &dyn Error) -> String {
    let parts: Vec<String> = std::iter::once(without_number(error.to_string())).chain(causes(error)).collect();
    parts.join(": ")
}

/// The standard library writes `No such file or directory (os error 2)`; the number tells people nothing, and so does the
/// capital in the middle of a line.
fn without_number(text: String) -> String {
    let Some((words, number)) = text.split_once(" (os error ") else { return text };
    let is_number = number.strip_suffix(')').is_some_and(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()));
    let mut chars = words.chars();
    match chars.next() {
        Some(first) if is_number => first.to_lowercase().chain(chars).collect(),
        _ => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io;

    #[derive(Debug, thiserror::Error)]
    #[error("cannot open `x`")]
    struct Opening(#[source] io::Error);

    #[derive(Debug, thiserror::Error)]
    #[error("{0}")]
    struct Repeating(#[source] Opening);

    #[test]
    fn everything_is_said_once() {
        let error = Repeating(Opening(io::Error::from_raw_os_error(2)));
        assert_eq!(causes(&error), ["no such file or directory"]);
        assert_eq!(with_causes(&error), "cannot open `x`: no such file or directory");
    }

    #[test]
    fn other_parentheses_stay() {
        assert_eq!(without_number("Odd (os error x)".to_owned()), "Odd (os error x)");
        assert_eq!(without_number("Odd (really)".to_owned()), "Odd (really)");
    }
}
