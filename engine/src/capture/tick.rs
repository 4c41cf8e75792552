//! Rows of `pgq.tick` in the stream, in either format.

use std::str::FromStr;

use skytide_sql::{Snapshot, TickId, Xid, Xid32};

use super::assemble::AssembleError;
use crate::change::{ColumnValue, Relation, Tuple};

/// Where `pgq.tick` has its columns: an upgraded database may have them in another order.
#[derive(Clone, Copy)]
pub(super) struct TickColumns {
    queue: usize,
    id: usize,
    time: usize,
    snapshot: usize,
    event_seq: usize,
}

/// A tick as its row says it.
pub(super) struct TickRow {
    pub id: TickId,
    pub time: i64,
    pub snapshot: Snapshot,
    pub event_seq: i64,
    /// The subtransaction that made it, in streams.
    pub subxid: Option<Xid32>,
}

impl TickColumns {
    pub fn of(relation: &Relation) -> Result<TickColumns, AssembleError> {
        let column = |name: &str| {
            let found = relation.columns.iter().position(|c| c.name == name);
            found.ok_or(AssembleError::BadTick {
                what: "a column is missing",
            })
        };
        Ok(TickColumns {
            queue: column("tick_queue")?,
            id: column("tick_id")?,
            time: column("tick_time")?,
            snapshot: column("tick_snapshot")?,
            event_seq: column("tick_event_seq")?,
        })
    }
}

/// Reads an inserted row; `None` is another queue's tick.
pub(super) fn tick_row(
    tuples: &[u8],
    columns: &TickColumns,
    queue_id: i32,
    subxid: Option<Xid32>,
) -> Result<Option<TickRow>, AssembleError> {
    let bad = |what| AssembleError::BadTick { what };
    let tuple = tuples.strip_prefix(b"N").ok_or(bad("no new row"))?;
    let (tuple, _) = Tuple::split_from(tuple).map_err(|e| bad(e.what))?;
    let value = |column: usize| tuple.values().nth(column).ok_or(bad("too few columns"));
    if int4(value(columns.queue)?)? != queue_id {
        return Ok(None);
    }
    Ok(Some(TickRow {
        id: TickId::new(int8(value(columns.id)?)?),
        time: timestamp(value(columns.time)?)?,
        snapshot: snapshot(value(columns.snapshot)?)?,
        event_seq: match value(columns.event_seq)? {
            ColumnValue::Null => 0,
            given => int8(given)?,
        },
        subxid,
    }))
}

fn parse<T: FromStr>(text: &[u8]) -> Option<T> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

fn int4(value: ColumnValue<'_>) -> Result<i32, AssembleError> {
    match value {
        ColumnValue::Text(text) => parse(text),
        ColumnValue::Binary(bytes) => bytes.try_into().ok().map(i32::from_be_bytes),
        ColumnValue::Null | ColumnValue::Unchanged => None,
    }
    .ok_or(AssembleError::BadTick {
        what: "not an integer",
    })
}

fn int8(value: ColumnValue<'_>) -> Result<i64, AssembleError> {
    match value {
        ColumnValue::Text(text) => parse(text),
        ColumnValue::Binary(bytes) => bytes.try_into().ok().map(i64::from_be_bytes),
        ColumnValue::Null | ColumnValue::Unchanged => None,
    }
    .ok_or(AssembleError::BadTick { what: "not a bigint" })
}

/// Microseconds since 2000-01-01 UTC. The stream's DateStyle is ISO.
fn timestamp(value: ColumnValue<'_>) -> Result<i64, AssembleError> {
    match value {
        ColumnValue::Text(text) => {
            let text = std::str::from_utf8(text).ok();
            let epoch = jiff::Timestamp::from_second(946_684_800).ok();
            // `+00` is PostgreSQL's short form of an offset; a T makes it ISO 8601.
            text.map(|t| t.replacen(' ', "T", 1))
                .and_then(|t| t.parse::<jiff::Timestamp>().ok())
                .zip(epoch)
                .map(|(t, epoch)| t.as_microsecond() - epoch.as_microsecond())
        }
        ColumnValue::Binary(bytes) => bytes.try_into().ok().map(i64::from_be_bytes),
        ColumnValue::Null | ColumnValue::Unchanged => None,
    }
    .ok_or(AssembleError::BadTick {
        what: "not a timestamp",
    })
}

/// Text form, or `pg_snapshot_send`'s: Int32 count, Int64 xmin, Int64 xmax, count × Int64.
fn snapshot(value: ColumnValue<'_>) -> Result<Snapshot, AssembleError> {
    let binary = |bytes: &[u8]| {
        let (count, mut rest) = bytes.split_first_chunk::<4>()?;
        let count = usize::try_from(u32::from_be_bytes(*count)).ok()?;
        if rest.len() != count.checked_mul(8)?.checked_add(16)? {
            return None;
        }
        let mut numbers = Vec::with_capacity(count + 2);
        while let Some((number, after)) = rest.split_first_chunk::<8>() {
            numbers.push(Xid::new(u64::from_be_bytes(*number)));
            rest = after;
        }
        let xip = numbers.split_off(2);
        Snapshot::new(numbers[0], numbers[1], xip).ok()
    };
    match value {
        ColumnValue::Text(text) => parse(text),
        ColumnValue::Binary(bytes) => binary(bytes),
        ColumnValue::Null | ColumnValue::Unchanged => None,
    }
    .ok_or(AssembleError::BadTick {
        what: "not a snapshot",
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_read_the_same_in_both_formats() {
        let text = ColumnValue::Text(b"2026-01-02 03:04:05.678901+00");
        let micros = timestamp(text).unwrap();
        assert_eq!(micros, 820_638_245_678_901);
        assert_eq!(
            timestamp(ColumnValue::Binary(&micros.to_be_bytes())).unwrap(),
            micros
        );

        let mut bytes = 2u32.to_be_bytes().to_vec();
        for x in [10u64, 20, 10, 15] {
            bytes.extend(x.to_be_bytes());
        }
        let from_text = snapshot(ColumnValue::Text(b"10:20:10,15")).unwrap();
        assert_eq!(snapshot(ColumnValue::Binary(&bytes)).unwrap(), from_text);
        bytes.pop();
        assert!(snapshot(ColumnValue::Binary(&bytes)).is_err());
        assert!(snapshot(ColumnValue::Binary(&u32::MAX.to_be_bytes())).is_err());
    }
}
