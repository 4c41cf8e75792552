//! What old scripts call: configurations out of options, locks, bytes of a segment, the end of it all.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use skytide_fixtures::server::Options;

use super::copy::{boundary, flush_lsn, same, wal_in};
use super::course::one;
use super::stage::{Stage, content};

#[tokio::test]
async fn configurations_are_made_of_options_and_nothing_is_overwritten() {
    let stage = Stage::untouched(Options::default()).await;
    let data = stage.server.data_dir().to_str().unwrap().to_owned();
    let store = stage.store().to_str().unwrap().to_owned();
    let conf = stage.path("conf");
    stage
        .without_conf(&["--init-master", "--pgdata", &data])
        .with(2, &["where WAL shall be kept", "--store"]);
    stage
        .without_conf(&["--init-master", "--store", &store, "--pgdata", "/nonexistent"])
        .with(2, &["no data directory"]);
    stage
        .without_conf(&["--init-master", "--store", "not/absolute", "--pgdata", &data])
        .with(2, &["absolute path"]);
    assert!(
        !conf.join("wal-master.ini").exists(),
        "what is wrong is not left there"
    );
    let words = [
        "--init-master",
        "--store",
        &store,
        "--pgdata",
        &data,
        "--set",
        "keep_backups=3",
    ];
    let said = stage.without_conf(&words).with(0, &[]);
    assert!(said.out.contains("wal-master.ini setup"), "{said:?}");
    let master = conf.join("wal-master.ini");
    assert_eq!(fs::metadata(&master).unwrap().permissions().mode() & 0o777, 0o600);
    let text = fs::read_to_string(&master).unwrap();
    assert!(
        text.contains("keep_backups = 3") && text.contains("master_db = host="),
        "{text}"
    );
    stage.without_conf(&words).with(1, &["is there already"]);
    stage.by("conf/wal-master.ini", &["setup"]).with(0, &[]);

    let password = stage.path("password");
    fs::write(&password, "se:cret\n").unwrap();
    let words = [
        "--init-slave",
        "--store",
        &store,
        "--pgdata",
        "/srv/standby",
        "--primary-conninfo",
        "host=db1 user=repl",
        "--add-password",
        password.to_str().unwrap(),
    ];
    stage.without_conf(&words).with(0, &[]);
    let pgpass = stage.path(".pgpass");
    assert_eq!(fs::metadata(&pgpass).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(
        fs::read_to_string(&pgpass).unwrap(),
        "db1:5432:*:repl:se\\:cret\n"
    );
    let text = fs::read_to_string(conf.join("wal-slave.ini")).unwrap();
    assert!(
        text.contains("slave_data = /srv/standby") && !text.contains("cret"),
        "{text}"
    );
    // A place on another host is named by its daemon now.
    fs::write(
        stage.path("far.ini"),
        "[walmgr]\nslave = db2\ncompleted_wals = %(slave)s:/srv/logs.complete\n",
    )
    .unwrap();
    stage
        .by("far.ini", &["stores"])
        .with(2, &["far.ini:3", "host db2", "peer://db2:PORT"]);
}

#[tokio::test]
async fn whoever_holds_the_lock_keeps_backups_out() {
    let stage = Stage::new().await;
    stage.configure_copy("keep_backups = 1");
    stage.walmgr(&["setup"]).with(0, &[]);
    let us = std::process::id().to_string();
    let mut dead = std::process::Command::new("true").spawn().unwrap();
    dead.wait().unwrap();
    stage.walmgr(&["xlock", &dead.id().to_string()]).with(0, &[]);
    // A dead process's lock is taken over.
    stage.walmgr(&["xlock", &us]).with(0, &[]);
    let said = stage.walmgr(&["xlock", "1"]).with(1, &[]);
    assert_eq!(said.out.trim(), us);
    for command in ["backup", "purge", "xrotate", "xpurgewals"] {
        stage.walmgr(&[command]).with(1, &["BACKUPLOCK", &us, "xrelease"]);
    }
    stage.walmgr(&["xrelease"]).with(0, &[]);
    stage.walmgr(&["xrelease"]).with(0, &[]);

    // Rotation keeps as many as it is told, and never removes WAL that a kept backup needs.
    stage.segment(100).await;
    stage.walmgr(&["backup"]).with(0, &[]);
    let ran = stage.path("ran");
    let last = stage.segment(100).await;
    stage.archived(&last).await;
    stage.walmgr(&["xrotate"]).with(0, &[]);
    let labels = || {
        let said = stage.walmgr(&["--json", "listbackups"]).json();
        said.as_array().unwrap().len()
    };
    assert_eq!(labels(), 1);
    let first_backup = stage.walmgr(&["--json", "listbackups"]).json()[0]["label"].clone();
    let first_backup = first_backup.as_str().unwrap().to_owned();
    skytide_fixtures::wait::until("another label", super::stage::PATIENCE, async || {
        let now = stage.walmgr(&["--json", "backup"]);
        Ok((now.code == Some(0)).then_some(()))
    })
    .await
    .unwrap();
    let hook = format!(
        "keep_backups = 1\narchive_command = echo $BACKUPDIR >> {}",
        ran.display()
    );
    stage.configure_copy(&hook.replace("echo $", "echo $$"));
    assert_eq!(labels(), 2);
    stage
        .walmgr(&["--set", "archive_command=exit 7", "xrotate"])
        .with(1, &["archive_command failed"]);
    assert_eq!(labels(), 2, "nothing is removed when it fails");
    stage.walmgr(&["xrotate"]).with(0, &[]);
    assert_eq!(labels(), 1);
    let removed = fs::read_to_string(&ran).unwrap();
    assert!(
        removed.trim().ends_with(&format!("backup/{first_backup}")),
        "{removed}"
    );
    stage.walmgr(&["xpurgewals"]).with(0, &[]);
    stage.walmgr(&["verify"]).with(0, &[]);
    let data = stage.directory("restored").join("data");
    let last = stage.segment(100).await;
    stage.archived(&last).await;
    stage
        .walmgr(&["restore", "latest", data.to_str().unwrap()])
        .with(0, &[]);
    let restored = stage.recovered("restored").await;
    assert_eq!(content(&restored.0).await, content(&stage.server).await);
}

#[tokio::test]
async fn bytes_of_a_segment_go_behind_what_the_store_has() {
    let stage = Stage::new().await;
    let full = stage.segment(2000).await;
    stage
        .run("insert into t (v) select 'more' from generate_series(1, 3000)")
        .await;
    let client = stage.client().await;
    let current: String = one(&client, "select pg_walfile_name(pg_current_wal_flush_lsn())").await;
    client.batch_execute("select txid_current()").await.unwrap();
    let end = flush_lsn(&stage.server).await.as_u64() as usize & 0xFF_FFFF;
    let wal = stage.server.data_dir().join("pg_wal");
    let bytes = fs::read(wal.join(&full)).unwrap();
    let push = |name: &str, offset: usize, bytes: &[u8]| {
        let (offset, count) = (offset.to_string(), bytes.len().to_string());
        stage.fed(&["xpartialsync", name, &offset, &count], bytes)
    };
    stage.walmgr(&["create-store"]).with(0, &[]);
    let stranger = "00000001000000000000000";
    push(stranger, 0, &bytes[..100]).with(2, &["not the name"]);
    // Nobody's store yet: only a segment's beginning says whose it is.
    push(&full, 8192, &bytes[8192..9000]).with(1, &["no cluster's yet"]);
    push(&full, 0, &bytes[..100_000]).with(0, &[]);
    push(&full, 100_001, &bytes[100_001..100_100]).with(1, &["the stores have WAL up to", "HINT"]);
    // The same again, and some more; as a sender that died does it.
    push(&full, 50_000, &bytes[50_000..150_000]).with(0, &[]);
    push(&full, 0, &bytes[..1000]).with(0, &[]);
    // Fewer bytes than were said.
    stage
        .fed(
            &["xpartialsync", &full, "150000", "100"],
            &bytes[150_000..150_050],
        )
        .with(1, &["has 50 bytes"]);
    let before = boundary(&stage.store()).await.as_u64() & 0xFF_FFFF;
    let mut damaged = bytes[150_000..400_000].to_vec();
    damaged[60_000] ^= 4;
    push(&full, 150_000, &damaged).with(1, &["damaged where it comes from", "wrong checksum"]);
    let kept = boundary(&stage.store()).await.as_u64() & 0xFF_FFFF;
    // Whole records before the damage may have been kept.
    assert!(before > 0 && (before..210_000).contains(&kept), "{before} {kept}");
    push(&full, 150_000, &bytes[150_000..]).with(0, &[]);
    assert!(stage.stored(&full).is_file(), "a full segment is kept as one");
    let bytes = fs::read(wal.join(&current)).unwrap();
    push(&current, 0, &bytes[..end]).with(0, &[]);
    assert_eq!(same(&wal_in(&stage.store(), 1).await, 1, &stage.server), 2);
    assert_eq!(boundary(&stage.store()).await.as_u64() as usize & 0xFF_FFFF, end);
    push(&current, 16_000_000, &bytes[..2_000_000]).with(1, &["are not all in"]);
}

#[tokio::test]
async fn cleanup_removes_the_store_and_nothing_else() {
    let stage = Stage::new().await;
    stage.configure_copy("");
    stage.walmgr(&["setup"]).with(0, &[]);
    stage
        .walmgr(&["cleanup"])
        .with(1, &["archives by this program", "stop"]);
    stage.walmgr(&["stop"]).with(0, &[]);
    stage.walmgr(&["cleanup"]).with(2, &["--yes", "store/wal"]);
    stage
        .old(&["-n", stage.conf().to_str().unwrap(), "cleanup"])
        .with(0, &["nothing was removed"]);
    assert!(stage.store().join("wal").is_dir());
    let daemon = stage.daemon().await;
    stage
        .walmgr(&["cleanup", "--yes"])
        .with(1, &["the daemon answers"]);
    daemon.ends_politely().await;

    // A directory that is no store stays.
    let letters = stage.directory("letters");
    let written = stage
        .server
        .command("/bin/touch")
        .arg(letters.join("dear"))
        .status();
    assert!(written.unwrap().success());
    let stores = format!("stores={}, {}", stage.store().display(), letters.display());
    stage
        .walmgr(&["--set", &stores, "cleanup", "--yes"])
        .with(1, &["is not empty and no store"]);
    assert!(stage.store().join("wal").is_dir());
    let written = stage
        .server
        .command("/bin/touch")
        .arg(stage.store().join("mine"))
        .status();
    assert!(written.unwrap().success());
    stage.walmgr(&["cleanup", "--yes"]).with(0, &[]);
    let left: Vec<_> = fs::read_dir(stage.store())
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert_eq!(left, ["mine"], "what is not ours stays");
    assert!(!stage.conf().exists());
    assert!(stage.server.is_running());
}
