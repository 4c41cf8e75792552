//! Clusters come back from their backups, or somebody is told exactly why not.

use std::fs;
use std::path::{Path, PathBuf};

use skytide_fixtures::server::{Options, Server, StopMode};
use skytide_fixtures::versions::{self, Search};
use skytide_fixtures::wait;
use skytide_fixtures::workload::{self, Load, LoadOptions, row_digest};

use super::stage::{PATIENCE, Said, Stage, content};

mod damage;
mod gone;
mod incremental;
#[cfg(feature = "failpoints")]
mod kills;
mod places;
mod recovery;
mod timelines;

/// A server that archives, and rows in it.
async fn stage(options: Options) -> Stage {
    let stage = Stage::with(options).await;
    configure(&stage, "");
    stage.archive().await;
    stage.segment(1000).await;
    stage
}

fn configure(stage: &Stage, extra: &str) {
    let db = stage.server.dsn("postgres");
    let data = stage.server.data_dir().display();
    stage.configure(&format!(
        "master_db = {db}\nmaster_data = {data}\nbackup_wal_timeout = 60s\nbackup_jobs = 2\n{extra}"
    ));
}

/// Takes a backup and returns its label.
fn backup(stage: &Stage) -> String {
    let summary = backup_with(stage, &[]);
    summary["label"].as_str().unwrap().to_owned()
}

fn backup_with(stage: &Stage, more: &[&str]) -> serde_json::Value {
    let mut words = vec!["backup", "--json"];
    words.extend(more);
    let said = stage.walmgr(&words).with(0, &[]);
    serde_json::from_str(&said.out).unwrap()
}

fn labels(stage: &Stage) -> Vec<String> {
    let said = stage.walmgr(&["listbackups", "--json"]).with(0, &[]);
    let rows: Vec<serde_json::Value> = serde_json::from_str(&said.out).unwrap();
    rows.iter()
        .map(|row| row["label"].as_str().unwrap().to_owned())
        .collect()
}

/// Ends the segment and waits until it is archived, so that all that was committed is in the store.
async fn flush(stage: &Stage) {
    let last = stage.segment(1).await;
    stage.archived(&last).await;
}

fn restore(stage: &Stage, backup: &str, name: &str, more: &[&str]) -> Said {
    let data = stage.directory(name).join("data");
    let mut words = vec!["restore", backup, data.to_str().unwrap()];
    words.extend(more);
    stage.walmgr(&words)
}

async fn count(server: &Server, sql: &str) -> i64 {
    let client = server.connect("postgres").await.unwrap();
    client.query_one(sql, &[]).await.unwrap().get(0)
}

/// What PostgreSQL's own programs say of the restored files. They are not in every package.
fn pg_says_it_is_sound(stage: &Stage, program: &str, arguments: &[&str]) {
    let path = stage.server.bin(program);
    if !path.is_file() {
        return;
    }
    let said = stage
        .server
        .command(path.to_str().unwrap())
        .args(arguments)
        .output()
        .unwrap();
    assert!(said.status.success(), "{program}: {said:?}");
}

/// Every table and index, page by page, where the extension is to be had.
fn amcheck_says_it_is_sound(server: &Server) {
    let program = server.bin("pg_amcheck");
    let to_be_had = ["share/extension", "share/postgresql/extension"]
        .iter()
        .any(|dir| {
            program
                .parent()
                .is_some_and(|bin| bin.join("..").join(dir).join("amcheck.control").exists())
        });
    if !program.is_file() || !to_be_had {
        return;
    }
    let dsn = server.dsn("postgres");
    // A database is a pattern to it; only this option takes a connection string.
    let arguments = [
        "--install-missing",
        "--heapallindexed",
        "--maintenance-db",
        &dsn,
        "--database",
        "postgres",
    ];
    let said = server
        .command(program.to_str().unwrap())
        .args(arguments)
        .output()
        .unwrap();
    assert!(said.status.success(), "{said:?}");
}

