//! Checksums of data pages (`storage/checksum_impl.h`), and which files have them.

/// Bytes of a page. Servers built with others are refused.
pub const PAGE: usize = 8192;
/// Pages of each file of a large relation but the last (1 GiB).
pub const SEGMENT_PAGES: u32 = 131_072;

const SUMS: usize = 32;
const PRIME: u32 = 16_777_619;
const BASE: [u32; SUMS] = [
    0x5B1F_36E9,
    0xB852_5960,
    0x02AB_50AA,
    0x1DE6_6D2A,
    0x79FF_467A,
    0x9BB9_F8A3,
    0x217E_7CD2,
    0x83E1_3D2C,
    0xF8D4_474F,
    0xE39E_B970,
    0x42C6_AE16,
    0x9932_16FA,
    0x7B09_3B5D,
    0x98DA_FF3C,
    0xF718_902A,
    0x0B1C_9CDB,
    0xE58F_764B,
    0x1876_36BC,
    0x5D7B_3BB1,
    0xE73D_E7DE,
    0x92BE_C979,
    0xCCA6_C0B2,
    0x304A_0979,
    0x85AA_43D4,
    0x7831_25BB,
    0x6CA8_EAA2,
    0xE407_EAC6,
    0x4B5C_FC3E,
    0x9FBF_8C76,
    0x15CA_20BE,
    0xF2CA_9FD3,
    0x959B_D756,
];

/// What a page's own checksum says of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PageState {
    Sound,
    /// Never written, or newer than the backup's start: replay writes it anew.
    NotJudged,
    Damaged,
}

/// Judges a page of a cluster with data checksums. `block` counts from the relation's start; pages written at or
/// after `start_lsn` may be half-written, and replay makes them whole.
pub fn judge(page: &[u8; PAGE], block: u32, start_lsn: u64) -> PageState {
    let [
        a,
        b,
        c,
        d,
        e,
        f,
        g,
        h,
        low,
        high,
        _,
        _,
        _,
        _,
        upper_low,
        upper_high,
        ..,
    ] = *page;
    // pd_lsn is two words, the high one first.
    let lsn = u64::from(u32::from_le_bytes([a, b, c, d])) << 32 | u64::from(u32::from_le_bytes([e, f, g, h]));
    let upper = u16::from_le_bytes([upper_low, upper_high]);
    // A page that was never initialised; its bytes are zeros, or nobody reads them.
    if upper == 0 || lsn >= start_lsn {
        return PageState::NotJudged;
    }
    match checksum(page, block) == u16::from_le_bytes([low, high]) {
        true => PageState::Sound,
        false => PageState::Damaged,
    }
}

/// The checksum a page of this block should carry.
pub fn checksum(page: &[u8; PAGE], block: u32) -> u16 {
    let mut sums = BASE;
    let mix = |sum: &mut u32, value: u32| {
        let mixed = *sum ^ value;
        *sum = mixed.wrapping_mul(PRIME) ^ (mixed >> 17);
    };
    for (row, words) in page.chunks_exact(4 * SUMS).enumerate() {
        for (column, (sum, word)) in sums.iter_mut().zip(words.chunks_exact(4)).enumerate() {
            let mut value = u32::from_le_bytes(word.try_into().unwrap_or_default());
            if row == 0 && column == 2 {
                // pd_checksum, the low half, counts as zero.
                value &= 0xFFFF_0000;
            }
            mix(sum, value);
        }
    }
    for _ in 0..2 {
        sums.iter_mut().for_each(|sum| mix(sum, 0));
    }
    let sum = sums.iter().fold(0, |all, sum| all ^ sum) ^ block;
    u16::try_from(sum % 65_535 + 1).unwrap_or(0)
}

/// A file of a relation, by its place in the data directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RelationPath {
    /// 1664 for shared relations, 1663 for the default one.
    pub tablespace: u32,
    /// 0 for shared relations.
    pub database: u32,
    pub number: u32,
    /// 0 main, 1 free space map, 2 visibility map, 3 init.
    pub fork: u8,
    /// Which gibibyte.
    pub segment: u32,
}

const DEFAULT_TABLESPACE: u32 = 1663;
const SHARED_TABLESPACE: u32 = 1664;

