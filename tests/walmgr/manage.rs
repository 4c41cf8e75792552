//! A primary is told what to do, and nothing is done to it by mistake.

use std::fs;

use skytide_fixtures::server::{Options, Server};
use skytide_fixtures::wait;

use super::course::one;
use super::stage::{PATIENCE, Stage};

/// Lets `setup` know the server.
fn configure(stage: &Stage, more: &str) {
    let (db, data) = (stage.server.dsn("postgres"), stage.server.data_dir().display());
    stage.configure(&format!("master_db = {db}\nmaster_data = {data}\n{more}"));
}

/// Restarts the server by its own program.
fn restart_cmd(stage: &Stage) -> String {
    format!(
        "master_restart_cmd = {} -D {} -l {} -s -w -m fast restart",
        stage.server.bin("pg_ctl").display(),
        stage.server.data_dir().display(),
        stage.server.log_path().with_file_name("restarted.log").display(),
    )
}

#[tokio::test]
async fn setup_restarts_by_the_configurations_command_and_takes_the_first_backup() {
    let options = Options::default()
        .with("wal_level", "minimal")
        .with("max_wal_senders", "0");
    let stage = Stage::untouched(options).await;
    let home = stage.server.data_dir().parent().unwrap();
    stage.directory("log");
    configure(&stage, "");
    let said = stage.walmgr(&["setup", "--dry-run"]).with(3, &[]);
    for line in [
        "replica, was minimal",
        "to be set, needs a restart",
        "archive_command",
    ] {
        assert!(said.out.contains(line), "{said:?}");
    }
    assert!(!stage.store().exists(), "nothing was made");

    let log = stage.path("log/server.log");
    let command = restart_cmd(&stage).replace(
        home.join("restarted.log").to_str().unwrap(),
        log.to_str().unwrap(),
    );
    configure(&stage, &command);
    let said = stage.walmgr(&["--json", "setup", "--backup"]).with(0, &[]).json();
    assert_eq!(said["restart_needed"], false, "{said}");
    assert!(said["proof"]["segment"].is_string(), "{said}");
    let states = said["settings"].as_array().unwrap().iter();
    let set: Vec<&str> = states
        .filter(|row| row["state"] == "set")
        .map(|row| row["name"].as_str().unwrap())
        .collect();
    assert_eq!(
        set,
        ["wal_level", "archive_mode", "archive_command", "max_wal_senders"],
        "{said}"
    );
    assert_eq!(said["backup"]["kind"], "full", "{said}");
    let client = stage.client().await;
    assert_eq!(one::<String>(&client, "show wal_level").await, "replica");

    // Again: nothing is changed, and no second backup taken.
    let auto_conf = stage.server.data_dir().join("postgresql.auto.conf");
    let before = fs::read_to_string(&auto_conf).unwrap();
    let said = stage.walmgr(&["--json", "setup", "--backup"]).with(0, &[]).json();
    assert_eq!(said["backup"], serde_json::Value::Null, "{said}");
    assert_eq!(fs::read_to_string(&auto_conf).unwrap(), before);
    assert_eq!(
        stage
            .walmgr(&["--json", "listbackups"])
            .json()
            .as_array()
            .unwrap()
            .len(),
        1
    );
}

