//! What a running process is told by SIGHUP.

use std::path::{Path, PathBuf};

use skytide_fixtures::wait;

use super::copy::in_step;
use super::stage::{PATIENCE, Stage};

fn stored(store: &Path, name: &str) -> PathBuf {
    store.join(format!("wal/00000001/{name}.zst"))
}

async fn appears(path: &Path) {
    wait::until("the file to be there", PATIENCE, async || {
        Ok(path.is_file().then_some(()))
    })
    .await
    .unwrap();
}

/// A second directory in the configuration; the first has to do if the second is away.
fn with_second(stage: &Stage) -> PathBuf {
    let second = stage.directory("second");
    let stores = format!("stores = {}, {}", stage.store().display(), second.display());
    stage.configure_copy(&format!("{stores}\nstores_needed = 1"));
    second
}

async fn heard(stage: &Stage, log: &str, words: &str) {
    let heard = wait::until(words, PATIENCE, async || {
        Ok(stage.log(log).contains(words).then_some(()))
    });
    if heard.await.is_err() {
        panic!("{words:?} is not in\n{}", stage.log(log));
    }
}

#[tokio::test]
async fn the_daemon_takes_another_store_and_gives_it_what_it_lacks() {
    let stage = Stage::new().await;
    let daemon = stage.daemon().await;
    stage.archive().await;
    let first = stage.segment(100).await;
    stage.archived(&first).await;

    // A mistake changes nothing.
    let good = std::fs::read_to_string(stage.conf()).unwrap();
    std::fs::write(stage.conf(), format!("{good}restore_timeout = soon\n")).unwrap();
    daemon.hang_up();
    heard(&stage, "daemon", "the old one stays").await;
    let second = stage.segment(100).await;
    stage.archived(&second).await;

    let other = with_second(&stage);
    daemon.hang_up();
    for name in [&first, &second] {
        appears(&stored(&other, name)).await;
    }
    let third = stage.segment(100).await;
    stage.archived(&third).await;
    appears(&stored(&other, &third)).await;
    daemon.ends_politely().await;
}

#[tokio::test]
async fn the_daemon_gives_a_store_that_was_away_what_it_lacks() {
    let stage = Stage::new().await;
    let other = with_second(&stage);
    stage.walmgr(&["create-store"]).with(0, &[]);
    let daemon = stage.daemon().await;
    stage.archive().await;
    let first = stage.segment(100).await;
    stage.archived(&first).await;
    appears(&stored(&other, &first)).await;
    // Its file system is gone for a while.
    std::fs::rename(&other, stage.path("away")).unwrap();
    let mut names = Vec::new();
    for rows in [10, 20, 30] {
        names.push(stage.segment(rows).await);
    }
    stage.archived(&names[2]).await;
    heard(&stage, "daemon", "a store may lack files").await;
    std::fs::rename(stage.path("away"), &other).unwrap();
    for name in &names {
        appears(&stored(&other, name)).await;
        let [one, two] = [stage.stored(name), stored(&other, name)].map(|path| std::fs::read(path).unwrap());
        assert!(one == two, "{name}");
    }
    daemon.ends_politely().await;
}

#[tokio::test]
async fn receive_and_ship_go_on_with_new_settings() {
    for command in ["receive", "ship"] {
        let stage = Stage::new().await;
        stage.configure_copy("");
        let copier = stage.copier(command, &[]);
        stage.segment(100).await;
        in_step(&stage.server, &stage.store()).await;

        std::fs::write(stage.conf(), "[walmgr]\nstores = nowhere\n").unwrap();
        copier.hang_up();
        heard(&stage, command, "the old one stays").await;
        stage.run("insert into t (v) values ('under the old one')").await;
        in_step(&stage.server, &stage.store()).await;

        let second = with_second(&stage);
        copier.hang_up();
        stage.run("insert into t (v) values ('under the new one')").await;
        for store in [&stage.store(), &second] {
            in_step(&stage.server, store).await;
        }
        copier.ends_politely().await;
    }
}
