//! What `archive_command` asks for: a file of WAL is checked, packed and put into every store, and only then is
//! the server told that it may forget it.
//!
//! PostgreSQL may ask for the same file again, so what is there already is compared by its records: the same ones
//! are a success, others are refused, and nothing is ever overwritten.

mod ahead;
mod catch_up;
mod check;
mod compare;
mod histories;
mod keep;
mod lineage;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use skytide_sql::Lsn;
use tokio::sync::Semaphore;

pub use ahead::{Ahead, AheadFigures};
pub(crate) use catch_up::{Copied, copy};
pub use catch_up::{Round, catch_up};
pub use check::{Checked, check_segment};
pub use compare::first_difference;

use self::keep::Keeper;
use crate::control::{self, ControlFile};
use crate::durable::{Attach, FileError};
use crate::pack::{Contents, Kind, PackError, Packer, Span};
use crate::page_buffer::PageBuffer;
use crate::store::identity::{Identity, IdentityError};
use crate::store::{Content, Store, StoreError};
use crate::{SegmentName, TimelineId, WalError, WalFileName};

/// Threads that check and compress, for all files together.
const CPU_THREADS: usize = 2;

/// The longest history or backup history file.
const MAX_TEXT_BYTES: u64 = 1 << 20;

#[derive(Debug, Clone)]
pub struct Settings {
    pub stores: Vec<Arc<dyn Store>>,
    /// How many of the stores must have a file before the server is told that it is safe.
    pub needed: usize,
    /// zstd's level.
    pub level: i32,
    /// The cluster, as its control file says. Without it, it is learnt from the segments.
    pub system_id: Option<u64>,
}

/// A file to archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    pub path: PathBuf,
    pub name: WalFileName,
}

/// What a store did with a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kept {
    New,
    /// It had the same records.
    Same,
    /// It had the beginning of this partial segment, and has more of it now.
    Longer,
}

/// A file that is safe.
#[derive(Debug)]
pub struct Report {
    pub name: WalFileName,
    pub file_bytes: u64,
    pub packed_bytes: u64,
    pub span: Option<Span>,
    pub kept: Vec<Kept>,
    /// Stores that could not take it, which the settings allow.
    pub behind: Vec<ArchiveError>,
}

#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ArchiveError {
    #[error(transparent)]
    File(#[from] FileError),
    #[error("{name} is not sound WAL and was not archived")]
    Damaged {
        name: WalFileName,
        #[source]
        source: WalError,
    },
    #[error(
        "{name} is of the cluster with system identifier {found}, and this archive is of {expected}: give each \
         cluster stores of its own"
    )]
    Foreign {
        name: WalFileName,
        found: u64,
        expected: u64,
    },
    #[error("{name} was not archived: {what}")]
    NotWal { name: WalFileName, what: String },
    #[error("could not pack {name}")]
    Pack {
        name: WalFileName,
        #[source]
        source: PackError,
    },
    #[error(transparent)]
    Identity(#[from] IdentityError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("the copy of {name} in store {location} is damaged")]
    DamagedCopy {
        name: WalFileName,
        location: String,
        #[source]
        source: PackError,
    },
    #[error(
        "store {location} has another {name}; the first difference is at {lsn}: two servers write this timeline"
    )]
    Diverged {
        name: WalFileName,
        location: String,
        lsn: Lsn,
    },
    #[error(
        "{name} does not follow {before}{}: the last record there is at {expected}, and the first one here says it \
         follows one at {found}: it is of another server's history",
        location.as_ref().map(|location| format!(" in store {location}")).unwrap_or_default()
    )]
    Unlinked {
        name: WalFileName,
        before: SegmentName,
        /// Where the segment before lies; `None` if it was just archived.
        location: Option<String>,
        expected: Lsn,
        found: Lsn,
    },
    #[error(
        "store {location} has timeline {timeline}, which left timeline {own} at {lsn}, and {name} goes beyond that: the \
         server was replaced by another one"
    )]
    Replaced {
        name: WalFileName,
        location: String,
        own: TimelineId,
        timeline: TimelineId,
        lsn: Lsn,
    },
    #[error("store {location} has another {name}")]
    OtherText { name: WalFileName, location: String },
    #[error("only {have} of {needed} stores have {name}")]
    TooFew {
        name: WalFileName,
        have: usize,
        needed: usize,
        #[source]
        source: Box<ArchiveError>,
    },
    #[error("{name} was not archived: the work was given up")]
    GivenUp { name: WalFileName },
}

impl ArchiveError {
    /// Trouble with one store that another store can make up for. Everything else is about the file, or tells
    /// of two clusters or two servers: then nothing may be called safe.
    pub fn is_store_trouble(&self) -> bool {
        matches!(
            self,
            ArchiveError::Store(_)
                | ArchiveError::Identity(IdentityError::Store(_))
                | ArchiveError::DamagedCopy { .. }
        )
    }
}

/// Puts files into stores.
#[derive(Debug)]
pub struct Archiver {
    settings: Settings,
    keeper: Arc<Keeper>,
    /// Timelines whose histories all stores have.
    histories: Mutex<BTreeSet<TimelineId>>,
    cpu: Arc<Semaphore>,
}

