//! Through another proxy: dials it, and asks it for the destination. By HTTP CONNECT (RFC 9110, section 9.3.6), or by SOCKS5 (RFC 1928, RFC 1929); to an `https://` proxy inside
//! TLS. Plain requests to an HTTP proxy are not tunnelled: they are put to it in absolute form. A SOCKS5 proxy can be asked to take datagrams; they are sent to it in `udp`.
//!
//! The policy has decided before: the [`Route`] says which proxy, at which addresses, and what may be asked of it.

use super::dial::{self, Told};
use super::upstream::{Credentials, Proxy, Scheme, Traffic};
use super::{ConnectError, Connector, UpstreamError, Watch};
use crate::counters::{self, Timed};
use crate::decide::{Permit, Route};
use crate::limits::fits;
use crate::parse::http::{self, RequestHead};
use crate::parse::socks5::VERSION;
use crate::parse::target::Target;
use crate::stream::Stream;
use crate::tls::Alpn;
use crate::tls::roots::Trust;
use bytes::BytesMut;
use policy_format::{Host, Limits};
use std::borrow::Cow;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::{DnsName, ServerName};

/// The way that a request has come, which an HTTP proxy that is asked for a tunnel for it is told in `Via` (RFC 9110, section 7.6.3): proxies whose upstreams are each other would
/// ask each other for ever.
#[derive(Clone, Copy)]
pub(crate) struct Came<'a> {
    /// What an HTTP client sent in the clear: it has the proxies before this one. Of others nothing is known.
    pub(crate) head: Option<&'a RequestHead>,
    /// Our own name.
    pub(crate) own: &'a str,
}

/// How requests are written to a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Form {
    /// As to an origin: the stream leads to the destination, directly or through a tunnel.
    Origin,
    /// In absolute form, with this proxy's `Proxy-Authorization`: the stream leads to the proxy.
    Absolute(Arc<Proxy>),
}

/// A stream that leads to the destination, or, for plain requests, to a proxy.
pub(crate) struct Chained<'q> {
    pub(crate) stream: Stream,
    /// What the destination said before it was asked.
    pub(crate) early: BytesMut,
    pub(crate) route: Route<'q>,
    pub(crate) form: Form,
}

/// What went wrong at a proxy, or with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ProxyError {
    NotResolved,
    Refused,
    Unreachable,
    /// It was not reached, or did not answer, in time.
    Timeout,
    /// No TLS with it: no certificate, or not one of its.
    Tls,
    Closed,
    /// What it answers is not its protocol.
    BadAnswer,
    /// It wants other credentials.
    Authentication,
    /// It answered CONNECT with this status.
    Status(u16),
    /// The request comes through it, or one behind it, for the second time.
    Loop,
    /// Its own rules do not allow it.
    NotAllowed,
    /// It could not, and does not say why; or it does not know what it was asked.
    Failed,
}

impl ProxyError {
    pub(crate) fn status(self) -> u16 {
        match self {
            Self::Timeout => 504,
            // So that whoever asked, a proxy perhaps, is told the same.
            Self::Loop => 508,
            _ => 502,
        }
    }

