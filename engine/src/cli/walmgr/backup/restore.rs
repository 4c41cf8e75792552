//! `restore`: a cluster's files out of a backup, and its server told how to recover.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context as _;
use serde::Serialize;
use skytide_sql::{Lsn, SlotName};
use skytide_wal::TimelineId;
use skytide_wal::backup::plan::{self, Plan, Target, WhichTimeline, show};
use skytide_wal::backup::recovery::{Action, Recovery, Role};
use skytide_wal::backup::restore::{self as place, Report, Settings};
use skytide_wal::backup::{Chain, Label, Progress};
use skytide_wal::walsender::Timestamp;

use super::{readable, shown};
use crate::cli::failure::Failure;
use crate::cli::output::OutputMode;
use crate::cli::walmgr::line;
use crate::cli::{Context, Outcome};
use crate::config::settings::WalmgrSettings;
use crate::config::unit;

pub const HELP: &str = "\
Run it as the user the server runs as. Nothing is copied before it is known that the WAL for the target is there.

Examples:
  skytide walmgr wal.ini restore latest /srv/new --dry-run
  skytide walmgr wal.ini restore latest /srv/new
  skytide walmgr wal.ini restore latest /srv/new --time '2026-11-25 18:45:00+01'
  skytide walmgr wal.ini restore latest /srv/new --before-xid 74021
  skytide walmgr wal.ini restore latest /var/lib/postgresql/17/main --delta --standby";

#[derive(clap::Args, Debug)]
pub struct RestoreBackupArgs {
    /// Which backup; latest: the newest one that ended before the target
    #[arg(default_value = "latest")]
    backup: String,
    /// The data directory to make [default: master_data]
    dir: Option<PathBuf>,
    #[command(flatten)]
    target: TargetArgs,
    /// Recover along this timeline: latest, current (the backup's) or a number
    #[arg(long, default_value = "latest", value_name = "TIMELINE")]
    timeline: String,
    /// What the server does at the target
    #[arg(long, value_enum, default_value = "promote", value_name = "ACTION")]
    action: ActionArg,
    /// Make a standby, which replays for ever
    #[arg(long, conflicts_with_all = ["target", "action"])]
    standby: bool,
    /// Where the standby streams from, beside the archive
    #[arg(long, requires = "standby", value_name = "CONNECT-STRING")]
    primary_conninfo: Option<String>,
    /// The slot it streams with
    #[arg(long, requires = "primary_conninfo", value_name = "SLOT",
          value_parser = |text: &str| SlotName::new(text))]
    primary_slot: Option<SlotName>,
    /// Use what is in the directories already: files that are the same stay
    #[arg(long)]
    delta: bool,
    /// Put a tablespace elsewhere; for each
    #[arg(long, value_name = "OLD=NEW", value_parser = mapping)]
    tablespace: Vec<(PathBuf, PathBuf)>,
    /// Objects read at the same time [default: backup_jobs]
    #[arg(long, value_name = "N")]
    jobs: Option<usize>,
    /// Only say what would be done
    #[arg(short = 'n', long)]
    pub dry_run: bool,
}

#[derive(clap::Args, Debug, Default)]
#[group(id = "target", multiple = false)]
struct TargetArgs {
    /// Up to the last commit before this moment; without an offset in this host's time zone
    #[arg(long, value_name = "TIME")]
    time: Option<String>,
    /// Up to this position: without what begins there or later
    #[arg(long, value_name = "LSN")]
    lsn: Option<Lsn>,
    /// Up to this restore point (pg_create_restore_point)
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// Up to and with this transaction
    #[arg(long, value_name = "XID")]
    xid: Option<u32>,
    /// Up to this transaction and without it
    #[arg(long, value_name = "XID")]
    before_xid: Option<u32>,
    /// Only as far as the backup needs
    #[arg(long)]
    immediate: bool,
}

#[derive(clap::ValueEnum, Debug, Clone, Copy, PartialEq, Eq)]
enum ActionArg {
    Promote,
    Pause,
    Shutdown,
}

impl RestoreBackupArgs {
    /// The newest backup, as a standby.
    pub fn standby(
        dir: &Path,
        primary_conninfo: String,
        primary_slot: Option<SlotName>,
        tablespace: Vec<(PathBuf, PathBuf)>,
    ) -> RestoreBackupArgs {
        RestoreBackupArgs {
            backup: "latest".to_owned(),
            dir: Some(dir.to_owned()),
            target: TargetArgs::default(),
            timeline: "latest".to_owned(),
            action: ActionArg::Promote,
            standby: true,
            primary_conninfo: Some(primary_conninfo),
            primary_slot,
            delta: false,
            tablespace,
            jobs: None,
            dry_run: false,
        }
    }

    pub fn delta(self, delta: bool) -> RestoreBackupArgs {
        RestoreBackupArgs { delta, ..self }
    }

    pub fn dry_run(self, dry_run: bool) -> RestoreBackupArgs {
        RestoreBackupArgs { dry_run, ..self }
    }
}

