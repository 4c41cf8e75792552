//! From before the insert of an event to its handler in a consumer.

use std::future::ready;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::Context;
use skytide::queue::{self, Event, HandlerError, PerEvent, Settings, Verdict as Fate};
use skytide_sql::conn::ConnectString;
use skytide_sql::{ConsumerName, QueueName};
use tokio_util::sync::CancellationToken;

use super::{Effort, Findings, OURS, Stage};
use crate::figures::{Verdict, percentile};

const EVENTS_A_SECOND: u32 = 100;

struct Pace {
    tick: Duration,
    /// Milliseconds.
    p50: Option<f64>,
    p99: f64,
}

const PACES: [Pace; 2] = [
    Pace {
        tick: Duration::from_millis(10),
        p50: Some(8.0),
        p99: 20.0,
    },
    Pace {
        tick: Duration::from_millis(2),
        p50: None,
        p99: 8.0,
    },
];

pub async fn run(stage: &Stage, effort: Effort, findings: &mut Findings) -> anyhow::Result<()> {
    let events = effort.size(2000, 500);
    let mut lines = Vec::new();
    for pace in PACES {
        let (mut p50s, mut p99s, mut worst) = (Vec::new(), Vec::new(), 0.0_f64);
        for _ in 0..effort.reps {
            let seen = latencies(stage, pace.tick, events).await?;
            p50s.push(percentile(&seen, 50.0));
            p99s.push(percentile(&seen, 99.0));
            worst = worst.max(percentile(&seen, 100.0));
        }
        let (p50, p99) = (percentile(&p50s, 50.0), percentile(&p99s, 50.0));
        let name = format!("{} ms ticks", pace.tick.as_millis());
        if let Some(mark) = pace.p50 {
            let what = format!("queue latency, {name}: p50");
            findings.verdicts.push(Verdict::at_most(what, mark, p50, "ms"));
        }
        let what = format!("queue latency, {name}: p99");
        findings
            .verdicts
            .push(Verdict::at_most(what, pace.p99, p99, "ms"));
        lines.push(vec![
            name,
            format!("{p50:.1}"),
            format!("{p99:.1}"),
            format!("{worst:.1}"),
        ]);
    }
    findings.table(
        &[
            "insert → handler, ms, 100 events/s",
            "p50 (median of runs)",
            "p99 (median of runs)",
            "worst",
        ],
        &lines,
    );
    Ok(())
}

async fn latencies(stage: &Stage, tick: Duration, events: i32) -> anyhow::Result<Vec<f64>> {
    const LATENCY_QUEUE: &str = "latency";
    let seconds = tick.as_secs_f64();
    stage
        .ours
        .batch_execute(&format!(
            "select pgq.create_queue('{LATENCY_QUEUE}'); \
             select pgq.set_queue_config('{LATENCY_QUEUE}', 'ticker_max_lag', '{seconds} seconds'); \
             select pgq.register_consumer('{LATENCY_QUEUE}', 'c')"
        ))
        .await?;
    let conf = stage.dir.path().join("ticker.ini");
    std::fs::write(
        &conf,
        format!(
            "[pgqd]\nbase_connstr = {}\ndatabase_list = {OURS}\nticker_period = {seconds}\n",
            stage.server.dsn("postgres")
        ),
    )?;
    let conf = conf.to_str().context("a temporary directory with an odd name")?;
    let mut ticker = stage
        .program
        .spawn(&["ticker", conf], &stage.dir.path().join("ticker.log"))?;

    let settings = Settings::new(
        ConnectString::parse(&stage.server.dsn(OURS))?,
        QueueName::new(LATENCY_QUEUE)?,
        ConsumerName::new("c")?,
    );
    let stop = CancellationToken::new();
    let (ended, wanted) = (stop.clone(), usize::try_from(events)?);
    let consumer = tokio::spawn(async move {
        let mut seen = Vec::with_capacity(wanted);
        let look = |event: Event| {
            let sent = event.data.as_deref().unwrap_or_default().parse::<f64>();
            ready(sent.map_err(HandlerError::stop).map(|sent| {
                seen.push(now_ms() - sent);
                if seen.len() == wanted {
                    ended.cancel();
                }
                Fate::Done
            }))
        };
        queue::consume(&settings, &mut PerEvent(look), &stop).await?;
        anyhow::Ok(seen)
    });

    let insert = stage
        .ours
        .prepare(&format!(
            "select pgq.insert_event('{LATENCY_QUEUE}', 'probe', $1)"
        ))
        .await?;
    let begun = Instant::now();
    for nr in 0..u32::try_from(events)? {
        tokio::time::sleep_until((begun + Duration::from_secs(1) * nr / EVENTS_A_SECOND).into()).await;
        stage.ours.execute(&insert, &[&now_ms().to_string()]).await?;
    }
    let seen = consumer.await??;
    ticker.check()?;
    ticker.stop().await?;
    stage
        .ours
        .batch_execute(&format!("select pgq.drop_queue('{LATENCY_QUEUE}', true)"))
        .await?;
    Ok(seen)
}

fn now_ms() -> f64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    since.as_secs_f64() * 1e3
}
