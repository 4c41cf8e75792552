//! The servers of a drill, their store and their configuration.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};

use anyhow::{Context as _, ensure};
use skytide_fixtures::cluster::Cluster;
use skytide_fixtures::server::{Options, Server, Where, free_port};
use skytide_fixtures::wait;
use skytide_sql::Lsn;
use skytide_wal::store::DirStore;
use skytide_wal::tail::look;

use super::{PATIENCE, Plan};
use crate::cli::failure::Failure;
use crate::cli::output::Output;
use crate::dev::place::Place;

const NAMES: [&str; 6] = ["a", "b", "c", "d", "e", "f"];
/// What the receiver's process is known by.
const RECEIVER_PID: &str = "wal/receive.pid";

pub struct Stand {
    pub primary: Server,
    /// By name, `b` first.
    pub standbys: Vec<(String, Server)>,
    dir: PathBuf,
    program: PathBuf,
    receiver: Child,
}

fn options() -> Options {
    Options::persistent("")
        .with("shared_buffers", "64MB")
        // For a former primary that has to be rewound.
        .with("wal_log_hints", "on")
        .with("archive_mode", "off")
}

impl Stand {
    pub async fn up(place: &Place, plan: &Plan) -> anyhow::Result<Stand> {
        let dir = place.dir().canonicalize()?;
        let cluster = Cluster::open(&dir)?;
        let primary = cluster.add("a", options()).await?;
        let client = primary.connect("postgres").await?;
        client
            .batch_execute("create table drill (id bigint primary key, filler text)")
            .await?;
        let mut standbys = Vec::new();
        for name in NAMES.iter().skip(1).take(plan.standbys) {
            standbys.push(((*name).to_owned(), standby(&primary, &dir, name).await?));
        }
        // The servers' user runs the program, and may not be able to get where we lie.
        let program = dir.join("skytide");
        let ours = std::env::current_exe().context("find this program")?;
        if fs::hard_link(&ours, &program).is_err() {
            fs::copy(&ours, &program).context("copy this program")?;
        }
        let wal = dir.join("wal");
        fs::create_dir(&wal)?;
        primary.give(&wal)?;
        let conf = wal.join("wal.ini");
        fs::write(&conf, configuration(&primary, &standbys, &wal, plan))?;
        primary.give(&conf)?;
        let mut stand = Stand {
            receiver: receiver(&primary, &program, &dir, "create-store")?,
            primary,
            standbys,
            dir,
            program,
        };
        let made = stand.receiver.wait()?;
        ensure!(made.success(), "the store could not be made: {made}");
        stand.receiver = receiver(&stand.primary, &stand.program, &stand.dir, "receive")?;
        fs::write(stand.dir.join(RECEIVER_PID), stand.receiver.id().to_string())?;
        stand.in_step().await?;
        if plan.synchronous {
            client
                .batch_execute("alter system set synchronous_standby_names = 'skytide'")
                .await?;
            client.batch_execute("select pg_reload_conf()").await?;
        }
        Ok(stand)
    }

    /// Until the store has what the server has now.
    async fn in_step(&self) -> anyhow::Result<()> {
        let client = self.primary.connect("postgres").await?;
        let row = client.query_one("select pg_current_wal_flush_lsn()::text", &[]);
        let wanted: Lsn = row.await?.get::<_, &str>(0).parse()?;
        let store = self.dir.join("wal/store");
        wait::until("the store to be in step", PATIENCE, async || {
            let found = look(&DirStore::open(&store)?).await?;
            Ok(found.filter(|found| found.boundary >= wanted).map(drop))
        })
        .await
    }

    pub fn server(&self, name: &str) -> Option<&Server> {
        let mut standbys = self.standbys.iter();
        standbys
            .find(|(standby, _)| standby == name)
            .map(|(_, server)| server)
    }

    /// The receiver first: what it has got later would be no loss of the moment of the kill.
    pub fn kill_primary(&mut self) -> anyhow::Result<()> {
        let _ = self.receiver.kill();
        self.primary.kill()?;
        self.receiver.wait()?;
        Ok(())
    }

