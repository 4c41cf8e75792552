//! What would go wrong, found before it does: checks as data, each with its finding and its fix.
//!
//! A check looks at one side (`server`, `rights`, `queue`, `tables`) or at a node as a whole (`node`,
//! `spool`). It reads; the one thing it tries and takes back is `session_replication_role`.

mod node;
mod queue;
mod rights;
mod server;
mod spool;
mod tables;

use std::path::PathBuf;

use futures_util::future::BoxFuture;
use serde::Serialize;
use skytide_sql::api::pgq_node::{self, WorkerState};
use skytide_sql::conn::{ConnectString, Session, connect};
use skytide_sql::{NodeName, QueueName, SlotName};
use skytide_wal::walsender::{Client, Mode};

use crate::capture::slot::Publications;
use crate::causes::chain;
use crate::cli::shell;
use crate::config::settings::{Confirm, LondisteSettings};
use crate::daemon::pidfile;
use crate::worker::replay;
use crate::worker::start::default_slot_name;

/// How the program names itself to the servers.
const APPLICATION: &str = "skytide doctor";

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    Ok,
    /// Works, but will not always, or not well.
    Warn,
    Fail,
}

impl Verdict {
    pub fn word(self) -> &'static str {
        match self {
            Verdict::Ok => "ok",
            Verdict::Warn => "warn",
            Verdict::Fail => "FAIL",
        }
    }
}

/// What a side is used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    Provider,
    Subscriber,
    /// A database that may become either.
    Database,
}

impl Role {
    pub fn word(self) -> &'static str {
        match self {
            Role::Provider => "provider",
            Role::Subscriber => "subscriber",
            Role::Database => "database",
        }
    }
}

/// One answer of one check.
#[derive(Clone, Debug, Serialize)]
pub struct Finding {
    pub check: &'static str,
    pub side: &'static str,
    pub verdict: Verdict,
    pub object: String,
    pub finding: String,
    /// What to run or change, as exactly as we know it.
    pub fix: Option<String>,
}

/// Collects what a check says.
struct Findings {
    check: &'static str,
    side: &'static str,
    list: Vec<Finding>,
}

impl Findings {
    fn ok(&mut self, object: impl Into<String>, finding: impl Into<String>) {
        self.add(Verdict::Ok, object, finding, None);
    }

    fn warn(&mut self, object: impl Into<String>, finding: impl Into<String>, fix: impl Into<String>) {
        self.add(Verdict::Warn, object, finding, Some(fix.into()));
    }

    fn fail(&mut self, object: impl Into<String>, finding: impl Into<String>, fix: impl Into<String>) {
        self.add(Verdict::Fail, object, finding, Some(fix.into()));
    }

    fn add(
        &mut self,
        verdict: Verdict,
        object: impl Into<String>,
        finding: impl Into<String>,
        fix: Option<String>,
    ) {
        self.list.push(Finding {
            check: self.check,
            side: self.side,
            verdict,
            object: object.into(),
            finding: finding.into(),
            fix,
        });
    }
}

