//! Schema `pgq_node`: the nodes of a queue, and this database's own.

use tokio_postgres::GenericClient;

use super::{ApiError, Outcome, call, outcome};
use crate::ident::quote_literal;
use crate::{ConsumerName, NodeName, QueueName, TickId};

/// What a node does with a queue.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NodeType {
    /// Events are made here.
    Root,
    /// They are copied here, and others read them from here.
    Branch,
    /// They are applied here.
    Leaf,
}

impl NodeType {
    pub const fn as_str(self) -> &'static str {
        match self {
            NodeType::Root => "root",
            NodeType::Branch => "branch",
            NodeType::Leaf => "leaf",
        }
    }
}

/// Whether others should still wait for a node.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Liveness {
    Alive,
    Dead,
}

/// `location` `None` keeps the one that is known.
pub async fn register_location<C: GenericClient>(
    client: &C,
    queue: &QueueName,
    node: &NodeName,
    location: Option<&str>,
    liveness: Liveness,
) -> Result<Outcome, ApiError> {
    let dead = liveness == Liveness::Dead;
    outcome!(
        client,
        "pgq_node.register_location",
        "($1, $2, $3, $4)",
        [&queue.as_str(), &node.as_str(), &location, &dead]
    )
}

pub async fn unregister_location<C: GenericClient>(
    client: &C,
    queue: &QueueName,
    node: &NodeName,
) -> Result<Outcome, ApiError> {
    outcome!(
        client,
        "pgq_node.unregister_location",
        "($1, $2)",
        [&queue.as_str(), &node.as_str()]
    )
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Location {
    pub node_name: String,
    /// A libpq connect string.
    pub node_location: String,
    pub dead: bool,
}

pub async fn get_queue_locations<C: GenericClient>(
    client: &C,
    queue: &QueueName,
) -> Result<Vec<Location>, ApiError> {
    let rows = call!(many client, "pgq_node.get_queue_locations", "($1)", [&queue.as_str()])?;
    rows.iter()
        .map(|row| {
            Ok(Location {
                node_name: row.try_get("node_name")?,
                node_location: row.try_get("node_location")?,
                dead: row.try_get("dead")?,
            })
        })
        .collect()
}

/// What [`create_node`] makes of this database.
#[derive(Clone, Copy, Debug)]
pub struct NewNode<'a> {
    pub node_type: NodeType,
    pub name: &'a NodeName,
    pub worker: &'a ConsumerName,
    /// Not for a root.
    pub provider: Option<&'a NodeName>,
    /// Where a branch or leaf starts.
    pub global_watermark: Option<TickId>,
    /// Leaf only: the local queue its events are merged into.
    pub combined_queue: Option<&'a QueueName>,
}

/// The node's location must be registered before.
pub async fn create_node<C: GenericClient>(
    client: &C,
    queue: &QueueName,
    node: NewNode<'_>,
) -> Result<Outcome, ApiError> {
    outcome!(
        client,
        "pgq_node.create_node",
        "($1, $2, $3, $4, $5, $6, $7)",
        [
            &queue.as_str(),
            &node.node_type.as_str(),
            &node.name.as_str(),
            &node.worker.as_str(),
            &node.provider.map(NodeName::as_str),
            &node.global_watermark.map(TickId::get),
            &node.combined_queue.map(QueueName::as_str),
        ]
    )
}

pub async fn drop_node<C: GenericClient>(
    client: &C,
    queue: &QueueName,
    node: &NodeName,
) -> Result<Outcome, ApiError> {
    outcome!(
        client,
        "pgq_node.drop_node",
        "($1, $2)",
        [&queue.as_str(), &node.as_str()]
    )
}

/// This database's node.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NodeInfo {
    pub node_type: String,
    pub node_name: String,
    pub global_watermark: Option<TickId>,
    pub local_watermark: Option<TickId>,
    pub provider_node: Option<String>,
    pub provider_location: Option<String>,
    pub combined_queue: Option<String>,
    pub combined_type: Option<String>,
    pub worker_name: Option<String>,
    pub worker_paused: Option<bool>,
    pub worker_uptodate: Option<bool>,
    pub worker_last_tick: Option<TickId>,
    pub node_attrs: Option<String>,
}

