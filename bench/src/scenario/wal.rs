//! Reading WAL: parse and check every record beside `pg_waldump --stats`, and checking packed segments.
//!
//! One process after the other, each on one core; what counts is processor time, so that other work on the machine
//! does not decide.

use std::fs;
use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, ensure};
use skytide_fixtures::server::{Options, Server};
use skytide_wal::WalFileName;
use skytide_wal::archive::check_segment;
use skytide_wal::pack::{Packer, unpack};
use tempfile::TempDir;

use super::Effort;
use crate::cpu;
use crate::figures::{Findings, Verdict, median, percentile, spread};
use crate::program::Program;

/// A kind of WAL: whole segments of it in a directory.
struct Wal {
    name: &'static str,
    dir: PathBuf,
    segments: Vec<String>,
    bytes: f64,
    /// Of the server that wrote it.
    waldump: PathBuf,
}

pub async fn run(effort: Effort) -> anyhow::Result<Findings> {
    let count = usize::try_from(effort.size(16, 6))?;
    let stage = tempfile::tempdir()?;
    let small = Wal::small(&stage, count).await?;
    let images = Wal::images(&stage, count).await?;
    let program = Program::find()?;

    let mut findings = Findings::default();
    findings.note(format!(
        "{count} segments of 16 MiB each, in the page cache. Small: single-row inserts and updates of one table, \
         without page images. Images: random updates after checkpoints, most of it page images. Both programs check \
         the checksum of each record; `skytide wal stats` sums by relation too. MB of WAL for each second of \
         processor time, min / median / max of {} runs in turns.",
        runs(effort)
    ));
    let mut rows = Vec::new();
    for wal in [&small, &images] {
        let [mut peer, mut stats, mut verify] = [const { Vec::new() }; 3];
        for _ in 0..runs(effort) {
            let (first, last) = wal.ends()?;
            let mut command = Command::new(&wal.waldump);
            command
                .arg("--stats")
                .arg("--path")
                .arg(&wal.dir)
                .args([first, last]);
            peer.push(wal.rate(&mut command)?);
            for (what, rates) in [("stats", &mut stats), ("verify", &mut verify)] {
                let mut command = Command::new(program.path());
                command.args(["wal", what]).arg(&wal.dir);
                if what == "verify" {
                    command.arg("--closed");
                }
                rates.push(wal.rate(&mut command)?);
            }
        }
        for (what, rates) in [
            ("pg_waldump --stats", &peer),
            ("skytide wal stats", &stats),
            ("skytide wal verify", &verify),
        ] {
            rows.push(vec![
                wal.name.to_owned(),
                what.to_owned(),
                spread(rates),
                format!("{:.2}", median(rates) / median(&peer)),
            ]);
        }
        findings.verdicts.push(Verdict::at_least(
            format!("wal: reading {} ÷ pg_waldump --stats", wal.name),
            1.5,
            median(&stats) / median(&peer),
            "×",
        ));
    }
    findings.table(&["WAL", "", "MB/s", "÷ pg_waldump"], &rows);

    for wal in [&small, &images] {
        let (rates, share) = wal.verify_packed(effort)?;
        findings.note(format!(
            "Packed segments of {} ({:.0} % of their size) from memory, unpacked and every record checked, on one \
             core: {} MB of WAL a second (min / median / max by segment).",
            wal.name,
            share * 100.0,
            spread(&rates)
        ));
        findings.verdicts.push(Verdict::at_least(
            format!("wal: verify from zstd, {}", wal.name),
            700.0,
            percentile(&rates, 50.0),
            "MB/s",
        ));
    }
    Ok(findings)
}

fn runs(effort: Effort) -> usize {
    2 * effort.reps + 1
}

impl Wal {
    async fn server() -> anyhow::Result<Server> {
        let options = Options::default()
            .with("max_wal_size", "16GB")
            .with("min_wal_size", "1GB")
            .with("wal_keep_size", "8GB")
            .with("checkpoint_timeout", "1h")
            .with("autovacuum", "off")
            .with("synchronous_commit", "off")
            .with("wal_compression", "off");
        Server::start(options).await
    }

