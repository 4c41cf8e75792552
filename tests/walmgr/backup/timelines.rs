//! Backups of standbys, restores to points on several timelines, and a timeline that is given up.

use super::*;
use crate::walmgr::stage::Restored;

/// Recovers what was restored into `name`, and lets it archive there.
async fn promoted(stage: &Stage, name: &str) -> Restored {
    let line = stage.line("archive %p %f");
    stage
        .recovered_with(name, &[("archive_mode", "on"), ("archive_command", &line)])
        .await
}

/// Rows around a restore point, all of them archived. What `t` had at the point, and has at the end.
async fn history(server: &Server, point: &str) -> [(i64, Option<String>); 2] {
    let client = server.connect("postgres").await.unwrap();
    let insert = async |when: &str| {
        let insert = format!("insert into t (v) values ('{when} {point}')");
        client.batch_execute(&insert).await.unwrap();
        content(server).await
    };
    let at = insert("before").await;
    let mark = format!("select pg_create_restore_point('{point}')");
    client.batch_execute(&mark).await.unwrap();
    let end = insert("after").await;
    let last = client
        .query_one("select pg_walfile_name(pg_current_wal_insert_lsn())", &[])
        .await
        .unwrap();
    let last: String = last.get(0);
    client.batch_execute("select pg_switch_wal()").await.unwrap();
    let done = server
        .data_dir()
        .join(format!("pg_wal/archive_status/{last}.done"));
    wait::until("the archiver", PATIENCE, async || Ok(done.exists().then_some(())))
        .await
        .unwrap();
    [at, end]
}

#[tokio::test]
async fn every_timeline_of_a_cluster_that_was_promoted_twice_is_restored_to() {
    let stage = stage(Options::default()).await;
    backup(&stage);
    let [one, end_of_one] = history(&stage.server, "one").await;
    restore(&stage, "latest", "second", &[]).with(0, &[]);
    let second = promoted(&stage, "second").await;
    assert_eq!(content(&second.0).await, end_of_one);
    let [two, end_of_two] = history(&second.0, "two").await;
    // The third leaves the second where the point is: what came behind it is on the second only.
    restore(&stage, "latest", "third", &["--name", "two"]).with(0, &[]);
    drop(second);
    let third = promoted(&stage, "third").await;
    assert_eq!(content(&third.0).await, two);
    let [three, end_of_three] = history(&third.0, "three").await;
    drop(third);

    let cases: [(&[&str], u32, _); 6] = [
        (&["--name", "one"], 4, &one),
        (&["--name", "two"], 4, &two),
        (&["--name", "three"], 4, &three),
        (&[], 4, &end_of_three),
        (&["--timeline", "2"], 4, &end_of_two),
        (&["--timeline", "1"], 4, &end_of_one),
    ];
    for (number, (target, timeline, wanted)) in cases.into_iter().enumerate() {
        let name = format!("restored{number}");
        restore(&stage, "latest", &name, target).with(0, &[]);
        // It is not archived, so the next one finds the same stores.
        let restored = stage.recovered(&name).await;
        assert_eq!(&content(&restored.0).await, wanted, "{target:?}");
        let sql = "select timeline_id::bigint from pg_control_checkpoint()";
        wait::until_eq("the timeline", i64::from(timeline), PATIENCE, async || {
            let client = restored.0.connect("postgres").await?;
            client.batch_execute("checkpoint").await?;
            Ok(client.query_one(sql, &[]).await?.get(0))
        })
        .await
        .unwrap();
    }
    // What the second wrote after it was left is not on the way to the newest one.
    restore(&stage, "latest", "never", &["--timeline", "1", "--name", "two"]).with(1, &["cannot be reached"]);
}

