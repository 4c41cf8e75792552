//! Which backups may go, and which WAL with them.
//!
//! Of its backups each store keeps what the rules say. WAL is looked at for all stores together: it stays everywhere while
//! a backup in any of them may be recovered with it, and nothing of it goes while one of them cannot be asked. So a store
//! that was away finds in the others what it missed.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use skytide_sql::Lsn;

use super::claim::{Unfinished, remove};
use super::needed::Needed;
use super::plan::history;
use super::stores::{Stores, list};
use super::{BackupError, Kind, Label, Summary, unix_now};
use crate::restore::Restorer;
use crate::store::identity::{Identity, IdentityError};
use crate::store::{ObjectName, PartialName, Prefix, Store, StoreError, layout};
use crate::{HistoryFile, TimelineId, WalFileName};

/// What has to stay. A backup goes only if no rule keeps it; without any rule everything stays.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Keep {
    /// So many of the newest full backups, with what was built on them.
    pub full: Option<usize>,
    /// Whatever a restore to a moment within this time needs.
    pub age: Option<Duration>,
}

/// What goes from one store.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Purge {
    pub kept: Vec<Summary>,
    pub backups: Vec<Summary>,
    /// Begun, never finished, and silent.
    pub unfinished: Vec<Label>,
    pub wal: Vec<ObjectName>,
    pub wal_bytes: u64,
    pub partials: Vec<PartialName>,
}

/// The way to the newest timeline: a restore follows it unless it is told otherwise.
#[derive(Debug, Clone, Default)]
pub struct Way(Option<HistoryFile>);

impl Way {
    /// The backup ended before the way left its timeline. Where the way is not known, every backup may lie on it.
    pub fn leads_on_from(&self, backup: &Summary) -> bool {
        let last = Lsn::new(backup.stop_lsn.as_u64().saturating_sub(1));
        let own = TimelineId::new(backup.timeline);
        self.0
            .as_ref()
            .is_none_or(|history| Some(history.owner(last)) == own)
    }
}

/// The backups that stay and those that go, both oldest first, by their WAL: clocks may have been wrong. What `claimed` names
/// is in use. Only backups on the way to the newest timeline are counted: with another one that cluster cannot be restored.
pub fn decide(
    mut backups: Vec<Summary>,
    keep: Keep,
    claimed: &[Label],
    way: &Way,
    now: i64,
) -> (Vec<Summary>, Vec<Summary>) {
    backups.sort_by(Summary::by_wal);
    if keep == Keep::default() {
        return (backups, Vec::new());
    }
    // Without what it is built on a backup is none.
    let there: BTreeSet<Label> = backups.iter().map(|backup| backup.label.clone()).collect();
    let is_whole = |backup: &Summary| backup.sources.iter().all(|source| there.contains(source));
    let mut wanted: BTreeSet<Label> = BTreeSet::new();
    if let Some(count) = keep.full {
        let full = backups
            .iter()
            .rev()
            .filter(|backup| backup.kind == Kind::Full && way.leads_on_from(backup));
        let counted: BTreeSet<&Label> = full.take(count).map(|backup| &backup.label).collect();
        // With what was built on them.
        let built = backups.iter().filter(|backup| {
            let mut ground = backup.sources.iter().chain(&backup.parent);
            counted.contains(&backup.label) || ground.any(|label| counted.contains(label))
        });
        wanted.extend(built.map(|backup| backup.label.clone()));
    }
    if let Some(age) = keep.age {
        let since = now.saturating_sub(i64::try_from(age.as_secs()).unwrap_or(i64::MAX));
        let finished = finished(&backups, now);
        let (old, young): (Vec<_>, Vec<_>) = backups
            .iter()
            .zip(finished)
            .partition(|(_, finished)| *finished < since);
        wanted.extend(young.iter().map(|(backup, _)| backup.label.clone()));
        // The moment the window begins is reached from the last backup before it.
        let last = old
            .iter()
            .rfind(|(backup, _)| way.leads_on_from(backup) && is_whole(backup));
        wanted.extend(last.map(|(backup, _)| backup.label.clone()));
    }
    wanted.extend(claimed.iter().cloned());
    // The newest backup is never too many, nor the newest of the cluster as it is now.
    let by_clock = backups.iter().filter(|backup| !backup.is_of_the_future(now));
    let newest = backups
        .iter()
        .rfind(|backup| way.leads_on_from(backup) && is_whole(backup));
    let always = [
        by_clock.max_by_key(|backup| &backup.label),
        newest,
        backups.last(),
    ];
    wanted.extend(always.into_iter().flatten().map(|backup| backup.label.clone()));
    // And what a kept one is built on.
    loop {
        let needed: Vec<Label> = backups
            .iter()
            .filter(|backup| wanted.contains(&backup.label))
            .flat_map(|backup| backup.sources.iter().chain(&backup.parent))
            .filter(|label| !wanted.contains(*label))
            .cloned()
            .collect();
        if needed.is_empty() {
            break;
        }
        wanted.extend(needed);
    }
    backups
        .into_iter()
        .partition(|backup| wanted.contains(&backup.label))
}

