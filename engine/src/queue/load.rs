//! Triggers' events applied to tables, exactly once and in their order.

mod decode;
mod statement;

use std::collections::{HashMap, HashSet};

use skytide_sql::TableName;
use skytide_sql::api::pgq::Batch;
use tokio_postgres::{Statement, Transaction};

use super::column::{Column, Refused, columns_of};
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
    /// Of this batch, by their SQL.
    statements: HashMap<String, Statement>,
}

/// Rows that somebody wrote by hand may be of any shape.
const MOST_STATEMENTS: usize = 100;

impl Loader {
    /// `tables`: where the rows of some tables go; all others go to the table of their own name.
    pub fn new(tables: HashMap<TableName, TableName>, others: Others) -> Loader {
        Loader {
            tables,
            others,
            types: HashMap::new(),
            statements: HashMap::new(),
        }
    }

    async fn look_up(&mut self, table: &TableName, target: &Transaction<'_>) -> Result<(), HandlerError> {
        if !self.types.contains_key(table) {
            let types = columns_of(target, table).await?.into_iter().collect();
            self.types.insert(table.clone(), types);
        }
        Ok(())
    }

    /// What the row's key is as text, if no other text is the same key.
    fn text_of_key(&self, row: &RowEvent) -> Option<Vec<String>> {
        let types = self.types.get(&row.table)?;
        let parts = row.key.iter().zip(&row.key_values);
        parts
            .map(|(column, value)| types.get(column)?.equality?.canonical(value))
            .collect()
    }

    async fn apply(&mut self, run: Run, target: &Transaction<'_>) -> Result<(), HandlerError> {
        let Run { shape, rows, .. } = run;
        if shape.op == Op::Truncate {
            target.batch_execute(&statement::truncate(&shape.table)).await?;
            return Ok(());
        }
        self.look_up(&shape.table, target).await?;
        let types = &self.types[&shape.table];
        let sql = statement::of(&shape, types).map_err(HandlerError::stop)?;
        if self.statements.len() >= MOST_STATEMENTS {
            self.statements.clear();
        }
        let statement = match self.statements.get(&sql) {
            Some(statement) => statement.clone(),
            None => {
                let statement = target.prepare(&sql).await?;
                self.statements.insert(sql, statement.clone());
                statement
            }
        };
        let changed = match target.execute(&statement, &[&rows]).await {
            Ok(changed) => changed,
            Err(source) => {
                let column = too_long(&rows, types);
                return Err(Refused::new(&shape.table, column, source).into());
            }
        };
        if changed < rows.len() as u64 {
            tracing::warn!(
                table = %shape.table,
                events = rows.len(),
                changed,
                "fewer rows of the target table were changed than events say: some found none, or a trigger of the table kept it"
            );
        }
        Ok(())
    }
}

/// A column with a value that it has no room for.
fn too_long(rows: &[String], types: &HashMap<String, Column>) -> Option<String> {
    rows.iter()
        .filter_map(|row| serde_json::from_str::<serde_json::Map<String, serde_json::Value>>(row).ok())
        .flatten()
        .find(|(name, value)| {
            let Some(column) = types.get(name) else {
                return false;
            };
            match value {
                serde_json::Value::Null => false,
                serde_json::Value::String(text) => column.is_too_long(text),
                other => column.is_too_long(&other.to_string()),
            }
        })
        .map(|(name, _)| name)
}

impl TargetHandler for Loader {
    async fn batch(
        &mut self,
        _batch: &Batch,
        events: &mut Events,
        target: &Transaction<'_>,
    ) -> Result<(), HandlerError> {
        self.types.clear();
        self.statements.clear();
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
                let key = match row.op {
                    Op::Insert | Op::Truncate => None,
                    Op::Update | Op::Delete => {
                        self.look_up(&row.table, target).await?;
                        self.text_of_key(&row)
                    }
                };
                run = match run.take() {
                    Some(mut run) if run.takes(&row, key.as_ref()) => {
                        run.push(row, key);
                        Some(run)
                    }
                    full => {
                        if let Some(full) = full {
                            self.apply(full, target).await?;
                        }
                        Some(Run::of(row, key))
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

/// Events in a row that one statement applies: alike, and no key twice. Where equal keys may be written differently, as
/// 1.0 and 1.00, updates and deletes go one by one: of two that meet one row, a statement would do any one.
struct Run {
    shape: Shape,
    rows: Vec<String>,
    /// `None`: nobody knows which texts are the same key.
    keys: Option<HashSet<Vec<String>>>,
}

impl Run {
    fn of(row: RowEvent, key: Option<Vec<String>>) -> Run {
        let RowEvent {
            op,
            table,
            key: key_columns,
            columns,
            row,
            ..
        } = row;
        Run {
            shape: Shape {
                op,
                table,
                key: key_columns,
                columns,
            },
            rows: vec![row],
            keys: key.map(|key| HashSet::from([key])),
        }
    }

    fn takes(&self, row: &RowEvent, key: Option<&Vec<String>>) -> bool {
        let shape = &self.shape;
        let alike = shape.op == row.op
            && shape.table == row.table
            && shape.columns == row.columns
            && shape.key == row.key;
        let other_row = || match (&self.keys, key) {
            (Some(keys), Some(key)) => !keys.contains(key),
            _ => false,
        };
        alike && shape.op != Op::Truncate && (shape.op == Op::Insert || other_row())
    }

    fn push(&mut self, row: RowEvent, key: Option<Vec<String>>) {
        self.rows.push(row.row);
        if let (Some(keys), Some(key)) = (&mut self.keys, key) {
            keys.insert(key);
        }
    }
}
