//! The course of the old documentation, from a server nobody has touched to the standby that has taken over, with the old
//! configuration files, the old program's name and its commands.

use std::fs;
use std::path::PathBuf;

use skytide_fixtures::server::{Options, Server, Where, free_port};
use skytide_fixtures::wait;
use tokio_postgres::Client;

use super::stage::{PATIENCE, Restored, Stage, content};

/// What the old wal-master.ini said, comments apart.
pub fn master_ini(stage: &Stage, more: &str) -> PathBuf {
    let dir = stage.dir.path().display();
    let bin = stage.server.bin("pg_ctl");
    let text = format!(
        "\
[walmgr]
job_name = wal-master
logfile = {dir}/%(job_name)s.log
pidfile = {dir}/%(job_name)s.pid
use_skylog = 1
master_db = {db}
master_data = {data}
master_config = %(master_data)s/postgresql.conf
master_bin = {bin}
slave = localhost
slave_config = {dir}/wal-slave.ini
walmgr_data = {dir}/walshipping
completed_wals = %(slave)s:%(walmgr_data)s/logs.complete
partial_wals = %(slave)s:%(walmgr_data)s/logs.partial
full_backup = %(slave)s:%(walmgr_data)s/data.master
config_backup = %(slave)s:%(walmgr_data)s/config.backup
loop_delay = 10.0
use_xlog_functions = 0
compression = 0
keep_symlinks = 1
hot_standby = 1
command_interval = 600
periodic_command =
{more}
",
        db = stage.server.dsn("postgres"),
        data = stage.server.data_dir().display(),
        bin = bin.parent().unwrap().display(),
    );
    let path = stage.path("wal-master.ini");
    fs::write(&path, text).unwrap();
    path
}

/// What the old wal-slave.ini said; the standby will listen at `port`.
pub fn slave_ini(stage: &Stage, port: u16) -> PathBuf {
    let dir = stage.dir.path().display();
    let pg_ctl = stage.server.bin("pg_ctl");
    let text = format!(
        "\
[walmgr]
job_name = wal-slave
logfile = {dir}/%(job_name)s.log
pidfile = {dir}/%(job_name)s.pid
use_skylog = 1
slave_data = {dir}/standby/data
slave_bin = {bin}
slave_stop_cmd = /etc/init.d/postgresql stop
slave_start_cmd = {pg_ctl} -D %(slave_data)s -l {dir}/standby/server.log -s -w \
-o '-c port={port} -c unix_socket_directories={dir}/standby/run' start
slave_config_dir = /etc/postgresql
walmgr_data = {dir}/walshipping
completed_wals = %(walmgr_data)s/logs.complete
partial_wals = %(walmgr_data)s/logs.partial
full_backup = %(walmgr_data)s/data.master
config_backup = %(walmgr_data)s/config.backup
backup_datadir = yes
keep_backups = 0
archive_command =
primary_conninfo = {primary}
",
        bin = pg_ctl.parent().unwrap().display(),
        pg_ctl = pg_ctl.display(),
        primary = stage.server.dsn("postgres"),
    );
    let path = stage.path("wal-slave.ini");
    fs::write(&path, text).unwrap();
    path
}

/// The standby that `createslave --start` has started.
pub async fn joined(stage: &Stage, port: u16) -> Restored {
    let options = Options {
        dir: Where::Persistent(stage.path("standby")),
        port: Some(port),
        ..Options::default()
    };
    Restored(Server::start(options).await.unwrap())
}

/// Until the standby has noticed that its primary is gone.
pub async fn no_longer_streams(standby: &Server) {
    wait::until("the receiver to end", PATIENCE, async || {
        let client = standby.connect("postgres").await?;
        let streams = "select count(*) from pg_stat_wal_receiver where status = 'streaming'";
        let row = client.query_one(streams, &[]).await?;
        Ok((row.get::<_, i64>(0) == 0).then_some(()))
    })
    .await
    .unwrap();
}

pub async fn one<T: for<'a> tokio_postgres::types::FromSql<'a>>(client: &Client, sql: &str) -> T {
    client.query_one(sql, &[]).await.unwrap().get(0)
}

