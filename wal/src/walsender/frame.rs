//! Finds whole messages in the byte stream: a type byte, an Int32 length that counts itself, a body.
//!
//! No I/O here. Bytes are appended as they come and messages handed out where they lie, so nothing is
//! copied, and a reader dropped half-way through a message has lost nothing.

use bytes::{Buf, BytesMut};

/// Enough for the kernel's socket buffer to be emptied in one call.
pub const READ_BYTES: usize = 256 * 1024;
/// A buffer that one huge message has blown up beyond this is given back afterwards.
const KEEP_BYTES: usize = 4 * READ_BYTES;
const HEADER_BYTES: usize = 5;

const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;
/// The server builds a message in one allocation, which it limits to 1 GiB.
const LARGEST: usize = 1024 * MIB + KIB;

/// The largest body each message may have. What is not listed does not belong here.
const fn largest_body(tag: u8) -> Option<usize> {
    Some(match tag {
        b'd' | b'D' => LARGEST,         // CopyData, DataRow
        b'E' | b'N' => 16 * MIB,        // ErrorResponse, NoticeResponse: may quote a statement
        b'T' | b'S' => MIB,             // RowDescription, ParameterStatus
        b'R' | b'A' | b'v' => 64 * KIB, // Authentication, NotificationResponse, NegotiateProtocolVersion
        b'W' | b'G' | b'H' => 16 * KIB, // CopyBothResponse, CopyInResponse, CopyOutResponse
        b'C' => 8 * KIB,                // CommandComplete
        b'K' => 512,                    // BackendKeyData: a key of up to 256 bytes from protocol 3.2 on
        b'Z' => 1,                      // ReadyForQuery
        b'c' | b'I' => 0,               // CopyDone, EmptyQueryResponse
        _ => return None,
    })
}

/// The stream is not, or no longer, a sequence of the messages we know.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FrameError {
    #[error("unknown message type {:?} from the server", char::from(*.tag))]
    UnknownType { tag: u8 },
    #[error("message {:?} with length {length} from the server; at most {largest} is legal", char::from(*.tag))]
    BadLength { tag: u8, length: i32, largest: usize },
}

/// One whole message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Frame<'a> {
    pub tag: u8,
    pub body: &'a [u8],
}

/// Bytes received, from which messages are taken.
#[derive(Debug, Default)]
pub struct Frames {
    buffer: BytesMut,
    /// Length of the message handed out last; it goes when the next one is asked for.
    handed_out: usize,
}

impl Frames {
    pub fn new() -> Frames {
        Frames::default()
    }

    /// The next message's type, if all of that message is here.
    pub fn next_tag(&mut self) -> Result<Option<u8>, FrameError> {
        let complete = self.next_len()?.is_some_and(|len| len <= self.buffer.len());
        Ok(complete.then(|| self.buffer.first().copied()).flatten())
    }

