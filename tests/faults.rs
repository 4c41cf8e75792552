//! Faults as a user meets them: exit code, object and fix in the message, nothing changed, and the doctor
//! that finds them beforehand. docs/faults.md lists them.

mod schemas;
mod stage;

use skytide_fixtures::server::{Options, Server};
use skytide_fixtures::wait;

use stage::{PATIENCE, Stage, skytide};

const COUNT: &str = "select count(*) from a";

fn usual() -> Options {
    Options::default()
}

#[test]
fn slips_in_a_configuration_file_leave_with_2_and_name_the_place() {
    let dir = tempfile::tempdir().unwrap();
    let conf = dir.path().join("leaf.ini");
    let refused = |text: &str, words: &[&str]| {
        std::fs::write(&conf, text).unwrap();
        for command in [["londiste", "status"], ["doctor", ""]] {
            let mut arguments = vec![command[0], conf.to_str().unwrap()];
            arguments.extend(Some(command[1]).filter(|c| !c.is_empty()));
            skytide(&arguments).with(2, words);
        }
    };
    refused(
        "[londiste]\nqueue_nam = q\n",
        &["leaf.ini:2", "queue_nam", "Did you mean queue_name?"],
    );
    refused(
        "[londiste]\ndb = dbname=x\nqueue_name = q\nspool_max_bytes = much\n",
        &["leaf.ini:4", "spool_max_bytes"],
    );
    refused(
        "[pgqd]\n",
        &["no section [londiste]", "Begin the settings with a line"],
    );
    refused(
        "[londiste]\nqueue_name = q\ndb = host=x passwrd=geheim\n",
        &["leaf.ini:3", "passwrd", "password"],
    );
    refused(
        "[londiste]\ndb = dbname=x\nqueue_name = q\ncapture = trigger\n",
        &["leaf.ini:4", "capture"],
    );
    let said = skytide(&["doctor", conf.to_str().unwrap()]);
    assert!(!said.err.contains("geheim"), "{said:?}");
    skytide(&["londiste", "/nonexistent.ini", "status"]).with(2, &["/nonexistent.ini", "No such file"]);
}

#[tokio::test]
async fn a_wrong_password_is_refused_and_never_shown() {
    let options = Options {
        hba: Some(vec!["host all all 127.0.0.1/32 scram-sha-256".into()]),
        ..usual()
    };
    let server = Server::start(options).await.unwrap();
    let admin = server.connect("postgres").await.unwrap();
    admin
        .batch_execute("create role someone login password 'right'")
        .await
        .unwrap();
    let dsn = format!(
        "host=127.0.0.1 port={} user=someone dbname=postgres password=wr0ng",
        server.port()
    );
    for said in [
        skytide(&["install", &dsn]).with(1, &["127.0.0.1"]),
        skytide(&["doctor", "--db", &dsn]).with(3, &["FAIL", "connect", "someone", "psql"]),
        skytide(&["-vv", "install", &dsn]).with(1, &[]),
    ] {
        assert!(
            !said.err.contains("wr0ng") && !said.out.contains("wr0ng"),
            "{said:?}"
        );
    }
}

#[tokio::test]
async fn a_root_needs_logical_wal() {
    let stage = Stage::installed(usual().with("wal_level", "replica")).await;
    let dsn = stage.server.dsn("root");
    stage.root(&["create-root", "root", &dsn]).with(
        1,
        &[
            "wal_level is replica",
            "alter system set wal_level = 'logical'",
            "restart",
        ],
    );
    assert_eq!(stage.count("root", "select count(*) from pgq.queue").await, 0);
    skytide(&["doctor", "--db", &dsn, "--as", "root"]).with(3, &["wal_level", "alter system set wal_level"]);
    // As a leaf it will do.
    skytide(&["doctor", "--db", &stage.server.dsn("leaf"), "--as", "leaf"]).well();
}

