//! Segments: the files WAL is kept in, their numbers and their names.
//!
//! Everything here takes the segment size as a value: it is chosen at `initdb` and stands in the WAL's own
//! headers ([`crate::format::page::LongHeader`]) and in `pg_control`.

use std::fmt;
use std::str::FromStr;

use skytide_sql::Lsn;

use crate::TimelineId;

/// Bytes of one segment: a power of two from 1 MiB to 1 GiB.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct SegmentSize(u32);

impl SegmentSize {
    /// `None` for a size PostgreSQL does not allow.
    pub const fn new(bytes: u32) -> Option<SegmentSize> {
        match bytes.is_power_of_two() && bytes >= 1 << 20 && bytes <= 1 << 30 {
            true => Some(SegmentSize(bytes)),
            false => None,
        }
    }

    pub const fn bytes(self) -> u64 {
        self.0 as u64
    }

    pub const fn as_u32(self) -> u32 {
        self.0
    }

    /// Bytes from the start of its segment to `lsn`.
    pub const fn offset_of(self, lsn: Lsn) -> u32 {
        (lsn.as_u64() % self.bytes()) as u32
    }

    /// Segments whose names share their middle field.
    const fn per_log(self) -> u64 {
        (1 << 32) / self.bytes()
    }
}

/// A segment's place in the WAL: its first byte is `number × segment size`. Number 0 is never written.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct SegmentNo(u64);

impl SegmentNo {
    pub const fn new(number: u64) -> SegmentNo {
        SegmentNo(number)
    }

    /// The segment that holds the byte at `lsn`. A boundary belongs to the segment it starts.
    pub const fn holding(lsn: Lsn, size: SegmentSize) -> SegmentNo {
        SegmentNo(lsn.as_u64() / size.bytes())
    }

    /// The segment that holds the last byte before `lsn`: a boundary belongs to the segment it ends.
    pub const fn ending_at(lsn: Lsn, size: SegmentSize) -> SegmentNo {
        SegmentNo(lsn.as_u64().saturating_sub(1) / size.bytes())
    }

    pub const fn as_u64(self) -> u64 {
        self.0
    }

    pub const fn next(self) -> SegmentNo {
        SegmentNo(self.0.saturating_add(1))
    }

    /// Position of the segment's first byte.
    pub const fn start(self, size: SegmentSize) -> Lsn {
        Lsn::new(self.0.saturating_mul(size.bytes()))
    }

    /// Position after the segment's last byte.
    pub const fn end(self, size: SegmentSize) -> Lsn {
        self.next().start(size)
    }
}

/// A segment's file name: timeline and place as 24 upper-case hexadecimal digits. Which number it is takes the
/// segment size; names sort by position within one timeline only.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SegmentName {
    timeline: TimelineId,
    log: u32,
    segment: u32,
}

impl SegmentName {
    pub const LENGTH: usize = 24;

    /// `None` for a number no name can hold.
    pub fn new(timeline: TimelineId, number: SegmentNo, size: SegmentSize) -> Option<SegmentName> {
        Some(SegmentName {
            timeline,
            log: u32::try_from(number.0 / size.per_log()).ok()?,
            segment: u32::try_from(number.0 % size.per_log()).ok()?,
        })
    }

    pub const fn timeline(self) -> TimelineId {
        self.timeline
    }

    /// `None` if the last field is too large for this segment size: the file is of another cluster.
    pub const fn number(self, size: SegmentSize) -> Option<SegmentNo> {
        match (self.segment as u64) < size.per_log() {
            true => Some(SegmentNo(self.log as u64 * size.per_log() + self.segment as u64)),
            false => None,
        }
    }

    /// Position of the first byte, if the name fits the size.
    pub fn start(self, size: SegmentSize) -> Option<Lsn> {
        self.number(size).map(|number| number.start(size))
    }
}

impl fmt::Display for SegmentName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:08X}{:08X}{:08X}",
            self.timeline.as_u32(),
            self.log,
            self.segment
        )
    }
}

impl fmt::Debug for SegmentName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A file PostgreSQL keeps in `pg_wal` or hands to its archiver, told by its name.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum WalFileName {
    Segment(SegmentName),
    /// The last, unfinished file of a timeline that was left, or of a receiver.
    Partial(SegmentName),
    /// A timeline's ancestors.
    History(TimelineId),
    /// The note of a finished base backup that started `offset` bytes into the segment.
    BackupHistory {
        segment: SegmentName,
        offset: u32,
    },
}

/// The text is no name of a WAL file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not the name of a WAL file: {0:?}")]
pub struct ParseNameError(String);

/// Exactly eight digits, upper case: PostgreSQL writes no others, and a store must not keep one file under two names.
fn hex8(text: &str) -> Option<u32> {
    let digit = |b: u8| b.is_ascii_digit() || (b'A'..=b'F').contains(&b);
    match text.len() == 8 && text.bytes().all(digit) {
        true => u32::from_str_radix(text, 16).ok(),
        false => None,
    }
}

impl FromStr for SegmentName {
    type Err = ParseNameError;

    fn from_str(text: &str) -> Result<SegmentName, ParseNameError> {
        let field = |from: usize| text.get(from..from + 8).and_then(hex8);
        let parsed = || {
            Some(SegmentName {
                timeline: TimelineId::new(field(0)?)?,
                log: field(8)?,
                segment: field(16)?,
            })
        };
        let name = (text.len() == SegmentName::LENGTH).then(parsed).flatten();
        name.ok_or_else(|| ParseNameError(text.to_owned()))
    }
}

