//! A store on another host, through the walmgr daemon there. Both sides show a certificate.

mod serve;
mod tls;
mod wire;

use std::io;
use std::ops::Range;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

pub use serve::serve;
pub use tls::{PeerTls, PeerTlsError};

use self::wire::{Fields, Message, Op, Status, Writer};
use super::{
    Content, Listed, ListedPartial, ObjectName, PartialName, Prefix, Put, Store, StoreError, StoreFuture,
};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Connections kept for the next call.
const MAX_IDLE: usize = 8;

type Connection = TlsStream<TcpStream>;

/// A connection to another host's store. Calls at the same time have a connection each.
pub struct PeerStore {
    location: String,
    address: String,
    name: ServerName<'static>,
    connector: TlsConnector,
    idle: Mutex<Vec<Connection>>,
}

impl std::fmt::Debug for PeerStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "PeerStore({})", self.location)
    }
}

impl PeerStore {
    /// Nothing is connected yet. `host` is what the other side's certificate has to be for.
    pub fn new(host: &str, port: u16, tls: &PeerTls) -> Result<PeerStore, PeerTlsError> {
        let name = ServerName::try_from(host.to_owned()).map_err(|_| PeerTlsError::Host(host.to_owned()))?;
        let address = match host.contains(':') {
            true => format!("[{host}]:{port}"),
            false => format!("{host}:{port}"),
        };
        Ok(PeerStore {
            location: format!("peer://{address}"),
            address,
            name,
            connector: TlsConnector::from(tls.client()?),
            idle: Mutex::default(),
        })
    }

    async fn call(&self, action: &'static str, request: Message) -> Result<Message, StoreError> {
        let kept = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        if let Some(mut connection) = kept {
            // It may have died of old age. Every call can be repeated: that is in the store's contract.
            if let Ok(answer) = wire::exchange(&mut connection, &request).await {
                return self.done(action, connection, answer);
            }
        }
        let mut connection = self
            .connect()
            .await
            .map_err(|error| self.trouble(action, error))?;
        let answer = wire::exchange(&mut connection, &request)
            .await
            .map_err(|error| self.trouble(action, error))?;
        self.done(action, connection, answer)
    }

    fn done(
        &self,
        action: &'static str,
        connection: Connection,
        answer: Message,
    ) -> Result<Message, StoreError> {
        {
            let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
            if idle.len() < MAX_IDLE {
                idle.push(connection);
            }
        }
        match Status::from_code(answer.code) {
            Some(Status::Failed) => Err(StoreError::Refused {
                location: self.location.clone(),
                action,
                reason: String::from_utf8_lossy(&answer.body).into_owned(),
            }),
            Some(Status::Later) => {
                let text = String::from_utf8_lossy(&answer.body).into_owned();
                Err(self.trouble(action, io::Error::other(text)))
            }
            Some(_) => Ok(answer),
            None => Err(self.garbled(action)),
        }
    }

    async fn connect(&self) -> io::Result<Connection> {
        let connect = async {
            let stream = TcpStream::connect(&self.address).await?;
            stream.set_nodelay(true)?;
            self.connector.connect(self.name.clone(), stream).await
        };
        tokio::time::timeout(CONNECT_TIMEOUT, connect)
            .await
            .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
    }

    /// A certificate that is not accepted is a person's matter, anything else may pass.
    fn trouble(&self, action: &'static str, error: io::Error) -> StoreError {
        let tls = error
            .get_ref()
            .and_then(|inner| inner.downcast_ref::<rustls::Error>());
        let refused = matches!(
            tls,
            Some(rustls::Error::AlertReceived(_) | rustls::Error::InvalidCertificate(_))
        );
        match refused {
            true => StoreError::Refused {
                location: self.location.clone(),
                action,
                reason: error.to_string(),
            },
            false => StoreError::Unreachable {
                location: self.location.clone(),
                action,
                source: Box::new(error),
            },
        }
    }

    fn garbled(&self, action: &'static str) -> StoreError {
        self.trouble(action, io::Error::from(io::ErrorKind::InvalidData))
    }

    fn out_of_place(&self, name: &PartialName, at: u64, bytes: u64) -> StoreError {
        StoreError::OutOfPlace {
            location: self.location.clone(),
            name: name.clone(),
            at,
            bytes,
        }
    }

    /// An answer that is there or not.
    fn found(&self, action: &'static str, answer: Message) -> Result<Option<Message>, StoreError> {
        match Status::from_code(answer.code) {
            Some(Status::Done) => Ok(Some(answer)),
            Some(Status::Missing) => Ok(None),
            _ => Err(self.garbled(action)),
        }
    }
}

impl Store for PeerStore {
    fn location(&self) -> &str {
        &self.location
    }

    fn put<'a>(&'a self, name: &'a ObjectName, content: Content) -> StoreFuture<'a, Put> {
        Box::pin(async move {
            content.check_size()?;
            let action = "put an object";
            let request = Message::new(Op::Put.code(), Writer::default().text(name.as_str()), content);
            let answer = self.call(action, request).await?;
            match Status::from_code(answer.code) {
                Some(Status::Done) => Ok(Put::Stored),
                Some(Status::Exists) => Ok(Put::Exists),
                _ => Err(self.garbled(action)),
            }
        })
    }

