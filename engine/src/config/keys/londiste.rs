//! Keys of `skytide londiste`.

use super::Preset::{Derived, None, Required, Value};
use super::{
    Group, JOB_NAME, Kind, LOGFILE, METRICS_LISTEN, PIDFILE, SHUTDOWN_TIMEOUT, STATS_PERIOD, Table, alias,
    ignored, key, refused,
};

const LOG_ROTATION: &str = "log files are rotated from outside: move the file away and send SIGHUP";
const LOG_LAYOUT: &str = "the layout of log lines is fixed; --log-format json gives structured lines";
const LOG_LEVELS: &str = "use -v, -q or the environment variable SKYTIDE_LOG";
const EXCEPTIONS: &str = "errors are told apart by SQLSTATE, and a repeated one is logged once";
const BATCHES: &str =
    "ticks are joined by batch_max_rows, and a large batch is applied in pieces of apply_chunk_bytes";
const NAMES: &str = "names of the set cost nothing: only what is added on this node is followed";
const COMPARE: &str = "compare has its own query, which sums all columns, and prints a table or JSON";
const RETRIES: &str = "retries follow the kind of error, with growing pauses";
const NO_EVENTS: &str = "the worker follows tables, not event rows";
const NO_HANDLER: &str = "this handler is not built in, and without it rows would be copied unchanged";

