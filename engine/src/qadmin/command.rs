//! What a command says, once it is understood.

use skytide_sql::{BatchId, ConsumerName, NodeName, QueueName, TableName, TickId};

/// One thing or all of its kind.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Which<T> {
    All,
    One(T),
}

impl<T> Which<T> {
    pub fn one(&self) -> Option<&T> {
        match self {
            Which::All => None,
            Which::One(one) => Some(one),
        }
    }
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Command {
    /// Not ours: for the server, as it was typed.
    Sql,
    Exit,
    Help,
    Connect(Connect),
    Install,
    Change(Change),
    Show(Show),
    Londiste(Londiste),
}

/// Of queues and consumers.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Change {
    CreateQueue(QueueName),
    DropQueue(QueueName),
    AlterQueue {
        queue: Which<QueueName>,
        settings: Vec<(&'static str, String)>,
    },
    Register {
        consumer: ConsumerName,
        queue: Option<QueueName>,
        start: Start,
    },
    Unregister {
        consumer: Which<ConsumerName>,
        queue: Option<QueueName>,
    },
    RegisterSub {
        sub: ConsumerName,
        consumer: ConsumerName,
        queue: Option<QueueName>,
    },
    UnregisterSub {
        sub: Which<ConsumerName>,
        consumer: ConsumerName,
        queue: Option<QueueName>,
        open_batch: OpenBatch,
    },
    /// Pause, resume, seek, purge.
    Steer {
        consumer: ConsumerName,
        queue: Option<QueueName>,
        how: Steering,
    },
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Connect {
    /// Keyword and value, as in a connect string.
    Database(Vec<(&'static str, String)>),
    Queue(QueueName),
    Node {
        queue: Option<QueueName>,
        node: NodeName,
    },
}

/// Where a new consumer begins.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Start {
    Newest,
    At(TickId),
    /// Where that consumer is.
    Copy(ConsumerName),
}

/// What happens to the batch a subconsumer is working on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OpenBatch {
    Refuse,
    Close,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Steering {
    Pause,
    Resume,
    Purge,
    Seek(TickId),
    /// To the last tick before it.
    SeekTime(String),
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Show {
    /// `None`: the default queue, or all.
    Queue(Option<Which<QueueName>>),
    Consumer {
        consumer: Which<ConsumerName>,
        queue: Which<QueueName>,
    },
    Node {
        node: Which<NodeName>,
        queue: Which<QueueName>,
    },
    Batch(Batch),
    Table(RelationName),
    Sequence(RelationName),
    Blockers(Option<Which<QueueName>>),
    DeadLetters(Option<Which<QueueName>>),
    Version,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Batch {
    Id(BatchId),
    OpenOf(ConsumerName),
}

/// A table or sequence as SQL names it: without a schema the search path finds it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RelationName {
    pub schema: Option<String>,
    pub name: String,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Londiste {
    AddTables {
        tables: Vec<TableName>,
        /// As `londiste.local_add_table` takes them.
        args: Vec<String>,
    },
    RemoveTables(Vec<TableName>),
    AddSequences(Vec<TableName>),
    RemoveSequences(Vec<TableName>),
    Tables,
    Sequences,
    Missing,
}
