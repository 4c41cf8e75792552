//! Races of the SQL modules, two sessions each, ordered by locks and never by time.

use std::time::Duration;

use skytide_fixtures::server::Server;
use skytide_fixtures::wait;
use skytide_sql::Snapshot;
use tokio::task::JoinHandle;
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, Error, Row};

use crate::modules::{database, server_with_modules};

const PATIENCE: Duration = Duration::from_secs(60);

/// A server with queue `q` in database `race`.
async fn arena() -> (Server, Client) {
    let server = server_with_modules().await;
    database(&server, "race").await;
    let client = session(&server).await;
    client
        .batch_execute(
            "select pgq.create_queue('q'); \
             select pgq.set_queue_config('q', 'rotation_period', '0')",
        )
        .await
        .unwrap();
    (server, client)
}

async fn session(server: &Server) -> Client {
    server.connect("race").await.unwrap()
}

async fn pid(client: &Client) -> i32 {
    client
        .query_one("select pg_backend_pid()", &[])
        .await
        .unwrap()
        .get(0)
}

/// Starts a query that will have to wait for a lock, and returns when it waits.
async fn blocked(watch: &Client, client: Client, sql: &'static str) -> JoinHandle<Result<Row, Error>> {
    let pid = pid(&client).await;
    let query = tokio::spawn(async move { client.query_one(sql, &[]).await });
    wait::until("the query waits for a lock", PATIENCE, async || {
        let row = watch
            .query_one("select cardinality(pg_blocking_pids($1)) > 0", &[&pid])
            .await?;
        Ok(row.get::<_, bool>(0).then_some(()))
    })
    .await
    .unwrap();
    query
}

async fn int(client: &Client, sql: &str) -> i64 {
    client.query_one(sql, &[]).await.unwrap().get(0)
}

async fn snapshot_of(client: &Client, tick: i64) -> Snapshot {
    let row = client
        .query_one(
            "select tick_snapshot::text from pgq.tick where tick_id = $1",
            &[&tick],
        )
        .await
        .unwrap();
    row.get::<_, &str>(0).parse().unwrap()
}

/// Prevents: an event written to the old table by a transaction younger than the rotation is in no batch.
#[tokio::test]
async fn an_insert_that_waits_through_a_rotation_is_delivered_once() {
    let (server, client) = arena().await;
    client
        .batch_execute(
            "select pgq.tick_now('q'); select pgq.register_consumer('q', 'c'); \
             select nextval('pgq.event_1_id_seq')", // else the insert's own nextval assigns its transaction id
        )
        .await
        .unwrap();

    let holder = session(&server).await;
    holder
        .batch_execute("begin; lock table pgq.event_1_0 in exclusive mode")
        .await
        .unwrap();
    let writer = session(&server).await;
    let insert = blocked(&client, writer, "select pgq.insert_event('q', 'type', 'late')").await;
    client
        .batch_execute("select pgq.maint_rotate_tables_step1('q')")
        .await
        .unwrap();
    client
        .batch_execute("select pgq.maint_rotate_tables_step2()")
        .await
        .unwrap();
    assert_eq!(
        int(&client, "select queue_cur_table::int8 from pgq.queue").await,
        1,
        "rotated"
    );
    holder.batch_execute("rollback").await.unwrap();
    insert.await.unwrap().unwrap();

    let behind = "select count(*) from pgq.event_1_0, pgq.queue where ev_txid < queue_switch_step2";
    assert_eq!(
        int(&client, behind).await,
        1,
        "its transaction is older than step 2"
    );
    client.batch_execute("select pgq.tick_now('q')").await.unwrap();
    let batch = int(&client, "select pgq.next_batch('q', 'c')").await;
    let events = client
        .query("select ev_data from pgq.get_batch_events($1)", &[&batch])
        .await
        .unwrap();
    let data: Vec<&str> = events.iter().map(|row| row.get(0)).collect();
    assert_eq!(data, ["late"]);
}

