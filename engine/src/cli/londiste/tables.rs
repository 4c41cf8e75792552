//! Table administration.

use std::time::Duration;

use clap::Args;
use skytide_sql::TableName;
use skytide_sql::api::londiste::{self, AddTable, Capture, ObjectKind};
use skytide_sql::api::{ApiError, pgq_node};
use tokio::time::{Instant, sleep};

use super::super::failure::Failure;
use super::super::{Context, Outcome};
use super::status::table_status;
use super::{Node, choose, info, local_tables, provider};
use crate::capture::slot::{self, Publications};
use crate::copy::CopyJob;
use crate::table::MergeState;
use crate::table::registry::{SetChange, set_of};

#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  skytide londiste root.ini add-table public.orders 'public.item*'
  skytide londiste leaf.ini add-table --all --wait-sync")]
pub struct AddTableArgs {
    /// Tables; * and ? match.
    #[arg(required_unless_present = "all")]
    pub tables: Vec<String>,
    /// All tables that are not added yet.
    #[arg(long, conflicts_with = "tables")]
    pub all: bool,
    /// The table on this node, if it has another name (one table only).
    #[arg(long, value_name = "NAME")]
    pub dest_table: Option<String>,
    /// The rows are here already: no copy.
    #[arg(long)]
    pub expect_sync: bool,
    /// Keep the rows that are here when copying.
    #[arg(long)]
    pub skip_truncate: bool,
    /// Wait until the tables are in sync.
    #[arg(long)]
    pub wait_sync: bool,
    /// Show what would be done.
    #[arg(long)]
    pub dry_run: bool,
}

#[derive(Args, Debug)]
pub struct NamesArgs {
    /// Tables; * and ? match.
    #[arg(required_unless_present = "all")]
    pub tables: Vec<String>,
    /// All of this node's tables.
    #[arg(long, conflicts_with = "tables")]
    pub all: bool,
    /// Show what would be done.
    #[arg(long)]
    pub dry_run: bool,
}

#[derive(Args, Debug)]
pub struct WaitArgs {
    /// Give up after so many seconds (exit code 1).
    #[arg(long, value_name = "SECONDS")]
    pub timeout: Option<u64>,
}

async fn candidates(node: &Node) -> anyhow::Result<Vec<TableName>> {
    let mut tables = Vec::new();
    for missing in londiste::local_show_missing(&*node.session, &node.settings.queue_name).await? {
        if missing.kind == ObjectKind::Table {
            tables.push(TableName::parse(&missing.name)?);
        }
    }
    Ok(tables)
}

