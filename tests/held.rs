//! An hour of an old snapshot, in ticks instead of minutes: nothing that producing, ticking, consuming and rotating
//! leaves behind grows.

use skytide_fixtures::server::Server;
use tokio_postgres::Client;

use crate::modules::{database, server_with_modules};

/// Of all metadata together.
const MOST_DEAD: i64 = 100;
const ROTATIONS: i64 = 6;
const TICKS_A_ROTATION: i64 = 100;

async fn one(client: &Client, sql: &str) -> i64 {
    client.query_one(sql, &[]).await.unwrap().get(0)
}

/// Rows that a vacuum has to leave, as they lie in the tables.
async fn dead(client: &Client, tables: &str) -> i64 {
    let names: Vec<String> = client
        .query_one(
            &format!(
                "select array_agg(c.oid::regclass::text) from pg_class c \
                 where c.relnamespace = 'pgq'::regnamespace and c.relkind = 'r' and c.relname ~ '{tables}'"
            ),
            &[],
        )
        .await
        .unwrap()
        .get(0);
    let mut total = 0;
    for name in names {
        client.batch_execute(&format!("vacuum {name}")).await.unwrap();
        total += one(
            client,
            &format!("select dead_tuple_count from pgstattuple('{name}')"),
        )
        .await;
    }
    total
}

#[tokio::test(flavor = "multi_thread")]
async fn an_old_snapshot_makes_nothing_grow() {
    let server: Server = server_with_modules().await;
    database(&server, "held").await;
    let client = server.connect("held").await.unwrap();
    client
        .batch_execute(
            "create extension pgstattuple; \
             create role reporter login; \
             grant select on all tables in schema pgq to reporter; \
             select pgq.create_queue('q'); \
             select pgq.set_queue_config('q', 'rotation_period', '0'); \
             select pgq.set_queue_config('q', 'external_ticker', 'true'); \
             select pgq.register_consumer('q', 'c')",
        )
        .await
        .unwrap();

    // Ticks that are minutes apart, as they are after an hour: the external ticker says when they were made.
    let mut tick = 1;
    let round = async |client: &Client, tick: &mut i64| {
        for _ in 0..TICKS_A_ROTATION {
            *tick += 1;
            client
                .batch_execute(&format!(
                    "begin; select pgq.insert_event('q', 'n', 'x'); commit; \
                     select pgq.ticker('q', {tick}, now() - interval '2 hours' + interval '10 seconds' * {tick}, {tick}); \
                     do $$ declare b bigint := pgq.next_batch('q', 'c'); \
                     begin perform pgq.get_batch_events(b); perform pgq.finish_batch(b); end $$"
                ))
                .await
                .unwrap();
        }
        client
            .batch_execute("select pgq.maint_rotate_tables_step1('q')")
            .await
            .unwrap();
        client
            .batch_execute("select pgq.maint_rotate_tables_step2()")
            .await
            .unwrap();
    };
    round(&client, &mut tick).await;

    let reporter = server.connect("held").await.unwrap();
    reporter
        .batch_execute(
            "set role reporter; begin isolation level repeatable read; select count(*) from pgq.tick",
        )
        .await
        .unwrap();
    let table_before = one(&client, "select queue_cur_table::int8 from pgq.queue").await;
    for _ in 0..ROTATIONS {
        round(&client, &mut tick).await;
    }
    assert_eq!(
        one(&client, "select queue_cur_table::int8 from pgq.queue").await,
        (table_before + ROTATIONS) % 3
    );
    assert_eq!(dead(&client, "^event_[0-9]").await, 0);
    let metadata = dead(&client, "^(tick|subscriber|position|queue|consumer|retry_queue)").await;
    assert!(metadata < MOST_DEAD, "{metadata} dead rows");

    // Ticks that were kept for it go later.
    let kept = one(&client, "select count(*) from pgq.tick").await;
    assert!(kept > ROTATIONS * TICKS_A_ROTATION, "{kept} ticks");
    reporter.batch_execute("commit").await.unwrap();
    round(&client, &mut tick).await;
    round(&client, &mut tick).await;
    let left = one(&client, "select count(*) from pgq.tick").await;
    assert!(left <= 3 * TICKS_A_ROTATION, "{left} ticks");
    assert_eq!(dead(&client, "^tick").await, 0);
}
