//! Batches out of the spool of a worker that follows the same queue: no event table is read for them.
//!
//! The queue decides what a batch is and remembers that it is finished; only its events come from elsewhere, and they
//! are the same, by the same rule (see [`crate::batch`]). Where the spool does not have all of a batch, it is read
//! by SQL.

use std::path::PathBuf;
use std::sync::Arc;

use skytide_sql::api::pgq::Batch;
use skytide_sql::{EventId, EventTime, QueueName, Xid};

use super::packed::{Packed, Row, Text};
use super::settings::Limits;
use super::source::Source;
use super::{Events, QueueError, Settings};
use crate::apply::ApplyError;
use crate::batch::{Tick, WholeBatches};
use crate::change::scalar::{int4, int8, text, timestamp};
use crate::change::{BadChange, ColumnValue, Relation, RowChange, Tuple};

/// So much of a batch's memory is kept for the next one.
const KEEP_BYTES: usize = 16 << 20;

/// Larger batches are read by SQL: there memory is bounded.
const MOST_BYTES: usize = 256 << 20;

pub(super) struct Spooled {
    dir: PathBuf,
    queue: QueueName,
    chunk: Limits,
    /// Away while a batch is read.
    batches: Option<WholeBatches>,
    /// The last batch's memory: fresh memory is the kernel's work.
    used: Packed,
    /// The queue's event tables are called so, with a number behind it.
    tables: Option<Arc<str>>,
    /// Not to say the same for each batch.
    complained: bool,
}

impl Spooled {
    /// `None`: batches are read by SQL.
    pub fn new(settings: &Settings) -> Option<Spooled> {
        let dir = settings.spool.clone().filter(|_| settings.filter.is_none())?;
        Some(Spooled {
            batches: None,
            used: Packed::default(),
            dir,
            queue: settings.queue.clone(),
            chunk: settings.chunk,
            tables: None,
            complained: false,
        })
    }

    /// The events of a batch, in the order of their ids. `None`: not all of them are here.
    ///
    /// # Errors
    /// The queue's database does not answer.
    pub async fn events(&mut self, source: &Source<'_>, batch: &Batch) -> Result<Option<Events>, QueueError> {
        let session = &source.session;
        let tables = match &self.tables {
            Some(tables) => Arc::clone(tables),
            None => {
                let sql = "select queue_data_pfx || '_' from pgq.queue where queue_name = $1";
                let row = session.query_one(sql, &[&self.queue.as_str()]).await;
                let row = row.map_err(QueueError::sql("look up the queue's tables"))?;
                Arc::clone(self.tables.insert(row.get::<_, String>(0).into()))
            }
        };
        // Events that were retried are one consumer's.
        let sql = "select s.sub_id, f.tick_snapshot::text, t.tick_snapshot::text \
                     from pgq.subscription s \
                     join pgq.tick f on f.tick_queue = s.sub_queue and f.tick_id = $2 \
                     join pgq.tick t on t.tick_queue = s.sub_queue and t.tick_id = $3 \
                    where s.sub_batch = $1";
        let (from, to) = (batch.prev_tick, batch.tick);
        let row = session
            .query_opt(sql, &[&batch.id.get(), &from.get(), &to.get()])
            .await;
        let Some(row) = row.map_err(QueueError::sql("look up the batch"))? else {
            return Ok(None);
        };
        let tick = |id, column| {
            let snapshot = row.get::<_, &str>(column).parse().ok()?;
            Some(Tick { id, snapshot })
        };
        let (Some(from), Some(to)) = (tick(from, 1), tick(to, 2)) else {
            return Ok(None);
        };
        let wanted = Wanted {
            from,
            to,
            tables,
            owner: row.get(0),
        };
        let mut batches = self
            .batches
            .take()
            .unwrap_or_else(|| WholeBatches::new(&self.dir));
        let into = std::mem::take(&mut self.used);
        let reading = tokio::task::spawn_blocking(move || {
            let events = wanted.read(&mut batches, into);
            (batches, events)
        });
        let Ok((batches, events)) = reading.await else {
            return Ok(None);
        };
        self.batches = Some(batches);
        match events {
            Ok(events) => {
                self.complained = false;
                Ok(events.map(|events| Events::of_spool(events, self.chunk)))
            }
            Err(error) => {
                if !self.complained {
                    let error = crate::causes::chain(&error);
                    tracing::warn!(error, dir = %self.dir.display(), "the spool cannot be read; reading by SQL");
                    self.complained = true;
                }
                Ok(None)
            }
        }
    }

    /// Takes back what a batch was read into.
    pub fn give_back(&mut self, events: Events) {
        if let Some(mut used) = events.into_packed()
            && used.capacity_bytes() <= KEEP_BYTES
        {
            used.clear();
            self.used = used;
        }
    }
}

