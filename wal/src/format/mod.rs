//! WAL's bytes: pages, records and their checksums, for the majors in [`version`]. `std` and position types only.
//!
//! All numbers are little-endian, as the servers that write them are, and records are aligned to 8 bytes.

pub mod crc;
pub mod cursor;
pub mod page;
pub mod record;
pub mod rmgr;
pub mod version;

/// Records begin at multiples of this (MAXALIGN; `pg_control` says so too).
pub const ALIGNMENT: u64 = 8;

/// `length`, or the next multiple of [`ALIGNMENT`] above it.
pub const fn aligned(length: u64) -> u64 {
    length.saturating_add(ALIGNMENT - 1) & !(ALIGNMENT - 1)
}
