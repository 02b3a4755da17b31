//! The value of `--chmod`.

use crate::graph::Chmod;

/// Reads an octal mode up to 7777 or symbolic clauses (`u=rwX,go=rX`).
///
/// # Errors
/// One line that says what is wrong.
pub(super) fn parse(text: &str) -> Result<Chmod, String> {
    let octal_only = || {
        format!("invalid chmod parameter: `{text}`: it should be an octal number between 0 and 07777, or clauses such as `u+x`")
    };
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        return match u32::from_str_radix(text, 8) {
            Ok(mode) if mode <= 0o7777 => Ok(Chmod::Octal(mode)),
            _ => Err(octal_only()),
        };
    }
    match text.split(',').all(is_clause) {
        true => Ok(Chmod::Symbolic(text.to_owned())),
        false => Err(octal_only()),
    }
}

/// Whom (`[ugoa]*`), then operators (`[+-=]`), each followed by permissions and by letters to copy from.
fn is_clause(clause: &str) -> bool {
    let operations = clause.trim_start_matches(['u', 'g', 'o', 'a']);
    operations.starts_with(['+', '-', '=']) && operations.chars().all(|char| "+-=rwxXstugo".contains(char))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_are_octal_or_symbolic() {
        assert_eq!(parse("755"), Ok(Chmod::Octal(0o755)));
        assert_eq!(parse("07777"), Ok(Chmod::Octal(0o7777)));
        for text in ["+x", "u=rwX,go=rX", "a+x", "+t", "u+r-w", "g=u", "o=", "u=rw,+X", "u=gx", "g=ro+u"] {
            assert_eq!(parse(text), Ok(Chmod::Symbolic(text.to_owned())), "{text}");
        }
    }

    #[test]
    fn other_texts_are_refused() {
        for text in ["", "8", "10000", "77777777777777", "u", "rwx", "u+q", "u+x,", "x=1", "-1"] {
            assert!(parse(text).is_err_and(|message| message.contains("invalid chmod parameter")), "{text}");
        }
    }
}
