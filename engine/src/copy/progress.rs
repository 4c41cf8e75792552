//! How far a copy is, for people who wait for it.

use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Waiting for transactions that wrote to the table before it was published.
    Fence,
    Copy,
    Indexes,
    CatchUp,
}

impl Phase {
    pub fn name(self) -> &'static str {
        match self {
            Phase::Fence => "waiting for older writers",
            Phase::Copy => "copying",
            Phase::Indexes => "building indexes",
            Phase::CatchUp => "catching up",
        }
    }
}

/// Counters that the copying tasks write and anybody reads.
#[derive(Debug, Default)]
pub struct Progress {
    phase: AtomicU8,
    rows: AtomicU64,
    bytes: AtomicU64,
    /// The planner's estimate on the provider.
    expected_rows: AtomicU64,
}

impl Progress {
    pub fn enter(&self, phase: Phase) {
        self.phase.store(phase as u8, Ordering::Relaxed);
    }

    pub fn phase(&self) -> Phase {
        match self.phase.load(Ordering::Relaxed) {
            0 => Phase::Fence,
            1 => Phase::Copy,
            2 => Phase::Indexes,
            _ => Phase::CatchUp,
        }
    }

    pub fn expect_rows(&self, rows: u64) {
        self.expected_rows.store(rows, Ordering::Relaxed);
    }

    pub fn add(&self, rows: u64, bytes: u64) {
        self.rows.fetch_add(rows, Ordering::Relaxed);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        metrics::counter!(crate::metrics::COPY_ROWS).increment(rows);
        metrics::counter!(crate::metrics::COPY_BYTES).increment(bytes);
    }

    pub fn rows(&self) -> u64 {
        self.rows.load(Ordering::Relaxed)
    }

    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    pub fn expected_rows(&self) -> u64 {
        self.expected_rows.load(Ordering::Relaxed)
    }
}
