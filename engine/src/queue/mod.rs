//! Consumers and producers of queues.
//!
//! A consumer takes batch after batch, reads each as the server sends it, hands its events to a handler and finishes it. A
//! batch that was not finished is given again, so [`consume`] delivers every event at least once. [`consume_into`]
//! delivers exactly once into another database: what the handler did there is committed together with the
//! mark of the batch. Several processes may share a consumer's batches: see [`Group`].
//!
//! ```no_run
//! use skytide::queue::{self, Event, HandlerError, PerEvent, Settings, Verdict};
//! use skytide_sql::conn::ConnectString;
//! use skytide_sql::{ConsumerName, QueueName};
//! use tokio_util::sync::CancellationToken;
//!
//! async fn send_mail(event: Event) -> Result<Verdict, HandlerError> {
//!     match event.data.as_deref() {
//!         Some(address) if address.contains('@') => Ok(Verdict::Done), // sent
//!         // Retried later and later; at last it is a dead letter.
//!         _ => Ok(Verdict::Nack("no address".to_owned())),
//!     }
//! }
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let settings = Settings::new(
//!     ConnectString::parse("host=db1 dbname=shop")?,
//!     QueueName::new("mail")?,
//!     ConsumerName::new("mailer")?,
//! );
//! let stop = CancellationToken::new();
//! let stats = queue::consume(&settings, &mut PerEvent(send_mail), &stop).await?;
//! println!("{} events in {} batches", stats.events, stats.batches);
//! # Ok(()) }
//! ```
//!
//! Every future here may be dropped at any point: the transactions it had open are rolled back, and the batch is
//! given again.

mod column;
mod drive;
mod error;
mod handler;
mod load;
mod mark;
mod packed;
mod producer;
mod reader;
mod settings;
mod source;
mod spooled;
mod table;
mod transfer;
mod work;

pub use drive::Stats;
pub use error::{HandlerError, QueueError};
pub use handler::{BatchHandler, EventHandler, PerEvent, TargetHandler, Verdict, Verdicts};
pub use load::{Loader, Others};
pub use mark::{forget_position, set_position};
pub use producer::{Produced, Producer};
pub use reader::Events;
pub use settings::{Group, Limits, Settings, Until};
pub use skytide_sql::api::pgq::{Batch, BatchSize, Event, NewEvent};
pub use table::TableWriter;
pub use transfer::{Field, Mover, Splitter};

use skytide_sql::conn::ConnectString;
use tokio_util::sync::CancellationToken;

/// Consumes until the settings or `stop` end it, between two batches. Each event comes at least once.
///
/// # Errors
/// What time does not mend: the rest is waited out, unless the settings ask for one pass only.
pub async fn consume<H: BatchHandler>(
    settings: &Settings,
    handler: &mut H,
    stop: &CancellationToken,
) -> Result<Stats, QueueError> {
    let mut work = work::AtLeastOnce::new(settings, handler);
    drive::drive(settings, &mut work, stop).await
}

/// The same with effects in another database, exactly once. Schema `pgq_ext` must be installed there.
///
/// # Errors
/// As [`consume`], and [`QueueError::LostPosition`].
pub async fn consume_into<H: TargetHandler>(
    settings: &Settings,
    target: &ConnectString,
    handler: &mut H,
    stop: &CancellationToken,
) -> Result<Stats, QueueError> {
    let mut work = work::ExactlyOnce::new(settings, target, handler);
    drive::drive(settings, &mut work, stop).await
}
