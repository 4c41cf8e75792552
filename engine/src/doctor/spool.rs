//! A leaf's spool: whose it is, whether it reaches far enough, and how much room it has.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;

use skytide_sql::api::pgq_node;
use skytide_sql::{Lsn, TickId};

use super::{Findings, Pair, Unasked, replication};
use crate::causes::chain;
use crate::config::unit::show_size;
use crate::spool::{Spool, SpoolError};

pub async fn spool(pair: &Pair, out: &mut Findings) -> Result<(), Unasked> {
    let dir = &pair.spool_dir;
    let object = dir.display().to_string();
    let resync = format!("skytide londiste {} resync --all", pair.conf.display());
    let Some(parent) = existing(dir) else {
        return Ok(());
    };
    let missing = parent != dir;
    if rustix::fs::access(parent, rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK).is_err() {
        out.fail(
            parent.display().to_string(),
            "this user may not write there",
            format!(
                "mkdir -p '{object}' && chown \"$(id -un)\" '{object}'  -- as root, for the worker's user"
            ),
        );
        return Ok(());
    }
    room(pair, parent, out);
    if missing || fs::read_dir(dir).is_ok_and(|mut files| files.next().is_none()) {
        if empty_is_loss(pair).await? {
            out.fail(object, EMPTY, mend_empty(&resync));
        } else {
            out.ok(object, "is not there yet; the worker makes it");
        }
        return Ok(());
    }
    if let Ok(metadata) = fs::metadata(dir)
        && metadata.permissions().mode() & 0o077 != 0
    {
        out.warn(
            &*object,
            format!(
                "others may look into it (mode {:o})",
                metadata.permissions().mode() & 0o777
            ),
            format!("chmod 700 '{object}'"),
        );
    }
    let spool = match Spool::open_read_only(dir) {
        Ok(spool) => spool,
        Err(e) => {
            out.fail(
                object,
                chain(&e),
                format!("move the directory away, then: {resync}"),
            );
            return Ok(());
        }
    };
    let identity = spool.identity();
    let mut differs = Vec::new();
    if identity.queue != pair.queue {
        differs.push(format!("queue {}, not {}", identity.queue, pair.queue));
    }
    if identity.slot != pair.slot {
        differs.push(format!("slot {}, not {}", identity.slot, pair.slot));
    }
    if identity.database != pair.provider.database {
        differs.push(format!(
            "database {}, not {}",
            identity.database, pair.provider.database
        ));
    }
    if let Ok(mut connection) = replication(&pair.provider).await
        && let Ok(system) = connection.identify_system().await
    {
        if system.system_id != identity.system_id {
            differs.push(format!("server {}, not {}", identity.system_id, system.system_id));
        } else if system.timeline.as_u32() != identity.timeline {
            let (ours, theirs) = (identity.timeline, system.timeline.as_u32());
            differs.push(format!("timeline {ours}, not {theirs}: the server was promoted"));
        }
    }
    if !differs.is_empty() {
        out.fail(
            object,
            format!("is the spool of {}", differs.join(", and of ")),
            format!("give this queue a spool_dir of its own, or move that one away and: {resync}"),
        );
        return Ok(());
    }
    // Asked after the spool was opened: a worker beside us may release what it has done.
    let state = pgq_node::get_worker_state(&*pair.subscriber.session, &pair.queue).await;
    let completed = TickId::new(state.map_or(pair.state.completed_tick, |s| s.completed_tick));
    if let Err(e) = read_from(&spool, completed) {
        out.fail(
            object,
            chain(&e),
            format!("move the directory away, then: {resync}"),
        );
        return Ok(());
    }
    if !spool.stats().durable_lsn.is_valid() && empty_is_loss(pair).await? {
        out.fail(object, EMPTY, mend_empty(&resync));
        return Ok(());
    }
    reach(pair, &spool, completed, &resync, out).await?;
    let stats = spool.stats();
    out.ok(
        object,
        format!(
            "{} kept, last tick {}",
            show_size(stats.used_bytes),
            stats.last_tick.map_or("none".to_owned(), |t| t.to_string())
        ),
    );
    Ok(())
}

const EMPTY: &str = "is empty, but tables depend on it";

