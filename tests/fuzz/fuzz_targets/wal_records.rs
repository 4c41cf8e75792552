//! Any bytes as WAL: records or an error, the same whole as in two pieces.
#![no_main]

use libfuzzer_sys::fuzz_target;
use skytide_wal::{Decoder, Expected, SegmentNo, SegmentSize, WalError};

/// Decodes what has come in `pieces` as the start of a segment; returns how many records that was and how it ended.
fn records(pieces: &[&[u8]]) -> (usize, Option<WalError>) {
    let size = SegmentSize::new(1 << 20).expect("a megabyte is a segment size");
    let mut decoder = Decoder::new(SegmentNo::new(1).start(size), size, Expected::default());
    let mut count = 0;
    for piece in pieces {
        let mut feed = decoder.feed(piece);
        loop {
            match feed.next_record() {
                Ok(Some(record)) => {
                    count += 1;
                    for block in record.blocks() {
                        std::hint::black_box(record.block_data(block));
                    }
                    std::hint::black_box((record.main_data(), record.transaction_end()));
                }
                Ok(None) => break,
                Err(error) => return (count, Some(error)),
            }
        }
    }
    (count, None)
}

fuzz_target!(|bytes: &[u8]| {
    let (at, bytes) = bytes
        .split_first()
        .map_or((0, bytes), |(at, rest)| (usize::from(*at) * 64, rest));
    let (first, second) = bytes.split_at(at.min(bytes.len()));
    let (whole, split) = (records(&[bytes]), records(&[first, second]));
    assert_eq!(whole.0, split.0);
    assert_eq!(
        whole.1.map(|e| (e.lsn, e.fault)),
        split.1.map(|e| (e.lsn, e.fault))
    );
});
