//! Timelines: the branches of a cluster's WAL history.

use std::fmt;
use std::str::FromStr;

use skytide_sql::Lsn;

use crate::segment::{SegmentNo, SegmentSize};

/// A timeline's number; the first one is 1.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TimelineId(u32);

/// The text is not a timeline's number.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a timeline: {0:?}")]
pub struct ParseTimelineError(String);

impl TimelineId {
    /// A cluster's first. It has no history file.
    pub const FIRST: TimelineId = TimelineId(1);

    /// `None` for 0, which is no timeline.
    pub const fn new(number: u32) -> Option<TimelineId> {
        match number {
            0 => None,
            number => Some(TimelineId(number)),
        }
    }

    pub const fn as_u32(self) -> u32 {
        self.0
    }
}

impl fmt::Display for TimelineId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for TimelineId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "timeline {}", self.0)
    }
}

impl FromStr for TimelineId {
    type Err = ParseTimelineError;

    fn from_str(text: &str) -> Result<TimelineId, ParseTimelineError> {
        let number = text.parse().ok().and_then(TimelineId::new);
        number.ok_or_else(|| ParseTimelineError(text.to_owned()))
    }
}

/// Where a timeline was left for the next one.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Ancestor {
    pub timeline: TimelineId,
    /// The first position that is no longer this timeline's. A record boundary.
    pub switch_lsn: Lsn,
    pub reason: String,
}

/// How a timeline came to be: what its `.history` file says. Timeline 1 has no file and no ancestors.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HistoryFile {
    timeline: TimelineId,
    /// Oldest first.
    ancestors: Vec<Ancestor>,
}

/// The text is not a timeline's history.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("history of timeline {timeline}, line {line}: {problem}")]
pub struct HistoryError {
    pub timeline: TimelineId,
    /// From 1.
    pub line: usize,
    pub problem: HistoryProblem,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HistoryProblem {
    #[error("not \"timeline, WAL position, reason\"")]
    Syntax,
    #[error("timelines have to grow from line to line and stay below the file's own")]
    Order,
    #[error("a timeline cannot end before its parent did")]
    SwitchOrder,
}

impl HistoryFile {
    /// The history of a timeline without ancestors.
    pub const fn root(timeline: TimelineId) -> HistoryFile {
        HistoryFile {
            timeline,
            ancestors: Vec::new(),
        }
    }

    /// Reads the content of `timeline`'s history file (`access/transam/timeline.c`, `readTimeLineHistory`).
    pub fn parse(timeline: TimelineId, text: &str) -> Result<HistoryFile, HistoryError> {
        let mut ancestors: Vec<Ancestor> = Vec::new();
        for (index, line) in text.lines().enumerate() {
            let wrong = |problem| HistoryError {
                timeline,
                line: index + 1,
                problem,
            };
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let mut fields = line.splitn(3, |c: char| c.is_ascii_whitespace());
            let parent = fields.next().and_then(|field| field.parse::<TimelineId>().ok());
            let switch = fields.next().and_then(|field| field.parse::<Lsn>().ok());
            let (Some(parent), Some(switch_lsn)) = (parent, switch) else {
                return Err(wrong(HistoryProblem::Syntax));
            };
            let last = ancestors.last();
            if parent >= timeline || last.is_some_and(|last| last.timeline >= parent) {
                return Err(wrong(HistoryProblem::Order));
            }
            if last.is_some_and(|last| last.switch_lsn > switch_lsn) {
                return Err(wrong(HistoryProblem::SwitchOrder));
            }
            ancestors.push(Ancestor {
                timeline: parent,
                switch_lsn,
                reason: fields.next().unwrap_or_default().trim().to_owned(),
            });
        }
        Ok(HistoryFile { timeline, ancestors })
    }

    /// The history of a timeline that leaves this one at `switch_lsn`. `None` if its number is not above this one's
    /// or this timeline did not own that position.
    pub fn child(&self, timeline: TimelineId, switch_lsn: Lsn, reason: &str) -> Option<HistoryFile> {
        if timeline <= self.timeline || switch_lsn < self.begin() {
            return None;
        }
        let mut child = HistoryFile {
            timeline,
            ancestors: self.ancestors.clone(),
        };
        child.ancestors.push(Ancestor {
            timeline: self.timeline,
            switch_lsn,
            reason: reason.replace(['\n', '\r'], " "),
        });
        Some(child)
    }

