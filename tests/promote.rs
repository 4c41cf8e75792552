//! A primary dies, or is told to go: which standby takes its place, and what is lost.

mod changed;
mod trio;

use std::collections::BTreeSet;

use serde_json::Value;
use skytide_fixtures::server::{Server, StopMode};
use skytide_fixtures::wait;
use skytide_sql::Lsn;

use self::trio::{Trio, cut, in_recovery, missing, replicates, rows};
use crate::walmgr::copy::{flush_lsn, in_step};
use crate::walmgr::load::Load;
use crate::walmgr::stage::PATIENCE;

fn ids<T>(acknowledged: Vec<(i64, T)>) -> BTreeSet<i64> {
    acknowledged.into_iter().map(|(id, _)| id).collect()
}

/// The row of a node in what was found.
fn node<'v>(outlook: &'v Value, name: &str) -> &'v Value {
    let nodes = outlook["nodes"].as_array().unwrap();
    nodes.iter().find(|node| node["node"] == name).unwrap()
}

fn steps(report: &Value) -> Vec<String> {
    let steps = report["steps"].as_array().unwrap();
    let name = |done: &Value| match &done["step"] {
        Value::String(step) => step.clone(),
        step => format!("follow {}", step["follow"].as_str().unwrap()),
    };
    steps.iter().map(name).collect()
}

#[tokio::test]
async fn a_primary_killed_under_load_loses_nothing_that_its_disk_has() {
    let trio = Trio::new().await;
    trio.configure(true, &trio.fence());
    let mut receiver = trio.stage.copier("receive", &[]);
    in_step(trio.a(), &trio.stage.store()).await;
    // One standby is behind, and so is the store.
    cut(&trio.c.0).await;
    let load = Load::start(trio.a(), 0).await;
    load.until(100).await;
    receiver.kill();
    load.until(400).await;
    trio.a().kill().unwrap();
    let acknowledged = ids(load.end().await);

    // First the look, which changes nothing.
    let plan = trio.asked(&["--dry-run", "--to", "c"]);
    let outlook = &plan["outlook"];
    assert_eq!(outlook["known"]["exact"], true, "{plan}");
    assert_eq!(outlook["plan"]["new_primary"], "c", "{plan}");
    assert_eq!(node(outlook, "a")["is"], "silent", "{plan}");
    let lacks = node(outlook, "c")["lacks_commits"].as_u64().unwrap();
    assert!(lacks >= 100, "what came after the receiver's end: {plan}");
    assert!(node(outlook, "c")["lacks_ms"].as_f64().unwrap() > 0.0, "{plan}");
    assert!(node(outlook, "b")["lacks_bytes"].as_u64() < node(outlook, "c")["lacks_bytes"].as_u64());
    let text = trio.promote(&["--dry-run"]).with(0, &[]).out;
    assert!(
        text.contains("Lacks bytes") && text.contains("promote b"),
        "{text}"
    );
    assert!(!trio.has_journal() && trio.fenced().is_empty());
    assert!(in_recovery(&trio.b.0).await && in_recovery(&trio.c.0).await);

    // The one that is behind is given everything.
    let report = trio.asked(&["--to", "c", "--yes"]);
    assert_eq!(report["finished"], true, "{report}");
    assert_eq!(
        steps(&report),
        [
            "fence", "salvage", "bring", "promote", "write", "follow b", "tidy"
        ]
    );
    assert!(report["server_ms"].as_f64().unwrap() > 0.0, "{report}");
    println!("{report:#}");
    assert_eq!(missing(&trio.c.0, &acknowledged).await, BTreeSet::new());
    assert_eq!(trio.fenced(), ["a c"]);
    replicates(&trio.c.0, &[&trio.b.0], -1).await;
    trio.promote(&["--yes"]).with(0, &["c was promoted before"]);
    assert_eq!(trio.fenced(), ["a c"], "nothing was done again");

    // The former primary had nothing that the new one does not have.
    let would = trio
        .promote(&["--rejoin", "a", "--dry-run"])
        .with(0, &["nothing was changed"]);
    assert!(would.out.contains("a would be started"), "{would:?}");
    assert!(trio.a().connect("postgres").await.is_err());
    let back = trio.promote(&["--rejoin", "a"]).with(0, &[]);
    assert!(back.out.contains("a was started and streams from c"), "{back:?}");
    replicates(&trio.c.0, &[trio.a(), &trio.b.0], -2).await;
}

