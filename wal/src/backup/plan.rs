//! What a restore will do, found out before the first byte is copied: which backup, which WAL, up to where, and what
//! is missing.

use std::collections::BTreeSet;
use std::ops::ControlFlow;

use skytide_sql::Lsn;

use super::recovery::StopAt;
use super::stores::{Stores, list};
use super::wal::{Inventory, Path, next_record};
use super::{BackupError, Label, Summary};
use crate::commit::Outcome;
use crate::decode::{Decoder, Expected, Record, Timelines};
use crate::format::rmgr::Rmgr;
use crate::restore::{Origin, Restorer};
use crate::walsender::Timestamp;
use crate::{HistoryFile, SegmentName, SegmentSize, TimelineId, WalFileName};

/// Where to stop.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// All the WAL there is.
    Latest,
    /// The moment the backup ended.
    Immediate,
    Time(Timestamp),
    Lsn(Lsn),
    Name(String),
    /// Right behind the transaction's commit.
    Xid(u32),
    /// Right before it.
    BeforeXid(u32),
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Target::Latest => f.write_str("the end of the WAL"),
            Target::Immediate => f.write_str("the backup's end"),
            Target::Time(at) => write!(f, "time {}", show(*at)),
            Target::Lsn(lsn) => write!(f, "position {lsn}"),
            Target::Name(name) => write!(f, "restore point {name}"),
            Target::Xid(xid) => write!(f, "transaction {xid}"),
            Target::BeforeXid(xid) => write!(f, "just before transaction {xid}"),
        }
    }
}

/// Along which timeline to recover.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WhichTimeline {
    Latest,
    /// The backup's.
    Current,
    Number(TimelineId),
}

/// A commit in the WAL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Commit {
    pub xid: u32,
    pub time: Timestamp,
    pub lsn: Lsn,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    pub backup: Summary,
    pub timeline: TimelineId,
    pub wal: Path,
    pub stop_at: StopAt,
    /// Where replay ends, as far as it can be told.
    pub end_lsn: Option<Lsn>,
    /// The last commit that will be there.
    pub last_commit: Option<Commit>,
}

/// Plans a restore. `label` names the backup; without it, the newest one that ended before the target.
pub async fn make(
    stores: &Stores,
    label: Option<&Label>,
    target: &Target,
    which: WhichTimeline,
) -> Result<Plan, BackupError> {
    let mut backups: Vec<Summary> = Vec::new();
    for backup in list(stores).await? {
        match backup {
            Ok(backup) => backups.push(backup),
            Err(error) => {
                let error: &dyn std::error::Error = &error;
                tracing::warn!(error, "a backup cannot be read, and is left out");
            }
        }
    }
    let there: BTreeSet<Label> = backups.iter().map(|backup| backup.label.clone()).collect();
    let candidates: Vec<Summary> = match label {
        Some(label) => {
            let found = backups.into_iter().find(|backup| backup.label == *label);
            vec![found.ok_or_else(|| BackupError::NoBackup(label.clone()))?]
        }
        None if backups.is_empty() => return Err(BackupError::NoBackups),
        None => {
            let mut fitting: Vec<Summary> = backups
                .into_iter()
                .filter(|backup| is_before(backup, target))
                .collect();
            fitting.reverse();
            fitting
        }
    };
    if candidates.is_empty() {
        return Err(BackupError::NoneBefore(target.to_string()));
    }
    let inventory = Inventory::of(stores).await?;
    let mut refused = None;
    // A transaction or a restore point may lie before the newest backup, and that one on a timeline which was left, or
    // without what it is built on: then an older one will do.
    for backup in candidates {
        let planned = match backup.sources.iter().find(|source| !there.contains(*source)) {
            Some(source) => Err(BackupError::NoGround {
                label: backup.label.clone(),
                source_label: source.clone(),
            }),
            None => of_backup(stores, &inventory, backup, target, which).await,
        };
        match planned {
            Err(
                error @ (BackupError::Target { .. }
                | BackupError::WalGap { .. }
                | BackupError::NoGround { .. }),
            ) => {
                if matches!(error, BackupError::NoGround { .. }) {
                    let error: &dyn std::error::Error = &error;
                    tracing::warn!(error, "a backup does not do");
                }
                refused.get_or_insert(error);
            }
            done => return done,
        }
    }
    Err(refused.unwrap_or(BackupError::NoBackups))
}

