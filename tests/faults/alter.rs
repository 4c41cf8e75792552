//! Tables and types that are altered, renamed or not alike while they are followed.

use skytide_fixtures::wait;

use super::schemas::Pair;
use super::stage::{PATIENCE, Stage};
use super::usual;

/// Prevents: bytes of a domain's type taken for those of the column's type here.
#[tokio::test]
async fn a_domain_that_comes_later_is_read_as_what_it_is() {
    let pair = Pair::new().await;
    let leaf = |name: &str, d: &str| format!("create table {name} (id int primary key, v int, d {d})");
    let root = |name: &str| format!("create table {name} (id int primary key, v int)");
    pair.stage
        .run(
            "root",
            "create domain d8 as int8; create domain d4 as int4; create type den as enum ('ja', 'nein')",
        )
        .await;
    pair.add("wide", &root("wide"), &leaf("wide", "numeric")).await;
    pair.add("narrow", &root("narrow"), &leaf("narrow", "bigint"))
        .await;
    pair.add("labels", &root("labels"), &leaf("labels", "text")).await;
    pair.stage
        .run(
            "root",
            "alter table wide add d d8; insert into wide values (1, 1, 5); \
             alter table narrow add d d4; insert into narrow select i, 1, i from generate_series(1, 50) i; \
             alter table labels add d den; insert into labels values (1, 1, 'nein'), (2, 1, null)",
        )
        .await;
    pair.equal("select string_agg(d::text, ',') from wide").await;
    pair.equal("select string_agg(d::text, ',' order by id) from narrow")
        .await;
    pair.equal("select string_agg(d::text, ',' order by id) from labels")
        .await;
    pair.worker.stop().await;
}

/// Prevents: a key that a cast writes otherwise than the copy did finds no row.
#[tokio::test]
async fn keys_of_another_type_find_the_rows_of_the_copy() {
    let pair = Pair::new().await;
    for (name, kind, values) in [
        ("k_bool", "bool", "(true, 0), (false, 0)"),
        ("k_inet", "inet", "('10.0.0.1', 0), ('10.0.0.0/8', 0)"),
        ("k_char", "char(5)", "('ab', 0), ('abcde', 0)"),
    ] {
        pair.add(
            name,
            &format!("create table {name} (k {kind} primary key, v int); insert into {name} values {values}"),
            &format!("create table {name} (k text primary key, v int)"),
        )
        .await;
        pair.stage.run("root", &format!("update {name} set v = 7")).await;
        pair.stage.run("root", "select pgq.tick_now('q')").await;
        pair.stage
            .leaf_gets(&format!("select count(*) from {name} where v = 7"), 2)
            .await;
    }
    pair.worker.stop().await;
}

/// Prevents: changes under a table's other name are passed over.
#[tokio::test]
async fn changes_of_a_table_that_was_renamed_and_back_stop_the_worker() {
    let (stage, mut worker) = Stage::replicating(usual()).await;
    stage
        .run(
            "root",
            "insert into a values (1, 'before'); alter table a rename to b",
        )
        .await;
    stage.run("root", "insert into b values (2, 'between')").await;
    stage
        .run(
            "root",
            "alter table b rename to a; insert into a values (3, 'after'); select pgq.tick_now('q')",
        )
        .await;
    assert_eq!(worker.ended().await, Some(1), "{}", stage.log());
    // A new one knows it, too.
    stage
        .worker_stops(&[
            "table public.a was renamed on the provider to public.b",
            "resync public.a",
        ])
        .await;
    stage.leaf(&["resync", "a"]).well();
    let worker = stage.worker();
    stage.leaf(&["wait-sync", "--timeout", "30"]).well();
    stage.leaf_gets("select count(*) from a", 3).await;
    worker.stop().await;
    // One that starts while it has another name.
    stage.run("root", "alter table a rename to b").await;
    stage
        .worker_stops(&["the provider has no table public.a any more", "rename it back"])
        .await;
}

/// Prevents: a copy into rows that are there, for ever.
#[tokio::test]
async fn a_table_added_beside_its_rows_is_copied_again_into_an_empty_one() {
    let stage = Stage::nodes(usual()).await;
    stage.run("root", "insert into a values (1, 'there')").await;
    stage.run("leaf", "insert into a values (2, 'here')").await;
    let worker = stage.worker();
    stage.leaf(&["add-table", "a", "--skip-truncate"]).well();
    stage.leaf(&["wait-sync", "--timeout", "30"]).well();
    stage.leaf_gets("select count(*) from a", 2).await;
    stage.leaf(&["resync", "a"]).well();
    stage.leaf(&["wait-sync", "--timeout", "30"]).well();
    stage.leaf_gets("select sum(id) from a", 1).await;
    worker.stop().await;
}

