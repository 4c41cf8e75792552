//! `skytide-walmgr CONF archive|restore-wal …`: what PostgreSQL may run for each file of WAL, instead of `skytide walmgr CONF …`.
//!
//! It asks the daemon, as the whole program would, but is so small that it starts in a third of the time. Where no daemon
//! answers it becomes the whole program, which lies beside it.

use std::convert::Infallible;
use std::ffi::OsString;
use std::io::{self, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitCode};

use skytide::cli::walmgr::client::{self, Quick};

/// PostgreSQL's recovery stops at it; a smaller one would say that there is no such file (restore_command).
const STOP_RECOVERY: u8 = 255;

fn main() -> ExitCode {
    let mut arguments: Vec<OsString> = std::env::args_os().collect();
    arguments.insert(arguments.len().min(1), "walmgr".into());
    if let [_, _] | [_, _, _] = arguments.as_slice()
        && !arguments
            .iter()
            .any(|word| word.as_encoded_bytes().starts_with(b"-"))
    {
        let _ = writeln!(
            io::stderr(),
            "ERROR:  no command is given\nHINT:  skytide-walmgr CONF archive %p %f, or restore-wal %f %p"
        );
        return ExitCode::from(STOP_RECOVERY);
    }
    match client::quick(&arguments) {
        Quick::Answered(answer) => return answer,
        Quick::Unanswered => {}
        // Once was long enough.
        Quick::Silent => arguments.push("--alone".into()),
    }
    let Err(error) = whole_program(arguments.get(1..).unwrap_or_default());
    let _ = writeln!(io::stderr(), "ERROR:  skytide cannot be started: {error}");
    ExitCode::from(STOP_RECOVERY)
}

/// Becomes `skytide` with these arguments.
fn whole_program(arguments: &[OsString]) -> io::Result<Infallible> {
    let program = std::env::current_exe()?;
    let beside = program.parent().unwrap_or(Path::new(".")).join("skytide");
    Err(Command::new(beside).args(arguments).exec())
}
