//! The settings by which a server archives.

use std::time::{Duration, Instant};

use skytide_sql::conn::Session;
use skytide_sql::ident::quote_literal;

use super::error::{Doing, ServerError};
use super::queries;

/// Commands that keep nothing: they stand in for one that is still to come.
const NOTHING: [&str; 8] = [
    "",
    "true",
    "/bin/true",
    "/usr/bin/true",
    "false",
    "/bin/false",
    "/usr/bin/false",
    ":",
];
/// Backups and receivers that may be connected at the same time, with some room.
const SENDERS: i64 = 3;
const ENOUGH: &str = "10";
/// What the server shows for `archive_command` while `archive_mode` is off.
const DISABLED: &str = "(disabled)";
const SETTLES: Duration = Duration::from_secs(10);

/// What the server shall do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    pub archive_command: String,
    /// A receiver will have a slot.
    pub slots: bool,
}

/// What is between a setting and what is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    None,
    /// It was changed, and waits for the server's restart.
    Waits,
    Reload,
    Restart,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    pub name: &'static str,
    /// As it acts.
    pub now: String,
    /// As it would act after a restart.
    pub later: String,
    pub wanted: String,
    pub change: Change,
    /// Where it comes from, in the server's words.
    pub source: String,
}

const NAMES: [&str; 6] = [
    "wal_level",
    "archive_mode",
    "archive_command",
    "archive_library",
    "max_wal_senders",
    "max_replication_slots",
];

/// The settings that matter, each with what has to become of it. `archive_library` is there on servers that have it.
pub async fn read(session: &Session, wanted: &Wanted) -> Result<Vec<Setting>, ServerError> {
    let rows = session
        .query(queries::SETTINGS, &[&&NAMES[..]])
        .await
        .doing("read the server's settings")?;
    let mut found = Vec::new();
    for name in NAMES {
        let Some(row) = rows.iter().find(|row| row.get::<_, &str>(0) == name) else {
            continue;
        };
        let (now, at_start, source): (String, bool, String) = (row.get(1), row.get(2), row.get(3));
        let in_file: Option<String> = row.get(4);
        let later = in_file.unwrap_or_else(|| now.clone());
        let change = match (wish(name, &now, wanted), wish(name, &later, wanted)) {
            (None, None) => Change::None,
            (Some(_), None) if at_start || now == DISABLED => Change::Waits,
            _ if at_start => Change::Restart,
            _ => Change::Reload,
        };
        let wished = wish(name, &later, wanted).or_else(|| wish(name, &now, wanted));
        found.push(Setting {
            name,
            wanted: wished.unwrap_or_else(|| now.clone()),
            now,
            later,
            change,
            source,
        });
    }
    Ok(found)
}

/// What a setting should be instead; `None`: it is right.
fn wish(name: &str, value: &str, wanted: &Wanted) -> Option<String> {
    let number = || value.parse::<i64>().unwrap_or(0);
    match name {
        // Never lowered: logical decoding needs logical.
        "wal_level" => (value == "minimal").then(|| "replica".to_owned()),
        "archive_mode" => (value == "off").then(|| "on".to_owned()),
        "archive_command" => (value != wanted.archive_command).then(|| wanted.archive_command.clone()),
        "archive_library" => (!value.is_empty()).then(String::new),
        "max_wal_senders" => (number() < SENDERS).then(|| ENOUGH.to_owned()),
        "max_replication_slots" => (wanted.slots && number() < 1).then(|| ENOUGH.to_owned()),
        _ => None,
    }
}

/// Somebody else's way to archive, which has to be given up by a person. An old walmgr's is ours to replace.
pub fn is_foreign(setting: &Setting) -> bool {
    let value = setting.later.trim();
    match setting.name {
        "archive_library" => !value.is_empty(),
        "archive_command" => {
            let nothing = NOTHING.contains(&value) || value == DISABLED;
            setting.change != Change::None && !nothing && !value.contains("walmgr")
        }
        _ => false,
    }
}

