//! Making and dropping queues, registering and steering consumers.

use std::time::SystemTime;

use clap::Args;
use skytide_sql::api::pgq::{self, Consumers, Made};
use skytide_sql::api::pgq_coop::{self, OpenBatch};
use skytide_sql::conn::Session;
use skytide_sql::{ConsumerName, QueueName, TickId};

use super::super::failure::Failure;
use super::super::output::OutputMode;
use super::super::{Context, Outcome};
use super::{
    Names, check_new_consumer, connect, connect_string, consumer_name, queue_name, require_consumer,
    require_queue, stored_consumer, stored_queue, tick_id,
};
use crate::queue;

/// Make a queue
#[derive(Args, Debug)]
#[command(after_help = "\
Example:
  skytide queue create mail --set rotation_period='1 hour' --set ticker_max_lag='100 ms'")]
pub(super) struct CreateArgs {
    /// Name of the queue
    #[arg(value_parser = queue_name)]
    queue: QueueName,
    /// A setting: rotation_period, ticker_max_count, ticker_max_lag, ticker_idle_period, max_retries,
    /// retry_delay, retry_max_delay, …; may be repeated
    #[arg(long, value_name = "NAME=VALUE")]
    set: Vec<String>,
}

pub(super) async fn create(
    args: CreateArgs,
    session: &Session,
    context: &Context,
) -> anyhow::Result<Outcome> {
    let settings = args
        .set
        .iter()
        .map(|text| {
            text.split_once('=')
                .ok_or_else(|| Failure::usage(format!("--set {text:?} is not NAME=VALUE")))
        })
        .collect::<Result<Vec<_>, _>>()?;
    session.batch_execute("begin").await?;
    let made = async {
        let made = pgq::create_queue(&**session, &args.queue).await?;
        for (name, value) in settings {
            pgq::set_queue_config(&**session, &args.queue, name.trim(), value.trim()).await?;
        }
        anyhow::Ok(made)
    };
    let made = made.await;
    // A queue whose settings were refused is none.
    let end = if made.is_ok() { "commit" } else { "rollback" };
    session.batch_execute(end).await?;
    let made = made?;
    told(
        context,
        made.into(),
        &format!("queue {}", args.queue),
        "created",
        "was there",
    )
}

/// Drop a queue with all its events
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  skytide queue drop mail --dry-run
  skytide queue drop mail --force")]
pub(super) struct DropArgs {
    /// Name of the queue
    #[arg(value_parser = stored_queue)]
    queue: QueueName,
    /// Also with consumers, delayed events and dead letters
    #[arg(long)]
    force: bool,
    /// Say what would go, change nothing
    #[arg(long)]
    dry_run: bool,
}

pub(super) async fn drop(args: DropArgs, session: &Session, context: &Context) -> anyhow::Result<Outcome> {
    require_queue(session, &args.queue).await?;
    let consumers: Vec<String> = pgq::get_consumer_info(&**session, Some(&args.queue), None)
        .await?
        .into_iter()
        .map(|consumer| consumer.consumer_name)
        .collect();
    if !consumers.is_empty() && !args.force {
        return Err(Failure::new(format!("queue {} has consumers", args.queue))
            .detail(consumers.join(", "))
            .hint("--force drops it all the same")
            .into());
    }
    let with = match args.force {
        true => Consumers::Unregister,
        false => Consumers::Refuse,
    };
    // A dry run meets what would refuse it: delayed events, dead letters, missing rights.
    session.batch_execute("begin").await?;
    let dropped = pgq::drop_queue(&**session, &args.queue, with).await;
    let end = match args.dry_run || dropped.is_err() {
        true => "rollback",
        false => "commit",
    };
    session.batch_execute(end).await?;
    dropped?;
    let what = match consumers.as_slice() {
        [] => format!("queue {}", args.queue),
        some => format!("queue {} with consumers {}", args.queue, some.join(", ")),
    };
    done(
        context,
        args.dry_run,
        &format!("{what} dropped"),
        &format!("{what} would be dropped"),
    )
}

/// Register a consumer: it gets every event from the newest tick on
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  skytide queue register mail mailer
  skytide queue register mail auditor --like mailer
  skytide queue register mail mailer --subconsumer worker1")]
pub(super) struct RegisterArgs {
    #[command(flatten)]
    names: Names,
    /// Begin at this tick, or move there
    #[arg(long, value_name = "TICK", value_parser = tick_id)]
    at: Option<TickId>,
    /// Begin where this consumer is
    #[arg(long, value_name = "CONSUMER", value_parser = stored_consumer, conflicts_with = "at")]
    like: Option<ConsumerName>,
    /// Register a worker that shares the consumer's batches
    #[arg(long, value_name = "NAME", value_parser = consumer_name, conflicts_with_all = ["at", "like"])]
    subconsumer: Option<ConsumerName>,
    /// Forget what an earlier consumer of this name did in this database
    #[arg(long, value_name = "CONNECT STRING")]
    target: Option<String>,
}

