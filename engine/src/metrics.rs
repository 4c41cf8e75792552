//! Metric names, each described once. Units come last; labels have few values, never table names.

use metrics::{Unit, describe_counter, describe_gauge, describe_histogram};

pub const CAPTURE_BYTES: &str = "skytide_capture_bytes_total";
pub const CAPTURE_CONNECTED: &str = "skytide_capture_connected";
pub const SLOT_RETAINED: &str = "skytide_slot_retained_bytes";
pub const SPOOL: &str = "skytide_spool_bytes";
pub const SPOOL_FULL: &str = "skytide_spool_full";
pub const SPOOL_SYNC: &str = "skytide_spool_sync_seconds";
pub const TICK_LAG: &str = "skytide_tick_lag_seconds";
pub const APPLIED_TICK: &str = "skytide_applied_tick";
pub const APPLY_BATCHES: &str = "skytide_apply_batches_total";
pub const APPLY_TICKS: &str = "skytide_apply_ticks_total";
/// Label `operation`: insert, update, delete.
pub const APPLIED_ROWS: &str = "skytide_applied_rows_total";
pub const APPLY_BATCH: &str = "skytide_apply_batch_seconds";
pub const EXACT_BATCHES: &str = "skytide_exact_batches_total";
pub const MISSING_ROWS: &str = "skytide_missing_rows_total";
pub const COPY_ROWS: &str = "skytide_copy_rows_total";
pub const COPY_BYTES: &str = "skytide_copy_bytes_total";
pub const COPYING_TABLES: &str = "skytide_copying_tables";
pub const RECONNECTS: &str = "skytide_reconnects_total";
pub const QUEUE_BATCHES: &str = "skytide_queue_batches_total";
pub const QUEUE_EVENTS: &str = "skytide_queue_events_total";
pub const QUEUE_FAILURES: &str = "skytide_queue_failures_total";
pub const QUEUE_LAG: &str = "skytide_queue_lag_seconds";
pub const WAL_FILES: &str = "skytide_wal_archived_files_total";
pub const WAL_BYTES: &str = "skytide_wal_archived_bytes_total";
pub const WAL_STORED: &str = "skytide_wal_stored_bytes_total";
pub const WAL_FAILURES: &str = "skytide_wal_failures_total";
pub const WAL_BEHIND: &str = "skytide_wal_stores_left_behind_total";
pub const WAL_CAUGHT_UP: &str = "skytide_wal_stores_caught_up_files_total";
pub const WAL_AHEAD: &str = "skytide_wal_archived_ahead_total";
pub const WAL_BACKLOG: &str = "skytide_wal_backlog_files";
pub const WAL_RESTORES: &str = "skytide_wal_restores_total";
pub const WAL_RESTORES_AT_HAND: &str = "skytide_wal_restores_at_hand_total";
pub const WAL_WINDOW_BYTES: &str = "skytide_wal_loss_window_bytes";
pub const WAL_WINDOW_SECONDS: &str = "skytide_wal_loss_window_seconds";
pub const WAL_SAFE_COMMIT: &str = "skytide_wal_safe_commit_timestamp_seconds";
pub const WAL_STORE_TAKES: &str = "skytide_wal_store_takes_wal";
pub const WAL_RECEIVING: &str = "skytide_wal_receiving";

enum Kind {
    Counter,
    Gauge,
    Histogram,
}

use Kind::{Counter, Gauge, Histogram};

