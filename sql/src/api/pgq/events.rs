//! Events: as a producer hands them over, and as a batch gives them.

use tokio_postgres::{GenericClient, Row};

use crate::api::{ApiError, call, one};
use crate::{EventId, EventTime, QueueName, Xid};

/// An event of a batch.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Event {
    pub id: EventId,
    /// When it was inserted, by the producer's clock.
    pub time: EventTime,
    /// The inserting transaction; unknown for events that were retried.
    pub txid: Option<Xid>,
    /// How often it was retried.
    pub retry: u32,
    pub ev_type: Option<String>,
    pub data: Option<String>,
    /// `ev_extra1` to `ev_extra4`.
    pub extra: [Option<String>; 4],
}

impl Event {
    /// Reads the ten columns of `pgq.get_batch_events`, in their order.
    pub fn read(row: &Row) -> Result<Event, tokio_postgres::Error> {
        let txid: Option<i64> = row.try_get(2)?;
        let retry: Option<i32> = row.try_get(3)?;
        Ok(Event {
            id: EventId::new(row.try_get(0)?),
            time: row.try_get(1)?,
            txid: txid.map(|txid| Xid::new(txid.cast_unsigned())),
            retry: retry.and_then(|retry| u32::try_from(retry).ok()).unwrap_or(0),
            ev_type: row.try_get(4)?,
            data: row.try_get(5)?,
            extra: [row.try_get(6)?, row.try_get(7)?, row.try_get(8)?, row.try_get(9)?],
        })
    }

    /// What it takes in memory, about.
    pub fn bytes(&self) -> usize {
        size_of::<Event>() + text_bytes(&self.ev_type, &self.data, &self.extra)
    }
}

/// An event to insert.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct NewEvent {
    pub ev_type: Option<String>,
    pub data: Option<String>,
    /// `ev_extra1` to `ev_extra4`.
    pub extra: [Option<String>; 4],
}

impl NewEvent {
    pub fn new(ev_type: impl Into<String>, data: impl Into<String>) -> NewEvent {
        NewEvent {
            ev_type: Some(ev_type.into()),
            data: Some(data.into()),
            extra: Default::default(),
        }
    }

    /// What it takes in memory, about.
    pub fn bytes(&self) -> usize {
        size_of::<NewEvent>() + text_bytes(&self.ev_type, &self.data, &self.extra)
    }
}

fn text_bytes(ev_type: &Option<String>, data: &Option<String>, extra: &[Option<String>; 4]) -> usize {
    [ev_type, data]
        .into_iter()
        .chain(extra)
        .flatten()
        .map(String::len)
        .sum()
}

pub async fn insert_event_full<C: GenericClient>(
    client: &C,
    queue: &QueueName,
    event: &NewEvent,
) -> Result<EventId, ApiError> {
    let [extra1, extra2, extra3, extra4] = &event.extra;
    let row = call!(
        client,
        "pgq.insert_event",
        "($1, $2, $3, $4, $5, $6, $7)",
        [
            &queue.as_str(),
            &event.ev_type,
            &event.data,
            extra1,
            extra2,
            extra3,
            extra4
        ]
    )?;
    Ok(EventId::new(row.try_get(0)?))
}

/// Inserts all of them by one statement; gives their ids in the same order.
pub async fn insert_events<C: GenericClient>(
    client: &C,
    queue: &QueueName,
    events: &[NewEvent],
) -> Result<Vec<EventId>, ApiError> {
    let column = |of: fn(&NewEvent) -> &Option<String>| -> Vec<Option<&str>> {
        events.iter().map(|event| of(event).as_deref()).collect()
    };
    let row = call!(
        client,
        "pgq.insert_events",
        "($1, $2::text[], $3, $4, $5, $6, $7)",
        [
            &queue.as_str(),
            &column(|e| &e.ev_type),
            &column(|e| &e.data),
            &column(|e| &e.extra[0]),
            &column(|e| &e.extra[1]),
            &column(|e| &e.extra[2]),
            &column(|e| &e.extra[3]),
        ]
    )?;
    let ids: Vec<i64> = row.try_get(0)?;
    Ok(ids.into_iter().map(EventId::new).collect())
}

/// Whether the queue's database has [`insert_events`]: the original PgQ has it not.
pub async fn has_insert_events<C: GenericClient>(client: &C) -> Result<bool, ApiError> {
    let sql = "select to_regprocedure('pgq.insert_events(text,text[],text[],text[],text[],text[],text[])') is not null";
    let row = one(client, "to_regprocedure", sql, &[]).await?;
    Ok(row.try_get(0)?)
}

const INSERT_ONE_BY_ONE: &str = "\
    select coalesce(array_agg(i.id order by i.nr), '{}') \
      from (select e.nr, pgq.insert_event($1, e.type, e.data, e.extra1, e.extra2, e.extra3, e.extra4) as id \
              from (select * \
                      from unnest($2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[]) \
                           with ordinality as u (type, data, extra1, extra2, extra3, extra4, nr) \
                     order by nr) e) i";

/// The same as [`insert_events`], by what every PgQ has: a call an event, in one statement.
pub async fn insert_events_one_by_one<C: GenericClient>(
    client: &C,
    queue: &QueueName,
    events: &[NewEvent],
) -> Result<Vec<EventId>, ApiError> {
    let column = |of: fn(&NewEvent) -> &Option<String>| -> Vec<Option<&str>> {
        events.iter().map(|event| of(event).as_deref()).collect()
    };
    let row = one(
        client,
        "pgq.insert_event",
        INSERT_ONE_BY_ONE,
        &[
            &queue.as_str(),
            &column(|e| &e.ev_type),
            &column(|e| &e.data),
            &column(|e| &e.extra[0]),
            &column(|e| &e.extra[1]),
            &column(|e| &e.extra[2]),
            &column(|e| &e.extra[3]),
        ],
    )
    .await?;
    let ids: Vec<i64> = row.try_get(0)?;
    Ok(ids.into_iter().map(EventId::new).collect())
}

/// The subquery is sorted and not flattened, so ids are given in the order of the arrays.
const INSERT_AT_TIME: &str = "\
    select count(pgq.insert_event_raw($1, null, e.time, null, null, \
                                      e.type, e.data, e.extra1, e.extra2, e.extra3, e.extra4)) \
      from (select * \
              from unnest($2::timestamptz[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[], $8::text[]) \
                   with ordinality as u (time, type, data, extra1, extra2, extra3, extra4, nr) \
             order by nr) e";

/// Inserts events of another queue: with their time, in their order, under new ids.
pub async fn insert_events_at_their_time<C: GenericClient>(
    client: &C,
    queue: &QueueName,
    events: &[&Event],
) -> Result<u64, ApiError> {
    let column = |of: fn(&Event) -> &Option<String>| -> Vec<Option<&str>> {
        events.iter().map(|event| of(event).as_deref()).collect()
    };
    let times: Vec<EventTime> = events.iter().map(|event| event.time).collect();
    let row = one(
        client,
        "pgq.insert_event_raw",
        INSERT_AT_TIME,
        &[
            &queue.as_str(),
            &times,
            &column(|e| &e.ev_type),
            &column(|e| &e.data),
            &column(|e| &e.extra[0]),
            &column(|e| &e.extra[1]),
            &column(|e| &e.extra[2]),
            &column(|e| &e.extra[3]),
        ],
    )
    .await?;
    Ok(row.try_get::<_, i64>(0)?.cast_unsigned())
}
