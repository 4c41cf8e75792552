//! One of several stores is gone: the others do what they can, and nothing is concluded from the one that is silent.

use super::*;
use crate::walmgr::copy::in_step;

fn two(stage: &Stage, needed: usize) {
    let (gone, whole) = (stage.path("gone"), stage.store());
    let stores = format!("stores = {}, {}", gone.display(), whole.display());
    configure(
        stage,
        &format!("{stores}\nstores_needed = {needed}\nrestore_timeout = 1s"),
    );
}

/// Prevents: a cluster that cannot be restored from a whole store, because another one's disk is lost.
#[tokio::test]
async fn a_whole_store_serves_beside_one_that_is_gone() {
    let stage = stage(Options::default()).await;
    let label = backup(&stage);
    let segment = stage.segment(10).await;
    flush(&stage).await;
    two(&stage, 1);
    let gone = stage.path("gone").display().to_string();

    let said = stage
        .walmgr(&["listbackups", "--json"])
        .with(0, &["left out", &gone]);
    assert!(said.out.contains(&label), "{said:?}");
    let said = stage.walmgr(&["verify"]).with(3, &["left out", &gone]);
    assert!(
        said.out.contains(&gone) && said.out.contains("1 problems"),
        "{said:?}"
    );
    let said = stage.walmgr(&["stores"]).with(1, &[&gone]);
    assert!(said.out.contains(&segment[..16]), "{said:?}");
    stage.walmgr(&["status"]).with(1, &[&gone]);

    // Served where one has it; "not there" only if all say so.
    let target = stage.directory("file").join("RECOVERYXLOG");
    stage.restore_file(&segment, &target).with(0, &[]);
    let never = "0000000100000000000000F0";
    stage
        .restore_file(never, &target)
        .with(255, &["cannot be reached", &gone]);
    stage
        .restore_file("00000009.history", &target)
        .with(255, &["cannot be reached", &gone]);

    restore(&stage, "latest", "restored", &[]).with(0, &["left out", &gone, "take it out of stores"]);
    // It is lost: recovery asks the other one alone.
    configure(&stage, "");
    let restored = stage.recovered("restored").await;
    assert_eq!(content(&restored.0).await, content(&stage.server).await);
    two(&stage, 1);

    // As many as are needed.
    let own = stage.segment(1).await;
    stage.archive_file(&own).with(0, &[]);
    wait_a_label(&label).await;
    let said = stage.walmgr(&["backup"]).with(0, &["not in every store", &gone]);
    assert!(said.out.contains("backup "), "{said:?}");
    assert_eq!(labels(&stage).len(), 2);
    two(&stage, 2);
    stage.walmgr(&["backup"]).with(1, &["only 1 of 2 stores"]);
    assert_eq!(labels(&stage).len(), 2);

    // Nothing that is needed goes, and the other store is purged all the same.
    stage
        .walmgr(&["purge", "--keep", "1"])
        .with(1, &["left out", &gone]);
    let kept = labels(&stage);
    assert!(kept.len() == 1 && kept[0] != label, "{kept:?}");
    stage.walmgr(&["drop-timeline", "9", "--yes"]).with(1, &[&gone]);

    // None is there.
    configure(&stage, &format!("stores = {gone}"));
    for words in [
        &["listbackups"][..],
        &["verify"],
        &["purge", "--keep", "1"],
        &["backup"],
    ] {
        stage.walmgr(words).with(1, &["cannot be reached", "Mount it"]);
    }
}

/// A daemon is not started anew when the disk is mounted.
#[tokio::test]
async fn a_store_that_comes_back_is_used_by_who_runs() {
    let stage = stage(Options::default()).await;
    two(&stage, 1);
    let daemon = stage.daemon().await;
    let segment = stage.segment(10).await;
    stage.archived(&segment).await;
    let made = stage.store_in("gone");
    let file = made.join(format!("wal/00000001/{segment}.zst"));
    wait::until(
        "the store that came to be given the segment",
        PATIENCE,
        async || {
            stage.segment(1).await;
            Ok(file.exists().then_some(()))
        },
    )
    .await
    .unwrap();
    daemon.ends_politely().await;
}

