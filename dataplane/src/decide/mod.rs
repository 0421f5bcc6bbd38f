//! Snapshot and request to a `Permit` or a `Denial`: the only maker of permits.
//!
//! A decision has two steps. [`Decider::name`] decides on the request as it was made; only what it permits may be resolved. [`Permit::addresses`] decides on
//! what the name resolved to, and gives the [`Route`] that may be dialled. Both ask the same pure function.
//!
//! Where a proxy stands in between, [`Permit::proxy`] says which, and [`Permit::via`] gives the route: it leads to that proxy and says what may be asked of it. Unix sockets are
//! decided in `socket.rs`.

pub(crate) mod asked;
pub(crate) mod datagram;
pub(crate) mod deny;
pub(crate) mod guard;
pub(crate) mod ids;
pub(crate) mod open;
pub(crate) mod own;
pub(crate) mod remedy;
pub(crate) mod socket;
#[cfg(test)]
mod tests;

use crate::audit::event::{Answer as Said, Decided, Ending, Observer};
use crate::connect::upstream::{Environment, Proxy, Traffic};
use crate::connect::{ConnectError, Leads, Stop, UpstreamError};
use crate::counters::{Counters, Timed};
use crate::inside::judge::{Actions, Answer, Facts};
use crate::inside::secrets::Secrets;
use crate::limits::Place;
use crate::parse::target::Target;
use crate::policy::{PolicyHandle, Snapshot};
use crate::tunnels::{Listed, Tunnels, Whose};
use asked::{Asked, Asking, PolicyRequest};
use datagram::Relays;
use deny::Denial;
use open::Open;
use policy_format::{Allowed, Decision, Denied, Hook, Host, Inside, Limits, OnRevoke, Protocol, Reason, Request, RuleId};
use std::net::{IpAddr, SocketAddr};
use std::ops::Deref;
use std::slice;
use std::sync::Arc;
use tokio::time::Instant;

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
    /// Who is asked about what no rule allows.
    asked: Option<Asked>,
    /// The tunnels that there are.
    tunnels: Tunnels,
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
    pub(crate) inside: Option<&'q Inside<'q>>,
    /// Whether it is for a unix socket. The target is then what stands for one.
    pub(crate) socket: bool,
    /// Its number, which it keeps whatever is decided on it.
    pub(crate) id: u64,
    /// What was said of it before.
    pub(crate) told: Told,
    /// Who embeds the proxy lets its host on, where no rule does.
    pub(crate) granted: bool,
}

/// What whoever observes was told of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Told {
    /// Nothing.
    Nothing,
    /// That it is allowed. That is not said twice, and a denial that follows is that of another policy.
    Allowed,
    /// That it is not allowed any more.
    Revoked,
}

/// One in so many requests of a thread is timed, of which its first is one: reading the clock twice takes as long as deciding. What a thread numbers first is one more than a multiple of this.
const TIMED: u64 = 16;

impl<'q> Question<'q> {
    /// One with a number of its own, of which nothing is known but who wants to go where.
    pub(crate) fn new(client: SocketAddr, protocol: Protocol, target: &'q Target) -> Self {
        Self::numbered(ids::next(), client, protocol, target)
    }

    /// One that has a number.
    pub(crate) fn numbered(id: u64, client: SocketAddr, protocol: Protocol, target: &'q Target) -> Self {
        Self { client, protocol, target, method: None, path: None, inside: None, socket: false, id, told: Told::Nothing, granted: false }
    }
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
            inside: self.inside.copied(),
            can_intercept: snapshot.can_intercept(),
        }
    }
}

/// The name may be resolved. Nothing may be dialled yet.
pub(crate) struct Permit<'q> {
    decider: &'q Decider,
    snapshot: Arc<Snapshot>,
    question: Question<'q>,
    allowed: Allowed,
    intercept: bool,
}

/// A request may not go on: or, where no rule allows it and somebody may be asked, not yet.
#[must_use]
pub(crate) enum No<'q> {
    Denied(Box<Denial>),
    /// Nothing was said of it: [`Decider::ask`], or [`Decider::refuse`].
    Unsaid(Box<Unsaid<'q>>),
}

/// A request that no rule allows, and that somebody may be asked about.
pub(crate) struct Unsaid<'q> {
    snapshot: Arc<Snapshot>,
    question: Question<'q>,
    denied: Denied,
}

/// These addresses may be dialled, for this request, under this policy.
pub(crate) struct Route<'q> {
    plan: Plan<'q>,
    /// Until it is said how it has ended: of a request whose allowance was told, and where that is done here.
    open: Option<Open<'q>>,
}

