//! The mark a consumer leaves in the target database, in the transaction of its work.
//!
//! A consumer that has all batches to itself marks ticks: the next batch must begin where the last one ended,
//! so a position that was lost is noticed. Batches of a group come in no order, so each is marked by itself, in
//! one of a ring of slots. Both wait for another session that works on the same batch, and see then that it
//! was done.

use std::time::{SystemTime, UNIX_EPOCH};

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
                let new = pgq_ext::set_batch_done(target, &self.consumer, &slot, fingerprint(batch))
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

/// What a batch is marked as done by (FNV-1a, 63 bits). Not its id: that of a queue that was made anew or restored, or
/// of the same queue's in another database, may have been done before and is another batch.
fn fingerprint(batch: &Batch) -> BatchId {
    let micros = |time: SystemTime| match time.duration_since(UNIX_EPOCH) {
        Ok(since) => since.as_micros() as i64,
        Err(before) => -(before.duration().as_micros() as i64),
    };
    let parts = [
        batch.id.get(),
        batch.prev_tick.get(),
        batch.tick.get(),
        micros(batch.start),
        micros(batch.end),
    ];
    let hash = parts
        .iter()
        .flat_map(|part| part.to_be_bytes())
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
    // Ids that are not positive are not stored.
    BatchId::new(((hash >> 1) as i64).max(1))
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
    fn a_batch_is_told_from_any_other_of_its_id() {
        let time = |seconds| UNIX_EPOCH + std::time::Duration::from_secs(seconds);
        let batch = Batch {
            id: BatchId::new(7),
            prev_tick: TickId::new(3),
            tick: TickId::new(4),
            start: time(10),
            end: time(20),
            lag: std::time::Duration::ZERO,
            consumer_name: "c".into(),
        };
        // It stands in databases.
        assert_eq!(fingerprint(&batch), BatchId::new(4_080_217_022_982_636_248));
        let again = Batch {
            lag: std::time::Duration::from_secs(9),
            consumer_name: "c.other".into(),
            ..batch.clone()
        };
        assert_eq!(fingerprint(&again), fingerprint(&batch));
        for other in [
            Batch {
                id: BatchId::new(8),
                ..batch.clone()
            },
            Batch {
                prev_tick: TickId::new(2),
                ..batch.clone()
            },
            Batch {
                tick: TickId::new(5),
                ..batch.clone()
            },
            Batch {
                start: time(11),
                ..batch.clone()
            },
            Batch {
                end: time(21),
                ..batch.clone()
            },
        ] {
            assert_ne!(fingerprint(&other), fingerprint(&batch));
        }
    }

    #[test]
    fn slots_go_round() {
        let queue = QueueName::new("q").unwrap();
        assert_eq!(slot(&queue, BatchId::new(1025)), "q #1");
        assert_eq!(slot(&queue, BatchId::new(1023)), "q #1023");
    }
}
