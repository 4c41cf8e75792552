//! The fixtures themselves: servers that start, die and come back, links, what a killed test leaves.

use std::time::Duration;

use skytide_fixtures::cluster::Cluster;
use skytide_fixtures::proxy::Proxy;
use skytide_fixtures::server::{Options, Server, StopMode, sweep};
use skytide_fixtures::wait;
use skytide_fixtures::workload::{
    Load, LoadOptions, compare_tables, row_digest, schema_sql, subscriber_schema_sql, tables,
};
use skytide_sql::TableName;
use tokio_postgres::NoTls;

const PATIENCE: Duration = Duration::from_secs(60);

async fn count(server: &Server) -> i64 {
    let client = server.connect("postgres").await.unwrap();
    client
        .query_one("select count(*) from t", &[])
        .await
        .unwrap()
        .get(0)
}

#[tokio::test]
async fn a_server_survives_every_way_to_stop() {
    let server = Server::start(Options::default()).await.unwrap();
    server
        .psql("postgres", "create table t (i int); insert into t values (1)")
        .await
        .unwrap();
    assert_eq!(
        server.psql("postgres", "show wal_level").await.unwrap(),
        "logical\n"
    );

    server.kill().unwrap();
    assert!(!server.is_running());
    server.start_again().await.unwrap();
    assert_eq!(count(&server).await, 1, "after SIGKILL");

    server.restart().await.unwrap();
    assert_eq!(count(&server).await, 1, "after a restart");

    server.stop(StopMode::Immediate).await.unwrap();
    assert!(!server.is_running());
    assert!(server.connect("postgres").await.is_err());
    server.start_again().await.unwrap();
    assert_eq!(count(&server).await, 1, "after an immediate stop");

    let home = server.home().to_owned();
    drop(server);
    assert!(!home.exists(), "a temporary server leaves nothing");
}

#[tokio::test]
async fn a_server_that_cannot_start_shows_its_log() {
    let error = Server::start(Options::default().with("shared_buffers", "nonsense"))
        .await
        .unwrap_err();
    let text = format!("{error:#}");
    assert!(
        text.contains("did not start") && text.contains("shared_buffers"),
        "{text}"
    );
}

#[tokio::test]
async fn a_persistent_server_outlives_its_handle_and_keeps_its_port() {
    let dir = tempfile::Builder::new()
        .prefix("skytide-keep.")
        .tempdir_in("/tmp")
        .unwrap();
    let home = dir.path().join("one");
    std::fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();

    let first = Server::start(Options::persistent(&home)).await.unwrap();
    first.create_database("Kept \"db\"").await.unwrap();
    let port = first.port();
    drop(first);

    let again = Server::start(Options::persistent(&home)).await.unwrap();
    assert_eq!(again.port(), port);
    again.connect("Kept \"db\"").await.unwrap();
    again.stop(StopMode::Fast).await.unwrap();
    drop(again);

    let opened = Server::open(&home).unwrap();
    assert!(!opened.is_running());
    opened.start_again().await.unwrap();
    assert_eq!(opened.port(), port);
    opened.connect("Kept \"db\"").await.unwrap();
    opened.stop(StopMode::Immediate).await.unwrap();
}

#[tokio::test]
async fn two_servers_run_beside_each_other() {
    let (a, b) = tokio::join!(
        Server::start(Options::default()),
        Server::start(Options::default())
    );
    let (a, b) = (a.unwrap(), b.unwrap());
    assert_ne!(a.port(), b.port());
    a.psql("postgres", "create table t ()").await.unwrap();
    assert!(b.psql("postgres", "table t").await.is_err());
    let over_tcp = tokio_postgres::connect(&a.dsn_tcp("postgres"), NoTls).await;
    drop(over_tcp.unwrap());
}

#[tokio::test]
async fn what_a_killed_test_leaves_is_swept() {
    let lost = Server::start(Options::default()).await.unwrap();
    let home = lost.home().to_owned();
    // As if this process had died: the owner on file is nobody who lives, and no drop runs.
    std::fs::write(home.join("owner"), "1 1\n").unwrap();
    std::mem::forget(lost);
    sweep(home.parent().unwrap());
    assert!(!home.exists());
    let left = std::process::Command::new("pgrep")
        .arg("-f")
        .arg(&home)
        .output()
        .unwrap();
    assert!(left.stdout.is_empty(), "a process of the swept server lives");
}

#[tokio::test]
async fn a_link_can_be_cut_and_half_open() {
    let server = Server::start(Options::default()).await.unwrap();
    let proxy = Proxy::to_port(server.port()).await.unwrap();
    let connect = async || {
        let (client, connection) =
            tokio_postgres::connect(&server.dsn_through(&proxy, "postgres"), NoTls).await?;
        tokio::spawn(connection);
        anyhow::Ok(client)
    };
    let client = connect().await.unwrap();
    client.query_one("select 1", &[]).await.unwrap();
    assert!(proxy.traffic().down_bytes > 0);

    proxy.half_open();
    let silent = tokio::time::timeout(Duration::from_millis(200), client.query_one("select 1", &[])).await;
    assert!(silent.is_err(), "a half-open link says nothing");

    proxy.cut();
    assert!(client.query_one("select 1", &[]).await.is_err());
    assert!(connect().await.is_err());

    proxy.heal();
    let client = wait::until("a connection after healing", PATIENCE, async || {
        Ok(Some(connect().await?))
    })
    .await
    .unwrap();
    client.query_one("select 1", &[]).await.unwrap();
}

