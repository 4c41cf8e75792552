//! What following a database costs those who write to it.

use anyhow::Context;

use super::Effort;
use crate::figures::{Findings, median, spread, thousands};
use crate::load::{self, TABLES, Table};
use crate::rig::{PROVIDER_DB, Rig};

const KEYS: i32 = 500_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Follower {
    Nobody,
    /// Capture into the spool; apply rests, as it would on another machine.
    Skytide,
    Native,
    /// Events written by a capture trigger; nobody reads them.
    Trigger {
        function: &'static str,
        compiled: bool,
    },
}

impl Follower {
    const ALL: [Follower; 6] = [
        Follower::Nobody,
        Follower::Skytide,
        Follower::Native,
        Follower::Trigger {
            function: "jsontriga",
            compiled: true,
        },
        Follower::Trigger {
            function: "logutriga",
            compiled: true,
        },
        Follower::Trigger {
            function: "jsontriga",
            compiled: false,
        },
    ];

    fn name(self) -> String {
        match self {
            Follower::Nobody => "nobody follows".into(),
            Follower::Skytide => "skytide captures".into(),
            Follower::Native => "native replicates (and applies)".into(),
            Follower::Trigger { function, compiled } => {
                let how = if compiled {
                    "compiled for the table"
                } else {
                    "general"
                };
                format!("trigger {function}, {how}")
            }
        }
    }
}

pub async fn run(effort: Effort) -> anyhow::Result<Findings> {
    let seconds = effort.size(8, 5);
    let mut rig = Rig::new(load::SCHEMA, "").await?;
    Table::fill(&rig, KEYS).await?;
    rig.follow(&TABLES).await?;
    rig.set_native(false).await?;
    rig.pause_apply(true).await?;
    let script = rig.path("load.pgbench");
    std::fs::write(
        &script,
        format!(
            "\\set k random(1, {KEYS})\n\
             update load set a = a + 1, v = 'a changed row ' || :k where id = :k;\n"
        ),
    )?;
    rig.on_provider
        .batch_execute("select pgq.create_queue('captured')")
        .await?;
    let mut rates: Vec<(Follower, Vec<f64>)> = Follower::ALL.map(|f| (f, Vec::new())).into();
    for _ in 0..effort.reps {
        for (follower, seen) in &mut rates {
            match follower {
                Follower::Nobody => rig.stop_worker().await?,
                Follower::Skytide => rig.start_worker()?,
                Follower::Native => {
                    rig.stop_worker().await?;
                    rig.set_native(true).await?;
                }
                Follower::Trigger { function, compiled } => {
                    rig.stop_worker().await?;
                    rig.on_provider
                        .batch_execute(&format!(
                            "create trigger capture after insert or update or delete on load \
                             for each row execute function pgq.{function}('captured')"
                        ))
                        .await?;
                    if *compiled {
                        let compile = "select pgq.compile_trigger('load', 'capture')";
                        let done: bool = rig.on_provider.query_one(compile, &[]).await?.get(0);
                        anyhow::ensure!(done, "the trigger was not compiled");
                    }
                }
            }
            let mark = rig.mark().await?;
            match follower {
                Follower::Nobody | Follower::Trigger { .. } => {}
                Follower::Skytide => rig.wait_spooled().await?,
                Follower::Native => rig.wait_mark(crate::rig::Peer::Native, mark).await?,
            }
            rig.checkpoint().await?;
            seen.push(transactions(&rig, &script, seconds).await?);
            match follower {
                Follower::Native => rig.set_native(false).await?,
                Follower::Trigger { .. } => {
                    rig.on_provider
                        .batch_execute("drop trigger capture on load")
                        .await?
                }
                Follower::Nobody | Follower::Skytide => {}
            }
        }
    }
    let mut findings = Findings::default();
    findings.note(format!(
        "Single-row updates by 8 clients for {seconds} s, commits wait for the disk, wal_level = logical in all cases. \
         Reader and writers share the processors, so this is CPU taken from users as well as their own extra work. \
         Triggers write an event a row into a queue that nobody reads."
    ));
    let nobody = rates.first().map(|(_, r)| r.clone()).unwrap_or_default();
    let lines: Vec<Vec<String>> = rates
        .iter()
        .map(|(follower, seen)| {
            let ratios: Vec<f64> = seen.iter().zip(&nobody).map(|(a, b)| a / b).collect();
            vec![follower.name(), thousands(median(seen)), spread(&ratios)]
        })
        .collect();
    findings.table(
        &["who follows", "transactions/s", "÷ nobody, min / median / max"],
        &lines,
    );
    Ok(findings)
}

async fn transactions(rig: &Rig, script: &std::path::Path, seconds: i32) -> anyhow::Result<f64> {
    let mut command = rig.provider.command("pgbench");
    command
        .args([
            "-n",
            "-c",
            "8",
            "-M",
            "prepared",
            "-T",
            &seconds.to_string(),
            "-f",
        ])
        .arg(script)
        .arg(PROVIDER_DB);
    let out = tokio::process::Command::from(command).output().await?;
    let text = String::from_utf8_lossy(&out.stdout);
    let tps = text
        .lines()
        .find_map(|l| l.strip_prefix("tps = ")?.split_whitespace().next()?.parse().ok());
    tps.with_context(|| format!("pgbench: {}", String::from_utf8_lossy(&out.stderr)))
}
