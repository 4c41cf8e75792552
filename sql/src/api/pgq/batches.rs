//! Batches: taken, read by a cursor, finished.

use std::time::{Duration, SystemTime};

use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, GenericClient, Row, RowStream, Statement};

use crate::api::{ApiError, call, many, one};
use crate::{BatchId, ConsumerName, EventId, QueueName, TickId};

/// How large a batch should be. The default is up to the next tick.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct BatchSize {
    /// Only batches that ended at least so long ago.
    pub min_lag: Option<Duration>,
    /// Wait until there are about so many events …
    pub min_count: Option<i32>,
    /// … or until so much time is in the batch.
    pub min_interval: Option<Duration>,
}

/// An open batch: what became visible between two ticks.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Batch {
    pub id: BatchId,
    pub prev_tick: TickId,
    pub tick: TickId,
    pub start: SystemTime,
    pub end: SystemTime,
    /// How long ago it ended when it was taken, by the server's clock; zero where that was not asked.
    pub lag: Duration,
    /// Whose it is.
    pub consumer_name: String,
}

/// What a consumer calls for each batch, prepared in its session.
pub struct BatchCalls {
    next: Statement,
    events: Statement,
    finish: Statement,
    /// SkyTools' own PgQ takes events one by one.
    retries_many: bool,
}

const RETRIES_MANY: &str = "select coalesce(has_function_privilege(to_regprocedure('pgq.events_retry(int8,int8[],int4)'), 'execute'), false)";

/// Whether the server has a batch's opening on its disk before it gives the batch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Opening {
    /// The batch comes again with the same id and ticks whatever happens: they may be kept as a mark of what is done.
    Durable,
    /// A server that crashes may give its events in another batch, perhaps under the same id. The consumer does
    /// not wait for the disk.
    Unsynced,
}

// The setting holds until the end of the transaction, which is this statement's own.
const NEXT_BATCH: &str = "\
    select *, extract(epoch from clock_timestamp() - cur_tick_time)::float8 as lag, \
           case when $6 then set_config('synchronous_commit', 'off', true) end \
      from pgq.next_batch_custom($1, $2, make_interval(secs => $3), $4, make_interval(secs => $5))";
const BATCH_EVENT_SQL: &str = "select pgq.batch_event_sql($1)";
// A batch of ours that a crash of the server took away may be another consumer's by now.
const FINISH_BATCH: &str = "\
    select coalesce((select pgq.finish_batch($1) from pgq.get_batch_info($1) where consumer_name = $2), 0)";

impl BatchCalls {
    pub async fn prepare(client: &Client) -> Result<BatchCalls, ApiError> {
        let prepare = async |function, sql| {
            let prepared = client.prepare(sql).await;
            prepared.map_err(|source| ApiError::Call { function, source })
        };
        Ok(BatchCalls {
            next: prepare("pgq.next_batch_custom", NEXT_BATCH).await?,
            events: prepare("pgq.batch_event_sql", BATCH_EVENT_SQL).await?,
            finish: prepare("pgq.finish_batch", FINISH_BATCH).await?,
            retries_many: client.query_one(RETRIES_MANY, &[]).await?.try_get(0)?,
        })
    }

    /// Opens the next batch, or gives the one that is open. `None`: there is none yet, or the consumer is paused.
    /// Not for use in a transaction.
    pub async fn next_batch(
        &self,
        client: &Client,
        queue: &QueueName,
        consumer: &ConsumerName,
        size: &BatchSize,
        opening: Opening,
    ) -> Result<Option<Batch>, ApiError> {
        let unsynced = opening == Opening::Unsynced;
        let params: [&(dyn ToSql + Sync); 6] = [
            &queue.as_str(),
            &consumer.as_str(),
            &seconds(size.min_lag),
            &size.min_count,
            &seconds(size.min_interval),
            &unsynced,
        ];
        let row = one(client, "pgq.next_batch_custom", &self.next, &params).await?;
        let Some(id) = row.try_get::<_, Option<i64>>("batch_id")? else {
            return Ok(None);
        };
        Ok(Some(Batch {
            id: BatchId::new(id),
            prev_tick: TickId::new(row.try_get("prev_tick_id")?),
            tick: TickId::new(row.try_get("cur_tick_id")?),
            start: row.try_get("prev_tick_time")?,
            end: row.try_get("cur_tick_time")?,
            // A clock that was set back makes it less than nothing.
            lag: Duration::try_from_secs_f64(row.try_get("lag")?).unwrap_or_default(),
            consumer_name: consumer.as_str().to_owned(),
        }))
    }

