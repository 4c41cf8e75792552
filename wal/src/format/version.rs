//! What differs between PostgreSQL's majors, as data.

use std::fmt;

use super::page::PageFlags;

/// A major version whose WAL this crate reads.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Major {
    V13,
    V14,
    V15,
    V16,
    V17,
    V18,
}

impl Major {
    pub const fn number(self) -> u16 {
        match self {
            Major::V13 => 13,
            Major::V14 => 14,
            Major::V15 => 15,
            Major::V16 => 16,
            Major::V17 => 17,
            Major::V18 => 18,
        }
    }
}

impl fmt::Display for Major {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.number().fmt(f)
    }
}

/// Bits of a page image's `bimg_info`. The same bit has had two meanings, so it is never read without the magic.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ImageBits {
    pub has_hole: u8,
    /// Redo restores the page from the image.
    pub apply: u8,
    pub pglz: u8,
    pub lz4: u8,
    pub zstd: u8,
}

impl ImageBits {
    const UP_TO_14: ImageBits = ImageBits {
        has_hole: 1,
        apply: 4,
        pglz: 2,
        lz4: 0,
        zstd: 0,
    };
    const SINCE_15: ImageBits = ImageBits {
        has_hole: 1,
        apply: 2,
        pglz: 4,
        lz4: 8,
        zstd: 16,
    };

    pub const fn compressed(self) -> u8 {
        self.pglz | self.lz4 | self.zstd
    }
}

/// One major's WAL.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Format {
    pub major: Major,
    /// `xlp_magic` of every page.
    pub magic: u16,
    pub page_flags: PageFlags,
    pub image: ImageBits,
    /// Records may carry the top transaction's id (fragment 252).
    pub top_xid: bool,
    /// Extensions may have resource managers 128 to 255.
    pub custom_rmgrs: bool,
    /// Bytes of one entry of a commit record's list of dropped statistics (`xl_xact_stats_item`); 0 where there is none.
    pub dropped_stats_bytes: u64,
}

/// `XLOG_PAGE_MAGIC` of each major (`access/xlog_internal.h`); flag bits as of their newest minor release.
pub const FORMATS: [Format; 6] = [
    format(Major::V13, 0xD106),
    format(Major::V14, 0xD10D),
    format(Major::V15, 0xD110),
    format(Major::V16, 0xD113),
    format(Major::V17, 0xD116),
    format(Major::V18, 0xD118),
];

const fn format(major: Major, magic: u16) -> Format {
    let number = major.number();
    Format {
        major,
        magic,
        page_flags: PageFlags::ALL,
        image: if number < 15 {
            ImageBits::UP_TO_14
        } else {
            ImageBits::SINCE_15
        },
        top_xid: number >= 14,
        custom_rmgrs: number >= 15,
        dropped_stats_bytes: match major {
            Major::V13 | Major::V14 => 0,
            Major::V15 | Major::V16 | Major::V17 => 12,
            Major::V18 => 16,
        },
    }
}

/// The two bytes at a page's start are no known version's.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum UnknownMagic {
    #[error("the page's magic is 0000: nothing was written here")]
    Blank,
    #[error(
        "the page's magic {0:04X} has its bytes swapped: it was written on a big-endian machine, which is not supported"
    )]
    Swapped(u16),
    #[error("the page's magic {0:04X} is none of PostgreSQL 13 to 18")]
    Other(u16),
}

impl Format {
    pub fn of_magic(magic: u16) -> Result<&'static Format, UnknownMagic> {
        let find = |magic: u16| FORMATS.iter().find(|format| format.magic == magic);
        match (find(magic), magic) {
            (Some(format), _) => Ok(format),
            (None, 0) => Err(UnknownMagic::Blank),
            (None, _) if find(magic.swap_bytes()).is_some() => Err(UnknownMagic::Swapped(magic)),
            (None, _) => Err(UnknownMagic::Other(magic)),
        }
    }

    pub fn of_major(major: Major) -> &'static Format {
        let [v13, v14, v15, v16, v17, v18] = &FORMATS;
        match major {
            Major::V13 => v13,
            Major::V14 => v14,
            Major::V15 => v15,
            Major::V16 => v16,
            Major::V17 => v17,
            Major::V18 => v18,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_magic_names_its_major() {
        for format in &FORMATS {
            assert_eq!(Format::of_magic(format.magic), Ok(format));
            assert_eq!(Format::of_major(format.major), format);
        }
    }

    #[test]
    fn unknown_magics_say_what_they_are() {
        assert_eq!(Format::of_magic(0), Err(UnknownMagic::Blank));
        assert_eq!(Format::of_magic(0x10D1), Err(UnknownMagic::Swapped(0x10D1)));
        assert_eq!(Format::of_magic(0xD120), Err(UnknownMagic::Other(0xD120)));
    }
}
