//! Connect string in, ready session out.

mod params;
mod passfile;
mod text;

use std::io;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::poll_fn;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio_postgres::config::{ChannelBinding as ClientBinding, SslMode as ClientSslMode, SslNegotiation};
use tokio_postgres::error::Severity;
use tokio_postgres::{AsyncMessage, Client, Config, Connection, Notification};

pub use self::params::{
    ChannelBinding, ConnectString, ConnectStringError, Host, Place, TargetSession, TcpSettings,
};
use crate::fault::{Fault, fault_of, fault_of_io};
use crate::tls::TlsError;
use crate::transport::{AfterRefusal, Dialer, Link, Opened, Transport, within};

/// What makes values print and parse the same on every server, and lets the server notice a client that
/// vanished without a word: its locks would be in our way. Takes no lock and reads no table.
const SESSION_SETTINGS: &str = "\
    set client_encoding = 'UTF8'; set datestyle = 'ISO'; set intervalstyle = 'postgres'; \
    set default_transaction_isolation = 'read committed'; \
    set extra_float_digits = 3; set bytea_output = 'hex'; set standard_conforming_strings = on; \
    set array_nulls = on; \
    select pg_catalog.set_config(s, '0', false) \
    from pg_catalog.unnest('{idle_session_timeout,transaction_timeout}'::pg_catalog.text[]) s \
    where pg_catalog.current_setting(s, true) is not null; \
    set tcp_keepalives_idle = 30; set tcp_keepalives_interval = 10; set tcp_keepalives_count = 3; \
    set tcp_user_timeout = 60000";

/// Notifications that may wait for a reader; the rest is dropped, since a notification only ever means
/// "look again" and so many of them say nothing more than one.
const NOTIFICATIONS_KEPT: usize = 1024;

/// Warnings that may wait for a reader; who has so many has enough.
const WARNINGS_KEPT: usize = 64;

/// No session, and why. The host is always named, a password never.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    #[error(transparent)]
    ConnectString(#[from] ConnectStringError),
    #[error("cannot reach {host}")]
    Link { host: Host, source: io::Error },
    #[error("{host} did not answer within {limit:?} (connect_timeout)")]
    TimedOut { host: Host, limit: Duration },
    #[error("{host} does not offer TLS, which sslmode demands")]
    NoTls { host: Host },
    #[error("{host} does not speak PostgreSQL's protocol")]
    NotPostgres { host: Host },
    #[error("TLS handshake with {host} failed")]
    Handshake { host: Host, source: io::Error },
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error("{host} refused the session")]
    Refused {
        host: Host,
        /// SQLSTATE, where the server gave one.
        code: Option<String>,
        fault: Fault,
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    #[error(
        "{host} asks for a password of user {user}, and none was found: put it into ~/.pgpass, or into a file that passfile= \
         or PGPASSFILE names"
    )]
    NoPassword { host: Host, user: String },
    #[error("{host} is not {wanted}")]
    WrongSession { host: Host, wanted: &'static str },
    #[error("the connect string names no host")]
    NoHosts,
}

impl ConnectError {
    pub fn fault(&self) -> Fault {
        match self {
            ConnectError::Link { source, .. } => fault_of_io(source),
            ConnectError::Refused { fault, .. } => *fault,
            // A standby may be about to be promoted.
            ConnectError::TimedOut { .. } | ConnectError::WrongSession { .. } => Fault::Retry,
            // A handshake cut short is a restart; one refused is somebody's certificate.
            ConnectError::Handshake { source, .. } if source.kind() != io::ErrorKind::InvalidData => {
                fault_of_io(source)
            }
            _ => Fault::Operator,
        }
    }

    /// Nothing was heard of anybody: neither a refusal, nor a question for a password or for TLS.
    pub fn is_silence(&self) -> bool {
        matches!(
            self,
            ConnectError::Link { .. } | ConnectError::TimedOut { .. } | ConnectError::NoHosts
        )
    }
}

/// A connection in use: a `tokio_postgres::Client` together with the task that moves its bytes.
/// Dropping it ends both.
#[derive(Debug)]
pub struct Session {
    client: Client,
    host: Host,
    target: ConnectString,
    driver: JoinHandle<()>,
    end: watch::Receiver<Option<End>>,
    notifications: Option<mpsc::Receiver<Notification>>,
    warnings: mpsc::Receiver<String>,
}

