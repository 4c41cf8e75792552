//! Servers as they are managed: a primary is told to archive, or to stop; a standby is paused and lets go on, or takes
//! over.
//!
//! Settings are changed by `ALTER SYSTEM`, one statement a setting, and read back: what the command line or another file
//! overrides is found out and said.

mod archiving;
mod closed;
mod error;
mod facts;
mod pidfile;
mod primary;
mod queries;
mod replay;
mod settings;
mod sync_names;
mod takeover;

pub use archiving::{Idle, Proof, ends_segment, prove, switch_if_idle};
pub use error::ServerError;
pub use facts::{has_slot, primary, replayed};
pub use pidfile::Postmaster;
pub use replay::{Replay, pause, resume};
pub use settings::{Change, Setting, Wanted, apply, is_foreign, read, running, unset};
pub use sync_names::{Connected, Method, NamesError, SyncNames, connected, name_them};
pub use takeover::{Ending, Takeover, TookOver, take_over};
