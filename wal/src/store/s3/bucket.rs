//! What is asked of the server, and what its answers mean.
//!
//! "Never replaced" rests on a put that fails if the name is taken. Some servers take the condition and ignore
//! it, so it is tried out before the first write, and every write is looked at after it.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::UNIX_EPOCH;

use bytes::Bytes;
use futures_util::TryStreamExt;
use object_store::path::Path;
use object_store::{
    Error, GetOptions, GetRange, ObjectMeta, ObjectStore, ObjectStoreExt, PutMode, PutOptions,
};
use tokio::sync::OnceCell;

use super::super::piece::HEADER;
use super::super::{MAX_OBJECT_BYTES, Put, StoreError};

/// What the server does with a put that shall fail if the name is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Conditions {
    Honoured,
    /// It overwrites. We look before we put and read back after it, which leaves a gap between two writers.
    Ignored,
}

/// A written object, to be looked at before anybody is told of it.
#[must_use]
pub enum Written {
    /// With the tag that the server gave to these bytes.
    New(Option<String>),
    Exists,
}

#[derive(Debug)]
pub struct Bucket {
    pub location: String,
    client: Arc<dyn ObjectStore>,
    /// Below which everything of ours lies.
    root: Path,
    conditions: OnceCell<Conditions>,
}

impl Bucket {
    pub fn new(location: String, client: Arc<dyn ObjectStore>, prefix: &str) -> Bucket {
        Bucket {
            location,
            client,
            root: Path::from(prefix),
            conditions: OnceCell::new(),
        }
    }

    pub fn path(&self, name: &str) -> Path {
        match self.root.as_ref() {
            "" => Path::from(name),
            root => Path::from(format!("{root}/{name}")),
        }
    }

