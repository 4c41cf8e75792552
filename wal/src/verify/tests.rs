use super::*;
use crate::decode::{Expected, Timelines, WalFault};
use crate::format::version::Major;
use crate::sample::{SYSTEM, Sample};
use crate::{SegmentNo, TimelineId};
use skytide_sql::Lsn;

const SIZE: usize = 1 << 20;

fn context(number: u64, tail: Tail) -> SegmentContext {
    SegmentContext {
        number: SegmentNo::new(number),
        size: crate::SegmentSize::new(SIZE as u32).unwrap(),
        expected: Expected {
            system_id: Some(SYSTEM),
            major: Some(Major::V15),
            timelines: Timelines::UpTo(TimelineId::new(1).unwrap()),
            ..Expected::default()
        },
        tail,
    }
}

fn verify(sample: &Sample, number: u64, tail: Tail) -> SegmentReport {
    let from = (number as usize - 1) * SIZE;
    let bytes = &sample.bytes[from..sample.bytes.len().min(from + SIZE)];
    verify_segment(bytes, &context(number, tail))
}

/// A segment with a few pages of WAL and a switch.
fn switched() -> Sample {
    let mut sample = Sample::new(Major::V15);
    for i in 0..30 {
        sample.insert(50 + i * 31);
        sample.commit(1000 + i as i64);
    }
    sample.insert(9000);
    sample.switch();
    sample
}

#[test]
fn a_switched_segment_is_whole() {
    let sample = switched();
    let report = verify(&sample, 1, Tail::Closed);
    assert_eq!(report.ended, Ended::Switch);
    assert_eq!((report.records, report.commits.committed), (62, 30));
    let times = report.commits.first.zip(report.commits.last);
    assert_eq!(
        times.map(|(a, b)| (a.as_micros(), b.as_micros())),
        Some((1000, 1029))
    );
    assert_eq!(
        (report.boundary, report.chain_out),
        (Some(Lsn::new(2 << 20)), Some(sample.previous))
    );
    assert_eq!((report.stray_byte, report.open), (None, None));
}

/// Which byte a fault was put on, and what has to come of it.
#[test]
fn a_bit_flipped_anywhere_is_found_and_named() {
    let sample = switched();
    let good = verify(&sample, 1, Tail::Closed);
    let used = (sample.previous.as_u64() as usize - SIZE) + 24;
    let spots = (0..200)
        .chain((8192 - 40)..(8192 + 64))
        .chain((200..used).step_by(61));
    let zeros = [used + 1, 40_000, 8192 * 5, SIZE - 1];
    let harmless = |at: usize, bit: u32| at % 8192 == 2 && bit == 2;
    for at in spots.chain(zeros) {
        for bit in 0..8 {
            let mut bytes = sample.bytes.clone();
            bytes[at] ^= 1 << bit;
            let report = verify_segment(&bytes, &context(1, Tail::Closed));
            let lsn = Lsn::new((SIZE + at) as u64);
            match report.ended {
                Ended::Corrupt { stop, .. } => {
                    // The fault is named at the page or the record with the bad byte, or at the record it cuts off.
                    let from = match stop.fault {
                        // A page's flag that its first record gives the lie to.
                        WalFault::Overwrite => Lsn::new(stop.lsn.as_u64() & !8191),
                        _ => stop.unfinished.unwrap_or(stop.lsn),
                    };
                    let near = from <= lsn && lsn.as_u64() < stop.seen_to.as_u64().max(from.as_u64() + 40);
                    assert!(near, "byte {at} bit {bit}: {stop}");
                }
                Ended::Switch if report.stray_byte == Some(lsn) => {}
                Ended::Switch if at % 8192 >= 20 && at % 8192 < 24 => assert!(report.stray_byte.is_some()),
                other => {
                    assert!(harmless(at, bit), "byte {at} bit {bit}: {other:?}");
                    assert_eq!((&other, report.records), (&good.ended, good.records));
                }
            }
        }
    }
}

#[test]
fn an_unfinished_segment_ends_in_blank_recycled_or_torn_space() {
    let mut sample = Sample::new(Major::V15);
    for _ in 0..30 {
        sample.insert(700);
    }
    let end = Lsn::new(sample.end().as_u64().next_multiple_of(8));
    let boundary = |bytes: &[u8], tail| {
        let report = verify_segment(bytes, &context(1, tail));
        (report.boundary, report.ended)
    };
    let kind = |bytes: &[u8]| match boundary(bytes, Tail::Unknown) {
        (found, Ended::Torn { tail, .. }) => (found, tail),
        other => panic!("{other:?}"),
    };
    assert_eq!(kind(&sample.bytes), (Some(end), TailKind::Short));

    let written = sample.bytes.len();
    sample.pad();
    assert_eq!(kind(&sample.bytes), (Some(end), TailKind::Blank));

    // The same file once held segment 0: other pages behind the page in work.
    let mut recycled = sample.bytes.clone();
    let mut old = switched().bytes;
    for page in (0..SIZE).step_by(8192) {
        old[page + 8..page + 16].copy_from_slice(&(page as u64).to_le_bytes());
    }
    let page_end = written.next_multiple_of(8192);
    recycled[page_end..].copy_from_slice(&old[page_end..]);
    assert_eq!(kind(&recycled), (Some(end), TailKind::Blank));
    recycled[written..page_end].fill(0xEE);
    assert_eq!(kind(&recycled), (Some(end), TailKind::Recycled));
    assert_eq!(kind(&old), (None, TailKind::Recycled));

    // Half of a record.
    let mut torn = Sample::new(Major::V15);
    torn.insert(100);
    let end = Lsn::new(torn.end().as_u64().next_multiple_of(8));
    torn.insert(500);
    torn.bytes.truncate(400);
    torn.pad();
    assert_eq!(kind(&torn.bytes), (Some(end), TailKind::Torn));
    let mut torn = Sample::new(Major::V15);
    torn.insert(100);
    torn.insert(20_000);
    torn.bytes.truncate(8192);
    torn.pad();
    assert_eq!(kind(&torn.bytes), (Some(end), TailKind::Torn));
}

