//! Which backups may go, and which WAL with them.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use skytide_sql::Lsn;

use super::plan::history;
use super::stores::{Stores, list, unfinished};
use super::{BackupError, Kind, Label, Summary, unix_now};
use crate::restore::Restorer;
use crate::store::{ObjectName, PartialName, Prefix, Store, StoreError, layout};
use crate::{HistoryFile, SegmentName, SegmentSize, TimelineId, WalFileName};

/// A backup that nobody finished is taken for dead after this time. Large ones take days.
const DEAD_AFTER: i64 = 7 * 24 * 3600;

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
    /// Begun long ago, never finished.
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

/// The backups that stay and those that go, both oldest first. What `claimed` names is in use. Only backups on the way to
/// the newest timeline are counted: with another one that cluster cannot be restored.
pub fn decide(
    mut backups: Vec<Summary>,
    keep: Keep,
    claimed: &[Label],
    way: &Way,
    now: i64,
) -> (Vec<Summary>, Vec<Summary>) {
    backups.sort_by(|a, b| a.label.cmp(&b.label));
    if keep == Keep::default() {
        return (backups, Vec::new());
    }
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
        let (old, young): (Vec<&Summary>, Vec<&Summary>) =
            backups.iter().partition(|backup| backup.finished < since);
        wanted.extend(young.iter().map(|backup| backup.label.clone()));
        // The moment the window begins is reached from the last backup before it.
        let old = old.iter().filter(|backup| way.leads_on_from(backup));
        let last = old.max_by_key(|backup| backup.finished);
        wanted.extend(last.map(|backup| backup.label.clone()));
    }
    wanted.extend(claimed.iter().cloned());
    // The newest backup is never too many, nor the newest of the cluster as it is now.
    let newest = backups.iter().rfind(|backup| way.leads_on_from(backup));
    wanted.extend(
        backups
            .last()
            .into_iter()
            .chain(newest)
            .map(|backup| backup.label.clone()),
    );
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

/// Whether recovery from one of the backups may ask for a segment that ends at `end`.
pub fn needs(
    kept: &[Summary],
    histories: &BTreeMap<TimelineId, HistoryFile>,
    timeline: TimelineId,
    end: Lsn,
) -> bool {
    kept.iter().any(|backup| {
        if end <= backup.start_lsn {
            return false;
        }
        let own = TimelineId::new(backup.timeline);
        match (own, histories.get(&timeline)) {
            (Some(own), _) if own == timeline => true,
            // On a way that leads on from the backup.
            (Some(own), Some(history)) => history
                .range_of(own)
                .is_some_and(|(_, left)| left.is_none_or(|left| left >= backup.stop_lsn)),
            // Nobody knows: it stays.
            (None, _) | (_, None) => true,
        }
    })
}

/// Backups that nobody has finished.
#[derive(Debug, Default)]
pub(super) struct Unfinished {
    pub dead: Vec<Label>,
    /// May still be written, with what they are built on.
    pub alive: Vec<(Label, Option<Label>)>,
}

impl Unfinished {
    /// The newest that may still be written.
    pub fn alive(&self) -> Option<&Label> {
        self.alive.last().map(|(label, _)| label)
    }
}

pub(super) async fn unfinished_by_age(store: &dyn Store, now: i64) -> Result<Unfinished, StoreError> {
    let mut found = Unfinished::default();
    for label in unfinished(store).await? {
        let note = store.get(&label.claim()).await?;
        let text = note
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .unwrap_or_default();
        let line = |key: &str| {
            text.lines()
                .find_map(|line| line.strip_prefix(key)?.strip_prefix(" = "))
        };
        let started = line("started").and_then(|started| started.parse::<i64>().ok());
        match started.is_none_or(|started| started < now - DEAD_AFTER) {
            true => found.dead.push(label),
            false => found
                .alive
                .push((label, line("parent").and_then(|parent| parent.parse().ok()))),
        }
    }
    Ok(found)
}

/// What would go from a store.
pub async fn plan(
    store: &std::sync::Arc<dyn Store>,
    keep: Keep,
    with_wal: bool,
) -> Result<Purge, BackupError> {
    let alone = Stores::new(vec![store.clone()], 1);
    let now = unix_now();
    // Before the list: one that ends meanwhile is in both, and what it is built on stays.
    let unfinished = unfinished_by_age(&**store, now).await?;
    fail::fail_point!("purge::unfinished");
    // One that cannot be read is neither purged nor counted, and its WAL not known: nothing goes.
    let backups = list(&alone).await?.into_iter().collect::<Result<Vec<_>, _>>()?;
    let mut purge = Purge::default();
    let under_way = unfinished.alive().cloned();
    let claimed: Vec<Label> = unfinished
        .alive
        .into_iter()
        .filter_map(|(_, parent)| parent)
        .collect();
    purge.unfinished = unfinished.dead;
    let way = way(store, &backups).await?;
    let (kept, dropped) = decide(backups, keep, &claimed, &way, now);
    purge.backups = dropped;
    if let Some(label) = under_way {
        // Nobody knows yet where its WAL begins.
        tracing::info!(backup = %label, "a backup is being taken: WAL stays until it has ended");
    } else if !kept.iter().any(|backup| way.leads_on_from(backup)) {
        tracing::info!("no backup leads to the newest timeline: WAL stays until there is one");
    } else if with_wal && let Some(first) = kept.first() {
        let size = SegmentSize::new(first.segment_bytes);
        let size = size.ok_or_else(|| BackupError::BadManifest {
            label: first.label.clone(),
            what: "segment size".into(),
        })?;
        wal(store, &kept, size, &mut purge).await?;
    }
    purge.kept = kept;
    Ok(purge)
}

