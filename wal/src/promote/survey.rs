//! What there is: the nodes, how far each one's WAL goes, and how far WAL is known to go at all.
//!
//! A standby's end is read in its `pg_wal`, record by record from what it has replayed: what it says of itself goes
//! back to the start of a segment when it is restarted, or stands where no record ends.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use skytide_sql::Lsn;

use super::loss::{self, Lacks};
use super::node::{Answer, Node, major_of};
use super::old::{find_old, is_at};
use super::source::{Cluster, WalSource, walk};
use super::{NodeSettings, PromoteError, Refusal, Settings};
use crate::commit::Outcome;
use crate::restore::Restorer;
use crate::ship::{DeadServer, WalDir};
use crate::tail::{look, words};
use crate::walsender::Timestamp;
use crate::{HistoryFile, SegmentNo, SegmentSize, TimelineId};

/// Everything that could be found out. Nothing was changed by it.
#[derive(Debug)]
pub struct Survey {
    /// In the order of the settings.
    pub nodes: Vec<NodeLook>,
    pub stores: Vec<StoreFound>,
    pub system_id: u64,
    /// The node that was, or is, the primary, if that is known.
    pub old: Option<OldPrimary>,
    /// The furthest end of WAL; `None` if no WAL was found.
    pub furthest: Option<Furthest>,
    pub took: Duration,
}

#[derive(Debug)]
pub struct NodeLook {
    pub name: String,
    pub standing: Standing,
}

#[derive(Debug)]
pub enum Standing {
    Primary {
        timeline: TimelineId,
        flushed: Lsn,
    },
    Standby(Box<Standby>),
    /// It does not answer, and why.
    Silent {
        why: String,
        /// Somebody is there, and does not let us in.
        refuses: bool,
    },
}

#[derive(Debug)]
pub struct Standby {
    pub timeline: TimelineId,
    pub replayed: Lsn,
    /// Behind the last whole record in its `pg_wal`.
    pub end: Lsn,
    /// The primary's clock at the last commit before its end, as far as that is known.
    pub last_commit: Option<Timestamp>,
    pub replay_paused: bool,
    pub apply_delay: Duration,
    /// Where a walreceiver with a connection gets its WAL from: `host:port`.
    pub receives_from: Option<String>,
    /// That is another standby.
    pub cascaded: bool,
    /// What it would lose if it were promoted as it is.
    pub lacks: Option<Lacks>,
    /// Why it cannot become the primary.
    pub obstacle: Option<String>,
    pub(super) path: Arc<HistoryFile>,
    pub(super) version: u32,
    pub(super) restore_command: String,
}

#[derive(Debug)]
pub struct StoreFound {
    pub location: String,
    /// The timeline and the end of its WAL; `None`: it has none, or [`StoreFound::trouble`].
    pub end: Option<(TimelineId, Lsn)>,
    pub trouble: Option<String>,
}

#[derive(Debug)]
pub struct OldPrimary {
    pub name: String,
    pub disk: OldDisk,
}

#[derive(Debug)]
pub enum OldDisk {
    /// It answers: a switchover.
    Alive,
    /// On another host, as far as the settings say.
    Elsewhere,
    /// Its postmaster lives and does not answer.
    Postmaster {
        pid: i32,
    },
    Unreadable(String),
    Read(Box<DeadServer>),
}

/// The furthest end of WAL that is known.
#[derive(Debug, Clone)]
pub struct Furthest {
    pub end: Lsn,
    pub timeline: TimelineId,
    pub last_commit: Option<Timestamp>,
    pub at: Place,
    /// It is the old primary's own end. Otherwise that may have had more.
    pub exact: bool,
    pub(super) path: Arc<HistoryFile>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    OldDisk,
    Store(String),
    Node(String),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::OldDisk => f.write_str("the old primary's pg_wal"),
            Place::Store(location) => write!(f, "store {location}"),
            Place::Node(node) => write!(f, "node {node}"),
        }
    }
}

