//! WAL on the wire and at rest.
//!
//! At rest: [`segment`] and [`timeline`] name files and branches, [`format`](mod@format) says what bytes mean, [`decode`] turns bytes
//! into records, [`verify`] says how far a file's WAL is good and why it ends there, [`pack`] is how a file of WAL lies
//! in a [`store`].

#[cfg_attr(not(test), deny(clippy::indexing_slicing))]
pub mod archive;
#[cfg_attr(not(test), deny(clippy::indexing_slicing))]
pub mod backup;
#[cfg_attr(not(test), deny(clippy::indexing_slicing))]
pub mod commit;
#[cfg_attr(not(test), deny(clippy::indexing_slicing))]
pub mod control;
#[cfg_attr(not(test), deny(clippy::indexing_slicing))]
pub mod decode;
pub mod durable;
#[cfg_attr(not(test), deny(clippy::indexing_slicing))]
pub mod format;
#[cfg_attr(not(test), deny(clippy::indexing_slicing))]
pub mod pack;
#[cfg_attr(not(test), deny(clippy::indexing_slicing))]
pub mod page_buffer;
#[cfg_attr(not(test), deny(clippy::indexing_slicing))]
pub mod promote;
#[cfg_attr(not(test), deny(clippy::indexing_slicing))]
pub mod receive;
#[cfg_attr(not(test), deny(clippy::indexing_slicing))]
pub mod restore;
#[cfg_attr(not(test), deny(clippy::indexing_slicing))]
pub mod segment;
#[cfg_attr(not(test), deny(clippy::indexing_slicing))]
pub mod server;
#[cfg_attr(not(test), deny(clippy::indexing_slicing))]
pub mod ship;
pub mod stats;
#[cfg_attr(not(test), deny(clippy::indexing_slicing))]
pub mod store;
#[cfg_attr(not(test), deny(clippy::indexing_slicing))]
pub mod succession;
#[cfg_attr(not(test), deny(clippy::indexing_slicing))]
pub mod tail;
pub mod timeline;
#[cfg_attr(not(test), deny(clippy::indexing_slicing))]
pub mod verify;
pub mod walsender;

#[cfg(test)]
mod sample;

pub use decode::{Decoder, Expected, Record, Timelines, WalError, WalFault};
pub use segment::{SegmentName, SegmentNo, SegmentSize, WalFileName};
pub use timeline::{HistoryFile, TimelineId};
