//! Archived WAL in one store, read through: each file's checksums and records, and that one segment's records follow the
//! other's.

use std::sync::Arc;

use skytide_sql::Lsn;

use super::{Pace, Problem, Report, problem};
use crate::backup::content::finished;
use crate::backup::stores::causes;
use crate::backup::wal::{has, next_record, segments};
use crate::backup::{BackupError, Progress, Summary};
use crate::decode::{Decoder, Expected, Timelines};
use crate::restore::{RestoreError, Restorer, Served};
use crate::store::identity::{Identity, IdentityError};
use crate::store::{ObjectName, Prefix, Store, StoreError, layout, partial};
use crate::{SegmentName, SegmentSize, TimelineId, WalFileName};

/// What the backup needs, from its start to its end. `read`: not only whether it is there.
pub(super) async fn needed(
    store: &Arc<dyn Store>,
    backup: &Summary,
    read: bool,
    pace: &mut Pace,
    report: &mut Report,
) -> Result<(), BackupError> {
    let (Some(timeline), Some(size)) = (
        TimelineId::new(backup.timeline),
        SegmentSize::new(backup.segment_bytes),
    ) else {
        return Ok(());
    };
    let gone = |segment: SegmentName| {
        let what = format!("backup {} needs it, and it is not there", backup.label);
        problem(&**store, &segment.to_string(), &what)
    };
    let mut reader = Reader::new(store, Some(backup.system_identifier), size);
    let mut last = None;
    for segment in segments(timeline, backup.start_lsn, backup.stop_lsn, size) {
        last = Some(segment);
        if !read {
            report.left_out += 1;
            if !has(&**store, segment, backup.stop_lsn, size).await? {
                report.problems.push(gone(segment));
            }
            continue;
        }
        match reader.segment(segment, backup.stop_lsn, pace, report).await? {
            Read::Sound => {}
            Read::Missing => report.problems.push(gone(segment)),
            Read::Bad(what) => report
                .problems
                .push(problem(&**store, &segment.to_string(), &what)),
        }
    }
    // Where reading broke off it was said why.
    if let (Some(last), Some(end)) = (last, reader.end())
        && next_record(end, size) < backup.stop_lsn
    {
        let what = format!(
            "its last record ends at {end}, and backup {} needs WAL up to {}",
            backup.label, backup.stop_lsn
        );
        report.problems.push(problem(&**store, &last.to_string(), &what));
    }
    Ok(())
}

/// Everything the store has of the archive.
pub(super) async fn all(
    store: &Arc<dyn Store>,
    pace: &mut Pace,
    progress: &Progress,
    report: &mut Report,
) -> Result<(), BackupError> {
    let identity = match Identity::read(&**store).await {
        Ok(Some(identity)) => identity,
        // Nobody has archived here.
        Ok(None) => return Ok(()),
        Err(IdentityError::Store(error)) => return Err(error.into()),
        Err(error) => {
            let name = layout::identity();
            report.problems.push(problem(&**store, name.as_str(), &error));
            return Ok(());
        }
    };
    let mut files = store.list(&layout::wal_files()).await?;
    files.extend(store.list(&layout::histories()).await?);
    let partials = store.partials(&Prefix::default()).await?;
    let total = files.iter().map(|listed| listed.bytes).sum::<u64>()
        + partials.iter().map(|listed| listed.bytes).sum::<u64>();
    progress.enter(format!("verifying WAL in {}", store.location()), total);
    let size = identity.segment_size;
    let mut reader = Reader::new(store, None, size);
    for listed in files {
        let bad = match layout::wal_file_of(&listed.name) {
            Some(WalFileName::Segment(segment)) => {
                let end = Lsn::new(u64::MAX);
                match reader.segment(segment, end, pace, report).await? {
                    // It was purged meanwhile.
                    Read::Sound | Read::Missing => None,
                    Read::Bad(what) => Some(what),
                }
            }
            Some(name) => reader.other(name, listed.bytes, pace, report).await?,
            None => None,
        };
        report.add(store, &listed.name, bad);
        progress.add(listed.bytes);
    }
    for listed in partials {
        let Some(segment) = layout::segment_of(&listed.name) else {
            continue;
        };
        pace.wait(listed.bytes).await;
        report.wal_files += 1;
        report.bytes += listed.bytes;
        match partial::read(&**store, segment, size).await {
            Ok(_) => {}
            Err(error @ StoreError::Damaged { .. }) => {
                report
                    .problems
                    .push(problem(&**store, &listed.name.to_string(), &error));
            }
            Err(error) => return Err(error.into()),
        }
        progress.add(listed.bytes);
    }
    Ok(())
}

