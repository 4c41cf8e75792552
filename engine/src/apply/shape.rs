//! How one version of a provider's table fits the subscriber's table.

use std::collections::HashMap;
use std::sync::Arc;

use skytide_sql::ident::quote_ident;
use skytide_sql::{Oid, TableName};

use super::net::WholeUpdates;
use super::patch::Patch;
use super::types::{FIRST_USER_OID, ProviderTypes, TypeForm};
use super::{ApplyError, queries};
use crate::change::{Relation, ReplicaIdentity, names_an_object};

const TEXT: Oid = Oid::new(25);

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
    /// The type below the column's domain, if that is one.
    pub base_name: Option<String>,
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
    /// Reads the subscriber's catalogs, and the provider's where types of the user's are new.
    pub async fn resolve(
        client: &tokio_postgres::Client,
        types: Option<&ProviderTypes>,
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
        let there = match types {
            Some(types) => types.forms(user_types(&relation)).await?,
            None => HashMap::new(),
        };
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
            let base = Oid::new(row.get(6));
            let wire = column.type_oid;
            let binary = if !row.get::<_, bool>(10) {
                Binary::none()
            } else if wire.get() >= FIRST_USER_OID {
                let here = TypeForm::read(client, base, 0).await.map_err(failed)?;
                Binary::of_user_type(there.get(&wire), &here, base)
            } else {
                Binary::of_built_in(wire, base)
            };
            let (type_name, base_name): (String, String) = (row.get(5), row.get(9));
            columns.push(Some(Local {
                name: quote_ident(&column.name),
                base_name: (base_name != type_name).then_some(base_name),
                type_name,
                binary: binary.oid,
                same_type: binary.same_type,
                settable: !identity_always,
                equals: String::new(),
                patch: binary.patch,
            }));
        }
        let indexes = client
            .query(queries::UNIQUE_INDEXES, &[&table_oid])
            .await
            .map_err(failed)?;
        let indexes: Vec<(Vec<String>, Vec<String>)> =
            indexes.iter().map(|row| (row.get(0), row.get(1))).collect();
        let key = find_key(&relation, &dest, &mut columns, &indexes, first.get(8))?;
        let others: Vec<String> = rows
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
        let whole_updates = if others.is_empty() && always_identity.iter().any(|at| !key.contains(at)) {
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

/// What a column's binary values are to the subscriber.
struct Binary {
    oid: Oid,
    same_type: bool,
    patch: Patch,
}

impl Binary {
    fn of_built_in(wire: Oid, base: Oid) -> Binary {
        if names_an_object(wire) {
            return Binary::foreign(base);
        }
        Binary {
            oid: wire,
            same_type: wire == base,
            patch: Patch::None,
        }
    }

    /// `there`: what the type is on the provider; without it, what it is here. A number says nothing of the type, and the
    /// bytes of another one could be taken without an error.
    fn of_user_type(there: Option<&TypeForm>, here: &TypeForm, base: Oid) -> Binary {
        match there {
            Some(there) if !there.fits(here) => match there {
                TypeForm::BuiltIn(oid) => Binary::of_built_in(*oid, base),
                TypeForm::Enum => Binary::none(),
                // Often an enum that another one has taken the place of: its labels say what they are.
                TypeForm::Gone if matches!(here, TypeForm::Enum) => Binary::none(),
                _ => Binary::foreign(base),
            },
            _ => Binary {
                oid: base,
                same_type: true,
                patch: here.patch(),
            },
        }
    }

    /// Values are text, in binary form too.
    fn none() -> Binary {
        Binary {
            oid: TEXT,
            same_type: false,
            patch: Patch::None,
        }
    }

    fn foreign(base: Oid) -> Binary {
        Binary {
            oid: base,
            same_type: true,
            patch: Patch::Foreign,
        }
    }
}

fn user_types(relation: &Relation) -> Vec<Oid> {
    let oids = relation.columns.iter().map(|column| column.type_oid);
    oids.filter(|oid| oid.get() >= FIRST_USER_OID).collect()
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
