//! The tick loop: rounds by the queues' own rules at a steady pace, and ticks at once on request.

use std::collections::HashMap;
use std::time::Duration;

use skytide_sql::conn::Session;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_postgres::{Notification, Statement};

use crate::metrics::Tally;
use crate::trouble::{Grievances, Trouble, in_full};

/// Ticks are made in milliseconds. A server that is silent for so long is taken for lost.
const ANSWER_LIMIT: Duration = Duration::from_secs(60);

/// Statements may wait for locks, since a comparison holds ticks of its queue for a moment; but not so
/// long that other queues suffer. A dead peer must be noticed, or the lock would stay with it.
///
/// `synchronous_commit` stays as the database has it: a tick that a consumer has seen must not be lost
/// by a crash or a failover that its server was told to survive. Only `off` is raised: then a tick would
/// also reach the readers of the WAL late, by up to three times wal_writer_delay. Ticks are in the WAL in
/// the order of their ids either way, because each holds its queue's lock until it has committed.
const SESSION: &str = "\
    set lock_timeout = '1s'; set statement_timeout = '30s'; \
    set tcp_keepalives_idle = 10; set tcp_keepalives_interval = 5; set tcp_keepalives_count = 3; \
    select set_config('synchronous_commit', 'on', false) where current_setting('synchronous_commit') = 'off'";

/// The session in which ticks are made, and what it still owes.
pub(crate) struct Ticking {
    session: Session,
    round: Statement,
    at_once: Option<Statement>,
    requests: mpsc::Receiver<Notification>,
    queues: Requests,
    grievances: Grievances,
}

/// What woke the loop.
pub(crate) enum Wake {
    Round,
    Requested,
}

impl Ticking {
    /// Sets up a session that holds the ticker's lock.
    pub async fn start(mut session: Session) -> Result<Ticking, Trouble> {
        let failed = || Trouble::query("set up the ticker's session");
        session.batch_execute(SESSION).await.map_err(failed())?;
        let requests = session.notifications().unwrap_or_else(|| mpsc::channel(1).1);
        session
            .batch_execute("listen pgq_tick_wanted")
            .await
            .map_err(failed())?;
        let round = session.prepare("select pgq.ticker()").await.map_err(failed())?;
        // SkyTools' own PgQ has no such function; its queues are ticked in rounds only.
        let known = "select to_regprocedure('pgq.tick_now(text,interval)') is not null";
        let at_once = match session.query_one(known, &[]).await.map_err(failed())?.get(0) {
            true => Some(
                session
                    .prepare("select pgq.tick_now($1)")
                    .await
                    .map_err(failed())?,
            ),
            false => None,
        };
        Ok(Ticking {
            session,
            round,
            at_once,
            requests,
            queues: Requests::default(),
            grievances: Grievances::default(),
        })
    }

    /// Waits for the next thing to do.
    pub async fn wait(&mut self, next_round: Instant, apart: Duration) -> Result<Wake, Trouble> {
        loop {
            let due = self.queues.next_due();
            tokio::select! {
                // A round that is due is not put off by a stream of requests.
                biased;
                end = self.session.closed() => return Err(Trouble::Lost(end.err())),
                () = tokio::time::sleep_until(next_round) => return Ok(Wake::Round),
                () = tokio::time::sleep_until(due.unwrap_or(next_round)), if due.is_some() => {
                    return Ok(Wake::Requested);
                }
                Some(request) = self.requests.recv() => self.queues.add(request.payload(), apart, Instant::now()),
            }
        }
    }

    /// One round: every queue whose rules ask for a tick gets one.
    pub async fn round(&mut self, tally: &Tally) -> Result<(), Trouble> {
        let made = answer(self.session.query_one(&self.round, &[])).await?;
        match made {
            Ok(row) => {
                self.grievances.worked("tick");
                tally.ticks(u64::try_from(row.get::<_, i64>(0)).unwrap_or(0));
                Ok(())
            }
            Err(error) => self.failed("tick", error, tally),
        }
    }

    /// The ticks that were asked for and are due.
    pub async fn requested(&mut self, tally: &Tally) -> Result<(), Trouble> {
        for queue in self.queues.take_due(Instant::now()) {
            let Some(statement) = &self.at_once else { continue };
            match answer(self.session.query_one(statement, &[&queue])).await? {
                Ok(row) => {
                    let made: Option<i64> = row.get(0);
                    tally.ticks(u64::from(made.is_some()));
                }
                Err(error) => self.failed(&format!("tick of queue {queue} on request"), error, tally)?,
            }
        }
        Ok(())
    }

    /// A refused statement is told and tried again in the next round; a lost session ends this one.
    fn failed(&mut self, work: &str, error: tokio_postgres::Error, tally: &Tally) -> Result<(), Trouble> {
        if error.is_closed() || error.code().is_none() {
            return Err(Trouble::Query {
                what: "tick",
                source: error,
            });
        }
        tally.error();
        self.grievances.failed(work, in_full(&error));
        Ok(())
    }
}

async fn answer<T>(query: impl Future<Output = T>) -> Result<T, Trouble> {
    tokio::time::timeout(ANSWER_LIMIT, query)
        .await
        .map_err(|_| Trouble::Silent(ANSWER_LIMIT))
}

/// Queues for which a tick was asked, each once, and when it may be made.
#[derive(Debug, Default)]
struct Requests {
    wanted: HashMap<String, Instant>,
    /// Last ticks on request, kept as long as they matter.
    made: HashMap<String, Instant>,
}

impl Requests {
    /// Requests for a queue that has one waiting are one request.
    fn add(&mut self, queue: &str, apart: Duration, now: Instant) {
        self.made.retain(|_, at| *at + apart > now);
        let earliest = self.made.get(queue).map_or(now, |at| *at + apart);
        self.wanted.entry(queue.to_owned()).or_insert(earliest);
    }

    fn next_due(&self) -> Option<Instant> {
        self.wanted.values().min().copied()
    }

    fn take_due(&mut self, now: Instant) -> Vec<String> {
        let mut due: Vec<String> = Vec::new();
        self.wanted.retain(|queue, at| {
            let keep = *at > now;
            if !keep {
                due.push(queue.clone());
            }
            keep
        });
        due.sort();
        self.made.extend(due.iter().map(|queue| (queue.clone(), now)));
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_joined_and_kept_apart() {
        let apart = Duration::from_millis(2);
        let start = Instant::now();
        let mut requests = Requests::default();
        for queue in ["b", "a", "a"] {
            requests.add(queue, apart, start);
        }
        assert_eq!(
            requests.next_due(),
            Some(start),
            "the first request is served at once"
        );
        assert_eq!(requests.take_due(start), ["a", "b"]);
        assert_eq!(requests.next_due(), None);

        requests.add("a", apart, start + apart / 2);
        assert_eq!(requests.next_due(), Some(start + apart), "the next one waits");
        assert!(requests.take_due(start + apart / 2).is_empty());
        assert_eq!(requests.take_due(start + apart), ["a"]);
    }
}
