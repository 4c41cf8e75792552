//! Receiving WAL: catching up, beside `pg_receivewal`, and what both lack when the server is killed under load.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::Context;
use skytide_fixtures::server::{Durability, Options, Server};
use skytide_fixtures::wait;
use skytide_sql::Lsn;
use skytide_wal::commit::Outcome;
use skytide_wal::store::DirStore;
use skytide_wal::tail::look;
use skytide_wal::{Decoder, Expected, SegmentNo, SegmentSize};
use tempfile::TempDir;

use super::Effort;
use crate::cpu;
use crate::figures::{Findings, Verdict, median, spread};
use crate::program::Program;

const DEADLINE: Duration = Duration::from_secs(600);
/// A copy that has not grown for so long is all that will come.
const SETTLE: Duration = Duration::from_millis(200);
const CLIENTS: usize = 4;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Peer {
    Ours,
    Plain,
    Lz4,
}

impl Peer {
    const ALL: [Peer; 3] = [Peer::Ours, Peer::Plain, Peer::Lz4];

    fn name(self) -> &'static str {
        match self {
            Peer::Ours => "skytide, zstd 1",
            Peer::Plain => "pg_receivewal",
            Peer::Lz4 => "pg_receivewal, lz4",
        }
    }
}

/// A catch-up of one peer.
struct Run {
    seconds: f64,
    cpu: f64,
    bytes: f64,
}

struct Stage {
    server: Server,
    dir: TempDir,
    program: PathBuf,
    size: SegmentSize,
}

pub async fn run(effort: Effort) -> anyhow::Result<Findings> {
    let count = u64::try_from(effort.size(48, 12))?;
    let kills = usize::try_from(effort.size(50, 5))?;
    let mut findings = Findings::default();
    let stage = Stage::new().await?;
    let (first, last) = stage.load(count, effort.reps).await?;
    let mut runs: Vec<Vec<Run>> = Peer::ALL.iter().map(|_| Vec::new()).collect();
    for rep in 0..effort.reps {
        for turn in 0..Peer::ALL.len() {
            let which = (turn + rep) % Peer::ALL.len();
            runs[which].push(stage.catch_up(Peer::ALL[which], rep, last).await?);
        }
    }
    let segments = (last.as_u64() - first.as_u64() + 1) as f64;
    findings.note(format!(
        "{segments} segments of a mixed load are on the server, and a slot for each run holds them; the time is from \
         the start of the process until the last whole segment is in its place. CPU is the receiving process's, for \
         each segment. skytide checks every record, compresses with zstd 1 and puts each segment with fsync of file \
         and directory; pg_receivewal checks nothing and fsyncs each segment. Server and receiver share the machine."
    ));
    let rows: Vec<Vec<String>> = Peer::ALL
        .iter()
        .zip(&runs)
        .map(|(peer, runs)| {
            let each = |of: fn(&Run) -> f64| runs.iter().map(of).collect::<Vec<f64>>();
            let wall: Vec<f64> = each(|run| run.seconds)
                .iter()
                .map(|s| s * 1e3 / segments)
                .collect();
            let cpu: Vec<f64> = each(|run| run.cpu).iter().map(|s| s * 1e3 / segments).collect();
            let bytes: Vec<f64> = each(|run| run.bytes).iter().map(|b| b / 1e6 / segments).collect();
            vec![
                peer.name().to_owned(),
                spread(&wall),
                spread(&cpu),
                format!("{:.1}", median(&bytes)),
            ]
        })
        .collect();
    findings.table(
        &[
            "",
            "ms a segment min / median / max",
            "CPU ms a segment",
            "MB a segment",
        ],
        &rows,
    );
    let of =
        |which: usize, value: fn(&Run) -> f64| median(&runs[which].iter().map(value).collect::<Vec<f64>>());
    for (which, peer) in [(1, "plain"), (2, "lz4")] {
        findings.verdicts.push(Verdict::at_most(
            format!("receive: time ÷ pg_receivewal {peer}"),
            1.2,
            of(0, |run| run.seconds) / of(which, |run| run.seconds),
            "×",
        ));
    }
    findings.verdicts.push(Verdict::at_most(
        "receive: CPU a segment",
        60.0,
        of(0, |run| run.cpu) * 1e3 / segments,
        "ms",
    ));
    drop(stage);

    let (ours, theirs) = Stage::new().await?.kills(kills).await?;
    findings.note(format!(
        "{CLIENTS} clients commit rows one by one (synchronous_commit = on, nobody in synchronous_standby_names); both \
         receivers follow at the same time, and all of the server's processes are killed {kills} times. What is on \
         the server's disk and not in the copy after the last whole record, once the receivers have written what they had got:"
    ));
    let row = |name: &str, lost: &[Lost]| {
        let bytes: Vec<f64> = lost.iter().map(|lost| lost.bytes as f64).collect();
        let commits: Vec<f64> = lost.iter().map(|lost| lost.commits as f64).collect();
        vec![name.to_owned(), spread(&commits), spread(&bytes)]
    };
    findings.table(
        &["", "commits min / median / max", "bytes min / median / max"],
        &[row("skytide", &ours), row("pg_receivewal", &theirs)],
    );
    let most = |lost: &[Lost]| lost.iter().map(|lost| lost.commits).max().unwrap_or(0) as f64;
    findings.verdicts.push(Verdict::at_most(
        "receive: most commits lost in one kill, beside pg_receivewal's",
        most(&theirs).max(CLIENTS as f64),
        most(&ours),
        "commits",
    ));
    Ok(findings)
}

