//! The checksum of short records, which are most of them: the library takes several times as long to find out how it
//! will go about a few dozen bytes as it takes for the bytes, twice a record.

#![allow(unsafe_code)]

use std::arch::x86_64::{_mm_crc32_u8, _mm_crc32_u32, _mm_crc32_u64};

use crate::format::record::CRC_OFFSET;

/// Longer ones are summed faster in several streams, as the library does.
const MAX_PAYLOAD: usize = 512;

/// `None` if it is not for us: the record is long, or the processor has no instruction for it.
#[inline]
pub fn of_record(header: &[u8; CRC_OFFSET], payload: &[u8]) -> Option<u32> {
    if payload.len() > MAX_PAYLOAD || !is_x86_feature_detected!("sse4.2") {
        return None;
    }
    // SAFETY: the processor has the instructions, and the function asks for nothing else.
    Some(unsafe { sum(header, payload) })
}

#[target_feature(enable = "sse4.2")]
fn sum(header: &[u8; CRC_OFFSET], payload: &[u8]) -> u32 {
    !append(append(u32::MAX, payload), header)
}

#[inline]
#[target_feature(enable = "sse4.2")]
fn append(state: u32, bytes: &[u8]) -> u32 {
    let (words, rest) = bytes.as_chunks();
    let wide = |state, word: &[u8; 8]| _mm_crc32_u64(state, u64::from_le_bytes(*word));
    // The instruction leaves the upper half empty.
    let mut state = words.iter().fold(u64::from(state), wide) as u32;
    let (words, rest) = rest.as_chunks();
    for word in words {
        state = _mm_crc32_u32(state, u32::from_le_bytes(*word));
    }
    rest.iter().fold(state, |state, byte| _mm_crc32_u8(state, *byte))
}
