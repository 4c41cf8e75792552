//! Errors in one line.

use std::error::Error;

/// An error with its causes, for a log line. Some errors repeat their causes' words: nothing is said twice.
pub fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let words = cause.to_string();
        if !text.contains(&words) {
            text.push_str(": ");
            text.push_str(&words);
        }
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("{text}")]
    struct Level {
        text: &'static str,
        source: Option<Box<Level>>,
    }

    fn level(text: &'static str, source: Option<Level>) -> Level {
        Level {
            text,
            source: source.map(Box::new),
        }
    }

    #[test]
    fn nothing_is_said_twice() {
        let dns = level("no such name", None);
        let request = level("error sending request", Some(dns));
        let http = level("HTTP error: error sending request", Some(request));
        let error = level("the store cannot be reached", Some(http));
        assert_eq!(
            chain(&error),
            "the store cannot be reached: HTTP error: error sending request: no such name"
        );
    }
}
