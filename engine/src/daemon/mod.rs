//! What a long-running process needs around its work: signals, pidfile, log file, health.

pub mod control;
pub mod health;
pub mod log;
pub mod manager;
pub mod pidfile;
pub mod process;

use std::sync::Arc;

use anyhow::Context as _;

use crate::cli::Context;
use crate::config::settings::ProcessSettings;
use health::Health;
use manager::Manager;
use pidfile::Pidfile;
use process::Reloads;

/// Set for a process that was put into the background: it has no terminal to go back to.
const DETACHED: &str = "SKYTIDE_DETACHED";

/// The frame around a running service; dropping it removes the pidfile.
pub struct Daemon {
    pub reloads: Reloads,
    pub health: Health,
    pub manager: Arc<Manager>,
    _pidfile: Option<Pidfile>,
}

impl Drop for Daemon {
    /// The task that watches for the stop may not get its turn before the process is gone.
    fn drop(&mut self) {
        self.manager.stopping();
    }
}

/// Steps, in this order: pidfile first, so that a second start changes nothing; then the log,
/// signals, and the port.
pub async fn start(settings: &ProcessSettings, context: &Context) -> anyhow::Result<Daemon> {
    let pidfile = settings.pidfile.as_deref().map(Pidfile::take).transpose()?;
    if let Some(path) = &settings.logfile {
        context
            .log
            .to_file(path)
            .with_context(|| format!("open logfile {}", path.display()))?;
    }
    if std::env::var_os(DETACHED).is_some() {
        rustix::process::setsid().context("leave the terminal's session")?;
    }
    let reloads = process::arm(context.shutdown.clone(), context.log.clone())?;
    let health = Health::default();
    if let Some(listen) = &settings.metrics_listen {
        health::serve(listen, health.clone(), context.shutdown.clone()).await?;
    }
    let manager = Arc::new(Manager::new(std::env::var_os("NOTIFY_SOCKET").as_deref()));
    let variable = |name| std::env::var(name).ok();
    let limit = manager::watchdog(
        variable("WATCHDOG_USEC").as_deref(),
        variable("WATCHDOG_PID").as_deref(),
        std::process::id(),
    );
    tokio::spawn(manager::watch(manager.clone(), limit, context.shutdown.clone()));
    manager.ready();
    Ok(Daemon {
        reloads,
        health,
        manager,
        _pidfile: pidfile,
    })
}