#[tokio::test]
async fn without_the_disk_the_stores_have_what_was_acknowledged() {
    let trio = Trio::new().await;
    trio.configure(false, &trio.fence());
    let receiver = trio.stage.copier("receive", &[]);
    in_step(trio.a(), &trio.stage.store()).await;
    trio.stage
        .run("alter system set synchronous_standby_names = 'skytide'")
        .await;
    trio.stage.run("select pg_reload_conf()").await;
    cut(&trio.b.0).await;
    cut(&trio.c.0).await;
    let replay = trio.b.0.connect("postgres").await.unwrap();
    replay
        .batch_execute("select pg_wal_replay_pause()")
        .await
        .unwrap();
    let load = Load::start(trio.a(), 0).await;
    load.until(300).await;
    trio.a().kill().unwrap();
    let acknowledged = ids(load.end().await);
    receiver.ends_politely().await;

    let report = trio.asked(&["--yes", "--to", "b"]);
    let outlook = &report["outlook"];
    assert_eq!(outlook["known"]["exact"], false, "{report}");
    assert_eq!(node(outlook, "b")["replay_paused"], true, "{report}");
    assert_eq!(missing(&trio.b.0, &acknowledged).await, BTreeSet::new());
    replicates(&trio.b.0, &[&trio.c.0], -1).await;
    // What was changed on the way is as before.
    let row = replay.query_one("select current_setting('restore_command')", &[]);
    let command: String = row.await.unwrap().get(0);
    assert_eq!(command.is_empty(), trio.a().version().major > 13, "{command}");
}

#[tokio::test]
async fn a_store_that_cannot_be_asked_is_not_left_out_by_the_way() {
    use std::os::unix::fs::PermissionsExt;
    let trio = Trio::new().await;
    trio.configure(false, &trio.fence());
    let receiver = trio.stage.copier("receive", &[]);
    in_step(trio.a(), &trio.stage.store()).await;
    trio.stage
        .run("alter system set synchronous_standby_names = 'skytide'")
        .await;
    trio.stage.run("select pg_reload_conf()").await;
    cut(&trio.b.0).await;
    cut(&trio.c.0).await;
    let load = Load::start(trio.a(), 0).await;
    load.until(50).await;
    trio.a().kill().unwrap();
    let acknowledged = ids(load.end().await);
    receiver.ends_politely().await;
    let partial = trio.stage.store().join("partial");
    let allow = |mode| std::fs::set_permissions(&partial, PermissionsExt::from_mode(mode)).unwrap();
    allow(0o000);
    let store = trio.stage.store().display().to_string();
    trio.promote(&["--yes"])
        .with(1, &["cannot be asked", &store, "--without-silent-stores"]);
    assert!(!trio.has_journal() && trio.fenced().is_empty());
    // Whoever gives it up says so.
    trio.promote(&["--dry-run", "--without-silent-stores"])
        .with(0, &[]);
    allow(0o700);
    trio.promote(&["--yes", "--to", "b"]).with(0, &[]);
    assert_eq!(missing(&trio.b.0, &acknowledged).await, BTreeSet::new());
    replicates(&trio.b.0, &[&trio.c.0], -1).await;
}

/// Prevents: a second primary, since we could not log in to the first.
#[tokio::test]
async fn a_primary_that_does_not_let_us_in_is_not_dead() {
    let trio = Trio::new().await;
    trio.configure(false, "fence_required = no");
    cut(&trio.b.0).await;
    cut(&trio.c.0).await;
    let conf = trio.stage.conf();
    let text = std::fs::read_to_string(&conf).unwrap();
    let db = format!("[node a]\ndb = {}", trio.a().dsn("postgres"));
    assert!(text.contains(&db), "{text}");
    std::fs::write(
        &conf,
        text.replace(&db, &format!("{db} user=nobody_of_that_name")),
    )
    .unwrap();
    trio.promote(&["--yes", "--to", "b"])
        .with(1, &["the primary may live", "node a", "--believe-dead"]);
    assert!(in_recovery(&trio.b.0).await && !trio.has_journal());
    trio.a().kill().unwrap();
    trio.promote(&["--yes", "--to", "b"]).with(0, &[]);
    assert!(!in_recovery(&trio.b.0).await);
}

