//! Stories: whole flows on real servers, one module a story.
#![allow(clippy::unwrap_used)]

mod adopt;
mod apply;
mod apply_speed;
mod cli;
#[cfg(feature = "failpoints")]
mod crash;
mod demo;
mod differential;
mod faults;
mod fixtures;
mod held;
mod links;
mod londiste;
mod majors;
mod modules;
mod originals;
mod packaged;
mod peers;
mod promote;
mod qadmin;
mod queue;
mod races;
mod replica;
mod ticker;
mod wal;
mod walmgr;
mod walsender;