/// What a copy lacked of what the dead server had.
struct Lost {
    bytes: u64,
    commits: u64,
}

impl Stage {
    async fn new() -> anyhow::Result<Stage> {
        let dir = tempfile::tempdir()?;
        fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o777))?;
        let program = dir.path().join("skytide");
        let built = Program::find()?;
        if fs::hard_link(built.path(), &program).is_err() {
            fs::copy(built.path(), &program)?;
        }
        let options = Options {
            durability: Durability::Safe,
            ..Options::default()
        };
        let options = options
            .with("max_wal_size", "16GB")
            .with("checkpoint_timeout", "1h")
            .with("wal_keep_size", "8GB");
        Ok(Stage {
            server: Server::start(options).await?,
            dir,
            program,
            size: SegmentSize::new(16 << 20).context("16 MiB")?,
        })
    }

    fn command(&self, program: &str) -> Command {
        let mut command = self.server.command(program);
        command
            // The server's end takes along whoever works in its data directory.
            .current_dir(self.dir.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        command
    }

    async fn flush_segment(&self) -> anyhow::Result<SegmentNo> {
        let client = self.server.connect("postgres").await?;
        let row = client
            .query_one("select pg_current_wal_flush_lsn()::text", &[])
            .await?;
        let lsn: Lsn = row.get::<_, &str>(0).parse()?;
        Ok(SegmentNo::holding(lsn, self.size))
    }

    /// A slot for each run, and then so many segments. The first and the last of them.
    async fn load(&self, count: u64, reps: usize) -> anyhow::Result<(SegmentNo, SegmentNo)> {
        let client = self.server.connect("postgres").await?;
        client
            .batch_execute("create table t (id bigint primary key, n int, v text); checkpoint")
            .await?;
        for slot in (0..reps).flat_map(|rep| (0..Peer::ALL.len()).map(move |which| slot(which, rep))) {
            client
                .execute("select pg_create_physical_replication_slot($1, true)", &[&slot])
                .await?;
        }
        let first = self.flush_segment().await?;
        client.batch_execute("set synchronous_commit = off").await?;
        let mut id = 0;
        while self.flush_segment().await?.as_u64() < first.as_u64() + count {
            client
                .batch_execute(&format!(
                    "insert into t select n, n % 1000, 'a row with some text ' || n \
                     from generate_series({id} + 1, {id} + 20000) n; \
                     update t set n = n + 1, v = md5(v) where id > {id} and id % 3 = 0; \
                     delete from t where id > {id} and id % 10 = 1"
                ))
                .await?;
            id += 20_000;
        }
        client.batch_execute("select pg_switch_wal()").await?;
        Ok((first, SegmentNo::new(first.as_u64() + count - 1)))
    }

    fn configure(&self, name: &str, slot: &str) -> anyhow::Result<PathBuf> {
        let conf = self.dir.path().join(format!("{name}.ini"));
        let store = self.dir.path().join(name);
        fs::write(
            &conf,
            format!(
                "[walmgr]\nstores = {}\nmaster_db = {}\nreceive_slot = {slot}\n",
                store.display(),
                self.server.dsn("postgres")
            ),
        )?;
        let made = self
            .command(&self.program.to_string_lossy())
            .arg("walmgr")
            .arg(&conf)
            .args(["--quiet", "create-store"])
            .status()?;
        anyhow::ensure!(made.success(), "create-store failed");
        Ok(conf)
    }

    fn start(&self, peer: Peer, name: &str, slot: &str) -> anyhow::Result<Receiver> {
        let place = self.dir.path().join(name);
        let mut command = match peer {
            Peer::Ours => {
                let conf = self.configure(name, slot)?;
                let mut command = self.command(&self.program.to_string_lossy());
                command.arg("walmgr").arg(conf).args(["--quiet", "receive"]);
                command
            }
            Peer::Plain | Peer::Lz4 => {
                let made = self.command("/bin/mkdir").arg(&place).status()?;
                anyhow::ensure!(made.success(), "mkdir failed");
                let mut command = self.command(&self.server.bin("pg_receivewal").to_string_lossy());
                command
                    .args(["-d", &self.server.dsn("postgres"), "-D"])
                    .arg(&place);
                if !slot.is_empty() {
                    command.args(["--slot", slot]);
                }
                if peer == Peer::Lz4 {
                    command.args(["--compress", "lz4"]);
                }
                command
            }
        };
        let child = command.stderr(Stdio::null()).spawn()?;
        Ok(Receiver { child, place })
    }

    async fn catch_up(&self, peer: Peer, rep: usize, last: SegmentNo) -> anyhow::Result<Run> {
        let which = Peer::ALL.iter().position(|other| *other == peer).unwrap_or(0);
        let slot = slot(which, rep);
        let name = format!("{slot}-wal");
        let file = format!("0000000100000000{:08X}", last.as_u64());
        let started = Instant::now();
        let receiver = self.start(peer, &name, &slot)?;
        let target = match peer {
            Peer::Ours => receiver.place.join(format!("wal/00000001/{file}.zst")),
            Peer::Plain => receiver.place.join(&file),
            Peer::Lz4 => receiver.place.join(format!("{file}.lz4")),
        };
        wait::until("the last segment", DEADLINE, async || {
            Ok(target.exists().then_some(()))
        })
        .await?;
        let seconds = started.elapsed().as_secs_f64();
        let cpu = cpu::of_process(receiver.child.id());
        let bytes = bytes_in(target.parent().unwrap_or(&target))?;
        drop(receiver);
        let client = self.server.connect("postgres").await?;
        // The walsender has to notice first.
        wait::until("the slot to be free", DEADLINE, async || {
            let dropped = client
                .execute("select pg_drop_replication_slot($1)", &[&slot])
                .await;
            Ok(dropped.ok())
        })
        .await?;
        let _ = fs::remove_dir_all(self.dir.path().join(name));
        Ok(Run { seconds, cpu, bytes })
    }

    async fn kills(self, kills: usize) -> anyhow::Result<(Vec<Lost>, Vec<Lost>)> {
        let client = self.server.connect("postgres").await?;
        client
            .batch_execute("create table k (id bigserial primary key, v text)")
            .await?;
        drop(client);
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        let mine = self.start(Peer::Ours, "ours-kill", "ours_kill")?;
        let other = self.start(Peer::Plain, "theirs-kill", "")?;
        for _ in 0..kills {
            let watcher = self.server.connect("postgres").await?;
            wait::until("both to follow", DEADLINE, async || {
                let row = watcher
                    .query_one(
                        "select count(*) from pg_stat_replication where state = 'streaming'",
                        &[],
                    )
                    .await?;
                Ok((row.get::<_, i64>(0) == 2).then_some(()))
            })
            .await?;
            let mut clients = Vec::new();
            for _ in 0..CLIENTS {
                let client = self.server.connect("postgres").await?;
                clients.push(tokio::spawn(async move {
                    let insert = "insert into k (v) values (repeat(md5(random()::text), 4))";
                    while client.batch_execute(insert).await.is_ok() {}
                }));
            }
            // That load runs, for as long as it takes.
            wait::until("some load", DEADLINE, async || {
                let row = watcher.query_one("select count(*) from k", &[]).await?;
                Ok((row.get::<_, i64>(0) > 300 * (ours.len() as i64 + 1)).then_some(()))
            })
            .await?;
            self.server.kill()?;
            for client in clients {
                client.await?;
            }
            let (our_end, their_end) = self.ends(&mine.place, &other.place).await?;
            ours.push(self.lost(our_end)?);
            theirs.push(self.lost(their_end)?);
            self.server.start_again().await?;
        }
        Ok((ours, theirs))
    }

    /// Behind the last whole record in both copies, once the receivers, which live, have written what they had got.
    async fn ends(&self, ours: &Path, theirs: &Path) -> anyhow::Result<(Lsn, Lsn)> {
        let mut before = None;
        loop {
            let look = look(&DirStore::open(ours)?).await?;
            let ends = (
                look.map_or(Lsn::INVALID, |found| found.boundary),
                self.received(theirs)?,
            );
            if before == Some(ends) {
                return Ok(ends);
            }
            before = Some(ends);
            tokio::time::sleep(SETTLE).await;
        }
    }

    /// Behind the last whole record of what `pg_receivewal` has.
    fn received(&self, place: &Path) -> anyhow::Result<Lsn> {
        let mut names: Vec<String> = fs::read_dir(place)?
            .flatten()
            .filter_map(|entry| entry.file_name().into_string().ok())
            .collect();
        names.sort();
        let last = names.last().context("pg_receivewal has nothing")?;
        let number = u64::from_str_radix(last.get(16..24).context("a segment's name")?, 16)?;
        let number = SegmentNo::new(number);
        let mut decoder = Decoder::new(number.start(self.size), self.size, Expected::default());
        let bytes = fs::read(place.join(last))?;
        let mut feed = decoder.feed(&bytes);
        while let Ok(Some(_)) = feed.next_record() {}
        Ok(decoder.record_boundary().unwrap_or(number.start(self.size)))
    }

    /// What the dead server has behind a position.
    fn lost(&self, from: Lsn) -> anyhow::Result<Lost> {
        let mut number = SegmentNo::holding(from, self.size);
        let mut decoder = Decoder::new(number.start(self.size), self.size, Expected::default());
        let mut commits = 0;
        loop {
            let name = format!("0000000100000000{:08X}", number.as_u64());
            let Ok(bytes) = fs::read(self.server.data_dir().join("pg_wal").join(name)) else {
                break;
            };
            let mut feed = decoder.feed(&bytes);
            let whole = loop {
                match feed.next_record() {
                    Ok(Some(record)) => {
                        let commit = record
                            .transaction_end()
                            .is_some_and(|end| end.outcome == Outcome::Committed);
                        commits += u64::from(commit && record.lsn >= from);
                    }
                    Ok(None) => break true,
                    Err(_) => break false,
                }
            };
            if !whole {
                break;
            }
            number = number.next();
        }
        let end = decoder.record_boundary().unwrap_or(from);
        Ok(Lost {
            bytes: end.bytes_since(from).unwrap_or(0),
            commits,
        })
    }
}

fn slot(which: usize, rep: usize) -> String {
    format!("bench_{which}_{rep}")
}

fn bytes_in(dir: &Path) -> anyhow::Result<f64> {
    let mut sum = 0.0;
    for entry in fs::read_dir(dir)? {
        sum += entry?.metadata()?.len() as f64;
    }
    Ok(sum)
}

/// A running receiver. It is killed when it is dropped.
struct Receiver {
    child: Child,
    place: PathBuf,
}

impl Drop for Receiver {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
