//! Where recovery ends, and what a restore does and does not touch.

use super::*;

#[tokio::test]
async fn recovery_ends_where_it_was_asked_to() {
    let stage = stage(Options::default()).await;
    backup(&stage);
    after_the_checkpoint(&stage).await;
    let client = stage.client().await;
    let rows = "select count(*) from mark";
    client
        .batch_execute("create table mark (n int); insert into mark values (1)")
        .await
        .unwrap();
    client
        .batch_execute("select pg_create_restore_point('after one')")
        .await
        .unwrap();
    let text = async |sql: &str| -> String { client.query_one(sql, &[]).await.unwrap().get(0) };
    client.batch_execute("insert into mark values (2)").await.unwrap();
    let lsn = text("select pg_current_wal_insert_lsn()::text").await;
    client.batch_execute("insert into mark values (3)").await.unwrap();
    let time = moment(&stage).await;
    let xid = text("insert into mark values (4) returning pg_current_xact_id()::text").await;
    client.batch_execute("delete from mark").await.unwrap();
    flush(&stage).await;

    for (number, (target, wanted)) in [
        (["--name", "after one"], 1),
        (["--lsn", &lsn], 2),
        (["--time", &time], 3),
        (["--before-xid", &xid], 3),
        (["--xid", &xid], 4),
    ]
    .into_iter()
    .enumerate()
    {
        let name = format!("restored{number}");
        restore(&stage, "latest", &name, &target).with(0, &[]);
        let restored = stage.recovered(&name).await;
        assert_eq!(count(&restored.0, rows).await, wanted, "{target:?}");
    }
    restore(&stage, "latest", "bare", &["--immediate"]).with(0, &[]);
    let bare = stage.recovered("bare").await;
    assert_eq!(
        count(&bare.0, "select count(*) from pg_class where relname = 'mark'").await,
        0
    );

    // What the WAL does not reach is refused before anything is copied.
    for target in [
        ["--lsn", "FF/0"],
        ["--time", "2999-01-01 00:00:00Z"],
        ["--xid", "4000000000"],
        ["--name", "nobody"],
    ] {
        let said = restore(&stage, "latest", "never", &target);
        said.with(
            1,
            &["cannot be reached", "the WAL in the stores goes from", "HINT"],
        );
    }
    assert!(!stage.path("never/data").exists());
    let said = restore(&stage, "latest", "never", &["--lsn", "0/1000028"]);
    said.with(1, &["no backup was finished before"]);
}

/// Of the server's clock, which has moved on when this returns: what is committed now is later.
async fn moment(stage: &Stage) -> String {
    let client = stage.client().await;
    let now = "select clock_timestamp()::text";
    let time: String = client.query_one(now, &[]).await.unwrap().get(0);
    wait::until("the clock", PATIENCE, async || {
        let moved = "select clock_timestamp() > $1::text::timestamptz + interval '5 ms'";
        let moved: bool = client.query_one(moved, &[&time]).await?.get(0);
        Ok(moved.then_some(()))
    })
    .await
    .unwrap();
    time
}

/// A backup is good for moments that are surely later than its checkpoint's, which is known to the second.
async fn after_the_checkpoint(stage: &Stage) {
    let client = stage.client().await;
    wait::until("the checkpoint to be of the past", PATIENCE, async || {
        let past = "select clock_timestamp() > checkpoint_time + interval '2 s' from pg_control_checkpoint()";
        let past: bool = client.query_one(past, &[]).await?.get(0);
        Ok(past.then_some(()))
    })
    .await
    .unwrap();
}

/// Prevents: a restore to a moment that comes with later commits, as the backup has them.
#[tokio::test]
async fn a_moment_is_reached_from_a_backup_that_was_begun_before() {
    let stage = stage(Options::default()).await;
    let first = backup(&stage);
    after_the_checkpoint(&stage).await;
    stage
        .run("create table mark (n int); insert into mark values (1)")
        .await;
    let time = moment(&stage).await;
    stage.run("insert into mark values (2)").await;
    let second = backup(&stage);
    stage.run("insert into mark values (3)").await;
    flush(&stage).await;
    restore(&stage, &second, "never", &["--time", &time])
        .with(1, &["cannot be reached", &second, "may have later commits"]);
    let said = restore(&stage, "latest", "restored", &["--time", &time, "--json"]).with(0, &[]);
    assert_eq!(said.json()["backup"], first.as_str());
    let restored = stage.recovered("restored").await;
    assert_eq!(count(&restored.0, "select max(n)::bigint from mark").await, 1);
}

