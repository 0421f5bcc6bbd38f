//! A `Permit` to an upstream stream. Nothing else opens one.

mod cache;
pub(crate) mod chain;
pub(crate) mod dial;
pub(crate) mod dns;
mod hosts;
pub(crate) mod pool;
pub(crate) mod resolve;
pub(crate) mod secure;
pub(crate) mod udp;
#[cfg(unix)]
pub(crate) mod unix;
pub(crate) mod upstream;

use crate::counters::{self, Timed};
use crate::decide::deny::Denial;
use crate::decide::{KeptDecision, Permit, Route};
use crate::signal::Ear;
use crate::stream::{Buffered, Stream};
use crate::tls::failure::TlsError;
use crate::tls::roots::Trust;
use crate::tunnels::Listed;
use chain::{Came, Form, ProxyError};
use policy_format::{Host, Limits};
use resolve::{Failure, Resolve};
use std::borrow::Cow;
use std::future::poll_fn;
use std::io;
use std::net::IpAddr;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use upstream::Traffic;

/// Opens upstream streams.
pub(crate) struct Connector {
    resolver: Arc<dyn Resolve>,
    /// Whom to trust of origins and proxies.
    trust: Arc<Trust>,
}

/// A stream that may be used for what it was permitted for.
pub(crate) struct Connected<'q> {
    pub(crate) stream: Buffered,
    pub(crate) route: Route<'q>,
    pub(crate) form: Form,
}

/// Why there is no upstream stream.
pub(crate) enum ConnectError {
    /// The policy does not allow the addresses.
    Denied(Box<Denial>),
    /// Somebody who runs the proxy wants the tunnel closed that it was for.
    Closed,
    /// The world does not give it.
    Upstream(UpstreamError),
}

/// What went wrong upstream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum UpstreamError {
    NameNotResolved,
    NameServerFailed,
    ResolveTimeout,
    Refused,
    Unreachable,
    NetworkUnreachable,
    ConnectTimeout,
    ResponseTimeout,
    Closed,
    BadResponse,
    /// The process, or the system, has no descriptor left for a connection: that is the proxy's own fault.
    NoDescriptor,
    /// There is no unix socket at the path.
    SocketMissing,
    /// What is at the path is something else.
    NotASocket,
    /// At the proxy on the way.
    Proxy(ProxyError),
    /// There is no TLS with it.
    Tls(TlsError),
    /// Nor was there in time.
    TlsTimeout,
}

impl UpstreamError {
    /// That of a read before the answer. In TLS 1.3 an origin says only then that it wants a certificate of the client.
    pub(crate) fn by_read(error: &io::Error) -> Self {
        let of_tls = error.get_ref().is_some_and(|inner| inner.is::<tokio_rustls::rustls::Error>());
        if of_tls { Self::Tls(TlsError::from(error)) } else { Self::Closed }
    }

    pub(crate) fn status(self) -> u16 {
        match self {
            Self::ResolveTimeout | Self::ConnectTimeout | Self::ResponseTimeout | Self::TlsTimeout => 504,
            Self::NameNotResolved
            | Self::NameServerFailed
            | Self::Refused
            | Self::Unreachable
            | Self::NetworkUnreachable
            | Self::Closed
            | Self::BadResponse
            | Self::SocketMissing
            | Self::NotASocket
            | Self::Tls(_) => 502,
            Self::NoDescriptor => 503,
            Self::Proxy(error) => error.status(),
        }
    }