/// Prevents: values of columns that only the leaf has are lost to its updates.
#[tokio::test]
async fn columns_of_the_leaf_keep_their_values() {
    let pair = Pair::new().await;
    pair.add(
        "moved",
        "create table moved (id int primary key, v int); insert into moved select i, 0 from generate_series(1, 5) i",
        "create table moved (id int primary key, v int, note text default 'dflt')",
    )
    .await;
    pair.add(
        "always",
        "create table always (k int primary key, n int generated always as identity, v int); \
         insert into always (k, v) select i, 0 from generate_series(1, 5) i",
        "create table always (k int primary key, n int generated always as identity, v int, note text default 'dflt')",
    )
    .await;
    pair.stage
        .run(
            "leaf",
            "set session_replication_role = replica; update moved set note = 'n' || id; \
             update always set note = 'n' || k",
        )
        .await;
    pair.stage
        .run(
            "root",
            "update moved set v = id; update moved set id = id + 10; update moved set v = v + 1 where id > 12; \
             begin; update moved set id = 1 where id = 11; update moved set id = 11 where id = 1; commit; \
             update always set v = k; update always set k = k + 100 where k > 2",
        )
        .await;
    pair.equal("select string_agg(id || ' ' || v, ',' order by id) from moved")
        .await;
    pair.equal("select string_agg(k || ' ' || v || ' ' || n, ',' order by k) from always")
        .await;
    let kept = "n1,n2,n3,n4,n5";
    pair.stage
        .leaf_says("select string_agg(note, ',' order by id) from moved", kept)
        .await;
    pair.stage
        .leaf_says("select string_agg(note, ',' order by k) from always", kept)
        .await;
    pair.worker.stop().await;
}

/// Prevents: numbers of the provider's objects taken for ours.
#[tokio::test]
async fn names_of_objects_stay_names() {
    let pair = Pair::new().await;
    pair.stage
        .run("root", "create table shift (); create table named ()")
        .await;
    pair.stage.run("leaf", "create table named ()").await;
    let sql = "create table later (id int primary key); create table objects (id int primary key, c regclass, t regtype[])";
    let (later, objects) = sql.split_once("; ").unwrap();
    pair.add(
        "later",
        later,
        "create table later (id int primary key, c regclass)",
    )
    .await;
    // In a stream of binary values.
    pair.stage
        .run(
            "root",
            "alter table later add c regclass; insert into later values (1, 'named')",
        )
        .await;
    pair.equal("select string_agg(c::text, ',') from later").await;
    pair.add(
        "objects",
        &format!("{objects}; insert into objects values (1, 'named', array['named']::regtype[])"),
        objects,
    )
    .await;
    pair.stage
        .run(
            "root",
            "insert into objects values (2, 'named', array['named']::regtype[])",
        )
        .await;
    pair.equal("select string_agg(c::text || t::text, ',' order by id) from objects")
        .await;
    pair.worker.stop().await;
}

/// Prevents: no operator for a key of a domain over an enum.
#[tokio::test]
async fn a_domain_over_an_enum_may_be_the_key() {
    let pair = Pair::new().await;
    let sql = "create type mood as enum ('sad', 'ok'); create domain den as mood; \
               create table by_mood (k den primary key, v int)";
    pair.add(
        "by_mood",
        &format!("{sql}; insert into by_mood values ('sad', 1), ('ok', 1)"),
        sql,
    )
    .await;
    pair.stage
        .run(
            "root",
            "update by_mood set v = 2 where k::mood = 'ok'; delete from by_mood where k::mood = 'sad'",
        )
        .await;
    pair.equal("select string_agg(k::text || v, ',' order by k::text) from by_mood")
        .await;
    pair.worker.stop().await;
}

/// Prevents: values of an enum that is no more when they are applied cannot be read.
#[tokio::test]
async fn an_enum_may_have_been_replaced_and_dropped() {
    let Pair { stage, worker } = Pair::new().await;
    let sql =
        "create type old_mood as enum ('sad', 'ok'); create table moods (id int primary key, mood old_mood)";
    stage.run("leaf", sql).await;
    stage.run("root", sql).await;
    stage.root(&["add-table", "moods"]).well();
    stage.leaf(&["add-table", "moods"]).well();
    stage.leaf(&["wait-sync"]).well();
    worker.stop().await;
    stage
        .run("root", "insert into moods values (1, 'sad'), (2, null)")
        .await;
    stage
        .run(
            "root",
            "create type mood as enum ('sad', 'ok', 'well'); \
             alter table moods alter mood type mood using mood::text::mood; drop type old_mood",
        )
        .await;
    stage
        .run("root", "update moods set mood = 'ok' where id = 1")
        .await;
    let worker = stage.worker();
    stage
        .leaf_says(
            "select string_agg(id || coalesce(mood::text, '-'), ',' order by id) from moods",
            "1ok,2-",
        )
        .await;
    worker.stop().await;
}

