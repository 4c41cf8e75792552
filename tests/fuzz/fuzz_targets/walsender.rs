//! Any bytes from a server: messages or an error, the same whole as in two pieces.
#![no_main]

use libfuzzer_sys::fuzz_target;
use skytide_wal::walsender::{Backend, Frames, StreamMessage};

/// Decodes what has come in `pieces`; returns how many messages that was and whether it ended in an error.
fn messages(pieces: &[&[u8]]) -> (usize, bool) {
    let mut frames = Frames::new();
    let mut count = 0;
    for piece in pieces {
        match frames.spare() {
            Ok(room) => room.extend_from_slice(piece),
            Err(_) => return (count, true),
        }
        loop {
            match frames.take() {
                Ok(Some(frame)) => {
                    count += 1;
                    match Backend::decode(frame) {
                        Ok(Backend::CopyData(payload)) => drop(StreamMessage::decode(payload)),
                        Ok(Backend::DataRow(columns)) => assert!(columns.count() <= frame.body.len()),
                        Ok(_) | Err(_) => {}
                    }
                }
                Ok(None) => break,
                Err(_) => return (count, true),
            }
        }
    }
    (count, false)
}

fuzz_target!(|bytes: &[u8]| {
    let (at, bytes) = bytes.split_first().map_or((0, bytes), |(at, rest)| (usize::from(*at), rest));
    let (first, second) = bytes.split_at(at.min(bytes.len()));
    assert_eq!(messages(&[bytes]), messages(&[first, second]));
});
