//! Stores that were left behind are given what they lack: when the daemon starts, and when it leaves one behind.

use std::sync::Arc;
use std::time::Duration;

use metrics::counter;
use skytide_sql::backoff::Backoff;
use skytide_wal::archive::{Ahead, catch_up};
use skytide_wal::store::Store;
use skytide_wal::store::identity::Identity;
use tokio::task::JoinHandle;
use tracing::{info, warn};

use crate::causes;
use crate::metrics as names;

const FIRST_RETRY: Duration = Duration::from_millis(500);
const LONGEST_RETRY: Duration = Duration::from_secs(60);

/// The task that does it; it ends with this.
pub struct Level(JoinHandle<()>);

impl Level {
    /// One store has nobody to be level with.
    pub fn keep(stores: Vec<Arc<dyn Store>>, ahead: Ahead) -> Option<Level> {
        (stores.len() > 1).then(|| Level(tokio::spawn(keep(stores, ahead))))
    }
}

impl Drop for Level {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn keep(stores: Vec<Arc<dyn Store>>, ahead: Ahead) {
    let mut backoff = Backoff::new(FIRST_RETRY, LONGEST_RETRY);
    let mut said = Vec::new();
    loop {
        let round = catch_up(&stores).await;
        counter!(names::WAL_CAUGHT_UP).increment(round.copied);
        if round.copied > 0 {
            info!(files = round.copied, "stores were given what they lacked");
        }
        let trouble: Vec<(String, String)> = round
            .trouble
            .iter()
            .map(|(location, error)| (location.clone(), causes::chain(error)))
            .collect();
        if trouble.is_empty() {
            backoff.reset();
            said.clear();
            ahead.a_store_is_left_behind().await;
            continue;
        }
        // The same words once.
        for (store, error) in trouble.iter().filter(|told| !said.contains(*told)) {
            warn!(store, error, "a store may lack files");
        }
        loop {
            tokio::time::sleep(backoff.next_delay()).await;
            if answers(&stores, &trouble).await {
                break;
            }
        }
        said = trouble;
    }
}

/// Whether one of those that were in trouble can be asked again: only then is it worth listing them all.
async fn answers(stores: &[Arc<dyn Store>], trouble: &[(String, String)]) -> bool {
    for store in stores {
        let troubled = trouble.iter().any(|(location, _)| location == store.location());
        if troubled && Identity::read(&**store).await.is_ok() {
            return true;
        }
    }
    false
}
