//! Where a store's WAL ends, read from the store alone: nothing that a writer says is believed.

use std::collections::BTreeSet;
use std::sync::Arc;

use skytide_sql::Lsn;

use super::error::TailError;
use super::survey::open_segments;
use super::{names_of, read_records, whole_segment};
use crate::decode::{Decoder, Expected, Timelines};
use crate::store::identity::Identity;
use crate::store::{Prefix, Store, layout, partial};
use crate::succession::history_in;
use crate::walsender::Timestamp;
use crate::{HistoryFile, SegmentNo, TimelineId, WalFileName};

/// What a store has, up to its first hole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreLook {
    pub identity: Identity,
    /// The newest one that it has anything of.
    pub timeline: TimelineId,
    /// How that one came to be; `None` if the store does not have its history.
    pub history: Option<Arc<HistoryFile>>,
    /// Behind the last whole record.
    pub boundary: Lsn,
    /// The server's clock when the last transaction committed; `None` if the last two segments have no commit.
    pub last_commit: Option<Timestamp>,
}

/// `None`: the store has no WAL.
pub async fn look(store: &dyn Store) -> Result<Option<StoreLook>, TailError> {
    let Some(identity) = Identity::read(store).await? else {
        return Ok(None);
    };
    let size = identity.segment_size;
    let mut timelines = BTreeSet::new();
    for object in store.list(&layout::wal_files()).await? {
        if let Some(WalFileName::Segment(segment)) = layout::wal_file_of(&object.name) {
            timelines.insert(segment.timeline());
        }
    }
    for partial in store.partials(&Prefix::default()).await? {
        timelines.extend(layout::segment_of(&partial.name).map(|segment| segment.timeline()));
    }
    let Some(timeline) = timelines.last().copied() else {
        return Ok(None);
    };
    let history = history_in(store, timeline).await?.map(Arc::new);
    // A timeline whose history is not there is taken for a first one.
    let path = history.clone();
    let path = path.unwrap_or_else(|| Arc::new(HistoryFile::root(timeline)));
    let Some(open) = open_segments(store, identity, timeline).await? else {
        return Ok(None);
    };
    let mut number = open.first().copied().unwrap_or(SegmentNo::new(0));
    let expected = Expected {
        system_id: Some(identity.system_id),
        timelines: Timelines::Of(path.clone()),
        ..Expected::default()
    };
    let mut last_commit = None;
    let mut decoder = Decoder::new(number.start(size), size, expected.clone());
    if let Some(before) = number.as_u64().checked_sub(1).map(SegmentNo::new)
        && let Some(bytes) = whole_segment(store, &path, before, size).await
    {
        let mut warm = Decoder::new(before.start(size), size, expected);
        if read_records(&mut warm, &bytes, &mut last_commit).is_ok() {
            decoder = warm;
        }
    }
    // Full partials follow each other when a writer died before it had put the segments in their place.
    while let Some(name) = names_of(&path, number, size).first().copied()
        && let Some(read) = partial::read(store, name, size).await?
    {
        let sound = read_records(&mut decoder, &read.wal, &mut last_commit);
        if sound.is_err() || (read.wal.len() as u64) < size.bytes() {
            break;
        }
        number = number.next();
    }
    Ok(Some(StoreLook {
        identity,
        timeline,
        history,
        boundary: decoder.record_boundary().unwrap_or(number.start(size)),
        last_commit,
    }))
}
