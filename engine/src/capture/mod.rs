//! Capture: the provider's logical stream into the spool.
//!
//! `stream` owns the replication connection, `pgoutput` splits messages, `assemble` puts transactions
//! and ticks (`tick`) together for the spool, `confirm` decides what may be reported as flushed, and `slot`
//! makes and checks what the provider must have.

pub mod assemble;
pub mod confirm;
pub mod pgoutput;
pub mod slot;
pub mod stream;
mod tick;

pub use stream::{CaptureError, CaptureSettings};
