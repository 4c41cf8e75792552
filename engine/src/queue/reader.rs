//! Reading a batch: rows as the server makes them, or what the spool had.

use std::pin::Pin;

use futures_util::TryStreamExt;
use skytide_sql::api::pgq::Event;
use tokio_postgres::RowStream;

use super::QueueError;
use super::packed::Packed;
use super::settings::Limits;

/// The events of one batch, in the order of their ids.
///
/// Rows that wait are left in the connection, which the server fills no further than its buffers: what
/// is in memory is the chunk that was asked for, and the next event.
pub struct Events {
    from: From,
    limits: Limits,
    read: u64,
}

enum From {
    Queue(Pin<Box<RowStream>>),
    Spool(Packed),
    /// A stream must not be asked again.
    End,
}

impl Events {
    pub(super) fn of_queue(rows: RowStream, limits: Limits) -> Events {
        Events {
            from: From::Queue(Box::pin(rows)),
            limits,
            read: 0,
        }
    }

    pub(super) fn of_spool(events: Packed, limits: Limits) -> Events {
        Events {
            from: From::Spool(events),
            limits,
            read: 0,
        }
    }

    /// The memory of events that came from a spool, for the next batch's.
    pub(super) fn into_packed(self) -> Option<Packed> {
        match self.from {
            From::Spool(events) => Some(events),
            From::Queue(_) | From::End => None,
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
            From::Queue(rows) => {
                let event = next_row(rows).await;
                if !matches!(event, Ok(Some(_))) {
                    self.from = From::End;
                }
                event.map_err(QueueError::sql("read the batch"))?
            }
            From::End => None,
            From::Spool(events) => events.next(),
        };
        self.read += u64::from(event.is_some());
        Ok(event)
    }

    /// The next events, as many as the settings' limits let be in memory, one at least. `None` at the batch's end.
    ///
    /// # Errors
    /// As [`Events::next_event`].
    pub async fn next_chunk(&mut self) -> Result<Option<Vec<Event>>, QueueError> {
        let mut chunk = Vec::new();
        let mut bytes = 0;
        while chunk.is_empty() || chunk.len() < self.limits.rows && bytes < self.limits.bytes {
            let Some(event) = self.next_event().await? else {
                break;
            };
            bytes += event.bytes();
            chunk.push(event);
        }
        Ok(if chunk.is_empty() { None } else { Some(chunk) })
    }
}

async fn next_row(rows: &mut Pin<Box<RowStream>>) -> Result<Option<Event>, tokio_postgres::Error> {
    match rows.try_next().await? {
        Some(row) => Event::read(&row).map(Some),
        None => Ok(None),
    }
}