/// Prevents: backups in a new store that nobody can restore, since the history was archived before there was that store.
#[tokio::test]
async fn a_store_that_is_made_after_a_promotion_gets_the_history() {
    let stage = stage(Options::default()).await;
    backup(&stage);
    flush(&stage).await;
    restore(&stage, "latest", "second", &[]).with(0, &[]);
    let second = promoted(&stage, "second").await;
    let fresh = stage.store_in("fresh");
    // Beside one that is away.
    let away = stage.path("away").display().to_string();
    configure(
        &stage,
        &format!("stores = {away}, {}\nstores_needed = 1", fresh.display()),
    );
    history(&second.0, "one").await;
    // The first thing that it archives, where nobody has archived before.
    let newest = format!("stores={away}, {}", stage.store_in("newest").display());
    let file = second.0.data_dir().join("pg_wal/00000002.history");
    stage
        .walmgr(&[
            "--set",
            &newest,
            "archive",
            file.to_str().unwrap(),
            "00000002.history",
        ])
        .with(0, &[]);
    let kept = fresh.join("history/00000002.history.zst");
    assert!(kept.is_file());
    configure(&stage, &format!("stores = {}", fresh.display()));
    let (db, data) = (second.0.dsn("postgres"), second.0.data_dir().display());
    let second_is = [format!("master_db={db}"), format!("master_data={data}")];
    let by = |words: &[&str]| {
        let set = ["--set", &second_is[0], "--set", &second_is[1]];
        stage.walmgr(&[&set, words].concat())
    };
    by(&["backup"]).with(0, &[]);
    let [_, wanted] = history(&second.0, "two").await;
    by(&["verify"]).with(0, &[]);
    let target = stage.directory("third").join("data");
    by(&["restore", "latest", target.to_str().unwrap()]).with(0, &[]);
    let third = stage.recovered("third").await;
    assert_eq!(content(&third.0).await, wanted);

    // Lost, it is missed, and the way out is said.
    fs::remove_file(&kept).unwrap();
    let said = by(&["verify"]).with(3, &[]);
    assert!(said.out.contains("00000002.history"), "{said:?}");
    let target = stage.directory("fourth").join("data");
    by(&["restore", "latest", target.to_str().unwrap()])
        .with(1, &["no history", "archive pg_wal/00000002.history"]);
}

#[tokio::test]
async fn a_backup_of_a_standby_is_the_clusters() {
    // A standby that has replayed WAL without them refuses to be backed up.
    let stage = stage(Options::default().with("full_page_writes", "on")).await;
    backup(&stage);
    flush(&stage).await;
    restore(&stage, "latest", "standby", &["--standby"]).with(0, &[]);
    let options = Options {
        dir: skytide_fixtures::server::Where::Persistent(stage.path("standby")),
        port: Some(skytide_fixtures::server::free_port().unwrap()),
        ..Options::default()
    };
    let standby = Restored(Server::start(options.with("archive_mode", "off")).await.unwrap());
    let server = format!("master_db={}", standby.0.dsn("postgres"));
    let data = format!("master_data={}", standby.0.data_dir().display());
    for (name, how) in [("streamed", &[][..]), ("files", &["--local"])] {
        stage.run("insert into t (v) values ('before'); checkpoint").await;
        flush(&stage).await;
        let wanted = content(&stage.server).await;
        wait::until_eq("the standby's rows", wanted, PATIENCE, async || {
            Ok(content(&standby.0).await)
        })
        .await
        .unwrap();
        let last = labels(&stage).pop().unwrap();
        wait_a_label(&last).await;
        let words = [&["--set", &server, "--set", &data, "backup", "--json"], how].concat();
        let label = stage.walmgr(&words).with(0, &[]).json()["label"].clone();
        let label = label.as_str().unwrap();
        assert_eq!(labels(&stage).pop().unwrap(), label);

        stage.run("insert into t (v) values ('after')").await;
        flush(&stage).await;
        restore(&stage, label, name, &[]).with(0, &[]);
        let restored = stage.recovered(name).await;
        assert_eq!(content(&restored.0).await, content(&stage.server).await, "{name}");
        amcheck_says_it_is_sound(&restored.0);
    }
    stage.walmgr(&["verify"]).with(0, &[]);
}

