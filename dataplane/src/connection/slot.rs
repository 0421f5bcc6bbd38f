//! The slots that clients' connections are set up in: each is a future that serves one connection after the other.
//!
//! The future of a connection takes some kilobytes up to the point where it ends, or is a tunnel that takes much less. One for each client would be memory that has to be found,
//! is cold and is copied to; so those that are done are kept, a few for each worker, and the one that was used last is used next.

use super::served::Opened;
use super::{Connection, Next, Shared};
use crate::listen::Service;
use crate::patience::Ticker;
use crate::relay::turn::Client;
use crate::shutdown::Shutdown;
use crate::stream::{Buffered, Stream};
use std::cell::RefCell;
use std::convert::Infallible;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

/// Bytes that a connection may take until it ends or is a tunnel.
const MAX_BYTES: usize = 4096;
/// Slots, and tasks for them, that a worker keeps while nobody is in them.
pub(super) const MAX_IDLE: usize = 32;

thread_local! {
    static IDLE: RefCell<Vec<Slot>> = const { RefCell::new(Vec::new()) };
}

/// A connection that is to be set up.
pub(super) struct Job {
    pub(super) stream: Stream,
    pub(super) client: SocketAddr,
    pub(super) service: Service,
    pub(super) shared: Arc<Shared>,
    pub(super) shutdown: Shutdown,
}

struct Slot {
    mailbox: Arc<Mailbox>,
    future: Pin<Box<dyn Future<Output = Infallible> + Send>>,
}

/// What goes into a slot and comes out of it. Only who has the slot looks into it, all of them on one thread: nobody ever waits for a lock.
#[derive(Default)]
struct Mailbox {
    job: Mutex<Option<Job>>,
    /// What became of the connection: a tunnel, or nothing more.
    result: Mutex<Option<Box<Opened>>>,
    /// There is a result. It is asked at every poll, which a lock would cost more.
    is_done: AtomicBool,
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Sets up one connection after the other.
async fn serve(mailbox: Arc<Mailbox>) -> Infallible {
    // Goes from one client to the next: to make one, and to let it go, is to lock the bell. While nobody is here it has the waker of the last one's task, whose memory stays as long.
    let mut ear = None;
    loop {
        // Nobody has to be woken for a job: it is there before the task that gets the slot polls this.
        let job = poll_fn(|_| lock(&mailbox.job).take().map_or(Poll::Pending, Poll::Ready)).await;
        let result = {
            let Job { stream, client, service, shared, shutdown } = job;
            let client_stream = Buffered::with_peer(stream, client);
            let mut connection = Connection::with_ear(shutdown.reuse_ear(ear.take()), client_stream, client, &shared, shutdown);
            match connection.run(service).await {
                Next::Close => {
                    ear = Some(connection.ear);
                    None
                }
                // As in `go_on`, without a future of its own.
                Next::Tunnel(upstream, guard, upload, clear) => Some(connection.open(upstream, *guard, upload, clear)),
                next => Box::pin(connection.go_on(next)).await,
            }
        };
        // Nothing else of the connection is left in here.
        *lock(&mailbox.result) = result;
        mailbox.is_done.store(true, Ordering::Relaxed);
    }
}

impl Slot {
    fn new() -> Self {
        let mailbox = Arc::new(Mailbox::default());
        let future = Box::pin(serve(Arc::clone(&mailbox)));
        debug_assert!(Ticker::is_here() && size_of_val(&*future) <= MAX_BYTES, "{} bytes", size_of_val(&*future));
        Self { mailbox, future }
    }
}

/// A connection up to its end, or to a tunnel. Dropped before, it is broken off, and its slot is not used again.
pub(super) struct SetUp(Option<Slot>, Client);

impl SetUp {
    pub(super) fn new(job: Job) -> Self {
        let slot = IDLE.with_borrow_mut(Vec::pop).unwrap_or_else(Slot::new);
        *lock(&slot.mailbox.job) = Some(job);
        Self(Some(slot), Client::new())
    }
}

impl Future for SetUp {
    type Output = Option<Box<Opened>>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        // Should the slot panic, it is dropped with what is in it.
        let Some(mut slot) = self.0.take() else { return Poll::Ready(None) };
        match slot.future.as_mut().poll(cx) {
            Poll::Ready(never) => match never {},
            Poll::Pending if !slot.mailbox.is_done.load(Ordering::Relaxed) => {
                self.0 = Some(slot);
                return Poll::Pending;
            }
            Poll::Pending => slot.mailbox.is_done.store(false, Ordering::Relaxed),
        }
        let result = lock(&slot.mailbox.result).take();
        if IDLE.with_borrow(Vec::len) < MAX_IDLE {
            IDLE.with_borrow_mut(|idle| idle.push(slot));
        }
        Poll::Ready(result)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

    use super::*;
    use crate::connection::rig;
    use crate::shutdown;
    use tokio::net::{TcpListener, TcpStream};

    fn idle() -> usize {
        IDLE.with_borrow(Vec::len)
    }

    /// Connections come and go, each in a slot that is there, if one is; not all slots are kept, and none that a connection was broken off in.
    #[tokio::test]
    async fn slots_are_used_again_and_few_are_kept() {
        tokio::spawn(Ticker::new().run());
        let (shared, policy) = rig::shared(&[]);
        let (_trigger, shutdown) = shutdown::new(policy.bell().clone());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let connection = async || {
            let far = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
            let (near, client) = listener.accept().await.unwrap();
            let (shared, shutdown) = (Arc::clone(&shared), shutdown.clone());
            (far, SetUp::new(Job { stream: Stream::Tcp(near), client, service: Service::Http, shared, shutdown }))
        };
        let mut connections = Vec::new();
        for _ in 0..MAX_IDLE + 8 {
            connections.push(connection().await);
        }
        assert_eq!(idle(), 0);
        for (far, set_up) in connections {
            drop(far);
            assert!(set_up.await.is_none());
        }
        assert_eq!(idle(), MAX_IDLE);
        for has_begun in [false, true] {
            let before = idle();
            let (far, mut set_up) = connection().await;
            assert_eq!(idle(), before - 1);
            if has_begun {
                let polled = poll_fn(|cx| Poll::Ready(Pin::new(&mut set_up).poll(cx).is_pending())).await;
                assert!(polled, "nobody has said anything");
            }
            drop(set_up);
            assert_eq!(idle(), before - 1, "it was broken off");
            drop(far);
        }
    }
}
