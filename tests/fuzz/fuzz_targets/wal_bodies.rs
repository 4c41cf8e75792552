//! Any bytes as the bodies of records whose headers, checksums and pages are right: what is read of them holds.
#![no_main]

use libfuzzer_sys::fuzz_target;
// What the sample looks for in the crate it belongs to.
use skytide_wal::backup::changes::Changes;
use skytide_wal::commit::{TransactionEnd, dropped_files};
use skytide_wal::format::version::FORMATS;
use skytide_wal::stats::WalStats;
use skytide_wal::{Decoder, Expected};
use skytide_wal::{SegmentSize, format};

#[allow(dead_code)]
#[path = "../../../wal/src/sample.rs"]
mod sample;

fuzz_target!(|bytes: &[u8]| {
    let Some((version, mut rest)) = bytes.split_first() else {
        return;
    };
    let major = FORMATS[usize::from(*version) % FORMATS.len()].major;
    let mut wal = sample::Sample::new(major);
    let mut put = 0;
    while let [rmgr, info, length, long, body @ ..] = rest {
        // Long ones go over pages.
        let length = usize::from(*length) << (*long % 6);
        let (body, later) = body.split_at(length.min(body.len()));
        wal.record(*rmgr, *info, body);
        put += 1;
        rest = later;
    }
    let mut decoder = Decoder::new(wal.start, wal.size, Expected::default());
    let mut records = decoder.feed(&wal.bytes);
    let mut stats = WalStats::new();
    let mut changes = Changes::default();
    let mut count = 0;
    while let Ok(Some(record)) = records.next_record() {
        count += 1;
        for block in record.blocks() {
            std::hint::black_box(record.block_data(block));
        }
        std::hint::black_box((record.main_data(), record.transaction_end()));
        std::hint::black_box((TransactionEnd::of(&record), dropped_files(&record).ok()));
        stats.add(&record);
        let _ = changes.see(&record);
    }
    assert!(count <= put);
    assert_eq!(stats.rmgrs().map(|(_, share)| share.records).sum::<u64>(), count);
});