/// Prevents: a promotion that waits for a store that is gone at each file that the standby asks for on its way.
#[tokio::test]
async fn a_store_that_is_gone_for_good_holds_up_no_promotion() {
    let trio = Trio::new().await;
    trio.configure(false, &trio.fence());
    let conf = trio.stage.conf();
    let text = std::fs::read_to_string(&conf).unwrap();
    let stores = format!("stores = {}", trio.stage.store().display());
    let gone = trio.stage.path("gone").display().to_string();
    assert!(text.contains(&stores), "{text}");
    let both = format!("{stores}, {gone}\nstores_needed = 1\nrestore_timeout = 10min");
    std::fs::write(&conf, text.replace(&stores, &both)).unwrap();
    if trio.a().version().major > 13 {
        for standby in [&trio.b.0, &trio.c.0] {
            let client = standby.connect("postgres").await.unwrap();
            let line = trio.stage.line("restore-wal %f %p");
            client
                .batch_execute(&format!("alter system set restore_command = '{line}'"))
                .await
                .unwrap();
            client.batch_execute("select pg_reload_conf()").await.unwrap();
        }
    }
    let receiver = trio.stage.copier("receive", &[]);
    in_step(trio.a(), &trio.stage.store()).await;
    let load = Load::start(trio.a(), 0).await;
    load.until(50).await;
    trio.a().kill().unwrap();
    let acknowledged = ids(load.end().await);
    receiver.ends_politely().await;
    trio.promote(&["--yes"]).with(1, &["cannot be asked", &gone]);
    let report = trio.asked(&["--yes", "--to", "b", "--without-silent-stores"]);
    assert_eq!(report["finished"], true, "{report}");
    replicates(&trio.b.0, &[&trio.c.0], -1).await;
    let lost = missing(&trio.b.0, &acknowledged).await.len() as u64;
    let lacked = node(&report["outlook"], "b")["lacks_commits"]
        .as_u64()
        .unwrap_or(0);
    assert!(lost <= lacked + 5, "{lost} {report}");
}

#[tokio::test]
async fn a_standby_gets_what_another_one_has_and_one_that_is_ahead_is_rewound() {
    let trio = Trio::new().await;
    trio.configure(false, "fence_required = no");
    cut(&trio.c.0).await;
    let load = Load::start(trio.a(), 0).await;
    load.until(200).await;
    trio.a().kill().unwrap();
    load.end().await;
    let plan = trio.asked(&["--dry-run", "--to", "c"]);
    assert_eq!(plan["outlook"]["known"]["at"], "node b", "{plan}");
    assert!(plan.to_string().contains("with the WAL of b"), "{plan}");

    // While b is away nobody has it.
    trio.b.0.stop(StopMode::Fast).await.unwrap();
    let report = trio.asked(&["--yes", "--to", "c", "--old", "a"]);
    assert_eq!(steps(&report), ["bring", "promote", "write", "tidy"], "{report}");
    assert_eq!(rows(&trio.c.0).await.unwrap().len(), 1, "the rest is on b");
    trio.b.0.start_again().await.unwrap();
    assert!(rows(&trio.b.0).await.unwrap().len() > 100);
    let ours = std::fs::read_to_string(trio.b.0.data_dir().join("skytide.conf")).unwrap();
    // Killed when pg_rewind has replaced its configuration, too. Another one would spoil it.
    let would = trio.promote(&["--rejoin", "b", "--dry-run"]).with(0, &[]);
    assert!(
        would.out.contains("b would be stopped, rewound and started"),
        "{would:?}"
    );
    assert!(rows(&trio.b.0).await.unwrap().len() > 100, "it is as it was");
    let rejoin = ["promote", "--rejoin", "b"];
    trio.stage.killed_at("promote::rewound", &rejoin).await;
    assert_ne!(
        std::fs::read_to_string(trio.b.0.data_dir().join("skytide.conf")).unwrap(),
        ours
    );
    let back = trio.promote(&["--rejoin", "b"]);
    let words = "b was rewound and streams from c";
    let log = std::fs::read_to_string(trio.b.0.data_dir().join("skytide-start.log"));
    assert!(back.out.contains(words), "{back:?}\n{log:?}");
    replicates(&trio.c.0, &[&trio.b.0], -1).await;
    // It has its own configuration, and not that of the server it was rewound to.
    let kept = std::fs::read_to_string(trio.b.0.data_dir().join("skytide.conf")).unwrap();
    assert_eq!(kept, ours);
}

