//! Two servers, and both peers set up between them: Skytide into database `skytide` of the subscriber,
//! PostgreSQL's own logical replication into database `native`.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Context;
use skytide_fixtures::server::{Durability, Options, Server};
use skytide_fixtures::wait;
use tempfile::TempDir;
use tokio_postgres::Client;

use crate::cpu;
use crate::program::{Daemon, Program};

pub const PROVIDER_DB: &str = "app";
pub const SKYTIDE_DB: &str = "skytide";
pub const NATIVE_DB: &str = "native";
/// For floors: what bare statements cost in the same server.
pub const BARE_DB: &str = "bare";

const SLOT: &str = "skytide_q_leaf";
const SUBSCRIPTION: &str = "native";
/// Longer than anything here takes on a slow machine.
pub const DEADLINE: Duration = Duration::from_secs(900);

pub struct Rig {
    worker: Option<Daemon>,
    _ticker: Daemon,
    pub program: Program,
    pub on_provider: Client,
    pub on_skytide: Client,
    pub on_native: Client,
    pub on_bare: Client,
    pub dir: TempDir,
    pub provider: Server,
    pub subscriber: Server,
    marks: i32,
}

/// CPU seconds of a run.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cpu {
    pub provider: f64,
    pub subscriber: f64,
    pub ours: f64,
}

/// Which side does the work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    Skytide,
    Native,
}

pub async fn server() -> anyhow::Result<Server> {
    // Autovacuum would fall into one run and not into the other.
    let options = Options {
        durability: Durability::Safe,
        own_identity: true,
        ..Options::default()
    };
    Server::start(
        options
            .with("shared_buffers", "1GB")
            .with("max_locks_per_transaction", "128")
            .with("max_wal_size", "8GB")
            .with("checkpoint_timeout", "30min")
            .with("fsync", "on")
            .with("autovacuum", "off")
            .with("wal_sender_timeout", "5min")
            .with("wal_receiver_timeout", "5min")
            .with("maintenance_work_mem", "256MB")
            .with("dynamic_shared_memory_type", "posix"),
    )
    .await
}

