//! A primary that is killed under load: which acknowledged commits do the stores lack?
//!
//! `SKYTIDE_KILLS=50` kills that often.

use std::collections::BTreeSet;
use std::time::Instant;

use super::copy::in_step;
use super::load::Load;
use super::stage::Stage;

fn kills() -> usize {
    let asked = std::env::var("SKYTIDE_KILLS")
        .ok()
        .and_then(|kills| kills.parse().ok());
    asked.unwrap_or(10)
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
