//! Inserting many events: gathered here, inserted by few statements.

use skytide_sql::QueueName;
use skytide_sql::api::pgq::{self, NewEvent};
use skytide_sql::conn::{self, ConnectString, Session};

use super::{Limits, QueueError};

/// What a producer has committed.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Produced {
    pub events: u64,
    pub transactions: u64,
}

/// Inserts events, a transaction for as many as the limits let be in memory.
///
/// ```no_run
/// use skytide::queue::{Limits, NewEvent, Producer};
/// # use skytide_sql::{QueueName, conn::ConnectString};
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// let target = ConnectString::parse("host=db1 dbname=shop")?;
/// let mut producer = Producer::connect(&target, QueueName::new("mail")?, Limits::default(), "signup").await?;
/// for number in 0..10_000 {
///     producer.push(NewEvent::new("welcome", format!("user{number}@example.com"))).await?;
/// }
/// let produced = producer.finish().await?;
/// assert_eq!(produced.events, 10_000);
/// # Ok(()) }
/// ```
///
/// A program that has a transaction of its own calls [`pgq::insert_events`] in it instead, and its events are
/// there if and only if the rest is.
pub struct Producer {
    session: Session,
    queue: QueueName,
    limits: Limits,
    /// Where the database has a function that takes many events.
    at_once: bool,
    waiting: Vec<NewEvent>,
    waiting_bytes: usize,
    produced: Produced,
    /// Events whose transaction may or may not be committed.
    in_doubt: u64,
}

impl Producer {
    pub async fn connect(
        target: &ConnectString,
        queue: QueueName,
        limits: Limits,
        application_name: &str,
    ) -> Result<Producer, QueueError> {
        let session = conn::connect(target, application_name)
            .await
            .map_err(QueueError::Connect)?;
        if pgq::get_queue_info(&*session, Some(&queue)).await?.is_empty() {
            return Err(QueueError::NoQueue(queue));
        }
        let at_once = pgq::has_insert_events(&*session).await?;
        Ok(Producer {
            session,
            at_once,
            queue,
            limits,
            waiting: Vec::new(),
            waiting_bytes: 0,
            produced: Produced::default(),
            in_doubt: 0,
        })
    }

    /// What is committed so far.
    pub fn produced(&self) -> Produced {
        self.produced
    }

    /// How many events may be in the queue or not: the connection broke while they were committed.
    pub fn in_doubt(&self) -> u64 {
        self.in_doubt
    }

    /// Takes an event; inserts the gathered ones when they are enough.
    ///
    /// # Errors
    /// Nothing of the transaction that failed is in the queue, this event included; unless the connection broke, which
    /// [`Producer::in_doubt`] tells.
    pub async fn push(&mut self, event: NewEvent) -> Result<(), QueueError> {
        self.waiting_bytes += event.bytes();
        self.waiting.push(event);
        if self.waiting.len() >= self.limits.rows || self.waiting_bytes >= self.limits.bytes {
            self.flush().await?;
        }
        Ok(())
    }

    /// Inserts and commits what was gathered.
    ///
    /// # Errors
    /// As [`Producer::push`].
    pub async fn flush(&mut self) -> Result<(), QueueError> {
        if self.waiting.is_empty() {
            return Ok(());
        }
        let inserted = match self.at_once {
            true => pgq::insert_events(&*self.session, &self.queue, &self.waiting).await,
            false => pgq::insert_events_one_by_one(&*self.session, &self.queue, &self.waiting).await,
        };
        if let Err(error) = inserted {
            // What the server says itself it has rolled back.
            if !error.is_from_server() {
                self.in_doubt = self.waiting.len() as u64;
            }
            return Err(error.into());
        }
        self.produced.events += self.waiting.len() as u64;
        self.produced.transactions += 1;
        self.waiting.clear();
        self.waiting_bytes = 0;
        Ok(())
    }

    /// Asks the ticker for a tick, so that consumers see the events soon.
    ///
    /// # Errors
    /// The connection.
    pub async fn want_tick(&self) -> Result<(), QueueError> {
        Ok(pgq::want_tick(&*self.session, &self.queue).await?)
    }

    /// Inserts the rest.
    ///
    /// # Errors
    /// As [`Producer::push`].
    pub async fn finish(mut self) -> Result<Produced, QueueError> {
        self.flush().await?;
        Ok(self.produced)
    }
}
