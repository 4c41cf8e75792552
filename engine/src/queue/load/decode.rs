//! Rows out of the events that PgQ's triggers make: `logutriga` writes them URL-encoded, `jsontriga` as JSON.

use serde::Deserialize;
use skytide_sql::TableName;
use skytide_sql::api::pgq::Event;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Op {
    Insert,
    Update,
    Delete,
    Truncate,
}

/// A row change as an event tells it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RowEvent {
    pub op: Op,
    pub table: TableName,
    pub key: Vec<String>,
    /// The columns that `row` has.
    pub columns: Vec<String>,
    /// A JSON object. What a trigger wrote as JSON is not touched: its numbers may be longer than ours.
    pub row: String,
    /// Values of the key, to tell rows apart: as the type's text, not as JSON.
    pub key_values: Vec<String>,
}

/// Why an event is no row.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotARow {
    #[error("its type {0:?} is not that of a trigger's event")]
    Type(String),
    #[error("it was made by sqltriga, whose SQL is not taken apart")]
    Sql,
    #[error("it names no table in ev_extra1")]
    Table,
    #[error("its data is not what its type promises: {0}")]
    Data(String),
}

#[derive(Deserialize)]
struct JsonType {
    op: String,
    table: (String, String),
    #[serde(default)]
    pkey: Vec<String>,
}

pub fn decode(event: &Event) -> Result<RowEvent, NotARow> {
    let ev_type = event.ev_type.as_deref().unwrap_or_default();
    if ev_type.starts_with('{') {
        return decode_json(event, ev_type);
    }
    let table = || {
        let name = event.extra[0].as_deref().ok_or(NotARow::Table)?;
        TableName::parse(name).map_err(|_| NotARow::Table)
    };
    let (op, key) = match ev_type.split_once(':') {
        Some(("I", key)) => (Op::Insert, key),
        Some(("U", key)) => (Op::Update, key),
        Some(("D", key)) => (Op::Delete, key),
        None if ev_type == "R" => (Op::Truncate, ""),
        None if ["I", "U", "D"].contains(&ev_type) => return Err(NotARow::Sql),
        _ => return Err(NotARow::Type(ev_type.to_owned())),
    };
    let key: Vec<String> = key
        .split(',')
        .map(str::trim)
        .filter(|name| !name.is_empty())
        .map(str::to_owned)
        .collect();
    let fields = urldecode(event.data.as_deref().unwrap_or_default())?;
    let value = |name: &String| {
        let found = fields.iter().find(|(column, _)| column == name);
        found.and_then(|(_, value)| value.clone()).unwrap_or_default()
    };
    let key_values = key.iter().map(value).collect();
    let columns = fields.iter().map(|(column, _)| column.clone()).collect();
    let object: serde_json::Map<String, serde_json::Value> = fields
        .into_iter()
        .map(|(column, value)| (column, value.map_or(serde_json::Value::Null, Into::into)))
        .collect();
    Ok(RowEvent {
        op,
        table: table()?,
        key,
        columns,
        row: serde_json::Value::Object(object).to_string(),
        key_values,
    })
}

fn decode_json(event: &Event, ev_type: &str) -> Result<RowEvent, NotARow> {
    let kind: JsonType = serde_json::from_str(ev_type).map_err(|_| NotARow::Type(ev_type.to_owned()))?;
    let op = match kind.op.as_str() {
        "INSERT" => Op::Insert,
        "UPDATE" => Op::Update,
        "DELETE" => Op::Delete,
        "TRUNCATE" => Op::Truncate,
        _ => return Err(NotARow::Type(ev_type.to_owned())),
    };
    let data = event.data.as_deref().unwrap_or("{}");
    let object: serde_json::Map<String, serde_json::Value> =
        serde_json::from_str(data).map_err(|error| NotARow::Data(error.to_string()))?;
    let value = |name: &String| match object.get(name) {
        Some(serde_json::Value::String(text)) => text.clone(),
        other => other.map(ToString::to_string).unwrap_or_default(),
    };
    Ok(RowEvent {
        op,
        table: TableName::new(kind.table.0, kind.table.1),
        key_values: kind.pkey.iter().map(value).collect(),
        key: kind.pkey,
        columns: object.keys().cloned().collect(),
        row: data.to_owned(),
    })
}

