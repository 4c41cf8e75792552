//! Takes over schemas of older makers: what is looked at before, what is locked, how a schema leaves its
//! extension, and what has to be the same afterwards.

use std::time::{Duration, Instant};

use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, GenericClient};

use super::{Action, CTriggers, InstallError, Module, ModulePlan, Origin, Plan, queries};

/// One try at the locks. Shorter than the server's deadlock_timeout, so that we give up before the server
/// looks for somebody to cancel, and inserts that queue behind us go on in between.
const TRY: &str = "set local lock_timeout = '400ms'";

/// Between tries, for those who queued.
const PAUSE: Duration = Duration::from_millis(300);

/// In the order in which they are locked. The queue table comes first: whoever inserts, ticks or rotates
/// reads it first, so nobody waits for us while holding what we want next. When it is ours no transaction
/// is open that has inserted an event by the old functions.
const LOCKED: &[&str] = &[
    "pgq.queue",
    "pgq.consumer",
    "pgq.subscription",
    "pgq.tick",
    "pgq.event_template",
    "pgq.retry_queue",
    "pgq.failed_queue",
    "pgq_ext.completed_tick",
    "pgq_ext.completed_batch",
    "pgq_ext.completed_event",
    "pgq_ext.partial_batch",
    "pgq_node.node_location",
    "pgq_node.node_info",
    "pgq_node.local_state",
    "pgq_node.subscriber_info",
    "londiste.table_info",
    "londiste.seq_info",
    "londiste.applied_execute",
    "londiste.pending_fkeys",
];

/// Refuses what would fail half-way, and says in words what adopting means for this schema.
pub(super) async fn examine<C: GenericClient>(
    client: &C,
    module: Module,
    origin: &Origin,
    triggers: CTriggers,
) -> Result<Vec<String>, InstallError> {
    let schema = module.schema();
    if let Some(row) = client.query_opt(queries::OTHER_OWNER, &[&schema]).await? {
        return Err(InstallError::OtherOwner {
            object: row.get(0),
            owner: row.get(1),
            user: row.get(2),
        });
    }
    let ours: Vec<&str> = Module::ALL.iter().map(|m| m.schema()).collect();
    if let Some(row) = client
        .query_opt(queries::DEPENDENT_EXTENSION, &[&schema, &ours])
        .await?
    {
        return Err(InstallError::DependentExtension {
            extension: schema.to_owned(),
            dependent: row.get(0),
        });
    }
    if module == Module::Pgq {
        if let Some(row) = client.query_opt(queries::DEPENDENT_VIEW, &[]).await? {
            return Err(InstallError::DependentView { view: row.get(0) });
        }
        if let Some(row) = client.query_opt(queries::DEPENDENT_TRIGGER, &[]).await? {
            return Err(InstallError::DependentTrigger { trigger: row.get(0) });
        }
    }

    let mut steps = Vec::new();
    if matches!(origin, Origin::Extension(_)) {
        let members: i64 = client.query_one(queries::COUNT_MEMBERS, &[&schema]).await?.get(0);
        steps.push(format!(
            "take {members} objects out of extension {schema}, drop the extension"
        ));
    }
    for (_, words, query) in queries::KEPT.iter().filter(|(of, ..)| *of == schema) {
        if let Some(count) = count(client, query).await?.filter(|n| *n != 0) {
            steps.push(format!("keep {words}: {count}"));
        }
    }
    if module == Module::Pgq {
        steps.extend(trigger_step(client, module, triggers).await?);
    }
    let scripts = module.embedded().scripts.iter();
    let functions: Vec<&str> = scripts
        .filter(|script| triggers != CTriggers::Keep || !script.is_trigger_function())
        .map(|script| script.function)
        .collect();
    let replaced: i64 = client
        .query_one(queries::COUNT_REPLACED, &[&schema, &functions])
        .await?
        .get(0);
    steps.push(format!(
        "replace functions: {replaced}; what somebody changed in them goes"
    ));
    let open: i64 = client
        .query_one(queries::COUNT_PUBLIC, &[&schema, &module.embedded().public])
        .await?
        .get(0);
    if open > 0 {
        steps.push(format!(
            "take execute from PUBLIC, on functions: {open}; who uses them needs pgq_writer, pgq_reader or pgq_admin"
        ));
    }
    Ok(steps)
}

/// A count over a table that not every version has.
async fn count<C: GenericClient>(
    client: &C,
    query: &(&str, &str),
) -> Result<Option<i64>, tokio_postgres::Error> {
    let (table, sql) = query;
    let there: bool = client.query_one(queries::EXISTS, &[table]).await?.get(0);
    match there {
        true => Ok(Some(client.query_one(*sql, &[]).await?.get(0))),
        false => Ok(None),
    }
}

