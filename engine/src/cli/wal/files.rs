//! Which files hold the WAL that was asked for, in order.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use anyhow::Context;
use skytide_sql::Lsn;
use skytide_wal::format::page::LongHeader;
use skytide_wal::pack::{self, Index};
use skytide_wal::page_buffer::PageBuffer;
use skytide_wal::{
    Decoder, Expected, HistoryFile, Record, SegmentName, SegmentNo, SegmentSize, TimelineId, Timelines,
    WalError, WalFileName,
};

use crate::causes;
use crate::cli::failure::Failure;

const ZSTD: &str = ".zst";

/// Files are read in pieces that stay in the processor's cache until their records have been looked at.
const CHUNK_BYTES: usize = 256 << 10;

/// A position as the user names it.
#[derive(Clone, Copy, Debug)]
pub enum Bound {
    Lsn(Lsn),
    Segment(SegmentName),
}

impl FromStr for Bound {
    type Err = String;

    fn from_str(text: &str) -> Result<Bound, String> {
        let segment = || text.parse().map(Bound::Segment);
        let lsn = text.parse().map(Bound::Lsn);
        lsn.or_else(|_| segment())
            .map_err(|_| "neither an LSN (0/1500000) nor a segment's name".to_owned())
    }
}

/// What was asked for, half-open.
#[derive(Clone, Copy, Debug)]
pub struct Range {
    pub start: Lsn,
    pub end: Lsn,
}

/// One file of the sequence.
#[derive(Clone, Debug)]
pub struct WalFile {
    pub path: PathBuf,
    pub name: SegmentName,
    pub number: SegmentNo,
    /// Its name says that it was not finished.
    pub partial: bool,
    zstd: bool,
}

impl WalFile {
    fn of(path: &Path) -> Option<(WalFileName, bool)> {
        let name = path.file_name()?.to_str()?;
        let (name, zstd) = match name.strip_suffix(ZSTD) {
            Some(name) => (name, true),
            None => (name, false),
        };
        Some((name.parse().ok()?, zstd))
    }

    fn open(&self) -> io::Result<Box<dyn Read>> {
        let file = File::open(&self.path)?;
        Ok(match self.zstd {
            true => Box::new(zstd::stream::read::Decoder::new(file)?),
            false => Box::new(file),
        })
    }

    /// The file's first bytes; fewer, if it cannot be decompressed.
    fn read_up_to(&self, limit: u64, into: &mut Vec<u8>) -> anyhow::Result<()> {
        into.clear();
        match self.open().and_then(|file| file.take(limit).read_to_end(into)) {
            Err(error) if self.is_damage(&error) => Ok(()),
            read => read
                .map(drop)
                .with_context(|| format!("read {}", self.path.display())),
        }
    }

    /// The system had no trouble: what it gave cannot be decompressed.
    fn is_damage(&self, error: &io::Error) -> bool {
        self.zstd && error.raw_os_error().is_none()
    }

    /// What the store that made a packed file noted in it.
    fn index(&self) -> Option<Index> {
        let packed = fs::read(&self.path).ok().filter(|_| self.zstd)?;
        Index::parse(&packed).ok()
    }

    /// The bytes of a file that a store packed, or what is wrong with it and where. `None`: no store did.
    fn unpacked(&self, size: SegmentSize) -> io::Result<Option<Result<Vec<u8>, String>>> {
        if !self.zstd {
            return Ok(None);
        }
        let packed = fs::read(&self.path)?;
        if !pack::is_packed(&packed) {
            return Ok(None);
        }
        let error = match pack::unpack(&packed) {
            Ok((_, bytes)) => return Ok(Some(Ok(bytes))),
            Err(error) => error,
        };
        let place = error
            .frame()
            .and_then(|frame| Some((frame, Index::parse(&packed).ok()?.frame(frame)?)));
        let what = causes::chain(&error);
        Ok(Some(Err(match place {
            Some((frame, bytes)) => format!(
                "{what}; it lies in bytes {} to {} of the file and has the WAL from {} on",
                bytes.start,
                bytes.end,
                Lsn::new(self.number.start(size).as_u64() + (frame * pack::FRAME_BYTES) as u64)
            ),
            None => what,
        })))
    }
}

/// The files of one timeline and its ancestors.
pub struct Source {
    pub size: SegmentSize,
    pub timeline: TimelineId,
    pub timelines: Timelines,
    /// By number, without the ones behind the end of the WAL.
    pub files: Vec<WalFile>,
    /// Files prepared for later: their names say more than their content.
    pub prepared: usize,
    pub system_id: Option<u64>,
}

