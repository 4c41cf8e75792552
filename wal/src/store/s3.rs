//! A store in S3-compatible object storage. An object is an object there, a partial a chain of them.

mod bucket;
mod partials;

use std::fmt;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use object_store::aws::{AmazonS3Builder, S3ConditionalPut};
use object_store::{BackoffConfig, Certificate, ClientOptions, RetryConfig};

pub use bucket::Conditions;

use self::bucket::Bucket;
use self::partials::Partials;
use super::{
    Content, Listed, ListedPartial, ObjectName, PartialName, Prefix, Put, Store, StoreError, StoreFuture,
};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// What fails for a moment is tried again at once, so that a long copy does not end for it.
const MAX_RETRIES: usize = 3;
const RETRY_BACKOFF: BackoffConfig = BackoffConfig {
    init_backoff: Duration::from_millis(100),
    max_backoff: Duration::from_secs(2),
    base: 2.0,
};

/// Who asks. It does not print itself.
#[derive(Clone, PartialEq, Eq)]
pub struct S3Credentials {
    pub access_key_id: String,
    pub secret_access_key: String,
    /// Of temporary credentials.
    pub session_token: Option<String>,
}

impl fmt::Debug for S3Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("S3Credentials(…)")
    }
}

/// How to reach a bucket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct S3Settings {
    pub bucket: String,
    /// Below which everything lies; may be empty.
    pub prefix: String,
    /// URL of the server; `None`: Amazon's in the region.
    pub endpoint: Option<String>,
    pub region: String,
    pub credentials: S3Credentials,
    /// Whether WAL may go over the network in the clear.
    pub allow_http: bool,
    /// Who signed the server's certificate (PEM), if the system does not know it.
    pub authority: Option<PathBuf>,
    /// A request on which nothing moves for so long is given up.
    pub timeout: Duration,
}

#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum S3SettingsError {
    #[error("endpoint {0} is not encrypted")]
    Clear(String),
    #[error("cannot read authority {}", path.display())]
    Authority {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("authority {} cannot be used", path.display())]
    Certificate {
        path: PathBuf,
        #[source]
        source: Box<object_store::Error>,
    },
    #[error("the settings of S3 cannot be used")]
    Client(#[source] Box<object_store::Error>),
}

/// A bucket, or what lies below a prefix in it.
#[derive(Debug)]
pub struct S3Store {
    bucket: Bucket,
    partials: Partials,
}

impl S3Store {
    /// Nothing is connected yet.
    pub fn new(settings: &S3Settings) -> Result<S3Store, S3SettingsError> {
        let location = match settings.prefix.is_empty() {
            true => format!("s3://{}", settings.bucket),
            false => format!("s3://{}/{}", settings.bucket, settings.prefix),
        };
        // The HTTP client takes the process's cryptography. Whoever has chosen it before is right.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut options = ClientOptions::new()
            .with_connect_timeout(CONNECT_TIMEOUT)
            .with_timeout_disabled()
            .with_read_timeout(settings.timeout)
            .with_allow_http(settings.allow_http);
        if let Some(path) = &settings.authority {
            for certificate in authority(path)? {
                options = options.with_root_certificate(certificate);
            }
        }
        let mut builder = AmazonS3Builder::new()
            .with_bucket_name(&settings.bucket)
            .with_region(&settings.region)
            .with_access_key_id(&settings.credentials.access_key_id)
            .with_secret_access_key(&settings.credentials.secret_access_key)
            .with_conditional_put(S3ConditionalPut::ETagMatch)
            // Every server has the plain one.
            .with_disable_bulk_delete(true)
            .with_retry(RetryConfig {
                backoff: RETRY_BACKOFF,
                max_retries: MAX_RETRIES,
                retry_timeout: settings.timeout,
            });
        if let Some(endpoint) = &settings.endpoint {
            if endpoint.starts_with("http://") && !settings.allow_http {
                return Err(S3SettingsError::Clear(endpoint.clone()));
            }
            builder = builder.with_endpoint(endpoint.trim_end_matches('/'));
        }
        if let Some(token) = &settings.credentials.session_token {
            builder = builder.with_token(token);
        }
        let client = builder
            .with_client_options(options)
            .build()
            .map_err(|error| S3SettingsError::Client(Box::new(error)))?;
        Ok(S3Store {
            bucket: Bucket::new(location, Arc::new(client), &settings.prefix),
            partials: Partials::default(),
        })
    }

