//! Admin API: what an operator sees of the proxy, and how he steers it.
//!
//! `routes` has the table of what there is; this file takes a request through the checks in their order, and answers it. Who may is known by `access`, that no web page
//! does it by `door`; the proxy itself is behind `backend::Backend`. Everything that a peer controls has a bound: connections, time, heads, bodies, requests in a second.

pub(crate) mod access;
pub(crate) mod backend;
mod door;
pub(crate) mod events;
pub(crate) mod explain;
pub(crate) mod live;
pub mod model;
#[cfg(test)]
mod openapi;
mod query;
pub(crate) mod reply;
mod room;
mod routes;
#[cfg(unix)]
pub(crate) mod socket;
mod stats;
pub(crate) mod ui;
pub(crate) mod views;

use crate::audit::feed::RING;
use crate::shutdown::Shutdown;
use crate::spare;
use access::throttle::Throttle;
use access::{Peer, Refused, Scope, Scopes};
use backend::{Backend, ReloadFailure};
use events::Caller;
use http_body_util::BodyExt;
use hyper::body::{Body as _, Bytes, Incoming};
use hyper::header::{ACCEPT, CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, TRANSFER_ENCODING};
use hyper::service::service_fn;
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use model::{AdminAccess, AuthKind, HealthPolicy, Listeners, Origin, Readiness, ReloadOutcome};
use policy_format::Network;
use query::Query;
use reply::{Answer, Body, Refusal};
use room::{Place, Room};
use routes::{Does, Found, Route};
use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};

/// Admin connections at once.
const CONNECTIONS: usize = 64;
/// Those through the unix socket, which have room of their own.
#[cfg(unix)]
const SOCKET_CONNECTIONS: usize = 16;
/// For a request to come and its answer to be read.
const PATIENCE: Duration = Duration::from_secs(10);
/// For a body to come.
const BODY_PATIENCE: Duration = Duration::from_secs(5);
/// Bytes of a body.
const MAX_BODY: usize = 64 << 10;
/// Bytes of a body that nobody wants, and that is read so that the answer is.
const MAX_UNREAD: usize = 1 << 20;
/// Bytes of path and query.
const MAX_URI: usize = 16 << 10;
/// Bytes of a head's fields.
const MAX_FIELDS: usize = 16 << 10;
/// Bytes of a head that are read at all, so that what is too long can be told so.
const MAX_HEAD: usize = 64 << 10;
/// Tunnels of a page, unless fewer are asked for.
const TUNNELS: u64 = 100;

/// What is known of the proxy from its start.
#[derive(Debug)]
pub(crate) struct Facts {
    pub(crate) listeners: Listeners,
    /// What the process is.
    pub(crate) process: serde_json::Map<String, serde_json::Value>,
    pub(crate) origin: Origin,
    pub(crate) policy_file: Option<String>,
    /// Threads that serve connections.
    pub(crate) workers: usize,
}

/// The API.
pub(crate) struct Api {
    pub(crate) backend: Arc<dyn Backend>,
    pub(crate) facts: Facts,
    started: SystemTime,
    /// Of those who may, through the listener, and through the unix socket.
    requests: Throttle,
    socket_requests: Throttle,
    /// Of those who have shown nothing, by their address.
    strangers: Throttle,
    streams: Arc<Semaphore>,
    ui: ui::Ui,
}

/// Where the API listens, in no runtime yet.
pub(crate) struct Doors {
    pub(crate) listener: Option<std::net::TcpListener>,
    #[cfg(unix)]
    pub(crate) socket: Option<socket::Socket>,
}

/// Whoever sends what a connection's client follows, if it does.
type Source = Mutex<Option<watch::Receiver<()>>>;

