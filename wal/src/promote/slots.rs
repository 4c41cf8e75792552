//! Slots that a former primary keeps for those who do not follow it any more: they hold its WAL without bound.

use std::sync::Arc;

use futures_util::future::join_all;
use skytide_sql::conn::ConnectString;

use super::follow::Leader;
use super::node::{Answer, Node};
use super::steps::HOLD;
use super::{NodeSettings, Settings};
use crate::tail::words;

/// Drops the idle slots of a standby that are those of other nodes, and returns what to say of them. Slots of others are
/// theirs, so they are only named. That the node follows is not undone by a failure.
pub(super) async fn let_go(settings: &Settings, leader: &Leader, node: &Arc<Node>) -> String {
    let idle = match node.idle_slots().await {
        Ok(idle) => idle,
        Err(error) => {
            let (node, why) = (node.name(), words(&error));
            tracing::warn!(node, why, "whether slots hold its WAL is not known");
            return String::new();
        }
    };
    if idle.is_empty() {
        return String::new();
    }
    let ours = slots_of_others(settings, leader, node).await;
    let (mut dropped, mut kept) = (Vec::new(), Vec::new());
    for slot in idle {
        if !ours.contains(&slot) {
            kept.push(slot);
            continue;
        }
        match node.drop_slot(&slot).await {
            Ok(()) => dropped.push(slot),
            Err(error) => {
                let (node, why) = (node.name(), words(&error));
                tracing::warn!(node, slot, why, "a slot that nobody uses could not be dropped");
                kept.push(slot);
            }
        }
    }
    let mut said = String::new();
    if !dropped.is_empty() {
        said.push_str(&format!(
            "; its slots of other nodes were dropped: {}",
            dropped.join(", ")
        ));
    }
    if !kept.is_empty() {
        said.push_str(&format!(
            "; slots that nobody uses hold its WAL: {}",
            kept.join(", ")
        ));
    }
    said
}

/// What the other nodes call their slots, as far as they answer and do not want to follow this node.
async fn slots_of_others(settings: &Settings, leader: &Leader, node: &Arc<Node>) -> Vec<String> {
    let others = settings.nodes.iter().filter(|other| other.name != node.name());
    let asked = others.map(|other| async move {
        let reached = Node::reach(other, settings.answer_timeout).await.ok()?;
        Some((other, reached.ask().await.ok()?))
    });
    let mut slots: Vec<String> = join_all(asked)
        .await
        .into_iter()
        .flatten()
        .filter(|(other, answer)| other.name == leader.node.name() || !follows(answer, &node.settings))
        .map(|(_, answer)| answer.slot)
        .collect();
    slots.push(HOLD.to_owned());
    slots
}

/// It is, or tries to be, a standby of the node.
fn follows(answer: &Answer, node: &NodeSettings) -> bool {
    let theirs = ConnectString::parse(&answer.conninfo);
    let ours = node.db.hosts().iter();
    let mut ours = ours.chain(node.follow.iter().flat_map(|follow| follow.hosts()));
    theirs.is_ok_and(|theirs| ours.any(|host| theirs.hosts().contains(host)))
}
