//! Two-way copy: half-close, idle deadline, end on revocation.

use crate::stream::Buffered;
use bytes::BytesMut;
use std::future::Future;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::time::Instant;

/// Bytes moved at a time.
const PIECE: usize = 64 * 1024;

/// Moves bytes both ways until both sides have ended, one fails, nothing moves for `idle`, or `revoked` ends. Dropping the future drops both streams' copy.
pub(crate) async fn tunnel(client: &mut Buffered, upstream: &mut Buffered, idle: Duration, revoked: impl Future<Output = ()>) {
    let activity = Activity::new();
    let early = (std::mem::take(&mut client.buffer), std::mem::take(&mut upstream.buffer));
    let ((client_read, client_write), (upstream_read, upstream_write)) = (client.stream.split(), upstream.stream.split());
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
async fn pump(from: ReadHalf<'_>, mut to: WriteHalf<'_>, early: BytesMut, activity: &Activity) -> io::Result<()> {
    if !early.is_empty() {
        to.write_all(&early).await?;
        activity.touch();
    }
    drop(early);
    loop {
        // No buffer is held while there is nothing to move: an idle tunnel costs its sockets.
        from.readable().await?;
        let mut piece = Vec::with_capacity(PIECE);
        loop {
            piece.clear();
            match from.try_read_buf(&mut piece) {
                Ok(0) => {
                    activity.touch();
                    return to.shutdown().await;
                }
                Ok(_) => {
                    activity.touch();
                    to.write_all(&piece).await?;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
    }
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
