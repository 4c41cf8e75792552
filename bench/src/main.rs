//! `bench/run`: Skytide beside PostgreSQL's own logical replication, on the same two servers, under the
//! same load, in turns. Prints tables and writes `bench/RESULTS.md`.

mod cpu;
mod figures;
mod load;
mod program;
mod report;
mod rig;
mod scenario;

use std::path::PathBuf;
use std::time::Instant;

use clap::Parser;

use report::Report;
use scenario::{Effort, Scenario};

/// Measure Skytide beside PostgreSQL's own logical replication
#[derive(Parser, Debug)]
#[command(after_help = "Results of scenarios that are not run now stay in RESULTS.md as they were.")]
struct Args {
    /// Smaller loads, one repetition
    #[arg(long)]
    quick: bool,
    /// Repetitions (3; with --quick 1)
    #[arg(long)]
    reps: Option<usize>,
    /// Where the results are kept between runs
    #[arg(long, default_value = "target/bench")]
    state: PathBuf,
    /// The page to write
    #[arg(long, default_value = "bench/RESULTS.md")]
    page: PathBuf,
    /// What to measure; everything if nothing is named
    scenarios: Vec<Scenario>,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let effort = Effort {
        quick: args.quick,
        reps: args.reps.unwrap_or(if args.quick { 1 } else { 3 }).max(1),
    };
    let chosen = match args.scenarios.as_slice() {
        [] => &Scenario::ALL[..],
        some => some,
    };
    let report = Report::new(args.state, args.page)?;
    let mut failed = Vec::new();
    for &scenario in chosen {
        eprintln!("== {}", scenario.title());
        let started = Instant::now();
        match scenario.run(effort).await {
            Ok(findings) => report.add(scenario, effort, &findings, started.elapsed())?,
            // The others can still be measured.
            Err(error) => {
                eprintln!("{} failed: {error:#}", scenario.name());
                failed.push(scenario.name());
            }
        }
    }
    anyhow::ensure!(failed.is_empty(), "failed: {}", failed.join(", "));
    Ok(())
}
