//! BASE_BACKUP: the server's files as tar archives, in one stream or in several, and their manifest.
//!
//! Up to 14 each archive, and the manifest after them, is a copy-out of its own, in the order of the tablespaces'
//! rows. From 15 on there is one copy-out, in which each message begins with a byte that says what it is
//! (PostgreSQL manual, "Streaming Replication Protocol", BASE_BACKUP).

use skytide_sql::{Lsn, Oid};

use super::client::Client;
use super::command::{LIST_FORM, quote_value};
use super::error::WalsenderError;
use super::message::{Backend, BadMessage, Columns, ServerError};
use crate::timeline::TimelineId;

const BASE_BACKUP: &str = "BASE_BACKUP";
/// A base backup's rows do not end: nobody has so many tablespaces.
const MAX_TABLESPACES: usize = 100_000;

/// What to ask the server for. WAL is never asked for: it comes from the archive.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BaseBackupOptions {
    pub label: String,
    /// Checkpoint at once, not spread over `checkpoint_completion_target`.
    pub fast_checkpoint: bool,
    /// In KiB a second; the server allows 32 to 1048576.
    pub max_rate: Option<u32>,
    /// Let the server check pages, where data checksums are on.
    pub verify_checksums: bool,
}

impl BaseBackupOptions {
    pub(super) fn command(&self, server: u32) -> String {
        let label = quote_value(&self.label);
        let mut text = format!("{BASE_BACKUP} ");
        if server < LIST_FORM {
            text.push_str(&format!("LABEL {label} PROGRESS"));
            if self.fast_checkpoint {
                text.push_str(" FAST");
            }
            text.push_str(" NOWAIT");
            if let Some(rate) = self.max_rate {
                text.push_str(&format!(" MAX_RATE {rate}"));
            }
            if !self.verify_checksums {
                text.push_str(" NOVERIFY_CHECKSUMS");
            }
            text.push_str(" MANIFEST 'yes'");
            return text;
        }
        let checkpoint = match self.fast_checkpoint {
            true => "fast",
            false => "spread",
        };
        text.push_str(&format!(
            "(LABEL {label}, PROGRESS, CHECKPOINT '{checkpoint}', WAIT false, MANIFEST 'yes'"
        ));
        if let Some(rate) = self.max_rate {
            text.push_str(&format!(", MAX_RATE {rate}"));
        }
        if !self.verify_checksums {
            text.push_str(", VERIFY_CHECKSUMS false");
        }
        text.push(')');
        text
    }
}

/// A tablespace, as the server lists it. The data directory itself has no OID and comes last.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TablespaceRow {
    pub oid: Option<Oid>,
    pub location: Option<String>,
    /// The server's estimate.
    pub kib: Option<u64>,
}

/// A place in the WAL.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BackupPoint {
    pub lsn: Lsn,
    pub timeline: TimelineId,
}

/// What comes next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BackupPart<'a> {
    /// The archive of a tablespace begins; `None`: of the data directory.
    Archive(Option<Oid>),
    Manifest,
    /// Bytes of what began last.
    Data(&'a [u8]),
}

/// A base backup on its way. Its methods but `finish` are cancel-safe.
#[derive(Debug)]
pub struct BaseBackup {
    client: Client,
    start: BackupPoint,
    tablespaces: Vec<TablespaceRow>,
    framing: Framing,
    warnings: Vec<String>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Framing {
    /// The copy-out that is next or running is the so-manieth.
    Several {
        next: usize,
    },
    One,
    Ended,
}

impl Client {
    /// Takes a base backup: returns when the server has made its checkpoint, with everything still to be read.
    /// Needs a physical connection.
    pub async fn base_backup(mut self, options: &BaseBackupOptions) -> Result<BaseBackup, WalsenderError> {
        let server = self.server_version_num();
        self.send(&options.command(server)).await?;
        let start = point(&self.rows(BASE_BACKUP).await?)?;
        let tablespaces = self
            .rows(BASE_BACKUP)
            .await?
            .iter()
            .map(|row| tablespace(row))
            .collect::<Result<Vec<_>, _>>()?;
        Ok(BaseBackup {
            client: self,
            start,
            tablespaces,
            framing: match server < LIST_FORM {
                true => Framing::Several { next: 0 },
                false => Framing::One,
            },
            warnings: Vec::new(),
        })
    }

