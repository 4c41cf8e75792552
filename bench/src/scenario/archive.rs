//! Archiving: what `archive_command` takes for a backlog of real segments, ours beside pgBackRest's, each call
//! one after the other as PostgreSQL makes them.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use skytide_fixtures::server::{Durability, Options, Server, StopMode};
use skytide_fixtures::wait;
use tempfile::TempDir;

use super::Effort;
use crate::figures::{Findings, Verdict, median, percentile, spread};
use crate::program::Program;

pub const PGBACKREST: &str = "/usr/bin/pgbackrest";
const DEADLINE: Duration = Duration::from_secs(600);
/// What the daemon begins before it is asked.
const AHEAD: usize = 16;

/// A server with a backlog of segments.
pub struct Stage {
    pub server: Server,
    dir: TempDir,
    program: PathBuf,
    /// What PostgreSQL runs.
    pub client_program: PathBuf,
    pub segments: Vec<String>,
    pub bytes: f64,
}

/// Seconds of a whole run and of each call in it.
pub struct Run {
    seconds: f64,
    calls: Vec<f64>,
}

pub async fn run(effort: Effort) -> anyhow::Result<Findings> {
    let count = usize::try_from(effort.size(64, 16))?;
    let stage = Stage::new(count).await?;
    let peer = stage.has_pgbackrest();
    let mut daemon = Vec::new();
    let mut alone = Vec::new();
    let mut async_peer = Vec::new();
    let mut plain_peer = Vec::new();
    let mut ready = Vec::new();
    for rep in 0..effort.reps {
        for turn in 0..4 {
            match (turn + rep) % 4 {
                0 => {
                    let (run, at_hand) = stage.with_daemon(&format!("daemon{rep}")).await?;
                    daemon.push(run);
                    ready.extend(at_hand);
                }
                1 => alone.push(stage.alone(&format!("alone{rep}"))?),
                2 if peer => async_peer.push(stage.pgbackrest(&format!("async{rep}"), true)?),
                3 if peer => plain_peer.push(stage.pgbackrest(&format!("plain{rep}"), false)?),
                _ => {}
            }
        }
    }
    let empty: Vec<f64> = (0..200)
        .map(|_| stage.empty_process())
        .collect::<Result<_, _>>()?;

    let mut findings = Findings::default();
    findings.note(format!(
        "{count} segments of a mixed load ({:.0} MiB) into a local directory, one call after the other: skytide with \
         every record checked, zstd 1, fsync of file and directory; pgBackRest with zst 1 and two processes, into a \
         repository on the same disk. Its own fsyncs are at its presets.",
        stage.bytes / f64::from(1 << 20)
    ));
    let rows: Vec<Vec<String>> = [
        ("skytide, daemon", &daemon),
        ("skytide, alone", &alone),
        ("pgBackRest, asynchronous", &async_peer),
        ("pgBackRest, plain", &plain_peer),
    ]
    .into_iter()
    .filter(|(_, runs)| !runs.is_empty())
    .map(|(name, runs)| {
        let calls: Vec<f64> = runs.iter().flat_map(|run| &run.calls).map(|s| s * 1e3).collect();
        vec![
            name.to_owned(),
            spread(&stage.rates(runs)),
            format!("{:.1}", median(&calls)),
            format!("{:.1}", percentile(&calls, 99.0)),
        ]
    })
    .collect();
    findings.table(
        &["", "MB/s min / median / max", "ms a call, median", "p99"],
        &rows,
    );
    if peer {
        let ours = median(&stage.rates(&daemon));
        for (name, runs) in [("asynchronous", &async_peer), ("plain", &plain_peer)] {
            let ratio = ours / median(&stage.rates(runs));
            findings.verdicts.push(Verdict::at_least(
                format!("archive: MB/s ÷ pgBackRest {name}"),
                if name == "plain" { 3.0 } else { 1.5 },
                ratio,
                "×",
            ));
        }
    } else {
        findings.note("pgBackRest is not installed: nothing to compare with.");
    }
    let client = (median(&ready) - median(&empty)) * 1e3;
    findings.note(format!(
        "A call whose file is archived already takes {:.2} ms from fork to exit (p99 {:.2}), an empty process \
         (`/bin/true`) {:.2} ms.",
        median(&ready) * 1e3,
        percentile(&ready, 99.0) * 1e3,
        median(&empty) * 1e3
    ));
    findings.verdicts.push(Verdict::at_most(
        "archive: the client's own part of a call",
        1.0,
        client,
        "ms",
    ));
    Ok(findings)
}