const METRICS: &[(&str, Kind, Unit, &str)] = &[
    (
        CAPTURE_BYTES,
        Counter,
        Unit::Bytes,
        "Bytes of the replication stream read from the provider.",
    ),
    (
        CAPTURE_CONNECTED,
        Gauge,
        Unit::Count,
        "1 while the replication stream from the provider is open.",
    ),
    (
        SLOT_RETAINED,
        Gauge,
        Unit::Bytes,
        "WAL the provider keeps for our slot.",
    ),
    (SPOOL, Gauge, Unit::Bytes, "Disk taken by the spool."),
    (
        SPOOL_FULL,
        Gauge,
        Unit::Count,
        "1 while reading stands still because the spool is full.",
    ),
    (
        SPOOL_SYNC,
        Histogram,
        Unit::Seconds,
        "Time of one flush of the spool to disk.",
    ),
    (
        TICK_LAG,
        Gauge,
        Unit::Seconds,
        "Age of the newest tick that is applied here.",
    ),
    (
        APPLIED_TICK,
        Gauge,
        Unit::Count,
        "The newest tick that is applied here.",
    ),
    (APPLY_BATCHES, Counter, Unit::Count, "Batches applied."),
    (
        APPLY_TICKS,
        Counter,
        Unit::Count,
        "Ticks applied; several may be joined into one batch.",
    ),
    (
        APPLIED_ROWS,
        Counter,
        Unit::Count,
        "Row changes applied, by operation (insert, update, delete).",
    ),
    (
        APPLY_BATCH,
        Histogram,
        Unit::Seconds,
        "Time of one batch, from its first statement to its commit.",
    ),
    (
        EXACT_BATCHES,
        Counter,
        Unit::Count,
        "Batches applied change by change, in their order, after a conflict.",
    ),
    (
        MISSING_ROWS,
        Counter,
        Unit::Count,
        "Updates and deletes whose row was not there.",
    ),
    (COPY_ROWS, Counter, Unit::Count, "Rows copied by initial copies."),
    (
        COPY_BYTES,
        Counter,
        Unit::Bytes,
        "Bytes copied by initial copies.",
    ),
    (
        COPYING_TABLES,
        Gauge,
        Unit::Count,
        "Tables that are copied or catch up now.",
    ),
    (
        RECONNECTS,
        Counter,
        Unit::Count,
        "Connections opened again after an error.",
    ),
    (
        QUEUE_BATCHES,
        Counter,
        Unit::Count,
        "Batches of a queue finished by this consumer.",
    ),
    (QUEUE_EVENTS, Counter, Unit::Count, "Events of finished batches."),
    (
        QUEUE_FAILURES,
        Counter,
        Unit::Count,
        "Errors after which this consumer tried again.",
    ),
    (
        QUEUE_LAG,
        Gauge,
        Unit::Seconds,
        "Age of the newest batch's end when this consumer finished it.",
    ),
    (
        WAL_FILES,
        Counter,
        Unit::Count,
        "Files of WAL that were archived.",
    ),
    (WAL_BYTES, Counter, Unit::Bytes, "Bytes of those files."),
    (
        WAL_STORED,
        Counter,
        Unit::Bytes,
        "Bytes those files take in a store.",
    ),
    (
        WAL_FAILURES,
        Counter,
        Unit::Count,
        "Attempts to archive a file that failed.",
    ),
    (
        WAL_BEHIND,
        Counter,
        Unit::Count,
        "Files a store did not get, which stores_needed allows.",
    ),
    (
        WAL_CAUGHT_UP,
        Counter,
        Unit::Count,
        "Files a store was given later, from one that had them.",
    ),
    (
        WAL_AHEAD,
        Counter,
        Unit::Count,
        "Files that were archived before PostgreSQL asked.",
    ),
    (WAL_BACKLOG, Gauge, Unit::Count, "Files that wait to be archived."),
    (
        WAL_RESTORES,
        Counter,
        Unit::Count,
        "Files of WAL asked for by recovery.",
    ),
    (
        WAL_RESTORES_AT_HAND,
        Counter,
        Unit::Count,
        "Of those the ones that were in memory already.",
    ),
    (
        WAL_WINDOW_BYTES,
        Gauge,
        Unit::Bytes,
        "WAL on the server's disk behind the last whole record in this store.",
    ),
    (
        WAL_WINDOW_SECONDS,
        Gauge,
        Unit::Seconds,
        "For how long the first byte of that has been on the server's disk.",
    ),
    (
        WAL_SAFE_COMMIT,
        Gauge,
        Unit::Seconds,
        "When the last transaction committed whose commit is in this store, by the server's clock.",
    ),
    (
        WAL_STORE_TAKES,
        Gauge,
        Unit::Count,
        "1 while this store takes WAL, 0 while it is left behind.",
    ),
    (
        WAL_RECEIVING,
        Gauge,
        Unit::Count,
        "1 while WAL comes from the server.",
    ),
    (
        skytide_ticker::TICKS,
        Counter,
        Unit::Count,
        "Ticks made, by database.",
    ),
    (
        skytide_ticker::RETRIED,
        Counter,
        Unit::Count,
        "Events put back into their queue after their retry time, by database.",
    ),
    (
        skytide_ticker::MAINTENANCE,
        Counter,
        Unit::Count,
        "Rounds of maintenance, by database.",
    ),
    (
        skytide_ticker::ERRORS,
        Counter,
        Unit::Count,
        "Rounds of the ticker that failed, by database.",
    ),
    (
        skytide_ticker::ROUNDS,
        Counter,
        Unit::Count,
        "Rounds of the ticker, by database.",
    ),
    (
        skytide_ticker::MISSED,
        Counter,
        Unit::Count,
        "Rounds left out because the one before took too long, by database.",
    ),
    (
        skytide_ticker::ROUND,
        Histogram,
        Unit::Seconds,
        "Time of one round of ticks, by database.",
    ),
    (
        skytide_ticker::LATENESS,
        Histogram,
        Unit::Seconds,
        "From when a round was due to when it began, by database.",
    ),
    (
        skytide_ticker::ACTIVE,
        Gauge,
        Unit::Count,
        "1 while this ticker is the one that ticks the database.",
    ),
];

/// Name, kind and meaning of each, for the manual.
pub fn catalogue() -> impl Iterator<Item = (&'static str, &'static str, &'static str)> {
    METRICS.iter().map(|(name, kind, _, text)| {
        let kind = match kind {
            Counter => "counter",
            Gauge => "gauge",
            Histogram => "histogram",
        };
        (*name, kind, *text)
    })
}

/// Tell the installed recorder what the names mean.
pub fn describe() {
    for (name, kind, unit, text) in METRICS {
        match kind {
            Counter => describe_counter!(*name, *unit, *text),
            Gauge => describe_gauge!(*name, *unit, *text),
            Histogram => describe_histogram!(*name, *unit, *text),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_their_kind_and_unit() {
        for (name, kind, unit, text) in METRICS {
            assert!(name.starts_with("skytide_") && text.ends_with('.'), "{name}");
            assert_eq!(name.ends_with("_total"), matches!(kind, Counter), "{name}");
            if !matches!(kind, Counter) && *unit != Unit::Count {
                assert!(
                    name.ends_with(&format!("_{}", unit.as_str())),
                    "{name} is in {}",
                    unit.as_str()
                );
            }
        }
    }
}
