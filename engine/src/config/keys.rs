//! Every configuration key, once: loading, `--ini` and `docs/config.md` are made from this table.

mod londiste;
mod promote;
mod ticker;
mod walmgr;

use skytide_sql::nearest::nearest;

use super::unit;
pub use londiste::LONDISTE;
pub use promote::{NODE, PROMOTE};
pub use ticker::TICKER;
pub use walmgr::WALMGR;

/// How a value is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Text,
    /// A libpq connect string; never shown in an error.
    Connect,
    /// A file or directory; `~` is the home directory, empty or `-` means none.
    Path,
    /// Comma-separated.
    List,
    Duration,
    Size,
    Count {
        min: u64,
    },
    Choice(&'static [&'static str]),
}

impl Kind {
    /// The word for it in documentation.
    pub fn name(self) -> String {
        match self {
            Kind::Text => "text".into(),
            Kind::Connect => "connect string".into(),
            Kind::Path => "path".into(),
            Kind::List => "list".into(),
            Kind::Duration => "duration".into(),
            Kind::Size => "size".into(),
            Kind::Count { min: 0 } => "number".into(),
            Kind::Count { min } => format!("number, at least {min}"),
            Kind::Choice(words) => words.join(", "),
        }
    }

    /// Is this a value of the kind? The error says what was expected, and never repeats the value.
    pub fn check(self, value: &str) -> Result<(), String> {
        match self {
            Kind::Text | Kind::Connect | Kind::Path | Kind::List => Ok(()),
            Kind::Duration => unit::duration(value).map(drop),
            Kind::Size => unit::size(value).map(drop),
            Kind::Count { min } => match value.parse::<u64>() {
                Ok(count) if count >= min => Ok(()),
                _ => Err(format!("expected a whole number, at least {min}")),
            },
            Kind::Choice(words) if words.contains(&value) => Ok(()),
            Kind::Choice(words) => Err(format!("expected one of: {}", words.join(", "))),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Preset {
    /// The file must set it.
    Required,
    /// Unset unless the file sets it.
    None,
    /// Written as in a file, so references to other keys work here too.
    Value(&'static str),
    /// Found out when the program runs; the text is for people.
    Derived(&'static str),
}

/// What happens when a file sets the key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    Acts,
    /// Accepted with a warning: an old key that has nothing left to do here, and why.
    Ignored(&'static str),
    /// An error: going on without it would do something else than the file asks for.
    Refused(&'static str),
}

#[derive(Debug)]
pub struct Key {
    pub name: &'static str,
    /// Old names for the same thing.
    pub aliases: &'static [&'static str],
    pub kind: Kind,
    pub preset: Preset,
    pub effect: Effect,
    pub doc: &'static str,
}

/// The keys of one kind of configuration file.
#[derive(Debug)]
pub struct Table {
    /// Section names; the first is ours, the others are read too.
    pub sections: &'static [&'static str],
    pub service: &'static str,
    pub groups: &'static [Group],
}

#[derive(Debug)]
pub struct Group {
    pub title: &'static str,
    pub keys: &'static [Key],
}

impl Table {
    pub fn keys(&self) -> impl Iterator<Item = &'static Key> {
        self.groups.iter().flat_map(|group| group.keys)
    }

    /// The key of this name or old name.
    pub fn find(&self, name: &str) -> Option<&'static Key> {
        self.keys()
            .find(|key| key.name == name || key.aliases.contains(&name))
    }

    /// The known name closest to a mistyped one.
    pub fn nearest(&self, name: &str) -> Option<&'static str> {
        nearest(
            name,
            self.keys()
                .flat_map(|key| std::iter::once(key.name).chain(key.aliases.iter().copied())),
        )
    }
}

const fn key(name: &'static str, kind: Kind, preset: Preset, doc: &'static str) -> Key {
    Key {
        name,
        aliases: &[],
        kind,
        preset,
        effect: Effect::Acts,
        doc,
    }
}

const fn alias(aliases: &'static [&'static str], key: Key) -> Key {
    Key { aliases, ..key }
}

const fn ignored(name: &'static str, reason: &'static str) -> Key {
    Key {
        name,
        aliases: &[],
        kind: Kind::Text,
        preset: Preset::None,
        effect: Effect::Ignored(reason),
        doc: "",
    }
}

const fn refused(name: &'static str, reason: &'static str) -> Key {
    Key {
        name,
        aliases: &[],
        kind: Kind::Text,
        preset: Preset::None,
        effect: Effect::Refused(reason),
        doc: "",
    }
}

use Preset::{Derived, None, Value};

const JOB_NAME: Key = key(
    "job_name",
    Kind::Text,
    Derived("the file's name without its extension"),
    "Name of this process: in logs, metrics and application_name, and its consumer's name on the queue.",
);
const LOGFILE: Key = key(
    "logfile",
    Kind::Path,
    None,
    "Append log lines to this file; SIGHUP opens it anew.",
);
const PIDFILE: Key = key(
    "pidfile",
    Kind::Path,
    None,
    "Hold the process number here. A second process with the same pidfile is refused; -s, -k and -r need it.",
);
const METRICS_LISTEN: Key = key(
    "metrics_listen",
    Kind::Text,
    None,
    "Serve /metrics (Prometheus), /healthz and /readyz on this host:port. Plain HTTP, for a trusted network.",
);
const SHUTDOWN_TIMEOUT: Key = key(
    "shutdown_timeout",
    Kind::Duration,
    Value("30s"),
    "How long a stopping process may finish what it has begun. After that it stops where it is; nothing is lost.",
);
const STATS_PERIOD: Key = key(
    "stats_period",
    Kind::Duration,
    Value("30s"),
    "Time between two lines of figures in the log; 0 for none.",
);

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn names_are_unique_and_presets_fit_their_kind() {
        for table in [&LONDISTE, &TICKER, &WALMGR, &PROMOTE, &NODE] {
            let mut seen = HashSet::new();
            for key in table.keys() {
                for name in std::iter::once(&key.name).chain(key.aliases) {
                    assert!(seen.insert(*name), "{name} twice in [{}]", table.service);
                }
                if let Value(value) = key.preset {
                    key.kind
                        .check(value)
                        .unwrap_or_else(|what| panic!("{}: {what}", key.name));
                }
                assert_eq!(key.doc.is_empty(), key.effect != Effect::Acts, "{}", key.name);
            }
        }
    }

    #[test]
    fn slips_find_their_key() {
        assert_eq!(LONDISTE.nearest("queue_nam"), Some("queue_name"));
        assert_eq!(LONDISTE.nearest("paralel_copies"), Some("parallel_copies"));
        assert_eq!(TICKER.nearest("tick_period"), Some("ticker_period"));
        assert_eq!(TICKER.nearest("colour"), Option::None);
    }
}