/// What a route is, apart from its end: whoever relays over it writes to the one while the other is asked ([`Route::parts`]).
pub(crate) struct Plan<'q> {
    decider: &'q Decider,
    snapshot: Arc<Snapshot>,
    question: Question<'q>,
    /// All that there are, of which no more are dialled than the limit says.
    addresses: Vec<SocketAddr>,
    read_only: bool,
    intercept: bool,
    hook: Option<usize>,
    through: Option<Through>,
    kept_decision: Option<KeptDecision>,
}

/// What was decided of every plain request to a target over one connection: for as long as its policy is in force, nothing has to be decided again.
#[derive(Debug, Clone, Copy)]
pub(crate) struct KeptDecision {
    /// Of the policy. All that is decided on a thread is decided by one proxy, whose generations are never the same twice.
    generation: u64,
    allowed: Allowed,
}

impl KeptDecision {
    fn new(generation: u64, question: &Question<'_>, allowed: Allowed) -> Option<Self> {
        (allowed.unconditional && Self::is_for(question)).then_some(Self { generation, allowed })
    }

    /// What it says of another request to the same target, over the same connection, under the policy of that generation.
    fn allowed(self, generation: u64, question: &Question<'_>) -> Option<Allowed> {
        (self.generation == generation && Self::is_for(question)).then_some(self.allowed)
    }

    /// Whether a question is one of those that are alike but for their methods and paths: plain ones, which nobody but the policy lets on.
    fn is_for(question: &Question<'_>) -> bool {
        question.protocol == Protocol::Http && !question.granted && !question.socket
    }
}

impl<'q> Deref for Route<'q> {
    type Target = Plan<'q>;

