//! What the queue itself carries: events of the set's administration, in the same batches as rows.

use std::cell::RefCell;
use std::sync::Arc;

use skytide_sql::ident::quote_literal;
use skytide_sql::{QueueName, Xid};

use super::WorkerError;
use crate::apply::{ApplyError, ChangeSource};
use crate::batch::BatchSource;
use crate::capture::assemble::BARRIER_EVENT;
use crate::change::{ColumnValue, Relation, RelationId, RowChange, Tuple};

/// A PgQ event, as far as a worker needs it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Event {
    pub kind: String,
    pub data: String,
    pub extra1: String,
    pub extra2: Option<String>,
    pub extra3: Option<String>,
}

#[derive(Clone, Copy)]
struct EventColumns {
    owner: usize,
    kind: usize,
    data: usize,
    extra1: usize,
    extra2: usize,
    extra3: usize,
}

#[derive(Clone, Copy)]
enum Role {
    Unknown,
    Table,
    Events(EventColumns),
}

/// Takes events out of a batch's changes and keeps them for its end.
pub struct EventTap {
    batch: BatchSource,
    events: RefCell<Vec<Event>>,
}

impl EventTap {
    pub fn new(batch: BatchSource) -> EventTap {
        EventTap {
            batch,
            events: RefCell::default(),
        }
    }

    /// The events of the batch, once it is drained.
    pub fn events(&self) -> Vec<Event> {
        self.events.borrow().clone()
    }

    pub fn into_batch(self) -> BatchSource {
        self.batch
    }
}

impl ChangeSource for EventTap {
    fn relation(&self, id: RelationId) -> Option<Arc<Relation>> {
        self.batch.relation(id)
    }

    fn drain(
        &self,
        sink: &mut dyn FnMut(Xid, &RowChange<'_>) -> Result<(), ApplyError>,
    ) -> Result<(), ApplyError> {
        let mut roles = Vec::new();
        let mut events = self.events.borrow_mut();
        events.clear();
        self.batch.drain(&mut |xid, change| {
            if let RowChange::Insert { relation, new } = change {
                let index = relation.0 as usize;
                if index >= roles.len() {
                    roles.resize(index + 1, Role::Unknown);
                }
                if let Role::Unknown = roles[index] {
                    roles[index] = self.batch.relation(*relation).map_or(Role::Table, |r| role(&r));
                }
                if let Role::Events(columns) = roles[index] {
                    events.extend(event(new, &columns));
                    return Ok(());
                }
            }
            sink(xid, change)
        })
    }
}

fn role(relation: &Relation) -> Role {
    let column = |name: &str| relation.columns.iter().position(|c| c.name == name);
    if relation.table.schema != "pgq" || !relation.table.name.starts_with("event_") {
        return Role::Table;
    }
    let columns = (|| {
        Some(EventColumns {
            owner: column("ev_owner")?,
            kind: column("ev_type")?,
            data: column("ev_data")?,
            extra1: column("ev_extra1")?,
            extra2: column("ev_extra2")?,
            extra3: column("ev_extra3")?,
        })
    })();
    columns.map_or(Role::Table, Role::Events)
}

/// `None` for an event that was put back for one consumer only.
fn event(row: &Tuple<'_>, columns: &EventColumns) -> Option<Event> {
    let text = |column: usize| match row.values().nth(column) {
        Some(ColumnValue::Text(v) | ColumnValue::Binary(v)) => Some(String::from_utf8_lossy(v).into_owned()),
        _ => None,
    };
    let kind = text(columns.kind).unwrap_or_default();
    // A queue may carry any number of an application's events in one batch: they are not kept.
    let ours = ["pgq.", "londiste."].iter().any(|p| kind.starts_with(p)) || kind == "EXECUTE";
    if !ours || text(columns.owner).is_some() {
        return None;
    }
    Some(Event {
        kind,
        data: text(columns.data).unwrap_or_default(),
        extra1: text(columns.extra1).unwrap_or_default(),
        extra2: text(columns.extra2),
        extra3: text(columns.extra3),
    })
}

/// What an event does to a leaf, as statements for the batch's transaction. Events that are no business
/// of a leaf do nothing.
pub fn statements(queue: &QueueName, event: &Event) -> Result<Vec<String>, WorkerError> {
    let q = quote_literal(queue.as_str());
    let data = quote_literal(&event.data);
    let literal = |text: &Option<String>| text.as_ref().map_or("null".to_owned(), |t| quote_literal(t));
    let same_queue = event.extra1 == queue.as_str();
    Ok(match event.kind.as_str() {
        "pgq.location-info" if same_queue => vec![format!(
            "select pgq_node.register_location({q}, {data}, {}, {})",
            literal(&event.extra2),
            event.extra3.as_deref() == Some("true"),
        )],
        "pgq.unregister-location" if same_queue => {
            vec![format!("select pgq_node.unregister_location({q}, {data})")]
        }
        "londiste.add-table" => vec![format!("select londiste.global_add_table({q}, {data})")],
        "londiste.remove-table" => vec![format!("select londiste.global_remove_table({q}, {data})")],
        "londiste.update-seq" => vec![format!(
            "select londiste.global_update_seq({q}, {}, {data}::int8)",
            quote_literal(&event.extra1)
        )],
        "londiste.remove-seq" => vec![format!("select londiste.global_remove_seq({q}, {data})")],
        "EXECUTE" => {
            return Err(WorkerError::Event {
                kind: event.kind.clone(),
                what: format!(
                    "script {:?} must be run on this node by hand in this version",
                    event.extra1
                ),
            });
        }
        BARRIER_EVENT => Vec::new(),
        _ => Vec::new(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locations_of_other_queues_are_not_ours() {
        let queue = QueueName::new("q").unwrap();
        let mut event = Event {
            kind: "pgq.location-info".into(),
            data: "node'1".into(),
            extra1: "q".into(),
            extra2: Some("host=x".into()),
            extra3: Some("false".into()),
        };
        assert_eq!(
            statements(&queue, &event).unwrap(),
            ["select pgq_node.register_location('q', 'node''1', 'host=x', false)"]
        );
        event.extra1 = "other".into();
        assert!(statements(&queue, &event).unwrap().is_empty());
    }
}
