//! Old call forms: a link named like an old program runs the command that took its place.

use std::ffi::{OsStr, OsString};
use std::path::Path;
use std::process::ExitCode;

use skytide_wal::WalFileName;

/// Old program name, and the words that stand for it here.
pub const OLD_NAMES: &[(&str, &str)] = &[
    ("londiste", "londiste"),
    ("londiste3", "londiste"),
    ("pgqd", "ticker"),
    ("qadmin", "qadmin"),
    ("walmgr", "walmgr"),
    ("walmgr3", "walmgr"),
];

/// What `restore_command` runs.
const RESTORES: [&str; 2] = ["restore-wal", "xrestore"];
/// What PostgreSQL calls the files that it restores (`access/transam/xlogarchive.c`).
pub const RECOVERED: [&str; 2] = ["RECOVERYXLOG", "RECOVERYHISTORY"];
/// Other commands that files of WAL are named to.
const KNOWS_WAL_FILES: [&str; 6] = ["archive", "xarchive", "xpartialsync", "verify", "dump", "stats"];

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

    /// Whether PostgreSQL's recovery may be waiting for the exit code (`restore_command`): the command says so, or it
    /// is mistyped and a file of WAL is named (%f). `archive_command` names it twice, the path (%p) first.
    pub fn restores(&self) -> bool {
        let words = || self.arguments.iter().skip(1).filter_map(|word| word.to_str());
        let is_path_of =
            |name: &str| words().any(|word| word.strip_suffix(name).is_some_and(|dir| dir.ends_with('/')));
        let is_wanted = |word: &str| word.parse::<WalFileName>().is_ok() && !is_path_of(word);
        words().any(|word| RESTORES.contains(&word) || RECOVERED.iter().any(|name| word.ends_with(name)))
            || words().any(is_wanted) && !words().any(|word| KNOWS_WAL_FILES.contains(&word))
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

    /// Prevents: a typing error in restore_command that recovery takes for the end of the WAL.
    #[test]
    fn recovery_is_told_from_whoever_else_calls() {
        const NAME: &str = "00000001000000000000000A";
        let restores = |line: &str| {
            let words = line.replace("%f", NAME).replace("%q", &format!("pg_wal/{NAME}"));
            let words = words.split(' ').map(OsString::from);
            Call::from_arguments([OsString::from("skytide")].into_iter().chain(words)).restores()
        };
        for line in [
            "walmgr c.ini restore-wal %f pg_wal/RECOVERYXLOG",
            "walmgr c.ini xrestore",
            "--quiet walmgr c.ini restore-wal %f pg_wal/RECOVERYXLOG",
            "walmgr c.ini restore_wal %f pg_wal/RECOVERYXLOG",
            "walmgr c.ini restore %f pg_wal/RECOVERYXLOG",
            "wlmgr c.ini restore-wal %f pg_wal/RECOVERYXLOG",
            "wlmgr c.ini restoer 00000002.history pg_wal/RECOVERYHISTORY",
            "walmgr c.ini archive pg_wal/RECOVERYXLOG %f",
            "wal verify %f pg_wal/RECOVERYXLOG",
            "walmgr c.ini restore_wal 00000002.history,pg_wal/RECOVERYHISTORY",
            "walmgr c.ini %f pg_wal/RECOVERYXLOG",
        ] {
            assert!(restores(line), "{line}");
        }
        for line in [
            "walmgr c.ini archive %q %f",
            "walmgr c.ini archiv %q %f",
            "walmgr c.ini restore latest /srv/new",
            "walmgr c.ini",
            "wal verify %f",
            "queue create q",
        ] {
            assert!(!restores(line), "{line}");
        }
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
