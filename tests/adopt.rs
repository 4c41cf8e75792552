//! Databases of older makers become ours in place, while producers and consumers go on.

mod traffic;

use std::process::Command;
use std::time::Duration;

use skytide_fixtures::server::{Options, Server};
use skytide_fixtures::wait;
use skytide_sql::install::{self, Action, CTriggers, InstallError, Module, Origin};
use tokio_postgres::Client;

use self::traffic::Traffic;
use crate::packaged;

const PATIENCE: Duration = Duration::from_secs(60);
const PROGRAM: &str = env!("CARGO_BIN_EXE_skytide");
const PGQ_2_1: &str = include_str!("adopt/pgq_2_1.sql");

async fn text(client: &Client, sql: &str) -> String {
    client
        .query_one(sql, &[])
        .await
        .unwrap()
        .get::<_, Option<String>>(0)
        .unwrap_or_default()
}

async fn number(client: &Client, sql: &str) -> i64 {
    client.query_one(sql, &[]).await.unwrap().get(0)
}

/// Everything that the modules' tables are made of, and the functions there are.
async fn shape(client: &Client) -> Vec<String> {
    let sql = "\
        select format('column %s.%s %s%s', c.oid::regclass, a.attname, format_type(a.atttypid, a.atttypmod), \
                      case when a.attnotnull then ' not null' end) \
          from pg_attribute a join pg_class c on c.oid = a.attrelid \
         where c.relnamespace = any ($1::regnamespace[]) and c.relkind in ('r', 'p', 'v') and a.attnum > 0 \
           and not a.attisdropped \
           and not exists (select 1 from pg_inherits i where i.inhrelid = c.oid and not c.relispartition) \
         union all \
        select format('function %s %s', p.oid::regprocedure, l.lanname) from pg_proc p join pg_language l on l.oid = p.prolang \
         where p.pronamespace = any ($1::regnamespace[]) and p.proname not like '%triga' \
         union all \
        select format('key %s %s', c.conrelid::regclass, pg_get_constraintdef(c.oid)) from pg_constraint c \
         where c.connamespace = any ($1::regnamespace[]) and c.contype in ('p', 'f') \
         union all \
        select format('trigger %s', pg_get_triggerdef(t.oid)) from pg_trigger t join pg_class c on c.oid = t.tgrelid \
         where c.relnamespace = any ($1::regnamespace[]) and not t.tgisinternal \
         order by 1";
    let sql = sql.replace(
        "$1",
        "array(select oid from pg_namespace where nspname in ('pgq', 'pgq_coop', 'pgq_ext', 'pgq_node', 'londiste'))",
    );
    client
        .query(&sql, &[])
        .await
        .unwrap()
        .iter()
        .map(|row| row.get(0))
        .collect()
}

async fn shape_of_a_fresh_install(server: &Server) -> Vec<String> {
    server.create_database("fresh").await.unwrap();
    let mut client = server.connect("fresh").await.unwrap();
    install::install(&mut client).await.unwrap();
    shape(&client).await
}

/// What the adopted has besides.
fn left_over(adopted: &[String], fresh: &[String]) -> Vec<String> {
    for line in fresh {
        assert!(adopted.contains(line), "missing after adopting: {line}");
    }
    adopted
        .iter()
        .filter(|line| !fresh.contains(line))
        .cloned()
        .collect()
}

fn origins(plan: &install::Plan) -> Vec<(Module, Option<Origin>)> {
    let adopted = plan.modules.iter().filter(|m| m.action == Action::Adopt);
    adopted.map(|m| (m.module, m.origin.clone())).collect()
}

/// A batch that is open while the schema is adopted, with its events.
struct OpenBatch {
    id: i64,
    events: String,
}

const HELD_EVENTS: &str = "select string_agg(e.ev_id || ' ' || e.ev_data, ',' order by e.ev_id) \
                           from pgq.get_batch_events((select sub_batch from pgq.subscription s \
                           join pgq.consumer c on c.co_id = s.sub_consumer where c.co_name = 'holder')) e";

