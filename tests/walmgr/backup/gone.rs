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
    let made = stage.directory("gone");
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
    let made = stage.directory("gone");
    in_step(&stage.server, &made).await;
    receiver.ends_politely().await;
}
