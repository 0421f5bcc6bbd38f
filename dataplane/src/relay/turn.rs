//! Requests that come together go out together.
//!
//! A worker hears which sockets have something for it, and sees to one after the other. Were each request sent as soon as it is read, the worker would go to and fro between those who ask and
//! those who answer, who often are on the same machine, and wake now the one and now the other: nothing that the system does for a request is dearer. Where a worker has many clients, a request
//! waits for its turn, until the worker has seen to all that it knew of; then all of them go out, one behind the other. That takes a request another look at its task, so that it is not done where
//! there are few clients.
//!
//! What may change meanwhile has to be asked again: whether what was decided still holds, and whether the connection that it goes over still stands.

use std::cell::Cell;
use std::task::{Context, Poll};

/// So many clients of a thread are many.
const MANY: u32 = 24;

thread_local! {
    static CLIENTS: Cell<u32> = const { Cell::new(0) };
}

/// A client of this thread that may send requests. It stays on its thread.
#[derive(Debug)]
pub(crate) struct Client(());

impl Client {
    pub(crate) fn new() -> Self {
        CLIENTS.set(CLIENTS.get().saturating_add(1));
        Self(())
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        // While its thread ends, nobody counts any more.
        let _ = CLIENTS.try_with(|clients| clients.set(clients.get().saturating_sub(1)));
    }
}

/// The turn of a request: behind all that its worker knew of when it was read.
pub(super) struct Turn {
    has_come: bool,
}

impl Turn {
    /// Of a request that was just read. `None`: it goes out at once.
    pub(super) fn take() -> Option<Self> {
        (CLIENTS.get() >= MANY).then_some(Self { has_come: false })
    }

    /// Ready when it comes. The task is woken behind all others that were.
    pub(super) fn poll(&mut self, cx: &Context<'_>) -> Poll<()> {
        if std::mem::replace(&mut self.has_come, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::RefCell;
    use std::future::poll_fn;
    use std::rc::Rc;
    use tokio::task::LocalSet;

    /// What requests of three clients do that come at once, in its order.
    async fn three() -> Vec<String> {
        let said = Rc::new(RefCell::new(Vec::new()));
        let tasks = LocalSet::new();
        for number in 1..=3 {
            let said = Rc::clone(&said);
            tasks.spawn_local(async move {
                let turn = Turn::take();
                said.borrow_mut().push(format!("read {number}"));
                if let Some(mut turn) = turn {
                    poll_fn(|cx| turn.poll(cx)).await;
                }
                said.borrow_mut().push(format!("sent {number}"));
            });
        }
        tasks.await;
        said.take()
    }

    const AS_THEY_ARE_READ: [&str; 6] = ["read 1", "sent 1", "read 2", "sent 2", "read 3", "sent 3"];
    const TOGETHER: [&str; 6] = ["read 1", "read 2", "read 3", "sent 1", "sent 2", "sent 3"];

    #[tokio::test]
    async fn where_a_thread_has_many_clients_requests_go_out_together() {
        let mut clients: Vec<_> = (1..MANY).map(|_| Client::new()).collect();
        assert_eq!(three().await, AS_THEY_ARE_READ);
        clients.push(Client::new());
        assert_eq!(three().await, TOGETHER);
        clients.pop();
        assert_eq!(three().await, AS_THEY_ARE_READ, "one is gone");
    }
}
