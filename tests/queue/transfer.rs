//! From queue to queues and tables.

use super::stage::{Stage, one};

#[tokio::test(flavor = "multi_thread")]
async fn moved_and_split_events_keep_order_and_time() {
    let stage = Stage::new().await;
    let dsn = stage.target_dsn();
    stage
        .target
        .batch_execute("select pgq.create_queue('moved'); select pgq.create_queue('odd'); select pgq.create_queue('even')")
        .await
        .unwrap();
    stage
        .source
        .batch_execute("select pgq.register_consumer('q', 'splitter')")
        .await
        .unwrap();
    for _ in 0..3 {
        stage
            .source
            .batch_execute(
                "select pgq.insert_event('q', 't', i::text, case i % 2 when 0 then 'even' else 'odd' end, null, '', e'\\t') \
                   from generate_series(1, 2500) i",
            )
            .await
            .unwrap();
        stage.tick().await;
    }
    stage.ok(&[
        "move",
        "q",
        "c",
        "--to",
        &dsn,
        "--to-queue",
        "moved",
        "--until-idle",
        "--chunk-rows",
        "700",
    ]);
    stage.ok(&[
        "split",
        "q",
        "splitter",
        "--to",
        &dsn,
        "--until-idle",
        "--chunk-rows",
        "700",
    ]);

    let events = |client, table: &'static str, filter: &'static str| async move {
        let sql = format!(
            "select coalesce(array_agg(concat_ws('|', ev_time, ev_type, ev_data, ev_extra1, ev_extra3, ev_extra4) \
             order by ev_id), '{{}}') from pgq.{table} where {filter}"
        );
        one::<Vec<String>>(client, &sql).await
    };
    let all = events(&stage.source, "event_1", "true").await;
    assert_eq!(all.len(), 7500);
    assert!(all == events(&stage.target, "event_1", "true").await, "moved");
    let odd = events(&stage.source, "event_1", "ev_extra1 = 'odd'").await;
    assert!(odd == events(&stage.target, "event_2", "true").await, "odd");
    let even = events(&stage.source, "event_1", "ev_extra1 = 'even'").await;
    assert!(even == events(&stage.target, "event_3", "true").await, "even");

    // An event without a queue stops the splitter, and its batch stays whole.
    stage
        .source
        .batch_execute("select pgq.insert_event('q', 't', 'x', 'odd', null, null, null), pgq.insert_event('q', 't', 'y')")
        .await
        .unwrap();
    stage.tick().await;
    let complaint = stage.refused(1, &["split", "q", "splitter", "--to", &dsn, "--until-idle"]);
    assert!(
        complaint.contains("names no queue: its ev_extra1 is null"),
        "{complaint}"
    );
    assert_eq!(
        one::<i64>(&stage.target, "select count(*) from pgq.event_2").await,
        3750
    );

    let same = stage.server.dsn_tcp("source");
    let complaint = stage.refused(2, &["move", "q", "c", "--to", &same]);
    assert!(complaint.contains("moved into itself"), "{complaint}");
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_of_both_triggers_are_loaded_in_order() {
    let stage = Stage::new().await;
    stage
        .target
        .batch_execute(
            "create schema archive; \
             create table archive.t (id int primary key, b text, n numeric, j jsonb); \
             create table public.u (\"Odd k\" bigint, k2 text, v bytea, primary key (\"Odd k\", k2))",
        )
        .await
        .unwrap();
    let events: [(&str, &str, Option<&str>); 12] = [
        (
            "I:id",
            "id=1&b=a+b%c3%a4&n=1.50&j=%7b%22x%22%3a1%7d",
            Some("public.t"),
        ),
        ("I:id", "id=2&b&n=2&j", Some("public.t")),
        ("I:id", "id=3&b=x&n&j", Some("public.t")),
        ("U:id", "id=2&b=first&n=3&j", Some("public.t")),
        ("U:id", "id=2&b=second&n=3&j", Some("public.t")),
        ("D:id", "id=3&b=x&n&j", Some("public.t")),
        (
            r#"{"op":"INSERT","table":["public","u"],"pkey":["Odd k","k2"]}"#,
            r#"{"Odd k":9007199254740993,"k2":"x","v":"\\x00ff"}"#,
            Some("public.u"),
        ),
        (
            r#"{"op":"UPDATE","table":["public","u"],"pkey":["Odd k","k2"]}"#,
            r#"{"Odd k":9007199254740993,"k2":"x","v":null}"#,
            Some("public.u"),
        ),
        ("R", "", Some("public.u")),
        (
            r#"{"op":"INSERT","table":["public","u"],"pkey":["Odd k","k2"]}"#,
            r#"{"Odd k":9007199254740993,"k2":"y","v":"\\x01"}"#,
            Some("public.u"),
        ),
        ("I:id", "id=4&n=12345678901234567890.123", Some("public.t")),
        ("mail", "hello", None),
    ];
    for (ev_type, data, extra1) in events {
        stage
            .source
            .execute(
                "select pgq.insert_event('q', $1, $2, $3, null, null, null)",
                &[&ev_type, &data, &extra1],
            )
            .await
            .unwrap();
    }
    stage.tick().await;
    let dsn = stage.target_dsn();
    let load = [
        "load",
        "q",
        "c",
        "--to",
        &dsn,
        "--map",
        "public.t=archive.t",
        "--until-idle",
    ];
    let complaint = stage.refused(1, &load);
    assert!(
        complaint.contains("is no row: its type \"mail\" is not that of a trigger's event"),
        "{complaint}"
    );
    assert_eq!(
        one::<i64>(&stage.target, "select count(*) from archive.t").await,
        0,
        "all or nothing"
    );
    let mut skipping = load.to_vec();
    skipping.push("--skip-others");
    stage.ok(&skipping);
    let t: Vec<String> = one(
        &stage.target,
        "select array_agg(concat_ws('|', id, coalesce(b, '-'), n, coalesce(j::text, '-')) order by id) from archive.t",
    )
    .await;
    assert_eq!(
        t,
        [
            "1|a bä|1.50|{\"x\": 1}",
            "2|second|3|-",
            "4|-|12345678901234567890.123|-"
        ]
    );
    let u: Vec<String> = one(
        &stage.target,
        "select array_agg(concat_ws('|', \"Odd k\", k2, v) order by k2) from public.u",
    )
    .await;
    assert_eq!(u, ["9007199254740993|y|\\x01"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_captured_by_triggers_are_equal_after_a_load() {
    let stage = Stage::new().await;
    for name in ["by_log", "by_json"] {
        let table = format!(
            "create table public.{name} (id int, k text, n numeric, j jsonb, w json, at timestamptz, a text[], \
             x bytea, b bool, \"Odd c\" char(5), \
             g int generated always as (id * 2) stored, primary key (k, id))"
        );
        stage.source.batch_execute(&table).await.unwrap();
        stage.target.batch_execute(&table).await.unwrap();
    }
    stage
        .source
        .batch_execute(
            "create trigger c after insert or update or delete on by_log for each row execute function pgq.logutriga('q'); \
             create trigger c after insert or update or delete on by_json for each row execute function pgq.jsontriga('q'); \
             create trigger e after truncate on by_json for each statement execute function pgq.jsontriga('q')",
        )
        .await
        .unwrap();
    for name in ["by_log", "by_json"] {
        stage
            .source
            .batch_execute(&format!(
                "insert into {name} values (0, 'gone'); {} \
                 insert into {name} \
                 select i, 'k&=' || chr(228) || i % 3, i * 1.10, jsonb_build_object('i', i, 't', '\"'), '{{\"w\" : [1, null]}}', \
                        now() + i * interval '1 hour', array['a,b', null, i::text], decode('00ff5c', 'hex'), i % 2 = 0, 'x' \
                   from generate_series(1, 50) i; \
                 update {name} set n = null, j = 'null' where id % 3 = 0; \
                 update {name} set a = '{{}}', at = 'infinity' where id % 3 = 0; \
                 delete from {name} where id % 7 = 0",
                if name == "by_json" { "truncate by_json;" } else { "" }
            ))
            .await
            .unwrap();
        stage.tick().await;
    }
    let dsn = stage.target_dsn();
    stage.ok(&[
        "load",
        "q",
        "c",
        "--to",
        &dsn,
        "--until-idle",
        "--chunk-rows",
        "13",
    ]);
    for name in ["by_log", "by_json"] {
        let sql = format!("select array_agg(t::text order by id) from {name} t");
        let wanted: Vec<String> = one(&stage.source, &sql).await;
        let loaded: Vec<String> = one(&stage.target, &sql).await;
        assert!(wanted.len() > 40);
        assert_eq!(loaded, wanted, "{name}");
    }
}
