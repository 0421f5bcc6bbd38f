//! The tasks that clients' connections run in: each serves one connection after the other.
//!
//! A task is memory that has to be found, an entry in the list of its runtime, and both undone at its end. So those that are done are kept, a few for each worker, and the one that
//! was used last is used next.

use super::served::Served;
use super::slot::{MAX_IDLE, lock};
use std::cell::RefCell;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker, ready};

thread_local! {
    static IDLE: RefCell<Vec<Idle>> = const { RefCell::new(Vec::new()) };
}

/// A task that has nothing to do.
struct Idle {
    seat: Arc<Seat>,
    waker: Waker,
}

/// What a task is to do next. Nobody ever waits for the lock: all who look stand on one thread.
#[derive(Default)]
struct Seat(Mutex<Option<Served>>);

/// A task. It is as small as it is because [a tunnel](Served) that does nothing keeps one.
struct Task {
    served: Option<Served>,
    /// Made once it is needed: a tunnel may be the first connection for hours.
    seat: Option<Arc<Seat>>,
    /// It can be found. What connections before waited for may still wake it.
    is_listed: bool,
}

impl Future for Task {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.get_mut();
        loop {
            if let Some(served) = &mut this.served {
                ready!(Pin::new(served).poll(cx));
                // Its places go to others before this waits.
                this.served = None;
            }
            let seat = this.seat.get_or_insert_default();
            if let Some(next) = lock(&seat.0).take() {
                (this.served, this.is_listed) = (Some(next), false);
                continue;
            }
            if !this.is_listed {
                this.is_listed = IDLE.with_borrow_mut(|idle| {
                    let has_room = idle.len() < MAX_IDLE;
                    if has_room {
                        idle.push(Idle { seat: Arc::clone(seat), waker: cx.waker().clone() });
                    }
                    has_room
                });
            }
            // Where enough wait for something to do, this ends.
            return if this.is_listed { Poll::Pending } else { Poll::Ready(()) };
        }
    }
}

/// Serves a connection, in a task that is there or in a new one.
pub(super) fn run(served: Served) {
    while let Some(Idle { seat, waker }) = IDLE.with_borrow_mut(Vec::pop) {
        // A task that has ended, with its runtime, has left its seat.
        if Arc::strong_count(&seat) > 1 {
            let before = lock(&seat.0).replace(served);
            debug_assert!(before.is_none(), "nobody else was given this task");
            return waker.wake();
        }
    }
    tokio::spawn(Task { served: Some(served), seat: None, is_listed: false });
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

    use super::*;
    use crate::connection::{rig, serve};
    use crate::listen::Service;
    use crate::patience::Ticker;
    use crate::shutdown;
    use crate::stream::Stream;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};
    use tokio::sync::Semaphore;
    use tokio::task::yield_now;

    const CLIENTS: usize = MAX_IDLE + 8;

    fn idle() -> usize {
        IDLE.with_borrow(Vec::len)
    }

    fn tasks() -> usize {
        tokio::runtime::Handle::current().metrics().num_alive_tasks()
    }

    /// Connections come and go, each in a task that is there, if one is; not all tasks are kept, and what they held is free.
    async fn come_and_go() {
        tokio::spawn(Ticker::new().run());
        let (shared, policy) = rig::shared(&[]);
        let (_trigger, shutdown) = shutdown::new(policy.bell().clone());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let permits = Arc::new(Semaphore::new(CLIENTS));
        let (before, mut most) = (tasks(), 0);
        for clients in [1, 1, CLIENTS, CLIENTS, 1] {
            let mut far = Vec::new();
            for _ in 0..clients {
                far.push(TcpStream::connect(listener.local_addr().unwrap()).await.unwrap());
                let (near, client) = listener.accept().await.unwrap();
                let permit = Arc::clone(&permits).try_acquire_owned().unwrap();
                serve(Stream::Tcp(near), client, Service::Http, &shared, &shutdown, permit);
            }
            most = clients.max(most);
            assert_eq!(tasks() - before, clients.max(most.min(MAX_IDLE)), "{clients} clients");
            for client in &mut far {
                client.write_all(b"nonsense\r\n\r\n").await.unwrap();
                client.shutdown().await.unwrap();
                let mut answer = String::new();
                client.read_to_string(&mut answer).await.unwrap();
                assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
            }
            drop(far);
            while permits.available_permits() < CLIENTS || tasks() - before > MAX_IDLE || idle() < most.min(MAX_IDLE) {
                yield_now().await;
            }
            assert_eq!((idle(), tasks() - before), (most.min(MAX_IDLE), most.min(MAX_IDLE)), "{clients} clients");
            // Who is woken for nothing goes on waiting, and is not listed twice.
            IDLE.with_borrow(|idle| idle.iter().for_each(|idle| idle.waker.wake_by_ref()));
            for _ in 0..2 * MAX_IDLE {
                yield_now().await;
            }
            assert_eq!((idle(), tasks() - before), (most.min(MAX_IDLE), most.min(MAX_IDLE)), "{clients} clients");
        }
    }

    #[test]
    fn a_task_is_small() {
        // With what tokio adds, 256 bytes: it has tasks on cache lines of their own, in multiples of 128 where processors load them in pairs.
        assert!(size_of::<Task>() <= 144, "{}", size_of::<Task>());
    }

    #[test]
    fn tasks_are_used_again_and_few_are_kept() {
        // The tasks of the first have ended with it, which those of the second find out.
        for _ in 0..2 {
            tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(come_and_go());
            assert_eq!(idle(), MAX_IDLE);
            assert!(IDLE.with_borrow(|idle| idle.iter().all(|idle| Arc::strong_count(&idle.seat) == 1)));
        }
    }
}