pub async fn add(node: &Node, args: &AddTableArgs, context: &Context) -> anyhow::Result<Outcome> {
    let info = info(node).await?;
    let queue = &node.settings.queue_name;
    let root = info.node_type == "root";
    let publishes = publishes(node, &info).await?;
    let set = match root {
        true => None,
        false => Some(learn_names(node, &info, args.dry_run).await?),
    };
    let mut candidates = candidates(node).await?;
    if let Some(set) = &set {
        candidates.retain(|t| set.contains(t));
    }
    let registered = local_tables(node).await?;
    let local: Vec<TableName> = registered
        .iter()
        .map(|t| TableName::parse(&t.table_name))
        .collect::<Result<_, _>>()?;
    let tables = if args.all {
        candidates
    } else {
        let known: Vec<TableName> = candidates.iter().chain(&local).cloned().collect();
        explain_unknown(node, root, &args.tables, &known).await?;
        choose(&args.tables, &known)?
    };
    let (there, new): (Vec<_>, Vec<_>) = tables.into_iter().partition(|t| local.contains(t));
    for table in &there {
        if set.as_ref().is_some_and(|set| !set.contains(table)) {
            return Err(Failure::new(format!(
                "table {table} is followed here, but not in the provider's set any more: its changes do not come"
            ))
            .hint(format!("with this node's configuration: remove-table {table}"))
            .into());
        }
        context.output.note(&format!("table {table} is already added"));
        let here = registered.iter().find(|t| t.table_name == table.to_string());
        let physical = here.and_then(|t| t.dest_table.as_deref()).map(TableName::parse);
        if publishes
            && !args.dry_run
            && publish_again(node, &physical.transpose()?.unwrap_or(table.clone())).await?
        {
            context.output.note(&format!(
                "table {table} was not published any more, and is again: resync it on the leaves"
            ));
        }
    }
    if args.dest_table.is_some() && new.len() > 1 {
        return Err(Failure::usage("--dest-table goes with one table").into());
    }
    let mut refused = 0;
    for table in &new {
        let dest = args.dest_table.as_deref().map(TableName::parse).transpose()?;
        let fits = async {
            let physical = dest.as_ref().unwrap_or(table);
            refuse_partitioned(node, physical).await?;
            if !root && !args.expect_sync && !args.skip_truncate {
                let fix =
                    "--skip-truncate, to have the rows of both; or --dest-table, another table for these";
                refuse_filled(node, physical, fix).await?;
            }
            anyhow::Ok(())
        };
        if let Err(e) = fits.await {
            if new.len() == 1 {
                return Err(e);
            }
            context.output.warn(&format!("table {table} was not added: {e}"));
            refused += 1;
            continue;
        }
        let flags = [
            (args.expect_sync, "expect_sync"),
            (args.skip_truncate, "skip_truncate"),
        ];
        let how = AddTable {
            args: flags
                .iter()
                .filter(|(set, _)| *set)
                .map(|(_, flag)| (*flag).to_owned())
                .collect(),
            attrs: None,
            dest,
        };
        let lock_timeout = node.settings.lock_timeout.as_millis();
        node.session
            .batch_execute(&format!("begin; set local lock_timeout = {lock_timeout}"))
            .await?;
        let added = async {
            let publications = Publications::of(queue);
            if publishes && !args.dry_run {
                slot::lock_publications(&node.session).await?;
                // A root that another program made may have none.
                for sql in slot::missing_publications(&node.session, &publications, queue).await? {
                    node.session.batch_execute(&sql).await?;
                }
            }
            if args.dry_run && !root {
                // So far it is known by name only.
                londiste::global_add_table(&*node.session, queue, table).await?;
            }
            let outcome = londiste::local_add_table(&*node.session, queue, table, &how).await?;
            if args.dry_run {
                node.session.batch_execute("rollback").await?;
                return Ok(outcome);
            }
            if publishes {
                let physical = how.dest.as_ref().unwrap_or(table);
                slot::publish(&node.session, &publications.tables, physical).await?;
            }
            node.session.batch_execute("commit").await?;
            anyhow::Ok(outcome)
        };
        match added.await {
            Ok(_) if args.dry_run => {
                let how = match (root, publishes) {
                    (true, true) => ", captured from the WAL",
                    (true, false) => ", captured by triggers",
                    _ => "",
                };
                context.output.note(&format!("would add table {table}{how}"));
            }
            Ok(outcome) => context.output.note(&outcome.note),
            Err(e) => {
                let _ = node.session.batch_execute("rollback").await;
                // One table that is unfit says nothing about the next; whatever else went wrong does.
                let unfit = matches!(e.downcast_ref(), Some(ApiError::Refused { .. }));
                if !unfit || new.len() == 1 {
                    return Err(e);
                }
                context.output.warn(&format!("table {table} was not added: {e}"));
                refused += 1;
            }
        }
    }
    if args.wait_sync && !root {
        let _synced = wait_sync(node, &WaitArgs { timeout: None }, context).await?;
    }
    if refused > 0 {
        return Err(
            Failure::new(format!("{refused} of {} tables were not added", new.len()))
                .hint("the warnings above say why; the others were added")
                .into(),
        );
    }
    Ok(Outcome::Done)
}

