//! One signal, one drain with a deadline.

use tokio::sync::watch;

/// Tells everyone that no new work is to be begun.
#[derive(Debug, Clone)]
pub(crate) struct Shutdown(watch::Receiver<bool>);

/// Starts it.
#[derive(Debug)]
pub(crate) struct Trigger(watch::Sender<bool>);

pub(crate) fn new() -> (Trigger, Shutdown) {
    let (sender, receiver) = watch::channel(false);
    (Trigger(sender), Shutdown(receiver))
}

impl Trigger {
    pub(crate) fn start(&self) {
        self.0.send_replace(true);
    }
}

impl Shutdown {
    /// Ends when the shutdown has started. Cancel safe.
    pub(crate) async fn started(&mut self) {
        // A trigger that is gone is a shutdown too.
        let _ = self.0.wait_for(|started| *started).await;
    }

    pub(crate) fn has_started(&self) -> bool {
        *self.0.borrow()
    }
}
