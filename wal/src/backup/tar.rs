//! The server's tar archives, read as they come: bytes in any pieces go in, entries come out.
//!
//! A server writes ustar headers with names of at most 99 bytes, files, directories and symbolic links, and numbers
//! beyond eight gigabytes in base 256 (`port/tar.c`). Up to 14 the two blocks of zeros at the end are missing.

const BLOCK: usize = 512;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TarError {
    #[error("the archive has a header with a wrong checksum at byte {at}")]
    Checksum { at: u64 },
    #[error("the archive has a header that makes no sense at byte {at}: {what}")]
    Header { at: u64, what: &'static str },
    #[error("the archive has {name:?}, which is neither file, directory nor link")]
    Kind { name: String },
    #[error("the archive ends in the middle of {name:?}")]
    CutOff { name: String },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EntryKind {
    File { bytes: u64 },
    Dir,
    Link { target: String },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub name: String,
    pub kind: EntryKind,
    /// Seconds since 1970.
    pub modified: u64,
}

#[derive(Debug, PartialEq, Eq)]
pub enum Event<'a> {
    Entry(Entry),
    /// Bytes of the file whose entry came last.
    Data(&'a [u8]),
    /// That file is whole. Comes for an empty one, too.
    End,
}

#[derive(Debug)]
enum State {
    Header,
    /// Content and padding to come.
    File {
        left: u64,
        padding: usize,
    },
    Padding(usize),
}

/// Reads one archive.
#[derive(Debug)]
pub struct TarReader {
    state: State,
    header: Vec<u8>,
    /// Bytes read so far.
    at: u64,
    name: String,
}

impl Default for TarReader {
    fn default() -> Self {
        TarReader {
            state: State::Header,
            header: Vec::with_capacity(BLOCK),
            at: 0,
            name: String::new(),
        }
    }
}

impl TarReader {
    /// Takes from the front of `input` what makes the next event; `None`: all of it was taken.
    pub fn next<'i>(&mut self, input: &mut &'i [u8]) -> Result<Option<Event<'i>>, TarError> {
        loop {
            match &mut self.state {
                State::File { left: 0, padding } => {
                    self.state = State::Padding(*padding);
                    return Ok(Some(Event::End));
                }
                State::File { left, padding } => {
                    if input.is_empty() {
                        return Ok(None);
                    }
                    let count = usize::try_from(*left).map_or(input.len(), |left| left.min(input.len()));
                    let (left, padding) = (*left - count as u64, *padding);
                    let data = self.take(input, count);
                    self.state = State::File { left, padding };
                    return Ok(Some(Event::Data(data)));
                }
                State::Padding(0) => self.state = State::Header,
                State::Padding(left) => {
                    if input.is_empty() {
                        return Ok(None);
                    }
                    let count = (*left).min(input.len());
                    let left = *left - count;
                    self.take(input, count);
                    self.state = State::Padding(left);
                }
                State::Header => {
                    if input.is_empty() {
                        return Ok(None);
                    }
                    let count = (BLOCK - self.header.len()).min(input.len());
                    let part = self.take(input, count);
                    self.header.extend_from_slice(part);
                    if self.header.len() == BLOCK
                        && let Some(entry) = self.parse()?
                    {
                        return Ok(Some(Event::Entry(entry)));
                    }
                }
            }
        }
    }

    /// The archive has come to its end.
    pub fn finish(self) -> Result<(), TarError> {
        match self.state {
            State::Header if self.header.is_empty() => Ok(()),
            State::Padding(0) => Ok(()),
            _ => Err(TarError::CutOff { name: self.name }),
        }
    }

    fn take<'i>(&mut self, input: &mut &'i [u8], count: usize) -> &'i [u8] {
        let (taken, rest) = input.split_at_checked(count).unwrap_or((input, &[]));
        *input = rest;
        self.at += taken.len() as u64;
        taken
    }

    /// The whole header; `None` for a block of zeros.
    fn parse(&mut self) -> Result<Option<Entry>, TarError> {
        let at = self.at - BLOCK as u64;
        let header = std::mem::replace(&mut self.header, Vec::with_capacity(BLOCK));
        if header.iter().all(|byte| *byte == 0) {
            return Ok(None);
        }
        let bad = |what| TarError::Header { at, what };
        let field = |from: usize, count: usize| header.get(from..from + count).unwrap_or_default();
        let sum: u64 = header
            .iter()
            .enumerate()
            .map(|(index, byte)| match index {
                148..156 => u64::from(b' '),
                _ => u64::from(*byte),
            })
            .sum();
        if number(field(148, 8)) != Some(sum) {
            return Err(TarError::Checksum { at });
        }
        let name = text(field(0, 100)).ok_or(bad("a name that is no text"))?;
        if !is_inside(name) {
            return Err(bad("a name that leads elsewhere"));
        }
        self.name = name.to_owned();
        let bytes = number(field(124, 12)).ok_or(bad("a size that is no number"))?;
        let kind = match field(156, 1) {
            b"0" | b"\0" => EntryKind::File { bytes },
            b"5" => EntryKind::Dir,
            b"2" => EntryKind::Link {
                target: text(field(157, 100))
                    .ok_or(bad("a link that is no text"))?
                    .to_owned(),
            },
            _ => {
                return Err(TarError::Kind {
                    name: self.name.clone(),
                });
            }
        };
        let left = match kind {
            EntryKind::File { bytes } => bytes,
            _ => 0,
        };
        let over = usize::try_from(left % BLOCK as u64).unwrap_or(0);
        self.state = match kind {
            EntryKind::File { .. } => State::File {
                left,
                padding: (BLOCK - over) % BLOCK,
            },
            _ => State::Header,
        };
        Ok(Some(Entry {
            name: self
                .name
                .trim_end_matches('/')
                .trim_start_matches("./")
                .to_owned(),
            kind,
            modified: number(field(136, 12)).unwrap_or(0),
        }))
    }
}