/// Whether a root's tables are in the queue's publication: not where triggers put their changes into the queue.
async fn publishes(node: &Node, info: &pgq_node::NodeInfo) -> anyhow::Result<bool> {
    if info.node_type != "root" {
        return Ok(false);
    }
    let sql = "select to_regprocedure('londiste.get_capture(text)') is not null";
    if !node.session.query_one(sql, &[]).await?.try_get::<_, bool>(0)? {
        // The original Londiste has triggers only.
        return Ok(false);
    }
    let capture = londiste::get_capture(&*node.session, &node.settings.queue_name).await?;
    Ok(capture == Some(Capture::Wal))
}

/// Puts a table of the set back into the publication. False: it was there.
async fn publish_again(node: &Node, physical: &TableName) -> anyhow::Result<bool> {
    let lock_timeout = node.settings.lock_timeout.as_millis();
    node.session
        .batch_execute(&format!("begin; set local lock_timeout = {lock_timeout}"))
        .await?;
    let published = async {
        slot::lock_publications(&node.session).await?;
        let publication = Publications::of(&node.settings.queue_name).tables;
        let is_new = slot::publish(&node.session, &publication, physical).await?;
        node.session.batch_execute("commit").await?;
        anyhow::Ok(is_new)
    };
    let published = published.await;
    if published.is_err() {
        let _ = node.session.batch_execute("rollback").await;
    }
    published
}

/// A leaf learns the set's tables from its provider, and forgets those that it has no more. What is followed here is
/// left to the worker, which gets there in its turn. Answers with the provider's set.
async fn learn_names(
    node: &Node,
    info: &pgq_node::NodeInfo,
    dry_run: bool,
) -> anyhow::Result<Vec<TableName>> {
    let queue = &node.settings.queue_name;
    let known = londiste::get_table_list(&*node.session, queue).await?;
    let (_, upstream) = provider(node, info).await?;
    let there = set_of(&upstream, queue).await?;
    let change = SetChange::between(&known, &there)?;
    if !dry_run {
        for table in &change.come {
            londiste::global_add_table(&*node.session, queue, table).await?;
        }
        for (table, _) in change.gone.iter().filter(|(_, local)| !local) {
            londiste::global_remove_table(&*node.session, queue, table).await?;
        }
    }
    Ok(there)
}

/// Says of a name that no table here has why that is, where we know.
async fn explain_unknown(
    node: &Node,
    root: bool,
    names: &[String],
    known: &[TableName],
) -> anyhow::Result<()> {
    for name in names {
        let table = TableName::parse(name)?;
        let text = table.to_string();
        if text.contains(['*', '?']) || known.contains(&table) {
            continue;
        }
        if root {
            refuse_partitioned(node, &table).await?;
        } else {
            return Err(
                Failure::new(format!("table {table} is not in the provider's set"))
                    .hint(format!(
                        "add it there first, with the root's configuration: add-table {table}; missing lists what can be added here"
                    ))
                    .into(),
            );
        }
    }
    Ok(())
}

/// A copy for one queue may not empty a table that another one fills.
async fn refuse_filled(node: &Node, dest: &TableName, fix: &str) -> anyhow::Result<()> {
    let other = node
        .session
        .query_opt(
            "select o.queue_name from londiste.table_info o \
               join pgq_node.node_info n on n.queue_name = o.queue_name \
              where o.queue_name <> $1 and o.local and coalesce(o.dest_table, o.table_name) = $2 \
                and n.node_type <> 'root' order by 1 limit 1",
            &[&node.settings.queue_name.as_str(), &dest.to_string()],
        )
        .await?;
    match other {
        None => Ok(()),
        Some(row) => Err(Failure::new(format!(
            "table {dest} is filled by queue {} already, and a copy would empty it",
            row.get::<_, &str>(0)
        ))
        .hint(fix)
        .into()),
    }
}