fn is_before(backup: &Summary, target: &Target) -> bool {
    match target {
        Target::Lsn(lsn) => backup.stop_lsn <= *lsn,
        Target::Time(at) => from_unix(backup.finished) <= *at,
        _ => true,
    }
}

async fn of_backup(
    stores: &Stores,
    inventory: &Inventory,
    backup: Summary,
    target: &Target,
    which: WhichTimeline,
) -> Result<Plan, BackupError> {
    let impossible = |what: &str| BackupError::BadManifest {
        label: backup.label.clone(),
        what: what.to_owned(),
    };
    let size = SegmentSize::new(backup.segment_bytes).ok_or_else(|| impossible("segment size"))?;
    let own = TimelineId::new(backup.timeline).ok_or_else(|| impossible("timeline"))?;
    let timeline = match which {
        WhichTimeline::Latest => inventory.latest_timeline(own),
        WhichTimeline::Current => own,
        WhichTimeline::Number(number) => number,
    };
    let restorer = Restorer::new(stores.alive(), Some(backup.system_identifier));
    let history = history(&restorer, timeline).await?;
    if history.owner(Lsn::new(backup.stop_lsn.as_u64().saturating_sub(1))) != own {
        return Err(BackupError::WalGap {
            what: format!(
                "timeline {timeline} left timeline {own} before backup {} ended at {}",
                backup.label, backup.stop_lsn
            ),
        });
    }
    let wal = inventory.path(&history, backup.start_lsn, size);
    let mut scan = Scan {
        restorer,
        size,
        system_id: backup.system_identifier,
        timeline,
    };
    consistent(&wal, &backup, size)?;
    let mut plan = Plan {
        timeline,
        wal,
        stop_at: StopAt::End,
        end_lsn: None,
        last_commit: None,
        backup,
    };
    scan.resolve(&mut plan, target).await?;
    Ok(plan)
}

/// The WAL up to the backup's end is a must.
fn consistent(wal: &Path, backup: &Summary, size: SegmentSize) -> Result<(), BackupError> {
    let needed = crate::SegmentNo::ending_at(backup.stop_lsn, size);
    let last = wal.segments.last().and_then(|segment| segment.number(size));
    if last.is_some_and(|last| last >= needed) {
        return Ok(());
    }
    let what = match (&wal.gap, last) {
        (Some((missing, _)), _) => format!("backup {} needs {missing}, which no store has", backup.label),
        (None, Some(last)) => format!(
            "backup {} ends at {}, the stores' WAL with segment {:X}",
            backup.label,
            backup.stop_lsn,
            last.as_u64()
        ),
        (None, None) => format!("the stores have nothing from {} on", backup.start_lsn),
    };
    Err(BackupError::WalGap { what })
}

/// A timeline's history, from the stores.
pub async fn history(restorer: &Restorer, timeline: TimelineId) -> Result<HistoryFile, BackupError> {
    if timeline.as_u32() == 1 {
        return Ok(HistoryFile::root(timeline));
    }
    let file = restorer.fetch_whole(WalFileName::History(timeline)).await?;
    let file = file.ok_or(BackupError::NoHistory(timeline))?;
    let text = String::from_utf8_lossy(&file.bytes);
    HistoryFile::parse(timeline, &text).map_err(|error| BackupError::UnreadableWal {
        lsn: Lsn::INVALID,
        what: error.to_string(),
    })
}

