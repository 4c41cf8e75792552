//! Apply on a real subscriber, fed with what the server's own pgoutput says of a provider's changes.
#![allow(clippy::unwrap_used)]

use std::collections::HashMap;
use std::sync::Arc;

use skytide::apply::{Applier, ApplyError, ApplySettings, ChangeSource, Report, Target, Targets};
use skytide::change::record::{Record, Records};
use skytide::change::{Column, Relation, RelationId, ReplicaIdentity, RowChange};
use skytide_fixtures::server::{Options, Server};
use skytide_sql::{Oid, Snapshot, TableName, Xid, Xid32};
use tokio_postgres::Client;

/// Two databases of one server: what is done in `provider` is decoded and applied to `subscriber`.
struct Pair {
    provider: Client,
    subscriber: Client,
    applier: Applier,
    form: Form,
    server: Server,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    Text,
    Binary,
}

/// A batch as the spool would give it.
#[derive(Default)]
struct Batch {
    relations: HashMap<RelationId, Arc<Relation>>,
    rows: Vec<(Xid, Vec<u8>)>,
}

impl ChangeSource for Batch {
    fn relation(&self, id: RelationId) -> Option<Arc<Relation>> {
        self.relations.get(&id).cloned()
    }

    fn drain(
        &self,
        sink: &mut dyn FnMut(Xid, &RowChange<'_>) -> Result<(), ApplyError>,
    ) -> Result<(), ApplyError> {
        for (xid, run) in &self.rows {
            let mut records = Records::new(run);
            while let Some(record) = records.next_record()? {
                if let Record::Change(change) = record {
                    sink(*xid, &change)?;
                }
            }
        }
        Ok(())
    }
}

impl Batch {
    /// Takes pgoutput's messages; a row message is a record's body as it stands, but for the relation.
    fn read(messages: &[Vec<u8>]) -> Batch {
        let mut batch = Batch::default();
        let mut current: HashMap<u32, u32> = HashMap::new();
        let mut xid = 0;
        for message in messages {
            let word = |at: usize| u32::from_be_bytes(message[at..at + 4].try_into().unwrap());
            match message[0] {
                b'B' => xid = word(17),
                b'R' => {
                    let relation = parse_relation(message);
                    let id = u32::try_from(batch.relations.len()).unwrap() + 1;
                    current.insert(relation.oid.get(), id);
                    batch.relations.insert(RelationId(id), Arc::new(relation));
                }
                b'I' | b'U' | b'D' | b'T' => {
                    let mut body = message.clone();
                    let oids: Vec<usize> = match body[0] {
                        b'T' => (0..word(1) as usize).map(|n| 6 + 4 * n).collect(),
                        _ => vec![1],
                    };
                    for at in oids {
                        body[at..at + 4].copy_from_slice(&current[&word(at)].to_be_bytes());
                    }
                    let mut run = u32::try_from(body.len()).unwrap().to_le_bytes().to_vec();
                    run.extend(body);
                    batch.rows.push((Xid::new(u64::from(xid)), run));
                }
                _ => {}
            }
        }
        batch
    }
}

fn parse_relation(message: &[u8]) -> Relation {
    let mut rest = &message[5..];
    let text = |rest: &mut &[u8]| {
        let end = rest.iter().position(|b| *b == 0).unwrap();
        let text = String::from_utf8(rest[..end].to_vec()).unwrap();
        *rest = &rest[end + 1..];
        text
    };
    let (schema, name) = (text(&mut rest), text(&mut rest));
    let identity = match rest[0] {
        b'd' => ReplicaIdentity::Default,
        b'n' => ReplicaIdentity::Nothing,
        b'f' => ReplicaIdentity::Full,
        _ => ReplicaIdentity::Index,
    };
    let count = u16::from_be_bytes([rest[1], rest[2]]);
    rest = &rest[3..];
    let mut columns = Vec::new();
    for _ in 0..count {
        let is_identity = rest[0] & 1 != 0;
        rest = &rest[1..];
        let name = text(&mut rest);
        let word = |at: usize| u32::from_be_bytes(rest[at..at + 4].try_into().unwrap());
        columns.push(Column {
            name,
            type_oid: Oid::new(word(0)),
            type_modifier: word(4) as i32,
            is_identity,
        });
        rest = &rest[8..];
    }
    Relation {
        oid: Oid::new(u32::from_be_bytes(message[1..5].try_into().unwrap())),
        table: TableName::new(schema, name),
        identity,
        columns,
    }
}

impl Pair {
    async fn start(schema: &str, form: Form) -> Pair {
        Pair::start_with(schema, schema, form, ApplySettings::default()).await
    }

