//! Base backups in a store, and clusters made of them.
//!
//! A backup's files are one stream of bytes, cut into frames that are compressed alone and bundled into objects
//! ([`content`]); its [`manifest`] says which bytes of the stream, or of an older backup's, each file has. A backup
//! exists from the moment its manifest is put, which is the last thing that happens. Every byte is described in
//! `docs/format/store.md`.

pub mod abandon;
pub mod base;
pub mod changes;
mod claim;
pub mod content;
mod error;
mod files;
mod incremental;
pub mod local;
pub mod manifest;
pub mod needed;
pub mod page;
pub mod plan;
pub mod recovery;
pub mod restore;
pub mod retention;
mod server_manifest;
mod stores;
pub mod tar;
pub mod verify;
pub mod wal;

use std::fmt;
use std::str::FromStr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

pub use error::BackupError;
pub use manifest::{Backup, Summary};
pub use needed::Needed;
pub use stores::{Chain, Stores, list, read_manifest};

use crate::store::{ObjectName, Prefix};

/// A backup's name: the UTC second it was begun, and `F` for a full, `I` for an incremental one
/// (`20261125T184500F`). Labels sort by time, as the clock of the host had it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Label(String);

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a backup's label: they look like 20261125T184500F")]
pub struct LabelError(String);

#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    Full,
    Incremental,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Kind::Full => "full",
            Kind::Incremental => "incremental",
        })
    }
}

impl Label {
    /// `None` for a moment that no label can hold.
    pub fn new(unix_time: i64, kind: Kind) -> Option<Label> {
        let (year, month, day) = civil(unix_time.div_euclid(86_400));
        let second = unix_time.rem_euclid(86_400);
        let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
        let letter = match kind {
            Kind::Full => 'F',
            Kind::Incremental => 'I',
        };
        let label = format!("{year:04}{month:02}{day:02}T{hour:02}{minute:02}{second:02}{letter}");
        label.parse().ok()
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Below it lies everything of the backup.
    pub(crate) fn prefix(&self) -> Prefix {
        Prefix::new(format!("backup/{}/", self.0)).expect("a label is a name")
    }

    fn object(&self, name: &str) -> ObjectName {
        ObjectName::new(format!("backup/{}/{name}", self.0)).expect("a label is a name")
    }

    pub(crate) fn manifest(&self) -> ObjectName {
        self.object("manifest")
    }

    pub(crate) fn claim(&self) -> ObjectName {
        self.object("started")
    }

    pub(crate) fn sign(&self, unix_time: i64) -> ObjectName {
        self.object(&format!("alive/{unix_time}"))
    }

    pub(crate) fn data(&self, number: u32) -> ObjectName {
        self.object(&format!("data/{number:08X}.zst"))
    }

    pub(crate) fn verified(&self, unix_time: i64, objects: usize) -> ObjectName {
        self.object(&format!("verified/{unix_time}-{objects}"))
    }

    /// The label in an object's name.
    pub(crate) fn of(name: &ObjectName) -> Option<Label> {
        let (label, _) = name.as_str().strip_prefix("backup/")?.split_once('/')?;
        label.parse().ok()
    }
}

impl FromStr for Label {
    type Err = LabelError;

    fn from_str(text: &str) -> Result<Label, LabelError> {
        let digits = |part: Option<&str>| part.is_some_and(|part| part.bytes().all(|b| b.is_ascii_digit()));
        let good = text.len() == 16
            && digits(text.get(..8))
            && text.get(8..9) == Some("T")
            && digits(text.get(9..15))
            && matches!(text.get(15..), Some("F" | "I"));
        match good {
            true => Ok(Label(text.to_owned())),
            false => Err(LabelError(text.to_owned())),
        }
    }
}

impl fmt::Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl serde::Serialize for Label {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> serde::Deserialize<'de> for Label {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Label, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// Year, month and day of a day since 1970 in the Gregorian calendar. Years are counted from March on, so that the
/// leap day is the last of its year.
fn civil(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * march_month + 2) / 5 + 1;
    let month = if march_month < 10 {
        march_month + 3
    } else {
        march_month - 9
    };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    (year, month, day)
}

/// How far something is, for whoever looks.
#[derive(Debug, Default)]
pub struct Progress {
    pub done: AtomicU64,
    /// An estimate; 0 while nothing is known.
    pub total: AtomicU64,
    phases: Mutex<Phases>,
}

#[derive(Debug, Default)]
struct Phases {
    now: String,
    /// With what was done at their ends.
    ended: Vec<(String, u64)>,
}

impl Progress {
    /// What is done now; empty before anything is.
    pub fn phase(&self) -> String {
        self.phases().now.clone()
    }

    /// What was done at the end of a phase, the last of this name.
    pub fn ended(&self, phase: &str) -> Option<u64> {
        let phases = self.phases();
        let ended = phases.ended.iter().rev().find(|(name, _)| name == phase);
        ended.map(|(_, done)| *done)
    }

    fn phases(&self) -> MutexGuard<'_, Phases> {
        self.phases.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn enter(&self, phase: impl Into<String>, total: u64) {
        let mut phases = self.phases();
        let before = std::mem::replace(&mut phases.now, phase.into());
        phases.ended.push((before, self.done.swap(0, Ordering::Relaxed)));
        self.total.store(total, Ordering::Relaxed);
    }

    pub(crate) fn add(&self, count: u64) {
        self.done.fetch_add(count, Ordering::Relaxed);
    }
}

/// Seconds since 1970 by this machine's clock.
pub(crate) fn unix_now() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::SystemTime::UNIX_EPOCH);
    since
        .ok()
        .and_then(|since| i64::try_from(since.as_secs()).ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_moments() {
        for (time, text) in [
            (0, "19700101T000000F"),
            (951_782_400, "20000229T000000F"),
            (1_795_632_305, "20261125T184505F"),
        ] {
            assert_eq!(Label::new(time, Kind::Full).unwrap().as_str(), text);
        }
        for bad in [
            "",
            "20261125T184505X",
            "../../x",
            "20261125t184505F",
            "20261125T18450F5",
        ] {
            assert!(bad.parse::<Label>().is_err(), "{bad}");
        }
        let label = Label::new(0, Kind::Incremental).unwrap();
        assert_eq!(Label::of(&label.data(17)), Some(label));
    }
}
