//! The slot and the publication: none free, gone, moved, lost, or another server's.

use std::path::Path;
use std::process::Command;

use skytide_fixtures::server::{Options, Server, StopMode};
use skytide_fixtures::wait;

use super::stage::{PATIENCE, Stage, skytide};
use super::{COUNT, usual};

#[tokio::test]
async fn without_a_free_slot_the_worker_says_so_and_leaves() {
    let stage = Stage::nodes(usual().with("max_replication_slots", 1)).await;
    stage
        .run("root", "select pg_create_physical_replication_slot('taken')")
        .await;
    stage.doctor("leaf").with(
        3,
        &[
            "max_replication_slots",
            "all 1 are in use",
            "pg_drop_replication_slot('taken')",
        ],
    );
    stage
        .worker_stops(&["all replication slots are in use", "max_replication_slots"])
        .await;
    stage
        .run("root", "select pg_drop_replication_slot('taken')")
        .await;
    let _worker = stage.sync_a();
}

#[tokio::test]
async fn a_dropped_slot_is_never_made_anew_in_silence() {
    let (stage, worker) = Stage::replicating(usual()).await;
    worker.stop().await;
    let slot = "pg_replication_slots where slot_name = 'skytide_q_leaf'";
    stage
        .run(
            "root",
            &format!("select pg_drop_replication_slot(slot_name) from {slot}"),
        )
        .await;
    stage.run("root", "insert into a values (1, 'x')").await;
    stage
        .worker_stops(&["slot skytide_q_leaf is gone", "resync --all"])
        .await;
    stage
        .doctor("leaf")
        .with(3, &["slot skytide_q_leaf", "is gone", "resync --all"]);
    assert_eq!(
        stage.count("root", &format!("select count(*) from {slot}")).await,
        0
    );

    // The fix it names works.
    stage.leaf(&["resync", "--all"]).well();
    let _worker = stage.worker();
    stage.leaf_gets(COUNT, 1).await;
}

/// What the root said of its set while the slot was gone is in no stream: the leaf's list is made the provider's.
#[tokio::test]
async fn a_lost_slot_leaves_no_wrong_list_of_the_set() {
    let stage = Stage::nodes(usual()).await;
    for name in ["root", "leaf"] {
        for table in ["b", "c", "d"] {
            let create = format!("create table {table} (id int primary key)");
            stage.run(name, &create).await;
        }
    }
    stage.root(&["add-table", "b"]).well();
    stage.leaf(&["add-table", "b"]).well();
    let worker = stage.sync_a();
    worker.stop().await;
    stage
        .run("root", "select pg_drop_replication_slot('skytide_q_leaf')")
        .await;
    stage.root(&["remove-table", "b"]).well();
    stage.root(&["add-table", "c", "d"]).well();
    stage.leaf(&["missing"]).with(0, &["public.c", "public.d"]);
    stage.root(&["remove-table", "d"]).well();
    let missing = stage.leaf(&["missing"]).with(0, &["public.c"]);
    assert!(!missing.out.contains("public.d"), "{missing:?}");
    for gone in ["b", "d"] {
        let refused = stage.leaf(&["add-table", gone]);
        refused.with(1, &[&format!("public.{gone} "), "not in the provider's set"]);
    }
    stage.leaf(&["resync", "--all"]).well();
    let _worker = stage.worker();
    stage
        .leaf_gets(
            "select count(*) from londiste.table_info where table_name = 'public.b'",
            0,
        )
        .await;
    stage.leaf(&["wait-sync", "--timeout", "30"]).well();
    stage.leaf(&["add-table", "--all", "--wait-sync"]).well();
    let tables = stage.leaf(&["tables"]).with(0, &["public.a", "public.c"]);
    assert!(!tables.out.contains("public.b"), "{tables:?}");
}

/// Prevents: a quiet queue that fills the disk of a busy server with WAL.
#[tokio::test]
async fn the_slot_moves_on_while_nothing_of_ours_changes() {
    for confirm in ["spooled", "applied"] {
        let mut stage = Stage::nodes(usual()).await;
        stage.extra = format!("confirm = {confirm}\n");
        let _worker = stage.sync_a();
        let bulk = "create table other as select repeat(md5(g::text), 30) from generate_series(1, 20000) g";
        stage.run("root", bulk).await;
        let client = stage.on("root").await;
        let row = client.query_one("select pg_current_wal_lsn()::text", &[]);
        let written: String = row.await.unwrap().get(0);
        let moved = format!(
            "select count(*) from pg_replication_slots \
             where slot_name = 'skytide_q_leaf' and confirmed_flush_lsn >= '{written}'"
        );
        let there = async || Ok(client.query_one(&moved, &[]).await?.get::<_, i64>(0));
        if let Err(error) = wait::until_eq(confirm, 1, PATIENCE, there).await {
            panic!("{error}\n{}", stage.log());
        }
    }
}

