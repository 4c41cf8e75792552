//! Putting events in: one a transaction by several clients, and in bulk.

use super::{Effort, Findings, HEAD, ORIGINAL, OURS, PAYLOAD_BYTES, Pairs, QUEUE, Stage};
use crate::figures::{Verdict, median};

/// Ratio to the C functions.
const MARK: f64 = 1.25;
/// µs an event of a set-based insert.
const BULK_MARK: f64 = 5.0;

pub async fn run(stage: &Stage, effort: Effort, findings: &mut Findings) -> anyhow::Result<()> {
    let events = effort.size(60_000, 20_000);
    let script = stage.dir.path().join("insert.pgbench");
    let payload = "x".repeat(PAYLOAD_BYTES);
    std::fs::write(
        &script,
        format!("select pgq.insert_event('{QUEUE}', 'type', '{payload}');\n"),
    )?;
    let mut lines = Vec::new();
    for clients in [1, 4, 16] {
        let mut pairs = Pairs::new(
            format!("insert_event, one a transaction, {clients} clients"),
            "C",
            Some(MARK),
        );
        for _ in 0..effort.reps {
            stage.clear().await?;
            let mut seen = [0.0; 2];
            for (database, seen) in [OURS, ORIGINAL].into_iter().zip(&mut seen) {
                let each = events / clients;
                *seen = stage
                    .cpu_of(each * clients, pgbench(stage, database, &script, clients, each))
                    .await?;
            }
            pairs.seen.push((seen[0], seen[1]));
        }
        let seen = median(&pairs.ratios());
        findings.verdicts.push(Verdict::at_most(
            format!("{}: CPU ÷ C", pairs.what),
            MARK,
            (seen * 100.0).round() / 100.0,
            "",
        ));
        lines.push(pairs.line());
    }
    lines.push(bulk(stage, effort, findings).await?);
    findings.table(&HEAD, &lines);
    Ok(())
}

async fn bulk(stage: &Stage, effort: Effort, findings: &mut Findings) -> anyhow::Result<Vec<String>> {
    let events = effort.size(500_000, 100_000);
    let mut pairs = Pairs::new("in bulk: insert_events of 10,000", "C in one statement", None);
    let calls = format!(
        "select sum(cardinality(pgq.insert_events('{QUEUE}', 'type', a.data))) \
         from (select array_agg(repeat('x', {PAYLOAD_BYTES})) from generate_series(1, 10000)) a (data), \
              generate_series(1, {})",
        events / 10_000
    );
    let loop_of_c = format!(
        "select count(pgq.insert_event('{QUEUE}', 'type', repeat('x', {PAYLOAD_BYTES}))) \
         from generate_series(1, {events})"
    );
    for _ in 0..effort.reps {
        stage.clear().await?;
        let ours = stage
            .cpu_of(events, async { Ok(stage.ours.batch_execute(&calls).await?) })
            .await?;
        let theirs = stage
            .cpu_of(events, async {
                Ok(stage.original.batch_execute(&loop_of_c).await?)
            })
            .await?;
        pairs.seen.push((ours, theirs));
    }
    let seen = median(&pairs.seen.iter().map(|p| p.0).collect::<Vec<_>>());
    findings.verdicts.push(Verdict::at_most(
        "insert_events: CPU an event",
        BULK_MARK,
        seen,
        "µs",
    ));
    Ok(pairs.line())
}

async fn pgbench(
    stage: &Stage,
    database: &str,
    script: &std::path::Path,
    clients: i32,
    each: i32,
) -> anyhow::Result<()> {
    let mut command = stage.server.command("pgbench");
    command
        .args([
            "-n",
            "-M",
            "prepared",
            "-c",
            &clients.to_string(),
            "-t",
            &each.to_string(),
            "-f",
        ])
        .arg(script)
        .arg(database);
    let out = tokio::process::Command::from(command).output().await?;
    anyhow::ensure!(
        out.status.success(),
        "pgbench: {}",
        String::from_utf8_lossy(&out.stderr)
    );
    Ok(())
}
