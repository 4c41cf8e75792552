//! WAL on the wire and at rest.
//!
//! At rest: [`segment`] and [`timeline`] name files and branches, [`format`](mod@format) says what bytes mean, [`decode`] turns bytes
//! into records, [`pack`] is how a file of WAL lies in a [`store`].
#![deny(clippy::indexing_slicing)]
#![cfg_attr(test, allow(clippy::indexing_slicing))]

pub mod archive;
pub mod backup;
pub mod commit;
pub mod control;
pub mod decode;
pub mod durable;
pub mod format;
pub mod pack;
pub mod restore;
pub mod segment;
pub mod stats;
pub mod store;
pub mod timeline;
pub mod verify;
pub mod walsender;

#[cfg(test)]
mod sample;

pub use decode::{Decoder, Expected, Record, Timelines, WalError, WalFault};
pub use segment::{SegmentName, SegmentNo, SegmentSize, WalFileName};
pub use timeline::{HistoryFile, TimelineId};