/// When the backups, which are in the order of their WAL, were finished. One that a wrong clock put into the future was so
/// before the next one.
fn finished(backups: &[Summary], now: i64) -> Vec<i64> {
    let mut after = now;
    let mut finished: Vec<i64> = backups
        .iter()
        .rev()
        .map(|backup| {
            if !backup.is_of_the_future(now) {
                after = backup.finished.min(now);
            }
            after
        })
        .collect();
    finished.reverse();
    finished
}

/// Why all WAL stays.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Holds {
    /// A store cannot be asked: it may lack WAL that the others have.
    Silent { location: String },
    /// A backup is being taken, and nobody knows yet where its WAL begins.
    UnderWay { label: Label, location: String },
    /// No backup leads to the newest timeline.
    NoWay,
}

/// What would go.
#[derive(Debug)]
pub struct Plan {
    pub of: Vec<(Arc<dyn Store>, Purge)>,
    /// Those that cannot be asked. Nothing goes from them.
    pub silent: Vec<StoreError>,
    /// Of the WAL nothing goes, for this reason.
    pub holds: Option<Holds>,
}

impl Plan {
    /// All backups in the stores, those that go included.
    fn finished(&self) -> BTreeSet<Label> {
        let purges = self.of.iter().map(|(_, purge)| purge);
        let backups = purges.flat_map(|purge| purge.kept.iter().chain(&purge.backups));
        backups.map(|backup| backup.label.clone()).collect()
    }
}

/// What would go from the stores.
pub async fn plan(stores: &[Arc<dyn Store>], keep: Keep, with_wal: bool) -> Result<Plan, BackupError> {
    let now = unix_now();
    let mut plan = Plan {
        of: Vec::new(),
        silent: Vec::new(),
        holds: None,
    };
    let mut known: Option<Identity> = None;
    for store in stores {
        match Identity::read(&**store).await {
            Ok(Some(found)) => known.get_or_insert(found).expect(store.location(), found)?,
            Ok(None) => {}
            Err(IdentityError::Store(error)) => {
                let location = store.location().to_owned();
                plan.holds = Some(Holds::Silent { location });
                plan.silent.push(error);
                continue;
            }
            Err(error) => return Err(error.into()),
        }
        plan.of.push((store.clone(), Purge::default()));
    }
    let (mut claimed, mut under_way) = (Vec::new(), Vec::new());
    // Before the list: one that ends meanwhile is in both, and what it is built on stays.
    for (store, purge) in &mut plan.of {
        let unfinished = Unfinished::of(&**store, now).await?;
        let labels = unfinished.alive.iter().map(|(label, _)| label.clone());
        under_way.extend(labels.map(|label| (label, store.location().to_owned())));
        claimed.extend(unfinished.alive.into_iter().filter_map(|(_, parent)| parent));
        purge.unfinished = unfinished.dead;
    }
    fail::fail_point!("purge::unfinished");
    for (store, purge) in &mut plan.of {
        // One that cannot be read is neither purged nor counted, and its WAL not known: nothing goes.
        let alone = Stores::new(vec![store.clone()], 1);
        purge.kept = list(&alone).await?.into_iter().collect::<Result<Vec<_>, _>>()?;
    }
    // One that has ended elsewhere was left out here, or ends right now: its WAL is known.
    let finished = plan.finished();
    under_way.retain(|(label, _)| !finished.contains(label));
    if let Some((label, location)) = under_way.pop() {
        plan.holds.get_or_insert(Holds::UnderWay { label, location });
    }
    let asked: Vec<Arc<dyn Store>> = plan.of.iter().map(|(store, _)| store.clone()).collect();
    let all = plan.of.iter().flat_map(|(_, purge)| &purge.kept);
    let way = way(&asked, &all.cloned().collect::<Vec<_>>()).await?;
    for (_, purge) in &mut plan.of {
        let backups = std::mem::take(&mut purge.kept);
        (purge.kept, purge.backups) = decide(backups, keep, &claimed, &way, now);
    }
    let kept: Vec<Summary> = plan.of.iter().flat_map(|(_, purge)| purge.kept.clone()).collect();
    if !with_wal {
        plan.holds = None;
        return Ok(plan);
    }
    if !kept.iter().any(|backup| way.leads_on_from(backup)) {
        plan.holds.get_or_insert(Holds::NoWay);
    }
    if plan.holds.is_none()
        && let Some(needed) = Needed::by(kept, &asked).await?
    {
        for (store, purge) in &mut plan.of {
            wal(&**store, &needed, purge).await?;
        }
    }
    Ok(plan)
}

