//! One connection from first byte to last: the five stages on one screen.

use crate::association::Association;
use crate::connect::{ConnectError, Connector, UpstreamError};
use crate::decide::deny::Denial;
use crate::decide::{Decider, Question, Route};
use crate::listen::Service;
use crate::listen::detect::{self, Mismatch};
use crate::parse::http::{self, Ask, BadRequest, RequestHead};
use crate::parse::socks5::{self, Parsed, Reply, Request};
use crate::parse::target::Target;
use crate::relay::http::{ExchangeError, Exchanged, exchange};
use crate::relay::tunnel::tunnel;
use crate::reply;
use crate::shutdown::Shutdown;
use crate::stream::Buffered;
use bytes::BytesMut;
use policy_format::{Limits, Protocol, Reason};
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout, timeout_at};

/// What all connections use.
pub(crate) struct Shared {
    pub(crate) decider: Decider,
    pub(crate) connector: Connector,
}

/// Serves one client connection until either side is done. Dropping the future closes both sides.
pub(crate) async fn serve(stream: TcpStream, client: SocketAddr, service: Service, shared: &Shared, shutdown: Shutdown) {
    let _ = stream.set_nodelay(true);
    let limits = shared.decider.limits();
    let mut connection = Connection { client: Buffered::new(stream), address: client, shared, limits, shutdown };
    let first = tokio::select! {
        first = timeout(connection.limits.head_timeout, async { connection.client.reader().more().await }) => first,
        () = connection.shutdown.started() => return,
    };
    // Who says nothing is answered nothing.
    let Ok(Ok(1..)) = first else { return };
    let spoken = detect::spoken(connection.client.buffer.first().copied().unwrap_or_default());
    match (detect::mismatch(service, spoken), service) {
        (None, Service::Http) => connection.http().await,
        (None, Service::Socks5) => connection.socks5().await,
        (Some(mismatch), _) => connection.mismatch(mismatch).await,
    }
}

struct Connection<'s> {
    client: Buffered,
    address: SocketAddr,
    shared: &'s Shared,
    /// Those of the policy that the request was decided under.
    limits: Arc<Limits>,
    shutdown: Shutdown,
}

/// An upstream connection that may serve the next request.
struct Idle {
    target: Target,
    stream: Buffered,
}

/// Whether the client's connection goes on.
#[derive(PartialEq, Eq)]
enum Next {
    Request,
    Close,
}

