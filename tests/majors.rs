//! Replication between servers of different majors: how a database moves to a newer one, and back.
//!
//! `./test --matrix` and the short run on the oldest and the newest major name both servers by `SKYTIDE_PG_BIN`.

use skytide_fixtures::versions::{self, Search};
use skytide_fixtures::wait;
use skytide_fixtures::workload::{self, LoadOptions};
use skytide_sql::TableName;

use crate::packaged;
use crate::replica::{PATIENCE, Plan, Replica};

/// The oldest and the newest major here, if there are two.
fn oldest_and_newest() -> Option<(u32, u32)> {
    let found = versions::installed(&Search::from_env(None));
    let (newest, oldest) = (found.first()?.version.major, found.last()?.version.major);
    if newest == oldest {
        packaged::skipped("PostgreSQL of a second major (.ci/fetch-postgres 13 18)");
        return None;
    }
    Some((oldest, newest))
}

/// A table with a column that each side computes, from PostgreSQL 18 on when it is read.
fn computed(major: u32) -> String {
    let kind = if major < 18 { "stored" } else { "virtual" };
    format!(
        "create table public.computed_here \
         (twice integer generated always as (v * 2) {kind}, id integer primary key, v integer)"
    )
}

/// All tables of the workload are copied and followed under load, over a restart of the worker.
async fn replicate(provider: u32, subscriber: u32) {
    let mut plan = Plan::default();
    plan.provider_schema.push(computed(provider));
    plan.subscriber_schema.push(computed(subscriber));
    plan.provider.major = Some(provider);
    plan.subscriber.major = Some(subscriber);
    let mut replica = Replica::from_plan(plan).await;
    assert_eq!(replica.provider.version().major, provider);
    assert_eq!(replica.subscriber.version().major, subscriber);
    let at_provider = replica.at_provider().await;
    at_provider
        .batch_execute("insert into computed_here (id, v) select n, n from generate_series(1, 1000) n")
        .await
        .unwrap();
    let load = replica.load(LoadOptions {
        seed: 13,
        tx_rate: Some(200.0),
        ..LoadOptions::default()
    });
    replica.start_worker();
    replica.add_tables(&[]).await;
    replica.wait_sync().await;
    replica.restart_worker_politely().await;
    let copied = load.check().unwrap().committed;
    wait::until("load after the copies", PATIENCE, async || {
        Ok((load.check()?.committed >= copied + 300).then_some(()))
    })
    .await
    .unwrap();
    at_provider
        .batch_execute(
            "insert into computed_here (id, v) values (0, 7); update computed_here set v = -v where id % 2 = 1; \
             delete from computed_here where id > 900",
        )
        .await
        .unwrap();
    replica.leaf(&["compare"]).await;
    load.stop().await.unwrap();
    let mut tables = workload::tables();
    tables.push(TableName::new("public", "computed_here"));
    replica.assert_equal(&tables).await;
    replica.stop_worker().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_oldest_major_feeds_the_newest() {
    if let Some((oldest, newest)) = oldest_and_newest() {
        replicate(oldest, newest).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_newest_major_feeds_the_oldest() {
    if let Some((oldest, newest)) = oldest_and_newest() {
        replicate(newest, oldest).await;
    }
}
