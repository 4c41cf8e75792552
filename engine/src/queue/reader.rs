//! Reading a batch: a cursor on the server, a few events at a time here; or what the spool had.

use std::pin::Pin;

use futures_util::TryStreamExt;
use skytide_sql::api::pgq::{self, Batch, Event};
use tokio_postgres::types::ToSql;
use tokio_postgres::{RowStream, Statement, Transaction};

use super::QueueError;
use super::settings::Limits;

/// The server makes this many rows before it sends them; we take them off the connection one by one, so it is no
/// bound of our memory.
const FETCHED_ROWS: usize = 500;
const CURSOR: &str = "skytide_batch";
const FETCH: &str = "fetch forward 500 from skytide_batch";
const NO_PARAMETERS: [&(dyn ToSql + Sync); 0] = [];

/// The events of one batch, in the order of their ids.
///
/// Rows that wait here are left in the connection, which the server fills no further than its buffers: what
/// is in memory is the chunk that was asked for, and the next event.
pub struct Events<'a> {
    from: From<'a>,
    limits: Limits,
    read: u64,
}

enum From<'a> {
    Cursor(Cursor<'a>),
    Spool(std::vec::IntoIter<Event>),
}

struct Cursor<'a> {
    source: &'a Transaction<'a>,
    fetch: Statement,
    block: Option<Block>,
    ended: bool,
}

struct Block {
    rows: Pin<Box<RowStream>>,
    seen: usize,
}

impl<'a> Events<'a> {
    pub(super) async fn open(
        source: &'a Transaction<'a>,
        batch: &Batch,
        filter: Option<&str>,
        limits: Limits,
    ) -> Result<Events<'a>, QueueError> {
        pgq::open_batch_cursor(source, batch.id, CURSOR, filter).await?;
        // Its columns are known only while the cursor is open.
        let fetch = source
            .prepare(FETCH)
            .await
            .map_err(QueueError::sql("read the batch"))?;
        let cursor = Cursor {
            source,
            fetch,
            block: None,
            ended: false,
        };
        Ok(Events {
            from: From::Cursor(cursor),
            limits,
            read: 0,
        })
    }

    pub(super) fn of_spool(events: Vec<Event>, limits: Limits) -> Events<'a> {
        Events {
            from: From::Spool(events.into_iter()),
            limits,
            read: 0,
        }
    }

    /// How many events were read.
    pub fn read(&self) -> u64 {
        self.read
    }

    /// # Errors
    /// The connection or the filter; the batch can not be read further then.
    pub async fn next_event(&mut self) -> Result<Option<Event>, QueueError> {
        let event = match &mut self.from {
            From::Cursor(cursor) => cursor.next_event().await?,
            From::Spool(events) => events.next(),
        };
        self.read += u64::from(event.is_some());
        Ok(event)
    }

    /// The next events, as many as the settings' limits let be in memory. `None` at the batch's end.
    ///
    /// # Errors
    /// As [`Events::next_event`].
    pub async fn next_chunk(&mut self) -> Result<Option<Vec<Event>>, QueueError> {
        let mut chunk = Vec::new();
        let mut bytes = 0;
        while chunk.len() < self.limits.rows.max(1) && bytes < self.limits.bytes {
            let Some(event) = self.next_event().await? else {
                break;
            };
            bytes += event.bytes();
            chunk.push(event);
        }
        Ok(if chunk.is_empty() { None } else { Some(chunk) })
    }
}

impl Cursor<'_> {
    async fn next_event(&mut self) -> Result<Option<Event>, QueueError> {
        let failed = QueueError::sql("read the batch");
        match self.next_row().await {
            Ok(None) => Ok(None),
            Ok(Some(row)) => Event::read(&row).map(Some).map_err(failed),
            Err(error) => {
                self.ended = true;
                Err(failed(error))
            }
        }
    }

    async fn next_row(&mut self) -> Result<Option<tokio_postgres::Row>, tokio_postgres::Error> {
        loop {
            if let Some(block) = &mut self.block {
                if let Some(row) = block.rows.try_next().await? {
                    block.seen += 1;
                    return Ok(Some(row));
                }
                self.ended = block.seen < FETCHED_ROWS;
                self.block = None;
            }
            if self.ended {
                return Ok(None);
            }
            let rows = self.source.query_raw(&self.fetch, NO_PARAMETERS).await?;
            self.block = Some(Block {
                rows: Box::pin(rows),
                seen: 0,
            });
        }
    }
}
