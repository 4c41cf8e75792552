//! Replicated tables: their merge states, their registry on the subscriber, their identity.

pub mod guard;
pub mod registry;
pub mod state;

pub use registry::{LocalTable, Registry};
pub use state::{BadState, IllegalStep, MergeState, Step};
