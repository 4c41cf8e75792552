//! A backup of a server on this host: its files are read where they are, several at a time, while one session keeps
//! the backup open. With a parent only the blocks are read that the archived WAL says have changed.
//!
//! The order of what happens:
//! 1. the directory is the server's, and the stores are this cluster's;
//! 2. `pg_backup_start` makes a checkpoint; for an incremental, the WAL since the parent's start is read;
//! 3. files are copied, `pg_control` as the last one;
//! 4. `pg_backup_stop` says what `backup_label` has to hold;
//! 5. from there on as over the protocol: WAL, the stores' contents, the manifest.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use skytide_sql::Lsn;
use skytide_sql::conn::{self, ConnectString};

use super::base::{Begun, Incoming, complete, extents_of, identify};
use super::claim::Claim;
use super::content::{ContentWriter, FRAME, Filler, finished};
use super::files::{Found, Tree};
use super::incremental::{Base, changes};
use super::manifest::{self, Backup, Contents, Extent};
use super::page::{PAGE, PageState, RelationPath, judge};
use super::stores::{Stores, read_manifest};
use super::wal;
use super::{BackupError, Kind, Label, Progress, Summary, unix_now};
use crate::TimelineId;
use crate::control::{self, ControlFile};
use crate::durable::{Attach, FileError};
use crate::page_buffer::PageBuffer;
use crate::walsender::{Client, Mode};

#[derive(Debug, Clone)]
pub struct Settings {
    pub data_dir: PathBuf,
    /// The backup that this one has only the changes to.
    pub parent: Option<Label>,
    pub fast_checkpoint: bool,
    pub accept_damage: bool,
    pub level: i32,
    /// Files that are read, and objects that are written, at the same time.
    pub jobs: usize,
    pub wal_timeout: Duration,
}

/// Takes a backup of the server that `target` names. Once `stop` is there nothing stays of it.
pub async fn take(
    target: &ConnectString,
    stores: Arc<Stores>,
    settings: &Settings,
    progress: &Arc<Progress>,
    stop: impl Future<Output = ()>,
) -> Result<Summary, BackupError> {
    progress.enter("checkpoint", 0);
    let started = unix_now();
    let mut walsender = Client::connect(target, Mode::Physical, "skytide walmgr").await?;
    let server_version = walsender.server_version_num();
    let (identity, timeline) = identify(&mut walsender).await?;
    drop(walsender);
    let session = conn::connect(target, "skytide walmgr")
        .await
        .map_err(BackupError::Connect)?;
    let server = Server(&session);
    let control = server.owns(&settings.data_dir).await?;
    if control.system_id != identity.system_id {
        return Err(not_its_directory(&settings.data_dir, "it is another cluster's"));
    }
    if let Some(label) = &settings.parent {
        let parent = read_manifest(&stores, label).await?.summary;
        let ground: Vec<Label> = std::iter::once(parent.label).chain(parent.sources).collect();
        stores.leave_out_without(&ground).await;
    }
    let claim = Claim::make(&stores, identity, timeline, started, settings.parent.as_ref()).await?;
    let begun = Begun {
        label: claim.label().clone(),
        identity,
        started,
    };
    let work = Box::pin(of_directory(
        &server,
        server_version,
        control,
        stores,
        begun,
        settings,
        progress,
    ));
    claim.hold(work, stop).await
}

