//! The stores of a backup: all of them get it, and it is read from the first that has it whole.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;

use super::manifest::{self, MAX_SUMMARY, Object};
use super::{Backup, BackupError, Label, Summary};
use crate::TimelineId;
use crate::store::identity::{Identity, IdentityError};
use crate::store::{Content, Listed, ObjectName, Prefix, Put, Store, StoreError, layout};
use crate::succession::successor_of;

/// Where a backup goes, and where it comes from. A store that fails is left out from then on.
#[derive(Debug)]
pub struct Stores {
    stores: Vec<Arc<dyn Store>>,
    needed: usize,
    lost: Mutex<Vec<Option<StoreError>>>,
}

impl Stores {
    /// `needed` of the stores must have a backup for it to count.
    pub fn new(stores: Vec<Arc<dyn Store>>, needed: usize) -> Stores {
        Stores {
            lost: Mutex::new(stores.iter().map(|_| None).collect()),
            stores,
            needed,
        }
    }

    /// Asks every store, and leaves out those that do not answer. What is read from the others then is what *they* have:
    /// whoever concludes from it that something is nowhere has to say whom he could not ask.
    ///
    /// # Errors
    /// If no store answers.
    pub async fn leave_out_silent(&self) -> Result<(), BackupError> {
        let identity = layout::identity();
        let asked = self.stores.iter().map(|store| store.head(&identity));
        for (store, answer) in self
            .stores
            .iter()
            .zip(futures_util::future::join_all(asked).await)
        {
            if let Err(error) = answer {
                self.lose(store, error);
            }
        }
        self.anybody()
    }

    /// What each store answers. One that does not is left out.
    pub(crate) async fn each<T>(
        &self,
        ask: impl AsyncFn(&dyn Store) -> Result<T, StoreError>,
    ) -> Result<Vec<(Arc<dyn Store>, T)>, BackupError> {
        let mut answers = Vec::new();
        for store in self.alive() {
            match ask(&*store).await {
                Ok(answer) => answers.push((store, answer)),
                Err(error) => self.lose(&store, error),
            }
        }
        self.anybody()?;
        Ok(answers)
    }

    /// An error if no store is left.
    fn anybody(&self) -> Result<(), BackupError> {
        match self.alive().is_empty() {
            false => Ok(()),
            true => Err(self.first_trouble().map_or(BackupError::GivenUp, Into::into)),
        }
    }

    /// What happened to a store that was left out; it is told once.
    fn first_trouble(&self) -> Option<StoreError> {
        let mut lost = self.lost.lock().unwrap_or_else(PoisonError::into_inner);
        lost.iter_mut().find_map(Option::take)
    }

    /// Those that were not left out.
    pub fn alive(&self) -> Vec<Arc<dyn Store>> {
        let lost = self.lost.lock().unwrap_or_else(PoisonError::into_inner);
        let pairs = self.stores.iter().zip(lost.iter());
        pairs
            .filter(|(_, lost)| lost.is_none())
            .map(|(store, _)| store.clone())
            .collect()
    }

    /// Stores that were left out, and why.
    pub fn left_out(&self) -> Vec<(String, String)> {
        let lost = self.lost.lock().unwrap_or_else(PoisonError::into_inner);
        let pairs = self.stores.iter().zip(lost.iter());
        pairs
            .filter_map(|(store, lost)| Some((store.location().to_owned(), causes(lost.as_ref()?))))
            .collect()
    }

    /// Makes the stores the cluster's, or refuses: another cluster, or a server whose timeline was left. A store that cannot
    /// be asked is left out, if there are enough others.
    pub(crate) async fn claim(&self, identity: Identity, timeline: TimelineId) -> Result<(), BackupError> {
        for store in self.alive() {
            match identity.claim(&*store).await {
                Ok(()) => {}
                Err(IdentityError::Store(error)) => {
                    self.lose(&store, error);
                    continue;
                }
                Err(error) => return Err(error.into()),
            }
            match successor_of(&*store, timeline).await {
                Ok(None) => {}
                Ok(Some(successor)) => {
                    return Err(BackupError::Replaced {
                        location: store.location().to_owned(),
                        own: timeline,
                        timeline: successor.timeline,
                        lsn: successor.lsn,
                    });
                }
                Err(error) => self.lose(&store, error),
            }
        }
        self.enough(self.alive().len())
    }

