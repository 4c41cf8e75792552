//! The subscriber's list of tables, as the worker needs it.

use std::sync::Arc;

use skytide_sql::api::{ApiError, londiste};
use skytide_sql::ident::quote_literal;
use skytide_sql::names::BadName;
use skytide_sql::snapshot::BadSnapshot;
use skytide_sql::{Oid, QueueName, Snapshot, TableName};
use tokio_postgres::Client;

use super::state::{BadState, MergeState};
use crate::apply::{Target, Targets};

/// A table attached on this node.
#[derive(Clone, Debug)]
pub struct LocalTable {
    /// The set's name for it.
    pub table: TableName,
    /// What the provider calls it.
    pub source: TableName,
    /// Its number there, since it was copied.
    pub source_oid: Option<Oid>,
    pub dest: TableName,
    pub state: MergeState,
    /// Changes of transactions that this snapshot sees are in the copy already.
    pub snapshot: Option<Snapshot>,
    pub dropped_ddl: Option<String>,
    pub skip_truncate: bool,
}

#[derive(Clone, Debug, Default)]
pub struct Registry {
    pub tables: Vec<LocalTable>,
    /// A digest of which tables the main replay applies, not younger than the list.
    digest: String,
}

/// SQLSTATE of [`Registry::guard`], of a class that PostgreSQL does not use.
pub const TABLES_CHANGED: &str = "SK001";

/// The digest as the database has it.
fn digest_sql(queue: &QueueName) -> String {
    format!(
        "(select md5(coalesce(string_agg(table_name || ' ' || coalesce(dest_table, ''), ',' order by table_name), '')) \
            from londiste.table_info where queue_name = {} and local and merge_state = 'ok')",
        quote_literal(queue.as_str())
    )
}

