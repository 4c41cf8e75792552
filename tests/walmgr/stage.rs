//! A server that archives with the program, its store, its base copy, and a cluster restored from both.

use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use skytide_fixtures::server::{Options, Server, StopMode, Where, free_port};
use skytide_fixtures::wait;
use skytide_wal::store::DirStore;
use tempfile::TempDir;
use tokio_postgres::Client;

pub const PATIENCE: Duration = Duration::from_secs(60);
const PROGRAM: &str = env!("CARGO_BIN_EXE_skytide");
const SMALL: &str = env!("CARGO_BIN_EXE_skytide-walmgr");

/// What a command said, and how it left.
#[derive(Debug)]
pub struct Said {
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

impl Said {
    fn of(output: std::process::Output) -> Said {
        Said {
            code: output.status.code(),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// What `--json` printed.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// Left with `code`, and its messages have all of `words`.
    #[track_caller]
    pub fn with(self, code: i32, words: &[&str]) -> Said {
        assert_eq!(self.code, Some(code), "{self:?}");
        for word in words {
            assert!(self.err.contains(word), "{word:?} is not in\n{}", self.err);
        }
        self
    }
}

/// A daemon. It ends with the test.
pub struct Daemon(Child);

impl Daemon {
    pub fn kill(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }

    /// Until it has been stopped, by a signal or at the failpoint it was started with.
    pub async fn stands_still(&self) {
        let stat = format!("/proc/{}/stat", self.0.id());
        wait::until("the daemon to stop", PATIENCE, async || {
            let stat = std::fs::read_to_string(&stat)?;
            let state = stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next());
            assert_ne!(state, Some('Z'), "it has ended and not come to where it stops");
            Ok((state == Some('T')).then_some(()))
        })
        .await
        .unwrap();
    }

    /// SIGHUP: read the configuration again.
    pub fn hang_up(&self) {
        self.signal(Signal::HUP);
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.0), signal).unwrap();
    }

    /// Told to stop, it leaves with this code.
    pub async fn ends_with(mut self, code: i32) {
        self.signal(Signal::TERM);
        let status = wait::until("the end", PATIENCE, async || Ok(self.0.try_wait()?)).await;
        assert_eq!(status.unwrap().code(), Some(code));
    }