#[tokio::test]
async fn missing_modules_are_named_with_the_command_that_brings_them() {
    let stage = Stage::databases(usual()).await;
    let dsn = stage.server.dsn("root");
    stage
        .root(&["create-root", "root", &dsn])
        .with(1, &["SQL modules are not installed", "skytide install"]);
    skytide(&["doctor", "--db", &dsn]).with(3, &["schema londiste", "skytide install"]);
}

#[tokio::test]
async fn a_table_without_usable_replica_identity_is_refused_with_the_alter_table() {
    let stage = Stage::nodes(usual()).await;
    stage
        .run(
            "root",
            "create table nokey (id int); \
             create table nothing (id int primary key); alter table nothing replica identity nothing; \
             create table late (id int primary key deferrable); \
             create table full_late (id int primary key deferrable initially deferred); \
             alter table full_late replica identity full; \
             create table made (id int, g int generated always as (id * 2) stored primary key); \
             create unlogged table lost (id int primary key)",
        )
        .await;
    let refused = |table: &str, words: &[&str]| {
        let said = stage.root(&["add-table", table]);
        said.with(1, &[&[table], words].concat());
    };
    refused("nokey", &["Primary key missing", "replica identity full"]);
    refused(
        "nothing",
        &["alter table public.nothing replica identity default"],
    );
    refused(
        "late",
        &[
            "deferrable",
            "alter table public.late drop constraint late_pkey, add constraint late_pkey PRIMARY KEY (id)",
        ],
    );
    refused(
        "full_late",
        &[
            "Only deferrable keys",
            "drop constraint full_late_pkey, add constraint",
        ],
    );
    refused("made", &["generated column g", "replica identity using index"]);
    refused("lost", &["alter table public.lost set logged"]);
    assert_eq!(
        stage
            .count("root", "select count(*) from londiste.table_info")
            .await,
        1
    );
    assert_eq!(
        stage
            .count(
                "root",
                "select count(*) from pg_publication_tables where pubname = 'skytide_q'"
            )
            .await,
        1
    );

    // One that became unusable later is the doctor's.
    stage.run("root", "alter table a replica identity nothing").await;
    stage.doctor("root").with(
        3,
        &[
            "public.a",
            "alter table \"public\".\"a\" replica identity default;",
        ],
    );
}

#[tokio::test]
async fn without_a_free_slot_the_worker_says_so_and_leaves() {
    let stage = Stage::nodes(usual().with("max_replication_slots", 1)).await;
    stage
        .run("root", "select pg_create_physical_replication_slot('taken')")
        .await;
    stage.doctor("leaf").with(
        3,
        &[
            "max_replication_slots",
            "all 1 are in use",
            "pg_drop_replication_slot('taken')",
        ],
    );
    stage
        .worker_stops(&["all replication slots are in use", "max_replication_slots"])
        .await;
    stage
        .run("root", "select pg_drop_replication_slot('taken')")
        .await;
    let _worker = stage.sync_a();
}

#[tokio::test]
async fn a_dropped_slot_is_never_made_anew_in_silence() {
    let (stage, worker) = Stage::replicating(usual()).await;
    worker.stop().await;
    let slot = "pg_replication_slots where slot_name = 'skytide_q_leaf'";
    stage
        .run(
            "root",
            &format!("select pg_drop_replication_slot(slot_name) from {slot}"),
        )
        .await;
    stage.run("root", "insert into a values (1, 'x')").await;
    stage
        .worker_stops(&["slot skytide_q_leaf is gone", "resync --all"])
        .await;
    stage
        .doctor("leaf")
        .with(3, &["slot skytide_q_leaf", "is gone", "resync --all"]);
    assert_eq!(
        stage.count("root", &format!("select count(*) from {slot}")).await,
        0
    );

    // The fix it names works.
    stage.leaf(&["resync", "--all"]).well();
    let _worker = stage.worker();
    stage.leaf_gets(COUNT, 1).await;
}