#[tokio::test]
async fn the_wal_of_the_furthest_standby_is_brought_to_another() {
    let trio = Trio::new().await;
    trio.configure(false, "fence_required = no");
    cut(&trio.c.0).await;
    let load = Load::start(trio.a(), 0).await;
    load.until(200).await;
    trio.a().kill().unwrap();
    load.end().await;
    let report = trio.asked(&["--yes", "--to", "c"]);
    assert_eq!(steps(&report), ["bring", "promote", "write", "follow b", "tidy"]);
    // Nothing of what b had is lost.
    assert!(rows(&trio.c.0).await.unwrap().len() >= rows(&trio.b.0).await.unwrap().len());
    replicates(&trio.c.0, &[&trio.b.0], -1).await;
}

/// Nodes on other hosts: what they have is read, and what they are told is said, by SQL.
#[tokio::test]
async fn nodes_on_other_hosts_are_promoted_and_follow_by_sql_alone() {
    let trio = Trio::new().await;
    trio.configure_disks(&[], "fence_required = no");
    cut(&trio.c.0).await;
    let load = Load::start(trio.a(), 0).await;
    load.until(200).await;
    trio.a().kill().unwrap();
    load.end().await;
    let plan = trio.asked(&["--dry-run"]);
    assert_eq!(plan["outlook"]["plan"]["new_primary"], "b", "{plan}");
    let report = trio.asked(&["--yes", "--to", "c"]);
    assert_eq!(steps(&report), ["bring", "promote", "write", "follow b", "tidy"]);
    let (b, c) = (rows(&trio.b.0).await.unwrap(), rows(&trio.c.0).await.unwrap());
    assert!(
        b.len() > 100 && c.is_superset(&b),
        "{} on b, {} on c",
        b.len(),
        c.len()
    );
    replicates(&trio.c.0, &[&trio.b.0], -1).await;
}

#[tokio::test]
async fn what_is_unsafe_is_refused_and_changes_nothing() {
    let trio = Trio::new().await;
    trio.configure(true, &trio.fence());
    trio.promote(&["--yes"])
        .with(1, &["node a is a primary, and answers", "--switchover"]);
    trio.promote(&["--yes", "--switchover", "--to", "a"])
        .with(0, &["a is the primary already"]);
    trio.promote(&["--yes", "--switchover"]).with(2, &["--to"]);
    // We cannot reach it, and its standbys can.
    let conf = std::fs::read_to_string(trio.stage.conf()).unwrap();
    let port = format!("port={} ", trio.a().port());
    let (head, nodes) = conf.split_once("[node a]").unwrap();
    let elsewhere = nodes.replacen(&port, "port=1 ", 1);
    let (a_node, others) = elsewhere.split_once("[node b]").unwrap();
    let a_node: Vec<&str> = a_node.lines().filter(|line| !line.starts_with("data")).collect();
    let cut_off = format!("{head}[node a]{}\n[node b]{others}", a_node.join("\n"));
    std::fs::write(trio.stage.conf(), cut_off).unwrap();
    trio.promote(&["--yes"])
        .with(1, &["still receives WAL", "--believe-dead"]);

    trio.a().kill().unwrap();
    trio.configure(true, "");
    trio.promote(&["--yes"])
        .with(2, &["fence_command", "fence_required"]);
    trio.promote(&["--yes", "--to", "d"]).with(2, &["no node d"]);
    trio.configure(true, "fence_command = /bin/false");
    trio.promote(&["--yes", "--to", "b"])
        .with(1, &["/bin/false failed", "goes on"]);
    assert!(in_recovery(&trio.b.0).await && in_recovery(&trio.c.0).await);
    // Nothing was done, so the plan may become another one.
    trio.configure(true, &trio.fence());
    trio.promote(&["--yes", "--to", "c"])
        .with(0, &["the promotion of b that was begun", "a new plan is made"]);
    replicates(&trio.c.0, &[&trio.b.0], -1).await;
}

