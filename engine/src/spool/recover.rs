//! Opening a directory: what is good, what is a torn tail, what is rot.
//!
//! Frames are written through the map and synced later, so a power cut may leave any mixture of them
//! behind what was last synced. Each frame says how far the spool was durable when it was written.
//! The first bad frame is therefore a torn tail, cut without a word, unless a later frame says that this place
//! was durable once: then the disk lost what it had promised, and that is an error. What is cut was never
//! reported to the provider as flushed, so the provider sends it again.

use std::fs::{self, File};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::SpoolError;
use super::entry::{Entry, TocReader};
use super::error::Fault;
use super::format::{Fields, Frame, HEADER, Identity, SegmentHeader, SpoolPos};
use super::index::{End, SegmentIndex, scan};
use super::map::{Map, MapWriter};
use super::segment::{self, Segment};
use crate::change::RelationId;

/// Bytes of a segment that stay mapped in while it is scanned.
const KEEP_MAPPED: usize = 8 << 20;

/// Whether to repair what is found.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    /// With the directory's lock: nobody else writes.
    Write,
    /// Perhaps beside a running writer.
    Read,
}

/// A relation declared in a segment.
pub(super) struct Declared {
    pub id: RelationId,
    pub message: Box<[u8]>,
    pub segment: u64,
}

/// What a directory holds.
pub(super) struct Survey {
    pub sealed: Vec<Segment>,
    /// The segment to go on with.
    pub tail: Option<Tail>,
    /// The number after the last good segment.
    pub next_number: u64,
    pub relations: Vec<Declared>,
    /// Sealed segments without a good sidecar.
    unvouched: Vec<usize>,
    /// Files behind the cut.
    doomed: Vec<u64>,
}

pub(super) struct Tail {
    pub header: SegmentHeader,
    pub path: PathBuf,
    pub index: SegmentIndex,
    /// Where the next frame goes.
    pub cursor: usize,
    file: File,
}

impl Tail {
    /// The file's bytes from the cursor on, at their places, and where the zeros at its end begin.
    fn bytes(&self) -> Result<(Vec<u8>, usize), SpoolError> {
        let len = self.header.segment_bytes as usize;
        let read = || {
            let used = segment::used_len(&self.file, self.cursor, len)?;
            // Zeros that are not written to cost no memory.
            let mut bytes = vec![0; len];
            self.file
                .read_exact_at(&mut bytes[self.cursor..used], self.cursor as u64)?;
            Ok((bytes, used))
        };
        read().map_err(SpoolError::io("read", &self.path))
    }
}

/// A segment file whose header is good and whose length is right.
struct Candidate {
    header: SegmentHeader,
    path: PathBuf,
    file: File,
}

/// The first bad place of the whole spool.
struct Break {
    file: PathBuf,
    number: u64,
    fault: Fault,
}

fn candidate(dir: &Path, number: u64) -> Result<Candidate, SpoolError> {
    let path = segment::segment_path(dir, number);
    let file = segment::open_file(&path, false)?;
    let header = segment::read_header(&file, &path)?;
    if header.number != number {
        return Err(Fault::new(16, "the segment number of the file's name", header.number).in_file(&path));
    }
    let len = file.metadata().map_err(SpoolError::io("examine", &path))?.len();
    if len != header.segment_bytes {
        let found = format!("{len} bytes");
        return Err(Fault::new(0, "a file as long as its header says", found).in_file(&path));
    }
    Ok(Candidate { header, path, file })
}

/// Looks at a directory without changing it.
pub(super) fn survey(dir: &Path, identity: Option<&Identity>, mode: Mode) -> Result<Survey, SpoolError> {
    let numbers = segment::list(dir)?;
    let mut survey = Survey {
        sealed: Vec::new(),
        tail: None,
        next_number: numbers.first().copied().unwrap_or(1),
        relations: Vec::new(),
        unvouched: Vec::new(),
        doomed: Vec::new(),
    };
    let mut first_bad = None;
    for number in &numbers {
        if first_bad.is_some() {
            survey.doomed.push(*number);
            continue;
        }
        first_bad = survey.take(dir, *number, identity, mode)?;
    }
    let broken = first_bad.is_some();
    if let Some(first_bad) = first_bad {
        survey.judge(dir, first_bad)?;
    }
    // A sidecar is written once the next segment's file is durable.
    if mode == Mode::Write && !broken && survey.last_is_vouched() {
        let next = segment::segment_path(dir, survey.next_number);
        return Err(Fault::new(0, "the spool's next segment", "no such file").in_file(&next));
    }
    Ok(survey)
}

