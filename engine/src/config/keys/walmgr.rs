//! Keys of `skytide walmgr`.

use super::Preset::{Derived, None, Required, Value};
use super::{
    Group, JOB_NAME, Kind, LOGFILE, METRICS_LISTEN, PIDFILE, SHUTDOWN_TIMEOUT, STATS_PERIOD, Table, alias,
    ignored, key,
};

const STORE: &str = "a store keeps everything under one place, see stores";
const NO_SSH: &str = "nothing is started over ssh; another host's daemon is named in stores";
const IN_BACKUP: &str = "configuration in the data directory is in every backup";
const ALTER_SYSTEM: &str = "settings are changed by ALTER SYSTEM";
const NO_PROGRAMS: &str =
    "this program reads servers' files and speaks their protocol; it starts none of theirs";
const LOGS: &str = "log lines go to standard error or logfile, which SIGHUP opens anew";
const RETRIES: &str = "what can be tried again is, with growing pauses";
const DIRECT: &str = "WAL is read by this program, and checked record by record";

pub static WALMGR: Table = Table {
    sections: &["walmgr"],
    service: "walmgr",
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
                    "socket",
                    Kind::Path,
                    Derived("the configuration file's name with the extension sock"),
                    "Where archive and restore-wal find the daemon. They look beside the configuration file unless \
                     they are told with --socket.",
                ),
            ],
        },
        Group {
            title: "Stores",
            keys: &[
                key(
                    "stores",
                    Kind::List,
                    Required,
                    "Where WAL and backups are kept: directories, peer://host:port for another host's daemon, and \
                     s3://bucket/prefix for object storage. WAL is restored from the first one that has it. An old configuration without it has one directory, the one \
                     above completed_wals.",
                ),
                key(
                    "stores_needed",
                    Kind::Count { min: 1 },
                    Derived("all of them"),
                    "How many stores must have a file before PostgreSQL is told that it is safe.",
                ),
                key(
                    "compression_level",
                    Kind::Count { min: 1 },
                    Value("1"),
                    "zstd's level, up to 19.",
                ),
                key(
                    "store_listen",
                    Kind::Text,
                    None,
                    "The daemon serves the first directory of stores at this host:port to hosts that show a certificate.",
                ),
                key(
                    "tls_certificate",
                    Kind::Path,
                    None,
                    "This host's certificate (PEM), for both ends of peer:// stores.",
                ),
                key("tls_key", Kind::Path, None, "Its private key (PEM)."),
                key(
                    "tls_authority",
                    Kind::Path,
                    None,
                    "Who signed the certificates (PEM). Whoever has one of them may read and write the store: use an \
                     authority that signs for these hosts alone.",
                ),
            ],
        },
        Group {
            title: "Object storage",
            keys: &[
                key(
                    "s3_endpoint",
                    Kind::Text,
                    Derived("AWS_ENDPOINT_URL_S3, AWS_ENDPOINT_URL, or Amazon's in the region"),
                    "URL of the server of s3:// stores.",
                ),
                key(
                    "s3_region",
                    Kind::Text,
                    Derived("AWS_REGION, AWS_DEFAULT_REGION, or us-east-1"),
                    "Its region; what servers without regions want to hear is in their manual.",
                ),
                key(
                    "s3_credentials",
                    Kind::Path,
                    Derived(
                        "AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN, or the file that \
                         AWS_SHARED_CREDENTIALS_FILE names, or ~/.aws/credentials",
                    ),
                    "File with aws_access_key_id, aws_secret_access_key and maybe aws_session_token in a section, \
                     readable by its owner only.",
                ),
                key(
                    "s3_profile",
                    Kind::Text,
                    Derived("AWS_PROFILE, or default"),
                    "The section of that file.",
                ),
                key(
                    "s3_allow_http",
                    Kind::Choice(&["no", "yes"]),
                    Value("no"),
                    "Whether s3_endpoint may be http://, over which WAL goes in the clear.",
                ),
                key(
                    "s3_authority",
                    Kind::Path,
                    None,
                    "Who signed the server's certificate (PEM), if the system does not know it.",
                ),
                key(
                    "s3_timeout",
                    Kind::Duration,
                    Value("60s"),
                    "A request on which nothing moves for so long is given up; an upload is one as a whole.",
                ),
            ],
        },
        Group {
            title: "Archive and restore",
            keys: &[
                key(
                    "master_data",
                    Kind::Path,
                    None,
                    "The data directory. Its control file says which cluster this is; files of other ones are refused.",
                ),
                key(
                    "slave_data",
                    Kind::Path,
                    None,
                    "The same on a standby's host. Where only this one is set, setup makes the stores and changes no \
                     server.",
                ),
                key(
                    "archive_ahead",
                    Kind::Count { min: 0 },
                    Value("16"),
                    "Files the daemon archives before PostgreSQL asks for them; 0 for none.",
                ),
                key(
                    "restore_ahead",
                    Kind::Size,
                    Value("128MiB"),
                    "Memory for segments the daemon fetches before recovery asks for them; 0 for none.",
                ),
                key(
                    "restore_miss_time",
                    Kind::Duration,
                    Value("500ms"),
                    "How long the daemon believes that a file is not there before it asks the stores again.",
                ),
                key(
                    "restore_timeout",
                    Kind::Duration,
                    Value("60s"),
                    "How long restore-wal tries to reach a store. After that it stops recovery. A standby is told at once \
                     to try again later.",
                ),
            ],
        },
        Group {
            title: "Up to the last record",
            keys: &[
                alias(
                    &["primary_conninfo"],
                    key(
                        "master_db",
                        Kind::Connect,
                        None,
                        "The server whose WAL receive, ship and status look at. receive needs a user with REPLICATION, \
                         and a replication line in its pg_hba.conf.",
                    ),
                ),
                key(
                    "receive_name",
                    Kind::Text,
                    Value("skytide"),
                    "What receive is called in pg_stat_replication and may be called in synchronous_standby_names.",
                ),
                key(
                    "receive_slot",
                    Kind::Text,
                    Value("skytide_receive"),
                    "Replication slot of receive, made if it is not there; empty for none: then the server may remove \
                     WAL that the stores do not have yet.",
                ),
                key(
                    "receive_slot_limit",
                    Kind::Size,
                    Value("16GiB"),
                    "When stores take no WAL, or take it too slowly, and the slot holds more than this on the server, the \
                     slot is dropped, so that the server's disk is not filled; 0 for never.",
                ),
                key(
                    "receive_status_interval",
                    Kind::Duration,
                    Value("5s"),
                    "At least so often receive tells an idle server how far it is.",
                ),
                alias(
                    &["loop_delay"],
                    key(
                        "ship_interval",
                        Kind::Duration,
                        Value("100ms"),
                        "How often ship asks the server how far its WAL is on disk.",
                    ),
                ),
            ],
        },
        Group {
            title: "Servers on this host",
            keys: &[
                key(
                    "master_restart_cmd",
                    Kind::Text,
                    None,
                    "Shell command that restarts the primary; setup and stop run it when a setting needs that.",
                ),
                key(
                    "slave_start_cmd",
                    Kind::Text,
                    None,
                    "Shell command that starts the standby, for createslave --start.",
                ),
                key(
                    "slave_db",
                    Kind::Connect,
                    Derived("by postmaster.pid in the data directory"),
                    "The standby on this host, for pause, continue and boot.",
                ),
                key(
                    "primary_slot_name",
                    Kind::Text,
                    Value("%(job_name)s"),
                    "The slot on the primary that createslave makes for its standby. Signs that slots do not take become \
                     _; empty for none: then the standby may need the stores to catch up.",
                ),
                key(
                    "command_interval",
                    Kind::Duration,
                    Value("1min"),
                    "periodic ends the segment when nothing was archived for this long, and runs periodic_command as often.",
                ),
                key(
                    "periodic_command",
                    Kind::Text,
                    None,
                    "Shell command that periodic runs.",
                ),
            ],
        },
        Group {
            title: "Base backups",
            keys: &[
                key(
                    "backup_jobs",
                    Kind::Count { min: 1 },
                    Derived("the number of processors"),
                    "Pieces of a backup that are compressed and written, or read and restored, at the same time. Each \
                     takes 32 MiB of memory.",
                ),
                key(
                    "backup_max_rate",
                    Kind::Size,
                    None,
                    "What the server may send a second during a backup.",
                ),
                key(
                    "backup_wal_timeout",
                    Kind::Duration,
                    Value("10min"),
                    "How long a backup waits at its end for the WAL it needs to come into the stores.",
                ),
                key(
                    "keep_backups",
                    Kind::Count { min: 0 },
                    None,
                    "purge keeps so many of the newest full backups, with what was built on them; 0: it does not count.",
                ),
                key(
                    "keep_backups_for",
                    Kind::Duration,
                    None,
                    "purge keeps what a restore to any moment within this time needs.",
                ),
                key(
                    "archive_command",
                    Kind::Text,
                    None,
                    "Shell command that purge runs before it removes a backup, not the server's setting of this name. \
                     $BACKUPDIR is the backup's directory in the store, of directories. If it fails, nothing is removed.",
                ),
            ],
        },
        Group {
            title: "Places in old configurations",
            keys: &[
                key(
                    "completed_wals",
                    Kind::Text,
                    None,
                    "Where stores is not set, the directory above this one is the store. host:/path is refused: nothing \
                     is started over ssh.",
                ),
                key(
                    "walmgr_data",
                    Kind::Text,
                    None,
                    "Where neither is set, this directory is the store.",
                ),
                key(
                    "slave",
                    Kind::Text,
                    None,
                    "The standby's host, for other keys to refer to. Nothing is sent there because of it.",
                ),
            ],
        },
        Group {
            title: "Old keys",
            keys: &[
                ignored("partial_wals", STORE),
                ignored("full_backup", STORE),
                ignored("config_backup", IN_BACKUP),
                ignored("master_config", ALTER_SYSTEM),
                ignored("slave_config_dir", IN_BACKUP),
                ignored("master_bin", NO_PROGRAMS),
                ignored("slave_bin", NO_PROGRAMS),
                ignored("slave_config", NO_SSH),
                ignored(
                    "slave_stop_cmd",
                    "a directory whose server runs is refused; stop that one yourself",
                ),
                ignored(
                    "slave_pg_xlog",
                    "pg_wal is restored into the data directory; move it and make a link before the first start",
                ),
                ignored(
                    "backup_datadir",
                    "restore moves nothing away: it refuses a directory that is not empty, or uses what is there (--delta)",
                ),
                ignored(
                    "keep_symlinks",
                    "tablespaces are restored where they were or where --tablespace says",
                ),
                ignored(
                    "hot_standby",
                    "wal_level is replica or logical, and both make a hot standby",
                ),
                ignored("compression", "WAL is always compressed, see compression_level"),
                ignored("use_xlog_functions", DIRECT),
                ignored("use_skylog", LOGS),
                ignored("skylog_locations", LOGS),
                ignored("log_size", LOGS),
                ignored("log_count", LOGS),
                ignored("exception_sleep", RETRIES),
                ignored("exception_quiet", RETRIES),
                ignored("exception_grace", RETRIES),
                ignored("exception_reset", RETRIES),
            ],
        },
    ],
};
