//! Triggers' events applied to tables, exactly once and in their order.

mod decode;
mod statement;

use std::collections::{HashMap, HashSet};

use skytide_sql::TableName;
use skytide_sql::api::pgq::Batch;
use tokio_postgres::Transaction;

use super::table::{Column, columns_of};
use super::{Events, HandlerError, TargetHandler};
use decode::{Op, RowEvent, decode};

/// What happens to events that are not rows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Others {
    /// They stop the consumer.
    Refuse,
    /// They count as done.
    Skip,
}

/// Applies row events of `jsontriga` and `logutriga` to tables.
#[derive(Debug)]
pub struct Loader {
    tables: HashMap<TableName, TableName>,
    others: Others,
    /// Types of columns, looked up anew for each batch.
    types: HashMap<TableName, HashMap<String, Column>>,
}

impl Loader {
    /// `tables`: where the rows of some tables go; all others go to the table of their own name.
    pub fn new(tables: HashMap<TableName, TableName>, others: Others) -> Loader {
        Loader {
            tables,
            others,
            types: HashMap::new(),
        }
    }

    async fn apply(&mut self, run: Run, target: &Transaction<'_>) -> Result<(), HandlerError> {
        if run.shape.op == Op::Truncate {
            target
                .batch_execute(&statement::truncate(&run.shape.table))
                .await?;
            return Ok(());
        }
        if !self.types.contains_key(&run.shape.table) {
            let types = columns_of(target, &run.shape.table).await?.into_iter().collect();
            self.types.insert(run.shape.table.clone(), types);
        }
        let types = &self.types[&run.shape.table];
        let sql = statement::of(&run.shape, types).map_err(HandlerError::stop)?;
        let applied = target.execute(&sql, &[&run.rows]).await?;
        if applied < run.rows.len() as u64 {
            let missing = run.rows.len() as u64 - applied;
            tracing::warn!(
                table = %run.shape.table,
                missing,
                "updates or deletes found no row in the target table"
            );
        }
        Ok(())
    }
}

impl TargetHandler for Loader {
    async fn batch(
        &mut self,
        _batch: &Batch,
        events: &mut Events,
        target: &Transaction<'_>,
    ) -> Result<(), HandlerError> {
        self.types.clear();
        while let Some(chunk) = events.next_chunk().await? {
            let mut run: Option<Run> = None;
            for event in &chunk {
                let mut row = match decode(event) {
                    Ok(row) => row,
                    Err(_) if self.others == Others::Skip => continue,
                    Err(why) => {
                        return Err(HandlerError::stop(format!("event {} is no row: {why}", event.id)));
                    }
                };
                if let Some(table) = self.tables.get(&row.table) {
                    row.table = table.clone();
                }
                run = match run.take() {
                    Some(mut run) if run.takes(&row) => {
                        run.push(row);
                        Some(run)
                    }
                    full => {
                        if let Some(full) = full {
                            self.apply(full, target).await?;
                        }
                        Some(Run::of(row))
                    }
                };
            }
            if let Some(last) = run {
                self.apply(last, target).await?;
            }
            fail::fail_point!("queue::mid_batch");
        }
        Ok(())
    }
}

/// What rows must have in common to be applied by one statement.
#[derive(PartialEq, Eq, Debug)]
struct Shape {
    op: Op,
    table: TableName,
    key: Vec<String>,
    columns: Vec<String>,
}

/// Events in a row that one statement applies: alike, and no key twice.
struct Run {
    shape: Shape,
    rows: Vec<String>,
    keys: HashSet<Vec<String>>,
}

impl Run {
    fn of(row: RowEvent) -> Run {
        let RowEvent {
            op,
            table,
            key,
            columns,
            row,
            key_values,
        } = row;
        Run {
            shape: Shape {
                op,
                table,
                key,
                columns,
            },
            rows: vec![row],
            keys: HashSet::from([key_values]),
        }
    }

    fn takes(&self, row: &RowEvent) -> bool {
        let shape = &self.shape;
        let alike = shape.op == row.op
            && shape.table == row.table
            && shape.columns == row.columns
            && shape.key == row.key;
        alike && shape.op != Op::Truncate && (shape.op == Op::Insert || !self.keys.contains(&row.key_values))
    }

    fn push(&mut self, row: RowEvent) {
        self.rows.push(row.row);
        self.keys.insert(row.key_values);
    }
}