impl Survey {
    /// Adds the next segment, or says what is bad about it.
    fn take(
        &mut self,
        dir: &Path,
        number: u64,
        identity: Option<&Identity>,
        mode: Mode,
    ) -> Result<Option<Break>, SpoolError> {
        if number != self.next_number {
            let file = segment::segment_path(dir, self.next_number);
            self.doomed.push(number);
            return Ok(Some(Break {
                file,
                number: self.next_number,
                fault: Fault::new(0, "the spool's next segment", "no such file"),
            }));
        }
        let found = match candidate(dir, number) {
            Ok(found) => found,
            Err(SpoolError::Corrupt {
                file,
                offset,
                expected,
                found,
            }) => {
                self.doomed.push(number);
                let fault = Fault::new(offset as usize, expected, found);
                return Ok(Some(Break { file, number, fault }));
            }
            Err(other) => return Err(other),
        };
        if let Some(expected) = identity {
            check_identity(dir, expected, &found.header.identity)?;
        }
        if let Some(first) = self.sealed.first() {
            let (expected, found_bytes) = (first.header.segment_bytes, found.header.segment_bytes);
            if expected != found_bytes {
                let found_bytes = found_bytes.to_string();
                return Err(
                    Fault::new(24, "the first segment's segment size", found_bytes).in_file(&found.path)
                );
            }
        }
        self.next_number = number + 1;
        let len = found.header.segment_bytes as usize;
        let map = |published| {
            Map::read_only(&found.file, len, published).map_err(SpoolError::io("map", &found.path))
        };
        if let Some(index) = SegmentIndex::load(dir, &found.header) {
            let sealed = Segment::new(
                found.header.clone(),
                found.path.clone(),
                open(&found)?,
                map(len)?,
                index,
            );
            self.collect_relations(&sealed)?;
            self.sealed.push(sealed);
            return Ok(None);
        }
        // Beside a running writer only a copy stands still.
        let (copy, mapped);
        let bytes: &[u8] = match mode {
            Mode::Read => {
                mapped = None;
                copy = fs::read(&found.path).map_err(SpoolError::io("read", &found.path))?;
                &copy
            }
            Mode::Write => {
                mapped = Some(map(len)?);
                mapped.as_ref().map_or(&[], |map| map.published())
            }
        };
        // A segment may be larger than the memory we want to be seen with.
        let mut kept_from = 0;
        let passed = |offset| {
            if let Some(map) = &mapped
                && offset >= kept_from + KEEP_MAPPED
            {
                map.forget_below(offset);
                kept_from = offset;
            }
        };
        let relations = &mut self.relations;
        let note = |id, message: &[u8]| {
            relations.push(Declared {
                id,
                message: message.into(),
                segment: number,
            });
            Ok(())
        };
        let (index, end) = scan(bytes, &found.header, note, passed, &found.path)?;
        match end {
            End::Sealed => {
                let sealed = Segment::new(
                    found.header.clone(),
                    found.path.clone(),
                    open(&found)?,
                    map(len)?,
                    index,
                );
                self.unvouched.push(self.sealed.len());
                self.sealed.push(sealed);
                Ok(None)
            }
            End::Open { offset, fault } => {
                self.tail = Some(Tail {
                    header: found.header,
                    path: found.path.clone(),
                    index,
                    cursor: offset,
                    file: found.file,
                });
                Ok(Some(Break {
                    file: found.path,
                    number,
                    fault,
                }))
            }
        }
    }