/// Refused with 404 if this database has no node of the queue.
pub async fn get_node_info<C: GenericClient>(client: &C, queue: &QueueName) -> Result<NodeInfo, ApiError> {
    let row = call!(client, "pgq_node.get_node_info", "($1)", [&queue.as_str()])?;
    Outcome::read("pgq_node.get_node_info", &row)?;
    let tick =
        |column| -> Result<_, ApiError> { Ok(row.try_get::<_, Option<i64>>(column)?.map(TickId::new)) };
    Ok(NodeInfo {
        node_type: row.try_get("node_type")?,
        node_name: row.try_get("node_name")?,
        global_watermark: tick("global_watermark")?,
        local_watermark: tick("local_watermark")?,
        provider_node: row.try_get("provider_node")?,
        provider_location: row.try_get("provider_location")?,
        combined_queue: row.try_get("combined_queue")?,
        combined_type: row.try_get("combined_type")?,
        worker_name: row.try_get("worker_name")?,
        worker_paused: row.try_get("worker_paused")?,
        worker_uptodate: row.try_get("worker_uptodate")?,
        worker_last_tick: tick("worker_last_tick")?,
        node_attrs: row.try_get("node_attrs")?,
    })
}

/// All that the node's worker needs to know.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct WorkerState {
    pub node_type: String,
    pub node_name: String,
    pub completed_tick: i64,
    pub provider_node: String,
    pub provider_location: String,
    pub paused: bool,
    pub uptodate: bool,
    pub cur_error: Option<String>,
    pub worker_name: String,
    pub global_watermark: Option<i64>,
    pub local_watermark: Option<i64>,
    pub local_queue_top: Option<i64>,
    pub combined_queue: Option<String>,
    pub combined_type: Option<String>,
}

/// Refused with 404 if this database has no node of the queue.
pub async fn get_worker_state<C: GenericClient>(
    client: &C,
    queue: &QueueName,
) -> Result<WorkerState, ApiError> {
    let row = call!(client, "pgq_node.get_worker_state", "($1)", [&queue.as_str()])?;
    Outcome::read("pgq_node.get_worker_state", &row)?;
    Ok(WorkerState {
        node_type: row.try_get("node_type")?,
        node_name: row.try_get("node_name")?,
        completed_tick: row.try_get("completed_tick")?,
        provider_node: row.try_get("provider_node")?,
        provider_location: row.try_get("provider_location")?,
        paused: row.try_get("paused")?,
        uptodate: row.try_get("uptodate")?,
        cur_error: row.try_get("cur_error")?,
        worker_name: row.try_get("worker_name")?,
        global_watermark: row.try_get("global_watermark")?,
        local_watermark: row.try_get("local_watermark")?,
        local_queue_top: row.try_get("local_queue_top")?,
        combined_queue: row.try_get("combined_queue")?,
        combined_type: row.try_get("combined_type")?,
    })
}

/// Lets a node read from this one, from `start` or the global watermark on; gives the watermark.
pub async fn register_subscriber<C: GenericClient>(
    client: &C,
    queue: &QueueName,
    node: &NodeName,
    worker: &ConsumerName,
    start: Option<TickId>,
) -> Result<TickId, ApiError> {
    let row = call!(
        client,
        "pgq_node.register_subscriber",
        "($1, $2, $3, $4)",
        [
            &queue.as_str(),
            &node.as_str(),
            &worker.as_str(),
            &start.map(TickId::get)
        ]
    )?;
    Outcome::read("pgq_node.register_subscriber", &row)?;
    Ok(TickId::new(row.try_get("global_watermark")?))
}

