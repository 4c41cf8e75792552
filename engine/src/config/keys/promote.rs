//! Keys of `skytide promote`: one section for the cluster, and one for each node.

use super::Preset::{Derived, None, Required, Value};
use super::{Group, Kind, Table, key};

pub static PROMOTE: Table = Table {
    sections: &["promote"],
    service: "promote",
    groups: &[
        Group {
            title: "The cluster",
            keys: &[
                key(
                    "nodes",
                    Kind::List,
                    Required,
                    "The servers of the cluster, the primary among them. Each has a section [node NAME]. Of standbys \
                     whose WAL goes equally far the first one is promoted.",
                ),
                key(
                    "journal",
                    Kind::Path,
                    Derived("the configuration file's name with the extension promote.json"),
                    "Where each step is written down, so that a repeated call goes on.",
                ),
            ],
        },
        Group {
            title: "The old primary",
            keys: &[
                key(
                    "fence_command",
                    Kind::Text,
                    None,
                    "A program and its arguments that keeps the old primary from coming back (power switch, network, \
                     load balancer). Words are split at spaces, double quotes keep one together, there is no shell. \
                     SKYTIDE_OLD_PRIMARY and SKYTIDE_NEW_PRIMARY are node names. Exit code 0: it stays away. It may be \
                     run again.",
                ),
                key(
                    "fence_required",
                    Kind::Choice(&["yes", "no"]),
                    Value("yes"),
                    "Without fence_command nothing is promoted, unless this is no.",
                ),
                key(
                    "switchover_max_lag",
                    Kind::Size,
                    Value("16MiB"),
                    "A living primary is not stopped for a standby that is further behind: clients would wait for it.",
                ),
            ],
        },
        Group {
            title: "Patience",
            keys: &[
                key(
                    "answer_timeout",
                    Kind::Duration,
                    Value("3s"),
                    "A node that does not answer for so long is silent.",
                ),
                key(
                    "wait_timeout",
                    Kind::Duration,
                    Value("60s"),
                    "How long a server may make no progress in what it was told: replay, promotion, following.",
                ),
                key(
                    "hook_timeout",
                    Kind::Duration,
                    Value("60s"),
                    "How long fence_command, start_command and stop_command may run. After that they are killed, and \
                     count as failed.",
                ),
            ],
        },
    ],
};

pub static NODE: Table = Table {
    sections: &["node NAME"],
    service: "promote",
    groups: &[Group {
        title: "A node",
        keys: &[
            key(
                "db",
                Kind::Connect,
                Required,
                "How it is reached, as a superuser. One server: several hosts in one string would hide which one answers.",
            ),
            key(
                "replication",
                Kind::Connect,
                Derived("db"),
                "How the other nodes reach it for replication (primary_conninfo).",
            ),
            key(
                "data",
                Kind::Path,
                None,
                "Its data directory, if that is on this host and may be read: then its WAL is read there when it is \
                 dead, and it is stopped, rewound and started from here.",
            ),
            key(
                "bin_dir",
                Kind::Path,
                Derived("what a server on this host says"),
                "Where pg_ctl and pg_rewind of its version are.",
            ),
            key(
                "restore_command",
                Kind::Text,
                Derived("this program and this configuration file, if data is set"),
                "What its server runs to get WAL from the stores, if it does not have such a command already.",
            ),
            key(
                "start_command",
                Kind::Text,
                Derived("pg_ctl start"),
                "Starts its server, for example: systemctl start postgresql@17-main. SKYTIDE_NODE is its name.",
            ),
            key(
                "stop_command",
                Kind::Text,
                Derived("pg_ctl stop -m fast"),
                "Stops its server and waits until it is down. On another host it is needed for a switchover.",
            ),
        ],
    }],
};