#[tokio::test]
async fn a_cluster_under_load_comes_back_row_by_row() {
    // Over the protocol, and from the files.
    for (checksums, how) in [(true, &[][..]), (false, &["--local"])] {
        let options = Options {
            initdb_args: vec![String::from(match checksums {
                true => "--data-checksums",
                // The default from 18 on.
                false if newest() >= 18 => "--no-data-checksums",
                false => "--no-sync",
            })],
            ..Options::default()
        };
        let stage = stage(options).await;
        let place = stage.directory("space");
        for statement in workload::schema_sql() {
            stage.run(&statement).await;
        }
        stage
            .run(&format!("create tablespace far location '{}'", place.display()))
            .await;
        stage
            .run(
                "create table distant tablespace far as select n, md5(n::text) v from generate_series(1, 20000) n; \
                 create unlogged table forgotten as select 1 n",
            )
            .await;
        let load = Load::start(&stage.server.dsn("postgres"), LoadOptions::default()).unwrap();
        let summary = backup_with(&stage, how);
        let label = summary["label"].as_str().unwrap().to_owned();
        load.stop().await.unwrap();
        stage
            .run("insert into distant values (0, 'after the backup')")
            .await;
        flush(&stage).await;

        let elsewhere = stage.directory("elsewhere");
        let mapping = format!("{}={}", place.display(), elsewhere.display());
        restore(&stage, &label, "restored", &["--tablespace", &mapping]).with(0, &[]);
        let data = stage.path("restored/data");
        if how.is_empty() {
            pg_says_it_is_sound(&stage, "pg_verifybackup", &["-n", data.to_str().unwrap()]);
        }
        for path in files_below(&data) {
            let meta = fs::symlink_metadata(&path).unwrap();
            let mode = std::os::unix::fs::PermissionsExt::mode(&meta.permissions()) & 0o777;
            assert!(
                meta.is_symlink() || mode == if meta.is_dir() { 0o700 } else { 0o600 },
                "{} has mode {mode:o}",
                path.display()
            );
        }

        let restored = stage.recovered("restored").await;
        assert_eq!(content(&restored.0).await, content(&stage.server).await);
        let (ours, theirs) = (
            stage.client().await,
            restored.0.connect("postgres").await.unwrap(),
        );
        for table in workload::tables() {
            let [a, b] =
                [row_digest(&ours, &table).await, row_digest(&theirs, &table).await].map(Result::unwrap);
            assert_eq!(a, b, "{table:?}");
        }
        let distant = "select count(*) from distant";
        assert_eq!(count(&restored.0, distant).await, 20_001);
        assert_eq!(count(&restored.0, "select count(*) from forgotten").await, 0);
        restored.0.stop(StopMode::Fast).await.unwrap();
        if checksums {
            pg_says_it_is_sound(&stage, "pg_checksums", &["--check", "-D", data.to_str().unwrap()]);
        }
    }
}

/// The major the stages run on.
fn newest() -> u32 {
    versions::find(&Search::from_env(None)).unwrap().version.major
}

fn files_below(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let entry = entry.unwrap();
        found.push(entry.path());
        if entry.file_type().unwrap().is_dir() {
            found.extend(files_below(&entry.path()));
        }
    }
    found
}

#[tokio::test]
async fn every_installed_major_is_backed_up_and_restored() {
    let majors: std::collections::BTreeSet<u32> = versions::installed(&Search::from_env(None))
        .iter()
        .map(|found| found.version.major)
        .collect();
    for major in majors.into_iter().filter(|major| (13..=18).contains(major)) {
        let stage = stage(Options {
            major: Some(major),
            ..Options::default()
        })
        .await;
        let place = stage.directory("space");
        stage
            .run(&format!("create tablespace far location '{}'", place.display()))
            .await;
        stage
            .run("create table distant tablespace far as select generate_series(1, 1000) n")
            .await;
        let label = backup(&stage);
        flush(&stage).await;
        let elsewhere = stage.directory("elsewhere");
        let mapping = format!("{}={}", place.display(), elsewhere.display());
        restore(&stage, "latest", "restored", &["--tablespace", &mapping]).with(0, &[]);
        let restored = stage.recovered("restored").await;
        assert_eq!(
            content(&restored.0).await,
            content(&stage.server).await,
            "{major}"
        );
        assert_eq!(
            count(&restored.0, "select count(*) from distant").await,
            1000,
            "{major}"
        );
        let said = stage.walmgr(&["verify"]).with(0, &[]);
        assert!(said.out.contains("0 problems"), "{major}: {said:?}");
        assert_eq!(labels(&stage), [label]);
    }
}