impl Report {
    fn add(&mut self, store: &Arc<dyn Store>, name: &ObjectName, bad: Option<String>) {
        let problem = bad.map(|what| Problem {
            store: store.location().to_owned(),
            name: name.to_string(),
            what,
        });
        self.problems.extend(problem);
    }
}

enum Read {
    Sound,
    Missing,
    Bad(String),
}

/// Reads segments in order, and their records across them.
struct Reader<'s> {
    store: &'s Arc<dyn Store>,
    restorer: Restorer,
    system_id: Option<u64>,
    size: SegmentSize,
    /// What comes next is its next byte.
    chain: Option<(TimelineId, Decoder)>,
}

impl<'s> Reader<'s> {
    fn new(store: &'s Arc<dyn Store>, system_id: Option<u64>, size: SegmentSize) -> Reader<'s> {
        Reader {
            store,
            restorer: Restorer::new(vec![store.clone()], system_id),
            system_id,
            size,
            chain: None,
        }
    }

    /// Behind the last whole record, if nothing was wrong.
    fn end(&self) -> Option<Lsn> {
        let (_, decoder) = self.chain.as_ref()?;
        decoder.record_boundary()
    }

    /// What comes behind `end` does not count.
    async fn segment(
        &mut self,
        segment: SegmentName,
        end: Lsn,
        pace: &mut Pace,
        report: &mut Report,
    ) -> Result<Read, BackupError> {
        let name = WalFileName::Segment(segment);
        let before = self.chain.take();
        let packed = self.store.head(&layout::object_of(name)).await?;
        // Only its beginning may be there, which is as long as it is.
        let bytes = packed.unwrap_or(self.size.bytes());
        pace.wait(bytes).await;
        let served = match self.restorer.fetch(name).await {
            Ok(Some(served)) => served,
            Ok(None) => return Ok(Read::Missing),
            Err(error) => return bad(error).map(Read::Bad),
        };
        report.wal_files += 1;
        report.bytes += bytes;
        let (Some(start), timeline) = (segment.start(self.size), segment.timeline()) else {
            return Ok(Read::Bad("no segment of this size has this name".to_owned()));
        };
        let follows = before.filter(|(before, decoder)| *before == timeline && decoder.position() == start);
        let decoder = follows.map_or_else(
            || {
                let expected = Expected {
                    system_id: self.system_id,
                    timelines: Timelines::UpTo(timeline),
                    ..Expected::default()
                };
                Decoder::new(start, self.size, expected)
            },
            |(_, decoder)| decoder,
        );
        let work = tokio::task::spawn_blocking(move || records(decoder, &served, end));
        match finished(work.await)? {
            Ok(decoder) => {
                self.chain = Some((timeline, decoder));
                Ok(Read::Sound)
            }
            Err(what) => Ok(Read::Bad(what)),
        }
    }

    async fn other(
        &self,
        name: WalFileName,
        bytes: u64,
        pace: &mut Pace,
        report: &mut Report,
    ) -> Result<Option<String>, BackupError> {
        pace.wait(bytes).await;
        report.wal_files += 1;
        report.bytes += bytes;
        match self.restorer.fetch_whole(name).await {
            Ok(_) => Ok(None),
            Err(error) => bad(error).map(Some),
        }
    }
}

/// Reads the records of one segment; what is no record behind `end`, or behind the boundary of a beginning, does not
/// count.
fn records(mut decoder: Decoder, served: &Served, end: Lsn) -> Result<Decoder, String> {
    let end = match served.origin {
        crate::restore::Origin::Whole => end,
        crate::restore::Origin::Partial(boundary) => end.min(boundary),
    };
    let mut feed = decoder.feed(&served.bytes);
    let stopped = loop {
        match feed.next_record() {
            Ok(Some(_)) => {}
            Ok(None) => break None,
            Err(error) => break Some(error),
        }
    };
    match stopped {
        Some(error) if error.lsn < end => Err(error.to_string()),
        _ => Ok(decoder),
    }
}

/// What is wrong with a file; an error if the store did not answer.
fn bad(error: RestoreError) -> Result<String, BackupError> {
    match error {
        RestoreError::Store(error) | RestoreError::Identity(IdentityError::Store(error)) => Err(error.into()),
        error => Ok(causes(&error)),
    }
}
