//! Owns the replication connection: reads, hands on, reports what is durable, reconnects.

use std::num::NonZeroU64;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use skytide_sql::backoff::Backoff;
use skytide_sql::conn::ConnectString;
use skytide_sql::fault::Fault;
use skytide_sql::ident::quote_literal;
use skytide_sql::{Lsn, SlotName, TickId};
use skytide_wal::walsender::{
    Client, CopyBoth, Mode, Positions, ReplyRequested, StreamMessage, WalsenderError,
};
use tokio::sync::{Notify, oneshot};
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::assemble::{AssembleError, Assembler, Step};
use super::confirm::Confirmed;
use super::slot::Publications;
use crate::causes::chain;
use crate::spool::{Space, SpoolError, Writer};

/// Messages that follow each other faster than this come densely.
const DENSE: Duration = Duration::from_micros(300);
/// Dense messages are left to gather in the socket's buffer until about so many can be read together. A local
/// socket takes 170 to 280 small ones before the walsender has to wait for us.
const GATHERED: u32 = 64;
/// How long they are left at most: this is added to the latency of a busy stream.
const LONGEST_PAUSE: Duration = Duration::from_micros(200);

/// A provider that says nothing for so long is asked; after three times that, it is gone.
const SILENCE: Duration = Duration::from_secs(15);
/// How far an idle position may run ahead of the spool's recorded one before it is recorded.
const PROGRESS_BYTES: u64 = 16 << 20;
const PROGRESS_INTERVAL: Duration = Duration::from_secs(10);
/// How long to wait for room before a transaction that found none is read again.
const FULL_PAUSE: Duration = Duration::from_secs(1);

#[derive(Clone, Debug)]
pub struct CaptureSettings {
    pub provider: ConnectString,
    pub application_name: String,
    pub slot: SlotName,
    pub publications: Publications,
    /// The queue's id on the provider.
    pub queue_id: i32,
    /// Ask for binary column values where the server can send them (14 and later).
    pub binary: bool,
    /// At least so often the server hears from us.
    pub status_interval: Duration,
    /// Fsyncs are grouped over this time.
    pub sync_interval: Duration,
    /// Confirm only what the subscriber has on its disk (`confirm = applied`).
    pub wait_for_apply: bool,
}

