//! A server that was replaced: somebody else went on from its timeline, and the stores know that one's history.

use skytide_sql::Lsn;

use crate::store::{Store, StoreError, layout};
use crate::{HistoryFile, TimelineId, WalFileName};

/// A timeline that left another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Successor {
    pub timeline: TimelineId,
    /// The first position that is no longer the older timeline's.
    pub lsn: Lsn,
}

/// A timeline's history; `None` if the store does not have it. One that cannot be read is taken for missing: what it
/// would forbid is told apart by other means, and nobody may be kept from archiving by a damaged file.
pub(crate) async fn history_in(
    store: &dyn Store,
    timeline: TimelineId,
) -> Result<Option<HistoryFile>, StoreError> {
    if timeline.as_u32() == 1 {
        return Ok(Some(HistoryFile::root(timeline)));
    }
    let object = layout::object_of(WalFileName::History(timeline));
    let Some(packed) = store.get(&object).await? else {
        return Ok(None);
    };
    let text = crate::pack::unpack(&packed).ok();
    let text = text.and_then(|(_, text)| String::from_utf8(text).ok());
    let history = text.and_then(|text| HistoryFile::parse(timeline, &text).ok());
    if history.is_none() {
        tracing::warn!(store = store.location(), %object, "a history cannot be read");
    }
    Ok(history)
}

/// Who left `timeline` first, of all whose history is in this store. One listing, and nothing more as long as no
/// timeline is newer.
pub async fn successor_of(store: &dyn Store, timeline: TimelineId) -> Result<Option<Successor>, StoreError> {
    let mut first: Option<Successor> = None;
    for object in store.list(&layout::histories()).await? {
        let Some(WalFileName::History(newer)) = layout::wal_file_of(&object.name) else {
            continue;
        };
        if newer > timeline
            && let Some(history) = history_in(store, newer).await?
            && let Some((_, Some(lsn))) = history.range_of(timeline)
            && first.is_none_or(|first| lsn < first.lsn)
        {
            first = Some(Successor { timeline: newer, lsn });
        }
    }
    Ok(first)
}