    /// The value of `x-proxy-error`.
    pub(crate) fn proxy_error(self) -> &'static str {
        match self {
            Self::NameNotResolved => "upstream-name-not-resolved",
            Self::NameServerFailed => "upstream-name-server-failed",
            Self::ResolveTimeout => "upstream-resolve-timeout",
            Self::Refused => "upstream-refused",
            Self::Unreachable | Self::NetworkUnreachable => "upstream-unreachable",
            Self::ConnectTimeout => "upstream-connect-timeout",
            Self::ResponseTimeout => "upstream-response-timeout",
            Self::Closed => "upstream-closed",
            Self::BadResponse => "upstream-bad-response",
            Self::NoDescriptor => "no-descriptor",
            Self::SocketMissing => "upstream-socket-missing",
            Self::NotASocket => "upstream-not-a-socket",
            Self::Proxy(error) => error.proxy_error(),
            Self::Tls(error) => error.proxy_error(),
            Self::TlsTimeout => "upstream-tls-timeout",
        }
    }

    /// A line for people; it follows the target's name.
    pub(crate) fn message(self) -> Cow<'static, str> {
        Cow::Borrowed(match self {
            Self::NameNotResolved => "is allowed, but its name could not be resolved",
            Self::NameServerFailed => "is allowed, but no name server could say where it is",
            Self::ResolveTimeout => "is allowed, but its name was not resolved in time",
            Self::Refused => "is allowed, but refused the connection",
            Self::Unreachable | Self::NetworkUnreachable => "is allowed, but cannot be reached",
            Self::ConnectTimeout => "is allowed, but did not accept the connection in time",
            Self::ResponseTimeout => "is allowed, but did not answer in time",
            Self::Closed => "is allowed, but closed the connection before it answered",
            Self::BadResponse => "is allowed, but answered with something that is not HTTP/1.1",
            Self::NoDescriptor => "is allowed, but the proxy has no descriptor left to connect to it",
            Self::SocketMissing => "is allowed, but is not there",
            Self::NotASocket => "is allowed, but what is there is not a socket",
            Self::Proxy(error) => return error.message(),
            Self::Tls(error) => error.message(),
            Self::TlsTimeout => "is allowed, but did not finish the TLS handshake in time",
        })
    }
}

impl From<Box<Denial>> for ConnectError {
    fn from(denial: Box<Denial>) -> Self {
        Self::Denied(denial)
    }
}

impl Connector {
    pub(crate) fn new(resolver: Arc<dyn Resolve>, trust: Arc<Trust>) -> Self {
        Self { resolver, trust }
    }

    /// Whom to trust of origins.
    pub(crate) fn trust(&self) -> &Trust {
        &self.trust
    }

    /// Resolves what the permit names, has every address decided on, and dials one of those very addresses; or goes through the proxy that there is for it.
    ///
    /// What a new policy does not allow any more ends within moments, and nothing is said to whom it was going to.
    pub(crate) async fn connect<'q>(
        &self,
        permit: Permit<'q>,
        traffic: Traffic,
        came: Came<'_>,
        watch: &mut Watch<'_>,
    ) -> Result<Connected<'q>, ConnectError> {
        let limits = permit.limits();
        if let Some(proxy) = permit.proxy(traffic) {
            let chain::Chained { stream, early, route, form } = chain::open(self, permit, &proxy, traffic, came, &limits, watch).await?;
            return Ok(Connected { stream: Buffered::beginning_with(stream, early), route, form });
        }
        let route = self.route(permit, &limits).await?;
        let timing = counters::time(Timed::Connect);
        let dialled = watch.while_allowed(dial::dial(&route, limits.connect_timeout), || route.revoked(None, false)).await;
        let (stream, peer) = match dialled {
            Ok(Ok(dialled)) => dialled,
            Ok(Err(error)) => return Err(ConnectError::Upstream(route.failed(error))),
            Err(stop) => return Err(route.stopped(stop)),
        };
        drop(timing);
        // Without this, small writes wait for acknowledgements; a socket that refuses works all the same.
        let _ = stream.set_nodelay(true);
        Ok(Connected { stream: Buffered::with_peer(Stream::Tcp(stream), peer), route, form: Form::Origin })
    }

    /// Resolves what the permit names, and has every address decided on.
    pub(crate) async fn route<'q>(&self, permit: Permit<'q>, limits: &Limits) -> Result<Route<'q>, ConnectError> {
        match self.addresses(&permit.target().host, limits).await {
            Ok(addresses) => Ok(permit.addresses(&addresses)?),
            Err(error) => Err(ConnectError::Upstream(permit.failed(error))),
        }
    }

    /// The same where a proxy stands in between.
    pub(crate) async fn route_through<'q>(
        &self,
        permit: Permit<'q>,
        proxy: &Arc<upstream::Proxy>,
        limits: &Limits,
    ) -> Result<Route<'q>, ConnectError> {
        chain::route(self, permit, proxy, limits).await
    }

    /// The addresses of a host that was permitted, or of a proxy that is configured: all of them, in the order in which they are tried.
    async fn addresses(&self, host: &Host, limits: &Limits) -> Result<Vec<IpAddr>, UpstreamError> {
        let addresses = match host {
            Host::Ip(ip) => vec![*ip],
            host if host.is_localhost() => resolve::LOOPBACK.to_vec(),
            Host::Name(name) | Host::NumericLookalike(name) => {
                let _timing = counters::time(Timed::Resolve);
                let looked_up = tokio::time::timeout(limits.resolve_timeout, self.resolver.resolve(name.as_str())).await;
                let mut found = looked_up.map_err(|_| UpstreamError::ResolveTimeout)?.map_err(|error| resolve_error(&error))?;
                // Whoever has found them: none goes by undecided.
                if found.len() > resolve::ADDRESSES {
                    return Err(UpstreamError::NameServerFailed);
                }
                dial::take_turns(&mut found);
                found
            }
        };
        if addresses.is_empty() { Err(UpstreamError::NameNotResolved) } else { Ok(addresses) }
    }
}

