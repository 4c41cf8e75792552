//! When an event happened, as the server keeps it: every timestamp it knows, the infinite ones too.

use std::error::Error;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::BytesMut;
use tokio_postgres::types::{FromSql, IsNull, ToSql, Type, accepts, to_sql_checked};

/// From 1970, where Unix begins, to 2000, where PostgreSQL does.
const SECONDS_TO_2000: u64 = 946_684_800;

/// A `timestamptz`: microseconds since 2000-01-01, and two values for what is before and after all others. A
/// [`SystemTime`] has no such values, and makes others of them.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct EventTime(i64);

impl EventTime {
    pub const INFINITY: EventTime = EventTime(i64::MAX);
    pub const MINUS_INFINITY: EventTime = EventTime(i64::MIN);
    pub const UNIX_EPOCH: EventTime = EventTime(-(SECONDS_TO_2000 as i64) * 1_000_000);

    pub const fn from_micros(micros: i64) -> EventTime {
        EventTime(micros)
    }

    /// Microseconds since 2000-01-01. `None`: infinite.
    pub const fn micros(self) -> Option<i64> {
        match self {
            EventTime::INFINITY | EventTime::MINUS_INFINITY => None,
            EventTime(micros) => Some(micros),
        }
    }

    /// `None`: infinite, or before or after what a `SystemTime` holds.
    pub fn system_time(self) -> Option<SystemTime> {
        let micros = self.micros()?;
        let year_2000 = UNIX_EPOCH + Duration::from_secs(SECONDS_TO_2000);
        let distance = Duration::from_micros(micros.unsigned_abs());
        match micros < 0 {
            true => year_2000.checked_sub(distance),
            false => year_2000.checked_add(distance),
        }
    }
}

impl<'a> FromSql<'a> for EventTime {
    fn from_sql(_: &Type, raw: &'a [u8]) -> Result<EventTime, Box<dyn Error + Sync + Send>> {
        Ok(EventTime(i64::from_be_bytes(raw.try_into()?)))
    }

    accepts!(TIMESTAMPTZ);
}

impl ToSql for EventTime {
    fn to_sql(&self, _: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn Error + Sync + Send>> {
        out.extend_from_slice(&self.0.to_be_bytes());
        Ok(IsNull::No)
    }

    accepts!(TIMESTAMPTZ);
    to_sql_checked!();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_time_goes_to_the_server_as_it_came() {
        for micros in [i64::MIN, i64::MIN + 1, -1, 0, 1, i64::MAX - 1, i64::MAX] {
            let mut bytes = BytesMut::new();
            let time = EventTime::from_micros(micros);
            assert!(matches!(
                time.to_sql(&Type::TIMESTAMPTZ, &mut bytes),
                Ok(IsNull::No)
            ));
            assert_eq!(EventTime::from_sql(&Type::TIMESTAMPTZ, &bytes).unwrap(), time);
        }
        assert!(EventTime::from_sql(&Type::TIMESTAMPTZ, &[0; 7]).is_err());
    }

    #[test]
    fn only_finite_times_are_system_times() {
        assert_eq!(EventTime::UNIX_EPOCH.system_time(), Some(UNIX_EPOCH));
        let later = EventTime::from_micros(-1).system_time();
        assert_eq!(
            later,
            Some(UNIX_EPOCH + Duration::from_micros(SECONDS_TO_2000 * 1_000_000 - 1))
        );
        assert_eq!(EventTime::INFINITY.system_time(), None);
        assert_eq!(EventTime::MINUS_INFINITY.system_time(), None);
    }
}