/// How a connection ended: by our leave, or by an error.
type End = Result<(), Arc<tokio_postgres::Error>>;

/// Opens a session. `application_name` is used unless the connect string has one of its own.
pub async fn connect(target: &ConnectString, application_name: &str) -> Result<Session, ConnectError> {
    let mut dialer = Dialer::new(target)?;
    loop {
        let Link { transport, host } = dialer.dial().await?;
        let login = Session::log_in(transport, &host, target, application_name);
        let outcome = match target.connect_timeout() {
            Some(limit) => within(limit, &host, login).await,
            None => login.await,
        };
        match outcome {
            Ok(session) => return Ok(session),
            Err(error) => {
                let then = after_refusal(&error);
                dialer.refused(error, then)?;
            }
        }
    }
}

/// The same for a session that writes, also where transactions are read only unless they say otherwise.
pub async fn connect_to_write(
    target: &ConnectString,
    application_name: &str,
) -> Result<Session, ConnectError> {
    let session = connect(target, application_name).await?;
    session
        .batch_execute("set default_transaction_read_only = off")
        .await
        .map_err(|error| refused(session.host(), error))?;
    Ok(session)
}

fn refused(host: &Host, error: tokio_postgres::Error) -> ConnectError {
    ConnectError::Refused {
        host: host.clone(),
        code: error.code().map(|code| code.code().to_owned()),
        fault: fault_of_login(&error),
        source: error.into(),
    }
}

/// As libpq decides: a wrong password is final, a host that cannot serve now is not.
pub fn after_refusal(error: &ConnectError) -> AfterRefusal {
    match error {
        ConnectError::Refused { code: Some(code), .. } if code == "28000" => AfterRefusal::TryOtherEncryption,
        ConnectError::Refused { code: Some(code), .. } if code.starts_with("57P") => {
            AfterRefusal::TryOtherHost
        }
        ConnectError::Refused {
            code: None,
            fault: Fault::Retry,
            ..
        }
        | ConnectError::WrongSession { .. }
        | ConnectError::TimedOut { .. } => AfterRefusal::TryOtherHost,
        _ => AfterRefusal::GiveUp,
    }
}

impl Session {
    async fn log_in(
        transport: Transport,
        host: &Host,
        target: &ConnectString,
        application_name: &str,
    ) -> Result<Session, ConnectError> {
        let refused = |error| refused(host, error);
        let (client, connection) = client_config(host, target, application_name)
            .connect_raw(transport, Opened)
            .await
            .map_err(|error| match std::error::Error::source(&error) {
                Some(cause) if cause.to_string() == "password missing" => ConnectError::NoPassword {
                    host: host.clone(),
                    user: target.user().to_owned(),
                },
                _ => refused(error),
            })?;
        let (end_sender, end) = watch::channel(None);
        let (notify, notifications) = mpsc::channel(NOTIFICATIONS_KEPT);
        let (warn, warnings) = mpsc::channel(WARNINGS_KEPT);
        let session = Session {
            client,
            host: host.clone(),
            target: target.clone(),
            driver: tokio::spawn(drive(connection, notify, warn, end_sender)),
            end,
            notifications: Some(notifications),
            warnings,
        };
        session.batch_execute(SESSION_SETTINGS).await.map_err(refused)?;
        let (question, wanted) = match target.target_session() {
            TargetSession::Any => return Ok(session),
            TargetSession::ReadWrite => (
                "select current_setting('transaction_read_only') = 'off'",
                "open for writing (target_session_attrs)",
            ),
            TargetSession::Primary => (
                "select not pg_is_in_recovery()",
                "a primary (target_session_attrs)",
            ),
        };
        let row = session.query_one(question, &[]).await.map_err(refused)?;
        if row.get(0) {
            Ok(session)
        } else {
            Err(ConnectError::WrongSession {
                host: host.clone(),
                wanted,
            })
        }
    }

