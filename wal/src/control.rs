//! `global/pg_control`: what a cluster says of itself (`catalog/pg_control.h`, majors 13 to 18).

use std::fmt;

use skytide_sql::Lsn;

use crate::TimelineId;
use crate::format::crc;
use crate::format::cursor::{Cursor, TooShort};
use crate::format::page::PageSize;
use crate::format::version::Major;
use crate::segment::SegmentSize;

/// Where it lies, relative to the data directory.
pub const PATH: &str = "global/pg_control";

/// `pg_control_version` and `catalog_version_no` of each major, and where the checksum lies.
const VERSIONS: [(Major, u32, u32, usize); 6] = [
    (Major::V13, 1300, 202_007_201, 288),
    (Major::V14, 1300, 202_107_181, 288),
    (Major::V15, 1300, 202_209_061, 288),
    (Major::V16, 1300, 202_307_071, 288),
    (Major::V17, 1700, 202_406_281, 288),
    (Major::V18, 1800, 202_506_291, 292),
];

/// What a server does, or did when it stopped.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum ClusterState {
    StartingUp,
    ShutDown,
    ShutDownInRecovery,
    ShuttingDown,
    InCrashRecovery,
    InArchiveRecovery,
    InProduction,
}

impl ClusterState {
    fn of(number: u32) -> Option<ClusterState> {
        Some(match number {
            0 => ClusterState::StartingUp,
            1 => ClusterState::ShutDown,
            2 => ClusterState::ShutDownInRecovery,
            3 => ClusterState::ShuttingDown,
            4 => ClusterState::InCrashRecovery,
            5 => ClusterState::InArchiveRecovery,
            6 => ClusterState::InProduction,
            _ => return None,
        })
    }

    /// A server that stopped in this state has nothing to recover.
    pub const fn is_clean(self) -> bool {
        matches!(self, ClusterState::ShutDown | ClusterState::ShutDownInRecovery)
    }
}

impl fmt::Display for ClusterState {
    /// As `pg_controldata` says it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ClusterState::StartingUp => "starting up",
            ClusterState::ShutDown => "shut down",
            ClusterState::ShutDownInRecovery => "shut down in recovery",
            ClusterState::ShuttingDown => "shutting down",
            ClusterState::InCrashRecovery => "in crash recovery",
            ClusterState::InArchiveRecovery => "in archive recovery",
            ClusterState::InProduction => "in production",
        })
    }
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum WalLevel {
    Minimal,
    Replica,
    Logical,
}

/// The last checkpoint.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Checkpoint {
    /// Start of its record.
    pub lsn: Lsn,
    /// Where recovery begins.
    pub redo_lsn: Lsn,
    pub timeline: TimelineId,
    /// The timeline before, where the checkpoint began a new one; else the same.
    pub previous_timeline: TimelineId,
    /// Seconds since 1970.
    pub unix_time: i64,
    /// The next transaction's id, epoch included.
    pub next_xid: u64,
}

/// The parts of `pg_control` that copying, verifying and recovering a cluster need.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ControlFile {
    pub system_id: u64,
    pub major: Major,
    pub control_version: u32,
    pub catalog_version: u32,
    pub state: ClusterState,
    /// Seconds since 1970 of the last write.
    pub unix_time: i64,
    pub checkpoint: Checkpoint,
    /// Recovery has to come at least here before the data is consistent; `None` outside of archive recovery.
    pub min_recovery: Option<(Lsn, TimelineId)>,
    /// Where the base backup began, while its end was not replayed yet.
    pub backup_start: Option<Lsn>,
    pub backup_end: Option<Lsn>,
    pub backup_end_required: bool,
    pub wal_level: WalLevel,
    pub wal_log_hints: bool,
    /// Bytes of a data page (`BLCKSZ`).
    pub block_size: u32,
    /// Blocks of one file of a large relation.
    pub relation_segment_blocks: u32,
    pub wal_page_size: PageSize,
    pub segment_size: SegmentSize,
    /// 0 without data checksums.
    pub data_checksum_version: u32,
}

/// The bytes are no control file this program can read.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ControlError {
    #[error("pg_control ends too early")]
    TooShort,
    #[error(
        "pg_control has its bytes swapped: it was written on a big-endian machine, which is not supported"
    )]
    Swapped,
    #[error("pg_control has version {control}, catalog {catalog}: none of PostgreSQL 13 to 18")]
    Version { control: u32, catalog: u32 },
    /// A server rewrites it in place: a reader beside it may see half of a write, and should read again.
    #[error("pg_control has a wrong checksum: {stored:08X} is stored, {computed:08X} computed")]
    Crc { stored: u32, computed: u32 },
    #[error("pg_control has an impossible {field}: {value}")]
    Field { field: &'static str, value: u64 },
}

impl From<TooShort> for ControlError {
    fn from(_: TooShort) -> Self {
        ControlError::TooShort
    }
}

