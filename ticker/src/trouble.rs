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

/// Remembers what is failing, so that the same trouble is told once, then rarely, and its end too.
#[derive(Debug, Default)]
pub(crate) struct Grievances {
    failing: HashMap<String, (String, u32)>,
}

impl Grievances {
    /// `work` failed. Told when it is new or different, and at each doubling of its count.
    pub fn failed(&mut self, work: &str, error: String) {
        let (last, times) = self.failing.entry(work.to_owned()).or_default();
        if *last == error {
            *times += 1;
        } else {
            *last = error;
            *times = 1;
        }
        if times.is_power_of_two() {
            match *times {
                1 => tracing::warn!("{work} failed: {last}"),
                n => tracing::warn!("{work} failed {n} times in a row: {last}"),
            }
        }
    }

    pub fn worked(&mut self, work: &str) {
        if let Some((_, times)) = self.failing.remove(work) {
            tracing::info!("{work} works again after {times} failures");
        }
    }
}
