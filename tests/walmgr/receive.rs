//! Streaming replication into stores, up to the last record.

use std::fs;
use std::path::PathBuf;

use skytide_fixtures::server::{Options, Server};
use skytide_fixtures::wait;

use super::copy::{boundary, flush_lsn, in_step, same, wal_in};
use super::stage::{PATIENCE, Stage};

async fn stage() -> Stage {
    let stage = Stage::new().await;
    stage.configure_copy("");
    stage
}

async fn logged(stage: &Stage, words: &str) {
    let heard = wait::until("the receiver to say so", PATIENCE, async || {
        Ok(stage.log("receive").contains(words).then_some(()))
    })
    .await;
    if heard.is_err() {
        panic!("{words:?} is not in\n{}", stage.log("receive"));
    }
}

#[tokio::test]
async fn what_is_received_is_pg_wals_up_to_the_last_record() {
    let stage = stage().await;
    let receiver = stage.copier("receive", &[]);
    // There is no whole segment yet.
    in_step(&stage.server, &stage.store()).await;
    let said = stage.walmgr(&["--json", "stores"]).with(0, &[]).json();
    assert_eq!(
        (&said[0]["timeline"], &said[0]["segments"]),
        (&1.into(), &0.into()),
        "{said}"
    );
    assert!(
        said[0]["partial"].is_string() && said[0]["bytes"].as_u64() > Some(0),
        "{said}"
    );
    for rows in [10, 30_000, 1] {
        stage.segment(rows).await;
    }
    stage.run("insert into t (v) values ('the last one')").await;
    let end = in_step(&stage.server, &stage.store()).await;
    assert_eq!(end, boundary(&stage.store()).await);
    assert!(same(&wal_in(&stage.store(), 1).await, 1, &stage.server) >= 3);

    // Stopped and started again, beside an archiver that puts the same segments there.
    receiver.ends_politely().await;
    stage.segment(2000).await;
    stage.archive().await;
    let receiver = stage.copier("receive", &[]);
    let last = stage.segment(2000).await;
    stage.run("insert into t (v) values ('the very last one')").await;
    stage.archived(&last).await;
    in_step(&stage.server, &stage.store()).await;
    assert!(same(&wal_in(&stage.store(), 1).await, 1, &stage.server) >= 5);
    receiver.ends_politely().await;
    let client = stage.client().await;
    let row = client
        .query_one(
            "select count(*), bool_or(active) from pg_replication_slots where slot_name = 'skytide_receive'",
            &[],
        )
        .await
        .unwrap();
    assert_eq!((row.get(0), row.get(1)), (1_i64, false));
}

#[tokio::test]
async fn a_promoted_standby_is_followed_to_its_new_timeline() {
    let stage = Stage::new().await;
    stage.segment(100).await;
    let base = stage.base().await;
    let settings = [("wal_keep_size", "1GB")];
    let standby = stage.standby(&base, "standby", &settings).await;
    stage.configure(&format!("master_db = {}", standby.0.dsn("postgres")));
    let receiver = stage.copier("receive", &[]);
    stage.segment(3000).await;
    stage.run("insert into t (v) values ('before')").await;
    let wanted = flush_lsn(&stage.server).await;
    wait::until("the store to have it from the standby", PATIENCE, async || {
        Ok((boundary(&stage.store()).await >= wanted).then_some(()))
    })
    .await
    .unwrap();

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
    in_step(&standby.0, &stage.store()).await;
    assert!(stage.store().join("history/00000002.history.zst").is_file());
    let old = wal_in(&stage.store(), 1).await;
    let new = wal_in(&stage.store(), 2).await;
    assert!(same(&new, 2, &standby.0) >= 2);
    // The new timeline's first file begins with all that the old one's last has.
    let (number, last) = old.iter().next_back().unwrap();
    assert!(new[number].starts_with(last), "segment {number}");
    receiver.ends_politely().await;

    // From the new primary it goes on; the old one is refused.
    let receiver = stage.copier("receive", &[]);
    client
        .batch_execute("insert into t (v) values ('again')")
        .await
        .unwrap();
    in_step(&standby.0, &stage.store()).await;
    receiver.ends_politely().await;
    stage.configure_copy("receive_slot =");
    stage
        .walmgr(&["receive"])
        .with(1, &["timeline 2", "the server was replaced", "HINT"]);
}

