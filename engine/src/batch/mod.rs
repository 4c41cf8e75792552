//! Batches: which transactions lie between two ticks.
//!
//! batch(B) = the decoded transactions, not batched before, that B's snapshot sees. A transaction that
//! is visible in B's snapshot has its commit in the WAL before B's own, so when B is decoded the batch
//! is complete; one that was decoded before B and is not visible stays pending for a later tick.
//!
//! A batch is never a list of its transactions: it is the pending ones, a range of the spool, and the
//! snapshot that tells members from those left over. Joining ticks is taking a later snapshot.

mod follow;
mod pending;
mod source;
#[cfg(test)]
mod tests;
mod whole;

pub use follow::{Follower, Limits, Plan};
pub use source::BatchSource;
pub use whole::{Tick, WholeBatches};

use skytide_sql::{Snapshot, TickId};

use crate::change::BadChange;
use crate::spool::SpoolError;

#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BatchError {
    #[error("tick {tick} is not in the spool, which begins later: changes are missing")]
    TickTooOld { tick: TickId },
    #[error("the spool has tick {found} after tick {expected} was expected: changes are missing")]
    TickGap { expected: TickId, found: TickId },
    #[error("tick {tick} has snapshot {snapshot}, which lacks transactions that tick {earlier} had")]
    Inverted {
        earlier: TickId,
        tick: TickId,
        snapshot: Box<Snapshot>,
    },
    #[error(transparent)]
    Spool(#[from] SpoolError),
    #[error("row changes of transaction {xid}")]
    Change { xid: u32, source: BadChange },
}
