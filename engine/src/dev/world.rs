//! The servers and processes of one directory, as a whole: made, started, looked at, stopped.

use std::time::Duration;

use anyhow::Context as _;
use rustix::process::Signal;
use serde::Serialize;
use skytide_fixtures::cluster::Cluster;
use skytide_fixtures::server::{Options, Server};
use skytide_fixtures::wait;
use skytide_sql::conn::{ConnectString, Session, connect};

use super::place::{Job, PROVIDER, Place, SHOP, SUBSCRIBER};
use super::steps::{Steps, text};
use crate::cli::failure::Failure;
use crate::cli::output::Output;
use crate::daemon::pidfile;

/// A worker finishes its batch first, and a ticker its round.
const STOP_DEADLINE: Duration = Duration::from_secs(30);

/// Two running servers, each with a database `shop`.
pub struct World {
    pub place: Place,
    pub provider: Server,
    pub subscriber: Server,
    /// Whether the databases were made just now.
    pub fresh: bool,
}

/// What runs.
#[derive(Serialize)]
pub struct State {
    pub dir: String,
    pub servers: Vec<ServerState>,
    pub ticker_pid: Option<i32>,
    pub worker_pid: Option<i32>,
}

#[derive(Serialize)]
pub struct ServerState {
    pub name: String,
    pub running: bool,
    pub port: u16,
    pub version: String,
    pub dsn: String,
    pub log: String,
}

/// One line of [`State`].
#[derive(Serialize)]
pub struct Running {
    pub what: String,
    pub state: String,
    pub place: String,
}

impl State {
    pub fn of(place: &Place) -> anyhow::Result<State> {
        let mut servers = Vec::new();
        if place.dir().is_dir() {
            let cluster = Cluster::open(place.dir())?;
            for name in cluster.names()? {
                let server = cluster.get(&name)?;
                servers.push(ServerState {
                    running: server.is_running(),
                    port: server.port(),
                    version: server.version().to_string(),
                    dsn: server.dsn(SHOP),
                    log: server.log_path().display().to_string(),
                    name,
                });
            }
        }
        Ok(State {
            dir: place.dir().display().to_string(),
            servers,
            ticker_pid: place.pid(Job::Ticker)?,
            worker_pid: place.pid(Job::Worker)?,
        })
    }

    pub fn running(&self) -> Vec<Running> {
        let word = |running: bool| if running { "running" } else { "stopped" }.to_owned();
        let servers = self.servers.iter().map(|server| Running {
            what: format!("{} (PostgreSQL {})", server.name, server.version),
            state: word(server.running),
            place: server.dsn.clone(),
        });
        let jobs = [("ticker", self.ticker_pid), ("worker", self.worker_pid)];
        let processes = jobs.into_iter().map(|(name, pid)| Running {
            what: name.to_owned(),
            state: pid.map_or(word(false), |pid| format!("running, pid {pid}")),
            place: format!("{}/{name}.log", self.dir),
        });
        servers.chain(processes).collect()
    }

    pub fn all_run(&self) -> bool {
        let processes = self.ticker_pid.is_some() && self.worker_pid.is_some();
        !self.servers.is_empty() && self.servers.iter().all(|s| s.running) && processes
    }
}

impl World {
    /// Starts the servers, and makes what is not there.
    pub async fn up(place: &Place, output: &Output) -> anyhow::Result<World> {
        let cluster = Cluster::open(place.dir())?;
        // The provider's fsync is on, as it is where it matters; memory as a laptop can spare it.
        let options = |name: &str| {
            let fresh = !place.file(name).join("data/PG_VERSION").is_file();
            let options = Options::persistent("");
            if !fresh {
                return options;
            }
            options
                .with("shared_buffers", "256MB")
                .with("maintenance_work_mem", "128MB")
                .with("max_wal_size", "4GB")
                .with("checkpoint_timeout", "15min")
                .with("log_checkpoints", "off")
                .with("cluster_name", format!("skytide dev {name}"))
        };
        let (provider, subscriber) = tokio::try_join!(
            cluster.add(PROVIDER, options(PROVIDER)),
            cluster.add(SUBSCRIBER, options(SUBSCRIBER)),
        )?;
        let mut fresh = false;
        for (name, server) in [(PROVIDER, &provider), (SUBSCRIBER, &subscriber)] {
            output.note(&format!(
                "{name}: PostgreSQL {} on port {}",
                server.version(),
                server.port()
            ));
            let there = server
                .connect("postgres")
                .await?
                .query_opt("select 1 from pg_database where datname = $1", &[&SHOP])
                .await?;
            if there.is_none() {
                server.create_database(SHOP).await?;
                fresh = true;
            }
        }
        place.write_configuration(&provider.dsn(SHOP), &subscriber.dsn(SHOP))?;
        Ok(World {
            place: place.clone(),
            provider,
            subscriber,
            fresh,
        })
    }

