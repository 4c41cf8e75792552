//! WAL on the wire and at rest.
pub mod durable;
pub mod pack;
pub mod store;
pub mod timeline;
pub mod walsender;

pub use timeline::TimelineId;