    fn collect_relations(&mut self, segment: &Segment) -> Result<(), SpoolError> {
        let bytes = segment.map.published();
        let (number, segment_bytes) = (segment.header.number, segment.header.segment_bytes);
        for block in &segment.index().relation_blocks {
            let offset = block.offset(segment_bytes);
            let fault = |fault: Fault| fault.in_file(&segment.path);
            let frame = Frame::parse(bytes, offset, *block).map_err(fault)?;
            let toc = bytes.get(frame.toc).unwrap_or_default();
            let mut entries = TocReader::new(toc, *block, frame.raw_len, frame.entries);
            while let Some(entry) = entries.next_entry().map_err(fault)? {
                if let Entry::Relation { id, message } = entry {
                    self.relations.push(Declared {
                        id,
                        message: message.into(),
                        segment: number,
                    });
                }
            }
        }
        Ok(())
    }

    /// Torn tail or rot?
    fn judge(&self, dir: &Path, first_bad: Break) -> Result<(), SpoolError> {
        let known = self.sealed.first().map(|s| s.header.segment_bytes);
        let Some(segment_bytes) = known.or(self.tail.as_ref().map(|t| t.header.segment_bytes)) else {
            // Not one good header. Segments' first bytes are written before anything else of them.
            return self.judge_without_header(dir, first_bad);
        };
        let cut = self.tail.as_ref().map_or(0, |tail| tail.cursor);
        let cut = SpoolPos::at(first_bad.number, segment_bytes, cut);
        let mut claim = SpoolPos::default();
        if self.last_is_vouched() {
            let last = self.sealed.last().map_or(0, |s| s.header.number);
            claim = SpoolPos::at(last + 1, segment_bytes, HEADER);
        }
        if let Some(tail) = &self.tail {
            let (bytes, used) = tail.bytes()?;
            if Frame::parse(&bytes, tail.cursor, cut).is_ok() {
                // It was half there and is whole now: a writer is at work, and this was its end.
                return Ok(());
            }
            claim = claim.max(highest_claim(
                &bytes,
                tail.header.number,
                segment_bytes,
                tail.cursor..used,
            ));
        }
        for number in &self.doomed {
            let path = segment::segment_path(dir, *number);
            let bytes = fs::read(&path).map_err(SpoolError::io("read", &path))?;
            claim = claim.max(highest_claim(&bytes, *number, segment_bytes, HEADER..bytes.len()));
        }
        // A writer at work may have put the missing frame there after we looked, and then claimed it.
        if claim > cut && !self.came_meanwhile(cut)? {
            return Err(first_bad.fault.in_file(&first_bad.file));
        }
        Ok(())
    }

    /// Whether the frame that was missing at the tail's end is whole now.
    fn came_meanwhile(&self, cut: SpoolPos) -> Result<bool, SpoolError> {
        let Some(tail) = &self.tail else {
            return Ok(false);
        };
        Ok(Frame::parse(&tail.bytes()?.0, tail.cursor, cut).is_ok())
    }

    fn judge_without_header(&self, dir: &Path, first_bad: Break) -> Result<(), SpoolError> {
        for number in &self.doomed {
            let path = segment::segment_path(dir, *number);
            let bytes = fs::read(&path).map_err(SpoolError::io("read", &path))?;
            if bytes.get(HEADER..).unwrap_or_default().iter().any(|b| *b != 0) {
                return Err(first_bad.fault.in_file(&first_bad.file));
            }
        }
        Ok(())
    }

    /// Makes the directory what the survey says it is, durably. Needs the directory's lock.
    ///
    /// 1. Remove what is behind the cut, last first, sidecars before segments.
    /// 2. Zero the tail behind the cut, so that no old frame can be taken for a new one.
    /// 3. Sync tail, unvouched segments and directory: what a killed process wrote may not be on disk.
    pub fn repair(&mut self, dir: &Path) -> Result<Option<(Arc<Segment>, MapWriter)>, SpoolError> {
        for number in self.doomed.drain(..).rev() {
            segment::remove(&segment::index_path(dir, number))?;
            segment::remove(&segment::segment_path(dir, number))?;
        }
        let mut open_tail = None;
        if let Some(tail) = &self.tail {
            let file = segment::open_file(&tail.path, true)?;
            // A copied directory may have holes.
            segment::allocate(&file, tail.header.segment_bytes, &tail.path)?;
            let mut writer = Map::writable(&file, tail.header.segment_bytes as usize)
                .map_err(SpoolError::io("map", &tail.path))?;
            writer.publish(tail.cursor);
            let used = segment::used_len(&file, tail.cursor, tail.header.segment_bytes as usize)
                .map_err(SpoolError::io("read", &tail.path))?;
            writer.clear(tail.cursor, used);
            let map = Arc::clone(writer.map());
            let segment = Segment::new(
                tail.header.clone(),
                tail.path.clone(),
                file,
                map,
                tail.index.clone(),
            );
            segment.sync()?;
            open_tail = Some((Arc::new(segment), writer));
        }
        for segment in self.unvouched() {
            segment.sync()?;
        }
        segment::sync_dir(dir)?;
        Ok(open_tail)
    }

