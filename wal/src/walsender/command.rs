//! The texts of replication commands (PostgreSQL manual, "Streaming Replication Protocol"), and what
//! differs between server versions.

use skytide_sql::ident::quote_ident;
use skytide_sql::{Lsn, SlotName};

use crate::timeline::TimelineId;

/// From here on options stand in parentheses, and READ_REPLICATION_SLOT exists.
pub(super) const LIST_FORM: u32 = 150_000;
const TWO_PHASE: u32 = 150_000;
const FAILOVER: u32 = 170_000;

/// The server is too old for what was asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{what} needs PostgreSQL {}; the server is {}", .since / 10_000, .server / 10_000)]
pub struct UnsupportedByServer {
    pub what: &'static str,
    pub since: u32,
    pub server: u32,
}

fn need(what: &'static str, since: u32, server: u32) -> Result<(), UnsupportedByServer> {
    if server >= since {
        Ok(())
    } else {
        Err(UnsupportedByServer { what, since, server })
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SlotLifetime {
    Permanent,
    /// Dropped with the connection, and on any error of it.
    Temporary,
}

/// What becomes of the snapshot at a new logical slot's consistent point.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SlotSnapshot {
    Nothing,
    /// Exported until the connection's next command.
    Export,
    /// Used by the transaction the command runs in.
    Use,
}

/// A logical slot to be made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LogicalSlot<'a> {
    pub name: &'a SlotName,
    pub plugin: &'a str,
    pub lifetime: SlotLifetime,
    pub snapshot: SlotSnapshot,
    /// Decode prepared transactions at PREPARE.
    pub two_phase: bool,
    /// Let standbys keep a copy of the slot.
    pub failover: bool,
}

impl<'a> LogicalSlot<'a> {
    /// A permanent pgoutput slot without a snapshot.
    pub fn pgoutput(name: &'a SlotName) -> LogicalSlot<'a> {
        LogicalSlot {
            name,
            plugin: "pgoutput",
            lifetime: SlotLifetime::Permanent,
            snapshot: SlotSnapshot::Nothing,
            two_phase: false,
            failover: false,
        }
    }
}

/// When a new physical slot starts to hold WAL.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WalReservation {
    Now,
    AtFirstUse,
}

pub(super) const IDENTIFY_SYSTEM: &str = "IDENTIFY_SYSTEM";

pub(super) fn create_logical_slot(
    slot: &LogicalSlot<'_>,
    server: u32,
) -> Result<String, UnsupportedByServer> {
    let mut text = create_slot(slot.name, slot.lifetime);
    text.push_str(" LOGICAL ");
    text.push_str(&quote_ident(slot.plugin));
    if server < LIST_FORM {
        text.push_str(match slot.snapshot {
            SlotSnapshot::Nothing => " NOEXPORT_SNAPSHOT",
            SlotSnapshot::Export => " EXPORT_SNAPSHOT",
            SlotSnapshot::Use => " USE_SNAPSHOT",
        });
    } else {
        text.push_str(match slot.snapshot {
            SlotSnapshot::Nothing => " (SNAPSHOT 'nothing'",
            SlotSnapshot::Export => " (SNAPSHOT 'export'",
            SlotSnapshot::Use => " (SNAPSHOT 'use'",
        });
    }
    if slot.two_phase {
        need("a two-phase replication slot", TWO_PHASE, server)?;
        text.push_str(", TWO_PHASE true");
    }
    if slot.failover {
        need("a failover replication slot", FAILOVER, server)?;
        text.push_str(", FAILOVER true");
    }
    if server >= LIST_FORM {
        text.push(')');
    }
    Ok(text)
}

pub(super) fn create_physical_slot(
    name: &SlotName,
    lifetime: SlotLifetime,
    reservation: WalReservation,
    server: u32,
) -> String {
    let mut text = create_slot(name, lifetime);
    text.push_str(" PHYSICAL");
    if reservation == WalReservation::Now {
        text.push_str(if server < LIST_FORM {
            " RESERVE_WAL"
        } else {
            " (RESERVE_WAL true)"
        });
    }
    text
}