pub(super) async fn register(
    args: RegisterArgs,
    session: &Session,
    context: &Context,
) -> anyhow::Result<Outcome> {
    let Names { queue, consumer } = &args.names;
    require_queue(session, queue).await?;
    check_new_consumer(session, &args.names).await?;
    // What one that is there has done stands, unless it is moved.
    let known = pgq::get_consumer_info(&**session, Some(queue), Some(consumer)).await?;
    if known.is_empty() || args.at.is_some() || args.like.is_some() {
        forget(args.target.as_deref(), &args.names).await?;
    }
    if let Some(subconsumer) = &args.subconsumer {
        let made = pgq_coop::register_subconsumer(&**session, queue, consumer, subconsumer).await?;
        let what = format!("subconsumer {subconsumer} of consumer {consumer}");
        return told(context, made.into(), &what, "registered", "was registered");
    }
    let at = match (args.at, &args.like) {
        (Some(tick), _) => Some(tick),
        (None, Some(other)) => {
            let info = pgq::get_consumer_info(&**session, Some(queue), Some(other)).await?;
            let tick = info.first().and_then(|info| info.last_tick);
            Some(tick.ok_or_else(|| Failure::new(format!("{other} is not registered on queue {queue}")))?)
        }
        (None, None) => None,
    };
    let made = match at {
        Some(tick) => pgq::register_consumer_at(&**session, queue, consumer, tick).await?,
        None => pgq::register_consumer(&**session, queue, consumer).await?,
    };
    let what = format!("consumer {consumer}");
    match (made, at) {
        (Made::WasThere, Some(_)) => told(context, Change::Made, &what, "moved", ""),
        (made, _) => told(context, made.into(), &what, "registered", "was registered"),
    }
}

/// Unregister a consumer: events are not kept for it any more
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  skytide queue unregister mail mailer
  skytide queue unregister mail mailer --subconsumer worker1")]
pub(super) struct UnregisterArgs {
    #[command(flatten)]
    names: Names,
    /// Unregister only this worker
    #[arg(long, value_name = "NAME", value_parser = stored_consumer)]
    subconsumer: Option<ConsumerName>,
    /// The worker's open batch goes too, its events unprocessed
    #[arg(long, requires = "subconsumer")]
    drop_batch: bool,
    /// Forget what the consumer did in this database
    #[arg(long, value_name = "CONNECT STRING")]
    target: Option<String>,
}

pub(super) async fn unregister(
    args: UnregisterArgs,
    session: &Session,
    context: &Context,
) -> anyhow::Result<Outcome> {
    let Names { queue, consumer } = &args.names;
    require_queue(session, queue).await?;
    let (what, gone) = match &args.subconsumer {
        Some(subconsumer) => {
            let batch = match args.drop_batch {
                true => OpenBatch::Drop,
                false => OpenBatch::Refuse,
            };
            let gone =
                pgq_coop::unregister_subconsumer(&**session, queue, consumer, subconsumer, batch).await?;
            (format!("subconsumer {subconsumer} of consumer {consumer}"), gone)
        }
        None => {
            require_consumer(session, &args.names).await?;
            let gone = pgq::unregister_consumer(&**session, queue, consumer).await? > 0;
            (format!("consumer {consumer}"), gone)
        }
    };
    forget(args.target.as_deref(), &args.names).await?;
    told(context, gone.into(), &what, "unregistered", "was not registered")
}

/// Forgets the mark in the target database.
async fn forget(target: Option<&str>, names: &Names) -> anyhow::Result<()> {
    if let Some(target) = target {
        let target = connect(&connect_string(target, "--target")?).await?;
        queue::forget_position(&*target, &names.queue, &names.consumer).await?;
    }
    Ok(())
}

/// Move a consumer, backwards or forwards
///
/// Its open batch is dropped; those that workers of a group have begun are theirs to the end. Events are kept for one to
/// two rotation periods; a consumer can go back as far.
/// A consumer that writes into another database has its position there too: name it with --target.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  skytide queue seek mail mailer --time '2026-07-01T12:00:00Z' --dry-run
  skytide queue seek mail mailer --ago 15min
  skytide queue seek mail mailer --end")]
#[command(group = clap::ArgGroup::new("place").required(true))]
pub(super) struct SeekArgs {
    #[command(flatten)]
    names: Names,
    /// To this tick
    #[arg(long, group = "place", value_name = "TICK", value_parser = tick_id)]
    tick: Option<TickId>,
    /// To the last tick before this time
    #[arg(long, group = "place", value_name = "TIMESTAMP")]
    time: Option<jiff::Timestamp>,
    /// To the last tick that is so old
    #[arg(long, group = "place", value_name = "TIME", value_parser = crate::config::unit::duration)]
    ago: Option<std::time::Duration>,
    /// To the oldest tick there is
    #[arg(long, group = "place")]
    start: bool,
    /// Behind all events there are; those that wait for a retry are forgotten
    #[arg(long, group = "place")]
    end: bool,
    /// Move its position in this database too
    #[arg(long, value_name = "CONNECT STRING")]
    target: Option<String>,
    /// Say where it would go, change nothing
    #[arg(long)]
    dry_run: bool,
}