    /// Leaves out the stores that lack one of these backups: what is built on them would be of no use there.
    pub(crate) async fn leave_out_without(&self, labels: &[Label]) {
        for store in self.alive() {
            for label in labels {
                let error = match store.head(&label.manifest()).await {
                    Ok(Some(_)) => continue,
                    Ok(None) => StoreError::Refused {
                        location: store.location().to_owned(),
                        action: "keep an incremental backup",
                        reason: format!("it lacks backup {label}, which that is built on"),
                    },
                    Err(error) => error,
                };
                self.lose(&store, error);
                break;
            }
        }
    }

    /// Puts a new object into every store that is left.
    pub(crate) async fn put(
        &self,
        label: &Label,
        name: &ObjectName,
        content: Content,
    ) -> Result<(), BackupError> {
        self.put_where(label, name, content).await.1
    }

    /// The same, and which stores have it now, though it may be too few.
    pub(super) async fn put_where(
        &self,
        label: &Label,
        name: &ObjectName,
        content: Content,
    ) -> (Vec<Arc<dyn Store>>, Result<(), BackupError>) {
        let alive = self.alive();
        let puts = alive.iter().map(|store| store.put(name, content.clone()));
        let results = futures_util::future::join_all(puts).await;
        let mut have = Vec::new();
        let mut taken = false;
        for (store, result) in alive.into_iter().zip(results) {
            match result {
                Ok(Put::Stored) => have.push(store),
                Ok(Put::Exists) => taken = true,
                Err(error) => self.lose(&store, error),
            }
        }
        let enough = match taken {
            true => Err(BackupError::Taken(label.clone())),
            false => self.enough(have.len()),
        };
        (have, enough)
    }

    fn enough(&self, have: usize) -> Result<(), BackupError> {
        if have >= self.needed {
            return Ok(());
        }
        let needed = self.needed;
        match self.first_trouble() {
            Some(source) if needed == 1 => Err(source.into()),
            Some(source) => Err(BackupError::TooFew { have, needed, source }),
            None => Err(BackupError::GivenUp),
        }
    }

    pub(super) fn lose(&self, store: &Arc<dyn Store>, error: StoreError) {
        tracing::warn!(
            store = store.location(),
            error = &error as &dyn std::error::Error,
            "left out"
        );
        let mut lost = self.lost.lock().unwrap_or_else(PoisonError::into_inner);
        let place = self.stores.iter().position(|other| Arc::ptr_eq(other, store));
        if let Some(entry) = place.and_then(|place| lost.get_mut(place)) {
            *entry = Some(error);
        }
    }

    /// The bytes of a range of an object, from the first store whose copy `check` accepts.
    pub(crate) async fn get_checked<T>(
        &self,
        name: &ObjectName,
        range: Option<std::ops::Range<u64>>,
        check: impl Fn(&Bytes) -> Result<T, String>,
    ) -> Result<Option<T>, BackupError> {
        let mut trouble: Option<BackupError> = None;
        for store in &self.alive() {
            let fetched = match &range {
                Some(range) => store.get_range(name, range.clone()).await,
                None => store.get(name).await,
            };
            let error = match fetched {
                Ok(None) => continue,
                Ok(Some(bytes)) => match check(&bytes) {
                    Ok(value) => return Ok(Some(value)),
                    Err(what) => BackupError::Damaged {
                        location: store.location().to_owned(),
                        name: name.to_string(),
                        what,
                    },
                },
                Err(error @ StoreError::Range { .. }) => BackupError::Damaged {
                    location: store.location().to_owned(),
                    name: name.to_string(),
                    what: error.to_string(),
                },
                Err(error) => error.into(),
            };
            tracing::warn!(%name, error = &error as &dyn std::error::Error, "a store could not serve");
            trouble.get_or_insert(error);
        }
        trouble.map_or(Ok(None), Err)
    }
}

