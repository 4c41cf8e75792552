//! The tick loop: rounds by the queues' own rules at a steady pace, and ticks at once on request.

use std::collections::HashMap;
use std::time::Duration;

use skytide_sql::conn::Session;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_postgres::{Notification, Statement};

use crate::Condition;
use crate::alarm::Alarm;
use crate::metrics::Tally;
use crate::trouble::{Grievances, Trouble, in_full};

/// Ticks are made in milliseconds. A server that is silent for so long is taken for lost.
const ANSWER_LIMIT: Duration = Duration::from_secs(60);

/// A session in which rounds have failed for so long is given up; one that took over from such a session lasts longer,
/// as what is done beside the ticks begins anew with each.
const GIVEN_UP_AFTER: Duration = Duration::from_secs(10);
const GIVEN_UP_AGAIN_AFTER: Duration = Duration::from_secs(60);

/// A tick on request is tried again after this, while somebody else holds the queue's ticks.
const WHILE_HELD: Duration = Duration::from_millis(20);

/// Statements may wait for locks, since a comparison holds ticks of its queue for a moment; but not so
/// long that other queues suffer. A dead peer must be noticed, or the lock would stay with it.
///
/// `synchronous_commit` stays as the database has it: a tick that a consumer has seen must not be lost
/// by a crash or a failover that its server was told to survive. Only `off` is raised: then a tick would
/// also reach the readers of the WAL late, by up to three times wal_writer_delay. Ticks are in the WAL in
/// the order of their ids either way, because each holds its queue's lock until it has committed.
///
/// With many queues the planner would have a round compiled, which takes longer than the round.
const SESSION: &str = "\
    set lock_timeout = '1s'; set statement_timeout = '30s'; \
    set jit = off; \
    set tcp_keepalives_idle = 10; set tcp_keepalives_interval = 5; set tcp_keepalives_count = 3; \
    select set_config('synchronous_commit', 'on', false) where current_setting('synchronous_commit') = 'off'";

/// The session in which ticks are made, and what it still owes.
pub(crate) struct Ticking {
    session: Session,
    by: Rounds,
    at_once: Option<Statement>,
    requests: mpsc::Receiver<Notification>,
    queues: Requests,
    grievances: Grievances,
    /// The last round was none, or not for every queue.
    failing: bool,
    /// No round was made in the session before, nor in this one.
    began_failing: bool,
    /// Since when the server has refused rounds as a whole.
    refused_since: Option<Instant>,
    alarm: Alarm,
}

/// How rounds are made.
enum Rounds {
    /// `pgq.ticker_round`, which says when the next one is worth while, and what is known from the last ones.
    Ours {
        round: Statement,
        all: Known,
        hasty: Known,
    },
    /// SkyTools' own PgQ.
    Plain,
}

/// Which queues a round looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scope {
    All,
    /// Those with a shorter ticker_max_lag than this.
    Hasty(Duration),
}

/// What a look has found, for the next one of the same scope.
#[derive(Debug, Default)]
struct Known {
    /// While this is the snapshot, no transaction has ended anywhere in the cluster.
    seen: Option<String>,
    /// When time makes a queue due all the same.
    due: Option<Instant>,
    shortest_lag: Option<Duration>,
}

/// What woke the loop.
pub(crate) enum Wake {
    Round,
    Requested,
}

const HAS_ROUNDS: &str = "select to_regprocedure('pgq.ticker_round(text,interval,integer)') is not null, \
                                 to_regprocedure('pgq.tick_now_if_free(text)') is not null";

const ROUND: &str = "select ticks, seen, due_in, shortest_lag, go_on \
                     from pgq.ticker_round($1, make_interval(secs => $2), $3)";

impl Ticking {
    /// Sets up a session that holds the ticker's lock. What is failing is that of the session before.
    pub async fn start(mut session: Session, grievances: Grievances) -> Result<Ticking, Trouble> {
        let failed = || Trouble::query("set up the ticker's session");
        let alarm = Alarm::new().map_err(Trouble::Alarm)?;
        session.batch_execute(SESSION).await.map_err(failed())?;
        let requests = session.notifications().unwrap_or_else(|| mpsc::channel(1).1);
        session
            .batch_execute("listen pgq_tick_wanted")
            .await
            .map_err(failed())?;
        // SkyTools' own PgQ has no such functions; its queues are ticked in plain rounds only.
        let known = session.query_one(HAS_ROUNDS, &[]).await.map_err(failed())?;
        let by = match known.get(0) {
            true => Rounds::Ours {
                round: session.prepare(ROUND).await.map_err(failed())?,
                all: Known::default(),
                hasty: Known::default(),
            },
            false => Rounds::Plain,
        };
        let at_once = match known.get(1) {
            true => Some(
                session
                    .prepare("select tick_id, is_free from pgq.tick_now_if_free($1)")
                    .await
                    .map_err(failed())?,
            ),
            false => None,
        };
        Ok(Ticking {
            session,
            by,
            at_once,
            requests,
            queues: Requests::default(),
            failing: grievances.is_failing("tick"),
            began_failing: grievances.is_failing("tick"),
            refused_since: None,
            grievances,
            alarm,
        })
    }

