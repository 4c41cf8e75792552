//! This program's own commands, run as a user runs them, and shown as they are run.

use std::path::Path;
use std::process::Stdio;

use anyhow::Context as _;
use tokio::process::Command;

use crate::cli::failure::Failure;
use crate::cli::output::Output;
use crate::cli::shell;

/// What a command left behind.
struct Done {
    stdout: String,
    code: Option<i32>,
}

/// Runs commands, telling each as a line that can be typed.
pub struct Steps<'a> {
    pub output: &'a Output,
}

impl Steps<'_> {
    /// Shows the command and what it says; its failure is ours.
    pub async fn run(&self, arguments: &[&str]) -> anyhow::Result<()> {
        let done = self.call(arguments).await?;
        for line in done.stdout.lines() {
            self.output.note(&format!("    {line}"));
        }
        if done.code == Some(0) {
            return Ok(());
        }
        Err(refusal(arguments, &done))
    }

    /// The same for a command whose result is wanted: exit code 3 is an answer too.
    pub async fn ask(&self, arguments: &[&str]) -> anyhow::Result<serde_json::Value> {
        let mut with_json = arguments.to_vec();
        with_json.push("--json");
        let done = self.call(&with_json).await?;
        match done.code {
            Some(0 | 3) => serde_json::from_str(&done.stdout).context("read the command's JSON"),
            _ => Err(refusal(arguments, &done)),
        }
    }

    async fn call(&self, arguments: &[&str]) -> anyhow::Result<Done> {
        self.output.note(&format!("$ {}", spelled(arguments)));
        let program = std::env::current_exe().context("find this program")?;
        // A signal to the terminal's group is for us: we decide what happens to our commands.
        let child = Command::new(program)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("start {}", spelled(arguments)))?;
        let out = child.wait_with_output().await?;
        for line in String::from_utf8_lossy(&out.stderr).lines() {
            self.output.note(&format!("    {line}"));
        }
        Ok(Done {
            stdout: String::from_utf8_lossy(&out.stdout).into_owned(),
            code: out.status.code(),
        })
    }
}

fn refusal(arguments: &[&str], done: &Done) -> anyhow::Error {
    let code = done
        .code
        .map_or("a signal".to_owned(), |code| format!("exit code {code}"));
    Failure::new(format!("{} ended with {code}", spelled(arguments)))
        .detail("its own words are above")
        .into()
}

/// As it would be typed into a shell.
fn spelled(arguments: &[&str]) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_=./:,".contains(c);
    let mut line = "skytide".to_owned();
    for argument in arguments {
        line.push(' ');
        match !argument.is_empty() && argument.chars().all(plain) {
            true => line.push_str(argument),
            false => line.push_str(&shell::quote(argument)),
        }
    }
    line
}

/// A path as an argument.
pub fn text(path: &Path) -> anyhow::Result<&str> {
    path.to_str()
        .with_context(|| format!("{} is not UTF-8; choose another --dir", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_can_be_typed_again() {
        assert_eq!(
            spelled(&["install", "host=a port=1", "--plain=x", ""]),
            "skytide install 'host=a port=1' --plain=x ''"
        );
    }
}
