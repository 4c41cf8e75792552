//! What is measured, one file a scenario.

mod archive;
mod backup;
mod capture;
mod catch_up;
mod copy;
mod cost;
mod latency;
mod parser;
mod promote;
mod queue;
mod receive;
mod recovery;
mod ticker;
mod wal;

use crate::figures::Findings;

/// How much to measure.
#[derive(Clone, Copy, Debug)]
pub struct Effort {
    pub quick: bool,
    pub reps: usize,
}

impl Effort {
    /// A size for a full run and for a quick one.
    pub fn size(&self, full: i32, quick: i32) -> i32 {
        if self.quick { quick } else { full }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Scenario {
    /// Catch-up from the spool: apply was held while capture ran.
    Spool,
    /// Catch-up from the slot: the worker was down.
    Slot,
    /// One big transaction, from the slot.
    Big,
    /// Initial copies.
    Copy,
    /// Commit → visible on the leaf.
    Latency,
    /// Decoding into the spool.
    Capture,
    /// Decoding alone, from memory.
    Parser,
    /// What capture costs the provider's users.
    Cost,
    /// Queues: producing, capture triggers, consuming.
    Queue,
    /// Consuming from a worker's spool.
    Events,
    /// The ticker with many queues, and the latency of events.
    Ticker,
    /// Reading WAL, beside pg_waldump.
    Wal,
    /// Archiving WAL, beside pgBackRest.
    Archive,
    /// WAL by streaming, up to the last record.
    Receive,
    /// Recovery from archived WAL, beside pgBackRest.
    Recovery,
    /// Base backups and restores.
    Backup,
    /// A primary is killed under load and a standby promoted.
    Promote,
}

impl Scenario {
    pub const ALL: [Scenario; 17] = [
        Scenario::Spool,
        Scenario::Slot,
        Scenario::Big,
        Scenario::Copy,
        Scenario::Latency,
        Scenario::Capture,
        Scenario::Parser,
        Scenario::Cost,
        Scenario::Queue,
        Scenario::Events,
        Scenario::Ticker,
        Scenario::Wal,
        Scenario::Archive,
        Scenario::Receive,
        Scenario::Recovery,
        Scenario::Backup,
        Scenario::Promote,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Scenario::Spool => "spool",
            Scenario::Slot => "slot",
            Scenario::Big => "big",
            Scenario::Copy => "copy",
            Scenario::Latency => "latency",
            Scenario::Capture => "capture",
            Scenario::Parser => "parser",
            Scenario::Cost => "cost",
            Scenario::Queue => "queue",
            Scenario::Events => "events",
            Scenario::Ticker => "ticker",
            Scenario::Wal => "wal",
            Scenario::Archive => "archive",
            Scenario::Receive => "receive",
            Scenario::Recovery => "recovery",
            Scenario::Backup => "backup",
            Scenario::Promote => "promote",
        }
    }

    pub fn title(self) -> &'static str {
        match self {
            Scenario::Spool => "Catch-up from the spool",
            Scenario::Slot => "Catch-up from the slot",
            Scenario::Big => "One big transaction, from the slot",
            Scenario::Copy => "Initial copy",
            Scenario::Latency => "Latency",
            Scenario::Capture => "Capture",
            Scenario::Parser => "Decoding alone",
            Scenario::Cost => "Cost for the provider",
            Scenario::Queue => "Queues beside PgQ's C functions",
            Scenario::Events => "Events from a worker's spool",
            Scenario::Ticker => "Ticker",
            Scenario::Wal => "Reading WAL",
            Scenario::Archive => "Archiving WAL",
            Scenario::Receive => "Receiving WAL",
            Scenario::Recovery => "Recovery from archived WAL",
            Scenario::Backup => "Base backup and restore",
            Scenario::Promote => "Promotion",
        }
    }

    pub async fn run(self, effort: Effort) -> anyhow::Result<Findings> {
        match self {
            Scenario::Spool => Box::pin(catch_up::from_spool(effort)).await,
            Scenario::Slot => Box::pin(catch_up::from_slot(effort)).await,
            Scenario::Big => Box::pin(catch_up::big(effort)).await,
            Scenario::Copy => Box::pin(copy::run(effort)).await,
            Scenario::Latency => Box::pin(latency::run(effort)).await,
            Scenario::Capture => Box::pin(capture::run(effort)).await,
            Scenario::Parser => parser::run(effort),
            Scenario::Cost => Box::pin(cost::run(effort)).await,
            Scenario::Queue => Box::pin(queue::run(effort)).await,
            Scenario::Events => Box::pin(queue::from_spool(effort)).await,
            Scenario::Ticker => Box::pin(ticker::run(effort)).await,
            Scenario::Wal => Box::pin(wal::run(effort)).await,
            Scenario::Archive => Box::pin(archive::run(effort)).await,
            Scenario::Receive => Box::pin(receive::run(effort)).await,
            Scenario::Recovery => Box::pin(recovery::run(effort)).await,
            Scenario::Backup => Box::pin(backup::run(effort)).await,
            Scenario::Promote => Box::pin(promote::run(effort)).await,
        }
    }
}