impl Rig {
    /// Both sides with empty copies of `schema`, which makes the tables that are to be replicated, and
    /// `indexes`, which only the databases have, not the bare one.
    pub async fn new(schema: &str, indexes: &str) -> anyhow::Result<Rig> {
        let program = Program::find()?;
        let provider = server().await?;
        let subscriber = server().await?;
        provider.create_database(PROVIDER_DB).await?;
        let on_provider = provider.connect(PROVIDER_DB).await?;
        on_provider.batch_execute(schema).await?;
        on_provider.batch_execute(indexes).await?;
        for (database, with_indexes) in [(SKYTIDE_DB, true), (NATIVE_DB, true), (BARE_DB, false)] {
            subscriber.create_database(database).await?;
            let client = subscriber.connect(database).await?;
            client.batch_execute(schema).await?;
            if with_indexes {
                client.batch_execute(indexes).await?;
            }
        }
        let dir = tempfile::Builder::new().prefix("skytide-bench.").tempdir()?;
        let root = provider.dsn(PROVIDER_DB);
        let leaf = subscriber.dsn(SKYTIDE_DB);
        let config = |name: &str, db: &str| -> anyhow::Result<()> {
            let base = dir.path().display();
            let text = format!(
                "[londiste]\njob_name = {name}_worker\ndb = {db}\nqueue_name = q\nspool_dir = {base}/spool\n\
                 pidfile = {base}/{name}.pid\n"
            );
            Ok(fs::write(dir.path().join(format!("{name}.ini")), text)?)
        };
        config("root", &root)?;
        config("leaf", &leaf)?;
        let path = |name: &str| dir.path().join(name).display().to_string();
        program.run(&["install", &root]).await?;
        program.run(&["install", &leaf]).await?;
        program
            .run(&["londiste", &path("root.ini"), "create-root", "root", &root])
            .await?;
        let provider_option = format!("--provider={root}");
        program
            .run(&[
                "londiste",
                &path("leaf.ini"),
                "create-leaf",
                "leaf",
                &leaf,
                &provider_option,
            ])
            .await?;
        let ticker = program.spawn(&["ticker", "--db", &root], &dir.path().join("ticker.log"))?;
        Ok(Rig {
            worker: None,
            _ticker: ticker,
            on_skytide: subscriber.connect(SKYTIDE_DB).await?,
            on_native: subscriber.connect(NATIVE_DB).await?,
            on_bare: subscriber.connect(BARE_DB).await?,
            program,
            on_provider,
            dir,
            provider,
            subscriber,
            marks: 0,
        })
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A command on one node.
    pub async fn londiste(&self, node: &str, args: &[&str]) -> anyhow::Result<String> {
        let conf = self.path(&format!("{node}.ini")).display().to_string();
        let mut all = vec!["londiste", &conf];
        all.extend(args);
        self.program.run(&all).await
    }

    pub fn start_worker(&mut self) -> anyhow::Result<()> {
        let conf = self.path("leaf.ini").display().to_string();
        let mut args = vec!["londiste", conf.as_str(), "worker"];
        if std::env::var_os("BENCH_VERBOSE").is_some() {
            args.push("-v");
        }
        self.worker = Some(self.program.spawn(&args, &self.path("worker.log"))?);
        Ok(())
    }

    pub async fn stop_worker(&mut self) -> anyhow::Result<()> {
        match self.worker.take() {
            Some(worker) => worker.stop().await,
            None => Ok(()),
        }
    }

    pub fn worker_pid(&self) -> u32 {
        self.worker.as_ref().map_or(0, Daemon::pid)
    }

    /// Fails if a child has died, with its log.
    pub fn check(&mut self) -> anyhow::Result<()> {
        if let Some(worker) = &mut self.worker {
            worker.check()?;
        }
        Ok(())
    }

    /// Both peers replicate the tables and are in sync.
    pub async fn follow(&mut self, tables: &[&str]) -> anyhow::Result<()> {
        let mut add = vec!["add-table"];
        add.extend(tables);
        self.londiste("root", &add).await?;
        self.start_worker()?;
        add.push("--wait-sync");
        self.londiste("leaf", &add).await?;
        self.on_provider
            .batch_execute(&format!(
                "create publication native for table {}",
                tables.join(", ")
            ))
            .await?;
        self.subscribe(true).await
    }

    /// Makes native's subscription to publication `native` and waits for its table sync.
    pub async fn subscribe(&self, copy: bool) -> anyhow::Result<()> {
        self.on_native
            .batch_execute(&format!(
                "create subscription {SUBSCRIPTION} connection '{}' publication native \
                 with (binary = on, streaming = on, synchronous_commit = off, copy_data = {copy})",
                self.provider.dsn(PROVIDER_DB).replace('\'', "''"),
            ))
            .await
            .context("create the native subscription")?;
        self.native_in_sync().await
    }

    pub async fn native_in_sync(&self) -> anyhow::Result<()> {
        wait::until_eq("native's table sync", 0_i64, DEADLINE, async || {
            let row = self
                .on_native
                .query_one(
                    "select count(*) from pg_subscription_rel where srsubstate <> 'r'",
                    &[],
                )
                .await?;
            Ok(row.get(0))
        })
        .await
    }

    pub async fn set_native(&self, enabled: bool) -> anyhow::Result<()> {
        let word = if enabled { "enable" } else { "disable" };
        self.on_native
            .batch_execute(&format!("alter subscription {SUBSCRIPTION} {word}"))
            .await?;
        if !enabled {
            wait::until_eq("native's walsender to leave", false, DEADLINE, async || {
                let row = self
                    .on_provider
                    .query_one(
                        "select coalesce(bool_or(active), false) from pg_replication_slots where slot_name = $1",
                        &[&SUBSCRIPTION],
                    )
                    .await?;
                Ok(row.get(0))
            })
            .await?;
        }
        Ok(())
    }

    /// Capture goes on, apply does not.
    pub async fn pause_apply(&self, paused: bool) -> anyhow::Result<()> {
        self.on_skytide
            .execute(
                "select pgq_node.set_consumer_paused('q', 'leaf_worker', $1)",
                &[&paused],
            )
            .await?;
        if paused {
            wait::until_eq("the worker to pause", true, DEADLINE, async || {
                let row = self
                    .on_skytide
                    .query_one(
                        "select uptodate from pgq_node.local_state where queue_name = 'q' \
                         and consumer_name = 'leaf_worker'",
                        &[],
                    )
                    .await?;
                Ok(row.get(0))
            })
            .await?;
        }
        Ok(())
    }

    /// Ends a load: a row to look for, and a tick after it.
    pub async fn mark(&mut self) -> anyhow::Result<i32> {
        self.marks += 1;
        self.on_provider
            .execute("insert into mark values ($1)", &[&self.marks])
            .await?;
        self.on_provider.execute("select pgq.tick_now('q')", &[]).await?;
        Ok(self.marks)
    }

    /// Waits until everything up to now is on the spool's disk.
    pub async fn wait_spooled(&mut self) -> anyhow::Result<()> {
        let end: String = self
            .on_provider
            .query_one("select pg_current_wal_lsn()::text", &[])
            .await?
            .get(0);
        self.wait_confirmed(SLOT, &end).await
    }

    /// Waits until a slot has moved to `lsn`.
    pub async fn wait_confirmed(&mut self, slot: &str, lsn: &str) -> anyhow::Result<()> {
        let (client, worker) = (&self.on_provider, &mut self.worker);
        wait::until_eq("the slot to move", true, DEADLINE, async || {
            if let Some(worker) = worker.as_mut() {
                worker.check()?;
            }
            let row = client
                .query_one(
                    "select confirmed_flush_lsn >= $2::text::pg_lsn from pg_replication_slots where slot_name = $1",
                    &[&slot, &lsn],
                )
                .await?;
            Ok(row.get(0))
        })
        .await
    }

    pub fn slot(&self) -> &'static str {
        SLOT
    }

