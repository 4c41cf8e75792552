//! Schema `pgq`: queues, ticks, consumers, maintenance.

mod batches;
mod dead_letters;
mod events;
mod steering;

use std::time::Duration;

use tokio_postgres::{GenericClient, Row};

use super::{ApiError, call, many};
use crate::{BatchId, ConsumerName, EventId, QueueName, Snapshot, TickId};

pub use batches::{
    Batch, BatchCalls, BatchSize, Opening, event_dead, event_nack, finish_batch, get_batch_info,
};
pub use dead_letters::{
    DeadLetter, DeadLetterId, dead_letter_purge, dead_letter_purge_older, dead_letter_replay,
    dead_letter_replay_all, get_dead_letters,
};
pub use events::{
    Event, NewEvent, has_insert_events, insert_event_full, insert_events, insert_events_at_their_time,
    insert_events_one_by_one,
};
pub use steering::{
    RotationBlocker, get_rotation_blockers, pause_consumer, paused_consumers, purge_consumer,
    resume_consumer, seek_consumer, seek_consumer_to_time,
};

/// The channel on which a tick is asked for; the payload is the queue's name.
pub const TICK_WANTED_CHANNEL: &str = "pgq_tick_wanted";

/// Whether a call made something or found it made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Made {
    New,
    WasThere,
}

impl Made {
    pub(super) fn read(row: &Row) -> Result<Made, ApiError> {
        Ok(match row.try_get::<_, i32>(0)? {
            0 => Made::WasThere,
            _ => Made::New,
        })
    }
}

pub async fn version<C: GenericClient>(client: &C) -> Result<String, ApiError> {
    Ok(call!(client, "pgq.version", "()", [])?.try_get(0)?)
}

pub async fn create_queue<C: GenericClient>(client: &C, queue: &QueueName) -> Result<Made, ApiError> {
    Made::read(&call!(client, "pgq.create_queue", "($1)", [&queue.as_str()])?)
}

/// Whether consumers that are still there go with the queue.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Consumers {
    Unregister,
    Refuse,
}

pub async fn drop_queue<C: GenericClient>(
    client: &C,
    queue: &QueueName,
    consumers: Consumers,
) -> Result<(), ApiError> {
    let force = consumers == Consumers::Unregister;
    call!(client, "pgq.drop_queue", "($1, $2)", [&queue.as_str(), &force])?;
    Ok(())
}

pub async fn set_queue_config<C: GenericClient>(
    client: &C,
    queue: &QueueName,
    parameter: &str,
    value: &str,
) -> Result<(), ApiError> {
    call!(
        client,
        "pgq.set_queue_config",
        "($1, $2, $3)",
        [&queue.as_str(), &parameter, &value]
    )?;
    Ok(())
}

pub async fn insert_event<C: GenericClient>(
    client: &C,
    queue: &QueueName,
    ev_type: &str,
    ev_data: &str,
) -> Result<EventId, ApiError> {
    let row = call!(
        client,
        "pgq.insert_event",
        "($1, $2, $3)",
        [&queue.as_str(), &ev_type, &ev_data]
    )?;
    Ok(EventId::new(row.try_get(0)?))
}

/// Makes the ticks that are due in all queues; says how many.
pub async fn ticker<C: GenericClient>(client: &C) -> Result<i64, ApiError> {
    Ok(call!(client, "pgq.ticker", "()", [])?.try_get(0)?)
}

/// Makes a tick if the queue's rules ask for one.
pub async fn ticker_of<C: GenericClient>(client: &C, queue: &QueueName) -> Result<Option<TickId>, ApiError> {
    tick(&call!(client, "pgq.ticker", "($1)", [&queue.as_str()])?)
}

/// Makes a tick unless the newest one is younger than `min_age`.
pub async fn tick_now<C: GenericClient>(
    client: &C,
    queue: &QueueName,
    min_age: Duration,
) -> Result<Option<TickId>, ApiError> {
    let seconds = min_age.as_secs_f64();
    tick(&call!(
        client,
        "pgq.tick_now",
        "($1, make_interval(secs => $2))",
        [&queue.as_str(), &seconds]
    )?)
}

/// Asks the ticker for a tick; it hears it when the transaction commits.
pub async fn want_tick<C: GenericClient>(client: &C, queue: &QueueName) -> Result<(), ApiError> {
    call!(client, "pgq.want_tick", "($1)", [&queue.as_str()])?;
    Ok(())
}

