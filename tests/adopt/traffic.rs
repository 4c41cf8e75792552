//! Producers, a consumer and a ticker that know only what every PgQ has.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::Duration;

use skytide_fixtures::server::Server;
use skytide_fixtures::wait;
use tokio::task::JoinHandle;
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

use super::{PATIENCE, number};

/// Every event whose id this divides is retried once.
const RETRIED: i64 = 20;

/// Tables beside the queue: what was produced, and what came out, in the same transactions.
const TABLES: &str = "\
    create table made (data text primary key); \
    create table got (data text, retry int); \
    create table watched (id serial primary key, data text)";

const QUEUE: &str = "\
    select pgq.create_queue('q'); \
    select pgq.register_consumer('q', 'c'); \
    update pgq.queue set queue_ticker_max_lag = '0', queue_ticker_idle_period = '0', queue_ticker_max_count = 1, \
           queue_rotation_period = '0'";

#[derive(Default)]
struct Flags {
    producing: AtomicBool,
    running: AtomicBool,
    rotating: AtomicBool,
    consumed: AtomicI64,
}

pub struct Traffic {
    flags: Arc<Flags>,
    producers: Vec<JoinHandle<Vec<String>>>,
    others: Vec<JoinHandle<Vec<String>>>,
    client: Client,
}

#[derive(Debug)]
pub struct Report {
    pub lost_or_repeated: i64,
    pub retried: i64,
    /// What the server refused to somebody.
    pub refused: Vec<String>,
}

impl Traffic {
    pub async fn start(server: &Server, database: &str) -> Traffic {
        let client = server.connect(database).await.unwrap();
        client.batch_execute(TABLES).await.unwrap();
        client.batch_execute(QUEUE).await.unwrap();
        let triggers = number(
            &client,
            "select count(*) from pg_proc where oid = to_regprocedure('pgq.logutriga()')",
        )
        .await;
        let mut inserts = vec!["select pgq.insert_event('q', 't', $1)"; 2];
        if triggers == 1 {
            client
                .batch_execute(
                    "create trigger capture after insert on watched \
                     for each row execute procedure pgq.logutriga('q', 'ev_data=data')",
                )
                .await
                .unwrap();
            inserts.push("insert into watched (data) values ($1)");
        }

        let flags = Arc::new(Flags::default());
        flags.producing.store(true, Ordering::Relaxed);
        flags.running.store(true, Ordering::Relaxed);
        let mut traffic = Traffic {
            flags: flags.clone(),
            producers: Vec::new(),
            others: Vec::new(),
            client,
        };
        for (nr, insert) in inserts.into_iter().enumerate() {
            let client = server.connect(database).await.unwrap();
            traffic
                .producers
                .push(tokio::spawn(produce(client, flags.clone(), nr, insert)));
        }
        let client = server.connect(database).await.unwrap();
        traffic.others.push(tokio::spawn(consume(client, flags.clone())));
        let client = server.connect(database).await.unwrap();
        traffic.others.push(tokio::spawn(tick(client, flags)));
        traffic
    }

    pub async fn consumed_more(&self, events: i64) {
        let wanted = self.flags.consumed.load(Ordering::Relaxed) + events;
        wait::until("events consumed", PATIENCE, async || {
            let consumed = self.flags.consumed.load(Ordering::Relaxed);
            anyhow::ensure!(consumed >= wanted, "{consumed} of {wanted}");
            Ok(Some(()))
        })
        .await
        .unwrap();
    }

    /// From now on event tables take turns.
    pub fn rotate(&self) {
        self.flags.rotating.store(true, Ordering::Relaxed);
    }

    /// Stops producing, waits until all is consumed, and compares.
    pub async fn stop(&mut self) -> Report {
        self.flags.producing.store(false, Ordering::Relaxed);
        let mut refused = Vec::new();
        for producer in self.producers.drain(..) {
            refused.extend(producer.await.unwrap());
        }
        let drained = "select (select count(*) from made m where not exists (select 1 from got g where g.data = m.data)) \
                       + (select count(*) from pgq.retry_queue where ev_type = 't')";
        let late = wait::until_eq("everything consumed", 0, PATIENCE, async || {
            Ok(number(&self.client, drained).await)
        })
        .await;
        // one more batch for the last retried ones
        self.ticks_pass().await;
        self.flags.running.store(false, Ordering::Relaxed);
        for other in self.others.drain(..) {
            refused.extend(other.await.unwrap());
        }
        if let Err(late) = late {
            refused.push(late.to_string());
        }
        let lost_or_repeated = "select count(*) from made m full join \
                (select data, count(*) filter (where retry = 0) as first, count(*) filter (where retry = 1) as again, \
                        count(*) filter (where retry > 1) as wrong from got group by data) g using (data) \
             where m.data is null or g.data is null or g.first <> 1 or g.again > 1 or g.wrong > 0";
        Report {
            lost_or_repeated: number(&self.client, lost_or_repeated).await,
            retried: number(&self.client, "select count(*) from got where retry = 1").await,
            refused,
        }
    }

