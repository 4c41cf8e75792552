//! `dlq`: events that failed too often.

use clap::{Args, Subcommand};
use serde::Serialize;
use skytide_sql::api::pgq::{self, DeadLetter, DeadLetterId};
use skytide_sql::conn::Session;
use skytide_sql::{ConsumerName, QueueName};
use std::time::Duration;

use super::super::failure::Failure;
use super::super::{Context, Outcome};
use super::admin::done;
use super::{Names, event_line, require_queue, stored_consumer, stored_queue};

/// Data longer than this is cut in tables; `--json` has all of it.
const SHOWN_CHARACTERS: usize = 60;

#[derive(Subcommand, Debug)]
pub(super) enum DlqCommand {
    List(ListArgs),
    Replay(ReplayArgs),
    Purge(PurgeArgs),
}

/// List dead letters
#[derive(Args, Debug)]
#[command(after_help = "Example:\n  skytide queue dlq list mail mailer --json")]
pub(super) struct ListArgs {
    /// Name of the queue
    #[arg(value_parser = stored_queue)]
    queue: QueueName,
    /// Only those of this consumer
    #[arg(value_parser = stored_consumer)]
    consumer: Option<ConsumerName>,
    /// Only those with a higher id, to read page by page
    #[arg(long, value_name = "ID", default_value_t = 0)]
    after: i64,
    /// How many
    #[arg(long, default_value_t = 100)]
    limit: i32,
}

#[derive(Serialize)]
struct Line {
    id: i64,
    consumer: String,
    dead_since: String,
    reason: Option<String>,
    ev_id: i64,
    ev_time: String,
    ev_retry: Option<i32>,
    ev_type: Option<String>,
    ev_data: Option<String>,
    ev_extra1: Option<String>,
    ev_extra2: Option<String>,
    ev_extra3: Option<String>,
    ev_extra4: Option<String>,
}

impl From<DeadLetter> for Line {
    fn from(letter: DeadLetter) -> Line {
        let [ev_extra1, ev_extra2, ev_extra3, ev_extra4] = letter.extra;
        Line {
            id: letter.id.get(),
            consumer: letter.consumer_name,
            dead_since: event_line::time(letter.dead_since),
            reason: letter.reason,
            ev_id: letter.event.get(),
            ev_time: event_line::time(letter.event_time),
            ev_retry: letter.retry,
            ev_type: letter.ev_type,
            ev_data: letter.data,
            ev_extra1,
            ev_extra2,
            ev_extra3,
            ev_extra4,
        }
    }
}

/// Give dead letters to their consumer again, as new as if they never failed
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  skytide queue dlq replay mail mailer --dry-run
  skytide queue dlq replay mail mailer --id 17 --id 18")]
pub(super) struct ReplayArgs {
    #[command(flatten)]
    names: Names,
    /// Only this one; may be repeated
    #[arg(long)]
    id: Vec<i64>,
    /// Say how many there are, change nothing
    #[arg(long)]
    dry_run: bool,
}

/// Forget dead letters
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  skytide queue dlq purge mail mailer --older-than 30d --dry-run
  skytide queue dlq purge mail --id 17")]
pub(super) struct PurgeArgs {
    /// Name of the queue
    #[arg(value_parser = stored_queue)]
    queue: QueueName,
    /// Only those of this consumer
    #[arg(value_parser = stored_consumer)]
    consumer: Option<ConsumerName>,
    /// Only this one; may be repeated
    #[arg(long, conflicts_with = "older_than")]
    id: Vec<i64>,
    /// Only those that died so long ago
    #[arg(long, value_name = "TIME", value_parser = crate::config::unit::duration, default_value = "0")]
    older_than: Duration,
    /// Say how many there are, change nothing
    #[arg(long)]
    dry_run: bool,
}

pub(super) async fn run(
    command: DlqCommand,
    session: &mut Session,
    context: &Context,
) -> anyhow::Result<Outcome> {
    match command {
        DlqCommand::List(args) => list(args, session, context).await,
        DlqCommand::Replay(args) => replay(args, session, context).await,
        DlqCommand::Purge(args) => purge(args, session, context).await,
    }
}

async fn list(args: ListArgs, session: &Session, context: &Context) -> anyhow::Result<Outcome> {
    require_queue(session, &args.queue).await?;
    let after = DeadLetterId::new(args.after);
    let letters =
        pgq::get_dead_letters(&**session, &args.queue, args.consumer.as_ref(), after, args.limit).await?;
    let lines: Vec<Line> = letters.into_iter().map(Line::from).collect();
    let header = [
        "id",
        "consumer",
        "dead since",
        "event",
        "retries",
        "type",
        "data",
        "reason",
    ];
    context.output.rows(&header, &lines, |line| {
        vec![
            line.id.to_string(),
            line.consumer.clone(),
            line.dead_since.clone(),
            line.ev_id.to_string(),
            line.ev_retry.unwrap_or(0).to_string(),
            short(line.ev_type.as_deref()),
            short(line.ev_data.as_deref()),
            short(line.reason.as_deref()),
        ]
    })?;
    Ok(Outcome::Done)
}

async fn replay(args: ReplayArgs, session: &mut Session, context: &Context) -> anyhow::Result<Outcome> {
    require_queue(session, &args.names.queue).await?;
    let Names { queue, consumer } = &args.names;
    let transaction = session.transaction().await?;
    let mut count = 0;
    for id in &args.id {
        if !pgq::dead_letter_replay(&transaction, DeadLetterId::new(*id)).await? {
            return Err(unknown(*id).into());
        }
        count += 1;
    }
    if args.id.is_empty() {
        count = pgq::dead_letter_replay_all(&transaction, queue, consumer).await?;
    }
    match args.dry_run {
        true => transaction.rollback().await?,
        false => transaction.commit().await?,
    }
    done(
        context,
        args.dry_run,
        &format!("{count} events go to consumer {consumer} again"),
        &format!("{count} events would go to consumer {consumer} again"),
    )
}

async fn purge(args: PurgeArgs, session: &mut Session, context: &Context) -> anyhow::Result<Outcome> {
    require_queue(session, &args.queue).await?;
    let transaction = session.transaction().await?;
    let mut count = 0;
    for id in &args.id {
        if !pgq::dead_letter_purge(&transaction, DeadLetterId::new(*id)).await? {
            return Err(unknown(*id).into());
        }
        count += 1;
    }
    if args.id.is_empty() {
        let consumer = args.consumer.as_ref();
        count = pgq::dead_letter_purge_older(&transaction, &args.queue, consumer, args.older_than).await?;
    }
    match args.dry_run {
        true => transaction.rollback().await?,
        false => transaction.commit().await?,
    }
    done(
        context,
        args.dry_run,
        &format!("{count} dead letters forgotten"),
        &format!("{count} dead letters would be forgotten"),
    )
}

fn unknown(id: i64) -> Failure {
    Failure::new(format!("there is no dead letter {id}; nothing was changed"))
        .hint("skytide queue dlq list QUEUE has the ids")
}

fn short(text: Option<&str>) -> String {
    let Some(text) = text else {
        return "-".to_owned();
    };
    let line = text.replace(['\n', '\r', '\t'], " ");
    match line.char_indices().nth(SHOWN_CHARACTERS) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line,
    }
}
