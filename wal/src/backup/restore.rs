//! A cluster's files out of a backup.
//!
//! The order of what happens:
//! 1. the directories are looked at: an empty one, or one of this cluster whose server is down;
//! 2. a marker is put there and into each tablespace's place, and `pg_control` removed: from now on no server starts on
//!    it, until step 6;
//! 3. what the backup does not have is removed; files that are the same stay;
//! 4. the pieces are fetched, each one once, checked and written, several at a time;
//! 5. everything is synced; recovery is set up;
//! 6. the tablespaces' markers go, `pg_control` gets its name, the data directory's marker goes.

mod dir;
mod marker;

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use self::dir::TargetDirs;
use super::content::{FRAME, FrameReader, OBJECT, finished, frame_range};
use super::manifest::{self, Object};
use super::recovery::Recovery;
use super::stores::{Chain, Stores};
use super::{BackupError, Label, Progress};
use crate::control;
use crate::durable::{self, Attach, FileError, WRITE_BYTES};
use crate::page_buffer::PageBuffer;

/// What stands in a directory while it is being restored.
pub const MARKER: &str = "skytide-restore.unfinished";
const CONTROL_ASIDE: &str = "global/pg_control.restored";
const AUTO_CONF: &str = "postgresql.auto.conf";
/// Ours to write, whatever the backup has.
const SIGNALS: [&str; 2] = ["recovery.signal", "standby.signal"];

#[derive(Debug, Clone)]
pub struct Settings {
    pub data_dir: PathBuf,
    /// Where tablespaces go that shall not go where they were.
    pub tablespaces: Vec<(PathBuf, PathBuf)>,
    /// Use what is in the directories already.
    pub delta: bool,
    /// Objects that are read at the same time.
    pub jobs: usize,
    pub recovery: Recovery,
}

/// What was done.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    pub files: u64,
    pub bytes: u64,
    /// Files that were there already.
    pub kept_files: u64,
    pub kept_bytes: u64,
    pub removed_files: u64,
    /// Read from the stores.
    pub read_bytes: u64,
}

/// Looks at the directories as [`restore`] does, and changes nothing.
pub fn check(chain: &Chain, settings: &Settings) -> Result<(), BackupError> {
    TargetDirs::new(&chain.backup.summary, settings)?.check(settings.delta)
}

pub async fn restore(
    stores: Arc<Stores>,
    chain: Chain,
    settings: Settings,
    progress: Arc<Progress>,
) -> Result<Report, BackupError> {
    let chain = Arc::new(chain);
    let settings = Arc::new(settings);
    let dirs = Arc::new(TargetDirs::new(&chain.backup.summary, &settings)?);
    let (prepared, writes) = {
        let (chain, settings, dirs, progress) =
            (chain.clone(), settings.clone(), dirs.clone(), progress.clone());
        let work = tokio::task::spawn_blocking(move || prepare(&chain, &settings, &dirs, &progress));
        finished(work.await)??
    };
    let mut report = prepared;
    progress.enter("restoring", report.bytes - report.kept_bytes);
    fail::fail_point!("restore::prepared");

    let jobs = settings.jobs.max(1);
    let permits = Arc::new(Semaphore::new(jobs));
    let mut running = JoinSet::new();
    for piece in pieces(&chain, &writes)? {
        while running.len() >= jobs * (1 + WAITING_A_JOB) {
            if let Some(done) = running.join_next().await {
                report.read_bytes += finished(done)??;
            }
        }
        let permit = permits.clone().acquire_owned().await;
        let permit = permit.map_err(|_| BackupError::GivenUp)?;
        let (stores, chain, dirs) = (stores.clone(), chain.clone(), dirs.clone());
        let progress = progress.clone();
        running.spawn(async move {
            let (read, written) = fetch(&stores, &chain, &dirs, piece, &progress).await?;
            drop(permit);
            // The disk works while the next objects are unpacked.
            finished(tokio::task::spawn_blocking(move || sync(&written)).await)??;
            Ok::<_, BackupError>(read)
        });
    }
    while let Some(done) = running.join_next().await {
        report.read_bytes += finished(done)??;
    }
    fail::fail_point!("restore::written");

    progress.enter("syncing", writes.len() as u64);
    let work = tokio::task::spawn_blocking(move || complete(&chain, &settings, &dirs, &writes, &progress));
    finished(work.await)??;
    Ok(report)
}