impl ControlFile {
    /// Reads the file's bytes; its checksum must be right.
    pub fn parse(file: &[u8]) -> Result<ControlFile, ControlError> {
        let at = |offset: usize| Cursor::new(file.get(offset..).unwrap_or_default());
        let mut cursor = at(0);
        let system_id = cursor.u64()?;
        let control_version = cursor.u32()?;
        let catalog_version = cursor.u32()?;
        // Versions are below 65536, so a swapped one is recognised by its empty low half.
        if control_version & 0xFFFF == 0 && control_version != 0 {
            return Err(ControlError::Swapped);
        }
        // Minor releases never change the catalog; 13 to 16 share the control file's version.
        let known = VERSIONS
            .iter()
            .find(|(_, control, catalog, _)| (*control, *catalog) == (control_version, catalog_version));
        let Some((major, _, _, crc_offset)) = known.copied() else {
            return Err(ControlError::Version {
                control: control_version,
                catalog: catalog_version,
            });
        };
        let computed = crc::append(0, file.get(..crc_offset).ok_or(ControlError::TooShort)?);
        let stored = at(crc_offset).u32()?;
        if stored != computed {
            return Err(ControlError::Crc { stored, computed });
        }

        let state = at(16).u32()?;
        let lsn = |offset| at(offset).u64().map(Lsn::new);
        let timeline = |field, offset| {
            let value = at(offset).u32()?;
            TimelineId::new(value).ok_or(impossible(field, value))
        };
        let some = |lsn: Lsn| lsn.is_valid().then_some(lsn);
        let checkpoint = Checkpoint {
            lsn: lsn(32)?,
            redo_lsn: lsn(40)?,
            timeline: timeline("checkpoint timeline", 48)?,
            previous_timeline: timeline("previous timeline", 52)?,
            unix_time: at(104).i64()?,
            next_xid: at(64).u64()?,
        };
        let min_recovery = some(lsn(136)?).zip(TimelineId::new(at(144).u32()?));
        let wal_level = match at(172).u32()? {
            0 => WalLevel::Minimal,
            1 => WalLevel::Replica,
            2 => WalLevel::Logical,
            other => return Err(impossible("wal_level", other)),
        };
        let mut sizes = at(216);
        let block_size = sizes.u32()?;
        let relation_segment_blocks = sizes.u32()?;
        let page_size = sizes.u32()?;
        let segment_size = sizes.u32()?;
        Ok(ControlFile {
            system_id,
            major,
            control_version,
            catalog_version,
            state: ClusterState::of(state).ok_or(impossible("state", state))?,
            unix_time: at(24).i64()?,
            checkpoint,
            min_recovery,
            backup_start: some(lsn(152)?),
            backup_end: some(lsn(160)?),
            backup_end_required: at(168).u8()? != 0,
            wal_level,
            wal_log_hints: at(176).u8()? != 0,
            block_size,
            relation_segment_blocks,
            wal_page_size: PageSize::new(page_size).ok_or(impossible("WAL page size", page_size))?,
            segment_size: SegmentSize::new(segment_size).ok_or(impossible("segment size", segment_size))?,
            data_checksum_version: at(252).u32()?,
        })
    }
}

fn impossible(field: &'static str, value: u32) -> ControlError {
    ControlError::Field {
        field,
        value: u64::from(value),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A control file of `major` with the fields a reader looks at, and its checksum.
    fn file(major: Major) -> Vec<u8> {
        let (_, control, catalog, crc_offset) = VERSIONS.into_iter().find(|v| v.0 == major).unwrap();
        let mut bytes = vec![0; 8192];
        let mut put =
            |offset: usize, value: &[u8]| bytes[offset..offset + value.len()].copy_from_slice(value);
        put(0, &0x1122_3344_5566_7788_u64.to_le_bytes());
        put(8, &control.to_le_bytes());
        put(12, &catalog.to_le_bytes());
        put(16, &6_u32.to_le_bytes());
        put(32, &0x0300_0080_u64.to_le_bytes());
        put(40, &0x0300_0028_u64.to_le_bytes());
        put(48, &2_u32.to_le_bytes());
        put(52, &1_u32.to_le_bytes());
        put(172, &1_u32.to_le_bytes());
        put(216, &8192_u32.to_le_bytes());
        put(224, &8192_u32.to_le_bytes());
        put(228, &(1_u32 << 20).to_le_bytes());
        put(252, &1_u32.to_le_bytes());
        let crc = crc::append(0, &bytes[..crc_offset]);
        bytes[crc_offset..crc_offset + 4].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    #[test]
    fn every_majors_file_is_read() {
        for (major, ..) in VERSIONS {
            let control = ControlFile::parse(&file(major)).unwrap();
            assert_eq!(control.major, major);
            assert_eq!(control.state, ClusterState::InProduction);
            assert_eq!(control.checkpoint.redo_lsn, Lsn::new(0x0300_0028));
            assert_eq!(control.checkpoint.timeline.as_u32(), 2);
            assert_eq!(control.segment_size.bytes(), 1 << 20);
            assert_eq!((control.min_recovery, control.data_checksum_version), (None, 1));
        }
    }

    #[test]
    fn a_bit_anywhere_in_the_used_part_is_found() {
        let good = file(Major::V18);
        for bit in 0..296 * 8 {
            let mut bytes = good.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(ControlFile::parse(&bytes).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn foreign_files_are_named() {
        let mut bytes = file(Major::V15);
        bytes[8..12].copy_from_slice(&1300_u32.to_be_bytes());
        assert_eq!(ControlFile::parse(&bytes), Err(ControlError::Swapped));
        bytes[8..12].copy_from_slice(&1201_u32.to_le_bytes());
        let error = ControlFile::parse(&bytes).unwrap_err();
        assert!(
            matches!(error, ControlError::Version { control: 1201, .. }),
            "{error}"
        );
        assert_eq!(ControlFile::parse(&bytes[..100]).unwrap_err(), error);
        assert_eq!(
            ControlFile::parse(&file(Major::V15)[..200]),
            Err(ControlError::TooShort)
        );
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_file_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            let _ = ControlFile::parse(&bytes);
        }
    }
}
