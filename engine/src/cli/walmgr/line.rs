//! Command lines: those PostgreSQL is given for this program, and those a configuration has for a shell.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::Context as _;

use crate::cli::failure::Failure;

/// Does the same as `skytide walmgr` for a file of WAL, and starts faster.
const SMALL: &str = "skytide-walmgr";

/// How much of a failed command's output is shown.
const SHOWN: u64 = 2000;

/// This program with this configuration. PostgreSQL runs it by a shell, in the data directory.
pub fn archive_command(conf: &Path) -> anyhow::Result<String> {
    Ok(format!("{} archive %p %f", program(conf)?))
}

pub fn restore_command(conf: &Path) -> anyhow::Result<String> {
    Ok(format!("{} restore-wal %f \"%p\"", program(conf)?))
}

fn program(conf: &Path) -> anyhow::Result<String> {
    let program = std::env::current_exe().context("find this program")?;
    let conf = std::path::absolute(conf).context("find the configuration")?;
    let small = program.with_file_name(SMALL);
    Ok(match small.is_file() {
        true => format!("{} {}", quote(&small)?, quote(&conf)?),
        false => format!("{} walmgr {}", quote(&program)?, quote(&conf)?),
    })
}

/// For a shell, and PostgreSQL's percent signs.
fn quote(path: &Path) -> anyhow::Result<String> {
    let text = path
        .to_str()
        .ok_or_else(|| Failure::new(format!("{} is no UTF-8", path.display())))?;
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+=@:,".contains(c);
    let text = text.replace('%', "%%");
    Ok(match text.chars().all(plain) {
        true => text,
        false => format!("'{}'", text.replace('\'', "'\\''")),
    })
}

/// Runs a command of the configuration. Its output is kept in a file and not in a pipe: a server that it starts would hold
/// that open.
pub async fn shell(key: &'static str, line: &str, environment: &[(&str, &Path)]) -> anyhow::Result<()> {
    let mut command = Command::new("/bin/sh");
    command.arg("-c").arg(line).stdin(Stdio::null());
    command.envs(environment.iter().copied());
    let work = tokio::task::spawn_blocking(move || -> std::io::Result<_> {
        let mut output = File::from(rustix::fs::memfd_create(
            "skytide",
            rustix::fs::MemfdFlags::CLOEXEC,
        )?);
        let status = command
            .stdout(output.try_clone()?)
            .stderr(output.try_clone()?)
            .status()?;
        let mut said = Vec::new();
        let bytes = output.metadata()?.len();
        output.seek(SeekFrom::Start(bytes.saturating_sub(SHOWN)))?;
        output.take(SHOWN).read_to_end(&mut said)?;
        Ok((status, String::from_utf8_lossy(&said).trim().to_owned()))
    });
    let (status, said) = work.await?.with_context(|| format!("run {key}"))?;
    if status.success() {
        return Ok(());
    }
    let mut failure = Failure::new(format!("{key} failed: {status}"));
    if !said.is_empty() {
        failure = failure.detail(said);
    }
    Err(failure
        .hint(format!("It is in the configuration: {key} = {line}"))
        .into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shell_reads_paths_as_they_are() {
        assert_eq!(quote(Path::new("/usr/bin/skytide")).unwrap(), "/usr/bin/skytide");
        assert_eq!(quote(Path::new("/a b/it's%f")).unwrap(), "'/a b/it'\\''s%%f'");
    }

    #[tokio::test]
    async fn a_command_that_fails_is_quoted_with_its_words() {
        shell(
            "periodic_command",
            "test -n \"$WHERE\"",
            &[("WHERE", Path::new("/x"))],
        )
        .await
        .unwrap();
        let error = shell("periodic_command", "echo no disk; exit 3", &[]).await;
        let error = error.unwrap_err().downcast::<Failure>().unwrap();
        assert!(error.message.contains("periodic_command failed: exit status: 3"));
        assert_eq!(error.detail.as_deref(), Some("no disk"));
    }
}
