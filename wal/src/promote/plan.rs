//! Which standby, by which way, in which steps; or why not.

use serde::{Deserialize, Serialize};
use skytide_sql::Lsn;

use super::journal::Step;
use super::survey::{OldDisk, Place, Standby, Standing, Survey};
use super::{NodeSettings, PromoteError, Refusal, Settings};
use crate::TimelineId;

/// From this version on a running server takes a new `restore_command`.
const RELOADS_RESTORE_COMMAND: u32 = 140_000;

/// What the operator asks for.
#[derive(Debug, Clone, Default)]
pub struct Wish {
    /// This standby; otherwise the one whose WAL goes furthest.
    pub to: Option<String>,
    /// The primary lives and is to be stopped first.
    pub switchover: bool,
    /// A walreceiver that is still connected is no sign of a living primary.
    pub believe_dead: bool,
    /// A former primary, where that cannot be found out.
    pub old: Option<String>,
    /// A store that cannot be asked has nothing that is needed.
    pub without_silent_stores: bool,
    /// A node is rewound though it has commits that the plan did not know of.
    pub discard_commits: bool,
}

/// How the new primary gets what it lacks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Way {
    /// It has everything, and only has to replay it.
    Own,
    /// From the stores, by its `restore_command`.
    Stores,
    /// From another standby, as its standby.
    Node(String),
}

#[derive(Debug, Clone)]
pub struct Plan {
    pub switchover: bool,
    pub system_id: u64,
    pub old: Option<String>,
    pub new: String,
    pub timeline: TimelineId,
    /// The new primary's own end.
    pub from: Lsn,
    /// Where its WAL ends when it is promoted. In a switchover that is known when the primary has stopped.
    pub target: Option<Lsn>,
    /// The newest timeline that was found.
    pub newest: TimelineId,
    pub way: Way,
    pub steps: Vec<Step>,
    /// Where the WAL of each standby ended.
    pub ends: Vec<(String, Lsn)>,
}

impl Plan {
    /// Does the same as another plan. How far the standbys of a living primary are is different each time.
    pub fn does_as(&self, other: &Plan) -> bool {
        let ends = |plan: &Plan| (!plan.switchover).then(|| plan.ends.clone());
        self.switchover == other.switchover
            && (self.system_id, &self.old, &self.new) == (other.system_id, &other.old, &other.new)
            && (self.timeline, self.newest, self.target) == (other.timeline, other.newest, other.target)
            && (&self.way, &self.steps) == (&other.way, &other.steps)
            && ends(self) == ends(other)
    }
}

/// Makes the plan.
pub fn choose(survey: &Survey, settings: &Settings, wish: &Wish) -> Result<Plan, PromoteError> {
    Ok(match wish.switchover {
        true => switchover(survey, settings, wish)?,
        false => failover(survey, settings, wish)?,
    })
}

/// Nobody is promoted beside a primary that lives.
pub(super) fn check_dead(survey: &Survey, believe_dead: bool) -> Result<(), Refusal> {
    if let Some(primary) = survey.primaries().next() {
        return Err(Refusal::PrimaryAlive(primary.to_owned()));
    }
    if let Some(old) = &survey.old
        && let OldDisk::Postmaster { pid } = old.disk
    {
        return Err(Refusal::PostmasterAlive {
            node: old.name.clone(),
            pid,
        });
    }
    if let Some((node, why)) = refusing_primary(survey).filter(|_| !believe_dead) {
        return Err(Refusal::NotLetIn { node, why });
    }
    let direct = |standby: &Standby| standby.receives_from.clone().filter(|_| !standby.cascaded);
    let mut receiving = survey
        .standbys()
        .filter_map(|(name, standby)| Some((name, direct(standby)?)));
    match receiving.next().filter(|_| !believe_dead) {
        None => Ok(()),
        Some((node, from)) => Err(Refusal::StillReceiving {
            node: node.to_owned(),
            from,
        }),
    }
}