    fn deref(&self) -> &Plan<'q> {
        &self.plan
    }
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
        asked: Option<Asked>,
    ) -> Self {
        let tunnels = Tunnels::new(policy.bell().clone());
        Self { policy, observer, counters, own, environment, relays: Relays::default(), secrets, asked, tunnels }
    }

    /// The tunnels that there are.
    pub(crate) fn tunnels(&self) -> &Tunnels {
        &self.tunnels
    }

    pub(crate) fn observer(&self) -> &dyn Observer {
        &*self.observer
    }

    pub(crate) fn counters(&self) -> &Arc<Counters> {
        &self.counters
    }

    /// What is put into requests that may go on, and what stands for it before.
    pub(crate) fn secrets(&self) -> &Secrets {
        &self.secrets
    }

    /// Whether a request to that target, outside of TLS, may carry what stands for a secret, under the policy in force.
    pub(crate) fn wants(&self, target: &Target) -> bool {
        self.secrets.wants(&self.policy.look(), &target.host, target.port, false)
    }

    /// What is changed in a request that was given this route.
    ///
    /// # Errors
    /// There is a secret that it needs, and that cannot be had: what the client is answered.
    pub(crate) fn actions(&self, plan: &Plan<'_>, facts: &Facts<'_>) -> Result<Actions, Answer> {
        self.secrets.actions(&plan.snapshot, plan.hook(), facts, plan.question.protocol == Protocol::Https)
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
        Arc::clone(self.policy.look().limits())
    }

    /// What the policy says of a request.
    fn decide(&self, snapshot: &Snapshot, question: &Question<'_>, addresses: &[IpAddr]) -> Decision {
        self.timed(question, || snapshot.decide_as(&question.request(snapshot, addresses), question.granted))
    }

    /// A decision, which is timed if it is its turn.
    fn timed(&self, question: &Question<'_>, decide: impl FnOnce() -> Decision) -> Decision {
        if question.id % TIMED != 1 {
            return decide();
        }
        let began = Instant::now();
        let decision = decide();
        self.counters.observe(Timed::Decide, began.elapsed());
        decision
    }

    /// Decides on a request as it was made, under the policy that is in force now.
    pub(crate) fn name<'q>(&'q self, question: Question<'q>) -> Result<Permit<'q>, No<'q>> {
        let snapshot = self.policy.current();
        if self.observer.refuses() && question.told == Told::Nothing {
            return Err(No::Denied(self.not_told(snapshot, question)));
        }
        match self.decide(&snapshot, &question, &[]) {
            Decision::Allow(allowed) => {
                let intercept = self.intercepts(&snapshot, &question, allowed);
                Ok(Permit { decider: self, snapshot, question, allowed, intercept })
            }
            Decision::Deny(denied) => Err(self.no(snapshot, question, denied)),
        }
    }

    fn no<'q>(&self, snapshot: Arc<Snapshot>, question: Question<'q>, denied: Denied) -> No<'q> {
        let may_ask = denied.reason == Reason::NotAllowed && self.asked.is_some() && question.told == Told::Nothing;
        if may_ask && !question.socket && asked::may_be_asked(&question.target.host) {
            return No::Unsaid(Box::new(Unsaid { snapshot, question, denied }));
        }
        No::Denied(self.deny(snapshot, question, denied))
    }

    /// Puts a request that no rule allows to whoever embeds the proxy, if it may be put to anybody.
    pub(crate) fn ask(&self, no: &No<'_>) -> Option<Asking> {
        let No::Unsaid(unsaid) = no else { return None };
        let asked = self.asked.as_ref()?;
        let Question { client, protocol, target, method, .. } = unsaid.question;
        let (host, method) = (target.host.to_string(), method.map(str::to_owned));
        let request = PolicyRequest { protocol, host, port: target.port, method, client, command: None, exec_policy_hint: None };
        Some(asked.ask(request, &self.counters))
    }

    /// Refuses what may not be asked about here, or what was not granted.
    pub(crate) fn refuse(&self, no: No<'_>) -> Box<Denial> {
        match no {
            No::Denied(denial) => denial,
            No::Unsaid(unsaid) => {
                let Unsaid { snapshot, question, denied } = *unsaid;
                self.deny(snapshot, question, denied)
            }
        }
    }

    /// Takes in what was answered: the question that may be put again, under the policy that is in force by then, or the denial.
    pub(crate) fn answered<'q>(&self, question: Question<'q>, said: Said) -> Result<Question<'q>, Box<Denial>> {
        if said == Said::Allow {
            return Ok(Question { granted: true, ..question });
        }
        let snapshot = self.policy.current();
        let denied = Denied { reason: Reason::NotAllowed, rule: None };
        self.tell(&Decided { decider: Some(&said), ..decided(&snapshot, &question, Decision::Deny(denied)) });
        Err(Box::new(Denial { said: Some(said), ..Denial::new(snapshot, &question, denied) }))
    }

    /// Decides on a request that would use a connection to `peer` that is open already and leads where `leads` says: on name and addresses at once, or by what was decided of every
    /// request over it. `None` when the policy in force has another way for it.
    pub(crate) fn reuse<'q>(
        &'q self,
        question: Question<'q>,
        traffic: Traffic,
        leads: &Leads,
        peer: IpAddr,
    ) -> Result<Option<Route<'q>>, No<'q>> {
        let snapshot = self.policy.current();
        if self.observer.refuses() && question.told == Told::Nothing {
            return Err(No::Denied(self.not_told(snapshot, question)));
        }
        let proxy = snapshot.upstreams().choose(&self.environment, question.target, traffic);
        let (through, asked) = leads.through();
        if proxy.as_ref() != through {
            return Ok(None);
        }
        let (peer, through) = ([peer], proxy.map(|proxy| Through { proxy, asked: asked.to_vec() }));
        let kept = leads.kept_decision().and_then(|kept| kept.allowed(snapshot.generation(), &question));
        let decision = match kept {
            Some(allowed) => self.timed(&question, || Decision::Allow(allowed)),
            None => self.decide(&snapshot, &question, if through.is_some() { asked } else { &peer }),
        };
        match decision {
            Decision::Deny(denied) => Err(self.no(snapshot, question, denied)),
            // It was dialled before: it is none of our own.
            Decision::Allow(allowed) => Ok(Some(self.allow(snapshot, question, allowed, Vec::new(), through, None))),
        }
    }

    fn route<'q>(
        &'q self,
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
            Decision::Allow(allowed) => Ok(self.allow(snapshot, question, allowed, addresses, through, Some(Instant::now()))),
        }
    }

    /// `since`: when that is, where somebody knows.
    #[inline]
    fn allow<'q>(
        &'q self,
        snapshot: Arc<Snapshot>,
        question: Question<'q>,
        allowed: Allowed,
        addresses: Vec<SocketAddr>,
        through: Option<Through>,
        since: Option<Instant>,
    ) -> Route<'q> {
        self.observe(&snapshot, &question, Decision::Allow(allowed));
        let open = Open::new(self, &question, snapshot.generation(), since);
        let intercept = self.intercepts(&snapshot, &question, allowed);
        let kept_decision = KeptDecision::new(snapshot.generation(), &question, allowed);
        let Allowed { read_only, hook, .. } = allowed;
        Route { plan: Plan { decider: self, snapshot, question, addresses, read_only, intercept, hook, through, kept_decision }, open }
    }

    fn comes_back(&self, snapshot: Arc<Snapshot>, question: Question<'_>) -> Box<Denial> {
        self.deny(snapshot, question, Denied { reason: Reason::PolicyDenied, rule: None })
    }

    /// What was sent in a tunnel that has to be read cannot be, or is for another server: it is closed.
    pub(crate) fn unreadable(&self, client: SocketAddr, protocol: Protocol, target: &Target) {
        let question = Question::new(client, protocol, target);
        self.observe(&self.policy.current(), &question, Decision::Deny(Denied { reason: Reason::MitmRequired, rule: None }));
    }

    /// How many bytes of a request's body have to be there before it is decided on; `None` where none is looked at.
    pub(crate) fn body_wanted(&self, question: &Question<'_>) -> Option<usize> {
        let snapshot = self.policy.current();
        let request = question.request(&snapshot, &[]);
        // What is refused whatever its body is need not be sent.
        let depends = match snapshot.decide_as(&request, question.granted) {
            Decision::Allow(_) => true,
            Decision::Deny(denied) => denied.reason == Reason::MitmHookDenied,
        };
        if depends { snapshot.body_wanted(&request) } else { None }
    }

    /// Whether the policy in force would let a request go on that leads where `leads` says, or to `peer`. That it would not is told.
    pub(crate) fn still_allows(&self, question: &Question<'_>, leads: &Leads, peer: IpAddr) -> bool {
        let snapshot = self.policy.current();
        if snapshot.settings().on_revoke == OnRevoke::Keep {
            return true;
        }
        let (through, asked) = leads.through();
        let peer = [peer];
        let decision = self.decide(&snapshot, question, if through.is_some() { asked } else { &peer });
        if matches!(decision, Decision::Allow(_)) {
            return true;
        }
        self.observer.revoked(&decided(&snapshot, question, decision));
        false
    }

    fn deny(&self, snapshot: Arc<Snapshot>, question: Question<'_>, denied: Denied) -> Box<Denial> {
        self.observe(&snapshot, &question, Decision::Deny(denied));
        Box::new(Denial::new(snapshot, &question, denied))
    }

    /// What was allowed is not any more.
    fn revoke(&self, snapshot: Arc<Snapshot>, question: &Question<'_>, denied: Denied, told: bool) -> Box<Denial> {
        if !told {
            self.observer.revoked(&decided(&snapshot, question, Decision::Deny(denied)));
        }
        Box::new(Denial::new(snapshot, question, denied))
    }

    /// What is decided could not be told, and is not to go on then.
    fn not_told(&self, snapshot: Arc<Snapshot>, question: Question<'_>) -> Box<Denial> {
        let denial = self.deny(snapshot, question, Denied { reason: Reason::PolicyDenied, rule: None });
        Box::new(Denial { full: true, ..*denial })
    }

    fn observe(&self, snapshot: &Snapshot, question: &Question<'_>, decision: Decision) {
        match (question.told, decision) {
            (Told::Nothing, _) => {}
            (Told::Allowed, Decision::Deny(_)) => return self.observer.revoked(&decided(snapshot, question, decision)),
            (Told::Allowed | Told::Revoked, _) => return,
        }
        self.tell(&decided(snapshot, question, decision));
    }

    fn tell(&self, event: &Decided<'_>) {
        self.counters.decided(event);
        self.observer.decided(event);
    }

    /// Whether it is the admin API's unix socket that has this real path.
    fn is_own_socket(&self, real: &std::path::Path) -> bool {
        self.own.holds_socket(real)
    }

    /// Whether an address is one of our own listeners.
    pub(crate) fn is_own_listener(&self, address: SocketAddr) -> bool {
        self.own.holds(address)
    }

    /// Whether an address is one of our own listeners or, for datagrams, one of our own relays, in any of the ways in which it can be written.
    fn is_own(&self, protocol: Protocol, address: SocketAddr) -> bool {
        self.own.holds(address) || (protocol == Protocol::Socks5Udp && self.relays.has(address))
    }

    /// Whether a proxy that is dialled at one of these addresses could be led to one of our own listeners or, for datagrams, relays by a name that it looks up.
    fn is_beside_own(&self, protocol: Protocol, at: &[IpAddr], port: u16) -> bool {
        self.own.is_beside(at, port) || (protocol == Protocol::Socks5Udp && self.relays.has_port(port) && self.own.is_on_this_machine(at))
    }
}

