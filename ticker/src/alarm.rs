//! Waking at an instant, more exactly than the runtime's own timer, which counts whole milliseconds and
//! rounds up: half a tick late at 2 ms.

use tokio::time::Instant;

#[cfg(target_os = "linux")]
pub(crate) use linux::Alarm;
#[cfg(not(target_os = "linux"))]
pub(crate) use other::Alarm;

#[cfg(target_os = "linux")]
mod linux {
    use std::io;
    use std::os::fd::OwnedFd;
    use std::time::Duration;

    use rustix::time::{
        Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
        timerfd_settime,
    };
    use tokio::io::Interest;
    use tokio::io::unix::AsyncFd;

    use super::Instant;

    /// A timer of the kernel that the runtime watches like a socket.
    #[derive(Debug)]
    pub(crate) struct Alarm(AsyncFd<OwnedFd>);

    impl Alarm {
        pub fn new() -> io::Result<Alarm> {
            let timer = timerfd_create(
                TimerfdClockId::Monotonic,
                TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC,
            )?;
            #[allow(
                deprecated,
                reason = "its fault are types that change their descriptor, which OwnedFd does not"
            )]
            let watched = AsyncFd::with_interest(timer, Interest::READABLE)?;
            Ok(Alarm(watched))
        }

        /// Waits until `at`. May be dropped and called anew, with another instant too.
        pub async fn until(&self, at: Instant) {
            loop {
                let left = at.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    return;
                }
                if self.expires_in(left).await.is_err() {
                    return tokio::time::sleep_until(at).await;
                }
            }
        }

        async fn expires_in(&self, left: Duration) -> io::Result<()> {
            let value = Itimerspec {
                it_interval: Timespec {
                    tv_sec: 0,
                    tv_nsec: 0,
                },
                it_value: Timespec {
                    tv_sec: left.as_secs().try_into().unwrap_or(i64::MAX),
                    tv_nsec: left.subsec_nanos().into(),
                },
            };
            timerfd_settime(self.0.get_ref(), TimerfdTimerFlags::empty(), &value)?;
            self.0
                .async_io(Interest::READABLE, |timer| {
                    let mut expiries = [0; 8];
                    rustix::io::read(timer, &mut expiries)?;
                    Ok(())
                })
                .await
        }
    }
}

#[cfg(not(target_os = "linux"))]
mod other {
    use std::io;

    use super::Instant;

    #[derive(Debug)]
    pub(crate) struct Alarm;

    impl Alarm {
        pub fn new() -> io::Result<Alarm> {
            Ok(Alarm)
        }

        pub async fn until(&self, at: Instant) {
            tokio::time::sleep_until(at).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures_util::FutureExt;

    use super::*;

    #[tokio::test]
    async fn it_never_wakes_early_and_waits_may_be_dropped() {
        let alarm = Alarm::new().unwrap();
        let start = Instant::now();
        alarm.until(start).await;
        // The timer of a dropped wait goes off in the next one.
        let _ = alarm.until(start + Duration::from_millis(2)).now_or_never();
        let at = Instant::now() + Duration::from_millis(9);
        alarm.until(at).await;
        assert!(Instant::now() >= at);
    }

    /// Not a test of this machine's load: `cargo nextest run -p skytide-ticker --run-ignored all exact --no-capture`.
    #[tokio::test]
    #[ignore = "a measurement"]
    async fn how_exact_it_is() {
        let alarm = Alarm::new().unwrap();
        for (name, precise) in [("runtime's timer", false), ("alarm", true)] {
            let mut late = Vec::new();
            let mut at = Instant::now();
            for _ in 0..1000 {
                at += Duration::from_micros(2_300);
                match precise {
                    true => alarm.until(at).await,
                    false => tokio::time::sleep_until(at).await,
                }
                late.push(at.elapsed());
            }
            late.sort_unstable();
            println!(
                "{name}: late p50 {:?}, p99 {:?}, max {:?}",
                late[500], late[990], late[999]
            );
        }
    }
}