    /// Waits for the next thing to do.
    pub async fn wait(&mut self, next_round: Instant, apart: Duration) -> Result<Wake, Trouble> {
        loop {
            let (at, wake) = match self.queues.next_due() {
                Some(due) if due < next_round => (due, Wake::Requested),
                // A round that is due is not put off by a stream of requests.
                _ => (next_round, Wake::Round),
            };
            tokio::select! {
                biased;
                end = self.session.closed() => return Err(Trouble::Lost(end.err())),
                () = self.alarm.until(at) => return Ok(wake),
                Some(request) = self.requests.recv() => self.queues.add(request.payload(), apart, Instant::now()),
            }
        }
    }

    /// One round: every queue of the scope whose rules ask for a tick gets one.
    pub async fn round(&mut self, scope: Scope, tally: &Tally) -> Result<(), Trouble> {
        let began = Instant::now();
        let made = match &mut self.by {
            Rounds::Plain => Err(None),
            Rounds::Ours { round, all, hasty } => {
                let (known, below) = match scope {
                    Scope::All => (all, None),
                    Scope::Hasty(below) => (hasty, Some(below.as_secs_f64())),
                };
                known.round(&self.session, round, below).await.map_err(Some)
            }
        };
        let (made, refused) = match made {
            Ok(ticks) => (Ok(ticks), None),
            Err(Some(RoundError::Lost(trouble))) => return Err(trouble),
            // One queue's error stopped all: this tells which it is, and ticks the others.
            Err(refused) => {
                let row = answer(self.session.query_one("select pgq.ticker()", &[])).await?;
                let made = row.map(|row| u64::try_from(row.get::<_, i64>(0)).unwrap_or(0));
                (made, refused)
            }
        };
        tally.round(began.elapsed());
        let queues = self.warned();
        let ticks = match made {
            Ok(ticks) => ticks,
            Err(error) => {
                self.refused_since.get_or_insert_with(Instant::now);
                self.is_failing("tick", &in_full(&error), tally);
                return self.failed("tick", error, tally);
            }
        };
        match refused.is_some() && ticks == 0 {
            true => {
                self.refused_since.get_or_insert_with(Instant::now);
            }
            false => {
                self.refused_since = None;
                self.began_failing = false;
            }
        }
        tally.ticks(ticks);
        let fault = match refused {
            _ if !queues.is_empty() => listed(&queues),
            // Where the second way made ticks, what stood in the way of the first is gone.
            Some(RoundError::Refused(error)) if ticks == 0 => in_full(&error),
            _ => {
                // A round of some queues says nothing of the others.
                if scope == Scope::All {
                    self.works(tally);
                }
                return Ok(());
            }
        };
        self.is_failing("tick", &fault, tally);
        tally.error();
        self.grievances.failed("tick", fault);
        Ok(())
    }

    /// Tells what the server warned of, and returns the queues that got no tick, with the reasons.
    fn warned(&mut self) -> Vec<String> {
        let mut queues = Vec::new();
        for warning in self.session.take_warnings() {
            match warning.strip_prefix("pgq.ticker: ") {
                Some(queue) => queues.push(queue.to_owned()),
                None => self.grievances.warned(&warning),
            }
        }
        queues
    }

    fn is_failing(&mut self, work: &str, fault: &str, tally: &Tally) {
        self.failing = true;
        tally.is(Some(Condition::Failing(format!("{work}: {fault}"))));
    }

    fn works(&mut self, tally: &Tally) {
        self.grievances.worked("tick");
        if std::mem::take(&mut self.failing) {
            tally.is(Some(Condition::Ticking));
        }
    }

    /// Whether another session may fare better: settings of the database and the role are those of a session's start.
    pub fn is_worn(&self) -> bool {
        let limit = match self.began_failing {
            true => GIVEN_UP_AGAIN_AFTER,
            false => GIVEN_UP_AFTER,
        };
        self.refused_since.is_some_and(|since| since.elapsed() > limit)
    }

    /// Whether the modules that make better rounds have been installed since.
    pub async fn is_outdated(&self) -> Result<bool, Trouble> {
        match self.by {
            Rounds::Ours { .. } => Ok(false),
            Rounds::Plain => {
                let there = answer(self.session.query_one(HAS_ROUNDS, &[])).await?;
                Ok(there.map_err(Trouble::query("look for pgq.ticker_round"))?.get(0))
            }
        }
    }

