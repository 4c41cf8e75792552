//! A standby takes over with all that the stores have, or somebody is told what is missing.

use std::fs;

use skytide_fixtures::server::{Options, Server, StopMode, Where, free_port};
use skytide_fixtures::wait;

use super::copy::flush_lsn;
use super::course::one;
use super::replaced::replaced;
use super::stage::{PATIENCE, Restored, Stage, content};

/// A primary that archives, and a backup.
async fn stage() -> Stage {
    let stage = Stage::new().await;
    configure(&stage, "");
    stage.segment(10).await;
    stage.walmgr(&["setup", "--backup"]).with(0, &[]);
    stage
}

/// A configuration for both: the primary, and a standby in the stage's directory.
fn configure(stage: &Stage, more: &str) {
    let (db, data) = (stage.server.dsn("postgres"), stage.server.data_dir().display());
    stage.configure(&format!("master_db = {db}\nmaster_data = {data}\n{more}"));
    let text = format!(
        "[walmgr]\nstores = {}\nslave_data = {}\nprimary_conninfo = {db}\n{more}\n",
        stage.store().display(),
        stage.path("standby/data").display()
    );
    fs::write(stage.path("standby.ini"), text).unwrap();
}

/// Starts what was made there, with more settings.
async fn started(stage: &Stage, settings: &[(&str, &str)]) -> Restored {
    let mut options = Options {
        dir: Where::Persistent(stage.path("standby")),
        port: Some(free_port().unwrap()),
        ..Options::default()
    }
    .with("archive_mode", "off")
    .with("shared_buffers", "32MB");
    for (name, value) in settings {
        options = options.with(name, value);
    }
    Restored(Server::start(options).await.unwrap())
}

fn restored(stage: &Stage) {
    let dir = stage.directory("standby").join("data");
    stage
        .walmgr(&["restore", "latest", dir.to_str().unwrap(), "--standby"])
        .with(0, &[]);
}

#[tokio::test]
async fn a_standby_that_does_not_get_the_stores_wal_is_not_promoted() {
    let stage = stage().await;
    restored(&stage);
    let auto_conf = stage.path("standby/data/postgresql.auto.conf");
    let text = fs::read_to_string(&auto_conf).unwrap();
    let without: Vec<&str> = text
        .lines()
        .filter(|line| !line.contains("restore_command"))
        .collect();
    fs::write(
        &auto_conf,
        without.join("\n") + "\nrestore_command = '/bin/false'\n",
    )
    .unwrap();
    // What is consistent without the archive: the WAL of the backup by hand.
    let backup = stage.walmgr(&["--json", "listbackups"]).json();
    let start: skytide_sql::Lsn = backup[0]["start_lsn"].as_str().unwrap().parse().unwrap();
    for number in [start.as_u64() >> 24, (start.as_u64() >> 24) + 1] {
        let name = format!("00000001{number:016X}");
        let target = stage.path("standby/data/pg_wal").join(&name);
        stage.restore_file(&name, &target);
    }
    let standby = started(&stage, &[]).await;
    let last = stage.segment(100).await;
    stage.archived(&last).await;
    let wanted = content(&stage.server).await;
    // It does not stream, and the primary lives all the same.
    stage.by("standby.ini", &["boot", "--wait", "2s"]).with(
        1,
        &["the primary lives", "primary_conninfo names answers", "--force"],
    );
    stage.server.stop(StopMode::Fast).await.unwrap();
    stage.by("standby.ini", &["boot", "--wait", "2s"]).with(
        1,
        &[
            "has replayed up to",
            "store has WAL up to",
            "/bin/false",
            "--force",
        ],
    );
    let client = standby.0.connect("postgres").await.unwrap();
    assert!(one::<bool>(&client, "select pg_is_in_recovery()").await);
    drop(client);

    // Told where the rest is, it gets it.
    let line = stage.line("restore-wal %f %p");
    let text = fs::read_to_string(&auto_conf)
        .unwrap()
        .replace("/bin/false", &line);
    fs::write(&auto_conf, text).unwrap();
    standby.0.restart().await.unwrap();
    #[cfg(feature = "failpoints")]
    {
        let slave = format!("slave_data={}", stage.path("standby/data").display());
        let words = ["--set", "master_data=", "--set", &slave, "boot"];
        stage.killed_at("takeover::replayed", &words).await;
        let client = standby.0.connect("postgres").await.unwrap();
        assert!(one::<bool>(&client, "select pg_is_in_recovery()").await);
    }
    stage.by("standby.ini", &["boot"]).with(0, &[]);
    assert_eq!(content(&standby.0).await, wanted);
}

