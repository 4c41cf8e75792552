//! Decoding into the spool, beside `pg_recvlogical` that throws the same stream away.

use std::time::Instant;

use super::Effort;
use crate::cpu;
use crate::figures::{Case, Findings, Sample, Verdict, percentile};
use crate::load::{self, Load, Shape, TABLES, Table};
use crate::rig::{PROVIDER_DB, Rig};

const KEYS: i32 = 1_000_000;
const COPIED_SLOT: &str = "bench_copy";

pub async fn run(effort: Effort) -> anyhow::Result<Findings> {
    let changes = effort.size(400_000, 200_000);
    let mut rig = Rig::new(load::SCHEMA, "").await?;
    let mut table = Table::fill(&rig, KEYS).await?;
    rig.follow(&TABLES).await?;
    rig.set_native(false).await?;
    rig.pause_apply(true).await?;
    let mut cases = Vec::new();
    let mut peak = 0.0_f64;
    for (name, per_tx) in [("single-row transactions", 1), ("100-row transactions", 100)] {
        let mut case = Case::new(name, "pg_recvlogical").at_least(0.95);
        for rep in 0..effort.reps {
            rig.stop_worker().await?;
            let load = Load {
                shape: Shape::Mix,
                changes,
                per_tx,
            };
            let rows = table.run(&rig, load).await? as f64;
            case.pairs.push(both(&mut rig, rows, rep % 2 == 0).await?);
            peak = peak.max(cpu::peak_rss(rig.worker_pid()));
        }
        cases.push(case);
    }
    let mut case = Case::new("one transaction", "pg_recvlogical").at_least(0.95);
    rig.stop_worker().await?;
    let rows = table.run_as_one(&rig).await? as f64;
    case.pairs.push(both(&mut rig, rows, true).await?);
    let peak_big = cpu::peak_rss(rig.worker_pid());
    cases.push(case);

    let mut findings = Findings::default();
    findings.note(format!(
        "The worker was stopped while {changes} changes were made (the last case: one transaction of {KEYS}); apply is \
         paused, so that our process only decodes and spools. `pg_recvlogical` reads the same changes from a copy of \
         our slot with the same options and writes them to /dev/null; its own CPU is not counted. Our time includes the \
         start of the process and ends when the slot has been moved past the last change, which is then on disk."
    ));
    findings.cases(&cases);
    findings.note(format!(
        "Peak resident memory: {peak:.0} MiB, with the large transaction {peak_big:.0} MiB; mapped pages of the spool \
         are in it."
    ));
    let ours: Vec<f64> = cases
        .iter()
        .flat_map(|c| &c.pairs)
        .map(|(o, _)| o.cpu.ours * 1e6 / o.rows)
        .collect();
    findings.verdicts.push(Verdict::at_most(
        "our CPU, worst case",
        2.0,
        percentile(&ours, 100.0),
        "µs a row",
    ));
    findings.verdicts.push(Verdict::at_most(
        "resident memory in capture",
        64.0,
        peak.max(peak_big),
        "MiB",
    ));
    Ok(findings)
}

/// The load has been made and the worker is down: reads it by both, ours first or last.
async fn both(rig: &mut Rig, rows: f64, ours_first: bool) -> anyhow::Result<(Sample, Sample)> {
    rig.mark().await?;
    let end: String = rig
        .on_provider
        .query_one("select pg_current_wal_lsn()::text", &[])
        .await?
        .get(0);
    rig.on_provider
        .execute(
            "select pg_copy_logical_replication_slot($1, $2)",
            &[&rig.slot(), &COPIED_SLOT],
        )
        .await?;
    rig.checkpoint().await?;
    let pair = if ours_first {
        let ours = ours(rig, rows, &end).await?;
        (ours, theirs(rig, rows, &end).await?)
    } else {
        let theirs = theirs(rig, rows, &end).await?;
        (ours(rig, rows, &end).await?, theirs)
    };
    rig.on_provider
        .execute("select pg_drop_replication_slot($1)", &[&COPIED_SLOT])
        .await?;
    Ok(pair)
}

async fn ours(rig: &mut Rig, rows: f64, end: &str) -> anyhow::Result<Sample> {
    let before = rig.cpu()?;
    let started = Instant::now();
    rig.start_worker()?;
    rig.wait_confirmed(rig.slot(), end).await?;
    Ok(Sample {
        rows,
        seconds: started.elapsed().as_secs_f64(),
        cpu: rig.cpu()? - before,
    })
}

async fn theirs(rig: &Rig, rows: f64, end: &str) -> anyhow::Result<Sample> {
    let mut command = rig.provider.command("pg_recvlogical");
    command
        .args(["--dbname", PROVIDER_DB, "--slot", COPIED_SLOT])
        .args(["--start", "--file", "/dev/null"])
        .args(["--endpos", end, "--fsync-interval", "0"]);
    for option in [
        "proto_version=3",
        "streaming=on",
        "binary=true",
        "publication_names=skytide_q,skytide_q_pgq",
    ] {
        command.args(["--option", option]);
    }
    let before = rig.cpu()?;
    let started = Instant::now();
    let status = tokio::process::Command::from(command).status().await?;
    anyhow::ensure!(status.success(), "pg_recvlogical failed");
    Ok(Sample {
        rows,
        seconds: started.elapsed().as_secs_f64(),
        cpu: rig.cpu()? - before,
    })
}