impl Stage {
    /// A server that has so many segments to archive and is told that none can be.
    pub async fn new(count: usize) -> anyhow::Result<Stage> {
        let dir = tempfile::tempdir()?;
        std::fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o777))?;
        let built = Program::find()?;
        let give = |name: &str| -> anyhow::Result<PathBuf> {
            let (from, to) = (built.path().with_file_name(name), dir.path().join(name));
            if std::fs::hard_link(&from, &to).is_err() {
                std::fs::copy(&from, &to)?;
            }
            Ok(to)
        };
        let (program, client_program) = (give("skytide")?, give("skytide-walmgr")?);
        let options = Options {
            durability: Durability::Safe,
            ..Options::default()
        };
        let options = options
            .with("archive_mode", "on")
            .with("archive_command", "/bin/false")
            .with("synchronous_commit", "off")
            .with("max_wal_size", "8GB");
        let server = Server::start(options).await?;
        let client = server.connect("postgres").await?;
        client
            .batch_execute(
                "create table t (id bigint primary key, n int, at timestamptz default now(), v text)",
            )
            .await?;
        drop(client);
        server.stop(StopMode::Fast).await?;
        done(
            server
                .command("/bin/cp")
                .arg("-a")
                .args([server.data_dir(), &dir.path().join("base")]),
        )?;
        server.start_again().await?;
        let client = server.connect("postgres").await?;
        let status = server.data_dir().join("pg_wal/archive_status");
        let mut id = 0;
        while ready(&status)?.len() < count {
            client
                .batch_execute(&format!(
                    "insert into t select n, n % 1000, now(), 'a row with some text ' || n \
                     from generate_series({id} + 1, {id} + 20000) n; \
                     update t set n = n + 1, v = md5(v) where id > {id} and id % 3 = 0; \
                     delete from t where id > {id} and id % 10 = 1"
                ))
                .await?;
            id += 20_000;
        }
        let mut segments = ready(&status)?;
        segments.truncate(count);
        let bytes = segments.iter().try_fold(0.0, |sum, name| {
            let meta = std::fs::metadata(server.data_dir().join("pg_wal").join(name))?;
            anyhow::Ok(sum + meta.len() as f64)
        })?;
        Ok(Stage {
            server,
            dir,
            program,
            client_program,
            segments,
            bytes,
        })
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The data directory before any of the segments was written, while the server was down.
    pub fn base(&self) -> PathBuf {
        self.path("base")
    }

    fn rates(&self, runs: &[Run]) -> Vec<f64> {
        runs.iter().map(|run| self.bytes / 1e6 / run.seconds).collect()
    }

    pub fn command(&self, program: &Path) -> Command {
        let mut command = self.server.command(&program.to_string_lossy());
        command.current_dir(self.server.data_dir());
        command
    }

    /// A configuration of its own store.
    pub fn configure(&self, name: &str) -> anyhow::Result<PathBuf> {
        let conf = self.dir.path().join(format!("{name}.ini"));
        let store = self.dir.path().join(name);
        std::fs::write(
            &conf,
            format!(
                "[walmgr]\nstores = {}\narchive_ahead = {AHEAD}\n",
                store.display()
            ),
        )?;
        done(
            self.command(&self.program)
                .arg("walmgr")
                .arg(&conf)
                .arg("create-store"),
        )?;
        Ok(conf)
    }

    fn call(&self, conf: &Path, name: &str) -> anyhow::Result<f64> {
        let mut command = self.command(&self.client_program);
        command
            .arg(conf)
            .args(["archive", &format!("pg_wal/{name}"), name]);
        let started = Instant::now();
        done(&mut command)?;
        Ok(started.elapsed().as_secs_f64())
    }

    /// Started, and answering.
    pub async fn daemon(&self, conf: &Path) -> anyhow::Result<Child> {
        let daemon = self
            .command(&self.program)
            .arg("walmgr")
            .arg(conf)
            .args(["--quiet", "daemon"])
            .stdin(Stdio::null())
            .spawn()?;
        let socket = conf.with_extension("sock");
        wait::until("the daemon", DEADLINE, async || {
            Ok(std::os::unix::net::UnixStream::connect(&socket).ok())
        })
        .await?;
        Ok(daemon)
    }

    /// Also the calls whose file was archived before they were made.
    async fn with_daemon(&self, name: &str) -> anyhow::Result<(Run, Vec<f64>)> {
        let conf = self.configure(name)?;
        let mut daemon = self.daemon(&conf).await?;
        let started = Instant::now();
        let (first, rest) = self.segments.split_at(self.segments.len() - AHEAD / 2);
        let mut calls = first
            .iter()
            .map(|name| self.call(&conf, name))
            .collect::<Result<Vec<_>, _>>()?;
        let seconds = started.elapsed().as_secs_f64();
        let last = self.segments.last().context("there are segments")?;
        let timeline = self.dir.path().join(name).join("wal/00000001");
        wait::until("the look ahead", DEADLINE, async || {
            Ok(timeline.join(format!("{last}.zst")).exists().then_some(()))
        })
        .await?;
        let waited = started.elapsed().as_secs_f64() - seconds;
        let ready = rest
            .iter()
            .map(|name| self.call(&conf, name))
            .collect::<Result<Vec<_>, _>>()?;
        calls.extend(&ready);
        daemon.kill()?;
        daemon.wait()?;
        // All of the work counts, whoever waited for it.
        let seconds = seconds + waited + ready.iter().sum::<f64>();
        Ok((Run { seconds, calls }, ready))
    }

    fn alone(&self, name: &str) -> anyhow::Result<Run> {
        self.archive_all(&self.configure(name)?)
    }

    /// One process for each file.
    pub fn archive_all(&self, conf: &Path) -> anyhow::Result<Run> {
        let calls: Vec<f64> = self
            .segments
            .iter()
            .map(|name| self.call(conf, name))
            .collect::<Result<_, _>>()?;
        Ok(Run {
            seconds: calls.iter().sum(),
            calls,
        })
    }

    fn empty_process(&self) -> anyhow::Result<f64> {
        let mut command = self.command(Path::new("/bin/true"));
        let started = Instant::now();
        done(&mut command)?;
        Ok(started.elapsed().as_secs_f64())
    }

    pub fn has_pgbackrest(&self) -> bool {
        done(self.command(Path::new(PGBACKREST)).arg("version")).is_ok()
    }

    fn pgbackrest(&self, name: &str, asynchronous: bool) -> anyhow::Result<Run> {
        self.push_all(&self.configure_pgbackrest(name, asynchronous)?)
    }

    /// A repository of its own, with this configuration.
    pub fn configure_pgbackrest(&self, name: &str, asynchronous: bool) -> anyhow::Result<PathBuf> {
        let home = self.dir.path().join(name);
        let make = |dir: &Path| done(self.command(Path::new("/bin/mkdir")).arg("-p").arg(dir));
        let [repo, spool, lock] = ["repo", "spool", "lock"].map(|part| home.join(part));
        for dir in [&repo, &spool, &lock] {
            make(dir)?;
        }
        let conf = self.dir.path().join(format!("{name}.conf"));
        let text = format!(
            "[global]\nrepo1-path={}\nspool-path={}\nlock-path={}\nlog-level-file=off\nlog-level-console=warn\n\
             compress-type=zst\ncompress-level=1\nprocess-max=2\narchive-async={}\n\
             [main]\npg1-path={}\npg1-port={}\npg1-socket-path={}\npg1-user={}\n",
            repo.display(),
            spool.display(),
            lock.display(),
            if asynchronous { "y" } else { "n" },
            self.server.data_dir().display(),
            self.server.port(),
            self.server.socket_dir().display(),
            self.server.superuser(),
        );
        std::fs::write(&conf, text)?;
        done(self.command_of_pgbackrest(&conf).arg("stanza-create"))?;
        Ok(conf)
    }

    fn command_of_pgbackrest(&self, conf: &Path) -> Command {
        let mut command = self.command(Path::new(PGBACKREST));
        command
            .arg(format!("--config={}", conf.display()))
            .arg("--stanza=main");
        command
    }

    pub fn push_all(&self, conf: &Path) -> anyhow::Result<Run> {
        let calls = self
            .segments
            .iter()
            .map(|name| {
                let mut push = self.command_of_pgbackrest(conf);
                push.arg("archive-push")
                    .arg(self.server.data_dir().join("pg_wal").join(name));
                let started = Instant::now();
                done(&mut push)?;
                anyhow::Ok(started.elapsed().as_secs_f64())
            })
            .collect::<Result<Vec<f64>, _>>()?;
        Ok(Run {
            seconds: calls.iter().sum(),
            calls,
        })
    }
}

/// Segments that wait for the archiver, in order.
fn ready(status: &Path) -> anyhow::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(status)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        names.extend(
            name.strip_suffix(".ready")
                .filter(|name| name.len() == 24)
                .map(str::to_owned),
        );
    }
    names.sort();
    Ok(names)
}

pub fn done(command: &mut Command) -> anyhow::Result<()> {
    let output = command.stdin(Stdio::null()).output().context("start a process")?;
    ensure!(
        output.status.success(),
        "{command:?}: {} {}",
        String::from_utf8_lossy(&output.stdout).trim(),
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(())
}
