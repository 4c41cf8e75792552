//! Clusters come back from their backups, or somebody is told exactly why not.

use std::fs;
use std::path::{Path, PathBuf};

use skytide_fixtures::server::{Options, Server, StopMode};
use skytide_fixtures::versions::{self, Search};
use skytide_fixtures::wait;
use skytide_fixtures::workload::{self, Load, LoadOptions, row_digest};

use super::stage::{PATIENCE, Said, Stage, content};

#[cfg(feature = "failpoints")]
mod kills;

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
    let arguments = ["--install-missing", "--heapallindexed", "-d", &dsn];
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

#[tokio::test]
async fn recovery_ends_where_it_was_asked_to() {
    let stage = stage(Options::default()).await;
    backup(&stage);
    let client = stage.client().await;
    let rows = "select count(*) from mark";
    client
        .batch_execute("create table mark (n int); insert into mark values (1)")
        .await
        .unwrap();
    client
        .batch_execute("select pg_create_restore_point('after one')")
        .await
        .unwrap();
    let text = async |sql: &str| -> String { client.query_one(sql, &[]).await.unwrap().get(0) };
    client.batch_execute("insert into mark values (2)").await.unwrap();
    let lsn = text("select pg_current_wal_insert_lsn()::text").await;
    client.batch_execute("insert into mark values (3)").await.unwrap();
    // A transaction of a later moment than this one: the clock has to have moved on.
    let time = text("select clock_timestamp()::text").await;
    wait::until("the clock", PATIENCE, async || {
        let moved = "select clock_timestamp() > $1::text::timestamptz + interval '5 ms'";
        let moved: bool = client.query_one(moved, &[&time]).await?.get(0);
        Ok(moved.then_some(()))
    })
    .await
    .unwrap();
    let xid = text("insert into mark values (4) returning pg_current_xact_id()::text").await;
    client.batch_execute("delete from mark").await.unwrap();
    flush(&stage).await;

    for (number, (target, wanted)) in [
        (["--name", "after one"], 1),
        (["--lsn", &lsn], 2),
        (["--time", &time], 3),
        (["--before-xid", &xid], 3),
        (["--xid", &xid], 4),
    ]
    .into_iter()
    .enumerate()
    {
        let name = format!("restored{number}");
        restore(&stage, "latest", &name, &target).with(0, &[]);
        let restored = stage.recovered(&name).await;
        assert_eq!(count(&restored.0, rows).await, wanted, "{target:?}");
    }
    restore(&stage, "latest", "bare", &["--immediate"]).with(0, &[]);
    let bare = stage.recovered("bare").await;
    assert_eq!(
        count(&bare.0, "select count(*) from pg_class where relname = 'mark'").await,
        0
    );

    // What the WAL does not reach is refused before anything is copied.
    for target in [
        ["--lsn", "FF/0"],
        ["--time", "2999-01-01 00:00:00Z"],
        ["--xid", "4000000000"],
        ["--name", "nobody"],
    ] {
        let said = restore(&stage, "latest", "never", &target);
        said.with(
            1,
            &["cannot be reached", "the WAL in the stores goes from", "HINT"],
        );
    }
    assert!(!stage.path("never/data").exists());
    let said = restore(&stage, "latest", "never", &["--lsn", "0/1000028"]);
    said.with(1, &["no backup was finished before"]);
}

#[tokio::test]
async fn the_plan_names_gaps_before_anything_is_copied() {
    let stage = stage(Options::default()).await;
    let label = backup(&stage);
    let gone = stage.segment(10).await;
    flush(&stage).await;
    let plan = restore(&stage, "latest", "plan", &["--dry-run", "--json"]).with(0, &[]);
    let plan: serde_json::Value = serde_json::from_str(&plan.out).unwrap();
    assert_eq!(plan["backup"], label.as_str());
    assert!(
        plan["last_commit_time"].is_string() && plan["missing"].is_null(),
        "{plan}"
    );
    assert!(!stage.path("plan/data").exists());

    fs::remove_file(stage.stored(&gone)).unwrap();
    restore(&stage, "latest", "plan", &["--dry-run"]).with(0, &[&gone, "is missing"]);
    let said = restore(&stage, "latest", "plan", &["--lsn", "0/FF000000"]);
    said.with(1, &["cannot be reached", &gone]);

    // The WAL of the backup itself.
    let backup = stage.walmgr(&["listbackups", "--json"]).out;
    let backup: serde_json::Value = serde_json::from_str(&backup).unwrap();
    let start: skytide_sql::Lsn = backup[0]["start_lsn"].as_str().unwrap().parse().unwrap();
    let needed = format!("00000001{:016X}", start.as_u64() >> 24);
    fs::remove_file(stage.stored(&needed)).unwrap();
    restore(&stage, "latest", "plan", &[]).with(1, &["WAL is missing", &needed]);
    let said = stage.walmgr(&["verify"]).with(3, &[]);
    assert!(said.out.contains(&needed), "{said:?}");
}