/// Steps 1 to 3. Returns which files, by their place in the manifest, are to be written.
fn prepare(
    chain: &Chain,
    settings: &Settings,
    dirs: &TargetDirs,
    progress: &Progress,
) -> Result<(Report, Vec<usize>), BackupError> {
    let contents = &chain.backup.contents;
    dirs.check(settings.delta)?;
    dirs.begin()?;
    let mut report = Report {
        files: contents.files.len() as u64,
        bytes: chain.backup.summary.bytes,
        ..Report::default()
    };
    report.removed_files = dirs.remove_others(&chain.backup)?;
    dirs.make(&contents.dirs)?;

    progress.enter("comparing", if settings.delta { report.bytes } else { 0 });
    let mut writes = Vec::new();
    for (number, file) in contents.files.iter().enumerate() {
        if SIGNALS.contains(&file.path.as_str()) {
            continue;
        }
        let path = dirs.path(&place(&file.path));
        if settings.delta {
            progress.add(file.bytes);
            if file.path != control::PATH && is_same(&path, file) {
                report.kept_files += 1;
                report.kept_bytes += file.bytes;
                continue;
            }
        }
        let made = open(&path, true).and_then(|made| made.set_len(file.bytes));
        made.to("create", &path)?;
        writes.push(number);
    }
    Ok((report, writes))
}

/// Where a file is written.
fn place(path: &str) -> String {
    match path == control::PATH {
        true => CONTROL_ASIDE.to_owned(),
        false => path.to_owned(),
    }
}

fn open(path: &Path, anew: bool) -> std::io::Result<File> {
    OpenOptions::new()
        .write(true)
        .create(anew)
        .truncate(anew)
        .mode(0o600)
        .open(path)
}

/// Files are compared in pieces that stay in the processor's cache for both checksums.
const COMPARED: usize = 256 << 10;

/// A file that is there, with both its checksums.
fn is_same(path: &Path, file: &manifest::File) -> bool {
    let Some(sums) = file.sums else { return false };
    let Ok(mut opened) = File::open(path) else {
        return false;
    };
    if !opened
        .metadata()
        .is_ok_and(|meta| meta.is_file() && meta.len() == file.bytes)
    {
        return false;
    }
    let (mut crc, mut other) = (0, crc32fast::Hasher::new());
    let mut buffer = PageBuffer::new(COMPARED.min(usize::try_from(file.bytes).unwrap_or(COMPARED).max(1)));
    let mut left = file.bytes;
    loop {
        match buffer.fill(&mut opened) {
            Ok([]) => break,
            Ok(part) => {
                crc = crc32c::crc32c_append(crc, part);
                other.update(part);
                left = left.saturating_sub(part.len() as u64);
            }
            Err(_) => return false,
        }
    }
    let mode = opened.set_permissions(std::fs::Permissions::from_mode(0o600));
    left == 0 && (crc, other.finalize()) == sums && mode.is_ok()
}

/// What is wanted of one object.
#[derive(Debug)]
struct Piece {
    stream: usize,
    number: u32,
    runs: Vec<Run>,
}

/// Bytes of an object, and the file they belong to.
#[derive(Debug)]
struct Run {
    /// In the object's part of the stream.
    from: usize,
    bytes: usize,
    file: usize,
    at: u64,
}

