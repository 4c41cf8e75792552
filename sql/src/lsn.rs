//! WAL positions.

use std::fmt;
use std::str::FromStr;

/// A byte position in the WAL stream. Ranges of positions are half-open.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Lsn(u64);

/// The text is not `XXXXXXXX/XXXXXXXX` in hexadecimal.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a WAL position: {0:?}")]
pub struct ParseLsnError(String);

impl Lsn {
    /// `0/0`, PostgreSQL's InvalidXLogRecPtr: never the position of a record.
    pub const INVALID: Lsn = Lsn(0);

    pub const fn new(byte_position: u64) -> Lsn {
        Lsn(byte_position)
    }

    pub const fn as_u64(self) -> u64 {
        self.0
    }

    pub const fn is_valid(self) -> bool {
        self.0 != 0
    }

    /// Bytes from `earlier` up to `self`, or `None` if `self` comes first.
    pub fn bytes_since(self, earlier: Lsn) -> Option<u64> {
        self.0.checked_sub(earlier.0)
    }
}

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}/{:X}", self.0 >> 32, self.0 & 0xFFFF_FFFF)
    }
}

impl fmt::Debug for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Lsn {
    type Err = ParseLsnError;

    fn from_str(text: &str) -> Result<Lsn, ParseLsnError> {
        let wrong = || ParseLsnError(text.to_owned());
        let (high, low) = text.split_once('/').ok_or_else(wrong)?;
        let part = |s: &str| match s.len() {
            1..=8 if s.bytes().all(|b| b.is_ascii_hexdigit()) => {
                u64::from_str_radix(s, 16).map_err(|_| wrong())
            }
            _ => Err(wrong()),
        };
        Ok(Lsn(part(high)? << 32 | part(low)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_form_is_postgres_text_form() {
        assert_eq!(Lsn::new(0x1_6B37_4D48).to_string(), "1/6B374D48");
        assert_eq!("1/6B374D48".parse(), Ok(Lsn::new(0x1_6B37_4D48)));
        for bad in ["", "1", "1/", "/1", "1/G", "1/123456789", "-1/2", "+1/2"] {
            assert!(bad.parse::<Lsn>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn distance_backwards_is_none() {
        assert_eq!(Lsn::new(10).bytes_since(Lsn::new(4)), Some(6));
        assert_eq!(Lsn::new(4).bytes_since(Lsn::new(10)), None);
    }
}
