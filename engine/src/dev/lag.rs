//! How long a commit takes to become visible on the other side, measured from outside: a row is
//! committed on the provider every so often, and the subscriber is asked until it has it.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::world::World;

const SEND_EVERY: Duration = Duration::from_millis(25);
/// How finely arrival is seen.
const LOOK_EVERY: Duration = Duration::from_millis(2);

#[derive(Default)]
struct Seen {
    /// Pulses on their way, oldest first, and when their commit returned.
    under_way: VecDeque<(i64, Instant)>,
    lags: Vec<Duration>,
}

/// Pulses being sent and awaited, until this is dropped.
pub struct Pulse {
    seen: Arc<Mutex<Seen>>,
    cancel: CancellationToken,
    tasks: JoinSet<anyhow::Result<()>>,
}

impl Pulse {
    pub async fn start(world: &World) -> anyhow::Result<Pulse> {
        let sender = world.provider_session("skytide dev pulse").await?;
        let looker = world.subscriber_session("skytide dev pulse").await?;
        let first: i64 = sender
            .query_one("select coalesce(max(id), 0) + 1 from pulse", &[])
            .await?
            .get(0);
        let seen = Arc::new(Mutex::new(Seen::default()));
        let cancel = CancellationToken::new();
        let mut tasks = JoinSet::new();
        tasks.spawn({
            let (seen, cancel) = (Arc::clone(&seen), cancel.clone());
            async move {
                let insert = sender.prepare("insert into pulse (id) values ($1)").await?;
                let mut timer = tokio::time::interval(SEND_EVERY);
                timer.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
                let mut id = first;
                while !cancel.is_cancelled() {
                    timer.tick().await;
                    sender.execute(&insert, &[&id]).await?;
                    lock(&seen).under_way.push_back((id, Instant::now()));
                    id += 1;
                }
                Ok(())
            }
        });
        tasks.spawn({
            let (seen, cancel) = (Arc::clone(&seen), cancel.clone());
            async move {
                let newest = looker
                    .prepare("select id from pulse order by id desc limit 1")
                    .await?;
                let mut timer = tokio::time::interval(LOOK_EVERY);
                timer.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
                while !cancel.is_cancelled() {
                    timer.tick().await;
                    let found = looker.query_opt(&newest, &[]).await?;
                    let Some(arrived) = found.map(|row| row.get::<_, i64>(0)) else {
                        continue;
                    };
                    let mut seen = lock(&seen);
                    while let Some((_, sent)) = seen.under_way.pop_front_if(|(id, _)| *id <= arrived) {
                        seen.lags.push(sent.elapsed());
                    }
                }
                Ok(())
            }
        });
        Ok(Pulse { seen, cancel, tasks })
    }

    /// What arrived since the last call.
    pub fn take(&self) -> Vec<Duration> {
        std::mem::take(&mut lock(&self.seen).lags)
    }

    /// How long the oldest pulse that has not arrived is on its way.
    pub fn waiting(&self) -> Option<Duration> {
        lock(&self.seen).under_way.front().map(|(_, sent)| sent.elapsed())
    }

    pub async fn stop(mut self) -> anyhow::Result<()> {
        self.cancel.cancel();
        while let Some(ended) = self.tasks.join_next().await {
            ended??;
        }
        Ok(())
    }
}

fn lock(seen: &Mutex<Seen>) -> std::sync::MutexGuard<'_, Seen> {
    seen.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The lag that so many of a hundred stay within.
pub fn percentile(lags: &[Duration], percent: usize) -> Option<Duration> {
    let mut sorted = lags.to_vec();
    sorted.sort_unstable();
    let at = (sorted.len() * percent).div_ceil(100).saturating_sub(1);
    sorted.get(at).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_values_that_were_seen() {
        let lags: Vec<Duration> = (1..=100).rev().map(Duration::from_millis).collect();
        assert_eq!(percentile(&lags, 50), Some(Duration::from_millis(50)));
        assert_eq!(percentile(&lags, 99), Some(Duration::from_millis(99)));
        assert_eq!(percentile(&lags[..1], 50), Some(Duration::from_millis(100)));
        assert_eq!(percentile(&[], 50), None);
    }
}