pub static LONDISTE: Table = Table {
    sections: &["londiste", "londiste3"],
    service: "londiste",
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
                key(
                    "config_format",
                    Kind::Choice(&["1", "2"]),
                    None,
                    "Which references values may use: 1 for %(key)s alone, 2 for ${key} alone; both when not set.",
                ),
            ],
        },
        Group {
            title: "Node",
            keys: &[
                key(
                    "db",
                    Kind::Connect,
                    Required,
                    "Connect string of this node's own database.",
                ),
                alias(
                    &["pgq_queue_name"],
                    key(
                        "queue_name",
                        Kind::Text,
                        Required,
                        "The replicated queue: its nodes are one cascade.",
                    ),
                ),
                alias(
                    &["pgq_consumer_id"],
                    key(
                        "consumer_name",
                        Kind::Text,
                        Value("%(job_name)s"),
                        "Name of the worker on its provider.",
                    ),
                ),
                key(
                    "node_name",
                    Kind::Text,
                    None,
                    "Node name for create-root and create-leaf.",
                ),
                key(
                    "public_node_location",
                    Kind::Connect,
                    None,
                    "Connect string by which other nodes reach this one, for create-root and create-leaf.",
                ),
                key(
                    "initial_provider_location",
                    Kind::Connect,
                    None,
                    "Connect string of the provider, for create-leaf.",
                ),
                key(
                    "remote_extra_connstr",
                    Kind::Connect,
                    None,
                    "Goes before what other nodes give as their connect strings, such as user= or sslmode=.",
                ),
                key(
                    "loop_delay",
                    Kind::Duration,
                    Value("250ms"),
                    "How often table states and pauses in the database are looked at; changes never wait for it.",
                ),
                alias(
                    &["local_wm_publish_period", "global_wm_publish_period"],
                    key(
                        "watermark_period",
                        Kind::Duration,
                        Value("60s"),
                        "How often the node tells its provider how far it is, which frees WAL and events there.",
                    ),
                ),
            ],
        },
        Group {
            title: "Capture",
            keys: &[
                key(
                    "capture",
                    Kind::Choice(&["wal", "trigger"]),
                    Value("wal"),
                    "Read changes from the provider's WAL. Capture by triggers is not in this version, and refused.",
                ),
                key(
                    "slot_name",
                    Kind::Text,
                    Derived("skytide_<queue>_<node>"),
                    "Replication slot on the provider; made when it is not there.",
                ),
                key(
                    "status_interval",
                    Kind::Duration,
                    Value("10s"),
                    "Longest time between two reports to the provider. Keep it well below wal_sender_timeout.",
                ),
                key(
                    "tick_request_interval",
                    Kind::Duration,
                    Value("5ms"),
                    "Shortest time between two requests for a tick while changes wait for one.",
                ),
            ],
        },
        Group {
            title: "Spool",
            keys: &[
                key(
                    "spool_dir",
                    Kind::Path,
                    Value("~/.skytide/spool/%(job_name)s"),
                    "Directory of the spool, on a local disk that survives a reboot; one worker a directory.",
                ),
                key(
                    "spool_max_bytes",
                    Kind::Size,
                    Value("16GiB"),
                    "Most disk the spool may take. A full spool stops reading, and the provider keeps the WAL.",
                ),
                key(
                    "spool_segment_bytes",
                    Kind::Size,
                    Value("64MiB"),
                    "Size of one file of the spool.",
                ),
                key(
                    "confirm",
                    Kind::Choice(&["spooled", "applied"]),
                    Value("spooled"),
                    "When the provider may drop its WAL: when it is on this host's disk, or when it is applied.",
                ),
            ],
        },
        Group {
            title: "Apply",
            keys: &[
                key(
                    "batch_max_rows",
                    Kind::Count { min: 1 },
                    Value("200000"),
                    "Ticks that wait are joined into one apply up to this many rows.",
                ),
                key(
                    "apply_chunk_bytes",
                    Kind::Size,
                    Value("32MiB"),
                    "A larger batch is applied in pieces of this size, in one transaction all the same.",
                ),
                key(
                    "apply_synchronous_commit",
                    Kind::Choice(&["on", "off"]),
                    Value("off"),
                    "Whether a batch's commit waits for the subscriber's disk. A batch lost with the subscriber's last \
                     moments loses its position with it, and is applied again.",
                ),
            ],
        },
        Group {
            title: "Tables and copy",
            keys: &[
                key(
                    "parallel_copies",
                    Kind::Count { min: 1 },
                    Value("2"),
                    "Tables copied at the same time.",
                ),
                key(
                    "threaded_copy_pool_size",
                    Kind::Count { min: 1 },
                    Derived("the number of processors"),
                    "Connections for one such table.",
                ),
                key(
                    "lock_timeout",
                    Kind::Duration,
                    Value("10s"),
                    "How long add-table, or a copy before it makes way, waits for a lock on a table.",
                ),
            ],
        },
        Group {
            title: "Old keys",
            keys: &[
                ignored("log_size", LOG_ROTATION),
                ignored("log_count", LOG_ROTATION),
                ignored("logfmt_file", LOG_LAYOUT),
                ignored("logfmt_file_verbose", LOG_LAYOUT),
                ignored("logfmt_console", LOG_LAYOUT),
                ignored("logfmt_console_verbose", LOG_LAYOUT),
                ignored("logdatefmt_file", LOG_LAYOUT),
                ignored("logdatefmt_file_verbose", LOG_LAYOUT),
                ignored("logdatefmt_console", LOG_LAYOUT),
                ignored("logdatefmt_console_verbose", LOG_LAYOUT),
                ignored("use_skylog", LOG_LEVELS),
                ignored("skylog_locations", LOG_LEVELS),
                ignored("exception_quiet", EXCEPTIONS),
                ignored("exception_grace", EXCEPTIONS),
                ignored("exception_reset", EXCEPTIONS),
                ignored(
                    "connection_lifetime",
                    "connections hold no state that ages, and are kept",
                ),
                ignored(
                    "keepalive_stats",
                    "stats_period says how often figures are logged",
                ),
                ignored("pgq_lazy_fetch", BATCHES),
                ignored("pgq_autocommit", BATCHES),
                ignored("pgq_batch_collect_events", BATCHES),
                ignored("pgq_batch_collect_interval", BATCHES),
                ignored("exception_sleep", RETRIES),
                ignored("sql_retry", RETRIES),
                ignored("sql_retry_max_count", RETRIES),
                ignored("sql_retry_max_time", RETRIES),
                ignored("sql_retry_formula_a", RETRIES),
                ignored("sql_retry_formula_b", RETRIES),
                ignored("sql_retry_formula_cap", RETRIES),
                ignored("local_only", "only tables added on this node are read"),
                ignored(
                    "local_only_drop_execute",
                    "only tables added on this node are read",
                ),
                ignored(
                    "publication_name",
                    "the publication is named after the queue: skytide_<queue>",
                ),
                ignored("batch_max_bytes", BATCHES),
                ignored(
                    "threaded_copy_tables",
                    "every large table is copied over threaded_copy_pool_size connections",
                ),
                ignored("register_only_tables", NAMES),
                ignored("register_only_seqs", NAMES),
                ignored("register_skip_tables", NAMES),
                ignored("register_skip_seqs", NAMES),
                ignored("compare_sql", COMPARE),
                ignored("compare_fmt", COMPARE),
                ignored("handler_modules", "all handlers are built in"),
                refused(
                    "pgq_keep_lag",
                    "a delayed replica is not offered, and without the delay it would not be one",
                ),
                refused("table_filter", NO_EVENTS),
                refused("consumer_filter", NO_EVENTS),
                refused("shard_hash_func", NO_HANDLER),
                refused("shard_info_sql", NO_HANDLER),
                refused("obfuscator_key", NO_HANDLER),
                refused("obfuscator_map", NO_HANDLER),
            ],
        },
    ],
};
