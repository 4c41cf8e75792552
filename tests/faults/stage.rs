//! A root and a leaf on one server, the program as a user runs it, and what it said.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use skytide_fixtures::server::{Options, Server};
use skytide_fixtures::wait;
use tempfile::TempDir;
use tokio_postgres::Client;

pub const PATIENCE: Duration = Duration::from_secs(30);
const PROGRAM: &str = env!("CARGO_BIN_EXE_skytide");

/// What a command said, and how it left.
#[derive(Debug)]
pub struct Said {
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

impl Said {
    /// Left with `code`, and the error's text has all of `words`.
    #[track_caller]
    pub fn with(self, code: i32, words: &[&str]) -> Said {
        assert_eq!(self.code, Some(code), "{self:?}");
        for word in words {
            assert!(
                self.err.contains(word) || self.out.contains(word),
                "{word:?} is not in\n{}\n{}",
                self.out,
                self.err
            );
        }
        self
    }

    #[track_caller]
    pub fn well(self) -> Said {
        self.with(0, &[])
    }
}

pub fn skytide(arguments: &[&str]) -> Said {
    said(&mut Command::new(PROGRAM), arguments)
}

fn said(command: &mut Command, arguments: &[&str]) -> Said {
    let output = command.args(arguments).output().expect("the program starts");
    Said {
        code: output.status.code(),
        out: String::from_utf8_lossy(&output.stdout).into_owned(),
        err: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// A process of ours that ends with the test.
pub struct Running(Child);

impl Running {
    fn start(arguments: &[&str], log: &Path) -> Running {
        let log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(log)
            .unwrap();
        let child = Command::new(PROGRAM)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        Running(child)
    }

    pub async fn ended(&mut self) -> Option<i32> {
        wait::until("the process to end", PATIENCE, async || Ok(self.0.try_wait()?))
            .await
            .unwrap()
            .code()
    }

    pub async fn stop(mut self) {
        let pid = Pid::from_child(&self.0);
        let _ = kill_process(pid, Signal::TERM);
        self.ended().await;
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub struct Stage {
    pub server: Server,
    pub dir: TempDir,
    /// More lines of leaf.ini.
    pub extra: String,
    /// User of each database, if not the superuser.
    pub users: (String, String),
    ticker: Option<Running>,
}

impl Stage {
    /// Two databases, `root` and `leaf`, each with table `a`.
    pub async fn databases(options: Options) -> Stage {
        Stage::databases_with(options, "").await
    }

    async fn databases_with(options: Options, leaf: &str) -> Stage {
        let server = Server::start(options).await.unwrap();
        let postgres = server.connect("postgres").await.unwrap();
        for (name, how) in [("root", ""), ("leaf", leaf)] {
            let create = format!("create database {name} {how}");
            postgres.batch_execute(&create).await.unwrap();
            let client = server.connect(name).await.unwrap();
            client
                .batch_execute("create table a (id int primary key, v text)")
                .await
                .unwrap();
        }
        let user = server.superuser().to_owned();
        Stage {
            server,
            dir: tempfile::tempdir().unwrap(),
            extra: String::new(),
            users: (user.clone(), user),
            ticker: None,
        }
    }

    pub async fn installed(options: Options) -> Stage {
        Stage::databases(options).await.with_modules()
    }

    fn with_modules(self) -> Stage {
        let stage = self;
        for name in ["root", "leaf"] {
            skytide(&["install", &stage.server.dsn(name)]).well();
        }
        stage
    }

    /// Root and leaf are made, a ticker is at work, table `a` is in the set.
    pub async fn nodes(options: Options) -> Stage {
        Stage::with_leaf(options, "").await
    }

    /// The same, with a leaf that is created by these options.
    pub async fn with_leaf(options: Options, leaf: &str) -> Stage {
        let mut stage = Stage::databases_with(options, leaf).await.with_modules();
        let root = stage.server.dsn("root");
        stage.root(&["create-root", "root", &root]).well();
        stage.root(&["add-table", "a"]).well();
        stage.start_ticker();
        let leaf = stage.server.dsn("leaf");
        stage
            .leaf(&["create-leaf", "leaf", &leaf, "--provider", &root])
            .well();
        stage
    }

    /// Table `a` is in sync; the worker runs.
    pub async fn replicating(options: Options) -> (Stage, Running) {
        let stage = Stage::nodes(options).await;
        let worker = stage.sync_a();
        (stage, worker)
    }

    pub fn sync_a(&self) -> Running {
        let worker = self.worker();
        self.leaf(&["add-table", "a"]).well();
        let said = self.leaf(&["wait-sync", "--timeout", "30"]);
        assert_eq!(said.code, Some(0), "{said:?}\n{}", self.log());
        worker
    }

    pub fn dsn(&self, database: &str) -> String {
        let user = if database == "root" {
            &self.users.0
        } else {
            &self.users.1
        };
        self.server
            .dsn(database)
            .replace(&format!("'{}'", self.server.superuser()), &format!("'{user}'"))
    }

    pub fn conf(&self, name: &str) -> PathBuf {
        let path = self.dir.path().join(format!("{name}.ini"));
        let mut text = format!(
            "[londiste]\njob_name = {name}_worker\ndb = {}\nqueue_name = q\nspool_dir = {}\n",
            self.dsn(name),
            self.spool().display()
        );
        if name == "leaf" {
            text.push_str(&self.extra);
        }
        // Never half written: a worker that starts may be reading it.
        if std::fs::read_to_string(&path).ok().as_deref() != Some(&text) {
            let aside = path.with_extension("new");
            std::fs::write(&aside, text).unwrap();
            std::fs::rename(aside, &path).unwrap();
        }
        path
    }

    pub fn spool(&self) -> PathBuf {
        self.dir.path().join("spool")
    }

    pub fn start_ticker(&mut self) {
        let conf = self.dir.path().join("ticker.ini");
        let dsn = self.dsn("root");
        let base = dsn.split(" dbname=").next().unwrap();
        let text = format!("[pgqd]\nbase_connstr = {base}\ndatabase_list = root\n");
        std::fs::write(&conf, text).unwrap();
        let log = self.dir.path().join("ticker.log");
        self.ticker = Some(Running::start(&["ticker", conf.to_str().unwrap()], &log));
    }

    pub fn root(&self, arguments: &[&str]) -> Said {
        self.londiste("root", arguments)
    }

    pub fn leaf(&self, arguments: &[&str]) -> Said {
        self.londiste("leaf", arguments)
    }

    fn londiste(&self, name: &str, arguments: &[&str]) -> Said {
        let conf = self.conf(name);
        let mut all = vec!["londiste", conf.to_str().unwrap()];
        all.extend(arguments);
        skytide(&all)
    }

    pub fn doctor(&self, name: &str) -> Said {
        skytide(&["doctor", self.conf(name).to_str().unwrap()])
    }

    pub fn worker(&self) -> Running {
        let conf = self.conf("leaf");
        Running::start(&["londiste", conf.to_str().unwrap(), "worker"], &self.log_file())
    }

    fn log_file(&self) -> PathBuf {
        self.dir.path().join("worker.log")
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.log_file()).unwrap_or_default()
    }

    /// A worker that cannot go on: it leaves with 1, says all of `words`, and `status` shows the first.
    pub async fn worker_stops(&self, words: &[&str]) {
        let before = self.log().len();
        let mut worker = self.worker();
        let code = worker.ended().await;
        let log = self.log().split_off(before);
        assert_eq!(code, Some(1), "{log}");
        for word in words {
            assert!(log.contains(word), "{word:?} is not in\n{log}");
        }
        self.leaf(&["status"]).with(0, &["ERR: ", words[0]]);
    }

    pub async fn on(&self, database: &str) -> Client {
        self.server.connect(database).await.unwrap()
    }

    pub async fn run(&self, database: &str, sql: &str) {
        self.on(database).await.batch_execute(sql).await.unwrap();
    }

    pub async fn count(&self, database: &str, sql: &str) -> i64 {
        self.on(database).await.query_one(sql, &[]).await.unwrap().get(0)
    }

    pub async fn text(&self, database: &str, sql: &str) -> String {
        self.on(database).await.query_one(sql, &[]).await.unwrap().get(0)
    }

    /// Waits until the leaf's text is `wanted`.
    pub async fn leaf_says(&self, sql: &str, wanted: &str) {
        let client = self.on("leaf").await;
        let read = async || {
            let text: Option<String> = client.query_one(sql, &[]).await?.get(0);
            Ok(text.unwrap_or_default())
        };
        if let Err(e) = wait::until_eq(sql, wanted.to_owned(), PATIENCE, read).await {
            panic!("{e}\n{}", self.log());
        }
    }

    /// Waits until the leaf's answer is `wanted`.
    pub async fn leaf_gets(&self, sql: &str, wanted: i64) {
        let client = self.on("leaf").await;
        let read = async || Ok(client.query_one(sql, &[]).await?.get::<_, i64>(0));
        if let Err(e) = wait::until_eq(sql, wanted, PATIENCE, read).await {
            panic!("{e}\n{}", self.log());
        }
    }
}
