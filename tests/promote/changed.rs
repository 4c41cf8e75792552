//! What was planned, and what has come since: commits that were acknowledged are not undone by an old plan.

use std::collections::BTreeSet;

use skytide_fixtures::server::Server;
use skytide_fixtures::wait;

use super::trio::{Trio, cut, in_recovery, missing, replicates, rows};
use crate::walmgr::stage::PATIENCE;

/// Until a standby streams from this primary.
async fn streams(primary: &Server, standby: &str) {
    wait::until("the standby to stream", PATIENCE, async || {
        let client = primary.connect("postgres").await?;
        let sql = "select from pg_stat_replication where application_name = $1 and state = 'streaming'";
        Ok(client.query_opt(sql, &[&standby]).await?.map(drop))
    })
    .await
    .unwrap();
}

/// Rows that `a` acknowledges when `c` has them, though it lives on alone with that one.
async fn acknowledged_by_c(trio: &Trio, first: i64) -> BTreeSet<i64> {
    let client = trio.a().connect("postgres").await.unwrap();
    client
        .batch_execute("alter system set synchronous_standby_names = 'c'")
        .await
        .unwrap();
    client.batch_execute("select pg_reload_conf()").await.unwrap();
    wait::until("c to be waited for", PATIENCE, async || {
        let sql = "select from pg_stat_replication where sync_state = 'sync'";
        Ok(client.query_opt(sql, &[]).await?.map(drop))
    })
    .await
    .unwrap();
    let ids: BTreeSet<i64> = (first..first + 5).collect();
    for id in &ids {
        client
            .execute("insert into k (id) values ($1)", &[id])
            .await
            .unwrap();
    }
    ids
}

/// A promotion of `b` is left when it has come to `failed`; the primary comes back, and `b` is cut off from it.
async fn left_and_overtaken(trio: &Trio, failed: bool) -> BTreeSet<i64> {
    trio.a().kill().unwrap();
    match failed {
        true => {
            trio.configure(false, "fence_command = /bin/false");
            trio.promote(&["--yes"]).with(1, &["/bin/false failed"]);
        }
        false => {
            trio.configure(false, &trio.fence());
            let promote = ["promote", "--yes", "--to", "b"];
            trio.stage.killed_at("promote::fence-noted", &promote).await;
        }
    }
    trio.a().start_again().await.unwrap();
    streams(trio.a(), "c").await;
    cut(&trio.b.0).await;
    let acknowledged = acknowledged_by_c(trio, 100).await;
    trio.a().kill().unwrap();
    trio.configure(false, &trio.fence());
    acknowledged
}

#[tokio::test]
async fn a_promotion_that_came_to_nothing_is_planned_anew() {
    let trio = Trio::new().await;
    let acknowledged = left_and_overtaken(&trio, true).await;
    trio.promote(&["--yes"])
        .with(0, &["does not go on", "nothing of it was done"]);
    assert_eq!(trio.fenced(), ["a c"]);
    assert_eq!(missing(&trio.c.0, &acknowledged).await, BTreeSet::new());
    replicates(&trio.c.0, &[&trio.b.0], -1).await;
}

#[tokio::test]
async fn a_promotion_that_knows_less_than_there_is_is_planned_anew() {
    let trio = Trio::new().await;
    let acknowledged = left_and_overtaken(&trio, false).await;
    let plan = trio.promote(&["--dry-run"]).with(0, &["does not go on"]);
    assert!(plan.out.contains("promote c"), "{plan:?}");
    trio.promote(&["--yes"])
        .with(0, &["does not go on", "node c has WAL up to"]);
    assert_eq!(
        trio.fenced(),
        ["a b", "a c"],
        "that of the plan before may be over"
    );
    assert_eq!(missing(&trio.c.0, &acknowledged).await, BTreeSet::new());
    replicates(&trio.c.0, &[&trio.b.0], -1).await;
}

#[tokio::test]
async fn a_promotion_that_goes_on_keeps_its_node() {
    let trio = Trio::new().await;
    trio.a().kill().unwrap();
    trio.configure(true, &trio.fence());
    let promote = ["promote", "--yes", "--to", "b"];
    trio.stage.killed_at("promote::fence-noted", &promote).await;
    trio.promote(&["--yes", "--to", "c"])
        .with(1, &["a promotion of b has begun", "HINT"]);
    trio.promote(&["--yes"])
        .with(0, &["the promotion of b that was begun"]);
    assert_eq!(trio.fenced(), ["a b"]);
    replicates(&trio.b.0, &[&trio.c.0], -1).await;
}

#[tokio::test]
async fn a_standby_with_commits_that_nobody_knew_of_is_not_rewound() {
    let trio = Trio::new().await;
    trio.configure(false, &trio.fence());
    // pg_rewind reads it from the last common checkpoint on.
    let c = trio.c.0.connect("postgres").await.unwrap();
    c.batch_execute("alter system set wal_keep_size = '256MB'")
        .await
        .unwrap();
    c.batch_execute("select pg_reload_conf()").await.unwrap();
    drop(c);
    trio.a().kill().unwrap();
    let promote = ["promote", "--yes", "--to", "b"];
    trio.stage.killed_at("promote::write-noted", &promote).await;
    assert!(!in_recovery(&trio.b.0).await);
    // The fence did not hold.
    trio.a().start_again().await.unwrap();
    streams(trio.a(), "c").await;
    let acknowledged = acknowledged_by_c(&trio, 100).await;
    trio.a().kill().unwrap();
    trio.promote(&["--yes"])
        .with(1, &["node c has 5 committed transactions", "--discard-commits"]);
    assert_eq!(missing(&trio.c.0, &acknowledged).await, BTreeSet::new());
    let done = trio.promote(&["--yes", "--discard-commits"]).with(0, &[]);
    assert!(done.err.contains("c was rewound"), "{done:?}");
    assert_eq!(missing(&trio.c.0, &acknowledged).await, acknowledged);
    replicates(&trio.b.0, &[&trio.c.0], -1).await;
}