/// Steps 2 to 5.
async fn of_directory(
    server: &Server<'_>,
    server_version: u32,
    control: ControlFile,
    stores: Arc<Stores>,
    begun: Begun,
    settings: &Settings,
    progress: &Arc<Progress>,
) -> Result<Summary, BackupError> {
    let Begun {
        label,
        identity,
        started,
    } = begun;
    let parent = match &settings.parent {
        Some(label) => Some(read_manifest(&stores, label).await?),
        None => None,
    };
    let data_checksums = control.data_checksum_version != 0;
    if let Some(parent) = &parent
        && parent.summary.data_checksums != data_checksums
    {
        // pg_checksums writes pages beside the log.
        return Err(BackupError::NoIncremental {
            parent: parent.summary.label.clone(),
            what: "data checksums were switched on or off since".into(),
        });
    }
    let kind = match parent {
        Some(_) => Kind::Incremental,
        None => Kind::Full,
    };
    let start_lsn = server
        .start(
            &format!("skytide {label}"),
            settings.fast_checkpoint,
            server_version,
        )
        .await?;
    let changes = match &parent {
        Some(parent) => {
            let timeline = server.timeline().await?;
            Some(changes(&stores, parent, timeline, start_lsn, &settings.data_dir, progress).await?)
        }
        None => None,
    };

    let version_dir = format!("PG_{}_{}", server_version / 10_000, control.catalog_version);
    let data_dir = settings.data_dir.clone();
    let tree = tokio::task::spawn_blocking(move || Tree::read(&data_dir, &version_dir));
    let tree = finished(tree.await)??;
    progress.enter("copying", tree.files.iter().map(|file| file.bytes).sum());

    let copier = Arc::new(Copier {
        writer: ContentWriter::new(stores.clone(), label.clone(), settings.level, settings.jobs),
        files: tree.files,
        next: AtomicUsize::new(0),
        read: AtomicU64::new(0),
        check_from: data_checksums.then_some(start_lsn.as_u64()),
        base: parent
            .as_ref()
            .zip(changes)
            .map(|(parent, changes)| Base::new(parent, changes)),
        inherited: Mutex::default(),
        progress: progress.clone(),
    });
    let mut contents = copy(&copier, settings.jobs).await?;

    let stopped = {
        // pg_control comes after everything else: recovery of a standby's backup ends by what it says.
        let mut filler = copier.writer.filler();
        let bytes = read_control(&settings.data_dir)?;
        let mut file = Incoming::new(control::PATH.to_owned(), None);
        file.append(&mut filler, &copier.writer, &bytes).await?;
        file.finish(&mut contents);
        let stopped = server.stop(server_version).await?;
        let mut file = Incoming::new("backup_label".to_owned(), None);
        file.append(&mut filler, &copier.writer, stopped.label_file.as_bytes())
            .await?;
        file.finish(&mut contents);
        filler.finish(&copier.writer).await?;
        stopped
    };
    let read_bytes = copier.read.load(Ordering::Relaxed);
    let copier = Arc::into_inner(copier).ok_or(BackupError::GivenUp)?;
    let inherited = copier.inherited.into_inner();
    let inherited = inherited.unwrap_or_else(PoisonError::into_inner);
    let (objects, stored_bytes) = copier.writer.finish().await?;
    contents.objects = objects;
    contents.dirs = tree.dirs;
    contents.files.sort_by(|a, b| a.path.cmp(&b.path));
    if let Some(first) = contents.damaged.first()
        && !settings.accept_damage
    {
        return Err(BackupError::DamagedPages {
            pages: contents.damaged.iter().map(|file| file.blocks.len() as u64).sum(),
            path: first.path.clone(),
            block: first.blocks.first().copied().unwrap_or(0),
        });
    }
    // It was accepted when the parent was taken.
    inherit(&mut contents.damaged, inherited);
    fail::fail_point!("backup::copied");

    let size = identity.segment_size;
    let needed = start_lsn..stopped.lsn;
    wal::wait_for(
        &stores,
        stopped.timeline,
        needed,
        size,
        settings.wal_timeout,
        progress,
    )
    .await?;
    let sources = match &parent {
        Some(parent) => {
            let older = parent.summary.sources.iter().cloned();
            std::iter::once(parent.summary.label.clone())
                .chain(older)
                .collect()
        }
        None => Vec::new(),
    };
    let backup = Backup {
        summary: Summary {
            label,
            kind,
            parent: settings.parent.clone(),
            sources,
            system_identifier: identity.system_id,
            segment_bytes: size.as_u32(),
            server_version,
            timeline: stopped.timeline.as_u32(),
            start_lsn,
            stop_lsn: stopped.lsn,
            started,
            finished: unix_now(),
            data_checksums,
            damaged_pages: contents.damaged.iter().map(|file| file.blocks.len() as u64).sum(),
            files: contents.files.len() as u64,
            bytes: contents.files.iter().map(|file| file.bytes).sum(),
            read_bytes,
            stored_bytes,
            tablespaces: tree.tablespaces,
        },
        contents,
    };
    let summary = complete(&stores, backup, progress).await?;
    // A purge that ran meanwhile may have taken what this one is built on.
    for source in &summary.sources {
        read_manifest(&stores, source).await?;
    }
    Ok(summary)
}

