//! A dead server's last WAL.

use std::fs;

use skytide_fixtures::server::StopMode;
use skytide_sql::Lsn;

use super::copy::{boundary, flush_lsn, in_step, same, wal_in};
use super::stage::{Stage, content};

fn report(stage: &Stage) -> serde_json::Value {
    let said = stage.walmgr(&["--json", "salvage"]).with(0, &[]);
    serde_json::from_str(&said.out).unwrap_or_else(|_| panic!("{said:?}"))
}

#[tokio::test]
async fn what_a_killed_server_had_on_disk_is_saved() {
    let stage = Stage::new().await;
    stage.configure_copy("");
    stage.segment(50).await;
    let base = stage.base().await;
    // The store has the beginning; then nobody copies any more.
    let receiver = stage.copier("receive", &[]);
    stage.run("insert into t (v) values ('copied')").await;
    in_step(&stage.server, &stage.store()).await;
    receiver.ends_politely().await;
    stage
        .walmgr(&["salvage"])
        .with(1, &["the postmaster lives", "HINT"]);
    for rows in [4000, 1, 20_000] {
        stage.segment(rows).await;
    }
    stage.run("insert into t (v) values ('the last one')").await;
    let wanted = content(&stage.server).await;
    let flushed = flush_lsn(&stage.server).await;
    stage.server.kill().unwrap();

    let done = report(&stage);
    let end: Lsn = done["end_lsn"].as_str().unwrap().parse().unwrap();
    assert!(end >= flushed, "{done}: {flushed} was flushed");
    assert_eq!(done["stores"][0]["complete"], true, "{done}");
    assert!(done["last_commit"].is_string(), "{done}");
    assert_eq!(boundary(&stage.store()).await, end);
    assert!(same(&wal_in(&stage.store(), 1).await, 1, &stage.server) >= 3);
    // Once more: nothing is left to do.
    assert_eq!(report(&stage)["stores"][0]["copied_bytes"], 0);
    let restored = stage.restored(&base, "restored", &[]).await;
    assert_eq!(content(&restored.0).await, wanted);
    drop(restored);

    // The server's own recovery ends there, too.
    stage.server.start_again().await.unwrap();
    assert_eq!(content(&stage.server).await, wanted);
    let own = stage.server.log_tail();
    let padded = format!("invalid record length at {end}");
    assert!(own.contains(&padded), "{padded} is not in\n{own}");
}

#[tokio::test]
async fn an_empty_store_gets_what_recovery_needs() {
    let stage = Stage::new().await;
    stage.configure_copy("");
    stage.segment(1000).await;
    stage.run("checkpoint").await;
    stage.run("insert into t (v) values ('the last one')").await;
    let flushed = flush_lsn(&stage.server).await;
    stage.server.kill().unwrap();
    let done = report(&stage);
    assert!(boundary(&stage.store()).await >= flushed, "{done}");
    assert!(same(&wal_in(&stage.store(), 1).await, 1, &stage.server) >= 1);
    // A table for people.
    let said = stage.walmgr(&["salvage"]).with(0, &[]);
    assert!(said.out.contains("had everything"), "{said:?}");
    assert!(said.out.contains("in production"), "{said:?}");
}

#[tokio::test]
async fn a_server_that_was_stopped_is_salvaged_to_its_checkpoint() {
    let stage = Stage::new().await;
    stage.configure_copy("");
    stage.segment(10).await;
    stage.server.stop(StopMode::Fast).await.unwrap();
    let done = report(&stage);
    assert_eq!(done["state"], "shut down", "{done}");
    assert_eq!(done["behind_end"], "unwritten space", "{done}");
}

#[tokio::test]
async fn damage_in_the_middle_is_no_end() {
    let stage = Stage::new().await;
    stage.configure_copy("");
    stage.run("checkpoint").await;
    let name = stage.segment(10_000).await;
    stage.segment(10).await;
    stage.server.kill().unwrap();
    let file = stage.server.data_dir().join("pg_wal").join(&name);
    let whole = fs::read(&file).unwrap();
    let mut damaged = whole.clone();
    let data = whole.iter().rposition(|byte| *byte != 0).unwrap();
    damaged[data - 100_000] ^= 1;
    fs::write(&file, damaged).unwrap();
    stage
        .walmgr(&["salvage"])
        .with(1, &["damaged", "the WAL goes on with a good record", "HINT"]);
    fs::write(&file, whole).unwrap();
    assert_eq!(report(&stage)["stores"][0]["complete"], true);
}

#[tokio::test]
async fn a_promoted_server_is_salvaged_with_the_timeline_it_came_from() {
    let stage = Stage::new().await;
    let first = stage.segment(50).await;
    stage.archive_file(&first).with(0, &[]);
    let base = stage.base().await;
    let settings = [("wal_keep_size", "1GB")];
    let standby = stage.standby(&base, "standby", &settings).await;
    // Nothing of this is archived: it is on the standby's disk.
    for rows in [3000, 100] {
        stage.segment(rows).await;
    }
    super::course::in_step(&stage.server, &standby.0).await;
    stage.server.kill().unwrap();
    let client = standby.0.connect("postgres").await.unwrap();
    client.batch_execute("select pg_promote()").await.unwrap();
    client
        .batch_execute("insert into t (v) values ('after'); select pg_switch_wal()")
        .await
        .unwrap();
    client
        .batch_execute("insert into t (v) values ('the last one')")
        .await
        .unwrap();
    let wanted = content(&standby.0).await;
    let flushed = flush_lsn(&standby.0).await;
    standby.0.kill().unwrap();

    let data = standby.0.data_dir().display();
    stage.configure(&format!("master_data = {data}"));
    let done = report(&stage);
    assert_eq!(
        (&done["timeline"], &done["stores"][0]["complete"]),
        (&2.into(), &true.into()),
        "{done}"
    );
    assert!(boundary(&stage.store()).await >= flushed, "{done}");
    assert!(stage.store().join("history/00000002.history.zst").is_file());
    let (old, new) = (wal_in(&stage.store(), 1).await, wal_in(&stage.store(), 2).await);
    assert!(old.len() >= 3 && same(&new, 2, &standby.0) >= 2, "{done}");
    // The segment that holds the switch is the new timeline's, with all of the old one's in it.
    assert_eq!(
        new.keys().next(),
        old.keys().next_back().map(|last| last + 1).as_ref()
    );
    assert_eq!(report(&stage)["stores"][0]["copied_bytes"], 0);
    let restored = stage.restored(&base, "restored", &[]).await;
    assert_eq!(content(&restored.0).await, wanted);
}
