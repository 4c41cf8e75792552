//! What is done to a primary, over `master_db`.

pub mod periodic;
pub mod setup;
pub mod stop;
pub mod sync_names;

use skytide_sql::conn::{ConnectString, Session, connect};
use skytide_wal::server::{self, ServerError};

use super::store;
use crate::cli::failure::{Advice, Failure};
use crate::config::settings::WalmgrSettings;

/// The configured server's connect string.
fn target(settings: &WalmgrSettings) -> anyhow::Result<&ConnectString> {
    let target = settings.server.as_ref();
    Ok(target.ok_or_else(|| {
        Failure::usage("it is not said which server")
            .hint("Set master_db to the primary's connect string: master_db = host=/var/run/postgresql dbname=postgres")
    })?)
}

/// The configured server, which has to be a primary.
async fn session(settings: &WalmgrSettings) -> anyhow::Result<Session> {
    let session = connect(target(settings)?, &settings.process.job_name).await?;
    server::primary(&session).await?;
    Ok(session)
}

impl Advice for ServerError {
    fn detail(&self) -> Option<String> {
        match self {
            ServerError::NotArchived {
                failed: Some(failed), ..
            } => Some(format!("The archiver says: {failed}.")),
            ServerError::WouldHang { connected, .. } if connected.is_empty() => {
                Some("No standby is connected.".into())
            }
            ServerError::WouldHang { connected, .. } => Some(format!("Connected: {}.", connected.join(", "))),
            ServerError::Lacks { restore_command, .. } if restore_command.is_empty() => {
                Some("Its restore_command is empty.".into())
            }
            ServerError::Lacks { restore_command, .. } => {
                Some(format!("Its restore_command: {restore_command}"))
            }
            _ => None,
        }
    }

    fn hint(&self) -> Option<String> {
        Some(match self {
            ServerError::Sql { source, .. } => match source.code().map(|code| code.code()) {
                Some("42501") => "The user needs to be a superuser (or the right to what is named).".into(),
                _ => return None,
            },
            ServerError::Store(error) => return store::hint(error),
            ServerError::Identity(error) => return error.hint(),
            ServerError::Tail(error) => return error.hint(),
            ServerError::NotRunning { data_dir } => format!("Start it: pg_ctl -D {} start", data_dir.display()),
            ServerError::NoStandby => "Name the standby's data directory in slave_data, and run this on its host.".into(),
            ServerError::NoPrimary => "Name the primary in master_db.".into(),
            ServerError::Overridden { name, .. } => format!(
                "Take {name} off the server's command line, or out of the file that is read after \
                 postgresql.auto.conf; then try again."
            ),
            ServerError::NotArchived { .. } => {
                "The server's log has what archive_command said. Most often the server's user may not read the \
                 configuration or write the store."
                    .into()
            }
            ServerError::PrimaryLives => {
                "Two servers would take writes. Stop the primary first; then what it wrote last comes by sync there, and \
                 boot here. --force takes over all the same, say when its host is gone and the connection is not \
                 noticed yet."
                    .into()
            }
            ServerError::PrimaryAnswers { .. } => {
                "Two servers would take writes. Stop the primary first; then what it wrote last comes by sync there, and \
                 boot here. If another server answers there: --force."
                    .into()
            }
            ServerError::StandbyAnswers { .. } => {
                "Name the primary in primary_conninfo. If that one is dead for certain: --force; or take that other standby, \
                 which this one follows.".into()
            }
            ServerError::Conninfo(_) => {
                "Set primary_conninfo in the configuration here. If the primary is dead for certain: --force.".into()
            }
            ServerError::PrimaryUnknown => {
                "Set primary_conninfo, so that the primary can be asked. If it is dead for certain: --force.".into()
            }
            ServerError::LeftBehind { .. } => {
                "Clients may use the one that took over: put this standby behind it (skytide promote CONF --rejoin NODE). \
                 --force takes over all the same, and there are two histories."
                    .into()
            }
            ServerError::OtherCluster { .. } => "Name this cluster's store in stores.".into(),
            ServerError::NoAnswer { .. } => {
                "It may have WAL that this standby lacks. --force takes over without it: what only it has is lost.".into()
            }
            ServerError::Lacks { .. } => {
                "restore_command brings the rest: 'skytide walmgr CONF restore-wal %f %p', then select pg_reload_conf() \
                 (a restart before 14). --force takes over without it: what is missing is lost."
                    .into()
            }
            ServerError::Replay { .. } => {
                "A replay that waits for a file or for a conflict stops later; ask again, or look at the server's log.".into()
            }
            ServerError::NotPromoted { .. } => "Look at the server's log; boot again goes on.".into(),
            ServerError::WouldHang { .. } => {
                "A standby is called by the application_name in its primary_conninfo, receive by receive_name. Wait \
                 until they stream, name others, or --force."
                    .into()
            }
            _ => return None,
        })
    }
}
