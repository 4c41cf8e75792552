//! Timelines: the branches of a cluster's WAL history.

use std::fmt;
use std::str::FromStr;

/// A timeline's number; the first one is 1.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TimelineId(u32);

/// The text is not a timeline's number.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a timeline: {0:?}")]
pub struct ParseTimelineError(String);

impl TimelineId {
    /// `None` for 0, which is no timeline.
    pub const fn new(number: u32) -> Option<TimelineId> {
        match number {
            0 => None,
            number => Some(TimelineId(number)),
        }
    }

    pub const fn as_u32(self) -> u32 {
        self.0
    }
}

impl fmt::Display for TimelineId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for TimelineId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "timeline {}", self.0)
    }
}

impl FromStr for TimelineId {
    type Err = ParseTimelineError;

    fn from_str(text: &str) -> Result<TimelineId, ParseTimelineError> {
        let number = text.parse().ok().and_then(TimelineId::new);
        number.ok_or_else(|| ParseTimelineError(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zero_is_no_timeline() {
        assert_eq!("1".parse(), Ok(TimelineId(1)));
        assert!("0".parse::<TimelineId>().is_err() && "x".parse::<TimelineId>().is_err());
    }
}
