//! What `load` and `consume --into` do with values that tables take otherwise than they come.

use super::stage::{Stage, one};

async fn events(stage: &Stage, events: &[(&str, &str, &str)]) {
    for (ev_type, data, table) in events {
        stage
            .source
            .execute(
                "select pgq.insert_event('q', $1, $2, $3, null, null, null)",
                &[ev_type, data, table],
            )
            .await
            .unwrap();
    }
    stage.tick().await;
}

async fn rows(stage: &Stage, table: &str) -> Vec<String> {
    let sql =
        format!("select coalesce(array_agg(t::text order by t::text collate \"C\"), '{{}}') from {table} t");
    one(&stage.target, &sql).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_value_that_does_not_fit_is_refused_and_no_other_row_is_touched() {
    let stage = Stage::new().await;
    stage
        .target
        .batch_execute(
            "create domain public.short as varchar(3); create domain public.shorter as public.short; \
             create table lv (id int primary key, v varchar(3), b varbit(2), c char(2), x bit(2), d public.shorter, \
                              a varchar(3)[], n numeric(6, 2), s timestamp(0), i interval day); \
             create table into_t (ev_id int8, ev_type varchar(3), ev_data char(2)); \
             create table lk (k varchar(3) primary key); insert into lk values ('abc'); \
             create table lc (k char(3) primary key); insert into lc values ('abc'); \
             create table lb (k bit(2) primary key); insert into lb values (b'11'); \
             create table ld (k public.shorter primary key); insert into ld values ('abc')",
        )
        .await
        .unwrap();
    let dsn = stage.target_dsn();
    let load = ["load", "q", "c", "--to", &dsn, "--until-idle"];
    let open = "select count(current_batch) from pgq.get_consumer_info('q', 'c')";

    // What fits is written as before, cut to its column's precision by the server's own rules.
    events(
        &stage,
        &[(
            "I:id",
            "id=1&v=abc++&b=11&c=x&x=01&d=abc&a=%7babc%7d&n=1.005&s=2026-01-01+00:00:00.6&i=1+day+02:00",
            "public.lv",
        )],
    )
    .await;
    stage.ok(&load);
    let first = ["(1,abc,11,\"x \",01,abc,{abc},1.01,\"2026-01-01 00:00:01\",\"1 day\")"];
    assert_eq!(rows(&stage, "lv").await, first);

    for (field, column) in [
        ("v=abcdef", Some("v")),
        ("b=1111", Some("b")),
        ("c=xyz", Some("c")),
        ("x=111", Some("x")),
        ("d=abcdef", Some("d")),
        ("a=%7babcdef%7d", None),
        ("n=12345", None),
    ] {
        for (ev_type, id) in [("I:id", 2), ("U:id", 1)] {
            let data = format!("id={id}&{field}");
            events(&stage, &[(ev_type, &data, "public.lv")]).await;
            let complaint = stage.refused(1, &load);
            let named = match column {
                Some(column) => format!("does not fit into column {column} of table public.lv"),
                None => "write to table public.lv".to_owned(),
            };
            assert!(complaint.contains(&named), "{data}: {complaint}");
            assert_eq!(one::<i64>(&stage.source, open).await, 1, "{data}");
            assert_eq!(rows(&stage, "lv").await, first, "{data}");
            stage.ok(&["seek", "q", "c", "--end", "--target", &dsn]);
        }
    }

    // The key of another row.
    events(
        &stage,
        &[
            ("D:k", "k=abcdef", "public.lk"),
            ("D:k", "k=abcdef", "public.lc"),
            ("D:k", "k=1111", "public.lb"),
            ("D:k", "k=abcdef", "public.ld"),
        ],
    )
    .await;
    stage.ok(&load);
    for table in ["lk", "lc", "ld"] {
        assert_eq!(rows(&stage, table).await, ["(abc)"], "{table}");
    }
    assert_eq!(rows(&stage, "lb").await, ["(11)"]);
    events(
        &stage,
        &[
            ("D:k", "k=abc", "public.lk"),
            ("D:k", "k=abc", "public.lc"),
            ("D:k", "k=11", "public.lb"),
            ("D:k", "k=abc", "public.ld"),
        ],
    )
    .await;
    stage.ok(&load);
    for table in ["lk", "lc", "lb", "ld"] {
        assert!(rows(&stage, table).await.is_empty(), "{table}");
    }

    events(&stage, &[("abc", "xy", "")]).await;
    let into = ["consume", "q", "c", "--until-idle", "--into", &dsn, "into_t"];
    stage.ok(&into);
    for (ev_type, data, column) in [("abcd", "x", "ev_type"), ("abc", "xyz", "ev_data")] {
        events(&stage, &[(ev_type, data, "")]).await;
        let complaint = stage.refused(1, &into);
        let named = format!("does not fit into column {column} of table public.into_t");
        assert!(complaint.contains(&named), "{complaint}");
        assert_eq!(one::<i64>(&stage.source, open).await, 1);
        stage.ok(&["seek", "q", "c", "--end", "--target", &dsn]);
    }
    let stored = "select string_agg(ev_type || ev_data, ',') from into_t";
    assert_eq!(one::<String>(&stage.target, stored).await, "abcxy");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_of_updates_whose_keys_are_equal_but_spelled_otherwise_wins() {
    let stage = Stage::new().await;
    stage
        .target
        .batch_execute(
            "create collation public.ci (provider = icu, locale = 'und-u-ks-level2', deterministic = false); \
             create domain public.amount as numeric; \
             create table kn (k numeric primary key, v text); insert into kn values (1.0, 'old'); \
             create table kd (k public.amount primary key, v text); insert into kd values (1.0, 'old'); \
             create table kt (k text collate public.ci primary key, v text); insert into kt values ('abc', 'old'); \
             create table ki (k int primary key, v text); insert into ki values (1, 'old'), (2, 'old')",
        )
        .await
        .unwrap();
    let mut all = Vec::new();
    for table in ["public.kn", "public.kd"] {
        for data in ["k=1.00&v=a", "k=1.000&v=b", "k=1&v=c"] {
            all.push(("U:k", data, table));
        }
    }
    for data in ["k=ABC&v=a", "k=aBC&v=b", "k=Abc&v=c"] {
        all.push(("U:k", data, "public.kt"));
    }
    for data in ["k=1&v=a", "k=2&v=a", "k=01&v=b", "k=1&v=c"] {
        all.push(("U:k", data, "public.ki"));
    }
    events(&stage, &all).await;
    let dsn = stage.target_dsn();
    let load = ["load", "q", "c", "--to", &dsn, "--until-idle"];
    stage.ok(&load);
    for table in ["kn", "kd"] {
        assert_eq!(rows(&stage, table).await, ["(1,c)"], "{table}");
    }
    assert_eq!(rows(&stage, "kt").await, ["(Abc,c)"]);
    assert_eq!(rows(&stage, "ki").await, ["(1,c)", "(2,a)"]);

    // Only the key is written, and otherwise.
    events(
        &stage,
        &[("U:k", "k=1.0000", "public.kn"), ("D:k", "k=1.00", "public.kd")],
    )
    .await;
    stage.ok(&load);
    assert_eq!(rows(&stage, "kn").await, ["(1.0000,c)"]);
    assert!(rows(&stage, "kd").await.is_empty());
}