/// What is listened for while an upstream is on its way.
pub(crate) struct Watch<'w> {
    /// Rings for new policies, and for tunnels that are to be closed.
    pub(crate) ear: &'w mut Ear,
    /// The tunnel that it is for.
    pub(crate) tunnel: Option<&'w Listed>,
}

/// Why what leads to an upstream is to end.
pub(crate) enum Stop {
    /// A new policy does not allow it.
    Denied(Box<Denial>),
    /// Somebody who runs the proxy wants its tunnel closed.
    Closed,
}

impl Watch<'_> {
    /// Waits for what leads to an upstream, as long as it is not to end, and asks once more when it is there.
    pub(crate) async fn while_allowed<T>(
        &mut self,
        what: impl Future<Output = T>,
        mut revoked: impl FnMut() -> Option<Box<Denial>>,
    ) -> Result<T, Stop> {
        let mut what = pin!(what);
        let tunnel = self.tunnel;
        let mut stop = || if tunnel.is_some_and(|tunnel| tunnel.is_closing()) { Some(Stop::Closed) } else { revoked().map(Stop::Denied) };
        poll_fn(|cx| {
            if let Poll::Ready(done) = what.as_mut().poll(cx) {
                return Poll::Ready(stop().map_or(Ok(done), Err));
            }
            while self.ear.poll_rung(cx).is_ready() {
                if let Some(stop) = stop() {
                    return Poll::Ready(Err(stop));
                }
            }
            Poll::Pending
        })
        .await
    }
}

/// Where an idle stream leads.
#[derive(Debug, Clone)]
pub(crate) struct Leads {
    proxy: Option<Arc<upstream::Proxy>>,
    asked: Vec<IpAddr>,
    form: Form,
    kept_decision: Option<KeptDecision>,
}

impl Leads {
    /// What is decided of every request on it.
    pub(crate) fn kept_decision(&self) -> Option<KeptDecision> {
        self.kept_decision
    }

    /// Keeps what was decided of the last request on it.
    pub(crate) fn keep(&mut self, decision: Option<KeptDecision>) {
        self.kept_decision = decision;
    }

    /// The proxy that it leads to, and the addresses that were asked of it.
    pub(crate) fn through(&self) -> (Option<&Arc<upstream::Proxy>>, &[IpAddr]) {
        (self.proxy.as_ref(), &self.asked)
    }

    /// Whether it can carry such traffic.
    pub(crate) fn carries(&self, traffic: Traffic) -> bool {
        self.form == Form::Origin || traffic == Traffic::Http
    }

    /// How requests are written on it.
    pub(crate) fn form(&self) -> &Form {
        &self.form
    }

    #[cfg(test)]
    pub(crate) fn direct() -> Self {
        Self { proxy: None, asked: Vec::new(), form: Form::Origin, kept_decision: None }
    }

    pub(crate) fn new(route: &Route<'_>, form: Form) -> Self {
        Self { proxy: route.proxy().cloned(), asked: route.asked().to_vec(), form, kept_decision: route.kept_decision() }
    }
}

fn resolve_error(error: &io::Error) -> UpstreamError {
    match Failure::of(error) {
        Some(Failure::NoServer) => UpstreamError::NameServerFailed,
        _ if error.kind() == io::ErrorKind::TimedOut => UpstreamError::ResolveTimeout,
        _ => UpstreamError::NameNotResolved,
    }
}
