//! One connection from first byte to last: the five stages in their order.

#[cfg(test)]
pub(crate) mod rig;
mod served;
mod slot;
mod socks5;
mod task;
#[cfg(all(test, unix))]
mod tests;
mod unix_socket;

use crate::audit::event::Ending;
use crate::connect::chain::{Came, Form};
use crate::connect::pool::{self, Idle, Secured};
use crate::connect::upstream::Traffic;
use crate::connect::{ConnectError, Connected, Connector, Leads, UpstreamError, Watch};
use crate::counters::{Counter, Counters, Reached, Timed, reached};
use crate::decide::deny::Denial;
use crate::decide::guard::{Cause, Guard};
use crate::decide::open::Open;
use crate::decide::{Decider, No, Question, Route, Told};
use crate::inside::judge::Facts;
use crate::inside::{Inside, Opening};
use crate::limits::{Gate, Meter, Place, Upload, head_fits};
use crate::listen::Service;
use crate::listen::detect::{self, Mismatch};
use crate::parse::forwarding::Forwarding;
use crate::parse::http::{self, Ask, BadRequest, LastHead, Lowered, RequestHead};
use crate::parse::target::{HTTP_PORT, Target};
use crate::patience::LazyPatience;
use crate::relay::http::{ExchangeError, Exchanged, Flows, Sides, Span, exchange};
use crate::relay::tunnel::Tunnel;
use crate::reply;
use crate::shutdown::{GRACE, Shutdown};
use crate::signal::Ear;
use crate::stream::{Buffered, Stream};
use crate::tunnels::Listed;
use bytes::Buf;
use policy_format::{Limits, Protocol};
use served::{Clear, Opened, Served};
use slot::{Job, SetUp};
use std::fmt::Display;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use tokio::io::AsyncWriteExt;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, timeout, timeout_at};

/// What all connections use.
pub(crate) struct Shared {
    pub(crate) decider: Arc<Decider>,
    pub(crate) connector: Connector,
    pub(crate) counters: Arc<Counters>,
    pub(crate) gate: Gate,
    /// Our name in `Via`.
    pub(crate) pseudonym: String,
}

impl Shared {
    /// How a request has come, to tell those on its way.
    pub(crate) fn came<'a>(&'a self, head: Option<&'a RequestHead>) -> Came<'a> {
        Came { head, own: &self.pseudonym }
    }

    /// What the policy in force has added to heads.
    fn forwarding(&self, client: SocketAddr) -> Forwarding<'_> {
        let snapshot = self.decider.policy().look();
        let settings = snapshot.settings();
        Forwarding { via: settings.via.then_some(self.pseudonym.as_str()), forwarded: settings.forwarded, client: client.ip() }
    }
}

/// Serves one client connection, in a task, until either side is done; `permit` is held as long. One too many of a client is closed at once.
pub(crate) fn serve(
    stream: Stream,
    client: SocketAddr,
    service: Service,
    shared: &Arc<Shared>,
    shutdown: &Shutdown,
    permit: OwnedSemaphorePermit,
) {
    shared.counters.count(if service == Service::Http { Counter::HttpConnections } else { Counter::SocksConnections });
    let open = shared.counters.hold(Counter::ConnectionsOpen);
    // Closed without a word: a word for each would be more work than the flood is for its sender.
    let one = match shared.gate.client(client.ip(), &shared.decider.limits()) {
        Ok(one) => one,
        Err(reached) => return shared.gate.reached(reached, Some(client), None),
    };
    let set_up = SetUp::new(Job { stream, client, service, shared: Arc::clone(shared), shutdown: shutdown.clone() });
    task::run(Served::new(set_up, Arc::clone(shared), open, one, permit));
}

pub(crate) struct Connection<'s> {
    pub(crate) client: Buffered,
    pub(crate) address: SocketAddr,
    pub(crate) shared: &'s Arc<Shared>,
    /// Those of the policy that the last request was decided under; at first, of the one that was in force.
    pub(crate) limits: Arc<Limits>,
    pub(crate) shutdown: Shutdown,
    pub(crate) ear: Ear,
    pub(crate) patience: LazyPatience,
    pub(crate) flows: Flows,
    /// A request was read.
    pub(crate) served: bool,
    /// The connection of the last request.
    pub(crate) idle: Option<(Arc<Target>, Box<Idle>)>,
    /// It was others' before: what cannot be sent again does not go over it.
    pub(crate) borrowed: bool,
    /// Its requests are this client's only.
    pub(crate) bound: bool,
    /// What is kept of the head of the last request.
    pub(crate) last: LastHead,
    /// The tunnel whose TLS was opened: what is read comes from inside of it.
    pub(crate) inside: Option<Box<Inside>>,
    /// The tunnel that requests are read out of, opened or in the clear.
    pub(crate) tunnel: Option<Listed>,
    /// Where that leads, if no rule allowed it and somebody who was asked did: requests in it that go there are let on as it was.
    pub(crate) granted: Option<Arc<Target>>,
    /// How the tunnel has ended, as far as is known.
    pub(crate) over: Ending,
    /// When the last exchange did, if nothing has happened since.
    pub(crate) ended: Option<Instant>,
}

/// What becomes of the client's connection.
pub(crate) enum Next {
    Request,
    Close,
    /// The same request under the number that it has: somebody who was asked lets it on.
    Granted(u64),
    /// A tunnel that has to be read.
    Inside(Box<Opening>),
    /// Bytes both ways.
    Tunnel(Buffered, Box<Guard>, Upload, Option<Box<Clear>>),
}

