//! The steps, done one after the other. Each may have been done before by a process that died: it looks first.

use std::fs::File;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use skytide_sql::Lsn;

use super::follow::{self, Leader};
use super::gained::Loss;
use super::journal::{self, Done, Journal, Step};
use super::node::{Answer, Node, conninfo_of, major_of};
use super::plan::{Plan, Way, Wish, restore_command_of};
use super::source::{Cluster, walk};
use super::survey::own_source;
use super::{NodeSettings, PromoteError, Refusal, Settings, again};
use crate::control::ClusterState;
use crate::ship::{DeadServer, ShipError};
use crate::tail::words;

/// How often a server is asked while something is waited for.
const POLL: Duration = Duration::from_millis(2);
/// A standby that waits before it looks for WAL again is woken, first soon and then seldom.
const FIRST_KICK: Duration = Duration::from_millis(20);
const LAST_KICK: Duration = Duration::from_millis(500);
/// A slot that is there from the promotion until the others follow.
pub(super) const HOLD: &str = "skytide_promote";
/// What was on its way when a primary stopped.
const LAST_WAL: Duration = Duration::from_secs(2);

/// A promotion that has begun.
#[derive(Debug)]
pub struct Promotion<'s> {
    settings: &'s Settings,
    wish: Wish,
    journal: Journal,
    /// Read for the plan already.
    dead: Option<DeadServer>,
    _lock: File,
}