pub(super) async fn seek(
    args: SeekArgs,
    session: &mut Session,
    context: &Context,
) -> anyhow::Result<Outcome> {
    require_consumer(session, &args.names).await?;
    let Names { queue, consumer } = &args.names;
    let transaction = session.transaction().await?;
    let tick = if let Some(tick) = args.tick {
        pgq::seek_consumer(&transaction, queue, consumer, tick).await?
    } else if args.end {
        pgq::purge_consumer(&transaction, queue, consumer).await?
    } else {
        let time = match (args.time, args.ago) {
            (Some(time), _) => SystemTime::from(time),
            (None, Some(ago)) => SystemTime::now()
                .checked_sub(ago)
                .ok_or_else(|| Failure::usage("--ago is before the beginning of time"))?,
            // --start: older than any tick.
            (None, None) => SystemTime::UNIX_EPOCH,
        };
        pgq::seek_consumer_to_time(&transaction, queue, consumer, time).await?
    };
    if args.dry_run {
        transaction.rollback().await?;
    } else {
        transaction.commit().await?;
        if let Some(target) = &args.target {
            let target = connect(&connect_string(target, "--target")?).await?;
            queue::set_position(&*target, queue, consumer, tick).await?;
        }
    }
    done(
        context,
        args.dry_run,
        &format!("consumer {consumer} is at tick {tick}"),
        &format!("consumer {consumer} would be at tick {tick}"),
    )
}

/// Give a consumer no new batches until it is resumed
///
/// The batch it has open can be finished. A consumer that stands still holds rotation back.
#[derive(Args, Debug)]
#[command(after_help = "Example:\n  skytide queue pause mail mailer")]
pub(super) struct PauseArgs {
    #[command(flatten)]
    names: Names,
}

pub(super) async fn pause(args: PauseArgs, session: &Session, context: &Context) -> anyhow::Result<Outcome> {
    require_consumer(session, &args.names).await?;
    let Names { queue, consumer } = &args.names;
    let paused = pgq::pause_consumer(&**session, queue, consumer).await?;
    told(
        context,
        paused.into(),
        &format!("consumer {consumer}"),
        "paused",
        "was paused",
    )
}

/// Give a paused consumer batches again
#[derive(Args, Debug)]
#[command(after_help = "Example:\n  skytide queue resume mail mailer")]
pub(super) struct ResumeArgs {
    #[command(flatten)]
    names: Names,
}

pub(super) async fn resume(
    args: ResumeArgs,
    session: &Session,
    context: &Context,
) -> anyhow::Result<Outcome> {
    require_consumer(session, &args.names).await?;
    let Names { queue, consumer } = &args.names;
    let resumed = pgq::resume_consumer(&**session, queue, consumer).await?;
    told(
        context,
        resumed.into(),
        &format!("consumer {consumer}"),
        "resumed",
        "was not paused",
    )
}

/// Whether a command changed something.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Change {
    Made,
    WasSo,
}

impl From<Made> for Change {
    fn from(made: Made) -> Change {
        match made {
            Made::New => Change::Made,
            Made::WasThere => Change::WasSo,
        }
    }
}

impl From<bool> for Change {
    fn from(changed: bool) -> Change {
        match changed {
            true => Change::Made,
            false => Change::WasSo,
        }
    }
}

/// Says what a command did, or that there was nothing to do.
fn told(context: &Context, change: Change, what: &str, did: &str, was: &str) -> anyhow::Result<Outcome> {
    let verb = match change {
        Change::Made => did,
        Change::WasSo => was,
    };
    answer(context, change, &format!("{what} {verb}"))
}

pub(super) fn done(context: &Context, dry_run: bool, did: &str, would: &str) -> anyhow::Result<Outcome> {
    match dry_run {
        false => answer(context, Change::Made, did),
        true => {
            let note = format!("{would}\nDry run: nothing was changed.");
            answer(context, Change::WasSo, &note)
        }
    }
}

#[derive(serde::Serialize)]
struct Answer<'a> {
    changed: bool,
    note: &'a str,
}

fn answer(context: &Context, change: Change, note: &str) -> anyhow::Result<Outcome> {
    let changed = change == Change::Made;
    match context.output.mode() {
        OutputMode::Table => context.output.line(note)?,
        OutputMode::Json => context.output.json(&Answer { changed, note })?,
    }
    Ok(Outcome::Done)
}
