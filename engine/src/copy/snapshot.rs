//! The copy's snapshot: an ordinary one, taken on the provider and shared by all copying connections.
//!
//! One of our sessions holds the table's lock, others want it after it. Whoever asks for an exclusive lock in
//! between stands behind the first and before the others, and that circle runs through this process, where no
//! server sees it. So the first session is the only one that ever waits, and waits holding nothing; the others ask
//! once (`nowait`), and the copy makes way if they are refused.

use std::time::Duration;

use skytide_sql::conn::{ConnectString, Session, connect};
use skytide_sql::{Snapshot, TableName};

use super::CopyError;

/// Holds the snapshot as long as it lives.
pub struct CopySnapshot {
    session: Session,
    id: String,
    snapshot: Snapshot,
    table: TableName,
    lock_timeout: Duration,
}

impl CopySnapshot {
    /// Needs no slot. The table is locked before the snapshot is taken: a statement that rewrites it in
    /// between would leave this snapshot an empty table, and what a rewrite writes is in no stream.
    pub async fn take(
        provider: &ConnectString,
        application_name: &str,
        table: &TableName,
        lock_timeout: Duration,
    ) -> Result<CopySnapshot, CopyError> {
        let session = connect(provider, application_name).await?;
        session
            .batch_execute(&format!(
                "begin isolation level repeatable read read only; set local lock_timeout = {}; \
                 lock table only {} in access share mode",
                lock_timeout.as_millis(),
                table.quoted()
            ))
            .await
            .map_err(|e| CopyError::from(e).or_locked(table, "provider"))?;
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
            table: table.clone(),
            lock_timeout,
        })
    }

    pub fn snapshot(&self) -> &Snapshot {
        &self.snapshot
    }

    pub fn session(&self) -> &Session {
        &self.session
    }

    /// Another connection with the same snapshot and lock.
    ///
    /// # Errors
    /// [`CopyError::Locked`]: somebody waits for the table. Only dropping this snapshot lets him go on.
    pub async fn join(&self, provider: &ConnectString, application_name: &str) -> Result<Session, CopyError> {
        let session = connect(provider, application_name).await?;
        let adopt = format!(
            "begin isolation level repeatable read read only; set transaction snapshot {}; \
             set local lock_timeout = {}; lock table only {} in access share mode nowait",
            skytide_sql::ident::quote_literal(&self.id),
            self.lock_timeout.as_millis(),
            self.table.quoted()
        );
        session
            .batch_execute(&adopt)
            .await
            .map_err(|e| CopyError::from(e).or_locked(&self.table, "provider"))?;
        Ok(session)
    }
}
