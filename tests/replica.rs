//! A provider, a subscriber, a ticker and a worker, each a process that can be killed, and a load.

use std::fs::OpenOptions;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use skytide_fixtures::server::{Options, Server};
use skytide_fixtures::wait;
use skytide_fixtures::workload::{self, Load, LoadOptions, compare_tables};
use skytide_sql::TableName;
use tokio_postgres::Client;

/// The program under test; `SKYTIDE_PROGRAM` names another build of it.
fn program() -> String {
    std::env::var("SKYTIDE_PROGRAM").unwrap_or_else(|_| env!("CARGO_BIN_EXE_skytide").to_owned())
}

/// A loaded machine can take long.
pub const PATIENCE: Duration = Duration::from_secs(120);
pub const DATABASE: &str = "app";
pub const QUEUE: &str = "q";

/// A `skytide` process, killed when dropped.
pub struct Program(Child);

impl Program {
    pub fn start(arguments: &[&str], env: &[(&str, &str)], log: &Path) -> Program {
        let log = OpenOptions::new().create(true).append(true).open(log).unwrap();
        let child = Command::new(program())
            .args(arguments)
            .envs(env.iter().copied())
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        Program(child)
    }

    #[cfg(feature = "failpoints")]
    pub fn id(&self) -> u32 {
        self.0.id()
    }

    pub fn signal(&self, signal: Signal) {
        let _ = kill_process(Pid::from_child(&self.0), signal);
    }

    /// SIGKILL: no destructor, no flush, no goodbye.
    pub fn kill(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }

    pub fn exited(&mut self) -> Option<ExitStatus> {
        self.0.try_wait().unwrap()
    }

    /// Whether the process stands at its stop point. A program that ended will never get there.
    #[cfg(feature = "failpoints")]
    pub fn is_stopped(&mut self) -> bool {
        assert_eq!(self.exited(), None, "the program ended before its stop point");
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.0.id())).unwrap_or_default();
        // The state is the first word after the program's name, which is in parentheses.
        stat.rsplit_once(") ")
            .is_some_and(|(_, rest)| rest.starts_with('T'))
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        self.kill();
    }
}

/// What a replica is made of. The workload's tables, unless told otherwise.
pub struct Plan {
    pub provider: Options,
    pub subscriber: Options,
    pub provider_schema: Vec<String>,
    pub subscriber_schema: Vec<String>,
    /// More lines of the leaf's configuration.
    pub settings: String,
}

impl Default for Plan {
    fn default() -> Plan {
        let options = Options::default()
            .with("wal_level", "logical")
            .with("max_prepared_transactions", 20)
            // Everything beyond this is streamed before its commit.
            .with("logical_decoding_work_mem", "64kB");
        Plan {
            provider: options.clone(),
            subscriber: options,
            provider_schema: workload::schema_sql(),
            subscriber_schema: workload::subscriber_schema_sql(),
            settings: String::new(),
        }
    }
}

/// One provider and one subscriber. All ends when it is dropped.
pub struct Replica {
    // Dropped in this order: processes before the servers they talk to.
    worker: Option<Program>,
    ticker: Option<Program>,
    pub provider: Server,
    pub subscriber: Server,
    dir: tempfile::TempDir,
}

impl Replica {
    /// Both nodes are there and the ticker runs; no worker yet, and no tables.
    pub async fn new() -> Replica {
        Replica::from_plan(Plan::default()).await
    }

    pub async fn from_plan(plan: Plan) -> Replica {
        let (provider, subscriber) = tokio::join!(
            prepare(plan.provider.clone(), &plan.provider_schema),
            prepare(plan.subscriber.clone(), &plan.subscriber_schema)
        );
        Replica::on(provider, subscriber, &plan.settings, None).await
    }

