//! Descriptors that threads keep for later: upstream connections that wait for a request, and pipes. Where there is none for what is wanted now, they are given up.
//!
//! A thread gives up its own, and where it has none of those, asks the others. Descriptors are the process's, and so all that serve in it are asked.

use crate::connect::pool;
use crate::inside::http2;
use crate::relay;
use std::io;
use std::pin::pin;
use std::time::Duration;
use tokio::sync::Notify;
use tokio::task::yield_now;
use tokio::time::timeout;

/// How long the others have.
const PATIENCE: Duration = Duration::from_millis(20);
/// Turns that the tasks of HTTP/2 connections have, to close what nobody has any more.
const TURNS: usize = 4;

/// Rings for those who keep something.
static WANTED: Notify = Notify::const_new();
/// Rings when one of them has given it up.
static GIVEN: Notify = Notify::const_new();

/// Whether the process, or the system, has no descriptor left.
pub(crate) fn is_exhausted(error: &io::Error) -> bool {
    #[cfg(unix)]
    {
        use rustix::io::Errno;
        matches!(Errno::from_io_error(error), Some(Errno::MFILE | Errno::NFILE))
    }
    #[cfg(not(unix))]
    {
        let _ = error;
        false
    }
}

/// Attempts it, and once more where there was no descriptor for it and others were given up.
pub(crate) async fn again<T, F>(attempt: impl Fn() -> F) -> io::Result<T>
where
    F: Future<Output = io::Result<T>>,
{
    let mut tried = false;
    loop {
        let ended = attempt().await;
        match &ended {
            Err(error) if !tried && make_room(error).await => tried = true,
            _ => return ended,
        }
    }
}

/// Whether something failed for want of a descriptor, and some were given up since.
pub(crate) async fn make_room(error: &io::Error) -> bool {
    // On the heap, so that nobody has room for it who does not need it.
    is_exhausted(error) && Box::pin(async { give_up().await || others_give_up(PATIENCE).await }).await
}

/// Closes what has waited for too long, or was not needed for a while, now and then, and all of it when descriptors are wanted. A task of each thread that serves.
pub(crate) async fn keep() {
    loop {
        http2::pool::sweep();
        relay::sweep_pipes();
        let next = pool::sweep();
        if timeout(next, WANTED.notified()).await.is_ok() && give_up().await {
            GIVEN.notify_waiters();
        }
    }
}

/// Gives up what this thread keeps; whether there was anything.
async fn give_up() -> bool {
    let (closed, closing) = (pool::give_up() + relay::give_up_pipes(), http2::pool::give_up());
    if closed == 0 && closing > 0 {
        for _ in 0..TURNS {
            yield_now().await;
        }
    }
    closed + closing > 0
}

/// Has the other threads do so; whether one had anything, and said so within that time.
async fn others_give_up(patience: Duration) -> bool {
    let mut given = pin!(GIVEN.notified());
    // Heard from here on, however fast they are.
    given.as_mut().enable();
    WANTED.notify_waiters();
    timeout(patience, given).await.is_ok()
}

#[cfg(test)]
#[cfg(unix)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

    use super::*;
    use crate::connect::Leads;
    use crate::connect::pool::Idle;
    use crate::parse::target::Target;
    use crate::stream::{Buffered, Stream};
    use policy_format::Limits;
    use rustix::io::Errno;
    use std::cell::Cell;
    use tokio::net::{TcpListener, TcpStream};

    /// The bells are the process's: one test at a time.
    static ALONE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

    /// Puts a connection into the pool of this thread; gives its other end.
    async fn one_waits() -> TcpStream {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stream = Stream::Tcp(TcpStream::connect(listener.local_addr().unwrap()).await.unwrap());
        pool::put(&target(), Idle::new(Buffered::new(stream), Leads::direct(), None), &Limits::default());
        listener.accept().await.unwrap().0
    }

    fn target() -> Target {
        Target::parse("a.test:1", None).unwrap()
    }

    async fn is_closed(stream: &TcpStream) -> bool {
        loop {
            stream.readable().await.unwrap();
            match stream.try_read(&mut [0]) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                ended => return matches!(ended, Ok(0)),
            }
        }
    }

    #[tokio::test]
    async fn what_waits_is_given_up_for_want_of_a_descriptor_and_for_nothing_else() {
        let _alone = ALONE.lock().await;
        let far = one_waits().await;
        // So often was it tried, and what came of it.
        let attempts = |error: fn() -> io::Error, failing: usize| async move {
            let count = Cell::new(0);
            let attempt = || {
                count.set(count.get() + 1);
                let ended = if count.get() > failing { Ok(()) } else { Err(error()) };
                async { ended }
            };
            let ended = again(attempt).await.map_err(|error| error.raw_os_error());
            (count.get(), ended)
        };
        assert_eq!(attempts(|| Errno::MFILE.into(), 0).await, (1, Ok(())));
        assert_eq!(attempts(|| Errno::CONNREFUSED.into(), 9).await, (1, Err(Some(Errno::CONNREFUSED.raw_os_error()))));
        let kept = pool::take(&target(), |_| true).unwrap();
        pool::put(&target(), kept, &Limits::default());
        assert_eq!(attempts(|| Errno::MFILE.into(), 1).await, (2, Ok(())));
        assert!(is_closed(&far).await && pool::take(&target(), |_| true).is_none());
        // Once more, and no oftener.
        let far = one_waits().await;
        assert_eq!(attempts(|| Errno::NFILE.into(), 9).await, (2, Err(Some(Errno::NFILE.raw_os_error()))));
        assert!(is_closed(&far).await);
        // Nobody has anything.
        assert_eq!(attempts(|| Errno::MFILE.into(), 9).await, (1, Err(Some(Errno::MFILE.raw_os_error()))));
    }

    #[tokio::test]
    async fn who_keeps_nothing_asks_the_others() {
        let _alone = ALONE.lock().await;
        let (ready, is_ready) = tokio::sync::oneshot::channel();
        let (end, ended) = tokio::sync::oneshot::channel::<()>();
        let other = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let far = one_waits().await;
                let keeping = tokio::spawn(keep());
                // It listens by the time that others are told of it.
                yield_now().await;
                ready.send(()).unwrap();
                let is_closed = is_closed(&far).await;
                let _ = ended.await;
                keeping.abort();
                is_closed
            })
        });
        is_ready.await.unwrap();
        let exhausted = Errno::MFILE.into();
        assert!(!give_up().await, "it keeps nothing itself");
        // As long as it takes on a busy machine.
        assert!(others_give_up(Duration::from_secs(60)).await);
        assert!(!make_room(&exhausted).await, "nothing is left");
        drop(end);
        assert!(other.join().unwrap());
    }
}
