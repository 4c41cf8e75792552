//! The mark a consumer leaves in the target database, in the transaction of its work.
//!
//! A consumer that has all batches to itself marks ticks: the next batch must begin where the last one ended,
//! so a position that was lost is noticed. Batches of a group come in no order, so each is marked by its id, in
//! one of a ring of slots. Both wait for another session that works on the same batch, and see then that it
//! was done.

use skytide_sql::api::ApiError;
use skytide_sql::api::pgq::Batch;
use skytide_sql::api::pgq_ext;
use skytide_sql::{BatchId, ConsumerName, QueueName, TickId};
use tokio_postgres::{GenericClient, Transaction};

use super::{QueueError, Settings};

/// Slots of the ring. A batch's mark is overwritten when so many younger ones were taken: by then whoever held
/// it at the same time must have ended.
const SLOTS: i64 = 1024;

/// First key of the advisory locks; the second one is a hash of the consumer's name.
const LOCK_CLASS: i32 = 0x736b_7174;

pub(super) struct Mark {
    queue: QueueName,
    consumer: ConsumerName,
    kind: Kind,
}

enum Kind {
    Ticks,
    Batches,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Standing {
    ToDo,
    Done,
}

impl Mark {
    pub fn of(settings: &Settings) -> Mark {
        Mark {
            queue: settings.queue.clone(),
            consumer: settings.consumer.clone(),
            kind: match settings.group {
                None => Kind::Ticks,
                Some(_) => Kind::Batches,
            },
        }
    }

    /// Whether the batch is to be done; nobody else can be doing it until the transaction ends.
    pub async fn take(&self, target: &Transaction<'_>, batch: &Batch) -> Result<Standing, QueueError> {
        match self.kind {
            Kind::Batches => {
                let slot = slot(&self.queue, batch.id);
                let new = pgq_ext::set_batch_done(target, &self.consumer, &slot, batch.id)
                    .await
                    .map_err(QueueError::Mark)?;
                Ok(if new { Standing::ToDo } else { Standing::Done })
            }
            Kind::Ticks => {
                lock(target, &self.queue, &self.consumer).await?;
                let done = pgq_ext::get_last_tick(target, &self.consumer, self.queue.as_str())
                    .await
                    .map_err(QueueError::Mark)?;
                judge(done, batch.prev_tick, batch.tick).map_err(|done| QueueError::LostPosition {
                    queue: self.queue.clone(),
                    consumer: self.consumer.clone(),
                    done,
                    prev: batch.prev_tick,
                    tick: batch.tick,
                })
            }
        }
    }

    pub async fn set(&self, target: &Transaction<'_>, batch: &Batch) -> Result<(), QueueError> {
        match self.kind {
            Kind::Batches => Ok(()),
            Kind::Ticks => set_position(target, &self.queue, &self.consumer, batch.tick)
                .await
                .map_err(QueueError::Mark),
        }
    }
}

/// Where a batch stands against the last tick that was done; that tick, if it is neither end of the batch.
fn judge(done: Option<TickId>, prev: TickId, tick: TickId) -> Result<Standing, TickId> {
    match done {
        None => Ok(Standing::ToDo),
        Some(done) if done == prev => Ok(Standing::ToDo),
        Some(done) if done == tick => Ok(Standing::Done),
        Some(done) => Err(done),
    }
}

fn slot(queue: &QueueName, batch: BatchId) -> String {
    format!("{queue} #{}", batch.get().rem_euclid(SLOTS))
}

async fn lock(
    target: &Transaction<'_>,
    queue: &QueueName,
    consumer: &ConsumerName,
) -> Result<(), QueueError> {
    target
        .execute(
            "select pg_advisory_xact_lock($1, hashtext($2))",
            &[&LOCK_CLASS, &format!("{queue} {consumer}")],
        )
        .await
        .map_err(QueueError::sql("lock the position in the target database"))?;
    Ok(())
}

/// Says in the target database that everything up to a tick was done there.
pub async fn set_position<C: GenericClient>(
    target: &C,
    queue: &QueueName,
    consumer: &ConsumerName,
    tick: TickId,
) -> Result<(), ApiError> {
    pgq_ext::set_last_tick(target, consumer, queue.as_str(), Some(tick)).await
}

/// Forgets what was done in the target database: the next batch is taken as it comes.
pub async fn forget_position<C: GenericClient>(
    target: &C,
    queue: &QueueName,
    consumer: &ConsumerName,
) -> Result<(), ApiError> {
    pgq_ext::set_last_tick(target, consumer, queue.as_str(), None).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_is_done_to_do_or_lost() {
        let tick = TickId::new;
        assert_eq!(judge(None, tick(3), tick(5)), Ok(Standing::ToDo));
        assert_eq!(judge(Some(tick(3)), tick(3), tick(5)), Ok(Standing::ToDo));
        assert_eq!(judge(Some(tick(5)), tick(3), tick(5)), Ok(Standing::Done));
        for other in [2, 4, 6] {
            assert_eq!(judge(Some(tick(other)), tick(3), tick(5)), Err(tick(other)));
        }
    }

    #[test]
    fn slots_go_round() {
        let queue = QueueName::new("q").unwrap();
        assert_eq!(slot(&queue, BatchId::new(1025)), "q #1");
        assert_eq!(slot(&queue, BatchId::new(1023)), "q #1023");
    }
}
