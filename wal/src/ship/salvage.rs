//! The WAL of a server that is dead, and whose disk is not.

use std::path::PathBuf;
use std::sync::Arc;

use skytide_sql::Lsn;

use super::dir::{self, WalDir};
use super::error::ShipError;
use super::feed::Feed;
use crate::control::{ClusterState, ControlFile};
use crate::decode::{Decoder, Expected, Timelines};
use crate::server::Postmaster;
use crate::store::identity::Identity;
use crate::store::{Store, partial};
use crate::tail::{self, Pace, TailError, Window};
use crate::verify::{Ended, SegmentContext, Tail as End, TailKind, verify_segment};
use crate::walsender::Timestamp;
use crate::{HistoryFile, SegmentNo, TimelineId, WalError};

#[derive(Debug, Clone)]
pub struct SalvageSettings {
    pub data_dir: PathBuf,
    pub stores: Vec<Arc<dyn Store>>,
    pub stores_needed: usize,
    pub compression_level: i32,
    /// Do not ask whether the postmaster lives: its pid file may name a process that is another one now.
    pub believe_dead: bool,
}

/// What a salvage found and did.
#[derive(Debug, Clone)]
pub struct Salvaged {
    pub system_id: u64,
    pub timeline: TimelineId,
    /// What the server's control file says it was doing.
    pub state: ClusterState,
    /// Where its own recovery would begin.
    pub redo_lsn: Lsn,
    /// Behind the last whole record: where its own recovery would end.
    pub end_lsn: Lsn,
    /// What stands behind the end.
    pub tail: TailKind,
    /// Records from there to the end.
    pub records: u64,
    /// The server's clock when the last transaction committed.
    pub last_commit: Option<Timestamp>,
    pub stores: Vec<StoreSalvage>,
}

#[derive(Debug, Clone)]
pub struct StoreSalvage {
    pub location: String,
    /// Behind the last whole record before and after. A store may have had more than the disk.
    pub had: Lsn,
    pub has: Lsn,
    /// Why the store was left behind.
    pub trouble: Option<String>,
}

/// What is on the disk.
#[derive(Debug)]
struct Disk {
    end: Lsn,
    stop: Option<WalError>,
    tail: TailKind,
    damage: Option<(WalError, crate::verify::Proof)>,
    records: u64,
    last_commit: Option<Timestamp>,
}

/// The data directory of a server that does not run, and how far its WAL is good.
#[derive(Debug)]
pub struct DeadServer {
    pub control: ControlFile,
    /// How the timeline came to be on which it was.
    pub path: Arc<HistoryFile>,
    pub(crate) dir: WalDir,
    disk: Disk,
}

/// Copies what the stores do not have, in order, up to the last record that recovery would reach, and reads it back.
pub async fn salvage(settings: SalvageSettings) -> Result<Salvaged, ShipError> {
    let dead = DeadServer::inspect(settings.data_dir, settings.believe_dead).await?;
    dead.copy(
        settings.stores,
        settings.stores_needed,
        settings.compression_level,
    )
    .await
}

impl DeadServer {
    /// Reads the WAL that the server's own recovery would read. Nothing is written.
    pub async fn inspect(data_dir: PathBuf, believe_dead: bool) -> Result<DeadServer, ShipError> {
        if !believe_dead && let Some(Postmaster { pid, .. }) = Postmaster::find(&data_dir)? {
            return Err(ShipError::Alive { pid });
        }
        let control = dir::control(&data_dir)?;
        let dir = WalDir::new(&data_dir, control.segment_size);
        // As crash recovery chooses it (`xlogrecovery.c`, `InitWalRecovery`).
        let known = control.min_recovery.map(|(_, timeline)| timeline);
        let timeline = known
            .unwrap_or(control.checkpoint.timeline)
            .max(control.checkpoint.timeline);
        let path = Arc::new(dir.history(timeline)?.0);
        let disk = {
            let (dir, path, control) = (dir.clone(), path.clone(), control.clone());
            match tokio::task::spawn_blocking(move || look(&dir, &path, &control)).await {
                Ok(disk) => disk?,
                Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
                Err(_) => return Err(ShipError::GivenUp),
            }
        };
        check_reaches(&control, &disk)?;
        Ok(DeadServer {
            control,
            path,
            dir,
            disk,
        })
    }