/// Prevents: a target between a transaction's last row and its commit, from which recovery comes with the commit.
#[tokio::test]
async fn a_position_before_a_commit_leaves_it_out() {
    let stage = stage(Options::default()).await;
    backup(&stage);
    let client = stage.client().await;
    let text = async |sql: &str| -> String { client.query_one(sql, &[]).await.unwrap().get(0) };
    client.batch_execute("create table mark (n int)").await.unwrap();
    let before = text("insert into mark values (1) returning pg_current_xact_id()::text").await;
    client
        .batch_execute("begin; insert into mark values (2)")
        .await
        .unwrap();
    let lsn = text("select pg_current_wal_insert_lsn()::text").await;
    client.batch_execute("commit").await.unwrap();
    flush(&stage).await;
    let said = restore(&stage, "latest", "restored", &["--lsn", &lsn, "--json"]).with(0, &[]);
    assert_eq!(said.json()["last_commit_xid"].to_string(), before, "{said:?}");
    let restored = stage.recovered("restored").await;
    assert_eq!(count(&restored.0, "select sum(n) from mark").await, 1);
}

/// Prevents: a target at the end of the WAL, for which everything is copied and which the server then does not find.
#[tokio::test]
async fn the_end_of_the_wal_is_a_position() {
    let stage = stage(Options::default()).await;
    backup(&stage);
    let client = stage.client().await;
    let text = async |sql: &str| -> String { client.query_one(sql, &[]).await.unwrap().get(0) };
    client
        .batch_execute("create table mark (n int); insert into mark values (1)")
        .await
        .unwrap();
    let last = text("select pg_walfile_name(pg_current_wal_insert_lsn())").await;
    let switched = text("select pg_switch_wal()::text").await;
    let next = text("select pg_current_wal_insert_lsn()::text").await;
    stage.archived(&last).await;
    for (name, lsn) in [("switched", &switched), ("next", &next)] {
        restore(&stage, "latest", name, &["--lsn", lsn]).with(0, &[]);
    }
    // What comes into the store until the server starts is behind the target.
    client.batch_execute("insert into mark values (2)").await.unwrap();
    flush(&stage).await;
    for name in ["switched", "next"] {
        let restored = stage.recovered(name).await;
        assert_eq!(count(&restored.0, "select sum(n) from mark").await, 1, "{name}");
    }
    restore(&stage, "latest", "again", &["--lsn", &switched]).with(0, &[]);
    let restored = stage.recovered("again").await;
    assert_eq!(count(&restored.0, "select sum(n) from mark").await, 1);
}

