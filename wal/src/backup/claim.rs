//! A backup that is being written: a note under its label, and signs of life beside it.
//!
//! While there is one, no WAL is purged: nobody knows yet where its own begins. So the note goes when the backup fails or is
//! stopped, and one whose writer was killed is told by its silence.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinHandle;

use super::stores::{Stores, unfinished};
use super::{BackupError, Kind, Label, unix_now};
use crate::TimelineId;
use crate::store::identity::Identity;
use crate::store::{Content, Prefix, Put, Store, StoreError};

/// A backup that gave no sign of life for so long, in seconds, is dead. Clocks of hosts may differ by less.
pub const DEAD_AFTER: i64 = 2 * 3600;
const SIGN_EVERY: Duration = Duration::from_secs(300);
/// For a store to forget a backup that failed.
const FORGET: Duration = Duration::from_secs(10);

/// The note of one's own backup.
#[derive(Debug)]
pub(super) struct Claim {
    label: Label,
    /// The stores that have it.
    stores: Vec<Arc<dyn Store>>,
    of: Arc<Stores>,
    signs: JoinHandle<()>,
}

impl Claim {
    /// Makes the stores the cluster's and puts the note, under a label that nobody has.
    pub async fn make(
        stores: &Arc<Stores>,
        identity: Identity,
        timeline: TimelineId,
        started: i64,
        parent: Option<&Label>,
    ) -> Result<Claim, BackupError> {
        stores.claim(identity, timeline).await?;
        let kind = match parent {
            Some(_) => Kind::Incremental,
            None => Kind::Full,
        };
        // A purge leaves alone what a backup says it is built on.
        let parent = parent.map_or_else(String::new, |parent| format!("parent = {parent}\n"));
        // Two in one second get labels of two seconds.
        for second in started..started + 60 {
            let label = Label::new(second, kind).ok_or(BackupError::GivenUp)?;
            let note = format!("process = {}\nstarted = {started}\n{parent}", std::process::id());
            let (have, put) = stores.put_where(&label, &label.claim(), Content::new(note)).await;
            let claim = Claim {
                signs: tokio::spawn(signs(have.clone(), label.clone(), SIGN_EVERY)),
                stores: have,
                of: stores.clone(),
                label,
            };
            match put {
                Ok(()) => {
                    fail::fail_point!("backup::claimed");
                    return Ok(claim);
                }
                Err(BackupError::Taken(_)) => claim.forget().await,
                Err(error) => {
                    claim.forget().await;
                    return Err(error);
                }
            }
        }
        Err(BackupError::GivenUp)
    }

    pub fn label(&self) -> &Label {
        &self.label
    }

    /// Does the work, unless it is stopped first. Of a backup that does not come to its end nothing stays, nor in a store that
    /// was left out.
    pub async fn hold<T>(
        self,
        work: impl Future<Output = Result<T, BackupError>>,
        stop: impl Future<Output = ()>,
    ) -> Result<T, BackupError> {
        let done = tokio::select! {
            done = work => done,
            () = stop => Err(BackupError::Stopped),
        };
        match done {
            Ok(_) => {
                let alive = self.of.alive();
                let mut left_out = self;
                let is_alive = |store: &Arc<dyn Store>| alive.iter().any(|alive| Arc::ptr_eq(alive, store));
                left_out.stores.retain(|store| !is_alive(store));
                left_out.forget().await;
            }
            Err(_) => self.forget().await,
        }
        done
    }

    /// Removes all there is under the label.
    async fn forget(self) {
        self.signs.abort();
        let _ended = self.signs.await;
        let label = &self.label;
        let forget = self.stores.iter().map(|store| async move {
            let removed = async {
                store.delete(&label.manifest()).await?;
                remove(&**store, label).await
            };
            let what = match tokio::time::timeout(FORGET, removed).await {
                Ok(Ok(())) => return,
                Ok(Err(error)) => error.to_string(),
                Err(_) => "it does not answer".to_owned(),
            };
            let store = store.location();
            tracing::warn!(store, backup = %label, what, "what there is of the backup stays: purge removes it in two hours");
        });
        futures_util::future::join_all(forget).await;
    }
}

/// A sign now and then, of which the last one is kept.
async fn signs(stores: Vec<Arc<dyn Store>>, label: Label, every: Duration) {
    let mut last = None;
    loop {
        tokio::time::sleep(every).await;
        let sign = label.sign(unix_now());
        for store in &stores {
            let put = store.put(&sign, Content::new("alive\n")).await;
            if let (Ok(Put::Stored | Put::Exists), Some(last)) =
                (&put, last.as_ref().filter(|last| **last != sign))
            {
                let _gone = store.delete(last).await;
            }
        }
        last = Some(sign);
    }
}

