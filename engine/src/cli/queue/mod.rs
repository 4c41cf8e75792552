//! `skytide queue COMMAND`: queues, their consumers and producers.

mod admin;
mod consume;
mod dead_letters;
mod event_line;
mod exec;
mod inspect;
mod produce;
mod running;
mod transfer;

use clap::{Args, Subcommand};
use skytide_sql::conn::{self, ConnectString, Session};
use skytide_sql::{ConsumerName, QueueName, TableName, TickId};

use super::failure::Failure;
use super::{Context, Outcome};
use anyhow::Context as _;

/// Queues: make, watch, fill and empty them
///
/// Events are put into a queue in a transaction of the producer, and come out in batches: whatever became visible
/// between two ticks. Every consumer sees every event. A ticker must run: see skytide ticker.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  skytide queue --db 'host=db1 dbname=shop' create mail
  skytide queue --db 'host=db1 dbname=shop' register mail mailer
  echo 'hello' | skytide queue --db 'host=db1 dbname=shop' produce mail --type greeting
  skytide queue --db 'host=db1 dbname=shop' consume mail mailer --exec ./send-mail")]
pub struct QueueArgs {
    /// The queue's database; what it lacks comes from the PG* environment
    #[arg(
        long,
        global = true,
        value_name = "CONNECT STRING",
        env = "SKYTIDE_DB",
        hide_env_values = true,
        default_value = "",
        hide_default_value = true
    )]
    db: String,
    #[command(subcommand)]
    command: QueueCommand,
}

#[derive(Subcommand, Debug)]
enum QueueCommand {
    Create(admin::CreateArgs),
    Drop(admin::DropArgs),
    List(inspect::ListArgs),
    Info(inspect::InfoArgs),
    Register(admin::RegisterArgs),
    Unregister(admin::UnregisterArgs),
    Produce(produce::ProduceArgs),
    Consume(Box<consume::ConsumeArgs>),
    Move(Box<transfer::MoveArgs>),
    Split(Box<transfer::SplitArgs>),
    Load(Box<transfer::LoadArgs>),
    /// Look at events that failed too often, give them back, or forget them
    #[command(subcommand)]
    Dlq(dead_letters::DlqCommand),
    Seek(admin::SeekArgs),
    Pause(admin::PauseArgs),
    Resume(admin::ResumeArgs),
}

/// A queue and a consumer of it.
#[derive(Args, Debug, Clone)]
pub(super) struct Names {
    /// Name of the queue
    #[arg(value_parser = stored_queue)]
    queue: QueueName,
    /// Name of the consumer
    #[arg(value_parser = stored_consumer)]
    consumer: ConsumerName,
}

pub async fn run(args: QueueArgs, context: &Context) -> anyhow::Result<Outcome> {
    let db = connect_string(&args.db, "--db")?;
    match args.command {
        QueueCommand::Consume(args) => Box::pin(consume::run(*args, db, context)).await,
        QueueCommand::Move(args) => Box::pin(transfer::run_move(*args, db, context)).await,
        QueueCommand::Split(args) => Box::pin(transfer::run_split(*args, db, context)).await,
        QueueCommand::Load(args) => Box::pin(transfer::run_load(*args, db, context)).await,
        QueueCommand::Produce(args) => produce::run(args, &db, context).await,
        command => {
            let mut session = connect(&db).await?;
            match command {
                QueueCommand::Create(args) => admin::create(args, &session, context).await,
                QueueCommand::Drop(args) => admin::drop(args, &session, context).await,
                QueueCommand::List(args) => inspect::list(args, &session, context).await,
                QueueCommand::Info(args) => inspect::info(args, &session, context).await,
                QueueCommand::Register(args) => admin::register(args, &session, context).await,
                QueueCommand::Unregister(args) => admin::unregister(args, &session, context).await,
                QueueCommand::Dlq(command) => dead_letters::run(command, &mut session, context).await,
                QueueCommand::Seek(args) => admin::seek(args, &mut session, context).await,
                QueueCommand::Pause(args) => admin::pause(args, &session, context).await,
                QueueCommand::Resume(args) => admin::resume(args, &session, context).await,
                QueueCommand::Consume(_)
                | QueueCommand::Move(_)
                | QueueCommand::Split(_)
                | QueueCommand::Load(_)
                | QueueCommand::Produce(_) => Ok(Outcome::Done),
            }
        }
    }
}

fn connect_string(text: &str, option: &'static str) -> anyhow::Result<ConnectString> {
    ConnectString::parse_with_environment(text, |name| std::env::var(name).ok())
        .with_context(|| format!("read {option}"))
}

async fn connect(target: &ConnectString) -> anyhow::Result<Session> {
    conn::connect(target, "skytide queue").await.context("connect")
}

fn queue_name(text: &str) -> Result<QueueName, skytide_sql::names::BadName> {
    QueueName::new(text)
}

fn consumer_name(text: &str) -> Result<ConsumerName, skytide_sql::names::BadName> {
    ConsumerName::new(text)
}

/// A queue that is there: SQL lets it have any name.
fn stored_queue(text: &str) -> Result<QueueName, skytide_sql::names::BadName> {
    QueueName::stored(text)
}

fn stored_consumer(text: &str) -> Result<ConsumerName, skytide_sql::names::BadName> {
    ConsumerName::stored(text)
}

fn table_name(text: &str) -> Result<TableName, String> {
    // SQL's quotes would become part of the name.
    if text.split('.').any(|part| part.starts_with('"')) {
        return Err("names are taken as they are, also in mixed case: write them without quotes".to_owned());
    }
    TableName::parse(text).map_err(|error| error.to_string())
}

fn tick_id(text: &str) -> Result<TickId, std::num::ParseIntError> {
    text.parse().map(TickId::new)
}

/// A missing queue in our own words: the functions only raise texts.
async fn require_queue(
    session: &Session,
    queue: &QueueName,
) -> anyhow::Result<skytide_sql::api::pgq::QueueInfo> {
    let found = skytide_sql::api::pgq::get_queue_info(&**session, Some(queue)).await?;
    found
        .into_iter()
        .next()
        .ok_or_else(|| crate::queue::QueueError::NoQueue(queue.clone()).into())
}

/// A consumer that is not there yet gets a name that is easy to live with.
async fn check_new_consumer(session: &Session, names: &Names) -> anyhow::Result<()> {
    let Err(bad) = ConsumerName::new(names.consumer.as_str()) else {
        return Ok(());
    };
    let (queue, consumer) = (Some(&names.queue), Some(&names.consumer));
    let found = skytide_sql::api::pgq::get_consumer_info(&**session, queue, consumer).await?;
    match found.is_empty() {
        true => Err(Failure::usage(bad.to_string()).into()),
        false => Ok(()),
    }
}

async fn require_consumer(session: &Session, names: &Names) -> anyhow::Result<()> {
    require_queue(session, &names.queue).await?;
    let found =
        skytide_sql::api::pgq::get_consumer_info(&**session, Some(&names.queue), Some(&names.consumer))
            .await?;
    if found.is_empty() {
        return Err(crate::queue::QueueError::NotRegistered {
            queue: names.queue.clone(),
            consumer: names.consumer.clone(),
        }
        .into());
    }
    Ok(())
}
