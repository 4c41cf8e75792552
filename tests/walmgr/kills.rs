//! A primary that is killed under load: which acknowledged commits do the stores lack?
//!
//! `SKYTIDE_KILLS=50` kills that often.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use skytide_fixtures::server::Server;
use skytide_fixtures::wait;

use super::copy::in_step;
use super::stage::{PATIENCE, Stage};

const CLIENTS: i64 = 4;

fn kills() -> usize {
    let asked = std::env::var("SKYTIDE_KILLS")
        .ok()
        .and_then(|kills| kills.parse().ok());
    asked.unwrap_or(10)
}

/// Clients that commit one row after the other, and note each that the server acknowledged, and when.
struct Load {
    acknowledged: Arc<Mutex<Vec<(i64, Instant)>>>,
    stop: Arc<AtomicBool>,
    clients: Vec<tokio::task::JoinHandle<()>>,
}

impl Load {
    async fn start(server: &Server, round: usize) -> Load {
        let acknowledged = Arc::new(Mutex::new(Vec::new()));
        let stop = Arc::new(AtomicBool::new(false));
        let mut clients = Vec::new();
        for client in 0..CLIENTS {
            let connection = server.connect("postgres").await.unwrap();
            let (acknowledged, stop) = (acknowledged.clone(), stop.clone());
            let mut id = (round as i64 * CLIENTS + client) * 1_000_000;
            clients.push(tokio::spawn(async move {
                while !stop.load(Ordering::Relaxed) {
                    id += 1;
                    let insert =
                        "insert into k (id, filler) values ($1::bigint, repeat(md5($1::bigint::text), 20))";
                    if connection.execute(insert, &[&id]).await.is_err() {
                        return;
                    }
                    acknowledged.lock().unwrap().push((id, Instant::now()));
                }
            }));
        }
        Load {
            acknowledged,
            stop,
            clients,
        }
    }

    async fn until(&self, count: usize) {
        wait::until("enough commits", PATIENCE, async || {
            Ok((self.acknowledged.lock().unwrap().len() >= count).then_some(()))
        })
        .await
        .unwrap();
    }

    async fn end(self) -> Vec<(i64, Instant)> {
        self.stop.store(true, Ordering::Relaxed);
        for client in self.clients {
            client.await.unwrap();
        }
        std::mem::take(&mut self.acknowledged.lock().unwrap())
    }
}

/// What the cluster that is restored from the stores lacks of all that was ever acknowledged.
async fn missing(
    stage: &Stage,
    base: &std::path::Path,
    name: &str,
    acknowledged: &BTreeSet<i64>,
) -> BTreeSet<i64> {
    let restored = stage.restored(base, name, &[]).await;
    let client = restored.0.connect("postgres").await.unwrap();
    let rows = client.query("select id from k", &[]).await.unwrap();
    let there: BTreeSet<i64> = rows.iter().map(|row| row.get(0)).collect();
    drop(restored);
    std::fs::remove_dir_all(stage.path(name)).unwrap();
    acknowledged.difference(&there).copied().collect()
}

async fn killed_under_load(synchronous: bool) {
    let stage = Stage::new().await;
    stage.configure_copy("");
    stage
        .run("create table k (id bigint primary key, filler text)")
        .await;
    let base = stage.base().await;
    let _receiver = stage.copier("receive", &[]);
    in_step(&stage.server, &stage.store()).await;
    if synchronous {
        stage
            .run("alter system set synchronous_standby_names = 'skytide'")
            .await;
        stage.run("select pg_reload_conf()").await;
    }
    let mut ever = BTreeSet::new();
    let mut windows = Vec::new();
    for round in 0..kills() {
        let load = Load::start(&stage.server, round).await;
        // A different moment each time.
        load.until(40 + round * 37 % 100).await;
        let killed = Instant::now();
        stage.server.kill().unwrap();
        let acknowledged = load.end().await;
        ever.extend(acknowledged.iter().map(|(id, _)| *id));
        let lacks = missing(&stage, &base, &format!("restored-{round}"), &ever).await;
        if synchronous {
            assert!(
                lacks.is_empty(),
                "round {round} lost {lacks:?}\n{}",
                stage.log("receive")
            );
        }
        let oldest = acknowledged.iter().find(|(id, _)| lacks.contains(id));
        let window = oldest.map_or(0, |(_, at)| killed.saturating_duration_since(*at).as_millis());
        windows.push((lacks.len(), window));
        stage.server.start_again().await.unwrap();
        // What the store lacked is there again: the primary had it.
        in_step(&stage.server, &stage.store()).await;
    }
    let lacks = missing(&stage, &base, "restored-last", &ever).await;
    assert!(lacks.is_empty(), "{lacks:?}");
    println!(
        "synchronous: {synchronous}; kills: {}; commits lost and ms between the first of them and the kill: {windows:?}",
        kills()
    );
}

#[tokio::test]
async fn as_a_synchronous_standby_it_loses_no_acknowledged_commit() {
    killed_under_load(true).await;
}

#[tokio::test]
async fn asynchronously_it_loses_a_window_at_most() {
    killed_under_load(false).await;
}
