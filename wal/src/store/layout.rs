//! What lies under which name in a store (`docs/format/store.md`).

use super::{ObjectName, PartialName, Prefix};
use crate::{SegmentName, TimelineId, WalFileName};

/// Packed files end with it.
const PACKED: &str = ".zst";

fn object(name: String) -> ObjectName {
    ObjectName::new(name).expect("made of digits and words")
}

/// Whose store it is.
pub fn identity() -> ObjectName {
    object("identity".to_owned())
}

/// Where a file of PostgreSQL's WAL directory is kept.
pub fn object_of(file: WalFileName) -> ObjectName {
    let timeline = match file {
        WalFileName::Segment(segment)
        | WalFileName::Partial(segment)
        | WalFileName::BackupHistory { segment, .. } => segment.timeline(),
        WalFileName::History(_) => return object(format!("history/{file}{PACKED}")),
    };
    object(format!("wal/{:08X}/{file}{PACKED}", timeline.as_u32()))
}

/// The file of PostgreSQL's that is kept there.
pub fn wal_file_of(name: &ObjectName) -> Option<WalFileName> {
    let (_, file) = name.as_str().rsplit_once('/')?;
    let file: WalFileName = file.strip_suffix(PACKED)?.parse().ok()?;
    (object_of(file) == *name).then_some(file)
}

/// What has arrived of a segment that is still written.
pub fn partial_of(segment: SegmentName) -> PartialName {
    let timeline = segment.timeline().as_u32();
    PartialName::new(format!("{timeline:08X}/{segment}")).expect("made of digits")
}

/// The segment of which a partial has the beginning.
pub fn segment_of(partial: &PartialName) -> Option<SegmentName> {
    let (_, segment) = partial.as_str().rsplit_once('/')?;
    let segment: SegmentName = segment.parse().ok()?;
    (partial_of(segment) == *partial).then_some(segment)
}

/// All files of a timeline but its history.
pub fn timeline(timeline: TimelineId) -> Prefix {
    Prefix::new(format!("wal/{:08X}/", timeline.as_u32())).expect("made of digits")
}

/// The same of all timelines.
pub fn wal_files() -> Prefix {
    Prefix::new("wal/").expect("a word")
}

/// Partials of a timeline.
pub fn partials(timeline: TimelineId) -> Prefix {
    Prefix::new(format!("{:08X}/", timeline.as_u32())).expect("made of digits")
}

/// Partials of all timelines.
pub fn all_partials() -> Prefix {
    Prefix::new("").expect("nothing is a beginning")
}

/// History files of all timelines.
pub fn histories() -> Prefix {
    Prefix::new("history/").expect("a word")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lead_to_files_and_back() {
        for (file, name) in [
            (
                "00000002000000010000000A",
                "wal/00000002/00000002000000010000000A.zst",
            ),
            (
                "00000002000000010000000A.partial",
                "wal/00000002/00000002000000010000000A.partial.zst",
            ),
            (
                "00000002000000010000000A.00000028.backup",
                "wal/00000002/00000002000000010000000A.00000028.backup.zst",
            ),
            ("00000002.history", "history/00000002.history.zst"),
        ] {
            let file: WalFileName = file.parse().unwrap();
            let object = object_of(file);
            assert_eq!(object.as_str(), name);
            assert_eq!(wal_file_of(&object), Some(file));
        }
        for strange in [
            "identity",
            "wal/00000001/00000002000000010000000A.zst",
            "wal/a.zst",
            "history/x.zst",
        ] {
            assert_eq!(wal_file_of(&ObjectName::new(strange).unwrap()), None, "{strange}");
        }
        let segment: SegmentName = "00000002000000010000000A".parse().unwrap();
        assert_eq!(segment_of(&partial_of(segment)), Some(segment));
    }
}