/// A file that was read, checked and packed.
struct Prepared {
    name: WalFileName,
    file: Bytes,
    contents: Contents,
    /// A segment that begins with the rest of a record.
    continues: bool,
    content: Content,
}

impl Archiver {
    pub fn new(settings: Settings) -> Archiver {
        Archiver {
            keeper: Arc::new(Keeper::new(settings.stores.clone())),
            histories: Mutex::default(),
            cpu: Arc::new(Semaphore::new(CPU_THREADS)),
            settings,
        }
    }

    /// Steps: read; check every record and compress, at the same time; put into all stores at once.
    /// When it returns `Ok`, the file is durable in as many stores as are needed. A store that hangs is not waited for when
    /// those have it.
    pub async fn archive(&self, source: Source) -> Result<Report, ArchiveError> {
        let name = source.name;
        let dir = source.path.parent().map(Path::to_owned);
        let prepared = Arc::new(self.prepare(source).await?);
        self.keeper.lineage.meet(&prepared)?;
        let report = self.put(&prepared).await;
        match &report {
            Ok(_) => self.histories(name, dir.as_deref()).await,
            Err(_) => self.keeper.lineage.forget(name),
        }
        report
    }

    async fn put(&self, prepared: &Arc<Prepared>) -> Result<Report, ArchiveError> {
        let name = prepared.name;
        let mut report = Report {
            name,
            file_bytes: prepared.file.len() as u64,
            packed_bytes: prepared.content.len(),
            span: prepared.contents.span.clone(),
            kept: Vec::new(),
            behind: Vec::new(),
        };
        for kept in self.keeper.keep_in_all(prepared, self.settings.needed).await {
            match kept {
                Ok(kept) => report.kept.push(kept),
                Err(error) if error.is_store_trouble() => report.behind.push(error),
                Err(error) => return Err(error),
            }
        }
        let (have, needed) = (report.kept.len(), self.settings.needed);
        if have >= needed {
            return Ok(report);
        }
        let source = match report.behind.into_iter().next() {
            Some(error) if needed == 1 => return Err(error),
            Some(error) => Box::new(error),
            None => Box::new(ArchiveError::GivenUp { name }),
        };
        Err(ArchiveError::TooFew {
            name,
            have,
            needed,
            source,
        })
    }

    async fn prepare(&self, source: Source) -> Result<Prepared, ArchiveError> {
        let name = source.name;
        let is_text = matches!(name, WalFileName::History(_) | WalFileName::BackupHistory { .. });
        let known = match cluster_of(&source.path).filter(|_| is_text) {
            Some(own) => Some(own),
            None => self.known_for(name).await?,
        };
        let system_id = self.settings.system_id.or(known.map(|known| known.system_id));
        let level = self.settings.level;
        let first = self.cpu.clone().acquire_owned().await;
        // Alone, a file has both threads.
        let second = self.cpu.clone().try_acquire_owned().ok();
        let work = tokio::task::spawn_blocking(move || {
            let _permits = (first, &second);
            match name {
                WalFileName::Segment(_) | WalFileName::Partial(_) => {
                    let file = read(&source.path, crate::store::MAX_OBJECT_BYTES)?;
                    prepare_segment(name, file, system_id, level, second.is_some())
                }
                WalFileName::History(_) | WalFileName::BackupHistory { .. } => {
                    prepare_text(name, read(&source.path, MAX_TEXT_BYTES)?, system_id, known)
                }
            }
        });
        finished(work, name).await
    }

    /// A file that lies in memory, into the stores with these places in the settings: what each of them did with it.
    /// The outer error is about the file. Of a history file the stores have to know whose they are.
    pub async fn archive_bytes(
        &self,
        name: WalFileName,
        file: Vec<u8>,
        into: &[usize],
    ) -> Result<Vec<(usize, Result<Kept, ArchiveError>)>, ArchiveError> {
        let known = self.known_for(name).await?;
        let system_id = self.settings.system_id.or(known.map(|known| known.system_id));
        let level = self.settings.level;
        let permit = self.cpu.clone().acquire_owned().await;
        let work = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            match name {
                WalFileName::Segment(_) | WalFileName::Partial(_) => {
                    prepare_segment(name, file.into(), system_id, level, false)
                }
                WalFileName::History(_) | WalFileName::BackupHistory { .. } => {
                    prepare_text(name, file.into(), system_id, known)
                }
            }
        });
        let prepared = &finished(work, name).await?;
        self.keeper.lineage.meet(prepared)?;
        let puts = into
            .iter()
            .map(|place| async move { (*place, self.keeper.keep(*place, prepared).await) });
        Ok(futures_util::future::join_all(puts).await)
    }

    /// The stores' cluster. A segment tells its own, so for one that need not be known; of a text it has to be.
    async fn known_for(&self, name: WalFileName) -> Result<Option<Identity>, ArchiveError> {
        let is_segment = matches!(name, WalFileName::Segment(_) | WalFileName::Partial(_));
        if is_segment && self.settings.system_id.is_some() {
            return Ok(None);
        }
        if let Some(known) = self.keeper.known() {
            return Ok(Some(known));
        }
        // The first answer: one that hangs is not waited for.
        let stores = self.settings.stores.iter();
        let mut answers: FuturesUnordered<_> = stores
            .map(|store| async move { Identity::read(&**store).await })
            .collect();
        let mut silent = None;
        while let Some(answer) = answers.next().await {
            match answer {
                Ok(Some(found)) => return Ok(Some(found)),
                Ok(None) => {}
                Err(error @ IdentityError::Store(_)) => silent = Some(error),
                Err(error) => return Err(error.into()),
            }
        }
        match silent {
            Some(error) if !is_segment => Err(error.into()),
            _ => Ok(None),
        }
    }
}