    async fn start_with(ours: &str, theirs: &str, form: Form, settings: ApplySettings) -> Pair {
        let server = Server::start(Options::default()).await.unwrap();
        for db in ["provider", "subscriber"] {
            server.create_database(db).await.unwrap();
        }
        let provider = server.connect("provider").await.unwrap();
        let subscriber = server.connect("subscriber").await.unwrap();
        provider.batch_execute(ours).await.unwrap();
        // Gives the subscriber's own types other oids.
        subscriber
            .batch_execute("create type shift_oids as enum ('x'); drop type shift_oids")
            .await
            .unwrap();
        subscriber.batch_execute(theirs).await.unwrap();
        provider
            .batch_execute("create publication p for all tables")
            .await
            .unwrap();
        let slot = "select pg_create_logical_replication_slot('provider', 'pgoutput', true)";
        provider.batch_execute(slot).await.unwrap();
        let target = server.dsn("subscriber").parse().unwrap();
        let applier = Applier::connect(&target, settings).await.unwrap();
        Pair {
            provider,
            subscriber,
            applier,
            form,
            server,
        }
    }

    /// What the provider did since the last call.
    async fn decode(&self) -> Batch {
        // PostgreSQL 13 knows no such option: text is all there is.
        let binary = match self.form {
            Form::Binary if self.server.version().major >= 14 => ", 'binary', 'true'",
            _ => "",
        };
        let sql = format!(
            "select data from pg_logical_slot_get_binary_changes(current_database(), null, null, \
             'proto_version', '1', 'publication_names', 'p'{binary})"
        );
        let rows = self.provider.query(&sql, &[]).await.unwrap();
        let messages: Vec<Vec<u8>> = rows.iter().map(|row| row.get(0)).collect();
        Batch::read(&messages)
    }

    async fn replicate(&mut self) -> Result<Report, ApplyError> {
        let batch = self.decode().await;
        let targets = targets_of(&batch);
        let (_, report) = self
            .applier
            .apply(batch, Arc::new(targets), |_| Ok(Vec::new()))
            .await?;
        Ok(report)
    }

    /// Does it on the provider, applies it, and compares the tables.
    async fn step(&mut self, sql: &str, tables: &[&str]) -> Report {
        self.provider.batch_execute(sql).await.unwrap();
        let report = self.replicate().await.unwrap();
        self.compare(tables).await;
        report
    }

    async fn rows(&self, table: &str) -> i64 {
        let sql = format!("select count(*) from {table}");
        let row = self.subscriber.query_one(&sql, &[]).await.unwrap();
        row.get(0)
    }