impl<'s> Connection<'s> {
    fn new(client: Buffered, address: SocketAddr, shared: &'s Arc<Shared>, shutdown: Shutdown) -> Self {
        let ear = shutdown.ear();
        Self::with_ear(ear, client, address, shared, shutdown)
    }

    fn with_ear(ear: Ear, client: Buffered, address: SocketAddr, shared: &'s Arc<Shared>, shutdown: Shutdown) -> Self {
        let limits = shared.decider.limits();
        let patience = LazyPatience::new(limits.head_timeout);
        Self {
            client,
            address,
            shared,
            limits,
            shutdown,
            ear,
            patience,
            flows: Flows::new(&shared.counters),
            served: false,
            idle: None,
            borrowed: false,
            bound: false,
            last: LastHead::default(),
            inside: None,
            tunnel: None,
            granted: None,
            over: Ending::Done,
            ended: None,
        }
    }

    /// From the first byte to the last, or to what does not end here: a tunnel, or one that has to be read.
    ///
    /// The future of a plain request is part of the connection's, of which some are kept for one client after the other: it stays small (`slot.rs`), and what is rare and large is boxed.
    async fn run(&mut self, service: Service) -> Next {
        // Who says nothing is answered nothing.
        match self.wait(Until::AfterShutdown).await {
            Wait::Some => {}
            Wait::End => return Next::Close,
            Wait::TooLong => {
                self.reached(reached!(head_timeout));
                return Next::Close;
            }
        }
        let spoken = detect::spoken(self.client.buffer.first().copied().unwrap_or_default());
        match (detect::mismatch(service, spoken), service) {
            (None, Service::Http) => self.http().await,
            (None, Service::Socks5) => Box::pin(self.socks5()).await,
            (Some(mismatch), _) => {
                self.mismatch(mismatch).await;
                Next::Close
            }
        }
    }

    /// What becomes of it once no more is read here: what is inside of a tunnel is read, up to a tunnel that is left alone.
    async fn go_on(mut self, mut next: Next) -> Option<Box<Opened>> {
        loop {
            next = match next {
                Next::Inside(opening) => {
                    self = Box::pin(self.open_inside(*opening)).await?;
                    Box::pin(self.http()).await
                }
                Next::Tunnel(upstream, guard, upload, clear) => return Some(self.open(upstream, *guard, upload, clear)),
                Next::Request | Next::Close | Next::Granted(_) => return None,
            };
        }
    }

    /// Waits for bytes of the client until patience is over, or until the shutdown, if it may end the connection here.
    pub(crate) async fn wait(&mut self, until: Until) -> Wait {
        let mut told = false;
        let Self { client, patience, ear, shutdown, tunnel, over, .. } = self;
        poll_fn(|cx| {
            if let Poll::Ready(read) = client.poll_more(cx) {
                return Poll::Ready(if matches!(read, Ok(1..)) { Wait::Some } else { Wait::End });
            }
            if let Some(tunnel) = tunnel {
                // The bell first, as below.
                while ear.poll_rung(cx).is_ready() {}
                if tunnel.is_closing() {
                    *over = Ending::Closed;
                    return Poll::Ready(Wait::End);
                }
            }
            if until != Until::Patience {
                // The bell first: a shutdown that starts after this look rings.
                while ear.poll_rung(cx).is_ready() {}
                if shutdown.has_started() && until == Until::Shutdown {
                    *over = Ending::Stopped;
                    return Poll::Ready(Wait::End);
                }
                if shutdown.has_started() && !std::mem::replace(&mut told, true) {
                    patience.set(GRACE);
                }
            }
            patience.poll_over(cx).map(|()| if told { Wait::End } else { Wait::TooLong })
        })
        .await
    }

    /// HTTP: requests one after the other, to the last, or to a tunnel.
    async fn http(&mut self) -> Next {
        loop {
            let head = match self.read_head().await {
                Some(Ok(head)) => head,
                Some(Err(bad)) => {
                    self.shared.counters.count(Counter::BadHttpRequests);
                    self.say_and_close(&reply::bad_request(bad)).await;
                    break;
                }
                None => break,
            };
            let forwarding = self.shared.forwarding(self.address);
            let next = match reply::own(&head, &forwarding, self.can_go_on(&head)) {
                Some(answer) => self.answer(&answer, self.can_go_on(&head)).await,
                None if head.ask == Ask::Connect => Box::pin(self.connect(&head)).await,
                None => match self.forward(&head, &forwarding, None).await {
                    Next::Granted(id) => Box::pin(self.forward(&head, &forwarding, Some(id))).await,
                    next => next,
                },
            };
            match next {
                Next::Request if !self.shutdown.has_started() => self.last.keep(head),
                Next::Request => {
                    self.over = Ending::Stopped;
                    break;
                }
                Next::Close | Next::Granted(_) => break,
                Next::Inside(_) => {
                    self.give_back();
                    return next;
                }
                Next::Tunnel(..) => return next,
            }
        }
        self.give_back();
        self.end_tunnel(self.over);
        Next::Close
    }

    /// The tunnel that requests were read out of is over.
    pub(crate) fn end_tunnel(&mut self, ending: Ending) {
        if let Some(tunnel) = self.tunnel.take() {
            tunnel.end(if tunnel.is_closing() { Ending::Closed } else { ending });
        }
    }