    /// Writes missing sidecars, which say that their segment and the next one's file are durable: call this
    /// once that is so.
    pub fn vouch(&self, dir: &Path) -> Result<(), SpoolError> {
        for segment in self.unvouched() {
            segment.index().store(dir, &segment.header)?;
        }
        Ok(())
    }

    fn unvouched(&self) -> impl Iterator<Item = &Segment> {
        self.unvouched.iter().filter_map(|i| self.sealed.get(*i))
    }

    /// Whether the last sealed segment has a sidecar.
    fn last_is_vouched(&self) -> bool {
        let last = self.sealed.len().checked_sub(1);
        last.is_some_and(|last| !self.unvouched.contains(&last))
    }

    /// The tail as far as it is good, for looking only.
    pub fn tail_for_reading(&mut self) -> Result<Option<Arc<Segment>>, SpoolError> {
        let Some(tail) = self.tail.take() else {
            return Ok(None);
        };
        let map = Map::read_only(&tail.file, tail.header.segment_bytes as usize, tail.cursor)
            .map_err(SpoolError::io("map", &tail.path))?;
        Ok(Some(Arc::new(Segment::new(
            tail.header,
            tail.path,
            tail.file,
            map,
            tail.index,
        ))))
    }
}

fn open(found: &Candidate) -> Result<File, SpoolError> {
    found
        .file
        .try_clone()
        .map_err(SpoolError::io("open", &found.path))
}

/// The farthest position that any whole frame that begins `within` says was durable.
fn highest_claim(bytes: &[u8], number: u64, segment_bytes: u64, within: Range<usize>) -> SpoolPos {
    let mut highest = SpoolPos::default();
    let mut offset = within.start.next_multiple_of(8);
    while offset < within.end {
        let position = SpoolPos::at(number, segment_bytes, offset);
        // The frame's own position is a filter that next to nothing passes by chance.
        let own = bytes.get(offset + 24..).and_then(|b| Fields::new(b).u64());
        let frame = match own == Some(position.as_u64()) {
            true => Frame::parse(bytes, offset, position).ok(),
            false => None,
        };
        highest = highest.max(frame.as_ref().map_or(highest, |f| f.durable));
        offset = frame.map_or(offset + 8, |f| f.next);
    }
    highest
}

/// Fields of an identity that say which server it was.
pub(super) const SYSTEM: &str = "system identifier";
pub(super) const TIMELINE: &str = "timeline";

fn check_identity(dir: &Path, expected: &Identity, found: &Identity) -> Result<(), SpoolError> {
    // Whose it is before where it comes from: a spool of this queue and slot from a former server may be
    // dropped where nothing depends on it, somebody else's never.
    let fields = [
        ("queue", expected.queue.to_string(), found.queue.to_string()),
        ("slot", expected.slot.to_string(), found.slot.to_string()),
        ("database", expected.database.clone(), found.database.clone()),
        (
            SYSTEM,
            expected.system_id.to_string(),
            found.system_id.to_string(),
        ),
        (
            TIMELINE,
            expected.timeline.to_string(),
            found.timeline.to_string(),
        ),
    ];
    for (field, expected, found) in fields {
        if expected != found {
            return Err(SpoolError::Identity {
                field,
                expected,
                found,
                dir: dir.to_owned(),
            });
        }
    }
    Ok(())
}
