//! Settings of walmgr.

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::time::Duration;

use skytide_sql::SlotName;
use skytide_sql::conn::ConnectString;
use skytide_wal::store::Prefix;
use skytide_wal::store::peer::PeerTls;
use skytide_wal::store::s3::S3Settings;

use super::{ProcessSettings, Values, s3};
use crate::config::ini::expand_home;
use crate::config::keys::WALMGR;
use crate::config::{ConfigError, Overrides};

/// Where a store is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoreAt {
    Dir(PathBuf),
    /// Another host's daemon.
    Peer {
        host: String,
        port: u16,
    },
    /// A bucket, or what lies below a prefix in it.
    S3(Box<S3Settings>),
}

impl StoreAt {
    fn parse(text: &str, values: &Values) -> Result<StoreAt, ConfigError> {
        let bad = |what| values.bad("stores", what);
        match text.split_once("://") {
            None => {
                let path = expand_home(text);
                match path.is_absolute() {
                    true => Ok(StoreAt::Dir(path)),
                    false => Err(bad(format!("expected an absolute path, found {text}"))),
                }
            }
            Some(("peer", address)) => {
                let (host, port) = address.rsplit_once(':').unwrap_or((address, ""));
                let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
                match port.parse() {
                    Ok(port) if !host.is_empty() => Ok(StoreAt::Peer { host, port }),
                    _ => Err(bad(format!("expected peer://host:port, found {text}"))),
                }
            }
            Some(("s3", place)) => {
                let (bucket, prefix) = place.split_once('/').unwrap_or((place, ""));
                let prefix = prefix.trim_end_matches('/');
                if bucket.is_empty() || Prefix::new(prefix).is_err() {
                    return Err(bad(format!(
                        "expected s3://bucket or s3://bucket/prefix, found {text}"
                    )));
                }
                let environment = |name: &str| std::env::var(name).ok();
                let settings = s3::settings(values, bucket, prefix, &environment)?;
                Ok(StoreAt::S3(Box::new(settings)))
            }
            Some((scheme, _)) => Err(bad(format!("stores of the kind {scheme}:// are unknown"))),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WalmgrSettings {
    pub process: ProcessSettings,
    pub socket: PathBuf,
    pub stores: Vec<StoreAt>,
    pub stores_needed: usize,
    pub compression_level: i32,
    /// `host:port` at which other hosts find our store.
    pub store_listen: Option<String>,
    pub tls: Option<PeerTls>,
    pub data_dir: Option<PathBuf>,
    pub archive_ahead: usize,
    pub restore_ahead_bytes: u64,
    pub restore_miss_time: Duration,
    pub restore_timeout: Duration,
    /// The server whose WAL is copied.
    pub server: Option<ConnectString>,
    pub receive: ReceiveSettings,
    pub ship_interval: Duration,
    pub backup_jobs: usize,
    /// Bytes a second.
    pub backup_max_rate: Option<u64>,
    pub backup_wal_timeout: Duration,
    pub keep_backups: Option<usize>,
    pub keep_backups_for: Option<Duration>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReceiveSettings {
    pub name: String,
    pub slot: Option<SlotName>,
    /// Bytes.
    pub slot_limit: Option<u64>,
    pub status_interval: Duration,
}

impl ReceiveSettings {
    fn from(values: &Values) -> Result<Self, ConfigError> {
        let slot = values.text("receive_slot")?.filter(|name| !name.is_empty());
        let slot = slot
            .map(SlotName::new)
            .transpose()
            .map_err(|error| values.bad("receive_slot", error.to_string()))?;
        Ok(Self {
            name: values.text("receive_name")?.unwrap_or_default().to_owned(),
            slot,
            slot_limit: Some(values.size("receive_slot_limit")?).filter(|limit| *limit > 0),
            status_interval: values.duration("receive_status_interval")?,
        })
    }
}

/// Where a client looks for the daemon without reading the configuration.
pub fn socket_beside(conf: &Path) -> PathBuf {
    conf.with_extension("sock")
}

/// All three files or none.
fn tls(values: &Values) -> Result<Option<PeerTls>, ConfigError> {
    const KEYS: [&str; 3] = ["tls_certificate", "tls_key", "tls_authority"];
    let [certificate, key, authority] = KEYS.map(|key| values.path(key));
    match (certificate?, key?, authority?) {
        (None, None, None) => Ok(None),
        (Some(certificate), Some(key), Some(authority)) => Ok(Some(PeerTls {
            certificate,
            key,
            authority,
        })),
        (None, ..) => Err(values.missing("tls_certificate")),
        (_, None, _) => Err(values.missing("tls_key")),
        (.., None) => Err(values.missing("tls_authority")),
    }
}

impl WalmgrSettings {
    pub fn load(path: &Path, overrides: &Overrides) -> Result<Self, ConfigError> {
        let values = Values::load(&WALMGR, Some(path), overrides)?;
        let stores = values
            .list("stores")?
            .iter()
            .map(|text| StoreAt::parse(text, &values))
            .collect::<Result<Vec<_>, _>>()?;
        if stores.is_empty() {
            return Err(values.missing("stores"));
        }
        let stores_needed = match values.text("stores_needed")? {
            Some(_) => values.places("stores_needed")?,
            None => stores.len(),
        };
        if stores_needed > stores.len() {
            return Err(values.bad("stores_needed", format!("there are only {}", stores.len())));
        }
        let compression_level = i32::try_from(values.count("compression_level")?)
            .ok()
            .filter(|level| *level <= 19)
            .ok_or_else(|| values.bad("compression_level", "expected 1 to 19"))?;
        Ok(Self {
            process: ProcessSettings::from(&values)?,
            socket: values.path("socket")?.unwrap_or_else(|| socket_beside(path)),
            stores,
            stores_needed,
            compression_level,
            store_listen: values.text("store_listen")?.map(str::to_owned),
            tls: tls(&values)?,
            data_dir: values.path("master_data")?,
            archive_ahead: values.places("archive_ahead")?,
            restore_ahead_bytes: values.size("restore_ahead")?,
            restore_miss_time: values.duration("restore_miss_time")?,
            restore_timeout: values.duration("restore_timeout")?,
            server: values.connect("master_db")?,
            receive: ReceiveSettings::from(&values)?,
            ship_interval: values.duration("ship_interval")?,
            backup_jobs: match values.text("backup_jobs")? {
                Some(_) => values.places("backup_jobs")?,
                None => std::thread::available_parallelism().map_or(1, NonZeroUsize::get),
            },
            backup_max_rate: match values.text("backup_max_rate")? {
                Some(_) => Some(values.size("backup_max_rate")?),
                None => None,
            },
            backup_wal_timeout: values.duration("backup_wal_timeout")?,
            keep_backups: match values.text("keep_backups")? {
                Some(_) => Some(values.places("keep_backups")?),
                None => None,
            },
            keep_backups_for: match values.text("keep_backups_for")? {
                Some(_) => Some(values.duration("keep_backups_for")?),
                None => None,
            },
        })
    }
}
