//! `move`, `split`, `load`: from a queue into other queues or tables, exactly once.

use std::collections::HashMap;

use clap::{Args, ValueEnum};
use skytide_sql::conn::ConnectString;
use skytide_sql::{QueueName, TableName};

use super::super::failure::Failure;
use super::super::{Context, Outcome};
use super::running::ConsumerArgs;
use super::{connect, connect_string, stored_queue, table_name};
use crate::queue::{self, Field, Loader, Mover, Others, Splitter};

/// Copy a queue's events into another queue, exactly once
///
/// Type, data, extra fields and time stay as they are, ids are new, the order in a batch is kept. The target
/// database needs the SQL modules, the queue, and a user with pgq_admin.
#[derive(Args, Debug)]
#[command(after_help = "\
Example:
  skytide queue --db 'host=db1 dbname=shop' move mail mail_mover --to 'host=db2 dbname=batch' --to-queue mail")]
pub(super) struct MoveArgs {
    #[command(flatten)]
    consumer: ConsumerArgs,
    /// The database of the queue to fill
    #[arg(long, value_name = "CONNECT STRING")]
    to: String,
    /// The queue to fill; without it, one of the same name
    #[arg(long, value_name = "QUEUE", value_parser = stored_queue)]
    to_queue: Option<QueueName>,
}

pub(super) async fn run_move(
    args: MoveArgs,
    db: ConnectString,
    context: &Context,
) -> anyhow::Result<Outcome> {
    let consumer = &args.consumer;
    let target = connect_string(&args.to, "--to")?;
    let queue = args
        .to_queue
        .clone()
        .unwrap_or_else(|| consumer.names.queue.clone());
    if queue == consumer.names.queue && is_same_database(&db, &target).await? {
        return Err(
            Failure::usage(format!("queue {queue} would be moved into itself"))
                .hint("--to-queue names another one")
                .into(),
        );
    }
    consumer.prepare(&db, Some(&target)).await?;
    let settings = consumer.settings(db);
    let mut mover = Mover { queue };
    let consuming = queue::consume_into(&settings, &target, &mut mover, &context.shutdown);
    consumer.run(consuming, context).await
}

/// The same database, however it is reached?
async fn is_same_database(one: &ConnectString, other: &ConnectString) -> anyhow::Result<bool> {
    // A number that only somebody in the same database can find locked.
    const KEY: i64 = 0x736b_7974_6964_6571;
    let (one, other) = (connect(one).await?, connect(other).await?);
    let mine: bool = one
        .query_one("select pg_try_advisory_lock($1)", &[&KEY])
        .await?
        .try_get(0)?;
    let pid: i32 = one.query_one("select pg_backend_pid()", &[]).await?.try_get(0)?;
    if !mine {
        return Err(
            Failure::new("another command compares databases here at this moment")
                .hint("try again")
                .into(),
        );
    }
    let seen = other
        .query_one(
            "select exists (select from pg_catalog.pg_locks l \
              where l.locktype = 'advisory' and l.granted and l.pid = $1 \
                and l.classid::int8 << 32 | l.objid::int8 = $2 \
                and l.database = (select d.oid from pg_catalog.pg_database d where d.datname = current_database()))",
            &[&pid, &KEY],
        )
        .await?;
    Ok(seen.try_get(0)?)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum FieldArg {
    Type,
    Extra1,
    Extra2,
    Extra3,
    Extra4,
}

impl From<FieldArg> for Field {
    fn from(field: FieldArg) -> Field {
        match field {
            FieldArg::Type => Field::Type,
            FieldArg::Extra1 => Field::Extra1,
            FieldArg::Extra2 => Field::Extra2,
            FieldArg::Extra3 => Field::Extra3,
            FieldArg::Extra4 => Field::Extra4,
        }
    }
}

/// Copy each event of a queue into the queue that a field of it names, exactly once
///
/// An event that names no queue, or one that is not there, stops the command: nothing is left out in silence.
#[derive(Args, Debug)]
#[command(after_help = "\
Example:
  skytide queue --db 'host=db1 dbname=shop' split outbox splitter --to 'host=db2 dbname=batch' --by extra1")]
pub(super) struct SplitArgs {
    #[command(flatten)]
    consumer: ConsumerArgs,
    /// The database of the queues to fill
    #[arg(long, value_name = "CONNECT STRING")]
    to: String,
    /// The field that names the queue
    #[arg(long, value_enum, default_value_t = FieldArg::Extra1)]
    by: FieldArg,
}

pub(super) async fn run_split(
    args: SplitArgs,
    db: ConnectString,
    context: &Context,
) -> anyhow::Result<Outcome> {
    let target = connect_string(&args.to, "--to")?;
    args.consumer.prepare(&db, Some(&target)).await?;
    let settings = args.consumer.settings(db);
    let mut splitter = Splitter {
        field: args.by.into(),
    };
    let consuming = queue::consume_into(&settings, &target, &mut splitter, &context.shutdown);
    args.consumer.run(consuming, context).await
}

/// Apply the row events of triggers to tables, exactly once
///
/// Takes what pgq.logutriga (URL-encoded rows) and pgq.jsontriga (JSON rows) put into a queue: inserts, updates,
/// deletes, truncates, in their order. Columns must have the same names; their types may differ, as long as the
/// text of a value is understood.
#[derive(Args, Debug)]
#[command(after_help = "\
Example:
  skytide queue --db 'host=db1 dbname=shop' load changes loader --to 'host=db2 dbname=archive' \\
      --map public.orders=archive.orders")]
pub(super) struct LoadArgs {
    #[command(flatten)]
    consumer: ConsumerArgs,
    /// The database of the tables
    #[arg(long, value_name = "CONNECT STRING")]
    to: String,
    /// Rows of the first table go into the second one; may be repeated
    #[arg(long, value_name = "TABLE=TABLE", value_parser = table_pair)]
    map: Vec<(TableName, TableName)>,
    /// Events that are no rows count as done; without it they stop the command
    #[arg(long)]
    skip_others: bool,
}

fn table_pair(text: &str) -> Result<(TableName, TableName), String> {
    let (from, to) = text.split_once('=').ok_or("expected TABLE=TABLE")?;
    Ok((table_name(from)?, table_name(to)?))
}

pub(super) async fn run_load(
    args: LoadArgs,
    db: ConnectString,
    context: &Context,
) -> anyhow::Result<Outcome> {
    let target = connect_string(&args.to, "--to")?;
    args.consumer
        .refuse_group("load applies changes in their order, which workers that share batches do not keep")?;
    args.consumer.prepare(&db, Some(&target)).await?;
    let settings = args.consumer.settings(db);
    let tables: HashMap<_, _> = args.map.into_iter().collect();
    let others = match args.skip_others {
        true => Others::Skip,
        false => Others::Refuse,
    };
    let mut loader = Loader::new(tables, others);
    let consuming = queue::consume_into(&settings, &target, &mut loader, &context.shutdown);
    args.consumer.run(consuming, context).await
}
