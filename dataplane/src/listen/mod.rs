//! Accept loop, connection permits, drain.

pub(crate) mod detect;

use crate::connection::{self, Shared};
use crate::counters::Counter;
use crate::shutdown::Shutdown;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

/// Which protocol a listener is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Service {
    Http,
    Socks5,
}

/// Accepts until the shutdown starts. At the limit of connections it stops accepting: who waits, waits in the kernel's queue.
pub(crate) async fn accept(listener: TcpListener, service: Service, shared: Arc<Shared>, permits: Arc<Semaphore>, mut shutdown: Shutdown) {
    loop {
        let permit = tokio::select! {
            permit = Arc::clone(&permits).acquire_owned() => permit,
            () = shutdown.started() => return,
        };
        // The semaphore is never closed.
        let Ok(permit) = permit else { return };
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = shutdown.started() => return,
        };
        match accepted {
            Ok((stream, client)) => {
                let (shared, shutdown) = (Arc::clone(&shared), shutdown.clone());
                tokio::spawn(async move {
                    connection::serve(stream, client, service, &shared, shutdown).await;
                    drop(permit);
                });
            }
            // A connection that was gone before it was accepted, or no descriptor left: others still are served, and this loop must not spin.
            Err(_) => {
                shared.counters.count(Counter::AcceptErrors);
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    }
}
