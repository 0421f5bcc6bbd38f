//! The rooms that clients' connections are set up in: each is a future that serves one after the other.
//!
//! The future of a connection takes some kilobytes up to the point where it ends, or is a tunnel that takes much less. One for each client would be memory that has to be found,
//! is cold and is copied to; so those that are done are kept, a few for each worker, and the one that was used last is used next.

use super::{Connection, Next, Opened, Shared};
use crate::listen::Service;
use crate::patience::Ticker;
use crate::shutdown::Shutdown;
use crate::stream::{Buffered, Stream};
use std::cell::RefCell;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

/// Bytes that a connection may take until it ends or is a tunnel.
const MOST: usize = 4096;
/// Rooms that a worker keeps empty.
const KEPT: usize = 32;

thread_local! {
    static EMPTY: RefCell<Vec<Room>> = const { RefCell::new(Vec::new()) };
}

/// Whom a room is for.
pub(super) struct Guest {
    pub(super) stream: Stream,
    pub(super) client: SocketAddr,
    pub(super) service: Service,
    pub(super) shared: Arc<Shared>,
    pub(super) shutdown: Shutdown,
}

struct Room {
    door: Arc<Door>,
    future: Pin<Box<dyn Future<Output = ()> + Send>>,
}

/// What goes into a room and comes out of it.
#[derive(Default)]
struct Door {
    guest: Mutex<Option<Guest>>,
    /// What became of the guest: a tunnel, or nothing more.
    done: Mutex<Option<Box<Opened>>>,
    is_done: AtomicBool,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Serves whoever comes in, one at a time. It never ends.
async fn serve(door: Arc<Door>) {
    loop {
        let guest = poll_fn(|_| lock(&door.guest).take().map_or(Poll::Pending, Poll::Ready)).await;
        let opened = {
            let Guest { stream, client, service, shared, shutdown } = guest;
            let mut connection = Connection::new(Buffered::with_peer(stream, client), client, &shared, shutdown);
            match connection.run(service).await {
                Next::Close => None,
                // As in `go_on`, without a future of its own.
                Next::Tunnel(upstream, guard, upload, clear) => Some(connection.open(upstream, *guard, upload, clear)),
                next => Box::pin(connection.go_on(next)).await,
            }
        };
        // Nothing of the guest is left.
        *lock(&door.done) = opened;
        door.is_done.store(true, Ordering::Relaxed);
    }
}

impl Room {
    fn new() -> Self {
        let door = Arc::new(Door::default());
        let future = Box::pin(serve(Arc::clone(&door)));
        debug_assert!(Ticker::is_here() && size_of_val(&*future) <= MOST, "{} bytes", size_of_val(&*future));
        Self { door, future }
    }
}

/// A connection up to its end, or to a tunnel. Dropped before, it is broken off, and its room with it.
pub(super) struct Stay(Option<Room>);

impl Stay {
    pub(super) fn new(guest: Guest) -> Self {
        let room = EMPTY.with_borrow_mut(Vec::pop).unwrap_or_else(Room::new);
        *lock(&room.door.guest) = Some(guest);
        Self(Some(room))
    }
}

impl Future for Stay {
    type Output = Option<Box<Opened>>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Some(mut room) = self.0.take() else { return Poll::Ready(None) };
        // Should it panic, nobody comes into this room again.
        let unended = room.future.as_mut().poll(cx).is_pending();
        if unended && !room.door.is_done.load(Ordering::Relaxed) {
            self.0 = Some(room);
            return Poll::Pending;
        }
        let opened = lock(&room.door.done).take();
        room.door.is_done.store(false, Ordering::Relaxed);
        EMPTY.with_borrow_mut(|empty| {
            if unended && empty.len() < KEPT {
                empty.push(room);
            }
        });
        Poll::Ready(opened)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

    use super::*;
    use crate::connection::rig;
    use crate::shutdown;
    use tokio::net::{TcpListener, TcpStream};

    fn empty() -> usize {
        EMPTY.with_borrow(Vec::len)
    }

    /// Guests come and go, each into a room that is there, if one is; not all rooms are kept, and none that a guest was thrown out of.
    #[tokio::test]
    async fn rooms_are_used_again_and_few_are_kept() {
        tokio::spawn(Ticker::new().run());
        let (shared, policy) = rig::shared(&[]);
        let (_trigger, shutdown) = shutdown::new(policy.bell().clone());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let guest = async || {
            let far = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
            let (near, client) = listener.accept().await.unwrap();
            let (shared, shutdown) = (Arc::clone(&shared), shutdown.clone());
            (far, Stay::new(Guest { stream: Stream::Tcp(near), client, service: Service::Http, shared, shutdown }))
        };
        let mut guests = Vec::new();
        for _ in 0..KEPT + 8 {
            guests.push(guest().await);
        }
        assert_eq!(empty(), 0);
        for (far, stay) in guests {
            drop(far);
            assert!(stay.await.is_none());
        }
        assert_eq!(empty(), KEPT);
        let (far, stay) = guest().await;
        assert_eq!(empty(), KEPT - 1);
        drop(stay);
        assert_eq!(empty(), KEPT - 1, "it was broken off");
        drop(far);
    }
}
