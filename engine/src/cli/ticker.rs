//! `skytide ticker`: arguments → settings → the ticker.

use std::path::PathBuf;

use anyhow::Context as _;
use skytide_sql::conn::ConnectString;
use skytide_ticker::{Condition, Conditions, Databases, Settings};
use tokio::sync::watch;
use tracing::{error, info};

use super::{Context, Outcome};
use crate::config::keys::TICKER;
use crate::config::settings::TickerSettings;
use crate::config::{ConfigError, Overrides, pages};
use crate::daemon::{
    self,
    control::{DaemonArgs, Next},
};

/// Make ticks: cut the queues of one or many databases into batches
///
/// Also rotates queue tables, puts retry events back, and does the rest of PgQ's maintenance. One ticker a
/// database is active; others stand by and take over. Without --db and without a list in the
/// configuration, every database of the server that has PgQ is ticked. Databases without PgQ, standbys
/// and servers that are down are waited for.
///
/// SIGTERM and SIGINT finish what is being done and stop; SIGHUP reads the configuration again.
#[derive(clap::Args, Debug)]
#[command(
    after_help = "Examples:\n  skytide ticker --db 'host=db1 dbname=shop' --period 10ms\n  \
                        skytide ticker -d /etc/skytide/ticker.ini"
)]
pub struct TickerArgs {
    /// Configuration file with a section [pgqd]; not needed
    #[arg(value_name = "CONF")]
    config: Option<PathBuf>,
    /// Tick this database, and not those of the configuration; may be repeated
    #[arg(long, value_name = "CONNECT STRING")]
    db: Vec<String>,
    /// From one round of ticks to the next, like 10ms (ticker_period)
    #[arg(long, value_name = "TIME")]
    period: Option<String>,
    #[command(flatten)]
    daemon: DaemonArgs,
}

impl TickerArgs {
    fn overrides(&self) -> Result<Overrides, ConfigError> {
        let mut overrides = self.daemon.overrides()?;
        let period = self
            .period
            .iter()
            .map(|period| ("ticker_period".to_owned(), period.clone()));
        overrides.set.extend(period);
        Ok(overrides)
    }

    fn load(&self) -> anyhow::Result<TickerSettings> {
        Ok(TickerSettings::load(self.config.as_deref(), &self.overrides()?)?)
    }

    fn ticker_settings(&self, settings: &TickerSettings) -> anyhow::Result<Settings> {
        let base = &settings.base_connstr;
        let databases = if !self.db.is_empty() {
            let parse = |text: &String| {
                ConnectString::parse_with_environment(text, |name| std::env::var(name).ok())
                    .context("read --db")
            };
            Databases::List(self.db.iter().map(parse).collect::<anyhow::Result<_>>()?)
        } else if settings.database_list.is_empty() {
            Databases::Discover(Box::new(base.with_dbname(&settings.initial_database)))
        } else {
            Databases::List(
                settings
                    .database_list
                    .iter()
                    .map(|name| base.with_dbname(name))
                    .collect(),
            )
        };
        Ok(Settings {
            databases,
            ticker_period: settings.ticker_period,
            maint_period: settings.maint_period,
            retry_period: settings.retry_period,
            stats_period: settings.process.stats_period,
            check_period: settings.check_period,
            connection_lifetime: settings.connection_lifetime,
            min_tick_age: settings.min_tick_age,
        })
    }
}

pub async fn run(args: TickerArgs, context: &Context) -> anyhow::Result<Outcome> {
    if args.daemon.ini {
        context.output.line(pages::sample(&TICKER))?;
        return Ok(Outcome::Done);
    }
    let settings = args.load()?;
    let (sender, receiver) = watch::channel(args.ticker_settings(&settings)?);
    match args.daemon.handle(&settings.process, context)? {
        Next::Run => {}
        Next::Leave(outcome) => return Ok(outcome),
    }
    let mut daemon = daemon::start(&settings.process, context).await?;
    info!("ticker {} starts", env!("CARGO_PKG_VERSION"));
    let (conditions, mut watched) = watch::channel(Conditions::new());
    let mut ticker = std::pin::pin!(skytide_ticker::run_watched(
        receiver,
        conditions,
        context.shutdown.clone()
    ));
    let stats = loop {
        tokio::select! {
            ended = &mut ticker => break ended?,
            Ok(()) = watched.changed() => {
                let (status, held_up) = summary(&watched.borrow_and_update());
                daemon.manager.status(&status);
                match held_up {
                    Some(reason) => daemon.health.waiting(reason),
                    None => daemon.health.ready(),
                }
            }
            Ok(()) = daemon.reloads.changed() => {
                daemon.manager.reloading();
                match args.load().and_then(|settings| args.ticker_settings(&settings)) {
                    Ok(new) => drop(sender.send_replace(new)),
                    Err(error) => error!(error = format!("{error:#}"), "configuration not read again; the old one stays"),
                }
                daemon.manager.ready();
            }
        }
    };
    info!(
        ticks = stats.ticks,
        maint = stats.maint,
        retry = stats.retry,
        "ticker stopped"
    );
    Ok(Outcome::Done)
}

/// A line about all databases, and what keeps the ticker from being ready: a database that fails, or that it has not
/// looked at yet. A standby, another active ticker and a database without PgQ are as they should be.
fn summary(conditions: &Conditions) -> (String, Option<String>) {
    let count = |which: fn(&Condition) -> bool| conditions.values().filter(|c| which(c)).count();
    let ticked = count(|c| *c == Condition::Ticking);
    let idle = count(|c| matches!(c, Condition::Idle(_)));
    let failing = count(|c| matches!(c, Condition::Failing(_)));
    let status = format!("{ticked} databases ticked, {idle} waited for, {failing} failing");
    let held_up: Vec<String> = conditions
        .iter()
        .filter_map(|(database, condition)| match condition {
            Condition::Unknown => Some(format!("{database}: not looked at yet")),
            Condition::Failing(reason) => Some(format!("{database}: {reason}")),
            Condition::Ticking | Condition::Idle(_) => None,
        })
        .collect();
    (status, (!held_up.is_empty()).then(|| held_up.join("\n")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failing_database_holds_up_and_one_that_is_waited_for_does_not() {
        let mut conditions = Conditions::from([
            ("a".to_owned(), Condition::Ticking),
            ("b".to_owned(), Condition::Idle("a standby".into())),
        ]);
        let (status, held_up) = summary(&conditions);
        assert_eq!(status, "1 databases ticked, 1 waited for, 0 failing");
        assert_eq!(held_up, None);
        conditions.insert("c".into(), Condition::Failing("connect: refused".into()));
        conditions.insert("d".into(), Condition::Unknown);
        let (_, held_up) = summary(&conditions);
        assert_eq!(
            held_up.as_deref(),
            Some("c: connect: refused\nd: not looked at yet")
        );
    }
}
