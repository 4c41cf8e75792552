//! A cluster that recovers from another one's stores is told so.

use skytide_fixtures::server::{Options, Server, StopMode};

use super::stage::Stage;

/// Prevents: recovery that replays another cluster's WAL, or ends early since the other one has not that much.
#[tokio::test]
async fn another_clusters_wal_is_not_served() {
    let stage = Stage::new().await;
    stage.archive().await;
    let segment = stage.segment(10).await;
    stage.archived(&segment).await;
    let stranger = Options {
        own_identity: true,
        ..Options::default()
    };
    let stranger = Server::start(stranger).await.unwrap();
    stranger.stop(StopMode::Fast).await.unwrap();
    let ours = identifier(stage.server.data_dir());
    let theirs = identifier(stranger.data_dir());
    assert_ne!(ours, theirs);
    let store = stage.store().display().to_string();
    let words = [ours.as_str(), &theirs, &store];
    let target = stranger.data_dir().join("pg_wal/RECOVERYXLOG");
    let names = [segment.as_str(), "0000000100000000000000F0", "00000002.history"];
    let asked = ["restore-wal", "", target.to_str().unwrap()];
    let ask = |name: &str, code: i32| {
        let asked = [asked[0], name, asked[2]];
        for said in [stage.walmgr(&asked), stage.small(&asked)] {
            said.with(code, &words);
        }
        assert!(!target.exists());
    };
    // It recovers.
    let recovers = stranger.data_dir().join("recovery.signal");
    std::fs::write(&recovers, "").unwrap();
    for name in names {
        ask(name, 255);
    }
    let daemon = stage.daemon().await;
    for name in names {
        ask(name, 255);
    }
    // A standby asks again.
    std::fs::remove_file(&recovers).unwrap();
    let signal = stranger.data_dir().join("standby.signal");
    std::fs::write(&signal, "").unwrap();
    ask(&segment, 1);
    daemon.ends_politely().await;
    ask(&segment, 1);

    // By hand, for whoever master_data says; and the cluster's own.
    let by_hand = stage.directory("by-hand").join(&segment);
    stage.configure(&format!("master_data = {}", stranger.data_dir().display()));
    stage.restore_file(&segment, &by_hand).with(255, &words);
    let own = stage.server.data_dir().join("pg_wal/RECOVERYXLOG");
    stage.restore_file(&segment, &own).with(0, &[]);
    stage.configure("");
    stage.restore_file(&segment, &by_hand).with(0, &[]);
}

fn identifier(data: &std::path::Path) -> String {
    let bytes = std::fs::read(data.join(skytide_wal::control::PATH)).unwrap();
    let control = skytide_wal::control::ControlFile::parse(&bytes).unwrap();
    control.system_id.to_string()
}
