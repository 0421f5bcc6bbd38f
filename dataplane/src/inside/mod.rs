//! Inside TLS that was opened here: a tunnel whose requests are read, each of them decided as if it had been made in the open.
//!
//! The tunnel stands first. Then the client's first bytes are looked at: what is no TLS, or names another server than the tunnel's, is closed. TLS with the origin comes next,
//! with what the client offers, and then the client is answered with a leaf for the origin's name and the protocol that the origin chose. From there on, `connection.rs` reads
//! requests as it does outside, and an origin that cannot be reached, or not be trusted, is explained to each of them.

mod ahead;
pub(crate) mod http2;
pub(crate) mod interception;
pub(crate) mod judge;
pub(crate) mod secrets;
pub(crate) mod tunnel;

use crate::audit::event::Ending;
use crate::connect::pool::{self, Idle, Secured};
use crate::connect::secure::{chosen, secure};
use crate::connect::upstream::Traffic;
use crate::connect::{ConnectError, Connected, Leads, UpstreamError, Watch};
use crate::connection::{Connection, Next, Shared, Until, Wait};
use crate::counters::{self, Counter, Timed, reached};
use crate::decide::deny::Denial;
use crate::decide::{Permit, Question, Told};
use crate::parse::http::RequestHead;
use crate::parse::look::Look;
use crate::parse::target::Target;
use crate::parse::tls::client_hello;
use crate::policy::Snapshot;
use crate::shutdown::Shutdown;
use crate::stream::{Buffered, Rewound, Stream};
use crate::tls::Alpn;
use crate::tls::failure::TlsError;
use crate::tunnels::Listed;
use ahead::{Ahead, Known};
use policy_format::{Limits, Protocol};
use std::sync::Arc;
use tokio::io::AsyncWriteExt;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_rustls::LazyConfigAcceptor;
use tokio_rustls::rustls::ClientConfig;
use tokio_rustls::rustls::server::Acceptor;
use tokio_rustls::server::TlsStream;
use tunnel::OfTunnel;

/// A tunnel that has to be read, and stands.
pub(crate) struct Opening {
    pub(crate) protocol: Protocol,
    pub(crate) target: Target,
    /// The way to the origin; it is secured already where it waited for requests.
    pub(crate) idle: Box<Idle>,
    pub(crate) live: Listed,
    /// No rule allowed it, and somebody who was asked did.
    pub(crate) granted: bool,
    /// The policy that wants it read.
    pub(crate) snapshot: Arc<Snapshot>,
}

/// A tunnel that was opened.
pub(crate) struct Inside {
    /// Where all of its requests go.
    pub(crate) target: Arc<Target>,
    /// What is offered to the origin.
    offer: Alpn,
}

/// What the first bytes in a tunnel are.
enum First {
    /// A hello for its host.
    Hello,
    /// Something else.
    Other,
    /// They did not come in time.
    Late,
    /// The client left.
    Gone,
}

impl Shared {
    /// Opens the stream that was permitted, and secures it if that is asked for.
    pub(crate) async fn connect<'q>(
        &self,
        permit: Permit<'q>,
        traffic: Traffic,
        secured: Option<&Arc<ClientConfig>>,
        head: &RequestHead,
        watch: &mut Watch<'_>,
    ) -> Result<Connected<'q>, ConnectError> {
        let limits = permit.limits();
        // What is said inside of TLS is not for those on the way.
        let came = self.came(Some(head).filter(|head| !head.secure));
        let Connected { stream, route, form } = self.connector.connect(permit, traffic, came, watch).await?;
        let stream = match secured {
            None => stream,
            Some(config) => {
                let securing = self.secure(stream, route.target(), config, &limits);
                let stream = match watch.while_allowed(securing, || route.revoked(None, false)).await {
                    Err(stop) => return Err(route.stopped(stop)),
                    // The protocol of the client's side stands already.
                    Ok(Ok(stream)) if chosen(&stream.stream) == Alpn::Http2 => Err(UpstreamError::Tls(TlsError::Protocol)),
                    Ok(secured) => secured,
                };
                match stream {
                    Ok(stream) => stream,
                    Err(error) => return Err(ConnectError::Upstream(route.failed(error))),
                }
            }
        };
        Ok(Connected { stream, route, form })
    }

    /// How a connection to `target` is secured that offers `offer`, under the policy in force. It is the same each time, so that sessions are resumed.
    async fn config(&self, target: &Target, offer: Alpn) -> Result<Arc<ClientConfig>, UpstreamError> {
        let roots = self.connector.trust().roots().await.map_err(|_| UpstreamError::Tls(TlsError::NoRoots))?;
        let policy = self.decider.policy().current();
        Ok(roots.client_config(offer, policy.certificate(&target.host)))
    }

    async fn secure(
        &self,
        stream: Buffered,
        target: &Target,
        config: &Arc<ClientConfig>,
        limits: &Limits,
    ) -> Result<Buffered, UpstreamError> {
        let timing = counters::time(Timed::TlsOrigin);
        let secured = secure(stream, target, config, limits.tls_timeout).await;
        drop(timing);
        self.counters.count(if secured.is_ok() { Counter::OriginHandshakes } else { Counter::OriginHandshakesFailed });
        secured
    }
}

