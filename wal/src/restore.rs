//! What `restore_command` asks for: a file of WAL from the first store that has a sound copy.
//!
//! Recovery ends at the first file it is told does not exist. So "not here" is said only when every store was asked
//! and none has it; trouble and damage are errors. What has arrived of an unfinished segment comes last, cut at its
//! last whole record and filled with zeros, which is where recovery shall end.

mod place;
mod prefetch;

use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;

use self::place::Place;
use skytide_sql::Lsn;

pub use prefetch::Prefetch;

use crate::archive::check_segment;
use crate::durable::{Attach, FileError, WRITE_BYTES};
use crate::format::page::LongHeader;
use crate::pack::{Contents, Kind, PackError};
use crate::store::identity::{Identity, IdentityError};
use crate::store::{Store, StoreError, layout, partial};
use crate::{SegmentName, SegmentSize, TimelineId, WalFileName};

/// Where a file came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    Whole,
    /// The beginning of a segment, up to this boundary.
    Partial(Lsn),
}

/// A file as recovery gets it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Served {
    pub bytes: Vec<u8>,
    pub origin: Origin,
    pub location: String,
}

#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RestoreError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Identity(#[from] IdentityError),
    #[error("{name} in store {location} is damaged, and no other store has it")]
    Damaged {
        name: WalFileName,
        location: String,
        #[source]
        source: PackError,
    },
    #[error("what lies in store {location} as {name} is something else: {what}")]
    Misplaced {
        name: WalFileName,
        location: String,
        what: &'static str,
    },
    /// Recovery must not take it for the end of the WAL: more likely another place is meant.
    #[error("nothing was ever archived in {locations}: is that the right place?")]
    Unclaimed { locations: String },
    /// Nor must this be taken for it.
    #[error("no store has {missing}, but there is {behind}: the WAL between is lost, or still to come")]
    Hole {
        missing: SegmentName,
        behind: SegmentName,
    },
    #[error("the stores hold different clusters")]
    Mixed(#[source] IdentityError),
    #[error(transparent)]
    Target(#[from] FileError),
}

impl RestoreError {
    /// A store was read, and what it has is no good.
    pub fn is_damage(&self) -> bool {
        match self {
            RestoreError::Damaged { .. } | RestoreError::Misplaced { .. } => true,
            RestoreError::Store(error) => matches!(error, StoreError::Damaged { .. }),
            _ => false,
        }
    }
}

/// Reads from stores, the first one first.
#[derive(Debug)]
pub struct Restorer {
    places: Vec<Place>,
    /// The cluster that is being restored, if the caller knows.
    system_id: Option<u64>,
}

/// What asking all stores came to.
enum Asked {
    Served(Served),
    Missing,
}

impl Restorer {
    pub fn new(stores: Vec<Arc<dyn Store>>, system_id: Option<u64>) -> Restorer {
        Restorer {
            places: stores.into_iter().map(Place::new).collect(),
            system_id,
        }
    }

    /// Refuses a cluster whose WAL the stores do not hold. A store that cannot be asked says so when something is fetched.
    ///
    /// # Errors
    /// [`IdentityError::Foreign`] with the store that is another cluster's.
    pub async fn belongs_to(&self, system_id: u64) -> Result<(), RestoreError> {
        for place in &self.places {
            if let Ok(Some(found)) = place.ask(self.identity(place)).await {
                let ours = Identity { system_id, ..found };
                ours.expect(place.store.location(), found)?;
            }
        }
        Ok(())
    }

    /// The file, whole or as much of it as there is; `None` if no store has anything of it.
    pub async fn fetch(&self, name: WalFileName) -> Result<Option<Served>, RestoreError> {
        // The first timeline has none, and a server that leaves it asks all the same.
        if name == WalFileName::History(TimelineId::FIRST) {
            return Ok(None);
        }
        if let Some(served) = self.fetch_whole(name).await? {
            return Ok(Some(served));
        }
        match name {
            WalFileName::Segment(segment) => self.fetch_partial(segment).await,
            _ => Ok(None),
        }
    }

    /// A segment of the same timeline behind one that no store has: that one is lost, and not the end of the WAL.
    pub async fn behind(&self, missing: SegmentName) -> Result<Option<SegmentName>, RestoreError> {
        for place in &self.places {
            if let Some(behind) = place.ask(self.behind_in(place, missing)).await? {
                return Ok(Some(behind));
            }
        }
        Ok(None)
    }

    async fn behind_in(
        &self,
        place: &Place,
        missing: SegmentName,
    ) -> Result<Option<SegmentName>, RestoreError> {
        if self.identity(place).await?.is_none() {
            return Ok(None);
        }
        let (store, timeline) = (&place.store, missing.timeline());
        let whole = store.list(&layout::timeline(timeline)).await?.into_iter();
        let whole = whole.filter_map(|listed| match layout::wal_file_of(&listed.name)? {
            WalFileName::Segment(segment) => Some(segment),
            _ => None,
        });
        let begun = store.partials(&layout::partials(timeline)).await?.into_iter();
        let begun = begun.filter_map(|listed| layout::segment_of(&listed.name));
        Ok(whole.chain(begun).filter(|segment| *segment > missing).min())
    }

    /// The file, if a store has all of it.
    pub async fn fetch_whole(&self, name: WalFileName) -> Result<Option<Served>, RestoreError> {
        let mut trouble = None;
        let (last, first): (Vec<&Place>, Vec<&Place>) = self.places.iter().partition(|place| place.is_last());
        for place in first.into_iter().chain(last) {
            match place.ask(self.fetch_from(place, name)).await {
                Ok(Asked::Served(served)) => return Ok(Some(served)),
                Ok(Asked::Missing) => {}
                Err(error) => {
                    let cause: &dyn std::error::Error = &error;
                    tracing::warn!(%name, error = cause, "a store could not serve");
                    trouble.get_or_insert(error);
                }
            }
        }
        let claimed = self.places.iter().any(|place| place.identity.get().is_some());
        match trouble {
            Some(trouble) => Err(trouble),
            None if claimed => Ok(None),
            None => {
                let locations: Vec<&str> = self.places.iter().map(|place| place.store.location()).collect();
                Err(RestoreError::Unclaimed {
                    locations: locations.join(", "),
                })
            }
        }
    }

    /// A store that nobody has claimed is empty, and has no identity.
    async fn identity(&self, place: &Place) -> Result<Option<Identity>, RestoreError> {
        if let Some(known) = place.identity.get() {
            return Ok(Some(*known));
        }
        let store = &*place.store;
        let Some(found) = Identity::read(store).await? else {
            return Ok(None);
        };
        let first = self.places.iter().find_map(|place| place.identity.get());
        if let Some(first) = first {
            first
                .expect(store.location(), found)
                .map_err(RestoreError::Mixed)?;
        }
        if let Some(system_id) = self.system_id {
            let ours = Identity { system_id, ..found };
            ours.expect(store.location(), found)?;
        }
        Ok(Some(*place.identity.get_or_init(|| async { found }).await))
    }

    async fn fetch_from(&self, place: &Place, name: WalFileName) -> Result<Asked, RestoreError> {
        let store = &*place.store;
        let Some(identity) = self.identity(place).await? else {
            return Ok(Asked::Missing);
        };
        let Some(packed) = store.get(&layout::object_of(name)).await? else {
            return Ok(Asked::Missing);
        };
        let location = store.location().to_owned();
        let work = move || {
            let (contents, bytes) = crate::pack::unpack(&packed).map_err(|source| RestoreError::Damaged {
                name,
                location: location.clone(),
                source,
            })?;
            if let Some(what) = misplaced(name, identity, &contents, &bytes) {
                return Err(RestoreError::Misplaced { name, location, what });
            }
            Ok(Asked::Served(Served {
                bytes,
                origin: Origin::Whole,
                location,
            }))
        };
        blocking(work).await
    }

    /// The longest beginning of the segment that a store has. One that is damaged is trouble only if no store has another;
    /// a store that cannot be asked always, as it may have the longest.
    async fn fetch_partial(&self, segment: SegmentName) -> Result<Option<Served>, RestoreError> {
        let mut best: Option<(Served, Lsn)> = None;
        let mut trouble = None;
        for place in &self.places {
            match place.ask(self.longest_of(place, segment)).await {
                Ok(Some((served, None))) => return Ok(Some(served)),
                Ok(Some((served, Some(end)))) => {
                    if best.as_ref().is_none_or(|(_, best)| end > *best) {
                        best = Some((served, end));
                    }
                }
                Ok(None) => {}
                Err(error) if !error.is_damage() => return Err(error),
                Err(error) => {
                    let cause: &dyn std::error::Error = &error;
                    tracing::warn!(%segment, error = cause, "a store could not serve its partial");
                    trouble.get_or_insert(error);
                }
            }
        }
        match (best, trouble) {
            (Some((served, _)), _) => Ok(Some(served)),
            (None, Some(trouble)) => Err(trouble),
            (None, None) => Ok(None),
        }
    }

    /// What one store has of the segment, and where that ends; `None` for the end if it is whole after all.
    async fn longest_of(
        &self,
        place: &Place,
        segment: SegmentName,
    ) -> Result<Option<(Served, Option<Lsn>)>, RestoreError> {
        let store = &*place.store;
        let Some(identity) = self.identity(place).await? else {
            return Ok(None);
        };
        let name = WalFileName::Partial(segment);
        let archived = self.fetch_from(place, name).await;
        let begun = partial::read(store, segment, identity.segment_size).await;
        let mut beginnings = Vec::new();
        let mut trouble = None;
        match archived {
            Ok(Asked::Served(served)) => beginnings.push(served.bytes),
            Ok(Asked::Missing) => {}
            Err(error) => trouble = Some(error),
        }
        match begun.map_err(RestoreError::from) {
            Ok(begun) => beginnings.extend(begun.map(|begun| begun.wal)),
            Err(error) => trouble = Some(error),
        }
        if trouble.as_ref().is_some_and(|error| !error.is_damage()) {
            return Err(trouble.expect("it was just seen"));
        }
        let mut best: Option<(Served, Lsn)> = None;
        for bytes in beginnings {
            let location = store.location().to_owned();
            let Some(served) = blocking(move || Ok(cut_to_boundary(name, identity, bytes, location))).await?
            else {
                continue;
            };
            let Origin::Partial(end) = served.origin else {
                return Ok(Some((served, None)));
            };
            if best.as_ref().is_none_or(|(_, best)| end > *best) {
                best = Some((served, end));
            }
        }
        match (best, trouble) {
            (Some((served, end)), _) => Ok(Some((served, Some(end)))),
            (None, Some(trouble)) => Err(trouble),
            (None, None) => Ok(None),
        }
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, RestoreError> + Send + 'static,
) -> Result<T, RestoreError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        Err(error) => Err(RestoreError::Store(StoreError::Unreachable {
            location: "this process".to_owned(),
            action: "finish a restore",
            source: Box::new(error),
        })),
    }
}