/// The former primary, or a node that may be it, where somebody answers who does not let us in, and its disk was not read.
fn refusing_primary(survey: &Survey) -> Option<(String, String)> {
    let old = survey.old.as_ref();
    if old.is_some_and(|old| matches!(old.disk, OldDisk::Read(_))) {
        return None;
    }
    survey.nodes.iter().find_map(|node| match &node.standing {
        Standing::Silent { why, refuses: true } if old.is_none_or(|old| old.name == node.name) => {
            Some((node.name.clone(), why.clone()))
        }
        _ => None,
    })
}

/// What a store has that cannot be asked may be what nobody else has.
pub(super) fn check_stores(survey: &Survey, without_silent_stores: bool) -> Result<(), Refusal> {
    let silent = survey
        .stores
        .iter()
        .find_map(|store| Some((store, store.trouble.clone()?)));
    match silent.filter(|_| !without_silent_stores) {
        None => Ok(()),
        Some((store, why)) => Err(Refusal::SilentStore {
            location: store.location.clone(),
            why,
        }),
    }
}

fn ends_of(survey: &Survey) -> Vec<(String, Lsn)> {
    let standbys = survey.standbys();
    standbys
        .map(|(name, standby)| (name.to_owned(), standby.end))
        .collect()
}

fn failover(survey: &Survey, settings: &Settings, wish: &Wish) -> Result<Plan, Refusal> {
    check_dead(survey, wish.believe_dead)?;
    check_stores(survey, wish.without_silent_stores)?;
    let (new, standby) = candidate(survey, wish.to.as_deref())?;
    let node = settings
        .node(new)
        .ok_or_else(|| Refusal::UnknownNode(new.to_owned()))?;
    if settings.fence.is_none() && settings.fence_required {
        return Err(Refusal::NoFence);
    }
    let furthest = survey.furthest.as_ref().ok_or(Refusal::NoCandidate)?;
    let target = furthest.end.max(standby.end);
    let way = match &furthest.at {
        _ if standby.end >= furthest.end => Way::Own,
        Place::Node(other) => Way::Node(other.clone()),
        Place::OldDisk | Place::Store(_) => Way::Stores,
    };
    if way == Way::Stores {
        restore_command_of(node, standby.version, &standby.restore_command)?;
    }
    let mut steps = Vec::new();
    steps.extend(settings.fence.is_some().then_some(Step::Fence));
    if way == Way::Stores && furthest.at == Place::OldDisk {
        steps.push(Step::Salvage);
    }
    steps.extend([Step::Bring, Step::Promote, Step::Write]);
    let others = survey.standbys().filter(|(name, _)| *name != new);
    steps.extend(others.map(|(name, _)| Step::Follow(name.to_owned())));
    steps.push(Step::Tidy);
    Ok(Plan {
        switchover: false,
        system_id: survey.system_id,
        old: survey.old.as_ref().map(|old| old.name.clone()),
        new: new.to_owned(),
        timeline: standby.timeline,
        from: standby.end,
        target: Some(target),
        newest: furthest.timeline,
        way,
        steps,
        ends: ends_of(survey),
    })
}

fn switchover(survey: &Survey, settings: &Settings, wish: &Wish) -> Result<Plan, Refusal> {
    let old = survey.primaries().next().ok_or(Refusal::NoPrimary)?;
    let (new, standby) = candidate(survey, wish.to.as_deref())?;
    let unfit = |why: String| Refusal::Unfit {
        node: new.to_owned(),
        why,
    };
    if standby.receives_from.is_none() {
        return Err(unfit("it receives no WAL".into()));
    }
    let behind = standby.lacks.map_or(0, |lacks| lacks.bytes);
    if behind > settings.switchover_max_lag {
        return Err(unfit(format!("it is {behind} bytes behind")));
    }
    let stops = settings.node(old);
    if !stops.is_some_and(|node| node.stop.is_some() || node.data_dir.is_some()) {
        return Err(Refusal::CannotStop(old.to_owned()));
    }
    let mut steps = vec![Step::Stop, Step::Bring, Step::Promote, Step::Write];
    let others = survey.standbys().filter(|(name, _)| *name != new);
    steps.extend(others.map(|(name, _)| Step::Follow(name.to_owned())));
    // One elsewhere has to be made a standby there.
    if stops.is_some_and(|node| node.data_dir.is_some()) {
        steps.push(Step::Follow(old.to_owned()));
    }
    steps.push(Step::Tidy);
    Ok(Plan {
        switchover: true,
        system_id: survey.system_id,
        old: Some(old.to_owned()),
        new: new.to_owned(),
        timeline: standby.timeline,
        from: standby.end,
        target: None,
        newest: survey
            .furthest
            .as_ref()
            .map_or(standby.timeline, |furthest| furthest.timeline),
        way: Way::Own,
        steps,
        ends: ends_of(survey),
    })
}