/// An error with what caused it.
pub(super) fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(&format!(": {error}"));
        cause = error.source();
    }
    text
}

fn everything() -> Prefix {
    Prefix::new("backup/").expect("a word")
}

fn is_manifest(listed: &Listed) -> Option<Label> {
    let label = Label::of(&listed.name)?;
    (listed.name == label.manifest()).then_some(label)
}

/// The backups of the stores, oldest first by their WAL: a clock may have been wrong. Those whose manifest cannot be read come
/// before them, as errors.
pub async fn list(stores: &Stores) -> Result<Vec<Result<Summary, BackupError>>, BackupError> {
    let mut labels = std::collections::BTreeMap::new();
    for store in stores.alive() {
        match store.list(&everything()).await {
            Ok(listed) => {
                for listed in listed {
                    if let Some(label) = is_manifest(&listed) {
                        let longest = labels.entry(label).or_insert(0);
                        *longest = listed.bytes.max(*longest);
                    }
                }
            }
            Err(error) => stores.lose(&store, error),
        }
    }
    stores.anybody()?;
    let mut summaries = Vec::new();
    for (label, bytes) in labels {
        let head = bytes.min(MAX_SUMMARY as u64);
        let summary = stores
            .get_checked(&label.manifest(), Some(0..head), |bytes| manifest::summary(bytes))
            .await;
        match summary {
            Ok(Some(summary)) => summaries.push(Ok(summary)),
            // Deleted meanwhile.
            Ok(None) => {}
            Err(error) => summaries.push(Err(error)),
        }
    }
    summaries.sort_by(|a: &Result<Summary, BackupError>, b| match (a, b) {
        (Ok(a), Ok(b)) => a.by_wal(b),
        (a, b) => a.is_ok().cmp(&b.is_ok()),
    });
    Ok(summaries)
}

/// Labels under which something lies in a store that is no backup: it is being written, or its writer died.
pub(super) async fn unfinished(store: &dyn Store) -> Result<Vec<Label>, StoreError> {
    let listed = store.list(&everything()).await?;
    let done: std::collections::BTreeSet<Label> = listed.iter().filter_map(is_manifest).collect();
    let labels: std::collections::BTreeSet<Label> = listed
        .iter()
        .filter_map(|listed| Label::of(&listed.name))
        .collect();
    Ok(labels.difference(&done).cloned().collect())
}

pub async fn read_manifest(stores: &Stores, label: &Label) -> Result<Backup, BackupError> {
    let read = |bytes: &Bytes| {
        let backup = Backup::decode(bytes)?;
        match backup.summary.label == *label {
            true => Ok(backup),
            false => Err(format!("it is the manifest of {}", backup.summary.label)),
        }
    };
    let found = stores.get_checked(&label.manifest(), None, read).await?;
    found.ok_or_else(|| BackupError::NoBackup(label.clone()))
}

/// A backup, and the objects of every stream its files have bytes of: its own first, then its sources'.
#[derive(Debug)]
pub struct Chain {
    pub backup: Backup,
    pub streams: Vec<(Label, Vec<Object>)>,
}

impl Chain {
    pub async fn read(stores: &Stores, label: &Label) -> Result<Chain, BackupError> {
        let backup = read_manifest(stores, label).await?;
        let mut streams = vec![(label.clone(), backup.contents.objects.clone())];
        for source in &backup.summary.sources {
            let source = read_manifest(stores, source).await?;
            streams.push((source.summary.label, source.contents.objects));
        }
        Ok(Chain { backup, streams })
    }
}