    pub async fn ends_politely(mut self) {
        let _ = kill_process(Pid::from_child(&self.0), Signal::TERM);
        let status = wait::until("the daemon to end", PATIENCE, async || Ok(self.0.try_wait()?))
            .await
            .unwrap();
        assert!(status.success(), "{status}");
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A command that waits for somebody. It ends with the test.
pub struct Asked(Child);

impl Asked {
    fn start(mut command: Command) -> Asked {
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        Asked(command.stderr(Stdio::piped()).spawn().unwrap())
    }

    /// It is given this on standard input, and leaves.
    pub fn answered(mut self, answer: &str) -> Said {
        use std::io::{Read, Write};
        let mut pipe = self.0.stdin.take().unwrap();
        pipe.write_all(answer.as_bytes()).unwrap();
        drop(pipe);
        let (mut out, mut err) = (String::new(), String::new());
        self.0.stdout.take().unwrap().read_to_string(&mut out).unwrap();
        self.0.stderr.take().unwrap().read_to_string(&mut err).unwrap();
        let code = self.0.wait().unwrap().code();
        Said { code, out, err }
    }

    /// It goes on after a failpoint, and leaves.
    pub fn goes_on(self) -> Said {
        kill_process(Pid::from_child(&self.0), Signal::CONT).unwrap();
        self.answered("")
    }
}

impl Drop for Asked {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A cluster in the stage's directory, which is killed when the test ends.
pub struct Restored(pub Server);

impl Drop for Restored {
    fn drop(&mut self) {
        let _ = self.0.kill();
    }
}

pub struct Stage {
    // Before the directory: it is gone first.
    pub server: Server,
    pub dir: TempDir,
    program: PathBuf,
}

impl Stage {
    /// A server that is set to archive but does not yet: `archive_command` fails until [`Stage::archive`].
    pub async fn new() -> Stage {
        Stage::with(Options::default()).await
    }

    pub async fn with(options: Options) -> Stage {
        let options = options
            .with("archive_mode", "on")
            .with("archive_command", "/bin/false");
        let stage = Stage::untouched(options).await;
        stage.configure("");
        stage.walmgr(&["create-store"]).with(0, &[]);
        stage
    }

    /// A server nobody has told to archive, and no store.
    pub async fn untouched(options: Options) -> Stage {
        let dir = tempfile::tempdir().unwrap();
        // The server's user works in it, and it may be another one than ours.
        std::fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o777)).unwrap();
        let give = |program: &str, name: &str| {
            let here = dir.path().join(name);
            if std::fs::hard_link(program, &here).is_err() {
                std::fs::copy(program, &here).unwrap();
            }
            here
        };
        let program = give(PROGRAM, "skytide");
        give(SMALL, "skytide-walmgr");
        let server = Server::start(options).await.unwrap();
        Stage { server, dir, program }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// What we wrote there may be another user's than the server's.
    pub fn give_to_server(&self, name: &str) {
        let chown = Command::new("chown")
            .arg("-R")
            .arg(format!("--reference={}", self.store().display()))
            .arg(self.path(name))
            .output()
            .unwrap();
        assert!(chown.status.success(), "{chown:?}");
    }

    pub fn conf(&self) -> PathBuf {
        self.path("wal.ini")
    }

    pub fn store(&self) -> PathBuf {
        self.path("store")
    }

    pub fn configure(&self, extra: &str) {
        let stores = match extra.contains("stores =") {
            true => String::new(),
            false => format!("stores = {}\n", self.store().display()),
        };
        std::fs::write(self.conf(), format!("[walmgr]\n{stores}{extra}\n")).unwrap();
    }

    /// The program, run as the server's user where the server would run it.
    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.bare_command(&[]);
        command.arg("walmgr").arg(self.conf()).args(arguments);
        command
    }

    fn bare_command(&self, arguments: &[&str]) -> Command {
        let mut command = self.server.command(self.program.to_str().unwrap());
        command.args(arguments).current_dir(self.server.data_dir());
        command
    }

    /// By the small program beside it.
    pub fn small(&self, arguments: &[&str]) -> Said {
        let program = self.program.with_file_name("skytide-walmgr");
        let mut command = self.server.command(program.to_str().unwrap());
        command.arg(self.conf()).args(arguments);
        command.current_dir(self.server.data_dir());
        said(&mut command)
    }

    /// As an old script calls it: by its old name, options before the configuration.
    pub fn old(&self, arguments: &[&str]) -> Said {
        said(self.bare_command(arguments).arg0("walmgr3"))
    }

    /// With another configuration of the stage's directory.
    pub fn by(&self, conf: &str, arguments: &[&str]) -> Said {
        let conf = self.path(conf);
        said(
            self.bare_command(&["walmgr", conf.to_str().unwrap()])
                .args(arguments),
        )
    }

    /// Without a configuration, at home in the stage's directory.
    pub fn without_conf(&self, arguments: &[&str]) -> Said {
        let mut command = self.bare_command(&["walmgr"]);
        said(command.args(arguments).env("HOME", self.dir.path()))
    }

    /// The same with bytes on standard input.
    pub fn fed(&self, arguments: &[&str], input: &[u8]) -> Said {
        use std::io::Write;
        let mut command = self.command(arguments);
        command.stdin(Stdio::piped());
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut pipe = child.stdin.take().unwrap();
        // A program that refuses does not read.
        let _ = pipe.write_all(input);
        drop(pipe);
        Said::of(child.wait_with_output().unwrap())
    }

    pub fn walmgr(&self, arguments: &[&str]) -> Said {
        said(&mut self.command(arguments))
    }

    pub fn walmgr_with(&self, environment: &[(&str, &str)], arguments: &[&str]) -> Said {
        said(self.command(arguments).envs(environment.iter().copied()))
    }

    /// `archive` of a file of `pg_wal`.
    pub fn archive_file(&self, name: &str) -> Said {
        self.walmgr(&["archive", &format!("pg_wal/{name}"), name])
    }

    /// `restore-wal` into the stage's directory.
    pub fn restore_file(&self, name: &str, target: &Path) -> Said {
        self.walmgr(&["restore-wal", name, target.to_str().unwrap()])
    }

    pub async fn daemon(&self) -> Daemon {
        self.daemon_with(&[]).await
    }

    pub async fn daemon_with(&self, environment: &[(&str, &str)]) -> Daemon {
        let log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(self.path("daemon.log"))
            .unwrap();
        let child = self
            .command(&["daemon"])
            .envs(environment.iter().copied())
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let daemon = Daemon(child);
        let socket = self.conf().with_extension("sock");
        wait::until("the daemon to answer", PATIENCE, async || {
            Ok(std::os::unix::net::UnixStream::connect(&socket).ok())
        })
        .await
        .unwrap();
        daemon
    }

    /// `receive` or `ship`, with its messages in a log of this name.
    pub fn copier(&self, command: &str, environment: &[(&str, &str)]) -> Daemon {
        let log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(self.path(&format!("{command}.log")))
            .unwrap();
        let child = self
            .command(&[command])
            // A server's end takes along whoever works in its data directory.
            .current_dir(self.dir.path())
            .envs(environment.iter().copied())
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        Daemon(child)
    }

    pub fn log(&self, command: &str) -> String {
        std::fs::read_to_string(self.path(&format!("{command}.log"))).unwrap_or_default()
    }

    /// Sets what `receive`, `ship`, `salvage` and `status` need, and `extra`.
    pub fn configure_copy(&self, extra: &str) {
        let (db, data) = (self.server.dsn("postgres"), self.server.data_dir().display());
        self.configure(&format!("master_db = {db}\nmaster_data = {data}\n{extra}"));
    }

    pub fn daemon_log(&self) -> String {
        std::fs::read_to_string(self.path("daemon.log")).unwrap_or_default()
    }

    /// What PostgreSQL is given as `archive_command` or `restore_command`.
    pub fn line(&self, words: &str) -> String {
        format!(
            "{} walmgr {} {words}",
            self.program.display(),
            self.conf().display()
        )
    }

    /// Lets the server archive.
    pub async fn archive(&self) {
        let client = self.client().await;
        let line = self.line("archive %p %f");
        client
            .batch_execute(&format!("alter system set archive_command = '{line}'"))
            .await
            .unwrap();
        client.batch_execute("select pg_reload_conf()").await.unwrap();
    }

    pub async fn client(&self) -> Client {
        self.server.connect("postgres").await.unwrap()
    }

    pub async fn run(&self, sql: &str) {
        self.client().await.batch_execute(sql).await.unwrap();
    }

    /// Fills a table with `rows` rows, ends the segment, and names it.
    pub async fn segment(&self, rows: u32) -> String {
        let client = self.client().await;
        client
            .batch_execute(&format!(
                "create table if not exists t (id bigserial primary key, v text); \
                 insert into t (v) select repeat(md5(n::text), 8) from generate_series(1, {rows}) n"
            ))
            .await
            .unwrap();
        let row = client.query_one("select pg_walfile_name(pg_current_wal_insert_lsn())", &[]);
        let name: String = row.await.unwrap().get(0);
        client.batch_execute("select pg_switch_wal()").await.unwrap();
        let file = self.server.data_dir().join("pg_wal").join(&name);
        let status = self.server.data_dir().join("pg_wal/archive_status");
        wait::until("the segment to be full", PATIENCE, async || {
            let known = ["ready", "done"].map(|end| status.join(format!("{name}.{end}")).exists());
            Ok((file.exists() && known.contains(&true)).then_some(()))
        })
        .await
        .unwrap();
        name
    }

    /// Until PostgreSQL has been told that the file is safe.
    pub async fn archived(&self, name: &str) {
        let done = self
            .server
            .data_dir()
            .join(format!("pg_wal/archive_status/{name}.done"));
        let wait = wait::until("the archiver", PATIENCE, async || Ok(done.exists().then_some(()))).await;
        if let Err(error) = wait {
            panic!("{error}\n{}\n{}", self.server.log_tail(), self.daemon_log());
        }
    }

    /// Where the store has a segment of timeline 1.
    pub fn stored(&self, name: &str) -> PathBuf {
        self.store().join(format!("wal/00000001/{name}.zst"))
    }

    /// A copy of the data directory while the server is down: a base that WAL is replayed on.
    pub async fn base(&self) -> PathBuf {
        self.server.stop(StopMode::Fast).await.unwrap();
        let base = self.path("base");
        self.copy(self.server.data_dir(), &base);
        self.server.start_again().await.unwrap();
        base
    }

    fn copy(&self, from: &Path, to: &Path) {
        let copied = self
            .server
            .command("/bin/cp")
            .arg("-a")
            .args([from, to])
            .output()
            .unwrap();
        assert!(copied.status.success(), "{copied:?}");
    }

    /// A cluster from the base and the store, as far as the WAL goes.
    pub async fn restored(&self, base: &Path, name: &str, settings: &[(&str, &str)]) -> Restored {
        let data = self.placed(base, name);
        self.touch(&data.join("recovery.signal"));
        let restored = self.start(name, settings).await;
        // A new connection each time: the server may end those of its hot standby.
        let recovered = wait::until_eq("pg_is_in_recovery", false, PATIENCE, async || {
            let client = restored.0.connect("postgres").await?;
            let row = client.query_one("select pg_is_in_recovery()", &[]).await?;
            Ok(row.get::<_, bool>(0))
        });
        if let Err(error) = recovered.await {
            panic!("{error:?}\n{}", restored.0.log_tail());
        }
        restored
    }

    /// The base as a standby of the server, from which and from nowhere else it has its WAL.
    pub async fn standby(&self, base: &Path, name: &str, settings: &[(&str, &str)]) -> Restored {
        let data = self.placed(base, name);
        self.touch(&data.join("standby.signal"));
        let primary = self.server.dsn("postgres");
        let own = [
            ("primary_conninfo", primary.as_str()),
            ("restore_command", "/bin/false"),
        ];
        self.start(name, &[&own, settings].concat()).await
    }

    /// Makes an empty file of the server's user.
    fn touch(&self, path: &Path) {
        let touched = self.server.command("/bin/touch").arg(path).output().unwrap();
        assert!(touched.status.success(), "{touched:?}");
    }

    /// The base, started as it is: a second primary.
    pub async fn started(&self, base: &Path, name: &str) -> Restored {
        self.placed(base, name);
        self.start(name, &[]).await
    }

    /// Runs the program until it stops itself at a failpoint, and kills it there.
    pub async fn killed_at(&self, step: &str, arguments: &[&str]) {
        let mut command = self.command(arguments);
        command
            .env("SKYTIDE_STOP_AT", format!("{step}=1"))
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let mut running = Daemon(command.spawn().unwrap());
        running.stands_still().await;
        running.kill();
    }

    /// Runs the program until it stops itself at a failpoint, where it waits for SIGCONT.
    pub async fn stopped_at(&self, step: &str, arguments: &[&str]) -> Asked {
        let mut command = self.command(arguments);
        command.env("SKYTIDE_STOP_AT", format!("{step}=1"));
        // A server's end takes along whoever works in its data directory.
        command.current_dir(self.dir.path());
        let asked = Asked::start(command);
        let stat = format!("/proc/{}/stat", asked.0.id());
        wait::until("the program to stop", PATIENCE, async || {
            let stat = std::fs::read_to_string(&stat)?;
            let state = stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next());
            assert_ne!(state, Some('Z'), "it has ended and not come to where it stops");
            Ok((state == Some('T')).then_some(()))
        })
        .await
        .unwrap();
        asked
    }

