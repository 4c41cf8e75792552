//! What is in a backup. The object begins with a summary that can be read alone; the list of files follows.

use skytide_sql::Lsn;

use super::{BackupError, Kind, Label};
use crate::TimelineId;
use crate::store::MAX_OBJECT_BYTES;

const MAGIC: [u8; 4] = *b"SkBm";
const VERSION: u16 = 1;
const HEADER: usize = 24;
/// The most a reader fetches to see a summary.
pub(super) const MAX_SUMMARY: usize = 1 << 20;
const LEVEL: i32 = 3;

/// Where a tablespace was.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Tablespace {
    pub oid: u32,
    pub location: String,
}

/// A backup in short.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Summary {
    pub label: Label,
    pub kind: Kind,
    /// The backup this one has only the changes to.
    pub parent: Option<Label>,
    /// Other backups whose stream has bytes of our files. Extents name them by their place here, from 1 on.
    pub sources: Vec<Label>,
    pub system_identifier: u64,
    pub segment_bytes: u32,
    /// `server_version_num`
    pub server_version: u32,
    pub timeline: u32,
    /// Recovery begins here: the checkpoint's redo position.
    #[serde(with = "lsn_text")]
    pub start_lsn: Lsn,
    /// With the WAL up to here the files are consistent.
    #[serde(with = "lsn_text")]
    pub stop_lsn: Lsn,
    /// Seconds since 1970, by the clock of the host that took it.
    pub started: i64,
    pub finished: i64,
    pub data_checksums: bool,
    /// Pages with a wrong checksum that were copied as they are.
    pub damaged_pages: u64,
    pub files: u64,
    /// Of all files.
    pub bytes: u64,
    /// Read from the cluster.
    pub read_bytes: u64,
    /// In this backup's objects.
    pub stored_bytes: u64,
    pub tablespaces: Vec<Tablespace>,
}

impl Summary {
    /// The order in which backups were taken, whatever the clocks said.
    pub fn by_wal(&self, other: &Summary) -> std::cmp::Ordering {
        let place = |backup: &Summary| (backup.timeline, backup.start_lsn);
        let by_label = || self.label.cmp(&other.label);
        place(self).cmp(&place(other)).then_with(by_label)
    }

    /// Taken by a host whose clock was wrong, or `now`, in seconds since 1970, is.
    pub fn is_of_the_future(&self, now: i64) -> bool {
        const CLOCKS_DIFFER: i64 = 3600;
        self.finished > now.saturating_add(CLOCKS_DIFFER)
    }
}

/// A run of bytes of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(from = "(u16, u64, u64)", into = "(u16, u64, u64)")]
pub struct Extent {
    /// 0: this backup; n: the n-th of the summary's sources.
    pub source: u16,
    /// Where in that backup's stream.
    pub at: u64,
    pub bytes: u64,
}

impl From<(u16, u64, u64)> for Extent {
    fn from((source, at, bytes): (u16, u64, u64)) -> Self {
        Extent { source, at, bytes }
    }
}

impl From<Extent> for (u16, u64, u64) {
    fn from(extent: Extent) -> Self {
        (extent.source, extent.at, extent.bytes)
    }
}

/// Appends an extent, or lengthens the last one.
pub fn push(extents: &mut Vec<Extent>, extent: Extent) {
    match extents.last_mut() {
        Some(last) if last.source == extent.source && last.at + last.bytes == extent.at => {
            last.bytes += extent.bytes
        }
        _ if extent.bytes == 0 => {}
        _ => extents.push(extent),
    }
}

#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct File {
    /// Relative to the data directory; what is in a tablespace lies below `pg_tblspc/<oid>/`.
    pub path: String,
    pub bytes: u64,
    /// CRC-32C and CRC-32 of the whole file, if it was read whole.
    pub sums: Option<(u32, u32)>,
    pub extents: Vec<Extent>,
}

/// One compressed piece of the stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(from = "(u32, u32, u32)", into = "(u32, u32, u32)")]
pub struct Frame {
    pub packed_bytes: u32,
    /// CRC-32C of what is stored.
    pub packed_crc: u32,
    /// CRC-32C of the bytes of the stream.
    pub crc: u32,
}

impl From<(u32, u32, u32)> for Frame {
    fn from((packed_bytes, packed_crc, crc): (u32, u32, u32)) -> Self {
        Frame {
            packed_bytes,
            packed_crc,
            crc,
        }
    }
}

impl From<Frame> for (u32, u32, u32) {
    fn from(frame: Frame) -> Self {
        (frame.packed_bytes, frame.packed_crc, frame.crc)
    }
}

