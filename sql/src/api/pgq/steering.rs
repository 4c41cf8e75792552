//! Steering consumers: move, empty, pause; and who holds rotation.

use std::time::{Duration, SystemTime};

use tokio_postgres::GenericClient;

use super::seconds;
use crate::api::{ApiError, call, many};
use crate::{ConsumerName, QueueName, TickId};

/// Moves a consumer to a tick; drops its open batch.
pub async fn seek_consumer<C: GenericClient>(
    client: &C,
    queue: &QueueName,
    consumer: &ConsumerName,
    tick: TickId,
) -> Result<TickId, ApiError> {
    let row = call!(
        client,
        "pgq.seek_consumer",
        "($1, $2, $3::int8)",
        [&queue.as_str(), &consumer.as_str(), &tick.get()]
    )?;
    Ok(TickId::new(row.try_get(0)?))
}

/// Moves a consumer to the last tick before a time, or to the oldest one; says which.
pub async fn seek_consumer_to_time<C: GenericClient>(
    client: &C,
    queue: &QueueName,
    consumer: &ConsumerName,
    time: SystemTime,
) -> Result<TickId, ApiError> {
    let row = call!(
        client,
        "pgq.seek_consumer",
        "($1, $2, $3::timestamptz)",
        [&queue.as_str(), &consumer.as_str(), &time]
    )?;
    Ok(TickId::new(row.try_get(0)?))
}

/// Skips all events there are, retried ones too; gives the tick the consumer is at then.
pub async fn purge_consumer<C: GenericClient>(
    client: &C,
    queue: &QueueName,
    consumer: &ConsumerName,
) -> Result<TickId, ApiError> {
    let row = call!(
        client,
        "pgq.purge_consumer",
        "($1, $2)",
        [&queue.as_str(), &consumer.as_str()]
    )?;
    Ok(TickId::new(row.try_get(0)?))
}

/// Gives a consumer no new batches. `false`: it was paused.
pub async fn pause_consumer<C: GenericClient>(
    client: &C,
    queue: &QueueName,
    consumer: &ConsumerName,
) -> Result<bool, ApiError> {
    let row = call!(
        client,
        "pgq.pause_consumer",
        "($1, $2)",
        [&queue.as_str(), &consumer.as_str()]
    )?;
    Ok(row.try_get::<_, i32>(0)? == 1)
}

/// Gives a paused consumer batches again. `false`: it was not paused.
pub async fn resume_consumer<C: GenericClient>(
    client: &C,
    queue: &QueueName,
    consumer: &ConsumerName,
) -> Result<bool, ApiError> {
    let row = call!(
        client,
        "pgq.resume_consumer",
        "($1, $2)",
        [&queue.as_str(), &consumer.as_str()]
    )?;
    Ok(row.try_get::<_, i32>(0)? == 1)
}

/// Names of a queue's consumers that are paused.
pub async fn paused_consumers<C: GenericClient>(
    client: &C,
    queue: &QueueName,
) -> Result<Vec<String>, ApiError> {
    let rows = many(
        client,
        "read pgq.subscriber",
        "select c.co_name \
           from pgq.subscriber s \
           join pgq.queue q on q.queue_id = s.sub_queue \
           join pgq.consumer c on c.co_id = s.sub_consumer \
          where q.queue_name = $1 and s.sub_paused",
        &[&queue.as_str()],
    )
    .await?;
    rows.iter().map(|row| Ok(row.try_get(0)?)).collect()
}

/// What keeps a queue's event tables from being rotated, and the disk from being freed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RotationBlocker {
    /// `consumer`, `transaction`, `prepared`, `ticker`, `lock`, `maintenance`.
    pub kind: String,
    pub who: Option<String>,
    pub pid: Option<i32>,
    pub held_for: Option<Duration>,
    /// How long rotation waits.
    pub overdue: Option<Duration>,
    pub detail: Option<String>,
}

pub async fn get_rotation_blockers<C: GenericClient>(
    client: &C,
    queue: &QueueName,
) -> Result<Vec<RotationBlocker>, ApiError> {
    let rows = many(
        client,
        "pgq.get_rotation_blockers",
        "select kind, who, pid, extract(epoch from held_for)::float8 as held_for, \
                extract(epoch from overdue)::float8 as overdue, detail \
           from pgq.get_rotation_blockers($1)",
        &[&queue.as_str()],
    )
    .await?;
    rows.iter()
        .map(|row| {
            Ok(RotationBlocker {
                kind: row.try_get("kind")?,
                who: row.try_get("who")?,
                pid: row.try_get("pid")?,
                held_for: row.try_get::<_, Option<f64>>("held_for")?.map(seconds),
                overdue: row.try_get::<_, Option<f64>>("overdue")?.map(seconds),
                detail: row.try_get("detail")?,
            })
        })
        .collect()
}
