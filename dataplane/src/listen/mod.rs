//! Accept loop, connection permits, drain.

pub(crate) mod backoff;
pub(crate) mod detect;

use crate::connection::{self, Shared};
use crate::counters::reached;
use crate::shutdown::Shutdown;
use backoff::Backoff;
use std::sync::Arc;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

/// Which protocol a listener is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Service {
    Http,
    Socks5,
}

/// Accepts until the shutdown starts. At the limit of connections it stops accepting: who waits, waits in the kernel's queue.
pub(crate) async fn accept(listener: TcpListener, service: Service, shared: Arc<Shared>, permits: Arc<Semaphore>, shutdown: Shutdown) {
    let mut backoff = Backoff::default();
    let _ = send_at_once(&listener);
    loop {
        let (stream, client) = tokio::select! {
            accepted = backoff.accept(&listener, &shared.gate) => accepted,
            () = shutdown.started() => return,
        };
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
                    () = shutdown.started() => return,
                }
            }
        };
        if let Some(served) = connection::serve(stream, client, service, &shared, &shutdown, permit) {
            tokio::spawn(served);
        }
    }
}

/// Has what is accepted send without waiting for more: on Linux, a connection has the option of its listener, and nobody has to ask for it once more.
#[cfg(target_os = "linux")]
fn send_at_once(listener: &TcpListener) -> std::io::Result<()> {
    Ok(rustix::net::sockopt::set_tcp_nodelay(listener, true)?)
}

#[cfg(not(target_os = "linux"))]
fn send_at_once(_listener: &TcpListener) -> std::io::Result<()> {
    Ok(())
}

/// The same for one that was accepted, where that is not so.
pub(crate) fn sends_at_once(stream: &TcpStream) {
    if cfg!(not(target_os = "linux")) {
        // One that is gone by now is told so when it is written to.
        let _ = stream.set_nodelay(true);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

    use super::*;

    #[tokio::test]
    async fn who_is_accepted_is_sent_to_at_once() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        send_at_once(&listener).unwrap();
        let _client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (accepted, _) = listener.accept().await.unwrap();
        sends_at_once(&accepted);
        assert!(accepted.nodelay().unwrap());
    }
}
