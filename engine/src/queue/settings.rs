//! What a consumer is told.

use std::path::PathBuf;
use std::time::Duration;

use skytide_sql::api::pgq::BatchSize;
use skytide_sql::conn::ConnectString;
use skytide_sql::{ConsumerName, QueueName};

#[derive(Clone, Debug)]
pub struct Settings {
    /// The database of the queue.
    pub source: ConnectString,
    pub application_name: String,
    pub queue: QueueName,
    pub consumer: ConsumerName,
    /// `None`: all batches are for this process.
    pub group: Option<Group>,
    /// The default takes one tick at a time, and what ticks of up to a second brought where it is behind.
    pub size: BatchSize,
    /// A condition in SQL on the event columns. Events that do not fit count as done.
    pub filter: Option<String>,
    pub chunk: Limits,
    /// The spool of a worker that follows the queue: batches are read there, and by SQL only where it does not have all
    /// of one. Not with a filter.
    pub spool: Option<PathBuf>,
    /// The longest wait between two looks for a batch. They begin close together and become rarer.
    pub poll: Duration,
    pub until: Until,
}

impl Settings {
    pub fn new(source: ConnectString, queue: QueueName, consumer: ConsumerName) -> Settings {
        Settings {
            application_name: consumer.as_str().to_owned(),
            source,
            queue,
            consumer,
            group: None,
            size: BatchSize::default(),
            filter: None,
            chunk: Limits::default(),
            spool: None,
            poll: Duration::from_millis(500),
            until: Until::Stopped,
        }
    }
}

/// One of several processes that share a consumer's batches. Each batch goes to one of them; two batches may be
/// worked on at the same time, so their order is lost.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Group {
    /// This process's name in the group. It is registered when it asks for its first batch.
    pub subconsumer: ConsumerName,
    /// Take over the batch of a process that was not heard of for so long. It must be longer than any batch
    /// takes.
    pub dead_interval: Option<Duration>,
}

/// How many events are in memory at once: whichever limit is reached first. An event that is larger than the
/// limit comes alone.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    pub rows: usize,
    pub bytes: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            rows: 1_000,
            bytes: 4 << 20,
        }
    }
}

/// When a consumer ends by itself. One that does reports every error at once instead of trying again.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Until {
    Stopped,
    /// No batch is there any more.
    Idle,
    /// So many batches were finished, or none is there any more.
    Batches(u64),
}

impl Until {
    pub(super) fn retries(self) -> bool {
        self == Until::Stopped
    }
}
