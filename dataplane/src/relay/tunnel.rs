//! Two-way copy: half-close, limits, end on revocation.

use crate::counters::{Counter, Reached, reached};
use crate::limits::{Bounds, Upload};
use crate::stream::Buffered;
use bytes::BytesMut;
use policy_format::Limits;
use std::future::Future;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::time::Instant;

/// Bytes moved at a time.
const PIECE: usize = 64 * 1024;

/// Why a tunnel ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// Its sides did.
    Done,
    /// A new policy does not allow it.
    Revoked,
    /// It came to a limit.
    Limited(Reached),
}

/// Why one direction ended.
enum Ended {
    Io,
    Limited(Reached),
}

impl From<io::Error> for Ended {
    fn from(_: io::Error) -> Self {
        Self::Io
    }
}

/// Moves bytes both ways until both sides have ended, one fails, a limit is reached, or `revoked` ends. Dropping the future drops both streams' copy.
pub(crate) async fn tunnel(
    client: &mut Buffered,
    upstream: &mut Buffered,
    bounds: &Bounds<'_>,
    mut upload: Upload,
    revoked: impl Future<Output = ()>,
) -> End {
    let activity = Activity::new();
    let early = (std::mem::take(&mut client.buffer), std::mem::take(&mut upstream.buffer));
    let ((client_read, client_write), (upstream_read, upstream_write)) = (client.stream.split(), upstream.stream.split());
    let both = async {
        tokio::try_join!(
            pump(client_read, upstream_write, early.0, &activity, |bytes| upload.charge(bytes, bounds.gate.counters())),
            pump(upstream_read, client_write, early.1, &activity, |bytes| {
                bounds.gate.counters().add(Counter::BytesDown, bytes);
                Ok(())
            }),
        )
    };
    tokio::select! {
        // Revocation first: not a byte moves under a policy that was replaced while the upstream was dialled.
        biased;
        () = revoked => End::Revoked,
        // An error on one side ends the other: there is nobody left to tell.
        ended = both => match ended {
            Err(Ended::Limited(reached)) => End::Limited(reached),
            _ => End::Done,
        },
        reached = activity.outlived(bounds) => End::Limited(reached),
    }
}

/// Copies one way; passes the end on as the end of that direction only. `count` is asked for every piece before it is sent on.
async fn pump(
    from: ReadHalf<'_>,
    mut to: WriteHalf<'_>,
    early: BytesMut,
    activity: &Activity,
    mut count: impl FnMut(usize) -> Result<(), Reached>,
) -> Result<(), Ended> {
    if !early.is_empty() {
        count(early.len()).map_err(Ended::Limited)?;
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
                    return Ok(to.shutdown().await?);
                }
                Ok(bytes) => {
                    activity.touch();
                    count(bytes).map_err(Ended::Limited)?;
                    to.write_all(&piece).await?;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error.into()),
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

    /// Ends when nothing was touched for too long, or when the tunnel's life is over.
    async fn outlived(&self, limits: &Limits) -> Reached {
        let end = self.start + limits.tunnel_lifetime;
        loop {
            let idle = self.start + Duration::from_millis(self.last.load(Ordering::Relaxed)) + limits.idle_timeout;
            let now = Instant::now();
            if end <= now {
                return reached!(tunnel_lifetime);
            }
            if idle <= now {
                return reached!(idle_timeout);
            }
            tokio::time::sleep_until(idle.min(end)).await;
        }
    }
}
