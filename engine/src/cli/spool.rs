//! `skytide spool`: look into a spool directory without a worker or a database.

use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::output::OutputMode;
use super::{Context as Program, Outcome};
use crate::change::record::{Record, Records};
use crate::spool::{Block, Entry, PartRef, Spool, SpoolError, SpoolPos};

/// Look into a spool directory, offline.
///
/// Reads the files of a spool as they are, beside a running worker or without one, and changes nothing.
#[derive(Args, Debug)]
pub struct SpoolArgs {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Check every byte that is kept
    ///
    /// Checks each frame's checksum, decompresses each block and parses each row record. Exits with 3 if
    /// something is corrupt.
    #[command(
        after_help = "Examples:\n  skytide spool verify /var/lib/skytide/q1\n  skytide spool verify --json ."
    )]
    Verify {
        /// The spool's directory
        dir: PathBuf,
    },
    /// Print what the spool holds, one entry a line
    ///
    /// Shows transactions, parts, ticks and table shapes, never row values.
    #[command(
        after_help = "Examples:\n  skytide spool dump /var/lib/skytide/q1\n  skytide spool dump --json --limit 100 ."
    )]
    Dump {
        /// The spool's directory
        dir: PathBuf,
        /// Stop after so many entries
        #[arg(long, value_name = "N")]
        limit: Option<u64>,
    },
}

/// Does what the arguments say; output goes to stdout.
pub fn run(args: SpoolArgs, program: &Program) -> anyhow::Result<Outcome> {
    let json = program.output.mode() == OutputMode::Json;
    let mut out = BufWriter::new(io::stdout().lock());
    let outcome = match args.command {
        Command::Verify { dir } => verify(&dir, json, &mut out),
        Command::Dump { dir, limit } => dump(&dir, json, limit, &mut out).map(|()| Outcome::Done),
    };
    let outcome = outcome.and_then(|code| Ok(out.flush().map(|()| code)?));
    match outcome {
        // Whoever reads has seen enough.
        Err(e) if e.downcast_ref::<io::Error>().is_some_and(is_closed_pipe) => Ok(Outcome::Done),
        other => other,
    }
}

fn is_closed_pipe(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::BrokenPipe
}

#[derive(Default)]
struct Counts {
    blocks: u64,
    compressed: u64,
    stored_bytes: u64,
    row_bytes: u64,
    transactions: u64,
    parts: u64,
    ticks: u64,
    relations: u64,
    changes: u64,
}

fn verify(dir: &Path, json: bool, out: &mut impl Write) -> anyhow::Result<Outcome> {
    let mut counts = Counts::default();
    let outcome = check(dir, &mut counts);
    let (spool, error) = match outcome {
        Ok(spool) => (Some(spool), None),
        Err(e) if is_corrupt(&e) => (None, Some(e)),
        Err(e) => return Err(e),
    };
    let facts = spool.as_ref().map(|spool| (spool.identity(), spool.stats()));
    if json {
        let mut report = json!({
            "dir": dir.display().to_string(),
            "ok": error.is_none(),
            "error": error.as_ref().map(ToString::to_string),
            "blocks": counts.blocks,
            "compressed_blocks": counts.compressed,
            "stored_bytes": counts.stored_bytes,
            "row_bytes": counts.row_bytes,
            "transactions": counts.transactions,
            "parts": counts.parts,
            "ticks": counts.ticks,
            "relations": counts.relations,
            "changes": counts.changes,
        });
        if let Some((identity, stats)) = facts {
            report["system_id"] = json!(identity.system_id.to_string());
            report["timeline"] = json!(identity.timeline);
            report["database"] = json!(identity.database);
            report["slot"] = json!(identity.slot.as_str());
            report["queue"] = json!(identity.queue.as_str());
            report["segments"] = json!(stats.segments);
            report["begin"] = json!(stats.begin.as_u64());
            report["end"] = json!(stats.end.as_u64());
            report["end_lsn"] = json!(stats.durable_lsn.to_string());
            report["last_tick"] = json!(stats.last_tick.map(|t| t.get()));
        }
        writeln!(out, "{report}")?;
    } else {
        if let Some((identity, stats)) = facts {
            writeln!(
                out,
                "queue {} of database {}, slot {}, system {}, timeline {}",
                identity.queue, identity.database, identity.slot, identity.system_id, identity.timeline
            )?;
            let tick = stats.last_tick.map_or("none".to_owned(), |t| t.to_string());
            writeln!(
                out,
                "{} segments, {} to {}, end LSN {}, last tick {tick}",
                stats.segments, stats.begin, stats.end, stats.durable_lsn
            )?;
        }
        writeln!(
            out,
            "{} blocks ({} compressed), {} bytes stored, {} bytes of rows",
            counts.blocks, counts.compressed, counts.stored_bytes, counts.row_bytes
        )?;
        writeln!(
            out,
            "{} transactions, {} parts, {} ticks, {} relations, {} changes",
            counts.transactions, counts.parts, counts.ticks, counts.relations, counts.changes
        )?;
        match &error {
            None => writeln!(out, "ok")?,
            Some(e) => writeln!(out, "CORRUPT: {e}")?,
        }
    }
    Ok(if error.is_none() {
        Outcome::Done
    } else {
        Outcome::No
    })
}

