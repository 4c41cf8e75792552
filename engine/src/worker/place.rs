//! Where replay begins in the spool.

use std::time::Duration;

use skytide_sql::TickId;
use skytide_sql::api::pgq_node;
use skytide_sql::conn::Session;
use tokio::time::Instant;
use tracing::{debug, warn};

use super::WorkerError;
use super::replay::Context;
use crate::batch::Follower;
use crate::spool::Entry;

/// The place of the subscriber's own position. A spool that lost its tail in a crash gets the tick
/// again from the provider.
pub(super) async fn place_after(context: &Context, tick: TickId) -> Result<Follower, WorkerError> {
    loop {
        let published = context.shared.published.notified();
        if let Some(follower) = Follower::at_tick(&context.spool, tick)? {
            return Ok(follower);
        }
        debug!(%tick, "waiting for the position's tick");
        published.await;
    }
}

/// The first tick from which batches are complete: its snapshot lies wholly after a transaction that
/// began when the slot was there. Nothing is copied yet, so nothing is missed before it.
pub(super) async fn place_at_anchor(context: &Context, control: &Session) -> Result<Follower, WorkerError> {
    let settings = &context.shared.settings;
    let mut reader = context.spool.reader(context.spool.begin());
    let mut told = Instant::now();
    let anchor = 'found: loop {
        let published = context.shared.published.notified();
        while let Some(block) = reader.next_block()? {
            for entry in block.entries() {
                if let Entry::Tick(tick) = entry?
                    && tick.snapshot.xmin() > context.anchor
                {
                    break 'found tick.tick_id;
                }
            }
        }
        context.shared.tick_wanted.notify_one();
        if told.elapsed() > Duration::from_secs(10) {
            told = Instant::now();
            warn!(queue = %settings.queue, "waiting for the first tick: is a ticker running on the provider?");
        }
        tokio::select! {
            () = published => {}
            () = tokio::time::sleep(Duration::from_millis(200)) => {}
        }
    };
    let follower = place_after(context, anchor).await?;
    pgq_node::set_consumer_completed(&**control, &settings.queue, &context.node.worker, anchor).await?;
    Ok(follower)
}