pub async fn unregister_subscriber<C: GenericClient>(
    client: &C,
    queue: &QueueName,
    node: &NodeName,
) -> Result<Outcome, ApiError> {
    outcome!(
        client,
        "pgq_node.unregister_subscriber",
        "($1, $2)",
        [&queue.as_str(), &node.as_str()]
    )
}

pub async fn set_subscriber_watermark<C: GenericClient>(
    client: &C,
    queue: &QueueName,
    node: &NodeName,
    watermark: TickId,
) -> Result<Outcome, ApiError> {
    outcome!(
        client,
        "pgq_node.set_subscriber_watermark",
        "($1, $2, $3)",
        [&queue.as_str(), &node.as_str(), &watermark.get()]
    )
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SubscriberInfo {
    pub node_name: String,
    pub worker_name: String,
    pub node_watermark: Option<TickId>,
}

pub async fn get_subscriber_info<C: GenericClient>(
    client: &C,
    queue: &QueueName,
) -> Result<Vec<SubscriberInfo>, ApiError> {
    let rows = call!(many client, "pgq_node.get_subscriber_info", "($1)", [&queue.as_str()])?;
    rows.iter()
        .map(|row| {
            Ok(SubscriberInfo {
                node_name: row.try_get("node_name")?,
                worker_name: row.try_get("worker_name")?,
                node_watermark: row.try_get::<_, Option<i64>>("node_watermark")?.map(TickId::new),
            })
        })
        .collect()
}

/// `None` on a root: the lowest tick anybody may still need.
pub async fn set_global_watermark<C: GenericClient>(
    client: &C,
    queue: &QueueName,
    watermark: Option<TickId>,
) -> Result<Outcome, ApiError> {
    outcome!(
        client,
        "pgq_node.set_global_watermark",
        "($1, $2)",
        [&queue.as_str(), &watermark.map(TickId::get)]
    )
}

/// A cascaded consumer that writes into this node. One that is registered is moved.
pub async fn register_consumer<C: GenericClient>(
    client: &C,
    queue: &QueueName,
    consumer: &ConsumerName,
    provider: &NodeName,
    start: TickId,
) -> Result<Outcome, ApiError> {
    outcome!(
        client,
        "pgq_node.register_consumer",
        "($1, $2, $3, $4)",
        [
            &queue.as_str(),
            &consumer.as_str(),
            &provider.as_str(),
            &start.get()
        ]
    )
}

pub async fn unregister_consumer<C: GenericClient>(
    client: &C,
    queue: &QueueName,
    consumer: &ConsumerName,
) -> Result<Outcome, ApiError> {
    outcome!(
        client,
        "pgq_node.unregister_consumer",
        "($1, $2)",
        [&queue.as_str(), &consumer.as_str()]
    )
}

pub async fn change_consumer_provider<C: GenericClient>(
    client: &C,
    queue: &QueueName,
    consumer: &ConsumerName,
    provider: &NodeName,
) -> Result<Outcome, ApiError> {
    outcome!(
        client,
        "pgq_node.change_consumer_provider",
        "($1, $2, $3)",
        [&queue.as_str(), &consumer.as_str(), &provider.as_str()]
    )
}

/// Statements that move a consumer from one tick to the next, for the end of the batch's transaction. They
/// fail with a serialization failure if somebody else has moved it: then this batch is not ours to apply.
pub fn advance_consumer(queue: &QueueName, consumer: &ConsumerName, from: TickId, to: TickId) -> [String; 2] {
    let (queue, consumer) = (quote_literal(queue.as_str()), quote_literal(consumer.as_str()));
    // Waits for a transaction of a lost session that may still commit, and then sees what it did.
    let expect = format!(
        "begin \
           perform 1 from pgq_node.local_state \
             where queue_name = {queue} and consumer_name = {consumer} and last_tick_id = {from} for update; \
           if not found then \
             raise exception 'the position is not tick {from} any more' using errcode = 'serialization_failure'; \
           end if; \
         end"
    );
    [
        format!("do {}", quote_literal(&expect)),
        format!("select pgq_node.set_consumer_completed({queue}, {consumer}, {to})"),
    ]
}

/// In the transaction that applied the batch.
pub async fn set_consumer_completed<C: GenericClient>(
    client: &C,
    queue: &QueueName,
    consumer: &ConsumerName,
    tick: TickId,
) -> Result<Outcome, ApiError> {
    outcome!(
        client,
        "pgq_node.set_consumer_completed",
        "($1, $2, $3)",
        [&queue.as_str(), &consumer.as_str(), &tick.get()]
    )
}

pub async fn set_consumer_error<C: GenericClient>(
    client: &C,
    queue: &QueueName,
    consumer: &ConsumerName,
    error: &str,
) -> Result<Outcome, ApiError> {
    outcome!(
        client,
        "pgq_node.set_consumer_error",
        "($1, $2, $3)",
        [&queue.as_str(), &consumer.as_str(), &error]
    )
}

/// Whether a consumer may work.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Work {
    Paused,
    Resumed,
}

