//! `archive`: what `archive_command` runs.

use std::path::PathBuf;

use anyhow::Context as _;
use skytide_wal::archive::{ArchiveError, Archiver, Report, Settings, Source};
use skytide_wal::{TimelineId, WalFileName};
use tracing::{info, warn};

use super::client::{self, Reply};
use super::{store, wire::Ask};
use crate::causes;
use crate::cli::Outcome;
use crate::cli::failure::{Advice, Failure};
use crate::config::settings::WalmgrSettings;

pub const HELP: &str = "\
Exit code 0: the file is durable in as many stores as stores_needed says. Anything else: PostgreSQL keeps the file and \
asks again.

Example:
  archive_command = 'skytide walmgr /etc/skytide/wal.ini archive %p %f'";

#[derive(clap::Args, Debug)]
pub struct ArchiveArgs {
    /// The file (%p)
    path: PathBuf,
    /// Its name (%f)
    name: String,
    /// Where the daemon listens, if not beside the configuration file
    #[arg(long)]
    socket: Option<PathBuf>,
    /// Do not ask the daemon
    #[arg(long, conflicts_with = "socket")]
    alone: bool,
}

pub async fn run(settings: &WalmgrSettings, args: &ArchiveArgs) -> anyhow::Result<Outcome> {
    let name = parse_name(&args.name)?;
    // Beside the configuration file nobody answered, or we would not be here.
    if !args.alone
        && let Some(socket) = &args.socket
        && let Some(request) = client::request(Ask::Archive, args.name.as_ref(), args.path.as_os_str())
    {
        match client::call(socket, &request) {
            Reply::Answer(0, _) => return Ok(Outcome::Done),
            Reply::Answer(_, message) => return Err(Failure::new(message).into()),
            Reply::Nobody => {}
            Reply::Silent => warn!("{}; it is archived without it", client::silent(socket)),
        }
    }
    let path = std::path::absolute(&args.path).context("find the file")?;
    let archiver = archiver(settings)?;
    let report = archiver.archive(Source { path, name }).await?;
    say(&report);
    // The file is safe whatever becomes of this.
    match archiver.fill_before(name).await {
        Ok(0) => {}
        Ok(files) => info!(files, "stores were given what they lacked"),
        Err(error) => warn!("a store may lack files: {}", causes::chain(&error)),
    }
    Ok(Outcome::Done)
}

pub fn parse_name(name: &str) -> anyhow::Result<WalFileName> {
    name.parse()
        .map_err(|error: skytide_wal::segment::ParseNameError| Failure::usage(error.to_string()).into())
}

pub fn archiver(settings: &WalmgrSettings) -> anyhow::Result<Archiver> {
    Ok(Archiver::new(Settings {
        stores: store::open_all(settings)?,
        needed: settings.stores_needed,
        level: settings.compression_level,
        system_id: store::system_id(settings)?,
    }))
}

pub fn say(report: &Report) {
    for error in &report.behind {
        warn!(name = %report.name, "a store was left behind: {}", causes::chain(error));
    }
    let (bytes, packed) = (report.file_bytes, report.packed_bytes);
    match &report.span {
        Some(span) => info!(
            name = %report.name, end = %span.end_lsn, records = span.records, bytes, packed, "archived"
        ),
        None => info!(name = %report.name, bytes, packed, "archived"),
    }
}

impl Advice for ArchiveError {
    fn hint(&self) -> Option<String> {
        match self {
            ArchiveError::Damaged { .. } => Some(
                "The file is damaged on the server's own disk: look at that disk. A standby may have a sound copy; \
                 put it in this one's place, or take a new base backup before the file is needed."
                    .into(),
            ),
            ArchiveError::Diverged { .. } => Some(
                "Stop one of the two servers, or give it a store of its own. A former primary has to be rewound \
                 (pg_rewind) or copied anew before it may archive again."
                    .into(),
            ),
            ArchiveError::Unlinked { .. } => Some(
                "Another server archives under this one's name, or this one was restored to an earlier time without \
                 a new timeline: stop one of the two, or give this one stores of its own."
                    .into(),
            ),
            ArchiveError::Replaced { timeline, .. } => Some(replaced(*timeline)),
            ArchiveError::DamagedCopy { location, .. } => Some(format!(
                "Remove the damaged file from {location}; it is archived anew when PostgreSQL asks again."
            )),
            ArchiveError::Identity(error) => error.hint(),
            ArchiveError::Store(error) => store::hint(error),
            ArchiveError::TooFew { source, .. } => source.hint(),
            _ => None,
        }
    }
}

/// What to do about two servers of which one went on from the other's timeline.
pub fn replaced(timeline: TimelineId) -> String {
    format!(
        "Stop the server that was replaced; it has to be rewound (pg_rewind) or copied anew. Where it is the right one and \
         timeline {timeline} was a trial that archived here: stop the trial, and skytide walmgr CONF drop-timeline {timeline}"
    )
}

/// An error and what to do about it, for a client that only passes it on.
pub fn explain(error: &ArchiveError) -> String {
    let hint = error
        .hint()
        .map_or(String::new(), |hint| format!("\nHINT:  {hint}"));
    format!("ERROR:  {}{hint}", causes::chain(error))
}
