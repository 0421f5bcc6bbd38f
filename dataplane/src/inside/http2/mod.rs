//! HTTP/2 on both sides of a tunnel whose TLS was opened here (RFC 9113).
//!
//! A client's connection is one task, an origin's connection is another, and each stream is a third that moves frames between them: what one side sends is given back to it
//! as room only when the other side has taken it. A stream is a request like any other: it is read, decided on under the policy in force, and sent on, or answered.
//!
//! Settings, pings and windows are each connection's own. Resets pass with their reasons, trailers and interim responses as they are, and GOAWAY as what it means: an origin
//! that takes no more requests makes us say so to the client, and what it did not process is refused, so that the client may ask again. Nothing is pushed. WebSockets
//! (RFC 8441) are offered where the origin offers them.

mod answer;
mod exchange;
mod head;
pub(crate) mod pool;
#[cfg(test)]
mod tests;
mod upstream;
mod way;

pub(crate) use upstream::Upstream;

use crate::connection::Shared;
use crate::counters::{Reached, reached};
use crate::inside::judge::Judge;
use crate::parse::target::{self, Target};
use crate::patience::Patience;
use crate::shutdown::Shutdown;
use crate::signal::{Bell, Ear};
use crate::tunnels::Live;
use bytes::Bytes;
use exchange::Outcome;
use h2::Reason;
use h2::server::{Builder, Connection};
use policy_format::Limits;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::JoinSet;
use tokio::time::timeout;

/// Requests that a client may have under way on a connection.
const STREAMS: u32 = 256;
/// Bytes of one request that a client may send ahead of what the origin takes.
const STREAM_WINDOW: u32 = 128 * 1024;
/// The same for all requests of a connection.
const WINDOW: u32 = 1024 * 1024;
/// Bytes of a stream that wait for the socket.
const SEND_BUFFER: usize = 128 * 1024;
/// Streams that we reset and remember, so that what was on its way is no error.
const RESET_STREAMS: usize = 64;
/// Resets of streams that nobody has looked at yet, after which a peer is told to calm down.
const UNSEEN_RESETS: usize = 32;
/// Malformed streams, after which a peer is told to calm down.
const ERROR_RESETS: usize = 256;
/// Requests that a client gave up, less those that it let finish, after which it is told to calm down: opening and resetting streams costs it nothing.
const CANCELLED: usize = 512;
/// Streams that are accepted before others have their turn.
const ROUNDS: usize = 64;

/// What holds for a client's connection.
pub(crate) struct Terms {
    pub(crate) shared: Arc<Shared>,
    pub(crate) client: SocketAddr,
    /// Where the tunnel goes.
    pub(crate) target: Target,
    pub(crate) judge: Arc<dyn Judge>,
    pub(crate) shutdown: Shutdown,
    /// The tunnel's entry among those that are open.
    pub(crate) tunnel: Option<Arc<Live>>,
}

/// How a client's connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Over {
    /// The client ended it, or we did between requests.
    Ended,
    /// It broke, or what came over it is not HTTP/2.
    Failed,
    /// Nothing came for too long.
    Limited(Reached),
    /// Somebody who runs the proxy wanted its tunnel closed.
    Closed,
    /// The proxy stops.
    Stopped,
}

/// Where the tunnel goes, and how that is written.
#[derive(Debug)]
struct Tunnel {
    target: Target,
    authority: http::uri::Authority,
}

impl Tunnel {
    fn new(target: Target) -> Option<Self> {
        let text = target::Authority { target: &target, default_port: Some(443) }.to_string();
        Some(Self { authority: http::uri::Authority::try_from(text).ok()?, target })
    }
}

/// What the streams of a connection share.
struct Side {
    terms: Terms,
    tunnel: Tunnel,
    upstream: Upstream,
    /// Rings when there may be a new policy.
    news: Bell,
}

impl Side {
    /// Somebody who runs the proxy wants the tunnel closed.
    fn is_closing(&self) -> bool {
        self.terms.tunnel.as_ref().is_some_and(|tunnel| tunnel.is_closing())
    }
}

/// Bytes of a header list, as HTTP/2 counts them: each field has 32 on top.
fn header_list(limits: &Limits) -> u32 {
    u32::try_from(limits.head_bytes.saturating_add(32 * limits.head_fields)).unwrap_or(u32::MAX)
}

/// Serves a client that has agreed on HTTP/2 with requests on `upstream`, until either side is done. Afterwards the upstream may serve another client, if it
/// [is usable](Upstream::is_usable). Dropping the future resets what is under way.
pub(crate) async fn relay<C>(client: C, upstream: Upstream, terms: Terms) -> Over
where
    C: AsyncRead + AsyncWrite + Unpin,
{
    let limits = terms.shared.decider.limits();
    let Some(tunnel) = Tunnel::new(terms.target.clone()) else { return Over::Failed };
    let mut builder = Builder::new();
    builder
        .max_concurrent_streams(STREAMS)
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(WINDOW)
        .max_send_buffer_size(SEND_BUFFER)
        .max_header_list_size(header_list(&limits))
        .max_concurrent_reset_streams(RESET_STREAMS)
        .max_pending_accept_reset_streams(UNSEEN_RESETS)
        .max_local_error_reset_streams(Some(ERROR_RESETS));
    if upstream.tunnels() {
        builder.enable_connect_protocol();
    }
    let connection = match timeout(limits.head_timeout, builder.handshake(client)).await {
        Ok(Ok(connection)) => connection,
        Ok(Err(_)) => return Over::Failed,
        Err(_) => {
            terms.shared.gate.reached(reached!(head_timeout), Some(terms.client), Some(&tunnel.target));
            return Over::Limited(reached!(head_timeout));
        }
    };
    let (ear, upstream_ear) = (terms.shutdown.ear(), upstream.ear());
    let side = Arc::new(Side { terms, tunnel, upstream, news: Bell::default() });
    let mut relay = Relay {
        connection,
        streams: JoinSet::new(),
        ear,
        upstream_ear,
        side,
        patience: Patience::new(limits.keep_alive_timeout),
        state: State::Waiting,
        limits,
        look: true,
        leaving: false,
        limited: None,
        cancelled: 0,
    };
    poll_fn(|cx| relay.poll(cx)).await
}