    /// Takes the next message, if all of it is here.
    pub fn take(&mut self) -> Result<Option<Frame<'_>>, FrameError> {
        let Some(len) = self.next_len()? else {
            return Ok(None);
        };
        let Some((header, body)) = self
            .buffer
            .get(..len)
            .and_then(|frame| frame.split_at_checked(HEADER_BYTES))
        else {
            return Ok(None);
        };
        self.handed_out = len;
        Ok(header.first().map(|&tag| Frame { tag, body }))
    }

    /// The first `count` bytes of the next message's body, which is all here; fewer, if it has fewer.
    pub fn peek_body(&mut self, count: usize) -> Result<&[u8], FrameError> {
        let len = self.next_len()?.unwrap_or(0).min(HEADER_BYTES + count);
        Ok(self.buffer.get(HEADER_BYTES..len).unwrap_or_default())
    }

    /// Room to read into. The buffer grows with what has come, not with what a header promises.
    pub fn spare(&mut self) -> Result<&mut BytesMut, FrameError> {
        let missing = self
            .next_len()?
            .unwrap_or(HEADER_BYTES)
            .saturating_sub(self.buffer.len());
        if self.buffer.capacity() > KEEP_BYTES && self.buffer.len() < READ_BYTES && missing <= READ_BYTES {
            let mut smaller = BytesMut::with_capacity(self.buffer.len() + READ_BYTES);
            smaller.extend_from_slice(&self.buffer);
            self.buffer = smaller;
        }
        let room = self.buffer.capacity() - self.buffer.len();
        if room < missing || room < READ_BYTES / 4 {
            let affordable = READ_BYTES.max(self.buffer.len());
            self.buffer.reserve(missing.clamp(READ_BYTES, affordable));
        }
        Ok(&mut self.buffer)
    }

    /// Is there a part of a message that has not come whole?
    pub fn is_mid_message(&mut self) -> bool {
        self.drop_handed_out();
        !self.buffer.is_empty()
    }

    /// Length, header included, of the message at the front, once its header is here and legal.
    #[inline]
    fn next_len(&mut self) -> Result<Option<usize>, FrameError> {
        self.drop_handed_out();
        let Some([tag, length @ ..]) = self.buffer.first_chunk::<HEADER_BYTES>() else {
            return Ok(None);
        };
        let (tag, length) = (*tag, i32::from_be_bytes(*length));
        let largest = largest_body(tag).ok_or(FrameError::UnknownType { tag })?;
        match usize::try_from(length) {
            Ok(counted) if counted >= 4 && counted - 4 <= largest => Ok(Some(counted + 1)),
            _ => Err(FrameError::BadLength { tag, length, largest }),
        }
    }

    #[inline]
    fn drop_handed_out(&mut self) {
        self.buffer.advance(self.handed_out);
        self.handed_out = 0;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    type Messages = Vec<(u8, Vec<u8>)>;

    fn encode(tag: u8, body: &[u8]) -> Vec<u8> {
        let mut bytes = vec![tag];
        bytes.extend(i32::try_from(body.len() + 4).unwrap().to_be_bytes());
        bytes.extend(body);
        bytes
    }

    fn drain(frames: &mut Frames, into: &mut Messages) -> Result<(), FrameError> {
        while let Some(frame) = frames.take()? {
            into.push((frame.tag, frame.body.to_vec()));
        }
        Ok(())
    }

    /// All messages, and the error that ended them, when the bytes come in pieces of this size.
    fn fed(bytes: &[u8], piece: usize) -> (Messages, Result<(), FrameError>) {
        let (mut frames, mut found) = (Frames::new(), Vec::new());
        for piece in bytes.chunks(piece) {
            let step = frames
                .spare()
                .map(|room| room.extend_from_slice(piece))
                .and_then(|()| drain(&mut frames, &mut found));
            if step.is_err() {
                return (found, step);
            }
        }
        (found, Ok(()))
    }

    #[test]
    fn lengths_are_checked_before_anything_is_allocated() {
        for (bytes, error) in [
            (
                &b"d\x7f\xff\xff\xff"[..],
                FrameError::BadLength {
                    tag: b'd',
                    length: i32::MAX,
                    largest: LARGEST,
                },
            ),
            (
                b"Z\x00\x00\x00\x06",
                FrameError::BadLength {
                    tag: b'Z',
                    length: 6,
                    largest: 1,
                },
            ),
            (
                b"Z\x00\x00\x00\x03",
                FrameError::BadLength {
                    tag: b'Z',
                    length: 3,
                    largest: 1,
                },
            ),
            (
                b"Z\xff\xff\xff\xff",
                FrameError::BadLength {
                    tag: b'Z',
                    length: -1,
                    largest: 1,
                },
            ),
            (
                b"HTTP/1.1 400",
                FrameError::BadLength {
                    tag: b'H',
                    length: 0x5454_502f,
                    largest: 16 * KIB,
                },
            ),
            (b"?\x00\x00\x00\x04", FrameError::UnknownType { tag: b'?' }),
        ] {
            assert_eq!(fed(bytes, bytes.len()).1, Err(error));
        }
    }

    #[test]
    fn a_promise_of_a_gigabyte_costs_no_gigabyte() {
        let mut frames = Frames::new();
        frames.spare().unwrap().extend_from_slice(b"d\x3f\xff\xff\xff");
        assert!(frames.spare().unwrap().capacity() <= 4 * READ_BYTES);
        assert_eq!(frames.take(), Ok(None));
    }

    #[test]
    fn memory_for_a_huge_message_is_given_back() {
        let mut frames = Frames::new();
        let huge = encode(b'd', &vec![7; 3 * KEEP_BYTES]);
        for piece in huge.chunks(READ_BYTES) {
            frames.spare().unwrap().extend_from_slice(piece);
        }
        assert_eq!(frames.take().unwrap().unwrap().body.len(), 3 * KEEP_BYTES);
        assert!(frames.spare().unwrap().capacity() <= KEEP_BYTES);
    }

    proptest! {
        #[test]
        fn byte_by_byte_is_the_same_as_whole(
            messages in prop::collection::vec((prop::sample::select(&b"dDEC"[..]), prop::collection::vec(any::<u8>(), 0..40)), 0..8),
            tail in prop::collection::vec(any::<u8>(), 0..12),
            piece in 1_usize..20,
        ) {
            let mut bytes: Vec<u8> = messages.iter().flat_map(|(tag, body)| encode(*tag, body)).collect();
            bytes.extend(tail);
            let whole = fed(&bytes, bytes.len().max(1));
            prop_assert_eq!(&fed(&bytes, 1), &whole);
            prop_assert_eq!(&fed(&bytes, piece), &whole);
            prop_assert!(whole.0.starts_with(&messages));
        }
    }
}
