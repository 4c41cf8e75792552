//! Object storage as a store: a real server of S3's protocol, PostgreSQL on the other side.

use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use skytide_fixtures::proxy::Proxy;
use skytide_fixtures::s3::{ACCESS_KEY, BUCKET, S3Server, SECRET_KEY};
use skytide_fixtures::wait;
use skytide_wal::store::s3::{S3Credentials, S3Settings};
use skytide_wal::store::{S3Store, Store as _, layout};

use super::copy::{boundary_of, in_step, in_step_of};
use super::stage::{PATIENCE, Stage, content};

const PREFIX: &str = "clusters/one";

/// What the configuration says of a server behind this port.
fn lines(stage: &Stage, port: u16) -> String {
    let credentials = stage.path("s3.credentials");
    std::fs::write(
        &credentials,
        format!("[default]\naws_access_key_id = {ACCESS_KEY}\naws_secret_access_key = {SECRET_KEY}\n"),
    )
    .unwrap();
    std::fs::set_permissions(&credentials, PermissionsExt::from_mode(0o600)).unwrap();
    stage.give_to_server("s3.credentials");
    format!(
        "s3_endpoint = http://127.0.0.1:{port}\ns3_allow_http = yes\ns3_credentials = {}\n",
        credentials.display()
    )
}

fn configure(stage: &Stage, port: u16, stores: &str, extra: &str) {
    let lines = lines(stage, port);
    stage.configure_copy(&format!("stores = {stores}\n{lines}backup_jobs = 2\n{extra}"));
}

fn url() -> String {
    format!("s3://{BUCKET}/{PREFIX}")
}

