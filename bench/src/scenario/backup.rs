//! Base backups and restores: ours beside `pg_basebackup` and pgBackRest, of one cluster, in turns.

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, ensure};
use skytide_fixtures::server::{Durability, Options, Server};
use skytide_fixtures::wait;
use tempfile::TempDir;
use tokio_postgres::Client;

use super::Effort;
use crate::figures::{Findings, Verdict, median, spread};
use crate::program::Program;
use crate::rig::DEADLINE;

/// Rows whose text shrinks to a third or so, as data does.
const FILL: &str = "insert into big select n, n * 7919::bigint % 1000003, md5(n::text) || ' some words that come again and again ' \
                    || md5((n / 10)::text) from generate_series(1, $1) n";
const PGBACKREST: &str = "/usr/bin/pgbackrest";
const BYTES_A_ROW: f64 = 160.0;

struct Place {
    dir: TempDir,
    server: Server,
    client: Client,
    program: PathBuf,
    pgbackrest: bool,
}

impl Place {
    async fn new() -> anyhow::Result<Place> {
        let dir = tempfile::Builder::new().prefix("skytide-bench.").tempdir()?;
        // The server's user works here.
        std::fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o777))?;
        let program = dir.path().join("skytide");
        std::fs::copy(Program::find()?.path(), &program)?;
        let options = Options {
            durability: Durability::Safe,
            own_identity: true,
            initdb_args: vec!["--data-checksums".into()],
            ..Options::default()
        };
        let options = options
            .with("shared_buffers", "256MB")
            .with("max_wal_size", "8GB")
            .with("checkpoint_timeout", "30min")
            .with("autovacuum", "off")
            .with("archive_mode", "on")
            .with("archive_command", "/bin/false");
        let server = Server::start(options).await?;
        let client = server.connect("postgres").await?;
        let pgbackrest = std::process::Command::new(PGBACKREST)
            .arg("version")
            .output()
            .is_ok();
        let place = Place {
            dir,
            server,
            client,
            program,
            pgbackrest,
        };
        place.configure()?;
        Ok(place)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn configure(&self) -> anyhow::Result<()> {
        let data = self.server.data_dir().display();
        let store = self.path("store");
        std::fs::write(
            self.path("wal.ini"),
            format!(
                "[walmgr]\nstores = {}\nmaster_data = {data}\nmaster_db = {}\n",
                store.display(),
                self.server.dsn("postgres")
            ),
        )?;
        let jobs = std::thread::available_parallelism().map_or(1, usize::from);
        let at = |name: &str| self.path(name).display().to_string();
        std::fs::write(
            self.path("pgbackrest.conf"),
            format!(
                "[global]\nrepo1-path={}\nlog-path={}\nlock-path={}\nspool-path={}\nprocess-max={jobs}\n\
                 compress-type=zst\ncompress-level=1\nstart-fast=y\nlog-level-console=error\nlog-level-file=off\n\
                 [bench]\npg1-path={data}\npg1-socket-path={}\npg1-port={}\npg1-user={}\n",
                at("repo"),
                at("log"),
                at("lock"),
                at("spool"),
                self.server.socket_dir().display(),
                self.server.port(),
                self.server.superuser()
            ),
        )?;
        Ok(())
    }

    /// Runs a command as the server's user, and says how many seconds it took.
    fn timed(&self, program: &Path, arguments: &[&str]) -> anyhow::Result<f64> {
        let started = Instant::now();
        self.run(program, arguments)?;
        Ok(started.elapsed().as_secs_f64())
    }

    fn run(&self, program: &Path, arguments: &[&str]) -> anyhow::Result<String> {
        let path = program.to_str().context("a path that is no text")?;
        let out = self.server.command(path).args(arguments).output()?;
        ensure!(
            out.status.success(),
            "{path} {}: {}",
            arguments.join(" "),
            String::from_utf8_lossy(&out.stderr).trim()
        );
        Ok(String::from_utf8_lossy(&out.stdout).into_owned())
    }

    fn ours(&self, arguments: &[&str]) -> anyhow::Result<f64> {
        let conf = self.path("wal.ini");
        let mut words = vec!["walmgr", conf.to_str().context("a path")?];
        words.extend(arguments);
        self.timed(&self.program, &words)
    }

    fn theirs(&self, arguments: &[&str]) -> anyhow::Result<f64> {
        let conf = format!("--config={}", self.path("pgbackrest.conf").display());
        let mut words = vec![conf.as_str(), "--stanza=bench"];
        words.extend(arguments);
        self.timed(Path::new(PGBACKREST), &words)
    }

    fn remove(&self, name: &str) -> anyhow::Result<()> {
        self.run(
            Path::new("/bin/rm"),
            &["-rf", self.path(name).to_str().context("a path")?],
        )
        .map(drop)
    }

    fn basebackup(&self, more: &[&str]) -> anyhow::Result<f64> {
        self.remove("plain")?;
        let to = self.path("plain");
        let dsn = self.server.dsn("postgres");
        let mut words = vec![
            "-d",
            &dsn,
            "-D",
            to.to_str().context("a path")?,
            "-c",
            "fast",
            "-X",
            "none",
        ];
        words.extend(more);
        self.timed(&self.server.bin("pg_basebackup"), &words)
    }

    /// Both archives get each segment.
    async fn archive(&self) -> anyhow::Result<()> {
        let mut line = format!(
            "{} walmgr {} archive %p %f",
            self.program.display(),
            self.path("wal.ini").display()
        );
        if self.pgbackrest {
            let conf = self.path("pgbackrest.conf");
            line.push_str(&format!(
                " && {PGBACKREST} --config={} --stanza=bench archive-push %p",
                conf.display()
            ));
        }
        self.client
            .batch_execute(&format!("alter system set archive_command = '{line}'"))
            .await?;
        self.client.batch_execute("select pg_reload_conf()").await?;
        Ok(())
    }

    async fn archived(&self) -> anyhow::Result<()> {
        let row = self
            .client
            .query_one("select pg_walfile_name(pg_switch_wal())", &[])
            .await?;
        let name: String = row.get(0);
        let sql = "select coalesce(last_archived_wal >= $1, false) from pg_stat_archiver";
        wait::until("the archiver", DEADLINE, async || {
            let done: bool = self.client.query_one(sql, &[&name]).await?.get(0);
            Ok(done.then_some(()))
        })
        .await
    }

    fn newest(&self) -> anyhow::Result<serde_json::Value> {
        let conf = self.path("wal.ini");
        let words = [
            "--json",
            "walmgr",
            conf.to_str().context("a path")?,
            "listbackups",
        ];
        let text = self.run(&self.program, &words)?;
        let mut all: Vec<serde_json::Value> = serde_json::from_str(&text)?;
        all.pop().context("no backup is listed")
    }
}