fn create_slot(name: &SlotName, lifetime: SlotLifetime) -> String {
    let temporary = match lifetime {
        SlotLifetime::Permanent => "",
        SlotLifetime::Temporary => " TEMPORARY",
    };
    format!(
        "CREATE_REPLICATION_SLOT {}{temporary}",
        quote_ident(name.as_str())
    )
}

/// WAIT: if somebody still reads from the slot, until they are gone, instead of an error.
pub(super) fn drop_slot(name: &SlotName) -> String {
    format!("DROP_REPLICATION_SLOT {} WAIT", quote_ident(name.as_str()))
}

pub(super) fn read_slot(name: &SlotName, server: u32) -> Result<String, UnsupportedByServer> {
    need("READ_REPLICATION_SLOT", LIST_FORM, server)?;
    Ok(format!("READ_REPLICATION_SLOT {}", quote_ident(name.as_str())))
}

pub(super) fn start_logical(slot: &SlotName, from: Lsn, options: &[(&str, &str)]) -> String {
    let options: Vec<String> = options
        .iter()
        .map(|(name, value)| format!("{} {}", quote_ident(name), quote_value(value)))
        .collect();
    let list = if options.is_empty() {
        String::new()
    } else {
        format!(" ({})", options.join(", "))
    };
    format!(
        "START_REPLICATION SLOT {} LOGICAL {from}{list}",
        quote_ident(slot.as_str())
    )
}

pub(super) fn start_physical(slot: Option<&SlotName>, from: Lsn, timeline: TimelineId) -> String {
    let slot = slot.map_or_else(String::new, |slot| {
        format!(" SLOT {}", quote_ident(slot.as_str()))
    });
    format!("START_REPLICATION{slot} PHYSICAL {from} TIMELINE {timeline}")
}

pub(super) fn timeline_history(timeline: TimelineId) -> String {
    format!("TIMELINE_HISTORY {timeline}")
}

pub(super) fn show(setting: &str) -> String {
    format!("SHOW {}", quote_ident(setting))
}

/// A replication command's string: its grammar knows doubled quotes and no escapes, so SQL's `E''`
/// form would be wrong (replication/repl_scanner.l).
pub(super) fn quote_value(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slot_options_follow_the_server_version() {
        let name = SlotName::new("s").unwrap();
        let mut slot = LogicalSlot::pgoutput(&name);
        assert_eq!(
            create_logical_slot(&slot, 140_010).unwrap(),
            "CREATE_REPLICATION_SLOT \"s\" LOGICAL \"pgoutput\" NOEXPORT_SNAPSHOT"
        );
        slot.lifetime = SlotLifetime::Temporary;
        slot.snapshot = SlotSnapshot::Export;
        slot.two_phase = true;
        assert_eq!(
            create_logical_slot(&slot, 150_000).unwrap(),
            "CREATE_REPLICATION_SLOT \"s\" TEMPORARY LOGICAL \"pgoutput\" (SNAPSHOT 'export', TWO_PHASE true)"
        );
        assert!(create_logical_slot(&slot, 140_010).is_err());
        slot.failover = true;
        let error = create_logical_slot(&slot, 160_002).unwrap_err().to_string();
        assert_eq!(
            error,
            "a failover replication slot needs PostgreSQL 17; the server is 16"
        );
    }

    #[test]
    fn options_are_quoted() {
        let slot = SlotName::new("s").unwrap();
        let options = [("proto_version", "1"), ("publication_names", "\"it's\",\"a\\b\"")];
        assert_eq!(
            start_logical(&slot, Lsn::new(0x1_0000_0002), &options),
            "START_REPLICATION SLOT \"s\" LOGICAL 1/2 (\"proto_version\" '1', \"publication_names\" '\"it''s\",\"a\\b\"')"
        );
        assert_eq!(
            start_logical(&slot, Lsn::INVALID, &[]),
            "START_REPLICATION SLOT \"s\" LOGICAL 0/0"
        );
    }
}