/// What the root said of its set while the slot was gone is in no stream: the leaf's list is made the provider's.
#[tokio::test]
async fn a_lost_slot_leaves_no_wrong_list_of_the_set() {
    let stage = Stage::nodes(usual()).await;
    for name in ["root", "leaf"] {
        for table in ["b", "c", "d"] {
            let create = format!("create table {table} (id int primary key)");
            stage.run(name, &create).await;
        }
    }
    stage.root(&["add-table", "b"]).well();
    stage.leaf(&["add-table", "b"]).well();
    let worker = stage.sync_a();
    worker.stop().await;
    stage
        .run("root", "select pg_drop_replication_slot('skytide_q_leaf')")
        .await;
    stage.root(&["remove-table", "b"]).well();
    stage.root(&["add-table", "c", "d"]).well();
    stage.leaf(&["missing"]).with(0, &["public.c", "public.d"]);
    stage.root(&["remove-table", "d"]).well();
    let missing = stage.leaf(&["missing"]).with(0, &["public.c"]);
    assert!(!missing.out.contains("public.d"), "{missing:?}");
    for gone in ["b", "d"] {
        let refused = stage.leaf(&["add-table", gone]);
        refused.with(1, &[&format!("public.{gone} "), "not in the provider's set"]);
    }
    stage.leaf(&["resync", "--all"]).well();
    let _worker = stage.worker();
    stage
        .leaf_gets(
            "select count(*) from londiste.table_info where table_name = 'public.b'",
            0,
        )
        .await;
    stage.leaf(&["wait-sync", "--timeout", "30"]).well();
    stage.leaf(&["add-table", "--all", "--wait-sync"]).well();
    let tables = stage.leaf(&["tables"]).with(0, &["public.a", "public.c"]);
    assert!(!tables.out.contains("public.b"), "{tables:?}");
}

#[tokio::test]
async fn a_compare_says_of_a_table_that_it_is_not_in_sync() {
    let stage = Stage::nodes(usual()).await;
    stage.leaf(&["add-table", "a"]).well();
    stage
        .leaf(&["compare", "a"])
        .with(1, &["not in sync yet: public.a (missing)", "wait-sync"]);
    stage.leaf(&["compare", "x"]).with(1, &["no such table here: x"]);
}

#[tokio::test]
async fn tables_that_cannot_be_added_do_not_keep_others_out() {
    let stage = Stage::nodes(usual()).await;
    stage
        .run(
            "root",
            "create table nokey (id int); create table z (id int primary key); \
             create table p (id int primary key) partition by range (id); \
             create table p1 partition of p for values from (1) to (10); \
             create table p2 partition of p for values from (10) to (20)",
        )
        .await;
    stage.root(&["add-table", "p"]).with(
        1,
        &[
            "public.p is partitioned: its partitions are to be added",
            "add-table public.p1 public.p2",
        ],
    );
    stage.root(&["add-table", "--all"]).with(
        1,
        &[
            "table public.nokey was not added",
            "replica identity full",
            "1 of 4 tables were not added",
        ],
    );
    let added = "select count(*) from londiste.table_info where local";
    assert_eq!(stage.count("root", added).await, 4);
    stage
        .run(
            "leaf",
            "create table z (id int primary key) partition by range (id)",
        )
        .await;
    stage
        .leaf(&["add-table", "z"])
        .with(1, &["public.z is partitioned"]);
}

#[tokio::test]
async fn an_empty_spool_is_first_of_all_a_wrong_place() {
    let (stage, worker) = Stage::replicating(usual()).await;
    worker.stop().await;
    let aside = stage.dir.path().join("not_mounted");
    std::fs::rename(stage.spool(), &aside).unwrap();
    let words = [
        "is empty, but tables depend on it",
        "spool_dir",
        "mounted",
        "resync --all",
    ];
    stage.doctor("leaf").with(3, &words);
    stage.worker_stops(&words).await;
    stage.doctor("leaf").with(3, &words);

    // Mounted again, it goes on.
    std::fs::remove_dir_all(stage.spool()).unwrap();
    std::fs::rename(aside, stage.spool()).unwrap();
    stage.run("root", "insert into a values (1, 'x')").await;
    let _worker = stage.worker();
    stage.leaf_gets(COUNT, 1).await;
}

