//! Typed settings: strings and seconds stop here.

use std::fmt;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::time::Duration;

use skytide_sql::conn::ConnectString;
use skytide_sql::{ConsumerName, NodeName, QueueName, SlotName};

use super::keys::{LONDISTE, TICKER};
use super::layers::Values;
use super::{ConfigError, Overrides};

/// Part of a connect string or one to be handed on. It may hold a password, so it does not print itself.
#[derive(Clone, PartialEq, Eq)]
pub struct ConnectText(String);

impl ConnectText {
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for ConnectText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ConnectText(…)")
    }
}

/// What every long-running process is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProcessSettings {
    pub job_name: String,
    pub logfile: Option<PathBuf>,
    pub pidfile: Option<PathBuf>,
    /// `host:port`; nothing is served without it.
    pub metrics_listen: Option<String>,
    /// `None`: no lines of figures.
    pub stats_period: Option<Duration>,
    pub shutdown_timeout: Duration,
}

impl ProcessSettings {
    fn from(values: &Values) -> Result<Self, ConfigError> {
        let metrics_listen = values.text("metrics_listen")?.map(str::to_owned);
        if let Some(listen) = &metrics_listen
            && listen
                .rsplit_once(':')
                .is_none_or(|(_, port)| port.parse::<u16>().is_err())
        {
            return Err(values.bad("metrics_listen", "expected host:port, such as 127.0.0.1:9187"));
        }
        Ok(Self {
            job_name: values.text("job_name")?.unwrap_or(values.service()).to_owned(),
            logfile: values.path("logfile")?,
            pidfile: values.path("pidfile")?,
            metrics_listen,
            stats_period: Some(values.duration("stats_period")?).filter(|period| !period.is_zero()),
            shutdown_timeout: values.duration("shutdown_timeout")?,
        })
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Capture {
    Wal,
    Trigger,
}

/// When the provider is told that its WAL is no longer needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Confirm {
    Spooled,
    Applied,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LondisteSettings {
    pub process: ProcessSettings,
    pub db: ConnectString,
    pub queue_name: QueueName,
    pub consumer_name: ConsumerName,
    pub node_name: Option<NodeName>,
    pub public_node_location: Option<ConnectText>,
    pub initial_provider_location: Option<ConnectString>,
    /// Goes before what other nodes say of themselves; possibly empty.
    pub remote_extra_connstr: ConnectText,
    pub loop_delay: Duration,
    pub watermark_period: Duration,
    pub capture: Capture,
    /// `None`: derived from queue and node.
    pub slot_name: Option<SlotName>,
    pub status_interval: Duration,
    pub tick_request_interval: Duration,
    pub spool_dir: PathBuf,
    pub spool_max_bytes: u64,
    pub spool_segment_bytes: u64,
    pub confirm: Confirm,
    pub batch_max_rows: u64,
    pub apply_chunk_bytes: u64,
    pub apply_synchronous_commit: bool,
    pub parallel_copies: usize,
    pub threaded_copy_pool_size: usize,
    pub lock_timeout: Duration,
}

impl LondisteSettings {
    pub fn load(path: &Path, overrides: &Overrides) -> Result<Self, ConfigError> {
        let values = Values::load(&LONDISTE, Some(path), overrides)?;
        // Its keywords are checked here, though it is only part of a connect string.
        values.connect("remote_extra_connstr")?;
        let settings = Self {
            process: ProcessSettings::from(&values)?,
            db: values.connect("db")?.ok_or_else(|| values.missing("db"))?,
            queue_name: values.required_name("queue_name", QueueName::new)?,
            consumer_name: values.required_name("consumer_name", ConsumerName::new)?,
            node_name: values.name("node_name", NodeName::new)?,
            public_node_location: values.text("public_node_location")?.map(ConnectText::new),
            initial_provider_location: values.connect("initial_provider_location")?,
            remote_extra_connstr: ConnectText::new(values.text("remote_extra_connstr")?.unwrap_or_default()),
            loop_delay: values.duration("loop_delay")?,
            watermark_period: values.duration("watermark_period")?,
            capture: match values.text("capture")? {
                Some("trigger") => Capture::Trigger,
                _ => Capture::Wal,
            },
            slot_name: values.name("slot_name", SlotName::new)?,
            status_interval: values.duration("status_interval")?,
            tick_request_interval: values.duration("tick_request_interval")?,
            spool_dir: values
                .path("spool_dir")?
                .ok_or_else(|| values.missing("spool_dir"))?,
            spool_max_bytes: values.size("spool_max_bytes")?,
            spool_segment_bytes: values.size("spool_segment_bytes")?,
            confirm: match values.text("confirm")? {
                Some("applied") => Confirm::Applied,
                _ => Confirm::Spooled,
            },
            batch_max_rows: values.count("batch_max_rows")?,
            apply_chunk_bytes: values.size("apply_chunk_bytes")?,
            apply_synchronous_commit: values.text("apply_synchronous_commit")? == Some("on"),
            parallel_copies: values.places("parallel_copies")?,
            threaded_copy_pool_size: match values.text("threaded_copy_pool_size")? {
                Some(_) => values.places("threaded_copy_pool_size")?,
                None => std::thread::available_parallelism().map_or(1, NonZeroUsize::get),
            },
            lock_timeout: values.duration("lock_timeout")?,
        };
        if settings.capture == Capture::Trigger {
            return Err(values.bad(
                "capture",
                "capture by triggers is not in this version; use wal, and set wal_level = logical on the provider",
            ));
        }
        if !(1 << 20..=1 << 30).contains(&settings.spool_segment_bytes)
            || !settings.spool_segment_bytes.is_multiple_of(4096)
        {
            return Err(values.bad(
                "spool_segment_bytes",
                "expected 1MiB to 1GiB, a multiple of 4096 bytes",
            ));
        }
        if settings.spool_max_bytes / 2 < settings.spool_segment_bytes {
            return Err(values.bad("spool_max_bytes", "expected at least twice spool_segment_bytes"));
        }
        Ok(settings)
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TickerSettings {
    pub process: ProcessSettings,
    pub base_connstr: ConnectString,
    pub initial_database: String,
    /// Empty: ask `initial_database` which there are.
    pub database_list: Vec<String>,
    pub check_period: Duration,
    pub connection_lifetime: Duration,
    pub ticker_period: Duration,
    pub min_tick_age: Duration,
    pub maint_period: Duration,
    pub retry_period: Duration,
}

impl TickerSettings {
    /// Without a file: presets, environment and overrides only.
    pub fn load(path: Option<&Path>, overrides: &Overrides) -> Result<Self, ConfigError> {
        let values = Values::load(&TICKER, path, overrides)?;
        let settings = Self {
            process: ProcessSettings::from(&values)?,
            base_connstr: values.connect_or_default("base_connstr")?,
            initial_database: values.text("initial_database")?.unwrap_or("template1").to_owned(),
            database_list: values.list("database_list")?,
            check_period: values.duration("check_period")?,
            connection_lifetime: values.duration("connection_lifetime")?,
            ticker_period: values.duration("ticker_period")?,
            min_tick_age: values.duration("min_tick_age")?,
            maint_period: values.duration("maint_period")?,
            retry_period: values.duration("retry_period")?,
        };
        for (key, period) in [
            ("check_period", settings.check_period),
            ("ticker_period", settings.ticker_period),
            ("maint_period", settings.maint_period),
            ("retry_period", settings.retry_period),
        ] {
            if period < Duration::from_millis(1) {
                return Err(values.bad(key, "expected at least 1ms"));
            }
        }
        Ok(settings)
    }
}

mod promote;
mod s3;
mod walmgr;
pub use promote::PromoteSettings;
pub use walmgr::{Role, StoreAt, WalmgrSettings, socket_beside};

#[cfg(test)]
mod tests;
