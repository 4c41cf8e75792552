//! `consume`: events to standard output, to a program, or into a table.

use std::ffi::OsString;

use anyhow::Context as _;
use clap::Args;
use skytide_sql::api::pgq::Batch;
use skytide_sql::api::pgq_ext;
use skytide_sql::conn::ConnectString;

use super::super::failure::{ClosedPipe, Failure};
use super::super::output::{Output, OutputMode};
use super::super::{Context, Outcome};
use super::exec::Exec;
use super::running::ConsumerArgs;
use super::{connect, connect_string, event_line, table_name};
use crate::queue::{self, BatchHandler, Events, HandlerError, QueueError, TableWriter, Verdicts};

/// Take events out of a queue: print them, give them to a program, or write them into a table
///
/// A batch is finished after its events were printed, after the program left with 0, or after the table's
/// database committed. What was not finished is given again: printing and programs see an event at least once,
/// a table has it exactly once, whatever is killed when.
///
/// SIGTERM and SIGINT finish the batch that is being worked on and stop.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  skytide queue consume mail mailer --until-idle
  skytide queue consume mail mailer --json | jq .ev_data
  skytide queue consume mail mailer --exec ./send-mail --from shop@example.com
  skytide queue consume mail auditor --into 'host=db2 dbname=audit' public.mail_event
  skytide queue consume mail mailer --subconsumer worker1 --dead-interval 10min --exec ./send-mail")]
pub(super) struct ConsumeArgs {
    #[command(flatten)]
    consumer: ConsumerArgs,
    /// Run this program once a batch that has events, with the events as JSON lines on its standard input. Exit
    /// code 0 finishes the batch, any other has it given again after a pause. The rest of the line is its
    /// arguments
    #[arg(
        long,
        num_args = 1..,
        allow_hyphen_values = true,
        value_name = "PROGRAM",
        conflicts_with = "into",
        help_heading = "What becomes of events"
    )]
    exec: Option<Vec<OsString>>,
    /// Write the events into a table of another database, exactly once: each field into the column of its name,
    /// ev_id, ev_time, ev_txid, ev_retry, ev_type, ev_data, ev_extra1 … ev_extra4, tick_id
    #[arg(long, num_args = 2, value_names = ["CONNECT STRING", "TABLE"], help_heading = "What becomes of events")]
    into: Option<Vec<String>>,
    /// Make the table if it is not there
    #[arg(long, requires = "into", help_heading = "What becomes of events")]
    create: bool,
}

pub(super) async fn run(args: ConsumeArgs, db: ConnectString, context: &Context) -> anyhow::Result<Outcome> {
    let consumer = &args.consumer;
    let settings = consumer.settings(db);
    let stop = &context.shutdown;
    if let Some([target, table]) = args.into.as_deref() {
        let target = connect_string(target, "--into")?;
        let mut writer = TableWriter::new(
            table_name(table).map_err(|what| Failure::usage(format!("--into {table}: {what}")))?,
        );
        if args.create {
            let session = connect(&target).await?;
            // Asked first: where it is missing, no table is to be left behind.
            pgq_ext::get_last_tick(&*session, &settings.consumer, settings.queue.as_str())
                .await
                .map_err(QueueError::Mark)?;
            writer
                .create(&*session)
                .await
                .with_context(|| format!("create table {table}"))?;
        }
        consumer.prepare(&settings.source, Some(&target)).await?;
        let consuming = queue::consume_into(&settings, &target, &mut writer, stop);
        return consumer.run(consuming, context).await;
    }
    consumer.prepare(&settings.source, None).await?;
    if let Some(command) = args.exec {
        let mut exec = Exec::new(command, &settings);
        return consumer
            .run(queue::consume(&settings, &mut exec, stop), context)
            .await;
    }
    let mut printer = Printer {
        output: context.output.clone(),
    };
    consumer
        .run(queue::consume(&settings, &mut printer, stop), context)
        .await
}

/// Prints events, a line each.
struct Printer {
    output: Output,
}

impl BatchHandler for Printer {
    async fn batch(
        &mut self,
        batch: &Batch,
        events: &mut Events,
        _verdicts: &mut Verdicts,
    ) -> Result<(), HandlerError> {
        while let Some(chunk) = events.next_chunk().await? {
            let lines = match self.output.mode() {
                OutputMode::Table => chunk.iter().map(event_line::text).collect(),
                OutputMode::Json => chunk
                    .iter()
                    .map(|event| event_line::json(event, batch.tick))
                    .collect::<Result<Vec<String>, _>>()
                    .map_err(HandlerError::stop)?,
            };
            self.output.line(lines.join("\n")).map_err(|error| {
                // In a box of anyhow's own it could not be told from others.
                match error.is::<ClosedPipe>() {
                    true => HandlerError::stop(ClosedPipe),
                    false => HandlerError::stop(error),
                }
            })?;
            fail::fail_point!("queue::mid_batch");
        }
        Ok(())
    }

    /// JSON shows the tick.
    fn keeps_batches(&self) -> bool {
        self.output.mode() == OutputMode::Json
    }
}
