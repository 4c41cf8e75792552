//! `status`: the nodes of the set, how far behind they are, and why.

use clap::Args;
use skytide_sql::api::pgq_node;
use skytide_sql::conn::{Session, connect};
use skytide_sql::{QueueName, SlotName, TableName};
use tokio_postgres::Client;

use super::super::output::OutputMode;
use super::super::{Context, Outcome};
use super::{Node, info, local_tables};
use crate::capture::{CaptureError, slot};
use crate::copy::CopyJob;
use crate::spool::Spool;
use crate::table::MergeState;
use crate::table::registry::provider_tables;
use crate::worker::start::default_slot_name;

#[derive(Args, Debug)]
pub struct StatusArgs {}

#[derive(serde::Serialize)]
struct NodeStatus {
    name: String,
    kind: String,
    provider: Option<String>,
    /// The last completed tick; on a root the newest one.
    tick: Option<i64>,
    /// How old that tick is.
    lag_seconds: Option<f64>,
    /// How many ticks of the root are not applied here.
    ticks_behind: Option<i64>,
    /// Events between the completed tick and the root's newest, by the queue's sequence. Captured tables
    /// do not move it.
    events_behind: Option<i64>,
    paused: bool,
    error: Option<String>,
    /// Why a node could not be asked.
    unreachable: Option<String>,
    slot: Option<SlotStatus>,
}

#[derive(serde::Serialize)]
struct SlotStatus {
    name: String,
    active: bool,
    retained_wal_bytes: Option<i64>,
    /// Why it is of no use any more.
    problem: Option<String>,
}

#[derive(serde::Serialize)]
pub(super) struct TableStatus {
    pub table: String,
    pub state: String,
    /// Of a table that is being copied, without its indexes.
    copied_bytes: Option<i64>,
    total_bytes: Option<i64>,
    /// Why its last copy failed.
    pub error: Option<String>,
}

#[derive(serde::Serialize)]
struct SpoolStatus {
    dir: String,
    bytes: u64,
    used_bytes: u64,
    max_bytes: u64,
    last_tick: Option<i64>,
}

#[derive(serde::Serialize)]
struct Status {
    queue: String,
    nodes: Vec<NodeStatus>,
    tables: Vec<TableStatus>,
    spool: Option<SpoolStatus>,
}

pub async fn run(node: &Node, _args: &StatusArgs, context: &Context) -> anyhow::Result<Outcome> {
    let own = info(node).await?;
    let queue = &node.settings.queue_name;
    let locations = pgq_node::get_queue_locations(&*node.session, queue).await?;
    let name = format!("{} command", node.settings.process.job_name);
    let mut nodes = Vec::new();
    let mut root: Option<Session> = None;
    let extra = node.settings.remote_extra_connstr.as_str();
    for location in &locations {
        let extra = match location.node_name == own.node_name {
            true => "",
            false => extra,
        };
        let reached = match crate::config::connect_string(&location.node_location, extra) {
            Ok(target) => connect(&target, &name).await.map_err(|e| e.to_string()),
            Err(e) => Err(e.to_string()),
        };
        let status = match reached {
            Ok(session) => {
                let status = ask(&session, queue).await;
                if matches!(&status, Ok(s) if s.kind == "root") {
                    root = Some(session);
                }
                status.unwrap_or_else(|e| unreachable(&location.node_name, e.to_string()))
            }
            Err(e) => unreachable(&location.node_name, e),
        };
        nodes.push(status);
    }
    if let Some(root) = &root {
        for status in &mut nodes {
            // Only our own configuration is known.
            let slot = match status.name == own.node_name {
                true => node.settings.slot_name.clone(),
                false => None,
            };
            measure(root, queue, slot, status).await?;
        }
    }
    let tables = table_status(node, root.as_ref()).await?;
    let spool = (own.node_type == "leaf").then(|| spool_status(node)).flatten();
    nodes.sort_by_key(|n| (n.kind != "root", n.name.clone()));
    let status = Status {
        queue: queue.to_string(),
        nodes,
        tables,
        spool,
    };
    if context.output.mode() == OutputMode::Json {
        context.output.json(&status)?;
    } else {
        show(&status, context)?;
    }
    Ok(Outcome::Done)
}

