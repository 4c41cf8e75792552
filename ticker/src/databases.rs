//! The set of databases: listed or discovered, each with a task; and the line of figures.

use std::sync::Arc;
use std::time::Duration;

use skytide_sql::conn::{ConnectString, connect};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, info, info_span};

use crate::database::{APPLICATION, Database};
use crate::metrics::Tally;
use crate::pace::next_start;
use crate::trouble::{Grievances, Trouble, in_full};
use crate::{Conditions, Counters, Databases, Settings, Stats};

/// After a failure the list of databases is asked for sooner than after a success.
const ASK_AGAIN: Duration = Duration::from_secs(5);

struct Running {
    target: ConnectString,
    cancel: CancellationToken,
}

/// So many databases are maintained at once, each in a session of its own; the others wait a while for their
/// turn. Ticks wait for nobody.
const CHORES_AT_ONCE: usize = 8;

pub(crate) async fn run(
    mut settings: watch::Receiver<Settings>,
    conditions: watch::Sender<Conditions>,
    cancel: CancellationToken,
) -> Stats {
    let counters = Arc::new(Counters::default());
    let conditions = Arc::new(conditions);
    let turns = Arc::new(Semaphore::new(CHORES_AT_ONCE));
    let mut tasks = JoinSet::new();
    let mut running: Vec<Running> = Vec::new();
    let mut grievances = Grievances::default();
    let mut told = Stats::default();
    let mut look = Instant::now();
    let mut figures = look + settings.borrow().stats_period.unwrap_or(Duration::ZERO);

    while !cancel.is_cancelled() {
        let now = settings.borrow_and_update().clone();
        if look <= Instant::now() {
            let wanted = tokio::select! {
                () = cancel.cancelled() => break,
                wanted = wanted(&now.databases) => wanted,
            };
            look = Instant::now() + now.check_period;
            match wanted {
                Ok(wanted) => {
                    grievances.worked("discovery of databases");
                    let start = |target: ConnectString| {
                        let cancel = cancel.child_token();
                        let database = Database {
                            tally: Tally::new(target.dbname(), counters.clone(), conditions.clone()),
                            turns: turns.clone(),
                            target: target.clone(),
                            settings: settings.clone(),
                            cancel: cancel.clone(),
                        };
                        let span = info_span!("ticker", db = target.dbname());
                        tasks.spawn(database.run().instrument(span));
                        Running { target, cancel }
                    };
                    reconcile(&mut running, wanted, start);
                }
                // Databases that are known are ticked on meanwhile.
                Err(trouble) => {
                    grievances.failed("discovery of databases", in_full(&trouble));
                    look = Instant::now() + ASK_AGAIN.min(now.check_period);
                }
            }
        }
        if let Some(period) = now.stats_period.filter(|_| figures <= Instant::now()) {
            let all = counters.read();
            let Stats {
                ticks,
                maint,
                retry,
                errors,
            } = all.since(&told);
            info!("{{ticks: {ticks}, maint: {maint}, retry: {retry}, errors: {errors}}}");
            told = all;
            figures = next_start(figures, period, Instant::now());
        }
        let next_figures = now.stats_period.map_or(look, |_| figures);
        tokio::select! {
            () = cancel.cancelled() => {}
            () = tokio::time::sleep_until(look.min(next_figures)) => {}
            // Another list, another period: look at once. A sender that is gone changes nothing.
            Ok(()) = settings.changed() => look = Instant::now(),
            Some(_) = tasks.join_next() => {}
        }
    }
    while tasks.join_next().await.is_some() {}
    counters.read()
}

/// Starts what is wanted and does not run, and stops what runs and is not wanted any more.
fn reconcile(
    running: &mut Vec<Running>,
    wanted: Vec<ConnectString>,
    mut start: impl FnMut(ConnectString) -> Running,
) {
    running.retain(|database| {
        let keep = wanted.contains(&database.target);
        if !keep {
            info!(db = database.target.dbname(), "no longer ticked");
            database.cancel.cancel();
        }
        keep
    });
    for target in wanted {
        if !running.iter().any(|database| database.target == target) {
            running.push(start(target));
        }
    }
}

async fn wanted(databases: &Databases) -> Result<Vec<ConnectString>, Trouble> {
    let asked = match databases {
        Databases::List(list) => return Ok(list.clone()),
        Databases::Discover(asked) => asked,
    };
    let session = Box::pin(connect(asked, APPLICATION)).await?;
    let rows = session
        .query(
            "select datname::text from pg_database \
             where not datistemplate and datallowconn and has_database_privilege(oid, 'connect') \
             order by datname",
            &[],
        )
        .await
        .map_err(Trouble::query("list databases"))?;
    Ok(rows.iter().map(|row| asked.with_dbname(row.get(0))).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_known_database_is_not_started_again() {
        let target = |db: &str| ConnectString::parse(&format!("host=h dbname={db}")).unwrap();
        let mut started = Vec::new();
        let mut running = Vec::new();
        for list in [vec!["a", "b"], vec!["b", "c"]] {
            let wanted = list.into_iter().map(target).collect();
            reconcile(&mut running, wanted, |target| {
                started.push(target.dbname().to_owned());
                Running {
                    target,
                    cancel: CancellationToken::new(),
                }
            });
        }
        assert_eq!(started, ["a", "b", "c"]);
        assert_eq!(running.len(), 2);
    }
}
