//! Exactly once into another database, whoever dies, breaks or doubles; workers that share batches.

use skytide_fixtures::wait;

use super::stage::{PATIENCE, Stage, assert_once_and_in_order, one};

#[cfg(feature = "failpoints")]
#[tokio::test(flavor = "multi_thread")]
async fn whatever_kills_a_consumer_the_target_has_each_event_once() {
    let stage = Stage::new().await;
    let dsn = stage.target_dsn();
    let consume = [
        "consume",
        "q",
        "c",
        "--until-idle",
        "--chunk-rows",
        "10",
        "--create",
        "--into",
        &dsn,
        "t",
    ];
    let mut events = 0;
    for failpoint in [
        "queue::mid_batch",
        "queue::before_target_commit",
        "queue::after_target_commit",
        "queue::before_finish",
        "queue::after_finish",
        "queue::mid_batch",
    ] {
        stage.fill(25).await;
        stage.fill(5).await;
        events += 30;
        stage.start_to(failpoint, &consume).await.kill();
        if failpoint == "queue::after_target_commit" {
            // The batch is open at the source and done at the target.
            assert!(one::<i64>(&stage.target, "select count(*) from t").await > 60);
        }
        stage.ok(&consume);
        assert_once_and_in_order(&stage.target, events).await;
    }
}

