//! What stores do with a file that was checked and packed.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;
use std::time::Duration;

use tokio::sync::OnceCell;
use tokio::task::{JoinError, JoinHandle};
use tokio::time::Instant;

use super::lineage::Lineage;
use super::{ArchiveError, Kept, Prepared, first_difference};
use crate::WalFileName;
use crate::pack::Kind;
use crate::store::identity::Identity;
use crate::store::{Put, Store, StoreError, layout};

/// When as many stores as are needed have a file, the others have so long.
const PATIENCE: Duration = Duration::from_secs(5);

type Outcome = Result<Kept, ArchiveError>;

#[derive(Debug)]
pub(super) struct Keeper {
    pub lineage: Lineage,
    places: Vec<Place>,
}

/// A store, and what is known of it.
#[derive(Debug)]
struct Place {
    store: Arc<dyn Store>,
    /// Set once it is known to be ours.
    claimed: OnceCell<Identity>,
    /// Files on their way to it that nobody waits for any more. Until they have arrived or failed, it gets no others.
    late: Mutex<Vec<JoinHandle<Outcome>>>,
}

impl Place {
    fn is_late(&self) -> bool {
        let mut late = self.late.lock().unwrap_or_else(PoisonError::into_inner);
        late.retain(|put| !put.is_finished());
        !late.is_empty()
    }

    fn is_left_with(&self, put: JoinHandle<Outcome>) {
        let mut late = self.late.lock().unwrap_or_else(PoisonError::into_inner);
        late.push(put);
    }

    fn silent(&self) -> ArchiveError {
        ArchiveError::Store(StoreError::Unreachable {
            location: self.store.location().to_owned(),
            action: "keep a file",
            source: "it has not answered for a while".into(),
        })
    }
}

impl Keeper {
    pub fn new(stores: Vec<Arc<dyn Store>>) -> Keeper {
        let place = |store| Place {
            store,
            claimed: OnceCell::new(),
            late: Mutex::default(),
        };
        Keeper {
            lineage: Lineage::default(),
            places: stores.into_iter().map(place).collect(),
        }
    }

    /// The cluster, if a store is known to be ours.
    pub fn known(&self) -> Option<Identity> {
        let mut known = self.places.iter().filter_map(|place| place.claimed.get());
        known.next().copied()
    }

    /// A file that nobody waits for any more is still on its way there.
    pub fn is_late(&self, number: usize) -> bool {
        self.places.get(number).is_some_and(Place::is_late)
    }

    /// Puts a file into all stores at once: what each of them did with it. When `needed` have it, or one says that it must
    /// not be kept, the others have [`PATIENCE`]; what is on its way then goes on without anybody waiting for it.
    pub async fn keep_in_all(self: &Arc<Self>, prepared: &Arc<Prepared>, needed: usize) -> Vec<Outcome> {
        let mut outcomes: Vec<Outcome> = self.places.iter().map(|place| Err(place.silent())).collect();
        let mut running: Vec<(usize, JoinHandle<Outcome>)> = Vec::new();
        for (number, place) in self.places.iter().enumerate() {
            if !place.is_late() {
                let (this, prepared) = (self.clone(), prepared.clone());
                running.push((
                    number,
                    tokio::spawn(async move { this.keep(number, &prepared).await }),
                ));
            }
        }
        let (mut have, mut refused, mut until) = (0, false, None);
        while !running.is_empty() {
            if until.is_none() && (have >= needed || refused) {
                until = Some(Instant::now() + PATIENCE);
            }
            let (place, outcome) = tokio::select! {
                next = next(&mut running) => next,
                () = tokio::time::sleep_until(until.unwrap_or_else(Instant::now)), if until.is_some() => break,
            };
            let (number, _) = running.swap_remove(place);
            let outcome = finished(outcome, prepared.name);
            match &outcome {
                Ok(_) => have += 1,
                Err(error) => refused |= !error.is_store_trouble(),
            }
            if let Some(entry) = outcomes.get_mut(number) {
                *entry = outcome;
            }
        }
        for (number, put) in running {
            if let Some(place) = self.places.get(number) {
                place.is_left_with(put);
            }
        }
        outcomes
    }

    /// Puts a file into one store.
    pub async fn keep(&self, number: usize, prepared: &Prepared) -> Outcome {
        let name = prepared.name;
        let place = self.places.get(number).ok_or(ArchiveError::GivenUp { name })?;
        let store = &*place.store;
        let identity = prepared.identity()?;
        let known = place
            .claimed
            .get_or_try_init(|| async { identity.claim(store).await.map(|()| identity) })
            .await?;
        identity.expect(store.location(), *known)?;
        self.lineage.check_in(store, prepared).await?;
        match store
            .put(&layout::object_of(name), prepared.content.clone())
            .await?
        {
            Put::Stored => Ok(Kept::New),
            Put::Exists => compare(store, prepared).await,
        }
    }
}

/// The next one that has ended.
async fn next(running: &mut [(usize, JoinHandle<Outcome>)]) -> (usize, Result<Outcome, JoinError>) {
    poll_fn(|context| {
        for (place, (_, put)) in running.iter_mut().enumerate() {
            if let Poll::Ready(outcome) = Pin::new(put).poll(context) {
                return Poll::Ready((place, outcome));
            }
        }
        Poll::Pending
    })
    .await
}

fn finished(outcome: Result<Outcome, JoinError>, name: WalFileName) -> Outcome {
    match outcome {
        Ok(outcome) => outcome,
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        Err(_) => Err(ArchiveError::GivenUp { name }),
    }
}

/// The name is taken: by the same?
async fn compare(store: &dyn Store, prepared: &Prepared) -> Result<Kept, ArchiveError> {
    let name = prepared.name;
    let object = layout::object_of(name);
    let Some(there) = store.get(&object).await? else {
        // It came and went: PostgreSQL will ask again.
        return Err(ArchiveError::GivenUp { name });
    };
    let location = || store.location().to_owned();
    let (contents, file) = crate::pack::unpack(&there).map_err(|source| ArchiveError::DamagedCopy {
        name,
        location: location(),
        source,
    })?;
    let ours = &prepared.contents;
    if contents.data_bytes == ours.data_bytes && contents.data_crc == ours.data_crc {
        return Ok(Kept::Same);
    }
    let Some(span) = &ours.span else {
        return Err(ArchiveError::OtherText {
            name,
            location: location(),
        });
    };
    let size = prepared.identity()?.segment_size;
    if let Some(lsn) = first_difference(span.start_lsn, size, &prepared.file, &file) {
        // Of two partial segments one may be the beginning of the other.
        let ends = contents.span.as_ref().map(|span| span.end_lsn);
        if ours.kind != Kind::PartialSegment || ends.is_none_or(|end| lsn < end.min(span.end_lsn)) {
            return Err(ArchiveError::Diverged {
                name,
                location: location(),
                lsn,
            });
        }
        if ends.is_some_and(|end| end < span.end_lsn) {
            store.delete(&object).await?;
            return match store.put(&object, prepared.content.clone()).await? {
                Put::Stored => Ok(Kept::Longer),
                Put::Exists => Err(ArchiveError::GivenUp { name }),
            };
        }
    }
    Ok(Kept::Same)
}
