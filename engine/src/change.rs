//! Row changes: where every capture ends and every reader begins.
//!
//! Tuples stay in the bytes pgoutput sent (PostgreSQL manual, "Logical Replication Message Formats"):
//! Int16 column count, then per column a kind byte `n` (null), `u` (unchanged TOAST, no value), `t` or
//! `b` (text or binary: Int32 length, bytes). Nothing is copied until somebody needs a value.

use skytide_sql::{Oid, TableName};

pub mod scalar;

/// A column as the provider describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    pub name: String,
    pub type_oid: Oid,
    pub type_modifier: i32,
    /// Part of the replica identity.
    pub is_identity: bool,
}

/// PostgreSQL's types whose binary values are numbers of objects (`regclass` and the like, and arrays of them): the same
/// number is another object in another database.
const OBJECT_TYPES: [u32; 22] = [
    24, 2202, 2203, 2204, 2205, 2206, 3734, 3769, 4089, 4096, 4191, 1008, 2207, 2208, 2209, 2210, 2211, 3735,
    3770, 4090, 4097, 4192,
];

/// Whether binary values of a type of PostgreSQL's own mean something only in their database.
pub fn names_an_object(type_oid: Oid) -> bool {
    OBJECT_TYPES.contains(&type_oid.get())
}

/// What an UPDATE or DELETE carries of the old row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplicaIdentity {
    /// The primary key.
    Default,
    /// Nothing.
    Nothing,
    /// The whole row.
    Full,
    /// The columns of a chosen unique index.
    Index,
}

/// A table's shape on the provider, as of one version of its definition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Relation {
    pub oid: Oid,
    pub table: TableName,
    pub identity: ReplicaIdentity,
    pub columns: Vec<Column>,
}

/// Names one version of one table's shape within a spool. Row changes carry it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct RelationId(pub u32);

/// One column's value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ColumnValue<'a> {
    Null,
    /// A TOASTed value the UPDATE did not touch: not sent, must not be overwritten.
    Unchanged,
    /// The type's output function's text, in the server encoding of the connection (UTF-8).
    Text(&'a [u8]),
    /// The type's send function's bytes.
    Binary(&'a [u8]),
}

/// The bytes do not parse.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("bad row change at byte {offset}: {what}")]
pub struct BadChange {
    pub offset: usize,
    pub what: &'static str,
}

/// A row image, checked to be well formed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tuple<'a> {
    columns: u16,
    /// Kind bytes, lengths and values; exactly `columns` of them.
    body: &'a [u8],
}

/// What of the old row an UPDATE or DELETE carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OldRow<'a> {
    /// All columns are there, but only those of the identity hold values; the others are null.
    Key(Tuple<'a>),
    /// The whole row (REPLICA IDENTITY FULL).
    Full(Tuple<'a>),
}

/// One change of a transaction, in the order they happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RowChange<'a> {
    Insert {
        relation: RelationId,
        new: Tuple<'a>,
    },
    /// `old` is there if the identity changed, or is FULL.
    Update {
        relation: RelationId,
        old: Option<OldRow<'a>>,
        new: Tuple<'a>,
    },
    Delete {
        relation: RelationId,
        old: OldRow<'a>,
    },
    Truncate {
        relations: Vec<RelationId>,
        cascade: bool,
        restart_identity: bool,
    },
}

impl<'a> Tuple<'a> {
    /// Splits one tuple off the front of `bytes`; returns it and what follows.
    pub fn split_from(bytes: &'a [u8]) -> Result<(Tuple<'a>, &'a [u8]), BadChange> {
        let bad = |offset, what| BadChange { offset, what };
        let (count, body) = bytes.split_first_chunk::<2>().ok_or(bad(0, "no column count"))?;
        let columns = u16::from_be_bytes(*count);
        let mut rest = body;
        for _ in 0..columns {
            let at = bytes.len() - rest.len();
            let (kind, after) = rest
                .split_first()
                .ok_or(bad(at, "row ends before its columns do"))?;
            rest = match kind {
                b'n' | b'u' => after,
                b't' | b'b' => {
                    let (len, after) = after
                        .split_first_chunk::<4>()
                        .ok_or(bad(at, "row ends in a column's length"))?;
                    let len = usize::try_from(i32::from_be_bytes(*len))
                        .map_err(|_| bad(at, "negative column length"))?;
                    after.get(len..).ok_or(bad(at, "row ends in a column's value"))?
                }
                _ => return Err(bad(at, "unknown column kind")),
            };
        }
        let body = &body[..body.len() - rest.len()];
        Ok((Tuple { columns, body }, rest))
    }