#[tokio::test]
async fn a_primary_that_comes_back_while_the_question_stands_is_seen() {
    let trio = Trio::new().await;
    trio.configure(true, &trio.fence());
    trio.a().kill().unwrap();
    let asked = trio.stage.asks(&["promote"]);
    trio.a().start_again().await.unwrap();
    streams(trio.a(), "b").await;
    asked
        .answered("y\n")
        .with(1, &["node a is a primary, and answers"]);
    assert!(!trio.has_journal() && trio.fenced().is_empty());

    // And one that came and went.
    trio.a().kill().unwrap();
    let asked = trio.stage.asks(&["promote"]);
    trio.a().start_again().await.unwrap();
    let client = trio.a().connect("postgres").await.unwrap();
    client
        .batch_execute("insert into k (id) values (100)")
        .await
        .unwrap();
    trio.a().kill().unwrap();
    asked
        .answered("y\n")
        .with(1, &["has changed since the question was asked"]);
    assert!(!trio.has_journal() && trio.fenced().is_empty());
    assert!(in_recovery(&trio.b.0).await && in_recovery(&trio.c.0).await);

    let asked = trio.stage.asks(&["promote", "--to", "b"]);
    asked.answered("y\n").with(0, &[]);
    let known = BTreeSet::from([100]);
    assert_eq!(missing(&trio.b.0, &known).await, BTreeSet::new());
    replicates(&trio.b.0, &[&trio.c.0], -1).await;
}

#[tokio::test]
async fn a_primary_that_comes_back_on_the_way_is_seen_before_another_is_made() {
    let trio = Trio::new().await;
    trio.configure(true, &trio.fence());
    trio.a().kill().unwrap();
    let promote = ["promote", "--yes", "--to", "b"];
    let promoting = trio.stage.stopped_at("promote::bring-noted", &promote).await;
    trio.a().start_again().await.unwrap();
    let client = trio.a().connect("postgres").await.unwrap();
    client
        .batch_execute("insert into k (id) values (100)")
        .await
        .unwrap();
    promoting
        .goes_on()
        .with(1, &["there is a primary, a", "--rejoin"]);
    assert!(in_recovery(&trio.b.0).await && in_recovery(&trio.c.0).await);
    trio.promote(&["--yes"]).with(1, &["there is a primary, a"]);

    // It goes again, and what it had meanwhile is not lost.
    trio.a().kill().unwrap();
    trio.promote(&["--yes"]).with(0, &["does not go on"]);
    let (new, other) = match in_recovery(&trio.b.0).await {
        false => (&trio.b.0, &trio.c.0),
        true => (&trio.c.0, &trio.b.0),
    };
    assert_eq!(missing(new, &BTreeSet::from([100])).await, BTreeSet::new());
    replicates(new, &[other], -1).await;
}

/// `b` is promoted, and `c` cannot follow it yet.
async fn one_is_left_behind(trio: &Trio) {
    let c = trio.c.0.connect("postgres").await.unwrap();
    c.batch_execute("alter system set recovery_min_apply_delay = '1d'")
        .await
        .unwrap();
    c.batch_execute("select pg_reload_conf()").await.unwrap();
    trio.stage.run("insert into k values (1)").await;
    streams(trio.a(), "c").await;
    trio.a().kill().unwrap();
    trio.configure(true, &format!("{}\nwait_timeout = 2s", trio.fence()));
    trio.promote(&["--yes", "--to", "b"])
        .with(1, &["c: ", "recovery_min_apply_delay"]);
    c.batch_execute("alter system reset recovery_min_apply_delay")
        .await
        .unwrap();
    c.batch_execute("select pg_reload_conf()").await.unwrap();
}

#[tokio::test]
async fn a_node_that_is_put_behind_by_hand_ends_the_promotion() {
    let trio = Trio::new().await;
    one_is_left_behind(&trio).await;
    trio.promote(&["--rejoin", "c"]).with(0, &[]);
    trio.promote(&["--yes"])
        .with(0, &["was promoted before, and every step of it is done"]);
    replicates(&trio.b.0, &[&trio.c.0], -1).await;
}

/// Prevents: a cluster that nobody can promote, because the node of an unfinished promotion has died since.
#[tokio::test]
async fn a_promotion_whose_node_has_died_does_not_stand_in_the_way() {
    let trio = Trio::new().await;
    one_is_left_behind(&trio).await;
    trio.b.0.kill().unwrap();
    let plan = trio
        .promote(&["--dry-run"])
        .with(0, &["is no primary that answers"]);
    assert!(plan.out.contains("promote c"), "{plan:?}");
    trio.promote(&["--yes", "--to", "c"])
        .with(0, &["does not go on", "is no primary that answers"]);
    assert!(!in_recovery(&trio.c.0).await);
    let all = rows(&trio.c.0).await.unwrap();
    assert!(all.contains(&1), "{all:?}");
}
