//! Making nodes.

use clap::Args;
use skytide_sql::api::pgq_node::{Liveness, NewNode, NodeType};
use skytide_sql::api::{londiste, pgq, pgq_node};
use skytide_sql::conn::{ConnectString, Session, connect_to_write};
use skytide_sql::ident::quote_literal;
use skytide_sql::{ConsumerName, NodeName, QueueName, TickId};

use super::super::failure::Failure;
use super::super::shell;
use super::super::{Context, Outcome};
use super::{Node, node_name};
use crate::capture::slot::{self, Publications};

#[derive(Args, Debug)]
pub struct CreateRootArgs {
    /// Name of the node.
    pub name: String,
    /// How other nodes reach this database; by default as this command does.
    pub location: Option<String>,
}

#[derive(Args, Debug)]
pub struct CreateLeafArgs {
    /// Name of the node.
    pub name: String,
    /// How other nodes reach this database; by default as this command does.
    pub location: Option<String>,
    /// The node to follow.
    #[arg(long, value_name = "CONNSTR")]
    pub provider: Option<String>,
}

/// Refuses a database without the SQL modules.
async fn check_modules(session: &Session, which: &str, dsn: &ConnectString) -> anyhow::Result<()> {
    let row = session
        .query_one(
            "select to_regnamespace('pgq') is not null and to_regnamespace('londiste') is not null",
            &[],
        )
        .await?;
    if row.get(0) {
        return Ok(());
    }
    Err(Failure::new(format!(
        "the SQL modules are not installed in the {which}'s database"
    ))
    .hint(format!(
        "run: skytide install {}",
        shell::quote(dsn.without_password())
    ))
    .into())
}

fn location(node: &Node, given: Option<&String>) -> anyhow::Result<String> {
    let own = node
        .settings
        .public_node_location
        .as_ref()
        .map(|l| l.as_str().to_owned());
    let text = given.cloned().or(own).unwrap_or_else(|| node.db.to_libpq());
    ConnectString::parse(&text)?;
    Ok(text)
}

pub async fn create_root(node: &Node, args: &CreateRootArgs, context: &Context) -> anyhow::Result<Outcome> {
    check_modules(&node.session, "node", &node.db).await?;
    slot::check_server(&node.session).await?;
    let (queue, name) = (&node.settings.queue_name, node_name(&args.name)?);
    let location = location(node, args.location.as_ref())?;
    if let Ok(info) = pgq_node::get_node_info(&*node.session, queue).await {
        if info.node_name == name.as_str() && info.node_type == "root" {
            context
                .output
                .note(&format!("node {name} is already the root of queue {queue}"));
            return Ok(Outcome::Done);
        }
        return Err(Failure::new(format!(
            "this database already has node {} ({}) of queue {queue}",
            info.node_name, info.node_type
        ))
        .into());
    }
    let worker = ConsumerName::new(node.settings.consumer_name.as_str())?;
    node.session.batch_execute("begin").await?;
    slot::lock_publications(&node.session).await?;
    pgq_node::register_location(&*node.session, queue, &name, Some(&location), Liveness::Alive).await?;
    let root = NewNode {
        node_type: NodeType::Root,
        name: &name,
        worker: &worker,
        provider: None,
        global_watermark: None,
        combined_queue: None,
    };
    pgq_node::create_node(&*node.session, queue, root).await?;
    slot::ensure_publications(&node.session, &Publications::of(queue), queue).await?;
    node.session.batch_execute("commit").await?;
    context
        .output
        .note(&format!("node {name} is the root of queue {queue}"));
    Ok(Outcome::Done)
}

/// Refuses names that are others': their locations and consumers would be taken over.
async fn check_names(
    upstream: &Session,
    provider: &str,
    queue: &QueueName,
    (name, location, worker): (&NodeName, &str, &ConsumerName),
) -> anyhow::Result<()> {
    if name.as_str() == provider {
        return Err(Failure::new(format!("node {name} is the provider itself"))
            .hint("give the leaf a name of its own")
            .into());
    }
    let places = pgq_node::get_queue_locations(&**upstream, queue).await?;
    if let Some(other) = places.iter().find(|place| place.node_name == name.as_str())
        && !other.dead
        && other.node_location != location
    {
        let there = ConnectString::parse(&other.node_location).map_or_else(
            |_| "elsewhere".to_owned(),
            |place| format!("at {}", place.without_password()),
        );
        return Err(
            Failure::new(format!("queue {queue} has a node {name} already, {there}"))
                .hint(format!(
                    "give the leaf another name. If that node is gone for good, on the provider: \
                     select * from pgq_node.unregister_subscriber({queue}, {name}); \
                     select * from pgq_node.unregister_location({queue}, {name});",
                    queue = quote_literal(queue.as_str()),
                    name = quote_literal(name.as_str()),
                ))
                .into(),
        );
    }
    let subscribers = pgq_node::get_subscriber_info(&**upstream, queue).await?;
    if let Some(other) = subscribers
        .iter()
        .find(|other| other.worker_name == worker.as_str() && other.node_name != name.as_str())
    {
        return Err(Failure::new(format!(
            "worker {worker} of queue {queue} is node {}'s already",
            other.node_name
        ))
        .hint("give this one another job_name (or consumer_name)")
        .into());
    }
    Ok(())
}

