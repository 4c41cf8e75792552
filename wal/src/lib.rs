//! WAL on the wire and at rest.
pub mod timeline;
pub mod walsender;

pub use timeline::TimelineId;
