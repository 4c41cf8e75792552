//! A server with a queue, and the program on it.

use std::io::Write;
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use skytide::queue::{Settings, Until};
use skytide_fixtures::server::Server;
use skytide_fixtures::wait;
use skytide_sql::conn::ConnectString;
use skytide_sql::{ConsumerName, QueueName};
use tokio_postgres::Client;

use crate::modules::{database, server_with_modules};
use crate::replica::Program;

pub const PATIENCE: Duration = Duration::from_secs(60);
const PROGRAM: &str = env!("CARGO_BIN_EXE_skytide");

/// A server with queue `q` and consumer `c` in database `source`, and a database `target`.
pub struct Stage {
    pub server: Server,
    pub source: Client,
    pub target: Client,
    pub dir: tempfile::TempDir,
    /// The last number that was put into an event.
    pub numbers: AtomicI64,
}

impl Stage {
    pub async fn new() -> Stage {
        let server = server_with_modules().await;
        database(&server, "source").await;
        database(&server, "target").await;
        let source = server.connect("source").await.unwrap();
        let target = server.connect("target").await.unwrap();
        source
            .batch_execute(
                "select pgq.create_queue('q'); select pgq.tick_now('q'); select pgq.register_consumer('q', 'c')",
            )
            .await
            .unwrap();
        Stage {
            server,
            source,
            target,
            dir: tempfile::tempdir().unwrap(),
            numbers: AtomicI64::new(0),
        }
    }

    pub fn target_dsn(&self) -> String {
        self.server.dsn("target")
    }

    /// `count` numbered events in one transaction, and a tick behind them.
    pub async fn fill(&self, count: i32) {
        self.insert(count).await;
        self.tick().await;
    }

    pub async fn insert(&self, count: i32) {
        let last = self.numbers.fetch_add(i64::from(count), Ordering::Relaxed);
        self.source
            .execute(
                "select pgq.insert_events('q', 'n', array(select i::text from generate_series($1::int8, $2::int8) i))",
                &[&(last + 1), &(last + i64::from(count))],
            )
            .await
            .unwrap();
    }

    pub async fn tick(&self) {
        self.source
            .batch_execute("select pgq.tick_now('q')")
            .await
            .unwrap();
    }

    /// Waits until consumer `c` is through with all batches.
    pub async fn all_finished(&self) {
        wait::until("the last batch is finished", PATIENCE, async || {
            let sql = "select count(*) from pgq.get_consumer_info('q', 'c') \
                       where current_batch is null and pending_events = 0";
            Ok((one::<i64>(&self.source, sql).await == 1).then_some(()))
        })
        .await
        .unwrap();
    }

    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(PROGRAM);
        command
            .args(["queue", "--db", &self.server.dsn("source")])
            .args(arguments);
        command
    }

    pub fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).stdin(Stdio::null()).output().unwrap()
    }

    /// What a command that succeeds prints.
    pub fn ok(&self, arguments: &[&str]) -> String {
        let out = self.run(arguments);
        assert!(
            out.status.success(),
            "{arguments:?}: {}\n{}",
            out.status,
            String::from_utf8_lossy(&out.stderr)
        );
        String::from_utf8(out.stdout).unwrap()
    }

    /// What a command that fails complains about.
    pub fn refused(&self, code: i32, arguments: &[&str]) -> String {
        let out = self.run(arguments);
        assert_eq!(out.status.code(), Some(code), "{arguments:?}");
        String::from_utf8(out.stderr).unwrap()
    }

    pub fn json(&self, arguments: &[&str]) -> serde_json::Value {
        let mut all = vec!["--json"];
        all.extend(arguments);
        serde_json::from_str(&self.ok(&all)).unwrap()
    }

    pub fn produce(&self, arguments: &[&str], input: &[u8]) -> Output {
        let mut child = self
            .command(&["produce", "q"])
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let input = input.to_owned();
        // Whoever refuses a line stops reading.
        let feed = std::thread::spawn(move || drop(stdin.write_all(&input)));
        let out = child.wait_with_output().unwrap();
        feed.join().unwrap();
        out
    }

    pub fn start(&self, arguments: &[&str], env: &[(&str, &str)]) -> Program {
        let dsn = self.server.dsn("source");
        let mut all = vec!["queue", "--db", &dsn];
        all.extend(arguments);
        Program::start(&all, env, &self.log())
    }

    pub fn log(&self) -> std::path::PathBuf {
        self.dir.path().join("consumer.log")
    }

    /// Runs a consumer until it stops itself at a failpoint.
    #[cfg(feature = "failpoints")]
    pub async fn start_to(&self, failpoint: &str, arguments: &[&str]) -> Program {
        let mut program = self.start(arguments, &[("SKYTIDE_STOP_AT", &format!("{failpoint}=1"))]);
        let stopped = wait::until(failpoint, PATIENCE, async || {
            Ok(program.is_stopped().then_some(()))
        });
        if let Err(error) = stopped.await {
            panic!("{error:#}\n{}", std::fs::read_to_string(self.log()).unwrap());
        }
        program
    }

    pub fn settings(&self) -> Settings {
        Settings {
            until: Until::Idle,
            ..Settings::new(
                ConnectString::parse(&self.server.dsn("source")).unwrap(),
                QueueName::new("q").unwrap(),
                ConsumerName::new("c").unwrap(),
            )
        }
    }
}

pub async fn one<T: for<'a> tokio_postgres::types::FromSql<'a>>(client: &Client, sql: &str) -> T {
    client.query_one(sql, &[]).await.unwrap().get(0)
}

/// The numbers in `public.t` are 1 to `count`, each once, in the order of their ids.
pub async fn assert_once_and_in_order(target: &Client, count: i64) {
    let numbers: Vec<String> = one(
        target,
        "select coalesce(array_agg(ev_data order by ctid), '{}') from public.t",
    )
    .await;
    let wanted: Vec<String> = (1..=count).map(|number| number.to_string()).collect();
    assert_eq!(numbers, wanted);
}
