//! One connection from first byte to last: the five stages on one screen.

use crate::connect::{ConnectError, Connector, UpstreamError};
use crate::counters::{Counter, Counters, Reached, reached};
use crate::decide::deny::Denial;
use crate::decide::{Decider, Question, Route};
use crate::limits::{Bounds, Entered, Gate, Upload, head_fits};
use crate::listen::Service;
use crate::listen::detect::{self, Mismatch};
use crate::parse::http::{self, Ask, BadRequest, RequestHead};
use crate::parse::socks5::{self, Parsed, Reply};
use crate::parse::target::Target;
use crate::relay::http::{ExchangeError, Exchanged, exchange};
use crate::relay::tunnel::{End, tunnel};
use crate::reply;
use crate::shutdown::Shutdown;
use crate::stream::Buffered;
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
    pub(crate) counters: Arc<Counters>,
    pub(crate) gate: Gate,
}

/// Serves one client connection until either side is done. Dropping the future closes both sides.
pub(crate) async fn serve(stream: TcpStream, client: SocketAddr, service: Service, shared: &Shared, shutdown: Shutdown) {
    let _ = stream.set_nodelay(true);
    shared.counters.count(if service == Service::Http { Counter::HttpConnections } else { Counter::SocksConnections });
    let _open = shared.counters.hold(Counter::ConnectionsOpen);
    let limits = shared.decider.limits();
    // Closed without a word: a word for each would be more work than the flood is for its sender.
    let _one = match shared.gate.client(client.ip(), &limits) {
        Ok(one) => one,
        Err(reached) => return shared.gate.reached(reached, Some(client), None),
    };
    let deadline = Instant::now() + limits.head_timeout;
    let mut connection = Connection { client: Buffered::new(stream), address: client, shared, limits, shutdown, first: Some(deadline) };
    let first = tokio::select! {
        first = timeout_at(deadline, async { connection.client.reader().more().await }) => first,
        () = connection.shutdown.started() => return,
    };
    // Who says nothing is answered nothing.
    match first {
        Ok(Ok(1..)) => {}
        Ok(_) => return,
        Err(_) => return connection.reached(reached!(head_timeout)),
    }
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
    /// When the first head has to be there; for later ones, that depends on when they begin.
    first: Option<Instant>,
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
                    self.shared.counters.count(Counter::BadHttpRequests);
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
                    Ok(_) => return None,
                    Err(_) => {
                        self.reached(reached!(keep_alive_timeout));
                        return None;
                    }
                },
                () = self.shutdown.started() => return None,
            }
        }
        let deadline = self.first.take().unwrap_or_else(|| Instant::now() + limits.head_timeout);
        let mut seen = 0;
        loop {
            let blank = http::leading_blank(&self.client.buffer);
            if blank > 0 {
                let _ = self.client.buffer.split_to(blank);
                seen = 0;
            }
            let end = http::head_end(&self.client.buffer, seen);
            if let Err((reached, bad)) = head_fits(&self.client.buffer, end, limits) {
                self.reached(reached);
                return Some(Err(bad));
            }
            if let Some(end) = end {
                let head = self.client.buffer.split_to(end);
                let parsed = http::parse_request(&head, limits.head_fields);
                if matches!(parsed, Err(BadRequest { status: 431, .. })) {
                    self.reached(reached!(head_fields));
                }
                return Some(parsed);
            }
            seen = self.client.buffer.len();
            match timeout_at(deadline, self.client.reader().more()).await {
                Ok(Ok(1..)) => {}
                Ok(_) => return None,
                Err(_) => {
                    self.reached(reached!(head_timeout));
                    return Some(Err(BadRequest { status: 408, message: "the request head did not come in time" }));
                }
            }
        }
    }

    /// A limit was reached that is of no target.
    fn reached(&self, reached: Reached) {
        self.shared.gate.reached(reached, Some(self.address), None);
    }

    fn question(&self, protocol: Protocol, target: &Target) -> Question {
        if let Some(counter) = Counter::requests(protocol) {
            self.shared.counters.count(counter);
        }
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
            let gate = &self.shared.gate;
            // Who may switch to another protocol may become a tunnel.
            let tunnel = head.upgrade.as_ref().map(|_| gate.tunnel(&head.target.host, &self.limits)).transpose();
            let (mut upload, _tunnel) = match gate.body(&head.target.host, head.body, &self.limits).and_then(|upload| Ok((upload, tunnel?)))
            {
                Ok(both) => both,
                Err(reached) => return self.limited(head, reached).await,
            };
            let reused = reusable.is_some();
            let connected = match reusable.take() {
                Some(idle) => self.shared.connector.reuse(permit, idle.stream).await,
                None => self.shared.connector.connect(permit).await,
            };
            let (mut upstream, route) = match connected {
                Ok(connected) => {
                    self.shared.counters.count(if reused { Counter::UpstreamReused } else { Counter::UpstreamOpened });
                    connected
                }
                Err(ConnectError::Denied(denial)) => return self.deny(head, &denial).await,
                Err(ConnectError::Upstream(error)) => return self.upstream_failed(head, error).await,
            };
            let bounds = Bounds { limits: &self.limits, gate, client: self.address, target: &head.target };
            match exchange(&mut self.client, &mut upstream, head, route.read_only(), &bounds, &mut upload).await {
                Ok(Exchanged::Done { client_reusable, upstream_reusable }) => {
                    if upstream_reusable {
                        *idle = Some(Idle { target: head.target.clone(), stream: upstream });
                    }
                    return if client_reusable { Next::Request } else { Next::Close };
                }
                Ok(Exchanged::Upgraded) => {
                    match gate.stream(&head.target.host, &self.limits) {
                        Ok(upload) => self.tunnel(&head.target, upstream, route, upload).await,
                        Err(reached) => gate.reached(reached, Some(self.address), Some(&head.target)),
                    }
                    return Next::Close;
                }
                // The origin closed an idle connection while the request was on its way: nothing was answered, and asking again is safe (RFC 9110, section 9.2.2).
                Err(ExchangeError::BeforeResponse(UpstreamError::Closed)) if reused && may_repeat(head) => {}
                Err(ExchangeError::BeforeResponse(error)) => return self.upstream_failed(head, error).await,
                Err(ExchangeError::BadBody(message)) => {
                    self.say_and_close(&reply::bad_request(BadRequest { status: 400, message })).await;
                    return Next::Close;
                }
                Err(ExchangeError::Limited(reached)) => {
                    self.say_and_close(&reply::limited(reached, &head.target, &head.method, false)).await;
                    return Next::Close;
                }
                Err(ExchangeError::Broken) => return Next::Close,
            }
        }
    }

    /// CONNECT: decide → connect → say so → relay.
    async fn connect(&mut self, head: &RequestHead) {
        let (connected, room) = match self.shared.decider.name(self.question(Protocol::Connect, &head.target)) {
            Ok(permit) => match self.room(&head.target) {
                Ok(room) => (self.shared.connector.connect(permit).await, Some(room)),
                Err(reached) => {
                    self.shared.gate.reached(reached, Some(self.address), Some(&head.target));
                    return self.say_and_close(&reply::limited(reached, &head.target, "GET", false)).await;
                }
            },
            Err(denial) => (Err(ConnectError::Denied(denial)), None),
        };
        match connected {
            Ok((upstream, route)) => {
                self.shared.counters.count(Counter::UpstreamOpened);
                if let (true, Some((_one, upload))) = (self.say(reply::TUNNEL_STANDS).await, room) {
                    self.tunnel(&head.target, upstream, route, upload).await;
                }
            }
            Err(ConnectError::Denied(denial)) => self.say_and_close(&reply::blocked(&denial, "GET", false)).await,
            Err(ConnectError::Upstream(error)) => {
                self.shared.gate.upstream_failed(error, self.address, &head.target);
                self.say_and_close(&reply::upstream_failed(&head.target, error, "GET", false)).await;
            }
        }
    }

    /// SOCKS5: greeting, request, decide → connect → say so → relay.
    async fn socks5(mut self) {
        let deadline = self.first.take().unwrap_or_else(Instant::now);
        let request = match timeout_at(deadline, self.socks5_request()).await {
            Ok(Some(request)) => request,
            Ok(None) => return,
            Err(_) => return self.reached(reached!(head_timeout)),
        };
        let target = match request {
            Ok(target) => target,
            Err(code) => {
                self.shared.counters.count(Counter::BadSocksRequests);
                return self.say_and_close(&socks5::reply(code)).await;
            }
        };
        let (connected, room) = match self.shared.decider.name(self.question(Protocol::Socks5Tcp, &target)) {
            Ok(permit) => match self.room(&target) {
                Ok(room) => (self.shared.connector.connect(permit).await, Some(room)),
                Err(reached) => {
                    self.shared.gate.reached(reached, Some(self.address), Some(&target));
                    let code = if reached == reached!(upload_bytes) { Reply::NotAllowed } else { Reply::Failure };
                    return self.say_and_close(&socks5::reply(code)).await;
                }
            },
            Err(denial) => (Err(ConnectError::Denied(denial)), None),
        };
        match connected {
            Ok((upstream, route)) => {
                self.shared.counters.count(Counter::UpstreamOpened);
                if let (true, Some((_one, upload))) = (self.say(&socks5::reply(Reply::Succeeded)).await, room) {
                    self.tunnel(&target, upstream, route, upload).await;
                }
            }
            Err(ConnectError::Denied(_)) => self.say_and_close(&socks5::reply(Reply::NotAllowed)).await,
            Err(ConnectError::Upstream(error)) => {
                self.shared.gate.upstream_failed(error, self.address, &target);
                self.say_and_close(&socks5::reply(socks5_reply(error))).await;
            }
        }
    }

    /// The handshake up to the request; `None` when the client does not keep to it.
    async fn socks5_request(&mut self) -> Option<socks5::Request> {
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

    /// Room for a tunnel to a target, and what it may send.
    fn room(&self, target: &Target) -> Result<(Entered<Arc<str>>, Upload), Reached> {
        let gate = &self.shared.gate;
        Ok((gate.tunnel(&target.host, &self.limits)?, gate.stream(&target.host, &self.limits)?))
    }

    async fn tunnel(&mut self, target: &Target, mut upstream: Buffered, route: Route, upload: Upload) {
        let Ok(peer) = upstream.stream.peer_addr() else { return };
        self.shared.counters.count(Counter::Tunnels);
        let _open = self.shared.counters.hold(Counter::TunnelsOpen);
        let revoked = route.revoked(self.shared.decider.policy(), peer);
        let bounds = Bounds { limits: &self.limits, gate: &self.shared.gate, client: self.address, target };
        match tunnel(&mut self.client, &mut upstream, &bounds, upload, revoked).await {
            End::Done => {}
            End::Revoked => self.shared.counters.count(Counter::TunnelsRevoked),
            End::Limited(reached) => bounds.reached(reached),
        }
    }

    /// A limit says no to a request.
    async fn limited(&mut self, head: &RequestHead, reached: Reached) -> Next {
        self.shared.gate.reached(reached, Some(self.address), Some(&head.target));
        let keep_alive = self.can_go_on(head);
        self.answer(&reply::limited(reached, &head.target, &head.method, keep_alive), keep_alive).await
    }

    async fn deny(&mut self, head: &RequestHead, denial: &Denial) -> Next {
        let keep_alive = self.can_go_on(head);
        self.answer(&reply::blocked(denial, &head.method, keep_alive), keep_alive).await
    }

    async fn upstream_failed(&mut self, head: &RequestHead, error: UpstreamError) -> Next {
        self.shared.gate.upstream_failed(error, self.address, &head.target);
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
        let said = timeout(self.limits.linger_timeout, self.client.stream.write_all(bytes)).await;
        if said.is_err() {
            self.reached(reached!(linger_timeout));
        }
        matches!(said, Ok(Ok(())))
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
        if timeout(self.limits.linger_timeout, goodbye).await.is_err() {
            self.reached(reached!(linger_timeout));
        }
    }
}

/// Idempotent, and without a body that is gone.
fn may_repeat(head: &RequestHead) -> bool {
    matches!(head.body, http::Body::None) && matches!(head.method.as_str(), "GET" | "HEAD" | "OPTIONS" | "PUT" | "DELETE" | "TRACE")
}

fn socks5_reply(error: UpstreamError) -> Reply {
    match error {
        UpstreamError::Refused => Reply::Refused,
        UpstreamError::NameNotResolved | UpstreamError::ResolveTimeout | UpstreamError::Unreachable | UpstreamError::ConnectTimeout => {
            Reply::HostUnreachable
        }
        UpstreamError::ResponseTimeout | UpstreamError::Closed | UpstreamError::BadResponse => Reply::Failure,
    }
}