    /// Behind the last whole record: where its own recovery would end.
    pub fn end_lsn(&self) -> Lsn {
        self.disk.end
    }

    /// The server's clock when the last transaction committed.
    pub fn last_commit(&self) -> Option<Timestamp> {
        self.disk.last_commit
    }

    /// Good WAL follows behind the end: there was more.
    pub fn is_damaged(&self) -> bool {
        self.disk.damage.is_some()
    }

    /// Copies what the stores do not have, in order, and reads it back.
    pub async fn copy(
        self,
        stores: Vec<Arc<dyn Store>>,
        stores_needed: usize,
        compression_level: i32,
    ) -> Result<Salvaged, ShipError> {
        let DeadServer {
            control,
            path,
            dir,
            disk,
        } = self;
        let identity = Identity {
            system_id: control.system_id,
            segment_size: control.segment_size,
        };
        let locations = stores.iter().map(|store| store.location().to_owned());
        let window = Arc::new(Window::new(locations));
        window.server(disk.end);
        let tail_settings = tail::Settings {
            stores: stores.clone(),
            needed: stores_needed,
            level: compression_level,
            identity,
        };
        let redo = control.checkpoint.redo_lsn;
        let mut feed = Feed::begin(dir.clone(), tail_settings, path.clone(), window.clone(), redo).await?;
        let had = window.stores();
        let location = had
            .first()
            .map(|store| store.location.clone())
            .unwrap_or_default();
        same_beginning(&dir, &path, &feed, disk.end, location)?;
        feed.up_to(disk.end).await?;
        finish(&mut feed, &window).await?;
        for (store, held) in stores.iter().zip(window.stores()) {
            if held.trouble.is_none() {
                read_back(&**store, &feed, identity, disk.end).await?;
            }
        }
        if let Some((stop, proof)) = disk.damage {
            return Err(ShipError::Damaged {
                end: disk.end,
                proof,
                stop,
            });
        }
        let stores = had.into_iter().zip(window.stores());
        let stores = stores.map(|(had, has)| StoreSalvage {
            location: has.location,
            had: had.safe.boundary,
            has: has.safe.boundary,
            trouble: has.trouble,
        });
        Ok(Salvaged {
            system_id: control.system_id,
            timeline: path.timeline(),
            state: control.state,
            redo_lsn: redo,
            end_lsn: disk.end,
            tail: disk.tail,
            records: disk.records,
            last_commit: disk.last_commit,
            stores: stores.collect(),
        })
    }
}

/// Gives stores that were behind the time to get what they lack.
async fn finish(feed: &mut Feed, window: &Window) -> Result<(), ShipError> {
    feed.tail.finish().await?;
    let comes =
        |feed: &Feed| !feed.tail.is_whole() && window.stores().iter().all(|store| store.trouble.is_none());
    while comes(feed) || feed.tail.has_unpublished() {
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        feed.tail.publish(Pace::Now).await?;
    }
    Ok(())
}

