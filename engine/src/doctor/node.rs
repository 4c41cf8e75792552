//! A leaf's slot on its provider.

use skytide_sql::ident::quote_literal;

use super::{Findings, Pair, Unasked};
use crate::config::unit::show_size;

fn size(bytes: i64) -> String {
    show_size(bytes.unsigned_abs())
}

pub async fn slot(pair: &Pair, out: &mut Findings) -> Result<(), Unasked> {
    let resync = format!("skytide londiste {} resync --all", pair.conf.display());
    let copied = pair
        .subscriber
        .session
        .query_one(
            "select exists (select 1 from londiste.table_info \
                            where queue_name = $1 and local and merge_state is not null and merge_state <> 'in-copy')",
            &[&pair.queue.as_str()],
        )
        .await?
        .get::<_, bool>(0);
    let object = format!("slot {}", pair.slot);
    let row = pair
        .provider
        .session
        .query_opt(
            "select plugin::text, database::text = current_database(), active, wal_status, \
                    pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn)::int8, safe_wal_size \
             from pg_catalog.pg_replication_slots where slot_name = $1",
            &[&pair.slot.as_str()],
        )
        .await?;
    let Some(row) = row else {
        if copied {
            out.fail(object, "is gone from the provider: changes are lost", resync);
        } else {
            out.ok(object, "is not there yet; the worker makes it");
        }
        return Ok(());
    };
    let plugin: Option<String> = row.get(0);
    let here: Option<bool> = row.get(1);
    let (active, status): (bool, Option<String>) = (row.get(2), row.get(3));
    let (kept, safe): (Option<i64>, Option<i64>) = (row.get(4), row.get(5));
    if plugin.as_deref() != Some("pgoutput") || here != Some(true) {
        out.fail(
            object,
            "belongs to another plugin or database",
            "set slot_name in the configuration to a name of its own",
        );
        return Ok(());
    }
    let kept = kept.map_or("no WAL".to_owned(), |bytes| format!("{} of WAL", size(bytes)));
    match status.as_deref() {
        Some("lost") => out.fail(
            object,
            "is lost: the server removed WAL that it still needed",
            format!(
                "select pg_drop_replication_slot({});  -- then: {resync}, and start the worker",
                quote_literal(pair.slot.as_str())
            ),
        ),
        Some("unreserved") => out.fail(
            object,
            format!("is about to be lost: it needs {kept}, more than max_slot_wal_keep_size"),
            "alter system set max_slot_wal_keep_size = -1; select pg_reload_conf();  -- and start the worker",
        ),
        _ if !active && pair.subscriber.worker_runs(&pair.queue).await? => out.warn(
            object,
            format!("is not read just now, though the worker runs, and it keeps {kept}"),
            "see the worker's log: it waits for room in the spool, or for a connection to the provider",
        ),
        _ if !active => out.warn(
            object,
            format!("nobody reads it, and it keeps {kept}"),
            format!("skytide londiste {} worker", pair.conf.display()),
        ),
        _ => out.ok(
            object,
            match safe {
                Some(safe) => format!("is read, keeps {kept}, {} before it would be lost", size(safe)),
                None => format!("is read, keeps {kept}"),
            },
        ),
    }
    Ok(())
}

pub async fn kept_wal(pair: &Pair, out: &mut Findings) -> Result<(), Unasked> {
    let row = pair
        .provider
        .session
        .query_one(
            "select setting::int8 << 20 from pg_catalog.pg_settings where name = 'max_slot_wal_keep_size'",
            &[],
        )
        .await?;
    let limit: i64 = row.get(0);
    let object = "max_slot_wal_keep_size";
    if limit < 0 {
        out.ok(
            object,
            "no limit: a stopped worker is never cut off, but its WAL can fill the provider's disk",
        );
    } else if limit < 1 << 30 {
        out.warn(
            object,
            format!(
                "is {}: a worker that stops for a while loses its slot",
                size(limit)
            ),
            "alter system set max_slot_wal_keep_size = '10GB'; select pg_reload_conf();",
        );
    } else {
        out.ok(object, size(limit));
    }
    Ok(())
}