/// A trial that archives where it must not locks the cluster's own server out, until its timeline is given up.
#[tokio::test]
async fn a_trials_timeline_is_dropped_and_the_server_is_let_in_again() {
    let stage = stage(Options::default()).await;
    backup(&stage);
    flush(&stage).await;
    restore(&stage, "latest", "trial", &[]).with(0, &[]);
    let trial = promoted(&stage, "trial").await;
    let by = format!("master_db={}", trial.0.dsn("postgres"));
    let history = stage.store().join("history/00000002.history.zst");
    wait::until("the trial's history", PATIENCE, async || {
        Ok(history.is_file().then_some(()))
    })
    .await
    .unwrap();
    stage.walmgr(&["--set", &by, "backup"]).with(0, &[]);

    let locked_out = stage.segment(10).await;
    stage
        .archive_file(&locked_out)
        .with(1, &["was replaced", "HINT", "drop-timeline 2"]);
    stage
        .walmgr(&["drop-timeline", "1", "--yes"])
        .with(1, &["the server in master_db is on it"]);
    stage
        .walmgr(&["--set", "master_db=", "drop-timeline", "2", "--yes"])
        .with(2, &["Set master_db"]);
    for timeline in ["1", "2"] {
        stage
            .walmgr(&["--set", &by, "drop-timeline", timeline, "--yes"])
            .with(1, &["the server in master_db is on"]);
    }
    drop(trial);
    let said = stage
        .walmgr(&["drop-timeline", "2", "--dry-run"])
        .with(0, &["nothing was removed"]);
    for word in ["00000002.history", "backup", "WAL"] {
        assert!(said.out.contains(word), "{said:?}");
    }
    stage
        .walmgr(&["drop-timeline", "2"])
        .with(2, &["--yes", "on timeline 1"]);
    let daemon = stage.daemon().await;
    stage
        .walmgr(&["drop-timeline", "2", "--yes"])
        .with(1, &["the daemon answers"]);
    daemon.ends_politely().await;
    assert!(history.is_file());
    // A newer one whose way nobody knows may come from it.
    let newer = stage.store().join("history/00000003.history.zst");
    fs::write(&newer, "bit rot").unwrap();
    stage
        .walmgr(&["drop-timeline", "2", "--yes"])
        .with(1, &["timeline 3 is newer", "may come from it"]);
    fs::remove_file(&newer).unwrap();
    // Where the history is lost, the server's own says that it does not need the rest.
    let lost = stage.path("lost");
    fs::rename(&history, &lost).unwrap();
    stage
        .walmgr(&["drop-timeline", "2", "--dry-run"])
        .with(0, &["nothing was removed"]);
    fs::rename(&lost, &history).unwrap();
    #[cfg(feature = "failpoints")]
    for step in ["purge::manifest", "purge::wal", "abandon::history"] {
        stage.killed_at(step, &["drop-timeline", "2", "--yes"]).await;
        stage
            .archive_file(&locked_out)
            .with(1, &["was replaced", "drop-timeline 2"]);
    }
    stage.walmgr(&["drop-timeline", "2", "--yes"]).with(0, &[]);

    // The server that was locked out is let in by itself, and everything is there.
    stage.archived(&locked_out).await;
    let rows = stage.walmgr(&["--json", "stores"]).json();
    let rows = rows.as_array().unwrap();
    assert_eq!(rows.len(), 1, "{rows:?}");
    assert_eq!(
        (&rows[0]["timeline"], &rows[0]["missing"]),
        (&1.into(), &0.into())
    );
    assert_eq!(labels(&stage).len(), 1);
    stage.walmgr(&["verify"]).with(0, &[]);
    stage
        .walmgr(&["drop-timeline", "2", "--yes"])
        .with(1, &["no store has timeline 2"]);
}

/// Prevents: after a failover, while the archiver hangs, the stores do not know the newest timeline, and what it comes from
/// looks like the end of a trial.
#[tokio::test]
async fn what_the_living_servers_timeline_comes_from_is_not_dropped() {
    let stage = stage(Options::default()).await;
    backup(&stage);
    flush(&stage).await;
    restore(&stage, "latest", "second", &[]).with(0, &[]);
    let second = promoted(&stage, "second").await;
    history(&second.0, "two").await;
    restore(&stage, "latest", "third", &[]).with(0, &[]);
    drop(second);
    // On timeline 3, which no store has heard of.
    let third = stage.recovered("third").await;
    let by = format!("master_db={}", third.0.dsn("postgres"));
    for timeline in ["1", "2"] {
        stage
            .walmgr(&["--set", &by, "drop-timeline", timeline, "--yes"])
            .with(1, &["is on timeline 3, which comes from it"]);
    }
    let stranger = Server::start(Options {
        own_identity: true,
        ..Options::default()
    })
    .await
    .unwrap();
    let by = format!("master_db={}", stranger.dsn("postgres"));
    stage
        .walmgr(&["--set", &by, "drop-timeline", "2", "--yes"])
        .with(1, &["system identifier"]);
    assert_eq!(fs::read_dir(stage.store().join("history")).unwrap().count(), 1);
}
