//! An event as one line: JSON, or columns as COPY writes them.

use serde::Serialize;
use skytide_sql::TickId;
use skytide_sql::api::pgq::Event;
use std::time::SystemTime;

#[derive(Serialize)]
struct EventLine<'a> {
    ev_id: i64,
    ev_time: String,
    ev_txid: Option<u64>,
    ev_retry: u32,
    ev_type: Option<&'a str>,
    ev_data: Option<&'a str>,
    ev_extra1: Option<&'a str>,
    ev_extra2: Option<&'a str>,
    ev_extra3: Option<&'a str>,
    ev_extra4: Option<&'a str>,
    tick_id: i64,
}

/// Without a line end.
pub(super) fn json(event: &Event, tick: TickId) -> Result<String, serde_json::Error> {
    let [extra1, extra2, extra3, extra4] = &event.extra;
    serde_json::to_string(&EventLine {
        ev_id: event.id.get(),
        ev_time: time(event.time),
        ev_txid: event.txid.map(|txid| txid.as_u64()),
        ev_retry: event.retry,
        ev_type: event.ev_type.as_deref(),
        ev_data: event.data.as_deref(),
        ev_extra1: extra1.as_deref(),
        ev_extra2: extra2.as_deref(),
        ev_extra3: extra3.as_deref(),
        ev_extra4: extra4.as_deref(),
        tick_id: tick.get(),
    })
}

/// Id, time, type, data, extra fields; a tab between, NULL as `\N`, trailing NULLs left out.
pub(super) fn text(event: &Event) -> String {
    let mut line = format!("{}\t{}", event.id, time(event.time));
    let extra = event
        .extra
        .iter()
        .rposition(Option::is_some)
        .map_or(0, |last| last + 1);
    let fields = [&event.ev_type, &event.data]
        .into_iter()
        .chain(&event.extra[..extra]);
    for field in fields {
        line.push('\t');
        match field {
            None => line.push_str("\\N"),
            Some(text) => escape(text, &mut line),
        }
    }
    line
}

pub(super) fn time(time: SystemTime) -> String {
    jiff::Timestamp::try_from(time).map_or_else(|_| "infinity".to_owned(), |time| time.to_string())
}

fn escape(text: &str, line: &mut String) {
    for c in text.chars() {
        match c {
            '\\' => line.push_str("\\\\"),
            '\n' => line.push_str("\\n"),
            '\r' => line.push_str("\\r"),
            '\t' => line.push_str("\\t"),
            c => line.push(c),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use skytide_sql::EventId;

    #[test]
    fn a_line_is_a_line_whatever_is_in_it() {
        let event = Event {
            id: EventId::new(7),
            time: SystemTime::UNIX_EPOCH,
            txid: None,
            retry: 0,
            ev_type: None,
            data: Some("a\tb\nc\\".to_owned()),
            extra: [None, Some("ä".to_owned()), None, None],
        };
        assert_eq!(
            text(&event),
            "7\t1970-01-01T00:00:00Z\t\\N\ta\\tb\\nc\\\\\t\\N\tä"
        );
        let line = json(&event, TickId::new(3)).unwrap();
        assert!(
            !line.contains('\n') && line.contains(r#""ev_data":"a\tb\nc\\""#),
            "{line}"
        );
    }
}