/// Prevents: the same with an old snapshot, where waiting is not even needed.
#[tokio::test]
async fn an_insert_with_a_snapshot_from_before_the_rotation_is_refused() {
    let (server, client) = arena().await;
    for call in [
        "pgq.insert_event('q', 'type', 'data')",
        "pgq.current_event_table('q')",
    ] {
        let writer = session(&server).await;
        writer
            .batch_execute("begin isolation level repeatable read; select 1 from pgq.queue")
            .await
            .unwrap();
        client
            .batch_execute("select pgq.maint_rotate_tables_step1('q')")
            .await
            .unwrap();
        client
            .batch_execute("select pgq.maint_rotate_tables_step2()")
            .await
            .unwrap();
        let refused = writer.batch_execute(&format!("select {call}")).await.unwrap_err();
        assert_eq!(
            refused.code(),
            Some(&SqlState::T_R_SERIALIZATION_FAILURE),
            "{call}"
        );
    }
}

/// Prevents: producers in repeatable read that overlap keep the queue's row locked, so that it is never rotated.
#[tokio::test]
async fn overlapping_producers_in_repeatable_read_do_not_stop_rotation() {
    let (server, client) = arena().await;
    client
        .batch_execute("select pgq.tick_now('q'); select pgq.register_consumer('q', 'c')")
        .await
        .unwrap();
    let rotated = "select queue_cur_table::bigint from pgq.queue where queue_switch_step2 is not null";
    let mut open = session(&server).await;
    for nr in 0..6 {
        let begin = "begin isolation level repeatable read; select pgq.insert_event('q', 't', 'first')";
        if nr == 0 {
            open.batch_execute(begin).await.unwrap();
        }
        let next = session(&server).await;
        next.batch_execute(begin).await.unwrap();
        let before = int(&client, rotated).await;
        client
            .batch_execute("select pgq.maint_rotate_tables_step1('q')")
            .await
            .unwrap();
        client
            .batch_execute("select pgq.maint_rotate_tables_step2()")
            .await
            .unwrap();
        // The one that came before the switch goes on with its table.
        open.batch_execute("select pgq.insert_event('q', 't', 'second'); commit")
            .await
            .unwrap();
        let after = int(&client, rotated).await;
        next.batch_execute("select pgq.insert_event('q', 't', 'second'); commit")
            .await
            .unwrap();
        assert_ne!(after, before, "round {nr}: the switch waits for nobody");
        client.batch_execute("select pgq.tick_now('q')").await.unwrap();
        let batch = int(&client, "select pgq.next_batch('q', 'c')").await;
        let events = format!("select count(*) from pgq.get_batch_events({batch})");
        assert_eq!(int(&client, &events).await, 4, "round {nr}");
        client
            .batch_execute(&format!("select pgq.finish_batch({batch})"))
            .await
            .unwrap();
        open = session(&server).await;
        open.batch_execute(begin).await.unwrap();
    }
}

/// Prevents: a producer's lock on one queue's row stops the second step of all, and that stops their producers.
#[tokio::test]
async fn a_locked_queue_is_left_out_by_the_second_step() {
    let (server, client) = arena().await;
    client
        .batch_execute(
            "select pgq.create_queue('r'); select pgq.set_queue_config('r', 'rotation_period', '0')",
        )
        .await
        .unwrap();
    let first = "select pgq.maint_rotate_tables_step1(n) from unnest(array['q', 'r']) n";
    client.batch_execute(first).await.unwrap();
    let holder = session(&server).await;
    holder
        .batch_execute("begin; select 1 from pgq.queue where queue_name = 'q' for share")
        .await
        .unwrap();
    let second = "set lock_timeout = '5s'; select pgq.maint_rotate_tables_step2()";
    client.batch_execute(second).await.unwrap();
    client.batch_execute(first).await.unwrap();
    let pending = "select string_agg(queue_name || queue_cur_table, ' ') from pgq.queue \
                   where queue_switch_step2 is null";
    let row = client.query_one(pending, &[]).await.unwrap();
    assert_eq!(row.get::<_, &str>(0), "q1", "the first step waits for the second");
    holder.batch_execute("rollback").await.unwrap();
    client.batch_execute(second).await.unwrap();
    let row = client.query_one(pending, &[]).await.unwrap();
    assert_eq!(row.get::<_, Option<&str>>(0), None);
}

