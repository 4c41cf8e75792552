//! Batches read from a worker's spool are those that SQL gives.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use skytide::queue::{self, Event, HandlerError, PerEvent, Settings, Until, Verdict};
use skytide_sql::conn::ConnectString;
use skytide_sql::{ConsumerName, QueueName};
use tokio_util::sync::CancellationToken;

use super::stage::one;
use crate::replica::{DATABASE, QUEUE, Replica};

fn settings(replica: &Replica, consumer: &str, spool: Option<PathBuf>) -> Settings {
    Settings {
        until: Until::Batches(1),
        spool,
        ..Settings::new(
            ConnectString::parse(&replica.provider.dsn(DATABASE)).unwrap(),
            QueueName::new(QUEUE).unwrap(),
            ConsumerName::new(consumer).unwrap(),
        )
    }
}

/// The next batch's events. Those of type `retry` are asked for again, once.
async fn batch(settings: &Settings) -> Option<Vec<Event>> {
    take(settings, "retry").await
}

async fn take(settings: &Settings, again: &'static str) -> Option<Vec<Event>> {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let kept = Arc::clone(&seen);
    let handler = move |event: Event| {
        let again = event.ev_type.as_deref() == Some(again) && event.retry == 0;
        kept.lock().unwrap().push(event);
        std::future::ready(Ok::<_, HandlerError>(match again {
            true => Verdict::Retry(std::time::Duration::ZERO),
            false => Verdict::Done,
        }))
    };
    let stats = queue::consume(settings, &mut PerEvent(handler), &CancellationToken::new())
        .await
        .unwrap();
    let mut events = std::mem::take(&mut *seen.lock().unwrap());
    // Those of one consumer are put back by other transactions than those of another.
    for event in events.iter_mut().filter(|event| event.retry > 0) {
        event.txid = None;
    }
    assert_eq!(stats.events, events.len() as u64);
    (stats.batches == 1).then_some(events)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_from_the_spool_is_the_batch_from_the_tables() {
    let mut replica = Replica::new().await;
    replica.start_worker();
    replica.add_tables(&["public.log"]).await;
    replica.wait_sync().await;
    // The first tick that a spool has begins no batch there: what ended around it may lie before it.
    for _ in 0..2 {
        replica.wait_reached().await;
    }
    let provider = replica.at_provider().await;
    let tick: i64 = one(&provider, "select last_tick_id from pgq.get_queue_info('q')").await;
    for consumer in ["by_sql", "by_spool", "late"] {
        provider
            .execute(
                "select pgq.register_consumer_at($1, $2, $3)",
                &[&QUEUE, &consumer, &tick],
            )
            .await
            .unwrap();
    }
    // Transactions that overlap ticks, are rolled back, or lie in subtransactions.
    let mut writers = Vec::new();
    for writer in 0..4 {
        let (client, ticker) = (replica.at_provider().await, replica.at_provider().await);
        writers.push(tokio::spawn(async move {
            for number in 0..60 {
                let nested = number % 3 == 0;
                let end = if number % 5 == 4 { "rollback" } else { "commit" };
                let insert = |kind: &str, nr: i32| {
                    format!("select pgq.insert_event('q', '{kind}', '{writer} {number} {nr} ü', 'x', null, '', 'é');")
                };
                client.batch_execute(&format!("begin; {}", insert("n", 0))).await.unwrap();
                if nested {
                    client
                        .batch_execute(&format!(
                            "savepoint a; {} rollback to a; savepoint b; {} release b;",
                            insert("undone", 1),
                            insert("retry", 2)
                        ))
                        .await
                        .unwrap();
                }
                if number % 4 == writer {
                    ticker.batch_execute("select pgq.tick_now('q')").await.unwrap();
                }
                client.batch_execute(&format!("{} {end}", insert("n", 3))).await.unwrap();
            }
        }));
    }
    for writer in writers {
        writer.await.unwrap();
    }
    // From here on retries are put back when this says so.
    replica.kill_ticker();
    provider
        .batch_execute("select pgq.force_tick('q'); select pgq.ticker('q')")
        .await
        .unwrap();
    replica.wait_reached().await;

    let spool = replica.spool_dir();
    for round in 0..2 {
        let mut events = 0;
        loop {
            let by_sql = batch(&settings(&replica, "by_sql", None)).await;
            let by_spool = batch(&settings(&replica, "by_spool", Some(spool.clone()))).await;
            assert_eq!(by_spool, by_sql);
            let Some(batch) = by_spool else { break };
            events += batch.len();
        }
        // 240 transactions, of which a fifth is undone: two plain events in each, a third one in every third.
        let wanted = if round == 0 { 192 * 2 + 64 } else { 64 };
        assert_eq!(events, wanted, "in round {round}");
        // Put back for each of the two, a few at a time; neither sees the other's.
        while one::<i32>(&provider, "select pgq.maint_retry_events()").await > 0 {}
        provider
            .batch_execute("select pgq.force_tick('q'); select pgq.ticker('q')")
            .await
            .unwrap();
        replica.wait_reached().await;
    }

    // The spool has them even where the tables do not.
    provider
        .batch_execute(
            "do $$ begin execute (select string_agg(format('truncate %s_%s', queue_data_pfx, n), '; ') \
                        from pgq.queue, generate_series(0, queue_ntables - 1) n); end $$",
        )
        .await
        .unwrap();
    let mut found = 0;
    while let Some(events) = take(&settings(&replica, "late", Some(spool.clone())), "none").await {
        found += events.iter().filter(|event| event.retry == 0).count();
    }
    assert_eq!(found, 192 * 2 + 64);

    // No spool: SQL.
    provider
        .batch_execute(
            "begin; select pgq.insert_event('q', 'n', 'one more'); commit; select pgq.tick_now('q')",
        )
        .await
        .unwrap();
    let nowhere = replica.spool_dir().join("nowhere");
    let mut last = Vec::new();
    while let Some(events) = take(&settings(&replica, "late", Some(nowhere.clone())), "none").await {
        last.extend(events);
    }
    assert_eq!(last.last().unwrap().data.as_deref(), Some("one more"));
    replica.stop_worker().await;
}