    /// Gives up the ticker's lock, so that the next session finds it free at once.
    pub async fn let_go(&self) {
        let _ = answer(self.session.batch_execute("select pg_advisory_unlock_all()")).await;
    }

    pub fn into_grievances(self) -> Grievances {
        self.grievances
    }

    /// How soon the queue with the shortest ticker_max_lag wants to be looked at, as far as is known.
    pub fn shortest_lag(&self) -> Option<Duration> {
        match &self.by {
            Rounds::Ours { all, .. } => all.shortest_lag,
            Rounds::Plain => None,
        }
    }

    /// The ticks that were asked for and are due.
    pub async fn requested(&mut self, tally: &Tally) -> Result<(), Trouble> {
        for queue in self.queues.take_due(Instant::now()) {
            let Some(statement) = &self.at_once else { continue };
            match answer(self.session.query_one(statement, &[&queue])).await? {
                Ok(row) if row.get(1) => {
                    let made: Option<i64> = row.get(0);
                    tally.ticks(u64::from(made.is_some()));
                }
                // Rounds must not wait for whoever holds this queue's ticks.
                Ok(_) => self.queues.put_off(queue, Instant::now() + WHILE_HELD),
                Err(error) => self.failed(&format!("tick of queue {queue} on request"), error, tally)?,
            }
        }
        Ok(())
    }

    /// A refused statement is told and tried again in the next round; a lost session ends this one.
    fn failed(&mut self, work: &str, error: tokio_postgres::Error, tally: &Tally) -> Result<(), Trouble> {
        if error.is_closed() || error.code().is_none() {
            return Err(Trouble::query("tick")(error));
        }
        tally.error();
        self.grievances.failed(work, in_full(&error));
        Ok(())
    }
}

/// Why a round was not made.
enum RoundError {
    Lost(Trouble),
    /// The server refused it.
    Refused(tokio_postgres::Error),
}

impl Known {
    /// Returns how many ticks were made.
    async fn round(
        &mut self,
        session: &Session,
        statement: &Statement,
        below: Option<f64>,
    ) -> Result<u64, RoundError> {
        let now = Instant::now();
        // Taken out, so that after an error nothing is known.
        let before = std::mem::take(self);
        let mut seen = before
            .seen
            .clone()
            .filter(|_| before.due.is_none_or(|due| now < due));
        let mut go_on: Option<i32> = None;
        let mut ticks = 0;
        loop {
            let asked = answer(session.query_one(statement, &[&seen, &below, &go_on])).await;
            let row = match asked.map_err(RoundError::Lost)? {
                Ok(row) => row,
                Err(error) if error.is_closed() || error.code().is_none() => {
                    return Err(RoundError::Lost(Trouble::query("tick")(error)));
                }
                Err(error) => return Err(RoundError::Refused(error)),
            };
            let now_seen: Option<String> = row.get(1);
            if seen.is_some() && now_seen == seen {
                *self = before;
                return Ok(0);
            }
            let made = u64::try_from(row.get::<_, i64>(0)).unwrap_or(0);
            ticks += made;
            let seconds = |column| {
                let value: Option<f64> = row.get(column);
                value.and_then(|value| Duration::try_from_secs_f64(value.max(0.0)).ok())
            };
            let due = seconds(2).and_then(|due_in| Instant::now().checked_add(due_in));
            self.due = self.due.into_iter().chain(due).min();
            self.shortest_lag = self.shortest_lag.into_iter().chain(seconds(3)).min();
            // Of several parts the first look is the oldest; ticks of a later one are not in what it saw.
            if go_on.is_none() {
                self.seen = now_seen;
            } else if made > 0 || now_seen.is_none() {
                self.seen = None;
            }
            go_on = row.get(4);
            seen = None;
            if go_on.is_none() {
                return Ok(ticks);
            }
        }
    }
}

/// The first few, and how many more.
fn listed(faults: &[String]) -> String {
    const SHOWN: usize = 5;
    let (shown, rest) = faults.split_at(faults.len().min(SHOWN));
    let more = match rest.len() {
        0 => String::new(),
        n => format!("; {n} more"),
    };
    shown.join("; ") + &more
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

    /// A request that could not be served.
    fn put_off(&mut self, queue: String, until: Instant) {
        self.wanted.insert(queue, until);
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

        requests.put_off("a".to_owned(), start + apart * 3);
        requests.add("a", apart, start + apart * 2);
        assert_eq!(
            requests.next_due(),
            Some(start + apart * 3),
            "a second request does not hasten the first"
        );
    }
}
