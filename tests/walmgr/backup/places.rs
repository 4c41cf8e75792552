//! Tablespaces: a restore beside a living server leaves the server's alone.

use super::*;

/// A stage with a tablespace and a table in it, backed up; and the tablespace's place.
async fn with_tablespace() -> (Stage, PathBuf) {
    let stage = stage(Options::default()).await;
    let place = stage.directory("space");
    stage
        .run(&format!("create tablespace far location '{}'", place.display()))
        .await;
    stage
        .run("create table distant tablespace far as select generate_series(1, 1000) n")
        .await;
    backup(&stage);
    flush(&stage).await;
    (stage, place)
}

const DISTANT: &str = "select count(*) from distant";

/// The living server's files, and not what it remembers of them.
async fn assert_unharmed(stage: &Stage) {
    stage.run("checkpoint").await;
    stage.server.stop(StopMode::Fast).await.unwrap();
    stage.server.start_again().await.unwrap();
    assert_eq!(count(&stage.server, DISTANT).await, 1000);
}

#[tokio::test]
async fn a_delta_leaves_a_living_servers_tablespace_alone() {
    let (stage, place) = with_tablespace().await;
    for more in [&["--delta"][..], &["--delta", "--dry-run"]] {
        restore(&stage, "latest", "restored", more).with(1, &["it may be a living server's", "--tablespace"]);
    }
    assert_unharmed(&stage).await;

    // In its own place it is used, where its own link leads there.
    let elsewhere = stage.directory("elsewhere");
    let mapping = format!("{}={}", place.display(), elsewhere.display());
    restore(&stage, "latest", "restored", &["--tablespace", &mapping]).with(0, &[]);
    assert!(!elsewhere.join("skytide-restore.unfinished").exists());
    let again = ["--delta", "--json", "--tablespace", &mapping];
    let said = restore(&stage, "latest", "restored", &again).with(0, &[]);
    assert!(said.json()["done"]["kept_files"].as_u64().unwrap() > 500);
    restore(&stage, "latest", "restored", &["--delta"]).with(1, &["it may be a living server's"]);
    let restored = stage.recovered("restored").await;
    assert_eq!(count(&restored.0, DISTANT).await, 1000);
    assert_unharmed(&stage).await;
}

/// Prevents: a restore into a copy of a living server's data directory, whose links lead to what the server has.
#[tokio::test]
async fn a_delta_into_a_copy_takes_nothing_from_the_server() {
    let (stage, _) = with_tablespace().await;
    let copy = stage.directory("copied").join("data");
    let from = stage.server.data_dir().display().to_string();
    let copied = stage
        .server
        .command("/bin/cp")
        .args(["-a", &from, copy.to_str().unwrap()])
        .output();
    assert!(copied.unwrap().status.success());
    fs::remove_file(copy.join("postmaster.pid")).unwrap();
    for more in [&["--delta"][..], &["--delta", "--dry-run"]] {
        restore(&stage, "latest", "copied", more).with(1, &["is used by the server in", &from]);
    }
    assert_unharmed(&stage).await;
}

/// Prevents: a restore that was broken off and goes on without its mapping, into the living server's tablespace.
#[cfg(feature = "failpoints")]
#[tokio::test]
async fn a_restore_that_was_broken_off_goes_on_in_its_own_places() {
    let (stage, place) = with_tablespace().await;
    let elsewhere = stage.directory("elsewhere");
    let mapping = format!("{}={}", place.display(), elsewhere.display());
    let data = stage.directory("restored").join("data");
    for step in [
        "restore::marked",
        "restore::prepared",
        "restore::written",
        "restore::synced",
    ] {
        let words = ["restore", "latest", data.to_str().unwrap(), "--delta"];
        match step {
            "restore::marked" => {
                let mapped = [&words[..], &["--tablespace", &mapping]].concat();
                stage.killed_at(step, &mapped).await;
            }
            _ => stage.killed_at(step, &words).await,
        }
        assert!(elsewhere.join("skytide-restore.unfinished").exists(), "{step}");
    }
    restore(&stage, "latest", "restored", &["--delta"]).with(0, &[]);
    assert!(!elsewhere.join("skytide-restore.unfinished").exists());
    let restored = stage.recovered("restored").await;
    assert_eq!(count(&restored.0, DISTANT).await, 1000);
    assert_unharmed(&stage).await;
}
