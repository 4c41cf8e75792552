//! How one version of a provider's table fits the subscriber's table.

use std::sync::Arc;

use skytide_sql::ident::quote_ident;
use skytide_sql::{Oid, TableName};

use super::net::WholeUpdates;
use super::patch::Patch;
use super::{ApplyError, queries};
use crate::change::{Relation, ReplicaIdentity};

/// Types below this number are PostgreSQL's own and the same on every server.
const FIRST_USER_OID: u32 = 16384;

#[derive(Debug, PartialEq, Eq)]
pub(super) struct Shape {
    pub relation: Arc<Relation>,
    pub dest: TableName,
    pub table_oid: Oid,
    pub partitioned: bool,
    /// What the subscriber's columns were; see [`queries::unaltered`].
    pub signature: String,
    /// By the provider's column number; none if the subscriber has no such column to write.
    pub columns: Vec<Option<Local>>,
    /// Numbers of the key's columns, ascending.
    pub key: Box<[usize]>,
    pub whole_updates: WholeUpdates,
    /// Provider's columns that the subscriber's table lacks.
    pub ignored: Vec<String>,
    /// The subscriber's columns that the provider's table lacks and that may be written; quoted.
    pub others: Vec<String>,
}

/// The subscriber's column a value goes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Local {
    /// Quoted.
    pub name: String,
    pub type_name: String,
    /// The type binary values have when they reach the subscriber.
    pub binary: Oid,
    /// Binary values are of the column's type, or of the one below its domain.
    pub same_type: bool,
    /// May stand in an UPDATE's SET; else a row with a new value is deleted and inserted.
    pub settable: bool,
    /// The equality that the key's index knows; empty for columns outside the key.
    pub equals: String,
    pub patch: Patch,
}

impl Shape {
    /// Reads the subscriber's catalogs.
    pub async fn resolve(
        client: &tokio_postgres::Client,
        relation: Arc<Relation>,
        dest: TableName,
    ) -> Result<Shape, ApplyError> {
        let failed = |error| ApplyError::Table {
            doing: "look up",
            table: dest.clone(),
            error,
        };
        let rows = client
            .query(queries::COLUMNS, &[&dest.schema, &dest.name])
            .await
            .map_err(failed)?;
        let Some(first) = rows.first() else {
            return Err(ApplyError::NoTable(dest));
        };
        let (table_oid, partitioned): (u32, bool) = (first.get(0), first.get(1));
        let signature: String = first.get(7);
        let mut columns = Vec::with_capacity(relation.columns.len());
        let mut ignored = Vec::new();
        let mut always_identity = Vec::new();
        for column in &relation.columns {
            let local = rows.iter().find(|row| row.get::<_, &str>(2) == column.name);
            let Some(row) = local else {
                ignored.push(column.name.clone());
                columns.push(None);
                continue;
            };
            let (generated, identity_always): (bool, bool) = (row.get(3), row.get(4));
            if generated {
                columns.push(None);
                continue;
            }
            if identity_always {
                always_identity.push(columns.len());
            }
            let base: u32 = row.get(6);
            let wire = column.type_oid.get();
            let same_type = wire == base || wire >= FIRST_USER_OID;
            let patch = if base >= FIRST_USER_OID && same_type {
                patch_of(client, base, 0).await.map_err(failed)?
            } else {
                Patch::None
            };
            columns.push(Some(Local {
                name: quote_ident(&column.name),
                type_name: row.get(5),
                binary: Oid::new(if same_type { base } else { wire }),
                same_type,
                settable: !identity_always,
                equals: String::new(),
                patch,
            }));
        }
        let indexes = client
            .query(queries::UNIQUE_INDEXES, &[&table_oid])
            .await
            .map_err(failed)?;
        let indexes: Vec<(Vec<String>, Vec<String>)> =
            indexes.iter().map(|row| (row.get(0), row.get(1))).collect();
        let key = find_key(&relation, &dest, &mut columns, &indexes, first.get(8))?;
        let others = rows
            .iter()
            .filter(|row| !row.get::<_, bool>(3))
            .map(|row| row.get::<_, &str>(2))
            .filter(|name| relation.columns.iter().all(|column| column.name != *name))
            .map(quote_ident)
            .collect();
        let nothing_to_set = columns
            .iter()
            .enumerate()
            .all(|(at, column)| column.is_none() || key.contains(&at));
        let whole_updates = if always_identity.iter().any(|at| !key.contains(at)) {
            WholeUpdates::Replace
        } else if nothing_to_set {
            WholeUpdates::Nothing
        } else {
            WholeUpdates::Update
        };
        Ok(Shape {
            relation,
            table_oid: Oid::new(table_oid),
            partitioned,
            signature,
            others,
            columns,
            key,
            whole_updates,
            ignored,
            dest,
        })
    }

