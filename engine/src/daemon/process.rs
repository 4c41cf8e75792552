//! Signals: the first asks to stop, the second insists, SIGHUP reloads.

use anyhow::Context;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::log::LogHandle;

/// Counts reloads, so that a loop that was busy sees one change, not a queue of them.
pub type Reloads = watch::Receiver<u64>;

/// Arm the signals: `shutdown` is cancelled by the first SIGTERM or SIGINT, the receiver changes
/// at each SIGHUP, when the log file is opened anew too. A second SIGTERM or SIGINT ends the process on the spot, with exit code 1:
/// everything that matters is on disk or in a transaction, so that is safe, only less polite.
pub fn arm(shutdown: CancellationToken, log: LogHandle) -> anyhow::Result<Reloads> {
    let catch = |kind: SignalKind| signal(kind).context("install signal handlers");
    let signals = Signals {
        terminate: catch(SignalKind::terminate())?,
        interrupt: catch(SignalKind::interrupt())?,
        hangup: catch(SignalKind::hangup())?,
    };
    let (reload, reloads) = watch::channel(0);
    tokio::spawn(signals.listen(shutdown, reload, log));
    Ok(reloads)
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    async fn listen(mut self, shutdown: CancellationToken, reload: watch::Sender<u64>, log: LogHandle) {
        loop {
            let name = tokio::select! {
                _ = self.terminate.recv() => "SIGTERM",
                _ = self.interrupt.recv() => "SIGINT",
                _ = self.hangup.recv() => {
                    if let Err(error) = log.reopen() {
                        warn!(%error, "the log file cannot be opened anew; the old one is kept");
                    }
                    info!("SIGHUP: reload");
                    reload.send_modify(|count| *count += 1);
                    continue;
                }
            };
            if shutdown.is_cancelled() {
                warn!("{name} again: stop at once");
                std::process::exit(1);
            }
            info!("{name}: finish and stop");
            shutdown.cancel();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::process::{Signal, getpid, kill_process};
    use std::time::Duration;
    use tokio::time::timeout;

    #[tokio::test]
    async fn hangup_reloads_and_the_first_terminate_asks_to_stop() {
        let shutdown = CancellationToken::new();
        let mut reloads = arm(shutdown.clone(), LogHandle::stderr(true)).expect("handlers");
        let deadline = Duration::from_secs(10);
        kill_process(getpid(), Signal::HUP).expect("we may signal ourselves");
        timeout(deadline, reloads.changed())
            .await
            .expect("in time")
            .expect("the listener lives");
        assert!(!shutdown.is_cancelled());
        kill_process(getpid(), Signal::TERM).expect("we may signal ourselves");
        timeout(deadline, shutdown.cancelled()).await.expect("in time");
    }
}