    /// The next request head; `None` when no more will come.
    async fn read_head(&mut self) -> Option<Result<RequestHead, BadRequest>> {
        let now = self.ended.take();
        if self.client.buffer.is_empty() {
            // Between requests, a shutdown ends the connection; once a request has begun, it is served.
            match self.wait_for_next(now.unwrap_or_else(Instant::now)).await {
                Wait::Some => {}
                Wait::End => return None,
                Wait::TooLong => {
                    self.reached(reached!(keep_alive_timeout));
                    self.over = reached!(keep_alive_timeout).into();
                    return None;
                }
            }
        }
        // The first head has to be there so long after the connection was accepted.
        let mut started = !std::mem::take(&mut self.served);
        let mut seen = 0;
        loop {
            while let blank @ 1.. = http::leading_blank(&self.client.buffer) {
                self.client.buffer.advance(blank);
                seen = 0;
            }
            let end = http::head_end(&self.client.buffer, seen);
            if let Err((reached, bad)) = head_fits(&self.client.buffer, end, &self.limits) {
                self.reached(reached);
                return Some(Err(bad));
            }
            if let Some(end) = end {
                self.served = true;
                let parsed = self.client.buffer.get(..end).map(|head| match &self.inside {
                    None => self.last.parse(head, self.limits.head_fields),
                    Some(inside) => http::parse_inside(head, self.limits.head_fields, &inside.target),
                });
                self.client.buffer.advance(end);
                if matches!(parsed, Some(Err(BadRequest { status: 431, .. }))) {
                    self.reached(reached!(head_fields));
                }
                return parsed.map(|parsed| parsed.and_then(|head| self.fits_in_tunnel(head)));
            }
            seen = self.client.buffer.len();
            if !std::mem::replace(&mut started, true) {
                self.patience.set(self.limits.head_timeout);
            }
            match self.wait(Until::Patience).await {
                Wait::Some => {}
                Wait::End => return None,
                Wait::TooLong => {
                    self.reached(reached!(head_timeout));
                    self.over = reached!(head_timeout).into();
                    return Some(Err(BadRequest { status: 408, message: "the request head did not come in time" }));
                }
            }
        }
    }

    /// Waits for the next request since `now`. The connection of the last one waits no longer than one that is anybody's.
    async fn wait_for_next(&mut self, now: Instant) -> Wait {
        let (client, upstream) = (self.limits.keep_alive_timeout, self.limits.pool_timeout);
        if self.idle.is_some() && upstream < client {
            self.patience.set_until(now + upstream);
            match self.wait(Until::Shutdown).await {
                Wait::TooLong => {
                    self.idle = None;
                    pool::evicted(Counter::PoolExpired, 1);
                }
                other => return other,
            }
        }
        self.patience.set_until(now + client);
        self.wait(Until::Shutdown).await
    }

    /// What is asked for in a tunnel in the clear is asked of who it leads to, or of another server: no tunnel in a tunnel, and nothing on this machine's file system.
    fn fits_in_tunnel(&self, head: RequestHead) -> Result<RequestHead, BadRequest> {
        let refused = match () {
            () if self.tunnel.is_none() || self.inside.is_some() => return Ok(head),
            () if head.ask == Ask::Connect => "CONNECT inside a tunnel",
            () if head.unix_socket.is_some() => "x-unix-socket inside a tunnel",
            () => return Ok(head),
        };
        Err(BadRequest { status: 400, message: refused })
    }

    /// Whether a request in a tunnel in the clear is for whom that leads to.
    fn is_tunnels_own(&self, target: &Target) -> bool {
        self.inside.is_none()
            && self.tunnel.as_ref().is_some_and(|tunnel| tunnel.port() == target.port && tunnel.host() == target.host.to_string())
    }

    /// A limit was reached that is of no target.
    pub(crate) fn reached(&self, reached: Reached) {
        self.shared.gate.reached(reached, Some(self.address), None);
    }