/// A question that could not be asked.
#[derive(Debug, thiserror::Error)]
enum Unasked {
    #[error(transparent)]
    Sql(#[from] tokio_postgres::Error),
    #[error(transparent)]
    Api(#[from] skytide_sql::api::ApiError),
    #[error(transparent)]
    Name(#[from] skytide_sql::names::BadName),
}

type Answer<'a> = BoxFuture<'a, Result<(), Unasked>>;

/// A named check of a `T`.
struct Check<T> {
    name: &'static str,
    /// For the manual.
    about: &'static str,
    run: for<'a> fn(&'a T, &'a mut Findings) -> Answer<'a>,
}

/// Checks of one database, with the roles they matter to.
struct SideCheck {
    roles: &'static [Role],
    check: Check<Side>,
}

/// One database, connected.
struct Side {
    role: Role,
    dsn: ConnectString,
    session: Session,
    user: String,
    database: String,
    superuser: bool,
    /// Where its queue is known.
    queue: Option<QueueName>,
    /// A node's slot on this side, if it has one already.
    slot: Option<SlotName>,
    /// Of the node's worker, if it has one.
    pidfile: Option<PathBuf>,
}

impl Side {
    async fn new(
        role: Role,
        dsn: ConnectString,
        session: Session,
        queue: Option<QueueName>,
    ) -> Result<Side, Unasked> {
        let row = session
            .query_one(
                "select current_user::text, current_database()::text, \
                        (select rolsuper from pg_catalog.pg_roles where rolname = current_user)",
                &[],
            )
            .await?;
        Ok(Side {
            role,
            dsn,
            user: row.get(0),
            database: row.get(1),
            superuser: row.get(2),
            session,
            queue,
            slot: None,
            pidfile: None,
        })
    }

    /// Whether the node's worker runs: by its pidfile, or by the lock it holds here, wherever it runs.
    async fn worker_runs(&self, queue: &QueueName) -> Result<bool, Unasked> {
        let pidfile = self.pidfile.as_deref();
        if pidfile.is_some_and(|path| pidfile::running(path).is_ok_and(|pid| pid.is_some())) {
            return Ok(true);
        }
        Ok(replay::worker_runs(&self.session, queue).await?)
    }

    fn has(&self, roles: &[Role]) -> bool {
        self.role == Role::Database || roles.contains(&self.role)
    }

    async fn has_modules(&self) -> Result<bool, Unasked> {
        let row = self
            .session
            .query_one(
                "select to_regclass('londiste.table_info') is not null and to_regclass('pgq.tick') is not null",
                &[],
            )
            .await?;
        Ok(row.get(0))
    }
}

/// A leaf with its provider.
struct Pair {
    provider: Side,
    subscriber: Side,
    queue: QueueName,
    publications: Publications,
    slot: SlotName,
    state: WorkerState,
    spool_dir: PathBuf,
    spool_max_bytes: u64,
    /// An empty spool is no loss: the slot is kept at what was applied.
    confirm_applied: bool,
    conf: PathBuf,
}

const PROVIDER: &[Role] = &[Role::Provider];
const SUBSCRIBER: &[Role] = &[Role::Subscriber];
const BOTH: &[Role] = &[Role::Provider, Role::Subscriber];

macro_rules! side_checks {
    ($($name:literal, $roles:ident, $function:path, $about:literal;)*) => {
        &[$(SideCheck {
            roles: $roles,
            check: Check { name: $name, about: $about, run: |side, out| Box::pin($function(side, out)) },
        }),*]
    };
}

const SIDE_CHECKS: &[SideCheck] = side_checks![
    "version", BOTH, server::version, "PostgreSQL 13 to 18";
    "primary", BOTH, server::primary, "the server is not a standby";
    "wal_level", PROVIDER, server::wal_level, "wal_level is logical";
    "slots", PROVIDER, server::slots, "a replication slot is free, or ours exists";
    "walsenders", PROVIDER, server::walsenders, "a walsender is free";
    "plugins", PROVIDER, server::plugins, "output_plugin_libraries, where the server has it, allows pgoutput";
    "replication", PROVIDER, server::replication, "the role may open a replication connection";
    "prepared", PROVIDER, server::prepared, "no prepared transaction is older than five minutes";
    "long", BOTH, server::long_transactions, "no transaction is older than ten minutes";
    "modules", BOTH, rights::modules, "the SQL modules are this program's, unchanged";
    "functions", BOTH, rights::functions, "the role may call what the worker calls";
    "publication", PROVIDER, rights::publication, "the role may make the publications, or they are there";
    "replica role", SUBSCRIBER, rights::replica_role, "the role may set session_replication_role";
    "table rights", SUBSCRIBER, rights::tables, "the role owns the followed tables";
    "queue", PROVIDER, queue::queue, "the queue ticks: not paused, not ticked from outside";
    "ticker", PROVIDER, queue::ticker, "a ticker is at work and ticks are young";
    "rotation", PROVIDER, queue::rotation, "no consumer holds rotation back";
    "node", BOTH, queue::node, "the node's worker is not paused and left no error";
    "identity", PROVIDER, tables::identity, "each table has a usable replica identity and writes WAL";
];

const PAIR_CHECKS: &[Check<Pair>] = &[
    Check {
        name: "slot",
        about: "the slot exists, is ours, is used, and has its WAL",
        run: |pair, out| Box::pin(node::slot(pair, out)),
    },
    Check {
        name: "kept WAL",
        about: "max_slot_wal_keep_size leaves the slot room",
        run: |pair, out| Box::pin(node::kept_wal(pair, out)),
    },
    Check {
        name: "tables",
        about: "followed tables exist on both sides, are published, with the same columns and a unique key",
        run: |pair, out| Box::pin(tables::compare(pair, out)),
    },
    Check {
        name: "spool",
        about: "the spool is this queue's, whole at its end, and has room",
        run: |pair, out| Box::pin(spool::spool(pair, out)),
    },
];

/// Every check with what it looks at, for the manual.
pub fn catalogue() -> Vec<(&'static str, &'static str)> {
    let sides = SIDE_CHECKS.iter().map(|c| (c.check.name, c.check.about));
    let pairs = PAIR_CHECKS.iter().map(|c| (c.name, c.about));
    let first = ("connect", "a session can be opened");
    std::iter::once(first).chain(sides).chain(pairs).collect()
}

/// Looks at one database that is to become a node, or is one.
pub async fn database(dsn: ConnectString, role: Role) -> Vec<Finding> {
    let mut all = Vec::new();
    if let Some(side) = open(role, dsn, None, &mut all).await {
        examine_side(&side, &mut all).await;
    }
    all
}

/// Looks at the node of a configuration file: its database, and for a leaf its provider and spool.
pub async fn node(settings: &LondisteSettings, conf: PathBuf) -> Vec<Finding> {
    let mut all = Vec::new();
    let queue = settings.queue_name.clone();
    let opened = open(Role::Database, settings.db.clone(), Some(queue.clone()), &mut all).await;
    let Some(mut own) = opened else { return all };
    own.pidfile = settings.process.pidfile.clone();
    let state = match own.has_modules().await {
        Ok(true) => pgq_node::get_worker_state(&*own.session, &queue).await.ok(),
        _ => None,
    };
    let Some(state) = state else {
        examine_side(&own, &mut all).await;
        note(
            &mut all,
            "node",
            own.role,
            Verdict::Warn,
            queue.to_string(),
            "this database has no node of the queue yet, or the role may not see it",
            format!(
                "skytide londiste {} create-root NAME CONNSTR, or create-leaf NAME CONNSTR --provider=CONNSTR",
                conf.display()
            ),
        );
        return all;
    };
    if state.node_type == "root" {
        own.role = Role::Provider;
        examine_side(&own, &mut all).await;
        return all;
    }
    own.role = Role::Subscriber;
    examine_side(&own, &mut all).await;
    let extra = settings.remote_extra_connstr.as_str();
    let location = match crate::config::connect_string(&state.provider_location, extra) {
        Ok(location) => location,
        Err(e) => {
            note(
                &mut all,
                "connect",
                Role::Provider,
                Verdict::Fail,
                format!("location of node {}", state.provider_node),
                e.to_string(),
                "select pgq_node.register_location(QUEUE, NODE, CONNSTR, false) in this node's database",
            );
            return all;
        }
    };
    let Some(mut provider) = open(Role::Provider, location, Some(queue.clone()), &mut all).await else {
        return all;
    };
    let slot = settings.slot_name.clone().or_else(|| {
        let name = NodeName::new(state.node_name.clone()).ok()?;
        default_slot_name(&queue, &name).ok()
    });
    provider.slot = slot.clone();
    examine_side(&provider, &mut all).await;
    if let Some(slot) = slot {
        let pair = Pair {
            publications: Publications::of(&queue),
            provider,
            subscriber: own,
            queue,
            slot,
            state,
            spool_dir: settings.spool_dir.clone(),
            spool_max_bytes: settings.spool_max_bytes,
            confirm_applied: settings.confirm == Confirm::Applied,
            conf,
        };
        for check in PAIR_CHECKS {
            examine(check, &pair, "node", &mut all).await;
        }
    }
    all
}

async fn examine_side(side: &Side, all: &mut Vec<Finding>) {
    for SideCheck { roles, check } in SIDE_CHECKS {
        if side.has(roles) {
            examine(check, side, side.role.word(), all).await;
        }
    }
}

async fn examine<T>(check: &Check<T>, subject: &T, side: &'static str, all: &mut Vec<Finding>) {
    let mut out = Findings {
        check: check.name,
        side,
        list: Vec::new(),
    };
    if let Err(e) = (check.run)(subject, &mut out).await {
        out.warn(
            check.about,
            format!("could not be found out: {}", chain(&e)),
            "run skytide doctor as a role that may look",
        );
    }
    all.append(&mut out.list);
}

fn note(
    all: &mut Vec<Finding>,
    check: &'static str,
    role: Role,
    verdict: Verdict,
    object: impl Into<String>,
    finding: impl Into<String>,
    fix: impl Into<String>,
) {
    all.push(Finding {
        check,
        side: role.word(),
        verdict,
        object: object.into(),
        finding: finding.into(),
        fix: Some(fix.into()),
    });
}

async fn open(
    role: Role,
    dsn: ConnectString,
    queue: Option<QueueName>,
    all: &mut Vec<Finding>,
) -> Option<Side> {
    let object = format!("{} as {}", dsn.dbname(), dsn.user());
    let failed = match connect(&dsn, APPLICATION).await {
        Ok(session) => match Side::new(role, dsn.clone(), session, queue).await {
            Ok(side) => {
                all.push(Finding {
                    check: "connect",
                    side: role.word(),
                    verdict: Verdict::Ok,
                    finding: format!("reached {}", side.session.host()),
                    object,
                    fix: None,
                });
                return Some(side);
            }
            Err(e) => chain(&e),
        },
        Err(e) => chain(&e),
    };
    let fix = format!("try: psql {}", shell::quote(dsn.without_password()));
    note(all, "connect", role, Verdict::Fail, object, failed, fix);
    None
}

/// A replication connection to a side, to ask what only that answers.
async fn replication(side: &Side) -> Result<Client, skytide_wal::walsender::WalsenderError> {
    Client::connect(&side.dsn, Mode::Logical, APPLICATION).await
}