/// Somebody else was promoted before, and this one went on with what the old primary wrote after that.
#[tokio::test]
async fn a_standby_that_its_successor_left_behind_is_not_promoted() {
    let stage = Stage::new().await;
    stage.archive().await;
    let shared = stage.segment(100).await;
    stage.archived(&shared).await;
    let _successor = replaced(&stage).await;
    let standby = stage.standby(&stage.path("base"), "other", &[]).await;
    stage.segment(1000).await;
    let last = flush_lsn(&stage.server).await;
    let client = standby.0.connect("postgres").await.unwrap();
    wait::until("the standby to have it", PATIENCE, async || {
        let query = format!("select coalesce(pg_last_wal_replay_lsn() >= '{last}', false)");
        Ok(one::<bool>(&client, &query).await.then_some(()))
    })
    .await
    .unwrap();
    stage.server.kill().unwrap();
    let text = format!(
        "[walmgr]\nstores = {}\nslave_data = {}\n",
        stage.store().display(),
        stage.path("other/data").display()
    );
    fs::write(stage.path("other.ini"), text).unwrap();
    stage.by("other.ini", &["boot", "--wait", "2s"]).with(
        1,
        &["replayed timeline 1 up to", "timeline 2 left it at", "--rejoin"],
    );
    assert!(one::<bool>(&client, "select pg_is_in_recovery()").await);
}

#[tokio::test]
async fn a_store_that_cannot_be_asked_and_a_server_that_is_down_are_said() {
    let stage = stage().await;
    restored(&stage);
    stage
        .by("standby.ini", &["boot"])
        .with(1, &["no server runs on", "pg_ctl"]);
    stage
        .by("standby.ini", &["pause"])
        .with(1, &["no server runs on"]);
    // One that cannot connect: the primary does not know its user.
    let dsn = format!("{} user=nobody_of_that_name", stage.server.dsn("postgres"));
    let standby = started(&stage, &[("primary_conninfo", &dsn)]).await;
    stage
        .by("standby.ini", &["--set", "primary_conninfo=", "boot"])
        .with(1, &["the primary lives", "--force"]);
    // Whoever names it wrongly: it wants what it is not given, it is a standby, or the standby itself knows better.
    let db = stage.server.dsn("postgres");
    let own = standby.0.dsn("postgres");
    for (conninfo, words) in [
        (format!("{db} sslmode=require"), "the primary lives"),
        (own, "is a standby"),
        (
            format!("host={}", stage.path("nowhere").display()),
            "the primary lives",
        ),
    ] {
        let conninfo = format!("primary_conninfo={conninfo}");
        stage
            .by("standby.ini", &["--set", &conninfo, "boot"])
            .with(1, &[words, "--force"]);
    }
    let wanted = content_of_archived(&stage).await;
    stage.server.stop(StopMode::Fast).await.unwrap();
    // Its memory of the store ends with the daemon: it has none.
    let both = format!("{}, {}", stage.store().display(), stage.path("away").display());
    let conf = stage.path("standby.ini");
    let text = fs::read_to_string(&conf).unwrap();
    let text = text.replace(
        &format!("stores = {}", stage.store().display()),
        &format!("stores = {both}\nstores_needed = 1"),
    );
    fs::write(&conf, text).unwrap();
    stage.by("standby.ini", &["boot"]).with(1, &["away"]);
    stage.directory("away");
    stage.by("standby.ini", &["boot"]).with(1, &["away"]);
    stage.store_in("away");
    stage.by("standby.ini", &["boot"]).with(0, &[]);
    assert_eq!(content(&standby.0).await, wanted);
}

async fn content_of_archived(stage: &Stage) -> (i64, Option<String>) {
    let last = stage.segment(100).await;
    stage.archived(&last).await;
    content(&stage.server).await
}