    /// The batch's events that fit the filter, a condition in SQL, in the order of their ids, as the server makes
    /// them: [`Event::read`](super::Event::read).
    pub async fn events(
        &self,
        client: &Client,
        batch: BatchId,
        filter: Option<&str>,
    ) -> Result<RowStream, ApiError> {
        let row = one(client, "pgq.batch_event_sql", &self.events, &[&batch.get()]).await?;
        let all: &str = row.try_get(0)?;
        let chosen = filter.map(|filter| {
            format!(
                "select ev_id, ev_time, ev_txid, ev_retry, ev_type, ev_data, ev_extra1, ev_extra2, ev_extra3, ev_extra4 \
                   from ({all}) as events where {filter} order by 1"
            )
        });
        let sql = chosen.as_deref().unwrap_or(all);
        // A statement without a name: it is never seen again.
        let rows = client.query_typed_raw::<&(dyn ToSql + Sync), _>(sql, []).await;
        rows.map_err(|source| ApiError::Call {
            function: "pgq.batch_event_sql",
            source,
        })
    }

    /// Has events delivered again after a pause.
    pub async fn retry<C: GenericClient>(
        &self,
        client: &C,
        batch: BatchId,
        events: &[EventId],
        after: Duration,
    ) -> Result<(), ApiError> {
        let ids: Vec<i64> = events.iter().map(|id| id.get()).collect();
        let seconds = i32::try_from(after.as_secs()).unwrap_or(i32::MAX);
        let (function, sql) = match self.retries_many {
            true => (
                "pgq.events_retry",
                "select pgq.events_retry($1, $3::int8[], $2::int4)",
            ),
            false => (
                "pgq.event_retry",
                "select count(pgq.event_retry($1, e.id, $2::int4)) from unnest($3::int8[]) as e (id)",
            ),
        };
        one(client, function, sql, &[&batch.get(), &seconds, &ids]).await?;
        Ok(())
    }

    /// In a transaction of its own. `false`: the batch is not open any more, or another consumer's.
    pub async fn finish_batch(&self, client: &Client, batch: &Batch) -> Result<bool, ApiError> {
        let params: [&(dyn ToSql + Sync); 2] = [&batch.id.get(), &batch.consumer_name];
        let row = one(client, "pgq.finish_batch", &self.finish, &params).await?;
        Ok(row.try_get::<_, i32>(0)? == 1)
    }
}

/// `None`: the batch is not open any more.
pub async fn get_batch_info<C: GenericClient>(client: &C, batch: BatchId) -> Result<Option<Batch>, ApiError> {
    let row = call!(client, "pgq.get_batch_info", "($1)", [&batch.get()])?;
    let Some(tick) = row.try_get::<_, Option<i64>>("tick_id")? else {
        return Ok(None);
    };
    Ok(Some(Batch {
        id: batch,
        prev_tick: TickId::new(row.try_get("prev_tick_id")?),
        tick: TickId::new(tick),
        start: row.try_get("batch_start")?,
        end: row.try_get("batch_end")?,
        lag: Duration::ZERO,
        consumer_name: row.try_get("consumer_name")?,
    }))
}

/// `false`: the batch is not open any more.
pub async fn finish_batch<C: GenericClient>(client: &C, batch: BatchId) -> Result<bool, ApiError> {
    let row = call!(client, "pgq.finish_batch", "($1)", [&batch.get()])?;
    Ok(row.try_get::<_, i32>(0)? == 1)
}

/// Says that events failed: they are retried later and later, at last they are dead letters. Gives how many
/// of them died.
pub async fn event_nack<C: GenericClient>(
    client: &C,
    batch: BatchId,
    events: &[EventId],
    reason: &str,
) -> Result<u64, ApiError> {
    let ids: Vec<i64> = events.iter().map(|id| id.get()).collect();
    let rows = many(
        client,
        "pgq.event_nack",
        "select retry_after is null from pgq.event_nack($1, $2::int8[], $3)",
        &[&batch.get(), &ids, &reason],
    )
    .await?;
    let dead = rows
        .iter()
        .map(|row: &Row| row.try_get::<_, bool>(0))
        .filter(|dead| matches!(dead, Ok(true)));
    Ok(dead.count() as u64)
}

/// Makes events dead letters at once.
pub async fn event_dead<C: GenericClient>(
    client: &C,
    batch: BatchId,
    events: &[EventId],
    reason: &str,
) -> Result<(), ApiError> {
    let ids: Vec<i64> = events.iter().map(|id| id.get()).collect();
    call!(
        client,
        "pgq.event_dead",
        "($1, $2::int8[], $3)",
        [&batch.get(), &ids, &reason]
    )?;
    Ok(())
}

fn seconds(duration: Option<Duration>) -> Option<f64> {
    duration.map(|duration| duration.as_secs_f64())
}