impl Connection<'_> {
    /// HTTP: requests one after the other.
    async fn http(mut self) {
        let mut idle = None;
        while let Some(head) = self.read_head().await {
            let next = match head {
                Ok(head) if head.ask == Ask::Connect => {
                    self.connect(&head).await;
                    Next::Close
                }
                Ok(head) => self.forward(&head, &mut idle).await,
                Err(bad) => {
                    self.say_and_close(&reply::bad_request(bad)).await;
                    Next::Close
                }
            };
            if next == Next::Close || self.shutdown.has_started() {
                return;
            }
        }
    }

    /// The next request head; `None` when no more will come.
    async fn read_head(&mut self) -> Option<Result<RequestHead, BadRequest>> {
        let limits = &self.limits;
        if self.client.buffer.is_empty() {
            // Between requests, a shutdown ends the connection; once a request has begun, it is served.
            tokio::select! {
                read = timeout(limits.keep_alive_timeout, async { self.client.reader().more().await }) => match read {
                    Ok(Ok(1..)) => {}
                    _ => return None,
                },
                () = self.shutdown.started() => return None,
            }
        }
        let deadline = Instant::now() + limits.head_timeout;
        let mut seen = 0;
        loop {
            let blank = http::leading_blank(&self.client.buffer);
            if blank > 0 {
                let _ = self.client.buffer.split_to(blank);
                seen = 0;
            }
            if let Some(end) = http::head_end(&self.client.buffer, seen) {
                let head = self.client.buffer.split_to(end);
                return Some(http::parse_request(&head, limits.head_fields));
            }
            seen = self.client.buffer.len();
            if seen >= limits.head_bytes {
                return Some(Err(BadRequest { status: 431, message: "the request head is too long" }));
            }
            match timeout_at(deadline, self.client.reader().more()).await {
                Ok(Ok(1..)) => {}
                Ok(_) => return None,
                Err(_) => return Some(Err(BadRequest { status: 408, message: "the request head did not come in time" })),
            }
        }
    }

    fn question(&self, protocol: Protocol, target: &Target) -> Question {
        Question { client: self.address, protocol, target: target.clone(), method: None, path: None }
    }

    /// A plain request: decide → connect, or use the connection of the last request again → relay.
    async fn forward(&mut self, head: &RequestHead, idle: &mut Option<Idle>) -> Next {
        let question = Question {
            method: Some(head.method.clone()),
            path: head.ask.path().map(str::to_owned),
            ..self.question(Protocol::Http, &head.target)
        };
        if head.unix_socket {
            let denial = self.shared.decider.refuse(question, Reason::PolicyDenied);
            return self.deny(head, &denial).await;
        }
        let mut reusable = idle.take_if(|idle| idle.target == head.target).filter(|idle| idle.stream.is_quiet());
        loop {
            let permit = match self.shared.decider.name(question.clone()) {
                Ok(permit) => permit,
                Err(denial) => return self.deny(head, &denial).await,
            };
            let reused = reusable.is_some();
            let connected = match reusable.take() {
                Some(idle) => self.shared.connector.reuse(permit, idle.stream).await,
                None => self.shared.connector.connect(permit).await,
            };
            let (mut upstream, route) = match connected {
                Ok(connected) => connected,
                Err(ConnectError::Denied(denial)) => return self.deny(head, &denial).await,
                Err(ConnectError::Upstream(error)) => return self.upstream_failed(head, error).await,
            };
            match exchange(&mut self.client, &mut upstream, head, route.read_only(), &self.limits).await {
                Ok(Exchanged::Done { client_reusable, upstream_reusable }) => {
                    if upstream_reusable {
                        *idle = Some(Idle { target: head.target.clone(), stream: upstream });
                    }
                    return if client_reusable { Next::Request } else { Next::Close };
                }
                Ok(Exchanged::Upgraded) => {
                    self.tunnel(upstream, route).await;
                    return Next::Close;
                }
                // The origin closed an idle connection while the request was on its way: nothing was answered, and asking again is safe (RFC 9110, section 9.2.2).
                Err(ExchangeError::BeforeResponse(UpstreamError::Closed)) if reused && may_repeat(head) => {}
                Err(ExchangeError::BeforeResponse(error)) => return self.upstream_failed(head, error).await,
                Err(ExchangeError::BadBody(message)) => {
                    self.say_and_close(&reply::bad_request(BadRequest { status: 400, message })).await;
                    return Next::Close;
                }
                Err(ExchangeError::Broken) => return Next::Close,
            }
        }
    }

    /// CONNECT: decide → connect → say so → relay.
    async fn connect(&mut self, head: &RequestHead) {
        let connected = match self.shared.decider.name(self.question(Protocol::Connect, &head.target)) {
            Ok(permit) => self.shared.connector.connect(permit).await,
            Err(denial) => Err(ConnectError::Denied(denial)),
        };
        match connected {
            Ok((upstream, route)) => {
                if self.say(reply::TUNNEL_STANDS).await {
                    self.tunnel(upstream, route).await;
                }
            }
            Err(ConnectError::Denied(denial)) => self.say_and_close(&reply::blocked(&denial, "GET", false)).await,
            Err(ConnectError::Upstream(error)) => self.say_and_close(&reply::upstream_failed(&head.target, error, "GET", false)).await,
        }
    }

    /// SOCKS5: greeting, request, decide → connect → say so → relay.
    async fn socks5(mut self) {
        let deadline = Instant::now() + self.limits.head_timeout;
        let Ok(Some(request)) = timeout_at(deadline, self.socks5_request()).await else { return };
        let target = match request {
            Ok(Request::Connect(target)) => target,
            Ok(Request::Associate) => return self.associate().await,
            Err(code) => return self.say_and_close(&socks5::reply(code)).await,
        };
        let connected = match self.shared.decider.name(self.question(Protocol::Socks5Tcp, &target)) {
            Ok(permit) => self.shared.connector.connect(permit).await,
            Err(denial) => Err(ConnectError::Denied(denial)),
        };
        match connected {
            Ok((upstream, route)) => {
                if self.say(&socks5::reply(Reply::Succeeded)).await {
                    self.tunnel(upstream, route).await;
                }
            }
            Err(ConnectError::Denied(_)) => self.say_and_close(&socks5::reply(Reply::NotAllowed)).await,
            Err(ConnectError::Upstream(error)) => self.say_and_close(&socks5::reply(socks5_reply(error))).await,
        }
    }

    /// UDP ASSOCIATE: sockets → say where → relay. Each datagram is decided by itself, in `association.rs`.
    async fn associate(mut self) {
        match Association::open(&self.client.stream, self.address, self.shared, &self.limits).await {
            Ok(association) => {
                if self.say(&socks5::associated(association.address())).await {
                    self.client.buffer = BytesMut::new();
                    association.relay(&self.client.stream).await;
                }
            }
            Err(code) => self.say_and_close(&socks5::reply(code)).await,
        }
    }

    /// The handshake up to the request; `None` when the client does not keep to it.
    async fn socks5_request(&mut self) -> Option<Result<Request, Reply>> {
        match self.socks5_message(socks5::parse_greeting).await? {
            None => {
                self.say_and_close(&socks5::NO_METHOD).await;
                return None;
            }
            Some(method) => {
                self.client.stream.write_all(&socks5::greeting_reply(method)).await.ok()?;
                if method == socks5::Method::Password {
                    self.socks5_message(socks5::parse_password).await?;
                    self.client.stream.write_all(&socks5::PASSWORD_ACCEPTED).await.ok()?;
                }
            }
        }
        self.socks5_message(socks5::parse_request).await
    }

    /// One message of the handshake. No message is longer than 513 bytes, so the buffer is bounded by what the parsers ask for.
    async fn socks5_message<T>(&mut self, parse: impl Fn(&[u8]) -> Parsed<T>) -> Option<T> {
        loop {
            match parse(&self.client.buffer) {
                Parsed::Complete(message, used) => {
                    let _ = self.client.buffer.split_to(used);
                    return Some(message);
                }
                Parsed::Malformed => return None,
                Parsed::More => match self.client.reader().more().await {
                    Ok(1..) => {}
                    _ => return None,
                },
            }
        }
    }

    async fn tunnel(&mut self, mut upstream: Buffered, route: Route) {
        let Ok(peer) = upstream.stream.peer_addr() else { return };
        let revoked = route.revoked(self.shared.decider.policy(), peer);
        tunnel(&mut self.client, &mut upstream, self.limits.idle_timeout, revoked).await;
    }

    async fn deny(&mut self, head: &RequestHead, denial: &Denial) -> Next {
        let keep_alive = self.can_go_on(head);
        self.answer(&reply::blocked(denial, &head.method, keep_alive), keep_alive).await
    }

    async fn upstream_failed(&mut self, head: &RequestHead, error: UpstreamError) -> Next {
        let keep_alive = self.can_go_on(head);
        self.answer(&reply::upstream_failed(&head.target, error, &head.method, keep_alive), keep_alive).await
    }

    /// After a reply of our own: only when the request has no body that would be taken for the next one.
    fn can_go_on(&self, head: &RequestHead) -> bool {
        head.keep_alive && matches!(head.body, http::Body::None | http::Body::Length(0)) && !self.shutdown.has_started()
    }

    async fn answer(&mut self, bytes: &[u8], keep_alive: bool) -> Next {
        if !keep_alive {
            self.say_and_close(bytes).await;
            return Next::Close;
        }
        if self.say(bytes).await { Next::Request } else { Next::Close }
    }

    /// Says something short. A client that does not read it in time is given up.
    async fn say(&mut self, bytes: &[u8]) -> bool {
        matches!(timeout(self.limits.linger_timeout, self.client.stream.write_all(bytes)).await, Ok(Ok(())))
    }

    async fn mismatch(mut self, mismatch: Mismatch) {
        match mismatch {
            Mismatch::Bytes(bytes) => self.say_and_close(bytes).await,
            Mismatch::Text(message) => self.say_and_close(&reply::bad_request(BadRequest { status: 400, message })).await,
            Mismatch::Silence => {}
        }
    }

    /// Says a last thing and lets the client read it: closing with unread bytes would reset the connection, and the client would never see why.
    async fn say_and_close(&mut self, bytes: &[u8]) {
        let goodbye = async {
            self.client.stream.write_all(bytes).await?;
            self.client.stream.shutdown().await?;
            loop {
                self.client.buffer.clear();
                if self.client.reader().more().await? == 0 {
                    return std::io::Result::Ok(());
                }
            }
        };
        let _ = timeout(self.limits.linger_timeout, goodbye).await;
    }
}