    /// The host that answered.
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// What LISTEN brings in. `None` the second time: there is one reader.
    pub fn notifications(&mut self) -> Option<mpsc::Receiver<Notification>> {
        self.notifications.take()
    }

    /// What the server warned of since this was asked last, with the answers that have come in.
    pub fn take_warnings(&mut self) -> Vec<String> {
        std::iter::from_fn(|| self.warnings.try_recv().ok()).collect()
    }

    /// Waits until the connection is gone; the error says why, unless we ended it ourselves.
    pub async fn closed(&self) -> Result<(), Arc<tokio_postgres::Error>> {
        let mut end = self.end.clone();
        match end.wait_for(Option::is_some).await {
            Ok(end) => end.clone().unwrap_or(Ok(())),
            // The driver was stopped before it could say.
            Err(_) => Ok(()),
        }
    }

    /// Asks the server, over a connection of its own, to cancel what this session is doing. Take it before
    /// the statement starts; it may be sent from another task.
    pub fn canceller(&self) -> Canceller {
        Canceller {
            token: self.client.cancel_token(),
            target: self.target.only_host(&self.host),
        }
    }
}

impl Deref for Session {
    type Target = Client;

    fn deref(&self) -> &Client {
        &self.client
    }
}

impl DerefMut for Session {
    fn deref_mut(&mut self) -> &mut Client {
        &mut self.client
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

/// See `Session::canceller`.
#[derive(Clone)]
pub struct Canceller {
    token: tokio_postgres::CancelToken,
    target: ConnectString,
}

impl Canceller {
    /// Success means that the request was sent; whether it came in time only the statement tells.
    pub async fn cancel(&self) -> Result<(), ConnectError> {
        let Link { transport, host } = Dialer::new(&self.target)?.dial().await?;
        let sent = self.token.cancel_query_raw(transport, Opened).await;
        sent.map_err(|error| ConnectError::Refused {
            host,
            code: None,
            fault: fault_of(&error),
            source: error.into(),
        })
    }
}

fn client_config(host: &Host, target: &ConnectString, application_name: &str) -> Config {
    let mut config = Config::new();
    config
        .user(target.user())
        .dbname(target.dbname())
        .application_name(target.application_name().unwrap_or(application_name))
        // The transport has spoken TLS already, or must not: `Opened` passes it on as it is.
        .ssl_mode(ClientSslMode::Require)
        .ssl_negotiation(SslNegotiation::Direct)
        .channel_binding(match target.channel_binding() {
            ChannelBinding::Disable => ClientBinding::Disable,
            ChannelBinding::Prefer => ClientBinding::Prefer,
            ChannelBinding::Require => ClientBinding::Require,
        });
    if let Some(password) = target.password_for(host) {
        config.password(password);
    }
    if let Some(options) = target.options() {
        config.options(options);
    }
    config
}

/// A login that fails without SQLSTATE or I/O error is about passwords or channel binding.
fn fault_of_login(error: &tokio_postgres::Error) -> Fault {
    match fault_of(error) {
        Fault::Bug if error.code().is_none() => Fault::Operator,
        fault => fault,
    }
}

/// The connection's task: moves bytes, passes notifications on, logs notices.
async fn drive(
    mut connection: Connection<Transport, Transport>,
    notify: mpsc::Sender<Notification>,
    warn: mpsc::Sender<String>,
    end: watch::Sender<Option<End>>,
) {
    let outcome = loop {
        match poll_fn(|cx| connection.poll_message(cx)).await {
            Some(Ok(AsyncMessage::Notification(notification))) => {
                if notify.try_send(notification).is_err() {
                    tracing::trace!("notification dropped: nobody reads them, or enough of them wait");
                }
            }
            Some(Ok(AsyncMessage::Notice(notice))) => {
                tracing::debug!(
                    severity = notice.severity(),
                    code = notice.code().code(),
                    "{}",
                    notice.message()
                );
                if notice.parsed_severity() == Some(Severity::Warning) {
                    let _ = warn.try_send(notice.message().to_owned());
                }
            }
            Some(Ok(_)) => {}
            Some(Err(error)) => break Err(Arc::new(error)),
            None => break Ok(()),
        }
    };
    end.send_replace(Some(outcome));
}
