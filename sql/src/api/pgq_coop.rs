//! Schema `pgq_coop`: subconsumers that share the batches of one consumer.

use std::time::Duration;

use tokio_postgres::GenericClient;

use super::pgq::{BatchSize, Made};
use super::{ApiError, call};
use crate::{BatchId, ConsumerName, QueueName};

/// Registers a subconsumer, and the consumer if need be.
pub async fn register_subconsumer<C: GenericClient>(
    client: &C,
    queue: &QueueName,
    consumer: &ConsumerName,
    subconsumer: &ConsumerName,
) -> Result<Made, ApiError> {
    Made::read(&call!(
        client,
        "pgq_coop.register_subconsumer",
        "($1, $2, $3)",
        [&queue.as_str(), &consumer.as_str(), &subconsumer.as_str()]
    )?)
}

/// What becomes of the batch that a leaving subconsumer has open.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OpenBatch {
    /// Then it may not leave.
    Refuse,
    /// Its events stay unprocessed.
    Drop,
}

/// `false`: it was not registered.
pub async fn unregister_subconsumer<C: GenericClient>(
    client: &C,
    queue: &QueueName,
    consumer: &ConsumerName,
    subconsumer: &ConsumerName,
    open_batch: OpenBatch,
) -> Result<bool, ApiError> {
    let handling = i32::from(open_batch == OpenBatch::Drop);
    let row = call!(
        client,
        "pgq_coop.unregister_subconsumer",
        "($1, $2, $3, $4)",
        [
            &queue.as_str(),
            &consumer.as_str(),
            &subconsumer.as_str(),
            &handling
        ]
    )?;
    Ok(row.try_get::<_, i32>(0)? == 1)
}

/// Opens the group's next batch for a subconsumer, or gives the one it has open. `dead_interval`: takes over
/// the batch of a subconsumer that was not heard of for so long.
pub async fn next_batch_custom<C: GenericClient>(
    client: &C,
    queue: &QueueName,
    consumer: &ConsumerName,
    subconsumer: &ConsumerName,
    size: &BatchSize,
    dead_interval: Option<Duration>,
) -> Result<Option<BatchId>, ApiError> {
    let seconds = |duration: Option<Duration>| duration.map(|duration| duration.as_secs_f64());
    let row = call!(
        client,
        "pgq_coop.next_batch_custom",
        "($1, $2, $3, make_interval(secs => $4), $5, make_interval(secs => $6), make_interval(secs => $7))",
        [
            &queue.as_str(),
            &consumer.as_str(),
            &subconsumer.as_str(),
            &seconds(size.min_lag),
            &size.min_count,
            &seconds(size.min_interval),
            &seconds(dead_interval),
        ]
    )?;
    Ok(row.try_get::<_, Option<i64>>(0)?.map(BatchId::new))
}

/// `false`: no subconsumer has this batch open any more.
pub async fn finish_batch<C: GenericClient>(client: &C, batch: BatchId) -> Result<bool, ApiError> {
    let row = call!(client, "pgq_coop.finish_batch", "($1)", [&batch.get()])?;
    Ok(row.try_get::<_, i32>(0)? == 1)
}