/// Prevents: a table whose changes stop coming, and nobody says so.
#[tokio::test]
async fn a_table_that_is_not_published_any_more_stops_the_worker() {
    let (stage, mut worker) = Stage::replicating(usual()).await;
    stage
        .run("root", "alter publication skytide_q drop table a")
        .await;
    assert_eq!(worker.ended().await, Some(1), "{}", stage.log());
    stage.run("root", "insert into a values (1, 'x')").await;
    stage
        .worker_stops(&[
            "table public.a is not in the provider's publication skytide_q",
            "add-table public.a",
            "resync public.a",
        ])
        .await;

    // The fix it names works.
    stage.root(&["add-table", "a"]).with(0, &["is again"]);
    stage.leaf(&["resync", "a"]).well();
    let _worker = stage.worker();
    stage.leaf_gets(COUNT, 1).await;
}

/// Prevents: a publication that leaves something out, by hand of somebody, and nobody says so.
#[tokio::test]
async fn a_publication_that_leaves_something_out_stops_the_worker() {
    let (stage, worker) = Stage::replicating(usual()).await;
    worker.stop().await;
    let mut narrowings = vec![(
        "set (publish = 'insert')",
        "set (publish = 'insert, update, delete, truncate')",
    )];
    if stage.server.version().major >= 15 {
        narrowings.push((
            "set table a where (id > 1)",
            "drop table a; alter publication \"skytide_q\" add table a",
        ));
        narrowings.push((
            "set table a (id)",
            "drop table a; alter publication \"skytide_q\" add table a",
        ));
    }
    for (narrowing, fix) in narrowings {
        stage
            .run("root", &format!("alter publication skytide_q {narrowing}"))
            .await;
        stage
            .worker_stops(&["publication skytide_q ", "changes do not come", fix])
            .await;
        stage
            .doctor("leaf")
            .with(3, &["skytide_q", "changes do not come", fix]);
        stage
            .run("root", &format!("alter publication skytide_q {fix}"))
            .await;
    }
    stage.leaf(&["resync", "--all"]).well();
    let _worker = stage.worker();
    stage.run("root", "insert into a values (1, 'x')").await;
    stage.leaf_gets(COUNT, 1).await;
}

/// Prevents: a worker that tries for ever, since the slot reads WAL as the catalogs were when it was written.
#[tokio::test]
async fn a_dropped_publication_is_named_with_the_way_out() {
    let (stage, worker) = Stage::replicating(usual()).await;
    worker.stop().await;
    stage.run("root", "drop publication skytide_q").await;
    stage.run("root", "insert into a values (1, 'x')").await;
    stage
        .worker_stops(&[
            "slot skytide_q_leaf cannot be read",
            "pg_drop_replication_slot('skytide_q_leaf')",
        ])
        .await;

    // The fix it names works.
    stage
        .run("root", "select pg_drop_replication_slot('skytide_q_leaf')")
        .await;
    stage.root(&["add-table", "a"]).with(0, &["is again"]);
    stage.leaf(&["resync", "--all"]).well();
    let _worker = stage.worker();
    stage.leaf_gets(COUNT, 1).await;
}

