//! The tiny client: what PostgreSQL starts for each file asks the daemon, and does nothing else.
//!
//! It runs before arguments are parsed and without a runtime: it costs a process start and one round trip. When
//! no daemon answers, the program goes on as usual and does the work itself.

use std::ffi::{OsStr, OsString};
use std::io::{Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use super::wire::{self, Ask, Request};
use crate::config::settings::socket_beside;

/// `skytide walmgr CONF archive|restore-wal NAMES…`, without options: the daemon's answer, if there is one.
pub fn quick(arguments: &[OsString]) -> Option<ExitCode> {
    let [_, command, conf, ask, first, second, rest @ ..] = arguments else {
        return None;
    };
    if command != "walmgr" || arguments.iter().any(|word| word.as_bytes().starts_with(b"-")) {
        return None;
    }
    // restore_command may name %r too.
    let (ask, name, path) = match (ask.to_str()?, rest) {
        ("archive" | "xarchive", []) => (Ask::Archive, second, first),
        ("restore-wal" | "xrestore", [] | [_]) => (Ask::Restore, first, second),
        _ => return None,
    };
    let request = request(ask, name, path)?;
    let (code, message) = call(&socket_beside(Path::new(conf)), &request)?;
    if !message.is_empty() {
        // Nobody to tell when standard error is closed; the exit code says it too.
        let _ = writeln!(std::io::stderr(), "{message}");
    }
    Some(ExitCode::from(code))
}

/// A request for a path that may be relative, as PostgreSQL's are: to its data directory, which it starts us in.
pub fn request(ask: Ask, name: &OsStr, path: &OsStr) -> Option<Request> {
    let path = PathBuf::from(path);
    let path = match path.is_absolute() {
        true => path,
        false => std::env::current_dir().ok()?.join(path),
    };
    Some(Request {
        ask,
        name: name.to_str()?.to_owned(),
        path,
    })
}

/// Asks the daemon behind the socket. `None`: it did not answer, or it died before it did.
pub fn call(socket: &Path, request: &Request) -> Option<(u8, String)> {
    let mut stream = UnixStream::connect(socket).ok()?;
    stream.write_all(&request.encode()?).ok()?;
    let mut header = [0; wire::ANSWER_HEADER];
    stream.read_exact(&mut header).ok()?;
    let (code, length) = wire::answer_header(header)?;
    let mut message = vec![0; length];
    stream.read_exact(&mut message).ok()?;
    Some((code, String::from_utf8_lossy(&message).into_owned()))
}
