//! Throw-away PostgreSQL servers with a root, a leaf, a ticker and a worker, for trying things out.
//!
//! Everything of them is in one directory, and the directory is the only state: servers are found again
//! by their data, processes by their pidfiles. What is done to them is done by this program's own
//! commands, run as a user runs them.

pub mod demo;
pub mod drill;
mod figures;
mod lag;
mod load;
mod place;
mod shop;
pub mod steps;
mod watch;
mod world;

pub use place::{Job, Place, default_dir};
pub use world::{Running, ServerState, State, World, down};
