//! `compare`.

use std::time::Duration;

use clap::Args;
use skytide_sql::TableName;

use super::super::failure::Failure;
use super::super::output::OutputMode;
use super::super::{Context, Outcome};
use super::{Node, choose, info, local_tables, provider};
use crate::compare::{Pair, Sides, TableResult, freeze};
use crate::table::MergeState;
use crate::table::registry::provider_tables;

#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  skytide londiste leaf.ini compare
  skytide londiste leaf.ini compare public.orders --json")]
pub struct CompareArgs {
    /// Tables; * and ? match. Default: all that are in sync.
    pub tables: Vec<String>,
    /// How long the worker may take to reach the compared tick, in seconds.
    #[arg(long, default_value_t = 60, value_name = "SECONDS")]
    pub patience: u64,
}

#[derive(serde::Serialize)]
struct Answer<'a> {
    tick: i64,
    equal: bool,
    tables: &'a [TableResult],
}

pub async fn run(node: &Node, args: &CompareArgs, context: &Context) -> anyhow::Result<Outcome> {
    let info = info(node).await?;
    if info.node_type == "root" {
        return Err(Failure::usage("a root has no provider to compare with")
            .hint("run it with a leaf's configuration")
            .into());
    }
    let queue = &node.settings.queue_name;
    let mut synced = Vec::new();
    let mut not_synced = Vec::new();
    for table in local_tables(node).await? {
        let state = MergeState::parse(table.merge_state.as_deref())?;
        if state != MergeState::Ok {
            not_synced.push((TableName::parse(&table.table_name)?, state));
        }
        if state == MergeState::Ok {
            synced.push(table);
        } else if args.tables.is_empty() {
            context.output.warn(&format!(
                "table {} is not in sync yet and is left out",
                table.table_name
            ));
        }
    }
    let names: Vec<TableName> = synced
        .iter()
        .map(|t| TableName::parse(&t.table_name))
        .collect::<Result<_, _>>()?;
    let chosen = if args.tables.is_empty() {
        names
    } else {
        refuse_not_synced(&args.tables, &names, &not_synced)?;
        choose(&args.tables, &names)?
    };
    if chosen.is_empty() {
        return Err(Failure::new("no table is in sync: there is nothing to compare")
            .hint("skytide londiste CONF status shows the tables; wait-sync waits for their copies")
            .into());
    }
    let (target, upstream) = provider(node, &info).await?;
    let upstream_tables = provider_tables(&upstream, queue).await?;
    let mut pairs = Vec::new();
    for table in chosen {
        let here = synced.iter().find(|t| t.table_name == table.to_string());
        let dest = here
            .and_then(|t| t.dest_table.as_deref())
            .map(TableName::parse)
            .transpose()?;
        let source = upstream_tables
            .iter()
            .find(|(name, _)| *name == table)
            .map(|(_, there)| there.clone());
        pairs.push(Pair {
            source: source.unwrap_or_else(|| table.clone()),
            dest: dest.unwrap_or_else(|| table.clone()),
            table,
        });
    }
    let name = format!("{} compare", node.settings.process.job_name);
    let sides = Sides {
        provider: &target,
        subscriber: &node.db,
        application_name: &name,
        queue,
        worker: info.worker_name.as_deref().unwrap_or_default(),
        patience: Duration::from_secs(args.patience),
    };
    let frozen = freeze(&sides, &pairs).await?;
    let mut results = Vec::new();
    for pair in &pairs {
        results.push(frozen.compare(pair).await?);
    }
    for result in results.iter().filter(|r| !r.left_out.is_empty()) {
        context.output.warn(&format!(
            "table {}: only one side has {}; not compared",
            result.table,
            result.left_out.join(", ")
        ));
    }
    let equal = results.iter().all(|r| r.equal);
    let answer = Answer {
        tick: frozen.tick.get(),
        equal,
        tables: &results,
    };
    if context.output.mode() == OutputMode::Json {
        context.output.json(&answer)?;
    } else {
        context.output.rows(
            &["table", "rows", "checksum", "rows here", "checksum here", "equal"],
            &results,
            |r| {
                let (there, here) = (&r.provider, &r.subscriber);
                vec![
                    r.table.clone(),
                    there.rows.to_string(),
                    there.checksum.clone(),
                    here.rows.to_string(),
                    here.checksum.clone(),
                    if r.equal { "yes".into() } else { "NO".into() },
                ]
            },
        )?;
        let verdict = if equal { "equal" } else { "DIFFERENT" };
        context.output.line(format!(
            "{} tables at tick {}: {verdict}",
            results.len(),
            frozen.tick
        ))?;
    }
    Ok(if equal { Outcome::Done } else { Outcome::No })
}

/// A name that only tables have whose copy is not done.
fn refuse_not_synced(
    patterns: &[String],
    synced: &[TableName],
    not_synced: &[(TableName, MergeState)],
) -> anyhow::Result<()> {
    for pattern in patterns {
        let one = std::slice::from_ref(pattern);
        if choose(one, synced).is_ok() {
            continue;
        }
        let names: Vec<TableName> = not_synced.iter().map(|(table, _)| table.clone()).collect();
        if let Ok(found) = choose(one, &names) {
            let states = not_synced.iter().filter(|(table, _)| found.contains(table));
            let states: Vec<String> = states.map(|(t, state)| format!("{t} ({state})")).collect();
            return Err(Failure::new(format!("not in sync yet: {}", states.join(", ")))
                .hint("skytide londiste CONF wait-sync waits for their copies; status shows how far they are")
                .into());
        }
    }
    Ok(())
}