#[tokio::test]
async fn the_workload_runs_clean_and_compare_sees_one_changed_value() {
    let server = Server::start(Options::default()).await.unwrap();
    let mut sides = Vec::new();
    for (database, schema) in [
        ("provider", schema_sql()),
        ("subscriber", subscriber_schema_sql()),
    ] {
        server.create_database(database).await.unwrap();
        let client = server.connect(database).await.unwrap();
        for sql in schema {
            client
                .batch_execute(&sql)
                .await
                .unwrap_or_else(|error| panic!("{sql}: {error:?}"));
        }
        sides.push(client);
    }
    let load = Load::start(&server.dsn("provider"), LoadOptions::default()).unwrap();
    tokio::time::sleep(Duration::from_secs(3)).await; // the length of the load, not a condition
    let stats = load.stop().await.unwrap_or_else(|error| panic!("{error:#?}"));
    eprintln!("{stats:?}");
    assert!(
        stats.committed > 100 && stats.rolled_back > 0 && stats.prepared > 0,
        "{stats:?}"
    );

    let (provider, subscriber) = (&sides[0], &sides[1]);
    for table in tables() {
        let rows = row_digest(provider, &table).await.unwrap().rows;
        eprintln!("{table}: {rows} rows");
        // The load truncates some of them, and may have done so last.
        let may_be_empty = ["emptied", "parents", "children", "counters"].contains(&table.name.as_str());
        assert!(rows > 0 || may_be_empty, "nothing in {table}");
    }
    let second = server.connect("provider").await.unwrap();
    assert_eq!(compare_tables(provider, &second, &tables()).await.unwrap(), []);
    // The load may have emptied the table last: each side gets rows that are its own.
    let counters = TableName::new("public", "counters");
    for (side, rows) in [(provider, "(-2, 1), (-3, 1)"), (subscriber, "(-1, 1), (-3, 2)")] {
        let insert = format!("insert into counters (id, n) values {rows}");
        side.batch_execute(&insert).await.unwrap();
    }
    let differences = compare_tables(provider, subscriber, &[counters]).await.unwrap();
    assert_eq!(differences.len(), 1);
    assert_eq!(differences[0].extra, 1);
    assert_eq!(differences[0].changed, 1);
    assert!(differences[0].missing > 0, "{}", differences[0]);
}

#[tokio::test]
async fn the_load_goes_on_after_its_server_was_killed() {
    let server = Server::start(Options::default()).await.unwrap();
    let client = server.connect("postgres").await.unwrap();
    client.batch_execute(&schema_sql().join(";")).await.unwrap();
    let load = Load::start(&server.dsn("postgres"), LoadOptions::default()).unwrap();
    let more_than = async |n: u64| {
        wait::until("commits", PATIENCE, async || {
            Ok((load.check()?.committed > n).then_some(()))
        })
        .await
        .unwrap();
    };
    more_than(50).await;
    server.kill().unwrap();
    server.start_again().await.unwrap();
    more_than(load.stats().committed + 50).await;
    let stats = load.stop().await.unwrap();
    assert!(stats.reconnects > 0, "{stats:?}");
    let client = server.connect("postgres").await.unwrap();
    let left = client
        .query_one("select count(*) from pg_prepared_xacts", &[])
        .await
        .unwrap();
    assert_eq!(left.get::<_, i64>(0), 0);
}

#[tokio::test]
async fn a_cluster_is_found_again_started_stopped_and_removed() {
    let dir = tempfile::Builder::new()
        .prefix("skytide-cluster.")
        .tempdir_in("/tmp")
        .unwrap();
    std::fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let cluster = Cluster::open(dir.path().join("dev")).unwrap();
    for name in ["leaf", "root"] {
        cluster.add(name, Options::persistent("")).await.unwrap();
    }
    assert!(cluster.add("../x", Options::default()).await.is_err());

    let again = Cluster::open(dir.path().join("dev")).unwrap();
    let names = |running: bool| {
        let all = again.status().unwrap().into_iter();
        all.filter(|s| s.running == running)
            .map(|s| s.name)
            .collect::<Vec<_>>()
    };
    assert_eq!(names(true), ["leaf", "root"]);
    let identity = "select system_identifier from pg_control_system()";
    let ids = ["leaf", "root"].map(|name| again.get(name).unwrap());
    assert_ne!(
        ids[0].psql("postgres", identity).await.unwrap(),
        ids[1].psql("postgres", identity).await.unwrap()
    );

    again.down().await.unwrap();
    assert_eq!(names(false), ["leaf", "root"]);
    again.up().await.unwrap();
    assert_eq!(names(true), ["leaf", "root"]);
    again.remove().await.unwrap();
    assert!(again.names().unwrap().is_empty());
}
