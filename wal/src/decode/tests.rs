use proptest::prelude::*;

use super::*;
use crate::format::record::BadLayout;
use crate::format::version::{Major, UnknownMagic};
use crate::sample::{SYSTEM, Sample, main};

/// Each record's start and end, and how reading ended.
type Read = (Vec<(Lsn, Lsn, usize)>, Option<WalError>);

fn read<'i>(decoder: &mut Decoder, pieces: impl IntoIterator<Item = &'i [u8]>) -> Read {
    let mut records = Vec::new();
    for piece in pieces {
        let mut feed = decoder.feed(piece);
        loop {
            match feed.next_record() {
                Ok(Some(record)) => records.push((record.lsn, record.end_lsn, record.main_data().len())),
                Ok(None) => break,
                Err(error) => return (records, Some(error)),
            }
        }
    }
    (records, None)
}

fn decoder(sample: &Sample) -> Decoder {
    Decoder::new(sample.start, sample.size, Expected::default())
}

fn whole(sample: &Sample) -> Read {
    read(&mut decoder(sample), [&sample.bytes[..]])
}

/// Three segments: records across pages and segments, one longer than a segment, a switch.
fn busy() -> Sample {
    let mut sample = Sample::new(Major::V15);
    for i in 0..40 {
        sample.insert(i * 37 % 900);
    }
    sample.commit(5);
    sample.fill_segment();
    sample.insert(1 << 20);
    sample.insert(10);
    sample.switch();
    sample.insert(20);
    sample
}

#[test]
fn records_across_pages_segments_and_a_switch_come_out_whole() {
    let sample = busy();
    let mut decoder = decoder(&sample);
    let (records, error) = read(&mut decoder, [&sample.bytes[..]]);
    assert_eq!(error, None);
    assert_eq!(records.last().map(|r| (r.0, r.2)), Some((sample.previous, 20)));
    assert!(records.iter().any(|r| r.2 == 1 << 20));
    let switch = records[records.len() - 2];
    assert_eq!((switch.1, switch.2), (Lsn::new(4 << 20), 0));
    assert_eq!(records.last().map(|r| r.0), Some(Lsn::new((4 << 20) + 40)));
    assert_eq!((decoder.system_id(), decoder.stray_byte()), (Some(SYSTEM), None));
    let end = sample.end().as_u64().next_multiple_of(8);
    assert_eq!(decoder.record_boundary(), Some(Lsn::new(end)));
    assert_eq!(decoder.position(), sample.end());
}

#[test]
fn a_start_inside_a_record_passes_its_rest_over() {
    let sample = busy();
    let second = &sample.bytes[1 << 20..];
    let mut decoder = Decoder::new(Lsn::new(2 << 20), sample.size, Expected::default());
    let (records, error) = read(&mut decoder, [second]);
    assert_eq!(error, None);
    let (all, _) = whole(&sample);
    assert_eq!(records[..], all[all.len() - records.len()..]);
    assert!(decoder.head().announced > 0 && decoder.head().announced == decoder.head().length);
}

#[test]
fn a_start_in_the_middle_of_a_page_is_a_boundary() {
    let sample = busy();
    let (all, _) = whole(&sample);
    let (previous, boundary, _) = all[30];
    let mut decoder = Decoder::resume(boundary, previous, sample.size, Expected::default());
    let from = (decoder.position().as_u64() - sample.start.as_u64()) as usize;
    assert_eq!(decoder.record_boundary(), Some(boundary));
    let (records, error) = read(&mut decoder, [&sample.bytes[from..]]);
    assert_eq!((records, error), (all[31..].to_vec(), None));

    let mut wrong = Decoder::resume(boundary, all[29].0, sample.size, Expected::default());
    let (_, error) = read(&mut wrong, [&sample.bytes[from..]]);
    let fault = error.map(|error| error.fault);
    assert!(matches!(fault, Some(WalFault::Previous { .. })), "{fault:?}");
}

#[test]
fn a_record_given_up_after_a_crash_is_replaced() {
    let mut sample = Sample::new(Major::V17);
    sample.insert(100);
    let good = sample.previous;
    sample.insert(20_000);
    let void = sample.previous;
    sample.bytes.truncate(2 * 8192);
    sample.previous = good;
    sample.open_page(8);
    let mut named = Vec::from(void.as_u64().to_le_bytes());
    named.extend([0; 8]);
    let replacement = sample.data(0, 0xD0, &named);
    sample.insert(50);
    let (records, error) = whole(&sample);
    assert_eq!((records.len(), error), (3, None));
    assert_eq!(records[1].0, replacement);

    // The replacement has to name the record that was begun.
    let mut other = Sample::new(Major::V17);
    other.insert(100);
    let good = other.previous;
    other.insert(20_000);
    other.bytes.truncate(2 * 8192);
    other.previous = good;
    other.open_page(8);
    other.data(0, 0xD0, &[1; 16]);
    let (records, error) = whole(&other);
    assert_eq!(
        (records.len(), error.map(|e| e.fault)),
        (1, Some(WalFault::Overwrite))
    );
}