#[tokio::test]
async fn a_store_that_was_away_gets_what_it_missed() {
    let stage = Stage::new().await;
    let (first, second) = (stage.store(), stage.path("second"));
    let both = format!(
        "stores = {}, {}\nstores_needed = 1",
        first.display(),
        second.display()
    );
    stage.configure_copy(&both);
    stage.walmgr(&["create-store"]).with(0, &[]);
    let receiver = stage.copier("receive", &[]);
    stage.segment(1000).await;
    in_step(&stage.server, &second).await;
    let away = stage.path("away");
    fs::rename(&second, &away).unwrap();
    // The next piece misses it: the file that it has open is not where readers look.
    stage.run("insert into t (v) values ('while it was away')").await;
    logged(&stage, "a store takes no WAL").await;
    for rows in [1000, 5000] {
        stage.segment(rows).await;
    }
    in_step(&stage.server, &first).await;
    fs::rename(&away, &second).unwrap();
    in_step(&stage.server, &second).await;
    for store in [&first, &second] {
        assert!(same(&wal_in(store, 1).await, 1, &stage.server) >= 3);
    }

    // Without any store it waits, and says so.
    fs::rename(&first, stage.path("first-away")).unwrap();
    fs::rename(&second, &away).unwrap();
    stage.segment(10).await;
    logged(&stage, "no store takes WAL").await;
    fs::rename(stage.path("first-away"), &first).unwrap();
    fs::rename(&away, &second).unwrap();
    for store in [&first, &second] {
        in_step(&stage.server, store).await;
        assert!(same(&wal_in(store, 1).await, 1, &stage.server) >= 3);
    }
    receiver.ends_politely().await;
}

#[tokio::test]
async fn the_slot_does_not_fill_the_primarys_disk() {
    let stage = Stage::new().await;
    stage.configure_copy("receive_slot_limit = 1MiB");
    stage.run("alter system set wal_keep_size = '1GB'").await;
    stage.run("select pg_reload_conf()").await;
    let receiver = stage.copier("receive", &[]);
    stage.segment(100).await;
    in_step(&stage.server, &stage.store()).await;
    let client = stage.client().await;
    let slots = async || -> anyhow::Result<i64> {
        let row = client
            .query_one("select count(*) from pg_replication_slots", &[])
            .await?;
        Ok(row.get(0))
    };
    assert_eq!(slots().await.unwrap(), 1);
    let away = stage.path("away");
    fs::rename(stage.store(), &away).unwrap();
    stage.run("insert into t (v) values ('missed')").await;
    logged(&stage, "takes no WAL").await;
    for _ in 0..2 {
        stage.segment(10_000).await;
    }
    stage.run("insert into t (v) values ('held')").await;
    wait::until_eq("slots", 0, PATIENCE, slots).await.unwrap();
    logged(&stage, "dropped the replication slot").await;
    fs::rename(&away, stage.store()).unwrap();
    in_step(&stage.server, &stage.store()).await;
    wait::until_eq("slots", 1, PATIENCE, slots).await.unwrap();
    assert!(same(&wal_in(&stage.store(), 1).await, 1, &stage.server) >= 2);
    receiver.ends_politely().await;
}

/// Prevents: a store that takes everything, only too slowly, fills the primary's disk.
#[cfg(feature = "failpoints")]
#[tokio::test]
async fn a_slow_store_is_told_of_and_does_not_fill_the_primarys_disk() {
    let stage = Stage::new().await;
    stage.configure_copy("receive_slot_limit = 2MiB");
    stage.run("alter system set wal_keep_size = '1GB'").await;
    stage.run("select pg_reload_conf()").await;
    let slow = "store::piece_written=sleep(1000);durable::written=sleep(1000)";
    let receiver = stage.copier("receive", &[("FAILPOINTS", slow)]);
    let client = stage.client().await;
    let slots = async || -> anyhow::Result<i64> {
        let row = client
            .query_one("select count(*) from pg_replication_slots", &[])
            .await?;
        Ok(row.get(0))
    };
    wait::until_eq("slots", 1, PATIENCE, slots).await.unwrap();
    stage.segment(100).await;
    in_step(&stage.server, &stage.store()).await;
    for _ in 0..14 {
        stage.segment(10_000).await;
    }
    logged(&stage, "more than the limit of 2097152").await;
    logged(&stage, "dropped the replication slot").await;
    drop(receiver);
    // A long way to go is no reason to give the slot up.
    let receiver = stage.copier("receive", &[]);
    in_step(&stage.server, &stage.store()).await;
    wait::until_eq("slots", 1, PATIENCE, slots).await.unwrap();
    assert!(same(&wal_in(&stage.store(), 1).await, 1, &stage.server) >= 8);
    receiver.ends_politely().await;
}

#[tokio::test]
async fn another_cluster_is_refused() {
    let stage = stage().await;
    let receiver = stage.copier("receive", &[]);
    stage.segment(10).await;
    in_step(&stage.server, &stage.store()).await;
    receiver.ends_politely().await;
    let stranger = Options {
        own_identity: true,
        ..Options::default()
    };
    let stranger = Server::start(stranger).await.unwrap();
    stage.configure(&format!("master_db = {}", stranger.dsn("postgres")));
    stage
        .walmgr(&["receive"])
        .with(1, &["system identifier", "stores"]);
    stage.configure("");
    stage.walmgr(&["receive"]).with(2, &["master_db"]);
}

