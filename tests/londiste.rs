//! Replication of the nasty schema under its load, from nothing to equal.

use skytide_fixtures::wait;
use skytide_fixtures::workload::{self, Load, LoadOptions};
use skytide_sql::TableName;
use tokio_postgres::Client;

use crate::replica::{PATIENCE, Plan, Replica};

fn steady(replica: &Replica, seed: u64) -> Load {
    replica.load(LoadOptions {
        seed,
        tx_rate: Some(200.0),
        ..LoadOptions::default()
    })
}

async fn more(load: &Load, transactions: u64) {
    let before = load.check().unwrap().committed;
    wait::until("more load", PATIENCE, async || {
        Ok((load.check()?.committed >= before + transactions).then_some(()))
    })
    .await
    .unwrap();
}

fn public(names: &[&str]) -> Vec<TableName> {
    names.iter().map(|name| TableName::new("public", *name)).collect()
}

/// Foreign keys of the subscriber that hold, with their definitions.
async fn foreign_keys(replica: &Replica) -> Vec<String> {
    let rows = replica
        .at_subscriber()
        .await
        .query(
            "select conrelid::regclass || ' ' || conname || ' ' || pg_get_constraintdef(oid) \
             from pg_constraint where contype = 'f' and convalidated \
             and conrelid in (select to_regclass(n) from unnest(array['public.children']) n) order by 1",
            &[],
        )
        .await
        .unwrap();
    rows.iter().map(|r| r.get(0)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_nasty_schema_copied_under_load_arrives_whole() {
    let mut plan = Plan::default();
    plan.subscriber_schema.push(
        "alter table public.children add constraint \"Their parent\" foreign key (parent) \
         references public.parents on update cascade on delete cascade"
            .into(),
    );
    let mut replica = Replica::from_plan(plan).await;
    let keys = foreign_keys(&replica).await;
    assert_eq!(keys.len(), 1);
    let load = steady(&replica, 1);
    replica.start_worker();
    replica.add_tables(&[]).await;
    replica.wait_sync().await;
    for _ in 0..5 {
        // At one tick, while everything runs; it fails if the sides differ.
        replica.leaf(&["compare"]).await;
        more(&load, 50).await;
    }
    more(&load, 300).await;
    load.stop().await.unwrap();
    replica.assert_equal(&workload::tables()).await;
    wait::until_eq("the foreign key", keys, PATIENCE, async || {
        Ok(foreign_keys(&replica).await)
    })
    .await
    .unwrap();
    replica.stop_worker().await;
}

/// Prevents: settings that are read and change nothing.
#[tokio::test(flavor = "multi_thread")]
async fn other_nodes_are_reached_as_the_configuration_adds() {
    let mut replica = Replica::from_plan(Plan {
        settings: "remote_extra_connstr = application_name=by_the_extra\nslot_name = a_name_of_ours".into(),
        ..Plan::default()
    })
    .await;
    replica.start_worker();
    let nothing = replica
        .londiste("leaf.ini", &["compare"])
        .await
        .unwrap_err()
        .to_string();
    assert!(nothing.contains("nothing to compare"), "{nothing}");
    replica.add_tables(&["public.log"]).await;
    replica.wait_sync().await;
    let provider = replica.at_provider().await;
    let sql = "select count(*) from pg_stat_replication where application_name = 'by_the_extra'";
    assert_eq!(provider.query_one(sql, &[]).await.unwrap().get::<_, i64>(0), 1);
    replica.leaf(&["compare"]).await;
    let status = replica.leaf(&["status"]).await;
    assert!(status.contains("slot a_name_of_ours active"), "{status}");
    assert!(replica.leaf(&["tables"]).await.contains("public.log"));
    assert!(!replica.leaf(&["missing"]).await.contains("public.log"));
    let wrong = ["--set", "remote_extra_connstr=usr=x", "status"];
    let error = replica
        .londiste("leaf.ini", &wrong)
        .await
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("remote_extra_connstr") && error.contains("did you mean \"user\""),
        "{error}"
    );
    replica.stop_worker().await;
}

/// Another name here, rows that are there already, rows to keep; and what of it can be read offline.
#[tokio::test(flavor = "multi_thread")]
async fn tables_are_added_as_the_options_say() {
    let mut replica = Replica::new().await;
    let (provider, subscriber) = (replica.at_provider().await, replica.at_subscriber().await);
    provider
        .batch_execute(
            "insert into log (body) values ('one'); insert into counters values (1, 10); \
             insert into emptied (id, v) values (1, 'there')",
        )
        .await
        .unwrap();
    subscriber
        .batch_execute(
            "create table log_here (like log including all); insert into log_here (id) values (-1); \
             insert into counters values (1, 10), (2, 20); insert into emptied (id, v) values (2, 'here')",
        )
        .await
        .unwrap();
    replica.start_worker();
    replica
        .root(&["add-table", "public.log", "public.counters", "public.emptied"])
        .await;
    let two = ["add-table", "public.log", "public.counters", "--dest-table", "x"];
    let refused = replica.londiste("leaf.ini", &two).await.unwrap_err().to_string();
    assert!(refused.contains("--dest-table goes with one table"), "{refused}");
    let add: [&[&str]; 3] = [
        &["public.log", "--dest-table", "public.log_here"],
        &["public.counters", "--expect-sync"],
        &["public.emptied", "--skip-truncate"],
    ];
    for arguments in add {
        let tried = [&["add-table", "--dry-run"], arguments].concat();
        replica.leaf(&tried).await;
        let status = replica.leaf(&["tables"]).await;
        assert!(!status.contains(arguments[0]), "a dry run added it: {status}");
        replica.leaf(&[&["add-table"], arguments].concat()).await;
    }
    replica.wait_sync().await;
    provider
        .batch_execute(
            "insert into log (body) values ('two'); update counters set n = n + 1; \
             insert into emptied (id, v) values (3, 'later'); select pgq.tick_now('q')",
        )
        .await
        .unwrap();
    let holds = "select (select string_agg(body, ' ' order by id) from log_here) || '; ' \
             || (select string_agg(id || '=' || n, ' ' order by id) from counters) || '; ' \
             || (select string_agg(v, ' ' order by id) from emptied) || '; ' \
             || (select count(*) from log)";
    wait::until_eq(
        "the subscriber's rows",
        "one two; 1=11 2=20; there here later; 0".to_owned(),
        PATIENCE,
        async || Ok(subscriber.query_one(holds, &[]).await?.get::<_, String>(0)),
    )
    .await
    .unwrap();
    assert!(replica.leaf(&["tables"]).await.contains("public.log_here"));

    // Two tables of the set in one table here: a copy or TRUNCATE of one would take the other's rows.
    provider
        .batch_execute("create table log_here (id bigint primary key)")
        .await
        .unwrap();
    replica
        .root(&["add-table", "public.log_here", "public.swaps"])
        .await;
    for second in [
        &["add-table", "public.log_here"][..],
        &["add-table", "public.swaps", "--dest-table", "public.log_here"],
    ] {
        let refused = replica
            .londiste("leaf.ini", second)
            .await
            .unwrap_err()
            .to_string();
        assert!(
            refused.contains("public.log_here is already that of public.log"),
            "{refused}"
        );
    }

    let status: serde_json::Value = serde_json::from_str(&replica.leaf(&["status", "--json"]).await).unwrap();
    assert_eq!(status["queue"], "q");
    assert_eq!(status["nodes"].as_array().unwrap().len(), 2);
    assert_eq!(status["tables"].as_array().unwrap().len(), 3);
    replica.stop_worker().await;

    let dir = replica.spool_dir();
    let dump = |more: &[&str]| {
        let out = std::process::Command::new(env!("CARGO_BIN_EXE_skytide"))
            .args(["spool", "dump"])
            .arg(&dir)
            .args(more)
            .output()
            .unwrap();
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8(out.stdout).unwrap()
    };
    let whole = dump(&[]);
    for words in [
        "session from ",
        "relation ",
        " public.log\n",
        " rows 3 bytes ",
        "tick ",
    ] {
        assert!(whole.contains(words), "{words:?} is not in\n{whole}");
    }
    assert!(!whole.contains("later"), "rows are shown: {whole}");
    assert_eq!(dump(&["--limit", "2"]).lines().count(), 2);
    let entries: Vec<serde_json::Value> = dump(&["--json"])
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(entries.len(), whole.lines().count());
    let last_tick = entries.iter().rev().find(|e| e["entry"] == "tick").unwrap();
    let shown = status["spool"]["last_tick"].as_i64().unwrap();
    assert!(
        last_tick["tick"].as_i64().unwrap() >= shown,
        "{last_tick} {shown}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_come_and_go_under_load() {
    let mut replica = Replica::new().await;
    let load = steady(&replica, 2);
    replica.start_worker();
    // Without `kinds` values travel in binary form; its types make them travel as text.
    let early = [
        "public.by_index",
        "public.computed",
        "public.counters",
        "public.emptied",
        "public.log",
        "public.swaps",
        "public.toasted",
    ];
    replica.add_tables(&early).await;
    replica.wait_sync().await;
    more(&load, 100).await;
    replica.leaf(&["compare"]).await;
    replica.add_tables(&["public.kinds"]).await;
    replica.leaf(&["resync", "public.log"]).await;
    replica.leaf(&["remove-table", "public.toasted"]).await;
    replica.root(&["remove-table", "public.counters"]).await;
    let subscriber = replica.at_subscriber().await;
    wait::until_eq("counters gone from the subscriber", 0, PATIENCE, async || {
        let sql = "select count(*) from londiste.table_info where table_name = 'public.counters' and local";
        Ok(subscriber.query_one(sql, &[]).await?.get::<_, i64>(0))
    })
    .await
    .unwrap();
    more(&load, 100).await;
    replica.add_tables(&[]).await;
    // Copies that are asked for again while they run.
    for table in ["public.toasted", "public.counters", "public.kinds"] {
        replica.leaf(&["resync", table]).await;
    }
    replica.wait_sync().await;
    more(&load, 100).await;
    replica.leaf(&["compare"]).await;
    load.stop().await.unwrap();
    replica.assert_equal(&workload::tables()).await;
    replica.stop_worker().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_waits_for_earlier_writers_of_its_table_and_for_nobody_else() {
    let mut replica = Replica::new().await;
    replica.start_worker();
    replica.add_tables(&["public.counters"]).await;
    replica.wait_sync().await;
    let (writer, stranger) = (replica.at_provider().await, replica.at_provider().await);
    writer
        .batch_execute("begin; insert into log (body) values ('before it was published')")
        .await
        .unwrap();
    stranger
        .batch_execute("begin; insert into emptied (v) values ('elsewhere')")
        .await
        .unwrap();
    replica.add_tables(&["public.log"]).await;
    replica.wait_state("public.log", "in-copy").await;
    // A table that nobody writes is copied and in sync, whoever else is open.
    replica.add_tables(&["public.swaps"]).await;
    replica.wait_state("public.swaps", "ok").await;
    replica.wait_state("public.log", "in-copy").await;
    let status = replica.leaf(&["status"]).await;
    assert!(
        status.contains("public.log: in-copy, 0") && status.contains(" copied"),
        "{status}"
    );
    writer
        .batch_execute("insert into log (body) values ('after it was published'); commit")
        .await
        .unwrap();
    replica.wait_state("public.log", "ok").await;
    stranger.batch_execute("commit").await.unwrap();
    replica.assert_equal(&public(&["counters", "log", "swaps"])).await;
    let rows: i64 = replica
        .at_subscriber()
        .await
        .query_one("select count(*) from log", &[])
        .await
        .unwrap()
        .get(0);
    assert_eq!(rows, 2);
    replica.stop_worker().await;
}

/// How many sessions wait for this table's exclusive lock.
const WAIT_FOR_LOG: &str = "select count(*) from pg_locks \
    where relation = 'public.log'::regclass and mode = 'AccessExclusiveLock' and not granted";

async fn wait_count(client: &Client, sql: &str) {
    wait::until(sql, PATIENCE, async || {
        Ok((client.query_one(sql, &[]).await?.get::<_, i64>(0) > 0).then_some(()))
    })
    .await
    .unwrap();
}

/// A copy that waits for a reader of the leaf's table holds nothing on the provider: a `TRUNCATE` there would stand
/// behind the copy, all writers behind the `TRUNCATE`.
#[tokio::test(flavor = "multi_thread")]
async fn a_copy_that_waits_on_the_leaf_holds_up_nobody_on_the_provider() {
    let mut replica = Replica::new().await;
    replica.start_worker();
    replica.add_tables(&["public.log"]).await;
    replica.wait_sync().await;
    let (reader, watcher) = (replica.at_subscriber().await, replica.at_subscriber().await);
    reader
        .batch_execute("begin; lock table log in access share mode")
        .await
        .unwrap();
    replica.leaf(&["resync", "public.log"]).await;
    wait_count(&watcher, WAIT_FOR_LOG).await;
    for sql in ["truncate log", "insert into log (body) values ('after it')"] {
        let session = replica.at_provider().await;
        session
            .batch_execute("set statement_timeout = '60s'")
            .await
            .unwrap();
        session.batch_execute(sql).await.unwrap();
    }
    reader.batch_execute("commit").await.unwrap();
    replica.assert_equal(&public(&["log"])).await;
    replica.stop_worker().await;
}

/// The copy's first session has the table's lock, somebody asks for it alone, the copy's other sessions come after him:
/// a circle that no server sees.
#[cfg(feature = "failpoints")]
#[tokio::test(flavor = "multi_thread")]
async fn a_copy_makes_way_for_whoever_waits_for_its_table() {
    let mut replica = Replica::new().await;
    let (provider, truncater) = (replica.at_provider().await, replica.at_provider().await);
    provider
        .batch_execute("insert into log (body) values ('before')")
        .await
        .unwrap();
    replica.start_worker_to("copy::snapshot", 1);
    replica.add_tables(&["public.log"]).await;
    wait::until("the copy's snapshot", PATIENCE, async || {
        Ok(replica.worker().is_stopped().then_some(()))
    })
    .await
    .unwrap();
    let waits = tokio::spawn(async move {
        truncater
            .batch_execute(
                "set statement_timeout = '60s'; truncate log; insert into log (body) values ('after it')",
            )
            .await
    });
    wait_count(&provider, WAIT_FOR_LOG).await;
    replica.worker().signal(rustix::process::Signal::CONT);
    waits.await.unwrap().unwrap();
    replica.assert_equal(&public(&["log"])).await;
    assert!(
        replica.worker_log().contains("the copy makes way"),
        "{}",
        replica.worker_log()
    );
    replica.stop_worker().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_spool_waits_and_goes_on() {
    let mut replica = Replica::from_plan(Plan {
        settings: "spool_segment_bytes = 1MiB\nspool_max_bytes = 4MiB".into(),
        ..Plan::default()
    })
    .await;
    replica.start_worker();
    replica.add_tables(&["public.log"]).await;
    replica.wait_sync().await;
    let blocker = replica.at_subscriber().await;
    blocker
        .batch_execute("begin; lock table log in access exclusive mode")
        .await
        .unwrap();
    let provider = replica.at_provider().await;
    // Text that does not compress much, in transactions and ticks smaller than the spool.
    for _ in 0..40 {
        provider
            .batch_execute(
                "insert into log (body) select string_agg(md5(random()::text), '') \
                 from generate_series(1, 400) i, generate_series(1, 40) j group by j; select pgq.tick_now('q')",
            )
            .await
            .unwrap();
    }
    wait::until("the spool to be full", PATIENCE, async || {
        let log = replica.worker_log();
        // Between two transactions, or where one found no room any more: that one is read again.
        let full = ["has reached its quota", "another segment would exceed"];
        let full = full.iter().any(|words| log.contains(words));
        Ok(full.then_some(()))
    })
    .await
    .unwrap();
    blocker.batch_execute("rollback").await.unwrap();
    replica.assert_equal(&public(&["log"])).await;
    replica.stop_worker().await;
}

/// Servers overlook what commits while a slot's first snapshot is being built, so a table that is added
/// just then waits for the slot; else its changes would never come.
#[tokio::test]
async fn a_table_added_while_the_slot_is_being_made_is_followed() {
    let mut replica = Replica::new().await;
    let old = replica.at_provider().await;
    old.batch_execute("begin; select txid_current()").await.unwrap();
    replica.start_worker();
    let watcher = replica.at_provider().await;
    let count = async |sql: &str| -> anyhow::Result<Option<()>> {
        Ok((watcher.query_one(sql, &[]).await?.get::<_, i64>(0) > 0).then_some(()))
    };
    let waits = "select count(*) from pg_locks l join pg_stat_activity a using (pid) \
                 where l.locktype in ('virtualxid', 'transactionid') \
                   and not l.granted and a.backend_type = 'walsender'";
    wait::until("the slot's wait", PATIENCE, || count(waits))
        .await
        .unwrap();
    let held = "select count(*) from pg_locks where locktype = 'advisory' and not granted";
    let release = async {
        wait::until("add-table's wait", PATIENCE, || count(held))
            .await
            .unwrap();
        old.batch_execute("commit").await.unwrap();
    };
    tokio::join!(replica.add_tables(&["public.counters"]), release);
    replica.wait_sync().await;
    let insert = "insert into counters values (-1, 1, now())";
    watcher.batch_execute(insert).await.unwrap();
    replica
        .assert_equal(&[TableName::new("public", "counters")])
        .await;
    replica.stop_worker().await;
}

/// Foreign keys of these tables, with whether they hold; those that were put aside come last.
const KEYS: &str = "select string_agg(k, '; ' order by k) from ( \
    select conrelid::regclass || ' ' || conname || ' ' || convalidated as k from pg_constraint \
     where contype = 'f' and conrelid in ('public.here'::regclass, 'public.children'::regclass) \
    union all select 'put aside: ' || fkey_name from londiste.pending_fkeys) s";

/// A key that is put aside comes back when both its tables are in sync; this one's other table never is.
#[tokio::test(flavor = "multi_thread")]
async fn foreign_keys_of_tables_that_are_only_here_stay() {
    let mut plan = Plan::default();
    plan.subscriber_schema.push(
        "create table public.here (id integer primary key, \
            counter integer constraint counted references public.counters on delete cascade); \
         alter table public.children add constraint parent_here foreign key (line) references public.here"
            .into(),
    );
    let mut replica = Replica::from_plan(plan).await;
    let subscriber = replica.at_subscriber().await;
    replica
        .at_provider()
        .await
        .batch_execute(
            "insert into counters values (1, 10), (2, 20); \
             insert into parents values (1, 'one'); insert into children (parent, line) values (1, 7)",
        )
        .await
        .unwrap();
    replica.start_worker();
    replica.add_tables(&["public.counters", "public.children"]).await;
    replica.wait_sync().await;
    subscriber
        .batch_execute("insert into here values (7, 2)")
        .await
        .unwrap();
    replica.leaf(&["resync", "--all"]).await;
    replica.wait_sync().await;
    replica.assert_equal(&public(&["counters", "children"])).await;
    let keys: String = subscriber.query_one(KEYS, &[]).await.unwrap().get(0);
    assert_eq!(keys, "children parent_here true; here counted true");
    let rows = "select count(*) from here where counter = 2";
    assert_eq!(subscriber.query_one(rows, &[]).await.unwrap().get::<_, i64>(0), 1);

    // One that an earlier version, or remove-table, left aside is found, and what the finding says brings it back.
    subscriber
        .batch_execute("select londiste.drop_table_fkey('public.here', 'counted')")
        .await
        .unwrap();
    let told = replica.doctor().await;
    assert!(
        told.contains("public.here is not followed") && told.contains("delete from londiste.pending_fkeys"),
        "{told}"
    );
    let found: serde_json::Value = serde_json::from_str(&told).unwrap();
    let finding = |f: &&serde_json::Value| f["object"] == "public.here, foreign key counted";
    let fix = found.as_array().unwrap().iter().find(finding).unwrap()["fix"].clone();
    subscriber.batch_execute(fix.as_str().unwrap()).await.unwrap();
    let keys: String = subscriber.query_one(KEYS, &[]).await.unwrap().get(0);
    assert_eq!(keys, "children parent_here true; here counted true");
    replica.stop_worker().await;
}

/// Both copies find the foreign key between their tables before either has put it aside.
#[tokio::test(flavor = "multi_thread")]
async fn two_copies_put_their_common_foreign_key_aside_once() {
    let mut plan = Plan {
        settings: "lock_timeout = 300s".into(),
        ..Plan::default()
    };
    plan.subscriber_schema.push(
        "alter table public.children add constraint their_parent foreign key (parent) references public.parents"
            .into(),
    );
    let mut replica = Replica::from_plan(plan).await;
    let (reader, watcher) = (replica.at_subscriber().await, replica.at_subscriber().await);
    reader
        .batch_execute("begin; lock table children, parents in access share mode")
        .await
        .unwrap();
    replica.add_tables(&["public.parents", "public.children"]).await;
    replica.start_worker();
    let both_wait = "select count(*) from (select from pg_stat_activity \
         where application_name like 'leaf_worker copy %' and wait_event_type = 'Lock' offset 1) s";
    wait_count(&watcher, both_wait).await;
    reader.batch_execute("commit").await.unwrap();
    replica.wait_sync().await;
    let log = replica.worker_log();
    assert!(!log.contains("copy failed"), "{log}");
    wait::until_eq("the foreign key", 1, PATIENCE, async || {
        let sql = "select count(*) from pg_constraint where conname = 'their_parent' and convalidated";
        Ok(watcher.query_one(sql, &[]).await?.get::<_, i64>(0))
    })
    .await
    .unwrap();
    replica.stop_worker().await;
}

/// Prevents: a spool's disk is full, and `status` shows a node that is not a tick behind.
#[cfg(feature = "failpoints")]
#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_of_the_spool_is_shown_and_the_worker_said_to_run() {
    let mut replica = Replica::from_plan(Plan {
        settings: "spool_segment_bytes = 1MiB\nspool_max_bytes = 64MiB".into(),
        ..Plan::default()
    })
    .await;
    // There is room for one segment.
    replica.start_worker_with(&[("FAILPOINTS", "spool::allocate=1*off->return")]);
    replica.add_tables(&["public.log"]).await;
    replica.wait_sync().await;
    replica
        .at_provider()
        .await
        .batch_execute(
            "insert into log (body) select string_agg(md5(random()::text), '') \
             from generate_series(1, 3000) i, generate_series(1, 40) j group by j",
        )
        .await
        .unwrap();
    let told = wait::until("the worker's error in status", PATIENCE, async || {
        let status = replica.leaf(&["status"]).await;
        anyhow::ensure!(status.contains("ERR: "), "{status}\n{}", replica.worker_log());
        Ok(Some(status))
    })
    .await
    .unwrap();
    assert!(
        told.contains("ERR: capture waits: no disk space for another spool segment"),
        "{told}"
    );
    let found = replica.doctor().await;
    assert!(found.contains("runs, and says: capture waits"), "{found}");
    assert!(!found.contains("nobody reads it"), "{found}");
    replica.stop_worker().await;
    replica.start_worker();
    replica.assert_equal(&public(&["log"])).await;
    let status = replica.leaf(&["status"]).await;
    assert!(!status.contains("ERR: "), "{status}");
    replica.stop_worker().await;
}