#[tokio::test]
async fn setup_takes_nothing_away_from_others() {
    let options = Options::default()
        .with("archive_mode", "on")
        .with("archive_command", "pgbackrest --stanza=main archive-push %p");
    let stage = Stage::untouched(options).await;
    stage.configure("");
    stage.walmgr(&["setup"]).with(2, &["which server", "master_db"]);
    configure(&stage, "");
    stage
        .walmgr(&["setup"])
        .with(1, &["archive_command is set already", "pgbackrest", "--replace"]);
    stage
        .walmgr(&["stop"])
        .with(1, &["another program", "pgbackrest"]);
    assert!(!stage.store().exists());
    stage.walmgr(&["setup", "--replace"]).with(0, &[]);
    stage.walmgr(&["setup"]).with(0, &[]);

    // Another cluster's store, another cluster's directory.
    let stranger = Options {
        own_identity: true,
        ..Options::default()
    };
    let stranger = Server::start(stranger).await.unwrap();
    stage.configure(&format!("master_db = {}", stranger.dsn("postgres")));
    stage.walmgr(&["setup"]).with(1, &["belongs to the cluster"]);
    let client = stranger.connect("postgres").await.unwrap();
    assert_eq!(one::<String>(&client, "show archive_command").await, "(disabled)");
    stage.configure(&format!(
        "master_db = {}\nmaster_data = {}",
        stranger.dsn("postgres"),
        stage.server.data_dir().display()
    ));
    stage.walmgr(&["setup"]).with(2, &["same server"]);
    // Somebody who may not.
    stage.run("create role clerk login").await;
    let clerk = stage
        .server
        .dsn("postgres")
        .replace("user=postgres", "user=clerk");
    stage.configure(&format!("master_db = {clerk}"));
    stage.walmgr(&["stop", "--force"]).with(1, &["superuser"]);
}

#[tokio::test]
async fn wal_that_does_not_arrive_is_no_success() {
    let stage = Stage::new().await;
    configure(&stage, "");
    // A second store, which the daemon of before will not know.
    stage.walmgr(&["setup"]).with(0, &[]);
    let gone = stage.path("gone");
    let second = format!("stores = {}, {}", stage.store().display(), gone.display());
    configure(&stage, &format!("{second}\nstores_needed = 1"));
    // It may be a file system that is not mounted.
    stage.walmgr(&["setup"]).with(1, &["gone", "create-store"]);
    assert!(!gone.exists());
    stage.directory("gone");
    stage.walmgr(&["setup"]).with(1, &["gone", "create-store"]);
    stage.walmgr(&["create-store"]).with(0, &[]);
    stage.walmgr(&["setup"]).with(0, &[]);
    configure(&stage, "");
    let daemon = stage.daemon().await;
    configure(&stage, &second);
    stage
        .walmgr(&["setup", "--wait", "2s"])
        .with(1, &["did not come into store", "HINT"]);
    daemon.ends_politely().await;
    stage.walmgr(&["setup"]).with(0, &[]);
}

#[tokio::test]
async fn stop_keeps_wal_until_setup_takes_up_again() {
    let stage = Stage::new().await;
    configure(&stage, "");
    stage.walmgr(&["setup"]).with(0, &[]);
    let receiver = stage.copier("receive", &[]);
    let client = stage.client().await;
    wait::until("receive to stream", PATIENCE, async || {
        let streams = "select count(*) from pg_stat_replication where state = 'streaming'";
        Ok((client.query_one(streams, &[]).await?.get::<_, i64>(0) == 1).then_some(()))
    })
    .await
    .unwrap();
    stage.walmgr(&["synch-standby", "SKYTIDE"]).with(0, &[]);

    let said = stage.walmgr(&["--json", "stop"]).with(0, &[]).json();
    let last = said["last_segment"].as_str().unwrap();
    assert!(stage.stored(last).is_file());
    assert_eq!(
        (&said["restart_needed"], &said["slot"]),
        (&true.into(), &"skytide_receive".into())
    );
    assert_eq!(one::<String>(&client, "show archive_command").await, "");
    assert_eq!(one::<String>(&client, "show synchronous_standby_names").await, "");
    receiver.ends_politely().await;
    let while_stopped = stage.segment(100).await;
    assert!(!stage.stored(&while_stopped).exists());
    stage.walmgr(&["stop"]).with(0, &[]);

    let said = stage.walmgr(&["--json", "setup"]).with(0, &[]).json();
    assert_eq!(said["restart_needed"], false, "{said}");
    stage.archived(&while_stopped).await;
    let said = stage.walmgr(&["--json", "stores"]).with(0, &[]).json();
    assert_eq!(said[0]["missing"], 0, "{said}");
}

