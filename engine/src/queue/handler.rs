//! What users of this room write: handlers of batches and of events.

use std::collections::BTreeMap;
use std::time::Duration;

use skytide_sql::EventId;
use skytide_sql::api::pgq::{Batch, Event};
use tokio_postgres::Transaction;

use super::{Events, HandlerError};

/// Works on batches; each comes at least once. What it did not read of a batch counts as done (but the
/// server sends it all the same).
pub trait BatchHandler: Send {
    fn batch(
        &mut self,
        batch: &Batch,
        events: &mut Events,
        verdicts: &mut Verdicts,
    ) -> impl Future<Output = Result<(), HandlerError>> + Send;

    /// Whether ids or ticks of batches may be kept somewhere, to know a batch that comes again. If not, a batch is
    /// given without waiting for the server's disk: after a crash of the server its events may come in other batches.
    fn keeps_batches(&self) -> bool {
        true
    }
}

/// Works on batches in a transaction of the target database; each comes exactly once, if nothing is done
/// outside of it. The transaction is committed by the caller, together with the mark of the batch.
///
/// There are no verdicts here: an event that is retried comes in another batch, and a process that dies between
/// the two commits would lose it.
pub trait TargetHandler: Send {
    fn batch(
        &mut self,
        batch: &Batch,
        events: &mut Events,
        target: &Transaction<'_>,
    ) -> impl Future<Output = Result<(), HandlerError>> + Send;
}

/// What became of an event.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Verdict {
    Done,
    /// Come again after this time, in whole seconds, as often as it takes.
    Retry(Duration),
    /// It failed: come again later and later, as the queue's `max_retries` and `retry_delay` say; then it is a
    /// dead letter. With a reason for people.
    Nack(String),
    /// Make it a dead letter at once.
    Dead(String),
}

/// Events of a batch that are not done; told to the queue in the transaction that finishes the batch.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Verdicts {
    pub(super) retry: BTreeMap<Duration, Vec<EventId>>,
    pub(super) nack: BTreeMap<String, Vec<EventId>>,
    pub(super) dead: BTreeMap<String, Vec<EventId>>,
}

impl Verdicts {
    pub fn set(&mut self, event: EventId, verdict: Verdict) {
        match verdict {
            Verdict::Done => {}
            Verdict::Retry(after) => self.retry.entry(after).or_default().push(event),
            Verdict::Nack(reason) => self.nack.entry(reason).or_default().push(event),
            Verdict::Dead(reason) => self.dead.entry(reason).or_default().push(event),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.retry.is_empty() && self.nack.is_empty() && self.dead.is_empty()
    }
}

/// Works on events, one by one. Any `async fn(Event) -> Result<Verdict, HandlerError>` does.
pub trait EventHandler: Send {
    fn event(&mut self, event: Event) -> impl Future<Output = Result<Verdict, HandlerError>> + Send;
}

impl<F, R> EventHandler for F
where
    F: FnMut(Event) -> R + Send,
    R: Future<Output = Result<Verdict, HandlerError>> + Send,
{
    fn event(&mut self, event: Event) -> impl Future<Output = Result<Verdict, HandlerError>> + Send {
        self(event)
    }
}

/// Makes a batch handler of an event handler.
#[derive(Clone, Debug)]
pub struct PerEvent<H>(pub H);

impl<H: EventHandler> BatchHandler for PerEvent<H> {
    async fn batch(
        &mut self,
        _batch: &Batch,
        events: &mut Events,
        verdicts: &mut Verdicts,
    ) -> Result<(), HandlerError> {
        while let Some(event) = events.next_event().await? {
            let id = event.id;
            verdicts.set(id, self.0.event(event).await?);
        }
        Ok(())
    }

    /// An event does not know its batch.
    fn keeps_batches(&self) -> bool {
        false
    }
}
