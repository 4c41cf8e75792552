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
use crate::config::layers::host_name;
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

/// Whose host a configuration is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Only `slave_data` is set.
    Standby,
    /// Of a primary, or of both.
    Any,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WalmgrSettings {
    pub role: Role,
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
    pub commands: Commands,
    /// The standby on this host.
    pub standby: Option<ConnectString>,
    /// The slot on the primary of the standby on this host.
    pub standby_slot: Option<SlotName>,
}

/// What is left to shell commands, and how often.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Commands {
    pub restart_primary: Option<String>,
    pub start_standby: Option<String>,
    pub before_purge: Option<String>,
    pub periodic: Option<String>,
    pub interval: Duration,
}

impl Commands {
    fn from(values: &Values) -> Result<Self, ConfigError> {
        let text = |key| -> Result<Option<String>, ConfigError> { Ok(values.text(key)?.map(str::to_owned)) };
        Ok(Self {
            restart_primary: text("master_restart_cmd")?,
            start_standby: text("slave_start_cmd")?,
            before_purge: text("archive_command")?,
            periodic: text("periodic_command")?,
            interval: values.duration("command_interval")?,
        })
    }
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

/// `stores`, or the place that an old configuration kept its WAL in.
fn stores(values: &Values) -> Result<Vec<StoreAt>, ConfigError> {
    let named = values.list("stores")?;
    if !named.is_empty() {
        return named.iter().map(|text| StoreAt::parse(text, values)).collect();
    }
    let (key, text) = match (values.text("completed_wals")?, values.text("walmgr_data")?) {
        (Some(text), _) => ("completed_wals", text),
        (None, Some(text)) => ("walmgr_data", text),
        (None, None) => return Err(values.missing("stores")),
    };
    let place = match text.split_once(':') {
        // As rsync reads it: a slash before the colon makes it a path.
        Some((host, _)) if host.contains('/') => text,
        Some((host, path)) if is_this_host(host) => path,
        Some((host, _)) => {
            let name = host_of(host);
            return Err(values.bad(
                key,
                format!(
                    "it is on host {host}, and nothing is sent over ssh: set stores = peer://{name}:PORT, where the \
                     daemon there listens (store_listen), or a directory of this host"
                ),
            ));
        }
        None => text,
    };
    let path = expand_home(place);
    let dir = match key {
        "completed_wals" => path.parent().unwrap_or(&path).to_owned(),
        _ => path,
    };
    if !dir.is_absolute() || dir.parent().is_none() {
        return Err(values.bad(key, format!("expected an absolute path, found {place}")));
    }
    if let Some(host) = values.text("slave")?.filter(|host| !is_this_host(host)) {
        tracing::warn!(
            "slave = {host} is not used: the store is {} on this host; stores = peer://{host}:PORT would be there",
            dir.display()
        );
    }
    Ok(vec![StoreAt::Dir(dir)])
}

/// One that is named before.
fn twice(stores: &[StoreAt]) -> Option<String> {
    let mut named = stores.iter().enumerate();
    let (_, at) = named.find(|(place, at)| stores.iter().take(*place).any(|before| before == *at))?;
    Some(match at {
        StoreAt::Dir(path) => path.display().to_string(),
        StoreAt::Peer { host, port } => format!("peer://{host}:{port}"),
        StoreAt::S3(_) => "an s3:// store".to_owned(),
    })
}

/// Without the user that ssh would log in as.
fn host_of(text: &str) -> &str {
    text.rsplit_once('@').map_or(text, |(_, host)| host)
}

fn is_this_host(host: &str) -> bool {
    let host = host_of(host);
    ["localhost", "127.0.0.1", "::1"].contains(&host) || host.eq_ignore_ascii_case(&host_name())
}

/// A job's name as a slot's, which has lower-case letters, digits and underscores.
fn slot_name(job: &str) -> String {
    let plain = |c: char| match c.to_ascii_lowercase() {
        c if c.is_ascii_lowercase() || c.is_ascii_digit() => c,
        _ => '_',
    };
    job.chars().take(63).map(plain).collect()
}

impl WalmgrSettings {
    pub fn load(path: &Path, overrides: &Overrides) -> Result<Self, ConfigError> {
        let values = Values::load(&WALMGR, Some(path), overrides)?;
        let stores = stores(&values)?;
        if let Some(twice) = twice(&stores) {
            return Err(values.bad(
                "stores",
                format!("{twice} is named twice, and would count as two copies"),
            ));
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
            role: match (values.path("master_data")?, values.path("slave_data")?) {
                (None, Some(_)) => Role::Standby,
                _ => Role::Any,
            },
            data_dir: match values.path("master_data")? {
                Some(dir) => Some(dir),
                None => values.path("slave_data")?,
            },
            archive_ahead: values.places("archive_ahead")?,
            restore_ahead_bytes: values.size("restore_ahead")?,
            restore_miss_time: values.duration("restore_miss_time")?,
            restore_timeout: values.duration("restore_timeout")?,
            server: values.connect("master_db")?,
            standby: values.connect("slave_db")?,
            standby_slot: values.name("primary_slot_name", |name| SlotName::new(slot_name(&name)))?,
            commands: Commands::from(&values)?,
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

#[cfg(test)]
mod tests {
    use super::*;

    fn load(text: &str) -> Result<WalmgrSettings, ConfigError> {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join("wal-job.ini");
        std::fs::write(&path, text).expect("write");
        WalmgrSettings::load(&path, &Overrides::default())
    }

    fn stores(text: &str) -> Vec<StoreAt> {
        load(text).expect("legal").stores
    }

    #[test]
    fn an_old_files_place_becomes_the_store() {
        let dir = |path: &str| vec![StoreAt::Dir(path.into())];
        let slave = "[walmgr]\nwalmgr_data = /srv/wal\ncompleted_wals = %(walmgr_data)s/logs.complete\n";
        assert_eq!(stores(slave), dir("/srv/wal"));
        assert_eq!(stores("[walmgr]\nwalmgr_data = /srv/wal\n"), dir("/srv/wal"));
        let here = "[walmgr]\nslave = localhost\ncompleted_wals = %(slave)s:/srv/wal/logs.complete\n";
        assert_eq!(stores(here), dir("/srv/wal"));
        let both = format!("{slave}stores = /srv/other\n");
        assert_eq!(stores(&both), dir("/srv/other"), "what is said goes before");
        for (far, host) in [
            ("completed_wals = db2:/srv/logs.complete", "db2"),
            ("walmgr_data = postgres@db2:~/walshipping", "postgres@db2"),
        ] {
            let error = load(&format!("[walmgr]\n{far}\n"))
                .expect_err("it is elsewhere")
                .to_string();
            assert!(error.contains(host) && error.contains("peer://"), "{error}");
        }
        for wrong in [
            "completed_wals = logs.complete",
            "completed_wals = /logs.complete",
            "slave = db2",
        ] {
            assert!(load(&format!("[walmgr]\n{wrong}\n")).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_standbys_file_is_known_by_its_data_directory() {
        let standby = load("[walmgr]\nstores = /s\nslave_data = /d\n").expect("legal");
        assert_eq!(
            (standby.role, standby.data_dir.as_deref()),
            (Role::Standby, Some(Path::new("/d")))
        );
        let both = load("[walmgr]\nstores = /s\nslave_data = /d\nmaster_data = /m\n").expect("legal");
        assert_eq!(
            (both.role, both.data_dir.as_deref()),
            (Role::Any, Some(Path::new("/m")))
        );
        let slot = |settings: &WalmgrSettings| settings.standby_slot.as_ref().map(ToString::to_string);
        assert_eq!(slot(&standby).as_deref(), Some("wal_job"));
        let none = load("[walmgr]\nstores = /s\nprimary_slot_name =\n").expect("legal");
        assert_eq!(slot(&none), None);
    }
}
