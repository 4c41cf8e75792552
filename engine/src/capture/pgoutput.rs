//! pgoutput messages, protocol versions 1 to 4 (PostgreSQL manual, "Logical Replication Message
//! Formats"). Only what capture must look at is decoded; row images stay bytes.

use skytide_sql::{Lsn, Oid, Xid32};

/// The bytes are not a pgoutput message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("bad pgoutput message {kind:?} at byte {offset}: {what}")]
pub struct BadMessage {
    pub kind: char,
    pub offset: usize,
    pub what: &'static str,
}

/// Whether messages carry a (sub)transaction id: they do inside a stream block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Within {
    Transaction,
    StreamBlock,
}

/// A decoded message. Times are microseconds since 2000-01-01 UTC.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message<'a> {
    Begin {
        xid: Xid32,
    },
    Commit {
        commit_lsn: Lsn,
        end_lsn: Lsn,
        time: i64,
    },
    /// `body` starts at the relation's oid, without a transaction id.
    Relation {
        oid: Oid,
        body: &'a [u8],
    },
    Row {
        kind: RowKind,
        /// The subtransaction that made the change, in stream blocks.
        subxid: Option<Xid32>,
        oid: Oid,
        /// What follows the oid: tuple markers and tuples.
        tuples: &'a [u8],
    },
    Truncate {
        subxid: Option<Xid32>,
        flags: u8,
        /// Big-endian oids, four bytes each.
        oids: &'a [u8],
    },
    StreamStart {
        xid: Xid32,
        first: bool,
    },
    StreamStop,
    StreamCommit {
        xid: Xid32,
        commit_lsn: Lsn,
        end_lsn: Lsn,
        time: i64,
    },
    /// Equal ids: the whole transaction.
    StreamAbort {
        xid: Xid32,
        subxid: Xid32,
    },
    /// Origin, Type and logical messages: nothing that capture needs.
    Other,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RowKind {
    Insert,
    Update,
    Delete,
}

impl RowKind {
    /// The record kind in the spool's row runs.
    pub fn letter(self) -> u8 {
        match self {
            RowKind::Insert => b'I',
            RowKind::Update => b'U',
            RowKind::Delete => b'D',
        }
    }
}

struct Cursor<'a> {
    whole: &'a [u8],
    rest: &'a [u8],
}

impl<'a> Cursor<'a> {
    fn bad(&self, what: &'static str) -> BadMessage {
        let kind = self.whole.first().map_or('?', |b| char::from(*b));
        BadMessage {
            kind,
            offset: self.whole.len() - self.rest.len(),
            what,
        }
    }

    #[inline]
    fn take<const N: usize>(&mut self) -> Result<[u8; N], BadMessage> {
        let (head, rest) = self
            .rest
            .split_first_chunk::<N>()
            .ok_or_else(|| self.bad("message is cut off"))?;
        self.rest = rest;
        Ok(*head)
    }

    fn u8(&mut self) -> Result<u8, BadMessage> {
        Ok(self.take::<1>()?[0])
    }

    fn u32(&mut self) -> Result<u32, BadMessage> {
        Ok(u32::from_be_bytes(self.take()?))
    }

    fn lsn(&mut self) -> Result<Lsn, BadMessage> {
        Ok(Lsn::new(u64::from_be_bytes(self.take()?)))
    }

    fn time(&mut self) -> Result<i64, BadMessage> {
        Ok(i64::from_be_bytes(self.take()?))
    }

    fn xid(&mut self) -> Result<Xid32, BadMessage> {
        Ok(Xid32::new(self.u32()?))
    }

    fn subxid(&mut self, within: Within) -> Result<Option<Xid32>, BadMessage> {
        match within {
            Within::Transaction => Ok(None),
            Within::StreamBlock => self.xid().map(Some),
        }
    }

    fn end<T>(self, message: T) -> Result<T, BadMessage> {
        if self.rest.is_empty() {
            Ok(message)
        } else {
            Err(self.bad("bytes after the message's end"))
        }
    }
}

/// Decodes one message.
///
/// # Errors
/// Cut off, too long, or of a kind that was not asked for (two-phase messages).
#[inline]
pub fn decode(payload: &[u8], within: Within) -> Result<Message<'_>, BadMessage> {
    let mut c = Cursor {
        whole: payload,
        rest: payload,
    };
    let kind = c.u8()?;
    match kind {
        b'I' | b'U' | b'D' => {
            let kind = match kind {
                b'I' => RowKind::Insert,
                b'U' => RowKind::Update,
                _ => RowKind::Delete,
            };
            let subxid = c.subxid(within)?;
            let oid = Oid::new(c.u32()?);
            Ok(Message::Row {
                kind,
                subxid,
                oid,
                tuples: c.rest,
            })
        }
        b'B' => {
            let _final_lsn = c.lsn()?;
            let _time = c.time()?;
            let xid = c.xid()?;
            c.end(Message::Begin { xid })
        }
        b'C' => {
            let _flags = c.u8()?;
            let (commit_lsn, end_lsn, time) = (c.lsn()?, c.lsn()?, c.time()?);
            c.end(Message::Commit {
                commit_lsn,
                end_lsn,
                time,
            })
        }
        b'R' => {
            c.subxid(within)?;
            let body = c.rest;
            let oid = Oid::new(c.u32()?);
            Ok(Message::Relation { oid, body })
        }
        b'T' => {
            let subxid = c.subxid(within)?;
            let count = c.u32()?;
            let flags = c.u8()?;
            let wanted = usize::try_from(count).ok().and_then(|n| n.checked_mul(4));
            if wanted != Some(c.rest.len()) {
                return Err(c.bad("truncate's list has another length than it says"));
            }
            Ok(Message::Truncate {
                subxid,
                flags,
                oids: c.rest,
            })
        }
        b'S' => {
            let xid = c.xid()?;
            let first = c.u8()? == 1;
            c.end(Message::StreamStart { xid, first })
        }
        b'E' => c.end(Message::StreamStop),
        b'c' => {
            let xid = c.xid()?;
            let _flags = c.u8()?;
            let (commit_lsn, end_lsn, time) = (c.lsn()?, c.lsn()?, c.time()?);
            c.end(Message::StreamCommit {
                xid,
                commit_lsn,
                end_lsn,
                time,
            })
        }
        b'A' => {
            let (xid, subxid) = (c.xid()?, c.xid()?);
            // With streaming=parallel the abort's LSN and time follow; we ask for streaming=on.
            c.end(Message::StreamAbort { xid, subxid })
        }
        b'O' | b'Y' | b'M' => Ok(Message::Other),
        _ => Err(c.bad("unknown kind")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_streamed_insert_carries_its_subtransaction() {
        let payload = b"I\0\0\0\x05\0\0\0\x09N\0\x01n";
        let Message::Row {
            kind,
            subxid,
            oid,
            tuples,
        } = decode(payload, Within::StreamBlock).unwrap()
        else {
            panic!("not a row");
        };
        assert_eq!(
            (kind, subxid, oid),
            (RowKind::Insert, Some(Xid32::new(5)), Oid::new(9))
        );
        assert_eq!(tuples, b"N\0\x01n");
    }

    proptest! {
        #[test]
        fn any_bytes_decode_or_fail(
            kind in proptest::sample::select(b"BCRIUDTSEcAOYMx".to_vec()),
            rest in proptest::collection::vec(any::<u8>(), 0..60),
            streamed in any::<bool>(),
        ) {
            let mut payload = vec![kind];
            payload.extend(rest);
            let within = if streamed { Within::StreamBlock } else { Within::Transaction };
            let _ = decode(&payload, within);
        }
    }
}
