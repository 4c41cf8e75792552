//! Moves rows: bytes of COPY TO go to COPY FROM as they are, over several connections.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::BytesMut;
use futures_util::{SinkExt, StreamExt, pin_mut};
use skytide_sql::conn::{ConnectString, Session};
use tokio::task::JoinSet;
use tokio_postgres::Client;

use super::CopyError;
use super::plan::{CopyPlan, PageRange};
use super::progress::Progress;
use super::snapshot::CopySnapshot;
use crate::apply::connect_subscriber;

/// One CopyData message to the subscriber: large enough that its cost is that of its bytes.
const MESSAGE_BYTES: usize = 128 * 1024;

/// Both ends of a copy.
pub struct Ends<'a> {
    pub provider: &'a ConnectString,
    pub subscriber: &'a ConnectString,
    pub application_name: &'a str,
    /// How long rows wait for a lock on the subscriber's table, with the provider's table held.
    pub lock_timeout: Duration,
}

/// Copies all ranges; each connection commits its own, so a reader of the subscriber sees a growing
/// table, and a copy that dies must start from an empty one. Returns the number of rows.
pub async fn copy_rows(
    ends: &Ends<'_>,
    plan: &Arc<CopyPlan>,
    snapshot: &CopySnapshot,
    ranges: Vec<PageRange>,
    connections: usize,
    progress: &Arc<Progress>,
) -> Result<u64, CopyError> {
    let connections = connections.clamp(1, ranges.len().max(1));
    let queue = Arc::new(Mutex::new(VecDeque::from(ranges)));
    // All of them have the table's lock before the first begins.
    let mut sources = Vec::new();
    for _ in 0..connections {
        sources.push(snapshot.join(ends.provider, ends.application_name).await?);
    }
    let mut pipes = JoinSet::new();
    for source in sources {
        let dest = connect_subscriber(ends.subscriber, ends.application_name).await?;
        dest.batch_execute(&format!("set lock_timeout = {}", ends.lock_timeout.as_millis()))
            .await?;
        let (plan, queue, progress) = (Arc::clone(plan), Arc::clone(&queue), Arc::clone(progress));
        pipes.spawn(async move { pipe(source, dest, &plan, &queue, &progress).await });
    }
    let mut rows = 0;
    while let Some(done) = pipes.join_next().await {
        rows += done
            .map_err(|_| CopyError::Cancelled)?
            .map_err(|e| e.or_locked(&plan.dest, "subscriber"))?;
    }
    Ok(rows)
}

async fn pipe(
    source: Session,
    dest: Session,
    plan: &CopyPlan,
    queue: &Mutex<VecDeque<PageRange>>,
    progress: &Progress,
) -> Result<u64, CopyError> {
    let mut rows = 0;
    let next = || {
        queue
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .pop_front()
    };
    while let Some(range) = next() {
        rows += copy_range(&source, &dest, plan, range, progress).await?;
        fail::fail_point!("copy::mid_copy");
    }
    Ok(rows)
}

/// Copies one range; it is there once the transaction around it commits.
pub(super) async fn copy_range(
    source: &Client,
    dest: &Client,
    plan: &CopyPlan,
    range: PageRange,
    progress: &Progress,
) -> Result<u64, CopyError> {
    let out = source.copy_out(&plan.copy_out(range)).await?;
    let sink = dest.copy_in(&plan.copy_in()).await?;
    pin_mut!(out, sink);
    let mut message = BytesMut::with_capacity(MESSAGE_BYTES + 8192);
    let mut rows = 0;
    while let Some(row) = out.next().await {
        message.extend_from_slice(&row?);
        rows += 1;
        if message.len() >= MESSAGE_BYTES {
            progress.add(rows, message.len() as u64);
            rows = 0;
            sink.feed(message.split().freeze()).await?;
            message.reserve(MESSAGE_BYTES + 8192);
        }
    }
    progress.add(rows, message.len() as u64);
    sink.feed(message.freeze()).await?;
    Ok(sink.finish().await?)
}
