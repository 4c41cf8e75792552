//! Commands that change queues and consumers.

use skytide_sql::{ConsumerName, QueueName};
use tokio_postgres::Row;

use super::answer::Answer;
use super::call::{Call, Param};
use super::command::{Change, OpenBatch, Start, Steering, Which};
use super::console::Console;
use super::error::QadminError;
use super::queries;

pub async fn run(console: &mut Console, change: Change) -> Result<Answer, QadminError> {
    match change {
        Change::CreateQueue(queue) => {
            let call = Call::new(queries::CREATE_QUEUE, [Param::text(&queue)]);
            made(console, &call, "CREATE", &format!("queue {queue} exists already")).await
        }
        Change::DropQueue(queue) => {
            let call = Call::new(queries::DROP_QUEUE, [Param::text(&queue)]);
            done(console, &call, "DROP").await
        }
        Change::AlterQueue { queue, settings } => alter(console, queue, &settings).await,
        Change::Register {
            consumer,
            queue,
            start,
        } => register(console, consumer, queue, start).await,
        Change::Unregister { consumer, queue } => unregister(console, consumer, queue).await,
        Change::RegisterSub { sub, consumer, queue } => {
            let queue = console.queue_or_default(queue)?;
            let call = Call::new(
                queries::REGISTER_SUB,
                [Param::text(queue), Param::text(&consumer), Param::text(&sub)],
            );
            let note = format!("subconsumer {consumer}.{sub} is registered already");
            made(console, &call, "REGISTER", &note).await
        }
        Change::UnregisterSub {
            sub,
            consumer,
            queue,
            open_batch,
        } => unregister_sub(console, sub, &consumer, queue, open_batch).await,
        Change::Steer { consumer, queue, how } => steer(console, &consumer, queue, how).await,
    }
}

async fn done(console: &mut Console, call: &Call, tag: &str) -> Result<Answer, QadminError> {
    console.run(call).await?;
    Ok(console.done(tag, Vec::new()))
}

/// A function that answers 0 where there was nothing to be done.
async fn made(console: &mut Console, call: &Call, tag: &str, was_there: &str) -> Result<Answer, QadminError> {
    let rows = console.run(call).await?;
    let notes = match rows.first().map(|row| row.get::<_, i32>(0)) {
        Some(0) => vec![was_there.to_owned()],
        _ => Vec::new(),
    };
    Ok(console.done(tag, notes))
}

