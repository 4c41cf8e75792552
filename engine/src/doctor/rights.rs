//! Modules and privileges.

use skytide_sql::TableName;
use skytide_sql::ident::quote_ident;
use skytide_sql::install::{self, Action};

use super::{Findings, Role, Side, Unasked};
use crate::capture::slot::Publications;
use crate::causes::chain;
use crate::cli::shell;

pub async fn modules(side: &Side, out: &mut Findings) -> Result<(), Unasked> {
    let command = format!("skytide install {}", shell::quote(side.dsn.without_password()));
    let plan = match install::plan(&*side.session).await {
        Ok(plan) => plan,
        Err(e) => {
            let fix = e.fix().unwrap_or(command);
            out.fail("SQL modules", chain(&e), fix);
            return Ok(());
        }
    };
    for entry in &plan.modules {
        let object = format!("schema {}", entry.module);
        let installed = entry.installed.clone().unwrap_or_default();
        match entry.action {
            Action::Keep => out.ok(object, format!("version {installed}, unchanged")),
            Action::Install => out.fail(object, "is not there", &*command),
            Action::Adopt => out.warn(object, format!("is PgQ's own: {installed}"), &*command),
            Action::Upgrade => out.warn(object, format!("is not this program's: {installed}"), &*command),
            Action::Repair => out.fail(object, "functions were changed after installing", &*command),
        }
    }
    Ok(())
}

/// What the worker and the commands call on a provider. Roles hold rights by groups, so one function of
/// each group is enough.
const ON_PROVIDER: &[&str] = &[
    "pgq.want_tick(text)",
    "pgq.register_consumer_at(text, text, bigint)",
    "pgq.force_tick(text)",
    "pgq_node.register_location(text, text, text, boolean)",
    "pgq_node.set_subscriber_watermark(text, text, bigint)",
    "londiste.get_table_list(text)",
];

const ON_SUBSCRIBER: &[&str] = &[
    "pgq_node.get_worker_state(text)",
    "pgq_node.set_consumer_completed(text, text, bigint)",
    "londiste.local_set_table_state(text, text, text, text)",
    "londiste.set_session_replication_role(text, boolean)",
];

pub async fn functions(side: &Side, out: &mut Findings) -> Result<(), Unasked> {
    if !side.has_modules().await? {
        return Ok(());
    }
    let mut wanted: Vec<&str> = Vec::new();
    if side.has(&[Role::Provider]) {
        wanted.extend(ON_PROVIDER);
    }
    if side.has(&[Role::Subscriber]) {
        wanted.extend(ON_SUBSCRIBER);
    }
    let rows = side
        .session
        .query(
            "select f from unnest($1::text[]) f \
             where not coalesce(has_function_privilege(to_regprocedure(f)::oid, 'execute'), false)",
            &[&wanted],
        )
        .await?;
    let denied: Vec<&str> = rows.iter().map(|r| r.get(0)).collect();
    if denied.is_empty() {
        out.ok(&*side.user, "may call what the worker calls");
    } else {
        out.fail(
            &*side.user,
            format!("may not call {}", denied.join(", ")),
            format!("grant londiste_writer to {};", quote_ident(&side.user)),
        );
    }
    Ok(())
}

pub async fn publication(side: &Side, out: &mut Findings) -> Result<(), Unasked> {
    let row = side
        .session
        .query_one(
            "select has_database_privilege(current_database(), 'create'), \
                    coalesce((select pg_has_role(relowner, 'usage') from pg_catalog.pg_class \
                              where oid = to_regclass('pgq.tick')), false)",
            &[],
        )
        .await?;
    let (may_create, owns_ticks): (bool, bool) = (row.get(0), row.get(1));
    let missing = match &side.queue {
        Some(queue) => {
            let wanted = Publications::of(queue);
            let row = side
                .session
                .query_one(
                    "select count(*) from pg_catalog.pg_publication where pubname in ($1, $2)",
                    &[&wanted.tables, &wanted.ticks],
                )
                .await?;
            row.get::<_, i64>(0) < 2
        }
        None => true,
    };
    let modules = side.has_modules().await?;
    if !missing || side.superuser || (may_create && (owns_ticks || !modules)) {
        let fact = if missing { "may be made" } else { "are there" };
        out.ok("publications", fact);
    } else if !may_create {
        out.fail(
            &*side.user,
            format!("may not create publications in database {}", side.database),
            format!(
                "grant create on database {} to {};  -- or create the root as a superuser",
                quote_ident(&side.database),
                quote_ident(&side.user)
            ),
        );
    } else {
        out.fail(
            &*side.user,
            "does not own pgq.tick and the queue's event tables, so it may not publish them",
            "run create-root as a superuser, or as the role that installed the modules",
        );
    }
    Ok(())
}

/// Tried, not guessed: extensions and event triggers have a say in it too.
pub async fn replica_role(side: &Side, out: &mut Findings) -> Result<(), Unasked> {
    let session = &side.session;
    let mut tried = session
        .batch_execute("begin; set local session_replication_role = replica")
        .await;
    session.batch_execute("rollback").await?;
    let mut how = "may set it";
    if tried.is_err() {
        how = "may set it by londiste.set_session_replication_role";
        tried = session
            .batch_execute("begin; select londiste.set_session_replication_role('replica', true)")
            .await;
        session.batch_execute("rollback").await?;
    }
    match tried {
        Ok(()) => out.ok("session_replication_role", how),
        Err(e) => out.fail(
            "session_replication_role",
            format!("{} may not set it: {}", side.user, chain(&e)),
            format!(
                "from PostgreSQL 15 on: grant set on parameter session_replication_role to {};  \
                 -- before: install the modules as a superuser, and grant londiste_writer",
                quote_ident(&side.user)
            ),
        ),
    }
    Ok(())
}

/// Copies truncate, drop indexes and put foreign keys aside: that is an owner's business.
pub async fn tables(side: &Side, out: &mut Findings) -> Result<(), Unasked> {
    let (Some(queue), true) = (&side.queue, side.has_modules().await?) else {
        return Ok(());
    };
    let rows = side
        .session
        .query(
            "select n.nspname::text, c.relname::text from londiste.table_info t \
             join pg_catalog.pg_class c on c.oid = londiste.find_table_oid(coalesce(t.dest_table, t.table_name)) \
             join pg_catalog.pg_namespace n on n.oid = c.relnamespace \
             where t.queue_name = $1 and t.local and not pg_has_role(c.relowner, 'usage')",
            &[&queue.as_str()],
        )
        .await?;
    for row in &rows {
        let table = TableName::new(row.get::<_, String>(0), row.get::<_, String>(1));
        out.fail(
            table.to_string(),
            format!(
                "{} does not own it: copies truncate it and rebuild its indexes",
                side.user
            ),
            format!(
                "alter table {} owner to {};  -- or grant the owner's role",
                table.quoted(),
                quote_ident(&side.user)
            ),
        );
    }
    if rows.is_empty() {
        out.ok("followed tables", "are the role's own");
    }
    Ok(())
}