#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CaptureError {
    #[error("{what}")]
    Provider { what: String, fix: String },
    #[error("slot {slot} {what}")]
    Slot {
        slot: SlotName,
        what: String,
        fix: String,
    },
    #[error("slot {slot} has moved to {confirmed}, but the spool ends at {spool_end}: changes are missing")]
    Gap {
        slot: SlotName,
        confirmed: Lsn,
        spool_end: Lsn,
    },
    #[error(
        "the provider's WAL ends at {flushed}, and was read up to {spool_end} already: the server was restored from an \
         older state, or is another copy of it"
    )]
    Rewound { flushed: Lsn, spool_end: Lsn },
    #[error("the provider has been silent for {0:?}")]
    Silent(Duration),
    #[error("the provider ended the stream")]
    Ended,
    #[error(transparent)]
    Assemble(#[from] AssembleError),
    #[error(transparent)]
    Spool(#[from] SpoolError),
    #[error("replication connection")]
    Walsender(#[from] WalsenderError),
    #[error("provider")]
    Sql(#[from] tokio_postgres::Error),
}

impl CaptureError {
    pub fn fault(&self) -> Fault {
        match self {
            CaptureError::Provider { .. }
            | CaptureError::Slot { .. }
            | CaptureError::Gap { .. }
            | CaptureError::Rewound { .. } => Fault::Operator,
            CaptureError::Silent(_) | CaptureError::Ended => Fault::Retry,
            CaptureError::Assemble(AssembleError::Spool(e)) | CaptureError::Spool(e) => e.fault(),
            CaptureError::Assemble(_) => Fault::Bug,
            CaptureError::Walsender(e) => e.fault(),
            CaptureError::Sql(e) => skytide_sql::fault::fault_of(e),
        }
    }

    fn is_space(&self) -> bool {
        match self {
            CaptureError::Assemble(AssembleError::Spool(e)) | CaptureError::Spool(e) => e.is_space(),
            _ => false,
        }
    }

    /// A slot reads WAL as the catalogs were when it was written: a publication that is made anew does not help.
    fn or_unpublished(self, slot: &SlotName) -> CaptureError {
        let CaptureError::Walsender(error) = &self else {
            return self;
        };
        let Some(error) = error.server_error() else {
            return self;
        };
        let is_missing = match error.code.as_str() {
            // undefined_object
            "42704" => error.message.starts_with("publication "),
            // object_not_in_prerequisite_state, a warning from 18 on
            "55000" => error.message.starts_with("skipped loading publication "),
            _ => false,
        };
        if !is_missing {
            return self;
        }
        CaptureError::Slot {
            slot: slot.clone(),
            what: format!(
                "cannot be read: {}, or did not when this was written",
                error.message
            ),
            fix: format!(
                "somebody dropped it. On the provider: select pg_drop_replication_slot({}); with the root's \
                 configuration: add-table each table of the set again, by its name; then with this one: resync --all",
                quote_literal(slot.as_str())
            ),
        }
    }

    /// What the user does next, where we know it.
    pub fn hint(&self) -> Option<String> {
        match self {
            CaptureError::Provider { fix, .. } | CaptureError::Slot { fix, .. } => Some(fix.clone()),
            CaptureError::Rewound { .. } => Some(
                "what the tables here have of the time that is lost there is in no later change; copy them again: \
                 skytide londiste CONF resync --all"
                    .into(),
            ),
            CaptureError::Gap { .. } => Some(
                "the spool is older than the slot; copy the tables again: skytide londiste CONF resync --all"
                    .into(),
            ),
            _ => None,
        }
    }
}

/// What capture tells others, and what they tell capture.
#[derive(Default)]
pub struct Signals {
    /// Changes of ours came that no tick covers yet.
    pub changes: Notify,
    /// A tick came through the stream.
    pub ticked: Notify,
    last_tick: AtomicI64,
    /// The spool made something durable.
    pub durable: Notify,
    /// Up to here the subscriber has everything on disk.
    applied_lsn: AtomicU64,
    received_lsn: AtomicU64,
    server_lsn: AtomicU64,
    connected: AtomicBool,
    full: AtomicBool,
}

impl Signals {
    pub fn set_applied(&self, lsn: Lsn) {
        self.applied_lsn.fetch_max(lsn.as_u64(), Ordering::Relaxed);
    }

    /// The newest tick that came through the stream.
    pub fn last_tick(&self) -> TickId {
        TickId::new(self.last_tick.load(Ordering::Relaxed))
    }

    pub fn received(&self) -> Lsn {
        Lsn::new(self.received_lsn.load(Ordering::Relaxed))
    }

    /// The end of the provider's WAL as it last said.
    pub fn server(&self) -> Lsn {
        Lsn::new(self.server_lsn.load(Ordering::Relaxed))
    }

    pub fn is_connected(&self) -> bool {
        self.connected.load(Ordering::Relaxed)
    }

    /// Reading has stopped because the spool has reached its quota.
    pub fn is_full(&self) -> bool {
        self.full.load(Ordering::Relaxed)
    }
}

/// Starts capture on a thread of its own, where it may pause between reads without holding up anybody.
/// The answer is that of [`run`]; it never comes if capture panicked.
///
/// # Errors
/// The system gives no thread, or no runtime for it.
pub fn start(
    settings: CaptureSettings,
    writer: Writer,
    signals: Arc<Signals>,
    cancel: CancellationToken,
) -> std::io::Result<oneshot::Receiver<Result<(), CaptureError>>> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let (sender, ended) = oneshot::channel();
    std::thread::Builder::new()
        .name("capture".into())
        .spawn(move || {
            // The pauses between reads are short: the usual 50 µs of slack would double them. Without it they
            // are longer, not wrong.
            let _ = rustix::thread::set_current_timer_slack(NonZeroU64::new(1_000));
            let result = runtime.block_on(run(settings, writer, signals, cancel));
            // Nobody listens any more if the worker is being torn down.
            let _ = sender.send(result);
        })?;
    Ok(ended)
}

/// Captures until cancelled; reconnects by itself. Runs on a thread that nobody else needs.
///
/// # Errors
/// Only what waiting cannot mend: the worker must stop and a person must look.
async fn run(
    settings: CaptureSettings,
    mut writer: Writer,
    signals: Arc<Signals>,
    cancel: CancellationToken,
) -> Result<(), CaptureError> {
    let durable = Arc::clone(&signals);
    writer.on_durable(Box::new(move || durable.durable.notify_one()));
    let mut backoff = Backoff::default();
    let mut asked = Asked {
        streaming: true,
        binary: settings.binary,
    };
    loop {
        let started = Instant::now();
        let ended = Box::pin(session(&settings, asked, &mut writer, &signals, &cancel)).await;
        let ended = ended.map_err(|error| error.or_unpublished(&settings.slot));
        signals.connected.store(false, Ordering::Relaxed);
        let error = match ended {
            Ok(()) => return Ok(()),
            Err(e) if let Some(without) = asked.with_less(&e) => {
                warn!(slot = %settings.slot, error = %chain(&e), "the stream cannot go on like this; again without {without}");
                continue;
            }
            Err(e) if e.fault() == Fault::Retry => e,
            Err(e) => return Err(e),
        };
        if started.elapsed() > Duration::from_secs(60) {
            backoff.reset();
        }
        // A change that found no room ends the session; what was read of its transaction is read again.
        signals.full.store(error.is_space(), Ordering::Relaxed);
        // Room comes when a batch is applied, at any moment: no reason to wait longer each time.
        let pause = if error.is_space() {
            FULL_PAUSE
        } else {
            backoff.next_delay()
        };
        metrics::counter!(crate::metrics::RECONNECTS).increment(1);
        warn!(slot = %settings.slot, error = %chain(&error), "capture stopped, trying again in {pause:?}");
        tokio::select! {
            () = cancel.cancelled() => return Ok(()),
            () = tokio::time::sleep(pause) => {}
        }
    }
}

/// What the server is asked to do beyond plain decoding, as long as it can.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Asked {
    /// Send large transactions before their commit.
    streaming: bool,
    binary: bool,
}

impl Asked {
    /// Whether a server sends binary values.
    fn binary_from(self, version: u32) -> bool {
        self.binary && version >= 140_000
    }

    /// Whether an error may be due to what was asked for: then it is not asked for any more, and named.
    fn with_less(&mut self, error: &CaptureError) -> Option<&'static str> {
        let error = match error {
            CaptureError::Walsender(error) => error,
            CaptureError::Assemble(AssembleError::NotPortable { .. }) if self.binary => {
                self.binary = false;
                return Some("binary values");
            }
            _ => return None,
        };
        match error.server_error()?.code.as_str() {
            // undefined_function: a type without a binary form, perhaps of a table that is not even followed any more
            "42883" if self.binary => {
                self.binary = false;
                Some("binary values")
            }
            // internal_error: PostgreSQL loses relations that a streamed transaction has rewritten in a subtransaction
            // which it rolled back ("could not map filenode")
            "XX000" if self.streaming => {
                self.streaming = false;
                Some("streaming of large transactions")
            }
            _ => None,
        }
    }
}