    /// `through`: how the worker reaches the provider and its own database, if not directly.
    pub async fn on(
        provider: Server,
        subscriber: Server,
        settings: &str,
        through: Option<(String, String)>,
    ) -> Replica {
        let dir = tempfile::Builder::new()
            .prefix("skytide-replica.")
            .tempdir()
            .unwrap();
        let (root, leaf) = (provider.dsn(DATABASE), subscriber.dsn(DATABASE));
        let (location, own) = through.unwrap_or((root.clone(), leaf));
        let common = "[londiste]\nqueue_name = q\n";
        let write = |name: &str, text: String| std::fs::write(dir.path().join(name), text).unwrap();
        write(
            "root.ini",
            format!("{common}job_name = root_worker\ndb = {root}\n"),
        );
        write(
            "leaf.ini",
            format!(
                "{common}job_name = leaf_worker\ndb = {own}\nspool_dir = {}\nloop_delay = 100ms\n\
                 status_interval = 1s\n{settings}\n",
                dir.path().join("spool").display()
            ),
        );
        let mut replica = Replica {
            worker: None,
            ticker: None,
            provider,
            subscriber,
            dir,
        };
        replica.root(&["create-root", "root", &location]).await;
        replica
            .leaf(&["create-leaf", "leaf", &own, &format!("--provider={location}")])
            .await;
        replica.start_ticker();
        replica
    }

