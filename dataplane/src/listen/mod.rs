//! Accept loop, connection permits, drain.

pub(crate) mod backoff;
pub(crate) mod detect;

use crate::connection::{self, Shared};
use crate::counters::reached;
use crate::shutdown::Shutdown;
use backoff::Backoff;
use std::sync::Arc;
use tokio::net::TcpListener;
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
