//! `cleanup`: this host keeps no WAL and no backups any more.

use std::io;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use serde::Serialize;
use skytide_sql::conn::connect;
use skytide_wal::server;
use skytide_wal::store::DirStore;
use skytide_wal::store::identity::Identity;

use super::{lock, passfile};
use crate::cli::failure::Failure;
use crate::cli::output::OutputMode;
use crate::cli::walmgr::store;
use crate::cli::{Context, Outcome};
use crate::config::settings::{StoreAt, WalmgrSettings};

pub const HELP: &str = "\
Removes the stores that are directories, with every backup and all WAL in them, and the configuration. It is refused \
without --yes, while a server archives there (stop), while the daemon runs, and if a store is another cluster's. Data \
directories stay. purge is what removes only what is not needed.

Examples:
  skytide walmgr /etc/skytide/wal.ini cleanup --dry-run
  skytide walmgr /etc/skytide/wal.ini cleanup --yes";

/// What a store has in its directory (docs/format/store.md), and what other commands put there.
const CONTENTS: [&str; 7] = [
    "backup",
    "history",
    "partial",
    "wal",
    "identity",
    "BACKUPLOCK",
    DirStore::MARK,
];

#[derive(clap::Args, Debug)]
pub struct CleanupArgs {
    /// It is meant
    #[arg(long)]
    yes: bool,
    /// Leave the configuration
    #[arg(long)]
    keep_config: bool,
    /// Take the primary's password out of ~/.pgpass
    #[arg(long)]
    remove_password: bool,
    /// Only say what would go
    #[arg(short = 'n', long)]
    pub dry_run: bool,
    #[arg(long, hide = true, value_name = "TEXT")]
    ssh_remove_key: Option<String>,
}

/// How a path goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Going {
    /// With all that is in it.
    Whole,
    /// Only when nothing else is in it.
    IfEmpty,
}

#[derive(Serialize)]
struct Report {
    removed: Vec<PathBuf>,
}

pub async fn run(
    settings: &WalmgrSettings,
    conf: &Path,
    args: &CleanupArgs,
    context: &Context,
) -> anyhow::Result<Outcome> {
    if args.ssh_remove_key.is_some() {
        context
            .output
            .warn("nothing was ever sent over ssh, so no key is removed");
    }
    not_in_use(settings).await?;
    let mut going = Vec::new();
    for at in &settings.stores {
        if let StoreAt::Dir(dir) = at
            && dir.is_dir()
        {
            is_ours(settings, dir).await?;
            let there = CONTENTS
                .iter()
                .map(|name| dir.join(name))
                .filter(|path| path.exists());
            going.extend(there.map(|path| (path, Going::Whole)));
            going.push((dir.clone(), Going::IfEmpty));
        }
    }
    let beside = [conf.to_owned(), conf.with_extension("periodic")];
    let beside = beside
        .into_iter()
        .filter(|path| !args.keep_config && path.exists());
    going.extend(beside.map(|path| (path, Going::Whole)));
    if !args.dry_run && !args.yes {
        let list: Vec<String> = going.iter().map(|(path, _)| path.display().to_string()).collect();
        return Err(
            Failure::usage("cleanup removes every backup and all WAL, and was not told --yes")
                .detail(list.join("\n"))
                .hint("cleanup --yes; there is no way back.")
                .into(),
        );
    }
    if !args.dry_run {
        for (path, how) in &going {
            remove(path, *how)?;
        }
        if let (true, Some(server)) = (args.remove_password, &settings.server) {
            passfile::remove(server)?;
        }
    }
    if context.output.mode() == OutputMode::Json {
        let removed = going.into_iter().map(|(path, _)| path).collect();
        context.output.json(&Report { removed })?;
        return Ok(Outcome::Done);
    }
    for (path, _) in &going {
        context.output.line(path.display().to_string())?;
    }
    if args.dry_run {
        context.output.note("nothing was removed");
    }
    Ok(Outcome::Done)
}

async fn not_in_use(settings: &WalmgrSettings) -> anyhow::Result<()> {
    lock::no_daemon(settings)?;
    let Some(server) = &settings.server else {
        return Ok(());
    };
    // A server that does not answer archives nothing now; if it comes back, its archive_command fails and it keeps its WAL.
    let Ok(session) = connect(server, &settings.process.job_name).await else {
        return Ok(());
    };
    let mode = server::running(&session, "archive_mode").await?;
    let command = server::running(&session, "archive_command")
        .await?
        .unwrap_or_default();
    match mode.as_deref() != Some("off") && command.contains("walmgr") {
        true => Err(Failure::new("the server archives by this program")
            .detail(format!("archive_command = {command}"))
            .hint("skytide walmgr CONF stop, then cleanup.")
            .into()),
        false => Ok(()),
    }
}

/// An empty store may go, too; a directory that is none stays, whatever is in it.
async fn is_ours(settings: &WalmgrSettings, dir: &Path) -> anyhow::Result<()> {
    let found = match DirStore::open(dir) {
        Ok(store) => Identity::read(&store).await?,
        Err(_) => None,
    };
    let empty = std::fs::read_dir(dir)
        .with_context(|| format!("look into {}", dir.display()))?
        .flatten()
        .all(|entry| entry.file_name() == DirStore::MARK);
    let (Some(found), own) = (found, store::system_id(settings).ok().flatten()) else {
        return match empty {
            true => Ok(()),
            false => Err(
                Failure::new(format!("{} is not empty and no store", dir.display()))
                    .hint("Remove it yourself if it may go.")
                    .into(),
            ),
        };
    };
    match own {
        Some(own) if own != found.system_id => Err(Failure::new(format!(
            "store {} is of the cluster with system identifier {}, the data directory of {own}",
            dir.display(),
            found.system_id
        ))
        .hint("Take it out of stores.")
        .into()),
        _ => Ok(()),
    }
}

fn remove(path: &Path, how: Going) -> anyhow::Result<()> {
    let removed = match how {
        Going::Whole if path.is_dir() => std::fs::remove_dir_all(path),
        Going::Whole => std::fs::remove_file(path),
        Going::IfEmpty => match std::fs::remove_dir(path) {
            // Something of others is in it, or a file system is mounted there.
            Err(error)
                if [io::ErrorKind::DirectoryNotEmpty, io::ErrorKind::ResourceBusy]
                    .contains(&error.kind()) =>
            {
                Ok(())
            }
            removed => removed,
        },
    };
    removed.with_context(|| format!("remove {}", path.display()))
}
