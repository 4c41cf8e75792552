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

/// Who left `timeline` first, of all whose history is in this store. A history that cannot be read says nothing: what it
/// would forbid is told apart by other means, and nobody may be kept from archiving by a damaged file.
///
/// One listing, and nothing more as long as no timeline is newer.
pub async fn successor_of(store: &dyn Store, timeline: TimelineId) -> Result<Option<Successor>, StoreError> {
    let mut first: Option<Successor> = None;
    for object in store.list(&layout::histories()).await? {
        let Some(WalFileName::History(newer)) = layout::wal_file_of(&object.name) else {
            continue;
        };
        if newer <= timeline {
            continue;
        }
        let text = store.get(&object.name).await?;
        let text = text.and_then(|packed| crate::pack::unpack(&packed).ok());
        let text = text.and_then(|(_, text)| String::from_utf8(text).ok());
        let Some(history) = text.and_then(|text| HistoryFile::parse(newer, &text).ok()) else {
            tracing::warn!(store = store.location(), object = %object.name, "a history cannot be read");
            continue;
        };
        if let Some((_, Some(lsn))) = history.range_of(timeline)
            && first.is_none_or(|first| lsn < first.lsn)
        {
            first = Some(Successor { timeline: newer, lsn });
        }
    }
    Ok(first)
}
