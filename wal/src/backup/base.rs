//! A full backup over the replication protocol.
//!
//! The order of what happens:
//! 1. the stores are this cluster's, and a note under the backup's label says that it is being written;
//! 2. the server makes its checkpoint and sends its files, which go into the stores as they come;
//! 3. everything the server's manifest announces has come, with its checksum;
//! 4. all WAL that makes the files consistent is in the stores;
//! 5. each store is asked for what it has: it must be what was put there;
//! 6. the manifest is put. Now there is a backup.

use std::sync::Arc;
use std::time::Duration;

use skytide_sql::Oid;

use super::claim::Claim;
use super::content::{ContentWriter, Filler};
use super::manifest::{self, Backup, Contents, DamagedFile, File, Tablespace};
use super::page::{PAGE, PageCheck, RelationPath, SEGMENT_PAGES};
use super::server_manifest::ServerManifest;
use super::stores::Stores;
use super::tar::{Entry, EntryKind, Event, TarReader};
use super::{BackupError, Kind, Label, Progress, Summary, unix_now, wal};
use crate::SegmentSize;
use crate::TimelineId;
use crate::store::Content;
use crate::store::identity::Identity;
use crate::walsender::{BackupPart, BaseBackupOptions, Client};

/// The longest manifest a server may send.
const MAX_SERVER_MANIFEST: usize = 1 << 30;
/// The server's manifest is kept among the files: `pg_verifybackup` reads it there.
const SERVER_MANIFEST: &str = "backup_manifest";

#[derive(Debug, Clone)]
pub struct Settings {
    /// Checkpoint at once.
    pub fast_checkpoint: bool,
    /// KiB a second that the server may send.
    pub max_rate: Option<u32>,
    /// Copy pages with wrong checksums as they are, and note them. Otherwise the first one ends the backup.
    pub accept_damage: bool,
    /// zstd's.
    pub level: i32,
    /// Objects that are compressed and written at the same time.
    pub jobs: usize,
    /// How long to wait for WAL at the end.
    pub wal_timeout: Duration,
}

/// Takes a backup over a physical replication connection. Once `stop` is there nothing stays of it.
pub async fn take(
    mut client: Client,
    stores: Arc<Stores>,
    settings: &Settings,
    progress: &Progress,
    stop: impl Future<Output = ()>,
) -> Result<Summary, BackupError> {
    progress.enter("checkpoint", 0);
    let started = unix_now();
    let (identity, timeline) = identify(&mut client).await?;
    let claim = Claim::make(&stores, identity, timeline, started, None).await?;
    let label = claim.label().clone();
    let begun = Begun {
        label,
        identity,
        started,
    };
    let work = Box::pin(copy(client, stores, begun, settings, progress));
    claim.hold(work, stop).await
}

/// What is known of a backup before its first byte.
pub(super) struct Begun {
    pub label: Label,
    pub identity: Identity,
    pub started: i64,
}

/// Steps 2 to 6.
async fn copy(
    mut client: Client,
    stores: Arc<Stores>,
    begun: Begun,
    settings: &Settings,
    progress: &Progress,
) -> Result<Summary, BackupError> {
    let Begun {
        label,
        identity,
        started,
    } = begun;
    let data_checksums = client.show("data_checksums").await? == "on";
    let options = BaseBackupOptions {
        label: format!("skytide {label}"),
        fast_checkpoint: settings.fast_checkpoint,
        max_rate: settings.max_rate,
        verify_checksums: !settings.accept_damage,
    };
    let mut stream = client.base_backup(&options).await?;
    let start = stream.start();
    let kib: u64 = stream.tablespaces().iter().filter_map(|row| row.kib).sum();
    progress.enter("copying", kib * 1024);
    let tablespaces = tablespaces(stream.tablespaces());
    let server_version = stream.server_version_num();

    let writer = ContentWriter::new(stores.clone(), label.clone(), settings.level, settings.jobs);
    let mut receiver = Receiver {
        filler: writer.filler(),
        writer,
        contents: Contents::default(),
        file: None,
        prefix: String::new(),
        tar: None,
        server_manifest: None,
        check_from: data_checksums.then_some(start.lsn.as_u64()),
        progress,
    };
    while let Some(part) = stream.next().await? {
        receiver.take(part).await?;
    }
    let finished = stream.finish().await;
    let (contents, stored_bytes) = receiver.finish().await?;
    if let Some(first) = contents.damaged.first()
        && !settings.accept_damage
    {
        return Err(BackupError::DamagedPages {
            pages: contents.damaged.iter().map(|file| file.blocks.len() as u64).sum(),
            path: first.path.clone(),
            block: first.blocks.first().copied().unwrap_or(0),
        });
    }
    let (_, stop) = finished?;
    fail::fail_point!("backup::copied");

    let size = identity.segment_size;
    wal::wait_for(
        &stores,
        stop.timeline,
        start.lsn..stop.lsn,
        size,
        settings.wal_timeout,
        progress,
    )
    .await?;

    let bytes = contents.files.iter().map(|file| file.bytes).sum();
    let backup = Backup {
        summary: Summary {
            label,
            kind: Kind::Full,
            parent: None,
            sources: Vec::new(),
            system_identifier: identity.system_id,
            segment_bytes: size.as_u32(),
            server_version,
            timeline: stop.timeline.as_u32(),
            start_lsn: start.lsn,
            stop_lsn: stop.lsn,
            started,
            finished: unix_now(),
            data_checksums,
            damaged_pages: contents.damaged.iter().map(|file| file.blocks.len() as u64).sum(),
            files: contents.files.len() as u64,
            bytes,
            read_bytes: bytes,
            stored_bytes,
            tablespaces,
        },
        contents,
    };
    complete(&stores, backup, progress).await
}

