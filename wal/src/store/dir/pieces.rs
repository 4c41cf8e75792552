//! The file of a partial: [pieces](super::super::piece) one after the other.
//!
//! The file ends after the last piece that is whole. What follows it was being written when the writer died,
//! and is cut by the next one; but if a whole piece comes after it, the file is damaged. So that this is seen of the
//! last piece too, a mark is written behind it when it is on disk, and the next piece over the mark. The mark
//! itself is not waited for: while it is not on disk, damage of the last piece looks like a torn one.

use std::fs::{File, Metadata, OpenOptions, TryLockError};
use std::io::{self, Read};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use bytes::Bytes;

use super::super::piece::{HEADER, MAGIC, Piece, framed, header, mark};
use super::super::{Content, MAX_OBJECT_BYTES, PartialName, StoreError};
use crate::durable::{self, Attach};

/// The pieces of a file; or where a damaged one begins that others follow.
fn scan(file: &[u8]) -> Result<Vec<Piece>, usize> {
    let mut pieces: Vec<Piece> = Vec::new();
    let mut bytes = 0;
    let mut end = 0;
    while let Some(piece) = Piece::parse(file, end).filter(|piece| piece.at == bytes && !piece.is_mark()) {
        bytes += piece.length as u64;
        end = piece.end();
        pieces.push(piece);
    }
    let later = |offset: &usize| Piece::parse(file, *offset).is_some_and(|piece| piece.at > bytes);
    let tail = file.get(end..).unwrap_or_default();
    let mut starts = tail
        .windows(HEADER)
        .enumerate()
        .filter_map(|(at, window)| window.starts_with(&MAGIC).then_some(at));
    match starts.any(|start| later(&(end + start))) {
        true => Err(end),
        false => Ok(pieces),
    }
}

/// What the file holds, made durable: its writer may have died before it was, or be about to.
fn load_durable(location: &str, path: &Path) -> Result<Option<Vec<u8>>, StoreError> {
    let failed = |source| StoreError::File {
        location: location.to_owned(),
        source,
    };
    let mut file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        opened => opened.to("open", path).map_err(failed)?,
    };
    let mut content = Vec::new();
    file.read_to_end(&mut content).to("read", path).map_err(failed)?;
    file.sync_all().to("fsync", path).map_err(failed)?;
    durable::sync_parent(path).map_err(failed)?;
    Ok(Some(content))
}

fn load(location: &str, path: &Path) -> Result<Option<Vec<u8>>, StoreError> {
    match std::fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        read => Ok(Some(read.to("read", path).map_err(|source| {
            StoreError::File {
                location: location.to_owned(),
                source,
            }
        })?)),
    }
}

fn damaged(location: &str, name: &PartialName, offset: usize) -> StoreError {
    StoreError::Damaged {
        location: location.to_owned(),
        name: name.to_string(),
        what: format!("the piece at byte {offset} of its file is not whole, and others follow it"),
    }
}

/// A file and its pieces; or where the damaged one begins, with those before it.
struct Scanned {
    file: Vec<u8>,
    pieces: Vec<Piece>,
    damage: Option<usize>,
}

/// Reads a file that may grow meanwhile: its writer puts the next piece over the mark, so that a read may see the mark
/// and then the end of that piece. Damage is what is there the second time, too.
fn look(
    mut load: impl FnMut() -> Result<Option<Vec<u8>>, StoreError>,
) -> Result<Option<Scanned>, StoreError> {
    let mut before = None;
    loop {
        let Some(file) = load()? else {
            return Ok(None);
        };
        let offset = match scan(&file) {
            Ok(pieces) => {
                return Ok(Some(Scanned {
                    file,
                    pieces,
                    damage: None,
                }));
            }
            Err(offset) => offset,
        };
        let there = file
            .get(offset..file.len().min(offset + HEADER))
            .map(<[u8]>::to_vec);
        let seen = Some((offset, there));
        if seen == before {
            let pieces = scan(file.get(..offset).unwrap_or_default()).unwrap_or_default();
            return Ok(Some(Scanned {
                file,
                pieces,
                damage: Some(offset),
            }));
        }
        before = seen;
    }
}

