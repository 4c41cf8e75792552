//! What has been done of a promotion: a file that is replaced as a whole after each step.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use serde::{Deserialize, Serialize};
use skytide_sql::Lsn;

use super::PromoteError;
use super::plan::{Plan, Way};
use crate::durable::{self, Attach, FileError};

const VERSION: u32 = 1;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    /// The old primary is kept from coming back.
    Fence,
    /// The living primary is stopped, and its end is known.
    Stop,
    /// The dead primary's WAL is copied into the stores.
    Salvage,
    /// The new primary has replayed everything.
    Bring,
    /// It is out of recovery.
    Promote,
    /// It has committed a transaction.
    Write,
    /// This node streams from the new primary.
    Follow(String),
    /// Settings that were changed on the way are as before.
    Tidy,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Step::Fence => f.write_str("fence"),
            Step::Stop => f.write_str("stop"),
            Step::Salvage => f.write_str("salvage"),
            Step::Bring => f.write_str("bring"),
            Step::Promote => f.write_str("promote"),
            Step::Write => f.write_str("write"),
            Step::Follow(node) => write!(f, "follow {node}"),
            Step::Tidy => f.write_str("tidy"),
        }
    }
}

impl Step {
    /// Where a test stops the program: the step's work is done and is not written down, or is.
    pub(super) fn failpoints(&self) -> [&'static str; 2] {
        match self {
            Step::Fence => ["promote::fence", "promote::fence-noted"],
            Step::Stop => ["promote::stop", "promote::stop-noted"],
            Step::Salvage => ["promote::salvage", "promote::salvage-noted"],
            Step::Bring => ["promote::bring", "promote::bring-noted"],
            Step::Promote => ["promote::promote", "promote::promote-noted"],
            Step::Write => ["promote::write", "promote::write-noted"],
            Step::Follow(_) => ["promote::follow", "promote::follow-noted"],
            Step::Tidy => ["promote::tidy", "promote::tidy-noted"],
        }
    }
}

/// A step that was done, and how long it took.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Done {
    pub step: Step,
    pub ms: f64,
    pub note: String,
}

/// Where the WAL of a node ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KnownEnd {
    pub node: String,
    #[serde(with = "position")]
    pub end: Option<Lsn>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Journal {
    version: u32,
    /// Seconds since 1970 when it was begun.
    pub begun: u64,
    pub system_id: u64,
    pub switchover: bool,
    pub old: Option<String>,
    pub new: String,
    pub way: Way,
    #[serde(with = "position")]
    pub target: Option<Lsn>,
    /// The newest timeline that the plan knew.
    #[serde(default)]
    pub newest: Option<u32>,
    /// Where the WAL of each standby ended for the plan.
    #[serde(default)]
    pub ends: Vec<KnownEnd>,
    pub steps: Vec<Step>,
    pub done: Vec<Done>,
    /// Settings of the new primary that were changed, and what ALTER SYSTEM had given them before.
    pub changed: Vec<(String, Option<String>)>,
    /// Of the new primary, once it is one.
    pub timeline: Option<u32>,
    #[serde(with = "position")]
    pub switch_lsn: Option<Lsn>,
}

impl Journal {
    pub(super) fn of(plan: &Plan, begun: u64) -> Journal {
        let ends = plan.ends.iter().map(|(node, end)| KnownEnd {
            node: node.clone(),
            end: Some(*end),
        });
        Journal {
            version: VERSION,
            begun,
            system_id: plan.system_id,
            switchover: plan.switchover,
            old: plan.old.clone(),
            new: plan.new.clone(),
            way: plan.way.clone(),
            target: plan.target,
            newest: Some(plan.newest.as_u32()),
            ends: ends.collect(),
            steps: plan.steps.clone(),
            done: Vec::new(),
            changed: Vec::new(),
            timeline: None,
            switch_lsn: None,
        }
    }

    /// `None` if there is none.
    pub fn read(path: &Path) -> Result<Option<Journal>, PromoteError> {
        let text = match std::fs::read(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            read => read.to("read", path)?,
        };
        let wrong = |source| PromoteError::Journal {
            path: path.to_owned(),
            source,
        };
        let journal: Journal = serde_json::from_slice(&text).map_err(wrong)?;
        match journal.version {
            VERSION => Ok(Some(journal)),
            other => Err(wrong(serde::de::Error::custom(format!(
                "it has version {other}, this program knows {VERSION}"
            )))),
        }
    }

