//! Accept loop, connection permits, drain.

pub(crate) mod backoff;
pub(crate) mod detect;
pub(crate) mod socket;

use crate::connection::{self, Shared};
use crate::counters::reached;
use crate::shutdown::Shutdown;
use crate::stream::Stream;
use backoff::Backoff;
use socket::Listener;
use std::sync::Arc;
use tokio::sync::Semaphore;

/// Which protocol a listener is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Service {
    Http,
    Socks5,
}

/// Accepts until the shutdown starts. At the limit of connections it stops accepting: who waits, waits in the kernel's queue.
pub(crate) async fn accept(listener: Listener, service: Service, shared: Arc<Shared>, permits: Arc<Semaphore>, shutdown: Shutdown) {
    let mut backoff = Backoff::default();
    let mut at_once = AtOnce::new(&listener);
    let mut started = std::pin::pin!(shutdown.started());
    loop {
        let (stream, client) = tokio::select! {
            accepted = backoff.accept(&listener, &shared.gate) => accepted,
            () = &mut started => return,
        };
        at_once.set(&stream);
        // A permit for a connection that is there: one that was taken before would be lost to the other listeners.
        let permit = match Arc::clone(&permits).try_acquire_owned() {
            Ok(permit) => permit,
            Err(_) => {
                shared.gate.reached(reached!(connections), Some(client), None);
                tokio::select! {
                    permit = Arc::clone(&permits).acquire_owned() => match permit {
                        Ok(permit) => permit,
                        // The semaphore is never closed.
                        Err(_) => return,
                    },
                    () = &mut started => return,
                }
            }
        };
        connection::serve(stream, client, service, &shared, &shutdown, permit);
    }
}

/// Connections that may wait in the kernel's queue since before their listener had an option, such as those that systemd has taken: as many as Linux lets wait unless it is told otherwise, and the
/// one above that.
const QUEUED: usize = 4096 + 1;

/// Has what is accepted send at once instead of waiting for more. On Linux, a connection has the option of its listener, and a system call for each is saved.
struct AtOnce {
    /// So many of the next may be without it.
    without: usize,
}

impl AtOnce {
    fn new(listener: &Listener) -> Self {
        Self { without: if listener.sends_at_once() { QUEUED } else { usize::MAX } }
    }

    fn set(&mut self, stream: &Stream) {
        if self.without > 0 {
            self.without -= 1;
            // One that is gone by now is told so when it is written to.
            let _ = stream.send_at_once();
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

    use super::*;
    use tokio::net::TcpStream;

    #[tokio::test]
    async fn who_is_accepted_is_sent_to_at_once_and_so_is_who_waited_before() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let listener = Listener::new(listener).unwrap();
        let _before = TcpStream::connect(address).await.unwrap();
        let mut at_once = AtOnce::new(&listener);
        let _behind = TcpStream::connect(address).await.unwrap();
        for _ in 0..2 {
            let (mut accepted, _) = listener.accept().await.unwrap();
            at_once.set(&accepted);
            accepted.settle().unwrap();
            assert!(matches!(&accepted, Stream::Tcp(accepted) if accepted.nodelay().unwrap()));
            if listener.sends_at_once() {
                at_once.without = 0;
            }
        }
    }
}