    pub fn spool_dir(&self) -> PathBuf {
        self.path("spool")
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub async fn root(&self, arguments: &[&str]) -> String {
        self.londiste("root.ini", arguments).await.unwrap()
    }

    pub async fn leaf(&self, arguments: &[&str]) -> String {
        self.londiste("leaf.ini", arguments).await.unwrap()
    }

    /// What the command printed, or an error with what it complained about.
    pub async fn londiste(&self, conf: &str, arguments: &[&str]) -> anyhow::Result<String> {
        let out = tokio::process::Command::new(program())
            .arg("londiste")
            .arg(self.path(conf))
            .args(arguments)
            .stdin(Stdio::null())
            .output()
            .await?;
        anyhow::ensure!(
            out.status.success(),
            "londiste {conf} {}: {}\n{}{}",
            arguments.join(" "),
            out.status,
            String::from_utf8_lossy(&out.stdout),
            String::from_utf8_lossy(&out.stderr)
        );
        Ok(String::from_utf8(out.stdout)?)
    }

    /// What the doctor finds at the leaf, as JSON.
    pub async fn doctor(&self) -> String {
        let out = tokio::process::Command::new(program())
            .args(["doctor", "--json"])
            .arg(self.path("leaf.ini"))
            .stdin(Stdio::null())
            .output()
            .await
            .unwrap();
        String::from_utf8(out.stdout).unwrap()
    }

    pub fn start_ticker(&mut self) {
        let dsn = self.provider.dsn(DATABASE);
        let arguments = ["ticker", "--period", "20ms", "--db", &dsn];
        self.ticker = Some(Program::start(&arguments, &[], &self.path("ticker.log")));
    }

    pub fn kill_ticker(&mut self) {
        self.ticker.take().unwrap().kill();
    }

    pub fn start_worker(&mut self) {
        self.start_worker_with(&[]);
    }

    pub fn start_worker_with(&mut self, env: &[(&str, &str)]) {
        assert!(self.worker.is_none(), "one worker is enough");
        let conf = self.path("leaf.ini");
        let arguments = ["londiste", conf.to_str().unwrap(), "worker"];
        self.worker = Some(Program::start(&arguments, env, &self.path("worker.log")));
    }

    /// A worker that stops the so-manieth time it reaches a failpoint.
    #[cfg(feature = "failpoints")]
    pub fn start_worker_to(&mut self, failpoint: &str, hits: u32) {
        self.start_worker_with(&[("SKYTIDE_STOP_AT", &format!("{failpoint}={hits}"))]);
    }

    pub fn worker(&mut self) -> &mut Program {
        self.worker.as_mut().unwrap()
    }

    pub fn kill_worker(&mut self) {
        self.worker.take().unwrap().kill();
    }

    /// SIGTERM, and the worker ends by itself without an error.
    pub async fn stop_worker(&mut self) {
        let mut worker = self.worker.take().unwrap();
        worker.signal(Signal::TERM);
        let status = wait::until("the worker's end", PATIENCE, async || Ok(worker.exited()))
            .await
            .unwrap();
        // One that has only just started has not armed its signals yet.
        let unarmed = status.signal() == Some(Signal::TERM.as_raw());
        assert!(status.success() || unarmed, "{status}\n{}", self.worker_log());
    }

    pub async fn restart_worker_politely(&mut self) {
        self.stop_worker().await;
        self.start_worker();
    }

    /// The end of what the worker said.
    pub fn worker_log(&self) -> String {
        let text = std::fs::read_to_string(self.path("worker.log")).unwrap_or_default();
        let skip = text.lines().count().saturating_sub(60);
        text.lines().skip(skip).collect::<Vec<_>>().join("\n")
    }

    pub async fn at_provider(&self) -> Client {
        self.provider.connect(DATABASE).await.unwrap()
    }

    pub async fn at_subscriber(&self) -> Client {
        self.subscriber.connect(DATABASE).await.unwrap()
    }

    pub fn load(&self, options: LoadOptions) -> Load {
        Load::start(&self.provider.dsn(DATABASE), options).unwrap()
    }

    /// Adds tables on both sides; none named: all.
    pub async fn add_tables(&self, tables: &[&str]) {
        let mut arguments = vec!["add-table"];
        match tables {
            [] => arguments.push("--all"),
            some => arguments.extend(some),
        }
        self.root(&arguments).await;
        self.leaf(&arguments).await;
    }

    /// Tables that are not in sync, with their states.
    async fn unsynced(&self) -> anyhow::Result<Vec<String>> {
        let client = self.subscriber.connect(DATABASE).await?;
        let rows = client
            .query(
                "select table_name || ' ' || coalesce(merge_state, 'missing') from londiste.table_info \
                 where local and merge_state is distinct from 'ok'",
                &[],
            )
            .await?;
        Ok(rows.iter().map(|r| r.get(0)).collect())
    }

    /// Waits until every table is in sync.
    pub async fn wait_sync(&self) {
        let synced = wait::until("all tables in sync", PATIENCE, async || {
            let left = self.unsynced().await?;
            anyhow::ensure!(left.is_empty(), "{left:?}");
            Ok(Some(()))
        });
        if let Err(error) = synced.await {
            panic!("{error:#}\n{}", self.worker_log());
        }
    }

    /// Waits until a table is in that state (`missing`: none).
    pub async fn wait_state(&self, table: &str, state: &str) {
        let client = self.at_subscriber().await;
        let what = format!("{table} {state}");
        let reached = wait::until_eq(&what, state.to_owned(), PATIENCE, async || {
            let row = client
                .query_one(
                    "select coalesce(split_part(merge_state, ':', 1), 'missing') from londiste.table_info \
                     where table_name = $1",
                    &[&table],
                )
                .await?;
            Ok(row.get::<_, String>(0))
        });
        if let Err(error) = reached.await {
            panic!("{error:#}\n{}", self.worker_log());
        }
    }

    /// The subscriber's completed tick.
    pub async fn position(&self) -> anyhow::Result<i64> {
        let client = self.subscriber.connect(DATABASE).await?;
        let sql = "select last_tick_id from pgq_node.local_state s join pgq_node.node_info n \
                   on n.queue_name = s.queue_name and n.worker_name = s.consumer_name";
        Ok(client.query_one(sql, &[]).await?.get(0))
    }

    /// Waits until the subscriber has everything that was committed before the call.
    pub async fn wait_reached(&self) {
        let tick: i64 = self
            .at_provider()
            .await
            .query_one("select pgq.tick_now($1)", &[&QUEUE])
            .await
            .unwrap()
            .get(0);
        let reached = wait::until("the newest tick on the subscriber", PATIENCE, async || {
            let at = self.position().await?;
            anyhow::ensure!(at >= tick, "tick {at}, wanted {tick}");
            Ok(Some(()))
        });
        if let Err(error) = reached.await {
            panic!("{error:#}\n{}", self.worker_log());
        }
    }

    /// With the load stopped: everything arrived, and both sides are equal row by row.
    pub async fn assert_equal(&self, tables: &[TableName]) {
        self.wait_sync().await;
        self.wait_reached().await;
        let differences = compare_tables(&self.at_provider().await, &self.at_subscriber().await, tables)
            .await
            .unwrap();
        if !differences.is_empty() {
            let told: Vec<_> = differences.iter().map(ToString::to_string).collect();
            panic!("the sides differ:\n{}\n{}", told.join("\n"), self.worker_log());
        }
    }
}

/// A server with the modules and the schema.
pub async fn prepare(options: Options, schema: &[String]) -> Server {
    let server = Server::start(options).await.unwrap();
    server.create_database(DATABASE).await.unwrap();
    let mut client = server.connect(DATABASE).await.unwrap();
    for statement in schema {
        client.batch_execute(statement).await.unwrap();
    }
    skytide_sql::install::install(&mut client).await.unwrap();
    server
}