impl<'s> Connection<'s> {
    /// Opens the TLS of a tunnel. `None`: there was nothing to be opened, and the client is gone.
    pub(crate) async fn open_inside(mut self, opening: Opening) -> Option<Self> {
        let Opening { protocol, target, idle, live, granted, snapshot } = opening;
        let target = Arc::new(target);
        let (shared, address, limits) = (self.shared, self.address, Arc::clone(&self.limits));
        let gate = &shared.gate;
        let closed = || {
            shared.counters.count(Counter::InterceptedClosed);
            shared.decider.unreadable(address, protocol, &target);
        };
        match self.first(&target).await {
            First::Hello => {}
            First::Gone => {
                if idle.tls.is_some() {
                    pool::put(&target, idle, &limits);
                }
                live.end(Ending::Done);
                return None;
            }
            First::Other => {
                closed();
                live.end(Ending::Looked);
                return None;
            }
            First::Late => {
                gate.reached(reached!(tls_timeout), Some(address), Some(&target));
                closed();
                live.end(reached!(tls_timeout).into());
                return None;
            }
        }
        let peer = self.client.peer();
        let Buffered { stream, buffer, .. } = self.client;
        let tcp = stream.into_tcp()?;
        let failed = || shared.counters.count(Counter::ClientHandshakesFailed);
        let hello = LazyConfigAcceptor::new(Acceptor::default(), Rewound::new(buffer, tcp));
        let start = match timeout(limits.tls_timeout, hello).await {
            Ok(Ok(start)) => start,
            late => {
                failed();
                live.end(if late.is_err() { reached!(tls_timeout).into() } else { Ending::Broken });
                return None;
            }
        };
        let offer = start.client_hello().alpn().map_or(Alpn::None, Alpn::common);
        // It is allowed already, and that was told.
        let question = Question { told: Told::Allowed, granted, ..Question::numbered(live.id(), address, protocol, &target) };
        let origin = origin(shared, question, idle, offer, &limits).await;
        // Whoever cannot be told by the origin's protocol is told by the one that says it most simply.
        let spoken = match &origin {
            Ok(Way::Http1 { idle, .. }) => chosen(&idle.stream.stream),
            Ok(Way::Http2(_)) => Alpn::Http2,
            Err(_) if offer == Alpn::Both => Alpn::Http1,
            Err(_) => offer,
        };
        let config = match snapshot.interception() {
            Some(interception) => interception.server(&target.host, spoken).await,
            None => None,
        };
        let Some(config) = config else {
            failed();
            return None;
        };
        let timing = counters::time(Timed::TlsClient);
        let accepted = match timeout(limits.tls_timeout, start.into_stream(config)).await {
            Ok(accepted) => accepted,
            Err(_) => {
                gate.reached(reached!(tls_timeout), Some(address), Some(&target));
                failed();
                live.end(reached!(tls_timeout).into());
                return None;
            }
        };
        drop(timing);
        let stream = match accepted {
            Ok(stream) => stream,
            Err(_) => {
                failed();
                match origin {
                    Ok(Way::Http1 { idle, .. }) => pool::put(&target, idle, &limits),
                    Ok(Way::Http2(idle)) => http2::pool::put(&target, idle, &limits),
                    Err(_) => {}
                }
                return None;
            }
        };
        shared.counters.count(Counter::ClientHandshakes);
        shared.counters.count(Counter::Intercepted);
        let (idle, borrowed) = match origin {
            Ok(Way::Http1 { idle, waited }) => (Some((Arc::clone(&target), idle)), waited),
            Ok(Way::Http2(idle)) => {
                let over =
                    Box::pin(relay(shared, Decided { target: &target, live: &live, granted }, self.shutdown, stream, idle, &limits)).await;
                live.end(match over {
                    http2::Over::Ended => Ending::Done,
                    http2::Over::Limited(reached) => reached.into(),
                    http2::Over::Failed => Ending::Broken,
                    http2::Over::Closed => Ending::Closed,
                    http2::Over::Stopped => Ending::Stopped,
                });
                return None;
            }
            // Nobody is there who would speak it.
            Err(no) if spoken == Alpn::Http2 => {
                live.end(match no {
                    NoWay::Revoked => Ending::Revoked,
                    NoWay::Upstream(error) => error.into(),
                });
                return None;
            }
            // The first request tries once more, and tells.
            Err(_) => (None, false),
        };
        let client = Buffered::wrapped(Stream::Opened(Box::new(stream)), peer);
        let granted = granted.then(|| Arc::clone(&target));
        Some(Self { client, idle, borrowed, inside: Some(Box::new(Inside { target, offer })), tunnel: Some(live), granted, ..self })
    }

