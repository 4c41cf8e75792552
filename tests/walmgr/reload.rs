//! What a running process is told by SIGHUP.

use std::path::{Path, PathBuf};

use skytide_fixtures::server::free_port;
use skytide_fixtures::wait;
use skytide_wal::store::peer::PeerTls;
use skytide_wal::store::{Content, ObjectName, PeerStore, Put, Store as _};

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
    let second = stage.store_in("second");
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

/// Prevents: other hosts' WAL that goes on into the directory that was taken out.
#[tokio::test]
async fn other_hosts_find_the_directory_that_is_configured_now() {
    let stage = Stage::new().await;
    let tls = stage.directory("tls");
    let script = "\
        set -e
        new='openssl req -new -nodes -newkey ec -pkeyopt ec_paramgen_curve:prime256v1'
        echo subjectAltName=DNS:localhost > san
        $new -x509 -days 2 -subj /CN=ca -keyout ca.key -out ca.crt
        $new -subj /CN=host -keyout host.key -out host.csr
        openssl x509 -req -days 2 -in host.csr -CA ca.crt -CAkey ca.key -CAcreateserial -extfile san -out host.crt
        chmod 600 host.key";
    let made = stage
        .server
        .command("/bin/sh")
        .args(["-c", script])
        .current_dir(&tls)
        .output()
        .unwrap();
    assert!(made.status.success(), "{made:?}");
    let port = free_port().unwrap();
    let peers = format!(
        "store_listen = 127.0.0.1:{port}\ntls_certificate = {0}/host.crt\ntls_key = {0}/host.key\ntls_authority = {0}/ca.crt",
        tls.display()
    );
    stage.configure_copy(&peers);
    let daemon = stage.daemon().await;
    let files = PeerTls {
        certificate: tls.join("host.crt"),
        key: tls.join("host.key"),
        authority: tls.join("ca.crt"),
    };
    let peer = PeerStore::new("localhost", port, &files).unwrap();
    let name = ObjectName::new("wal/one").unwrap();
    assert_eq!(peer.put(&name, Content::new("1")).await.unwrap(), Put::Stored);
    assert!(stage.store().join("wal/one").is_file());

    let second = stage.store_in("second");
    stage.configure_copy(&format!("stores = {}\n{peers}", stage.path("nowhere").display()));
    daemon.hang_up();
    heard(&stage, "daemon", "the old configuration stays in force").await;
    assert_eq!(peer.head(&name).await.unwrap(), Some(1));
    stage.configure_copy(&format!("stores = {}\n{peers}", second.display()));
    daemon.hang_up();
    heard(&stage, "daemon", "other hosts archive here now").await;
    assert_eq!(peer.get(&name).await.unwrap(), None);
    assert_eq!(peer.put(&name, Content::new("2")).await.unwrap(), Put::Stored);
    assert_eq!(std::fs::read(second.join("wal/one")).unwrap(), b"2");
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