/// Who the server is, on which timeline, and that we can read what it writes.
pub async fn identify(client: &mut Client) -> Result<(Identity, TimelineId), BackupError> {
    for (setting, ours) in [
        ("block_size", PAGE as u64),
        ("segment_size", u64::from(SEGMENT_PAGES) * PAGE as u64),
    ] {
        let value = client.show(setting).await?;
        if parse_size(&value) != Some(ours) {
            return Err(BackupError::Unsupported { what: setting, value });
        }
    }
    let value = client.show("wal_segment_size").await?;
    let size = parse_size(&value).and_then(|bytes| u32::try_from(bytes).ok());
    let segment_size = size.and_then(SegmentSize::new).ok_or(BackupError::Unsupported {
        what: "wal_segment_size",
        value,
    })?;
    let system = client.identify_system().await?;
    let identity = Identity {
        system_id: system.system_id,
        segment_size,
    };
    Ok((identity, system.timeline))
}

/// A setting's value as SHOW prints it: `8192`, `16MB`, `1GB`.
fn parse_size(text: &str) -> Option<u64> {
    let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
    let unit = match text.get(digits.len()..)? {
        "" | "B" => 1,
        "kB" => 1 << 10,
        "MB" => 1 << 20,
        "GB" => 1 << 30,
        _ => return None,
    };
    digits.parse::<u64>().ok()?.checked_mul(unit)
}

/// Steps 5 and 6.
pub(super) async fn complete(
    stores: &Stores,
    backup: Backup,
    progress: &Progress,
) -> Result<Summary, BackupError> {
    progress.enter("checking", 0);
    let label = &backup.summary.label;
    for store in stores.alive() {
        let listed = match store.list(&label.prefix()).await {
            Ok(listed) => listed,
            Err(error) => {
                stores.lose(&store, error);
                continue;
            }
        };
        for (number, object) in (0..).zip(&backup.contents.objects) {
            let name = label.data(number);
            let place = listed.binary_search_by(|listed| listed.name.cmp(&name));
            let bytes = place
                .ok()
                .and_then(|place| listed.get(place))
                .map(|listed| listed.bytes);
            if bytes.unwrap_or(0) != object.packed_bytes() {
                return Err(BackupError::Vanished { label: label.clone() });
            }
        }
    }
    fail::fail_point!("backup::checked");
    let encoded = Content::new(backup.encode()?);
    stores.put(label, &label.manifest(), encoded).await?;
    fail::fail_point!("backup::complete");
    Ok(backup.summary)
}

fn tablespaces(rows: &[crate::walsender::TablespaceRow]) -> Vec<Tablespace> {
    rows.iter()
        .filter_map(|row| {
            Some(Tablespace {
                oid: row.oid?.get(),
                location: row.location.clone()?,
            })
        })
        .collect()
}

/// Turns what the server sends into files of the backup.
struct Receiver<'p> {
    writer: ContentWriter,
    filler: Filler,
    contents: Contents,
    file: Option<Incoming>,
    /// Before the names of the archive that is read.
    prefix: String,
    tar: Option<TarReader>,
    /// Once it has begun, data belongs to it.
    server_manifest: Option<Vec<u8>>,
    /// Pages older than this position are judged by their checksums.
    check_from: Option<u64>,
    progress: &'p Progress,
}

/// A file of which not all bytes have come.
pub(super) struct Incoming {
    file: File,
    crc: u32,
    other: crc32fast::Hasher,
    pages: Option<PageCheck>,
}

impl Incoming {
    pub(super) fn new(path: String, check_from: Option<u64>) -> Incoming {
        let relation = RelationPath::parse(&path);
        Incoming {
            pages: relation
                .zip(check_from)
                .map(|(relation, from)| PageCheck::new(&relation, from)),
            file: File {
                path,
                bytes: 0,
                sums: None,
                extents: Vec::new(),
            },
            crc: 0,
            other: crc32fast::Hasher::new(),
        }
    }

    pub(super) async fn append(
        &mut self,
        filler: &mut Filler,
        writer: &ContentWriter,
        data: &[u8],
    ) -> Result<(), BackupError> {
        self.crc = crc32c::crc32c_append(self.crc, data);
        self.other.update(data);
        if let Some(pages) = &mut self.pages {
            pages.feed(data);
        }
        self.file.bytes += data.len() as u64;
        filler.append(writer, data, &mut self.file.extents).await
    }