impl Survey {
    pub fn standby(&self, name: &str) -> Option<&Standby> {
        self.nodes.iter().find_map(|node| match &node.standing {
            Standing::Standby(standby) if node.name == name => Some(&**standby),
            _ => None,
        })
    }

    pub fn standbys(&self) -> impl Iterator<Item = (&str, &Standby)> {
        self.nodes.iter().filter_map(|node| match &node.standing {
            Standing::Standby(standby) => Some((node.name.as_str(), &**standby)),
            _ => None,
        })
    }

    pub fn primaries(&self) -> impl Iterator<Item = &str> {
        self.nodes.iter().filter_map(|node| match &node.standing {
            Standing::Primary { .. } => Some(node.name.as_str()),
            _ => None,
        })
    }
}

/// A node that answered, with its answer.
pub(super) struct Heard {
    pub node: Arc<Node>,
    pub answer: Answer,
}

/// What a standby's own WAL says.
struct Own {
    end: Lsn,
    last_commit: Option<Timestamp>,
    path: Arc<HistoryFile>,
}

/// Asks all nodes and stores at once and reads what lies on disks here. `old` names the former primary where it
/// cannot be found out.
pub async fn survey(
    settings: &Settings,
    old: Option<&str>,
    believe_dead: bool,
) -> Result<Survey, PromoteError> {
    let began = Instant::now();
    if let Some(old) = old.filter(|old| settings.node(old).is_none()) {
        return Err(Refusal::UnknownNode(old.to_owned()).into());
    }
    let asked = settings
        .nodes
        .iter()
        .map(|node| ask(node, settings.answer_timeout));
    let looked = settings.stores.iter().map(|store| look(&**store));
    let (answers, looks) = tokio::join!(join_all(asked), join_all(looked));

    let heard: Vec<&Heard> = answers.iter().filter_map(|answer| answer.as_ref().ok()).collect();
    let cluster = one_cluster(&heard)?;
    let old = Box::pin(find_old(settings, &answers, &heard, old, believe_dead, &cluster)).await?;

    let mut nodes = Vec::new();
    for (node, answer) in settings.nodes.iter().zip(&answers) {
        let standing = match answer {
            Err(error) => Standing::Silent {
                why: words(error),
                refuses: refuses(error),
            },
            Ok(heard) if !heard.answer.in_recovery => Standing::Primary {
                timeline: heard.answer.timeline,
                flushed: heard.answer.lsn,
            },
            Ok(heard) => {
                let own = own_end(heard, &cluster).await?;
                Standing::Standby(Box::new(standby_of(heard, own, settings, &answers)))
            }
        };
        nodes.push(NodeLook {
            name: node.name.clone(),
            standing,
        });
    }

    let mut ends = Vec::new();
    let mut stores = Vec::new();
    for (store, found) in settings.stores.iter().zip(looks) {
        let mut row = StoreFound {
            location: store.location().to_owned(),
            end: None,
            trouble: None,
        };
        match found {
            Ok(Some(found)) if found.identity.system_id != cluster.system_id => {
                row.trouble = Some(format!(
                    "it holds the cluster with system identifier {}",
                    found.identity.system_id
                ));
            }
            Ok(Some(found)) => {
                row.end = Some((found.timeline, found.boundary));
                match found.history {
                    Some(path) => ends.push(Furthest {
                        end: found.boundary,
                        timeline: found.timeline,
                        last_commit: found.last_commit,
                        at: Place::Store(row.location.clone()),
                        exact: false,
                        path,
                    }),
                    None => {
                        row.trouble = Some(format!("it lacks the history of timeline {}", found.timeline))
                    }
                }
            }
            Ok(None) => {}
            Err(error) => row.trouble = Some(words(&error)),
        }
        stores.push(row);
    }
    let mut survey = Survey {
        nodes,
        stores,
        system_id: cluster.system_id,
        old,
        furthest: None,
        took: Duration::ZERO,
    };
    ends.extend(ends_of(&survey, &heard).await?);
    // The newest timeline wins, then the furthest end, then what says that nothing can be behind it.
    survey.furthest = ends
        .into_iter()
        .max_by_key(|end| (end.timeline, end.end, end.exact));
    judge(&mut survey, settings, &heard, &cluster).await?;
    survey.took = began.elapsed();
    Ok(survey)
}

