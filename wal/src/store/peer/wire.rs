//! Messages between two hosts, the same in both directions:
//!
//! | at | size | |
//! |---|---|---|
//! | 0 | 1 | what is asked, or how it went |
//! | 1 | 4 | b, bytes of the body |
//! | 5 | 8 | c, bytes of the content |
//! | 13 | 4 | CRC-32C of the content |
//! | 17 | b | the body: names and numbers |
//! | 17 + b | c | the content |

use std::io;
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::super::{Content, MAX_OBJECT_BYTES};

const HEADER: usize = 17;
const MAX_BODY: usize = 64 << 10;
/// Lists and pieces have lengths beside their bytes.
const MAX_CONTENT: u64 = MAX_OBJECT_BYTES + (64 << 20);
/// A link on which nothing moves for so long is dead.
const STALL: Duration = Duration::from_secs(60);
/// As much is asked for at once while content arrives; nothing is allocated on the word of its length.
const STEP: usize = 1 << 20;

macro_rules! codes {
    ($(#[$doc:meta])* $name:ident { $($variant:ident = $code:literal),* $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum $name { $($variant),* }

        impl $name {
            pub fn code(self) -> u8 {
                match self { $($name::$variant => $code),* }
            }

            pub fn from_code(code: u8) -> Option<$name> {
                match code { $($code => Some($name::$variant),)* _ => None }
            }
        }
    };
}

codes! {
    /// What is asked.
    Op {
        Put = 1, Get = 2, GetRange = 3, Head = 4, List = 5, Delete = 6,
        Append = 7, ReadPartial = 8, Partials = 9, DeletePartial = 10,
    }
}

codes! {
    /// How it went.
    Status {
        Done = 100, Missing = 101, Exists = 102, Range = 103, OutOfPlace = 104, Busy = 105,
        Later = 106, Failed = 107,
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    pub code: u8,
    pub body: Vec<u8>,
    pub content: Content,
}

impl Message {
    pub fn new(code: u8, body: Writer, content: Content) -> Message {
        Message {
            code,
            body: body.0,
            content,
        }
    }

    pub fn bare(code: u8, body: Writer) -> Message {
        Message::new(code, body, Content::new(Bytes::new()))
    }

    pub async fn write(&self, stream: &mut (impl AsyncWrite + Unpin)) -> io::Result<()> {
        let too_long = |_| io::Error::from(io::ErrorKind::InvalidInput);
        let mut head = Vec::with_capacity(HEADER + self.body.len());
        head.push(self.code);
        head.extend(u32::try_from(self.body.len()).map_err(too_long)?.to_le_bytes());
        head.extend(self.content.len().to_le_bytes());
        head.extend(self.content.crc().to_le_bytes());
        head.extend(&self.body);
        in_time(stream.write_all(&head)).await?;
        for part in self.content.bytes().chunks(STEP) {
            in_time(stream.write_all(part)).await?;
        }
        in_time(stream.flush()).await
    }

    /// The next message; `None` if the other side has closed between two.
    pub async fn read(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<Message>> {
        let mut code = [0; 1];
        if stream.read(&mut code).await? == 0 {
            return Ok(None);
        }
        let mut header = [0; HEADER - 1];
        in_time(stream.read_exact(&mut header)).await?;
        let invalid = || io::Error::from(io::ErrorKind::InvalidData);
        let mut fields = Fields(&header);
        let body_bytes = fields.u32().ok_or_else(invalid)?;
        let content_bytes = fields.u64().ok_or_else(invalid)?;
        let crc = fields.u32().ok_or_else(invalid)?;
        let body_bytes = usize::try_from(body_bytes).map_err(|_| invalid())?;
        if body_bytes > MAX_BODY || content_bytes > MAX_CONTENT {
            return Err(invalid());
        }
        let mut body = vec![0; body_bytes];
        in_time(stream.read_exact(&mut body)).await?;
        let mut content = Vec::new();
        let mut rest = stream.take(content_bytes);
        loop {
            content.reserve(STEP.min(usize::try_from(rest.limit()).unwrap_or(STEP)));
            if rest.limit() == 0 {
                break;
            }
            if in_time(rest.read_buf(&mut content)).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        let [code] = code;
        let content = Content::checked(content.into(), crc).ok_or_else(invalid)?;
        Ok(Some(Message { code, body, content }))
    }
}

async fn in_time<T>(work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    tokio::time::timeout(STALL, work)
        .await
        .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

/// One question and its answer. The answer may take as long as the other side's disk.
pub async fn exchange(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    request: &Message,
) -> io::Result<Message> {
    request.write(stream).await?;
    in_time(Message::read(stream))
        .await?
        .ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
}

/// Fields of a body, or of a list.
#[derive(Debug, Default)]
pub struct Writer(pub Vec<u8>);

impl Writer {
    pub fn text(mut self, text: &str) -> Writer {
        let length = u16::try_from(text.len()).expect("names are short");
        self.0.extend(length.to_le_bytes());
        self.0.extend(text.as_bytes());
        self
    }

    pub fn u64(mut self, number: u64) -> Writer {
        self.0.extend(number.to_le_bytes());
        self
    }
}

/// Takes fields off the front of untrusted bytes.
#[derive(Debug)]
pub struct Fields<'a>(pub &'a [u8]);

impl<'a> Fields<'a> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (field, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*field)
    }

    fn u32(&mut self) -> Option<u32> {
        self.take().map(u32::from_le_bytes)
    }

    pub fn u64(&mut self) -> Option<u64> {
        self.take().map(u64::from_le_bytes)
    }

    pub fn text(&mut self) -> Option<&'a str> {
        let length = usize::from(u16::from_le_bytes(self.take()?));
        let (text, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        std::str::from_utf8(text).ok()
    }
}

pub fn encode_list<'a>(entries: impl Iterator<Item = (&'a str, u64)>) -> Bytes {
    let list = entries.fold(Writer::default(), |list, (name, bytes)| {
        list.text(name).u64(bytes)
    });
    list.0.into()
}

