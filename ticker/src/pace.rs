//! Periods are rates: the next start is a period after the last start, however long the work took.

use std::time::Duration;

use tokio::time::Instant;

/// When to start again after work that was due at `start`. Starts that were missed are left out, not
/// made up for, and the rhythm is kept.
pub(crate) fn next_start(start: Instant, period: Duration, now: Instant) -> Instant {
    let period = period.max(Duration::from_millis(1));
    let behind = now.saturating_duration_since(start).as_nanos();
    let whole = u32::try_from(behind / period.as_nanos()).unwrap_or(u32::MAX - 1);
    start + period * (whole + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rhythm_does_not_drift_and_missed_starts_are_left_out() {
        let zero = Instant::now();
        let ms = Duration::from_millis;
        assert_eq!(next_start(zero, ms(10), zero + ms(3)), zero + ms(10));
        assert_eq!(next_start(zero, ms(10), zero + ms(34)), zero + ms(40));
        assert_eq!(next_start(zero, ms(10), zero + ms(40)), zero + ms(50));
        assert_eq!(next_start(zero, ms(0), zero), zero + ms(1));
    }
}