    /// `walmgr` with these arguments, run as the servers' user; its JSON.
    pub async fn program(&self, arguments: &[&str], output: &Output) -> anyhow::Result<serde_json::Value> {
        let conf = self.dir.join("wal/wal.ini");
        output.note(&format!(
            "$ skytide walmgr {} {}",
            conf.display(),
            arguments.join(" ")
        ));
        let mut command = self.primary.command(&self.program.to_string_lossy());
        command
            .arg("walmgr")
            .arg(&conf)
            .args(arguments)
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let done = tokio::process::Command::from(command)
            .kill_on_drop(true)
            .output()
            .await?;
        for line in String::from_utf8_lossy(&done.stderr).lines() {
            output.note(&format!("    {line}"));
        }
        match done.status.success() {
            true => serde_json::from_slice(&done.stdout).context("read the command's JSON"),
            false => Err(Failure::new(format!("the command ended with {}", done.status))
                .detail("its own words are above")
                .into()),
        }
    }
}

impl Drop for Stand {
    fn drop(&mut self) {
        let _ = self.receiver.kill();
        let _ = self.receiver.wait();
    }
}

/// A command of walmgr that goes on beside us.
fn receiver(server: &Server, program: &Path, dir: &Path, command: &str) -> anyhow::Result<Child> {
    let log = fs::File::options()
        .create(true)
        .append(true)
        .open(dir.join("receive.log"))?;
    let mut child = server.command(&program.to_string_lossy());
    child
        .arg("walmgr")
        .arg(dir.join("wal/wal.ini"))
        .arg(command)
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log);
    child.spawn().with_context(|| format!("start {command}"))
}

async fn standby(primary: &Server, dir: &Path, name: &str) -> anyhow::Result<Server> {
    let home = dir.join(name);
    fs::create_dir(&home)?;
    primary.give(&home)?;
    let mut copy = primary.command("pg_basebackup");
    copy.args(["-X", "stream", "-c", "fast", "-D"])
        .arg(home.join("data"));
    let copied = tokio::process::Command::from(copy).output().await?;
    ensure!(
        copied.status.success(),
        "pg_basebackup: {}",
        String::from_utf8_lossy(&copied.stderr)
    );
    let conninfo = format!("{} application_name={name}", primary.dsn("postgres"));
    let data = home.join("data");
    for (file, text) in [
        (
            "postgresql.auto.conf",
            format!("primary_conninfo = '{}'\n", conninfo.replace('\'', "''")),
        ),
        ("standby.signal", String::new()),
    ] {
        fs::write(data.join(file), text)?;
        primary.give(&data.join(file))?;
    }
    Server::start(Options {
        dir: Where::Persistent(home),
        port: Some(free_port()?),
        ..options()
    })
    .await
    .with_context(|| format!("start {name}"))
}

fn configuration(primary: &Server, standbys: &[(String, Server)], wal: &Path, plan: &Plan) -> String {
    let names: Vec<&str> = standbys.iter().map(|(name, _)| name.as_str()).collect();
    let mut text = format!(
        "[walmgr]\nstores = {}\nmaster_db = {}\n\n[promote]\nnodes = a, {}\nfence_required = no\n",
        wal.join("store").display(),
        primary.dsn("postgres"),
        names.join(", ")
    );
    let servers = standbys.iter().map(|(name, server)| (name.as_str(), server));
    for (name, server) in [("a", primary)].into_iter().chain(servers) {
        text.push_str(&format!("\n[node {name}]\ndb = {}\n", server.dsn("postgres")));
        if name != "a" || !plan.lose_disk {
            text.push_str(&format!("data = {}\n", server.data_dir().display()));
        }
    }
    text
}

/// Stops the servers and the receiver of an earlier drill.
pub async fn stop(place: &Place) -> anyhow::Result<()> {
    let path = place.file(RECEIVER_PID);
    if let Ok(text) = fs::read_to_string(&path)
        && let Some(pid) = text.trim().parse().ok().and_then(rustix::process::Pid::from_raw)
    {
        let program = fs::read_link(format!("/proc/{}/exe", pid.as_raw_nonzero()));
        // The number may be another process's by now.
        if program.is_ok_and(|program| program.starts_with(place.dir())) {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
    }
    let cluster = Cluster::open(place.dir())?;
    for name in cluster.names()? {
        cluster.get(&name)?.kill()?;
    }
    cluster.remove().await
}
