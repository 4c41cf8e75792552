//! Initial copies: ours, native's table sync, and a bare pipe.

use std::time::{Duration, Instant};

use anyhow::Context;
use skytide_fixtures::wait;

use super::Effort;
use crate::figures::{Case, Findings, Sample, Verdict};
use crate::rig::{BARE_DB, DEADLINE, PROVIDER_DB, Rig};

const SCHEMA: &str = "
    create table big (id bigint, a int not null, b int not null, v text not null, at timestamptz not null);
    create table small (id bigint primary key, v text not null);
    create table late (id bigint primary key, v text not null);
    create table busy (id bigint primary key);
    create table mark (id int primary key)";
/// Two of the three indexes in random order.
const INDEXES: &str = "
    alter table big add primary key (id);
    create index big_a on big (a, b);
    create index big_at on big (at)";
const SMALL_ROWS: i32 = 200_000;

pub async fn run(effort: Effort) -> anyhow::Result<Findings> {
    let rows = effort.size(5_000_000, 1_000_000);
    let mut rig = Rig::new(SCHEMA, INDEXES).await?;
    rig.on_provider
        .batch_execute(&format!(
            "insert into big select n, n * 7919::bigint % 1000003, n % 7, 'a row with some text ' || n, \
                 timestamptz '2026-01-01' + n * 7919::bigint % 1000003 * interval '1 s' \
             from generate_series(1, {rows}) n; \
             insert into small select n, 'a row with some text ' || n from generate_series(1, {SMALL_ROWS}) n; \
             insert into late select * from small"
        ))
        .await?;
    rig.on_provider.batch_execute("vacuum analyze").await?;
    rig.on_provider.batch_execute("checkpoint").await?;
    rig.follow(&["mark"]).await?;
    rig.on_provider
        .batch_execute("alter publication native add table big")
        .await?;
    rig.londiste("root", &["add-table", "big", "small", "late"])
        .await?;

    let mut whole = Case::new("big table to ok, indexes included", "table sync").at_least(1.5);
    let mut bytes = Case::new("COPY part", "bare pipe").at_least(0.85);
    for rep in 0..effort.reps {
        let (ours, native);
        if rep % 2 == 0 {
            ours = skytide(&mut rig, rows).await?;
            native = table_sync(&rig, rows).await?;
        } else {
            native = table_sync(&rig, rows).await?;
            ours = skytide(&mut rig, rows).await?;
        }
        let pipe = bare_pipe(&rig, rows).await?;
        whole.pairs.push((ours.0, native));
        bytes.pairs.push((ours.1, pipe));
        rig.on_skytide.batch_execute("truncate big").await?;
        rig.on_native.batch_execute("truncate big").await?;
        rig.on_bare.batch_execute("truncate big").await?;
        rig.checkpoint().await?;
    }
    let mut findings = Findings::default();
    findings.note(format!(
        "A table of {rows} rows with three indexes, from the command to `ok`; native's table sync to `r`; and the COPY \
         part beside `psql … copy to stdout (format binary) | psql … copy from stdin (format binary)` into a table \
         without indexes. (CPU of the COPY part is not told apart and shown as that of the whole.)"
    ));
    findings.cases(&[whole, bytes]);

    let started = Instant::now();
    rig.londiste("leaf", &["add-table", "small"]).await?;
    wait_state(&mut rig, "public.small", "ok").await?;
    let small = started.elapsed().as_secs_f64();
    // A transaction that has written to another table is open all the while.
    let old = rig.provider.connect(PROVIDER_DB).await?;
    old.batch_execute("begin; insert into busy values (1)").await?;
    let started = Instant::now();
    rig.londiste("leaf", &["add-table", "late"]).await?;
    wait_begun(&mut rig, "public.late").await?;
    let late = started.elapsed().as_secs_f64();
    old.batch_execute("commit").await?;
    wait_state(&mut rig, "public.late", "ok").await?;
    findings.verdicts.push(Verdict::at_most(
        format!("table of {SMALL_ROWS} rows: add-table to ok"),
        2.0,
        small,
        "s",
    ));
    findings.verdicts.push(Verdict::at_most(
        "copy begins while an old transaction on another table is open",
        1.0,
        late,
        "s",
    ));
    Ok(findings)
}

