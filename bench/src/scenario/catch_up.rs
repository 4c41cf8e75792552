//! Catch-up after a load: from the spool and from the slot.

use std::time::Instant;

use anyhow::Context;
use bytes::Bytes;
use futures_util::{SinkExt, StreamExt, pin_mut};

use super::Effort;
use crate::cpu;
use crate::figures::{Case, Findings, Sample, Verdict};
use crate::load::{self, Load, Shape, TABLES, Table};
use crate::rig::{Peer, Rig};

const KEYS: i32 = 1_000_000;

#[derive(Clone, Copy, PartialEq, Eq)]
enum From {
    Spool,
    Slot,
}

struct Wanted {
    name: &'static str,
    load: Load,
    ratio: Option<f64>,
    cpu: Option<f64>,
}

pub async fn from_spool(effort: Effort) -> anyhow::Result<Findings> {
    let changes = effort.size(300_000, 200_000);
    let load = |shape, per_tx| Load {
        shape,
        changes,
        per_tx,
    };
    let wanted = [
        // Before anything is deleted: later inserts fill holes all over the table, and the bare copy has none.
        Wanted {
            name: "inserts, 100-row",
            load: load(Shape::Insert, 100),
            ratio: None,
            cpu: None,
        },
        Wanted {
            name: "single-row transactions",
            load: load(Shape::Mix, 1),
            ratio: Some(3.5),
            cpu: Some(0.6),
        },
        Wanted {
            name: "100-row transactions",
            load: load(Shape::Mix, 100),
            ratio: Some(1.6),
            cpu: Some(0.9),
        },
        Wanted {
            name: "hot keys, single-row",
            load: load(Shape::Hot, 1),
            ratio: Some(10.0),
            cpu: None,
        },
    ];
    let mut findings = Findings::default();
    findings.note(format!(
        "Apply was paused and native's subscription disabled while {changes} changes were made on a table of {KEYS} \
         rows (40 % insert, 40 % update, 20 % delete; hot keys: updates only, 90 % of them on 1 % of the keys); \
         capture went on into the spool. Then one after the other was let go, in turns. Native has to decode first: \
         it has no spool."
    ));
    catch_up(From::Spool, effort, &wanted, &mut findings).await?;
    Ok(findings)
}

pub async fn from_slot(effort: Effort) -> anyhow::Result<Findings> {
    let changes = effort.size(300_000, 200_000);
    let load = |per_tx| Load {
        shape: Shape::Mix,
        changes,
        per_tx,
    };
    let wanted = [
        Wanted {
            name: "single-row transactions",
            load: load(1),
            ratio: Some(1.8),
            cpu: Some(0.6),
        },
        Wanted {
            name: "100-row transactions",
            load: load(100),
            ratio: Some(1.3),
            cpu: Some(0.9),
        },
    ];
    let mut findings = Findings::default();
    findings.note(format!(
        "The worker was stopped and native's subscription disabled while {changes} changes were made; then one after \
         the other was started, in turns. Everything comes through the slot. Our time includes the start of the \
         process."
    ));
    catch_up(From::Slot, effort, &wanted, &mut findings).await?;
    Ok(findings)
}

pub async fn big(effort: Effort) -> anyhow::Result<Findings> {
    let changes = effort.size(5_000_000, 500_000);
    let mut findings = Findings::default();
    findings.note(format!(
        "As above, with one transaction of {changes} changes made by three statements (40 % insert, 40 % update, 20 % \
         delete); once, because it is long."
    ));
    let (mut rig, table) = prepared(changes).await?;
    hold(&mut rig, From::Slot).await?;
    let rows = table.run_as_one(&rig).await?;
    let mark = rig.mark().await?;
    let ours = timed(&mut rig, Peer::Skytide, From::Slot, rows, mark).await?;
    let peak = cpu::peak_rss(rig.worker_pid());
    let native = timed(&mut rig, Peer::Native, From::Slot, rows, mark).await?;
    rig.check_equal(&TABLES).await?;
    let mut case = Case::new("one transaction", "native").at_least(1.5);
    case.pairs.push((ours, native));
    findings.cases(&[case]);
    findings.note(format!(
        "Peak resident memory of our process, capture and apply together: {peak:.0} MiB."
    ));
    findings.verdicts.push(Verdict::at_most(
        "big transaction: resident memory",
        256.0,
        peak,
        "MiB",
    ));
    Ok(findings)
}

async fn prepared(keys: i32) -> anyhow::Result<(Rig, Table)> {
    let mut rig = Rig::new(load::SCHEMA, "").await?;
    let table = Table::fill(&rig, keys).await?;
    rig.follow(&TABLES).await?;
    rig.on_skytide.batch_execute("vacuum analyze load").await?;
    rig.on_native.batch_execute("vacuum analyze load").await?;
    Ok((rig, table))
}

