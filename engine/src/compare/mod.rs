//! Proves that both sides hold the same rows, at the same tick, while everything runs.
//!
//! The provider's side is a transaction whose snapshot *is* a tick's: under the queue's tick lock it is
//! taken first and then stored as the next tick. The subscriber's side is a transaction begun while the
//! worker stands at exactly that tick: the tick carries a barrier, so the worker does not join it with
//! later ones and then waits at a gate (an advisory lock) until the compare has its snapshot. If the
//! compare dies, its locks go with it and the worker goes on. The compared tables cannot be truncated on
//! either side before the compare ends.

use std::time::Duration;

use skytide_sql::conn::{ConnectString, Session, connect, connect_to_write};
use skytide_sql::ident::quote_ident;
use skytide_sql::{QueueName, TableName, TickId};
use tokio::time::{Instant, sleep};
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

use crate::capture::assemble::BARRIER_EVENT;
use crate::copy::CopyError;
use crate::copy::plan::{TableShape, shape};

/// Between two tries to lock the tables: others have their turn.
const LOCK_PAUSE: Duration = Duration::from_millis(100);

/// One table's two names.
#[derive(Clone, Debug)]
pub struct Pair {
    /// The set's name.
    pub table: TableName,
    pub source: TableName,
    pub dest: TableName,
}

#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Sum {
    pub rows: i64,
    /// Sum of 64-bit hashes of the rows' text: independent of their order.
    pub checksum: String,
}

#[derive(Clone, Debug, serde::Serialize)]
pub struct TableResult {
    pub table: String,
    pub provider: Sum,
    pub subscriber: Sum,
    pub equal: bool,
    /// Columns that only one side has or fills: nothing is said about them.
    pub left_out: Vec<String>,
}

#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CompareError {
    #[error("the worker did not reach tick {tick} within {waited:?}; it is at {at}")]
    Behind {
        tick: TickId,
        at: TickId,
        waited: Duration,
    },
    #[error("the worker went past tick {tick} while it should wait there (was it restarted?)")]
    Passed { tick: TickId },
    #[error("tables {table} have no column in common")]
    NoColumns { table: TableName },
    #[error(transparent)]
    Connect(#[from] skytide_sql::conn::ConnectError),
    #[error(transparent)]
    Sql(#[from] tokio_postgres::Error),
    #[error(transparent)]
    Shape(#[from] CopyError),
}

/// Both sides, frozen at one tick.
pub struct Frozen {
    pub tick: TickId,
    provider: Session,
    subscriber: Session,
    /// The databases' encodings differ.
    as_utf8: bool,
}

pub struct Sides<'a> {
    pub provider: &'a ConnectString,
    pub subscriber: &'a ConnectString,
    pub application_name: &'a str,
    pub queue: &'a QueueName,
    /// The node's worker: its position is the subscriber's.
    pub worker: &'a str,
    /// How long the worker may take to get to the tick.
    pub patience: Duration,
}

/// The worker's position as this connection sees it.
async fn position(client: &Client, sides: &Sides<'_>) -> Result<TickId, CompareError> {
    let row = client
        .query_one(
            "select last_tick_id from pgq_node.local_state where queue_name = $1 and consumer_name = $2",
            &[&sides.queue.as_str(), &sides.worker],
        )
        .await?;
    Ok(TickId::new(row.get(0)))
}

/// A statement that keeps these tables from being truncated: a truncated table is empty for every
/// snapshot, earlier ones too. Before the transaction's first query, so that its snapshot is younger.
fn keep<'a>(tables: impl Iterator<Item = &'a TableName>) -> String {
    let tables: Vec<_> = tables.map(TableName::quoted).collect();
    match tables.is_empty() {
        true => String::new(),
        false => format!(
            "; lock table only {} in access share mode",
            tables.join(", only ")
        ),
    }
}

/// Begins a transaction that keeps tables. Who truncates several of them at once may take his locks in another order: we
/// let go of ours before that becomes a deadlock, and try again.
async fn begin(client: &Client, keep: &str, patience: Duration) -> Result<(), CompareError> {
    let sql = format!(
        "begin isolation level repeatable read read only; set local lock_timeout = '500ms'{keep}; set local lock_timeout = 0"
    );
    let started = Instant::now();
    loop {
        match client.batch_execute(&sql).await {
            Err(e) if is_contended(&e) && started.elapsed() < patience => {
                client.batch_execute("rollback").await?;
                sleep(LOCK_PAUSE).await;
            }
            begun => return Ok(begun?),
        }
    }
}

fn is_contended(error: &tokio_postgres::Error) -> bool {
    let contended = [&SqlState::LOCK_NOT_AVAILABLE, &SqlState::T_R_DEADLOCK_DETECTED];
    error.code().is_some_and(|code| contended.contains(&code))
}