impl OpenBatch {
    async fn take(client: &Client) -> OpenBatch {
        client
            .batch_execute("select pgq.register_consumer('q', 'holder')")
            .await
            .unwrap();
        let id = wait::until("a batch with events", PATIENCE, async || {
            let id: Option<i64> = client
                .query_one("select pgq.next_batch('q', 'holder')", &[])
                .await?
                .get(0);
            let Some(id) = id else { return Ok(None) };
            if text(client, HELD_EVENTS).await.is_empty() {
                client.execute("select pgq.finish_batch($1)", &[&id]).await?;
                return Ok(None);
            }
            Ok(Some(id))
        })
        .await
        .unwrap();
        OpenBatch {
            id,
            events: text(client, HELD_EVENTS).await,
        }
    }

    async fn finish(self, client: &Client) {
        assert_eq!(
            number(client, "select pgq.next_batch('q', 'holder')").await,
            self.id
        );
        assert_eq!(text(client, HELD_EVENTS).await, self.events);
        let row = client.query_one("select pgq.finish_batch($1)", &[&self.id]).await;
        assert_eq!(row.unwrap().get::<_, i32>(0), 1);
        client
            .batch_execute("select pgq.unregister_consumer('q', 'holder')")
            .await
            .unwrap();
    }
}

/// Traffic before, meanwhile and after; nothing lost, nothing twice.
async fn adopt_under_traffic(server: &Server, database: &str, options: &install::Options) -> install::Plan {
    let mut client = server.connect(database).await.unwrap();
    let mut traffic = Traffic::start(server, database).await;
    traffic.consumed_more(300).await;
    let held = OpenBatch::take(&client).await;

    let planned = install::plan_with(&client, options).await.unwrap();
    let done = install::install_with(&mut client, options).await.unwrap();
    assert_eq!(done.modules.len(), planned.modules.len());
    for (done, planned) in done.modules.iter().zip(&planned.modules) {
        assert_eq!((done.action, &done.origin), (planned.action, &planned.origin));
    }

    held.finish(&client).await;
    traffic.rotate();
    traffic.consumed_more(600).await;
    let report = traffic.stop().await;
    assert_eq!(report.lost_or_repeated, 0, "{report:?}");
    assert!(report.retried > 0, "{report:?}");
    assert_eq!(report.refused, Vec::<String>::new());

    assert!(
        install::plan_with(&client, options)
            .await
            .unwrap()
            .changes_nothing(),
        "a second run has nothing to do"
    );
    done
}