/// Every table's rows, here and there.
async fn assert_same(stage: &Stage, restored: &Server, tables: &[&str]) {
    for table in tables {
        let sql =
            format!("select count(*) || ' ' || coalesce(sum(hashtext(t::text))::text, '') from {table} t");
        let mut found = Vec::new();
        for server in [&stage.server, restored] {
            let client = server.connect("postgres").await.unwrap();
            found.push(client.query_one(&sql, &[]).await.unwrap().get::<_, String>(0));
            // By the index and by the visibility map.
            let indexed = format!("select count(*) from {table} where id >= 0");
            client.batch_execute("set enable_seqscan = off").await.unwrap();
            found.push(
                client
                    .query_one(&indexed, &[])
                    .await
                    .unwrap()
                    .get::<_, i64>(0)
                    .to_string(),
            );
        }
        assert_eq!(found[..2], found[2..], "{table}");
    }
}

#[tokio::test]
async fn a_backup_whose_wal_does_not_come_is_none() {
    let stage = Stage::new().await;
    configure(&stage, "");
    stage
        .run("create table t (id bigserial primary key, v text)")
        .await;
    let said = stage.walmgr(&["--set", "backup_wal_timeout=1s", "backup"]);
    said.with(1, &["did not come to the stores", "archive_command"]);
    assert!(labels(&stage).is_empty());
    restore(&stage, "latest", "never", &[]).with(1, &["no backup yet"]);
}

#[tokio::test]
async fn purging_never_takes_what_a_kept_backup_needs() {
    let stage = stage(Options::default()).await;
    let first = backup(&stage);
    flush(&stage).await;
    wait_a_label(&first).await;
    let second = backup(&stage);
    flush(&stage).await;
    wait_a_label(&second).await;
    let third = backup(&stage);
    flush(&stage).await;

    stage.walmgr(&["purge"]).with(2, &["keep_backups"]);
    let said = stage
        .walmgr(&["purge", "--keep", "2", "--dry-run"])
        .with(0, &["nothing was removed"]);
    assert!(
        said.out.contains(&first) && !said.out.contains(&second),
        "{said:?}"
    );
    assert_eq!(labels(&stage).len(), 3);
    let segments = || fs::read_dir(stage.store().join("wal/00000001")).unwrap().count();
    let before = segments();
    stage.walmgr(&["purge", "--keep", "2"]).with(0, &[]);
    assert_eq!(labels(&stage), [second.clone(), third]);
    assert!(segments() < before);
    assert!(
        !stage
            .store()
            .join(format!("backup/{first}/data/00000000.zst"))
            .exists()
    );
    stage.walmgr(&["verify"]).with(0, &[]);
    for (label, name) in [(second.as_str(), "second"), ("latest", "third")] {
        restore(&stage, label, name, &[]).with(0, &[]);
        let restored = stage.recovered(name).await;
        assert_eq!(
            content(&restored.0).await,
            content(&stage.server).await,
            "{label}"
        );
    }
    stage.walmgr(&["purge", "--keep-for", "1h"]).with(0, &[]);
    assert_eq!(labels(&stage).len(), 2);
    stage.walmgr(&["purge", "--keep-for", "0s"]).with(0, &[]);
    assert_eq!(labels(&stage).len(), 1, "the newest one stays");
}

/// Labels are seconds: until the next one has begun.
async fn wait_a_label(label: &str) {
    let seconds = |text: &str| text.get(9..15).map(str::to_owned);
    let before = seconds(label);
    wait::until("the next second", PATIENCE, async || {
        let now = std::process::Command::new("date")
            .args(["-u", "+%Y%m%dT%H%M%S"])
            .output()?;
        let now = String::from_utf8_lossy(&now.stdout).into_owned();
        Ok((seconds(&now) > before).then_some(()))
    })
    .await
    .unwrap();
}
