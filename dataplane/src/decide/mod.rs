//! Snapshot and request to a `Permit` or a `Denial`: the only maker of permits.
//!
//! A decision has two steps. [`Decider::name`] decides on the request as it was made; only what it permits may be resolved. [`Permit::addresses`] decides on
//! what the name resolved to, and gives the [`Route`] that may be dialled. Both ask the same pure function.
//!
//! Where a proxy stands in between, [`Permit::proxy`] says which, and [`Permit::via`] gives the route: it leads to that proxy and says what may be asked of it. Unix sockets are
//! decided in `socket.rs`.

pub(crate) mod datagram;
pub(crate) mod deny;
pub(crate) mod own;
pub(crate) mod socket;

use crate::audit::event::{Decided, Observer};
use crate::connect::Leads;
use crate::connect::upstream::{Environment, Proxy, Traffic};
use crate::counters::{Counter, Counters};
use crate::inside::judge::{Actions, Answer, Facts};
use crate::inside::secrets::Secrets;
use crate::limits::Place;
use crate::parse::target::Target;
use crate::policy::{PolicyHandle, Snapshot};
use crate::signal::Ear;
use datagram::Relays;
use deny::Denial;
use policy_format::{Allowed, Decision, Denied, Hook, Host, Inside, Limits, OnRevoke, Protocol, Reason, Request, Sni};
use socket::SocketRoute;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::task::{Context, Poll};
use zeroize::Zeroizing;

/// Decides for all connections.
pub(crate) struct Decider {
    policy: PolicyHandle,
    observer: Arc<dyn Observer>,
    counters: Arc<Counters>,
    /// Our own listeners, which nobody may reach through us.
    own: own::Own,
    /// The proxies that the environment names.
    environment: Environment,
    /// Our own sockets for clients' datagrams.
    relays: Relays,
    /// What is put into requests that may go on.
    secrets: Secrets,
}

/// A request as the decision sees it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Question<'q> {
    pub(crate) client: SocketAddr,
    pub(crate) protocol: Protocol,
    pub(crate) target: &'q Target,
    /// Only for requests that are read.
    pub(crate) method: Option<&'q str>,
    /// Only for requests that are read: the path, without the query.
    pub(crate) path: Option<&'q str>,
    /// Only for requests that were read inside TLS.
    pub(crate) inside: Option<Inside<'q>>,
    /// Whether it is for a unix socket. The target is then what stands for one.
    pub(crate) socket: bool,
}

impl Question<'_> {
    /// As it is put to a policy. Numbers of profiles are the policy's own, so that the question has none: it is asked under the one that each policy has for it.
    fn request<'a>(&'a self, snapshot: &Snapshot, addresses: &'a [IpAddr]) -> Request<'a> {
        Request {
            profile: snapshot.profile(),
            protocol: self.protocol,
            host: &self.target.host,
            port: self.target.port,
            method: self.method,
            path: self.path,
            addresses,
            inside: self.inside,
            can_intercept: snapshot.can_intercept(),
        }
    }
}

/// The name may be resolved. Nothing may be dialled yet.
pub(crate) struct Permit<'d, 'q> {
    decider: &'d Decider,
    snapshot: Arc<Snapshot>,
    question: Question<'q>,
    intercept: bool,
}

/// These addresses may be dialled, for this request, under this policy.
pub(crate) struct Route<'q> {
    snapshot: Arc<Snapshot>,
    question: Question<'q>,
    addresses: Vec<SocketAddr>,
    read_only: bool,
    intercept: bool,
    hook: Option<usize>,
    through: Option<Through>,
}

/// The proxy that a route leads to, and what may be asked of it.
struct Through {
    proxy: Arc<Proxy>,
    /// The checked addresses of the target; none where the proxy looks the name up.
    asked: Vec<IpAddr>,
}

impl Decider {
    pub(crate) fn new(
        policy: PolicyHandle,
        observer: Arc<dyn Observer>,
        counters: Arc<Counters>,
        own: own::Own,
        environment: Environment,
        secrets: Secrets,
    ) -> Self {
        Self { policy, observer, counters, own, environment, relays: Relays::default(), secrets }
    }

    /// What is put into requests that may go on, and what stands for it before.
    pub(crate) fn secrets(&self) -> &Secrets {
        &self.secrets
    }

    /// Whether a request to that target, outside of TLS, may carry what stands for a secret, under the policy in force.
    pub(crate) fn wants(&self, target: &Target) -> bool {
        self.secrets.wants(&self.policy.current(), &target.host, target.port, false)
    }