#[tokio::test]
async fn receive_begins_beside_a_store_that_is_gone() {
    let stage = stage(Options::default()).await;
    two(&stage, 1);
    let receiver = stage.copier("receive", &[]);
    in_step(&stage.server, &stage.store()).await;
    let made = stage.store_in("gone");
    in_step(&stage.server, &made).await;
    receiver.ends_politely().await;
}

/// Where a store has a segment of timeline 1.
fn file_in(store: &Path, segment: &str) -> PathBuf {
    store.join(format!("wal/00000001/{segment}.zst"))
}

/// Prevents: WAL that is purged where it is, while the store that lacks it is away: its backup then leads nowhere for good.
#[tokio::test]
async fn a_store_that_was_away_through_a_purge_is_given_what_it_missed() {
    let stage = stage(Options::default()).await;
    let other = stage.store_in("other");
    let away = stage.path("away");
    let both = format!(
        "stores = {}, {}\nstores_needed = 1",
        other.display(),
        stage.store().display()
    );
    configure(&stage, &both);
    let first = backup(&stage);
    flush(&stage).await;
    fs::rename(&other, &away).unwrap();
    let missed = stage.segment(10).await;
    flush(&stage).await;
    wait_a_label(&first).await;
    let second = backup(&stage);
    flush(&stage).await;
    let said = stage
        .walmgr(&["purge", "--keep", "1"])
        .with(1, &["no WAL goes", "other"]);
    assert!(said.out.contains(&first), "{said:?}");
    assert!(file_in(&stage.store(), &missed).exists());

    // Back, it has the older backup only, whose WAL is in the other one.
    fs::rename(&away, &other).unwrap();
    stage.walmgr(&["purge", "--keep", "1"]).with(0, &[]);
    assert!(file_in(&stage.store(), &missed).exists());
    // Who archives alone fills what is missing shortly before its file.
    flush(&stage).await;
    fs::remove_file(file_in(&other, &missed)).unwrap();
    let said = stage.walmgr(&["verify"]).with(3, &[]);
    for word in [&missed, "other", &first, "comes no further"] {
        assert!(said.out.contains(word), "{word} {said:?}");
    }
    let daemon = stage.daemon().await;
    wait::until("the store to be given what it missed", PATIENCE, async || {
        Ok((stage.walmgr(&["verify"]).code == Some(0)).then_some(()))
    })
    .await
    .unwrap();
    configure(&stage, &format!("stores = {}", other.display()));
    let said = restore(&stage, "latest", "restored", &[]).with(0, &[]);
    assert!(said.out.contains(&first), "{said:?}");
    let restored = stage.recovered("restored").await;
    assert_eq!(content(&restored.0).await, content(&stage.server).await);
    drop(restored);
    daemon.ends_politely().await;

    // Now both have a newer one. What neither needs goes from both, and does not come back.
    configure(&stage, &both);
    wait_a_label(&second).await;
    let third = backup(&stage);
    flush(&stage).await;
    let kept = stage.segment(10).await;
    stage.archived(&kept).await;
    let purge = ["purge", "--keep", "1"];
    stage.walmgr(&[&purge[..], &["--no-wal"]].concat()).with(0, &[]);
    assert_eq!(labels(&stage), [third]);
    fs::remove_file(file_in(&other, &missed)).unwrap();
    fs::remove_file(file_in(&other, &kept)).unwrap();
    let daemon = stage.daemon().await;
    wait::until("the store to be level again", PATIENCE, async || {
        Ok(file_in(&other, &kept).exists().then_some(()))
    })
    .await
    .unwrap();
    daemon.ends_politely().await;
    assert!(!file_in(&other, &missed).exists());
    stage.walmgr(&purge).with(0, &[]);
    assert!(!file_in(&stage.store(), &missed).exists());
    stage.walmgr(&["verify", "--wal"]).with(0, &[]);
}

