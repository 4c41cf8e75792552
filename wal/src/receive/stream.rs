//! One timeline's stream.

use std::pin::pin;
use std::time::Duration;

use skytide_sql::Lsn;
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::{Phase, ReceiveError, Receiver, Stop};
use crate::tail::{Pace, Tail};
use crate::walsender::{
    Client, CopyBoth, NextTimeline, Positions, ReplyRequested, StreamMessage, WalsenderError,
};

/// What has been received is handed on at least every so many bytes.
const GROUP_BYTES: u64 = 1 << 20;
/// Catching up, what has come of a segment is durable after this time even if the rest is on its way.
const LONGEST_WAIT: Duration = Duration::from_secs(1);
/// More that is known to come is waited for at least so long.
const SHORTEST_WAIT: Duration = Duration::from_millis(2);
/// A server that says nothing for so long is asked; after three times that, it is gone.
const SILENCE: Duration = Duration::from_secs(20);
/// How often it is looked after what is on its way, and after stores that are behind, while nothing comes.
const TEND: Duration = Duration::from_millis(100);
/// How long a polite end may take.
const LEAVE: Duration = Duration::from_secs(5);
/// Segments that stores may lack without being slow.
const UNDER_WAY: u64 = 8;
/// Stores that lack less than this have caught up.
const CAUGHT_UP: u64 = 1 << 20;

pub(super) enum Ended {
    Stopped,
    /// The server's timeline ended, and another one goes on.
    Timeline(Box<Client>, NextTimeline),
}

/// What the server said since we last answered.
#[derive(Default)]
struct Heard {
    server_end: Lsn,
    wants_reply: bool,
}

/// What the slot holds on the server. It may be much when a stream begins, after the receiver was away; then it has to
/// become less.
#[derive(Default)]
struct Backlog {
    least: Option<u64>,
    alarmed: bool,
}

impl Backlog {
    /// By how much it is more than the least there was.
    fn grown(&mut self, held: u64) -> u64 {
        let least = self.least.get_or_insert(held);
        *least = held.min(*least);
        held - *least
    }

    /// Whether somebody has to be told now: once each time that half of the limit is passed.
    fn alarms(&mut self, grown: u64, limit: u64) -> bool {
        let was = self.alarmed;
        self.alarmed = grown > limit / if was { 4 } else { 2 };
        self.alarmed && !was
    }
}

impl Heard {
    fn take(&mut self, message: StreamMessage<'_>, tail: &mut Tail) -> Result<u64, ReceiveError> {
        match message {
            StreamMessage::Data {
                start_lsn,
                wal_end,
                payload,
                ..
            } => {
                tail.take(start_lsn, payload)?;
                self.server_end = self.server_end.max(wal_end).max(tail.end());
                Ok(payload.len() as u64)
            }
            StreamMessage::Keepalive {
                wal_end,
                reply_requested,
                ..
            } => {
                self.server_end = self.server_end.max(wal_end);
                self.wants_reply |= reply_requested;
                Ok(0)
            }
        }
    }
}

