//! Tables and types that are altered, renamed or not alike while they are followed.

use super::schemas::Pair;

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