fn not_its_directory(path: &Path, what: &str) -> BackupError {
    BackupError::TargetDir {
        path: path.to_owned(),
        what: format!("is not the data directory of the server: {what}"),
    }
}

/// The control file, read until no write of the server is in the way.
fn read_control(data_dir: &Path) -> Result<Vec<u8>, BackupError> {
    let path = data_dir.join(control::PATH);
    let mut last = None;
    for _ in 0..10 {
        let bytes = std::fs::read(&path).to("read", &path)?;
        match ControlFile::parse(&bytes) {
            Ok(_) => return Ok(bytes),
            Err(error) => last = Some(error),
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    let what = last.map_or_else(String::new, |error| {
        format!("has no readable control file: {error}")
    });
    Err(BackupError::TargetDir { path, what })
}

struct Stopped {
    lsn: Lsn,
    timeline: TimelineId,
    label_file: String,
}

/// The session that keeps the backup open: the server forgets it when the session ends.
struct Server<'c>(&'c tokio_postgres::Client);

impl Server<'_> {
    async fn text(&self, sql: &str) -> Result<String, BackupError> {
        let row = self.0.query_one(sql, &[]).await.map_err(BackupError::Sql)?;
        row.try_get(0).map_err(BackupError::Sql)
    }

    /// The directory is this server's if its process for our session works there.
    async fn owns(&self, data_dir: &Path) -> Result<ControlFile, BackupError> {
        let pid = self.text("select pg_backend_pid()::text").await?;
        let cwd = PathBuf::from(format!("/proc/{pid}/cwd"));
        let theirs = std::fs::read_link(&cwd).map_err(|error| {
            not_its_directory(
                data_dir,
                &format!("process {pid} of it cannot be seen here ({error})"),
            )
        })?;
        let ours = std::fs::canonicalize(data_dir).to("find", data_dir)?;
        if theirs != ours {
            let what = format!("that is {}", theirs.display());
            return Err(not_its_directory(data_dir, &what));
        }
        let bytes = read_control(data_dir)?;
        ControlFile::parse(&bytes).map_err(|error| not_its_directory(data_dir, &error.to_string()))
    }

    async fn start(&self, label: &str, fast: bool, version: u32) -> Result<Lsn, BackupError> {
        // The third argument of the old name: not the exclusive kind.
        let sql = match version < 150_000 {
            true => "select pg_start_backup($1, $2, false)::text",
            false => "select pg_backup_start($1, $2)::text",
        };
        let row = self
            .0
            .query_one(sql, &[&label, &fast])
            .await
            .map_err(BackupError::Sql)?;
        let text: String = row.try_get(0).map_err(BackupError::Sql)?;
        text.parse().map_err(|_| BackupError::Incomplete("position"))
    }

    async fn timeline(&self) -> Result<TimelineId, BackupError> {
        let text = self
            .text("select timeline_id::text from pg_control_checkpoint()")
            .await?;
        text.parse().map_err(|_| BackupError::Incomplete("timeline"))
    }

    async fn stop(&self, version: u32) -> Result<Stopped, BackupError> {
        // Nobody waits for the archiver here: the stores themselves are asked.
        let sql = match version < 150_000 {
            true => "select lsn::text, labelfile from pg_stop_backup(false, false)",
            false => "select lsn::text, labelfile from pg_backup_stop(false)",
        };
        let row = self.0.query_one(sql, &[]).await.map_err(BackupError::Sql)?;
        let lsn: String = row.try_get(0).map_err(BackupError::Sql)?;
        let label_file: String = row.try_get(1).map_err(BackupError::Sql)?;
        let timeline = label_file
            .lines()
            .find_map(|line| line.strip_prefix("START TIMELINE: "));
        Ok(Stopped {
            lsn: lsn.parse().map_err(|_| BackupError::Incomplete("position"))?,
            timeline: timeline
                .and_then(|timeline| timeline.trim().parse().ok())
                .ok_or(BackupError::Incomplete("timeline"))?,
            label_file,
        })
    }
}