/// A relative path that stays below where it begins.
pub fn is_inside(name: &str) -> bool {
    !name.is_empty()
        && !name.starts_with('/')
        && !name.contains('\0')
        && name.split('/').all(|part| part != "..")
}

fn text(field: &[u8]) -> Option<&str> {
    let text = field.split(|byte| *byte == 0).next()?;
    std::str::from_utf8(text).ok()
}

/// Octal digits, or base 256 where the first bit is set.
fn number(field: &[u8]) -> Option<u64> {
    let (first, rest) = field.split_first()?;
    if first & 0x80 != 0 {
        let (high, low) = rest.split_at_checked(rest.len().checked_sub(8)?)?;
        if high.iter().any(|byte| *byte != 0) || first & 0x7F != 0 {
            return None;
        }
        return Some(u64::from_be_bytes(low.try_into().ok()?));
    }
    let digits = std::str::from_utf8(field).ok()?;
    let digits = digits.trim_matches(|c| c == ' ' || c == '\0');
    match digits.is_empty() {
        true => Some(0),
        false => u64::from_str_radix(digits, 8).ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn header(name: &str, kind: u8, size: &[u8], target: &str) -> Vec<u8> {
        let mut block = vec![0; BLOCK];
        let mut put = |at: usize, bytes: &[u8]| block[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, name.as_bytes());
        put(124, size);
        put(136, b"00000000017 ");
        put(148, b"        ");
        put(156, &[kind]);
        put(157, target.as_bytes());
        put(257, b"ustar\x0000");
        let sum: u64 = block.iter().map(|byte| u64::from(*byte)).sum();
        block[148..156].copy_from_slice(format!("{sum:07o}\0").as_bytes());
        block
    }

    fn archive() -> Vec<u8> {
        let mut bytes = header("PG_VERSION", b'0', b"00000000003 ", "");
        bytes.extend(b"15\n");
        bytes.resize(2 * BLOCK, 0);
        bytes.extend(header("base", b'5', b"00000000000 ", ""));
        bytes.extend(header("pg_tblspc/16385", b'2', b"00000000000 ", "/srv/ts"));
        bytes.extend(header("empty", b'0', b"00000000000 ", ""));
        bytes.extend(header("page", b'0', b"00000001000 ", ""));
        bytes.extend([7; BLOCK]);
        bytes
    }

    /// Names and contents, fed in pieces of this size.
    fn read(bytes: &[u8], piece: usize) -> Result<Vec<(String, EntryKind, Vec<u8>)>, TarError> {
        let mut reader = TarReader::default();
        let mut found: Vec<(String, EntryKind, Vec<u8>)> = Vec::new();
        for mut piece in bytes.chunks(piece) {
            while let Some(event) = reader.next(&mut piece)? {
                match event {
                    Event::Entry(entry) => found.push((entry.name, entry.kind, Vec::new())),
                    Event::Data(data) => found.last_mut().unwrap().2.extend(data),
                    Event::End => {}
                }
            }
        }
        reader.finish()?;
        Ok(found)
    }

    #[test]
    fn pieces_do_not_matter() {
        let whole = archive();
        let wanted = read(&whole, whole.len()).unwrap();
        assert_eq!(wanted.len(), 5);
        assert_eq!(wanted[0].2, b"15\n");
        assert_eq!(
            wanted[2].1,
            EntryKind::Link {
                target: "/srv/ts".into()
            }
        );
        for piece in [1, 7, 511, 512, 513, 1000] {
            assert_eq!(read(&whole, piece).unwrap(), wanted, "pieces of {piece}");
        }
        let mut ended = whole.clone();
        ended.extend([0; 2 * BLOCK]);
        assert_eq!(read(&ended, 300).unwrap(), wanted);
        assert!(matches!(
            read(&whole[..whole.len() - 1], 512),
            Err(TarError::CutOff { .. })
        ));
    }

    #[test]
    fn large_sizes_and_bad_names() {
        let mut size = [0; 12];
        size[0] = 0x80;
        size[4..].copy_from_slice(&(20_u64 << 30).to_be_bytes());
        let big = header("big", b'0', &size, "");
        let mut reader = TarReader::default();
        let event = reader.next(&mut &big[..]).unwrap().unwrap();
        let Event::Entry(entry) = event else { panic!() };
        assert_eq!(entry.kind, EntryKind::File { bytes: 20 << 30 });
        for name in ["/etc/passwd", "../x", "a/../../b"] {
            assert!(read(&header(name, b'5', b"0", ""), 512).is_err(), "{name}");
        }
        let mut flipped = header("x", b'5', b"0", "");
        flipped[3] ^= 1;
        assert_eq!(read(&flipped, 512), Err(TarError::Checksum { at: 0 }));
        assert!(matches!(
            read(&header("x", b'3', b"0", ""), 512),
            Err(TarError::Kind { .. })
        ));
    }

    proptest! {
        #[test]
        fn any_bytes_are_an_archive_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..2000), piece in 1usize..600) {
            let _ = read(&bytes, piece);
        }
    }
}
