//! What was let on and has not ended yet: how it ends is said once, whatever becomes of it.

use super::{Decider, Question, Told};
use crate::audit::event::{Closed, Ending};
use crate::connect::{ConnectError, Stop, UpstreamError};
use crate::counters::Reached;
use crate::limits::Place;
use crate::parse::target::Target;
use crate::relay::http::Span;
use crate::tunnels::{Listed, Whose};
use policy_format::{HostRef, Protocol};
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::time::Instant;

/// An exchange, or a tunnel that does not stand yet. Dropped without a word, it was broken off, or the proxy stopped.
pub(crate) struct Open<'q> {
    decider: &'q Decider,
    id: u64,
    client: SocketAddr,
    protocol: Protocol,
    target: &'q Target,
    generation: u64,
    /// When it was decided; where nobody looked at the clock then, it is when it began.
    since: Option<Instant>,
    /// What is known of the exchange.
    pub(crate) span: Span,
    said: bool,
}

impl From<UpstreamError> for Ending {
    fn from(error: UpstreamError) -> Self {
        Self::Upstream(error.proxy_error())
    }
}

impl From<Reached> for Ending {
    fn from(reached: Reached) -> Self {
        Self::Limited(reached.name())
    }
}

impl<'q> Open<'q> {
    /// Of a request whose allowance was told just now; `None` where it was told before, and of datagrams.
    #[inline]
    pub(super) fn new(decider: &'q Decider, question: &Question<'q>, generation: u64, since: Option<Instant>) -> Option<Self> {
        let Question { id, client, protocol, target, told, .. } = *question;
        if told != Told::Nothing || protocol == Protocol::Socks5Udp {
            return None;
        }
        Some(Self { decider, id, client, protocol, target, generation, since, span: Span::default(), said: false })
    }

    /// Of a request inside TLS that goes to `target`, and whose allowance was told as that of `question`.
    pub(crate) fn inside(decider: &'q Decider, client: SocketAddr, target: &'q Target, (id, generation): (u64, u64)) -> Self {
        let since = Some(Instant::now());
        Self { decider, id, client, protocol: Protocol::Https, target, generation, since, span: Span::default(), said: false }
    }

    /// Somebody else says how it ends; under this number, of a request that this policy let on.
    pub(crate) fn hand_over(mut self) -> (u64, u64) {
        debug_assert!(!self.said, "it ends once");
        self.said = true;
        (self.id, self.generation)
    }

    /// Nothing came of it so far, and it is tried once more.
    pub(crate) fn again(&mut self) {
        debug_assert!(!self.said, "what has ended is not tried again");
        self.since = self.since.or(self.span.began);
        self.span = Span::default();
    }

    /// It ended as whoever relayed it knows; else by a side that broke off.
    pub(crate) fn broken(&mut self) {
        self.end(self.span.cause.unwrap_or(Ending::Broken));
    }

    /// That is how it ended. What is said after that is not heard: it ends once.
    pub(crate) fn end(&mut self, ending: Ending) {
        if !self.said {
            self.say(ending);
        }
    }

    /// It became a tunnel, which ends by itself. `counted`: among those that are open.
    pub(crate) fn into_live(mut self, decider: &Arc<Decider>, place: Option<Place>, counted: bool) -> Listed {
        debug_assert!(!self.said, "it ends once");
        self.said = true;
        let since = self.since.or(self.span.began).unwrap_or_else(Instant::now);
        let Span { up, down, .. } = self.span;
        let Self { id, client, protocol, generation, .. } = self;
        let live = Listed::new(decider, Whose { id, client, protocol, port: self.target.port, generation, since, place, counted });
        live.add(up, down);
        live
    }

    fn say(&mut self, ending: Ending) {
        self.said = true;
        let ended = self.span.ended.unwrap_or_else(Instant::now);
        let since = self.since.or(self.span.began);
        let closed = Closed {
            id: self.id,
            generation: self.generation,
            client: self.client,
            protocol: self.protocol,
            host: HostRef::from(&self.target.host),
            port: self.target.port,
            up: self.span.up,
            down: self.span.down,
            duration: since.map(|since| ended.saturating_duration_since(since)).unwrap_or_default(),
            ending,
        };
        self.decider.counters().closed(&closed);
        let observer = self.decider.observer();
        if observer.wants_closes() {
            observer.closed(&closed);
        }
    }
}

/// What was to come of a request was stopped.
pub(crate) fn stopped(open: &mut Option<Open<'_>>, stop: Stop) -> ConnectError {
    let (ending, error) = match stop {
        Stop::Denied(denial) => (Ending::Revoked, ConnectError::Denied(denial)),
        Stop::Closed => (Ending::Closed, ConnectError::Closed),
    };
    if let Some(open) = open {
        open.end(ending);
    }
    error
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        if !self.said {
            let ending = self.decider.tunnels().cut_off();
            self.say(ending);
        }
    }
}