#[tokio::test]
async fn a_standby_that_lets_nobody_in_takes_over_too() {
    let stage = stage().await;
    restored(&stage);
    let conf = stage.path("standby/data/postgresql.auto.conf");
    let mut text = fs::read_to_string(&conf).unwrap();
    text.push_str(&format!(
        "primary_conninfo = '{}'\n",
        stage.server.dsn("postgres")
    ));
    fs::write(&conf, text).unwrap();
    let wanted = content_of_archived(&stage).await;
    let port = free_port().unwrap();
    let data = stage.path("standby/data");
    let pg_ctl = stage.server.bin("pg_ctl");
    stage.directory("standby/run");
    // Nobody can wait for it by connecting: it is started as a person would.
    let options = format!(
        "-c hot_standby=off -c archive_mode=off -c port={port} -c unix_socket_directories={}",
        stage.path("standby/run").display()
    );
    let log = stage.path("standby/server.log");
    let start = stage
        .server
        .command(pg_ctl.to_str().unwrap())
        .args(["-D".as_ref(), data.as_os_str(), "-s".as_ref(), "-W".as_ref()])
        .args(["-l".as_ref(), log.as_os_str(), "-o".as_ref(), options.as_ref()])
        .arg("start")
        .status();
    assert!(start.unwrap().success());
    struct Killed(std::path::PathBuf);
    impl Drop for Killed {
        fn drop(&mut self) {
            let pid = fs::read_to_string(self.0.join("postmaster.pid")).unwrap_or_default();
            let pid = pid.lines().next().and_then(|pid| pid.parse().ok());
            if let Some(pid) = pid.and_then(rustix::process::Pid::from_raw) {
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::QUIT);
            }
        }
    }
    let _killed = Killed(data.clone());
    wait::until("the standby to be up", PATIENCE, async || {
        let text = fs::read_to_string(data.join("postmaster.pid")).unwrap_or_default();
        Ok((text.lines().nth(7).map(str::trim) == Some("standby")).then_some(()))
    })
    .await
    .unwrap();
    let begun = flush_lsn(&stage.server).await;
    wait::until("the standby to stream", PATIENCE, async || {
        // What has received nothing yet does not say that it streams.
        let client = stage.client().await;
        client.batch_execute("select txid_current()").await?;
        let sql = format!("select coalesce(max(flush_lsn) > '{begun}', false) from pg_stat_replication");
        Ok(one::<bool>(&client, &sql).await.then_some(()))
    })
    .await
    .unwrap();
    // Nobody may ask it whether the primary lives.
    stage.by("standby.ini", &["boot"]).with(
        1,
        &["the primary lives: it streams WAL to this standby", "--force"],
    );
    stage.server.stop(StopMode::Fast).await.unwrap();
    let said = stage.by("standby.ini", &["--json", "boot"]).with(0, &[]).json();
    assert_eq!(said["timeline"], 2, "{said}");
    let options = Options {
        dir: Where::Persistent(stage.path("standby")),
        port: Some(port),
        ..Options::default()
    };
    let promoted = Restored(Server::start(options).await.unwrap());
    assert_eq!(content(&promoted.0).await, wanted);
}

#[tokio::test]
async fn a_standby_is_not_made_over_what_is_there_or_with_a_password_in_sight() {
    let stage = stage().await;
    let db = stage.server.dsn("postgres");
    let by = |more: &[&str]| {
        let mut words = vec!["createslave"];
        words.extend(more);
        stage.by("standby.ini", &words)
    };
    let secret = format!("primary_conninfo={db} password=secret");
    let said = by(&["--set", &secret]).with(2, &["holds a password", ".pgpass"]);
    assert!(!said.err.contains("secret"), "{said:?}");
    by(&["--start"]).with(2, &["slave_start_cmd"]);
    let dir = stage.directory("standby").join("data");
    fs::create_dir(&dir).unwrap();
    fs::write(dir.join("letter"), "dear").unwrap();
    by(&[]).with(1, &["is not empty and no data directory"]);
    let data = format!("slave_data={}", stage.server.data_dir().display());
    by(&["--set", &data]).with(1, &["no standby's"]);
    fs::remove_dir_all(&dir).unwrap();
    let client = stage.client().await;
    let slots = "select count(*) from pg_replication_slots";
    assert_eq!(one::<i64>(&client, slots).await, 0);
    by(&["--dry-run"]).with(0, &["nothing was done"]);
    assert_eq!(one::<i64>(&client, slots).await, 0);
    assert!(!dir.exists());
    // What fails later leaves no slot behind that would hold WAL.
    by(&["--tablespace", "/nowhere=/elsewhere"]).with(1, &["no tablespace of this backup"]);
    assert_eq!(one::<i64>(&client, slots).await, 0);

    // Without a backup it takes one; without a slot it makes none.
    let label = stage.walmgr(&["--json", "listbackups"]).json();
    let label = label[0]["label"].as_str().unwrap().to_owned();
    fs::remove_dir_all(stage.store().join("backup").join(&label)).unwrap();
    by(&["--dry-run"]).with(0, &["no backup yet"]);
    by(&["--set", "primary_slot_name="]).with(0, &["backup 2"]);
    assert_eq!(one::<i64>(&client, slots).await, 0);
    let standby = started(&stage, &[]).await;
    super::course::in_step(&stage.server, &standby.0).await;
    standby.0.stop(StopMode::Fast).await.unwrap();
}

#[cfg(feature = "failpoints")]
#[tokio::test]
async fn a_standby_whose_making_was_killed_is_gone_on_with() {
    let stage = stage().await;
    stage.directory("standby");
    let slave = format!("slave_data={}", stage.path("standby/data").display());
    let words = ["--set", "master_data=", "--set", &slave, "createslave"];
    for step in ["restore::prepared", "restore::written", "restore::synced"] {
        stage.killed_at(step, &words).await;
        assert!(!stage.path("standby/data/global/pg_control").exists(), "{step}");
    }
    stage.walmgr(&words).with(0, &[]);
    let standby = started(&stage, &[]).await;
    let client = stage.client().await;
    super::course::in_step(&stage.server, &standby.0).await;
    wait::until_eq("the slot to be in use", Some(true), PATIENCE, async || {
        let row = client.query_opt(
            "select active from pg_replication_slots where slot_name = 'wal'",
            &[],
        );
        Ok(row.await?.map(|row| row.get::<_, bool>(0)))
    })
    .await
    .unwrap();
}
