//! A byte link to a server, TLS already spoken where it should be: the part of connecting that the
//! SQL client and the walsender client have in common.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpStream, UnixStream, lookup_host};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::conn::{ConnectError, ConnectString, Host, Place, TcpSettings};
use crate::tls::{SslMode, server_end_point, server_name};

/// PostgreSQL manual, "Message Formats", SSLRequest.
const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f];

/// An open link.
#[derive(Debug)]
pub enum Transport {
    Unix(UnixStream),
    Tcp(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Transport {
    /// The `tls-server-end-point` data for SCRAM-SHA-256-PLUS, where the link can be bound.
    pub fn server_end_point(&self) -> Option<Vec<u8>> {
        let Transport::Tls(stream) = self else { return None };
        server_end_point(stream.get_ref().1.peer_certificates()?.first()?)
    }

    pub fn is_encrypted(&self) -> bool {
        matches!(self, Transport::Tls(_))
    }

    /// May a password cross this link as it is? A Unix socket never leaves the machine.
    pub fn keeps_secrets(&self) -> bool {
        !matches!(self, Transport::Tcp(_))
    }
}

macro_rules! delegate {
    ($self:ident, $stream:ident => $call:expr) => {
        match $self.get_mut() {
            Transport::Unix($stream) => $call,
            Transport::Tcp($stream) => $call,
            Transport::Tls($stream) => $call,
        }
    };
}

impl AsyncRead for Transport {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        delegate!(self, stream => Pin::new(stream).poll_read(cx, buf))
    }
}

impl AsyncWrite for Transport {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        delegate!(self, stream => Pin::new(stream).poll_write(cx, buf))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        delegate!(self, stream => Pin::new(stream).poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        delegate!(self, stream => Pin::new(stream).poll_shutdown(cx))
    }
}

/// A link, and where it goes.
#[derive(Debug)]
pub struct Link {
    pub transport: Transport,
    pub host: Host,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Encryption {
    No,
    IfOffered,
    Yes,
}

/// How to reach a server, in the order to try.
#[derive(Clone, Debug)]
struct Attempt {
    host: Host,
    encryption: Encryption,
}

/// What a failed login says about the attempts left.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AfterRefusal {
    /// The server does not let this user in over this kind of link: the other kind may do.
    TryOtherEncryption,
    /// Not the server wanted, or not able to serve now.
    TryOtherHost,
    GiveUp,
}

/// Walks through a connect string's hosts and kinds of link. Used as a loop: `dial`, log in, and on
/// failure `refused`.
pub struct Dialer<'a> {
    target: &'a ConnectString,
    tls: Option<TlsConnector>,
    left: VecDeque<Attempt>,
    current: Option<Attempt>,
    /// What the servers tried so far made of us: more telling than the last dead address.
    refusal: Option<ConnectError>,
}