impl WalFileName {
    pub const fn timeline(self) -> TimelineId {
        match self {
            WalFileName::Segment(segment)
            | WalFileName::Partial(segment)
            | WalFileName::BackupHistory { segment, .. } => segment.timeline(),
            WalFileName::History(timeline) => timeline,
        }
    }
}

impl FromStr for WalFileName {
    type Err = ParseNameError;

    fn from_str(text: &str) -> Result<WalFileName, ParseNameError> {
        let wrong = || ParseNameError(text.to_owned());
        let Some((stem, suffix)) = text.split_once('.') else {
            return Ok(WalFileName::Segment(text.parse()?));
        };
        let segment = || stem.parse::<SegmentName>().map_err(|_| wrong());
        match suffix {
            "partial" => Ok(WalFileName::Partial(segment()?)),
            "history" => {
                let timeline = hex8(stem).and_then(TimelineId::new);
                timeline.map(WalFileName::History).ok_or_else(wrong)
            }
            _ => {
                let offset = suffix.strip_suffix(".backup").and_then(hex8).ok_or_else(wrong)?;
                Ok(WalFileName::BackupHistory {
                    segment: segment()?,
                    offset,
                })
            }
        }
    }
}

impl fmt::Display for WalFileName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            WalFileName::Segment(name) => name.fmt(f),
            WalFileName::Partial(name) => write!(f, "{name}.partial"),
            WalFileName::History(timeline) => write!(f, "{:08X}.history", timeline.as_u32()),
            WalFileName::BackupHistory { segment, offset } => write!(f, "{segment}.{offset:08X}.backup"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn size(mib: u32) -> SegmentSize {
        SegmentSize::new(mib << 20).unwrap()
    }

    fn timeline(number: u32) -> TimelineId {
        TimelineId::new(number).unwrap()
    }

    #[test]
    fn sizes_are_powers_of_two_between_a_megabyte_and_a_gigabyte() {
        for bytes in [0, 1 << 19, (1 << 20) + 1, 3 << 20, 1 << 31] {
            assert_eq!(SegmentSize::new(bytes), None, "{bytes}");
        }
        assert!(SegmentSize::new(1 << 20).is_some() && SegmentSize::new(1 << 30).is_some());
    }

    #[test]
    fn names_count_in_their_segment_size() {
        let name = |mib, number| {
            SegmentName::new(timeline(1), SegmentNo::new(number), size(mib))
                .unwrap()
                .to_string()
        };
        assert_eq!(name(16, 1), "000000010000000000000001");
        assert_eq!(name(16, 256), "000000010000000100000000");
        assert_eq!(name(1, 4096), "000000010000000100000000");
        assert_eq!(name(1024, 4), "000000010000000100000000");
        assert_eq!(
            SegmentName::new(timeline(1), SegmentNo::new(u64::MAX), size(1)),
            None
        );
        let foreign: SegmentName = "000000010000000000000100".parse().unwrap();
        assert_eq!(
            (foreign.number(size(16)), foreign.start(size(1))),
            (None, Some(Lsn::new(0x1000_0000)))
        );
    }

    #[test]
    fn a_boundary_starts_one_segment_and_ends_another() {
        let boundary = Lsn::new(0x0300_0000);
        assert_eq!(SegmentNo::holding(boundary, size(16)), SegmentNo::new(3));
        assert_eq!(SegmentNo::ending_at(boundary, size(16)), SegmentNo::new(2));
        assert_eq!(SegmentNo::new(2).end(size(16)), boundary);
    }

    #[test]
    fn every_kind_of_name_is_told_apart_and_printed_again() {
        for text in [
            "0000000A000000010000000B",
            "0000000A000000010000000B.partial",
            "00000002.history",
            "0000000A000000010000000B.00000028.backup",
        ] {
            assert_eq!(text.parse::<WalFileName>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn names_postgresql_does_not_write_are_refused() {
        for text in [
            "",
            "..",
            "../000000010000000000000001",
            "00000001000000000000000a",
            "0000000100000000000000001",
            "00000001000000000000001",
            "000000000000000000000001",
            "000000010000000000000001.partial.zst",
            "000000010000000000000001.",
            "000000010000000000000001/..",
            "+00000010000000000000001",
            "00000000.history",
            "0000002.history",
            "000000010000000000000001.28.backup",
            "000000010000000000000001.0000002g.backup",
            "RECOVERYXLOG",
            "xlogtemp.123",
            "00000001000000000000000\u{e9}",
        ] {
            assert!(text.parse::<WalFileName>().is_err(), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_a_name_that_prints_as_itself_or_none(text in "\\PC{0,40}|[0-9A-F]{24}(\\.partial|\\.[0-9A-F]{8}\\.backup)?") {
            if let Ok(name) = text.parse::<WalFileName>() {
                prop_assert_eq!(name.to_string(), text);
            }
        }

        #[test]
        fn numbers_and_names_are_one_to_one(timeline in 1..=u32::MAX, number in 1..u64::from(u32::MAX), mib in 0..=10u32) {
            let (size, number) = (size(1 << mib), SegmentNo::new(number));
            let name = SegmentName::new(TimelineId::new(timeline).unwrap(), number, size).unwrap();
            let again: SegmentName = name.to_string().parse().unwrap();
            prop_assert_eq!((again, again.number(size)), (name, Some(number)));
            prop_assert_eq!(SegmentNo::holding(number.start(size), size), number);
        }
    }
}