#[tokio::test]
async fn what_is_done_now_and_then_is_done_when_it_is_due() {
    let stage = Stage::new().await;
    let ran = stage.path("ran");
    configure(
        &stage,
        &format!(
            "command_interval = 1h\nperiodic_command = echo once >> {}",
            ran.display()
        ),
    );
    stage.walmgr(&["setup"]).with(0, &[]);
    let periodic = |set: &[&str]| {
        let mut words = vec!["--json", "periodic"];
        words.extend(set);
        stage.walmgr(&words).with(0, &[]).json()
    };
    let said = periodic(&[]);
    assert_eq!(
        (&said["segment"], &said["command_ran"]),
        (&serde_json::Value::Null, &true.into())
    );
    let said = periodic(&[]);
    assert_eq!(said["command_ran"], false, "{said}");
    let now = ["--set", "command_interval=0", "--set", "periodic_command="];
    periodic(&now);
    stage.run("create table p (n int)").await;
    let said = periodic(&now);
    let segment = said["segment"].as_str().unwrap().to_owned();
    stage.archived(&segment).await;
    assert!(stage.stored(&segment).is_file());
    assert_eq!(
        periodic(&now)["segment"],
        serde_json::Value::Null,
        "nothing was written"
    );
    assert_eq!(fs::read_to_string(&ran).unwrap(), "once\n");
    stage
        .walmgr(&[
            "periodic",
            "--set",
            "command_interval=0",
            "--set",
            "periodic_command=exit 4",
        ])
        .with(1, &["periodic_command failed", "exit status: 4"]);
}

#[tokio::test]
async fn commits_wait_only_for_standbys_that_are_there() {
    let stage = Stage::new().await;
    configure(&stage, "");
    let client = stage.client().await;
    for (names, words) in [
        ("*", "asks for 1 that stream, and 0 do"),
        ("ANY 2 (a, b)", "asks for 2 that stream"),
        ("skytide", "No standby is connected"),
    ] {
        stage.walmgr(&["synch-standby", names]).with(1, &[words, "HINT"]);
    }
    for wrong in ["a b", "ANY x (a)", "a-b"] {
        stage
            .walmgr(&["synch-standby", wrong])
            .with(2, &["does not name standbys"]);
    }
    assert_eq!(one::<String>(&client, "show synchronous_standby_names").await, "");
    let receiver = stage.copier("receive", &[]);
    let said = wait::until("the receiver to count", PATIENCE, async || {
        let said = stage.walmgr(&["--json", "synch-standby", "any 1 (Skytide, other)"]);
        Ok((said.code == Some(0)).then_some(said))
    });
    let said = said
        .await
        .unwrap()
        .with(0, &["nobody of this name is connected: other"])
        .json();
    assert_eq!(said["standbys"][0]["sync_state"], "quorum", "{said}");
    assert_eq!(
        one::<String>(&client, "show synchronous_standby_names").await,
        "ANY 1 (\"Skytide\", \"other\")"
    );
    stage.run("create table s (n int)").await;
    // As it was done without a configuration; the server is that of the environment.
    stage.without_conf(&["--synch-standby="]).with(0, &[]);
    assert_eq!(one::<String>(&client, "show synchronous_standby_names").await, "");
    receiver.ends_politely().await;
    stage.walmgr(&["synch-standby", "nobody", "--force"]).with(0, &[]);
    assert_eq!(
        one::<String>(&client, "show synchronous_standby_names").await,
        "FIRST 1 (\"nobody\")"
    );
    stage.walmgr(&["synch-standby", ""]).with(0, &[]);
}

/// Prevents: two copies that are one, a place to look that nobody looks at, a standby made over its primary.
#[tokio::test]
async fn what_cannot_be_meant_is_refused() {
    let stage = Stage::new().await;
    let store = stage.store().display().to_string();
    stage.configure(&format!("stores = {store}, {store}"));
    stage.walmgr(&["stores"]).with(2, &["stores", "named twice"]);
    configure(&stage, "");
    stage
        .walmgr(&["restore", "latest", "/nowhere", "--action", "pause"])
        .with(2, &["--action", "--time", "--standby"]);
    stage
        .walmgr(&["createslave"])
        .with(2, &["master_data", "slave_data"]);
    assert!(stage.server.data_dir().join("global/pg_control").exists());
}
