//! The switches that every long-running command shares: sample, overrides, background, signals
//! to the process that already runs.

use std::io;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::Context as _;
use rustix::process::Signal;

use super::pidfile;
use crate::cli::failure::Failure;
use crate::cli::{Context, Outcome};
use crate::config::settings::ProcessSettings;
use crate::config::{ConfigError, Overrides};

#[derive(clap::Args, Debug, Clone, Default)]
pub struct DaemonArgs {
    /// Override a key of the configuration file; may be repeated.
    #[arg(long, global = true, value_name = "KEY=VALUE")]
    pub set: Vec<String>,
    /// Print a commented sample configuration and leave.
    #[arg(long, global = true)]
    pub ini: bool,
    /// Go to the background (needs pidfile and logfile).
    #[arg(short, long, global = true)]
    pub daemon: bool,
    /// Tell the running process to read its configuration again and to reopen its log file.
    #[arg(short, long, global = true, group = "signal")]
    pub reload: bool,
    /// Tell the running process to finish and stop.
    #[arg(short, long, global = true, group = "signal")]
    pub stop: bool,
    /// Tell the running process to stop (SIGTERM, which is as gentle as --stop here).
    #[arg(short, long, global = true, group = "signal")]
    pub kill: bool,
}

/// What to do after the shared switches have been looked at.
pub enum Next {
    /// Do the command's own work, in this process.
    Run,
    /// A switch was the whole job.
    Leave(Outcome),
}

impl DaemonArgs {
    pub fn overrides(&self) -> Result<Overrides, ConfigError> {
        Overrides::from_arguments(&self.set)
    }

    /// Honour -s, -k, -r and -d.
    pub fn handle(&self, settings: &ProcessSettings, context: &Context) -> anyhow::Result<Next> {
        match (self.reload, self.stop, self.kill) {
            (true, ..) => signal(settings, Signal::HUP, "SIGHUP", context).map(Next::Leave),
            (_, true, _) => signal(settings, Signal::INT, "SIGINT", context).map(Next::Leave),
            (_, _, true) => signal(settings, Signal::TERM, "SIGTERM", context).map(Next::Leave),
            _ if self.daemon => go_to_background(settings).map(|()| Next::Leave(Outcome::Done)),
            _ => Ok(Next::Run),
        }
    }
}

fn pidfile_of(settings: &ProcessSettings) -> Result<&Path, Failure> {
    settings.pidfile.as_deref().ok_or_else(|| {
        Failure::usage("no pidfile is configured").hint(format!(
            "Add a line: pidfile = ~/.skytide/{}.pid",
            settings.job_name
        ))
    })
}

fn signal(
    settings: &ProcessSettings,
    signal: Signal,
    name: &str,
    context: &Context,
) -> anyhow::Result<Outcome> {
    let path = pidfile_of(settings)?;
    let text = match pidfile::send(path, signal)? {
        true => format!("{name} sent"),
        false => format!("no process of {} is running", path.display()),
    };
    context.output.line(text)?;
    // The old tools left with 0 in both cases, and scripts rely on it.
    Ok(Outcome::Done)
}

/// Start the same command again, detached, without `-d`. A process with threads cannot fork
/// safely, and starting anew is what a service manager would do.
fn go_to_background(settings: &ProcessSettings) -> anyhow::Result<()> {
    let path = pidfile_of(settings)?;
    let logfile = settings.logfile.as_deref().ok_or_else(|| {
        Failure::usage("no logfile is configured, and a process in the background has nowhere else to write")
            .hint(format!(
                "Add a line: logfile = ~/.skytide/{}.log",
                settings.job_name
            ))
    })?;
    if let Some(pid) = pidfile::running(path)? {
        let pid = pid.as_raw_pid();
        return Err(pidfile::PidfileError::Running {
            path: path.to_owned(),
            pid,
        }
        .into());
    }
    let log = std::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(logfile)
        .with_context(|| format!("open logfile {}", logfile.display()))?;
    let program = std::env::current_exe().context("find this program")?;
    let mut arguments = std::env::args_os();
    let name = arguments
        .next()
        .unwrap_or_else(|| program.clone().into_os_string());
    let mut child = Command::new(&program)
        .arg0(name)
        .args(arguments.filter(|argument| argument != "-d" && argument != "--daemon"))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .env(super::DETACHED, "1")
        .spawn()
        .context("start the background process")?;
    wait_for_pidfile(&mut child, path)
}

/// Errors of the start belong on this terminal: wait until the child holds the pidfile or is gone.
fn wait_for_pidfile(child: &mut std::process::Child, path: &Path) -> anyhow::Result<()> {
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
    loop {
        if let Some(status) = child.try_wait().context("watch the background process")? {
            return Err(
                Failure::new(format!("the background process left at once: {status}"))
                    .hint("Its reason is at the end of logfile.")
                    .into(),
            );
        }
        let holder = pidfile::running(path)
            .ok()
            .flatten()
            .map(rustix::process::Pid::as_raw_pid);
        if holder.is_some_and(|holder| u32::try_from(holder).is_ok_and(|holder| holder == child.id())) {
            return Ok(());
        }
        if std::time::Instant::now() > deadline {
            let timeout = io::Error::from(io::ErrorKind::TimedOut);
            return Err(
                anyhow::Error::new(timeout).context("wait for the background process to write its pidfile")
            );
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
}
