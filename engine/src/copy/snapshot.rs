//! The copy's snapshot: an ordinary one, taken on the provider and shared by all copying connections.

use skytide_sql::conn::{ConnectString, Session, connect};
use skytide_sql::{Snapshot, TableName};

use super::CopyError;

/// Holds the snapshot as long as it lives.
pub struct CopySnapshot {
    session: Session,
    id: String,
    snapshot: Snapshot,
}

impl CopySnapshot {
    /// Needs no slot. The table is locked before the snapshot is taken: a statement that rewrites it in
    /// between would leave this snapshot an empty table, and what a rewrite writes is in no stream.
    pub async fn take(
        provider: &ConnectString,
        application_name: &str,
        table: &TableName,
    ) -> Result<CopySnapshot, CopyError> {
        let session = connect(provider, application_name).await?;
        session
            .batch_execute(&format!(
                "begin isolation level repeatable read read only; lock table only {} in access share mode",
                table.quoted()
            ))
            .await?;
        let row = session
            .query_one(
                "select pg_catalog.txid_current_snapshot()::text, pg_catalog.pg_export_snapshot()",
                &[],
            )
            .await?;
        let text: &str = row.get(0);
        let snapshot = text
            .parse()
            .map_err(|e: skytide_sql::snapshot::BadSnapshot| CopyError::Table {
                table: TableName::new("pg_catalog", "txid_current_snapshot"),
                what: e.to_string(),
            })?;
        Ok(CopySnapshot {
            id: row.get(1),
            session,
            snapshot,
        })
    }

    pub fn snapshot(&self) -> &Snapshot {
        &self.snapshot
    }

    pub fn session(&self) -> &Session {
        &self.session
    }

    /// Another connection with the same snapshot.
    pub async fn join(&self, provider: &ConnectString, application_name: &str) -> Result<Session, CopyError> {
        let session = connect(provider, application_name).await?;
        let adopt = format!(
            "begin isolation level repeatable read read only; set transaction snapshot {}",
            skytide_sql::ident::quote_literal(&self.id)
        );
        session.batch_execute(&adopt).await?;
        Ok(session)
    }
}
