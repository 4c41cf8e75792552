//! What a restored cluster's server is told: where WAL comes from, and where to stop.

use std::path::Path;

use skytide_sql::Lsn;

/// Settings that would stand in the way of ours, from the cluster that was backed up.
const OLD: [&str; 10] = [
    "restore_command",
    "archive_cleanup_command",
    "recovery_end_command",
    "recovery_target",
    "recovery_target_name",
    "recovery_target_time",
    "recovery_target_xid",
    "recovery_target_lsn",
    "recovery_target_inclusive",
    "recovery_min_apply_delay",
];
const OLD_TIMELINE: [&str; 4] = [
    "recovery_target_timeline",
    "recovery_target_action",
    "primary_conninfo",
    "primary_slot_name",
];

/// Of these at most one may say something.
const TARGETS: [&str; 5] = [
    "recovery_target",
    "recovery_target_name",
    "recovery_target_time",
    "recovery_target_xid",
    "recovery_target_lsn",
];

/// Where replay ends, in the server's words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StopAt {
    /// At the end of the WAL.
    End,
    /// As soon as the data is consistent.
    Immediate,
    /// As PostgreSQL reads it.
    Time(String),
    Lsn {
        lsn: Lsn,
        inclusive: bool,
    },
    Name(String),
    Xid(u32),
}

impl StopAt {
    /// The setting that says it.
    fn setting(&self) -> Option<&'static str> {
        match self {
            StopAt::End => None,
            StopAt::Immediate => Some("recovery_target"),
            StopAt::Time(_) => Some("recovery_target_time"),
            StopAt::Lsn { .. } => Some("recovery_target_lsn"),
            StopAt::Name(_) => Some("recovery_target_name"),
            StopAt::Xid(_) => Some("recovery_target_xid"),
        }
    }
}

/// What the server does when it is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    Promote,
    Pause,
    Shutdown,
}

/// What becomes of the restored cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Role {
    /// It replays up to a point and is a cluster of its own then.
    Primary { stop_at: StopAt, action: Action },
    /// It replays for ever.
    Standby {
        primary_conninfo: Option<String>,
        /// Holds WAL on the primary for this standby.
        primary_slot_name: Option<String>,
    },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recovery {
    pub role: Role,
    /// With `%f` and `%p`.
    pub restore_command: String,
    /// `latest`, `current`, or a number.
    pub timeline: String,
}

impl Recovery {
    /// The empty file that makes the server recover.
    pub fn signal(&self) -> &'static str {
        match self.role {
            Role::Primary { .. } => "recovery.signal",
            Role::Standby { .. } => "standby.signal",
        }
    }

    /// `postgresql.auto.conf` with our settings in place of the old ones.
    pub fn auto_conf(&self, old: &str) -> String {
        let mut text = without(old, |name| OLD.contains(&name) || OLD_TIMELINE.contains(&name));
        text.push_str("# Written by skytide walmgr restore\n");
        let mut set = |name: &str, value: &str| set(&mut text, name, value);
        set("restore_command", &self.restore_command);
        set("recovery_target_timeline", &self.timeline);
        // What the cluster's other configuration files say of an earlier recovery must not hold for this one.
        for name in ["archive_cleanup_command", "recovery_end_command"] {
            set(name, "");
        }
        let wanted = match &self.role {
            Role::Primary { stop_at, .. } => stop_at.setting(),
            Role::Standby { .. } => None,
        };
        no_targets(wanted, &mut set);
        match &self.role {
            Role::Standby {
                primary_conninfo,
                primary_slot_name,
            } => {
                if let Some(conninfo) = primary_conninfo {
                    set("primary_conninfo", conninfo);
                }
                if let Some(slot) = primary_slot_name {
                    set("primary_slot_name", slot);
                }
            }
            Role::Primary { stop_at, action } => {
                // A delayed standby's: it would wait before each commit.
                set("recovery_min_apply_delay", "0");
                match stop_at {
                    StopAt::End => {}
                    StopAt::Immediate => set("recovery_target", "immediate"),
                    StopAt::Time(time) => set("recovery_target_time", time),
                    StopAt::Lsn { lsn, inclusive } => {
                        set("recovery_target_lsn", &lsn.to_string());
                        set("recovery_target_inclusive", if *inclusive { "on" } else { "off" });
                    }
                    StopAt::Name(name) => set("recovery_target_name", name),
                    StopAt::Xid(xid) => set("recovery_target_xid", &xid.to_string()),
                }
                if *stop_at != StopAt::End {
                    set(
                        "recovery_target_action",
                        match action {
                            Action::Promote => "promote",
                            Action::Pause => "pause",
                            Action::Shutdown => "shutdown",
                        },
                    );
                }
            }
        }
        text
    }
}