impl Receiver {
    /// Streams from the tail's end on, until it is told to stop or the timeline ends.
    pub(super) async fn stream(
        &mut self,
        client: Client,
        tail: &mut Tail,
        mut stop: Stop<'_>,
    ) -> Result<Ended, ReceiveError> {
        let slot = self.settings.slot.clone().filter(|_| !self.without_slot);
        let from = tail.end();
        let mut copy = client
            .start_physical(slot.as_ref(), from, tail.timeline())
            .await?;
        tracing::info!(%from, timeline = %tail.timeline(), slot = slot.is_some(), "receiving");
        self.phase.send_replace(Phase::Streaming {
            timeline: tail.timeline(),
            slot: slot.is_some(),
        });
        let mut ticks = interval(self.settings.status_interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // Another timeline's positions say nothing here.
        self.reported = tail.safe_lsn();
        let mut heard = Heard::default();
        let mut heard_at = Instant::now();
        // Since when something has been waiting to be made durable.
        let mut waiting_since: Option<Instant> = None;
        let mut last_publish = Duration::ZERO;
        let mut backlog = Backlog::default();
        loop {
            let mut silent = false;
            let mut ended = None;
            let mut asked_to_stop = false;
            let has_work = tail.has_work();
            tokio::select! {
                biased;
                () = stop.as_mut() => asked_to_stop = true,
                _ = ticks.tick() => silent = true,
                message = copy.next() => {
                    heard_at = Instant::now();
                    match message {
                        Ok(Some(message)) => ended = heard.take(message, tail).err().map(Err),
                        Ok(None) => ended = Some(Ok(())),
                        Err(error) => ended = Some(Err(error.into())),
                    }
                }
                () = tokio::time::sleep(TEND), if has_work => {}
            }
            let mut group = 0;
            while ended.is_none() && !asked_to_stop && group < GROUP_BYTES {
                match copy.buffered() {
                    Ok(Some(message)) => match heard.take(message, tail) {
                        Ok(bytes) => group += bytes,
                        Err(error) => ended = Some(Err(error)),
                    },
                    Ok(None) => break,
                    Err(error) => ended = Some(Err(error.into())),
                }
            }
            self.window.server(heard.server_end);
            let leaves = ended.is_some() || asked_to_stop;
            if tail.has_unpublished() {
                waiting_since.get_or_insert_with(Instant::now);
            }
            let waited = waiting_since.map_or(Duration::ZERO, |since| since.elapsed());
            let patience = match heard.server_end {
                // Nothing more is known of.
                end if end <= tail.end() || leaves => Duration::ZERO,
                // The rest of the segment is on its way, and comes whole.
                end if end > tail.segment_end() => LONGEST_WAIT,
                // What is on its way is worth as long a wait as making this much durable takes.
                _ => last_publish.clamp(SHORTEST_WAIT, LONGEST_WAIT),
            };
            let pace = match waited < patience {
                true => Pace::CatchUp,
                false => Pace::Now,
            };
            let began = Instant::now();
            let reported = self.reported;
            self.publish(tail, &mut copy, pace, &mut ticks, leaves).await?;
            if !tail.has_unpublished() && waiting_since.take().is_some() {
                last_publish = began.elapsed();
            }
            match ended {
                Some(Err(error)) => return Err(error),
                Some(Ok(())) => return self.follow(copy).await,
                None if asked_to_stop => {
                    self.leave(copy, tail).await;
                    return Ok(Ended::Stopped);
                }
                None => {}
            }
            let quiet = heard_at.elapsed();
            if quiet > 3 * SILENCE {
                return Err(ReceiveError::Silent {
                    seconds: quiet.as_secs(),
                });
            }
            if self.reported != reported || heard.wants_reply || silent {
                heard.wants_reply = false;
                let reply = match quiet > SILENCE {
                    true => ReplyRequested::Yes,
                    false => ReplyRequested::No,
                };
                copy.send_status(&positions(tail, self.reported), reply).await?;
                fail::fail_point!("receive::reported");
            }
            self.check_slot(tail, heard.server_end, slot.is_some(), &mut backlog)?;
        }
    }

    /// Publishes, and lets the server know meanwhile that we live.
    async fn publish(
        &mut self,
        tail: &mut Tail,
        copy: &mut CopyBoth,
        pace: Pace,
        ticks: &mut tokio::time::Interval,
        leaves: bool,
    ) -> Result<(), ReceiveError> {
        let alive = positions(tail, self.reported);
        let result = {
            let mut work = pin!(async {
                match leaves {
                    true => tail.finish().await,
                    false => tail.publish(pace).await,
                }
            });
            loop {
                tokio::select! {
                    biased;
                    result = &mut work => break result,
                    _ = ticks.tick(), if !leaves => {
                        // A dead connection is found out when it is read from.
                        let _ = copy.send_status(&alive, ReplyRequested::No).await;
                    }
                }
            }
        };
        self.reported = tail.safe_lsn();
        Ok(result?)
    }

    fn check_slot(
        &mut self,
        tail: &Tail,
        server_end: Lsn,
        used: bool,
        backlog: &mut Backlog,
    ) -> Result<(), ReceiveError> {
        let (Some(slot), Some(limit)) = (&self.settings.slot, self.settings.slot_limit) else {
            return Ok(());
        };
        if !server_end.is_valid() || !self.reported.is_valid() {
            return Ok(());
        }
        let held = server_end.bytes_since(self.reported).unwrap_or(0);
        let grown = backlog.grown(held);
        // A few segments are under way wherever the server writes much.
        let bound = limit.max(UNDER_WAY * tail.segment_bytes());
        if used && held > limit && (!tail.is_whole() || grown > bound) {
            return Err(ReceiveError::SlotLimit {
                slot: slot.clone(),
                held,
                limit,
            });
        }
        if used && backlog.alarms(grown, bound) {
            tracing::warn!(
                %slot, held, limit,
                "the stores take WAL more slowly than the server writes it; above the limit the slot is dropped"
            );
        }
        if !used && tail.is_whole() && held < CAUGHT_UP {
            self.without_slot = false;
            return Err(ReceiveError::Again);
        }
        Ok(())
    }

    /// The timeline has ended, and everything of it is durable: which one is next?
    async fn follow(&mut self, copy: CopyBoth) -> Result<Ended, ReceiveError> {
        let (client, next) = copy.finish().await?;
        match next {
            Some(next) => Ok(Ended::Timeline(Box::new(client), next)),
            None => Err(WalsenderError::Shutdown.into()),
        }
    }

    /// A last report, and an orderly end of the stream.
    async fn leave(&self, mut copy: CopyBoth, tail: &Tail) {
        let last = positions(tail, self.reported);
        let leave = async {
            copy.send_status(&last, ReplyRequested::No).await?;
            copy.finish().await.map(drop)
        };
        match tokio::time::timeout(LEAVE, leave).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!(%error, "the stream did not end politely"),
            Err(_) => tracing::debug!("the server did not end the stream in time"),
        }
        tracing::info!(end = %tail.end(), "stopped receiving");
    }
}

/// Nothing is ever applied here.
fn positions(tail: &Tail, flush: Lsn) -> Positions {
    Positions {
        write: tail.end(),
        flush,
        apply: Lsn::INVALID,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backlog_counts_from_the_least_there_was_and_alarms_once() {
        let mut backlog = Backlog::default();
        assert_eq!(backlog.grown(1000), 0, "the receiver was away");
        assert_eq!(backlog.grown(400), 0);
        assert_eq!(backlog.grown(460), 60);
        let alarms: Vec<bool> = [60, 40, 51, 80, 26, 51, 25, 51]
            .map(|grown| backlog.alarms(grown, 100))
            .to_vec();
        assert_eq!(alarms, [true, false, false, false, false, false, false, true]);
    }
}
