//! `skytide londiste CONF COMMAND`: table replication, under Londiste's old command names.

mod compare;
mod node;
mod status;
mod tables;
mod worker;

use std::path::PathBuf;

use clap::{Args, Subcommand};
use skytide_sql::api::{londiste, pgq_node};
use skytide_sql::conn::{ConnectString, Session, connect_to_write};
use skytide_sql::{NodeName, TableName};

use super::failure::Failure;
use super::{Context, Outcome};
use crate::config::keys::LONDISTE;
use crate::config::pages;
use crate::config::settings::LondisteSettings;
use crate::daemon::control::DaemonArgs;

#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  skytide londiste leaf.ini create-leaf leaf1 'host=b dbname=app' --provider='host=a dbname=app'
  skytide londiste leaf.ini add-table --all --wait-sync
  skytide londiste leaf.ini worker")]
pub struct LondisteArgs {
    /// Configuration file, section [londiste].
    #[arg(required_unless_present = "ini")]
    pub conf: Option<PathBuf>,
    #[command(flatten)]
    pub daemon: DaemonArgs,
    #[command(subcommand)]
    pub command: Option<LondisteCommand>,
}

#[derive(Subcommand, Debug)]
pub enum LondisteCommand {
    /// Make this database the root of a queue: the node whose tables are followed.
    CreateRoot(node::CreateRootArgs),
    /// Make this database a leaf: a node that follows a provider.
    CreateLeaf(node::CreateLeafArgs),
    /// Run the worker of this node in the foreground.
    Worker,
    /// Add tables to the set (root) or follow them here (leaf).
    AddTable(tables::AddTableArgs),
    /// Take tables out of the set (root) or stop following them here (leaf). The table itself stays.
    RemoveTable(tables::NamesArgs),
    /// List this node's tables and their states.
    Tables,
    /// List what could be added: on a root all other tables, on a leaf the set's tables it does not follow.
    Missing,
    /// Copy tables again from the start.
    Resync(tables::NamesArgs),
    /// Show all nodes, how far behind they are, and why.
    Status(status::StatusArgs),
    /// Wait until every table of this node is in sync.
    WaitSync(tables::WaitArgs),
    /// Compare tables with the provider's, both at the same tick. Exit code 3: they differ.
    Compare(compare::CompareArgs),
}

/// A command's settings and the node's own database.
pub struct Node {
    pub settings: LondisteSettings,
    pub db: ConnectString,
    pub session: Session,
}

pub async fn run(args: LondisteArgs, context: &Context) -> anyhow::Result<Outcome> {
    if args.daemon.ini {
        context.output.line(pages::sample(&LONDISTE))?;
        return Ok(Outcome::Done);
    }
    let (Some(conf), Some(command)) = (args.conf, args.command) else {
        return Err(Failure::usage("no command is given")
            .hint("see skytide londiste --help for the commands")
            .into());
    };
    let overrides = args.daemon.overrides()?;
    let settings = LondisteSettings::load(&conf, &overrides)?;
    if let LondisteCommand::Worker = command {
        return Box::pin(worker::run(&conf, &args.daemon, settings, context)).await;
    }
    let db = settings.db.clone();
    let name = format!("{} command", settings.process.job_name);
    let session = connect_to_write(&db, &name).await?;
    let node = Node {
        settings,
        db,
        session,
    };
    match command {
        LondisteCommand::CreateRoot(args) => node::create_root(&node, &args, context).await,
        LondisteCommand::CreateLeaf(args) => node::create_leaf(&node, &args, context).await,
        LondisteCommand::Worker => Ok(Outcome::Done),
        LondisteCommand::AddTable(args) => tables::add(&node, &args, context).await,
        LondisteCommand::RemoveTable(args) => tables::remove(&node, &args, context).await,
        LondisteCommand::Tables => tables::list(&node, context).await,
        LondisteCommand::Missing => tables::missing(&node, context).await,
        LondisteCommand::Resync(args) => tables::resync(&node, &args, context).await,
        LondisteCommand::Status(args) => status::run(&node, &args, context).await,
        LondisteCommand::WaitSync(args) => tables::wait_sync(&node, &args, context).await,
        LondisteCommand::Compare(args) => compare::run(&node, &args, context).await,
    }
}

