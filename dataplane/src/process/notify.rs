//! What the service manager is told (sd_notify(3)): ready, reloading, stopping, a line of status, and that all threads still run.
//!
//! Written here because it is this little: one datagram for each, on a socket that is connected before privileges are given up. Without `NOTIFY_SOCKET`, nothing is said.

#[cfg(unix)]
use std::os::unix::net::UnixDatagram;
use std::time::Duration;
use tokio::time::MissedTickBehavior;

/// The service manager's ear.
pub(crate) struct Notify {
    #[cfg(unix)]
    socket: Option<UnixDatagram>,
}

impl Notify {
    /// To whom `NOTIFY_SOCKET` leads. One that cannot be reached is not told anything: it will say so itself.
    #[cfg(unix)]
    pub(crate) fn from_env() -> Self {
        let connected = |address: std::ffi::OsString| {
            let socket = UnixDatagram::unbound()?;
            connect(&socket, &address)?;
            // A manager that does not listen holds nothing up.
            socket.set_nonblocking(true)?;
            std::io::Result::Ok(socket)
        };
        Self { socket: std::env::var_os("NOTIFY_SOCKET").and_then(|address| connected(address).ok()) }
    }

    #[cfg(not(unix))]
    pub(crate) fn from_env() -> Self {
        Self {}
    }

    fn send(&self, state: &str) {
        #[cfg(unix)]
        if let Some(socket) = &self.socket {
            let _ = socket.send(state.as_bytes());
        }
        #[cfg(not(unix))]
        let _ = state;
    }

    /// Serving, with a line for people.
    pub(crate) fn ready(&self, status: &str) {
        self.send(&format!("READY=1\nSTATUS={status}\n"));
    }

    pub(crate) fn status(&self, status: &str) {
        self.send(&format!("STATUS={status}\n"));
    }

    /// A reload begins; `ready` says that it has ended.
    pub(crate) fn reloading(&self) {
        #[cfg(unix)]
        {
            let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
            let micros = i128::from(now.tv_sec) * 1_000_000 + i128::from(now.tv_nsec) / 1000;
            self.send(&format!("RELOADING=1\nMONOTONIC_USEC={micros}\n"));
        }
    }

    pub(crate) fn stopping(&self, status: &str) {
        self.send(&format!("STOPPING=1\nSTATUS={status}\n"));
    }

    /// Says that the proxy runs, twice in the time that the manager [gives](watchdog), each time once it `responds`: once all its threads have said so. A task of the runtime that signals
    /// come to: where that hangs, or one of those threads, nothing is said.
    pub(crate) async fn watchdog<R: Future<Output = ()>>(&self, within: Duration, responds: impl Fn() -> R) {
        let mut beats = tokio::time::interval((within / 2).max(Duration::from_millis(1)));
        // What was missed is not made up for.
        beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            beats.tick().await;
            responds().await;
            self.send("WATCHDOG=1\n");
        }
    }
}

#[cfg(unix)]
fn connect(socket: &UnixDatagram, address: &std::ffi::OsStr) -> std::io::Result<()> {
    use std::os::unix::ffi::OsStrExt;
    match address.as_bytes().split_first() {
        #[cfg(target_os = "linux")]
        Some((b'@', name)) => {
            use std::os::linux::net::SocketAddrExt;
            socket.connect_addr(&std::os::unix::net::SocketAddr::from_abstract_name(name)?)
        }
        Some((b'/', _)) => socket.connect(address),
        _ => Err(std::io::ErrorKind::Unsupported.into()),
    }
}

/// Within which time a sign of life is asked of this process (`WATCHDOG_USEC`), if one is.
pub(crate) fn watchdog() -> Option<Duration> {
    let number = |name| std::env::var(name).ok().and_then(|value| value.parse::<u64>().ok());
    let own = std::env::var_os("WATCHDOG_PID").is_none() || number("WATCHDOG_PID") == Some(u64::from(std::process::id()));
    number("WATCHDOG_USEC").filter(|usec| own && *usec > 0).map(Duration::from_micros)
}

#[cfg(all(test, unix))]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

    use super::*;
    use std::cell::Cell;
    use std::future::pending;

    #[tokio::test(start_paused = true)]
    async fn a_sign_of_life_is_given_when_there_is_one_and_not_before() {
        let (socket, manager) = UnixDatagram::pair().unwrap();
        manager.set_nonblocking(true).unwrap();
        let notify = Notify { socket: Some(socket) };
        let asked = Cell::new(0);
        // Three times it does, and then no more.
        let responds = || async {
            asked.set(asked.get() + 1);
            if asked.get() > 3 {
                pending().await
            }
        };
        let within = Duration::from_secs(2);
        assert!(tokio::time::timeout(within * 10, notify.watchdog(within, responds)).await.is_err());
        let mut said = [0; 64];
        for _ in 0..3 {
            let len = manager.recv(&mut said).unwrap();
            assert_eq!(&said[..len], b"WATCHDOG=1\n");
        }
        assert!(manager.recv(&mut said).is_err());
        assert_eq!(asked.get(), 4);
    }
}
