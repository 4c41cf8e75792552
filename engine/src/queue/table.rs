//! Events as rows of one table.

use std::time::SystemTime;

use skytide_sql::TableName;
use skytide_sql::api::pgq::{Batch, Event};
use skytide_sql::ident::quote_ident;
use tokio_postgres::{GenericClient, Transaction};

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

/// A column of a target table.
#[derive(Debug)]
pub(super) struct Column {
    /// As it is written in SQL.
    pub kind: String,
    /// By the server, from other columns: nobody may write it.
    pub generated: bool,
}

const READ_COLUMNS: &str = "\
    select a.attname, pg_catalog.format_type(a.atttypid, a.atttypmod), a.attgenerated <> '' \
      from pg_catalog.pg_attribute a \
     where a.attrelid = pg_catalog.to_regclass($1) and a.attnum > 0 and not a.attisdropped \
     order by a.attnum";

/// Inserts events into a table, each field into the column of its name, cast to the column's type.
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

    async fn insert_sql(&self, target: &Transaction<'_>) -> Result<String, HandlerError> {
        let columns = columns_of(target, &self.table).await?;
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
        let insert = target.prepare(&self.insert_sql(target).await?).await?;
        loop {
            let text = |of: fn(&Event) -> &Option<String>| -> Vec<Option<&str>> {
                chunk.iter().map(|event| of(event).as_deref()).collect()
            };
            let ids: Vec<i64> = chunk.iter().map(|event| event.id.get()).collect();
            let times: Vec<SystemTime> = chunk.iter().map(|event| event.time).collect();
            let txids: Vec<Option<i64>> = chunk
                .iter()
                .map(|event| event.txid.map(|txid| txid.as_u64().cast_signed()))
                .collect();
            let retries: Vec<i32> = chunk
                .iter()
                .map(|event| i32::try_from(event.retry).unwrap_or(i32::MAX))
                .collect();
            target
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
                .await?;
            fail::fail_point!("queue::mid_batch");
            match events.next_chunk().await? {
                Some(next) => chunk = next,
                None => return Ok(()),
            }
        }
    }
}

/// A table's columns by name.
pub(super) async fn columns_of(
    target: &Transaction<'_>,
    table: &TableName,
) -> Result<Vec<(String, Column)>, HandlerError> {
    let rows = target.query(READ_COLUMNS, &[&table.quoted()]).await?;
    if rows.is_empty() {
        let text = format!("there is no table {table} in the target database");
        return Err(HandlerError::stop(text));
    }
    rows.iter()
        .map(|row| {
            let (kind, generated) = (row.try_get(1)?, row.try_get(2)?);
            Ok((row.try_get(0)?, Column { kind, generated }))
        })
        .collect()
}