    /// The table in a statement that must not reach child tables.
    pub fn only(&self) -> String {
        let only = if self.partitioned { "" } else { "only " };
        format!("{only}{}", self.dest.quoted())
    }
}

/// The columns by which rows are found: the provider's replica identity if a unique index here has
/// the same ones; with identity FULL, our own primary key or a unique index.
fn find_key(
    relation: &Relation,
    dest: &TableName,
    columns: &mut [Option<Local>],
    indexes: &[(Vec<String>, Vec<String>)],
    has_primary: bool,
) -> Result<Box<[usize]>, ApplyError> {
    let wire = |name: &String| relation.columns.iter().position(|c| c.name == *name);
    let full = relation.identity == ReplicaIdentity::Full;
    let identity: Vec<usize> = (0..columns.len())
        .filter(|at| relation.columns[*at].is_identity)
        .collect();
    if identity.is_empty() && !full {
        return Ok(Box::default());
    }
    for (names, operators) in indexes {
        let Some(key) = names.iter().map(wire).collect::<Option<Vec<usize>>>() else {
            continue;
        };
        let mut sorted = key.clone();
        sorted.sort_unstable();
        if (full || sorted == identity) && key.iter().all(|at| columns[*at].is_some()) {
            for (at, operator) in key.iter().zip(operators) {
                if let Some(column) = &mut columns[*at] {
                    column.equals = operator.clone();
                }
            }
            return Ok(sorted.into());
        }
    }
    let name = |at: &usize| quote_ident(&relation.columns[*at].name);
    let names = identity.iter().map(name).collect::<Vec<_>>().join(", ");
    let quoted = dest.quoted();
    let fix = if full {
        // The provider finds its rows by all columns; no index does.
        format!("alter table {quoted} add primary key (<columns that are unique and never null>)")
    } else if indexes.is_empty() && !has_primary {
        format!("alter table {quoted} add primary key ({names})")
    } else {
        format!("create unique index on {quoted} ({names})")
    };
    let table = dest.clone();
    Err(ApplyError::NoKeyIndex { table, fix })
}

/// Composites may nest, not for ever.
const MAX_TYPE_DEPTH: u32 = 16;

async fn patch_of(
    client: &tokio_postgres::Client,
    oid: u32,
    depth: u32,
) -> Result<Patch, tokio_postgres::Error> {
    if oid < FIRST_USER_OID || depth > MAX_TYPE_DEPTH {
        return Ok(Patch::None);
    }
    let row = client.query_one(queries::TYPE, &[&oid]).await?;
    let (kind, is_array, element): (&str, bool, u32) = (row.get(0), row.get(1), row.get(2));
    let inner = |oid| Box::pin(patch_of(client, oid, depth + 1));
    Ok(match kind {
        "b" if is_array => Patch::Array {
            element: Oid::new(element),
            inner: Box::new(inner(element).await?),
        },
        "c" => {
            let mut columns = Vec::new();
            for attribute in row.get::<_, Option<Vec<u32>>>(6).unwrap_or_default() {
                columns.push((Oid::new(attribute), inner(attribute).await?));
            }
            Patch::Record(columns)
        }
        "d" => inner(row.get(4)).await?,
        "r" => match inner(row.get(5)).await? {
            Patch::None => Patch::None,
            bound => Patch::Range(Box::new(bound)),
        },
        _ => Patch::None,
    })
}
