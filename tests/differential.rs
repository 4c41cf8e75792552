//! Batches cut from the WAL against batches that PgQ's own SQL gives: the same, tick by tick.
//!
//! A trigger writes an event for each row change, in the same transaction, so that each batch is checked
//! three ways: the decoded events against `pgq.get_batch_events`, and the decoded row changes of each
//! transaction and table against its events.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use skytide::apply::ChangeSource;
use skytide::batch::{Follower, Limits};
use skytide::capture::CaptureSettings;
use skytide::capture::slot::{Publications, check_server, ensure_publications, publish};
use skytide::capture::stream::{self, Signals};
use skytide::change::{ColumnValue, RowChange, Tuple};
use skytide::spool::{self, Entry, Identity, Spool, Writer};
use skytide_fixtures::server::{Options, Server};
use skytide_fixtures::wait;
use skytide_fixtures::workload::{self, Load, LoadOptions, Mix};
use skytide_sql::conn::ConnectString;
use skytide_sql::{QueueName, SlotName, TickId};
use skytide_wal::walsender::{Client as Replication, LogicalSlot, Mode};
use tokio_postgres::Client;
use tokio_util::sync::CancellationToken;

use crate::replica::{DATABASE, PATIENCE, prepare};

const WITNESS: &str = "
    create function public.witness() returns trigger language plpgsql security definer as $$
    begin
        perform pgq.insert_event('q', tg_op, tg_relid::regclass::text);
        return null;
    end $$";

/// What a batch holds: how often each transaction did what to which table.
type Changes = BTreeMap<(u64, String, String), u64>;
/// Event id, and the transaction, operation and table it is about.
type Events = BTreeMap<i64, (u64, String, String)>;

struct Capture {
    spool: Arc<Spool>,
    cancel: CancellationToken,
    task: tokio::sync::oneshot::Receiver<Result<(), skytide::capture::CaptureError>>,
}

struct Bench {
    server: Server,
    dir: tempfile::TempDir,
    settings: CaptureSettings,
    identity: Identity,
}

impl Bench {
    /// A server with the workload's schema, witnesses on each table, and a slot.
    async fn new() -> Bench {
        let options = Options::default()
            .with("wal_level", "logical")
            .with("max_prepared_transactions", 20)
            .with("logical_decoding_work_mem", "64kB");
        let server = prepare(options, &workload::schema_sql()).await;
        let client = server.connect(DATABASE).await.unwrap();
        client
            .batch_execute("select pgq.create_queue('q')")
            .await
            .unwrap();
        client.batch_execute(WITNESS).await.unwrap();
        let queue = QueueName::new("q").unwrap();
        let publications = Publications::of(&queue);
        check_server(&client).await.unwrap();
        ensure_publications(&client, &publications, &queue).await.unwrap();
        for table in workload::tables() {
            publish(&client, &publications.tables, &table).await.unwrap();
            let sql = format!(
                "create trigger witness after insert or update or delete on {} \
                 for each row execute function public.witness()",
                table.quoted()
            );
            client.batch_execute(&sql).await.unwrap();
        }
        let provider = ConnectString::parse(&server.dsn(DATABASE)).unwrap();
        let mut replication = Replication::connect(&provider, Mode::Logical, "test")
            .await
            .unwrap();
        let system = replication.identify_system().await.unwrap();
        let slot = SlotName::new("differential").unwrap();
        replication
            .create_logical_slot(&LogicalSlot::pgoutput(&slot))
            .await
            .unwrap();
        let queue_id = client
            .query_one("select queue_id from pgq.queue", &[])
            .await
            .unwrap()
            .get(0);
        Bench {
            server,
            dir: tempfile::tempdir().unwrap(),
            identity: Identity {
                system_id: system.system_id,
                timeline: system.timeline.as_u32(),
                database: DATABASE.into(),
                slot: slot.clone(),
                queue,
            },
            settings: CaptureSettings {
                provider,
                application_name: "differential".into(),
                slot,
                publications,
                queue_id,
                binary: false,
                status_interval: Duration::from_secs(1),
                sync_interval: Duration::from_millis(20),
                wait_for_apply: false,
            },
        }
    }

