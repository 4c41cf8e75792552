//! Keys of `skytide ticker`, which are pgqd's.

use super::Preset::{None, Value};
use super::{
    Group, JOB_NAME, Kind, LOGFILE, METRICS_LISTEN, PIDFILE, SHUTDOWN_TIMEOUT, STATS_PERIOD, Table, ignored,
    key,
};

const SYSLOG: &str = "log lines go to standard error or logfile, where the service manager takes them";

pub static TICKER: Table = Table {
    sections: &["pgqd"],
    service: "pgqd",
    groups: &[
        Group {
            title: "Process",
            keys: &[
                JOB_NAME,
                LOGFILE,
                PIDFILE,
                METRICS_LISTEN,
                STATS_PERIOD,
                SHUTDOWN_TIMEOUT,
            ],
        },
        Group {
            title: "Databases",
            keys: &[
                key(
                    "base_connstr",
                    Kind::Connect,
                    Value(""),
                    "Connect string without dbname, for every database.",
                ),
                key(
                    "initial_database",
                    Kind::Text,
                    Value("template1"),
                    "The database asked which others there are, when database_list is empty.",
                ),
                key("database_list", Kind::List, None, "Tick only these databases."),
                key(
                    "check_period",
                    Kind::Duration,
                    Value("60s"),
                    "How often new databases are looked for, and PgQ in databases that had none.",
                ),
                key(
                    "connection_lifetime",
                    Kind::Duration,
                    Value("1h"),
                    "Age at which the ticking connection is replaced by a new one.",
                ),
            ],
        },
        Group {
            title: "Work",
            keys: &[
                key(
                    "ticker_period",
                    Kind::Duration,
                    Value("1s"),
                    "From one round of ticks to the next; 10ms is fine.",
                ),
                key(
                    "min_tick_age",
                    Kind::Duration,
                    Value("2ms"),
                    "Ticks that readers of the WAL ask for are made at once, but no closer together than this.",
                ),
                key(
                    "maint_period",
                    Kind::Duration,
                    Value("120s"),
                    "From one round of maintenance to the next.",
                ),
                key(
                    "retry_period",
                    Kind::Duration,
                    Value("30s"),
                    "From one round of due retries to the next.",
                ),
            ],
        },
        Group {
            title: "Old keys",
            keys: &[
                ignored("syslog", SYSLOG),
                ignored("syslog_ident", SYSLOG),
                ignored("syslog_facility", SYSLOG),
            ],
        },
    ],
};
