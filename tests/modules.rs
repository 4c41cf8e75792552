//! The SQL modules: psql sessions with recorded output, and the installer.
//!
//! `SKYTIDE_RECORD=1` writes the outputs anew; read the difference before it is committed.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use skytide_fixtures::server::{Options, Server};
use skytide_sql::install::{self, Action, InstallError};

use crate::packaged;

/// A server with the modules in database `template`, ready to be copied.
pub async fn server_with_modules() -> Server {
    let server = Server::start(Options::default()).await.unwrap();
    server.create_database("template").await.unwrap();
    let mut client = server.connect("template").await.unwrap();
    install::install(&mut client).await.unwrap();
    server
}

/// A fresh database with the modules.
pub async fn database(server: &Server, name: &str) {
    let admin = server.connect("postgres").await.unwrap();
    skytide_fixtures::wait::until(
        "template is free",
        std::time::Duration::from_secs(30),
        async || {
            admin
                .batch_execute(&format!("create database {name} template template"))
                .await?;
            Ok(Some(()))
        },
    )
    .await
    .unwrap();
}

pub fn sessions() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../sql");
    let mut found = Vec::new();
    for module in install::Module::ALL.map(install::Module::schema) {
        for entry in fs::read_dir(root.join(module).join("tests")).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|e| e == "sql") {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

#[tokio::test]
async fn sessions_print_what_was_recorded() {
    let server = server_with_modules().await;
    let record = std::env::var_os("SKYTIDE_RECORD").is_some();
    let mut different = Vec::new();
    for (nr, path) in sessions().iter().enumerate() {
        let name = format!("session_{nr}");
        database(&server, &name).await;
        let printed = run(&server, &name, path);
        let expected_path = path.with_extension("out");
        if record {
            fs::write(&expected_path, &printed).unwrap();
            continue;
        }
        let expected = fs::read_to_string(&expected_path).unwrap_or_default();
        if printed != expected {
            let line = printed
                .lines()
                .zip(expected.lines())
                .position(|(p, e)| p != e)
                .unwrap_or(printed.lines().count().min(expected.lines().count()));
            different.push(format!(
                "{}, line {}:\n  recorded {:?}\n  printed  {:?}",
                path.display(),
                line + 1,
                expected.lines().nth(line),
                printed.lines().nth(line)
            ));
        }
    }
    assert!(different.is_empty(), "{}", different.join("\n"));
}

/// As `psql -a < file`, errors among the output.
pub fn run(server: &Server, database: &str, path: &Path) -> String {
    let dir = tempfile::tempdir().unwrap();
    let out_path = dir.path().join("out");
    let out = File::options().create(true).append(true).open(&out_path).unwrap();
    server
        .command("psql")
        .args(["-X", "-a", "-q", "-v", "VERBOSITY=terse", "-d", database])
        .env("PGTZ", "UTC")
        .env("PGOPTIONS", "-c client_min_messages=warning")
        .stdin(File::open(path).unwrap())
        .stdout(out.try_clone().unwrap())
        .stderr(out)
        .status()
        .unwrap();
    fs::read_to_string(out_path).unwrap()
}

/// The originals are an extension for PostgreSQL 15; where it is not installed, there is nothing to compare with.
#[tokio::test]
async fn capture_triggers_print_what_the_original_functions_print() {
    let server = Server::start(Options::default()).await.unwrap();
    let admin = server.connect("postgres").await.unwrap();
    let row = admin
        .query_one(
            "select exists (select from pg_available_extension_versions where name = 'pgq' and version = '3.5')",
            &[],
        )
        .await
        .unwrap();
    if !row.get::<_, bool>(0) {
        packaged::skipped("extension pgq 3.5 of this server (Debian: postgresql-15-pgq3)");
        return;
    }
    for session in ["triggers_payload", "triggers_options"] {
        server.create_database(session).await.unwrap();
        let client = server.connect(session).await.unwrap();
        client.batch_execute("create extension pgq").await.unwrap();
        drop(client);
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../sql/pgq/tests/{session}.sql"));
        let printed = run(&server, session, &path);
        let recorded = fs::read_to_string(path.with_extension("out")).unwrap();
        for (line, (original, ours)) in printed.lines().zip(recorded.lines()).enumerate() {
            assert_eq!(original, ours, "{session}, line {}", line + 1);
        }
        assert_eq!(printed.lines().count(), recorded.lines().count(), "{session}");
    }
}

async fn function_oids(client: &tokio_postgres::Client) -> String {
    let sql = "select string_agg(p.oid || ':' || p.xmin::text, ' ' order by p.oid) from pg_proc p \
               join pg_namespace n on n.oid = p.pronamespace \
               where n.nspname in ('pgq', 'pgq_coop', 'pgq_ext', 'pgq_node', 'londiste')";
    client.query_one(sql, &[]).await.unwrap().get(0)
}

fn actions(plan: &install::Plan) -> Vec<Action> {
    plan.modules.iter().map(|m| m.action).collect()
}

/// The first module changed and the others were kept.
fn only_pgq(action: Action) -> Vec<Action> {
    let mut expected = vec![Action::Keep; install::Module::ALL.len()];
    expected[0] = action;
    expected
}

#[tokio::test]
async fn a_second_install_changes_nothing_and_damage_is_repaired() {
    let server = server_with_modules().await;
    let mut client = server.connect("template").await.unwrap();
    let before = function_oids(&client).await;
    assert!(install::install(&mut client).await.unwrap().changes_nothing());
    assert_eq!(function_oids(&client).await, before);

    for damage in [
        "create or replace function pgq.version() returns text as 'select ''0''::text' language sql",
        "grant execute on function pgq.ticker() to public",
        "drop function pgq.want_tick(text)",
        "alter function pgq.ticker() reset search_path",
    ] {
        client.batch_execute(damage).await.unwrap();
        let done = install::install(&mut client).await.unwrap();
        assert_eq!(actions(&done), only_pgq(Action::Repair), "{damage}");
        assert!(
            install::plan(&client).await.unwrap().changes_nothing(),
            "{damage}"
        );
    }
}

/// Prevents: settings of a role or a database make `install` fail.
#[tokio::test]
async fn settings_of_the_role_do_not_matter_to_an_install() {
    let server = Server::start(Options::default()).await.unwrap();
    for (name, setting) in [
        ("quoted", "quote_all_identifiers = on"),
        ("placed", "default_tablespace = pg_default"),
        ("unwritable", "default_transaction_read_only = on"),
    ] {
        server.create_database(name).await.unwrap();
        let admin = server.connect("postgres").await.unwrap();
        admin
            .batch_execute(&format!("alter database {name} set {setting}"))
            .await
            .unwrap();
        let mut client = server.connect(name).await.unwrap();
        install::install(&mut client).await.unwrap();
        assert!(install::plan(&client).await.unwrap().changes_nothing(), "{name}");
    }
}

/// Prevents: a database made from a dump of the schema looks well, gives no batch and cannot be repaired.
#[tokio::test]
async fn a_dump_of_the_schema_alone_works_and_is_repaired() {
    let server = server_with_modules().await;
    server.create_database("copy").await.unwrap();
    let dump = server
        .command("pg_dump")
        .args(["-s", "-d", "template"])
        .output()
        .unwrap();
    assert!(dump.status.success());
    let mut client = server.connect("copy").await.unwrap();
    let sql: String = String::from_utf8(dump.stdout)
        .unwrap()
        .lines()
        .filter(|line| !line.starts_with('\\'))
        .flat_map(|line| [line, "\n"])
        .collect();
    client.batch_execute(&sql).await.unwrap();
    client.batch_execute("reset all").await.unwrap();
    let registered = "select pgq.create_queue('q') + pgq.register_consumer('q', 'c')";
    let row = client.query_one(registered, &[]).await.unwrap();
    assert_eq!(row.get::<_, i32>(0), 2);
    client
        .batch_execute("select pgq.next_batch('q', 'c')")
        .await
        .unwrap();

    let done = install::install(&mut client).await.unwrap();
    assert_eq!(actions(&done), [Action::Repair; install::Module::ALL.len()]);
    assert!(install::plan(&client).await.unwrap().changes_nothing());
    let rows = "select count(*) from pgq.position_switch";
    assert_eq!(client.query_one(rows, &[]).await.unwrap().get::<_, i64>(0), 1);
}

/// Prevents: a change of pgq.subscription in a session of role replica is called done and does nothing.
#[tokio::test]
async fn a_subscription_is_changed_or_the_change_is_refused() {
    let server = server_with_modules().await;
    let client = server.connect("template").await.unwrap();
    client
        .batch_execute(
            "select pgq.create_queue('q'); select pgq.register_consumer('q', 'c'); \
             insert into pgq.consumer (co_name) values ('d'); set session_replication_role = replica",
        )
        .await
        .unwrap();
    let changes = [
        "insert into pgq.subscription (sub_queue, sub_consumer, sub_last_tick) values (1, 2, 1)",
        "update pgq.subscription set sub_last_tick = 1",
        "delete from pgq.subscription",
    ];
    for change in changes {
        let refused = client.batch_execute(change).await.unwrap_err();
        let text = refused.as_db_error().unwrap().message();
        assert!(
            text.contains("cannot be changed while session_replication_role is replica"),
            "{text}"
        );
    }
    // the functions work in any role
    client
        .batch_execute("select pgq.register_consumer('q', 'e'); select pgq.unregister_consumer('q', 'e')")
        .await
        .unwrap();
    client
        .batch_execute("set session_replication_role = origin")
        .await
        .unwrap();
    for change in changes {
        assert!(client.execute(change, &[]).await.unwrap() > 0, "{change}");
    }
}

#[tokio::test]
async fn result_columns_that_changed_are_replaced() {
    let server = server_with_modules().await;
    let mut client = server.connect("template").await.unwrap();
    client
        .batch_execute(
            "drop function pgq.get_batch_info(int8); \
             create function pgq.get_batch_info(x_batch_id int8, out queue_name text) as 'begin end' language plpgsql; \
             update pgq.skytide_module set checksum = 'of an older one', version = '0.0.1' where module = 'pgq'",
        )
        .await
        .unwrap();
    let done = install::install(&mut client).await.unwrap();
    assert_eq!(actions(&done), only_pgq(Action::Upgrade));
    assert_eq!(done.modules[0].installed.as_deref(), Some("0.0.1"));
    client
        .query_one("select seq_end from pgq.get_batch_info(1)", &[])
        .await
        .unwrap();
    let row = client
        .query_one(
            "select has_function_privilege('pgq_reader', 'pgq.get_batch_info(int8)', 'execute')",
            &[],
        )
        .await
        .unwrap();
    assert!(row.get::<_, bool>(0), "the grant is back");
}

#[tokio::test]
async fn foreign_schemas_are_refused_untouched() {
    let server = Server::start(Options::default()).await.unwrap();
    server.create_database("other").await.unwrap();
    let mut client = server.connect("other").await.unwrap();
    client.batch_execute("create schema londiste").await.unwrap();
    let refused = install::install(&mut client).await.unwrap_err();
    assert!(
        matches!(
            refused,
            InstallError::ForeignSchema {
                schema: install::Module::Londiste,
                ..
            }
        ),
        "{refused}"
    );
    let row = client
        .query_one("select to_regnamespace('pgq') is null", &[])
        .await
        .unwrap();
    assert!(row.get::<_, bool>(0), "nothing of pgq was made");
}

#[tokio::test]
async fn a_database_owner_without_superuser_can_install() {
    let server = Server::start(Options::default()).await.unwrap();
    let admin = server.connect("postgres").await.unwrap();
    admin
        .batch_execute("create role maker login createrole; create role plain login")
        .await
        .unwrap();
    for owner in ["maker", "plain"] {
        // the second finds the roles and needs no right to make them
        admin
            .batch_execute(&format!("create database of_{owner} owner {owner}"))
            .await
            .unwrap();
        let mut client = server.connect(&format!("of_{owner}")).await.unwrap();
        client
            .batch_execute(&format!("set session authorization {owner}"))
            .await
            .unwrap();
        install::install(&mut client).await.unwrap();
        client
            .query_one("select pgq.create_queue('q')", &[])
            .await
            .unwrap();
    }
}

#[tokio::test]
async fn a_database_of_another_encoding_has_the_modules_and_its_own_bytes_in_payloads() {
    let server = Server::start(Options::default()).await.unwrap();
    let admin = server.connect("postgres").await.unwrap();
    for (encoding, text, encoded) in [
        ("LATIN1", "gr\u{fc}\u{df}e \\", "gr%fc%dfe+%5c"),
        ("KOI8R", "\u{43f}\u{438}\u{432}\u{43e}", "%d0%c9%d7%cf"),
    ] {
        let name = format!("of_{}", encoding.to_lowercase());
        admin
            .batch_execute(&format!(
                "create database {name} template template0 encoding '{encoding}' lc_collate 'C' lc_ctype 'C'"
            ))
            .await
            .unwrap();
        let mut client = server.connect(&name).await.unwrap();
        install::install(&mut client).await.unwrap();
        client
            .batch_execute(&format!(
                "create table t (id int primary key, a text); \
                 create trigger j after insert on t for each row execute function pgq.jsontriga('q'); \
                 create trigger s after insert on t for each row execute function pgq.sqltriga('q', 'ev_extra2=a'); \
                 create trigger u after insert on t for each row execute function pgq.logutriga('q'); \
                 create trigger v after insert on t for each row execute function pgq.logutriga('q'); \
                 select pgq.create_queue('q'), pgq.compile_trigger('t', 'v'); \
                 insert into t values (1, {})",
                skytide_sql::ident::quote_literal(text)
            ))
            .await
            .unwrap();
        let row = client
            .query_one(
                "select array_agg(ev_data order by ev_id), max(ev_extra2) from pgq.event_template",
                &[],
            )
            .await
            .unwrap();
        let url = format!("id=1&a={encoded}");
        let data: Vec<String> = row.get(0);
        assert_eq!(
            data[0],
            format!(r#"{{"id":1,"a":"{}"}}"#, text.replace('\\', r"\\"))
        );
        assert_eq!(data[2..], [url.clone(), url]);
        assert_eq!(row.get::<_, String>(1), text);
    }
}