async fn session(
    settings: &CaptureSettings,
    asked: Asked,
    writer: &mut Writer,
    signals: &Signals,
    cancel: &CancellationToken,
) -> Result<(), CaptureError> {
    let mut client = Client::connect(&settings.provider, Mode::Logical, &settings.application_name).await?;
    let system = client.identify_system().await?;
    writer.check_server(system.system_id, system.timeline.as_u32())?;
    // The server takes a position beyond its WAL, and passes over all that it writes up to there.
    if system.flush_lsn < writer.end_lsn() {
        return Err(CaptureError::Rewound {
            flushed: system.flush_lsn,
            spool_end: writer.end_lsn(),
        });
    }
    let (start, confirmed) = start_position(&mut client, settings, writer.end_lsn()).await?;
    let version = client.server_version_num();
    let publications = settings.publications.option();
    let options = options(version, asked, &publications);
    writer.session(start)?;
    let mut stream = client.start_logical(&settings.slot, start, &options).await?;
    signals.connected.store(true, Ordering::Relaxed);
    info!(slot = %settings.slot, lsn = %start, "capturing");

    let mut reading = Reading {
        assembler: Assembler::new(settings.queue_id, asked.binary_from(version), writer.last_tick()),
        confirmed: Confirmed::new(start, confirmed, settings.wait_for_apply),
        idle_lsn: Lsn::INVALID,
        // What the connection before left unsynced, and this one's first entry.
        dirty: true,
        bytes: 0,
        reply_wanted: false,
        last_progress: Instant::now(),
        signals,
    };
    let mut last_message = Instant::now();
    let mut last_status = Instant::now();
    let mut gathering = Gathering::new();
    let mut timer = interval(settings.sync_interval);
    timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        if matches!(writer.space(), Space::Full) {
            wait_for_space(settings, writer, &mut stream, &mut reading, cancel).await?;
            // Nobody listened meanwhile: that was not the server's silence.
            last_message = Instant::now();
        }
        tokio::select! {
            biased;
            () = cancel.cancelled() => break,
            _ = timer.tick() => {
                reading.settle(writer)?;
                let silence = last_message.elapsed();
                if silence > 3 * SILENCE {
                    return Err(CaptureError::Silent(silence));
                }
                if silence > SILENCE && last_status.elapsed() > SILENCE / 3 {
                    reading.report(&mut stream, writer, ReplyRequested::Yes).await?;
                    last_status = Instant::now();
                }
            }
            () = signals.durable.notified() => {
                reading.report(&mut stream, writer, ReplyRequested::No).await?;
                last_status = Instant::now();
            }
            message = stream.next() => {
                let message = message?.ok_or(CaptureError::Ended)?;
                reading.message(message, writer)?;
                let mut messages = 1;
                while let Some(message) = stream.buffered()? {
                    reading.message(message, writer)?;
                    messages += 1;
                }
                gathering.pause(messages);
                last_message = Instant::now();
            }
        }
        if reading.reply_wanted || last_status.elapsed() >= settings.status_interval {
            // A server that shuts down asks, and waits until all it sent is confirmed.
            if reading.reply_wanted {
                reading.settle(writer)?;
            }
            reading.reply_wanted = false;
            reading.report(&mut stream, writer, ReplyRequested::No).await?;
            last_status = Instant::now();
        }
    }
    // A clean stop leaves nothing to be sent again.
    reading.settle(writer)?;
    if writer.durable_lsn() < writer.end_lsn() {
        let _ = tokio::time::timeout(Duration::from_secs(5), signals.durable.notified()).await;
    }
    reading.report(&mut stream, writer, ReplyRequested::No).await?;
    let _ = tokio::time::timeout(Duration::from_secs(5), stream.finish()).await;
    Ok(())
}