/// A full-size file that is sound up to its last whole record, and zeros from there on. `None` if it has no whole
/// record: that serves nobody.
fn cut_to_boundary(
    name: WalFileName,
    identity: Identity,
    mut bytes: Vec<u8>,
    location: String,
) -> Option<Served> {
    // All of it is here when a receiver has not put it in its place yet. A record may go on in the next segment then.
    if let WalFileName::Partial(segment) = name
        && bytes.len() as u64 == identity.segment_size.bytes()
        && check_segment(WalFileName::Segment(segment), &bytes, Some(identity.system_id)).is_ok()
    {
        return Some(Served {
            bytes,
            origin: Origin::Whole,
            location,
        });
    }
    let checked = check_segment(name, &bytes, Some(identity.system_id)).ok()?;
    bytes.truncate(usize::try_from(checked.contents.data_bytes).ok()?);
    let span = checked.contents.span.filter(|span| span.records > 0)?;
    bytes.resize(usize::try_from(identity.segment_size.bytes()).ok()?, 0);
    Some(Served {
        bytes,
        origin: Origin::Partial(span.end_lsn),
        location,
    })
}

/// Says what is wrong with a sound packed file under this name. Its sum was made when every record in it was checked, so they
/// are not read again.
fn misplaced(
    name: WalFileName,
    identity: Identity,
    contents: &Contents,
    bytes: &[u8],
) -> Option<&'static str> {
    let kind = match name {
        WalFileName::Segment(_) => Kind::Segment,
        WalFileName::Partial(_) => Kind::PartialSegment,
        WalFileName::History(_) => Kind::History,
        WalFileName::BackupHistory { .. } => Kind::BackupHistory,
    };
    let size = identity.segment_size.bytes();
    let start = match name {
        WalFileName::Segment(segment) => segment.start(identity.segment_size),
        _ => None,
    };
    if contents.system_id != identity.system_id {
        Some("it is of another cluster")
    } else if contents.kind != kind {
        Some("it is another kind of file")
    } else if contents.timeline != name.timeline() {
        Some("it is of another timeline")
    } else if kind == Kind::Segment && bytes.len() as u64 != size {
        Some("it is not as long as a segment")
    } else if let Some(start) = start
        && (contents.span.as_ref().map(|span| span.start_lsn) != Some(start)
            || !begins_at(bytes, start, identity))
    {
        Some("it is another segment")
    } else {
        None
    }
}

