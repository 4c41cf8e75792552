//! Backups, restores and purges that are killed at any step.

use super::*;

#[tokio::test]
async fn a_backup_killed_at_any_step_is_none_or_whole() {
    let stage = stage(Options::default()).await;
    for step in [
        "backup::claimed",
        "durable::written",
        "durable::fsynced",
        "durable::named",
        "backup::object",
        "backup::copied",
        "backup::checked",
    ] {
        stage.killed_at(step, &["backup"]).await;
        assert!(labels(&stage).is_empty(), "{step}");
        stage.walmgr(&["verify"]).with(0, &[]);
        restore(&stage, "latest", "never", &[]).with(1, &["no backup yet"]);
    }
    stage.killed_at("backup::complete", &["backup"]).await;
    assert_eq!(labels(&stage).len(), 1);
    flush(&stage).await;
    restore(&stage, "latest", "restored", &[]).with(0, &[]);
    let restored = stage.recovered("restored").await;
    assert_eq!(content(&restored.0).await, content(&stage.server).await);
}

#[tokio::test]
async fn a_restore_killed_at_any_step_starts_no_server_and_is_gone_on_with() {
    let stage = stage(Options::default()).await;
    backup(&stage);
    flush(&stage).await;
    let data = stage.directory("restored").join("data");
    for step in [
        "restore::marked",
        "restore::prepared",
        "restore::written",
        "restore::synced",
    ] {
        let words = ["restore", "latest", data.to_str().unwrap(), "--delta"];
        stage.killed_at(step, &words).await;
        assert!(!data.join("global/pg_control").exists(), "{step}");
    }
    restore(&stage, "latest", "restored", &[]).with(1, &["is not empty"]);
    restore(&stage, "latest", "restored", &["--delta"]).with(0, &[]);
    let restored = stage.recovered("restored").await;
    assert_eq!(content(&restored.0).await, content(&stage.server).await);
}

#[tokio::test]
async fn a_purge_killed_at_any_step_breaks_no_kept_backup() {
    let stage = stage(Options::default()).await;
    let first = backup(&stage);
    flush(&stage).await;
    wait_a_label(&first).await;
    let second = backup(&stage);
    flush(&stage).await;
    // Without its note it is a backup as before.
    stage.killed_at("purge::note", &["purge", "--keep", "1"]).await;
    assert_eq!(labels(&stage), [first.clone(), second.clone()]);
    stage.walmgr(&["verify"]).with(0, &[]);
    restore(&stage, &first, "first", &[]).with(0, &[]);
    let restored = stage.recovered("first").await;
    assert_eq!(content(&restored.0).await, content(&stage.server).await);
    drop(restored);
    for step in ["purge::manifest", "purge::wal"] {
        stage.killed_at(step, &["purge", "--keep", "1"]).await;
        assert_eq!(labels(&stage), std::slice::from_ref(&second), "{step}");
        stage.walmgr(&["verify"]).with(0, &[]);
    }
    restore(&stage, "latest", "restored", &[]).with(0, &[]);
    let restored = stage.recovered("restored").await;
    assert_eq!(content(&restored.0).await, content(&stage.server).await);
}

/// Prevents: a purge that takes what a backup is built on, which was begun or has ended since it looked.
#[tokio::test]
async fn a_purge_and_a_backup_at_the_same_time_leave_every_backup_whole() {
    let stage = stage(Options::default()).await;
    let first = backup(&stage);
    flush(&stage).await;
    wait_a_label(&first).await;
    let second = backup(&stage);
    flush(&stage).await;
    let purge = ["purge", "--keep", "1"];
    let incremental = ["backup", "--incremental", "--parent", &first];

    let purging = stage.stopped_at("purge::unfinished", &purge).await;
    let begun = stage.stopped_at("backup::claimed", &incremental).await;
    purging.goes_on().with(1, &["was begun meanwhile"]);
    assert_eq!(labels(&stage), [first.clone(), second.clone()]);
    begun.goes_on().with(0, &[]);
    let newest = labels(&stage).pop().unwrap();
    wait_a_label(&newest).await;

    let ending = stage.stopped_at("backup::checked", &incremental).await;
    let purging = stage.stopped_at("purge::unfinished", &purge).await;
    ending.goes_on().with(0, &[]);
    purging.goes_on().with(0, &[]);
    assert!(labels(&stage).contains(&first), "two are built on it");
    flush(&stage).await;
    restore(&stage, "latest", "restored", &[]).with(0, &[]);
    let restored = stage.recovered("restored").await;
    assert_eq!(content(&restored.0).await, content(&stage.server).await);
}