    pub(super) fn write(&self, path: &Path) -> Result<(), PromoteError> {
        let text = serde_json::to_vec_pretty(self).map_err(|source| PromoteError::Journal {
            path: path.to_owned(),
            source,
        })?;
        Ok(durable::replace(path, &text)?)
    }

    pub fn is_done(&self, step: &Step) -> bool {
        self.done.iter().any(|done| done.step == *step)
    }

    pub fn is_finished(&self) -> bool {
        self.steps.iter().all(|step| self.is_done(step))
    }

    /// Up to where the plan knew the WAL of a node. Of one that it did not see, what the new primary is given.
    pub(super) fn knew(&self, node: &str) -> Option<Lsn> {
        let known = self.ends.iter().find(|known| known.node == node);
        known.and_then(|known| known.end).or(self.target)
    }

    /// What is still to be done.
    pub fn open(&self) -> impl Iterator<Item = &Step> {
        self.steps.iter().filter(|step| !self.is_done(step))
    }
}

/// A node was put behind the new primary by hand: of an unfinished promotion that is one step less.
pub(super) fn followed(path: &Path, new: &str, node: &str, note: &str) -> Result<(), PromoteError> {
    let is_open = |journal: &Journal| {
        journal.new == new
            && journal.is_done(&Step::Promote)
            && journal.open().any(|step| *step == Step::Follow(node.to_owned()))
    };
    if !Journal::read(path)?.is_some_and(|journal| is_open(&journal)) {
        return Ok(());
    }
    let _lock = lock(path)?;
    let Some(mut journal) = Journal::read(path)?.filter(is_open) else {
        return Ok(());
    };
    journal.done.push(Done {
        step: Step::Follow(node.to_owned()),
        ms: 0.0,
        note: note.to_owned(),
    });
    journal.write(path)
}

/// Keeps a second process out until the file is dropped, or its process is gone.
pub(super) fn lock(journal: &Path) -> Result<File, PromoteError> {
    let path = journal.with_extension("lock");
    let open = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(&path);
    let file = open.to("open", &path)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(std::fs::TryLockError::WouldBlock) => Err(PromoteError::Busy { path }),
        Err(std::fs::TryLockError::Error(source)) => Err(FileError::new("lock", &path, source).into()),
    }
}

/// A position as PostgreSQL writes it.
mod position {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};
    use skytide_sql::Lsn;

    pub fn serialize<S: Serializer>(lsn: &Option<Lsn>, serializer: S) -> Result<S::Ok, S::Error> {
        lsn.map(|lsn| lsn.to_string()).serialize(serializer)
    }

    pub fn deserialize<'d, D: Deserializer<'d>>(deserializer: D) -> Result<Option<Lsn>, D::Error> {
        let text = Option::<String>::deserialize(deserializer)?;
        let parse = |text: String| text.parse().map_err(serde::de::Error::custom);
        text.map(parse).transpose()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::TimelineId;

    #[test]
    fn a_journal_comes_back_and_knows_what_is_left() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("wal.promote.json");
        assert_eq!(Journal::read(&path).unwrap(), None);
        let plan = Plan {
            switchover: false,
            system_id: 7,
            old: Some("a".into()),
            new: "b".into(),
            timeline: TimelineId::new(1).unwrap(),
            from: Lsn::new(16),
            target: Some(Lsn::new(32)),
            newest: TimelineId::new(1).unwrap(),
            way: Way::Node("c".into()),
            steps: vec![Step::Bring, Step::Promote, Step::Follow("c".into())],
            ends: vec![("c".into(), Lsn::new(32))],
        };
        let mut journal = Journal::of(&plan, 1);
        journal.done.push(Done {
            step: Step::Bring,
            ms: 1.5,
            note: String::new(),
        });
        journal.write(&path).unwrap();
        assert_eq!(Journal::read(&path).unwrap(), Some(journal.clone()));
        let open: Vec<&Step> = journal.open().collect();
        assert_eq!(open, [&Step::Promote, &Step::Follow("c".into())]);
        assert!(!journal.is_finished());

        std::fs::write(&path, "{}").unwrap();
        assert!(matches!(Journal::read(&path), Err(PromoteError::Journal { .. })));
        let _held = lock(&path).unwrap();
        assert!(matches!(lock(&path), Err(PromoteError::Busy { .. })));
    }
}