    /// What is changed in a request that was given this route.
    ///
    /// # Errors
    /// There is a secret that it needs, and that cannot be had: what the client is answered.
    pub(crate) fn actions(&self, route: &Route<'_>, facts: &Facts<'_>) -> Result<Actions, Answer> {
        self.secrets.actions(&route.snapshot, route.hook(), facts, route.question.protocol == Protocol::Https)
    }

    /// Whether a tunnel may only go on if its TLS is opened: the policy says so, or there is a secret for requests in it.
    fn intercepts(&self, snapshot: &Snapshot, question: &Question<'_>, allowed: Allowed) -> bool {
        let Target { host, port } = question.target;
        let secret = || {
            matches!(question.protocol, Protocol::Connect | Protocol::Socks5Tcp)
                && snapshot.can_intercept()
                && self.secrets.wants(snapshot, host, *port, true)
                && !snapshot.is_bypassed(host, *port)
        };
        allowed.intercept || secret()
    }

    pub(crate) fn policy(&self) -> &PolicyHandle {
        &self.policy
    }

    /// The limits of the policy that is in force.
    pub(crate) fn limits(&self) -> Arc<Limits> {
        Arc::clone(self.policy.current().limits())
    }

    /// Decides on a request as it was made, under the policy that is in force now.
    pub(crate) fn name<'d, 'q>(&'d self, question: Question<'q>) -> Result<Permit<'d, 'q>, Box<Denial>> {
        let snapshot = self.policy.current();
        match snapshot.decide(&question.request(&snapshot, &[])) {
            Decision::Allow(allowed) => {
                let intercept = self.intercepts(&snapshot, &question, allowed);
                Ok(Permit { decider: self, snapshot, question, intercept })
            }
            Decision::Deny(denied) => Err(self.deny(snapshot, question, denied)),
        }
    }

    /// Decides on a request that would use a connection to `peer` that is open already and leads where `leads` says: on name and addresses at once. `None` when the policy in force has
    /// another way for it.
    pub(crate) fn reuse<'q>(
        &self,
        question: Question<'q>,
        traffic: Traffic,
        leads: &Leads,
        peer: IpAddr,
    ) -> Result<Option<Route<'q>>, Box<Denial>> {
        let snapshot = self.policy.current();
        let proxy = snapshot.upstreams().choose(&self.environment, question.target, traffic);
        let (through, asked) = leads.through();
        if proxy.as_ref() != through {
            return Ok(None);
        }
        let (peer, through) = ([peer], proxy.map(|proxy| Through { proxy, asked: asked.to_vec() }));
        let decision = snapshot.decide(&question.request(&snapshot, if through.is_some() { asked } else { &peer }));
        self.route(snapshot, question, decision, Vec::new(), through).map(Some)
    }

    fn route<'q>(
        &self,
        snapshot: Arc<Snapshot>,
        question: Question<'q>,
        decision: Decision,
        addresses: Vec<SocketAddr>,
        through: Option<Through>,
    ) -> Result<Route<'q>, Box<Denial>> {
        match decision {
            Decision::Deny(denied) => Err(self.deny(snapshot, question, denied)),
            Decision::Allow(_) if addresses.iter().any(|address| self.is_own(question.protocol, *address)) => {
                Err(self.comes_back(snapshot, question))
            }
            Decision::Allow(allowed) => {
                self.observe(&snapshot, &question, decision);
                let intercept = self.intercepts(&snapshot, &question, allowed);
                let Allowed { read_only, hook, .. } = allowed;
                Ok(Route { snapshot, question, addresses, read_only, intercept, hook, through })
            }
        }
    }

    fn comes_back(&self, snapshot: Arc<Snapshot>, question: Question<'_>) -> Box<Denial> {
        self.deny(snapshot, question, Denied { reason: Reason::PolicyDenied, rule: None })
    }

    /// What was sent in a tunnel that has to be read cannot be, or is for another server: it is closed.
    pub(crate) fn unreadable(&self, client: SocketAddr, protocol: Protocol, target: &Target) {
        let question = Question { client, protocol, target, method: None, path: None, inside: None, socket: false };
        self.observe(&self.policy.current(), &question, Decision::Deny(Denied { reason: Reason::MitmRequired, rule: None }));
    }

    /// How many bytes of a request's body have to be there before it is decided on; `None` where none is looked at.
    pub(crate) fn body_wanted(&self, question: &Question<'_>) -> Option<usize> {
        let snapshot = self.policy.current();
        let request = question.request(&snapshot, &[]);
        // What is refused whatever its body is need not be sent.
        let depends = match snapshot.decide(&request) {
            Decision::Allow(_) => true,
            Decision::Deny(denied) => denied.reason == Reason::MitmHookDenied,
        };
        if depends { snapshot.body_wanted(&request) } else { None }
    }

    /// Whether the policy in force would let a request go on that leads where `leads` says, or to `peer`. Nobody is told.
    pub(crate) fn still_allows(&self, question: &Question<'_>, leads: &Leads, peer: IpAddr) -> bool {
        let snapshot = self.policy.current();
        if snapshot.settings().on_revoke == OnRevoke::Keep {
            return true;
        }
        let (through, asked) = leads.through();
        let peer = [peer];
        matches!(snapshot.decide(&question.request(&snapshot, if through.is_some() { asked } else { &peer })), Decision::Allow(_))
    }

    fn deny(&self, snapshot: Arc<Snapshot>, question: Question<'_>, denied: Denied) -> Box<Denial> {
        self.observe(&snapshot, &question, Decision::Deny(denied));
        Box::new(Denial { snapshot, protocol: question.protocol, target: question.target.clone(), socket: question.socket, denied })
    }

    fn observe(&self, snapshot: &Snapshot, question: &Question<'_>, decision: Decision) {
        self.counters.count(match decision {
            Decision::Allow(_) => Counter::Allowed,
            Decision::Deny(denied) => Counter::denied(denied.reason),
        });
        self.observer.decided(&decided(snapshot, question, decision));
    }

    /// Whether an address is one of our own listeners or, for datagrams, one of our own relays, in any of the ways in which it can be written.
    fn is_own(&self, protocol: Protocol, address: SocketAddr) -> bool {
        self.own.holds(address) || (protocol == Protocol::Socks5Udp && self.relays.has(address))
    }
}