#[test]
fn unwritten_space_is_told_from_damage() {
    let mut sample = Sample::new(Major::V15);
    sample.insert(100);
    let end = Lsn::new(sample.end().as_u64().next_multiple_of(8));
    sample.pad();
    let error = whole(&sample).1.unwrap();
    assert_eq!((error.lsn, error.fault.is_blank()), (end, true));
    let zeros = vec![0; 8192];
    let error = read(&mut decoder(&sample), [&zeros[..]]).1.unwrap();
    assert_eq!(error.fault, WalFault::Magic(UnknownMagic::Blank));
}

#[test]
fn a_missing_page_names_the_record_it_cuts() {
    let mut sample = Sample::new(Major::V15);
    sample.insert(100);
    let long = sample.insert(20_000);
    sample.bytes[8192..16384].fill(0);
    let error = whole(&sample).1.unwrap();
    assert_eq!(
        (error.lsn, error.unfinished),
        (Lsn::new((1 << 20) + 8192), Some(long))
    );
    let text = error.to_string();
    assert!(
        text.contains(&long.to_string()) && text.contains("unfinished"),
        "{text}"
    );
}

#[test]
fn what_the_caller_knows_is_held_against_the_pages() {
    let sample = busy();
    let fault = |expected: Expected| {
        let mut decoder = Decoder::new(sample.start, sample.size, expected);
        read(&mut decoder, [&sample.bytes[..]]).1.unwrap().fault
    };
    let system = fault(Expected {
        system_id: Some(1),
        ..Expected::default()
    });
    assert_eq!(
        system,
        WalFault::SystemId {
            expected: 1,
            found: SYSTEM
        }
    );
    let major = fault(Expected {
        major: Some(Major::V18),
        ..Expected::default()
    });
    assert_eq!(
        major,
        WalFault::OtherMajor {
            expected: Major::V18,
            found: Major::V15
        }
    );
    let mut second = Sample::new(Major::V15);
    second.timeline = 2;
    second.insert(1);
    let one = Timelines::UpTo(crate::TimelineId::new(1).unwrap());
    let expected = Expected {
        timelines: one,
        ..Expected::default()
    };
    let mut decoder = Decoder::new(second.start, second.size, expected);
    let fault = read(&mut decoder, [&second.bytes[..]]).1.unwrap().fault;
    assert_eq!(fault, WalFault::Timeline { found: 2 });
}

#[test]
fn an_impossible_structure_is_an_error_even_with_a_right_checksum() {
    let cases: [(&[u8], BadLayout); 6] = [
        (&[200, 0, 0], BadLayout::Fragment(200)),
        (&[255], BadLayout::TooShort),
        (&[255, 9, 0], BadLayout::Length),
        (&[0, 0x20, 0, 0], BadLayout::BlockData(0)),
        (&[0, 0x80, 0, 0, 1, 0, 0, 0], BadLayout::NoRelation(0)),
        (&[0, 0x10, 0, 0, 9, 0, 0, 0, 0], BadLayout::Image(0)),
    ];
    for (fragments, bad) in cases {
        let mut sample = Sample::new(Major::V16);
        sample.record(10, 0, fragments);
        assert_eq!(
            whole(&sample).1.map(|e| e.fault),
            Some(WalFault::Layout(bad)),
            "{fragments:?}"
        );
    }
}

#[test]
fn block_references_are_read_with_their_majors_bits() {
    // An image without a hole, compressed by pglz, and the same relation once more.
    let fragments = |bits: u8| {
        let mut out = vec![0, 0x30, 3, 0, 5, 0, 0, 0, bits];
        for number in [1663_u32, 5, 16384, 42] {
            out.extend(number.to_le_bytes());
        }
        out.extend([1, 0x80, 0, 0, 43, 0, 0, 0]);
        out.extend([253, 9, 0, 252, 8, 0, 0, 0]);
        out.extend([255, 2]);
        out.extend(b"image");
        out.extend(b"dat");
        out.extend(b"me");
        out
    };
    for (major, bits) in [(Major::V14, 2 | 4), (Major::V15, 2 | 4), (Major::V18, 2 | 4)] {
        let mut sample = Sample::new(major);
        sample.record(10, 0, &fragments(bits));
        let mut decoder = decoder(&sample);
        let mut feed = decoder.feed(&sample.bytes);
        let record = feed.next_record().unwrap().unwrap();
        let [first, second] = record.blocks() else {
            panic!("{:?}", record.blocks())
        };
        let image = first.image.unwrap();
        assert_eq!(
            image.compression,
            Some(crate::format::record::ImageCompression::Pglz)
        );
        assert!(image.apply);
        assert_eq!(record.image_data(&image), b"image");
        assert_eq!(
            (record.block_data(first), record.main_data()),
            (&b"dat"[..], &b"me"[..])
        );
        assert_eq!((second.relation, second.block), (first.relation, 43));
        assert_eq!(first.relation.to_string(), "1663/5/16384");
        assert_eq!(
            (record.origin(), record.top_xid().map(|x| x.as_u32())),
            (Some(9), Some(8))
        );
    }
    let mut sample = Sample::new(Major::V13);
    sample.record(10, 0, &fragments(6));
    assert_eq!(
        whole(&sample).1.map(|e| e.fault),
        Some(WalFault::Layout(BadLayout::Fragment(252)))
    );
}