    /// Waits until the peer's copy shows the mark.
    pub async fn wait_mark(&mut self, peer: Peer, mark: i32) -> anyhow::Result<()> {
        let client = match peer {
            Peer::Skytide => &self.on_skytide,
            Peer::Native => &self.on_native,
        };
        let look = client.prepare("select from mark where id = $1").await?;
        let end = Instant::now() + DEADLINE;
        while client.query_opt(&look, &[&mark]).await?.is_none() {
            anyhow::ensure!(Instant::now() < end, "{peer:?} did not catch up in {DEADLINE:?}");
            if let Some(worker) = &mut self.worker {
                worker.check()?;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Ok(())
    }

    /// CPU used so far.
    pub fn cpu(&self) -> anyhow::Result<Cpu> {
        Ok(Cpu {
            provider: cpu::of_server(&self.provider)?,
            subscriber: cpu::of_server(&self.subscriber)?,
            ours: self.worker.as_ref().map_or(0.0, |w| cpu::of_process(w.pid())),
        })
    }

    /// The same start for each run: no dirty pages, every page's first change writes its image again.
    pub async fn checkpoint(&self) -> anyhow::Result<()> {
        self.on_provider.batch_execute("checkpoint").await?;
        self.on_skytide.batch_execute("checkpoint").await?;
        Ok(())
    }

    /// Both copies hold what the provider holds.
    pub async fn check_equal(&self, tables: &[&str]) -> anyhow::Result<()> {
        for table in tables {
            let sum =
                format!("select count(*), coalesce(sum(hashtext(t::text)::int8), 0)::text from {table} t");
            let read = async |client: &Client| -> anyhow::Result<(i64, String)> {
                let row = client.query_one(&sum, &[]).await?;
                Ok((row.get(0), row.get(1)))
            };
            let provider = read(&self.on_provider).await?;
            let skytide = read(&self.on_skytide).await?;
            let native = read(&self.on_native).await?;
            anyhow::ensure!(
                provider == skytide && provider == native,
                "table {table} differs: provider {provider:?}, skytide {skytide:?}, native {native:?}"
            );
        }
        Ok(())
    }
}

impl std::ops::Sub for Cpu {
    type Output = Cpu;
    fn sub(self, before: Cpu) -> Cpu {
        Cpu {
            provider: self.provider - before.provider,
            subscriber: self.subscriber - before.subscriber,
            ours: self.ours - before.ours,
        }
    }
}

impl Cpu {
    pub fn total(&self) -> f64 {
        self.provider + self.subscriber + self.ours
    }
}
