//! Columns of target tables: how a value that comes as text gets into one, and which values of one are equal.

use skytide_sql::TableName;
use skytide_sql::fault::{Fault, fault_of};
use tokio_postgres::Transaction;

use super::HandlerError;

/// A column of a target table.
#[derive(Debug)]
pub(super) struct Column {
    /// Its type as it is written in SQL, without length or precision, and that below a domain: an explicit cast to
    /// `varchar(3)` cuts what is too long, while the assignment to the column refuses it.
    pub kind: String,
    /// By the server, from other columns: nobody may write it.
    pub generated: bool,
    pub longest: Option<Longest>,
    /// `None`: values that are written differently may be equal, and only the server knows.
    pub equality: Option<Equality>,
}

/// What the type's length lets in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Longest {
    /// Spaces at the end are cut without an error, as the standard wants it.
    Characters(usize),
    Bits(usize),
    ExactBits(usize),
}

/// Types whose values are equal if and only if they are written alike, in the one way the server writes them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Equality {
    Text,
    /// Spaces at the end do not count.
    Padded,
    Integer,
    Bool,
    Uuid,
    Bytea,
    Date,
    Timestamp,
}

impl Equality {
    /// `numeric`, `citext`, `timestamptz` in sessions of two time zones and many others are missing here for a reason.
    fn of(oid: u32, is_enum: bool, deterministic: bool) -> Option<Equality> {
        Some(match oid {
            25 | 1043 if deterministic => Equality::Text,
            1042 if deterministic => Equality::Padded,
            20 | 21 | 23 | 26 => Equality::Integer,
            16 => Equality::Bool,
            2950 => Equality::Uuid,
            17 => Equality::Bytea,
            1082 => Equality::Date,
            1114 => Equality::Timestamp,
            _ if is_enum => Equality::Text,
            _ => return None,
        })
    }

    /// Texts of two values that are the same if and only if the values are equal. `None`: it is not written as the
    /// server writes it, so that there is no telling.
    pub fn canonical(self, text: &str) -> Option<String> {
        let is = |is: bool| is.then(|| text.to_owned());
        match self {
            Equality::Text => is(true),
            Equality::Padded => Some(text.trim_end_matches(' ').to_owned()),
            Equality::Integer => is(text.parse::<i64>().is_ok_and(|number| number.to_string() == text)),
            Equality::Bool => match text {
                "t" | "true" => Some("t".to_owned()),
                "f" | "false" => Some("f".to_owned()),
                _ => None,
            },
            Equality::Uuid => is(looks_like(text, "hhhhhhhh-hhhh-hhhh-hhhh-hhhhhhhhhhhh")),
            Equality::Bytea => {
                let digits = text.strip_prefix("\\x");
                is(digits.is_some_and(|digits| digits.len() % 2 == 0 && digits.chars().all(is_low_hex)))
            }
            Equality::Date => is(looks_like(text, "dddd-dd-dd")),
            Equality::Timestamp => {
                // JSON has a T there.
                let text = text.replace('T', " ");
                let (whole, fraction) = text.split_once('.').unwrap_or((&text, "1"));
                let fits = (1..=6).contains(&fraction.len())
                    && fraction.chars().all(|c| c.is_ascii_digit())
                    && !fraction.ends_with('0');
                (looks_like(whole, "dddd-dd-dd dd:dd:dd") && fits).then_some(text)
            }
        }
    }
}

fn is_low_hex(c: char) -> bool {
    matches!(c, '0'..='9' | 'a'..='f')
}

/// `d` stands for a digit, `h` for one of a hexadecimal number.
fn looks_like(text: &str, shape: &str) -> bool {
    let fits = |(c, shape): (char, char)| match shape {
        'd' => c.is_ascii_digit(),
        'h' => is_low_hex(c),
        same => c == same,
    };
    text.len() == shape.len() && text.chars().zip(shape.chars()).all(fits)
}

impl Column {
    /// To name a column that the server refused to fill: it does not say which one it was.
    pub fn is_too_long(&self, value: &str) -> bool {
        let characters = || value.trim_end_matches(' ').chars().count();
        match self.longest {
            None => false,
            Some(Longest::Characters(most)) => characters() > most,
            Some(Longest::Bits(most)) => characters() > most,
            Some(Longest::ExactBits(bits)) => characters() != bits,
        }
    }
}

