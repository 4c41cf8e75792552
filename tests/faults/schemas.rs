//! Tables that are not alike on both sides, and keys, columns and types that are out of the ordinary.

use skytide_fixtures::wait;

use super::stage::{PATIENCE, Stage, skytide};
use super::usual;

/// Both nodes, a worker, and a table that was added on both.
pub struct Pair {
    pub stage: Stage,
    pub worker: super::stage::Running,
}

impl Pair {
    pub async fn new() -> Pair {
        let (stage, worker) = Stage::replicating(usual().with("logical_decoding_work_mem", "64kB")).await;
        Pair { stage, worker }
    }

    pub async fn add(&self, table: &str, here: &str, there: &str) {
        self.stage.run("root", here).await;
        self.stage.run("leaf", there).await;
        self.stage.root(&["add-table", table]).well();
        self.stage.leaf(&["add-table", table]).well();
        let said = self.stage.leaf(&["wait-sync", "--timeout", "30"]);
        assert_eq!(said.code, Some(0), "{said:?}\n{}", self.stage.log());
    }

    /// Both sides' answers are the same, in the end.
    pub async fn equal(&self, sql: &str) {
        self.stage.run("root", "select pgq.tick_now('q')").await;
        let wanted = self.stage.text("root", sql).await;
        self.stage.leaf_says(sql, &wanted).await;
    }
}

/// Prevents: a table whose column has the name of the compare's own row is always equal.
#[tokio::test]
async fn compare_sees_every_column_whatever_its_name() {
    let pair = Pair::new().await;
    let sql = "create table prices (id int primary key, r int, t text, s text, amount numeric)";
    pair.add(
        "prices",
        &format!("{sql}; insert into prices values (1, 1, 't', 's', 1.5)"),
        sql,
    )
    .await;
    pair.stage.leaf(&["compare"]).well();
    let spoil = "set session_replication_role = replica; update prices set amount = 999999";
    pair.stage.run("leaf", spoil).await;
    pair.stage
        .leaf(&["compare", "public.prices"])
        .with(3, &["DIFFERENT"]);
    pair.worker.stop().await;
}

/// Prevents: a new value of a column that cannot be SET is left out where a large value was not sent along.
#[tokio::test]
async fn a_new_identity_value_beside_an_unsent_large_value_arrives() {
    let pair = Pair::new().await;
    let big = "repeat(md5(random()::text), 300)";
    let keyed = "create table ia (id int generated always as identity primary key, doc text, n int); \
                 alter table ia alter doc set storage external; \
                 create table only_key (id int generated always as identity primary key, big text); \
                 alter table only_key alter big set storage external; \
                 create table beside (k text primary key, s int generated always as identity, big text); \
                 alter table beside alter big set storage external";
    pair.add(
        "ia",
        &format!("{keyed}; insert into ia (doc, n) select {big}, i from generate_series(1, 3) i"),
        keyed,
    )
    .await;
    // A column that only the leaf has keeps its value.
    pair.add(
        "beside",
        &format!("insert into beside (k, big) select 'k' || i, {big} from generate_series(1, 3) i"),
        "alter table beside add t text default 'kept'",
    )
    .await;
    pair.stage
        .run(
            "leaf",
            "set session_replication_role = replica; update beside set t = k",
        )
        .await;
    pair.add(
        "only_key",
        &format!("insert into only_key (big) select {big} from generate_series(1, 2)"),
        "",
    )
    .await;
    pair.stage
        .run(
            "root",
            "update ia set id = default, n = 10 where id = 1; update ia set n = 11 where id = 4; \
             update beside set s = default where k = 'k1'; update only_key set id = default where id = 1",
        )
        .await;
    let sums = "select string_agg(id || ' ' || n || md5(doc), ',' order by id) from ia";
    pair.equal(sums).await;
    pair.equal("select string_agg(k || s || md5(big), ',' order by k) from beside")
        .await;
    pair.equal("select string_agg(id || md5(big), ',' order by id) from only_key")
        .await;
    pair.stage
        .leaf_says("select string_agg(t, ',' order by k) from beside", "k1,k2,k3")
        .await;
    pair.worker.stop().await;
}