fn candidate<'s>(survey: &'s Survey, to: Option<&'s str>) -> Result<(&'s str, &'s Standby), Refusal> {
    let found = match to {
        Some(to) if survey.nodes.iter().all(|node| node.name != to) => {
            return Err(Refusal::UnknownNode(to.to_owned()));
        }
        Some(to) => {
            let standby = survey.standby(to).ok_or_else(|| Refusal::Unfit {
                node: to.to_owned(),
                why: "it is no standby that answers".into(),
            })?;
            Some((to, standby))
        }
        // The first one of the settings where several have the same.
        None => {
            let mut best: Option<(&str, &Standby)> = None;
            for (name, standby) in survey
                .standbys()
                .filter(|(_, standby)| standby.obstacle.is_none())
            {
                if best.is_none_or(|(_, best)| standby.end > best.end) {
                    best = Some((name, standby));
                }
            }
            best
        }
    };
    // Where all of them have something in their way, the first one's is told.
    let (name, standby) = found
        .or_else(|| survey.standbys().next())
        .ok_or(Refusal::NoCandidate)?;
    match &standby.obstacle {
        Some(why) => Err(Refusal::Unfit {
            node: name.to_owned(),
            why: why.clone(),
        }),
        None => Ok((name, standby)),
    }
}

/// What the node's server has to run to get WAL from the stores: `None` if its own setting does that.
pub(super) fn restore_command_of<'n>(
    node: &'n NodeSettings,
    version: u32,
    present: &str,
) -> Result<Option<&'n str>, Refusal> {
    // A server that cannot be given another one goes by its own.
    let ours = present.contains("restore-wal") || present.contains("xrestore");
    if ours || (version < RELOADS_RESTORE_COMMAND && !present.is_empty()) {
        return Ok(None);
    }
    if version < RELOADS_RESTORE_COMMAND {
        return Err(Refusal::NeedsRestoreCommand(node.name.clone()));
    }
    match &node.restore_command {
        Some(command) => Ok(Some(command)),
        None => Err(Refusal::UnknownRestoreCommand(node.name.clone())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use skytide_sql::conn::ConnectString;

    #[test]
    fn a_server_is_given_a_restore_command_only_where_it_lacks_one_and_can_take_it() {
        let node = |command: Option<&str>| NodeSettings {
            name: "b".into(),
            db: ConnectString::parse("host=b user=postgres").unwrap(),
            follow: None,
            data_dir: None,
            bin_dir: None,
            restore_command: command.map(str::to_owned),
            start: None,
            stop: None,
        };
        let ours = "skytide walmgr wal.ini restore-wal %f %p";
        let known = node(Some(ours));
        assert_eq!(restore_command_of(&known, 150_000, ours), Ok(None));
        assert_eq!(restore_command_of(&known, 150_000, ""), Ok(Some(ours)));
        assert_eq!(restore_command_of(&known, 150_000, "cp /x/%f %p"), Ok(Some(ours)));
        assert_eq!(restore_command_of(&known, 130_000, "cp /x/%f %p"), Ok(None));
        let needs = Err(Refusal::NeedsRestoreCommand("b".into()));
        assert_eq!(restore_command_of(&known, 130_000, ""), needs);
        let unknown = Err(Refusal::UnknownRestoreCommand("b".into()));
        assert_eq!(restore_command_of(&node(None), 180_000, ""), unknown);
    }
}