/// Asking for a later position than the slot's skips changes silently, so a slot that is ahead of the
/// spool is refused. Also returns where the slot is.
async fn start_position(
    client: &mut Client,
    settings: &CaptureSettings,
    spool_end: Lsn,
) -> Result<(Lsn, Lsn), CaptureError> {
    let sql = format!(
        "select confirmed_flush_lsn from pg_catalog.pg_replication_slots where slot_name = {}",
        quote_literal(settings.slot.as_str())
    );
    let rows = client.simple_query(&sql).await?;
    let confirmed: Option<Lsn> = rows
        .first()
        .and_then(|r| r.first())
        .and_then(|c| c.as_ref())
        .and_then(|t| t.parse().ok());
    let Some(confirmed) = confirmed else {
        return Err(CaptureError::Slot {
            slot: settings.slot.clone(),
            what: "is gone from the provider".into(),
            fix: "copy the tables again: skytide londiste CONF resync --all".into(),
        });
    };
    if !spool_end.is_valid() {
        return Ok((confirmed, confirmed));
    }
    if confirmed > spool_end {
        return Err(CaptureError::Gap {
            slot: settings.slot.clone(),
            confirmed,
            spool_end,
        });
    }
    Ok((spool_end, confirmed))
}

fn options(version: u32, asked: Asked, publications: &str) -> Vec<(&'static str, &str)> {
    let protocol = match version / 10_000 {
        ..14 => "1",
        14 => "2",
        15 => "3",
        16.. => "4",
    };
    let mut options = vec![("proto_version", protocol), ("publication_names", publications)];
    if version >= 140_000 {
        if asked.streaming {
            options.push(("streaming", "on"));
        }
        if asked.binary_from(version) {
            options.push(("binary", "true"));
        }
    }
    options
}

async fn wait_for_space(
    settings: &CaptureSettings,
    writer: &mut Writer,
    stream: &mut CopyBoth,
    reading: &mut Reading<'_>,
    cancel: &CancellationToken,
) -> Result<(), CaptureError> {
    reading.settle(writer)?;
    reading.signals.full.store(true, Ordering::Relaxed);
    warn!(
        "the spool has reached its quota: capture waits until applied changes are released; the provider \
         keeps WAL for slot {} meanwhile. If the subscriber has applied all there is, one transaction or the \
         changes between two ticks are larger than spool_max_bytes: raise it and reload",
        settings.slot
    );
    let mut timer = interval(Duration::from_millis(100));
    let mut last_status = Instant::now();
    while matches!(writer.space(), Space::Full) {
        tokio::select! {
            () = cancel.cancelled() => break,
            _ = timer.tick() => {}
        }
        if last_status.elapsed() >= settings.status_interval.min(Duration::from_secs(5)) {
            reading.report(stream, writer, ReplyRequested::No).await?;
            last_status = Instant::now();
        }
    }
    reading.signals.full.store(false, Ordering::Relaxed);
    info!("the spool has room again");
    Ok(())
}

