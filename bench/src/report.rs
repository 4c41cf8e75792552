//! Keeps each scenario's results, prints them, and writes the page.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::Context;
use serde::{Deserialize, Serialize};

use crate::figures::{Findings, Verdict};
use crate::scenario::{Effort, Scenario};

/// Why a mark is missed, as far as it is known: the page shows it beside the figure.
const REASONS: &str = "reasons.md";
/// What holds for every scenario that does not say something else.
const SETTINGS: &str = "PostgreSQL on both sides with shared_buffers 1 GB, max_wal_size 8 GB, fsync on, autovacuum off; \
     release builds; clients and servers share the processors. Native: binary = on, streaming = on, \
     synchronous_commit = off. Ours: apply_synchronous_commit = off, everything else as it comes. Each section names the \
     machine it was measured on, unless it is older than that; they differ by more than three times in speed, so only \
     what stands in one section can be compared.\n\n";
/// How the line of a mark that is missed begins.
const MISSED: &str = "- **missed**";

#[derive(Serialize, Deserialize)]
struct Entry {
    at: String,
    command: String,
    seconds: u64,
    /// Where it was measured and what; empty in entries of before.
    #[serde(default)]
    machine: String,
    text: String,
    verdicts: Vec<Verdict>,
}

pub struct Report {
    state: PathBuf,
    page: PathBuf,
}

impl Report {
    pub fn new(state: PathBuf, page: PathBuf) -> anyhow::Result<Report> {
        fs::create_dir_all(&state).with_context(|| format!("make {}", state.display()))?;
        Ok(Report { state, page })
    }

    /// Stores what a scenario found, prints it, and writes the page anew.
    pub fn add(
        &self,
        scenario: Scenario,
        effort: Effort,
        findings: &Findings,
        took: Duration,
    ) -> anyhow::Result<()> {
        let quick = if effort.quick { " --quick" } else { "" };
        let entry = Entry {
            at: jiff::Timestamp::now().strftime("%Y-%m-%d %H:%M UTC").to_string(),
            command: format!("bench/run{quick} --reps {} {}", effort.reps, scenario.name()),
            seconds: took.as_secs(),
            machine: machine(),
            text: findings.text.clone(),
            verdicts: findings.verdicts.clone(),
        };
        println!("{}", entry.text);
        for verdict in &entry.verdicts {
            println!("{}", line(verdict));
        }
        println!();
        fs::write(self.file(scenario), serde_json::to_string_pretty(&entry)?)?;
        self.write_page()
    }

    fn file(&self, scenario: Scenario) -> PathBuf {
        self.state.join(format!("{}.json", scenario.name()))
    }

    fn write_page(&self) -> anyhow::Result<()> {
        let mut page = String::from(
            "# Results\n\nWritten by `bench/run`; see `bench/README.md` for what is measured and how.\n\n",
        );
        page.push_str(SETTINGS);
        // Measured where this state is not: the page itself has it.
        let before = fs::read_to_string(&self.page).unwrap_or_default();
        let mut sections = String::new();
        for scenario in Scenario::ALL {
            match fs::read_to_string(self.file(scenario)) {
                Ok(text) => sections.push_str(&section(scenario, &serde_json::from_str(&text)?)),
                Err(_) => sections.extend(section_of(&before, scenario.title())),
            }
        }
        let missed = sections.lines().filter(|line| line.starts_with(MISSED));
        let missed: String = missed.map(|line| format!("{line}\n")).collect();
        page.push_str(&sections);
        page.push_str("## Missed marks\n\n");
        page.push_str(if missed.is_empty() { "None.\n" } else { &missed });
        if let Ok(reasons) = fs::read_to_string(self.page.with_file_name(REASONS)) {
            page.push('\n');
            page.push_str(&reasons);
        }
        fs::write(&self.page, page).with_context(|| format!("write {}", self.page.display()))
    }
}

fn section(scenario: Scenario, entry: &Entry) -> String {
    let verdicts: String = entry
        .verdicts
        .iter()
        .map(|verdict| format!("{}\n", line(verdict)))
        .collect();
    let machine = match entry.machine.as_str() {
        "" => String::new(),
        machine => format!(", {machine}"),
    };
    format!(
        "## {}\n\n`{}`, {}, {} s{machine}\n\n{}{verdicts}\n",
        scenario.title(),
        entry.command,
        entry.at,
        entry.seconds,
        entry.text
    )
}

/// A section of a page that was written before, up to the next one.
fn section_of<'a>(page: &'a str, title: &str) -> Option<&'a str> {
    let (before, _) = page.split_once(&format!("\n## {title}\n"))?;
    let section = page.get(before.len() + 1..)?;
    let end = section.find("\n## ").map_or(section.len(), |end| end + 1);
    section.get(..end)
}

fn line(verdict: &Verdict) -> String {
    let word = if verdict.met { "- met" } else { MISSED };
    format!(
        "{word}: {} — {} (mark {})",
        verdict.what, verdict.seen, verdict.wanted
    )
}

/// The versions and the machine.
fn machine() -> String {
    let cpus = std::thread::available_parallelism().map_or(0, usize::from);
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let cpuinfo = read("/proc/cpuinfo");
    let model = cpuinfo
        .lines()
        .find_map(|l| l.strip_prefix("model name")?.split_once(": "))
        .map_or("unknown", |(_, name)| name);
    let meminfo = read("/proc/meminfo");
    let memory = meminfo
        .lines()
        .find_map(|l| {
            l.strip_prefix("MemTotal:")?
                .split_whitespace()
                .next()?
                .parse::<u64>()
                .ok()
        })
        .unwrap_or(0);
    let kernel = read("/proc/sys/kernel/osrelease");
    let postgres = skytide_fixtures::versions::find(&skytide_fixtures::versions::Search::from_env(None))
        .map_or("unknown".to_owned(), |b| b.version.to_string());
    let commit = Command::new("git")
        .args(["rev-parse", "--short", "HEAD"])
        .output()
        .map(|o| String::from_utf8_lossy(&o.stdout).trim().to_owned())
        .unwrap_or_default();
    format!(
        "Skytide {} at {commit}, PostgreSQL {postgres}, {cpus} processors ({model}), {} GiB, Linux {}",
        env!("CARGO_PKG_VERSION"),
        memory / (1 << 20),
        kernel.trim(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_section_that_was_measured_elsewhere_is_found() {
        let page = "# Results\n\n## One\n\ntext\n\n## One more\n\n- met: it\n\n## Last\n\nend\n";
        assert_eq!(section_of(page, "One"), Some("## One\n\ntext\n\n"));
        assert_eq!(section_of(page, "One more"), Some("## One more\n\n- met: it\n\n"));
        assert_eq!(section_of(page, "Last"), Some("## Last\n\nend\n"));
        assert_eq!(section_of(page, "On"), None);
    }
}