pub async fn create_leaf(node: &Node, args: &CreateLeafArgs, context: &Context) -> anyhow::Result<Outcome> {
    check_modules(&node.session, "node", &node.db).await?;
    let (queue, name) = (&node.settings.queue_name, node_name(&args.name)?);
    let location = location(node, args.location.as_ref())?;
    let provider = args
        .provider
        .clone()
        .or(node
            .settings
            .initial_provider_location
            .as_ref()
            .map(ConnectString::to_libpq))
        .ok_or_else(|| {
            Failure::usage("a leaf needs a provider")
                .hint("add --provider=CONNSTR, or initial_provider_location to the configuration")
        })?;
    if let Ok(info) = pgq_node::get_node_info(&*node.session, queue).await {
        if info.node_name == name.as_str() && info.node_type == "leaf" {
            context
                .output
                .note(&format!("node {name} is already a leaf of queue {queue}"));
            return Ok(Outcome::Done);
        }
        return Err(Failure::new(format!(
            "this database already has node {} ({}) of queue {queue}",
            info.node_name, info.node_type
        ))
        .into());
    }
    let target = crate::config::connect_string(&provider, "")?;
    let upstream = connect_to_write(&target, &format!("{} command", node.settings.process.job_name)).await?;
    check_modules(&upstream, "provider", &target).await?;
    slot::check_server(&upstream).await?;
    let up = pgq_node::get_node_info(&*upstream, queue).await?;
    if up.node_type == "leaf" {
        return Err(Failure::new(format!("node {} is a leaf: nobody can follow it", up.node_name)).into());
    }
    let worker = ConsumerName::new(node.settings.consumer_name.as_str())?;
    check_names(&upstream, &up.node_name, queue, (&name, &location, &worker)).await?;

    // The provider first: a subscriber that never comes is removed by name, a leaf without a provider
    // would be an orphan.
    upstream.batch_execute("begin").await?;
    pgq_node::register_location(&*upstream, queue, &name, Some(&location), Liveness::Alive).await?;
    let known = pgq_node::get_subscriber_info(&*upstream, queue).await?;
    if known.iter().any(|s| s.node_name == name.as_str()) {
        pgq_node::unregister_subscriber(&*upstream, queue, &name).await?;
    }
    let watermark = pgq_node::register_subscriber(&*upstream, queue, &name, &worker, None).await?;
    upstream.batch_execute("commit").await?;

    node.session.batch_execute("begin").await?;
    for there in pgq_node::get_queue_locations(&*upstream, queue).await? {
        let other = node_name(&there.node_name)?;
        let place = if other == name {
            &location
        } else {
            &there.node_location
        };
        // How this worker reaches the provider may differ from how the provider names itself.
        let place = if there.node_name == up.node_name {
            &provider
        } else {
            place
        };
        pgq_node::register_location(
            &*node.session,
            queue,
            &other,
            Some(place),
            if there.dead {
                Liveness::Dead
            } else {
                Liveness::Alive
            },
        )
        .await?;
    }
    pgq_node::register_location(&*node.session, queue, &name, Some(&location), Liveness::Alive).await?;
    let upstream_name = node_name(&up.node_name)?;
    let leaf = NewNode {
        node_type: NodeType::Leaf,
        name: &name,
        worker: &worker,
        provider: Some(&upstream_name),
        global_watermark: Some(watermark),
        combined_queue: None,
    };
    pgq_node::create_node(&*node.session, queue, leaf).await?;
    for table in londiste::get_table_list(&*upstream, queue).await? {
        londiste::global_add_table(
            &*node.session,
            queue,
            &skytide_sql::TableName::parse(&table.table_name)?,
        )
        .await?;
    }
    node.session.batch_execute("commit").await?;
    // A tick soon, so that the worker finds its starting point.
    let _: Option<TickId> = pgq::force_tick(&*upstream, queue).await?;
    context.output.note(&format!(
        "node {name} is a leaf of queue {queue} and follows {}",
        up.node_name
    ));
    Ok(Outcome::Done)
}
