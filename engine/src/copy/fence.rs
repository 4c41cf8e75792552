//! The publication fence.
//!
//! Decoding judges a change by the publication as of that change. A transaction that wrote to the table
//! before the table was published has rows that are in no stream; if it ends after the copy's snapshot
//! they would be in no copy either. So the copy's snapshot waits for all such transactions: those that
//! hold a writer's lock on the table now. Later writers see the publication.

use std::time::Duration;

use skytide_sql::{Oid, TableName};
use tokio::time::{Instant, sleep};
use tokio_postgres::Client;
use tracing::info;

use super::CopyError;

const WRITERS: &str = "select virtualtransaction, pid from pg_catalog.pg_locks \
     where locktype = 'relation' and relation = $1 and granted \
       and database = (select oid from pg_catalog.pg_database where datname = current_database()) \
       and mode in ('RowExclusiveLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock') \
       and pid is distinct from pg_backend_pid()";

/// Waits until every transaction that may have written to the table before now has ended.
pub async fn wait_for_writers(provider: &Client, table: &TableName, oid: Oid) -> Result<(), CopyError> {
    // A prepared transaction shows as `-1/xid`: virtual ids tell all of them apart.
    let writers = async || -> Result<Vec<(String, Option<i32>)>, CopyError> {
        let rows = provider.query(WRITERS, &[&oid.get()]).await?;
        Ok(rows.iter().map(|r| (r.get(0), r.get(1))).collect())
    };
    let mut left: Vec<String> = writers()
        .await?
        .into_iter()
        .map(|(transaction, _)| transaction)
        .collect();
    let mut told = Instant::now();
    let mut pause = Duration::from_millis(5);
    while !left.is_empty() {
        sleep(pause).await;
        pause = (pause * 2).min(Duration::from_millis(200));
        let now = writers().await?;
        left.retain(|transaction| now.iter().any(|(t, _)| t == transaction));
        if told.elapsed() > Duration::from_secs(5) && !left.is_empty() {
            told = Instant::now();
            let pids: Vec<_> = now
                .iter()
                .filter(|(t, _)| left.contains(t))
                .filter_map(|(_, pid)| *pid)
                .collect();
            info!(table = %table, ?pids, "the copy waits for transactions that wrote to the table before it");
        }
    }
    Ok(())
}