    pub fn len(&self) -> usize {
        usize::from(self.columns)
    }

    pub fn is_empty(&self) -> bool {
        self.columns == 0
    }

    /// Kind bytes, lengths and values, as they came.
    pub fn as_bytes(&self) -> &'a [u8] {
        self.body
    }

    /// The values in column order.
    pub fn values(&self) -> Values<'a> {
        Values { rest: self.body }
    }
}

/// Iterates over a checked tuple.
#[derive(Clone)]
pub struct Values<'a> {
    rest: &'a [u8],
}

impl<'a> Values<'a> {
    /// The values of a tuple whose [`Tuple::as_bytes`] were kept.
    pub fn of_body(body: &'a [u8]) -> Values<'a> {
        Values { rest: body }
    }
}

impl<'a> Iterator for Values<'a> {
    type Item = ColumnValue<'a>;

    #[inline]
    fn next(&mut self) -> Option<ColumnValue<'a>> {
        let (kind, after) = self.rest.split_first()?;
        match kind {
            b'n' | b'u' => {
                self.rest = after;
                Some(if *kind == b'n' {
                    ColumnValue::Null
                } else {
                    ColumnValue::Unchanged
                })
            }
            _ => {
                let (len, after) = after.split_first_chunk::<4>()?;
                let (value, rest) = after.split_at_checked(u32::from_be_bytes(*len) as usize)?;
                self.rest = rest;
                Some(if *kind == b'b' {
                    ColumnValue::Binary(value)
                } else {
                    ColumnValue::Text(value)
                })
            }
        }
    }
}

/// Rows of a transaction as the spool keeps them: a run of records
/// `u32 length (little-endian, of what follows) | u8 kind | body`.
///
/// | kind | body |
/// |---|---|
/// | `I` | u32 relation (big-endian), then pgoutput's bytes: `N` tuple |
/// | `U` | u32 relation, [`K` tuple \| `O` tuple], `N` tuple |
/// | `D` | u32 relation, `K` or `O`, tuple |
/// | `T` | u32 count, u8 flags (1 cascade, 2 restart identity), count × u32 relation |
/// | `X` | u32 subtransaction id: the records that follow belong to it (streamed transactions only) |
pub mod record {
    use super::*;
    use skytide_sql::Xid32;

    /// A record of a row run.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub enum Record<'a> {
        Change(RowChange<'a>),
        /// What follows was done by this subtransaction (or by the top-level one itself).
        Subtransaction(Xid32),
    }

