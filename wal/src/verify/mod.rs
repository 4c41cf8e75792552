//! How far a file's WAL is good, and why it ends there.
//!
//! [`verify_segment`] looks at one segment standing alone, so segments can be checked in any order and side by side.
//! What it cannot see alone, it puts into its report: the end of a record that began before, the beginning of one that
//! goes on, and which record the first one follows. [`Chain`] holds these against the next report, without the bytes.

mod chain;
mod judge;
mod segment;

#[cfg(test)]
mod tests;

pub use chain::{Chain, ChainError};
pub use judge::{Proof, Tail, TailKind};
pub use segment::{Commits, Ended, OpenRecord, SegmentContext, SegmentReport, verify_segment};
