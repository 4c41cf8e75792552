//! `produce`: lines of standard input become events.

use std::io::{self, BufRead, BufReader};

use anyhow::Context as _;
use clap::Args;
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::value::RawValue;
use skytide_sql::QueueName;
use skytide_sql::conn::ConnectString;

use super::super::failure::Failure;
use super::super::output::OutputMode;
use super::super::{Context, Outcome};
use super::stored_queue;
use crate::config::unit;
use crate::queue::{Limits, NewEvent, Produced, Producer};

/// Put events into a queue: one a line of standard input
///
/// A line is the event's data. With --json it is an object with type, data and extra1 to extra4; data that is no
/// string is kept as JSON. What `consume --json` prints is understood, too. Lines are inserted by the thousand,
/// each time in a transaction of its own; where they come slowly, as they come.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  echo 'hello' | skytide queue produce mail --type greeting
  echo '{\"type\": \"greeting\", \"data\": {\"to\": \"you\"}}' | skytide queue produce mail --json
  skytide queue produce mail < events.txt")]
pub(super) struct ProduceArgs {
    /// Name of the queue
    #[arg(value_parser = stored_queue)]
    queue: QueueName,
    /// Type of events that do not say theirs
    #[arg(long = "type", value_name = "TYPE")]
    ev_type: Option<String>,
    /// Ask the ticker for a tick at the end, so that consumers see the events at once (needs pgq_reader)
    #[arg(long)]
    tick: bool,
    /// Most events in a transaction
    #[arg(long, value_name = "EVENTS", default_value_t = Limits::default().rows)]
    chunk_rows: usize,
    /// Most bytes of events in a transaction
    #[arg(long, value_name = "SIZE", default_value = "4MB", value_parser = unit::size)]
    chunk_bytes: u64,
}

pub(super) async fn run(args: ProduceArgs, db: &ConnectString, context: &Context) -> anyhow::Result<Outcome> {
    let limits = Limits {
        rows: args.chunk_rows,
        bytes: usize::try_from(args.chunk_bytes).unwrap_or(usize::MAX),
    };
    let mut producer = Producer::connect(db, args.queue.clone(), limits, "skytide queue produce").await?;
    let produced = match insert_all(&args, &mut producer, context.output.mode()).await {
        Ok(()) => producer.produced(),
        Err(error) => {
            let Produced { events, .. } = producer.produced();
            let rest = match producer.in_doubt() {
                0 => "the rest is not".to_owned(),
                doubtful => format!(
                    "the next {doubtful} may be: the connection broke while they were committed; the rest is not"
                ),
            };
            return Err(error.context(format!("{events} events are in the queue, {rest}")));
        }
    };
    // The events are in the queue whatever becomes of this.
    if args.tick
        && let Err(error) = producer.want_tick().await
    {
        let error = crate::causes::chain(&error);
        tracing::warn!(error, "no tick was asked for; the ticker makes one in its time");
    }
    match context.output.mode() {
        OutputMode::Table => context.output.note(&format!(
            "{} events in {} transactions",
            produced.events, produced.transactions
        )),
        OutputMode::Json => context.output.json(&Answer {
            events: produced.events,
            transactions: produced.transactions,
        })?,
    }
    Ok(Outcome::Done)
}

#[derive(serde::Serialize)]
struct Answer {
    events: u64,
    transactions: u64,
}

async fn insert_all(args: &ProduceArgs, producer: &mut Producer, mode: OutputMode) -> anyhow::Result<()> {
    let mut lines = Lines::new(io::stdin());
    let mut number = 0_u64;
    loop {
        let some = tokio::task::block_in_place(|| lines.next_lines()).context("read standard input")?;
        if some.is_empty() {
            return Ok(());
        }
        for line in some {
            number += 1;
            let text = String::from_utf8(line).map_err(|_| bad_line(number, "it is not UTF-8"))?;
            let mut event = match mode {
                OutputMode::Table => NewEvent {
                    data: Some(text),
                    ..NewEvent::default()
                },
                OutputMode::Json => parse(&text).map_err(|what| bad_line(number, &what))?,
            };
            event.ev_type = event.ev_type.or_else(|| args.ev_type.clone());
            if has_zero_byte(&event) {
                let what = "it has a character of code 0, which PostgreSQL does not store";
                return Err(bad_line(number, what).into());
            }
            producer.push(event).await?;
        }
        // The next read may wait: what is here goes first.
        producer.flush().await?;
    }
}

fn has_zero_byte(event: &NewEvent) -> bool {
    let mut fields = [&event.ev_type, &event.data].into_iter().chain(&event.extra);
    fields.any(|field| field.as_ref().is_some_and(|text| text.contains('\0')))
}

fn bad_line(number: u64, what: &str) -> Failure {
    Failure::new(format!("line {number} is no event: {what}"))
}

