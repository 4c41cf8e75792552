//! The console's grammar, a function a rule. `help.rs` has it for people.

use skytide_sql::names::BadName;
use skytide_sql::{BatchId, ConsumerName, NodeName, QueueName, TableName, TickId};

use super::command::{
    Batch, Change, Command, Connect, Londiste, OpenBatch, RelationName, Show, Start, Steering, Which,
};
use super::cursor::{Cursor, Expected, Parsed, Thing};
use super::error::ParseError;
use super::lex::Statement;

/// Words of `alter queue … set`, and what `pgq.set_queue_config` calls them.
const QUEUE_SETTINGS: &[(&str, &str)] = &[
    ("idle_period", "ticker_idle_period"),
    ("max_lag", "ticker_max_lag"),
    ("max_count", "ticker_max_count"),
    ("paused", "ticker_paused"),
    ("rotation_period", "rotation_period"),
    ("external_ticker", "external_ticker"),
    ("max_retries", "max_retries"),
    ("retry_delay", "retry_delay"),
    ("retry_max_delay", "retry_max_delay"),
];

/// Words of `connect`, and what their values are the names of.
const CONNECT_KEYWORDS: &[(&str, Option<Thing>)] = &[
    ("dbname", Some(Thing::Database)),
    ("host", Some(Thing::Host)),
    ("port", Some(Thing::Port)),
    ("user", Some(Thing::User)),
    ("password", None),
];

const TABLE_FLAGS: &[&str] = &["skip_truncate", "expect_sync", "backup", "skip", "no_triggers"];

/// Words of `londiste add table … with`, and what a trigger's argument is called.
const TABLE_OPTIONS: &[(&str, &str)] = &[
    ("tgflags", "tgflags"),
    ("pkey", "pkey"),
    ("when", "when"),
    ("ev_ignore", "ignore"),
    ("ev_type", "ev_type"),
    ("ev_data", "ev_data"),
    ("ev_extra1", "ev_extra1"),
    ("ev_extra2", "ev_extra2"),
    ("ev_extra3", "ev_extra3"),
    ("ev_extra4", "ev_extra4"),
];

/// What a statement says. What does not begin like one of our commands is the server's.
pub fn parse(source: &str, statement: &Statement) -> Parsed<Command> {
    command(&mut Cursor::new(source, statement))
}

/// What could come after the tokens of an unfinished statement.
pub fn expected_after(source: &str, statement: &Statement) -> Vec<Expected> {
    let mut cursor = Cursor::new(source, statement);
    // Only what was asked for counts.
    let _ = command(&mut cursor);
    cursor.expected_at_end()
}

/// What a command of ours begins with.
pub(super) const FIRST: &[&str] = &[
    "alter",
    "connect",
    "create",
    "drop",
    "exit",
    "install",
    "londiste",
    "pause",
    "purge",
    "quit",
    "register",
    "resume",
    "seek",
    "show",
    "unregister",
];

fn command(c: &mut Cursor<'_>) -> Parsed<Command> {
    let command = match c.one_of(FIRST) {
        Some("show") => match show(c)? {
            Some(command) => command,
            None => return Ok(Command::Sql),
        },
        Some("create") if c.word("queue") => Command::Change(Change::CreateQueue(new_queue(c)?)),
        Some("drop") if c.word("queue") => Command::Change(Change::DropQueue(queue(c)?)),
        Some("alter") if c.word("queue") => Command::Change(alter_queue(c)?),
        Some("connect") => Command::Connect(connect(c)?),
        Some("install") => install(c)?,
        Some("register") => Command::Change(register(c)?),
        Some("unregister") => Command::Change(unregister(c)?),
        Some("londiste") => Command::Londiste(londiste(c)?),
        Some("exit" | "quit") => Command::Exit,
        Some("pause") => Command::Change(steer(c, Steering::Pause)?),
        Some("resume") => Command::Change(steer(c, Steering::Resume)?),
        Some("purge") => Command::Change(steer(c, Steering::Purge)?),
        Some("seek") => Command::Change(seek(c)?),
        _ => return Ok(Command::Sql),
    };
    c.need_end()?;
    Ok(command)
}