/// Prevents: without consumers a table is emptied while a transaction that wrote to it is open; who registers before
/// it ends would miss its events.
#[tokio::test]
async fn rotation_without_consumers_waits_for_open_producers() {
    let (server, client) = arena().await;
    let writer = session(&server).await;
    writer
        .batch_execute("begin; select pgq.insert_event('q', 't', 'late')")
        .await
        .unwrap();
    for _ in 0..4 {
        for call in [
            "maint_rotate_tables_step1('q')",
            "maint_rotate_tables_step2()",
            "tick_now('q')",
        ] {
            client.batch_execute(&format!("select pgq.{call}")).await.unwrap();
        }
    }
    client
        .batch_execute("select pgq.register_consumer('q', 'c')")
        .await
        .unwrap();
    writer.batch_execute("commit").await.unwrap();
    client
        .batch_execute("select pgq.insert_event('q', 't', 'after')")
        .await
        .unwrap();
    client.batch_execute("select pgq.tick_now('q')").await.unwrap();
    let batch = int(&client, "select pgq.next_batch('q', 'c')").await;
    let events = format!("select string_agg(ev_data, ' ' order by ev_id) from pgq.get_batch_events({batch})");
    let events: String = client.query_one(&events, &[]).await.unwrap().get(0);
    assert_eq!(events, "late after");
}

/// Prevents: rotation's second step taken in the transaction of the first proves nothing.
#[tokio::test]
async fn both_steps_in_one_transaction_leave_the_second_for_later() {
    let (_server, client) = arena().await;
    client
        .batch_execute("begin; select pgq.maint_rotate_tables_step1('q'); select pgq.maint_rotate_tables_step2(); commit")
        .await
        .unwrap();
    let pending = "select count(*) from pgq.queue where queue_switch_step2 is null and queue_cur_table = 1";
    assert_eq!(int(&client, pending).await, 1);
    client
        .batch_execute("select pgq.maint_rotate_tables_step2()")
        .await
        .unwrap();
    assert_eq!(int(&client, pending).await, 0);
}

/// Prevents: of two tickers the one with the older snapshot stores the younger tick.
#[tokio::test]
async fn a_tick_that_waited_sees_what_was_committed_meanwhile() {
    let (server, client) = arena().await;
    let first = session(&server).await;
    first.batch_execute("begin").await.unwrap();
    let first_tick = int(&first, "select pgq.tick_now('q')").await;
    let second = blocked(&client, session(&server).await, "select pgq.tick_now('q')").await;

    // somebody else's look passes over the queue instead of waiting
    let third = session(&server).await;
    third.batch_execute("set lock_timeout = '1ms'").await.unwrap();
    assert_eq!(int(&third, "select pgq.ticker()").await, 0);

    let meanwhile = int(&client, "select txid_current()").await;
    first.batch_execute("commit").await.unwrap();
    let second_tick: i64 = second.await.unwrap().unwrap().get(0);
    assert_eq!(second_tick, first_tick + 1);
    let (older, younger) = (
        snapshot_of(&client, first_tick).await,
        snapshot_of(&client, second_tick).await,
    );
    assert!(younger.contains(&older));
    let meanwhile = skytide_sql::Xid::new(meanwhile.unsigned_abs());
    assert!(younger.sees(meanwhile) && !older.sees(meanwhile));
}

/// Prevents: inverted ticks deliver events twice. Tickers and producers as fast as they can.
#[tokio::test]
async fn many_tickers_and_producers_deliver_each_event_once() {
    const EACH: i64 = 60;
    let (server, client) = arena().await;
    client
        .batch_execute("select pgq.register_consumer('q', 'c')")
        .await
        .unwrap();
    let mut work = tokio::task::JoinSet::new();
    for _ in 0..4 {
        let (ticker, producer) = (session(&server).await, session(&server).await);
        work.spawn(async move {
            for _ in 0..EACH {
                ticker.batch_execute("select pgq.tick_now('q')").await.unwrap();
            }
        });
        work.spawn(async move {
            for _ in 0..EACH {
                producer
                    .batch_execute("begin; select pgq.insert_event('q', 't', 'd'); select pgq.insert_event('q', 't', 'd'); commit")
                    .await
                    .unwrap();
            }
        });
    }
    work.join_all().await;
    client.batch_execute("select pgq.tick_now('q')").await.unwrap();

    let rows = client
        .query("select tick_snapshot::text from pgq.tick order by tick_id", &[])
        .await
        .unwrap();
    let snapshots: Vec<Snapshot> = rows
        .iter()
        .map(|r| r.get::<_, &str>(0).parse().unwrap())
        .collect();
    assert!(
        snapshots.windows(2).all(|pair| pair[1].contains(&pair[0])),
        "no inversion"
    );

    let mut seen = Vec::new();
    loop {
        let row = client
            .query_one("select pgq.next_batch('q', 'c')", &[])
            .await
            .unwrap();
        let Some(batch) = row.get::<_, Option<i64>>(0) else {
            break;
        };
        for event in client
            .query("select ev_id from pgq.get_batch_events($1)", &[&batch])
            .await
            .unwrap()
        {
            seen.push(event.get::<_, i64>(0));
        }
        client
            .execute("select pgq.finish_batch($1)", &[&batch])
            .await
            .unwrap();
    }
    seen.sort_unstable();
    assert_eq!(seen, (1..=8 * EACH).collect::<Vec<_>>());
}