#[tokio::test]
async fn a_promotion_that_is_killed_between_any_two_steps_goes_on() {
    let trio = Trio::new().await;
    trio.configure(true, &trio.fence());
    cut(&trio.b.0).await;
    cut(&trio.c.0).await;
    let load = Load::start(trio.a(), 0).await;
    load.until(200).await;
    trio.a().kill().unwrap();
    let acknowledged = ids(load.end().await);
    for step in ["fence", "salvage", "bring", "promote", "write", "follow", "tidy"] {
        for point in [format!("promote::{step}"), format!("promote::{step}-noted")] {
            trio.stage.killed_at(&point, &["promote", "--yes"]).await;
        }
    }
    trio.promote(&["--yes"]).with(0, &["was promoted before"]);
    let (new, other) = match in_recovery(&trio.b.0).await {
        false => (&trio.b.0, &trio.c.0),
        true => (&trio.c.0, &trio.b.0),
    };
    assert_eq!(missing(new, &acknowledged).await, BTreeSet::new());
    replicates(new, &[other], -1).await;
    assert_eq!(trio.fenced().len(), 2, "once before it was noted, and once again");
}

#[tokio::test]
async fn a_switchover_under_load_loses_nothing_and_the_old_primary_follows() {
    let trio = Trio::new().await;
    trio.configure(true, "");
    let load = Load::start(trio.a(), 0).await;
    load.until(200).await;
    let report = trio.asked(&["--switchover", "--to", "b", "--yes"]);
    let mut acknowledged = ids(load.end().await);
    println!("{report:#}");
    assert_eq!(
        steps(&report),
        [
            "stop", "bring", "promote", "write", "follow c", "follow a", "tidy"
        ]
    );
    assert_eq!(missing(&trio.b.0, &acknowledged).await, BTreeSet::new());
    replicates(&trio.b.0, &[trio.a(), &trio.c.0], -1).await;

    // And back, killed on the way.
    let load = Load::start(&trio.b.0, 1).await;
    load.until(100).await;
    for point in [
        "promote::stop",
        "promote::stop-noted",
        "promote::promote",
        "promote::follow",
    ] {
        let arguments = ["promote", "--switchover", "--to", "a", "--yes"];
        trio.stage.killed_at(point, &arguments).await;
    }
    trio.promote(&["--switchover", "--to", "a", "--yes"]).with(0, &[]);
    acknowledged.extend(ids(load.end().await));
    assert_eq!(missing(trio.a(), &acknowledged).await, BTreeSet::new());
    replicates(trio.a(), &[&trio.b.0, &trio.c.0], -2).await;
}

/// What a recovery to a point in time was told stays in the configuration, and means nothing as long as nobody recovers.
#[tokio::test]
async fn a_former_primary_does_not_end_its_recovery_at_an_old_target() {
    let trio = Trio::new().await;
    trio.configure(true, "");
    let conf = trio.a().data_dir().join("postgresql.auto.conf");
    let mut text = std::fs::read_to_string(&conf).unwrap();
    text.push_str("recovery_target_time = '2001-01-01 00:00:00+00'\nrecovery_target_action = 'promote'\n");
    std::fs::write(&conf, text).unwrap();
    trio.promote(&["--switchover", "--to", "b", "--yes"]).with(0, &[]);
    replicates(&trio.b.0, &[trio.a(), &trio.c.0], -1).await;
    assert!(in_recovery(trio.a()).await);
}

