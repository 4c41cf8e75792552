//! The server's version and settings, and what holds its WAL.

use skytide_sql::ident::{quote_ident, quote_literal};

use super::{Findings, Role, Side, Unasked, replication as replication_connection};
use crate::causes::chain;

pub async fn version(side: &Side, out: &mut Findings) -> Result<(), Unasked> {
    let row = side
        .session
        .query_one(
            "select current_setting('server_version_num')::int4, current_setting('server_version')",
            &[],
        )
        .await?;
    let (number, name): (i32, String) = (row.get(0), row.get(1));
    match number / 10_000 {
        13..=18 => out.ok("server", format!("PostgreSQL {name}")),
        ..13 => out.fail(
            "server",
            format!("PostgreSQL {name} is too old"),
            "use PostgreSQL 13 or later",
        ),
        19.. => out.warn(
            "server",
            format!("PostgreSQL {name} is newer than what this version was tested with"),
            "try it out first, or use PostgreSQL 18",
        ),
    }
    Ok(())
}

pub async fn primary(side: &Side, out: &mut Findings) -> Result<(), Unasked> {
    let row = side
        .session
        .query_one("select pg_catalog.pg_is_in_recovery()", &[])
        .await?;
    if row.get(0) {
        out.fail(
            "server",
            "is a standby: it takes no writes, and its snapshots cannot make ticks",
            "connect to the primary, or add target_session_attrs=read-write to the connect string",
        );
    } else {
        out.ok("server", "is a primary");
    }
    Ok(())
}

pub async fn wal_level(side: &Side, out: &mut Findings) -> Result<(), Unasked> {
    let level = setting(side, "wal_level").await?.unwrap_or_default();
    if level == "logical" {
        out.ok("wal_level", level);
    } else {
        out.fail(
            "wal_level",
            format!("is {level}; decoding changes from the WAL needs logical"),
            "alter system set wal_level = 'logical';  -- then restart the server",
        );
    }
    Ok(())
}

async fn setting(side: &Side, name: &str) -> Result<Option<String>, Unasked> {
    let row = side
        .session
        .query_one("select pg_catalog.current_setting($1, true)", &[&name])
        .await?;
    Ok(row.get(0))
}

async fn limit(side: &Side, name: &str) -> Result<i64, Unasked> {
    let text = setting(side, name).await?;
    Ok(text.and_then(|t| t.parse().ok()).unwrap_or(0))
}

pub async fn slots(side: &Side, out: &mut Findings) -> Result<(), Unasked> {
    let limit = limit(side, "max_replication_slots").await?;
    let rows = side
        .session
        .query(
            "select slot_name::text, active from pg_catalog.pg_replication_slots",
            &[],
        )
        .await?;
    let used = i64::try_from(rows.len()).unwrap_or(i64::MAX);
    let ours = side
        .slot
        .as_ref()
        .is_some_and(|slot| rows.iter().any(|r| r.get::<_, &str>(0) == slot.as_str()));
    let object = "max_replication_slots";
    if ours || used < limit {
        out.ok(object, format!("{used} of {limit} in use"));
        return Ok(());
    }
    let idle: Vec<&str> = rows
        .iter()
        .filter(|r| !r.get::<_, bool>(1))
        .map(|r| r.get(0))
        .collect();
    let fix = format!(
        "alter system set max_replication_slots = {};  -- then restart the server",
        limit + 5
    );
    let fix = match idle.first() {
        Some(idle) => format!(
            "if nobody needs the idle slot: select pg_drop_replication_slot({}); or {fix}",
            quote_literal(idle)
        ),
        None => fix,
    };
    out.fail(object, format!("all {limit} are in use"), fix);
    Ok(())
}

