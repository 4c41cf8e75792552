//! Segment after segment: what their reports leave open is closed here, without their bytes.

use skytide_sql::Lsn;

use super::segment::{Ended, OpenRecord, SegmentReport};
use crate::decode::Head;
use crate::format::crc;
use crate::format::cursor::Cursor;
use crate::format::record::{CRC_OFFSET, HEADER, RecordHeader};
use crate::segment::SegmentNo;

/// Two segments do not follow each other.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ChainError {
    #[error("segments {} to {} are missing", from.as_u64(), before.as_u64().saturating_sub(1))]
    Gap { from: SegmentNo, before: SegmentNo },
    #[error("the segment is of system {found}, the one before it of {expected}")]
    SystemId { expected: u64, found: u64 },
    #[error("the WAL before it ends at {end}, but this segment goes on")]
    AfterEnd { end: Lsn },
    #[error(
        "{missing} bytes of the record at {record} are missing, but {found} go on at the segment's start"
    )]
    ContinuedLength { record: Lsn, missing: u32, found: u32 },
    #[error("{found} bytes of a record go on at the segment's start, but none began before")]
    NothingToContinue { found: u32 },
    #[error(
        "the record at {record}, which crosses into this segment, has a wrong checksum: {stored:08X} is stored, {computed:08X} computed"
    )]
    Crc { record: Lsn, stored: u32, computed: u32 },
    #[error("the record at {record} says it follows the one at {found}, but the last one is at {expected}")]
    Previous { record: Lsn, expected: Lsn, found: Lsn },
    #[error("the segment gives up the record at {found:?}, but the unfinished one is at {expected:?}")]
    Replaced {
        expected: Option<Lsn>,
        found: Option<Lsn>,
    },
}

/// What the segments so far leave for the next one. A store can keep this much for each segment and check a new one
/// against it.
#[derive(Clone, Debug, Default)]
pub struct Chain {
    last: Option<Link>,
    /// Records that cross from segment to segment and were checked here.
    crossing: u64,
}

#[derive(Clone, Debug)]
struct Link {
    number: SegmentNo,
    system_id: Option<u64>,
    last_record: Option<Lsn>,
    open: Option<OpenRecord>,
    /// The record that goes on began before the first segment.
    unknown: bool,
    ended: Option<Lsn>,
}

impl Chain {
    pub fn new() -> Chain {
        Chain::default()
    }

    /// Records that cross from segment to segment and are good. No segment's own count has them.
    pub fn crossing_records(&self) -> u64 {
        self.crossing
    }

    /// Start of the last record known to be good.
    pub fn last_record(&self) -> Option<Lsn> {
        self.last.as_ref().and_then(|link| link.last_record)
    }

    /// Adds the next segment. After an error the chain is as it was before.
    pub fn push(&mut self, report: &SegmentReport) -> Result<(), ChainError> {
        let Some(last) = &self.last else {
            self.last = Some(Link::first(report));
            return Ok(());
        };
        let next = last.number.next();
        if report.number != next {
            return Err(ChainError::Gap {
                from: next,
                before: report.number,
            });
        }
        if let (Some(expected), Some(found)) = (last.system_id, report.system_id)
            && expected != found
        {
            return Err(ChainError::SystemId { expected, found });
        }
        if let Some(end) = last.ended
            && (report.records > 0 || report.head.length > 0)
        {
            return Err(ChainError::AfterEnd { end });
        }
        let (link, crossed) = last.follow(report)?;
        self.crossing += u64::from(crossed);
        self.last = Some(link);
        Ok(())
    }
}

impl Link {
    fn first(report: &SegmentReport) -> Link {
        Link {
            number: report.number,
            system_id: report.system_id,
            last_record: report.chain_out,
            open: report.open,
            unknown: report.first_record.is_none() && report.open.is_none() && report.head.length > 0,
            ended: end_of(report),
        }
    }

    /// The link after `report`, and whether a record was finished by it.
    fn follow(&self, report: &SegmentReport) -> Result<(Link, bool), ChainError> {
        let mut link = Link {
            unknown: self.unknown && report.first_record.is_none() && report.head.length > 0,
            ..Link::first(report)
        };
        let mut last_record = self.last_record;
        let mut crossed = false;
        match self.open {
            // Without a first record nothing is known yet: the WAL ends where the segment begins.
            Some(_) if report.head.announced == 0 && report.first_record.is_none() => {}
            Some(open) if report.head.announced == 0 => {
                let (expected, found) = (Some(open.lsn), report.replaces);
                if found != expected {
                    return Err(ChainError::Replaced { expected, found });
                }
            }
            Some(open) => {
                let joined = open.join(&report.head)?;
                match joined.seen == joined.length {
                    true => {
                        joined.check(last_record)?;
                        last_record = Some(joined.lsn);
                        crossed = true;
                    }
                    false => link.open = Some(joined),
                }
            }
            None if report.head.announced > 0 && !self.unknown => {
                return Err(ChainError::NothingToContinue {
                    found: report.head.announced,
                });
            }
            None => {}
        }
        if let (Some(record), Some(expected), Some(found)) =
            (report.first_record, last_record, report.chain_in)
            && found != expected
        {
            return Err(ChainError::Previous {
                record,
                expected,
                found,
            });
        }
        link.last_record = link.last_record.or(last_record);
        Ok((link, crossed))
    }
}

/// Where a segment's WAL ends, if it ends in it.
fn end_of(report: &SegmentReport) -> Option<Lsn> {
    match report.ended {
        Ended::Complete | Ended::Switch => None,
        Ended::Torn { .. } | Ended::Corrupt { .. } => {
            Some(report.boundary.unwrap_or(report.number.start(report.size)))
        }
    }
}

impl OpenRecord {
    /// The record with what `head` has of it.
    fn join(mut self, head: &Head) -> Result<OpenRecord, ChainError> {
        let missing = self.length.saturating_sub(self.seen);
        if head.announced != missing || head.length > missing {
            return Err(ChainError::ContinuedLength {
                record: self.lsn,
                missing,
                found: head.announced,
            });
        }
        // The header may cross, too. What is left of the head belongs to the payload, and sums can be taken apart.
        let seen = (self.seen as usize).min(HEADER);
        let (start, _) = head.first.split_at(head.first.len().min(head.length as usize));
        let room = self.header.get_mut(seen..).unwrap_or_default();
        let taken = room.len().min(start.len());
        room.iter_mut().zip(start).for_each(|(to, from)| *to = *from);
        let payload = u64::from(head.length) - taken as u64;
        let before = crc::append(0, start.get(..taken).unwrap_or_default());
        let rest = match payload {
            0 => 0,
            _ => crc::joined(before, head.crc, payload),
        };
        self.payload_crc = crc::joined(self.payload_crc, rest, payload);
        self.seen += head.length;
        Ok(self)
    }

    fn check(&self, last_record: Option<Lsn>) -> Result<(), ChainError> {
        let (summed, _) = self.header.split_at(CRC_OFFSET);
        let computed = crc::append(self.payload_crc, summed);
        // The array is a whole header.
        let Ok(header) = RecordHeader::parse(&mut Cursor::new(&self.header)) else {
            return Ok(());
        };
        if header.crc != computed {
            return Err(ChainError::Crc {
                record: self.lsn,
                stored: header.crc,
                computed,
            });
        }
        match last_record {
            Some(expected) if header.previous != expected => Err(ChainError::Previous {
                record: self.lsn,
                expected,
                found: header.previous,
            }),
            _ => Ok(()),
        }
    }
}
