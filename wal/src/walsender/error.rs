//! What can go wrong on a replication connection.

use std::error::Error as _;
use std::io;
use std::time::Duration;

use skytide_sql::conn::ConnectError;
use skytide_sql::fault::{Fault, fault_of_io, fault_of_sqlstate};

use super::command::UnsupportedByServer;
use super::frame::FrameError;
use super::message::{BadMessage, ServerError};

#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WalsenderError {
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error(transparent)]
    Server(#[from] Box<ServerError>),
    #[error("replication connection lost")]
    Io(#[from] io::Error),
    #[error("the server closed the replication connection")]
    Closed,
    /// An orderly end: the server is shutting down.
    #[error("the server ended the stream because it is shutting down")]
    Shutdown,
    #[error("the server took nothing for {limit:?}")]
    WriteTimeout { limit: Duration },
    #[error(transparent)]
    Frame(#[from] FrameError),
    #[error(transparent)]
    Message(#[from] BadMessage),
    #[error("unexpected message {:?} from the server during {during}", char::from(*.tag))]
    Unexpected { tag: u8, during: &'static str },
    #[error("the server's answer to {command} makes no sense: {what}")]
    Answer {
        command: &'static str,
        what: &'static str,
    },
    #[error(
        "the server wants a password for user {user:?}: set password, or add a line to the password file"
    )]
    NoPassword { user: String },
    #[error(
        "the server wants the password in clear over an unencrypted link: set sslmode=require, or scram-sha-256 in its pg_hba.conf"
    )]
    ClearPassword,
    #[error(
        "the server wants {wanted}, which is not supported: use scram-sha-256, md5 or cert in its pg_hba.conf"
    )]
    Authentication { wanted: String },
    #[error("channel_binding=require, but {why}")]
    ChannelBinding { why: &'static str },
    /// The server did not prove that it knows the password, or does not know ours.
    #[error("SCRAM authentication failed")]
    Scram { source: io::Error },
    #[error(transparent)]
    Unsupported(#[from] UnsupportedByServer),
    #[error("an earlier command on this replication connection was abandoned half-way: connect again")]
    Abandoned,
    #[error("this replication connection has streamed changes before, which works only once: connect again")]
    StreamedBefore,
}

impl WalsenderError {
    /// What the server said, wherever in the chain it stands.
    pub fn server_error(&self) -> Option<&ServerError> {
        match self {
            WalsenderError::Server(error) => Some(error),
            WalsenderError::Connect(error) => error
                .source()
                .and_then(|source| source.downcast_ref::<WalsenderError>())
                .and_then(WalsenderError::server_error),
            _ => None,
        }
    }

    pub fn fault(&self) -> Fault {
        match self {
            WalsenderError::Connect(error) => error.fault(),
            WalsenderError::Server(error) => fault_of_sqlstate(&error.code),
            WalsenderError::Io(error) => fault_of_io(error),
            WalsenderError::Closed | WalsenderError::Shutdown | WalsenderError::WriteTimeout { .. } => {
                Fault::Retry
            }
            WalsenderError::NoPassword { .. }
            | WalsenderError::ClearPassword
            | WalsenderError::Authentication { .. }
            | WalsenderError::ChannelBinding { .. }
            | WalsenderError::Scram { .. }
            | WalsenderError::Unsupported(_) => Fault::Operator,
            WalsenderError::Frame(_)
            | WalsenderError::Message(_)
            | WalsenderError::Unexpected { .. }
            | WalsenderError::Answer { .. }
            | WalsenderError::StreamedBefore
            | WalsenderError::Abandoned => Fault::Bug,
        }
    }
}