/// What a connection is doing, as far as its time is limited by that.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// There are streams, each with time limits of its own.
    Busy,
    /// The client is still to take what is left of them.
    Flushing,
    /// For a request.
    Waiting,
}

struct Relay<C> {
    connection: Connection<C, Bytes>,
    streams: JoinSet<Outcome>,
    ear: Ear,
    upstream_ear: Ear,
    side: Arc<Side>,
    patience: Patience,
    state: State,
    limits: Arc<Limits>,
    /// There may be a shutdown, or an end of the upstream, that was not seen yet.
    look: bool,
    /// The client was told to send no more requests.
    leaving: bool,
    /// Because of this.
    limited: Option<Reached>,
    cancelled: usize,
}

impl<C: AsyncRead + AsyncWrite + Unpin> Relay<C> {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Over> {
        self.hear(cx);
        if self.side.is_closing() {
            return Poll::Ready(Over::Closed);
        }
        loop {
            if let Poll::Ready(over) = self.poll_connection(cx) {
                return Poll::Ready(over);
            }
            if !self.poll_streams(cx) {
                break;
            }
        }
        self.poll_patience(cx)
    }

    /// Listens, and acts on what is new.
    fn hear(&mut self, cx: &mut Context<'_>) {
        while self.ear.poll_rung(cx).is_ready() {
            self.side.news.ring();
            self.look = true;
        }
        while self.upstream_ear.poll_rung(cx).is_ready() {
            self.look = true;
        }
        if std::mem::take(&mut self.look) && (self.side.terms.shutdown.has_started() || !self.side.upstream.is_usable()) {
            self.leave();
        }
    }

    /// Tells the client to send no more requests here. Those that are under way are served.
    fn leave(&mut self) {
        if !std::mem::replace(&mut self.leaving, true) {
            self.connection.graceful_shutdown();
            self.patience.set(self.limits.linger_timeout);
        }
    }

    /// Moves frames, and begins to serve streams.
    fn poll_connection(&mut self, cx: &mut Context<'_>) -> Poll<Over> {
        for _ in 0..ROUNDS {
            match ready!(self.connection.poll_accept(cx)) {
                Some(Ok((request, mut respond))) => {
                    if self.side.upstream.is_usable() {
                        self.streams.spawn(exchange::serve(request, respond, Arc::clone(&self.side)));
                    } else {
                        // It may ask again, elsewhere.
                        self.leave();
                        respond.send_reset(Reason::REFUSED_STREAM);
                    }
                }
                // Who was told to go may be gone before all of that is written.
                Some(Err(_)) => return Poll::Ready(if self.leaving { self.ended() } else { Over::Failed }),
                None => return Poll::Ready(self.ended()),
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Takes note of streams that are over; whether the connection has to be looked at again.
    fn poll_streams(&mut self, cx: &mut Context<'_>) -> bool {
        while let Poll::Ready(Some(ended)) = self.streams.poll_join_next(cx) {
            // One that panicked was reset.
            match ended.unwrap_or(Outcome::Done) {
                Outcome::Done => self.cancelled = self.cancelled.saturating_sub(1),
                Outcome::Cancelled => self.cancelled += 1,
            }
        }
        if self.cancelled <= CANCELLED {
            return false;
        }
        self.cancelled = 0;
        self.leaving = true;
        self.patience.set(self.limits.linger_timeout);
        self.connection.abrupt_shutdown(Reason::ENHANCE_YOUR_CALM);
        true
    }

    fn poll_patience(&mut self, cx: &mut Context<'_>) -> Poll<Over> {
        let state = match () {
            () if !self.streams.is_empty() => State::Busy,
            () if self.connection.has_streams() => State::Flushing,
            () => State::Waiting,
        };
        if std::mem::replace(&mut self.state, state) != state {
            self.patience.set(match state {
                State::Flushing => self.limits.idle_timeout,
                State::Waiting if !self.leaving => self.limits.keep_alive_timeout,
                State::Busy | State::Waiting => self.limits.linger_timeout,
            });
        }
        if state == State::Busy {
            return Poll::Pending;
        }
        ready!(self.patience.poll_over(cx));
        if state == State::Waiting && !self.leaving {
            let terms = &self.side.terms;
            terms.shared.gate.reached(reached!(keep_alive_timeout), Some(terms.client), Some(&self.side.tunnel.target));
            self.limited = Some(reached!(keep_alive_timeout));
            self.leave();
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        // It was told to go, or takes nothing more.
        Poll::Ready(self.ended())
    }

    fn ended(&self) -> Over {
        match self.limited {
            _ if self.side.terms.shutdown.has_started() => Over::Stopped,
            Some(reached) => Over::Limited(reached),
            None => Over::Ended,
        }
    }
}
