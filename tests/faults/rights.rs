//! The least privileges, and each that is missing.

use super::stage::{Stage, skytide};
use super::usual;

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
