//! What the service manager is told (systemd's sd_notify protocol): datagrams of `NAME=value` lines to the socket
//! that it names in the environment. Without one there is nobody to tell.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::{Arc, Once};
use std::time::{Duration, Instant};

use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

const ALIVE: &str = "WATCHDOG=1";

/// So long a manager that is busy is waited for.
const FULL_LIMIT: Duration = Duration::from_millis(500);

/// The manager's ear, if there is one.
#[derive(Debug)]
pub struct Manager {
    socket: Option<(UnixDatagram, SocketAddr)>,
    stopping: Once,
}

impl Manager {
    /// `NOTIFY_SOCKET` as the environment has it.
    pub fn new(address: Option<&OsStr>) -> Manager {
        let address = address.filter(|address| !address.is_empty());
        let socket = address.and_then(|address| {
            connect(address)
                .inspect_err(|error| {
                    warn!(%error, "the service manager cannot be told of our state (NOTIFY_SOCKET)");
                })
                .ok()
        });
        Manager {
            socket,
            stopping: Once::new(),
        }
    }

    /// The work has begun.
    pub fn ready(&self) {
        self.tell("READY=1");
    }

    /// The configuration is being read anew; [`Manager::ready`] ends it.
    pub fn reloading(&self) {
        // systemd compares this with when it asked, on the clock that both share.
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
        let micros = now.tv_sec * 1_000_000 + now.tv_nsec / 1_000;
        self.tell(&format!("RELOADING=1\nMONOTONIC_USEC={micros}"));
    }

    /// Told once, however often it is said.
    pub fn stopping(&self) {
        self.stopping.call_once(|| self.tell("STOPPING=1"));
    }

    /// One line for whoever asks how it is going.
    pub fn status(&self, text: &str) {
        self.tell(&format!("STATUS={}", text.replace('\n', " ")));
    }

    fn alive(&self) {
        self.tell(ALIVE);
    }

    fn tell(&self, message: &str) {
        let Some((socket, address)) = &self.socket else {
            return;
        };
        let end = Instant::now() + FULL_LIMIT;
        loop {
            match socket.send_to_addr(message.as_bytes(), address) {
                Ok(_) => return,
                // Only a few datagrams fit (net.unix.max_dgram_qlen). Signs of life come again; a state does not.
                Err(error)
                    if error.kind() == io::ErrorKind::WouldBlock
                        && message != ALIVE
                        && Instant::now() < end =>
                {
                    std::thread::sleep(Duration::from_millis(1));
                }
                Err(error) => {
                    debug!(%error, "the service manager does not listen");
                    return;
                }
            }
        }
    }
}

fn connect(address: &OsStr) -> io::Result<(UnixDatagram, SocketAddr)> {
    let address = match address.as_bytes() {
        #[cfg(target_os = "linux")]
        [b'@', name @ ..] => <SocketAddr as std::os::linux::net::SocketAddrExt>::from_abstract_name(name)?,
        [b'/', ..] => SocketAddr::from_pathname(address)?,
        _ => return Err(io::ErrorKind::InvalidInput.into()),
    };
    let socket = UnixDatagram::unbound()?;
    socket.set_nonblocking(true)?;
    Ok((socket, address))
}

/// How often the manager wants a sign of life: `WATCHDOG_USEC`, which is for one process, `WATCHDOG_PID`, if that is
/// set.
pub fn watchdog(micros: Option<&str>, pid: Option<&str>, own: u32) -> Option<Duration> {
    if pid.is_some_and(|pid| pid.parse() != Ok(own)) {
        return None;
    }
    let micros = micros?.parse().ok().filter(|micros| *micros > 0)?;
    Some(Duration::from_micros(micros))
}

/// Says when the process begins to stop, and gives signs of life twice as often as they are asked for. They come
/// from the runtime that does the work: when that hangs, they end.
pub async fn watch(manager: Arc<Manager>, limit: Option<Duration>, shutdown: CancellationToken) {
    let lives = async {
        let Some(limit) = limit else {
            return std::future::pending().await;
        };
        let mut beat = tokio::time::interval(limit / 2);
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            beat.tick().await;
            manager.alive();
        }
    };
    let stops = async {
        shutdown.cancelled().await;
        manager.stopping();
    };
    // What is finished after the stop was asked for is watched too.
    tokio::join!(lives, stops);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn received(ear: &UnixDatagram) -> String {
        let mut bytes = [0; 256];
        let length = ear.recv(&mut bytes).expect("a datagram");
        String::from_utf8_lossy(&bytes[..length]).into_owned()
    }

    #[test]
    fn each_state_is_one_datagram() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("notify");
        let ear = UnixDatagram::bind(&path).expect("bind");
        let manager = Manager::new(Some(path.as_os_str()));
        manager.ready();
        assert_eq!(received(&ear), "READY=1");
        manager.reloading();
        assert!(received(&ear).starts_with("RELOADING=1\nMONOTONIC_USEC="));
        manager.status("two\nlines");
        assert_eq!(received(&ear), "STATUS=two lines");
        manager.stopping();
        manager.stopping();
        assert_eq!(received(&ear), "STOPPING=1");
        manager.ready();
        assert_eq!(received(&ear), "READY=1", "the stop is told once");
    }

    #[test]
    fn nobody_to_tell_is_no_error() {
        Manager::new(None).ready();
        Manager::new(Some(OsStr::new("/nowhere/at/all"))).ready();
        assert!(Manager::new(Some(OsStr::new("vsock:2:1"))).socket.is_none());
    }

    #[test]
    fn the_watchdog_is_for_the_process_it_names() {
        let limit = Some(Duration::from_secs(3));
        assert_eq!(watchdog(Some("3000000"), None, 7), limit);
        assert_eq!(watchdog(Some("3000000"), Some("7"), 7), limit);
        assert_eq!(watchdog(Some("3000000"), Some("8"), 7), None);
        assert_eq!(watchdog(Some("0"), None, 7), None);
        assert_eq!(watchdog(None, None, 7), None);
    }
}
