//! Two-way relay: half-close, deadlines, the first look, end on revocation.

use super::flow::{Flow, FlowError};
use super::look::{Looked, Looking};
use crate::audit::event::Ending;
use crate::counters::{Reached, reached};
use crate::decide::guard::{Cause, Guard};
use crate::limits::Meter;
use crate::parse::target::Target;
use crate::patience::Patience;
use crate::stream::{Buffered, Stream};
use crate::tunnels::Listed;
use policy_format::Limits;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::AsyncWrite;
use tokio::time::Instant;

/// How long a tunnel that was revoked waits, silent, for its end: to close one takes the system twenty times as long as to decide on it, so that a policy is put
/// in force in all of thousands before the first is closed.
const LAST: Duration = Duration::from_millis(20);

/// Two streams and what moves between them. It holds no buffer while nothing moves. Dropping it closes both.
pub(crate) struct Tunnel {
    client: Stream,
    upstream: Stream,
    up: Flow,
    down: Flow,
    /// What they are at, apart from them: with each of them, it would take eight bytes.
    up_state: State,
    down_state: State,
    /// Nothing moves any more, because of this.
    ending: Option<Over>,
    /// Until it is known whom the client wants to speak to in there, and that it does not change its mind.
    look: Option<Box<Looking>>,
    guard: Guard,
    patience: Patience,
    idle: Duration,
    /// However busy it is.
    ends: Instant,
}

/// Why a tunnel is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Over {
    /// Both sides have ended.
    Ended,
    /// A side failed.
    Failed,
    /// It came to a limit.
    Limited(Reached),
    /// The policy in force does not allow it any more.
    Revoked,
    /// Somebody who runs the proxy wants it closed.
    Closed,
    /// What the client speaks in there is not allowed, or did not show itself within a limit.
    Looked(Option<Reached>),
    /// The client makes requests in the clear: they are read from here on ([`Tunnel::into_sides`]).
    Http,
}

impl Over {
    /// How it is told of; `None` where it goes on in another way.
    pub(crate) fn ending(self) -> Option<Ending> {
        Some(match self {
            Self::Ended => Ending::Done,
            Self::Failed => Ending::Broken,
            Self::Limited(reached) => reached.into(),
            Self::Revoked => Ending::Revoked,
            Self::Closed => Ending::Closed,
            Self::Looked(None) => Ending::Looked,
            Self::Looked(Some(reached)) => reached.into(),
            Self::Http => return None,
        })
    }
}

/// What a flow of a tunnel is at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Open,
    /// What was read is written; the end is to be passed on.
    Closing,
    Closed,
}

impl Tunnel {
    /// A tunnel that `guard` watches over. What was read too early goes first.
    pub(crate) fn new(client: Buffered, upstream: Buffered, guard: Guard, meters: [Meter; 2], limits: &Limits) -> Self {
        let now = Instant::now();
        let mut look = Looking::wanted(&guard, limits);
        let [mut up, mut down] = meters.map(Flow::new);
        let early = match &mut look {
            Some(look) => {
                look.push(&client.buffer);
                Ok(())
            }
            None => up.begin_with(&client.buffer),
        };
        let ending = early.and(down.begin_with(&upstream.buffer)).err().map(over);
        Self {
            client: client.stream,
            upstream: upstream.stream,
            up,
            down,
            up_state: State::Open,
            down_state: State::Open,
            ending,
            look,
            guard,
            patience: Patience::new(limits.idle_timeout.min(limits.tunnel_lifetime)),
            idle: limits.idle_timeout,
            ends: now + limits.tunnel_lifetime,
        }
    }

    /// Client and upstream, what the client has sent that went no further, and the tunnel's entry.
    pub(crate) fn into_sides(self) -> (Buffered, Buffered, Listed) {
        let bytes = self.look.map(|look| look.into_bytes()).unwrap_or_default();
        (Buffered::beginning_with(self.client, bytes.as_slice().into()), Buffered::new(self.upstream), self.guard.into_live())
    }

    /// Whose it is.
    pub(crate) fn live(&self) -> &Listed {
        self.guard.live()
    }

    /// No rule allowed it, and somebody who was asked did.
    pub(crate) fn is_granted(&self) -> bool {
        self.guard.is_granted()
    }

    /// Where it leads.
    pub(crate) fn target(&self) -> Option<Target> {
        self.guard.target()
    }

