//! The two ways to work on a batch: at least once, and exactly once into another database.

use skytide_sql::api::pgq::{Batch, Opening};
use skytide_sql::conn::{self, ConnectString, Session};

use super::drive::Worked;
use super::handler::{BatchHandler, TargetHandler, Verdicts};
use super::mark::{Mark, Standing};
use super::source::Source;
use super::spooled::Spooled;
use super::{Events, QueueError, Settings};

pub(super) trait Work: Send {
    fn batch(
        &mut self,
        source: &Source<'_>,
        batch: &Batch,
    ) -> impl Future<Output = Result<Worked, QueueError>> + Send;

    /// What must be known of a batch before it is worked on.
    fn opening(&self) -> Opening {
        Opening::Durable
    }

    /// Something failed: forget connections.
    fn reset(&mut self) {}
}

/// Where the spool has all of the batch, from there.
async fn read(
    spooled: &mut Option<Spooled>,
    source: &Source<'_>,
    batch: &Batch,
) -> Result<Events, QueueError> {
    if let Some(spooled) = spooled
        && let Some(events) = spooled.events(source, batch).await?
    {
        return Ok(events);
    }
    source.events(batch).await
}

/// How many events were read of a batch that is done.
fn done(spooled: &mut Option<Spooled>, events: Events) -> u64 {
    let read = events.read();
    if let Some(spooled) = spooled {
        spooled.give_back(events);
    }
    read
}

pub(super) struct AtLeastOnce<'h, H> {
    handler: &'h mut H,
    spooled: Option<Spooled>,
}

impl<'h, H> AtLeastOnce<'h, H> {
    pub fn new(settings: &Settings, handler: &'h mut H) -> Self {
        AtLeastOnce {
            handler,
            spooled: Spooled::new(settings),
        }
    }
}

impl<H: BatchHandler> Work for AtLeastOnce<'_, H> {
    async fn batch(&mut self, source: &Source<'_>, batch: &Batch) -> Result<Worked, QueueError> {
        let mut verdicts = Verdicts::default();
        let mut events = read(&mut self.spooled, source, batch).await?;
        self.handler
            .batch(batch, &mut events, &mut verdicts)
            .await
            .map_err(QueueError::handler(batch.id))?;
        Ok(Worked {
            events: done(&mut self.spooled, events),
            verdicts,
            skipped: false,
        })
    }

    fn opening(&self) -> Opening {
        match self.handler.keeps_batches() {
            true => Opening::Durable,
            false => Opening::Unsynced,
        }
    }
}

pub(super) struct ExactlyOnce<'h, H> {
    settings: &'h Settings,
    target: &'h ConnectString,
    mark: Mark,
    handler: &'h mut H,
    session: Option<Session>,
    spooled: Option<Spooled>,
}

impl<'h, H> ExactlyOnce<'h, H> {
    pub fn new(settings: &'h Settings, target: &'h ConnectString, handler: &'h mut H) -> Self {
        ExactlyOnce {
            settings,
            target,
            mark: Mark::of(settings),
            handler,
            session: None,
            spooled: Spooled::new(settings),
        }
    }
}

impl<H: TargetHandler> Work for ExactlyOnce<'_, H> {
    /// Steps: look at the mark under a lock; do the work; set the mark; commit all of it. The caller
    /// finishes the batch. Whoever dies before the commit has done nothing, after it the mark tells.
    async fn batch(&mut self, source: &Source<'_>, batch: &Batch) -> Result<Worked, QueueError> {
        let settings = self.settings;
        let session = match &mut self.session {
            Some(session) => session,
            none => {
                let session = conn::connect(self.target, &settings.application_name)
                    .await
                    .map_err(QueueError::ConnectTarget)?;
                none.insert(session)
            }
        };
        let begin = QueueError::sql("begin in the target database");
        let target = session.transaction().await.map_err(begin)?;
        if self.mark.take(&target, batch).await? == Standing::Done {
            tracing::info!(batch = %batch.id, "the target database has this batch already");
            return Ok(Worked {
                events: 0,
                verdicts: Verdicts::default(),
                skipped: true,
            });
        }

        let mut events = read(&mut self.spooled, source, batch).await?;
        let worked = self.handler.batch(batch, &mut events, &target).await;
        worked.map_err(QueueError::handler(batch.id))?;

        self.mark.set(&target, batch).await?;
        fail::fail_point!("queue::before_target_commit");
        target
            .commit()
            .await
            .map_err(QueueError::sql("commit in the target database"))?;
        fail::fail_point!("queue::after_target_commit");
        Ok(Worked {
            events: done(&mut self.spooled, events),
            verdicts: Verdicts::default(),
            skipped: false,
        })
    }

    fn reset(&mut self) {
        self.session = None;
    }
}
