//! A client's connection from its first byte to its last: it is set up, may be a tunnel then, and requests in the clear may be read out of that.

use super::slot::SetUp;
use super::{Connection, Shared};
use crate::connect::Leads;
use crate::connect::pool::Idle;
use crate::counters::Held;
use crate::limits::Entered;
use crate::relay::tunnel::{Over, Tunnel};
use crate::shutdown::Shutdown;
use std::future::Future;
use std::mem;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use tokio::sync::OwnedSemaphorePermit;

/// The connection, and what it holds of what there is for all.
///
/// It is written as a future by hand, since an async block keeps what it was given beside what it made of it: there may be thousands of tunnels that do nothing.
pub(super) struct Served {
    stage: Stage,
    shared: Arc<Shared>,
    _open: Held,
    _one: Entered<u128>,
    _permit: OwnedSemaphorePermit,
}

/// What it is at.
enum Stage {
    SetUp(SetUp),
    Tunnel(Box<Opened>),
    /// Requests in the clear are read out of the tunnel.
    Read(Pin<Box<dyn Future<Output = Option<Box<Opened>>> + Send>>),
    Over,
}

impl Served {
    pub(super) fn new(set_up: SetUp, shared: Arc<Shared>, open: Held, one: Entered<u128>, permit: OwnedSemaphorePermit) -> Self {
        Self { stage: Stage::SetUp(set_up), shared, _open: open, _one: one, _permit: permit }
    }
}

impl Future for Served {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.get_mut();
        loop {
            let next = match &mut this.stage {
                Stage::SetUp(set_up) => ready!(Pin::new(set_up).poll(cx)),
                Stage::Read(read) => ready!(read.as_mut().poll(cx)),
                Stage::Tunnel(opened) => {
                    let over = ready!(Pin::new(&mut opened.tunnel).poll(cx));
                    opened.is_over(over, &this.shared);
                    match mem::replace(&mut this.stage, Stage::Over) {
                        Stage::Tunnel(opened) if over == Over::Http => {
                            let shared = Arc::clone(&this.shared);
                            this.stage = Stage::Read(Box::pin(async move { opened.read(&shared).await }));
                            continue;
                        }
                        _ => None,
                    }
                }
                Stage::Over => return Poll::Ready(()),
            };
            this.stage = next.map_or(Stage::Over, Stage::Tunnel);
        }
    }
}

/// A tunnel. It is boxed once, and not moved into what waits for it: there may be thousands, and most do nothing.
pub(super) struct Opened {
    pub(super) tunnel: Tunnel,
    /// If requests in the clear may come.
    pub(super) clear: Option<Box<Clear>>,
}

/// What is needed to read requests in the clear out of a tunnel.
pub(crate) struct Clear {
    /// Where the upstream leads.
    pub(super) leads: Leads,
    pub(super) shutdown: Shutdown,
}

impl Opened {
    /// Reads requests in the clear, as if they had been made outside of the tunnel: each goes where it says, if the policy lets it. The way that stands is used for those
    /// to the tunnel's own host and port.
    async fn read(self, shared: &Arc<Shared>) -> Option<Box<Self>> {
        let Self { tunnel, clear } = self;
        let Clear { leads, shutdown } = *clear?;
        let (target, client, granted) = (tunnel.target(), tunnel.live().client(), tunnel.is_granted());
        let (from, stream, live) = tunnel.into_sides();
        let mut connection = Connection::new(from, client, shared, shutdown);
        connection.tunnel = Some(live);
        let target = target.map(Arc::new);
        connection.granted = target.clone().filter(|_| granted);
        connection.idle = target.map(|target| (target, Idle::new(stream, leads, None)));
        let next = connection.http().await;
        connection.go_on(next).await
    }

    /// What is to be said of its end.
    fn is_over(&self, over: Over, shared: &Shared) {
        let live = self.tunnel.live();
        match over {
            Over::Limited(reached) | Over::Looked(Some(reached)) => {
                shared.gate.reached(reached, Some(live.client()), self.tunnel.target().as_ref())
            }
            Over::Revoked | Over::Closed | Over::Ended | Over::Failed | Over::Looked(None) | Over::Http => {}
        }
        if let Some(ending) = over.ending() {
            live.end(ending);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_idle_tunnel_is_small() {
        // docs/performance.md says what all of it takes.
        assert!(size_of::<Opened>() <= 464, "{}", size_of::<Opened>());
    }
}