/// Whether the first page is that of a segment of this cluster which begins there.
fn begins_at(bytes: &[u8], start: Lsn, identity: Identity) -> bool {
    LongHeader::peek(bytes).is_some_and(|(page, long, size)| {
        page.address == start && long.system_id == identity.system_id && size == identity.segment_size
    })
}

/// The server's own file of a segment goes on where an unfinished one from a store ends. It must not be given that:
/// the server would put it in the place of its own (`access/transam/xlogarchive.c`, `KeepFileRestoredFromArchive`),
/// and lose what it has received and not replayed yet. `target` lies beside its own.
pub fn server_has_more(served: &Served, name: WalFileName, target: &Path) -> bool {
    let (Origin::Partial(end), WalFileName::Segment(segment)) = (served.origin, name) else {
        return false;
    };
    let Ok(own) = std::fs::read(target.with_file_name(segment.to_string())) else {
        return false;
    };
    let Some(size) = u32::try_from(served.bytes.len()).ok().and_then(SegmentSize::new) else {
        return false;
    };
    let sound = usize::try_from(size.offset_of(end)).unwrap_or(0);
    if served.bytes.get(..sound) != own.get(..sound) {
        return false;
    }
    let checked = check_segment(WalFileName::Partial(segment), &own, None);
    let span = checked.ok().and_then(|checked| checked.contents.span);
    span.is_some_and(|span| span.end_lsn > end)
}

/// Writes the file to where PostgreSQL wants it, and leaves nothing there if that fails. It is not synced:
/// PostgreSQL does that with what it keeps (`access/transam/xlogarchive.c`, `KeepFileRestoredFromArchive`).
pub fn deliver(served: &Served, target: &Path) -> Result<(), FileError> {
    use std::io::Write;
    let write = || {
        fail::fail_point!("restore::full", |_| Err(std::io::Error::from(
            std::io::ErrorKind::StorageFull
        )));
        let mut file = std::fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(target)?;
        let mut parts = served.bytes.chunks(WRITE_BYTES);
        parts.try_for_each(|part| file.write_all(part))
    };
    write().to("write", target).inspect_err(|_| {
        // PostgreSQL looks at the exit code first; this is for pg_rewind and for people.
        let _ = std::fs::remove_file(target);
    })
}
