//! Names, times and databases that are not as one would make them, but there.

use std::process::{Command, Stdio};

use skytide_fixtures::wait;

use super::stage::{PATIENCE, Stage, one};
use crate::packaged;

#[tokio::test(flavor = "multi_thread")]
async fn infinite_and_far_times_are_shown_and_moved_as_they_are() {
    let stage = Stage::new().await;
    stage
        .target
        .batch_execute("select pgq.create_queue('q'); create table t (ev_data text, ev_time timestamptz)")
        .await
        .unwrap();
    stage
        .source
        .batch_execute(
            "select pgq.register_consumer('q', 'mover'), pgq.register_consumer('q', 'table'); \
             select pgq.insert_event_raw('q', null, time::timestamptz, null, null, 't', time, null, null, null, null) \
               from unnest(array['-infinity', 'infinity', '294276-12-31 23:59:59.999999+00', \
                                 '4713-11-24 00:00:00+00 BC', '2026-01-02 03:04:05.678901+00']) time",
        )
        .await
        .unwrap();
    stage.tick().await;
    let printed = stage.ok(&["consume", "q", "c", "--until-idle"]);
    let times: Vec<&str> = printed
        .lines()
        .filter_map(|line| line.split('\t').nth(1))
        .collect();
    assert_eq!(
        times,
        [
            "-infinity",
            "infinity",
            "+294276-12-31T23:59:59.999999Z",
            "-004712-11-24T00:00:00Z",
            "2026-01-02T03:04:05.678901Z"
        ]
    );
    let dsn = stage.target_dsn();
    stage.ok(&["move", "q", "mover", "--to", &dsn, "--until-idle"]);
    stage.ok(&["consume", "q", "table", "--into", &dsn, "t", "--until-idle"]);
    let same = "select count(*) from pgq.event_template where ev_time = ev_data::timestamptz";
    assert_eq!(one::<i64>(&stage.target, same).await, 5);
    let same = "select count(*) from t where ev_time = ev_data::timestamptz";
    assert_eq!(one::<i64>(&stage.target, same).await, 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn queues_and_consumers_that_are_there_may_have_any_name() {
    let stage = Stage::new().await;
    let long = "x".repeat(300);
    for queue in ["", long.as_str(), "two\nlines"] {
        assert_eq!(stage.run(&["create", queue]).status.code(), Some(2), "{queue:?}");
        for sql in [
            "select pgq.create_queue($1)",
            "select pgq.register_consumer($1, $1)",
        ] {
            stage.source.execute(sql, &[&queue]).await.unwrap();
        }
        assert_eq!(stage.json(&["info", queue])["queue"], queue);
        assert_eq!(
            stage.run(&["register", queue, &"y".repeat(300)]).status.code(),
            Some(2)
        );
        stage.ok(&["register", queue, "plain", "--like", queue]);
        stage.ok(&["pause", queue, queue]);
        stage.ok(&["seek", queue, queue, "--end"]);
        stage.ok(&["unregister", queue, queue]);
        stage.ok(&["consume", queue, "plain", "--until-idle"]);
        stage.ok(&["drop", queue, "--force"]);
    }
    let left = "select count(*) from pgq.queue";
    assert_eq!(one::<i64>(&stage.source, left).await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_line_that_is_no_object_is_no_event() {
    let stage = Stage::new().await;
    let out = stage.produce(
        &["--json", "--chunk-rows", "1"],
        b"{\"data\": 1}\n[\"t\", \"data\"]\n",
    );
    assert_eq!(out.status.code(), Some(1));
    let complaint = String::from_utf8(out.stderr).unwrap();
    assert!(
        complaint.contains("line 2 is no event: it is no JSON object"),
        "{complaint}"
    );
}

/// Prevents: a table is made in a database that cannot be consumed into.
#[tokio::test(flavor = "multi_thread")]
async fn no_table_is_made_where_the_target_lacks_the_modules() {
    let stage = Stage::new().await;
    stage.server.create_database("empty").await.unwrap();
    let out = Command::new(env!("CARGO_BIN_EXE_skytide"))
        .args(["queue", "consume", "q", "c", "--until-idle", "--create", "--into"])
        .args([&stage.server.dsn("empty"), "public.events"])
        .env("SKYTIDE_DB", stage.server.dsn("source"))
        .output()
        .unwrap();
    let complaint = String::from_utf8(out.stderr).unwrap();
    assert_eq!(out.status.code(), Some(1), "{complaint}");
    assert!(complaint.contains("pgq_ext"), "{complaint}");
    let empty = stage.server.connect("empty").await.unwrap();
    assert!(one::<bool>(&empty, "select to_regclass('public.events') is null").await);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_original_modules_are_filled_and_what_they_lack_is_told() {
    let Some(server) = packaged::server().await else {
        return;
    };
    server.create_database("d").await.unwrap();
    packaged::create_extensions(&server, "d").await;
    let client = server.connect("d").await.unwrap();
    client
        .batch_execute("select pgq.create_queue('q')")
        .await
        .unwrap();
    let input = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(input.path(), "one\ntwo\nthree\n").unwrap();
    let run = |program: &str, arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_skytide"));
        command
            .arg(program)
            .args(arguments)
            .env("SKYTIDE_DB", server.dsn("d"))
            .stdin(Stdio::from(input.reopen().unwrap()));
        let out = command.output().unwrap();
        (out.status.code(), String::from_utf8(out.stderr).unwrap())
    };
    let (code, complaint) = run("queue", &["produce", "q", "--type", "t"]);
    assert_eq!(code, Some(0), "{complaint}");
    let events = "select string_agg(ev_type || ' ' || ev_data, ', ' order by ev_id) from pgq.event_template";
    assert_eq!(one::<String>(&client, events).await, "t one, t two, t three");

    let dsn = server.dsn("d");
    for (program, arguments) in [
        ("queue", &["info", "q"][..]),
        ("qadmin", &[&dsn, "-c", "show blockers q"]),
        ("qadmin", &[&dsn, "-c", "pause consumer c on q"]),
    ] {
        let (code, complaint) = run(program, arguments);
        assert_eq!(code, Some(1), "{arguments:?}");
        assert!(
            complaint
                .contains("HINT:  Put the SQL modules into that database, or upgrade them: skytide install"),
            "{arguments:?}: {complaint}"
        );
    }
}

/// Prevents: SQL's quotes become a part of the name.
#[tokio::test(flavor = "multi_thread")]
async fn names_of_tables_are_taken_as_they_are() {
    let stage = Stage::new().await;
    let dsn = stage.target_dsn();
    let words = ["consume", "q", "c", "--until-idle", "--create", "--into", &dsn];
    let complaint = stage.refused(2, &[&words[..], &["public.\"Mail\""]].concat());
    assert!(complaint.contains("without quotes"), "{complaint}");
    stage.fill(1).await;
    stage.ok(&[&words[..], &["public.Mail"]].concat());
    assert_eq!(
        one::<i64>(&stage.target, "select count(*) from public.\"Mail\"").await,
        1
    );
}

/// Prevents: after a restore into a cluster that is behind, a tick on request makes a batch without its events.
#[tokio::test(flavor = "multi_thread")]
async fn a_queue_from_a_cluster_with_later_transaction_ids_is_not_ticked() {
    let stage = Stage::new().await;
    stage
        .source
        .batch_execute("update pgq.tick set tick_snapshot = '999999999:999999999:'")
        .await
        .unwrap();
    for call in [
        "pgq.tick_now('q')",
        "pgq.tick_now_if_free('q')",
        "pgq.ticker('q')",
    ] {
        let error = stage
            .source
            .batch_execute(&format!("select {call}"))
            .await
            .unwrap_err();
        let error = error.as_db_error().unwrap();
        assert!(error.message().starts_with("Invalid PgQ state"), "{error}");
        assert!(error.hint().unwrap().contains("pg_resetwal"), "{call}");
    }
}

/// Prevents: events are told to be missing that were committed when the connection broke.
#[tokio::test(flavor = "multi_thread")]
async fn events_of_which_nobody_knows_are_not_told_to_be_missing() {
    let stage = Stage::new().await;
    // No such standby: whoever commits waits, and has committed.
    stage
        .source
        .batch_execute("alter database source set synchronous_commit = on")
        .await
        .unwrap();
    for sql in [
        "alter system set synchronous_standby_names = 'nobody'",
        "select pg_reload_conf()",
    ] {
        stage.source.batch_execute(sql).await.unwrap();
    }
    let producing = std::thread::scope(|scope| {
        let producing = scope.spawn(|| stage.produce(&["--type", "t"], b"a\nb\nc\n"));
        let kill = async {
            let sql = "select pg_terminate_backend(pid) from pg_stat_activity where wait_event = 'SyncRep'";
            wait::until("a producer that waits", PATIENCE, async || {
                Ok((!stage.target.query(sql, &[]).await?.is_empty()).then_some(()))
            })
            .await
            .unwrap();
        };
        tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(kill));
        producing.join().unwrap()
    });
    let complaint = String::from_utf8(producing.stderr).unwrap();
    assert_eq!(producing.status.code(), Some(1));
    assert!(
        complaint.contains("0 events are in the queue, the next 3 may be"),
        "{complaint}"
    );
    assert_eq!(
        one::<i64>(&stage.source, "select count(*) from pgq.event_1").await,
        3
    );
}
