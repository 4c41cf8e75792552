//! Looking at queues: one line each, or one with its consumers and what holds its rotation.

use clap::Args;
use serde::Serialize;
use skytide_sql::QueueName;
use skytide_sql::api::pgq::{self, ConsumerInfo, QueueInfo, RotationBlocker};
use skytide_sql::conn::Session;
use std::time::Duration;

use super::super::output::OutputMode;
use super::super::{Context, Outcome};
use super::{require_queue, stored_queue};
use crate::config::unit::show_duration;

/// List the queues
#[derive(Args, Debug)]
#[command(after_help = "Example:\n  skytide queue --db 'host=db1 dbname=shop' list --json")]
pub(super) struct ListArgs {}

#[derive(Serialize)]
struct QueueLine {
    queue: String,
    consumers: usize,
    /// Of the slowest consumer.
    max_lag_seconds: Option<f64>,
    last_tick: Option<i64>,
    ticker_lag_seconds: Option<f64>,
    ticker: &'static str,
    events_per_second: Option<f64>,
    events_since_tick: Option<i64>,
    rotation_seconds: f64,
}

impl QueueLine {
    fn of(queue: &QueueInfo, consumers: &[ConsumerInfo]) -> QueueLine {
        let own = || {
            consumers
                .iter()
                .filter(|consumer| consumer.queue_name == queue.queue_name)
        };
        QueueLine {
            queue: queue.queue_name.clone(),
            consumers: own().count(),
            max_lag_seconds: seconds(own().filter_map(|consumer| consumer.lag).max()),
            last_tick: queue.last_tick.map(|tick| tick.get()),
            ticker_lag_seconds: seconds(queue.ticker_lag),
            ticker: match (queue.ticker_paused, queue.external_ticker) {
                (true, _) => "paused",
                (_, true) => "external",
                _ => "ticker",
            },
            events_per_second: queue.ev_per_sec,
            events_since_tick: queue.ev_new,
            rotation_seconds: queue.rotation_period.as_secs_f64(),
        }
    }
}

pub(super) async fn list(_args: ListArgs, session: &Session, context: &Context) -> anyhow::Result<Outcome> {
    let queues = pgq::get_queue_info(&**session, None).await?;
    let consumers = pgq::get_consumer_info(&**session, None, None).await?;
    let lines: Vec<QueueLine> = queues
        .iter()
        .map(|queue| QueueLine::of(queue, &consumers))
        .collect();
    let header = [
        "queue",
        "consumers",
        "max lag",
        "last tick",
        "tick age",
        "ticker",
        "events/s",
        "new",
    ];
    context.output.rows(&header, &lines, |line| {
        vec![
            line.queue.clone(),
            line.consumers.to_string(),
            time(line.max_lag_seconds),
            number(line.last_tick),
            time(line.ticker_lag_seconds),
            line.ticker.to_owned(),
            line.events_per_second
                .map_or("-".into(), |rate| format!("{rate:.1}")),
            number(line.events_since_tick),
        ]
    })?;
    Ok(Outcome::Done)
}

/// Show one queue: its ticker, its consumers and their lag, and what keeps its disk from being freed
#[derive(Args, Debug)]
#[command(after_help = "Example:\n  skytide queue --db 'host=db1 dbname=shop' info mail")]
pub(super) struct InfoArgs {
    /// Name of the queue
    #[arg(value_parser = stored_queue)]
    queue: QueueName,
}

#[derive(Serialize)]
struct Info {
    #[serde(flatten)]
    queue: QueueLine,
    consumer_list: Vec<ConsumerLine>,
    rotation_blockers: Vec<BlockerLine>,
}

#[derive(Serialize)]
struct ConsumerLine {
    consumer: String,
    lag_seconds: Option<f64>,
    last_seen_seconds: f64,
    last_tick: Option<i64>,
    open_batch: Option<i64>,
    pending_events: Option<i64>,
    paused: bool,
}

