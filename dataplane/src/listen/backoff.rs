//! What a listener does that cannot accept: descriptors or memory have run out, or a client was gone too soon.
//!
//! What is kept for later is given up first (`spare.rs`). Else clients wait in the kernel's queue; none is lost. The listener tries again after a pause that doubles, and is short
//! enough that nobody waits long once there is room.

use crate::counters::Counter;
use crate::limits::Gate;
use crate::listen::socket::Listener;
use crate::spare;
use crate::stream::Stream;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

/// The first pause.
const SHORTEST: Duration = Duration::from_millis(5);
/// The longest.
const LONGEST: Duration = Duration::from_millis(320);

/// How long a listener pauses.
#[derive(Debug, Default)]
pub(crate) struct Backoff {
    /// The last pause, if the listener could not accept since.
    pause: Option<Duration>,
}

impl Backoff {
    /// The next connection. However long that takes, nothing is lost; dropping the future loses nothing either.
    pub(crate) async fn accept(&mut self, listener: &Listener, gate: &Gate) -> (Stream, SocketAddr) {
        loop {
            match listener.accept().await {
                Ok(accepted) => {
                    if self.pause.take().is_some() {
                        gate.resumed();
                    }
                    return accepted;
                }
                Err(error) => {
                    gate.counters().count(Counter::AcceptErrors);
                    if spare::make_room(&error).await {
                        continue;
                    }
                    if let Some(pause) = self.failed(&error) {
                        gate.paused(&error);
                        tokio::time::sleep(pause).await;
                    } else {
                        // A queue full of clients that are gone must not keep others of this thread from running.
                        tokio::task::yield_now().await;
                    }
                }
            }
        }
    }

    /// How long to pause; `None` where the error is of that one connection and the next may be tried at once.
    fn failed(&mut self, error: &io::Error) -> Option<Duration> {
        if is_of_one_connection(error) {
            return None;
        }
        let pause = self.pause.map_or(SHORTEST, |last| (last * 2).min(LONGEST));
        self.pause = Some(pause);
        Some(pause)
    }
}

/// Linux gives errors that a new connection has already as errors of accept(2). What is not known to be of that kind is taken for one that lasts: a listener never spins.
fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionReset, HostUnreachable, Interrupted, NetworkDown, NetworkUnreachable};
    matches!(error.kind(), ConnectionAborted | ConnectionReset | HostUnreachable | Interrupted | NetworkDown | NetworkUnreachable)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_within_bounds_and_begin_anew() {
        let mut backoff = Backoff::default();
        let exhausted = io::Error::other("too many open files");
        let pauses: Vec<u128> = (0..9).filter_map(|_| backoff.failed(&exhausted)).map(|pause| pause.as_millis()).collect();
        assert_eq!(pauses, [5, 10, 20, 40, 80, 160, 320, 320, 320]);
        assert_eq!(backoff.failed(&io::ErrorKind::ConnectionAborted.into()), None, "no pause for a client that is gone");
        backoff.pause = None;
        assert_eq!(backoff.failed(&exhausted), Some(SHORTEST));
    }

    #[test]
    #[cfg(unix)]
    fn the_errors_of_exhaustion_are_not_of_one_connection() {
        use rustix::io::Errno;
        for errno in [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM] {
            assert!(!is_of_one_connection(&errno.into()), "{errno}");
        }
        for errno in [Errno::CONNABORTED, Errno::INTR, Errno::NETDOWN, Errno::HOSTUNREACH] {
            assert!(is_of_one_connection(&errno.into()), "{errno}");
        }
    }
}