    pub(super) fn finish(mut self, contents: &mut Contents) {
        self.file.sums = Some((self.crc, self.other.finalize()));
        if let Some(pages) = self.pages
            && !pages.damaged.is_empty()
        {
            contents.damaged.push(DamagedFile {
                path: self.file.path.clone(),
                blocks: pages.damaged,
            });
        }
        contents.files.push(self.file);
    }
}

impl Receiver<'_> {
    async fn take(&mut self, part: BackupPart<'_>) -> Result<(), BackupError> {
        match part {
            BackupPart::Archive(oid) => {
                self.end_archive()?;
                self.prefix = oid.map(tablespace_prefix).unwrap_or_default();
                self.tar = Some(TarReader::default());
            }
            BackupPart::Manifest => {
                self.end_archive()?;
                self.server_manifest = Some(Vec::new());
            }
            BackupPart::Data(data) => {
                self.progress.add(data.len() as u64);
                match (&mut self.server_manifest, &mut self.tar) {
                    (Some(manifest), _) if manifest.len() + data.len() > MAX_SERVER_MANIFEST => {
                        return Err(BackupError::ServerManifest("it is too long".into()));
                    }
                    (Some(manifest), _) => manifest.extend_from_slice(data),
                    (None, Some(_)) => self.archive(data).await?,
                    (None, None) => return Err(BackupError::Incomplete("name of its archive")),
                }
            }
        }
        Ok(())
    }

    fn end_archive(&mut self) -> Result<(), BackupError> {
        match self.tar.take() {
            Some(tar) => Ok(tar.finish()?),
            None => Ok(()),
        }
    }

    async fn archive(&mut self, mut data: &[u8]) -> Result<(), BackupError> {
        while let Some(tar) = &mut self.tar
            && let Some(event) = tar.next(&mut data)?
        {
            match event {
                Event::Entry(entry) => self.entry(entry)?,
                Event::Data(data) => {
                    if let Some(file) = &mut self.file {
                        file.append(&mut self.filler, &self.writer, data).await?;
                    }
                }
                Event::End => {
                    if let Some(file) = self.file.take() {
                        file.finish(&mut self.contents);
                    }
                }
            }
        }
        Ok(())
    }

    fn entry(&mut self, entry: Entry) -> Result<(), BackupError> {
        let path = format!("{}{}", self.prefix, entry.name);
        match entry.kind {
            EntryKind::File { .. } => self.file = Some(Incoming::new(path, self.check_from)),
            EntryKind::Dir => self.contents.dirs.push(path),
            // The rows say where tablespaces are.
            EntryKind::Link { .. } if path.starts_with("pg_tblspc/") => {}
            EntryKind::Link { target } => {
                return Err(BackupError::Unsupported {
                    what: "a symbolic link among its files",
                    value: format!("{path} to {target}"),
                });
            }
        }
        Ok(())
    }

    async fn finish(mut self) -> Result<(Contents, u64), BackupError> {
        self.end_archive()?;
        let sent = self
            .server_manifest
            .take()
            .ok_or(BackupError::Incomplete("manifest"))?;
        let mut announced = ServerManifest::parse(&sent)?;
        for file in &self.contents.files {
            let crc = file.sums.map_or(0, |(crc, _)| crc);
            announced.check(&file.path, file.bytes, crc)?;
        }
        announced.finish()?;
        if !self
            .contents
            .files
            .iter()
            .any(|file| file.path == crate::control::PATH)
        {
            return Err(BackupError::Incomplete(crate::control::PATH));
        }
        let mut file = Incoming::new(SERVER_MANIFEST.to_owned(), None);
        file.append(&mut self.filler, &self.writer, &sent).await?;
        file.finish(&mut self.contents);
        self.filler.finish(&self.writer).await?;
        let (objects, stored) = self.writer.finish().await?;
        self.contents.objects = objects;
        self.contents.dirs.sort();
        self.contents.dirs.dedup();
        Ok((self.contents, stored))
    }
}

/// The path of a tablespace's contents, as the server's manifest has them.
fn tablespace_prefix(oid: Oid) -> String {
    format!("pg_tblspc/{oid}/")
}

/// For tests and other makers of contents: where a run of a parent's file lies.
pub(super) fn extents_of(file: &File, from: u64, bytes: u64, out: &mut Vec<manifest::Extent>) {
    let (mut skip, mut left) = (from, bytes);
    for extent in &file.extents {
        if left == 0 {
            return;
        }
        if skip >= extent.bytes {
            skip -= extent.bytes;
            continue;
        }
        let taken = left.min(extent.bytes - skip);
        let part = manifest::Extent {
            source: extent.source,
            at: extent.at + skip,
            bytes: taken,
        };
        manifest::push(out, part);
        left -= taken;
        skip = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_with_units() {
        for (text, bytes) in [
            ("8192", 8192),
            ("16MB", 16 << 20),
            ("1GB", 1 << 30),
            ("8kB", 8192),
        ] {
            assert_eq!(parse_size(text), Some(bytes));
        }
        assert_eq!(parse_size("on"), None);
    }
}