pub fn mapping(text: &str) -> Result<(PathBuf, PathBuf), String> {
    match text.split_once('=') {
        Some((old, new)) if Path::new(old).is_absolute() && Path::new(new).is_absolute() => {
            Ok((old.into(), new.into()))
        }
        _ => Err("expected two absolute paths, OLD=NEW".into()),
    }
}

impl TargetArgs {
    fn target(&self) -> anyhow::Result<Target> {
        Ok(match self {
            TargetArgs { time: Some(time), .. } => Target::Time(moment(time)?),
            TargetArgs { lsn: Some(lsn), .. } => Target::Lsn(*lsn),
            TargetArgs { name: Some(name), .. } => Target::Name(name.clone()),
            TargetArgs { xid: Some(xid), .. } => Target::Xid(*xid),
            TargetArgs {
                before_xid: Some(xid),
                ..
            } => Target::BeforeXid(*xid),
            TargetArgs { immediate: true, .. } => Target::Immediate,
            _ => Target::Latest,
        })
    }
}

/// A moment with an offset, or one of this host's time zone.
fn moment(text: &str) -> anyhow::Result<Timestamp> {
    const EPOCH_AFTER_UNIX: i64 = 946_684_800 * 1_000_000;
    let exact = text.parse::<jiff::Timestamp>().ok();
    let found = exact.or_else(|| {
        let local: jiff::civil::DateTime = text.parse().ok()?;
        Some(local.to_zoned(jiff::tz::TimeZone::system()).ok()?.timestamp())
    });
    let found = found.ok_or_else(|| {
        Failure::usage(format!("{text:?} is no moment"))
            .hint("They look like 2026-11-25 18:45:00 or 2026-11-25 18:45:00+01")
    })?;
    Ok(Timestamp::from_micros(found.as_microsecond() - EPOCH_AFTER_UNIX))
}

/// What is known before anything is done.
#[derive(Serialize)]
pub struct Restored {
    backup: Label,
    chain: Vec<Label>,
    data_dir: PathBuf,
    timeline: u32,
    first_segment: Option<String>,
    last_segment: Option<String>,
    segments: usize,
    /// The last one is what has arrived of it.
    ends_in_partial: bool,
    missing: Option<String>,
    end_lsn: Option<String>,
    last_commit_xid: Option<u32>,
    last_commit_time: Option<String>,
    files: u64,
    bytes: u64,
    done: Option<Done>,
}

#[derive(Serialize)]
struct Done {
    kept_files: u64,
    kept_bytes: u64,
    removed_files: u64,
    read_bytes: u64,
}

pub async fn run(
    settings: &WalmgrSettings,
    conf: &Path,
    args: &RestoreBackupArgs,
    context: &Context,
) -> anyhow::Result<Outcome> {
    let restored = restore(settings, conf, args, context).await?;
    match context.output.mode() {
        OutputMode::Json => context.output.json(&restored)?,
        OutputMode::Table => {
            context.output.line(restored.words())?;
            if restored.done.is_some() {
                let dir = restored.data_dir.display();
                context.output.line(format!("next: pg_ctl -D {dir} start"))?;
                if !args.standby {
                    context.output.note(
                        "it archives where the cluster did, and the stores follow whoever is promoted; to only try it out: \
                         pg_ctl -o \"-c archive_mode=off\" start",
                    );
                }
            }
        }
    }
    Ok(Outcome::Done)
}