    /// Reads a run of records.
    #[derive(Clone)]
    pub struct Records<'a> {
        run: &'a [u8],
        at: usize,
    }

    impl<'a> Records<'a> {
        pub fn new(run: &'a [u8]) -> Records<'a> {
            Records { run, at: 0 }
        }

        fn bad(&self, what: &'static str) -> BadChange {
            BadChange {
                offset: self.at,
                what,
            }
        }

        /// The next record, or `None` at the end of the run.
        ///
        /// # Errors
        /// The run is not well formed; `offset` counts from its start.
        #[inline]
        pub fn next_record(&mut self) -> Result<Option<Record<'a>>, BadChange> {
            let rest = &self.run[self.at..];
            if rest.is_empty() {
                return Ok(None);
            }
            let (len, rest) = rest
                .split_first_chunk::<4>()
                .ok_or(self.bad("record length is cut off"))?;
            let len = u32::from_le_bytes(*len) as usize;
            let body = rest.get(..len).ok_or(self.bad("record is cut off"))?;
            let record = decode(body).map_err(|e| BadChange {
                offset: self.at + 4 + e.offset,
                what: e.what,
            })?;
            self.at += 4 + len;
            Ok(Some(record))
        }
    }

    fn decode(body: &[u8]) -> Result<Record<'_>, BadChange> {
        let bad = |rest: &[u8], what| BadChange {
            offset: body.len() - rest.len(),
            what,
        };
        let (kind, rest) = body.split_first().ok_or(bad(body, "empty record"))?;
        let (word, rest) = rest
            .split_first_chunk::<4>()
            .ok_or(bad(rest, "record has no relation"))?;
        let word = u32::from_be_bytes(*word);
        let relation = RelationId(word);
        let tuple = |bytes| {
            let at = body.len() - <[u8]>::len(bytes);
            Tuple::split_from(bytes).map_err(|e| BadChange {
                offset: at + e.offset,
                what: e.what,
            })
        };
        let old_row = |kind: u8, tuple| {
            if kind == b'K' {
                OldRow::Key(tuple)
            } else {
                OldRow::Full(tuple)
            }
        };
        let (record, rest) = match kind {
            b'I' => {
                let rest = rest
                    .strip_prefix(b"N")
                    .ok_or(bad(rest, "insert without a new row"))?;
                let (new, rest) = tuple(rest)?;
                (RowChange::Insert { relation, new }, rest)
            }
            b'U' => {
                let (old, rest) = match rest.split_first() {
                    Some((kind @ (b'K' | b'O'), rest)) => {
                        let (old, rest) = tuple(rest)?;
                        (Some(old_row(*kind, old)), rest)
                    }
                    _ => (None, rest),
                };
                let rest = rest
                    .strip_prefix(b"N")
                    .ok_or(bad(rest, "update without a new row"))?;
                let (new, rest) = tuple(rest)?;
                (RowChange::Update { relation, old, new }, rest)
            }
            b'D' => match rest.split_first() {
                Some((kind @ (b'K' | b'O'), rest)) => {
                    let (old, rest) = tuple(rest)?;
                    (
                        RowChange::Delete {
                            relation,
                            old: old_row(*kind, old),
                        },
                        rest,
                    )
                }
                _ => return Err(bad(rest, "delete without an old row")),
            },
            b'T' => {
                let (flags, rest) = rest.split_first().ok_or(bad(rest, "truncate without flags"))?;
                let (list, rest) = usize::try_from(word)
                    .ok()
                    .and_then(|n| n.checked_mul(4))
                    .and_then(|len| rest.split_at_checked(len))
                    .ok_or(bad(rest, "truncate's relations are cut off"))?;
                let relations = list
                    .chunks_exact(4)
                    .map(|c| RelationId(u32::from_be_bytes([c[0], c[1], c[2], c[3]])))
                    .collect();
                let (cascade, restart_identity) = (flags & 1 != 0, flags & 2 != 0);
                (
                    RowChange::Truncate {
                        relations,
                        cascade,
                        restart_identity,
                    },
                    rest,
                )
            }
            b'X' => return Ok(Record::Subtransaction(Xid32::new(word))),
            _ => return Err(bad(body, "unknown record kind")),
        };
        if !rest.is_empty() {
            return Err(bad(rest, "bytes after the end of a change"));
        }
        Ok(Record::Change(record))
    }
}

#[cfg(test)]
mod tests {
    use super::record::{Record, Records};
    use super::*;
    use proptest::prelude::*;

    fn record(body: &[u8]) -> Vec<u8> {
        let mut run = (body.len() as u32).to_le_bytes().to_vec();
        run.extend_from_slice(body);
        run
    }

    #[test]
    fn an_update_with_its_old_key_reads_back() {
        let run = record(b"U\0\0\0\x07K\0\x02t\0\0\0\x011nN\0\x02b\0\0\0\x02\x01\x02u");
        let mut records = Records::new(&run);
        let Some(Record::Change(RowChange::Update {
            relation,
            old: Some(OldRow::Key(old)),
            new,
        })) = records.next_record().unwrap()
        else {
            panic!("not an update with a key");
        };
        assert_eq!(relation, RelationId(7));
        assert_eq!(
            old.values().collect::<Vec<_>>(),
            [ColumnValue::Text(b"1"), ColumnValue::Null]
        );
        assert_eq!(
            new.values().collect::<Vec<_>>(),
            [ColumnValue::Binary(&[1, 2]), ColumnValue::Unchanged]
        );
        assert_eq!(records.next_record().unwrap(), None);
    }

    proptest! {
        #[test]
        fn any_bytes_give_records_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut records = Records::new(&bytes);
            while let Ok(Some(_)) = records.next_record() {}
        }

        #[test]
        fn any_body_gives_a_record_or_an_error(
            kind in proptest::sample::select(b"IUDTX".to_vec()),
            bytes in proptest::collection::vec(any::<u8>(), 0..60),
        ) {
            let mut body = vec![kind];
            body.extend(bytes);
            let run = record(&body);
            let mut records = Records::new(&run);
            while let Ok(Some(record)) = records.next_record() {
                if let Record::Change(RowChange::Insert { new, .. }) = record {
                    prop_assert_eq!(new.values().count(), new.len());
                }
            }
        }
    }
}