/// One object of the stream.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Object {
    /// Of the stream.
    pub bytes: u32,
    pub frames: Vec<Frame>,
}

impl Object {
    pub fn packed_bytes(&self) -> u64 {
        self.frames
            .iter()
            .map(|frame| u64::from(frame.packed_bytes))
            .sum()
    }
}

#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct DamagedFile {
    pub path: String,
    /// Blocks of this file.
    pub blocks: Vec<u32>,
}

/// A backup as it is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Backup {
    pub summary: Summary,
    pub contents: Contents,
}

#[derive(Debug, Clone, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
pub struct Contents {
    /// Every directory, parents first.
    pub dirs: Vec<String>,
    pub files: Vec<File>,
    pub objects: Vec<Object>,
    pub damaged: Vec<DamagedFile>,
}

impl Backup {
    pub fn timeline(&self) -> Option<TimelineId> {
        TimelineId::new(self.summary.timeline)
    }

    /// The manifest's bytes.
    pub fn encode(&self) -> Result<Vec<u8>, BackupError> {
        let label = || self.summary.label.clone();
        let bad = |what: String| BackupError::BadManifest { label: label(), what };
        let summary = serde_json::to_vec(&self.summary).map_err(|e| bad(e.to_string()))?;
        let contents = serde_json::to_vec(&self.contents).map_err(|e| bad(e.to_string()))?;
        let body = zstd::bulk::compress(&contents, LEVEL).map_err(BackupError::Compress)?;
        let length = |bytes: &[u8]| u32::try_from(bytes.len()).map_err(|_| bad("it is too long".into()));
        let mut out = Vec::with_capacity(HEADER + summary.len() + body.len());
        out.extend(MAGIC);
        out.extend(VERSION.to_le_bytes());
        out.extend([0; 2]);
        for field in [length(&summary)?, length(&body)?, length(&contents)?] {
            out.extend(field.to_le_bytes());
        }
        let crc = crc32c::crc32c_append(crc32c::crc32c(&out), &summary);
        let crc = crc32c::crc32c_append(crc, &body);
        // The summary has a checksum of its own: it is read alone.
        out.extend(crc32c::crc32c_append(crc32c::crc32c(&out), &summary).to_le_bytes());
        out.extend(summary);
        out.extend(body);
        out.extend(crc.to_le_bytes());
        Ok(out)
    }

    pub fn decode(bytes: &[u8]) -> Result<Backup, String> {
        let (summary, rest) = read_summary(bytes)?;
        let [body_bytes, contents_bytes] = [12, 16].map(|at| field(bytes, at).unwrap_or(0));
        let body_bytes = usize::try_from(body_bytes).map_err(|_| "it is too long")?;
        let (body, crc) = rest.split_at_checked(body_bytes).ok_or("it is cut off")?;
        let crc: [u8; 4] = crc.try_into().map_err(|_| "it has another length than it says")?;
        let head = bytes.get(..HEADER - 4).unwrap_or_default();
        let text = bytes.get(HEADER..bytes.len() - rest.len()).unwrap_or_default();
        let found = crc32c::crc32c_append(crc32c::crc32c_append(crc32c::crc32c(head), text), body);
        if found != u32::from_le_bytes(crc) {
            return Err("its checksum is wrong".into());
        }
        if u64::from(contents_bytes) > 4 * MAX_OBJECT_BYTES - 1 {
            return Err("it is too long".into());
        }
        let contents = zstd::bulk::decompress(body, contents_bytes as usize).map_err(|e| e.to_string())?;
        let contents: Contents = serde_json::from_slice(&contents).map_err(|e| e.to_string())?;
        let backup = Backup { summary, contents };
        backup.check()?;
        Ok(backup)
    }

    /// What a reader relies on.
    fn check(&self) -> Result<(), String> {
        if self.timeline().is_none() || crate::SegmentSize::new(self.summary.segment_bytes).is_none() {
            return Err("its timeline or segment size is impossible".into());
        }
        let sources = self.summary.sources.len();
        for file in &self.contents.files {
            let sum: u64 = file.extents.iter().map(|extent| extent.bytes).sum();
            let known = file
                .extents
                .iter()
                .all(|extent| usize::from(extent.source) <= sources);
            if sum != file.bytes || !known {
                return Err(format!("the parts of {} do not make it", file.path));
            }
        }
        let paths = self.contents.files.iter().map(|file| &file.path);
        match paths
            .chain(&self.contents.dirs)
            .find(|path| !super::tar::is_inside(path))
        {
            Some(path) => Err(format!("{path} leads out of the data directory")),
            None => Ok(()),
        }
    }
}