/// The pieces from byte `from` on. They are durable.
pub fn read(
    location: &str,
    path: &Path,
    name: &PartialName,
    from: u64,
) -> Result<Option<Vec<Bytes>>, StoreError> {
    match look(|| load_durable(location, path))? {
        Some(Scanned {
            damage: Some(offset), ..
        }) => Err(damaged(location, name, offset)),
        Some(Scanned { file, pieces, .. }) => pieces_from(location, Bytes::from(file), &pieces, name, from),
        None => Ok(None),
    }
}

fn pieces_from(
    location: &str,
    file: Bytes,
    pieces: &[Piece],
    name: &PartialName,
    from: u64,
) -> Result<Option<Vec<Bytes>>, StoreError> {
    let bytes = pieces.last().map_or(0, |piece| piece.at + piece.length as u64);
    if bytes == 0 {
        // Its writer died before it had a piece.
        return Ok(None);
    }
    if from != bytes && !pieces.iter().any(|piece| piece.at == from) {
        return Err(StoreError::OutOfPlace {
            location: location.to_owned(),
            name: name.clone(),
            at: from,
            bytes,
        });
    }
    let wanted = pieces.iter().filter(|piece| piece.at >= from);
    Ok(Some(
        wanted
            .map(|piece| file.slice(piece.offset..piece.end()))
            .collect(),
    ))
}

/// How many bytes the pieces have, of a damaged file those before the damage; `None` if there is no piece.
pub fn bytes(location: &str, path: &Path, name: &PartialName) -> Result<Option<u64>, StoreError> {
    let Some(found) = look(|| load(location, path))? else {
        return Ok(None);
    };
    let bytes = found.pieces.last().map(|piece| piece.at + piece.length as u64);
    match found.damage {
        Some(offset) => {
            tracing::warn!("{}", damaged(location, name, offset));
            Ok(Some(bytes.unwrap_or(0)))
        }
        None => Ok(bytes),
    }
}

/// A partial opened by its one appender.
#[derive(Debug)]
pub struct PieceFile {
    location: String,
    name: PartialName,
    path: PathBuf,
    /// Holds the lock.
    file: File,
    /// Bytes of all pieces.
    bytes: u64,
    /// Where the next header goes.
    end: u64,
    /// Where the last piece begins: bytes before it, and place in the file.
    last: Option<(u64, u64)>,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// The directory may not have the file on disk yet.
    New,
    Durable,
    /// A write or fsync failed: what is after `end` counts for nothing, and goes before the next write.
    Failed,
}

impl PieceFile {
    /// The pieces that are durable, from byte `from` on, as [`read`] gives them.
    pub fn read(&self, from: u64) -> Result<Option<Vec<Bytes>>, StoreError> {
        let mut content = vec![0; usize::try_from(self.end).unwrap_or(0)];
        self.file
            .read_exact_at(&mut content, 0)
            .to("read", &self.path)
            .map_err(|e| self.failed(e))?;
        if self.state == State::New {
            durable::sync_parent(&self.path).map_err(|e| self.failed(e))?;
        }
        let pieces = scan(&content).map_err(|offset| damaged(&self.location, &self.name, offset))?;
        // Up to here everything was whole.
        let sound = pieces.last().map_or(0, Piece::end);
        if sound < content.len() {
            return Err(damaged(&self.location, &self.name, sound));
        }
        pieces_from(&self.location, Bytes::from(content), &pieces, &self.name, from)
    }

    /// Whether its name still leads to it.
    pub fn is_in_place(&self) -> bool {
        let identity = |meta: Metadata| (meta.dev(), meta.ino());
        let (Ok(own), Ok(named)) = (self.file.metadata(), std::fs::metadata(&self.path)) else {
            return false;
        };
        identity(own) == identity(named)
    }