/// Reads from where recovery begins to where it ends.
fn look(dir: &WalDir, path: &Arc<HistoryFile>, control: &ControlFile) -> Result<Disk, ShipError> {
    let size = control.segment_size;
    let expected = Expected {
        system_id: Some(control.system_id),
        major: Some(control.major),
        timelines: Timelines::Of(path.clone()),
        block_size: control.block_size,
    };
    let mut number = SegmentNo::holding(control.checkpoint.redo_lsn, size);
    let mut decoder = Decoder::new(number.start(size), size, expected.clone());
    let (mut records, mut last_commit) = (0, None);
    loop {
        let bytes = dir
            .read(path, number.start(size), size.bytes())?
            .unwrap_or_default();
        let stop = tail::count_records(&mut decoder, &bytes, &mut records, &mut last_commit).err();
        if stop.is_none() && bytes.len() as u64 == size.bytes() {
            number = number.next();
            continue;
        }
        let end = decoder.record_boundary().unwrap_or(number.start(size));
        // Standing alone, the segment's report says what is behind the stop.
        let context = SegmentContext {
            number,
            size,
            expected: expected.clone(),
            tail: End::Unknown,
        };
        let report = verify_segment(&bytes, &context);
        let (tail, mut damage) = match (&report.ended, &stop) {
            (Ended::Torn { tail, .. }, _) => (*tail, None),
            (Ended::Corrupt { stop, proof }, _) => (TailKind::Torn, Some((stop.clone(), *proof))),
            _ => (TailKind::Short, None),
        };
        if damage.is_none()
            && let Some(stop) = &stop
            && let Some(later) = later_record(dir, path, &expected, number, size, stop)?
        {
            damage = Some((stop.clone(), crate::verify::Proof::Followed(later)));
        }
        return Ok(Disk {
            end,
            stop,
            tail,
            damage,
            records,
            last_commit,
        });
    }
}

/// A good record in the next segment that follows one at the stop or behind it.
fn later_record(
    dir: &WalDir,
    path: &HistoryFile,
    expected: &Expected,
    number: SegmentNo,
    size: crate::SegmentSize,
    stop: &WalError,
) -> Result<Option<Lsn>, ShipError> {
    let next = number.next();
    let Some(bytes) = dir.read(path, next.start(size), size.bytes())? else {
        return Ok(None);
    };
    let mut decoder = Decoder::new(next.start(size), size, expected.clone());
    let mut feed = decoder.feed(&bytes);
    Ok(match feed.next_record() {
        Ok(Some(record)) if record.header.previous >= stop.lsn => Some(record.lsn),
        _ => None,
    })
}

/// WAL that ends before the server's own checkpoint is no end, but damage.
fn check_reaches(control: &ControlFile, disk: &Disk) -> Result<(), ShipError> {
    let checkpoint = control.checkpoint.lsn;
    let early = |what, needed| ShipError::EndsEarly {
        end: disk.end,
        needed,
        what,
        stop: disk.stop.clone(),
    };
    if disk.end <= checkpoint {
        return Err(early("the last checkpoint", checkpoint));
    }
    match control.min_recovery {
        Some((needed, _)) if disk.end < needed => Err(early("what the data files need", needed)),
        _ => Ok(()),
    }
}

/// What the stores have of the last segment has to be the disk's.
fn same_beginning(
    dir: &WalDir,
    path: &HistoryFile,
    feed: &Feed,
    end: Lsn,
    location: String,
) -> Result<(), ShipError> {
    let (segment, theirs) = feed.tail.current_wal();
    let start = feed.tail.segment_start();
    let Some(ours) = dir.read(path, start, theirs.len() as u64)? else {
        return Ok(());
    };
    // Behind the last whole record both may hold the beginning of one that was never finished.
    let sound = feed.tail.boundary().min(end).bytes_since(start).unwrap_or(0);
    let differs = |(a, b): (&u8, &u8)| a != b;
    match ours.iter().zip(theirs).position(differs) {
        Some(at) if (at as u64) < sound => Err(TailError::Diverged {
            location,
            segment,
            lsn: Lsn::new(start.as_u64() + at as u64),
        }
        .into()),
        _ => Ok(()),
    }
}

/// The last segment, as the store gives it back.
async fn read_back(store: &dyn Store, feed: &Feed, identity: Identity, end: Lsn) -> Result<(), ShipError> {
    let (segment, wal) = feed.tail.current_wal();
    if wal.is_empty() {
        return Ok(());
    }
    let kept = partial::read(store, segment, identity.segment_size)
        .await
        .map_err(TailError::from)?;
    match kept {
        Some(kept) if kept.wal == wal && kept.boundary.lsn >= end => Ok(()),
        _ => Err(ShipError::NotKept {
            location: store.location().to_owned(),
            lsn: feed.tail.segment_start(),
        }),
    }
}