    /// Reads the first bytes in a tunnel to `target`, within the limits of the first look.
    async fn first(&mut self, target: &Target) -> First {
        let mut due = Instant::now() + self.limits.tls_timeout;
        let mut seen = 0;
        loop {
            if self.client.buffer.len() > seen {
                if seen == 0 {
                    due = due.min(Instant::now() + self.limits.look_timeout);
                }
                seen = self.client.buffer.len();
                match client_hello(&self.client.buffer) {
                    Look::More if seen < self.limits.look_bytes => {}
                    // The outer name of an encrypted hello is the one that counts: its inner one is not ours to read, and we have no key for it.
                    Look::Hello { server_name, .. } if server_name.as_ref().is_none_or(|name| *name == target.host) => return First::Hello,
                    _ => return First::Other,
                }
            }
            match timeout_at(due, self.client.more()).await {
                Ok(Ok(1..)) => {}
                Ok(_) if seen == 0 => return First::Gone,
                Ok(_) => return First::Other,
                Err(_) => return First::Late,
            }
        }
    }

    /// How connections to the origin are secured for this client's requests.
    pub(crate) async fn secured(&self) -> Result<Secured, UpstreamError> {
        match &self.inside {
            None => Ok(None),
            Some(inside) => self.shared.config(&inside.target, inside.offer).await.map(Some),
        }
    }

    /// Reads a body of at most `most` bytes to its end, and leaves it where it is; and says whether the client was told to send it. `None` for one that is longer, or not one.
    pub(crate) async fn body_ahead(&mut self, head: &RequestHead, most: usize) -> Result<(Option<Vec<u8>>, bool), Next> {
        let Some(mut ahead) = Ahead::new(head.body, most, &self.limits) else { return Ok((None, false)) };
        // Where others hold all there is, nothing is read, and no hook that looks at the body matches.
        let Some(_held) = self.shared.gate.ahead(most) else { return Ok((None, false)) };
        if head.expects && !self.say(b"HTTP/1.1 100 Continue\r\n\r\n").await {
            return Err(Next::Close);
        }
        loop {
            match ahead.look(&self.client.buffer) {
                Known::Whole(body) => return Ok((Some(body), head.expects)),
                Known::Never => return Ok((None, head.expects)),
                // The framing of chunks counts: tiny ones are mostly that.
                Known::More if self.client.buffer.len() > most.saturating_mul(2).saturating_add(self.limits.head_bytes) => {
                    return Ok((None, head.expects));
                }
                Known::More => {}
            }
            self.patience.set(self.limits.idle_timeout);
            match self.wait(Until::Patience).await {
                Wait::Some => {}
                Wait::End => return Err(Next::Close),
                Wait::TooLong => {
                    self.reached(reached!(idle_timeout));
                    return Err(Next::Close);
                }
            }
        }
    }

    /// Tells the client that nothing of what it got is missing.
    pub(crate) async fn end_of_tls(&mut self) {
        // Who does not take it is given up.
        let _ = timeout(self.limits.linger_timeout, self.client.stream.shutdown()).await;
    }
}