fn decided<'a>(snapshot: &'a Snapshot, question: &Question<'a>, decision: Decision) -> Decided<'a> {
    Decided {
        snapshot,
        client: question.client,
        protocol: question.protocol,
        host: &question.target.host,
        port: question.target.port,
        method: question.method,
        decision,
    }
}

impl<'q> Permit<'_, 'q> {
    pub(crate) fn target(&self) -> &'q Target {
        self.question.target
    }

    /// The tunnel may only go on if its TLS is opened.
    pub(crate) fn intercept(&self) -> bool {
        self.intercept
    }

    /// The limits of the policy that gave this permit.
    pub(crate) fn limits(&self) -> Arc<Limits> {
        Arc::clone(self.snapshot.limits())
    }

    /// Decides on every address that the name resolved to: one that is not allowed denies them all, so that a name cannot mix in a bad one.
    pub(crate) fn addresses(self, found: &[IpAddr]) -> Result<Route<'q>, Box<Denial>> {
        let Self { decider, snapshot, question, .. } = self;
        let decision = snapshot.decide(&question.request(&snapshot, found));
        let addresses = found.iter().map(|ip| SocketAddr::new(*ip, question.target.port)).collect();
        decider.route(snapshot, question, decision, addresses, None)
    }

    /// The proxy that the policy, or the environment, has for this request; `None` is a direct connection.
    pub(crate) fn proxy(&self, traffic: Traffic) -> Option<Arc<Proxy>> {
        self.snapshot.upstreams().choose(&self.decider.environment, self.question.target, traffic)
    }

    /// Lets a proxy be dialled at its addresses `at`, and be asked for the target: by name where `found` is empty, since then the proxy looks it up; else for one of the addresses that
    /// were found here, on each of which is decided as in [`Self::addresses`]. The proxy's own address is the configuration's matter and not that of rules; but it is never one of our
    /// own listeners.
    pub(crate) fn via(self, proxy: &Arc<Proxy>, at: &[IpAddr], found: Vec<IpAddr>) -> Result<Route<'q>, Box<Denial>> {
        let Self { decider, snapshot, question, .. } = self;
        let decision = snapshot.decide(&question.request(&snapshot, &found));
        let literal = match question.target.host {
            Host::Ip(ip) => Some(ip),
            Host::Name(_) | Host::NumericLookalike(_) => None,
        };
        let mut reached = found.iter().chain(&literal).map(|ip| SocketAddr::new(*ip, question.target.port));
        if matches!(decision, Decision::Allow(_)) && reached.any(|address| decider.is_own(question.protocol, address)) {
            return Err(decider.comes_back(snapshot, question));
        }
        let addresses = at.iter().map(|ip| SocketAddr::new(*ip, proxy.at().port)).collect();
        decider.route(snapshot, question, decision, addresses, Some(Through { proxy: Arc::clone(proxy), asked: found }))
    }
}

