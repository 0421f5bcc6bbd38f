//! One signal, one drain with a deadline.

use std::time::Duration;
use tokio::sync::watch;

/// For what a client that was accepted just before the shutdown is about to say.
const GRACE: Duration = Duration::from_secs(2);

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

    /// Ends when the shutdown has started and who was accepted before it has had time to say something: its first bytes may be on their way.
    pub(crate) async fn started_a_while_ago(&mut self) {
        self.started().await;
        tokio::time::sleep(GRACE).await;
    }

    pub(crate) fn has_started(&self) -> bool {
        *self.0.borrow()
    }
}