pub async fn set_consumer_paused<C: GenericClient>(
    client: &C,
    queue: &QueueName,
    consumer: &ConsumerName,
    work: Work,
) -> Result<Outcome, ApiError> {
    let paused = work == Work::Paused;
    outcome!(
        client,
        "pgq_node.set_consumer_paused",
        "($1, $2, $3)",
        [&queue.as_str(), &consumer.as_str(), &paused]
    )
}

/// The consumer has seen the last change an administrator made.
pub async fn set_consumer_uptodate<C: GenericClient>(
    client: &C,
    queue: &QueueName,
    consumer: &ConsumerName,
) -> Result<Outcome, ApiError> {
    outcome!(
        client,
        "pgq_node.set_consumer_uptodate",
        "($1, $2, true)",
        [&queue.as_str(), &consumer.as_str()]
    )
}

/// Position and flags of one cascaded consumer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ConsumerState {
    pub node_type: String,
    pub node_name: String,
    pub completed_tick: i64,
    pub provider_node: String,
    pub provider_location: String,
    pub paused: bool,
    pub uptodate: bool,
    pub cur_error: Option<String>,
}

/// Refused with 404 for an unknown queue or consumer.
pub async fn get_consumer_state<C: GenericClient>(
    client: &C,
    queue: &QueueName,
    consumer: &ConsumerName,
) -> Result<ConsumerState, ApiError> {
    let row = call!(
        client,
        "pgq_node.get_consumer_state",
        "($1, $2)",
        [&queue.as_str(), &consumer.as_str()]
    )?;
    Outcome::read("pgq_node.get_consumer_state", &row)?;
    Ok(ConsumerState {
        node_type: row.try_get("node_type")?,
        node_name: row.try_get("node_name")?,
        completed_tick: row.try_get("completed_tick")?,
        provider_node: row.try_get("provider_node")?,
        provider_location: row.try_get("provider_location")?,
        paused: row.try_get("paused")?,
        uptodate: row.try_get("uptodate")?,
        cur_error: row.try_get("cur_error")?,
    })
}

/// A cascaded consumer of this node.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ConsumerInfo {
    pub consumer_name: String,
    pub provider_node: String,
    pub last_tick_id: i64,
    pub paused: bool,
    pub uptodate: bool,
    pub cur_error: Option<String>,
}

pub async fn get_consumer_info<C: GenericClient>(
    client: &C,
    queue: &QueueName,
) -> Result<Vec<ConsumerInfo>, ApiError> {
    let rows = call!(many client, "pgq_node.get_consumer_info", "($1)", [&queue.as_str()])?;
    rows.iter()
        .map(|row| {
            Ok(ConsumerInfo {
                consumer_name: row.try_get("consumer_name")?,
                provider_node: row.try_get("provider_node")?,
                last_tick_id: row.try_get("last_tick_id")?,
                paused: row.try_get("paused")?,
                uptodate: row.try_get("uptodate")?,
                cur_error: row.try_get("cur_error")?,
            })
        })
        .collect()
}