fn queue(c: &mut Cursor<'_>) -> Parsed<QueueName> {
    c.name(Thing::Queue, QueueName::stored)
}

/// One that is to be made has a name that is easy to live with; what is there may have any.
fn new_queue(c: &mut Cursor<'_>) -> Parsed<QueueName> {
    c.name(Thing::Queue, QueueName::new)
}

fn new_consumer(c: &mut Cursor<'_>) -> Parsed<ConsumerName> {
    c.name(Thing::Consumer, ConsumerName::new)
}

fn consumer(c: &mut Cursor<'_>) -> Parsed<ConsumerName> {
    c.name(Thing::Consumer, ConsumerName::stored)
}

/// `*` or a name.
fn which<T>(c: &mut Cursor<'_>, name: impl FnOnce(&mut Cursor<'_>) -> Parsed<T>) -> Parsed<Which<T>> {
    if c.symbol('*') {
        return Ok(Which::All);
    }
    name(c).map(Which::One)
}

/// `* | name`, or nothing at the command's end.
fn optional_which<T>(
    c: &mut Cursor<'_>,
    name: impl FnOnce(&mut Cursor<'_>) -> Parsed<T>,
) -> Parsed<Option<Which<T>>> {
    // The order decides what an error lists first.
    match which(c, name) {
        Err(ParseError::Unexpected { found: None, .. }) if c.need_end().is_ok() => Ok(None),
        answer => answer.map(Some),
    }
}

fn optional_queue(c: &mut Cursor<'_>, word: &'static str) -> Parsed<Option<QueueName>> {
    if c.word(word) {
        return queue(c).map(Some);
    }
    Ok(None)
}

/// `on QUEUE` or `on *`; all without it.
fn on_which_queue(c: &mut Cursor<'_>) -> Parsed<Which<QueueName>> {
    if c.word("on") {
        return which(c, queue);
    }
    Ok(Which::All)
}

fn comma_list<T>(c: &mut Cursor<'_>, mut item: impl FnMut(&mut Cursor<'_>) -> Parsed<T>) -> Parsed<Vec<T>> {
    let mut items = vec![item(c)?];
    while c.symbol(',') {
        items.push(item(c)?);
    }
    Ok(items)
}

fn show(c: &mut Cursor<'_>) -> Parsed<Option<Command>> {
    const WHAT: &[&str] = &[
        "queue", "consumer", "node", "batch", "table", "sequence", "blockers", "dead", "version", "help",
    ];
    let show = match c.one_of(WHAT) {
        Some("queue") => Show::Queue(optional_which(c, queue)?),
        Some("consumer") => {
            let consumer = optional_which(c, consumer)?;
            Show::Consumer {
                queue: match consumer {
                    Some(_) => on_which_queue(c)?,
                    None => Which::All,
                },
                consumer: consumer.unwrap_or(Which::All),
            }
        }
        Some("node") => {
            let node = optional_which(c, |c| c.name(Thing::Node, NodeName::new))?;
            Show::Node {
                queue: match node {
                    Some(_) => on_which_queue(c)?,
                    None => Which::All,
                },
                node: node.unwrap_or(Which::All),
            }
        }
        Some("batch") => Show::Batch(match c.number(Expected::Name(Thing::Batch)) {
            Some(id) => Batch::Id(BatchId::new(id)),
            None => Batch::OpenOf(consumer(c)?),
        }),
        Some("table") => Show::Table(relation(c, Thing::Relation)?),
        Some("sequence") => Show::Sequence(relation(c, Thing::SequenceRelation)?),
        Some("blockers") => Show::Blockers(optional_which(c, queue)?),
        Some("dead") => Show::DeadLetters(optional_which(c, queue)?),
        Some("version") => Show::Version,
        Some("help") => return Ok(Some(Command::Help)),
        _ => return Ok(None),
    };
    Ok(Some(Command::Show(show)))
}