    fn capture(&self) -> Capture {
        let settings = spool::Settings {
            segment_bytes: 1 << 20,
            ..spool::Settings::new(self.dir.path())
        };
        let (writer, spool) = Writer::open(settings, self.identity.clone()).unwrap();
        let cancel = CancellationToken::new();
        let signals = Arc::new(Signals::default());
        let task = stream::start(self.settings.clone(), writer, signals, cancel.clone()).unwrap();
        Capture { spool, cancel, task }
    }

    /// Ticks, close to each other, until dropped.
    fn ticks(&self) -> tokio::task::JoinSet<()> {
        let dsn = self.server.dsn(DATABASE);
        let mut tasks = tokio::task::JoinSet::new();
        tasks.spawn(async move {
            let (client, connection) = tokio_postgres::connect(&dsn, tokio_postgres::NoTls)
                .await
                .unwrap();
            tokio::spawn(connection);
            let mut period = tokio::time::interval(Duration::from_millis(7));
            loop {
                period.tick().await;
                client.batch_execute("select pgq.tick_now('q')").await.unwrap();
            }
        });
        tasks
    }
}

impl Capture {
    /// The place right after a tick, once it is in the spool.
    async fn follower(&self, tick: TickId) -> Follower {
        wait::until("the tick in the spool", PATIENCE, async || {
            Ok(Follower::at_tick(&self.spool, tick)?)
        })
        .await
        .unwrap()
    }

    async fn stop(self) {
        self.cancel.cancel();
        self.task.await.unwrap().unwrap();
    }
}

/// Text of a column of an event row.
fn text(row: &Tuple<'_>, column: usize) -> String {
    match row.values().nth(column) {
        Some(ColumnValue::Text(value)) => String::from_utf8(value.to_vec()).unwrap(),
        other => panic!("column {column} of an event is {other:?}"),
    }
}

/// The next batch of the spool, up to exactly that tick.
async fn decoded(follower: &mut Follower, tick: TickId) -> (Events, Changes) {
    let limits = Limits {
        rows: u64::MAX,
        stop_at: Some(tick),
    };
    let plan = wait::until("the next tick in the spool", PATIENCE, async || {
        Ok(follower.plan(limits)?)
    })
    .await
    .unwrap();
    assert_eq!(plan.to.tick_id, tick);
    let batch = follower.source(&plan);
    let (mut events, mut changes) = (Events::new(), Changes::new());
    batch
        .drain(&mut |xid, change| {
            let (operation, id) = match change {
                RowChange::Insert { relation, .. } => ("INSERT", relation),
                RowChange::Update { relation, .. } => ("UPDATE", relation),
                RowChange::Delete { relation, .. } => ("DELETE", relation),
                RowChange::Truncate { .. } => return Ok(()),
            };
            let relation = batch.relation(*id).expect("known");
            if relation.table.schema == "pgq" {
                let RowChange::Insert { new, .. } = change else {
                    panic!("events are only inserted");
                };
                let column = |name: &str| relation.columns.iter().position(|c| c.name == name).unwrap();
                let event = (
                    xid.as_u64(),
                    text(new, column("ev_type")),
                    text(new, column("ev_data")),
                );
                assert_eq!(
                    text(new, column("ev_txid")),
                    event.0.to_string(),
                    "64-bit transaction id"
                );
                let twice = events.insert(text(new, column("ev_id")).parse().unwrap(), event);
                assert_eq!(twice, None, "an event comes once");
            } else {
                // As regclass shows it.
                let schema = match relation.table.schema.as_str() {
                    "public" => String::new(),
                    other => skytide_sql::ident::quote_ident(other).to_string() + ".",
                };
                let table = schema + &skytide_sql::ident::quote_ident(&relation.table.name);
                *changes
                    .entry((xid.as_u64(), operation.to_owned(), table.replace('"', "")))
                    .or_default() += 1;
            }
            Ok(())
        })
        .unwrap();
    follower.advance(&plan, batch);
    (events, changes)
}

