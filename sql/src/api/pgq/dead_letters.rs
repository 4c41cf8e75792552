//! Dead letters: events that failed too often for one consumer.

use std::time::Duration;

use tokio_postgres::GenericClient;

use crate::api::{ApiError, call, many};
use crate::{ConsumerName, EventId, EventTime, QueueName};

/// Names a dead letter.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct DeadLetterId(i64);

impl DeadLetterId {
    pub const fn new(id: i64) -> DeadLetterId {
        DeadLetterId(id)
    }

    pub const fn get(self) -> i64 {
        self.0
    }
}

impl std::fmt::Display for DeadLetterId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DeadLetter {
    pub id: DeadLetterId,
    pub queue_name: String,
    pub consumer_name: String,
    pub dead_since: EventTime,
    pub reason: Option<String>,
    pub event: EventId,
    pub event_time: EventTime,
    pub retry: Option<i32>,
    pub ev_type: Option<String>,
    pub data: Option<String>,
    pub extra: [Option<String>; 4],
}

/// Up to `limit` dead letters after one, in the order of their ids.
pub async fn get_dead_letters<C: GenericClient>(
    client: &C,
    queue: &QueueName,
    consumer: Option<&ConsumerName>,
    after: DeadLetterId,
    limit: i32,
) -> Result<Vec<DeadLetter>, ApiError> {
    let consumer = consumer.map(ConsumerName::as_str);
    let rows = many(
        client,
        "pgq.get_dead_letters",
        "select * from pgq.get_dead_letters($1, $2, $3, $4)",
        &[&queue.as_str(), &consumer, &after.get(), &limit],
    )
    .await?;
    rows.iter()
        .map(|row| {
            Ok(DeadLetter {
                id: DeadLetterId(row.try_get("dl_id")?),
                queue_name: row.try_get("queue_name")?,
                consumer_name: row.try_get("consumer_name")?,
                dead_since: row.try_get("dead_since")?,
                reason: row.try_get("reason")?,
                event: EventId::new(row.try_get("ev_id")?),
                event_time: row.try_get("ev_time")?,
                retry: row.try_get("ev_retry")?,
                ev_type: row.try_get("ev_type")?,
                data: row.try_get("ev_data")?,
                extra: [
                    row.try_get("ev_extra1")?,
                    row.try_get("ev_extra2")?,
                    row.try_get("ev_extra3")?,
                    row.try_get("ev_extra4")?,
                ],
            })
        })
        .collect()
}

/// Gives one to its consumer again. `false`: there is none of this id.
pub async fn dead_letter_replay<C: GenericClient>(client: &C, id: DeadLetterId) -> Result<bool, ApiError> {
    let row = call!(client, "pgq.dead_letter_replay", "($1)", [&id.get()])?;
    Ok(row.try_get::<_, i32>(0)? == 1)
}

/// Gives all of a consumer's to it again; says how many.
pub async fn dead_letter_replay_all<C: GenericClient>(
    client: &C,
    queue: &QueueName,
    consumer: &ConsumerName,
) -> Result<i32, ApiError> {
    let row = call!(
        client,
        "pgq.dead_letter_replay",
        "($1, $2)",
        [&queue.as_str(), &consumer.as_str()]
    )?;
    Ok(row.try_get(0)?)
}

/// Forgets one. `false`: there is none of this id.
pub async fn dead_letter_purge<C: GenericClient>(client: &C, id: DeadLetterId) -> Result<bool, ApiError> {
    let row = call!(client, "pgq.dead_letter_purge", "($1)", [&id.get()])?;
    Ok(row.try_get::<_, i32>(0)? == 1)
}

/// Forgets those of one consumer or all that are at least so old; says how many.
pub async fn dead_letter_purge_older<C: GenericClient>(
    client: &C,
    queue: &QueueName,
    consumer: Option<&ConsumerName>,
    min_age: Duration,
) -> Result<i32, ApiError> {
    let consumer = consumer.map(ConsumerName::as_str);
    let row = call!(
        client,
        "pgq.dead_letter_purge",
        "($1, $2, make_interval(secs => $3))",
        [&queue.as_str(), &consumer, &min_age.as_secs_f64()]
    )?;
    Ok(row.try_get(0)?)
}