#[tokio::test]
async fn what_is_there_already_stays_and_what_is_not_ours_is_refused() {
    let stage = stage(Options::default()).await;
    backup(&stage);
    flush(&stage).await;
    restore(&stage, "latest", "restored", &[]).with(0, &[]);
    restore(&stage, "latest", "restored", &[]).with(1, &["is not empty", "--delta"]);
    let data = stage.path("restored/data");
    let restored = stage.recovered("restored").await;
    restore(&stage, "latest", "restored", &["--delta"]).with(1, &["a server that runs"]);
    let client = restored.0.connect("postgres").await.unwrap();
    client
        .batch_execute("create table extra as select 1 n; delete from t where id % 2 = 0")
        .await
        .unwrap();
    restored.0.stop(StopMode::Fast).await.unwrap();
    drop(restored);

    let said = restore(&stage, "latest", "restored", &["--delta", "--json"]).with(0, &[]);
    let said: serde_json::Value = serde_json::from_str(&said.out).unwrap();
    let number = |name: &str| said["done"][name].as_u64().unwrap();
    assert!(number("kept_files") > 500, "{said}");
    assert!(number("removed_files") > 0 && number("read_bytes") > 0, "{said}");
    let again = stage.recovered("restored").await;
    assert_eq!(content(&again.0).await, content(&stage.server).await);
    drop(again);

    // Somebody else's directory, and another cluster's.
    fs::create_dir(stage.path("letters")).unwrap();
    fs::write(stage.path("letters/dear"), "x").unwrap();
    let letters = stage.path("letters");
    let words = ["restore", "latest", letters.to_str().unwrap(), "--delta"];
    stage.walmgr(&words).with(1, &["not empty and no data directory"]);
    let stranger = Options {
        own_identity: true,
        ..Options::default()
    };
    let stranger = Server::start(stranger).await.unwrap();
    stranger.stop(StopMode::Fast).await.unwrap();
    let theirs = stranger.data_dir().to_str().unwrap().to_owned();
    stage
        .walmgr(&["restore", "latest", &theirs, "--delta"])
        .with(1, &["belongs to the cluster"]);
    assert!(stranger.data_dir().join("global/pg_control").exists());
    assert!(data.join("global/pg_control").exists());
}

#[tokio::test]
async fn a_standby_replays_on() {
    let stage = stage(Options::default()).await;
    backup(&stage);
    flush(&stage).await;
    restore(&stage, "latest", "standby", &["--standby"]).with(0, &[]);
    let options = Options {
        dir: skytide_fixtures::server::Where::Persistent(stage.path("standby")),
        port: Some(skytide_fixtures::server::free_port().unwrap()),
        ..Options::default()
    };
    let standby = super::stage::Restored(Server::start(options.with("archive_mode", "off")).await.unwrap());
    assert!(stage.path("standby/data/standby.signal").exists());
    stage.run("insert into t (v) values ('later')").await;
    flush(&stage).await;
    let wanted = content(&stage.server).await;
    wait::until_eq("the standby's rows", wanted, PATIENCE, async || {
        Ok(content(&standby.0).await)
    })
    .await
    .unwrap();
}

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

#[tokio::test]
async fn a_damaged_page_ends_the_backup_or_is_noted() {
    let options = Options {
        initdb_args: vec!["--data-checksums".into()],
        ..Options::default()
    };
    let stage = stage(options).await;
    let client = stage.client().await;
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
