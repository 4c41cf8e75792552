//! What a command gives back, and how it is printed.

use serde::ser::{Error as _, Serialize, SerializeMap, Serializer};
use serde_json::value::RawValue;
use serde_json::{Value, json};
use tokio_postgres::Row;
use tokio_postgres::types::Type;

use super::error::QadminError;
use crate::cli::output::{Output, OutputMode};

#[derive(Clone, PartialEq, Debug)]
pub enum Answer {
    Rows(Rows),
    /// Something was done: the command's tag, and what there is to know about it.
    Done {
        tag: String,
        notes: Vec<String>,
    },
    /// Text for people and programs alike, under this name in JSON.
    Text {
        name: &'static str,
        text: String,
    },
    Nothing,
}

impl Answer {
    pub fn done(tag: &str) -> Answer {
        Answer::noted(tag, Vec::new())
    }

    pub fn noted(tag: &str, notes: Vec<String>) -> Answer {
        Answer::Done {
            tag: tag.to_owned(),
            notes,
        }
    }

    pub fn print(&self, output: &Output) -> Result<(), QadminError> {
        let printed = match self {
            Answer::Rows(rows) => rows.print(output),
            Answer::Done { tag, notes } => match output.mode() {
                OutputMode::Json => output.json(&json!({ "tag": tag, "notes": notes })),
                OutputMode::Table => {
                    let lines: Vec<&str> = notes.iter().map(String::as_str).chain([tag.as_str()]).collect();
                    output.line(lines.join("\n"))
                }
            },
            Answer::Text { name, text } => match output.mode() {
                OutputMode::Json => output.json(&json!({ *name: text })),
                OutputMode::Table => output.line(text),
            },
            Answer::Nothing => Ok(()),
        };
        printed.map_err(QadminError::Print)
    }
}

#[derive(Clone, PartialEq, Debug, Default)]
pub struct Rows {
    pub columns: Vec<String>,
    pub rows: Vec<Vec<Cell>>,
}

#[derive(Clone, PartialEq, Debug)]
pub enum Cell {
    Value(Value),
    /// JSON in the server's own words: a number of ours has fewer digits than one of its.
    Json(String),
}

impl Serialize for Cell {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Cell::Value(value) => value.serialize(serializer),
            Cell::Json(text) => {
                let raw: &RawValue = serde_json::from_str(text).map_err(S::Error::custom)?;
                raw.serialize(serializer)
            }
        }
    }
}

impl Rows {
    pub fn read(columns: &[tokio_postgres::Column], rows: &[Row]) -> Result<Rows, tokio_postgres::Error> {
        let read = |row: &Row| {
            (0..row.len())
                .map(|at| value(row, at))
                .collect::<Result<Vec<_>, _>>()
        };
        Ok(Rows {
            columns: columns.iter().map(|column| column.name().to_owned()).collect(),
            rows: rows.iter().map(read).collect::<Result<_, _>>()?,
        })
    }

    fn print(&self, output: &Output) -> anyhow::Result<()> {
        let header: Vec<&str> = self.columns.iter().map(String::as_str).collect();
        let rows: Vec<Named<'_>> = self
            .rows
            .iter()
            .map(|values| Named {
                columns: &self.columns,
                values,
            })
            .collect();
        output.rows(&header, &rows, |row| row.values.iter().map(cell).collect())?;
        if output.mode() == OutputMode::Table {
            let count = self.rows.len();
            output.line(format!("({count} row{})\n", if count == 1 { "" } else { "s" }))?;
        }
        Ok(())
    }
}

/// A value of one of the types our own queries give.
fn value(row: &Row, at: usize) -> Result<Cell, tokio_postgres::Error> {
    let kind = row.columns().get(at).map(|column| column.type_().clone());
    let value = match kind {
        Some(Type::BOOL) => json!(row.try_get::<_, Option<bool>>(at)?),
        Some(Type::INT4) => json!(row.try_get::<_, Option<i32>>(at)?),
        Some(Type::INT8) => json!(row.try_get::<_, Option<i64>>(at)?),
        Some(Type::FLOAT8) => json!(row.try_get::<_, Option<f64>>(at)?),
        _ => json!(row.try_get::<_, Option<String>>(at)?),
    };
    Ok(Cell::Value(value))
}

/// A value the server gave as text.
pub fn value_of_text(text: Option<&str>, kind: Option<&Type>) -> Cell {
    let Some(text) = text else {
        return Cell::Value(Value::Null);
    };
    match kind {
        Some(&Type::BOOL) => Cell::Value(Value::Bool(text == "t")),
        Some(
            &(Type::INT2
            | Type::INT4
            | Type::INT8
            | Type::OID
            | Type::FLOAT4
            | Type::FLOAT8
            | Type::NUMERIC
            | Type::JSON
            | Type::JSONB),
            // Not JSON are NaN and the infinities.
        ) if serde_json::from_str::<&RawValue>(text).is_ok() => Cell::Json(text.to_owned()),
        _ => Cell::Value(Value::String(text.to_owned())),
    }
}

fn cell(cell: &Cell) -> String {
    match cell {
        Cell::Value(Value::Null) => String::new(),
        Cell::Value(Value::String(text)) | Cell::Json(text) => text.clone(),
        Cell::Value(other) => other.to_string(),
    }
}

/// A row as an object whose keys keep the columns' order.
struct Named<'a> {
    columns: &'a [String],
    values: &'a [Cell],
}

impl Serialize for Named<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.columns.len()))?;
        for (column, value) in self.columns.iter().zip(self.values) {
            map.serialize_entry(column, value)?;
        }
        map.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_keep_their_kind_in_json() {
        let printed = |text, kind| serde_json::to_string(&value_of_text(text, Some(&kind))).unwrap();
        assert_eq!(printed(Some("t"), Type::BOOL), "true");
        assert_eq!(printed(Some("12"), Type::INT8), "12");
        assert_eq!(printed(Some("{\"a\": 1}"), Type::JSONB), "{\"a\": 1}");
        assert_eq!(printed(Some("NaN"), Type::FLOAT8), "\"NaN\"");
        assert_eq!(printed(Some("12"), Type::TEXT), "\"12\"");
        assert_eq!(printed(None, Type::TEXT), "null");
    }

    #[test]
    fn no_digit_is_lost_in_json() {
        let printed = |text, kind| serde_json::to_string(&value_of_text(Some(text), Some(&kind))).unwrap();
        for (text, kind) in [
            ("12345678901234567890.12345678901", Type::NUMERIC),
            ("[1, 2.50]", Type::JSONB),
            ("{\"b\" : 1e400, \"a\":1, \"a\":2}", Type::JSON),
        ] {
            assert_eq!(printed(text, kind), text);
        }
    }

    #[test]
    fn a_row_keeps_the_order_of_its_columns() {
        let columns = ["z".to_owned(), "a".to_owned()];
        let row = Named {
            columns: &columns,
            values: &[Cell::Value(json!(1)), Cell::Value(Value::Null)],
        };
        assert_eq!(serde_json::to_string(&row).unwrap(), r#"{"z":1,"a":null}"#);
    }
}