    /// Runs the program until it asks its question.
    pub fn asks(&self, arguments: &[&str]) -> Asked {
        use std::io::Read;
        let mut command = self.command(arguments);
        command.current_dir(self.dir.path());
        let mut asked = Asked::start(command);
        let mut said = Vec::new();
        while !said.ends_with(b"[y/N] ") {
            let mut byte = [0];
            let pipe = asked.0.stderr.as_mut().unwrap();
            if pipe.read(&mut byte).unwrap() == 0 {
                panic!("{}", String::from_utf8_lossy(&said));
            }
            said.extend(byte);
        }
        asked
    }

    /// A directory of the server's user in the stage's.
    pub fn directory(&self, name: &str) -> PathBuf {
        let path = self.path(name);
        let made = self
            .server
            .command("/bin/mkdir")
            .args(["-p".as_ref(), path.as_os_str()])
            .output();
        assert!(made.unwrap().status.success());
        path
    }

    /// A directory that is a store, as `create-store` makes them.
    pub fn store_in(&self, name: &str) -> PathBuf {
        let path = self.directory(name);
        self.touch(&path.join(DirStore::MARK));
        path
    }

    /// Starts what was restored into the stage's directory `name`, as it was told to recover.
    pub async fn recovered(&self, name: &str) -> Restored {
        self.recovered_with(name, &[]).await
    }

