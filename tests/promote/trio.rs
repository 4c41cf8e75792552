//! A primary `a` with two standbys `b` and `c`, a store, and a configuration for all of them.

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;

use skytide_fixtures::server::{Options, Server, Where, free_port};
use skytide_fixtures::wait;

use crate::walmgr::stage::{PATIENCE, Restored, Said, Stage};

/// What `pg_rewind` asks for.
fn settings(options: Options) -> Options {
    options
        .with("wal_log_hints", "on")
        .with("full_page_writes", "on")
        .with("shared_buffers", "32MB")
        .with("dynamic_shared_memory_type", "mmap")
}

pub struct Trio {
    // Before the stage, in whose directory they are.
    pub b: Restored,
    pub c: Restored,
    pub stage: Stage,
}

impl Trio {
    /// With a table `k` and a row in it, which both standbys have.
    pub async fn new() -> Trio {
        let stage = Stage::with(settings(Options::default())).await;
        stage.configure_copy("");
        // Now that it is known whose: recovery believes no store that nobody has claimed.
        stage.walmgr(&["create-store"]).with(0, &[]);
        stage
            .run("create table k (id bigint primary key, filler text)")
            .await;
        let b = standby(&stage, "b").await;
        let c = standby(&stage, "c").await;
        let trio = Trio { b, c, stage };
        replicates(trio.a(), &[&trio.b.0, &trio.c.0], 0).await;
        std::fs::write(
            trio.stage.path("fence"),
            format!(
                "#!/bin/sh\necho \"$SKYTIDE_OLD_PRIMARY $SKYTIDE_NEW_PRIMARY\" >> {}\n",
                trio.stage.path("fenced").display()
            ),
        )
        .unwrap();
        std::fs::set_permissions(trio.stage.path("fence"), PermissionsExt::from_mode(0o755)).unwrap();
        trio
    }

    pub fn a(&self) -> &Server {
        &self.stage.server
    }

    /// `a_disk`: the primary's data directory is on "this host". `extra` goes into section `[promote]`.
    pub fn configure(&self, a_disk: bool, extra: &str) {
        self.configure_disks(if a_disk { &["a", "b", "c"] } else { &["b", "c"] }, extra);
    }

    /// The data directories of these nodes are on "this host"; the others are reached by SQL only.
    pub fn configure_disks(&self, here: &[&str], extra: &str) {
        let mut text = format!(
            "master_db = {}\nmaster_data = {}\n\n[promote]\nnodes = a, b, c\n{extra}\n",
            self.a().dsn("postgres"),
            self.a().data_dir().display()
        );
        for (name, server) in [("a", self.a()), ("b", &self.b.0), ("c", &self.c.0)] {
            text.push_str(&format!("\n[node {name}]\ndb = {}\n", server.dsn("postgres")));
            if here.contains(&name) {
                text.push_str(&format!("data = {}\n", server.data_dir().display()));
            }
        }
        self.stage.configure(&text);
    }

    pub fn fence(&self) -> String {
        format!("fence_command = {}", self.stage.path("fence").display())
    }

    /// What the fence was told each time.
    pub fn fenced(&self) -> Vec<String> {
        let text = std::fs::read_to_string(self.stage.path("fenced")).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    pub fn has_journal(&self) -> bool {
        self.stage.path("wal.promote.json").exists()
    }

    /// `promote` with these arguments.
    pub fn promote(&self, arguments: &[&str]) -> Said {
        self.stage.walmgr(&[&["promote"], arguments].concat())
    }

    /// The same, and what it says as JSON.
    pub fn asked(&self, arguments: &[&str]) -> serde_json::Value {
        let said = self.stage.walmgr(&[&["--json", "promote"], arguments].concat());
        let said = said.with(0, &[]);
        serde_json::from_str(&said.out).unwrap_or_else(|_| panic!("{said:?}"))
    }
}

async fn standby(stage: &Stage, name: &str) -> Restored {
    let home = stage.directory(name);
    let copied = stage
        .server
        .command("pg_basebackup")
        .args(["-X", "stream", "-c", "fast", "-D"])
        .arg(home.join("data"))
        .output()
        .unwrap();
    assert!(copied.status.success(), "{copied:?}");
    let conninfo = format!("{} application_name={name}", stage.server.dsn("postgres"));
    std::fs::write(
        home.join("data/postgresql.auto.conf"),
        format!("primary_conninfo = '{conninfo}'\n"),
    )
    .unwrap();
    std::fs::write(home.join("data/standby.signal"), "").unwrap();
    stage.give_to_server(name);
    let options = Options {
        dir: Where::Persistent(home),
        port: Some(free_port().unwrap()),
        ..Options::default()
    };
    let mut options = settings(options).with("archive_mode", "off");
    if stage.server.version().major == 13 {
        // It takes none while it runs.
        options = options.with("restore_command", stage.line("restore-wal %f %p"));
    }
    Restored(Server::start(options).await.unwrap())
}

/// The standby receives nothing from here on, as if its network were broken.
pub async fn cut(server: &Server) {
    let client = server.connect("postgres").await.unwrap();
    client
        .batch_execute("alter system set primary_conninfo = ''")
        .await
        .unwrap();
    client.batch_execute("select pg_reload_conf()").await.unwrap();
    wait::until_eq("walreceivers", 0, PATIENCE, async || {
        let sql = "select count(*) from pg_stat_wal_receiver";
        Ok(client.query_one(sql, &[]).await?.get::<_, i64>(0))
    })
    .await
    .unwrap();
}

pub async fn in_recovery(server: &Server) -> bool {
    let client = server.connect("postgres").await;
    let client = client.unwrap_or_else(|error| panic!("{error:#}\n{}", server.log_tail()));
    let row = client.query_one("select pg_is_in_recovery()", &[]).await.unwrap();
    row.get(0)
}

pub async fn rows(server: &Server) -> anyhow::Result<BTreeSet<i64>> {
    let client = server.connect("postgres").await?;
    let rows = client.query("select id from k", &[]).await?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// What clients were told was committed, and is not there.
pub async fn missing(server: &Server, acknowledged: &BTreeSet<i64>) -> BTreeSet<i64> {
    let there = rows(server).await.unwrap();
    acknowledged.difference(&there).copied().collect()
}

/// A row on the new primary arrives at the others.
pub async fn replicates(primary: &Server, others: &[&Server], id: i64) {
    let client = primary.connect("postgres").await.unwrap();
    client
        .execute("insert into k (id) values ($1)", &[&id])
        .await
        .unwrap();
    let wanted = rows(primary).await.unwrap();
    for server in others {
        wait::until_eq("the rows to arrive", wanted.len(), PATIENCE, async || {
            Ok(rows(server).await?.len())
        })
        .await
        .unwrap_or_else(|error| panic!("{error:#}\n{}", server.log_tail()));
        assert_eq!(rows(server).await.unwrap(), wanted);
    }
}