/// Prevents: bytes of one type taken for another's, after an ALTER here or with types of the user's.
#[tokio::test]
async fn values_are_never_taken_for_those_of_another_type() {
    let pair = Pair::new().await;
    let sql = "create table widened (id int primary key, n bigint)";
    pair.add("widened", sql, sql).await;
    let rows = |from: i32| {
        let to = from + 30;
        format!("insert into widened select i, i from generate_series({from}, {to}) i")
    };
    let sum = "select coalesce(sum(n::numeric), 0)::text from widened";
    pair.stage.run("root", &rows(0)).await;
    pair.equal(sum).await;
    pair.stage
        .run("leaf", "alter table widened alter n type float8")
        .await;
    pair.stage.run("root", &rows(100)).await;
    pair.equal(sum).await;

    pair.add(
        "tamed",
        "create domain d8 as bigint; create table tamed (id int primary key, d d8); insert into tamed values (1, 77)",
        "create table tamed (id int primary key, d float8)",
    )
    .await;
    pair.stage
        .run("root", "insert into tamed values (2, 4611686018427387904)")
        .await;
    pair.equal("select string_agg(d::int8::text, ',' order by id) from tamed")
        .await;
    pair.worker.stop().await;
}

/// Prevents: a table that the server cannot send in binary form stops all others.
#[tokio::test]
async fn types_without_a_binary_form_are_copied_and_followed() {
    let pair = Pair::new().await;
    let sql = "create table rights (id int primary key, a aclitem, aa aclitem[])";
    let value = "(makeaclitem(10, 10, 'SELECT', false))";
    pair.add(
        "rights",
        &format!("{sql}; insert into rights values (1, {value}, array[{value}])"),
        sql,
    )
    .await;
    pair.stage
        .run(
            "root",
            &format!("insert into rights values (2, {value}, array[{value}])"),
        )
        .await;
    let text = "select string_agg(concat(id, a, aa), ',' order by id) from rights";
    pair.equal(text).await;
    // Nothing but nulls.
    pair.stage.run("root", "insert into rights values (3)").await;
    pair.equal(text).await;
    pair.worker.stop().await;
}

/// Prevents: a copy that fails again and again, and only the log knows why.
#[tokio::test]
async fn status_says_why_a_copy_failed() {
    let (stage, worker) = Stage::replicating(usual()).await;
    stage
        .run(
            "root",
            "create table strict (id int primary key, v int); insert into strict values (1, 0)",
        )
        .await;
    stage
        .run(
            "leaf",
            "create table strict (id int primary key, v int constraint positive check (v > 0))",
        )
        .await;
    stage.root(&["add-table", "strict"]).well();
    stage.leaf(&["add-table", "strict"]).well();
    wait::until("the error in status", PATIENCE, async || {
        let said = stage.leaf(&["status"]);
        Ok(said.out.contains("ERR: ").then_some(said))
    })
    .await
    .unwrap()
    .with(0, &["public.strict: in-copy", "positive"]);
    stage.run("root", "update strict set v = 1").await;
    stage.leaf(&["wait-sync", "--timeout", "30"]).well();
    let said = stage.leaf(&["status"]).well();
    assert!(!said.out.contains("ERR: "), "{said:?}");
    // Nor one that fails before its first step.
    for name in ["root", "leaf"] {
        stage.run(name, "create table gone (id int primary key)").await;
    }
    stage.root(&["add-table", "gone"]).well();
    stage.leaf(&["add-table", "gone"]).well();
    stage.leaf(&["wait-sync", "--timeout", "30"]).well();
    stage.run("leaf", "drop table gone").await;
    stage.leaf(&["resync", "gone"]).well();
    wait::until("the error in status", PATIENCE, async || {
        let said = stage.leaf(&["status"]);
        Ok(said.out.contains("ERR: ").then_some(said))
    })
    .await
    .unwrap()
    .with(0, &["public.gone", "does not exist on the subscriber"]);
    stage
        .leaf(&["wait-sync", "--timeout", "1"])
        .with(1, &["public.gone (", "does not exist on the subscriber"]);
    // Where such a table is taken out, nothing is left of it.
    stage.leaf(&["remove-table", "gone"]).well();
    let left = "select count(*) from pgq_node.local_state where consumer_name like '%.copy.%'";
    stage.leaf_gets(left, 0).await;
    let said = stage.leaf(&["status"]).well();
    assert!(!said.out.contains("ERR: "), "{said:?}");
    worker.stop().await;
}