/// PgQ's next batch, taken and finished; `None` if there is no tick yet.
async fn asked(client: &Client) -> Option<(TickId, Events)> {
    let row = client
        .query_one(
            "select batch_id, cur_tick_id from pgq.next_batch_info('q', 'sql')",
            &[],
        )
        .await
        .unwrap();
    let (batch, tick): (Option<i64>, Option<i64>) = (row.get(0), row.get(1));
    let rows = client
        .query(
            "select ev_id, ev_txid, ev_type, ev_data from pgq.get_batch_events($1)",
            &[&batch?],
        )
        .await
        .unwrap();
    let events = rows
        .iter()
        .map(|r| (r.get(0), (r.get::<_, i64>(1).unsigned_abs(), r.get(2), r.get(3))))
        .collect();
    client
        .query_one("select pgq.finish_batch($1)", &[&batch])
        .await
        .unwrap();
    Some((TickId::new(tick?), events))
}

/// The first tick after a transaction that began when the slot was there.
async fn anchor(client: &Client, capture: &Capture) -> TickId {
    let xid: i64 = client
        .query_one("select txid_current()", &[])
        .await
        .unwrap()
        .get(0);
    let mut reader = capture.spool.reader(capture.spool.begin());
    wait::until("a tick after the slot", PATIENCE, async || {
        while let Some(block) = reader.next_block()? {
            for entry in block.entries() {
                if let Entry::Tick(tick) = entry?
                    && tick.snapshot.xmin().as_u64() > xid.unsigned_abs()
                {
                    return Ok(Some(tick.tick_id));
                }
            }
        }
        Ok(None)
    })
    .await
    .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn each_batch_from_the_wal_is_the_batch_pgq_gives() {
    let bench = Bench::new().await;
    let client = bench.server.connect(DATABASE).await.unwrap();
    let options = LoadOptions {
        seed: 21,
        clients: 6,
        mix: Mix {
            // Truncated rows have no row changes and fire no row triggers.
            truncate: 0,
            long: 60,
            two_phase: 100,
            savepoints: 200,
            aborted: 100,
            ..Mix::default()
        },
        big_rows: 1000,
        ..LoadOptions::default()
    };
    let load = Load::start(&bench.server.dsn(DATABASE), options).unwrap();
    let mut ticks = bench.ticks();
    let mut capture = bench.capture();
    let start = anchor(&client, &capture).await;
    client
        .execute("select pgq.register_consumer_at('q', 'sql', $1)", &[&start.get()])
        .await
        .unwrap();
    let mut follower = capture.follower(start).await;

    let (mut batches, mut rows, mut held_over, mut last) = (0u32, 0, 0u32, None);
    let mut stopping = Some(load);
    loop {
        let Some((tick, expected)) = asked(&client).await else {
            if last.is_some_and(|last| follower.tick() >= last) {
                break;
            }
            continue;
        };
        let (events, changes) = decoded(&mut follower, tick).await;
        assert_eq!(events, expected, "events of tick {tick}");
        let mut witnessed = Changes::new();
        for (xid, operation, table) in expected.into_values() {
            *witnessed
                .entry((xid, operation, table.replace('"', "")))
                .or_default() += 1;
        }
        assert_eq!(changes, witnessed, "row changes of tick {tick}");
        batches += 1;
        rows += changes.values().sum::<u64>();
        held_over += u32::from(follower.has_pending());
        if batches.is_multiple_of(150) && last.is_none() {
            // Another life of the capture, in the middle of streamed and open transactions.
            drop(follower);
            capture.stop().await;
            capture = bench.capture();
            follower = capture.follower(tick).await;
        }
        if batches == 500
            && let Some(load) = stopping.take()
        {
            let stats = load.stop().await.unwrap();
            ticks.shutdown().await;
            let tick: i64 = client
                .query_one("select pgq.tick_now('q')", &[])
                .await
                .unwrap()
                .get(0);
            last = Some(TickId::new(tick));
            eprintln!("{stats:?}");
        }
    }
    assert!(!follower.has_pending(), "the last tick sees everything");
    eprintln!("{batches} batches, {rows} rows, {held_over} ticks with transactions held over");
    assert!(rows > 1000, "{rows} rows");
    drop(follower);
    capture.stop().await;
}