    /// The history of one of its timelines: itself, or an ancestor with that one's ancestors.
    pub fn up_to(&self, timeline: TimelineId) -> Option<HistoryFile> {
        if timeline == self.timeline {
            return Some(self.clone());
        }
        let index = self.ancestors.iter().position(|a| a.timeline == timeline)?;
        Some(HistoryFile {
            timeline,
            ancestors: self.ancestors.iter().take(index).cloned().collect(),
        })
    }

    pub const fn timeline(&self) -> TimelineId {
        self.timeline
    }

    /// Oldest first.
    pub fn ancestors(&self) -> &[Ancestor] {
        &self.ancestors
    }

    /// The first position that is this timeline's own; 0/0 if it has no ancestors.
    pub fn begin(&self) -> Lsn {
        self.ancestors
            .last()
            .map_or(Lsn::INVALID, |parent| parent.switch_lsn)
    }

    /// Where `timeline`'s part of this history begins and ends; no end for the file's own. `None` for a timeline
    /// that is not in it.
    pub fn range_of(&self, timeline: TimelineId) -> Option<(Lsn, Option<Lsn>)> {
        if timeline == self.timeline {
            return Some((self.begin(), None));
        }
        let index = self.ancestors.iter().position(|a| a.timeline == timeline)?;
        let begin = index.checked_sub(1).and_then(|before| self.ancestors.get(before));
        let end = self.ancestors.get(index).map(|a| a.switch_lsn);
        Some((begin.map_or(Lsn::INVALID, |a| a.switch_lsn), end))
    }

    /// Which timeline the byte at `lsn` belongs to.
    pub fn owner(&self, lsn: Lsn) -> TimelineId {
        let before_switch = self.ancestors.iter().find(|a| lsn < a.switch_lsn);
        before_switch.map_or(self.timeline, |a| a.timeline)
    }

    /// The timeline in whose name recovery asks first for a segment: the newest one that had begun by its end. Such a
    /// file holds the parent's WAL up to the switch, too.
    pub fn owner_of_segment(&self, number: SegmentNo, size: SegmentSize) -> TimelineId {
        let begun = |switch: Lsn| SegmentNo::holding(switch, size) <= number;
        let left = self.ancestors.iter().find(|a| !begun(a.switch_lsn));
        left.map_or(self.timeline, |a| a.timeline)
    }

    /// The first position of which the one's WAL is not the other's; `None` if they are the same.
    pub fn parts_from(&self, other: &HistoryFile) -> Option<Lsn> {
        let parts = |history: &HistoryFile| {
            let ancestors = history.ancestors.iter().map(|a| (a.timeline, Some(a.switch_lsn)));
            ancestors.chain([(history.timeline, None)]).collect::<Vec<_>>()
        };
        let mut begin = Lsn::INVALID;
        for (ours, theirs) in parts(self).into_iter().zip(parts(other)) {
            if ours.0 != theirs.0 {
                return Some(begin);
            }
            if ours.1 != theirs.1 {
                return ours.1.into_iter().chain(theirs.1).min();
            }
            begin = ours.1.unwrap_or(begin);
        }
        None
    }

    /// Whether all WAL below `lsn` on `other` is WAL of this timeline as well.
    pub fn shares(&self, other: &HistoryFile, lsn: Lsn) -> bool {
        let cuts = |history: &HistoryFile| {
            let parts = history.ancestors.iter().map(|a| (a.timeline, Some(a.switch_lsn)));
            let parts = parts.chain([(history.timeline, None)]);
            // The end of the part that reaches `lsn` does not matter any more.
            let mut reached = false;
            let below = parts.map_while(|(timeline, end)| {
                let part = (!reached).then_some((timeline, end.filter(|&end| end < lsn)));
                reached |= end.is_none_or(|end| end >= lsn);
                part
            });
            below.collect::<Vec<_>>()
        };
        cuts(self) == cuts(other)
    }
}

impl fmt::Display for HistoryFile {
    /// The file's content, as PostgreSQL writes it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.ancestors
            .iter()
            .try_for_each(|a| writeln!(f, "{}\t{}\t{}", a.timeline, a.switch_lsn, a.reason))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zero_is_no_timeline() {
        assert_eq!("1".parse(), Ok(TimelineId(1)));
        assert!("0".parse::<TimelineId>().is_err() && "x".parse::<TimelineId>().is_err());
    }