fn unreachable(name: &str, why: String) -> NodeStatus {
    NodeStatus {
        name: name.to_owned(),
        kind: "?".to_owned(),
        provider: None,
        tick: None,
        lag_seconds: None,
        ticks_behind: None,
        events_behind: None,
        paused: false,
        error: None,
        unreachable: Some(why),
        slot: None,
    }
}

async fn ask(session: &Session, queue: &QueueName) -> anyhow::Result<NodeStatus> {
    let info = pgq_node::get_node_info(&**session, queue).await?;
    let worker = pgq_node::get_worker_state(&**session, queue).await.ok();
    let root = info.node_type == "root";
    Ok(NodeStatus {
        tick: info.worker_last_tick.map(|t| t.get()),
        provider: info.provider_node.filter(|_| !root),
        paused: info.worker_paused.unwrap_or(false),
        error: worker.and_then(|w| w.cur_error),
        name: info.node_name,
        kind: info.node_type,
        lag_seconds: None,
        ticks_behind: None,
        events_behind: None,
        unreachable: None,
        slot: None,
    })
}

/// What only the root knows: ages of ticks, and the slots of those that follow it.
/// `slot`: its name, if it is not the default one.
async fn measure(
    root: &Client,
    queue: &QueueName,
    slot: Option<SlotName>,
    status: &mut NodeStatus,
) -> anyhow::Result<()> {
    if let Some(tick) = status.tick {
        let row = root
            .query_opt(
                "select extract(epoch from clock_timestamp() - t.tick_time)::float8, \
                        (select count(*) from pgq.tick n where n.tick_queue = t.tick_queue and n.tick_id > t.tick_id), \
                        (select n.tick_event_seq from pgq.tick n where n.tick_queue = t.tick_queue \
                         order by n.tick_id desc limit 1) - t.tick_event_seq \
                 from pgq.tick t join pgq.queue q on q.queue_id = t.tick_queue \
                 where q.queue_name = $1 and t.tick_id = $2",
                &[&queue.as_str(), &tick],
            )
            .await?;
        if let Some(row) = row {
            status.lag_seconds = Some(row.get(0));
            status.ticks_behind = Some(row.get(1));
            status.events_behind = row.get(2);
        }
    }
    if status.kind == "leaf"
        && let Ok(name) = skytide_sql::NodeName::new(status.name.clone())
        && let Some(slot) = slot.or_else(|| default_slot_name(queue, &name).ok())
    {
        status.slot = match slot::find(root, &slot).await {
            Ok(None) => None,
            Ok(Some(found)) => Some(SlotStatus {
                name: slot.to_string(),
                active: found.active_pid.is_some(),
                retained_wal_bytes: found.retained_bytes,
                problem: None,
            }),
            Err(e @ CaptureError::Slot { .. }) => Some(SlotStatus {
                name: slot.to_string(),
                active: false,
                retained_wal_bytes: None,
                problem: Some(e.to_string()),
            }),
            Err(e) => return Err(e.into()),
        };
    }
    Ok(())
}

/// `root`: where the tables are whole, if it was reached.
pub(super) async fn table_status(node: &Node, root: Option<&Session>) -> anyhow::Result<Vec<TableStatus>> {
    let queue = &node.settings.queue_name;
    let consumers = pgq_node::get_consumer_info(&*node.session, queue).await?;
    let mut tables = Vec::new();
    for table in local_tables(node).await? {
        let state = MergeState::parse(table.merge_state.as_deref())?;
        let copy = CopyJob::consumer(
            &node.settings.process.job_name,
            &TableName::parse(&table.table_name)?,
        );
        let copy = consumers
            .iter()
            .find(|c| copy.as_ref().is_ok_and(|copy| copy.as_str() == c.consumer_name));
        let mut status = TableStatus {
            state: state.to_string(),
            copied_bytes: None,
            total_bytes: None,
            error: copy.and_then(|copy| copy.cur_error.clone()),
            table: table.table_name,
        };
        if state == MergeState::InCopy {
            // A copy runs over several connections, whose progress views do not add up; the same rows take about the
            // same space, though.
            let dest = TableName::parse(table.dest_table.as_deref().unwrap_or(&status.table))?;
            status.copied_bytes = heap_bytes(&node.session, &dest).await?;
            if let Some(root) = root {
                let name = TableName::parse(&status.table)?;
                let there = provider_tables(root, queue).await?;
                let source = there.iter().find(|(table, _)| *table == name);
                status.total_bytes = heap_bytes(root, source.map_or(&name, |(_, source)| source)).await?;
            }
        }
        tables.push(status);
    }
    Ok(tables)
}