pub async fn walsenders(side: &Side, out: &mut Findings) -> Result<(), Unasked> {
    let limit = limit(side, "max_wal_senders").await?;
    let row = side
        .session
        .query_one("select count(*) from pg_catalog.pg_stat_replication", &[])
        .await?;
    let used: i64 = row.get(0);
    // Our own worker's sender is among them while it runs.
    let active = match &side.slot {
        Some(slot) => side
            .session
            .query_opt(
                "select 1 from pg_catalog.pg_replication_slots where slot_name = $1 and active",
                &[&slot.as_str()],
            )
            .await?
            .is_some(),
        None => false,
    };
    if active || used < limit {
        out.ok("max_wal_senders", format!("{used} of {limit} in use"));
    } else {
        out.fail(
            "max_wal_senders",
            format!("all {limit} are in use"),
            format!(
                "alter system set max_wal_senders = {};  -- then restart the server",
                limit + 5
            ),
        );
    }
    Ok(())
}

pub async fn plugins(side: &Side, out: &mut Findings) -> Result<(), Unasked> {
    let name = "output_plugin_libraries";
    let Some(list) = setting(side, name).await?.filter(|l| !l.is_empty()) else {
        out.ok("pgoutput", "not restricted on this server");
        return Ok(());
    };
    let allowed = list
        .split(',')
        .any(|l| matches!(l.trim().trim_matches('"'), "pgoutput" | "*"));
    if allowed || side.superuser {
        out.ok("pgoutput", format!("{name} is {list}"));
    } else {
        out.fail(
            name,
            format!("does not allow pgoutput: it is {list}"),
            format!("alter system set {name} = 'pgoutput, {list}'; select pg_reload_conf();"),
        );
    }
    Ok(())
}

pub async fn replication(side: &Side, out: &mut Findings) -> Result<(), Unasked> {
    let error = match replication_connection(side).await {
        Ok(_) => {
            out.ok(&*side.user, "may open a replication connection");
            return Ok(());
        }
        Err(e) => e,
    };
    let row = side
        .session
        .query_one(
            "select rolreplication or rolsuper from pg_catalog.pg_roles where rolname = current_user",
            &[],
        )
        .await?;
    let fix = if row.get(0) {
        format!(
            "let pg_hba.conf accept database {} and user {} from this host, then: select pg_reload_conf();",
            side.database, side.user
        )
    } else {
        format!("alter role {} replication;", quote_ident(&side.user))
    };
    out.fail(&*side.user, chain(&error), fix);
    Ok(())
}

pub async fn prepared(side: &Side, out: &mut Findings) -> Result<(), Unasked> {
    let rows = side
        .session
        .query(
            "select gid, database::text, extract(epoch from now() - prepared)::int8 \
             from pg_catalog.pg_prepared_xacts where prepared < now() - interval '5 minutes' order by prepared",
            &[],
        )
        .await?;
    for row in &rows {
        let (gid, database, age): (String, String, i64) = (row.get(0), row.get(1), row.get(2));
        out.warn(
            format!("prepared transaction {gid}"),
            format!("open for {age} s: slots keep WAL from before it, ticks cannot close over it"),
            format!(
                "in database {database}: commit prepared {0}; or rollback prepared {0};",
                quote_literal(&gid)
            ),
        );
    }
    if rows.is_empty() {
        out.ok("prepared transactions", "none is old");
    }
    Ok(())
}

pub async fn long_transactions(side: &Side, out: &mut Findings) -> Result<(), Unasked> {
    let rows = side
        .session
        .query(
            "select pid, coalesce(usename::text, '?'), coalesce(state, '?'), \
                    extract(epoch from now() - xact_start)::int8 \
             from pg_catalog.pg_stat_activity \
             where backend_type = 'client backend' and xact_start < now() - interval '10 minutes' \
               and (backend_xmin is not null or backend_xid is not null) \
               and (datname = current_database() or backend_xid is not null) \
             order by xact_start limit 10",
            &[],
        )
        .await?;
    for row in &rows {
        let (pid, user, state, age): (i32, String, String, i64) =
            (row.get(0), row.get(1), row.get(2), row.get(3));
        let cost = match side.role {
            Role::Subscriber => "dead rows pile up in followed tables",
            _ => "a new slot waits for it, and its changes wait for its end",
        };
        out.warn(
            format!("process {pid} of {user} ({state})"),
            format!("its transaction is {age} s old: {cost}"),
            format!("select pg_terminate_backend({pid});"),
        );
    }
    if rows.is_empty() {
        out.ok("transactions", "none is older than ten minutes");
    }
    Ok(())
}