/// A batch, and which rows are events of it.
struct Wanted {
    from: Tick,
    to: Tick,
    tables: Arc<str>,
    owner: i32,
}

impl Wanted {
    /// Reads the batch into `events`, which is empty.
    fn read(&self, batches: &mut WholeBatches, mut events: Packed) -> Result<Option<Packed>, ApplyError> {
        let mut foreign = false;
        let mut shapes: Vec<Option<Shape>> = Vec::new();
        let whole = batches.read(&self.from, &self.to, &mut |spool, xid, change| {
            let RowChange::Insert { relation, new } = change else {
                return Ok(());
            };
            let index = relation.0 as usize;
            if index >= shapes.len() {
                shapes.resize_with(index + 1, || None);
            }
            let shape = shapes[index].get_or_insert_with(|| {
                let relation = spool.relation(*relation);
                relation.map_or(Shape::Other, |relation| Shape::of(&relation, &self.tables))
            });
            if let Shape::Events(columns) = shape
                && events.bytes() < MOST_BYTES
                && let Some(event) = columns.event(new, xid, self.owner, &mut events)?
            {
                // By SQL it is in the batch of the transaction that it names.
                foreign |= event.txid != Some(xid);
                events.push(event);
            }
            Ok(())
        })?;
        if !whole || foreign || events.bytes() >= MOST_BYTES {
            return Ok(None);
        }
        events.sort_by_id();
        Ok(Some(events))
    }
}

enum Shape {
    Other,
    Events(Columns),
}

/// For each column of an event table, in its order, which field it is.
struct Columns(Vec<Field>);

#[derive(Clone, Copy)]
enum Field {
    Id,
    Time,
    Txid,
    Owner,
    Retry,
    Type,
    Data,
    Extra(usize),
    Other,
}

impl Shape {
    fn of(relation: &Relation, tables: &str) -> Shape {
        let name = format!("{}.{}", relation.table.schema, relation.table.name);
        let number = name.strip_prefix(tables);
        if number.is_none_or(|number| number.parse::<u32>().is_err()) {
            return Shape::Other;
        }
        let field = |name: &str| match name {
            "ev_id" => Field::Id,
            "ev_time" => Field::Time,
            "ev_txid" => Field::Txid,
            "ev_owner" => Field::Owner,
            "ev_retry" => Field::Retry,
            "ev_type" => Field::Type,
            "ev_data" => Field::Data,
            "ev_extra1" => Field::Extra(0),
            "ev_extra2" => Field::Extra(1),
            "ev_extra3" => Field::Extra(2),
            "ev_extra4" => Field::Extra(3),
            _ => Field::Other,
        };
        let fields = relation.columns.iter().map(|column| field(&column.name));
        Shape::Events(Columns(fields.collect()))
    }
}

impl Columns {
    /// `None`: it is another consumer's.
    fn event(
        &self,
        row: &Tuple<'_>,
        xid: Xid,
        owner: i32,
        into: &mut Packed,
    ) -> Result<Option<Row>, ApplyError> {
        let bad = |what| BadChange { offset: 0, what };
        let before = into.text_bytes();
        let mut event = Row {
            id: EventId::new(0),
            time: EventTime::UNIX_EPOCH,
            txid: Some(xid),
            retry: 0,
            ev_type: Text::default(),
            data: Text::default(),
            extra: Default::default(),
        };
        for (field, value) in self.0.iter().zip(row.values()) {
            if matches!(value, ColumnValue::Null) {
                continue;
            }
            let mut kept = || {
                let kept = text(value).map(|text| into.keep(text).ok_or(bad("its texts are too long")));
                kept.transpose().map(Option::unwrap_or_default)
            };
            match *field {
                Field::Id => event.id = EventId::new(int8(value).ok_or(bad("ev_id is not a bigint"))?),
                Field::Time => {
                    let micros = timestamp(value).ok_or(bad("ev_time is not a timestamp"))?;
                    event.time = EventTime::from_micros(micros);
                }
                Field::Txid => event.txid = int8(value).map(|txid| Xid::new(txid.cast_unsigned())),
                Field::Owner if int4(value) != Some(owner) => {
                    into.forget_texts(before);
                    return Ok(None);
                }
                Field::Retry => event.retry = int4(value).and_then(|n| u32::try_from(n).ok()).unwrap_or(0),
                Field::Type => event.ev_type = kept()?,
                Field::Data => event.data = kept()?,
                Field::Extra(nr) => event.extra[nr] = kept()?,
                Field::Owner | Field::Other => {}
            }
        }
        Ok(Some(event))
    }
}
