//! Periods are rates: the next start is a period after the last start, however long the work took.

use std::time::Duration;

use tokio::time::Instant;

use crate::tick::Scope;

/// When to start again after work that was due at `start`. Starts that were missed are left out, not
/// made up for, and the rhythm is kept.
pub(crate) fn next_start(start: Instant, period: Duration, now: Instant) -> Instant {
    let period = period.max(SHORTEST);
    start + period * (missed(start, period, now) + 1)
}

/// How many starts after the one at `start` are past.
pub(crate) fn missed(start: Instant, period: Duration, now: Instant) -> u32 {
    let behind = now.saturating_duration_since(start).as_nanos();
    u32::try_from(behind / period.max(SHORTEST).as_nanos()).unwrap_or(u32::MAX - 1)
}

const SHORTEST: Duration = Duration::from_millis(1);

/// When rounds are made: of all queues each period, and of hasty queues, those with a shorter ticker_max_lag,
/// as often as the hastiest wants it.
#[derive(Debug)]
pub(crate) struct Rhythm {
    all: Instant,
    period: Duration,
    hasty: Option<(Instant, Duration)>,
}

impl Rhythm {
    /// The first round is due now.
    pub fn new(period: Duration, now: Instant) -> Rhythm {
        Rhythm {
            all: now,
            period,
            hasty: None,
        }
    }

    /// When the next round is due.
    pub fn next(&self) -> Instant {
        self.hasty.map_or(self.all, |(at, _)| at.min(self.all))
    }

    /// What the round that is due now is to look at.
    pub fn scope(&self, now: Instant) -> Scope {
        match self.all <= now || self.hasty.is_none() {
            true => Scope::All,
            false => Scope::Hasty(self.period),
        }
    }

    /// A round was made. Returns how many others became due while it was.
    pub fn made(&mut self, scope: Scope, shortest_lag: Option<Duration>, now: Instant) -> u32 {
        let mut left_out = 0;
        if scope == Scope::All {
            left_out = missed(self.all, self.period, now);
            self.all = next_start(self.all, self.period, now);
        }
        let lag = shortest_lag
            .map(|lag| lag.max(SHORTEST))
            .filter(|lag| *lag < self.period);
        self.hasty = match (self.hasty, lag) {
            (Some((at, was)), Some(lag)) if was == lag && now < at => Some((at, was)),
            (Some((at, was)), Some(lag)) if was == lag => {
                left_out = left_out.max(missed(at, lag, now));
                Some((next_start(at, lag, now), lag))
            }
            (_, Some(lag)) => Some((now + lag, lag)),
            (_, None) => None,
        };
        left_out
    }
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

    #[test]
    fn hasty_queues_have_rounds_of_their_own_between_those_of_all() {
        let zero = Instant::now();
        let ms = Duration::from_millis;
        let mut rhythm = Rhythm::new(ms(100), zero);
        assert_eq!((rhythm.next(), rhythm.scope(zero)), (zero, Scope::All));
        assert_eq!(rhythm.made(Scope::All, Some(ms(40)), zero), 0);
        let mut rounds = Vec::new();
        let mut now = zero;
        while now < zero + ms(200) {
            now = rhythm.next();
            let scope = rhythm.scope(now);
            rounds.push(((now - zero).as_millis(), scope == Scope::All));
            rhythm.made(scope, Some(ms(40)), now + ms(1));
        }
        assert_eq!(
            rounds,
            [
                (40, false),
                (80, false),
                (100, true),
                (120, false),
                (160, false),
                (200, true)
            ]
        );
        // Nobody is hasty any more, and a round took long.
        assert_eq!(rhythm.made(Scope::All, None, zero + ms(520)), 2);
        assert_eq!(rhythm.next(), zero + ms(600));
        // A lag that is no shorter than the period adds nothing.
        rhythm.made(Scope::All, Some(ms(100)), zero + ms(600));
        assert_eq!(rhythm.scope(rhythm.next()), Scope::All);
    }
}
