//! Wakes everyone who waits for something else: a new policy is in force, or a shutdown has started.
//!
//! One bell for all news, so that a connection listens to one thing only. It says that something is new, not what: whoever is woken looks.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::sync::Notify;
use tokio::sync::futures::OwnedNotified;

/// The bell.
#[derive(Debug, Clone, Default)]
pub(crate) struct Bell(Arc<Notify>);

/// Hears the bell from the moment it was made on.
#[derive(Debug)]
pub(crate) struct Ear {
    bell: Bell,
    notified: Pin<Box<OwnedNotified>>,
}

impl Bell {
    pub(crate) fn ring(&self) {
        self.0.notify_waiters();
    }

    pub(crate) fn ear(&self) -> Ear {
        Ear { bell: self.clone(), notified: Box::pin(Arc::clone(&self.0).notified_owned()) }
    }
}

impl Ear {
    /// Ready if the bell rang since the last time that this was ready.
    pub(crate) fn poll_rung(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.notified.as_mut().poll(cx).is_pending() {
            return Poll::Pending;
        }
        // A new one before anyone looks at what is new: nothing that comes after is missed.
        self.notified.set(Arc::clone(&self.bell.0).notified_owned());
        Poll::Ready(())
    }
}
