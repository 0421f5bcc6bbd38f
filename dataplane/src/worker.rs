//! Threads that serve connections, each with a runtime of its own.
//!
//! A connection stays on the thread that accepted it: nothing of it is locked or moved, and upstream connections that wait for a request belong to the thread too. All
//! threads accept from the same listeners, so that whoever has time takes the next.

use crate::connection::Shared;
use crate::listen::{self, Service};
use crate::patience::Ticker;
use crate::pulse::{self, Life, Pulse};
use crate::shutdown::Shutdown;
use crate::spare;
use std::io;
use std::net::TcpListener;
use std::sync::Arc;
use std::thread::{Builder, JoinHandle};
use tokio::sync::{Semaphore, mpsc};

/// A thread that serves.
pub(crate) struct Worker {
    /// Dropping it ends the thread, with all connections that are still open.
    life: Life,
    thread: JoinHandle<()>,
}

/// What the workers have in common.
pub(crate) struct Work {
    pub(crate) listeners: Vec<(TcpListener, Service)>,
    pub(crate) shared: Arc<Shared>,
    pub(crate) permits: Arc<Semaphore>,
    pub(crate) shutdown: Shutdown,
    /// Held by all that accept: once it is gone, nobody does any more.
    pub(crate) accepting: mpsc::Sender<()>,
}

impl Worker {
    /// Starts a thread that serves until it is ended. Once the shutdown has started it accepts no more.
    pub(crate) fn start(number: usize, work: &Work) -> io::Result<Self> {
        let listeners =
            work.listeners.iter().map(|(listener, service)| Ok((listener.try_clone()?, *service))).collect::<io::Result<Vec<_>>>()?;
        // Tasks that other threads wake run first. They hear of new policies; behind the closing of tunnels, which this thread wakes, they would wait for a third of a second.
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().global_queue_interval(1).build()?;
        let (life, mut heart) = pulse::new();
        let (shared, permits, shutdown) = (Arc::clone(&work.shared), Arc::clone(&work.permits), work.shutdown.clone());
        let accepting = work.accepting.clone();
        let serve = move || {
            let _serving = shared.counters.serve();
            runtime.block_on(async {
                tokio::spawn(Ticker::new().run());
                for (listener, service) in listeners {
                    match listen::socket::Listener::new(listener) {
                        Ok(listener) => {
                            let accept = listen::accept(listener, service, Arc::clone(&shared), Arc::clone(&permits), shutdown.clone());
                            let accepting = accepting.clone();
                            tokio::spawn(async move {
                                accept.await;
                                drop(accepting);
                            });
                        }
                        // It was registered once already, when it was bound.
                        Err(_) => return,
                    }
                }
                drop(accepting);
                tokio::spawn(spare::keep());
                heart.beat().await;
            });
            // Lookups that cannot be cancelled are not waited for.
            runtime.shutdown_background();
        };
        let thread = Builder::new().name(format!("worker {number}")).spawn(serve)?;
        Ok(Self { life, thread })
    }

    /// Whether it still serves.
    pub(crate) fn pulse(&self) -> Pulse {
        self.life.pulse()
    }

    /// Ends all of them, with what is still open.
    pub(crate) fn end(workers: Vec<Self>) {
        let threads: Vec<_> = workers.into_iter().map(|worker| (drop(worker.life), worker.thread).1).collect();
        for thread in threads {
            // One that panicked has ended too.
            let _ = thread.join();
        }
    }
}