struct Copier {
    writer: ContentWriter,
    files: Vec<Found>,
    next: AtomicUsize,
    /// Bytes read from the cluster.
    read: AtomicU64,
    check_from: Option<u64>,
    base: Option<Base>,
    /// Damaged blocks that come from the parent.
    inherited: Mutex<Vec<manifest::DamagedFile>>,
    progress: Arc<Progress>,
}

/// Adds the parent's damaged blocks to those that were found now.
fn inherit(damaged: &mut Vec<manifest::DamagedFile>, inherited: Vec<manifest::DamagedFile>) {
    for file in inherited {
        match damaged.iter_mut().find(|found| found.path == file.path) {
            Some(found) => {
                found.blocks.extend(file.blocks);
                found.blocks.sort_unstable();
            }
            None => damaged.push(file),
        }
    }
}

async fn copy(copier: &Arc<Copier>, jobs: usize) -> Result<Contents, BackupError> {
    let runtime = tokio::runtime::Handle::current();
    let mut workers = Vec::new();
    for _ in 0..jobs.max(1) {
        let (copier, runtime) = (copier.clone(), runtime.clone());
        workers.push(tokio::task::spawn_blocking(move || {
            runtime.block_on(copier.work())
        }));
    }
    let mut contents = Contents::default();
    let mut failed = None;
    for worker in workers {
        match finished(worker.await)? {
            Ok(part) => {
                contents.files.extend(part.files);
                contents.damaged.extend(part.damaged);
            }
            Err(error) => {
                // The others stop at their next file.
                copier.next.store(usize::MAX / 2, Ordering::Relaxed);
                failed.get_or_insert(error);
            }
        }
    }
    failed.map_or(Ok(contents), Err)
}

impl Copier {
    async fn work(&self) -> Result<Contents, BackupError> {
        let mut filler = self.writer.filler();
        let mut contents = Contents::default();
        let mut buffer = PageBuffer::new(FRAME);
        while let Some(found) = self.files.get(self.next.fetch_add(1, Ordering::Relaxed)) {
            let file = match File::open(&found.at) {
                // Dropped meanwhile: replay drops it too.
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
                file => file.to("open", &found.at)?,
            };
            match self.base.as_ref().and_then(|base| base.of(found)) {
                None => {
                    self.whole(found, &file, &mut filler, &mut buffer, &mut contents)
                        .await?
                }
                Some((before, blocks)) => {
                    self.changed(found, &file, before, &blocks, &mut filler, &mut contents)
                        .await?;
                }
            }
        }
        filler.finish(&self.writer).await?;
        Ok(contents)
    }

