//! `pg_wal` read beside its server.

use std::fs;

use skytide_fixtures::wait;

use super::copy::{in_step, same, wal_in};
use super::stage::{PATIENCE, Stage};

#[tokio::test]
async fn a_live_servers_wal_is_copied_without_a_walsender() {
    let stage = Stage::new().await;
    stage.configure_copy("ship_interval = 10ms");
    stage.run("alter system set wal_keep_size = '1GB'").await;
    stage.run("select pg_reload_conf()").await;
    let shipper = stage.copier("ship", &[]);
    for rows in [10, 30_000, 1] {
        stage.segment(rows).await;
        stage.run("insert into t (v) values ('between')").await;
    }
    in_step(&stage.server, &stage.store()).await;
    let client = stage.client().await;
    let senders = client.query_one("select count(*) from pg_stat_replication", &[]);
    assert_eq!(senders.await.unwrap().get::<_, i64>(0), 0);
    assert!(same(&wal_in(&stage.store(), 1).await, 1, &stage.server) >= 3);

    // The server dies and comes back, the store goes and comes back, and so does the shipper.
    stage.server.kill().unwrap();
    stage.server.start_again().await.unwrap();
    stage.run("insert into t (v) values ('after the crash')").await;
    in_step(&stage.server, &stage.store()).await;
    let away = stage.path("away");
    fs::rename(stage.store(), &away).unwrap();
    stage.segment(10).await;
    wait::until("the shipper to say so", PATIENCE, async || {
        Ok(stage.log("ship").contains("no store takes WAL").then_some(()))
    })
    .await
    .unwrap();
    fs::rename(&away, stage.store()).unwrap();
    in_step(&stage.server, &stage.store()).await;
    shipper.ends_politely().await;
    stage.segment(500).await;
    let shipper = stage.copier("ship", &[]);
    in_step(&stage.server, &stage.store()).await;
    assert!(same(&wal_in(&stage.store(), 1).await, 1, &stage.server) >= 4);
    shipper.ends_politely().await;
}

#[tokio::test]
async fn a_data_directory_of_another_server_is_refused() {
    let stage = Stage::new().await;
    let stranger = skytide_fixtures::server::Options {
        own_identity: true,
        ..Default::default()
    };
    let stranger = skytide_fixtures::server::Server::start(stranger).await.unwrap();
    let data = stage.server.data_dir().display();
    stage.configure(&format!(
        "master_data = {data}\nmaster_db = {}",
        stranger.dsn("postgres")
    ));
    stage
        .walmgr(&["ship"])
        .with(1, &["system identifier", "same server"]);
}
