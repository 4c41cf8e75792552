//! What to do about an error: decided by SQLSTATE and by kind of I/O failure, never by words.

use std::error::Error as _;
use std::io;

/// Decides whether a loop tries again and which exit code a command ends with.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Fault {
    /// The world was in the way: a lost link, a restart, a deadlock. Try again after a pause.
    Retry,
    /// A person must change something first: a password, a privilege, a full disk, a setting.
    Operator,
    /// Stored data is damaged. Stop, touch nothing.
    Corrupt,
    /// The server refused what we should never have sent, or an invariant broke. Stop and report.
    Bug,
}

/// Whole codes first, then classes (their first two characters). PostgreSQL manual, appendix A.
const CODES: &[(&str, Fault)] = &[
    ("08P01", Fault::Bug),      // protocol_violation
    ("25006", Fault::Retry),    // read_only_sql_transaction: a standby not promoted yet, a switchover
    ("25P03", Fault::Retry),    // idle_in_transaction_session_timeout
    ("25P04", Fault::Retry),    // transaction_timeout
    ("40002", Fault::Operator), // transaction_integrity_constraint_violation: a deferred constraint
    ("42501", Fault::Operator), // insufficient_privilege
    ("42704", Fault::Operator), // undefined_object: publication or slot gone
    ("42710", Fault::Operator), // duplicate_object: slot exists
    ("42P01", Fault::Operator), // undefined_table
    ("42883", Fault::Operator), // undefined_function: modules not installed
    ("42703", Fault::Operator), // undefined_column: the two sides' tables differ
    ("3F000", Fault::Operator), // invalid_schema_name
    ("53300", Fault::Retry),    // too_many_connections
    ("53200", Fault::Retry),    // out_of_memory
    ("55006", Fault::Retry),    // object_in_use: the slot is still held by a dying walsender
    ("55P03", Fault::Retry),    // lock_not_available
    ("57P03", Fault::Retry),    // cannot_connect_now
    ("57P04", Fault::Operator), // database_dropped
    ("58P01", Fault::Operator), // undefined_file: requested WAL segment has been removed
    ("XX001", Fault::Corrupt),  // data_corrupted
    ("XX002", Fault::Corrupt),  // index_corrupted
];

const CLASSES: &[(&str, Fault)] = &[
    ("08", Fault::Retry),    // connection exception
    ("0A", Fault::Operator), // feature not supported: by this server, with this setting
    ("22", Fault::Operator), // data exception: a value the other side's type refuses
    ("23", Fault::Operator), // integrity constraint: the other side's data differ
    ("28", Fault::Operator), // authorisation
    ("3D", Fault::Operator), // no such database
    ("40", Fault::Retry),    // serialisation failure, deadlock
    ("53", Fault::Operator), // disk full, limits
    ("54", Fault::Operator), // program limit exceeded
    ("55", Fault::Operator), // object not in prerequisite state
    ("57", Fault::Retry),    // shutdown, cancel
    ("58", Fault::Retry),    // system error outside PostgreSQL
    ("F0", Fault::Operator), // configuration file
    ("P0", Fault::Operator), // raised by a function
];

/// The fault a five-character SQLSTATE stands for. A code nobody thought of is a bug.
pub fn fault_of_sqlstate(code: &str) -> Fault {
    let find = |table: &[(&str, Fault)], key: &str| {
        table
            .iter()
            .find(|(known, _)| *known == key)
            .map(|(_, fault)| *fault)
    };
    find(CODES, code)
        .or_else(|| find(CLASSES, code.get(..2)?))
        .unwrap_or(Fault::Bug)
}

/// The fault an I/O error on a socket or a file stands for.
pub fn fault_of_io(error: &io::Error) -> Fault {
    use io::ErrorKind::*;
    match error.kind() {
        PermissionDenied | StorageFull | QuotaExceeded | ReadOnlyFilesystem => Fault::Operator,
        InvalidInput | Unsupported => Fault::Bug,
        // Link failures, but also NotFound and ConnectionRefused: a server that is not up yet.
        _ => Fault::Retry,
    }
}

/// The fault a failed call of the SQL client stands for.
pub fn fault_of(error: &tokio_postgres::Error) -> Fault {
    if let Some(code) = error.code() {
        return fault_of_sqlstate(code.code());
    }
    if error.is_closed() {
        return Fault::Retry;
    }
    match error
        .source()
        .and_then(|source| source.downcast_ref::<io::Error>())
    {
        Some(io) => fault_of_io(io),
        None => Fault::Bug,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_go_before_classes_and_strangers_are_bugs() {
        for (code, fault) in [
            ("40P01", Fault::Retry),
            ("40001", Fault::Retry),
            ("40002", Fault::Operator),
            ("57P01", Fault::Retry),
            ("57P04", Fault::Operator),
            ("53100", Fault::Operator),
            ("53300", Fault::Retry),
            ("28P01", Fault::Operator),
            ("23505", Fault::Operator),
            ("XX001", Fault::Corrupt),
            ("XX000", Fault::Bug),
            ("42601", Fault::Bug),
            ("42501", Fault::Operator),
            ("", Fault::Bug),
            ("é", Fault::Bug),
        ] {
            assert_eq!(fault_of_sqlstate(code), fault, "{code}");
        }
    }

    #[test]
    fn tables_have_no_code_twice() {
        let mut codes: Vec<_> = CODES.iter().chain(CLASSES).map(|(code, _)| code).collect();
        codes.sort();
        assert!(codes.windows(2).all(|pair| pair[0] != pair[1]));
    }

    #[test]
    fn a_lost_link_is_retried_and_a_full_disk_is_not() {
        assert_eq!(fault_of_io(&io::ErrorKind::ConnectionReset.into()), Fault::Retry);
        assert_eq!(fault_of_io(&io::ErrorKind::UnexpectedEof.into()), Fault::Retry);
        assert_eq!(fault_of_io(&io::ErrorKind::StorageFull.into()), Fault::Operator);
    }
}