fn is_corrupt(error: &anyhow::Error) -> bool {
    let spool = matches!(error.downcast_ref(), Some(SpoolError::Corrupt { .. }));
    spool || error.downcast_ref::<BadRows>().is_some()
}

/// A frame is whole, but the row records in it are not.
#[derive(Debug, thiserror::Error)]
#[error("rows at {offset}+{len} of block {block} do not parse: {what}")]
struct BadRows {
    block: SpoolPos,
    offset: u32,
    len: u32,
    what: String,
}

fn check(dir: &Path, counts: &mut Counts) -> anyhow::Result<std::sync::Arc<Spool>> {
    let spool = Spool::open_read_only(dir)?;
    let mut reader = spool.reader(spool.begin());
    while let Some(block) = reader.next_block()? {
        counts.blocks += 1;
        counts.compressed += u64::from(block.is_compressed());
        counts.stored_bytes += block.stored_len() as u64;
        counts.row_bytes += block.raw_len() as u64;
        for entry in block.entries() {
            match entry? {
                Entry::Relation { .. } => counts.relations += 1,
                Entry::Transaction { rows, .. } => {
                    counts.transactions += 1;
                    counts.changes += check_rows(&spool, &block, &rows)?;
                }
                Entry::Part { rows, .. } => {
                    counts.parts += 1;
                    counts.changes += check_rows(&spool, &block, &rows)?;
                }
                Entry::Commit { .. } => counts.transactions += 1,
                Entry::Tick(_) => counts.ticks += 1,
                Entry::Abort { .. } | Entry::Session { .. } | Entry::Progress { .. } => {}
            }
        }
    }
    Ok(spool)
}

/// Parses row records and looks up what they refer to.
fn check_rows(spool: &Spool, block: &Block, part: &PartRef) -> anyhow::Result<u64> {
    use crate::change::RowChange;
    let bad = |what: String| BadRows {
        block: part.block,
        offset: part.offset,
        len: part.len,
        what,
    };
    let mut records = Records::new(block.rows(part)?);
    let mut changes = 0;
    while let Some(record) = records.next_record().map_err(|e| bad(e.to_string()))? {
        let Record::Change(change) = record else { continue };
        changes += 1;
        let known = match &change {
            RowChange::Insert { relation, .. }
            | RowChange::Update { relation, .. }
            | RowChange::Delete { relation, .. } => spool.relation(*relation).is_some(),
            RowChange::Truncate { relations, .. } => relations.iter().all(|r| spool.relation(*r).is_some()),
        };
        if !known {
            bail!(bad("a relation that the spool does not declare".to_owned()));
        }
    }
    Ok(changes)
}