/// Ready once a connection has had the time that one answer may take. Who follows events has as long as somebody sends them, who ends when nobody reads, and as long again for what was
/// sent by then: the system holds much for a client that does not read, for as long as the client likes.
async fn had_time(source: &Source) {
    tokio::time::sleep(PATIENCE).await;
    let source = source.lock().unwrap_or_else(PoisonError::into_inner).take();
    if let Some(mut source) = source {
        while source.changed().await.is_ok() {}
        tokio::time::sleep(PATIENCE).await;
    }
}

impl Api {
    pub(crate) fn new(backend: Arc<dyn Backend>, facts: Facts) -> Arc<Self> {
        Arc::new(Self {
            backend,
            facts,
            started: SystemTime::now(),
            requests: Throttle::requests(),
            socket_requests: Throttle::requests(),
            strangers: Throttle::requests(),
            streams: Arc::new(Semaphore::new(events::STREAMS)),
            ui: ui::Ui::default(),
        })
    }

    /// Serves until `over`.
    pub(crate) async fn serve(self: Arc<Self>, doors: Doors, over: Shutdown) {
        let mut tasks = tokio::task::JoinSet::new();
        tasks.spawn(Arc::clone(&self).remember(over.clone()));
        #[cfg(unix)]
        if let Some((listener, user)) = doors.socket.and_then(|socket| socket.into_parts().ok()) {
            tasks.spawn(Arc::clone(&self).serve_socket(listener, user, over.clone()));
        }
        // It was registered once already, when it was bound.
        if let Some(listener) = doors.listener.and_then(|listener| TcpListener::from_std(listener).ok()) {
            tasks.spawn(self.serve_listener(listener, over));
        }
        tasks.join_all().await;
    }