#[tokio::test]
async fn status_says_what_would_be_lost_now() {
    let stage = stage().await;
    let status = |words: &[&str]| {
        let said = stage.walmgr(&[&["--json", "status"], words].concat());
        let rows: serde_json::Value = serde_json::from_str(&said.out).unwrap_or_else(|_| panic!("{said:?}"));
        rows[0].clone()
    };
    let receiver = stage.copier("receive", &[]);
    stage.segment(100).await;
    stage.run("insert into t (v) values ('x')").await;
    let end = in_step(&stage.server, &stage.store()).await;
    let row = status(&[]);
    assert_eq!(row["still_open"], false, "{row}");
    assert!(row["window_ms"].as_u64().is_some(), "{row}");
    assert!(row["last_commit"].as_str().unwrap().ends_with("+00"), "{row}");
    receiver.ends_politely().await;

    stage.segment(1000).await;
    let row = status(&["--wait", "0"]);
    let behind = flush_lsn(&stage.server).await.bytes_since(end).unwrap();
    assert_eq!(row["still_open"], true, "{row}");
    let bytes = row["window_bytes"].as_u64().unwrap();
    assert!(bytes > 8192 && bytes <= behind, "{row}, now {behind}");
    stage.server.kill().unwrap();
    let row = status(&[]);
    assert_eq!(
        (&row["window_bytes"], &row["error"]),
        (&serde_json::Value::Null, &serde_json::Value::Null)
    );
    assert_eq!(row["safe_lsn"], boundary(&stage.store()).await.to_string());
}

#[cfg(feature = "failpoints")]
mod crash {
    use super::*;

    /// Every place where the receiver may die, and how often it is passed before.
    const STEPS: [(&str, u32); 12] = [
        ("store::piece_written", 1),
        ("store::piece_written", 3),
        ("tail::appended", 1),
        ("tail::appended", 4),
        ("receive::reported", 3),
        ("durable::written", 1),
        ("durable::fsynced", 1),
        ("durable::named", 1),
        ("durable::synced", 1),
        ("tail::sealed", 1),
        ("tail::settled", 1),
        ("tail::settled", 2),
    ];

    #[tokio::test]
    async fn a_receiver_killed_at_any_step_leaves_no_hole() {
        let stage = stage().await;
        stage.run("alter system set wal_keep_size = '2GB'").await;
        stage.run("select pg_reload_conf()").await;
        stage.segment(10).await;
        for (step, hits) in STEPS {
            let at = format!("{step}={hits}");
            let mut receiver = stage.copier("receive", &[("SKYTIDE_STOP_AT", &at)]);
            for rows in [300, 700] {
                stage.segment(rows).await;
                stage.run("insert into t (v) values ('between')").await;
            }
            receiver.stands_still().await;
            receiver.kill();
            let found = wal_in(&stage.store(), 1).await;
            if !found.is_empty() {
                same(&found, 1, &stage.server);
            }
        }
        let receiver = stage.copier("receive", &[]);
        in_step(&stage.server, &stage.store()).await;
        let compared = same(&wal_in(&stage.store(), 1).await, 1, &stage.server);
        assert!(compared >= 2 * STEPS.len(), "{compared}");
        let partials = stage.store().join("partial/00000001");
        wait::until("whole segments without partials", PATIENCE, async || {
            Ok((fs::read_dir(&partials)?.count() <= 1).then_some(()))
        })
        .await
        .unwrap();
        receiver.ends_politely().await;
    }
    /// A partial whose segment is there as a whole has done its service, sound or not.
    #[tokio::test]
    async fn a_damaged_partial_gives_way_to_its_whole_segment() {
        let stage = stage().await;
        let mut receiver = stage.copier("receive", &[("SKYTIDE_STOP_AT", "tail::sealed=1")]);
        in_step(&stage.server, &stage.store()).await;
        stage.segment(10).await;
        receiver.stands_still().await;
        receiver.kill();

        let partials = stage.store().join("partial/00000001");
        let whole = |partial: &PathBuf| {
            let segment = partial.file_name().unwrap().to_str().unwrap();
            stage.stored(segment)
        };
        let left: Vec<PathBuf> = fs::read_dir(&partials)
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .filter(|partial| whole(partial).exists())
            .collect();
        let [left] = &left[..] else {
            panic!("one partial beside its whole segment, not {left:?}");
        };
        let mut bytes = fs::read(left).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(left, &bytes).unwrap();

        let receiver = stage.copier("receive", &[]);
        logged(&stage, "is damaged").await;
        wait::until("the partial to go", PATIENCE, async || {
            Ok((!left.exists()).then_some(()))
        })
        .await
        .unwrap();
        stage.run("insert into t (v) values ('after')").await;
        in_step(&stage.server, &stage.store()).await;
        assert!(same(&wal_in(&stage.store(), 1).await, 1, &stage.server) >= 2);
        receiver.ends_politely().await;
    }
}