    async fn whole(
        &self,
        found: &Found,
        file: &File,
        filler: &mut Filler,
        buffer: &mut PageBuffer,
        contents: &mut Contents,
    ) -> Result<(), BackupError> {
        let mut incoming = Incoming::new(found.path.clone(), self.check_from);
        let mut at = 0;
        // What it grows by meanwhile is replayed.
        let mut rest = file.take(found.bytes);
        loop {
            let part = buffer.fill(&mut rest).to("read", &found.at)?;
            if part.is_empty() {
                break;
            }
            incoming.append(filler, &self.writer, part).await?;
            at += part.len() as u64;
            self.progress.add(part.len() as u64);
        }
        self.read.fetch_add(at, Ordering::Relaxed);
        let before = contents.damaged.len();
        incoming.finish(contents);
        // A page may have been caught in the middle of a write: a second look finds it whole.
        for damaged in contents.damaged.iter_mut().skip(before) {
            damaged
                .blocks
                .retain(|block| self.is_damaged(found, file, *block));
        }
        contents.damaged.retain(|damaged| !damaged.blocks.is_empty());
        Ok(())
    }

    /// Changed blocks from the file, the others from the parent.
    async fn changed(
        &self,
        found: &Found,
        file: &File,
        before: &manifest::File,
        blocks: &std::collections::BTreeSet<u32>,
        filler: &mut Filler,
        contents: &mut Contents,
    ) -> Result<(), BackupError> {
        let page_bytes = PAGE as u64;
        let mut extents: Vec<Extent> = Vec::new();
        let mut done = 0;
        let mut page = vec![0; PAGE];
        let mut damaged = Vec::new();
        for block in blocks {
            let at = u64::from(*block) * page_bytes;
            extents_of(before, done, at - done, &mut extents);
            let count = read_at(file, &mut page, at, &found.at)?;
            if count < PAGE {
                // It was cut meanwhile, and what is missing here replay cuts, too.
                page.get_mut(count..).unwrap_or_default().fill(0);
            }
            let is_damaged = count == PAGE && self.is_damaged_page(found, &page, *block);
            if is_damaged && self.is_damaged(found, file, *block) {
                damaged.push(*block);
            }
            filler.append(&self.writer, &page, &mut extents).await?;
            self.read.fetch_add(page_bytes, Ordering::Relaxed);
            done = at + page_bytes;
        }
        extents_of(before, done, found.bytes - done, &mut extents);
        self.progress.add(found.bytes);
        let unchanged = blocks.is_empty() && before.bytes == found.bytes;
        // What is not read anew is as damaged as it was.
        if let Some(base) = &self.base {
            let end = found.bytes.min(before.bytes) / page_bytes;
            let blocks: Vec<u32> = base.damaged(&found.path, blocks, end).collect();
            if !blocks.is_empty() {
                let mut inherited = self.inherited.lock().unwrap_or_else(PoisonError::into_inner);
                inherited.push(manifest::DamagedFile {
                    path: found.path.clone(),
                    blocks,
                });
            }
        }
        if !damaged.is_empty() {
            contents.damaged.push(manifest::DamagedFile {
                path: found.path.clone(),
                blocks: damaged,
            });
        }
        contents.files.push(manifest::File {
            path: found.path.clone(),
            bytes: found.bytes,
            sums: before.sums.filter(|_| unchanged),
            extents,
        });
        Ok(())
    }

    fn is_damaged_page(&self, found: &Found, page: &[u8], block: u32) -> bool {
        let (Some(relation), Some(from), Ok(page)) =
            (RelationPath::parse(&found.path), self.check_from, page.try_into())
        else {
            return false;
        };
        judge(page, relation.first_block().saturating_add(block), from) == PageState::Damaged
    }

    fn is_damaged(&self, found: &Found, file: &File, block: u32) -> bool {
        let mut page = vec![0; PAGE];
        let read = file.read_exact_at(&mut page, u64::from(block) * PAGE as u64);
        // Gone meanwhile: so it does not matter.
        read.is_ok() && self.is_damaged_page(found, &page, block)
    }
}

/// Reads until the buffer is full or the file ends.
fn read_at(file: &File, buffer: &mut [u8], at: u64, path: &Path) -> Result<usize, FileError> {
    let mut filled = 0;
    while filled < buffer.len() {
        let room = buffer.get_mut(filled..).unwrap_or_default();
        match file.read_at(room, at + filled as u64) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(FileError::new("read", path, error)),
        }
    }
    Ok(filled)
}