    async fn serve_listener(self: Arc<Self>, listener: TcpListener, over: Shutdown) {
        let room = Room::new(CONNECTIONS);
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = over.started() => break,
            };
            match accepted {
                Ok((stream, from)) => {
                    let peer = Peer::Address(from.ip());
                    // Whoever was accepted is answered, also once it is over: somebody leaves before long.
                    let place = room.place(peer).await;
                    tokio::spawn(Arc::clone(&self).converse(stream, peer, place, over.clone()));
                }
                Err(error) => pause(&error).await,
            }
        }
        drop(listener);
        // Who was accepted is answered; each of them ends a while after the shutdown began.
        room.empty().await;
    }

    #[cfg(unix)]
    async fn serve_socket(self: Arc<Self>, listener: tokio::net::UnixListener, user: Option<u32>, over: Shutdown) {
        let room = Room::new(SOCKET_CONNECTIONS);
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = over.started() => break,
            };
            match accepted {
                // Who may not is not spoken to.
                Ok((stream, _)) if stream.peer_cred().is_ok_and(|peer| socket::may(peer, user)) => {
                    let place = room.place(Peer::Socket).await;
                    tokio::spawn(Arc::clone(&self).converse(stream, Peer::Socket, place, over.clone()));
                }
                Ok(_) => {}
                Err(error) => pause(&error).await,
            }
        }
        drop(listener);
        room.empty().await;
    }

    /// One request and its answer.
    async fn converse(
        self: Arc<Self>,
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        peer: Peer,
        place: Place,
        over: Shutdown,
    ) {
        let source = Arc::new(Source::default());
        let service = service_fn(|request| {
            place.heard();
            let (api, source) = (Arc::clone(&self), Arc::clone(&source));
            async move {
                let answer = api.answer(request, peer).await;
                if let Body::Stream(stream) = answer.body() {
                    *source.lock().unwrap_or_else(PoisonError::into_inner) = Some(stream.source.clone());
                }
                Ok::<_, Infallible>(answer)
            }
        });
        let mut builder = hyper::server::conn::http1::Builder::new();
        // One answer a connection, in bounded time: who does not read holds nothing for long.
        builder.timer(TokioTimer::new()).header_read_timeout(PATIENCE).max_buf_size(MAX_HEAD).keep_alive(false);
        let connection = builder.serve_connection(TokioIo::new(stream), service);
        tokio::pin!(connection);
        tokio::select! {
            // A client that went away is no news.
            _ = &mut connection => {}
            () = had_time(&source) => {}
            () = place.lost() => {}
            () = over.started_a_while_ago() => {}
        }
    }

    async fn answer(self: Arc<Self>, request: Request<Incoming>, peer: Peer) -> Answer {
        let (head, body) = request.into_parts();
        let found = routes::find(head.uri.path());
        let route = found.as_ref().and_then(|found| found.route(head.method.as_str()));
        let name = route.map_or("other", |route| route.path);
        // What is answered before it is known who asks counts, too.
        let checked = match self.checked(&head, found.as_ref(), route, peer) {
            Ok(Checked::Answered(answer)) => self.count_stranger(peer).map(|()| Checked::Answered(answer)),
            Err(Turned::Stranger(refusal)) => self.count_stranger(peer).and(Err(refusal)),
            Err(Turned::Page(refusal)) => self.count_page(peer).and(Err(refusal)),
            Err(Turned::Known(refusal)) => Err(refusal),
            Ok(checked) => Ok(checked),
        };
        let answer = match checked {
            Ok(Checked::Answered(answer)) => Ok(answer),
            Ok(Checked::Page { refresh, may_write }) => Ok(self.page(refresh, may_write).await),
            Ok(Checked::Does { route, query }) => self.act(&head, peer, found.and_then(|found| found.id), route, &query, body).await,
            Err(refusal) => {
                leave(body);
                Err(refusal)
            }
        };
        let answer = answer.unwrap_or_else(Refusal::answer);
        self.backend.answered(name, answer.status().as_u16());
        answer
    }

    /// Takes a request through everything that does not depend on its body.
    fn checked(
        &self,
        head: &hyper::http::request::Parts,
        found: Option<&Found>,
        route: Option<&'static Route>,
        peer: Peer,
    ) -> Result<Checked, Turned> {
        let (uri, headers) = (&head.uri, &head.headers);
        if uri.path_and_query().is_some_and(|path| path.as_str().len() > MAX_URI) {
            return Err(Refusal::new(StatusCode::URI_TOO_LONG, format!("path and query have at most {MAX_URI} bytes")).into());
        }
        if headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 4).sum::<usize>() > MAX_FIELDS {
            let what = format!("the fields of a head have at most {MAX_FIELDS} bytes");
            return Err(Refusal::new(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, what).into());
        }
        let writes = !matches!(head.method, Method::GET | Method::HEAD | Method::OPTIONS);
        let hosts = if self.backend.access().settings().needs_token() { self.backend.access().settings().hosts.as_slice() } else { &[] };
        door::check(uri, headers, hosts, writes).map_err(Turned::Page)?;
        if let Some(answer) = self.dashboard(head, peer) {
            return answer;
        }
        let Some(found) = found else {
            return Err(Refusal::new(StatusCode::NOT_FOUND, "there is nothing here; GET /v1/openapi.json says what there is").into());
        };
        if head.method == Method::OPTIONS {
            return Ok(Checked::Answered(reply::options(&found.allow())));
        }
        let route = route.ok_or_else(|| Refusal::method(&found.allow()))?;
        self.authorize(headers, peer, route.scope)?;
        // Who asks whether we live is always told.
        if !matches!(route.does, Does::Health | Does::Ready) {
            self.count(peer).map_err(Turned::Known)?;
        }
        accepts(headers, route).map_err(Turned::Known)?;
        let names: Vec<&str> = route.parameters.iter().map(|parameter| parameter.name).collect();
        let query = Query::read(uri.query().unwrap_or_default(), &names).map_err(Turned::Known)?;
        Ok(Checked::Does { route, query })
    }

    /// What the request's token, or its way here, lets it do.
    pub(crate) fn scopes(&self, headers: &HeaderMap, peer: Peer) -> Result<Scopes, Refused> {
        self.backend.access().check(headers, peer, &|what| self.backend.fault(what))
    }

    /// Counts a request of somebody who may. Who shows nothing is counted by himself, and takes no room from those who do.
    pub(crate) fn count(&self, peer: Peer) -> Result<(), Refusal> {
        let requests = match peer {
            Peer::Address(_) => &self.requests,
            Peer::Socket => &self.socket_requests,
        };
        requests.take_any().map_err(too_many)
    }

    /// Counts a request of somebody who has not been found to be allowed. Where no token is asked for, it counts like all others.
    fn count_stranger(&self, peer: Peer) -> Result<(), Refusal> {
        if self.backend.access().settings().needs_token() { self.count_page(peer) } else { self.count(peer) }
    }

    /// Counts a request that takes no room from those who may.
    fn count_page(&self, peer: Peer) -> Result<(), Refusal> {
        match peer {
            Peer::Address(address) => self.strangers.take(address).map_err(too_many),
            Peer::Socket => self.count(peer),
        }
    }

    fn authorize(&self, headers: &HeaderMap, peer: Peer, scope: Scope) -> Result<(), Turned> {
        let refusal = match self.scopes(headers, peer) {
            Ok(scopes) if scopes.has(scope) => return Ok(()),
            Ok(_) => Refusal::token(
                StatusCode::FORBIDDEN,
                match scope {
                    Scope::Read => r#"Bearer realm="netproxy", error="insufficient_scope", scope="netproxy:read""#,
                    Scope::Write => r#"Bearer realm="netproxy", error="insufficient_scope", scope="netproxy:write""#,
                },
                format!("the token does not have the scope `{}`", scope.as_str()),
            ),
            Err(Refused::Missing) => Refusal::token(
                StatusCode::UNAUTHORIZED,
                r#"Bearer realm="netproxy""#,
                "a token is needed, as `Authorization: Bearer TOKEN`",
            ),
            Err(Refused::Invalid(what)) => return Err(invalid_token(what)),
            Err(Refused::TooMany(wait)) => return Err(too_many_tokens(wait)),
        };
        Err(Turned::Stranger(refusal))
    }

    async fn act(
        self: &Arc<Self>,
        head: &hyper::http::request::Parts,
        peer: Peer,
        id: Option<u64>,
        route: &'static Route,
        query: &Query,
        body: Incoming,
    ) -> Result<Answer, Refusal> {
        let body = match route.method {
            "GET" => Bytes::new(),
            _ => read(&head.headers, body, route.body).await?,
        };
        let snapshot = self.backend.policy().current();
        let ok = StatusCode::OK;
        Ok(match route.does {
            Does::Health => reply::json(ok, &self.health()),
            Does::Ready => {
                let ready = self.ready();
                reply::json(if ready.ready { ok } else { StatusCode::SERVICE_UNAVAILABLE }, &ready)
            }
            Does::Config => reply::json(ok, &self.config()),
            Does::Patterns => {
                let wanted = views::Wanted::read(query)?;
                // A page of a large policy takes a while.
                let page = tokio::task::spawn_blocking(move || views::patterns(&snapshot, &wanted)).await;
                reply::json(ok, &page.map_err(|_| Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "the page could not be made"))?)
            }
            Does::Blocked => {
                let since = query.number("since", 0, routes::MAX_SAFE)?.unwrap_or(0);
                let limit = query.number("limit", 1, RING as u64)?.unwrap_or(RING as u64);
                self.backend.settled().await;
                reply::json(ok, &self.backend.blocked(since, usize::try_from(limit).unwrap_or(usize::MAX)))
            }
            Does::DrainBlocked => {
                self.backend.settled().await;
                // What is taken out is not missing from what is counted next.
                self.look();
                self.ui.forget();
                reply::json(ok, &model::Drained { drained: self.backend.drain_blocked() })
            }
            Does::Policy => reply::json(ok, &self.policy()),
            Does::Explain => {
                let words =
                    query.text("request").ok_or_else(|| Refusal::bad("`request` is needed, such as `request=GET https://example.com/`"))?;
                reply::json(ok, &explain::explain(&*self.backend, words, query.text("addresses"))?)
            }
            Does::Tunnels => reply::json(ok, &self.tunnels(query)?),
            Does::CloseTunnel => {
                let id = id.unwrap_or_default();
                if !self.backend.close_tunnel(id) {
                    return Err(Refusal::new(StatusCode::NOT_FOUND, format!("there is no open tunnel {id}")));
                }
                reply::json(ok, &model::TunnelClosed { id, status: "closing".to_owned() })
            }
            Does::Events => {
                let (filter, after) = (events::filter(query)?, events::last_seen(&head.headers)?);
                if head.method == Method::HEAD {
                    return Ok(reply::full(ok, "", events::KIND));
                }
                if after.is_some() {
                    // What was told so far is what numbers are compared with.
                    self.backend.settled().await;
                }
                events::follow(self, filter, after, Caller::of(&head.headers, peer))?
            }
            Does::Metrics => {
                let (text, kind) = self.backend.metrics(head.headers.get(ACCEPT).and_then(|accept| accept.to_str().ok()));
                reply::full(ok, text, kind)
            }
            Does::Stats => reply::json(ok, &self.stats()),
            Does::Overview => reply::json(ok, &self.overview().await),
            Does::Mode => reply::json(ok, &self.set_mode(&body)?),
            Does::Reload => reply::json(ok, &self.reload().await?),
            Does::Drain => {
                self.backend.drain();
                let draining = model::Draining { status: "draining".to_owned(), tunnels: self.backend.tunnel_count() };
                reply::json(StatusCode::ACCEPTED, &draining)
            }
            Does::OpenApi => reply::full(ok, include_str!("openapi.json"), reply::JSON),
        })
    }

    pub(crate) fn health(&self) -> model::Health {
        let policy = self.backend.policy();
        let snapshot = policy.current();
        model::Health {
            status: "ok".to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            started: views::rfc3339(views::millis(self.started)),
            policy: HealthPolicy {
                generation: snapshot.generation(),
                digest: snapshot.digest().to_string(),
                profile: snapshot.meta().profile.clone(),
                network: snapshot.meta().network.to_string(),
                mode: snapshot.mode().into(),
                rules: snapshot.rule_count(),
                last_error: policy.last_error(),
            },
            process: self.facts.process.clone(),
        }
    }

    pub(crate) fn ready(&self) -> model::Ready {
        let policy = self.backend.policy();
        let snapshot = policy.current();
        let (status, reason) = if self.backend.is_draining() {
            (Readiness::Draining, Some("it finishes what is open, and accepts no more".to_owned()))
        } else if snapshot.meta().network != Network::Proxied {
            (
                Readiness::Blocked,
                Some(policy.last_error().unwrap_or_else(|| format!("the policy says that the network is {}", snapshot.meta().network))),
            )
        } else if let Some((status, why)) = self.backend.held_up() {
            (status, Some(why.to_owned()))
        } else {
            (Readiness::Ready, None)
        };
        model::Ready { ready: status == Readiness::Ready, status, reason, generation: snapshot.generation() }
    }

    pub(crate) fn config(&self) -> model::Config {
        let snapshot = self.backend.policy().current();
        let settings = self.backend.access().settings();
        model::Config {
            profile: snapshot.meta().profile.clone(),
            network: snapshot.meta().network.to_string(),
            mode: views::mode(&*self.backend, &snapshot),
            listeners: self.facts.listeners.clone(),
            admin: AdminAccess {
                auth: match (settings.token_file.is_some(), settings.shared_secret_file.is_some()) {
                    (false, false) => AuthKind::None,
                    (true, false) => AuthKind::Token,
                    (false, true) => AuthKind::Signed,
                    (true, true) => AuthKind::TokenOrSigned,
                },
                issuer: settings.issuer.clone(),
                audience: settings.audience.clone(),
                hosts: settings.hosts.clone(),
            },
            switches: views::switches(&snapshot),
            mitm: views::mitm(&snapshot),
            unix_sockets: views::unix_sockets(&snapshot),
            limits: views::limits(snapshot.limits()),
            resolver: views::resolver(snapshot.settings()),
            upstream: views::upstream(&snapshot),
            audit: self.backend.audit(),
            workers: u32::try_from(self.facts.workers).unwrap_or(u32::MAX),
            policy_file: self.facts.policy_file.clone(),
        }
    }

    pub(crate) fn policy(&self) -> model::Policy {
        let policy = self.backend.policy();
        let snapshot = policy.current();
        let (major, minor) = snapshot.blob().version();
        let last_error = policy.last_error();
        model::Policy {
            generation: snapshot.generation(),
            digest: snapshot.digest().to_string(),
            format: format!("{major}.{minor}"),
            profile: snapshot.meta().profile.clone(),
            profiles: snapshot.blob().profiles().iter().map(|meta| meta.profile.clone()).collect(),
            network: snapshot.meta().network.to_string(),
            mode: views::mode(&*self.backend, &snapshot),
            rules: snapshot.rule_count(),
            hooks: views::hooks(&snapshot),
            bytes: snapshot.blob().as_bytes().len() as u64,
            layers: views::layers(&snapshot),
            origin: self.facts.origin,
            file: self.facts.policy_file.clone(),
            loaded: views::rfc3339(views::millis(snapshot.loaded())),
            withdrawn: snapshot.meta().network != Network::Proxied && last_error.is_some(),
            last_error,
        }
    }

    fn tunnels(&self, query: &Query) -> Result<model::Tunnels, Refusal> {
        let after = query.number("after", 0, routes::MAX_SAFE)?.unwrap_or(0);
        let limit = query.number("limit", 1, views::MOST)?.unwrap_or(TUNNELS);
        // One more, to know whether there is a next page.
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        let mut tunnels = self.backend.tunnels(after, limit + 1);
        let more = tunnels.len() > limit;
        tunnels.truncate(limit);
        let next = tunnels.last().filter(|_| more).map(|tunnel| tunnel.id);
        Ok(model::Tunnels { tunnels, next, total: self.backend.tunnel_count() })
    }

    pub(crate) fn stats(&self) -> model::Stats {
        let generation = self.backend.policy().current().generation();
        let started = views::rfc3339(views::millis(self.started));
        let lost = self.backend.audit().lost;
        stats::of(&self.backend.counted(), views::millis(SystemTime::now()), started, generation, lost)
    }

    fn set_mode(&self, body: &[u8]) -> Result<model::ModeChanged, Refusal> {
        let bad = |why: String| {
            Refusal::bad(format!("the body is `{{\"mode\":\"limited\"}}`, `{{\"mode\":\"full\"}}` or `{{\"mode\":null}}`: {why}"))
        };
        // A list would be read as its fields in their order.
        if !body.trim_ascii_start().starts_with(b"{") {
            return Err(bad("it is no object".to_owned()));
        }
        let wanted: model::ModeChange = serde_json::from_slice(body).map_err(|error| bad(error.to_string()))?;
        self.backend.set_mode(wanted.mode.map(policy_format::Mode::from)).map_err(|why| Refusal::new(StatusCode::CONFLICT, why))?;
        let snapshot = self.backend.policy().current();
        Ok(model::ModeChanged { status: "ok".to_owned(), mode: views::mode(&*self.backend, &snapshot), generation: snapshot.generation() })
    }

    async fn reload(&self) -> Result<model::Reloaded, Refusal> {
        let before = self.backend.policy().current().generation();
        self.backend.reload().await.map_err(|failure| match failure {
            ReloadFailure::NoFile => Refusal::new(StatusCode::CONFLICT, "there is no policy file to read again"),
            ReloadFailure::Refused(error) => Refusal::new(StatusCode::UNPROCESSABLE_ENTITY, format!("{error}; the policy in force stays")),
        })?;
        let snapshot = self.backend.policy().current();
        let outcome = if snapshot.generation() == before { ReloadOutcome::Unchanged } else { ReloadOutcome::Swapped };
        Ok(model::Reloaded {
            status: "reloaded".to_owned(),
            outcome,
            generation: snapshot.generation(),
            digest: snapshot.digest().to_string(),
        })
    }
}