    /// The value of `x-proxy-error`.
    pub(crate) fn proxy_error(self) -> &'static str {
        match self {
            Self::NotResolved => "upstream-proxy-not-resolved",
            Self::Refused => "upstream-proxy-refused",
            Self::Unreachable => "upstream-proxy-unreachable",
            Self::Timeout => "upstream-proxy-timeout",
            Self::Tls => "upstream-proxy-tls",
            Self::Closed => "upstream-proxy-closed",
            Self::BadAnswer => "upstream-proxy-bad-answer",
            // To CONNECT there is nobody else who could ask for credentials; some proxies say it with 401.
            Self::Authentication | Self::Status(401 | 407) => "upstream-proxy-authentication",
            Self::Status(503) => "upstream-proxy-unavailable",
            Self::Loop => "upstream-proxy-loop",
            Self::Status(_) => "upstream-proxy-status",
            Self::NotAllowed => "upstream-proxy-not-allowed",
            Self::Failed => "upstream-proxy-failed",
        }
    }

    /// A line for people; it follows the target's name.
    pub(crate) fn message(self) -> Cow<'static, str> {
        Cow::Borrowed(match self {
            Self::NotResolved => "is allowed, but the name of the upstream proxy could not be resolved",
            Self::Refused => "is allowed, but the upstream proxy refused the connection",
            Self::Unreachable => "is allowed, but the upstream proxy cannot be reached",
            Self::Timeout => "is allowed, but the upstream proxy did not answer in time",
            Self::Tls => {
                "is allowed, but there is no TLS with the upstream proxy: its certificate is not trusted here, or it does not speak TLS"
            }
            Self::Closed => "is allowed, but the upstream proxy closed the connection before it answered",
            Self::BadAnswer => "is allowed, but the upstream proxy does not speak the protocol of its URL",
            Self::Authentication => {
                "is allowed, but the upstream proxy does not accept the user and password that are configured for it, or there are none"
            }
            Self::Status(status @ (401 | 407)) => {
                return Cow::Owned(format!(
                    "is allowed, but the upstream proxy answered with status {status}: it does not accept the user and password that are configured for it, or there are none"
                ));
            }
            Self::Status(status) => return Cow::Owned(format!("is allowed, but the upstream proxy answered with status {status}")),
            Self::Loop => {
                "is allowed, but the upstream proxy says that the request comes back to where it was: upstream proxies are each other's"
            }
            Self::NotAllowed => "is allowed, but the upstream proxy does not allow it",
            Self::Failed => "is allowed, but the upstream proxy could not connect to it",
        })
    }
}

impl From<ProxyError> for UpstreamError {
    fn from(error: ProxyError) -> Self {
        Self::Proxy(error)
    }
}

impl From<io::Error> for ProxyError {
    fn from(_: io::Error) -> Self {
        Self::Closed
    }
}

/// TLS to proxies.
async fn tls(trust: &Trust) -> Result<TlsConnector, ProxyError> {
    let roots = trust.roots().await.map_err(|_| ProxyError::Tls)?;
    Ok(roots.client_config(Alpn::Http1, None).into())
}

/// Opens a stream to what `permit` is for, through `proxy`, within the time for connecting.
///
/// With `socks5`, the name is looked up here, and every address is decided on: the proxy is asked for a checked address. With the others the proxy looks the name up: here, only the
/// name, or the literal address, has been decided on, and no name server is asked.
pub(crate) async fn open<'q>(
    connector: &Connector,
    permit: Permit<'q>,
    proxy: &Arc<Proxy>,
    traffic: Traffic,
    came: Came<'_>,
    limits: &Limits,
    watch: &mut Watch<'_>,
) -> Result<Chained<'q>, ConnectError> {
    let route = route(connector, permit, proxy, limits).await?;
    let _timing = counters::time(Timed::Connect);
    let deadline = Instant::now() + limits.connect_timeout;
    let ask = Ask { trust: &connector.trust, route: &route, proxy, came, limits, deadline };
    let opening = async {
        match proxy.scheme() {
            // It ends then by itself, and knows what was told before.
            Scheme::Socks5 => ask.open(traffic).await,
            Scheme::Http | Scheme::Https | Scheme::Socks5h => {
                timeout_at(deadline, ask.open(traffic)).await.unwrap_or(Err(ProxyError::Timeout.into()))
            }
        }
    };
    match watch.while_allowed(opening, || route.revoked(None, false)).await {
        Ok(Ok((stream, early, form))) => Ok(Chained { stream, early, route, form }),
        Ok(Err(error)) => Err(ConnectError::Upstream(route.failed(error))),
        Err(stop) => Err(route.stopped(stop)),
    }
}