fn alter_queue(c: &mut Cursor<'_>) -> Parsed<Change> {
    let queue = which(c, queue)?;
    c.need_word("set")?;
    let settings = comma_list(c, |c| {
        let words: Vec<&'static str> = QUEUE_SETTINGS.iter().map(|(word, _)| *word).collect();
        let word = c.one_of(&words).ok_or_else(|| c.unexpected())?;
        c.need_symbol('=')?;
        let value = c.value(Expected::Value("value, like '10 seconds', 100 or true"))?;
        let key = QUEUE_SETTINGS.iter().find(|(known, _)| *known == word);
        Ok((key.map_or(word, |(_, key)| *key), value))
    })?;
    Ok(Change::AlterQueue { queue, settings })
}

fn connect(c: &mut Cursor<'_>) -> Parsed<Connect> {
    let (mut on_queue, mut node) = (None, None);
    let mut database: Vec<(&'static str, String)> = Vec::new();
    loop {
        if database.is_empty() && on_queue.is_none() && c.word("queue") {
            c.need_symbol('=')?;
            on_queue = Some(queue(c)?);
        } else if database.is_empty() && node.is_none() && c.word("node") {
            c.need_symbol('=')?;
            node = Some(c.name(Thing::Node, NodeName::new)?);
        } else if on_queue.is_none() && node.is_none() {
            let given = |word: &str| database.iter().any(|(known, _)| *known == word);
            let free: Vec<_> = CONNECT_KEYWORDS.iter().filter(|(word, _)| !given(word)).collect();
            let words: Vec<&'static str> = free.iter().map(|(word, _)| *word).collect();
            let Some(word) = c.one_of(&words) else { break };
            c.need_symbol('=')?;
            let thing = free
                .iter()
                .find(|(known, _)| *known == word)
                .and_then(|(_, thing)| *thing);
            let value = c.value(thing.map_or(Expected::Value("value"), Expected::Name))?;
            database.push((word, value));
        } else {
            break;
        }
    }
    match (on_queue, node) {
        (queue, Some(node)) => Ok(Connect::Node { queue, node }),
        (Some(queue), None) => Ok(Connect::Queue(queue)),
        (None, None) if !database.is_empty() => Ok(Connect::Database(database)),
        (None, None) => Err(c.unexpected()),
    }
}

/// The modules come together: whichever is named, all are looked after.
fn install(c: &mut Cursor<'_>) -> Parsed<Command> {
    match c.one_of(&["pgq", "londiste"]) {
        Some(_) => Ok(Command::Install),
        None => Err(c.unexpected()),
    }
}

fn register(c: &mut Cursor<'_>) -> Parsed<Change> {
    if c.word("subconsumer") {
        let sub = c.name(Thing::Subconsumer, ConsumerName::new)?;
        c.need_word("for")?;
        return Ok(Change::RegisterSub {
            sub,
            consumer: consumer(c)?,
            queue: optional_queue(c, "on")?,
        });
    }
    c.need_word("consumer")?;
    let consumer_name = new_consumer(c)?;
    let (mut on_queue, mut at, mut copy) = (None, None, None);
    loop {
        if on_queue.is_none() && c.word("on") {
            on_queue = Some(queue(c)?);
        } else if at.is_none() && c.word("at") {
            at = Some(TickId::new(c.need_number(Expected::Number("tick id"))?));
        } else if copy.is_none() && c.word("copy") {
            copy = Some(consumer(c)?);
        } else {
            break;
        }
    }
    // As it always was: with both, the other consumer's place counts.
    let start = match (copy, at) {
        (Some(other), _) => Start::Copy(other),
        (None, Some(tick)) => Start::At(tick),
        (None, None) => Start::Newest,
    };
    Ok(Change::Register {
        consumer: consumer_name,
        queue: on_queue,
        start,
    })
}

fn unregister(c: &mut Cursor<'_>) -> Parsed<Change> {
    if c.word("subconsumer") {
        let sub = which(c, |c| c.name(Thing::Subconsumer, ConsumerName::stored))?;
        c.need_word("for")?;
        let consumer = consumer(c)?;
        let (mut from, mut open_batch) = (None, OpenBatch::Refuse);
        loop {
            if from.is_none() && c.word("from") {
                from = Some(queue(c)?);
            } else if open_batch == OpenBatch::Refuse && c.word("close") {
                c.word("batch");
                open_batch = OpenBatch::Close;
            } else {
                break;
            }
        }
        return Ok(Change::UnregisterSub {
            sub,
            consumer,
            queue: from,
            open_batch,
        });
    }
    c.need_word("consumer")?;
    Ok(Change::Unregister {
        consumer: which(c, consumer)?,
        queue: optional_queue(c, "from")?,
    })
}

fn steer(c: &mut Cursor<'_>, how: Steering) -> Parsed<Change> {
    c.need_word("consumer")?;
    Ok(Change::Steer {
        consumer: consumer(c)?,
        queue: optional_queue(c, "on")?,
        how,
    })
}

fn seek(c: &mut Cursor<'_>) -> Parsed<Change> {
    c.need_word("consumer")?;
    let consumer = consumer(c)?;
    let mut on_queue = optional_queue(c, "on")?;
    c.need_word("to")?;
    let how = match c.number(Expected::Number("tick id")) {
        Some(tick) => Steering::Seek(TickId::new(tick)),
        None => Steering::SeekTime(c.value(Expected::Value("time, like '2030-01-31 12:00'"))?),
    };
    if on_queue.is_none() {
        on_queue = optional_queue(c, "on")?;
    }
    Ok(Change::Steer {
        consumer,
        queue: on_queue,
        how,
    })
}

fn londiste(c: &mut Cursor<'_>) -> Parsed<Londiste> {
    match c.one_of(&["add", "remove", "tables", "seqs", "missing"]) {
        Some("add") if c.word("table") => {
            let tables = comma_list(c, |c| set_member(c, Thing::MissingTable))?;
            let args = if c.word("with") {
                comma_list(c, table_option)?
            } else {
                Vec::new()
            };
            Ok(Londiste::AddTables { tables, args })
        }
        Some("add") if c.word("sequence") => Ok(Londiste::AddSequences(comma_list(c, |c| {
            set_member(c, Thing::MissingSequence)
        })?)),
        Some("remove") if c.word("table") => Ok(Londiste::RemoveTables(comma_list(c, |c| {
            set_member(c, Thing::AddedTable)
        })?)),
        Some("remove") if c.word("sequence") => Ok(Londiste::RemoveSequences(comma_list(c, |c| {
            set_member(c, Thing::AddedSequence)
        })?)),
        Some("tables") => Ok(Londiste::Tables),
        Some("seqs") => Ok(Londiste::Sequences),
        Some("missing") => Ok(Londiste::Missing),
        _ => Err(c.unexpected()),
    }
}

fn table_option(c: &mut Cursor<'_>) -> Parsed<String> {
    if let Some(flag) = c.one_of(TABLE_FLAGS) {
        return Ok(flag.to_owned());
    }
    let words: Vec<&'static str> = TABLE_OPTIONS.iter().map(|(word, _)| *word).collect();
    let word = c.one_of(&words).ok_or_else(|| c.unexpected())?;
    c.need_symbol('=')?;
    let value = c.value(Expected::Value("string"))?;
    let name = TABLE_OPTIONS.iter().find(|(known, _)| *known == word);
    Ok(format!("{}={value}", name.map_or(word, |(_, name)| *name)))
}

fn relation(c: &mut Cursor<'_>, thing: Thing) -> Parsed<RelationName> {
    let parts = c.name_parts(thing)?;
    match parts.as_slice() {
        [name] => Ok(RelationName {
            schema: None,
            name: name.clone(),
        }),
        [schema, name] => Ok(RelationName {
            schema: Some(schema.clone()),
            name: name.clone(),
        }),
        _ => Err(ParseError::Name {
            error: BadName {
                kind: "name",
                name: parts.join("."),
                why: "has more parts than schema.name",
            },
            place: c.place_of_last(),
        }),
    }
}

/// A table or sequence of a queue's set: without a schema it is in `public`.
fn set_member(c: &mut Cursor<'_>, thing: Thing) -> Parsed<TableName> {
    let RelationName { schema, name } = relation(c, thing)?;
    match schema {
        Some(schema) => Ok(TableName::new(schema, name)),
        None => TableName::parse(&name).map_err(|error| ParseError::Name {
            error,
            place: c.place_of_last(),
        }),
    }
}

#[cfg(test)]
mod tests;
