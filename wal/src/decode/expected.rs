//! What the caller knows about the WAL before it is read.

use std::sync::Arc;

use skytide_sql::Lsn;

use super::error::WalFault;
use crate::TimelineId;
use crate::format::page::PageSize;
use crate::format::version::Major;
use crate::timeline::HistoryFile;

/// What WAL has to be to be ours. What is `None` is learnt from the first header that says it, and held against the
/// next ones.
#[derive(Clone, Debug)]
pub struct Expected {
    pub system_id: Option<u64>,
    pub major: Option<Major>,
    pub timelines: Timelines,
    /// Bytes of a data page (`BLCKSZ`; `pg_control` says it), which bound the page images in records.
    pub block_size: u32,
}

impl Default for Expected {
    fn default() -> Self {
        Expected {
            system_id: None,
            major: None,
            timelines: Timelines::Any,
            block_size: 8192,
        }
    }
}

/// Which timelines pages may be of. They never go back, whatever is chosen.
#[derive(Clone, Debug)]
pub enum Timelines {
    Any,
    /// Pages of this timeline's files: its own, or older ones.
    UpTo(TimelineId),
    /// Pages of this timeline and its ancestors, each where it was current.
    Of(Arc<HistoryFile>),
}

impl Timelines {
    pub(super) fn check(&self, page: Lsn, timeline: u32, size: PageSize) -> Result<(), WalFault> {
        let wrong = || WalFault::Timeline { found: timeline };
        let id = TimelineId::new(timeline).ok_or_else(wrong)?;
        let fits = match self {
            Timelines::Any => true,
            Timelines::UpTo(newest) => id <= *newest,
            // The page with the switch in it is still the parent's.
            Timelines::Of(history) => history.range_of(id).is_some_and(|(begin, end)| {
                page.as_u64().saturating_add(size.bytes()) > begin.as_u64()
                    && end.is_none_or(|end| page < end)
            }),
        };
        fits.then_some(()).ok_or_else(wrong)
    }
}