/// To the newest timeline that the store knows of.
async fn way(store: &std::sync::Arc<dyn Store>, backups: &[Summary]) -> Result<Way, BackupError> {
    let mut files = store.list(&layout::histories()).await?;
    files.extend(store.list(&layout::wal_files()).await?);
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
    let restorer = Restorer::new(vec![store.clone()], None);
    match history(&restorer, newest).await {
        Ok(history) => Ok(Way(Some(history))),
        // The server was on it before there was a store.
        Err(_) if backups.iter().all(|backup| backup.timeline == newest.as_u32()) => Ok(Way::default()),
        // Which backups lead there is not known: none may go.
        Err(error) => Err(error),
    }
}

async fn wal(
    store: &std::sync::Arc<dyn Store>,
    kept: &[Summary],
    size: SegmentSize,
    purge: &mut Purge,
) -> Result<(), BackupError> {
    let mut histories = BTreeMap::new();
    let restorer = Restorer::new(vec![store.clone()], None);
    let listed = store.list(&layout::wal_files()).await?;
    let segment_of = |name: &ObjectName| match layout::wal_file_of(name)? {
        WalFileName::Segment(segment)
        | WalFileName::Partial(segment)
        | WalFileName::BackupHistory { segment, .. } => Some(segment),
        WalFileName::History(_) => None,
    };
    let timelines: BTreeSet<TimelineId> = listed
        .iter()
        .filter_map(|listed| segment_of(&listed.name))
        .map(SegmentName::timeline)
        .collect();
    for timeline in timelines {
        // Without its history a timeline's WAL stays.
        if let Ok(history) = history(&restorer, timeline).await {
            histories.insert(timeline, history);
        }
    }
    let end_of = |segment: SegmentName| segment.number(size).map(|number| number.end(size));
    let goes = |segment: SegmentName| {
        end_of(segment).is_some_and(|end| !needs(kept, &histories, segment.timeline(), end))
    };
    for listed in listed {
        if segment_of(&listed.name).is_some_and(goes) {
            purge.wal_bytes += listed.bytes;
            purge.wal.push(listed.name);
        }
    }
    for listed in store.partials(&Prefix::default()).await? {
        if layout::segment_of(&listed.name).is_some_and(goes) {
            purge.partials.push(listed.name);
        }
    }
    Ok(())
}

/// Carries a plan out. A backup's manifest goes first: from then on it is none. What a broken-off run leaves, the
/// next one finds as unfinished.
///
/// # Errors
/// [`BackupError::Begun`] if a backup was begun since the plan that needs what would go.
pub async fn carry_out(store: &dyn Store, purge: &Purge) -> Result<(), BackupError> {
    for (label, parent) in unfinished_by_age(store, unix_now()).await?.alive {
        let goes = |parent: &Label| purge.backups.iter().any(|backup| backup.label == *parent);
        if !purge.wal.is_empty() || parent.as_ref().is_some_and(goes) {
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
    for name in &purge.wal {
        store.delete(name).await?;
        fail::fail_point!("purge::wal");
    }
    for name in &purge.partials {
        store.delete_partial(name).await?;
    }
    Ok(())
}

async fn remove(store: &dyn Store, label: &Label) -> Result<(), BackupError> {
    let claim = label.claim();
    for listed in store.list(&label.prefix()).await? {
        if listed.name != claim {
            store.delete(&listed.name).await?;
        }
    }
    // Last: it says how old the rest is.
    Ok(store.delete(&claim).await?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backup::manifest::tests::sample;

    const DAY: i64 = 86_400;

    fn backup(day: i64, kind: Kind, parent: Option<&Summary>) -> Summary {
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

    #[test]
    fn wal_stays_if_a_way_leads_to_it_from_a_kept_backup() {
        let tli = |n| TimelineId::new(n).unwrap();
        let kept = [backup(2, Kind::Full, None)];
        let one = HistoryFile::root(tli(1));
        let two = one.child(tli(2), Lsn::new(5 << 24), "").unwrap();
        // Left before the backup.
        let three = one.child(tli(3), Lsn::new(1 << 24), "").unwrap();
        let histories = [(tli(1), one), (tli(2), two), (tli(3), three)].into();
        let needs = |timeline, end: u64| needs(&kept, &histories, tli(timeline), Lsn::new(end << 24));
        assert!(!needs(1, 2), "it ends where the backup begins");
        assert!(needs(1, 3));
        assert!(needs(2, 9));
        assert!(!needs(3, 9), "no way from the backup leads there");
        assert!(needs(4, 9), "nobody knows its history");
        assert!(!needs(4, 1));
    }
}
