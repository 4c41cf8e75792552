//! WAL made up for tests: well-formed down to its checksums, without a server.

use skytide_sql::Lsn;

use crate::SegmentSize;
use crate::format::crc;
use crate::format::version::{Format, Major};

pub const SYSTEM: u64 = 7_000_000_000_000_000_001;
const PAGE: u64 = 8192;

/// Appends records from a segment's start on.
pub struct Sample {
    format: &'static Format,
    pub size: SegmentSize,
    pub start: Lsn,
    pub bytes: Vec<u8>,
    pub timeline: u32,
    pub previous: Lsn,
}

impl Sample {
    /// In segments of 1 MiB, from segment 1 on.
    pub fn new(major: Major) -> Sample {
        let size = SegmentSize::new(1 << 20).unwrap();
        Sample {
            format: Format::of_major(major),
            size,
            start: Lsn::new(1 << 20),
            bytes: Vec::new(),
            timeline: 1,
            previous: Lsn::new(0x000F_FF80),
        }
    }

    pub fn end(&self) -> Lsn {
        Lsn::new(self.start.as_u64() + self.bytes.len() as u64)
    }

    fn page_header(&mut self, flags: u16, remaining: usize) {
        let address = self.end();
        let first = self.size.offset_of(address) == 0;
        self.bytes.extend(self.format.magic.to_le_bytes());
        self.bytes
            .extend((flags | if first { 2 } else { 0 }).to_le_bytes());
        self.bytes.extend(self.timeline.to_le_bytes());
        self.bytes.extend(address.as_u64().to_le_bytes());
        self.bytes.extend((remaining as u32).to_le_bytes());
        self.bytes.extend([0; 4]);
        if first {
            self.bytes.extend(SYSTEM.to_le_bytes());
            self.bytes.extend(self.size.as_u32().to_le_bytes());
            self.bytes.extend((PAGE as u32).to_le_bytes());
        }
    }

    fn at_page_start(&self) -> bool {
        (self.bytes.len() as u64).is_multiple_of(PAGE)
    }

    /// A page header, if one is due before the next record.
    pub fn open_page(&mut self, flags: u16) {
        while !self.bytes.len().is_multiple_of(8) {
            self.bytes.push(0);
        }
        if self.at_page_start() {
            self.page_header(flags, 0);
        }
    }

    /// A record of fragments as given.
    pub fn record(&mut self, rmgr: u8, info: u8, fragments: &[u8]) -> Lsn {
        self.open_page(0);
        let lsn = self.end();
        let mut record = Vec::new();
        record.extend((24 + fragments.len() as u32).to_le_bytes());
        record.extend(77_u32.to_le_bytes());
        record.extend(self.previous.as_u64().to_le_bytes());
        record.extend([info, rmgr, 0, 0]);
        record.extend([0; 4]);
        record.extend(fragments);
        let crc = crc::of_record(&record).unwrap();
        record[20..24].copy_from_slice(&crc.to_le_bytes());
        let mut rest = &record[..];
        while !rest.is_empty() {
            if self.at_page_start() {
                self.page_header(1, rest.len());
            }
            let room = PAGE as usize - self.bytes.len() % PAGE as usize;
            let (now, later) = rest.split_at(room.min(rest.len()));
            self.bytes.extend(now);
            rest = later;
        }
        self.previous = lsn;
        lsn
    }

    /// A record of one resource manager's data.
    pub fn data(&mut self, rmgr: u8, info: u8, data: &[u8]) -> Lsn {
        self.record(rmgr, info, &main(data))
    }

    /// A heap record of so many bytes.
    pub fn insert(&mut self, bytes: usize) -> Lsn {
        let data: Vec<u8> = (0..bytes).map(|i| (i * 7) as u8).collect();
        self.data(10, 0, &data)
    }

    pub fn commit(&mut self, micros: i64) -> Lsn {
        self.data(1, 0, &micros.to_le_bytes())
    }

    /// A switch, and zeros to the segment's end.
    pub fn switch(&mut self) -> Lsn {
        let lsn = self.record(0, 0x40, &[]);
        self.pad();
        lsn
    }

    /// Zeros to the segment's end.
    pub fn pad(&mut self) {
        let size = self.size.bytes() as usize;
        self.bytes.resize(self.bytes.len().next_multiple_of(size), 0);
    }

    /// Records up to the segment's last bytes, the last one crossing into the next segment.
    pub fn fill_segment(&mut self) -> Lsn {
        let size = self.size.bytes() as usize;
        let end = (self.bytes.len() + 1).next_multiple_of(size);
        while end - self.bytes.len() > 3000 {
            self.insert(1000);
        }
        self.insert(6000)
    }
}

/// The fragment of a resource manager's own data.
pub fn main(data: &[u8]) -> Vec<u8> {
    let mut out = match u8::try_from(data.len()) {
        Ok(length) => vec![255, length],
        Err(_) => [&[254][..], &(data.len() as u32).to_le_bytes()].concat(),
    };
    out.extend(data);
    out
}