/// Prevents: two sessions of one consumer get two batches, and the first one's dies under it.
#[tokio::test]
async fn two_sessions_of_a_consumer_get_the_same_batch() {
    let (server, client) = arena().await;
    client
        .batch_execute("select pgq.register_consumer('q', 'c'); select pgq.tick_now('q')")
        .await
        .unwrap();
    let first = session(&server).await;
    first.batch_execute("begin").await.unwrap();
    let batch = int(&first, "select pgq.next_batch('q', 'c')").await;
    let second = blocked(&client, session(&server).await, "select pgq.next_batch('q', 'c')").await;
    first.batch_execute("commit").await.unwrap();
    assert_eq!(second.await.unwrap().unwrap().get::<_, i64>(0), batch);
}

/// Prevents: a batch that is finished twice moves its consumer twice.
#[tokio::test]
async fn the_second_to_finish_a_batch_finds_it_finished() {
    let (server, client) = arena().await;
    consumer_with_two_ticks(&client).await;
    int(&client, "select pgq.next_batch('q', 'c')").await;
    let first = session(&server).await;
    first.batch_execute("begin").await.unwrap();
    assert_eq!(int(&first, "select pgq.finish_batch(1)::int8").await, 1);
    let second = blocked(
        &client,
        session(&server).await,
        "select pgq.finish_batch(1)::int8",
    )
    .await;
    first.batch_execute("commit").await.unwrap();
    assert_eq!(second.await.unwrap().unwrap().get::<_, i64>(0), 0);
    assert_eq!(
        int(&client, "select sub_last_tick from pgq.subscription").await,
        2
    );
}

/// Prevents: a consumer with an old snapshot takes a batch that is finished, as it cannot see the newest
/// position.
#[tokio::test]
async fn a_move_from_a_position_that_is_old_is_refused() {
    let (server, client) = arena().await;
    consumer_with_two_ticks(&client).await;
    let old = session(&server).await;
    old.batch_execute("begin isolation level repeatable read; select 1 from pgq.queue")
        .await
        .unwrap();
    client
        .batch_execute("select pgq.finish_batch(pgq.next_batch('q', 'c'))")
        .await
        .unwrap();
    let refused = old
        .batch_execute("select pgq.next_batch('q', 'c')")
        .await
        .unwrap_err();
    assert_eq!(refused.code(), Some(&SqlState::T_R_SERIALIZATION_FAILURE));
}

/// Prevents: positions are truncated away under a move that is not committed yet.
#[tokio::test]
async fn positions_take_turns_only_between_moves() {
    let (server, client) = arena().await;
    consumer_with_two_ticks(&client).await;
    let mover = session(&server).await;
    mover.batch_execute("begin").await.unwrap();
    int(&mover, "select pgq.next_batch('q', 'c')").await;
    let rotate = async || {
        client
            .batch_execute(
                "insert into pgq.position select pos_table, 0, 0, i, i, now() from pgq.position_switch, \
                     generate_series((select coalesce(max(pos_nr), 0) + 1 from pgq.position where pos_queue = 0), \
                                     (select coalesce(max(pos_nr), 0) + 20000 from pgq.position where pos_queue = 0)) i; \
                 update pgq.position_switch set switch_time = now() - interval '1 hour'",
            )
            .await
            .unwrap();
        client
            .batch_execute("select pgq.maint_rotate_positions()")
            .await
            .unwrap();
        int(&client, "select pos_table::int8 from pgq.position_switch").await
    };
    assert_eq!(rotate().await, 0);
    mover.batch_execute("commit").await.unwrap();
    for turn in [1, 2, 0, 1] {
        assert_eq!(rotate().await, turn);
        assert_eq!(int(&client, "select pgq.next_batch('q', 'c')").await, 1);
    }
}

