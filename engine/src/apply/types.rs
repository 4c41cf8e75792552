//! What types of the user's are: the stream tells no more of them than their number on the provider.

use std::collections::HashMap;

use skytide_sql::Oid;
use skytide_sql::conn::{ConnectString, connect};
use tokio::sync::Mutex;

use super::patch::Patch;
use super::{ApplyError, queries};
use crate::change::names_an_object;

/// Types below this number are PostgreSQL's own and the same on every server.
pub(super) const FIRST_USER_OID: u32 = 16384;
/// Composites may nest, not for ever.
const MAX_DEPTH: u32 = 16;

/// The binary form of a type, domains resolved.
#[derive(Clone, Debug)]
pub(super) enum TypeForm {
    /// One of PostgreSQL's own.
    BuiltIn(Oid),
    /// The label, whatever the type is called.
    Enum,
    Array {
        element: Oid,
        form: Box<TypeForm>,
    },
    Record(Vec<(Oid, TypeForm)>),
    Range(Box<TypeForm>),
    /// Only the type's own functions know, as those of an extension.
    Other(String),
    /// Dropped since.
    Gone,
}

impl TypeForm {
    /// Reads the catalogs of either side.
    pub async fn read(
        client: &tokio_postgres::Client,
        oid: Oid,
        depth: u32,
    ) -> Result<TypeForm, tokio_postgres::Error> {
        if oid.get() < FIRST_USER_OID {
            return Ok(TypeForm::BuiltIn(oid));
        }
        let Some(row) = client.query_opt(queries::TYPE, &[&oid.get()]).await? else {
            return Ok(TypeForm::Gone);
        };
        if depth > MAX_DEPTH {
            return Ok(TypeForm::Gone);
        }
        let (kind, is_array): (&str, bool) = (row.get(0), row.get(1));
        let inner = |oid: Oid| Box::pin(TypeForm::read(client, oid, depth + 1));
        let oid_at = |column: usize| Oid::new(row.get(column));
        Ok(match kind {
            "b" if is_array => TypeForm::Array {
                element: oid_at(2),
                form: Box::new(inner(oid_at(2)).await?),
            },
            "c" => {
                let mut columns = Vec::new();
                for attribute in row.get::<_, Option<Vec<u32>>>(6).unwrap_or_default() {
                    let attribute = Oid::new(attribute);
                    columns.push((attribute, inner(attribute).await?));
                }
                TypeForm::Record(columns)
            }
            "d" => inner(oid_at(4)).await?,
            "e" => TypeForm::Enum,
            "r" => TypeForm::Range(Box::new(inner(oid_at(5)).await?)),
            _ => TypeForm::Other(row.get(7)),
        })
    }

    /// Whether values of this type are, but for the numbers of types in them, values of the other one.
    pub fn fits(&self, other: &TypeForm) -> bool {
        match (self, other) {
            (TypeForm::BuiltIn(a), TypeForm::BuiltIn(b)) => a == b && !names_an_object(*a),
            (TypeForm::Enum, TypeForm::Enum) => true,
            (TypeForm::Array { form: a, .. }, TypeForm::Array { form: b, .. }) => a.fits(b),
            (TypeForm::Record(a), TypeForm::Record(b)) => {
                a.len() == b.len() && a.iter().zip(b).all(|((_, a), (_, b))| a.fits(b))
            }
            (TypeForm::Range(a), TypeForm::Range(b)) => a.fits(b),
            (TypeForm::Other(a), TypeForm::Other(b)) => a == b,
            _ => false,
        }
    }

    /// How values become this type's, which is the subscriber's.
    pub fn patch(&self) -> Patch {
        match self {
            TypeForm::Array { element, form } => Patch::Array {
                element: *element,
                inner: Box::new(form.patch()),
            },
            TypeForm::Record(columns) => {
                Patch::Record(columns.iter().map(|(oid, form)| (*oid, form.patch())).collect())
            }
            TypeForm::Range(bound) => match bound.patch() {
                Patch::None => Patch::None,
                bound => Patch::Range(Box::new(bound)),
            },
            _ => Patch::None,
        }
    }
}

/// The provider's own types, as far as they were asked for.
#[derive(Debug)]
pub struct ProviderTypes {
    provider: ConnectString,
    application_name: String,
    known: Mutex<HashMap<Oid, TypeForm>>,
}

impl ProviderTypes {
    pub fn of(provider: ConnectString, application_name: String) -> ProviderTypes {
        ProviderTypes {
            provider,
            application_name,
            known: Mutex::default(),
        }
    }

    /// Asks the provider for those that are not known yet.
    pub(super) async fn forms(&self, wanted: Vec<Oid>) -> Result<HashMap<Oid, TypeForm>, ApplyError> {
        let mut known = self.known.lock().await;
        let missing: Vec<Oid> = wanted
            .into_iter()
            .filter(|oid| !known.contains_key(oid))
            .collect();
        if !missing.is_empty() {
            let client = connect(&self.provider, &self.application_name)
                .await
                .map_err(ApplyError::ConnectProvider)?;
            for oid in missing {
                let form = TypeForm::read(&client, oid, 0).await.map_err(ApplyError::Types)?;
                known.insert(oid, form);
            }
        }
        Ok(known.clone())
    }

    /// They may have been altered.
    pub(super) async fn forget(&self) {
        self.known.lock().await.clear();
    }
}
