//! WAL goes into stores and comes back, or somebody is told exactly why not.

mod backup;
pub mod copy;
mod course;
mod foreign;
mod kills;
pub mod load;
mod manage;
mod old;
mod receive;
mod reload;
mod replaced;
mod s3;
mod salvage;
mod ship;
pub mod stage;
mod takeover;

use std::fs;

use rustix::process::Signal;
use skytide_fixtures::wait;
use skytide_sql::Lsn;
use skytide_wal::store::partial::{Boundary, WalPiece};
use skytide_wal::store::{Content, DirStore, Store, layout};
use skytide_wal::{SegmentName, SegmentSize};

use self::stage::{PATIENCE, Stage, content};

#[tokio::test]
async fn a_cluster_is_restored_from_a_base_and_the_archive() {
    let stage = Stage::new().await;
    stage.segment(100).await;
    let base = stage.base().await;
    stage.archive().await;
    let mut last = String::new();
    for rows in [2000, 1, 30_000] {
        last = stage.segment(rows).await;
    }
    stage.archived(&last).await;
    let wanted = content(&stage.server).await;

    let restored = stage.restored(&base, "restored", &[]).await;
    assert_eq!(content(&restored.0).await, wanted);
}

#[tokio::test]
async fn the_daemon_archives_ahead_and_reads_ahead() {
    let stage = Stage::new().await;
    stage.segment(100).await;
    let base = stage.base().await;
    let mut last = String::new();
    for rows in 0..12 {
        last = stage.segment(1000 + rows).await;
    }
    let daemon = stage.daemon().await;
    stage.archive().await;
    stage.archived(&last).await;
    let wanted = content(&stage.server).await;
    let restored = stage.restored(&base, "restored", &[]).await;
    assert_eq!(content(&restored.0).await, wanted);
    let log = stage.daemon_log();
    assert!(
        log.matches("archived").count() >= 12,
        "the daemon did the work:\n{log}"
    );
    assert!(log.matches("restored").count() >= 12, "{log}");
    daemon.ends_politely().await;
    // Without it things go on.
    let alone = stage.segment(10).await;
    stage.archived(&alone).await;
    assert!(stage.stored(&alone).is_file());
}

#[tokio::test]
async fn the_same_again_is_a_success_and_anything_else_is_refused() {
    let stage = Stage::new().await;
    let base = stage.base().await;
    let ours = stage.segment(500).await;
    stage.archive_file(&ours).with(0, &[]);
    let stored = fs::read(stage.stored(&ours)).unwrap();
    stage.archive_file(&ours).with(0, &[]);

    // Behind a switch there is padding: whatever is there, it is the same WAL.
    let file = stage.server.data_dir().join("pg_wal").join(&ours);
    let whole = fs::read(&file).unwrap();
    let mut padded = whole.clone();
    *padded.last_mut().unwrap() = 1;
    fs::write(stage.path("padded"), padded).unwrap();
    let padded = stage.path("padded");
    stage
        .walmgr(&["archive", padded.to_str().unwrap(), &ours])
        .with(0, &[]);

    // Another server that was started on the same base wrote other records under the same name.
    let other = stage.started(&base, "twin").await;
    let client = other.0.connect("postgres").await.unwrap();
    client
        .batch_execute("create table other (id int); insert into other values (1); select pg_switch_wal()")
        .await
        .unwrap();
    let theirs = other.0.data_dir().join("pg_wal").join(&ours);
    wait::until("the twin's segment", PATIENCE, async || {
        Ok(theirs.exists().then_some(()))
    })
    .await
    .unwrap();
    stage
        .walmgr(&["archive", theirs.to_str().unwrap(), &ours])
        .with(1, &["has another", "first difference is at 0/", "HINT"]);
    assert_eq!(
        fs::read(stage.stored(&ours)).unwrap(),
        stored,
        "nothing was overwritten"
    );
}

