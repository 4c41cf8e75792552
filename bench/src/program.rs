//! The `skytide` program and its long-running children.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use skytide_fixtures::wait;

/// The release binary beside this one: the real program, not its library.
#[derive(Clone, Debug)]
pub struct Program {
    path: PathBuf,
}

impl Program {
    pub fn find() -> anyhow::Result<Program> {
        let me = std::env::current_exe()?;
        let path = me.with_file_name("skytide");
        ensure!(
            path.is_file(),
            "{} is not there; build it: cargo build --release -p skytide",
            path.display()
        );
        Ok(Program { path })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Runs a command to its end.
    pub async fn run(&self, args: &[&str]) -> anyhow::Result<String> {
        let out = tokio::process::Command::new(&self.path)
            .args(args)
            .output()
            .await
            .context("start skytide")?;
        if !out.status.success() {
            bail!(
                "skytide {}: {}",
                args.join(" "),
                String::from_utf8_lossy(&out.stderr).trim()
            );
        }
        Ok(String::from_utf8_lossy(&out.stdout).into_owned())
    }

    /// Starts a command that goes on until it is stopped; it writes to `log`.
    pub fn spawn(&self, args: &[&str], log: &Path) -> anyhow::Result<Daemon> {
        let out = File::options().create(true).append(true).open(log)?;
        let child = Command::new(&self.path)
            .args(args)
            .stdin(Stdio::null())
            .stdout(out.try_clone()?)
            .stderr(out)
            .spawn()
            .context("start skytide")?;
        Ok(Daemon {
            child,
            log: log.to_owned(),
        })
    }
}

/// A running child; killed when dropped.
pub struct Daemon {
    child: Child,
    log: PathBuf,
}

impl Daemon {
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Fails with the end of its log if it has ended.
    pub fn check(&mut self) -> anyhow::Result<()> {
        if let Some(status) = self.child.try_wait()? {
            let log = fs::read_to_string(&self.log).unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            let tail = lines.get(lines.len().saturating_sub(15)..).unwrap_or_default();
            bail!("skytide ended with {status}; its log:\n{}", tail.join("\n"));
        }
        Ok(())
    }

    /// Asks it to stop and waits for that.
    pub async fn stop(mut self) -> anyhow::Result<()> {
        if let Some(pid) = Pid::from_raw(i32::try_from(self.child.id())?) {
            kill_process(pid, Signal::TERM)?;
        }
        wait::until("skytide to stop", Duration::from_secs(60), async || {
            Ok(self.child.try_wait()?)
        })
        .await?;
        Ok(())
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