pub async fn run(effort: Effort) -> anyhow::Result<Findings> {
    let rows = effort.size(7_000_000, 1_500_000);
    let place = Place::new().await?;
    place.ours(&["create-store"])?;
    for dir in ["repo", "log", "lock", "spool"] {
        place.run(
            Path::new("/bin/mkdir"),
            &[place.path(dir).to_str().context("a path")?],
        )?;
    }
    place
        .client
        .batch_execute("create table big (id bigint, a bigint not null, v text not null)")
        .await?;
    place
        .client
        .execute(&FILL.replace("$1", &rows.to_string()), &[])
        .await?;
    for statement in ["alter table big add primary key (id)", "vacuum big", "checkpoint"] {
        place.client.batch_execute(statement).await?;
    }
    if place.pgbackrest {
        place.theirs(&["--no-online", "stanza-create"])?;
    }
    place.archive().await?;
    place.archived().await?;

    let (mut wire, mut local, mut base, mut packed, mut rest) = (vec![], vec![], vec![], vec![], vec![]);
    let (mut back, mut rest_back, mut delta) = (vec![], vec![], vec![]);
    for _ in 0..effort.reps {
        wire.push(place.ours(&["backup"])?);
        base.push(place.basebackup(&[])?);
        packed.push(place.basebackup(&["-Ft", "--compress=client-zstd:1"])?);
        place.remove("plain")?;
        local.push(place.ours(&["backup", "--local"])?);
        if place.pgbackrest {
            rest.push(place.theirs(&["--type=full", "backup"])?);
        }
        let target = place.path("back");
        let target = target.to_str().context("a path")?;
        back.push(place.ours(&["restore", "latest", target])?);
        delta.push(place.ours(&["restore", "latest", target, "--delta"])?);
        place.remove("back")?;
        if place.pgbackrest {
            let path = format!("--pg1-path={target}");
            place.run(Path::new("/bin/mkdir"), &["-m", "700", target])?;
            rest_back.push(place.theirs(&[&path, "restore"])?);
            place.remove("back")?;
        }
    }
    let full = place.newest()?;
    let number = |value: &serde_json::Value, key: &str| value[key].as_f64().unwrap_or(0.0);
    let bytes = number(&full, "bytes");

    // A hundredth of the rows, in a hundredth of the pages.
    let hundredth = rows / 100;
    place
        .client
        .batch_execute(&format!(
            "update big set a = a + 1 where id between 1000 and {}",
            1000 + hundredth
        ))
        .await?;
    place.archived().await?;
    let incremental = place.ours(&["backup", "--incremental"])?;
    let newest = place.newest()?;
    let read = number(&newest, "read_bytes");
    let rest_incremental = match place.pgbackrest {
        true => Some(place.theirs(&["--type=incr", "backup"])?),
        false => None,
    };

    let mib = |bytes: f64| bytes / f64::from(1 << 20);
    let mut findings = Findings::default();
    findings.note(format!(
        "A cluster of {:.0} MiB with data checksums ({rows} rows of some {BYTES_A_ROW:.0} bytes and their index), all peers on \
         its host, into directories; zstd 1 where something is compressed. Seconds, min / median / max.",
        mib(bytes)
    ));
    let mut lines = vec![
        ("backup over the protocol", &wire, "into the store"),
        ("backup --local", &local, "into the store"),
        ("pg_basebackup", &base, "plain, not compressed"),
        ("pg_basebackup -Ft, zstd", &packed, "compressed by the client"),
        ("restore", &back, "with fsync"),
        ("restore --delta", &delta, "nothing has changed"),
    ];
    if place.pgbackrest {
        lines.push(("pgBackRest backup", &rest, "all processors"));
        lines.push(("pgBackRest restore", &rest_back, "all processors"));
    }
    let lines: Vec<Vec<String>> = lines
        .iter()
        .map(|(name, seconds, note)| {
            let rate = mib(bytes) / median(seconds);
            vec![
                (*name).to_owned(),
                spread(seconds),
                format!("{rate:.0} MiB/s"),
                (*note).to_owned(),
            ]
        })
        .collect();
    findings.table(&["what", "seconds", "rate", ""], &lines);
    findings.note(format!(
        "Stored: {:.0} MiB. After a change of a hundredth of the rows an incremental took {incremental:.2} s and read \
         {:.1} MiB of the cluster, {:.1} % of it{}.",
        mib(number(&full, "stored_bytes")),
        mib(read),
        read / bytes * 100.0,
        rest_incremental.map_or(String::new(), |seconds| format!("; pgBackRest's took {seconds:.2} s"))
    ));
    findings.verdicts.push(Verdict::at_least(
        "backup over the protocol beside pg_basebackup -Ft with zstd, ratio of times",
        1.0,
        median(&packed) / median(&wire),
        "×",
    ));
    if place.pgbackrest {
        findings.verdicts.push(Verdict::at_least(
            "backup --local beside pgBackRest, ratio of times",
            1.0,
            median(&rest) / median(&local),
            "×",
        ));
        findings.verdicts.push(Verdict::at_least(
            "restore beside pgBackRest, ratio of times",
            1.0,
            median(&rest_back) / median(&back),
            "×",
        ));
    }
    findings.verdicts.push(Verdict::at_most(
        "read by an incremental after a change of 1 %",
        2.0,
        read / bytes * 100.0,
        "% of the cluster",
    ));
    Ok(findings)
}