    /// SQL modules, nodes, ticker and worker; what is there already is left as it is.
    pub async fn replicate(&self, steps: &Steps<'_>) -> anyhow::Result<()> {
        let (root, leaf) = (self.place.file("root.ini"), self.place.file("leaf.ini"));
        let (root, leaf) = (text(&root)?, text(&leaf)?);
        let (provider, subscriber) = (self.provider.dsn(SHOP), self.subscriber.dsn(SHOP));
        steps.run(&["install", &provider, "--quiet"]).await?;
        steps.run(&["install", &subscriber, "--quiet"]).await?;
        steps
            .run(&["londiste", root, "create-root", "root", &provider])
            .await?;
        self.start(Job::Ticker, steps).await?;
        let upstream = format!("--provider={provider}");
        steps
            .run(&["londiste", leaf, "create-leaf", "leaf", &subscriber, &upstream])
            .await?;
        self.start(Job::Worker, steps).await
    }

    /// Starts a process in the background unless it runs.
    async fn start(&self, job: Job, steps: &Steps<'_>) -> anyhow::Result<()> {
        if self.place.pid(job)?.is_some() {
            return Ok(());
        }
        let (ticker, leaf) = (self.place.file("ticker.ini"), self.place.file("leaf.ini"));
        let started = match job {
            Job::Ticker => steps.run(&["ticker", "-d", text(&ticker)?]).await,
            Job::Worker => steps.run(&["londiste", text(&leaf)?, "-d", "worker"]).await,
        };
        match started {
            Ok(()) => Ok(()),
            Err(error) => Err(self.died(job).unwrap_or(error)),
        }
    }

    /// The error to leave with if a process that should run does not.
    pub fn check(&self) -> anyhow::Result<()> {
        for job in Job::ALL {
            if self.place.pid(job)?.is_none() {
                let name = job.name();
                return Err(self
                    .died(job)
                    .unwrap_or_else(|| Failure::new(format!("the {name} does not run any more")).into()));
            }
        }
        Ok(())
    }

    fn died(&self, job: Job) -> Option<anyhow::Error> {
        let tail = self.place.log_tail(job);
        (!tail.is_empty()).then(|| {
            Failure::new(format!("the {} does not run any more", job.name()))
                .detail(format!("the end of {}:\n{tail}", self.place.log(job).display()))
                .into()
        })
    }

    pub async fn provider_session(&self, name: &str) -> anyhow::Result<Session> {
        session(&self.provider, name).await
    }

    pub async fn subscriber_session(&self, name: &str) -> anyhow::Result<Session> {
        session(&self.subscriber, name).await
    }
}

async fn session(server: &Server, name: &str) -> anyhow::Result<Session> {
    let target = ConnectString::parse(&server.dsn(SHOP))?;
    Ok(connect(&target, name).await?)
}

/// Stops processes and servers; with `remove` their files go too.
pub async fn down(place: &Place, remove: bool) -> anyhow::Result<()> {
    if !place.dir().is_dir() {
        return Ok(());
    }
    // The worker first, that it need not see its servers go.
    for job in [Job::Worker, Job::Ticker] {
        stop(place, job).await?;
    }
    let cluster = Cluster::open(place.dir())?;
    if remove {
        cluster.remove().await?;
        place.remove_files()?;
    } else {
        cluster.down().await?;
    }
    Ok(())
}

async fn stop(place: &Place, job: Job) -> anyhow::Result<()> {
    let path = place.pidfile(job);
    if !pidfile::send(&path, Signal::TERM)? {
        return Ok(());
    }
    let gone = wait::until("its end", STOP_DEADLINE, async || {
        Ok(pidfile::running(&path)?.is_none().then_some(()))
    })
    .await;
    if gone.is_err() {
        // It holds nothing that a kill could lose.
        pidfile::send(&path, Signal::KILL)
            .with_context(|| format!("kill the {} that does not stop", job.name()))?;
    }
    Ok(())
}