async fn consumer_with_two_ticks(client: &Client) {
    for sql in [
        "select pgq.register_consumer('q', 'c')",
        "select pgq.tick_now('q')",
    ] {
        client.batch_execute(sql).await.unwrap();
    }
}

/// Prevents: whoever comes second gets a unique violation.
#[tokio::test]
async fn the_second_to_make_a_queue_or_consumer_finds_it_made() {
    let (server, client) = arena().await;
    for (sql, answer) in [
        ("select pgq.create_queue('new')::int8", 0),
        ("select pgq.register_consumer('q', 'new')::int8", 0),
    ] {
        let first = session(&server).await;
        first.batch_execute("begin").await.unwrap();
        assert_eq!(int(&first, sql).await, 1);
        let second = blocked(&client, session(&server).await, sql).await;
        first.batch_execute("commit").await.unwrap();
        assert_eq!(second.await.unwrap().unwrap().get::<_, i64>(0), answer, "{sql}");
    }
}

/// The compare barrier: a tick of another session's snapshot, which no tick can overtake.
#[tokio::test]
async fn a_barrier_tick_has_exactly_the_given_snapshot() {
    let (server, client) = arena().await;
    let holder = session(&server).await;
    holder.batch_execute("begin").await.unwrap();
    let not_locked = holder
        .batch_execute("savepoint s; select pgq.tick_at_snapshot('q', txid_current_snapshot(), 't', 'd')")
        .await
        .unwrap_err();
    assert!(
        not_locked.as_db_error().unwrap().message().contains("not locked"),
        "{not_locked:?}"
    );
    holder
        .batch_execute("rollback to s; select pgq.lock_ticks('q')")
        .await
        .unwrap();

    let reader = session(&server).await;
    let row = reader
        .query_one("select txid_current_snapshot()::text", &[])
        .await
        .unwrap();
    let snapshot: String = row.get(0);
    let rival = blocked(&client, session(&server).await, "select pgq.tick_now('q')").await;
    client.query_one("select txid_current()", &[]).await.unwrap();

    let row = holder
        .query_one(
            "select pgq.tick_at_snapshot('q', $1::text::txid_snapshot, 'barrier', 'x')",
            &[&snapshot],
        )
        .await
        .unwrap();
    let tick: i64 = row.get(0);
    holder.batch_execute("commit").await.unwrap();
    assert_eq!(snapshot_of(&client, tick).await.to_string(), snapshot);
    assert_eq!(rival.await.unwrap().unwrap().get::<_, i64>(0), tick + 1);

    // the rival's tick is newer, so the old snapshot is refused now
    holder
        .batch_execute("begin; select pgq.lock_ticks('q')")
        .await
        .unwrap();
    let behind = holder
        .query_one(
            "select pgq.tick_at_snapshot('q', $1::text::txid_snapshot, 'barrier', 'x')",
            &[&snapshot],
        )
        .await
        .unwrap_err();
    assert!(
        behind
            .as_db_error()
            .unwrap()
            .message()
            .contains("does not contain"),
        "{behind:?}"
    );
}

/// Prevents: whoever drops a queue, or holds its ticks, and does not commit, keeps the others from being ticked.
#[tokio::test]
async fn a_queue_that_is_being_dropped_holds_up_no_other() {
    let (server, client) = arena().await;
    client
        .batch_execute("select pgq.create_queue('other'); set lock_timeout = '60 s'")
        .await
        .unwrap();
    let dropper = session(&server).await;
    dropper
        .batch_execute("begin; select pgq.drop_queue('q')")
        .await
        .unwrap();
    let waits = "select tick_id is not null or is_free from pgq.tick_now_if_free('q')";
    let ticked = "select array_agg(distinct queue_name order by queue_name) from pgq.tick t \
                  join pgq.queue q on queue_id = tick_queue where tick_id > 1";
    client
        .batch_execute(
            "select pgq.set_queue_config('other', 'ticker_idle_period', '0'), \
             pgq.set_queue_config('other', 'ticker_max_lag', '0')",
        )
        .await
        .unwrap();
    let row = client
        .query_one("select ticks, seen from pgq.ticker_round(null, null, null)", &[])
        .await
        .unwrap();
    assert_eq!((row.get(0), row.get::<_, Option<&str>>(1)), (1_i64, None));
    assert_eq!(int(&client, "select pgq.ticker()").await, 1);
    let busy: bool = client.query_one(waits, &[]).await.unwrap().get(0);
    assert!(!busy, "it neither waited nor made a tick");
    let row = client.query_one(ticked, &[]).await.unwrap();
    assert_eq!(row.get::<_, Vec<String>>(0), ["other"]);

    dropper.batch_execute("rollback").await.unwrap();
    let free: bool = client.query_one(waits, &[]).await.unwrap().get(0);
    assert!(free);
    let row = client.query_one(ticked, &[]).await.unwrap();
    assert_eq!(row.get::<_, Vec<String>>(0), ["other", "q"]);
}