async fn finished(
    work: tokio::task::JoinHandle<Result<Prepared, ArchiveError>>,
    name: WalFileName,
) -> Result<Prepared, ArchiveError> {
    match work.await {
        Ok(prepared) => prepared,
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        Err(_) => Err(ArchiveError::GivenUp { name }),
    }
}

impl Prepared {
    fn identity(&self) -> Result<Identity, ArchiveError> {
        let size = crate::SegmentSize::new(self.contents.segment_bytes);
        let segment_size = size.ok_or_else(|| ArchiveError::NotWal {
            name: self.name,
            what: "its segment size is impossible".to_owned(),
        })?;
        Ok(Identity {
            system_id: self.contents.system_id,
            segment_size,
        })
    }
}

/// The cluster in whose `pg_wal` the file lies. The first file that a promoted server archives is its history, and a new
/// store does not know whose it is.
fn cluster_of(path: &Path) -> Option<Identity> {
    let data_dir = path.parent().filter(|dir| dir.ends_with("pg_wal"))?.parent()?;
    let control = std::fs::read(data_dir.join(control::PATH)).ok()?;
    let control = ControlFile::parse(&control).ok()?;
    Some(Identity {
        system_id: control.system_id,
        segment_size: control.segment_size,
    })
}

fn read(path: &Path, max: u64) -> Result<Bytes, FileError> {
    use std::io::{Error, ErrorKind};
    let mut file = std::fs::File::open(path).to("open", path)?;
    let bytes = file.metadata().to("look at", path)?.len();
    if bytes > max {
        let error = Error::new(ErrorKind::FileTooLarge, format!("{bytes} bytes"));
        return Err(FileError::new("read", path, error));
    }
    let mut content = PageBuffer::new(usize::try_from(bytes).unwrap_or(0) + 1);
    content.fill(&mut file).to("read", path)?;
    Ok(content.into_bytes())
}

fn prepare_segment(
    name: WalFileName,
    file: Bytes,
    system_id: Option<u64>,
    level: i32,
    both_threads: bool,
) -> Result<Prepared, ArchiveError> {
    let pack = || Packer::new(level).and_then(|mut packer| packer.frames(&file));
    let check = || check_segment(name, &file, system_id);
    let (frames, checked) = match both_threads {
        true => std::thread::scope(|scope| {
            let frames = scope.spawn(pack);
            let checked = check();
            let frames = frames
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            (frames, checked)
        }),
        false => {
            // What is not sound need not be compressed.
            let checked = check()?;
            (pack(), Ok(checked))
        }
    };
    let Checked {
        contents, continues, ..
    } = checked?;
    let frames = frames.map_err(|source| ArchiveError::Pack { name, source })?;
    let content = Content::new(frames.finish(&contents));
    Ok(Prepared {
        name,
        file,
        contents,
        continues,
        content,
    })
}

/// A text says neither whose it is nor how long segments are: the control file or the store does.
fn prepare_text(
    name: WalFileName,
    file: Bytes,
    system_id: Option<u64>,
    known: Option<Identity>,
) -> Result<Prepared, ArchiveError> {
    let not_wal = |what: String| ArchiveError::NotWal { name, what };
    let (kind, timeline) = match name {
        WalFileName::History(timeline) => {
            let text = std::str::from_utf8(&file).map_err(|_| not_wal("it is no text".to_owned()))?;
            crate::HistoryFile::parse(timeline, text).map_err(|error| not_wal(error.to_string()))?;
            (Kind::History, timeline)
        }
        WalFileName::BackupHistory { segment, .. } => (Kind::BackupHistory, segment.timeline()),
        WalFileName::Segment(segment) | WalFileName::Partial(segment) => (Kind::Segment, segment.timeline()),
    };
    let known = known
        .ok_or_else(|| not_wal("no segment was archived yet, so the stores belong to nobody".to_owned()))?;
    let contents = Contents {
        kind,
        system_id: system_id.unwrap_or(known.system_id),
        timeline,
        segment_bytes: known.segment_size.as_u32(),
        data_bytes: file.len() as u64,
        data_crc: crc32c::crc32c(&file),
        span: None,
    };
    let packed: Bytes =
        crate::pack::pack(&file, &contents).map_err(|source| ArchiveError::Pack { name, source })?;
    Ok(Prepared {
        name,
        file,
        contents,
        continues: false,
        content: Content::new(packed),
    })
}

#[cfg(test)]
mod tests;