    /// The rows of one result set among several.
    async fn rows(&mut self, command: &'static str) -> Result<Vec<Vec<Option<String>>>, WalsenderError> {
        let mut rows = Vec::new();
        loop {
            match self.wire.receive().await? {
                (_, Backend::DataRow(_)) if rows.len() == MAX_TABLESPACES => {
                    let what = "it has too many rows";
                    return Err(WalsenderError::Answer { command, what });
                }
                (_, Backend::DataRow(columns)) => rows.push(owned(columns)),
                (_, Backend::CommandComplete) => return Ok(rows),
                (_, Backend::Error(error)) => return Err(error.into()),
                (_, Backend::Notice(notice)) => tracing::warn!(%notice, "from the server"),
                (_, Backend::ParameterStatus { name, value }) => self.server.set(name, value),
                (_, Backend::RowDescription | Backend::Notification) => {}
                (tag, _) => return Err(WalsenderError::Unexpected { tag, during: command }),
            }
        }
    }
}

impl BaseBackup {
    /// From where WAL is needed: recovery begins there.
    pub fn start(&self) -> BackupPoint {
        self.start
    }

    pub fn tablespaces(&self) -> &[TablespaceRow] {
        &self.tablespaces
    }

    pub fn server_version_num(&self) -> u32 {
        self.client.server_version_num()
    }

    /// Warnings so far: of pages whose checksum is wrong, for example.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// Waits for the next part; `None`: all archives and the manifest are here.
    pub async fn next(&mut self) -> Result<Option<BackupPart<'_>>, WalsenderError> {
        loop {
            match self.client.wire.frames.next_tag()? {
                None => self.client.wire.fill().await?,
                Some(b'd') => match (self.framing, self.is_progress()?) {
                    (Framing::Several { .. }, _) => return self.data(),
                    (Framing::One, false) => return self.typed(),
                    (Framing::One, true) => drop(self.client.wire.frames.take()?),
                    (Framing::Ended, _) => return Err(unexpected(b'd')),
                },
                Some(_) => {
                    if let Some(part) = self.control()? {
                        return Ok(part);
                    }
                }
            }
        }
    }

    /// Whether the data message at the front, in one stream, is a report of progress.
    fn is_progress(&mut self) -> Result<bool, WalsenderError> {
        Ok(self.client.wire.frames.peek_body(1)?.first() == Some(&b'p'))
    }

    fn data(&mut self) -> Result<Option<BackupPart<'_>>, WalsenderError> {
        let frame = self.client.wire.frames.take()?.ok_or(WalsenderError::Closed)?;
        Ok(Some(BackupPart::Data(frame.body)))
    }

    /// 15 and later.
    fn typed(&mut self) -> Result<Option<BackupPart<'_>>, WalsenderError> {
        let bad = |what| BadMessage { tag: b'd', what };
        let frame = self.client.wire.frames.take()?.ok_or(WalsenderError::Closed)?;
        let (kind, body) = frame.body.split_first().ok_or(bad("it is empty"))?;
        match kind {
            b'd' => Ok(Some(BackupPart::Data(body))),
            b'm' => Ok(Some(BackupPart::Manifest)),
            b'n' => {
                let name = body.split(|byte| *byte == 0).next().unwrap_or_default();
                let stem = std::str::from_utf8(name)
                    .ok()
                    .and_then(|name| name.strip_suffix(".tar"));
                let oid = match stem {
                    Some("base") => None,
                    Some(oid) => Some(Oid::new(
                        oid.parse().map_err(|_| bad("an archive of no tablespace"))?,
                    )),
                    None => return Err(bad("an archive that is no tar").into()),
                };
                Ok(Some(BackupPart::Archive(oid)))
            }
            _ => Err(bad("not a part of a base backup").into()),
        }
    }

    /// Handles the message at the front, which is no CopyData. `Some` ends the caller's wait.
    fn control(&mut self) -> Result<Option<Option<BackupPart<'static>>>, WalsenderError> {
        let frame = self.client.wire.frames.take()?.ok_or(WalsenderError::Closed)?;
        let tag = frame.tag;
        match Backend::decode(frame)? {
            Backend::CopyOut => match &mut self.framing {
                Framing::Several { next } => {
                    let part = match self.tablespaces.get(*next) {
                        Some(row) => BackupPart::Archive(row.oid),
                        None => BackupPart::Manifest,
                    };
                    *next += 1;
                    Ok(Some(Some(part)))
                }
                Framing::One => Ok(None),
                Framing::Ended => Err(unexpected(tag)),
            },
            Backend::CopyDone => match self.framing {
                Framing::Several { next } if next <= self.tablespaces.len() => Ok(None),
                _ => {
                    self.framing = Framing::Ended;
                    Ok(Some(None))
                }
            },
            Backend::Error(error) => Err(error.into()),
            Backend::Notice(notice) => {
                self.warnings.push(said(&notice));
                tracing::warn!(%notice, "from the server");
                Ok(None)
            }
            Backend::ParameterStatus { name, value } => {
                self.client.server.set(name, value);
                Ok(None)
            }
            Backend::Notification => Ok(None),
            _ => Err(unexpected(tag)),
        }
    }

    /// After the last part: where the backup ends. WAL up to there makes it whole.
    pub async fn finish(mut self) -> Result<(Client, BackupPoint), WalsenderError> {
        let stop = point(&self.client.rows(BASE_BACKUP).await?)?;
        self.client.rest_of_answer(BASE_BACKUP).await?;
        Ok((self.client, stop))
    }
}