    async fn ticks_pass(&self) {
        let newest = "select max(tick_id) from pgq.tick";
        let position = "select s.sub_last_tick from pgq.subscription s \
                        join pgq.consumer c on c.co_id = s.sub_consumer where c.co_name = 'c' \
                        and s.sub_queue = (select queue_id from pgq.queue where queue_name = 'q')";
        let wanted = number(&self.client, newest).await + 2;
        wait::until("the consumer passes some ticks", PATIENCE, async || {
            let seen = number(&self.client, position).await;
            anyhow::ensure!(seen >= wanted, "tick {seen} of {wanted}");
            Ok(Some(()))
        })
        .await
        .unwrap();
    }
}

async fn produce(mut client: Client, flags: Arc<Flags>, nr: usize, insert: &str) -> Vec<String> {
    let mut refused = Vec::new();
    for turn in 0.. {
        if !flags.producing.load(Ordering::Relaxed) {
            break;
        }
        let data = format!("{nr}:{turn}");
        let made: Result<(), tokio_postgres::Error> = async {
            let tx = client.transaction().await?;
            tx.execute(insert, &[&data]).await?;
            tx.execute("insert into made values ($1)", &[&data]).await?;
            match turn % 7 {
                6 => tx.rollback().await,
                _ => tx.commit().await,
            }
        }
        .await;
        refused.extend(made.err().map(|e| format!("produce: {e:?}")));
        // The pace of this load; nothing waits for it.
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    refused
}

/// Takes a batch in one transaction and works on it in another.
async fn consume(mut client: Client, flags: Arc<Flags>) -> Vec<String> {
    let mut refused = Vec::new();
    while flags.running.load(Ordering::Relaxed) {
        match batch(&mut client).await {
            Ok(Some(events)) => {
                flags.consumed.fetch_add(events, Ordering::Relaxed);
            }
            // As a consumer of the old kind does: it asks again.
            Ok(None) => tokio::time::sleep(Duration::from_millis(5)).await,
            Err(e) => refused.push(format!("consume: {e:?}")),
        }
    }
    refused
}

async fn batch(client: &mut Client) -> Result<Option<i64>, tokio_postgres::Error> {
    let row = client.query_one("select pgq.next_batch('q', 'c')", &[]).await?;
    let Some(id) = row.get::<_, Option<i64>>(0) else {
        return Ok(None);
    };
    let tx = client.transaction().await?;
    let events = tx
        .execute(
            "insert into got select ev_data, coalesce(ev_retry, 0) from pgq.get_batch_events($1)",
            &[&id],
        )
        .await?;
    let again = "select pgq.event_retry($1, ev_id, 0) from pgq.get_batch_events($1) \
                 where ev_retry is null and ev_id % $2 = 0";
    tx.query(again, &[&id, &RETRIED]).await?;
    tx.query_one("select pgq.finish_batch($1)", &[&id]).await?;
    tx.commit().await?;
    Ok(Some(i64::try_from(events).unwrap()))
}

async fn tick(client: Client, flags: Arc<Flags>) -> Vec<String> {
    let mut refused = Vec::new();
    while flags.running.load(Ordering::Relaxed) {
        let mut statements = vec!["select pgq.ticker('q')", "select pgq.maint_retry_events()"];
        if flags.rotating.load(Ordering::Relaxed) {
            statements.extend([
                "select pgq.maint_rotate_tables_step1('q')",
                "select pgq.maint_rotate_tables_step2()",
            ]);
        }
        for statement in statements {
            match client.query(statement, &[]).await {
                Ok(_) => {}
                // not in the oldest
                Err(e) if e.code() == Some(&SqlState::UNDEFINED_FUNCTION) => {}
                Err(e) => refused.push(format!("{statement}: {e:?}")),
            }
        }
        // How often it maintains; nothing waits for it.
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    refused
}