/// `a=1&b=x+y&c`: a name without `=` is NULL.
fn urldecode(text: &str) -> Result<Vec<(String, Option<String>)>, NotARow> {
    text.split('&')
        .filter(|field| !field.is_empty())
        .map(|field| match field.split_once('=') {
            Some((name, value)) => Ok((unescape(name)?, Some(unescape(value)?))),
            None => Ok((unescape(field)?, None)),
        })
        .collect()
}

fn unescape(text: &str) -> Result<String, NotARow> {
    let wrong = || NotARow::Data(format!("{text:?} is not URL-encoded"));
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        match byte {
            b'+' => bytes.push(b' '),
            b'%' => {
                let mut digit = || char::from(rest.next()?).to_digit(16);
                let (high, low) = (digit().ok_or_else(wrong)?, digit().ok_or_else(wrong)?);
                bytes.push(u8::try_from(high * 16 + low).map_err(|_| wrong())?);
            }
            byte => bytes.push(byte),
        }
    }
    String::from_utf8(bytes).map_err(|_| wrong())
}

#[cfg(test)]
mod tests {
    use super::*;
    use skytide_sql::{EventId, EventTime};

    fn event(ev_type: &str, data: &str, table: Option<&str>) -> Event {
        Event {
            id: EventId::new(1),
            time: EventTime::UNIX_EPOCH,
            txid: None,
            retry: 0,
            ev_type: Some(ev_type.to_owned()),
            data: Some(data.to_owned()),
            extra: [table.map(str::to_owned), None, None, None],
        }
    }

    #[test]
    fn urlencoded_rows_keep_nulls_and_odd_bytes() {
        let row = decode(&event("U:id,k", "id=1&k=a+b&c=%c3%a4%26&d&e=", Some("public.t"))).unwrap();
        assert_eq!((row.op, row.table.to_string().as_str()), (Op::Update, "public.t"));
        assert_eq!(row.key, ["id", "k"]);
        assert_eq!(row.key_values, ["1", "a b"]);
        assert_eq!(row.columns, ["id", "k", "c", "d", "e"]);
        let value: serde_json::Value = serde_json::from_str(&row.row).unwrap();
        assert_eq!(
            value,
            serde_json::json!({"id": "1", "k": "a b", "c": "ä&", "d": null, "e": ""})
        );
    }

    #[test]
    fn json_rows_are_passed_on_as_they_are() {
        let data = "{\"id\":123456789012345678901234567890,\"b\":null}";
        let kind = r#"{"op":"INSERT","table":["Odd s","t"],"pkey":["id"]}"#;
        let row = decode(&event(kind, data, None)).unwrap();
        assert_eq!((row.op, row.row.as_str()), (Op::Insert, data));
        assert_eq!(row.table, TableName::new("Odd s", "t"));
    }

    #[test]
    fn what_is_no_row_says_why() {
        assert_eq!(
            decode(&event("mail", "", None)),
            Err(NotARow::Type("mail".to_owned()))
        );
        assert_eq!(
            decode(&event("I", "(a) values (1)", Some("t"))),
            Err(NotARow::Sql)
        );
        assert_eq!(decode(&event("I:id", "id=1", None)), Err(NotARow::Table));
        assert!(matches!(
            decode(&event("I:id", "id=%4", Some("t"))),
            Err(NotARow::Data(_))
        ));
        assert_eq!(decode(&event("R", "", Some("s.t"))).unwrap().op, Op::Truncate);
    }
}