impl Route<'_> {
    /// What may be dialled: the target, or the proxy on the way to it.
    pub(crate) fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Where to.
    pub(crate) fn target(&self) -> &Target {
        self.question.target
    }

    /// The proxy that is dialled instead of the target.
    pub(crate) fn proxy(&self) -> Option<&Arc<Proxy>> {
        self.through.as_ref().map(|through| &through.proxy)
    }

    /// The addresses that may be asked of the proxy; none where it is asked for the name.
    pub(crate) fn asked(&self) -> &[IpAddr] {
        self.through.as_ref().map_or(&[], |through| &through.asked)
    }

    /// Nothing that cannot be read may follow.
    pub(crate) fn read_only(&self) -> bool {
        self.read_only
    }

    /// The tunnel may only go on if its TLS is opened.
    pub(crate) fn intercept(&self) -> bool {
        self.intercept
    }

    /// The hook that the request matched.
    pub(crate) fn hook(&self) -> Option<&Hook> {
        self.hook.and_then(|place| self.snapshot.hook(place))
    }

    /// The policy that gave this route.
    pub(crate) fn snapshot(&self) -> &Arc<Snapshot> {
        &self.snapshot
    }

    /// The addresses that are decided on again, where `peer` is who was dialled: of a route through a proxy, those that were asked for.
    fn decided_on(&self, peer: Option<IpAddr>) -> Vec<IpAddr> {
        if self.through.is_some() { self.asked().to_vec() } else { peer.into_iter().collect() }
    }

    /// Whether the policy that is in force now, if it is another one, would not give this route to `peer`, the address that was dialled.
    pub(crate) fn is_revoked(&self, decider: &Decider, peer: Option<IpAddr>) -> bool {
        let current = decider.policy.current();
        if current.generation() == self.snapshot.generation() || current.settings().on_revoke == OnRevoke::Keep {
            return false;
        }
        let decision = current.decide(&self.question.request(&current, &self.decided_on(peer)));
        let revoked = !matches!(decision, Decision::Allow(_));
        if revoked {
            decider.observer.revoked(&decided(&current, &self.question, decision));
        }
        revoked
    }

    /// Watches over a tunnel on this route. `look`: whether its first bytes are to be looked at.
    pub(crate) fn guard(self, decider: &Arc<Decider>, ear: Ear, peer: Option<IpAddr>, look: bool, place: Place) -> Guard {
        let Question { client, protocol, target, method, path, inside, .. } = self.question;
        let kept = inside.map(|inside| Box::new(Kept::new(method, path, inside)));
        // A tunnel may last for hours: it does not keep an old policy in memory, and says in few bytes what it is.
        let addresses = self.decided_on(peer).into_boxed_slice();
        let sni = if look { self.snapshot.settings().sni } else { Sni::Off };
        Guard {
            decider: Arc::clone(decider),
            ear,
            asked: true,
            generation: self.snapshot.generation(),
            client,
            protocol,
            place,
            port: target.port,
            addresses,
            kept,
            socket: None,
            sni,
        }
    }
}

/// Watches over a tunnel: whether the policy in force still allows it, and what is spoken in it.
pub(crate) struct Guard {
    decider: Arc<Decider>,
    ear: Ear,
    /// There may be a policy that it was not decided under.
    asked: bool,
    generation: u64,
    client: SocketAddr,
    protocol: Protocol,
    /// Under the name of its host.
    place: Place,
    port: u16,
    addresses: Box<[IpAddr]>,
    /// The request inside TLS that switched protocols.
    kept: Option<Box<Kept>>,
    /// It goes to a unix socket; the name is what stands for one.
    socket: Option<Box<SocketRoute>>,
    sni: Sni,
}

/// What was decided on of a request that is no more.
struct Kept {
    method: Option<String>,
    path: Option<String>,
    query: Option<String>,
    headers: Vec<(String, Zeroizing<Vec<u8>>)>,
}

impl Kept {
    fn new(method: Option<&str>, path: Option<&str>, inside: Inside<'_>) -> Self {
        let headers = inside.headers.iter().map(|(name, value)| ((*name).to_owned(), Zeroizing::new(value.to_vec())));
        Self {
            method: method.map(str::to_owned),
            path: path.map(str::to_owned),
            query: inside.query.map(str::to_owned),
            headers: headers.collect(),
        }
    }
}

