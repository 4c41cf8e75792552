//! Errors of a database's work, and log lines about them that do not repeat.

use std::collections::HashMap;
use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use skytide_sql::conn::ConnectError;

/// Why a loop could not go on with its session.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Trouble {
    #[error("connect")]
    Connect(#[from] ConnectError),
    #[error("the connection was lost")]
    Lost(#[source] Option<Arc<tokio_postgres::Error>>),
    #[error("the server did not answer within {0:?}")]
    Silent(Duration),
    #[error("make a timer")]
    Alarm(#[source] std::io::Error),
    #[error("{what}")]
    Query {
        what: &'static str,
        #[source]
        source: tokio_postgres::Error,
    },
}

impl Trouble {
    /// The server has no database of this name.
    pub fn no_database(&self) -> bool {
        matches!(self, Trouble::Connect(ConnectError::Refused { code: Some(code), .. }) if code == "3D000")
    }

    pub fn query(what: &'static str) -> impl Fn(tokio_postgres::Error) -> Trouble {
        move |source| Trouble::Query { what, source }
    }
}

/// An error with all its causes, in one line. The client's own "db error" says nothing, so what the
/// server said stands for it.
pub(crate) fn in_full(error: &dyn Error) -> String {
    let mut parts: Vec<String> = Vec::new();
    let mut next = Some(error);
    while let Some(error) = next {
        let text = error.to_string();
        if text != "db error" && parts.last() != Some(&text) {
            parts.push(text);
        }
        next = error.source();
    }
    parts.join(": ")
}

/// More different warnings than this are as good as new.
const WARNINGS_KNOWN: usize = 100;

/// A text without the numbers of `name=number`, which differ each time.
fn shape(text: &str) -> String {
    let mut in_number = false;
    let keep = |c: &char| {
        let digit = in_number && c.is_ascii_digit();
        in_number = digit || *c == '=';
        !digit
    };
    text.chars().filter(keep).collect()
}

/// Remembers what is failing, so that the same trouble is told once, then rarely, and its end too.
#[derive(Debug, Default)]
pub(crate) struct Grievances {
    failing: HashMap<String, (String, u32)>,
    /// What the server warned of, and how often.
    warnings: HashMap<String, u32>,
}

impl Grievances {
    /// `work` failed. Told when it is new or different, and at each doubling of its count.
    pub fn failed(&mut self, work: &str, error: String) {
        let (last, times) = self.failing.entry(work.to_owned()).or_default();
        *times = match shape(last) == shape(&error) {
            true => *times + 1,
            false => 1,
        };
        *last = error;
        if times.is_power_of_two() {
            match *times {
                1 => tracing::warn!("{work} failed: {last}"),
                n => tracing::warn!("{work} failed {n} times in a row: {last}"),
            }
        }
    }

    /// Told like a failure, but it ends nothing.
    pub fn warned(&mut self, warning: &str) {
        if self.warnings.len() >= WARNINGS_KNOWN {
            self.warnings.clear();
        }
        let times = self.warnings.entry(shape(warning)).or_default();
        *times += 1;
        match *times {
            1 => tracing::warn!("the server warns: {warning}"),
            n if n.is_power_of_two() => tracing::warn!("the server warned {n} times: {warning}"),
            _ => {}
        }
    }

    pub fn is_failing(&self, work: &str) -> bool {
        self.failing.contains_key(work)
    }

    pub fn worked(&mut self, work: &str) {
        if let Some((_, times)) = self.failing.remove(work) {
            tracing::info!("{work} works again after {times} failures");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_differs_in_numbers_only_is_the_same_trouble() {
        let mut grievances = Grievances::default();
        for txid in [1, 20, 300] {
            grievances.failed("tick", format!("queue \"q1\": old xmin=5000, cur txid={txid}"));
        }
        assert_eq!(grievances.failing["tick"].1, 3);
        grievances.failed("tick", "queue \"q2\": old xmin=5000, cur txid=1".into());
        assert_eq!(grievances.failing["tick"].1, 1, "another queue is news");
    }
}