/// PostgreSQL's decoding of a transaction that is streamed can fail where that of the same one as a whole does not.
#[tokio::test]
async fn what_cannot_be_decoded_streamed_is_decoded_whole() {
    let pair = Pair::new().await;
    pair.stage
        .run(
            "root",
            "begin; insert into a select i, 'old' from generate_series(1000, 3000) i; savepoint a; \
             alter table a add column w int; insert into a select i, 'new', i from generate_series(4000, 6000) i; \
             rollback to a; insert into a select i, 'old2' from generate_series(7000, 9000) i; \
             alter table a add column z text default 'zz'; \
             insert into a select i, 'n2', 'q' from generate_series(9100, 9900) i; commit",
        )
        .await;
    pair.equal("select count(*) || md5(string_agg(id || v, ',' order by id)) from a")
        .await;
    pair.worker.stop().await;
}

/// Prevents: two rows with one key, where nothing checks a deferrable one.
#[tokio::test]
async fn a_deferrable_key_of_the_subscriber_finds_no_rows() {
    let pair = Pair::new().await;
    pair.stage
        .run("root", "create table k (id int primary key, v text)")
        .await;
    pair.stage
        .run("leaf", "create table k (id int primary key deferrable, v text)")
        .await;
    pair.stage.root(&["add-table", "k"]).well();
    pair.stage.leaf(&["add-table", "k", "--expect-sync"]).well();
    pair.stage.run("root", "insert into k values (1, 'x')").await;
    pair.stage.run("root", "select pgq.tick_now('q')").await;
    let mut worker = pair.worker;
    assert_eq!(worker.ended().await, Some(1), "{}", pair.stage.log());
    pair.stage
        .worker_stops(&[
            "no unique index on the subscriber",
            "create unique index on \"public\".\"k\" (\"id\")",
        ])
        .await;
    skytide(&["doctor", pair.stage.conf("leaf").to_str().unwrap()]).with(3, &["public.k"]);
    pair.stage.run("leaf", "create unique index on k (id)").await;
    let worker = pair.stage.worker();
    pair.stage.leaf_gets("select count(*) from k", 1).await;
    worker.stop().await;
}

/// Prevents: rows swapped where a key may be two rows' for a moment.
#[tokio::test]
async fn rows_that_share_a_key_for_a_moment_stop_the_worker() {
    let pair = Pair::new().await;
    pair.add(
        "shared",
        // No key at all here, so that nothing refuses it beforehand.
        "create table shared (k int, v text); alter table shared replica identity full; \
         insert into shared select i, 'v' || i from generate_series(1, 5) i",
        "create table shared (k int primary key, v text)",
    )
    .await;
    pair.stage.run("root", "update shared set k = k + 1").await;
    pair.stage.run("root", "select pgq.tick_now('q')").await;
    let mut worker = pair.worker;
    assert_eq!(worker.ended().await, Some(1), "{}", pair.stage.log());
    pair.stage
        .worker_stops(&["two rows of table public.shared had one key for a moment"])
        .await;
    let still = "select string_agg(k || v, ',' order by k) from shared";
    pair.stage.leaf_says(still, "1v1,2v2,3v3,4v4,5v5").await;
}