/// Prevents: a quiet queue that fills the disk of a busy server with WAL.
#[tokio::test]
async fn the_slot_moves_on_while_nothing_of_ours_changes() {
    for confirm in ["spooled", "applied"] {
        let mut stage = Stage::nodes(usual()).await;
        stage.extra = format!("confirm = {confirm}\n");
        let _worker = stage.sync_a();
        let bulk = "create table other as select repeat(md5(g::text), 30) from generate_series(1, 20000) g";
        stage.run("root", bulk).await;
        let client = stage.on("root").await;
        let row = client.query_one("select pg_current_wal_lsn()::text", &[]);
        let written: String = row.await.unwrap().get(0);
        let moved = format!(
            "select count(*) from pg_replication_slots \
             where slot_name = 'skytide_q_leaf' and confirmed_flush_lsn >= '{written}'"
        );
        let there = async || Ok(client.query_one(&moved, &[]).await?.get::<_, i64>(0));
        if let Err(error) = wait::until_eq(confirm, 1, PATIENCE, there).await {
            panic!("{error}\n{}", stage.log());
        }
    }
}

/// Prevents: a table whose changes stop coming, and nobody says so.
#[tokio::test]
async fn a_table_that_is_not_published_any_more_stops_the_worker() {
    let (stage, mut worker) = Stage::replicating(usual()).await;
    stage
        .run("root", "alter publication skytide_q drop table a")
        .await;
    assert_eq!(worker.ended().await, Some(1), "{}", stage.log());
    stage.run("root", "insert into a values (1, 'x')").await;
    stage
        .worker_stops(&[
            "table public.a is not in the provider's publication skytide_q",
            "add-table public.a",
            "resync public.a",
        ])
        .await;

    // The fix it names works.
    stage.root(&["add-table", "a"]).with(0, &["is again"]);
    stage.leaf(&["resync", "a"]).well();
    let _worker = stage.worker();
    stage.leaf_gets(COUNT, 1).await;
}

#[tokio::test]
async fn an_invalidated_slot_is_named_with_the_way_out() {
    let options = usual()
        .with("max_slot_wal_keep_size", "1MB")
        .with("min_wal_size", "32MB")
        .with("max_wal_size", "32MB");
    let (stage, worker) = Stage::replicating(options).await;
    worker.stop().await;
    stage
        .doctor("leaf")
        .with(0, &["max_slot_wal_keep_size", "loses its slot"]);
    for _ in 0..4 {
        stage
            .run("root", "create table w (); drop table w; select pg_switch_wal()")
            .await;
        stage.run("root", "checkpoint").await;
    }
    let lost = "select count(*) from pg_replication_slots where wal_status = 'lost'";
    assert_eq!(stage.count("root", lost).await, 1);
    stage
        .worker_stops(&[
            "slot skytide_q_leaf is lost",
            "max_slot_wal_keep_size",
            "resync --all",
        ])
        .await;
    stage.doctor("leaf").with(
        3,
        &["is lost", "select pg_drop_replication_slot('skytide_q_leaf')"],
    );
}

#[tokio::test]
async fn a_slot_moved_by_hand_is_a_gap() {
    let (stage, worker) = Stage::replicating(usual()).await;
    worker.stop().await;
    stage.run("root", "insert into a values (1, 'lost')").await;
    stage
        .run(
            "root",
            "select pg_replication_slot_advance('skytide_q_leaf', pg_current_wal_lsn())",
        )
        .await;
    stage
        .doctor("leaf")
        .with(3, &["changes are missing", "resync --all"]);
    stage
        .worker_stops(&[
            "slot skytide_q_leaf has moved",
            "changes are missing",
            "resync --all",
        ])
        .await;
    assert_eq!(stage.count("leaf", COUNT).await, 0);
}

#[tokio::test]
async fn a_position_the_spool_does_not_reach_is_an_error() {
    let (stage, worker) = Stage::replicating(usual()).await;
    worker.stop().await;
    stage
        .run(
            "leaf",
            "select pgq_node.set_consumer_completed('q', 'leaf_worker', 1)",
        )
        .await;
    stage
        .worker_stops(&["tick 1 is not in the spool", "resync --all"])
        .await;
}

