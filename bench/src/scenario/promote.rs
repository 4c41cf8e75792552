//! Promotion: `skytide dev drill promote`, several times, and what of it is PostgreSQL's own part.

use anyhow::Context;
use serde_json::Value;

use super::Effort;
use crate::figures::{Findings, Verdict, median};
use crate::program::Program;

struct Way {
    name: &'static str,
    words: &'static [&'static str],
    /// Whether the time beyond PostgreSQL's own is ours. In a switchover most of it is the old server's shutdown.
    marked: bool,
}

const WAYS: [Way; 3] = [
    Way {
        name: "killed, its disk is there",
        words: &[],
        marked: true,
    },
    Way {
        name: "killed, its disk is lost",
        words: &["--lose-disk"],
        marked: true,
    },
    Way {
        name: "switchover",
        words: &["--switchover"],
        marked: false,
    },
];

/// Milliseconds, and commits.
struct Run {
    server: f64,
    until_writes: f64,
    unavailable: f64,
    lost: f64,
    loss_ms: f64,
}

impl Run {
    fn read(report: &Value) -> anyhow::Result<Run> {
        let figure = |name: &str| {
            report[name]
                .as_f64()
                .with_context(|| format!("the drill says no {name}"))
        };
        Ok(Run {
            server: figure("server_ms")?,
            until_writes: figure("until_writes_ms")?,
            unavailable: figure("unavailable_ms")?,
            lost: figure("lost")?,
            loss_ms: figure("loss_window_ms")?,
        })
    }

    fn own(&self) -> f64 {
        self.until_writes - self.server
    }
}

pub async fn run(effort: Effort) -> anyhow::Result<Findings> {
    let program = Program::find()?;
    let rounds = if effort.quick { 1 } else { effort.reps.max(5) };
    let mut findings = Findings::default();
    findings.note(format!(
        "Four clients commit for 3 s, then the primary is killed with its postmaster, or stopped; the best of two standbys is \
         promoted. Medians of {rounds}, ms. PostgreSQL: from the promotion's order to the end of recovery. Ours: everything \
         else from the command's start to a committed transaction, that is asking all nodes, reading their disks, bringing what \
         is missing, and the write itself; in a switchover also the old server's shutdown. Lost: commits that a client had been told of, the most of all runs; replication is \
         asynchronous."
    ));
    let mut rows = Vec::new();
    for Way { name, words, marked } in WAYS {
        let mut runs = Vec::new();
        for _ in 0..rounds {
            let drill = ["--json", "dev", "drill", "promote", "--seconds", "3"];
            let said = program.run(&[&drill, words].concat()).await?;
            runs.push(Run::read(&serde_json::from_str(&said)?)?);
        }
        let of = |part: fn(&Run) -> f64| median(&runs.iter().map(part).collect::<Vec<_>>());
        let most = |part: fn(&Run) -> f64| runs.iter().map(part).fold(0.0, f64::max);
        rows.push(vec![
            name.to_owned(),
            format!("{:.0}", of(|run| run.server)),
            format!("{:.0}", of(Run::own)),
            format!("{:.0}", of(|run| run.until_writes)),
            format!("{:.0}", of(|run| run.unavailable)),
            format!("{:.0}", most(|run| run.lost)),
            format!("{:.1}", most(|run| run.loss_ms)),
        ]);
        findings.verdicts.extend(marked.then(|| {
            let what = format!("promotion, {name}: beyond PostgreSQL's own time, the longest");
            Verdict::at_most(what, 1000.0, most(Run::own), "ms")
        }));
    }
    findings.table(
        &[
            "primary",
            "PostgreSQL",
            "ours",
            "command to first write",
            "clients without a primary",
            "lost",
            "loss window",
        ],
        &rows,
    );
    Ok(findings)
}