#[tokio::test]
async fn a_flipped_bit_is_refused_on_the_way_in_and_on_the_way_out() {
    let stage = Stage::new().await;
    let name = stage.segment(2000).await;
    let whole = fs::read(stage.server.data_dir().join("pg_wal").join(&name)).unwrap();
    let damaged = stage.path("damaged");
    let data = whole.iter().rposition(|byte| *byte != 0).unwrap();
    // A page header, a record somewhere, the last one.
    for at in [8192 + 9, data / 2, data] {
        let mut bytes = whole.clone();
        bytes[at] ^= 0x10;
        fs::write(&damaged, bytes).unwrap();
        let said = stage.walmgr(&["archive", damaged.to_str().unwrap(), &name]);
        said.with(1, &[&name, "not sound WAL", "DETAIL", " 0/"]);
        assert!(!stage.stored(&name).exists(), "nothing was kept");
    }
    // A whole file of another place.
    let said = stage.walmgr(&["archive", &format!("pg_wal/{name}"), "0000000100000000000000FE"]);
    said.with(1, &["0000000100000000000000FE"]);

    stage.archive_file(&name).with(0, &[]);
    let stored = stage.stored(&name);
    let packed = fs::read(&stored).unwrap();
    let target = stage.server.data_dir().join("RECOVERYXLOG");
    for at in [10, packed.len() / 2, packed.len() - 20] {
        let mut bytes = packed.clone();
        bytes[at] ^= 1;
        fs::write(&stored, bytes).unwrap();
        stage.restore_file(&name, &target).with(255, &[&name, "damaged"]);
        assert!(!target.exists(), "and nothing is left there");
    }
    fs::write(&stored, packed).unwrap();
    stage.restore_file(&name, &target).with(0, &[]);
    assert!(fs::read(&target).unwrap() == whole);
}