#[tokio::test]
async fn another_server_under_the_same_name_is_refused() {
    let (stage, worker) = Stage::replicating(usual()).await;
    worker.stop().await;
    let other = Server::start(Options {
        own_identity: true,
        ..usual()
    })
    .await
    .unwrap();
    other.create_database("root").await.unwrap();
    let new = other.connect("root").await.unwrap();
    new.batch_execute("create table a (id int primary key, v text)")
        .await
        .unwrap();
    let dsn = other.dsn("root");
    skytide(&["install", &dsn]).well();
    let conf = stage.dir.path().join("other.ini");
    std::fs::write(
        &conf,
        format!("[londiste]\ndb = {dsn}\nqueue_name = q\njob_name = root_worker\n"),
    )
    .unwrap();
    let conf = conf.to_str().unwrap();
    skytide(&["londiste", conf, "create-root", "root", &dsn]).well();
    skytide(&["londiste", conf, "add-table", "a"]).well();
    let location = dsn.replace('\'', "''");
    stage
        .run(
            "leaf",
            &format!("select pgq_node.register_location('q', 'root', '{location}', false)"),
        )
        .await;
    stage
        .worker_stops(&["belongs to system identifier", "remove that one and resync"])
        .await;
    stage
        .doctor("leaf")
        .with(3, &["is the spool of server", "spool_dir"]);
    assert!(
        stage.spool().read_dir().unwrap().next().is_some(),
        "the spool was touched"
    );
}