    pub(crate) fn question<'q>(&self, protocol: Protocol, target: &'q Target) -> Question<'q> {
        if let Some(counter) = Counter::requests(protocol) {
            self.shared.counters.count(counter);
        }
        Question::new(self.address, protocol, target)
    }

    /// Puts what no rule allows to whoever embeds the proxy, for as long as the client is there.
    async fn ask(&mut self, question: Question<'_>, no: No<'_>) -> Asked {
        let decider = &self.shared.decider;
        let Some(mut asking) = decider.ask(&no) else { return Asked::Denied(decider.refuse(no)) };
        let (client, most) = (&mut self.client, self.limits.head_bytes);
        let said = poll_fn(|cx| {
            if let Poll::Ready(said) = asking.as_mut().poll(cx) {
                return Poll::Ready(Some(said));
            }
            // What it sends meanwhile is kept, within bounds.
            while client.buffer.len() < most {
                match client.poll_more(cx) {
                    Poll::Ready(Ok(1..)) => {}
                    Poll::Ready(_) => return Poll::Ready(None),
                    Poll::Pending => break,
                }
            }
            Poll::Pending
        });
        match said.await {
            Some(said) => match decider.answered(question, said) {
                Ok(_) => Asked::Granted,
                Err(denial) => Asked::Denied(denial),
            },
            None => {
                // Nobody is there to hear it.
                drop(decider.refuse(no));
                Asked::Gone
            }
        }
    }

    /// A request, plain or inside TLS: decide → connect, or use a connection that is open already → relay. `granted`: its number, where somebody who was asked lets it on.
    async fn forward(&mut self, head: &RequestHead, forwarding: &Forwarding<'_>, granted: Option<u64>) -> Next {
        let protocol = if head.secure { Protocol::Https } else { Protocol::Http };
        let question = match granted {
            Some(id) => Question { granted: true, ..Question::numbered(id, self.address, protocol, &head.target) },
            None => {
                let granted = self.granted.as_deref().is_some_and(|target| *target == *head.target);
                Question { granted, ..self.question(protocol, &head.target) }
            }
        };
        let question = Question { method: Some(&head.method), path: head.ask.path(), ..question };
        if let Some(path) = &head.unix_socket {
            return Box::pin(self.unix_socket(head, forwarding, path, question)).await;
        }
        let looked_at = head.secure || self.shared.decider.wants(&head.target);
        let lowered = if looked_at { head.lowered() } else { Lowered::default() };
        let headers = lowered.list();
        let seen = policy_format::Inside { query: head.query(), headers: &headers, body: None };
        let mut question = Question { inside: head.secure.then_some(&seen), ..question };
        let mut ahead = None;
        let mut told = false;
        if let Some(most) = question.inside.and_then(|_| self.shared.decider.body_wanted(&question)) {
            match Box::pin(self.body_ahead(head, most)).await {
                Ok(read) => (ahead, told) = read,
                Err(next) => return next,
            }
        }
        let with_body = policy_format::Inside { body: ahead.as_deref(), ..seen };
        if ahead.is_some() {
            question.inside = Some(&with_body);
        }
        let traffic = match (head.secure, &head.upgrade) {
            (true, _) => Traffic::Tunnel,
            // Also where other proxies are for what is no tunnel: the way that stands is the one that it has.
            (false, _) if self.is_tunnels_own(&head.target) => Traffic::Tunnel,
            (false, Some(_)) => Traffic::Upgrade,
            (false, None) => Traffic::Http,
        };
        let mut may_reuse = true;
        // Of a request that is sent once more.
        let mut begun: Option<Open<'_>> = None;
        let shared = self.shared;
        let (gate, host) = (&shared.gate, &head.target.host);
        loop {
            let secured = match self.secured().await {
                Ok(secured) => secured,
                Err(error) => {
                    end(&mut begun, error.into());
                    return Box::pin(self.refuse_or_fail(head, question, error)).await;
                }
            };
            let (mut found, mut refused) = (None, None);
            if may_reuse {
                match self.waiting(head, question, traffic, &secured) {
                    Ok(waiting) => found = waiting,
                    Err(no) => refused = Some(no),
                }
            }
            let reused = found.is_some();
            let Standing { upstream, route } = match &mut found {
                Some(waiting) => waiting,
                none => match Box::pin(self.new_way(head, question, refused, traffic, &secured, &mut begun)).await {
                    Ok(new) => none.insert(new),
                    Err(next) => return next,
                },
            };
            if begun.is_some() {
                route.put_open(begun.take());
            }
            let (plan, open) = route.parts();
            if !Arc::ptr_eq(&self.limits, plan.snapshot().limits()) {
                self.limits = Arc::clone(plan.snapshot().limits());
            }
            let Idle { stream: upstream, leads, .. } = &mut **upstream;
            let form = leads.form();
            let peer = upstream.peer().map(|peer| peer.ip());
            let upload = match gate.body(host, head.body, &self.limits) {
                Ok(upload) => Meter::up(&shared.counters, upload),
                Err(reached) => {
                    end(open, reached.into());
                    return self.limited(head, &head.target, reached).await;
                }
            };
            // Who may switch to another protocol may become a tunnel.
            let room = match head.upgrade.as_ref().map(|_| self.room(&head.target, &self.limits)).transpose() {
                Ok(room) => room,
                Err(reached) => {
                    end(open, reached.into());
                    return self.limited(head, &head.target, reached).await;
                }
            };
            let actions = self.shared.decider.actions(
                plan,
                &Facts { target: &head.target, method: &head.method, path_and_query: head.path_and_query(), headers: &headers, body: None },
            );
            let mut actions = match actions {
                Ok(actions) => actions,
                Err(answer) => {
                    end(open, Ending::Upstream("secret-unavailable"));
                    let keep_alive = self.can_go_on(head);
                    return self.answer(&reply::answer(&answer, &head.method, keep_alive), keep_alive).await;
                }
            };
            if told {
                actions.strip_request.push("expect".to_owned());
            }
            let mut unheard = None;
            let tunnel = self.tunnel.as_ref();
            let decided_by = plan.snapshot().generation();
            let still_holds = || shared.decider.policy().generation() == decided_by;
            let sides = Sides {
                client: &mut self.client,
                upstream,
                flows: &mut self.flows,
                patience: &mut self.patience,
                ear: &mut self.ear,
                limits: &self.limits,
                actions: &actions,
                half_closes: tunnel.is_some() && self.inside.is_none(),
                // What else goes out goes while what is known of the connection is new.
                still_holds: (reused && !self.bound && !self.borrowed && may_repeat(head)).then_some(&still_holds),
                reached: &|reached| gate.reached(reached, Some(question.client), Some(question.target)),
                span: span(open, &mut unheard),
            };
            // A hook has read one request; behind a switch to what is no WebSocket there may be any number of others.
            let read_only = plan.read_only() || (plan.hook().is_some() && !head.is_websocket());
            let (mut denial, mut heard) = (None, false);
            let cause = || {
                if tunnel.is_some_and(|tunnel| tunnel.is_closing()) {
                    return Some(Cause::Closed);
                }
                denial = plan.revoked(peer, heard);
                heard |= denial.is_some();
                denial.as_ref().map(|_| Cause::Revoked)
            };
            let at_proxy = matches!(form, Form::Absolute(_));
            let exchanged = match exchange(sides, head, form, forwarding, upload, read_only, cause) {
                Ok(exchange) => exchange.await,
                Err(error) => Err(error),
            };
            if exchanged.is_err() {
                // What was to go either way belongs to nobody else.
                self.flows = Flows::new(&shared.counters);
            }
            let seen = span(open, &mut unheard);
            if let (Some(began), Some(answered)) = (seen.began, seen.answered) {
                shared.counters.observe(Timed::FirstByte, answered.saturating_duration_since(began));
            }
            self.ended = seen.ended;
            if let Some(tunnel) = tunnel {
                tunnel.add(seen.up, seen.down);
            }
            match exchanged {
                Ok(Exchanged::Done { client_reusable, upstream_reusable, bound, unread }) => {
                    end(open, Ending::Done);
                    if upstream_reusable && !pool::keeps(&self.limits) {
                        pool::evicted(Counter::PoolFull, 1);
                    } else if upstream_reusable {
                        self.bound = bound || (reused && self.bound);
                        leads.keep(route.kept_decision());
                        self.idle = found.map(|standing| (Arc::clone(&head.target), standing.upstream));
                        self.borrowed = false;
                    }
                    if client_reusable {
                        return Next::Request;
                    }
                    if let Some(goodbye) = self.goodbye(unread, head.secure) {
                        goodbye.await;
                    }
                    return Next::Close;
                }
                Ok(Exchanged::Upgraded) => {
                    // Nobody offered to, if there is no room.
                    let Some(((place, upload), Standing { upstream, route })) = room.zip(found) else {
                        return Next::Close;
                    };
                    let upstream = upstream.stream;
                    let guard = Box::new(self.guard(&upstream, route, false, place));
                    return Next::Tunnel(upstream, guard, upload, None);
                }
                // The origin closed an idle connection while the request was on its way: nothing was answered, and asking again is safe (RFC 9110, section 9.2.2).
                Err(ExchangeError::BeforeResponse(UpstreamError::Closed)) if reused && may_repeat(head) => {
                    may_reuse = false;
                    question.told = Told::Allowed;
                    begun = route.take_open();
                    if let Some(begun) = &mut begun {
                        begun.again();
                    }
                }
                Err(ExchangeError::Revoked) => {
                    end(open, Ending::Revoked);
                    return self.revoked(head, denial).await;
                }
                Err(error) => {
                    let error = if at_proxy { error.at_proxy() } else { error };
                    self.over = Ending::Broken;
                    ended_by(open, error);
                    return self.broke_off(head, &head.target, &head.target, error).await;
                }
            }
        }
    }

    /// The connection of the request before, or one that waits for whoever has a request for its target; and the decision that lets this one go over it. Where that is a
    /// refusal, nobody was told of it yet, and the connection is kept.
    fn waiting<'q>(
        &mut self,
        head: &RequestHead,
        question: Question<'q>,
        traffic: Traffic,
        secured: &Secured,
    ) -> Result<Option<Standing<'q>>, No<'q>>
    where
        's: 'q,
    {
        let Some(idle) = self.reusable(&head.target, secured, may_repeat(head)) else { return Ok(None) };
        match self.reuse(question, traffic, &idle) {
            Ok(Some(route)) => {
                self.shared.counters.count(Counter::UpstreamReused);
                Ok(Some(Standing { upstream: idle, route }))
            }
            Ok(None) => Ok(None),
            Err(no) => {
                // The next one may be allowed.
                self.idle = Some((Arc::clone(&head.target), idle));
                Err(no)
            }
        }
    }

    /// Decide → connect, by a new connection; where what waits is `refused`, that is what was decided. `open`: of a request that is sent once more. Who gets none was told why.
    async fn new_way<'q>(
        &mut self,
        head: &RequestHead,
        question: Question<'q>,
        refused: Option<No<'q>>,
        traffic: Traffic,
        secured: &Secured,
        open: &mut Option<Open<'_>>,
    ) -> Result<Standing<'q>, Next>
    where
        's: 'q,
    {
        let shared: &'s Shared = self.shared;
        let permit = match refused.map_or_else(|| shared.decider.name(question), Err) {
            Ok(permit) => permit,
            Err(no) => {
                end(open, Ending::Revoked);
                return Err(self.denied(head, question, no).await);
            }
        };
        if let Err(reached) = shared.gate.body(&head.target.host, head.body, &self.limits) {
            permit.end(reached.into());
            end(open, reached.into());
            return Err(self.limited(head, &head.target, reached).await);
        }
        let mut watch = Watch { ear: &mut self.ear, tunnel: self.tunnel.as_ref() };
        match shared.connect(permit, traffic, secured.as_ref(), head, &mut watch).await {
            Ok(Connected { stream, route, form }) => {
                shared.counters.count(Counter::UpstreamOpened);
                let upstream = Idle::new(stream, Leads::new(&route, form), secured.clone());
                Ok(Standing { upstream, route })
            }
            Err(ConnectError::Denied(denial)) => {
                end(open, Ending::Revoked);
                Err(self.deny(head, &denial).await)
            }
            Err(ConnectError::Closed) => {
                end(open, Ending::Closed);
                self.over = Ending::Closed;
                Err(Next::Close)
            }
            Err(ConnectError::Upstream(error)) => {
                end(open, error.into());
                Err(self.upstream_failed(head, &head.target, error).await)
            }
        }
    }

    /// Tells the client why there is no response, if it can still be told. `shown` is how the target is called to it.
    async fn broke_off(&mut self, head: &RequestHead, target: &Target, shown: &(dyn Display + Sync), error: ExchangeError) -> Next {
        match error {
            ExchangeError::BeforeResponse(error) => return self.upstream_failed(head, shown, error).await,
            ExchangeError::BadBody(message) => self.say_and_close(&reply::bad_request(BadRequest { status: 400, message })).await,
            ExchangeError::Limited(reached) => self.say_and_close(&reply::limited(reached, target, &head.method, false)).await,
            ExchangeError::Revoked | ExchangeError::Closed | ExchangeError::Broken => {}
        }
        Next::Close
    }

    /// The connection of the last request, if it went to the same target and still stands, or another one that waits.
    /// What cannot be sent again goes over this client's own, if the system has no news of it, or over a new one: an origin may be closing it. The system is asked, too, where
    /// what an answer to HEAD announces may follow it: what is known of the stream is as old as this turn of the runtime.
    fn reusable(&mut self, target: &Arc<Target>, secured: &Secured, may_repeat: bool) -> Option<Box<Idle>> {
        match self.idle.take() {
            Some((last, mut idle)) if last == *target && pool::same(secured, &idle.tls) && (may_repeat || !self.borrowed) => {
                let stands = if may_repeat && !self.bound { idle.stream.is_quiet() } else { idle.stream.is_silent() };
                stands.then_some(idle)
            }
            Some(other) => {
                self.idle = Some(other);
                self.give_back();
                None
            }
            None => None,
        }
        .or_else(|| {
            (self.bound, self.borrowed) = (false, true);
            if may_repeat { pool::take(target, |tls| pool::same(secured, tls)) } else { None }
        })
    }

    /// Gives the connection of the last request to whoever has a request for its target, unless it is this client's only.
    fn give_back(&mut self) {
        if let Some((target, idle)) = self.idle.take().filter(|_| !self.bound) {
            pool::put(&target, idle, &self.limits);
        }
    }

    /// A connection that is open already, if the policy in force still has this way for the request.
    fn reuse<'q>(&self, question: Question<'q>, traffic: Traffic, idle: &Idle) -> Result<Option<Route<'q>>, No<'q>>
    where
        's: 'q,
    {
        let Idle { stream, leads, .. } = idle;
        let Some(peer) = stream.peer().filter(|_| leads.carries(traffic)) else { return Ok(None) };
        let shared: &'s Shared = self.shared;
        shared.decider.reuse(question, traffic, leads, peer.ip())
    }

    /// CONNECT: decide → connect → say so → relay, or open.
    async fn connect(&mut self, head: &RequestHead) -> Next {
        match self.stand(Protocol::Connect, &head.target, Some(head)).await {
            Ok(stands) => {
                if self.say(reply::TUNNEL_STANDS).await {
                    return self.begin(stands, Protocol::Connect, &head.target);
                }
            }
            Err(NoTunnel::Denied(denial)) => self.say_and_close(&reply::blocked(&denial, "GET", false)).await,
            Err(NoTunnel::Limited(reached)) => self.say_and_close(&reply::limited(reached, &head.target, "GET", false)).await,
            Err(NoTunnel::Upstream(error)) => self.say_and_close(&reply::upstream_failed(&head.target, error, "GET", false)).await,
            Err(NoTunnel::Gone) => {}
        }
        Next::Close
    }

    /// Decides on a tunnel, and opens the way for it. `head` asked for it, if it was one.
    async fn stand<'t>(&mut self, protocol: Protocol, target: &'t Target, head: Option<&RequestHead>) -> Result<Stands<'t>, NoTunnel>
    where
        's: 't,
    {
        let (shared, mut question): (&'s Shared, _) = (self.shared, self.question(protocol, target));
        let mut permit = loop {
            match shared.decider.name(question) {
                Ok(permit) => break permit,
                Err(no) => match Box::pin(self.ask(question, no)).await {
                    Asked::Granted => question.granted = true,
                    Asked::Denied(denial) => return Err(NoTunnel::Denied(denial)),
                    Asked::Gone => return Err(NoTunnel::Gone),
                },
            }
        };
        let room = match self.room(target, &permit.limits()) {
            Ok(room) => room,
            Err(reached) => {
                permit.end(reached.into());
                shared.gate.reached(reached, Some(self.address), Some(target));
                return Err(NoTunnel::Limited(reached));
            }
        };
        // Where requests will be read, a connection to the origin that waits for one shows that the origin stands.
        let mut kept = None;
        if permit.intercept()
            && let Some(idle) = pool::take(target, Option::is_some)
        {
            match self.reuse(question, Traffic::Tunnel, &idle) {
                Ok(Some(route)) if route.intercept() => {
                    shared.counters.count(Counter::UpstreamReused);
                    let Idle { stream, leads, tls } = *idle;
                    return Ok(Stands { connected: Connected { stream, route, form: leads.form().clone() }, room, tls });
                }
                // Another policy has come in between.
                Ok(Some(mut route)) => (kept, permit) = (route.take_open(), permit.told()),
                Ok(None) => {}
                Err(no) => return Err(NoTunnel::Denied(shared.decider.refuse(no))),
            }
        }
        // There are no tunnels inside of tunnels.
        let mut watch = Watch { ear: &mut self.ear, tunnel: None };
        match shared.connector.connect(permit, Traffic::Tunnel, shared.came(head), &mut watch).await {
            Ok(mut connected) => {
                shared.counters.count(Counter::UpstreamOpened);
                if kept.is_some() {
                    connected.route.put_open(kept);
                }
                Ok(Stands { connected, room, tls: None })
            }
            Err(ConnectError::Denied(denial)) => {
                end(&mut kept, Ending::Revoked);
                Err(NoTunnel::Denied(denial))
            }
            Err(ConnectError::Closed) => {
                end(&mut kept, Ending::Closed);
                Err(NoTunnel::Upstream(UpstreamError::Closed))
            }
            Err(ConnectError::Upstream(error)) => {
                end(&mut kept, error.into());
                shared.gate.upstream_failed(error, self.address, target);
                Err(NoTunnel::Upstream(error))
            }
        }
    }

    /// What follows once the client was told that the tunnel stands.
    fn begin(&mut self, stands: Stands<'_>, protocol: Protocol, target: &Target) -> Next {
        let Stands { connected: Connected { stream: upstream, mut route, form }, room, tls } = stands;
        if !route.intercept() {
            let shutdown = self.shutdown.clone();
            let clear = (target.port == HTTP_PORT).then(|| Box::new(Clear { leads: Leads::new(&route, form), shutdown }));
            let (place, upload) = room;
            let guard = Box::new(self.guard(&upstream, route, true, place));
            return Next::Tunnel(upstream, guard, upload, clear);
        }
        self.limits = Arc::clone(route.snapshot().limits());
        let idle = Idle::new(upstream, Leads::new(&route, form), tls);
        let (granted, snapshot) = (route.question().granted, Arc::clone(route.snapshot()));
        let live = route.live(&self.shared.decider, room.0, false);
        Next::Inside(Box::new(Opening { protocol, target: target.clone(), idle, live, granted, snapshot }))
    }

    /// Room for a tunnel, and for what it sends.
    fn room(&self, target: &Target, limits: &Limits) -> Result<Room, Reached> {
        let gate = &self.shared.gate;
        Ok((gate.tunnel(&target.host, limits)?, gate.stream(&target.host, limits)?))
    }

    fn open(self, upstream: Buffered, guard: Guard, upload: Upload, clear: Option<Box<Clear>>) -> Box<Opened> {
        let counters = &self.shared.counters;
        let meters = Meter::tunnel(guard.live().live(), upload);
        if let Some(outer) = self.tunnel {
            // It is what goes on now.
            outer.end(Ending::Done);
        }
        counters.count(Counter::tunnels(guard.live().protocol()));
        let tunnel = Tunnel::new(self.client, upstream, guard, meters, &self.limits);
        Box::new(Opened { tunnel, clear })
    }

    /// Who watches over a tunnel to `upstream`. `look`: what the client wants in there is not known yet.
    fn guard(&mut self, upstream: &Buffered, mut route: Route<'_>, look: bool, place: Place) -> Guard {
        let peer = upstream.peer().map(|peer| peer.ip());
        self.limits = Arc::clone(route.snapshot().limits());
        let live = route.live(&self.shared.decider, place, true);
        route.guard(self.shutdown.ear(), peer, look, live)
    }

    /// A request may not go on, unless somebody who may be asked lets it.
    async fn denied(&mut self, head: &RequestHead, question: Question<'_>, no: No<'_>) -> Next {
        match Box::pin(self.ask(question, no)).await {
            Asked::Granted => Next::Granted(question.id),
            Asked::Denied(denial) => self.deny(head, &denial).await,
            Asked::Gone => Next::Close,
        }
    }

    async fn deny(&mut self, head: &RequestHead, denial: &Denial) -> Next {
        let keep_alive = self.can_go_on(head);
        self.answer(&reply::blocked(denial, &head.method, keep_alive), keep_alive).await
    }

    /// What was allowed is not any more, and nothing was answered yet.
    async fn revoked(&mut self, head: &RequestHead, denial: Option<Box<Denial>>) -> Next {
        match denial {
            Some(denial) => self.deny(head, &denial).await,
            None => Next::Close,
        }
    }

    async fn limited(&mut self, head: &RequestHead, target: &Target, reached: Reached) -> Next {
        self.shared.gate.reached(reached, Some(self.address), Some(target));
        let keep_alive = self.can_go_on(head);
        self.answer(&reply::limited(reached, target, &head.method, keep_alive), keep_alive).await
    }

    /// There is no way to the origin, whoever asks; but what is not allowed is told that and nothing else.
    async fn refuse_or_fail(&mut self, head: &RequestHead, question: Question<'_>, error: UpstreamError) -> Next {
        let shared = self.shared;
        match shared.decider.name(question) {
            Ok(permit) => {
                permit.failed(error);
                self.upstream_failed(head, &head.target, error).await
            }
            Err(no) => self.denied(head, question, no).await,
        }
    }

    async fn upstream_failed(&mut self, head: &RequestHead, target: &(dyn Display + Sync), error: UpstreamError) -> Next {
        self.shared.gate.upstream_failed(error, self.address, &head.target);
        let keep_alive = self.can_go_on(head);
        self.answer(&reply::upstream_failed(target, error, &head.method, keep_alive), keep_alive).await
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
    pub(crate) async fn say(&mut self, bytes: &[u8]) -> bool {
        let stream = &mut self.client.stream;
        let saying = async {
            stream.write_all(bytes).await?;
            stream.flush().await
        };
        match timeout(self.limits.linger_timeout, saying).await {
            Ok(written) => written.is_ok(),
            Err(_) => {
                self.reached(reached!(linger_timeout));
                false
            }
        }
    }

    async fn mismatch(&mut self, mismatch: Mismatch) {
        match mismatch {
            Mismatch::Bytes(bytes) => self.say_and_close(bytes).await,
            Mismatch::Text(message) => self.say_and_close(&reply::bad_request(BadRequest { status: 400, message })).await,
            Mismatch::Silence => {}
        }
    }

    /// What is left to be done once the client has its answer, where that is more than to close. `unread`: its request has not ended.
    fn goodbye(&mut self, unread: bool, is_secure: bool) -> Option<Pin<Box<dyn Future<Output = ()> + Send + '_>>> {
        match () {
            () if unread || !self.client.buffer.is_empty() => {
                Some(Box::pin(self.linger(Instant::now() + self.limits.linger_timeout * LONGEST_LINGER)))
            }
            () if is_secure => Some(Box::pin(self.end_of_tls())),
            () => None,
        }
    }

    /// Ends our way, and lets the client read to the end what it was answered although it had more to say: as long as it sends, it may not have seen the answer yet, and closing with unread
    /// bytes would reset the connection (RFC 9112, section 9.6).
    async fn linger(&mut self, until: Instant) {
        self.give_back();
        let patience = self.limits.linger_timeout;
        let mut over = timeout_at(until.min(Instant::now() + patience), self.client.stream.shutdown()).await.map(|ended| ended.is_err());
        while let Ok(false) = over {
            self.client.buffer.clear();
            let read = timeout_at(until.min(Instant::now() + patience), self.client.more()).await;
            over = read.map(|read| !matches!(read, Ok(1..)));
        }
        if over.is_err() {
            self.reached(reached!(linger_timeout));
        }
    }

    /// Says a last thing and lets the client read it: else it would never see why.
    async fn say_and_close(&mut self, bytes: &[u8]) {
        // Nobody waits for this client's last word with it.
        self.give_back();
        let until = Instant::now() + self.limits.linger_timeout;
        match timeout_at(until, self.client.stream.write_all(bytes)).await {
            Ok(Ok(())) => self.linger(until).await,
            Ok(Err(_)) => {}
            Err(_) => self.reached(reached!(linger_timeout)),
        }
    }
}

