//! What may be reported to the provider.
//!
//! `flush` moves the slot: the server may throw away WAL before it. So it is only ever a position up
//! to which everything of ours is durable in the spool (or, with `confirm = applied`, also applied and
//! flushed on the subscriber). One type owns it, and it never moves back.

use skytide_sql::Lsn;

/// The three positions of a standby status update.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Confirmed {
    received: Lsn,
    durable: Lsn,
    applied: Option<Lsn>,
}

impl Confirmed {
    /// Reading begins at `start`; `confirmed` is where the slot is, and all that is known to be safe: of
    /// the spool's end it must still be said that it is on disk, or applied.
    /// `wait_for_apply`: confirm no more than [`Confirmed::applied`] was told.
    pub fn new(start: Lsn, confirmed: Lsn, wait_for_apply: bool) -> Confirmed {
        Confirmed {
            received: start,
            durable: confirmed,
            applied: wait_for_apply.then_some(confirmed),
        }
    }

    pub fn received(&mut self, lsn: Lsn) {
        self.received = self.received.max(lsn);
    }

    /// Everything of ours that committed before `lsn` is on disk.
    pub fn durable(&mut self, lsn: Lsn) {
        self.durable = self.durable.max(lsn);
        self.received = self.received.max(lsn);
    }

    /// Everything of ours that committed before `lsn` is on the subscriber's disk.
    pub fn applied(&mut self, lsn: Lsn) {
        if let Some(applied) = &mut self.applied {
            *applied = (*applied).max(lsn);
        }
    }

    pub fn write(&self) -> Lsn {
        self.received
    }

    pub fn flush(&self) -> Lsn {
        self.applied
            .map_or(self.durable, |applied| applied.min(self.durable))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_durable_positions_are_flushed() {
        let mut c = Confirmed::new(Lsn::new(5), Lsn::new(5), false);
        c.received(Lsn::new(100));
        assert_eq!((c.write(), c.flush()), (Lsn::new(100), Lsn::new(5)));
        c.durable(Lsn::new(90));
        c.durable(Lsn::new(80));
        assert_eq!(c.flush(), Lsn::new(90));
    }

    #[test]
    fn waiting_for_apply_holds_the_slot_back() {
        let mut c = Confirmed::new(Lsn::new(5), Lsn::new(5), true);
        c.durable(Lsn::new(90));
        assert_eq!(c.flush(), Lsn::new(5));
        c.applied(Lsn::new(50));
        assert_eq!(c.flush(), Lsn::new(50));
    }

    #[test]
    fn a_new_connection_confirms_nothing_new() {
        // The spool ends at 80, but its last bytes may not be on disk, and nothing says they are applied.
        for wait_for_apply in [false, true] {
            let c = Confirmed::new(Lsn::new(80), Lsn::new(5), wait_for_apply);
            assert_eq!((c.write(), c.flush()), (Lsn::new(80), Lsn::new(5)));
        }
    }
}