/// Has all that is to be asked of `proxy` decided on, and looks its own name up. Nothing is dialled.
pub(super) async fn route<'q>(
    connector: &Connector,
    permit: Permit<'q>,
    proxy: &Arc<Proxy>,
    limits: &Limits,
) -> Result<Route<'q>, ConnectError> {
    let resolved = async {
        let found = match proxy.scheme() {
            Scheme::Socks5 => connector.addresses(&permit.target().host, limits).await?,
            Scheme::Http | Scheme::Https | Scheme::Socks5h => Vec::new(),
        };
        Ok((found, connector.addresses(&proxy.at().host, limits).await.map_err(at_proxy)?))
    };
    match resolved.await {
        Ok((found, at)) => Ok(permit.via(proxy, &at, found)?),
        Err(error) => Err(ConnectError::Upstream(permit.failed(error))),
    }
}

/// Asks the SOCKS5 proxy of a route to take datagrams (RFC 1928, section 7). Gives the connection for as long as which it does, the address where it was reached, and its answer: type, address
/// and port of its relay. Whoever asks is patient for no longer than `patience`.
pub(super) async fn associate(
    route: &Route<'_>,
    proxy: &Proxy,
    patience: Duration,
) -> Result<(TcpStream, SocketAddr, Vec<u8>), UpstreamError> {
    let (mut stream, at) = dial::dial(route, patience).await.map_err(at_proxy)?;
    // From where they will come is not known before they do: address translators stand in between.
    let unknown = Asked::Address(Ipv4Addr::UNSPECIFIED.into(), 0);
    let relay = socks5_ask(&mut stream, Command::Associate, &unknown, proxy).await?;
    Ok((stream, at, relay))
}

/// The same failure, of the proxy instead of the destination.
fn at_proxy(error: UpstreamError) -> UpstreamError {
    UpstreamError::Proxy(match error {
        // Not the proxy's fault either.
        UpstreamError::NoDescriptor => return error,
        UpstreamError::NameNotResolved | UpstreamError::NameServerFailed => ProxyError::NotResolved,
        UpstreamError::Refused => ProxyError::Refused,
        UpstreamError::ResolveTimeout | UpstreamError::ConnectTimeout | UpstreamError::ResponseTimeout => ProxyError::Timeout,
        UpstreamError::Proxy(error) => error,
        _ => ProxyError::Unreachable,
    })
}

/// A stream to the destination, what came on it before it was asked, and how requests are written to it.
type Opened = (Stream, BytesMut, Form);

struct Ask<'a> {
    trust: &'a Trust,
    route: &'a Route<'a>,
    proxy: &'a Proxy,
    came: Came<'a>,
    limits: &'a Limits,
    deadline: Instant,
}

