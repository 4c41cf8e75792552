//! Records, one a line.

use std::io::Write;

use serde_json::json;
use skytide_wal::Record;
use skytide_wal::commit::Outcome as Ending;
use skytide_wal::format::record::Fork;

use super::files::Flow;
use super::{Input, show_time};
use crate::cli::{Context as Program, Outcome};

pub fn run(
    input: &Input,
    limit: Option<u64>,
    as_json: bool,
    out: &mut impl Write,
    program: &Program,
) -> anyhow::Result<Outcome> {
    let (source, range) = input.open()?;
    let mut left = limit.unwrap_or(u64::MAX);
    let stop = source.records(range, |record| {
        if left == 0 {
            return Ok(Flow::Enough);
        }
        left -= 1;
        match as_json {
            true => writeln!(out, "{}", json_line(record))?,
            false => text_line(record, out)?,
        }
        Ok(Flow::Next)
    })?;
    out.flush()?;
    if let Some(why) = stop.describe() {
        program.output.note(&why);
    }
    Ok(if stop.is_damage() {
        Outcome::No
    } else {
        Outcome::Done
    })
}

/// The columns of `pg_waldump`.
fn text_line(record: &Record<'_>, out: &mut impl Write) -> std::io::Result<()> {
    let total = record.header.length;
    write!(
        out,
        "rmgr: {:<11} len (rec/tot): {:>6}/{total:>6}, tx: {:>10}, lsn: {}, prev {}, desc: {}",
        record.rmgr(),
        total - record.image_bytes(),
        record.xid(),
        record.lsn,
        record.header.previous,
        operation(record)
    )?;
    if let Some(end) = record.transaction_end() {
        if end.prepared {
            write!(out, " {}", end.xid)?;
        }
        write!(out, " {}", show_time(end.time))?;
    }
    for block in record.blocks() {
        write!(out, ", blkref #{}: rel {}", block.id, block.relation)?;
        if block.fork != Fork::MAIN {
            write!(out, " fork {}", block.fork.name())?;
        }
        write!(out, " blk {}", block.block)?;
        if block.image.is_some() {
            write!(out, " FPW")?;
        }
    }
    writeln!(out)
}

fn operation(record: &Record<'_>) -> String {
    let unknown = || format!("UNKNOWN ({:02X})", record.header.info & 0xF0);
    record.operation().map_or_else(unknown, str::to_owned)
}

fn json_line(record: &Record<'_>) -> serde_json::Value {
    let blocks: Vec<_> = record
        .blocks()
        .iter()
        .map(|block| {
            json!({
                "id": block.id,
                "relation": block.relation.to_string(),
                "fork": block.fork.name(),
                "block": block.block,
                "data_bytes": block.data.len(),
                "image_bytes": block.image.map(|image| image.bytes.len()),
            })
        })
        .collect();
    let mut value = json!({
        "rmgr": record.rmgr().to_string(),
        "operation": operation(record),
        "lsn": record.lsn.to_string(),
        "end_lsn": record.end_lsn.to_string(),
        "prev": record.header.previous.to_string(),
        "xid": record.xid().as_u32(),
        "length": record.header.length,
        "image_bytes": record.image_bytes(),
        "blocks": blocks,
    });
    if let Some(end) = record.transaction_end() {
        value["transaction"] = json!({
            "xid": end.xid.as_u32(),
            "committed": end.outcome == Ending::Committed,
            "prepared": end.prepared,
            "time": show_time(end.time),
            "subtransactions": end.subtransactions,
        });
    }
    value
}
