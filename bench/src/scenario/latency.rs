//! Commit on the provider → visible on the leaf.

use std::time::{Duration, Instant};

use anyhow::Context;
use skytide_fixtures::server::Server;

use super::Effort;
use crate::figures::{Findings, Verdict, percentile};
use crate::load::{self, Table};
use crate::rig::{NATIVE_DB, PROVIDER_DB, Peer, Rig, SKYTIDE_DB};

const KEYS: i32 = 100_000;
const RATE: u32 = 1000;

pub async fn run(effort: Effort) -> anyhow::Result<Findings> {
    let probes = effort.size(300, 100);
    let mut rig = Rig::new(load::SCHEMA, "create table probe (id int primary key)").await?;
    rig.on_bare.batch_execute("create table probe (id int)").await?;
    Table::fill(&rig, KEYS).await?;
    rig.follow(&["load", "mark", "probe"]).await?;
    rig.set_native(false).await?;
    let script = rig.path("load.pgbench");
    std::fs::write(
        &script,
        format!(
            "\\set k random(1, {KEYS})\nupdate load set a = a + 1, v = 'a changed row ' || :k where id = :k;\n"
        ),
    )?;
    let mut findings = Findings::default();
    findings.note(format!(
        "{probes} rows, one every 10–30 ms; from the answer to COMMIT on the provider to the first query on the \
         subscriber that sees the row (asked every 0.2 ms, which on these processors is load too). The other peer rests \
         meanwhile. Loaded: {RATE} single-row updates a second by pgbench. Ticks are adaptive: ours asks, `skytide \
         ticker` makes them."
    ));
    let mut rows = Vec::new();
    let mut id = 0;
    for loaded in [false, true] {
        let name = if loaded {
            format!("{RATE} tx/s")
        } else {
            "idle".to_owned()
        };
        for rep in 0..effort.reps {
            let order = if rep % 2 == 0 {
                [Peer::Skytide, Peer::Native]
            } else {
                [Peer::Native, Peer::Skytide]
            };
            for peer in order {
                only(&mut rig, peer).await?;
                let background = if loaded { Some(load(&rig, &script)?) } else { None };
                let seen = probe(&rig, peer, id, probes).await?;
                id += probes;
                if let Some(mut child) = background {
                    child.kill().await?;
                }
                let ms: Vec<f64> = seen.iter().map(|d| d.as_secs_f64() * 1e3).collect();
                let (p50, p99) = (percentile(&ms, 50.0), percentile(&ms, 99.0));
                rows.push((name.clone(), peer, p50, p99, percentile(&ms, 100.0)));
            }
        }
    }
    let mut lines = Vec::new();
    for name in ["idle".to_owned(), format!("{RATE} tx/s")] {
        for peer in [Peer::Skytide, Peer::Native] {
            let of = |part: fn(&(String, Peer, f64, f64, f64)) -> f64| -> Vec<f64> {
                rows.iter()
                    .filter(|r| r.0 == name && r.1 == peer)
                    .map(part)
                    .collect()
            };
            let (p50, p99) = (percentile(&of(|r| r.2), 50.0), percentile(&of(|r| r.3), 50.0));
            let worst = percentile(&of(|r| r.4), 100.0);
            lines.push(vec![
                name.clone(),
                format!("{peer:?}").to_lowercase(),
                format!("{p50:.1}"),
                format!("{p99:.1}"),
                format!("{worst:.1}"),
            ]);
            if peer == Peer::Skytide {
                findings
                    .verdicts
                    .push(Verdict::at_most(format!("latency, {name}: p50"), 10.0, p50, "ms"));
                findings
                    .verdicts
                    .push(Verdict::at_most(format!("latency, {name}: p99"), 50.0, p99, "ms"));
            }
        }
    }
    findings.table(
        &[
            "latency, ms",
            "peer",
            "p50 (median of runs)",
            "p99 (median of runs)",
            "worst",
        ],
        &lines,
    );
    Ok(findings)
}

/// One peer runs, the other does not, and the one that runs has caught up.
async fn only(rig: &mut Rig, peer: Peer) -> anyhow::Result<()> {
    match peer {
        Peer::Skytide => {
            rig.set_native(false).await?;
            if rig.worker_pid() == 0 {
                rig.start_worker()?;
            }
        }
        Peer::Native => {
            rig.stop_worker().await?;
            rig.set_native(true).await?;
        }
    }
    let mark = rig.mark().await?;
    rig.wait_mark(peer, mark).await
}

fn load(rig: &Rig, script: &std::path::Path) -> anyhow::Result<tokio::process::Child> {
    let mut command = rig.provider.command("pgbench");
    command
        .args([
            "-n",
            "-c",
            "2",
            "-T",
            "600",
            "-M",
            "prepared",
            "-R",
            &RATE.to_string(),
            "-f",
        ])
        .arg(script)
        .arg(PROVIDER_DB)
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null());
    let mut command = tokio::process::Command::from(command);
    command.kill_on_drop(true).spawn().context("start pgbench")
}

/// On a thread of its own, which sleeps more finely than a runtime's timers do.
async fn probe(rig: &Rig, peer: Peer, first: i32, count: i32) -> anyhow::Result<Vec<Duration>> {
    let database = match peer {
        Peer::Skytide => SKYTIDE_DB,
        Peer::Native => NATIVE_DB,
    };
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?
                .block_on(probe_here(&rig.provider, &rig.subscriber, database, first, count))
        });
        thread
            .join()
            .map_err(|_| anyhow::anyhow!("the prober panicked"))?
    })
}

async fn probe_here(
    provider: &Server,
    subscriber: &Server,
    database: &str,
    first: i32,
    count: i32,
) -> anyhow::Result<Vec<Duration>> {
    let writer = provider.connect(PROVIDER_DB).await?;
    let reader = subscriber.connect(database).await?;
    let write = writer.prepare("insert into probe values ($1)").await?;
    let read = reader.prepare("select from probe where id = $1").await?;
    let mut seen = Vec::new();
    for id in first..first + count {
        writer.execute(&write, &[&id]).await?;
        let started = Instant::now();
        while reader.query_opt(&read, &[&id]).await?.is_none() {
            anyhow::ensure!(
                started.elapsed() < Duration::from_secs(60),
                "row {id} does not come"
            );
            std::thread::sleep(Duration::from_micros(200));
        }
        seen.push(started.elapsed());
        std::thread::sleep(Duration::from_millis(10 + u64::try_from(id)? * 7 % 20));
    }
    Ok(seen)
}
