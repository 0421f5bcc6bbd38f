//! Snapshot and request to a `Permit` or a `Denial`: the only maker of permits.
//!
//! A decision has two steps. [`Decider::name`] decides on the request as it was made; only what it permits may be resolved. [`Permit::addresses`] decides on
//! what the name resolved to, and gives the [`Route`] that may be dialled. Both ask the same pure function.

pub(crate) mod deny;
pub(crate) mod own;

use crate::audit::event::{Decided, Observer};
use crate::counters::{Counter, Counters};
use crate::parse::target::Target;
use crate::policy::{PolicyHandle, Snapshot};
use crate::signal::Ear;
use deny::Denial;
use policy_format::{Decision, Denied, Host, Limits, OnRevoke, Protocol, Reason, Request, Sni};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::task::{Context, Poll};

/// Decides for all connections.
pub(crate) struct Decider {
    policy: PolicyHandle,
    observer: Arc<dyn Observer>,
    counters: Arc<Counters>,
    /// Our own listeners, which nobody may reach through us.
    own: own::Own,
}

/// A request as the decision sees it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Question<'q> {
    pub(crate) client: SocketAddr,
    pub(crate) protocol: Protocol,
    pub(crate) target: &'q Target,
    /// Only for plain HTTP.
    pub(crate) method: Option<&'q str>,
    /// Only for plain HTTP: the path, without the query.
    pub(crate) path: Option<&'q str>,
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
        }
    }
}

/// The name may be resolved. Nothing may be dialled yet.
pub(crate) struct Permit<'d, 'q> {
    decider: &'d Decider,
    snapshot: Arc<Snapshot>,
    question: Question<'q>,
}

/// These addresses may be dialled, for this request, under this policy.
pub(crate) struct Route<'q> {
    snapshot: Arc<Snapshot>,
    question: Question<'q>,
    addresses: Vec<SocketAddr>,
    read_only: bool,
}

impl Decider {
    pub(crate) fn new(policy: PolicyHandle, observer: Arc<dyn Observer>, counters: Arc<Counters>, own: own::Own) -> Self {
        Self { policy, observer, counters, own }
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
            Decision::Allow(_) => Ok(Permit { decider: self, snapshot, question }),
            Decision::Deny(denied) => Err(self.deny(snapshot, question, denied)),
        }
    }

    /// Decides on a request that would go to an address to which a connection is open already: on the name and the address at once.
    pub(crate) fn reuse<'q>(&self, question: Question<'q>, peer: IpAddr) -> Result<Route<'q>, Box<Denial>> {
        let snapshot = self.policy.current();
        let decision = snapshot.decide(&question.request(&snapshot, &[peer]));
        self.route(snapshot, question, decision, Vec::new())
    }

    fn route<'q>(
        &self,
        snapshot: Arc<Snapshot>,
        question: Question<'q>,
        decision: Decision,
        addresses: Vec<SocketAddr>,
    ) -> Result<Route<'q>, Box<Denial>> {
        match decision {
            Decision::Deny(denied) => Err(self.deny(snapshot, question, denied)),
            Decision::Allow(_) if addresses.iter().any(|address| self.is_own(*address)) => {
                Err(self.deny(snapshot, question, Denied { reason: Reason::PolicyDenied, rule: None }))
            }
            Decision::Allow(allowed) => {
                self.observe(&snapshot, &question, decision);
                Ok(Route { snapshot, question, addresses, read_only: allowed.read_only })
            }
        }
    }

    /// Refuses what is no matter of rules.
    pub(crate) fn refuse(&self, question: Question<'_>, reason: Reason) -> Box<Denial> {
        self.deny(self.policy.current(), question, Denied { reason, rule: None })
    }

    fn deny(&self, snapshot: Arc<Snapshot>, question: Question<'_>, denied: Denied) -> Box<Denial> {
        self.observe(&snapshot, &question, Decision::Deny(denied));
        Box::new(Denial { snapshot, protocol: question.protocol, target: question.target.clone(), denied })
    }

    fn observe(&self, snapshot: &Snapshot, question: &Question<'_>, decision: Decision) {
        self.counters.count(match decision {
            Decision::Allow(_) => Counter::Allowed,
            Decision::Deny(denied) => Counter::denied(denied.reason),
        });
        self.observer.decided(&decided(snapshot, question, decision));
    }

    /// Whether an address is one of our own listeners, in any of the ways in which it can be written. Whoever dials something that no route holds, an upstream
    /// proxy, has to ask.
    pub(crate) fn is_own(&self, address: SocketAddr) -> bool {
        self.own.holds(address)
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

    /// The limits of the policy that gave this permit.
    pub(crate) fn limits(&self) -> Arc<Limits> {
        Arc::clone(self.snapshot.limits())
    }

    /// Decides on every address that the name resolved to: one that is not allowed denies them all, so that a name cannot mix in a bad one.
    pub(crate) fn addresses(self, found: &[IpAddr]) -> Result<Route<'q>, Box<Denial>> {
        let Self { decider, snapshot, question } = self;
        let decision = snapshot.decide(&question.request(&snapshot, found));
        let addresses = found.iter().map(|ip| SocketAddr::new(*ip, question.target.port)).collect();
        decider.route(snapshot, question, decision, addresses)
    }
}