/// Only silence says that nobody is there.
fn refuses(error: &PromoteError) -> bool {
    match error {
        PromoteError::Connect { source, .. } => !source.is_silence(),
        PromoteError::Sql { .. } => true,
        _ => false,
    }
}

async fn ask(node: &NodeSettings, limit: Duration) -> Result<Heard, PromoteError> {
    let node = Node::reach(node, limit).await?;
    let answer = match tokio::time::timeout(limit, node.ask()).await {
        Ok(answer) => answer?,
        Err(_) => {
            return Err(PromoteError::Node {
                node: node.name().to_owned(),
                what: format!("it gave no answer within {limit:?}"),
            });
        }
    };
    Ok(Heard { node, answer })
}

/// All nodes that answer have to be of one cluster.
fn one_cluster(heard: &[&Heard]) -> Result<Cluster, PromoteError> {
    let Some(first) = heard.first() else {
        return Err(Refusal::NoCandidate.into());
    };
    for other in heard {
        if other.answer.system_id != first.answer.system_id {
            return Err(Refusal::OtherCluster {
                node: other.node.name().to_owned(),
                found: other.answer.system_id,
                expected: first.answer.system_id,
            }
            .into());
        }
    }
    Ok(Cluster {
        system_id: first.answer.system_id,
        segment_size: first.answer.segment_size,
        major: major_of(first.answer.version),
    })
}

/// The source of a standby's own WAL: its disk, or the server itself where that is elsewhere or not ours to read.
pub(super) fn own_source(node: &Arc<Node>, size: SegmentSize) -> WalSource {
    match &node.settings.data_dir {
        Some(dir) if std::fs::read_dir(dir.join("pg_wal")).is_ok() => WalSource::Disk(WalDir::new(dir, size)),
        _ => WalSource::Server(node.clone()),
    }
}

async fn own_end(heard: &Heard, cluster: &Cluster) -> Result<Own, PromoteError> {
    let path = Arc::new(heard.node.history(heard.answer.timeline).await?);
    let source = own_source(&heard.node, cluster.segment_size);
    let mut last_commit = heard.answer.last_end;
    // One that has replayed no commit since it was started may find one earlier in the segment.
    let start = match last_commit {
        Some(_) => heard.answer.lsn,
        None => SegmentNo::holding(heard.answer.lsn, cluster.segment_size).start(cluster.segment_size),
    };
    let end = walk(&[&source], cluster, &path, start, None, |record| {
        if let Some(end) = record.transaction_end()
            && end.outcome == Outcome::Committed
        {
            last_commit = Some(end.time);
        }
    })
    .await?;
    Ok(Own {
        end: end.max(heard.answer.lsn),
        last_commit,
        path,
    })
}

fn standby_of(
    heard: &Heard,
    own: Own,
    settings: &Settings,
    answers: &[Result<Heard, PromoteError>],
) -> Standby {
    let answer = &heard.answer;
    let sender = answer.receives_from.as_ref().filter(|sender| sender.streams);
    let sends = |node: &NodeSettings, sender: &super::node::Sender| {
        let hosts = node
            .db
            .hosts()
            .iter()
            .chain(node.follow.iter().flat_map(|follow| follow.hosts()));
        hosts
            .filter(|host| i32::from(host.port) == sender.port)
            .any(|host| is_at(host, &sender.host))
    };
    let cascaded = sender.is_some_and(|sender| {
        let nodes = settings.nodes.iter().zip(answers);
        let mut standbys =
            nodes.filter(|(_, answer)| answer.as_ref().is_ok_and(|heard| heard.answer.in_recovery));
        standbys.any(|(node, _)| sends(node, sender))
    });
    Standby {
        timeline: answer.timeline,
        replayed: answer.lsn,
        end: own.end,
        last_commit: own.last_commit,
        replay_paused: answer.paused,
        apply_delay: answer.apply_delay,
        receives_from: sender.map(|sender| format!("{}:{}", sender.host, sender.port)),
        cascaded,
        lacks: None,
        obstacle: None,
        path: own.path,
        version: answer.version,
        restore_command: answer.restore_command.clone(),
    }
}

