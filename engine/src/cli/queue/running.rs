//! What all consuming commands share: options, signals, and how they end.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use skytide_sql::ConsumerName;
use skytide_sql::api::pgq::{self, BatchSize};
use skytide_sql::conn::ConnectString;
use tracing::{info, warn};

use super::super::failure::{ClosedPipe, Failure};
use super::super::output::OutputMode;
use super::super::{Context, Outcome};
use super::{Names, connect, consumer_name};
use crate::config::settings::ProcessSettings;
use crate::config::unit;
use crate::daemon;
use crate::queue::{self, Group, Limits, QueueError, Settings, Stats, Until};

#[derive(Args, Debug)]
pub(super) struct ConsumerArgs {
    #[command(flatten)]
    pub names: Names,
    /// Register the consumer first, if it is not
    #[arg(long)]
    register: bool,
    /// Share the consumer's batches with others, under this name
    #[arg(long, value_name = "NAME", value_parser = consumer_name, help_heading = "Sharing the work")]
    subconsumer: Option<ConsumerName>,
    /// Take over the batch of a worker not heard of for so long; longer than any batch takes
    #[arg(long, value_name = "TIME", value_parser = unit::duration, requires = "subconsumer",
          help_heading = "Sharing the work")]
    dead_interval: Option<Duration>,
    /// Only events that fit this condition in SQL, such as "ev_type like 'mail.%'"; others count as done
    #[arg(long, value_name = "SQL", help_heading = "Batches")]
    filter: Option<String>,
    /// Wait until a batch has about so many events …
    #[arg(long, value_name = "EVENTS", help_heading = "Batches")]
    min_count: Option<i32>,
    /// … or until it spans so much time
    #[arg(long, value_name = "TIME", value_parser = unit::duration, help_heading = "Batches")]
    min_interval: Option<Duration>,
    /// Stay so far behind
    #[arg(long, value_name = "TIME", value_parser = unit::duration, help_heading = "Batches")]
    keep_lag: Option<Duration>,
    /// Most events in memory at once
    #[arg(long, value_name = "EVENTS", default_value_t = Limits::default().rows, help_heading = "Batches")]
    chunk_rows: usize,
    /// Most bytes of events in memory at once
    #[arg(long, value_name = "SIZE", default_value = "4MB", value_parser = unit::size, help_heading = "Batches")]
    chunk_bytes: u64,
    /// Read batches from the spool of a worker that follows this queue; by SQL where it lacks a part
    #[arg(long, value_name = "DIR", conflicts_with = "filter", help_heading = "Batches")]
    spool: Option<PathBuf>,
    /// End when no batch is there any more; an error ends it too
    #[arg(long, help_heading = "Running")]
    until_idle: bool,
    /// End after so many batches, or when none is there any more
    #[arg(
        long,
        value_name = "NUMBER",
        conflicts_with = "until_idle",
        help_heading = "Running"
    )]
    batches: Option<u64>,
    /// The longest wait between two looks for a batch
    #[arg(long, value_name = "TIME", default_value = "500ms", value_parser = unit::duration, help_heading = "Running")]
    poll: Duration,
    /// How long a stopping process may work on the batch it has begun
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = unit::duration, help_heading = "Running")]
    shutdown_timeout: Duration,
    /// Hold the process number in this file
    #[arg(long, value_name = "FILE", help_heading = "Running")]
    pidfile: Option<PathBuf>,
    /// Append log lines to this file
    #[arg(long, value_name = "FILE", help_heading = "Running")]
    logfile: Option<PathBuf>,
    /// Serve /metrics, /healthz and /readyz on this host:port
    #[arg(long, value_name = "HOST:PORT", help_heading = "Running")]
    metrics_listen: Option<String>,
}

impl ConsumerArgs {
    pub fn settings(&self, source: ConnectString) -> Settings {
        let Names { queue, consumer } = self.names.clone();
        Settings {
            application_name: format!("skytide queue {consumer}"),
            group: self.subconsumer.clone().map(|subconsumer| Group {
                subconsumer,
                dead_interval: self.dead_interval,
            }),
            size: BatchSize {
                min_lag: self.keep_lag,
                min_count: self.min_count,
                min_interval: self.min_interval,
            },
            filter: self.filter.clone(),
            chunk: Limits {
                rows: self.chunk_rows,
                bytes: usize::try_from(self.chunk_bytes).unwrap_or(usize::MAX),
            },
            spool: self.spool.clone(),
            poll: self.poll.max(Duration::from_millis(1)),
            until: match (self.until_idle, self.batches) {
                (true, _) => Until::Idle,
                (false, Some(number)) => Until::Batches(number),
                (false, None) => Until::Stopped,
            },
            ..Settings::new(source, queue, consumer)
        }
    }

    /// For work that depends on the order of batches.
    pub fn refuse_group(&self, why: &str) -> Result<(), Failure> {
        match &self.subconsumer {
            Some(_) => Err(Failure::usage(why).hint("leave out --subconsumer")),
            None => Ok(()),
        }
    }

    /// Registers the consumer if that was asked for. A new one has done nothing in the target database.
    pub async fn prepare(
        &self,
        source: &ConnectString,
        target: Option<&ConnectString>,
    ) -> anyhow::Result<()> {
        if !self.register {
            return Ok(());
        }
        let Names { queue, consumer } = &self.names;
        let session = connect(source).await?;
        super::require_queue(&session, queue).await?;
        let known = pgq::get_consumer_info(&*session, Some(queue), Some(consumer)).await?;
        if !known.is_empty() {
            return Ok(());
        }
        super::check_new_consumer(&session, &self.names).await?;
        if let Some(target) = target {
            queue::forget_position(&*connect(target).await?, queue, consumer).await?;
        }
        pgq::register_consumer(&*session, queue, consumer).await?;
        info!("consumer {consumer} registered on queue {queue}");
        Ok(())
    }

    /// Runs a consumer in the frame of a service. One that was told to stop finishes its batch; when that takes
    /// too long the batch stays open, and is given again to whoever comes next.
    pub async fn run(
        &self,
        consuming: impl Future<Output = Result<Stats, QueueError>>,
        context: &Context,
    ) -> anyhow::Result<Outcome> {
        let process = ProcessSettings {
            job_name: self.names.consumer.to_string(),
            logfile: self.logfile.clone(),
            pidfile: self.pidfile.clone(),
            metrics_listen: self.metrics_listen.clone(),
            stats_period: None,
            shutdown_timeout: self.shutdown_timeout,
        };
        let frame = daemon::start(&process, context).await?;
        frame.health.ready();
        let expired = async {
            context.shutdown.cancelled().await;
            tokio::time::sleep(self.shutdown_timeout).await;
        };
        let ended = tokio::select! {
            ended = consuming => ended,
            () = expired => {
                warn!("stopped in the middle of a batch, which is given again");
                return Ok(Outcome::Done);
            }
        };
        let stats = match ended {
            Ok(stats) => stats,
            Err(error) if reader_is_gone(&error) => return Err(ClosedPipe.into()),
            Err(error) => return Err(error.into()),
        };
        let text = format!("{} events in {} batches", stats.events, stats.batches);
        match context.output.mode() {
            OutputMode::Table => context.output.note(&text),
            OutputMode::Json => info!("{text}"),
        }
        Ok(Outcome::Done)
    }
}

fn reader_is_gone(error: &QueueError) -> bool {
    let mut link: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = link {
        if error.is::<ClosedPipe>() {
            return true;
        }
        link = error.source();
    }
    false
}