    fn get<'a>(&'a self, name: &'a ObjectName) -> StoreFuture<'a, Option<Bytes>> {
        Box::pin(async move {
            let action = "get an object";
            let request = Message::bare(Op::Get.code(), Writer::default().text(name.as_str()));
            let answer = self.call(action, request).await?;
            Ok(self
                .found(action, answer)?
                .map(|answer| answer.content.bytes().clone()))
        })
    }

    fn get_range<'a>(&'a self, name: &'a ObjectName, range: Range<u64>) -> StoreFuture<'a, Option<Bytes>> {
        Box::pin(async move {
            let action = "get a part of an object";
            let body = Writer::default()
                .text(name.as_str())
                .u64(range.start)
                .u64(range.end);
            let answer = self
                .call(action, Message::bare(Op::GetRange.code(), body))
                .await?;
            if Status::from_code(answer.code) == Some(Status::Range) {
                let bytes = Fields(&answer.body).u64().ok_or_else(|| self.garbled(action))?;
                return Err(StoreError::Range {
                    name: name.clone(),
                    start: range.start,
                    end: range.end,
                    bytes,
                });
            }
            Ok(self
                .found(action, answer)?
                .map(|answer| answer.content.bytes().clone()))
        })
    }

    fn head<'a>(&'a self, name: &'a ObjectName) -> StoreFuture<'a, Option<u64>> {
        Box::pin(async move {
            let action = "look for an object";
            let request = Message::bare(Op::Head.code(), Writer::default().text(name.as_str()));
            let Some(answer) = self.found(action, self.call(action, request).await?)? else {
                return Ok(None);
            };
            Fields(&answer.body)
                .u64()
                .map(Some)
                .ok_or_else(|| self.garbled(action))
        })
    }

    fn list<'a>(&'a self, prefix: &'a Prefix) -> StoreFuture<'a, Vec<Listed>> {
        Box::pin(async move {
            let action = "list objects";
            let request = Message::bare(Op::List.code(), Writer::default().text(prefix.as_str()));
            let answer = self.call(action, request).await?;
            let listed = wire::decode_list(answer.content.bytes(), |name, bytes| {
                Some(Listed {
                    name: ObjectName::new(name).ok()?,
                    bytes,
                })
            });
            listed.ok_or_else(|| self.garbled(action))
        })
    }

    fn delete<'a>(&'a self, name: &'a ObjectName) -> StoreFuture<'a, ()> {
        Box::pin(async move {
            let request = Message::bare(Op::Delete.code(), Writer::default().text(name.as_str()));
            self.call("delete an object", request).await.map(drop)
        })
    }

    fn append<'a>(&'a self, name: &'a PartialName, at: u64, piece: Content) -> StoreFuture<'a, u64> {
        Box::pin(async move {
            piece.check_size()?;
            let action = "append to a partial";
            let body = Writer::default().text(name.as_str()).u64(at);
            let answer = self
                .call(action, Message::new(Op::Append.code(), body, piece))
                .await?;
            let bytes = Fields(&answer.body).u64();
            match (Status::from_code(answer.code), bytes) {
                (Some(Status::Done), Some(bytes)) => Ok(bytes),
                (Some(Status::OutOfPlace), Some(bytes)) => Err(self.out_of_place(name, at, bytes)),
                (Some(Status::Busy), _) => Err(StoreError::Busy {
                    location: self.location.clone(),
                    name: name.clone(),
                }),
                _ => Err(self.garbled(action)),
            }
        })
    }

    fn read_partial<'a>(&'a self, name: &'a PartialName, from: u64) -> StoreFuture<'a, Option<Vec<Bytes>>> {
        Box::pin(async move {
            let action = "read a partial";
            let body = Writer::default().text(name.as_str()).u64(from);
            let answer = self
                .call(action, Message::bare(Op::ReadPartial.code(), body))
                .await?;
            if Status::from_code(answer.code) == Some(Status::OutOfPlace) {
                let bytes = Fields(&answer.body).u64().ok_or_else(|| self.garbled(action))?;
                return Err(self.out_of_place(name, from, bytes));
            }
            let Some(answer) = self.found(action, answer)? else {
                return Ok(None);
            };
            let pieces = wire::decode_pieces(answer.content.bytes());
            pieces.map(Some).ok_or_else(|| self.garbled(action))
        })
    }

    fn partials<'a>(&'a self, prefix: &'a Prefix) -> StoreFuture<'a, Vec<ListedPartial>> {
        Box::pin(async move {
            let action = "list partials";
            let request = Message::bare(Op::Partials.code(), Writer::default().text(prefix.as_str()));
            let answer = self.call(action, request).await?;
            let listed = wire::decode_list(answer.content.bytes(), |name, bytes| {
                Some(ListedPartial {
                    name: PartialName::new(name).ok()?,
                    bytes,
                })
            });
            listed.ok_or_else(|| self.garbled(action))
        })
    }

    fn delete_partial<'a>(&'a self, name: &'a PartialName) -> StoreFuture<'a, ()> {
        Box::pin(async move {
            let request = Message::bare(Op::DeletePartial.code(), Writer::default().text(name.as_str()));
            self.call("delete a partial", request).await.map(drop)
        })
    }
}

#[cfg(test)]
pub(super) mod tests;
