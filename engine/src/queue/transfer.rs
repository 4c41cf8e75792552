//! From queue to queue, exactly once: all into one, or each event into the one it names.

use skytide_sql::QueueName;
use skytide_sql::api::pgq::{self, Batch, Event};
use tokio_postgres::Transaction;

use super::{Events, HandlerError, TargetHandler};

/// Copies events into one queue: type, data, extra fields and time stay, ids are new.
#[derive(Clone, Debug)]
pub struct Mover {
    pub queue: QueueName,
}

impl TargetHandler for Mover {
    async fn batch(
        &mut self,
        _batch: &Batch,
        events: &mut Events,
        target: &Transaction<'_>,
    ) -> Result<(), HandlerError> {
        while let Some(chunk) = events.next_chunk().await? {
            let all: Vec<&Event> = chunk.iter().collect();
            pgq::insert_events_at_their_time(target, &self.queue, &all).await?;
            fail::fail_point!("queue::mid_batch");
        }
        Ok(())
    }
}

/// A field of events whose value names a queue.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Field {
    Type,
    Extra1,
    Extra2,
    Extra3,
    Extra4,
}

impl Field {
    pub fn of(self, event: &Event) -> Option<&str> {
        let [extra1, extra2, extra3, extra4] = &event.extra;
        match self {
            Field::Type => event.ev_type.as_deref(),
            Field::Extra1 => extra1.as_deref(),
            Field::Extra2 => extra2.as_deref(),
            Field::Extra3 => extra3.as_deref(),
            Field::Extra4 => extra4.as_deref(),
        }
    }

    fn name(self) -> &'static str {
        match self {
            Field::Type => "ev_type",
            Field::Extra1 => "ev_extra1",
            Field::Extra2 => "ev_extra2",
            Field::Extra3 => "ev_extra3",
            Field::Extra4 => "ev_extra4",
        }
    }
}

/// Copies each event into the queue that a field of it names. One that names none, or one that is not there,
/// stops the consumer: nothing is left out in silence.
#[derive(Clone, Debug)]
pub struct Splitter {
    pub field: Field,
}

impl TargetHandler for Splitter {
    async fn batch(
        &mut self,
        _batch: &Batch,
        events: &mut Events,
        target: &Transaction<'_>,
    ) -> Result<(), HandlerError> {
        while let Some(chunk) = events.next_chunk().await? {
            for (name, share) in shares(&chunk, self.field)? {
                let queue = QueueName::stored(name).map_err(HandlerError::stop)?;
                pgq::insert_events_at_their_time(target, &queue, &share).await?;
            }
            fail::fail_point!("queue::mid_batch");
        }
        Ok(())
    }
}

/// The events of each queue, in their order; queues in the order of their first event.
fn shares(chunk: &[Event], field: Field) -> Result<Vec<(&str, Vec<&Event>)>, HandlerError> {
    let mut shares: Vec<(&str, Vec<&Event>)> = Vec::new();
    for event in chunk {
        let Some(name) = field.of(event) else {
            let text = format!("event {} names no queue: its {} is null", event.id, field.name());
            return Err(HandlerError::stop(text));
        };
        match shares.iter_mut().find(|(known, _)| *known == name) {
            Some((_, share)) => share.push(event),
            None => shares.push((name, vec![event])),
        }
    }
    Ok(shares)
}

#[cfg(test)]
mod tests {
    use super::*;
    use skytide_sql::{EventId, EventTime};

    fn event(id: i64, queue: Option<&str>) -> Event {
        Event {
            id: EventId::new(id),
            time: EventTime::UNIX_EPOCH,
            txid: None,
            retry: 0,
            ev_type: None,
            data: None,
            extra: [queue.map(str::to_owned), None, None, None],
        }
    }

    #[test]
    fn each_queue_gets_its_events_in_order() {
        let chunk = [
            event(1, Some("b")),
            event(2, Some("a")),
            event(3, Some("b")),
            event(4, Some("a")),
        ];
        let shares = shares(&chunk, Field::Extra1).unwrap();
        let ids: Vec<(&str, Vec<i64>)> = shares
            .iter()
            .map(|(name, share)| (*name, share.iter().map(|event| event.id.get()).collect()))
            .collect();
        assert_eq!(ids, [("b", vec![1, 3]), ("a", vec![2, 4])]);
    }

    #[test]
    fn an_event_without_a_queue_is_told() {
        let error = shares(&[event(7, None)], Field::Extra1).unwrap_err();
        assert_eq!(error.to_string(), "event 7 names no queue: its ev_extra1 is null");
    }
}