fn unexpected(tag: u8) -> WalsenderError {
    let during = BASE_BACKUP;
    WalsenderError::Unexpected { tag, during }
}

fn said(notice: &ServerError) -> String {
    match &notice.detail {
        Some(detail) => format!("{}: {detail}", notice.message),
        None => notice.message.clone(),
    }
}

fn owned(columns: Columns<'_>) -> Vec<Option<String>> {
    columns
        .map(|value| value.map(|value| String::from_utf8_lossy(value).into_owned()))
        .collect()
}

fn point(rows: &[Vec<Option<String>>]) -> Result<BackupPoint, WalsenderError> {
    let answer = |what| WalsenderError::Answer {
        command: BASE_BACKUP,
        what,
    };
    let [row] = rows else {
        return Err(answer("one row was expected"));
    };
    let [Some(lsn), Some(timeline), ..] = row.as_slice() else {
        return Err(answer("position and timeline"));
    };
    Ok(BackupPoint {
        lsn: lsn.parse().map_err(|_| answer("position"))?,
        timeline: timeline.parse().map_err(|_| answer("timeline"))?,
    })
}

fn tablespace(row: &[Option<String>]) -> Result<TablespaceRow, WalsenderError> {
    let answer = |what| WalsenderError::Answer {
        command: BASE_BACKUP,
        what,
    };
    let [oid, location, kib, ..] = row else {
        return Err(answer("a tablespace's row"));
    };
    let oid = oid.as_deref().map(str::parse).transpose();
    Ok(TablespaceRow {
        oid: oid.map_err(|_| answer("a tablespace's OID"))?.map(Oid::new),
        location: location.clone(),
        kib: kib.as_deref().and_then(|kib| kib.parse().ok()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_follows_the_server_version() {
        let mut options = BaseBackupOptions {
            label: "it's".into(),
            fast_checkpoint: true,
            max_rate: Some(1024),
            verify_checksums: true,
        };
        assert_eq!(
            options.command(140_010),
            "BASE_BACKUP LABEL 'it''s' PROGRESS FAST NOWAIT MAX_RATE 1024 MANIFEST 'yes'"
        );
        assert_eq!(
            options.command(150_000),
            "BASE_BACKUP (LABEL 'it''s', PROGRESS, CHECKPOINT 'fast', WAIT false, MANIFEST 'yes', MAX_RATE 1024)"
        );
        options.verify_checksums = false;
        options.max_rate = None;
        options.fast_checkpoint = false;
        assert_eq!(
            options.command(130_000),
            "BASE_BACKUP LABEL 'it''s' PROGRESS NOWAIT NOVERIFY_CHECKSUMS MANIFEST 'yes'"
        );
        assert!(
            options
                .command(180_000)
                .ends_with("MANIFEST 'yes', VERIFY_CHECKSUMS false)")
        );
    }
}
