//! `skytide wal`: read WAL files without a server.

mod dump;
mod files;
mod stats;
mod verify;

use std::io::{self, BufWriter, Write};
use std::path::PathBuf;

use clap::{Args, Subcommand};
use skytide_sql::Lsn;
use skytide_wal::TimelineId;
use skytide_wal::walsender::Timestamp;

use self::files::{Bound, Range, Source};
use super::output::OutputMode;
use super::{Context as Program, Outcome};

/// Read WAL files: check them, list their records, say who wrote them
///
/// Reads segments of PostgreSQL 13 to 18 of any segment size: one file, or a directory such as pg_wal or an archive.
/// Files may be compressed by zstd (NAME.zst). Nothing is changed, and no server is needed.
#[derive(Args, Debug)]
pub struct WalArgs {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Check every record, and say where good WAL ends and why
    ///
    /// Checks page headers, the chain from record to record, and each record's checksum, across segments and timelines.
    /// Where WAL stops, it tells the end of what was written from damage: by --flushed, by --closed, or by good WAL that
    /// follows. Exits with 3 if something is damaged or missing.
    #[command(after_help = "Examples:\n  \
        skytide wal verify /var/lib/postgresql/15/main/pg_wal\n  \
        skytide wal verify --closed /backup/archive 0/3000000\n  \
        skytide wal verify --json 000000010000000000000007.zst")]
    Verify {
        #[command(flatten)]
        input: Input,
        /// The server has written and synced its WAL up to here (pg_current_wal_flush_lsn)
        #[arg(long, value_name = "LSN", conflicts_with = "closed")]
        flushed: Option<Lsn>,
        /// Every file was finished by its server, as in an archive: the last one, too
        #[arg(long)]
        closed: bool,
        /// The files have to be of this system (pg_controldata: Database system identifier)
        #[arg(long, value_name = "NUMBER")]
        system_id: Option<u64>,
    },
    /// Print the records, one a line
    ///
    /// As pg_waldump does, without each record's own details. Row values are not shown. Exits with 3 if there is WAL
    /// behind the place where it cannot be read any more.
    #[command(after_help = "Examples:\n  \
        skytide wal dump /var/lib/postgresql/15/main/pg_wal 0/1500000 0/1600000\n  \
        skytide wal dump --json --limit 100 000000010000000000000001")]
    Dump {
        #[command(flatten)]
        input: Input,
        /// Stop after so many records
        #[arg(long, value_name = "N")]
        limit: Option<u64>,
    },
    /// Bytes by resource manager and by relation, page images apart
    #[command(after_help = "Examples:\n  \
        skytide wal stats /var/lib/postgresql/15/main/pg_wal\n  \
        skytide wal stats --relations 50 /backup/archive 0/3000000 0/5000000")]
    Stats {
        #[command(flatten)]
        input: Input,
        /// Show so many relations, those with most bytes first
        #[arg(long, value_name = "N", default_value_t = 20)]
        relations: usize,
    },
}

#[derive(Args, Debug)]
struct Input {
    /// A WAL file or a directory of them
    #[arg(value_name = "PATH")]
    path: PathBuf,
    /// First position: an LSN, or a segment's name
    start: Option<Bound>,
    /// Last position: an LSN that is not included any more, or a segment's name that is
    end: Option<Bound>,
    /// Follow this timeline; the newest one in the directory by default
    #[arg(long, value_name = "NUMBER")]
    timeline: Option<TimelineId>,
}

impl Input {
    fn open(&self) -> anyhow::Result<(Source, Range)> {
        let source = Source::open(&self.path, self.timeline)?;
        let range = source.range(self.start, self.end)?;
        Ok((source, range))
    }
}

/// Does what the arguments say; output goes to stdout.
pub fn run(args: WalArgs, program: &Program) -> anyhow::Result<Outcome> {
    let json = program.output.mode() == OutputMode::Json;
    let mut out = BufWriter::with_capacity(1 << 16, io::stdout().lock());
    let outcome = match args.command {
        Command::Verify {
            input,
            flushed,
            closed,
            system_id,
        } => verify::run(
            &input,
            verify::Known {
                flushed,
                closed,
                system_id,
            },
            json,
            &mut out,
        ),
        Command::Dump { input, limit } => dump::run(&input, limit, json, &mut out, program),
        Command::Stats { input, relations } => stats::run(&input, relations, json, &mut out, program),
    };
    let outcome = outcome.and_then(|code| Ok(out.flush().map(|()| code)?));
    match outcome {
        // Whoever reads has seen enough.
        Err(e)
            if e.downcast_ref::<io::Error>()
                .is_some_and(|e| e.kind() == io::ErrorKind::BrokenPipe) =>
        {
            Ok(Outcome::Done)
        }
        other => other,
    }
}

/// A server's time in UTC.
fn show_time(time: Timestamp) -> String {
    const EPOCH_MICROS: i64 = 946_684_800_000_000;
    let unix = time.as_micros().checked_add(EPOCH_MICROS);
    match unix.and_then(|micros| jiff::Timestamp::from_microsecond(micros).ok()) {
        Some(time) => time.to_string(),
        None => format!("{} microseconds after 2000", time.as_micros()),
    }
}