/// Prevents: a composite that got another attribute on both sides stops the worker.
#[tokio::test]
async fn a_composite_may_get_an_attribute_on_both_sides() {
    let pair = Pair::new().await;
    let sql = "create type comp as (x int); create table holds (id int primary key)";
    pair.add("holds", sql, sql).await;
    for side in ["leaf", "root"] {
        pair.stage.run(side, "alter table holds add c comp").await;
    }
    pair.stage
        .run("root", "insert into holds values (1, row(1))")
        .await;
    pair.equal("select string_agg(c::text, ',') from holds").await;
    for side in ["leaf", "root"] {
        pair.stage.run(side, "alter type comp add attribute y text").await;
    }
    pair.stage
        .run("root", "insert into holds values (2, row(2, 'two'))")
        .await;
    pair.equal("select string_agg(c::text, ',' order by id) from holds")
        .await;
    pair.worker.stop().await;
}

/// Prevents: columns that are filled on one side only make a difference, and nobody says why.
#[tokio::test]
async fn a_column_generated_on_the_provider_is_told() {
    let pair = Pair::new().await;
    pair.add(
        "sums",
        "create table sums (id int primary key, twice int generated always as (id * 2) stored); \
         insert into sums values (1)",
        "create table sums (id int primary key, twice int)",
    )
    .await;
    let log = pair.stage.log();
    assert!(log.contains("column is generated on the provider"), "{log}");
    pair.stage
        .leaf(&["compare", "sums"])
        .with(0, &["only one side has twice; not compared", "equal"]);
    pair.worker.stop().await;
}

/// Prevents: equal rows in databases of two encodings are called different.
#[tokio::test]
async fn rows_are_equal_in_two_encodings() {
    let stage = Stage::with_leaf(
        usual(),
        "encoding 'LATIN1' lc_collate 'C' lc_ctype 'C' template template0",
    )
    .await;
    let worker = stage.sync_a();
    stage.run("root", "insert into a values (1, 'Käse')").await;
    stage
        .leaf_gets("select count(*) from a where v = 'Käse'", 1)
        .await;
    stage.leaf(&["compare"]).with(0, &["equal"]);
    worker.stop().await;
}

/// Prevents: databases' settings that change values, or keep commands and worker from writing.
#[tokio::test]
async fn settings_of_the_databases_do_not_matter() {
    let stage = Stage::nodes(usual()).await;
    let sql = "create table lists (id int primary key, l text[], a aclitem)";
    stage.run("leaf", sql).await;
    stage
        .run(
            "leaf",
            "alter database leaf set default_transaction_read_only = on; alter database leaf set array_nulls = off",
        )
        .await;
    stage
        .run(
            "root",
            &format!("{sql}; insert into lists values (1, array['x', null])"),
        )
        .await;
    stage.root(&["add-table", "lists"]).well();
    let worker = stage.sync_a();
    stage.leaf(&["add-table", "lists"]).well();
    stage.leaf(&["wait-sync", "--timeout", "30"]).well();
    stage
        .run("root", "insert into lists values (2, array[null, 'y'])")
        .await;
    stage
        .leaf_gets(
            "select count(*) from lists where cardinality(array_remove(l, null)) = 1",
            2,
        )
        .await;
    stage.leaf(&["compare"]).with(0, &["equal"]);
    worker.stop().await;
}

/// Prevents: a deadlock of compare with who truncates the tables in another order.
#[tokio::test]
async fn a_compare_lets_go_of_its_locks_for_a_truncate() {
    let pair = Pair::new().await;
    let sql = "create table b (id int primary key)";
    pair.add("b", sql, sql).await;
    let ours = pair.stage.on("root").await;
    ours.batch_execute("begin; lock table b").await.unwrap();
    let conf = pair.stage.conf("leaf");
    let compare = tokio::task::spawn_blocking(move || {
        super::stage::skytide(&["londiste", conf.to_str().unwrap(), "compare"])
    });
    // Compare holds a now, and waits for b.
    let client = pair.stage.on("root").await;
    let waits = "select exists (select from pg_locks where relation = 'b'::regclass and not granted)";
    wait::until_eq(waits, true, PATIENCE, async || {
        Ok(client.query_one(waits, &[]).await?.get(0))
    })
    .await
    .unwrap();
    ours.batch_execute("lock table a; commit").await.unwrap();
    compare.await.unwrap().with(0, &["equal"]);
    pair.worker.stop().await;
}