/// Length and precision are left out by -1; without that, `character` and `bit` would have length 1. A domain's length is
/// kept out of casts too.
const READ_COLUMNS: &str = "\
    select a.attname, pg_catalog.format_type(b.type, -1), a.attgenerated <> '', b.type, b.typmod, \
           b.is_enum, coalesce(c.collisdeterministic, true) \
      from pg_catalog.pg_attribute a \
      left join pg_catalog.pg_collation c on c.oid = a.attcollation \
     cross join lateral ( \
           with recursive down (type, typmod) as ( \
                select a.atttypid, a.atttypmod \
                union all \
                select t.typbasetype, t.typtypmod \
                  from down join pg_catalog.pg_type t on t.oid = down.type \
                 where t.typtype = 'd') \
           select down.type, down.typmod, t.typtype = 'e' as is_enum \
             from down join pg_catalog.pg_type t on t.oid = down.type \
            where t.typtype <> 'd') b \
     where a.attrelid = pg_catalog.to_regclass($1) and a.attnum > 0 and not a.attisdropped \
     order by a.attnum";

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
            let (oid, typmod): (u32, i32) = (row.try_get(3)?, row.try_get(4)?);
            let column = Column {
                kind: row.try_get(1)?,
                generated: row.try_get(2)?,
                longest: longest(oid, typmod),
                equality: Equality::of(oid, row.try_get(5)?, row.try_get(6)?),
            };
            Ok((row.try_get(0)?, column))
        })
        .collect()
}

fn longest(oid: u32, typmod: i32) -> Option<Longest> {
    // Lengths of characters count the four bytes of a header.
    let characters = || usize::try_from(typmod.checked_sub(4)?).ok();
    let bits = || usize::try_from(typmod).ok();
    match oid {
        1042 | 1043 => characters().map(Longest::Characters),
        1560 => bits().map(Longest::ExactBits),
        1562 => bits().map(Longest::Bits),
        _ => None,
    }
}

/// The target table did not take rows.
#[derive(Debug, thiserror::Error)]
#[error("{}", self.text())]
pub(super) struct Refused {
    table: TableName,
    /// One that has a value it has no room for.
    column: Option<String>,
    source: tokio_postgres::Error,
}

impl Refused {
    /// `column` is looked at where a value did not fit.
    pub fn new(table: &TableName, column: Option<String>, source: tokio_postgres::Error) -> Refused {
        let misfit = source
            .code()
            .is_some_and(|code| ["22001", "22026"].contains(&code.code()));
        Refused {
            table: table.clone(),
            column: column.filter(|_| misfit),
            source,
        }
    }

    fn text(&self) -> String {
        let table = &self.table;
        match &self.column {
            Some(column) => format!("a value does not fit into column {column} of table {table}"),
            None => format!("write to table {table}"),
        }
    }

    fn fault(&self) -> Fault {
        fault_of(&self.source)
    }
}

impl From<Refused> for HandlerError {
    fn from(refused: Refused) -> HandlerError {
        HandlerError::with_fault(refused.fault(), refused)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_the_server_writes_in_one_way_is_compared_as_text() {
        let none = |equality: Equality, text: &str| assert_eq!(equality.canonical(text), None, "{text}");
        let same = |equality: Equality, text: &str| {
            assert_eq!(equality.canonical(text).as_deref(), Some(text), "{text}");
        };
        same(Equality::Integer, "-12");
        for text in ["01", "+1", " 1", "-0", ""] {
            none(Equality::Integer, text);
        }
        assert_eq!(Equality::Bool.canonical("true"), Equality::Bool.canonical("t"));
        none(Equality::Bool, "yes");
        same(Equality::Uuid, "0e37df36-f698-11e6-8dd4-cb9ced3df976");
        none(Equality::Uuid, "0E37df36-f698-11e6-8dd4-cb9ced3df976");
        same(Equality::Bytea, "\\x00ff");
        none(Equality::Bytea, "\\000");
        same(Equality::Date, "2026-11-25");
        none(Equality::Date, "11/25/2026");
        same(Equality::Timestamp, "2026-11-25 10:00:00.25");
        assert_eq!(
            Equality::Timestamp.canonical("2026-11-25T10:00:00"),
            Equality::Timestamp.canonical("2026-11-25 10:00:00")
        );
        none(Equality::Timestamp, "2026-11-25 10:00:00.250");
        assert_eq!(Equality::Padded.canonical("a "), Equality::Padded.canonical("a"));
        assert_ne!(Equality::Text.canonical("a "), Equality::Text.canonical("a"));
    }

    #[test]
    fn numbers_and_texts_without_a_fixed_order_of_letters_are_left_to_the_server() {
        assert_eq!(Equality::of(1700, false, true), None);
        assert_eq!(Equality::of(1184, false, true), None);
        assert_eq!(Equality::of(25, false, false), None);
        assert_eq!(Equality::of(25, false, true), Some(Equality::Text));
        assert_eq!(Equality::of(70_000, true, true), Some(Equality::Text));
    }

    #[test]
    fn the_column_without_room_is_found() {
        let column = |oid, typmod| Column {
            kind: String::new(),
            generated: false,
            longest: longest(oid, typmod),
            equality: None,
        };
        let (char3, bits2) = (column(1043, 7), column(1562, 2));
        assert!(char3.is_too_long("äöüx") && !char3.is_too_long("äöü  "));
        assert!(bits2.is_too_long("111") && !bits2.is_too_long("1"));
        assert!(column(1560, 2).is_too_long("1"));
        assert!(!column(1043, -1).is_too_long("any") && !column(25, -1).is_too_long("any"));
    }
}