#[tokio::test]
async fn a_spool_of_another_queue_is_left_alone() {
    let (stage, worker) = Stage::replicating(usual()).await;
    worker.stop().await;
    let files = || {
        let mut names: Vec<_> = stage
            .spool()
            .read_dir()
            .unwrap()
            .map(|f| f.unwrap().file_name())
            .collect();
        names.sort();
        names
    };
    let before = files();
    let second = |name: &str| {
        let path = stage.dir.path().join(format!("{name}2.ini"));
        let text = std::fs::read_to_string(stage.conf(name)).unwrap();
        std::fs::write(&path, text.replace("queue_name = q", "queue_name = q2")).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let (root, leaf) = (stage.server.dsn("root"), stage.server.dsn("leaf"));
    skytide(&["londiste", &second("root"), "create-root", "root", &root]).well();
    let conf = second("leaf");
    skytide(&[
        "londiste",
        &conf,
        "create-leaf",
        "leaf",
        &leaf,
        "--provider",
        &root,
    ])
    .well();
    skytide(&["doctor", &conf]).with(3, &["is the spool of queue q, not q2", "spool_dir"]);
    skytide(&["londiste", &conf, "worker"]).with(1, &["belongs to queue q, not q2"]);
    assert_eq!(files(), before);
}

const SEGMENT_HEAD: usize = 4096;
const FRAME_HEAD: usize = 40;

/// A frame of a segment file, as docs/format/spool.md draws it: where it begins, and as positions in the spool
/// its end and what it says was durable.
struct Frame {
    start: usize,
    end: u64,
    durable: u64,
}

fn frames(segment: &[u8]) -> Vec<Frame> {
    let u32_at = |at: usize| u32::from_le_bytes(segment[at..at + 4].try_into().unwrap());
    let u64_at = |at: usize| u64::from_le_bytes(segment[at..at + 8].try_into().unwrap());
    let mut frames = Vec::new();
    let mut start = SEGMENT_HEAD;
    while start + FRAME_HEAD <= segment.len() && u32_at(start + 4) > 0 {
        let length = (u32_at(start + 4) as usize).next_multiple_of(8);
        frames.push(Frame {
            start,
            end: u64_at(start + 24) + length as u64,
            durable: u64_at(start + 32),
        });
        start += length;
    }
    frames
}

#[tokio::test]
async fn rot_in_the_middle_of_the_spool_is_not_cut_off() {
    let (stage, worker) = Stage::replicating(usual()).await;
    for i in 0..20 {
        stage
            .run("root", &format!("insert into a values ({i}, repeat('x', 100))"))
            .await;
    }
    stage.leaf_gets(COUNT, 20).await;
    let segment = stage
        .spool()
        .read_dir()
        .unwrap()
        .map(|f| f.unwrap().path())
        .filter(|p| p.extension().is_some_and(|e| e == "seg"))
        .max()
        .unwrap();
    // Rot is told from a torn tail by a later frame that says: this was on disk once.
    let mut id = 100;
    let victim = wait::until("a frame that a later one vouches for", PATIENCE, async || {
        let frames = frames(&std::fs::read(&segment)?);
        let vouched = frames.last().map_or(0, |last| last.durable);
        let middle = &frames[frames.len() / 2];
        if middle.end <= vouched {
            return Ok(Some(middle.start));
        }
        id += 1;
        stage
            .run("root", &format!("insert into a values ({id}, 'x')"))
            .await;
        Ok(None)
    })
    .await
    .unwrap();
    worker.stop().await;
    let mut bytes = std::fs::read(&segment).unwrap();
    bytes[victim + FRAME_HEAD] ^= 0x40;
    std::fs::write(&segment, &bytes).unwrap();
    let name = segment.file_name().unwrap().to_str().unwrap();
    stage.worker_stops(&[name, "is corrupt at byte", "resync"]).await;
    stage.doctor("leaf").with(3, &[name, "is corrupt at byte"]);
    skytide(&["spool", "verify", stage.spool().to_str().unwrap()]).with(3, &[name]);
    assert_eq!(std::fs::read(&segment).unwrap(), bytes, "nothing was touched");
}

/// A node's position that its spool has no tick for: changes before and after it may be missing.
#[tokio::test]
async fn a_position_between_the_ticks_of_the_spool_stops_the_worker() {
    let (stage, worker) = Stage::replicating(usual()).await;
    worker.stop().await;
    let last = "select last_tick_id from pgq_node.local_state where consumer_name = 'leaf_worker'";
    let lost = stage.count("leaf", last).await + 10;
    let worker = stage.worker();
    let jump = format!(
        "select setval(queue_tick_seq::regclass, {}) from pgq.queue where queue_name = 'q'",
        lost + 10
    );
    stage.run("root", &jump).await;
    stage
        .run("root", "insert into a values (1, 'x'); select pgq.tick_now('q')")
        .await;
    stage.leaf_gets(COUNT, 1).await;
    worker.stop().await;
    let before = stage.count("leaf", last).await;
    let set = "update pgq_node.local_state set last_tick_id = ";
    stage
        .run(
            "leaf",
            &format!("{set}{lost} where consumer_name = 'leaf_worker'"),
        )
        .await;
    let words = ["changes are missing", "resync --all"];
    stage
        .doctor("leaf")
        .with(3, &[&format!("but not {lost}"), words[0], words[1]]);
    stage.worker_stops(&words).await;
    stage
        .run(
            "leaf",
            &format!("{set}{before} where consumer_name = 'leaf_worker'"),
        )
        .await;
    stage.run("root", "insert into a values (2, 'y')").await;
    let worker = stage.worker();
    stage.leaf_gets(COUNT, 2).await;
    worker.stop().await;
}

#[tokio::test]
async fn a_table_that_is_gone_from_the_subscriber_stops_the_worker_and_a_column_is_told() {
    let (stage, mut worker) = Stage::replicating(usual()).await;
    stage.run("leaf", "alter table a drop column v").await;
    stage.doctor("leaf").with(
        0,
        &[
            "public.a.v",
            "is missing on the subscriber",
            "alter table \"public\".\"a\" add column \"v\" text;",
            "resync public.a",
        ],
    );
    stage.run("root", "insert into a values (1, 'x')").await;
    stage.leaf_gets(COUNT, 1).await;
    assert!(
        stage.log().contains("the subscriber lacks them"),
        "{}",
        stage.log()
    );
    stage
        .leaf(&["compare"])
        .with(0, &["table public.a: only one side has v; not compared", "equal"]);

    stage.run("leaf", "drop table a").await;
    stage.run("root", "insert into a values (2, 'y')").await;
    assert_eq!(worker.ended().await, Some(1), "{}", stage.log());
    stage
        .doctor("leaf")
        .with(3, &["public.a", "does not exist on the subscriber", "pg_dump -s"]);
    stage
        .worker_stops(&["table public.a does not exist on the subscriber", "create it"])
        .await;

    // Mended, it goes on where it was.
    stage
        .run("leaf", "create table a (id int primary key, v text)")
        .await;
    let _worker = stage.worker();
    stage.leaf_gets("select count(*) from a where id = 2", 1).await;
}

#[tokio::test]
async fn rows_missing_on_the_subscriber_are_counted_and_told() {
    let (stage, _worker) = Stage::replicating(usual()).await;
    stage.run("root", "insert into a values (1, 'x'), (2, 'y')").await;
    stage.leaf_gets(COUNT, 2).await;
    stage
        .run(
            "leaf",
            "set session_replication_role = replica; delete from a where id = 1",
        )
        .await;
    stage.run("root", "update a set v = 'z'").await;
    stage.leaf_gets("select count(*) from a where v = 'z'", 1).await;
    wait::until("the warning", PATIENCE, async || {
        let log = stage.log();
        anyhow::ensure!(log.contains("found no row on the subscriber"), "{log}");
        Ok(Some(()))
    })
    .await
    .unwrap();
    stage.leaf(&["compare"]).with(3, &["public.a"]);
}

#[tokio::test]
async fn a_full_spool_stops_reading_and_goes_on_when_there_is_room() {
    let mut stage = Stage::nodes(usual()).await;
    let port = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    stage.extra =
        format!("spool_max_bytes = 2MiB\nspool_segment_bytes = 1MiB\nmetrics_listen = 127.0.0.1:{port}\n");
    let _worker = stage.sync_a();
    let pause = |on: bool| format!("select pgq_node.set_consumer_paused('q', 'leaf_worker', {on})");
    stage.run("leaf", &pause(true)).await;
    // Hex digits of digests do not compress to less than half.
    for chunk in 0..8 {
        let rows = format!(
            "insert into a select n, (select string_agg(md5(n || '.' || i), '') from generate_series(1, 40) i) \
             from generate_series({}, {}) n",
            chunk * 1000 + 1,
            chunk * 1000 + 1000
        );
        stage.run("root", &rows).await;
        // Room can only be made up to a tick that is in the spool.
        stage.run("root", "select pgq.tick_now('q')").await;
    }
    http_says(port, "/readyz", "the spool is full").await;
    let metrics = http_says(port, "/metrics", "skytide_spool_full 1").await;
    assert!(metrics.contains("skytide_capture_connected 1"), "{metrics}");
    assert_ne!(stage.count("leaf", COUNT).await, 8000);
    stage.run("leaf", &pause(false)).await;
    stage.leaf_gets(COUNT, 8000).await;
    http_says(port, "/metrics", "skytide_spool_full 0").await;
    stage.leaf(&["compare"]).well();
}

/// Waits until the answer has `words`, and returns it.
async fn http_says(port: u16, path: &str, words: &str) -> String {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    wait::until(words, PATIENCE, async || {
        let mut socket = tokio::net::TcpStream::connect(("127.0.0.1", port)).await?;
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n");
        socket.write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        socket.read_to_string(&mut answer).await?;
        anyhow::ensure!(answer.contains(words), "{answer}");
        Ok(Some(answer))
    })
    .await
    .unwrap()
}

#[tokio::test]
async fn all_metrics_in_the_manual_come_from_a_worker_that_worked() {
    let mut stage = Stage::nodes(usual()).await;
    let port = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    stage.extra = format!("metrics_listen = 127.0.0.1:{port}\n");
    let _worker = stage.sync_a();
    stage.run("root", "insert into a values (1, 'x')").await;
    stage.leaf_gets(COUNT, 1).await;
    http_says(port, "/readyz", "200 OK").await;
    let metrics = http_says(port, "/metrics", "skytide_slot_retained_bytes").await;
    // These wait for what did not happen here.
    let rare = [skytide::metrics::EXACT_BATCHES, skytide::metrics::RECONNECTS];
    let others = ["skytide_ticker_", "skytide_queue_", "skytide_wal_"];
    for (name, _, _) in skytide::metrics::catalogue() {
        if !others.iter().any(|o| name.starts_with(o)) && !rare.contains(&name) {
            assert!(
                metrics.contains(&format!("# HELP {name} ")),
                "{name} is not in\n{metrics}"
            );
        }
    }
}

/// The roles of docs/privileges.md: none is a superuser, and nothing else is granted.
#[tokio::test]
async fn least_privileges_are_enough() {
    let mut stage = Stage::databases(usual()).await;
    let (root, leaf) = (stage.server.dsn("root"), stage.server.dsn("leaf"));
    skytide(&["install", &root]).well();
    skytide(&["install", &leaf]).well();
    stage
        .run(
            "root",
            "create role shop; create role repl_root login replication; create role repl_leaf login; \
             create role repl_ticker login; \
             grant londiste_writer to repl_root, repl_leaf; grant pgq_admin to repl_ticker; \
             grant shop to repl_root, repl_leaf; \
             grant create on database root to repl_root; \
             alter table a owner to shop",
        )
        .await;
    stage
        .run(
            "leaf",
            "alter table a owner to shop; grant create on schema public to shop",
        )
        .await;
    // Before, the modules' function does it, with its owner's rights.
    if stage.server.version().major >= 15 {
        stage
            .run(
                "leaf",
                "grant set on parameter session_replication_role to repl_leaf",
            )
            .await;
    }
    // Once, as the modules' owner: ticks and event tables are published by their owner.
    stage
        .root(&["create-root", "root", &stage.server.dsn("root")])
        .well();
    stage
        .run("root", "alter publication skytide_q owner to repl_root")
        .await;

    stage.users = ("repl_root".into(), "repl_leaf".into());
    stage.root(&["add-table", "a"]).well();
    stage.start_ticker();
    let (root, leaf) = (stage.dsn("root"), stage.dsn("leaf"));
    stage
        .leaf(&["create-leaf", "leaf", &leaf, "--provider", &root])
        .well();
    let _worker = stage.sync_a();
    stage
        .run("root", "insert into a values (1, 'x'); update a set v = 'y'")
        .await;
    stage.leaf_gets("select count(*) from a where v = 'y'", 1).await;
    stage.leaf(&["compare"]).well();
    stage.doctor("leaf").well();
    stage.doctor("root").well();
}

#[tokio::test]
async fn each_missing_privilege_is_named_with_its_grant() {
    let stage = Stage::installed(usual()).await;
    stage.run("root", "create role nobody login").await;
    let dsn = |name: &str| {
        let superuser = format!("user={}", stage.server.superuser());
        stage.server.dsn(name).replace(&superuser, "user=nobody")
    };
    skytide(&["doctor", "--db", &dsn("root"), "--as", "root"]).with(
        3,
        &[
            "alter role \"nobody\" replication;",
            "grant londiste_writer to \"nobody\";",
            "grant create on database \"root\" to \"nobody\";",
        ],
    );
    skytide(&["doctor", "--db", &dsn("leaf"), "--as", "leaf"]).with(
        3,
        &[
            "session_replication_role",
            "grant set on parameter session_replication_role to \"nobody\";",
            "grant londiste_writer to \"nobody\";",
        ],
    );
    let conf = stage.dir.path().join("nobody.ini");
    std::fs::write(
        &conf,
        format!("[londiste]\ndb = {}\nqueue_name = q\n", dsn("root")),
    )
    .unwrap();
    let said = skytide(&[
        "londiste",
        conf.to_str().unwrap(),
        "create-root",
        "root",
        &dsn("root"),
    ]);
    said.with(1, &["permission denied", "skytide doctor"]);
    assert_eq!(stage.count("root", "select count(*) from pgq.queue").await, 0);
}
