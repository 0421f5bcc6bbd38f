//! One signal, one drain with a deadline.

use crate::signal::{Bell, Ear};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// For what a client that was accepted just before the shutdown is about to say.
pub(crate) const GRACE: Duration = Duration::from_secs(2);

/// Tells everyone that no new work is to be begun.
#[derive(Debug, Clone)]
pub(crate) struct Shutdown {
    started: Arc<AtomicBool>,
    bell: Bell,
}

/// Starts it, at the latest when it is dropped.
#[derive(Debug)]
pub(crate) struct Trigger(Shutdown);

/// A shutdown that `bell` tells of.
pub(crate) fn new(bell: Bell) -> (Trigger, Shutdown) {
    let shutdown = Shutdown { started: Arc::default(), bell };
    (Trigger(shutdown.clone()), shutdown)
}

impl Trigger {
    pub(crate) fn start(&self) {
        self.0.started.store(true, Ordering::SeqCst);
        self.0.bell.ring();
    }
}

impl Drop for Trigger {
    fn drop(&mut self) {
        self.start();
    }
}

impl Shutdown {
    /// Ends when the shutdown has started. Cancel safe.
    pub(crate) async fn started(&self) {
        let mut ear = self.ear();
        while !self.has_started() {
            std::future::poll_fn(|cx| ear.poll_rung(cx)).await;
        }
    }

    /// Ends when the shutdown has started and who was accepted before it has had time to say something: its first bytes may be on their way.
    pub(crate) async fn started_a_while_ago(&self) {
        self.started().await;
        tokio::time::sleep(GRACE).await;
    }

    pub(crate) fn has_started(&self) -> bool {
        self.started.load(Ordering::SeqCst)
    }

    /// Hears of the shutdown, and of other news.
    pub(crate) fn ear(&self) -> Ear {
        self.bell.ear()
    }

    /// The same with an ear that somebody is done with ([`Bell::reuse_ear`]).
    pub(crate) fn reuse_ear(&self, old: Option<Ear>) -> Ear {
        self.bell.reuse_ear(old)
    }
}
