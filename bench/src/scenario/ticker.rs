//! `skytide ticker` on our modules beside pgqd on PgQ's extension: what many queues cost, and how regular the ticks
//! are; then how long an event takes to a consumer.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use skytide::queue::{self, Event, HandlerError, PerEvent, Verdict as Done};
use skytide_fixtures::server::Server;
use skytide_sql::conn::ConnectString;
use skytide_sql::{ConsumerName, QueueName};
use tempfile::TempDir;
use tokio_postgres::Client;
use tokio_util::sync::CancellationToken;

use super::Effort;
use crate::cpu;
use crate::figures::{Findings, Verdict, median, percentile, spread};
use crate::program::{Daemon, Program};
use crate::rig;

const PGQD: &str = "/usr/bin/pgqd";
const QUEUES: i32 = 1000;
/// Creating a queue takes a dozen locks until the end of its transaction.
const QUEUES_AT_ONCE: i32 = 100;
const SETTLE: Duration = Duration::from_secs(4);

/// Milliseconds between ticks, and the marks.
#[derive(Clone, Copy)]
struct Pace {
    ms: u32,
    p50: Option<f64>,
    p99: f64,
}

const PACES: [Pace; 2] = [
    Pace {
        ms: 10,
        p50: Some(8.0),
        p99: 20.0,
    },
    Pace {
        ms: 2,
        p50: None,
        p99: 8.0,
    },
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Peer {
    Skytide,
    Pgqd,
}

impl Peer {
    fn database(self) -> &'static str {
        match self {
            Peer::Skytide => "ours",
            Peer::Pgqd => "packaged",
        }
    }
}

/// Percent of one processor, and seconds between a queue's ticks.
struct Run {
    server: f64,
    process: f64,
    interval: f64,
    /// How far a queue's ticks are from the interval that was asked for.
    deviation: f64,
}

impl Run {
    fn total(&self) -> f64 {
        self.server + self.process
    }
}

pub async fn run(effort: Effort) -> anyhow::Result<Findings> {
    let seconds = effort.size(30, 12);
    let program = Program::find()?;
    let server = rig::server().await?;
    let dir = tempfile::Builder::new().prefix("skytide-bench.").tempdir()?;
    let mut peers = vec![(Peer::Skytide, prepare(&server, Peer::Skytide, &program).await?)];
    if Path::new(PGQD).is_file() {
        match prepare(&server, Peer::Pgqd, &program).await {
            Ok(client) => peers.push((Peer::Pgqd, client)),
            Err(error) => eprintln!("without pgqd: {error:#}"),
        }
    }
    let mut findings = Findings::default();
    findings.note(format!(
        "{QUEUES} queues without events in one database, {seconds} s each, in turns. Idle: everything as it comes. \
         Busy: ticker_period, or pgqd's, 0.1 s, and a tick wanted in each round. Percent of one processor; the interval is \
         what it really was between two ticks of a queue, the deviation |interval − 0.1 s|."
    ));
    let mut rows = Vec::new();
    for busy in [false, true] {
        let mut seen: Vec<(Peer, Vec<Run>)> = peers.iter().map(|(peer, _)| (*peer, Vec::new())).collect();
        for (_, client) in &peers {
            let settings = match busy {
                true => "update pgq.queue set queue_ticker_max_lag = '0', queue_ticker_idle_period = '0'",
                false => {
                    "update pgq.queue set queue_ticker_max_lag = '3 s', queue_ticker_idle_period = '1 min'"
                }
            };
            client.batch_execute(settings).await?;
        }
        for _ in 0..effort.reps {
            for ((peer, client), (_, runs)) in peers.iter().zip(&mut seen) {
                client.batch_execute("vacuum analyze pgq.tick").await?;
                client.batch_execute("checkpoint").await?;
                runs.push(measure(&server, *peer, &program, client, busy, seconds, &dir).await?);
            }
        }
        let name = if busy { "busy" } else { "idle" };
        let ours = median_of(&seen, Peer::Skytide, Run::total);
        for (peer, runs) in &seen {
            let of = |part: fn(&Run) -> f64| median(&runs.iter().map(part).collect::<Vec<_>>());
            let ratios: Vec<f64> = match seen.iter().find(|(peer, _)| *peer == Peer::Pgqd) {
                Some((_, theirs)) => runs
                    .iter()
                    .zip(theirs)
                    .map(|(a, b)| a.total() / b.total())
                    .collect(),
                None => Vec::new(),
            };
            rows.push(vec![
                format!("{name}, {}", if *peer == Peer::Pgqd { "pgqd" } else { "skytide" }),
                format!("{:.2} %", of(|r| r.server)),
                format!("{:.2} %", of(|r| r.process)),
                format!("{:.2} %", of(Run::total)),
                if busy {
                    format!("{:.4} s", of(|r| r.interval))
                } else {
                    "–".into()
                },
                if busy {
                    format!("{:.1} ms", of(|r| r.deviation) * 1e3)
                } else {
                    "–".into()
                },
                if ratios.is_empty() {
                    "–".into()
                } else {
                    spread(&ratios)
                },
            ]);
        }
        findings.verdicts.push(match busy {
            false => Verdict::at_most(format!("{QUEUES} idle queues"), 0.5, ours, "% of a processor"),
            true => Verdict::at_most(
                format!("{QUEUES} queues at 0.1 s"),
                15.0,
                ours,
                "% of a processor",
            ),
        });
        if busy {
            let off = (median_of(&seen, Peer::Skytide, |r| r.interval) - 0.1).abs() * 1e3;
            findings
                .verdicts
                .push(Verdict::at_most("real interval of 0.1 s, off by", 1.0, off, "ms"));
        }
    }
    findings.table(
        &[
            "",
            "server",
            "process",
            "CPU",
            "interval",
            "deviation p99",
            "CPU ÷ pgqd, min / median / max",
        ],
        &rows,
    );
    for pace in PACES {
        latency(&server, &program, effort, &dir, pace, &mut findings).await?;
    }
    Ok(findings)
}