#[tokio::test]
async fn the_plan_names_gaps_before_anything_is_copied() {
    let stage = stage(Options::default()).await;
    configure(&stage, "restore_timeout = 1s");
    let label = backup(&stage);
    let wanted = content(&stage.server).await;
    flush(&stage).await;
    let gone = stage.segment(10).await;
    flush(&stage).await;
    let plan = restore(&stage, "latest", "plan", &["--dry-run", "--json"]).with(0, &[]);
    let plan: serde_json::Value = serde_json::from_str(&plan.out).unwrap();
    assert_eq!(plan["backup"], label.as_str());
    assert!(
        plan["last_commit_time"].is_string() && plan["missing"].is_null(),
        "{plan}"
    );
    assert!(!stage.path("plan/data").exists());

    fs::remove_file(stage.stored(&gone)).unwrap();
    restore(&stage, "latest", "plan", &["--dry-run"]).with(0, &[&gone, "is missing"]);
    restore(&stage, "latest", "short", &[]).with(0, &[&gone, "is missing"]);
    let short = stage.recovered("short").await;
    assert!(content(&short.0).await.0 > wanted.0, "it ends before the gap");
    drop(short);

    // Who did not know of the gap is stopped there: recovery would take it for the end.
    let target = stage.directory("asking/pg_wal").join("RECOVERYXLOG");
    stage
        .restore_file(&gone, &target)
        .with(255, &[&gone, "the WAL between is lost"]);
    {
        let _daemon = stage.daemon().await;
        stage.restore_file(&gone, &target).with(255, &[&gone, "is lost"]);
    }
    // Nor does a server that knows where to end: it reads ahead, and gives up if it does not come there.
    let auto_conf = stage.path("asking/postgresql.auto.conf");
    fs::write(&auto_conf, "recovery_target_lsn = '0/3000000'\n").unwrap();
    stage.restore_file(&gone, &target).with(1, &[]);
    fs::write(&auto_conf, "recovery_target_lsn = ''\n").unwrap();
    stage.restore_file(&gone, &target).with(255, &[]);
    fs::write(stage.path("asking/standby.signal"), "").unwrap();
    stage.restore_file(&gone, &target).with(1, &[]);
    let said = restore(&stage, "latest", "plan", &["--lsn", "0/FF000000"]);
    said.with(1, &["cannot be reached", &gone]);

    // The WAL of the backup itself.
    let backup = stage.walmgr(&["listbackups", "--json"]).out;
    let backup: serde_json::Value = serde_json::from_str(&backup).unwrap();
    let start: skytide_sql::Lsn = backup[0]["start_lsn"].as_str().unwrap().parse().unwrap();
    let needed = format!("00000001{:016X}", start.as_u64() >> 24);
    fs::remove_file(stage.stored(&needed)).unwrap();
    restore(&stage, "latest", "plan", &[]).with(1, &["WAL is missing", &needed]);
    let said = stage.walmgr(&["verify"]).with(3, &[]);
    assert!(said.out.contains(&needed), "{said:?}");
}

#[tokio::test]
async fn what_is_there_already_stays_and_what_is_not_ours_is_refused() {
    let stage = stage(Options::default()).await;
    backup(&stage);
    flush(&stage).await;
    restore(&stage, "latest", "restored", &[]).with(0, &[]);
    restore(&stage, "latest", "restored", &[]).with(1, &["is not empty", "--delta"]);
    let data = stage.path("restored/data");
    let restored = stage.recovered("restored").await;
    restore(&stage, "latest", "restored", &["--delta"]).with(1, &["a server that runs"]);
    let client = restored.0.connect("postgres").await.unwrap();
    client
        .batch_execute("create table extra as select 1 n; delete from t where id % 2 = 0")
        .await
        .unwrap();
    restored.0.stop(StopMode::Fast).await.unwrap();
    drop(restored);

    let said = restore(&stage, "latest", "restored", &["--delta", "--json"]).with(0, &[]);
    let said: serde_json::Value = serde_json::from_str(&said.out).unwrap();
    let number = |name: &str| said["done"][name].as_u64().unwrap();
    assert!(number("kept_files") > 500, "{said}");
    assert!(number("removed_files") > 0 && number("read_bytes") > 0, "{said}");
    let again = stage.recovered("restored").await;
    assert_eq!(content(&again.0).await, content(&stage.server).await);
    drop(again);

    // Somebody else's directory, and another cluster's.
    fs::create_dir(stage.path("letters")).unwrap();
    fs::write(stage.path("letters/dear"), "x").unwrap();
    let letters = stage.path("letters");
    let words = ["restore", "latest", letters.to_str().unwrap(), "--delta"];
    stage.walmgr(&words).with(1, &["not empty and no data directory"]);
    let stranger = Options {
        own_identity: true,
        ..Options::default()
    };
    let stranger = Server::start(stranger).await.unwrap();
    stranger.stop(StopMode::Fast).await.unwrap();
    let theirs = stranger.data_dir().to_str().unwrap().to_owned();
    stage
        .walmgr(&["restore", "latest", &theirs, "--delta"])
        .with(1, &["belongs to the cluster"]);
    assert!(stranger.data_dir().join("global/pg_control").exists());
    assert!(data.join("global/pg_control").exists());
}