/// Sets what has to be changed and lets the server read it. What only a restart changes waits for that.
pub async fn apply(session: &Session, settings: &[Setting]) -> Result<(), ServerError> {
    let changes = settings
        .iter()
        .filter(|setting| matches!(setting.change, Change::Reload | Change::Restart));
    let changes: Vec<&Setting> = changes.collect();
    for setting in &changes {
        set(session, setting.name, &setting.wanted).await?;
    }
    if changes.is_empty() {
        return Ok(());
    }
    reload(session).await?;
    for setting in changes.iter().filter(|setting| setting.change == Change::Reload) {
        arrives(session, setting.name, &setting.wanted).await?;
    }
    Ok(())
}

/// Stops archiving: the command at once, the mode with the next restart.
pub async fn unset(session: &Session) -> Result<(), ServerError> {
    set(session, "archive_command", "").await?;
    set(session, "archive_mode", "off").await?;
    reload(session).await?;
    arrives(session, "archive_command", "").await
}

pub(super) async fn set(session: &Session, name: &'static str, value: &str) -> Result<(), ServerError> {
    let statement = format!("alter system set {name} = {}", quote_literal(value));
    tracing::debug!(name, value, "alter system");
    session
        .batch_execute(&statement)
        .await
        .doing("change the server's settings (ALTER SYSTEM)")
}

pub(super) async fn reload(session: &Session) -> Result<(), ServerError> {
    let reload = session.execute(queries::RELOAD, &[]).await;
    reload.map(drop).doing("let the server read its settings")
}

/// Until the setting acts. A session hears of a reload between two statements.
pub(super) async fn arrives(session: &Session, name: &'static str, wanted: &str) -> Result<(), ServerError> {
    let end = Instant::now() + SETTLES;
    loop {
        let rows = session
            .query(queries::SETTINGS, &[&&[name][..]])
            .await
            .doing("read the server's settings")?;
        let Some(row) = rows.first() else {
            return Err(ServerError::Answer("a setting"));
        };
        let (found, from): (String, String) = (row.get(1), row.get(3));
        if found == wanted || found == DISABLED {
            return Ok(());
        }
        if Instant::now() > end {
            return Err(ServerError::Overridden {
                name,
                found,
                wanted: wanted.to_owned(),
                from,
            });
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// One setting as it acts; `None`: this server has no such setting.
pub async fn running(session: &Session, name: &str) -> Result<Option<String>, ServerError> {
    let row = session.query_one(queries::SETTING, &[&name]).await;
    Ok(row.doing("read the server's settings")?.get(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted() -> Wanted {
        Wanted {
            archive_command: "skytide walmgr x archive %p %f".into(),
            slots: true,
        }
    }

    #[test]
    fn nothing_is_lowered_and_nothing_is_changed_twice() {
        let wish = |name, value| wish(name, value, &wanted());
        assert_eq!(wish("wal_level", "minimal").as_deref(), Some("replica"));
        for (name, right) in [
            ("wal_level", "replica"),
            ("wal_level", "logical"),
            ("archive_mode", "on"),
            ("archive_mode", "always"),
            ("archive_command", "skytide walmgr x archive %p %f"),
            ("archive_library", ""),
            ("max_wal_senders", "3"),
            ("max_replication_slots", "1"),
        ] {
            assert_eq!(wish(name, right), None, "{name} {right}");
        }
    }

    #[test]
    fn another_programs_archive_is_not_taken_away() {
        let setting = |value: &str| Setting {
            name: "archive_command",
            now: DISABLED.into(),
            later: value.into(),
            wanted: wanted().archive_command,
            change: Change::Reload,
            source: "configuration file".into(),
        };
        for ours in [
            "",
            "/bin/true",
            "(disabled)",
            "/usr/bin/walmgr3 /etc/wal-master.ini xarchive %p %f",
        ] {
            assert!(!is_foreign(&setting(ours)), "{ours}");
        }
        assert!(is_foreign(&setting("pgbackrest --stanza=main archive-push %p")));
    }
}