/// Idempotent, and without a body that is gone.
fn may_repeat(head: &RequestHead) -> bool {
    matches!(head.body, http::Body::None) && matches!(head.method.as_str(), "GET" | "HEAD" | "OPTIONS" | "PUT" | "DELETE" | "TRACE")
}

fn socks5_reply(error: UpstreamError) -> Reply {
    match error {
        UpstreamError::Refused => Reply::Refused,
        UpstreamError::NameNotResolved | UpstreamError::Unreachable => Reply::HostUnreachable,
        UpstreamError::NetworkUnreachable => Reply::NetworkUnreachable,
        UpstreamError::ResolveTimeout | UpstreamError::ConnectTimeout => Reply::TimedOut,
        UpstreamError::ResponseTimeout | UpstreamError::Closed | UpstreamError::BadResponse => Reply::Failure,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_failure_has_the_reply_that_says_most() {
        let cases = [
            (UpstreamError::NameNotResolved, 4),
            (UpstreamError::Unreachable, 4),
            (UpstreamError::NetworkUnreachable, 3),
            (UpstreamError::Refused, 5),
            (UpstreamError::ResolveTimeout, 6),
            (UpstreamError::ConnectTimeout, 6),
            (UpstreamError::Closed, 1),
        ];
        for (error, code) in cases {
            assert_eq!(socks5_reply(error) as u8, code, "{error:?}");
        }
    }
}
