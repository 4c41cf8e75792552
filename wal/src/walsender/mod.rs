//! The replication protocol, client side: our own codec over `bytes` (PostgreSQL manual, "Streaming
//! Replication Protocol"). `frame` finds messages in the byte stream, `message` says what they mean,
//! `startup` logs in, `command` words the commands, `client` runs them.

mod base_backup;
mod client;
mod command;
mod error;
mod frame;
mod message;
mod startup;
mod stream;
mod wire;

pub use base_backup::{BackupPart, BackupPoint, BaseBackup, BaseBackupOptions, TablespaceRow};
pub use client::{Client, CreatedSlot, IdentifySystem, Mode, NextTimeline, SlotPosition, TimelineHistory};
pub use command::{LogicalSlot, SlotLifetime, SlotSnapshot, UnsupportedByServer, WalReservation};
pub use error::WalsenderError;
pub use frame::{Frame, FrameError, Frames};
pub use message::{
    Backend, BadMessage, HotStandbyFeedback, Positions, ReplyRequested, ServerError, StreamMessage, Timestamp,
};
pub use startup::ServerParameters;
pub use stream::CopyBoth;