fn mend_empty(resync: &str) -> String {
    format!(
        "look at spool_dir in the configuration, and whether its disk is mounted; only if the spool is lost: {resync}"
    )
}

/// Tables were copied, and the slot that held their changes has moved on with a spool.
async fn empty_is_loss(pair: &Pair) -> Result<bool, Unasked> {
    let copied = pair
        .subscriber
        .session
        .query_one(
            "select exists (select 1 from londiste.table_info where queue_name = $1 and local \
                            and merge_state is not null and merge_state <> 'in-copy')",
            &[&pair.queue.as_str()],
        )
        .await?;
    Ok(copied.get::<_, bool>(0) && !pair.confirm_applied)
}

/// The directory, or the nearest one above it that exists.
fn existing(dir: &Path) -> Option<&Path> {
    dir.ancestors().find(|d| d.is_dir())
}

fn room(pair: &Pair, place: &Path, out: &mut Findings) {
    let Ok(disk) = rustix::fs::statvfs(place) else {
        return;
    };
    let free = disk.f_bavail.saturating_mul(disk.f_frsize);
    let used: u64 = fs::read_dir(&pair.spool_dir)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|file| file.metadata().ok())
        .map(|file| file.blocks() * 512)
        .sum();
    let object = place.display().to_string();
    let may_grow = pair.spool_max_bytes.saturating_sub(used);
    if may_grow == 0 || used + pair.spool_max_bytes / 10 > pair.spool_max_bytes {
        out.warn(
            &*object,
            format!("spool_max_bytes is nearly reached: {}", show_size(used)),
            "let the subscriber catch up, or raise spool_max_bytes",
        );
    }
    if free < may_grow {
        let fix = "free disk space, or lower spool_max_bytes to what may really be used";
        let text = format!(
            "{} free, but the spool may grow by {}",
            show_size(free),
            show_size(may_grow)
        );
        if free < 256 << 20 {
            out.fail(object, text, fix);
        } else {
            out.warn(object, text, fix);
        }
    } else {
        out.ok(object, format!("{} free", show_size(free)));
    }
}

/// Reads what is still to be applied, checksums and all.
fn read_from(spool: &Arc<Spool>, completed: TickId) -> Result<(), SpoolError> {
    let from = spool.find_tick(completed)?.unwrap_or_else(|| spool.begin());
    let mut reader = spool.reader(from);
    while reader.next_block()?.is_some() {}
    Ok(())
}

/// Whether slot, spool and subscriber meet: no change may lie between two of them.
async fn reach(
    pair: &Pair,
    spool: &Spool,
    completed: TickId,
    resync: &str,
    out: &mut Findings,
) -> Result<(), Unasked> {
    let row = pair
        .provider
        .session
        .query_opt(
            "select confirmed_flush_lsn::text from pg_catalog.pg_replication_slots where slot_name = $1",
            &[&pair.slot.as_str()],
        )
        .await?;
    let confirmed: Option<Lsn> = row
        .and_then(|row| row.get::<_, Option<String>>(0))
        .and_then(|text| text.parse().ok());
    let end = spool.stats().durable_lsn;
    if let Some(confirmed) = confirmed
        && end.is_valid()
        && confirmed > end
    {
        // A running worker may have moved both since the spool was looked at.
        let now = Spool::open_read_only(spool.dir()).map_or(end, |fresh| fresh.stats().durable_lsn);
        if confirmed > now {
            out.fail(
                spool.dir().display().to_string(),
                format!(
                    "ends at {now}, but slot {} has moved to {confirmed}: changes are missing",
                    pair.slot
                ),
                resync,
            );
        }
    }
    let copied = pair
        .subscriber
        .session
        .query_one(
            "select exists (select 1 from londiste.table_info where queue_name = $1 and local and merge_state = 'ok')",
            &[&pair.queue.as_str()],
        )
        .await?;
    let kept = || Some((spool.first_tick()?, spool.last_tick()?));
    if copied.get(0)
        && let Some((first, last)) = kept()
        && last > completed
        && spool.find_tick(completed).is_ok_and(|found| found.is_none())
    {
        out.fail(
            spool.dir().display().to_string(),
            format!(
                "has ticks {first} to {last}, but not {completed}, which this node has completed: changes are missing"
            ),
            resync,
        );
    }
    Ok(())
}