async fn catch_up(
    from: From,
    effort: Effort,
    wanted: &[Wanted],
    findings: &mut Findings,
) -> anyhow::Result<()> {
    let (mut rig, mut table) = prepared(KEYS).await?;
    let mut cases = Vec::new();
    let mut bare = Case::new("inserts, 100-row", "COPY").at_least(0.75);
    for w in wanted {
        let mut case = Case::new(w.name, "native");
        (case.mark, case.cpu_mark) = (w.ratio, w.cpu);
        for rep in 0..effort.reps {
            hold(&mut rig, from).await?;
            let first_new = next_id(&rig).await?;
            let rows = table.run(&rig, w.load).await?;
            let mark = rig.mark().await?;
            if from == From::Spool {
                rig.wait_spooled().await?;
            }
            let (ours, native);
            if rep % 2 == 0 {
                ours = timed(&mut rig, Peer::Skytide, from, rows, mark).await?;
                native = timed(&mut rig, Peer::Native, from, rows, mark).await?;
            } else {
                native = timed(&mut rig, Peer::Native, from, rows, mark).await?;
                ours = timed(&mut rig, Peer::Skytide, from, rows, mark).await?;
            }
            case.pairs.push((ours, native));
            if w.load.shape == Shape::Insert {
                bare.pairs.push((ours, bare_copy(&rig, first_new).await?));
            }
            vacuum(&rig).await?;
        }
        // Once a case: it reads every table whole.
        rig.check_equal(&TABLES)
            .await
            .with_context(|| format!("after {}", w.name))?;
        cases.push(case);
    }
    if !bare.pairs.is_empty() {
        cases.push(bare);
    }
    findings.cases(&cases);
    let ours: Vec<f64> = cases
        .iter()
        .flat_map(|c| &c.pairs)
        .map(|(o, _)| o.cpu.ours * 1e6 / o.rows)
        .collect();
    findings.verdicts.push(Verdict::at_most(
        "our process, worst case",
        3.0,
        crate::figures::percentile(&ours, 100.0),
        "µs a row",
    ));
    Ok(())
}

/// Neither peer applies from here on.
async fn hold(rig: &mut Rig, from: From) -> anyhow::Result<()> {
    match from {
        From::Spool => rig.pause_apply(true).await?,
        From::Slot => rig.stop_worker().await?,
    }
    rig.set_native(false).await
}

/// Lets a peer go and waits until it has caught up; then it is quiet again.
async fn timed(rig: &mut Rig, peer: Peer, from: From, rows: i64, mark: i32) -> anyhow::Result<Sample> {
    rig.checkpoint().await?;
    let before = rig.cpu()?;
    let started = Instant::now();
    match (peer, from) {
        (Peer::Native, _) => rig.set_native(true).await?,
        (Peer::Skytide, From::Spool) => rig.pause_apply(false).await?,
        (Peer::Skytide, From::Slot) => rig.start_worker()?,
    }
    rig.wait_mark(peer, mark).await?;
    let seconds = started.elapsed().as_secs_f64();
    let cpu = rig.cpu()? - before;
    match (peer, from) {
        (Peer::Native, _) => rig.set_native(false).await?,
        (Peer::Skytide, From::Spool) => {}
        (Peer::Skytide, From::Slot) => {}
    }
    Ok(Sample {
        rows: rows as f64,
        seconds,
        cpu,
    })
}

async fn vacuum(rig: &Rig) -> anyhow::Result<()> {
    for client in [&rig.on_provider, &rig.on_skytide, &rig.on_native] {
        client.batch_execute("vacuum load").await?;
    }
    Ok(())
}

async fn next_id(rig: &Rig) -> anyhow::Result<i64> {
    let row = rig
        .on_provider
        .query_one("select last_value + 1 from load_id", &[])
        .await?;
    Ok(row.get(0))
}

/// The floor of inserts: a bare binary COPY of the same rows into a table as large, over one connection.
async fn bare_copy(rig: &Rig, first_new: i64) -> anyhow::Result<Sample> {
    let count = rig.on_bare.query_one("select count(*) from load", &[]).await?;
    if count.get::<_, i64>(0) == 0 {
        let old = read_rows(rig, &format!("id < {first_new}")).await?;
        write_rows(rig, old).await?;
    }
    let new = read_rows(rig, &format!("id >= {first_new}")).await?;
    rig.checkpoint().await?;
    let before = rig.cpu()?;
    let started = Instant::now();
    let rows = write_rows(rig, new).await?;
    Ok(Sample {
        rows: rows as f64,
        seconds: started.elapsed().as_secs_f64(),
        cpu: rig.cpu()? - before,
    })
}

async fn read_rows(rig: &Rig, which: &str) -> anyhow::Result<Vec<Bytes>> {
    let out = rig
        .on_provider
        .copy_out(&format!(
            "copy (select * from load where {which}) to stdout (format binary)"
        ))
        .await?;
    pin_mut!(out);
    let mut rows: Vec<Bytes> = Vec::new();
    let mut message = bytes::BytesMut::new();
    while let Some(row) = out.next().await {
        message.extend_from_slice(&row?);
        if message.len() > 128 * 1024 {
            rows.push(message.split().freeze());
        }
    }
    rows.push(message.freeze());
    Ok(rows)
}

async fn write_rows(rig: &Rig, rows: Vec<Bytes>) -> anyhow::Result<u64> {
    let sink = rig
        .on_bare
        .copy_in("copy load from stdin (format binary)")
        .await?;
    pin_mut!(sink);
    for message in rows {
        sink.feed(message).await?;
    }
    Ok(sink.finish().await?)
}