pub fn decode_list<T>(list: &[u8], entry: impl Fn(&str, u64) -> Option<T>) -> Option<Vec<T>> {
    let mut fields = Fields(list);
    let mut entries = Vec::new();
    while !fields.0.is_empty() {
        entries.push(entry(fields.text()?, fields.u64()?)?);
    }
    Some(entries)
}

pub fn encode_pieces(pieces: &[Bytes]) -> Bytes {
    let bytes = pieces.iter().map(|piece| piece.len() + 4).sum();
    let mut out = Vec::with_capacity(bytes);
    for piece in pieces {
        out.extend(
            u32::try_from(piece.len())
                .expect("pieces are limited")
                .to_le_bytes(),
        );
        out.extend(piece);
    }
    out.into()
}

pub fn decode_pieces(content: &Bytes) -> Option<Vec<Bytes>> {
    let mut rest = content.clone();
    let mut pieces = Vec::new();
    while !rest.is_empty() {
        let length = usize::try_from(Fields(&rest).u32()?).ok()?;
        let _ = rest.split_to(4);
        if length > rest.len() {
            return None;
        }
        pieces.push(rest.split_to(length));
    }
    Some(pieces)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn messages_come_back_and_damaged_ones_do_not() {
        let message = Message::new(
            Op::Put.code(),
            Writer::default().text("a/b").u64(7),
            Content::new("hello"),
        );
        let mut bytes = Vec::new();
        message.write(&mut bytes).await.unwrap();
        assert_eq!(
            Message::read(&mut &bytes[..]).await.unwrap(),
            Some(message.clone())
        );
        assert_eq!(Message::read(&mut &bytes[..0]).await.unwrap(), None);
        for end in 1..bytes.len() {
            assert!(Message::read(&mut &bytes[..end]).await.is_err(), "cut at {end}");
        }
        // From the content's length on, and not the body, which TLS protects.
        for bit in (5 * 8..HEADER * 8).chain((bytes.len() - 5) * 8..bytes.len() * 8) {
            let mut damaged = bytes.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(Message::read(&mut &damaged[..]).await.is_err(), "bit {bit}");
        }
    }

    #[test]
    fn lists_and_pieces_come_back() {
        let list = encode_list([("a", 1), ("b/c", 2)].into_iter());
        let read = decode_list(&list, |name, bytes| Some((name.to_owned(), bytes)));
        assert_eq!(read, Some(vec![("a".to_owned(), 1), ("b/c".to_owned(), 2)]));
        assert_eq!(decode_list(&list[..5], |_, _| Some(())), None);
        let pieces = vec![Bytes::from_static(b"one"), Bytes::from_static(b"three")];
        let content = encode_pieces(&pieces);
        assert_eq!(decode_pieces(&content), Some(pieces));
        assert_eq!(decode_pieces(&content.slice(..9)), None);
    }
}