#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    #[error(transparent)]
    Api(#[from] ApiError),
    #[error(transparent)]
    Sql(#[from] tokio_postgres::Error),
    #[error(transparent)]
    Name(#[from] BadName),
    #[error("table {table}")]
    State { table: String, source: BadState },
    #[error("table {table}")]
    Snapshot { table: String, source: BadSnapshot },
}

impl Registry {
    /// `provider_tables`: the provider's own list, for tables that have another name there.
    pub async fn load(
        subscriber: &Client,
        queue: &QueueName,
        provider_tables: &[ProviderTable],
    ) -> Result<Registry, RegistryError> {
        let row = subscriber
            .query_one(&format!("select {}", digest_sql(queue)), &[])
            .await?;
        let digest = row.get(0);
        let mut tables = Vec::new();
        for info in londiste::get_table_list(subscriber, queue).await? {
            if !info.local {
                continue;
            }
            let table = TableName::parse(&info.table_name)?;
            let dest = info.dest_table.as_deref().map(TableName::parse).transpose()?;
            let state =
                MergeState::parse(info.merge_state.as_deref()).map_err(|source| RegistryError::State {
                    table: info.table_name.clone(),
                    source,
                })?;
            let snapshot = info.custom_snapshot.as_deref().map(str::parse).transpose();
            let snapshot = snapshot.map_err(|source| RegistryError::Snapshot {
                table: info.table_name.clone(),
                source,
            })?;
            let there = provider_tables.iter().find(|there| there.table == table);
            let attributes = info.table_attrs.unwrap_or_default();
            tables.push(LocalTable {
                source: there.map_or(&table, |there| &there.source).clone(),
                source_oid: there.and_then(|there| there.oid).filter(|_| state.is_copied()),
                dest: dest.unwrap_or_else(|| table.clone()),
                table,
                state,
                snapshot,
                dropped_ddl: info.dropped_ddl,
                skip_truncate: attributes.split('&').any(|a| a == "skip_truncate=1"),
            });
        }
        Ok(Registry { tables, digest })
    }

    /// A statement for a batch's transaction that fails with [`TABLES_CHANGED`] where the list is not what it was: what
    /// the batch has of a table that was attached since, as it is (expect_sync), would never come again.
    pub fn guard(&self, queue: &QueueName) -> String {
        let body = format!(
            "begin if {} is distinct from {} then \
             raise exception 'the list of tables has changed' using errcode = '{TABLES_CHANGED}'; end if; end",
            digest_sql(queue),
            quote_literal(&self.digest),
        );
        format!("do {}", quote_literal(&body))
    }

    /// What the main replay applies: the tables that are in sync.
    pub fn targets(&self) -> Arc<Targets> {
        let mut targets = Targets::default();
        for table in self.tables.iter().filter(|t| t.state == MergeState::Ok) {
            targets.insert(
                table.source.clone(),
                Target {
                    dest: table.dest.clone(),
                    skip_visible_in: table.snapshot.clone(),
                },
            );
            if let Some(oid) = table.source_oid {
                targets.known_by(oid, table.source.clone());
            }
        }
        Arc::new(targets)
    }

    /// Whether any table's data depend on the spool going back to its copy.
    pub fn any_copied(&self) -> bool {
        self.tables.iter().any(|t| t.state.is_copied())
    }
}

/// The provider's tables with what they are called there: (name in the set, physical name).
pub async fn provider_tables(
    provider: &Client,
    queue: &QueueName,
) -> Result<Vec<(TableName, TableName)>, RegistryError> {
    let mut tables = Vec::new();
    for info in londiste::get_table_list(provider, queue).await? {
        let table = TableName::parse(&info.table_name)?;
        let dest = info.dest_table.as_deref().map(TableName::parse).transpose()?;
        tables.push((table.clone(), dest.unwrap_or(table)));
    }
    Ok(tables)
}

/// A table of the set as the provider has it.
#[derive(Clone, Debug)]
pub struct ProviderTable {
    /// The set's name for it.
    pub table: TableName,
    /// What the provider calls it.
    pub source: TableName,
    /// None: no table has that name there.
    pub oid: Option<Oid>,
}

impl ProviderTable {
    pub async fn all(provider: &Client, queue: &QueueName) -> Result<Vec<ProviderTable>, RegistryError> {
        let names = provider_tables(provider, queue).await?;
        let schemas: Vec<&str> = names.iter().map(|(_, source)| source.schema.as_str()).collect();
        let tables: Vec<&str> = names.iter().map(|(_, source)| source.name.as_str()).collect();
        let sql = "select (select c.oid from pg_catalog.pg_class c \
                             join pg_catalog.pg_namespace n on n.oid = c.relnamespace \
                            where n.nspname = u.s and c.relname = u.t) \
                     from unnest($1::text[], $2::text[]) with ordinality u(s, t, i) order by i";
        let oids = provider.query(sql, &[&schemas, &tables]).await?;
        let with_oid = |((table, source), row): (_, &tokio_postgres::Row)| ProviderTable {
            table,
            source,
            oid: row.get::<_, Option<u32>>(0).map(Oid::new),
        };
        Ok(names.into_iter().zip(&oids).map(with_oid).collect())
    }
}

/// The names of the tables that the provider's set has.
pub async fn set_of(provider: &Client, queue: &QueueName) -> Result<Vec<TableName>, RegistryError> {
    let mut names = Vec::new();
    for info in londiste::get_table_list(provider, queue).await? {
        if info.local {
            names.push(TableName::parse(&info.table_name)?);
        }
    }
    Ok(names)
}

/// What a node's list of the set lacks, and has too many.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SetChange {
    pub come: Vec<TableName>,
    /// With whether the node follows it.
    pub gone: Vec<(TableName, bool)>,
}

impl SetChange {
    /// `known`: the node's own list, `there`: what its provider has.
    pub fn between(known: &[londiste::TableInfo], there: &[TableName]) -> Result<SetChange, RegistryError> {
        let mut change = SetChange::default();
        let mut names = Vec::new();
        for info in known {
            let table = TableName::parse(&info.table_name)?;
            if !there.contains(&table) {
                change.gone.push((table.clone(), info.local));
            }
            names.push(table);
        }
        change.come = there.iter().filter(|t| !names.contains(t)).cloned().collect();
        Ok(change)
    }

    pub fn is_empty(&self) -> bool {
        self.come.is_empty() && self.gone.is_empty()
    }
}
