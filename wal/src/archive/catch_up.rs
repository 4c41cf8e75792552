//! A store that was left behind is given what it lacks, from one that has it.
//!
//! It is found out by looking, not by remembering: whoever left it behind may be dead. WAL that no backup in any store needs
//! is not copied: it was purged where it is missing, or will be.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use super::Archiver;
use crate::backup::Needed;
use crate::store::identity::{Identity, IdentityError};
use crate::store::{Content, ObjectName, Prefix, Put, Store, StoreError, layout};
use crate::{SegmentName, WalFileName};

/// So many files an archiver that ends with its own gives to a store.
const FILL: usize = 8;
/// It asks a store for so long.
const ANSWER: Duration = Duration::from_secs(2);

/// A round over all stores.
#[derive(Debug, Default)]
pub struct Round {
    /// Files that a store has now and had not before.
    pub copied: u64,
    /// By location: why a store may still lack something.
    pub trouble: Vec<(String, IdentityError)>,
}

impl Round {
    pub fn is_complete(&self) -> bool {
        self.trouble.is_empty()
    }
}

/// Gives every store that can be asked each file of WAL that another one has. The oldest come first, so that what a
/// store has goes on without a hole.
pub async fn catch_up(stores: &[Arc<dyn Store>]) -> Round {
    let mut round = Round::default();
    let mut known: Option<Identity> = None;
    let mut unclaimed = Vec::new();
    let mut names: BTreeMap<usize, BTreeSet<ObjectName>> = BTreeMap::new();
    for (place, store) in stores.iter().enumerate() {
        let looked = async {
            match (Identity::read(&**store).await?, known) {
                (Some(found), Some(known)) => known.expect(store.location(), found)?,
                (Some(found), None) => known = Some(found),
                (None, _) => unclaimed.push(place),
            }
            let mut listed = store.list(&layout::histories()).await?;
            listed.extend(store.list(&layout::wal_files()).await?);
            let files = listed.into_iter().map(|listed| listed.name);
            Ok(files.filter(|name| layout::wal_file_of(name).is_some()).collect())
        };
        match looked.await {
            Ok(files) => drop(names.insert(place, files)),
            Err(error) => round.trouble.push((store.location().to_owned(), error)),
        }
    }
    let mut all: BTreeSet<&ObjectName> = names.values().flatten().collect();
    if names.values().any(|has| has.len() < all.len()) {
        // After the files: what a purge took is not taken back, since its backups went before.
        let asked: Vec<Arc<dyn Store>> = names
            .keys()
            .filter_map(|place| stores.get(*place).cloned())
            .collect();
        let needed = needed(&asked).await;
        all.retain(|name| needed.as_ref().is_none_or(|needed| needed.object(name)));
    }
    for (place, has) in &names {
        let Some(store) = stores.get(*place) else { continue };
        let lacks = all.iter().filter(|name| !has.contains(**name));
        let sources: Vec<&Arc<dyn Store>> = names
            .keys()
            .filter(|source| *source != place)
            .filter_map(|source| stores.get(*source))
            .collect();
        let claim = known.filter(|_| unclaimed.contains(place) && !all.is_empty());
        let given = async {
            if let Some(identity) = claim {
                identity.claim(&**store).await?;
            }
            for name in lacks {
                if copy(name, &sources, &**store).await? == Copied::Now {
                    round.copied += 1;
                }
            }
            Ok(())
        };
        if let Err(error) = given.await {
            round.trouble.push((store.location().to_owned(), error));
        }
    }
    round
}

