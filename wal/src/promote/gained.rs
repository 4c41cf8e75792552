//! What a node would lose by being rewound.

use std::path::Path;
use std::sync::Arc;

use skytide_sql::Lsn;

use super::PromoteError;
use super::follow::Leader;
use super::node::{Answer, Node};
use super::source::{Cluster, WalSource, walk};
use super::survey::own_source;
use crate::HistoryFile;
use crate::commit::Outcome;
use crate::ship::DeadServer;

/// What may be lost by it.
#[derive(Debug, Clone, Copy)]
pub(super) enum Loss {
    /// Somebody asked for this node to be rewound.
    Any,
    /// What the plan knew: the node's WAL up to here.
    Known(Lsn),
}

/// Refuses if a running standby has commits that neither the leader nor the plan has.
pub(super) async fn check_live(
    leader: &Leader,
    node: &Arc<Node>,
    answer: &Answer,
    loss: Loss,
) -> Result<(), PromoteError> {
    let path = Arc::new(node.history(answer.timeline).await?);
    let source = own_source(node, answer.segment_size);
    let cluster = super::steps::cluster_of(answer);
    let (commits, end) = count(leader, &source, &cluster, &path, loss).await?;
    judge(leader, node.name(), loss, commits, end.max(answer.lsn), end)
}

/// The same for a server that is stopped.
pub(super) async fn check_dead(
    leader: &Leader,
    name: &str,
    dir: &Path,
    loss: Loss,
) -> Result<(), PromoteError> {
    let dead = DeadServer::inspect(dir.to_owned(), false).await?;
    let cluster = Cluster {
        system_id: dead.control.system_id,
        segment_size: dead.control.segment_size,
        major: None,
    };
    let source = WalSource::Disk(dead.dir.clone());
    let (commits, end) = count(leader, &source, &cluster, &dead.path, loss).await?;
    judge(leader, name, loss, commits, dead.end_lsn(), end)
}

/// Commits from where nobody knows of them any more, and how far the WAL could be read.
async fn count(
    leader: &Leader,
    source: &WalSource,
    cluster: &Cluster,
    path: &Arc<HistoryFile>,
    loss: Loss,
) -> Result<(u64, Lsn), PromoteError> {
    let (Loss::Known(known), Some(parts)) = (loss, leader.path.parts_from(path)) else {
        return Ok((0, Lsn::new(u64::MAX)));
    };
    let mut commits = 0;
    let end = walk(&[source], cluster, path, parts.max(known), None, |record| {
        let commit = record.transaction_end();
        commits += u64::from(commit.is_some_and(|end| end.outcome == Outcome::Committed));
    })
    .await?;
    Ok((commits, end))
}

/// `end` is the node's own, `read` how far it could be looked for commits.
fn judge(
    leader: &Leader,
    node: &str,
    loss: Loss,
    commits: u64,
    end: Lsn,
    read: Lsn,
) -> Result<(), PromoteError> {
    let Loss::Known(known) = loss else { return Ok(()) };
    let what = match commits {
        0 if read >= end => return Ok(()),
        0 => "WAL that cannot be read".to_owned(),
        1 => "one committed transaction".to_owned(),
        _ => format!("{commits} committed transactions"),
    };
    Err(PromoteError::Gained {
        node: node.to_owned(),
        leader: leader.node.name().to_owned(),
        what,
        known,
        end,
    })
}
