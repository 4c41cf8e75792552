//! Watching tables being copied.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use serde::Serialize;
use skytide_sql::QueueName;
use skytide_sql::api::londiste;
use tokio_postgres::Client;

use super::load::Load;
use super::world::World;
use crate::cli::output::{Measure, Output, Progress};
use crate::table::MergeState;

const LOOK_EVERY: Duration = Duration::from_millis(200);

/// One table's copy.
#[derive(Clone, Debug, Serialize)]
pub struct Copied {
    pub table: String,
    /// Rows in the table when its copy began, by the planner's count.
    pub rows: u64,
    /// From add-table until it was in sync, waiting for its turn included.
    pub in_sync_after_seconds: f64,
}

/// Shows each table until all are in sync.
pub async fn copies(
    world: &World,
    queue: &QueueName,
    load: &mut Load,
    output: &Output,
) -> anyhow::Result<Vec<Copied>> {
    let provider = world.provider_session("skytide dev").await?;
    let subscriber = world.subscriber_session("skytide dev").await?;
    let sizes = sizes(&provider).await?;
    let started = Instant::now();
    let mut bars: HashMap<String, Progress> = HashMap::new();
    let mut done: Vec<Copied> = Vec::new();
    loop {
        let tables = londiste::get_table_list(&*subscriber, queue).await?;
        for table in tables.iter().filter(|table| table.local) {
            let name = &table.table_name;
            if done.iter().any(|copied| copied.table == *name) {
                continue;
            }
            let size = sizes.get(name).copied().unwrap_or_default();
            match MergeState::parse(table.merge_state.as_deref())? {
                MergeState::Ok => {
                    let mut bar = bars.remove(name).unwrap_or_else(|| bar(output, name, size.rows));
                    bar.set(size.rows);
                    bar.finish();
                    done.push(Copied {
                        table: name.clone(),
                        rows: size.rows,
                        in_sync_after_seconds: started.elapsed().as_secs_f64(),
                    });
                }
                MergeState::InCopy => {
                    let here = heap_bytes(&subscriber, name).await?;
                    bars.entry(name.clone())
                        .or_insert_with(|| bar(output, name, size.rows))
                        .set(size.rows_in(here));
                }
                _ => {}
            }
        }
        if done.len() == tables.len() && !tables.is_empty() {
            return Ok(done);
        }
        world.check()?;
        load.check().await?;
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

fn bar(output: &Output, table: &str, rows: u64) -> Progress {
    output.progress(format!("  copy {table}"), Some(rows), Measure::Rows)
}

/// A table on the provider.
#[derive(Clone, Copy, Default)]
struct Size {
    rows: u64,
    heap_bytes: u64,
}

impl Size {
    /// How many rows so many bytes of the copy hold. A copy runs over several connections that come
    /// and go, so their own progress views do not add up; the same rows take the same space, though.
    fn rows_in(self, bytes: u64) -> u64 {
        let rows = u128::from(self.rows) * u128::from(bytes) / u128::from(self.heap_bytes.max(1));
        u64::try_from(rows).unwrap_or(u64::MAX).min(self.rows)
    }
}

async fn sizes(provider: &Client) -> anyhow::Result<HashMap<String, Size>> {
    let rows = provider
        .query(
            "select n.nspname || '.' || c.relname, greatest(c.reltuples, 0)::int8, pg_relation_size(c.oid) \
             from pg_class c join pg_namespace n on n.oid = c.relnamespace \
             where c.relkind = 'r' and n.nspname = 'public'",
            &[],
        )
        .await?;
    let unsigned = |value: i64| u64::try_from(value).unwrap_or(0);
    Ok(rows
        .iter()
        .map(|row| {
            let size = Size {
                rows: unsigned(row.get(1)),
                heap_bytes: unsigned(row.get(2)),
            };
            (row.get(0), size)
        })
        .collect())
}

async fn heap_bytes(subscriber: &Client, table: &str) -> anyhow::Result<u64> {
    let row = subscriber
        .query_one(
            "select coalesce(pg_relation_size(to_regclass($1::text)), 0)",
            &[&table],
        )
        .await?;
    Ok(u64::try_from(row.get::<_, i64>(0)).unwrap_or(0))
}
