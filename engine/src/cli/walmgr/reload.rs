//! SIGHUP: the configuration is read again.

use tracing::{error, info, warn};

use crate::config::settings::WalmgrSettings;

/// What a process may be told while it runs; the rest is found out at its start.
fn fixed(settings: &WalmgrSettings) -> [(&'static str, String); 7] {
    let process = &settings.process;
    [
        ("job_name", process.job_name.clone()),
        ("logfile", format!("{:?}", process.logfile)),
        ("pidfile", format!("{:?}", process.pidfile)),
        ("metrics_listen", format!("{:?}", process.metrics_listen)),
        ("socket", format!("{:?}", settings.socket)),
        ("store_listen", format!("{:?}", settings.store_listen)),
        (
            "tls_certificate, tls_key or tls_authority",
            format!(
                "{:?}",
                settings.tls.as_ref().filter(|_| settings.store_listen.is_some())
            ),
        ),
    ]
}

/// The new settings; `None` if they cannot be used, and the old ones stay.
pub fn read(
    load: impl FnOnce() -> anyhow::Result<WalmgrSettings>,
    old: &WalmgrSettings,
) -> Option<WalmgrSettings> {
    let new = match load() {
        Ok(new) => new,
        Err(error) => {
            error!(
                error = format!("{error:#}"),
                "configuration not read again; the old one stays"
            );
            return None;
        }
    };
    for ((key, old), (_, new)) in fixed(old).into_iter().zip(fixed(&new)) {
        if old != new {
            warn!(key, "changes only when the process is started anew");
        }
    }
    match new == *old {
        true => info!("configuration read again: nothing changed"),
        false => info!("configuration read again"),
    }
    Some(new)
}
