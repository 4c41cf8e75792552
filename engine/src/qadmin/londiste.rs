//! Commands on the tables and sequences of the default queue's set.

use skytide_sql::ident::quote_ident;
use skytide_sql::{QueueName, TableName};

use super::answer::Answer;
use super::call::{Call, Param};
use super::command::Londiste;
use super::console::Console;
use super::error::QadminError;
use super::foreign::Transaction;
use super::queries;
use crate::capture::slot::{self, Publications};

pub async fn run(console: &mut Console, command: Londiste) -> Result<Answer, QadminError> {
    let queue = console.queue_or_default(None)?;
    match command {
        Londiste::AddTables { tables, args } => add_tables(console, &queue, &tables, &args).await,
        Londiste::RemoveTables(tables) => remove_tables(console, &queue, &tables).await,
        Londiste::AddSequences(names) => {
            each(console, queries::ADD_SEQUENCE, "ADD_SEQ", &queue, &names).await
        }
        Londiste::RemoveSequences(names) => {
            each(console, queries::REMOVE_SEQUENCE, "REMOVE_SEQ", &queue, &names).await
        }
        Londiste::Tables => list(console, queries::LONDISTE_TABLES, &queue).await,
        Londiste::Sequences => list(console, queries::LONDISTE_SEQUENCES, &queue).await,
        Londiste::Missing => list(console, queries::LONDISTE_MISSING, &queue).await,
    }
}

async fn list(console: &mut Console, sql: &'static str, queue: &QueueName) -> Result<Answer, QadminError> {
    let rows = console.rows(&Call::new(sql, [Param::text(queue)])).await?;
    Ok(rows.map_or(Answer::Nothing, Answer::Rows))
}

/// A call that answers with a code and a note: the note, unless it is a refusal.
async fn coded(console: &mut Console, call: &Call) -> Result<Option<String>, QadminError> {
    let rows = console.run(call).await?;
    let Some(row) = rows.first() else {
        return Ok(None);
    };
    let code = row.get::<_, Option<i32>>("ret_code").unwrap_or(500);
    let note = row.get::<_, Option<String>>("ret_note").unwrap_or_default();
    if code >= 400 {
        return Err(QadminError::Refused { code, note });
    }
    Ok(Some(format!("{code} {note}")))
}

async fn each(
    console: &mut Console,
    sql: &'static str,
    tag: &str,
    queue: &QueueName,
    names: &[TableName],
) -> Result<Answer, QadminError> {
    let notes = console
        .atomically(async |console: &mut Console| {
            let mut notes = Vec::new();
            for name in names {
                let call = Call::new(sql, [Param::text(queue), Param::text(name)]);
                notes.extend(coded(console, &call).await?);
            }
            Ok(notes)
        })
        .await?;
    Ok(console.done(tag, notes))
}

/// The tables of a root that captures from the WAL are in the queue's publication, others are not.
#[derive(Clone, PartialEq, Eq)]
enum Publishing {
    No,
    In(Publications),
}

async fn publishing(console: &mut Console, queue: &QueueName) -> Result<Publishing, QadminError> {
    let rows = console
        .look_up(&Call::new(queries::NODE_TYPE, [Param::text(queue)]))
        .await?;
    let is_root = rows
        .first()
        .is_some_and(|row| row.get::<_, Option<&str>>(0) == Some("root"));
    if !is_root || !captures_from_wal(console, queue).await? {
        return Ok(Publishing::No);
    }
    if console.transaction() == Transaction::Open {
        return Err(QadminError::Unsupported {
            what: "changing a publication inside a transaction",
            hint: "First: commit;",
        });
    }
    Ok(Publishing::In(Publications::of(queue)))
}

async fn captures_from_wal(console: &mut Console, queue: &QueueName) -> Result<bool, QadminError> {
    let rows = console.look_up(&Call::new(queries::KNOWS_CAPTURE, [])).await?;
    if !rows.first().is_some_and(|row| row.get(0)) {
        return Ok(false);
    }
    let rows = console
        .look_up(&Call::new(queries::CAPTURE, [Param::text(queue)]))
        .await?;
    Ok(rows
        .first()
        .is_some_and(|row| row.get::<_, Option<&str>>(0) == Some("wal")))
}

/// A root that another program made may have none.
async fn make_publications(
    console: &mut Console,
    publications: &Publications,
    queue: &QueueName,
) -> Result<(), QadminError> {
    let missing = slot::missing_publications(&console.session, publications, queue).await?;
    for sql in missing {
        console.control(&sql).await?;
    }
    Ok(())
}

async fn lock(console: &mut Console, publishing: &Publishing) -> Result<(), QadminError> {
    match publishing {
        Publishing::In(_) if !console.is_dry() => Ok(slot::lock_publications(&console.session).await?),
        _ => Ok(()),
    }
}

async fn add_tables(
    console: &mut Console,
    queue: &QueueName,
    tables: &[TableName],
    args: &[String],
) -> Result<Answer, QadminError> {
    let publishing = publishing(console, queue).await?;
    let notes = console
        .atomically(async |console: &mut Console| {
            lock(console, &publishing).await?;
            if let Publishing::In(publications) = &publishing {
                make_publications(console, publications, queue).await?;
            }
            let mut notes = Vec::new();
            for table in tables {
                let params = [
                    Param::text(queue),
                    Param::text(table),
                    Param::Texts(args.to_vec()),
                ];
                notes.extend(coded(console, &Call::new(queries::ADD_TABLE, params)).await?);
                match &publishing {
                    Publishing::No => {}
                    Publishing::In(publications) if console.is_dry() => {
                        let (name, table) = (quote_ident(&publications.tables), table.quoted());
                        console
                            .control(&format!("alter publication {name} add table only {table}"))
                            .await?;
                    }
                    Publishing::In(publications) => {
                        slot::publish(&console.session, &publications.tables, table).await?;
                    }
                }
            }
            Ok(notes)
        })
        .await?;
    Ok(console.done("ADD_TABLE", notes))
}

async fn remove_tables(
    console: &mut Console,
    queue: &QueueName,
    tables: &[TableName],
) -> Result<Answer, QadminError> {
    let publishing = publishing(console, queue).await?;
    let mut published = Vec::new();
    for table in tables {
        let call = Call::new(queries::DEST_TABLE, [Param::text(queue), Param::text(table)]);
        let rows = console.look_up(&call).await?;
        published.push(match rows.first() {
            Some(row) => TableName::parse(row.get(0))?,
            None => table.clone(),
        });
    }
    let notes = console
        .atomically(async |console: &mut Console| {
            lock(console, &publishing).await?;
            let mut notes = Vec::new();
            for (table, published) in tables.iter().zip(&published) {
                let params = [Param::text(queue), Param::text(table)];
                notes.extend(coded(console, &Call::new(queries::REMOVE_TABLE, params)).await?);
                match &publishing {
                    Publishing::No => {}
                    Publishing::In(publications) if console.is_dry() => {
                        let (name, table) = (quote_ident(&publications.tables), published.quoted());
                        console
                            .control(&format!("alter publication {name} drop table only {table}"))
                            .await?;
                    }
                    Publishing::In(publications) => {
                        slot::unpublish(&console.session, &publications.tables, published).await?;
                    }
                }
            }
            Ok(notes)
        })
        .await?;
    Ok(console.done("REMOVE_TABLE", notes))
}