    fn tli(number: u32) -> TimelineId {
        TimelineId::new(number).unwrap()
    }

    fn third() -> HistoryFile {
        let text = "# made by hand\n\n1\t0/2915C08\tno recovery target specified\n2\t0/0500A000\tbefore 2026-11-25\n";
        HistoryFile::parse(tli(3), text).unwrap()
    }

    #[test]
    fn a_history_file_is_read_and_written_as_postgresql_does() {
        let printed = third().to_string();
        assert_eq!(
            printed,
            "1\t0/2915C08\tno recovery target specified\n2\t0/500A000\tbefore 2026-11-25\n"
        );
        assert_eq!(HistoryFile::parse(tli(3), &printed), Ok(third()));
        let child = third().child(tli(5), Lsn::new(0x600_0028), "x").unwrap();
        assert_eq!(child.to_string(), printed + "3\t0/6000028\tx\n");
        assert_eq!(third().child(tli(3), Lsn::new(0x600_0028), ""), None);
        assert_eq!(third().child(tli(4), Lsn::new(0x28), ""), None);
    }

    #[test]
    fn broken_histories_name_their_line() {
        let problem = |text| HistoryFile::parse(tli(3), text).unwrap_err();
        for (text, line, expected) in [
            ("1\t0/10\tx\nnonsense\n", 2, HistoryProblem::Syntax),
            ("1\n", 1, HistoryProblem::Syntax),
            ("2\t0/10\n1\t0/20\n", 2, HistoryProblem::Order),
            ("3\t0/10\n", 1, HistoryProblem::Order),
            ("1\t0/20\n2\t0/10\n", 2, HistoryProblem::SwitchOrder),
        ] {
            let error = problem(text);
            assert_eq!((error.line, error.problem), (line, expected), "{text:?}");
        }
    }

    #[test]
    fn a_position_belongs_to_the_timeline_that_was_current() {
        let (history, size) = (third(), SegmentSize::new(16 << 20).unwrap());
        assert_eq!(history.owner(Lsn::new(0x291_5C07)), tli(1));
        assert_eq!(history.owner(Lsn::new(0x291_5C08)), tli(2));
        assert_eq!(history.owner(Lsn::new(u64::MAX)), tli(3));
        let owners: Vec<u32> = (1..7)
            .map(|n| history.owner_of_segment(SegmentNo::new(n), size).as_u32())
            .collect();
        assert_eq!(owners, [1, 2, 2, 2, 3, 3]);
        assert_eq!(
            history.range_of(tli(2)),
            Some((Lsn::new(0x291_5C08), Some(Lsn::new(0x500_A000))))
        );
        assert_eq!(history.range_of(tli(4)), None);
    }

    #[test]
    fn histories_part_where_the_first_of_them_leaves() {
        let root = HistoryFile::root(tli(1));
        let second = root.child(tli(2), Lsn::new(0x291_5C08), "").unwrap();
        let at = Some(Lsn::new(0x500_A000));
        assert_eq!(
            (third().parts_from(&second), second.parts_from(&third())),
            (at, at)
        );
        let at = Some(Lsn::new(0x291_5C08));
        assert_eq!((third().parts_from(&root), root.parts_from(&second)), (at, at));
        let other = root.child(tli(3), Lsn::new(0x291_5C08), "").unwrap();
        assert_eq!(second.parts_from(&other), at);
        let earlier = root.child(tli(2), Lsn::new(0x200_0028), "").unwrap();
        assert_eq!(earlier.parts_from(&third()), Some(Lsn::new(0x200_0028)));
        assert_eq!(third().parts_from(&third()), None);
    }

    #[test]
    fn histories_share_wal_up_to_where_they_part() {
        let second = HistoryFile::parse(tli(2), "1\t0/2915C08\tx\n").unwrap();
        assert!(third().shares(&second, Lsn::new(0x500_A000)));
        assert!(!third().shares(&second, Lsn::new(0x500_A001)));
        let fork = HistoryFile::parse(tli(2), "1\t0/2915C00\tx\n").unwrap();
        assert!(fork.shares(&second, Lsn::new(0x291_5C00)));
        assert!(!fork.shares(&second, Lsn::new(0x291_5C01)));
    }
}