/// What a listener does that cannot accept.
async fn pause(error: &std::io::Error) {
    /// By then somebody may have closed something.
    const PAUSE: Duration = Duration::from_millis(20);
    if !spare::make_room(error).await {
        tokio::time::sleep(PAUSE).await;
    }
}

/// A request that may be answered.
enum Checked {
    Answered(Answer),
    /// With the dashboard's page.
    Page {
        /// Seconds after which it is to be asked for again.
        refresh: Option<u64>,
        may_write: bool,
    },
    Does {
        route: &'static Route,
        query: Query,
    },
}

/// A request that is refused before its body is read.
enum Turned {
    /// It comes from a web page, or looks as if it did: whoever has it open in a browser here need not know.
    Page(Refusal),
    /// It is not known yet whether he may who asks.
    Stranger(Refusal),
    /// It was counted already.
    Known(Refusal),
}

impl From<Refusal> for Turned {
    fn from(refusal: Refusal) -> Self {
        Self::Stranger(refusal)
    }
}

fn invalid_token(what: String) -> Turned {
    Turned::Stranger(Refusal::token(StatusCode::UNAUTHORIZED, r#"Bearer realm="netproxy", error="invalid_token""#, what))
}

/// Who is told to wait because of too many tokens was counted by those.
fn too_many_tokens(wait: Duration) -> Turned {
    Turned::Known(Refusal::later(StatusCode::TOO_MANY_REQUESTS, wait, "too many tokens from there were not valid"))
}

fn too_many(wait: Duration) -> Refusal {
    Refusal::later(StatusCode::TOO_MANY_REQUESTS, wait, "there are too many requests")
}

/// Whether the client takes what the route answers (RFC 9110, section 12.5.1). Problems are told whatever it takes.
fn accepts(headers: &HeaderMap, route: &Route) -> Result<(), Refusal> {
    let fields: Vec<&str> = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok()).collect();
    let mut ranges = fields.iter().flat_map(|field| field.split(',')).map(str::trim).filter(|range| !range.is_empty()).peekable();
    if ranges.peek().is_none() {
        return Ok(());
    }
    // The closest range decides: of those with the same closeness, the best.
    let mut best: Vec<(u8, bool)> = vec![(0, false); route.kinds.len()];
    for range in ranges {
        let mut parts = range.split(';').map(str::trim);
        let kind = parts.next().unwrap_or_default().to_ascii_lowercase();
        let refused =
            parts.any(|part| part.strip_prefix("q=").is_some_and(|quality| quality.parse().is_ok_and(|quality: f32| quality <= 0.0)));
        for (known, best) in route.kinds.iter().zip(&mut best) {
            let family = known.split('/').next().unwrap_or_default();
            let closeness = match kind.as_str() {
                "*/*" => 1,
                kind if kind.strip_suffix("/*") == Some(family) => 2,
                kind if kind == *known => 3,
                _ => continue,
            };
            if closeness > best.0 || (closeness == best.0 && !refused) {
                *best = (closeness, !refused);
            }
        }
    }
    if best.iter().any(|(_, taken)| *taken) {
        return Ok(());
    }
    Err(Refusal::new(StatusCode::NOT_ACCEPTABLE, format!("what is here is {}", route.kinds.join(" or "))))
}

/// Bodies as programs such as curl call them that were told of no type. Forms of web pages are called that too, and come with what browsers add.
const FORM: &str = "application/x-www-form-urlencoded";

/// The body of a request: JSON. Where none is `needed`, there may be an object with nothing in it.
async fn read(headers: &HeaderMap, mut body: Incoming, needed: bool) -> Result<Bytes, Refusal> {
    if needed && !headers.contains_key(CONTENT_LENGTH) && !headers.contains_key(TRANSFER_ENCODING) {
        return Err(Refusal::new(StatusCode::LENGTH_REQUIRED, "a body is needed, with its length"));
    }
    let too_long = || Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, format!("a body has at most {MAX_BODY} bytes"));
    // One that says so is told before it comes.
    if body.size_hint().lower() > MAX_BODY as u64 {
        leave(body);
        return Err(too_long());
    }
    let bytes = match tokio::time::timeout(BODY_PATIENCE, collect(&mut body)).await {
        Ok(Ok(Some(bytes))) => bytes,
        Ok(Ok(None)) => {
            leave(body);
            return Err(too_long());
        }
        Ok(Err(_)) => return Err(Refusal::bad("the body cannot be read")),
        Err(_) => return Err(Refusal::new(StatusCode::REQUEST_TIMEOUT, "the body did not come in time")),
    };
    if bytes.is_empty() && !needed {
        return Ok(bytes);
    }
    let kind = door::single(headers, &CONTENT_TYPE)?.unwrap_or(FORM);
    let mut parts = kind.split(';').map(str::trim);
    let kind = parts.next().unwrap_or_default();
    let is_json = kind.eq_ignore_ascii_case(reply::JSON) || (kind.eq_ignore_ascii_case(FORM) && door::is_of_a_program(headers));
    if !is_json || !parts.all(|part| part.is_empty() || part.eq_ignore_ascii_case("charset=utf-8")) {
        return Err(Refusal::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "a body is `Content-Type: application/json`"));
    }
    if needed {
        return Ok(bytes);
    }
    match serde_json::from_slice::<serde_json::Map<String, serde_json::Value>>(&bytes) {
        Ok(object) if object.is_empty() => Ok(Bytes::new()),
        _ => Err(Refusal::bad("there is nothing to be told here: without a body, or with `{}`")),
    }
}

