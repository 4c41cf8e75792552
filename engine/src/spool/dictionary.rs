//! Which table shapes the ids in row records stand for.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use skytide_sql::{Oid, TableName};

use super::SpoolError;
use super::entry::relation_size;
use crate::change::{Column, Relation, RelationId, ReplicaIdentity};

/// Parses the body of a pgoutput Relation message (PostgreSQL manual, "Logical Replication Message Formats").
pub(super) fn parse_relation(message: &[u8]) -> Result<Relation, SpoolError> {
    let mut body = Body { rest: message };
    let relation = body.relation().ok_or(SpoolError::BadRelation {
        what: "it is cut off, or a name is not UTF-8, or a number is out of range",
    })?;
    if body.rest.is_empty() {
        Ok(relation)
    } else {
        Err(SpoolError::BadRelation {
            what: "bytes follow its last column",
        })
    }
}

/// Big-endian fields, as PostgreSQL sends them.
struct Body<'a> {
    rest: &'a [u8],
}

impl Body<'_> {
    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.rest.split_first_chunk::<N>()?;
        self.rest = rest;
        Some(*taken)
    }

    fn u8(&mut self) -> Option<u8> {
        self.array::<1>().map(|[b]| b)
    }

    fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_be_bytes)
    }

    fn text(&mut self) -> Option<String> {
        let end = self.rest.iter().position(|b| *b == 0)?;
        let (text, rest) = self.rest.split_at_checked(end)?;
        self.rest = rest.get(1..)?;
        String::from_utf8(text.to_vec()).ok()
    }

    fn relation(&mut self) -> Option<Relation> {
        let oid = Oid::new(self.u32()?);
        let schema = self.text()?;
        let schema = if schema.is_empty() {
            "pg_catalog".to_owned()
        } else {
            schema
        };
        let table = TableName::new(schema, self.text()?);
        let identity = match self.u8()? {
            b'd' => ReplicaIdentity::Default,
            b'n' => ReplicaIdentity::Nothing,
            b'f' => ReplicaIdentity::Full,
            b'i' => ReplicaIdentity::Index,
            _ => return None,
        };
        let count = u16::from_be_bytes(self.array()?);
        let columns = (0..count).map(|_| self.column()).collect::<Option<Vec<_>>>()?;
        Some(Relation {
            oid,
            table,
            identity,
            columns,
        })
    }

    fn column(&mut self) -> Option<Column> {
        let flags = self.u8()?;
        Some(Column {
            name: self.text()?,
            type_oid: Oid::new(self.u32()?),
            type_modifier: i32::from_be_bytes(self.array()?),
            is_identity: flags & 1 != 0,
        })
    }
}

/// The shapes readers ask for.
#[derive(Default)]
pub(super) struct Dictionary {
    relations: RwLock<HashMap<RelationId, Arc<Relation>>>,
}

impl Dictionary {
    pub fn get(&self, id: RelationId) -> Option<Arc<Relation>> {
        let relations = self.relations.read().unwrap_or_else(PoisonError::into_inner);
        relations.get(&id).cloned()
    }

    /// Learns what `id` stands for, unless it is known.
    pub fn learn(&self, id: RelationId, message: &[u8]) -> Result<(), SpoolError> {
        if self.get(id).is_none() {
            let relation = Arc::new(parse_relation(message)?);
            let mut relations = self.relations.write().unwrap_or_else(PoisonError::into_inner);
            relations.insert(id, relation);
        }
        Ok(())
    }
}

/// One shape as the writer knows it.
struct Version {
    id: RelationId,
    message: Box<[u8]>,
    /// The segment that last declared it.
    declared_in: u64,
    /// The segment that was open when capture last asked for it.
    used_in: u64,
}

/// The writer's side: finds the id of a message, and what a new segment must declare again.
#[derive(Default)]
pub(super) struct Versions {
    /// By table; the version asked for last is at the end.
    by_table: HashMap<[u8; 4], Vec<Version>>,
    /// Bytes that declaring all of them takes.
    bytes: usize,
}

impl Versions {
    /// The id of these very bytes, if a segment from `segment` on declares it.
    pub fn find(&mut self, message: &[u8], segment: u64) -> Option<RelationId> {
        let versions = self.by_table.get_mut(message.first_chunk::<4>()?)?;
        let at = versions.iter().rposition(|v| *v.message == *message)?;
        if at + 1 != versions.len() {
            let version = versions.remove(at);
            versions.push(version);
        }
        let version = versions.last_mut()?;
        version.used_in = segment;
        (version.declared_in == segment).then_some(version.id)
    }

    /// The id of these very bytes, declared or not.
    pub fn known(&self, message: &[u8]) -> Option<RelationId> {
        let versions = self.by_table.get(message.first_chunk::<4>()?)?;
        Some(versions.iter().find(|v| *v.message == *message)?.id)
    }

    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Notes that `segment` declares the shape.
    pub fn declare(&mut self, id: RelationId, message: &[u8], segment: u64) {
        let Some(table) = message.first_chunk::<4>() else {
            return;
        };
        let versions = self.by_table.entry(*table).or_default();
        match versions.iter_mut().find(|v| v.id == id) {
            Some(version) => version.declared_in = segment,
            None => {
                self.bytes += relation_size(message);
                versions.push(Version {
                    id,
                    message: message.into(),
                    declared_in: segment,
                    used_in: segment,
                });
            }
        }
    }

    /// What the segment after `segment` must declare: each table's newest shape, and shapes used of late.
    pub fn current(&self, segment: u64) -> Vec<(RelationId, Box<[u8]>)> {
        let mut current = Vec::new();
        for versions in self.by_table.values() {
            let newest = versions.len().saturating_sub(1);
            for (i, version) in versions.iter().enumerate() {
                if i == newest || version.used_in == segment {
                    current.push((version.id, version.message.clone()));
                }
            }
        }
        current.sort_by_key(|(id, _)| *id);
        current
    }
}
