//! Events of a batch side by side in memory: two allocations for all of them, until each is asked for.

use skytide_sql::api::pgq::Event;
use skytide_sql::{EventId, EventTime, Xid};

/// Gives its events in the order they were sorted into, each once.
#[derive(Debug, Default)]
pub(super) struct Packed {
    /// All texts, one behind the other.
    text: String,
    rows: Vec<Row>,
    next: usize,
}

/// An event without its texts.
#[derive(Debug, Clone, Copy)]
pub(super) struct Row {
    pub id: EventId,
    pub time: EventTime,
    pub txid: Option<Xid>,
    pub retry: u32,
    pub ev_type: Text,
    pub data: Text,
    pub extra: [Text; 4],
}

/// Where a text is; none at first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Text {
    start: u32,
    /// [`NULL`] for none.
    bytes: u32,
}

const NULL: u32 = u32::MAX;

impl Default for Text {
    fn default() -> Text {
        Text {
            start: 0,
            bytes: NULL,
        }
    }
}

impl Packed {
    /// Forgets all events, and keeps their memory for others.
    pub fn clear(&mut self) {
        self.text.clear();
        self.rows.clear();
        self.next = 0;
    }

    /// What it would go on taking in memory, without events.
    pub fn capacity_bytes(&self) -> usize {
        self.text.capacity() + self.rows.capacity() * size_of::<Row>()
    }

    /// Keeps a text. `None`: there is no room for it in 4 GiB.
    pub fn keep(&mut self, text: &str) -> Option<Text> {
        let start = u32::try_from(self.text.len()).ok()?;
        let bytes = u32::try_from(text.len()).ok().filter(|bytes| *bytes != NULL)?;
        self.text.push_str(text);
        Some(Text { start, bytes })
    }

    pub fn push(&mut self, row: Row) {
        self.rows.push(row);
    }

    /// Forgets texts that were kept after there were so many bytes of them, for an event that is none.
    pub fn forget_texts(&mut self, behind: usize) {
        self.text.truncate(behind);
    }

    pub fn text_bytes(&self) -> usize {
        self.text.len()
    }

    /// What it takes in memory, about.
    pub fn bytes(&self) -> usize {
        self.text.len() + self.rows.len() * size_of::<Row>()
    }

    pub fn sort_by_id(&mut self) {
        self.rows.sort_unstable_by_key(|row| row.id);
    }

    fn text(&self, text: Text) -> Option<String> {
        let start = text.start as usize;
        let end = start + text.bytes as usize;
        (text.bytes != NULL)
            .then(|| self.text.get(start..end))
            .flatten()
            .map(str::to_owned)
    }
}

impl Iterator for Packed {
    type Item = Event;

    fn next(&mut self) -> Option<Event> {
        let row = *self.rows.get(self.next)?;
        self.next += 1;
        Some(Event {
            id: row.id,
            time: row.time,
            txid: row.txid,
            retry: row.retry,
            ev_type: self.text(row.ev_type),
            data: self.text(row.data),
            extra: row.extra.map(|text| self.text(text)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_come_back_as_they_were_by_their_ids() {
        let mut packed = Packed::default();
        for id in [3, 1, 2] {
            let data = packed.keep(&"ü".repeat(id)).unwrap();
            let row = Row {
                id: EventId::new(id as i64),
                time: EventTime::UNIX_EPOCH,
                txid: None,
                retry: 0,
                ev_type: Text::default(),
                data,
                extra: [Text::default(), packed.keep("").unwrap(), data, Text::default()],
            };
            packed.push(row);
        }
        let before = packed.text_bytes();
        packed.keep("of an event that is none").unwrap();
        packed.forget_texts(before);
        packed.sort_by_id();
        let events: Vec<Event> = packed.collect();
        for (event, n) in events.iter().zip(1..) {
            assert_eq!(event.id, EventId::new(n));
            let text = "ü".repeat(n as usize);
            assert_eq!(
                (&event.ev_type, event.data.as_deref()),
                (&None, Some(text.as_str()))
            );
            assert_eq!(event.extra, [None, Some(String::new()), Some(text), None]);
        }
        assert_eq!(events.len(), 3);
    }

    #[test]
    fn memory_is_used_again_and_nothing_of_what_was_in_it() {
        let mut packed = Packed::default();
        let row = |id, data| Row {
            id: EventId::new(id),
            time: EventTime::UNIX_EPOCH,
            txid: None,
            retry: 0,
            ev_type: Text::default(),
            data,
            extra: Default::default(),
        };
        for id in 1..=2 {
            let data = packed.keep("first").unwrap();
            packed.push(row(id, data));
        }
        assert!(packed.next().is_some());
        let capacity = packed.capacity_bytes();
        packed.clear();
        assert_eq!((packed.next(), packed.bytes()), (None, 0));
        let data = packed.keep("new").unwrap();
        packed.push(row(3, data));
        let event = packed.next().unwrap();
        assert_eq!((event.id.get(), event.data.as_deref()), (3, Some("new")));
        assert_eq!(packed.capacity_bytes(), capacity);
    }
}