/// `None`: everything, as far as anybody knows.
async fn needed(stores: &[Arc<dyn Store>]) -> Option<Needed> {
    Needed::by_all(stores).await.unwrap_or_default()
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Copied {
    Now,
    WasThere,
    NobodyHasIt,
}

/// Copies a file of WAL as it is, from the first source that has a sound one.
pub(crate) async fn copy(
    object: &ObjectName,
    sources: &[&Arc<dyn Store>],
    store: &dyn Store,
) -> Result<Copied, StoreError> {
    if store.head(object).await?.is_some() {
        return Ok(Copied::WasThere);
    }
    let mut damaged = None;
    for source in sources {
        let Some(packed) = source.get(object).await? else {
            continue;
        };
        // What is damaged there is not spread.
        let checking = packed.clone();
        let checked = tokio::task::spawn_blocking(move || crate::pack::unpack(&checking).map(drop));
        let what = match checked.await {
            Ok(Ok(())) => {
                let put = store.put(object, Content::new(packed)).await?;
                fail::fail_point!("catch_up::copied");
                return Ok(match put {
                    Put::Stored => Copied::Now,
                    Put::Exists => Copied::WasThere,
                });
            }
            Ok(Err(error)) => error.to_string(),
            Err(error) => error.to_string(),
        };
        damaged.get_or_insert(StoreError::Damaged {
            location: source.location().to_owned(),
            name: object.to_string(),
            what,
        });
    }
    damaged.map_or(Ok(Copied::NobodyHasIt), Err)
}

impl Archiver {
    /// For who archives this one file and ends: where a store lacks segments shortly before it that another store has,
    /// it is given some, the oldest first. Returns how many.
    pub async fn fill_before(&self, name: WalFileName) -> Result<usize, StoreError> {
        let stores = &self.settings.stores;
        let (WalFileName::Segment(segment), true) = (name, stores.len() > 1) else {
            return Ok(0);
        };
        let mut has = BTreeMap::new();
        let mut trouble = None;
        for (place, store) in stores.iter().enumerate() {
            match tokio::time::timeout(ANSWER, shortly_before_in(&**store, segment)).await {
                Ok(Ok(names)) => drop(has.insert(place, names)),
                Ok(Err(error)) => drop(trouble.get_or_insert(error)),
                // It hangs, and PostgreSQL waits for us.
                Err(_) => {}
            }
        }
        let own = layout::object_of(name);
        let mut all: BTreeSet<&ObjectName> = has.values().flatten().filter(|name| **name < own).collect();
        all.retain(|name| !has.values().all(|has| has.contains(*name)));
        if !all.is_empty() {
            let asked: Vec<Arc<dyn Store>> = has
                .keys()
                .filter_map(|place| stores.get(*place).cloned())
                .collect();
            let needed = needed(&asked).await;
            all.retain(|name| needed.as_ref().is_none_or(|needed| needed.object(name)));
        }
        let mut copied = 0;
        for (place, names) in &has {
            let Some(store) = stores.get(*place) else { continue };
            let sources: Vec<&Arc<dyn Store>> = has
                .keys()
                .filter(|source| *source != place)
                .filter_map(|source| stores.get(*source))
                .collect();
            for object in all.iter().filter(|name| !names.contains(**name)).take(FILL) {
                copied += usize::from(copy(object, &sources, &**store).await? == Copied::Now);
            }
        }
        if let Some(error) = trouble.filter(|_| copied == 0) {
            return Err(error);
        }
        Ok(copied)
    }
}

/// Histories, and files from shortly before the segment.
async fn shortly_before_in(
    store: &dyn Store,
    segment: SegmentName,
) -> Result<BTreeSet<ObjectName>, StoreError> {
    let mut names = BTreeSet::new();
    for prefix in shortly_before(segment).into_iter().chain([layout::histories()]) {
        let listed = store.list(&prefix).await?;
        names.extend(listed.into_iter().map(|listed| listed.name));
    }
    Ok(names)
}

/// Names of the same 4 GiB of WAL, and of the 4 GiB before.
fn shortly_before(segment: SegmentName) -> Vec<Prefix> {
    let name = segment.to_string();
    let (timeline, rest) = name.split_at(8);
    let Ok(log) = u32::from_str_radix(rest.get(..8).unwrap_or_default(), 16) else {
        return Vec::new();
    };
    let logs = log.checked_sub(1).into_iter().chain([log]);
    logs.filter_map(|log| Prefix::new(format!("wal/{timeline}/{timeline}{log:08X}")).ok())
        .collect()
}