#[test]
fn commits_say_who_and_when() {
    let mut sample = Sample::new(Major::V15);
    sample.commit(123_456);
    // Prepared, with a database, two subtransactions, a dropped file, statistics: then the prepared one's id.
    let mut data = Vec::from(99_i64.to_le_bytes());
    data.extend((1_u32 | 2 | 4 | 16 | 256).to_le_bytes());
    data.extend([0; 8]);
    data.extend(2_u32.to_le_bytes());
    data.extend([0; 8]);
    data.extend(1_u32.to_le_bytes());
    data.extend([0; 12]);
    data.extend(1_u32.to_le_bytes());
    data.extend([0; 12]);
    data.extend(4711_u32.to_le_bytes());
    sample.data(1, 0x80 | 0x40, &data);
    sample.data(1, 0x80, &[0; 11]);
    let mut decoder = decoder(&sample);
    let mut feed = decoder.feed(&sample.bytes);
    let mut next = || feed.next_record().unwrap().unwrap().transaction_end();
    let first = next().unwrap();
    assert_eq!(
        (first.xid.as_u32(), first.time.as_micros(), first.prepared),
        (77, 123_456, false)
    );
    let second = next().unwrap();
    assert_eq!(second.outcome, crate::commit::Outcome::Aborted);
    assert_eq!((second.xid.as_u32(), second.prepared), (4711, true));
    assert_eq!((second.subtransactions, second.dropped_files), (2, 1));
    assert_eq!(next(), None, "too short for its flags");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn pieces_give_the_same_as_the_whole(cuts in prop::collection::vec(1..9000_usize, 1..400), truncate in 0..3_000_000_usize) {
        let mut sample = busy();
        sample.bytes.truncate(sample.bytes.len().saturating_sub(truncate));
        let mut rest = &sample.bytes[..];
        let mut pieces = Vec::new();
        for cut in cuts {
            let (piece, later) = rest.split_at(cut.min(rest.len()));
            pieces.push(piece);
            rest = later;
        }
        pieces.push(rest);
        let mut decoder = decoder(&sample);
        prop_assert_eq!(read(&mut decoder, pieces), whole(&sample));
        prop_assert_eq!(decoder.position(), sample.end());
    }

    #[test]
    fn any_bytes_are_records_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..9000), start in any::<u64>()) {
        let size = SegmentSize::new(1 << 20).unwrap();
        let mut decoder = Decoder::new(Lsn::new(start), size, Expected::default());
        let _ = read(&mut decoder, [&bytes[..]]);
    }

    #[test]
    fn spoiled_wal_is_records_or_an_error_and_memory_is_bounded(
        spots in prop::collection::vec((0..40_000_usize, any::<u8>()), 1..8), good_sum in any::<bool>()
    ) {
        let mut sample = busy();
        for (at, byte) in spots {
            sample.bytes[at] = byte;
        }
        if good_sum {
            // A first record whose sum is right gets past the checksum to what parses it.
            let record = &mut sample.bytes[40..];
            let length = u32::from_le_bytes(*record.first_chunk().unwrap()) as usize;
            if let Some(sum) = record.get(..length).and_then(crc::of_record) {
                record[20..24].copy_from_slice(&sum.to_le_bytes());
            }
        }
        let mut decoder = decoder(&sample);
        let (records, error) = read(&mut decoder, [&sample.bytes[..]]);
        prop_assert!(decoder.buffer.capacity() <= 2 * sample.bytes.len());
        if let Some(error) = error {
            let again = decoder.feed(&sample.bytes).next_record().unwrap_err();
            prop_assert_eq!(&again, &error);
            prop_assert!(records.iter().all(|r| r.0 < error.lsn));
        }
    }

    #[test]
    fn any_fragments_are_a_layout_or_an_error(fragments in prop::collection::vec(any::<u8>(), 0..300)) {
        for major in [Major::V13, Major::V18] {
            let mut sample = Sample::new(major);
            sample.record(10, 0, &fragments);
            let mut decoder = decoder(&sample);
            let mut feed = decoder.feed(&sample.bytes);
            if let Ok(Some(record)) = feed.next_record() {
                let parts: usize = record.blocks().iter().map(|b| record.block_data(b).len()).sum();
                let images = record.image_bytes() as usize;
                prop_assert!(parts + images + record.main_data().len() <= fragments.len());
            }
        }
    }
}

#[test]
fn main_data_of_any_length_is_announced() {
    assert_eq!((main(&[7; 255]).len(), main(&[7; 256]).len()), (257, 261));
}