/// To the newest timeline that the stores know of.
async fn way(stores: &[Arc<dyn Store>], backups: &[Summary]) -> Result<Way, BackupError> {
    let mut files = Vec::new();
    for store in stores {
        files.extend(store.list(&layout::histories()).await?);
        files.extend(store.list(&layout::wal_files()).await?);
    }
    let of_file = |name: &ObjectName| match layout::wal_file_of(name)? {
        WalFileName::History(timeline) => Some(timeline),
        WalFileName::Segment(segment) | WalFileName::Partial(segment) => Some(segment.timeline()),
        WalFileName::BackupHistory { .. } => None,
    };
    let of_files = files.iter().filter_map(|listed| of_file(&listed.name));
    let of_backups = backups
        .iter()
        .filter_map(|backup| TimelineId::new(backup.timeline));
    let Some(newest) = of_files.chain(of_backups).max() else {
        return Ok(Way::default());
    };
    let restorer = Restorer::new(stores.to_vec(), None);
    match history(&restorer, newest).await {
        Ok(history) => Ok(Way(Some(history))),
        // The server was on it before there was a store.
        Err(_) if backups.iter().all(|backup| backup.timeline == newest.as_u32()) => Ok(Way::default()),
        // Which backups lead there is not known: none may go.
        Err(error) => Err(error),
    }
}

async fn wal(store: &dyn Store, needed: &Needed, purge: &mut Purge) -> Result<(), BackupError> {
    for listed in store.list(&layout::wal_files()).await? {
        if !needed.object(&listed.name) {
            purge.wal_bytes += listed.bytes;
            purge.wal.push(listed.name);
        }
    }
    for listed in store.partials(&Prefix::default()).await? {
        if layout::segment_of(&listed.name).is_some_and(|segment| !needed.segment(segment)) {
            purge.partials.push(listed.name);
        }
    }
    Ok(())
}

/// Carries a plan out: the backups go from every store before any WAL does. What a broken-off run leaves, the next one finds.
///
/// # Errors
/// [`BackupError::Begun`] if a backup was begun since the plan that needs what would go.
pub async fn carry_out(plan: &Plan) -> Result<(), BackupError> {
    let finished = plan.finished();
    for (store, purge) in &plan.of {
        remove_backups(&**store, purge, &finished).await?;
    }
    if plan.of.iter().any(|(_, purge)| !purge.wal.is_empty()) {
        for (store, _) in &plan.of {
            for (label, _) in Unfinished::of(&**store, unix_now()).await?.alive {
                if !finished.contains(&label) {
                    return Err(BackupError::Begun { label });
                }
            }
        }
    }
    for (store, purge) in &plan.of {
        remove_wal(&**store, purge).await?;
    }
    Ok(())
}

/// A backup's manifest goes first: from then on it is none.
///
/// # Errors
/// [`BackupError::Begun`] if a backup was begun that needs what would go, WAL included.
pub(super) async fn remove_backups(
    store: &dyn Store,
    purge: &Purge,
    finished: &BTreeSet<Label>,
) -> Result<(), BackupError> {
    for (label, parent) in Unfinished::of(store, unix_now()).await?.alive {
        let goes = |parent: &Label| purge.backups.iter().any(|backup| backup.label == *parent);
        let is_new = !finished.contains(&label);
        if (is_new && !purge.wal.is_empty()) || parent.as_ref().is_some_and(goes) {
            return Err(BackupError::Begun { label });
        }
    }
    let labels = purge.backups.iter().map(|backup| &backup.label);
    // What is built on others goes before them.
    for label in labels.rev() {
        // Without its claim the rest is nobody's, and not a backup that is being taken.
        store.delete(&label.claim()).await?;
        fail::fail_point!("purge::note");
        store.delete(&label.manifest()).await?;
        fail::fail_point!("purge::manifest");
        remove(store, label).await?;
    }
    for label in &purge.unfinished {
        remove(store, label).await?;
    }
    Ok(())
}

pub(super) async fn remove_wal(store: &dyn Store, purge: &Purge) -> Result<(), BackupError> {
    for name in &purge.wal {
        store.delete(name).await?;
        fail::fail_point!("purge::wal");
    }
    for name in &purge.partials {
        store.delete_partial(name).await?;
    }
    Ok(())
}

#[cfg(test)]
pub(in crate::backup) mod tests {
    use super::*;
    use crate::backup::manifest::tests::sample;

    const DAY: i64 = 86_400;