impl RelationPath {
    /// `global/1262`, `base/5/1259_vm.1`, `pg_tblspc/16385/PG_15_202209061/5/16390`; `None` for other files.
    pub fn parse(path: &str) -> Option<RelationPath> {
        let parts: Vec<&str> = path.split('/').collect();
        let (tablespace, database, file) = match parts.as_slice() {
            ["global", file] => (SHARED_TABLESPACE, 0, file),
            ["base", database, file] => (DEFAULT_TABLESPACE, digits(database)?, file),
            ["pg_tblspc", oid, version, database, file] if version.starts_with("PG_") => {
                (digits(oid)?, digits(database)?, file)
            }
            _ => return None,
        };
        let (stem, segment) = match file.split_once('.') {
            Some((stem, segment)) => (stem, digits(segment)?),
            None => (*file, 0),
        };
        let (number, fork) = match stem.split_once('_') {
            None => (stem, 0),
            Some((number, "fsm")) => (number, 1),
            Some((number, "vm")) => (number, 2),
            Some((number, "init")) => (number, 3),
            Some(_) => return None,
        };
        Some(RelationPath {
            tablespace,
            database,
            number: digits(number)?,
            fork,
            segment,
        })
    }

    /// The relation's block that this file begins with.
    pub fn first_block(&self) -> u32 {
        self.segment.saturating_mul(SEGMENT_PAGES)
    }
}

fn digits(text: &str) -> Option<u32> {
    let all = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    all.then(|| text.parse().ok()).flatten()
}

/// Judges a file's pages as its bytes go by.
#[derive(Debug)]
pub struct PageCheck {
    buffer: Vec<u8>,
    block: u32,
    start_lsn: u64,
    /// Blocks whose checksum is wrong, counted within the file.
    pub damaged: Vec<u32>,
    first_block: u32,
}

impl PageCheck {
    pub fn new(path: &RelationPath, start_lsn: u64) -> PageCheck {
        PageCheck {
            buffer: Vec::new(),
            block: 0,
            start_lsn,
            damaged: Vec::new(),
            first_block: path.first_block(),
        }
    }

    pub fn feed(&mut self, mut bytes: &[u8]) {
        if !self.buffer.is_empty() {
            let missing = (PAGE - self.buffer.len()).min(bytes.len());
            let (part, rest) = bytes.split_at_checked(missing).unwrap_or((bytes, &[]));
            self.buffer.extend_from_slice(part);
            bytes = rest;
            if self.buffer.len() < PAGE {
                return;
            }
            let page = std::mem::take(&mut self.buffer);
            self.page(&page);
            self.buffer = page;
            self.buffer.clear();
        }
        let mut pages = bytes.chunks_exact(PAGE);
        for page in pages.by_ref() {
            self.page(page);
        }
        self.buffer.extend_from_slice(pages.remainder());
    }

    fn page(&mut self, page: &[u8]) {
        if let Ok(page) = page.try_into()
            && judge(page, self.first_block + self.block, self.start_lsn) == PageState::Damaged
        {
            self.damaged.push(self.block);
        }
        self.block += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_relations_are_told_by_name() {
        let of = |path: &str| {
            RelationPath::parse(path).map(|p| (p.tablespace, p.database, p.number, p.fork, p.segment))
        };
        assert_eq!(of("global/1262"), Some((1664, 0, 1262, 0, 0)));
        assert_eq!(of("base/5/1259_vm"), Some((1663, 5, 1259, 2, 0)));
        assert_eq!(of("base/5/16390.2"), Some((1663, 5, 16390, 0, 2)));
        assert_eq!(
            of("pg_tblspc/16385/PG_15_202209061/5/16390_fsm.1"),
            Some((16385, 5, 16390, 1, 1))
        );
        for other in [
            "global/pg_control",
            "base/5/PG_VERSION",
            "base/5/t3_16390",
            "pg_xact/0000",
            "base/5",
        ] {
            assert_eq!(of(other), None, "{other}");
        }
    }

    #[test]
    fn a_page_is_judged_by_its_checksum_and_block() {
        let mut page = [0u8; PAGE];
        assert_eq!(judge(&page, 0, 100), PageState::NotJudged, "never written");
        page[14..16].copy_from_slice(&8192u16.to_le_bytes());
        page[4] = 10;
        page[5000] = 77;
        let sum = checksum(&page, 3);
        page[8..10].copy_from_slice(&sum.to_le_bytes());
        assert_eq!(judge(&page, 3, 100), PageState::Sound);
        assert_eq!(judge(&page, 4, 100), PageState::Damaged, "it is another block's");
        assert_eq!(judge(&page, 4, 10), PageState::NotJudged, "it is newer");
        let path = RelationPath::parse("base/1/2").unwrap();
        for piece in [1, 100, PAGE, PAGE + 1] {
            let mut check = PageCheck::new(&path, 100);
            let mut bytes = [0u8; PAGE * 3].to_vec();
            bytes.extend(page);
            bytes.extend(page);
            bytes.chunks(piece).for_each(|piece| check.feed(piece));
            assert_eq!(check.damaged, [4], "pieces of {piece}");
        }
    }
}
