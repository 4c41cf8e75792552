//! Recovery: a server replays archived segments that `restore_command` gets for it, ours beside pgBackRest's and beside
//! a copy of plain files, and what a call takes without replay.

use std::path::{Path, PathBuf};
use std::process::Child;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use skytide_fixtures::server::{Durability, Options, Server, Where, free_port};
use skytide_fixtures::wait;

use super::Effort;
use super::archive::{PGBACKREST, Stage, done};
use crate::figures::{Findings, Verdict, median, percentile, spread};

const DEADLINE: Duration = Duration::from_secs(120);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Daemon,
    Alone,
    PgBackRestAsync,
    PgBackRest,
    Copy,
}

impl Way {
    const ALL: [Way; 5] = [
        Way::Daemon,
        Way::Alone,
        Way::PgBackRestAsync,
        Way::PgBackRest,
        Way::Copy,
    ];

    fn title(self) -> &'static str {
        match self {
            Way::Daemon => "skytide, daemon",
            Way::Alone => "skytide, alone",
            Way::PgBackRestAsync => "pgBackRest, asynchronous",
            Way::PgBackRest => "pgBackRest, plain",
            Way::Copy => "cp, not compressed",
        }
    }
}

/// Where each way finds the segments: a store and a repository that every way of a kind shares.
struct Archives {
    ours: PathBuf,
    theirs: Option<[PathBuf; 2]>,
}

#[derive(Default)]
struct Seen {
    redo: Vec<f64>,
    calls: Vec<f64>,
}

pub async fn run(effort: Effort) -> anyhow::Result<Findings> {
    let count = usize::try_from(effort.size(64, 16))?;
    let stage = Stage::new(count).await?;
    let ours = stage.configure("store")?;
    stage.archive_all(&ours)?;
    let theirs = match stage.has_pgbackrest() {
        true => {
            let plain = stage.configure_pgbackrest("repo", false)?;
            stage.push_all(&plain)?;
            // The same repository, asked in another way.
            let text = std::fs::read_to_string(&plain)?;
            let other = plain.with_file_name("asynchronous.conf");
            std::fs::write(&other, text.replace("archive-async=n", "archive-async=y"))?;
            Some([other, plain])
        }
        false => None,
    };
    let archives = Archives { ours, theirs };
    let mut seen: Vec<(Way, Seen)> = Way::ALL
        .into_iter()
        .filter(|way| archives.has(*way))
        .map(|way| (way, Seen::default()))
        .collect();
    let ways = seen.len();
    for rep in 0..effort.reps {
        for turn in 0..ways {
            let (way, seen) = &mut seen[(turn + rep) % ways];
            seen.redo.push(recovery(&stage, &archives, *way).await?);
            seen.calls.extend(calls(&stage, &archives, *way).await?);
        }
    }

    let mut findings = Findings::default();
    findings.note(format!(
        "A server recovers from {count} archived segments of a mixed load ({:.0} MiB) on the same disk; seconds of redo as it says \
         itself. Then restore_command alone, as a process for each segment, one after the other, without replay. zstd 1; \
         skytide checks the sum of a segment before it serves it, which was made when each of its records was checked, and keeps up to 16 ahead; pgBackRest with two processes.",
        stage.bytes / f64::from(1 << 20)
    ));
    let rows: Vec<Vec<String>> = seen
        .iter()
        .map(|(way, seen)| {
            let calls: Vec<f64> = seen.calls.iter().map(|s| s * 1e3).collect();
            vec![
                way.title().to_owned(),
                spread(&seen.redo),
                format!("{:.1}", stage.bytes / 1e6 / median(&seen.redo)),
                format!("{:.1}", calls.iter().sum::<f64>() / calls.len() as f64),
                format!("{:.1}", median(&calls)),
                format!("{:.1}", percentile(&calls, 99.0)),
            ]
        })
        .collect();
    findings.table(
        &[
            "",
            "redo, s, min / median / max",
            "MB/s",
            "ms a call, mean",
            "median",
            "p99",
        ],
        &rows,
    );
    let of = |way: Way| seen.iter().find(|(known, _)| *known == way).map(|(_, seen)| seen);
    let redo = |way: Way| of(way).map(|seen| median(&seen.redo));
    let ours = of(Way::Daemon).context("it was measured")?;
    let mean = ours.calls.iter().sum::<f64>() / ours.calls.len() as f64 * 1e3;
    findings.verdicts.push(Verdict::at_most(
        "recovery: restore_command a segment, with the daemon",
        15.0,
        mean,
        "ms",
    ));
    if let Some(theirs) = of(Way::PgBackRestAsync) {
        let theirs = theirs.calls.iter().sum::<f64>() / theirs.calls.len() as f64 * 1e3;
        // The mark of 15 ms stands beside 21 of pgBackRest.
        findings.verdicts.push(Verdict::at_most(
            "recovery: restore_command a segment ÷ pgBackRest asynchronous",
            0.71,
            mean / theirs,
            "×",
        ));
    }
    if let (Some(ours), Some(theirs)) = (redo(Way::Daemon), redo(Way::PgBackRestAsync)) {
        findings.verdicts.push(Verdict::at_least(
            "recovery: speed ÷ pgBackRest asynchronous",
            1.2,
            theirs / ours,
            "×",
        ));
    }
    if let (Some(ours), Some(floor)) = (redo(Way::Daemon), redo(Way::Copy)) {
        findings.verdicts.push(Verdict::at_most(
            "recovery: time ÷ that from plain files",
            1.1,
            ours / floor,
            "×",
        ));
    }
    Ok(findings)
}

