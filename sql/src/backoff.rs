//! How long to wait before trying again: doubling, capped, with jitter so that workers cut off
//! together do not come back together.

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

#[derive(Clone, Debug)]
pub struct Backoff {
    first: Duration,
    longest: Duration,
    failures: u32,
    /// Randomly keyed by the standard library: enough randomness for jitter.
    random: RandomState,
}

impl Default for Backoff {
    /// From a fifth of a second to half a minute.
    fn default() -> Backoff {
        Backoff::new(Duration::from_millis(200), Duration::from_secs(30))
    }
}

impl Backoff {
    pub fn new(first: Duration, longest: Duration) -> Backoff {
        Backoff {
            first,
            longest,
            failures: 0,
            random: RandomState::new(),
        }
    }

    /// The wait after one more failure: between half and the whole of the doubled, capped delay.
    pub fn next_delay(&mut self) -> Duration {
        let factor = 1_u32.checked_shl(self.failures).unwrap_or(u32::MAX);
        self.failures = self.failures.saturating_add(1);
        let whole = self.first.saturating_mul(factor).min(self.longest);
        let share = self.random.hash_one(self.failures) % 1024;
        whole / 2 + (whole / 2).mul_f64(share as f64 / 1024.0)
    }

    /// It worked: the next failure starts from the shortest delay.
    pub fn reset(&mut self) {
        self.failures = 0;
    }

    /// Failures in a row. A log line should appear for the first and then rarely.
    pub fn failures(&self) -> u32 {
        self.failures
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_up_to_the_cap_and_start_over() {
        let second = Duration::from_secs(1);
        let mut backoff = Backoff::new(second, 30 * second);
        for whole in [1, 2, 4, 8, 16, 30, 30] {
            let delay = backoff.next_delay();
            assert!(
                delay >= whole * second / 2 && delay <= whole * second,
                "{delay:?} of {whole}"
            );
        }
        for _ in 0..100 {
            assert!(backoff.next_delay() <= 30 * second);
        }
        backoff.reset();
        assert!(backoff.next_delay() <= second);
    }
}