async fn trigger_step<C: GenericClient>(
    client: &C,
    module: Module,
    triggers: CTriggers,
) -> Result<Option<String>, tokio_postgres::Error> {
    let row = client
        .query_one(
            queries::COUNT_C_TRIGGERS,
            &[&module.schema(), &super::TRIGGER_FUNCTIONS.as_slice()],
        )
        .await?;
    let (functions, used): (Option<String>, i64) = (row.get(0), row.get(1));
    let replaced = module.embedded().scripts.iter().any(|s| s.is_trigger_function());
    Ok(functions.map(|functions| match triggers {
        CTriggers::Replace | CTriggers::AsTheyAre if replaced => {
            format!("replace the C functions {functions} by PL/pgSQL, for triggers: {used}")
        }
        _ => format!("keep the C functions {functions} and their library, for triggers: {used}"),
    }))
}

/// Locks what there is of [`LOCKED`], for the rest of the transaction.
pub(super) async fn lock<C: GenericClient>(client: &C) -> Result<(), tokio_postgres::Error> {
    client.batch_execute(TRY).await?;
    let statement: Option<String> = client.query_one(queries::LOCK_TABLES, &[&LOCKED]).await?.get(0);
    match statement {
        // quoted by the server
        Some(statement) => client.batch_execute(&statement).await,
        None => Ok(()),
    }
}

/// Takes every adopted schema's objects out of their extensions, then drops these, the dependent ones first.
pub(super) async fn detach<C: GenericClient>(client: &C, plan: &Plan) -> Result<(), InstallError> {
    let extensions = || {
        let adopted = plan.modules.iter().rev().filter(|m| m.action == Action::Adopt);
        adopted
            .filter(|m| matches!(m.origin, Some(Origin::Extension(_))))
            .map(|m| m.module)
    };
    for module in extensions() {
        let failed = |source| InstallError::Detach {
            schema: module,
            source,
        };
        for row in client
            .query(queries::DETACH_MEMBERS, &[&module.schema()])
            .await
            .map_err(failed)?
        {
            // quoted by the server
            client.batch_execute(row.get(0)).await.map_err(failed)?;
        }
    }
    for module in extensions() {
        client
            .batch_execute(&format!("drop extension {}", module.schema()))
            .await
            .map_err(|source| InstallError::Detach {
                schema: module,
                source,
            })?;
    }
    Ok(())
}

/// What an upgrade must not change, as texts to compare.
pub(super) struct Contents(Vec<(&'static str, Option<String>)>);

impl Contents {
    pub(super) async fn read<C: GenericClient>(client: &C) -> Result<Contents, tokio_postgres::Error> {
        let mut texts = Vec::with_capacity(queries::CONTENTS.len());
        for (what, table, sql) in queries::CONTENTS {
            let there: bool = client.query_one(queries::EXISTS, &[table]).await?.get(0);
            let text = match there {
                true => Some(client.query_one(*sql, &[]).await?.get(0)),
                false => None,
            };
            texts.push((*what, text));
        }
        Ok(Contents(texts))
    }

    /// Tables that were not there before may be anything.
    pub(super) fn compare(&self, after: &Contents) -> Result<(), InstallError> {
        for ((what, before), (_, after)) in self.0.iter().zip(&after.0) {
            if let Some(before) = before
                && after.as_ref() != Some(before)
            {
                return Err(InstallError::Different {
                    what,
                    before: before.clone(),
                    after: after.clone().unwrap_or_else(|| "gone".into()),
                });
            }
        }
        Ok(())
    }
}

/// A module's one-time script for older tables.
pub(super) async fn run_upgrade<C: GenericClient>(
    client: &C,
    entry: &ModulePlan,
    file: &'static str,
    sql: &str,
) -> Result<(), InstallError> {
    if entry.action != Action::Adopt || sql.is_empty() {
        return Ok(());
    }
    let module = entry.module;
    client
        .batch_execute(sql)
        .await
        .map_err(|source| InstallError::Script { module, file, source })
}

/// How long we go on trying to get the locks.
pub(super) struct Patience {
    started: Instant,
    whole: Duration,
}

impl Patience {
    pub(super) fn new(whole: Duration) -> Patience {
        Patience {
            started: Instant::now(),
            whole,
        }
    }

    /// Waits if the failure was a lock and time is left; otherwise returns the failure, complete with who
    /// holds the locks.
    pub(super) async fn after(&self, failure: InstallError, client: &Client) -> Result<(), InstallError> {
        let code = failure.server().and_then(tokio_postgres::Error::code);
        let locked = [SqlState::LOCK_NOT_AVAILABLE, SqlState::T_R_DEADLOCK_DETECTED];
        if !code.is_some_and(|code| locked.contains(code)) {
            return Err(failure);
        }
        if self.started.elapsed() < self.whole {
            tokio::time::sleep(PAUSE).await;
            return Ok(());
        }
        let holders: String = client.query_one(queries::HOLDERS, &[&LOCKED]).await?.get(0);
        Err(InstallError::Locked {
            waited: self.whole,
            holders,
        })
    }
}
