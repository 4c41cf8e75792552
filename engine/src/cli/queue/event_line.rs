//! An event as one line: JSON, or columns as COPY writes them.

use serde::Serialize;
use skytide_sql::api::pgq::Event;
use skytide_sql::{EventTime, TickId};

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

/// As ISO 8601, with six digits and a sign for years beyond four; the server's words for the infinite ones.
pub(super) fn time(time: EventTime) -> String {
    const MICROS_TO_2000: i64 = 946_684_800_000_000;
    let micros = match time.micros() {
        Some(micros) => micros,
        None if time == EventTime::INFINITY => return "infinity".to_owned(),
        None => return "-infinity".to_owned(),
    };
    let near = micros.checked_add(MICROS_TO_2000);
    match near.map(jiff::Timestamp::from_microsecond) {
        Some(Ok(time)) => time.to_string(),
        _ => far_time(micros),
    }
}

/// The server's years go to 294276, the library's to 9999. `micros` count from 2000.
fn far_time(micros: i64) -> String {
    const DAY: i64 = 86_400_000_000;
    let (year, month, day) = civil(micros.div_euclid(DAY));
    let of_day = micros.rem_euclid(DAY);
    let (seconds, fraction) = (of_day / 1_000_000, of_day % 1_000_000);
    let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    let fraction = match fraction {
        0 => String::new(),
        some => format!(".{some:06}").trim_end_matches('0').to_owned(),
    };
    format!("{year:+07}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}{fraction}Z")
}

/// A day of the Gregorian calendar, by days since 2000-01-01: counted in eras of 400 years that begin with March.
fn civil(day: i64) -> (i64, i64, i64) {
    const TO_2000_FROM_MARCH_OF_0: i64 = 730_425;
    let day = day + TO_2000_FROM_MARCH_OF_0;
    let (era, of_era) = (day.div_euclid(146_097), day.rem_euclid(146_097));
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let of_month = of_year - (153 * month + 2) / 5 + 1;
    let year = year + era * 400;
    match month {
        0..10 => (year, month + 3, of_month),
        _ => (year + 1, month - 9, of_month),
    }
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
    fn every_time_of_the_server_has_a_text_of_its_own() {
        let year_2000 = |micros| time(EventTime::from_micros(micros));
        assert_eq!(year_2000(0), "2000-01-01T00:00:00Z");
        assert_eq!(time(EventTime::INFINITY), "infinity");
        assert_eq!(time(EventTime::MINUS_INFINITY), "-infinity");
        // The server's last and first; 4714 BC is the year -4713, as there was no year 0 before 1 BC.
        assert_eq!(
            year_2000(9_223_371_331_199_999_999),
            "+294276-12-31T23:59:59.999999Z"
        );
        assert_eq!(year_2000(-211_813_488_000_000_000), "-004713-11-24T00:00:00Z");
        assert_eq!(far_time(0), "+002000-01-01T00:00:00Z");
        assert_eq!(far_time(5_097_600_500_000), "+002000-02-29T00:00:00.5Z");
    }

    #[test]
    fn a_line_is_a_line_whatever_is_in_it() {
        let event = Event {
            id: EventId::new(7),
            time: EventTime::UNIX_EPOCH,
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
