//! Names, checked once and then trusted.

use std::fmt;

use crate::ident::quote_ident;

/// A name that cannot be used, and why.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("bad {kind} {name:?}: {why}")]
pub struct BadName {
    pub kind: &'static str,
    pub name: String,
    pub why: &'static str,
}

macro_rules! name_type {
    ($(#[$doc:meta])* $name:ident, $kind:literal, $max:expr) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        pub struct $name(String);

        impl $name {
            pub fn new(name: impl Into<String>) -> Result<Self, BadName> {
                let name = name.into();
                let why = if name.is_empty() {
                    "is empty"
                } else if name.len() > $max {
                    concat!("is longer than ", stringify!($max), " bytes")
                } else if name.chars().any(char::is_control) {
                    "has control characters"
                } else {
                    return Ok(Self(name));
                };
                Err(BadName { kind: $kind, name, why })
            }

            /// A name that the database may have already, whoever made it: there any text is one.
            pub fn stored(name: impl Into<String>) -> Result<Self, BadName> {
                let name = name.into();
                if name.contains('\0') {
                    let why = "has a character of code 0";
                    return Err(BadName { kind: $kind, name, why });
                }
                Ok(Self(name))
            }

            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

name_type!(
    /// A PgQ queue. Old installations have long and odd ones, so only the extremes are refused.
    QueueName, "queue name", 200
);
name_type!(
    /// A node of a cascade.
    NodeName, "node name", 200
);
name_type!(
    /// A PgQ consumer.
    ConsumerName, "consumer name", 200
);

/// A replication slot: PostgreSQL allows `a-z0-9_` and 63 bytes.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct SlotName(String);

impl SlotName {
    pub fn new(name: impl Into<String>) -> Result<Self, BadName> {
        let name = name.into();
        let legal = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_';
        let why = if name.is_empty() {
            "is empty"
        } else if name.len() > 63 {
            "is longer than 63 bytes"
        } else if !name.bytes().all(legal) {
            "may hold only a-z, 0-9 and _"
        } else {
            return Ok(Self(name));
        };
        Err(BadName {
            kind: "slot name",
            name,
            why,
        })
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for SlotName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A table's schema and name, unquoted. In `londiste.table_info` it stands as `schema.name`, split
/// at the first dot.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct TableName {
    pub schema: String,
    pub name: String,
}

impl TableName {
    pub fn new(schema: impl Into<String>, name: impl Into<String>) -> TableName {
        TableName {
            schema: schema.into(),
            name: name.into(),
        }
    }

    /// Londiste's global name: the first dot splits, no dot means schema `public`.
    pub fn parse(text: &str) -> Result<TableName, BadName> {
        let (schema, name) = text.split_once('.').unwrap_or(("public", text));
        if schema.is_empty() || name.is_empty() {
            return Err(BadName {
                kind: "table name",
                name: text.to_owned(),
                why: "has an empty part",
            });
        }
        Ok(TableName::new(schema, name))
    }

    /// `"schema"."name"`, for use in a statement.
    pub fn quoted(&self) -> String {
        format!("{}.{}", quote_ident(&self.schema), quote_ident(&self.name))
    }
}

impl fmt::Display for TableName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.schema, self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_there_may_have_any_name() {
        for name in ["", "a\nb", "x".repeat(300).as_str()] {
            assert!(QueueName::new(name).is_err());
            assert_eq!(QueueName::stored(name).unwrap().as_str(), name);
        }
        assert!(QueueName::stored("a\0b").is_err());
    }

    #[test]
    fn table_names_split_at_the_first_dot() {
        assert_eq!(TableName::parse("a.b.c").unwrap(), TableName::new("a", "b.c"));
        assert_eq!(TableName::parse("t").unwrap().to_string(), "public.t");
        assert!(TableName::parse(".t").is_err());
        assert_eq!(TableName::new("Odd s", "select").quoted(), "\"Odd s\".\"select\"");
    }

    #[test]
    fn slots_take_what_postgres_takes() {
        assert!(SlotName::new("skytide_q1").is_ok());
        for bad in ["", "Q", "a-b", &"x".repeat(64)] {
            assert!(SlotName::new(bad).is_err());
        }
    }
}
