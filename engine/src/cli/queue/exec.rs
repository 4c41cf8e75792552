//! A program as the handler of batches.

use std::ffi::OsString;
use std::io;
use std::process::Stdio;

use skytide_sql::api::pgq::Batch;
use tokio::io::AsyncWriteExt;
use tokio::process::{ChildStdin, Command};

use super::event_line;
use crate::queue::{BatchHandler, Event, Events, HandlerError, Settings, Verdicts};

/// Runs a program once a batch. Its exit code is its verdict.
pub(super) struct Exec {
    command: Vec<OsString>,
    queue: String,
    consumer: String,
}

impl Exec {
    pub fn new(command: Vec<OsString>, settings: &Settings) -> Exec {
        Exec {
            command,
            queue: settings.queue.to_string(),
            consumer: settings.consumer.to_string(),
        }
    }

    fn command(&self, batch: &Batch) -> Result<Command, HandlerError> {
        let (program, arguments) = self
            .command
            .split_first()
            .ok_or_else(|| HandlerError::stop("no program is given"))?;
        let mut command = Command::new(program);
        command
            .args(arguments)
            .env("SKYTIDE_QUEUE", &self.queue)
            .env("SKYTIDE_CONSUMER", &self.consumer)
            .env("SKYTIDE_BATCH_ID", batch.id.to_string())
            .env("SKYTIDE_TICK_ID", batch.tick.to_string())
            .env("SKYTIDE_PREV_TICK_ID", batch.prev_tick.to_string())
            .stdin(Stdio::piped())
            // A program that outlives us would work on a batch that is given to somebody else.
            .kill_on_drop(true)
            // Ctrl-C is for us; the program may finish its batch.
            .process_group(0);
        Ok(command)
    }

    fn name(&self) -> String {
        self.command
            .first()
            .map(|program| program.to_string_lossy().into_owned())
            .unwrap_or_default()
    }
}

impl BatchHandler for Exec {
    async fn batch(
        &mut self,
        batch: &Batch,
        events: &mut Events,
        _verdicts: &mut Verdicts,
    ) -> Result<(), HandlerError> {
        let Some(first) = events.next_chunk().await? else {
            return Ok(());
        };
        let mut child = self
            .command(batch)?
            .spawn()
            .map_err(|error| HandlerError::stop(format!("start {}: {error}", self.name())))?;
        if let Some(mut input) = child.stdin.take() {
            feed(&mut input, batch, first, events).await?;
        }
        let status = child.wait().await.map_err(HandlerError::stop)?;
        if !status.success() {
            return Err(HandlerError::retry(format!("{} left with {status}", self.name())));
        }
        Ok(())
    }
}

/// A program that stops reading may still say with its exit code that all is well.
async fn feed(
    input: &mut ChildStdin,
    batch: &Batch,
    first: Vec<Event>,
    events: &mut Events,
) -> Result<(), HandlerError> {
    let mut chunk = Some(first);
    while let Some(events_now) = chunk {
        let mut text = String::new();
        for event in &events_now {
            text.push_str(&event_line::json(event, batch.tick).map_err(HandlerError::stop)?);
            text.push('\n');
        }
        match input.write_all(text.as_bytes()).await {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(()),
            Err(error) => return Err(HandlerError::retry(error)),
        }
        fail::fail_point!("queue::mid_batch");
        chunk = events.next_chunk().await?;
    }
    Ok(())
}
