//! A store that was made after a promotion gets the histories of the timeline from beside its segments: nobody archives them
//! again, and without them there is no way to what lies in that store.

use std::path::Path;
use std::sync::PoisonError;
use std::time::Duration;

use super::{ArchiveError, Archiver};
use crate::store::layout;
use crate::{HistoryFile, TimelineId, WalFileName};

/// PostgreSQL waits meanwhile.
const ANSWER: Duration = Duration::from_secs(2);

impl Archiver {
    /// Of the timeline of a segment in `dir`, which was archived. A store that does not take them, or does not answer, is
    /// tried again with the next segment.
    pub(super) async fn histories(&self, name: WalFileName, dir: Option<&Path>) {
        let (WalFileName::Segment(segment), Some(dir)) = (name, dir) else {
            return;
        };
        let own = segment.timeline();
        let known = || self.histories.lock().unwrap_or_else(PoisonError::into_inner);
        if own == TimelineId::FIRST || known().contains(&own) {
            return;
        }
        match self.put_histories(own, dir).await {
            Ok(true) => drop(known().insert(own)),
            Ok(false) => {}
            Err(error) => {
                let error: &dyn std::error::Error = &error;
                tracing::warn!(%name, error, "a store may lack the history of its timeline");
            }
        }
    }

    /// Whether all stores have them now, as far as the server does.
    async fn put_histories(&self, own: TimelineId, dir: &Path) -> Result<bool, ArchiveError> {
        let text_of = |timeline| std::fs::read(dir.join(WalFileName::History(timeline).to_string())).ok();
        let Some(text) = text_of(own) else { return Ok(true) };
        let history = HistoryFile::parse(own, &String::from_utf8_lossy(&text));
        let mut timelines = vec![own];
        if let Ok(history) = history {
            let ancestors = history.ancestors().iter().map(|ancestor| ancestor.timeline);
            timelines.extend(ancestors.filter(|timeline| *timeline != TimelineId::FIRST));
        }
        let mut everywhere = true;
        for timeline in timelines {
            let name = WalFileName::History(timeline);
            let object = layout::object_of(name);
            let mut lack = Vec::new();
            for (place, store) in self.settings.stores.iter().enumerate() {
                if self.keeper.is_late(place) {
                    everywhere = false;
                    continue;
                }
                match tokio::time::timeout(ANSWER, store.head(&object)).await {
                    Ok(Ok(Some(_))) => {}
                    Ok(Ok(None)) => lack.push(place),
                    Ok(Err(_)) | Err(_) => everywhere = false,
                }
            }
            let Some(text) = text_of(timeline).filter(|_| !lack.is_empty()) else {
                continue;
            };
            for (_, kept) in self.archive_bytes(name, text, &lack).await? {
                kept?;
            }
        }
        Ok(everywhere)
    }
}