#[tokio::test]
async fn a_standby_replays_on() {
    let stage = stage(Options::default()).await;
    backup(&stage);
    flush(&stage).await;
    restore(&stage, "latest", "standby", &["--standby"]).with(0, &[]);
    let options = Options {
        dir: skytide_fixtures::server::Where::Persistent(stage.path("standby")),
        port: Some(skytide_fixtures::server::free_port().unwrap()),
        ..Options::default()
    };
    let standby =
        crate::walmgr::stage::Restored(Server::start(options.with("archive_mode", "off")).await.unwrap());
    assert!(stage.path("standby/data/standby.signal").exists());
    stage.run("insert into t (v) values ('later')").await;
    flush(&stage).await;
    let wanted = content(&stage.server).await;
    wait::until_eq("the standby's rows", wanted, PATIENCE, async || {
        Ok(content(&standby.0).await)
    })
    .await
    .unwrap();
}

/// Prevents: a purge that keeps the newest backup, which lies on a timeline that was left, and takes what the cluster
/// as it is can be restored from.
#[tokio::test]
async fn a_backup_of_a_timeline_that_was_left_does_not_count() {
    let stage = stage(Options::default()).await;
    // Of an earlier recovery: not for the next one.
    let leftover = "recovery_target_inclusive = off\nrecovery_target_name = 'of old'\n";
    let conf = stage.server.data_dir().join("postgresql.conf");
    let old = fs::read_to_string(&conf).unwrap();
    fs::write(&conf, old + leftover).unwrap();
    let first = backup(&stage);
    stage.run("select pg_create_restore_point('here')").await;
    flush(&stage).await;
    let left = backup(&stage);
    flush(&stage).await;

    restore(&stage, "latest", "again", &["--name", "here"]).with(0, &[]);
    let line = stage.line("archive %p %f");
    let archives = [("archive_mode", "on"), ("archive_command", line.as_str())];
    let again = stage.recovered_with("again", &archives).await;
    let client = again.0.connect("postgres").await.unwrap();
    for n in 0..3 {
        let insert = format!("insert into t (v) values ('on timeline 2, {n}')");
        client.batch_execute(&insert).await.unwrap();
        client.batch_execute("select pg_switch_wal()").await.unwrap();
    }
    let wanted = content(&again.0).await;
    wait::until("its WAL to be archived", PATIENCE, async || {
        let sql = "select count(*) from pg_stat_archiver where last_archived_wal like '00000002%' and archived_count > 3";
        let archived: i64 = client.query_one(sql, &[]).await?.get(0);
        Ok((archived > 0).then_some(()))
    })
    .await
    .unwrap();
    // The other server is not what the stores follow any more.
    stage
        .walmgr(&["status"])
        .with(1, &["timeline 2, the server is on 1"]);

    stage.walmgr(&["purge", "--keep", "1"]).with(0, &[]);
    assert_eq!(labels(&stage), [first.clone(), left.clone()]);
    restore(&stage, "latest", "third", &[]).with(0, &[]);
    let third = stage.recovered("third").await;
    assert_eq!(content(&third.0).await, wanted);

    // By age: nothing is young enough. What the newest timeline is reached from stays all the same, until it has a
    // backup of its own.
    stage.walmgr(&["purge", "--keep-for", "0s"]).with(0, &[]);
    assert_eq!(labels(&stage), [first.clone(), left.clone()]);
    let by = format!("master_db={}", again.0.dsn("postgres"));
    let own = stage
        .walmgr(&["--set", &by, "backup", "--json"])
        .with(0, &[])
        .json();
    let own = own["label"].as_str().unwrap().to_owned();
    stage.walmgr(&["purge", "--keep-for", "1h"]).with(0, &[]);
    assert_eq!(labels(&stage), [first, left, own.clone()]);
    // Of the same second it is young.
    wait::until_eq("the old ones to go", vec![own], PATIENCE, async || {
        stage.walmgr(&["purge", "--keep-for", "0s"]).with(0, &[]);
        Ok(labels(&stage))
    })
    .await
    .unwrap();
    let old_wal = fs::read_dir(stage.store().join("wal/00000001"));
    assert_eq!(
        old_wal.map_or(0, Iterator::count),
        0,
        "no kept backup leads to it"
    );
    restore(&stage, "latest", "fourth", &[]).with(0, &[]);
    let fourth = stage.recovered("fourth").await;
    assert_eq!(content(&fourth.0).await, wanted);
}
