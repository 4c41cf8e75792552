//! Transaction ids: 64 bits in snapshots, 32 bits on the wire. The two are never compared directly.

use std::fmt;

/// A full transaction id, epoch included (`xid8`, `txid_current()`).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Xid(u64);

/// The low half of a transaction id, as pgoutput sends it. Deliberately not ordered.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Xid32(u32);

impl Xid {
    pub const fn new(full: u64) -> Xid {
        Xid(full)
    }

    pub const fn as_u64(self) -> u64 {
        self.0
    }

    pub const fn low_half(self) -> Xid32 {
        Xid32(self.0 as u32)
    }
}

impl Xid32 {
    pub const fn new(low: u32) -> Xid32 {
        Xid32(low)
    }

    pub const fn as_u32(self) -> u32 {
        self.0
    }

    /// The full id nearest to `reference`. A live xid is always within 2^31 of the server's next
    /// one, so any snapshot's xmax taken while fewer than 2^31 ids passed by is a good reference.
    pub fn widen(self, reference: Xid) -> Xid {
        let distance = self.0.wrapping_sub(reference.0 as u32) as i32;
        Xid(reference.0.wrapping_add_signed(i64::from(distance)))
    }
}

impl fmt::Display for Xid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl fmt::Debug for Xid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl fmt::Display for Xid32 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl fmt::Debug for Xid32 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn widening_crosses_the_epoch_both_ways() {
        let just_after = Xid::new(5 << 32 | 10);
        assert_eq!(Xid32::new(u32::MAX).widen(just_after), Xid::new((5 << 32) - 1));
        assert_eq!(Xid32::new(12).widen(just_after), Xid::new(5 << 32 | 12));
        let just_before = Xid::new((5 << 32) - 3);
        assert_eq!(Xid32::new(3).widen(just_before), Xid::new(5 << 32 | 3));
    }
}