    /// What the server does with conditional puts; it is tried out, once, by writing a name twice.
    pub async fn conditions(&self) -> Result<Conditions, StoreError> {
        self.bucket.conditions().await
    }
}

fn authority(path: &PathBuf) -> Result<Vec<Certificate>, S3SettingsError> {
    let pem = std::fs::read(path).map_err(|source| S3SettingsError::Authority {
        path: path.clone(),
        source,
    })?;
    Certificate::from_pem_bundle(&pem).map_err(|source| S3SettingsError::Certificate {
        path: path.clone(),
        source: Box::new(source),
    })
}

impl Store for S3Store {
    fn location(&self) -> &str {
        &self.bucket.location
    }

    fn put<'a>(&'a self, name: &'a ObjectName, content: Content) -> StoreFuture<'a, Put> {
        Box::pin(async move {
            content.check_size()?;
            let path = self.bucket.path(name.as_str());
            self.bucket.put_new(&path, content.bytes(), "put an object").await
        })
    }

    fn get<'a>(&'a self, name: &'a ObjectName) -> StoreFuture<'a, Option<Bytes>> {
        Box::pin(async move {
            let path = self.bucket.path(name.as_str());
            self.bucket.read(&path, None, "get an object").await
        })
    }

    fn get_range<'a>(&'a self, name: &'a ObjectName, range: Range<u64>) -> StoreFuture<'a, Option<Bytes>> {
        Box::pin(async move {
            let action = "get a part of an object";
            let path = self.bucket.path(name.as_str());
            let Some(bytes) = self.bucket.length(&path, action).await? else {
                return Ok(None);
            };
            if range.start > range.end || range.end > bytes {
                return Err(StoreError::Range {
                    name: name.clone(),
                    start: range.start,
                    end: range.end,
                    bytes,
                });
            }
            // The protocol has no way to ask for nothing.
            match range.is_empty() {
                true => Ok(Some(Bytes::new())),
                false => self.bucket.read(&path, Some(range), action).await,
            }
        })
    }

    fn head<'a>(&'a self, name: &'a ObjectName) -> StoreFuture<'a, Option<u64>> {
        Box::pin(async move {
            let path = self.bucket.path(name.as_str());
            self.bucket.length(&path, "look for an object").await
        })
    }

    fn list<'a>(&'a self, prefix: &'a Prefix) -> StoreFuture<'a, Vec<Listed>> {
        Box::pin(async move {
            let entries = self.bucket.list(prefix.as_str(), "list objects").await?;
            let listed = entries.into_iter().filter_map(|(name, bytes)| {
                Some(Listed {
                    // The name of a partial's piece is not an object's.
                    name: ObjectName::new(name).ok()?,
                    bytes,
                })
            });
            Ok(listed.collect())
        })
    }

    fn delete<'a>(&'a self, name: &'a ObjectName) -> StoreFuture<'a, ()> {
        Box::pin(async move {
            let path = self.bucket.path(name.as_str());
            self.bucket.remove(&path, "delete an object").await
        })
    }

    fn append<'a>(&'a self, name: &'a PartialName, at: u64, piece: Content) -> StoreFuture<'a, u64> {
        Box::pin(async move { self.partials.append(&self.bucket, name, at, &piece).await })
    }

    fn read_partial<'a>(&'a self, name: &'a PartialName, from: u64) -> StoreFuture<'a, Option<Vec<Bytes>>> {
        Box::pin(Partials::read(&self.bucket, name, from))
    }

    fn partials<'a>(&'a self, prefix: &'a Prefix) -> StoreFuture<'a, Vec<ListedPartial>> {
        Box::pin(Partials::list(&self.bucket, prefix))
    }

    fn delete_partial<'a>(&'a self, name: &'a PartialName) -> StoreFuture<'a, ()> {
        Box::pin(self.partials.delete(&self.bucket, name))
    }
}

#[cfg(test)]
mod tests;