async fn heap_bytes(client: &Client, table: &TableName) -> anyhow::Result<Option<i64>> {
    let size = "select pg_catalog.pg_relation_size(pg_catalog.to_regclass($1))";
    Ok(client.query_one(size, &[&table.quoted()]).await?.get(0))
}

fn spool_status(node: &Node) -> Option<SpoolStatus> {
    let dir = &node.settings.spool_dir;
    let spool = Spool::open_read_only(dir).ok()?;
    let stats = spool.stats();
    Some(SpoolStatus {
        dir: dir.display().to_string(),
        bytes: stats.bytes,
        used_bytes: stats.used_bytes,
        max_bytes: node.settings.spool_max_bytes,
        last_tick: stats.last_tick.map(|t| t.get()),
    })
}

fn show(status: &Status, context: &Context) -> anyhow::Result<()> {
    let out = &context.output;
    out.line(format!("Queue: {}", status.queue))?;
    for (i, node) in status.nodes.iter().enumerate() {
        let mut facts = Vec::new();
        if let Some(why) = &node.unreachable {
            facts.push(format!("not reached: {why}"));
        }
        if let Some(tick) = node.tick {
            facts.push(format!("tick {tick}"));
        }
        if let Some(lag) = node.lag_seconds {
            facts.push(format!("lag {lag:.1}s"));
        }
        if node.kind == "leaf"
            && let (Some(ticks), Some(events)) = (node.ticks_behind, node.events_behind)
        {
            facts.push(format!("{ticks} ticks, {events} events behind"));
        }
        if node.paused {
            facts.push("paused".into());
        }
        let (branch, stem) = match (node.kind.as_str(), i + 1 == status.nodes.len()) {
            ("root", _) => ("", "    "),
            (_, true) => ("  +-: ", "      "),
            (_, false) => ("  +-: ", "  |   "),
        };
        out.line(format!(
            "{branch}{} ({})  {}",
            node.name,
            node.kind,
            facts.join(", ")
        ))?;
        if let Some(slot) = &node.slot {
            let retained = slot.retained_wal_bytes.map_or("?".to_owned(), human_bytes);
            let active = if slot.active { "active" } else { "NOT active" };
            out.line(match &slot.problem {
                Some(problem) => format!("{stem}{problem}"),
                None => format!("{stem}slot {} {active}, {retained} of WAL kept", slot.name),
            })?;
        }
        if let Some(error) = &node.error {
            out.line(format!("{stem}ERR: {error}"))?;
        }
    }
    let count = |state: &str| status.tables.iter().filter(|t| t.state == state).count();
    out.line(format!(
        "Tables: {} here, {} in sync",
        status.tables.len(),
        count("ok")
    ))?;
    for table in status.tables.iter().filter(|t| t.state != "ok") {
        let copied = match (table.copied_bytes, table.total_bytes) {
            (Some(copied), Some(total)) if total > 0 => {
                let percent = (copied.saturating_mul(100) / total).min(100);
                let (copied, total) = (human_bytes(copied), human_bytes(total));
                format!(", {copied} of {total} copied ({percent} %), then its indexes")
            }
            (Some(copied), _) => format!(", {} copied", human_bytes(copied)),
            _ => String::new(),
        };
        out.line(format!("  {}: {}{copied}", table.table, table.state))?;
        if let Some(error) = &table.error {
            out.line(format!("    ERR: {error}"))?;
        }
    }
    if let Some(spool) = &status.spool {
        out.line(format!(
            "Spool: {} used of {} in {}",
            human_bytes(i64::try_from(spool.used_bytes).unwrap_or(i64::MAX)),
            human_bytes(i64::try_from(spool.max_bytes).unwrap_or(i64::MAX)),
            spool.dir
        ))?;
    }
    Ok(())
}

fn human_bytes(bytes: i64) -> String {
    indicatif::BinaryBytes(bytes.unsigned_abs()).to_string()
}