impl Archives {
    fn has(&self, way: Way) -> bool {
        self.theirs.is_some() || !matches!(way, Way::PgBackRest | Way::PgBackRestAsync)
    }

    /// A command for the server of this data directory, or for whoever puts a name and a path in.
    fn line(&self, stage: &Stage, way: Way, data: &Path) -> anyhow::Result<String> {
        let [asynchronous, plain] = match &self.theirs {
            Some(confs) => [Some(&confs[0]), Some(&confs[1])],
            None => [None, None],
        };
        let get = |conf: Option<&PathBuf>| {
            let conf = conf.context("there is no pgBackRest")?.display();
            anyhow::Ok(format!(
                "{PGBACKREST} --config={conf} --stanza=main --pg1-path={} archive-get %f %p",
                data.display()
            ))
        };
        match way {
            Way::Daemon | Way::Alone => {
                let (client, conf) = (stage.client_program.display(), self.ours.display());
                Ok(format!("{client} {conf} restore-wal %f %p"))
            }
            Way::PgBackRestAsync => get(asynchronous),
            Way::PgBackRest => get(plain),
            Way::Copy => {
                let from = stage.server.data_dir().join("pg_wal");
                Ok(format!("/bin/cp {}/%f %p", from.display()))
            }
        }
    }
}

/// Ended when it is dropped.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

async fn daemon(stage: &Stage, archives: &Archives, way: Way) -> anyhow::Result<Option<Running>> {
    Ok(match way {
        Way::Daemon => Some(Running(stage.daemon(&archives.ours).await?)),
        _ => None,
    })
}

/// Seconds of redo, as the server's log has them.
async fn recovery(stage: &Stage, archives: &Archives, way: Way) -> anyhow::Result<f64> {
    let daemon = daemon(stage, archives, way).await?;
    let home = stage.path("recovered");
    let (bin_mkdir, bin_cp) = (Path::new("/bin/mkdir"), Path::new("/bin/cp"));
    done(stage.command(bin_mkdir).arg(&home))?;
    let data = home.join("data");
    done(
        stage
            .command(bin_cp)
            .arg("-a")
            .args([stage.base().as_path(), &data]),
    )?;
    done(
        stage
            .command(Path::new("/bin/touch"))
            .arg(data.join("recovery.signal")),
    )?;
    let options = Options {
        dir: Where::Persistent(home.clone()),
        port: Some(free_port()?),
        durability: Durability::Safe,
        ..Options::default()
    }
    .with("restore_command", archives.line(stage, way, &data)?)
    .with("archive_mode", "off")
    .with("max_wal_size", "8GB");
    let server = Server::start(options).await?;
    let seconds = wait::until("the end of recovery", DEADLINE, async || {
        let log = std::fs::read_to_string(server.log_path())?;
        let line = log.lines().find(|line| line.contains("redo done at"));
        ensure!(
            line.is_some() || !log.contains("archive recovery complete"),
            "{}: nothing was replayed: {log}",
            way.title()
        );
        let seconds = line.and_then(|line| line.split_once("elapsed: ")?.1.split_once(' '));
        Ok(seconds.map(|(seconds, _)| seconds.to_owned()))
    })
    .await?;
    wait::until_eq("pg_is_in_recovery", false, DEADLINE, async || {
        let client = server.connect("postgres").await?;
        Ok(client.query_one("select pg_is_in_recovery()", &[]).await?.get(0))
    })
    .await?;
    let rows: i64 = server
        .connect("postgres")
        .await?
        .query_one("select count(*) from t", &[])
        .await?
        .get(0);
    ensure!(rows > 0, "nothing was recovered");
    drop(server);
    drop(daemon);
    // pgBackRest's helpers end a moment later than the server.
    wait::until("the directory to go", DEADLINE, async || {
        Ok(done(stage.command(Path::new("/bin/rm")).arg("-rf").arg(&home)).ok())
    })
    .await?;
    Ok(seconds.parse()?)
}

/// Seconds of each call, in the order of recovery.
async fn calls(stage: &Stage, archives: &Archives, way: Way) -> anyhow::Result<Vec<f64>> {
    let daemon = daemon(stage, archives, way).await?;
    let target = stage.path("RECOVERYXLOG");
    let line = archives.line(stage, way, stage.server.data_dir())?;
    let mut seconds = Vec::new();
    for name in &stage.segments {
        let line = line
            .replace("%f", name)
            .replace("%p", &target.display().to_string());
        let mut words = line.split(' ');
        let mut command = stage.command(Path::new(words.next().context("a program")?));
        command.args(words);
        let started = Instant::now();
        done(&mut command)?;
        seconds.push(started.elapsed().as_secs_f64());
    }
    drop(daemon);
    done(stage.command(Path::new("/bin/rm")).arg("-f").arg(&target))?;
    Ok(seconds)
}
