//! Memory that the kernel copies files into at full speed.
//!
//! It copies with `rep movsb`, and some processors (AMD's Zen 3 for one) do that at a sixth of their speed where the
//! target lies 1 to 31 bytes further in its page than the source does. A file's bytes begin at a page in the kernel's
//! cache, and `malloc` gives large buffers out 16 bytes behind a page's start. Memory here begins at a page.

use std::io::{self, Read};
use std::ops::{Deref, Range};

use bytes::Bytes;

const PAGE: usize = 4096;

/// A buffer of a size that stays, and what was read into it.
#[derive(Debug, Default)]
pub struct PageBuffer {
    memory: Vec<u8>,
    start: usize,
    filled: usize,
}

impl PageBuffer {
    pub fn new(bytes: usize) -> PageBuffer {
        let memory = vec![0; bytes + PAGE];
        // It may refuse to say; then the buffer is only slow.
        let start = memory.as_ptr().align_offset(PAGE).min(PAGE);
        PageBuffer {
            memory,
            start,
            filled: 0,
        }
    }

    /// Takes what comes next, in place of what was here: until the buffer is full or the source ends.
    pub fn fill(&mut self, source: &mut impl Read) -> io::Result<&[u8]> {
        self.filled = 0;
        let end = self.memory.len() - (PAGE - self.start);
        while let Some(room) = self.memory.get_mut(self.start + self.filled..end)
            && !room.is_empty()
        {
            match source.read(room) {
                Ok(0) => break,
                Ok(read) => self.filled += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(self)
    }

    /// What was read, without copying it.
    pub fn into_bytes(self) -> Bytes {
        let Range { start, end } = self.range();
        Bytes::from(self.memory).slice(start..end)
    }

    fn range(&self) -> Range<usize> {
        self.start..self.start + self.filled
    }
}

impl Deref for PageBuffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.memory.get(self.range()).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_filled_from_a_pages_start_and_again() {
        let mut buffer = PageBuffer::new(5);
        assert_eq!((&buffer[..], buffer.start < PAGE), (&b""[..], true));
        let mut source = (&b"abc"[..]).chain(&b"defgh"[..]);
        assert_eq!(buffer.fill(&mut source).unwrap(), b"abcde");
        assert_eq!(buffer.as_ptr() as usize % PAGE, 0);
        assert_eq!(buffer.fill(&mut source).unwrap(), b"fgh");
        assert_eq!(buffer.into_bytes(), b"fgh"[..]);
        assert_eq!(PageBuffer::new(0).fill(&mut &b"a"[..]).unwrap(), b"");
    }
}
