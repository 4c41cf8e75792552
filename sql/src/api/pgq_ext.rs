//! Schema `pgq_ext`: what consumers of queues in other databases have done in this one.

use tokio_postgres::GenericClient;

use super::{ApiError, call};
use crate::{BatchId, ConsumerName, TickId};

/// `None`: nothing was done yet.
pub async fn get_last_tick<C: GenericClient>(
    client: &C,
    consumer: &ConsumerName,
    subconsumer: &str,
) -> Result<Option<TickId>, ApiError> {
    let row = call!(
        client,
        "pgq_ext.get_last_tick",
        "($1, $2)",
        [&consumer.as_str(), &subconsumer]
    )?;
    Ok(row.try_get::<_, Option<i64>>(0)?.map(TickId::new))
}

/// `None` forgets the consumer.
pub async fn set_last_tick<C: GenericClient>(
    client: &C,
    consumer: &ConsumerName,
    subconsumer: &str,
    tick: Option<TickId>,
) -> Result<(), ApiError> {
    call!(
        client,
        "pgq_ext.set_last_tick",
        "($1, $2, $3)",
        [&consumer.as_str(), &subconsumer, &tick.map(TickId::get)]
    )?;
    Ok(())
}

/// `false`: it was the last one done already. Waits for another session that is doing it.
pub async fn set_batch_done<C: GenericClient>(
    client: &C,
    consumer: &ConsumerName,
    subconsumer: &str,
    batch: BatchId,
) -> Result<bool, ApiError> {
    let row = call!(
        client,
        "pgq_ext.set_batch_done",
        "($1, $2, $3)",
        [&consumer.as_str(), &subconsumer, &batch.get()]
    )?;
    Ok(row.try_get(0)?)
}