#[derive(Serialize)]
struct BlockerLine {
    kind: String,
    who: Option<String>,
    pid: Option<i32>,
    held_for_seconds: Option<f64>,
    overdue_seconds: Option<f64>,
    detail: Option<String>,
}

impl From<RotationBlocker> for BlockerLine {
    fn from(blocker: RotationBlocker) -> BlockerLine {
        BlockerLine {
            kind: blocker.kind,
            who: blocker.who,
            pid: blocker.pid,
            held_for_seconds: seconds(blocker.held_for),
            overdue_seconds: seconds(blocker.overdue),
            detail: blocker.detail,
        }
    }
}

pub(super) async fn info(args: InfoArgs, session: &Session, context: &Context) -> anyhow::Result<Outcome> {
    let queue = require_queue(session, &args.queue).await?;
    let consumers = pgq::get_consumer_info(&**session, Some(&args.queue), None).await?;
    let paused = pgq::paused_consumers(&**session, &args.queue).await?;
    let blockers = pgq::get_rotation_blockers(&**session, &args.queue).await?;
    let info = Info {
        queue: QueueLine::of(&queue, &consumers),
        consumer_list: consumers
            .into_iter()
            .map(|consumer| ConsumerLine {
                paused: paused.contains(&consumer.consumer_name),
                consumer: consumer.consumer_name,
                lag_seconds: seconds(consumer.lag),
                last_seen_seconds: consumer.last_seen.as_secs_f64(),
                last_tick: consumer.last_tick.map(|tick| tick.get()),
                open_batch: consumer.current_batch.map(|batch| batch.get()),
                pending_events: consumer.pending_events,
            })
            .collect(),
        rotation_blockers: blockers.into_iter().map(BlockerLine::from).collect(),
    };
    match context.output.mode() {
        OutputMode::Json => context.output.json(&info)?,
        OutputMode::Table => show(&info, context)?,
    }
    Ok(Outcome::Done)
}

fn show(info: &Info, context: &Context) -> anyhow::Result<()> {
    let out = &context.output;
    let queue = &info.queue;
    out.line(format!(
        "Queue {}: tick {}, {} old, by {}; {} events/s, {} since the tick; rotated every {}\n",
        queue.queue,
        number(queue.last_tick),
        time(queue.ticker_lag_seconds),
        queue.ticker,
        queue
            .events_per_second
            .map_or("-".into(), |rate| format!("{rate:.1}")),
        number(queue.events_since_tick),
        time(Some(queue.rotation_seconds)),
    ))?;
    if info.consumer_list.is_empty() {
        out.line("No consumers.")?;
    } else {
        let header = [
            "consumer",
            "lag",
            "last seen",
            "tick",
            "open batch",
            "pending",
            "state",
        ];
        out.rows(&header, &info.consumer_list, |line| {
            vec![
                line.consumer.clone(),
                time(line.lag_seconds),
                time(Some(line.last_seen_seconds)),
                number(line.last_tick),
                number(line.open_batch),
                number(line.pending_events),
                if line.paused {
                    "paused".into()
                } else {
                    String::new()
                },
            ]
        })?;
    }
    if !info.rotation_blockers.is_empty() {
        out.line("\nRotation is overdue:")?;
        let header = ["kind", "who", "pid", "held for", "overdue", "detail"];
        out.rows(&header, &info.rotation_blockers, |line| {
            vec![
                line.kind.clone(),
                line.who.clone().unwrap_or_default(),
                number(line.pid.map(i64::from)),
                time(line.held_for_seconds),
                time(line.overdue_seconds),
                line.detail.clone().unwrap_or_default(),
            ]
        })?;
    }
    Ok(())
}

fn seconds(duration: Option<Duration>) -> Option<f64> {
    duration.map(|duration| duration.as_secs_f64())
}

fn time(seconds: Option<f64>) -> String {
    seconds
        .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
        .map_or("-".into(), show_duration)
}

fn number(number: Option<i64>) -> String {
    number.map_or("-".into(), |number| number.to_string())
}