#[tokio::test]
async fn a_former_primary_keeps_no_wal_for_those_who_do_not_follow_it() {
    let trio = Trio::new().await;
    trio.configure(true, "");
    let client = trio.a().connect("postgres").await.unwrap();
    for slot in ["of_b", "of_somebody"] {
        let sql = "select pg_create_physical_replication_slot($1, true)";
        client.query_one(sql, &[&slot]).await.unwrap();
    }
    drop(client);
    let b = trio.b.0.connect("postgres").await.unwrap();
    b.batch_execute("alter system set primary_slot_name = 'of_b'")
        .await
        .unwrap();
    b.batch_execute("select pg_reload_conf()").await.unwrap();
    drop(b);
    uses_slot(trio.a(), "of_b").await;
    let report = trio.asked(&["--switchover", "--to", "b", "--yes"]);
    let done = report["steps"].as_array().unwrap();
    let note = done.iter().find(|done| done["step"]["follow"] == "a").unwrap();
    let note = note["note"].as_str().unwrap();
    assert!(note.contains("were dropped: of_b;"), "{note}");
    assert!(note.contains("hold its WAL: of_somebody"), "{note}");
    let a = trio.a().connect("postgres").await.unwrap();
    let slots = a.query("select slot_name::text from pg_replication_slots", &[]);
    let slots: Vec<String> = slots.await.unwrap().iter().map(|row| row.get(0)).collect();
    assert_eq!(slots, ["of_somebody"]);
    drop(a);

    // And back: it has one again.
    trio.promote(&["--switchover", "--to", "a", "--yes"]).with(0, &[]);
    uses_slot(trio.a(), "of_b").await;
}

async fn uses_slot(server: &Server, slot: &str) {
    wait::until_eq("the slot to be in use", Some(true), PATIENCE, async || {
        let client = server.connect("postgres").await?;
        let sql = "select active from pg_replication_slots where slot_name = $1";
        Ok(client.query_opt(sql, &[&slot]).await?.map(|row| row.get(0)))
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn a_standby_that_starts_keeps_what_it_has_received_beyond_the_store() {
    let trio = Trio::new().await;
    let mut receiver = trio.stage.copier("receive", &[]);
    in_step(trio.a(), &trio.stage.store()).await;
    receiver.kill();
    let b = trio.b.0.connect("postgres").await.unwrap();
    let line = trio.stage.line("restore-wal %f %p");
    b.batch_execute(&format!("alter system set restore_command = '{line}'"))
        .await
        .unwrap();
    b.batch_execute("select pg_wal_replay_pause()").await.unwrap();
    let load = Load::start(trio.a(), 0).await;
    load.until(100).await;
    let acknowledged = ids(load.end().await);
    let sent = flush_lsn(trio.a()).await;
    wait::until("the standby to have received it", PATIENCE, async || {
        let sql = "select pg_last_wal_receive_lsn()::text";
        let received: Lsn = b.query_one(sql, &[]).await?.get::<_, &str>(0).parse()?;
        Ok((received >= sent).then_some(()))
    })
    .await
    .unwrap();
    trio.a().kill().unwrap();
    trio.b.0.restart().await.unwrap();
    wait::until_eq("what it lacks", BTreeSet::new(), PATIENCE, async || {
        let there = rows(&trio.b.0).await?;
        Ok(acknowledged.difference(&there).copied().collect())
    })
    .await
    .unwrap();
    let log = std::fs::read_to_string(trio.b.0.log_path()).unwrap();
    assert!(log.contains("the server's own file goes further"), "{log}");
}

#[test]
fn a_drill_says_what_was_told_and_what_is_there() {
    use std::os::unix::fs::PermissionsExt;
    let parent = tempfile::tempdir().unwrap();
    // As root the servers belong to another user, who has to get in.
    std::fs::set_permissions(parent.path(), PermissionsExt::from_mode(0o755)).unwrap();
    let dir = parent.path().join("drill");
    let drill = std::process::Command::new(env!("CARGO_BIN_EXE_skytide"))
        .args([
            "--json",
            "dev",
            "drill",
            "promote",
            "--seconds",
            "1",
            "--standbys",
            "2",
        ])
        .args(["--lose-disk", "--synchronous", "--dir"])
        .arg(&dir)
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&drill.stderr);
    assert_eq!(drill.status.code(), Some(0), "{told}");
    let figures: Value = serde_json::from_slice(&drill.stdout).unwrap();
    assert_eq!(figures["lost"], 0, "{figures}");
    assert_eq!(figures["following"], 1, "{figures}");
    assert!(figures["acknowledged"].as_u64().unwrap() > 0, "{figures}");
    assert!(figures["server_ms"].as_f64().unwrap() > 0.0, "{figures}");
    assert!(!dir.exists(), "nothing is left");
}
