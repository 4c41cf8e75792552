//! The worker's ordinary connection to the provider: asks for ticks, reports the position, sees to it that what is
//! followed is published.

use std::sync::Arc;
use std::time::Duration;

use skytide_sql::api::{pgq, pgq_node};
use skytide_sql::backoff::Backoff;
use skytide_sql::conn::{ConnectString, Session, connect_to_write};
use skytide_sql::{SlotName, TickId};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::lists::lost_table;
use super::start::Node;
use super::{Shared, WorkerError, WorkerSettings};
use crate::capture::slot::{self, Narrowing};
use crate::causes::chain;
use crate::table::registry::provider_tables;

/// Runs until cancelled; reconnects by itself, since no trouble of this connection is worth stopping replay for.
///
/// # Errors
/// [`WorkerError::Setup`]: a table that is followed is not published any more.
pub async fn run(
    shared: Arc<Shared>,
    node: Node,
    provider: ConnectString,
    slot: SlotName,
    publication: String,
    cancel: CancellationToken,
) -> Result<(), WorkerError> {
    let mut backoff = Backoff::default();
    loop {
        let started = Instant::now();
        let error = tokio::select! {
            () = cancel.cancelled() => break,
            ended = session(&shared, &node, &provider, &slot, &publication) => match ended {
                Ok(()) => break,
                Err(e @ WorkerError::Setup { .. }) => return Err(e),
                Err(e) => e,
            },
        };
        if started.elapsed() > Duration::from_secs(60) {
            backoff.reset();
        }
        let pause = backoff.next_delay();
        warn!(error = %chain(&error), "provider connection failed, trying again in {pause:?}");
        tokio::select! {
            () = cancel.cancelled() => break,
            () = sleep(pause) => {}
        }
    }
    // The provider learns the last position, so that its rotation does not wait for the next start.
    let last = async {
        let client = connect_to_write(&provider, &shared.settings.job_name).await?;
        report(&client, &shared, &node).await
    };
    let _ = tokio::time::timeout(Duration::from_secs(3), last).await;
    Ok(())
}

/// How often it is looked whether tables are still published.
const PUBLISHED_EVERY: Duration = Duration::from_secs(10);

/// A request that no tick answered is made again after so long.
const UNANSWERED: Duration = Duration::from_secs(1);

async fn session(
    shared: &Shared,
    node: &Node,
    provider: &ConnectString,
    slot: &SlotName,
    publication: &str,
) -> Result<(), WorkerError> {
    let settings = &shared.settings;
    let client = connect_to_write(provider, &settings.job_name).await?;
    // A request for a tick carries nothing that a crash could lose.
    client.batch_execute("set synchronous_commit = off").await?;
    let mut reports = interval(settings.watermark_period);
    reports.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut followed = shared.followed.subscribe();
    let mut publication_looks = interval(PUBLISHED_EVERY);
    publication_looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut looks = interval(Duration::from_secs(1));
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let newest = client
        .prepare(
            "select t.tick_id from pgq.tick t join pgq.queue q on q.queue_id = t.tick_queue \
             where q.queue_name = $1 order by t.tick_id desc limit 1",
        )
        .await?;
    let mut changes_wait = false;
    // One request at a time: while capture reads a backlog, the tick that was asked for lies at its end,
    // and more of them would only cost the provider.
    let mut asked_after: Option<TickId> = None;
    let mut asked_at = Instant::now();
    let mut not_before = asked_at;
    loop {
        tokio::select! {
            _ = reports.tick() => report(&client, shared, node).await?,
            _ = looks.tick() => {
                if let Some(bytes) = slot::retained_bytes(&client, slot).await? {
                    metrics::gauge!(crate::metrics::SLOT_RETAINED).set(bytes as f64);
                }
            }
            _ = publication_looks.tick() => check_published(&client, shared, publication).await?,
            Ok(()) = followed.changed() => check_published(&client, shared, publication).await?,
            // Changes come by the thousand; one is enough to want a tick.
            () = shared.signals.changes.notified(), if !changes_wait => changes_wait = true,
            () = shared.tick_wanted.notified() => changes_wait = true,
            () = shared.signals.ticked.notified() => {
                if asked_after.is_some_and(|tick| shared.signals.last_tick() > tick) {
                    asked_after = None;
                    not_before = asked_at + settings.tick_request_interval;
                }
            }
            () = sleep_until(not_before), if changes_wait => {
                changes_wait = false;
                let row = client.query_opt(&newest, &[&settings.queue.as_str()]).await?;
                asked_after = Some(TickId::new(row.map_or(0, |r| r.get(0))));
                pgq::want_tick(&*client, &settings.queue).await?;
                asked_at = Instant::now();
                not_before = asked_at + UNANSWERED;
            }
        }
    }
}