impl Source {
    pub fn open(path: &Path, timeline: Option<TimelineId>) -> anyhow::Result<Source> {
        let listed = list(path)?;
        let mut segments = Vec::new();
        let mut histories = Vec::new();
        for path in listed {
            match WalFile::of(&path) {
                Some((WalFileName::Segment(name), zstd)) => segments.push((path, name, false, zstd)),
                Some((WalFileName::Partial(name), zstd)) => segments.push((path, name, true, zstd)),
                Some((WalFileName::History(timeline), false)) => histories.push((timeline, path)),
                _ => {}
            }
        }
        let newest = segments.iter().map(|segment| segment.1.timeline()).max();
        let Some(timeline) = timeline.or(newest) else {
            return Err(Failure::usage(format!("no WAL segments in {}", path.display()))
                .hint("Name a directory such as pg_wal, or a file with a segment's name (24 hexadecimal digits).")
                .into());
        };
        let history = match histories.iter().find(|(of, _)| *of == timeline) {
            Some((_, path)) => {
                let text = fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
                Some(HistoryFile::parse(timeline, &text)?)
            }
            None => None,
        };
        let mut files: Vec<WalFile> = segments
            .into_iter()
            .map(|(path, name, partial, zstd)| WalFile {
                path,
                name,
                number: SegmentNo::new(0),
                partial,
                zstd,
            })
            .collect();
        let size = segment_size(&files, path)?;
        files.retain_mut(|file| {
            let number = file.name.number(size);
            file.number = number.unwrap_or(file.number);
            number.is_some()
        });
        let mut source = Source {
            size,
            timeline,
            files: lineage(files, timeline, history.as_ref(), size),
            timelines: match history {
                Some(history) => Timelines::Of(Arc::new(history)),
                None => Timelines::UpTo(timeline),
            },
            prepared: 0,
            system_id: None,
        };
        source.look_at_headers()?;
        Ok(source)
    }

    /// Learns the system's id from the first file, and leaves out files at the end that hold no WAL of their name yet.
    fn look_at_headers(&mut self) -> anyhow::Result<()> {
        let mut start = Vec::new();
        for file in &self.files {
            file.read_up_to(64, &mut start)?;
            self.system_id = match LongHeader::peek(&start) {
                Some((_, long, _)) => Some(long.system_id),
                None => file.index().map(|index| index.contents().system_id),
            };
            if self.system_id.is_some() {
                break;
            }
        }
        while self.files.len() > 1
            && let Some(last) = self.files.last()
        {
            last.read_up_to(64, &mut start)?;
            // One that cannot be decompressed is damaged, and not prepared.
            let blank = !start.is_empty() && start.iter().all(|&byte| byte == 0);
            let other = LongHeader::peek(&start)
                .is_some_and(|(page, ..)| page.address != last.number.start(self.size));
            if !blank && !other {
                break;
            }
            self.files.pop();
            self.prepared += 1;
        }
        Ok(())
    }

    pub fn range(&self, start: Option<Bound>, end: Option<Bound>) -> anyhow::Result<Range> {
        let number = |name: SegmentName| {
            let hint = "Its last field is too large for the segment size of these files.";
            name.number(self.size)
                .ok_or_else(|| Failure::usage(format!("{name} is no segment of this cluster")).hint(hint))
        };
        let range = Range {
            start: match start {
                None => Lsn::INVALID,
                Some(Bound::Lsn(lsn)) => lsn,
                Some(Bound::Segment(name)) => number(name)?.start(self.size),
            },
            end: match end {
                None => Lsn::new(u64::MAX),
                Some(Bound::Lsn(lsn)) => lsn,
                Some(Bound::Segment(name)) => number(name)?.end(self.size),
            },
        };
        if range.start >= range.end {
            let message = format!("nothing lies between {} and {}", range.start, range.end);
            return Err(Failure::usage(message).into());
        }
        Ok(range)
    }

    pub fn expected(&self) -> Expected {
        Expected {
            system_id: self.system_id,
            timelines: self.timelines.clone(),
            ..Expected::default()
        }
    }

    /// Those of the files that hold WAL of the range.
    pub fn files_in(&self, range: Range) -> impl Iterator<Item = &WalFile> {
        self.files.iter().filter(move |file| {
            file.number.end(self.size) > range.start && file.number.start(self.size) < range.end
        })
    }

    /// A place for a whole file.
    pub fn buffer(&self) -> PageBuffer {
        PageBuffer::new(usize::try_from(self.size.bytes()).unwrap_or(usize::MAX))
    }