/// What a node is, or how to make one.
pub(super) async fn info(node: &Node) -> anyhow::Result<pgq_node::NodeInfo> {
    match pgq_node::get_node_info(&*node.session, &node.settings.queue_name).await {
        Ok(info) => Ok(info),
        Err(e) if e.code() == Some(404) => Err(Failure::new(format!(
            "this database has no node of queue {}",
            node.settings.queue_name
        ))
        .hint("make one: skytide londiste CONF create-root NAME, or create-leaf NAME --provider=CONNSTR")
        .into()),
        Err(e) => Err(e.into()),
    }
}

/// The provider of a leaf.
pub(super) async fn provider(
    node: &Node,
    info: &pgq_node::NodeInfo,
) -> anyhow::Result<(ConnectString, Session)> {
    let location = info.provider_location.as_deref().unwrap_or_default();
    let target = crate::config::connect_string(location, node.settings.remote_extra_connstr.as_str())?;
    let name = format!("{} command", node.settings.process.job_name);
    let session = connect_to_write(&target, &name).await?;
    Ok((target, session))
}

/// Expands names and globs (`*`, `?`) over candidates; unknown names are an error.
pub(super) fn choose(patterns: &[String], candidates: &[TableName]) -> anyhow::Result<Vec<TableName>> {
    let mut chosen: Vec<TableName> = Vec::new();
    for pattern in patterns {
        let full = TableName::parse(pattern)?;
        let text = full.to_string();
        let found: Vec<_> = candidates
            .iter()
            .filter(|c| matches_glob(&text, &c.to_string()))
            .collect();
        if found.is_empty() {
            let near = candidates
                .iter()
                .map(ToString::to_string)
                .collect::<Vec<_>>()
                .join(", ");
            let known = if near.is_empty() {
                "there are none".to_owned()
            } else {
                format!("known: {near}")
            };
            return Err(Failure::new(format!("no such table here: {pattern}"))
                .detail(known)
                .into());
        }
        for table in found {
            if !chosen.contains(table) {
                chosen.push(table.clone());
            }
        }
    }
    Ok(chosen)
}

fn matches_glob(pattern: &str, text: &str) -> bool {
    let (mut pattern, mut text) = (pattern.chars(), text.chars());
    loop {
        match pattern.next() {
            None => return text.next().is_none(),
            Some('*') => {
                let rest = pattern.as_str();
                return (0..=text.as_str().len())
                    .filter(|i| text.as_str().is_char_boundary(*i))
                    .any(|i| matches_glob(rest, &text.as_str()[i..]));
            }
            Some('?') => {
                if text.next().is_none() {
                    return false;
                }
            }
            Some(c) => {
                if text.next() != Some(c) {
                    return false;
                }
            }
        }
    }
}

pub(super) fn node_name(text: &str) -> anyhow::Result<NodeName> {
    Ok(NodeName::new(text)?)
}

/// The names and states of this node's tables.
pub(super) async fn local_tables(node: &Node) -> anyhow::Result<Vec<londiste::TableInfo>> {
    let all = londiste::get_table_list(&*node.session, &node.settings.queue_name).await?;
    Ok(all.into_iter().filter(|t| t.local).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn globs_choose_tables() {
        assert!(matches_glob("public.o*", "public.orders"));
        assert!(matches_glob("*.orders", "public.orders"));
        assert!(matches_glob("public.?rders", "public.orders"));
        assert!(!matches_glob("public.orders", "public.orders2"));
        let tables = [TableName::new("public", "a1"), TableName::new("public", "a2")];
        assert_eq!(choose(&["a*".into(), "a1".into()], &tables).unwrap(), tables);
        assert!(choose(&["b".into()], &tables).is_err());
    }
}