/// A partitioned table has no rows of its own: they are its partitions'.
async fn refuse_partitioned(node: &Node, table: &TableName) -> anyhow::Result<()> {
    let row = node
        .session
        .query_one(
            "select exists (select from pg_catalog.pg_class \
                            where oid = pg_catalog.to_regclass($1) and relkind = 'p'), \
                    array(select n.nspname || '.' || c.relname \
                            from pg_catalog.pg_partition_tree(pg_catalog.to_regclass($1)) t \
                            join pg_catalog.pg_class c on c.oid = t.relid \
                            join pg_catalog.pg_namespace n on n.oid = c.relnamespace \
                           where t.isleaf and c.relkind = 'r' order by 1)",
            &[&table.quoted()],
        )
        .await?;
    if !row.get::<_, bool>(0) {
        return Ok(());
    }
    let partitions: Vec<String> = row.get(1);
    let hint = match partitions.as_slice() {
        [] => "it has none yet".to_owned(),
        some => format!("add-table {}", some.join(" ")),
    };
    Err(Failure::new(format!(
        "table {table} is partitioned: its partitions are to be added"
    ))
    .hint(hint)
    .into())
}

async fn chosen(node: &Node, args: &NamesArgs) -> anyhow::Result<Vec<TableName>> {
    let local: Vec<TableName> = local_tables(node)
        .await?
        .iter()
        .map(|t| TableName::parse(&t.table_name))
        .collect::<Result<_, _>>()?;
    if args.all {
        Ok(local)
    } else {
        choose(&args.tables, &local)
    }
}

pub async fn remove(node: &Node, args: &NamesArgs, context: &Context) -> anyhow::Result<Outcome> {
    let info = info(node).await?;
    let publishes = publishes(node, &info).await?;
    let queue = &node.settings.queue_name;
    let infos = local_tables(node).await?;
    for table in chosen(node, args).await? {
        if args.dry_run {
            context.output.note(&format!("would remove table {table}"));
            continue;
        }
        let dest = infos
            .iter()
            .find(|t| t.table_name == table.to_string())
            .and_then(|t| t.dest_table.clone());
        node.session.batch_execute("begin").await?;
        let removed = async {
            if publishes {
                slot::lock_publications(&node.session).await?;
            }
            let outcome = londiste::local_remove_table(&*node.session, queue, &table).await?;
            // What a copy has left; a worker that runs looks after it once more. No copy has a name that is too long.
            if let Ok(copy) = CopyJob::consumer(&node.settings.process.job_name, &table) {
                pgq_node::unregister_consumer(&*node.session, queue, &copy).await?;
            }
            if publishes {
                let physical = dest.as_deref().map(TableName::parse).transpose()?;
                let physical = physical.as_ref().unwrap_or(&table);
                slot::unpublish(&node.session, &Publications::of(queue).tables, physical).await?;
            }
            node.session.batch_execute("commit").await?;
            anyhow::Ok(outcome)
        };
        match removed.await {
            Ok(outcome) => context.output.note(&outcome.note),
            Err(e) => {
                let _ = node.session.batch_execute("rollback").await;
                return Err(e);
            }
        }
    }
    Ok(Outcome::Done)
}

pub async fn resync(node: &Node, args: &NamesArgs, context: &Context) -> anyhow::Result<Outcome> {
    let info = info(node).await?;
    if info.node_type == "root" {
        return Err(Failure::usage("a root's tables are copied from nowhere").into());
    }
    let infos = local_tables(node).await?;
    for table in chosen(node, args).await? {
        let here = infos.iter().find(|t| t.table_name == table.to_string());
        let dest = here
            .and_then(|t| t.dest_table.as_deref())
            .map(TableName::parse)
            .transpose()?;
        let fix = "remove-table it from that queue first; add-table it there again, with --skip-truncate, when this copy is done";
        refuse_filled(node, dest.as_ref().unwrap_or(&table), fix).await?;
        if args.dry_run {
            context.output.note(&format!("would copy table {table} again"));
            continue;
        }
        copy_again(node, &table).await?;
        context
            .output
            .note(&format!("table {table} will be copied again"));
    }
    Ok(Outcome::Done)
}