/// Has the session notified of each tick of the queue. Gives the channel; nothing where the queue's PgQ cannot do
/// so, or the role may not ask.
pub async fn watch_ticks<C: GenericClient>(
    client: &C,
    queue: &QueueName,
) -> Result<Option<String>, ApiError> {
    let failed = |source| ApiError::Call {
        function: "pgq.watch_ticks",
        source,
    };
    let known =
        "select coalesce(has_function_privilege(to_regprocedure('pgq.watch_ticks(text)'), 'execute'), false)";
    if !client
        .query_one(known, &[])
        .await
        .map_err(failed)?
        .get::<_, bool>(0)
    {
        return Ok(None);
    }
    let row = call!(client, "pgq.watch_ticks", "($1)", [&queue.as_str()])?;
    Ok(Some(row.try_get(0)?))
}

/// Makes the ticker tick at its next look; gives the newest tick there is now.
pub async fn force_tick<C: GenericClient>(client: &C, queue: &QueueName) -> Result<Option<TickId>, ApiError> {
    tick(&call!(client, "pgq.force_tick", "($1)", [&queue.as_str()])?)
}

/// Keeps others from making ticks until the transaction ends. Then take a snapshot elsewhere and call
/// [`tick_at_snapshot`].
pub async fn lock_ticks<C: GenericClient>(client: &C, queue: &QueueName) -> Result<i32, ApiError> {
    Ok(call!(client, "pgq.lock_ticks", "($1)", [&queue.as_str()])?.try_get(0)?)
}

/// Makes a tick of exactly this snapshot, and inserts an event, which falls into a later batch.
pub async fn tick_at_snapshot<C: GenericClient>(
    client: &C,
    queue: &QueueName,
    snapshot: &Snapshot,
    ev_type: &str,
    ev_data: &str,
) -> Result<TickId, ApiError> {
    let row = call!(
        client,
        "pgq.tick_at_snapshot",
        "($1, $2::text::txid_snapshot, $3, $4)",
        [&queue.as_str(), &snapshot.to_string(), &ev_type, &ev_data]
    )?;
    Ok(TickId::new(row.try_get(0)?))
}

fn tick(row: &Row) -> Result<Option<TickId>, ApiError> {
    Ok(row.try_get::<_, Option<i64>>(0)?.map(TickId::new))
}

/// Something maintenance has to do: `vacuum` of a table, or a function to call in its own transaction.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MaintOperation {
    pub function: String,
    pub argument: Option<String>,
}

pub async fn maint_operations<C: GenericClient>(client: &C) -> Result<Vec<MaintOperation>, ApiError> {
    let rows = call!(many client, "pgq.maint_operations", "()", [])?;
    rows.iter()
        .map(|row| {
            Ok(MaintOperation {
                function: row.try_get("func_name")?,
                argument: row.try_get("func_arg")?,
            })
        })
        .collect()
}

/// Moves due retry events back into their queues, a few at a time; says how many. Call until 0.
pub async fn maint_retry_events<C: GenericClient>(client: &C) -> Result<i32, ApiError> {
    Ok(call!(client, "pgq.maint_retry_events", "()", [])?.try_get(0)?)
}

/// Subscribes from the newest tick on; leaves the position of one that is subscribed.
pub async fn register_consumer<C: GenericClient>(
    client: &C,
    queue: &QueueName,
    consumer: &ConsumerName,
) -> Result<Made, ApiError> {
    Made::read(&call!(
        client,
        "pgq.register_consumer",
        "($1, $2)",
        [&queue.as_str(), &consumer.as_str()]
    )?)
}

/// Subscribes at a tick, or moves there.
pub async fn register_consumer_at<C: GenericClient>(
    client: &C,
    queue: &QueueName,
    consumer: &ConsumerName,
    tick: TickId,
) -> Result<Made, ApiError> {
    Made::read(&call!(
        client,
        "pgq.register_consumer_at",
        "($1, $2, $3)",
        [&queue.as_str(), &consumer.as_str(), &tick.get()]
    )?)
}

/// Ends a subscription; gives the number of subscriptions that went.
pub async fn unregister_consumer<C: GenericClient>(
    client: &C,
    queue: &QueueName,
    consumer: &ConsumerName,
) -> Result<i32, ApiError> {
    let row = call!(
        client,
        "pgq.unregister_consumer",
        "($1, $2)",
        [&queue.as_str(), &consumer.as_str()]
    )?;
    Ok(row.try_get(0)?)
}

