//! CRC-32C as PostgreSQL takes it over a record (`access/transam/xlogreader.c`, `ValidXLogRecord`).

#[cfg(target_arch = "x86_64")]
mod short;

use super::record::{CRC_OFFSET, HEADER};

/// Checksum of a whole record: first what follows its header, then the header up to the checksum's own place.
/// `None` if there is no whole header.
#[inline]
pub fn of_record(record: &[u8]) -> Option<u32> {
    let (header, payload) = record.split_at_checked(HEADER)?;
    let header = header.first_chunk::<CRC_OFFSET>()?;
    #[cfg(target_arch = "x86_64")]
    if let Some(crc) = short::of_record(header, payload) {
        return Some(crc);
    }
    Some(crc32c::crc32c_append(crc32c::crc32c(payload), header))
}

/// Checksum of plain bytes, going on from `before` (0 at the start).
#[inline]
pub fn append(before: u32, bytes: &[u8]) -> u32 {
    crc32c::crc32c_append(before, bytes)
}

/// Checksum of two runs of bytes, one after the other, from the checksum of each.
pub fn joined(first: u32, second: u32, second_bytes: u64) -> u32 {
    match usize::try_from(second_bytes) {
        Ok(0) | Err(_) => first,
        Ok(bytes) => crc32c::crc32c_combine(first, second, bytes),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_the_castagnoli_polynomial() {
        assert_eq!(append(0, b"123456789"), 0xE306_9283);
        assert_eq!(append(append(0, b"1234"), b"56789"), 0xE306_9283);
    }

    #[test]
    fn a_record_is_summed_from_behind() {
        let bytes: Vec<u8> = (0..2000_u32).map(|n| ((n * n) >> 3) as u8).collect();
        for end in (24..600).chain(1900..2000) {
            let record = &bytes[..end];
            let turned = [&record[24..], &record[..20]].concat();
            assert_eq!(of_record(record), Some(append(0, &turned)), "{end} bytes");
        }
        assert_eq!(of_record(&bytes[..23]), None);
    }

    #[test]
    fn sums_join() {
        assert_eq!(joined(append(0, b"1234"), append(0, b"56789"), 5), 0xE306_9283);
        assert_eq!(joined(7, append(0, b""), 0), 7);
    }
}