#[test]
fn the_same_stop_is_an_end_or_damage_by_what_else_is_known() {
    let mut sample = Sample::new(Major::V15);
    for _ in 0..100 {
        sample.insert(700);
    }
    sample.pad();
    let at = 20_000;
    sample.bytes[at] ^= 1;
    let bad = Lsn::new((SIZE + at) as u64);
    let proof = |tail| match verify(&sample, 1, tail).ended {
        Ended::Corrupt { stop, proof } => {
            assert!(
                stop.lsn <= bad && matches!(stop.fault, WalFault::Crc { .. }),
                "{stop}"
            );
            Some(proof)
        }
        Ended::Torn { .. } => None,
        other => panic!("{other:?}"),
    };
    assert_eq!(proof(Tail::Closed), Some(Proof::Closed));
    assert_eq!(
        proof(Tail::FlushedTo(bad)),
        None,
        "its last bytes may still change"
    );
    let later = Lsn::new(bad.as_u64() + 800);
    assert_eq!(proof(Tail::FlushedTo(later)), Some(Proof::Flushed(later)));
    let Some(Proof::Followed(next)) = proof(Tail::Unknown) else {
        panic!()
    };
    assert!(next > bad && next.as_u64() < bad.as_u64() + 9000);

    let other = SegmentContext {
        expected: Expected {
            system_id: Some(1),
            ..Expected::default()
        },
        ..context(1, Tail::Unknown)
    };
    let ended = verify_segment(&sample.bytes, &other).ended;
    assert!(
        matches!(
            ended,
            Ended::Corrupt {
                proof: Proof::Foreign,
                ..
            }
        ),
        "{ended:?}"
    );
}

/// Four segments: one record crosses with a split header, one is longer than a segment.
fn long() -> Sample {
    let mut sample = Sample::new(Major::V15);
    sample.insert(10);
    while SIZE - sample.bytes.len() > 3000 {
        sample.insert(1000);
    }
    // Leaves 8 bytes: the length and the transaction, but no more of the header.
    let left = SIZE - sample.bytes.len().next_multiple_of(8);
    let main_header = if left - 8 - 24 > 257 { 5 } else { 2 };
    sample.insert(left - 8 - 24 - main_header);
    assert_eq!(SIZE - sample.bytes.len(), 8);
    sample.insert(300);
    sample.insert(10);
    sample.insert(2 << 20);
    sample.insert(40);
    sample.switch();
    sample
}

fn chain(sample: &Sample) -> Result<Chain, ChainError> {
    let mut chain = Chain::new();
    for number in 1..=(sample.bytes.len() / SIZE) as u64 {
        let report = verify(sample, number, Tail::Closed);
        assert!(report.ended.is_whole(), "{report:?}");
        chain.push(&report)?;
    }
    Ok(chain)
}

#[test]
fn records_that_cross_segments_are_checked_by_the_chain() {
    let sample = long();
    let good = chain(&sample).unwrap();
    assert_eq!(
        (good.crossing_records(), good.last_record()),
        (2, Some(sample.previous))
    );
    assert_eq!(
        verify(&sample, 3, Tail::Closed).first_record,
        None,
        "inside a long record"
    );
    let crossing = Lsn::new((2 << 20) - 8);
    for at in [SIZE + 40, SIZE + 60, SIZE + 100, SIZE + 300] {
        let mut bad = long();
        bad.bytes[at] ^= 4;
        let error = chain(&bad).unwrap_err();
        let named = matches!(error, ChainError::Crc { record, .. } if record == crossing);
        assert!(named, "{at}: {error}");
    }
    let mut bad = long();
    bad.bytes[2 * SIZE + 77_777] ^= 1;
    assert!(matches!(chain(&bad), Err(ChainError::Crc { .. })));
}

#[test]
fn segments_that_do_not_follow_each_other_are_refused() {
    let sample = long();
    let report = |number| verify(&sample, number, Tail::Closed);
    let mut chain = Chain::new();
    chain.push(&report(1)).unwrap();
    let gap = chain.push(&report(3)).unwrap_err();
    assert_eq!(gap.to_string(), "segments 2 to 2 are missing");

    // Segment 2 of another history: its head is as long, but it follows another record.
    let mut other = report(2);
    other.chain_in = Some(Lsn::new(0x1234));
    assert!(matches!(chain.push(&other), Err(ChainError::Previous { .. })));
    other.head.announced += 1;
    assert!(matches!(
        chain.push(&other),
        Err(ChainError::ContinuedLength { .. })
    ));
    other.system_id = Some(1);
    assert!(matches!(chain.push(&other), Err(ChainError::SystemId { .. })));
    chain.push(&report(2)).unwrap();

    let mut ended = Sample::new(Major::V15);
    ended.insert(10);
    let end = Lsn::new(ended.end().as_u64().next_multiple_of(8));
    ended.pad();
    let mut chain = Chain::new();
    chain.push(&verify(&ended, 1, Tail::Unknown)).unwrap();
    assert_eq!(chain.push(&report(2)), Err(ChainError::AfterEnd { end }));

    let mut chain = Chain::new();
    chain.push(&verify(&switched(), 1, Tail::Closed)).unwrap();
    assert!(matches!(
        chain.push(&report(2)),
        Err(ChainError::NothingToContinue { .. })
    ));
}
