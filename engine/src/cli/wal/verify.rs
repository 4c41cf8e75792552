//! How far the WAL is good, and why it ends there.

use std::io::Write;

use serde_json::json;
use skytide_sql::Lsn;
use skytide_wal::verify::{
    Chain, ChainError, Commits, Ended, SegmentContext, SegmentReport, Tail, verify_segment,
};

use super::files::{Range, Source, WalFile};
use super::{Input, show_time};
use crate::cli::Outcome;

/// What the user knows of the files.
pub struct Known {
    pub flushed: Option<Lsn>,
    pub closed: bool,
    pub system_id: Option<u64>,
}

#[derive(Default)]
struct Summary {
    segments: u64,
    records: u64,
    commits: Commits,
    first: Option<Lsn>,
    boundary: Option<Lsn>,
    major: Option<u16>,
    ended: String,
    /// Each with the file it was found in.
    problems: Vec<(String, String)>,
    stray: Vec<(String, Lsn)>,
}

pub fn run(input: &Input, known: Known, as_json: bool, out: &mut impl Write) -> anyhow::Result<Outcome> {
    let (mut source, range) = input.open()?;
    source.system_id = known.system_id.or(source.system_id);
    let summary = check(&source, range, &known)?;
    let ok = summary.problems.is_empty();
    if as_json {
        let pairs = |items: &[(String, String)]| -> Vec<_> {
            items
                .iter()
                .map(|(file, what)| json!({"file": file, "problem": what}))
                .collect()
        };
        let stray: Vec<_> = summary
            .stray
            .iter()
            .map(|(file, lsn)| json!({"file": file, "lsn": lsn.to_string()}))
            .collect();
        let report = json!({
            "path": input.path.display().to_string(),
            "ok": ok,
            "system_id": source.system_id.map(|id| id.to_string()),
            "timeline": source.timeline.as_u32(),
            "major": summary.major,
            "segment_bytes": source.size.bytes(),
            "segments": summary.segments,
            "prepared_segments": source.prepared,
            "records": summary.records,
            "commits": summary.commits.committed,
            "aborts": summary.commits.aborted,
            "first_commit": summary.commits.first.map(show_time),
            "last_commit": summary.commits.last.map(show_time),
            "first_record": summary.first.map(|lsn| lsn.to_string()),
            "end_of_good_wal": summary.boundary.map(|lsn| lsn.to_string()),
            "ended": summary.ended,
            "problems": pairs(&summary.problems),
            "stray_bytes": stray,
        });
        writeln!(out, "{report}")?;
    } else {
        print(&source, &summary, out)?;
    }
    Ok(if ok { Outcome::Done } else { Outcome::No })
}

fn print(source: &Source, summary: &Summary, out: &mut impl Write) -> std::io::Result<()> {
    let or_unknown = |text: Option<String>| text.unwrap_or_else(|| "unknown".to_owned());
    writeln!(
        out,
        "system {}, PostgreSQL {}, timeline {}, segments of {} MiB",
        or_unknown(source.system_id.map(|id| id.to_string())),
        or_unknown(summary.major.map(|major| major.to_string())),
        source.timeline,
        source.size.bytes() >> 20
    )?;
    let commits = &summary.commits;
    write!(
        out,
        "{} segments, {} records, {} commits",
        summary.segments, summary.records, commits.committed
    )?;
    match commits.first.zip(commits.last) {
        Some((first, last)) => writeln!(out, " from {} to {}", show_time(first), show_time(last))?,
        None => writeln!(out)?,
    }
    if source.prepared > 0 {
        writeln!(out, "{} files hold no WAL of their names yet", source.prepared)?;
    }
    match summary.first.zip(summary.boundary) {
        Some((first, boundary)) => writeln!(out, "good from {first} to {boundary}: {}", summary.ended)?,
        None => writeln!(out, "no whole record: {}", summary.ended)?,
    }
    for (file, lsn) in &summary.stray {
        writeln!(
            out,
            "note: {file}: a byte that should be zero and is never read, at {lsn}"
        )?;
    }
    for (file, problem) in &summary.problems {
        writeln!(out, "CORRUPT: {file}: {problem}")?;
    }
    if summary.problems.is_empty() {
        writeln!(out, "ok")?;
    }
    Ok(())
}

fn check(source: &Source, range: Range, known: &Known) -> anyhow::Result<Summary> {
    let mut summary = Summary::default();
    let mut chain = Chain::new();
    let mut buffer = source.buffer();
    let last = source.files.last().map(|file| file.number);
    for file in source.files_in(range) {
        let bytes = match source.read(file, &mut buffer)? {
            Ok(bytes) => bytes,
            Err(what) => {
                summary.unreadable(file, what);
                summary.records += chain.crossing_records();
                chain = Chain::new();
                continue;
            }
        };
        let followed = last.is_some_and(|last| last > file.number);
        let context = SegmentContext {
            number: file.number,
            size: source.size,
            expected: source.expected(),
            tail: match known.flushed {
                _ if followed || (known.closed && !file.partial) => Tail::Closed,
                Some(flushed) => Tail::FlushedTo(flushed),
                None => Tail::Unknown,
            },
        };
        let report = verify_segment(bytes, &context);
        summary.add(file, &report);
        let link = chain.push(&report);
        if let Err(error) = link {
            // Nothing more can be said of the joint; what follows is checked on its own.
            let told = matches!(error, ChainError::AfterEnd { .. }) && !summary.problems.is_empty();
            if !told {
                summary.problem(file, error.to_string());
            }
            summary.records += chain.crossing_records();
            chain = Chain::new();
            chain.push(&report)?;
        }
    }
    summary.records += chain.crossing_records();
    Ok(summary)
}

impl Summary {
    fn add(&mut self, file: &WalFile, report: &SegmentReport) {
        self.segments += 1;
        self.records += report.records;
        self.commits.committed += report.commits.committed;
        self.commits.aborted += report.commits.aborted;
        self.commits.first = self.commits.first.or(report.commits.first);
        self.commits.last = report.commits.last.or(self.commits.last);
        self.major = report.major.map(|major| major.number()).or(self.major);
        if let Some(lsn) = report.stray_byte {
            self.stray.push((file.path.display().to_string(), lsn));
        }
        if !self.problems.is_empty() {
            // Good WAL ended before.
            if let Ended::Corrupt { stop, proof } = &report.ended {
                self.problem(file, format!("{stop} ({proof})"));
            }
            return;
        }
        self.first = self.first.or(report.first_record);
        self.boundary = report.boundary.or(self.boundary);
        self.ended = match &report.ended {
            Ended::Complete => match report.open {
                Some(open) => format!("the files end inside the record at {}", open.lsn),
                None => "the files end".to_owned(),
            },
            Ended::Switch => "the server switched to the next segment, and the files end".to_owned(),
            Ended::Torn { tail, stop } => match stop {
                Some(stop) => format!("then comes {tail} ({stop})"),
                None => format!("then comes {tail}"),
            },
            Ended::Corrupt { stop, proof } => {
                self.problem(file, format!("{stop} ({proof})"));
                "then comes damage".to_owned()
            }
        };
    }

    /// Nothing is known of its records.
    fn unreadable(&mut self, file: &WalFile, what: String) {
        self.segments += 1;
        if self.problems.is_empty() {
            self.ended = "then comes damage".to_owned();
        }
        self.problem(file, what);
    }

    fn problem(&mut self, file: &WalFile, what: String) {
        self.problems.push((file.path.display().to_string(), what));
    }
}
