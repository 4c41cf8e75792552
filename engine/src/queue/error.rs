//! What goes wrong with queues, and whether time mends it.

use std::error::Error;
use std::fmt;

use skytide_sql::api::ApiError;
use skytide_sql::conn::ConnectError;
use skytide_sql::fault::{Fault, fault_of};
use skytide_sql::{BatchId, ConsumerName, QueueName, TickId};

#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum QueueError {
    #[error("connect to the queue's database")]
    Connect(#[source] ConnectError),

    #[error("connect to the target database")]
    ConnectTarget(#[source] ConnectError),

    #[error(transparent)]
    Api(#[from] ApiError),

    /// The mark of a batch could not be read or written.
    #[error("keep the position in the target database")]
    Mark(#[source] ApiError),

    #[error("{doing}")]
    Sql {
        doing: &'static str,
        #[source]
        source: tokio_postgres::Error,
    },

    #[error("there is no queue {0}")]
    NoQueue(QueueName),

    #[error("consumer {consumer} is not registered on queue {queue}")]
    NotRegistered {
        queue: QueueName,
        consumer: ConsumerName,
    },

    /// Somebody moved the consumer, or took the batch over.
    #[error("batch {0} is not ours any more")]
    BatchGone(BatchId),

    /// Going on would leave events out or bring them twice.
    #[error(
        "consumer {consumer} of queue {queue} has done tick {done} in the target database, but its next batch \
         is that from tick {prev} to {tick}"
    )]
    LostPosition {
        queue: QueueName,
        consumer: ConsumerName,
        done: TickId,
        prev: TickId,
        tick: TickId,
    },

    #[error("work on batch {batch}")]
    Handler {
        batch: BatchId,
        fault: Fault,
        #[source]
        source: Box<dyn Error + Send + Sync>,
    },
}

impl QueueError {
    pub fn fault(&self) -> Fault {
        match self {
            QueueError::Connect(source) | QueueError::ConnectTarget(source) => source.fault(),
            QueueError::Api(source) | QueueError::Mark(source) => source.fault(),
            QueueError::Sql { source, .. } => fault_of(source),
            QueueError::BatchGone(_) => Fault::Retry,
            QueueError::Handler { fault, .. } => *fault,
            QueueError::NoQueue(_) | QueueError::NotRegistered { .. } | QueueError::LostPosition { .. } => {
                Fault::Operator
            }
        }
    }

    pub(super) fn handler(batch: BatchId) -> impl FnOnce(HandlerError) -> QueueError {
        move |HandlerError { fault, source }| QueueError::Handler { batch, fault, source }
    }

    pub(super) fn sql(doing: &'static str) -> impl FnOnce(tokio_postgres::Error) -> QueueError {
        move |source| QueueError::Sql { doing, source }
    }
}

/// A handler's error: the batch stays open. Its fault says whether it is tried again.
#[derive(Debug)]
pub struct HandlerError {
    fault: Fault,
    source: Box<dyn Error + Send + Sync>,
}

impl HandlerError {
    /// The same batch is tried again after a pause.
    pub fn retry(source: impl Into<Box<dyn Error + Send + Sync>>) -> HandlerError {
        HandlerError {
            fault: Fault::Retry,
            source: source.into(),
        }
    }

    /// The consumer ends; a person has to look.
    pub fn stop(source: impl Into<Box<dyn Error + Send + Sync>>) -> HandlerError {
        HandlerError {
            fault: Fault::Operator,
            source: source.into(),
        }
    }

    pub(super) fn with_fault(fault: Fault, source: impl Into<Box<dyn Error + Send + Sync>>) -> HandlerError {
        HandlerError {
            fault,
            source: source.into(),
        }
    }

    pub fn fault(&self) -> Fault {
        self.fault
    }
}

impl fmt::Display for HandlerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.source.fmt(f)
    }
}

impl Error for HandlerError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        // The error itself is what `Display` shows.
        self.source.source()
    }
}

impl From<QueueError> for HandlerError {
    fn from(error: QueueError) -> HandlerError {
        HandlerError {
            fault: error.fault(),
            source: Box::new(error),
        }
    }
}

impl From<ApiError> for HandlerError {
    fn from(error: ApiError) -> HandlerError {
        HandlerError {
            fault: error.fault(),
            source: Box::new(error),
        }
    }
}

impl From<tokio_postgres::Error> for HandlerError {
    fn from(error: tokio_postgres::Error) -> HandlerError {
        HandlerError {
            fault: fault_of(&error),
            source: Box::new(error),
        }
    }
}
