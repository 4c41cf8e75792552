//! The other side: a store that is served to other hosts.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rustls::ServerConfig;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use super::wire::{self, Fields, Message, Op, Status, Writer};
use crate::store::{Content, ObjectName, PartialName, Prefix, Put, Store, StoreError};

const HANDSHAKE: Duration = Duration::from_secs(10);
const MAX_CONNECTIONS: usize = 64;

/// Serves the store of the moment until `shutdown` is over; calls that are under way are given up then, as whole.
pub async fn serve(
    listener: TcpListener,
    tls: Arc<ServerConfig>,
    store: watch::Receiver<Arc<dyn Store>>,
    shutdown: impl Future<Output = ()>,
) {
    let acceptor = TlsAcceptor::from(tls);
    let mut connections = JoinSet::new();
    let mut shutdown = std::pin::pin!(shutdown);
    loop {
        tokio::select! {
            () = &mut shutdown => return,
            Some(_) = connections.join_next() => {}
            accepted = listener.accept(), if connections.len() < MAX_CONNECTIONS => match accepted {
                Ok((stream, address)) => {
                    let (acceptor, store) = (acceptor.clone(), store.clone());
                    connections.spawn(async move {
                        if let Err(error) = connection(stream, acceptor, store).await {
                            tracing::info!(%address, %error, "a peer's connection ended");
                        }
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "could not accept a peer");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }
}

async fn connection(
    stream: TcpStream,
    acceptor: TlsAcceptor,
    store: watch::Receiver<Arc<dyn Store>>,
) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut stream = tokio::time::timeout(HANDSHAKE, acceptor.accept(stream))
        .await
        .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))?;
    while let Some(request) = Message::read(&mut stream).await? {
        let store = store.borrow().clone();
        let answer = match answer(&request, &*store).await {
            Ok(answer) => answer,
            Err(Trouble::Garbled) => return Err(io::ErrorKind::InvalidData.into()),
            Err(Trouble::Store(error)) => failure(&error),
        };
        answer.write(&mut stream).await?;
    }
    Ok(())
}

enum Trouble {
    Garbled,
    Store(StoreError),
}

impl From<StoreError> for Trouble {
    fn from(error: StoreError) -> Trouble {
        Trouble::Store(error)
    }
}

fn failure(error: &StoreError) -> Message {
    let bare = |status: Status, body| Message::bare(status.code(), body);
    match error {
        StoreError::Range { bytes, .. } => bare(Status::Range, Writer::default().u64(*bytes)),
        StoreError::OutOfPlace { bytes, .. } => bare(Status::OutOfPlace, Writer::default().u64(*bytes)),
        StoreError::Busy { .. } => bare(Status::Busy, Writer::default()),
        error => {
            let mut text = error.to_string();
            let mut source = std::error::Error::source(error);
            while let Some(cause) = source {
                text = format!("{text}: {cause}");
                source = cause.source();
            }
            tracing::warn!("a peer was not served: {text}");
            let status = match error.is_transient() {
                true => Status::Later,
                false => Status::Failed,
            };
            text.truncate(text.floor_char_boundary(4096));
            bare(status, Writer(text.into_bytes()))
        }
    }
}

async fn answer(request: &Message, store: &dyn Store) -> Result<Message, Trouble> {
    let mut fields = Fields(&request.body);
    let name = fields.text().ok_or(Trouble::Garbled)?;
    let object = || ObjectName::new(name).map_err(|_| Trouble::Garbled);
    let partial = || PartialName::new(name).map_err(|_| Trouble::Garbled);
    let prefix = || Prefix::new(name).map_err(|_| Trouble::Garbled);
    let mut number = || fields.u64().ok_or(Trouble::Garbled);
    let done = |body| Message::bare(Status::Done.code(), body);
    let found = |bytes: Option<Bytes>| match bytes {
        Some(bytes) => Message::new(Status::Done.code(), Writer::default(), Content::new(bytes)),
        None => Message::bare(Status::Missing.code(), Writer::default()),
    };
    Ok(match Op::from_code(request.code).ok_or(Trouble::Garbled)? {
        Op::Put => match store.put(&object()?, request.content.clone()).await? {
            Put::Stored => done(Writer::default()),
            Put::Exists => Message::bare(Status::Exists.code(), Writer::default()),
        },
        Op::Get => found(store.get(&object()?).await?),
        Op::GetRange => {
            let (start, end) = (number()?, number()?);
            found(store.get_range(&object()?, start..end).await?)
        }
        Op::Head => match store.head(&object()?).await? {
            Some(bytes) => done(Writer::default().u64(bytes)),
            None => found(None),
        },
        Op::List => {
            let listed = store.list(&prefix()?).await?;
            let list = wire::encode_list(listed.iter().map(|entry| (entry.name.as_str(), entry.bytes)));
            found(Some(list))
        }
        Op::Delete => {
            store.delete(&object()?).await?;
            done(Writer::default())
        }
        Op::Append => {
            let bytes = store
                .append(&partial()?, number()?, request.content.clone())
                .await?;
            done(Writer::default().u64(bytes))
        }
        Op::ReadPartial => {
            let pieces = store.read_partial(&partial()?, number()?).await?;
            found(pieces.map(|pieces| wire::encode_pieces(&pieces)))
        }
        Op::Partials => {
            let listed = store.partials(&prefix()?).await?;
            let list = wire::encode_list(listed.iter().map(|entry| (entry.name.as_str(), entry.bytes)));
            found(Some(list))
        }
        Op::DeletePartial => {
            store.delete_partial(&partial()?).await?;
            done(Writer::default())
        }
    })
}