/// Which of some tables, quoted names, are in no way in a publication; whether there are none of that name. $1 publication, $2 tables.
const UNPUBLISHED: &str = "
select t.name, pg_catalog.to_regclass(t.name) is null from unnest($2::text[]) t (name)
 where not exists (select from pg_catalog.pg_publication_rel r
                     join pg_catalog.pg_publication p on p.oid = r.prpubid
                    where p.pubname = $1 and r.prrelid = pg_catalog.to_regclass(t.name))
   and not exists (select from pg_catalog.pg_publication_tables p
                     join pg_catalog.pg_namespace n on n.nspname = p.schemaname
                     join pg_catalog.pg_class c on c.relname = p.tablename and c.relnamespace = n.oid
                    where p.pubname = $1 and c.oid = pg_catalog.to_regclass(t.name))";

/// Changes of a table that is not in the publication do not come, and nothing else says so: it was taken out by hand, or
/// dropped and made again.
async fn check_published(client: &Session, shared: &Shared, publication: &str) -> Result<(), WorkerError> {
    let followed = shared.followed.borrow().clone();
    if followed.is_empty() {
        return Ok(());
    }
    if let Some(Narrowing { what, fix }) = slot::narrowing(client, publication).await? {
        return Err(WorkerError::Setup { what, fix });
    }
    let queue = &shared.settings.queue;
    let mut tables = provider_tables(client, queue).await?;
    tables.retain(|(name, _)| followed.contains(name));
    let names: Vec<String> = tables.iter().map(|(_, source)| source.quoted()).collect();
    let missing = client.query(UNPUBLISHED, &[&publication, &names]).await?;
    let missing: Vec<(&str, bool)> = missing.iter().map(|row| (row.get(0), row.get(1))).collect();
    if missing.is_empty() {
        return Ok(());
    }
    // remove-table takes a table out of both at once: one that is still in the set was not removed.
    let still = provider_tables(client, queue).await?;
    let lost = tables.iter().find_map(|(name, source)| {
        let (_, is_gone) = missing.iter().find(|(missing, _)| *missing == source.quoted())?;
        let is_still = still.iter().any(|(there, _)| there == name);
        is_still.then_some((name, source, *is_gone))
    });
    let Some((name, source, is_gone)) = lost else {
        return Ok(());
    };
    if is_gone {
        return Err(lost_table(name, source));
    }
    Err(WorkerError::Setup {
        what: format!(
            "table {source} is not in the provider's publication {publication} any more: its changes do not come"
        ),
        fix: format!("with the root's configuration: add-table {name}; then with this one: resync {name}"),
    })
}

/// Moves the worker's consumer and the node's watermark on the provider to what is durable here.
async fn report(client: &Session, shared: &Shared, node: &Node) -> Result<(), WorkerError> {
    let tick = *shared.durable_tick.borrow();
    if tick <= TickId::new(0) {
        return Ok(());
    }
    let queue = &shared.settings.queue;
    pgq::register_consumer_at(&**client, queue, &node.worker, tick).await?;
    pgq_node::set_subscriber_watermark(&**client, queue, &node.name, tick).await?;
    debug!(%tick, "position reported");
    Ok(())
}

/// A root's worker: publishes the global watermark, so that ticks and events can be rotated away.
pub async fn run_root(
    settings: &WorkerSettings,
    node: &Node,
    cancel: CancellationToken,
) -> Result<(), WorkerError> {
    info!(node = %node.name, "root node: publishing the watermark");
    let mut backoff = Backoff::default();
    loop {
        let session = async {
            let client = connect_to_write(&settings.db, &settings.job_name).await?;
            let mut period = interval(settings.watermark_period.max(Duration::from_secs(30)));
            loop {
                period.tick().await;
                pgq_node::set_global_watermark(&*client, &settings.queue, None).await?;
                backoff.reset();
            }
        };
        let failed: Result<(), WorkerError> = tokio::select! {
            () = cancel.cancelled() => return Ok(()),
            ended = session => ended,
        };
        if let Err(e) = failed {
            let pause = backoff.next_delay();
            warn!(error = %chain(&e), "trying again in {pause:?}");
            tokio::select! {
                () = cancel.cancelled() => return Ok(()),
                () = sleep(pause) => {}
            }
        }
    }
}