/// Prevents: the server passes over all that it writes up to where its WAL had been before it was restored.
#[tokio::test]
async fn a_provider_that_was_restored_from_an_older_state_is_noticed() {
    for catches_up in [false, true] {
        let stage = Stage::nodes(usual()).await;
        let worker = stage.sync_a();
        worker.stop().await;
        let data = stage.server.data_dir().to_owned();
        let kept = stage.server.home().join("kept");
        stage.server.stop(StopMode::Fast).await.unwrap();
        copy(&data, &kept);
        stage.server.start_again().await.unwrap();
        let worker = stage.worker();
        stage
            .run(
                "root",
                "insert into a select g, 'lost' from generate_series(1, 100) g",
            )
            .await;
        stage.leaf_gets(COUNT, 100).await;
        worker.stop().await;
        stage.server.stop(StopMode::Fast).await.unwrap();
        std::fs::remove_dir_all(&data).unwrap();
        std::fs::rename(&kept, &data).unwrap();
        stage.server.start_again().await.unwrap();
        if catches_up {
            // WAL goes on, and ticks, until both are beyond what was read.
            for _ in 0..8 {
                stage.run("root", "select pg_switch_wal()").await;
                stage.run("root", "create table w (); drop table w").await;
                for _ in 0..20 {
                    stage.run("root", "select pgq.tick_now('q')").await;
                }
            }
        }
        stage
            .worker_stops(&["the provider was restored from a state before", "resync --all"])
            .await;
        assert_eq!(stage.count("leaf", COUNT).await, 0);

        // The fix it names works.
        stage.leaf(&["resync", "--all"]).well();
        let _worker = stage.worker();
        stage.run("root", "insert into a values (1, 'x')").await;
        stage.leaf_gets(COUNT, 1).await;
    }
}

fn copy(from: &Path, to: &Path) {
    let done = Command::new("cp").arg("-a").args([from, to]).status().unwrap();
    assert!(done.success());
}

#[tokio::test]
async fn an_invalidated_slot_is_named_with_the_way_out() {
    let options = usual()
        .with("max_slot_wal_keep_size", "1MB")
        .with("min_wal_size", "32MB")
        .with("max_wal_size", "32MB");
    let (stage, worker) = Stage::replicating(options).await;
    worker.stop().await;
    stage
        .doctor("leaf")
        .with(0, &["max_slot_wal_keep_size", "loses its slot"]);
    for _ in 0..4 {
        stage
            .run("root", "create table w (); drop table w; select pg_switch_wal()")
            .await;
        stage.run("root", "checkpoint").await;
    }
    let lost = "select count(*) from pg_replication_slots where wal_status = 'lost'";
    assert_eq!(stage.count("root", lost).await, 1);
    stage
        .worker_stops(&[
            "slot skytide_q_leaf is lost",
            "max_slot_wal_keep_size",
            "resync --all",
        ])
        .await;
    stage.doctor("leaf").with(
        3,
        &["is lost", "select pg_drop_replication_slot('skytide_q_leaf')"],
    );
}

#[tokio::test]
async fn a_slot_moved_by_hand_is_a_gap() {
    let (stage, worker) = Stage::replicating(usual()).await;
    worker.stop().await;
    stage.run("root", "insert into a values (1, 'lost')").await;
    stage
        .run(
            "root",
            "select pg_replication_slot_advance('skytide_q_leaf', pg_current_wal_lsn())",
        )
        .await;
    stage
        .doctor("leaf")
        .with(3, &["changes are missing", "resync --all"]);
    stage
        .worker_stops(&[
            "slot skytide_q_leaf has moved",
            "changes are missing",
            "resync --all",
        ])
        .await;
    assert_eq!(stage.count("leaf", COUNT).await, 0);
}

#[tokio::test]
async fn another_server_under_the_same_name_is_refused() {
    let (stage, worker) = Stage::replicating(usual()).await;
    worker.stop().await;
    let other = Server::start(Options {
        own_identity: true,
        ..usual()
    })
    .await
    .unwrap();
    other.create_database("root").await.unwrap();
    let new = other.connect("root").await.unwrap();
    new.batch_execute("create table a (id int primary key, v text)")
        .await
        .unwrap();
    let dsn = other.dsn("root");
    skytide(&["install", &dsn]).well();
    let conf = stage.dir.path().join("other.ini");
    std::fs::write(
        &conf,
        format!("[londiste]\ndb = {dsn}\nqueue_name = q\njob_name = root_worker\n"),
    )
    .unwrap();
    let conf = conf.to_str().unwrap();
    skytide(&["londiste", conf, "create-root", "root", &dsn]).well();
    skytide(&["londiste", conf, "add-table", "a"]).well();
    let location = dsn.replace('\'', "''");
    stage
        .run(
            "leaf",
            &format!("select pgq_node.register_location('q', 'root', '{location}', false)"),
        )
        .await;
    stage
        .worker_stops(&["belongs to system identifier", "remove that one and resync"])
        .await;
    stage
        .doctor("leaf")
        .with(3, &["is the spool of server", "spool_dir"]);
    assert!(
        stage.spool().read_dir().unwrap().next().is_some(),
        "the spool was touched"
    );
}
