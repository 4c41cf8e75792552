//! Commands that change nothing.

use skytide_sql::ident::quote_ident;
use skytide_sql::{NodeName, QueueName};
use tokio_postgres::Row;

use super::answer::{Answer, Cell, Rows};
use super::call::{Call, Param};
use super::command::{Batch, RelationName, Show, Which};
use super::console::Console;
use super::error::QadminError;
use super::queries;

pub async fn run(console: &mut Console, show: Show) -> Result<Answer, QadminError> {
    match show {
        Show::Queue(queue) => {
            let queue = queue_or_default(console, queue);
            found(
                console,
                Call::new(queries::SHOW_QUEUE, [one(&queue)]),
                "queue",
                &queue,
            )
            .await
        }
        Show::Consumer { consumer, queue } => {
            let call = Call::new(queries::SHOW_CONSUMER, [one(&queue), one(&consumer)]);
            found(console, call, "consumer", &consumer).await
        }
        Show::Node { node, queue } => {
            let call = Call::new(queries::SHOW_NODE, [one(&queue), one(&node)]);
            found(console, call, "node", &node).await
        }
        Show::Batch(batch) => {
            let id = batch_id(console, batch).await?;
            plain(console, Call::new(queries::SHOW_BATCH, [Param::Bigint(id)])).await
        }
        Show::Table(table) => ddl(console, queries::TABLE_DDL, "table", &table).await,
        Show::Sequence(sequence) => ddl(console, queries::SEQUENCE_DDL, "sequence", &sequence).await,
        Show::Blockers(queue) => {
            let queue = queue_or_default(console, queue);
            plain(console, Call::new(queries::SHOW_BLOCKERS, [one(&queue)])).await
        }
        Show::DeadLetters(queue) => {
            let queue = queue_or_default(console, queue);
            plain(console, Call::new(queries::SHOW_DEAD_LETTERS, [one(&queue)])).await
        }
        Show::Version => version(console).await,
    }
}

/// `null` stands for all.
fn one<T: ToString>(which: &Which<T>) -> Param {
    Param::optional(which.one().map(T::to_string))
}

fn queue_or_default(console: &Console, given: Option<Which<QueueName>>) -> Which<QueueName> {
    match (given, &console.queue) {
        (Some(which), _) => which,
        (None, Some(queue)) => Which::One(queue.clone()),
        (None, None) => Which::All,
    }
}

async fn plain(console: &mut Console, call: Call) -> Result<Answer, QadminError> {
    Ok(match console.rows(&call).await? {
        Some(rows) => Answer::Rows(rows),
        None => Answer::Nothing,
    })
}

/// No rows is an answer where all are asked for, but not where one is.
async fn found<T: ToString>(
    console: &mut Console,
    call: Call,
    kind: &'static str,
    which: &Which<T>,
) -> Result<Answer, QadminError> {
    let answer = plain(console, call).await?;
    match (&answer, which.one()) {
        (Answer::Rows(Rows { rows, .. }), Some(name)) if rows.is_empty() => Err(QadminError::NotFound {
            kind,
            name: name.to_string(),
        }),
        _ => Ok(answer),
    }
}

async fn batch_id(console: &mut Console, batch: Batch) -> Result<i64, QadminError> {
    let consumer = match batch {
        Batch::Id(id) => return Ok(id.get()),
        Batch::OpenOf(consumer) => consumer,
    };
    let queue = console.queue_or_default(None)?;
    let call = Call::new(queries::OPEN_BATCH, [Param::text(&queue), Param::text(&consumer)]);
    let rows = console.look_up(&call).await?;
    let row = rows.first().ok_or_else(|| QadminError::NotFound {
        kind: "consumer",
        name: consumer.to_string(),
    })?;
    row.get::<_, Option<i64>>(0).ok_or_else(|| QadminError::NotFound {
        kind: "open batch of consumer",
        name: consumer.to_string(),
    })
}

async fn ddl(
    console: &mut Console,
    sql: &'static str,
    kind: &'static str,
    relation: &RelationName,
) -> Result<Answer, QadminError> {
    let parts = || relation.schema.iter().chain([&relation.name]);
    let quoted: Vec<String> = parts().map(|part| quote_ident(part)).collect();
    let rows = console
        .run(&Call::new(sql, [Param::text(quoted.join("."))]))
        .await?;
    if console.is_dry() {
        return Ok(Answer::Nothing);
    }
    if rows.is_empty() {
        let name = parts().map(String::as_str).collect::<Vec<_>>().join(".");
        return Err(QadminError::NotFound { kind, name });
    }
    let statements: Vec<String> = rows.iter().map(|row: &Row| row.get(0)).collect();
    Ok(Answer::Text {
        name: "ddl",
        text: statements.join("\n"),
    })
}

pub struct Versions {
    pub server: String,
    /// `<none>` where it is not installed.
    pub pgq: String,
}

pub async fn versions(console: &mut Console) -> Result<Versions, QadminError> {
    let rows = console.look_up(&Call::new(queries::PGQ_VERSION, [])).await?;
    let row = rows.first().ok_or_else(|| QadminError::NotFound {
        kind: "server version",
        name: String::new(),
    })?;
    let pgq = match row.get(1) {
        true => {
            let rows = console.look_up(&Call::new("select pgq.version()", [])).await?;
            rows.first().map(|row| row.get(0))
        }
        false => None,
    };
    Ok(Versions {
        server: row.get(0),
        pgq: pgq.unwrap_or_else(|| "<none>".to_owned()),
    })
}

async fn version(console: &mut Console) -> Result<Answer, QadminError> {
    let versions = versions(console).await?;
    let columns = ["qadmin", "server", "pgq"].map(str::to_owned).to_vec();
    let values = [
        env!("CARGO_PKG_VERSION").to_owned(),
        versions.server,
        versions.pgq,
    ];
    Ok(Answer::Rows(Rows {
        columns,
        rows: vec![values.map(|text| Cell::Value(text.into())).to_vec()],
    }))
}

/// Refuses a queue that is not there.
pub async fn check_queue(console: &mut Console, queue: &QueueName) -> Result<(), QadminError> {
    let rows = console
        .look_up(&Call::new(queries::SHOW_QUEUE, [Param::text(queue)]))
        .await?;
    if rows.is_empty() {
        return Err(QadminError::NotFound {
            kind: "queue",
            name: queue.to_string(),
        });
    }
    Ok(())
}

pub async fn node_location(
    console: &mut Console,
    queue: &QueueName,
    node: &NodeName,
) -> Result<String, QadminError> {
    let call = Call::new(queries::NODE_LOCATION, [Param::text(queue), Param::text(node)]);
    let rows = console.look_up(&call).await?;
    let row = rows.first().ok_or_else(|| QadminError::NotFound {
        kind: "node",
        name: node.to_string(),
    })?;
    Ok(row.get(0))
}
