//! Events as rows of one table.

use skytide_sql::api::pgq::{Batch, Event};
use skytide_sql::ident::quote_ident;
use skytide_sql::{EventTime, TableName};
use tokio_postgres::{GenericClient, Transaction};

use super::column::{Column, Refused, columns_of};
use super::{Events, HandlerError, TargetHandler};

/// Columns that are filled if the table has them, with the type their value comes in.
const COLUMNS: [(&str, &str); 11] = [
    ("ev_id", "int8"),
    ("ev_time", "timestamptz"),
    ("ev_txid", "int8"),
    ("ev_retry", "int4"),
    ("ev_type", "text"),
    ("ev_data", "text"),
    ("ev_extra1", "text"),
    ("ev_extra2", "text"),
    ("ev_extra3", "text"),
    ("ev_extra4", "text"),
    ("tick_id", "int8"),
];

/// Inserts events into a table, each field into the column of its name, cast to the column's type.
/// What does not fit into a column is refused, not cut.
#[derive(Clone, Debug)]
pub struct TableWriter {
    table: TableName,
}

impl TableWriter {
    pub fn new(table: TableName) -> TableWriter {
        TableWriter { table }
    }

    /// Makes the table unless it is there: all fields of an event, and no key, since a retried event keeps its
    /// id.
    ///
    /// # Errors
    /// The server's.
    pub async fn create<C: GenericClient>(&self, target: &C) -> Result<(), tokio_postgres::Error> {
        let columns: Vec<String> = COLUMNS
            .iter()
            .map(|(name, kind)| format!("{} {kind}", quote_ident(name)))
            .collect();
        let sql = format!(
            "create table if not exists {} ({})",
            self.table.quoted(),
            columns.join(", ")
        );
        target.batch_execute(&sql).await
    }

    fn insert_sql(&self, columns: &[(String, Column)]) -> Result<String, HandlerError> {
        let known = || {
            columns
                .iter()
                .filter(|(name, column)| !column.generated && COLUMNS.iter().any(|(field, _)| field == name))
        };
        if known().next().is_none() {
            let table = &self.table;
            let text = format!("table {table} has no column of an event, such as ev_id or ev_data");
            return Err(HandlerError::stop(text));
        }
        let names: Vec<String> = known().map(|(name, _)| quote_ident(name)).collect();
        let values: Vec<String> = known()
            .map(|(name, Column { kind, .. })| match name.as_str() {
                "tick_id" => format!("$11::int8::{kind}"),
                name => format!("e.{}::{kind}", quote_ident(name)),
            })
            .collect();
        let arrays: Vec<String> = COLUMNS[..10]
            .iter()
            .enumerate()
            .map(|(number, (_, kind))| format!("${}::{kind}[]", number + 1))
            .collect();
        let fields: Vec<&str> = COLUMNS[..10].iter().map(|(name, _)| *name).collect();
        // The tick's number is always used, so that the statement always has eleven parameters.
        Ok(format!(
            "insert into {table} ({names}) select {values} from unnest({arrays}) with ordinality as e ({fields}, nr) \
             where $11::int8 is not null order by e.nr",
            table = self.table.quoted(),
            names = names.join(", "),
            values = values.join(", "),
            arrays = arrays.join(", "),
            fields = fields.join(", "),
        ))
    }
}

impl TargetHandler for TableWriter {
    async fn batch(
        &mut self,
        batch: &Batch,
        events: &mut Events,
        target: &Transaction<'_>,
    ) -> Result<(), HandlerError> {
        let Some(mut chunk) = events.next_chunk().await? else {
            return Ok(());
        };
        let columns = columns_of(target, &self.table).await?;
        let insert = target.prepare(&self.insert_sql(&columns)?).await?;
        loop {
            let text = |of: fn(&Event) -> &Option<String>| -> Vec<Option<&str>> {
                chunk.iter().map(|event| of(event).as_deref()).collect()
            };
            let ids: Vec<i64> = chunk.iter().map(|event| event.id.get()).collect();
            let times: Vec<EventTime> = chunk.iter().map(|event| event.time).collect();
            let txids: Vec<Option<i64>> = chunk
                .iter()
                .map(|event| event.txid.map(|txid| txid.as_u64().cast_signed()))
                .collect();
            let retries: Vec<i32> = chunk
                .iter()
                .map(|event| i32::try_from(event.retry).unwrap_or(i32::MAX))
                .collect();
            let inserted = target
                .execute(
                    &insert,
                    &[
                        &ids,
                        &times,
                        &txids,
                        &retries,
                        &text(|e| &e.ev_type),
                        &text(|e| &e.data),
                        &text(|e| &e.extra[0]),
                        &text(|e| &e.extra[1]),
                        &text(|e| &e.extra[2]),
                        &text(|e| &e.extra[3]),
                        &batch.tick.get(),
                    ],
                )
                .await;
            if let Err(source) = inserted {
                let too_long = columns.iter().find(|(name, column)| {
                    let mut values = chunk.iter().filter_map(|event| field(event, name));
                    values.any(|value| column.is_too_long(value))
                });
                let column = too_long.map(|(name, _)| name.clone());
                return Err(Refused::new(&self.table, column, source).into());
            }
            fail::fail_point!("queue::mid_batch");
            match events.next_chunk().await? {
                Some(next) => chunk = next,
                None => return Ok(()),
            }
        }
    }
}

/// A field of an event that is text.
fn field<'e>(event: &'e Event, name: &str) -> Option<&'e str> {
    let [extra1, extra2, extra3, extra4] = &event.extra;
    let field = match name {
        "ev_type" => &event.ev_type,
        "ev_data" => &event.data,
        "ev_extra1" => extra1,
        "ev_extra2" => extra2,
        "ev_extra3" => extra3,
        "ev_extra4" => extra4,
        _ => &None,
    };
    field.as_deref()
}