    /// The whole file, at most a segment of it. `Err` in it: what is wrong with its packing.
    pub fn read<'a>(
        &self,
        file: &WalFile,
        into: &'a mut PageBuffer,
    ) -> anyhow::Result<Result<&'a [u8], String>> {
        let context = || format!("read {}", file.path.display());
        let filled = match file.unpacked(self.size).with_context(context)? {
            Some(Ok(bytes)) => into.fill(&mut &bytes[..]).map(drop),
            Some(Err(what)) => return Ok(Err(what)),
            None => file
                .open()
                .and_then(|mut opened| into.fill(&mut opened).map(drop)),
        };
        match filled {
            Err(error) if file.is_damage(&error) => {
                let bytes = into.len() as u64;
                let lsn = Lsn::new(file.number.start(self.size).as_u64() + bytes);
                Ok(Err(format!(
                    "it cannot be decompressed behind byte {bytes} of its WAL, at {lsn}: {error}"
                )))
            }
            filled => filled.map(|()| Ok(&**into)).with_context(context),
        }
    }

    /// Hands out the records that begin in the range, until `take` has enough. Says where and why reading stopped.
    pub fn records(
        &self,
        range: Range,
        mut take: impl FnMut(&Record<'_>) -> anyhow::Result<Flow>,
    ) -> anyhow::Result<Stop> {
        let mut decoder: Option<Decoder> = None;
        let mut chunk = PageBuffer::new(CHUNK_BYTES);
        for file in self.files_in(range) {
            let start = file.number.start(self.size);
            let decoder = match &mut decoder {
                Some(decoder) if decoder.position() == start => decoder,
                // The first file, or one behind a gap.
                other => match other.as_ref().map(Decoder::position) {
                    Some(from) => return Ok(Stop::Gap { from, to: start }),
                    None => other.insert(Decoder::new(start, self.size, self.expected())),
                },
            };
            let failed = || format!("read {}", file.path.display());
            let mut bytes = file.open().with_context(failed)?.take(self.size.bytes());
            loop {
                let some = chunk.fill(&mut bytes).with_context(failed)?;
                if some.is_empty() {
                    break;
                }
                let mut feed = decoder.feed(some);
                loop {
                    match feed.next_record() {
                        Ok(Some(record)) if record.lsn < range.start => {}
                        Ok(Some(record)) if record.lsn >= range.end => return Ok(Stop::Asked),
                        Ok(Some(record)) => {
                            if take(&record)? == Flow::Enough {
                                return Ok(Stop::Asked);
                            }
                        }
                        Ok(None) => break,
                        Err(error) => {
                            let more = self.files.last().is_some_and(|last| last.number > file.number);
                            return Ok(Stop::Unreadable { error, more });
                        }
                    }
                }
            }
        }
        let end = decoder.as_ref().and_then(Decoder::record_boundary);
        Ok(Stop::End { end })
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Flow {
    Next,
    Enough,
}

/// Why there are no more records.
#[derive(Debug)]
pub enum Stop {
    /// The range is over.
    Asked,
    /// The files are.
    End {
        end: Option<Lsn>,
    },
    Gap {
        from: Lsn,
        to: Lsn,
    },
    /// `more`: a later file holds WAL, so this is not where it ends.
    Unreadable {
        error: WalError,
        more: bool,
    },
}

impl Stop {
    pub fn is_damage(&self) -> bool {
        matches!(self, Stop::Gap { .. } | Stop::Unreadable { more: true, .. })
    }

    pub fn describe(&self) -> Option<String> {
        match self {
            Stop::Asked => None,
            Stop::End { end: Some(end) } => Some(format!("the files end; the last record ends at {end}")),
            Stop::End { end: None } => Some("the files end without a whole record".to_owned()),
            Stop::Gap { from, to } => Some(format!("the WAL from {from} to {to} is missing")),
            Stop::Unreadable { error, more: false } => Some(format!("WAL ends: {error}")),
            Stop::Unreadable { error, more: true } => Some(format!("damaged: {error}")),
        }
    }
}

fn list(path: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let what = || format!("read {}", path.display());
    if !fs::metadata(path).with_context(what)?.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let mut paths = Vec::new();
    for entry in fs::read_dir(path).with_context(what)? {
        paths.push(entry.with_context(what)?.path());
    }
    paths.sort();
    Ok(paths)
}

/// As a file's own header says; the files are asked until one has one.
fn segment_size(files: &[WalFile], path: &Path) -> anyhow::Result<SegmentSize> {
    let mut start = Vec::new();
    for file in files {
        file.read_up_to(64, &mut start)?;
        if let Some((_, _, size)) = LongHeader::peek(&start) {
            return Ok(size);
        }
        // Of a file whose first frame is damaged.
        let size = file.index().map(|index| index.contents().segment_bytes);
        if let Some(size) = size.and_then(SegmentSize::new) {
            return Ok(size);
        }
    }
    Err(Failure::new(format!(
        "no file in {} begins with a WAL page header",
        path.display()
    ))
    .detail("A segment's first page says how large segments are; without one nothing can be read.")
    .into())
}

/// For each segment the file that recovery to `timeline` would take: of the newest timeline that had begun by then,
/// a finished one before a partial one.
fn lineage(
    files: Vec<WalFile>,
    timeline: TimelineId,
    history: Option<&HistoryFile>,
    size: SegmentSize,
) -> Vec<WalFile> {
    let mut best: BTreeMap<SegmentNo, WalFile> = BTreeMap::new();
    for file in files {
        let of = file.name.timeline();
        let fits = match history {
            Some(history) => {
                history.range_of(of).is_some() && of <= history.owner_of_segment(file.number, size)
            }
            None => of <= timeline,
        };
        let rank = |file: &WalFile| (file.name.timeline(), !file.partial, !file.zstd);
        let better = best
            .get(&file.number)
            .is_none_or(|other| rank(other) < rank(&file));
        if fits && better {
            best.insert(file.number, file);
        }
    }
    best.into_values().collect()
}
