//! One database: connect, see whether it is ours to tick, work until something ends it, begin again.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use skytide_sql::backoff::Backoff;
use skytide_sql::conn::{ConnectString, Session, connect};
use tokio::sync::{Semaphore, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info};

use crate::idle::{Reason, Role, role};
use crate::metrics::Tally;
use crate::pace::{Rhythm, next_start};
use crate::tick::{Ticking, Wake};
use crate::trouble::{Grievances, Trouble, in_full};
use crate::{Condition, Settings};
use crate::{maint, retry};

pub(crate) const APPLICATION: &str = "skytide-ticker";

/// For work beside the ticks. A database's timeouts are made for its users; maintenance that meets one would meet it
/// each time.
const CHORES: &str = "\
    select set_config(name, '0', false) from pg_settings where name in ('statement_timeout', 'transaction_timeout')";

/// A session for such work.
pub(crate) async fn connect_for_chores(target: &ConnectString) -> Result<Session, Trouble> {
    let session = Box::pin(connect(target, APPLICATION)).await?;
    let set = session.batch_execute(CHORES).await;
    set.map_err(Trouble::query("set up a session for maintenance"))?;
    Ok(session)
}

const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(15);
/// How soon a ticker that stands by takes over, and a promoted standby is ticked.
const STANDBY_LOOK: Duration = Duration::from_millis(250);
/// What is being done when we are stopped may take so long to end.
const GRACE: Duration = Duration::from_secs(10);

/// So long maintenance of one database waits for that of others.
const LONGEST_TURN: Duration = Duration::from_secs(10);

pub(crate) struct Database {
    pub target: ConnectString,
    pub settings: watch::Receiver<Settings>,
    pub tally: Tally,
    /// Of all databases, for what is done beside the ticks.
    pub turns: Arc<Semaphore>,
    pub cancel: CancellationToken,
}

/// Why the work on one session ended well.
enum Ended {
    Cancelled,
    /// The session is old: begin again with a new one.
    Renew,
    /// Nothing to do here for a while.
    Later(Duration),
}

impl Database {
    /// Until cancelled.
    pub async fn run(self) {
        let mut backoff = Backoff::new(FIRST_PAUSE, LONGEST_PAUSE);
        let mut grievances = Grievances::default();
        let mut known = None;
        self.tally.is(Some(Condition::Unknown));
        while !self.cancel.is_cancelled() {
            let pause = match self.session(&mut known, &mut grievances, &mut backoff).await {
                Ok(Ended::Cancelled) => break,
                Ok(Ended::Renew) => Duration::ZERO,
                Ok(Ended::Later(pause)) => pause,
                Err(trouble) if trouble.no_database() => {
                    self.idle(&mut known, Reason::NoDatabase);
                    self.settings.borrow().check_period
                }
                Err(trouble) => {
                    known = None;
                    self.tally.error();
                    let trouble = in_full(&trouble);
                    self.tally.is(Some(Condition::Failing(trouble.clone())));
                    grievances.failed("ticker", trouble);
                    backoff.next_delay()
                }
            };
            tokio::select! {
                () = self.cancel.cancelled() => break,
                () = tokio::time::sleep(pause) => {}
            }
        }
        self.tally.is(None);
    }

    /// Says so when it is news.
    fn idle(&self, known: &mut Option<Role>, reason: Reason) {
        self.tally.is(Some(Condition::Idle(reason.to_string())));
        let role = Role::Idle(reason);
        if known.as_ref() != Some(&role) {
            match &role {
                // A server has many databases without PgQ; they are nobody's business.
                Role::Idle(Reason::NoPgq) => debug!("{}", Reason::NoPgq),
                Role::Idle(reason) => info!("{reason}"),
                Role::Ours => {}
            }
            *known = Some(role);
        }
    }