/// Settings and state of a queue.
#[derive(Clone, PartialEq, Debug)]
pub struct QueueInfo {
    pub queue_name: String,
    pub rotation_period: Duration,
    pub external_ticker: bool,
    pub ticker_paused: bool,
    pub ticker_max_count: i32,
    pub ticker_max_lag: Duration,
    pub ticker_idle_period: Duration,
    /// Age of the newest tick.
    pub ticker_lag: Option<Duration>,
    /// Over the last 20 ticks.
    pub ev_per_sec: Option<f64>,
    /// Move of the event sequence since the newest tick.
    pub ev_new: Option<i64>,
    pub last_tick: Option<TickId>,
}

const QUEUE_INFO: &str = "\
    select queue_name, extract(epoch from queue_rotation_period)::float8 as rotation_period, \
           queue_external_ticker, queue_ticker_paused, queue_ticker_max_count, \
           extract(epoch from queue_ticker_max_lag)::float8 as max_lag, \
           extract(epoch from queue_ticker_idle_period)::float8 as idle_period, \
           extract(epoch from ticker_lag)::float8 as ticker_lag, ev_per_sec, ev_new, last_tick_id \
      from pgq.get_queue_info($1)";

/// One queue, or all.
pub async fn get_queue_info<C: GenericClient>(
    client: &C,
    queue: Option<&QueueName>,
) -> Result<Vec<QueueInfo>, ApiError> {
    let queue = queue.map(QueueName::as_str);
    let rows = many(client, "pgq.get_queue_info", QUEUE_INFO, &[&queue]).await?;
    rows.iter()
        .map(|row| {
            Ok(QueueInfo {
                queue_name: row.try_get("queue_name")?,
                rotation_period: seconds(row.try_get("rotation_period")?),
                external_ticker: row.try_get("queue_external_ticker")?,
                ticker_paused: row.try_get("queue_ticker_paused")?,
                ticker_max_count: row.try_get("queue_ticker_max_count")?,
                ticker_max_lag: seconds(row.try_get("max_lag")?),
                ticker_idle_period: seconds(row.try_get("idle_period")?),
                ticker_lag: row.try_get::<_, Option<f64>>("ticker_lag")?.map(seconds),
                ev_per_sec: row.try_get("ev_per_sec")?,
                ev_new: row.try_get("ev_new")?,
                last_tick: row.try_get::<_, Option<i64>>("last_tick_id")?.map(TickId::new),
            })
        })
        .collect()
}

/// A consumer's position in a queue.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ConsumerInfo {
    pub queue_name: String,
    pub consumer_name: String,
    /// Age of the last finished tick.
    pub lag: Option<Duration>,
    /// Since the consumer's last action.
    pub last_seen: Duration,
    pub last_tick: Option<TickId>,
    pub current_batch: Option<BatchId>,
    pub next_tick: Option<TickId>,
    pub pending_events: Option<i64>,
}

const CONSUMER_INFO: &str = "\
    select queue_name, consumer_name, extract(epoch from lag)::float8 as lag, \
           extract(epoch from last_seen)::float8 as last_seen, last_tick, current_batch, next_tick, \
           pending_events \
      from pgq.get_consumer_info($1, $2)";

/// One consumer or all, of one queue or all.
pub async fn get_consumer_info<C: GenericClient>(
    client: &C,
    queue: Option<&QueueName>,
    consumer: Option<&ConsumerName>,
) -> Result<Vec<ConsumerInfo>, ApiError> {
    let (queue, consumer) = (queue.map(QueueName::as_str), consumer.map(ConsumerName::as_str));
    let rows = many(
        client,
        "pgq.get_consumer_info",
        CONSUMER_INFO,
        &[&queue, &consumer],
    )
    .await?;
    rows.iter()
        .map(|row| {
            Ok(ConsumerInfo {
                queue_name: row.try_get("queue_name")?,
                consumer_name: row.try_get("consumer_name")?,
                lag: row.try_get::<_, Option<f64>>("lag")?.map(seconds),
                last_seen: seconds(row.try_get("last_seen")?),
                last_tick: row.try_get::<_, Option<i64>>("last_tick")?.map(TickId::new),
                current_batch: row.try_get::<_, Option<i64>>("current_batch")?.map(BatchId::new),
                next_tick: row.try_get::<_, Option<i64>>("next_tick")?.map(TickId::new),
                pending_events: row.try_get("pending_events")?,
            })
        })
        .collect()
}

/// A clock that was set back gives negative ages; those count as none.
fn seconds(value: f64) -> Duration {
    Duration::try_from_secs_f64(value).unwrap_or(Duration::ZERO)
}
