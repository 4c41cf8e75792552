//! Bits that flip, in the store and in the cluster.

use super::*;

#[tokio::test]
async fn a_flipped_bit_is_named_and_never_served() {
    let stage = stage(Options::default()).await;
    let label = backup(&stage);
    flush(&stage).await;
    let piece = stage.store().join(format!("backup/{label}/data/00000000.zst"));
    let sound = fs::read(&piece).unwrap();
    for at in [3, sound.len() / 2, sound.len() - 2] {
        let mut damaged = sound.clone();
        damaged[at] ^= 0x20;
        fs::write(&piece, damaged).unwrap();
        let said = stage.walmgr(&["verify"]).with(3, &[]);
        assert!(
            said.out.contains("data/00000000.zst") && said.out.contains("frame"),
            "{said:?}"
        );
        let name = format!("restored{at}");
        restore(&stage, "latest", &name, &[]).with(1, &["data/00000000.zst", "is damaged"]);
        assert!(
            !stage.path(&name).join("data/global/pg_control").exists(),
            "no server starts on it"
        );
    }
    fs::write(&piece, &sound).unwrap();
    stage.walmgr(&["verify"]).with(0, &[]);
    // What was found sound is left out, and is not taken for sound for ever.
    fs::write(&piece, "rubbish").unwrap();
    let said = stage.walmgr(&["verify", "--unless-within", "1h"]).with(0, &[]);
    assert!(said.out.contains("left out"), "{said:?}");
    stage.walmgr(&["verify"]).with(3, &[]);

    // A second store has a sound copy.
    let copied = stage
        .server
        .command("/bin/cp")
        .arg("-a")
        .args([stage.store(), stage.path("second")])
        .output();
    assert!(copied.unwrap().status.success());
    let second = stage.path("second");
    fs::write(second.join(format!("backup/{label}/data/00000000.zst")), &sound).unwrap();
    let both = format!("stores = {}, {}", stage.store().display(), second.display());
    configure(&stage, &both);
    restore(&stage, "latest", "both", &[]).with(0, &[]);
    let restored = stage.recovered("both").await;
    assert_eq!(content(&restored.0).await, content(&stage.server).await);

    // The manifest.
    configure(&stage, "");
    fs::write(&piece, &sound).unwrap();
    let manifest = stage.store().join(format!("backup/{label}/manifest"));
    let mut bytes = fs::read(&manifest).unwrap();
    bytes[100] ^= 1;
    fs::write(&manifest, bytes).unwrap();
    stage
        .walmgr(&["listbackups"])
        .with(3, &["manifest", "is damaged"]);
    stage.walmgr(&["verify"]).with(3, &[]);
}

/// Prevents: a backup that is called sound and cannot be recovered, since the WAL it needs is damaged.
#[tokio::test]
async fn damage_in_the_wal_a_backup_needs_is_found() {
    let stage = stage(Options::default()).await;
    let summary = backup_with(&stage, &[]);
    let start: skytide_sql::Lsn = summary["start_lsn"].as_str().unwrap().parse().unwrap();
    let needed = format!("00000001{:016X}", start.as_u64() >> 24);
    let later = stage.segment(10).await;
    flush(&stage).await;
    let flip = |name: &str| {
        let path = stage.stored(name);
        let sound = fs::read(&path).unwrap();
        let mut damaged = sound.clone();
        damaged[sound.len() / 3] ^= 4;
        fs::write(&path, damaged).unwrap();
        move || fs::write(&path, &sound).unwrap()
    };
    let mend = flip(&needed);
    let said = stage.walmgr(&["verify"]).with(3, &[]);
    assert!(
        said.out.contains(&needed) && said.out.contains("1 problems"),
        "{said:?}"
    );
    // It was not noted as sound.
    stage.walmgr(&["verify", "--unless-within", "1h"]).with(3, &[]);
    for more in [&["--immediate"][..], &[]] {
        restore(&stage, "latest", "never", more).with(1, &[&needed, "is damaged"]);
    }
    assert!(!stage.path("never/data").exists());
    mend();
    let said = stage.walmgr(&["verify", "--json"]).with(0, &[]).json();
    assert!(said["wal_files"].as_u64().unwrap() >= 1, "{said}");
    let said = stage
        .walmgr(&["verify", "--unless-within", "1h", "--json"])
        .with(0, &[])
        .json();
    assert_eq!(said["wal_files"], 0, "{said}");

    // Behind the backup's end only whoever asks for all of it is told.
    let mend = flip(&later);
    stage.walmgr(&["verify"]).with(0, &[]);
    let said = stage.walmgr(&["verify", "--wal"]).with(3, &[]);
    assert!(
        said.out.contains(&later) && said.out.contains("1 problems"),
        "{said:?}"
    );
    mend();
    stage.walmgr(&["verify", "--wal"]).with(0, &[]);
    restore(&stage, "latest", "restored", &["--immediate"]).with(0, &[]);
    stage.recovered("restored").await;
}

#[tokio::test]
async fn a_damaged_page_ends_the_backup_or_is_noted() {
    let options = Options {
        initdb_args: vec!["--data-checksums".into()],
        ..Options::default()
    };
    let stage = stage(options).await;
    let client = stage.client().await;
    client.batch_execute("create table other (n int)").await.unwrap();
    client.batch_execute("checkpoint").await.unwrap();
    let row = client
        .query_one("select pg_relation_filepath('t')", &[])
        .await
        .unwrap();
    let path: String = row.get(0);
    let file = stage.server.data_dir().join(&path);
    let mut bytes = fs::read(&file).unwrap();
    bytes[2 * 8192 + 5000] ^= 1;
    fs::write(&file, bytes).unwrap();

    let said = stage.walmgr(&["backup"]);
    said.with(
        1,
        &[
            "1 pages have a wrong checksum",
            "block 2",
            &path,
            "--accept-damage",
        ],
    );
    assert!(labels(&stage).is_empty());
    stage
        .walmgr(&["backup", "--accept-damage"])
        .with(0, &["wrong checksum were copied"]);
    let said = stage.walmgr(&["listbackups", "--json"]).with(0, &[]);
    let rows: serde_json::Value = serde_json::from_str(&said.out).unwrap();
    assert_eq!(rows[0]["damaged_pages"], 1);

    // An incremental takes the page from its parent, as damaged as it is there; it was accepted then.
    client
        .batch_execute("insert into other values (1)")
        .await
        .unwrap();
    let child = backup_with(&stage, &["--incremental"]);
    assert_eq!(child["damaged_pages"], 1, "{child}");
    let grandchild = backup_with(&stage, &["--incremental"]);
    assert_eq!(grandchild["damaged_pages"], 1, "{grandchild}");
}

/// Prevents: a store that can only be read, of which no more than the first backup is verified.
#[tokio::test]
async fn what_cannot_be_noted_is_verified_all_the_same() {
    let stage = stage(Options::default()).await;
    let first = backup(&stage);
    flush(&stage).await;
    wait_a_label(&first).await;
    backup(&stage);
    flush(&stage).await;
    // Nobody can put a note there.
    fs::write(stage.store().join(format!("backup/{first}/verified")), "").unwrap();
    let said = stage.walmgr(&["verify"]).with(0, &["is not noted"]);
    assert!(
        said.out.contains("2 backups") && said.out.contains("0 problems"),
        "{said:?}"
    );
}
