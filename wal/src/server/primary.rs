//! Whether the primary of a standby lives: the primary is asked, since a broken connection proves nothing.

use std::time::Duration;

use skytide_sql::conn::ConnectString;

use super::error::ServerError;
use crate::walsender::{Client, Mode, WalsenderError};

/// A primary that does not answer for so long is not there.
const ANSWER: Duration = Duration::from_secs(5);

/// Refuses where a server answers that takes the cluster's writes, or may.
pub(super) async fn is_gone(
    primary: &ConnectString,
    application_name: &str,
    system_id: u64,
) -> Result<(), ServerError> {
    if !answers(primary, application_name, system_id).await {
        return Ok(());
    }
    let host = primary.hosts().first().map(ToString::to_string);
    Err(ServerError::PrimaryAnswers {
        host: host.unwrap_or_default(),
    })
}

/// A server that says no is a server, too: it starts, or does not know us.
async fn answers(primary: &ConnectString, application_name: &str, system_id: u64) -> bool {
    let asked = async {
        let mut client = Client::connect(primary, Mode::Physical, application_name).await?;
        let same = client.identify_system().await?.system_id == system_id;
        Ok::<bool, WalsenderError>(same && !client.is_read_only().await?)
    };
    match tokio::time::timeout(ANSWER, asked).await {
        Ok(Ok(answers)) => answers,
        Ok(Err(error)) => error.server_error().is_some(),
        Err(_) => false,
    }
}