/// An object on a line. Fields of events that cannot be chosen are passed over.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    #[serde(default, alias = "ev_type")]
    r#type: Option<String>,
    #[serde(default, alias = "ev_data")]
    data: Option<Box<RawValue>>,
    #[serde(default, alias = "ev_extra1")]
    extra1: Option<String>,
    #[serde(default, alias = "ev_extra2")]
    extra2: Option<String>,
    #[serde(default, alias = "ev_extra3")]
    extra3: Option<String>,
    #[serde(default, alias = "ev_extra4")]
    extra4: Option<String>,
    #[serde(default, rename = "ev_id")]
    _id: Option<IgnoredAny>,
    #[serde(default, rename = "ev_time")]
    _time: Option<IgnoredAny>,
    #[serde(default, rename = "ev_txid")]
    _txid: Option<IgnoredAny>,
    #[serde(default, rename = "ev_retry")]
    _retry: Option<IgnoredAny>,
    #[serde(default, rename = "tick_id")]
    _tick: Option<IgnoredAny>,
}

fn parse(text: &str) -> Result<NewEvent, String> {
    // An array would be taken for the fields in their order.
    if !text.trim_start().starts_with('{') {
        return Err("it is no JSON object".to_owned());
    }
    let line: Line = serde_json::from_str(text).map_err(|error| error.to_string())?;
    let data = match line.data {
        // A string is taken for what it says, all else as it stands: numbers keep their digits.
        Some(raw) if raw.get().starts_with('"') => {
            Some(serde_json::from_str(raw.get()).map_err(|error| error.to_string())?)
        }
        Some(raw) => Some(raw.get().to_owned()),
        None => None,
    };
    Ok(NewEvent {
        ev_type: line.r#type,
        data,
        extra: [line.extra1, line.extra2, line.extra3, line.extra4],
    })
}

/// Lines as they arrive: what one read brought is given before the next read, which may wait.
struct Lines<R> {
    input: BufReader<R>,
    begun: Vec<u8>,
    ended: bool,
}

impl<R: io::Read> Lines<R> {
    fn new(input: R) -> Lines<R> {
        Lines {
            input: BufReader::with_capacity(1 << 20, input),
            begun: Vec::new(),
            ended: false,
        }
    }

    /// At least one line, without its end; none at the input's end.
    fn next_lines(&mut self) -> io::Result<Vec<Vec<u8>>> {
        let mut lines = Vec::new();
        while lines.is_empty() && !self.ended {
            let bytes = match self.input.fill_buf() {
                Ok(bytes) => bytes,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            let length = bytes.len();
            self.ended = length == 0;
            for part in bytes.split_inclusive(|byte| *byte == b'\n') {
                self.begun.extend_from_slice(part);
                if self.begun.ends_with(b"\n") {
                    self.begun.pop();
                    if self.begun.ends_with(b"\r") {
                        self.begun.pop();
                    }
                    lines.push(std::mem::take(&mut self.begun));
                }
            }
            self.input.consume(length);
        }
        if self.ended && !self.begun.is_empty() {
            lines.push(std::mem::take(&mut self.begun));
        }
        Ok(lines)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(input: &[u8]) -> Vec<Vec<u8>> {
        let mut lines = Lines::new(input);
        let mut all = Vec::new();
        loop {
            let some = lines.next_lines().unwrap();
            if some.is_empty() {
                return all;
            }
            all.extend(some);
        }
    }

    #[test]
    fn lines_end_with_either_end_and_the_last_needs_none() {
        assert_eq!(all(b"a\r\n\nb\tc\nlast"), [&b"a"[..], b"", b"b\tc", b"last"]);
        assert!(all(b"").is_empty());
        let long = vec![b'x'; 3 << 20];
        assert_eq!(all(&long), [long]);
    }

    #[test]
    fn objects_become_events() {
        let event = parse(r#"{"type":"t","data":{"n":123456789012345678901.50},"extra4":"x"}"#).unwrap();
        assert_eq!(event.data.as_deref(), Some(r#"{"n":123456789012345678901.50}"#));
        assert_eq!(event.extra[3].as_deref(), Some("x"));
        let event = parse(r#"{"ev_id":1,"ev_type":null,"ev_data":"a\nb","ev_retry":0}"#).unwrap();
        assert_eq!((event.ev_type, event.data.as_deref()), (None, Some("a\nb")));
        assert_eq!(parse(r#"{"data":null}"#).unwrap(), NewEvent::default());
        for line in [r#"["t","data"]"#, r#""text""#, "1", "null", ""] {
            assert_eq!(parse(line).unwrap_err(), "it is no JSON object", "{line}");
        }
        assert!(parse(r#"{"dat":"x"}"#).unwrap_err().contains("unknown field"));
    }
}
