//! Old call forms: a link named like an old program runs the command that took its place.

use std::ffi::{OsStr, OsString};
use std::path::Path;
use std::process::ExitCode;

/// Old program name, and the words that stand for it here.
pub const OLD_NAMES: &[(&str, &str)] = &[
    ("londiste", "londiste"),
    ("londiste3", "londiste"),
    ("pgqd", "ticker"),
    ("qadmin", "qadmin"),
    ("walmgr", "walmgr"),
    ("walmgr3", "walmgr"),
];

/// How the program was called.
#[derive(Debug)]
pub struct Call {
    old_name: bool,
    arguments: Vec<OsString>,
}

impl Call {
    pub fn from_env() -> Self {
        Self::from_arguments(std::env::args_os())
    }

    pub fn from_arguments(arguments: impl IntoIterator<Item = OsString>) -> Self {
        let mut arguments: Vec<OsString> = arguments.into_iter().collect();
        let program = arguments
            .first()
            .map(|first| program_name(first))
            .unwrap_or_default();
        let Some((_, command)) = OLD_NAMES.iter().find(|(old, _)| *old == program) else {
            return Self {
                old_name: false,
                arguments,
            };
        };
        arguments.insert(1, OsString::from(command));
        // pgqd knew -V alone for its version, and asked for nothing else beside it.
        if arguments.len() == 3 && (arguments[2] == "-V" || arguments[2] == "--version") {
            arguments.remove(1);
        }
        Self {
            old_name: true,
            arguments,
        }
    }

    pub fn arguments(&self) -> &[OsString] {
        &self.arguments
    }

    /// pgqd without a configuration would tick whatever server is at the default place.
    pub fn lacks_configuration(&self) -> bool {
        self.old_name
            && self.arguments.get(1).is_some_and(|word| word == "ticker")
            && self.arguments.len() == 2
    }

    /// Whether PostgreSQL's recovery may be waiting for the exit code (`restore_command`).
    pub fn restores(&self) -> bool {
        let mut words = self.arguments.iter().skip(1);
        words.next().is_some_and(|word| word == "walmgr")
            && words.any(|word| word == "restore-wal" || word == "xrestore")
    }

    /// The exit code of a failure. Recovery takes small ones as "there is no such file", and would end.
    pub fn failed(&self, code: ExitCode) -> ExitCode {
        match self.restores() && code != ExitCode::SUCCESS {
            true => ExitCode::from(super::walmgr::STOP_RECOVERY),
            false => code,
        }
    }

    /// The exit code for arguments that were not understood, or for `--help`.
    /// The old programs left with 1 where we leave with 2.
    pub fn usage_exit(&self, printed: bool, code: i32) -> ExitCode {
        match code {
            0 if printed => ExitCode::SUCCESS,
            // Help that could not be written: whoever reads our output is gone.
            0 => ExitCode::SUCCESS,
            _ if self.old_name => ExitCode::from(1),
            _ => ExitCode::from(2),
        }
    }
}

fn program_name(path: &OsStr) -> String {
    Path::new(path)
        .file_stem()
        .map(|stem| stem.to_string_lossy().into_owned())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn called(words: &[&str]) -> Vec<String> {
        let call = Call::from_arguments(words.iter().map(OsString::from));
        call.arguments()
            .iter()
            .map(|word| word.to_string_lossy().into_owned())
            .collect()
    }

    #[test]
    fn an_old_name_becomes_a_command() {
        assert_eq!(
            called(&["/usr/bin/londiste", "c.ini", "tables"]),
            ["/usr/bin/londiste", "londiste", "c.ini", "tables"]
        );
        assert_eq!(
            called(&["pgqd", "-d", "c.ini"]),
            ["pgqd", "ticker", "-d", "c.ini"]
        );
        assert_eq!(
            called(&["qadmin", "-h", "db1", "shop"]),
            ["qadmin", "qadmin", "-h", "db1", "shop"]
        );
        assert_eq!(called(&["qadmin", "--version"]), ["qadmin", "--version"]);
        assert_eq!(called(&["pgqd", "-V"]), ["pgqd", "-V"]);
        let lacks =
            |words: &[&str]| Call::from_arguments(words.iter().map(OsString::from)).lacks_configuration();
        assert!(lacks(&["pgqd"]));
        assert!(!lacks(&["pgqd", "c.ini"]) && !lacks(&["skytide", "ticker"]));
        assert_eq!(called(&["skytide", "doctor"]), ["skytide", "doctor"]);
        assert!(called(&[]).is_empty());
    }
}
