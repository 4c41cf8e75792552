//! What is done to a standby, on its own host.

pub mod boot;
pub mod create;
pub mod pause;

use std::path::Path;

use skytide_sql::conn::ConnectString;
use skytide_wal::server::{Postmaster, ServerError};

use crate::cli::failure::Failure;
use crate::config::settings::WalmgrSettings;

fn data_dir(settings: &WalmgrSettings) -> anyhow::Result<&Path> {
    let dir = settings.data_dir.as_deref();
    Ok(dir.ok_or_else(|| {
        Failure::usage("it is not said which standby")
            .hint("Set slave_data to its data directory, on this host.")
    })?)
}

/// The server of the data directory: as the configuration says, or as the server itself does.
fn target(settings: &WalmgrSettings) -> anyhow::Result<ConnectString> {
    if let Some(target) = &settings.standby {
        return Ok(target.clone());
    }
    let data_dir = data_dir(settings)?;
    let Some(postmaster) = Postmaster::find(data_dir)? else {
        return Err(ServerError::NotRunning {
            data_dir: data_dir.to_owned(),
        }
        .into());
    };
    let text = postmaster.connect_text();
    let variable = |name: &str| std::env::var(name).ok();
    Ok(ConnectString::parse_with_environment(&text, variable)?)
}