fn field(bytes: &[u8], at: usize) -> Option<u32> {
    let field = bytes.get(at..at + 4)?;
    Some(u32::from_le_bytes(field.try_into().ok()?))
}

/// How many bytes of a manifest hold its summary, by its first [`HEADER`] bytes.
fn read_summary(bytes: &[u8]) -> Result<(Summary, &[u8]), String> {
    let header = bytes.get(..HEADER).ok_or("it is cut off")?;
    if !header.starts_with(&MAGIC) {
        return Err("it is no manifest".into());
    }
    let version = header
        .get(4..6)
        .map_or(0, |v| u16::from_le_bytes(v.try_into().unwrap_or_default()));
    if version != VERSION {
        return Err(format!(
            "it has format version {version}, this program knows {VERSION}"
        ));
    }
    let length = field(header, 8)
        .and_then(|length| usize::try_from(length).ok())
        .unwrap_or(usize::MAX);
    let rest = bytes.get(HEADER..).unwrap_or_default();
    if length > MAX_SUMMARY {
        return Err("its summary is too long".into());
    }
    let (summary, rest) = rest.split_at_checked(length).ok_or("it is cut off")?;
    let found = crc32c::crc32c_append(crc32c::crc32c(header.get(..20).unwrap_or_default()), summary);
    if Some(found) != field(header, 20) {
        return Err("its summary's checksum is wrong".into());
    }
    let summary = serde_json::from_slice(summary).map_err(|e| e.to_string())?;
    Ok((summary, rest))
}

/// The summary at the beginning of a manifest, of which the first [`MAX_SUMMARY`] bytes are enough.
pub(super) fn summary(bytes: &[u8]) -> Result<Summary, String> {
    read_summary(bytes).map(|(summary, _)| summary)
}

mod lsn_text {
    use serde::{Deserialize, Deserializer, Serializer};
    use skytide_sql::Lsn;

    pub fn serialize<S: Serializer>(lsn: &Lsn, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(lsn)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Lsn, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub fn sample() -> Backup {
        Backup {
            summary: Summary {
                label: "20261125T184500F".parse().unwrap(),
                kind: Kind::Full,
                parent: None,
                sources: Vec::new(),
                system_identifier: 7_600_000_000_000_000_001,
                segment_bytes: 16 << 20,
                server_version: 150_004,
                timeline: 1,
                start_lsn: Lsn::new(0x200_0028),
                stop_lsn: Lsn::new(0x300_0000),
                started: 1_795_632_300,
                finished: 1_795_632_305,
                data_checksums: true,
                damaged_pages: 0,
                files: 1,
                bytes: 7,
                read_bytes: 7,
                stored_bytes: 16,
                tablespaces: vec![Tablespace {
                    oid: 16_385,
                    location: "/srv/ts".into(),
                }],
            },
            contents: Contents {
                dirs: vec!["base".into()],
                files: vec![File {
                    path: "PG_VERSION".into(),
                    bytes: 7,
                    sums: Some((1, 2)),
                    extents: vec![Extent {
                        source: 0,
                        at: 0,
                        bytes: 7,
                    }],
                }],
                objects: vec![Object {
                    bytes: 7,
                    frames: vec![Frame {
                        packed_bytes: 16,
                        packed_crc: 3,
                        crc: 4,
                    }],
                }],
                damaged: Vec::new(),
            },
        }
    }

    #[test]
    fn a_manifest_comes_back_and_its_summary_alone() {
        let backup = sample();
        let bytes = backup.encode().unwrap();
        assert_eq!(Backup::decode(&bytes).unwrap(), backup);
        let head = &bytes[..bytes.len() - 30];
        assert_eq!(summary(head).unwrap(), backup.summary);
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_found() {
        let bytes = sample().encode().unwrap();
        for bit in 0..bytes.len() * 8 {
            let mut damaged = bytes.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(Backup::decode(&damaged).is_err(), "bit {bit}");
        }
        for end in 0..bytes.len() {
            assert!(Backup::decode(&bytes[..end]).is_err(), "cut at {end}");
        }
    }

    #[test]
    fn a_manifest_that_leads_out_or_does_not_add_up_is_refused() {
        let mut out = sample();
        out.contents.files[0].path = "../passwd".into();
        assert!(Backup::decode(&out.encode().unwrap()).is_err());
        let mut short = sample();
        short.contents.files[0].bytes = 8;
        assert!(Backup::decode(&short.encode().unwrap()).is_err());
        let mut foreign = sample();
        foreign.contents.files[0].extents[0].source = 1;
        assert!(Backup::decode(&foreign.encode().unwrap()).is_err());
    }
}