async fn alter(
    console: &mut Console,
    queue: Which<QueueName>,
    settings: &[(&'static str, String)],
) -> Result<Answer, QadminError> {
    let queues = console.each_queue(queue).await?;
    console
        .atomically(async |console: &mut Console| {
            for queue in &queues {
                for (key, value) in settings {
                    let params = [Param::text(queue), Param::text(key), Param::text(value)];
                    console.run(&Call::new(queries::SET_QUEUE_CONFIG, params)).await?;
                }
            }
            Ok(())
        })
        .await?;
    Ok(console.done("ALTER", Vec::new()))
}

async fn register(
    console: &mut Console,
    consumer: ConsumerName,
    queue: Option<QueueName>,
    start: Start,
) -> Result<Answer, QadminError> {
    let queue = console.queue_or_default(queue)?;
    let tick = match start {
        Start::Newest => {
            let call = Call::new(queries::REGISTER, [Param::text(&queue), Param::text(&consumer)]);
            let note = format!("consumer {consumer} is registered already");
            return made(console, &call, "REGISTER", &note).await;
        }
        Start::At(tick) => tick.get(),
        Start::Copy(other) => position(console, &queue, &other).await?,
    };
    let params = [Param::text(&queue), Param::text(&consumer), Param::Bigint(tick)];
    done(console, &Call::new(queries::REGISTER_AT, params), "REGISTER").await
}

async fn position(
    console: &mut Console,
    queue: &QueueName,
    consumer: &ConsumerName,
) -> Result<i64, QadminError> {
    let call = Call::new(queries::POSITION, [Param::text(queue), Param::text(consumer)]);
    let rows = console.look_up(&call).await?;
    let tick = rows.first().and_then(|row| row.get::<_, Option<i64>>(0));
    tick.ok_or_else(|| QadminError::NotFound {
        kind: "position of consumer",
        name: consumer.to_string(),
    })
}

async fn consumers_of(console: &mut Console, queue: &QueueName) -> Result<Vec<String>, QadminError> {
    let call = Call::new(queries::CONSUMERS_OF, [Param::text(queue)]);
    let rows = console.look_up(&call).await?;
    Ok(rows.iter().map(|row: &Row| row.get(0)).collect())
}

async fn unregister(
    console: &mut Console,
    consumer: Which<ConsumerName>,
    queue: Option<QueueName>,
) -> Result<Answer, QadminError> {
    let queue = console.queue_or_default(queue)?;
    let consumers = match consumer {
        Which::One(consumer) => vec![consumer.to_string()],
        Which::All => consumers_of(console, &queue).await?,
    };
    let gone = console
        .atomically(async |console: &mut Console| {
            let mut gone = 0;
            for consumer in &consumers {
                let call = Call::new(queries::UNREGISTER, [Param::text(&queue), Param::text(consumer)]);
                let rows = console.run(&call).await?;
                gone += rows.first().map_or(0, |row| row.get::<_, i32>(0));
            }
            Ok(gone)
        })
        .await?;
    // A main consumer takes its subconsumers along, so that they may be gone before their turn.
    let notes = match (gone, consumers.as_slice()) {
        (0, [consumer]) => vec![format!("consumer {consumer} is not registered on queue {queue}")],
        (0, _) => vec![format!("queue {queue} has no consumers")],
        _ => Vec::new(),
    };
    Ok(console.done("UNREGISTER", notes))
}

async fn unregister_sub(
    console: &mut Console,
    sub: Which<ConsumerName>,
    consumer: &ConsumerName,
    queue: Option<QueueName>,
    open_batch: OpenBatch,
) -> Result<Answer, QadminError> {
    let queue = console.queue_or_default(queue)?;
    let prefix = format!("{consumer}.");
    let subs: Vec<String> = match sub {
        Which::One(sub) => vec![sub.to_string()],
        Which::All => {
            let all = consumers_of(console, &queue).await?;
            all.iter()
                .filter_map(|name| Some(name.strip_prefix(&prefix)?.to_owned()))
                .collect()
        }
    };
    let handling = match open_batch {
        OpenBatch::Refuse => 0,
        OpenBatch::Close => 1,
    };
    let missing = console
        .atomically(async |console: &mut Console| {
            let mut missing = Vec::new();
            for sub in &subs {
                let params = [
                    Param::text(&queue),
                    Param::text(consumer),
                    Param::text(sub),
                    Param::Integer(handling),
                ];
                let rows = console.run(&Call::new(queries::UNREGISTER_SUB, params)).await?;
                if rows.first().is_some_and(|row| row.get::<_, i32>(0) == 0) {
                    missing.push(format!(
                        "subconsumer {consumer}.{sub} is not registered on queue {queue}"
                    ));
                }
            }
            Ok(missing)
        })
        .await?;
    Ok(console.done("UNREGISTER", missing))
}

async fn steer(
    console: &mut Console,
    consumer: &ConsumerName,
    queue: Option<QueueName>,
    how: Steering,
) -> Result<Answer, QadminError> {
    let queue = console.queue_or_default(queue)?;
    let (queue, name) = (Param::text(queue), Param::text(consumer));
    let tick_of = |rows: Vec<Row>| {
        let tick: Option<i64> = rows.first().map(|row| row.get(0));
        tick.map(|tick| format!("consumer {consumer} is at tick {tick}"))
            .into_iter()
            .collect()
    };
    match how {
        Steering::Pause => {
            let note = format!("consumer {consumer} was paused already");
            made(console, &Call::new(queries::PAUSE, [queue, name]), "PAUSE", &note).await
        }
        Steering::Resume => {
            let note = format!("consumer {consumer} was not paused");
            made(
                console,
                &Call::new(queries::RESUME, [queue, name]),
                "RESUME",
                &note,
            )
            .await
        }
        Steering::Purge => {
            let rows = console.run(&Call::new(queries::PURGE, [queue, name])).await?;
            Ok(console.done("PURGE", tick_of(rows)))
        }
        Steering::Seek(tick) => {
            let params = [queue, name, Param::Bigint(tick.get())];
            let rows = console.run(&Call::new(queries::SEEK, params)).await?;
            Ok(console.done("SEEK", tick_of(rows)))
        }
        Steering::SeekTime(time) => {
            let params = [queue, name, Param::text(time)];
            let rows = console.run(&Call::new(queries::SEEK_TIME, params)).await?;
            Ok(console.done("SEEK", tick_of(rows)))
        }
    }
}