/// Until the standby shows what the primary has.
pub async fn in_step(primary: &Server, standby: &Server) {
    let wanted = content(primary).await;
    wait::until_eq("the standby's rows", wanted, PATIENCE, async || {
        Ok(content(standby).await)
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn old_files_lead_from_setup_to_a_standby_that_takes_over() {
    let stage = Stage::untouched(Options::default()).await;
    let port = free_port().unwrap();
    let (master, slave) = (master_ini(&stage, ""), slave_ini(&stage, port));
    let (master, slave) = (master.to_str().unwrap(), slave.to_str().unwrap());
    stage.directory("standby/run");

    // The standby's host makes the store. What has no meaning any more is said, and why.
    let said = stage.old(&[slave, "setup"]);
    let said = said.with(0, &["full_backup has no effect", "slave_stop_cmd has no effect"]);
    assert!(!said.err.contains("completed_wals has no effect"), "{said:?}");
    assert!(stage.path("walshipping").is_dir());

    // The primary: what has to change, the change, the restart, the proof.
    let said = stage.old(&[master, "setup", "--dry-run", "--json"]).with(3, &[]);
    assert_eq!(said.json()["restart_needed"], true, "{said:?}");
    stage
        .old(&["-n", master, "setup"])
        .with(3, &["nothing was changed"]);
    let client = stage.client().await;
    assert_eq!(one::<String>(&client, "show archive_mode").await, "off");
    stage.old(&[master, "setup"]).with(0, &["restart the server"]);
    stage.old(&[master, "setup"]).with(0, &["restart the server"]);
    stage.server.restart().await.unwrap();
    let said = stage.old(&["--json", master, "setup"]).with(0, &[]);
    let said = said.json();
    assert_eq!(said["restart_needed"], false, "{said}");
    assert_eq!(said["replication"], serde_json::Value::Null, "{said}");
    let segment = said["proof"]["segment"].as_str().unwrap();
    let stored = format!("walshipping/wal/00000001/{segment}.zst");
    assert!(stage.path(&stored).is_file());
    let settings = said["settings"].as_array().unwrap();
    assert!(settings.iter().all(|row| row["state"] == "right"), "{said}");
    stage.old(&[master, "setup", "-n"]).with(0, &[]);

    // A base backup; the standby comes out of it, and follows.
    stage.segment(1000).await;
    stage.old(&[master, "backup"]).with(0, &[]);
    let said = stage.old(&[master, "listbackups"]).with(0, &[]);
    assert_eq!(said.out.lines().count(), 3, "{said:?}");
    stage.segment(500).await;
    let said = stage
        .old(&["--json", slave, "createslave", "--start"])
        .with(0, &[]);
    let said = said.json();
    assert_eq!(
        (&said["already"], &said["started"]),
        (&false.into(), &true.into()),
        "{said}"
    );
    assert_eq!(said["slot"], "wal_slave");
    let standby = joined(&stage, port).await;
    in_step(&stage.server, &standby.0).await;
    let auto_conf = stage.path("standby/data/postgresql.auto.conf");
    let auto_conf = fs::read_to_string(auto_conf).unwrap();
    for setting in [
        "primary_conninfo",
        "primary_slot_name = 'wal_slave'",
        "restore-wal",
    ] {
        assert!(auto_conf.contains(setting), "{auto_conf}");
    }
    let said = stage.old(&[slave, "createslave", "--start"]).with(0, &[]);
    assert!(said.out.contains("standby of this cluster already"), "{said:?}");

    // Commits wait for it, and for nobody who is not there.
    let client = stage.client().await;
    stage
        .old(&[master, "synch-standby", "nobody"])
        .with(1, &["every commit would wait", "wal-slave"]);
    assert_eq!(one::<String>(&client, "show synchronous_standby_names").await, "");
    wait::until("the standby to stream", PATIENCE, async || {
        let state: Option<String> = client
            .query_opt("select state from pg_stat_replication", &[])
            .await?
            .map(|row| row.get(0));
        Ok((state.as_deref() == Some("streaming")).then_some(()))
    })
    .await
    .unwrap();
    let said = stage.old(&["--json", master, "synch-standby", "\"wal-slave\", absent"]);
    let said = said.with(0, &["absent"]).json();
    assert_eq!(said["standbys"][0]["sync_state"], "sync", "{said}");

    // Held, it shows what it had; let go, what came meanwhile.
    stage.old(&[slave, "pause"]).with(0, &[]);
    let before = content(&standby.0).await;
    stage
        .run("insert into t (v) values ('while it stood still')")
        .await;
    stage.old(&[slave, "pause"]).with(0, &[]);
    assert_eq!(content(&standby.0).await, before);
    stage.old(&[slave, "continue"]).with(0, &[]);
    in_step(&stage.server, &standby.0).await;
    stage.old(&[master, "synch-standby", ""]).with(0, &[]);
    assert_eq!(one::<String>(&client, "show synchronous_standby_names").await, "");

    // The primary lives: no second one. It dies, and what only its disk has is brought over.
    stage
        .old(&[slave, "boot"])
        .with(1, &["the primary lives", "--force"]);
    stage.old(&[slave, "pause"]).with(0, &[]);
    stage
        .run("insert into t (v) select 'the last ones' from generate_series(1, 3000)")
        .await;
    let wanted = content(&stage.server).await;
    stage.server.kill().unwrap();
    let said = stage.old(&[master, "sync"]).with(0, &[]);
    assert!(said.out.contains("the server is dead"), "{said:?}");
    no_longer_streams(&standby.0).await;
    let said = stage.old(&["--json", slave, "boot"]).with(0, &[]).json();
    assert_eq!(
        (&said["already"], &said["timeline"]),
        (&false.into(), &2.into()),
        "{said}"
    );
    assert_eq!(said["left_timeline"], 1, "{said}");
    assert!(said["stored_lsn"].is_string(), "{said}");
    assert_eq!(content(&standby.0).await, wanted);
    let promoted = standby.0.connect("postgres").await.unwrap();
    promoted
        .batch_execute("insert into t (v) values ('after')")
        .await
        .unwrap();
    let said = stage.old(&[slave, "boot"]).with(0, &[]);
    assert!(
        said.out.contains("takes writes already, on timeline 2"),
        "{said:?}"
    );
    for command in ["pause", "continue"] {
        stage.old(&[slave, command]).with(1, &["no standby", "HINT"]);
    }
}

#[tokio::test]
async fn a_planned_switchover_copies_what_is_missing_and_loses_nothing() {
    let stage = Stage::new().await;
    let port = free_port().unwrap();
    let master = master_ini(&stage, "");
    slave_ini(&stage, port);
    stage.directory("standby/run");
    stage
        .old(&[master.to_str().unwrap(), "setup", "--backup"])
        .with(0, &[]);
    // A standby that gets its WAL from the store and from nowhere else.
    let standby = stage.path("standby/data");
    stage
        .by(
            "wal-slave.ini",
            &["restore", "latest", standby.to_str().unwrap(), "--standby"],
        )
        .with(0, &[]);
    stage.segment(2000).await;
    let options = Options {
        dir: Where::Persistent(stage.path("standby")),
        port: Some(port),
        ..Options::default()
    };
    let options = options.with("shared_buffers", "32MB").with("archive_mode", "off");
    let standby = Restored(Server::start(options).await.unwrap());
    stage.run("insert into t (v) values ('not archived')").await;
    let wanted = content(&stage.server).await;
    stage
        .server
        .stop(skytide_fixtures::server::StopMode::Fast)
        .await
        .unwrap();
    let said = stage.by("wal-master.ini", &["sync"]).with(0, &[]);
    assert!(said.out.contains("the server was stopped"), "{said:?}");
    let said = stage.by("wal-slave.ini", &["--json", "boot"]).with(0, &[]).json();
    assert_eq!(said["timeline"], 2, "{said}");
    assert_eq!(content(&standby.0).await, wanted);
}