async fn state(rig: &mut Rig, table: &str) -> anyhow::Result<Option<String>> {
    rig.check()?;
    let row = rig
        .on_skytide
        .query_opt(
            "select merge_state from londiste.table_info where queue_name = 'q' and table_name = $1",
            &[&table],
        )
        .await?;
    Ok(row.and_then(|r| r.get(0)))
}

async fn wait_state(rig: &mut Rig, table: &str, wanted: &str) -> anyhow::Result<()> {
    wait::until_eq(table, Some(wanted.to_owned()), DEADLINE, async || {
        state(rig, table).await
    })
    .await
}

async fn wait_begun(rig: &mut Rig, table: &str) -> anyhow::Result<()> {
    let name = table.to_owned();
    wait::until("the copy to begin", Duration::from_secs(60), async || {
        let rows = rig
            .on_skytide
            .query_one(&format!("select exists (select from {name})"), &[])
            .await?;
        Ok(rows.get::<_, bool>(0).then_some(()))
    })
    .await
}

/// From the command to `ok`, and the part of it that was COPY.
async fn skytide(rig: &mut Rig, rows: i32) -> anyhow::Result<(Sample, Sample)> {
    let before = rig.cpu()?;
    let started = Instant::now();
    rig.londiste("leaf", &["add-table", "big"]).await?;
    wait_state(rig, "public.big", "ok").await?;
    let whole = Sample {
        rows: f64::from(rows),
        seconds: started.elapsed().as_secs_f64(),
        cpu: rig.cpu()? - before,
    };
    let log = std::fs::read_to_string(rig.path("worker.log"))?;
    let copied = log
        .lines()
        .rfind(|l| l.contains("copied") && l.contains("public.big"));
    let seconds = copied
        .and_then(|l| {
            l.split_once("seconds=")?
                .1
                .split_whitespace()
                .next()?
                .parse()
                .ok()
        })
        .context("the worker's log does not say how long the copy took")?;
    let copy = Sample { seconds, ..whole };
    rig.londiste("leaf", &["remove-table", "big"]).await?;
    Ok((whole, copy))
}

/// Adds the table to the subscription and waits until it is in sync; then takes it out again.
async fn table_sync(rig: &Rig, rows: i32) -> anyhow::Result<Sample> {
    rig.on_native.batch_execute("drop subscription native").await?;
    let before = rig.cpu()?;
    let started = Instant::now();
    rig.subscribe(true).await?;
    let sample = Sample {
        rows: f64::from(rows),
        seconds: started.elapsed().as_secs_f64(),
        cpu: rig.cpu()? - before,
    };
    Ok(sample)
}

async fn bare_pipe(rig: &Rig, rows: i32) -> anyhow::Result<Sample> {
    let before = rig.cpu()?;
    let started = Instant::now();
    let status = tokio::process::Command::new("sh")
        .arg("-c")
        .arg(
            "\"$PSQL\" -Xqd \"$FROM\" -c 'copy big to stdout (format binary)' \
             | \"$PSQL\" -Xqd \"$TO\" -c 'copy big from stdin (format binary)'",
        )
        .env("PSQL", rig.provider.bin("psql"))
        .env("FROM", rig.provider.dsn(PROVIDER_DB))
        .env("TO", rig.subscriber.dsn(BARE_DB))
        .status()
        .await?;
    anyhow::ensure!(status.success(), "the psql pipe failed");
    Ok(Sample {
        rows: f64::from(rows),
        seconds: started.elapsed().as_secs_f64(),
        cpu: rig.cpu()? - before,
    })
}