fn decided<'a>(snapshot: &'a Snapshot, question: &Question<'a>, decision: Decision) -> Decided<'a> {
    let (decision, decider) = match decision {
        // No rule has that number: it is somebody else who allows it, and the policy does not.
        Decision::Allow(Allowed { rule: RuleId(u32::MAX), .. }) if question.granted => {
            (Decision::Deny(Denied { reason: Reason::NotAllowed, rule: None }), Some(&Said::Allow))
        }
        decision => (decision, None),
    };
    Decided {
        snapshot,
        client: question.client,
        protocol: question.protocol,
        host: &question.target.host,
        port: question.target.port,
        method: question.method,
        decision,
        id: question.id,
        decider,
    }
}

impl<'q> Permit<'q> {
    /// There is no way to dial: it is allowed all the same, and has ended.
    pub(crate) fn failed(self, error: UpstreamError) -> UpstreamError {
        self.end(error.into());
        error
    }

    /// It is allowed, and has ended before anything was dialled.
    pub(crate) fn end(self, ending: Ending) {
        // A datagram that goes nowhere is told of as dropped.
        if self.question.protocol == Protocol::Socks5Udp {
            return;
        }
        self.decider.observe(&self.snapshot, &self.question, Decision::Allow(self.allowed));
        if let Some(mut open) = Open::new(self.decider, &self.question, self.snapshot.generation(), Some(Instant::now())) {
            open.end(ending);
        }
    }