/// The same store, seen by the test.
fn store(server: &S3Server) -> S3Store {
    S3Store::new(&S3Settings {
        bucket: BUCKET.into(),
        prefix: PREFIX.into(),
        endpoint: Some(server.endpoint()),
        region: "us-east-1".into(),
        credentials: S3Credentials {
            access_key_id: ACCESS_KEY.into(),
            secret_access_key: SECRET_KEY.into(),
            session_token: None,
        },
        allow_http: true,
        authority: None,
        timeout: Duration::from_secs(60),
    })
    .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_is_restored_from_object_storage() {
    let s3 = S3Server::start().await.unwrap();
    let stage = Stage::new().await;
    configure(&stage, s3.port(), &url(), "");
    stage.walmgr(&["create-store"]).with(0, &["is ready"]);
    let daemon = stage.daemon().await;
    stage.archive().await;
    stage.segment(500).await;
    stage.walmgr(&["backup"]).with(0, &[]);
    stage.walmgr(&["verify"]).with(0, &[]);
    for rows in [2000, 1, 30_000] {
        stage.segment(rows).await;
    }
    stage.walmgr(&["backup", "--incremental"]).with(0, &[]);
    let last = stage.segment(100).await;
    stage.archived(&last).await;
    let wanted = content(&stage.server).await;

    let data = stage.directory("restored").join("data");
    stage
        .walmgr(&["restore", "latest", data.to_str().unwrap()])
        .with(0, &[]);
    let restored = stage.recovered("restored").await;
    assert_eq!(content(&restored.0).await, wanted);
    daemon.ends_politely().await;

    // Without the daemon too, and nobody has told what nobody shall know.
    let alone = stage.segment(10).await;
    stage.archived(&alone).await;
    let said = stage.walmgr(&["stores"]).with(0, &[]);
    assert!(said.out.contains(&url()), "{}", said.out);
    stage.walmgr(&["listbackups"]).with(0, &[]);
    for log in [stage.daemon_log(), stage.server.log_tail(), restored.0.log_tail()] {
        assert!(!log.contains(SECRET_KEY), "{log}");
    }

    // What nothing needs is removed.
    let object = |name: &str| layout::object_of(name.parse().unwrap());
    let first = s3
        .bucket()
        .join(PREFIX)
        .join(object("000000010000000000000001").as_str());
    assert!(first.is_file());
    stage.walmgr(&["purge", "--keep", "1"]).with(0, &[]);
    assert!(!first.exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_record_is_received_into_object_storage_and_recovered() {
    let s3 = S3Server::start().await.unwrap();
    let stage = Stage::new().await;
    stage.segment(100).await;
    let base = stage.base().await;
    configure(&stage, s3.port(), &url(), "");
    stage.walmgr(&["create-store"]).with(0, &[]);
    let receiver = stage.copier("receive", &[]);
    let seen = store(&s3);
    // It begins with the segment that it finds, and recovery needs this one.
    in_step_of(&stage.server, &seen).await;
    for rows in [10, 5000] {
        stage.segment(rows).await;
    }
    stage.run("insert into t (v) values ('the last one')").await;
    in_step_of(&stage.server, &seen).await;
    receiver.ends_politely().await;
    // A receiver that is killed in the middle of a segment goes on there.
    let mut receiver = stage.copier("receive", &[]);
    stage.run("insert into t (v) values ('one more')").await;
    in_step_of(&stage.server, &seen).await;
    receiver.kill();
    let receiver = stage.copier("receive", &[]);
    stage.run("insert into t (v) values ('the very last one')").await;
    let end = in_step_of(&stage.server, &seen).await;
    assert_eq!(end, boundary_of(&seen).await);
    receiver.ends_politely().await;
    let wanted = content(&stage.server).await;
    let restored = stage.restored(&base, "restored", &[]).await;
    assert_eq!(content(&restored.0).await, wanted);
}

#[tokio::test(flavor = "multi_thread")]
async fn object_storage_that_cannot_be_asked_is_never_a_missing_file() {
    let s3 = S3Server::start().await.unwrap();
    let proxy = Proxy::to_port(s3.port()).await.unwrap();
    let stage = Stage::new().await;
    configure(&stage, proxy.port(), &url(), "restore_timeout = 1s\n");
    stage.walmgr(&["create-store"]).with(0, &[]);
    let name = stage.segment(100).await;
    stage.archive_file(&name).with(0, &[]);
    let target = stage.path("target");
    stage
        .restore_file("0000000100000000000000FF", &target)
        .with(1, &[]);

    proxy.cut();
    stage.archive_file(&name).with(1, &[&url()]);
    stage.restore_file(&name, &target).with(255, &[&url()]);
    stage
        .restore_file("0000000100000000000000FF", &target)
        .with(255, &[&url()]);
    proxy.heal();
    stage.restore_file(&name, &target).with(0, &[]);

    // Wrong names and keys are told apart from an empty store.
    configure(&stage, s3.port(), "s3://no-such-bucket/x", "");
    stage.restore_file(&name, &target).with(255, &["no such bucket"]);
    stage.archive_file(&name).with(1, &["no such bucket"]);
    configure(&stage, s3.port(), &url(), "");
    std::fs::write(
        stage.path("s3.credentials"),
        format!("[default]\naws_access_key_id = {ACCESS_KEY}\naws_secret_access_key = wrong-secret\n"),
    )
    .unwrap();
    let said = stage
        .restore_file(&name, &target)
        .with(255, &["does not accept the credentials"]);
    assert!(!said.err.contains("wrong-secret"), "{}", said.err);
    stage.archive_file(&name).with(1, &["credentials"]);
    std::fs::remove_file(stage.path("s3.credentials")).unwrap();
    stage.archive_file(&name).with(2, &["s3_credentials"]);
    let said = stage.walmgr(&["--set", "s3_allow_http=no", "stores"]);
    said.with(2, &["s3_allow_http"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_ignores_conditions_is_named_and_nothing_is_overwritten() {
    let s3 = S3Server::start().await.unwrap();
    s3.ignore_conditions();
    let stage = Stage::new().await;
    configure(&stage, s3.port(), &url(), "");
    stage
        .walmgr(&["create-store"])
        .with(0, &["ignores conditional puts", "is ready"]);
    let name = stage.segment(100).await;
    stage.archive_file(&name).with(0, &[]);
    let object = layout::object_of(name.parse().unwrap());
    let stored = s3.bucket().join(PREFIX).join(object.as_str());
    let there = std::fs::read(&stored).unwrap();
    stage.archive_file(&name).with(0, &[]);
    // Whatever lies there stays there.
    std::fs::write(&stored, b"another writer's").unwrap();
    stage.archive_file(&name).with(1, &["damaged"]);
    assert_eq!(std::fs::read(&stored).unwrap(), b"another writer's");
    std::fs::write(&stored, there).unwrap();
    stage.archive_file(&name).with(0, &[]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_that_was_away_catches_up_while_the_daemon_runs() {
    let s3 = S3Server::start().await.unwrap();
    let proxy = Proxy::to_port(s3.port()).await.unwrap();
    let stage = Stage::new().await;
    let stores = format!("{}, {}", stage.store().display(), url());
    configure(&stage, proxy.port(), &stores, "stores_needed = 1\n");
    stage.walmgr(&["create-store"]).with(0, &[]);
    proxy.cut();
    let daemon = stage.daemon().await;
    stage.archive().await;
    let mut names = Vec::new();
    for rows in [10, 20, 30] {
        names.push(stage.segment(rows).await);
    }
    stage.archived(&names[2]).await;
    let in_bucket = |name: &str| {
        let object = layout::object_of(name.parse().unwrap());
        s3.bucket().join(PREFIX).join(object.as_str())
    };
    assert!(names.iter().all(|name| !in_bucket(name).exists()));
    proxy.heal();
    // Nothing new is archived: it is given by itself.
    wait::until("the bucket to have it all", PATIENCE, async || {
        Ok(names.iter().all(|name| in_bucket(name).exists()).then_some(()))
    })
    .await
    .unwrap();
    wait::until("the daemon to say so", PATIENCE, async || {
        let said = stage.daemon_log().contains("were given what they lacked");
        Ok(said.then_some(()))
    })
    .await
    .unwrap();
    daemon.ends_politely().await;
    for name in &names {
        let directory = std::fs::read(stage.stored(name)).unwrap();
        assert!(std::fs::read(in_bucket(name)).unwrap() == directory, "{name}");
    }
}

/// A store that says nothing, neither yes nor no: with the other one nobody waits for it.
#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_hangs_holds_up_no_other() {
    let s3 = S3Server::start().await.unwrap();
    let proxy = Proxy::to_port(s3.port()).await.unwrap();
    let stage = Stage::new().await;
    let stores = format!("{}, {}", stage.store().display(), url());
    configure(
        &stage,
        proxy.port(),
        &stores,
        "stores_needed = 1\ns3_timeout = 10min\n",
    );
    stage.walmgr(&["create-store"]).with(0, &[]);
    stage.segment(10).await;
    let receiver = stage.copier("receive", &[]);
    let bucket = store(&s3);
    in_step_of(&stage.server, &bucket).await;
    // Whole segments are where they belong: those are waited for.
    let partials = layout::partials(skytide_wal::TimelineId::new(1).unwrap());
    wait::until_eq("the partial of the last segment alone", 1, PATIENCE, async || {
        Ok(bucket.partials(&partials).await?.len())
    })
    .await
    .unwrap();
    stage.run("insert into t (v) values ('before')").await;
    in_step_of(&stage.server, &bucket).await;
    proxy.pause();
    for id in 0..3 {
        stage
            .run(&format!("insert into t (v) values ('while it hangs {id}')"))
            .await;
        in_step(&stage.server, &stage.store()).await;
    }
    proxy.heal();
    stage.run("insert into t (v) values ('afterwards')").await;
    in_step(&stage.server, &stage.store()).await;
    in_step_of(&stage.server, &bucket).await;
    receiver.ends_politely().await;
}

/// The same of archiving and restoring, with the daemon and without. The store that hangs is the first one.
#[tokio::test(flavor = "multi_thread")]
async fn archiving_and_restoring_go_on_beside_a_store_that_hangs() {
    let s3 = S3Server::start().await.unwrap();
    let proxy = Proxy::to_port(s3.port()).await.unwrap();
    let stage = Stage::new().await;
    let stores = format!("{}, {}", url(), stage.store().display());
    configure(
        &stage,
        proxy.port(),
        &stores,
        "stores_needed = 1\ns3_timeout = 10min\n",
    );
    stage.walmgr(&["create-store"]).with(0, &[]);
    let daemon = stage.daemon().await;
    stage.archive().await;
    let mut names = vec![stage.segment(10).await];
    stage.archived(&names[0]).await;
    let in_bucket = |name: &str| {
        let object = layout::object_of(name.parse().unwrap());
        s3.bucket().join(PREFIX).join(object.as_str())
    };
    assert!(in_bucket(&names[0]).exists());

    let target = stage.directory("standby/pg_wal").join("RECOVERYXLOG");
    std::fs::write(stage.path("standby/standby.signal"), "").unwrap();
    let works = async |names: &mut Vec<String>, count: u32| {
        let begun = names.len();
        for rows in 1..=count {
            names.push(stage.segment(rows).await);
        }
        for name in &names[begun..] {
            stage.archived(name).await;
            stage.restore_file(name, &target).with(0, &[]);
        }
    };
    proxy.pause();
    works(&mut names, 4).await;
    // It may have what the other one does not have.
    for missing in ["00000002.history", "0000000100000000000000FE"] {
        stage
            .restore_file(missing, &target)
            .with(1, &["s3://", "does not answer"]);
    }
    daemon.ends_politely().await;
    works(&mut names, 1).await;
    let elsewhere = stage.path("RECOVERYXLOG");
    stage
        .walmgr(&[
            "--set",
            "restore_timeout=1s",
            "restore-wal",
            "00000002.history",
            elsewhere.to_str().unwrap(),
        ])
        .with(255, &["does not answer"]);
    assert!(names[1..].iter().all(|name| !in_bucket(name).exists()));

    proxy.heal();
    let daemon = stage.daemon().await;
    wait::until("the bucket to have it all", PATIENCE, async || {
        Ok(names.iter().all(|name| in_bucket(name).exists()).then_some(()))
    })
    .await
    .unwrap();
    daemon.ends_politely().await;
}

/// Killed when the bucket has an object and nobody was told, and between two objects that it is given later.
#[cfg(feature = "failpoints")]
#[tokio::test(flavor = "multi_thread")]
async fn killed_puts_and_copies_are_made_good_by_the_next_call() {
    let s3 = S3Server::start().await.unwrap();
    let proxy = Proxy::to_port(s3.port()).await.unwrap();
    let stage = Stage::new().await;
    let stores = format!("{}, {}", stage.store().display(), url());
    configure(&stage, proxy.port(), &stores, "stores_needed = 1\n");
    stage.walmgr(&["create-store"]).with(0, &[]);
    let in_bucket = |name: &str| {
        let object = layout::object_of(name.parse().unwrap());
        s3.bucket().join(PREFIX).join(object.as_str())
    };
    let first = stage.segment(10).await;
    let first_path = format!("pg_wal/{first}");
    stage
        .killed_at("s3::put", &["archive", &first_path, &first])
        .await;
    assert!(in_bucket(&first).exists());
    stage.archive_file(&first).with(0, &[]);

    proxy.cut();
    let mut names = Vec::new();
    for rows in [10, 20, 30] {
        let name = stage.segment(rows).await;
        stage.archive_file(&name).with(0, &[]);
        names.push(name);
    }
    proxy.heal();
    let last = stage.segment(40).await;
    let last_path = format!("pg_wal/{last}");
    stage
        .killed_at("catch_up::copied", &["archive", &last_path, &last])
        .await;
    assert!(in_bucket(&names[0]).exists() && !in_bucket(&names[2]).exists());
    stage.archive_file(&last).with(0, &[]);
    names.push(last);
    for name in &names {
        let directory = std::fs::read(stage.stored(name)).unwrap();
        assert!(std::fs::read(in_bucket(name)).unwrap() == directory, "{name}");
    }
}
