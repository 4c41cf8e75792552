//! Values of the few types that are read here, in both of pgoutput's formats. `None` for anything else.

use std::str::FromStr;

use super::ColumnValue;

pub fn parse<T: FromStr>(text: &[u8]) -> Option<T> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

pub fn int4(value: ColumnValue<'_>) -> Option<i32> {
    match value {
        ColumnValue::Text(text) => parse(text),
        ColumnValue::Binary(bytes) => bytes.try_into().ok().map(i32::from_be_bytes),
        ColumnValue::Null | ColumnValue::Unchanged => None,
    }
}

pub fn int8(value: ColumnValue<'_>) -> Option<i64> {
    match value {
        ColumnValue::Text(text) => parse(text),
        ColumnValue::Binary(bytes) => bytes.try_into().ok().map(i64::from_be_bytes),
        ColumnValue::Null | ColumnValue::Unchanged => None,
    }
}

/// The text or varchar itself, which must be UTF-8.
pub fn text(value: ColumnValue<'_>) -> Option<&str> {
    match value {
        ColumnValue::Text(text) | ColumnValue::Binary(text) => std::str::from_utf8(text).ok(),
        ColumnValue::Null | ColumnValue::Unchanged => None,
    }
}

/// A timestamptz in microseconds since 2000-01-01 UTC, the infinite ones as the ends of the range. The stream's DateStyle is ISO.
pub fn timestamp(value: ColumnValue<'_>) -> Option<i64> {
    match value {
        ColumnValue::Text(b"infinity") => Some(i64::MAX),
        ColumnValue::Text(b"-infinity") => Some(i64::MIN),
        ColumnValue::Text(text) => {
            let text = std::str::from_utf8(text).ok();
            let epoch = jiff::Timestamp::from_second(946_684_800).ok();
            // `+00` is PostgreSQL's short form of an offset; a T makes it ISO 8601.
            text.map(|t| t.replacen(' ', "T", 1))
                .and_then(|t| t.parse::<jiff::Timestamp>().ok())
                .zip(epoch)
                .map(|(t, epoch)| t.as_microsecond() - epoch.as_microsecond())
        }
        ColumnValue::Binary(bytes) => bytes.try_into().ok().map(i64::from_be_bytes),
        ColumnValue::Null | ColumnValue::Unchanged => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_formats_read_the_same() {
        let micros = timestamp(ColumnValue::Text(b"2026-01-02 03:04:05.678901+00")).unwrap();
        assert_eq!(micros, 820_638_245_678_901);
        assert_eq!(timestamp(ColumnValue::Text(b"-infinity")), Some(i64::MIN));
        assert_eq!(timestamp(ColumnValue::Text(b"infinity")), Some(i64::MAX));
        let binary = micros.to_be_bytes();
        assert_eq!(timestamp(ColumnValue::Binary(&binary)), Some(micros));
        assert_eq!(int8(ColumnValue::Text(b"-5")), Some(-5));
        assert_eq!(int4(ColumnValue::Binary(&[0, 0, 1, 0])), Some(256));
        assert_eq!(int4(ColumnValue::Binary(&[0, 0, 1])), None);
        assert_eq!(int8(ColumnValue::Null), None);
    }
}
