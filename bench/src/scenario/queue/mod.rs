//! PgQ's queues: ours beside the original with its C functions, in two databases of one server.

mod produce;
mod read;
mod spool;
mod triggers;

use anyhow::Context;
use skytide_fixtures::server::{Durability, Options, Server};
use tokio_postgres::Client;

use super::Effort;
use crate::cpu;
use crate::figures::{Findings, median, spread};
use crate::program::Program;

const OURS: &str = "ours";
const ORIGINAL: &str = "original";
const QUEUE: &str = "q";
const PAYLOAD_BYTES: usize = 100;

pub async fn run(effort: Effort) -> anyhow::Result<Findings> {
    let stage = Stage::new().await?;
    let mut findings = Findings::default();
    findings.note(format!(
        "One server, two databases: ours, and the packaged PgQ {} with its C functions. CPU is the server's, all of its \
         processes, for an event (a row); fsync and synchronous_commit on unless said.",
        stage.original_version
    ));
    produce::run(&stage, effort, &mut findings).await?;
    triggers::run(&stage, effort, &mut findings).await?;
    read::run(&stage, effort, &mut findings).await?;
    Ok(findings)
}

pub async fn from_spool(effort: Effort) -> anyhow::Result<Findings> {
    let mut findings = Findings::default();
    spool::run(effort, &mut findings).await?;
    Ok(findings)
}

/// The server with both databases.
struct Stage {
    server: Server,
    ours: Client,
    original: Client,
    original_version: String,
    dir: tempfile::TempDir,
}

impl Stage {
    async fn new() -> anyhow::Result<Stage> {
        let options = Options {
            durability: Durability::Safe,
            own_identity: true,
            ..Options::default()
        };
        let server = Server::start(
            options
                .with("shared_buffers", "1GB")
                .with("max_wal_size", "8GB")
                .with("checkpoint_timeout", "30min")
                .with("fsync", "on")
                .with("autovacuum", "off"),
        )
        .await?;
        for database in [OURS, ORIGINAL] {
            server.create_database(database).await?;
        }
        let program = Program::find()?;
        program.run(&["install", &server.dsn(OURS)]).await?;
        let (ours, original) = (server.connect(OURS).await?, server.connect(ORIGINAL).await?);
        original
            .batch_execute("create extension pgq")
            .await
            .context("the original PgQ is the peer here; install it: apt-get install postgresql-15-pgq3")?;
        for client in [&ours, &original] {
            client
                .batch_execute(&format!("select pgq.create_queue('{QUEUE}')"))
                .await?;
        }
        let original_version = original.query_one("select pgq.version()", &[]).await?.get(0);
        Ok(Stage {
            server,
            ours,
            original,
            original_version,
            dir: tempfile::Builder::new().prefix("skytide-bench.").tempdir()?,
        })
    }

    fn client(&self, database: &str) -> &Client {
        match database {
            OURS => &self.ours,
            _ => &self.original,
        }
    }

    /// Event tables as after a rotation; otherwise the second peer writes into a warmer file.
    async fn clear(&self) -> anyhow::Result<()> {
        for client in [&self.ours, &self.original] {
            client
                .batch_execute("truncate pgq.event_1_0, pgq.event_1_1, pgq.event_1_2")
                .await?;
        }
        self.ours.batch_execute("checkpoint").await?;
        Ok(())
    }

    /// The server's CPU for `work`, in microseconds a row.
    async fn cpu_of(&self, rows: i32, work: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<f64> {
        let before = cpu::of_server(&self.server)?;
        work.await?;
        Ok((cpu::of_server(&self.server)? - before) * 1e6 / f64::from(rows))
    }
}

/// The same work by ours and by a peer, in µs a row, a pair a repetition.
struct Pairs {
    what: String,
    peer: &'static str,
    mark: Option<f64>,
    seen: Vec<(f64, f64)>,
}

impl Pairs {
    fn new(what: impl Into<String>, peer: &'static str, mark: Option<f64>) -> Pairs {
        Pairs {
            what: what.into(),
            peer,
            mark,
            seen: Vec::new(),
        }
    }

    fn ratios(&self) -> Vec<f64> {
        self.seen.iter().map(|(ours, theirs)| ours / theirs).collect()
    }

    fn line(&self) -> Vec<String> {
        let of = |part: fn(&(f64, f64)) -> f64| median(&self.seen.iter().map(part).collect::<Vec<_>>());
        vec![
            self.what.clone(),
            format!("{:.1}", of(|p| p.0)),
            format!("{} {:.1}", self.peer, of(|p| p.1)),
            spread(&self.ratios()),
            self.mark.map_or("–".into(), |mark| format!("≤ {mark}")),
        ]
    }
}

const HEAD: [&str; 5] = ["CPU µs", "skytide", "peer", "ratio min / median / max", "mark"];