fn dump(dir: &Path, json: bool, limit: Option<u64>, out: &mut impl Write) -> anyhow::Result<()> {
    let spool = Spool::open_read_only(dir).context("open spool")?;
    let mut reader = spool.reader(spool.begin());
    let mut left = limit.unwrap_or(u64::MAX);
    while let Some(block) = reader.next_block()? {
        for entry in block.entries() {
            if left == 0 {
                return Ok(());
            }
            left -= 1;
            let entry = entry?;
            if json {
                writeln!(out, "{}", as_json(&spool, &block, &entry))?;
            } else {
                writeln!(out, "{} {}", block.position(), as_text(&spool, &entry))?;
            }
        }
    }
    Ok(())
}

fn table(spool: &Spool, id: crate::change::RelationId) -> String {
    spool.relation(id).map_or("?".to_owned(), |r| r.table.to_string())
}

fn as_text(spool: &Spool, entry: &Entry<'_>) -> String {
    match entry {
        Entry::Relation { id, .. } => format!("relation {} {}", id.0, table(spool, *id)),
        Entry::Transaction {
            head,
            rows,
            row_count,
        } => format!(
            "transaction {} commit {} end {} rows {row_count} bytes {}",
            head.xid, head.commit_lsn, head.end_lsn, rows.len
        ),
        Entry::Part { xid, rows, row_count } => {
            format!(
                "part of {xid} at {} rows {row_count} bytes {}",
                rows.offset, rows.len
            )
        }
        Entry::Commit {
            head,
            parts,
            aborted,
            row_count,
            bytes,
        } => format!(
            "commit {} commit {} end {} parts {} aborted {aborted:?} rows {row_count} bytes {bytes}",
            head.xid,
            head.commit_lsn,
            head.end_lsn,
            parts.len()
        ),
        Entry::Abort { xid } => format!("abort {xid}"),
        Entry::Tick(tick) => format!(
            "tick {} after {} event_seq {} snapshot {}{}",
            tick.tick_id,
            tick.previous.map_or("none".to_owned(), |t| t.to_string()),
            tick.event_seq,
            tick.snapshot,
            if tick.barrier { " barrier" } else { "" }
        ),
        Entry::Session { from_lsn } => format!("session from {from_lsn}"),
        Entry::Progress { lsn } => format!("progress {lsn}"),
    }
}

fn as_json(spool: &Spool, block: &Block, entry: &Entry<'_>) -> Value {
    let mut value = match entry {
        Entry::Relation { id, .. } => json!({"entry": "relation", "id": id.0, "table": table(spool, *id)}),
        Entry::Transaction {
            head,
            rows,
            row_count,
        } => json!({
            "entry": "transaction", "xid": head.xid.as_u32(), "commit_lsn": head.commit_lsn.to_string(),
            "end_lsn": head.end_lsn.to_string(), "commit_time": head.commit_time,
            "rows": row_count, "bytes": rows.len,
        }),
        Entry::Part { xid, rows, row_count } => json!({
            "entry": "part", "xid": xid.as_u32(), "offset": rows.offset, "bytes": rows.len, "rows": row_count,
        }),
        Entry::Commit {
            head,
            parts,
            aborted,
            row_count,
            bytes,
        } => json!({
            "entry": "commit", "xid": head.xid.as_u32(), "commit_lsn": head.commit_lsn.to_string(),
            "end_lsn": head.end_lsn.to_string(), "commit_time": head.commit_time, "parts": parts.len(),
            "aborted": aborted.iter().map(|x| x.as_u32()).collect::<Vec<_>>(), "rows": row_count, "bytes": bytes,
        }),
        Entry::Abort { xid } => json!({"entry": "abort", "xid": xid.as_u32()}),
        Entry::Tick(tick) => json!({
            "entry": "tick", "tick": tick.tick_id.get(), "previous": tick.previous.map(|t| t.get()),
            "time": tick.time, "event_seq": tick.event_seq, "snapshot": tick.snapshot.to_string(),
            "barrier": tick.barrier,
        }),
        Entry::Session { from_lsn } => json!({"entry": "session", "from_lsn": from_lsn.to_string()}),
        Entry::Progress { lsn } => json!({"entry": "progress", "lsn": lsn.to_string()}),
    };
    value["block"] = json!(block.position().as_u64());
    value
}
