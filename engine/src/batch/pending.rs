//! Transactions that were decoded but not batched yet.

use skytide_sql::{Lsn, Xid, Xid32};

use crate::spool::{PartRef, SpoolPos};

/// A committed transaction's rows in the spool.
#[derive(Clone, Debug)]
pub struct Pending {
    pub xid: Xid,
    pub commit_lsn: Lsn,
    pub parts: Vec<PartRef>,
    /// Subtransactions whose rows do not count.
    pub aborted: Vec<Xid32>,
}

impl Pending {
    /// Where its first row lies: the spool must be kept from there.
    pub fn begin(&self) -> Option<SpoolPos> {
        self.parts.iter().map(|p| p.block).min()
    }
}
