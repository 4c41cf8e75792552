//! From a data directory into the stores, timeline after timeline.

use std::sync::Arc;

use skytide_sql::Lsn;

use super::ShipError;
use super::dir::WalDir;
use crate::tail::{self, Pace, Tail, Window, next_after, start_of, survey_all};
use crate::{HistoryFile, SegmentNo};

/// Bytes that are read at once.
const CHUNK: u64 = 1 << 20;

pub(super) struct Feed {
    dir: WalDir,
    settings: tail::Settings,
    path: Arc<HistoryFile>,
    window: Arc<Window>,
    pub tail: Tail,
}

impl Feed {
    /// After what the stores have; if they have nothing, from the segment with `otherwise` on.
    pub async fn begin(
        dir: WalDir,
        settings: tail::Settings,
        path: Arc<HistoryFile>,
        window: Arc<Window>,
        otherwise: Lsn,
    ) -> Result<Feed, ShipError> {
        let size = settings.identity.segment_size;
        let ends = survey_all(&settings.stores, settings.identity, &path).await?;
        let (timeline, first) = start_of(&ends, &path, None, size)
            .unwrap_or((path.timeline(), SegmentNo::holding(otherwise, size)));
        let own_path = path.up_to(timeline).map_or_else(|| path.clone(), Arc::new);
        let tail = Tail::begin(settings.clone(), own_path, first, window.clone()).await?;
        let mut feed = Feed {
            dir,
            settings,
            path,
            window,
            tail,
        };
        feed.put_histories().await?;
        Ok(feed)
    }

    async fn put_histories(&mut self) -> Result<(), ShipError> {
        let ancestors = self.path.ancestors().iter().map(|ancestor| ancestor.timeline);
        let timelines: Vec<_> = ancestors.chain([self.path.timeline()]).collect();
        for timeline in timelines {
            if timeline > self.tail.timeline() {
                break;
            }
            // An ancestor's file may have gone with its segments; the timeline's own one was read before.
            match self.dir.history(timeline) {
                Ok((_, Some(text))) => self.tail.put_history(timeline, text).await?,
                Ok((_, None)) => {}
                Err(error) if timeline == self.path.timeline() => return Err(error),
                Err(error) => {
                    tracing::debug!(error = crate::tail::words(&error), "no history of an ancestor")
                }
            }
        }
        Ok(())
    }

    /// Copies everything below `upto`, which is final there.
    pub async fn up_to(&mut self, upto: Lsn) -> Result<(), ShipError> {
        loop {
            let next = next_after(&self.path, self.tail.timeline());
            let limit = next.map_or(upto, |(_, switch)| switch.min(upto));
            while self.tail.end() < limit {
                let from = self.tail.end();
                let most = CHUNK.min(limit.bytes_since(from).unwrap_or(0));
                let bytes = self
                    .dir
                    .read_apart(&self.path, from, most)
                    .await?
                    .unwrap_or_default();
                if bytes.is_empty() {
                    self.tail.publish(Pace::Now).await?;
                    let timeline = self.tail.timeline();
                    return Err(ShipError::Removed { timeline, from });
                }
                if let Err(error) = self.tail.take(from, &bytes) {
                    self.tail.finish().await?;
                    return Err(error.into());
                }
                let pace = match limit > self.tail.segment_end() {
                    true => Pace::CatchUp,
                    false => Pace::Now,
                };
                // Piece after piece of one segment would be an fsync each.
                if pace == Pace::CatchUp || self.tail.end() >= limit {
                    self.tail.publish(pace).await?;
                }
            }
            match next {
                Some((timeline, switch)) if self.tail.end() >= switch && upto > switch => {
                    self.tail.finish().await?;
                    let first = SegmentNo::holding(switch, self.settings.identity.segment_size);
                    let path = self
                        .path
                        .up_to(timeline)
                        .map_or_else(|| self.path.clone(), Arc::new);
                    let (settings, window) = (self.settings.clone(), self.window.clone());
                    self.tail = Tail::begin(settings, path, first, window).await?;
                    self.put_histories().await?;
                }
                _ => break,
            }
        }
        self.tail.publish(Pace::Now).await?;
        Ok(())
    }
}
