//! What an incremental backup takes from its parent, and what it has to read.

use std::collections::{BTreeSet, HashMap};
use std::path::Path;

use skytide_sql::Lsn;

use super::changes::{Changes, ToRead};
use super::files::Found;
use super::manifest::{self, Backup};
use super::page::{PAGE, RelationPath};
use super::plan::history;
use super::stores::Stores;
use super::{BackupError, Progress};
use crate::decode::{Decoder, Expected, Timelines};
use crate::durable::Attach;
use crate::restore::Restorer;
use crate::{SegmentName, SegmentNo, TimelineId, WalFileName};

/// What the WAL from the parent's start to this backup's start has changed. It comes from the stores; what is not there
/// yet, from the server's own directory.
pub(super) async fn changes(
    stores: &Stores,
    parent: &Backup,
    timeline: TimelineId,
    start_lsn: Lsn,
    data_dir: &Path,
    progress: &Progress,
) -> Result<Changes, BackupError> {
    let summary = &parent.summary;
    let size = crate::SegmentSize::new(summary.segment_bytes).ok_or(BackupError::GivenUp)?;
    let restorer = Restorer::new(stores.alive(), Some(summary.system_identifier));
    let history = history(&restorer, timeline).await?;
    let own = parent.timeline().ok_or(BackupError::GivenUp)?;
    let from_here = history
        .range_of(own)
        .is_some_and(|(_, left)| left.is_none_or(|left| left >= summary.stop_lsn));
    let refuse = |what: String| BackupError::NoIncremental {
        parent: summary.label.clone(),
        what,
    };
    if !from_here {
        return Err(refuse(format!("timeline {timeline} does not come from it")));
    }
    let (first, last) = (
        SegmentNo::holding(summary.start_lsn, size),
        SegmentNo::ending_at(start_lsn, size),
    );
    let count = (last.as_u64() + 1).saturating_sub(first.as_u64());
    progress.enter("reading WAL", count * size.bytes());
    let expected = Expected {
        system_id: Some(summary.system_identifier),
        timelines: Timelines::UpTo(timeline),
        ..Expected::default()
    };
    let mut decoder = Decoder::new(first.start(size), size, expected);
    let mut changes = Changes::default();
    for number in (first.as_u64()..=last.as_u64()).map(SegmentNo::new) {
        let owner = history.owner_of_segment(number, size);
        let name = SegmentName::new(owner, number, size).ok_or(BackupError::GivenUp)?;
        let bytes = segment(&restorer, name, data_dir).await?.ok_or_else(|| {
            refuse(format!(
                "WAL segment {name} is neither in the stores nor in pg_wal"
            ))
        })?;
        let mut feed = decoder.feed(&bytes);
        loop {
            match feed.next_record() {
                // From our own start on everything is replayed.
                Ok(Some(record)) if record.lsn >= start_lsn => return Ok(changes),
                Ok(Some(record)) => changes.see(&record).map_err(|error| refuse(error.to_string()))?,
                Ok(None) => break,
                Err(error) if error.lsn >= start_lsn => return Ok(changes),
                Err(error) => {
                    return Err(BackupError::UnreadableWal {
                        lsn: error.lsn,
                        what: error.to_string(),
                    });
                }
            }
        }
        progress.add(size.bytes());
    }
    Ok(changes)
}

/// A segment's bytes from the stores, or from the server's directory. Once more from the stores: it may have been
/// archived and put to another use between the two.
async fn segment(
    restorer: &Restorer,
    name: SegmentName,
    data_dir: &Path,
) -> Result<Option<Vec<u8>>, BackupError> {
    for _ in 0..2 {
        if let Some(served) = restorer.fetch_whole(WalFileName::Segment(name)).await? {
            return Ok(Some(served.bytes));
        }
        let path = data_dir.join("pg_wal").join(name.to_string());
        match std::fs::read(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            read => return Ok(Some(read.to("read", &path)?)),
        }
    }
    Ok(None)
}

/// The parent, and what has changed since.
pub(super) struct Base {
    files: HashMap<String, manifest::File>,
    /// Blocks the parent has as they were, with a wrong checksum.
    damaged: HashMap<String, Vec<u32>>,
    changes: Changes,
}

impl Base {
    /// The parent's streams are ours' second, third, …
    pub fn new(parent: &Backup, changes: Changes) -> Base {
        let mut files = HashMap::with_capacity(parent.contents.files.len());
        for file in &parent.contents.files {
            let mut file = file.clone();
            file.extents.iter_mut().for_each(|extent| extent.source += 1);
            files.insert(file.path.clone(), file);
        }
        let damaged = parent.contents.damaged.iter();
        Base {
            files,
            damaged: damaged
                .map(|file| (file.path.clone(), file.blocks.clone()))
                .collect(),
            changes,
        }
    }

    /// The damaged blocks of a file that are taken from the parent: those not in `read`, and before block `end`.
    pub fn damaged<'b>(
        &'b self,
        path: &str,
        read: &'b BTreeSet<u32>,
        end: u64,
    ) -> impl Iterator<Item = u32> + 'b {
        let blocks = self.damaged.get(path).into_iter().flatten().copied();
        blocks.filter(move |block| !read.contains(block) && u64::from(*block) < end)
    }

    /// The parent's file and which blocks of ours to read, if not all.
    pub fn of(&self, found: &Found) -> Option<(&manifest::File, BTreeSet<u32>)> {
        let path = RelationPath::parse(&found.path).filter(|path| path.fork == 0)?;
        let before = self.files.get(&found.path)?;
        let blocks = |bytes: u64| u32::try_from(bytes / PAGE as u64).ok();
        let whole_pages = |bytes: u64| bytes.is_multiple_of(PAGE as u64);
        if !whole_pages(found.bytes) || !whole_pages(before.bytes) {
            return None;
        }
        match self
            .changes
            .of(&path, blocks(found.bytes)?, blocks(before.bytes)?)
        {
            ToRead::All => None,
            ToRead::Blocks(blocks) => Some((before, blocks)),
        }
    }
}
