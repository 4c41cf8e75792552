//! Is this file what its name says, and is every record in it whole?

use skytide_sql::Lsn;

use super::ArchiveError;
use crate::decode::{Decoder, Expected, Timelines};
use crate::format::page::{LongHeader, PageSize, SHORT_HEADER};
use crate::pack::{Contents, Kind, Span};
use crate::{SegmentSize, WalFileName};

/// A segment, or the beginning of one, that was read through.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checked {
    pub contents: Contents,
    pub size: SegmentSize,
    /// How many bytes from the start are whole records, or belong to one that goes on in the next segment.
    pub sound_bytes: u64,
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
    let bytes = file.len() as u64;
    if bytes > size.bytes() || (kind == Kind::Segment && bytes < size.bytes()) {
        return Err(not_wal(format!(
            "it has {bytes} bytes, a segment {}",
            size.bytes()
        )));
    }
    let start = segment
        .start(size)
        .ok_or_else(|| not_wal(format!("no segment of {} bytes has this name", size.bytes())))?;
    let expected = Expected {
        system_id: Some(system_id.unwrap_or(header.system_id)),
        timelines: Timelines::UpTo(segment.timeline()),
        ..Expected::default()
    };
    let mut decoder = Decoder::new(start, size, expected);
    let mut seen = Seen::default();
    let end = seen.read(&mut decoder, file);
    if let (Err(source), Kind::Segment) = (end, kind) {
        return Err(ArchiveError::Damaged { name, source });
    }
    let boundary = decoder.record_boundary().unwrap_or(start);
    let offset = |lsn: Lsn| lsn.bytes_since(start).unwrap_or(0).min(bytes);
    let data_bytes = match kind {
        Kind::Segment => seen.switch_end.map_or(bytes, offset),
        _ => offset(seen.switch_end.unwrap_or(boundary)),
    };
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
            end_lsn: boundary,
            first_record: seen.first.map(|(lsn, _)| lsn),
            first_prev: seen.first.map_or(Lsn::INVALID, |(_, prev)| prev),
            last_record: decoder.last_record(),
            records: seen.records,
        }),
    };
    Ok(Checked {
        contents,
        size,
        sound_bytes: data_bytes,
    })
}

#[derive(Default)]
struct Seen {
    /// The first record, and the one before it by its word.
    first: Option<(Lsn, Lsn)>,
    records: u64,
    /// Behind a switch record: what follows is padding.
    switch_end: Option<Lsn>,
}

impl Seen {
    fn read(&mut self, decoder: &mut Decoder, file: &[u8]) -> Result<(), crate::WalError> {
        let mut feed = decoder.feed(file);
        loop {
            let Some(record) = feed.next_record()? else {
                return Ok(());
            };
            self.first.get_or_insert((record.lsn, record.header.previous));
            self.records += 1;
            let (lsn, bytes) = (record.lsn, record.bytes.len() as u64);
            if feed.decoder().is_switched() {
                let page = PageSize::DEFAULT;
                let crosses = page.offset_of(lsn) + bytes > page.bytes();
                let header = if crosses { SHORT_HEADER as u64 } else { 0 };
                self.switch_end = Some(Lsn::new(lsn.as_u64() + bytes + header));
            }
        }
    }
}