/// `postgresql.auto.conf` of a server that follows a primary from now on. An earlier recovery may have been told where to
/// end, and to promote there: it would be a second primary.
pub(crate) fn following(old: &str, primary_conninfo: &str) -> String {
    let ends = |name: &str| name.starts_with("recovery_target") || name == "primary_conninfo";
    let mut text = without(old, ends);
    let mut set = |name: &str, value: &str| set(&mut text, name, value);
    set("primary_conninfo", primary_conninfo);
    set("recovery_target_timeline", "latest");
    set("recovery_target_action", "pause");
    no_targets(None, &mut set);
    text
}

/// Whatever other configuration files say: no target but the wanted one holds.
fn no_targets(wanted: Option<&str>, set: &mut impl FnMut(&str, &str)) {
    for name in TARGETS.into_iter().filter(|name| Some(*name) != wanted) {
        set(name, "");
    }
    if wanted != Some("recovery_target_lsn") {
        set("recovery_target_inclusive", "on");
    }
}

/// Whether a data directory's configuration names an end for its recovery. The server then gives up where the WAL ends
/// before that ("recovery ended before configured recovery target was reached").
pub fn has_target(data: &Path) -> bool {
    let files = ["postgresql.conf", "postgresql.auto.conf"];
    let texts = files.map(|file| std::fs::read_to_string(data.join(file)).unwrap_or_default());
    let says_something = |target: &&str| {
        let lines = texts.iter().flat_map(|text| text.lines());
        let mut values = lines.filter_map(|line| {
            let (name, value) = line.split_once('=')?;
            (name.trim() == *target).then(|| value.trim())
        });
        values
            .next_back()
            .is_some_and(|value| !value.is_empty() && !value.starts_with("''"))
    };
    TARGETS.iter().any(says_something)
}

/// The lines of a configuration file that do not set such a name.
fn without(old: &str, ours: impl Fn(&str) -> bool) -> String {
    let mut text = String::new();
    let name = |line: &str| line.split('=').next().unwrap_or_default().trim().to_owned();
    for line in old.lines().filter(|line| !ours(&name(line))) {
        text.push_str(line);
        text.push('\n');
    }
    text
}

fn set(text: &mut String, name: &str, value: &str) {
    text.push_str(&format!("{name} = {}\n", quote(value)));
}

/// A value in a configuration file (`utils/misc/guc-file.l`): quotes and backslashes are doubled.
pub(crate) fn quote(value: &str) -> String {
    format!("'{}'", value.replace('\\', "\\\\").replace('\'', "''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_follows_a_primary_has_no_end_for_its_recovery() {
        let old = "work_mem = '8MB'\nrecovery_target_time = 'x'\nrecovery_target_action = 'promote'\n\
                   primary_conninfo = 'host=old'\nrestore_command = 'y'\n";
        assert_eq!(
            following(old, "host=new"),
            "work_mem = '8MB'\nrestore_command = 'y'\nprimary_conninfo = 'host=new'\n\
             recovery_target_timeline = 'latest'\nrecovery_target_action = 'pause'\nrecovery_target = ''\n\
             recovery_target_name = ''\nrecovery_target_time = ''\nrecovery_target_xid = ''\n\
             recovery_target_lsn = ''\nrecovery_target_inclusive = 'on'\n"
        );
        assert_eq!(
            following(&following(old, "host=x"), "host=new"),
            following(old, "host=new")
        );
    }

    #[test]
    fn our_settings_replace_the_old_ones() {
        let recovery = Recovery {
            role: Role::Primary {
                stop_at: StopAt::Lsn {
                    lsn: Lsn::new(0x1_0000_0002),
                    inclusive: false,
                },
                action: Action::Promote,
            },
            restore_command: "it's %f \"%p\"".into(),
            timeline: "latest".into(),
        };
        let old = "work_mem = '8MB'\nrecovery_target_time = 'x'\nrestore_command='y'\n";
        assert_eq!(
            recovery.auto_conf(old),
            "work_mem = '8MB'\n# Written by skytide walmgr restore\nrestore_command = 'it''s %f \"%p\"'\n\
             recovery_target_timeline = 'latest'\narchive_cleanup_command = ''\nrecovery_end_command = ''\n\
             recovery_target = ''\nrecovery_target_name = ''\nrecovery_target_time = ''\nrecovery_target_xid = ''\n\
             recovery_min_apply_delay = '0'\nrecovery_target_lsn = '1/2'\nrecovery_target_inclusive = 'off'\n\
             recovery_target_action = 'promote'\n"
        );
        assert_eq!(recovery.signal(), "recovery.signal");
        let standby = Recovery {
            role: Role::Standby {
                primary_conninfo: Some("host=a".into()),
                primary_slot_name: Some("b".into()),
            },
            ..recovery
        };
        assert!(
            standby
                .auto_conf("")
                .ends_with("primary_conninfo = 'host=a'\nprimary_slot_name = 'b'\n")
        );
        assert_eq!(standby.signal(), "standby.signal");
    }
}