/// The table is emptied first, even if its first copy left rows in it (`--skip-truncate`): they would be there twice.
async fn copy_again(node: &Node, table: &TableName) -> anyhow::Result<()> {
    let queue = &node.settings.queue_name;
    let known = londiste::get_table_list(&*node.session, queue).await?;
    let attributes = known
        .into_iter()
        .find(|info| info.table_name == table.to_string())
        .and_then(|info| info.table_attrs);
    if let Some(attributes) = attributes {
        let kept: Vec<&str> = attributes
            .split('&')
            .filter(|a| *a != "skip_truncate=1")
            .collect();
        let kept = (!kept.is_empty()).then(|| kept.join("&"));
        if kept.as_ref() != Some(&attributes) {
            londiste::local_set_table_attrs(&*node.session, queue, table, kept.as_deref()).await?;
        }
    }
    londiste::local_set_table_state(&*node.session, queue, table, None, None).await?;
    Ok(())
}

#[derive(serde::Serialize)]
struct TableRow {
    table: String,
    state: String,
    dest: Option<String>,
    attributes: Option<String>,
}

pub async fn list(node: &Node, context: &Context) -> anyhow::Result<Outcome> {
    info(node).await?;
    let mut rows = Vec::new();
    for table in local_tables(node).await? {
        rows.push(TableRow {
            state: MergeState::parse(table.merge_state.as_deref())?.to_string(),
            table: table.table_name,
            dest: table.dest_table,
            attributes: table.table_attrs,
        });
    }
    context
        .output
        .rows(&["table", "state", "dest", "attributes"], &rows, |r| {
            vec![
                r.table.clone(),
                r.state.clone(),
                r.dest.clone().unwrap_or_default(),
                r.attributes.clone().unwrap_or_default(),
            ]
        })?;
    Ok(Outcome::Done)
}

#[derive(serde::Serialize)]
struct MissingRow {
    kind: &'static str,
    name: String,
}

pub async fn missing(node: &Node, context: &Context) -> anyhow::Result<Outcome> {
    let info = info(node).await?;
    if info.node_type != "root" {
        // What the provider got since is missing here too.
        if let Err(e) = learn_names(node, &info, false).await {
            tracing::warn!(error = %e, "the provider does not answer: the list may be old");
        }
    }
    let rows: Vec<MissingRow> = candidates(node)
        .await?
        .iter()
        .map(|table| MissingRow {
            kind: "table",
            name: table.to_string(),
        })
        .collect();
    context.output.rows(&["kind", "name"], &rows, |r| {
        vec![r.kind.to_owned(), r.name.clone()]
    })?;
    Ok(Outcome::Done)
}

pub async fn wait_sync(node: &Node, args: &WaitArgs, context: &Context) -> anyhow::Result<Outcome> {
    info(node).await?;
    let started = Instant::now();
    let mut told = String::new();
    loop {
        let tables = table_status(node, None).await?;
        let in_sync = MergeState::Ok.to_string();
        let waiting: Vec<String> = tables
            .iter()
            .filter(|table| table.state != in_sync)
            .map(|table| match &table.error {
                Some(error) => format!("{} ({}, {error})", table.table, table.state),
                None => format!("{} ({})", table.table, table.state),
            })
            .collect();
        if waiting.is_empty() {
            context
                .output
                .note(&format!("{0} of {0} tables in sync", tables.len()));
            return Ok(Outcome::Done);
        }
        let now = format!(
            "{}/{} tables to go: {}",
            waiting.len(),
            tables.len(),
            waiting.join(", ")
        );
        if now != told {
            context.output.note(&now);
            told = now;
        }
        if args
            .timeout
            .is_some_and(|t| started.elapsed() > Duration::from_secs(t))
        {
            return Err(
                Failure::new(format!("not in sync after {} s", started.elapsed().as_secs()))
                    .detail(told)
                    .hint("is the worker running? skytide londiste CONF status")
                    .into(),
            );
        }
        tokio::select! {
            () = context.shutdown.cancelled() => return Err(Failure::new("interrupted").into()),
            () = sleep(Duration::from_millis(200)) => {}
        }
    }
}
