//! Is this file what its name says, and is every record in it whole?

use skytide_sql::Lsn;

use super::ArchiveError;
use crate::decode::{Expected, Timelines};
use crate::format::page::{LongHeader, PageSize, SHORT_HEADER};
use crate::format::record::HEADER;
use crate::pack::{Contents, Kind, Span};
use crate::verify::{Ended, SegmentContext, SegmentReport, Tail, verify_segment};
use crate::{SegmentSize, WalFileName};

/// A segment, or the beginning of one, that was read through.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checked {
    pub contents: Contents,
    pub size: SegmentSize,
    /// It begins with the rest of a record of the segment before.
    pub continues: bool,
}

/// Checks page headers, the chain and the checksum of every record. A [`WalFileName::Segment`] has to be full and
/// sound to its end; of a [`WalFileName::Partial`] what is behind its last whole record does not count, and it may
/// be shorter than a segment.
pub fn check_segment(
    name: WalFileName,
    file: &[u8],
    system_id: Option<u64>,
) -> Result<Checked, ArchiveError> {
    let not_wal = |what: String| ArchiveError::NotWal { name, what };
    let (segment, kind) = match name {
        WalFileName::Segment(segment) => (segment, Kind::Segment),
        WalFileName::Partial(segment) => (segment, Kind::PartialSegment),
        WalFileName::History(_) | WalFileName::BackupHistory { .. } => {
            return Err(not_wal("it is no segment".to_owned()));
        }
    };
    let (_, header, size) = LongHeader::peek(file)
        .ok_or_else(|| not_wal("it does not begin with a segment's header".to_owned()))?;
    if let Some(expected) = system_id
        && header.system_id != expected
    {
        return Err(ArchiveError::Foreign {
            name,
            found: header.system_id,
            expected,
        });
    }
    let bytes = file.len() as u64;
    if bytes > size.bytes() || (kind == Kind::Segment && bytes < size.bytes()) {
        return Err(not_wal(format!(
            "it has {bytes} bytes, a segment {}",
            size.bytes()
        )));
    }
    let number = segment
        .number(size)
        .ok_or_else(|| not_wal(format!("no segment of {} bytes has this name", size.bytes())))?;
    let context = SegmentContext {
        number,
        size,
        expected: Expected {
            system_id: Some(system_id.unwrap_or(header.system_id)),
            timelines: Timelines::UpTo(segment.timeline()),
            ..Expected::default()
        },
        tail: match kind {
            Kind::Segment => Tail::Closed,
            _ => Tail::Unknown,
        },
    };
    let report = verify_segment(file, &context);
    match (&report.ended, kind) {
        (Ended::Complete | Ended::Switch, _) | (Ended::Torn { .. }, Kind::PartialSegment) => {}
        // Behind a timeline's end its last file may hold what the server wrote and never kept.
        (Ended::Corrupt { .. }, Kind::PartialSegment) if report.records > 0 => {}
        (Ended::Corrupt { stop, .. } | Ended::Torn { stop: Some(stop), .. }, _) => {
            return Err(ArchiveError::Damaged {
                name,
                source: stop.clone(),
            });
        }
        (Ended::Torn { stop: None, .. }, _) => return Err(not_wal("it ends in the middle".to_owned())),
    }
    let start = number.start(size);
    let end = report.boundary.unwrap_or(start);
    let data_end = match (&report.ended, kind) {
        (Ended::Switch, _) => switch_end(&report).unwrap_or(end),
        (_, Kind::Segment) => number.end(size),
        _ => end,
    };
    let data_bytes = data_end.bytes_since(start).unwrap_or(0).min(bytes);
    let data = usize::try_from(data_bytes).ok().and_then(|end| file.get(..end));
    let contents = Contents {
        kind,
        system_id: header.system_id,
        timeline: segment.timeline(),
        segment_bytes: size.as_u32(),
        data_bytes,
        data_crc: crc32c::crc32c(data.unwrap_or_default()),
        span: Some(Span {
            start_lsn: start,
            end_lsn: end,
            first_record: report.first_record,
            first_prev: report.chain_in.unwrap_or(Lsn::INVALID),
            last_record: report.chain_out,
            records: report.records,
            first_commit: report.commits.first,
            last_commit: report.commits.last,
        }),
    };
    Ok(Checked {
        contents,
        size,
        continues: report.head.announced > 0,
    })
}

/// Behind the switch record: what follows is padding.
fn switch_end(report: &SegmentReport) -> Option<Lsn> {
    let page = PageSize::DEFAULT;
    let (switch, bytes) = (report.chain_out?, HEADER as u64);
    let crosses = page.offset_of(switch) + bytes > page.bytes();
    let header = if crosses { SHORT_HEADER as u64 } else { 0 };
    Some(Lsn::new(switch.as_u64() + bytes + header))
}
