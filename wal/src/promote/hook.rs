//! Programs that an operator gives: argument vectors, run without a shell, for a limited time.

use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use tokio::process::Command;

/// What of a program's words goes into an error.
const KEPT_OUTPUT: usize = 2000;

/// A program and its arguments. Never empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hook {
    words: Vec<String>,
}

#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HookError {
    #[error("{program} could not be started")]
    Start {
        program: String,
        #[source]
        source: std::io::Error,
    },
    #[error("{program} was stopped: it took longer than {limit:?}")]
    TimedOut { program: String, limit: Duration },
    #[error("{program} failed ({status}){}", said(output))]
    Failed {
        program: String,
        status: ExitStatus,
        /// What it wrote, both streams; may be empty.
        output: String,
    },
}

fn said(output: &str) -> String {
    match output.is_empty() {
        true => String::new(),
        false => format!(": {output}"),
    }
}

impl Hook {
    /// Splits at spaces; what stands in double quotes is one word. `None` for no word, and for a quote without its
    /// other one.
    pub fn parse(text: &str) -> Option<Hook> {
        let mut words = Vec::new();
        let mut word: Option<String> = None;
        let mut quoted = false;
        for c in text.chars() {
            match c {
                '"' => {
                    quoted = !quoted;
                    word.get_or_insert_default();
                }
                c if c.is_whitespace() && !quoted => words.extend(word.take()),
                c => word.get_or_insert_default().push(c),
            }
        }
        words.extend(word);
        let named = words.first().is_some_and(|program| !program.is_empty());
        (named && !quoted).then_some(Hook { words })
    }

    pub fn new(program: &Path, arguments: &[&str]) -> Hook {
        let mut words = vec![program.display().to_string()];
        words.extend(arguments.iter().map(|word| (*word).to_owned()));
        Hook { words }
    }

    /// Runs it to its end. Its group is killed when the time is over.
    pub async fn run(&self, environment: &[(&str, String)], limit: Duration) -> Result<(), HookError> {
        self.run_with(Stdio::null(), environment, limit).await
    }

    /// Like [`Hook::run`]. What locks `input` has last until the program has ended, even if this one is killed.
    pub async fn run_with(
        &self,
        input: Stdio,
        environment: &[(&str, String)],
        limit: Duration,
    ) -> Result<(), HookError> {
        let [program, arguments @ ..] = self.words.as_slice() else {
            return Ok(());
        };
        let program = program.clone();
        // Files and not pipes: a server that is started by it would keep a pipe open for ever.
        let output = tempfile_in_memory().map_err(|source| HookError::Start {
            program: program.clone(),
            source,
        })?;
        let streams = || output.try_clone().map(Stdio::from);
        let start = |source| HookError::Start {
            program: program.clone(),
            source,
        };
        let mut child = Command::new(&program)
            .args(arguments)
            .envs(environment.iter().map(|(name, value)| (*name, value)))
            .stdin(input)
            .stdout(streams().map_err(start)?)
            .stderr(streams().map_err(start)?)
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .map_err(start)?;
        let group = child.id().and_then(|id| i32::try_from(id).ok());
        let Ok(ended) = tokio::time::timeout(limit, child.wait()).await else {
            if let Some(group) = group.and_then(rustix::process::Pid::from_raw) {
                let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
            }
            let _ = child.wait().await;
            return Err(HookError::TimedOut { program, limit });
        };
        let status = ended.map_err(start)?;
        match status.success() {
            true => Ok(()),
            false => Err(HookError::Failed {
                program,
                status,
                output: read_back(&output),
            }),
        }
    }
}

fn tempfile_in_memory() -> std::io::Result<std::fs::File> {
    let file = rustix::fs::memfd_create("skytide-hook", rustix::fs::MemfdFlags::CLOEXEC)?;
    Ok(std::fs::File::from(file))
}

/// The end of what was written.
fn read_back(file: &std::fs::File) -> String {
    use std::os::unix::fs::FileExt;
    let length = file.metadata().map_or(0, |meta| meta.len());
    let from = length.saturating_sub(KEPT_OUTPUT as u64);
    let mut bytes = vec![0; KEPT_OUTPUT];
    let read = file.read_at(&mut bytes, from).unwrap_or(0);
    bytes.truncate(read);
    String::from_utf8_lossy(&bytes).trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Option<Vec<String>> {
        Hook::parse(text).map(|hook| hook.words)
    }

    #[test]
    fn words_are_split_without_a_shell() {
        let split = words("  /bin/fence --host  \"a b\" '$x' \"\" ").unwrap();
        assert_eq!(split, ["/bin/fence", "--host", "a b", "'$x'", ""]);
        assert_eq!(words(" "), None);
        assert_eq!(words("\"\""), None);
        assert_eq!(words("fence \"a"), None);
    }

    #[tokio::test]
    async fn a_hook_says_why_it_failed_and_is_stopped_in_time() {
        let limit = Duration::from_secs(60);
        let hook = |script: &str| Hook::new(Path::new("/bin/sh"), &["-c", script]);
        let name = [("FENCED", "a".to_owned())];
        hook("test \"$FENCED\" = a").run(&name, limit).await.unwrap();
        let failed = hook("echo no power; exit 3").run(&[], limit).await.unwrap_err();
        assert!(failed.to_string().ends_with("no power"), "{failed}");
        let slow = hook("sleep 1000").run(&[], Duration::from_millis(50)).await;
        assert!(matches!(slow, Err(HookError::TimedOut { .. })), "{slow:?}");
        let none = Hook::new(Path::new("/nowhere/fence"), &[]).run(&[], limit).await;
        assert!(matches!(none, Err(HookError::Start { .. })), "{none:?}");
    }
}
