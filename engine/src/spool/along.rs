//! A spool opened for reading goes along with its writer, which is another process.
//!
//! Only whole frames are taken in, by their checksums; the writer never changes one. Frames are read aside from the map
//! first, since what stands behind the last whole one may be changed while it is looked at.

use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

use super::entry::{Entry, TocReader};
use super::format::{FRAME, Frame, FrameKind, HEADER, SpoolPos};
use super::index::SegmentIndex;
use super::map::Map;
use super::segment::{self, Segment};
use super::{Spool, SpoolError};

/// What became of a segment that was looked at.
enum Seen {
    Open,
    Sealed,
}

impl Spool {
    /// Takes in what was written since, and lets go of segments that were removed. `false`: the directory has another
    /// spool now, to be opened anew.
    ///
    /// Of one caller at a time; only for a spool that was opened for reading.
    ///
    /// # Errors
    /// A file cannot be read, or a frame with a good checksum makes no sense.
    pub fn go_along(&self) -> Result<bool, SpoolError> {
        let numbers = segment::list(&self.dir)?;
        loop {
            let Some(last) = self.last_segment() else {
                return Ok(false);
            };
            if !is_still_there(&last)? {
                return Ok(false);
            }
            match self.take_in(&last)? {
                Seen::Open => break,
                Seen::Sealed => {
                    let number = last.header.number + 1;
                    // The list may be older than the next segment.
                    if !segment::segment_path(&self.dir, number).exists() || !self.open_next(number, &last)? {
                        break;
                    }
                }
            }
        }
        let first = numbers.first().copied().unwrap_or_default();
        let mut segments = self.segments.write().unwrap_or_else(PoisonError::into_inner);
        segments.retain(|number, _| *number >= first);
        Ok(!segments.is_empty())
    }

    /// Takes in the whole frames of the last segment that are new.
    fn take_in(&self, segment: &Segment) -> Result<Seen, SpoolError> {
        let header = &segment.header;
        let read = |at: usize, bytes: &mut [u8]| {
            let outcome = segment.file.read_exact_at(bytes, at as u64);
            outcome.map_err(SpoolError::io("read", &segment.path))
        };
        let mut frame_bytes = Vec::new();
        loop {
            let at = segment.map.published().len();
            let position = SpoolPos::at(header.number, header.segment_bytes, at);
            if segment.is_sealed() {
                return Ok(Seen::Sealed);
            }
            if at as u64 + FRAME as u64 > header.segment_bytes {
                return Ok(Seen::Open);
            }
            frame_bytes.resize(FRAME, 0);
            read(at, &mut frame_bytes)?;
            let Some(len) = Frame::length_of(&frame_bytes).filter(|len| *len >= FRAME) else {
                return Ok(Seen::Open);
            };
            if len as u64 > header.segment_bytes - at as u64 {
                return Ok(Seen::Open);
            }
            frame_bytes.resize(len, 0);
            read(at, &mut frame_bytes)?;
            let Ok(frame) = Frame::parse(&frame_bytes, 0, position) else {
                // It is being written.
                return Ok(Seen::Open);
            };
            let toc = frame_bytes.get(frame.toc.clone()).unwrap_or_default();
            let mut entries = TocReader::new(toc, position, frame.raw_len, frame.entries);
            while let Some(entry) = entries.next_entry().map_err(|mut fault| {
                fault.offset += at + frame.toc.start;
                fault.in_file(&segment.path)
            })? {
                if let Entry::Relation { id, message } = entry {
                    self.dictionary.learn(id, message)?;
                }
                segment.index().note(&entry, position);
            }
            if frame.kind == FrameKind::Seal {
                segment.seal();
            }
            let end = at + frame.next;
            segment.map.extend(end);
            let end = SpoolPos::at(header.number, header.segment_bytes, segment.map.published().len());
            self.set_durable(end, segment.index().end_lsn);
            self.end.store(end.as_u64(), Ordering::Release);
        }
    }

    /// `false`: its header is not there yet.
    fn open_next(&self, number: u64, last: &Segment) -> Result<bool, SpoolError> {
        let path = segment::segment_path(&self.dir, number);
        let file = segment::open_file(&path, false)?;
        let header = match segment::read_header(&file, &path) {
            Ok(header) if header.number == number => header,
            Ok(_) | Err(SpoolError::Corrupt { .. }) => return Ok(false),
            Err(other) => return Err(other),
        };
        let len = file.metadata().map_err(SpoolError::io("examine", &path))?.len();
        if len != header.segment_bytes
            || header.segment_bytes != last.header.segment_bytes
            || header.identity != last.header.identity
        {
            return Ok(false);
        }
        let map = Map::read_only(&file, len as usize, HEADER).map_err(SpoolError::io("map", &path))?;
        let index = SegmentIndex::starting(&header);
        let next = Segment::new(header, path, file, map, index);
        let end = SpoolPos::at(number, self.segment_bytes, HEADER);
        let mut segments = self.segments.write().unwrap_or_else(PoisonError::into_inner);
        segments.insert(number, Arc::new(next));
        drop(segments);
        self.end.store(end.as_u64(), Ordering::Release);
        Ok(true)
    }
}

/// Whether the name still leads to the file that is open.
fn is_still_there(segment: &Segment) -> Result<bool, SpoolError> {
    let failed = SpoolError::io("examine", &segment.path);
    let ours = segment.file.metadata();
    match (std::fs::metadata(&segment.path), ours) {
        (Err(error), _) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
        (Err(error), _) | (_, Err(error)) => Err(failed(error)),
        (Ok(there), Ok(ours)) => Ok((there.dev(), there.ino()) == (ours.dev(), ours.ino())),
    }
}
