//! The console on a real server: every command, errors, pipes and JSON.

mod terminal;

use std::io::Write as _;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};

use serde_json::{Value, json};
use skytide_fixtures::server::Server;

use crate::modules;

const PROGRAM: &str = env!("CARGO_BIN_EXE_skytide");

/// A database with the modules, and a home for the history.
struct Place {
    server: Server,
    home: tempfile::TempDir,
}

struct Said {
    code: Option<i32>,
    out: String,
    err: String,
}

impl Place {
    async fn new() -> Place {
        let server = modules::server_with_modules().await;
        modules::database(&server, "app").await;
        Place {
            server,
            home: tempfile::tempdir().unwrap(),
        }
    }

    fn dsn(&self) -> String {
        self.server.dsn("app")
    }

    fn command(&self) -> Command {
        let mut command = Command::new(PROGRAM);
        command
            .arg0("qadmin")
            .env("HOME", self.home.path())
            .arg(self.dsn());
        command
    }

    fn run(&self, arguments: &[&str], input: &str) -> Said {
        let mut child = self
            .command()
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // Whoever does not read its input may be gone before it is written.
        let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
        let done = child.wait_with_output().unwrap();
        Said {
            code: done.status.code(),
            out: String::from_utf8(done.stdout).unwrap(),
            err: String::from_utf8(done.stderr).unwrap(),
        }
    }

    /// Commands that must succeed; gives what they print.
    fn done(&self, commands: &str) -> String {
        let said = self.run(&["-c", commands], "");
        assert_eq!(said.code, Some(0), "{commands}\n{}{}", said.out, said.err);
        said.out
    }

