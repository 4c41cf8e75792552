//! Reasons not to tick a database now.

use std::fmt;

use skytide_sql::conn::Session;

use crate::trouble::Trouble;

/// First key of the advisory lock of a database's one active ticker ("pgqd"); the second is 0.
pub const LOCK_CLASS: i32 = 0x7067_7164;

/// What a database is to its ticker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// To be ticked by us; the session holds the lock.
    Ours,
    Idle(Reason),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Reason {
    NoDatabase,
    NoPgq,
    OldPgq(String),
    /// A standby's snapshot cannot be used for ticks, and it takes no writes: wait for promotion.
    Recovery,
    OtherTicker,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reason::NoDatabase => write!(f, "no such database; waiting for it"),
            Reason::NoPgq => write!(f, "no PgQ here"),
            Reason::OldPgq(version) => write!(f, "PgQ {version} is too old, 3.0 is needed: skytide install"),
            Reason::Recovery => write!(f, "a standby; waiting for its promotion"),
            Reason::OtherTicker => write!(f, "another ticker is active; standing by"),
        }
    }
}

/// Looks at the database, and takes the lock if there is something to tick. The lock belongs to the
/// session: if we die, the server frees it.
pub(crate) async fn role(session: &Session) -> Result<Role, Trouble> {
    let row = session
        .query_one(
            "select pg_is_in_recovery(), to_regprocedure('pgq.ticker()') is not null \
             and to_regprocedure('pgq.version()') is not null",
            &[],
        )
        .await
        .map_err(Trouble::query("look at the database"))?;
    if !row.get::<_, bool>(1) {
        return Ok(Role::Idle(Reason::NoPgq));
    }
    if row.get(0) {
        return Ok(Role::Idle(Reason::Recovery));
    }
    let row = session
        .query_one("select pgq.version()", &[])
        .await
        .map_err(Trouble::query("ask PgQ's version"))?;
    let version: String = row.get(0);
    if major(&version).is_none_or(|major| major < 3) {
        return Ok(Role::Idle(Reason::OldPgq(version)));
    }
    // Tried now and then, not waited for: a waiting statement would hold back vacuum.
    let row = session
        .query_one("select pg_try_advisory_lock($1, 0)", &[&LOCK_CLASS])
        .await
        .map_err(Trouble::query("take the ticker's lock"))?;
    Ok(match row.get(0) {
        true => Role::Ours,
        false => Role::Idle(Reason::OtherTicker),
    })
}

/// The first number of a version: `3.5.2` is 3, `10.1` is 10.
fn major(version: &str) -> Option<u32> {
    version.split('.').next()?.trim().parse().ok()
}