impl Route<'_> {
    /// What may be dialled.
    pub(crate) fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Nothing that cannot be read may follow.
    pub(crate) fn read_only(&self) -> bool {
        self.read_only
    }

    /// The policy that gave this route.
    pub(crate) fn snapshot(&self) -> &Snapshot {
        &self.snapshot
    }

    /// Whether the policy that is in force now, if it is another one, would not give this route to `peer`, the address that was dialled.
    pub(crate) fn is_revoked(&self, decider: &Decider, peer: Option<IpAddr>) -> bool {
        let current = decider.policy.current();
        if current.generation() == self.snapshot.generation() || current.settings().on_revoke == OnRevoke::Keep {
            return false;
        }
        let decision = current.decide(&self.question.request(&current, peer.as_slice()));
        let revoked = !matches!(decision, Decision::Allow(_));
        if revoked {
            decider.observer.revoked(&decided(&current, &self.question, decision));
        }
        revoked
    }

    /// Watches over a tunnel on this route. `look`: whether its first bytes are to be looked at.
    pub(crate) fn guard(self, decider: &Arc<Decider>, ear: Ear, peer: Option<IpAddr>, look: bool) -> Guard {
        let Question { client, protocol, target, .. } = self.question;
        let generation = self.snapshot.generation();
        // A tunnel may last for hours: it does not keep an old policy in memory, and says in few bytes what it is.
        let host = target.host.to_string().into_boxed_str();
        let sni = if look { self.snapshot.settings().sni } else { Sni::Off };
        Guard { decider: Arc::clone(decider), ear, asked: true, generation, client, protocol, host, port: target.port, peer, sni }
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
    host: Box<str>,
    port: u16,
    peer: Option<IpAddr>,
    sni: Sni,
}

/// Whom a client wants to speak to inside a tunnel.
pub(crate) enum Inner<'h> {
    /// This server.
    Server(&'h Host, u16),
    /// It began to say it, and did not come to an end, or not to a good one.
    Unclear,
}

impl Guard {
    pub(crate) fn port(&self) -> u16 {
        self.port
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
        let Ok(host) = Host::parse(&self.host) else { return true };
        let decision = self.decide(&current, &host, self.port);
        // A tunnel cannot be read.
        let revoked = !matches!(decision, Decision::Allow(allowed) if !allowed.read_only);
        if revoked {
            let target = Target { host, port: self.port };
            self.decider.observer.revoked(&decided(&current, &self.question(&target), decision));
        }
        revoked
    }

    /// Whether the client may speak to that server in here: the policy has to allow it as if it had been asked for.
    pub(crate) fn inner(&self, inner: Inner<'_>) -> bool {
        let current = self.decider.policy.current();
        let (host, decision) = match inner {
            Inner::Server(host, port) if port == self.port && host.to_string() == *self.host => return true,
            Inner::Server(host, port) => (host.clone(), self.decide(&current, host, port)),
            Inner::Unclear => match Host::parse(&self.host) {
                Ok(host) => (host, Decision::Deny(Denied { reason: Reason::PolicyDenied, rule: None })),
                Err(_) => return false,
            },
        };
        if matches!(decision, Decision::Allow(allowed) if !allowed.read_only) {
            return true;
        }
        let target = Target { host, port: self.port };
        self.decider.observer.inner(&decided(&current, &self.question(&target), decision), self.sni == Sni::Enforce);
        self.sni != Sni::Enforce
    }

    fn question<'q>(&self, target: &'q Target) -> Question<'q> {
        Question { client: self.client, protocol: self.protocol, target, method: None, path: None }
    }

    fn decide(&self, snapshot: &Snapshot, host: &Host, port: u16) -> Decision {
        snapshot.decide(&Request {
            profile: snapshot.profile(),
            protocol: self.protocol,
            host,
            port,
            method: None,
            path: None,
            addresses: self.peer.as_slice(),
        })
    }
}
