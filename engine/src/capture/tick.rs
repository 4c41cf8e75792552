//! Rows of `pgq.tick` in the stream, in either format.

use skytide_sql::{Snapshot, TickId, Xid, Xid32};

use super::assemble::AssembleError;
use crate::change::scalar::{int4, int8, parse, timestamp};
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
    let number = |column| int8(value(column)?).ok_or(bad("not a bigint"));
    if int4(value(columns.queue)?).ok_or(bad("not an integer"))? != queue_id {
        return Ok(None);
    }
    Ok(Some(TickRow {
        id: TickId::new(number(columns.id)?),
        time: timestamp(value(columns.time)?).ok_or(bad("not a timestamp"))?,
        snapshot: snapshot(value(columns.snapshot)?)?,
        event_seq: match value(columns.event_seq)? {
            ColumnValue::Null => 0,
            _ => number(columns.event_seq)?,
        },
        subxid,
    }))
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
