//! A store that is restored from: whose it is, and whether it answers at all.
//!
//! A store that hangs would be waited for at each file, as long as it allows itself. So who takes long is asked beside that
//! whether it still answers, and one that does not is left alone for a while.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::OnceCell;
use tokio::time::Instant;

use super::RestoreError;
use crate::store::identity::Identity;
use crate::store::{Store, StoreError, layout};

/// Nobody wonders before that.
const LONG: Duration = Duration::from_secs(2);
/// Whoever answers at all does so within this time.
const ANSWER: Duration = Duration::from_secs(5);
/// A silent store is not asked again for so long,
const ALONE: Duration = Duration::from_secs(10);
/// and so long after all others.
const LAST: Duration = Duration::from_secs(60);

#[derive(Debug)]
pub(super) struct Place {
    pub store: Arc<dyn Store>,
    /// Once it is known.
    pub identity: OnceCell<Identity>,
    silent: Mutex<Option<Instant>>,
}

impl Place {
    pub fn new(store: Arc<dyn Store>) -> Place {
        Place {
            store,
            identity: OnceCell::new(),
            silent: Mutex::default(),
        }
    }

    /// Others are asked before it.
    pub fn is_last(&self) -> bool {
        self.was_silent_within(LAST)
    }

    fn was_silent_within(&self, time: Duration) -> bool {
        let silent = *self.silent.lock().unwrap_or_else(PoisonError::into_inner);
        silent.is_some_and(|since| since.elapsed() < time)
    }

    fn note(&self, silent: Option<Instant>) {
        *self.silent.lock().unwrap_or_else(PoisonError::into_inner) = silent;
    }

    /// Does what asks this store, unless that does not answer.
    ///
    /// # Errors
    /// [`StoreError::Unreachable`] of one that is silent, or was a moment ago.
    pub async fn ask<T>(
        &self,
        work: impl Future<Output = Result<T, RestoreError>>,
    ) -> Result<T, RestoreError> {
        let unreachable = || {
            RestoreError::Store(StoreError::Unreachable {
                location: self.store.location().to_owned(),
                action: "read from it",
                source: "it does not answer".into(),
            })
        };
        if self.was_silent_within(ALONE) {
            return Err(unreachable());
        }
        tokio::select! {
            biased;
            done = work => {
                if done.is_ok() {
                    self.note(None);
                }
                done
            }
            () = self.is_silent() => {
                self.note(Some(Instant::now()));
                Err(unreachable())
            }
        }
    }

    /// When it does not say whose it is. An error is an answer.
    async fn is_silent(&self) {
        let identity = layout::identity();
        loop {
            tokio::time::sleep(LONG).await;
            if tokio::time::timeout(ANSWER, self.store.head(&identity))
                .await
                .is_err()
            {
                return;
            }
        }
    }
}