/// Takes both snapshots.
pub async fn freeze(sides: &Sides<'_>, pairs: &[Pair]) -> Result<Frozen, CompareError> {
    let gate = connect(sides.subscriber, sides.application_name).await?;
    let key = "pg_catalog.hashtextextended('skytide.compare.' || $1, 0)";
    gate.execute(
        &format!("select pg_catalog.pg_advisory_lock({key})"),
        &[&sides.queue.as_str()],
    )
    .await?;

    let provider = connect(sides.provider, sides.application_name).await?;
    let mut ticking = connect_to_write(sides.provider, sides.application_name).await?;
    let held = keep(pairs.iter().map(|p| &p.source));
    begin(&provider, &held, sides.patience).await?;
    let tick = {
        let transaction = ticking.transaction().await?;
        transaction
            .execute("select pgq.lock_ticks($1)", &[&sides.queue.as_str()])
            .await?;
        let row = provider
            .query_one("select pg_catalog.txid_current_snapshot()::text", &[])
            .await?;
        let snapshot: String = row.get(0);
        let row = transaction
            .query_one(
                "select pgq.tick_at_snapshot($1, $2::text::txid_snapshot, $3, $4)",
                &[
                    &sides.queue.as_str(),
                    &snapshot,
                    &BARRIER_EVENT,
                    &sides.application_name,
                ],
            )
            .await?;
        transaction.commit().await?;
        TickId::new(row.get(0))
    };

    let started = Instant::now();
    loop {
        let at = position(&gate, sides).await?;
        if at == tick {
            break;
        }
        if at > tick {
            return Err(CompareError::Passed { tick });
        }
        if started.elapsed() > sides.patience {
            return Err(CompareError::Behind {
                tick,
                at,
                waited: sides.patience,
            });
        }
        sleep(Duration::from_millis(10)).await;
    }
    let subscriber = connect(sides.subscriber, sides.application_name).await?;
    let held = keep(pairs.iter().map(|p| &p.dest));
    begin(&subscriber, &held, sides.patience).await?;
    if position(&subscriber, sides).await? != tick {
        return Err(CompareError::Passed { tick });
    }
    let as_utf8 = encoding(&provider).await? != encoding(&subscriber).await?;
    // Closing the gate's session opens the gate.
    Ok(Frozen {
        tick,
        as_utf8,
        provider,
        subscriber,
    })
}

impl Frozen {
    /// Counts and sums one table on both sides at the same time.
    pub async fn compare(&self, pair: &Pair) -> Result<TableResult, CompareError> {
        let source_shape = shape(&self.provider, &pair.source, "provider").await?;
        let dest_shape = shape(&self.subscriber, &pair.dest, "subscriber").await?;
        let (columns, left_out) = common_columns(&source_shape, &dest_shape);
        if columns.is_empty() {
            return Err(CompareError::NoColumns {
                table: pair.table.clone(),
            });
        }
        let (provider, subscriber) = tokio::try_join!(
            sum(&self.provider, &pair.source, &columns, self.as_utf8),
            sum(&self.subscriber, &pair.dest, &columns, self.as_utf8),
        )?;
        let equal = provider == subscriber;
        Ok(TableResult {
            table: pair.table.to_string(),
            provider,
            subscriber,
            equal,
            left_out,
        })
    }
}

/// The columns of both sides, quoted, and the names of those that only one has, or only one fills: a column generated on the
/// provider is not sent.
fn common_columns(source: &TableShape, dest: &TableShape) -> (Vec<String>, Vec<String>) {
    let has = |shape: &TableShape, name: &str| shape.columns.iter().any(|c| c.name == name);
    let plain_here = |name: &str| dest.columns.iter().any(|c| c.name == name && !c.generated);
    let (common, left_out): (Vec<_>, Vec<_>) = source
        .columns
        .iter()
        .partition(|c| has(dest, &c.name) && !(c.generated && plain_here(&c.name)));
    let mut left_out: Vec<String> = left_out.iter().map(|c| c.name.clone()).collect();
    let only_here = dest.columns.iter().filter(|c| !has(source, &c.name));
    left_out.extend(only_here.map(|c| c.name.clone()));
    (common.iter().map(|c| quote_ident(&c.name)).collect(), left_out)
}

async fn encoding(client: &Client) -> Result<String, tokio_postgres::Error> {
    let sql = "select pg_catalog.current_setting('server_encoding')";
    Ok(client.query_one(sql, &[]).await?.get(0))
}

async fn sum(
    client: &Client,
    table: &TableName,
    columns: &[String],
    as_utf8: bool,
) -> Result<Sum, CompareError> {
    // The text of a row depends on settings; the connection pins all but the zone.
    client
        .batch_execute("set local timezone = 'UTC'; set local search_path = pg_catalog")
        .await?;
    let mut text = format!("row({})::text", columns.join(", "));
    if as_utf8 {
        text = format!("encode(convert_to({text}, 'UTF8'), 'hex')");
    }
    let sql = format!(
        "select count(*), coalesce(sum(hashtextextended({text}, 0)), 0)::text from only {}",
        table.quoted(),
    );
    let row = client.query_one(&sql, &[]).await?;
    Ok(Sum {
        rows: row.get(0),
        checksum: row.get(1),
    })
}
