//! Backups of what has changed since another one, as the archived WAL says.

use super::*;

#[tokio::test]
async fn a_chain_of_incrementals_is_as_good_as_a_full_backup() {
    let majors: std::collections::BTreeSet<u32> = versions::installed(&Search::from_env(None))
        .iter()
        .map(|found| found.version.major)
        .collect();
    for major in majors.into_iter().filter(|major| (13..=18).contains(major)) {
        let options = Options {
            major: Some(major),
            initdb_args: vec!["--data-checksums".into()],
            ..Options::default()
        };
        let stage = stage(options).await;
        let place = stage.directory("space");
        stage
            .run(&format!("create tablespace far location '{}'", place.display()))
            .await;
        let before = "create table big (id int primary key, v text); \
            insert into big select n, repeat(md5(n::text), 4) from generate_series(1, 40000) n; \
            create table cut (id int primary key); insert into cut select generate_series(1, 50000); \
            create table gone (id int primary key); insert into gone values (1); \
            create table moved (id int primary key); insert into moved select generate_series(1, 5000)";
        for statement in [before, "create database other", "vacuum big"] {
            stage.run(statement).await;
        }
        let full = backup_with(&stage, &[]);
        let size = full["bytes"].as_u64().unwrap();

        // A hundredth of the rows, all in a few pages; files that come, go, get shorter and move.
        stage
            .run("update big set v = 'changed' where id between 1000 and 1400")
            .await;
        stage.run("delete from cut where id > 20000").await;
        stage.run("vacuum cut").await;
        stage
            .run("drop table gone; create table gone (id int primary key); insert into gone values (1), (2)")
            .await;
        stage
            .run("alter table moved set tablespace far; delete from big where id % 97 = 0")
            .await;
        let first = backup_with(&stage, &["--incremental"]);
        assert_eq!(first["kind"], "incremental");
        assert_eq!(first["parent"], full["label"]);
        let read = first["read_bytes"].as_u64().unwrap();
        assert!(read < size / 2, "{major}: {read} of {size} were read");

        stage.run("drop database other").await;
        stage.run("create database other").await;
        stage
            .run("truncate cut; insert into cut select generate_series(7, 9)")
            .await;
        stage
            .run("insert into big select n, 'new' from generate_series(50001, 90000) n")
            .await;
        stage
            .run("create table late (id int primary key); insert into late select generate_series(1, 100)")
            .await;
        stage
            .run("update big set v = 'again' where id between 1300 and 1500")
            .await;
        let load = tokio::spawn({
            let client = stage.client().await;
            async move {
                let mut done = 0;
                while client
                    .batch_execute("update big set v = v || 'x' where id % 1000 = 3")
                    .await
                    .is_ok()
                    && done < 30
                {
                    done += 1;
                }
            }
        });
        let second = backup_with(&stage, &["--incremental"]);
        assert_eq!(second["parent"], first["label"]);
        load.await.unwrap();
        flush(&stage).await;

        let elsewhere = stage.directory("elsewhere");
        let mapping = format!("{}={}", place.display(), elsewhere.display());
        let label = second["label"].as_str().unwrap();
        restore(&stage, label, "chain", &["--tablespace", &mapping]).with(0, &[]);
        let restored = stage.recovered("chain").await;
        assert_eq!(restored.0.version().major, major);
        assert_same(&stage, &restored.0, &["t", "big", "cut", "gone", "moved", "late"]).await;
        assert_eq!(
            count(
                &restored.0,
                "select count(*) from pg_database where datname = 'other'"
            )
            .await,
            1
        );
        restored.0.connect("other").await.unwrap();
        amcheck_says_it_is_sound(&restored.0);
        restored.0.stop(StopMode::Fast).await.unwrap();
        let data = stage.path("chain/data");
        pg_says_it_is_sound(&stage, "pg_checksums", &["--check", "-D", data.to_str().unwrap()]);

        // What the chain is built on stays as long as it does.
        stage.walmgr(&["verify"]).with(0, &[]);
        stage.walmgr(&["purge", "--keep-for", "0s"]).with(0, &[]);
        assert_eq!(labels(&stage).len(), 3);
        backup(&stage);
        stage.walmgr(&["purge", "--keep", "1"]).with(0, &[]);
        assert_eq!(labels(&stage).len(), 1);
    }
}

#[tokio::test]
async fn an_incremental_without_its_wal_or_its_directory_is_refused() {
    let stage = stage(Options::default()).await;
    stage
        .walmgr(&["backup", "--incremental"])
        .with(1, &["no backup yet"]);
    backup(&stage);
    let gone = stage.segment(10).await;
    flush(&stage).await;
    fs::remove_file(stage.stored(&gone)).unwrap();
    let local = stage.server.data_dir().join("pg_wal").join(&gone);
    let aside = stage.path("aside");
    if local.exists() {
        fs::rename(&local, &aside).unwrap();
    }
    let said = stage.walmgr(&["backup", "--incremental"]);
    said.with(
        1,
        &["no incremental backup can be made", &gone, "Take a full backup"],
    );
    let other = format!("master_data={}", stage.directory("other").display());
    let said = stage.walmgr(&["--set", &other, "backup", "--local"]);
    said.with(1, &["is not the data directory of the server"]);
    assert_eq!(labels(&stage).len(), 1);
}

/// Prevents: no restore at all, because what the newest backup is built on is lost.
#[tokio::test]
async fn an_older_backup_does_where_what_the_newest_is_built_on_is_gone() {
    let stage = stage(Options::default()).await;
    let oldest = backup(&stage);
    flush(&stage).await;
    wait_a_label(&oldest).await;
    let ground = backup(&stage);
    flush(&stage).await;
    wait_a_label(&ground).await;
    let summary = backup_with(&stage, &["--incremental"]);
    let newest = summary["label"].as_str().unwrap();
    flush(&stage).await;
    fs::remove_dir_all(stage.store().join("backup").join(&ground)).unwrap();
    restore(&stage, newest, "never", &[]).with(1, &[newest, "is built on", &ground, "an older backup"]);
    let said = restore(&stage, "latest", "restored", &[]).with(0, &["is built on", &ground]);
    assert!(said.out.contains(&oldest), "{said:?}");
    let restored = stage.recovered("restored").await;
    assert_eq!(content(&restored.0).await, content(&stage.server).await);
}
