//! Two copies of one segment: the same WAL?

use skytide_sql::Lsn;

use crate::SegmentSize;
use crate::decode::{Decoder, Expected};

/// Where the records of two copies of a segment part: the start of the first record that is different, or is in one of them only.
/// `None` if both have the same. Page headers, and what no record covers, do not count: they differ between a
/// primary's and a standby's copy.
pub fn first_difference(start: Lsn, size: SegmentSize, one: &[u8], other: &[u8]) -> Option<Lsn> {
    let mut decoders = [one, other].map(|_| Decoder::new(start, size, Expected::default()));
    let [left, right] = &mut decoders;
    let (mut left_feed, mut right_feed) = (left.feed(one), right.feed(other));
    let mut end = start;
    loop {
        // An error is an end: how far each copy is sound was checked when it was made.
        let (a, b) = (
            left_feed.next_record().ok().flatten(),
            right_feed.next_record().ok().flatten(),
        );
        match (a, b) {
            (Some(a), Some(b)) if a.lsn == b.lsn && a.bytes == b.bytes => end = a.end_lsn,
            (Some(a), Some(b)) => return Some(a.lsn.min(b.lsn)),
            (Some(record), None) | (None, Some(record)) => return Some(record.lsn),
            (None, None) => break,
        }
    }
    let heads = left.head() != right.head();
    let unfinished = |decoder: &Decoder| {
        decoder
            .unfinished()
            .map(|record| (record.lsn, record.bytes.to_vec()))
    };
    match (heads, unfinished(left), unfinished(right)) {
        // The end of a record that began in the segment before.
        (true, ..) => Some(start),
        (false, a, b) if a == b => None,
        (false, a, b) => Some(
            [a, b]
                .into_iter()
                .flatten()
                .map(|(lsn, _)| lsn)
                .min()
                .unwrap_or(end),
        ),
    }
}