    pub async fn recovered_with(&self, name: &str, settings: &[(&str, &str)]) -> Restored {
        let options = Options {
            dir: Where::Persistent(self.path(name)),
            major: Some(self.server.version().major),
            port: Some(free_port().unwrap()),
            ..Options::default()
        };
        let mut options = options.with("archive_mode", "off").with("shared_buffers", "32MB");
        for (name, value) in settings {
            options = options.with(name, value);
        }
        let restored = Restored(Server::start(options).await.unwrap());
        let client = restored.0.connect("postgres").await.unwrap();
        wait::until_eq("pg_is_in_recovery", false, PATIENCE, async || {
            Ok(client
                .query_one("select pg_is_in_recovery()", &[])
                .await?
                .get::<_, bool>(0))
        })
        .await
        .unwrap();
        restored
    }

    pub fn placed(&self, base: &Path, name: &str) -> PathBuf {
        let home = self.path(name);
        let made = self.server.command("/bin/mkdir").arg(&home).output().unwrap();
        assert!(made.status.success(), "{made:?}");
        let data = home.join("data");
        self.copy(base, &data);
        // What was set on the first server by ALTER SYSTEM.
        std::fs::write(data.join("postgresql.auto.conf"), "").unwrap();
        data
    }

    pub async fn start(&self, name: &str, settings: &[(&str, &str)]) -> Restored {
        let mut options = Options {
            dir: Where::Persistent(self.path(name)),
            port: Some(free_port().unwrap()),
            ..Options::default()
        }
        .with("restore_command", self.line("restore-wal %f %p"))
        .with("archive_mode", "off")
        .with("shared_buffers", "32MB")
        .with("dynamic_shared_memory_type", "mmap");
        for (name, value) in settings {
            options = options.with(name, value);
        }
        Restored(Server::start(options).await.unwrap())
    }
}

fn said(command: &mut Command) -> Said {
    Said::of(command.output().expect("the program starts"))
}

/// Rows of `t`, and a sum over them.
pub async fn content(server: &Server) -> (i64, Option<String>) {
    let client = server.connect("postgres").await.unwrap();
    let row = client
        .query_one(
            "select count(*), md5(string_agg(id || v, ',' order by id)) from t",
            &[],
        )
        .await
        .unwrap();
    (row.get(0), row.get(1))
}