/// Reads archived WAL.
pub struct Scan {
    pub restorer: Restorer,
    pub size: SegmentSize,
    pub system_id: u64,
    pub timeline: TimelineId,
}

/// How far a scan came.
#[derive(Debug, Clone, Copy, Default)]
pub struct Scanned {
    /// The last whole record's beginning.
    pub last_lsn: Option<Lsn>,
    /// Behind the last whole record.
    pub end_lsn: Option<Lsn>,
    pub stopped: bool,
}

impl Scan {
    /// Shows every record of the segments, which follow each other, until `see` has enough.
    pub async fn records(
        &self,
        segments: &[SegmentName],
        mut see: impl FnMut(&Record<'_>) -> ControlFlow<()>,
    ) -> Result<Scanned, BackupError> {
        let mut scanned = Scanned {
            last_lsn: None,
            end_lsn: None,
            stopped: false,
        };
        let Some(start) = segments.first().and_then(|segment| segment.start(self.size)) else {
            return Ok(scanned);
        };
        let expected = Expected {
            system_id: Some(self.system_id),
            timelines: Timelines::UpTo(self.timeline),
            ..Expected::default()
        };
        let mut decoder = Decoder::new(start, self.size, expected);
        for (place, segment) in segments.iter().enumerate() {
            let is_last = place + 1 == segments.len();
            let name = WalFileName::Segment(*segment);
            let Some(file) = self.restorer.fetch(name).await? else {
                return Err(BackupError::Missing {
                    name: name.to_string(),
                });
            };
            let mut feed = decoder.feed(&file.bytes);
            loop {
                match feed.next_record() {
                    Ok(Some(record)) => {
                        scanned.last_lsn = Some(record.lsn);
                        scanned.end_lsn = Some(record.end_lsn);
                        if see(&record).is_break() {
                            scanned.stopped = true;
                            return Ok(scanned);
                        }
                    }
                    Ok(None) => break,
                    // What comes behind the last record of the last one is no WAL.
                    Err(_) if is_last || file.origin != Origin::Whole => return Ok(scanned),
                    Err(error) => {
                        return Err(BackupError::UnreadableWal {
                            lsn: error.lsn,
                            what: error.to_string(),
                        });
                    }
                }
            }
        }
        Ok(scanned)
    }

    /// Finds the target in the WAL.
    async fn resolve(&mut self, plan: &mut Plan, target: &Target) -> Result<(), BackupError> {
        let missed = |what: String| BackupError::Target {
            target: target.to_string(),
            what,
        };
        let stop_lsn = plan.backup.stop_lsn;
        match target {
            Target::Latest => {
                self.consistent(plan).await?;
                let (scanned, commit) = self.last_commit(&plan.wal.segments).await?;
                plan.end_lsn = scanned.end_lsn;
                plan.last_commit = commit;
                if plan.wal.gap.is_some()
                    && let Some(lsn) = scanned.last_lsn
                {
                    // Without a target `restore-wal` would stop the server at what is missing.
                    plan.stop_at = StopAt::Lsn { lsn, inclusive: true };
                }
                return Ok(());
            }
            Target::Immediate => {
                plan.last_commit = self.consistent(plan).await?;
                plan.stop_at = StopAt::Immediate;
                plan.end_lsn = Some(stop_lsn);
                return Ok(());
            }
            Target::Lsn(lsn) if *lsn < stop_lsn => {
                return Err(missed(format!(
                    "backup {} is consistent from {stop_lsn} on only",
                    plan.backup.label
                )));
            }
            _ => {}
        }
        let mut last: Option<Commit> = None;
        let mut found: Option<(Lsn, Lsn)> = None;
        let mut begun: Option<Timestamp> = None;
        let start_lsn = plan.backup.start_lsn;
        let scanned = self
            .records(&plan.wal.segments, |record| {
                begun = begun.or_else(|| checkpoint_of(record, start_lsn));
                let commit = commit_of(record);
                let is_there = match target {
                    // What begins before it is replayed, as far as it may go.
                    Target::Lsn(lsn) => record.lsn >= *lsn,
                    Target::Time(at) => commit.is_some_and(|commit| commit.time > *at),
                    Target::Xid(xid) | Target::BeforeXid(xid) => {
                        commit.is_some_and(|commit| commit.xid == *xid)
                    }
                    Target::Name(name) => restore_point(record) == Some(name.as_bytes()),
                    Target::Latest | Target::Immediate => false,
                };
                let after = matches!(target, Target::Lsn(_) | Target::Time(_) | Target::BeforeXid(_));
                if is_there && after {
                    found = Some((record.lsn, record.lsn));
                    return ControlFlow::Break(());
                }
                last = commit.or(last);
                match is_there {
                    true => {
                        found = Some((record.lsn, record.end_lsn));
                        ControlFlow::Break(())
                    }
                    false => ControlFlow::Continue(()),
                }
            })
            .await?;
        if let (Target::Time(at), Some(begun)) = (target, begun)
            && at.as_micros() < begun.as_micros() + CHECKPOINT_TIME
        {
            return Err(missed(format!(
                "backup {} was begun at {}, by the server's clock, and may have later commits",
                plan.backup.label,
                show(begun)
            )));
        }
        if let (Target::Lsn(lsn), None, Some(last_lsn), Some(end)) =
            (target, found, scanned.last_lsn, scanned.end_lsn)
            && *lsn <= next_record(end, self.size)
        {
            // The server would give up at a target behind which it finds no record. It stops behind the last one that is
            // there now, whatever comes into the stores until then.
            plan.end_lsn = Some(end);
            plan.last_commit = last;
            plan.stop_at = StopAt::Lsn {
                lsn: last_lsn,
                inclusive: true,
            };
            return Ok(());
        }
        let Some((lsn, end_lsn)) = found else {
            let end = scanned.end_lsn.unwrap_or(plan.backup.start_lsn);
            let mut what = format!(
                "the WAL in the stores goes from {} to {end}",
                plan.backup.start_lsn
            );
            if let Some(commit) = last {
                what.push_str(&format!(
                    "; its last commit is transaction {} at {}",
                    commit.xid,
                    show(commit.time)
                ));
            }
            if let Some((missing, _)) = &plan.wal.gap {
                what.push_str(&format!("; {missing} is missing"));
            }
            return Err(missed(what));
        };
        if end_lsn < stop_lsn {
            return Err(missed(format!(
                "it lies at {lsn}, before backup {} was consistent at {stop_lsn}",
                plan.backup.label
            )));
        }
        plan.end_lsn = Some(end_lsn);
        plan.last_commit = last;
        plan.stop_at = match target {
            // With "inclusive" the server would replay the first record behind it, too: a commit, say.
            Target::Lsn(lsn) => StopAt::Lsn {
                lsn: *lsn,
                inclusive: false,
            },
            Target::Time(at) => StopAt::Time(show(*at)),
            Target::Name(name) => StopAt::Name(name.clone()),
            Target::Xid(xid) => StopAt::Xid(*xid),
            // The commit record itself is not replayed. Its position is exact where numbers come again.
            Target::BeforeXid(_) => StopAt::Lsn {
                lsn,
                inclusive: false,
            },
            Target::Latest => StopAt::End,
            Target::Immediate => StopAt::Immediate,
        };
        Ok(())
    }

    /// Reads the WAL from the backup's start to its end, as recovery will have to. Returns the last commit in it.
    async fn consistent(&self, plan: &Plan) -> Result<Option<Commit>, BackupError> {
        let Plan { backup, wal, .. } = plan;
        let mut last = None;
        let scanned = self
            .records(&wal.segments, |record| {
                last = commit_of(record).or(last);
                match next_record(record.end_lsn, self.size) >= backup.stop_lsn {
                    true => ControlFlow::Break(()),
                    false => ControlFlow::Continue(()),
                }
            })
            .await?;
        if scanned.stopped {
            return Ok(last);
        }
        let end = scanned.end_lsn.unwrap_or(backup.start_lsn);
        Err(BackupError::WalGap {
            what: format!(
                "what the stores have ends at {end}, and backup {} is consistent from {} on only",
                backup.label, backup.stop_lsn
            ),
        })
    }

    /// The end of the WAL and its last commit, which is looked for from behind.
    async fn last_commit(&self, segments: &[SegmentName]) -> Result<(Scanned, Option<Commit>), BackupError> {
        let mut newest: Option<Scanned> = None;
        for first in (0..segments.len()).rev() {
            let Some(rest) = segments.get(first..) else { break };
            // A commit may begin in the segment before: two are read together.
            let rest = rest.get(..2.min(rest.len())).unwrap_or(rest);
            let mut last = None;
            let scanned = self
                .records(rest, |record| {
                    last = commit_of(record).or(last);
                    ControlFlow::Continue(())
                })
                .await?;
            let newest = newest.get_or_insert(scanned);
            if newest.end_lsn.is_none() {
                *newest = scanned;
            }
            if last.is_some() {
                return Ok((*newest, last));
            }
        }
        Ok((newest.unwrap_or_default(), None))
    }
}

fn commit_of(record: &Record<'_>) -> Option<Commit> {
    let end = record.transaction_end()?;
    (end.outcome == Outcome::Committed).then_some(Commit {
        xid: end.xid.as_u32(),
        time: end.time,
        lsn: record.lsn,
    })
}

/// A checkpoint's record has whole seconds, taken just before its position: what was committed before that position was
/// so within this time after them. Microseconds.
const CHECKPOINT_TIME: i64 = 2_000_000;

/// When the server began the checkpoint that begins at `redo`: what the backup starts from has commits up to then.
fn checkpoint_of(record: &Record<'_>, redo: Lsn) -> Option<Timestamp> {
    const SHUTDOWN: u8 = 0x00;
    const ONLINE: u8 = 0x10;
    // Of the same struct CheckPoint in 13 to 18.
    const TIME: usize = 64;
    if record.rmgr() != Rmgr::XLOG || ![SHUTDOWN, ONLINE].contains(&record.header.opcode()) {
        return None;
    }
    let data = record.main_data();
    let number = |at: usize| Some(u64::from_le_bytes(data.get(at..at + 8)?.try_into().ok()?));
    let seconds = i64::try_from(number(TIME)?).ok()?;
    (number(0)? == redo.as_u64()).then(|| from_unix(seconds))
}

/// The name in a record of `pg_create_restore_point`: a time, then the name and zeros up to 64 bytes.
fn restore_point<'r>(record: &Record<'r>) -> Option<&'r [u8]> {
    const RESTORE_POINT: u8 = 0x70;
    if record.rmgr() != Rmgr::XLOG || record.header.opcode() != RESTORE_POINT {
        return None;
    }
    let name = record.main_data().get(8..)?;
    name.split(|byte| *byte == 0).next()
}

const EPOCH_AFTER_UNIX: i64 = 946_684_800;

fn from_unix(seconds: i64) -> Timestamp {
    Timestamp::from_micros((seconds - EPOCH_AFTER_UNIX).saturating_mul(1_000_000))
}

/// A moment in UTC: `2026-11-25 18:45:05.123456+00`.
pub fn show(time: Timestamp) -> String {
    let micros = time.as_micros() + EPOCH_AFTER_UNIX * 1_000_000;
    let seconds = micros.div_euclid(1_000_000);
    let (year, month, day) = super::civil(seconds.div_euclid(86_400));
    let second = seconds.rem_euclid(86_400);
    format!(
        "{year:04}-{month:02}-{day:02} {:02}:{:02}:{:02}.{:06}+00",
        second / 3600,
        second / 60 % 60,
        second % 60,
        micros.rem_euclid(1_000_000)
    )
}
