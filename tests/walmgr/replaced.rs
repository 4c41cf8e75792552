//! Two servers of which one was replaced by the other: the stores take the newer one's WAL only.

use std::path::Path;

use skytide_fixtures::wait;

use super::copy::flush_lsn;
use super::course::one;
use super::stage::{PATIENCE, Restored, Stage};

/// A standby that takes the primary's place and archives, while the old primary lives on.
pub(super) async fn replaced(stage: &Stage) -> Restored {
    let base = stage.base().await;
    let archive = stage.line("archive %p %f");
    let settings = [("archive_mode", "on"), ("archive_command", &archive)];
    let standby = stage.standby(&base, "standby", &settings).await;
    let wanted = flush_lsn(&stage.server).await;
    let client = standby.0.connect("postgres").await.unwrap();
    wait::until("the standby to have it", PATIENCE, async || {
        let query = format!("select coalesce(pg_last_wal_replay_lsn() >= '{wanted}', false)");
        Ok(one::<bool>(&client, &query).await.then_some(()))
    })
    .await
    .unwrap();
    client.batch_execute("select pg_promote()").await.unwrap();
    client
        .batch_execute("insert into t (v) values ('of the new primary'); select pg_switch_wal()")
        .await
        .unwrap();
    let history = stage.store().join("history/00000002.history.zst");
    wait::until("the new history to be archived", PATIENCE, async || {
        Ok(history.is_file().then_some(()))
    })
    .await
    .unwrap();
    standby
}

fn stored(store: &Path, timeline: u32) -> Vec<String> {
    let listed = std::fs::read_dir(store.join(format!("wal/{timeline:08X}")));
    // Nothing of that timeline yet.
    let mut names: Vec<String> = listed
        .into_iter()
        .flatten()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        // Not what is being written.
        .filter(|name| !name.contains("partial") && !name.starts_with('.'))
        .collect();
    names.sort();
    names
}

/// With a daemon, which works ahead, and by a process for each file.
async fn an_old_primary_is_refused(with_daemon: bool) {
    let stage = Stage::new().await;
    let daemon = match with_daemon {
        true => Some(stage.daemon().await),
        false => None,
    };
    stage.archive().await;
    let shared = stage.segment(100).await;
    stage.archived(&shared).await;
    let standby = replaced(&stage).await;
    let before = stored(&stage.store(), 1);

    // It knows nothing of that, and goes on.
    let own = stage.segment(100).await;
    let client = stage.client().await;
    wait::until("the server to be told no", PATIENCE, async || {
        let failed = "select failed_count > 0 and last_failed_wal >= $1 from pg_stat_archiver";
        Ok(client
            .query_one(failed, &[&own])
            .await?
            .get::<_, bool>(0)
            .then_some(()))
    })
    .await
    .unwrap();
    assert_eq!(stored(&stage.store(), 1), before);
    stage.archive_file(&own).with(
        1,
        &[
            "timeline 2",
            "the server was replaced",
            &own,
            "HINT",
            "drop-timeline 2",
        ],
    );
    stage.configure(&format!("master_db = {}", stage.server.dsn("postgres")));
    stage
        .walmgr(&["backup"])
        .with(1, &["timeline 2", "the server was replaced", "HINT"]);
    assert_eq!(
        std::fs::read_dir(stage.store().join("backups")).map_or(0, |dir| dir.count()),
        0
    );

    // All of the new primary's is taken.
    let client = standby.0.connect("postgres").await.unwrap();
    let newest = one::<String>(&client, "select pg_walfile_name(pg_current_wal_lsn())").await;
    client
        .batch_execute("insert into t (v) values ('again'); select pg_switch_wal()")
        .await
        .unwrap();
    wait::until("its WAL to be archived", PATIENCE, async || {
        Ok(stored(&stage.store(), 2)
            .contains(&format!("{newest}.zst"))
            .then_some(()))
    })
    .await
    .unwrap();
    if let Some(daemon) = daemon {
        daemon.ends_politely().await;
    }
}

#[tokio::test]
async fn an_old_primary_is_refused_by_the_daemon() {
    an_old_primary_is_refused(true).await;
}

#[tokio::test]
async fn an_old_primary_is_refused_without_a_daemon() {
    an_old_primary_is_refused(false).await;
}