    /// A path's name in this store.
    fn name<'p>(&self, path: &'p Path) -> Option<&'p str> {
        match self.root.as_ref() {
            "" => Some(path.as_ref()),
            root => path.as_ref().strip_prefix(root)?.strip_prefix('/'),
        }
    }

    /// Tried out once.
    pub async fn conditions(&self) -> Result<Conditions, StoreError> {
        self.conditions.get_or_try_init(|| self.probe()).await.copied()
    }

    /// Puts the same name twice.
    async fn probe(&self) -> Result<Conditions, StoreError> {
        static PROBES: AtomicU64 = AtomicU64::new(0);
        let action = "try out conditional puts";
        let nanos = UNIX_EPOCH.elapsed().map_or(0, |since| since.as_nanos());
        let (process, probe) = (std::process::id(), PROBES.fetch_add(1, Relaxed));
        let path = self.path(&format!("probe/{nanos}-{process}-{probe}"));
        let first = self.put_if_new(&path, Bytes::from_static(b"1")).await;
        let conditions = match first {
            // Some servers refuse what they do not know.
            Err(Error::NotImplemented { .. } | Error::NotSupported { .. }) => return Ok(self.careless()),
            Err(error) => return Err(self.trouble(action, error)),
            Ok(_) => match self.put_if_new(&path, Bytes::from_static(b"2")).await {
                Ok(_) => self.careless(),
                Err(Error::AlreadyExists { .. } | Error::Precondition { .. }) => Conditions::Honoured,
                Err(error) => return Err(self.trouble(action, error)),
            },
        };
        self.remove(&path, action).await?;
        Ok(conditions)
    }

    fn careless(&self) -> Conditions {
        tracing::warn!(
            store = self.location,
            "this server ignores conditional puts: let one server write into this store, since of two that put the \
             same name at the same moment one may replace the other's"
        );
        Conditions::Ignored
    }

    async fn put_if_new(&self, path: &Path, bytes: Bytes) -> Result<Option<String>, Error> {
        let options = PutOptions::from(PutMode::Create);
        let put = self.client.put_opts(path, bytes.into(), options).await?;
        Ok(put.e_tag)
    }

    /// Writes a new object. What it was told is worth nothing before [`Bucket::confirm`] has looked.
    pub async fn write(
        &self,
        path: &Path,
        bytes: &Bytes,
        action: &'static str,
    ) -> Result<Written, StoreError> {
        match self.conditions().await? {
            Conditions::Honoured => match self.put_if_new(path, bytes.clone()).await {
                Ok(tag) => Ok(Written::New(tag)),
                Err(Error::AlreadyExists { .. } | Error::Precondition { .. }) => {
                    match self.length(path, action).await? {
                        Some(_) => Ok(Written::Exists),
                        // Another writer's put is under way and may still fail.
                        None => Err(StoreError::Unreachable {
                            location: self.location.clone(),
                            action,
                            source: "another put of this name is under way".into(),
                        }),
                    }
                }
                Err(error) => Err(self.trouble(action, error)),
            },
            Conditions::Ignored => {
                if self.length(path, action).await?.is_some() {
                    return Ok(Written::Exists);
                }
                let put = self.client.put(path, bytes.clone().into()).await;
                put.map(|put| Written::New(put.e_tag))
                    .map_err(|error| self.trouble(action, error))
            }
        }
    }

    /// Whether what was written is there, and ours.
    pub async fn confirm(
        &self,
        path: &Path,
        bytes: &Bytes,
        tag: Option<String>,
        action: &'static str,
    ) -> Result<Put, StoreError> {
        let ours = match self.conditions().await? {
            Conditions::Honoured => self.meta(path, action).await?.map(|meta| {
                let tags = tag.as_ref().zip(meta.e_tag.as_ref());
                meta.size == bytes.len() as u64 && tags.is_none_or(|(put, there)| put == there)
            }),
            Conditions::Ignored => self.read(path, None, action).await?.map(|there| there == *bytes),
        };
        match ours {
            Some(true) => Ok(Put::Stored),
            Some(false) => Ok(Put::Exists),
            None => Err(self.damaged(path, "it was put and is not there")),
        }
    }

    pub async fn put_new(&self, path: &Path, bytes: &Bytes, action: &'static str) -> Result<Put, StoreError> {
        match self.write(path, bytes, action).await? {
            Written::New(tag) => {
                fail::fail_point!("s3::put");
                self.confirm(path, bytes, tag, action).await
            }
            Written::Exists => Ok(Put::Exists),
        }
    }

    pub async fn read(
        &self,
        path: &Path,
        range: Option<Range<u64>>,
        action: &'static str,
    ) -> Result<Option<Bytes>, StoreError> {
        let options = GetOptions {
            range: range.map(GetRange::Bounded),
            ..GetOptions::default()
        };
        let got = match self.client.get_opts(path, options).await {
            Ok(got) => got,
            Err(error) => return self.absent(action, error).await.map(|()| None),
        };
        let bytes = got.range.end.saturating_sub(got.range.start);
        if bytes > MAX_OBJECT_BYTES + HEADER as u64 {
            return Err(StoreError::TooLarge {
                bytes,
                max: MAX_OBJECT_BYTES,
            });
        }
        let read = got.bytes().await.map_err(|error| self.trouble(action, error))?;
        Ok(Some(read))
    }

    async fn meta(&self, path: &Path, action: &'static str) -> Result<Option<ObjectMeta>, StoreError> {
        match self.client.head(path).await {
            Ok(meta) => Ok(Some(meta)),
            Err(error) => self.absent(action, error).await.map(|()| None),
        }
    }

    pub async fn length(&self, path: &Path, action: &'static str) -> Result<Option<u64>, StoreError> {
        Ok(self.meta(path, action).await?.map(|meta| meta.size))
    }

    /// `Ok` if the server says that there is no such object. It says the same if there is no such bucket, and so
    /// does whatever else listens there: absence is an answer only of a bucket that can be listed.
    async fn absent(&self, action: &'static str, error: Error) -> Result<(), StoreError> {
        if !matches!(error, Error::NotFound { .. }) {
            return Err(self.trouble(action, error));
        }
        let mut listed = self.client.list(Some(&self.path("probe")));
        match listed.try_next().await {
            Ok(_) => Ok(()),
            Err(error) => Err(self.list_trouble(action, error).await),
        }
    }

    /// The client does not say why a list failed. It does say so of a name: whatever that is, one can only be asked
    /// for in a bucket that is there, by somebody who may.
    async fn list_trouble(&self, action: &'static str, error: Error) -> StoreError {
        match self.client.head(&self.path("identity")).await {
            Err(
                reason @ (Error::NotFound { .. }
                | Error::PermissionDenied { .. }
                | Error::Unauthenticated { .. }),
            ) => self.trouble(action, reason),
            _ => self.trouble(action, error),
        }
    }

    pub async fn remove(&self, path: &Path, action: &'static str) -> Result<(), StoreError> {
        match self.client.delete(path).await {
            Ok(()) => Ok(()),
            Err(error) => self.absent(action, error).await,
        }
    }

    /// Everything whose name begins so, by name, with its bytes.
    pub async fn list(&self, prefix: &str, action: &'static str) -> Result<Vec<(String, u64)>, StoreError> {
        // The client lists whole components only.
        let dir = prefix.rsplit_once('/').map_or("", |(dir, _)| dir);
        let below = match dir {
            "" => self.root.clone(),
            dir => self.path(dir),
        };
        let below = (!below.as_ref().is_empty()).then_some(&below);
        let entry = |meta: ObjectMeta| {
            let name = self.name(&meta.location)?;
            name.starts_with(prefix).then(|| (name.to_owned(), meta.size))
        };
        let listed = self
            .client
            .list(below)
            .try_filter_map(async |meta| Ok(entry(meta)));
        let mut listed: Vec<(String, u64)> = match listed.try_collect().await {
            Ok(listed) => listed,
            Err(error) => return Err(self.list_trouble(action, error).await),
        };
        listed.sort();
        Ok(listed)
    }

    pub fn damaged(&self, path: &Path, what: &str) -> StoreError {
        StoreError::Damaged {
            location: self.location.clone(),
            name: path.to_string(),
            what: what.to_owned(),
        }
    }

    /// Rights and names are a person's matter, everything else may pass.
    fn trouble(&self, action: &'static str, error: Error) -> StoreError {
        let reason = match &error {
            Error::NotFound { .. } => "there is no such bucket, or it cannot be listed".to_owned(),
            Error::PermissionDenied { .. } | Error::Unauthenticated { .. } => {
                format!("the server does not accept the credentials, or they do not allow it ({error})")
            }
            _ => {
                return StoreError::Unreachable {
                    location: self.location.clone(),
                    action,
                    source: Box::new(error),
                };
            }
        };
        StoreError::Refused {
            location: self.location.clone(),
            action,
            reason,
        }
    }
}
