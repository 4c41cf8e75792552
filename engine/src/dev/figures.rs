//! What the demo found out.

use std::time::Duration;

use serde::Serialize;
use serde_json::Value;

use super::lag::percentile;
use super::watch::Copied;
use crate::cli::output::Output;
use crate::config::unit::{show_count, show_duration, show_size};

#[derive(Serialize)]
pub struct Figures {
    pub postgresql: String,
    pub dir: String,
    /// No tables to copy if they were in sync from an earlier run.
    pub copy: Option<Copy>,
    pub load: Loaded,
    pub lag: Lag,
    /// From the load's end until the leaf's tick covered it.
    pub caught_up_ms: f64,
    pub spool_bytes: Option<u64>,
    /// What the leaf's slot keeps on the provider.
    pub retained_wal_bytes: Option<u64>,
    /// The answer of `compare`.
    pub compare: Value,
    pub equal: bool,
}

#[derive(Serialize)]
pub struct Copy {
    pub rows: u64,
    pub seconds: f64,
    pub rows_per_second: f64,
    pub tables: Vec<Copied>,
}

impl Copy {
    pub fn of(tables: Vec<Copied>) -> Copy {
        let rows = tables.iter().map(|table| table.rows).sum();
        let seconds = tables
            .iter()
            .map(|table| table.in_sync_after_seconds)
            .fold(0.0, f64::max);
        Copy {
            rows,
            seconds,
            rows_per_second: rows as f64 / seconds.max(0.001),
            tables,
        }
    }
}

#[derive(Serialize)]
pub struct Loaded {
    pub clients: usize,
    pub seconds: f64,
    pub transactions: u64,
    pub transactions_per_second: f64,
    pub rows: u64,
    pub rows_per_second: f64,
    pub deadlocks: u64,
}

/// From a commit on the provider until its row is visible on the subscriber.
#[derive(Serialize)]
pub struct Lag {
    pub samples: usize,
    pub p50_ms: Option<f64>,
    pub p99_ms: Option<f64>,
    pub max_ms: Option<f64>,
}

impl Lag {
    pub fn of(lags: &[Duration]) -> Lag {
        let ms = |percent| percentile(lags, percent).map(|lag| lag.as_secs_f64() * 1e3);
        Lag {
            samples: lags.len(),
            p50_ms: ms(50),
            p99_ms: ms(99),
            max_ms: ms(100),
        }
    }
}

impl Figures {
    pub fn show(&self, output: &Output) -> anyhow::Result<()> {
        let seconds = Duration::from_secs_f64;
        let rate = |per_second: f64| show_count(per_second.round() as u64);
        if let Some(copy) = &self.copy {
            let took = seconds(copy.seconds);
            output.line(format!(
                "initial copy   {} rows/s: {} rows of {} tables, in sync after {}, indexes included",
                rate(copy.rows_per_second),
                show_count(copy.rows),
                copy.tables.len(),
                show_duration(took)
            ))?;
        }
        let (load, took) = (&self.load, seconds(self.load.seconds));
        output.line(format!(
            "load           {} transactions/s, {} rows/s: {} rows in {} by {} clients",
            rate(load.transactions_per_second),
            rate(load.rows_per_second),
            show_count(load.rows),
            show_duration(took),
            load.clients
        ))?;
        let ms = |value: Option<f64>| value.map_or("?".to_owned(), |ms| format!("{ms:.0} ms"));
        output.line(format!(
            "lag            p50 {}, p99 {}, max {}, from commit to visible; {} samples",
            ms(self.lag.p50_ms),
            ms(self.lag.p99_ms),
            ms(self.lag.max_ms),
            self.lag.samples
        ))?;
        output.line(format!(
            "caught up      {:.0} ms after the load's end",
            self.caught_up_ms
        ))?;
        let size = |bytes: Option<u64>| bytes.map_or("?".to_owned(), show_size);
        output.line(format!(
            "spool          {} on disk; the slot keeps {} of WAL on the provider",
            size(self.spool_bytes),
            size(self.retained_wal_bytes)
        ))?;
        let tables = self.compare["tables"].as_array().map_or(&[][..], Vec::as_slice);
        output.line(format!(
            "compare        {} tables at tick {}: {}",
            tables.len(),
            self.compare["tick"],
            if self.equal { "equal" } else { "DIFFERENT" }
        ))?;
        output.line("")?;
        let cell = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        output.rows(
            &[
                "table",
                "provider's rows",
                "checksum",
                "subscriber's rows",
                "checksum",
                "equal",
            ],
            tables,
            |table| {
                let (there, here) = (&table["provider"], &table["subscriber"]);
                let sides = [
                    &there["rows"],
                    &there["checksum"],
                    &here["rows"],
                    &here["checksum"],
                ];
                let equal = if table["equal"] == true { "yes" } else { "NO" };
                let mut cells = vec![cell(&table["table"])];
                cells.extend(sides.map(cell));
                cells.push(equal.to_owned());
                cells
            },
        )
    }
}
