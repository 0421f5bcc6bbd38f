//! How long a connection may go on waiting: one timer, however often the deadline moves.
//!
//! A deadline that moves away is only written down. The timer finds out when it fires, so that what never waits long costs no timer at all.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::{Instant, Sleep, sleep_until};

/// A deadline.
#[derive(Debug)]
pub(crate) struct Patience {
    due: Instant,
    timer: Option<Pin<Box<Sleep>>>,
}

impl Patience {
    pub(crate) fn new(wait: Duration) -> Self {
        Self { due: Instant::now() + wait, timer: None }
    }

    /// Sets the deadline so long after now.
    pub(crate) fn set(&mut self, wait: Duration) {
        self.due = Instant::now() + wait;
    }

    /// Sets the deadline.
    pub(crate) fn set_until(&mut self, due: Instant) {
        self.due = due;
    }

    pub(crate) fn due(&self) -> Instant {
        self.due
    }

    /// Ready once the deadline is over.
    pub(crate) fn poll_over(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(self.due)));
        if timer.deadline() > self.due {
            timer.as_mut().reset(self.due);
        }
        while timer.as_mut().poll(cx).is_ready() {
            if self.due <= Instant::now() {
                return Poll::Ready(());
            }
            timer.as_mut().reset(self.due);
        }
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::poll_fn;

    #[tokio::test(start_paused = true)]
    async fn waits_for_the_last_deadline_that_was_set() {
        let start = Instant::now();
        let mut patience = Patience::new(Duration::from_secs(5));
        assert!(poll_fn(|cx| Poll::Ready(patience.poll_over(cx))).await.is_pending());
        patience.set(Duration::from_secs(60));
        poll_fn(|cx| patience.poll_over(cx)).await;
        assert_eq!(start.elapsed(), Duration::from_secs(60));
        patience.set(Duration::from_secs(100));
        assert!(poll_fn(|cx| Poll::Ready(patience.poll_over(cx))).await.is_pending());
        patience.set(Duration::from_secs(1));
        poll_fn(|cx| patience.poll_over(cx)).await;
        assert_eq!(start.elapsed(), Duration::from_secs(61));
    }
}