impl<'a> Dialer<'a> {
    pub fn new(target: &'a ConnectString) -> Result<Dialer<'a>, ConnectError> {
        let encrypts = target.ssl().mode != SslMode::Disable
            && target
                .hosts()
                .iter()
                .any(|host| matches!(host.place, Place::Name { .. }));
        let tls = if encrypts {
            Some(target.ssl().client_config()?.into())
        } else {
            None
        };
        let left = target.hosts().iter().flat_map(|host| {
            let kinds: &[Encryption] = match (&host.place, target.ssl().mode) {
                (Place::Directory(_), _) | (_, SslMode::Disable) => &[Encryption::No],
                (_, SslMode::Allow) => &[Encryption::No, Encryption::Yes],
                (_, SslMode::Prefer) => &[Encryption::IfOffered, Encryption::No],
                (_, SslMode::Require | SslMode::VerifyCa | SslMode::VerifyFull) => &[Encryption::Yes],
            };
            kinds.iter().map(|encryption| Attempt {
                host: host.clone(),
                encryption: *encryption,
            })
        });
        Ok(Dialer {
            target,
            tls,
            left: left.collect(),
            current: None,
            refusal: None,
        })
    }

    /// The next link that comes up. An error means that nothing is left to try.
    pub async fn dial(&mut self) -> Result<Link, ConnectError> {
        let mut last = None;
        while let Some(attempt) = self.left.pop_front() {
            self.current = Some(attempt.clone());
            match self.open(&attempt).await {
                Ok(transport) => {
                    if attempt.encryption == Encryption::IfOffered && !transport.is_encrypted() {
                        self.skip_host();
                    }
                    return Ok(Link {
                        transport,
                        host: attempt.host,
                    });
                }
                Err(error) => {
                    tracing::debug!(host = %attempt.host, %error, "no link");
                    // Only a failed handshake can go better without encryption.
                    if !matches!(error, ConnectError::Handshake { .. }) {
                        self.skip_host();
                    }
                    last = Some(error);
                }
            }
        }
        Err(self.refusal.take().or(last).unwrap_or(ConnectError::NoHosts))
    }

    /// The login over the last link failed. An error means: stop here, with this.
    pub fn refused(&mut self, error: ConnectError, then: AfterRefusal) -> Result<(), ConnectError> {
        match then {
            AfterRefusal::GiveUp => return Err(error),
            AfterRefusal::TryOtherEncryption => {}
            AfterRefusal::TryOtherHost => self.skip_host(),
        }
        if self.left.is_empty() {
            return Err(error);
        }
        self.refusal = Some(error);
        Ok(())
    }

    fn skip_host(&mut self) {
        if let Some(current) = &self.current {
            self.left.retain(|attempt| attempt.host != current.host);
        }
    }

    async fn open(&self, attempt: &Attempt) -> Result<Transport, ConnectError> {
        let work = self.open_unhurried(attempt);
        match self.target.connect_timeout() {
            None => work.await,
            Some(limit) => within(limit, &attempt.host, work).await,
        }
    }

    async fn open_unhurried(&self, attempt: &Attempt) -> Result<Transport, ConnectError> {
        let host = &attempt.host;
        let link = |source| ConnectError::Link {
            host: host.clone(),
            source,
        };
        let mut stream = match &host.place {
            Place::Directory(dir) => {
                let path = dir.join(format!(".s.PGSQL.{}", host.port));
                return Ok(Transport::Unix(UnixStream::connect(path).await.map_err(link)?));
            }
            Place::Name {
                address: Some(ip), ..
            } => TcpStream::connect((*ip, host.port)).await.map_err(link)?,
            Place::Name { name, address: None } => first_that_answers(name, host.port).await.map_err(link)?,
        };
        tune(&stream, self.target.tcp()).map_err(link)?;
        if attempt.encryption == Encryption::No {
            return Ok(Transport::Tcp(stream));
        }
        stream.write_all(&SSL_REQUEST).await.map_err(link)?;
        // One byte and no more: whatever follows must come through TLS.
        match stream.read_u8().await.map_err(link)? {
            b'S' => {}
            b'N' if attempt.encryption == Encryption::IfOffered => return Ok(Transport::Tcp(stream)),
            b'N' => return Err(ConnectError::NoTls { host: host.clone() }),
            _ => return Err(ConnectError::NotPostgres { host: host.clone() }),
        }
        let connector = self
            .tls
            .as_ref()
            .ok_or_else(|| ConnectError::NoTls { host: host.clone() })?;
        let name = server_name(host, self.target.ssl().mode)?;
        let handshake = connector.connect(name, stream).await;
        handshake
            .map(|stream| Transport::Tls(Box::new(stream)))
            .map_err(|source| ConnectError::Handshake {
                host: host.clone(),
                source,
            })
    }
}

/// A deadline for everything that belongs to connecting to one host.
pub async fn within<T, E: From<ConnectError>>(
    limit: Duration,
    host: &Host,
    work: impl Future<Output = Result<T, E>>,
) -> Result<T, E> {
    match tokio::time::timeout(limit, work).await {
        Ok(done) => done,
        Err(_) => Err(ConnectError::TimedOut {
            host: host.clone(),
            limit,
        }
        .into()),
    }
}

async fn first_that_answers(name: &str, port: u16) -> io::Result<TcpStream> {
    let mut failure = io::Error::new(io::ErrorKind::NotFound, "the host name has no address");
    for address in lookup_host((name, port)).await?.collect::<Vec<SocketAddr>>() {
        match TcpStream::connect(address).await {
            Ok(stream) => return Ok(stream),
            Err(error) => failure = error,
        }
    }
    Err(failure)
}

fn tune(stream: &TcpStream, settings: &TcpSettings) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let socket = SockRef::from(stream);
    if settings.keepalives {
        let keepalive = TcpKeepalive::new()
            .with_time(settings.idle)
            .with_interval(settings.interval)
            .with_retries(settings.retries);
        socket.set_tcp_keepalive(&keepalive)?;
    }
    if !settings.user_timeout.is_zero() {
        socket.set_tcp_user_timeout(Some(settings.user_timeout))?;
    }
    Ok(())
}

/// Hands an open link to tokio-postgres as if it had spoken TLS itself, so that its SCRAM binds to
/// our channel.
pub(crate) struct Opened;

impl tokio_postgres::tls::TlsConnect<Transport> for Opened {
    type Stream = Transport;
    type Error = io::Error;
    type Future = std::future::Ready<io::Result<Transport>>;

    fn connect(self, stream: Transport) -> Self::Future {
        std::future::ready(Ok(stream))
    }
}

impl tokio_postgres::tls::TlsStream for Transport {
    fn channel_binding(&self) -> tokio_postgres::tls::ChannelBinding {
        use tokio_postgres::tls::ChannelBinding;
        self.server_end_point()
            .map_or_else(ChannelBinding::none, ChannelBinding::tls_server_end_point)
    }
}