    /// Locks the file, which is made if need be, and cuts what its last writer left unfinished.
    pub fn open(location: &str, path: &Path, name: &PartialName) -> Result<PieceFile, StoreError> {
        let failed = |source| StoreError::File {
            location: location.to_owned(),
            source,
        };
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path)
            .to("open", path)
            .map_err(failed)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(StoreError::Busy {
                    location: location.to_owned(),
                    name: name.clone(),
                });
            }
            Err(TryLockError::Error(error)) => {
                return Err(failed(durable::FileError::new("lock", path, error)));
            }
        }
        let content = load(location, path)?.unwrap_or_default();
        let pieces = scan(&content).map_err(|offset| damaged(location, name, offset))?;
        let last = pieces.last();
        let opened = PieceFile {
            location: location.to_owned(),
            name: name.clone(),
            path: path.to_owned(),
            bytes: last.map_or(0, |piece| piece.at + piece.length as u64),
            end: last.map_or(0, |piece| piece.end() as u64),
            last: last.map(|piece| (piece.at, piece.offset as u64)),
            file,
            state: State::New,
        };
        let rest = content
            .get(usize::try_from(opened.end).unwrap_or(0)..)
            .unwrap_or_default();
        if !rest.is_empty() && rest != mark(opened.bytes) {
            tracing::warn!(
                partial = %name,
                bytes = content.len() as u64 - opened.end,
                "a piece that was not finished is cut off"
            );
            opened.file.set_len(opened.end).to("cut", path).map_err(failed)?;
        }
        // A killed writer may have left whole pieces that it never made durable; they count from here on.
        opened.file.sync_all().to("fsync", path).map_err(failed)?;
        opened.write_mark();
        Ok(opened)
    }

    pub fn append(&mut self, at: u64, piece: &Content) -> Result<u64, StoreError> {
        if let Some((last_at, offset)) = self.last
            && at == last_at
            && at + piece.len() == self.bytes
            && self.is_there(offset, piece)?
        {
            if self.state == State::New {
                durable::sync_parent(&self.path).map_err(|e| self.failed(e))?;
                self.state = State::Durable;
            }
            return Ok(self.bytes);
        }
        if at != self.bytes || piece.is_empty() {
            return Err(StoreError::OutOfPlace {
                location: self.location.clone(),
                name: self.name.clone(),
                at,
                bytes: self.bytes,
            });
        }
        let was = std::mem::replace(&mut self.state, State::Failed);
        if was == State::Failed {
            self.file
                .set_len(self.end)
                .to("cut", &self.path)
                .map_err(|e| self.failed(e))?;
        }
        let written = self.write(at, piece).to("write", &self.path);
        let named = match was {
            State::Durable => Ok(()),
            State::New | State::Failed => durable::sync_parent(&self.path),
        };
        if let Err(error) = written.and(named) {
            // Nobody may find it: the kernel takes pages that could not be written for clean ones.
            let _ = self.file.set_len(self.end);
            return Err(self.failed(error));
        }
        self.state = State::Durable;
        self.last = Some((at, self.end + HEADER as u64));
        self.end += HEADER as u64 + piece.len();
        self.bytes += piece.len();
        self.write_mark();
        Ok(self.bytes)
    }

    /// The pieces are on disk. It is only for whoever finds the last of them damaged, so nothing depends on it.
    fn write_mark(&self) {
        if self.bytes > 0
            && let Err(error) = self.file.write_all_at(&mark(self.bytes), self.end)
        {
            tracing::debug!(partial = %self.name, %error, "the end of a partial is not marked");
        }
    }

    fn write(&self, at: u64, piece: &Content) -> io::Result<()> {
        fail::fail_point!("durable::full", |_| Err(io::Error::from(
            io::ErrorKind::StorageFull
        )));
        if piece.len() <= 64 << 10 {
            self.file.write_all_at(&framed(at, piece), self.end)?;
        } else {
            self.file.write_all_at(&header(at, piece), self.end)?;
            self.file.write_all_at(piece.bytes(), self.end + HEADER as u64)?;
        }
        fail::fail_point!("store::piece_written");
        fail::fail_point!("store::piece_sync", |_| Err(io::Error::other("EIO")));
        self.file.sync_data()
    }

    fn is_there(&self, offset: u64, piece: &Content) -> Result<bool, StoreError> {
        debug_assert!(piece.len() <= MAX_OBJECT_BYTES);
        let mut there = vec![0; piece.bytes().len()];
        self.file
            .read_exact_at(&mut there, offset)
            .to("read", &self.path)
            .map_err(|e| self.failed(e))?;
        Ok(there == *piece.bytes())
    }

    fn failed(&self, source: durable::FileError) -> StoreError {
        StoreError::File {
            location: self.location.clone(),
            source,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of 3 and 5 bytes.
    fn two_pieces() -> Vec<u8> {
        let mut file = Vec::new();
        for (at, data) in [(0, &b"one"[..]), (3, b"three")] {
            file.extend(header(at, &Content::new(data)));
            file.extend(data);
        }
        file
    }

    #[test]
    fn a_torn_tail_is_cut_at_every_byte() {
        let file = two_pieces();
        let first = HEADER + 3;
        for end in 0..file.len() {
            let pieces = scan(&file[..end]).unwrap();
            assert_eq!(pieces.len(), usize::from(end >= first), "{end}");
        }
        assert_eq!(scan(&file).unwrap().len(), 2);
    }

    #[test]
    fn every_flipped_bit_in_a_piece_that_was_durable_is_damage() {
        let mut file = two_pieces();
        let second = HEADER + 3;
        let end = file.len();
        file.extend(mark(8));
        assert_eq!(scan(&file).unwrap().len(), 2, "a mark is no piece");
        for at in 0..end * 8 {
            let mut damaged = file.clone();
            damaged[at / 8] ^= 1 << (at % 8);
            let piece = if at / 8 < second { 0 } else { second };
            assert_eq!(scan(&damaged), Err(piece), "bit {at}");
        }
        // A damaged mark is none.
        for at in end * 8..file.len() * 8 {
            let mut damaged = file.clone();
            damaged[at / 8] ^= 1 << (at % 8);
            assert_eq!(scan(&damaged).unwrap().len(), 2, "bit {at}");
        }
    }

    /// A read that saw the mark where a piece is by now, and the next mark behind that.
    #[test]
    fn what_was_torn_by_reading_is_read_again() {
        let (one, three) = (Content::new(&b"one"[..]), Content::new(&b"three"[..]));
        let grown = [&framed(0, &one)[..], &framed(3, &three), &mark(8)].concat();
        let mut torn = grown.clone();
        torn[HEADER + 3..2 * HEADER + 3].copy_from_slice(&mark(3));
        assert!(scan(&torn).is_err());
        let mut reads = [torn.clone(), grown].into_iter();
        let found = look(|| Ok(reads.next())).unwrap().unwrap();
        assert_eq!((found.pieces.len(), found.damage), (2, None));
        let found = look(|| Ok(Some(torn.clone()))).unwrap().unwrap();
        assert_eq!((found.pieces.len(), found.damage), (1, Some(HEADER + 3)));
    }

    #[test]
    fn the_end_is_marked_when_it_is_durable_and_moves_with_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("p");
        let name = PartialName::new("00000001/000000010000000000000001").unwrap();
        let mut file = PieceFile::open("here", &path, &name).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"", "nothing to vouch for");
        let mut wanted = Vec::new();
        for (at, data) in [(0, &b"one"[..]), (3, b"three")] {
            let piece = Content::new(data);
            file.append(at, &piece).unwrap();
            wanted.extend(framed(at, &piece));
            let marked = [&wanted[..], &mark(at + data.len() as u64)].concat();
            assert_eq!(std::fs::read(&path).unwrap(), marked);
        }
        drop(file);
        let file = PieceFile::open("here", &path, &name).unwrap();
        assert_eq!(file.read(0).unwrap().unwrap().len(), 2);
        assert_eq!(bytes("here", &path, &name).unwrap(), Some(8));
        drop(file);
        let mut damaged = std::fs::read(&path).unwrap();
        let last = wanted.len() - 1;
        damaged[last] ^= 1;
        std::fs::write(&path, &damaged).unwrap();
        assert!(matches!(
            read("here", &path, &name, 0),
            Err(StoreError::Damaged { .. })
        ));
        assert!(matches!(
            PieceFile::open("here", &path, &name),
            Err(StoreError::Damaged { .. })
        ));
        assert_eq!(std::fs::read(&path).unwrap(), damaged, "nothing was cut");
    }
}