/// A body; `None` once it has more than [`MAX_BODY`] bytes.
async fn collect(body: &mut Incoming) -> Result<Option<Bytes>, hyper::Error> {
    let mut bytes = Vec::new();
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame?.into_data() else { continue };
        if bytes.len() + data.len() > MAX_BODY {
            return Ok(None);
        }
        bytes.extend_from_slice(&data);
    }
    Ok(Some(bytes.into()))
}

/// Reads what nobody wants, within bounds and while the answer goes out: a connection that is closed while the client still sends is reset, and the client does not see the answer.
fn leave(mut body: Incoming) {
    if body.is_end_stream() {
        return;
    }
    tokio::spawn(tokio::time::timeout(BODY_PATIENCE, async move {
        let mut seen = 0_usize;
        while let Some(Ok(frame)) = body.frame().await {
            seen = seen.saturating_add(frame.data_ref().map_or(0, Bytes::len));
            if seen > MAX_UNREAD {
                break;
            }
        }
    }));
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;
    use tokio::time::Instant;

    #[tokio::test(start_paused = true)]
    async fn who_follows_events_stays_while_they_are_sent_and_no_longer() {
        let took = async |source: Source| {
            let start = Instant::now();
            had_time(&source).await;
            start.elapsed()
        };
        assert_eq!(took(Source::default()).await, PATIENCE);
        for sent_for in [0, 5, 3600].map(Duration::from_secs) {
            let (here, source) = watch::channel(());
            tokio::spawn(async move {
                tokio::time::sleep(sent_for).await;
                drop(here);
            });
            assert_eq!(took(Mutex::new(Some(source))).await, sent_for.max(PATIENCE) + PATIENCE);
        }
    }
}
