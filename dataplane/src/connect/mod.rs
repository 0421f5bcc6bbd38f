//! A `Permit` to an upstream stream. Nothing else opens one.

pub(crate) mod dial;
pub(crate) mod resolve;
pub(crate) mod udp;

use crate::decide::deny::Denial;
use crate::decide::{Permit, Route};
use crate::stream::Buffered;
use policy_format::{Host, Limits};
use resolve::Resolve;
use std::io;
use std::sync::Arc;

/// Opens upstream streams.
pub(crate) struct Connector {
    resolver: Arc<dyn Resolve>,
}

/// Why there is no upstream stream.
pub(crate) enum ConnectError {
    /// The policy does not allow the addresses.
    Denied(Box<Denial>),
    /// The world does not give it.
    Upstream(UpstreamError),
}

/// What went wrong upstream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum UpstreamError {
    NameNotResolved,
    ResolveTimeout,
    Refused,
    Unreachable,
    NetworkUnreachable,
    ConnectTimeout,
    ResponseTimeout,
    Closed,
    BadResponse,
}

impl UpstreamError {
    pub(crate) fn status(self) -> u16 {
        match self {
            Self::ResolveTimeout | Self::ConnectTimeout | Self::ResponseTimeout => 504,
            Self::NameNotResolved | Self::Refused | Self::Unreachable | Self::NetworkUnreachable | Self::Closed | Self::BadResponse => 502,
        }
    }

    /// The value of `x-proxy-error`.
    pub(crate) fn proxy_error(self) -> &'static str {
        match self {
            Self::NameNotResolved => "upstream-name-not-resolved",
            Self::ResolveTimeout => "upstream-resolve-timeout",
            Self::Refused => "upstream-refused",
            Self::Unreachable | Self::NetworkUnreachable => "upstream-unreachable",
            Self::ConnectTimeout => "upstream-connect-timeout",
            Self::ResponseTimeout => "upstream-response-timeout",
            Self::Closed => "upstream-closed",
            Self::BadResponse => "upstream-bad-response",
        }
    }

    /// A line for people; it follows the target's name.
    pub(crate) fn message(self) -> &'static str {
        match self {
            Self::NameNotResolved => "is allowed, but its name could not be resolved",
            Self::ResolveTimeout => "is allowed, but its name was not resolved in time",
            Self::Refused => "is allowed, but refused the connection",
            Self::Unreachable | Self::NetworkUnreachable => "is allowed, but cannot be reached",
            Self::ConnectTimeout => "is allowed, but did not accept the connection in time",
            Self::ResponseTimeout => "is allowed, but did not answer in time",
            Self::Closed => "is allowed, but closed the connection before it answered",
            Self::BadResponse => "is allowed, but answered with something that is not HTTP/1.1",
        }
    }
}

impl From<Box<Denial>> for ConnectError {
    fn from(denial: Box<Denial>) -> Self {
        Self::Denied(denial)
    }
}

impl Connector {
    pub(crate) fn new(resolver: Arc<dyn Resolve>) -> Self {
        Self { resolver }
    }

    /// Resolves what the permit names, has every address decided on, and dials one of those very addresses.
    pub(crate) async fn connect(&self, permit: Permit<'_>) -> Result<(Buffered, Route), ConnectError> {
        let limits = permit.limits();
        let route = self.route(permit, &limits).await?;
        let stream = dial::dial(&route, limits.connect_timeout).await.map_err(ConnectError::Upstream)?;
        // Without this, small writes wait for acknowledgements; a socket that refuses works all the same.
        let _ = stream.set_nodelay(true);
        Ok((Buffered::new(stream), route))
    }

    /// A connection that is open already, if its peer may be used under this permit; else a new one.
    pub(crate) async fn reuse(&self, permit: Permit<'_>, idle: Buffered) -> Result<(Buffered, Route), ConnectError> {
        match idle.stream.peer_addr() {
            Ok(peer) => Ok((idle, permit.addresses(&[peer.ip()])?)),
            Err(_) => self.connect(permit).await,
        }
    }

    /// Resolves what the permit names, and has every address decided on.
    pub(crate) async fn route(&self, permit: Permit<'_>, limits: &Limits) -> Result<Route, ConnectError> {
        let addresses = match &permit.target().host {
            Host::Ip(ip) => vec![*ip],
            host if host.is_localhost() => resolve::LOOPBACK.to_vec(),
            Host::Name(name) | Host::NumericLookalike(name) => {
                let looked_up = tokio::time::timeout(limits.resolve_timeout, self.resolver.resolve(name.as_str())).await;
                let mut found = looked_up
                    .map_err(|_| ConnectError::Upstream(UpstreamError::ResolveTimeout))?
                    .map_err(|error| ConnectError::Upstream(resolve_error(&error)))?;
                found.truncate(limits.addresses);
                found
            }
        };
        if addresses.is_empty() {
            return Err(ConnectError::Upstream(UpstreamError::NameNotResolved));
        }
        Ok(permit.addresses(&addresses)?)
    }
}

fn resolve_error(error: &io::Error) -> UpstreamError {
    if error.kind() == io::ErrorKind::TimedOut { UpstreamError::ResolveTimeout } else { UpstreamError::NameNotResolved }
}
