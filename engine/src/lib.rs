//! Skytide's engine. The rooms follow the data: capture → spool → batch → apply.

pub mod apply;
pub mod batch;
pub mod capture;
pub mod causes;
pub mod change;
pub mod cli;
pub mod compare;
pub mod config;
pub mod copy;
pub mod daemon;
pub mod dev;
pub mod doctor;
pub mod metrics;
pub mod qadmin;
pub mod queue;
pub mod spool;
pub mod table;
pub mod worker;