    pub(in crate::backup) fn backup(day: i64, kind: Kind, parent: Option<&Summary>) -> Summary {
        Summary {
            label: Label::new(day * DAY, kind).unwrap(),
            kind,
            parent: parent.map(|parent| parent.label.clone()),
            sources: parent
                .map(|parent| [parent.sources.clone(), vec![parent.label.clone()]].concat())
                .unwrap_or_default(),
            finished: day * DAY + 60,
            start_lsn: Lsn::new((day as u64) << 24),
            stop_lsn: Lsn::new((day as u64) << 24 | 0x1000),
            ..sample().summary
        }
    }

    fn days(backups: &[Summary]) -> Vec<i64> {
        backups.iter().map(|backup| backup.finished / DAY).collect()
    }

    #[test]
    fn backups_stay_by_count_by_age_and_by_need() {
        let one = backup(1, Kind::Full, None);
        let two = backup(2, Kind::Incremental, Some(&one));
        let three = backup(3, Kind::Incremental, Some(&two));
        let four = backup(4, Kind::Full, None);
        let five = backup(5, Kind::Incremental, Some(&four));
        let all = vec![one, two, three, four, five];
        let now = 6 * DAY;
        let keep = |full, age: Option<u64>| Keep {
            full,
            age: age.map(|days| Duration::from_secs(days * DAY as u64)),
        };
        let way = Way::default();
        let decide = |keep| days(&decide(all.clone(), keep, &[], &way, now).0);
        assert_eq!(decide(Keep::default()), [1, 2, 3, 4, 5]);
        assert_eq!(decide(keep(Some(1), None)), [4, 5]);
        assert_eq!(decide(keep(Some(2), None)), [1, 2, 3, 4, 5]);
        assert_eq!(decide(keep(None, Some(1))), [4, 5]);
        // Day 3 is what the window's first moment is reached from; it needs 1 and 2.
        assert_eq!(decide(keep(None, Some(2))), [1, 2, 3, 4, 5]);
        assert_eq!(decide(keep(Some(0), Some(0))), [4, 5], "the newest one stays");
        let claimed = [all[1].label.clone()];
        let kept = super::decide(all.clone(), keep(Some(1), None), &claimed, &way, now).0;
        assert_eq!(
            days(&kept),
            [1, 2, 4, 5],
            "an incremental is being made on the second"
        );
    }

    #[test]
    fn backups_of_a_timeline_that_was_left_are_not_counted() {
        let tli = |n| TimelineId::new(n).unwrap();
        let root = HistoryFile::root(tli(1));
        // It leaves between the backups of the second and the third day.
        let way = Way(Some(root.child(tli(2), Lsn::new(5 << 23), "").unwrap()));
        let all: Vec<Summary> = (1..=4).map(|day| backup(day, Kind::Full, None)).collect();
        let keep = |full, age: Option<u64>| Keep {
            full,
            age: age.map(|days| Duration::from_secs(days * DAY as u64)),
        };
        let decide = |keep| days(&decide(all.clone(), keep, &[], &way, 6 * DAY).0);
        assert_eq!(decide(keep(Some(1), None)), [2, 4], "the newest one of both");
        assert_eq!(decide(keep(Some(2), None)), [1, 2, 4]);
        assert_eq!(decide(keep(None, Some(3))), [2, 3, 4]);
    }

    /// Prevents: a wrong clock's backup that counts as the newest, so that truly newer ones go.
    #[test]
    fn clocks_do_not_decide_which_backup_is_the_newest() {
        let mut all: Vec<Summary> = (1..=4).map(|day| backup(day, Kind::Full, None)).collect();
        // The second was taken by a host that was years ahead.
        let ahead = 4000 * DAY;
        all[1].label = Label::new(ahead, Kind::Full).unwrap();
        all[1].finished = ahead;
        let keep = |full, age: Option<u64>| Keep {
            full,
            age: age.map(|days| Duration::from_secs(days * DAY as u64)),
        };
        let decide = |keep| {
            let (kept, _) = decide(all.clone(), keep, &[], &Way::default(), 6 * DAY);
            kept.iter()
                .map(|backup| backup.start_lsn.as_u64() >> 24)
                .collect::<Vec<_>>()
        };
        assert_eq!(decide(keep(Some(1), None)), [4]);
        assert_eq!(decide(keep(Some(2), None)), [3, 4]);
        assert_eq!(decide(keep(Some(3), None)), [2, 3, 4]);
        assert_eq!(decide(keep(None, Some(1))), [4], "the others are old");
        assert_eq!(decide(keep(None, Some(4))), [1, 2, 3, 4]);
        let alone = super::decide(
            vec![all[1].clone()],
            keep(Some(1), Some(1)),
            &[],
            &Way::default(),
            6 * DAY,
        );
        assert_eq!(alone.0.len(), 1);
    }
}