/// The files' extents by object, so that each object is read once.
fn pieces(chain: &Chain, writes: &[usize]) -> Result<Vec<Piece>, BackupError> {
    let bad = |what: String| BackupError::BadManifest {
        label: chain.backup.summary.label.clone(),
        what,
    };
    let mut by_object: BTreeMap<(usize, u64), Vec<Run>> = BTreeMap::new();
    for &number in writes {
        let Some(file) = chain.backup.contents.files.get(number) else {
            continue;
        };
        let mut at = 0;
        for extent in &file.extents {
            let (mut position, mut left) = (extent.at, extent.bytes);
            while left > 0 {
                let from = position % OBJECT as u64;
                let bytes = left.min(OBJECT as u64 - from);
                let run = Run {
                    from: usize::try_from(from).unwrap_or(0),
                    bytes: usize::try_from(bytes).unwrap_or(0),
                    file: number,
                    at,
                };
                let key = (usize::from(extent.source), position / OBJECT as u64);
                by_object.entry(key).or_default().push(run);
                position += bytes;
                at += bytes;
                left -= bytes;
            }
        }
    }
    let mut pieces = Vec::with_capacity(by_object.len());
    for ((stream, number), mut runs) in by_object {
        let object = chain.streams.get(stream).and_then(|(_, objects)| {
            let place = usize::try_from(number).ok()?;
            objects.get(place)
        });
        let end = runs.iter().map(|run| run.from + run.bytes).max().unwrap_or(0);
        if object.is_none_or(|object| (object.bytes as usize) < end) {
            return Err(bad(format!(
                "it has no bytes {end} in object {number:08X} of stream {stream}"
            )));
        }
        runs.sort_by_key(|run| run.from);
        pieces.push(Piece {
            stream,
            number: u32::try_from(number).map_err(|_| bad("an object's number".into()))?,
            runs,
        });
    }
    Ok(pieces)
}

/// Larger pieces go to the disk as soon as they are written.
const EARLY_SYNC: usize = 1 << 20;
/// Objects, by those that are being unpacked, that may wait for the disk.
const WAITING_A_JOB: usize = 2;

/// Files of which large pieces were written.
type Written = Vec<(File, PathBuf)>;

fn sync(written: &Written) -> Result<(), FileError> {
    let mut files = written.iter();
    files.try_for_each(|(file, path)| file.sync_data().to("fsync", path))
}

/// Step 4 for one object, but for the disk. Returns how many bytes were read.
async fn fetch(
    stores: &Stores,
    chain: &Arc<Chain>,
    dirs: &Arc<TargetDirs>,
    piece: Piece,
    progress: &Arc<Progress>,
) -> Result<(u64, Written), BackupError> {
    let Some((label, objects)) = chain.streams.get(piece.stream) else {
        return Ok((0, Vec::new()));
    };
    let Some(object) = usize::try_from(piece.number).ok().and_then(|n| objects.get(n)) else {
        return Ok((0, Vec::new()));
    };
    let first = piece.runs.iter().map(|run| run.from / FRAME).min().unwrap_or(0);
    let last = piece
        .runs
        .iter()
        .map(|run| (run.from + run.bytes).saturating_sub(1) / FRAME)
        .max()
        .unwrap_or(0);
    let packed = fetch_frames(stores, label, piece.number, object, first..=last).await?;
    let read = packed.len() as u64;
    let (chain, dirs, progress, object) = (chain.clone(), dirs.clone(), progress.clone(), object.clone());
    let work = tokio::task::spawn_blocking(move || {
        let mut reader = FrameReader::new()?;
        let mut stream = vec![0; (last + 1 - first) * FRAME];
        let base = frame_range(&object, first..=first).start;
        for frame in first..=last {
            let range = frame_range(&object, frame..=frame);
            let part = slice(&packed, range.start - base, range.end - base);
            let room = stream.get_mut((frame - first) * FRAME..).unwrap_or_default();
            // They were checked when they came.
            reader
                .read(&object, frame, part, room)
                .map_err(|what| BackupError::BadManifest {
                    label: chain.backup.summary.label.clone(),
                    what,
                })?;
        }
        let skipped = first * FRAME;
        let mut written = Written::new();
        let mut opened: Option<(usize, File, PathBuf)> = None;
        for run in &piece.runs {
            let Some(file) = chain.backup.contents.files.get(run.file) else {
                continue;
            };
            if opened.as_ref().is_none_or(|(number, ..)| *number != run.file) {
                let path = dirs.path(&place(&file.path));
                opened = Some((run.file, open(&path, false).to("open", &path)?, path));
            }
            if let Some((_, file, path)) = &opened {
                let from = run.from - skipped;
                let bytes = stream.get(from..from + run.bytes).unwrap_or_default();
                for (part, at) in bytes.chunks(WRITE_BYTES).zip((run.at..).step_by(WRITE_BYTES)) {
                    file.write_all_at(part, at).to("write", path)?;
                }
                if run.bytes >= EARLY_SYNC {
                    let file = file.try_clone().to("open", path)?;
                    written.push((file, path.clone()));
                }
                progress.add(run.bytes as u64);
            }
        }
        Ok::<_, BackupError>(written)
    });
    Ok((read, finished(work.await)??))
}