    async fn small(stage: &TempDir, count: usize) -> anyhow::Result<Wal> {
        let server = Wal::server().await?;
        let client = server.connect("postgres").await?;
        client
            .batch_execute("alter system set full_page_writes = off")
            .await?;
        client
            .batch_execute(
                "select pg_reload_conf(); \
                 create table t (id bigint primary key, n int, v text) with (fillfactor = 80)",
            )
            .await?;
        client.batch_execute("select pg_switch_wal()").await?;
        let mut id = 0;
        Wal::collect(&server, stage, "small records", count, async || {
            client
                .batch_execute(&format!(
                    "insert into t select n, n % 1000, 'text ' || n from generate_series({id} + 1, {id} + 20000) n; \
                     update t set n = n + 1 where id > {id}"
                ))
                .await?;
            id += 20_000;
            Ok(())
        })
        .await
    }

    async fn images(stage: &TempDir, count: usize) -> anyhow::Result<Wal> {
        let server = Wal::server().await?;
        let client = server.connect("postgres").await?;
        client
            .batch_execute(
                "create table t (id int primary key, n int, v text) with (fillfactor = 90); \
                 insert into t select n, n, repeat(md5(n::text), 10) from generate_series(1, 100000) n; \
                 select pg_switch_wal()",
            )
            .await?;
        Wal::collect(&server, stage, "page images", count, async || {
            // One row a page, so that nearly every record has an image.
            client
                .batch_execute("checkpoint; update t set n = n + 1 where id % 20 = 0")
                .await?;
            Ok(())
        })
        .await
    }

    /// Makes load until there are so many segments, and keeps copies of them.
    async fn collect(
        server: &Server,
        stage: &TempDir,
        name: &'static str,
        count: usize,
        mut load: impl AsyncFnMut() -> anyhow::Result<()>,
    ) -> anyhow::Result<Wal> {
        let client = server.connect("postgres").await?;
        let now = async || {
            let row = client.query_one("select pg_walfile_name(pg_current_wal_insert_lsn())", &[]);
            anyhow::Ok(row.await?.get::<_, String>(0))
        };
        let number = |name: &str| u64::from_str_radix(name.get(8..).unwrap_or_default(), 16);
        let first = now().await?;
        // 24 digits of which the last 16 count in this cluster: its WAL is short.
        while number(&now().await?)? - number(&first)? < count as u64 + 1 {
            load().await?;
        }
        let dir = stage.path().join(name.replace(' ', "-"));
        fs::create_dir(&dir)?;
        let mut segments = Vec::new();
        for offset in 0..count as u64 {
            let segment = format!(
                "{}{:016X}",
                first.get(..8).unwrap_or_default(),
                number(&first)? + offset
            );
            let from = server.data_dir().join("pg_wal").join(&segment);
            fs::copy(&from, dir.join(&segment)).with_context(|| format!("copy {}", from.display()))?;
            segments.push(segment);
        }
        let bytes = (count << 24) as f64;
        let waldump = server.bin("pg_waldump");
        ensure!(waldump.is_file(), "{} is not there", waldump.display());
        Ok(Wal {
            name,
            dir,
            segments,
            bytes,
            waldump,
        })
    }

    fn ends(&self) -> anyhow::Result<(&str, &str)> {
        let (first, last) = (self.segments.first(), self.segments.last());
        Ok((first.context("segments")?, last.context("segments")?))
    }

    /// MB for each second of the process's processor time.
    fn rate(&self, command: &mut Command) -> anyhow::Result<f64> {
        let before = cpu::of_children()?;
        let status = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()?;
        let seconds = cpu::of_children()? - before;
        // pg_waldump complains of the record that goes on behind the last segment.
        let program = Path::new(command.get_program());
        ensure!(
            status.success() || program.ends_with("pg_waldump"),
            "{command:?}: {status}"
        );
        Ok(self.bytes / 1e6 / seconds.max(0.001))
    }

    /// MB/s by segment, and the share of its size that it is packed to.
    fn verify_packed(&self, effort: Effort) -> anyhow::Result<(Vec<f64>, f64)> {
        let mut rates = Vec::new();
        let mut packed_bytes = 0.0;
        for segment in &self.segments {
            let name: WalFileName = segment.parse()?;
            let file = fs::read(self.dir.join(segment))?;
            let checked = check_segment(name, &file, None)?;
            let packed = Packer::new(1)?.frames(&file)?.finish(&checked.contents);
            packed_bytes += packed.len() as f64;
            // The best of some: what disturbs only takes longer.
            let mut best = f64::MAX;
            for _ in 0..runs(effort) {
                let started = Instant::now();
                let (_, bytes) = unpack(black_box(&packed))?;
                black_box(check_segment(name, &bytes, None)?);
                best = best.min(started.elapsed().as_secs_f64());
            }
            rates.push(file.len() as f64 / 1e6 / best);
        }
        Ok((rates, packed_bytes / self.bytes))
    }
}