#[tokio::test]
async fn missing_is_1_and_trouble_stops_recovery() {
    let stage = Stage::new().await;
    let name = stage.segment(10).await;
    stage.archive_file(&name).with(0, &[]);
    let target = stage.server.data_dir().join("RECOVERYXLOG");
    for missing in ["0000000100000000000000FE", "00000002.history"] {
        let said = stage.restore_file(missing, &target).with(1, &[]);
        assert!(said.err.is_empty() && !target.exists(), "{said:?}");
    }
    for name in [
        "../../etc/passwd",
        "..",
        "000000010000000000000001/..",
        "xlogtemp.1",
    ] {
        stage
            .restore_file(name, &target)
            .with(255, &["not the name of a WAL file"]);
        stage.archive_file(name).with(2, &["not the name of a WAL file"]);
    }
    // Nothing that goes wrong may look like the end of the WAL.
    stage.walmgr(&["restore-wal", &name]).with(255, &["Usage"]);
    stage
        .walmgr(&["--set", "colour=red", "restore-wal", &name, "x"])
        .with(255, &["colour"]);
    // Nor a mistyped word. Who archives is asked again in any case.
    let path = target.to_str().unwrap();
    for word in ["restore_wal", "restore", "xrestoer"] {
        stage.walmgr(&[word, &name, path]).with(255, &[]);
        stage.small(&[word, &name, path]).with(255, &[]);
        stage
            .old(&[stage.conf().to_str().unwrap(), word, &name, path])
            .with(255, &[]);
    }
    stage.small(&[]).with(255, &["no command is given"]);
    stage.walmgr(&[]).with(2, &["no command is given"]);
    stage
        .walmgr(&["archiv", &format!("pg_wal/{name}"), &name])
        .with(2, &["archiv"]);
    // The store's file system is not mounted.
    fs::rename(stage.store(), stage.path("away")).unwrap();
    // Of a server that has ended its recovery only the segments are trouble: told to stop when it asks for a history, it would
    // go on as a primary on its old timeline.
    let own = stage.server.data_dir().join("pg_wal");
    stage
        .restore_file("00000002.history", &own.join("RECOVERYHISTORY"))
        .with(1, &["cannot be reached"]);
    stage
        .walmgr(&[
            "--set",
            "restore_timeout=1s",
            "restore-wal",
            &name,
            own.join("RECOVERYXLOG").to_str().unwrap(),
        ])
        .with(255, &["cannot be reached"]);
    stage.archive_file(&name).with(1, &["create-store"]);
    assert!(!stage.store().exists(), "it is not made anew");
    // The place where it is mounted is there all the same.
    stage.directory("store");
    stage.archive_file(&name).with(1, &["create-store"]);
    stage
        .walmgr(&[
            "--set",
            "restore_timeout=1s",
            "restore-wal",
            &name,
            own.join("RECOVERYXLOG").to_str().unwrap(),
        ])
        .with(255, &["cannot be reached"]);
    stage.walmgr(&["verify"]).with(1, &["cannot be reached"]);
    fs::remove_dir(stage.store()).unwrap();
    fs::rename(stage.path("away"), stage.store()).unwrap();
    // Somebody is writing the configuration. A standby would not outlive a 255.
    let conf = fs::read_to_string(stage.conf()).unwrap();
    fs::write(stage.conf(), "[walm").unwrap();
    stage.restore_file(&name, &target).with(255, &["wal.ini"]);
    let standby = stage.directory("standby/pg_wal").join("RECOVERYXLOG");
    fs::write(stage.path("standby/standby.signal"), "").unwrap();
    stage.restore_file(&name, &standby).with(1, &["wal.ini"]);
    fs::write(stage.conf(), conf).unwrap();
    // Nor where somebody may not read the store.
    let allow = |mode| {
        fs::set_permissions(stage.store(), std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap()
    };
    allow(0o000);
    stage.restore_file(&name, &standby).with(1, &["ermission denied"]);
    allow(0o700);
    stage.restore_file(&name, &target).with(0, &[]);
    stage.archive_file(&name).with(0, &[]);
}

#[tokio::test]
async fn a_store_is_one_clusters() {
    let stage = Stage::new().await;
    let name = stage.segment(10).await;
    stage.archive_file(&name).with(0, &[]);
    let stranger = skytide_fixtures::server::Options {
        own_identity: true,
        ..Default::default()
    };
    let stranger = skytide_fixtures::server::Server::start(stranger).await.unwrap();
    let client = stranger.connect("postgres").await.unwrap();
    client
        .batch_execute("create table t (id int); select pg_switch_wal()")
        .await
        .unwrap();
    let wal = stranger.data_dir().join("pg_wal/000000010000000000000001");
    stage
        .walmgr(&["archive", wal.to_str().unwrap(), "000000010000000000000001"])
        .with(1, &["system"]);
}

/// Prevents: an archiver that waits for ever, and recovery that does, for a daemon that was stopped and lives.
#[tokio::test]
async fn a_daemon_that_says_nothing_is_not_waited_for() {
    let stage = Stage::new().await;
    let first = stage.segment(10).await;
    stage.archive_file(&first).with(0, &[]);
    let second = stage.segment(10).await;
    let daemon = stage.daemon().await;
    daemon.signal(Signal::STOP);
    daemon.stands_still().await;
    let target = stage.server.data_dir().join("pg_wal/RECOVERYXLOG");
    // Where a standby asks, which asks again.
    let standby = stage.directory("standby");
    stage.directory("standby/pg_wal");
    fs::write(standby.join("standby.signal"), "").unwrap();
    let asked_again = standby.join("pg_wal/RECOVERYXLOG");
    let path = format!("pg_wal/{second}");
    let socket = stage.conf().with_extension("sock");
    let socket = socket.to_str().unwrap();
    std::thread::scope(|scope| {
        let small = |words: Vec<String>| {
            let stage = &stage;
            scope.spawn(move || stage.small(&words.iter().map(String::as_str).collect::<Vec<_>>()))
        };
        let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
        let archived = small(words(&["archive", &path, &second]));
        let by_socket = small(words(&["archive", "--socket", socket, &path, &second]));
        let stopped = small(words(&["restore-wal", &first, target.to_str().unwrap()]));
        let waits = small(words(&["restore-wal", &first, asked_again.to_str().unwrap()]));
        let silent = "has said nothing for";
        archived.join().unwrap().with(0, &[silent, "archived without it"]);
        by_socket.join().unwrap().with(0, &[]);
        let hint = [first.as_str(), silent, "kill -CONT"];
        stopped.join().unwrap().with(255, &hint);
        waits.join().unwrap().with(1, &hint);
    });
    assert!(stage.stored(&second).exists());
    // It wakes up, and does nothing for those who are gone.
    daemon.signal(Signal::CONT);
    stage
        .small(&["restore-wal", &second, stage.path("asked").to_str().unwrap()])
        .with(0, &[]);
    daemon.ends_politely().await;
    assert!(!target.exists() && !asked_again.exists());
}

#[tokio::test]
async fn the_small_program_says_what_the_whole_one_says() {
    let stage = Stage::new().await;
    stage.configure("");
    stage.small(&["create-store"]).with(0, &["is ready"]);
    let names = [stage.segment(10).await, stage.segment(10).await];
    let target = stage.server.data_dir().join("RECOVERYXLOG");
    let target = target.to_str().unwrap();
    // First alone, then by the daemon.
    let mut daemon = None;
    for name in &names {
        let path = format!("pg_wal/{name}");
        stage.small(&["archive", &path, name]).with(0, &[]);
        stage.small(&["restore-wal", name, target]).with(0, &[]);
        assert!(fs::read(target).unwrap() == fs::read(stage.server.data_dir().join(&path)).unwrap());
        stage
            .small(&["restore-wal", "0000000100000000000000FF", target])
            .with(1, &[]);
        stage
            .small(&["archive", "pg_wal/nothing", "0000000100000000000000FE"])
            .with(1, &["pg_wal/nothing"]);
        if daemon.is_none() {
            daemon = Some(stage.daemon().await);
        }
    }
    daemon.unwrap().ends_politely().await;
    // Neither there: recovery must not end for it.
    std::fs::remove_file(stage.path("skytide")).unwrap();
    stage
        .small(&["restore-wal", &names[0], target])
        .with(255, &["skytide cannot be started"]);
}

#[tokio::test]
async fn every_store_has_it_or_as_many_as_are_needed() {
    let stage = Stage::new().await;
    let second = stage.path("second");
    let both = format!("stores = {}, {}", stage.store().display(), second.display());
    stage.configure(&both);
    stage.walmgr(&["create-store"]).with(0, &[]);
    let name = stage.segment(10).await;
    stage.archive_file(&name).with(0, &[]);
    let copy = second.join(format!("wal/00000001/{name}.zst"));
    assert_eq!(fs::read(&copy).unwrap(), fs::read(stage.stored(&name)).unwrap());

    // One copy is damaged: the other one serves.
    fs::write(stage.stored(&name), "rubbish").unwrap();
    let target = stage.server.data_dir().join("RECOVERYXLOG");
    stage.restore_file(&name, &target).with(0, &[]);
    // And archiving again says so.
    stage.archive_file(&name).with(1, &["1 of 2 stores", "damaged"]);
    stage.configure(&format!("{both}\nstores_needed = 1"));
    stage.archive_file(&name).with(0, &["left behind"]);
}

#[tokio::test]
async fn a_timelines_last_beginning_is_served_when_there_is_no_more() {
    let stage = Stage::new().await;
    stage.segment(100).await;
    let base = stage.base().await;
    stage.archive().await;
    let full = stage.segment(300).await;
    stage.archived(&full).await;
    // A standby-like twin that is promoted archives the beginning of timeline 1's last segment.
    let line = stage.line("archive %p %f");
    let promoted = stage
        .restored(
            &base,
            "promoted",
            &[("archive_mode", "on"), ("archive_command", &line)],
        )
        .await;
    let client = promoted.0.connect("postgres").await.unwrap();
    client
        .batch_execute("insert into t (v) values ('on timeline 2'); select pg_switch_wal()")
        .await
        .unwrap();
    let history = stage.store().join("history/00000002.history.zst");
    wait::until("the history", PATIENCE, async || {
        Ok(history.exists().then_some(()))
    })
    .await
    .unwrap();
    let wanted = content(&promoted.0).await;
    let row = client
        .query_one("select pg_walfile_name(pg_current_wal_insert_lsn())", &[])
        .await
        .unwrap();
    let current: String = row.get(0);
    client.batch_execute("select pg_switch_wal()").await.unwrap();
    let done = promoted.0.data_dir().join("pg_wal/archive_status");
    wait::until("everything to be archived", PATIENCE, async || {
        let waits = fs::read_dir(&done)?
            .filter_map(Result::ok)
            .any(|entry| entry.file_name().to_string_lossy().ends_with(".ready"));
        Ok((!waits).then_some(()))
    })
    .await
    .unwrap();
    assert!(current.starts_with("00000002"));

    let again = stage.restored(&base, "again", &[]).await;
    assert_eq!(content(&again.0).await, wanted, "it follows the new timeline");
}

#[tokio::test]
async fn an_unfinished_segment_is_served_up_to_its_last_record() {
    let stage = Stage::new().await;
    stage.segment(100).await;
    let base = stage.base().await;
    stage.archive().await;
    let full = stage.segment(300).await;
    stage.archived(&full).await;
    stage
        .run("insert into t (v) select 'unfinished' from generate_series(1, 1000)")
        .await;
    let row = stage
        .client()
        .await
        .query_one(
            "select pg_walfile_name(lsn), lsn::text from pg_current_wal_insert_lsn() lsn",
            &[],
        )
        .await
        .unwrap();
    let (last, end): (String, String) = (row.get(0), row.get(1));
    let end: Lsn = end.parse().unwrap();
    let wanted = content(&stage.server).await;
    stage.server.kill().unwrap();
    let wal = fs::read(stage.server.data_dir().join("pg_wal").join(&last)).unwrap();

    // As PostgreSQL archives it when a timeline ends: a name of its own, and what follows the last record is of no
    // interest.
    let mut partial = wal.clone();
    *partial.last_mut().unwrap() = 1;
    let file = stage.path("file.partial");
    fs::write(&file, partial).unwrap();
    let name = format!("{last}.partial");
    stage
        .walmgr(&["archive", file.to_str().unwrap(), &name])
        .with(0, &[]);
    stage
        .walmgr(&["archive", file.to_str().unwrap(), &name])
        .with(0, &[]);
    let restored = stage.restored(&base, "from_file", &[]).await;
    assert_eq!(content(&restored.0).await, wanted);
    let stored = stage.store().join(format!("wal/00000001/{name}.zst"));
    fs::remove_file(stored).unwrap();

    // As it is received: piece by piece, the last one ending in the middle of a record.
    let store = DirStore::open(&stage.store()).unwrap();
    let segment: SegmentName = last.parse().unwrap();
    let size = SegmentSize::new(wal.len() as u32).unwrap();
    let start = segment.start(size).unwrap();
    let data = end.bytes_since(start).unwrap() as usize;
    let mut at = 0;
    for (number, chunk) in wal[..data].chunks(10_000).enumerate() {
        let piece = WalPiece {
            start_lsn: Lsn::new(start.as_u64() + 10_000 * number as u64),
            boundary: Boundary {
                lsn: start,
                last_record: None,
            },
            wal: chunk.to_vec().into(),
        };
        let content = Content::new(piece.encode().unwrap());
        at = store
            .append(&layout::partial_of(segment), at, content)
            .await
            .unwrap();
    }
    let torn = WalPiece {
        start_lsn: end,
        boundary: Boundary {
            lsn: start,
            last_record: None,
        },
        wal: vec![0xAA; 77].into(),
    };
    let content_of_torn = Content::new(torn.encode().unwrap());
    store
        .append(&layout::partial_of(segment), at, content_of_torn)
        .await
        .unwrap();
    drop(store);
    stage.give_to_server("store/partial");
    let restored = stage.restored(&base, "from_pieces", &[]).await;
    assert_eq!(content(&restored.0).await, wanted);

    let target = stage.path("target");
    stage.restore_file(&last, &target).with(0, &[]);
    let served = fs::read(&target).unwrap();
    assert_eq!(served.len(), wal.len(), "recovery is given whole segments");
    assert!(
        served[data..].iter().all(|byte| *byte == 0),
        "and nothing behind the last record"
    );
}

#[cfg(feature = "failpoints")]
mod crash {
    use super::*;

    /// Every place where the program may die while it archives.
    const STEPS: [&str; 4] = [
        "durable::written",
        "durable::fsynced",
        "durable::named",
        "durable::synced",
    ];

    #[tokio::test]
    async fn a_daemon_killed_at_any_step_loses_nothing() {
        let stage = Stage::new().await;
        stage.segment(100).await;
        let base = stage.base().await;
        stage.archive().await;
        let mut last = stage.segment(10).await;
        stage.archived(&last).await;
        for step in STEPS {
            let mut daemon = stage
                .daemon_with(&[("SKYTIDE_STOP_AT", &format!("{step}=1"))])
                .await;
            last = stage.segment(700).await;
            daemon.stands_still().await;
            daemon.kill();
            // The client that waited for it does the work itself.
            stage.archived(&last).await;
        }
        let wanted = content(&stage.server).await;
        let restored = stage.restored(&base, "restored", &[]).await;
        assert_eq!(content(&restored.0).await, wanted);
    }

    #[tokio::test]
    async fn a_full_disk_keeps_the_file_on_the_server_until_there_is_room() {
        let stage = Stage::new().await;
        let name = stage.segment(10).await;
        stage.archive_file(&name).with(0, &[]);
        let next = stage.segment(10).await;
        let file = format!("pg_wal/{next}");
        let full = [("FAILPOINTS", "durable::full=return")];
        stage
            .walmgr_with(&full, &["archive", &file, &next])
            .with(1, &["could not write", "Make room"]);
        let names = |dir: &str| fs::read_dir(stage.store().join(dir)).unwrap().count();
        assert_eq!(names("wal/00000001"), 1, "no half of it is left");
        stage.archive_file(&next).with(0, &[]);
        assert_eq!(names("wal/00000001"), 2);

        let target = stage.server.data_dir().join("RECOVERYXLOG");
        let full = [("FAILPOINTS", "restore::full=return")];
        let words = ["restore-wal", &next, target.to_str().unwrap()];
        stage.walmgr_with(&full, &words).with(255, &["could not write"]);
        assert!(!target.exists());
    }
}