/// A tunnel that is read, as it was decided.
struct Decided<'d> {
    target: &'d Target,
    live: &'d Listed,
    /// No rule allows it, and somebody who was asked did.
    granted: bool,
}

/// HTTP/2 on both sides, to the end; then the connection to the origin waits for the next client.
async fn relay(
    shared: &Arc<Shared>,
    Decided { target, live, granted }: Decided<'_>,
    shutdown: Shutdown,
    stream: TlsStream<Rewound>,
    idle: http2::pool::Idle,
    limits: &Limits,
) -> http2::Over {
    let Some(peer) = idle.peer else { return http2::Over::Failed };
    let client = live.client();
    let judge = Arc::new(OfTunnel { shared: Arc::clone(shared), client, leads: idle.leads.clone(), peer, granted });
    let tunnel = Some(Arc::clone(live.live()));
    let terms = http2::Terms { shared: Arc::clone(shared), client, target: target.clone(), judge, shutdown, tunnel };
    let over = http2::relay(stream, idle.upstream.clone(), terms).await;
    http2::pool::put(target, idle, limits);
    over
}

/// Why there is no secured way to the origin.
enum NoWay {
    /// The tunnel is not allowed any more.
    Revoked,
    Upstream(UpstreamError),
}

impl From<UpstreamError> for NoWay {
    fn from(error: UpstreamError) -> Self {
        Self::Upstream(error)
    }
}

/// A connection to the origin that is secured.
enum Way {
    Http1 {
        idle: Box<Idle>,
        /// For requests of others, before.
        waited: bool,
    },
    Http2(http2::pool::Idle),
}

/// Secures the way to the origin, with what the client offers.
async fn origin(shared: &Shared, question: Question<'_>, idle: Box<Idle>, offer: Alpn, limits: &Limits) -> Result<Way, NoWay> {
    let target = question.target;
    let config = shared.config(target, offer).await?;
    let may_be_h2 = matches!(offer, Alpn::Http2 | Alpn::Both);
    if let Some(waiting) = if may_be_h2 { http2::pool::take(target, &config) } else { None } {
        if idle.tls.is_some() {
            pool::put(target, idle, limits);
        }
        return Ok(Way::Http2(waiting));
    }
    let Idle { stream, leads, .. } = match &idle.tls {
        Some(there) if Arc::ptr_eq(there, &config) => return Ok(Way::Http1 { idle, waited: true }),
        // One that offered something else.
        Some(_) => {
            pool::put(target, idle, limits);
            another(shared, question).await?
        }
        None => *idle,
    };
    // It was allowed before the client said anything.
    if !stream.peer().is_some_and(|peer| shared.decider.still_allows(&question, &leads, peer.ip())) {
        return Err(NoWay::Revoked);
    }
    let stream = shared.secure(stream, target, &config, limits).await?;
    if chosen(&stream.stream) != Alpn::Http2 {
        return Ok(Way::Http1 { idle: Idle::new(stream, leads, Some(config)), waited: false });
    }
    let peer = stream.peer().map(|peer| peer.ip());
    let upstream = http2::Upstream::open(stream.stream, limits).await?;
    Ok(Way::Http2(http2::pool::Idle { upstream, leads, peer, tls: config }))
}

/// Another connection for a tunnel.
async fn another(shared: &Shared, question: Question<'_>) -> Result<Idle, NoWay> {
    let refused = |_: Box<Denial>| NoWay::Revoked;
    let permit = shared.decider.name(question).map_err(|no| refused(shared.decider.refuse(no)))?;
    let mut watch = Watch { ear: &mut shared.decider.policy().bell().ear(), tunnel: None };
    match shared.connector.connect(permit, Traffic::Tunnel, shared.came(None), &mut watch).await {
        Ok(Connected { stream, route, form }) => {
            shared.counters.count(Counter::UpstreamOpened);
            Ok(Idle { stream, leads: Leads::new(&route, form), tls: None })
        }
        Err(ConnectError::Denied(denial)) => Err(refused(denial)),
        // It is watched for no tunnel.
        Err(ConnectError::Closed) => Err(NoWay::Upstream(UpstreamError::Closed)),
        Err(ConnectError::Upstream(error)) => Err(NoWay::Upstream(error)),
    }
}