/// Prevents: a tick that is made after a queue was paused, or was given to another node to tick.
#[tokio::test]
async fn pausing_waits_for_a_tick_and_holds_up_no_other_queue() {
    let (server, client) = arena().await;
    client
        .batch_execute("select pgq.create_queue('other')")
        .await
        .unwrap();
    for (parameter, back) in [("ticker_paused", "false"), ("external_ticker", "false")] {
        let ticking = session(&server).await;
        ticking
            .batch_execute("begin; select pgq.tick_now('q')")
            .await
            .unwrap();
        let sql = match parameter {
            "ticker_paused" => "select pgq.set_queue_config('q', 'ticker_paused', 'true')",
            _ => "select pgq.set_queue_config('q', 'external_ticker', 'true')",
        };
        let pausing = blocked(&client, session(&server).await, sql).await;
        ticking.batch_execute("commit").await.unwrap();
        pausing.await.unwrap().unwrap();
        client
            .execute("select pgq.set_queue_config('q', $1, $2)", &[&parameter, &back])
            .await
            .unwrap();

        // Not committed yet: the queue is left alone, the other one is not.
        let pausing = session(&server).await;
        pausing.batch_execute(&format!("begin; {sql}")).await.unwrap();
        let due = "update pgq.tick set tick_time = tick_time - interval '1 hour'";
        client.batch_execute(due).await.unwrap();
        let round = "select ticks from pgq.ticker_round(null, null, null)";
        assert_eq!(int(&client, round).await, 1, "{parameter}");
        pausing.batch_execute("commit").await.unwrap();
        assert_eq!(int(&client, round).await, 0, "{parameter}");
        client
            .execute("select pgq.set_queue_config('q', $1, $2)", &[&parameter, &back])
            .await
            .unwrap();
        assert_eq!(int(&client, round).await, 1, "{parameter}");
    }
}

/// A snapshot older than the turns of the position tables sees no position at all: that is not "no such batch".
#[tokio::test]
async fn a_batch_that_an_old_snapshot_cannot_see_is_not_called_unknown() {
    let (server, client) = arena().await;
    client
        .batch_execute(
            "select pgq.register_consumer('q', c) from unnest('{slow,busy}'::text[]) c; \
             select pgq.insert_event('q', 't', 'x'); \
             select pgq.tick_now('q')",
        )
        .await
        .unwrap();
    let batch = int(&client, "select pgq.next_batch('q', 'slow')").await;
    let old = session(&server).await;
    old.batch_execute("begin isolation level repeatable read; select 1")
        .await
        .unwrap();
    for _ in 0..3 {
        client
            .batch_execute(
                "do $$ begin \
                    for i in 1 .. 16001 loop perform pgq.seek_consumer('q', 'busy', 1 + i % 2); end loop; \
                 end $$; \
                 update pgq.position_switch set switch_time = now() - interval '11 minutes'; \
                 select pgq.maint_rotate_positions()",
            )
            .await
            .unwrap();
    }
    let finish = format!("select pgq.finish_batch({batch})");
    let refused = old.query_one(&finish, &[]).await.unwrap_err();
    assert_eq!(
        refused.code(),
        Some(&SqlState::T_R_SERIALIZATION_FAILURE),
        "{refused}"
    );

    // What is unknown still is so, and the batch waits for the next try.
    old.batch_execute("rollback; begin isolation level repeatable read")
        .await
        .unwrap();
    let unknown = old.query_one("select pgq.finish_batch(99)", &[]).await.unwrap();
    assert_eq!(unknown.get::<_, i32>(0), 0);
    let finished = old.query_one(&finish, &[]).await.unwrap();
    assert_eq!(finished.get::<_, i32>(0), 1);
}