fn median_of(seen: &[(Peer, Vec<Run>)], wanted: Peer, part: impl Fn(&Run) -> f64) -> f64 {
    let runs = seen
        .iter()
        .filter(|(peer, _)| *peer == wanted)
        .flat_map(|(_, runs)| runs);
    median(&runs.map(part).collect::<Vec<_>>())
}

async fn prepare(server: &Server, peer: Peer, program: &Program) -> anyhow::Result<Client> {
    server.create_database(peer.database()).await?;
    let client = server.connect(peer.database()).await?;
    match peer {
        Peer::Skytide => {
            program.run(&["install", &server.dsn(peer.database())]).await?;
        }
        Peer::Pgqd => client
            .batch_execute("create extension pgq")
            .await
            .context("PgQ's extension is not installed")?,
    }
    for from in (1..=QUEUES).step_by(QUEUES_AT_ONCE as usize) {
        let create = "select count(pgq.create_queue('q' || i)) from generate_series($1::int4, $2::int4) i";
        client
            .query_one(create, &[&from, &(from + QUEUES_AT_ONCE - 1)])
            .await?;
    }
    Ok(client)
}

fn start(
    server: &Server,
    peer: Peer,
    program: &Program,
    period: &str,
    dir: &TempDir,
) -> anyhow::Result<Daemon> {
    let log = dir.path().join("ticker.log");
    match peer {
        Peer::Skytide => program.spawn(
            &["ticker", "--db", &server.dsn(peer.database()), "--period", period],
            &log,
        ),
        Peer::Pgqd => {
            let config = dir.path().join("pgqd.ini");
            let text = format!(
                "[pgqd]\nbase_connstr = host={} port={} user={}\ndatabase_list = {}\nsyslog = 0\nticker_period = {}\n",
                server.socket_dir().display(),
                server.port(),
                server.superuser(),
                peer.database(),
                period.trim_end_matches('s'),
            );
            std::fs::write(&config, text)?;
            let mut command = Command::new(PGQD);
            command.arg(&config);
            Daemon::start(command, &log)
        }
    }
}