    /// That it is allowed was told before, and its end will be told elsewhere.
    pub(crate) fn told(mut self) -> Self {
        self.question.told = Told::Allowed;
        self
    }

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

    /// Decides on every address that the name resolved to, however many are dialled: one that is not allowed denies them all, so that a name cannot mix in a bad one.
    pub(crate) fn addresses(self, found: &[IpAddr]) -> Result<Route<'q>, Box<Denial>> {
        let Self { decider, snapshot, question, .. } = self;
        let decision = decider.decide(&snapshot, &question, found);
        let addresses = found.iter().map(|ip| SocketAddr::new(*ip, question.target.port)).collect();
        decider.route(snapshot, question, decision, addresses, None)
    }

    /// The proxy that the policy, or the environment, has for this request; `None` is a direct connection.
    pub(crate) fn proxy(&self, traffic: Traffic) -> Option<Arc<Proxy>> {
        self.snapshot.upstreams().choose(&self.decider.environment, self.question.target, traffic)
    }

    /// Lets a proxy be dialled at its addresses `at`, and be asked for the target: by name where `found` is empty, since then the proxy looks it up; else for one of the addresses that
    /// were found here, on each of which is decided as in [`Self::addresses`]. The proxy's own address is the configuration's matter and not that of rules; but it is never one of our
    /// own listeners. Nor does it look up a name for the port of one, if it is on this machine: it could find this machine, unseen.
    pub(crate) fn via(self, proxy: &Arc<Proxy>, at: &[IpAddr], found: Vec<IpAddr>) -> Result<Route<'q>, Box<Denial>> {
        let Self { decider, snapshot, question, .. } = self;
        let decision = decider.decide(&snapshot, &question, &found);
        let literal = match question.target.host {
            Host::Ip(ip) => Some(ip),
            Host::Name(_) | Host::NumericLookalike(_) => None,
        };
        let mut reached = found.iter().chain(&literal).map(|ip| SocketAddr::new(*ip, question.target.port));
        let is_own = reached.any(|address| decider.is_own(question.protocol, address));
        let is_unseen = found.is_empty() && literal.is_none();
        let comes_back = is_own || (is_unseen && decider.is_beside_own(question.protocol, at, question.target.port));
        if comes_back && matches!(decision, Decision::Allow(_)) {
            return Err(decider.comes_back(snapshot, question));
        }
        let addresses = at.iter().map(|ip| SocketAddr::new(*ip, proxy.at().port)).collect();
        decider.route(snapshot, question, decision, addresses, Some(Through { proxy: Arc::clone(proxy), asked: found }))
    }
}

/// The addresses that something was decided on. It is mostly one, which is kept in place: thousands of tunnels remember theirs.
enum DecidedOn {
    One(IpAddr),
    List(Box<[IpAddr]>),
}