    fn json(&self, command: &str) -> Value {
        let said = self.run(&["--json", "-c", command], "");
        assert_eq!(said.code, Some(0), "{command}\n{}", said.err);
        serde_json::from_str(&said.out).unwrap_or_else(|e| panic!("{e}: {}", said.out))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn queues_and_consumers_are_looked_after() {
    let place = Place::new().await;
    assert_eq!(place.done("create queue q"), "CREATE\n");
    assert_eq!(place.done("create queue q;"), "queue q exists already\nCREATE\n");
    assert_eq!(place.done("create queue \"Other q\""), "CREATE\n");
    assert_eq!(
        place.done("alter queue * set idle_period = '5 minutes', paused = 1"),
        "ALTER\n"
    );
    assert_eq!(
        place.done("alter queue q set max_lag='1 second', max_count=7, paused=0"),
        "ALTER\n"
    );
    let queues = place.json("show queue *");
    assert_eq!(queues[1]["queue_name"], "q");
    assert_eq!(queues[1]["tables"], "0/3");
    assert_eq!(queues[1]["max_count"], 7);
    assert_eq!(queues[1]["max_lag"], "00:00:01");
    assert_eq!(queues[1]["idle_period"], "00:05:00");
    assert_eq!(
        (&queues[0]["paused"], &queues[1]["paused"]),
        (&json!(true), &json!(false))
    );
    assert!(
        place
            .done("show queue q")
            .starts_with("queue_name  tables  max_count  max_lag   idle_period  paused")
    );
    assert!(place.done("show queue q").ends_with("(1 row)\n\n"));

    assert_eq!(place.done("register consumer c on q"), "REGISTER\n");
    assert_eq!(
        place.done("register consumer c on q"),
        "consumer c is registered already\nREGISTER\n"
    );
    place.done("select pgq.insert_event('q', 'kind', 'first'); select pgq.tick_now('q', '0')");
    assert_eq!(place.done("register consumer d on q copy c"), "REGISTER\n");
    assert_eq!(place.done("register consumer e at 2 on q"), "REGISTER\n");
    let consumers = place.json("show consumer * on q");
    assert_eq!(consumers.as_array().unwrap().len(), 3);
    assert_eq!(consumers[1]["last_tick"], 1);
    assert_eq!(consumers[2]["last_tick"], 2);
    assert_eq!(place.json("show consumer d")[0]["queue_name"], "q");

    let batch = place.json("select pgq.next_batch('q', 'c') as id")[0]["id"].clone();
    let events = place.json(&format!("show batch {batch}"));
    assert_eq!(events[0]["ev_data"], "first");
    let of_consumer = place.run(&["--json", "-Q", "q", "-c", "show batch c"], "");
    assert_eq!(serde_json::from_str::<Value>(&of_consumer.out).unwrap(), events);
    let none = place.run(&["-Q", "q", "-c", "show batch d"], "");
    assert_eq!(
        (none.code, none.err.as_str()),
        (Some(1), "ERROR:  open batch of consumer \"d\" not found\n")
    );

    assert_eq!(place.done("pause consumer d on q"), "PAUSE\n");
    assert_eq!(
        place.done("pause consumer d on q"),
        "consumer d was paused already\nPAUSE\n"
    );
    assert_eq!(place.done("resume consumer d on q"), "RESUME\n");
    assert_eq!(
        place.done("seek consumer d to 2 on q"),
        "consumer d is at tick 2\nSEEK\n"
    );
    assert_eq!(
        place.done("seek consumer d to 'now' on q"),
        "consumer d is at tick 2\nSEEK\n"
    );
    assert_eq!(
        place.done("purge consumer e on q"),
        "consumer e is at tick 3\nPURGE\n"
    );
    assert_eq!(place.json("show blockers"), json!([]));
    assert_eq!(place.json("show dead q"), json!([]));

    assert_eq!(place.done("register subconsumer s for c on q"), "REGISTER\n");
    assert_eq!(place.done("register subconsumer t for d on q"), "REGISTER\n");
    assert_eq!(
        place.done("unregister subconsumer s for c from q close batch"),
        "UNREGISTER\n"
    );
    assert_eq!(
        place.done("unregister subconsumer s for c from q"),
        "subconsumer c.s is not registered on queue q\nUNREGISTER\n"
    );
    assert_eq!(
        place.done("unregister subconsumer * for d from q"),
        "UNREGISTER\n"
    );
    assert_eq!(place.json("show consumer * on q").as_array().unwrap().len(), 3);
    assert_eq!(place.done("unregister consumer d from q"), "UNREGISTER\n");
    // One session keeps its default queue.
    assert_eq!(
        place.done(
            "connect queue=q; unregister consumer *; drop queue q; drop queue \"Other q\"; show queue *"
        ),
        "CONNECT\nUNREGISTER\nDROP\nDROP\nqueue_name  tables  max_count  max_lag  idle_period  paused  \
         ticker_lag  ev_per_sec  ev_new\n----------  ------  ---------  -------  -----------  ------  \
         ----------  ----------  ------\n(0 rows)\n\n"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_and_their_tables_are_looked_after() {
    let place = Place::new().await;
    let dsn = place.dsn();
    place.done(&format!(
        "select * from pgq_node.register_location('set', 'n1', $${dsn}$$, false);
         select * from pgq_node.create_node('set', 'root', 'n1', 'n1_worker', null, null, null);
         create publication skytide_set;
         create table t (id int primary key);
         create table \"Odd t\" (id int primary key);
         create sequence s;"
    ));
    assert_eq!(
        place.json("show node"),
        json!([{"queue": "set", "node": "n1", "location": dsn, "dead": false}])
    );
    let on_set = |commands: &str| {
        let said = place.run(&["-Q", "set", "-c", commands], "");
        assert_eq!(said.code, Some(0), "{commands}\n{}{}", said.out, said.err);
        said.out
    };
    assert!(on_set("londiste missing").contains("table     public.t\n"));
    assert_eq!(
        on_set("londiste add table t, \"Odd t\" with skip_truncate"),
        "200 Table added, captured from the WAL: public.t\n\
         200 Table added, captured from the WAL: public.Odd t\nADD_TABLE\n"
    );
    let published = "select tablename from pg_publication_tables where pubname = 'skytide_set' order by 1";
    assert_eq!(
        place.json(published),
        json!([{"tablename": "Odd t"}, {"tablename": "t"}])
    );
    assert!(on_set("londiste tables").contains("public.Odd t  ok"));
    assert_eq!(
        on_set("londiste add sequence s"),
        "200 Sequence added: public.s\nADD_SEQ\n"
    );
    assert!(on_set("londiste seqs").contains("public.s"));
    assert!(on_set("londiste remove sequence s").ends_with("REMOVE_SEQ\n"));
    assert!(on_set("londiste remove table \"Odd t\"").ends_with("REMOVE_TABLE\n"));
    assert_eq!(place.json(published), json!([{"tablename": "t"}]));

    let refused = place.run(
        &["-Q", "set", "-c", "londiste add table \"Odd t\", nothing_here"],
        "",
    );
    assert_eq!(refused.code, Some(1));
    assert_eq!(
        refused.err,
        "ERROR:  Table does not exist: public.nothing_here (404)\n"
    );
    assert_eq!(place.json(published), json!([{"tablename": "t"}]));
    let in_transaction = place.run(&["-Q", "set", "-c", "begin; londiste remove table t"], "");
    assert_eq!(in_transaction.code, Some(1));
    assert!(
        in_transaction.err.ends_with("HINT:  First: commit;\n"),
        "{}",
        in_transaction.err
    );

    assert_eq!(
        place.done(
            "connect queue=set node=n1; select current_database(); connect dbname=template; \
                    connect host=localhost dbname=app; select inet_server_port() is null as by_socket"
        ),
        "CONNECT\ncurrent_database\n----------------\napp\n(1 row)\n\nCONNECT\nCONNECT\n\
         by_socket\n---------\nf\n(1 row)\n\n"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_are_published_only_where_they_are_captured_from_the_wal() {
    let place = Place::new().await;
    let dsn = place.dsn();
    for set in ["by_triggers", "by_wal"] {
        place.done(&format!(
            "select * from pgq_node.register_location('{set}', 'n1', $${dsn}$$, false);
             select * from pgq_node.create_node('{set}', 'root', 'n1', 'n1_worker', null, null, null);"
        ));
    }
    place.done(
        "select londiste.set_capture('by_triggers', 'trigger');
         create table t (id int primary key); create table u (id int primary key)",
    );
    let on = |set: &str, more: &[&str], commands: &str| {
        let said = place.run(&[&["-Q", set], more, &["-c", commands]].concat(), "");
        assert_eq!(said.code, Some(0), "{commands}\n{}{}", said.out, said.err);
        said.out
    };
    let publications = "select pubname from pg_publication order by 1";
    let published = "select pubname, tablename from pg_publication_tables where schemaname = 'public'";

    let dry = on("by_triggers", &["--dry-run"], "londiste add table t");
    assert!(!dry.contains("publication"), "{dry}");
    let added = on("by_triggers", &[], "londiste add table t");
    assert!(
        added.starts_with("200 Table added") && !added.contains("from the WAL"),
        "{added}"
    );
    place.done("insert into t values (1)");
    assert_eq!(
        place.json("select count(*) from pgq.event_template where ev_type like 'I%'"),
        json!([{"count": 1}])
    );

    let conf = |set: &str| {
        let path = place.home.path().join(format!("{set}.ini"));
        let text = format!("[londiste]\nqueue_name = {set}\njob_name = n1_worker\ndb = {dsn}\n");
        std::fs::write(&path, text).unwrap();
        path
    };
    let londiste = |set: &str, arguments: &[&str]| {
        let out = Command::new(PROGRAM)
            .arg("londiste")
            .arg(conf(set))
            .args(arguments)
            .output()
            .unwrap();
        let text = String::from_utf8([out.stdout, out.stderr].concat()).unwrap();
        assert!(out.status.success(), "{arguments:?}: {text}");
        text
    };
    let dry = londiste("by_triggers", &["add-table", "u", "--dry-run"]);
    assert!(
        dry.contains("would add table public.u, captured by triggers"),
        "{dry}"
    );
    londiste("by_triggers", &["add-table", "t", "u"]);
    londiste("by_triggers", &["remove-table", "u"]);
    on("by_triggers", &[], "londiste remove table t");
    assert_eq!(place.json(publications), json!([]));

    // A root that another program made has no publication: it is made.
    let dry = on("by_wal", &["--dry-run"], "londiste add table t");
    assert!(dry.contains("create publication \"skytide_by_wal\""), "{dry}");
    assert_eq!(place.json(publications), json!([]));
    let dry = londiste("by_wal", &["add-table", "u", "--dry-run"]);
    assert!(
        dry.contains("would add table public.u, captured from the WAL"),
        "{dry}"
    );
    on("by_wal", &[], "londiste add table t");
    londiste("by_wal", &["add-table", "u"]);
    assert_eq!(
        place.json(publications),
        json!([{"pubname": "skytide_by_wal"}, {"pubname": "skytide_by_wal_pgq"}])
    );
    assert_eq!(
        place.json(&format!("{published} order by 2")),
        json!([{"pubname": "skytide_by_wal", "tablename": "t"}, {"pubname": "skytide_by_wal", "tablename": "u"}])
    );
}

const NASTY_TABLES: &str = r#"
    create table parents (id int primary key);
    create function "A trigger"() returns trigger language plpgsql as $$ begin return new; end; $$;
    create table "Odd t" (
        id serial,
        no bigint generated by default as identity,
        "the text" text collate "C" not null default 'it''s',
        twice int generated always as (length('x') * 2) stored,
        price numeric(10,2)[] check (price is not null),
        parent int references parents on delete cascade,
        constraint "Key" primary key (id, "the text"),
        unique (parent)
    ) with (fillfactor=70);
    create index "Odd index" on "Odd t" (lower("the text")) where no > 0;
    create trigger "Odd trigger" after insert on "Odd t" for each row execute function "A trigger"();
    alter table "Odd t" replica identity full;
    create role reader;
    grant select, insert on "Odd t" to reader with grant option;
    grant select on "Odd t" to public;
    create table whole (at date, x int unique) partition by range (at);
"#;

#[tokio::test(flavor = "multi_thread")]
async fn a_shown_table_can_be_made_again() {
    let place = Place::new().await;
    place.done(&NASTY_TABLES.replace(", x int unique)", ", x int)"));
    place.done("create table part partition of whole (primary key (at)) for values from ('2024-01-01') to ('2025-01-01')");
    place.done("create sequence counter as int increment by 5 maxvalue 100 cycle");
    for (show, drop) in [
        ("show table \"Odd t\"", "drop table \"Odd t\""),
        ("show table public.part", "drop table part"),
        ("show table whole", "drop table whole"),
        ("show sequence counter", "drop sequence counter"),
    ] {
        let shown = place.done(show);
        place.done(drop);
        place.done(&shown);
        assert_eq!(place.done(show), shown);
    }
    let shown = place.done("show table \"Odd t\"");
    for line in [
        "create sequence public.\"Odd t_id_seq\" as integer",
        "    price numeric(10,2)[],\n",
        "alter table only public.\"Odd t\" replica identity full;",
        "grant insert, select on table public.\"Odd t\" to reader with grant option;",
    ] {
        assert!(shown.contains(line), "{shown}");
    }
    let missing = place.run(&["-c", "show table nothing"], "");
    assert_eq!(
        (missing.code, missing.err.as_str()),
        (Some(1), "ERROR:  table \"nothing\" not found\n")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_goes_wrong_is_pointed_at() {
    let place = Place::new().await;
    // Nothing is done unless all is understood.
    let refused = place.run(&["-c", "create queue a;\ncreate queue b onn c;"], "");
    assert_eq!(refused.code, Some(2));
    assert_eq!(
        refused.err,
        "ERROR:  unexpected \"onn\", expected \";\"\nDETAIL:  line 2, column 16:\n\tcreate queue b onn c;\n\
         \t               ^^^\nHINT:  show help; lists the commands.\n"
    );
    assert_eq!(place.json("show queue"), json!([]));
    let open = place.run(&["-c", "select 'a"], "");
    assert_eq!(open.code, Some(2));
    assert!(
        open.err
            .starts_with("ERROR:  string is not ended\nDETAIL:  line 1, column 8:"),
        "{}",
        open.err
    );

    let failed = place.run(&["-c", "create queue a; drop queue nothing; create queue c"], "");
    assert_eq!(failed.code, Some(1));
    assert_eq!(failed.out, "CREATE\n");
    assert!(
        failed.err.starts_with("ERROR:  No such event queue"),
        "{}",
        failed.err
    );
    assert_eq!(place.json("show queue")[0]["queue_name"], "a");

    let wrong_sql = place.run(&["-c", "select 1,\n  nowhere from pg_class"], "");
    assert_eq!(wrong_sql.code, Some(1));
    assert_eq!(
        wrong_sql.err,
        "ERROR:  column \"nowhere\" does not exist\nDETAIL:  line 2, column 3:\n\t  nowhere from pg_class\n\t  ^^^^^^^\n"
    );
    let slip = place.run(&["-c", "show quue"], "");
    assert!(
        slip.err.ends_with("HINT:  Did you mean \"show queue\"?\n"),
        "{}",
        slip.err
    );
    let no_queue = place.run(&["-c", "register consumer c"], "");
    assert_eq!(
        (no_queue.code, no_queue.err.lines().next()),
        (Some(2), Some("ERROR:  which queue?"))
    );
    let copy = place.run(&["-c", "copy pg_class to stdout"], "");
    assert_eq!(copy.code, Some(1));
    let missing = place.run(&["-c", "connect queue=nothing"], "");
    assert_eq!(
        (missing.code, missing.err.as_str()),
        (Some(1), "ERROR:  queue \"nothing\" not found\n")
    );
    // All or nothing, also for several calls.
    let halfway = place.run(&["-c", "alter queue a set max_count = 9, max_lag = 'soon'"], "");
    assert_eq!(halfway.code, Some(1));
    assert_eq!(place.json("show queue a")[0]["max_count"], 500);
    // Inside the user's own transaction that means a savepoint.
    place.run(
        &[],
        "begin;\ncreate queue kept;\nalter queue kept set max_count = 9;\ncommit;\n",
    );
    assert_eq!(place.json("show queue kept")[0]["max_count"], 9);

    let nobody = Command::new(PROGRAM)
        .args(["qadmin", "host=/nonexistent dbname=x", "-c", "show version"])
        .output()
        .unwrap();
    assert_eq!(nobody.status.code(), Some(1));
    let both = place.run(&["-c", "exit", "-f", "x"], "");
    assert_eq!(both.code, Some(1), "under the old name: {}", both.err);
}

#[tokio::test(flavor = "multi_thread")]
async fn values_in_json_keep_their_digits() {
    let place = Place::new().await;
    let values = "select 12345678901234567890.12345678901 as n, jsonb '[1, 2.50]' as j, 'NaN'::numeric as x";
    let said = place.run(&["--json", "-c", values], "");
    assert_eq!(said.code, Some(0), "{}", said.err);
    for text in [
        "\"n\": 12345678901234567890.12345678901,",
        "\"j\": [1, 2.50],",
        "\"x\": \"NaN\"",
    ] {
        assert!(said.out.contains(text), "{text}: {}", said.out);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_come_from_pipes_and_files_too() {
    let place = Place::new().await;
    let piped = place.run(
        &[],
        "create queue q;\nregister consumer\n  c on q; select 1 as one\n;exit;\ncreate queue r;\n",
    );
    assert_eq!(
        (piped.code, piped.out.as_str()),
        (Some(0), "CREATE\nREGISTER\none\n---\n1\n(1 row)\n\n"),
        "{}",
        piped.err
    );
    let file = place.home.path().join("commands");
    std::fs::write(&file, "-- what there is\nshow consumer;\n\ninstall pgq").unwrap();
    let filed = place.run(&["--json", "-f", file.to_str().unwrap()], "");
    assert_eq!(filed.code, Some(0), "{}", filed.err);
    let answers: Vec<Value> = serde_json::Deserializer::from_str(&filed.out)
        .into_iter()
        .collect::<Result<_, _>>()
        .unwrap();
    assert_eq!(answers.len(), 2);
    assert_eq!(answers[0][0]["consumer_name"], "c");
    assert_eq!(answers[1]["tag"], "INSTALL");
    // The order of columns and the kinds of values stay.
    let typed = place.run(
        &[
            "--json",
            "-c",
            "select 1 as z, null as a, true as m, '{\"k\": [1]}'::jsonb as j",
        ],
        "",
    );
    let line = typed.out.split_whitespace().collect::<String>();
    assert_eq!(line, r#"[{"z":1,"a":null,"m":true,"j":{"k":[1]}}]"#);
    let wrong = place.run(&[], "create queue s;\nunregister;\ncreate queue t;\n");
    assert_eq!((wrong.code, wrong.out.as_str()), (Some(2), "CREATE\n"));
    // SQL reaches the server as it was typed.
    let typed = place.done("select 'two  spaces; and' || $$ 'more' $$ as text");
    assert!(typed.contains("\ntwo  spaces; and 'more'\n(1 row)\n"), "{typed}");
    assert_eq!(
        place.done("create table t (x int); insert into t values (1), (2)"),
        "CREATE TABLE\nINSERT 2\n"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dry_run_prints_sql_and_changes_nothing() {
    let place = Place::new().await;
    place.done("create queue a; create queue b; register consumer c on a");
    let dry = place.run(
        &[
            "--dry-run",
            "-Q",
            "a",
            "-c",
            "create queue \"it's\"; alter queue * set paused = 1; \
           register consumer d copy c; unregister consumer *; show queue; vacuum; install pgq",
        ],
        "",
    );
    assert_eq!(dry.code, Some(0), "{}", dry.err);
    let lines: Vec<&str> = dry.out.lines().collect();
    assert_eq!(
        &lines[..9],
        [
            "select pgq.create_queue('it''s');",
            "begin;",
            "select pgq.set_queue_config('a', 'ticker_paused', '1');",
            "select pgq.set_queue_config('b', 'ticker_paused', '1');",
            "commit;",
            "select pgq.register_consumer_at('a', 'd', 1);",
            "begin;",
            "select pgq.unregister_consumer('a', 'c');",
            "commit;",
        ]
    );
    assert!(lines[9].starts_with("select queue_name, "), "{}", dry.out);
    assert!(dry.out.contains("\nvacuum;\n"));
    assert!(dry.out.contains("would keep pgq "));
    assert_eq!(place.json("show queue").as_array().unwrap().len(), 2);
    assert_eq!(place.json("show queue a")[0]["paused"], false);
    assert_eq!(place.json("show consumer").as_array().unwrap().len(), 1);
    let both = place.run(&["--dry-run", "-c", "register consumer d on a at 7 copy c"], "");
    assert_eq!(
        both.out, "select pgq.register_consumer_at('a', 'd', 1);\n",
        "{}",
        both.err
    );
    let commented = place.run(&["-c", "-- a comment\nselect 'done' as word"], "");
    assert!(commented.out.contains("done"), "{}", commented.err);
    let echoed = place.run(&["-e", "-c", "create queue d"], "");
    assert_eq!(
        (echoed.out.as_str(), echoed.err.as_str()),
        ("CREATE\n", "select pgq.create_queue('d');\n")
    );
}
