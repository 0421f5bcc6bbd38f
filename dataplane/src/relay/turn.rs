//! Requests that come together go out together.
//!
//! A worker hears which sockets have something for it, and sees to one after the other. Were each request sent as soon as it is read, the worker would go to and fro between those who ask and
//! those who answer, who often are on the same machine, and wake now the one and now the other: nothing that the system does for a request is dearer. Where a worker has many clients, a request
//! waits for its turn, until the worker has seen to all that it knew of; then all of them go out, one behind the other. That takes a request another look at its task, so that it is not done where
//! there are few clients.
//!
//! What may change meanwhile has to be asked again: whether the policy still lets the request pass, and whether the connection that it goes over still stands.

use std::cell::Cell;
use std::task::Context;

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

/// When a request goes out.
pub(super) struct Turn {
    waits: bool,
}

impl Turn {
    /// Of a request that was read, and that may wait.
    pub(super) fn of(may_wait: bool) -> Self {
        Self { waits: may_wait && CLIENTS.get() >= MANY }
    }

    /// Whether it has to wait; once, and its task is woken behind all others that were.
    pub(super) fn waits(&mut self, cx: &Context<'_>) -> bool {
        let waits = std::mem::take(&mut self.waits);
        if waits {
            cx.waker().wake_by_ref();
        }
        waits
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::RefCell;
    use std::future::poll_fn;
    use std::rc::Rc;
    use std::task::Poll;
    use tokio::task::LocalSet;

    /// What requests of three clients do that come at once, in its order.
    async fn three(may_wait: bool) -> Vec<String> {
        let said = Rc::new(RefCell::new(Vec::new()));
        let tasks = LocalSet::new();
        for number in 1..=3 {
            let said = Rc::clone(&said);
            tasks.spawn_local(async move {
                let mut turn = Turn::of(may_wait);
                said.borrow_mut().push(format!("read {number}"));
                poll_fn(|cx| if turn.waits(cx) { Poll::Pending } else { Poll::Ready(()) }).await;
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
        assert_eq!(three(true).await, AS_THEY_ARE_READ);
        clients.push(Client::new());
        assert_eq!(three(true).await, TOGETHER);
        assert_eq!(three(false).await, AS_THEY_ARE_READ, "what must not wait does not");
        clients.pop();
        assert_eq!(three(true).await, AS_THEY_ARE_READ, "one is gone");
    }
}