pub async fn restore(
    settings: &WalmgrSettings,
    conf: &Path,
    args: &RestoreBackupArgs,
    context: &Context,
) -> anyhow::Result<Restored> {
    let target = args.target.target()?;
    if target == Target::Latest && args.action != ActionArg::Promote {
        return Err(Failure::usage("--action says what the server does where recovery is told to end, and no place is named")
            .hint("Name one (--time, --lsn, --name, --xid, --before-xid, --immediate). To look before it is promoted: --standby.")
            .into());
    }
    let label = match args.backup.as_str() {
        "latest" => None,
        text => Some(
            text.parse::<Label>()
                .map_err(|error| Failure::usage(error.to_string()))?,
        ),
    };
    let which = match args.timeline.as_str() {
        "latest" => WhichTimeline::Latest,
        "current" => WhichTimeline::Current,
        number => WhichTimeline::Number(
            number
                .parse::<TimelineId>()
                .map_err(|error| Failure::usage(error.to_string()))?,
        ),
    };
    let data_dir = args
        .dir
        .clone()
        .or_else(|| settings.data_dir.clone())
        .ok_or_else(|| {
            Failure::usage("it is not said where to")
                .hint("skytide walmgr CONF restore latest /path/of/the/data/directory")
        })?;

    let stores = Arc::new(readable(settings, context).await?);
    let plan = plan::make(&stores, label.as_ref(), &target, which).await?;
    let chain = Chain::read(&stores, &plan.backup.label).await?;
    let recovery = Recovery {
        role: match args.standby {
            true => Role::Standby {
                primary_conninfo: args.primary_conninfo.clone(),
                primary_slot_name: args.primary_slot.as_ref().map(ToString::to_string),
            },
            false => Role::Primary {
                stop_at: plan.stop_at.clone(),
                action: match args.action {
                    ActionArg::Promote => Action::Promote,
                    ActionArg::Pause => Action::Pause,
                    ActionArg::Shutdown => Action::Shutdown,
                },
            },
        },
        restore_command: line::restore_command(conf)?,
        timeline: match which {
            WhichTimeline::Latest => "latest".into(),
            WhichTimeline::Current => "current".into(),
            WhichTimeline::Number(number) => number.to_string(),
        },
    };
    let settings = Settings {
        data_dir: std::path::absolute(&data_dir).context("find the data directory")?,
        tablespaces: args.tablespace.clone(),
        delta: args.delta,
        jobs: args.jobs.unwrap_or(settings.backup_jobs),
        recovery,
    };
    let mut shown_plan = describe(&plan, &chain, &settings);
    place::check(&chain, &settings)?;
    if let Some(missing) = &shown_plan.missing {
        context.output.warn(&format!("{missing}; recovery ends there"));
    }
    let silent = stores.left_out();
    if !silent.is_empty() {
        let names: Vec<&str> = silent.iter().map(|(location, _)| location.as_str()).collect();
        context.output.warn(&format!(
            "the plan knows nothing of {}; recovery will not end before it answers, since it may have more WAL: if it is \
             lost, take it out of stores before the server is started",
            names.join(", ")
        ));
    }
    if args.dry_run {
        return Ok(shown_plan);
    }
    let progress = Arc::new(Progress::default());
    let work = place::restore(stores, chain, settings, progress.clone());
    let report: Report = shown(context, &progress, work).await?;
    shown_plan.done = Some(Done {
        kept_files: report.kept_files,
        kept_bytes: report.kept_bytes,
        removed_files: report.removed_files,
        read_bytes: report.read_bytes,
    });
    Ok(shown_plan)
}

fn describe(plan: &Plan, chain: &Chain, settings: &Settings) -> Restored {
    let segment = |segment: Option<&skytide_wal::SegmentName>| segment.map(ToString::to_string);
    Restored {
        backup: plan.backup.label.clone(),
        chain: chain.streams.iter().map(|(label, _)| label.clone()).collect(),
        data_dir: settings.data_dir.clone(),
        timeline: plan.timeline.as_u32(),
        first_segment: segment(plan.wal.segments.first()),
        last_segment: segment(plan.wal.segments.last()),
        segments: plan.wal.segments.len(),
        ends_in_partial: plan.wal.ends_in_partial,
        missing: plan
            .wal
            .gap
            .map(|(missing, next)| format!("{missing} is missing, {next} is there")),
        end_lsn: plan.end_lsn.map(|lsn| lsn.to_string()),
        last_commit_xid: plan.last_commit.map(|commit| commit.xid),
        last_commit_time: plan.last_commit.map(|commit| show(commit.time)),
        files: plan.backup.files,
        bytes: plan.backup.bytes,
        done: None,
    }
}

impl Restored {
    pub fn words(&self) -> String {
        let shown = self;
        let mut lines = vec![
            format!(
                "backup     {}, {} files, {}",
                shown.backup,
                shown.files,
                unit::show_size(shown.bytes)
            ),
            format!(
                "WAL        {} segments, {} to {}{}, timeline {}",
                shown.segments,
                shown.first_segment.as_deref().unwrap_or("none"),
                shown.last_segment.as_deref().unwrap_or("none"),
                if shown.ends_in_partial {
                    " (its beginning)"
                } else {
                    ""
                },
                shown.timeline
            ),
        ];
        if let Some(end) = &shown.end_lsn {
            lines.push(format!("ends at    {end}"));
        }
        if let (Some(xid), Some(time)) = (shown.last_commit_xid, &shown.last_commit_time) {
            lines.push(format!("last commit  transaction {xid} at {time}"));
        }
        lines.push(format!("directory  {}", shown.data_dir.display()));
        if let Some(done) = &shown.done {
            lines.push(format!(
                "restored; {} files ({}) were there already, {} were removed, {} were read",
                done.kept_files,
                unit::show_size(done.kept_bytes),
                done.removed_files,
                unit::show_size(done.read_bytes)
            ));
        }
        lines.join("\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_have_offsets_or_are_local() {
        let of = |text: &str| moment(text).unwrap().as_micros();
        assert_eq!(of("2000-01-01 00:00:00Z"), 0);
        assert_eq!(of("2000-01-01T02:00:01+02:00"), 1_000_000);
        assert_eq!(of("2000-01-01 02:00:01.5+02"), 1_500_000);
        of("2026-11-25 18:45:00");
        assert!(moment("yesterday").is_err());
    }
}