/// The walsender sends each message by itself. Reading each as it comes costs a wake-up and a read a message, here
/// and in the walsender who has to wake us; when they come densely, many are left to gather and are read at once.
struct Gathering {
    read_at: std::time::Instant,
    pause: Duration,
}

impl Gathering {
    fn new() -> Gathering {
        Gathering {
            read_at: std::time::Instant::now(),
            pause: LONGEST_PAUSE / 4,
        }
    }

    /// Called when all that was there was read: that many messages.
    fn pause(&mut self, messages: u32) {
        if self.read_at.elapsed() < DENSE {
            self.pause = match messages {
                0..GATHERED => (self.pause + LONGEST_PAUSE / 64).min(LONGEST_PAUSE),
                _ => self.pause / 2,
            };
            std::thread::sleep(self.pause);
        }
        self.read_at = std::time::Instant::now();
    }
}

struct Reading<'a> {
    assembler: Assembler,
    confirmed: Confirmed,
    /// Up to here nothing of ours is outside the spool.
    idle_lsn: Lsn,
    /// Something was appended since the last sync was asked for.
    dirty: bool,
    /// Read since the last settling, for the metrics.
    bytes: u64,
    reply_wanted: bool,
    last_progress: Instant,
    signals: &'a Signals,
}

impl Reading<'_> {
    #[inline]
    fn message(&mut self, message: StreamMessage<'_>, writer: &mut Writer) -> Result<(), CaptureError> {
        match message {
            StreamMessage::Data { payload, wal_end, .. } => {
                self.bytes += payload.len() as u64;
                match self.assembler.message(payload, writer)? {
                    Step::Nothing => {}
                    Step::Empty(lsn) => self.idle_at(lsn),
                    Step::Changes => {
                        self.dirty = true;
                        self.signals.changes.notify_one();
                        self.received(wal_end);
                    }
                    Step::Tick => {
                        writer.publish()?;
                        if let Some(tick) = writer.last_tick() {
                            self.signals.last_tick.store(tick.get(), Ordering::Relaxed);
                            self.signals.ticked.notify_one();
                        }
                        fail::fail_point!("capture::after_publish");
                        self.signals.full.store(false, Ordering::Relaxed);
                        self.dirty = true;
                        self.received(wal_end);
                    }
                }
            }
            StreamMessage::Keepalive {
                wal_end,
                reply_requested,
                ..
            } => {
                self.reply_wanted |= reply_requested;
                self.idle_at(wal_end);
                self.received(wal_end);
            }
        }
        Ok(())
    }

    fn received(&mut self, wal_end: Lsn) {
        self.signals
            .server_lsn
            .fetch_max(wal_end.as_u64(), Ordering::Relaxed);
    }

    fn idle_at(&mut self, lsn: Lsn) {
        if self.assembler.is_idle() {
            self.idle_lsn = self.idle_lsn.max(lsn);
            self.confirmed.received(lsn);
        }
    }

    /// Publishes what was appended and has it made durable; records an idle position now and then, so
    /// that a quiet publication does not hold the provider's WAL.
    fn settle(&mut self, writer: &mut Writer) -> Result<(), CaptureError> {
        metrics::counter!(crate::metrics::CAPTURE_BYTES).increment(std::mem::take(&mut self.bytes));
        let ahead = self.idle_lsn.bytes_since(writer.end_lsn()).unwrap_or(0);
        let due = ahead > 0 && (self.reply_wanted || self.last_progress.elapsed() >= PROGRESS_INTERVAL);
        if due || ahead >= PROGRESS_BYTES {
            writer.progress(self.idle_lsn)?;
            self.last_progress = Instant::now();
            self.dirty = true;
        }
        if self.dirty {
            self.dirty = false;
            writer.publish()?;
            writer.request_sync();
        }
        Ok(())
    }

    async fn report(
        &mut self,
        stream: &mut CopyBoth,
        writer: &Writer,
        reply: ReplyRequested,
    ) -> Result<(), CaptureError> {
        // Nothing is confirmed that can not be read again.
        writer.check_place()?;
        self.confirmed.durable(writer.durable_lsn());
        self.confirmed
            .applied(Lsn::new(self.signals.applied_lsn.load(Ordering::Relaxed)));
        self.signals
            .received_lsn
            .fetch_max(self.confirmed.write().as_u64(), Ordering::Relaxed);
        let flush = self.confirmed.flush();
        fail::fail_point!("capture::before_feedback");
        debug!(flush = %flush, "feedback");
        let positions = Positions {
            write: self.confirmed.write(),
            flush,
            apply: flush,
        };
        stream.send_status(&positions, reply).await?;
        Ok(())
    }
}