/// Whether a decision lets a tunnel go on as it is, unread.
fn lets_pass(decision: Decision) -> bool {
    matches!(decision, Decision::Allow(allowed) if !allowed.read_only && !allowed.intercept)
}

/// Whom a client wants to speak to inside a tunnel.
pub(crate) enum Inner<'h> {
    /// This server.
    Server(&'h Host, u16),
    /// It began to say it, and did not come to an end, or not to a good one.
    Unclear,
}

impl Guard {
    pub(crate) fn client(&self) -> SocketAddr {
        self.client
    }

    /// The tunnel is over, and something else takes its place.
    pub(crate) fn into_place(self) -> Place {
        self.place
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Where it leads, made anew: for the few that end in a way which says so.
    pub(crate) fn target(&self) -> Option<Target> {
        Some(Target { host: Host::parse(self.place.key()).ok()?, port: self.port })
    }

    pub(crate) fn sni(&self) -> Sni {
        self.sni
    }

    /// Ready when the policy in force does not allow the tunnel.
    pub(crate) fn poll_revoked(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while self.ear.poll_rung(cx).is_ready() {
            self.asked = true;
        }
        if std::mem::take(&mut self.asked) && self.is_revoked() { Poll::Ready(()) } else { Poll::Pending }
    }

    fn is_revoked(&mut self) -> bool {
        let current = self.decider.policy.current();
        if current.generation() == self.generation || current.settings().on_revoke == OnRevoke::Keep {
            return false;
        }
        self.generation = current.generation();
        if !self.is_denied(&current) {
            return false;
        }
        self.decider.counters.count(Counter::TunnelsRevoked);
        true
    }

    fn is_denied(&self, current: &Snapshot) -> bool {
        if let Some(socket) = &self.socket {
            return !socket.is_allowed(current);
        }
        let Ok(host) = Host::parse(self.place.key()) else { return true };
        let decision = self.decide(current, &host, self.port);
        // A tunnel that is not read now will not be.
        let denied = !lets_pass(decision);
        if denied {
            let target = Target { host, port: self.port };
            self.decider.observer.revoked(&decided(current, &self.question(&target), decision));
        }
        denied
    }

    /// Whether the client may speak to that server in here: the policy has to allow it as if it had been asked for.
    pub(crate) fn inner(&self, inner: Inner<'_>) -> bool {
        let current = self.decider.policy.current();
        let (host, decision) = match inner {
            Inner::Server(host, port) if port == self.port && host.to_string() == **self.place.key() => return true,
            Inner::Server(host, port) => (host.clone(), self.decide(&current, host, port)),
            Inner::Unclear => match Host::parse(self.place.key()) {
                Ok(host) => (host, Decision::Deny(Denied { reason: Reason::PolicyDenied, rule: None })),
                Err(_) => return false,
            },
        };
        if lets_pass(decision) {
            return true;
        }
        let decision = match decision {
            Decision::Allow(_) => Decision::Deny(Denied { reason: Reason::MitmRequired, rule: None }),
            denied @ Decision::Deny(_) => denied,
        };
        let target = Target { host, port: self.port };
        let closed = self.sni == Sni::Enforce;
        self.decider.counters.count(if closed { Counter::LookedClosed } else { Counter::LookedPassed });
        self.decider.observer.inner(&decided(&current, &self.question(&target), decision), closed);
        !closed
    }

    fn question<'q>(&self, target: &'q Target) -> Question<'q> {
        Question { client: self.client, protocol: self.protocol, target, method: None, path: None, inside: None, socket: false }
    }

    fn decide(&self, snapshot: &Snapshot, host: &Host, port: u16) -> Decision {
        let kept = self.kept.as_deref();
        let headers: Vec<(&str, &[u8])> =
            kept.map(|kept| kept.headers.iter().map(|(name, value)| (name.as_str(), value.as_slice())).collect()).unwrap_or_default();
        snapshot.decide(&Request {
            profile: snapshot.profile(),
            protocol: self.protocol,
            host,
            port,
            method: kept.and_then(|kept| kept.method.as_deref()),
            path: kept.and_then(|kept| kept.path.as_deref()),
            addresses: &self.addresses,
            inside: kept.map(|kept| Inside { query: kept.query.as_deref(), headers: &headers, body: None }),
            can_intercept: snapshot.can_intercept(),
        })
    }
}