/// Removes what is under a label that is no backup's.
pub(super) async fn remove(store: &dyn Store, label: &Label) -> Result<(), StoreError> {
    let claim = label.claim();
    for listed in store.list(&label.prefix()).await? {
        if listed.name != claim {
            store.delete(&listed.name).await?;
        }
    }
    // Last: it says how old the rest is.
    store.delete(&claim).await
}

/// Backups that nobody has finished.
#[derive(Debug, Default)]
pub(super) struct Unfinished {
    pub dead: Vec<Label>,
    /// May still be written, with what they are built on.
    pub alive: Vec<(Label, Option<Label>)>,
}

impl Unfinished {
    pub async fn of(store: &dyn Store, now: i64) -> Result<Unfinished, StoreError> {
        let mut found = Unfinished::default();
        for label in unfinished(store).await? {
            let note = store.get(&label.claim()).await?;
            let text = note
                .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
                .unwrap_or_default();
            let line = |key: &str| {
                text.lines()
                    .find_map(|line| line.strip_prefix(key)?.strip_prefix(" = "))
            };
            let started = line("started").and_then(|started| started.parse::<i64>().ok());
            let last = started.max(last_sign(store, &label).await?);
            match last.is_none_or(|last| last < now - DEAD_AFTER) {
                true => found.dead.push(label),
                false => found
                    .alive
                    .push((label, line("parent").and_then(|parent| parent.parse().ok()))),
            }
        }
        Ok(found)
    }

    /// The newest that may still be written.
    pub fn alive(&self) -> Option<&Label> {
        self.alive.last().map(|(label, _)| label)
    }
}

/// Seconds since 1970.
async fn last_sign(store: &dyn Store, label: &Label) -> Result<Option<i64>, StoreError> {
    let Ok(prefix) = Prefix::new(format!("backup/{label}/alive/")) else {
        return Ok(None);
    };
    let signs = store.list(&prefix).await?;
    let times = signs
        .iter()
        .filter_map(|listed| listed.name.as_str().rsplit_once('/')?.1.parse().ok());
    Ok(times.max())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::DirStore;
    use crate::{HistoryFile, SegmentSize};

    #[tokio::test]
    async fn a_backup_gives_signs_of_life_and_leaves_nothing_if_it_fails() {
        let dir = tempfile::tempdir().unwrap();
        let store: Arc<dyn Store> = Arc::new(DirStore::create(dir.path()).unwrap());
        let stores = Arc::new(Stores::new(vec![store.clone()], 1));
        let identity = Identity {
            system_id: 1,
            segment_size: SegmentSize::new(1 << 20).unwrap(),
        };
        let timeline = HistoryFile::root(TimelineId::new(1).unwrap()).timeline();
        // It was begun long ago, and is alive.
        let started = unix_now() - 2 * DEAD_AFTER;
        let claim = Claim::make(&stores, identity, timeline, started, None)
            .await
            .unwrap();
        let label = claim.label().clone();
        let unfinished = Unfinished::of(&*store, unix_now()).await.unwrap();
        assert_eq!((unfinished.dead.len(), unfinished.alive()), (1, None));
        let often = Duration::from_millis(5);
        let signing = tokio::spawn(signs(vec![store.clone()], label.clone(), often));
        while last_sign(&*store, &label).await.unwrap().is_none() {
            tokio::time::sleep(often).await;
        }
        signing.abort();
        let _ended = signing.await;
        let unfinished = Unfinished::of(&*store, unix_now()).await.unwrap();
        assert_eq!((unfinished.dead.len(), unfinished.alive()), (0, Some(&label)));

        let second = Claim::make(&stores, identity, timeline, started, None)
            .await
            .unwrap();
        assert_ne!(second.label(), &label, "it is another's");
        let failed = second.hold(
            async { Err::<(), _>(BackupError::GivenUp) },
            std::future::pending(),
        );
        assert!(matches!(failed.await, Err(BackupError::GivenUp)));
        let left = super::unfinished(&*store).await.unwrap();
        assert_eq!(left, std::slice::from_ref(&label));
        let stopped = claim.hold(std::future::pending::<Result<(), _>>(), std::future::ready(()));
        assert!(matches!(stopped.await, Err(BackupError::Stopped)));
        assert!(super::unfinished(&*store).await.unwrap().is_empty());
    }
}