    async fn compare(&self, tables: &[&str]) {
        for table in tables {
            let sql = format!("select t::text from {table} t order by 1");
            let mut sides = Vec::new();
            for client in [&self.provider, &self.subscriber] {
                let rows = client.query(&sql, &[]).await.unwrap();
                sides.push(rows.iter().map(|row| row.get::<_, String>(0)).collect::<Vec<_>>());
            }
            assert_eq!(sides[0], sides[1], "table {table}");
        }
    }
}

/// Every table, under its own name.
fn targets_of(batch: &Batch) -> Targets {
    let targets = batch.relations.values().map(|relation| {
        let dest = relation.table.clone();
        (
            dest.clone(),
            Target {
                dest,
                skip_visible_in: None,
            },
        )
    });
    targets.collect()
}

const ALL_TYPES: &str = r#"
    create type mood as enum ('sad', 'ok', 'so so');
    create type point2 as (x int, m mood);
    create domain positive as int check (value > 0);
    create domain must as text not null check (value <> '');
    create table "All Types" (
        id bigint generated always as identity,
        "select" int, small smallint, real4 real, real8 float8, num numeric, txt text, vc varchar(20),
        bp char(5), by bytea, bo bool, d date, ts timestamp, tz timestamptz, iv interval, u uuid,
        j json, jb jsonb, ip inet, bits bit(3), vbits varbit, ia int[], ta text[], m mood, ma mood[],
        p2 point2, p2a point2[], pos positive, must must, r int4range, gen int generated always as ("select" * 2) stored,
        geo point, tm time, x xml, constraint "Odd PK" primary key (id));
"#;

#[tokio::test]
async fn all_types_arrive_in_both_forms() {
    for form in [Form::Binary, Form::Text] {
        let mut pair = Pair::start(ALL_TYPES, form).await;
        let tables = [r#""All Types""#];
        let values = r#"42, -1, 1.5, 'NaN', 'NaN', E'a\tb\\c\n', 'vc', 'bp', '\x00ff', true, '2026-01-02',
            'infinity', '2026-01-02 03:04:05+02', '1 mon 2 days', gen_random_uuid(), '{"a": 1}', '{"b":null}',
            '10.0.0.1/8', '101', '10110', '{1,null,3}', '{"a b",null,""}', 'so so', '{sad,null,ok}',
            row(7, 'ok')::point2, array[row(1, 'sad')::point2, null], 5, 'here', '[1,5)', '(1,2)', '04:05', '<a/>'"#;
        let columns = r#""select", small, real4, real8, num, txt, vc, bp, by, bo, d, ts, tz, iv, u, j, jb, ip,
            bits, vbits, ia, ta, m, ma, p2, p2a, pos, must, r, geo, tm, x"#;
        let one = format!(r#"insert into "All Types" ({columns}) values ({values})"#);
        let many =
            format!(r#"insert into "All Types" ({columns}) select {values} from generate_series(1, 50)"#);
        let nulls = r#"insert into "All Types" (must) values ('only')"#;
        let report = pair.step(&format!("{one}; {nulls}"), &tables).await;
        assert_eq!(report.inserted, 2);
        let report = pair.step(&many, &tables).await;
        assert_eq!(report.inserted, 50);
        let update = r#"update "All Types" set num = id, ma = ma || 'ok'::mood, p2 = row(id, 'sad')::point2,
            p2a = p2a || row(3, 'so so')::point2, must = must || '!', tz = null where id % 2 = 0"#;
        let report = pair.step(update, &tables).await;
        assert_eq!((report.updated, report.missing_updates), (26, 0));
        let report = pair
            .step(r#"delete from "All Types" where id % 3 = 0"#, &tables)
            .await;
        assert_eq!((report.deleted, report.missing_deletes), (17, 0));
        let report = pair
            .step(r#"update "All Types" set id = default where id < 10"#, &tables)
            .await;
        assert_eq!(report.missing_deletes, 0);
    }
}

const KEYS: &str = "
    create table t (id int primary key, u int unique, big text, note text);
    alter table t alter big set storage external;
    create table pair (a int, b text, v int, primary key (b, a));
    create table full_identity (id int primary key, v text);
    alter table full_identity replica identity full;
    create table child (id int primary key, t_id int references t);
    create table only_inserts (v int);
    create table only_key (a int primary key);";

const KEY_TABLES: &[&str] = &["t", "pair", "full_identity", "child", "only_inserts", "only_key"];

#[tokio::test]
async fn keys_move_swap_and_come_back() {
    for chunk_bytes in [32 << 20, 300] {
        let settings = ApplySettings {
            chunk_bytes,
            ..ApplySettings::default()
        };
        let mut pair = Pair::start_with(KEYS, KEYS, Form::Binary, settings).await;
        let big = "repeat('x', 5000)";
        pair.step(
            &format!(
                "insert into t select g, g, {big} || g, 'n' from generate_series(1, 30) g;
                 insert into pair select g, 'k' || g, g from generate_series(1, 30) g;
                 insert into full_identity select g, g from generate_series(1, 30) g;
                 insert into only_inserts select g from generate_series(1, 30) g;
                 insert into only_key select g from generate_series(1, 30) g;
                 insert into child select g, g from generate_series(1, 5) g"
            ),
            KEY_TABLES,
        )
        .await;
        // Unchanged TOAST on a plain update, on a key change, and on both in one batch.
        pair.step("update t set note = 'a' where id = 20", KEY_TABLES)
            .await;
        pair.step("update t set id = 120 where id = 20", KEY_TABLES).await;
        pair.step(
            "update t set note = 'b' where id = 21; update t set id = 121 where id = 21;
             update t set note = 'c' where id = 121; update t set id = 21 where id = 121;
             update t set id = 122 where id = 22; delete from t where id = 122;
             update t set id = 123 where id = 23; insert into t values (23, 1023, 'small', 'new');
             update t set id = 124, big = 'short' where id = 24; insert into t values (24, 1024, null, null);
             delete from t where id = 25; update t set id = 25 where id = 26;
             update t set id = 126 where id = 27; update t set big = 'whole' where id = 126;
             insert into t values (200, 200, 'x', 'y'); update t set id = 201 where id = 200;
             insert into t values (202, 202); delete from t where id = 202",
            KEY_TABLES,
        )
        .await;
        pair.step(
            "update pair set a = a + 100; update pair set b = b || 'x' where a % 2 = 0; update pair set v = -v;
             update full_identity set v = null where id < 5; update full_identity set id = id + 100 where id > 25;
             delete from full_identity where id = 7;
             update only_key set a = a + 1000 where a > 15; delete from only_key where a = 3",
            KEY_TABLES,
        )
        .await;
        // Each row takes its neighbour's key.
        let shift = "do $$ begin for i in reverse 30..1 loop update only_key set a = i + 1 where a = i;
             update pair set a = i + 101, b = 'same' where a = i + 100; end loop; end $$";
        pair.step(shift, KEY_TABLES).await;
        // A swap of unique values needs the exact order.
        let swap = "update t set u = 99991 where id = 1; update t set u = 1 where id = 2;
             update t set u = 2 where id = 1; update t set note = 'after' where id = 3";
        let report = pair.step(swap, KEY_TABLES).await;
        assert!(report.exact || chunk_bytes == 300);
        assert_eq!(report.missing_updates, 0);
    }
}

#[tokio::test]
async fn truncate_is_a_barrier() {
    let mut pair = Pair::start(KEYS, Form::Binary).await;
    pair.step(
        "insert into t select g, g from generate_series(1, 50) g; insert into child values (1, 1), (2, 2)",
        KEY_TABLES,
    )
    .await;
    let report = pair
        .step(
            "insert into t values (100, 100); update t set note = 'x' where id = 1;
             insert into only_key values (1);
             truncate t cascade; insert into t values (1, 5); insert into child values (9, 1);
             truncate only_inserts, child restart identity; insert into child values (10, null)",
            KEY_TABLES,
        )
        .await;
    assert_eq!(report.truncates, 2);
    // The subscriber has a table of its own that refers to t.
    pair.subscriber
        .batch_execute("create table local_ref (id int references t); insert into local_ref values (1)")
        .await
        .unwrap();
    pair.step("truncate t cascade; insert into t values (1, 1)", KEY_TABLES)
        .await;
    let rows = pair.subscriber.query("select from local_ref", &[]).await.unwrap();
    assert_eq!(rows.len(), 1);
}

#[tokio::test]
async fn rows_that_are_not_there_are_counted() {
    let mut pair = Pair::start(KEYS, Form::Binary).await;
    pair.step(
        "insert into t select g, g from generate_series(1, 10) g",
        KEY_TABLES,
    )
    .await;
    pair.subscriber
        .batch_execute("delete from t where id in (3, 4, 5)")
        .await
        .unwrap();
    pair.provider
        .batch_execute("update t set note = 'x' where id in (3, 6); delete from t where id in (4, 5, 7)")
        .await
        .unwrap();
    let report = pair.replicate().await.unwrap();
    assert_eq!((report.updated, report.missing_updates), (1, 1));
    assert_eq!((report.deleted, report.missing_deletes), (1, 2));
}

#[tokio::test]
async fn the_subscribers_table_may_differ() {
    let theirs = "
        create domain note as text not null check (value <> 'never');
        create table t (extra int default 7, big text, note text, u bigint unique, id bigint primary key,
                        twice bigint generated always as (id * 2) stored);
        create table pair (a numeric, b varchar(50), v text, primary key (a, b));
        create table full_identity (v note, id int primary key);
        create table child (id int primary key, t_id int);
        create table only_inserts (v int);
        create table only_key (a int primary key)";
    for form in [Form::Binary, Form::Text] {
        let mut pair = Pair::start_with(KEYS, theirs, form, ApplySettings::default()).await;
        let common = [
            "(select id, u, big, note from t)",
            "(select a::text, b, v::text from pair)",
            "(select id, v from full_identity)",
            "child",
            "only_inserts",
            "only_key",
        ];
        pair.step(
            "insert into t select g, g, 'b', 'n' from generate_series(1, 100) g;
             insert into pair select g, 'k' || g, g from generate_series(1, 5) g;
             insert into full_identity values (1, 'x'), (2, 'y');
             insert into child select g, null from generate_series(1, 30) g",
            &common,
        )
        .await;
        pair.step(
            "update t set u = u + 1000 where id % 2 = 0; update t set id = id + 1000 where id % 7 = 0;
             delete from t where id % 5 = 0 and id > 1000; update pair set v = 0; delete from pair where a = 2;
             update full_identity set v = 'z' where id = 1; delete from full_identity where id = 2;
             update child set id = id + 100 where id < 4",
            &common,
        )
        .await;
    }
}

#[tokio::test]
async fn tables_may_be_altered_on_both_sides() {
    let mut pair = Pair::start(KEYS, Form::Binary).await;
    pair.step(
        "insert into t select g, g from generate_series(1, 50) g",
        KEY_TABLES,
    )
    .await;
    pair.step("update t set note = 'x'", KEY_TABLES).await;
    // Only here, and the statements in hand no longer fit.
    pair.subscriber
        .batch_execute("alter table t alter u type bigint, drop column note")
        .await
        .unwrap();
    let without = ["(select id, u, big from t)"];
    pair.step(
        "update t set note = 'y', u = u + 100; insert into t select g, g from generate_series(1000, 1050) g",
        &without,
    )
    .await;
    pair.subscriber
        .batch_execute("alter table t add note text")
        .await
        .unwrap();
    pair.step("update t set note = 'z'", &["(select id, u, note from t)"])
        .await;
    // On the provider in the middle of a batch.
    let more = "alter table t add more int; update t set more = id";
    pair.subscriber
        .batch_execute("alter table t add more int")
        .await
        .unwrap();
    pair.step(
        &format!("update t set u = -u; {more}; delete from t where id = 1"),
        &["(select id, u, more from t)"],
    )
    .await;
}

#[tokio::test]
async fn bad_tables_are_named_with_their_fix() {
    let theirs = "create table t (id int, u int, big text, note text)";
    let mut pair = Pair::start_with(KEYS, theirs, Form::Binary, ApplySettings::default()).await;
    pair.provider
        .batch_execute("insert into t values (1, 1)")
        .await
        .unwrap();
    let error = pair.replicate().await.unwrap_err();
    assert!(
        error
            .to_string()
            .contains(r#"alter table "public"."t" add primary key ("id")"#),
        "{error}"
    );
    pair.provider
        .batch_execute("insert into pair values (1, 'a', 1)")
        .await
        .unwrap();
    let error = pair.replicate().await.unwrap_err();
    assert!(matches!(error, ApplyError::NoTable(_)), "{error}");
    // A real conflict: the subscriber has the row already.
    pair.subscriber
        .batch_execute("alter table t add primary key (id); insert into t values (2)")
        .await
        .unwrap();
    pair.provider
        .batch_execute("insert into t values (2, 2)")
        .await
        .unwrap();
    let error = pair.replicate().await.unwrap_err();
    assert!(
        error.to_string().contains("insert into table public.t"),
        "{error}"
    );
    pair.provider
        .batch_execute("insert into t values (3, 3)")
        .await
        .unwrap();
    pair.replicate().await.unwrap();
}

#[tokio::test]
async fn changes_the_copy_has_are_skipped() {
    let mut pair = Pair::start(KEYS, Form::Binary).await;
    pair.provider
        .batch_execute("insert into t values (1, 1); insert into only_key values (1)")
        .await
        .unwrap();
    let row = pair
        .provider
        .query_one("select pg_current_snapshot()::text", &[])
        .await
        .unwrap();
    let copied: Snapshot = row.get::<_, &str>(0).parse().unwrap();
    pair.provider
        .batch_execute("insert into t values (2, 2); insert into only_key values (2)")
        .await
        .unwrap();
    let mut batch = pair.decode().await;
    let epoch = copied.xmax();
    for (xid, _) in &mut batch.rows {
        *xid = Xid32::new(u32::try_from(xid.as_u64()).unwrap()).widen(epoch);
    }
    let target = |name: &str, skip_visible_in| {
        let dest = TableName::new("public", name);
        (
            dest.clone(),
            Target {
                dest,
                skip_visible_in,
            },
        )
    };
    let targets = Targets::from_iter([target("t", Some(copied)), target("only_key", None)]);
    let applied = pair.applier.apply(batch, Arc::new(targets), |_| Ok(Vec::new()));
    let (_, report) = applied.await.unwrap();
    assert_eq!(report.rows_in, 3);
    pair.compare(&["only_key", "(select id from t where id <> 1)"])
        .await;
    let rows = pair.subscriber.query("select id from t", &[]).await.unwrap();
    let ids: Vec<i32> = rows.iter().map(|row| row.get(0)).collect();
    assert_eq!(ids, [2]);
}

#[tokio::test]
async fn a_batch_given_up_half_way_leaves_nothing() {
    let mut pair = Pair::start(KEYS, Form::Binary).await;
    pair.step(
        "insert into t select g, g from generate_series(1, 100) g",
        KEY_TABLES,
    )
    .await;
    pair.provider
        .batch_execute("update t set note = 'x'; insert into only_key select generate_series(1, 1000)")
        .await
        .unwrap();
    let batch = Arc::new(pair.decode().await);
    let targets = Arc::new(targets_of(&batch));
    // The next session starts where the one before is gone for good, committed or not.
    for polls in [1, 2, 4, 8, 16, 32] {
        let apply = pair
            .applier
            .apply(Shared(batch.clone()), targets.clone(), |_| Ok(Vec::new()));
        let mut apply = Box::pin(apply);
        for _ in 0..polls {
            if futures_util::poll!(&mut apply).is_ready() {
                break;
            }
            tokio::task::yield_now().await;
        }
        drop(apply);
        let nothing = Shared(Arc::new(Batch::default()));
        let applied = pair.applier.apply(nothing, targets.clone(), |_| Ok(Vec::new()));
        applied.await.unwrap();
        if pair.rows("only_key").await > 0 {
            break;
        }
    }
    if pair.rows("only_key").await == 0 {
        let applied = pair.applier.apply(Shared(batch), targets, |_| Ok(Vec::new()));
        applied.await.unwrap();
    }
    pair.compare(KEY_TABLES).await;
}

/// A batch that outlives its readers.
struct Shared(Arc<Batch>);

impl ChangeSource for Shared {
    fn relation(&self, id: RelationId) -> Option<Arc<Relation>> {
        self.0.relation(id)
    }

    fn drain(
        &self,
        sink: &mut dyn FnMut(Xid, &RowChange<'_>) -> Result<(), ApplyError>,
    ) -> Result<(), ApplyError> {
        self.0.drain(sink)
    }
}
