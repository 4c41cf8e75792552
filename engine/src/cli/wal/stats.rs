//! Who wrote the WAL.

use std::io::Write;

use serde_json::{Value, json};
use skytide_wal::stats::{Share, WalStats};

use super::files::Flow;
use super::{Input, show_time};
use crate::cli::output::table;
use crate::cli::{Context as Program, Outcome};

const HEADER: [&str; 6] = ["", "records", "record bytes", "images", "image bytes", "share"];

pub fn run(
    input: &Input,
    limit: usize,
    as_json: bool,
    out: &mut impl Write,
    program: &Program,
) -> anyhow::Result<Outcome> {
    let (source, range) = input.open()?;
    let mut stats = WalStats::new();
    let stop = source.records(range, |record| {
        stats.add(record);
        Ok(Flow::Next)
    })?;
    let mut relations = stats.relations();
    let (all, more) = (relations.len(), relations.len().saturating_sub(limit));
    relations.truncate(limit);
    let times = stats.commits.first.zip(stats.commits.last);
    if as_json {
        let named = |name: String, share: &Share| {
            let mut value = share_json(share);
            value["name"] = json!(name);
            value
        };
        let rmgrs: Vec<_> = stats
            .rmgrs()
            .map(|(rmgr, share)| named(rmgr.to_string(), share))
            .collect();
        let files: Vec<_> = relations
            .iter()
            .map(|(file, share)| named(file.to_string(), share))
            .collect();
        let report = json!({
            "total": share_json(&stats.total),
            "rmgrs": rmgrs,
            "relations": files,
            "relations_total": all,
            "commits": stats.commits.committed,
            "aborts": stats.commits.aborted,
            "first_commit": times.map(|(first, _)| show_time(first)),
            "last_commit": times.map(|(_, last)| show_time(last)),
            "stopped": stop.describe(),
        });
        writeln!(out, "{report}")?;
    } else {
        let row = |name: String, share: &Share| {
            let all = stats.total.bytes().max(1);
            vec![
                name,
                share.records.to_string(),
                share.record_bytes.to_string(),
                share.images.to_string(),
                share.image_bytes.to_string(),
                format!("{:.1} %", share.bytes() as f64 * 100.0 / all as f64),
            ]
        };
        let rmgrs = stats.rmgrs().map(|(rmgr, share)| row(rmgr.to_string(), share));
        let total = [row("all".to_owned(), &stats.total)];
        writeln!(out, "{}\n", table(&HEADER, rmgrs.chain(total)))?;
        let files = relations.iter().map(|(file, share)| row(file.to_string(), share));
        writeln!(out, "{}", table(&HEADER, files))?;
        if more > 0 {
            writeln!(out, "and {more} relations more")?;
        }
        let aborts = stats.commits.aborted;
        write!(out, "{} commits, {aborts} aborts", stats.commits.committed)?;
        match times {
            Some((first, last)) => writeln!(out, ", {} to {}", show_time(first), show_time(last))?,
            None => writeln!(out)?,
        }
    }
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

fn share_json(share: &Share) -> Value {
    json!({
        "records": share.records,
        "record_bytes": share.record_bytes,
        "images": share.images,
        "image_bytes": share.image_bytes,
    })
}
