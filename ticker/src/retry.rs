//! The retry loop: events whose time has come go back into their queues.

use skytide_sql::conn::ConnectString;
use tokio_util::sync::CancellationToken;

use crate::database::connect_for_chores;
use crate::metrics::Tally;
use crate::trouble::Trouble;

/// One round: a few events a call, one transaction each, until none is due.
pub(crate) async fn step(
    target: &ConnectString,
    tally: &Tally,
    stop: &CancellationToken,
) -> Result<(), Trouble> {
    let session = connect_for_chores(target).await?;
    while !stop.is_cancelled() {
        let row = session
            .query_one("select pgq.maint_retry_events()", &[])
            .await
            .map_err(Trouble::query("move retry events"))?;
        match u64::try_from(row.get::<_, i32>(0)) {
            Ok(moved) if moved > 0 => tally.retried(moved),
            _ => break,
        }
    }
    Ok(())
}
