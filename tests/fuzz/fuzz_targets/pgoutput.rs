//! Any bytes as a pgoutput message: a message or an error.
#![no_main]

use libfuzzer_sys::fuzz_target;
use skytide::capture::pgoutput::{Within, decode};

fuzz_target!(|bytes: &[u8]| {
    for within in [Within::Transaction, Within::StreamBlock] {
        let _ = std::hint::black_box(decode(bytes, within));
    }
});