/// The ends of WAL at the nodes and on the old primary's disk.
async fn ends_of(survey: &Survey, heard: &[&Heard]) -> Result<Vec<Furthest>, PromoteError> {
    let mut ends = Vec::new();
    for (name, standby) in survey.standbys() {
        ends.push(Furthest {
            end: standby.end,
            timeline: standby.timeline,
            last_commit: standby.last_commit,
            at: Place::Node(name.to_owned()),
            exact: false,
            path: standby.path.clone(),
        });
    }
    match survey.old.as_ref().map(|old| (&old.name, &old.disk)) {
        Some((_, OldDisk::Read(dead))) => ends.push(Furthest {
            end: dead.end_lsn(),
            timeline: dead.path.timeline(),
            last_commit: dead.last_commit(),
            at: Place::OldDisk,
            exact: !dead.is_damaged(),
            path: dead.path.clone(),
        }),
        Some((name, OldDisk::Alive)) => {
            let primary = heard.iter().find(|heard| heard.node.name() == name);
            if let Some(heard) = primary {
                // What it has flushed may end within a record.
                let path = Arc::new(heard.node.history(heard.answer.timeline).await?);
                ends.push(Furthest {
                    end: heard.answer.lsn,
                    timeline: heard.answer.timeline,
                    last_commit: None,
                    at: Place::Node(name.clone()),
                    exact: true,
                    path,
                });
            }
        }
        _ => {}
    }
    Ok(ends)
}

/// What each standby lacks, and what is in its way.
async fn judge(
    survey: &mut Survey,
    settings: &Settings,
    heard: &[&Heard],
    cluster: &Cluster,
) -> Result<(), PromoteError> {
    let Some(furthest) = survey.furthest.clone() else {
        return Ok(());
    };
    let mut sources = Vec::new();
    if let Some(OldPrimary {
        disk: OldDisk::Read(dead),
        ..
    }) = &survey.old
    {
        sources.push(WalSource::Disk(dead.dir.clone()));
    }
    let all = heard
        .iter()
        .map(|heard| own_source(&heard.node, cluster.segment_size));
    sources.extend(all);
    sources.push(WalSource::stores(Restorer::new(
        settings.stores.clone(),
        Some(cluster.system_id),
    )));
    let mut places = Vec::new();
    for node in &mut survey.nodes {
        let Standing::Standby(standby) = &mut node.standing else {
            continue;
        };
        match furthest.path.shares(&standby.path, standby.end) {
            true => places.push(standby),
            false => {
                standby.obstacle = Some(format!(
                    "its WAL leaves that of timeline {}, which {} has",
                    furthest.timeline, furthest.at
                ));
            }
        }
    }
    let ends: Vec<_> = places
        .iter()
        .map(|standby| (standby.end, standby.last_commit))
        .collect();
    let lacks = loss::measure(&ends, &furthest, &sources, cluster).await;
    for (standby, lacks) in places.into_iter().zip(lacks) {
        standby.lacks = Some(lacks);
    }
    Ok(())
}

impl Survey {
    /// The old primary's disk, for the steps that read it again.
    pub fn take_dead(&mut self) -> Option<DeadServer> {
        let old = self.old.as_mut()?;
        match std::mem::replace(&mut old.disk, OldDisk::Elsewhere) {
            OldDisk::Read(dead) => Some(*dead),
            other => {
                old.disk = other;
                None
            }
        }
    }
}
