//! What is between one end of WAL and another: bytes, commits, time.

use std::time::Duration;

use skytide_sql::Lsn;

use super::source::{Cluster, WalSource, walk};
use super::survey::Furthest;
use crate::commit::Outcome;
use crate::tail::words;
use crate::walsender::Timestamp;

/// What a standby lacks of the WAL that is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Lacks {
    pub bytes: u64,
    /// Committed transactions among them.
    pub commits: u64,
    /// From the last commit that it has to the last one there is.
    pub time: Option<Duration>,
    /// All of that WAL was read: the commits were counted, and not only a part of them.
    pub counted: bool,
}

/// For each end, with the last commit before it as far as that is known: what it lacks. One pass over the WAL.
pub(super) async fn measure(
    ends: &[(Lsn, Option<Timestamp>)],
    furthest: &Furthest,
    sources: &[WalSource],
    cluster: &Cluster,
) -> Vec<Lacks> {
    let mut lacks: Vec<Lacks> = ends
        .iter()
        .map(|(end, _)| Lacks {
            bytes: furthest.end.bytes_since(*end).unwrap_or(0),
            ..Lacks::default()
        })
        .collect();
    let Some(start) = ends.iter().map(|(end, _)| *end).min() else {
        return lacks;
    };
    let mut last = furthest.last_commit;
    let mut had: Vec<Option<Timestamp>> = ends.iter().map(|(_, commit)| *commit).collect();
    let sources: Vec<&WalSource> = sources.iter().collect();
    let read = walk(
        &sources,
        cluster,
        &furthest.path,
        start,
        Some(furthest.end),
        |record| {
            let Some(end) = record.transaction_end() else {
                return;
            };
            if end.outcome != Outcome::Committed {
                return;
            }
            last = last.max(Some(end.time));
            for (((place, _), lacks), had) in ends.iter().zip(&mut lacks).zip(&mut had) {
                match record.lsn >= *place {
                    true => lacks.commits += 1,
                    false => *had = Some(end.time),
                }
            }
        },
    );
    let reached = match read.await {
        Ok(reached) => reached,
        Err(error) => {
            let why = words(&error);
            tracing::warn!(
                why,
                "not all WAL between the standbys and the furthest end can be read"
            );
            Lsn::INVALID
        }
    };
    for (lacks, had) in lacks.iter_mut().zip(had) {
        lacks.counted = reached >= furthest.end || lacks.bytes == 0;
        let micros = had
            .zip(last)
            .map(|(had, last)| last.as_micros().saturating_sub(had.as_micros()));
        let micros = micros.and_then(|micros| u64::try_from(micros).ok());
        lacks.time = match lacks.commits {
            0 => Some(Duration::ZERO),
            _ => micros.map(Duration::from_micros),
        };
    }
    lacks
}