/// Prevents: WAL that stays for days because of a backup that failed.
#[tokio::test]
async fn a_backup_that_fails_or_is_stopped_holds_no_wal() {
    let stage = stage(Options::default()).await;
    let first = backup(&stage);
    let old = stage.segment(10).await;
    flush(&stage).await;
    wait_a_label(&first).await;
    let second = backup(&stage);
    flush(&stage).await;
    let nothing_begun = || {
        let mut all = fs::read_dir(stage.store().join("backup")).unwrap();
        all.all(|dir| {
            let dir = dir.unwrap().path();
            dir.join("manifest").exists() || !dir.join("started").exists()
        })
    };

    // Nobody archives the WAL that it waits for.
    stage.run("alter system set archive_command = '/bin/false'").await;
    stage.run("select pg_reload_conf()").await;
    stage
        .walmgr(&["--set", "backup_wal_timeout=1s", "backup"])
        .with(1, &["archive_command"]);
    assert!(nothing_begun());
    let stopped = stage.copier("backup", &[]);
    wait::until("it to be begun", PATIENCE, async || {
        Ok((!nothing_begun()).then_some(()))
    })
    .await
    .unwrap();
    stopped.ends_with(1).await;
    assert!(nothing_begun(), "{}", stage.log("backup"));
    assert!(
        stage.log("backup").contains("was stopped"),
        "{}",
        stage.log("backup")
    );
    stage.archive().await;

    // Killed, it counts as begun until it has been silent for two hours.
    let dead = stage.directory("store/backup/20200101T000000F");
    stage.directory("store/backup/20200101T000000F/alive");
    let note = |started: u64| {
        fs::write(
            dead.join("started"),
            format!("process = 1\nstarted = {started}\n"),
        )
        .unwrap();
    };
    let now = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs();
    let purge = ["purge", "--keep", "1"];
    note(now - 60);
    stage.walmgr(&purge).with(0, &["no WAL goes", "20200101T000000F"]);
    note(now - 90_000);
    fs::write(dead.join(format!("alive/{}", now - 3600)), "alive\n").unwrap();
    stage.walmgr(&purge).with(0, &["no WAL goes", "20200101T000000F"]);
    assert!(stage.stored(&old).exists());
    fs::remove_file(dead.join(format!("alive/{}", now - 3600))).unwrap();
    note(now - 10_000);
    let said = stage.walmgr(&purge).with(0, &[]);
    assert!(!said.err.contains("no WAL goes"), "{said:?}");
    assert!(!stage.stored(&old).exists());
    assert_eq!(labels(&stage), [second]);
}

/// Prevents: an incremental in a store that lacks what it is built on, for which the good backup there goes.
#[tokio::test]
async fn an_incremental_goes_only_where_its_ground_is() {
    let stage = stage(Options::default()).await;
    let other = stage.store_in("other");
    let away = stage.path("away");
    let both = format!(
        "stores = {}, {}\nstores_needed = 1",
        other.display(),
        stage.store().display()
    );
    configure(&stage, &both);
    let first = backup(&stage);
    flush(&stage).await;
    fs::rename(&other, &away).unwrap();
    wait_a_label(&first).await;
    let ground = backup(&stage);
    flush(&stage).await;
    fs::rename(&away, &other).unwrap();
    wait_a_label(&ground).await;
    let said = stage
        .walmgr(&["backup", "--incremental"])
        .with(0, &["not in every store", &ground, "is built on"]);
    flush(&stage).await;
    assert!(said.out.contains("I:"), "{said:?}");
    let in_other = || {
        let mut labels: Vec<String> = fs::read_dir(other.join("backup"))
            .unwrap()
            .map(|dir| dir.unwrap().path())
            .filter(|dir| dir.join("manifest").exists())
            .map(|dir| dir.file_name().unwrap().to_string_lossy().into_owned())
            .collect();
        labels.sort();
        labels
    };
    assert_eq!(in_other(), std::slice::from_ref(&first));
    stage.walmgr(&["purge", "--keep-for", "1s"]).with(0, &[]);
    assert_eq!(in_other(), std::slice::from_ref(&first));
    stage.walmgr(&["verify"]).with(0, &[]);

    // One that goes in the middle is left out, and holds nothing when it is back.
    #[cfg(feature = "failpoints")]
    {
        let begun = stage.stopped_at("backup::copied", &["backup"]).await;
        fs::rename(&other, &away).unwrap();
        begun.goes_on().with(0, &["not in every store"]);
        fs::rename(&away, &other).unwrap();
        flush(&stage).await;
        let said = stage.walmgr(&["purge", "--keep", "1"]).with(0, &[]);
        assert!(!said.err.contains("no WAL goes"), "{said:?}");
        assert_eq!(in_other(), [first]);
    }
}