impl Ask<'_> {
    async fn open(&self, traffic: Traffic) -> Result<Opened, UpstreamError> {
        let target = self.route.target();
        match (self.proxy.scheme(), self.route.proxy()) {
            (Scheme::Http | Scheme::Https, Some(proxy)) if traffic == Traffic::Http => {
                Ok((self.dial().await?, BytesMut::new(), Form::Absolute(Arc::clone(proxy))))
            }
            (Scheme::Http | Scheme::Https, _) => {
                let mut stream = self.dial().await?;
                let early = http_connect(&mut stream, &self.request(target), self.limits).await?;
                Ok((stream, early, Form::Origin))
            }
            (Scheme::Socks5h, _) => {
                let mut stream = self.dial().await?;
                socks5_ask(&mut stream, Command::Connect, &Asked::new(target), self.proxy).await?;
                Ok((stream, BytesMut::new(), Form::Origin))
            }
            (Scheme::Socks5, _) => self.socks5(target.port).await,
        }
    }

    /// Asks for the checked addresses, each on a connection of its own, in the order and at the times in which they would be dialled; takes the first that is reached. What the proxy has to answer for
    /// itself it would say of every address: that ends it.
    async fn socks5(&self, port: u16) -> Result<Opened, UpstreamError> {
        let attempt = |ip| async move {
            let asked = async {
                let mut stream = self.dial().await?;
                socks5_ask(&mut stream, Command::Connect, &Asked::Address(ip, port), self.proxy).await?;
                Ok(stream)
            };
            match asked.await {
                Err(UpstreamError::Proxy(ProxyError::Failed)) => Err(Told::AtProxy),
                Err(UpstreamError::NetworkUnreachable) => Err(Told::NoWay),
                Err(UpstreamError::ConnectTimeout) => Err(Told::TimedOut),
                Err(UpstreamError::Unreachable) => Err(Told::Unreachable),
                Err(UpstreamError::Refused) => Err(Told::Refused),
                ended => Ok(ended),
            }
        };
        let stream = dial::first(self.route.asking(), self.deadline, Told::ProxySilent, attempt).await??;
        Ok((stream, BytesMut::new(), Form::Origin))
    }

    /// The request for a tunnel. What it has of the client's head is bounded as that was.
    fn request(&self, target: &Target) -> Vec<u8> {
        let mut request = format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n").into_bytes();
        let own = self.route.snapshot().settings().via.then_some(self.came.own);
        http::write_way(self.came.head, own, &mut request);
        if let Some(authorization) = self.proxy.authorization() {
            for part in ["Proxy-Authorization: ", authorization, "\r\n"] {
                request.extend_from_slice(part.as_bytes());
            }
        }
        request.extend_from_slice(b"\r\n");
        request
    }

    async fn dial(&self) -> Result<Stream, UpstreamError> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        let (stream, _) = dial::dial(self.route, left).await.map_err(at_proxy)?;
        let _ = stream.set_nodelay(true);
        if self.proxy.scheme() != Scheme::Https {
            return Ok(Stream::Tcp(stream));
        }
        let name = match &self.proxy.at().host {
            Host::Ip(ip) => ServerName::from(*ip),
            Host::Name(name) | Host::NumericLookalike(name) => {
                ServerName::from(DnsName::try_from(name.as_str().to_owned()).map_err(|_| ProxyError::Tls)?)
            }
        };
        let stream = tls(self.trust).await?.connect(name, Stream::Tcp(stream)).await.map_err(|_| ProxyError::Tls)?;
        Ok(Stream::Tls(Box::new(stream)))
    }
}

/// Asks for a tunnel by CONNECT; gives what came behind the answer.
async fn http_connect(stream: &mut Stream, request: &[u8], limits: &Limits) -> Result<BytesMut, ProxyError> {
    stream.write_all(request).await?;
    stream.flush().await?;
    let mut buffer = BytesMut::with_capacity(1024);
    let mut interim = 0;
    loop {
        let mut seen = 0;
        let head = loop {
            let end = http::head_end(&buffer, seen);
            if !fits(buffer.len(), end, limits) {
                return Err(ProxyError::BadAnswer);
            }
            if let Some(end) = end {
                break buffer.split_to(end);
            }
            seen = buffer.len();
            match stream.read_buf(&mut buffer).await? {
                0 if seen == 0 => return Err(ProxyError::Closed),
                0 => return Err(ProxyError::BadAnswer),
                _ => {}
            }
        };
        let answer = http::parse_response(&head, "CONNECT", limits.head_fields).map_err(|_| ProxyError::BadAnswer)?;
        match answer.status {
            200..=299 => return Ok(buffer),
            101 => return Err(ProxyError::BadAnswer),
            100..=199 if interim < limits.interim_responses => interim += 1,
            100..=199 => return Err(ProxyError::BadAnswer),
            508 => return Err(ProxyError::Loop),
            // Its body may be a page of the proxy's: nobody here passes that on.
            status => return Err(ProxyError::Status(status)),
        }
    }
}

/// What a SOCKS5 proxy is to do (RFC 1928, section 4).
#[derive(Clone, Copy)]
enum Command {
    Connect = 1,
    Associate = 3,
}

/// What is asked of a SOCKS5 proxy.
pub(super) enum Asked<'a> {
    Name(&'a str, u16),
    Address(IpAddr, u16),
}

