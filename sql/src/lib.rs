//! The database side of Skytide, and the floor every other crate stands on: position types,
//! checked names, quoting, connections, the SQL modules with their installer and typed wrappers.

pub mod api;
pub mod backoff;
pub mod causes;
pub mod conn;
pub mod event_time;
pub mod fault;
pub mod ident;
pub mod ids;
pub mod install;
pub mod lsn;
pub mod manual;
pub mod names;
pub mod nearest;
pub mod snapshot;
pub mod tls;
pub mod transport;
pub mod xid;

pub use event_time::EventTime;
pub use ids::{BatchId, EventId, Oid, TickId};
pub use lsn::Lsn;
pub use names::{ConsumerName, NodeName, QueueName, SlotName, TableName};
pub use snapshot::Snapshot;
pub use xid::{Xid, Xid32};
