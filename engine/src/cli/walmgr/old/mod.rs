//! What only old scripts and habits call.

pub mod cleanup;
pub mod init;
pub mod internal;
pub mod lock;
pub mod passfile;