impl<'s> Promotion<'s> {
    /// Writes the plan down. `dead` is the old primary's disk, if it was read; `replaces` an unfinished promotion that
    /// does not go on.
    pub async fn begin(
        settings: &'s Settings,
        plan: &Plan,
        wish: &Wish,
        dead: Option<DeadServer>,
        replaces: Option<&Journal>,
    ) -> Result<Promotion<'s>, PromoteError> {
        let lock = journal::lock(&settings.journal)?;
        let open = Journal::read(&settings.journal)?.filter(|journal| !journal.is_finished());
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let mut journal = Journal::of(plan, now.map_or(0, |now| now.as_secs()));
        match open {
            Some(open) if replaces != Some(&open) => {
                return Err(Refusal::OtherBegun { new: open.new }.into());
            }
            Some(open) if open.new == journal.new => journal.changed = open.changed,
            Some(open) => put_back(settings, &open).await,
            None => {}
        }
        journal.write(&settings.journal)?;
        Ok(Promotion {
            settings,
            wish: wish.clone(),
            journal,
            dead,
            _lock: lock,
        })
    }

    /// The one that the journal says is not finished, after [`again::reconsider`].
    pub fn resume(settings: &'s Settings, wish: &Wish) -> Result<Option<Promotion<'s>>, PromoteError> {
        let lock = journal::lock(&settings.journal)?;
        let Some(journal) = Journal::read(&settings.journal)?.filter(|journal| !journal.is_finished()) else {
            return Ok(None);
        };
        Ok(Some(Promotion {
            settings,
            wish: wish.clone(),
            journal,
            dead: None,
            _lock: lock,
        }))
    }

    pub fn journal(&self) -> &Journal {
        &self.journal
    }

    /// Does what is left and tells of each step. A node that does not follow does not keep the others from it: the
    /// journal stays open, and the error says which.
    pub async fn run(mut self, mut tell: impl FnMut(&Done)) -> Result<Journal, PromoteError> {
        let open: Vec<Step> = self.journal.open().cloned().collect();
        let mut left = Vec::new();
        for step in open {
            let began = Instant::now();
            let note = match (Box::pin(self.work(&step)).await, &step) {
                (Ok(note), _) => note,
                (Err(error), Step::Follow(node)) => {
                    left.push(format!("{node}: {}", words(&error)));
                    continue;
                }
                (Err(error), _) => return Err(error),
            };
            let [before, after] = step.failpoints();
            pass(before);
            let done = Done {
                step,
                ms: began.elapsed().as_secs_f64() * 1e3,
                note,
            };
            tell(&done);
            self.journal.done.push(done);
            self.journal.write(&self.settings.journal)?;
            pass(after);
        }
        match left.is_empty() {
            true => Ok(self.journal),
            false => Err(PromoteError::NotFollowing {
                new: self.journal.new,
                nodes: left,
            }),
        }
    }

    async fn work(&mut self, step: &Step) -> Result<String, PromoteError> {
        match step {
            Step::Fence => self.fence().await,
            Step::Stop => self.stop().await,
            Step::Salvage => self.salvage().await,
            Step::Bring => self.bring().await,
            Step::Promote => self.promote().await,
            Step::Write => self.write().await,
            Step::Follow(node) => self.follow(node).await,
            Step::Tidy => self.tidy().await,
        }
    }

    fn node(&self, name: &str) -> Result<&'s NodeSettings, PromoteError> {
        let settings: &'s Settings = self.settings;
        let node = settings.node(name);
        Ok(node.ok_or_else(|| Refusal::UnknownNode(name.to_owned()))?)
    }

    async fn reach(&self, name: &str) -> Result<Arc<Node>, PromoteError> {
        Node::reach(self.node(name)?, self.settings.answer_timeout).await
    }

    async fn fence(&mut self) -> Result<String, PromoteError> {
        let Some(fence) = &self.settings.fence else {
            return Err(Refusal::NoFence.into());
        };
        let environment = [
            (
                "SKYTIDE_OLD_PRIMARY",
                self.journal.old.clone().unwrap_or_default(),
            ),
            ("SKYTIDE_NEW_PRIMARY", self.journal.new.clone()),
        ];
        let fenced = fence.run(&environment, self.settings.hook_timeout).await;
        fenced.map_err(PromoteError::Fence)?;
        Ok("the fence says that the old primary stays away".into())
    }

    /// Afterwards the target is known, and the way there.
    async fn stop(&mut self) -> Result<String, PromoteError> {
        let name = self.journal.old.clone().unwrap_or_default();
        let old = self.node(&name)?;
        if let Ok(node) = Node::reach(old, self.settings.answer_timeout).await {
            let answer = node.ask().await?;
            if answer.in_recovery {
                return Err(PromoteError::Node {
                    node: name,
                    what: "it is a standby now".into(),
                });
            }
            // Most of the work of the last checkpoint, before clients have to wait for it.
            node.checkpoint().await?;
            drop(node);
            follow::stop_server(self.settings, old, Some(&answer.bin_dir)).await?;
        }
        let new = self.reach(&self.journal.new).await?;
        let target = match &old.data_dir {
            Some(dir) => {
                let dead = DeadServer::inspect(dir.clone(), false).await?;
                if dead.control.state != ClusterState::ShutDown {
                    return Err(PromoteError::Node {
                        node: name,
                        what: format!("it stopped while it was {}", dead.control.state),
                    });
                }
                let target = dead.end_lsn();
                self.dead = Some(dead);
                target
            }
            None => self.shutdown_checkpoint(&new).await?,
        };
        let end = self.end_at_least(&new, target).await?;
        if end < target {
            let Some(dead) = self.dead.take() else {
                return Err(PromoteError::StoppedAhead {
                    node: name,
                    candidate: self.journal.new.clone(),
                    target,
                    end,
                });
            };
            // The connection broke before the last bytes had come; the disk has them.
            let answer = new.ask().await?;
            restore_command_of(&new.settings, answer.version, &answer.restore_command)?;
            self.copy(dead).await?;
            self.journal.way = Way::Stores;
        }
        self.journal.target = Some(target);
        Ok(format!("{name} is stopped, its WAL ends at {target}"))
    }

    /// Where the standby's WAL ends, as soon as that is not before `target`, or what there is when nothing comes.
    async fn end_at_least(&self, node: &Arc<Node>, target: Lsn) -> Result<Lsn, PromoteError> {
        let began = Instant::now();
        loop {
            let (end, _) = self.own_end(node).await?;
            if end >= target || began.elapsed() > LAST_WAL {
                return Ok(end);
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// A primary that stops sends its last record, a shutdown checkpoint, before it goes: a standby that has it has
    /// everything.
    async fn shutdown_checkpoint(&self, node: &Arc<Node>) -> Result<Lsn, PromoteError> {
        let began = Instant::now();
        loop {
            let (end, is_last) = self.own_end(node).await?;
            if is_last {
                return Ok(end);
            }
            if began.elapsed() > self.settings.wait_timeout {
                return Err(PromoteError::Node {
                    node: node.name().to_owned(),
                    what: format!("the stopped primary's shutdown checkpoint did not come; it has {end}"),
                });
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// And whether the last record is a shutdown checkpoint.
    async fn own_end(&self, node: &Arc<Node>) -> Result<(Lsn, bool), PromoteError> {
        let answer = node.ask().await?;
        let cluster = cluster_of(&answer);
        let path = Arc::new(node.history(answer.timeline).await?);
        let source = own_source(node, answer.segment_size);
        let mut last = false;
        // From the segment's start: the last record may have been replayed.
        let start = crate::SegmentNo::holding(answer.lsn, answer.segment_size).start(answer.segment_size);
        let end = walk(&[&source], &cluster, &path, start, None, |record| {
            last = record.operation() == Some("CHECKPOINT_SHUTDOWN");
        })
        .await?;
        Ok((end.max(answer.lsn), last))
    }

    async fn salvage(&mut self) -> Result<String, PromoteError> {
        let dead = match self.dead.take() {
            Some(dead) => dead,
            None => {
                let name = self.journal.old.clone().unwrap_or_default();
                let dir = self.node(&name)?.data_dir.clone();
                let dir = dir.ok_or_else(|| PromoteError::Node {
                    node: name,
                    what: "its data directory is not on this host any more".into(),
                })?;
                // It was found dead when the plan was made.
                DeadServer::inspect(dir, true).await?
            }
        };
        let end = dead.end_lsn();
        self.copy(dead).await?;
        Ok(format!("the stores have the old primary's WAL up to {end}"))
    }

    async fn copy(&self, dead: DeadServer) -> Result<(), PromoteError> {
        let settings = self.settings;
        let copied = dead.copy(
            settings.stores.clone(),
            settings.stores_needed,
            settings.compression_level,
        );
        match copied.await {
            // What is sound was copied, and the plan went no further than that.
            Ok(_) | Err(ShipError::Damaged { .. }) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Until the new primary has replayed everything up to the target.
    async fn bring(&mut self) -> Result<String, PromoteError> {
        let node = self.reach(&self.journal.new).await?;
        let answer = node.ask().await?;
        let target = self.journal.target.unwrap_or(Lsn::INVALID);
        if !answer.in_recovery {
            return Ok("it is out of recovery already".into());
        }
        if answer.paused {
            node.resume_replay().await?;
        }
        let mut kicks = false;
        if !answer.apply_delay.is_zero() {
            self.change(&node, "recovery_min_apply_delay", Some("0")).await?;
            kicks = true;
        }
        if answer.lsn < target {
            kicks |= self.show_way(&node, &answer).await?;
        }
        if kicks {
            node.reload().await?;
        }
        let from = answer.lsn;
        self.wait_for_replay(&node, target, kicks).await?;
        // At the end of recovery a server looks for files that are not there, and would run it each time.
        let command = self
            .journal
            .changed
            .iter()
            .find(|(name, _)| name == "restore_command");
        if let Some((_, before)) = command {
            node.set("restore_command", before.as_deref()).await?;
            node.reload().await?;
        }
        Ok(match self.journal.way {
            Way::Own => format!("replayed from {from} to {target}"),
            Way::Stores => format!("replayed from {from} to {target}, with the stores' WAL"),
            Way::Node(ref other) => format!("replayed from {from} to {target}, with the WAL of {other}"),
        })
    }

    /// Tells a standby where the WAL is that it lacks. Whether it has to read its settings again.
    async fn show_way(&mut self, node: &Arc<Node>, answer: &Answer) -> Result<bool, PromoteError> {
        match self.journal.way.clone() {
            Way::Own => Ok(false),
            Way::Stores => {
                let command = restore_command_of(&node.settings, answer.version, &answer.restore_command)?;
                if let Some(command) = command {
                    self.change(node, "restore_command", Some(command)).await?;
                }
                // Otherwise it looks into the archive only between two tries to connect to a host that is gone.
                node.set("primary_conninfo", Some("")).await?;
                Ok(true)
            }
            Way::Node(other) => {
                let conninfo = conninfo_of(self.node(&other)?, &answer.conninfo)?;
                node.set("primary_conninfo", Some(&conninfo.to_libpq())).await?;
                // The slot is the old primary's.
                if !answer.slot.is_empty() {
                    self.change(node, "primary_slot_name", Some("")).await?;
                }
                Ok(true)
            }
        }
    }

    /// Changes a setting of the new primary; [`Step::Tidy`] puts back what was there.
    async fn change(
        &mut self,
        node: &Node,
        setting: &'static str,
        value: Option<&str>,
    ) -> Result<(), PromoteError> {
        if self.journal.changed.iter().all(|(name, _)| name != setting) {
            let before = node.set_before(setting).await?;
            self.journal.changed.push((setting.to_owned(), before));
            self.journal.write(&self.settings.journal)?;
        }
        node.set(setting, value).await
    }

    async fn wait_for_replay(&self, node: &Node, target: Lsn, kicks: bool) -> Result<(), PromoteError> {
        let mut progress = Instant::now();
        let mut seen = Lsn::INVALID;
        let (mut kick, mut pause) = (Instant::now(), FIRST_KICK);
        loop {
            let replayed = node.replayed().await?;
            if replayed >= target {
                return Ok(());
            }
            if replayed > seen {
                (seen, progress) = (replayed, Instant::now());
            }
            let waited = progress.elapsed();
            if waited > self.settings.wait_timeout {
                return Err(PromoteError::NotBrought {
                    node: node.name().to_owned(),
                    replayed,
                    target,
                    waited,
                });
            }
            if kicks && kick.elapsed() >= pause {
                node.reload().await?;
                (kick, pause) = (Instant::now(), (pause * 2).min(LAST_KICK));
            }
            tokio::time::sleep(POLL).await;
        }
    }

    async fn promote(&mut self) -> Result<String, PromoteError> {
        let node = self.reach(&self.journal.new).await?;
        if node.in_recovery().await? {
            again::check(self.settings, &self.journal, &self.wish).await?;
            // Its first checkpoint as a primary would remove WAL that those who are to follow have not got yet.
            if let Err(error) = node.make_slot(HOLD).await {
                let why = words(&error);
                tracing::warn!(why, "nothing holds WAL for the other standbys");
            }
            node.promote().await?;
            let began = Instant::now();
            while node.in_recovery().await? {
                let waited = began.elapsed();
                if waited > self.settings.wait_timeout {
                    return Err(PromoteError::NotPromoted {
                        node: node.name().to_owned(),
                        waited,
                    });
                }
                tokio::time::sleep(POLL).await;
            }
        }
        let timeline = node.ask().await?.timeline;
        let switch = node.history(timeline).await?.begin();
        self.journal.timeline = Some(timeline.as_u32());
        self.journal.switch_lsn = Some(switch);
        Ok(format!(
            "{} is out of recovery, on timeline {timeline} from {switch} on",
            node.name()
        ))
    }

    async fn write(&mut self) -> Result<String, PromoteError> {
        let node = self.reach(&self.journal.new).await?;
        let began = Instant::now();
        while let Err(error) = node.write().await {
            let waited = began.elapsed();
            if waited > self.settings.wait_timeout {
                let why = words(&error);
                tracing::warn!(why, "the new primary takes no write");
                return Err(PromoteError::NoWrites {
                    node: node.name().to_owned(),
                    waited,
                });
            }
            tokio::time::sleep(POLL).await;
        }
        let names = node.ask().await?.synchronous_standby_names;
        Ok(match names.is_empty() || node.synchronous_standbys().await? > 0 {
            true => "a transaction was committed".into(),
            false => format!(
                "a transaction was committed; commits of others wait for synchronous_standby_names = '{names}'"
            ),
        })
    }

    async fn follow(&mut self, name: &str) -> Result<String, PromoteError> {
        let leader = Leader::reach(self.settings, self.node(&self.journal.new)?).await?;
        let loss = match self.journal.knew(name).filter(|_| !self.wish.discard_commits) {
            Some(known) => Loss::Known(known),
            None => Loss::Any,
        };
        follow::follow(self.settings, &leader, self.node(name)?, loss).await
    }

    async fn tidy(&mut self) -> Result<String, PromoteError> {
        let node = self.reach(&self.journal.new).await?;
        node.drop_slot(HOLD).await?;
        if self.journal.changed.is_empty() {
            return Ok("no setting was changed".into());
        }
        let names = restore(&node, &self.journal.changed).await?;
        Ok(format!("{} as before", names.join(", ")))
    }
}

/// Gives a node back the settings that were changed on it.
async fn restore(
    node: &Node,
    changed: &[(String, Option<String>)],
) -> Result<Vec<&'static str>, PromoteError> {
    let mut names = Vec::new();
    for (setting, before) in changed {
        // Only these are ever changed.
        let known = ["restore_command", "recovery_min_apply_delay", "primary_slot_name"];
        let Some(known) = known.into_iter().find(|known| known == setting) else {
            continue;
        };
        node.set(known, before.as_deref()).await?;
        names.push(known);
    }
    node.reload().await?;
    Ok(names)
}

/// What a promotion changed that another one takes the place of. Its node may be dead by now.
async fn put_back(settings: &Settings, given_up: &Journal) {
    let changed = &given_up.changed;
    let Some(node) = settings.node(&given_up.new).filter(|_| !changed.is_empty()) else {
        return;
    };
    let done = async { restore(&*Node::reach(node, settings.answer_timeout).await?, changed).await };
    if let Err(error) = done.await {
        let (node, why) = (&given_up.new, words(&error));
        let names: Vec<&str> = changed.iter().map(|(name, _)| name.as_str()).collect();
        tracing::warn!(
            node,
            ?names,
            why,
            "settings could not be put back: do that, the node keeps them"
        );
    }
}

/// A test may stop the program here.
fn pass(failpoint: &str) {
    fail::fail_point!(failpoint);
    let _ = failpoint;
}

pub(super) fn cluster_of(answer: &Answer) -> Cluster {
    Cluster {
        system_id: answer.system_id,
        segment_size: answer.segment_size,
        major: major_of(answer.version),
    }
}
