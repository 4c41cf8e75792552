//! Any bytes as a run of row changes: records or an error.
#![no_main]

use libfuzzer_sys::fuzz_target;
use skytide::change::record::Records;

fuzz_target!(|bytes: &[u8]| {
    let mut records = Records::new(bytes);
    while let Ok(Some(record)) = records.next_record() {
        std::hint::black_box(record);
    }
});