    /// One session, from connecting to its end.
    async fn session(
        &self,
        known: &mut Option<Role>,
        grievances: &mut Grievances,
        backoff: &mut Backoff,
    ) -> Result<Ended, Trouble> {
        let session = tokio::select! {
            () = self.cancel.cancelled() => return Ok(Ended::Cancelled),
            session = Box::pin(connect(&self.target, APPLICATION)) => session?,
        };
        loop {
            let role = role(&session).await?;
            grievances.worked("ticker");
            backoff.reset();
            let pause = match role {
                Role::Ours => {
                    if known.replace(Role::Ours) != Some(Role::Ours) {
                        info!("ticking");
                    }
                    if !grievances.is_failing("tick") {
                        self.tally.is(Some(Condition::Ticking));
                    }
                    return self.work(session, grievances).await;
                }
                Role::Idle(reason) => {
                    // Without a session of ours, so that nobody who wants to drop the database has to
                    // ask whose it is.
                    let leave = matches!(reason, Reason::NoPgq | Reason::OldPgq(_) | Reason::NoDatabase);
                    self.idle(known, reason);
                    if leave {
                        return Ok(Ended::Later(self.settings.borrow().check_period));
                    }
                    STANDBY_LOOK
                }
            };
            tokio::select! {
                () = self.cancel.cancelled() => return Ok(Ended::Cancelled),
                end = session.closed() => return Err(Trouble::Lost(end.err())),
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// The three loops, as long as the ticking session lives.
    async fn work(&self, session: Session, grievances: &mut Grievances) -> Result<Ended, Trouble> {
        let stop = self.cancel.child_token();
        let maintenance = self.repeat(Chore::Maintenance(Grievances::default()), &stop);
        let retry = self.repeat(Chore::Retry, &stop);
        let mut chores = pin!(async { tokio::join!(maintenance, retry) });
        let mut chores_ended = false;
        let mut ticks = pin!(self.tick(session, grievances));
        // When cancelled the chores end at once, but a round that is under way is made and counted.
        let ended = loop {
            tokio::select! {
                ended = &mut ticks => break ended,
                _ = &mut chores, if !chores_ended => chores_ended = true,
            }
        };
        if matches!(ended, Ok(Ended::Cancelled)) && !chores_ended {
            let _ = tokio::time::timeout(GRACE, chores).await;
        }
        ended
    }

    /// What fails in one session and goes on failing in the next is one trouble.
    async fn tick(&self, session: Session, grievances: &mut Grievances) -> Result<Ended, Trouble> {
        let mut ticking = Ticking::start(session, std::mem::take(grievances)).await?;
        let ended = self.rounds(&mut ticking).await;
        if matches!(ended, Ok(Ended::Renew)) {
            ticking.let_go().await;
        }
        *grievances = ticking.into_grievances();
        ended
    }

    async fn rounds(&self, ticking: &mut Ticking) -> Result<Ended, Trouble> {
        let born = Instant::now();
        let mut looked = born;
        let mut settings = self.settings.clone();
        let mut rhythm = Rhythm::new(settings.borrow_and_update().ticker_period, born);
        loop {
            let now = Instant::now();
            let scope = rhythm.scope(now);
            self.tally.late(now.saturating_duration_since(rhythm.next()));
            ticking.round(scope, &self.tally).await?;
            let left_out = rhythm.made(scope, ticking.shortest_lag(), Instant::now());
            self.tally.missed(left_out.into());
            let (apart, lifetime, check_period) = {
                let now = settings.borrow();
                (now.min_tick_age, now.connection_lifetime, now.check_period)
            };
            if born.elapsed() > lifetime || ticking.is_worn() {
                return Ok(Ended::Renew);
            }
            if looked.elapsed() > check_period {
                looked = Instant::now();
                if ticking.is_outdated().await? {
                    info!("the modules have been installed; beginning again");
                    return Ok(Ended::Renew);
                }
            }
            // Until the next round: ticks on request.
            loop {
                let wake = tokio::select! {
                    () = self.cancel.cancelled() => return Ok(Ended::Cancelled),
                    Ok(()) = settings.changed() => {
                        rhythm = Rhythm::new(settings.borrow_and_update().ticker_period, Instant::now());
                        break;
                    }
                    wake = ticking.wait(rhythm.next(), apart) => wake?,
                };
                match wake {
                    Wake::Round => break,
                    Wake::Requested => ticking.requested(&self.tally).await?,
                }
            }
        }
    }

    /// One chore at the pace of its period; after a failure sooner, but with growing pauses.
    async fn repeat(&self, mut chore: Chore, stop: &CancellationToken) {
        let mut settings = self.settings.clone();
        let mut backoff = Backoff::new(FIRST_PAUSE, LONGEST_PAUSE);
        let mut grievances = Grievances::default();
        let mut start = Instant::now();
        while !stop.is_cancelled() {
            let began = start;
            // A server has only so many places for sessions. Who waited long goes on without a turn, since
            // maintenance of another database may take hours.
            let turn = tokio::select! {
                () = stop.cancelled() => return,
                turn = tokio::time::timeout(LONGEST_TURN, self.turns.acquire()) => turn,
            };
            let step = chore.step(self, stop).await;
            drop(turn);
            let again = match step {
                Ok(()) => {
                    grievances.worked(chore.name());
                    backoff.reset();
                    None
                }
                Err(trouble) => {
                    self.tally.error();
                    grievances.failed(chore.name(), in_full(&trouble));
                    Some(Instant::now() + backoff.next_delay())
                }
            };
            // A changed period counts from the last start; it may be due already.
            loop {
                let period = chore.period(&settings.borrow_and_update());
                start = again.unwrap_or_else(|| next_start(began, period, Instant::now()));
                tokio::select! {
                    () = stop.cancelled() => return,
                    () = tokio::time::sleep_until(start) => break,
                    Ok(()) = settings.changed() => {}
                }
            }
        }
    }
}

/// What is done beside the ticks.
enum Chore {
    /// With the operations that are failing.
    Maintenance(Grievances),
    Retry,
}

impl Chore {
    fn name(&self) -> &'static str {
        match self {
            Chore::Maintenance(_) => "maintenance",
            Chore::Retry => "retry",
        }
    }

    fn period(&self, settings: &Settings) -> Duration {
        match self {
            Chore::Maintenance(_) => settings.maint_period,
            Chore::Retry => settings.retry_period,
        }
    }

    async fn step(&mut self, of: &Database, stop: &CancellationToken) -> Result<(), Trouble> {
        match self {
            Chore::Maintenance(failing) => maint::step(&of.target, &of.tally, failing, stop).await,
            Chore::Retry => retry::step(&of.target, &of.tally, stop).await,
        }
    }
}
