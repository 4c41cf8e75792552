//! The statements that apply rows. Each takes one parameter: an array of JSON objects.

use std::collections::HashMap;

use skytide_sql::TableName;
use skytide_sql::ident::quote_ident;

use super::super::column::Column;
use super::Shape;
use super::decode::Op;

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadShape {
    #[error("the target table {table} has no column {column}")]
    NoColumn { table: TableName, column: String },
    #[error("rows of {table} name no key, and cannot be found in the target table")]
    NoKey { table: TableName },
}

pub fn truncate(table: &TableName) -> String {
    format!("truncate {}", table.quoted())
}

/// `types`: the target table's columns.
pub fn of(shape: &Shape, types: &HashMap<String, Column>) -> Result<String, BadShape> {
    let table = shape.table.quoted();
    let is_written = |column: &&String| types.get(*column).is_none_or(|column| !column.generated);
    let typed = |column: &String| match types.get(column) {
        Some(Column { kind, .. }) => Ok((quote_ident(column), format!("r.{}::{kind}", quote_ident(column)))),
        None => Err(BadShape::NoColumn {
            table: shape.table.clone(),
            column: column.clone(),
        }),
    };
    let fields: Vec<String> = shape
        .columns
        .iter()
        .chain(shape.key.iter().filter(|key| !shape.columns.contains(key)))
        .map(|column| format!("{} text", quote_ident(column)))
        .collect();
    let rows = format!(
        "unnest($1::text[]) with ordinality as u (row, nr), \
         pg_catalog.json_to_record(u.row::json) as r ({})",
        fields.join(", ")
    );
    if shape.op == Op::Insert {
        let columns = shape.columns.iter().filter(is_written);
        let columns = columns.map(typed).collect::<Result<Vec<_>, _>>()?;
        let (names, values): (Vec<String>, Vec<String>) = columns.into_iter().unzip();
        let (names, values) = (names.join(", "), values.join(", "));
        return Ok(format!(
            "insert into {table} ({names}) overriding system value select {values} from {rows} order by u.nr"
        ));
    }

    if shape.key.is_empty() {
        return Err(BadShape::NoKey {
            table: shape.table.clone(),
        });
    }
    let pairs = |columns: &mut dyn Iterator<Item = &String>, prefix: &str| {
        columns
            .map(|column| typed(column).map(|(name, value)| format!("{prefix}{name} = {value}")))
            .collect::<Result<Vec<_>, _>>()
    };
    let key = pairs(&mut shape.key.iter(), "t.")?.join(" and ");
    if shape.op == Op::Delete {
        return Ok(format!("delete from {table} t using {rows} where {key}"));
    }
    // A key that is equal but written otherwise, as 1.0 and 1.00, is written as the source has it now.
    let is_set = |column: &&String| {
        !shape.key.contains(column) || types.get(*column).is_some_and(|column| column.equality.is_none())
    };
    let mut others = shape.columns.iter().filter(is_set).filter(is_written);
    let mut set = pairs(&mut others, "")?;
    if set.is_empty() {
        // Nothing but the key: the row is only touched, as it was at the source.
        set = pairs(&mut shape.key.iter(), "")?;
    }
    Ok(format!(
        "update {table} t set {} from {rows} where {key}",
        set.join(", ")
    ))
}

#[cfg(test)]
mod tests {
    use super::super::super::column::Equality;
    use super::*;

    fn shape(op: Op, key: &[&str], columns: &[&str]) -> Shape {
        let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        Shape {
            op,
            table: TableName::new("public", "t"),
            key: owned(key),
            columns: owned(columns),
        }
    }

    fn types() -> HashMap<String, Column> {
        [
            ("id", "integer", false, Some(Equality::Integer)),
            ("n", "numeric", false, None),
            ("odd \"c\"", "jsonb", false, None),
            ("g", "integer", true, Some(Equality::Integer)),
        ]
        .map(|(name, kind, generated, equality)| {
            let column = Column {
                kind: kind.to_owned(),
                generated,
                longest: None,
                equality,
            };
            (name.to_owned(), column)
        })
        .into()
    }

    #[test]
    fn what_the_server_generates_is_not_written() {
        let sql = |op| of(&shape(op, &["id"], &["id", "g"]), &types()).unwrap();
        assert!(sql(Op::Insert).starts_with("insert into \"public\".\"t\" (\"id\") overriding"));
        assert!(sql(Op::Update).contains(" set \"id\" = r.\"id\"::integer from "));
    }

    #[test]
    fn statements_cast_text_to_the_columns_types() {
        let columns = ["id", "odd \"c\""];
        let sql = |op| of(&shape(op, &["id"], &columns), &types()).unwrap();
        let rows = "unnest($1::text[]) with ordinality as u (row, nr), pg_catalog.json_to_record(u.row::json) \
                    as r (\"id\" text, \"odd \"\"c\"\"\" text)";
        assert_eq!(
            sql(Op::Insert),
            format!(
                "insert into \"public\".\"t\" (\"id\", \"odd \"\"c\"\"\") overriding system value \
                 select r.\"id\"::integer, r.\"odd \"\"c\"\"\"::jsonb from {rows} order by u.nr"
            )
        );
        assert_eq!(
            sql(Op::Update),
            format!(
                "update \"public\".\"t\" t set \"odd \"\"c\"\"\" = r.\"odd \"\"c\"\"\"::jsonb from {rows} \
                 where t.\"id\" = r.\"id\"::integer"
            )
        );
        assert_eq!(
            sql(Op::Delete),
            format!("delete from \"public\".\"t\" t using {rows} where t.\"id\" = r.\"id\"::integer")
        );
    }

    #[test]
    fn a_key_that_may_be_spelled_otherwise_is_written() {
        let sql = of(&shape(Op::Update, &["id", "n"], &["id", "n", "g"]), &types()).unwrap();
        assert!(sql.contains(" set \"n\" = r.\"n\"::numeric from "), "{sql}");
    }

    #[test]
    fn strange_columns_and_missing_keys_are_refused() {
        assert!(matches!(
            of(&shape(Op::Insert, &["id"], &["id", "gone"]), &types()),
            Err(BadShape::NoColumn { column, .. }) if column == "gone"
        ));
        assert!(matches!(
            of(&shape(Op::Update, &[], &["id"]), &types()),
            Err(BadShape::NoKey { .. })
        ));
    }
}