impl<'a> Asked<'a> {
    pub(super) fn new(target: &'a Target) -> Self {
        match &target.host {
            Host::Ip(ip) => Self::Address(*ip, target.port),
            Host::Name(name) | Host::NumericLookalike(name) => Self::Name(name.as_str(), target.port),
        }
    }

    fn request(&self, command: Command) -> Vec<u8> {
        let mut request = vec![VERSION, command as u8, 0];
        self.write(&mut request);
        request
    }

    /// Type, address and port, as they stand in requests and before datagrams.
    pub(super) fn write(&self, request: &mut Vec<u8>) {
        let port = match self {
            Self::Name(name, port) => {
                // No name is longer than 253 bytes.
                request.extend([3, u8::try_from(name.len()).unwrap_or(u8::MAX)]);
                request.extend_from_slice(name.as_bytes());
                port
            }
            Self::Address(IpAddr::V4(ip), port) => {
                request.push(1);
                request.extend(ip.octets());
                port
            }
            Self::Address(IpAddr::V6(ip), port) => {
                request.push(4);
                request.extend(ip.octets());
                port
            }
        };
        request.extend(port.to_be_bytes());
    }
}

/// Greets, says who it is if it is asked, and asks. Gives type, address and port of the answer. Reads not a byte beyond it, so that nothing of the destination is lost.
async fn socks5_ask(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    command: Command,
    asked: &Asked<'_>,
    proxy: &Proxy,
) -> Result<Vec<u8>, UpstreamError> {
    let mut bound = Vec::new();
    let greeted = async {
        let credentials = proxy.credentials();
        let greeting: &[u8] = if credentials.is_some() { &[VERSION, 2, 0, 2] } else { &[VERSION, 1, 0] };
        let [version, method] = exchange(stream, greeting).await?;
        match (version, method, credentials) {
            (VERSION, 0, _) => {}
            (VERSION, 2, Some(credentials)) => {
                // Any status but 0 is a no (RFC 1929, section 2).
                let [_, status] = exchange(stream, &password_request(credentials)).await?;
                if status != 0 {
                    return Err(ProxyError::Authentication);
                }
            }
            (VERSION, 0xff, _) => return Err(ProxyError::Authentication),
            _ => return Err(ProxyError::BadAnswer),
        }
        let [version, reply, _, kind] = exchange(stream, &asked.request(command)).await?;
        if version != VERSION {
            return Err(ProxyError::BadAnswer);
        }
        if reply == 0 {
            bound.push(kind);
            let length = match kind {
                1 => 4,
                3 => {
                    let length = stream.read_u8().await?;
                    bound.push(length);
                    usize::from(length)
                }
                4 => 16,
                _ => return Err(ProxyError::BadAnswer),
            };
            let before = bound.len();
            bound.resize(before + length + 2, 0);
            stream.read_exact(bound.get_mut(before..).unwrap_or_default()).await?;
        }
        Ok(reply)
    };
    match greeted.await? {
        0 => Ok(bound),
        2 => Err(ProxyError::NotAllowed.into()),
        3 => Err(UpstreamError::NetworkUnreachable),
        4 => Err(UpstreamError::Unreachable),
        5 => Err(UpstreamError::Refused),
        6 => Err(UpstreamError::ConnectTimeout),
        _ => Err(ProxyError::Failed.into()),
    }
}

async fn exchange<const N: usize>(stream: &mut (impl AsyncRead + AsyncWrite + Unpin), message: &[u8]) -> io::Result<[u8; N]> {
    stream.write_all(message).await?;
    stream.flush().await?;
    let mut answer = [0; N];
    stream.read_exact(&mut answer).await?;
    Ok(answer)
}

/// RFC 1929, section 2. Lengths were checked when the URL was read.
fn password_request(credentials: &Credentials) -> Vec<u8> {
    let mut request = vec![1];
    for part in [&credentials.user, &credentials.password] {
        request.push(u8::try_from(part.len()).unwrap_or(u8::MAX));
        request.extend_from_slice(part);
    }
    request
}
