//! Commands we tell people to run.

/// `text` as one word of a POSIX shell: in single quotes, or in double ones where it has single quotes itself.
pub fn quote(text: impl std::fmt::Display) -> String {
    let text = text.to_string();
    if !text.contains('\'') {
        return format!("'{text}'");
    }
    let mut quoted = String::from("\"");
    for c in text.chars() {
        if matches!(c, '"' | '\\' | '$' | '`') {
            quoted.push('\\');
        }
        quoted.push(c);
    }
    quoted.push('"');
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_quoted_stays_one_word() {
        assert_eq!(quote("host=a dbname=b"), "'host=a dbname=b'");
        assert_eq!(quote("host='/tmp' x=\"$1\""), "\"host='/tmp' x=\\\"\\$1\\\"\"");
    }
}