    /// What the client sends before all of it goes on.
    fn poll_look(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Over>> {
        while let Some(look) = &mut self.look {
            // What was let on is gone before more is read: it is not heaped up here.
            ready!(self.up.poll_write(cx, &mut self.upstream)).map_err(over)?;
            let bytes = match ready!(look.poll(cx, &mut self.client, &mut self.guard)) {
                Looked::Part(bytes) => bytes,
                Looked::Pass(bytes) => {
                    self.look = None;
                    bytes
                }
                Looked::Http => return Poll::Ready(Err(Over::Http)),
                Looked::Refuse(reached) => return Poll::Ready(Err(Over::Looked(reached))),
                Looked::Failed => return Poll::Ready(Err(Over::Failed)),
            };
            self.up.begin_with(&bytes).map_err(over)?;
        }
        Poll::Ready(Ok(()))
    }

    fn poll_ways(&mut self, cx: &mut Context<'_>) -> Poll<Over> {
        let up = match self.poll_look(cx) {
            Poll::Ready(Ok(())) => self.up_state.poll(&mut self.up, cx, &mut self.client, &mut self.upstream, self.down_state),
            Poll::Ready(Err(over)) => return Poll::Ready(over),
            Poll::Pending => Poll::Pending,
        };
        let down = self.down_state.poll(&mut self.down, cx, &mut self.upstream, &mut self.client, self.up_state);
        match (up, down) {
            // An error on one side ends the other: there is nobody left to tell.
            (Poll::Ready(Err(error)), _) | (_, Poll::Ready(Err(error))) => Poll::Ready(over(error)),
            (Poll::Ready(Ok(())), Poll::Ready(Ok(()))) => Poll::Ready(Over::Ended),
            _ => Poll::Pending,
        }
    }
}

fn over(error: FlowError) -> Over {
    match error {
        FlowError::Read | FlowError::Write => Over::Failed,
        FlowError::Limited(reached) => Over::Limited(reached),
    }
}

impl State {
    /// Moves what there is by `flow`, and passes on the end. `back` is the state of the other direction.
    fn poll(
        &mut self,
        flow: &mut Flow,
        cx: &mut Context<'_>,
        from: &mut Stream,
        to: &mut Stream,
        back: Self,
    ) -> Poll<Result<(), FlowError>> {
        if *self == Self::Open {
            // As much as there is.
            let mut left = u64::MAX;
            ready!(flow.poll(cx, from, to, &mut left))?;
            *self = Self::Closing;
        }
        if *self == Self::Closing {
            // The end of one direction is passed on as that, and no more. The end of both is that of the connection, which says so itself: nothing that was sent on it is left to be read.
            if back == Self::Closed && matches!(to, Stream::Tcp(_)) {
                *self = Self::Closed;
                return Poll::Ready(Ok(()));
            }
            ready!(Pin::new(to).poll_shutdown(cx)).map_err(|_| FlowError::Write)?;
            *self = Self::Closed;
        }
        Poll::Ready(Ok(()))
    }
}

impl Future for Tunnel {
    type Output = Over;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Over> {
        let this = self.get_mut();
        // Revocation first: not a byte moves under a policy that was replaced while the upstream was dialled.
        if this.ending != Some(Over::Revoked)
            && let Poll::Ready(cause) = this.guard.poll_cause(cx)
        {
            match cause {
                Cause::Closed => return Poll::Ready(Over::Closed),
                Cause::Revoked => this.ending = Some(Over::Revoked),
            }
            this.patience.set(LAST);
        }
        match this.ending {
            None => {}
            Some(Over::Revoked) => return this.patience.poll_over(cx).map(|()| Over::Revoked),
            Some(over) => return Poll::Ready(over),
        }
        if let Poll::Ready(over) = this.poll_ways(cx) {
            return Poll::Ready(over);
        }
        // Both are asked: each forgets.
        let (moved_up, moved_down) = (this.up.take_moved(), this.down.take_moved());
        if moved_up || moved_down {
            this.patience.set_until((Instant::now() + this.idle).min(this.ends));
        }
        ready!(this.patience.poll_over(cx));
        Poll::Ready(Over::Limited(if Instant::now() < this.ends { reached!(idle_timeout) } else { reached!(tunnel_lifetime) }))
    }
}