fn slice(bytes: &Bytes, start: u64, end: u64) -> &[u8] {
    let range = usize::try_from(start).ok().zip(usize::try_from(end).ok());
    range
        .and_then(|(start, end)| bytes.get(start..end))
        .unwrap_or_default()
}

/// Some frames of an object, from the first store where they are sound.
async fn fetch_frames(
    stores: &Stores,
    label: &Label,
    number: u32,
    object: &Object,
    frames: std::ops::RangeInclusive<usize>,
) -> Result<Bytes, BackupError> {
    let name = label.data(number);
    let range = frame_range(object, frames.clone());
    let whole = range.start == 0 && range.end == object.packed_bytes();
    let check = |bytes: &Bytes| {
        if bytes.len() as u64 != range.end - range.start {
            return Err(format!("it has {} bytes", bytes.len()));
        }
        for frame in frames.clone() {
            let place = frame_range(object, frame..=frame);
            let part = slice(bytes, place.start - range.start, place.end - range.start);
            let expected = object.frames.get(frame).map(|frame| frame.packed_crc);
            if Some(crc32c::crc32c(part)) != expected {
                return Err(format!("frame {frame} has a wrong checksum"));
            }
        }
        Ok(bytes.clone())
    };
    let wanted = (!whole).then(|| range.clone());
    let found = stores.get_checked(&name, wanted, check).await?;
    found.ok_or_else(|| BackupError::Missing {
        name: name.to_string(),
    })
}

/// Steps 5 and 6.
fn complete(
    chain: &Chain,
    settings: &Settings,
    dirs: &TargetDirs,
    writes: &[usize],
    progress: &Progress,
) -> Result<(), BackupError> {
    // Everything at once, instead of one file after the other. What the disk refuses is said by the file's own fsync.
    for root in dirs.roots() {
        if let Ok(dir) = File::open(root) {
            let _ = rustix::fs::syncfs(&dir);
        }
    }
    let next = std::sync::atomic::AtomicUsize::new(0);
    let sync = || -> Result<(), FileError> {
        loop {
            let place_of = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            let Some(number) = writes.get(place_of) else {
                return Ok(());
            };
            let Some(file) = chain.backup.contents.files.get(*number) else {
                continue;
            };
            let path = dirs.path(&place(&file.path));
            File::open(&path)
                .and_then(|file| file.sync_all())
                .to("fsync", &path)?;
            progress.add(1);
        }
    };
    // A disk syncs several files in nearly the time of one.
    let threads = settings.jobs.clamp(1, 8) * 2;
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(sync)).collect();
        threads.into_iter().try_for_each(|thread| {
            thread
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    })?;

    let auto_conf = dirs.path(AUTO_CONF);
    let old = match std::fs::read_to_string(&auto_conf) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
        read => read.to("read", &auto_conf)?,
    };
    durable::replace(&auto_conf, settings.recovery.auto_conf(&old).as_bytes())?;
    durable::replace(&dirs.path(settings.recovery.signal()), b"")?;
    dirs.sync(&chain.backup.contents.dirs)?;
    fail::fail_point!("restore::synced");

    dirs.unmark_places()?;
    let control = dirs.path(control::PATH);
    std::fs::rename(dirs.path(CONTROL_ASIDE), &control).to("rename a new file to", &control)?;
    durable::sync_parent(&control)?;
    dirs.unmark()?;
    Ok(())
}
