//! Faults as a user meets them: exit code, object and fix in the message, nothing changed, and the doctor
//! that finds them beforehand. docs/faults.md lists them.

mod alter;
mod refused;
mod rights;
mod schemas;
mod slot;
mod spool;
mod stage;

use skytide_fixtures::server::Options;
use skytide_fixtures::wait;

use stage::{PATIENCE, Stage};

const COUNT: &str = "select count(*) from a";

fn usual() -> Options {
    Options::default()
}

#[tokio::test]
async fn a_compare_says_of_a_table_that_it_is_not_in_sync() {
    let stage = Stage::nodes(usual()).await;
    stage.leaf(&["add-table", "a"]).well();
    stage
        .leaf(&["compare", "a"])
        .with(1, &["not in sync yet: public.a (missing)", "wait-sync"]);
    stage.leaf(&["compare", "x"]).with(1, &["no such table here: x"]);
}

#[tokio::test]
async fn a_table_that_is_gone_from_the_subscriber_stops_the_worker_and_a_column_is_told() {
    let (stage, mut worker) = Stage::replicating(usual()).await;
    stage.run("leaf", "alter table a drop column v").await;
    stage.doctor("leaf").with(
        0,
        &[
            "public.a.v",
            "is missing on the subscriber",
            "alter table \"public\".\"a\" add column \"v\" text;",
            "resync public.a",
        ],
    );
    stage.run("root", "insert into a values (1, 'x')").await;
    stage.leaf_gets(COUNT, 1).await;
    assert!(
        stage.log().contains("the subscriber lacks them"),
        "{}",
        stage.log()
    );
    stage
        .leaf(&["compare"])
        .with(0, &["table public.a: only one side has v; not compared", "equal"]);

    stage.run("leaf", "drop table a").await;
    stage.run("root", "insert into a values (2, 'y')").await;
    assert_eq!(worker.ended().await, Some(1), "{}", stage.log());
    stage
        .doctor("leaf")
        .with(3, &["public.a", "does not exist on the subscriber", "pg_dump -s"]);
    stage
        .worker_stops(&["table public.a does not exist on the subscriber", "create it"])
        .await;

    // Mended, it goes on where it was.
    stage
        .run("leaf", "create table a (id int primary key, v text)")
        .await;
    let _worker = stage.worker();
    stage.leaf_gets("select count(*) from a where id = 2", 1).await;
}

#[tokio::test]
async fn rows_missing_on_the_subscriber_are_counted_and_told() {
    let (stage, _worker) = Stage::replicating(usual()).await;
    stage.run("root", "insert into a values (1, 'x'), (2, 'y')").await;
    stage.leaf_gets(COUNT, 2).await;
    stage
        .run(
            "leaf",
            "set session_replication_role = replica; delete from a where id = 1",
        )
        .await;
    stage.run("root", "update a set v = 'z'").await;
    stage.leaf_gets("select count(*) from a where v = 'z'", 1).await;
    wait::until("the warning", PATIENCE, async || {
        let log = stage.log();
        anyhow::ensure!(log.contains("found no row on the subscriber"), "{log}");
        Ok(Some(()))
    })
    .await
    .unwrap();
    stage.leaf(&["compare"]).with(3, &["public.a"]);
}

/// Waits until the answer has `words`, and returns it.
async fn http_says(port: u16, path: &str, words: &str) -> String {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    wait::until(words, PATIENCE, async || {
        let mut socket = tokio::net::TcpStream::connect(("127.0.0.1", port)).await?;
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n");
        socket.write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        socket.read_to_string(&mut answer).await?;
        anyhow::ensure!(answer.contains(words), "{answer}");
        Ok(Some(answer))
    })
    .await
    .unwrap()
}

#[tokio::test]
async fn all_metrics_in_the_manual_come_from_a_worker_that_worked() {
    let mut stage = Stage::nodes(usual()).await;
    let port = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    stage.extra = format!("metrics_listen = 127.0.0.1:{port}\n");
    let _worker = stage.sync_a();
    stage.run("root", "insert into a values (1, 'x')").await;
    stage.leaf_gets(COUNT, 1).await;
    http_says(port, "/readyz", "200 OK").await;
    let metrics = http_says(port, "/metrics", "skytide_slot_retained_bytes").await;
    // These wait for what did not happen here.
    let rare = [skytide::metrics::EXACT_BATCHES, skytide::metrics::RECONNECTS];
    let others = ["skytide_ticker_", "skytide_queue_", "skytide_wal_"];
    for (name, _, _) in skytide::metrics::catalogue() {
        if !others.iter().any(|o| name.starts_with(o)) && !rare.contains(&name) {
            assert!(
                metrics.contains(&format!("# HELP {name} ")),
                "{name} is not in\n{metrics}"
            );
        }
    }
}

/// Prevents: whoever holds the leaf's table keeps the provider's table locked as well.
#[tokio::test]
async fn a_copy_makes_way_for_a_lock_on_the_subscriber() {
    let mut stage = Stage::nodes(usual()).await;
    stage.extra = "lock_timeout = 100ms\n".to_owned();
    stage.root(&["add-table", "a"]).well();
    stage.run("root", "insert into a values (1, 'x')").await;
    // Rows are put beside those that are there, so nothing is emptied before: the COPY itself is what waits.
    stage.leaf(&["add-table", "a", "--skip-truncate"]).well();
    let holder = stage.on("leaf").await;
    holder
        .batch_execute("begin; lock table a in share mode")
        .await
        .unwrap();
    let worker = stage.worker();
    wait::until("the copy to make way", PATIENCE, async || {
        let log = stage.log();
        let told = log.contains("public.a is locked on the subscriber");
        Ok(told.then_some(()))
    })
    .await
    .unwrap();
    stage
        .run(
            "root",
            "set lock_timeout = '20s'; alter table a add column later int",
        )
        .await;
    holder.batch_execute("commit").await.unwrap();
    stage.leaf_gets(COUNT, 1).await;
    worker.stop().await;
}