#[tokio::test(flavor = "multi_thread")]
async fn the_extensions_become_ours_while_events_flow() {
    let Some(server) = packaged::server().await else {
        return;
    };
    server.create_database("d").await.unwrap();
    packaged::create_extensions(&server, "d").await;
    let client = server.connect("d").await.unwrap();
    let done = adopt_under_traffic(&server, "d", &install::Options::default()).await;

    let versions: Vec<_> = origins(&done);
    assert_eq!(versions.len(), 3);
    assert!(
        versions
            .iter()
            .all(|(_, o)| matches!(o, Some(Origin::Extension(_)))),
        "{versions:?}"
    );
    let left = number(
        &client,
        "select count(*) from pg_extension where extname <> 'plpgsql'",
    )
    .await;
    assert_eq!(left, 0, "no extension is left");
    let left = left_over(&shape(&client).await, &shape_of_a_fresh_install(&server).await);
    assert_eq!(left, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn c_triggers_may_stay_and_be_replaced_later() {
    let Some(server) = packaged::server().await else {
        return;
    };
    server.create_database("d").await.unwrap();
    packaged::create_extensions(&server, "d").await;
    let keep = install::Options {
        c_triggers: CTriggers::Keep,
        ..install::Options::default()
    };
    adopt_under_traffic(&server, "d", &keep).await;
    let mut client = server.connect("d").await.unwrap();
    let in_c = "select count(*) from pg_proc where pronamespace = 'pgq'::regnamespace and probin is not null";
    assert_eq!(
        number(&client, in_c).await,
        3,
        "the trigger functions, nothing else"
    );
    assert!(
        install::install(&mut client).await.unwrap().changes_nothing(),
        "they stay without being asked for again"
    );

    let replace = install::Options {
        c_triggers: CTriggers::Replace,
        ..install::Options::default()
    };
    install::install_with(&mut client, &replace).await.unwrap();
    assert_eq!(number(&client, in_c).await, 0);
    assert!(
        install::install_with(&mut client, &replace)
            .await
            .unwrap()
            .changes_nothing()
    );
    client
        .batch_execute("insert into watched (data) values ('after')")
        .await
        .unwrap();
    let data = "select ev_data from pgq.event_template order by ev_id desc limit 1";
    assert_eq!(text(&client, data).await, "after");
}

#[tokio::test(flavor = "multi_thread")]
async fn plain_scripts_become_ours_while_events_flow() {
    let Some(server) = packaged::server().await else {
        return;
    };
    server.create_database("d").await.unwrap();
    for module in packaged::EXTENSIONS {
        server
            .psql("d", &packaged::script(&server, module))
            .await
            .unwrap();
    }
    let done = adopt_under_traffic(&server, "d", &install::Options::default()).await;
    assert!(origins(&done).iter().all(|(_, o)| *o == Some(Origin::Scripts)));
    let client = server.connect("d").await.unwrap();
    let left = left_over(&shape(&client).await, &shape_of_a_fresh_install(&server).await);
    assert_eq!(left, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn skytools_2_becomes_ours_while_events_flow() {
    let server = Server::start(Options::default()).await.unwrap();
    server.create_database("d").await.unwrap();
    server.psql("d", PGQ_2_1).await.unwrap();
    let client = server.connect("d").await.unwrap();
    // an event that failed, and one that waits for another try
    client
        .batch_execute(
            "select pgq.create_queue('old'); select pgq.register_consumer('old', 'c'); \
             select pgq.insert_event('old', 't', i::text) from generate_series(1, 3) i",
        )
        .await
        .unwrap();
    client.batch_execute("select pgq.ticker('old')").await.unwrap();
    client
        .batch_execute("select pgq.next_batch('old', 'c')")
        .await
        .unwrap();
    client
        .batch_execute(
            "select pgq.event_failed(sub_batch, 1, 'bad'), pgq.event_retry(sub_batch, 2, 0), \
                    pgq.finish_batch(sub_batch) from pgq.subscription where sub_batch is not null",
        )
        .await
        .unwrap();

    let done = adopt_under_traffic(&server, "d", &install::Options::default()).await;
    assert_eq!(
        origins(&done),
        [
            (Module::Pgq, Some(Origin::SkyTools2)),
            (Module::PgqExt, Some(Origin::Scripts)),
            (Module::Londiste, Some(Origin::SkyTools2)),
        ]
    );
    let dead = "select concat_ws(' ', consumer_name, reason, ev_data) from pgq.get_dead_letters('old', null)";
    assert_eq!(text(&client, dead).await, "c bad 1");
    // Traffic's maintenance has moved the retried event back, for its consumer.
    client.batch_execute("select pgq.ticker('old')").await.unwrap();
    let again = "select string_agg(e.ev_data || ' ' || e.ev_retry, ',') from pgq.get_batch_events(pgq.next_batch('old', 'c')) e";
    assert_eq!(text(&client, again).await, "2 1");

    let left = left_over(&shape(&client).await, &shape_of_a_fresh_install(&server).await);
    let ours = |line: &String| !line.contains("londiste.provider_") && !line.contains("londiste.subscriber_");
    let left: Vec<String> = left.into_iter().filter(ours).collect();
    assert_eq!(
        left,
        Vec::<String>::new(),
        "only Londiste 2's own tables are left"
    );
}

#[tokio::test]
async fn nodes_and_tables_stay_and_go_on_capturing_by_triggers() {
    let Some(server) = packaged::server().await else {
        return;
    };
    server.create_database("d").await.unwrap();
    packaged::create_extensions(&server, "d").await;
    let mut client = server.connect("d").await.unwrap();
    client
        .batch_execute(
            "create table a (id serial primary key); create table b (id int primary key); \
             select pgq_node.register_location('q', 'root', 'dbname=d', false); \
             select pgq_node.create_node('q', 'root', 'root', 'worker', null, null, null); \
             select londiste.local_add_table('q', 'public.a'), londiste.local_add_seq('q', 'public.a_id_seq'); \
             create role auditor; grant update, references on pgq.subscription to auditor with grant option",
        )
        .await
        .unwrap();
    install::install(&mut client).await.unwrap();

    assert_eq!(text(&client, "select londiste.get_capture('q')").await, "trigger");
    let granted =
        "select has_table_privilege('auditor', 'pgq.subscription', 'update with grant option')::text";
    assert_eq!(text(&client, granted).await, "true");
    assert_eq!(
        text(
            &client,
            "select concat_ws(' ', table_name, local, merge_state) from londiste.get_table_list('q')"
        )
        .await,
        "public.a t ok"
    );
    client
        .batch_execute("select londiste.local_add_table('q', 'public.b'); insert into a values (1); insert into b values (2)")
        .await
        .unwrap();
    let events = "select string_agg(ev_type || ' ' || ev_data, ', ' order by ev_id) from pgq.event_template \
                  where ev_type like 'I%'";
    assert_eq!(text(&client, events).await, "I:id id=1, I:id id=2");

    // Without an extension a dump has it all.
    let dump = server.command("pg_dump").args(["-d", "d"]).output().unwrap();
    assert!(dump.status.success());
    server.create_database("restored").await.unwrap();
    server
        .psql("restored", &String::from_utf8(dump.stdout).unwrap())
        .await
        .unwrap();
    let restored = server.connect("restored").await.unwrap();
    assert!(install::plan(&restored).await.unwrap().changes_nothing());
}

#[tokio::test]
async fn who_owns_the_extensions_needs_no_more_rights() {
    let Some(server) = packaged::server().await else {
        return;
    };
    server.create_database("d").await.unwrap();
    let mut client = server.connect("d").await.unwrap();
    client
        .batch_execute(
            "create role boss superuser; create role plain; alter database d owner to plain; \
             set session authorization boss; create extension pgq; create extension pgq_node; \
             create extension londiste; select pgq.create_queue('q'); select pgq.register_consumer('q', 'c'); \
             reset session authorization; reassign owned by boss to plain; set session authorization plain",
        )
        .await
        .unwrap();
    install::install(&mut client).await.unwrap();
    client
        .batch_execute("select pgq.insert_event('q', 't', 'x'); select pgq.tick_now('q'); select pgq.next_batch('q', 'c')")
        .await
        .unwrap();
    assert!(install::plan(&client).await.unwrap().changes_nothing());
}

#[tokio::test]
async fn what_stands_in_the_way_is_named_and_nothing_is_changed() {
    let server = Server::start(Options::default()).await.unwrap();
    server.create_database("d").await.unwrap();
    server.psql("d", PGQ_2_1).await.unwrap();
    let mut client = server.connect("d").await.unwrap();
    let before = shape(&client).await;

    client
        .batch_execute("create view lags as select sub_id, sub_last_tick from pgq.subscription")
        .await
        .unwrap();
    let refused = install::install(&mut client).await.unwrap_err();
    assert!(
        matches!(&refused, InstallError::DependentView { view } if view == "public.lags"),
        "{refused}"
    );
    client
        .batch_execute(
            "drop view lags; \
             create function watch() returns trigger language plpgsql as 'begin return null; end'; \
             create trigger \"my watch\" after update on pgq.subscription for each row execute function watch()",
        )
        .await
        .unwrap();
    let refused = install::install(&mut client).await.unwrap_err();
    assert!(
        matches!(&refused, InstallError::DependentTrigger { trigger } if trigger == "\"my watch\""),
        "{refused}"
    );
    client
        .batch_execute("drop trigger \"my watch\" on pgq.subscription; drop function watch()")
        .await
        .unwrap();

    client
        .batch_execute("create role somebody login; grant create on database d to somebody; set session authorization somebody")
        .await
        .unwrap();
    let refused = install::install(&mut client).await.unwrap_err();
    assert!(
        matches!(&refused, InstallError::OtherOwner { owner, user, .. } if owner == "postgres" && user == "somebody"),
        "{refused}"
    );
    client.batch_execute("reset session authorization").await.unwrap();

    let mut holder = server.connect("d").await.unwrap();
    let held = holder.transaction().await.unwrap();
    held.batch_execute("select 1 from pgq.queue").await.unwrap();
    let hurry = install::Options {
        lock_timeout: Duration::from_secs(1),
        ..install::Options::default()
    };
    let refused = install::install_with(&mut client, &hurry).await.unwrap_err();
    assert!(
        matches!(&refused, InstallError::Locked { holders, .. } if holders.contains("fixtures, user postgres")),
        "{refused}"
    );
    // Who comes later is not kept waiting by us.
    let other = server.connect("d").await.unwrap();
    other
        .batch_execute("set statement_timeout = '5s'; select pgq.create_queue('q')")
        .await
        .unwrap();
    held.rollback().await.unwrap();
    other
        .batch_execute("select pgq.insert_event('q', 't', 'x')")
        .await
        .unwrap();

    // a prepared transaction has no process
    other
        .batch_execute("begin; select 1 from pgq.queue; prepare transaction 'it''s two-phase'")
        .await
        .unwrap();
    let refused = install::install_with(&mut client, &hurry).await.unwrap_err();
    assert!(
        matches!(&refused, InstallError::Locked { holders, .. }
            if holders.starts_with(": held by prepared transaction 'it''s two-phase' (user postgres, prepared 00:00:0")),
        "{refused}"
    );
    other
        .batch_execute("rollback prepared 'it''s two-phase'")
        .await
        .unwrap();

    let columns = |lines: &[String]| -> Vec<String> {
        lines
            .iter()
            .filter(|l| !l.contains("pgq.event_1"))
            .cloned()
            .collect()
    };
    assert_eq!(columns(&shape(&client).await), columns(&before));
    install::install(&mut client).await.unwrap();
}

#[tokio::test]
async fn a_schema_that_only_looks_like_pgq_is_refused() {
    let server = Server::start(Options::default()).await.unwrap();
    server.create_database("d").await.unwrap();
    let mut client = server.connect("d").await.unwrap();
    client
        .batch_execute("create schema pgq; create table pgq.queue (queue_id int, queue_name text)")
        .await
        .unwrap();
    let refused = install::install(&mut client).await.unwrap_err();
    assert!(
        matches!(&refused, InstallError::ForeignSchema { schema: Module::Pgq, missing } if missing == "column queue.queue_ntables"),
        "{refused}"
    );
}

#[tokio::test]
async fn the_plan_is_shown_in_words_and_as_json() {
    let Some(server) = packaged::server().await else {
        return;
    };
    server.create_database("d").await.unwrap();
    packaged::create_extensions(&server, "d").await;
    let client = server.connect("d").await.unwrap();
    client
        .batch_execute("select pgq.create_queue('q'); select pgq.register_consumer('q', 'c')")
        .await
        .unwrap();
    let run = |more: &[&str]| {
        let out = Command::new(PROGRAM)
            .args(["install", &server.dsn("d")])
            .args(more)
            .output()
            .unwrap();
        assert_eq!(
            out.status.code(),
            Some(0),
            "{}",
            String::from_utf8_lossy(&out.stderr)
        );
        String::from_utf8(out.stdout).unwrap()
    };
    let words = run(&["--dry-run"]);
    for part in [
        "extension 3.5",
        "adopt",
        "pgq: keep queues: 1",
        "pgq: keep subscriptions: 1",
        "objects out of extension londiste, drop the extension",
        "Dry run: nothing was changed.",
    ] {
        assert!(words.contains(part), "{part:?} in\n{words}");
    }
    let json: serde_json::Value = serde_json::from_str(&run(&["--dry-run", "--json"])).unwrap();
    assert_eq!(json[0]["action"], "adopt");
    assert_eq!(json[0]["before"], "extension 3.5");
    assert!(
        json[0]["steps"].as_array().is_some_and(|steps| steps.len() > 2),
        "{json}"
    );

    assert!(run(&[]).contains("Done, and verified."));
    assert!(run(&[]).contains("Nothing to do."));
}
