//! Two-way copy: half-close, idle deadline, end on revocation.

use crate::stream::{Buffered, Reader, Stream, WriteHalf};
use bytes::BytesMut;
use std::future::Future;
use std::io;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf};
use tokio::time::Instant;

/// Bytes moved at a time.
const PIECE: usize = 64 * 1024;

/// Moves bytes both ways until both sides have ended, one fails, nothing moves for `idle`, or `revoked` ends. Dropping the future drops both streams' copy.
pub(crate) async fn tunnel(client: &mut Buffered, upstream: &mut Buffered, idle: Duration, revoked: impl Future<Output = ()>) {
    let activity = Activity::new();
    let early = (std::mem::take(&mut client.buffer), std::mem::take(&mut upstream.buffer));
    let ((Reader { half: client_read, .. }, client_write), (Reader { half: upstream_read, .. }, upstream_write)) =
        (client.split(), upstream.split());
    let both = async {
        tokio::try_join!(pump(client_read, upstream_write, early.0, &activity), pump(upstream_read, client_write, early.1, &activity),)
    };
    tokio::select! {
        // Revocation first: not a byte moves under a policy that was replaced while the upstream was dialled.
        biased;
        () = revoked => {}
        // An error on one side ends the other: there is nobody left to tell.
        _ = both => {}
        () = activity.silent_for(idle) => {}
    }
}

/// Copies one way; passes the end on as the end of that direction only.
async fn pump(mut from: ReadHalf<&mut Stream>, mut to: WriteHalf<'_>, early: BytesMut, activity: &Activity) -> io::Result<()> {
    if !early.is_empty() {
        to.write_all(&early).await?;
        activity.touch();
    }
    drop(early);
    loop {
        let piece = next(&mut from).await?;
        activity.touch();
        if piece.is_empty() {
            return to.shutdown().await;
        }
        to.write_all(&piece).await?;
        // What writes to a proxy through TLS keeps some back.
        to.flush().await?;
    }
}

/// The next bytes; none at the end. No buffer is held while there is nothing to move: an idle tunnel costs its sockets.
async fn next(from: &mut ReadHalf<&mut Stream>) -> io::Result<Vec<u8>> {
    std::future::poll_fn(|cx| {
        let mut piece = Vec::with_capacity(PIECE);
        ready!(pin!(from.read_buf(&mut piece)).poll(cx))?;
        Poll::Ready(Ok(piece))
    })
    .await
}

/// When bytes moved last, in milliseconds since the start.
struct Activity {
    start: Instant,
    last: AtomicU64,
}

impl Activity {
    fn new() -> Self {
        Self { start: Instant::now(), last: AtomicU64::new(0) }
    }

    fn touch(&self) {
        self.last.store(u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// Ends when nothing was touched for `idle`.
    async fn silent_for(&self, idle: Duration) {
        loop {
            let due = self.start + Duration::from_millis(self.last.load(Ordering::Relaxed)) + idle;
            if due <= Instant::now() {
                return;
            }
            tokio::time::sleep_until(due).await;
        }
    }
}
