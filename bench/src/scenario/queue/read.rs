//! Taking events out by SQL: our consumer beside a bare COPY of the same batches.

use std::future::ready;

use skytide::queue::{self, Event, HandlerError, PerEvent, Settings, Until, Verdict as Fate};
use skytide_sql::conn::ConnectString;
use skytide_sql::{ConsumerName, QueueName};
use tokio_util::sync::CancellationToken;

use super::{Effort, Findings, HEAD, OURS, PAYLOAD_BYTES, Pairs, QUEUE, Stage};
use crate::cpu;
use crate::figures::{Verdict, median};

const BATCH_EVENTS: i32 = 10_000;
/// Ratio to COPY.
const MARK: f64 = 1.15;

pub async fn run(stage: &Stage, effort: Effort, findings: &mut Findings) -> anyhow::Result<()> {
    let batches = effort.size(40, 10);
    let mut pairs = Pairs::new(
        format!("consumer of {BATCH_EVENTS}-event batches, server and client"),
        "COPY",
        Some(MARK),
    );
    for _ in 0..effort.reps {
        stage.clear().await?;
        for consumer in ["ours", "copy"] {
            stage
                .ours
                .execute("select pgq.register_consumer($1, $2)", &[&QUEUE, &consumer])
                .await?;
        }
        for _ in 0..batches {
            stage
                .ours
                .batch_execute(&format!(
                    "select pgq.insert_events('{QUEUE}', 'type', array_agg(repeat('x', {PAYLOAD_BYTES}))) \
                     from generate_series(1, {BATCH_EVENTS})"
                ))
                .await?;
            stage
                .ours
                .batch_execute(&format!("select pgq.ticker('{QUEUE}')"))
                .await?;
            stage
                .ours
                .batch_execute(&format!("select pgq.force_tick('{QUEUE}')"))
                .await?;
            stage
                .ours
                .batch_execute(&format!("select pgq.ticker('{QUEUE}')"))
                .await?;
        }
        let events = f64::from(batches * BATCH_EVENTS);
        let copy = copied(stage).await? * 1e6 / events;
        let ours = consumed(stage, events as u64).await? * 1e6 / events;
        pairs.seen.push((ours, copy));
        for consumer in ["ours", "copy"] {
            stage
                .ours
                .execute("select pgq.unregister_consumer($1, $2)", &[&QUEUE, &consumer])
                .await?;
        }
    }
    let seen = median(&pairs.ratios());
    findings.verdicts.push(Verdict::at_most(
        "consumer: CPU an event ÷ COPY of get_batch_events",
        MARK,
        (seen * 100.0).round() / 100.0,
        "",
    ));
    findings.table(&HEAD, &[pairs.line()]);
    Ok(())
}

/// CPU seconds of psql and the server for all batches, copied out.
async fn copied(stage: &Stage) -> anyhow::Result<f64> {
    let script = stage.dir.path().join("copy.sql");
    std::fs::write(
        &script,
        format!(
            "\\o /dev/null\n\
             select pgq.next_batch('{QUEUE}', 'copy') as b \\gset\n\
             \\if :{{?b}}\n\
             copy (select * from pgq.get_batch_events(:b)) to stdout;\n\
             select pgq.finish_batch(:b);\n\\endif\n"
        ),
    )?;
    let waiting = "select count(*) from pgq.tick t join pgq.subscription s on s.sub_queue = t.tick_queue \
                   join pgq.consumer c on c.co_id = s.sub_consumer \
                   where c.co_name = 'copy' and t.tick_id > s.sub_last_tick";
    let batches: i64 = stage.ours.query_one(waiting, &[]).await?.get(0);
    let server = cpu::of_server(&stage.server)?;
    let children = cpu::of_children()?;
    let mut command = stage.server.command("psql");
    command.args(["-qX", "-v", "ON_ERROR_STOP=1"]);
    for _ in 0..batches {
        command.arg("-f").arg(&script);
    }
    command.arg(OURS).stdout(std::process::Stdio::null());
    let out = tokio::process::Command::from(command).output().await?;
    anyhow::ensure!(
        out.status.success(),
        "psql: {}",
        String::from_utf8_lossy(&out.stderr)
    );
    Ok(cpu::of_server(&stage.server)? - server + cpu::of_children()? - children)
}

/// CPU seconds of this process and the server for all batches, handed to a handler event by event.
async fn consumed(stage: &Stage, events: u64) -> anyhow::Result<f64> {
    let mut settings = Settings::new(
        ConnectString::parse(&stage.server.dsn(OURS))?,
        QueueName::new(QUEUE)?,
        ConsumerName::new("ours")?,
    );
    settings.until = Until::Idle;
    let server = cpu::of_server(&stage.server)?;
    let own = cpu::of_process(std::process::id());
    let mut bytes = 0;
    let look = |event: Event| {
        bytes += event.data.as_ref().map_or(0, String::len);
        ready(Ok::<_, HandlerError>(Fate::Done))
    };
    let stats = queue::consume(&settings, &mut PerEvent(look), &CancellationToken::new()).await?;
    anyhow::ensure!(stats.events == events, "{} events of {events}", stats.events);
    anyhow::ensure!(
        bytes == stats.events as usize * PAYLOAD_BYTES,
        "{bytes} bytes of payload"
    );
    Ok(cpu::of_server(&stage.server)? - server + cpu::of_process(std::process::id()) - own)
}