/// How many times as long as between two pieces a client that goes on sending is listened to in all.
const LONGEST_LINGER: u32 = 15;

/// A place among the tunnels to a host, and what this one may send.
pub(crate) type Room = (Place, Upload);

/// The way of a tunnel, before the client hears of it.
struct Stands<'t> {
    connected: Connected<'t>,
    room: Room,
    /// How the connection was secured, where it waited for requests.
    tls: Secured,
}

/// An upstream connection that stands, for a request that may go over it.
struct Standing<'q> {
    upstream: Box<Idle>,
    route: Route<'q>,
}

/// Why there is no tunnel.
enum NoTunnel {
    Denied(Box<Denial>),
    Limited(Reached),
    Upstream(UpstreamError),
    /// The client left.
    Gone,
}

/// What came of a question.
enum Asked {
    /// It is let on.
    Granted,
    Denied(Box<Denial>),
    /// The client left before there was an answer.
    Gone,
}

/// Where it is noted what is known of an exchange; `unheard` where nobody is told of its end.
fn span<'a>(open: &'a mut Option<Open<'_>>, unheard: &'a mut Option<Span>) -> &'a mut Span {
    match open {
        Some(open) => &mut open.span,
        None => unheard.get_or_insert_default(),
    }
}

/// Says how something has ended, where that is not said elsewhere.
fn end(open: &mut Option<Open<'_>>, ending: Ending) {
    if let Some(open) = open {
        open.end(ending);
    }
}

/// The same of an exchange that came to no good end.
fn ended_by(open: &mut Option<Open<'_>>, error: ExchangeError) {
    let Some(open) = open else { return };
    match error {
        ExchangeError::BeforeResponse(error) => open.end(error.into()),
        ExchangeError::Limited(reached) => open.end(reached.into()),
        ExchangeError::Revoked => open.end(Ending::Revoked),
        ExchangeError::Closed => open.end(Ending::Closed),
        ExchangeError::BadBody(_) | ExchangeError::Broken => open.broken(),
    }
}

/// For how long a client is waited for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Until {
    /// As long as patience lasts: what has begun is served.
    Patience,
    /// Until the shutdown at most.
    Shutdown,
    /// A little longer: the first bytes may be on their way.
    AfterShutdown,
}

/// What waiting for the client came to.
pub(crate) enum Wait {
    Some,
    /// The client's end, or ours.
    End,
    TooLong,
}

/// Idempotent, and without a body that is gone.
fn may_repeat(head: &RequestHead) -> bool {
    matches!(head.body, http::Body::None) && matches!(&*head.method, "GET" | "HEAD" | "OPTIONS" | "PUT" | "DELETE" | "TRACE")
}
