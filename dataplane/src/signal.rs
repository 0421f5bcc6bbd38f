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

    /// `old`, where it listens to this bell, or a new one. It may tell of a ring from before: who hears one looks what is new.
    pub(crate) fn reuse_ear(&self, old: Option<Ear>) -> Ear {
        old.filter(|ear| Arc::ptr_eq(&ear.bell.0, &self.0)).unwrap_or_else(|| self.ear())
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::task::Waker;

    #[test]
    fn an_ear_that_somebody_had_before_hears_its_own_bell_and_none_that_rang_meanwhile_is_missed() {
        let mut cx = Context::from_waker(Waker::noop());
        let (bell, other) = (Bell::default(), Bell::default());
        let mut ear = bell.ear();
        assert!(ear.poll_rung(&mut cx).is_pending());
        bell.ring();
        let mut ear = bell.reuse_ear(Some(ear));
        assert!(ear.poll_rung(&mut cx).is_ready() && ear.poll_rung(&mut cx).is_pending());
        // Of another bell, it would hear nothing of this one.
        let mut ear = other.reuse_ear(Some(ear));
        bell.ring();
        assert!(ear.poll_rung(&mut cx).is_pending());
        other.ring();
        assert!(ear.poll_rung(&mut cx).is_ready());
        let mut ear = other.reuse_ear(None);
        assert!(ear.poll_rung(&mut cx).is_pending());
        other.ring();
        assert!(ear.poll_rung(&mut cx).is_ready());
    }
}