impl DecidedOn {
    fn as_slice(&self) -> &[IpAddr] {
        match self {
            Self::One(address) => slice::from_ref(address),
            Self::List(addresses) => addresses,
        }
    }
}

impl<'q> Route<'q> {
    /// Who says how it has ended, once it has: to be taken by whoever sees that.
    pub(crate) fn take_open(&mut self) -> Option<Open<'q>> {
        self.open.take()
    }

    /// Who says how it has ended, left where it is, and what else there is of the route.
    pub(crate) fn parts(&mut self) -> (&Plan<'q>, &mut Option<Open<'q>>) {
        (&self.plan, &mut self.open)
    }

    /// It was not, or could not be, dialled.
    pub(crate) fn failed(mut self, error: UpstreamError) -> UpstreamError {
        if let Some(open) = &mut self.open {
            open.end(error.into());
        }
        error
    }

    /// It was stopped, and nothing came of it.
    pub(crate) fn stopped(mut self, stop: Stop) -> ConnectError {
        open::stopped(&mut self.open, stop)
    }

    /// It became a tunnel. `counted`: among those that are open.
    pub(crate) fn live(&mut self, decider: &Arc<Decider>, place: Place, counted: bool) -> Listed {
        if let Some(open) = self.open.take() {
            return open.into_live(decider, Some(place), counted);
        }
        let (generation, since) = (self.snapshot.generation(), Instant::now());
        let Question { id, client, protocol, target, .. } = self.question;
        Listed::new(decider, Whose { id, client, protocol, place: Some(place), port: target.port, generation, since, counted })
    }

    /// What was taken out of a route to the same target, which was tried before.
    pub(crate) fn put_open(&mut self, open: Option<Open<'q>>) {
        debug_assert!(self.open.is_none() || open.is_none(), "a request ends once");
        self.open = open;
    }
}

impl Plan<'_> {
    /// What may be dialled: the target, or the proxy on the way to it.
    pub(crate) fn addresses(&self) -> &[SocketAddr] {
        self.tried(&self.addresses)
    }

    /// The first of the addresses of a name: on the others was decided, too.
    fn tried<'a, T>(&self, addresses: &'a [T]) -> &'a [T] {
        addresses.get(..self.snapshot.limits().addresses).unwrap_or(addresses)
    }

    /// Where to.
    pub(crate) fn target(&self) -> &Target {
        self.question.target
    }

    /// The proxy that is dialled instead of the target.
    pub(crate) fn proxy(&self) -> Option<&Arc<Proxy>> {
        self.through.as_ref().map(|through| &through.proxy)
    }

    /// The addresses that were decided on for the proxy to be asked for; none where it is asked for the name.
    pub(crate) fn asked(&self) -> &[IpAddr] {
        self.through.as_ref().map_or(&[], |through| &through.asked)
    }

    /// Those of them that it is asked for.
    pub(crate) fn asking(&self) -> &[IpAddr] {
        self.tried(self.asked())
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

    /// What is decided of other requests over the same connection too.
    pub(crate) fn kept_decision(&self) -> Option<KeptDecision> {
        self.kept_decision
    }

    /// The policy that gave this route.
    pub(crate) fn snapshot(&self) -> &Arc<Snapshot> {
        &self.snapshot
    }

    /// The addresses that are decided on again, where `peer` is who was dialled, if one was by now: of a route through a proxy, those that were asked for.
    fn decided_on(&self, peer: Option<IpAddr>) -> DecidedOn {
        match peer {
            _ if self.through.is_some() => DecidedOn::List(self.asked().into()),
            Some(peer) => DecidedOn::One(peer),
            None => DecidedOn::List(self.addresses.iter().map(SocketAddr::ip).collect()),
        }
    }

    /// What its client is answered, if the policy that is in force now is another one and would not give this route to `peer`, the address that was dialled. Whoever observes is told, unless it
    /// was `told` before.
    pub(crate) fn revoked(&self, peer: Option<IpAddr>, told: bool) -> Option<Box<Denial>> {
        let (decider, current) = (self.decider, self.decider.policy.current());
        if current.generation() == self.snapshot.generation() || current.settings().on_revoke == OnRevoke::Keep {
            return None;
        }
        match decider.decide(&current, &self.question, self.decided_on(peer).as_slice()) {
            Decision::Allow(_) => None,
            Decision::Deny(denied) => Some(decider.revoke(current, &self.question, denied, told)),
        }
    }

    /// The request that was decided on.
    pub(crate) fn question(&self) -> &Question<'_> {
        &self.question
    }
}
