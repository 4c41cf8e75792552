//! The tiny client: what PostgreSQL starts for each file asks the daemon, and does nothing else.
//!
//! It runs before arguments are parsed and without a runtime: it costs a process start and one round trip. When
//! no daemon answers, the program goes on as usual and does the work itself. One that is there and says nothing is not
//! waited for.

use std::ffi::{OsStr, OsString};
use std::io::{Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;

use super::restore::trouble;
use super::wire::{self, Ask, Request};
use crate::cli::compat::RECOVERED;
use crate::config::settings::socket_beside;

/// What came of asking before anything else is done.
pub enum Quick {
    Answered(ExitCode),
    /// It is no question for the daemon, or no daemon answers.
    Unanswered,
    /// A daemon is there and says nothing. What it was asked to archive can be archived beside it.
    Silent,
}

/// `skytide walmgr CONF archive|restore-wal NAMES…`, without options: the daemon's answer, if there is one.
pub fn quick(arguments: &[OsString]) -> Quick {
    let Some((socket, request)) = question(arguments) else {
        return Quick::Unanswered;
    };
    let (code, message) = match call(&socket, &request) {
        Reply::Answer(code, message) => (code, message),
        Reply::Nobody => return Quick::Unanswered,
        Reply::Silent => match request.ask {
            Ask::Archive => {
                say(&format!(
                    "WARNING:  {}; it is archived without it",
                    silent(&socket)
                ));
                return Quick::Silent;
            }
            Ask::Restore => unrestored(&socket, &request),
        },
    };
    if !message.is_empty() {
        say(&message);
    }
    Quick::Answered(ExitCode::from(code))
}

fn say(message: &str) {
    // Nobody to tell when standard error is closed; the exit code says it too.
    let _ = writeln!(std::io::stderr(), "{message}");
}

fn question(arguments: &[OsString]) -> Option<(PathBuf, Request)> {
    let [_, command, conf, ask, first, second, rest @ ..] = arguments else {
        return None;
    };
    if command != "walmgr" || arguments.iter().any(|word| word.as_bytes().starts_with(b"-")) {
        return None;
    }
    // restore_command may name %r too.
    let (ask, name, path) = match (ask.to_str()?, rest) {
        // archive_command in the place of restore_command is told so by the whole program.
        ("archive" | "xarchive", []) if !names_recovered(first) && !names_recovered(second) => {
            (Ask::Archive, second, first)
        }
        ("restore-wal" | "xrestore", [] | [_]) => (Ask::Restore, first, second),
        _ => return None,
    };
    Some((socket_beside(Path::new(conf)), request(ask, name, path)?))
}

fn names_recovered(word: &OsStr) -> bool {
    RECOVERED
        .iter()
        .any(|name| word.as_bytes().ends_with(name.as_bytes()))
}

/// Who it is, for a message.
pub fn silent(socket: &Path) -> String {
    let (socket, seconds) = (socket.display(), wire::SILENCE.as_secs());
    format!("the daemon at {socket} has said nothing for {seconds} s")
}

/// What recovery is told when the daemon is silent. The file is not fetched beside it: that daemon may wake up, and
/// write into the same place.
pub fn unrestored(socket: &Path, request: &Request) -> (u8, String) {
    let code = trouble(request.name.parse().ok(), &request.path);
    let (name, silent) = (&request.name, silent(socket));
    let hint = "HINT:  If it was stopped, let it go on (kill -CONT) or end it (kill -KILL): without a daemon the work is done, too.";
    (code, format!("ERROR:  {name} was not restored: {silent}\n{hint}"))
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

/// What the daemon says.
pub enum Reply {
    /// An exit code and a message.
    Answer(u8, String),
    /// No daemon is there, or it died before it had answered.
    Nobody,
    /// One is there, and has not even said for [`wire::SILENCE`] that it is still at it.
    Silent,
}

/// Asks the daemon behind the socket.
pub fn call(socket: &Path, request: &Request) -> Reply {
    let (socket, Some(request)) = (socket.to_owned(), request.encode()) else {
        return Reply::Nobody;
    };
    let (said, heard) = mpsc::channel();
    // Apart, because to connect may take for ever, too. It ends with the process at the latest.
    let asks = thread::Builder::new().spawn(move || {
        let answer = ask(&socket, &request, &said);
        // Nobody listens any more: we were too late.
        let _ = said.send(Some(answer));
    });
    if asks.is_err() {
        return Reply::Nobody;
    }
    loop {
        match heard.recv_timeout(wire::SILENCE) {
            Ok(None) => {}
            Ok(Some(Some((code, message)))) => return Reply::Answer(code, message),
            Ok(Some(None)) | Err(RecvTimeoutError::Disconnected) => return Reply::Nobody,
            Err(RecvTimeoutError::Timeout) => return Reply::Silent,
        }
    }
}

type Answer = Option<(u8, String)>;

fn ask(socket: &Path, request: &[u8], working: &mpsc::Sender<Option<Answer>>) -> Answer {
    let mut stream = UnixStream::connect(socket).ok()?;
    stream.write_all(request).ok()?;
    let mut kind = [wire::WORKING];
    loop {
        stream.read_exact(&mut kind).ok()?;
        match kind {
            [wire::ANSWER] => break,
            [wire::WORKING] => working.send(None).ok()?,
            _ => return None,
        }
    }
    let mut header = [0; wire::ANSWER_HEADER];
    stream.read_exact(&mut header).ok()?;
    let (code, length) = wire::answer_header(header)?;
    let mut message = vec![0; length];
    stream.read_exact(&mut message).ok()?;
    Some((code, String::from_utf8_lossy(&message).into_owned()))
}
