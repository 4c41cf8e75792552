//! What is refused before anything begins: settings, servers and tables that will not do.

use std::process::Command;

use skytide_fixtures::server::{Options, Server};

use super::stage::{Stage, skytide};
use super::usual;

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
        .batch_execute(
            "set password_encryption = 'scram-sha-256'; create role someone login password 'right'",
        )
        .await
        .unwrap();
    let place = format!(
        "host=127.0.0.1 port={} user=someone dbname=postgres",
        server.port()
    );
    let dsn = format!("{place} password=wr0ng");
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
    // Where there is none, the environment may have it, for what a file says as well.
    let dir = tempfile::tempdir().unwrap();
    let conf = dir.path().join("leaf.ini");
    std::fs::write(&conf, format!("[londiste]\ndb = {place}\nqueue_name = q\n")).unwrap();
    for (password, words) in [
        (None, "asks for a password of user someone"),
        (Some("wr0ng"), "refused the session"),
        (Some("right"), "the SQL modules are not installed"),
    ] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_skytide"));
        command.arg("londiste").arg(&conf).args(["create-root", "root"]);
        command
            .env("HOME", dir.path())
            .env_remove("PGPASSFILE")
            .env_remove("PGPASSWORD");
        command.envs(password.map(|password| ("PGPASSWORD", password)));
        let said = String::from_utf8(command.output().unwrap().stderr).unwrap();
        assert!(said.contains(words) && !said.contains("wr0ng"), "{said}");
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
    let added = "select count(*) from londiste.table_info where local";
    stage.root(&["add-table", "--all", "--dry-run"]).with(
        1,
        &["table public.nokey was not added", "would add table public.z"],
    );
    assert_eq!(stage.count("root", added).await, 1);
    stage.root(&["add-table", "--all"]).with(
        1,
        &[
            "table public.nokey was not added",
            "replica identity full",
            "1 of 4 tables were not added",
        ],
    );
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

/// Prevents: a leaf under the name of another node takes over its place, its consumer and its slot.
#[tokio::test]
async fn a_leaf_does_not_take_the_name_of_another_node() {
    let stage = Stage::nodes(usual()).await;
    stage.server.create_database("other").await.unwrap();
    let (other, root) = (stage.server.dsn("other"), stage.server.dsn("root"));
    skytide(&["install", &other]).well();
    let conf = stage.dir.path().join("other.ini");
    let conf = conf.to_str().unwrap();
    let create = |job: &str, name: &str| {
        let text = format!("[londiste]\ndb = {other}\nqueue_name = q\njob_name = {job}\n");
        std::fs::write(conf, text).unwrap();
        skytide(&["londiste", conf, "create-leaf", name, &other, "--provider", &root])
    };
    let before =
        "select string_agg(node_name || ' ' || node_location, ' ' order by 1) from pgq_node.node_location";
    let known = stage.text("root", before).await;
    create("other_worker", "root").with(1, &["node root is the provider itself"]);
    create("other_worker", "leaf").with(
        1,
        &[
            "queue q has a node leaf already, at ",
            "unregister_location('q', 'leaf')",
        ],
    );
    create("leaf_worker", "leaf2").with(1, &["worker leaf_worker of queue q is node leaf's", "job_name"]);
    assert_eq!(stage.text("root", before).await, known);
    // Of a node that is gone for good the name is free.
    for call in [
        "unregister_subscriber('q', 'leaf')",
        "unregister_location('q', 'leaf')",
    ] {
        stage.run("root", &format!("select * from pgq_node.{call}")).await;
    }
    create("other_worker", "leaf").well();
}

/// Prevents: a copy for one queue empties a table that another queue fills.
#[tokio::test]
async fn a_table_is_not_emptied_for_a_second_queue() {
    let (stage, worker) = Stage::replicating(usual()).await;
    worker.stop().await;
    let second = |name: &str| {
        let path = stage.dir.path().join(format!("{name}2.ini"));
        let text = std::fs::read_to_string(stage.conf(name)).unwrap();
        let text = text.replace("queue_name = q", "queue_name = q2");
        std::fs::write(
            &path,
            text.replace("spool", "spool2").replace("spool2_", "spool_"),
        )
        .unwrap();
        path.to_str().unwrap().to_owned()
    };
    let (root, leaf) = (stage.server.dsn("root"), stage.server.dsn("leaf"));
    let (root2, leaf2) = (second("root"), second("leaf"));
    skytide(&["londiste", &root2, "create-root", "root", &root]).well();
    skytide(&["londiste", &root2, "add-table", "a"]).well();
    let create = [
        "londiste",
        &leaf2,
        "create-leaf",
        "leaf",
        &leaf,
        "--provider",
        &root,
    ];
    skytide(&create).well();
    skytide(&["londiste", &leaf2, "add-table", "a"])
        .with(1, &["is filled by queue q already", "--skip-truncate"]);
    let added = "select count(*) from londiste.table_info where queue_name = 'q2' and local";
    assert_eq!(stage.count("leaf", added).await, 0);
    skytide(&["londiste", &leaf2, "add-table", "a", "--skip-truncate"]).well();
    assert_eq!(stage.count("leaf", added).await, 1);
    for resync in [
        stage.leaf(&["resync", "a"]),
        skytide(&["londiste", &leaf2, "resync", "--all"]),
    ] {
        resync.with(1, &["is filled by queue q", "remove-table"]);
    }
}
