//! What client and daemon say to each other over the socket.
//!
//! A request is a version byte, a length (u32, little-endian), and that many bytes: the question, the file's name
//! and its path, separated by zero bytes. While the daemon works on it, it sends a byte 0 now and then. An answer is a byte 1,
//! an exit code (one byte), a length, and a message. Who speaks another version is hung up on, and does the work itself.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::time::Duration;

const VERSION: u8 = 2;
/// How often the daemon says that it works on a request.
pub const STILL: Duration = Duration::from_secs(3);
/// A daemon that says nothing for so long is stopped, or as good as dead.
pub const SILENCE: Duration = Duration::from_secs(15);
/// Before an answer's header: there is none yet.
pub const WORKING: u8 = 0;
/// Before an answer's header.
pub const ANSWER: u8 = 1;
pub const REQUEST_HEADER: usize = 5;
pub const ANSWER_HEADER: usize = 5;
const MAX_REQUEST: usize = 8 << 10;
const MAX_MESSAGE: usize = 4 << 10;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ask {
    Archive,
    Restore,
}

impl Ask {
    fn word(self) -> &'static [u8] {
        match self {
            Ask::Archive => b"archive",
            Ask::Restore => b"restore",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    pub ask: Ask,
    /// Of the WAL file; not checked.
    pub name: String,
    /// Absolute.
    pub path: PathBuf,
}

impl Request {
    /// `None` if it is too long.
    pub fn encode(&self) -> Option<Vec<u8>> {
        let body = [
            self.ask.word(),
            self.name.as_bytes(),
            self.path.as_os_str().as_bytes(),
        ]
        .join(&0);
        let length = u32::try_from(body.len()).ok()?;
        let mut out = vec![VERSION];
        out.extend(length.to_le_bytes());
        out.extend(body);
        (out.len() <= MAX_REQUEST).then_some(out)
    }

    /// The length of what follows the header; `None` for what no client of ours sends.
    pub fn body_length(header: [u8; REQUEST_HEADER]) -> Option<usize> {
        let [version, length @ ..] = header;
        let length = usize::try_from(u32::from_le_bytes(length)).ok()?;
        (version == VERSION && length < MAX_REQUEST).then_some(length)
    }

    pub fn decode(body: &[u8]) -> Option<Request> {
        let mut fields = body.splitn(3, |byte| *byte == 0);
        let word = fields.next()?;
        let ask = [Ask::Archive, Ask::Restore]
            .into_iter()
            .find(|ask| ask.word() == word)?;
        let name = std::str::from_utf8(fields.next()?).ok()?.to_owned();
        let path = PathBuf::from(OsStr::from_bytes(fields.next()?));
        path.is_absolute().then_some(Request { ask, name, path })
    }
}

pub fn answer(code: u8, message: &str) -> Vec<u8> {
    let mut end = message.len().min(MAX_MESSAGE);
    while !message.is_char_boundary(end) {
        end -= 1;
    }
    let message = &message.as_bytes()[..end];
    let mut out = vec![ANSWER, code];
    out.extend(u32::try_from(message.len()).expect("it was cut").to_le_bytes());
    out.extend(message);
    out
}

pub fn answer_header(header: [u8; ANSWER_HEADER]) -> Option<(u8, usize)> {
    let [code, length @ ..] = header;
    let length = usize::try_from(u32::from_le_bytes(length)).ok()?;
    (length <= MAX_MESSAGE).then_some((code, length))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_and_answers_come_back() {
        let request = Request {
            ask: Ask::Restore,
            name: "00000002.history".into(),
            path: "/data/pg_wal/RECOVERYHISTORY".into(),
        };
        let bytes = request.encode().unwrap();
        let (header, body) = bytes.split_first_chunk().unwrap();
        assert_eq!(Request::body_length(*header), Some(body.len()));
        assert_eq!(Request::decode(body), Some(request));
        for end in 0..body.len() {
            // A shorter one may be a request for another path, and never a panic.
            let _ = Request::decode(&body[..end]);
        }
        assert_eq!(Request::decode(b"restore\0a\0relative"), None);
        assert_eq!(Request::body_length([1, 255, 255, 255, 255]), None);
        assert_eq!(Request::body_length([VERSION + 1, 1, 0, 0, 0]), None);

        let answer = answer(3, &"ä".repeat(MAX_MESSAGE));
        let (kind, answer) = answer.split_first().unwrap();
        assert_eq!(*kind, ANSWER);
        let (header, message) = answer.split_first_chunk().unwrap();
        assert_eq!(answer_header(*header), Some((3, message.len())));
        assert!(std::str::from_utf8(message).is_ok());
    }
}
