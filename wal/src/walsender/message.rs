//! What the messages say (PostgreSQL manual, "Message Formats" and "Streaming Replication Protocol").

use std::fmt;
use std::time::{Duration, SystemTime};

use bytes::{BufMut, BytesMut};
use skytide_sql::Lsn;

use super::frame::Frame;

/// A message's body does not parse.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("bad message {:?} from the server: {what}", char::from(*.tag))]
pub struct BadMessage {
    pub tag: u8,
    pub what: &'static str,
}

/// A message of the server. Everything that may be long stays where it was received.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Backend<'a> {
    Authentication(Authentication<'a>),
    ParameterStatus { name: &'a str, value: &'a str },
    BackendKeyData { process_id: u32, secret_key: &'a [u8] },
    NegotiateProtocol,
    ReadyForQuery,
    RowDescription,
    DataRow(Columns<'a>),
    CommandComplete,
    EmptyQuery,
    CopyBoth,
    CopyIn,
    CopyOut,
    CopyData(&'a [u8]),
    CopyDone,
    Error(Box<ServerError>),
    Notice(Box<ServerError>),
    Notification,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Authentication<'a> {
    Ok,
    CleartextPassword,
    Md5Password {
        salt: [u8; 4],
    },
    /// Mechanism names, each ended by a zero byte.
    Sasl {
        mechanisms: &'a [u8],
    },
    SaslContinue(&'a [u8]),
    SaslFinal(&'a [u8]),
    /// GSSAPI, SSPI, Kerberos, and what may come.
    Other(u32),
}

/// A row's values in text form.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Columns<'a> {
    /// Checked when the message was decoded: for each column Int32 length (-1 null) and bytes.
    body: &'a [u8],
}

impl<'a> Iterator for Columns<'a> {
    type Item = Option<&'a [u8]>;

    fn next(&mut self) -> Option<Option<&'a [u8]>> {
        let mut cursor = Cursor {
            tag: b'D',
            rest: self.body,
        };
        let value = cursor.value().ok()?;
        self.body = cursor.rest;
        Some(value)
    }
}

impl<'a> Backend<'a> {
    pub fn decode(frame: Frame<'a>) -> Result<Backend<'a>, BadMessage> {
        let mut cursor = Cursor {
            tag: frame.tag,
            rest: frame.body,
        };
        Ok(match frame.tag {
            b'd' => Backend::CopyData(frame.body),
            b'D' => {
                let count = cursor.u16()?;
                let body = cursor.rest;
                for _ in 0..count {
                    cursor.value()?;
                }
                cursor.end()?;
                Backend::DataRow(Columns { body })
            }
            b'E' => Backend::Error(Box::new(ServerError::decode(cursor)?)),
            b'N' => Backend::Notice(Box::new(ServerError::decode(cursor)?)),
            b'R' => Backend::Authentication(Authentication::decode(cursor)?),
            b'S' => {
                let (name, value) = (cursor.text()?, cursor.text()?);
                cursor.end()?;
                Backend::ParameterStatus { name, value }
            }
            b'K' => Backend::BackendKeyData {
                process_id: cursor.u32()?,
                secret_key: cursor.rest,
            },
            b'Z' if frame.body.len() == 1 => Backend::ReadyForQuery,
            b'T' => Backend::RowDescription,
            b'C' => Backend::CommandComplete,
            b'I' => Backend::EmptyQuery,
            b'W' => Backend::CopyBoth,
            b'G' => Backend::CopyIn,
            b'H' => Backend::CopyOut,
            b'c' => Backend::CopyDone,
            b'A' => Backend::Notification,
            b'v' => Backend::NegotiateProtocol,
            _ => return Err(cursor.bad("not a message we know")),
        })
    }
}

impl<'a> Authentication<'a> {
    fn decode(mut cursor: Cursor<'a>) -> Result<Authentication<'a>, BadMessage> {
        Ok(match cursor.u32()? {
            0 => Authentication::Ok,
            3 => Authentication::CleartextPassword,
            5 => Authentication::Md5Password {
                salt: cursor.array()?,
            },
            10 => Authentication::Sasl {
                mechanisms: cursor.rest,
            },
            11 => Authentication::SaslContinue(cursor.rest),
            12 => Authentication::SaslFinal(cursor.rest),
            other => Authentication::Other(other),
        })
    }
}

/// An error or notice with all the server tells (PostgreSQL manual, "Error and Notice Message Fields").
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct ServerError {
    /// Never translated: ERROR, FATAL, PANIC, WARNING, NOTICE, DEBUG, INFO or LOG.
    pub severity: String,
    /// SQLSTATE.
    pub code: String,
    pub message: String,
    pub detail: Option<String>,
    pub hint: Option<String>,
    /// In characters, from 1, within the statement sent.
    pub position: Option<u32>,
    pub internal_position: Option<u32>,
    pub internal_query: Option<String>,
    /// The call stack (CONTEXT).
    pub context: Option<String>,
    pub schema: Option<String>,
    pub table: Option<String>,
    pub column: Option<String>,
    pub data_type: Option<String>,
    pub constraint: Option<String>,
    /// Where in the server's source.
    pub file: Option<String>,
    pub line: Option<u32>,
    pub routine: Option<String>,
}

impl ServerError {
    fn decode(mut cursor: Cursor<'_>) -> Result<ServerError, BadMessage> {
        let mut error = ServerError::default();
        loop {
            let field = cursor.u8()?;
            if field == 0 {
                break;
            }
            // Before login the server may speak another encoding.
            let text = String::from_utf8_lossy(cursor.bytes_to_zero()?).into_owned();
            let number = || text.parse::<u32>().ok();
            match field {
                b'V' => error.severity = text,
                // Translated; servers before 9.6 had no other.
                b'S' if error.severity.is_empty() => error.severity = text,
                b'C' => error.code = text,
                b'M' => error.message = text,
                b'D' => error.detail = Some(text),
                b'H' => error.hint = Some(text),
                b'P' => error.position = number(),
                b'p' => error.internal_position = number(),
                b'q' => error.internal_query = Some(text),
                b'W' => error.context = Some(text),
                b's' => error.schema = Some(text),
                b't' => error.table = Some(text),
                b'c' => error.column = Some(text),
                b'd' => error.data_type = Some(text),
                b'n' => error.constraint = Some(text),
                b'F' => error.file = Some(text),
                b'L' => error.line = number(),
                b'R' => error.routine = Some(text),
                // "Frontends should silently ignore fields of unrecognized type."
                _ => {}
            }
        }
        cursor.end()?;
        Ok(error)
    }
}

impl fmt::Display for ServerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} ({})", self.severity, self.message, self.code)?;
        if let Some(detail) = &self.detail {
            write!(f, "\nDETAIL: {detail}")?;
        }
        if let Some(hint) = &self.hint {
            write!(f, "\nHINT: {hint}")?;
        }
        Ok(())
    }
}

impl std::error::Error for ServerError {}

/// A moment of a server's clock: microseconds since 2000-01-01 UTC.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Timestamp(i64);

impl Timestamp {
    const EPOCH_AFTER_UNIX: Duration = Duration::from_secs(946_684_800);

    pub const fn from_micros(micros: i64) -> Timestamp {
        Timestamp(micros)
    }

    pub const fn as_micros(self) -> i64 {
        self.0
    }

    /// This machine's clock, as the server would write it.
    pub fn now() -> Timestamp {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH + Timestamp::EPOCH_AFTER_UNIX);
        Timestamp(
            since
                .ok()
                .and_then(|since| since.as_micros().try_into().ok())
                .unwrap_or(0),
        )
    }

    /// `None` for moments outside the range of this machine's clock.
    pub fn to_system_time(self) -> Option<SystemTime> {
        let epoch = SystemTime::UNIX_EPOCH + Timestamp::EPOCH_AFTER_UNIX;
        let distance = Duration::from_micros(self.0.unsigned_abs());
        if self.0 < 0 {
            epoch.checked_sub(distance)
        } else {
            epoch.checked_add(distance)
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ReplyRequested {
    Yes,
    No,
}

/// What the server sends while it streams.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum StreamMessage<'a> {
    /// Physical: raw WAL from `start_lsn`. Logical: one message of the output plugin; take positions from
    /// that message's body, since `start_lsn` can be 0/0 there.
    Data {
        start_lsn: Lsn,
        /// The server's current end of WAL.
        wal_end: Lsn,
        sent_at: Timestamp,
        payload: &'a [u8],
    },
    Keepalive {
        wal_end: Lsn,
        sent_at: Timestamp,
        /// Answer at once, or the server may end the connection.
        reply_requested: bool,
    },
}

impl<'a> StreamMessage<'a> {
    /// The content of one CopyData message.
    #[inline]
    pub fn decode(payload: &'a [u8]) -> Result<StreamMessage<'a>, BadMessage> {
        let mut cursor = Cursor {
            tag: b'd',
            rest: payload,
        };
        match cursor.u8()? {
            b'w' => Ok(StreamMessage::Data {
                start_lsn: Lsn::new(cursor.u64()?),
                wal_end: Lsn::new(cursor.u64()?),
                sent_at: Timestamp(cursor.i64()?),
                payload: cursor.rest,
            }),
            b'k' => {
                let message = StreamMessage::Keepalive {
                    wal_end: Lsn::new(cursor.u64()?),
                    sent_at: Timestamp(cursor.i64()?),
                    reply_requested: cursor.u8()? != 0,
                };
                cursor.end()?;
                Ok(message)
            }
            _ => Err(cursor.bad("neither WAL data nor keepalive")),
        }
    }
}

/// How far we are. Only `flush` moves a slot: it must be durable on our side.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Positions {
    pub write: Lsn,
    pub flush: Lsn,
    pub apply: Lsn,
}

impl Positions {
    /// Appends a whole CopyData message with a standby status update.
    pub fn encode(&self, now: Timestamp, reply: ReplyRequested, out: &mut BytesMut) {
        copy_data(out, |out| {
            out.put_u8(b'r');
            out.put_u64(self.write.as_u64());
            out.put_u64(self.flush.as_u64());
            out.put_u64(self.apply.as_u64());
            out.put_i64(now.0);
            out.put_u8(u8::from(reply == ReplyRequested::Yes));
        });
    }
}

/// The oldest transactions a standby's queries still need; zero means none. Physical replication only.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct HotStandbyFeedback {
    pub xmin: u32,
    pub xmin_epoch: u32,
    pub catalog_xmin: u32,
    pub catalog_xmin_epoch: u32,
}

impl HotStandbyFeedback {
    pub fn encode(&self, now: Timestamp, out: &mut BytesMut) {
        copy_data(out, |out| {
            out.put_u8(b'h');
            out.put_i64(now.0);
            out.put_u32(self.xmin);
            out.put_u32(self.xmin_epoch);
            out.put_u32(self.catalog_xmin);
            out.put_u32(self.catalog_xmin_epoch);
        });
    }
}

fn copy_data(out: &mut BytesMut, fill: impl FnOnce(&mut BytesMut)) {
    out.put_u8(b'd');
    let at = out.len();
    out.put_u32(0);
    fill(out);
    let length = u32::try_from(out.len() - at).expect("feedback messages are a few dozen bytes");
    if let Some(place) = out.get_mut(at..at + 4) {
        place.copy_from_slice(&length.to_be_bytes());
    }
}

/// Reads a body from the front.
struct Cursor<'a> {
    tag: u8,
    rest: &'a [u8],
}

impl<'a> Cursor<'a> {
    fn bad(&self, what: &'static str) -> BadMessage {
        BadMessage { tag: self.tag, what }
    }

    #[inline]
    fn array<const N: usize>(&mut self) -> Result<[u8; N], BadMessage> {
        let (array, rest) = self
            .rest
            .split_first_chunk::<N>()
            .ok_or(self.bad("ends too early"))?;
        self.rest = rest;
        Ok(*array)
    }

    #[inline]
    fn u8(&mut self) -> Result<u8, BadMessage> {
        Ok(u8::from_be_bytes(self.array()?))
    }

    fn u16(&mut self) -> Result<u16, BadMessage> {
        Ok(u16::from_be_bytes(self.array()?))
    }

    fn u32(&mut self) -> Result<u32, BadMessage> {
        Ok(u32::from_be_bytes(self.array()?))
    }

    #[inline]
    fn u64(&mut self) -> Result<u64, BadMessage> {
        Ok(u64::from_be_bytes(self.array()?))
    }

    #[inline]
    fn i64(&mut self) -> Result<i64, BadMessage> {
        Ok(i64::from_be_bytes(self.array()?))
    }

    /// Int32 length, -1 for null, and that many bytes.
    fn value(&mut self) -> Result<Option<&'a [u8]>, BadMessage> {
        let length = i32::from_be_bytes(self.array()?);
        if length == -1 {
            return Ok(None);
        }
        let length = usize::try_from(length).map_err(|_| self.bad("negative column length"))?;
        let (value, rest) = self
            .rest
            .split_at_checked(length)
            .ok_or(self.bad("ends in a value"))?;
        self.rest = rest;
        Ok(Some(value))
    }

    fn bytes_to_zero(&mut self) -> Result<&'a [u8], BadMessage> {
        let end = self
            .rest
            .iter()
            .position(|byte| *byte == 0)
            .ok_or(self.bad("a text has no end"))?;
        let (text, rest) = self.rest.split_at(end);
        self.rest = rest.get(1..).unwrap_or_default();
        Ok(text)
    }

    fn text(&mut self) -> Result<&'a str, BadMessage> {
        let bytes = self.bytes_to_zero()?;
        std::str::from_utf8(bytes).map_err(|_| self.bad("a text is not UTF-8"))
    }

    fn end(&self) -> Result<(), BadMessage> {
        if self.rest.is_empty() {
            Ok(())
        } else {
            Err(self.bad("goes on after its end"))
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn decode(tag: u8, body: &[u8]) -> Result<Backend<'_>, BadMessage> {
        Backend::decode(Frame { tag, body })
    }

    #[test]
    fn an_error_keeps_all_its_fields() {
        let body = b"SFEHLER\0VERROR\0C23505\0Mm\0Dd\0Hh\0P7\0p8\0qselect\0Ww\0sS\0tT\0cC\0ddt\0nN\0Ff.c\0L42\0RR\0?new\0\0";
        let Ok(Backend::Error(error)) = decode(b'E', body) else {
            panic!()
        };
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(
            *error,
            ServerError {
                severity: "ERROR".into(),
                code: "23505".into(),
                message: "m".into(),
                detail: some("d"),
                hint: some("h"),
                position: Some(7),
                internal_position: Some(8),
                internal_query: some("select"),
                context: some("w"),
                schema: some("S"),
                table: some("T"),
                column: some("C"),
                data_type: some("dt"),
                constraint: some("N"),
                file: some("f.c"),
                line: Some(42),
                routine: some("R"),
            }
        );
        assert_eq!(error.to_string(), "ERROR: m (23505)\nDETAIL: d\nHINT: h");
    }

    #[test]
    fn rows_come_apart_and_short_ones_are_refused() {
        let body = b"\0\x03\0\0\0\x01a\xff\xff\xff\xff\0\0\0\0";
        let Ok(Backend::DataRow(columns)) = decode(b'D', body) else {
            panic!()
        };
        assert_eq!(columns.collect::<Vec<_>>(), [Some(&b"a"[..]), None, Some(b"")]);
        for cut in 0..body.len() {
            assert!(decode(b'D', &body[..cut]).is_err(), "cut at {cut}");
        }
        assert!(decode(b'D', &[body, &b"x"[..]].concat()).is_err());
        assert!(decode(b'D', b"\0\x01\xff\xff\xff\xfe").is_err());
    }

    #[test]
    fn status_update_is_laid_out_as_in_the_manual() {
        let mut out = BytesMut::new();
        let positions = Positions {
            write: Lsn::new(3),
            flush: Lsn::new(2),
            apply: Lsn::new(1),
        };
        positions.encode(Timestamp(9), ReplyRequested::Yes, &mut out);
        let expected: Vec<u8> = [b"d\0\0\0\x26r".to_vec()]
            .into_iter()
            .chain([3_u64, 2, 1, 9].map(|number| number.to_be_bytes().to_vec()))
            .chain([vec![1]])
            .flatten()
            .collect();
        assert_eq!(out[..], expected[..]);
        out.clear();
        HotStandbyFeedback::default().encode(Timestamp(0), &mut out);
        assert_eq!(out.len(), 1 + 4 + 1 + 8 + 16);
    }

    #[test]
    fn times_count_from_2000() {
        let epoch = SystemTime::UNIX_EPOCH + Timestamp::EPOCH_AFTER_UNIX;
        assert_eq!(Timestamp(0).to_system_time(), Some(epoch));
        assert_eq!(
            Timestamp(-1).to_system_time(),
            Some(epoch - Duration::from_micros(1))
        );
        assert!(Timestamp::now() > Timestamp(0));
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_message_or_an_error(tag in any::<u8>(), body in prop::collection::vec(any::<u8>(), 0..200)) {
            for tag in [tag, b'E', b'R', b'D', b'S', b'K'] {
                if let Ok(Backend::DataRow(columns)) = decode(tag, &body) {
                    prop_assert!(columns.count() <= body.len());
                }
            }
            let _ = StreamMessage::decode(&body);
        }

        #[test]
        fn wal_data_keeps_its_payload(start in any::<u64>(), end in any::<u64>(), at in any::<i64>(), payload: Vec<u8>) {
            let mut body = vec![b'w'];
            body.extend(start.to_be_bytes());
            body.extend(end.to_be_bytes());
            body.extend(at.to_be_bytes());
            body.extend(&payload);
            prop_assert_eq!(StreamMessage::decode(&body), Ok(StreamMessage::Data {
                start_lsn: Lsn::new(start), wal_end: Lsn::new(end), sent_at: Timestamp(at), payload: &payload,
            }));
            for cut in 0..25.min(body.len()) {
                prop_assert!(StreamMessage::decode(&body[..cut]).is_err());
            }
        }
    }
}
