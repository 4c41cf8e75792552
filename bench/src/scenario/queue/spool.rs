//! Taking events out of a worker's spool: no event table is read for them.

use std::future::ready;

use anyhow::ensure;
use skytide::queue::{self, Event, HandlerError, PerEvent, Settings, Until, Verdict as Fate};
use skytide_sql::conn::ConnectString;
use skytide_sql::{ConsumerName, QueueName};
use tokio_util::sync::CancellationToken;

use super::{Effort, Findings, PAYLOAD_BYTES, QUEUE};
use crate::cpu;
use crate::figures::{Verdict, median};
use crate::rig::{PROVIDER_DB, Rig};

const BATCH_EVENTS: i32 = 10_000;
const CONSUMER: &str = "from_spool";
/// Million events a second of one processor.
const MARK: f64 = 3.0;

pub async fn run(effort: Effort, findings: &mut Findings) -> anyhow::Result<()> {
    let batches = effort.size(100, 30);
    let mut rig = Rig::new("create table mark (id integer primary key)", "").await?;
    rig.londiste("root", &["add-table", "public.mark"]).await?;
    rig.start_worker()?;
    rig.londiste("leaf", &["add-table", "public.mark", "--wait-sync"])
        .await?;
    rig.pause_apply(true).await?;
    let register = "select pgq.tick_now($1), pgq.register_consumer($1, $2)";
    let events = f64::from(batches * BATCH_EVENTS);
    let mut settings = Settings::new(
        ConnectString::parse(&rig.provider.dsn(PROVIDER_DB))?,
        QueueName::new(QUEUE)?,
        ConsumerName::new(CONSUMER)?,
    );
    settings.until = Until::Idle;
    settings.spool = Some(rig.path("spool"));
    let mut rates = Vec::new();
    for _ in 0..effort.reps {
        rig.on_provider.execute(register, &[&QUEUE, &CONSUMER]).await?;
        for _ in 0..batches {
            rig.on_provider
                .batch_execute(&format!(
                    "select pgq.insert_events('{QUEUE}', 'type', array_agg(repeat('x', {PAYLOAD_BYTES}))) \
                     from generate_series(1, {BATCH_EVENTS})"
                ))
                .await?;
            rig.mark().await?;
        }
        rig.wait_spooled().await?;
        rig.stop_worker().await?;
        // So that what SQL would give is missed.
        rig.on_provider
            .batch_execute("truncate pgq.event_1_0, pgq.event_1_1, pgq.event_1_2")
            .await?;
        let before = cpu::of_process(std::process::id());
        let mut bytes = 0;
        let look = |event: Event| {
            bytes += event.data.as_ref().map_or(0, String::len);
            ready(Ok::<_, HandlerError>(Fate::Done))
        };
        let stats = queue::consume(&settings, &mut PerEvent(look), &CancellationToken::new()).await?;
        let spent = cpu::of_process(std::process::id()) - before;
        ensure!(
            stats.events == events as u64,
            "{} events of {events}",
            stats.events
        );
        ensure!(
            bytes == stats.events as usize * PAYLOAD_BYTES,
            "{bytes} bytes of payload"
        );
        rates.push(events / spent / 1e6);
        let unregister = "select pgq.unregister_consumer($1, $2)";
        rig.on_provider.execute(unregister, &[&QUEUE, &CONSUMER]).await?;
        rig.start_worker()?;
    }
    let rate = median(&rates);
    findings.table(
        &[
            "consumer of 10000-event batches from a worker's spool",
            "million events/s of one processor",
        ],
        &[vec![
            format!("{events:.0} events of {PAYLOAD_BYTES} bytes"),
            format!("{rate:.2}"),
        ]],
    );
    findings.verdicts.push(Verdict::at_least(
        "from the spool",
        MARK,
        rate,
        "million events/s",
    ));
    Ok(())
}
