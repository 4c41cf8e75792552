//! Which node is, or was, the primary, and what its disk says.

use skytide_sql::conn::{ConnectString, Host, Place as HostPlace};

use super::source::Cluster;
use super::survey::{Heard, OldDisk, OldPrimary};
use super::{NodeSettings, PromoteError, Refusal, Settings};
use crate::control::ClusterState;
use crate::ship::{self, DeadServer};
use crate::tail::words;

/// A walreceiver names the directory of a socket, or the name or address that it was given.
pub(super) fn is_at(host: &Host, sender: &str) -> bool {
    match &host.place {
        HostPlace::Directory(dir) => dir.as_os_str() == sender,
        HostPlace::Name { name, address } => {
            name == sender || address.is_some_and(|address| address.to_string() == sender)
        }
    }
}

/// Which node is, or was, the primary: the one that says so; the one named; a silent one whose disk or whose address in
/// the standbys' settings says so; the only silent one.
pub(super) async fn find_old(
    settings: &Settings,
    answers: &[Result<Heard, PromoteError>],
    heard: &[&Heard],
    named: Option<&str>,
    believe_dead: bool,
    cluster: &Cluster,
) -> Result<Option<OldPrimary>, PromoteError> {
    let mut alive = heard.iter().filter(|heard| !heard.answer.in_recovery);
    if let Some(primary) = alive.next() {
        if let Some(other) = alive.next() {
            let names = [primary, other].map(|heard| heard.node.name().to_owned());
            let [first, second] = names;
            return Err(Refusal::TwoPrimaries(first, second).into());
        }
        return Ok(Some(OldPrimary {
            name: primary.node.name().to_owned(),
            disk: OldDisk::Alive,
        }));
    }
    let nodes = settings.nodes.iter().zip(answers);
    let silent: Vec<&NodeSettings> = nodes
        .filter(|(_, answer)| answer.is_err())
        .map(|(node, _)| node)
        .collect();
    let followed = |node: &NodeSettings| {
        heard.iter().any(|heard| {
            ConnectString::parse(&heard.answer.conninfo).is_ok_and(|conninfo| {
                let theirs = conninfo.hosts();
                let ours = node
                    .db
                    .hosts()
                    .iter()
                    .chain(node.follow.iter().flat_map(|follow| follow.hosts()));
                ours.into_iter().any(|host| theirs.contains(host))
            })
        })
    };
    let old = match named {
        Some(named) => silent.iter().find(|node| node.name == named),
        None => silent
            .iter()
            .find(|node| was_primary(node))
            .or_else(|| silent.iter().find(|node| followed(node)))
            .or_else(|| silent.first().filter(|_| silent.len() == 1)),
    };
    let Some(old) = old else {
        return Ok(None);
    };
    Ok(Some(OldPrimary {
        name: old.name.clone(),
        disk: read_disk(old, believe_dead, cluster).await,
    }))
}

/// Its control file is that of a primary.
fn was_primary(node: &NodeSettings) -> bool {
    let Some(dir) = &node.data_dir else {
        return false;
    };
    let state = ship::control(dir).map(|control| control.state);
    let standby = dir.join("standby.signal").exists();
    !standby
        && state.is_ok_and(|state| {
            matches!(
                state,
                ClusterState::InProduction
                    | ClusterState::ShutDown
                    | ClusterState::ShuttingDown
                    | ClusterState::InCrashRecovery
            )
        })
}

async fn read_disk(old: &NodeSettings, believe_dead: bool, cluster: &Cluster) -> OldDisk {
    let Some(dir) = &old.data_dir else {
        return OldDisk::Elsewhere;
    };
    match DeadServer::inspect(dir.clone(), believe_dead).await {
        Ok(dead) if dead.control.system_id != cluster.system_id => OldDisk::Unreadable(format!(
            "{} is of the cluster with system identifier {}",
            dir.display(),
            dead.control.system_id
        )),
        Ok(dead) => OldDisk::Read(Box::new(dead)),
        Err(ship::ShipError::Alive { pid }) => OldDisk::Postmaster { pid },
        Err(error) => OldDisk::Unreadable(words(&error)),
    }
}