#[cfg(feature = "failpoints")]
#[tokio::test(flavor = "multi_thread")]
async fn two_processes_under_one_name_do_not_double_a_batch() {
    let stage = Stage::new().await;
    let dsn = stage.target_dsn();
    let consume = [
        "consume",
        "q",
        "c",
        "--until-idle",
        "--create",
        "--into",
        &dsn,
        "t",
    ];
    stage.fill(10).await;
    let first = stage.start_to("queue::before_target_commit", &consume).await;
    // The second one waits for the first one's transaction, and finds the batch done then.
    let mut second = stage.start(&consume, &[]);
    wait::until("the second one waits for a lock", PATIENCE, async || {
        let sql = "select count(*) from pg_stat_activity where wait_event = 'advisory'";
        Ok((one::<i64>(&stage.target, sql).await > 0).then_some(()))
    })
    .await
    .unwrap();
    first.signal(rustix::process::Signal::CONT);
    let ended = wait::until("the second one's end", PATIENCE, async || Ok(second.exited())).await;
    assert!(ended.unwrap().code().is_some());
    assert_once_and_in_order(&stage.target, 10).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_connection_breaks_the_target_has_each_event_once() {
    let stage = Stage::new().await;
    let dsn = stage.target_dsn();
    let words = [
        "--chunk-rows",
        "3",
        "--poll",
        "20ms",
        "--create",
        "--into",
        &dsn,
        "t",
    ];
    let mut all = vec!["consume", "q", "c"];
    all.extend(words);
    let mut consumer = stage.start(&all, &[]);
    let cut = "select count(pg_terminate_backend(pid)) from pg_stat_activity where application_name = 'skytide queue c'";
    let mut broken = 0;
    for round in 0..60 {
        stage.fill(7).await;
        if round % 3 == 0 {
            broken += one::<i64>(&stage.source, cut).await;
        }
    }
    assert!(broken > 0);
    stage.all_finished().await;
    assert_eq!(
        consumer.exited(),
        None,
        "{}",
        std::fs::read_to_string(stage.log()).unwrap()
    );
    assert_once_and_in_order(&stage.target, 420).await;
    consumer.signal(rustix::process::Signal::TERM);
    let ended = wait::until("the end", PATIENCE, async || Ok(consumer.exited())).await;
    assert!(ended.unwrap().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_position_is_told_and_mended() {
    let stage = Stage::new().await;
    let dsn = stage.target_dsn();
    let consume = [
        "consume",
        "q",
        "c",
        "--until-idle",
        "--create",
        "--into",
        &dsn,
        "t",
    ];
    stage.fill(2).await;
    stage.ok(&consume);
    stage.fill(3).await;
    stage.ok(&["seek", "q", "c", "--end"]);
    stage.fill(1).await;
    let complaint = stage.refused(1, &consume);
    assert!(
        complaint.contains("has done tick") && complaint.contains("skytide queue seek q c --tick"),
        "{complaint}"
    );
    // Back to what the target has.
    let done: i64 = one(&stage.target, "select pgq_ext.get_last_tick('c', 'q')").await;
    stage.ok(&["seek", "q", "c", "--tick", &done.to_string()]);
    stage.ok(&consume);
    assert_once_and_in_order(&stage.target, 6).await;

    // Or both to the beginning.
    stage.ok(&["seek", "q", "c", "--start", "--target", &dsn]);
    stage.target.batch_execute("truncate t").await.unwrap();
    stage.ok(&consume);
    assert_once_and_in_order(&stage.target, 6).await;
}

#[cfg(feature = "failpoints")]
#[tokio::test(flavor = "multi_thread")]
async fn workers_share_batches_and_a_dead_one_is_taken_over() {
    let stage = Stage::new().await;
    let dsn = stage.target_dsn();
    let worker = |name: &'static str| {
        let mut words = vec![
            "consume",
            "q",
            "c",
            "--until-idle",
            "--create",
            "--subconsumer",
            name,
        ];
        words.extend(["--dead-interval", "1s", "--into", &dsn, "t"]);
        words
    };
    for _ in 0..4 {
        stage.fill(5).await;
    }
    // Two work on a batch each at the same time, and die: one before its commit, one after it.
    let mut first = stage.start_to("queue::before_target_commit", &worker("w1")).await;
    let mut second = stage.start_to("queue::after_target_commit", &worker("w2")).await;
    assert_eq!(one::<i64>(&stage.target, "select count(*) from t").await, 5);
    let open = "select count(*) from pgq.subscription where sub_batch is not null";
    assert_eq!(one::<i64>(&stage.source, open).await, 2);
    first.kill();
    second.kill();

    wait::until("all batches done", PATIENCE, async || {
        stage.ok(&worker("w3"));
        Ok((one::<i64>(&stage.source, open).await == 0).then_some(()))
    })
    .await
    .unwrap();
    stage.ok(&worker("w3"));
    let numbers: Vec<i32> = one(
        &stage.target,
        "select array_agg(ev_data::int order by ev_data::int) from t",
    )
    .await;
    assert_eq!(numbers, (1..=20).collect::<Vec<i32>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn live_workers_get_different_batches() {
    let stage = Stage::new().await;
    for _ in 0..20 {
        stage.fill(5).await;
    }
    let dsn = stage.target_dsn();
    let consume = |name: &'static str| {
        let mut words = vec!["consume", "q", "c", "--until-idle", "--subconsumer", name];
        words.extend(["--into", &dsn, "t"]);
        words
    };
    stage
        .target
        .batch_execute("create table t (ev_data text unique)")
        .await
        .unwrap();
    let mut workers = [stage.start(&consume("w1"), &[]), stage.start(&consume("w2"), &[])];
    for worker in &mut workers {
        let ended = wait::until("a worker's end", PATIENCE, async || Ok(worker.exited())).await;
        assert!(
            ended.unwrap().success(),
            "{}",
            std::fs::read_to_string(stage.log()).unwrap()
        );
    }
    assert_eq!(one::<i64>(&stage.target, "select count(*) from t").await, 100);
}

/// Prevents: batches of a queue that was made anew (or restored, or is another database's) count as done, since batches
/// of the same ids were.
#[tokio::test(flavor = "multi_thread")]
async fn batches_whose_ids_come_again_are_told_from_those_that_were_done() {
    let stage = Stage::new().await;
    let dsn = stage.target_dsn();
    let mut worker = vec!["consume", "q", "c", "--register", "--until-idle", "--create"];
    worker.extend([
        "--subconsumer",
        "w1",
        "--dead-interval",
        "1min",
        "--into",
        &dsn,
        "t",
    ]);
    for round in 1..=2 {
        for _ in 0..3 {
            stage.fill(5).await;
        }
        stage.ok(&worker);
        assert_once_and_in_order(&stage.target, 15 * round).await;
        stage
            .source
            .batch_execute(
                "select pgq.drop_queue('q', true);
                 alter sequence pgq.batch_id_seq restart; alter sequence pgq.queue_queue_id_seq restart;
                 select pgq.create_queue('q'); select pgq.tick_now('q'); select pgq.register_consumer('q', 'c')",
            )
            .await
            .unwrap();
    }
    let load = ["load", "q", "c", "--subconsumer", "w1", "--to", &dsn];
    assert!(stage.refused(2, &load).contains("in their order"));
}

/// Prevents: a consumer that is there is registered once more, forgets what it has done, and does it again.
#[cfg(feature = "failpoints")]
#[tokio::test(flavor = "multi_thread")]
async fn who_is_registered_again_has_done_what_it_has_done() {
    let stage = Stage::new().await;
    let dsn = stage.target_dsn();
    let mut consume = vec!["consume", "q", "c", "--until-idle", "--create"];
    consume.extend(["--into", &dsn, "t"]);
    stage.fill(5).await;
    stage
        .start_to("queue::after_target_commit", &consume)
        .await
        .kill();
    stage.ok(&["register", "q", "c", "--target", &dsn]);
    stage.ok(&consume);
    assert_once_and_in_order(&stage.target, 5).await;
    // Nor is a batch taken for read of which nothing fits.
    stage.fill(3).await;
    consume.extend(["--chunk-bytes", "0"]);
    stage.ok(&consume);
    assert_once_and_in_order(&stage.target, 8).await;
}