async fn measure(
    server: &Server,
    peer: Peer,
    program: &Program,
    client: &Client,
    busy: bool,
    seconds: i32,
    dir: &TempDir,
) -> anyhow::Result<Run> {
    let mut ticker = start(server, peer, program, if busy { "0.1s" } else { "1s" }, dir)?;
    // Its first rounds and its first maintenance are not what it does all day.
    tokio::time::sleep(SETTLE).await;
    let newest: i64 = client
        .query_one("select max(tick_id) from pgq.tick where tick_queue = 1", &[])
        .await?
        .get(0);
    let began = Instant::now();
    let before = (cpu::of_server(server)?, cpu::of_process(ticker.pid()));
    tokio::time::sleep(Duration::from_secs(seconds.unsigned_abs().into())).await;
    let after = (cpu::of_server(server)?, cpu::of_process(ticker.pid()));
    let took = began.elapsed().as_secs_f64();
    ticker.check()?;
    ticker.stop().await?;
    let row = client
        .query_one(
            "select coalesce(avg(gap), 0)::float8, \
                    coalesce(percentile_cont(0.99) within group (order by abs(gap - 0.1)), 0)::float8 \
             from (select extract(epoch from tick_time - lag(tick_time) over (order by tick_id)) as gap \
                   from pgq.tick where tick_queue = 1 and tick_id > $1) g",
            &[&newest],
        )
        .await?;
    Ok(Run {
        server: (after.0 - before.0) / took * 100.0,
        process: (after.1 - before.1) / took * 100.0,
        interval: row.get(0),
        deviation: row.get(1),
    })
}

/// From the answer to COMMIT to the handler.
async fn latency(
    server: &Server,
    program: &Program,
    effort: Effort,
    dir: &TempDir,
    pace: Pace,
    findings: &mut Findings,
) -> anyhow::Result<()> {
    let ms = pace.ms;
    let (database, period) = (format!("latency{ms}"), format!("{ms}ms"));
    let events = effort.size(3000, 1000);
    server.create_database(&database).await?;
    let dsn = server.dsn(&database);
    program.run(&["install", &dsn]).await?;
    let producer = server.connect(&database).await?;
    producer
        .batch_execute(&format!(
            "select pgq.create_queue('q'); select pgq.register_consumer('q', 'c'); \
             select pgq.set_queue_config('q', 'ticker_max_lag', '{period}')",
        ))
        .await?;
    let ticker = program.spawn(
        &["ticker", "--db", &dsn, "--period", &period],
        &dir.path().join("ticker.log"),
    )?;
    let settings = queue::Settings::new(
        ConnectString::parse(&dsn)?,
        QueueName::new("q")?,
        ConsumerName::new("c")?,
    );
    let stop = CancellationToken::new();
    let (sender, mut seen) = tokio::sync::mpsc::unbounded_channel();
    let consumer = tokio::spawn({
        let stop = stop.clone();
        async move {
            let handler = move |event: Event| {
                let id = event.data.and_then(|data| data.parse::<usize>().ok());
                let _ = sender.send((id, Instant::now()));
                async { Ok::<_, HandlerError>(Done::Done) }
            };
            queue::consume(&settings, &mut PerEvent(handler), &stop).await
        }
    });
    tokio::time::sleep(SETTLE / 2).await;
    let insert = producer.prepare("select pgq.insert_event('q', 't', $1)").await?;
    let mut committed = Vec::new();
    let mut rhythm = tokio::time::interval(Duration::from_micros(10_007));
    for n in 0..events {
        rhythm.tick().await;
        producer.query_one(&insert, &[&n.to_string()]).await?;
        committed.push(Instant::now());
    }
    let mut took = Vec::new();
    while took.len() < committed.len() {
        let (id, at) = tokio::time::timeout(rig::DEADLINE, seen.recv())
            .await?
            .context("the consumer is gone")?;
        let from = id
            .and_then(|id| committed.get(id))
            .context("an event of somebody else")?;
        took.push(at.saturating_duration_since(*from).as_secs_f64() * 1e3);
    }
    stop.cancel();
    consumer.await??;
    ticker.stop().await?;
    ensure!(took.len() == committed.len(), "events are missing");
    let (p50, p99) = (percentile(&took, 50.0), percentile(&took, 99.0));
    findings.note(format!(
        "{events} events, 100 a second, ticks {ms} ms apart, to a Rust consumer that is told of ticks; milliseconds from the \
         answer to COMMIT to the handler: p50 {p50:.1}, p95 {:.1}, p99 {p99:.1}, max {:.1}.",
        percentile(&took, 95.0),
        percentile(&took, 100.0),
    ));
    let verdict = |which: &str, mark, value| {
        Verdict::at_most(
            format!("event to handler, {ms} ms ticks, {which}"),
            mark,
            value,
            "ms",
        )
    };
    findings
        .verdicts
        .extend(pace.p50.map(|mark| verdict("p50", mark, p50)));
    findings.verdicts.push(verdict("p99", pace.p99, p99));
    Ok(())
}
